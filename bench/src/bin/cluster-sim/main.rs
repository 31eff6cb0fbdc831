//! `make bench-cluster`: one real controller, and the sessions of a thousand nodes with a hundred thousand bindings.
//!
//! Everything is on loopback and in a temporary directory. Prints each phase; writes `target/cluster-sim.json`.

mod fleet;
mod rest;
mod server;
mod tables;
mod wire;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Parser;
use fleet::{Node, Session, all};
use netns_tests::{measure, target_dir};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rest::Rest;
use serde_json::{Value, json};
use server::{Server, Usage};
use tables::Tables;

/// Pushes changes to the sessions of many nodes, and lets all of them come back at once.
#[derive(Parser)]
struct Options {
    /// Nodes, one session each
    #[arg(long, default_value_t = 1000)]
    nodes: u64,
    /// Learned bindings of each node
    #[arg(long, default_value_t = 100)]
    bindings: u64,
    /// Changes whose way to all nodes is timed; every other one is a call of the API, the rest are claims
    #[arg(long, default_value_t = 200)]
    changes: u64,
    /// Nodes with real tables
    #[arg(long, default_value_t = 8)]
    tables: usize,
    /// 50 nodes with 100 bindings each, 50 changes: to see that it works
    #[arg(long)]
    small: bool,
    /// The controller's binary; default: the one of this build
    #[arg(long)]
    controller: Option<PathBuf>,
}

