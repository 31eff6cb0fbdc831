//! Signals that wait for one node. Each is its sender's present state, so that only the newest one of a sender is worth
//! sending: when a whole cluster starts, the slowest node holds one for each peer, and loses none of them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use controller_registry::NodeId;
use tokio::sync::Notify;

/// What waits, in the order of the senders.
#[derive(Debug)]
pub(super) struct Mailbox<M> {
    waiting: Mutex<Waiting<M>>,
    arrived: Notify,
}

#[derive(Debug)]
struct Waiting<M> {
    senders: VecDeque<NodeId>,
    by_sender: HashMap<NodeId, (M, usize)>,
    bytes: usize,
}

/// What became of a signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Put {
    /// It waits.
    Waits,
    /// It waits in the place of an older one of the same sender.
    Replaced,
    /// There is no room.
    Full,
}

impl<M> Default for Mailbox<M> {
    fn default() -> Self {
        let waiting = Waiting { senders: VecDeque::new(), by_sender: HashMap::new(), bytes: 0 };
        Mailbox { waiting: Mutex::new(waiting), arrived: Notify::new() }
    }
}

impl<M> Mailbox<M> {
    pub(super) fn put(&self, sender: NodeId, message: M, bytes: usize) -> Put {
        let mut waiting = self.lock();
        let older = waiting.by_sender.get(&sender).map(|(_, bytes)| *bytes);
        let total = waiting.bytes - older.unwrap_or_default() + bytes;
        if total > MAX_BYTES {
            return Put::Full;
        }
        waiting.bytes = total;
        waiting.by_sender.insert(sender, (message, bytes));
        if older.is_some() {
            return Put::Replaced;
        }
        waiting.senders.push_back(sender);
        drop(waiting);
        self.arrived.notify_one();
        Put::Waits
    }

    /// The next one, when there is one. Nothing is lost if this is not polled to its end.
    pub(super) async fn next(&self) -> M {
        loop {
            if let Some(message) = self.take() {
                return message;
            }
            self.arrived.notified().await;
        }
    }

    fn take(&self) -> Option<M> {
        let mut waiting = self.lock();
        let sender = waiting.senders.pop_front()?;
        let (message, bytes) = waiting.by_sender.remove(&sender)?;
        waiting.bytes -= bytes;
        Some(message)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<M>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thousand peers with the candidates of each, a few KiB.
const MAX_BYTES: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_newest_of_each_sender_is_kept_in_order() {
        let mailbox = Mailbox::default();
        for round in 0..3 {
            for sender in 0..1000 {
                let put = mailbox.put(NodeId(sender), (sender, round), 2000);
                assert_eq!(put, if round == 0 { Put::Waits } else { Put::Replaced });
            }
        }
        for sender in 0..1000 {
            assert_eq!(mailbox.next().await, (sender, 2));
        }
        assert!(mailbox.take().is_none());
        assert_eq!(mailbox.put(NodeId(1), (0, 0), MAX_BYTES), Put::Waits);
        assert_eq!(mailbox.put(NodeId(2), (0, 0), 1), Put::Full);
        mailbox.next().await;
        assert_eq!(mailbox.put(NodeId(2), (0, 0), 1), Put::Waits);
    }
}
