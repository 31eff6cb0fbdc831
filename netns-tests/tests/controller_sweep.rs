//! A test that was killed leaves daemons, instances, namespaces and files; the next one removes them.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use netns_tests::cluster::cluster_test;
use netns_tests::{cmd, expect, sweep, wait_for};

const THIS: &str = "a_killed_test_leaves_nothing";
const VICTIM: &str = "SWEEP_TEST_VICTIM";
const READY: &str = "the victim is ready";

#[test]
fn a_killed_test_leaves_nothing() -> Result<()> {
    if std::env::var_os(VICTIM).is_some() {
        return victim();
    }
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--exact", THIS, "--nocapture"])
        .env(VICTIM, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let prefix = format!("swlab-{}-", child.id());
    let mut said = Vec::new();
    let mut pipe = child.stdout.take().context("the victim's output is a pipe")?;
    while !String::from_utf8_lossy(&said).contains(READY) {
        let mut more = [0; 256];
        let read = pipe.read(&mut more)?;
        expect(read > 0, || format!("the victim ended: {}", String::from_utf8_lossy(&said)))?;
        said.extend_from_slice(&more[..read]);
    }
    child.kill()?;
    child.wait()?;
    let left = leftovers(&prefix)?;
    expect(left.len() >= 6, || format!("the victim had hardly anything: {left:?}"))?;
    sweep();
    wait_for("everything of the killed test to be gone", Duration::from_secs(3), || {
        leftovers(&prefix).is_ok_and(|left| left.is_empty())
    })
    .with_context(|| format!("left: {:?}", leftovers(&prefix)))
    .map(drop)
}

/// A node with an instance, and a machine of the provider with another.
fn victim() -> Result<()> {
    cluster_test("sweep_victim", 1, |cluster| {
        cluster.ready()?;
        cluster.skippy(&["add-compute-node", "--provider", "netns", "--name", "made"])?;
        cluster.allocate("a1", "node-a")?;
        wait_for("the machine's agent", Duration::from_secs(5), || {
            cluster.skippy(&["node", "show", "made"]).is_ok_and(|node| node["agent_online"] == true)
        })?;
        cluster.allocate("m1", "made")?;
        println!("{READY}");
        // Until it is killed.
        std::io::stdin().read_to_end(&mut Vec::new())?;
        Ok(())
    })
}

/// Namespaces, control groups, files and processes whose names tell that they are of this lab.
fn leftovers(prefix: &str) -> Result<Vec<String>> {
    let namespaces = cmd::run(&["ip", "netns", "list"])?;
    let mut left: Vec<String> =
        namespaces.lines().filter(|line| line.starts_with(prefix)).map(str::to_owned).collect();
    let is_of = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
    // Groups are at the top of a hierarchy: with version 1 below a folder for each, with version 2 here.
    for dir in ["/tmp".to_owned(), "/sys/fs/cgroup".to_owned()].into_iter().chain(folders("/sys/fs/cgroup")) {
        let entries = folders(&dir).into_iter().filter(|path| is_of(Path::new(path)));
        left.extend(entries);
    }
    for process in folders("/proc") {
        let line = std::fs::read(Path::new(&process).join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(&format!("/{prefix}")) {
            left.push(line);
        }
    }
    Ok(left)
}

fn folders(dir: &str) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path().display().to_string()).collect()
}
