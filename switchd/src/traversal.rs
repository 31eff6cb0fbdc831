//! Ways to the peers that a NAT or a firewall is in front of: where this node may be reached, what it tells the
//! others of it, and ICE with each of them. One task for all peers; what is decided is decided in `nat-traversal`.
//!
//! | Module | What |
//! |---|---|
//! | `hub` | the task: datagrams, signals and timers to and from the pure parts |
//! | `gather` | this node's candidates; pure |
//! | `servers` | which STUN servers and relays are asked |
//! | `mapped` | what the STUN servers see |
//! | `relays`, `stream` | allocations on relays; relays that are reached by TCP or TLS |

mod gather;
mod hub;
mod mapped;
mod relays;
mod servers;
mod stream;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use controller_api::node::RelayServers;
use nat_traversal::{CandidatePair, NatReport, PathNews, Route, TraversalReport};
use switch_core::ids::PeerId;
use tokio::sync::{mpsc, oneshot, watch};

use crate::config::Nat;
use crate::dataplane::Handle;
use crate::netlink::Netlink;
use crate::session::Signals;
use crate::underlay::{StunDatagram, Underlay};
use crate::view::RelayRow;

/// What the task starts from.
pub struct Start {
    /// The shared socket.
    pub underlay: Arc<Underlay>,
    /// Its address.
    pub listen: SocketAddr,
    /// STUN that the worker read.
    pub received: mpsc::Receiver<StunDatagram>,
    /// The worker, for what comes by streams.
    pub worker: Handle,
    /// For the host's addresses.
    pub netlink: Netlink,
    /// Names of the overlay's own devices at this time, whose addresses are not the host's.
    pub overlay: Box<dyn Fn() -> Vec<String> + Send>,
    /// `[nat]`
    pub config: Nat,
    /// Servers that the controller names; none without a controller.
    pub servers: Option<watch::Receiver<RelayServers>>,
    /// Words between nodes; none without a controller.
    pub signals: Option<Signals>,
    /// What the links are told.
    pub news: mpsc::UnboundedSender<(PeerId, News)>,
}

/// What is found out about the ways to a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum News {
    /// A check has gone both ways.
    Found(Route, CandidatePair),
    /// This way leads nowhere any more.
    Gone(Route),
}

/// The running task, seen from the links; cheap to clone.
#[derive(Clone, Debug)]
pub struct Traversals {
    asks: mpsc::UnboundedSender<Ask>,
    why_relayed: WhyRelayed,
}

/// Why frames go by a relay, a sentence for each such peer.
#[derive(Clone, Debug, Default)]
struct WhyRelayed(Arc<Mutex<HashMap<PeerId, String>>>);

impl WhyRelayed {
    fn set(&self, peer: PeerId, why: Option<String>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match why {
            Some(why) => drop(all.insert(peer, why)),
            None => drop(all.remove(&peer)),
        }
    }

    fn get(&self, peer: PeerId) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&peer).cloned()
    }
}

#[derive(Debug)]
enum Ask {
    Add { peer: PeerId, node_id: String, controlling: bool },
    Remove(PeerId),
    Wake(PeerId),
    Sleep(PeerId),
    Path(PeerId, PathNews),
    Report(PeerId, oneshot::Sender<Option<TraversalReport>>),
    Netcheck(oneshot::Sender<NatReport>),
    Relays(oneshot::Sender<Vec<RelayRow>>),
    Close(oneshot::Sender<()>),
}

impl Traversals {
    /// Starts the task. Needs a running tokio runtime.
    pub fn start(start: Start) -> Traversals {
        let (asks, received) = mpsc::unbounded_channel();
        let why_relayed = WhyRelayed::default();
        let (hub, inlets) = hub::Hub::new(start, received, why_relayed.clone());
        tokio::spawn(hub.run(inlets));
        Traversals { asks, why_relayed }
    }

    /// This peer is the controller's node of that id. `controlling`: this node's key is the lower one. Again for one
    /// that is known: nothing changes, also where a key did, since the agents settle their roles themselves.
    pub fn add(&self, peer: PeerId, node_id: String, controlling: bool) {
        self.ask(Ask::Add { peer, node_id, controlling });
    }

    /// No peer any more.
    pub fn remove(&self, peer: PeerId) {
        self.ask(Ask::Remove(peer));
    }

    /// Ways to this peer are wanted now.
    pub fn wake(&self, peer: PeerId) {
        self.ask(Ask::Wake(peer));
    }

    /// No link with this peer is wanted until it is woken.
    pub fn sleep(&self, peer: PeerId) {
        self.ask(Ask::Sleep(peer));
    }

    /// What the worker says of its paths.
    pub fn path(&self, peer: PeerId, news: PathNews) {
        self.ask(Ask::Path(peer, news));
    }

    /// Why this peer is reached by a relay, as of a moment ago; `None` if it is not.
    pub fn why_relayed(&self, peer: PeerId) -> Option<String> {
        self.why_relayed.get(peer)
    }

    /// What is known and was tried; `None` of a peer that is no node of the controller's.
    pub async fn report(&self, peer: PeerId) -> Option<TraversalReport> {
        let (to, answer) = oneshot::channel();
        self.ask(Ask::Report(peer, to));
        answer.await.ok().flatten()
    }

    /// What kind of NAT this node is behind: takes some seconds. `None` if the daemon stops.
    pub async fn netcheck(&self) -> Option<NatReport> {
        let (to, answer) = oneshot::channel();
        self.ask(Ask::Netcheck(to));
        answer.await.ok()
    }

    /// The relays that this node is to use. Empty if the daemon stops.
    pub async fn relays(&self) -> Vec<RelayRow> {
        let (to, answer) = oneshot::channel();
        self.ask(Ask::Relays(to));
        answer.await.unwrap_or_default()
    }

    /// Gives the allocations on relays and the mapping of the port back, when the daemon stops.
    pub async fn close(&self) {
        let (to, done) = oneshot::channel();
        self.ask(Ask::Close(to));
        // Without an answer they expire by themselves: stopping does not wait for that.
        let _ = tokio::time::timeout(CLOSE, done).await;
    }

    fn ask(&self, ask: Ask) {
        // The task ends with the daemon only.
        let _ = self.asks.send(ask);
    }
}

const CLOSE: Duration = Duration::from_secs(1);
