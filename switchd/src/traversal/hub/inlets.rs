//! What the task waits for.

use std::net::SocketAddr;

use controller_api::node::RelayServers;
use nat_traversal::RelayId;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::super::Ask;
use super::super::servers::{self, RelayServer, Servers};
use super::super::stream::StreamEvent;
use crate::dataplane::Handle;
use crate::netlink::Watch;
use crate::session;
use crate::underlay::StunDatagram;
pub(super) type Resolved = (Vec<SocketAddr>, Vec<(RelayServer, Vec<SocketAddr>)>);

/// The task's inlets.
pub(in crate::traversal) struct Inlets {
    pub(super) asks: mpsc::UnboundedReceiver<Ask>,
    pub(super) received: mpsc::Receiver<StunDatagram>,
    pub(super) from_nodes: Option<mpsc::Receiver<session::Signal>>,
    pub(super) servers: Option<watch::Receiver<RelayServers>>,
    pub(super) streams: mpsc::Receiver<(RelayId, StreamEvent)>,
    /// Where the router maps the UDP port to.
    pub(super) port: Option<watch::Receiver<Option<SocketAddr>>>,
    pub(super) worker: Handle,
    pub(super) host: Watch,
}

pub(super) async fn resolve(servers: Servers) -> Resolved {
    let mut stun = Vec::new();
    for name in &servers.stun {
        stun.extend(servers::resolve(name).await);
    }
    let mut relays = Vec::new();
    for relay in servers.relays {
        let addresses = servers::resolve(&relay.address).await;
        relays.push((relay, addresses));
    }
    (stun, relays)
}

pub(super) async fn received_signal(
    signals: &mut Option<mpsc::Receiver<session::Signal>>,
) -> Option<session::Signal> {
    match signals {
        Some(signals) => signals.recv().await,
        None => std::future::pending().await,
    }
}

/// The controller's servers after a change. `None` once there will be none.
pub(super) async fn changed<T: Clone>(value: &mut Option<watch::Receiver<T>>) -> Option<T> {
    let Some(watch) = value else { return std::future::pending().await };
    if watch.changed().await.is_err() {
        *value = None;
        return None;
    }
    Some(watch.borrow_and_update().clone())
}

pub(super) async fn resolved(task: &mut Option<JoinHandle<Resolved>>) -> Option<Resolved> {
    let Some(running) = task else { return std::future::pending().await };
    let result = running.await;
    *task = None;
    result.ok()
}
