//! The events, numbered, the last ones kept: who was away for a moment can go on where it stopped.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use controller_registry::Event;
use tokio::sync::broadcast;

/// An event and its number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoggedEvent {
    /// Rises by one with each event, and past a restart of the controller.
    pub sequence: u64,
    /// The event.
    pub event: Event,
}

/// The last events.
#[derive(Debug)]
pub struct EventLog {
    inner: Mutex<Inner>,
    sender: broadcast::Sender<Arc<LoggedEvent>>,
}

#[derive(Debug)]
struct Inner {
    next: u64,
    kept: VecDeque<Arc<LoggedEvent>>,
}

impl EventLog {
    /// Numbers begin with the time, so that those of an earlier run are lower: fewer than one event a microsecond
    /// happens in the long run.
    pub(super) fn new(now_ms: u64) -> EventLog {
        let inner = Inner { next: now_ms.saturating_mul(1000), kept: VecDeque::with_capacity(KEPT) };
        EventLog { inner: Mutex::new(inner), sender: broadcast::channel(KEPT).0 }
    }

    pub(super) fn publish(&self, events: Vec<Event>) {
        // Sent under the lock, so that a subscriber sees each event once: in the backlog or from the channel.
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        for event in events {
            let logged = Arc::new(LoggedEvent { sequence: inner.next, event });
            inner.next += 1;
            if inner.kept.len() == KEPT {
                inner.kept.pop_front();
            }
            inner.kept.push_back(logged.clone());
            // Nobody listens: no error.
            let _ = self.sender.send(logged);
        }
    }

    /// The last events, oldest first.
    pub fn last(&self, count: usize) -> Vec<Arc<LoggedEvent>> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.kept.iter().skip(inner.kept.len().saturating_sub(count)).cloned().collect()
    }

    pub(super) fn subscribe(&self, after: Option<u64>) -> Subscription {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = inner.kept.front().map_or(inner.next, |event| event.sequence);
        let backlog = match after {
            None => VecDeque::new(),
            Some(after) => inner.kept.iter().filter(|event| event.sequence > after).cloned().collect(),
        };
        let missed = after.is_some_and(|after| after.saturating_add(1) < oldest || after >= inner.next);
        Subscription { missed, backlog, receiver: self.sender.subscribe() }
    }
}

/// Events, in order.
#[derive(Debug)]
pub struct Subscription {
    /// Events between the number that was asked for and the first one here are gone: look at everything anew.
    pub missed: bool,
    backlog: VecDeque<Arc<LoggedEvent>>,
    receiver: broadcast::Receiver<Arc<LoggedEvent>>,
}

impl Subscription {
    /// The next event; [`Missed`] once if the subscriber was too slow for the log. `None` when the engine is gone.
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Arc<LoggedEvent>, Missed>> {
        if let Some(event) = self.backlog.pop_front() {
            return Some(Ok(event));
        }
        match self.receiver.recv().await {
            Ok(event) => Some(Ok(event)),
            Err(broadcast::error::RecvError::Lagged(count)) => Some(Err(Missed(count))),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// So many events were lost to a slow subscriber.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Missed(pub u64);

/// How many events are kept.
const KEPT: usize = 4096;
