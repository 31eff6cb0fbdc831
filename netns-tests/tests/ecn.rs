//! Congestion that the underlay marks reaches the instances' TCP, and costs only packets that cannot be marked.

use std::time::Duration;

use anyhow::{Context, Result};
use netns_tests::counters::{Counters, nft_counter};
use netns_tests::traffic::tcp_both_ways;
use netns_tests::{Instance, Lab, LabSpec, Node, ctl, expect, lab_test, measure, wait_for};

/// What arrives at a node from its peers, by its outer ECN; then this is done with it, in words of nft in which IP is
/// the family.
fn rules(then: &str) -> String {
    let family = |ip: &str| {
        let mut rules = String::new();
        for ecn in ["not-ect", "ect0", "ect1", "ce"] {
            rules += &format!("    udp dport 4840 {ip} ecn {ecn} counter name \"{ecn}\"\n");
        }
        rules += &format!("    udp dport 4840 {ip} dscp != cs0 counter name \"dscp\"\n");
        let then = then.replace("IP", ip);
        if then.is_empty() { rules } else { rules + &format!("    udp dport 4840 {then}\n") }
    };
    format!(
        "table inet marks {{\n  counter not-ect {{}}\n  counter ect0 {{}}\n  counter ect1 {{}}\n  counter ce {{}}\n  counter dscp {{}}\n  \
         chain prerouting {{\n    type filter hook prerouting priority raw\n{}{}  }}\n}}\n",
        family("ip"),
        family("ip6")
    )
}

/// Replaces the rules of one node.
fn mark(node: &Node, then: &str) -> Result<()> {
    node.ns().nft(&format!("table inet marks {{}}\ndelete table inet marks\n{}", rules(then)))
}

/// Datagrams that arrived with this outer ECN since the rules were set.
fn arrived(node: &Node, ecn: &str) -> Result<u64> {
    nft_counter(node.ns(), Some("inet marks"), ecn, "packets")
}

fn kernel(instance: &Instance, name: &str) -> Result<u64> {
    Counters::of(instance.ns())?.get(name)
}

fn ends(lab: &Lab) -> Result<(&Instance, &Instance, &Node)> {
    Ok((lab.instance("a1")?, lab.instance("b1")?, lab.node("node-b")?))
}

fn flow(a: &Instance, b: &Instance) -> Result<()> {
    for ip in b.both()? {
        tcp_both_ways(a.ns(), b.ns(), ip, 2 << 20, Duration::from_secs(20))
            .with_context(|| format!("TCP with {ip}"))?;
    }
    Ok(())
}

fn marks_reach_tcp(name: &str, v6_underlay: bool) -> Result<()> {
    lab_test(LabSpec::pair(name), |lab| {
        lab.start_switchd(|config| {
            let b = lab.node("node-b").expect("the lab has it").underlay_socket_v6(0);
            for peer in config.peers.iter_mut().filter(|_| v6_underlay) {
                peer.address = (peer.name == "node-b").then(|| b.clone());
            }
        })?;
        let (a, b, node_b) = ends(lab)?;
        for instance in [a, b] {
            instance.ns().sysctl("net/ipv4/tcp_ecn", "1")?;
        }
        // Nothing marks: the outer header says what the inner one does.
        mark(node_b, "")?;
        flow(a, b)?;
        let (capable, marked) = (arrived(node_b, "ect0")?, arrived(node_b, "ce")?);
        expect(capable > 20 && marked == 0, || format!("{capable} datagrams with ECT(0), {marked} with CE"))?;
        for name in ["IpExtInCEPkts", "Ip6InCEPkts"] {
            let seen = kernel(b, name)?;
            expect(seen == 0, || format!("{name} is {seen} without a mark"))?;
        }
        // Every capable packet is marked: each version's receiver sees it and tells the sender.
        mark(node_b, "IP ecn ect0 IP ecn set ce")?;
        for (ip, seen) in b.both()?.into_iter().zip(["IpExtInCEPkts", "Ip6InCEPkts"]) {
            let told = kernel(a, "TcpExtTCPDeliveredCE")?;
            tcp_both_ways(a.ns(), b.ns(), ip, 1 << 20, Duration::from_secs(30))
                .with_context(|| format!("TCP with {ip}, marked"))?;
            let (seen, told) = (kernel(b, seen)?, kernel(a, "TcpExtTCPDeliveredCE")? - told);
            println!(
                "{name}: {ip}: {seen} packets marked at the receiver, {told} segments told to the sender"
            );
            expect(seen > 20 && told > 20, || format!("{ip}: {seen} marked, {told} told of"))?;
        }
        let dropped = ctl::sum(&node_b.stats()?, "congested");
        expect(dropped == 0, || format!("{dropped} packets dropped that could be marked"))
    })
}

