//! A registry with model agents and a model store, and what must hold after every step.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(unreachable_pub, reason = "shared by several test binaries")]

pub mod agent;

use std::collections::{BTreeMap, BTreeSet};

use agent::ModelAgent;
use controller_registry::*;

pub struct World {
    pub registry: Registry,
    pub store: BTreeMap<String, Record>,
    pub backup: BTreeMap<String, Record>,
    pub now: Timestamp,
    pub agents: BTreeMap<NodeId, ModelAgent>,
    pub views: BTreeMap<NodeId, Snapshot>,
    pub events: Vec<Event>,
    pub effects: Vec<Effect>,
    next_session: u64,
    next_secret: u8,
    seen_bindings: BTreeMap<BindingKey, (Generation, Option<Binding>)>,
    seen_generations: BTreeMap<InstanceId, Generation>,
    seen_hosts: BTreeMap<(Vni, NodeId), HostStation>,
    seen_ids: [u64; 5],
    /// STOPPED or ABSENT that was taken in, by instance, node and generation.
    stopped: BTreeSet<(InstanceId, NodeId, Generation)>,
}

pub const SECOND: u64 = 1000;
pub const GIB: u64 = 1 << 30;

impl World {
    /// An empty cluster.
    pub fn new() -> World {
        let mut world = World {
            registry: Registry::default(),
            store: BTreeMap::new(),
            backup: BTreeMap::new(),
            now: Timestamp(1_000_000),
            agents: BTreeMap::new(),
            views: BTreeMap::new(),
            events: Vec::new(),
            effects: Vec::new(),
            next_session: 0,
            next_secret: 0,
            seen_bindings: BTreeMap::new(),
            seen_generations: BTreeMap::new(),
            seen_hosts: BTreeMap::new(),
            seen_ids: [0; 5],
            stopped: BTreeSet::new(),
        };
        world.command(Command::InitCluster { name: "test".into(), epoch: 7 }).unwrap();
        world
    }

    /// A cluster with a network, a type `small` of 1 GiB, and nodes of 8 GiB with connected switches and agents.
    pub fn with_nodes(count: usize) -> (World, Vec<NodeId>) {
        let mut world = World::new();
        let network = NewNetwork {
            name: "default".into(),
            subnet_v4: Some("10.1.0.0/24".parse().unwrap()),
            gateways: vec!["10.1.0.1".parse().unwrap()],
            ..NewNetwork::default()
        };
        world.command(Command::CreateNetwork(network)).unwrap();
        world.command(Command::AddType(small())).unwrap();
        let nodes = (0..count).map(|_| world.add_node()).collect();
        (world, nodes)
    }

    pub fn command(&mut self, command: Command) -> Result<Outcome, Refusal> {
        self.input(Input::Command(command.into()))
    }

    pub fn input(&mut self, input: Input) -> Result<Outcome, Refusal> {
        if let Input::Agent(node, AgentInput::Report { session, instances, .. }) = &input
            && self.registry.agent_session(*node).is_some_and(|s| s.session == *session)
        {
            self.note_stopped(*node, instances);
        }
        if let Input::Agent(node, AgentInput::Registered { instances, .. }) = &input {
            self.note_stopped(*node, instances);
        }
        let outcome = self.registry.handle(input, self.now);
        let changes = self.registry.take_changes();
        for write in changes.writes {
            match write {
                Write::Put(record) => _ = self.store.insert(record.key().to_string(), *record),
                Write::Remove(key) => _ = self.store.remove(&key.to_string()),
            }
        }
        self.events.extend(changes.events);
        self.effects.extend(changes.effects);
        for node in changes.agents {
            let desired = self.registry.desired_instances(node);
            if let Some(agent) = self.agents.get_mut(&node).filter(|a| a.session.is_some()) {
                agent.inbox.push_back(desired);
            }
        }
        self.check();
        outcome
    }

    fn note_stopped(&mut self, node: NodeId, statuses: &[InstanceStatus]) {
        for status in statuses {
            if matches!(status.state, InstanceState::Stopped | InstanceState::Absent) {
                self.stopped.insert((status.id, node, status.generation));
            }
        }
    }

