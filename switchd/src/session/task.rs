//! The task that keeps the session: a thin shell between the pure parts, the controller and the daemon.

use std::collections::VecDeque;
use std::future::pending;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use controller_api::node::goodbye::Reason;
use controller_api::node::switch_message::Message as ToController;
use controller_api::node::{self as wire, RegisterSwitch, SwitchMessage};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use node_session::backoff::Backoff;
use node_session::joined::Joined;
use node_session::{random, rotation};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::claims::Claims;
use super::conversation::{Conversation, Event};
use super::dial::{self, DialError, Opened};
use super::keys::KeyFile;
use super::mirror::Mirror;
use super::reports::Reports;
use super::{Command, Daemon, Signal, Start, State, addresses, store};
use crate::desired::{Revision, Update};
use crate::key::PublicKey;
use crate::netlink::{LinkEvent, Netlink, Watch};

/// The task's side of what [`super::Session`] holds.
pub(super) struct Ends {
    pub(super) state: watch::Sender<State>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) signals: mpsc::Receiver<Signal>,
    pub(super) from_nodes: mpsc::Sender<Signal>,
    pub(super) servers: watch::Sender<wire::RelayServers>,
    pub(super) stopped: oneshot::Receiver<()>,
}

pub(super) struct Task {
    joined: Joined,
    state_dir: PathBuf,
    addresses: Vec<String>,
    keys: KeyFile,
    /// The next dial is made with the key of an unfinished rotation.
    try_next_key: bool,
    listen: std::net::SocketAddr,
    netlink: Option<Netlink>,
    daemon: Daemon,
    ends: Ends,
    boot: u64,

    mirror: Mirror,
    claims: Claims,
    /// Updates that the daemon has not taken yet.
    updates: VecDeque<Update>,
    backoff: Backoff,
    link: Link,
    rotating: Option<(oneshot::Sender<Result<PublicKey, String>>, Instant)>,
    /// The state on disk is older than the mirror's, and is to be written at this time.
    store_at: Option<Instant>,
    storing: Option<JoinHandle<std::io::Result<()>>>,
    claims_at: Option<Instant>,
    /// When stations that were not seen since the start are let go of.
    expire_at: Option<Instant>,
}

/// The way to the controller.
enum Link {
    /// Until the time.
    Waiting(Instant),
    Dialling(BoxFuture<'static, (Vec<String>, Result<Opened, DialError>)>),
    Open(Box<Open>),
    /// For good: the node was removed.
    Over,
}

struct Open {
    opened: Opened,
    conversation: Conversation,
    reports: Reports,
    since: Instant,
    reports_at: Instant,
    /// What was announced of the host, and when to look whether it still holds.
    announced: Vec<String>,
    look_at: Option<Instant>,
}

/// Why a session is over.
enum End {
    Dial(DialError),
    /// What the controller sent made no sense with what is known here.
    Confused(String),
    Goodbye(wire::Goodbye),
    /// The host's addresses changed: they are said in a registration.
    Readdressed,
}

impl Task {
    pub(super) fn new(start: Start, ends: Ends) -> Task {
        let Start { joined, state_dir, addresses, key, key_file, listen, netlink, daemon } = start;
        let addresses = if addresses.is_empty() { joined.controller.addresses.clone() } else { addresses };
        let now = Instant::now();
        let link = if joined.removed.is_some() { Link::Over } else { Link::Waiting(now) };
        let mut task = Task {
            mirror: Mirror::new(joined.node_id.clone()),
            joined,
            state_dir,
            addresses,
            keys: KeyFile::new(key_file, key),
            try_next_key: false,
            listen,
            netlink,
            daemon,
            ends,
            boot: random(),
            claims: Claims::default(),
            updates: VecDeque::new(),
            backoff: Backoff::new(),
            link,
            rotating: None,
            store_at: None,
            storing: None,
            claims_at: None,
            expire_at: Some(now + SILENT_STATIONS),
        };
        task.restore();
        task
    }

