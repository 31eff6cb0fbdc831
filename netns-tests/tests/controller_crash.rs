//! The controller is killed in the middle of every kind of operation and started again: nothing is lost, nothing is
//! doubled, every operation ends. `CRASH_SEED` repeats a run's random points.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, ensure};
use netns_tests::cluster::{Cluster, Station, cluster_test, text};
use netns_tests::{expect, wait_ok};

#[test]
fn killed_a_hundred_times() -> Result<()> {
    cluster_test("crash", 4, |cluster| {
        for name in ["node-a", "node-b"] {
            cluster.member(name)?.join(cluster)?;
        }
        cluster.skippy(&["network", "add", "blue", "--subnet-v4", "10.0.0.0/24"])?;
        cluster.skippy(&["add-type", "tiny", "--cores", "0.1", "--memory", "16MiB"])?;
        let mut crash = Crash::new(cluster);
        let outcome = all_rounds(&mut crash);
        crash.print();
        outcome?;
        let kills: u32 = crash.kinds.values().map(|kind| kind.kills).sum();
        let inside: u32 = crash.kinds.values().map(|kind| kind.inside).sum();
        expect(kills >= 100, || format!("{kills} kills, 100 are wanted"))?;
        expect(inside * 4 >= kills * 3, || format!("{inside} of {kills} kills fell into the operation"))
    })
}

/// The first round of each kind measures how long it takes when nobody is killed.
fn all_rounds(crash: &mut Crash<'_>) -> Result<()> {
    for i in 0..12 {
        one_life(crash, &format!("i{i}")).with_context(|| format!("life {i} of an instance"))?;
    }
    for i in 0..6 {
        one_machine(crash, &format!("m{i}")).with_context(|| format!("machine {i}"))?;
    }
    for i in 0..9 {
        enrolment(crash).with_context(|| format!("enrolment {i}"))?;
    }
    // A station that moves more often is held where it is.
    for number in 1..=4 {
        let station = Station::create(crash.cluster, number)?;
        for i in 0..3 {
            claim(crash, &station, i).with_context(|| format!("claim {i} of station {number}"))?;
        }
        station.unplug(crash.cluster, crash.cluster.member("node-a")?)?;
    }
    for i in 0..6 {
        network(crash, &format!("n{i}")).with_context(|| format!("network {i}"))?;
    }
    Ok(())
}

fn one_life(crash: &mut Crash<'_>, name: &str) -> Result<()> {
    let allocate = ["allocate", "tiny", "--node", "node-a", "--name", name, "--", "sleep", "infinity"];
    crash.round("allocate", |cluster| insist(cluster, &allocate))?;
    crash.round("stop", |cluster| insist(cluster, &["instance", "stop", name]))?;
    crash.round("start", |cluster| insist(cluster, &["instance", "start", name]))?;
    for to in ["node-b", "node-a"] {
        crash.round("migrate", |cluster| insist(cluster, &["migrate", name, to]))?;
        let place = text(&crash.cluster.skippy(&["instance", "show", name])?, "compute_node_name")?;
        ensure!(place == to, "{name} is on {place} and not on {to}");
    }
    crash.round("delete", |cluster| insist(cluster, &["instance", "delete", name]))?;
    let left = crash.cluster.list(&["instance", "list"])?;
    ensure!(left.is_empty(), "instances are left: {left:?}");
    Ok(())
}

/// A machine of the exec provider, with an instance that has to be moved away before it can go.
fn one_machine(crash: &mut Crash<'_>, name: &str) -> Result<()> {
    let add = ["add-compute-node", "--provider", "netns", "--name", name];
    crash.round("add_compute_node", |cluster| insist(cluster, &add))?;
    let guest = format!("{name}-guest");
    let allocate = ["allocate", "tiny", "--node", name, "--name", &guest, "--", "sleep", "infinity"];
    crash.cluster.skippy(&allocate)?;
    crash.round("remove_compute_node", |cluster| insist(cluster, &["remove-compute-node", name]))?;
    let place = text(&crash.cluster.skippy(&["instance", "show", &guest])?, "compute_node_name")?;
    ensure!(place != name, "{guest} is still on the machine that was removed");
    crash.cluster.skippy(&["instance", "delete", &guest]).map(drop)
}

fn enrolment(crash: &mut Crash<'_>) -> Result<()> {
    let member = crash.cluster.member("node-c")?;
    let token = member.token(crash.cluster)?;
    crash.round("enrol", |cluster| {
        wait_ok("node-c to join", RECOVERED_WITHIN, || member.join_with(cluster, &token))?;
        member.start(cluster)?;
        member.wait_online(cluster)
    })?;
    crash.cluster.skippy(&["node", "remove", "node-c"])?;
    member.forget(crash.cluster)
}

/// A station that no instance is appears on one node and then on the other.
fn claim(crash: &mut Crash<'_>, station: &Station, i: usize) -> Result<()> {
    let (to, from) = if i.is_multiple_of(2) { ("node-a", "node-b") } else { ("node-b", "node-a") };
    crash.round("claim", |cluster| {
        if i > 0 {
            station.unplug(cluster, cluster.member(from)?)?;
        }
        station.plug(cluster, cluster.member(to)?, "blue", STATION)?;
        station.speak()?;
        wait_ok("the station's binding", RECOVERED_WITHIN, || {
            let all = cluster.list(&["binding", "list"])?;
            let found: Vec<_> = all.iter().filter(|b| b["mac"] == station.mac().as_str()).collect();
            let right = matches!(found[..], [b] if b["compute_node_name"] == to && b["source"] == "learned");
            if right { Ok(()) } else { Err(anyhow!("it is on {to}, bound as {found:?}")) }
        })
    })
}

