//! What goes wrong mends itself, and how long that takes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netns_tests::config::BindingConfig;
use netns_tests::traffic::{Sequence, TcpFlow};
use netns_tests::{Lab, LabSpec, Node, ctl, expect, lab_test, measure, wait_for, wait_ok};

/// Starts a flow from a1 to b1, lets `harm` happen, and returns the longest cut.
fn cut_by(lab: &Lab, harm: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let (a, b) = (lab.instance("a1")?, lab.instance("b1")?);
    let flow = TcpFlow::start(a.ns(), b.ns(), b.v4()?)?;
    flow.advance(100_000, Duration::from_secs(3)).context("before")?;
    flow.reset_gap();
    harm()?;
    flow.advance(300_000, Duration::from_secs(12)).context("after")?;
    Ok(flow.worst_gap())
}

fn within(what: &str, limit: Duration, gap: Duration) -> Result<()> {
    println!("{what}: traffic was cut for {gap:?}");
    expect(gap <= limit, || format!("{what}: traffic was cut for {gap:?}, at most {limit:?} is wanted"))
}

#[test]
fn kill_9_and_restart() -> Result<()> {
    for name in ["node-a", "node-b"] {
        lab_test(LabSpec::pair(&format!("kill9_{name}")), |lab| {
            lab.start_switchd(|_| {})?;
            let node = lab.node(name)?;
            let gap = cut_by(lab, || node.restart())?;
            within(&format!("kill -9 of {name}"), Duration::from_secs(3), gap)
        })?;
    }
    Ok(())
}

/// The daemon did not make the bridge, and whoever did makes it anew.
#[test]
fn found_bridge_deleted_and_recreated() -> Result<()> {
    lab_test(LabSpec::pair("bridge_recreated"), |lab| {
        lab.start_switchd(|_| {})?;
        let node = lab.node("node-b")?;
        let gap = cut_by(lab, || {
            node.ns().ip("link del br-blue")?;
            node.create_bridge("br-blue")?;
            node.attach_instances("blue", "br-blue")
        })?;
        within("the bridge re-created", Duration::from_secs(2), gap)?;
        node.wait_ready()
    })
}

/// The daemon made the bridge, and makes it anew.
#[test]
fn own_bridge_deleted() -> Result<()> {
    let mut spec = LabSpec::pair("own_bridge");
    spec.nodes.iter_mut().flat_map(|n| &mut n.bridges).for_each(|bridge| bridge.create = false);
    lab_test(spec, |lab| {
        lab.start_switchd(|_| {})?;
        for node in lab.nodes() {
            node.attach_instances("blue", "br-blue")?;
        }
        let node = lab.node("node-b")?;
        let gap = cut_by(lab, || {
            node.ns().ip("link del br-blue")?;
            wait_ok("the daemon to make its bridge anew", Duration::from_secs(2), || {
                node.attach_instances("blue", "br-blue")
            })
        })?;
        within("the daemon's own bridge deleted", Duration::from_secs(2), gap)
    })
}

#[test]
fn endpoint_deleted_or_released() -> Result<()> {
    lab_test(LabSpec::pair("endpoint_deleted"), |lab| {
        lab.start_switchd(|_| {})?;
        let node = lab.node("node-b")?;
        for harm in ["link del sw-blue", "link set sw-blue nomaster", "link set sw-blue down"] {
            let gap = cut_by(lab, || node.ns().ip(harm).map(drop))?;
            within(&format!("`ip {harm}`"), Duration::from_secs(2), gap)?;
        }
        Ok(())
    })
}

