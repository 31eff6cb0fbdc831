//! Who wins when two say different things of one instance: two clients, or a node whose knowledge is old.

use std::net::IpAddr;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use netns_tests::cluster::{Cluster, Member, Station, cluster_test, text};
use netns_tests::{Namespace, cmd, expect, measure, wait_for, wait_ok};

fn set_up(cluster: &Cluster) -> Result<()> {
    for member in cluster.members() {
        member.join(cluster)?;
    }
    cluster.skippy(&["network", "add", "blue", "--subnet-v4", "10.0.0.0/24"])?;
    cluster.skippy(&["add-type", "tiny", "--cores", "0.1", "--memory", "16MiB"]).map(drop)
}

fn allocate(cluster: &Cluster, name: &str, node: &str) -> Result<IpAddr> {
    cluster.skippy(&["allocate", "tiny", "--node", node, "--name", name, "--", "sleep", "infinity"])?;
    let shown = cluster.skippy(&["instance", "show", name])?;
    Ok(shown["nics"][0]["ips"][0].as_str().context("an instance has an address")?.parse()?)
}

#[test]
fn two_clients_move_one_instance() -> Result<()> {
    cluster_test("two_moves", 3, |cluster| {
        set_up(cluster)?;
        allocate(cluster, "one", "node-a")?;
        for (from, to) in [("node-a", ["node-b", "node-c"]), ("node-b", ["node-a", "node-c"])] {
            if cluster.node_of(&cluster.skippy(&["instance", "show", "one"])?)? != from {
                cluster.skippy(&["migrate", "one", from])?;
            }
            let start = Barrier::new(2);
            let ask = |to: &'static str| {
                start.wait();
                cluster.skippy_finish(&["migrate", "one", to])
            };
            let answers = std::thread::scope(|scope| {
                let ask = &ask;
                let both = to.map(|to| (to, scope.spawn(move || ask(to))));
                both.map(|(to, answer)| (to, answer.join()))
            });
            let (mut winners, mut losers) = (Vec::new(), Vec::new());
            for (to, answer) in answers {
                let answer = answer.map_err(|_| anyhow!("a client panicked"))??;
                if answer.status.success() { winners.push(to) } else { losers.push(answer) }
            }
            let ([winner], [loser]) = (&winners[..], &losers[..]) else {
                return Err(anyhow!("{winners:?} won, {losers:?} lost"));
            };
            println!("{winner} won; the other was told: {}", loser.stderr.trim());
            ensure!(loser.status.code() == Some(3), "the other ended with {}", loser.status);
            ensure!(
                loser.stderr.contains("op-") && loser.stderr.contains("(migrate)"),
                "it does not name the operation: {}",
                loser.stderr
            );
            cluster.wait_consistent(SOON)?;
            let place = cluster.node_of(&cluster.skippy(&["instance", "show", "one"])?)?;
            ensure!(place == *winner, "it is on {place}, and {winner} won");
        }
        Ok(())
    })
}

/// A station goes from node-a to node-b while the controller cannot hear node-a, which says so only afterwards.
#[test]
fn a_late_withdrawal_does_not_undo_a_move() -> Result<()> {
    cluster_test("late_withdrawal", 3, |cluster| {
        set_up(cluster)?;
        for node in ["a", "c"] {
            allocate(cluster, node, &format!("node-{node}"))?;
        }
        let [on_a, on_c] = ["a", "c"].map(|name| cluster.instance_ns(name));
        let (on_a, on_c) = (on_a?, on_c?);
        let [a, b] = ["node-a", "node-b"].map(|name| cluster.member(name));
        let (a, b) = (a?, b?);
        let station = Station::create(cluster, 1)?;
        station.plug(cluster, a, "blue", STATION_CIDR)?;
        station.speak()?;
        let old = bound_to(cluster, &station, "node-a")?;
        wait_ok("the station on node-a", SOON, || measure::ping_ok(&on_c, STATION))?;

        cut(cluster, a)?;
        wait_connected(cluster, a, false)?;
        station.unplug(cluster, a)?;
        station.plug(cluster, b, "blue", STATION_CIDR)?;
        station.speak()?;
        let new = bound_to(cluster, &station, "node-b")?;
        ensure!(new > old, "generation {new} after {old}");
        let moved = Instant::now();
        wait_ok("the station on node-b", SOON, || measure::ping_ok(&on_c, STATION))?;
        println!("reached from node-c {:?} after the controller knew of the move", moved.elapsed());

        heal(cluster, a)?;
        wait_connected(cluster, a, true)?;
        let back = Instant::now();
        wait_ok("node-a to see it on node-b", SOON, || measure::ping_ok(&on_a, STATION))?;
        println!("reached from node-a {:?} after its session was back", back.elapsed());
        for from in [&on_a, &on_c] {
            let ping = measure::ping(from, STATION, 200, Duration::from_millis(10))?;
            expect(ping.received == ping.sent, || format!("{} of {} pings", ping.received, ping.sent))?;
        }
        let last = bound_to(cluster, &station, "node-b")?;
        ensure!(last == new, "generation {last} and not {new}: somebody else claimed it in between");
        Ok(())
    })
}

