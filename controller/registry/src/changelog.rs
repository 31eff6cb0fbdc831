//! What changed lately of what nodes see, so that a session sends what is new at the cost of what changed.

use std::collections::{BTreeSet, VecDeque};

use crate::{
    ids::{NodeId, Revision, Vni},
    records::{Binding, BindingKey, Membership, Network},
    registry::Registry,
    views::Peer,
};

/// Entries that are kept; a session that is further behind takes a snapshot.
pub(crate) const CAPACITY: usize = 65_536;

/// The newest changes, with the revision of each.
#[derive(Debug, Default)]
pub(crate) struct ChangeLog {
    entries: VecDeque<(Revision, Entry)>,
    /// Everything after this one is in `entries`.
    floor: Revision,
}

/// What changed. The value is looked up when it is sent, so that of several changes only the last one goes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    Network(Vni),
    /// With those that had it.
    NetworkRemoved(Vni, Membership),
    Peer(NodeId),
    Binding(BindingKey),
    /// These nodes see other networks than before.
    Resync(Membership),
}

impl ChangeLog {
    pub(crate) fn start_at(&mut self, revision: Revision) {
        self.entries.clear();
        self.floor = revision;
    }

    fn push(&mut self, revision: Revision, entry: Entry) {
        if self.entries.len() >= CAPACITY
            && let Some((oldest, _)) = self.entries.pop_front()
        {
            self.floor = oldest;
        }
        self.entries.push_back((revision, entry));
    }

    fn since(&self, revision: Revision) -> Option<impl Iterator<Item = &Entry>> {
        if revision < self.floor {
            return None;
        }
        let first = self.entries.partition_point(|(r, _)| *r <= revision);
        Some(self.entries.range(first..).map(|(_, entry)| entry))
    }
}

/// All that a node sees.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Snapshot {
    /// As of this revision.
    pub revision: Revision,
    /// Its networks.
    pub networks: Vec<Network>,
    /// The nodes that share one with it.
    pub peers: Vec<Peer>,
    /// Who lives in them.
    pub bindings: Vec<Binding>,
}

/// What of it is new.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Delta {
    /// As of this revision.
    pub revision: Revision,
    /// New or changed ones.
    pub networks: Vec<Network>,
    /// Networks that are gone, with all that was in them.
    pub removed_networks: Vec<Vni>,
    /// New or changed ones.
    pub peers: Vec<Peer>,
    /// Nodes that are peers no more; some may never have been.
    pub removed_peers: Vec<NodeId>,
    /// New or changed ones.
    pub bindings: Vec<Binding>,
    /// Stations that live nowhere any more; some may never have been known.
    pub removed_bindings: Vec<BindingKey>,
}

impl Delta {
    /// It says nothing but its revision.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Delta { revision: self.revision, ..Delta::default() }
    }
}

impl Registry {
    pub(crate) fn log_change(&mut self, entry: Entry) -> Revision {
        let revision = self.next_revision();
        self.log.push(revision, entry);
        self.changes.revision_changed = true;
        revision
    }

    /// What a node that has everything up to `revision` does not have yet. None: it needs a
    /// [`snapshot`](Registry::snapshot_for).
    #[must_use]
    pub fn changes_since(&self, node: NodeId, revision: Revision) -> Option<Delta> {
        if revision > self.counters.revision || !self.nodes.get(&node)?.is_member() {
            return None;
        }
        let (mut networks, mut gone, mut peers, mut bindings) =
            (BTreeSet::new(), BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for entry in self.log.since(revision)? {
            match entry {
                Entry::Network(vni) => _ = networks.insert(*vni),
                Entry::NetworkRemoved(vni, members) if members.includes(node) => _ = gone.insert(*vni),
                Entry::NetworkRemoved(..) => {}
                Entry::Peer(peer) if *peer == node => {}
                Entry::Peer(peer) => _ = peers.insert(*peer),
                Entry::Binding(key) => _ = bindings.insert(key),
                Entry::Resync(members) if members.includes(node) => return None,
                Entry::Resync(_) => {}
            }
        }
        // A VNI that is gone and there again: the order within a delta is not said.
        if gone.iter().any(|vni| self.networks.contains_key(vni)) {
            return None;
        }
        let mut delta = Delta { revision: self.counters.revision, ..Delta::default() };
        let visible = |vni: &Vni| self.networks.get(vni).filter(|n| n.nodes.includes(node));
        delta.networks = networks.iter().filter_map(visible).cloned().collect();
        delta.removed_networks = gone.into_iter().collect();
        for peer in peers {
            match self.peer_of(node, peer) {
                Some(peer) => delta.peers.push(peer),
                None => delta.removed_peers.push(peer),
            }
        }
        for key in bindings.into_iter().filter(|key| visible(&key.vni).is_some()) {
            match self.bindings.get(key) {
                Some(binding) => delta.bindings.push(binding.clone()),
                None => delta.removed_bindings.push(key.clone()),
            }
        }
        Some(delta)
    }

    /// All that a node sees; nothing if it is not one.
    #[must_use]
    pub fn snapshot_for(&self, node: NodeId) -> Snapshot {
        if !self.nodes.get(&node).is_some_and(crate::records::Node::is_member) {
            return Snapshot { revision: self.counters.revision, ..Snapshot::default() };
        }
        let networks: Vec<Network> =
            self.networks.values().filter(|n| n.nodes.includes(node)).cloned().collect();
        let peers =
            self.nodes.keys().filter(|id| **id != node).filter_map(|id| self.peer_of(node, *id)).collect();
        let bindings = networks.iter().flat_map(|n| self.bindings_of(n.vni)).cloned().collect();
        Snapshot { revision: self.counters.revision, networks, peers, bindings }
    }

    /// The bindings of a network.
    pub fn bindings_of(&self, vni: Vni) -> impl Iterator<Item = &Binding> {
        let first = |vni| BindingKey { vni, vlans: Vec::new(), mac: crate::ids::Mac::default() };
        self.bindings.range(first(vni)..first(Vni(vni.0.saturating_add(1)))).map(|(_, binding)| binding)
    }
}
