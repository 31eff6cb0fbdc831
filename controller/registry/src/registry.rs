//! The registry: all state in memory, one input at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use crate::{
    changelog::ChangeLog,
    changes::{Changes, Event, EventKind, Write},
    command::{Command, Input, InstanceStatus, Outcome, Request},
    ids::{ApiTokenId, InstanceId, Mac, NodeId, OperationId, Revision, Timestamp, TokenId, TypeId, Vni},
    index::Index,
    records::{
        ApiToken, Binding, BindingKey, BindingSource, BindingState, Cluster, Counters, IdempotencyKey,
        Instance, InstanceType, Network, Node, Operation, Record, RecordKey, Token,
    },
    refusal::Refusal,
    restored::Sightings,
    sessions::NodeRuntime,
};

/// What the controller knows.
///
/// In: [`handle`](Registry::handle). Out: [`take_changes`](Registry::take_changes), after each input, also after a
/// refused one (a refused clone is an event). Time: [`poll_timeout`](Registry::poll_timeout).
#[derive(Debug, Default)]
pub struct Registry {
    pub(crate) cluster: Option<Cluster>,
    pub(crate) counters: Counters,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) tokens: BTreeMap<TokenId, Token>,
    pub(crate) networks: BTreeMap<Vni, Network>,
    pub(crate) types: BTreeMap<TypeId, InstanceType>,
    pub(crate) instances: BTreeMap<InstanceId, Instance>,
    pub(crate) bindings: BTreeMap<BindingKey, Binding>,
    pub(crate) operations: BTreeMap<OperationId, Operation>,
    pub(crate) api_tokens: BTreeMap<ApiTokenId, ApiToken>,
    pub(crate) idempotency_keys: BTreeMap<(String, String), IdempotencyKey>,

    pub(crate) index: Index,
    pub(crate) settings: Settings,
    pub(crate) runtime: BTreeMap<NodeId, NodeRuntime>,
    pub(crate) observed: BTreeMap<InstanceId, InstanceStatus>,
    pub(crate) sightings: Sightings,
    /// When a move began its stage, or an end of its transfer said something last.
    pub(crate) heard: BTreeMap<InstanceId, Timestamp>,
    pub(crate) log: ChangeLog,
    dirty: BTreeSet<RecordKey>,
    pub(crate) changes: Changes,
    /// The time of the input that is being handled. Never falls, whatever the clock does.
    pub(crate) now: Timestamp,
    /// The time of the first input: nodes have from then to come back.
    pub(crate) started: Option<Timestamp>,
    /// Who asked for what is being handled.
    pub(crate) principal: String,
    /// Instances that changed and whose bindings and operations have to follow.
    pub(crate) touched: BTreeSet<InstanceId>,
    /// When old records are cleared away next.
    pub(crate) next_housekeeping: Timestamp,
}

/// What an operator may set. Not persisted: the shell gives it to each registry that it makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Learned bindings that one node may have. Default 4096: as many stations as a switch keeps of its own bridges.
    pub learned_per_node: usize,
    /// Milliseconds that an agent may be away before operations stop waiting for it. Default 30000: longer than its
    /// own restart takes.
    pub agent_grace_ms: u64,
    /// A network of the nodes themselves that cannot be deleted. Default none.
    pub kept_network: Option<Vni>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { learned_per_node: 4096, agent_grace_ms: 30_000, kept_network: None }
    }
}

/// Records that are not a registry's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// Two records have one key.
    #[error("the store has two records under `{0}`; restore it from a backup")]
    Twice(String),
    /// There are records and no cluster.
    #[error("the store has records but no cluster; restore it from a backup, or start with an empty one")]
    NoCluster,
    /// An id is higher than its counter: it would be given out again.
    #[error("`{0}` is newer than the store's counters; restore the store from a backup")]
    Counter(String),
    /// A record names one that is not there.
    #[error("`{key}` names {missing}, which the store does not have; restore it from a backup")]
    Dangling {
        /// The record.
        key: String,
        /// What it names.
        missing: String,
    },
}

impl Registry {
    /// A registry of these records, in any order; an empty one of none.
    pub fn restore(records: impl Iterator<Item = Record>) -> Result<Registry, RestoreError> {
        let mut registry = Registry::default();
        let mut any = false;
        for record in records {
            any = true;
            let key = record.key();
            if registry.insert_restored(record) {
                return Err(RestoreError::Twice(key.to_string()));
            }
        }
        if any && registry.cluster.is_none() {
            return Err(RestoreError::NoCluster);
        }
        registry.check_restored()?;
        registry.reindex();
        registry.log.start_at(registry.counters.revision);
        Ok(registry)
    }

    /// Goes by these settings from now on.
    #[must_use]
    pub fn with_settings(self, settings: Settings) -> Registry {
        Registry { settings, ..self }
    }

