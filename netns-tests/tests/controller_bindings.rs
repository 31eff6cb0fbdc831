//! What crosses the overlay once the controller knows who lives where, and how it comes to know.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use netns_tests::cluster::{Cluster, cluster_test};
use netns_tests::frames::{Mac, Seen};
use netns_tests::measure::{self, Watch};
use netns_tests::packet::{Frame, Sniffer};
use netns_tests::{Namespace, ctl, expect, wait_for, wait_ok};

const SOON: Duration = Duration::from_secs(5);
const TAP: &str = "sw100";
const H1: &str = "02:00:00:00:00:71";
const H2: &str = "02:00:00:00:00:72";

/// The rule of the paper, for the controller's bindings and for learned ones: neighbours are resolved where the
/// question is asked.
#[test]
fn no_arp_and_no_nd_crosses() -> Result<()> {
    cluster_test("bindings_silent", 3, |cluster| {
        cluster.ready()?;
        cluster.allocate("a1", "node-a")?;
        cluster.allocate("b1", "node-b")?;
        let h1 = cluster.plug("node-c", "h1", H1, &["10.0.0.201/24", "fd00::201/64"])?;
        let h2 = cluster.plug("node-b", "h2", H2, &["10.0.0.202/24", "fd00::202/64"])?;
        let (a1, b1) = (cluster.instance_ns("a1")?, cluster.instance_ns("b1")?);
        // Its first words make a station known, and the answers to them, of each address.
        for (ns, node, mac, other) in [(&h1, "node-c", H1, "b1"), (&h2, "node-b", H2, "a1")] {
            for ip in cluster.ips(other)? {
                answers(ns, ip)?;
            }
            learned(cluster, mac, node)?;
        }
        let ips = |text: [&str; 2]| text.map(|ip| ip.parse::<IpAddr>().map_err(anyhow::Error::from));
        let (taps, before) = (taps(cluster)?, settled(cluster)?);
        let mut pairs: Vec<(&Namespace, IpAddr)> = Vec::new();
        for (ns, instance) in [(&a1, "b1"), (&b1, "a1"), (&h1, "a1"), (&h1, "b1"), (&h2, "a1")] {
            pairs.extend(cluster.ips(instance)?.into_iter().map(|ip| (ns, ip)));
        }
        for (ns, station) in [
            (&a1, ["10.0.0.201", "fd00::201"]),
            (&b1, ["10.0.0.201", "fd00::201"]),
            (&a1, ["10.0.0.202", "fd00::202"]),
        ] {
            for ip in ips(station) {
                pairs.push((ns, ip?));
            }
        }
        for (ns, ip) in &pairs {
            for station in [&a1, &b1, &h1, &h2] {
                station.ip("neigh flush dev eth0")?;
            }
            measure::ping_ok(ns, *ip)?;
        }
        println!("bindings_silent: {} first pings, after a flush of all neighbours each", pairs.len());
        // The endpoint itself answers on the bridge, and asks there; a question is what may have come from a peer.
        for (node, tap) in &taps {
            let asked = tap.frames(|seen, frame| !frame.sent && seen.asks());
            expect(asked.is_empty(), || {
                let seen: Vec<Seen> = asked.iter().map(Frame::seen).collect();
                format!("{} questions came to {node}'s bridge: {seen:?}", asked.len())
            })?;
        }
        let after = crossed(cluster)?;
        expect(after == before, || {
            format!("ARP and ND that came from peers, by node: {before:?}, then {after:?}")
        })?;
        println!("bindings_silent: ARP and ND frames that came from peers meanwhile: 0");
        for protocol in ["arp", "nd"] {
            let stats = cluster.member("node-a")?.node(cluster)?.stats()?;
            let answered = ctl::outcome(&stats, protocol, "answered");
            expect(answered >= 3, || {
                format!("{answered} {protocol} requests were answered on node-a: {stats}")
            })?;
        }
        Ok(())
    })
}

/// ARP and ND frames that came from peers, by node and protocol, of every kind that the switch tells apart.
fn crossed(cluster: &Cluster) -> Result<Vec<(String, u64)>> {
    let mut counts = Vec::new();
    for member in cluster.members() {
        let stats = member.node(cluster)?.stats()?;
        for protocol in ["arp", "nd"] {
            let networks = ctl::rows(&stats, "networks").iter();
            let cases = networks.flat_map(|network| ctl::rows(&network[protocol], ""));
            let remote =
                cases.filter(|case| case["case"].as_str().is_some_and(|case| case.starts_with("remote_")));
            let count = remote
                .filter(|case| case["outcome"] == "seen")
                .filter_map(|case| case["count"].as_u64())
                .sum();
            counts.push((format!("{} {protocol}", member.name()), count));
        }
    }
    Ok(counts)
}

/// The same once what the stations announced when they were learned is counted: counters are a moment late.
fn settled(cluster: &Cluster) -> Result<Vec<(String, u64)>> {
    let mut last = (Vec::new(), Instant::now());
    wait_for("the announcements to end", SOON, || {
        let now = crossed(cluster).unwrap_or_default();
        if now != last.0 {
            last = (now, Instant::now());
        }
        !last.0.is_empty() && last.1.elapsed() > Duration::from_secs(1)
    })?;
    Ok(last.0)
}

