//! Compute nodes.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Operation, Timestamp};

/// A machine that runs instances.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ComputeNode {
    /// Never reused.
    #[schema(example = "node-7")]
    pub id: String,
    /// Unique among compute nodes.
    #[schema(example = "rack1-a")]
    pub name: String,
    /// Who makes and removes the machine: `manual`, or a configured provider's name.
    #[schema(example = "manual")]
    pub provider: String,
    /// The type that the provider was asked for; empty for its default.
    #[serde(rename = "type")]
    #[schema(example = "small")]
    pub node_type: String,
    /// How it is.
    pub state: ComputeNodeState,
    /// Whether new instances may be placed there.
    #[schema(example = true)]
    pub schedulable: bool,
    /// The operator's own words about it.
    #[schema(example = json!({"rack": "1"}))]
    pub labels: BTreeMap<String, String>,
    /// Whether its agent has a session: instances can be placed there.
    #[schema(example = true)]
    pub agent_online: bool,
    /// Its Ed25519 public key, 32 bytes in base64; absent before it has joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "JcZy0n1u0v5vQ3zFf1gq3m3cYtq1bH4sZr8o2i5y7kQ=")]
    pub public_key: Option<String>,
    /// Where its peers reach its switch, best first.
    #[schema(example = json!(["203.0.113.9:7000"]))]
    pub addresses: Vec<String>,
    /// Its own addresses in networks for the nodes themselves, such as `mgmt`.
    #[serde(default)]
    #[schema(value_type = Vec<String>, example = json!(["100.80.0.7"]))]
    pub host_addresses: Vec<IpAddr>,
    /// The switch's version; absent before it has reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "0.1.0")]
    pub switch_version: Option<String>,
    /// The agent's version; absent before it has reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "0.1.0")]
    pub agent_version: Option<String>,
    /// What it has; absent before its agent has reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Capacity>,
    /// What the types of its instances take of that.
    pub allocated: Capacity,
    /// How many instances live there.
    #[schema(example = 4)]
    pub instances: u64,
    /// The drivers that its agent can use.
    #[schema(example = json!(["container", "qemu"]))]
    pub drivers: Vec<String>,
    /// How QEMU runs guests there: `kvm`, `tcg`, or empty without QEMU.
    #[schema(example = "kvm")]
    pub accelerator: String,
    /// What is wrong with it, a sentence each.
    #[schema(example = json!([]))]
    pub problems: Vec<String>,
    /// When it was added.
    pub created_at: Timestamp,
    /// When it joined; absent before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joined_at: Option<Timestamp>,
    /// When its switch last had a session; absent before its first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_at: Option<Timestamp>,
}

/// How a compute node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ComputeNodeState {
    /// It has not joined yet.
    Pending,
    /// Its switch has a session.
    Online,
    /// It has joined and its switch has no session.
    Offline,
    /// Its key is used in two places at once.
    Cloned,
    /// Its instances are being moved away; it is removed afterwards.
    Draining,
    /// It is gone and its keys are refused.
    Removed,
}

/// An amount of what instances take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Capacity {
    /// Cores.
    #[schema(example = 8.0)]
    pub cores: f64,
    /// Memory in MiB.
    #[schema(example = 16_384)]
    pub memory_mib: u64,
    /// Disk in GiB.
    #[schema(example = 200)]
    pub disk_gib: u64,
}

/// Adds a compute node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddComputeNode {
    /// `manual`: the answer has a command to run on the machine. Or a configured provider, which makes the machine.
    #[schema(min_length = 1, max_length = 63, example = "manual")]
    pub provider: String,
    /// The type, by id or name, that tells the provider what the machine shall have; absent for its default.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 63, example = "small")]
    pub node_type: Option<String>,
    /// Unique among compute nodes: 1 to 63 of `a-z`, `0-9` and `-`, no `-` at either end. Absent for
    /// its host's name when it joins, if that is free, or its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(
        min_length = 1,
        max_length = 63,
        pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        example = "rack1-a"
    )]
    pub name: Option<String>,
    /// Your own words about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = json!({"rack": "1"}))]
    pub labels: Option<BTreeMap<String, String>>,
    /// Seconds for which the join token can be used; absent for an hour. At most 30 days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 2_592_000, example = 3600)]
    pub token_ttl_seconds: Option<u64>,
}

/// Changes a compute node: what is absent stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateComputeNode {
    /// Whether new instances may be placed there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = false)]
    pub schedulable: Option<bool>,
    /// Your own words about it: all of them, those that are not named go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = json!({"rack": "1"}))]
    pub labels: Option<BTreeMap<String, String>>,
}

/// A compute node that was added, or whose join token was renewed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ComputeNodeAdded {
    /// The node, which has not joined yet.
    pub compute_node: ComputeNode,
    /// How to make the machine join; absent where the provider does that, and in an answer that is repeated for its
    /// idempotency key, since a token is told once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join: Option<Join>,
    /// The provider's work, which ends when the node has joined; absent with `manual`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
}

/// How a machine becomes a compute node. The token is told this once.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Join {
    /// Good for one node, once, until it expires.
    #[schema(example = "skj1.AAAAAGny")]
    pub token: String,
    /// What to run on the machine.
    #[schema(example = "switchd join skj1.AAAAAGny")]
    pub command: String,
    /// When the token ends.
    pub expires_at: Timestamp,
}

impl fmt::Debug for Join {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Join").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

/// Removes a compute node: as the query of the DELETE.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, utoipa::IntoParams,
)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RemoveComputeNode {
    /// Remove it even where its instances cannot be moved away: they are lost.
    #[serde(default)]
    #[param(default = false, example = false)]
    #[schema(default = false, example = false)]
    pub force: bool,
    /// Move nothing and wait for nothing: its key is refused at once, and its instances are lost.
    #[serde(default)]
    #[param(default = false, example = false)]
    #[schema(default = false, example = false)]
    pub now: bool,
}

/// Makes a new join token for a node that has not joined; the old one ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RenewToken {
    /// Seconds for which it can be used; absent for an hour. At most 30 days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 2_592_000, example = 3600)]
    pub token_ttl_seconds: Option<u64>,
}
