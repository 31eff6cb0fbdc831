//! Instances on different nodes share one layer-2 segment.

use std::time::Duration;

use anyhow::Result;
use netns_tests::dhcp::{DhcpServer, lease};
use netns_tests::frames::{EXPERIMENTAL, Mac, ethernet};
use netns_tests::packet::{PacketSocket, Sniffer};
use netns_tests::traffic::{UdpEcho, multicast, round_trips, tcp_both_ways};
use netns_tests::{Instance, Lab, LabSpec, UnderlaySpec, expect, lab_test, measure, wait_for, wait_ok};

const MODES: [&str; 2] = ["rewrite", "preserve"];

/// A lab of this shape with its daemons up, in one mode.
fn in_mode(spec: LabSpec, mode: &str, body: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    let spec = LabSpec { name: format!("{}_{mode}", spec.name), ..spec };
    lab_test(spec, |lab| {
        lab.start_switchd(|config| config.set_network("mode", &format!("{mode:?}")))?;
        body(lab)
    })
}

fn ping_tcp_udp(a: &Instance, b: &Instance) -> Result<()> {
    for ip in b.both()? {
        measure::ping_ok(a.ns(), ip)?;
        let echo = UdpEcho::start(b.ns(), ip)?;
        let from = if ip.is_ipv4() { a.v4()? } else { a.v6()? };
        let again = round_trips(a.ns(), from, echo.addr(), &[64, 1000, 1472, 1473, 8000])?;
        expect(again == 0, || format!("{again} UDP datagrams were lost"))?;
        tcp_both_ways(a.ns(), b.ns(), ip, 10 << 20, Duration::from_secs(3))?;
    }
    Ok(())
}

#[test]
fn ping_tcp_and_udp_in_both_modes() -> Result<()> {
    for mode in MODES {
        in_mode(LabSpec::pair("ping_tcp_udp"), mode, |lab| {
            ping_tcp_udp(lab.instance("a1")?, lab.instance("b1")?)
        })?;
    }
    Ok(())
}

/// Only what answers on the same link: link-local addresses, made by the kernel, resolved by ND.
#[test]
fn link_local_ipv6() -> Result<()> {
    for mode in MODES {
        in_mode(LabSpec::pair("link_local"), mode, |lab| {
            let (a, b) = (lab.instance("a1")?, lab.instance("b1")?);
            let text = wait_ok("b1's link-local address", Duration::from_secs(3), || {
                b.ns().ip("-6 -o addr show dev eth0 scope link -tentative")
            })?;
            let address = text.split_whitespace().skip_while(|w| *w != "inet6").nth(1).unwrap_or_default();
            let ip = address.split('/').next().unwrap_or_default().parse()?;
            measure::ping_ok_with(a.ns(), ip, &["-I", "eth0"])
        })?;
    }
    Ok(())
}

/// dnsmasq on one node; udhcpc and the kernel's SLAAC on another.
#[test]
fn dhcp_and_slaac_in_both_modes() -> Result<()> {
    for mode in MODES {
        in_mode(LabSpec::pair("dhcp"), mode, |lab| {
            let (server, client) = (lab.instance("a1")?, lab.instance("b1")?);
            server.ns().ip("addr add fd00:5::1/64 dev eth0 nodad")?;
            let ranges = ["10.0.0.100,10.0.0.150,255.255.255.0,120", "fd00:5::,ra-only,64,120"];
            let _server = DhcpServer::start(server, lab.dir(), &ranges)?;
            let address = lease(client, lab.dir(), 5)?;
            expect(address.starts_with("10.0.0.1") && address.len() == 10, || format!("leased {address}"))?;
            wait_for("an address by SLAAC on b1", Duration::from_secs(10), || {
                client.ns().ip("-6 addr show dev eth0 dynamic").is_ok_and(|text| text.contains("fd00:5::"))
            })?;
            measure::ping_ok(client.ns(), "fd00:5::1".parse()?)
        })?;
    }
    Ok(())
}

