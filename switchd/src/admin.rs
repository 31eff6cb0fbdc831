//! The admin socket: one JSON request per line, one JSON answer per line, or a stream of them.
//!
//! ```text
//! > {"command":"links"}
//! < {"ok":[{"peer":"node-b", ...}]}
//! > {"command":"lnks"}
//! < {"error":"unknown variant `lnks`, expected one of ..."}
//! ```
//!
//! `watch` and `capture` answer `{"ok":...}` lines until the client closes the connection.

pub mod protocol;
mod session;
mod socket;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tracing::{debug, warn};

pub use self::socket::{AdminError, AdminSocket};
use crate::view::View;

/// Clients served at once; one more is told so and closed.
pub const MAX_CLIENTS: usize = 32;

/// Serves clients until the future is dropped, which ends their sessions too.
pub async fn serve(socket: AdminSocket, view: Arc<dyn View>) {
    let slots = Arc::new(Semaphore::new(MAX_CLIENTS));
    let mut sessions = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            Some(_) = sessions.join_next() => continue,
        };
        match accepted {
            Ok(stream) => {
                let view = Arc::clone(&view);
                let slot = Arc::clone(&slots).try_acquire_owned();
                sessions.spawn(async move {
                    let ended = match slot {
                        Ok(_slot) => session::run(stream, &*view).await,
                        Err(_) => session::refuse(stream).await,
                    };
                    if let Err(error) = ended {
                        debug!(%error, "an admin client's connection ended");
                    }
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: accepting again at once would spin.
                warn!(%error, "could not accept an admin client");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests;
