//! What is refused, and with which words: a table for each command.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code, also outside of the test functions")]

mod world;

use controller_registry::*;
use world::{GIB, SECOND, World, key, small, station};

#[track_caller]
fn refused(world: &mut World, command: Command, kind: RefusalKind, words: &str) {
    let (before, revision) = (world.store.clone(), world.registry.revision());
    let refusal = world.command(command).expect_err(words);
    assert_eq!(refusal.kind, kind, "{refusal}");
    assert!(refusal.message.contains(words), "`{refusal}` has no `{words}`");
    assert_eq!((&world.store, world.registry.revision()), (&before, revision), "a refusal changed something");
}

fn invalid(field: &'static str) -> RefusalKind {
    RefusalKind::Invalid { field }
}

#[test]
fn nothing_goes_without_a_cluster_and_there_is_only_one() {
    let mut registry = Registry::default();
    let command = Command::DeleteType { reference: "a".into() };
    let refusal = registry.handle(Input::Command(command.into()), Timestamp(1)).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::NotReady);
    let input = Input::Agent(NodeId(1), AgentInput::Gone { session: 1 });
    assert_eq!(registry.handle(input, Timestamp(1)).unwrap_err().kind, RefusalKind::NotReady);
    assert!(registry.take_changes().is_empty());
    let mut world = World::new();
    let again = Command::InitCluster { name: "again".into(), epoch: 1 };
    refused(&mut world, again, RefusalKind::Conflict, "exists already");
}

#[test]
fn networks() {
    let (mut world, nodes) = World::with_nodes(2);
    let new = |name: &str| NewNetwork { name: name.into(), ..NewNetwork::default() };
    let subnet = |s: &str| Some(s.parse::<Subnet>().unwrap());
    let table = [
        (new(""), invalid("name"), "1 to 12"),
        (new("thirteen-char"), invalid("name"), "1 to 12"),
        (new("Upper"), invalid("name"), "a-z"),
        (new("-a"), invalid("name"), "leave that off"),
        (new("42"), invalid("name"), "VNI"),
        (new("default"), RefusalKind::Conflict, "already"),
        (NewNetwork { vni: Some(Vni(0)), ..new("a") }, invalid("vni"), "1 to 16777215"),
        (NewNetwork { vni: Some(Vni(1 << 24)), ..new("a") }, invalid("vni"), "1 to 16777215"),
        (NewNetwork { vni: Some(Vni(100)), ..new("a") }, RefusalKind::Conflict, "default's"),
        (NewNetwork { mtu: 1279, ..new("a") }, invalid("mtu"), "1280 to 9216"),
        (NewNetwork { mtu: 9217, ..new("a") }, invalid("mtu"), "1280 to 9216"),
        (NewNetwork { subnet_v4: subnet("fd00::/64"), ..new("a") }, invalid("subnet_v4"), "other field"),
        (NewNetwork { subnet_v4: subnet("224.0.0.0/8"), ..new("a") }, invalid("subnet_v4"), "private"),
        (
            NewNetwork { gateways: vec!["0.0.0.0".parse().unwrap()], ..new("a") },
            invalid("gateways"),
            "not an address",
        ),
        (NewNetwork { nodes: Some(vec!["nobody".into()]), ..new("a") }, RefusalKind::NotFound, "nobody"),
        (NewNetwork { dhcp: Dhcp::Trusted(Mac([1; 6])), ..new("a") }, invalid("dhcp"), "unicast"),
    ];
    for (new, kind, words) in table {
        refused(&mut world, Command::CreateNetwork(new), kind, words);
    }
    let instance = world.allocate(nodes[0]);
    let delete = || Command::DeleteNetwork { network: "default".into() };
    refused(&mut world, delete(), RefusalKind::Conflict, &instance.to_string());
    let nodes = Some(Some(vec![nodes[1].to_string()]));
    let update = NetworkUpdate { nodes, ..NetworkUpdate::default() };
    let update = Command::UpdateNetwork { network: "100".into(), update };
    refused(&mut world, update, RefusalKind::Conflict, "move or delete it first");
    let gateways = Some(vec!["10.1.0.2".parse().unwrap()]);
    let update = NetworkUpdate { gateways, ..NetworkUpdate::default() };
    let update = Command::UpdateNetwork { network: "100".into(), update };
    refused(&mut world, update, RefusalKind::Conflict, "an instance's");
    world.command(Command::DeleteInstance { instance: instance.to_string() }).unwrap();
    world.run();
    world.command(delete()).unwrap();
    assert_eq!(world.command(Command::CreateNetwork(new("next"))), Ok(Outcome::Network(Vni(101))));
}

