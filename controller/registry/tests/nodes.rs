//! Nodes: providers, sessions, clones, keys, removal; and what switches claim.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code, also outside of the test functions")]

mod world;

use controller_registry::*;
use world::{GIB, SECOND, World, key, small, station};

fn add_by_provider(world: &mut World) -> (NodeId, OperationId, SecretHash) {
    let secret_hash = world.secret();
    let new = NewNode { provider: "netns".into(), secret_hash, ttl_ms: 60 * SECOND, ..NewNode::default() };
    match world.command(Command::AddComputeNode(new)) {
        Ok(Outcome::NodeAdded { node, operation, .. }) => (node, operation, secret_hash),
        other => panic!("{other:?}"),
    }
}

fn created(node: NodeId) -> Input {
    Input::ProviderResult { node, result: ProviderResult::Created { reference: "vm-1".into() } }
}

fn destroys(world: &World) -> usize {
    world.effects.iter().filter(|e| matches!(e, Effect::DestroyNode { .. })).count()
}

/// The controller stopped while the provider was at it: it is asked again, and what was half made may be made anew.
#[test]
fn a_provider_that_is_asked_again_may_make_the_machine_anew() {
    for anew in [false, true] {
        let (mut world, _) = World::with_nodes(0);
        let (node, operation, secret_hash) = add_by_provider(&mut world);
        let enrol =
            |secret_hash, n| Input::Enrol { secret_hash, public_key: key(n), name_hint: String::new() };
        world.input(enrol(secret_hash, 1)).unwrap();
        world.crash();
        let secret_hash = world.secret();
        let renew = Command::RenewToken { node: node.to_string(), secret_hash, ttl_ms: 60 * SECOND };
        world.command(renew.clone()).unwrap();
        if anew {
            world.input(enrol(secret_hash, 2)).unwrap();
            assert_eq!(world.registry.key_status(&key(1)), KeyStatus::Revoked(node));
        }
        world.switch_up(node);
        assert_eq!(world.state(operation), OperationState::Running);
        world.input(created(node)).unwrap();
        assert_eq!(world.state(operation), OperationState::Succeeded);
        let late = world.input(enrol(secret_hash, 3)).unwrap_err();
        assert_eq!(late.code, "token-used");
        assert!(world.command(renew).is_err(), "it is made: its key is its own");
    }
}

#[test]
fn a_provided_node_is_there_once_made_enrolled_and_connected_in_any_order() {
    for order in [[0, 1, 2], [1, 0, 2], [1, 2, 0]] {
        let (mut world, _) = World::with_nodes(0);
        let (node, operation, secret_hash) = add_by_provider(&mut world);
        assert!(matches!(&world.effects[..], [Effect::CreateNode { provider, .. }] if provider == "netns"));
        for part in order {
            assert_eq!(world.state(operation), OperationState::Running);
            world.crash();
            match part {
                0 => _ = world.input(created(node)).unwrap(),
                1 => {
                    assert_eq!(world.registry.resume().is_empty(), order[0] == 0);
                    let public_key = key(node.0);
                    world.input(Input::Enrol { secret_hash, public_key, name_hint: "vm".into() }).unwrap();
                }
                _ => _ = world.switch_up(node),
            }
            if part == 0 && order[2] == 0 {
                // The session did not outlive the restart of the controller.
                world.switch_up(node);
            }
        }
        assert_eq!(world.state(operation), OperationState::Succeeded, "{order:?}");
        assert_eq!(world.registry.nodes()[&node].name, "vm");
        let removal =
            world.operation(Command::RemoveComputeNode { node: "vm".into(), force: false, now: false });
        assert_eq!(world.state(removal), OperationState::Running);
        assert_eq!(destroys(&world), 1);
        assert_eq!(world.registry.resume().len(), 1);
        world.input(Input::ProviderResult { node, result: ProviderResult::Destroyed }).unwrap();
        assert_eq!(world.state(removal), OperationState::Succeeded);
    }
}

