//! Moves of instances: stage by stage, cancelled, failed, and with a controller that stops in between.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code, also outside of the test functions")]

mod world;

use controller_registry::*;
use world::{SECOND, World, agent::status};

fn start() -> (World, InstanceId, NodeId, NodeId) {
    let (mut world, nodes) = World::with_nodes(2);
    let instance = world.allocate(nodes[0]);
    (world, instance, nodes[0], nodes[1])
}

fn migrate(world: &mut World, instance: InstanceId, to: NodeId) -> OperationId {
    world.operation(Command::Migrate { instance: instance.to_string(), node: to.to_string() })
}

/// One thing at a time; false if nothing moves any more.
fn step(world: &mut World) -> bool {
    let nodes: Vec<NodeId> = world.agents.keys().copied().collect();
    nodes.iter().any(|n| world.deliver_report(*n) || world.deliver_desired(*n)) || world.transfer()
}

fn volume(world: &World, node: NodeId, instance: InstanceId) -> Option<u64> {
    world.agents[&node].copies.get(&instance).map(|c| c.volume)
}

fn report(world: &mut World, node: NodeId, status: InstanceStatus) {
    let session = world.registry.agent_session(node).unwrap().session;
    let input = AgentInput::Report { session, full: false, instances: vec![status] };
    world.input(Input::Agent(node, input)).unwrap();
}

fn stage(world: &World, instance: InstanceId) -> Option<Stage> {
    world.instance(instance).migration.as_ref().map(|m| m.stage)
}

#[test]
fn a_move_takes_volume_mac_and_ip_along_and_shows_its_steps() {
    let (mut world, instance, from, to) = start();
    let before = world.binding(instance).clone();
    let moved = volume(&world, from, instance);
    let operation = migrate(&mut world, instance, to);
    let mut steps = Vec::new();
    loop {
        let step_now = world.registry.operations()[&operation].step.clone();
        if steps.last() != Some(&step_now) {
            steps.push(step_now);
        }
        if matches!(stage(&world, instance), Some(Stage::Stop | Stage::Transfer)) {
            assert_eq!(world.binding(instance).state, BindingState::Prepared);
            assert_eq!(world.binding(instance).node, to);
        }
        if !step(&mut world) {
            break;
        }
    }
    assert_eq!(steps, ["stop", "transfer", "start", "finish"], "nothing had to be prepared");
    assert_eq!(world.state(operation), OperationState::Succeeded);
    let after = world.binding(instance).clone();
    assert_eq!((&after.key, &after.ips, after.node), (&before.key, &before.ips, to));
    assert_eq!(after.state, BindingState::Active);
    assert!(after.generation > before.generation);
    assert_eq!((volume(&world, from, instance), volume(&world, to, instance)), (None, moved));
    assert!(world.effects.iter().any(|e| matches!(e, Effect::EndTransfer { .. })));
}

#[test]
fn cancelled_at_any_step_it_runs_where_it_is_and_nowhere_else() {
    for after in 0..12 {
        let (mut world, instance, from, to) = start();
        let moved = volume(&world, from, instance);
        let operation = migrate(&mut world, instance, to);
        for _ in 0..after {
            step(&mut world);
        }
        let committed = world.instance(instance).node == to;
        let cancelled = world.command(Command::CancelOperation { operation });
        assert_eq!(cancelled.is_err(), committed, "after {after} steps");
        world.run();
        let (home, other) = if committed { (to, from) } else { (from, to) };
        assert_eq!(world.instance(instance).node, home);
        assert_eq!(world.instance(instance).phase, Phase::Running);
        assert_eq!((volume(&world, home, instance), volume(&world, other, instance)), (moved, None));
        assert_eq!(world.binding(instance).node, home);
        assert_eq!(world.binding(instance).state, BindingState::Active);
    }
}

#[test]
fn a_controller_that_stops_at_any_step_goes_on_where_it_was() {
    for after in 0..12 {
        let (mut world, instance, from, to) = start();
        let moved = volume(&world, from, instance);
        let operation = migrate(&mut world, instance, to);
        for _ in 0..after {
            step(&mut world);
        }
        world.crash();
        for node in [from, to] {
            world.agent_up(node);
        }
        for node in [from, to] {
            let desired = world.registry.desired_instances(node);
            world.agents.get_mut(&node).unwrap().inbox.push_back(desired);
        }
        world.run();
        assert_eq!(world.state(operation), OperationState::Succeeded, "after {after} steps");
        assert_eq!((volume(&world, from, instance), volume(&world, to, instance)), (None, moved));
        assert_eq!(world.binding(instance).node, to);
    }
}

