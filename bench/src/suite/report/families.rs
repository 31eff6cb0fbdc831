//! Which figures stand together.

/// Figures of one table.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) title: &'static str,
    /// In the plot's file name; none for what needs no plot.
    pub(super) plot: Option<&'static str>,
    /// More is better; of loss and latency, less is.
    pub(super) more_is_better: bool,
    /// False where values are often zero.
    pub(super) ratio: bool,
    /// Name of the figure, and the column's head.
    pub(super) figures: &'static [(&'static str, &'static str)],
}

/// Every figure of the suite but Table II's, each in one family.
pub(super) const ALL: &[Family] = &[
    Family {
        title: "TCP, Gb/s",
        plot: Some("tcp"),
        more_is_better: true,
        ratio: true,
        figures: &[
            ("tcp-1-flow", "one flow"),
            ("tcp-4-flows", "four flows"),
            ("tcp-both", "both directions, sum"),
            ("tcp-no-offload", "one flow, guests without offloads"),
        ],
    },
    Family {
        title: "Datagrams received from a sender that sends all it can, 1000/s",
        plot: Some("udp"),
        more_is_better: true,
        ratio: true,
        figures: &[
            ("udp-64", "64 bytes"),
            ("udp-512", "512 bytes"),
            ("udp-1400", "1400 bytes"),
            ("udp-8192", "8192 bytes"),
        ],
    },
    Family {
        title: "Of these lost, %",
        plot: None,
        more_is_better: false,
        ratio: false,
        figures: &[
            ("udp-64-loss", "64 bytes"),
            ("udp-512-loss", "512 bytes"),
            ("udp-1400-loss", "1400 bytes"),
            ("udp-8192-loss", "8192 bytes"),
        ],
    },
    Family {
        title: "Datagrams that were sent, 1000/s",
        plot: None,
        more_is_better: true,
        ratio: false,
        figures: &[
            ("udp-64-offered", "64 bytes"),
            ("udp-512-offered", "512 bytes"),
            ("udp-1400-offered", "1400 bytes"),
            ("udp-8192-offered", "8192 bytes"),
        ],
    },
    Family {
        title: "The highest rate of datagrams with under 1 % lost, 1000/s",
        plot: Some("udp-clean"),
        more_is_better: true,
        ratio: true,
        figures: &[
            ("udp-64-clean", "64 bytes"),
            ("udp-512-clean", "512 bytes"),
            ("udp-1400-clean", "1400 bytes"),
            ("udp-8192-clean", "8192 bytes"),
        ],
    },
    Family {
        title: "Round trip, a request every 2 ms, µs",
        plot: Some("request-spaced"),
        more_is_better: false,
        ratio: true,
        figures: &[
            ("udp-request-spaced-p50", "UDP p50"),
            ("udp-request-spaced-p99", "UDP p99"),
            ("udp-request-spaced-p99.9", "UDP p99.9"),
            ("tcp-request-spaced-p50", "TCP p50"),
            ("tcp-request-spaced-p99", "TCP p99"),
            ("tcp-request-spaced-p99.9", "TCP p99.9"),
        ],
    },
    Family {
        title: "Round trip, requests back to back, µs",
        plot: Some("request"),
        more_is_better: false,
        ratio: true,
        figures: &[
            ("udp-request-p50", "UDP p50"),
            ("udp-request-p99", "UDP p99"),
            ("udp-request-p99.9", "UDP p99.9"),
            ("tcp-request-p50", "TCP p50"),
            ("tcp-request-p99", "TCP p99"),
            ("tcp-request-p99.9", "TCP p99.9"),
        ],
    },
    Family {
        title: "Requests back to back, 1000/s",
        plot: None,
        more_is_better: true,
        ratio: true,
        figures: &[("udp-request-rate", "UDP"), ("tcp-request-rate", "TCP")],
    },
    Family {
        title: "Round trip beside a bulk TCP flow in the same direction, a request every ms, µs",
        plot: Some("request-loaded"),
        more_is_better: false,
        ratio: true,
        figures: &[
            ("udp-request-loaded-p50", "UDP p50"),
            ("udp-request-loaded-p99", "UDP p99"),
            ("udp-request-loaded-p99.9", "UDP p99.9"),
            ("tcp-request-loaded-p50", "TCP p50"),
            ("tcp-request-loaded-p99", "TCP p99"),
            ("tcp-request-loaded-p99.9", "TCP p99.9"),
        ],
    },
    Family {
        title: "That bulk flow, Gb/s",
        plot: None,
        more_is_better: true,
        ratio: true,
        figures: &[("loaded-tcp-flow", "beside requests")],
    },
    Family {
        title: "UDP requests without response, %",
        plot: None,
        more_is_better: false,
        ratio: false,
        figures: &[
            ("udp-request-spaced-lost", "every 2 ms"),
            ("udp-request-lost", "back to back"),
            ("udp-request-loaded-lost", "beside a bulk flow"),
        ],
    },
    Family {
        title: "CPU seconds for a GB of one TCP flow",
        plot: Some("cpu"),
        more_is_better: false,
        ratio: true,
        figures: &[("cpu-daemons", "both daemons"), ("cpu-machine", "whole machine")],
    },
    Family {
        title: "Resident memory, MiB",
        plot: None,
        more_is_better: false,
        ratio: false,
        figures: &[("memory", "largest process")],
    },
    Family {
        title: "Order: of one TCP flow, segments; of UDP floods, datagrams",
        plot: None,
        more_is_better: false,
        ratio: false,
        figures: &[
            ("tcp-1-flow-resent", "sent again"),
            ("tcp-1-flow-late", "late, as the sender found"),
            ("tcp-1-flow-out-of-order", "out of order at the receiver"),
            ("udp-64-reordered", "64 bytes"),
            ("udp-512-reordered", "512 bytes"),
            ("udp-1400-reordered", "1400 bytes"),
            ("udp-8192-reordered", "8192 bytes"),
        ],
    },
];

/// Figures that are shown side by side over scenarios, with their heads.
pub(super) const OVER_SCENARIOS: &[(&str, &str)] = &[
    ("tcp-1-flow", "One TCP flow, Gb/s"),
    ("tcp-4-flows", "Four TCP flows, Gb/s"),
    ("tcp-both", "TCP both directions, sum, Gb/s"),
    ("udp-64", "Datagrams of 64 bytes received, 1000/s"),
    ("udp-1400", "Datagrams of 1400 bytes received, 1000/s"),
    ("udp-request-spaced-p50", "Round trip, a request every 2 ms, UDP p50, µs"),
    ("udp-request-loaded-p99", "Round trip beside a bulk flow, UDP p99, µs"),
    ("cpu-daemons", "CPU seconds of both daemons for a GB"),
];
