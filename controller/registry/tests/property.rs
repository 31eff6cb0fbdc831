//! Random commands, reports that are late, twice or out of order, agents that come and go, a controller that stops
//! at any point: what must hold holds after every step, and in the end everything comes to rest.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code, also outside of the test functions")]

mod world;

use controller_registry::*;
use proptest::prelude::*;
use world::{SECOND, World, station};

#[derive(Debug, Clone)]
enum Step {
    Allocate(Option<usize>),
    Start(usize),
    Stop(usize),
    Delete(usize),
    Migrate(usize, usize),
    AddNode,
    Provide,
    Progress(usize, u8),
    Provided(usize, bool),
    Remove(usize, bool, bool),
    Cancel(usize),
    AgentUp(usize),
    AgentDown(usize),
    Break(usize, bool),
    Lose(usize),
    Desired(usize),
    Report(usize),
    ReportTwice(usize),
    ReportLost(usize),
    ReportSwapped(usize),
    OldReport(usize, usize),
    FullReport(usize),
    Transfer,
    Run,
    Claim(usize, u8, u8),
    Withdraw(usize, u8, bool),
    FullClaims(usize),
    SetBinding(usize, u8),
    RemoveBinding(u8),
    SyncSwitch(usize),
    Membership(usize),
    OtherNetwork(bool),
    HostNetwork(bool),
    Rotate(usize),
    Wait(u64),
    Crash,
    BackUp,
    Restore,
}

fn step() -> impl Strategy<Value = Step> {
    use Step::*;
    let n = 0..6usize;
    let i = 0..6usize;
    prop_oneof![
        4 => proptest::option::of(n.clone()).prop_map(Allocate),
        2 => i.clone().prop_map(Start),
        2 => i.clone().prop_map(Stop),
        1 => i.clone().prop_map(Delete),
        8 => (i.clone(), n.clone()).prop_map(|(i, n)| Migrate(i, n)),
        1 => Just(AddNode),
        1 => Just(Provide),
        3 => (i.clone(), any::<u8>()).prop_map(|(k, percent)| Progress(k, percent)),
        1 => (n.clone(), any::<bool>()).prop_map(|(k, good)| Provided(k, good)),
        1 => (n.clone(), any::<bool>(), any::<bool>()).prop_map(|(n, force, now)| Remove(n, force, now)),
        2 => i.clone().prop_map(Cancel),
        4 => n.clone().prop_map(AgentUp),
        2 => n.clone().prop_map(AgentDown),
        1 => (n.clone(), any::<bool>()).prop_map(|(n, b)| Break(n, b)),
        1 => n.clone().prop_map(Lose),
        12 => n.clone().prop_map(Desired),
        12 => n.clone().prop_map(Report),
        2 => n.clone().prop_map(ReportTwice),
        1 => n.clone().prop_map(ReportLost),
        2 => n.clone().prop_map(ReportSwapped),
        2 => (n.clone(), any::<usize>()).prop_map(|(n, k)| OldReport(n, k)),
        1 => n.clone().prop_map(FullReport),
        6 => Just(Transfer),
        3 => Just(Run),
        3 => (n.clone(), 0..4u8, 0..3u8).prop_map(|(n, k, s)| Claim(n, k, s)),
        2 => (n.clone(), 0..4u8, any::<bool>()).prop_map(|(n, k, c)| Withdraw(n, k, c)),
        1 => n.clone().prop_map(FullClaims),
        1 => (n.clone(), 0..4u8).prop_map(|(n, k)| SetBinding(n, k)),
        1 => (0..4u8).prop_map(RemoveBinding),
        3 => n.clone().prop_map(SyncSwitch),
        1 => n.clone().prop_map(Membership),
        1 => any::<bool>().prop_map(OtherNetwork),
        1 => prop_oneof![4 => Just(true), 1 => Just(false)].prop_map(HostNetwork),
        1 => n.prop_map(Rotate),
        2 => prop_oneof![Just(SECOND), Just(31 * SECOND), Just(121 * SECOND)].prop_map(Wait),
        1 => Just(Crash),
        1 => Just(BackUp),
        1 => Just(Restore),
    ]
}

/// Some on the other networks, which may be missing.
fn station_of(k: u8) -> BindingKey {
    station([100, 101, 200, 200][usize::from(k % 4)], k)
}

/// Picks one of what there is.
fn pick<T: Clone>(all: impl Iterator<Item = T>, index: usize) -> Option<T> {
    let all: Vec<T> = all.collect();
    if all.is_empty() { None } else { Some(all[index % all.len()].clone()) }
}

