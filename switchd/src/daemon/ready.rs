//! Tells systemd when the node is usable (`Type=notify`); without systemd nobody hears it.

use std::sync::Arc;
use std::time::Duration;

use crate::view::{Status, View};

/// Waits until every endpoint is up and, on a node that has joined a controller, there is a state to run with.
pub(super) async fn tell(view: Arc<impl View>) {
    let mut ticks = tokio::time::interval(LOOK);
    loop {
        ticks.tick().await;
        if is_usable(&view.status()) {
            break;
        }
    }
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "systemd was not told that this node is ready");
    }
}

fn is_usable(status: &Status) -> bool {
    let has_state = |controller: &crate::view::Controller| {
        (controller.epoch, controller.revision) != (0, 0) || controller.removed.is_some()
    };
    status.ready && status.controller.as_ref().is_none_or(has_state)
}

const LOOK: Duration = Duration::from_millis(100);
