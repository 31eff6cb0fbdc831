//! The worker's counters, as it publishes them.

use std::collections::HashMap;
use std::time::Instant;

use nat_traversal::PathView;
use switch_core::ids::PeerId;
use switch_core::switch::DropReason;

use crate::view::{Histogram, Stats};

/// What the worker publishes.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counters by network, and of all.
    pub stats: Stats,
    /// Every peer.
    pub peers: HashMap<PeerId, PeerSnapshot>,
}

/// One peer, as the worker has it.
#[derive(Clone, Debug, Default)]
pub struct PeerSnapshot {
    /// Its datagrams.
    pub counters: PeerCounters,
    /// The ways to it.
    pub paths: Vec<PathView>,
    /// The largest UDP payload of frames' datagrams, bytes.
    pub datagram_max: u16,
}

/// Datagrams of one peer, since it was added.
#[derive(Clone, Copy, Debug, Default)]
pub struct PeerCounters {
    /// Sealed, probes included; what the kernel refused is among the send errors.
    pub datagrams_to_peer: u64,
    /// Opened.
    pub datagrams_from_peer: u64,
    /// Bytes of UDP payload of the former.
    pub bytes_to_peer: u64,
    /// Bytes of UDP payload of the latter.
    pub bytes_from_peer: u64,
    /// Messages given to QUIC.
    pub quic_to_peer: u64,
    /// Messages that came in QUIC datagrams.
    pub quic_from_peer: u64,
    /// Bytes of the former.
    pub quic_bytes_to_peer: u64,
    /// Bytes of the latter.
    pub quic_bytes_from_peer: u64,
    /// Refused by the replay window.
    pub replays_dropped: u64,
    /// When frames last went to it, or came from it.
    pub last_frame: Option<Instant>,
    /// When the last datagram was opened.
    pub last_heard: Option<Instant>,
}

/// A histogram with `N` bounds.
#[derive(Clone, Debug)]
pub(super) struct Buckets<const N: usize> {
    bounds: [u64; N],
    counts: [u64; N],
    beyond: u64,
    sum: u64,
}

impl<const N: usize> Buckets<N> {
    pub(super) fn new(bounds: [u64; N]) -> Buckets<N> {
        Buckets { bounds, counts: [0; N], beyond: 0, sum: 0 }
    }

    pub(super) fn observe(&mut self, value: u64) {
        self.sum += value;
        match self.bounds.iter().position(|bound| value <= *bound) {
            Some(bucket) => self.counts[bucket] += 1,
            None => self.beyond += 1,
        }
    }

    pub(super) fn view(&self) -> Histogram {
        let mut counts = self.counts.to_vec();
        counts.push(self.beyond);
        Histogram { bounds: self.bounds.to_vec(), counts, sum: self.sum }
    }
}

/// Drops by reason.
#[derive(Clone, Debug)]
pub(super) struct DropCounts([u64; DropReason::ALL.len()]);

impl Default for DropCounts {
    fn default() -> DropCounts {
        DropCounts([0; DropReason::ALL.len()])
    }
}

impl DropCounts {
    pub(super) fn count(&mut self, reason: DropReason, frames: u64) {
        self.0[reason.index()] += frames;
    }

    /// Every reason, so that each is a metric from the start.
    pub(super) fn view(&self) -> Vec<(String, u64)> {
        DropReason::ALL.iter().zip(self.0).map(|(reason, n)| (reason.label().to_owned(), n)).collect()
    }
}
