//! TCP flows by iperf3.

use std::time::Duration;

use anyhow::{Context, Result};
use netns_tests::measure::iperf_with;
use serde_json::Value;

use super::cost::Meter;
use super::netstat::Order;
use super::offload::Plain;
use super::{Arena, Figure};

/// One flow, with its cost and its order.
pub(super) fn one(arena: &Arena<'_>, time: Duration) -> Result<Vec<Figure>> {
    let (at_client, at_server) = (Order::of(arena.client)?, Order::of(arena.server)?);
    let meter = Meter::start(arena)?;
    let flow = flow(arena, time, &[])?;
    let mut figures = vec![rate("tcp-1-flow", flow.rate)];
    figures.extend(meter.per_gigabyte(flow.bytes)?);
    let count = |name, before: u64, after: u64| Figure {
        name,
        value: after.saturating_sub(before) as f64,
        unit: "segments",
    };
    figures.extend([
        count("tcp-1-flow-resent", 0, flow.resent),
        count("tcp-1-flow-late", at_client.reordered, Order::of(arena.client)?.reordered),
        count("tcp-1-flow-out-of-order", at_server.out_of_order, Order::of(arena.server)?.out_of_order),
    ]);
    Ok(figures)
}

pub(super) fn four(arena: &Arena<'_>, time: Duration) -> Result<Vec<Figure>> {
    Ok(vec![rate("tcp-4-flows", flow(arena, time, &["-P", "4"])?.rate)])
}

pub(super) fn both(arena: &Arena<'_>, time: Duration) -> Result<Vec<Figure>> {
    Ok(vec![rate("tcp-both", flow(arena, time, &["--bidir"])?.rate)])
}

pub(super) fn without_offload(arena: &Arena<'_>, time: Duration) -> Result<Vec<Figure>> {
    let _client = Plain::of(arena.client, arena.client_address)?;
    let _server = Plain::of(arena.server, arena.address)?;
    Ok(vec![rate("tcp-no-offload", flow(arena, time, &[])?.rate)])
}

/// What came of one run of iperf3, all its flows together.
#[derive(Debug, PartialEq)]
struct Flow {
    /// Bits per second, as the receivers counted them.
    rate: f64,
    /// Received.
    bytes: f64,
    /// Segments that were sent again.
    resent: u64,
}

fn flow(arena: &Arena<'_>, time: Duration, options: &[&str]) -> Result<Flow> {
    let seconds = time.as_secs_f64().ceil().max(1.0) as u32;
    let report = iperf_with(arena.client, arena.server, arena.address, seconds, options)?;
    parse(&report["end"]).with_context(|| format!("iperf3's report lacks its sums: {report}"))
}

fn parse(end: &Value) -> Option<Flow> {
    let ways: Vec<_> = ["sum_received", "sum_received_bidir_reverse"]
        .iter()
        .map(|way| &end[way])
        .filter(|way| !way.is_null())
        .collect();
    let sum = |key: &str| ways.iter().map(|way| way[key].as_f64()).sum::<Option<f64>>();
    let (rate, bytes) = (sum("bits_per_second")?, sum("bytes")?);
    // Per gigabyte of nothing there is no cost.
    (bytes > 0.0).then_some(())?;
    Some(Flow { rate, bytes, resent: end["sum_sent"]["retransmits"].as_u64()? })
}

fn rate(name: &'static str, bits: f64) -> Figure {
    Figure { name, value: bits / 1e9, unit: "Gb/s" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_are_added() {
        let one = serde_json::json!({
            "sum_sent": { "retransmits": 3, "bits_per_second": 9.0 },
            "sum_received": { "bits_per_second": 8e9, "bytes": 4e9 },
        });
        assert_eq!(parse(&one), Some(Flow { rate: 8e9, bytes: 4e9, resent: 3 }));
        let mut both = one.clone();
        both["sum_received_bidir_reverse"] = serde_json::json!({ "bits_per_second": 1e9, "bytes": 5e8 });
        assert_eq!(parse(&both), Some(Flow { rate: 9e9, bytes: 4.5e9, resent: 3 }));
        assert_eq!(parse(&serde_json::json!({ "sum_sent": { "retransmits": 0 } })), None);
    }
}
