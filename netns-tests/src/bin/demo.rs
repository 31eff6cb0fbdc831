//! `make demo`: three nodes with two instances each, shown step by step, beside plaintext kernel VXLAN.

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use netns_tests::{Instance, Lab, LabSpec, measure, require_root, target_dir, vxlan};
use serde::Serialize;

/// Three nodes with two instances each on one layer-2 segment, in network namespaces. KEEP=1 leaves it up.
#[derive(Parser)]
struct Options {
    /// Remove a demo that KEEP=1 left up, and do nothing else
    #[arg(long)]
    clean: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let result = require_root().and_then(|()| if options.clean { clean() } else { demo() });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn clean() -> Result<()> {
    Lab::remove(PREFIX)?;
    println!("the demo is gone");
    Ok(())
}

fn demo() -> Result<()> {
    let started = Instant::now();
    let mut steps = Steps::default();
    let outcome = show(&mut steps);
    steps.write()?;
    let failed: Vec<&str> = steps.done.iter().filter(|s| !s.ok).map(|s| s.name).collect();
    println!("\n{:.0} s, steps in {}", started.elapsed().as_secs_f64(), Steps::path().display());
    outcome?;
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

fn show(steps: &mut Steps) -> Result<()> {
    let keep = std::env::var_os("KEEP").is_some_and(|value| value == "1");
    let lab = steps.must("lab", || {
        let lab = Lab::build_as(LabSpec::star("demo", 3, &["blue"], 2), PREFIX)?;
        vxlan::build(&lab)?;
        Ok((lab, "3 nodes with 2 instances each; kernel VXLAN beside, for comparison".to_owned()))
    })?;
    let shown = show_switch(steps, &lab);
    if keep {
        lab.keep();
        print_entrances(&lab)?;
        return shown;
    }
    steps.must("clean-up", || {
        drop(lab);
        let left = netns_tests::cmd::run(&["ip", "netns", "list"])?;
        ensure!(!left.contains(PREFIX), "namespaces are left:\n{left}");
        Ok(((), "nothing is left".to_owned()))
    })?;
    shown
}

fn show_switch(steps: &mut Steps, lab: &Lab) -> Result<()> {
    steps.must("switchd", || {
        lab.start_switchd(|_| {})?;
        Ok(((), "3 daemons are ready, every link is up".to_owned()))
    })?;
    let (a1, b1, c2) = (lab.instance("a1")?, lab.instance("b1")?, lab.instance("c2")?);
    for (name, v4) in [("ping IPv4", true), ("ping IPv6", false)] {
        steps.try_step(name, || ping_all(a1, lab, v4));
    }
    let node = lab.node("node-a")?;
    for table in ["links", "bindings"] {
        steps.try_step(table, || Ok(format!("on node-a:\n{}", node.ctl_text(&[table])?.trim_end())));
    }
    steps.try_step("neighbours", || {
        let text = a1.neighbours()?;
        ensure!(text.contains(&c2.v4()?.to_string()), "c2 is not in a1's neighbour table:\n{text}");
        Ok(format!("of a1: every remote address has the endpoint's one MAC\n{}", text.trim_end()))
    });
    steps.try_step("TCP throughput", || throughput(a1, b1));
    Ok(())
}

fn ping_all(from: &Instance, lab: &Lab, v4: bool) -> Result<String> {
    let mut lines = Vec::new();
    for to in lab.instances().iter().filter(|i| i.name() != from.name()) {
        let ip = if v4 { to.v4()? } else { to.v6()? };
        let ping = measure::ping(from.ns(), ip, 5, Duration::from_millis(20))?;
        ensure!(
            ping.received == ping.sent,
            "{} of {} pings to {} came back",
            ping.received,
            ping.sent,
            to.name()
        );
        let median = ping.median().unwrap_or_default().as_secs_f64() * 1e3;
        lines.push(format!(
            "  {} to {} on {}: {ip}, median {median:.2} ms",
            from.name(),
            to.name(),
            to.node()
        ));
    }
    Ok(format!("every instance answers\n{}", lines.join("\n")))
}

/// Interleaved, so that other load on the machine meets both alike.
fn throughput(from: &Instance, to: &Instance) -> Result<String> {
    let (mut sealed, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        plain.push(measure::iperf(from.ns(), to.ns(), vxlan::address(to)?, 2)? / 1e9);
        sealed.push(measure::iperf(from.ns(), to.ns(), to.v4()?, 2)? / 1e9);
    }
    let (sealed, plain) = (measure::median(&sealed), measure::median(&plain));
    Ok(format!(
        "one flow, median of 3: switchd {sealed:.2} Gb/s encrypted; kernel VXLAN {plain:.2} Gb/s plaintext; \
         ratio {:.2} (docs/performance.md says what bounds it)",
        sealed / plain
    ))
}

fn print_entrances(lab: &Lab) -> Result<()> {
    println!("\nThe lab is left up. Enter it:");
    let node = lab.node("node-a")?;
    let ctl = netns_tests::switchctl_bin()?;
    println!("  ip netns exec {} bash             # a node", node.ns().name());
    println!("  ip netns exec {} ping 10.0.0.21   # an instance", lab.instance("a1")?.ns().name());
    println!("  {} --socket {} links", ctl.display(), node.socket_path().display());
    println!("  tail -f {}", node.log_path().display());
    println!("Remove it: make demo-clean");
    Ok(())
}

/// What has been done, for people on the terminal and for machines in `demo.json`.
#[derive(Default)]
struct Steps {
    done: Vec<Step>,
}

#[derive(Serialize)]
struct Step {
    name: &'static str,
    ok: bool,
    detail: String,
}

impl Steps {
    /// A step that the others need.
    fn must<T>(&mut self, name: &'static str, step: impl FnOnce() -> Result<(T, String)>) -> Result<T> {
        print!("{name} ... ");
        std::io::stdout().flush()?;
        let began = Instant::now();
        let result = step();
        let (ok, detail) = match &result {
            Ok((_, detail)) => (true, detail.clone()),
            Err(error) => (false, format!("{error:#}")),
        };
        let word = if ok { "ok" } else { "FAILED" };
        println!("{word} ({:.1} s): {detail}", began.elapsed().as_secs_f64());
        self.done.push(Step { name, ok, detail });
        result.map(|(value, _)| value).with_context(|| format!("step {name:?} failed"))
    }

    /// A step after whose failure the others go on.
    fn try_step(&mut self, name: &'static str, step: impl FnOnce() -> Result<String>) {
        // The failure is kept in `done`.
        let _ = self.must(name, || step().map(|detail| ((), detail)));
    }

    fn write(&self) -> Result<()> {
        let path = Steps::path();
        std::fs::write(&path, serde_json::to_string_pretty(&self.done)? + "\n")
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn path() -> std::path::PathBuf {
        target_dir().join("demo.json")
    }
}

/// Not of a process: the sweep of other labs leaves it alone.
const PREFIX: &str = "swdemo-";
