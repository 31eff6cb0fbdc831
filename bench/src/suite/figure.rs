//! What was measured.

use std::path::PathBuf;

/// One measured value of one round.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// For example `tcp-1-flow`.
    pub name: &'static str,
    /// In `unit`.
    pub value: f64,
    /// For example `Gb/s`.
    pub unit: &'static str,
}

/// Everything that a run of the suite measured.
#[derive(Clone, Debug, Default)]
pub struct Results {
    /// One row for each scenario, figure and contender.
    pub rows: Vec<Row>,
    /// Contenders that could not take part, and why.
    pub absent: Vec<(String, String)>,
}

/// One figure of one contender in one scenario.
#[derive(Clone, Debug)]
pub struct Row {
    /// Name of the scenario; the one with the whole matrix is [`BASE`].
    pub scenario: String,
    /// [`Figure::name`].
    pub name: &'static str,
    /// [`super::Arena::contender`].
    pub contender: &'static str,
    /// [`Figure::unit`].
    pub unit: &'static str,
    /// One value for each round that gave one, in their order.
    pub values: Vec<f64>,
    /// Which rounds these are.
    pub rounds: Vec<usize>,
}

/// What the report is to do beside its printing.
#[derive(Clone, Debug, Default)]
pub struct ReportOptions {
    /// A part of the matrix with short times: said in the report, so that nobody takes it for the whole.
    pub quick: bool,
    /// Interleaved rounds of each scenario.
    pub rounds: usize,
    /// Seconds of each flow.
    pub seconds: f64,
    /// The Markdown file whose marked section is replaced, and beside which plots are written.
    pub write: Option<PathBuf>,
}

impl Results {
    /// Adds a round's figures of a contender, behind those of its earlier rounds.
    pub fn add(&mut self, scenario: &str, contender: &'static str, round: usize, figures: Vec<Figure>) {
        for Figure { name, value, unit } in figures {
            let same =
                |row: &&mut Row| row.scenario == scenario && row.name == name && row.contender == contender;
            match self.rows.iter_mut().find(same) {
                Some(row) => {
                    row.values.push(value);
                    row.rounds.push(round);
                }
                None => self.rows.push(Row {
                    scenario: scenario.to_owned(),
                    name,
                    contender,
                    unit,
                    values: vec![value],
                    rounds: vec![round],
                }),
            }
        }
    }
}

/// Name of the scenario with the whole matrix: underlay MTU 1500, no loss, no delay, all cores.
pub const BASE: &str = "base";
/// Name of the scenario of the paper's Table II: each node's link shaped to 1 Gb/s.
pub const GIGABIT: &str = "gigabit";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_of_one_figure_share_a_row() {
        let figure = |value| vec![Figure { name: "tcp-1-flow", value, unit: "Gb/s" }];
        let mut results = Results::default();
        results.add(BASE, "switchd", 0, figure(4.0));
        results.add(BASE, "vxlan", 0, figure(9.0));
        results.add(BASE, "switchd", 2, figure(5.0));
        let all = |row: &'static str| results.rows.iter().find(|known| known.contender == row).unwrap();
        let (ours, theirs) = (all("switchd"), all("vxlan"));
        assert_eq!((&ours.values[..], &ours.rounds[..]), (&[4.0, 5.0][..], &[0, 2][..]));
        assert_eq!((&theirs.values[..], &theirs.rounds[..], results.rows.len()), (&[9.0][..], &[0][..], 2));
    }
}
