//! `bench`: switchd beside what one would use instead, in one lab and one run.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bench::suite::{self, Plan, ReportOptions, Scenario, contender, report};
use clap::Parser;
use netns_tests::require_root;

/// The system bench: an encrypted overlay beside plaintext VXLAN and beside its peers, as root.
///
/// Builds a lab of network namespaces for each scenario, sets every contender up in it, proves of each that it
/// carries frames, sealed where it says so, and measures them in turn, round by round. Prints a line for each
/// measurement, then medians and the goals; writes target/bench.json. What cannot take part is named as absent.
#[derive(Parser)]
#[command(after_help = EXAMPLES)]
struct Options {
    /// A few minutes: short flows, three rounds, and only what the goals need
    #[arg(long)]
    quick: bool,
    /// Only measurements whose name has this part
    #[arg(long, value_name = "PART")]
    only: Option<String>,
    /// Only these contenders
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    contenders: Vec<String>,
    /// Only these scenarios
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    scenarios: Vec<String>,
    /// Interleaved rounds, of which the median counts [default: 5, quick: 3]
    #[arg(long)]
    rounds: Option<NonZeroUsize>,
    /// Seconds of each flow [default: 2, quick: 1]
    #[arg(long)]
    seconds: Option<f64>,
    /// Put tables and plots into this document, unless only a part is run
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Name contenders, scenarios and measurements, and do nothing
    #[arg(long)]
    list: bool,
}

const EXAMPLES: &str = "Examples:
  bench --quick                                    what the goals need, in a few minutes
  bench --write docs/performance.md                everything, and the tables into the document
  bench --only tcp --contenders vxlan,switchd      two contenders, TCP only
  bench --scenarios rtt-20ms,loss-1 --rounds 3     two underlays";

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<bool> {
    let plan = plan(options)?;
    if options.list {
        list(&plan);
        return Ok(true);
    }
    require_root()?;
    netns_tests::sweep();
    let outcome = suite::run(&plan);
    let write = options.write.clone().filter(|document| {
        let part = options.only.is_some() || !options.contenders.is_empty() || !options.scenarios.is_empty();
        if part {
            println!("\n{} stays as it is: only a part was run", document.display());
        }
        let failed = !outcome.failures.is_empty();
        if failed && !part {
            println!("\n{} stays as it is: not all could be measured", document.display());
        }
        !part && !failed
    });
    outcome.failures.iter().for_each(|failure| println!("FAILED: {failure}"));
    report::finish(
        &outcome.results,
        &ReportOptions { quick: options.quick, rounds: plan.rounds, seconds: plan.time.as_secs_f64(), write },
    )?;
    Ok(outcome.failures.is_empty())
}

fn plan(options: &Options) -> Result<Plan> {
    let mut scenarios = if options.quick { Scenario::quick() } else { Scenario::all() };
    for name in &options.scenarios {
        if !scenarios.iter().any(|scenario| scenario.name == name) {
            let known: Vec<_> = scenarios.iter().map(|scenario| scenario.name).collect();
            bail!("no scenario is called {name}; there are: {}", known.join(", "));
        }
    }
    scenarios.retain(|s| options.scenarios.is_empty() || options.scenarios.iter().any(|name| name == s.name));
    if let Some(part) = &options.only {
        for scenario in &mut scenarios {
            scenario.jobs.retain(|job| job.measure.name().contains(part.as_str()));
        }
        scenarios.retain(|scenario| !scenario.jobs.is_empty());
        if scenarios.is_empty() {
            bail!("no measurement has {part} in its name; `bench --list` names them");
        }
    }
    let (rounds, seconds) = if options.quick { (3, 1.0) } else { (5, 2.0) };
    let time = Duration::try_from_secs_f64(options.seconds.unwrap_or(seconds)).context("--seconds")?;
    let rounds = options.rounds.map_or(rounds, NonZeroUsize::get);
    Ok(Plan { scenarios, contenders: contender::named(&options.contenders)?, rounds, time })
}

fn list(plan: &Plan) {
    println!("Contenders:");
    for contender in &plan.contenders {
        println!("  {:<14}{}", contender.name(), contender.about());
    }
    for scenario in &plan.scenarios {
        println!("\n{}: {}", scenario.name, scenario.what);
        for job in &scenario.jobs {
            let who = if job.contenders.is_empty() { "all".to_owned() } else { job.contenders.join(", ") };
            println!("  {:<18}{who}", job.measure.name());
        }
    }
}
