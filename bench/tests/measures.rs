//! Every measure once, in a lab of two nodes. Needs root.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use bench::suite::{Arena, Measure};
use netns_tests::{Lab, LabSpec, Node, expect, lab_test, measure, vxlan};

/// Through kernel VXLAN: no daemon.
#[test]
fn kernel_vxlan_is_measured_and_left_as_it_was() -> Result<()> {
    lab_test(LabSpec::pair("measures"), |lab| {
        vxlan::build(lab)?;
        let arena = plain(lab)?;
        let offloads = || arena.client.exec(&["ethtool", "-k", "vx0"]);
        let before = offloads()?;
        let figures = measure_all(&arena, Duration::from_millis(600))?;
        expect(before == offloads()?, || "the offloads of vx0 are not what they were".to_owned())?;
        for name in ["tcp-1-flow", "tcp-4-flows", "tcp-both", "tcp-no-offload", "loaded-tcp-flow"] {
            expect(figures[name] > 0.01 && figures[name] < 1000.0, || {
                format!("{name}: {} Gb/s", figures[name])
            })?;
        }
        for name in ["udp-64", "udp-512", "udp-1400", "udp-8192", "udp-request-rate"] {
            expect(figures[name] > 100.0, || format!("{name}: {} in a second", figures[name]))?;
        }
        for name in ["udp-request-spaced", "tcp-request", "udp-request-loaded"] {
            let at = |percentile| figures[format!("{name}-{percentile}").as_str()];
            expect(at("p50") > 1.0 && at("p50") <= at("p99") && at("p99") <= at("p99.9"), || {
                format!("{name}: {} {} {} µs", at("p50"), at("p99"), at("p99.9"))
            })?;
        }
        // Now and then it is the kernel itself, when it moves the sender to another core.
        expect(figures["udp-64-reordered"] < figures["udp-64"] / 100.0, || {
            format!("{} datagrams reordered", figures["udp-64-reordered"])
        })?;
        // What it costs is nobody's process.
        expect(figures["cpu-machine"] > 0.0, || "a flow cost nothing".to_owned())?;
        expect(!figures.contains_key("cpu-daemons") && !figures.contains_key("memory"), || {
            "the kernel has no daemons".to_owned()
        })
    })
}

/// Through the shipped daemon, beside the bare underlay.
#[test]
#[ignore = "takes a minute, and release binaries by SWITCHD_BIN and SWITCHCTL_BIN"]
fn switchd_is_measured() -> Result<()> {
    lab_test(LabSpec::pair("measures"), |lab| {
        let underlay = underlay(lab)?;
        vxlan::build(lab)?;
        lab.start_switchd(|_| {})?;
        let (a, b) = (lab.instance("a1")?, lab.instance("b1")?);
        let daemons = lab.nodes().iter().map(Node::switchd_pid).collect::<Result<_>>()?;
        let sealed = Arena {
            contender: "switchd",
            client: a.ns(),
            server: b.ns(),
            address: b.v4()?,
            client_address: a.v4()?,
            daemons,
            encrypted: true,
        };
        for arena in [&underlay, &plain(lab)?, &sealed] {
            println!("\n{}", arena.contender);
            measure_all(arena, Duration::from_secs(2))?;
        }
        Ok(())
    })
}

fn measure_all(arena: &Arena<'_>, time: Duration) -> Result<BTreeMap<&'static str, f64>> {
    let mut all = BTreeMap::new();
    // What the bench alone needs may not be there.
    let there = |measure: &Measure| *measure != Measure::Qperf || measure::have("qperf");
    for measure in Measure::all().into_iter().filter(there) {
        let begun = std::time::Instant::now();
        let figures = measure.run(arena, time)?;
        println!("{} took {:.1} s", measure.name(), begun.elapsed().as_secs_f64());
        for figure in figures {
            println!("    {:<28} {:>14.3} {}", figure.name, figure.value, figure.unit);
            assert!(all.insert(figure.name, figure.value).is_none(), "{} came twice", figure.name);
        }
    }
    Ok(all)
}

fn plain(lab: &Lab) -> Result<Arena<'_>> {
    let (a, b) = (lab.instance("a1")?, lab.instance("b1")?);
    let (client_address, address) = (vxlan::address(a)?, vxlan::address(b)?);
    measure::ping_ok(a.ns(), address)?;
    Ok(Arena {
        contender: "vxlan",
        client: a.ns(),
        server: b.ns(),
        address,
        client_address,
        daemons: Vec::new(),
        encrypted: false,
    })
}

fn underlay(lab: &Lab) -> Result<Arena<'_>> {
    let (a, b) = (lab.node("node-a")?, lab.node("node-b")?);
    Ok(Arena {
        contender: "underlay",
        client: a.ns(),
        server: b.ns(),
        address: b.underlay_v4(0),
        client_address: a.underlay_v4(0),
        daemons: Vec::new(),
        encrypted: false,
    })
}
