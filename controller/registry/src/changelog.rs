//! What changed lately of what nodes see, so that a session sends what is new at the cost of what changed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::{
    hosts::HostStation,
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
    /// The newest entry about a peer.
    last_peer: Revision,
    /// The newest entry about something else than a peer or a binding.
    last_other: Revision,
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
        *self =
            ChangeLog { floor: revision, last_peer: revision, last_other: revision, ..ChangeLog::default() };
    }

    fn push(&mut self, revision: Revision, entry: Entry) {
        if self.entries.len() >= CAPACITY
            && let Some((oldest, _)) = self.entries.pop_front()
        {
            self.floor = oldest;
        }
        match entry {
            Entry::Binding(_) => {}
            Entry::Peer(_) => self.last_peer = revision,
            _ => self.last_other = revision,
        }
        self.entries.push_back((revision, entry));
    }

    fn since(&self, revision: Revision) -> Option<impl Iterator<Item = &Entry>> {
        (revision >= self.floor).then(|| self.between(revision, Revision(u64::MAX)))
    }

    /// As far as they are kept.
    fn between(&self, after: Revision, until: Revision) -> impl Iterator<Item = &Entry> {
        let first = self.entries.partition_point(|(r, _)| *r <= after);
        let changes = self.entries.range(first..).take_while(move |(r, _)| *r <= until);
        changes.map(|(_, entry)| entry)
    }
}

/// All that a node sees.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Snapshot {
    /// As of this revision.
    pub revision: Revision,
    /// Its networks.
    pub networks: Vec<Network>,
    /// What it is itself in those of the nodes themselves.
    pub hosts: BTreeMap<Vni, HostStation>,
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
    /// What it is itself in those of them that are of the nodes themselves.
    pub hosts: BTreeMap<Vni, HostStation>,
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

/// The networks that a node sees. Nodes with equal views are told the same of bindings.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct View(Vec<Vni>);

/// What is, or is new, of the bindings in a view.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Stations {
    /// As of this revision.
    pub revision: Revision,
    /// All, or new and changed ones.
    pub bindings: Vec<Binding>,
    /// Stations that live nowhere any more; some may never have been known.
    pub removed: Vec<BindingKey>,
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
        let mut delta = self.peers_among(node, peers);
        let visible = |vni: &Vni| self.networks.get(vni).filter(|n| n.nodes.includes(node));
        delta.networks = networks.iter().filter_map(visible).cloned().collect();
        delta.hosts = self.hosts_among(node, &delta.networks);
        delta.removed_networks = gone.into_iter().collect();
        let stations = self.stations_among(bindings, |vni| visible(&vni).is_some());
        (delta.bindings, delta.removed_bindings) = (stations.bindings, stations.removed);
        Some(delta)
    }

    /// What a node sees; none if it is not one.
    #[must_use]
    pub fn view_of(&self, node: NodeId) -> Option<View> {
        self.nodes.get(&node).filter(|n| n.is_member())?;
        let seen = self.networks.values().filter(|n| n.nodes.includes(node));
        Some(View(seen.map(|n| n.vni).collect()))
    }

    /// How many changes there have been since a revision, if all of them were of bindings and peers and are known
    /// still. Then a node's [`changes_since`](Registry::changes_since) are its
    /// [`peers_between`](Registry::peers_between) and the [`stations_between`](Registry::stations_between) of its
    /// view, also in several steps.
    #[must_use]
    pub fn stations_changed(&self, revision: Revision) -> Option<usize> {
        let known = revision >= self.log.floor.max(self.log.last_other) && revision <= self.counters.revision;
        known.then(|| self.log.entries.len() - self.log.entries.partition_point(|(r, _)| *r <= revision))
    }

    /// The peers of a node that changed after a revision and until another one, as they are now.
    #[must_use]
    pub fn peers_between(&self, node: NodeId, after: Revision, until: Revision) -> Delta {
        if after >= self.log.last_peer {
            return Delta { revision: until, ..Delta::default() };
        }
        let peers = self.log.between(after, until).filter_map(|entry| match entry {
            Entry::Peer(peer) if *peer != node => Some(*peer),
            _ => None,
        });
        Delta { revision: until, ..self.peers_among(node, peers.collect()) }
    }

    /// The bindings in a view that changed after a revision and until another one, as they are now.
    #[must_use]
    pub fn stations_between(&self, view: &View, after: Revision, until: Revision) -> Stations {
        let keys = self.log.between(after, until).filter_map(|entry| match entry {
            Entry::Binding(key) => Some(key),
            _ => None,
        });
        let stations = self.stations_among(keys.collect(), |vni| view.0.binary_search(&vni).is_ok());
        Stations { revision: until, ..stations }
    }

    /// All bindings in a view.
    #[must_use]
    pub fn stations_of(&self, view: &View) -> Stations {
        let bindings = view.0.iter().flat_map(|vni| self.bindings_of(*vni)).cloned().collect();
        Stations { revision: self.counters.revision, bindings, removed: Vec::new() }
    }

    /// A node's [`snapshot_for`](Registry::snapshot_for) without the bindings.
    #[must_use]
    pub fn surroundings_of(&self, node: NodeId) -> Snapshot {
        let revision = self.counters.revision;
        if !self.nodes.get(&node).is_some_and(crate::records::Node::is_member) {
            return Snapshot { revision, ..Snapshot::default() };
        }
        let networks: Vec<Network> =
            self.networks.values().filter(|n| n.nodes.includes(node)).cloned().collect();
        let hosts = self.hosts_among(node, &networks);
        let others = self.nodes.keys().filter(|id| **id != node);
        let peers = others.filter_map(|id| self.peer_of(node, *id)).collect();
        Snapshot { revision, networks, hosts, peers, bindings: Vec::new() }
    }

    fn hosts_among(&self, node: NodeId, networks: &[Network]) -> BTreeMap<Vni, HostStation> {
        networks.iter().filter_map(|n| Some((n.vni, self.host_station(node, n.vni)?))).collect()
    }

    fn peers_among(&self, node: NodeId, peers: BTreeSet<NodeId>) -> Delta {
        let mut delta = Delta { revision: self.counters.revision, ..Delta::default() };
        for peer in peers {
            match self.peer_of(node, peer) {
                Some(peer) => delta.peers.push(peer),
                None => delta.removed_peers.push(peer),
            }
        }
        delta
    }

    fn stations_among(&self, keys: BTreeSet<&BindingKey>, visible: impl Fn(Vni) -> bool) -> Stations {
        let mut stations = Stations { revision: self.counters.revision, ..Stations::default() };
        for key in keys.into_iter().filter(|key| visible(key.vni)) {
            match self.bindings.get(key) {
                Some(binding) => stations.bindings.push(binding.clone()),
                None => stations.removed.push(key.clone()),
            }
        }
        stations
    }

    /// All that a node sees; nothing if it is not one.
    #[must_use]
    pub fn snapshot_for(&self, node: NodeId) -> Snapshot {
        let mut snapshot = self.surroundings_of(node);
        snapshot.bindings = snapshot.networks.iter().flat_map(|n| self.bindings_of(n.vni)).cloned().collect();
        snapshot
    }

    /// The bindings of a network.
    pub fn bindings_of(&self, vni: Vni) -> impl Iterator<Item = &Binding> {
        let first = |vni| BindingKey { vni, vlans: Vec::new(), mac: crate::ids::Mac::default() };
        self.bindings.range(first(vni)..first(Vni(vni.0.saturating_add(1)))).map(|(_, binding)| binding)
    }
}
