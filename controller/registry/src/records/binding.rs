//! Bindings: who lives where.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::ids::{Generation, InstanceId, Mac, NodeId, Vni};

/// Who lives where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Whose it is.
    pub key: BindingKey,
    /// The station's IPs.
    #[serde(default)]
    pub ips: Vec<IpAddr>,
    /// Where it lives.
    pub node: NodeId,
    /// Rises with each change of it; the revision of that change.
    pub generation: Generation,
    /// Who says so.
    pub source: BindingSource,
    /// Whether it attracts traffic.
    pub state: BindingState,
    /// The instance whose placement set it; none for one that was set by hand or learned.
    #[serde(default)]
    pub instance: Option<InstanceId>,
}

/// The station of a binding. In text `100/02:73:69:00:00:01`, with VLANs `100/10.20/02:...`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BindingKey {
    /// Its network. First, so that a network's bindings stand together.
    pub vni: Vni,
    /// Its VLANs, outermost first, at most two.
    #[serde(default)]
    pub vlans: Vec<u16>,
    /// Its MAC.
    pub mac: Mac,
}

impl fmt::Display for BindingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/", self.vni)?;
        for (i, vlan) in self.vlans.iter().enumerate() {
            write!(f, "{}{vlan}", if i == 0 { "" } else { "." })?;
        }
        write!(f, "{}{}", if self.vlans.is_empty() { "" } else { "/" }, self.mac)
    }
}

/// Who says where a station lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BindingSource {
    /// A placement, or the operator. Beats a learned one.
    Controller,
    /// The switch that saw it.
    Learned,
}

/// Whether a binding attracts traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BindingState {
    /// The station is to run there and does not yet: no traffic.
    Prepared,
    /// It runs there.
    Active,
}