    /// Runs until told to stop.
    pub(super) async fn run(mut self) {
        if let Some(why) = &self.joined.removed {
            tracing::error!("this node was removed from cluster {} ({why}): {REJOIN}", self.joined.cluster);
        }
        let mut host = self.netlink.as_ref().map(Netlink::watch);
        loop {
            let due = self.next_due();
            let (have_updates, updates) = (!self.updates.is_empty(), self.daemon.updates.clone());
            tokio::select! {
                _ = &mut self.ends.stopped => break,
                event = next_event(&mut self.link) => self.link_event(event).await,
                Ok(room) = updates.reserve(), if have_updates => {
                    if let Some(update) = self.updates.pop_front() {
                        room.send(update);
                    }
                }
                Some(report) = self.daemon.stations.recv() => self.claims.stations(report),
                Ok(()) = self.daemon.applied.changed() => self.report_applied().await,
                Some(command) = self.ends.commands.recv() => self.command(command).await,
                Some(signal) = self.ends.signals.recv() => self.signal(signal).await,
                () = host_changed(&mut host) => self.look_soon(),
                () = tokio::time::sleep_until(due.into()) => self.timeout().await,
            }
            if self.claims.is_due() && self.claims_at.is_none() {
                self.claims_at = Some(Instant::now() + DEBOUNCE);
            }
            self.publish();
        }
        if let Some(storing) = self.storing.take() {
            let _ = storing.await;
        }
        if self.store_at.is_some()
            && let Err(error) = store::save(&self.state_dir, &self.mirror.to_snapshot())
        {
            store_failed(&error);
        }
    }

    fn restore(&mut self) {
        if self.joined.removed.is_some() {
            return;
        }
        let Some(stored) = store::load(&self.state_dir) else { return };
        match self.mirror.take(stored) {
            Ok(Some(update)) => {
                tracing::info!(revision = update.revision.revision, "starting from the stored state");
                self.claims.restore(&self.mirror);
                self.updates.push_back(update);
            }
            Ok(None) | Err(_) => tracing::warn!("the stored state is not whole and not used"),
        }
    }

    fn next_due(&self) -> Instant {
        let link = match &self.link {
            Link::Waiting(until) => Some(*until),
            Link::Open(open) => {
                let reports = open.conversation.is_live().then_some(open.reports_at);
                let soonest = [Some(open.conversation.poll_timeout()), reports, open.look_at, self.claims_at];
                soonest.into_iter().flatten().min()
            }
            Link::Dialling(_) | Link::Over => None,
        };
        let store = if self.storing.is_some() { None } else { self.store_at };
        let rotating = self.rotating.as_ref().map(|(_, until)| *until);
        let idle = Instant::now() + Duration::from_secs(60);
        [link, store, rotating, self.expire_at].into_iter().flatten().min().unwrap_or(idle).min(idle)
    }

    async fn timeout(&mut self) {
        let now = Instant::now();
        if self.expire_at.take_if(|at| now >= *at).is_some() {
            self.claims.expire();
        }
        if let Some((reply, _)) = self.rotating.take_if(|(_, until)| now >= *until) {
            let _ =
                reply.send(Err("the controller did not answer: both keys are kept, and which one it knows \
                                    shows when the session comes back"
                    .to_owned()));
            return self.end(End::Dial(DialError::Slow)).await;
        }
        if self.storing.as_ref().is_some_and(JoinHandle::is_finished)
            && let Some(storing) = self.storing.take()
            && let Ok(Err(error)) = storing.await
        {
            store_failed(&error);
        }
        if self.storing.is_none() && self.store_at.take_if(|at| now >= *at).is_some() {
            let (state_dir, state) = (self.state_dir.clone(), self.mirror.to_snapshot());
            self.storing = Some(tokio::task::spawn_blocking(move || store::save(&state_dir, &state)));
        }
        match &mut self.link {
            Link::Waiting(until) if now >= *until => self.dial(),
            Link::Open(_) => self.session_timeout(now).await,
            _ => {}
        }
    }

    async fn session_timeout(&mut self, now: Instant) {
        let Link::Open(open) = &mut self.link else { return };
        match open.conversation.handle_timeout(now) {
            Err(ended) => return self.end(End::Dial(DialError::Broken(ended.to_string()))).await,
            Ok(None) => {}
            Ok(Some(heartbeat)) => self.send(heartbeat).await,
        }
        let Link::Open(open) = &mut self.link else { return };
        if open.look_at.take_if(|at| now >= *at).is_some() {
            let before = open.announced.clone();
            if host_addresses(self.netlink.as_ref(), self.overlay(), self.listen).await != before {
                return self.end(End::Readdressed).await;
            }
        }
        self.report(now).await;
    }

    async fn report(&mut self, now: Instant) {
        let Link::Open(open) = &mut self.link else { return };
        if !open.conversation.is_live() {
            return;
        }
        let mut messages = Vec::new();
        if now >= open.reports_at {
            open.reports_at = now + Reports::PERIOD;
            let view = &self.daemon.view;
            let links = open.reports.links(&view.links(), now);
            messages.extend(links.map(ToController::Links));
            let networks = open.reports.networks(&view.status().networks, &view.stats(), now);
            messages.extend(networks.map(ToController::Networks));
        }
        if self.claims_at.take_if(|at| now >= *at).is_some() {
            messages.extend(self.claims.changes(&self.mirror).map(ToController::Bindings));
        }
        for message in messages {
            self.send(message).await;
        }
    }

