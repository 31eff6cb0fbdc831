//! What the switch shall be, beyond its own configuration: what the controller says, as the daemon applies it.
//!
//! The control session fills it in and persists it; the daemon applies it while it runs. Everything is keyed by
//! what does not change: networks by VNI, peers by node id.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use switch_core::ids::{Generation, Vni};
use switch_core::switch::{BindingKey, Source, State};

use crate::config::Network;
use crate::key::PublicKey;

/// The whole of it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Desired {
    /// Networks, with every key of the configuration filled in.
    pub networks: BTreeMap<Vni, Network>,
    /// Other nodes, by id.
    pub peers: BTreeMap<String, DesiredPeer>,
    /// Who lives where.
    pub bindings: BTreeMap<(Vni, BindingKey), DesiredBinding>,
}

/// Another node.
#[derive(Clone, PartialEq, Debug)]
pub struct DesiredPeer {
    /// What people call it.
    pub name: String,
    /// The key that it must prove.
    pub public_key: PublicKey,
    /// Where to dial it, best first; empty: it must dial.
    pub addresses: Vec<SocketAddr>,
    /// The networks that it may take part in.
    pub vnis: Vec<Vni>,
}

/// Where a station lives.
#[derive(Clone, PartialEq, Debug)]
pub struct DesiredBinding {
    /// Its IPs.
    pub ips: Vec<IpAddr>,
    /// The node's id; `None` is this node.
    pub node: Option<String>,
    /// Orders its places.
    pub generation: Generation,
    /// `Controller` for placement, `Learned` for what another switch learned and announced.
    pub source: Source,
    /// Whether it runs there.
    pub state: State,
}