#[test]
fn a_provided_node_that_does_not_come_is_destroyed() {
    let failed =
        |node| Input::ProviderResult { node, result: ProviderResult::CreateFailed { error: "no".into() } };
    for way in 0..3 {
        let (mut world, _) = World::with_nodes(0);
        let (node, operation, _) = add_by_provider(&mut world);
        let state = match way {
            0 => {
                world.input(failed(node)).unwrap();
                OperationState::Failed
            }
            1 => {
                world.command(Command::CancelOperation { operation }).unwrap();
                OperationState::Cancelled
            }
            _ => {
                world.input(created(node)).unwrap();
                world.wait(61 * SECOND);
                OperationState::Failed
            }
        };
        assert_eq!(world.state(operation), state);
        assert_eq!(world.registry.nodes()[&node].state, NodeState::Removed);
        assert_eq!(destroys(&world), 1);
        if way == 1 {
            world.input(created(node)).unwrap();
            assert_eq!(destroys(&world), 2, "it was finished after all");
        }
        world.crash();
        assert_eq!(world.registry.resume().len(), 1);
        world.input(Input::ProviderResult { node, result: ProviderResult::Destroyed }).unwrap();
        assert!(world.registry.resume().is_empty());
    }
}

fn registered(session: u64, boot: u64, old_alive: bool) -> SwitchInput {
    let (version, machine, addresses) = (String::new(), "other".into(), Vec::new());
    SwitchInput::Registered { session, boot, version, machine, addresses, old_alive }
}

#[test]
fn a_second_machine_with_a_key_is_refused_and_reported() {
    let (mut world, nodes) = World::with_nodes(1);
    let node = nodes[0];
    let old = world.registry.switch_session(node).unwrap().clone();
    let refusal = world.input(Input::Switch(node, registered(90, 90, true))).unwrap_err();
    assert_eq!((refusal.kind, refusal.code), (RefusalKind::Forbidden, "cloned"));
    assert!(matches!(world.registry.runtime(node).unwrap().conditions[..], [Condition::Cloned { .. }]));
    assert!(world.events.iter().any(|e| e.kind == EventKind::NodeCloned));
    assert_eq!(world.registry.switch_session(node), Some(&old));

    world.input(Input::Switch(node, registered(91, 91, false))).unwrap();
    assert!(world.registry.runtime(node).unwrap().conditions.is_empty());
    let reason = CloseReason::Superseded;
    assert!(world.effects.contains(&Effect::CloseSession { node, session: old.session, reason }));
    let late = world.input(Input::Switch(node, SwitchInput::Gone { session: old.session })).unwrap_err();
    assert_eq!(late.kind, RefusalKind::Stale);
    assert!(world.registry.switch_session(node).is_some(), "a late goodbye of the old session");
}

#[test]
fn a_rotated_key_is_told_to_peers_and_the_old_one_is_refused() {
    let (mut world, nodes) = World::with_nodes(2);
    let revision = world.registry.revision();
    let session = world.registry.switch_session(nodes[0]).unwrap().session;
    let rotate = |public_key| Input::Switch(NodeId(1), SwitchInput::RotateKey { session, public_key });
    assert_eq!(world.input(rotate(key(2))).unwrap_err().code, "key-known");
    world.input(rotate(key(77))).unwrap();
    assert!(world.effects.contains(&Effect::RevokeKeys { node: NodeId(1), keys: vec![key(1)] }));
    assert_eq!(world.input(rotate(key(77))), Ok(Outcome::Node(NodeId(1))), "again: nothing to do");
    world.crash();
    assert_eq!(world.registry.key_status(&key(1)), KeyStatus::Revoked(NodeId(1)));
    assert_eq!(world.registry.key_status(&key(77)), KeyStatus::Node(NodeId(1)));
    assert_eq!(world.registry.changes_since(nodes[1], revision), None, "a new process knows no changes");
    assert_eq!(world.registry.snapshot_for(nodes[1]).peers[0].public_key, key(77));
}

