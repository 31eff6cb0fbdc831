//! What is counted about node sessions.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::metrics;

/// Counters of the server for nodes. They only rise.
#[derive(Debug, Default)]
pub struct NodeCounters {
    /// Nodes that enrolled.
    pub enrolments: Counter,
    /// Enrolments that came too often from one address.
    pub enrolments_limited: Counter,
    /// Refused enrolments, by the reason's word.
    pub enrolments_refused: ByReason,
    /// Sessions that registered, of switches and agents.
    pub sessions: Counter,
    /// Sessions of keys that are no node's.
    pub refused_unknown: Counter,
    /// Sessions of keys that were revoked.
    pub refused_revoked: Counter,
    /// Sessions that were refused since another machine with the same key is alive.
    pub refused_cloned: Counter,
    /// Sessions that broke the protocol.
    pub protocol_errors: Counter,
    /// Sessions that were silent for three heartbeats.
    pub silent: Counter,
    /// Messages from switches and agents.
    pub messages: Counter,
    /// Claims and withdrawals of bindings.
    pub claims: Counter,
    /// Those of them that were refused, by the reason's word.
    pub claims_refused: ByReason,
    /// How long what nodes see was on its way to them.
    pub push_latency: PushLatency,
    /// Snapshots sent.
    pub snapshots: Counter,
    /// Deltas sent.
    pub deltas: Counter,
    /// Signals passed on.
    pub signals: Counter,
    /// Signals that took the place of an older one of the same sender, which was not sent yet.
    pub signals_replaced: Counter,
    /// Signals dropped: too many, too large, no such peer, or its queue is full.
    pub signals_dropped: Counter,
    /// Volumes that were moved.
    pub volumes: Counter,
    /// Volumes that were not moved to the end.
    pub volumes_failed: Counter,
    /// Bytes of volumes.
    pub volume_bytes: Counter,
}

/// How long deltas were on their way.
#[derive(Clone, Debug)]
pub struct PushLatency(pub prometheus::Histogram);

impl Default for PushLatency {
    fn default() -> PushLatency {
        PushLatency(metrics::histogram(
            "controller_push_latency_seconds",
            "From the commit of the oldest change in a delta to a switch's session having sent it.",
        ))
    }
}

/// Numbers that rise, by a word.
#[derive(Debug, Default)]
pub struct ByReason(Mutex<BTreeMap<&'static str, u64>>);

impl ByReason {
    /// All that are not 0.
    pub fn all(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn count(&self, reason: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(reason).or_default() += 1;
    }
}

/// A number that rises.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// How much it is.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }
}
