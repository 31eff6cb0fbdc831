//! Metrics, in the text format of Prometheus. What the API does is counted here; everything else is read from the
//! engine and the nodes' sessions when somebody asks.

mod relay_metrics;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use controller_registry::{BindingSource, BindingState, NodeRuntime, NodeState, Registry};
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    TextEncoder,
};

use crate::{
    engine::Engine,
    nodes::{NodeCounters, Nodes},
    provider::ProviderCalls,
    relay::RelayCounters,
};

/// The media type of the text.
pub const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Seconds: a read takes less than the first, a store's transaction a few, a wait for an operation the last.
const BUCKETS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 10.0, 60.0];

const FINE_BUCKETS: [f64; 12] =
    [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];

/// The controller's metrics.
#[derive(Debug)]
pub struct Metrics {
    own: prometheus::Registry,
    nodes: Nodes,
    requests: IntCounterVec,
    durations: HistogramVec,
    refused: IntCounterVec,
    panics: IntCounter,
    audit_lines: IntCounter,
    audit_errors: IntCounter,
    connections: IntGauge,
    connections_refused: IntCounterVec,
    connections_cut: IntCounterVec,
    relay: Option<Arc<RelayCounters>>,
}

impl Metrics {
    /// All at zero. `nodes` is asked for what it counts.
    pub fn new(nodes: Nodes) -> Metrics {
        let own = prometheus::Registry::new();
        let requests =
            counters("controller_api_requests_total", "Requests answered.", &["operation", "status"]);
        let durations = HistogramOpts::new(
            "controller_api_request_duration_seconds",
            "From a request's header to its answer's.",
        );
        let durations = HistogramVec::new(durations.buckets(BUCKETS.to_vec()), &["operation"]).expect(VALID);
        let refused = counters(
            "controller_api_refused_total",
            "Requests refused, by the problem's kind.",
            &["problem"],
        );
        let panics = counter("controller_api_panics_total", "Requests whose handler panicked.");
        let audit_lines = counter("controller_audit_lines_total", "Entries written to the audit log.");
        let audit_errors =
            counter("controller_audit_errors_total", "Entries that the audit log could not take.");
        let connections =
            IntGauge::new("controller_api_connections", "Open connections of the API.").expect(VALID);
        let connections_refused = counters(
            "controller_api_connections_refused_total",
            "Connections that were one too many.",
            &["limit"],
        );
        let connections_cut = counters(
            "controller_api_connections_cut_total",
            "Connections that were too slow or broke TLS.",
            &["step"],
        );
        let all: [Box<dyn prometheus::core::Collector>; 9] = [
            Box::new(requests.clone()),
            Box::new(durations.clone()),
            Box::new(refused.clone()),
            Box::new(panics.clone()),
            Box::new(audit_lines.clone()),
            Box::new(audit_errors.clone()),
            Box::new(connections.clone()),
            Box::new(connections_refused.clone()),
            Box::new(connections_cut.clone()),
        ];
        for collector in all {
            own.register(collector).expect(VALID);
        }
        Metrics {
            own,
            nodes,
            requests,
            durations,
            refused,
            panics,
            audit_lines,
            audit_errors,
            connections,
            connections_refused,
            connections_cut,
            relay: None,
        }
    }

    /// Tells of the calls of providers as well.
    #[must_use]
    pub fn with_provider_calls(self, calls: &ProviderCalls) -> Metrics {
        add(&self.own, calls.results.clone());
        add(&self.own, calls.durations.clone());
        self
    }

    /// Tells of the embedded relay as well.
    #[must_use]
    pub fn with_relay(mut self, counters: Option<Arc<RelayCounters>>) -> Metrics {
        self.relay = counters;
        self
    }

    /// A request was answered. `operation` is `none` for a path that is none.
    pub fn api_answered(&self, operation: &str, status: u16, duration: Duration) {
        self.requests.with_label_values(&[operation, &status.to_string()]).inc();
        self.durations.with_label_values(&[operation]).observe(duration.as_secs_f64());
    }

    /// A request was refused.
    pub fn api_refused(&self, problem: &str) {
        self.refused.with_label_values(&[problem]).inc();
    }

    /// A handler panicked.
    pub fn panicked(&self) {
        self.panics.inc();
    }

    /// The audit log took an entry.
    pub fn audited(&self) {
        self.audit_lines.inc();
    }

    /// The audit log could not take an entry.
    pub fn audit_failed(&self) {
        self.audit_errors.inc();
    }

    /// So many connections of the API are open.
    pub fn connections(&self, open: usize) {
        self.connections.set(i64::try_from(open).unwrap_or(i64::MAX));
    }

