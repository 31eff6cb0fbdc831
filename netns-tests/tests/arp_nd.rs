//! ARP and ND conformance: what instances are told, and what crosses the overlay.
//!
//! Frames from peers leave the endpoint towards the bridge, so a sniffer on a node's TAP sees them as received
//! (`!sent`), and frames from the bridge as sent. Each rule holds for IPv4 and IPv6, in both modes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result};
use netns_tests::config::BindingConfig;
use netns_tests::frames::{ADVERTISEMENT, ARP, Arp, Mac, Nd, SOLICITATION, Seen};
use netns_tests::packet::{Frame, PacketSocket, Sniffer};
use netns_tests::{Instance, Lab, LabSpec, ctl, expect, lab_test, measure, wait_for};

const MODES: [&str; 2] = ["rewrite", "preserve"];
/// What guests see of every remote instance in rewrite mode: 02:73:77 and the VNI, 100.
const ENDPOINT: Mac = Mac([0x02, 0x73, 0x77, 0, 0, 100]);
const SOON: Duration = Duration::from_secs(2);

/// One lab for each mode, daemons up.
fn in_both_modes(spec: &LabSpec, body: impl Fn(&Lab, &str) -> Result<()>) -> Result<()> {
    for mode in MODES {
        let spec = LabSpec { name: format!("{}_{mode}", spec.name), ..spec.clone() };
        lab_test(spec, |lab| {
            lab.start_switchd(|config| config.set_network("mode", &format!("{mode:?}")))?;
            body(lab, mode)
        })?;
    }
    Ok(())
}

/// The MAC that `of` has for others in this mode.
fn shown_mac(of: &Instance, mode: &str) -> Result<Mac> {
    if mode == "rewrite" { Ok(ENDPOINT) } else { of.mac() }
}

fn v4(ip: IpAddr) -> Ipv4Addr {
    match ip {
        IpAddr::V4(v4) => v4,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    }
}

fn v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V6(v6) => v6,
        IpAddr::V4(_) => Ipv6Addr::UNSPECIFIED,
    }
}

/// A broadcast or multicast request for `ip`.
fn asks_all_for(seen: &Seen, ip: IpAddr) -> bool {
    let group = seen.dst.0[0] & 1 == 1;
    let target = match ip {
        IpAddr::V4(ip) => seen.arp.is_some_and(|arp| arp.op == 1 && arp.tpa == ip),
        IpAddr::V6(ip) => seen.nd.is_some_and(|nd| nd.is_solicitation() && nd.target == ip),
    };
    group && target
}

/// A reply or advertisement about `ip`, and the MAC that it gives.
fn answer_about(seen: &Seen, ip: IpAddr) -> Option<Mac> {
    match ip {
        IpAddr::V4(ip) => seen.arp.filter(|arp| arp.op == 2 && arp.spa == ip).map(|arp| arp.sha),
        IpAddr::V6(ip) => {
            seen.nd.filter(|nd| nd.kind == ADVERTISEMENT && nd.target == ip).and_then(|nd| nd.link_layer)
        }
    }
}

/// A request for `ip` as an instance would send it to everybody, or to `dst` alone.
fn request(from: &Instance, ip: IpAddr, dst: Option<Mac>) -> Result<Vec<u8>> {
    let own = from.mac()?;
    Ok(match ip {
        IpAddr::V4(tpa) => {
            let arp = Arp { op: 1, sha: own, spa: v4(from.v4()?), tha: Mac::ZERO, tpa };
            arp.frame(dst.unwrap_or(Mac::BROADCAST))
        }
        IpAddr::V6(target) => {
            let group = if dst.is_some() { target } else { Nd::solicited_node(target) };
            let nd = Nd {
                kind: SOLICITATION,
                src: v6(from.v6()?),
                dst: group,
                flags: 0,
                target,
                link_layer: Some(own),
            };
            nd.frame(dst.unwrap_or(Mac::of_multicast(group)), own)
        }
    })
}

