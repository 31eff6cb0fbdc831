//! `make bench-ratio`: switchd beside plaintext kernel VXLAN, on the same namespaces and in the same run.
//!
//! Prints every round, medians, and as its last line `switchd/vxlan <ratio>`; writes `target/bench-ratio.json`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use netns_tests::{Instance, Lab, LabSpec, Node, measure, require_root, target_dir, vxlan};
use serde::Serialize;

/// One TCP flow and ping between instances on two nodes, through switchd and through plaintext kernel VXLAN.
#[derive(Parser)]
struct Options {
    /// Interleaved rounds, of which the median counts
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each TCP flow
    #[arg(long, default_value_t = 4)]
    seconds: u32,
    /// Seconds for which the daemon's idle CPU time is taken
    #[arg(long, default_value_t = 10)]
    idle: u64,
}

#[derive(Serialize)]
struct Report {
    rounds: Vec<Round>,
    switchd_gbit: f64,
    vxlan_gbit: f64,
    ratio: f64,
    switchd_ping_median_us: f64,
    vxlan_ping_median_us: f64,
    switchd_spaced_ping_median_us: f64,
    vxlan_spaced_ping_median_us: f64,
    idle_cpu_percent: f64,
    resident_bytes: u64,
}

#[derive(Serialize)]
struct Round {
    vxlan_gbit: f64,
    switchd_gbit: f64,
    /// CPU seconds of the two daemons for each gigabyte carried.
    switchd_cpu_seconds_per_gb: f64,
    /// Each request right after the last reply.
    vxlan_ping_us: f64,
    switchd_ping_us: f64,
    /// A request every 2 ms: the CPUs fall asleep in between, and each wake-up of a daemon costs an idle exit.
    vxlan_spaced_ping_us: f64,
    switchd_spaced_ping_us: f64,
}

fn main() -> Result<()> {
    let options = Options::parse();
    require_root()?;
    netns_tests::sweep();
    let lab = Lab::build(LabSpec::pair("bench-ratio"))?;
    vxlan::build(&lab)?;
    lab.start_switchd(|_| {})?;
    let (a, b) = (lab.instance("a1")?, lab.instance("b1")?);
    println!(
        "Two nodes on a veth underlay of MTU 1500, one instance each. Kernel VXLAN: plaintext, all offloads as the \
         kernel sets them,\ninstances' MTU 1450 so that its packets fit the underlay unfragmented. switchd: encrypted, \
         instances' MTU 1500.\nOne TCP flow by iperf3 for {} s; ping 1000 times back to back (-A), and 500 times every 2 ms; rounds interleaved.\n",
        options.seconds
    );
    let report = measure_all(&lab, a, b, &options)?;
    print(&report);
    let path = target_dir().join("bench-ratio.json");
    std::fs::write(&path, serde_json::to_string_pretty(&report)? + "\n")
        .with_context(|| format!("cannot write {}", path.display()))?;
    drop(lab);
    println!("switchd/vxlan {:.3}", report.ratio);
    Ok(())
}

