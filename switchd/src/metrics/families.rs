//! The metrics: names, labels, help, and where each value comes from.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use crate::endpoint::EndpointStatus;
use crate::view::{self, CaseCount, Direction, DirectionStats, Link, LinkState, NetworkStats, View};

/// Reads the [`View`] at each scrape: the daemon keeps plain counters and pays nothing in between.
pub(super) struct ViewCollector {
    view: Arc<dyn View>,
    descs: Vec<Desc>,
}

impl ViewCollector {
    pub(super) fn new(view: Arc<dyn View>) -> ViewCollector {
        let descs = FAMILIES.iter().map(|family| family.desc()).collect();
        ViewCollector { view, descs }
    }
}

impl Collector for ViewCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let status = self.view.status();
        let stats = self.view.stats();
        let links = self.view.links();
        let sides: Vec<Side<'_>> = stats.networks.iter().flat_map(sides_of).collect();
        let mut families = vec![
            BUILD_INFO.gauge([([status.version.as_str()], 1.0)]),
            UPTIME.gauge([([], status.uptime.as_secs_f64())]),
            READY.gauge([([], flag(status.ready))]),
            ENDPOINT_UP.gauge(status.networks.iter().map(|network| {
                ([network.name.as_str()], flag(network.endpoint_state == EndpointStatus::Up))
            })),
            FRAMES.counter(sides.iter().map(|side| (side.labels(), side.stats.frames))),
            BYTES.counter(sides.iter().map(|side| (side.labels(), side.stats.bytes))),
            SUPER_FRAMES.counter(sides.iter().map(|side| (side.labels(), side.stats.super_frames))),
            FRAME_BYTES.histogram(sides.iter().map(|side| (side.labels(), &side.stats.frame_bytes))),
            DROPS.counter(sides.iter().flat_map(|side| {
                let [network, direction] = side.labels();
                side.stats.drops.iter().map(move |(reason, count)| ([network, direction, reason], *count))
            })),
            DATAGRAM_DROPS
                .counter(stats.datagram_drops.iter().map(|(reason, count)| ([reason.as_str()], *count))),
            WORKER_CPU.seconds(stats.worker.map(|worker| ([], worker.ran))),
            WORKER_WAITED.seconds(stats.worker.map(|worker| ([], worker.waited))),
            SEND_ERRORS.counter(stats.send_errors.iter().map(|(error, count)| ([error.as_str()], *count))),
            BATCHES.histogram([
                (["to_peer"], &stats.batches_to_peer),
                (["from_peer"], &stats.batches_from_peer),
            ]),
            ARP.counter(stats.networks.iter().flat_map(|network| cases(network, &network.arp))),
            ND.counter(stats.networks.iter().flat_map(|network| cases(network, &network.nd))),
        ];
        let tables = || {
            stats.networks.iter().flat_map(|network| {
                network.tables.iter().map(|table| ([network.network.as_str(), table.table.as_str()], table))
            })
        };
        families.extend([
            TABLE_ENTRIES.gauge(tables().map(|(labels, table)| (labels, table.entries as f64))),
            TABLE_LIMIT.gauge(tables().map(|(labels, table)| (labels, table.limit as f64))),
            TABLE_FULL.counter(tables().map(|(labels, table)| (labels, table.full))),
            UNUSED_BINDINGS.counter(stats.networks.iter().flat_map(|network| {
                let reasons = network.unused_bindings.iter();
                reasons.map(|(reason, count)| ([network.network.as_str(), reason.as_str()], *count))
            })),
        ]);
        families.extend(link_families(&links));
        families.extend(status.controller.iter().flat_map(controller_families));
        families.retain(|family| !family.get_metric().is_empty());
        families
    }
}

fn controller_families(session: &view::Controller) -> [MetricFamily; 6] {
    [
        CONTROLLER_CONNECTED.gauge([([], flag(session.connected))]),
        CONTROLLER_LAST_HEARD.gauge(session.last_heard.map(|heard| ([], heard.as_secs_f64()))),
        CONTROLLER_REVISION.gauge([([], session.revision as f64)]),
        CONTROLLER_RECONNECTS.counter([([], session.reconnects)]),
        CONTROLLER_REFUSED.counter([([], session.refused_claims)]),
        CONTROLLER_REMOVED.gauge([([], flag(session.removed.is_some()))]),
    ]
}