    /// A node with a key, a connected switch and a connected agent.
    pub fn add_node(&mut self) -> NodeId {
        let secret_hash = self.secret();
        let new =
            NewNode { provider: "manual".into(), secret_hash, ttl_ms: 60 * SECOND, ..NewNode::default() };
        let Outcome::NodeAdded { node, .. } = self.command(Command::AddComputeNode(new)).unwrap() else {
            panic!("not a node");
        };
        let public_key = key(node.0);
        self.input(Input::Enrol { secret_hash, public_key, name_hint: format!("host{}", node.0) }).unwrap();
        self.switch_up(node);
        self.agents.insert(node, ModelAgent::default());
        self.agent_up(node);
        node
    }

    pub fn secret(&mut self) -> SecretHash {
        self.next_secret = self.next_secret.wrapping_add(1);
        let mut hash = [9; 32];
        hash[0] = self.next_secret;
        SecretHash(hash)
    }

    pub fn session(&mut self) -> u64 {
        self.next_session += 1;
        self.next_session
    }

    pub fn switch_up(&mut self, node: NodeId) -> u64 {
        let session = self.session();
        let addresses = vec![format!("192.0.2.{}:4500", node.0 % 250).parse().unwrap()];
        let input = SwitchInput::Registered {
            session,
            boot: session,
            version: "1".into(),
            machine: "m".into(),
            addresses,
            old_alive: false,
        };
        _ = self.input(Input::Switch(node, input));
        session
    }

    pub fn agent_up(&mut self, node: NodeId) {
        let session = self.session();
        let Some(agent) = self.agents.get_mut(&node) else { return };
        agent.session = Some(session);
        agent.inbox.clear();
        agent.outbox.clear();
        let instances = agent.statuses();
        let input = AgentInput::Registered {
            session,
            boot: session,
            version: "1".into(),
            capacity: Capacity { cores: 4, memory_bytes: 8 * GIB, disk_bytes: 0, accelerator: String::new() },
            drivers: vec!["container".into()],
            instances,
            old_alive: false,
        };
        if self.input(Input::Agent(node, input)).is_err()
            && let Some(agent) = self.agents.get_mut(&node)
        {
            agent.session = None;
        }
    }

    pub fn agent_down(&mut self, node: NodeId) {
        let Some(session) = self.agents.get_mut(&node).and_then(|a| a.session.take()) else { return };
        _ = self.input(Input::Agent(node, AgentInput::Gone { session }));
    }

    /// The agent takes in the next desired state.
    pub fn deliver_desired(&mut self, node: NodeId) -> bool {
        let Some(agent) = self.agents.get_mut(&node) else { return false };
        let Some(desired) = agent.inbox.pop_front() else { return false };
        agent.apply(&desired);
        true
    }

    /// The registry takes in the agent's next report.
    pub fn deliver_report(&mut self, node: NodeId) -> bool {
        let Some(agent) = self.agents.get_mut(&node) else { return false };
        let Some((session, full, instances)) = agent.outbox.pop_front() else { return false };
        agent.history.push(instances.clone());
        _ = self.input(Input::Agent(node, AgentInput::Report { session, full, instances }));
        true
    }

    /// Volumes whose two ends are ready go over.
    pub fn transfer(&mut self) -> bool {
        let sending: Vec<(NodeId, InstanceId, String, u64)> = self
            .agents
            .iter()
            .filter(|(_, a)| a.session.is_some())
            .flat_map(|(node, a)| {
                a.copies.iter().filter_map(|(id, c)| {
                    let to =
                        c.upload_to.clone().filter(|_| c.state == InstanceState::Stopped && !c.uploaded)?;
                    Some((*node, *id, to, c.volume))
                })
            })
            .collect();
        let mut any = false;
        for (from, id, transfer, volume) in sending {
            let Some(ends) = self.registry.transfer(&transfer) else { continue };
            assert_eq!((ends.instance, ends.from), (id, from));
            let Some(taker) = self.agents.get_mut(&ends.to).filter(|a| a.session.is_some()) else { continue };
            if !taker.take_volume(id, &transfer, volume) {
                continue;
            }
            self.agents.get_mut(&from).unwrap().sent(id);
            any = true;
        }
        any
    }