    /// True if there was one under the key.
    fn insert_restored(&mut self, record: Record) -> bool {
        match record {
            Record::Cluster(r) => self.cluster.replace(r).is_some(),
            Record::Counters(r) => std::mem::replace(&mut self.counters, r) != Counters::default(),
            Record::Node(r) => self.nodes.insert(r.id, r).is_some(),
            Record::Token(r) => self.tokens.insert(r.id, r).is_some(),
            Record::Network(r) => self.networks.insert(r.vni, r).is_some(),
            Record::Type(r) => self.types.insert(r.id, r).is_some(),
            Record::Instance(r) => self.instances.insert(r.id, r).is_some(),
            Record::Binding(r) => self.bindings.insert(r.key.clone(), r).is_some(),
            Record::Operation(r) => self.operations.insert(r.id, r).is_some(),
            Record::ApiToken(r) => self.api_tokens.insert(r.id, r).is_some(),
            Record::IdempotencyKey(r) => {
                self.idempotency_keys.insert((r.principal.clone(), r.key.clone()), r).is_some()
            }
        }
    }

    fn check_restored(&self) -> Result<(), RestoreError> {
        let c = &self.counters;
        let newest = [
            (self.nodes.keys().next_back().map(|id| (id.0, id.to_string())), c.node),
            (self.tokens.keys().next_back().map(|id| (id.0, id.to_string())), c.token),
            (self.types.keys().next_back().map(|id| (id.0, id.to_string())), c.instance_type),
            (self.instances.keys().next_back().map(|id| (id.0, id.to_string())), c.instance),
            (self.operations.keys().next_back().map(|id| (id.0, id.to_string())), c.operation),
            (self.api_tokens.keys().next_back().map(|id| (id.0, id.to_string())), c.api_token),
        ];
        for (last, counter) in newest {
            if let Some((number, id)) = last
                && number > counter
            {
                return Err(RestoreError::Counter(id));
            }
        }
        for binding in self.bindings.values() {
            if binding.generation.0 > c.revision.0 {
                return Err(RestoreError::Counter(format!("binding/{}", binding.key)));
            }
            self.check_known(&RecordKey::Binding(binding.key.clone()), binding.node, &[binding.key.vni])?;
        }
        for instance in self.instances.values() {
            let vnis: Vec<Vni> = instance.nics.iter().map(|n| n.vni).collect();
            self.check_known(&RecordKey::Instance(instance.id), instance.node, &vnis)?;
            if let Some(migration) = &instance.migration {
                self.check_known(&RecordKey::Instance(instance.id), migration.to, &[])?;
                self.check_known(&RecordKey::Instance(instance.id), migration.from, &[])?;
            }
        }
        Ok(())
    }

    fn check_known(&self, key: &RecordKey, node: NodeId, vnis: &[Vni]) -> Result<(), RestoreError> {
        let dangling = |missing: String| RestoreError::Dangling { key: key.to_string(), missing };
        if !self.nodes.contains_key(&node) {
            return Err(dangling(node.to_string()));
        }
        match vnis.iter().find(|vni| !self.networks.contains_key(vni)) {
            Some(vni) => Err(dangling(format!("network {vni}"))),
            None => Ok(()),
        }
    }

