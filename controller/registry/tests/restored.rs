//! A store that was put back from a backup: nothing runs twice, nothing is made anew unasked, nothing is given out
//! again.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code, also outside of the test functions")]

mod world;

use controller_registry::*;
use proptest::prelude::*;
use world::World;

/// A backup is made with the instance on the first node; then `f` happens; then the backup is put back and no agent
/// has come yet.
fn restored(f: impl FnOnce(&mut World, InstanceId, &[NodeId])) -> (World, InstanceId, Vec<NodeId>) {
    let (mut world, nodes) = World::with_nodes(3);
    let instance = world.allocate(nodes[0]);
    world.backup = world.store.clone();
    f(&mut world, instance, &nodes);
    world.restore(&world.backup.clone());
    (world, instance, nodes)
}

fn migrate(world: &mut World, instance: InstanceId, to: NodeId) -> OperationId {
    world.operation(Command::Migrate { instance: instance.to_string(), node: to.to_string() })
}

fn start(instance: InstanceId) -> Command {
    Command::StartInstance { instance: instance.to_string() }
}

fn agents_up(world: &mut World, nodes: &[NodeId]) {
    for node in nodes {
        world.agent_up(*node);
        world.run();
    }
}

fn lost_events(world: &World) -> usize {
    world.events.iter().filter(|e| e.kind == EventKind::InstanceLost).count()
}

#[test]
fn what_stayed_is_confirmed_by_its_agent_and_runs_on() {
    let (mut world, id, nodes) = restored(|_, _, _| ());
    let volume = world.agents[&nodes[0]].copies[&id].volume;
    assert!(world.registry.desired_instances(nodes[0]).is_empty());
    assert_eq!(world.binding(id).state, BindingState::Prepared);
    let stop = Command::StopInstance { instance: id.to_string() };
    assert_eq!(world.command(stop).unwrap_err().kind, RefusalKind::Conflict);
    agents_up(&mut world, &nodes);
    let record = world.instance(id);
    assert_eq!((record.unconfirmed, record.phase, record.node), (None, Phase::Running, nodes[0]));
    assert_eq!(world.binding(id).state, BindingState::Active);
    assert_eq!(world.agents[&nodes[0]].copies[&id].volume, volume);
    assert_eq!(lost_events(&world), 0);
}

#[test]
fn what_moved_runs_on_where_it_is_and_nowhere_else() {
    for order in [[0, 1, 2], [1, 0, 2], [2, 1, 0]] {
        let (mut world, id, nodes) = restored(|world, id, nodes| {
            migrate(world, id, nodes[1]);
            world.run();
        });
        let volume = world.agents[&nodes[1]].copies[&id].volume;
        for n in order {
            agents_up(&mut world, &[nodes[n]]);
            assert_eq!(world.running(id), [nodes[1]], "{order:?}");
        }
        let record = world.instance(id);
        assert_eq!((record.unconfirmed, record.phase, record.node), (None, Phase::Running, nodes[1]));
        assert_eq!(world.agents[&nodes[1]].copies[&id].volume, volume);
        let binding = world.binding(id);
        assert_eq!((binding.node, binding.state), (nodes[1], BindingState::Active));
    }
}

#[test]
fn a_stopped_copy_that_a_move_left_is_not_started() {
    // The source has stopped it and the destination runs it; the source is away before it removes its copy. The backup
    // is from before the move, or from a stage of it.
    for backup in [None, Some(Stage::Stop), Some(Stage::Transfer)] {
        let (mut world, nodes) = World::with_nodes(3);
        let id = world.allocate(nodes[0]);
        world.backup = world.store.clone();
        migrate(&mut world, id, nodes[1]);
        loop {
            let stage = world.instance(id).migration.as_ref().unwrap().stage;
            if Some(stage) == backup {
                world.backup = world.store.clone();
            }
            if stage == Stage::Start {
                break;
            }
            let moved = nodes.iter().any(|n| world.deliver_report(*n) || world.deliver_desired(*n));
            assert!(moved || world.transfer());
        }
        world.agent_down(nodes[0]);
        world.run();
        let old = world.agents[&nodes[0]].copies[&id].state;
        assert_eq!((old, world.running(id)), (InstanceState::Stopped, vec![nodes[1]]));
        world.restore(&world.backup.clone());

        agents_up(&mut world, &nodes[..1]);
        assert!(world.running(id) == [nodes[1]] && world.instance(id).unconfirmed.is_some(), "{backup:?}");
        assert!(world.instance(id).detail.contains("may be older"), "{}", world.instance(id).detail);
        agents_up(&mut world, &nodes[1..]);
        assert_eq!((world.running(id), world.instance(id).node), (vec![nodes[1]], nodes[1]));
        world.agent_up(nodes[0]);
        world.run();
        assert!(!world.agents[&nodes[0]].copies.contains_key(&id), "the old copy has gone");
    }
}

