//! What the controller has said so far: snapshots put together from their parts, deltas applied. Pure.

use std::collections::BTreeMap;

use controller_api::node as wire;
use switch_core::frame::Tags;
use switch_core::ids::{Mac, Vni};
use switch_core::switch::BindingKey;

use super::convert;
use crate::desired::{Change, Desired, DesiredBinding, Revision, Update};

/// The state of the last whole revision, and the parts of the next one.
#[derive(Debug)]
pub(super) struct Mirror {
    own: String,
    state: Desired,
    revision: Revision,
    /// What of the state could not be understood, by what it concerns.
    problems: BTreeMap<String, String>,
    pending: Option<Pending>,
}

#[derive(Debug)]
struct Pending {
    revision: Revision,
    reset: bool,
    parts: Vec<wire::StateUpdate>,
}

impl Mirror {
    /// Of nothing, on the node with the id `own`.
    pub(super) fn new(own: String) -> Mirror {
        Mirror {
            own,
            state: Desired::default(),
            revision: Revision::default(),
            problems: BTreeMap::new(),
            pending: None,
        }
    }

    /// Takes a message in. Gives a step once the last part of its revision is there.
    pub(super) fn take(&mut self, part: wire::StateUpdate) -> Result<Option<Update>, OutOfOrder> {
        let revision = Revision { epoch: part.epoch, revision: part.revision };
        if part.snapshot && part.first {
            self.pending = Some(Pending { revision, reset: true, parts: Vec::new() });
        } else if self.pending.is_none() && !part.snapshot {
            if revision.epoch != self.revision.epoch || revision.revision < self.revision.revision {
                return Err(OutOfOrder::Base { known: self.revision, update: revision });
            }
            self.pending = Some(Pending { revision, reset: false, parts: Vec::new() });
        }
        let more = part.more;
        match &mut self.pending {
            Some(pending) if pending.revision == revision && pending.reset == part.snapshot => {
                pending.parts.push(part);
            }
            _ => return Err(OutOfOrder::Part { update: revision }),
        }
        match self.pending.take_if(|_| !more) {
            None => Ok(None),
            Some(pending) => Ok(Some(self.complete(pending))),
        }
    }

    /// Forgets the parts of what is not whole: the session ended.
    pub(super) fn abandon(&mut self) {
        self.pending = None;
    }

    /// Forgets everything, as a step. The next session begins with a snapshot.
    pub(super) fn clear(&mut self) -> Update {
        *self = Mirror::new(std::mem::take(&mut self.own));
        Update { reset: true, ..Update::default() }
    }

    /// Makes the next session begin with a snapshot; the state stays until then.
    pub(super) fn forget_revision(&mut self) {
        self.revision = Revision::default();
        self.abandon();
    }

    /// Of the last whole update.
    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    /// The binding of a station.
    pub(super) fn binding(&self, vni: Vni, key: BindingKey) -> Option<&DesiredBinding> {
        self.state.bindings.get(&(vni, key))
    }

    /// All of the state.
    pub(super) fn state(&self) -> &Desired {
        &self.state
    }

    /// A sentence for each thing that could not be understood.
    pub(super) fn problems(&self) -> Vec<String> {
        self.problems.values().cloned().collect()
    }

    /// The whole as one snapshot, to be stored.
    pub(super) fn to_snapshot(&self) -> wire::StateUpdate {
        let bindings = self.state.bindings.iter();
        wire::StateUpdate {
            epoch: self.revision.epoch,
            revision: self.revision.revision,
            snapshot: true,
            first: true,
            networks: self.state.networks.values().map(convert::network_to_wire).collect(),
            peers: self.state.peers.iter().map(|(id, peer)| convert::peer_to_wire(id, peer)).collect(),
            bindings: bindings
                .map(|((vni, key), binding)| convert::binding_to_wire(*vni, *key, binding, &self.own))
                .collect(),
            ..wire::StateUpdate::default()
        }
    }

    fn complete(&mut self, pending: Pending) -> Update {
        let mut update = Update { revision: pending.revision, reset: pending.reset, changes: Vec::new() };
        if pending.reset {
            self.problems.clear();
        }
        for part in pending.parts {
            self.removals(&part, &mut update.changes);
            self.additions(&part, &mut update.changes);
        }
        self.revision = pending.revision;
        self.state.apply(update.clone());
        update
    }

    fn removals(&mut self, part: &wire::StateUpdate, changes: &mut Vec<Change>) {
        for wire in &part.removed_bindings {
            match convert::binding_key(Some(wire)) {
                Ok((vni, key)) => {
                    self.problems.remove(&about_binding(wire));
                    changes.push(Change::RemoveBinding(vni, key));
                }
                Err(problem) => drop(self.problems.insert(about_binding(wire), problem)),
            }
        }
        for id in &part.removed_peers {
            self.problems.remove(&about_peer(id));
            changes.push(Change::RemovePeer(id.clone()));
        }
        for vni in &part.removed_vnis {
            self.problems.remove(&about_network(*vni));
            let Ok(vni) = Vni::new(*vni) else { continue };
            // A network's bindings go with it, named or not.
            let first = BindingKey { tags: Tags::NONE, mac: Mac::ZERO };
            let of_network = self.state.bindings.range((vni, first)..).take_while(|((of, _), _)| *of == vni);
            changes.extend(of_network.map(|((vni, key), _)| Change::RemoveBinding(*vni, *key)));
            changes.push(Change::RemoveNetwork(vni));
        }
    }

    fn additions(&mut self, part: &wire::StateUpdate, changes: &mut Vec<Change>) {
        for wire in &part.networks {
            let network = convert::network(wire);
            let change = network.map(|network| Change::Network(Box::new(network)));
            self.judge(about_network(wire.vni), change, changes);
        }
        for wire in &part.peers {
            let change = convert::peer(wire).map(|(id, peer)| Change::Peer(id, peer));
            self.judge(about_peer(&wire.node_id), change, changes);
        }
        for wire in &part.bindings {
            let binding = convert::binding(wire, &self.own);
            let change = binding.map(|(vni, key, binding)| Change::Binding(vni, key, binding));
            self.judge(wire.key.as_ref().map_or_else(String::new, about_binding), change, changes);
        }
    }

    fn judge(&mut self, about: String, change: Result<Change, String>, changes: &mut Vec<Change>) {
        match change {
            Ok(change) => {
                if !self.problems.is_empty() {
                    self.problems.remove(&about);
                }
                changes.push(change);
            }
            Err(problem) => drop(self.problems.insert(about, problem)),
        }
    }
}

/// An update that does not fit what came before: the session is to begin again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum OutOfOrder {
    /// A change of a state that is not the one that is known.
    #[error("the controller sent a change to revision {} of epoch {:x}, but revision {} of epoch {:x} is known here",
        update.revision, update.epoch, known.revision, known.epoch)]
    Base {
        /// What is known.
        known: Revision,
        /// What came.
        update: Revision,
    },
    /// A part of another revision than the one under way.
    #[error("the controller sent a part of revision {} in the middle of another one", update.revision)]
    Part {
        /// What came.
        update: Revision,
    },
}

fn about_network(vni: u32) -> String {
    format!("network {vni}")
}

fn about_peer(id: &str) -> String {
    format!("peer {id}")
}

fn about_binding(key: &wire::BindingKey) -> String {
    format!("binding {} {:?} {:?}", key.vni, key.vlans, key.mac)
}

#[cfg(test)]
mod tests;
