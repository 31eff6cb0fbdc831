//! The matrix, cell by cell.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, ensure};
use netns_tests::nat::{Cell, Outcome, table};

use super::{Done, keep};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Only cells whose name contains this, for example "symmetric / "
    #[arg(long)]
    only: Option<String>,
    /// Runs of each cell; the table shows the worst
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Cells measured at the same time; more than one makes times longer than they are
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Name the cells, and run none
    #[arg(long)]
    list: bool,
}

pub(super) fn run(args: &Args) -> Result<Done> {
    let wanted = |cell: &Cell| args.only.as_ref().is_none_or(|only| cell.name.contains(only.as_str()));
    let cells: Vec<Cell> = Cell::all().into_iter().filter(wanted).collect();
    ensure!(!cells.is_empty(), "no cell has this in its name: see --list");
    if args.list {
        let lines = cells.iter().map(|cell| format!("{}: {:?}", cell.name, cell.wanted));
        let table = lines.collect::<Vec<_>>().join("\n");
        return Ok(Done { section: SECTION, part: true, table, failures: Vec::new() });
    }
    let queue: VecDeque<&Cell> = (0..args.rounds).flat_map(|_| &cells).collect();
    let (queue, outcomes) = (Mutex::new(queue), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| {
                while let Some(cell) = next(&queue) {
                    let outcome = one(cell);
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    keep("nat-matrix.json", &outcomes)?;
    let failed = outcomes.iter().filter_map(|o| Some(format!("{}: {}", o.name, o.failure.as_deref()?)));
    let part = args.only.is_some();
    // A few cells say nothing of the middle of all.
    let late = if part { Vec::new() } else { table::late(&outcomes) };
    let failures = failed.chain(late).collect();
    Ok(Done { section: SECTION, part, table: table::matrix(&outcomes), failures })
}

fn next<'a>(queue: &Mutex<VecDeque<&'a Cell>>) -> Option<&'a Cell> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
}

/// A lab that cannot be built is a cell that failed: the others go on.
fn one(cell: &Cell) -> Outcome {
    let outcome = cell.run().unwrap_or_else(|error| Outcome {
        name: cell.name.clone(),
        wanted: cell.wanted,
        paths: Default::default(),
        first_frame: None,
        direct: None,
        relay_hops: None,
        failure: Some(format!("{error:#}")),
    });
    let verdict = outcome.failure.as_deref().unwrap_or("ok");
    println!(
        "{}: {:?}, first frame {:?}, direct {:?}: {verdict}",
        outcome.name, outcome.paths, outcome.first_frame, outcome.direct
    );
    outcome
}

const SECTION: &str = "nat-matrix";