#[test]
fn a_stop_that_was_said_before_the_move_began_does_not_count() {
    let (mut world, instance, from, to) = start();
    let old = world.instance(instance).generation;
    migrate(&mut world, instance, to);
    assert_eq!(stage(&world, instance), Some(Stage::Stop));
    report(&mut world, from, status(instance, old, InstanceState::Stopped, true));
    assert_eq!(stage(&world, instance), Some(Stage::Stop));
    assert!(world.registry.desired_instances(to).is_empty());
    let new = world.instance(instance).generation;
    report(&mut world, from, status(instance, new, InstanceState::Stopped, false));
    assert_eq!(stage(&world, instance), Some(Stage::Transfer));
    let desired = world.registry.desired_instances(to);
    assert_eq!(desired[0].desired, DesiredState::Stopped);
    assert_eq!(desired[0].download_from, world.registry.desired_instances(from)[0].upload_to);
}

/// The source's word may be lost with a controller; the destination has checked what came against the source's digest.
#[test]
fn that_the_volume_has_arrived_is_the_destinations_word() {
    let (mut world, instance, from, to) = start();
    migrate(&mut world, instance, to);
    let stopped = status(instance, world.instance(instance).generation, InstanceState::Stopped, false);
    report(&mut world, from, stopped.clone());
    let generation = world.instance(instance).migration.as_ref().unwrap().generation;
    report(&mut world, from, InstanceStatus { uploaded: true, ..stopped });
    assert_eq!(stage(&world, instance), Some(Stage::Transfer));
    report(&mut world, to, status(instance, generation, InstanceState::Stopped, false));
    assert_eq!(stage(&world, instance), Some(Stage::Start));
}

/// The source sent everything to a controller that stopped before the destination had it all.
#[test]
fn a_volume_that_was_sent_and_never_arrived_is_sent_again() {
    for source_first in [true, false] {
        let (mut world, instance, from, to) = start();
        let moved = volume(&world, from, instance);
        let operation = migrate(&mut world, instance, to);
        while stage(&world, instance) != Some(Stage::Transfer) || world.deliver_desired(from) {
            assert!(world.deliver_desired(from) || world.deliver_report(from));
        }
        world.deliver_desired(to);
        let lost = world.instance(instance).migration.as_ref().unwrap().transfer.clone();
        world.agents.get_mut(&from).unwrap().sent(instance);
        world.crash();
        let order = if source_first { [from, to] } else { [to, from] };
        order.into_iter().for_each(|node| world.agent_up(node));
        assert_ne!(world.instance(instance).migration.as_ref().unwrap().transfer, lost);
        world.run();
        assert_eq!(world.state(operation), OperationState::Succeeded);
        assert_eq!((volume(&world, from, instance), volume(&world, to, instance)), (None, moved));
    }
}

#[test]
fn a_destination_that_cannot_start_it_gives_it_back() {
    let (mut world, instance, from, to) = start();
    let moved = volume(&world, from, instance);
    world.agents.get_mut(&to).unwrap().broken = true;
    let operation = migrate(&mut world, instance, to);
    let generation = world.instance(instance).generation;
    world.run();
    assert_eq!(world.state(operation), OperationState::Failed);
    let record = world.instance(instance);
    assert_eq!((record.node, record.phase), (from, Phase::Running));
    assert!(record.generation > generation, "a new placement of the old copy");
    assert_eq!((volume(&world, from, instance), volume(&world, to, instance)), (moved, None));
    assert_eq!(world.binding(instance).node, from);
}

#[test]
fn agents_that_stay_away_end_a_move_in_time() {
    for (commit, gone_is_source) in [(false, true), (false, false), (true, false)] {
        let (mut world, instance, from, to) = start();
        let operation = migrate(&mut world, instance, to);
        while commit && world.instance(instance).node != to {
            assert!(step(&mut world));
        }
        let gone = if gone_is_source { from } else { to };
        world.agent_down(gone);
        world.wait(29 * SECOND);
        assert_eq!(world.state(operation), OperationState::Running, "a restart of the agent is not a loss");
        let due = world.registry.poll_timeout().unwrap();
        assert!(due <= world.now.plus(SECOND), "{due:?}");
        world.wait(2 * SECOND);
        assert_eq!(world.state(operation), OperationState::Failed);
        assert_eq!(world.instance(instance).node, from);
        world.agent_up(gone);
        let desired = world.registry.desired_instances(gone);
        world.agents.get_mut(&gone).unwrap().inbox.push_back(desired);
        world.run();
        assert_eq!(world.instance(instance).phase, Phase::Running);
        assert!(world.agents[&to].copies.is_empty());
    }
}