    fn dial(&mut self) {
        let key = match (self.try_next_key, self.keys.next()) {
            (true, Some(next)) => next.clone(),
            _ => self.keys.current().clone(),
        };
        let Revision { epoch, revision } = self.mirror.revision();
        let (boot, listen) = (self.boot, self.listen);
        let (addresses, controller) = (self.addresses.clone(), self.joined.controller.public_key);
        let (netlink, overlay) = (self.netlink.clone(), self.overlay());
        let attempt = async move {
            let announced = host_addresses(netlink.as_ref(), overlay, listen).await;
            let register = RegisterSwitch {
                boot,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                addresses: announced.clone(),
                listen_port: listen.port().into(),
                epoch,
                revision,
                machine: dial::machine(),
            };
            (announced, dial::dial(addresses, key, controller, register).await)
        };
        self.link = Link::Dialling(attempt.boxed());
    }

    /// Names of the overlay's own devices, whose addresses are not the host's.
    fn overlay(&self) -> Vec<String> {
        let networks = self.daemon.view.status().networks;
        networks.into_iter().flat_map(|network| [network.bridge, network.endpoint]).collect()
    }

    async fn link_event(&mut self, event: LinkProgress) {
        let now = Instant::now();
        match event {
            LinkProgress::Opened(announced, opened) => {
                let open = Open {
                    opened,
                    conversation: Conversation::new(now),
                    reports: Reports::default(),
                    since: now,
                    reports_at: now,
                    announced,
                    look_at: None,
                };
                self.link = Link::Open(Box::new(open));
            }
            LinkProgress::Failed(error) => self.end(End::Dial(error)).await,
            LinkProgress::Message(message) => {
                let Link::Open(open) = &mut self.link else { return };
                match open.conversation.handle(message, now) {
                    Ok(event) => self.session_event(event, now).await,
                    Err(ended) => self.end(End::Confused(ended.to_string())).await,
                }
            }
        }
    }

    async fn session_event(&mut self, event: Event, now: Instant) {
        match event {
            Event::Registered(registered) => self.registered(registered).await,
            Event::Answer(message) => self.send(message).await,
            Event::Update(part) => match self.mirror.take(part) {
                Ok(None) => {}
                Ok(Some(update)) => {
                    self.claims.update(&update);
                    self.updates.push_back(update);
                    self.store_at.get_or_insert(now + STORE_DELAY);
                }
                Err(error) => self.end(End::Confused(error.to_string())).await,
            },
            Event::Signal(signal) => {
                let signal = Signal { node_id: signal.node_id, payload: signal.payload };
                if self.ends.from_nodes.try_send(signal).is_err() {
                    tracing::debug!("a signal of another node is dropped: nobody takes them");
                }
            }
            Event::Relays(relays) => drop(self.ends.servers.send_replace(relays)),
            Event::Refused(answer) => self.claims.refused(&answer),
            Event::KeyRotated(rotated) => self.key_rotated(&rotated).await,
            Event::Goodbye(goodbye) => self.end(End::Goodbye(goodbye)).await,
            Event::Alive => {}
        }
    }

    async fn registered(&mut self, registered: wire::Registered) {
        tracing::info!(
            node = registered.node_name,
            id = registered.node_id,
            cluster = registered.cluster,
            "the session with the controller is up"
        );
        if self.try_next_key {
            // The controller had made the change when the session, or this process, broke.
            self.try_next_key = false;
            self.confirm_key().await;
        } else if let Err(error) = self.keys.abandon() {
            tracing::warn!(%error, "the key of a rotation that never was could not be removed");
        }
        let bindings = self.claims.full(&self.mirror);
        self.claims_at = None;
        self.ends.state.send_modify(|state| {
            state.reconnects += u64::from(state.last_heard.is_some());
            state.connected = Some(Instant::now());
        });
        self.send(ToController::Bindings(bindings)).await;
        if self.daemon.applied.borrow_and_update().revision != Revision::default() {
            self.report_applied().await;
        }
        self.report(Instant::now()).await;
    }

    async fn report_applied(&mut self) {
        let applied = self.daemon.applied.borrow_and_update().clone();
        let mut problems = applied.problems;
        problems.extend(self.mirror.problems());
        let Revision { epoch, revision } = applied.revision;
        self.send(ToController::Applied(wire::Applied { epoch, revision, problems })).await;
    }

