//! The endpoint of a network: its TAP, enslaved to its bridge, kept so whatever happens to either.
//!
//! One task per network watches the kernel's events, compares what is there with what is wanted
//! (`plan`) and does the difference (`keeper`). The data plane gets each new TAP once it is usable.

mod host;
mod keeper;
mod plan;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;

use switch_core::ids::Mac;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::config::HostStation;
use crate::netlink::{Netlink, NetlinkError};
use crate::tap::{Offloads, Tap, TapError};

/// What the endpoint of one network is to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndpointConfig {
    /// Name of the TAP, at most [`crate::tap::NAME_MAX`] bytes.
    pub name: String,
    /// Name of the bridge.
    pub bridge: String,
    /// Create the bridge if there is none; else wait for it.
    pub create_bridge: bool,
    /// The MAC that guests see for the endpoint: never the TAP's own, which the bridge keeps for the host.
    pub endpoint_mac: Mac,
    /// The guests' MTU, bytes of layer 3.
    pub mtu: u32,
    /// Ask for super-frames and partial checksums.
    pub offloads: bool,
    /// What the bridge, which has to be one of switchd's, has of the host itself.
    pub host: Option<HostStation>,
}

/// What the data plane is told.
#[derive(Debug)]
pub enum EndpointEvent {
    /// A new TAP, enslaved and up. It replaces any former one.
    Up(Tap),
    /// The TAP is gone, or about to be: drop it.
    Down(DownReason),
}

/// Why a TAP went down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DownReason {
    /// Someone deleted it; another follows.
    Deleted,
    /// [`Endpoint::shutdown`].
    Shutdown,
}

impl fmt::Display for DownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            DownReason::Deleted => "the TAP was deleted",
            DownReason::Shutdown => "shutdown",
        })
    }
}

/// How the endpoint is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndpointState {
    /// In one word.
    pub status: EndpointStatus,
    /// In one sentence, with the mend where one is needed; empty when up.
    pub detail: String,
    /// The offloads that the TAP was opened with.
    pub offloads: Offloads,
    /// The bridge is there because we created it.
    pub bridge_created: bool,
    /// Interface index of the TAP while there is one.
    pub ifindex: Option<u32>,
}

/// The states of an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndpointStatus {
    /// Not yet looked.
    Starting,
    /// Enslaved, and frames pass.
    Up,
    /// There is no bridge.
    WaitingForBridge,
    /// The bridge, which is not ours, is administratively down.
    BridgeDown,
    /// A step fails; it is tried again.
    Failing,
    /// Shut down.
    Stopped,
}

impl EndpointStatus {
    /// The word for tables and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            EndpointStatus::Starting => "starting",
            EndpointStatus::Up => "up",
            EndpointStatus::WaitingForBridge => "waiting-for-bridge",
            EndpointStatus::BridgeDown => "bridge-down",
            EndpointStatus::Failing => "failing",
            EndpointStatus::Stopped => "stopped",
        }
    }
}

impl fmt::Display for EndpointStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The running keeper. Dropping it shuts it down in the background; [`Endpoint::shutdown`] also waits.
pub struct Endpoint {
    state: watch::Receiver<EndpointState>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Endpoint {
    /// Starts the keeper on the current tokio runtime, whose thread must be in the network namespace of the bridge.
    /// It ends when `events` is closed.
    pub fn start(config: EndpointConfig, netlink: Netlink, events: mpsc::Sender<EndpointEvent>) -> Endpoint {
        Endpoint::start_after(std::future::ready(()), config, netlink, events)
    }

    /// The same, once `after` is done.
    pub fn start_after(
        after: impl Future<Output = ()> + Send + 'static,
        config: EndpointConfig,
        netlink: Netlink,
        events: mpsc::Sender<EndpointEvent>,
    ) -> Endpoint {
        let (state_sender, state) = watch::channel(EndpointState {
            status: EndpointStatus::Starting,
            detail: String::new(),
            offloads: Offloads::NONE,
            bridge_created: false,
            ifindex: None,
        });
        let (stop, stopped) = oneshot::channel();
        let keeper = keeper::Keeper::new(config, netlink, events, state_sender);
        let task = tokio::spawn(async move {
            after.await;
            keeper.run(stopped).await;
        });
        Endpoint { state, stop, task }
    }

    /// The latest state, and a way to wait for the next.
    pub fn state(&self) -> watch::Receiver<EndpointState> {
        self.state.clone()
    }

    /// Removes the TAP, and the bridge if we created it and nothing else uses it: no port, no address but the
    /// link-local ones. A found bridge is left as it was found.
    pub async fn shutdown(self) {
        self.stop().await;
    }

    /// [`Self::shutdown`] that has begun when this returns; the future is done with it.
    pub fn stop(self) -> impl Future<Output = ()> + Send + 'static {
        // A keeper that ended already has dropped its end.
        let _ = self.stop.send(());
        let task = self.task;
        async move {
            if let Err(e) = task.await {
                tracing::error!("the keeper of an endpoint ended badly: {e}");
            }
        }
    }
}

/// Which part of keeping the endpoint failed.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// Opening the TAP.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// A step on the bridge or on the TAP as a link.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A bridge that someone else made is in the place of the one that is to be the host's.
    #[error(
        "{name} is not of switchd's making, and this node's own addresses are only put on a bridge that is: rename or \
         delete it"
    )]
    ForeignBridge {
        /// The bridge.
        name: String,
    },
    /// The host would no longer reach its own network.
    #[error(
        "{ip}/{prefix} of {bridge} and {other} of {device} overlap: give the network another subnet at the controller"
    )]
    Overlap {
        /// The address that was to be added.
        ip: IpAddr,
        /// Its prefix length.
        prefix: u8,
        /// The bridge.
        bridge: String,
        /// The device that has the other one.
        device: String,
        /// The other one.
        other: IpAddr,
    },
    /// What was done did not stay done.
    #[error("the TAP or its bridge keeps changing: something else on this node manages them")]
    Unsettled,
}
