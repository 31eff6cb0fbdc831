//! What is to be reached, as data, and what was.

use super::super::{BASE, Contender, GIGABIT, Results, Row, contender};
use super::stats::{Spread, by_round, find};

/// One line of the table of goals.
#[derive(Clone, Copy, Debug)]
pub(super) struct Goal {
    pub(super) what: &'static str,
    pub(super) goal: f64,
    /// The least that will do; the most where little is wanted.
    pub(super) floor: f64,
    /// For example ` µs`, behind each number.
    pub(super) unit: &'static str,
    pub(super) better: Better,
    pub(super) how: How,
    /// Whether every round has to reach it, and not their median: of what shall never be.
    pub(super) every_round: bool,
}

/// Which values are good ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Better {
    More,
    Less,
}

/// How the measured value is computed from switchd's figures, round by round.
#[derive(Clone, Copy, Debug)]
pub(super) enum How {
    /// Divided by the same figure of another contender.
    Ratio { scenario: &'static str, figure: &'static str, over: &'static str },
    /// Divided by that of the encrypted layer-2 peer with the highest median.
    OverBestPeer { figure: &'static str },
    /// Less the same figure of another contender.
    Difference { figure: &'static str, over: &'static str },
    /// As it is.
    Value { figure: &'static str },
    /// Segments of one TCP flow that came after later ones without having been lost: where nothing was sent again,
    /// all that the receiver saw out of order; else what the sender found to be late, as the receiver cannot tell
    /// late from sent again.
    Reordered,
}

/// A goal beside what was measured.
#[derive(Clone, Debug)]
pub(super) struct Judged {
    pub(super) goal: Goal,
    /// Over rounds; or what is missing.
    pub(super) measured: Result<Spread, String>,
    /// The peer that it was compared with, where that was not said before, and peers that have no such figure.
    pub(super) peer: Option<String>,
}

/// The goals of the project, on two cores.
pub(super) const ALL: &[Goal] = &[
    ratio("one TCP flow, against VXLAN", 0.9, 0.65, "tcp-1-flow"),
    peer("one TCP flow, against the best encrypted layer-2 peer", 8.0, 5.0, "tcp-1-flow"),
    ratio("four TCP flows, against VXLAN", 0.9, 0.55, "tcp-4-flows"),
    ratio("TCP both directions, against VXLAN", 0.9, 0.55, "tcp-both"),
    ratio("guests without offloads, against VXLAN in the same state", 0.8, 0.5, "tcp-no-offload"),
    peer(
        "UDP 64 bytes, packets/s from an endless flood, against the best encrypted peer",
        5.0,
        3.0,
        "udp-64",
    ),
    peer("UDP 64 bytes, packets/s under 1 % lost, against the best encrypted peer", 5.0, 3.0, "udp-64-clean"),
    round_trip("median RTT over VXLAN's, idle, UDP every 2 ms", "udp-request-spaced-p50"),
    round_trip("median RTT over VXLAN's, idle, UDP back to back", "udp-request-p50"),
    Goal {
        better: Better::Less,
        ..ratio("p99 RTT under a bulk flow, UDP, against VXLAN's", 1.0, 2.0, "udp-request-loaded-p99")
    },
    Goal {
        better: Better::Less,
        ..ratio("p99 RTT under a bulk flow, TCP, against VXLAN's", 1.0, 2.0, "tcp-request-loaded-p99")
    },
    Goal {
        how: How::Ratio { scenario: GIGABIT, figure: "qperf-bandwidth", over: "underlay" },
        ..ratio("Table II at 1 Gb/s, different nodes, against the underlay", 0.94, 0.92, "qperf-bandwidth")
    },
    Goal {
        what: "CPU seconds for a GB, both daemons",
        goal: 1.2,
        floor: 2.0,
        unit: "",
        better: Better::Less,
        how: How::Value { figure: "cpu-daemons" },
        every_round: false,
    },
    Goal {
        what: "reordered segments in one TCP flow, in any round",
        goal: 0.0,
        floor: 0.0,
        unit: "",
        better: Better::Less,
        how: How::Reordered,
        every_round: true,
    },
    Goal {
        what: "reordered datagrams in one UDP flow of 64 bytes, in any round",
        goal: 0.0,
        floor: 0.0,
        unit: "",
        better: Better::Less,
        how: How::Value { figure: "udp-64-reordered" },
        every_round: true,
    },
];

const fn ratio(what: &'static str, goal: f64, floor: f64, figure: &'static str) -> Goal {
    let how = How::Ratio { scenario: BASE, figure, over: "vxlan" };
    Goal { what, goal, floor, unit: "", better: Better::More, how, every_round: false }
}

const fn peer(what: &'static str, goal: f64, floor: f64, figure: &'static str) -> Goal {
    Goal {
        what,
        goal,
        floor,
        unit: "",
        better: Better::More,
        how: How::OverBestPeer { figure },
        every_round: false,
    }
}

const fn round_trip(what: &'static str, figure: &'static str) -> Goal {
    let how = How::Difference { figure, over: "vxlan" };
    Goal { what, goal: 25.0, floor: 80.0, unit: " µs", better: Better::Less, how, every_round: false }
}

/// Every goal with what was measured for it.
pub(super) fn judge(results: &Results, goals: &[Goal]) -> Vec<Judged> {
    goals.iter().map(|goal| Judged::of(results, *goal)).collect()
}

impl Judged {
    fn of(results: &Results, goal: Goal) -> Judged {
        let mut peer = None;
        let measured = match goal.how {
            How::Ratio { scenario, figure, over } => ratios(results, scenario, figure, over),
            How::OverBestPeer { figure } => best_peer(results, figure).and_then(|name| {
                peer = Some(named_peer(results, figure, name));
                ratios(results, BASE, figure, name)
            }),
            How::Difference { figure, over } => {
                pair(results, BASE, figure, over).map(|(a, b)| by_round(a, b, |a, b| a - b))
            }
            How::Value { figure } => row(results, BASE, figure, OURS).map(|row| row.values.clone()),
            How::Reordered => reordered(results),
        };
        let measured = measured
            .and_then(|values| Spread::of(&values).ok_or_else(|| "no round of it has a value".to_owned()));
        Judged { goal, measured, peer }
    }

    /// `met`, `at least`, `short`, or what is missing.
    pub(super) fn verdict(&self) -> String {
        let Goal { goal, floor, better, every_round, .. } = self.goal;
        let spread = match &self.measured {
            Ok(spread) => spread,
            Err(missing) => return format!("not measured: {missing}"),
        };
        let value = match (every_round, better) {
            (false, _) => spread.median,
            (true, Better::More) => spread.min,
            (true, Better::Less) => spread.max,
        };
        let reaches = |wanted: f64| match better {
            Better::More => value >= wanted,
            Better::Less => value <= wanted,
        };
        let verdict = match () {
            () if reaches(goal) => "met",
            () if reaches(floor) => "at least",
            () => "short",
        };
        verdict.to_owned()
    }

    fn cells(&self) -> [String; 5] {
        let Goal { what, goal, floor, unit, .. } = self.goal;
        let what = self.peer.as_ref().map_or(what.to_owned(), |peer| format!("{what} ({peer})"));
        let measured = self.measured.as_ref().map_or("-".to_owned(), |spread| {
            let digits = if unit.is_empty() { 3 } else { 1 };
            let Spread { median, min, max } = spread;
            format!("{median:.digits$}{unit} ({min:.digits$} to {max:.digits$})")
        });
        [what, format!("{goal}{unit}"), format!("{floor}{unit}"), measured, self.verdict()]
    }
}

/// The table for a terminal.
pub(super) fn plain(judged: &[Judged]) -> String {
    let rows: Vec<_> =
        std::iter::once(HEAD.map(str::to_owned)).chain(judged.iter().map(Judged::cells)).collect();
    let widths: Vec<usize> = (0..HEAD.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let line = |row: &[String; 5]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("   ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The table for a document.
pub(super) fn markdown(judged: &[Judged]) -> String {
    let mut lines = vec![format!("| {} |", HEAD.join(" | ")), "|---|---|---|---|---|".to_owned()];
    lines.extend(judged.iter().map(|judged| format!("| {} |", judged.cells().join(" | "))));
    lines.join("\n")
}

fn ratios(results: &Results, scenario: &str, figure: &str, over: &str) -> Result<Vec<f64>, String> {
    let (ours, theirs) = pair(results, scenario, figure, over)?;
    if theirs.values.iter().any(|value| *value <= 0.0) {
        return Err(format!("{over} has a round with no {figure} at all"));
    }
    Ok(by_round(ours, theirs, |a, b| a / b))
}

fn pair<'a>(
    results: &'a Results,
    scenario: &str,
    figure: &str,
    over: &str,
) -> Result<(&'a Row, &'a Row), String> {
    Ok((row(results, scenario, figure, OURS)?, row(results, scenario, figure, over)?))
}

fn row<'a>(results: &'a Results, scenario: &str, figure: &str, contender: &str) -> Result<&'a Row, String> {
    find(results, scenario, figure, contender)
        .ok_or_else(|| format!("no {figure} of {contender} in {scenario}"))
}

fn best_peer(results: &Results, figure: &str) -> Result<&'static str, String> {
    let peers = peers();
    let medians = peers.iter().filter_map(|peer| {
        let values = &find(results, BASE, figure, peer)?.values;
        Some((*peer, Spread::of(values)?.median))
    });
    let best = medians.max_by(|(_, a), (_, b)| a.total_cmp(b));
    best.map(|(peer, _)| peer).ok_or_else(|| format!("no {figure} of any of {} in {BASE}", peers.join(", ")))
}

/// Encrypted layer-2 networks of others that can be compared.
fn peers() -> Vec<&'static str> {
    let peer = |contender: &&dyn Contender| {
        contender.encrypted() && contender.like_for_like() && !contender.name().starts_with(OURS)
    };
    contender::all().into_iter().filter(|contender| peer(contender)).map(Contender::name).collect()
}

/// The best peer, and those that were not there to be better.
fn named_peer(results: &Results, figure: &str, best: &str) -> String {
    let missing: Vec<_> =
        peers().into_iter().filter(|peer| find(results, BASE, figure, peer).is_none()).collect();
    if missing.is_empty() { best.to_owned() } else { format!("{best}; without {}", missing.join(", ")) }
}

fn reordered(results: &Results) -> Result<Vec<f64>, String> {
    let of = |figure| row(results, BASE, figure, OURS).map(|row| &row.values);
    let resent = of("tcp-1-flow-resent")?;
    let late = of("tcp-1-flow-late")?;
    let out_of_order = of("tcp-1-flow-out-of-order")?;
    // One measure gives all three, so that they have the same rounds.
    let rounds = resent.iter().zip(late).zip(out_of_order);
    Ok(rounds.map(|((resent, late), out)| if *resent > 0.0 { *late } else { *out }).collect())
}

/// What the goals are of; its other kinds of carriage have names that begin so.
const OURS: &str = "switchd";

const HEAD: [&str; 5] = ["figure", "goal", "at least", "measured", "verdict"];

#[cfg(test)]
mod tests;
