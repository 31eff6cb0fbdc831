//! A node gets a new key while it works.

use std::time::Duration;

use anyhow::Result;
use netns_tests::cluster::{Cluster, Member, cluster_test};
use netns_tests::measure::{self, Watch};
use netns_tests::{bin, ctl, expect, wait_ok};

const SOON: Duration = Duration::from_secs(8);
/// An instance may be out of reach for so long while the links of its node change over.
const GAP_MAX: Duration = Duration::from_secs(1);

#[test]
fn rotation_under_traffic() -> Result<()> {
    cluster_test("keys_rotate", 3, |cluster| {
        // node-c stays away: the copy with the old key.
        let (a, b, c) = (cluster.member("node-a")?, cluster.member("node-b")?, cluster.member("node-c")?);
        cluster.skippy(&["network", "add", "blue", "--subnet-v4", "10.0.0.0/24"])?;
        cluster.skippy(&["add-type", "small", "--cores", "0.25", "--memory", "64MiB"])?;
        a.join(cluster)?;
        b.join(cluster)?;
        a.node(cluster)?.wait_link("node-b", true)?;
        cluster.allocate("a1", "node-a")?;
        cluster.allocate("b1", "node-b")?;
        b.clone_to(cluster, c)?;
        let before = cluster.skippy(&["node", "show", "node-b"])?["public_key"].clone();

        let (a1, ip) = (cluster.instance_ns("a1")?, cluster.v4("b1")?);
        let watch = Watch::start(&a1, ip, cluster.lab().dir().join("ping.txt"))?;
        watch.more(20)?;
        rotate(cluster, b)?;
        wait_ok("the controller to show the new key", SOON, || {
            let now = cluster.skippy(&["node", "show", "node-b"])?["public_key"].clone();
            expect(now != before && now.is_string(), || format!("{now} after {before}"))
        })?;
        b.wait_online(cluster)?;
        a.node(cluster)?.wait_link("node-b", true)?;
        watch.more(50)?;
        let gap = watch.longest_gap()?;
        println!("keys_rotate: the longest gap between answers to ping was {} ms", gap.as_millis());
        expect(gap < GAP_MAX, || format!("b1 was out of reach for {gap:?} while its node's key changed"))?;

        old_key_is_refused(cluster, c)?;
        watch.more(20)?;
        let events = cluster.list(&["event", "list", "--kind", "key-rotated"])?;
        expect(events.len() == 1, || format!("{events:?}"))?;

        // Everything on disk belongs together.
        b.node(cluster)?.kill9();
        b.start(cluster)?;
        b.wait_online(cluster)?;
        wait_ok("b1 to answer after its node's restart", SOON, || measure::ping_ok(&a1, ip))?;
        cluster.allocate("b2", "node-b")?;
        let ip = cluster.v4("b2")?;
        wait_ok("b2, allocated with the new key, to answer", SOON, || measure::ping_ok(&a1, ip))
    })
}

fn rotate(cluster: &Cluster, member: &Member) -> Result<()> {
    let node = member.node(cluster)?;
    let (switchd, config) = (bin("switchd")?.display().to_string(), node.config_path().display().to_string());
    let said = node.ns().exec(&[&switchd, "rotate-key", "--config", &config])?;
    let shown = cluster.skippy(&["node", "show", member.name()])?;
    expect(shown["public_key"] == said.trim(), || format!("rotate-key printed {said}, shown is {shown}"))
}

fn old_key_is_refused(cluster: &Cluster, copy: &Member) -> Result<()> {
    const REFUSED: &str = "controller_node_sessions_total{result=\"revoked-key\"}";
    let before = cluster.metric(REFUSED).unwrap_or(0.0);
    let node = copy.node(cluster)?;
    node.restart()?;
    wait_ok("the controller to refuse the old key", SOON, || {
        let now = cluster.metric(REFUSED)?;
        expect(now > before, || format!("{REFUSED} is {now}"))
    })?;
    let links = node.ctl(&["links"])?;
    expect(!ctl::link_up(&links, "node-a"), || format!("a link with the old key: {links}"))?;
    node.kill9();
    Ok(())
}