fn network(crash: &mut Crash<'_>, name: &str) -> Result<()> {
    crash.round("add network", |cluster| insist(cluster, &["network", "add", name]))?;
    let all = crash.cluster.list(&["network", "list"])?;
    let count = all.iter().filter(|network| network["name"] == name).count();
    ensure!(count == 1, "there are {count} networks {name}");
    crash.cluster.skippy_text(&["network", "remove", name]).map(drop)
}

/// `skippy <args>` until it has an answer, as a script would: with one idempotency key, so that it is done once.
fn insist(cluster: &Cluster, args: &[&str]) -> Result<()> {
    let key = args.join("-");
    let full = [&["--json", "--idempotency-key", &key], args].concat();
    let done = wait_ok("an answer of the controller", RECOVERED_WITHIN, || {
        let done = cluster.skippy_finish(&full)?;
        // A deletion has no key: repeated, it finds nothing.
        let deletes = args.contains(&"delete") || args.contains(&"remove-compute-node");
        let gone = deletes && done.stderr.contains("there is no");
        let again = matches!(done.status.code(), Some(REFUSED | UNREACHABLE));
        ensure!(gone || !again, "{}", done.stderr);
        Ok((gone, done))
    })?;
    let (gone, done) = done;
    ensure!(gone || done.status.success(), "skippy {args:?}: {}{}", done.stderr, done.stdout);
    Ok(())
}

struct Crash<'a> {
    cluster: &'a Cluster,
    random: u64,
    kinds: BTreeMap<&'static str, Kind>,
}

struct Kind {
    /// How long it takes if nobody is killed.
    takes: Duration,
    kills: u32,
    /// Kills before the caller had its answer.
    inside: u32,
    recovered: u32,
    worst: Duration,
}

impl<'a> Crash<'a> {
    fn new(cluster: &'a Cluster) -> Crash<'a> {
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let seed = std::env::var("CRASH_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(clock);
        println!("CRASH_SEED={seed}");
        Crash { cluster, random: seed, kinds: BTreeMap::new() }
    }

    /// Runs `operation`, kills the controller somewhere within it, starts it again, and waits until the operation has
    /// ended well and everything agrees.
    fn round(
        &mut self,
        name: &'static str,
        operation: impl FnOnce(&Cluster) -> Result<()> + Send,
    ) -> Result<()> {
        self.settle()?;
        let cluster = self.cluster;
        let share = self.draw();
        let Some(kind) = self.kinds.get_mut(name) else {
            let began = Instant::now();
            operation(cluster)?;
            let takes = began.elapsed();
            cluster.wait_consistent(RECOVERED_WITHIN)?;
            self.kinds.insert(name, Kind { takes, kills: 0, inside: 0, recovered: 0, worst: Duration::ZERO });
            return Ok(());
        };
        let after = kind.takes.mul_f64(0.05 + 0.85 * share);
        let ended = AtomicBool::new(false);
        let recovery = std::thread::scope(|scope| {
            let running = scope.spawn(|| {
                let began = Instant::now();
                let outcome = operation(cluster);
                ended.store(true, Ordering::Relaxed);
                outcome.map(|()| began.elapsed())
            });
            // No condition to wait for: the point in time is what is random.
            std::thread::sleep(after);
            let inside = !ended.load(Ordering::Relaxed);
            cluster.kill_controller();
            kind.kills += 1;
            kind.inside += u32::from(inside);
            let killed = Instant::now();
            cluster.spawn_controller()?;
            let took = running.join().map_err(|_| anyhow!("the caller panicked"))??;
            if !inside {
                kind.takes = kind.takes.min(took);
            }
            cluster.wait_consistent(RECOVERED_WITHIN)?;
            anyhow::Ok(killed.elapsed())
        });
        let recovery = recovery.with_context(|| format!("{name}, killed after {after:?}"))?;
        kind.recovered += 1;
        kind.worst = kind.worst.max(recovery);
        Ok(())
    }

    /// Waits until the switches' sessions have lasted: one that ends again and again at once is dialled ever more
    /// seldom, and what these rounds measure is not that. Without this, one node's session that is back last is always
    /// the one that is cut soonest: it stays at the longest wait, and a hundred rounds take a quarter of an hour.
    fn settle(&self) -> Result<()> {
        for name in ["node-a", "node-b"] {
            let node = self.cluster.member(name)?.node(self.cluster)?;
            wait_ok(&format!("the session of {name} to last"), RECOVERED_WITHIN, || {
                let age = node.ctl(&["status"])?["controller"]["connected_seconds"].as_f64();
                ensure!(age.is_some_and(|age| age >= LASTS), "it has lasted {age:?} s");
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Evenly from 0 to 1 (SplitMix64).
    fn draw(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn print(&self) {
        println!(
            "{:<20} {:>8} {:>6} {:>7} {:>10} {:>9}",
            "kind", "takes", "kills", "inside", "recovered", "worst"
        );
        for (name, kind) in &self.kinds {
            println!(
                "{name:<20} {:>6.2} s {:>6} {:>7} {:>10} {:>7.2} s",
                kind.takes.as_secs_f64(),
                kind.kills,
                kind.inside,
                kind.recovered,
                kind.worst.as_secs_f64()
            );
        }
    }
}

/// skippy's exit code where the controller refuses, as it does a placement on a node that is not back yet.
const REFUSED: i32 = 3;
/// Where it cannot be reached.
const UNREACHABLE: i32 = 5;
const STATION: &str = "10.0.0.200/24";
/// A node's longest wait between dials is 15 s.
const RECOVERED_WITHIN: Duration = Duration::from_secs(20);
/// Seconds.
const LASTS: f64 = 1.5;
