//! Nothing gets in that should not, nothing stops, and each drop has its reason.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netns_tests::frames::{
    ARP, Arp, EXPERIMENTAL, IPV4, IPV6, Mac, Nd, SOLICITATION, Seen, ethernet, udp_v4,
};
use netns_tests::packet::{PacketSocket, Sniffer};
use netns_tests::{Instance, Lab, LabSpec, Node, ctl, expect, lab_test, measure, wait_for, wait_ok};

/// Bytes of Ethernet, IPv4 and UDP headers in front of a datagram on the underlay.
const UNDERLAY_HEADERS: usize = 14 + 20 + 8;
/// Bytes of a sealed datagram's header (docs/wire-format.md).
const HEADER: usize = 16;

/// Writes datagrams to a node as if they came from another.
struct Injector {
    socket: PacketSocket,
    macs: [Mac; 2],
    from: Ipv4Addr,
    to: Ipv4Addr,
}

impl Injector {
    /// Towards node 2 of the lab, in the name of node 1.
    fn new(lab: &Lab, sample: &Seen) -> Result<Injector> {
        let v4 = |node: &Node| match node.underlay_v4(0) {
            IpAddr::V4(v4) => Ok(v4),
            IpAddr::V6(_) => Err(anyhow::anyhow!("the underlay address is not IPv4")),
        };
        Ok(Injector {
            socket: PacketSocket::open(lab.underlay(0), "p2")?,
            macs: [sample.dst, sample.src],
            from: v4(lab.node("node-a")?)?,
            to: v4(lab.node("node-b")?)?,
        })
    }

    fn send(&self, payload: &[u8]) -> Result<()> {
        self.socket.send(&udp_v4(self.macs, (self.from, 4840), (self.to, 4840), payload))?;
        // Paced, so that the daemon's socket buffer holds them all and every one is counted.
        std::thread::sleep(Duration::from_micros(60));
        Ok(())
    }
}

/// Deterministic noise (xorshift64*).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 16) as usize % n
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }
}

/// Sealed datagrams from node-a to node-b that carried marked frames, as seen on the underlay.
fn capture_sealed(lab: &Lab, a: &Instance, b: &Instance) -> Result<(Seen, Vec<Vec<u8>>)> {
    measure::ping_ok(a.ns(), b.v4()?)?;
    let arrived = Sniffer::start(b.ns(), "eth0")?;
    let underlay = Sniffer::start(lab.underlay(0), "p2")?;
    let socket = PacketSocket::open(a.ns(), "eth0")?;
    for i in 0..100u8 {
        let payload = vec![i; 50 + 10 * usize::from(i)];
        socket.send(&ethernet(b.mac()?, a.mac()?, &[], EXPERIMENTAL, &payload))?;
        std::thread::sleep(Duration::from_millis(1));
    }
    wait_for("the marked frames on b1", Duration::from_secs(3), || {
        arrived.count(|f, _| f.ethertype == EXPERIMENTAL) == 100
    })?;
    // On p2, what the underlay's bridge sends is on its way to node-b.
    let sealed = underlay.frames(|seen, frame| {
        frame.sent
            && frame.bytes.len() <= 1514
            && seen.udp.is_some_and(|(_, to)| to == 4840)
            && frame.bytes.get(UNDERLAY_HEADERS).is_some_and(|first| (128..192).contains(first))
    });
    let sample = sealed.first().context("no sealed datagram was seen on the underlay")?.seen();
    ensure!(sealed.len() >= 50, "only {} sealed datagrams were seen", sealed.len());
    let payload = |bytes: &[u8]| {
        // Ethernet pads short frames: the UDP header says how long the datagram is.
        let len = usize::from(u16::from_be_bytes([bytes[38], bytes[39]]));
        bytes[UNDERLAY_HEADERS..].iter().copied().take(len - 8).collect()
    };
    Ok((sample, sealed.iter().map(|f| payload(&f.bytes)).collect()))
}

fn drops(node: &Node, reasons: &[&str]) -> Result<u64> {
    let stats = node.stats()?;
    Ok(reasons.iter().map(|reason| ctl::sum(&stats, reason)).sum())
}

