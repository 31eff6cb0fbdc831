//! Each harm many times.

use std::time::Duration;

use anyhow::{Result, ensure};
use netns_tests::nat::{Harm, Trial, table};
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
        "A TCP flow each way, 1000 bytes every 2 ms, every byte checked; the longer silence of the two receivers, in \
         ms.\n\n| | runs | p50 | p99 | max |\n|---|---|---|---|---|\n",
    );
    let (mut failures, mut all) = (Vec::new(), Vec::new());
    for harm in harms {
        let (mut gaps, failure) = repeat(harm, args.rounds);
        gaps.sort();
        if let Some(gap) = table::percentile(&gaps, 0.99).filter(|gap| *gap > WANTED) {
            failures.push(format!("{}: p99 {gap:?}, at most {WANTED:?} is wanted", harm.name()));
        }
        table += &format!("| {} | {} | {} |\n", harm.name(), gaps.len(), table::spread(&gaps));
        let ms: Vec<f64> = gaps.iter().map(|gap| gap.as_secs_f64() * 1e3).collect();
        all.push(json!({ "name": harm.name(), "gaps_ms": ms, "failure": failure }));
        failures.extend(failure);
    }
    keep("nat-gaps.json", &all)?;
    Ok(Done { section: "nat-gaps", part: args.only.is_some(), table, failures })
}

/// Until the first failure.
fn repeat(harm: Harm, rounds: usize) -> (Vec<Duration>, Option<String>) {
    let mut gaps = Vec::new();
    let mut rounds_of = || -> Result<()> {
        let mut trial = Trial::start(harm)?;
        for round in 1..=rounds {
            let gap = trial.once()?;
            println!("{}, {round}: {gap:?}", harm.name());
            gaps.push(gap);
        }
        Ok(())
    };
    let failure = rounds_of().err().map(|error| format!("{}: {error:#}", harm.name()));
    (gaps, failure)
}

/// For p99.
const WANTED: Duration = Duration::from_secs(1);