fn link_families(links: &[Link]) -> Vec<MetricFamily> {
    let counter = |family: &Family<1>, value: fn(&Link) -> u64| {
        family.counter(links.iter().map(|link| ([link.peer.as_str()], value(link))))
    };
    // Each way what all carriages did, and what of it QUIC's datagrams did.
    let two_ways = |family: &Family<3>, to: fn(&Link) -> [u64; 2], from: fn(&Link) -> [u64; 2]| {
        family.counter(links.iter().flat_map(|link| {
            [("to_peer", to(link)), ("from_peer", from(link))].into_iter().flat_map(|(way, [all, quic])| {
                let peer = link.peer.as_str();
                [([peer, way, "sealed"], all.saturating_sub(quic)), ([peer, way, "quic"], quic)]
            })
        }))
    };
    let known = |family: &Family<1>, value: fn(&Link) -> Option<f64>| {
        family.gauge(links.iter().filter_map(|link| Some(([link.peer.as_str()], value(link)?))))
    };
    vec![
        known(&LINK_UP, |link| Some(flag(link.state == LinkState::Up))),
        LINK_PATH
            .gauge(links.iter().filter_map(|link| Some(([link.peer.as_str(), link.path.as_deref()?], 1.0)))),
        known(&LINK_RTT, |link| link.rtt.map(|rtt| rtt.as_secs_f64())),
        known(&LINK_LOSS, |link| link.loss),
        known(&LINK_PATH_MTU, |link| link.path_mtu.map(f64::from)),
        known(&LINK_EPOCH, |link| Some(link.epoch as f64)),
        known(&LINK_SESSION_AGE, |link| link.session_age.map(|age| age.as_secs_f64())),
        two_ways(
            &LINK_DATAGRAMS,
            |link| [link.datagrams_to_peer, link.quic_datagrams_to_peer],
            |link| [link.datagrams_from_peer, link.quic_datagrams_from_peer],
        ),
        two_ways(
            &LINK_BYTES,
            |link| [link.bytes_to_peer, link.quic_bytes_to_peer],
            |link| [link.bytes_from_peer, link.quic_bytes_from_peer],
        ),
        counter(&LINK_REPLAYS, |link| link.replays_dropped),
        counter(&LINK_RECONNECTS, |link| link.reconnects),
    ]
}

/// One side of one network.
struct Side<'a> {
    network: &'a str,
    direction: Direction,
    stats: &'a DirectionStats,
}

impl<'a> Side<'a> {
    fn labels(&self) -> [&'a str; 2] {
        [self.network, self.direction.as_str()]
    }
}

fn sides_of(network: &NetworkStats) -> [Side<'_>; 2] {
    [(Direction::Local, &network.local), (Direction::Remote, &network.remote)]
        .map(|(direction, stats)| Side { network: &network.network, direction, stats })
}

fn cases<'a>(
    network: &'a NetworkStats,
    counts: &'a [CaseCount],
) -> impl Iterator<Item = ([&'a str; 3], u64)> {
    counts
        .iter()
        .map(|count| ([network.network.as_str(), count.case.as_str(), count.outcome.as_str()], count.count))
}

fn flag(on: bool) -> f64 {
    f64::from(u8::from(on))
}

/// A metric with `N` labels.
struct Family<const N: usize> {
    name: &'static str,
    help: &'static str,
    labels: [&'static str; N],
}

impl<const N: usize> Family<N> {
    fn gauge<'a>(&self, samples: impl IntoIterator<Item = ([&'a str; N], f64)>) -> MetricFamily {
        self.family(MetricType::GAUGE, samples, |metric, value| {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        })
    }

    fn counter<'a>(&self, samples: impl IntoIterator<Item = ([&'a str; N], u64)>) -> MetricFamily {
        self.total(samples.into_iter().map(|(values, count)| (values, count as f64)))
    }

    fn seconds<'a>(&self, samples: impl IntoIterator<Item = ([&'a str; N], Duration)>) -> MetricFamily {
        self.total(samples.into_iter().map(|(values, time)| (values, time.as_secs_f64())))
    }

    fn total<'a>(&self, samples: impl IntoIterator<Item = ([&'a str; N], f64)>) -> MetricFamily {
        self.family(MetricType::COUNTER, samples, |metric, value| {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        })
    }

    fn histogram<'a>(
        &self,
        samples: impl IntoIterator<Item = ([&'a str; N], &'a view::Histogram)>,
    ) -> MetricFamily {
        self.family(MetricType::HISTOGRAM, samples, |metric, observed| {
            let mut below = 0;
            let buckets = observed.bounds.iter().zip(&observed.counts).map(|(bound, count)| {
                below += count;
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(*bound as f64);
                bucket.set_cumulative_count(below);
                bucket
            });
            let mut histogram = prometheus::proto::Histogram::default();
            histogram.set_bucket(buckets.collect());
            histogram.set_sample_count(observed.count());
            histogram.set_sample_sum(observed.sum as f64);
            metric.set_histogram(histogram);
        })
    }

    fn family<'a, V>(
        &self,
        kind: MetricType,
        samples: impl IntoIterator<Item = ([&'a str; N], V)>,
        set: impl Fn(&mut Metric, V),
    ) -> MetricFamily {
        let metrics = samples.into_iter().map(|(values, value)| {
            let pairs = self.labels.iter().zip(values).map(|(name, value)| {
                let mut pair = LabelPair::default();
                pair.set_name((*name).to_owned());
                pair.set_value(value.to_owned());
                pair
            });
            let mut metric = Metric::from_label(pairs.collect());
            set(&mut metric, value);
            metric
        });
        let mut family = MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.help.to_owned());
        family.set_field_type(kind);
        family.set_metric(metrics.collect());
        family
    }
}