/// The daemon waits for a bridge that is not there yet, and says so.
#[test]
fn bridge_comes_after_the_daemon() -> Result<()> {
    lab_test(LabSpec::pair("late_bridge"), |lab| {
        lab.node("node-b")?.ns().ip("link del br-blue")?;
        lab.start_switchd_unready(|_| {})?;
        let node = lab.node("node-b")?;
        let status = wait_ok("a status", Duration::from_secs(5), || node.ctl(&["status"]))?;
        expect(!ctl::ready(&status), || "ready without a bridge".into())?;
        expect(status["not_ready_because"].to_string().contains("br-blue"), || {
            format!("no reason: {status}")
        })?;
        node.create_bridge("br-blue")?;
        node.attach_instances("blue", "br-blue")?;
        lab.wait_links()?;
        measure::ping_ok(lab.instance("a1")?.ns(), lab.instance("b1")?.v4()?)
    })
}

/// The peer's old address is in everyone's configuration, and gone.
#[test]
fn peer_changes_its_address() -> Result<()> {
    lab_test(LabSpec::pair("address_change"), |lab| {
        lab.start_switchd(|_| {})?;
        let node = lab.node("node-b")?;
        let old = node.underlay_v4(0);
        let gap = cut_by(lab, || {
            node.ns().ip_batch(&format!("addr del {old}/24 dev eth0\naddr add 10.99.0.77/24 dev eth0\n"))
        })?;
        within("another address", Duration::from_secs(3), gap)?;
        let links = lab.node("node-a")?.ctl(&["links"])?;
        let address = ctl::link(&links, "node-b").map(|link| link["address"].to_string()).unwrap_or_default();
        expect(address.contains("10.99.0.77"), || format!("node-a has {address} for node-b"))
    })
}

#[test]
fn dead_peer_is_noticed_and_found_again() -> Result<()> {
    lab_test(LabSpec::pair("dead_peer"), |lab| {
        lab.start_switchd(|_| {})?;
        let (a, b) = (lab.node("node-a")?, lab.node("node-b")?);
        b.ns().ip("link set eth0 down")?;
        let noticed = a.wait_link("node-b", false)?;
        expect(noticed < Duration::from_secs(3), || {
            format!("noticed after {noticed:?} with dead_after 1 s")
        })?;
        b.ns().ip("link set eth0 up")?;
        lab.wait_links()?;
        measure::ping_ok(lab.instance("a1")?.ns(), lab.instance("b1")?.v4()?)
    })
}

fn link_value(node: &Node, peer: &str, key: &str) -> Result<u64> {
    let links = node.ctl(&["links"])?;
    let value = ctl::link(&links, peer).and_then(|link| link[key].as_u64());
    value.with_context(|| format!("no {key} for {peer} in {links}"))
}

/// SIGHUP brings a policy, a static binding and a peer, and the link that is there does not notice.
#[test]
fn reload_keeps_links() -> Result<()> {
    lab_test(LabSpec::star("reload", 3, &["blue"], 1), |lab| {
        let configs = lab.configs()?;
        for mut config in configs.clone().into_iter().filter(|c| c.node != "node-c") {
            config.peers.retain(|peer| peer.name != "node-c");
            lab.node(&config.node)?.start_switchd(&config)?;
        }
        let (a, b) = (lab.node("node-a")?, lab.node("node-b")?);
        a.wait_link("node-b", true)?;
        b.wait_link("node-a", true)?;
        let before = link_value(a, "node-b", "epoch")?;
        let gap = cut_by(lab, || {
            for mut config in configs {
                config.set_network("broadcast_rate", "500");
                config.networks[0].bindings.push(BindingConfig {
                    mac: "02:00:00:00:99:99".into(),
                    ips: vec!["10.0.0.99".into()],
                    node: "node-b".into(),
                });
                let node = lab.node(&config.node)?;
                node.write_config(&config.to_toml())?;
                if config.node == "node-c" { node.restart()? } else { node.reload()? }
            }
            Ok(())
        })?;
        within("a reload", Duration::from_millis(500), gap)?;
        lab.wait_links()?;
        wait_for("the new binding", Duration::from_secs(2), || {
            a.ctl(&["bindings"]).is_ok_and(|table| table.to_string().contains("10.0.0.99"))
        })?;
        expect(link_value(a, "node-b", "epoch")? == before, || "the link was made anew".into())?;
        expect(link_value(a, "node-b", "reconnects")? == 0, || "the link went down".into())?;
        measure::ping_ok(lab.instance("c1")?.ns(), lab.instance("a1")?.v4()?)?;

        // A mistake changes nothing, and is said.
        a.write_config("[node]\nnmae = \"x\"\n")?;
        a.reload()?;
        wait_for("the mistake in the log", Duration::from_secs(2), || a.log_tail(10).contains("nmae"))?;
        measure::ping_ok(lab.instance("a1")?.ns(), lab.instance("b1")?.v4()?)
    })
}