/// 10,000 datagrams made from real ones, in the name of the peer.
#[test]
fn mutated_truncated_and_replayed_datagrams() -> Result<()> {
    const UNAUTHENTIC: [&str; 4] = ["bad_tag", "replayed", "unknown_receiver", "bad_datagram"];
    lab_test(LabSpec::pair("mutated_datagrams"), |lab| {
        // Long enough for the captured session to be the one in use to the end.
        lab.start_switchd(|config| config.set_link("rekey_after", "\"1h\""))?;
        let (a, b) = (lab.instance("a1")?, lab.instance("b1")?);
        let node = lab.node("node-b")?;
        let (sample, sealed) = capture_sealed(lab, a, b)?;
        let injector = Injector::new(lab, &sample)?;
        let mut noise = Noise(0x5eed);
        let guest = Sniffer::start(b.ns(), "eth0")?;

        type Mutation = fn(&mut Vec<u8>, &mut Noise);
        let rows: [(&str, usize, Mutation, &[&str]); 6] = [
            ("replayed", 2500, |_, _| {}, &["replayed"]),
            (
                "flipped bits",
                3500,
                |d, n| {
                    for _ in 0..=n.below(4) {
                        // From the counter on; a bit is flipped once, or two flips could cancel.
                        let at = 8 + n.below(d.len() - 8);
                        d[at] = d[at].wrapping_add(1 + n.below(60) as u8);
                    }
                },
                &["bad_tag", "replayed"],
            ),
            (
                "truncated",
                1500,
                |d, n| d.truncate(1 + n.below(d.len() - 1)),
                &["bad_tag", "replayed", "bad_datagram"],
            ),
            (
                "another receiver",
                1000,
                |d, n| {
                    let index = n.bytes(4);
                    d[4..8].copy_from_slice(&index);
                },
                &["unknown_receiver"],
            ),
            ("reserved bits", 500, |d, n| d[1 + n.below(3)] |= 1 << n.below(8), &["bad_datagram"]),
            (
                "noise",
                1000,
                |d, n| {
                    let body = 1 + n.below(1400);
                    *d = n.bytes(body);
                },
                &[],
            ),
        ];
        for (what, count, mutate, reasons) in rows {
            let before = drops(node, reasons)?;
            for i in 0..count {
                let mut datagram = sealed[i % sealed.len()].clone();
                mutate(&mut datagram, &mut noise);
                injector.send(&datagram)?;
            }
            // 1 in 100 may be lost between the injector and the daemon on a busy machine.
            let wanted = if reasons.is_empty() { 0 } else { count as u64 * 99 / 100 };
            wait_for(
                &format!("{wanted} drops of {what} datagrams for {reasons:?}"),
                Duration::from_secs(5),
                || drops(node, reasons).is_ok_and(|now| now - before >= wanted),
            )?;
        }
        wait_for("a reason for every drop", Duration::from_secs(3), || {
            drops(node, &UNAUTHENTIC).is_ok_and(|all| all >= 8900)
        })?;
        let entered = guest.frames(|f, frame| !frame.sent && ![ARP, IPV4, IPV6].contains(&f.ethertype));
        expect(entered.is_empty(), || format!("{} frames got in: {:?}", entered.len(), entered[0].seen()))?;
        expect(node.switchd_runs(), || "the daemon ended".into())?;
        for (from, to) in [(a, b), (b, a)] {
            for ip in to.both()? {
                measure::ping_ok(from.ns(), ip)?;
            }
        }
        let link = ctl::link(&node.ctl(&["links"])?, "node-a").cloned().unwrap_or_default();
        expect(link["reconnects"] == 0, || format!("the link was disturbed: {link}"))
    })
}

