//! What this node shall be: the configuration file's word, and beside it the controller's. Pure: what is to be done
//! about a change comes out as [`Effect`]s.
//!
//! The file counts more. What of the controller's word contradicts it, or cannot be, is left out and told as a
//! problem; each change is a chance for what was left out before.

mod bindings;
mod networks;
mod peers;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use switch_core::ids::{Generation, PeerId, Vni};
use switch_core::switch::{BindingKey, Policy};

use crate::config::{Config, Network};
use crate::dataplane::{BindingChange, MssClamp};
use crate::desired::{Change, Desired, Update};
use crate::key::PublicKey;
use crate::links;
use crate::view::Origin;
use peers::Known;

/// Something to be done, in order.
#[derive(Debug)]
pub(super) enum Effect {
    /// A network of the controller begins.
    StartNetwork(Box<Network>),
    /// It ends.
    StopNetwork(Vni),
    /// Its policy is another.
    SetPolicy(Vni, Policy, MssClamp),
    /// A peer is so, and may take part in these networks.
    SetPeer(links::PeerConfig, Vec<Vni>),
    /// No peer any more.
    RemovePeer(PeerId),
    /// A binding for the worker.
    Bind(BindingChange),
}

/// A peer, for tables.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct PeerRow {
    pub(super) id: PeerId,
    pub(super) name: String,
    pub(super) key: PublicKey,
    pub(super) addresses: Vec<SocketAddr>,
    /// The networks that it may take part in.
    pub(super) vnis: Vec<Vni>,
    pub(super) from: Origin,
    pub(super) node_id: Option<String>,
}

/// All of it.
#[derive(Debug)]
pub(super) struct Registry {
    own_key: PublicKey,
    config: Arc<Config>,
    desired: Desired,
    /// The controller's networks that run.
    running: BTreeMap<Vni, Network>,
    refused_networks: BTreeMap<Vni, String>,
    last_peer: u32,
    /// By name.
    file_peers: BTreeMap<String, (PeerId, PublicKey)>,
    /// By node id.
    nodes: BTreeMap<String, Known>,
    /// What the link plane and the worker were told.
    told: HashMap<PeerId, (links::PeerConfig, Vec<Vni>)>,
    static_bindings: HashMap<(Vni, BindingKey), Generation>,
    /// Bindings of nodes that are no peers yet, by node id.
    parked: HashMap<String, BTreeSet<(Vni, BindingKey)>>,
    work: VecDeque<Work>,
}

/// An update under way.
#[derive(Debug)]
struct Work {
    changes: std::vec::IntoIter<Change>,
    /// Of one that resets: what it has not named yet.
    unnamed: Option<Unnamed>,
}

#[derive(Debug)]
struct Unnamed {
    networks: BTreeSet<Vni>,
    bindings: BTreeSet<(Vni, BindingKey)>,
    peers: BTreeSet<String>,
}

impl Work {
    /// The update's own changes, then the end of what it did not name.
    fn next(&mut self) -> Option<Change> {
        let change = self.changes.next();
        let unnamed = self.unnamed.as_mut();
        match (&change, unnamed) {
            (Some(Change::Network(network)), Some(left)) => _ = left.networks.remove(&network.vni),
            (Some(Change::Binding(vni, key, _)), Some(left)) => _ = left.bindings.remove(&(*vni, *key)),
            (Some(Change::Peer(id, _)), Some(left)) => _ = left.peers.remove(id),
            (None, Some(left)) => return left.pop(),
            _ => {}
        }
        change
    }
}

impl Unnamed {
    /// Networks first: their bindings go with them.
    fn pop(&mut self) -> Option<Change> {
        if let Some(vni) = self.networks.pop_first() {
            return Some(Change::RemoveNetwork(vni));
        }
        if let Some((vni, key)) = self.bindings.pop_first() {
            return Some(Change::RemoveBinding(vni, key));
        }
        self.peers.pop_first().map(Change::RemovePeer)
    }
}

impl Registry {
    /// The registry, and what the file says.
    pub(super) fn new(own_key: PublicKey, config: Arc<Config>) -> (Registry, Vec<Effect>) {
        let mut registry = Registry {
            own_key,
            config: config.clone(),
            desired: Desired::default(),
            running: BTreeMap::new(),
            refused_networks: BTreeMap::new(),
            last_peer: 0,
            file_peers: BTreeMap::new(),
            nodes: BTreeMap::new(),
            told: HashMap::new(),
            static_bindings: HashMap::new(),
            parked: HashMap::new(),
            work: VecDeque::new(),
        };
        let effects = registry.set_config(config);
        (registry, effects)
    }

    /// Takes a reloaded file, whose networks are the same but for what changes live.
    pub(super) fn set_config(&mut self, config: Arc<Config>) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.config = config;
        self.set_file_peers(&mut effects);
        for network in &self.config.networks {
            effects.push(networks::set_policy(network));
        }
        self.set_static_bindings(&mut effects);
        effects
    }

    /// Takes what the controller says, to be carried out by [`Self::step`], after what is under way.
    pub(super) fn begin(&mut self, update: Update) {
        let unnamed = update.reset.then(|| Unnamed {
            networks: self.desired.networks.keys().copied().collect(),
            bindings: self.desired.bindings.keys().copied().collect(),
            peers: self.desired.peers.keys().cloned().collect(),
        });
        self.work.push_back(Work { changes: update.changes.into_iter(), unnamed });
    }

    /// Whether there is something to be carried out.
    pub(super) fn is_busy(&self) -> bool {
        !self.work.is_empty()
    }

    /// Carries out so many changes, so that a large update holds up nobody.
    pub(super) fn step(&mut self, changes: usize) -> Vec<Effect> {
        let mut effects = Vec::new();
        for _ in 0..changes {
            let Some(work) = self.work.front_mut() else { break };
            match work.next() {
                Some(change) => self.carry_out(change, &mut effects),
                None => {
                    self.work.pop_front();
                    self.retry_refused(&mut effects);
                }
            }
        }
        effects
    }

    fn carry_out(&mut self, change: Change, effects: &mut Vec<Effect>) {
        match change {
            Change::Network(network) => self.set_network(*network, effects),
            Change::RemoveNetwork(vni) => self.remove_network(vni, effects),
            Change::Peer(id, peer) => self.set_node(&id, peer, effects),
            Change::RemovePeer(id) => self.remove_node(&id, effects),
            Change::Binding(vni, key, binding) => self.set_binding((vni, key), binding, effects),
            Change::RemoveBinding(vni, key) => self.remove_binding((vni, key), effects),
        }
    }

    /// Another key for this node.
    pub(super) fn set_own_key(&mut self, key: PublicKey) -> Vec<Effect> {
        self.own_key = key;
        let mut effects = Vec::new();
        self.retry_refused(&mut effects);
        effects
    }

    /// What of the controller's word is left out: one sentence each, with the mend.
    pub(super) fn problems(&self) -> Vec<String> {
        let networks = self.refused_networks.values().cloned();
        networks.chain(self.nodes.values().filter_map(Known::problem)).collect()
    }

    /// The file's networks, then the controller's.
    pub(super) fn vnis(&self) -> Vec<Vni> {
        self.config.networks.iter().map(|network| network.vni).chain(self.running.keys().copied()).collect()
    }

    fn retry_refused(&mut self, effects: &mut Vec<Effect>) {
        for vni in self.refused_networks.keys().copied().collect::<Vec<_>>() {
            self.settle_network(vni, effects);
        }
        let refused = self.nodes.iter().filter(|(_, known)| known.is_refused());
        for id in refused.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.settle_node(&id, effects);
        }
    }
}
