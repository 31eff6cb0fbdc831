//! What the daemon shows of itself: the interface between its planes and the admin socket and metrics.
//!
//! Every type here is also the shape of `switchctl --json`. Fields carry their unit in their JSON name; times of
//! day are nanoseconds since the Unix epoch.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use controller_api::Binding;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::endpoint::EndpointStatus;
use crate::key::PublicKey;

/// What the daemon answers about itself. `status`, `links` and `stats` are cheap snapshots; the others ask the
/// worker and end within its next turns, or answer nothing if it has stopped.
pub trait View: Send + Sync + 'static {
    /// The node and its networks.
    fn status(&self) -> Status;
    /// One row per configured peer, in the order of the configuration.
    fn links(&self) -> Vec<Link>;
    /// All counters since the start.
    fn stats(&self) -> Stats;
    /// Whether the worker answers. The caller sets the time limit; this future may wait for ever.
    fn worker_answers(&self) -> BoxFuture<'_, bool>;
    /// Gives this node a new key, over the session with the controller. An error says the mend.
    fn rotate_key(&self) -> BoxFuture<'_, Result<PublicKey, String>>;
    /// The binding table.
    fn bindings(&self) -> BoxFuture<'_, Vec<BindingRow>>;
    /// The MAC table.
    fn macs(&self) -> BoxFuture<'_, Vec<MacRow>>;
    /// What the network does with this node's datagrams: takes up to 8 s. An error says the mend.
    fn netcheck(&self) -> BoxFuture<'_, Result<Netcheck, String>>;
    /// The ways to the peer of that name, and why frames do not go by a better one. An error says the mend.
    fn why_relayed(&self, peer: &str) -> BoxFuture<'_, Result<WhyRelayed, String>>;
    /// The latest dropped frames, oldest first; a bounded log.
    fn drops(&self) -> BoxFuture<'_, Vec<DroppedFrame>>;
    /// Copies of frames from now on, until the receiver is dropped. Frames that the receiver is too slow for
    /// are left out and counted in the next [`CapturedFrame::missed`].
    fn capture(
        &self,
        filter: CaptureFilter,
    ) -> BoxFuture<'_, Result<mpsc::Receiver<CapturedFrame>, CaptureError>>;
}

/// Why a capture did not start.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CaptureError {
    /// No network of that name.
    #[error("there is no network named {0:?}: `switchctl status` lists them")]
    UnknownNetwork(String),
    /// Captures are bounded.
    #[error("{0} captures already run: end one first")]
    TooMany(usize),
    /// The worker is gone.
    #[error("the worker has stopped: see the daemon's log")]
    WorkerStopped,
}

/// The node and its networks.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Of the daemon.
    pub version: String,
    /// This node's name.
    pub node: String,
    /// This node's key, as its peers must have it.
    pub public_key: PublicKey,
    /// The bound UDP address.
    pub listen: SocketAddr,
    /// Since the start.
    #[serde(rename = "uptime_seconds", with = "units::seconds")]
    pub uptime: Duration,
    /// Every endpoint is up and enslaved.
    pub ready: bool,
    /// If not ready: one sentence per reason, with its mend.
    pub not_ready_because: Vec<String>,
    /// AEAD that this node prefers, such as `aes-256-gcm`.
    pub cipher: String,
    /// In the order of the configuration.
    pub networks: Vec<NetworkStatus>,
    /// The session with the controller, of a node that has joined one.
    #[serde(default)]
    pub controller: Option<Controller>,
}

/// The session with the controller.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Controller {
    /// The cluster's name.
    pub cluster: String,
    /// This node's id in it.
    pub node_id: String,
    /// There is a session.
    pub connected: bool,
    /// Age of the session.
    #[serde(rename = "connected_seconds", with = "units::opt_seconds")]
    pub since: Option<Duration>,
    /// Since the controller was last heard; none if not since the start.
    #[serde(rename = "last_heard_seconds", with = "units::opt_seconds")]
    pub last_heard: Option<Duration>,
    /// Of the state that this node has: which store it is from.
    pub epoch: u64,
    /// Of the state that this node has.
    pub revision: u64,
    /// Sessions after the first since the start.
    pub reconnects: u64,
    /// Claims of stations that the controller refused since the start.
    pub refused_claims: u64,
    /// Why there is no session, or was none last.
    pub last_error: Option<String>,
    /// Why this node is no longer one of the cluster's.
    pub removed: Option<String>,
}