/// An instance sends whatever comes to its mind.
#[test]
fn random_frames_from_an_instance() -> Result<()> {
    lab_test(LabSpec::pair("random_frames"), |lab| {
        lab.start_switchd(|_| {})?;
        let (a, b) = (lab.instance("a1")?, lab.instance("b1")?);
        measure::ping_ok(a.ns(), b.v4()?)?;
        let node = lab.node("node-a")?;
        let before = node.stats()?;
        let socket = PacketSocket::open(a.ns(), "eth0")?;
        let mut noise = Noise(7);
        for i in 0..10_000 {
            let frame = random_frame(&mut noise, a.mac()?);
            socket.send(&frame).with_context(|| format!("frame {i}"))?;
            if i % 100 == 0 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        for reason in ["bad_arp", "bad_nd"] {
            wait_for(&format!("drops for {reason}"), Duration::from_secs(3), || {
                node.stats().is_ok_and(|now| ctl::sum(&now, reason) > ctl::sum(&before, reason))
            })?;
        }
        for node in lab.nodes() {
            expect(node.switchd_runs(), || {
                format!("the daemon on {} ended:\n{}", node.name(), node.log_tail(20))
            })?;
        }
        // The guests' own caches may hold nonsense from the noise; the network does not.
        for (from, to) in [(a, b), (b, a)] {
            for ip in to.both()? {
                wait_ok("traffic after the noise", Duration::from_secs(5), || {
                    from.flush_neighbours()?;
                    measure::ping_ok(from.ns(), ip)
                })?;
            }
        }
        Ok(())
    })
}

fn random_frame(noise: &mut Noise, own: Mac) -> Vec<u8> {
    let random_mac = |noise: &mut Noise| Mac(noise.bytes(6).try_into().unwrap_or_default());
    let dst = match noise.below(4) {
        0 => Mac::BROADCAST,
        1 => Mac([2, 0x73, 0x77, 0, 0, 100]),
        2 => Mac([0x33, 0x33, 0, 0, 0, 1]),
        _ => random_mac(noise),
    };
    let mut frame = match noise.below(4) {
        0 => {
            let sender = Ipv4Addr::from(noise.next() as u32);
            let arp = Arp { op: noise.below(4) as u16, sha: own, spa: sender, tha: Mac::ZERO, tpa: sender };
            arp.frame(dst)
        }
        1 => {
            let ip = |noise: &mut Noise| noise.bytes(16).try_into().map(|b: [u8; 16]| b.into());
            let any = std::net::Ipv6Addr::UNSPECIFIED;
            let (src, target) = (ip(noise).unwrap_or(any), ip(noise).unwrap_or(any));
            let nd = Nd {
                kind: SOLICITATION + noise.below(2) as u8,
                src,
                dst: Nd::solicited_node(target),
                flags: noise.next() as u8,
                target,
                link_layer: Some(own),
            };
            nd.frame(dst, own)
        }
        kind => {
            let ethertype =
                if kind == 2 { [ARP, IPV4, IPV6, 0x8100][noise.below(4)] } else { noise.next() as u16 };
            let len = noise.below(1400);
            let body = noise.bytes(len);
            ethernet(dst, own, &[], ethertype, &body)
        }
    };
    for _ in 0..noise.below(4) {
        let at = 12 + noise.below(frame.len() - 12);
        frame[at] = noise.next() as u8;
    }
    let keep = if noise.below(3) == 0 { 14 + noise.below(frame.len() - 14) } else { frame.len() };
    frame.truncate(keep);
    frame
}

/// A node that knows its peers, but whose key they do not know.
#[test]
fn peer_with_a_wrong_key() -> Result<()> {
    lab_test(LabSpec::star("wrong_key", 3, &["blue"], 1), |lab| {
        let stranger = lab.node("node-c")?;
        // The others expect the key that node-c had before it made itself another.
        let configs = lab.configs()?;
        std::fs::remove_file(stranger.dir().join("private.key"))?;
        stranger.public_key()?;
        for config in configs {
            lab.node(&config.node)?.start_switchd(&config)?;
        }
        let (a, b) = (lab.node("node-a")?, lab.node("node-b")?);
        a.wait_link("node-b", true)?;
        b.wait_link("node-a", true)?;
        wait_for("a reason on node-c", Duration::from_secs(8), || {
            stranger
                .ctl(&["links"])
                .is_ok_and(|links| ctl::link(&links, "node-b").is_some_and(|l| l["last_error"].is_string()))
        })?;
        let (intruder, guest) = (lab.instance("c1")?, lab.instance("b1")?);
        let sniffer = Sniffer::start(guest.ns(), "eth0")?;
        let socket = PacketSocket::open(intruder.ns(), "eth0")?;
        for _ in 0..100 {
            socket.send(&ethernet(Mac::BROADCAST, intruder.mac()?, &[], EXPERIMENTAL, b"let me in"))?;
        }
        let ping = measure::ping(intruder.ns(), guest.v4()?, 3, Duration::from_millis(50))?;
        expect(ping.received == 0, || format!("a stranger reached b1: {ping:?}"))?;
        let mac = intruder.mac()?;
        let entered = sniffer.count(|f, _| f.src == mac || f.ethertype == EXPERIMENTAL);
        expect(entered == 0, || format!("{entered} frames of a stranger got in"))?;
        for node in [a, b] {
            let links = node.ctl(&["links"])?;
            expect(!ctl::link_up(&links, "node-c"), || format!("a link with a wrong key: {links}"))?;
        }
        measure::ping_ok(lab.instance("a1")?.ns(), guest.v4()?)
    })
}

/// A datagram shorter than a header, an empty one, and floods of both, cost nothing but a count.
#[test]
fn datagrams_too_short_to_be_anything() -> Result<()> {
    lab_test(LabSpec::pair("short_datagrams"), |lab| {
        lab.start_switchd(|_| {})?;
        let (a, b) = (lab.instance("a1")?, lab.instance("b1")?);
        let node = lab.node("node-b")?;
        let (sample, sealed) = capture_sealed(lab, a, b)?;
        let injector = Injector::new(lab, &sample)?;
        let before = drops(node, &["bad_datagram"])?;
        injector.send(&[])?;
        for len in 1..HEADER + 16 {
            injector.send(&sealed[0][..len])?;
        }
        wait_for("a count of short datagrams", Duration::from_secs(3), || {
            drops(node, &["bad_datagram"]).is_ok_and(|now| now - before >= (HEADER + 15) as u64)
        })?;
        measure::ping_ok(a.ns(), b.v4()?)
    })
}

/// A stranger who sends what cannot be answered, or repeats a peer's datagrams from his own address, changes neither
/// how the node sends nor where.
#[test]
fn strangers_change_no_path() -> Result<()> {
    lab_test(LabSpec::pair("strangers"), |lab| {
        lab.start_switchd(|config| config.set_link("rekey_after", "\"1h\""))?;
        let (a, b) = (lab.instance("a1")?, lab.instance("b1")?);
        let node = lab.node("node-b")?;
        let (sample, sealed) = capture_sealed(lab, a, b)?;
        let injector = Injector::new(lab, &sample)?;
        let address = ctl::link(&node.ctl(&["links"])?, "node-a").context("no link")?["address"].clone();
        let before = drops(node, &["bad_datagram", "replayed"])?;

        // QUIC of an unknown version is answered, and an answer to port 0 is an error of the socket.
        let mut unknown_version = vec![0xc0, 0xba, 0xba, 0xba, 0xba, 8, 1, 2, 3, 4, 5, 6, 7, 8, 8];
        unknown_version.resize(1200, 7);
        let to = (injector.to, 4840);
        for (ip, port) in [(injector.from, 0), (Ipv4Addr::new(10, 99, 0, 77), 0)] {
            injector.socket.send(&udp_v4(injector.macs, (ip, port), to, &unknown_version))?;
        }
        for datagram in &sealed[..20] {
            injector.socket.send(&udp_v4(injector.macs, (Ipv4Addr::new(10, 99, 0, 77), 9), to, datagram))?;
        }
        wait_for("the strangers' datagrams to be counted", Duration::from_secs(3), || {
            drops(node, &["bad_datagram", "replayed"]).is_ok_and(|now| now >= before + 22)
        })?;

        measure::iperf(b.ns(), a.ns(), a.v4()?, 1)?;
        let links = node.ctl(&["links"])?;
        let link = ctl::link(&links, "node-a").context("no link")?;
        expect(link["address"] == address, || format!("the peer was moved: {link}"))?;
        wait_ok("sends of many datagrams", Duration::from_secs(3), || {
            let stats = node.stats()?;
            let counts = stats["batches_to_peer"]["counts"].as_array().context("no histogram")?;
            let many: u64 = counts.iter().rev().take(4).filter_map(serde_json::Value::as_u64).sum();
            ensure!(many > 100, "segmentation offload is off: {counts:?}");
            Ok(())
        })
    })
}
