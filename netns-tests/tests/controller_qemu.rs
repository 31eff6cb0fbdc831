//! A QEMU guest by the controller: it gets its address, and a cold move brings its disk along.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use netns_tests::cluster::{Cluster, cluster_test, text};
use netns_tests::{cmd, expect, measure, wait_for, wait_ok};

/// A guest's boot without KVM, on a busy machine.
const BOOT: Duration = Duration::from_secs(25);
const SOON: Duration = Duration::from_secs(5);
const IMAGE: &str = "guest";

#[test]
fn a_guest_answers_and_moves_with_its_disk() -> Result<()> {
    let missing: Vec<_> =
        ["qemu-system-x86_64", "qemu-img", "qemu-io"].into_iter().filter(|p| !measure::have(p)).collect();
    if !missing.is_empty() {
        println!("qemu: SKIPPED, this machine has no {}: run `make deps`", missing.join(" and no "));
        return Ok(());
    }
    let guest = match guest() {
        Ok(guest) => guest,
        Err(error) => {
            println!("qemu: SKIPPED, the guest cannot be made: {error:#}");
            return Ok(());
        }
    };
    cluster_test("qemu", 2, |cluster| {
        for member in cluster.members() {
            let dir = member.image_dir(cluster)?;
            std::fs::create_dir_all(&dir)?;
            std::os::unix::fs::symlink(&guest, dir.join(IMAGE))?;
        }
        cluster.ready()?;
        cluster.skippy(&[
            "add-type", "vm", "--cores", "1", "--memory", "128MiB", "--disk", "1GiB", "--driver", "qemu",
            "--image", IMAGE,
        ])?;
        cluster.allocate("b1", "node-b")?;
        let b1 = cluster.instance_ns("b1")?;

        let began = Instant::now();
        cluster.skippy(&["allocate", "vm", "--node", "node-a", "--name", "v"])?;
        let ip = cluster.v4("v")?;
        wait_ok("the guest to answer from another node", BOOT, || measure::ping_ok(&b1, ip))?;
        println!("qemu: allocated and answering after {:.1} s", began.elapsed().as_secs_f64());
        let shown = cluster.skippy(&["instance", "show", "v"])?;
        expect(shown["runtime"] == "tcg", || format!("{shown}"))?;

        cluster.skippy(&["instance", "stop", "v"])?;
        marker(cluster, "node-a", "write")?;
        let began = Instant::now();
        cluster.skippy(&["migrate", "v", "node-b"])?;
        println!("qemu: the stopped guest moved in {:.1} s", began.elapsed().as_secs_f64());
        marker(cluster, "node-b", "read")?;
        let left = disk(cluster, "node-a")?;
        wait_for("the disk at the first place to be removed", SOON, || !left.exists())?;
        cluster.skippy(&["instance", "start", "v"])?;
        wait_ok("the guest to answer at its new place", BOOT, || measure::ping_ok(&b1, ip))?;

        // Running: it is stopped, moved and started.
        let began = Instant::now();
        cluster.skippy(&["migrate", "v", "node-a"])?;
        wait_ok("the guest to answer at home again", BOOT, || measure::ping_ok(&b1, ip))?;
        println!(
            "qemu: the running guest was moved and answered after {:.1} s",
            began.elapsed().as_secs_f64()
        );
        marker(cluster, "node-a", "read")?;
        cluster.skippy(&["instance", "delete", "v"])?;
        Ok(())
    })
}

/// The guest of the project, made if need be.
fn guest() -> Result<PathBuf> {
    let target = netns_tests::target_dir();
    let dir = target.join("guest").display().to_string();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/guest/make-guest");
    let done = cmd::finish(&[script, &dir], None, Duration::from_secs(120))?;
    expect(done.status.success(), || done.stderr.trim().to_owned())?;
    Ok(PathBuf::from(dir).canonicalize()?)
}

/// Writes a pattern into the guest's disk, or checks that it is there; a running guest's disk can be read.
fn marker(cluster: &Cluster, node: &str, action: &str) -> Result<()> {
    let disk = disk(cluster, node)?.display().to_string();
    let command = format!("{action} -P 0xa5 64k 64k");
    let mut args = vec!["qemu-io", "-f", "qcow2"];
    if action == "read" {
        args.extend(["-r", "-U"]);
    }
    args.extend(["-c", &command, &disk]);
    let said = cmd::run(&args).with_context(|| format!("the disk on {node}"))?;
    expect(!said.contains("failed"), || format!("the disk on {node}: {said}"))
}

fn disk(cluster: &Cluster, node: &str) -> Result<PathBuf> {
    let id = text(&cluster.skippy(&["instance", "show", "v"])?, "id")?;
    let dir = cluster.lab().node(node)?.dir().join("agent-state/instances");
    Ok(dir.join(id).join("disk.qcow2"))
}