#[test]
fn a_node_is_drained_and_then_gone() {
    let (mut world, nodes) = World::with_nodes(3);
    let instances: Vec<_> = (0..4).map(|_| world.allocate(nodes[0])).collect();
    for node in &nodes {
        world.sync_switch(*node);
    }
    let operation =
        world.operation(Command::RemoveComputeNode { node: nodes[0].to_string(), force: false, now: false });
    assert_eq!(world.registry.nodes()[&nodes[0]].state, NodeState::Draining);
    world.run();
    assert_eq!(world.state(operation), OperationState::Succeeded);
    let homes: Vec<NodeId> = instances.iter().map(|i| world.instance(*i).node).collect();
    assert_eq!(homes.iter().filter(|n| **n == nodes[1]).count(), 2, "spread by free memory: {homes:?}");
    assert!(world.effects.contains(&Effect::RevokeKeys { node: nodes[0], keys: vec![key(1)] }));
    let children = world.registry.operations().values().filter(|o| o.parent == Some(operation)).count();
    assert_eq!(children, 4);
    for node in &nodes[1..] {
        world.sync_switch(*node);
        assert!(world.views[node].peers.iter().all(|p| p.id != nodes[0]));
    }
    let refusal = world.input(Input::Switch(nodes[0], registered(1000, 1, false))).unwrap_err();
    assert_eq!(refusal.code, "node-removed");
}

#[test]
fn a_node_whose_instances_can_go_nowhere_is_removed_only_by_force() {
    let (mut world, nodes) = World::with_nodes(2);
    world
        .command(Command::AddType(NewType { name: "big".into(), memory_bytes: 5 * GIB, ..small() }))
        .unwrap();
    let new = |node: NodeId| NewInstance {
        instance_type: "big".into(),
        node: Some(node.to_string()),
        ..NewInstance::default()
    };
    for node in &nodes {
        world.command(Command::Allocate(new(*node))).unwrap();
    }
    world.run();
    let remove = |force| Command::RemoveComputeNode { node: "host1".into(), force, now: false };
    let refusal = world.command(remove(false)).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Conflict);
    assert!(refusal.message.contains("inst-1"), "{refusal}");
    let operation = world.operation(remove(true));
    world.run();
    assert_eq!(world.state(operation), OperationState::Succeeded);
    assert_eq!(world.registry.instances().len(), 1);
    assert!(world.agents[&nodes[0]].copies.is_empty(), "deleted there, too");
}

#[test]
fn a_node_that_is_away_is_removed_only_by_force_and_with_its_instances() {
    let (mut world, nodes) = World::with_nodes(2);
    let instance = world.allocate(nodes[0]);
    world.agent_down(nodes[0]);
    let remove = |force| Command::RemoveComputeNode { node: "host1".into(), force, now: false };
    assert_eq!(world.command(remove(false)).unwrap_err().kind, RefusalKind::NotReady);
    world.wait(31 * SECOND);
    let operation = world.operation(remove(true));
    assert_eq!(world.state(operation), OperationState::Succeeded);
    assert!(!world.registry.instances().contains_key(&instance));
    assert!(world.registry.bindings().is_empty());
}

#[test]
fn a_removal_that_is_cancelled_leaves_the_node_as_it_was() {
    let (mut world, nodes) = World::with_nodes(2);
    let instance = world.allocate(nodes[0]);
    let operation =
        world.operation(Command::RemoveComputeNode { node: "host1".into(), force: false, now: false });
    world.command(Command::CancelOperation { operation }).unwrap();
    world.run();
    assert_eq!(world.state(operation), OperationState::Cancelled);
    assert_eq!(world.registry.nodes()[&nodes[0]].state, NodeState::Enrolled);
    let record = world.instance(instance);
    assert_eq!((record.node, record.phase), (nodes[0], Phase::Running));
}

struct Claims<'a>(&'a mut World, NodeId);

impl Claims<'_> {
    fn send(
        &mut self,
        full: bool,
        claims: Vec<BindingClaim>,
        withdrawals: Vec<BindingWithdrawal>,
    ) -> Vec<ClaimRefusal> {
        let session = self.0.registry.switch_session(self.1).unwrap().session;
        match self
            .0
            .input(Input::Switch(self.1, SwitchInput::Bindings { session, full, claims, withdrawals }))
        {
            Ok(Outcome::Claims(refusals)) => refusals,
            other => panic!("{other:?}"),
        }
    }

    fn claim(&mut self, key: BindingKey, ips: &[&str], seen: u64) -> Option<ClaimRefusalReason> {
        let ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        let claim = BindingClaim { key, ips, seen_generation: Generation(seen) };
        self.send(false, vec![claim], Vec::new()).first().map(|r| r.reason)
    }

    fn withdraw(&mut self, key: BindingKey, generation: u64) -> Option<ClaimRefusalReason> {
        let withdrawal = BindingWithdrawal { key, generation: Generation(generation) };
        self.send(false, Vec::new(), vec![withdrawal]).first().map(|r| r.reason)
    }
}

