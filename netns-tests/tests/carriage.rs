//! Frames in QUIC datagrams: everything that they do in sealed ones.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use netns_tests::counters::nft_counter;
use netns_tests::nat::preset::SYMMETRIC;
use netns_tests::nat::{NatLab, NatSpec};
use netns_tests::traffic::{Sequence, TcpFlow, UdpEcho, round_trips, tcp_both_ways};
use netns_tests::{
    Instance, Lab, LabSpec, Node, SwitchdConfig, UnderlaySpec, ctl, expect, lab_test, measure, wait_for,
};

/// UDP payloads around every boundary that a header, a segment or a fragment makes, and the largest.
const SIZES: [usize; 14] =
    [64, 1180, 1220, 1232, 1346, 1347, 1372, 1400, 1452, 1472, 1473, 8972, 20_000, 65_507];

fn quic(config: &mut SwitchdConfig) {
    config.set_network("carriage", "\"quic\"");
}

fn all_sizes_and_tcp(a: &Instance, b: &Instance, tcp_bytes: u64) -> Result<()> {
    for (from, to) in [(a, b), (b, a)] {
        for ip in to.both()? {
            let echo = UdpEcho::start(to.ns(), ip)?;
            let own = if ip.is_ipv4() { from.v4()? } else { from.v6()? };
            let again = round_trips(from.ns(), own, echo.addr(), &SIZES)?;
            // One of many fragments that comes too late on a busy host is all it takes.
            expect(again <= 2, || format!("{again} of {} UDP payloads were lost to {ip}", SIZES.len()))?;
        }
    }
    for ip in b.both()? {
        tcp_both_ways(a.ns(), b.ns(), ip, tcp_bytes, Duration::from_secs(3))
            .with_context(|| format!("TCP with {ip}"))?;
    }
    Ok(())
}

/// Counts what crosses the underlay in packets of more than 600 bytes, by the first two bits of the UDP payload.
const WIRE: &str = "table bridge wire {
  counter sealed {}
  counter quic {}
  chain forward {
    type filter hook forward priority 0
    meta length > 600 udp dport 4840 @th,64,2 2 counter name sealed
    meta length > 600 udp dport 4840 @th,64,2 1 counter name quic
  }
}
";

/// Bytes of long sealed datagrams and of long QUIC packets so far.
fn on_the_wire(lab: &Lab) -> Result<[u64; 2]> {
    let bytes = |name: &str| nft_counter(lab.underlay(0), None, name, "bytes");
    Ok([bytes("sealed")?, bytes("quic")?])
}

fn link(node: &Node, key: &str) -> Result<u64> {
    let links = node.ctl(&["links"])?;
    let link = &ctl::rows(&links, "links")[0];
    link[key].as_u64().with_context(|| format!("no {key} in {link}"))
}

/// What the drop log of all nodes has of the reasons that only this carriage gives.
fn dropped(lab: &Lab, reason: &str) -> Result<u64> {
    lab.nodes().iter().map(|node| Ok(ctl::sum(&node.stats()?, reason))).sum()
}

fn underlay(mtu: u32) -> Result<()> {
    lab_test(LabSpec::pair(&format!("carriage_{mtu}")).underlay_mtu(mtu), |lab| {
        lab.underlay(0).nft(WIRE)?;
        lab.start_switchd(quic)?;
        all_sizes_and_tcp(lab.instance("a1")?, lab.instance("b1")?, 20 << 20)?;
        let [sealed, quic] = on_the_wire(lab)?;
        println!("carriage_{mtu}: {sealed} bytes of long sealed datagrams, {quic} of QUIC");
        expect(quic > 80 << 20 && sealed < 200_000, || format!("{sealed} bytes sealed, {quic} by QUIC"))
    })
}

#[test]
fn underlay_1500() -> Result<()> {
    underlay(1500)
}

#[test]
fn underlay_1280() -> Result<()> {
    underlay(1280)
}

#[test]
fn jumbo_guests() -> Result<()> {
    let spec =
        LabSpec::pair("carriage_jumbo").underlay_mtu(9216).each_instance(|instance| instance.mtu = 9000);
    lab_test(spec, |lab| {
        lab.start_switchd(|config| {
            quic(config);
            config.set_network("mtu", "9000");
            config.set_link("underlay_mtu", "9216");
        })?;
        all_sizes_and_tcp(lab.instance("a1")?, lab.instance("b1")?, 20 << 20)
    })
}

