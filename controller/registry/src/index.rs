//! What is derived from the records and kept beside them, and the only places where records change.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    changelog::Entry,
    ids::{Generation, InstanceId, NodeId, OperationId, PublicKey, Vni},
    records::{
        Binding, BindingKey, BindingSource, BindingState, Counters, Instance, Network, Node, Operation,
        RecordKey, Token,
    },
    registry::Registry,
};

/// Derived from the records.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// Every key that is or was a node's.
    pub(crate) keys: BTreeMap<PublicKey, NodeId>,
    /// Instances that a node's agent has to know: they live there, come there, or have a copy there.
    pub(crate) instances_at: BTreeMap<NodeId, BTreeSet<InstanceId>>,
    /// Bindings of a node.
    pub(crate) bindings_at: BTreeMap<NodeId, BTreeSet<BindingKey>>,
    /// How many of those are learned.
    pub(crate) learned_at: BTreeMap<NodeId, usize>,
    /// How many bindings there are of each source and state.
    pub(crate) binding_counts: BTreeMap<(BindingSource, BindingState), usize>,
    /// Addresses that instances have.
    pub(crate) placed_ips: BTreeMap<(Vni, IpAddr), InstanceId>,
    /// Operations that have not ended.
    pub(crate) running: BTreeSet<OperationId>,
}

impl Registry {
    pub(crate) fn reindex(&mut self) {
        let mut index = Index::default();
        for node in self.nodes.values() {
            index.add_node(node);
        }
        for instance in self.instances.values() {
            index.add_instance(instance);
        }
        for binding in self.bindings.values() {
            index.add_binding(binding);
        }
        for operation in self.operations.values() {
            index.add_operation(operation);
        }
        self.index = index;
    }

    pub(crate) fn put_node(&mut self, node: Node) {
        if self.nodes.get(&node.id) == Some(&node) {
            return;
        }
        self.index.add_node(&node);
        self.mark(RecordKey::Node(node.id));
        self.nodes.insert(node.id, node);
    }

    pub(crate) fn put_token(&mut self, token: Token) {
        self.mark(RecordKey::Token(token.id));
        self.tokens.insert(token.id, token);
    }

    pub(crate) fn put_network(&mut self, network: Network) {
        self.mark(RecordKey::Network(network.vni));
        self.networks.insert(network.vni, network);
    }

    pub(crate) fn put_operation(&mut self, operation: Operation) {
        if self.operations.get(&operation.id) == Some(&operation) {
            return;
        }
        self.index.add_operation(&operation);
        self.mark(RecordKey::Operation(operation.id));
        self.operations.insert(operation.id, operation);
    }

    /// Every agent that had or has to know of the instance is told.
    pub(crate) fn put_instance(&mut self, instance: Instance) {
        let old = self.instances.get(&instance.id);
        if old == Some(&instance) {
            return;
        }
        if let Some(old) = old {
            self.changes.agents.extend(agents_of(old));
            self.index.remove_instance(old);
        }
        self.changes.agents.extend(agents_of(&instance));
        self.touched.insert(instance.id);
        self.index.add_instance(&instance);
        self.mark(RecordKey::Instance(instance.id));
        self.instances.insert(instance.id, instance);
    }

    pub(crate) fn remove_instance(&mut self, id: InstanceId) {
        if let Some(old) = self.instances.remove(&id) {
            self.changes.agents.extend(agents_of(&old));
            self.index.remove_instance(&old);
            self.observed.remove(&id);
            self.mark(RecordKey::Instance(id));
        }
    }

    /// Gives the binding its generation, unless nothing of it changes.
    pub(crate) fn put_binding(&mut self, mut binding: Binding) -> Generation {
        if let Some(old) = self.bindings.get(&binding.key) {
            binding.generation = old.generation;
            if *old == binding {
                return old.generation;
            }
            self.index.remove_binding(old);
        }
        binding.generation = Generation(self.log_change(Entry::Binding(binding.key.clone())).0);
        self.index.add_binding(&binding);
        self.mark(RecordKey::Binding(binding.key.clone()));
        let generation = binding.generation;
        self.bindings.insert(binding.key.clone(), binding);
        generation
    }

    pub(crate) fn remove_binding(&mut self, key: &BindingKey) {
        if let Some(old) = self.bindings.remove(key) {
            self.index.remove_binding(&old);
            self.log_change(Entry::Binding(key.clone()));
            self.mark(RecordKey::Binding(key.clone()));
        }
    }

    /// Removes a binding of a network that goes itself.
    pub(crate) fn forget_binding(&mut self, key: &BindingKey) {
        if let Some(old) = self.bindings.remove(key) {
            self.index.remove_binding(&old);
            self.mark(RecordKey::Binding(key.clone()));
        }
    }

    /// A number from one of the counters.
    pub(crate) fn next_number(&mut self, counter: fn(&mut Counters) -> &mut u64) -> u64 {
        self.mark(RecordKey::Counters);
        Counters::next(counter(&mut self.counters))
    }
}

/// The nodes whose agents have to know of an instance.
pub(crate) fn agents_of(instance: &Instance) -> impl Iterator<Item = NodeId> + '_ {
    let migration = instance.migration.as_ref().map(|m| [m.from, m.to]).into_iter().flatten();
    std::iter::once(instance.node).chain(migration).chain(instance.leftovers.keys().copied())
}

impl Index {
    /// Keys stay for ever: a key that was a node's is never another's.
    fn add_node(&mut self, node: &Node) {
        for key in node.public_key.iter().chain(&node.previous_keys) {
            self.keys.insert(*key, node.id);
        }
    }

    fn add_operation(&mut self, operation: &Operation) {
        if operation.is_finished() {
            self.running.remove(&operation.id);
        } else {
            self.running.insert(operation.id);
        }
    }

    fn add_instance(&mut self, instance: &Instance) {
        for node in agents_of(instance) {
            self.instances_at.entry(node).or_default().insert(instance.id);
        }
        for nic in &instance.nics {
            for ip in &nic.ips {
                self.placed_ips.insert((nic.vni, *ip), instance.id);
            }
        }
    }

    fn remove_instance(&mut self, instance: &Instance) {
        for node in agents_of(instance) {
            remove_from(&mut self.instances_at, node, &instance.id);
        }
        for nic in &instance.nics {
            for ip in &nic.ips {
                self.placed_ips.remove(&(nic.vni, *ip));
            }
        }
    }

    fn add_binding(&mut self, binding: &Binding) {
        self.bindings_at.entry(binding.node).or_default().insert(binding.key.clone());
        *self.binding_counts.entry((binding.source, binding.state)).or_default() += 1;
        if binding.source == BindingSource::Learned {
            *self.learned_at.entry(binding.node).or_default() += 1;
        }
    }

    fn remove_binding(&mut self, binding: &Binding) {
        remove_from(&mut self.bindings_at, binding.node, &binding.key);
        if let Some(count) = self.binding_counts.get_mut(&(binding.source, binding.state)) {
            *count = count.saturating_sub(1);
        }
        if binding.source == BindingSource::Learned
            && let Some(count) = self.learned_at.get_mut(&binding.node)
        {
            *count = count.saturating_sub(1);
        }
    }
}

fn remove_from<T: Ord>(sets: &mut BTreeMap<NodeId, BTreeSet<T>>, node: NodeId, value: &T) {
    if let Some(set) = sets.get_mut(&node) {
        set.remove(value);
        if set.is_empty() {
            sets.remove(&node);
        }
    }
}
