//! The nodes: real sessions over TLS, a thousand of them in this process.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use controller_api::node as proto;
use controller_api::node::node_service_client::NodeServiceClient;
use node_session::backoff::Backoff;
use node_session::key::{PrivateKey, PublicKey};
use node_session::token::Token;
use proto::switch_message::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::tables::Tables;
use crate::wire;

/// A node that has enrolled.
pub(crate) struct Node {
    pub(crate) id: String,
    key: PrivateKey,
    controller: PublicKey,
    address: String,
    boot: u64,
    /// What it has of the cluster's state; outlives a session, as a daemon does.
    pub(crate) state: State,
    /// Some nodes have real tables.
    pub(crate) tables: Mutex<Option<Tables>>,
}

/// What a node has, and has counted.
#[derive(Default)]
pub(crate) struct State {
    epoch: AtomicU64,
    pub(crate) revision: AtomicU64,
    registered: AtomicBool,
    /// Bindings in updates since [`State::restart`].
    pub(crate) bindings: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) snapshots: AtomicU64,
    pub(crate) deltas: AtomicU64,
    pub(crate) refusals: AtomicU64,
    /// Sessions that broke and were dialled again.
    pub(crate) broken: AtomicU64,
    /// When each revision was whole, since [`State::restart`].
    pub(crate) arrivals: Mutex<Vec<(u64, Instant)>>,
}