fn apply(world: &mut World, step: &Step) {
    let node = |world: &World, n: usize| pick(world.agents.keys().copied(), n).unwrap();
    let instance = |world: &World, i: usize| pick(world.registry.instances().keys().copied(), i);
    let name = |id: Option<InstanceId>| id.map_or("none".to_owned(), |id| id.to_string());
    match step.clone() {
        Step::Allocate(n) => {
            let node = n.map(|n| node(world, n).to_string());
            let new = NewInstance { node, instance_type: "small".into(), ..NewInstance::default() };
            _ = world.command(Command::Allocate(new));
        }
        Step::Start(i) => _ = world.command(Command::StartInstance { instance: name(instance(world, i)) }),
        Step::Stop(i) => _ = world.command(Command::StopInstance { instance: name(instance(world, i)) }),
        Step::Delete(i) => _ = world.command(Command::DeleteInstance { instance: name(instance(world, i)) }),
        Step::Migrate(i, n) => {
            let node = node(world, n).to_string();
            _ = world.command(Command::Migrate { instance: name(instance(world, i)), node });
        }
        Step::AddNode if world.agents.len() < 8 => _ = world.add_node(),
        Step::AddNode => {}
        Step::Remove(n, force, now) => {
            let node = node(world, n).to_string();
            _ = world.command(Command::RemoveComputeNode { node, force, now });
        }
        Step::Provide => {
            let (provider, secret_hash, ttl_ms) = ("cloud".into(), world.secret(), 10 * SECOND);
            let new = NewNode { provider, secret_hash, ttl_ms, ..NewNode::default() };
            world.command(Command::AddComputeNode(new)).unwrap();
        }
        Step::Progress(k, percent) => {
            // Of any operation, also of one that has ended or is no provider's.
            let Some(before) = pick(world.registry.operations().values().cloned(), k) else { return };
            let input =
                Input::ProviderProgress { operation: before.id, percent, detail: "it comes\n".into() };
            let taken = world.input(input).is_ok();
            let after = &world.registry.operations()[&before.id];
            if taken {
                assert!(!before.is_finished() && before.kind == OperationKind::AddComputeNode, "{before:?}");
                let (was, is) = (before.percent, after.percent);
                assert!(was <= is && is <= was.max(50) && after.detail == "it comes ", "{after:?}");
                let shown = Operation { percent: is, detail: after.detail.clone(), ..before };
                assert_eq!(*after, shown, "nothing else changes");
            } else {
                assert_eq!(*after, before);
            }
        }
        Step::Provided(k, good) => {
            let asked = world.registry.nodes().values().filter(|n| n.provider == "cloud").map(|n| n.id);
            if let Some(node) = pick(asked, k) {
                let destroys = world.registry.nodes()[&node].state == NodeState::Removed;
                let result = match (destroys, good) {
                    (false, true) => ProviderResult::Created { reference: "vm".into() },
                    (false, false) => ProviderResult::CreateFailed { error: "no room".into() },
                    (true, true) => ProviderResult::Destroyed,
                    (true, false) => ProviderResult::DestroyFailed { error: "not there".into() },
                };
                _ = world.input(Input::ProviderResult { node, result });
            }
        }
        Step::Cancel(k) => {
            let running = world.registry.operations().values().filter(|o| !o.is_finished()).map(|o| o.id);
            if let Some(operation) = pick(running, k) {
                _ = world.command(Command::CancelOperation { operation });
            }
        }
        Step::AgentUp(n) => world.agent_up(node(world, n)),
        Step::AgentDown(n) => world.agent_down(node(world, n)),
        Step::Break(n, broken) => world.agents.get_mut(&node(world, n)).unwrap().broken = broken,
        Step::Lose(n) => {
            let agent = world.agents.get_mut(&node(world, n)).unwrap();
            agent.copies.pop_first();
            agent.say_all();
        }
        Step::Desired(n) => _ = world.deliver_desired(node(world, n)),
        Step::Report(n) => _ = world.deliver_report(node(world, n)),
        Step::ReportTwice(n) => {
            let node = node(world, n);
            let outbox = &mut world.agents.get_mut(&node).unwrap().outbox;
            if let Some(first) = outbox.front().cloned() {
                outbox.push_back(first);
            }
            world.deliver_report(node);
        }
        Step::ReportLost(n) => _ = world.agents.get_mut(&node(world, n)).unwrap().outbox.pop_front(),
        Step::ReportSwapped(n) => {
            let node = node(world, n);
            world.agents.get_mut(&node).unwrap().outbox.make_contiguous().reverse();
            world.deliver_report(node);
        }
        Step::OldReport(n, k) => {
            let node = node(world, n);
            let agent = &world.agents[&node];
            if let (Some(session), Some(instances)) = (agent.session, pick(agent.history.iter().cloned(), k))
            {
                let input = AgentInput::Report { session, full: k % 3 == 0, instances };
                _ = world.input(Input::Agent(node, input));
            }
        }
        Step::FullReport(n) => world.agents.get_mut(&node(world, n)).unwrap().say_all(),
        Step::Transfer => _ = world.transfer(),
        Step::Run => world.run(),
        Step::Claim(n, k, seen) => {
            let key = station_of(k);
            let current = world.registry.bindings().get(&key).map_or(0, |b| b.generation.0);
            let seen_generation = Generation(current.saturating_sub(u64::from(seen)));
            let claim = BindingClaim { key, ips: Vec::new(), seen_generation };
            bindings(world, n, false, vec![claim], Vec::new());
        }
        Step::Withdraw(n, k, right) => {
            let key = station_of(k);
            let current = world.registry.bindings().get(&key).map_or(0, |b| b.generation.0);
            let generation = Generation(if right { current } else { current.saturating_sub(1) });
            bindings(world, n, false, Vec::new(), vec![BindingWithdrawal { key, generation }]);
        }
        Step::FullClaims(n) => bindings(world, n, true, Vec::new(), Vec::new()),
        Step::SetBinding(n, k) => {
            let (key, node) = (station_of(k), node(world, n).to_string());
            let state = BindingState::Active;
            _ = world.command(Command::SetBinding { key, ips: Vec::new(), node, state, expected: None });
        }
        Step::RemoveBinding(k) => {
            _ = world.command(Command::RemoveBinding { key: station_of(k), expected: None });
        }
        Step::SyncSwitch(n) => world.sync_switch(node(world, n)),
        Step::Membership(n) => {
            let all = (n % 2 == 0).then_some(None);
            let live = world.registry.nodes().values().filter(|x| x.state != NodeState::Removed);
            let some = live.skip(n).map(|x| x.id.to_string()).collect();
            let update = NetworkUpdate { nodes: Some(all.unwrap_or(Some(some))), ..NetworkUpdate::default() };
            _ = world.command(Command::UpdateNetwork { network: "default".into(), update });
        }
        Step::OtherNetwork(true) => {
            let new = NewNetwork { name: "lan".into(), vni: Some(Vni(200)), ..NewNetwork::default() };
            _ = world.command(Command::CreateNetwork(new));
        }
        Step::OtherNetwork(false) => _ = world.command(Command::DeleteNetwork { network: "lan".into() }),
        Step::HostNetwork(true) => {
            // Six addresses: the last nodes find none.
            let subnet_v4 = Some("100.80.0.0/29".parse().unwrap());
            let subnet_v6 = Some("fd00:80::/64".parse().unwrap());
            let name = "mgmt".into();
            let new = NewNetwork { name, host: true, subnet_v4, subnet_v6, ..NewNetwork::default() };
            _ = world.command(Command::CreateNetwork(new));
        }
        Step::HostNetwork(false) => _ = world.command(Command::DeleteNetwork { network: "mgmt".into() }),
        Step::Rotate(n) => {
            let node = node(world, n);
            let Some(session) = world.registry.switch_session(node).map(|s| s.session) else { return };
            let public_key = world::key(1000 + world.session());
            _ = world.input(Input::Switch(node, SwitchInput::RotateKey { session, public_key }));
        }
        Step::Wait(ms) => world.wait(ms),
        Step::Crash => {
            world.crash();
            for node in world.agents.keys().copied().collect::<Vec<_>>() {
                world.switch_up(node);
            }
        }
        Step::BackUp => world.backup = world.store.clone(),
        Step::Restore if !world.backup.is_empty() => world.restore(&world.backup.clone()),
        Step::Restore => {}
    }
}