/// Who named a network or a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The configuration file.
    #[default]
    File,
    /// The controller.
    Controller,
}

impl Origin {
    /// The word that JSON and tables show.
    pub fn as_str(self) -> &'static str {
        match self {
            Origin::File => "file",
            Origin::Controller => "controller",
        }
    }
}

/// One network on this node.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NetworkStatus {
    /// Its name.
    pub name: String,
    /// Its 24-bit identifier.
    pub vni: u32,
    /// `rewrite` or `preserve`.
    pub mode: String,
    /// The Linux bridge.
    pub bridge: String,
    /// The TAP device.
    pub endpoint: String,
    /// Where the endpoint stands.
    pub endpoint_state: EndpointStatus,
    /// Why it is not up, with the mend; empty when up.
    #[serde(default)]
    pub endpoint_detail: String,
    /// Who set the network up.
    #[serde(default)]
    pub from: Origin,
    /// The MAC that guests see for remote addresses in `rewrite` mode.
    pub endpoint_mac: String,
    /// The guests' MTU, bytes.
    pub mtu: u16,
    /// Offloads that the kernel granted, such as `csum`, `tso4`, `tso6`, `uso`.
    pub offloads: Vec<String>,
    /// What its frames ride in on their way to a peer: `sealed` or `quic` datagrams.
    #[serde(default)]
    pub carriage: String,
    /// Names of the peers that carry this network.
    pub peers: Vec<String>,
}

/// A link's life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// Authenticated and alive.
    Up,
    /// A handshake is under way.
    Connecting,
    /// Neither; the next attempt is scheduled, or the peer must dial.
    Down,
}

impl LinkState {
    /// The word that JSON and tables show.
    pub fn as_str(self) -> &'static str {
        match self {
            LinkState::Up => "up",
            LinkState::Connecting => "connecting",
            LinkState::Down => "down",
        }
    }
}

/// The link with one peer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Link {
    /// The peer's name.
    pub peer: String,
    /// The peer's node id, if the controller named it.
    #[serde(default)]
    pub node_id: Option<String>,
    /// Who named the peer.
    #[serde(default)]
    pub from: Origin,
    /// The key that it must prove.
    pub public_key: PublicKey,
    /// Where the link stands.
    pub state: LinkState,
    /// The peer's address in use, or the one to be tried.
    pub address: Option<SocketAddr>,
    /// Kind of path under the link: `host`, `server-reflexive`, `peer-reflexive`, `relayed`.
    pub path: Option<String>,
    /// This node's end of the path, kind and address where known.
    #[serde(default)]
    pub local_candidate: Option<String>,
    /// The peer's end of it.
    #[serde(default)]
    pub remote_candidate: Option<String>,
    /// Why the path is relayed, a sentence; none if it is not.
    #[serde(default)]
    pub why_relayed: Option<String>,
    /// Smoothed round-trip time.
    #[serde(rename = "rtt_seconds", with = "units::opt_seconds")]
    pub rtt: Option<Duration>,
    /// Probes of the path that had no answer lately, 0 to 1.
    #[serde(rename = "loss_ratio", default)]
    pub loss: Option<f64>,
    /// Largest IP packet that the path is known to carry, bytes.
    #[serde(rename = "path_mtu_bytes")]
    pub path_mtu: Option<u16>,
    /// Key epochs since the daemon's start: rises by one with each fresh handshake.
    pub epoch: u64,
    /// Age of the keys in use.
    #[serde(rename = "session_age_seconds", with = "units::opt_seconds")]
    pub session_age: Option<Duration>,
    /// Since the last authenticated datagram of the peer.
    #[serde(rename = "last_heard_seconds", with = "units::opt_seconds")]
    pub last_heard: Option<Duration>,
    /// AEAD of the session.
    pub cipher: Option<String>,
    /// What frames of the link's networks ride in: `sealed`, `quic` or both.
    #[serde(default)]
    pub carriage: Vec<String>,
    /// Datagrams to the peer: sealed ones, and QUIC datagrams with frames.
    pub datagrams_to_peer: u64,
    /// Such datagrams from the peer; sealed ones if they could be opened.
    pub datagrams_from_peer: u64,
    /// Bytes of `datagrams_to_peer`: UDP payload of sealed ones, the data of QUIC datagrams.
    pub bytes_to_peer: u64,
    /// Bytes of `datagrams_from_peer`.
    pub bytes_from_peer: u64,
    /// How many of `datagrams_to_peer` were QUIC datagrams.
    #[serde(default)]
    pub quic_datagrams_to_peer: u64,
    /// How many of `datagrams_from_peer` were QUIC datagrams.
    #[serde(default)]
    pub quic_datagrams_from_peer: u64,
    /// How many of `bytes_to_peer` were in QUIC datagrams.
    #[serde(default)]
    pub quic_bytes_to_peer: u64,
    /// How many of `bytes_from_peer` were in QUIC datagrams.
    #[serde(default)]
    pub quic_bytes_from_peer: u64,
    /// Datagrams refused by the replay window.
    pub replays_dropped: u64,
    /// Times that the link came up again after it had been up.
    pub reconnects: u64,
    /// The latest failure, with its mend where one is known.
    pub last_error: Option<String>,
    /// Names of the networks that the link carries.
    pub networks: Vec<String>,
}

