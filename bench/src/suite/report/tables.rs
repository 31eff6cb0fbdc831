//! Figures as Markdown tables.

use super::super::{BASE, GIGABIT, Results};
use super::families;
use super::stats::{Spread, by_round, deviation, find};

/// A table for each family on the plain underlay, then figures over all scenarios, then Table II.
pub(super) fn markdown(results: &Results) -> String {
    let families = families::ALL.iter().filter_map(|family| {
        let columns: Vec<_> =
            family.figures.iter().map(|(name, head)| Column { scenario: BASE, name, head }).collect();
        table(results, family.title, family.ratio, &columns)
    });
    let scenarios = scenarios(results);
    let over = families::OVER_SCENARIOS.iter().filter(|_| scenarios.len() > 1).filter_map(|(name, title)| {
        let columns: Vec<_> =
            scenarios.iter().map(|scenario| Column { scenario, name, head: scenario }).collect();
        // One scenario has its place above.
        let elsewhere = |column: &Column<'_>| {
            column.scenario != BASE
                && results.rows.iter().any(|row| row.scenario == column.scenario && row.name == *name)
        };
        columns.iter().any(elsewhere).then(|| table(results, title, false, &columns))?
    });
    families.chain(over).chain(table_two(results)).collect::<Vec<_>>().join("\n\n")
}

/// Who did not take part, and why.
pub(super) fn absent(results: &Results) -> String {
    let lines =
        results.absent.iter().map(|(contender, why)| format!("- {contender}: {}", why.replace('\n', " ")));
    let lines: Vec<_> = lines.collect();
    if lines.is_empty() {
        "Every contender took part in all that it was to.".to_owned()
    } else {
        format!("Absent, or without a figure:\n\n{}", lines.join("\n"))
    }
}

/// Scenarios in the order in which they were run.
pub(super) fn scenarios(results: &Results) -> Vec<&str> {
    in_order(results.rows.iter().map(|row| row.scenario.as_str()))
}

/// Contenders in the order of their first figure.
pub(super) fn contenders(results: &Results) -> Vec<&'static str> {
    in_order(results.rows.iter().map(|row| row.contender))
}

/// A value with as many digits as say something. Rates of packets and requests are told in thousands.
pub(super) fn number(value: f64) -> String {
    let digits = match value.abs() {
        // Counts.
        _ if value.fract().abs() < 1e-9 => 0,
        size if size < 1.0 => 3,
        size if size < 10.0 => 2,
        size if size < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$}")
}

/// By what values of a unit are divided to be told.
pub(super) fn scale(unit: &str) -> f64 {
    if matches!(unit, "packets/s" | "requests/s") { 1000.0 } else { 1.0 }
}

struct Column<'a> {
    scenario: &'a str,
    name: &'a str,
    head: &'a str,
}

/// None where no column has a value.
fn table(results: &Results, title: &str, ratio: bool, columns: &[Column<'_>]) -> Option<String> {
    let columns: Vec<_> = columns
        .iter()
        .filter(|column| {
            results.rows.iter().any(|row| row.scenario == column.scenario && row.name == column.name)
        })
        .collect();
    if columns.is_empty() {
        return None;
    }
    let heads: Vec<_> = columns.iter().map(|column| column.head).collect();
    let mut lines = vec![
        format!("**{title}**\n"),
        format!("| | {} |", heads.join(" | ")),
        format!("|---|{}", "---|".repeat(heads.len())),
    ];
    for contender in contenders(results) {
        let cells: Vec<_> = columns.iter().map(|column| cell(results, column, contender, ratio)).collect();
        if cells.iter().any(Option::is_some) {
            let cells: Vec<_> =
                cells.into_iter().map(|cell| cell.unwrap_or_else(|| "-".to_owned())).collect();
            lines.push(format!("| {contender} | {} |", cells.join(" | ")));
        }
    }
    Some(lines.join("\n"))
}

/// Median, least and most; and the ratio to VXLAN, by rounds.
fn cell(results: &Results, column: &Column<'_>, contender: &str, ratio: bool) -> Option<String> {
    let row = find(results, column.scenario, column.name, contender)?;
    let Spread { median, min, max } = Spread::of(&row.values)?;
    let shown = [median, min, max].map(|value| number(value / scale(row.unit)));
    let mut text =
        if min < max { format!("{} ({} to {})", shown[0], shown[1], shown[2]) } else { shown[0].clone() };
    let vxlan =
        find(results, column.scenario, column.name, YARDSTICK).filter(|_| ratio && contender != YARDSTICK);
    let ratios = vxlan.and_then(|vxlan| Spread::of(&by_round(row, vxlan, |a, b| a / b)));
    if let Some(Spread { median, .. }) = ratios {
        text += &format!(", x {}", number(median));
    }
    Some(text)
}

/// The paper's Table II: what it has is bandwidth and its standard deviation.
fn table_two(results: &Results) -> Option<String> {
    let underlay = find(results, GIGABIT, "qperf-bandwidth", "underlay");
    let mut lines = vec![
        "**Table II of the paper: qperf on a link shaped to 1 Gb/s**\n".to_owned(),
        "| | bandwidth, Mb/s | standard deviation | of the underlay's | latency, one way, µs | the paper, Mb/s |"
            .to_owned(),
        "|---|---|---|---|---|---|".to_owned(),
    ];
    for contender in contenders(results) {
        let Some(row) = find(results, GIGABIT, "qperf-bandwidth", contender) else { continue };
        let column = |name| Column { scenario: GIGABIT, name, head: "" };
        let bandwidth = cell(results, &column("qperf-bandwidth"), contender, false);
        let share = underlay
            .and_then(|underlay| Spread::of(&by_round(row, underlay, |a, b| a / b)))
            .map(|spread| format!("{:.3}", spread.median));
        let paper = PAPER.iter().find(|(name, _)| *name == contender).map(|(_, said)| (*said).to_owned());
        let cells = [
            bandwidth,
            deviation(&row.values).map(number),
            share,
            cell(results, &column("qperf-latency"), contender, false),
            paper,
        ]
        .map(|cell| cell.unwrap_or_else(|| "-".to_owned()));
        lines.push(format!("| {contender} | {} |", cells.join(" | ")));
    }
    (lines.len() > 3).then(|| lines.join("\n"))
}

fn in_order<T: PartialEq + Copy>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut once = Vec::new();
    for one in all {
        if !once.contains(&one) {
            once.push(one);
        }
    }
    once
}

/// Whom all others are set beside.
const YARDSTICK: &str = "vxlan";

/// What the paper has, by who does the same here. VM to VM over its switch, 69.70, has no counterpart.
const PAPER: [(&str, &str); 3] = [
    ("underlay", "938.30, VM to VM"),
    ("bridge", "8442.36, containers on one VM"),
    ("switchd", "19.63, containers on two VMs"),
];