#[test]
fn underlay_of_ipv6() -> Result<()> {
    lab_test(LabSpec::pair("carriage_v6"), |lab| {
        lab.start_switchd(|config| {
            quic(config);
            let b = lab.node("node-b").expect("the lab has it").underlay_socket_v6(0);
            config.peers.iter_mut().for_each(|peer| {
                peer.address = (peer.name == "node-b").then(|| b.clone());
            });
        })?;
        all_sizes_and_tcp(lab.instance("a1")?, lab.instance("b1")?, 10 << 20)
    })
}

/// The sender's configuration decides; the receiver takes frames as they come.
#[test]
fn both_carriages_at_once() -> Result<()> {
    lab_test(LabSpec::star("carriage_both", 2, &["blue", "red"], 1), |lab| {
        lab.start_switchd(|config| {
            let red = config.networks.iter_mut().find(|network| network.name == "red");
            red.expect("the lab has it").extra.push(("carriage".into(), "\"quic\"".into()));
            if config.node == "node-b" {
                config.set_link("carriage", "\"quic\"");
            }
        })?;
        let node = lab.node("node-a")?;
        all_sizes_and_tcp(lab.instance("a1")?, lab.instance("b1")?, 10 << 20)?;
        counted(node, &["bytes_to_peer", "quic_bytes_from_peer"], 20 << 20)?;
        // What red's instances say of themselves when they come up.
        expect(link(node, "quic_bytes_to_peer")? < 50_000, || "frames of blue went to QUIC".into())?;
        all_sizes_and_tcp(lab.instance("red-a1")?, lab.instance("red-b1")?, 10 << 20)?;
        counted(node, &["quic_bytes_to_peer"], 20 << 20)?;

        for (node, blue, carriage) in [(node, "sealed", "sealed,quic"), (lab.node("node-b")?, "quic", "quic")]
        {
            let status = node.ctl(&["status"])?;
            let networks = &status["networks"];
            expect(networks[0]["carriage"] == blue && networks[1]["carriage"] == "quic", || {
                format!("{networks}")
            })?;
            let links = node.ctl_text(&["links"])?;
            expect(links.contains("CARRIAGE") && links.contains(carriage), || links.clone())?;
        }
        let (_, metrics) = measure::http_get(node.ns(), 9484, "/metrics")?;
        for carriage in ["sealed", "quic"] {
            for direction in ["to_peer", "from_peer"] {
                let line = metrics.lines().find(|line| {
                    line.starts_with("switchd_link_bytes_total{")
                        && line.contains(&format!("\"{carriage}\""))
                        && line.contains(direction)
                });
                let bytes = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
                // node-b sends by QUIC alone; its probes are sealed.
                let least = if (carriage, direction) == ("sealed", "from_peer") { 1e2 } else { 1e7 };
                expect(bytes.is_some_and(|bytes| bytes > least), || {
                    format!("{carriage} {direction}: {line:?}")
                })?;
            }
        }
        Ok(())
    })
}

/// Counters are a snapshot that the worker renews now and then.
fn counted(node: &Node, keys: &[&str], least: u64) -> Result<()> {
    for key in keys {
        wait_for(&format!("{key} of the link"), Duration::from_secs(2), || {
            link(node, key).is_ok_and(|bytes| bytes >= least)
        })?;
    }
    Ok(())
}