#[test]
fn claims_are_decided_by_generation_and_placement() {
    let (mut world, nodes) = World::with_nodes(2);
    let instance = world.allocate(nodes[0]);
    let placed = world.binding(instance).key.clone();
    let (s, a, b) = (station(100, 1), nodes[0], nodes[1]);
    let generation = |w: &World| w.registry.bindings()[&station(100, 1)].generation.0;
    use ClaimRefusalReason::*;
    assert_eq!(Claims(&mut world, a).claim(s.clone(), &["10.1.0.50"], 0), None);
    let first = generation(&world);
    assert_eq!(Claims(&mut world, a).claim(s.clone(), &["10.1.0.50"], 0), None, "the same again");
    assert_eq!(generation(&world), first, "changes nothing");
    assert_eq!(Claims(&mut world, b).claim(s.clone(), &[], 0), Some(Stale));
    assert_eq!(Claims(&mut world, b).claim(s.clone(), &[], first - 1), Some(Stale));
    assert_eq!(Claims(&mut world, b).claim(s.clone(), &[], first), None, "it moved");
    let second = generation(&world);
    assert!(second > first);
    assert_eq!(Claims(&mut world, a).withdraw(s.clone(), first), Some(Stale), "late, after the move");
    assert_eq!(Claims(&mut world, a).withdraw(s.clone(), second), Some(Stale), "not its own");
    assert_eq!(Claims(&mut world, b).withdraw(s.clone(), first), Some(Stale));
    assert_eq!(world.registry.bindings()[&s].node, b);
    assert_eq!(Claims(&mut world, b).withdraw(s.clone(), second), None);
    assert_eq!(Claims(&mut world, b).withdraw(s.clone(), second), None, "gone is gone");

    let table = [
        (placed.clone(), vec![], Some(BoundElsewhere)),
        (station(7, 1), vec![], Some(Network)),
        (BindingKey { mac: Mac([0xff; 6]), ..s.clone() }, vec![], Some(Address)),
        (BindingKey { vlans: vec![1, 2, 3], ..s.clone() }, vec![], Some(Address)),
        (s.clone(), vec!["127.0.0.1"], Some(Address)),
        (s.clone(), vec!["10.1.0.2"], Some(Address)),
        (BindingKey { vlans: vec![10], ..s.clone() }, vec!["10.1.0.2"], None),
    ];
    for (key, ips, reason) in table {
        assert_eq!(Claims(&mut world, b).claim(key.clone(), &ips, 0), reason, "{key} {ips:?}");
    }
    assert_eq!(Claims(&mut world, a).claim(placed.clone(), &[], 0), None, "it is there by placement");
    assert_eq!(world.registry.bindings()[&placed].source, BindingSource::Controller);

    assert_eq!(Claims(&mut world, b).claim(s.clone(), &[], 0), None);
    assert!(Claims(&mut world, b).send(true, Vec::new(), Vec::new()).is_empty());
    let left: Vec<_> = world.registry.bindings().values().map(|b| b.source).collect();
    assert_eq!(left, [BindingSource::Controller], "a full report withdraws what it does not name");
}

#[test]
fn a_node_has_so_many_learned_bindings_and_no_more() {
    let (mut world, nodes) = World::with_nodes(1);
    let claim = |n: u16| {
        let [high, low] = n.to_be_bytes();
        let key = BindingKey { vni: Vni(100), vlans: vec![], mac: Mac([2, 0, 0, 0, high, low]) };
        BindingClaim { key, ips: Vec::new(), seen_generation: Generation(0) }
    };
    let refusals = Claims(&mut world, nodes[0]).send(true, (1..=4100).map(claim).collect(), Vec::new());
    assert_eq!(refusals.len(), 4);
    assert!(refusals.iter().all(|r| r.reason == ClaimRefusalReason::Full));
    assert_eq!(world.registry.bindings().len(), 4096);
}

