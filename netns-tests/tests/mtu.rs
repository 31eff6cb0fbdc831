//! Guests keep MTU 1500 on any underlay.

use std::time::Duration;

use anyhow::{Context, Result};
use netns_tests::traffic::{UdpEcho, round_trips, tcp_both_ways};
use netns_tests::{Lab, LabSpec, UnderlaySpec, expect, lab_test};

/// UDP payloads: small, around every boundary that a header, a segment or a fragment makes, and the largest.
const SIZES: [usize; 20] = [
    64, 500, 1180, 1220, 1232, 1233, 1300, 1352, 1353, 1372, 1400, 1452, 1453, 1472, 1473, 2000, 8972,
    20_000, 65_000, 65_507,
];

fn all_sizes_and_tcp(lab: &Lab, tcp_bytes: u64) -> Result<()> {
    let (a, b) = (lab.instance("a1")?, lab.instance("b1")?);
    for (from, to) in [(a, b), (b, a)] {
        for ip in to.both()? {
            let echo = UdpEcho::start(to.ns(), ip)?;
            let own = if ip.is_ipv4() { from.v4()? } else { from.v6()? };
            let again = round_trips(from.ns(), own, echo.addr(), &SIZES)?;
            expect(again == 0, || format!("{again} of {} UDP payloads were lost to {ip}", SIZES.len()))?;
        }
    }
    for ip in b.both()? {
        tcp_both_ways(a.ns(), b.ns(), ip, tcp_bytes, Duration::from_secs(3))
            .with_context(|| format!("TCP with {ip}"))?;
    }
    Ok(())
}

fn row(mtu: u32, offloads: bool) -> Result<()> {
    let spec = LabSpec::pair(&format!("mtu_{mtu}_{}", if offloads { "offloads" } else { "plain" }));
    lab_test(spec.underlay_mtu(mtu), |lab| {
        lab.start_switchd(|config| config.set_network("offloads", &offloads.to_string()))?;
        if !offloads {
            // As a guest without virtio offloads would send: whole frames with whole checksums.
            for instance in lab.instances() {
                instance.ns().exec(&[
                    "ethtool", "-K", "eth0", "tso", "off", "gso", "off", "gro", "off", "tx", "off",
                ])?;
            }
        }
        all_sizes_and_tcp(lab, 30 << 20)
    })
}

#[test]
fn underlay_1500_with_offloads() -> Result<()> {
    row(1500, true)
}

#[test]
fn underlay_1500_without_offloads() -> Result<()> {
    row(1500, false)
}

#[test]
fn underlay_1400_with_offloads() -> Result<()> {
    row(1400, true)
}

#[test]
fn underlay_1400_without_offloads() -> Result<()> {
    row(1400, false)
}

#[test]
fn underlay_1280_with_offloads() -> Result<()> {
    row(1280, true)
}

#[test]
fn underlay_1280_without_offloads() -> Result<()> {
    row(1280, false)
}

/// Jumbo underlay, and guests of 9000 on it.
#[test]
fn jumbo_guests() -> Result<()> {
    let spec = LabSpec::pair("jumbo").underlay_mtu(9216).each_instance(|instance| instance.mtu = 9000);
    lab_test(spec, |lab| {
        lab.start_switchd(|config| {
            config.set_network("mtu", "9000");
            config.set_link("underlay_mtu", "9216");
        })?;
        all_sizes_and_tcp(lab, 30 << 20)
    })
}

/// The nodes believe in 1500, the path carries 1400 and says nothing about it.
#[test]
fn hidden_bottleneck() -> Result<()> {
    let mut spec = LabSpec::pair("hidden_bottleneck");
    spec.underlays = vec![UnderlaySpec { hidden_mtu: Some(1400), ..UnderlaySpec::default() }];
    lab_test(spec, |lab| {
        lab.start_switchd(|_| {})?;
        all_sizes_and_tcp(lab, 10 << 20)
    })
}

/// One packet in a hundred vanishes; TCP goes on and every byte is right.
#[test]
fn one_per_cent_loss() -> Result<()> {
    lab_test(LabSpec::pair("loss").loss(1.0), |lab| {
        lab.start_switchd(|_| {})?;
        let (a, b) = (lab.instance("a1")?, lab.instance("b1")?);
        for ip in b.both()? {
            let took = tcp_both_ways(a.ns(), b.ns(), ip, 10 << 20, Duration::from_secs(5))?;
            expect(took < Duration::from_secs(20), || format!("20 MB took {took:?}"))?;
        }
        Ok(())
    })
}