/// A probe (RFC 5227) or duplicate address detection (RFC 4862) for `ip` by a stranger with this MAC.
fn probe(own: Mac, ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(tpa) => {
            Arp { op: 1, sha: own, spa: Ipv4Addr::UNSPECIFIED, tha: Mac::ZERO, tpa }.frame(Mac::BROADCAST)
        }
        IpAddr::V6(target) => {
            let dst = Nd::solicited_node(target);
            let src = Ipv6Addr::UNSPECIFIED;
            Nd { kind: SOLICITATION, src, dst, flags: 0, target, link_layer: None }
                .frame(Mac::of_multicast(dst), own)
        }
    }
}

fn remote(frame: &Frame) -> bool {
    !frame.sent
}

#[test]
fn neighbours_resolve_to_the_right_mac() -> Result<()> {
    in_both_modes(&LabSpec::pair("resolve"), |lab, mode| {
        let (a, b) = (lab.instance("a1")?, lab.instance("b1")?);
        for ip in b.both()? {
            measure::ping_ok(a.ns(), ip)?;
            let (table, mac) = (a.neighbours()?, shown_mac(b, mode)?);
            let row = table.lines().find(|line| line.starts_with(&format!("{ip} ")));
            let right = row.is_some_and(|line| line.contains(&mac.to_string()));
            expect(right, || format!("{ip} should be at {mac}:\n{table}"))?;
        }
        Ok(())
    })
}

/// The rule of the paper: a request for a known binding is answered where it is asked.
#[test]
fn requests_for_known_bindings_never_cross() -> Result<()> {
    in_both_modes(&LabSpec::star("suppressed", 3, &["blue"], 1), |lab, _| {
        let (a, b) = (lab.instance("a1")?, lab.instance("b1")?);
        for ip in b.both()? {
            measure::ping_ok(a.ns(), ip)?;
            let taps = [
                Sniffer::start(lab.node("node-b")?.ns(), "sw-blue")?,
                Sniffer::start(lab.node("node-c")?.ns(), "sw-blue")?,
            ];
            for _ in 0..5 {
                a.flush_neighbours()?;
                measure::ping_ok(a.ns(), ip)?;
            }
            for tap in &taps {
                let crossed = tap.count(|seen, frame| remote(frame) && asks_all_for(seen, ip));
                expect(crossed == 0, || format!("{crossed} requests for the known {ip} crossed"))?;
            }
        }
        let node = lab.node("node-a")?;
        for protocol in ["arp", "nd"] {
            // Now and then the neighbour's own request fills the cache before ours is sent.
            wait_for(&format!("a count of answered {protocol} requests"), SOON, || {
                node.stats().is_ok_and(|stats| ctl::outcome(&stats, protocol, "answered") >= 3)
            })?;
        }
        Ok(())
    })
}