#[test]
fn types() {
    let (mut world, _) = World::with_nodes(0);
    let table = [
        (small(), RefusalKind::Conflict, "already"),
        (NewType { name: "type-1".into(), ..small() }, invalid("name"), "looks like an id"),
        (
            NewType { name: "a".into(), driver: "vmware".into(), ..small() },
            invalid("driver"),
            "container or qemu",
        ),
        (NewType { name: "a".into(), cores_milli: 0, ..small() }, invalid("cores"), "0.1"),
        (NewType { name: "a".into(), memory_bytes: 1024, ..small() }, invalid("memory"), "4 MiB"),
        (
            NewType { name: "a".into(), image: "../etc/passwd".into(), ..small() },
            invalid("image"),
            "image directory",
        ),
    ];
    for (new, kind, words) in table {
        refused(&mut world, Command::AddType(new), kind, words);
    }
    refused(&mut world, Command::DeleteType { reference: "big".into() }, RefusalKind::NotFound, "big");
    world.command(Command::DeleteType { reference: "small".into() }).unwrap();
    assert_eq!(world.command(Command::AddType(small())), Ok(Outcome::Type(TypeId(2))));
}

#[test]
fn nodes_and_their_tokens() {
    let (mut world, nodes) = World::with_nodes(1);
    let used = SecretHash({
        let mut hash = [9; 32];
        hash[0] = 1;
        hash
    });
    let secret_hash = world.secret();
    let new = || NewNode { provider: "manual".into(), secret_hash, ttl_ms: SECOND, ..NewNode::default() };
    let table = [
        (NewNode { ttl_ms: 0, ..new() }, invalid("ttl"), "30 days"),
        (NewNode { secret_hash: used, ..new() }, RefusalKind::Conflict, "another secret"),
        (NewNode { provider: String::new(), ..new() }, invalid("provider"), "not a name"),
        (NewNode { name: Some("host1".into()), ..new() }, RefusalKind::Conflict, "already"),
        (NewNode { name: Some("node-9".into()), ..new() }, invalid("name"), "looks like an id"),
        (NewNode { node_type: Some("big".into()), ..new() }, RefusalKind::NotFound, "big"),
    ];
    for (new, kind, words) in table {
        refused(&mut world, Command::AddComputeNode(new), kind, words);
    }
    let renew =
        |node: &str, secret_hash| Command::RenewToken { node: node.into(), secret_hash, ttl_ms: SECOND };
    refused(&mut world, renew("node-1", secret_hash), RefusalKind::Conflict, "enrolled already");
    assert!(matches!(
        world.command(Command::AddComputeNode(new())),
        Ok(Outcome::NodeAdded { node: NodeId(2), .. })
    ));

    let code = |world: &mut World, secret_hash, public_key| {
        let name_hint = "Host.Name".into();
        world.input(Input::Enrol { secret_hash, public_key, name_hint }).map_err(|r| r.code)
    };
    assert_eq!(code(&mut world, SecretHash([1; 32]), key(50)), Err("token-unknown"));
    assert_eq!(code(&mut world, used, key(50)), Err("token-used"));
    assert_eq!(code(&mut world, secret_hash, key(1)), Err("key-known"));
    world.now = world.now.plus(2 * SECOND);
    assert_eq!(code(&mut world, secret_hash, key(50)), Err("token-expired"));
    let renewed = world.secret();
    world.command(renew("node-2", renewed)).unwrap();
    assert_eq!(code(&mut world, secret_hash, key(50)), Err("token-used"));
    let operation =
        world.operation(Command::RemoveComputeNode { node: nodes[0].to_string(), force: false, now: false });
    assert_eq!(world.state(operation), OperationState::Succeeded);
    assert_eq!(code(&mut world, renewed, key(1)), Err("key-revoked"));
    let enrolled = Outcome::Enrolled { node: NodeId(2), name: "node-2".into(), cluster: "test".into() };
    assert_eq!(code(&mut world, renewed, key(2)), Ok(enrolled.clone()));
    assert_eq!(code(&mut world, renewed, key(2)), Ok(enrolled), "the answer may have been lost");
    assert_eq!(code(&mut world, renewed, key(3)), Err("token-used"));
    assert_eq!(world.registry.key_status(&key(1)), KeyStatus::Revoked(NodeId(1)));
}

