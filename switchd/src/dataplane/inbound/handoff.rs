//! What is not frames goes to the link plane: QUIC packets and STUN messages, as far as its queues have room.

use std::ops::Range;

use bytes::Bytes;
use nat_traversal::{Protocol, Route, classify};
use switch_core::switch::DropReason;
use tokio::sync::mpsc::error::TrySendError;

use super::{Arrival, Inbound};
use crate::dataplane::core::Core;
use crate::underlay::{QuicDatagram, StunDatagram};

impl Inbound {
    /// Where the QUIC packets end that follow one another in one buffer, as many as are passed on in one piece.
    pub(super) fn quic_run(&self, all: Range<usize>, stride: usize) -> usize {
        let mut end = (all.start + stride).min(all.end);
        while end < all.end
            && end + stride <= all.start + QuicDatagram::RUN
            && classify(&self.bufs[end..all.end], false) == Protocol::Quic
        {
            end = (end + stride).min(all.end);
        }
        end
    }

    /// For the link plane. Half of the queue is for peers, so that strangers cannot starve their handshakes.
    pub(super) fn quic(
        &self,
        core: &mut Core,
        arrival: Arrival<'_>,
        start: usize,
        end: usize,
        stride: usize,
    ) {
        let room = self.quic.capacity() > self.quic.max_capacity() / 2
            || core.peers.is_route(arrival.route, arrival.heard);
        let sent = room.then(|| {
            let payload = Bytes::copy_from_slice(&self.bufs[start..end]);
            self.quic.try_send(QuicDatagram { route: arrival.route, payload, stride })
        });
        if !matches!(sent, Some(Ok(()))) {
            self.drop_run(core, DropReason::QueueFull, start..end, stride);
        }
    }

    /// For the link plane. Strangers, among them peers that are not reached yet, get half of the queue and so many
    /// in a turn.
    pub(super) fn stun(&mut self, core: &mut Core, arrival: Arrival<'_>, start: usize, end: usize) {
        let known = arrival.relay.is_some() && matches!(arrival.route, Route::Direct(_))
            || core.peers.is_route(arrival.route, arrival.heard);
        let room = known || (self.strangers > 0 && self.stun.capacity() > self.stun.max_capacity() / 2);
        let sent = (room && end - start <= STUN_MAX).then(|| {
            self.strangers -= u32::from(!known);
            let payload = Bytes::copy_from_slice(&self.bufs[start..end]);
            let local = arrival.local.filter(|_| matches!(arrival.route, Route::Direct(_)));
            self.stun.try_send(StunDatagram { route: arrival.route, local, payload })
        });
        match sent {
            Some(Ok(())) => {}
            // Nobody listens: no STUN is spoken here.
            Some(Err(TrySendError::Closed(_))) => {
                self.drop_datagram(core, DropReason::BadDatagram, start, end);
            }
            Some(Err(TrySendError::Full(_))) | None => {
                self.drop_datagram(core, DropReason::QueueFull, start, end);
            }
        }
    }
}

/// STUN messages of strangers in one turn of the worker's loop.
pub(super) const STRANGERS_PER_TURN: u32 = 64;
/// No STUN message of ours is longer.
const STUN_MAX: usize = 2048;