#[test]
fn a_stopped_instance_moves_and_stays_stopped() {
    let (mut world, instance, _, to) = start();
    world.operation(Command::StopInstance { instance: instance.to_string() });
    world.run();
    assert_eq!(world.binding(instance).state, BindingState::Prepared);
    let operation = migrate(&mut world, instance, to);
    world.run();
    assert_eq!(world.state(operation), OperationState::Succeeded);
    assert_eq!(world.instance(instance).phase, Phase::Stopped);
    assert_eq!(world.agents[&to].copies[&instance].state, InstanceState::Stopped);
    let operation = world.operation(Command::StartInstance { instance: instance.to_string() });
    world.run();
    assert_eq!(world.state(operation), OperationState::Succeeded);
    assert_eq!(world.binding(instance).state, BindingState::Active);
}

#[test]
fn back_at_once_waits_for_the_old_copy_to_go() {
    let (mut world, instance, from, to) = start();
    let operation = migrate(&mut world, instance, to);
    while world.state(operation) == OperationState::Running {
        assert!(step(&mut world));
    }
    assert!(world.instance(instance).leftovers.contains_key(&from));
    let back = migrate(&mut world, instance, from);
    assert_eq!(stage(&world, instance), Some(Stage::Prepare));
    assert_eq!(world.binding(instance).state, BindingState::Active, "it runs on meanwhile");
    world.run();
    assert_eq!(world.state(back), OperationState::Succeeded);
    assert_eq!(world.instance(instance).node, from);
}

#[test]
fn a_copy_that_turns_up_again_has_to_go() {
    let (mut world, instance, from, to) = start();
    let old = world.agents[&from].copies[&instance].clone();
    migrate(&mut world, instance, to);
    world.run();
    world.agent_down(from);
    world.agents.get_mut(&from).unwrap().copies.insert(instance, old);
    world.agent_up(from);
    assert_eq!(world.registry.desired_instances(from)[0].desired, DesiredState::Absent);
    world.run();
    assert!(world.agents[&from].copies.is_empty());
    assert!(world.instance(instance).leftovers.is_empty());
}

#[test]
fn an_instance_that_its_agent_lost_is_made_again_there() {
    let (mut world, instance, from, _) = start();
    let agent = world.agents.get_mut(&from).unwrap();
    agent.copies.clear();
    agent.say_all();
    world.deliver_report(from);
    assert_eq!(world.instance(instance).phase, Phase::Lost);
    assert_eq!(world.binding(instance).state, BindingState::Prepared);
    assert!(world.events.iter().any(|e| e.kind == EventKind::InstanceLost));
    world.run();
    assert_eq!(world.instance(instance).phase, Phase::Running);
}

#[test]
fn a_full_report_from_before_does_not_end_a_deletion() {
    let (mut world, instance, from, _) = start();
    let operation = world.operation(Command::DeleteInstance { instance: instance.to_string() });
    let session = world.registry.agent_session(from).unwrap().session;
    let early = AgentInput::Report { session, full: true, instances: Vec::new() };
    world.input(Input::Agent(from, early)).unwrap();
    assert_eq!(world.state(operation), OperationState::Running);
    world.run();
    assert_eq!(world.state(operation), OperationState::Succeeded);
    assert!(world.registry.instances().is_empty() && world.registry.bindings().is_empty());
    assert!(world.agents[&from].copies.is_empty());
}

#[test]
fn the_source_alone_cannot_commit_and_a_word_about_an_earlier_attempt_does_not_count() {
    let (mut world, instance, from, to) = start();
    let attempt = |world: &mut World| {
        let operation = migrate(world, instance, to);
        let generation = world.instance(instance).generation;
        let sent = status(instance, generation, InstanceState::Stopped, true);
        report(world, from, InstanceStatus { uploaded: false, ..sent.clone() });
        report(world, from, sent);
        assert_eq!(stage(world, instance), Some(Stage::Transfer));
        (operation, world.instance(instance).migration.as_ref().unwrap().generation)
    };
    let (operation, first) = attempt(&mut world);
    world.command(Command::CancelOperation { operation }).unwrap();
    report(&mut world, to, status(instance, first, InstanceState::Absent, false));
    let (_, second) = attempt(&mut world);
    report(&mut world, to, status(instance, first, InstanceState::Stopped, false));
    assert_eq!(stage(&world, instance), Some(Stage::Transfer));
    report(&mut world, to, status(instance, second, InstanceState::Stopped, false));
    assert_eq!(stage(&world, instance), Some(Stage::Start));
    report(&mut world, to, status(instance, first, InstanceState::Running, false));
    assert_eq!(stage(&world, instance), Some(Stage::Start), "nor does a late RUNNING");
    assert_eq!(world.binding(instance).state, BindingState::Prepared);
    report(&mut world, to, status(instance, second, InstanceState::Running, false));
    assert_eq!(stage(&world, instance), None);
    assert_eq!(world.binding(instance).state, BindingState::Active);
}
