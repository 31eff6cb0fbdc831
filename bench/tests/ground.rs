//! The lab of the suite is what a scenario says, and its proofs can fail. Needs root.

use std::time::Duration;

use anyhow::{Context, Result};
use bench::suite::{Contender, Ground, Scenario, contender, proof};
use netns_tests::packet::Sniffer;
use netns_tests::{expect, measure, require_root};

#[test]
fn plaintext_is_found_out() -> Result<()> {
    let ground = build("base")?;
    let vxlan = contender("vxlan")?;
    let mut running = vxlan.up(ground.lab())?;
    proof::check(ground.lab(), &running.arena, vxlan)?;
    let error = proof::check(ground.lab(), &running.arena, contender("switchd-quic")?)
        .expect_err("VXLAN's datagrams are not QUIC's");
    expect(error.to_string().contains("in none of its own"), || format!("{error:#}"))?;
    running.arena.encrypted = true;
    let error = proof::check(ground.lab(), &running.arena, vxlan).expect_err("VXLAN encrypts nothing");
    expect(error.to_string().contains("plaintext is on the wire"), || format!("{error:#}"))
}

#[test]
fn packets_are_lost_one_by_one() -> Result<()> {
    let ground = build("loss-1")?;
    let running = contender("vxlan")?.up(ground.lab())?;
    let sniffer = Sniffer::start(ground.lab().underlay(0), "p1")?;
    let arena = &running.arena;
    let rate = measure::iperf(arena.client, arena.server, arena.address, 1)?;
    let (all, long) = (sniffer.count(|_, _| true), sniffer.count(|_, frame| frame.bytes.len() > 1514));
    expect(all > 1000 && long == 0, || format!("{long} of {all} frames are super-frames, at {rate} b/s"))
}

#[test]
fn a_slow_link_is_slow_and_keeps_super_frames_whole() -> Result<()> {
    let ground = build("rtt-20ms")?;
    let running = contender("underlay")?.up(ground.lab())?;
    let arena = &running.arena;
    measure::ping_ok(arena.client, arena.address)?;
    let ping = measure::ping(arena.client, arena.address, 10, Duration::from_millis(50))?;
    let median = ping.median().context("no answer came")?;
    expect(median >= Duration::from_millis(20) && median < Duration::from_millis(40), || {
        format!("{median:?}")
    })?;
    let sniffer = Sniffer::start(ground.lab().underlay(0), "p2")?;
    measure::iperf(arena.client, arena.server, arena.address, 1)?;
    expect(sniffer.count(|_, frame| frame.bytes.len() > 9014) > 0, || "no super-frame crossed".to_owned())?;
    expect(ground.dropped() == 0, || format!("{} frames were dropped", ground.dropped()))
}

#[test]
fn a_shaped_link_has_its_rate() -> Result<()> {
    let ground = build("gigabit")?;
    let running = contender("underlay")?.up(ground.lab())?;
    let arena = &running.arena;
    let rate = measure::iperf(arena.client, arena.server, arena.address, 1)?;
    expect(rate > 0.5e9 && rate < 1.0e9, || format!("{rate} b/s"))
}

fn build(name: &str) -> Result<Ground> {
    require_root()?;
    netns_tests::sweep();
    let scenario = Scenario::all().into_iter().find(|scenario| scenario.name == name);
    Ground::build(&scenario.with_context(|| format!("no scenario {name}"))?)
}

fn contender(name: &str) -> Result<&'static dyn Contender> {
    contender::named(&[name.to_owned()])?.pop().with_context(|| format!("no contender {name}"))
}