/// A [`Family`] of any number of labels.
trait Describe: Sync {
    fn desc(&self) -> Desc;
}

impl<const N: usize> Describe for Family<N> {
    fn desc(&self) -> Desc {
        let labels = self.labels.iter().map(|label| (*label).to_owned()).collect();
        Desc::new(self.name.to_owned(), self.help.to_owned(), labels, HashMap::new())
            .expect("the names below are valid metric names")
    }
}

static BUILD_INFO: Family<1> = Family {
    name: "switchd_build_info",
    help: "Always 1; the running version is the label.",
    labels: ["version"],
};
static UPTIME: Family<0> =
    Family { name: "switchd_uptime_seconds", help: "Time since the daemon started.", labels: [] };
static READY: Family<0> = Family {
    name: "switchd_ready",
    help: "1 if every endpoint is up and enslaved to its bridge.",
    labels: [],
};
static ENDPOINT_UP: Family<1> = Family {
    name: "switchd_endpoint_up",
    help: "1 if the endpoint is up and enslaved to its bridge.",
    labels: ["network"],
};
static FRAMES: Family<2> = Family {
    name: "switchd_frames_total",
    help: "Frames that the switch saw, a super-frame counted once; local is from the bridge, remote from peers.",
    labels: ["network", "direction"],
};
static BYTES: Family<2> = Family {
    name: "switchd_bytes_total",
    help: "Bytes of those frames, Ethernet header included.",
    labels: ["network", "direction"],
};
static SUPER_FRAMES: Family<2> = Family {
    name: "switchd_super_frames_total",
    help: "Those frames that were super-frames.",
    labels: ["network", "direction"],
};
static FRAME_BYTES: Family<2> =
    Family { name: "switchd_frame_bytes", help: "Sizes of those frames.", labels: ["network", "direction"] };
static DROPS: Family<3> = Family {
    name: "switchd_drops_total",
    help: "Frames dropped, by reason; switchctl why-dropped explains them.",
    labels: ["network", "direction", "reason"],
};
static DATAGRAM_DROPS: Family<1> = Family {
    name: "switchd_datagram_drops_total",
    help: "Datagrams from peers dropped where their network is not known, and those that QUIC was to carry to them, by reason.",
    labels: ["reason"],
};
static WORKER_CPU: Family<0> = Family {
    name: "switchd_worker_cpu_seconds_total",
    help: "Time that the worker, which carries all frames, ran on a CPU.",
    labels: [],
};
static WORKER_WAITED: Family<0> = Family {
    name: "switchd_worker_waited_seconds_total",
    help: "Time that the worker was runnable and waited for a CPU.",
    labels: [],
};
static SEND_ERRORS: Family<1> = Family {
    name: "switchd_send_errors_total",
    help: "Sends to the underlay that failed, by errno.",
    labels: ["error"],
};
static BATCHES: Family<1> = Family {
    name: "switchd_batch_datagrams",
    help: "Datagrams in one send to (UDP GSO), or one receive from (UDP GRO), a peer.",
    labels: ["direction"],
};
static ARP: Family<3> = Family {
    name: "switchd_arp_total",
    help: "ARP messages by the case they fell under and what the switch did.",
    labels: ["network", "case", "outcome"],
};
static ND: Family<3> = Family {
    name: "switchd_nd_total",
    help: "IPv6 neighbour discovery messages by the case they fell under and what the switch did.",
    labels: ["network", "case", "outcome"],
};
static TABLE_ENTRIES: Family<2> = Family {
    name: "switchd_table_entries",
    help: "Entries of the bounded tables.",
    labels: ["network", "table"],
};
static TABLE_LIMIT: Family<2> = Family {
    name: "switchd_table_limit",
    help: "The most entries that the table takes.",
    labels: ["network", "table"],
};
static TABLE_FULL: Family<2> = Family {
    name: "switchd_table_full_total",
    help: "Times that an entry was refused or another evicted because the table was full.",
    labels: ["network", "table"],
};
static UNUSED_BINDINGS: Family<2> = Family {
    name: "switchd_unused_bindings_total",
    help: "Bindings of the controller or the file that changed nothing, by reason: all but refused are ordinary.",
    labels: ["network", "reason"],
};
static LINK_UP: Family<1> =
    Family { name: "switchd_link_up", help: "1 if the link with the peer is up.", labels: ["peer"] };
