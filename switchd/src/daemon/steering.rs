//! What the daemon hands to the session with the controller.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use crate::dataplane::{Command, Handle};
use crate::desired::{Applied, StationReport, Update};
use crate::key::PrivateKey;
use crate::view::View;

/// The ends of the daemon that a session with the controller holds. The daemon runs on without it.
pub struct Steering {
    /// What the switch shall be. Updates are applied in order; while a large one is under way, others wait here.
    pub updates: mpsc::Sender<Update>,
    /// What the data plane works with: sent once for each update, when the worker has all of it.
    pub applied: watch::Receiver<Applied>,
    /// What was learned on this node's bridges, as it changes, 50 ms after the first change. If the session is too
    /// slow, the next report of that network is a full one.
    pub stations: mpsc::Receiver<StationReport>,
    /// Another key for this node: from now on handshakes are made with it.
    pub keys: mpsc::Sender<PrivateKey>,
    /// Links, networks and counters as they stand.
    pub view: Arc<dyn View>,
    worker: Handle,
}

impl Steering {
    /// Everything that was learned on this node's bridges, a full report for each network; empty if the worker has
    /// stopped. What [`Self::stations`] had before is contained in it.
    pub async fn local_stations(&self) -> Vec<StationReport> {
        let (to, answer) = oneshot::channel();
        self.worker.send(Command::LocalStations(to));
        answer.await.unwrap_or_default()
    }
}

/// The daemon's ends of it.
pub(super) struct Ends {
    pub(super) updates: mpsc::Receiver<Update>,
    pub(super) applied: watch::Sender<Applied>,
    pub(super) keys: mpsc::Receiver<PrivateKey>,
}

pub(super) fn new(
    view: Arc<dyn View>,
    worker: Handle,
    stations: mpsc::Receiver<StationReport>,
) -> (Ends, Steering) {
    let (updates_to, updates) = mpsc::channel(UPDATES);
    let (applied, applied_from) = watch::channel(Applied::default());
    let (keys_to, keys) = mpsc::channel(1);
    let steering =
        Steering { updates: updates_to, applied: applied_from, stations, keys: keys_to, view, worker };
    (Ends { updates, applied, keys }, steering)
}

/// Updates that may wait.
const UPDATES: usize = 16;
