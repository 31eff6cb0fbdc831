//! What the switch shall be, beyond its own configuration: what the controller says, as the daemon applies it.
//!
//! The control session fills it in and persists it; the daemon applies it while it runs. Everything is keyed by
//! what does not change: networks by VNI, peers by node id. What changes travels as an [`Update`], so that one
//! moved instance among a hundred thousand costs one [`Change`].

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use switch_core::ids::{Generation, Vni};
use switch_core::switch::{BindingKey, Source, State};

pub use switch_core::switch::LocalStation;

use crate::config::Network;
use crate::key::PublicKey;

/// The whole of it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Desired {
    /// Networks, with every key of the configuration filled in; their `peers` and `bindings` do not count, as both
    /// stand below.
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
    /// `Controller` for placement, `Announced` for what a switch learned and announced.
    pub source: Source,
    /// Whether it runs there.
    pub state: State,
}

/// A step from one state to another.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Update {
    /// What the state is called afterwards.
    pub revision: Revision,
    /// The changes are the whole state: what they do not name is removed.
    pub reset: bool,
    /// In this order.
    pub changes: Vec<Change>,
}

/// One difference. What is set replaces what had the same key.
#[derive(Clone, PartialEq, Debug)]
pub enum Change {
    /// A network is there, and is so.
    Network(Box<Network>),
    /// No network any more.
    RemoveNetwork(Vni),
    /// A node, by id.
    Peer(String, DesiredPeer),
    /// No node any more: its link ends at once.
    RemovePeer(String),
    /// A station lives somewhere.
    Binding(Vni, BindingKey, DesiredBinding),
    /// Nobody says so any more.
    RemoveBinding(Vni, BindingKey),
}

/// A version of the state, as the controller counts them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Revision {
    /// Of the controller's store.
    pub epoch: u64,
    /// In it.
    pub revision: u64,
}

/// The data plane works with this state.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Applied {
    /// Of the last update that was applied.
    pub revision: Revision,
    /// What of the state cannot be: one sentence each, with the mend.
    pub problems: Vec<String>,
}

/// What was learned on this node's bridges.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StationReport {
    /// The network.
    pub vni: Vni,
    /// Everything that is there; else what changed.
    pub full: bool,
    /// Stations that are there, as they are now, their IPs in ascending order.
    pub present: Vec<LocalStation>,
    /// Stations that are there no more, or that were announced to be there and are not.
    pub gone: Vec<BindingKey>,
}

impl Update {
    /// This is the whole of it.
    pub fn whole(revision: Revision, state: Desired) -> Update {
        Update { revision, reset: true, changes: state.into_changes() }
    }
}

impl Desired {
    /// Takes a step.
    pub fn apply(&mut self, update: Update) {
        if update.reset {
            *self = Desired::default();
        }
        for change in update.changes {
            match change {
                Change::Network(network) => drop(self.networks.insert(network.vni, *network)),
                Change::RemoveNetwork(vni) => drop(self.networks.remove(&vni)),
                Change::Peer(id, peer) => drop(self.peers.insert(id, peer)),
                Change::RemovePeer(id) => drop(self.peers.remove(&id)),
                Change::Binding(vni, key, binding) => drop(self.bindings.insert((vni, key), binding)),
                Change::RemoveBinding(vni, key) => drop(self.bindings.remove(&(vni, key))),
            }
        }
    }

    /// The whole state as changes of nothing.
    pub fn into_changes(self) -> Vec<Change> {
        let networks = self.networks.into_values().map(|network| Change::Network(Box::new(network)));
        let peers = self.peers.into_iter().map(|(id, peer)| Change::Peer(id, peer));
        let bindings =
            self.bindings.into_iter().map(|((vni, key), binding)| Change::Binding(vni, key, binding));
        networks.chain(peers).chain(bindings).collect()
    }

    /// The steps from this state to that which an update with `reset` names: only what differs, removals first.
    pub fn difference(&self, new: &Desired) -> Vec<Change> {
        let mut changes = Vec::new();
        let gone = |vni: &&Vni| !new.networks.contains_key(vni);
        changes.extend(self.networks.keys().filter(gone).map(|vni| Change::RemoveNetwork(*vni)));
        let gone = |id: &&String| !new.peers.contains_key(*id);
        changes.extend(self.peers.keys().filter(gone).map(|id| Change::RemovePeer(id.clone())));
        let gone = |at: &&(Vni, BindingKey)| !new.bindings.contains_key(at);
        changes.extend(self.bindings.keys().filter(gone).map(|(vni, key)| Change::RemoveBinding(*vni, *key)));
        for (vni, network) in &new.networks {
            if self.networks.get(vni) != Some(network) {
                changes.push(Change::Network(Box::new(network.clone())));
            }
        }
        for (id, peer) in &new.peers {
            if self.peers.get(id) != Some(peer) {
                changes.push(Change::Peer(id.clone(), peer.clone()));
            }
        }
        for ((vni, key), binding) in &new.bindings {
            if self.bindings.get(&(*vni, *key)) != Some(binding) {
                changes.push(Change::Binding(*vni, *key, binding.clone()));
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests;