static LINK_PATH: Family<2> = Family {
    name: "switchd_link_path_info",
    help: "Always 1; the kind of path under the link is the label.",
    labels: ["peer", "path"],
};
static LINK_RTT: Family<1> =
    Family { name: "switchd_link_rtt_seconds", help: "Smoothed round-trip time.", labels: ["peer"] };
static LINK_LOSS: Family<1> = Family {
    name: "switchd_link_loss_ratio",
    help: "Share of the path's probes that had no answer lately: 0 to 1.",
    labels: ["peer"],
};
static LINK_PATH_MTU: Family<1> = Family {
    name: "switchd_link_path_mtu_bytes",
    help: "Largest IP packet that the path is known to carry.",
    labels: ["peer"],
};
static LINK_EPOCH: Family<1> = Family {
    name: "switchd_link_epoch",
    help: "Key epoch: rises by one with each fresh handshake.",
    labels: ["peer"],
};
static LINK_SESSION_AGE: Family<1> =
    Family { name: "switchd_link_session_age_seconds", help: "Age of the keys in use.", labels: ["peer"] };
static LINK_DATAGRAMS: Family<3> = Family {
    name: "switchd_link_datagrams_total",
    help: "Sealed datagrams to the peer, and those from it that were opened; QUIC datagrams with frames.",
    labels: ["peer", "direction", "carriage"],
};
static LINK_BYTES: Family<3> = Family {
    name: "switchd_link_bytes_total",
    help: "Bytes of those datagrams: UDP payload of sealed ones, the data of QUIC's.",
    labels: ["peer", "direction", "carriage"],
};
static LINK_REPLAYS: Family<1> = Family {
    name: "switchd_link_replays_dropped_total",
    help: "Datagrams refused by the replay window.",
    labels: ["peer"],
};
static LINK_RECONNECTS: Family<1> = Family {
    name: "switchd_link_reconnects_total",
    help: "Times that the link came up again after it had been up.",
    labels: ["peer"],
};

static CONTROLLER_CONNECTED: Family<0> = Family {
    name: "switchd_controller_connected",
    help: "1 if there is a session with the controller.",
    labels: [],
};
static CONTROLLER_LAST_HEARD: Family<0> = Family {
    name: "switchd_controller_last_heard_seconds",
    help: "Time since the controller was last heard.",
    labels: [],
};
static CONTROLLER_REVISION: Family<0> = Family {
    name: "switchd_controller_revision",
    help: "Revision of the cluster's state that this node has.",
    labels: [],
};
static CONTROLLER_RECONNECTS: Family<0> = Family {
    name: "switchd_controller_reconnects_total",
    help: "Sessions with the controller after the first.",
    labels: [],
};
static CONTROLLER_REFUSED: Family<0> = Family {
    name: "switchd_controller_refused_claims_total",
    help: "Claims of local stations that the controller refused.",
    labels: [],
};
static CONTROLLER_REMOVED: Family<0> = Family {
    name: "switchd_controller_removed",
    help: "1 if the controller has removed this node from the cluster.",
    labels: [],
};

static FAMILIES: &[&dyn Describe] = &[
    &BUILD_INFO,
    &UPTIME,
    &READY,
    &ENDPOINT_UP,
    &FRAMES,
    &BYTES,
    &SUPER_FRAMES,
    &FRAME_BYTES,
    &DROPS,
    &DATAGRAM_DROPS,
    &WORKER_CPU,
    &WORKER_WAITED,
    &SEND_ERRORS,
    &BATCHES,
    &ARP,
    &ND,
    &TABLE_ENTRIES,
    &TABLE_LIMIT,
    &TABLE_FULL,
    &UNUSED_BINDINGS,
    &LINK_UP,
    &LINK_PATH,
    &LINK_RTT,
    &LINK_LOSS,
    &LINK_PATH_MTU,
    &LINK_EPOCH,
    &LINK_SESSION_AGE,
    &LINK_DATAGRAMS,
    &LINK_BYTES,
    &LINK_REPLAYS,
    &LINK_RECONNECTS,
    &CONTROLLER_CONNECTED,
    &CONTROLLER_LAST_HEARD,
    &CONTROLLER_REVISION,
    &CONTROLLER_RECONNECTS,
    &CONTROLLER_REFUSED,
    &CONTROLLER_REMOVED,
];
