//! Peers: the file's by name, the controller's by node id.

use switch_core::ids::{PeerId, Vni};

use super::{Effect, PeerRow, Registry};
use crate::config::Peer;
use crate::desired::DesiredPeer;
use crate::links;
use crate::view::Origin;

/// What a node of the controller's is here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Known {
    /// A peer.
    Peer(PeerId),
    /// A peer that the file names too, by this name.
    InFile(PeerId, String),
    /// None, for this reason.
    Refused(String),
}

impl Known {
    pub(super) fn peer(&self) -> Option<PeerId> {
        match self {
            Known::Peer(id) | Known::InFile(id, _) => Some(*id),
            Known::Refused(_) => None,
        }
    }

    pub(super) fn is_refused(&self) -> bool {
        matches!(self, Known::Refused(_))
    }

    pub(super) fn problem(&self) -> Option<String> {
        match self {
            Known::Peer(_) => None,
            Known::InFile(_, name) => Some(format!(
                "peer {name:?} is in the configuration file too and stays whatever the controller says: remove its \
                 [[peer]] there"
            )),
            Known::Refused(problem) => Some(problem.clone()),
        }
    }
}

impl Registry {
    /// Every peer, the file's first.
    pub(in crate::daemon) fn peer_rows(&self) -> Vec<PeerRow> {
        let in_file = self.config.peers.iter().filter_map(|peer| {
            let (id, _) = self.file_peers.get(&peer.name)?;
            let node_id = self.nodes.iter().find(|(_, known)| known.peer() == Some(*id));
            Some((*id, Origin::File, node_id.map(|(node, _)| node.clone())))
        });
        let of_controller = self.nodes.iter().filter_map(|(node, known)| match known {
            Known::Peer(id) => Some((*id, Origin::Controller, Some(node.clone()))),
            Known::InFile(..) | Known::Refused(_) => None,
        });
        let row = |(id, from, node_id)| {
            let (peer, vnis) = self.told.get(&id)?;
            Some(PeerRow {
                id,
                name: peer.name.to_string(),
                key: peer.key,
                addresses: peer.addresses.clone(),
                vnis: vnis.clone(),
                from,
                node_id,
            })
        };
        in_file.chain(of_controller).filter_map(row).collect()
    }

    /// Takes the file's peers. One whose key changed is another peer.
    pub(super) fn set_file_peers(&mut self, effects: &mut Vec<Effect>) {
        let config = self.config.clone();
        let mut old = std::mem::take(&mut self.file_peers);
        for peer in &config.peers {
            let known = old.remove(&peer.name).filter(|(_, key)| *key == peer.public_key);
            let id = known.map_or_else(|| self.next_peer(), |(id, _)| id);
            self.file_peers.insert(peer.name.clone(), (id, peer.public_key));
        }
        let stays: Vec<PeerId> = self.file_peers.values().map(|(id, _)| *id).collect();
        let gone: Vec<PeerId> = self.told.keys().copied().filter(|id| !stays.contains(id)).collect();
        let nodes: Vec<PeerId> =
            self.nodes.values().filter(|k| matches!(k, Known::Peer(_))).filter_map(Known::peer).collect();
        for id in gone.into_iter().filter(|id| !nodes.contains(id)) {
            self.forget(id, effects);
        }
        // A node may have been in the file before, or be in it now.
        for node in self.desired.peers.keys().cloned().collect::<Vec<_>>() {
            self.settle_node(&node, effects);
        }
        for peer in &config.peers {
            self.tell_file_peer(peer, effects);
        }
    }

    pub(super) fn set_node(&mut self, node: &str, peer: DesiredPeer, effects: &mut Vec<Effect>) {
        self.desired.peers.insert(node.to_owned(), peer);
        self.settle_node(node, effects);
    }

    pub(super) fn remove_node(&mut self, node: &str, effects: &mut Vec<Effect>) {
        self.desired.peers.remove(node);
        let known = self.nodes.remove(node);
        if known.as_ref().and_then(Known::peer).is_some() {
            self.park_node(node, effects);
        }
        match known {
            Some(Known::Peer(id)) => self.forget(id, effects),
            Some(Known::InFile(_, name)) => self.tell_file_peer_named(&name, effects),
            Some(Known::Refused(_)) | None => {}
        }
    }