#[test]
fn a_session_that_is_too_far_behind_takes_a_snapshot() {
    let (mut world, nodes) = World::with_nodes(1);
    let revision = world.registry.revision();
    let set = |n: u64| {
        let state = if n.is_multiple_of(2) { BindingState::Active } else { BindingState::Prepared };
        let (key, node) = (station(100, 1), "host1".to_owned());
        Input::Command(Command::SetBinding { key, ips: Vec::new(), node, state, expected: None }.into())
    };
    for n in 0..65_536 {
        world.registry.handle(set(n), world.now).unwrap();
    }
    let delta = world.registry.changes_since(nodes[0], revision).unwrap();
    assert_eq!(delta.bindings.len(), 1, "many changes of one binding are one");
    world.registry.handle(set(65_536), world.now).unwrap();
    assert_eq!(world.registry.changes_since(nodes[0], revision), None);
    let future = Revision(world.registry.revision().0 + 1);
    assert_eq!(world.registry.changes_since(nodes[0], future), None, "of a store that was lost");
}

#[test]
fn what_a_provider_says_of_its_work_is_shown_and_never_goes_back() {
    let (mut world, _) = World::with_nodes(0);
    let (node, operation, _) = add_by_provider(&mut world);
    let mut say = |percent, detail: &str| {
        let input = Input::ProviderProgress { operation, percent, detail: detail.into() };
        world.input(input).map(|_| {
            let operation = &world.registry.operations()[&operation];
            (operation.percent, operation.detail.clone())
        })
    };
    assert_eq!(say(40, "copies the image"), Ok((20, "copies the image".to_owned())));
    assert_eq!(say(10, "again"), Ok((20, "again".to_owned())));
    assert_eq!(say(255, "\u{1b}[2J"), Ok((50, " [2J".to_owned())));
    assert!(say(100, &"x".repeat(5000)).unwrap().1.len() <= 512);
    world.input(created(node)).unwrap();
    let late = Input::ProviderProgress { operation, percent: 90, detail: String::new() };
    assert_eq!(world.input(late).unwrap_err().kind, RefusalKind::Stale);
}

#[test]
fn a_drain_moves_a_few_instances_at_a_time() {
    let (mut world, nodes) = World::with_nodes(3);
    let all: Vec<InstanceId> = (0..7).map(|_| world.allocate(nodes[0])).collect();
    world.run();
    let removal =
        world.operation(Command::RemoveComputeNode { node: nodes[0].to_string(), force: false, now: false });
    let moving = |world: &World| {
        let operations = world.registry.operations().values();
        operations.filter(|o| o.parent == Some(removal) && !o.is_finished()).count()
    };
    assert_eq!(moving(&world), 4);
    assert!(world.registry.operations()[&removal].detail.contains("yet: 7, on the move: 4"));
    let waiting = |i: &&InstanceId| world.instance(**i).operation.is_none();
    assert_eq!(all.iter().filter(waiting).count(), 3, "they wait, and run meanwhile");
    let mut most = 0;
    let mut moved = true;
    while moved {
        moved = world.transfer();
        for node in &nodes {
            moved |= world.deliver_desired(*node);
            moved |= world.deliver_report(*node);
            most = most.max(moving(&world));
        }
    }
    assert_eq!(most, 4);
    assert_eq!(world.state(removal), OperationState::Succeeded);
    assert!(all.iter().all(|i| world.instance(*i).node != nodes[0]));
}

