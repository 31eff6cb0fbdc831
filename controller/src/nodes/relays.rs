//! Keeps a switch's session told of relays.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use controller_api::node as proto;
use controller_registry::NodeId;
use proto::controller_to_switch::Message as Out;
use tokio::sync::{mpsc, watch};

use super::served::ToSwitch;
use crate::relay::Announcer;

/// What one node is told, now and again.
pub(super) struct Relays {
    announcer: Arc<Announcer>,
    node: NodeId,
    changes: watch::Receiver<u64>,
}

impl Relays {
    pub(super) fn new(announcer: Arc<Announcer>, node: NodeId) -> Relays {
        let changes = announcer.changes();
        Relays { announcer, node, changes }
    }

    /// What it is told now.
    pub(super) fn now(&mut self) -> ToSwitch {
        self.changes.mark_unchanged();
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Out::Relays(self.announcer.servers(self.node, unix)).into()
    }

    /// Tells it anew before its credentials end, and when the servers change; until the session takes no more.
    pub(super) async fn keep_told(mut self, queue: mpsc::Sender<ToSwitch>) {
        loop {
            let renewal = tokio::time::sleep(self.announcer.renew_after(self.node));
            tokio::select! {
                () = renewal => {}
                // The announcer lives as long as the controller.
                _ = self.changes.changed() => {}
                () = queue.closed() => return,
            }
            if queue.send(self.now()).await.is_err() {
                return;
            }
        }
    }
}
