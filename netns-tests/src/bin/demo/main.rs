//! `make demo`: a controller, three nodes that join it by token, instances on them, a move, a drain; each step shown.

mod steps;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Parser;
use netns_tests::cluster::Cluster;
use netns_tests::{Lab, Namespace, cmd, measure, require_root, wait_for, wait_ok};
use serde_json::Value;
use steps::Steps;

/// A controller and three nodes in network namespaces: enrol, allocate, ping, migrate, drain. KEEP=1 leaves it up.
#[derive(Parser)]
struct Options {
    /// Remove a demo that KEEP=1 left up, and do nothing else
    #[arg(long)]
    clean: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let result = require_root().and_then(|()| if options.clean { clean() } else { demo() });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn clean() -> Result<()> {
    Lab::remove(PREFIX)?;
    println!("the demo is gone");
    Ok(())
}

fn demo() -> Result<()> {
    let started = Instant::now();
    let mut steps = Steps::default();
    let outcome = show(&mut steps);
    steps.write()?;
    let failed = steps.failed();
    println!("\n{:.0} s, steps in {}", started.elapsed().as_secs_f64(), Steps::path().display());
    outcome?;
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

fn show(steps: &mut Steps) -> Result<()> {
    let keep = std::env::var_os("KEEP").is_some_and(|value| value == "1");
    let cluster = steps.must("controller", || {
        let cluster = Cluster::build_as("demo", 3, PREFIX)?;
        Ok((cluster, "`controller init`, `controller run`; its REST API answers".to_owned()))
    })?;
    let shown = show_cluster(steps, &cluster);
    if keep {
        cluster.keep();
        print_entrances(&cluster)?;
        return shown;
    }
    steps.must("clean-up", || {
        drop(cluster);
        let left = cmd::run(&["ip", "netns", "list"])?;
        ensure!(!left.contains(PREFIX), "namespaces are left:\n{left}");
        Ok(((), "nothing is left".to_owned()))
    })?;
    shown
}

fn show_cluster(steps: &mut Steps, cluster: &Cluster) -> Result<()> {
    steps.must("enrol", || {
        for member in cluster.members() {
            member.join(cluster)?;
        }
        let table = cluster.skippy_text(&["node", "list"])?;
        Ok((
            (),
            format!("three times `skippy add-compute-node`, then `switchd join TOKEN` on the node\n{table}"),
        ))
    })?;
    steps.must("network and types", || {
        cluster.skippy(&[
            "network",
            "add",
            "blue",
            "--subnet-v4",
            "10.0.0.0/24",
            "--subnet-v6",
            "fd00::/64",
        ])?;
        cluster.skippy(&["add-type", "small", "--cores", "0.5", "--memory", "64MiB"])?;
        cluster.skippy(&["add-type", "large", "--cores", "2", "--memory", "256MiB"])?;
        Ok(((), cluster.skippy_text(&["type", "list"])?))
    })?;
    steps.must("allocate", || {
        for (name, node, kind) in INSTANCES {
            cluster.skippy(&["allocate", kind, "--node", node, "--name", name, "--", "sleep", "infinity"])?;
        }
        Ok(((), format!("five times `skippy allocate`\n{}", cluster.skippy_text(&["instance", "list"])?)))
    })?;
    let a1 = cluster.instance_ns("a1")?;
    steps.must("ping", || {
        let others = INSTANCES.iter().map(|(name, ..)| *name).filter(|name| *name != "a1");
        let lines = others.map(|name| ping_both(cluster, &a1, name)).collect::<Result<Vec<_>>>()?;
        Ok(((), format!("a1 reaches every instance\n{}", lines.join("\n"))))
    })?;
    steps.try_step("TCP", || throughput(cluster, &a1));
    steps.try_step("neighbours", || {
        let remote = v4(cluster, "c1")?;
        let table = a1.ip("neigh show")?;
        ensure!(table.contains(&remote), "c1 is not in a1's neighbour table:\n{table}");
        Ok(format!("of a1: every remote address has the endpoint's one MAC\n{}", table.trim_end()))
    });
    for (name, args) in [("links", ["link", "list"]), ("bindings", ["binding", "list"])] {
        steps.try_step(name, || {
            Ok(format!("`skippy {}`\n{}", args.join(" "), cluster.skippy_text(&args)?.trim_end()))
        });
    }
    steps.try_step("migrate", || migrate(cluster, &a1));
    steps.try_step("drain and remove", || remove(cluster, &a1));
    Ok(())
}

fn ping_both(cluster: &Cluster, from: &Namespace, to: &str) -> Result<String> {
    let instance = cluster.skippy(&["instance", "show", to])?;
    let mut medians = Vec::new();
    for ip in ips(&instance)? {
        let ping = measure::ping_each(from, ip.parse()?, 5, &[])?;
        ensure!(
            ping.received == ping.sent,
            "{} of {} pings to {to} ({ip}) came back",
            ping.received,
            ping.sent
        );
        medians.push(format!("{ip} {:.2} ms", ping.median().unwrap_or_default().as_secs_f64() * 1e3));
    }
    Ok(format!("  {to} on {}: {}", cluster.node_of(&instance)?, medians.join(", ")))
}

fn throughput(cluster: &Cluster, from: &Namespace) -> Result<String> {
    let to = cluster.instance_ns("b1")?;
    let rate = measure::iperf(from, &to, v4(cluster, "b1")?.parse()?, 3)? / 1e9;
    Ok(format!("a1 to b1 over the encrypted link, one flow: {rate:.2} Gb/s"))
}

/// a1 pings a2 all the while; what it misses is the move's gap.
fn migrate(cluster: &Cluster, a1: &Namespace) -> Result<String> {
    let before = cluster.skippy(&["instance", "show", "a2"])?;
    let began = Instant::now();
    let operation = cluster.skippy(&["migrate", "a2", "node-c"])?;
    let took = began.elapsed();
    let after = cluster.skippy(&["instance", "show", "a2"])?;
    let place = cluster.node_of(&after)?;
    ensure!(place == "node-c", "a2 is on {place}: {operation}");
    ensure!(
        before["nics"] == after["nics"],
        "a2's addresses changed from {} to {}",
        before["nics"],
        after["nics"]
    );
    let ip = v4(cluster, "a2")?;
    wait_ok("a1 to reach a2 at its new place", REACHED_WITHIN, || measure::ping_ok(a1, ip.parse()?))?;
    Ok(format!(
        "a2 went from node-a to node-c in {:.1} s (stop, move, start) with its MAC and IPs, and a1 reaches it",
        took.as_secs_f64()
    ))
}

fn remove(cluster: &Cluster, a1: &Namespace) -> Result<String> {
    let began = Instant::now();
    cluster.skippy(&["remove-compute-node", "node-b"])?;
    let drained = began.elapsed();
    let node = cluster.member("node-a")?.node(cluster)?;
    let dropped = wait_for("node-a to drop its link with node-b", DROPPED_WITHIN, || {
        node.ctl(&["links"]).is_ok_and(|links| netns_tests::ctl::link(&links, "node-b").is_none())
    })?;
    let ip = v4(cluster, "b1")?;
    wait_ok("a1 to reach b1 at its new place", REACHED_WITHIN, || measure::ping_ok(a1, ip.parse()?))?;
    let b1 = cluster.node_of(&cluster.skippy(&["instance", "show", "b1"])?)?;
    Ok(format!(
        "`skippy remove-compute-node node-b` moved b1 to {b1} in {:.1} s; {:.0} ms later no link to node-b was left\n{}",
        drained.as_secs_f64(),
        dropped.as_secs_f64() * 1e3,
        cluster.skippy_text(&["node", "list"])?
    ))
}

fn v4(cluster: &Cluster, instance: &str) -> Result<String> {
    let instance = cluster.skippy(&["instance", "show", instance])?;
    ips(&instance)?
        .into_iter()
        .find(|ip| ip.contains('.'))
        .ok_or_else(|| anyhow!("no IPv4 address in {instance}"))
}

fn ips(instance: &Value) -> Result<Vec<String>> {
    let nics = instance["nics"].as_array().with_context(|| format!("no nics in {instance}"))?;
    let ips = nics.iter().flat_map(|nic| nic["ips"].as_array().into_iter().flatten());
    Ok(ips.filter_map(|ip| ip.as_str().map(str::to_owned)).collect())
}

fn print_entrances(cluster: &Cluster) -> Result<()> {
    let node = cluster.member("node-a")?.node(cluster)?;
    println!("\nThe demo is left up. Enter it:");
    println!("  ip netns exec {} bash             # a node", node.ns().name());
    println!(
        "  ip netns exec {} env SKIPPY_URL={} SKIPPY_TOKEN={} SKIPPY_FINGERPRINT={} {} status",
        cluster.controller()?.ns().name(),
        cluster.url()?,
        cluster.token(),
        cluster.fingerprint(),
        netns_tests::bin("skippy")?.display()
    );
    println!("  {} --socket {} links", netns_tests::switchctl_bin()?.display(), node.socket_path().display());
    println!("  tail -f {}", node.log_path().display());
    println!("Remove it: make demo-clean");
    Ok(())
}

/// Name, node and type.
const INSTANCES: [(&str, &str, &str); 5] = [
    ("a1", "node-a", "large"),
    ("a2", "node-a", "small"),
    ("b1", "node-b", "large"),
    ("c1", "node-c", "small"),
    ("c2", "node-c", "small"),
];
/// Not of a process: the sweep of other labs leaves it alone.
const PREFIX: &str = "swdemo-";
const REACHED_WITHIN: Duration = Duration::from_secs(3);
const DROPPED_WITHIN: Duration = Duration::from_secs(2);