    /// Makes a node the peer that is desired, or refuses it.
    pub(super) fn settle_node(&mut self, node: &str, effects: &mut Vec<Effect>) {
        let Some(desired) = self.desired.peers.get(node).cloned() else { return };
        let before = self.nodes.get(node).cloned();
        let now = self.judge(node, &desired, before.as_ref());
        self.nodes.insert(node.to_owned(), now.clone());
        match &before {
            Some(Known::Peer(old)) if now != Known::Peer(*old) => self.forget(*old, effects),
            Some(Known::InFile(_, name)) if before.as_ref() != Some(&now) => {
                self.tell_file_peer_named(name, effects);
            }
            _ => {}
        }
        match &now {
            Known::Peer(id) => {
                let peer = links::PeerConfig {
                    id: *id,
                    name: desired.name.as_str().into(),
                    key: desired.public_key,
                    addresses: desired.addresses.clone(),
                    node_id: Some(node.to_owned()),
                };
                let vnis = self.vnis_of(&desired);
                self.tell(peer, vnis, effects);
            }
            Known::InFile(_, name) => self.tell_file_peer_named(name, effects),
            Known::Refused(_) => {}
        }
        let was = before.as_ref().and_then(Known::peer);
        match (was, now.peer()) {
            (_, Some(id)) if was != Some(id) => self.bind_node(node, was.is_some(), effects),
            (Some(_), None) => self.park_node(node, effects),
            _ => {}
        }
    }

    fn judge(&mut self, node: &str, desired: &DesiredPeer, before: Option<&Known>) -> Known {
        let key = desired.public_key;
        if key == self.own_key {
            return Known::Refused(format!(
                "node {node} ({}) has this node's own key: one of the two is a copy, so give it a key of its own",
                desired.name
            ));
        }
        let in_file = self.file_peers.iter().find(|(_, (_, known))| *known == key);
        if let Some((name, (id, _))) = in_file {
            return Known::InFile(*id, name.clone());
        }
        let same_key = |(other, known): (&String, &Known)| {
            other != node
                && matches!(known, Known::Peer(id) if self.told.get(id).is_some_and(|(peer, _)| peer.key == key))
        };
        if let Some((other, _)) = self.nodes.iter().find(|row| same_key(*row)) {
            return Known::Refused(format!(
                "nodes {other} and {node} ({}) have the same key: remove one of the two",
                desired.name
            ));
        }
        match before {
            Some(Known::Peer(id)) => Known::Peer(*id),
            _ => Known::Peer(self.next_peer()),
        }
    }

    fn tell_file_peer_named(&mut self, name: &str, effects: &mut Vec<Effect>) {
        if let Some(peer) = self.config.clone().peers.iter().find(|peer| peer.name == name) {
            self.tell_file_peer(peer, effects);
        }
    }

    fn tell_file_peer(&mut self, peer: &Peer, effects: &mut Vec<Effect>) {
        let Some((id, key)) = self.file_peers.get(&peer.name).copied() else { return };
        let config = self.config.clone();
        let in_file = config.networks.iter().filter(|n| config.peers_of(n).any(|p| p.name == peer.name));
        let mut vnis: Vec<Vni> = in_file.map(|network| network.vni).collect();
        let node = self.nodes.iter().find(|(_, known)| known.peer() == Some(id));
        if let Some(desired) = node.and_then(|(node, _)| self.desired.peers.get(node)) {
            vnis.extend(self.vnis_of(desired));
        }
        let addresses = peer.addresses.clone();
        let peer = links::PeerConfig { id, name: peer.name.as_str().into(), key, addresses, node_id: None };
        self.tell(peer, vnis, effects);
    }

    /// The file's networks are not the controller's to open.
    fn vnis_of(&self, desired: &DesiredPeer) -> Vec<Vni> {
        let in_file = |vni: &Vni| self.config.networks.iter().any(|network| network.vni == *vni);
        desired.vnis.iter().copied().filter(|vni| !in_file(vni)).collect()
    }

    fn tell(&mut self, peer: links::PeerConfig, vnis: Vec<Vni>, effects: &mut Vec<Effect>) {
        let told = (peer, vnis);
        if self.told.get(&told.0.id) == Some(&told) {
            return;
        }
        effects.push(Effect::SetPeer(told.0.clone(), told.1.clone()));
        self.told.insert(told.0.id, told);
    }

    fn forget(&mut self, id: PeerId, effects: &mut Vec<Effect>) {
        if self.told.remove(&id).is_some() {
            effects.push(Effect::RemovePeer(id));
        }
    }

    fn next_peer(&mut self) -> PeerId {
        self.last_peer += 1;
        PeerId(self.last_peer)
    }
}
