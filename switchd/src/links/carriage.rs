//! Frames in QUIC datagrams (RFC 9221): from the worker to a session's connection, and back.

use futures_util::FutureExt;
use quinn::{Connection, SendDatagramError};
use switch_core::ids::PeerId;
use switch_core::wire::Lane;

use crate::dataplane::{CarriageDrops, Handle, QueuedMessage, QuicMessages, QuicQueue, QuicSender};

/// Carries frames by this connection both ways until it ends; what is returned is for the worker.
pub(super) fn carry(connection: &Connection, peer: PeerId, worker: &Handle) -> QuicSender {
    let (sender, queue) = QuicSender::new(connection.max_datagram_size().unwrap_or(0));
    tokio::spawn(outward(connection.clone(), queue, worker.clone()));
    tokio::spawn(inward(connection.clone(), peer, worker.clone()));
    sender
}

/// QUIC's own buffer is waited for, not overrun: it drops only what became too long for the path while it was there.
async fn outward(connection: Connection, mut queue: QuicQueue, worker: Handle) {
    let drops = worker.carriage_drops();
    while let Some((lane, batch)) = queue.next().await {
        for message in batch.messages() {
            while lane == Lane::Bulk
                && let Some(prompt) = queue.prompt()
            {
                for message in prompt.messages() {
                    send(&connection, message, drops).await;
                }
            }
            send(&connection, message, drops).await;
        }
        queue.set_limit(connection.max_datagram_size().unwrap_or(0));
    }
}

/// Sends a message as soon as QUIC has room, or counts why it does not.
async fn send(connection: &Connection, message: QueuedMessage, drops: &CarriageDrops) {
    if message.is_stale() {
        return CarriageDrops::add(&drops.stale, 1);
    }
    let lost = match connection.send_datagram_wait(message.bytes).await {
        Ok(()) => return,
        Err(SendDatagramError::TooLarge) => &drops.too_long,
        Err(
            SendDatagramError::ConnectionLost(_)
            | SendDatagramError::UnsupportedByPeer
            | SendDatagramError::Disabled,
        ) => &drops.lost,
    };
    CarriageDrops::add(lost, 1);
}

async fn inward(connection: Connection, peer: PeerId, worker: Handle) {
    while let Ok(first) = connection.read_datagram().await {
        let mut messages = vec![first];
        while messages.len() < BATCH
            && let Some(Ok(next)) = connection.read_datagram().now_or_never()
        {
            messages.push(next);
        }
        if !worker.carried(QuicMessages { peer, messages }) {
            return;
        }
    }
}

/// Messages that the worker is given at a time.
const BATCH: usize = 64;

#[cfg(test)]
mod tests;