impl State {
    /// Counts anew.
    pub(crate) fn restart(&self) {
        for counter in
            [&self.bindings, &self.bytes, &self.snapshots, &self.deltas, &self.refusals, &self.broken]
        {
            counter.store(0, Ordering::Relaxed);
        }
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Forgets the cluster's state, as a new node: the next session takes a snapshot.
    pub(crate) fn forget(&self) {
        self.revision.store(0, Ordering::Relaxed);
    }

    /// When it had everything up to a revision.
    pub(crate) fn arrived(&self, revision: u64) -> Option<Instant> {
        let arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        arrivals.iter().find(|(at, _)| *at >= revision).map(|(_, when)| *when)
    }
}

/// A node's session, kept up until it is dropped.
pub(crate) struct Session {
    pub(crate) node: Arc<Node>,
    out: Arc<Mutex<Option<mpsc::Sender<proto::SwitchMessage>>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Node {
    /// Enrols a new key by a token's text.
    pub(crate) async fn enrol(token: &str, boot: u64) -> Result<Node> {
        let token: Token = token.parse()?;
        let key = PrivateKey::generate()?;
        let channel = node_session::client::connect(&token.addresses, &key, token.controller).await?;
        let request = proto::EnrolRequest { secret: token.secret.bytes().to_vec(), ..Default::default() };
        let answer = NodeServiceClient::new(channel).enrol(request).await?.into_inner();
        let address = token.addresses.first().context("a token without an address")?.clone();
        Ok(Node {
            id: answer.node_id,
            key,
            controller: token.controller,
            address,
            boot,
            state: State::default(),
            tables: Mutex::new(None),
        })
    }

    /// Whether its session stands.
    pub(crate) fn is_registered(&self) -> bool {
        self.state.registered.load(Ordering::Relaxed)
    }

    /// A session, from the dial to its end.
    async fn session(&self, out: &Mutex<Option<mpsc::Sender<proto::SwitchMessage>>>) -> Result<()> {
        let addresses = std::slice::from_ref(&self.address);
        let channel = node_session::client::connect(addresses, &self.key, self.controller).await?;
        let (send, messages) = mpsc::channel(16);
        let register = proto::RegisterSwitch {
            boot: self.boot,
            version: "sim".to_owned(),
            addresses: vec![format!("10.{}.{}.1:4789", self.boot >> 8, self.boot & 0xff)],
            epoch: self.state.epoch.load(Ordering::Relaxed),
            revision: self.state.revision.load(Ordering::Relaxed),
            ..Default::default()
        };
        send.send(proto::SwitchMessage { message: Some(Message::Register(register)) }).await?;
        let mut stream = wire::session(channel, ReceiverStream::new(messages)).await?;
        let mut beat = tokio::time::interval(HEARTBEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut pending = None;
        loop {
            let message = tokio::select! {
                message = stream.message() => message?.context("the stream ended")?,
                _ = beat.tick(), if self.is_registered() => {
                    let beat = proto::Heartbeat { sequence: 1, answer: false };
                    send.send(proto::SwitchMessage { message: Some(Message::Heartbeat(beat)) }).await?;
                    continue;
                }
            };
            if let Some(goodbye) = message.goodbye {
                bail!("goodbye: {}", goodbye.detail);
            }
            if message.registered.is_some() {
                self.state.registered.store(true, Ordering::Relaxed);
                *out.lock().unwrap_or_else(PoisonError::into_inner) = Some(send.clone());
            }
            if let Some(beat) = message.heartbeat.filter(|beat| !beat.answer) {
                let answer = proto::Heartbeat { sequence: beat.sequence, answer: true };
                send.send(proto::SwitchMessage { message: Some(Message::Heartbeat(answer)) }).await?;
            }
            if let Some(refused) = message.refused {
                self.state.refusals.fetch_add(refused.refusals.len() as u64, Ordering::Relaxed);
            }
            if let Some(update) = message.update {
                self.update(update, &mut pending)?;
            }
        }
    }

    /// Parts of one revision count once the last one is there.
    fn update(&self, bytes: bytes::Bytes, pending: &mut Option<(u64, bool)>) -> Result<()> {
        let state = &self.state;
        state.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let update = <wire::Update as prost::Message>::decode(bytes.clone())?;
        let part = (update.revision, update.snapshot);
        let fits = match pending {
            None => {
                update.snapshot == update.first && update.revision >= state.revision.load(Ordering::Relaxed)
            }
            Some(pending) => *pending == part && !update.first,
        };
        ensure!(fits, "a part that does not fit: {part:?} after {pending:?}");
        if let Some(tables) = &mut *self.tables.lock().unwrap_or_else(PoisonError::into_inner) {
            tables.take(bytes)?;
        }
        state.bindings.fetch_add(update.bindings.len() as u64, Ordering::Relaxed);
        *pending = update.more.then_some(part);
        if !update.more {
            let kind = if update.snapshot { &state.snapshots } else { &state.deltas };
            kind.fetch_add(1, Ordering::Relaxed);
            state.epoch.store(update.epoch, Ordering::Relaxed);
            let mut arrivals = state.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
            arrivals.push((update.revision, Instant::now()));
            state.revision.store(update.revision, Ordering::Release);
        }
        Ok(())
    }
}

impl Session {
    /// Dials at once, and again by the backoff of a real node whenever it breaks.
    pub(crate) fn open(node: Arc<Node>) -> Session {
        let out = Arc::default();
        let (kept, sender) = (node.clone(), Arc::clone(&out));
        let task = tokio::spawn(async move {
            let mut backoff = Backoff::new();
            // Even enough to spread the dials.
            let mut random = kept.boot.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            loop {
                let begun = Instant::now();
                let Err(error) = kept.session(&sender).await else { return };
                kept.state.registered.store(false, Ordering::Relaxed);
                *sender.lock().unwrap_or_else(PoisonError::into_inner) = None;
                if kept.state.broken.fetch_add(1, Ordering::Relaxed) < 2 && kept.boot % 100 == 0 {
                    eprintln!("{}: {error:#}", kept.id);
                }
                backoff.session_ended(begun.elapsed());
                random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                tokio::time::sleep(backoff.next(random)).await;
            }
        });
        Session { node, out, task }
    }

    /// Ends it for good.
    pub(crate) async fn end(&mut self) {
        self.task.abort();
        // It was aborted: there is no result.
        let _ = (&mut self.task).await;
        self.node.state.registered.store(false, Ordering::Relaxed);
    }

    /// Reports stations that its switch learned: MACs by number, never seen before.
    pub(crate) async fn claim(&self, vni: u32, stations: &[u64], full: bool) -> Result<()> {
        let claims = stations
            .iter()
            .map(|station| {
                let [.., a, b, c, d] = station.to_be_bytes();
                proto::BindingClaim {
                    key: Some(proto::BindingKey { vni, vlans: Vec::new(), mac: vec![2, 9, a, b, c, d] }),
                    ips: vec![format!("10.{b}.{c}.{d}")],
                    seen_generation: 0,
                }
            })
            .collect();
        let report = proto::BindingReport { full, claims, withdrawals: Vec::new() };
        let sender = self.out.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let sender = sender.with_context(|| format!("{} has no session", self.node.id))?;
        let message = proto::SwitchMessage { message: Some(Message::Bindings(report)) };
        sender.send(message).await.context("the session ended")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
        self.node.state.registered.store(false, Ordering::Relaxed);
    }
}

/// Waits until all nodes are as wanted; for how long it took, and an error after `limit`.
pub(crate) async fn all(
    what: &str,
    sessions: &[Session],
    limit: Duration,
    holds: impl Fn(&Node) -> bool,
) -> Result<Duration> {
    let begun = Instant::now();
    loop {
        let missing = sessions.iter().filter(|session| !holds(&session.node)).count();
        if missing == 0 {
            return Ok(begun.elapsed());
        }
        ensure!(begun.elapsed() < limit, "{what}: {missing} nodes are not there after {limit:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

const HEARTBEAT: Duration = Duration::from_secs(5);