/// The path carries less from one moment to the next, and says nothing about it. Then more again.
#[test]
fn path_shrinks_under_a_flow() -> Result<()> {
    let mut spec = LabSpec::pair("carriage_shrinks");
    spec.underlays = vec![UnderlaySpec { hidden_mtu: Some(1500), ..UnderlaySpec::default() }];
    lab_test(spec, |lab| {
        lab.start_switchd(quic)?;
        let (a, b) = (lab.instance("a1")?, lab.instance("b1")?);
        measure::ping_ok(a.ns(), b.v4()?)?;
        for mtu in [1400, 1280] {
            let (small, bulk) = std::thread::scope(|scope| -> Result<_> {
                let bulk = scope
                    .spawn(|| tcp_both_ways(a.ns(), b.ns(), b.v6()?, 100 << 20, Duration::from_secs(10)));
                let flow = TcpFlow::start(a.ns(), b.ns(), b.v4()?)?;
                flow.advance(100_000, Duration::from_secs(5))?;
                flow.reset_gap();
                for port in ["p1", "p2"] {
                    lab.underlay(0).ip(&format!("link set {port} mtu {mtu}"))?;
                }
                flow.advance(1_000_000, Duration::from_secs(15)).context("after the path shrank")?;
                Ok((flow.worst_gap(), bulk.join().map_err(|_| anyhow!("the bulk flow panicked"))??))
            })?;
            println!("path of {mtu}: the flow was cut for {small:?}; bulk took {bulk:?}");
            expect(small < Duration::from_secs(5), || format!("cut for {small:?}"))?;
            let took = tcp_both_ways(a.ns(), b.ns(), b.v4()?, 10 << 20, Duration::from_secs(3))?;
            println!("path of {mtu}: 20 MB afterwards in {took:?}");
        }
        Ok(())
    })
}

/// A fresh connection every second: frames go by the newest one, and none is lost or doubled.
#[test]
fn fresh_connections_lose_nothing() -> Result<()> {
    lab_test(LabSpec::pair("carriage_rekey"), |lab| {
        lab.start_switchd(|config| {
            quic(config);
            config.set_link("rekey_after", "\"1s\"");
        })?;
        let (a, b) = (lab.instance("a1")?, lab.instance("b1")?);
        measure::ping_ok(a.ns(), b.v4()?)?;
        let node = lab.node("node-a")?;
        let before = link(node, "epoch")?;
        let flow = TcpFlow::start(b.ns(), a.ns(), a.v4()?)?;
        flow.reset_gap();
        let seen = Sequence::run(a.ns(), b.ns(), b.v4()?, 5000, 200, Duration::from_millis(1))?;
        let (epochs, gap) = (link(node, "epoch")? - before, flow.worst_gap());
        println!("{epochs} fresh connections, {seen:?}, the TCP flow was cut for {gap:?}");
        // On a host without a core to spare QUIC may be served so late that the worker drops what waited; it says so.
        let dropped = counted_drops(lab)?;
        let few = seen.received * 20 >= seen.sent * 19;
        expect(few && seen.received + dropped >= seen.sent && seen.duplicates == 0, || {
            format!("{seen:?}, {dropped} dropped and counted")
        })?;
        expect(epochs >= 3 && gap < Duration::from_millis(500), || {
            format!("{epochs} epochs, cut for {gap:?}")
        })
    })
}

/// Datagrams of this carriage that the two nodes say they dropped.
fn counted_drops(lab: &Lab) -> Result<u64> {
    let mut dropped = 0;
    for node in lab.nodes() {
        let stats = node.ctl(&["stats"])?;
        dropped += ["stale", "queue_full", "link_down"].iter().map(|why| ctl::sum(&stats, why)).sum::<u64>();
    }
    Ok(dropped)
}

/// What ends a link and mends it again ends and mends it for this carriage too.
#[test]
fn peers_that_restart_move_and_vanish() -> Result<()> {
    lab_test(LabSpec::pair("carriage_ends"), |lab| {
        lab.start_switchd(quic)?;
        let (a, b) = (lab.instance("a1")?, lab.instance("b1")?);
        let node = lab.node("node-b")?;
        let old = node.underlay_v4(0);
        let moved = format!("addr del {old}/24 dev eth0\naddr add 10.99.0.77/24 dev eth0\n");
        let harms: [(&str, &dyn Fn() -> Result<()>); 2] =
            [("restarts", &|| node.restart()), ("moves", &|| node.ns().ip_batch(&moved).map(drop))];
        for (what, harm) in harms {
            let flow = TcpFlow::start(a.ns(), b.ns(), b.v4()?)?;
            flow.advance(100_000, Duration::from_secs(3)).context("before")?;
            flow.reset_gap();
            harm()?;
            flow.advance(300_000, Duration::from_secs(12)).with_context(|| format!("the peer {what}"))?;
            let gap = flow.worst_gap();
            println!("the peer {what}: traffic was cut for {gap:?}");
            expect(gap < Duration::from_secs(3), || format!("the peer {what}: cut for {gap:?}"))?;
        }
        node.ns().ip("link set eth0 down")?;
        lab.node("node-a")?.wait_link("node-b", false)?;
        node.ns().ip("link set eth0 up")?;
        lab.wait_links()?;
        measure::ping_ok(a.ns(), b.v4()?)?;
        expect(dropped(lab, "no_carriage")? == 0, || "a peer seemed to take no QUIC datagrams".into())
    })
}

