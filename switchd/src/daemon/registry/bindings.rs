//! Who lives where: static bindings of the file, and the controller's.

use std::collections::HashMap;

use switch_core::frame::Tags;
use switch_core::ids::{Mac, Vni};
use switch_core::switch::{Binding, BindingKey, Place, Source, State};

use super::peers::Known;
use super::{Effect, Registry};
use crate::config::StaticBinding;
use crate::dataplane::BindingChange;
use crate::desired::DesiredBinding;

type Key = (Vni, BindingKey);

impl Registry {
    pub(super) fn set_static_bindings(&mut self, effects: &mut Vec<Effect>) {
        let mut wanted = HashMap::new();
        for network in &self.config.networks {
            for binding in &network.bindings {
                let Some(at) = self.place_by_name(binding) else { continue };
                let key = BindingKey { tags: binding.vlans, mac: binding.mac };
                wanted.insert((network.vni, key), binding.generation);
                let binding = Binding {
                    tags: binding.vlans,
                    mac: binding.mac,
                    ips: binding.ips.clone(),
                    at,
                    generation: binding.generation,
                    source: Source::Controller,
                    state: State::Active,
                };
                effects.push(Effect::Bind(BindingChange::Set(network.vni, Box::new(binding))));
            }
        }
        for ((vni, key), generation) in std::mem::replace(&mut self.static_bindings, wanted) {
            if !self.static_bindings.contains_key(&(vni, key)) {
                effects.push(Effect::Bind(BindingChange::Remove(vni, key, generation)));
            }
        }
    }

    pub(super) fn set_binding(&mut self, at: Key, new: DesiredBinding, effects: &mut Vec<Effect>) {
        if let Some(old) = self.desired.bindings.get(&at) {
            if *old == new {
                return;
            }
            let old = old.clone();
            self.unpark(at, &old);
            // The worker refuses what is older than what it has. A controller that was restored counts from less.
            if old.generation > new.generation || self.place(&new).is_none() {
                self.unbind(at, &old, effects);
            }
        }
        self.bind(at, &new, effects);
        self.desired.bindings.insert(at, new);
    }

    pub(super) fn remove_binding(&mut self, at: Key, effects: &mut Vec<Effect>) {
        if let Some(old) = self.desired.bindings.remove(&at) {
            self.unpark(at, &old);
            self.unbind(at, &old, effects);
        }
    }

    /// The bindings of a network that has just begun.
    pub(super) fn bind_network(&mut self, vni: Vni, effects: &mut Vec<Effect>) {
        let first = BindingKey { tags: Tags::NONE, mac: Mac::ZERO };
        let of_network = self.desired.bindings.range((vni, first)..).take_while(|(at, _)| at.0 == vni);
        for (at, binding) in of_network.map(|(at, binding)| (*at, binding.clone())).collect::<Vec<_>>() {
            self.bind(at, &binding, effects);
        }
    }

    /// A node has become a peer, or another one.
    pub(super) fn bind_node(&mut self, node: &str, was_known: bool, effects: &mut Vec<Effect>) {
        let parked = self.parked.remove(node).unwrap_or_default();
        let bindings = if was_known { self.bindings_of(node) } else { self.bindings_at(parked) };
        for (at, binding) in bindings {
            self.bind(at, &binding, effects);
        }
    }

    /// A node is no peer any more: its bindings wait for its return.
    pub(super) fn park_node(&mut self, node: &str, effects: &mut Vec<Effect>) {
        for (at, binding) in self.bindings_of(node) {
            if self.running.contains_key(&at.0) {
                effects.push(Effect::Bind(BindingChange::Remove(at.0, at.1, binding.generation)));
            }
            self.parked.entry(node.to_owned()).or_default().insert(at);
        }
    }

    fn bindings_of(&self, node: &str) -> Vec<(Key, DesiredBinding)> {
        let of_node = self.desired.bindings.iter().filter(|(_, b)| b.node.as_deref() == Some(node));
        of_node.map(|(at, binding)| (*at, binding.clone())).collect()
    }

    fn bindings_at(&self, keys: impl IntoIterator<Item = Key>) -> Vec<(Key, DesiredBinding)> {
        let binding = |at| self.desired.bindings.get(&at).map(|binding| (at, binding.clone()));
        keys.into_iter().filter_map(binding).collect()
    }

    fn bind(&mut self, at: Key, binding: &DesiredBinding, effects: &mut Vec<Effect>) {
        match (self.place(binding), &binding.node) {
            (Some(place), _) if self.running.contains_key(&at.0) => {
                effects.push(Effect::Bind(BindingChange::Set(
                    at.0,
                    Box::new(worker_binding(at.1, place, binding)),
                )));
            }
            (None, Some(node)) => {
                self.parked.entry(node.clone()).or_default().insert(at);
            }
            _ => {}
        }
    }

    /// Takes back what the worker was told.
    fn unbind(&mut self, (vni, key): Key, binding: &DesiredBinding, effects: &mut Vec<Effect>) {
        if self.place(binding).is_some() && self.running.contains_key(&vni) {
            effects.push(Effect::Bind(BindingChange::Remove(vni, key, binding.generation)));
        }
    }

    fn unpark(&mut self, at: Key, binding: &DesiredBinding) {
        let Some(node) = &binding.node else { return };
        if let Some(parked) = self.parked.get_mut(node) {
            parked.remove(&at);
            if parked.is_empty() {
                self.parked.remove(node);
            }
        }
    }

    fn place(&self, binding: &DesiredBinding) -> Option<Place> {
        match &binding.node {
            None => Some(Place::Local),
            Some(node) => self.nodes.get(node).and_then(Known::peer).map(Place::Peer),
        }
    }

    fn place_by_name(&self, binding: &StaticBinding) -> Option<Place> {
        if binding.node == self.config.node.name {
            return Some(Place::Local);
        }
        self.file_peers.get(&binding.node).map(|(id, _)| Place::Peer(*id))
    }
}

/// A binding of the controller as the switch takes it.
fn worker_binding(key: BindingKey, at: Place, binding: &DesiredBinding) -> Binding {
    Binding {
        tags: key.tags,
        mac: key.mac,
        ips: binding.ips.clone(),
        at,
        generation: binding.generation,
        source: binding.source,
        state: binding.state,
    }
}
