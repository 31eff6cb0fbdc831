//! Each harm many times.

use std::time::Duration;

use anyhow::{Result, ensure};
use netns_tests::nat::{Harm, Noticed, Trial, table};
use serde_json::json;

use super::{Done, keep};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Only what has this in its name, for example "killed"
    #[arg(long)]
    only: Option<String>,
    /// How often each is done
    #[arg(long, default_value_t = 20)]
    rounds: usize,
}

pub(super) fn run(args: &Args) -> Result<Done> {
    let wanted = |harm: &Harm| args.only.as_ref().is_none_or(|only| harm.name().contains(only.as_str()));
    let harms: Vec<Harm> = Harm::ALL.into_iter().filter(wanted).collect();
    ensure!(!harms.is_empty(), "nothing has this in its name");
    let mut table = String::from(
        "Between two instances, each way: a TCP flow of 1000 bytes every 2 ms, every byte checked, and a datagram every \
         5 ms. The longest silence at a receiver, ms, of the worse direction; datagrams lost and reordered, the most of \
         all runs.\n\n| | runs | TCP p50 | p99 | max | UDP p50 | p99 | max | lost | reordered |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    let (mut failures, mut all) = (Vec::new(), Vec::new());
    for harm in harms {
        let (runs, failure) = repeat(harm, args.rounds);
        let sorted = |time: fn(&Noticed) -> Duration| {
            let mut times: Vec<Duration> = runs.iter().map(time).collect();
            times.sort();
            times
        };
        let (tcp, udp) = (sorted(|run| run.tcp), sorted(|run| run.udp));
        if let Some(gap) = table::percentile(&tcp, 0.99).filter(|gap| *gap > WANTED) {
            failures.push(format!("{}: p99 {gap:?}, at most {WANTED:?} is wanted", harm.name()));
        }
        let most = |count: fn(&Noticed) -> u64| runs.iter().map(count).max().unwrap_or_default();
        table += &format!(
            "| {} | {} | {} | {} | {} | {} |\n",
            harm.name(),
            runs.len(),
            table::spread(&tcp),
            table::spread(&udp),
            most(|run| run.lost),
            most(|run| run.reordered)
        );
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let runs: Vec<_> = runs
            .iter()
            .map(|run| json!({ "tcp_ms": ms(run.tcp), "udp_ms": ms(run.udp), "lost": run.lost, "reordered": run.reordered }))
            .collect();
        all.push(json!({ "name": harm.name(), "runs": runs, "failure": failure }));
        failures.extend(failure);
    }
    keep("nat-gaps.json", &all)?;
    Ok(Done { section: "nat-gaps", part: args.only.is_some(), table, failures })
}

/// Until the first failure.
fn repeat(harm: Harm, rounds: usize) -> (Vec<Noticed>, Option<String>) {
    let mut runs = Vec::new();
    let mut rounds_of = || -> Result<()> {
        let mut trial = Trial::start(harm)?;
        for round in 1..=rounds {
            let noticed = trial.once()?;
            println!("{}, {round}: {noticed:?}", harm.name());
            runs.push(noticed);
        }
        Ok(())
    };
    let failure = rounds_of().err().map(|error| format!("{}: {error:#}", harm.name()));
    (runs, failure)
}

/// For p99.
const WANTED: Duration = Duration::from_secs(1);