fn taps(cluster: &Cluster) -> Result<Vec<(String, Sniffer)>> {
    let tap = |name: &str| -> Result<_> {
        Ok((name.to_owned(), Sniffer::start(cluster.lab().node(name)?.ns(), TAP)?))
    };
    cluster.members().map(|member| tap(member.name())).collect()
}

/// A station that was plugged in a moment ago may lose its first frames to its own bridge port.
fn answers(ns: &Namespace, ip: IpAddr) -> Result<()> {
    wait_ok(&format!("{ip} to answer"), SOON, || measure::ping_ok(ns, ip))
}

/// Waits until a station is bound by learning to this node, with an address of each family, and every node knows.
fn learned(cluster: &Cluster, mac: &str, node: &str) -> Result<u64> {
    let binding = wait_ok(&format!("{mac} to be learned on {node}"), SOON, || {
        let binding = cluster.binding(mac)?.context("no binding")?;
        let here = binding["source"] == "learned" && binding["compute_node_name"] == node;
        let ips = binding["ips"].as_array().map_or(0, Vec::len);
        expect(here && ips >= 2, || binding.to_string())?;
        Ok(binding)
    })?;
    for member in cluster.members().filter(|member| member.name() != node) {
        let peer = member.node(cluster)?;
        wait_ok(&format!("{} to know {mac}", peer.name()), SOON, || {
            let bindings = peer.ctl(&["bindings"])?.to_string();
            expect(bindings.contains(mac), || bindings.clone())
        })?;
    }
    binding["generation"].as_u64().with_context(|| format!("no generation in {binding}"))
}

/// A station that no agent knows is learned, listed, and followed when it moves.
#[test]
fn a_station_plugged_by_hand() -> Result<()> {
    cluster_test("bindings_by_hand", 2, |cluster| {
        cluster.ready()?;
        cluster.allocate("a1", "node-a")?;
        let a1 = cluster.instance_ns("a1")?;
        let ips = ["10.0.0.201/24", "fd00::201/64"];
        let station = cluster.plug("node-b", "h1", H1, &ips)?;
        for ip in cluster.ips("a1")? {
            answers(&station, ip)?;
        }
        let first = learned(cluster, H1, "node-b")?;
        let table = cluster.skippy_text(&["binding", "list", "--source", "learned"])?;
        expect(table.contains(H1) && table.contains("10.0.0.201") && table.contains("node-b"), || {
            table.clone()
        })?;

        let ip: IpAddr = "10.0.0.201".parse()?;
        measure::ping_ok(&a1, ip)?;
        cluster.lab().node("node-b")?.ns().ip("link del v-h1")?;
        cluster.plug_again(&station, "node-a", "h1", H1, &ips)?;
        for ip in cluster.ips("a1")? {
            answers(&station, ip)?;
        }
        let moved = learned(cluster, H1, "node-a")?;
        expect(moved > first, || format!("generation {moved} after {first}"))?;
        wait_ok("a1 to reach the station beside it", SOON, || measure::ping_ok(&a1, ip))?;

        cluster.lab().node("node-a")?.ns().ip("link del v-h1")?;
        cluster.plug_again(&station, "node-b", "h1", H1, &ips)?;
        for ip in cluster.ips("a1")? {
            answers(&station, ip)?;
        }
        let back = learned(cluster, H1, "node-b")?;
        expect(back > moved, || format!("generation {back} after {moved}"))?;
        wait_ok("a1 to reach the station at its first place", SOON, || measure::ping_ok(&a1, ip))?;

        // A network that is gone takes its learned bindings along.
        cluster.skippy(&["instance", "delete", "a1"])?;
        cluster.skippy_text(&["network", "remove", "blue"])?;
        wait_for("the binding to be withdrawn", SOON, || matches!(cluster.binding(H1), Ok(None))).map(drop)
    })
}

/// While an instance moves, its traffic goes to the place where it runs: nothing comes to the other one before.
#[test]
fn a_prepared_binding_attracts_nothing() -> Result<()> {
    cluster_test("bindings_prepared", 3, |cluster| {
        cluster.ready()?;
        cluster.allocate("a1", "node-a")?;
        cluster.allocate("b1", "node-b")?;
        let (a1, ip) = (cluster.instance_ns("a1")?, cluster.v4("b1")?);
        let mac: Mac = cluster.mac("b1")?.parse()?;
        let watch = Watch::start(&a1, ip, cluster.lab().dir().join("ping.txt"))?;
        let tap = Sniffer::start(cluster.lab().node("node-c")?.ns(), TAP)?;
        cluster.skippy(&["migrate", "b1", "node-c"])?;
        watch.more(20)?;
        let frames = tap.frames(|seen, frame| {
            let to_it = !frame.sent && (seen.dst == mac || is_ping(seen)) && seen.dst.0[0] & 1 == 0;
            to_it || (frame.sent && seen.src == mac)
        });
        let first = frames.first().context("nothing of b1 at node-c")?;
        println!(
            "bindings_prepared: the move's gap was {} ms; {} frames to and from b1 at node-c, b1's own first",
            watch.longest_gap()?.as_millis(),
            frames.len()
        );
        expect(first.sent, || format!("traffic came before b1 did: {:?}", first.seen()))
    })
}

/// IPv4 with ICMP in it.
fn is_ping(seen: &Seen) -> bool {
    seen.ethertype == netns_tests::frames::IPV4 && seen.payload.get(9) == Some(&1)
}
