//! Links.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Timestamp;

/// How one node reaches another, as its switch last reported. The other end reports its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Link {
    /// The id of the node that reports.
    #[schema(example = "node-7")]
    pub compute_node: String,
    /// That node's name.
    #[schema(example = "rack1-a")]
    pub compute_node_name: String,
    /// The id of the node that it reaches.
    #[schema(example = "node-8")]
    pub peer: String,
    /// The peer's name.
    #[schema(example = "rack1-b")]
    pub peer_name: String,
    /// How it is.
    pub state: LinkState,
    /// The peer's address in use; absent if none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "203.0.113.9:7000")]
    pub address: Option<String>,
    /// The path: `host`, `server-reflexive`, `peer-reflexive` or `relayed`; absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "host")]
    pub path: Option<String>,
    /// This node's candidate of the path, `<kind> <address>`; absent if there is none, or not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "server-reflexive 198.51.100.7:29302")]
    pub local_candidate: Option<String>,
    /// The peer's candidate of the path, in the same form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "host 203.0.113.9:7000")]
    pub remote_candidate: Option<String>,
    /// Why it goes through a relay, a sentence; absent if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "both sides are behind symmetric NATs")]
    pub why_relayed: Option<String>,
    /// Round-trip time in microseconds; absent if not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 240)]
    pub rtt_us: Option<u32>,
    /// Largest UDP payload in bytes that gets through; absent if not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 1452)]
    pub path_mtu: Option<u32>,
    /// Probes without an answer lately, in a million; 0 if the path has none.
    #[serde(default)]
    #[schema(example = 0)]
    pub loss_ppm: u32,
    /// Datagrams sent since the link was made.
    #[schema(example = 120_433)]
    pub datagrams_to_peer: u64,
    /// Datagrams received since the link was made.
    #[schema(example = 118_020)]
    pub datagrams_from_peer: u64,
    /// Bytes sent since the link was made.
    #[schema(example = 160_002_113)]
    pub bytes_to_peer: u64,
    /// Bytes received since the link was made.
    #[schema(example = 158_333_001)]
    pub bytes_from_peer: u64,
    /// Why it last went down or does not come up; absent if nothing was wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "timed out")]
    pub last_error: Option<String>,
    /// When the node said so.
    pub reported_at: Timestamp,
}

/// How a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// Frames cross.
    Up,
    /// It is being made.
    Connecting,
    /// The peer is not reached.
    Down,
}