    async fn signal(&mut self, signal: Signal) {
        let signal = wire::Signal { node_id: signal.node_id, payload: signal.payload };
        self.send(ToController::Signal(signal)).await;
    }

    async fn command(&mut self, command: Command) {
        let Command::RotateKey(reply) = command;
        let live = matches!(&self.link, Link::Open(open) if open.conversation.is_live());
        if !live || self.rotating.is_some() {
            let why = if live { "the key is being rotated already" } else { NO_SESSION };
            let _ = reply.send(Err(why.to_owned()));
            return;
        }
        let old = self.keys.current().public();
        let message = match self.keys.begin() {
            Ok(new) => {
                let proof = rotation::prove(new, &old);
                ToController::RotateKey(wire::RotateKey { public_key: new.public().0.to_vec(), proof })
            }
            Err(error) => {
                let _ = reply.send(Err(error.to_string()));
                return;
            }
        };
        self.rotating = Some((reply, Instant::now() + ROTATION));
        self.send(message).await;
    }

    async fn key_rotated(&mut self, rotated: &wire::KeyRotated) {
        let Some((reply, _)) = self.rotating.take() else { return };
        if rotated.error.is_empty() {
            self.confirm_key().await;
            let _ = reply.send(Ok(self.keys.current().public()));
            return;
        }
        if let Err(error) = self.keys.abandon() {
            tracing::warn!(%error, "the refused key could not be removed");
        }
        let _ = reply.send(Err(format!("the controller refused the new key: {}", rotated.error)));
    }

    async fn confirm_key(&mut self) {
        if let Err(error) = self.keys.confirm() {
            tracing::error!(%error, "the new key could not take the old one's place on disk, and is tried at the next start");
        }
        // It fails when the daemon stops.
        let _ = self.daemon.keys.send(self.keys.current().clone()).await;
    }

    /// Sends, if there is a session. A controller that takes nothing any more ends it.
    async fn send(&mut self, message: ToController) {
        let Link::Open(open) = &mut self.link else { return };
        if !open.conversation.is_live() {
            return;
        }
        let message = SwitchMessage { message: Some(message) };
        if open.opened.to_controller.try_send(message).is_err() {
            let why = "the controller takes no more messages".to_owned();
            Box::pin(self.end(End::Dial(DialError::Broken(why)))).await;
        }
    }

    async fn end(&mut self, end: End) {
        let now = Instant::now();
        if let Link::Open(open) = &self.link {
            self.backoff.session_ended(now - open.since);
        }
        self.mirror.abandon();
        if let Some((reply, _)) = self.rotating.take() {
            let _ = reply.send(Err("the session broke: both keys are kept until it is back".to_owned()));
        }
        let mut wait = self.backoff.next(random());
        let (why, news) = match end {
            End::Goodbye(goodbye) if goodbye.reason() == Reason::Removed => {
                return self.removed(goodbye.detail).await;
            }
            End::Goodbye(goodbye) => {
                let why = explain(&goodbye);
                match goodbye.reason() {
                    Reason::Cloned => {
                        wait = LONG_WAIT;
                        tracing::error!("{why}");
                    }
                    Reason::Protocol => {
                        self.mirror.forget_revision();
                        tracing::error!("{why}");
                    }
                    _ => tracing::info!("{why}"),
                }
                (why, false)
            }
            End::Dial(DialError::Refused(why)) if self.keys.next().is_some() => {
                self.try_next_key = !self.try_next_key;
                (DialError::Refused(why).to_string(), true)
            }
            End::Dial(error @ DialError::Refused(_)) => {
                wait = LONG_WAIT;
                (format!("{error}: {REJOIN}"), true)
            }
            End::Dial(error) => (with_source(&error), true),
            End::Confused(why) => {
                self.mirror.forget_revision();
                (why, true)
            }
            End::Readdressed => {
                wait = Duration::ZERO;
                ("this host's addresses changed".to_owned(), true)
            }
        };
        if news && self.ends.state.borrow().last_error.as_ref() != Some(&why) {
            // Once, not at each attempt.
            tracing::warn!("no session with the controller: {why}");
        }
        self.ends.state.send_modify(|state| {
            state.connected = None;
            state.last_error = Some(why);
        });
        self.link = Link::Waiting(now + wait);
    }