/// node-a's switch starts from a state in which an instance that has moved away is still its own.
#[test]
fn a_node_that_starts_from_an_old_state_attracts_nothing() -> Result<()> {
    cluster_test("old_generation", 3, |cluster| {
        set_up(cluster)?;
        let moved = allocate(cluster, "moved", "node-a")?;
        for node in ["a", "c"] {
            allocate(cluster, node, &format!("node-{node}"))?;
        }
        let [on_a, on_c] = ["a", "c"].map(|name| cluster.instance_ns(name));
        let (on_a, on_c) = (on_a?, on_c?);
        wait_ok("it on node-a", SOON, || measure::ping_ok(&on_c, moved))?;
        cluster.wait_consistent(SOON)?;
        let a = cluster.member("node-a")?;
        let node = a.node(cluster)?;
        let state = a.switch_state_dir(cluster)?.display().to_string();
        let copy = format!("{state}.copy");
        // The state is written a little after it changes: it has to be the last one.
        node.terminate()?;
        cmd::run(&["cp", "-a", &state, &copy])?;
        node.restart()?;
        a.wait_online(cluster)?;
        node.kill9();
        cluster.skippy(&["migrate", "moved", "node-b"])?;
        wait_ok("it on node-b", SOON, || measure::ping_ok(&on_c, moved))?;
        let place = cluster.node_of(&cluster.skippy(&["instance", "show", "moved"])?)?;
        ensure!(place == "node-b", "it is on {place}");

        cut(cluster, a)?;
        cmd::run(&["rm", "-rf", &state])?;
        cmd::run(&["mv", &copy, &state])?;
        let watch = std::thread::scope(|scope| {
            let watch = scope.spawn(|| measure::ping(&on_c, moved, 300, Duration::from_millis(10)));
            node.restart()?;
            node.wait_ready()?;
            node.wait_link("node-c", true)?;
            watch.join().map_err(|_| anyhow!("the ping panicked"))?
        })?;
        println!(
            "{} of {} pings from node-c while node-a came up with the old state",
            watch.received, watch.sent
        );
        expect(watch.received == watch.sent, || format!("{} of {} pings", watch.received, watch.sent))?;
        steady(&on_c, moved).context("with node-a cut off and of the old state")?;

        heal(cluster, a)?;
        wait_connected(cluster, a, true)?;
        let back = Instant::now();
        wait_ok("node-a to see it on node-b", SOON, || measure::ping_ok(&on_a, moved))?;
        let took = back.elapsed();
        println!("reached from node-a {took:?} after its session was back");
        expect(took <= Duration::from_secs(1), || format!("{took:?}, at most 1 s is wanted"))?;
        steady(&on_c, moved)?;
        steady(&on_a, moved)?;
        cluster.wait_consistent(SOON).map(drop)
    })
}

fn steady(from: &Namespace, to: IpAddr) -> Result<()> {
    let ping = measure::ping(from, to, 100, Duration::from_millis(10))?;
    expect(ping.received == ping.sent, || format!("{} of {} pings came back", ping.received, ping.sent))
}

/// Waits for the controller's one binding of the station, learned there; its generation.
fn bound_to(cluster: &Cluster, station: &Station, node: &str) -> Result<u64> {
    wait_ok(&format!("the station's binding to {node}"), SOON, || {
        let all = cluster.list(&["binding", "list"])?;
        let found: Vec<_> = all.iter().filter(|b| b["mac"] == station.mac().as_str()).collect();
        match found[..] {
            [one] if text(one, "compute_node_name")? == node => {
                one["generation"].as_u64().context("a binding has a generation")
            }
            _ => Err(anyhow!("it is bound as {found:?}")),
        }
    })
}

/// Nothing passes between a node and the controller.
fn cut(cluster: &Cluster, member: &Member) -> Result<()> {
    let controller = cluster.controller()?.underlay_v4(0);
    member.node(cluster)?.ns().nft(&format!(
        "table ip cut {{\n chain to {{ type filter hook output priority 0; ip daddr {controller} drop; }}\n \
         chain from {{ type filter hook input priority 0; ip saddr {controller} drop; }}\n}}\n"
    ))
}

fn heal(cluster: &Cluster, member: &Member) -> Result<()> {
    member.node(cluster)?.ns().nft("delete table ip cut\n")
}

fn wait_connected(cluster: &Cluster, member: &Member, connected: bool) -> Result<Duration> {
    let node = member.node(cluster)?;
    let word = if connected { "back" } else { "gone" };
    wait_for(&format!("{}'s session to be {word}", member.name()), RECONNECTED_WITHIN, || {
        node.ctl(&["status"]).is_ok_and(|status| status["controller"]["connected"] == connected)
    })
}

const STATION: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 200));
const STATION_CIDR: &str = "10.0.0.200/24";
const SOON: Duration = Duration::from_secs(15);
/// With the longest wait between two dials.
const RECONNECTED_WITHIN: Duration = Duration::from_secs(25);