#[test]
fn what_is_nowhere_waits_for_the_operator() {
    let lose = |world: &mut World, id, nodes: &[NodeId]| {
        world.agents.get_mut(&nodes[0]).unwrap().copies.remove(&id);
    };
    let (mut world, id, nodes) = restored(lose);
    agents_up(&mut world, &nodes);
    agents_up(&mut world, &nodes);
    let record = world.instance(id).clone();
    assert!(record.phase == Phase::Lost && record.unconfirmed.is_some(), "{record:?}");
    assert!(record.detail.contains("node-1 has no copy of it"), "{}", record.detail);
    assert!(record.detail.contains("skippy instance start"), "{}", record.detail);
    assert_eq!((lost_events(&world), world.running(id).len()), (1, 0), "said once, and not made");
    let move_it = Command::Migrate { instance: id.to_string(), node: nodes[1].to_string() };
    assert_eq!(world.command(move_it).unwrap_err().kind, RefusalKind::Conflict);
    let drain = Command::RemoveComputeNode { node: nodes[0].to_string(), force: false, now: false };
    assert_eq!(world.command(drain).unwrap_err().kind, RefusalKind::Conflict);
    let operation = world.operation(start(id));
    world.run();
    assert_eq!(world.state(operation), OperationState::Succeeded);
    assert_eq!((world.running(id), world.instance(id).unconfirmed), (vec![nodes[0]], None));

    let (mut world, id, nodes) = restored(lose);
    agents_up(&mut world, &nodes);
    let operation = world.operation(Command::DeleteInstance { instance: id.to_string() });
    world.run();
    assert_eq!(world.state(operation), OperationState::Succeeded);
    assert!(!world.registry.instances().contains_key(&id));
}

#[test]
fn a_copy_elsewhere_is_not_believed_without_the_networks_or_twice() {
    let (mut world, id, nodes) = restored(|world, id, nodes| {
        migrate(world, id, nodes[1]);
        world.run();
        let copy = world.agents[&nodes[1]].copies[&id].clone();
        world.agents.get_mut(&nodes[2]).unwrap().copies.insert(id, copy);
    });
    agents_up(&mut world, &nodes[1..]);
    assert!(world.instance(id).detail.contains("not connected"), "{}", world.instance(id).detail);
    agents_up(&mut world, &nodes[..1]);
    let record = world.instance(id);
    assert!(record.phase == Phase::Lost && record.detail.contains("node-2, node-3"), "{}", record.detail);
    assert!(nodes.iter().all(|n| world.registry.desired_instances(*n).is_empty()), "nobody is told about it");

    world.agents.get_mut(&nodes[2]).unwrap().copies.clear();
    let only_home =
        NetworkUpdate { nodes: Some(Some(vec![nodes[0].to_string()])), ..NetworkUpdate::default() };
    world.command(Command::UpdateNetwork { network: "default".into(), update: only_home }).unwrap();
    agents_up(&mut world, &nodes);
    assert_eq!(world.instance(id).node, nodes[0], "a node learns nothing of networks that it is not in");
    world.operation(start(id));
    world.run();
    assert_eq!(world.running(id), [nodes[0]], "the operator's word ends the other copy");
}

#[test]
fn numbers_jump_and_what_was_under_way_has_failed() {
    let (mut world, nodes) = World::with_nodes(2);
    let moving = world.allocate(nodes[0]);
    let migration = migrate(&mut world, moving, nodes[1]);
    let drain =
        world.operation(Command::RemoveComputeNode { node: nodes[0].to_string(), force: false, now: false });
    world.backup = world.store.clone();
    let before = world.instance(moving).nics[0].mac;
    world.restore(&world.backup.clone());
    for operation in [migration, drain] {
        let record = &world.registry.operations()[&operation];
        assert_eq!(record.state, OperationState::Failed);
        assert!(record.error.as_ref().unwrap().contains("restored from a backup"));
    }
    let record = world.instance(moving).clone();
    assert!(
        record.migration.is_none() && record.operation.is_none() && record.node == nodes[0],
        "{record:?}"
    );
    assert_eq!(world.registry.nodes()[&nodes[0]].state, NodeState::Enrolled);
    agents_up(&mut world, &nodes);
    assert_eq!(world.running(moving), [nodes[0]]);
    let new = world.allocate(nodes[1]);
    assert!(new.0 > 100_000);
    let mac = world.instance(new).nics[0].mac;
    assert!(u32::from_be_bytes([0, mac.0[3], mac.0[4], mac.0[5]]) > 100_000 && mac != before);
    let network = Command::CreateNetwork(NewNetwork { name: "lan".into(), ..NewNetwork::default() });
    assert_eq!(world.command(network), Ok(Outcome::Network(Vni(100_101))));
}