#[test]
fn instances() {
    let (mut world, nodes) = World::with_nodes(2);
    let new = || NewInstance { instance_type: "small".into(), ..NewInstance::default() };
    let ip = |text: &str| vec![text.parse().unwrap()];
    let table = [
        (NewInstance { instance_type: "big".into(), ..new() }, RefusalKind::NotFound, "big"),
        (NewInstance { name: Some("inst-1".into()), ..new() }, invalid("name"), "looks like an id"),
        (NewInstance { networks: vec!["lan".into()], ..new() }, RefusalKind::NotFound, "lan"),
        (
            NewInstance { networks: vec!["default".into(), "100".into()], ..new() },
            invalid("networks"),
            "twice",
        ),
        (NewInstance { image: Some("/etc".into()), ..new() }, invalid("image"), "image directory"),
        (NewInstance { command: vec!["a\0".into()], ..new() }, invalid("command"), "zero byte"),
        (NewInstance { ips: ip("10.2.0.1"), ..new() }, invalid("ips"), "none of the networks"),
        (NewInstance { ips: ip("10.1.0.1"), ..new() }, invalid("ips"), "cannot be"),
        (NewInstance { ips: ip("10.1.0.255"), ..new() }, invalid("ips"), "cannot be"),
        (NewInstance { node: Some("nowhere".into()), ..new() }, RefusalKind::NotFound, "nowhere"),
    ];
    for (new, kind, words) in table {
        refused(&mut world, Command::Allocate(new), kind, words);
    }
    let a = world.allocate(nodes[0]);
    refused(
        &mut world,
        Command::Allocate(NewInstance { ips: ip("10.1.0.2"), ..new() }),
        RefusalKind::Conflict,
        "inst-1",
    );
    let huge = NewType { name: "huge".into(), memory_bytes: 9 * GIB, ..small() };
    world.command(Command::AddType(huge)).unwrap();
    let huge = || NewInstance { instance_type: "huge".into(), ..new() };
    refused(&mut world, Command::Allocate(huge()), RefusalKind::Exhausted, "add a node");
    let there = NewInstance { node: Some("host1".into()), ..huge() };
    refused(&mut world, Command::Allocate(there), RefusalKind::Exhausted, "7168 MiB");
    world.command(Command::AddType(NewType { name: "vm".into(), driver: "qemu".into(), ..small() })).unwrap();
    let vm = NewInstance { instance_type: "vm".into(), node: Some("host1".into()), ..new() };
    refused(&mut world, Command::Allocate(vm), RefusalKind::Conflict, "qemu");

    let migrate = |node: NodeId| Command::Migrate { instance: a.to_string(), node: node.to_string() };
    refused(&mut world, migrate(nodes[0]), RefusalKind::Conflict, "already");
    refused(&mut world, Command::StopInstance { instance: "b".into() }, RefusalKind::NotFound, "b");
    world.command(migrate(nodes[1])).unwrap();
    refused(&mut world, migrate(nodes[1]), RefusalKind::Conflict, "(migrate)");
    refused(
        &mut world,
        Command::StopInstance { instance: a.to_string() },
        RefusalKind::Conflict,
        "(migrate)",
    );
    refused(
        &mut world,
        Command::DeleteInstance { instance: a.to_string() },
        RefusalKind::Conflict,
        "(migrate)",
    );
    world.run();
    world.agent_down(nodes[0]);
    refused(&mut world, migrate(nodes[0]), RefusalKind::NotReady, "not connected");
    world.agent_up(nodes[0]);
    world.agent_down(nodes[1]);
    refused(&mut world, migrate(nodes[0]), RefusalKind::NotReady, "by force");
    let finished = *world.registry.operations().keys().next().unwrap();
    refused(
        &mut world,
        Command::CancelOperation { operation: finished },
        RefusalKind::Conflict,
        "ended already",
    );
    let unknown = Command::CancelOperation { operation: OperationId(999) };
    refused(&mut world, unknown, RefusalKind::NotFound, "op-999");
    let deletion = world.operation(Command::DeleteInstance { instance: a.to_string() });
    refused(
        &mut world,
        Command::CancelOperation { operation: deletion },
        RefusalKind::Conflict,
        "cannot be cancelled",
    );
}

