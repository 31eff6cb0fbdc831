//! The session of a switch.

use std::sync::Arc;
use std::time::Instant;

use controller_api::node as proto;
use controller_registry::{Input, NodeId, Outcome, PublicKey, Revision, SwitchInput};
use proto::controller_to_switch::Message as Out;
use proto::switch_message::Message as In;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::limits::Bucket;
use super::mailbox::Put;
use super::outbox::Closing;
use super::relays::Relays;
use super::served::ToSwitch;
use super::session::{self, Session, State, Take, protocol};
use super::{Caller, Shared, convert};
use crate::engine::now;

type Message = ToSwitch;

/// Runs until either side ends it.
pub(super) async fn run(
    shared: Arc<Shared>,
    node: NodeId,
    caller: Caller,
    mut inbound: Streaming<proto::SwitchMessage>,
    out: mpsc::Sender<Result<Message, Status>>,
) {
    let mut session = Session::new(caller, out);
    let known = match register(&shared, node, caller, &mut inbound, &mut session).await {
        Ok(known) => known,
        Err(closing) => {
            session::note_end(&shared, node, "switch", &closing);
            return session.finish(&closing).await;
        }
    };
    session.welcome(&shared, node).await;
    let mut relays = Relays::new(shared.relays.clone(), node);
    session.tell(relays.now()).await;
    let told = relays.keep_told(session.handle.queue.clone());
    let mut reader = Reader::new(shared.clone(), node, caller, &session);
    let mut sender = StateSender { shared: shared.clone(), node, known, oldest: None, behind: false };
    let mut changed = shared.engine.published();
    let end = tokio::select! {
        () = session.pump(&mut changed, &mut sender) => None,
        () = told => None,
        closing = session::take_all(&shared, &mut inbound, &mut reader) => Some(closing),
    };
    // The reason of whoever ended it first counts.
    let number = session.handle.session;
    let closing = session.handle.closing.borrow().clone().or(end).unwrap_or(Closing::Ended);
    session::note_end(&shared, node, "switch", &closing);
    if shared.switches.remove(node, number) {
        shared.observed.forget(node);
    }
    let gone = Input::Switch(node, SwitchInput::Gone { session: number });
    // Refused if another session has taken over: as it should be.
    let _ = shared.engine.execute(gone).await;
    session.finish(&closing).await;
}

/// The revision that the node has, if it is of this epoch.
async fn register(
    shared: &Shared,
    node: NodeId,
    caller: Caller,
    inbound: &mut Streaming<proto::SwitchMessage>,
    session: &mut Session<Message>,
) -> Result<Option<Revision>, Closing> {
    let Some(In::Register(register)) = session::first(inbound).await?.message else {
        return Err(protocol("the first message is not register"));
    };
    let addresses = convert::addresses(&register, caller.remote).map_err(protocol)?;
    let old_alive = session::other_is_alive(&shared.switches, node, register.boot).await;
    let input = SwitchInput::Registered {
        session: session.handle.session,
        boot: register.boot,
        version: convert::text(register.version, 64),
        machine: convert::text(register.machine, 128),
        addresses,
        old_alive,
    };
    let answer = shared.engine.execute(Input::Switch(node, input)).await;
    session::accepted(shared, node, caller, answer)?;
    session.handle.boot = register.boot;
    shared.switches.insert(node, session.handle.clone());
    if let Err(closing) = session::still_stands(shared, caller).await {
        shared.switches.remove(node, session.handle.session);
        let gone = SwitchInput::Gone { session: session.handle.session };
        // Refused if the registry has ended it already.
        let _ = shared.engine.execute(Input::Switch(node, gone)).await;
        return Err(closing);
    }
    let epoch = shared.engine.read(|registry| registry.cluster().map(|cluster| cluster.epoch)).await;
    Ok((epoch == Some(register.epoch) && register.revision > 0).then_some(Revision(register.revision)))
}

/// Makes what the node does not have yet.
struct StateSender {
    shared: Arc<Shared>,
    node: NodeId,
    known: Option<Revision>,
    /// When the oldest change in what was made last was on the disk.
    oldest: Option<Instant>,
    behind: bool,
}

impl State<Message> for StateSender {
    async fn next(&mut self) -> Vec<Message> {
        let oldest = self.known.and_then(|known| self.shared.engine.committed_after(known));
        let Shared { engine, pushes, counters, .. } = &*self.shared;
        let delta = match self.known {
            Some(known) => pushes.delta(engine, self.node, known).await,
            None => None,
        };
        let told = match delta {
            Some(delta) => {
                counters.deltas.add(u64::from(!delta.parts.is_empty()));
                delta
            }
            None => {
                counters.snapshots.add(1);
                pushes.snapshot(engine, self.node).await
            }
        };
        self.oldest = oldest.filter(|_| !told.parts.is_empty());
        (self.known, self.behind) = (Some(told.revision), told.behind);
        told.parts.into_iter().map(Message::Encoded).collect()
    }

    fn is_behind(&self) -> bool {
        self.behind
    }

    fn sent(&mut self) {
        if let Some(oldest) = self.oldest.take() {
            self.shared.counters.push_latency.0.observe(oldest.elapsed().as_secs_f64());
        }
    }
}

/// Takes the node's messages.
struct Reader {
    shared: Arc<Shared>,
    node: NodeId,
    caller: Caller,
    session: u64,
    queue: mpsc::Sender<Message>,
    life: Arc<super::sessions::Life>,
    signals: Bucket,
}

