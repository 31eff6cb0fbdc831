//! A network of the nodes themselves: every node reaches every other by an address of its own, whatever else goes, and
//! instances do not.

use std::io::Write;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use netns_tests::cluster::{Cluster, Member, cluster_test, text};
use netns_tests::{Namespace, measure, wait_ok};

const NODES: [&str; 3] = ["node-a", "node-b", "node-c"];

#[test]
fn nodes_reach_each_other_by_addresses_of_their_own() -> Result<()> {
    cluster_test("mgmt", 3, |cluster| {
        with_mgmt(cluster)?;
        cluster.join_all()?;
        let addresses = addresses(cluster)?;
        let mut all: Vec<IpAddr> = addresses.iter().flatten().copied().collect();
        all.sort();
        all.dedup();
        ensure!(all.len() == 6, "an address of each family for each node: {addresses:?}");
        let took = each_pair(cluster, &addresses)?;
        println!("every node reaches every other by IPv4 and IPv6 after {took:?}");
        stream(cluster, &addresses).context("TCP by the nodes' own addresses")?;

        let began = Instant::now();
        member(cluster, 1)?.node(cluster)?.restart()?;
        each_pair(cluster, &addresses).context("after a switchd was killed and started")?;
        println!("switchd killed and started: all reach all after {:?}", began.elapsed());

        cluster.kill_controller();
        each_pair(cluster, &addresses).context("without a controller")?;
        let began = Instant::now();
        member(cluster, 0)?.node(cluster)?.restart()?;
        each_pair(cluster, &addresses).context("a switchd started without a controller")?;
        println!("the same without a controller: after {:?}", began.elapsed());
        // A machine that comes up again has no bridge.
        let node = member(cluster, 2)?.node(cluster)?;
        node.kill9();
        node.ns().ip("link del br-mgmt")?;
        node.restart()?;
        each_pair(cluster, &addresses).context("a machine started without a controller")?;
        cluster.start_controller()?;
        for member in cluster.members() {
            member.wait_online(cluster)?;
        }
        ensure!(self::addresses(cluster)? == addresses, "addresses changed with the controller's restart");

        let done = cluster.skippy_finish(&["network", "remove", "mgmt"])?;
        ensure!(done.stderr.contains("mgmt.enabled"), "removed, though it is kept: {}", done.stderr);
        for (i, node) in NODES.iter().enumerate() {
            // Where the host's own network is told to others, its own network's addresses are not.
            let shown = cluster.skippy(&["node", "show", node])?["addresses"].to_string();
            ensure!(!addresses[i].iter().any(|ip| shown.contains(&ip.to_string())), "{node}: {shown}");
        }
        Ok(())
    })
}

#[test]
fn a_removed_node_is_nowhere_any_more() -> Result<()> {
    cluster_test("mgmt_removed", 3, |cluster| {
        with_mgmt(cluster)?;
        cluster.join_all()?;
        let addresses = addresses(cluster)?;
        each_pair(cluster, &addresses)?;
        let gone = addresses[2][0].to_string();
        let known = |name: &str| -> Result<bool> {
            let bindings = cluster.member(name)?.node(cluster)?.ctl(&["bindings"])?;
            Ok(bindings.to_string().contains(&format!("\"{gone}\"")))
        };
        ensure!(known("node-a")? && known("node-b")?, "{gone} is not known before");

        cluster.skippy(&["remove-compute-node", "node-c", "--now"])?;
        wait_ok("its binding to go", SOON, || {
            let bindings = cluster.list(&["binding", "list", "--network", "mgmt"])?;
            ensure!(bindings.len() == 2, "{} bindings: {bindings:?}", bindings.len());
            ensure!(!known("node-a")? && !known("node-b")?, "{gone} is still known");
            Ok(())
        })?;
        let removed = member(cluster, 2)?.node(cluster)?.ns();
        wait_ok("its address to go", SOON, || {
            let left = removed.ip("-o addr show")?;
            ensure!(!left.contains(&gone), "it has its address still: {left}");
            Ok(())
        })?;
        let (a, b) = (member(cluster, 0)?.node(cluster)?, member(cluster, 1)?.node(cluster)?);
        unreached(a.ns(), addresses[2][0])?;
        measure::ping_ok(a.ns(), addresses[1][0])?;
        measure::ping_ok(b.ns(), addresses[0][1])
    })
}