#[test]
fn what_an_agent_has_and_the_controller_did_not_make_is_said_once_and_left_alone() {
    let (mut world, nodes) = World::with_nodes(1);
    let (node, known) = (nodes[0], world.allocate(nodes[0]));
    world.run();
    let session = world.registry.agent_session(node).unwrap().session;
    let here = |id, generation| InstanceStatus {
        id,
        generation: Generation(generation),
        state: InstanceState::Running,
        ..InstanceStatus::default()
    };
    let generation = world.instance(known).generation.0;
    let all = vec![here(known, generation), here(InstanceId(99), 3)];
    let report = |full, instances| Input::Agent(node, AgentInput::Report { session, full, instances });
    let strays = |world: &World| world.registry.runtime(node).unwrap().conditions.clone();
    let warnings = |world: &World| world.events.iter().filter(|e| e.kind == EventKind::Warning).count();

    let (records, desired) = (world.store.clone(), world.registry.desired_instances(node));
    for _ in 0..3 {
        world.input(report(true, all.clone())).unwrap();
        let unknown = Condition::Stray { instance: InstanceId(99), generation: Generation(3), known: false };
        assert_eq!(strays(&world), [unknown]);
        assert_eq!(warnings(&world), 1, "said once");
    }
    assert!(!world.registry.runtime(node).unwrap().is_cloned());
    world.input(report(false, vec![here(known, generation + 50)])).unwrap();
    assert_eq!((strays(&world).len(), warnings(&world)), (2, 2), "a newer copy of one that is known");
    assert_eq!(world.store, records, "nothing is changed by it");
    assert_eq!(world.registry.desired_instances(node), desired, "the agent is not told about it");
    let gone = InstanceStatus { state: InstanceState::Absent, ..here(InstanceId(99), 3) };
    world.input(report(false, vec![gone])).unwrap();
    assert_eq!(strays(&world).len(), 1);
    world.input(report(true, vec![here(known, generation)])).unwrap();
    assert!(strays(&world).is_empty());
}

#[test]
fn an_operator_sets_limit_and_grace() {
    let (mut world, nodes) = World::with_nodes(1);
    let settings = Settings { learned_per_node: 2, agent_grace_ms: 5 * SECOND, ..Settings::default() };
    world.registry = std::mem::take(&mut world.registry).with_settings(settings);
    let refused: Vec<_> =
        (0..3).map(|n| Claims(&mut world, nodes[0]).claim(station(100, n), &[], 0)).collect();
    assert_eq!(refused, [None, None, Some(ClaimRefusalReason::Full)]);
    world.agent_down(nodes[0]);
    world.input(Input::Tick).unwrap();
    assert_eq!(world.registry.poll_timeout(), Some(world.now.plus(5 * SECOND)));
}

#[test]
fn bindings_are_found_by_network_and_node_without_looking_at_all() {
    let (mut world, nodes) = World::with_nodes(2);
    for vni in [200, 300] {
        let new = NewNetwork { name: format!("n{vni}"), vni: Some(Vni(vni)), ..NewNetwork::default() };
        world.command(Command::CreateNetwork(new)).unwrap();
    }
    for (vni, n) in [(100, 1), (200, 1), (200, 2), (200, 3), (300, 1)] {
        let node = nodes[usize::from(n % 2 == 0)].to_string();
        let (key, state) = (station(vni, n), BindingState::Active);
        world.command(Command::SetBinding { key, ips: vec![], node, state, expected: None }).unwrap();
    }
    let all: Vec<Binding> = world.registry.bindings().values().cloned().collect();
    for after in std::iter::once(None).chain(all.iter().map(|b| Some(b.key.clone()))) {
        for network in [None, Some(Vni(200)), Some(Vni(300)), Some(Vni(7)), Some(Vni(u32::MAX))] {
            for node in [None, Some(nodes[0]), Some(nodes[1]), Some(NodeId(77))] {
                let wanted = all.iter().filter(|b| {
                    after.as_ref().is_none_or(|after| b.key > *after)
                        && network.is_none_or(|vni| b.key.vni == vni)
                        && node.is_none_or(|node| b.node == node)
                });
                let found = world.registry.bindings_after(after.as_ref(), network, node);
                assert!(found.eq(wanted), "{after:?} {network:?} {node:?}");
            }
        }
    }
    assert_eq!(world.registry.binding_counts().values().sum::<usize>(), 5);
}