#[test]
fn marks_reach_tcp_by_ipv4() -> Result<()> {
    marks_reach_tcp("ecn_v4", false)
}

#[test]
fn marks_reach_tcp_by_ipv6() -> Result<()> {
    marks_reach_tcp("ecn_v6", true)
}

/// Also where each frame is cut into fragments.
#[test]
fn one_marked_fragment_marks_the_frame() -> Result<()> {
    let spec = LabSpec::pair("ecn_fragments").each_instance(|instance| instance.mtu = 4000);
    lab_test(spec, |lab| {
        lab.start_switchd(|config| {
            config.set_network("mtu", "4000");
            config.set_network("mss_clamp", "false");
        })?;
        let (a, b, node_b) = ends(lab)?;
        // Else the fragments of a frame cross the underlay as one packet, and one mark would be on them all.
        let node_a = lab.node("node-a")?.ns();
        node_a.exec(&["ethtool", "-K", "eth0", "tx-udp-segmentation", "off", "gso", "off"])?;
        let ip = b.v4()?;
        // ECT(0) in the TOS octet of echo requests that take three datagrams each.
        let ping = ["-Q", "2", "-s", "3500", "-M", "do"];
        measure::ping_ok_with(a.ns(), ip, &ping)?;
        let before = kernel(b, "IpExtInCEPkts")?;
        expect(before == 0, || format!("{before} marked packets, and nothing marks"))?;
        for which in 0..3 {
            let (seen, then) = (kernel(b, "IpExtInCEPkts")?, format!("numgen inc mod 3 {which}"));
            mark(node_b, &format!("IP ecn ect0 {then} IP ecn set ce"))?;
            measure::ping_ok_with(a.ns(), ip, &ping)?;
            let (capable, marked) = (arrived(node_b, "ect0")?, kernel(b, "IpExtInCEPkts")? - seen);
            expect((capable, marked) == (9, 3), || {
                format!(
                    "{capable} datagrams and {marked} marked frames for 3 requests, fragment {which} marked"
                )
            })?;
        }
        Ok(())
    })
}

#[test]
fn what_cannot_be_marked_is_lost_and_counted() -> Result<()> {
    lab_test(LabSpec::pair("ecn_not_capable"), |lab| {
        lab.start_switchd(|_| ())?;
        let (a, b, node_b) = ends(lab)?;
        let ip = b.v4()?;
        mark(node_b, "")?;
        measure::ping_ok(a.ns(), ip)?;
        let capable = arrived(node_b, "ect0")? + arrived(node_b, "ect1")? + arrived(node_b, "ce")?;
        expect(capable == 0, || format!("{capable} datagrams of what is not capable have a mark"))?;
        // Expedited forwarding and ECT(1): only the latter shows.
        measure::ping_ok_with(a.ns(), ip, &["-Q", "0xb9"])?;
        let (capable, classes) = (arrived(node_b, "ect1")?, arrived(node_b, "dscp")?);
        expect((capable, classes) == (3, 0), || format!("{capable} with ECT(1), {classes} with a DSCP"))?;
        mark(node_b, "IP ecn set ce")?;
        let lost = measure::ping_each(a.ns(), ip, 3, &["-W", "1"])?;
        expect(lost.received == 0, || format!("{} of 3 pings got through", lost.received))?;
        let dropped = ctl::sum(&node_b.stats()?, "congested");
        expect(dropped >= 3, || format!("{dropped} frames counted as congested"))?;
        // ARP has no marks: an address that no node knows yet is found.
        let unknown = "10.0.0.99";
        b.ns().ip(&format!("addr add {unknown}/24 dev eth0"))?;
        wait_for("ARP beneath the marks", Duration::from_secs(5), || {
            let _ = measure::ping_each(a.ns(), unknown.parse().expect("an address"), 1, &["-W", "1"]);
            let known = |line: &str| line.starts_with(&format!("{unknown} ")) && line.contains("lladdr");
            a.neighbours().is_ok_and(|neighbours| neighbours.lines().any(known))
        })?;
        mark(node_b, "")?;
        measure::ping_ok(a.ns(), ip)
    })
}
