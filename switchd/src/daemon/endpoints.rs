//! The networks' endpoints, as networks come and go.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, join_all};
use switch_core::ids::Vni;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::config::Network;
use crate::dataplane::{Command, Handle};
use crate::endpoint::{Endpoint, EndpointConfig, EndpointEvent, EndpointState};
use crate::netlink::Netlink;
use crate::view::Origin;

/// A network, for tables.
#[derive(Clone, Debug)]
pub(super) struct NetworkRow {
    pub(super) network: Arc<Network>,
    pub(super) from: Origin,
    pub(super) state: watch::Receiver<EndpointState>,
}

/// All of them, in the order in which they came.
pub(super) struct Endpoints {
    netlink: Netlink,
    worker: Handle,
    running: Vec<Running>,
    /// A new endpoint may want the bridge or the name of one that is going.
    stopping: Vec<Shared<BoxFuture<'static, ()>>>,
}

struct Running {
    row: NetworkRow,
    endpoint: Endpoint,
    forwarder: JoinHandle<()>,
}

impl Endpoints {
    pub(super) fn new(netlink: Netlink, worker: Handle) -> Endpoints {
        Endpoints { netlink, worker, running: Vec::new(), stopping: Vec::new() }
    }

    /// Starts the endpoint of a network that the worker serves; it begins once those that are stopped are gone.
    pub(super) fn start(&mut self, network: Network, from: Origin) {
        let (events, received) = mpsc::channel(4);
        let forwarder = tokio::spawn(forward(received, network.vni, self.worker.clone()));
        let config = EndpointConfig {
            name: network.endpoint.clone(),
            bridge: network.bridge.clone(),
            create_bridge: network.create_bridge,
            endpoint_mac: network.endpoint_mac,
            mtu: u32::from(network.mtu),
            offloads: network.offloads,
            host: network.host.clone(),
        };
        self.stopping.retain(|stopping| stopping.peek().is_none());
        let after = join_all(self.stopping.clone()).map(drop);
        let endpoint = Endpoint::start_after(after, config, self.netlink.clone(), events);
        let row = NetworkRow { network: Arc::new(network), from, state: endpoint.state() };
        self.running.push(Running { row, endpoint, forwarder });
    }

    /// Takes the endpoint of a network away, as on shutdown. The worker is told afterwards.
    pub(super) fn stop(&mut self, vni: Vni) {
        if let Some(i) = self.running.iter().position(|running| running.row.network.vni == vni) {
            let Running { endpoint, forwarder, .. } = self.running.remove(i);
            let ended = endpoint.stop();
            let stopping = async move {
                ended.await;
                // It ends with the endpoint: nothing of this one comes after what the next one says.
                let _ = forwarder.await;
            };
            let stopping = stopping.boxed().shared();
            tokio::spawn(stopping.clone());
            self.stopping.push(stopping);
        }
    }

    /// Keys of a running network that need nothing done here have changed.
    pub(super) fn set_network(&mut self, network: &Network) {
        if let Some(running) = self.running.iter_mut().find(|r| r.row.network.vni == network.vni) {
            running.row.network = Arc::new(network.clone());
        }
    }

    pub(super) fn rows(&self) -> Vec<NetworkRow> {
        self.running.iter().map(|running| running.row.clone()).collect()
    }

    pub(super) async fn shutdown(mut self) {
        for vni in self.running.iter().map(|running| running.row.network.vni).collect::<Vec<_>>() {
            self.stop(vni);
        }
        join_all(self.stopping).await;
    }
}

/// Hands each TAP of an endpoint to the worker.
async fn forward(mut events: mpsc::Receiver<EndpointEvent>, vni: Vni, worker: Handle) {
    while let Some(event) = events.recv().await {
        let tap = match event {
            EndpointEvent::Up(tap) => Some(tap),
            EndpointEvent::Down(_) => None,
        };
        worker.send(Command::SetEndpoint(vni, tap));
    }
}
