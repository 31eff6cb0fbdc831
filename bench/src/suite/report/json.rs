//! Results for programs.

use anyhow::Result;
use serde::Serialize;

use super::super::{ReportOptions, Results};
use super::goals::Judged;
use super::machine::Machine;
use super::stats::Spread;

#[derive(Serialize)]
struct Document<'a> {
    machine: &'a Machine,
    commit: &'a str,
    quick: bool,
    seconds: f64,
    figures: Vec<Entry<'a>>,
    goals: Vec<GoalEntry<'a>>,
    absent: Vec<Absent<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    name: &'a str,
    scenario: &'a str,
    contender: &'a str,
    /// The median.
    value: f64,
    unit: &'a str,
    /// How many there were.
    rounds: usize,
    min: f64,
    max: f64,
}

#[derive(Serialize)]
struct GoalEntry<'a> {
    figure: &'a str,
    goal: f64,
    at_least: f64,
    /// The median; null: it was not measured.
    value: Option<f64>,
    min: Option<f64>,
    max: Option<f64>,
    verdict: String,
}

#[derive(Serialize)]
struct Absent<'a> {
    contender: &'a str,
    why: &'a str,
}

/// One object for each figure and for each goal.
pub(super) fn text(
    results: &Results,
    options: &ReportOptions,
    machine: &Machine,
    judged: &[Judged],
) -> Result<String> {
    let figures = results.rows.iter().filter_map(|row| {
        let Spread { median, min, max } = Spread::of(&row.values)?;
        Some(Entry {
            name: row.name,
            scenario: &row.scenario,
            contender: row.contender,
            value: median,
            unit: row.unit,
            rounds: row.values.len(),
            min,
            max,
        })
    });
    let goals = judged.iter().map(|judged| {
        let spread = judged.measured.as_ref().ok();
        GoalEntry {
            figure: judged.goal.what,
            goal: judged.goal.goal,
            at_least: judged.goal.floor,
            value: spread.map(|spread| spread.median),
            min: spread.map(|spread| spread.min),
            max: spread.map(|spread| spread.max),
            verdict: judged.verdict(),
        }
    });
    let document = Document {
        machine,
        commit: &machine.commit,
        quick: options.quick,
        seconds: options.seconds,
        figures: figures.collect(),
        goals: goals.collect(),
        absent: results.absent.iter().map(|(contender, why)| Absent { contender, why }).collect(),
    };
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}
