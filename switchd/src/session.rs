//! The session with the controller: what it says becomes [`desired::Update`](crate::desired::Update)s for the daemon,
//! what the daemon sees becomes reports for it.
//!
//! One task keeps one session at a time, from the join until the stop of the daemon, over reconnects. The state that
//! came last is stored, so that a node starts and forwards with the controller down. `mirror`, `claims`,
//! `reports` and `conversation` are pure and decide; `task` carries messages between them, the network and the
//! daemon.

pub(crate) mod addresses;
mod claims;
mod conversation;
mod convert;
mod dial;
pub mod join;
mod keys;
mod mirror;
mod reports;
pub mod rotate;
mod store;
mod task;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use controller_api::node::RelayServers;
use node_session::joined::Joined;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::desired::{Applied, Revision, StationReport, Update};
use crate::key::{PrivateKey, PublicKey};
use crate::netlink::Netlink;
use crate::view::{self, View};

/// What a session is made of.
pub struct Start {
    /// What `switchd join` wrote.
    pub joined: Joined,
    /// Its directory.
    pub state_dir: PathBuf,
    /// In place of the addresses that `joined` has; none for those.
    pub addresses: Vec<String>,
    /// This node's key, and its file.
    pub key: PrivateKey,
    /// Its file.
    pub key_file: PathBuf,
    /// The UDP socket that peers dial.
    pub listen: SocketAddr,
    /// For the host's addresses; without, none are announced.
    pub netlink: Option<Netlink>,
    /// The daemon's ends.
    pub daemon: Daemon,
}

/// The daemon, as a session sees it.
pub struct Daemon {
    /// What the switch shall be.
    pub updates: mpsc::Sender<Update>,
    /// What it is.
    pub applied: watch::Receiver<Applied>,
    /// Stations on its bridges.
    pub stations: mpsc::Receiver<StationReport>,
    /// A new key for its links.
    pub keys: mpsc::Sender<PrivateKey>,
    /// Links and networks.
    pub view: Arc<dyn View>,
}

/// The running session.
pub struct Session {
    remote: Remote,
    signals: Option<Signals>,
    servers: watch::Receiver<RelayServers>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Session {
    /// Starts it: the stored state is the first update. Needs a running tokio runtime.
    pub fn start(start: Start) -> Session {
        let state = State {
            cluster: start.joined.cluster.clone(),
            node_id: start.joined.node_id.clone(),
            removed: start.joined.removed.clone(),
            ..State::default()
        };
        let (state, state_from) = watch::channel(state);
        let (commands_to, commands) = mpsc::channel(4);
        let (signals_to, signals) = mpsc::channel(SIGNALS);
        let (from_nodes, signals_from) = mpsc::channel(SIGNALS);
        let (servers, servers_from) = watch::channel(RelayServers::default());
        let (stop, stopped) = oneshot::channel();
        let ends = task::Ends { state, commands, signals, from_nodes, servers, stopped };
        let task = tokio::spawn(task::Task::new(start, ends).run());
        Session {
            remote: Remote { state: state_from, commands: commands_to },
            signals: Some(Signals { to_nodes: signals_to, from_nodes: signals_from }),
            servers: servers_from,
            stop,
            task,
        }
    }

    /// For whoever shows the session, or asks something of it.
    pub fn remote(&self) -> Remote {
        self.remote.clone()
    }

    /// Words between nodes through the controller, once: for NAT traversal. Lost while there is no session.
    pub fn signals(&mut self) -> Option<Signals> {
        self.signals.take()
    }

    /// The STUN and TURN servers that the controller named, in the latest session.
    pub fn servers(&self) -> watch::Receiver<RelayServers> {
        self.servers.clone()
    }

    /// Ends it, with the last state on disk.
    pub async fn stop(self) {
        // The task is gone already if nobody hears.
        let _ = self.stop.send(());
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the session with the controller did not stop well");
        }
    }
}

/// One node's word to another.
#[derive(Clone, PartialEq, Eq)]
pub struct Signal {
    /// The other node's id.
    pub node_id: String,
    /// As it was given.
    pub payload: Vec<u8>,
}

/// The word has keys in it.
impl std::fmt::Debug for Signal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signal").field("node_id", &self.node_id).field("len", &self.payload.len()).finish()
    }
}

/// Both directions of signals.
#[derive(Debug)]
pub struct Signals {
    /// To other nodes.
    pub to_nodes: mpsc::Sender<Signal>,
    /// From other nodes.
    pub from_nodes: mpsc::Receiver<Signal>,
}

/// A view of the session, and what may be asked of it.
#[derive(Clone, Debug)]
pub struct Remote {
    state: watch::Receiver<State>,
    commands: mpsc::Sender<Command>,
}

impl Remote {
    /// The session as `switchctl` and the metrics show it.
    pub fn status(&self) -> view::Controller {
        let state = self.state.borrow();
        view::Controller {
            cluster: state.cluster.clone(),
            node_id: state.node_id.clone(),
            connected: state.connected.is_some(),
            since: state.connected.map(|since| since.elapsed()),
            last_heard: state.last_heard.map(|heard| heard.elapsed()),
            epoch: state.revision.epoch,
            revision: state.revision.revision,
            reconnects: state.reconnects,
            refused_claims: state.refused_claims,
            last_error: state.last_error.clone(),
            removed: state.removed.clone(),
        }
    }

    /// Gives this node a new key: made here, proved to the controller, used once it is confirmed. An error says the
    /// mend.
    pub async fn rotate_key(&self) -> Result<PublicKey, String> {
        let (to, answer) = oneshot::channel();
        let stopped = || "the session with the controller has stopped: see the daemon's log".to_owned();
        self.commands.send(Command::RotateKey(to)).await.map_err(|_| stopped())?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }
}

/// What the task publishes of itself.
#[derive(Clone, PartialEq, Debug, Default)]
struct State {
    cluster: String,
    node_id: String,
    connected: Option<Instant>,
    last_heard: Option<Instant>,
    revision: Revision,
    reconnects: u64,
    refused_claims: u64,
    last_error: Option<String>,
    removed: Option<String>,
}

#[derive(Debug)]
enum Command {
    RotateKey(oneshot::Sender<Result<PublicKey, String>>),
}

/// Signals that may wait.
const SIGNALS: usize = 256;
