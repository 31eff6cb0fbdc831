//! Which underlays there are, and what is measured on each.

use std::time::Duration;

use super::figure::BASE;
use super::measure::Measure;

/// A lab, and what is measured in it.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Short name, also in the results.
    pub name: &'static str,
    /// What it is, in a few words.
    pub what: &'static str,
    /// Between the nodes.
    pub underlay: Underlay,
    /// Everything that the lab starts shares this many cores; without it, all there are.
    pub cores: Option<usize>,
    /// In the order of each round.
    pub jobs: Vec<Job>,
}

/// What is between the nodes.
#[derive(Clone, Copy, Debug)]
pub struct Underlay {
    /// Of the nodes' interfaces, in bytes of IP packet.
    pub mtu: u32,
    /// Packets lost at random each way, per cent.
    pub loss_percent: f64,
    /// Added to the round trip, half of it each way.
    pub round_trip: Duration,
    /// Rate of each node's link, each way, in Mb/s.
    pub shaped_mbit: Option<u32>,
}

/// A measurement and who takes part in it.
#[derive(Clone, Debug)]
pub struct Job {
    /// What is measured.
    pub measure: Measure,
    /// Names of contenders; empty for all.
    pub contenders: &'static [&'static str],
}

impl Job {
    /// Whether a contender of this name takes part.
    pub fn has(&self, contender: &str) -> bool {
        self.contenders.is_empty() || self.contenders.contains(&contender)
    }
}

impl Scenario {
    /// Whether a contender of this name takes part in any of its measurements.
    pub fn has(&self, contender: &str) -> bool {
        self.jobs.iter().any(|job| job.has(contender))
    }

    /// What the goals need, on the plain underlay.
    pub fn quick() -> Vec<Scenario> {
        Scenario::all().into_iter().take(1).collect()
    }

    /// The whole matrix on the plain underlay, and what says something on each other.
    pub fn all() -> Vec<Scenario> {
        let plain = Scenario {
            name: BASE,
            what: "underlay of MTU 1500",
            underlay: Underlay {
                mtu: 1500,
                loss_percent: 0.0,
                round_trip: Duration::ZERO,
                shaped_mbit: None,
            },
            cores: None,
            jobs: Measure::all().into_iter().map(|measure| Job { measure, contenders: &[] }).collect(),
        };
        let on = |underlay: Underlay| Scenario { underlay, ..plain.clone() };
        let base = plain.underlay;
        vec![
            plain.clone(),
            Scenario { name: "mtu-9000", what: "underlay of MTU 9000", ..on(Underlay { mtu: 9000, ..base }) },
            Scenario {
                name: "loss-1",
                what: "one packet in a hundred lost at random each way",
                ..on(Underlay { loss_percent: 1.0, ..base })
            },
            Scenario {
                name: "rtt-20ms",
                what: "20 ms of round trip added",
                ..on(Underlay { round_trip: Duration::from_millis(20), ..base })
            },
            Scenario {
                name: "rtt-80ms",
                what: "80 ms of round trip added",
                ..on(Underlay { round_trip: Duration::from_millis(80), ..base })
            },
            Scenario { name: "one-core", what: "everything on one core", cores: Some(1), ..plain.clone() },
            Scenario {
                name: "gigabit",
                what: "each node's link shaped to 1 Gb/s",
                ..on(Underlay { shaped_mbit: Some(1000), ..base })
            },
        ]
    }
}
