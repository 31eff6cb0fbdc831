//! The metrics of the embedded relay.

use prometheus::{IntGauge, Registry};

use super::{VALID, add, counter, counters};
use crate::relay::{Refused, RelayCounters};

pub(super) fn add_all(seen: &Registry, relay: &RelayCounters) {
    for (name, help, number) in [
        ("controller_relay_allocations", "Allocations that stand.", &relay.allocations),
        ("controller_relay_permissions", "Permissions that stand.", &relay.permissions),
        ("controller_relay_channels", "Channels that stand.", &relay.channels),
        ("controller_relay_connections", "TCP and TLS connections that stand.", &relay.connections),
    ] {
        let metric = IntGauge::new(name, help).expect(VALID);
        metric.set(i64::try_from(number.get()).unwrap_or(i64::MAX));
        add(seen, metric);
    }
    for (name, help, number) in [
        ("controller_relay_allocations_total", "Allocations made.", &relay.allocated),
        ("controller_relay_bindings_total", "STUN Binding requests answered.", &relay.bindings),
    ] {
        let metric = counter(name, help);
        metric.inc_by(number.get());
        add(seen, metric);
    }
    let datagrams = counters("controller_relay_datagrams_total", "Datagrams relayed.", &["direction"]);
    let bytes = counters(
        "controller_relay_bytes_total",
        "Bytes of the datagrams relayed, without headers.",
        &["direction"],
    );
    for (direction, flow) in [("to-peers", &relay.to_peers), ("to-nodes", &relay.to_nodes)] {
        datagrams.with_label_values(&[direction]).inc_by(flow.datagrams.get());
        bytes.with_label_values(&[direction]).inc_by(flow.bytes.get());
    }
    add(seen, datagrams);
    add(seen, bytes);
    let refused = counters("controller_relay_refused_total", "Datagrams and requests refused.", &["reason"]);
    for reason in Refused::ALL {
        refused.with_label_values(&[reason.word()]).inc_by(relay.refused(reason));
    }
    add(seen, refused);
}
