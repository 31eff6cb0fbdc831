//! Links that are made when a frame needs them, and let go when none does.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use netns_tests::nat::preset::{PORT_RESTRICTED, SYMMETRIC};
use netns_tests::nat::{NatLab, NatSpec};
use netns_tests::{ctl, measure, wait_for};

#[test]
fn a_link_lives_as_long_as_frames_need_it() -> Result<()> {
    let mut spec = NatSpec::new("on_demand", &[PORT_RESTRICTED, SYMMETRIC]);
    spec.switchd_toml = "[link]\non_demand = true\nidle_after = \"5s\"\n\n".into();
    NatLab::build(&spec)?.run(|lab| {
        quiet(lab)?;
        lab.introduce()?;
        let known = || ["node-a", "node-b"].iter().all(|node| !links(lab, node).is_empty());
        wait_for("the nodes to know each other", SOON, known)?;
        for round in 0..2 {
            let before = states(lab);
            ensure!(before == ["down", "down"], "round {round}: no frame needs the link: {before:?}");
            let asked = Instant::now();
            measure::ping_ok(lab.instance("a1")?.ns(), lab.instance("b1")?.v4()?)?;
            println!("on_demand: round {round}: an answer after {:?}", asked.elapsed());
            wait_for("the link", SOON, || states(lab) == ["up", "up"])?;
            wait_for("the link to be let go", LET_GO, || states(lab) == ["down", "down"])?;
        }
        Ok(())
    })
}

/// Silences IPv6 where it speaks unasked: solicitations of routers and reports of groups are frames, and need a link.
fn quiet(lab: &NatLab) -> Result<()> {
    for node in ["node-a", "node-b"] {
        let node = lab.node(node)?;
        node.ns().sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
        for bridge in &node.spec().bridges {
            node.ns().sysctl(&format!("net/ipv6/conf/{}/disable_ipv6", bridge.bridge()), "1")?;
        }
    }
    ["a1", "b1"]
        .iter()
        .try_for_each(|name| lab.instance(name)?.ns().sysctl("net/ipv6/conf/all/disable_ipv6", "1"))
}

fn links(lab: &NatLab, node: &str) -> Vec<serde_json::Value> {
    let answer = lab.node(node).and_then(|node| node.ctl(&["links"]));
    answer.map(|links| ctl::rows(&links, "links").to_vec()).unwrap_or_default()
}

fn states(lab: &NatLab) -> Vec<String> {
    let state =
        |node| links(lab, node).first().map(|link| link["state"].as_str().unwrap_or_default().to_owned());
    ["node-a", "node-b"].into_iter().filter_map(state).collect()
}

const SOON: Duration = Duration::from_secs(10);
/// `idle_after`, and what the neighbours' caches still ask of each other after the last answer.
const LET_GO: Duration = Duration::from_secs(40);
