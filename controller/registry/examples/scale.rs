//! A registry of many nodes and bindings: what it takes in memory, and how long a change and a restart take.
//!
//! `cargo run --release -p controller-registry --example scale [nodes] [bindings]`

use std::time::{Duration, Instant};

use controller_registry::*;

fn main() {
    let mut arguments = std::env::args().skip(1).filter_map(|a| a.parse::<u64>().ok());
    let (nodes, bindings) = (arguments.next().unwrap_or(1000), arguments.next().unwrap_or(100_000));
    let before = resident();
    let (mut registry, took) = timed(|| build(nodes, bindings));
    let _ = registry.take_changes();
    println!(
        "{nodes} nodes, {bindings} bindings: built in {took:?}, {} MiB resident",
        (resident() - before) >> 20
    );

    let mut samples: Vec<(Duration, Duration)> =
        (0..1000).map(|n| change(&mut registry, n, nodes, bindings)).collect();
    samples.sort_unstable();
    let (handle, deltas) = samples[samples.len() * 99 / 100];
    println!(
        "one changed binding: p99 {handle:?} to handle and take, and {deltas:?} for the deltas of all nodes"
    );

    let (snapshot, took) = timed(|| registry.snapshot_for(NodeId(1)));
    println!(
        "a snapshot of {} bindings and {} peers: {took:?}",
        snapshot.bindings.len(),
        snapshot.peers.len()
    );

    let (text, took) =
        timed(|| registry.records().map(|r| serde_json::to_vec(&r)).collect::<Result<Vec<_>, _>>());
    let text = text.unwrap_or_default();
    let bytes: usize = text.iter().map(Vec::len).sum();
    println!("{} records are {} MiB of JSON, written in {took:?}", text.len(), bytes >> 20);
    let (restored, took) =
        timed(|| Registry::restore(text.iter().filter_map(|bytes| serde_json::from_slice(bytes).ok())));
    println!("restored in {took:?}: {}", restored.is_ok_and(|r| r.records().count() == text.len()));
}

fn build(nodes: u64, bindings: u64) -> Registry {
    let mut registry = Registry::default();
    command(&mut registry, Command::InitCluster { name: "scale".into(), epoch: 1 });
    command(
        &mut registry,
        Command::CreateNetwork(NewNetwork { name: "default".into(), ..NewNetwork::default() }),
    );
    for n in 1..=nodes {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&n.to_be_bytes());
        let secret_hash = SecretHash(hash);
        let new = NewNode { provider: "manual".into(), secret_hash, ttl_ms: 1000, ..NewNode::default() };
        command(&mut registry, Command::AddComputeNode(new));
        let public_key = PublicKey(hash);
        input(&mut registry, Input::Enrol { secret_hash, public_key, name_hint: String::new() });
        let addresses = vec![([192, 0, 2, 1], 4500).into()];
        let (version, machine) = (String::new(), String::new());
        let registered =
            SwitchInput::Registered { session: n, boot: n, version, machine, addresses, old_alive: false };
        input(&mut registry, Input::Switch(NodeId(n), registered));
        let claims =
            (n..=bindings).step_by(usize::try_from(nodes).unwrap_or(1)).map(|k| claim(k, 0)).collect();
        let claims = SwitchInput::Bindings { session: n, full: true, claims, withdrawals: Vec::new() };
        input(&mut registry, Input::Switch(NodeId(n), claims));
        let _ = registry.take_changes();
    }
    assert_eq!(registry.bindings().len() as u64, bindings);
    registry
}

/// A station moves to the next node: the time to decide, and the time to find what each node is to be told.
fn change(registry: &mut Registry, n: u64, nodes: u64, bindings: u64) -> (Duration, Duration) {
    let k = n * 7919 % bindings + 1;
    let BindingClaim { key, .. } = claim(k, 0);
    let generation = registry.bindings().get(&key).map_or(0, |b| b.generation.0);
    let to = NodeId(k % nodes + 1);
    let revision = registry.revision();
    let claims = vec![claim(k, generation)];
    let claims = SwitchInput::Bindings { session: to.0, full: false, claims, withdrawals: Vec::new() };
    let ((), handled) = timed(|| {
        input(registry, Input::Switch(to, claims));
        let _ = registry.take_changes();
    });
    let (told, deltas) = timed(|| {
        let deltas = (1..=nodes).filter_map(|n| registry.changes_since(NodeId(n), revision));
        deltas.filter(|d| d.bindings.len() == 1).count()
    });
    assert_eq!(told as u64, nodes);
    (handled, deltas)
}

fn claim(k: u64, seen: u64) -> BindingClaim {
    let [_, _, a, b, c, d, e, f] = k.to_be_bytes();
    let key = BindingKey { vni: Vni(100), vlans: Vec::new(), mac: Mac([2 | a, b, c, d, e, f]) };
    let ips = vec![std::net::IpAddr::from([10, d, e, f])];
    BindingClaim { key, ips, seen_generation: Generation(seen) }
}

fn command(registry: &mut Registry, command: Command) {
    input(registry, Input::Command(command.into()));
}

fn input(registry: &mut Registry, input: Input) {
    match registry.handle(input, Timestamp(1)) {
        Ok(Outcome::Claims(refusals)) => assert!(refusals.is_empty(), "{refusals:?}"),
        Ok(_) => {}
        Err(refusal) => eprintln!("refused: {refusal}"),
    }
}

#[expect(clippy::disallowed_methods, reason = "the example measures; the registry does not")]
fn timed<T>(f: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let value = f();
    (value, start.elapsed())
}

/// Bytes of memory that the process has, by proc(5).
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or_default();
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap_or(0);
    kib << 10
}