/// A network of the controller's, carried as `[link]` says, between nodes that only a relay connects.
#[test]
fn by_a_relay() -> Result<()> {
    let spec = NatSpec {
        switchd_toml: "[link]\ncarriage = \"quic\"\n\n".to_owned(),
        ..NatSpec::new("carriage_relayed", &[SYMMETRIC; 2])
    };
    NatLab::build(&spec)?.run(|lab| {
        lab.connect()?;
        lab.wait_relayed(Duration::from_secs(1))?;
        let (a, b) = (lab.instance("a1")?, lab.instance("b1")?);
        tcp_both_ways(a.ns(), b.ns(), b.v4()?, 5 << 20, Duration::from_secs(3))?;
        counted(lab.node("node-a")?, &["quic_bytes_to_peer", "quic_bytes_from_peer"], 5 << 20)
    })
}

/// One packet in a hundred vanishes; TCP goes on and every byte is right.
#[test]
fn one_per_cent_loss() -> Result<()> {
    lab_test(LabSpec::pair("carriage_loss").loss(1.0), |lab| {
        lab.start_switchd(quic)?;
        let (a, b) = (lab.instance("a1")?, lab.instance("b1")?);
        for ip in b.both()? {
            let took = tcp_both_ways(a.ns(), b.ns(), ip, 10 << 20, Duration::from_secs(5))?;
            expect(took < Duration::from_secs(20), || format!("20 MB took {took:?}"))?;
        }
        Ok(())
    })
}

/// One TCP flow by each carriage in turn, and what it costs both daemons.
#[test]
#[ignore = "a measurement, which asserts nothing: run it with --release --nocapture on a quiet host"]
fn speed_beside_sealed() -> Result<()> {
    const ROUNDS: usize = 5;
    const SECONDS: u32 = 4;
    lab_test(LabSpec::star("carriage_speed", 2, &["blue", "red"], 1), |lab| {
        lab.start_switchd(|config| config.networks[1].extra.push(("carriage".into(), "\"quic\"".into())))?;
        let cpu = || -> Result<f64> {
            let of = |node: &Node| Ok(measure::cpu_time(node.switchd_pid()?)?.as_secs_f64());
            lab.nodes().iter().map(of).sum()
        };
        let (mut rates, mut costs) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for _ in 0..ROUNDS {
            for (i, [from, to]) in [["a1", "b1"], ["red-a1", "red-b1"]].into_iter().enumerate() {
                let (from, to) = (lab.instance(from)?, lab.instance(to)?);
                let before = cpu()?;
                let rate = measure::iperf(from.ns(), to.ns(), to.v4()?, SECONDS)?;
                costs[i].push((cpu()? - before) / (rate * f64::from(SECONDS) / 8e9));
                rates[i].push(rate / 1e9);
            }
        }
        let rate = rates.each_ref().map(|rates| measure::median(rates));
        let cost = costs.each_ref().map(|costs| measure::median(costs));
        println!("Gb/s, sealed {:.2} {:?}, quic {:.2} {:?}", rate[0], rates[0], rate[1], rates[1]);
        println!("quic / sealed: {:.3}; CPU s per GB: {:.2}, {:.2}", rate[1] / rate[0], cost[0], cost[1]);
        let drops = |reason| Ok::<_, anyhow::Error>((reason, dropped(lab, reason)?));
        println!("{:?}", [drops("queue_full")?, drops("stale")?, drops("shrunk")?, drops("link_down")?]);
        Ok(())
    })
}