fn bindings(
    world: &mut World,
    n: usize,
    full: bool,
    claims: Vec<BindingClaim>,
    withdrawals: Vec<BindingWithdrawal>,
) {
    let node = pick(world.agents.keys().copied(), n).unwrap();
    let Some(session) = world.registry.switch_session(node).map(|s| s.session) else { return };
    let input = SwitchInput::Bindings { session, full, claims, withdrawals };
    _ = world.input(Input::Switch(node, input));
}

/// All agents work and stay: everything must come to its end.
fn rest(world: &mut World) {
    let nodes: Vec<NodeId> = world.agents.keys().copied().collect();
    for node in &nodes {
        world.agents.get_mut(node).unwrap().broken = false;
        world.agent_up(*node);
    }
    world.run();
    // Where it is not clear after a restore, the operator decides.
    let open = world.registry.instances().values().filter(|i| i.unconfirmed.is_some());
    for instance in open.map(|i| i.id.to_string()).collect::<Vec<_>>() {
        world.command(Command::StartInstance { instance }).unwrap();
    }
    for _ in 0..40 {
        world.run();
        for node in &nodes {
            if let Some(agent) = world.agents.get_mut(node) {
                agent.say_all();
            }
        }
        world.run();
        world.wait(SECOND);
    }
    for operation in world.registry.operations().values() {
        assert!(operation.is_finished(), "{operation:?}\n{:?}", world.registry.instances());
    }
    for instance in world.registry.instances().values() {
        assert!(instance.leftovers.is_empty() && instance.migration.is_none(), "{instance:?}");
        assert_ne!(instance.desired, DesiredState::Absent, "{instance:?}");
        for (node, agent) in world.agents.iter().filter(|(_, a)| a.session.is_some()) {
            let copy = agent.copies.get(&instance.id);
            assert_eq!(copy.is_some(), *node == instance.node, "{instance:?} at {node}: {copy:?}");
        }
    }
    for node in nodes {
        world.sync_switch(node);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_must_hold_holds_after_every_step(steps in proptest::collection::vec(step(), 1..160)) {
        let (mut world, _) = World::with_nodes(4);
        for step in &steps {
            apply(&mut world, step);
        }
        rest(&mut world);
    }
}