    /// Everything goes its way until nothing moves any more.
    pub fn run(&mut self) {
        let nodes: Vec<NodeId> = self.agents.keys().copied().collect();
        for _ in 0..1000 {
            let mut any = self.transfer();
            for node in &nodes {
                while self.deliver_desired(*node) {
                    any = true;
                }
                while self.deliver_report(*node) {
                    any = true;
                }
            }
            if !any {
                return;
            }
        }
        panic!("agents and registry do not come to rest");
    }

    pub fn wait(&mut self, ms: u64) {
        self.now = self.now.plus(ms);
        self.input(Input::Tick).unwrap();
    }

    /// The controller stops at once and starts from its store.
    pub fn crash(&mut self) {
        let json: Vec<String> = self.store.values().map(|r| serde_json::to_string(r).unwrap()).collect();
        let records = json.iter().map(|text| serde_json::from_str(text).unwrap());
        self.registry = Registry::restore(records).unwrap();
        for agent in self.agents.values_mut() {
            agent.session = None;
        }
        self.check();
    }

    /// The store is put back from a backup, and the controller started. What nodes have stays as it is.
    pub fn restore(&mut self, backup: &BTreeMap<String, Record>) {
        let mut registry = Registry::restore(backup.values().cloned()).unwrap();
        let replaced = match self.store.get("counters") {
            Some(Record::Counters(counters)) => counters.clone(),
            _ => Counters::default(),
        };
        registry.handle(Input::Restored { epoch: 8 + self.session(), replaced }, self.now).unwrap();
        self.events.extend(registry.take_changes().events);
        self.store = registry.records().map(|r| (r.key().to_string(), r)).collect();
        self.seen_bindings.clear();
        self.seen_generations.clear();
        self.seen_hosts.clear();
        self.views.clear();
        self.crash();
        for node in self.agents.keys().copied().collect::<Vec<_>>() {
            self.switch_up(node);
        }
    }

    /// Where copies really run, whatever the registry knows.
    pub fn running(&self, instance: InstanceId) -> Vec<NodeId> {
        let runs =
            |a: &ModelAgent| a.copies.get(&instance).is_some_and(|c| c.state == InstanceState::Running);
        self.agents.iter().filter(|(_, agent)| runs(agent)).map(|(node, _)| *node).collect()
    }

    pub fn allocate(&mut self, node: NodeId) -> InstanceId {
        let new = NewInstance {
            node: Some(node.to_string()),
            instance_type: "small".into(),
            ..NewInstance::default()
        };
        let Outcome::Allocated { instance, operation } = self.command(Command::Allocate(new)).unwrap() else {
            panic!("not an instance");
        };
        self.run();
        assert_eq!(self.state(operation), OperationState::Succeeded);
        instance
    }

    pub fn operation(&mut self, command: Command) -> OperationId {
        match self.command(command) {
            Ok(Outcome::Operation(operation)) => operation,
            other => panic!("not an operation: {other:?}"),
        }
    }

    pub fn state(&self, operation: OperationId) -> OperationState {
        self.registry.operations()[&operation].state
    }

    pub fn instance(&self, id: InstanceId) -> &Instance {
        &self.registry.instances()[&id]
    }

    pub fn binding(&self, id: InstanceId) -> &Binding {
        self.registry.bindings().values().find(|b| b.instance == Some(id)).unwrap()
    }

    /// The switch of a node takes in what is new; the result must be what a snapshot says.
    pub fn sync_switch(&mut self, node: NodeId) {
        let mut snapshot = self.registry.snapshot_for(node);
        forget_members(&mut snapshot.networks);
        let Some(view) = self.views.get_mut(&node) else {
            self.views.insert(node, snapshot);
            return;
        };
        check_steps(&self.registry, node, view, &snapshot);
        let Some(mut delta) = self.registry.changes_since(node, view.revision) else {
            *view = snapshot;
            return;
        };
        forget_members(&mut delta.networks);
        view.revision = delta.revision;
        for vni in delta.removed_networks.iter().chain(delta.networks.iter().map(|n| &n.vni)) {
            view.hosts.remove(vni);
        }
        view.hosts.extend(delta.hosts);
        replace(&mut view.networks, delta.networks, &delta.removed_networks, |n| n.vni);
        view.bindings.retain(|b| !delta.removed_networks.contains(&b.key.vni));
        replace(&mut view.peers, delta.peers, &delta.removed_peers, |p| p.id);
        replace(&mut view.bindings, delta.bindings, &delta.removed_bindings, |b| b.key.clone());
        assert_eq!(*view, snapshot, "deltas and snapshot of {node} differ");
    }