#[test]
fn multicast_reaches_every_node_once() -> Result<()> {
    for mode in MODES {
        in_mode(LabSpec::star("multicast", 3, &["blue"], 1), mode, |lab| {
            let (a, b, c) = (lab.instance("a1")?, lab.instance("b1")?, lab.instance("c1")?);
            for group in ["239.1.2.3", "ff05::1234"] {
                let sniffer = Sniffer::start(b.ns(), "eth0")?;
                let got = multicast(a.ns(), &[b.ns(), c.ns()], group.parse()?, 20)?;
                expect(got == [20, 20], || format!("{got:?} of 20 to {group}"))?;
                // A second copy would come before the answers to these.
                measure::ping_ok(b.ns(), a.v4()?)?;
                let copies = || sniffer.count(|f, _| f.udp.is_some_and(|(_, to)| to == 5353));
                wait_for("every datagram at the sniffer", Duration::from_secs(2), || copies() >= 20)?;
                expect(copies() == 20, || format!("{} copies of 20 datagrams to {group}", copies()))?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Unicast, broadcast and VLAN-tagged frames of an EtherType that nobody knows arrive as they were sent.
#[test]
fn unknown_ethertypes_and_vlan_tags() -> Result<()> {
    for mode in MODES {
        in_mode(LabSpec::pair("ethertype"), mode, |lab| {
            let (a, b) = (lab.instance("a1")?, lab.instance("b1")?);
            measure::ping_ok(a.ns(), b.v4()?)?;
            let sniffer = Sniffer::start(b.ns(), "eth0")?;
            let socket = PacketSocket::open(a.ns(), "eth0")?;
            let rows: [(Mac, &[u16]); 5] = [
                (b.mac()?, &[]),
                (Mac::BROADCAST, &[]),
                ("01:00:5e:00:00:99".parse()?, &[]),
                (b.mac()?, &[42]),
                (Mac::BROADCAST, &[100, 0x6007]),
            ];
            for (number, (dst, vlans)) in rows.into_iter().enumerate() {
                let payload = [&[number as u8][..], &[0x5a; 1490]].concat();
                let frame = ethernet(dst, a.mac()?, vlans, EXPERIMENTAL, &payload);
                socket.send(&frame)?;
                let what = format!("the frame to {dst} with tags {vlans:?}");
                let got = sniffer.wait(&what, Duration::from_secs(2), |f, _| {
                    f.ethertype == EXPERIMENTAL && f.payload.first() == Some(&(number as u8))
                })?;
                expect(got.bytes == frame, || format!("{what} arrived changed: {:02x?}", &got.bytes[..32]))?;
            }
            let copies = sniffer.count(|f, _| f.ethertype == EXPERIMENTAL);
            expect(copies == rows.len(), || format!("{copies} frames arrived, {} were sent", rows.len()))
        })?;
    }
    Ok(())
}

#[test]
fn three_nodes_all_pairs() -> Result<()> {
    for mode in MODES {
        in_mode(LabSpec::star("three_nodes", 3, &["blue"], 2), mode, |lab| {
            for from in lab.instances() {
                for to in lab.instances().iter().filter(|to| to.name() != from.name()) {
                    for ip in to.both()? {
                        measure::ping_ok(from.ns(), ip)
                            .map_err(|e| e.context(format!("from {}", from.name())))?;
                    }
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// The same addresses in two networks: each asks and reaches its own, and a broadcast stays where it was sent.
#[test]
fn two_networks_with_the_same_addresses() -> Result<()> {
    in_mode(LabSpec::star("two_networks", 2, &["blue", "red"], 1), "rewrite", |lab| {
        for (from, to) in [("a1", "b1"), ("red-a1", "red-b1")] {
            let (from, to) = (lab.instance(from)?, lab.instance(to)?);
            for ip in to.both()? {
                let sniffer = Sniffer::start(to.ns(), "eth0")?;
                measure::ping_ok(from.ns(), ip)?;
                expect(sniffer.count(|_, f| !f.sent) >= 3, || format!("{ip} was answered by someone else"))?;
            }
        }
        let other = Sniffer::start(lab.instance("red-b1")?.ns(), "eth0")?;
        let own = Sniffer::start(lab.instance("b1")?.ns(), "eth0")?;
        let a = lab.instance("a1")?;
        let frame = ethernet(Mac::BROADCAST, a.mac()?, &[], EXPERIMENTAL, b"blue only");
        PacketSocket::open(a.ns(), "eth0")?.send(&frame)?;
        own.wait("the broadcast in its network", Duration::from_secs(2), |f, _| f.ethertype == EXPERIMENTAL)?;
        // Behind it on the same path: once this is through, the broadcast would have been.
        measure::ping_ok(lab.instance("red-a1")?.ns(), lab.instance("red-b1")?.v4()?)?;
        let leaked = other.count(|f, _| f.ethertype == EXPERIMENTAL);
        expect(leaked == 0, || format!("{leaked} frames leaked into the other network"))
    })
}

/// The underlay may be IPv6 only.
#[test]
fn ipv6_underlay() -> Result<()> {
    let spec = LabSpec { underlays: vec![UnderlaySpec::default()], ..LabSpec::pair("ipv6_underlay") };
    lab_test(spec, |lab| {
        lab.start_switchd(|config| {
            for peer in &mut config.peers {
                let node = lab.node(&peer.name).ok();
                peer.address = node.map(|node| node.underlay_socket_v6(0));
            }
        })?;
        ping_tcp_udp(lab.instance("a1")?, lab.instance("b1")?)
    })
}

/// A node whose address the other does not know dials, and frames go both ways.
#[test]
fn only_one_side_knows_the_address() -> Result<()> {
    lab_test(LabSpec::pair("one_address"), |lab| {
        lab.start_switchd(|config| {
            if config.node == "node-a" {
                config.peers[0].address = None;
            }
        })?;
        ping_tcp_udp(lab.instance("a1")?, lab.instance("b1")?)
    })
}