fn main() -> Result<()> {
    let mut options = Options::parse();
    if options.small {
        (options.nodes, options.bindings, options.changes) = (50, 100, 50);
    }
    raise_file_limit(options.nodes)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let limit = Duration::from_secs(if options.small { 40 } else { 240 });
    let report = runtime.block_on(async {
        let run = tokio::time::timeout(limit, run(&options));
        run.await.map_err(|_| anyhow!("not done after {limit:?}: the last line says in which phase"))?
    })?;
    // A thousand sessions need not end one by one.
    runtime.shutdown_background();
    let path = target_dir().join("cluster-sim.json");
    std::fs::write(&path, serde_json::to_string_pretty(&report)? + "\n")
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The phases so far.
struct Bench {
    server: Server,
    report: serde_json::Map<String, Value>,
    before: Usage,
}

impl Bench {
    /// Ends a phase.
    fn phase(&mut self, name: &str, took: Duration, mut figures: Value) -> Result<()> {
        let usage = self.server.usage()?;
        let cpu = usage.cpu.saturating_sub(self.before.cpu);
        self.before = usage;
        figures["seconds"] = json!(took.as_secs_f64());
        figures["controller_cpu_seconds"] = json!(cpu.as_secs_f64());
        figures["controller_resident_mib"] = json!(usage.resident >> 20);
        figures["controller_peak_mib"] = json!(usage.peak >> 20);
        println!("{name}: {figures}");
        self.report.insert(name.to_owned(), figures);
        Ok(())
    }
}

async fn run(options: &Options) -> Result<Value> {
    let program = options.controller.clone().unwrap_or_else(|| {
        let own = std::env::current_exe().unwrap_or_default();
        own.with_file_name("controller")
    });
    let mut bench =
        Bench { server: Server::init(&program)?, report: serde_json::Map::new(), before: Usage::default() };
    let took = bench.server.start()?;
    bench.phase("start, empty", took, json!({}))?;
    let nodes = enrol(options, &mut bench).await?;
    let begun = Instant::now();
    let mut sessions: Vec<Session> = nodes.iter().cloned().map(Session::open).collect();
    settle("the first sessions", &sessions).await?;
    bench.phase("sessions of all nodes", begun.elapsed(), sums(&sessions))?;
    flood(options, &mut bench, &sessions).await?;
    real_tables(options, &mut bench, &mut sessions).await?;
    changes(options, &mut bench, &sessions).await?;
    restart(options, &mut bench, &mut sessions, false).await?;
    restart(options, &mut bench, &mut sessions, true).await?;
    check_tables(options, &sessions)?;
    Ok(Value::Object(bench.report))
}

async fn enrol(options: &Options, bench: &mut Bench) -> Result<Vec<Arc<Node>>> {
    let begun = Instant::now();
    let mut rest = connect(bench).await?;
    let network = rest.call("POST", "/v1/networks", &json!({ "name": "blue", "vni": VNI })).await?;
    ensure!(network["vni"] == VNI, "another network: {network}");
    let mut tokens = Vec::new();
    for _ in 0..options.nodes {
        let added = rest.call("POST", "/v1/compute-nodes", &json!({ "provider": "manual" })).await?;
        let token = added["join"]["token"].as_str().context("no token")?.to_owned();
        tokens.push(token);
    }
    bench.phase("tokens by the API, one after the other", begun.elapsed(), json!({}))?;
    let begun = Instant::now();
    let mut nodes = Vec::new();
    let mut numbered = (1..).zip(tokens);
    loop {
        let mut some = tokio::task::JoinSet::new();
        for (number, token) in numbered.by_ref().take(32) {
            some.spawn(async move { Node::enrol(&token, number).await });
        }
        if some.is_empty() {
            break;
        }
        for node in some.join_all().await {
            nodes.push(Arc::new(node?));
        }
    }
    bench.phase("enrolment of all nodes, 32 at a time", begun.elapsed(), json!({}))?;
    Ok(nodes)
}

/// All learned bindings at once, until every node has all of them.
async fn flood(options: &Options, bench: &mut Bench, sessions: &[Session]) -> Result<()> {
    let last = newest(sessions) + options.nodes * options.bindings;
    anew(sessions);
    let begun = Instant::now();
    for (number, session) in (0..).zip(sessions) {
        let first = number * options.bindings;
        let stations: Vec<u64> = (first..first + options.bindings).collect();
        session.claim(VNI, &stations, true).await?;
    }
    let has = |node: &Node| node.state.revision.load(Ordering::Acquire) >= last;
    all("the claims", sessions, LONG, has).await?;
    let mut figures = sums(sessions);
    figures["store_mib"] = json!(bench.server.store_bytes()? >> 20);
    bench.phase("claims of all bindings, until they are everywhere", begun.elapsed(), figures)
}

/// Gives some nodes real tables, one after the other, and measures what these take.
async fn real_tables(options: &Options, bench: &mut Bench, sessions: &mut [Session]) -> Result<()> {
    let (begun, before) = (Instant::now(), measure::resident(std::process::id())?);
    let count = options.tables.min(sessions.len());
    let mut spent = Duration::ZERO;
    for session in &mut sessions[..count] {
        let node = session.node.clone();
        node.state.forget();
        *node.tables.lock().unwrap_or_else(PoisonError::into_inner) = Some(Tables::new(&node.id));
        // The old session ends first, so that nobody is taken for its clone.
        session.end().await;
        *session = Session::open(node.clone());
        settle("a node with tables", std::slice::from_ref(session)).await?;
        if let Some(tables) = &*node.tables.lock().unwrap_or_else(PoisonError::into_inner) {
            spent += tables.spent;
        }
    }
    let after = measure::resident(std::process::id())?;
    let each = after.saturating_sub(before) / (count.max(1) as u64);
    let figures = json!({
        "node_resident_mib": each as f64 / f64::from(1 << 20),
        "node_cpu_ms_for_a_snapshot": spent.as_secs_f64() * 1e3 / count.max(1) as f64,
    });
    bench.phase("nodes with real tables, one after the other", begun.elapsed(), figures)
}

/// One change at a time, from the call or claim until the last node has it.
async fn changes(options: &Options, bench: &mut Bench, sessions: &[Session]) -> Result<()> {
    let mut rest = connect(bench).await?;
    bench.before = bench.server.usage()?;
    let (begun, mut lasts, mut each, mut bytes) = (Instant::now(), Vec::new(), Vec::new(), 0);
    let spent = |sessions: &[Session]| -> (f64, u64) {
        let tables = sessions.iter().filter_map(|session| {
            let tables = session.node.tables.lock().unwrap_or_else(PoisonError::into_inner);
            tables.as_ref().map(|tables| (tables.spent.as_secs_f64(), tables.updates))
        });
        tables.fold((0.0, 0), |(spent, count), (one, of)| (spent + one, count + of))
    };
    let (spent_before, updates_before) = spent(sessions);
    for number in 0..options.changes {
        anew(sessions);
        let next = newest(sessions) + 1;
        let at = usize::try_from(number)? * 37 % sessions.len();
        let start = Instant::now();
        if number % 2 == 0 {
            let path = format!("/v1/bindings/{VNI}/02:0a:00:00:00:{:02x}", number / 4 % 256);
            let body = json!({ "compute_node": sessions[at].node.id, "ips": [format!("10.250.0.{}", number / 4 % 250 + 1)] });
            rest.call("PUT", &path, &body).await?;
        } else {
            sessions[at].claim(VNI, &[(9 << 24) + number], false).await?;
        }
        let has = |node: &Node| node.state.revision.load(Ordering::Acquire) >= next;
        all("a change", sessions, SHORT, has).await?;
        let mut last = 0.0f64;
        for session in sessions {
            let when = session.node.state.arrived(next).context("an update without its time")?;
            let took = when.duration_since(start).as_secs_f64() * 1e3;
            last = last.max(took);
            each.push(took);
        }
        lasts.push(last);
        bytes += sessions.iter().map(|s| s.node.state.bytes.load(Ordering::Relaxed)).sum::<u64>();
    }
    let usage = bench.server.usage()?;
    let cpu = usage.cpu.saturating_sub(bench.before.cpu).as_secs_f64();
    let (spent_after, updates_after) = spent(sessions);
    let count = options.changes.max(1) as f64;
    let figures = json!({
        "last_node_ms": spread(&mut lasts),
        "each_node_ms": spread(&mut each),
        "controller_cpu_ms_each": cpu * 1e3 / count,
        "bytes_to_a_node_each": bytes as f64 / count / sessions.len() as f64,
        "node_cpu_us_each": (spent_after - spent_before) * 1e6 / (updates_after - updates_before).max(1) as f64,
    });
    bench.phase("changes, one at a time", begun.elapsed(), figures)
}

/// Kills the controller and starts it again; all nodes come back at once, knowing what they knew or nothing.
async fn restart(
    options: &Options,
    bench: &mut Bench,
    sessions: &mut Vec<Session>,
    full: bool,
) -> Result<()> {
    bench.server.kill()?;
    let nodes: Vec<Arc<Node>> = sessions.drain(..).map(|session| session.node.clone()).collect();
    let ready = bench.server.start()?;
    bench.before = Usage::default();
    for node in &nodes {
        node.state.restart();
        if full {
            node.state.forget();
        }
    }
    let begun = Instant::now();
    sessions.extend(nodes.into_iter().map(Session::open));
    settle("all nodes", sessions).await?;
    let back = begun.elapsed();
    if full {
        let wanted = options.nodes * options.bindings;
        let whole = |node: &Node| node.state.bindings.load(Ordering::Relaxed) >= wanted;
        all("the snapshots", sessions, SHORT, whole).await?;
    }
    let mut figures = sums(sessions);
    figures["ready_seconds"] = json!(ready.as_secs_f64());
    figures["store_mib"] = json!(bench.server.store_bytes()? >> 20);
    ensure!(full || figures["snapshots"] == 0, "nodes that knew all took a snapshot: {figures}");
    let name = if full { "restart, all nodes know nothing" } else { "restart, all nodes know all" };
    bench.phase(name, back, figures)
}

/// The real switches have what the controller has.
fn check_tables(options: &Options, sessions: &[Session]) -> Result<()> {
    let wanted = usize::try_from((options.nodes - 1) * options.bindings)?;
    for session in sessions {
        if let Some(tables) = &*session.node.tables.lock().unwrap_or_else(PoisonError::into_inner) {
            let found = tables.bindings();
            ensure!(found >= wanted, "{}: {found} bindings in its switch, not {wanted}", session.node.id);
        }
    }
    Ok(())
}

/// Until every node has a session, and all of them the same revision.
async fn settle(what: &str, sessions: &[Session]) -> Result<()> {
    let stands = |node: &Node| node.is_registered() && node.state.revision.load(Ordering::Acquire) > 0;
    all(what, sessions, LONG, stands).await?;
    loop {
        let last = newest(sessions);
        all(what, sessions, LONG, |node| node.state.revision.load(Ordering::Acquire) >= last).await?;
        // Registrations that were under way may have changed more.
        tokio::time::sleep(Duration::from_millis(100)).await;
        if newest(sessions) == last {
            return Ok(());
        }
    }
}

fn newest(sessions: &[Session]) -> u64 {
    let revisions = sessions.iter().map(|session| session.node.state.revision.load(Ordering::Acquire));
    revisions.max().unwrap_or(0)
}

fn anew(sessions: &[Session]) {
    sessions.iter().for_each(|session| session.node.state.restart());
}

/// What all nodes together counted.
fn sums(sessions: &[Session]) -> Value {
    let sum = |of: fn(&fleet::State) -> &std::sync::atomic::AtomicU64| -> u64 {
        sessions.iter().map(|session| of(&session.node.state).load(Ordering::Relaxed)).sum()
    };
    json!({
        "snapshots": sum(|state| &state.snapshots),
        "deltas": sum(|state| &state.deltas),
        "mib_to_all_nodes": sum(|state| &state.bytes) >> 20,
        "sessions_broken": sum(|state| &state.broken),
        "claims_refused": sum(|state| &state.refusals),
    })
}

fn spread(values: &mut [f64]) -> Value {
    values.sort_by(f64::total_cmp);
    let at = |part: f64| {
        // An index below the length.
        let index = (values.len() as f64 * part) as usize;
        values.get(index.min(values.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
    };
    json!({ "p50": at(0.5), "p99": at(0.99), "max": at(1.0) })
}

async fn connect(bench: &Bench) -> Result<Rest> {
    let server = &bench.server;
    Rest::connect(server.rest_port, &server.certificate(), &server.admin).await
}

/// A session is a file on each side; the controller inherits the limit.
fn raise_file_limit(nodes: u64) -> Result<()> {
    let wanted = nodes + 512;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(
        hard >= wanted,
        "{wanted} open files are needed and {hard} allowed: raise the hard limit (ulimit -Hn), or give fewer --nodes"
    );
    if soft < wanted {
        println!("open files: the soft limit is raised from {soft} to {wanted}");
        setrlimit(Resource::RLIMIT_NOFILE, wanted, hard)?;
    }
    Ok(())
}

const VNI: u32 = 100;
const SHORT: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(120);
