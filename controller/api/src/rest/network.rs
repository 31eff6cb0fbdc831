//! Networks.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Timestamp;

/// An Ethernet that spans nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Network {
    /// Its VNI as text.
    #[schema(example = "100")]
    pub id: String,
    /// Unique among networks; its bridge on each node is `br-` and this.
    #[schema(example = "blue")]
    pub name: String,
    /// Its 24-bit identifier.
    #[schema(example = 100)]
    pub vni: u32,
    /// The subnet that instances get IPv4 addresses from; absent for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "10.0.0.0/24")]
    pub subnet_v4: Option<String>,
    /// The subnet that instances get IPv6 addresses from; absent for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "fd00:1::/64")]
    pub subnet_v6: Option<String>,
    /// The instances' way out, at most one of each family.
    #[schema(value_type = Vec<String>, example = json!(["10.0.0.1"]))]
    pub gateways: Vec<IpAddr>,
    /// How frames cross.
    pub mode: NetworkMode,
    /// Largest IP packet in bytes.
    #[schema(example = 1500)]
    pub mtu: u32,
    /// What becomes of DHCP: `forward`, `local-only`, or `trusted:` and the server's MAC.
    #[schema(example = "local-only")]
    pub dhcp: String,
    /// Whether stations may use addresses that no binding gives them.
    pub anti_spoof: AntiSpoof,
    /// Whether the MSS of TCP is lowered to what fits.
    #[schema(example = true)]
    pub mss_clamp: bool,
    /// Flooded frames a second of the network from one node, all its stations together; 0 for the switch's default.
    #[schema(example = 100)]
    pub broadcast_rate: u32,
    /// The same at once, after a silence; 0 for the switch's default.
    #[schema(example = 200)]
    pub broadcast_burst: u32,
    /// Whether it is for the nodes themselves: each is a station of it, and no instance may be in it.
    #[serde(default)]
    #[schema(example = false)]
    pub host: bool,
    /// The ids of the nodes that have it; absent for all, those to come too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = json!(["node-7", "node-8"]))]
    pub compute_nodes: Option<Vec<String>>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// How frames cross a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// The switch answers for remote stations with its own MAC and rewrites it.
    #[default]
    Rewrite,
    /// MACs cross as they are.
    Preserve,
}

/// Whether stations may use addresses that no binding gives them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AntiSpoof {
    /// They may, and the switch learns them.
    #[default]
    Learn,
    /// Only those that placement gave them.
    Strict,
}

/// Makes a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateNetwork {
    /// Unique among networks: 1 to 12 of `a-z`, `0-9` and `-`, no `-` at either end
    /// and not digits alone.
    #[schema(
        min_length = 1,
        max_length = 12,
        pattern = "^[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?$",
        example = "blue"
    )]
    pub name: String,
    /// Its 24-bit identifier; absent for the next free one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 16_777_215, example = 100)]
    pub vni: Option<u32>,
    /// The subnet that instances get IPv4 addresses from; absent for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "10.0.0.0/24")]
    pub subnet_v4: Option<String>,
    /// The subnet that instances get IPv6 addresses from; absent for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "fd00:1::/64")]
    pub subnet_v6: Option<String>,
    /// The instances' way out, at most one of each family; absent for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>, max_items = 2, example = json!(["10.0.0.1"]))]
    pub gateways: Option<Vec<IpAddr>>,
    /// How frames cross; absent for `rewrite`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<NetworkMode>,
    /// Largest IP packet in bytes; absent for 1500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1280, maximum = 9216, example = 1500)]
    pub mtu: Option<u32>,
    /// What becomes of DHCP: `forward`, `local-only`, or `trusted:` and the server's MAC; absent for `forward`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "local-only")]
    pub dhcp: Option<String>,
    /// Whether stations may use addresses that no binding gives them; absent for `learn`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anti_spoof: Option<AntiSpoof>,
    /// Whether the MSS of TCP is lowered to what fits; absent for true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = true)]
    pub mss_clamp: Option<bool>,
    /// Flooded frames a second of the network from one node, all its stations together; 0 for the switch's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 100)]
    pub broadcast_rate: Option<u32>,
    /// The same at once, after a silence; 0 for the switch's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 200)]
    pub broadcast_burst: Option<u32>,
    /// Whether it is for the nodes themselves: each gets an address of its subnet, which has to be named, and no
    /// instance may be in it; absent for false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = false)]
    pub host: Option<bool>,
    /// The nodes that shall have it, by id or name; absent for all, those to come too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = json!(["rack1-a", "rack1-b"]))]
    pub compute_nodes: Option<Vec<String>>,
}

/// Changes a network: what is absent stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateNetwork {
    /// How frames cross.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<NetworkMode>,
    /// Largest IP packet in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1280, maximum = 9216, example = 1500)]
    pub mtu: Option<u32>,
    /// What becomes of DHCP: `forward`, `local-only`, or `trusted:` and the server's MAC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "forward")]
    pub dhcp: Option<String>,
    /// Whether stations may use addresses that no binding gives them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anti_spoof: Option<AntiSpoof>,
    /// Whether the MSS of TCP is lowered to what fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = true)]
    pub mss_clamp: Option<bool>,
    /// Flooded frames a second of the network from one node, all its stations together; 0 for the switch's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 100)]
    pub broadcast_rate: Option<u32>,
    /// The same at once, after a silence; 0 for the switch's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 200)]
    pub broadcast_burst: Option<u32>,
    /// The instances' way out, at most one of each family.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>, max_items = 2, example = json!(["10.0.0.1"]))]
    pub gateways: Option<Vec<IpAddr>>,
    /// The nodes that shall have it, by id or name; `["*"]` for all, those to come too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = json!(["*"]))]
    pub compute_nodes: Option<Vec<String>>,
}
