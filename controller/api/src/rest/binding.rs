//! Bindings.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Who lives where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Binding {
    /// The network's id.
    #[schema(example = "100")]
    pub network: String,
    /// The network's name.
    #[schema(example = "blue")]
    pub network_name: String,
    /// The network's 24-bit identifier.
    #[schema(example = 100)]
    pub vni: u32,
    /// VLAN tags, outermost first; empty for untagged frames.
    #[schema(example = json!([]))]
    pub vlans: Vec<u16>,
    /// Six hexadecimal bytes with colons.
    #[schema(example = "02:73:69:00:00:01")]
    pub mac: String,
    /// IPv4 and IPv6 addresses.
    #[schema(value_type = Vec<String>, example = json!(["10.0.0.2"]))]
    pub ips: Vec<IpAddr>,
    /// The id of the node where it lives.
    #[schema(example = "node-7")]
    pub compute_node: String,
    /// That node's name.
    #[schema(example = "rack1-a")]
    pub compute_node_name: String,
    /// The id of the instance whose endpoint it is; absent if it is no instance's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "inst-12")]
    pub instance: Option<String>,
    /// Orders the places that it has had: the highest wins.
    #[schema(example = 41)]
    pub generation: u64,
    /// Who says so.
    pub source: BindingSource,
    /// Whether it attracts traffic.
    pub state: BindingState,
}

/// Who says where something lives. A controller's binding beats a learned one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum BindingSource {
    /// Set by placement or by this API.
    Controller,
    /// Announced by the switch that learned it.
    Learned,
}

/// Whether a binding attracts traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum BindingState {
    /// It is to live there.
    Prepared,
    /// It lives there and attracts traffic.
    Active,
}

/// Sets a binding of something that is no instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetBinding {
    /// IPv4 and IPv6 addresses; absent for none.
    #[serde(default)]
    #[schema(value_type = Vec<String>, max_items = 64, example = json!(["10.0.0.9"]))]
    pub ips: Vec<IpAddr>,
    /// The node where it lives, by id or name.
    #[schema(min_length = 1, max_length = 63, example = "rack1-a")]
    pub compute_node: String,
    /// Whether it attracts traffic; absent for `active`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<BindingState>,
    /// Refuse unless the binding in force has this generation, 0 for none; absent to set it whatever is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 41)]
    pub expected_generation: Option<u64>,
}