#[derive(Debug, Clone)]
enum Step {
    Allocate(usize),
    StartStop(usize, bool),
    Migrate(usize, usize),
    /// A move whose source goes away before it removes its copy.
    LeaveCopy(usize, usize),
    Cancel(usize),
    AgentUp(usize),
    AgentDown(usize),
    Desired(usize),
    Report(usize),
    Transfer,
    Run,
    Crash,
    BackUp,
    Restore,
}

fn step() -> impl Strategy<Value = Step> {
    use Step::*;
    let n = 0..3usize;
    prop_oneof![
        2 => n.clone().prop_map(Allocate),
        2 => (n.clone(), any::<bool>()).prop_map(|(i, on)| StartStop(i, on)),
        6 => (n.clone(), n.clone()).prop_map(|(i, n)| Migrate(i, n)),
        2 => (n.clone(), n.clone()).prop_map(|(i, n)| LeaveCopy(i, n)),
        1 => n.clone().prop_map(Cancel),
        6 => n.clone().prop_map(AgentUp),
        2 => n.clone().prop_map(AgentDown),
        8 => n.clone().prop_map(Desired),
        8 => n.prop_map(Report),
        4 => Just(Transfer),
        6 => Just(Run),
        1 => Just(Crash),
        2 => Just(BackUp),
        2 => Just(Restore),
    ]
}

fn apply(world: &mut World, nodes: &[NodeId], step: &Step) {
    let instance = |world: &World, i: usize| {
        let ids: Vec<InstanceId> = world.registry.instances().keys().copied().collect();
        if ids.is_empty() { InstanceId(0) } else { ids[i % ids.len()] }
    };
    match *step {
        Step::Allocate(n) => {
            let node = Some(nodes[n].to_string());
            let new = NewInstance { node, instance_type: "small".into(), ..NewInstance::default() };
            _ = world.command(Command::Allocate(new));
        }
        Step::StartStop(i, on) => {
            let id = instance(world, i);
            // To start one whose place is not clear is the operator's decision that no other copy counts.
            if world.registry.instances().get(&id).is_some_and(|i| i.unconfirmed.is_none()) {
                let stop = Command::StopInstance { instance: id.to_string() };
                _ = world.command(if on { start(id) } else { stop });
            }
        }
        Step::Migrate(i, n) => {
            let instance = instance(world, i).to_string();
            _ = world.command(Command::Migrate { instance, node: nodes[n].to_string() });
        }
        Step::LeaveCopy(i, n) => {
            let id = instance(world, i);
            let to = nodes[n].to_string();
            if world.command(Command::Migrate { instance: id.to_string(), node: to }).is_ok() {
                let from = world.instance(id).node;
                let left = |w: &World| w.instance(id).node != from;
                while !left(world)
                    && (nodes.iter().any(|n| world.deliver_report(*n) || world.deliver_desired(*n))
                        || world.transfer())
                {}
                world.agent_down(from);
                world.run();
            }
        }
        Step::Cancel(i) => {
            if let Some(operation) =
                world.registry.instances().get(&instance(world, i)).and_then(|i| i.operation)
                && world.registry.operations()[&operation].kind == OperationKind::Migrate
            {
                _ = world.command(Command::CancelOperation { operation });
            }
        }
        Step::AgentUp(n) => world.agent_up(nodes[n]),
        Step::AgentDown(n) => world.agent_down(nodes[n]),
        Step::Desired(n) => _ = world.deliver_desired(nodes[n]),
        Step::Report(n) => _ = world.deliver_report(nodes[n]),
        Step::Transfer => _ = world.transfer(),
        Step::Run => world.run(),
        Step::Crash => world.crash(),
        Step::BackUp => world.backup = world.store.clone(),
        Step::Restore if !world.backup.is_empty() => world.restore(&world.backup.clone()),
        Step::Restore => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, max_shrink_iters: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_ever_runs_twice_whatever_backup_is_put_back(steps in proptest::collection::vec(step(), 1..120)) {
        let (mut world, nodes) = World::with_nodes(3);
        for step in &steps {
            apply(&mut world, &nodes, step);
            let known: Vec<InstanceId> = world.agents.values().flat_map(|a| a.copies.keys().copied()).collect();
            for id in known {
                assert!(world.running(id).len() < 2, "{id} runs on {:?} after {step:?}", world.running(id));
            }
        }
    }
}
