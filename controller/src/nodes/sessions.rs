//! The live sessions, one a node, and what others may do with them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use controller_registry::{NodeId, PublicKey};
use tokio::sync::{mpsc, watch};

use super::mailbox::Mailbox;
use super::outbox::{Closing, Outgoing};

/// What others see of a session.
#[derive(Debug)]
pub(super) struct Handle<M> {
    pub(super) session: u64,
    pub(super) boot: u64,
    pub(super) key: PublicKey,
    /// What waits to be sent.
    pub(super) queue: mpsc::Sender<M>,
    /// The words of its peers.
    pub(super) signals: Arc<Mailbox<M>>,
    pub(super) closing: watch::Sender<Option<Closing>>,
    pub(super) life: Arc<Life>,
}

impl<M> Clone for Handle<M> {
    fn clone(&self) -> Self {
        Handle {
            session: self.session,
            boot: self.boot,
            key: self.key,
            queue: self.queue.clone(),
            signals: self.signals.clone(),
            closing: self.closing.clone(),
            life: self.life.clone(),
        }
    }
}

impl<M: Outgoing> Handle<M> {
    /// Ends the session. The first reason stands.
    pub(super) fn close(&self, closing: &Closing) {
        self.closing.send_if_modified(|current| {
            let first = current.is_none();
            if first {
                *current = Some(closing.clone());
            }
            first
        });
    }

    /// Whether the other end answers a heartbeat in time.
    pub(super) async fn is_alive(&self) -> bool {
        let sequence = next_sequence();
        let mut answered = self.life.answered.subscribe();
        let probe = async {
            self.queue.send(M::heartbeat(sequence, false)).await.is_ok()
                && answered.wait_for(|answered| *answered >= sequence).await.is_ok()
        };
        tokio::select! {
            answer = tokio::time::timeout(PROBE_TIMEOUT, probe) => answer.unwrap_or(false),
            // It ended by itself: its stream broke.
            () = self.queue.closed() => false,
        }
    }
}

/// The heartbeats that a session's other end answered.
#[derive(Debug)]
pub(super) struct Life {
    answered: watch::Sender<u64>,
}

impl Life {
    pub(super) fn new() -> Life {
        Life { answered: watch::channel(0).0 }
    }

    pub(super) fn answer(&self, sequence: u64) {
        self.answered.send_modify(|answered| *answered = sequence.max(*answered));
    }
}

/// The sessions of one kind.
#[derive(Debug)]
pub(super) struct Sessions<M> {
    live: Mutex<HashMap<NodeId, Handle<M>>>,
}

impl<M> Default for Sessions<M> {
    fn default() -> Self {
        Sessions { live: Mutex::default() }
    }
}

impl<M: Outgoing> Sessions<M> {
    pub(super) fn get(&self, node: NodeId) -> Option<Handle<M>> {
        self.lock().get(&node).cloned()
    }

    /// The one that was there ends.
    pub(super) fn insert(&self, node: NodeId, handle: Handle<M>) {
        let old = self.lock().insert(node, handle);
        if let Some(old) = old {
            old.close(&Closing::Goodbye(
                controller_api::node::goodbye::Reason::Superseded,
                "a newer session of this node took over".to_owned(),
            ));
        }
    }

    /// True if this one was still the node's.
    pub(super) fn remove(&self, node: NodeId, session: u64) -> bool {
        let mut live = self.lock();
        let ours = live.get(&node).is_some_and(|handle| handle.session == session);
        if ours {
            live.remove(&node);
        }
        ours
    }

    /// The key that the session counts as proved by: its own, or the one that it was replaced with.
    pub(super) fn set_key(&self, node: NodeId, session: u64, key: PublicKey) {
        if let Some(handle) = self.lock().get_mut(&node).filter(|handle| handle.session == session) {
            handle.key = key;
        }
    }

    pub(super) fn close(&self, node: NodeId, session: u64, closing: &Closing) {
        if let Some(handle) = self.lock().get(&node).filter(|handle| handle.session == session) {
            handle.close(closing);
        }
    }

    pub(super) fn close_keys(&self, node: NodeId, keys: &[PublicKey], closing: &Closing) {
        if let Some(handle) = self.lock().get(&node).filter(|handle| keys.contains(&handle.key)) {
            handle.close(closing);
        }
    }

    pub(super) fn close_all(&self, closing: &Closing) {
        self.lock().values().for_each(|handle| handle.close(closing));
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Handle<M>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Numbers of sessions, and of heartbeats: each is used once in the life of the process.
pub(super) fn next_sequence() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