/// Fresh keys every second, or every thousand datagrams, and not one frame is lost or doubled.
#[test]
fn rekey_loses_nothing() -> Result<()> {
    for (name, key, value) in
        [("rekey_time", "rekey_after", "\"1s\""), ("rekey_count", "rekey_datagrams", "1000")]
    {
        lab_test(LabSpec::pair(name), |lab| {
            lab.start_switchd(|config| config.set_link(key, value))?;
            let (a, b) = (lab.instance("a1")?, lab.instance("b1")?);
            measure::ping_ok(a.ns(), b.v4()?)?;
            let node = lab.node("node-a")?;
            let before = link_value(node, "node-b", "epoch")?;
            let seen = Sequence::run(a.ns(), b.ns(), b.v4()?, 5000, 200, Duration::from_millis(1))?;
            ensure!(seen.received == seen.sent && seen.duplicates == 0, "{name}: {seen:?}");
            let epochs = link_value(node, "node-b", "epoch")? - before;
            println!("{name}: {epochs} fresh handshakes, {seen:?}");
            expect(epochs >= 3, || format!("{name}: only {epochs} fresh handshakes in 5 s"))
        })?;
    }
    Ok(())
}

/// After SIGTERM the bridge is as it was: MAC, MTU, ports, static entries; and the endpoint is gone.
#[test]
fn stop_leaves_the_bridge_as_found() -> Result<()> {
    fn picture(node: &Node) -> Result<[String; 3]> {
        let link = node.ns().ip("-o link show br-blue")?;
        let fields = link.split_whitespace().skip_while(|word| !word.starts_with('<'));
        let ports = node.ns().ip("-br link show master br-blue")?;
        let ports =
            ports.lines().filter_map(|line| line.split_whitespace().next()).collect::<Vec<_>>().join(" ");
        let fdb = node.ns().bridge("fdb show br br-blue")?;
        let fdb: Vec<&str> =
            fdb.lines().filter(|l| l.contains("permanent") || l.contains("static")).collect();
        Ok([fields.collect::<Vec<_>>().join(" "), ports, fdb.join("\n")])
    }
    lab_test(LabSpec::pair("graceful_stop"), |lab| {
        let node = lab.node("node-b")?;
        // The hard case: an unpinned bridge, which would take the MAC of a port with a lower one.
        node.ns().ip("link del br-blue")?;
        node.ns().ip_batch("link add br-blue type bridge mcast_snooping 0\nlink set br-blue up\n")?;
        node.attach_instances("blue", "br-blue")?;
        let before = picture(node)?;
        lab.start_switchd(|_| {})?;
        measure::ping_ok(lab.instance("a1")?.ns(), lab.instance("b1")?.v4()?)?;
        let during = node.ns().ip("-o link show br-blue")?;
        let mac = during.split_whitespace().skip_while(|w| *w != "link/ether").nth(1).unwrap_or("no MAC");
        expect(before[0].contains(mac), || format!("the bridge took another MAC: {during}"))?;
        node.terminate()?;
        let after = picture(node)?;
        expect(before == after, || format!("the bridge was left changed:\n{before:#?}\n{after:#?}"))?;
        expect(node.ns().ip("link show sw-blue").is_err(), || "the endpoint is still there".into())
    })
}
