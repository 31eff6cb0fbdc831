//! One peer's link: the task that carries out what its [`Sessions`] decide.

mod offers;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nat_traversal::{PathEvent, PathId, Route, Slot};
use quinn::{Connection, ConnectionError};
use switch_core::ids::{PeerId, Vni};
use tokio::sync::{mpsc, oneshot};

use super::carriage;
use super::connect::{Dial, DialError};
use super::control::Control;
use super::dial::DialOrder;
use super::identity;
use super::session::{CLOSE_DONE, CLOSE_IDLE, CLOSE_REFUSED, Established, Live, SessionEvent, Setup};
use super::sessions::{Action, SessionId, Sessions, Timing};
use super::{PeerConfig, Shared};
use crate::dataplane::Command;
use crate::traversal::News;

/// What happens to a link.
#[derive(Debug)]
pub(super) enum Message {
    /// The peer dialled and proved its key; the way that the connection came.
    Inbound(Connection, Route),
    /// A dial or an inbound connection became a session by this route, or not.
    Made { dialled: bool, route: Option<Route>, result: Result<Box<Established>, DialError> },
    /// A running session says something.
    Session(SessionId, SessionEvent),
    /// Checks say something about the ways to the peer.
    News(News),
    /// A frame or a binding needs the link.
    Wanted,
    /// No frame has needed the link for long.
    Idle,
    /// The worker says something about the paths.
    Path(PathEvent),
    /// A fresh handshake is due.
    Renew,
    /// What is known of the peer changed.
    Reconfigure(PeerConfig),
    /// The timing of all links changed.
    SetTiming,
    /// This node has another key: use it from now on, with a fresh handshake after this long.
    OwnKey(Duration),
    /// This node's networks changed.
    AnnounceNetworks,
    /// The peer was removed.
    Stop,
}

/// A link as it stands, for tables and metrics.
#[derive(Clone, Debug, Default)]
pub struct LinkStatus {
    /// A session is in use.
    pub up: bool,
    /// A handshake is under way.
    pub connecting: bool,
    /// How datagrams reach the peer: the way of frames, or that of the next dial.
    pub route: Option<Route>,
    /// Sessions made so far.
    pub epoch: u64,
    /// When the session in use was made.
    pub since: Option<Instant>,
    /// Its cipher.
    pub cipher: Option<&'static str>,
    /// How often the link came up again.
    pub reconnects: u64,
    /// Why the last handshake or session failed.
    pub last_error: Option<String>,
    /// When a frame or a binding last asked for the link; `None` once it was let go.
    pub wanted_at: Option<Instant>,
    /// The networks that the peer says it is in.
    pub vnis: Vec<Vni>,
}

/// A peer's task, seen from the manager.
#[derive(Clone, Debug)]
pub(super) struct PeerTask {
    /// What this node's own parts say, in order.
    pub(super) orders: mpsc::UnboundedSender<Message>,
    /// What the peer can cause: it waits where there is much.
    pub(super) messages: mpsc::Sender<Message>,
    pub(super) status: Arc<Mutex<LinkStatus>>,
}

impl PeerTask {
    pub(super) fn spawn(shared: Arc<Shared>, config: PeerConfig) -> PeerTask {
        let (orders, ordered) = mpsc::unbounded_channel();
        let (messages, received) = mpsc::channel(64);
        let status = Arc::new(Mutex::new(LinkStatus::default()));
        let now = Instant::now();
        let owner = shared.public_key() < config.key;
        let order = DialOrder::new(config.addresses.clone());
        let sessions = Sessions::new(owner, !order.is_empty(), timing(&shared), now);
        let link = PeerLink {
            span: tracing::info_span!("link", peer = %config.name),
            sessions,
            live: HashMap::new(),
            next_id: 0,
            wanted: !shared.config.load().on_demand,
            cancel_dial: None,
            offers: Vec::new(),
            next_path: 0,
            has_been_up: false,
            failed_dials: 0,
            order,
            key_change_ends: None,
            messages: messages.clone(),
            status: status.clone(),
            shared,
            config,
        };
        tokio::spawn(link.run(ordered, received));
        PeerTask { orders, messages, status }
    }
}

struct PeerLink {
    shared: Arc<Shared>,
    config: PeerConfig,
    span: tracing::Span,
    sessions: Sessions,
    live: HashMap<SessionId, Live>,
    next_id: SessionId,
    /// The link is to be made from this end too.
    wanted: bool,
    /// Ends the dial of an address that is a mere guess.
    cancel_dial: Option<oneshot::Sender<()>>,
    /// The ways that the worker was told of, oldest first.
    offers: Vec<(PathId, Route)>,
    next_path: u32,
    has_been_up: bool,
    failed_dials: u32,
    order: DialOrder,
    /// The peer's key changed: until then its former key is good too.
    key_change_ends: Option<Instant>,
    messages: mpsc::Sender<Message>,
    status: Arc<Mutex<LinkStatus>>,
}