    /// A connection was one too many: `all` of them, or of its `address`.
    pub fn connection_refused(&self, limit: &str) {
        self.connections_refused.with_label_values(&[limit]).inc();
    }

    /// A connection ended in this step, `tls` or `http`, by the peer's fault.
    pub fn connection_cut(&self, step: &str) {
        self.connections_cut.with_label_values(&[step]).inc();
    }

    /// Everything as text.
    pub async fn render(&self, engine: &Engine) -> String {
        let seen = prometheus::Registry::new();
        engine.read(|registry| records(&seen, registry)).await;
        self.sessions(&seen);
        self.links(&seen);
        if let Some(relay) = &self.relay {
            relay_metrics::add_all(&seen, relay);
        }
        store(&seen, engine);
        let info = gauges("controller_build_info", "1, with the version.", &["version"]);
        info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        add(&seen, info);
        let mut families = self.own.gather();
        families.extend(seen.gather());
        families.sort_by(|a, b| a.name().cmp(b.name()));
        let mut text = Vec::new();
        TextEncoder::new().encode(&families, &mut text).expect("text can be written to memory");
        String::from_utf8(text).expect("the encoder writes UTF-8")
    }

    fn links(&self, seen: &prometheus::Registry) {
        let links = gauges("controller_links", "Links as their ends report them.", &["state", "path"]);
        for ((state, path), count) in self.nodes.observed().link_counts() {
            links.with_label_values(&[state, path]).set(count);
        }
        add(seen, links);
    }

