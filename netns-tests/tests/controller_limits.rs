//! What a type gives is what an instance gets, and no more.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use netns_tests::cluster::{Cluster, cluster_test, text};
use netns_tests::{expect, wait_ok};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(10);
const CORES: f64 = 0.2;
const MEMORY: u64 = 64 << 20;

#[test]
fn a_type_limits_cores_and_memory() -> Result<()> {
    cluster_test("limits", 1, |cluster| {
        cluster.skippy(&["network", "add", "blue", "--subnet-v4", "10.0.0.0/24"])?;
        cluster.skippy(&["add-type", "small", "--cores", "0.2", "--memory", "64MiB"])?;
        cluster.join_all()?;
        cluster.skippy(&[
            "allocate",
            "small",
            "--name",
            "burner",
            "--",
            "sh",
            "-c",
            "while :; do :; done",
        ])?;
        wait_ok("the limits to be shown", SOON, || {
            let usage = cluster.skippy(&["instance", "show", "burner"])?["usage"].clone();
            let right = usage["cores_limit"] == CORES && usage["memory_bytes_limit"] == MEMORY;
            expect(right, || format!("usage is {usage}"))
        })?;
        let wide = cluster.skippy_text(&["instance", "list", "--wide"])?;
        expect(wide.contains("0.2 (enforced)"), || wide.clone())?;
        held_to_its_cores(cluster)?;
        killed_at_its_memory(cluster)
    })
}

fn held_to_its_cores(cluster: &Cluster) -> Result<()> {
    let row = agent_row(cluster, "burner")?;
    expect(row["cores_milli_limit"] == 200 && row["memory_bytes_limit"] == MEMORY, || row.to_string())?;
    let table = cluster.member("node-a")?.agent_status_text(cluster, &[])?;
    expect(table.contains("0.2") && table.contains("64 MiB"), || table.clone())?;
    let (began, first) = (Instant::now(), cpu_seconds(cluster)?);
    let (took, used) = wait_ok("two seconds of burning to be reported", SOON, || {
        let (took, used) = (began.elapsed().as_secs_f64(), cpu_seconds(cluster)? - first);
        expect(took > 2.0 && used > 0.0, || format!("{used} s of a core in {took} s"))?;
        Ok((took, used))
    })?;
    println!("limits: a loop took {:.3} of a core, {CORES} is its limit", used / took);
    // A report may be a second old at either end.
    expect(used < CORES * (took + 2.0), || format!("{used} s of a core in {took} s"))
}

fn killed_at_its_memory(cluster: &Cluster) -> Result<()> {
    // What tail keeps of a stream without lines is all of it.
    let hog = ["allocate", "small", "--name", "hog", "--no-wait", "--", "tail", "/dev/zero"];
    cluster.skippy(&hog)?;
    wait_ok("the hog to be killed at its memory limit", SOON, || {
        let hog = cluster.skippy(&["instance", "show", "hog"])?;
        let said = hog["detail"].as_str().is_some_and(|detail| detail.contains("memory limit"));
        expect(said, || hog.to_string())
    })
}

fn cpu_seconds(cluster: &Cluster) -> Result<f64> {
    let burner = cluster.skippy(&["instance", "show", "burner"])?;
    burner["usage"]["cpu_seconds"].as_f64().with_context(|| format!("no CPU time in {burner}"))
}

fn agent_row(cluster: &Cluster, name: &str) -> Result<Value> {
    let id = text(&cluster.skippy(&["instance", "show", name])?, "id")?;
    let status = cluster.member("node-a")?.agent_status(cluster)?;
    let rows = status.as_array().cloned().unwrap_or_default();
    rows.into_iter().find(|row| row["id"] == id.as_str()).with_context(|| format!("no {id} in {status}"))
}
