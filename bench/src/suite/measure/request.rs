//! Requests and their responses, one at a time, by a client and a server of our own.

mod ends;
mod times;

use std::time::{Duration, Instant};

use anyhow::Result;

use self::ends::{TcpEnds, UdpEnds};
use self::times::Times;
use super::bulk::Bulk;
use super::{Arena, Figure};

/// Over UDP and over TCP, each with time between requests and without: a quarter of twice the time for each.
pub(super) fn idle(arena: &Arena<'_>, time: Duration) -> Result<Vec<Figure>> {
    let part = time / 2;
    let mut figures = Vec::new();
    for (cadence, udp, tcp) in
        [(SPACED, &UDP_SPACED, &TCP_SPACED), (BACK_TO_BACK, &UDP_BACK_TO_BACK, &TCP_BACK_TO_BACK)]
    {
        let mut ends = UdpEnds::open(arena)?;
        figures.extend(udp.figures(&times(|| ends.exchange(), cadence, part)?));
        let mut ends = TcpEnds::open(arena)?;
        figures.extend(tcp.figures(&times(|| ends.exchange(), cadence, part)?));
    }
    Ok(figures)
}

/// Beside one TCP flow in the requests' direction, twice the time and at least [`LOADED`], half of it for UDP and half
/// for TCP, and what that flow carried:
/// without it, a contender that starves the flow would look good.
pub(super) fn loaded(arena: &Arena<'_>, time: Duration) -> Result<Vec<Figure>> {
    let (mut udp, mut tcp) = (UdpEnds::open(arena)?, TcpEnds::open(arena)?);
    let bulk = Bulk::start(arena)?;
    let part = time.max(LOADED / 2);
    let (start, before) = (Instant::now(), bulk.bytes());
    let mut figures = UDP_LOADED.figures(&times(|| udp.exchange(), BESIDE_BULK, part)?);
    figures.extend(TCP_LOADED.figures(&times(|| tcp.exchange(), BESIDE_BULK, part)?));
    let bits = (bulk.bytes() - before) as f64 * 8.0;
    let value = bits / start.elapsed().as_secs_f64() / 1e9;
    figures.push(Figure { name: "loaded-tcp-flow", value, unit: "Gb/s" });
    Ok(figures)
}

/// Exchanges requests and responses for `time`, at most one in each `spacing`.
fn times(mut exchange: impl FnMut() -> Result<bool>, spacing: Duration, time: Duration) -> Result<Times> {
    // Whatever is resolved, learned or woken by the first is not what this measures.
    for _ in 0..WARM_UP {
        exchange()?;
    }
    let mut times = Times::default();
    let start = Instant::now();
    let mut next = start;
    while start.elapsed() < time {
        if !spacing.is_zero() {
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        let asked = Instant::now();
        // What came late is not made up for.
        next = asked + spacing;
        let answered = exchange()?;
        times.add(asked.elapsed(), answered);
    }
    times.end(start.elapsed());
    Ok(times)
}

/// Names of the figures of one way to ask.
struct Names {
    /// None where the pace is set.
    rate: Option<&'static str>,
    /// Share of requests in thousand, and the name.
    percentiles: [(f64, &'static str); 3],
    /// None where the transport repeats what is lost.
    lost: Option<&'static str>,
}

impl Names {
    fn figures(&self, times: &Times) -> Vec<Figure> {
        let mut figures = Vec::new();
        figures.extend(self.rate.map(|name| Figure { name, value: times.rate(), unit: "requests/s" }));
        figures.extend(self.percentiles.iter().filter_map(|(share, name)| {
            let value = times.percentile(*share)?.as_secs_f64() * 1e6;
            Some(Figure { name, value, unit: "µs" })
        }));
        figures.extend(self.lost.map(|name| Figure { name, value: times.lost() * 100.0, unit: "%" }));
        figures
    }
}

macro_rules! names {
    ($base:literal, $rate:expr, $lost:expr) => {
        Names {
            rate: $rate,
            percentiles: [
                (0.5, concat!($base, "-p50")),
                (0.99, concat!($base, "-p99")),
                (0.999, concat!($base, "-p99.9")),
            ],
            lost: $lost,
        }
    };
}

const UDP_SPACED: Names = names!("udp-request-spaced", None, Some("udp-request-spaced-lost"));
const TCP_SPACED: Names = names!("tcp-request-spaced", None, None);
const UDP_BACK_TO_BACK: Names = names!("udp-request", Some("udp-request-rate"), Some("udp-request-lost"));
const TCP_BACK_TO_BACK: Names = names!("tcp-request", Some("tcp-request-rate"), None);
const UDP_LOADED: Names = names!("udp-request-loaded", None, Some("udp-request-loaded-lost"));
const TCP_LOADED: Names = names!("tcp-request-loaded", None, None);

/// Long enough for CPUs to fall asleep in between.
const SPACED: Duration = Duration::from_millis(2);
const BACK_TO_BACK: Duration = Duration::ZERO;

/// A thousand in a second.
const BESIDE_BULK: Duration = Duration::from_millis(1);
/// So that a 99th percentile has some 25 of them above it.
const LOADED: Duration = Duration::from_secs(5);

const WARM_UP: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_their_names_and_units() {
        let mut count = 0;
        let times = times(
            || {
                count += 1;
                Ok(count != 25)
            },
            Duration::ZERO,
            Duration::from_millis(20),
        )
        .unwrap();
        let figures = UDP_BACK_TO_BACK.figures(&times);
        let names: Vec<_> = figures.iter().map(|figure| figure.name).collect();
        assert_eq!(
            names,
            [
                "udp-request-rate",
                "udp-request-p50",
                "udp-request-p99",
                "udp-request-p99.9",
                "udp-request-lost"
            ]
        );
        assert!(figures[4].value > 0.0 && figures[0].value > 100.0, "{figures:?}");
    }

    #[test]
    fn spaced_requests_keep_their_pace_after_a_slow_one_too() {
        let mut asked = Vec::new();
        let spacing = Duration::from_millis(5);
        times(
            || {
                asked.push(Instant::now());
                if asked.len() == WARM_UP + 3 {
                    std::thread::sleep(spacing * 3);
                }
                Ok(true)
            },
            spacing,
            Duration::from_millis(100),
        )
        .unwrap();
        let spaced = &asked[WARM_UP..];
        assert!((4..=20).contains(&spaced.len()), "{}", spaced.len());
        // This thread may wait for a CPU before it looks at the clock.
        assert!(spaced.windows(2).all(|two| two[1] - two[0] > spacing / 2), "{spaced:?}");
    }
}
