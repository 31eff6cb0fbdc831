//! What the sessions of switches and of agents have in common.

use std::sync::Arc;
use std::time::Duration;

use controller_api::node as proto;
use controller_registry::{NodeId, Outcome, Refusal, RefusalKind};
use proto::goodbye::Reason;
use tokio::sync::{mpsc, watch};
use tonic::{Status, Streaming};

use super::outbox::{Closed, Closing, Outbox, Outgoing};
use super::sessions::{Handle, Life, Sessions, next_sequence};
use super::{Caller, Shared, Standing, removed, replaced_text};

/// A session's own end of its handle.
pub(super) struct Session<M> {
    pub(super) handle: Handle<M>,
    queue: mpsc::Receiver<M>,
    outbox: Outbox<M>,
}

impl<M: Outgoing> Session<M> {
    pub(super) fn new(caller: Caller, out: mpsc::Sender<Result<M, Status>>) -> Session<M> {
        let (closing, on_closing) = watch::channel(None);
        let (to_queue, queue) = mpsc::channel(QUEUE);
        let handle = Handle {
            session: next_sequence(),
            boot: 0,
            key: caller.key,
            queue: to_queue,
            signals: Arc::default(),
            closing,
            life: Arc::new(Life::new()),
        };
        Session { handle, queue, outbox: Outbox::new(out, on_closing) }
    }

    /// Tells the node that its session stands.
    pub(super) async fn welcome(&mut self, shared: &Shared, node: NodeId) {
        let (node_name, cluster) = shared
            .engine
            .read(|registry| {
                let name = registry.nodes().get(&node).map(|node| node.name.clone()).unwrap_or_default();
                (name, registry.cluster().map(|cluster| cluster.name.clone()).unwrap_or_default())
            })
            .await;
        shared.counters.sessions.add(1);
        let heartbeat_ms = u32::try_from(shared.limits.heartbeat().as_millis()).unwrap_or(u32::MAX);
        let registered = proto::Registered { node_id: node.to_string(), node_name, cluster, heartbeat_ms };
        // If it is gone already, the loop below ends at once.
        let _ = self.outbox.send(M::registered(registered)).await;
    }

    /// Sends one message before all others; nothing happens if the session ends.
    pub(super) async fn tell(&mut self, message: M) {
        let _ = self.outbox.send(message).await;
    }

    /// Sends what waits, and the newest state whenever it changed and the node takes more. Until the session ends.
    pub(super) async fn pump(&mut self, changed: &mut watch::Receiver<u64>, state: &mut impl State<M>) {
        let mut due = true;
        let signals = self.handle.signals.clone();
        loop {
            if due {
                // First the room, then the state: what is made then is the newest, however long that took.
                if self.outbox.room().await.is_err() {
                    return;
                }
                changed.borrow_and_update();
                for message in state.next().await {
                    if self.outbox.send(message).await.is_err() {
                        return;
                    }
                }
                state.sent();
                // What waits goes in between.
                due = state.is_behind();
            }
            let message = tokio::select! {
                biased;
                _ = self.outbox.closing() => return,
                message = self.queue.recv() => message,
                signal = signals.next() => Some(signal),
                change = changed.changed() => {
                    if change.is_err() {
                        return;
                    }
                    due = true;
                    continue;
                }
                () = std::future::ready(()), if due => continue,
            };
            let Some(message) = message else { return };
            // However much there is to pass on, the state has its turn.
            due |= changed.has_changed().unwrap_or_default();
            if let Err(Closed) = self.outbox.send(message).await {
                return;
            }
        }
    }

    /// Says goodbye, if there is something to say.
    pub(super) async fn finish(self, otherwise: &Closing) {
        self.handle.close(otherwise);
        self.outbox.finish().await;
    }
}

/// Makes what a node shall have and does not have yet.
pub(super) trait State<M>: Send {
    /// The messages that bring the node from what was made last to now; none if nothing is new.
    fn next(&mut self) -> impl Future<Output = Vec<M>> + Send;

    /// What was made last is on its way.
    fn sent(&mut self) {}

    /// What was made last is not all.
    fn is_behind(&self) -> bool {
        false
    }
}

/// Takes a node's messages.
pub(super) trait Take<In>: Send {
    /// An error ends the session.
    fn take(&mut self, message: In) -> impl Future<Output = Result<(), Closing>> + Send;
}

/// The first message; it has to come soon.
pub(super) async fn first<In>(inbound: &mut Streaming<In>) -> Result<In, Closing> {
    match tokio::time::timeout(FIRST_TIMEOUT, inbound.message()).await {
        Ok(Ok(Some(message))) => Ok(message),
        Ok(Ok(None)) => Err(Closing::Ended),
        Ok(Err(status)) => Err(broken(&status)),
        Err(_) => Err(protocol("no register within 10 s")),
    }
}