impl Take<proto::SwitchMessage> for Reader {
    async fn take(&mut self, message: proto::SwitchMessage) -> Result<(), Closing> {
        match message.message {
            Some(In::Heartbeat(heartbeat)) if heartbeat.answer => self.life.answer(heartbeat.sequence),
            Some(In::Heartbeat(heartbeat)) => {
                self.reply(Out::Heartbeat(proto::Heartbeat { sequence: heartbeat.sequence, answer: true }))
                    .await;
            }
            Some(In::Signal(signal)) => self.signal(signal).await?,
            Some(In::Bindings(report)) => self.bindings(report).await?,
            Some(In::Links(report)) => {
                self.shared.observed.take_links(self.node, report, now()).map_err(protocol)?;
            }
            Some(In::Applied(applied)) => self.shared.observed.take_applied(self.node, applied),
            Some(In::RotateKey(rotate)) => self.rotate_key(&rotate).await,
            Some(In::Networks(report)) => self.networks(report).map_err(protocol)?,
            Some(In::Register(_)) => return Err(protocol("register came twice in one session")),
            // Of a newer switch.
            None => {}
        }
        Ok(())
    }
}

impl Reader {
    fn new(shared: Arc<Shared>, node: NodeId, caller: Caller, session: &Session<Message>) -> Reader {
        let size = f64::from(shared.limits.signals_per_second) * SIGNAL_BURST;
        let signals = Bucket::full(size, Instant::now());
        Reader {
            shared,
            node,
            caller,
            session: session.handle.session,
            queue: session.handle.queue.clone(),
            life: session.handle.life.clone(),
            signals,
        }
    }

    fn networks(&self, report: proto::NetworkReport) -> Result<(), convert::Wrong> {
        self.shared.observed.take_networks(self.node, report, now())
    }

    async fn signal(&mut self, signal: proto::Signal) -> Result<(), Closing> {
        let counters = &self.shared.counters;
        let to = convert::node_id(&signal.node_id).map_err(|wrong| protocol(format!("signal: {wrong}")))?;
        let rate = f64::from(self.shared.limits.signals_per_second);
        let small = signal.payload.len() <= MAX_SIGNAL;
        let allowed = small && self.signals.take(rate * SIGNAL_BURST, rate, Instant::now());
        let node = self.node;
        if !allowed || !self.shared.engine.read(|registry| registry.are_peers(node, to)).await {
            counters.signals_dropped.add(1);
            return Ok(());
        }
        let passed = proto::Signal { node_id: node.to_string(), payload: signal.payload };
        let bytes = passed.payload.len();
        let message = Message::from(Out::Signal(passed));
        // Nobody waits for a slow peer, and nothing is kept for one without a session.
        match self.shared.switches.get(to).map(|peer| peer.signals.put(node, message, bytes)) {
            Some(Put::Waits) => counters.signals.add(1),
            Some(Put::Replaced) => counters.signals_replaced.add(1),
            Some(Put::Full) | None => counters.signals_dropped.add(1),
        }
        Ok(())
    }

    async fn bindings(&mut self, report: proto::BindingReport) -> Result<(), Closing> {
        let wrong = |wrong: String| protocol(format!("bindings.{wrong}"));
        let claims: Vec<_> =
            report.claims.into_iter().map(convert::claim).collect::<Result<_, _>>().map_err(wrong)?;
        let withdrawals: Vec<_> = report
            .withdrawals
            .into_iter()
            .map(convert::withdrawal)
            .collect::<Result<_, _>>()
            .map_err(wrong)?;
        let counters = &self.shared.counters;
        counters.claims.add((claims.len() + withdrawals.len()) as u64);
        let input = SwitchInput::Bindings { session: self.session, full: report.full, claims, withdrawals };
        match self.shared.engine.execute(Input::Switch(self.node, input)).await {
            Ok(Outcome::Claims(refusals)) if !refusals.is_empty() => {
                refusals
                    .iter()
                    .for_each(|refusal| counters.claims_refused.count(convert::reason_word(refusal.reason)));
                let refusals = refusals.iter().map(convert::refusal).collect();
                self.reply(Out::Bindings(proto::BindingAnswer { refusals })).await;
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(refusal) => Err(session::refused(&refusal)),
        }
    }

    async fn rotate_key(&mut self, rotate: &proto::RotateKey) {
        let error = match self.try_rotate(rotate).await {
            Ok(()) => String::new(),
            Err(error) => error,
        };
        self.reply(Out::KeyRotated(proto::KeyRotated { public_key: rotate.public_key.clone(), error })).await;
    }

    async fn try_rotate(&mut self, rotate: &proto::RotateKey) -> Result<(), String> {
        let new: [u8; 32] =
            rotate.public_key.as_slice().try_into().map_err(|_| "public_key has other than 32 bytes")?;
        let old = node_session::key::PublicKey(self.caller.key.0);
        let proved =
            node_session::rotation::is_proved(&node_session::key::PublicKey(new), &old, &rotate.proof);
        if !proved {
            return Err("proof is not a signature by the new key over the old one".to_owned());
        }
        let new = PublicKey(new);
        // Before the old key is revoked, so that this session lives to say that it was done.
        self.shared.switches.set_key(self.node, self.session, new);
        let input = SwitchInput::RotateKey { session: self.session, public_key: new };
        match self.shared.engine.execute(Input::Switch(self.node, input)).await {
            Ok(_) => {
                self.caller.key = new;
                Ok(())
            }
            Err(refusal) => {
                self.shared.switches.set_key(self.node, self.session, self.caller.key);
                Err(refusal.message)
            }
        }
    }

    /// Waits for room: a node that does not take its answers is not asked for more.
    async fn reply(&self, message: Out) {
        let _ = self.queue.send(message.into()).await;
    }
}

/// Candidates and a handshake's worth of other words.
const MAX_SIGNAL: usize = 16 << 10;
/// Seconds' worth of signals at once: a node that starts has one or more for each of its peers.
const SIGNAL_BURST: f64 = 8.0;
