//! Datagrams by a generator of our own, which counts them by their sequence numbers.

mod flood;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use self::flood::{Flood, flood};
use super::{Arena, Figure, Measure};

/// First as many datagrams as one sender can send, for half the time; then a search for the highest rate at which
/// under 1 % are lost.
pub(super) fn datagrams(arena: &Arena<'_>, size: u16, time: Duration) -> Result<Vec<Figure>> {
    let Some(names) = names(size) else {
        bail!("datagrams of {size} bytes have no names for their figures: {:?}", Measure::UDP_SIZES);
    };
    // What is left of datagrams whose fragments were lost is kept for 30 s by default, within 4 MiB: a lossy flood
    // would leave no room for whatever is measured after it.
    for end in [arena.client, arena.server] {
        end.sysctl("net/ipv4/ipfrag_time", "1")?;
        end.sysctl("net/ipv4/ipfrag_high_thresh", "134217728")?;
    }
    let full = flood(arena, size, None, time / 2)?;
    let deadline = Instant::now() + time;
    let clean = search(
        full.offered(),
        full.received_rate(),
        || Instant::now() < deadline,
        |rate| flood(arena, size, Some(rate), (time / 16).max(SHORTEST)),
    )?;
    let mut figures = vec![
        Figure { name: names.received, value: full.received_rate(), unit: "packets/s" },
        Figure { name: names.offered, value: full.offered(), unit: "packets/s" },
        Figure { name: names.loss, value: full.loss() * 100.0, unit: "%" },
        Figure { name: names.reordered, value: full.reordered as f64, unit: "packets" },
    ];
    figures.extend(clean.map(|value| Figure { name: names.clean, value, unit: "packets/s" }));
    Ok(figures)
}

/// Of the measure with datagrams of `size` bytes.
pub(super) fn name(size: u16) -> &'static str {
    names(size).map_or("udp", |names| names.received)
}

fn names(size: u16) -> Option<&'static Names> {
    NAMES.iter().find(|names| names.size == size)
}

/// The highest rate up to `most` at which a trial receives all but 1 %, to within a tenth; 0 if even the slowest loses
/// more. Begins at `first`, and ends early when there is no more time: with the best so far, or none.
fn search(
    most: f64,
    first: f64,
    mut time_left: impl FnMut() -> bool,
    mut trial: impl FnMut(f64) -> Result<Flood>,
) -> Result<Option<f64>> {
    let (mut clean, mut lossy) = (0.0f64, most * 1.1);
    let mut rate = first;
    while rate >= SLOWEST && lossy > clean * 1.1 && time_left() {
        let flood = trial(rate)?;
        // What was received counts, not what was asked for: the sender may have been too slow.
        if flood.loss() < MOST_LOST {
            clean = clean.max(flood.received_rate());
            if flood.offered() < rate * 0.9 {
                break;
            }
            rate = if lossy < most { f64::midpoint(rate, lossy) } else { (rate * 1.5).min(most) };
            if rate <= clean {
                break;
            }
        } else {
            lossy = rate;
            rate = if clean > 0.0 { f64::midpoint(clean, lossy) } else { rate / 2.0 };
        }
    }
    Ok((clean > 0.0 || rate < SLOWEST).then_some(clean))
}

struct Names {
    size: u16,
    received: &'static str,
    offered: &'static str,
    loss: &'static str,
    clean: &'static str,
    reordered: &'static str,
}

macro_rules! names {
    ($size:literal) => {
        Names {
            size: $size,
            received: concat!("udp-", $size),
            offered: concat!("udp-", $size, "-offered"),
            loss: concat!("udp-", $size, "-loss"),
            clean: concat!("udp-", $size, "-clean"),
            reordered: concat!("udp-", $size, "-reordered"),
        }
    };
}

static NAMES: [Names; 4] = [names!(64), names!(512), names!(1400), names!(8192)];

const MOST_LOST: f64 = 0.01;

/// In packets per second: whoever cannot carry these has no rate.
const SLOWEST: f64 = 100.0;

/// Of one trial: long enough to fill a queue of 1000 packets many times over.
const SHORTEST: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    /// A contender that carries up to `limit` packets in a second, and drops the rest.
    fn carries(limit: f64) -> impl FnMut(f64) -> Result<Flood> {
        move |rate| {
            let received = rate.min(limit);
            Ok(Flood {
                sent: rate as u64,
                received: received as u64,
                reordered: 0,
                sending: Duration::from_secs(1),
                receiving: Duration::from_secs(1),
            })
        }
    }

    #[test]
    fn finds_the_highest_clean_rate_from_below_and_from_above() {
        for (limit, first) in
            [(40_000.0, 100_000.0), (40_000.0, 10_000.0), (40_000.0, 40_000.0), (900.0, 300_000.0)]
        {
            let found = search(500_000.0, first, || true, carries(limit)).unwrap().unwrap();
            assert!(found > limit * 0.85 && found <= limit * 1.02, "{limit} from {first}: {found}");
        }
        // All that the sender can send arrives.
        let found = search(500_000.0, 490_000.0, || true, carries(1e9)).unwrap().unwrap();
        assert!(found > 450_000.0, "{found}");
    }

    #[test]
    fn what_loses_at_any_rate_has_none_and_time_ends_the_search() {
        let lossy = |rate: f64| Ok(Flood { received: (rate / 2.0) as u64, ..carries(1e9)(rate)? });
        assert_eq!(search(1e6, 1e5, || true, lossy).unwrap(), Some(0.0));
        assert_eq!(search(1e6, 1e5, || false, lossy).unwrap(), None);
        let mut trials = 0;
        let mut left = 2;
        let found = search(
            1e6,
            1e5,
            || {
                left -= 1;
                left >= 0
            },
            |rate| {
                trials += 1;
                carries(2e4)(rate)
            },
        );
        assert!(found.is_ok() && trials == 2);
    }

    #[test]
    fn every_size_has_names() {
        assert_eq!(NAMES.each_ref().map(|names| names.size), Measure::UDP_SIZES);
        assert_eq!(NAMES[3].clean, "udp-8192-clean");
    }
}