impl PeerLink {
    async fn run(
        mut self,
        mut ordered: mpsc::UnboundedReceiver<Message>,
        mut received: mpsc::Receiver<Message>,
    ) {
        if let Some(address) = self.order.best_named() {
            self.note_route(Route::Direct(address));
        }
        self.sessions.set_may_dial(self.may_dial(), Instant::now());
        if self.wanted {
            self.look_for_ways();
        } else {
            self.shared.worker.send(Command::SetOnDemand(self.config.id, true));
        }
        loop {
            self.act();
            let wake = [self.sessions.poll_timeout(), self.key_change_ends];
            let wake = wake.into_iter().flatten().min();
            let sleep = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                order = ordered.recv() => match order {
                    Some(Message::Stop) | None => break,
                    Some(order) => self.handle(order),
                },
                Some(message) = received.recv() => self.handle(message),
                () = sleep => {}
            }
            if self.key_change_ends.is_some_and(|end| Instant::now() >= end) {
                self.end_key_change();
            }
        }
        drop(received);
        for live in self.live.values() {
            live.connection.close(CLOSE_REFUSED.into(), b"no longer a peer");
            self.shared.worker.send(Command::RemoveSession(live.index));
        }
        self.shared.worker.send(Command::RemovePeer(self.config.id));
        // The last word to the peer takes this path.
        tokio::time::sleep(LAST_WORD).await;
        self.shared.paths_mut().forget(slot(self.config.id));
    }

    fn handle(&mut self, message: Message) {
        let now = Instant::now();
        match message {
            Message::Inbound(connection, from) => {
                if self.sessions.active().is_none() {
                    self.meet(from);
                    self.select_route(from);
                }
                self.make(async move { Ok(connection) }, false, Some(from));
            }
            Message::Made { dialled, route, result: Ok(established) } => {
                self.begin(*established, dialled, route, now);
            }
            Message::Made { dialled: true, result: Err(DialError::Superseded), .. } => {
                self.sessions.dial_failed(true, now);
            }
            Message::Made { dialled, route, result: Err(e) } => {
                let _entered = self.span.enter();
                if dialled && self.failed_dials == 0 && self.sessions.active().is_none() {
                    tracing::warn!(error = %e, "the peer cannot be reached; it is tried again and again");
                } else {
                    tracing::debug!(dialled, error = %e, "handshake failed");
                }
                self.status().last_error = Some(e.to_string());
                if dialled {
                    self.failed_dials += 1;
                    let more = self.sessions.active().is_none() && self.order.failed(route);
                    self.sessions.dial_failed(more, now);
                }
            }
            Message::Session(id, SessionEvent::Membership(vnis)) => {
                if let Some(live) = self.live.get_mut(&id) {
                    live.peer_vnis.clone_from(&vnis);
                }
                if self.sessions.active() == Some(id) {
                    self.set_membership(vnis);
                }
            }
            Message::Session(id, SessionEvent::Retire) => self.sessions.retire(id, now),
            Message::Session(id, SessionEvent::Closed(reason)) => self.end(id, &reason, now),
            Message::News(news) => self.handle_news(news, now),
            Message::Wanted => self.want(now),
            Message::Idle => self.idle(now),
            Message::Path(event) => self.handle_path(event),
            Message::Renew => self.sessions.renew(now),
            Message::Reconfigure(config) => self.reconfigure(config, now),
            Message::SetTiming => self.sessions.set_timing(timing(&self.shared)),
            Message::OwnKey(after) => {
                self.sessions.set_owner(self.shared.public_key() < self.config.key);
                self.sessions.renew(now + after);
            }
            Message::AnnounceNetworks => self.announce_networks(),
            Message::Stop => {}
        }
    }

    fn act(&mut self) {
        for action in self.sessions.poll(Instant::now()) {
            match action {
                Action::Dial => self.dial(),
                Action::Use(id) => self.use_session(id),
                Action::LinkDown => self.link_down(),
                Action::Retire(id) => {
                    if let Some(live) = self.live.get(&id) {
                        let _ = live.to_peer.try_send(Control::Retire);
                    }
                }
                Action::Close(id) => {
                    if let Some(live) = self.live.get(&id) {
                        live.connection.close(CLOSE_DONE.into(), b"replaced");
                    }
                }
            }
        }
        self.status().connecting = self.sessions.dialling();
    }

    fn reconfigure(&mut self, config: PeerConfig, now: Instant) {
        let dropped = |route: Route| match route {
            Route::Direct(at) => self.order.is_guess(route) && !config.addresses.contains(&at),
            Route::Relayed(..) => false,
        };
        let gone: Vec<Route> = self.offers.iter().map(|(_, route)| *route).filter(|r| dropped(*r)).collect();
        let stale = self.route().is_none_or(dropped);
        let (key, addresses) = (self.config.key, std::mem::replace(&mut self.config, config).addresses);
        if self.config.key != key {
            tracing::info!(parent: &self.span, key = %self.config.key, "the peer has a new key");
            self.sessions.set_owner(self.shared.public_key() < self.config.key);
            self.key_change_ends = Some(now + KEY_CHANGE);
            self.sessions.renew(now);
        }
        if self.config.addresses == addresses {
            return;
        }
        self.order.set_named(self.config.addresses.clone());
        match self.order.best_named().map(Route::Direct).filter(|_| stale) {
            Some(route) if self.sessions.active().is_some() => self.offer(route, false),
            Some(route) => self.select_route(route),
            None => self.sessions.set_may_dial(self.may_dial(), now),
        }
        gone.into_iter().for_each(|route| self.withdraw(route));
    }

    /// From now on only the peer's present key counts.
    fn end_key_change(&mut self) {
        self.key_change_ends = None;
        self.shared.forget_former_keys(self.config.id, self.config.key);
        for live in self.live.values() {
            if identity::proven_key(&live.connection) != Some(self.config.key) {
                live.connection.close(CLOSE_REFUSED.into(), b"the key has been replaced");
            }
        }
    }

    /// Dials: a link that is up on its path, one that is down at the address whose turn it is.
    fn dial(&mut self) {
        let mut patience = super::connect::TIMEOUT;
        let mut cancelled_by = None;
        if self.sessions.active().is_none()
            && let Some(attempt) = self.order.attempt()
        {
            patience = attempt.patience;
            if self.route() != Some(attempt.route) {
                self.note_route(attempt.route);
            }
            if !attempt.found {
                let (cancel, cancelled) = oneshot::channel();
                (self.cancel_dial, cancelled_by) = (Some(cancel), Some(cancelled));
            }
        }
        let again = self.failed_dials > 0;
        let dial =
            Dial { peer: self.config.id, key: self.config.key, patience, again, cancelled: cancelled_by };
        let shared = self.shared.clone();
        let connect = async move { dial.connect(&shared).await };
        self.make(connect, true, self.route());
    }

    /// Turns a connection into a session, in a task of its own.
    fn make(
        &mut self,
        connection: impl Future<Output = Result<Connection, DialError>> + Send + 'static,
        dialled: bool,
        route: Option<Route>,
    ) {
        self.next_id += 1;
        let id = self.next_id;
        let peer = self.config.id;
        let shared = self.shared.clone();
        let messages = self.messages.clone();
        tokio::spawn(async move {
            let result = async {
                let connection = connection.await?;
                let hello = shared.hello.load_full();
                let setup = Setup { peer, id, dialled, hello: &hello, worker: &shared.worker };
                Established::new(connection, setup).await.map(Box::new).map_err(DialError::Session)
            };
            let result = tokio::select! {
                result = result => result,
                () = messages.closed() => return, // the peer was removed, and its sessions' keys with it
            };
            let message = Message::Made { dialled, route, result };
            if let Err(mpsc::error::SendError(Message::Made { result: Ok(established), .. })) =
                messages.send(message).await
            {
                shared.worker.send(Command::RemoveSession(established.index)); // the peer was removed meanwhile
            }
        });
    }

    fn begin(&mut self, established: Established, dialled: bool, route: Option<Route>, now: Instant) {
        let (id, boot) = (established.id, established.peer_boot);
        debug_assert_eq!(established.dialled, dialled);
        let (live, task) = established.into_parts(self.messages.clone());
        tokio::spawn(task);
        let sender = carriage::carry(&live.connection, self.config.id, &self.shared.worker);
        self.shared.worker.send(Command::SetQuicSender(live.index, sender));
        let renewed = identity::proven_key(&live.connection) == Some(self.config.key);
        self.live.insert(id, live);
        self.failed_dials = 0;
        self.sessions.ready(id, boot, dialled, now);
        self.act();
        if let Some(route) = route {
            self.meet(route);
            self.offer(route, true);
        }
        if renewed && self.key_change_ends.is_some() {
            // The sessions of the former key are replaced in the usual way, so that nothing on its way is lost.
            self.key_change_ends = Some(now + FORMER_KEY_LINGER);
            self.shared.forget_former_keys(self.config.id, self.config.key);
        }
        let mut status = self.status();
        status.epoch += 1;
        status.last_error = None;
    }

    fn use_session(&mut self, id: SessionId) {
        let Some(live) = self.live.get(&id) else { return };
        let (index, cipher, since) = (live.index, live.cipher.name(), live.since);
        let vnis = live.peer_vnis.clone();
        self.shared.worker.send(Command::UseSession(self.config.id, Some(index)));
        self.set_membership(vnis);
        let was_up = {
            let mut status = self.status();
            status.cipher = Some(cipher);
            status.since = Some(since);
            if !status.up && self.has_been_up {
                status.reconnects += 1;
            }
            std::mem::replace(&mut status.up, true)
        };
        self.has_been_up = true;
        if !was_up && let Some(route) = self.route() {
            tracing::info!(parent: &self.span, address = %route, cipher, "link up");
        }
    }

    fn link_down(&mut self) {
        self.shared.worker.send(Command::UseSession(self.config.id, None));
        if self.wanted {
            self.look_for_ways();
        }
        if let Some(route) = self.route() {
            self.shared.paths_mut().select_only(slot(self.config.id), route);
        }
        let mut status = self.status();
        status.up = false;
        (status.since, status.cipher) = (None, None);
        tracing::info!(parent: &self.span, reason = status.last_error, "link down");
    }

    fn end(&mut self, id: SessionId, reason: &ConnectionError, now: Instant) {
        let Some(live) = self.live.remove(&id) else { return };
        tracing::debug!(parent: &self.span, session = id, %reason, "session ended");
        let replaced = matches!(reason, ConnectionError::LocallyClosed)
            || matches!(reason, ConnectionError::ApplicationClosed(c) if c.error_code == CLOSE_DONE.into());
        if !replaced {
            self.status().last_error = Some(reason.to_string());
        }
        let idle =
            matches!(reason, ConnectionError::ApplicationClosed(c) if c.error_code == CLOSE_IDLE.into());
        if idle {
            // Dialled again at once, it would be let go again and again, so it waits here for a frame too.
            self.idle(now);
        }
        self.sessions.closed(id, now);
        // What the peer sealed before it knew is still on its way.
        let worker = self.shared.worker.clone();
        let linger = if replaced { LINGER } else { Duration::ZERO };
        tokio::spawn(async move {
            tokio::time::sleep(linger).await;
            worker.send(Command::RemoveSession(live.index));
        });
    }

    fn want(&mut self, now: Instant) {
        self.status().wanted_at = Some(now);
        if std::mem::replace(&mut self.wanted, true) {
            return;
        }
        self.look_for_ways();
        self.sessions.set_may_dial(self.may_dial(), now);
    }

    /// Lets go of the link until a frame or the peer wants it again.
    fn idle(&mut self, now: Instant) {
        self.wanted = false;
        self.status().wanted_at = None;
        self.shared.worker.send(Command::SetOnDemand(self.config.id, true));
        self.sessions.set_may_dial(false, now);
        for live in self.live.values() {
            live.connection.close(CLOSE_IDLE.into(), b"no frame needs the link");
        }
        if let Some(traversals) = self.shared.traversals.get() {
            traversals.sleep(self.config.id);
        }
        for (route, _) in self.order.forget_found() {
            self.withdraw(route);
        }
    }

    fn announce_networks(&self) {
        let vnis = self.shared.hello.load().vnis.clone();
        for live in self.live.values() {
            let _ = live.to_peer.try_send(Control::Networks { vnis: vnis.clone() });
        }
    }

    fn set_membership(&self, vnis: Vec<Vni>) {
        self.status().vnis.clone_from(&vnis);
        self.shared.worker.send(Command::SetMembership(self.config.id, vnis));
    }

    fn may_dial(&self) -> bool {
        self.wanted && !self.order.is_empty()
    }

    fn status(&self) -> std::sync::MutexGuard<'_, LinkStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn slot(peer: PeerId) -> Slot {
    Slot(peer.0)
}

fn timing(shared: &Shared) -> Timing {
    Timing { rekey_after: shared.config.load().rekey_after }
}

/// How long a peer whose key changes may still prove the former one.
const KEY_CHANGE: Duration = Duration::from_secs(60);
/// How long a removed peer's path is kept, for the connections' driver to say that they are closed.
const LAST_WORD: Duration = Duration::from_millis(200);
/// Sessions of a former key end at last this long after the first one of the new key.
const FORMER_KEY_LINGER: Duration = Duration::from_secs(5);
/// How long a replaced session still opens what is on its way.
const LINGER: Duration = Duration::from_secs(3);