/// Which side of the switch: `local` is from this node's bridge, `remote` is from a peer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From this node's bridge.
    Local,
    /// From a peer.
    Remote,
}

impl Direction {
    /// The word that labels, JSON and tables show.
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::Local => "local",
            Direction::Remote => "remote",
        }
    }
}

/// All counters since the start.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Stats {
    /// In the order of the configuration.
    pub networks: Vec<NetworkStats>,
    /// Datagrams from the underlay that were dropped before their network was known, and those that QUIC was to carry:
    /// (reason, count).
    pub datagram_drops: Vec<(String, u64)>,
    /// Datagrams in one send to a peer (UDP GSO).
    pub batches_to_peer: Histogram,
    /// Datagrams in one receive from a peer (UDP GRO).
    pub batches_from_peer: Histogram,
    /// Sends to the underlay that failed, by error: (errno name, count).
    pub send_errors: Vec<(String, u64)>,
    /// The worker and its CPU; none if the kernel does not say.
    #[serde(default)]
    pub worker: Option<WorkerStats>,
}

/// The worker's thread since its start.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct WorkerStats {
    /// It ran on a CPU.
    #[serde(rename = "cpu_seconds", with = "units::seconds")]
    pub ran: Duration,
    /// It was runnable and waited for a CPU.
    #[serde(rename = "waited_seconds", with = "units::seconds")]
    pub waited: Duration,
}

/// The counters of one network.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct NetworkStats {
    /// Its name.
    pub network: String,
    /// Frames from this node's bridge.
    pub local: DirectionStats,
    /// Frames from peers.
    pub remote: DirectionStats,
    /// ARP by case and outcome.
    pub arp: Vec<CaseCount>,
    /// ND by case and outcome.
    pub nd: Vec<CaseCount>,
    /// The bounded tables.
    pub tables: Vec<TableStats>,
    /// Bindings that the control plane set and that changed nothing: (why, count).
    #[serde(default)]
    pub unused_bindings: Vec<(String, u64)>,
}

/// What came from one side.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct DirectionStats {
    /// Frames that the switch saw, a super-frame counted once.
    pub frames: u64,
    /// Bytes of those frames, Ethernet header included.
    pub bytes: u64,
    /// How many of them were super-frames.
    pub super_frames: u64,
    /// Their sizes, bytes.
    pub frame_bytes: Histogram,
    /// Frames dropped: (reason, count).
    pub drops: Vec<(String, u64)>,
}

/// How often one case ended one way.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CaseCount {
    /// The case, such as `local-to-remote`.
    pub case: String,
    /// What the switch did, such as `answered`.
    pub outcome: String,
    /// How often.
    pub count: u64,
}