    fn check(&mut self) {
        let registry = &self.registry;
        let memory: BTreeMap<String, Record> = registry.records().map(|r| (r.key().to_string(), r)).collect();
        assert_eq!(memory, self.store, "memory and store differ");

        let mut running: BTreeMap<InstanceId, NodeId> = BTreeMap::new();
        for node in registry.nodes().keys() {
            for desired in registry.desired_instances(*node) {
                if desired.desired == DesiredState::Running
                    && let Some(other) = running.insert(desired.id, *node)
                {
                    panic!("{} is to run on {other} and {node}", desired.id);
                }
            }
        }

        for binding in registry.bindings().values() {
            assert_ne!(registry.nodes()[&binding.node].state, NodeState::Removed, "{binding:?}");
            if let Some(id) = binding.instance {
                let instance = &registry.instances()[&id];
                if binding.state == BindingState::Active {
                    assert_eq!(binding.node, instance.node);
                }
            }
        }
        let keys: BTreeSet<BindingKey> =
            self.seen_bindings.keys().chain(registry.bindings().keys()).cloned().collect();
        for key in keys {
            let current = registry.bindings().get(&key);
            let (newest, last) = self.seen_bindings.entry(key).or_insert((Generation(0), None));
            if let Some(binding) = current.filter(|b| last.as_ref() != Some(b)) {
                assert!(binding.generation > *newest, "{binding:?} after {newest}");
                assert!(binding.generation.0 <= registry.revision().0);
                *newest = binding.generation;
            }
            *last = current.cloned();
        }

        for instance in registry.instances().values() {
            let last = self.seen_generations.entry(instance.id).or_default();
            assert!(instance.generation >= *last, "{} fell from {last}", instance.id);
            *last = instance.generation;
            if let Some(migration) = &instance.migration
                && migration.stage >= Stage::Transfer
            {
                let said = (instance.id, migration.from, migration.from_generation);
                assert!(self.stopped.contains(&said), "{} left {} running", instance.id, migration.from);
            }
            if let Some(operation) = instance.operation {
                assert!(!registry.operations()[&operation].is_finished(), "{instance:?}");
            }
            assert!(!instance.leftovers.contains_key(&instance.node), "{instance:?}");
            assert_ne!(registry.nodes()[&instance.node].state, NodeState::Removed, "{instance:?}");
        }
        for operation in registry.operations().values().filter(|o| !o.is_finished()) {
            let held = operation.subjects.iter().any(|s| match s {
                Subject::Instance(id) => {
                    registry.instances().get(id).and_then(|i| i.operation) == Some(operation.id)
                }
                Subject::Node(id) => registry.nodes()[id].operation == Some(operation.id),
            });
            assert!(held, "nothing ends {operation:?}");
        }

        check_hosts(&self.registry, &mut self.seen_hosts);

        let registry = &self.registry;
        let newest = [
            registry.nodes().keys().map(|id| id.0).max(),
            registry.instances().keys().map(|id| id.0).max(),
            registry.operations().keys().map(|id| id.0).max(),
            registry.tokens().keys().map(|id| id.0).max(),
            registry.types().keys().map(|id| id.0).max(),
        ];
        for (seen, newest) in self.seen_ids.iter_mut().zip(newest) {
            *seen = (*seen).max(newest.unwrap_or(0));
        }
        if let Some(Record::Counters(counters)) = self.store.get("counters") {
            let counters = [
                counters.node,
                counters.instance,
                counters.operation,
                counters.token,
                counters.instance_type,
            ];
            for (seen, counter) in self.seen_ids.iter().zip(counters) {
                assert!(counter >= *seen, "an id would be given out again");
            }
        }
    }
}