/// Takes messages until the session ends, and says why it does.
pub(super) async fn take_all<In>(
    shared: &Shared,
    inbound: &mut Streaming<In>,
    reader: &mut impl Take<In>,
) -> Closing {
    let silence = shared.limits.heartbeat() * SILENT_HEARTBEATS;
    loop {
        let message = match tokio::time::timeout(silence, inbound.message()).await {
            Ok(Ok(Some(message))) => message,
            Ok(Ok(None)) => return Closing::Ended,
            Ok(Err(status)) => return broken(&status),
            Err(_) => {
                shared.counters.silent.add(1);
                return Closing::Ended;
            }
        };
        shared.counters.messages.add(1);
        if let Err(closing) = reader.take(message).await {
            return closing;
        }
    }
}

/// Another session of the node with another boot number: whether its other end lives.
pub(super) async fn other_is_alive<M: Outgoing>(sessions: &Sessions<M>, node: NodeId, boot: u64) -> bool {
    let mut dead = None;
    loop {
        match sessions.get(node) {
            Some(old) if old.boot != boot && dead != Some(old.session) => {
                if old.is_alive().await {
                    return true;
                }
                // Meanwhile a third one may have come.
                dead = Some(old.session);
            }
            _ => return false,
        }
    }
}

/// What the registry answered to a registration. Only its word makes a clone: the session that answered the probe may
/// have ended since, and then this one stands.
pub(super) fn accepted(
    shared: &Shared,
    node: NodeId,
    caller: Caller,
    answer: Result<Outcome, Refusal>,
) -> Result<(), Closing> {
    match answer {
        Ok(_) => Ok(()),
        Err(refusal) if refusal.code == "cloned" => Err(cloned(shared, node, caller)),
        Err(refusal) => Err(refused(&refusal)),
    }
}

/// Looks again once the session is among the live ones: a key that was revoked between the call and that was revoked
/// with nothing to close.
pub(super) async fn still_stands(shared: &Shared, caller: Caller) -> Result<(), Closing> {
    match shared.standing(&caller.key).await {
        Standing::Node(_) => Ok(()),
        Standing::Removed(node) => Err(removed(node)),
        Standing::Replaced(node) => Err(Closing::Goodbye(Reason::Superseded, replaced_text(node))),
        Standing::Unknown => Err(Closing::Ended),
    }
}

fn cloned(shared: &Shared, node: NodeId, caller: Caller) -> Closing {
    shared.counters.refused_cloned.add(1);
    tracing::warn!(%node, remote = %caller.remote, "another machine with the same key is alive: this one is refused");
    Closing::Goodbye(
        Reason::Cloned,
        format!(
            "{node} has a live session from another machine: this one, or that one, is a copy; on the copy remove \
             the key and the state, and join it as a node of its own"
        ),
    )
}

pub(super) fn refused(refusal: &Refusal) -> Closing {
    let reason = match refusal.kind {
        RefusalKind::NotReady => Reason::Stopping,
        RefusalKind::Stale => Reason::Superseded,
        RefusalKind::Forbidden | RefusalKind::NotFound => Reason::Removed,
        _ => Reason::Protocol,
    };
    Closing::Goodbye(reason, refusal.message.clone())
}

pub(super) fn protocol(detail: impl Into<String>) -> Closing {
    Closing::Goodbye(Reason::Protocol, detail.into())
}

/// A stream that broke: by the network, or by a message that cannot be read.
fn broken(status: &Status) -> Closing {
    match status.code() {
        tonic::Code::OutOfRange | tonic::Code::ResourceExhausted => {
            protocol(format!("a message is too large: {}", status.message()))
        }
        tonic::Code::Internal | tonic::Code::InvalidArgument if status.message().contains("decode") => {
            protocol(format!("a message cannot be read: {}", status.message()))
        }
        _ => Closing::Ended,
    }
}

/// Counts and logs the end of a session.
pub(super) fn note_end(shared: &Shared, node: NodeId, what: &'static str, closing: &Closing) {
    match closing {
        Closing::Goodbye(Reason::Protocol, detail) => {
            shared.counters.protocol_errors.add(1);
            tracing::warn!(%node, "the session of the {what} broke the protocol: {detail}");
        }
        Closing::Goodbye(reason, _) => tracing::debug!(%node, ?reason, "the session of the {what} was ended"),
        Closing::Ended => tracing::debug!(%node, "the session of the {what} ended"),
    }
}

const FIRST_TIMEOUT: Duration = Duration::from_secs(10);
const SILENT_HEARTBEATS: u32 = 3;
/// Messages for one node that wait until it takes them: answers, heartbeats, relays.
const QUEUE: usize = 64;