/// A bounded table.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TableStats {
    /// `macs`, `ips`, `bindings`, `reassembly` ...
    pub table: String,
    /// Entries now.
    pub entries: u64,
    /// The most it takes.
    pub limit: u64,
    /// Times that an entry was refused, or another evicted, because it was full.
    pub full: u64,
}

/// Counts by size.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Histogram {
    /// Upper bounds, inclusive, ascending.
    pub bounds: Vec<u64>,
    /// Counts per bucket, not cumulative; one more than `bounds`, the last for what exceeds them all.
    pub counts: Vec<u64>,
    /// Sum of all observations.
    pub sum: u64,
}

impl Histogram {
    /// Number of observations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// A row of the binding table.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct BindingRow {
    /// The network's name.
    pub network: String,
    /// The binding.
    #[serde(flatten)]
    pub binding: Binding,
    /// The controller passed it on: another switch learned it, or this one did and announced it.
    #[serde(default)]
    pub announced: bool,
    /// `active`, or why it does not attract traffic.
    pub state: String,
    /// Since it was last confirmed.
    #[serde(rename = "age_seconds", with = "units::seconds")]
    pub age: Duration,
}

/// A row of the MAC table.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MacRow {
    /// The network's name.
    pub network: String,
    /// The address, six hexadecimal bytes with colons.
    pub mac: String,
    /// VLAN ids, outermost first.
    #[serde(default)]
    pub vlans: Vec<u16>,
    /// Which side it is on.
    pub direction: Direction,
    /// The peer that it is behind, if remote.
    pub peer: Option<String>,
    /// Since a frame from it was last seen.
    #[serde(rename = "age_seconds", with = "units::seconds")]
    pub age: Duration,
}

/// A frame, or a datagram, that was dropped.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct DroppedFrame {
    /// When.
    #[serde(rename = "when_unix_ns", with = "units::unix_ns")]
    pub when: SystemTime,
    /// The network's name; none if the datagram was dropped before its network was known.
    pub network: Option<String>,
    /// Which side it came from.
    pub direction: Direction,
    /// The drop reason, as in the metrics.
    pub reason: String,
    /// Source MAC, if one could be read.
    pub src: Option<String>,
    /// Destination MAC, if one could be read.
    pub dst: Option<String>,
    /// EtherType behind the tags.
    pub ethertype: Option<u16>,
    /// One line about the frame, such as `ARP who-has 10.0.0.9 tell 10.0.0.1`.
    pub summary: String,
    /// The peer that it came from or was for.
    pub peer: Option<String>,
    /// Its length, bytes.
    pub length: u32,
}

/// Which frames to capture.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureFilter {
    /// Only this network.
    #[serde(default)]
    pub network: Option<String>,
    /// Only this side; both if none.
    #[serde(default)]
    pub direction: Option<Direction>,
    /// Bytes kept of each frame; at least 14.
    #[serde(default = "default_snaplen")]
    pub snaplen: u32,
}

impl Default for CaptureFilter {
    fn default() -> CaptureFilter {
        CaptureFilter { network: None, direction: None, snaplen: default_snaplen() }
    }
}

/// Enough for any super-frame with its tags: 64 KiB and the Ethernet header.
pub const MAX_SNAPLEN: u32 = 65_536 + 22;

fn default_snaplen() -> u32 {
    MAX_SNAPLEN
}

/// A copy of a frame.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CapturedFrame {
    /// When the switch saw it.
    #[serde(rename = "time_unix_ns", with = "units::unix_ns")]
    pub time: SystemTime,
    /// The network's name.
    pub network: String,
    /// Which side it came from.
    pub direction: Direction,
    /// The peer that it came from, or, if one only, goes to.
    pub peer: Option<String>,
    /// Its first bytes, from the Ethernet header on, at most the filter's `snaplen`.
    #[serde(with = "units::base64_bytes")]
    pub bytes: Vec<u8>,
    /// Its length, bytes.
    pub original_len: u32,
    /// Frames left out before this one because the receiver was too slow.
    #[serde(default)]
    pub missed: u64,
}

mod units;
mod ways;

pub use self::ways::{
    CandidateRow, Netcheck, PairRow, PathMtuRow, PathRow, RelayRow, RelayState, WhyRelayed,
};

#[cfg(test)]
pub(crate) mod fake;
