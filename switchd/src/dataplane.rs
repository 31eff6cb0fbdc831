//! The data plane: one OS thread that owns every endpoint's TAP, the UDP socket's receiving side, one switch per
//! network and the sessions' keys, and runs each batch to completion. No locks, no async; buffers are
//! reused, and the path of a forwarded frame is made to allocate nothing.
//!
//! ```text
//! local:  TAP -> Switch::handle_local  -> split, seal (outbound) -> UDP
//! remote: UDP -> open, reassemble, coalesce -> Switch::handle_remote -> TAP
//! ```

mod bindings;
mod capture;
mod carriage;
mod carry_out;
mod command;
mod core;
mod drops;
mod held;
mod inbound;
mod network;
mod networks;
mod outbound;
mod paths;
mod peers;
mod snapshot;
mod stations;
mod thread;
mod transmitter;
mod views;
mod worker;

use std::net::IpAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

pub(crate) use carriage::{CarriageDrops, QueuedMessage, QuicQueue};
pub use carriage::{QuicMessages, QuicSender};
#[cfg(test)]
pub(crate) use command::Received;
pub use command::{BITE, BindingChange, Bite, Command, Handle, MssClamp, Refused, Report};
pub use snapshot::{PeerCounters, PeerSnapshot, Snapshot};
pub use thread::WorkerThread;

use crate::config::Carriage;
use crate::desired::StationReport;
use crate::underlay::{QuicDatagram, StunDatagram, Underlay};
use switch_core::switch::SwitchConfig;

/// A network as the worker needs it.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Its name.
    pub name: Arc<str>,
    /// Its switch.
    pub switch: SwitchConfig,
    /// Lower the MSS of TCP SYNs to what the path carries.
    pub mss_clamp: bool,
    /// What its frames ride in.
    pub carriage: Carriage,
    /// The host's own addresses in it: no link goes by them.
    pub host: Vec<IpAddr>,
}

/// The worker's other ends.
#[derive(Debug)]
pub struct DataPlane {
    /// Commands to it.
    pub handle: Handle,
    /// What it reports.
    pub reports: mpsc::UnboundedReceiver<Report>,
    /// What was learned on this node's bridges, as it changes.
    pub stations: mpsc::Receiver<StationReport>,
    /// QUIC packets that it read.
    pub quic: mpsc::Receiver<QuicDatagram>,
    /// STUN messages that it read.
    pub stun: mpsc::Receiver<StunDatagram>,
    /// Its counters, at most a quarter of a second old.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Its thread.
    pub thread: JoinHandle<()>,
    /// What the kernel says of that thread.
    pub worker_thread: WorkerThread,
}

/// Starts the worker. `node` is this node's name, for the binding tables.
pub fn start(underlay: Arc<Underlay>, node: Arc<str>, hash_seed: [u64; 4]) -> Result<DataPlane, StartError> {
    let (handle, received) = Handle::new().map_err(StartError::Wake)?;
    let (reports_to, reports) = mpsc::unbounded_channel();
    let (stations_to, stations) = mpsc::channel(STATION_REPORTS);
    let (quic_to, quic) = mpsc::channel(QUIC_QUEUE);
    let (stun_to, stun) = mpsc::channel(STUN_QUEUE);
    let snapshot = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
    let ends = worker::Ends {
        received,
        reports: reports_to,
        stations: stations_to,
        quic: quic_to,
        stun: stun_to,
        snapshot: snapshot.clone(),
    };
    let worker = worker::Worker::new(underlay, node, hash_seed, ends).map_err(StartError::Epoll)?;
    let worker_thread = WorkerThread::default();
    let this = worker_thread.clone();
    let thread = std::thread::Builder::new()
        .name("worker".into())
        .spawn(move || {
            this.is_this();
            worker.run();
        })
        .map_err(StartError::Thread)?;
    Ok(DataPlane { handle, reports, stations, quic, stun, snapshot, thread, worker_thread })
}

/// Which step of starting the worker failed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// eventfd(2).
    #[error("cannot make the worker's wake-up descriptor")]
    Wake(#[source] nix::Error),
    /// epoll_create(2) or epoll_ctl(2).
    #[error("cannot watch the worker's descriptors")]
    Epoll(#[source] nix::Error),
    /// pthread_create(3).
    #[error("cannot start the worker's thread")]
    Thread(#[source] std::io::Error),
}

/// QUIC packets that may wait for the link plane; more are lost, which QUIC repairs.
const QUIC_QUEUE: usize = 1024;
/// STUN messages that may wait for the link plane; more are lost, and asked again.
const STUN_QUEUE: usize = 512;
/// Reports of local stations that may wait; then the next one of a network is a full one.
const STATION_REPORTS: usize = 64;

#[cfg(test)]
mod tests;
