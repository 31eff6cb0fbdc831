//! What the daemon hands to the session with the controller.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::desired::{Applied, StationReport, Update};
use crate::view::View;

/// The ends of the daemon that a session with the controller holds.
pub struct Steering {
    /// What the switch shall be. Updates are applied in order; while a large one is under way, others wait here.
    pub updates: mpsc::Sender<Update>,
    /// What the data plane works with. Changes once for each update.
    pub applied: watch::Receiver<Applied>,
    /// What was learned on this node's bridges, as it changes. If the session is too slow, the next report of that
    /// network is a full one.
    pub stations: mpsc::Receiver<StationReport>,
    /// Links, networks and counters as they stand.
    pub view: Arc<dyn View>,
}