    /// Every record, for a backup and for tests. [`restore`](Registry::restore) takes them back.
    pub fn records(&self) -> impl Iterator<Item = Record> + '_ {
        let counters =
            (self.counters != Counters::default()).then(|| Record::Counters(self.counters.clone()));
        (self.cluster.iter().cloned().map(Record::Cluster))
            .chain(counters)
            .chain(self.nodes.values().cloned().map(Record::Node))
            .chain(self.tokens.values().cloned().map(Record::Token))
            .chain(self.networks.values().cloned().map(Record::Network))
            .chain(self.types.values().cloned().map(Record::Type))
            .chain(self.instances.values().cloned().map(Record::Instance))
            .chain(self.bindings.values().cloned().map(Record::Binding))
            .chain(self.operations.values().cloned().map(Record::Operation))
            .chain(self.api_tokens.values().cloned().map(Record::ApiToken))
            .chain(self.idempotency_keys.values().cloned().map(Record::IdempotencyKey))
    }

    /// The record under a key.
    #[must_use]
    pub fn record(&self, key: &RecordKey) -> Option<Record> {
        match key {
            RecordKey::Cluster => self.cluster.clone().map(Record::Cluster),
            RecordKey::Counters => Some(Record::Counters(self.counters.clone())),
            RecordKey::Node(id) => self.nodes.get(id).cloned().map(Record::Node),
            RecordKey::Token(id) => self.tokens.get(id).cloned().map(Record::Token),
            RecordKey::Network(vni) => self.networks.get(vni).cloned().map(Record::Network),
            RecordKey::Type(id) => self.types.get(id).cloned().map(Record::Type),
            RecordKey::Instance(id) => self.instances.get(id).cloned().map(Record::Instance),
            RecordKey::Binding(key) => self.bindings.get(key).cloned().map(Record::Binding),
            RecordKey::Operation(id) => self.operations.get(id).cloned().map(Record::Operation),
            RecordKey::ApiToken(id) => self.api_tokens.get(id).cloned().map(Record::ApiToken),
            RecordKey::IdempotencyKey(principal, key) => {
                let key = (principal.clone(), key.clone());
                self.idempotency_keys.get(&key).cloned().map(Record::IdempotencyKey)
            }
        }
    }

    /// Takes in one input. After it, whether it was refused or not, [`take_changes`](Registry::take_changes).
    pub fn handle(&mut self, input: Input, now: Timestamp) -> Result<Outcome, Refusal> {
        self.now = self.now.max(now);
        self.started.get_or_insert(self.now);
        let outcome = match input {
            Input::Command(request) => self.handle_request(request),
            Input::Restored { epoch, replaced } => self.handle_restored(epoch, &replaced),
            Input::Tick => {
                self.handle_timeout();
                Ok(Outcome::Done)
            }
            _ if self.cluster.is_none() => Err(no_cluster()),
            Input::Enrol { secret_hash, public_key, name_hint } => {
                self.enrol(secret_hash, public_key, &name_hint)
            }
            Input::Switch(node, input) => self.handle_switch(node, input),
            Input::Agent(node, input) => self.handle_agent(node, input),
            Input::ProviderProgress { operation, percent, detail } => {
                self.provider_progress(operation, percent, &detail)
            }
            Input::ProviderResult { node, result } => self.handle_provider(node, result),
        };
        self.settle();
        self.principal.clear();
        outcome
    }

    fn handle_request(&mut self, request: Request) -> Result<Outcome, Refusal> {
        let Request { principal, idempotency, command } = request;
        if self.cluster.is_none() && !matches!(command, Command::InitCluster { .. }) {
            return Err(no_cluster());
        }
        if let Some(claim) = &idempotency
            && let Some(stored) = self.replay(&principal, claim)?
        {
            return Ok(Outcome::Replayed(Box::new(stored)));
        }
        self.principal = principal;
        let outcome = self.handle_command(command)?;
        if let Some(claim) = idempotency {
            self.keep_outcome(claim, &outcome);
        }
        Ok(outcome)
    }

    fn handle_command(&mut self, command: Command) -> Result<Outcome, Refusal> {
        match command {
            Command::InitCluster { name, epoch } => self.init_cluster(name, epoch),
            Command::CreateNetwork(new) => self.create_network(new),
            Command::UpdateNetwork { network, update } => self.update_network(&network, update),
            Command::DeleteNetwork { network } => self.delete_network(&network),
            Command::AddType(new) => self.add_type(new),
            Command::DeleteType { reference } => self.delete_type(&reference),
            Command::AddComputeNode(new) => self.add_compute_node(new),
            Command::RenewToken { node, secret_hash, ttl_ms } => self.renew_token(&node, secret_hash, ttl_ms),
            Command::UpdateNode { node, schedulable, labels } => self.update_node(&node, schedulable, labels),
            Command::RemoveComputeNode { node, force: _, now: true } => self.remove_at_once(&node),
            Command::RemoveComputeNode { node, force, now: false } => self.remove_compute_node(&node, force),
            Command::Allocate(new) => self.allocate(new),
            Command::StartInstance { instance } => self.start_instance(&instance),
            Command::StopInstance { instance } => self.stop_instance(&instance),
            Command::DeleteInstance { instance } => self.delete_instance(&instance),
            Command::Migrate { instance, node } => self.migrate(&instance, &node),
            Command::CancelOperation { operation } => self.cancel_operation(operation),
            Command::SetBinding { key, ips, node, state, expected } => {
                self.set_binding_by_hand(key, ips, &node, state, expected)
            }
            Command::RemoveBinding { key, expected } => self.remove_binding_by_hand(&key, expected),
            Command::CreateApiToken { name, role, secret_hash, ttl_ms } => {
                self.create_api_token(name, role, secret_hash, ttl_ms)
            }
            Command::DeleteApiToken { token } => self.delete_api_token(&token),
            Command::PutIdempotencyKey(key) => Ok(self.put_idempotency_key(key)),
        }
    }

    /// What inputs changed since the last call. To be persisted before anything is answered or published.
    pub fn take_changes(&mut self) -> Changes {
        let mut changes = std::mem::take(&mut self.changes);
        changes.writes = std::mem::take(&mut self.dirty)
            .into_iter()
            .map(|key| self.record(&key).map_or(Write::Remove(key), |record| Write::Put(Box::new(record))))
            .collect();
        changes
    }

    /// The newest change of what nodes see.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.counters.revision
    }

    pub(crate) fn mark(&mut self, key: RecordKey) {
        self.dirty.insert(key);
    }

    /// Each is used once, for a change of what nodes see or as a generation.
    pub(crate) fn next_revision(&mut self) -> Revision {
        self.counters.revision.0 += 1;
        self.mark(RecordKey::Counters);
        self.counters.revision
    }

    #[expect(clippy::needless_pass_by_value, reason = "ids are small, and callers pass them as they are")]
    pub(crate) fn event(&mut self, kind: EventKind, subject: impl ToString, message: impl Into<String>) {
        let event = Event { at: self.now, kind, subject: subject.to_string(), message: message.into() };
        self.changes.events.push(event);
    }
}

