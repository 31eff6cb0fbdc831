//! Types that nodes, the controller and its clients share. No logic.

#[cfg(feature = "node")]
pub mod node;
#[cfg(feature = "rest")]
pub mod rest;

use serde::{Deserialize, Serialize};

/// Who lives where: one row of a switch's binding table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// The network's 24-bit identifier.
    pub vni: u32,
    /// VLAN tags in front of the EtherType, outermost first; empty for untagged frames.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vlans: Vec<u16>,
    /// The instance's MAC address, six hexadecimal bytes with colons.
    pub mac: String,
    /// The instance's IPv4 and IPv6 addresses.
    #[serde(default)]
    pub ips: Vec<std::net::IpAddr>,
    /// The name of the node where the instance lives.
    pub node: String,
    /// Orders the places that the instance has had: the higher one wins.
    #[serde(default)]
    pub generation: u64,
    /// Who says so.
    #[serde(default)]
    pub source: BindingSource,
}

/// Where a binding comes from. A controller's binding beats a learned one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BindingSource {
    /// Set by placement (or by the node's configuration).
    #[default]
    Controller,
    /// Seen in ARP or ND.
    Learned,
}
