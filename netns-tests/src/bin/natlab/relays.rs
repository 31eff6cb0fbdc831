//! Throughput of the same two nodes directly and through a relay.

use std::time::Duration;

use anyhow::{Context, Result};
use netns_tests::measure;
use netns_tests::nat::preset::PORT_RESTRICTED;
use netns_tests::nat::{Coturn, Cut, NO_RELAY, NatLab, NatSpec, SERVER_1, Users};
use serde_json::json;

use super::{Done, keep};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Interleaved rounds, of which the median counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each TCP flow
    #[arg(long, default_value_t = 3)]
    seconds: u32,
}

pub(super) fn run(args: &Args) -> Result<Done> {
    let mut table = format!(
        "One TCP flow by iperf3, {} s, between instances of two nodes behind port-restricted NATs; {} rounds \
         interleaved, median, Gb/s.\n\n| relay | direct | relayed | ratio |\n|---|---|---|---|\n",
        args.seconds, args.rounds
    );
    let (mut failures, mut all) = (Vec::new(), Vec::new());
    for relay in ["the controller's", "coturn"] {
        match of(relay, args) {
            Ok((direct, relayed)) => {
                let medians = (measure::median(&direct) / 1e9, measure::median(&relayed) / 1e9);
                let ratio = medians.1 / medians.0;
                table += &format!("| {relay} | {:.2} | {:.2} | {ratio:.2} |\n", medians.0, medians.1);
                all.push(json!({ "relay": relay, "direct_bits": direct, "relayed_bits": relayed }));
            }
            Err(error) => {
                table += &format!("| {relay} | - | - | - |\n");
                failures.push(format!("{relay} relay: {error:#}"));
            }
        }
    }
    keep("nat-relays.json", &all)?;
    Ok(Done { section: "nat-relays", part: false, table, failures })
}

/// Rates in bit/s.
fn of(relay: &str, args: &Args) -> Result<(Vec<f64>, Vec<f64>)> {
    let mut spec = NatSpec::new("nat_relays", &[PORT_RESTRICTED; 2]);
    let mut coturn = None;
    if relay == "coturn" {
        spec.controller_toml = NO_RELAY.to_owned();
    }
    let lab = NatLab::build_with(spec, |ground, dir, spec| {
        if relay == "coturn" {
            let server = Coturn::start(ground.internet(), SERVER_1, Users::Named, dir)?;
            spec.switchd_toml = server.table();
            coturn = Some(server);
        }
        Ok(())
    })?;
    let rates = lab.run(|lab| {
        lab.connect()?;
        let site = lab.site("node-a")?;
        let rate = |kind: &str| -> Result<f64> {
            let (a, b) = (lab.instance("a1")?, lab.instance("b1")?);
            let rate = measure::iperf(a.ns(), b.ns(), b.v4()?, args.seconds).context(kind.to_owned())?;
            println!("{relay} relay, {kind}: {:.2} Gb/s", rate / 1e9);
            Ok(rate)
        };
        let (mut direct, mut relayed) = (Vec::new(), Vec::new());
        for _ in 0..args.rounds {
            lab.wait_direct(Duration::from_secs(70))?;
            direct.push(rate("direct")?);
            site.cut(Cut::BothWays)?;
            lab.wait_relayed(Duration::from_secs(15))?;
            relayed.push(rate("relayed")?);
            site.heal()?;
        }
        Ok((direct, relayed))
    });
    drop(coturn);
    rates
}