    /// This node is none of the cluster's any more: all that came from the controller goes, at once and for good.
    async fn removed(&mut self, detail: String) {
        let why = if detail.is_empty() { "the controller said so".to_owned() } else { detail };
        tracing::error!("this node was removed from cluster {} ({why}): {REJOIN}", self.joined.cluster);
        self.link = Link::Over;
        let update = self.mirror.clear();
        self.claims = Claims::default();
        self.updates.clear();
        self.updates.push_back(update);
        self.joined.removed = Some(why.clone());
        if let Err(error) = self.joined.save(&self.state_dir) {
            tracing::error!(%error, "a restart will not know that this node was removed");
        }
        if let Some(storing) = self.storing.take() {
            let _ = storing.await;
        }
        self.store_at = None;
        if let Err(error) = store::forget(&self.state_dir) {
            tracing::error!(%error, "the stored state could not be removed");
        }
        self.ends.state.send_modify(|state| {
            state.connected = None;
            state.last_error = None;
            state.removed = Some(why);
        });
    }

    fn look_soon(&mut self) {
        if let Link::Open(open) = &mut self.link {
            open.look_at.get_or_insert(Instant::now() + ADDRESSES_SETTLE);
        }
    }

    fn publish(&self) {
        let heard = match &self.link {
            Link::Open(open) => Some(open.conversation.last_heard()),
            _ => None,
        };
        self.ends.state.send_if_modified(|state| {
            let before = state.clone();
            state.last_heard = heard.or(state.last_heard);
            state.revision = self.mirror.revision();
            state.refused_claims = self.claims.refusals();
            *state != before
        });
    }
}

enum LinkProgress {
    Opened(Vec<String>, Opened),
    Message(wire::ControllerToSwitch),
    Failed(DialError),
}

/// What happens next on the way to the controller. Cancel safe: a dial goes on where it was.
async fn next_event(link: &mut Link) -> LinkProgress {
    match link {
        Link::Dialling(attempt) => match attempt.await {
            (announced, Ok(opened)) => LinkProgress::Opened(announced, opened),
            (_, Err(error)) => LinkProgress::Failed(error),
        },
        Link::Open(open) => match open.opened.from_controller.message().await {
            Ok(Some(message)) => LinkProgress::Message(message),
            Ok(None) => LinkProgress::Failed(DialError::Broken("the controller closed it".to_owned())),
            Err(status) => LinkProgress::Failed(status.into()),
        },
        Link::Waiting(_) | Link::Over => pending().await,
    }
}

async fn host_changed(host: &mut Option<Watch>) {
    while let Some(watch) = host {
        match watch.next().await {
            Some(LinkEvent::AddressChanged { .. } | LinkEvent::Resync) => return,
            Some(_) => {}
            None => *host = None,
        }
    }
    pending::<()>().await;
}

async fn host_addresses(
    netlink: Option<&Netlink>,
    overlay: Vec<String>,
    listen: std::net::SocketAddr,
) -> Vec<String> {
    let Some(netlink) = netlink else { return Vec::new() };
    match addresses::read(netlink, &overlay, listen).await {
        Ok(addresses) => super::convert::texts(&addresses),
        Err(error) => {
            tracing::warn!(%error, "this host's addresses are not known, and not announced");
            Vec::new()
        }
    }
}

pub(super) fn explain(goodbye: &wire::Goodbye) -> String {
    let detail = &goodbye.detail;
    match goodbye.reason() {
        Reason::Cloned => format!(
            "another live node has this node's key ({detail}): one of the two is a copy; on the copy: switchd leave \
             --key, then switchd join with a token of its own"
        ),
        Reason::Protocol => format!(
            "the controller refused what this node sent ({detail}): switchd and controller may be of different versions"
        ),
        Reason::Superseded => format!("a newer session took over ({detail})"),
        Reason::Stopping => "the controller stops".to_owned(),
        Reason::Removed | Reason::Unspecified => format!("the controller ended the session ({detail})"),
    }
}

fn with_source(error: &DialError) -> String {
    use std::error::Error as _;
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn store_failed(error: &std::io::Error) {
    tracing::error!(%error, "the state was not stored: after a restart with the controller down it is missing");
}

const REJOIN: &str = "to make it one again, switchd leave --key, then switchd join with a new token";
const NO_SESSION: &str =
    "there is no session with the controller: try again when `switchctl status` shows it connected";
/// Changes of stations within it go in one report.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// At most so often is the state written.
const STORE_DELAY: Duration = Duration::from_secs(2);
/// For trouble that only people can mend.
const LONG_WAIT: Duration = Duration::from_secs(60);
/// A station that is silent for so long after a restart is gone: as long as a MAC is remembered.
const SILENT_STATIONS: Duration = Duration::from_secs(300);
/// For the controller's word on a new key.
const ROTATION: Duration = Duration::from_secs(10);
/// Addresses come in several events.
const ADDRESSES_SETTLE: Duration = Duration::from_millis(500);