/// With every binding given by the configuration, not even the first request crosses.
#[test]
fn static_bindings_need_no_request() -> Result<()> {
    for mode in MODES {
        lab_test(LabSpec::pair(&format!("static_{mode}")), |lab| {
            let taps: Vec<String> = lab.nodes().iter().map(|n| n.name().to_owned()).collect();
            lab.start_switchd(|config| {
                config.set_network("mode", &format!("{mode:?}"));
                config.networks[0].bindings = bindings_of(lab);
            })?;
            let sniffers: Vec<Sniffer> = taps
                .iter()
                .map(|name| Sniffer::start(lab.node(name)?.ns(), "sw-blue"))
                .collect::<Result<_>>()?;
            let (a, b) = (lab.instance("a1")?, lab.instance("b1")?);
            for (from, to) in [(a, b), (b, a)] {
                for ip in to.both()? {
                    measure::ping_ok(from.ns(), ip)?;
                    for sniffer in &sniffers {
                        let crossed = sniffer.count(|seen, frame| remote(frame) && asks_all_for(seen, ip));
                        expect(crossed == 0, || format!("{crossed} requests for the bound {ip} crossed"))?;
                    }
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn bindings_of(lab: &Lab) -> Vec<BindingConfig> {
    let row = |i: &Instance| BindingConfig {
        mac: i.mac().map(|mac| mac.to_string()).unwrap_or_default(),
        ips: i.both().map(|ips| ips.iter().map(ToString::to_string).collect()).unwrap_or_default(),
        node: i.node().to_owned(),
    };
    lab.instances().iter().map(row).collect()
}

/// A poll (RFC 1122, 2.3.2.1) asks whether the neighbour lives: only the neighbour can say so.
#[test]
fn unicast_polls_reach_their_target() -> Result<()> {
    in_both_modes(&LabSpec::pair("polls"), |lab, mode| {
        let (a, b) = (lab.instance("a1")?, lab.instance("b1")?);
        for ip in b.both()? {
            measure::ping_ok(a.ns(), ip)?;
            let (at_a, at_b) = (Sniffer::start(a.ns(), "eth0")?, Sniffer::start(b.ns(), "eth0")?);
            let poll = request(a, ip, Some(shown_mac(b, mode)?))?;
            PacketSocket::open(a.ns(), "eth0")?.send(&poll)?;
            let own = b.mac()?;
            at_b.wait(&format!("the poll for {ip} at b1"), SOON, |seen, frame| {
                remote(frame) && seen.asks() && seen.dst == own
            })?;
            // An answer to a unicast solicitation need not repeat the MAC (RFC 4861, 7.2.4), and Linux's does not.
            let shown = shown_mac(b, mode)?;
            at_a.wait(&format!("the answer about {ip} at a1"), SOON, |seen, frame| {
                let bare = seen.nd.is_some_and(|nd| nd.kind == ADVERTISEMENT && nd.link_layer.is_none());
                remote(frame) && seen.src == shown && (bare || answer_about(seen, ip) == Some(shown))
            })?;
        }
        Ok(())
    })
}

/// A poll of an instance that is gone gets no answer, though its binding is still there.
#[test]
fn polls_of_a_dead_instance_stay_unanswered() -> Result<()> {
    in_both_modes(&LabSpec::pair("dead_poll"), |lab, mode| {
        let (a, b) = (lab.instance("a1")?, lab.instance("b1")?);
        let ip = b.v4()?;
        measure::ping_ok(a.ns(), ip)?;
        b.ns().ip("link set eth0 down")?;
        let at_a = Sniffer::start(a.ns(), "eth0")?;
        let socket = PacketSocket::open(a.ns(), "eth0")?;
        socket.send(&request(a, ip, Some(shown_mac(b, mode)?))?)?;
        // A broadcast request for the known binding is answered, and comes after the poll.
        socket.send(&request(a, ip, None)?)?;
        at_a.wait("the proxy's answer", SOON, |seen, _| answer_about(seen, ip).is_some())?;
        let answers = at_a.count(|seen, _| answer_about(seen, ip).is_some());
        expect(answers == 1, || format!("{answers} answers, one is from the proxy, none may be from b1"))
    })
}

/// Someone probes for an address that is taken on another node, and is told so; a free one stays silent.
#[test]
fn probes_and_duplicate_address_detection() -> Result<()> {
    in_both_modes(&LabSpec::pair("probes"), |lab, mode| {
        let (a, b) = (lab.instance("a1")?, lab.instance("b1")?);
        let stranger: Mac = "02:00:00:00:0a:99".parse()?;
        for ip in b.both()? {
            measure::ping_ok(a.ns(), ip)?;
            let at_a = Sniffer::start(a.ns(), "eth0")?;
            let socket = PacketSocket::open(a.ns(), "eth0")?;
            socket.send(&probe(stranger, ip))?;
            let shown = shown_mac(b, mode)?;
            let answer = at_a
                .wait(&format!("an answer to the probe for {ip}"), SOON, |seen, frame| {
                    remote(frame) && answer_about(seen, ip) == Some(shown)
                })?
                .seen();
            if let Some(nd) = answer.nd {
                // RFC 4861, 7.2.4: an unspecified source is answered to all nodes, unsolicited.
                expect(nd.dst == Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1) && nd.flags & 0x40 == 0, || {
                    format!("a wrong answer to DAD: {nd:?}")
                })?;
            }
        }
        for free in ["10.0.0.200".parse()?, "fd00::dead".parse()?] {
            let at_a = Sniffer::start(a.ns(), "eth0")?;
            PacketSocket::open(a.ns(), "eth0")?.send(&probe(stranger, free))?;
            // What would answer the probe is on the same path as these.
            measure::ping_ok(a.ns(), b.v4()?)?;
            let answers = at_a.count(|seen, _| answer_about(seen, free).is_some());
            expect(answers == 0, || format!("{answers} answers about the free {free}"))?;
        }
        Ok(())
    })
}

/// The kernel's own duplicate address detection finds the other node's address, and accepts a free one.
#[test]
fn kernel_dad_across_nodes() -> Result<()> {
    in_both_modes(&LabSpec::pair("kernel_dad"), |lab, _| {
        let (a, b) = (lab.instance("a1")?, lab.instance("b1")?);
        measure::ping_ok(a.ns(), b.v6()?)?;
        a.ns().sysctl("net/ipv6/conf/all/accept_dad", "1")?;
        a.ns().sysctl("net/ipv6/conf/eth0/accept_dad", "1")?;
        a.ns().ip(&format!("addr add {}/64 dev eth0", b.v6()?))?;
        a.ns().ip("addr add fd00::abcd/64 dev eth0")?;
        wait_for("dadfailed on the taken address", Duration::from_secs(4), || {
            a.ns().ip("-6 addr show dev eth0 dadfailed").is_ok_and(|text| text.contains("fd00::2:1"))
        })?;
        wait_for("the free address", Duration::from_secs(4), || {
            a.ns().ip("-6 addr show dev eth0 -tentative").is_ok_and(|text| text.contains("fd00::abcd"))
        })?;
        Ok(())
    })
}

/// A request for an address that nobody has crosses once in a while, not each time it is asked.
#[test]
fn unknown_targets_are_asked_for_at_a_limited_rate() -> Result<()> {
    in_both_modes(&LabSpec::pair("unknown_target"), |lab, _| {
        let (a, b) = (lab.instance("a1")?, lab.instance("b1")?);
        measure::ping_ok(a.ns(), b.v4()?)?;
        for unknown in ["10.0.0.201".parse()?, "fd00::beef".parse()?] {
            let at_b = Sniffer::start(b.ns(), "eth0")?;
            let socket = PacketSocket::open(a.ns(), "eth0")?;
            for _ in 0..50 {
                socket.send(&request(a, unknown, None)?)?;
            }
            at_b.wait("the first request", SOON, |seen, _| asks_all_for(seen, unknown))?;
            measure::ping_ok(a.ns(), b.v4()?)?;
            let crossed = at_b.count(|seen, _| asks_all_for(seen, unknown));
            expect(crossed <= 2, || {
                format!("{crossed} of 50 requests for {unknown} crossed within a second")
            })?;
        }
        Ok(())
    })
}

/// The answer to a request from node-a is of no interest to node-c.
#[test]
fn replies_return_to_the_asker_only() -> Result<()> {
    in_both_modes(&LabSpec::star("asker_only", 3, &["blue"], 1), |lab, _| {
        let (a, b) = (lab.instance("a1")?, lab.instance("b1")?);
        let at_c = Sniffer::start(lab.node("node-c")?.ns(), "sw-blue")?;
        for ip in b.both()? {
            measure::ping_ok(a.ns(), ip)?;
            // That a new address is announced to every node once, unsolicited, is another matter.
            let solicited = |seen: &Seen| seen.nd.is_none_or(|nd| nd.flags & 0x40 != 0);
            let stray = at_c
                .count(|seen, frame| remote(frame) && answer_about(seen, ip).is_some() && solicited(seen));
            expect(stray == 0, || format!("{stray} answers about {ip} came to node-c"))?;
        }
        Ok(())
    })
}

/// An announcement corrects everyone: the address now has another MAC, on another node.
#[test]
fn gratuitous_announcements_update_every_node() -> Result<()> {
    in_both_modes(&LabSpec::star("gratuitous", 3, &["blue"], 1), |lab, mode| {
        let (a, b, c) = (lab.instance("a1")?, lab.instance("b1")?, lab.instance("c1")?);
        // An address that floats from b1 to c1, as VRRP and keepalived do it.
        let ip: Ipv4Addr = "10.0.0.250".parse()?;
        b.ns().ip("addr add 10.0.0.250/24 dev eth0")?;
        measure::ping_ok(a.ns(), ip.into())?;
        b.ns().ip("addr del 10.0.0.250/24 dev eth0")?;
        c.ns().ip("addr add 10.0.0.250/24 dev eth0")?;
        let at_c = Sniffer::start(c.ns(), "eth0")?;
        let own = c.mac()?;
        let announcement = Arp { op: 1, sha: own, spa: ip, tha: Mac::ZERO, tpa: ip }.frame(Mac::BROADCAST);
        PacketSocket::open(c.ns(), "eth0")?.send(&announcement)?;
        wait_for("the binding on node-a to say node-c", SOON, || {
            lab.node("node-a").and_then(|node| node.ctl(&["bindings"])).is_ok_and(|table| {
                ctl::rows(&table, "bindings")
                    .iter()
                    .any(|row| row["ips"].to_string().contains("10.0.0.250") && row["node"] == "node-c")
            })
        })?;
        measure::ping_ok(a.ns(), ip.into()).context(format!("in mode {mode}"))?;
        expect(at_c.count(|_, frame| remote(frame)) >= 3, || "c1 did not get the pings".into())
    })
}

/// The bridge carries these; the endpoint has no business with them.
#[test]
fn frames_between_neighbours_of_one_bridge_stay_there() -> Result<()> {
    in_both_modes(&LabSpec::star("one_bridge", 2, &["blue"], 2), |lab, _| {
        let (a1, a2, b1) = (lab.instance("a1")?, lab.instance("a2")?, lab.instance("b1")?);
        for ip in [a2.v4()?, b1.v4()?, a2.v6()?, b1.v6()?] {
            measure::ping_ok(a1.ns(), ip)?;
        }
        // The bridge hid a2's answers from the switch, which knows its addresses from what it asks itself.
        for ip in b1.both()? {
            measure::ping_ok(a2.ns(), ip)?;
        }
        let own = Sniffer::start(lab.node("node-a")?.ns(), "sw-blue")?;
        let other = Sniffer::start(lab.node("node-b")?.ns(), "sw-blue")?;
        let macs = [a1.mac()?, a2.mac()?];
        for ip in a2.both()? {
            a1.flush_neighbours()?;
            measure::ping_ok(a1.ns(), ip)?;
            netns_tests::traffic::tcp_both_ways(a1.ns(), a2.ns(), ip, 1 << 20, SOON)?;
            let asked = other.count(|seen, _| asks_all_for(seen, ip));
            expect(asked == 0, || format!("{asked} requests for the neighbour {ip} crossed"))?;
        }
        let strays = own.frames(|seen, _| macs.contains(&seen.src) && macs.contains(&seen.dst));
        expect(strays.is_empty(), || format!("{} frames came by, as {:?}", strays.len(), strays[0].seen()))
    })
}

/// An instance turns up on another node with its MAC and addresses and says so once.
#[test]
fn a_moved_instance_is_found() -> Result<()> {
    in_both_modes(&LabSpec::star("moved", 3, &["blue"], 1), |lab, mode| {
        let (a, b, c) = (lab.instance("a1")?, lab.instance("b1")?, lab.instance("c1")?);
        for ip in b.both()? {
            measure::ping_ok(a.ns(), ip)?;
            measure::ping_ok(c.ns(), ip)?;
        }
        b.move_to(lab.node("node-b")?, lab.node("node-a")?, "br-blue")?;
        let (own, v4) = (b.mac()?, v4(b.v4()?));
        let socket = PacketSocket::open(b.ns(), "eth0")?;
        // As QEMU announces a guest, then as the guest announces itself.
        socket.send(&netns_tests::frames::ethernet(Mac::BROADCAST, own, &[], 0x8035, &rarp(own)))?;
        socket.send(&Arp { op: 1, sha: own, spa: v4, tha: Mac::ZERO, tpa: v4 }.frame(Mac::BROADCAST))?;
        for ip in b.both()? {
            for from in [a, c] {
                let began = std::time::Instant::now();
                netns_tests::wait_ok(&format!("{} to reach the moved {ip}", from.name()), SOON, || {
                    measure::ping_ok(from.ns(), ip)
                })
                .context(format!("in mode {mode}"))?;
                println!("{mode}: {} reached {ip} after {:?}", from.name(), began.elapsed());
            }
        }
        Ok(())
    })
}

/// A RARP request for one's own address (RFC 903), as QEMU's self-announce sends it.
fn rarp(own: Mac) -> Vec<u8> {
    let mut body = vec![0, 1, 8, 0, 6, 4, 0, 3];
    body.extend(own.0);
    body.extend([0; 4]);
    body.extend(own.0);
    body.extend([0; 4]);
    body
}

/// The endpoint's own MAC as a source can only be a loop.
#[test]
fn the_endpoints_own_mac_from_the_bridge_is_a_loop() -> Result<()> {
    in_both_modes(&LabSpec::pair("own_frame"), |lab, _| {
        let (a, b) = (lab.instance("a1")?, lab.instance("b1")?);
        measure::ping_ok(a.ns(), b.v4()?)?;
        let node = lab.node("node-a")?;
        let before = ctl::sum(&node.stats()?, "loop");
        let at_b = Sniffer::start(b.ns(), "eth0")?;
        let frame = netns_tests::frames::ethernet(Mac::BROADCAST, ENDPOINT, &[], 0x88b5, b"round and round");
        PacketSocket::open(a.ns(), "eth0")?.send(&frame)?;
        wait_for("a drop for the loop", SOON, || node.stats().is_ok_and(|s| ctl::sum(&s, "loop") > before))?;
        measure::ping_ok(a.ns(), b.v4()?)?;
        expect(at_b.count(|seen, _| seen.ethertype == 0x88b5) == 0, || "the looped frame crossed".into())
    })
}

/// Strict: only bound MACs and addresses speak.
#[test]
fn strict_anti_spoof() -> Result<()> {
    in_both_modes_with(
        "strict",
        |lab, config| {
            config.set_network("anti_spoof", "\"strict\"");
            config.networks[0].bindings = bindings_of(lab);
        },
        |lab| {
            let (a, b) = (lab.instance("a1")?, lab.instance("b1")?);
            for ip in b.both()? {
                measure::ping_ok(a.ns(), ip)?;
            }
            let node = lab.node("node-a")?;
            let at_b = Sniffer::start(b.ns(), "eth0")?;
            let socket = PacketSocket::open(a.ns(), "eth0")?;
            let stranger: Mac = "02:00:00:00:0a:99".parse()?;
            let free: Ipv4Addr = "10.0.0.202".parse()?;
            let rows = [
                netns_tests::frames::ethernet(Mac::BROADCAST, stranger, &[], 0x88b5, b"who am I"),
                // A bound MAC that claims an address it does not have.
                Arp { op: 1, sha: a.mac()?, spa: free, tha: Mac::ZERO, tpa: free }.frame(Mac::BROADCAST),
            ];
            for (number, frame) in rows.iter().enumerate() {
                let before = ctl::sum(&node.stats()?, "spoof");
                socket.send(frame)?;
                wait_for(&format!("a drop for spoofed frame {number}"), SOON, || {
                    node.stats().is_ok_and(|now| ctl::sum(&now, "spoof") > before)
                })?;
            }
            measure::ping_ok(a.ns(), b.v4()?)?;
            let entered = at_b.count(|seen, _| {
                seen.ethertype == 0x88b5
                    || seen.ethertype == ARP && seen.arp.is_some_and(|arp| arp.spa == free)
            });
            expect(entered == 0, || format!("{entered} spoofed frames crossed"))
        },
    )
}

fn in_both_modes_with(
    name: &str,
    tweak: impl Fn(&Lab, &mut netns_tests::SwitchdConfig),
    body: impl Fn(&Lab) -> Result<()>,
) -> Result<()> {
    for mode in MODES {
        lab_test(LabSpec::pair(&format!("{name}_{mode}")), |lab| {
            lab.start_switchd(|config| {
                config.set_network("mode", &format!("{mode:?}"));
                tweak(lab, config);
            })?;
            body(lab)
        })?;
    }
    Ok(())
}
