//! Which underlays there are, and what is measured on each.

use std::time::Duration;

use super::figure::{BASE, GIGABIT};
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
    /// Flows take so many times as long as elsewhere: where round trips are long, TCP takes long to fill the pipe.
    pub stretch: u32,
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

    /// What the goals need.
    pub fn quick() -> Vec<Scenario> {
        let mut jobs = jobs(&[Measure::TcpOne, Measure::Udp(64)], EVERYBODY);
        jobs.extend(self::jobs(
            &[
                Measure::RequestIdle,
                Measure::TcpFour,
                Measure::TcpBoth,
                Measure::TcpNoOffload,
                Measure::RequestLoaded,
                Measure::Memory,
            ],
            OURS_AND_VXLAN,
        ));
        vec![Scenario { jobs, ..plain() }, gigabit(jobs_of_table_two())]
    }

    /// The whole matrix on the plain underlay, and what says something on each other.
    pub fn all() -> Vec<Scenario> {
        let base = plain();
        let matrix =
            Measure::all().into_iter().filter(|measure| *measure != Measure::Qperf).collect::<Vec<_>>();
        let tcp = [Measure::TcpOne, Measure::TcpFour];
        let delayed = |name, what, ms| Scenario {
            name,
            what,
            underlay: Underlay { round_trip: Duration::from_millis(ms), ..base.underlay },
            jobs: jobs(&tcp, BETWEEN_NODES),
            stretch: 3,
            ..base.clone()
        };
        vec![
            Scenario { jobs: jobs(&matrix, EVERYBODY), ..base.clone() },
            Scenario {
                name: "mtu-9000",
                what: "underlay of MTU 9000, and the instances' accordingly",
                underlay: Underlay { mtu: 9000, ..base.underlay },
                jobs: jobs(&[Measure::TcpOne, Measure::TcpFour, Measure::Udp(8192)], BETWEEN_NODES),
                ..base.clone()
            },
            Scenario {
                name: "loss-1",
                what: "one packet in a hundred lost at random each way",
                underlay: Underlay { loss_percent: 1.0, ..base.underlay },
                jobs: jobs(&tcp, BETWEEN_NODES),
                ..base.clone()
            },
            delayed("rtt-20ms", "20 ms of round trip added", 20),
            delayed("rtt-80ms", "80 ms of round trip added", 80),
            Scenario {
                name: "one-core",
                what: "everything on one core",
                cores: Some(1),
                jobs: jobs(&[Measure::RequestIdle, Measure::TcpOne, Measure::Udp(64)], EVERYBODY),
                ..base.clone()
            },
            gigabit(
                [jobs_of_table_two(), jobs(&[Measure::TcpOne, Measure::RequestLoaded], BETWEEN_NODES)]
                    .concat(),
            ),
        ]
    }
}

/// The base, without anything to measure.
fn plain() -> Scenario {
    Scenario {
        name: BASE,
        what: "underlay of MTU 1500",
        underlay: Underlay { mtu: 1500, loss_percent: 0.0, round_trip: Duration::ZERO, shaped_mbit: None },
        cores: None,
        stretch: 1,
        jobs: Vec::new(),
    }
}

/// The paper's Table II is of gigabit Ethernet.
fn gigabit(jobs: Vec<Job>) -> Scenario {
    let base = plain();
    Scenario {
        name: GIGABIT,
        what: "each node's link shaped to 1 Gb/s",
        underlay: Underlay { shaped_mbit: Some(1000), ..base.underlay },
        jobs,
        ..base
    }
}

fn jobs_of_table_two() -> Vec<Job> {
    jobs(&[Measure::Qperf], &["underlay", "bridge", "vxlan", "switchd", "switchd-quic"])
}

fn jobs(measures: &[Measure], contenders: &'static [&'static str]) -> Vec<Job> {
    measures.iter().map(|&measure| Job { measure, contenders }).collect()
}

const EVERYBODY: &[&str] = &[];
const OURS_AND_VXLAN: &[&str] = &["vxlan", "switchd", "switchd-quic"];
/// All but the bridge, which no underlay touches, and what has an MTU of its own.
const BETWEEN_NODES: &[&str] =
    &["underlay", "vxlan", "switchd", "switchd-quic", "wireguard-go", "tinc", "n2n", "openvpn", "vpncloud"];

#[cfg(test)]
mod tests {
    use super::super::contender;
    use super::*;

    #[test]
    fn names_are_unique_and_of_contenders_that_exist() {
        let known: Vec<_> = contender::all().iter().map(|contender| contender.name()).collect();
        for scenarios in [Scenario::quick(), Scenario::all()] {
            let mut names: Vec<_> = scenarios.iter().map(|scenario| scenario.name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), scenarios.len());
            for name in scenarios.iter().flat_map(|scenario| &scenario.jobs).flat_map(|job| job.contenders) {
                assert!(known.contains(name), "{name}");
            }
        }
        assert!(BETWEEN_NODES.iter().all(|name| *name != "bridge") && BETWEEN_NODES.len() + 2 == known.len());
    }
}
