//! Instances.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Capacity, Driver, Timestamp};

/// A container or virtual machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Instance {
    /// Never reused.
    #[schema(example = "inst-12")]
    pub id: String,
    /// Unique among instances.
    #[schema(example = "web")]
    pub name: String,
    /// Its type's name.
    #[serde(rename = "type")]
    #[schema(example = "small")]
    pub instance_type: String,
    /// The id of the node where it lives.
    #[schema(example = "node-7")]
    pub compute_node: String,
    /// That node's name.
    #[schema(example = "rack1-a")]
    pub compute_node_name: String,
    /// The id of the node to which it moves; absent if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "node-8")]
    pub moving_to: Option<String>,
    /// How it is.
    pub state: InstanceState,
    /// What it shall be.
    pub desired: DesiredState,
    /// Why it is so, or how far: a sentence, or empty.
    #[schema(example = "")]
    pub detail: String,
    /// Rises with each move.
    #[schema(example = 41)]
    pub generation: u64,
    /// What runs it.
    pub driver: Driver,
    /// Its root file system or disk image; empty for a container with its host's root.
    #[schema(example = "")]
    pub image: String,
    /// What it runs; empty for the image's own.
    #[schema(example = json!(["/usr/bin/python3", "-m", "http.server"]))]
    pub command: Vec<String>,
    /// The environment of its command.
    #[schema(example = json!({"PORT": "8000"}))]
    pub environment: BTreeMap<String, String>,
    /// Its endpoints, one for each network.
    pub nics: Vec<Nic>,
    /// What its type lets it take.
    pub limits: Capacity,
    /// What it takes, as last reported; absent before it has run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// How it runs: `namespaces`, `kvm` or `tcg`; empty before it has run.
    #[schema(example = "namespaces")]
    pub runtime: String,
    /// The id of the operation that works on it; absent if none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "op-33")]
    pub operation: Option<String>,
    /// When it was allocated.
    pub created_at: Timestamp,
}

/// How an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum InstanceState {
    /// Placed; its node has not taken it up.
    Pending,
    /// Being made or started.
    Starting,
    /// It runs.
    Running,
    /// Being stopped.
    Stopping,
    /// It is there and does not run.
    Stopped,
    /// On its way to another node.
    Moving,
    /// It cannot be what it shall be; `detail` says why.
    Failed,
    /// Being deleted.
    Deleting,
    /// It was there and is no more.
    Lost,
    /// Its node's agent has no session: `detail` says how it was last seen.
    Unknown,
}

/// What an instance shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DesiredState {
    /// It shall run.
    Running,
    /// It shall be there and not run.
    Stopped,
    /// It shall go, with its disk.
    Absent,
}

/// An instance's endpoint on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Nic {
    /// The network's id.
    #[schema(example = "100")]
    pub network: String,
    /// The network's name.
    #[schema(example = "blue")]
    pub network_name: String,
    /// The network's 24-bit identifier.
    #[schema(example = 100)]
    pub vni: u32,
    /// Six hexadecimal bytes with colons.
    #[schema(example = "02:73:69:00:00:01")]
    pub mac: String,
    /// Its IPv4 and IPv6 addresses.
    #[schema(value_type = Vec<String>, example = json!(["10.0.0.2"]))]
    pub ips: Vec<IpAddr>,
}

/// What an instance takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// Seconds of a core since it was started.
    #[schema(example = 12.5)]
    pub cpu_seconds: f64,
    /// Memory in bytes.
    #[schema(example = 9_437_184)]
    pub memory_bytes: u64,
    /// The limit of cores as it is enforced; 0 if it is not.
    #[schema(example = 0.5)]
    pub cores_limit: f64,
    /// The limit of memory in bytes as it is enforced; 0 if it is not.
    #[schema(example = 268_435_456)]
    pub memory_bytes_limit: u64,
}

/// Makes an instance and starts it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Allocate {
    /// Where: a node's id or name. Absent for the online node with the
    /// type's driver and the most free memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 63, example = "rack1-a")]
    pub compute_node: Option<String>,
    /// Its type's id or name.
    #[serde(rename = "type")]
    #[schema(min_length = 1, max_length = 63, example = "small")]
    pub instance_type: String,
    /// Unique among instances: 1 to 63 of `a-z`, `0-9` and `-`, no `-` at either end. Absent for one
    /// made of the id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(
        min_length = 1,
        max_length = 63,
        pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        example = "web"
    )]
    pub name: Option<String>,
    /// The networks that it gets an endpoint on, by id or name. Absent for the only network that there is, or
    /// the one named `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 8, example = json!(["blue"]))]
    pub networks: Option<Vec<String>>,
    /// Addresses that it shall have, each in the subnet of one of its networks. Absent for the lowest free ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>, max_items = 16, example = json!(["10.0.0.2"]))]
    pub ips: Option<Vec<IpAddr>>,
    /// Its root file system or disk image; absent for the type's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 255, example = "debian.qcow2")]
    pub image: Option<String>,
    /// What it runs; absent for the image's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 256, example = json!(["/usr/bin/python3", "-m", "http.server"]))]
    pub command: Option<Vec<String>>,
    /// The environment of its command. Not a place for secrets: it is shown to every reader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = json!({"PORT": "8000"}))]
    pub environment: Option<BTreeMap<String, String>>,
}

/// Moves an instance: it is stopped, moved with its disk and started, with the same MACs and IPs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Migrate {
    /// Where to: a node's id or name.
    #[schema(min_length = 1, max_length = 63, example = "rack1-b")]
    pub compute_node: String,
}