/// Read access. All maps are ordered by id.
impl Registry {
    /// The cluster; none before [`Command::InitCluster`].
    #[must_use]
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// The nodes, removed ones too.
    #[must_use]
    pub fn nodes(&self) -> &BTreeMap<NodeId, Node> {
        &self.nodes
    }

    /// What a node is at the moment.
    #[must_use]
    pub fn runtime(&self, node: NodeId) -> Option<&NodeRuntime> {
        self.runtime.get(&node)
    }

    /// The join tokens.
    #[must_use]
    pub fn tokens(&self) -> &BTreeMap<TokenId, Token> {
        &self.tokens
    }

    /// The networks.
    #[must_use]
    pub fn networks(&self) -> &BTreeMap<Vni, Network> {
        &self.networks
    }

    /// The types.
    #[must_use]
    pub fn types(&self) -> &BTreeMap<TypeId, InstanceType> {
        &self.types
    }

    /// The instances.
    #[must_use]
    pub fn instances(&self) -> &BTreeMap<InstanceId, Instance> {
        &self.instances
    }

    /// The instances that live on a node. Looks at no others.
    pub fn instances_on(&self, node: NodeId) -> impl Iterator<Item = &Instance> {
        let known = self.index.instances_at.get(&node).into_iter().flatten();
        known.filter_map(|id| self.instances.get(id)).filter(move |instance| instance.node == node)
    }

    /// The last report about an instance by the agent of the node where it lives.
    #[must_use]
    pub fn observed(&self, instance: InstanceId) -> Option<&InstanceStatus> {
        self.observed.get(&instance)
    }

    /// The bindings, network by network.
    #[must_use]
    pub fn bindings(&self) -> &BTreeMap<BindingKey, Binding> {
        &self.bindings
    }

    /// How many bindings there are of each source and state. Does not look at each.
    #[must_use]
    pub fn binding_counts(&self) -> &BTreeMap<(BindingSource, BindingState), usize> {
        &self.index.binding_counts
    }

    /// The bindings after a key, in order; only those of a network, only those of a node. Looks at none of the others
    /// if one of the two is given.
    pub fn bindings_after<'a>(
        &'a self,
        after: Option<&BindingKey>,
        network: Option<Vni>,
        node: Option<NodeId>,
    ) -> Box<dyn Iterator<Item = &'a Binding> + 'a> {
        let first = |vni| BindingKey { vni, vlans: Vec::new(), mac: Mac::default() };
        let mut from = after.map_or(Bound::Unbounded, |key| Bound::Excluded(key.clone()));
        if let Some(vni) = network
            && after.is_none_or(|key| key.vni < vni)
        {
            from = Bound::Included(first(vni));
        }
        let to = match network {
            // Past this network: nothing is left of it.
            Some(vni) if after.is_some_and(|key| key.vni > vni) => return Box::new(std::iter::empty()),
            Some(vni) => {
                vni.0.checked_add(1).map_or(Bound::Unbounded, |next| Bound::Excluded(first(Vni(next))))
            }
            None => Bound::Unbounded,
        };
        match node {
            Some(node) => {
                let held = self.index.bindings_at.get(&node).into_iter();
                let held = held.flat_map(move |keys| keys.range((from.clone(), to.clone())));
                Box::new(held.filter_map(|key| self.bindings.get(key)))
            }
            None => Box::new(self.bindings.range((from, to)).map(|(_, binding)| binding)),
        }
    }

    /// The operations.
    #[must_use]
    pub fn operations(&self) -> &BTreeMap<OperationId, Operation> {
        &self.operations
    }

    /// The tokens of the API.
    #[must_use]
    pub fn api_tokens(&self) -> &BTreeMap<ApiTokenId, ApiToken> {
        &self.api_tokens
    }
}

fn no_cluster() -> Refusal {
    Refusal::not_ready("there is no cluster yet; make one with `controller init`")
}