fn measure_all(lab: &Lab, a: &Instance, b: &Instance, options: &Options) -> Result<Report> {
    let nodes = lab.nodes();
    let (sealed, plain) = (b.v4()?, vxlan::address(b)?);
    measure::ping_ok(a.ns(), plain)?;
    measure::ping_ok(a.ns(), sealed)?;

    // First, while no flow has passed that could leave timers behind it.
    let idle_cpu_percent = idle(nodes, Duration::from_secs(options.idle))?;
    println!("                                    daemons'   ping us, back to back   ping us, every 2 ms");
    println!("round   VXLAN Gb/s   switchd Gb/s   CPU s/GB   VXLAN      switchd      VXLAN      switchd");
    let mut rounds = Vec::new();
    for number in 1..=options.rounds {
        let vxlan_gbit = measure::iperf(a.ns(), b.ns(), plain, options.seconds)? / 1e9;
        let before = cpu(nodes)?;
        let switchd_gbit = measure::iperf(a.ns(), b.ns(), sealed, options.seconds)? / 1e9;
        let used = (cpu(nodes)? - before).as_secs_f64();
        let carried = switchd_gbit * f64::from(options.seconds) / 8.0;
        let round = Round {
            vxlan_gbit,
            switchd_gbit,
            switchd_cpu_seconds_per_gb: used / carried,
            vxlan_ping_us: ping_us(a, plain, BACK_TO_BACK)?,
            switchd_ping_us: ping_us(a, sealed, BACK_TO_BACK)?,
            vxlan_spaced_ping_us: ping_us(a, plain, SPACED)?,
            switchd_spaced_ping_us: ping_us(a, sealed, SPACED)?,
        };
        println!(
            "{number:>5}   {:>10.2}   {:>12.2}   {:>8.2}   {:>5.0}      {:>7.0}      {:>5.0}      {:>7.0}",
            round.vxlan_gbit,
            round.switchd_gbit,
            round.switchd_cpu_seconds_per_gb,
            round.vxlan_ping_us,
            round.switchd_ping_us,
            round.vxlan_spaced_ping_us,
            round.switchd_spaced_ping_us
        );
        rounds.push(round);
    }
    let resident_bytes = nodes
        .iter()
        .map(|node| measure::resident(node.switchd_pid()?))
        .try_fold(0, |most, bytes| bytes.map(|b| b.max(most)))?;
    let median = |of: fn(&Round) -> f64| measure::median(&rounds.iter().map(of).collect::<Vec<_>>());
    let (switchd_gbit, vxlan_gbit) = (median(|r| r.switchd_gbit), median(|r| r.vxlan_gbit));
    Ok(Report {
        switchd_gbit,
        vxlan_gbit,
        ratio: switchd_gbit / vxlan_gbit,
        switchd_ping_median_us: median(|r| r.switchd_ping_us),
        vxlan_ping_median_us: median(|r| r.vxlan_ping_us),
        switchd_spaced_ping_median_us: median(|r| r.switchd_spaced_ping_us),
        vxlan_spaced_ping_median_us: median(|r| r.vxlan_spaced_ping_us),
        idle_cpu_percent,
        resident_bytes,
        rounds,
    })
}

fn print(report: &Report) {
    println!("\nmedian TCP:   switchd {:.2} Gb/s, VXLAN {:.2} Gb/s", report.switchd_gbit, report.vxlan_gbit);
    for (how, switchd, vxlan) in [
        ("back to back", report.switchd_ping_median_us, report.vxlan_ping_median_us),
        ("every 2 ms", report.switchd_spaced_ping_median_us, report.vxlan_spaced_ping_median_us),
    ] {
        let delta = switchd - vxlan;
        println!(
            "median ping, {how}:  switchd {switchd:.0} us, VXLAN {vxlan:.0} us, difference {delta:.0} us (wanted: at most 100)"
        );
    }
    println!("idle daemon:  {:.2} % of a core (wanted: under 1)", report.idle_cpu_percent);
    let mib = report.resident_bytes as f64 / f64::from(1 << 20);
    println!("memory:       {mib:.1} MiB resident after the flows (wanted: under 64 MB)");
}

/// Per cent of a core that the busier daemon uses while nothing is sent.
fn idle(nodes: &[Node], period: Duration) -> Result<f64> {
    let before: Vec<Duration> = nodes.iter().map(daemon_cpu).collect::<Result<_>>()?;
    let start = Instant::now();
    std::thread::sleep(period);
    let elapsed = start.elapsed().as_secs_f64();
    let mut most = 0.0f64;
    for (node, before) in nodes.iter().zip(before) {
        most = most.max((daemon_cpu(node)? - before).as_secs_f64() / elapsed * 100.0);
    }
    Ok(most)
}

fn cpu(nodes: &[Node]) -> Result<Duration> {
    nodes.iter().map(daemon_cpu).sum()
}

fn daemon_cpu(node: &Node) -> Result<Duration> {
    measure::cpu_time(node.switchd_pid()?)
}

fn ping_us(from: &Instance, to: std::net::IpAddr, how: Cadence) -> Result<f64> {
    let ping = measure::ping_with(from.ns(), to, how.count, how.interval, how.options)?;
    ensure!(ping.received * 100 >= ping.sent * 99, "only {} of {} pings came back", ping.received, ping.sent);
    Ok(ping.median().unwrap_or_default().as_secs_f64() * 1e6)
}

/// How requests follow one another.
#[derive(Clone, Copy)]
struct Cadence {
    count: u32,
    interval: Duration,
    options: &'static [&'static str],
}

const BACK_TO_BACK: Cadence = Cadence { count: 1000, interval: Duration::ZERO, options: &["-A"] };
const SPACED: Cadence = Cadence { count: 500, interval: Duration::from_millis(2), options: &[] };