#[test]
fn instances_do_not_get_in() -> Result<()> {
    cluster_test("mgmt_instances", 2, |cluster| {
        with_mgmt(cluster)?;
        cluster.ready()?;
        let refused = cluster.skippy_finish(&["allocate", "small", "--network", "mgmt", "--", "true"])?;
        let told = refused.stderr.contains("for the nodes themselves");
        ensure!(!refused.status.success() && told, "an instance in the nodes' network: {}", refused.stderr);
        let set = ["binding", "set", "mgmt", "02:00:00:00:00:07", "--node", "node-a", "--ip", "100.80.0.77"];
        let refused = cluster.skippy_finish(&set)?;
        ensure!(!refused.status.success(), "a binding by hand: {}", refused.stdout);

        cluster.allocate("in", "node-a")?;
        let instance = cluster.instance_ns("in")?;
        // Whatever it takes for its neighbours.
        instance.ip("route add 100.80.0.0/16 dev eth0")?;
        instance.ip("route add fd73:6b69:7070::/64 dev eth0")?;
        for member in cluster.members() {
            for ip in own(cluster, member)? {
                unreached(&instance, ip)?;
                let neighbours = instance.ip(&format!("neigh show to {ip}"))?;
                ensure!(!neighbours.contains("lladdr"), "{ip} was answered for: {neighbours}");
            }
        }
        Ok(())
    })
}

/// The controller makes the network; nobody has joined yet.
fn with_mgmt(cluster: &Cluster) -> Result<()> {
    cluster.stop_controller()?;
    let path = cluster.controller()?.config_path();
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).context("opening controller.toml")?;
    file.write_all(b"\n[mgmt]\nenabled = true\n")?;
    cluster.start_controller()
}

fn member(cluster: &Cluster, i: usize) -> Result<&Member> {
    cluster.member(NODES[i])
}

/// What a node is given, IPv4 first.
fn own(cluster: &Cluster, member: &Member) -> Result<Vec<IpAddr>> {
    let node = cluster.skippy(&["node", "show", member.name()])?;
    let ips = node["host_addresses"].as_array().with_context(|| format!("no addresses in {node}"))?;
    ips.iter().map(|ip| Ok(ip.as_str().context("an address is text")?.parse()?)).collect()
}

fn addresses(cluster: &Cluster) -> Result<Vec<Vec<IpAddr>>> {
    cluster.members().map(|member| own(cluster, member)).collect()
}

/// Every node pings every other by each of its addresses, and itself.
fn each_pair(cluster: &Cluster, addresses: &[Vec<IpAddr>]) -> Result<Duration> {
    let began = Instant::now();
    for (i, name) in NODES.iter().enumerate() {
        let ns = cluster.member(name)?.node(cluster)?.ns();
        for (j, other) in addresses.iter().enumerate() {
            for ip in other {
                wait_ok(&format!("{name} to reach {}", NODES[j]), SOON, || reach(ns, *ip))
                    .with_context(|| format!("from {name}, node {i}, to {ip}"))?;
            }
        }
    }
    Ok(began.elapsed())
}

fn reach(ns: &Namespace, to: IpAddr) -> Result<()> {
    let done = ns.finish(&["ping", "-n", "-c", "1", "-W", "0.3", &to.to_string()], SOON)?;
    ensure!(done.status.success(), "no answer from {to}: {}", done.stdout);
    Ok(())
}

fn unreached(ns: &Namespace, to: IpAddr) -> Result<()> {
    let done = ns.finish(&["ping", "-n", "-c", "3", "-i", "0.2", "-W", "1", &to.to_string()], SOON)?;
    if done.status.success() { Err(anyhow!("{to} answers: {}", done.stdout)) } else { Ok(()) }
}

/// What the agents' streams do: TCP between two of the hosts, through their bridges.
fn stream(cluster: &Cluster, addresses: &[Vec<IpAddr>]) -> Result<()> {
    let (client, server) = (member(cluster, 0)?.node(cluster)?, member(cluster, 1)?.node(cluster)?);
    for ip in &addresses[1] {
        let rate = measure::iperf(client.ns(), server.ns(), *ip, 1)?;
        println!("one TCP stream from node-a to {ip}: {:.2} Gbit/s", rate / 1e9);
        ensure!(rate > 1e6, "{rate} bit/s to {ip}");
    }
    let link = server.ns().ip("-o link show br-mgmt")?;
    let node = cluster.skippy(&["binding", "list", "--network", "mgmt"])?;
    let macs: Vec<String> =
        node["items"].as_array().into_iter().flatten().map(|b| text(b, "mac")).collect::<Result<_>>()?;
    ensure!(macs.iter().any(|mac| link.contains(mac)), "none of {macs:?} is the bridge's: {link}");
    Ok(())
}

const SOON: Duration = Duration::from_secs(15);