    fn sessions(&self, seen: &prometheus::Registry) {
        let (switches, agents) = self.nodes.sessions();
        let sessions = gauges("controller_node_sessions", "Sessions that stand.", &["daemon"]);
        for (daemon, count) in [("switchd", switches), ("agent", agents)] {
            sessions.with_label_values(&[daemon]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        add(seen, sessions);
        let c: &NodeCounters = self.nodes.counters();
        let enrolments = counters("controller_enrolments_total", "Nodes that tried to enrol.", &["result"]);
        enrolments.with_label_values(&["accepted"]).inc_by(c.enrolments.get());
        enrolments.with_label_values(&["rate-limited"]).inc_by(c.enrolments_limited.get());
        for (reason, count) in c.enrolments_refused.all() {
            enrolments.with_label_values(&[reason]).inc_by(count);
        }
        add(seen, enrolments);
        let begun = counters("controller_node_sessions_total", "Sessions that nodes began.", &["result"]);
        for (result, counter) in [
            ("registered", &c.sessions),
            ("unknown-key", &c.refused_unknown),
            ("revoked-key", &c.refused_revoked),
            ("cloned-key", &c.refused_cloned),
        ] {
            begun.with_label_values(&[result]).inc_by(counter.get());
        }
        add(seen, begun);
        let claims = counters("controller_claims_total", "Claims and withdrawals of bindings.", &["result"]);
        let by_reason = c.claims_refused.all();
        let refused = by_reason.values().sum();
        claims.with_label_values(&["accepted"]).inc_by(c.claims.get().saturating_sub(refused));
        claims.with_label_values(&["refused"]).inc_by(refused);
        add(seen, claims);
        let refused =
            counters("controller_claims_refused_total", "Claims and withdrawals refused.", &["reason"]);
        by_reason.iter().for_each(|(reason, count)| refused.with_label_values(&[*reason]).inc_by(*count));
        add(seen, refused);
        add(seen, c.push_latency.0.clone());
        let pushes = counters("controller_pushes_total", "State updates sent to switches.", &["kind"]);
        pushes.with_label_values(&["snapshot"]).inc_by(c.snapshots.get());
        pushes.with_label_values(&["delta"]).inc_by(c.deltas.get());
        add(seen, pushes);
        let signals = counters("controller_signals_total", "Signals between nodes.", &["result"]);
        signals.with_label_values(&["passed-on"]).inc_by(c.signals.get());
        signals.with_label_values(&["replaced"]).inc_by(c.signals_replaced.get());
        signals.with_label_values(&["dropped"]).inc_by(c.signals_dropped.get());
        add(seen, signals);
        let volumes = counters("controller_volumes_total", "Volumes moved between nodes.", &["result"]);
        volumes.with_label_values(&["moved"]).inc_by(c.volumes.get());
        volumes.with_label_values(&["failed"]).inc_by(c.volumes_failed.get());
        add(seen, volumes);
        for (name, help, count) in [
            ("controller_volume_bytes_total", "Bytes of volumes passed on.", &c.volume_bytes),
            ("controller_node_messages_total", "Messages from switches and agents.", &c.messages),
            (
                "controller_node_protocol_errors_total",
                "Sessions that broke the protocol.",
                &c.protocol_errors,
            ),
            ("controller_node_silent_total", "Sessions ended by three missing heartbeats.", &c.silent),
        ] {
            let metric = counter(name, help);
            metric.inc_by(count.get());
            add(seen, metric);
        }
    }
}

/// What the registry holds, by kind and state.
fn records(seen: &prometheus::Registry, registry: &Registry) {
    let mut nodes =
        BTreeMap::from(["pending", "online", "offline", "draining", "cloned"].map(|state| (state, 0)));
    let mut agents = 0;
    for node in registry.nodes().values() {
        let runtime = registry.runtime(node.id);
        let online = runtime.is_some_and(|runtime| runtime.switch.is_some());
        let state = match node.state {
            NodeState::Removed => continue,
            _ if runtime.is_some_and(NodeRuntime::is_cloned) => "cloned",
            NodeState::Invited => "pending",
            NodeState::Draining => "draining",
            NodeState::Enrolled if online => "online",
            NodeState::Enrolled => "offline",
        };
        *nodes.entry(state).or_default() += 1;
        agents += i64::from(runtime.is_some_and(|runtime| runtime.agent.is_some()));
    }
    let metric = gauges("controller_compute_nodes", "Compute nodes.", &["state"]);
    nodes.iter().for_each(|(state, count)| metric.with_label_values(&[*state]).set(*count));
    add(seen, metric);

    let metric = gauges("controller_instances", "Instances, as their agents last said.", &["state"]);
    for instance in registry.instances().values() {
        metric.with_label_values(&[format!("{:?}", instance.phase).to_lowercase().as_str()]).inc();
    }
    add(seen, metric);

    let metric = gauges("controller_bindings", "Bindings.", &["source", "state"]);
    for ((source, state), count) in registry.binding_counts() {
        let source = match source {
            BindingSource::Controller => "controller",
            BindingSource::Learned => "learned",
        };
        let state = match state {
            BindingState::Prepared => "prepared",
            BindingState::Active => "active",
        };
        metric.with_label_values(&[source, state]).set(i64::try_from(*count).unwrap_or(i64::MAX));
    }
    add(seen, metric);

    let metric = gauges("controller_operations", "Operations that are still known.", &["kind", "state"]);
    for operation in registry.operations().values() {
        let state = format!("{:?}", operation.state).to_lowercase();
        metric.with_label_values(&[operation.kind.as_str(), state.as_str()]).inc();
    }
    add(seen, metric);

    let revision = i64::try_from(registry.revision().0).unwrap_or(i64::MAX);
    for (name, help, value) in [
        ("controller_agents_online", "Nodes whose agent has a session.", agents),
        ("controller_networks", "Networks.", i64::try_from(registry.networks().len()).unwrap_or(i64::MAX)),
        ("controller_registry_revision", "Rises with each change of what nodes see.", revision),
    ] {
        let metric = IntGauge::new(name, help).expect(VALID);
        metric.set(value);
        add(seen, metric);
    }
}

fn store(seen: &prometheus::Registry, engine: &Engine) {
    let c = engine.counters();
    for (name, help, value) in [
        ("controller_registry_inputs_total", "Inputs that the registry took.", &c.inputs),
        ("controller_registry_refusals_total", "Inputs that the registry refused.", &c.refusals),
        ("controller_store_commits_total", "Transactions of the store.", &c.commits),
        ("controller_store_writes_total", "Records that they wrote or removed.", &c.writes),
    ] {
        let metric = counter(name, help);
        metric.inc_by(value.load(Ordering::Relaxed));
        add(seen, metric);
    }
    add(seen, c.commit_duration.0.clone());
    if let Some(bytes) = engine.store_bytes() {
        let size = IntGauge::new("controller_store_bytes", "Size of the store's file.").expect(VALID);
        size.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        add(seen, size);
    }
}

/// A histogram of times from a quarter of a millisecond on.
pub(crate) fn histogram(name: &str, help: &str) -> Histogram {
    let options = HistogramOpts::new(name, help).buckets(FINE_BUCKETS.to_vec());
    Histogram::with_opts(options).expect(VALID)
}

fn counter(name: &str, help: &str) -> IntCounter {
    IntCounter::new(name, help).expect(VALID)
}

fn counters(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    IntCounterVec::new(Opts::new(name, help), labels).expect(VALID)
}

fn gauges(name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    IntGaugeVec::new(Opts::new(name, help), labels).expect(VALID)
}

fn add(registry: &prometheus::Registry, metric: impl prometheus::core::Collector + 'static) {
    registry.register(Box::new(metric)).expect(VALID);
}

const VALID: &str = "each name is valid and registered once";