/// In a network of the nodes themselves each has addresses of its own, and the same for its life; nobody else is there.
fn check_hosts(registry: &Registry, seen: &mut BTreeMap<(Vni, NodeId), HostStation>) {
    let member = |node: &NodeId| registry.nodes()[node].is_member();
    seen.retain(|(vni, node), _| registry.networks().contains_key(vni) && member(node));
    for network in registry.networks().values().filter(|n| n.host) {
        let mut ips = BTreeSet::new();
        for binding in registry.bindings_of(network.vni) {
            assert_eq!((binding.source, binding.state), (BindingSource::Controller, BindingState::Active));
            assert!(binding.instance.is_none() && member(&binding.node), "{binding:?}");
            for ip in &binding.ips {
                assert!(ips.insert(*ip), "{ip} is there twice");
            }
            let station = registry.host_station(binding.node, network.vni).unwrap();
            assert_eq!((station.mac, station.addresses.len()), (binding.key.mac, binding.ips.len()));
            let known = seen.entry((network.vni, binding.node)).or_insert_with(|| station.clone());
            assert_eq!(*known, station, "the station of {} changed", binding.node);
        }
        let members = registry.nodes().keys().filter(|n| member(n)).count();
        let subnets = [network.subnet_v4, network.subnet_v6].into_iter().flatten();
        let room = subnets.map(|s| s.hosts().take(members).count()).min().unwrap();
        assert_eq!(registry.bindings_of(network.vni).count(), room, "a node without a station, or with two");
    }
    for instance in registry.instances().values() {
        assert!(instance.nics.iter().all(|nic| !registry.networks()[&nic.vni].host), "{instance:?}");
    }
}

/// Which other nodes have a network is not told to switches.
fn forget_members(networks: &mut [Network]) {
    for network in networks {
        network.nodes = Membership::All;
    }
}

fn replace<T, K: Ord>(all: &mut Vec<T>, new: Vec<T>, removed: &[K], key: impl Fn(&T) -> K) {
    let mut map: BTreeMap<K, T> = std::mem::take(all).into_iter().map(|t| (key(&t), t)).collect();
    for gone in removed {
        map.remove(gone);
    }
    map.extend(new.into_iter().map(|t| (key(&t), t)));
    *all = map.into_values().collect();
}

pub fn small() -> NewType {
    NewType {
        name: "small".into(),
        cores_milli: 500,
        memory_bytes: GIB,
        disk_bytes: GIB,
        driver: "container".into(),
        ..NewType::default()
    }
}

pub fn key(n: u64) -> PublicKey {
    let mut bytes = [3; 32];
    bytes[..8].copy_from_slice(&n.to_be_bytes());
    PublicKey(bytes)
}

pub fn station(vni: u32, n: u8) -> BindingKey {
    BindingKey { vni: Vni(vni), vlans: Vec::new(), mac: Mac([0x52, 0x54, 0, 0, 0, n]) }
}

/// Where nothing but bindings and peers changed, small steps that nodes share lead to the snapshot as well.
fn check_steps(registry: &Registry, node: NodeId, old: &Snapshot, snapshot: &Snapshot) {
    let Some(shared) = registry.view_of(node) else { return };
    let Some(changed) = registry.stations_changed(old.revision) else { return };
    assert!(registry.changes_since(node, old.revision).is_some(), "{changed} changes of {node} are none");
    let mut view = old.clone();
    while view.revision < snapshot.revision {
        let until = Revision((view.revision.0 / 3 + 1) * 3).min(snapshot.revision);
        let own = registry.peers_between(node, view.revision, until);
        replace(&mut view.peers, own.peers, &own.removed_peers, |p| p.id);
        let stations = registry.stations_between(&shared, view.revision, until);
        replace(&mut view.bindings, stations.bindings, &stations.removed, |b| b.key.clone());
        assert_eq!((own.revision, stations.revision), (until, until));
        view.revision = until;
    }
    assert_eq!(view, *snapshot, "steps and snapshot of {node} differ");
    let whole = registry.stations_of(&shared);
    assert_eq!(whole.bindings, snapshot.bindings, "the view of {node} differs from its snapshot");
}