#[test]
fn a_node_is_removed_at_once_whatever_is_under_way_there() {
    let at_once =
        |node: NodeId| Command::RemoveComputeNode { node: node.to_string(), force: false, now: true };
    let migrate = |world: &mut World, id: InstanceId, to: NodeId| {
        world.operation(Command::Migrate { instance: id.to_string(), node: to.to_string() })
    };
    let gone = |world: &World, node: NodeId, n: u64| {
        assert_eq!(world.registry.nodes()[&node].state, NodeState::Removed);
        assert!(world.effects.contains(&Effect::RevokeKeys { node, keys: vec![key(n)] }));
        assert!(world.registry.operations().values().all(Operation::is_finished));
    };
    // Its instances go with it; nobody asks its agent, which has a session all the time.
    let (mut world, nodes) = World::with_nodes(3);
    let (lost, kept) = (world.allocate(nodes[0]), world.allocate(nodes[1]));
    world.sync_switch(nodes[1]);
    let operation = world.operation(at_once(nodes[0]));
    assert_eq!(world.state(operation), OperationState::Succeeded);
    gone(&world, nodes[0], 1);
    world.sync_switch(nodes[1]);
    assert!(world.views[&nodes[1]].peers.iter().all(|p| p.id != nodes[0]), "its peers are told");
    assert!(!world.registry.instances().contains_key(&lost));
    assert_eq!(world.instance(kept).phase, Phase::Running);
    assert!(world.registry.bindings().values().all(|b| b.node != nodes[0]));
    assert_eq!(world.command(at_once(nodes[0])).unwrap_err().kind, RefusalKind::Conflict);

    // A drain that it holds up gives way, with the moves that are part of it.
    let (mut world, nodes) = World::with_nodes(2);
    let held = world.allocate(nodes[0]);
    let drain = Command::RemoveComputeNode { node: nodes[0].to_string(), force: true, now: false };
    let drain = world.operation(drain);
    world.operation(at_once(nodes[0]));
    assert_eq!(world.state(drain), OperationState::Cancelled);
    assert!(!world.registry.instances().contains_key(&held));
    gone(&world, nodes[0], 1);

    // A move from it, and one to it, at each stage: what lives elsewhere stays and runs.
    for to_it in [false, true] {
        for stage in [Stage::Stop, Stage::Transfer, Stage::Start] {
            let (mut world, nodes) = World::with_nodes(2);
            let (from, to) = (nodes[0], nodes[1]);
            let id = world.allocate(from);
            migrate(&mut world, id, to);
            while world.instance(id).migration.as_ref().unwrap().stage < stage {
                let moved = nodes.iter().any(|n| world.deliver_report(*n) || world.deliver_desired(*n));
                assert!(moved || world.transfer());
            }
            let node = if to_it { to } else { from };
            world.operation(at_once(node));
            world.run();
            gone(&world, node, node.0);
            let left = world.registry.instances().get(&id).map(|i| (i.node, i.phase, i.leftovers.len()));
            let other = if to_it { from } else { to };
            // Back at the source, or at the destination if it lived there already.
            let stays = to_it || stage == Stage::Start;
            let expected = stays.then_some((other, Phase::Running, 0));
            assert_eq!(left, expected, "{stage:?} {to_it}");
        }
    }
}

#[test]
fn a_node_that_says_nothing_holds_up_no_removal_for_ever() {
    for force in [false, true] {
        let (mut world, nodes) = World::with_nodes(2);
        let id = world.allocate(nodes[0]);
        let removal =
            world.operation(Command::RemoveComputeNode { node: nodes[0].to_string(), force, now: false });
        let child = world.instance(id).operation.unwrap();
        // Its agent keeps its session and does nothing; the controller only looks when it said that it would.
        let mut looks = 0;
        while world.state(removal) == OperationState::Running && looks < 40 {
            let next = world.registry.poll_timeout().unwrap();
            let ms = next.since(world.now);
            world.wait(ms);
            looks += 1;
            if world.now.since(Timestamp(1_000_000)) < 115 * SECOND {
                assert_eq!(world.state(child), OperationState::Running);
            }
        }
        assert_eq!(world.state(child), OperationState::Failed);
        let error = world.registry.operations()[&child].error.clone().unwrap();
        assert!(error.contains("said nothing about it for 120 s"), "{error}");
        let record = world.registry.nodes()[&nodes[0]].state;
        if force {
            assert_eq!((world.state(removal), record), (OperationState::Succeeded, NodeState::Removed));
            assert!(!world.registry.instances().contains_key(&id), "deleted with the node");
        } else {
            assert_eq!((world.state(removal), record), (OperationState::Failed, NodeState::Enrolled));
            assert_eq!(world.instance(id).node, nodes[0]);
        }
    }
}