#[test]
fn bindings_by_hand() {
    let (mut world, nodes) = World::with_nodes(1);
    let a = world.allocate(nodes[0]);
    let placed = world.binding(a).key.clone();
    let set = |key: &BindingKey, ips: &[&str], node: &str, expected: Option<u64>| Command::SetBinding {
        key: key.clone(),
        ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        node: node.into(),
        state: BindingState::Active,
        expected: expected.map(Generation),
    };
    let s = station(100, 1);
    let group = BindingKey { mac: Mac([1; 6]), ..s.clone() };
    let vlan = BindingKey { vlans: vec![4095], ..s.clone() };
    let table = [
        (set(&placed, &[], "host1", None), RefusalKind::Conflict, "follows its placement"),
        (set(&s, &[], "host9", None), RefusalKind::NotFound, "host9"),
        (set(&station(5, 1), &[], "host1", None), RefusalKind::NotFound, "5"),
        (set(&group, &[], "host1", None), invalid("mac"), "unicast"),
        (set(&vlan, &[], "host1", None), invalid("vlans"), "4094"),
        (set(&s, &["224.0.0.1"], "host1", None), invalid("ips"), "not a station's"),
        (set(&s, &["10.1.0.2"], "host1", None), RefusalKind::Conflict, "an instance's"),
        (set(&s, &[], "host1", Some(4)), RefusalKind::Stale, "generation 0, not 4"),
        (
            Command::RemoveBinding { key: placed, expected: None },
            RefusalKind::Conflict,
            "follows its placement",
        ),
        (Command::RemoveBinding { key: s.clone(), expected: None }, RefusalKind::NotFound, "100/52:54"),
    ];
    for (command, kind, words) in table {
        refused(&mut world, command, kind, words);
    }
    let Ok(Outcome::Binding(generation)) = world.command(set(&s, &["10.1.0.9"], "host1", Some(0))) else {
        panic!()
    };
    refused(&mut world, set(&s, &[], "host1", Some(0)), RefusalKind::Stale, "not 0");
    let remove = Command::RemoveBinding { key: s, expected: Some(generation) };
    assert_eq!(world.command(remove), Ok(Outcome::Done));
}

#[test]
fn tokens_of_the_api_and_repeated_calls() {
    let mut world = World::new();
    let new = |name: &str, byte| Command::CreateApiToken {
        name: name.into(),
        role: Role::Admin,
        secret_hash: SecretHash([byte; 32]),
        ttl_ms: Some(SECOND),
    };
    assert_eq!(world.command(new("ci", 1)), Ok(Outcome::ApiToken(ApiTokenId(1))));
    refused(&mut world, new("ci", 2), RefusalKind::Conflict, "another name");
    refused(&mut world, new("cd", 1), RefusalKind::Conflict, "another secret");
    let found =
        |w: &World| w.registry.api_token_by_secret(&SecretHash([1; 32]), w.now).map(|t| t.name.clone());
    assert_eq!(found(&world).as_deref(), Some("ci"));
    world.now = world.now.plus(SECOND);
    assert_eq!(found(&world), None);
    world.wait(61 * SECOND);
    assert!(world.registry.api_tokens().is_empty(), "expired ones go");

    let call = |hash, name: &str| {
        let claim =
            IdempotencyClaim { key: "k".into(), request_hash: SecretHash([hash; 32]), ttl_ms: SECOND };
        let command = Command::AddType(NewType { name: name.into(), ..small() });
        Input::Command(Request { principal: "ci".into(), idempotency: Some(claim), command })
    };
    assert_eq!(world.input(call(1, "a")), Ok(Outcome::Type(TypeId(1))));
    let Ok(Outcome::Replayed(stored)) = world.input(call(1, "a")) else { panic!("done twice") };
    assert_eq!(stored.outcome, Some(Outcome::Type(TypeId(1))));
    assert_eq!(world.input(call(2, "b")).unwrap_err().kind, RefusalKind::Conflict);
    world.crash();
    assert!(matches!(world.input(call(1, "a")), Ok(Outcome::Replayed(_))));
    world.now = world.now.plus(2 * SECOND);
    assert_eq!(world.input(call(2, "b")), Ok(Outcome::Type(TypeId(2))));
}

#[test]
fn a_store_that_does_not_fit_together_is_refused() {
    let (mut world, nodes) = World::with_nodes(1);
    world.allocate(nodes[0]);
    let without = |key: &str| {
        let records = world.store.iter().filter(|(k, _)| *k != key).map(|(_, r)| r.clone());
        Registry::restore(records).map(|_| ())
    };
    assert_eq!(without("nothing"), Ok(()));
    assert_eq!(without("cluster"), Err(RestoreError::NoCluster));
    assert!(matches!(without("counters"), Err(RestoreError::Counter(_))));
    assert!(matches!(without("node/node-1"), Err(RestoreError::Dangling { .. })));
    assert!(matches!(without("network/100"), Err(RestoreError::Dangling { .. })));
    let twice = world.store.values().chain(world.store.get("node/node-1")).cloned();
    assert_eq!(Registry::restore(twice).map(|_| ()), Err(RestoreError::Twice("node/node-1".into())));
}
