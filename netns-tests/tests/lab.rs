//! The lab itself, proved with the kernel's own bridge and VXLAN: what fails here is not the daemon's fault.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use netns_tests::dhcp::{DhcpServer, lease};
use netns_tests::frames::{EXPERIMENTAL, Mac, ethernet};
use netns_tests::packet::{PacketSocket, Sniffer};
use netns_tests::traffic::{Sequence, TcpFlow, UdpEcho, multicast, round_trips, tcp_both_ways};
use netns_tests::{LabSpec, expect, lab_test, measure, vxlan, wait_for};

/// Every kind of traffic that the tests use, between two instances of one bridge.
#[test]
fn traffic_tools_on_one_bridge() -> Result<()> {
    let spec = LabSpec::star("traffic_tools", 1, &["blue"], 2);
    lab_test(spec, |lab| {
        let (a, b) = (lab.instance("a1")?, lab.instance("a2")?);
        for ip in b.both()? {
            measure::ping_ok(a.ns(), ip)?;
            let echo = UdpEcho::start(b.ns(), ip)?;
            let from = if ip.is_ipv4() { a.v4()? } else { a.v6()? };
            expect(round_trips(a.ns(), from, echo.addr(), &[64, 1473, 9000, 65_507])? == 0, || {
                "loss".into()
            })?;
            tcp_both_ways(a.ns(), b.ns(), ip, 20 << 20, Duration::from_secs(2))?;
        }
        for group in ["239.1.2.3", "ff05::1234"] {
            let got = multicast(a.ns(), &[b.ns()], group.parse()?, 10)?;
            expect(got == [10], || format!("{got:?} of 10 to {group}"))?;
        }
        let result = Sequence::run(a.ns(), b.ns(), b.v4()?, 200, 100, Duration::from_millis(1))?;
        expect(result.received == 200 && result.reordered == 0, || format!("{result:?}"))?;

        let sniffer = Sniffer::start(b.ns(), "eth0")?;
        let frame = ethernet(b.mac()?, a.mac()?, &[7, 9], EXPERIMENTAL, b"tagged twice");
        PacketSocket::open(a.ns(), "eth0")?.send(&frame)?;
        let got =
            sniffer.wait("the tagged frame", Duration::from_secs(1), |f, _| f.ethertype == EXPERIMENTAL)?;
        expect(got.seen().vlans == [7, 9] && got.bytes == frame, || format!("{got:?}"))?;
        expect(sniffer.count(|f, _| f.dst == Mac::BROADCAST) == 0, || "a stray broadcast".into())
    })
}

/// Nodes reach each other through the underlay, and instances through kernel VXLAN.
#[test]
fn three_nodes_by_kernel_vxlan() -> Result<()> {
    lab_test(LabSpec::star("three_nodes_vxlan", 3, &["blue"], 1), |lab| {
        vxlan::build(lab)?;
        for (from, to) in [("a1", "b1"), ("b1", "c1"), ("c1", "a1")] {
            let (from, to) = (lab.instance(from)?, lab.instance(to)?);
            measure::ping_ok(from.ns(), vxlan::address(to)?)?;
        }
        let node = lab.node("node-a")?;
        for ip in [lab.node("node-b")?.underlay_v4(0), lab.node("node-b")?.underlay_v6(0)] {
            measure::ping_ok(node.ns(), ip)?;
        }
        let (a, b) = (lab.instance("a1")?, lab.instance("b1")?);
        let rate = measure::iperf(a.ns(), b.ns(), vxlan::address(b)?, 1)?;
        expect(rate > 1e8, || format!("{rate} bit/s"))
    })
}

/// Loss is near what the spec says, and a flow notices an interruption.
#[test]
fn loss_and_gaps() -> Result<()> {
    lab_test(LabSpec::pair("loss_and_gaps").loss(10.0), |lab| {
        let (a, b) = (lab.node("node-a")?, lab.node("node-b")?);
        let to: IpAddr = b.underlay_v4(0);
        let seen = Sequence::run(a.ns(), b.ns(), to, 2000, 200, Duration::from_micros(200))?;
        let lost = seen.sent - seen.received;
        expect((100..320).contains(&lost), || format!("{lost} of 2000 lost at 10 per cent"))?;

        let flow = TcpFlow::start(a.ns(), b.ns(), to)?;
        flow.advance(100_000, Duration::from_secs(5))?;
        a.ns().ip("link set eth0 down")?;
        let cut = std::time::Instant::now();
        netns_tests::wait_for("300 ms", Duration::from_secs(1), || cut.elapsed().as_millis() > 300)?;
        a.ns().ip("link set eth0 up")?;
        flow.advance(100_000, Duration::from_secs(5))?;
        expect(flow.worst_gap() > Duration::from_millis(290), || format!("{:?}", flow.worst_gap()))
    })
}

/// Two underlays with MTUs of their own; a packet beyond a hidden one vanishes.
#[test]
fn mtu_of_underlays() -> Result<()> {
    let mut spec = LabSpec::pair("mtu_of_underlays").underlay_mtu(1280);
    spec.underlays.push(netns_tests::UnderlaySpec { hidden_mtu: Some(1400), ..Default::default() });
    lab_test(spec, |lab| {
        let (a, b) = (lab.node("node-a")?, lab.node("node-b")?);
        let largest = |ip: IpAddr, payload: &str| -> Result<u32> {
            let options = ["-M", "do", "-s", payload];
            Ok(measure::ping_with(a.ns(), ip, 1, Duration::from_millis(10), &options)?.received)
        };
        let got = [
            largest(b.underlay_v4(0), "1252")?,
            largest(b.underlay_v4(1), "1372")?,
            largest(b.underlay_v4(1), "1472")?,
        ];
        expect(got == [1, 1, 0], || format!("{got:?}"))
    })
}

/// A lease and an address by SLAAC, from a neighbour on the same bridge.
#[test]
fn dhcp_tools_on_one_bridge() -> Result<()> {
    lab_test(LabSpec::star("dhcp_tools", 1, &["blue"], 2), |lab| {
        let (server, client) = (lab.instance("a1")?, lab.instance("a2")?);
        server.ns().ip("addr add fd00:5::1/64 dev eth0 nodad")?;
        let ranges = ["10.0.0.100,10.0.0.150,255.255.255.0,120", "fd00:5::,ra-only,64,120"];
        let _server = DhcpServer::start(server, lab.dir(), &ranges)?;
        let address = lease(client, lab.dir(), 3)?;
        expect(address.starts_with("10.0.0.1"), || format!("leased {address}"))?;
        wait_for("an address by SLAAC", Duration::from_secs(10), || {
            client.ns().ip("-6 addr show dev eth0 dynamic").is_ok_and(|text| text.contains("fd00:5::"))
        })
        .map(drop)
    })
}
