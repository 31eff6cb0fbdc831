//! Nodes behind routers: some cells of the matrix that `make nat-matrix` runs whole, and what may not break a flow.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use netns_tests::nat::preset::*;
use netns_tests::nat::{
    BareLab, Cell, Coturn, Harm, NO_RELAY, NatLab, NatSpec, Preset, SERVER_1, SERVER_2, Site, Trial, Users,
};
use netns_tests::traffic::tcp_both_ways;
use netns_tests::{ctl, expect, measure, wait_for, wait_ok};

/// The lab is the whole cost of a cell: a few representative ones.
fn connects(cell: &Cell) -> Result<()> {
    let outcome = cell.run()?;
    println!("{}: {outcome:?}", cell.name);
    outcome.failure.map_or(Ok(()), |failure| Err(anyhow!("{}: {failure}", cell.name)))
}

fn each_connects(pairs: &[(Preset, Preset)]) -> Result<()> {
    pairs.iter().try_for_each(|(one, two)| connects(&Cell::of(*one, *two)))
}

#[test]
fn one_public_address_is_enough() -> Result<()> {
    each_connects(&[(OPEN, OPEN), (SYMMETRIC, OPEN)])
}

#[test]
fn ipv6_needs_no_translation() -> Result<()> {
    connects(&Cell::of(DUAL_STACK, IPV6_ONLY))
}

#[test]
fn holes_are_punched() -> Result<()> {
    each_connects(&[(PORT_RESTRICTED, PORT_RESTRICTED), (FULL_CONE, SYMMETRIC), (MASQUERADE, CGNAT)])
}

#[test]
fn a_relay_serves_where_no_hole_can_be_punched() -> Result<()> {
    each_connects(&[(SYMMETRIC, SYMMETRIC), (UDP_BLOCKED, PORT_RESTRICTED), (IPV6_ONLY, PORT_RESTRICTED)])
}

#[test]
fn neighbours_behind_one_router_find_each_other() -> Result<()> {
    connects(&Cell::behind_one(SYMMETRIC, false))
}

#[test]
fn a_forwarded_port_is_as_good_as_a_public_address() -> Result<()> {
    connects(&Cell::forwarded(PORT_RESTRICTED, SYMMETRIC))
}

#[test]
fn routers_that_answer_strangers_do_not_matter() -> Result<()> {
    connects(&Cell::answering(PORT_RESTRICTED, FULL_CONE))
}

/// Some twice: the second time begins where the first one ended.
fn survived(harm: Harm, presets: Option<[Preset; 2]>, limit: Duration) -> Result<()> {
    let mut trial = match presets {
        Some(presets) => Trial::start_between(harm, presets)?,
        None => Trial::start(harm)?,
    };
    let rounds = if matches!(harm, Harm::Rebind | Harm::RelayKilled) { 2 } else { 1 };
    for _ in 0..rounds {
        let noticed = trial.once()?;
        println!("{}: {noticed:?}", harm.name());
        let fits = noticed.tcp <= limit
            && (limit > UNNOTICED || (noticed.lost <= A_FEW && noticed.reordered <= A_FEW));
        expect(fits, || format!("{}: {noticed:?}, at most {limit:?} is wanted", harm.name()))?;
    }
    Ok(())
}

#[test]
fn a_flow_survives_the_controllers_death() -> Result<()> {
    survived(Harm::ControllerKilled, Some([OPEN; 2]), UNNOTICED)
}

#[test]
fn a_flow_survives_another_address() -> Result<()> {
    survived(Harm::Move, Some([OPEN; 2]), A_SECOND)
}

#[test]
fn a_flow_survives_another_address_behind_nat() -> Result<()> {
    survived(Harm::Move, None, A_SECOND)
}

#[test]
fn a_flow_survives_nat_rebinding() -> Result<()> {
    survived(Harm::Rebind, None, A_SECOND)
}

#[test]
fn a_flow_survives_another_address_of_the_router() -> Result<()> {
    survived(Harm::MoveRouter, None, A_SECOND)
}

/// Nobody speaks for longer than the router remembers, and the mapping is still there.
#[test]
fn an_idle_link_outlives_the_timeout_of_its_router() -> Result<()> {
    let mut spec = NatSpec::new("idle_link", &[PORT_RESTRICTED; 2]);
    for site in &mut spec.sites {
        site.quirks.udp_timeout = Some(5);
    }
    NatLab::build(&spec)?.run(|lab| {
        lab.connect()?;
        lab.wait_direct(Duration::from_secs(10))?;
        let reconnects = || -> Result<u64> {
            let links = lab.node("node-a")?.ctl(&["links"])?;
            let link = ctl::link(&links, "node-b").context("there is a link")?;
            link["reconnects"].as_u64().context("a link has a number of reconnects")
        };
        let (idle, before) = (Instant::now(), reconnects()?);
        wait_for("more than two timeouts", Duration::from_secs(15), || {
            idle.elapsed() > Duration::from_secs(12)
        })?;
        measure::ping_ok(lab.instance("b1")?.ns(), lab.instance("a1")?.v4()?)?;
        expect(reconnects()? == before, || "the link was lost meanwhile".into())?;
        lab.wait_direct(Duration::ZERO)
    })
}

#[test]
fn a_flow_goes_to_the_relay_and_back() -> Result<()> {
    survived(Harm::Cut, None, A_SECOND)
}

#[test]
fn a_flow_survives_deafness_of_one_side() -> Result<()> {
    survived(Harm::CutOneWay, None, A_SECOND)
}

#[test]
fn an_upgrade_to_a_direct_path_is_not_noticed() -> Result<()> {
    survived(Harm::Upgrade, None, UNNOTICED)
}

#[test]
fn a_flow_survives_its_relays_death() -> Result<()> {
    survived(Harm::RelayKilled, None, A_SECOND)
}

#[test]
fn a_flow_survives_the_stun_servers_death() -> Result<()> {
    survived(Harm::StunKilled, None, UNNOTICED)
}

/// Where UDP is blocked, coturn is reached by TCP, by the nodes' configurations alone.
#[test]
fn coturn_relays_over_tcp() -> Result<()> {
    coturn_relays("coturn_tcp", [UDP_BLOCKED, PORT_RESTRICTED], Users::Named, |coturn, spec| {
        spec.controller_toml = NO_RELAY.to_owned();
        spec.switchd_toml = format!("[nat]\nrelays = [{}]\n\n", coturn.entry("tcp"));
        Ok(())
    })
}

/// Networks that let nothing but TLS pass: each node reaches its own address on the relay by that alone.
#[test]
fn frames_flow_where_only_tls_passes() -> Result<()> {
    let spec = NatSpec::new("only_tls", &[UDP_BLOCKED, UDP_BLOCKED]);
    let lab =
        NatLab::build_with(spec, |ground, _, _| ground.sites().iter().try_for_each(Site::let_only_tls_pass))?;
    lab.run(|lab| {
        lab.connect()?;
        lab.wait_relayed(Duration::from_secs(1))?;
        for node in ["node-a", "node-b"] {
            let netcheck = lab.node(node)?.ctl(&["netcheck"])?;
            let relays = ctl::rows(&netcheck, "relays");
            let serving: Vec<_> = relays.iter().filter(|relay| relay["state"] == "serving").collect();
            let by_tls = !serving.is_empty() && serving.iter().all(|relay| relay["transport"] == "tls");
            expect(by_tls, || format!("{node} is served by {serving:?} of {relays:?}"))?;
        }
        let (a, b) = (lab.instance("a1")?, lab.instance("b1")?);
        tcp_both_ways(a.ns(), b.ns(), b.v4()?, 1 << 20, Duration::from_secs(5)).map(drop)
    })
}

/// The nodes' own network, where no node reaches another directly, and where holes are punched.
#[test]
fn the_network_of_the_nodes_themselves_goes_by_a_relay_and_through_nat() -> Result<()> {
    for (name, presets, direct) in
        [("mgmt_relayed", [SYMMETRIC; 2], false), ("mgmt_nat", [PORT_RESTRICTED; 2], true)]
    {
        let mut spec = NatSpec::new(name, &presets);
        spec.controller_toml = "[mgmt]\nenabled = true\n\n".into();
        NatLab::build(&spec)?.run(|lab| {
            let own = |node: &str| -> Result<Vec<IpAddr>> {
                let shown = lab.cluster().skippy(&["node", "show", node])?;
                let ips = shown["host_addresses"].as_array().context("a node has addresses of its own")?;
                ips.iter().map(|ip| Ok(ip.as_str().context("an address is text")?.parse()?)).collect()
            };
            let (a, b) = (lab.node("node-a")?, lab.node("node-b")?);
            for (from, to) in [(a, own("node-b")?), (b, own("node-a")?)] {
                ensure!(to.len() == 2, "an address of each family: {to:?}");
                for ip in to {
                    wait_ok("a node to reach the other", Duration::from_secs(10), || {
                        measure::ping_ok(from.ns(), ip)
                    })?;
                }
            }
            match direct {
                true => lab.wait_direct(Duration::from_secs(10))?,
                false => lab.wait_relayed(Duration::from_secs(1))?,
            }
            // What an agent does to another, and a migration.
            for ip in own("node-b")? {
                tcp_both_ways(a.ns(), b.ns(), ip, 1 << 20, Duration::from_secs(5))?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// A relay keeps what is not given back for minutes.
#[test]
fn a_node_that_stops_gives_its_allocation_back() -> Result<()> {
    NatLab::build(&NatSpec::new("give_back", &[PORT_RESTRICTED; 2]))?.run(|lab| {
        lab.settle()?;
        let allocations = || lab.cluster().metric("controller_relay_allocations");
        let before = allocations()?;
        lab.node("node-a")?.terminate()?;
        wait_ok("the allocation to end", Duration::from_secs(5), || {
            let left = allocations()?;
            ensure!(left < before, "{left} of {before} allocations are left");
            Ok(())
        })
    })
}

/// The nodes are told of coturn by the controller, which makes credentials that coturn takes.
#[test]
fn coturn_relays_by_the_controllers_word() -> Result<()> {
    coturn_relays("coturn_external", [SYMMETRIC; 2], Users::OfController, |coturn, spec| {
        spec.controller_toml = coturn.external()?;
        Ok(())
    })
}

fn coturn_relays(
    name: &str,
    presets: [Preset; 2],
    users: Users,
    configure: impl FnOnce(&Coturn, &mut NatSpec) -> Result<()>,
) -> Result<()> {
    let mut server = None;
    let lab = NatLab::build_with(NatSpec::new(name, &presets), |ground, dir, spec| {
        let coturn = Coturn::start(ground.internet(), SERVER_1, users, dir)?;
        configure(&coturn, spec)?;
        server = Some(coturn);
        Ok(())
    })?;
    lab.run(|lab| {
        lab.connect()?;
        lab.wait_relayed(Duration::from_secs(1))?;
        let (a, b) = (lab.instance("a1")?, lab.instance("b1")?);
        tcp_both_ways(a.ns(), b.ns(), b.v4()?, 1 << 20, Duration::from_secs(3))?;
        let allocations = server.as_ref().context("coturn runs")?.allocations();
        expect(allocations > 0, || "nobody has made an allocation".into())
    })
}

/// The other servers: that a test can kill one and start it again, and knows which one is used.
#[test]
fn coturn_answers_until_it_is_killed() -> Result<()> {
    let lab = BareLab::build(&NatSpec::new("coturn", &[OPEN]))?;
    let start = |host| Coturn::start(lab.ground().internet(), host, Users::Named, lab.lab().dir());
    let (mut one, two) = (start(SERVER_1)?, start(SERVER_2)?);
    let before = (one.packets()?, two.packets()?);
    two.answers()?;
    ensure!((one.packets()?, two.packets()?) == (before.0, before.1 + 1), "packets are not counted");
    one.kill();
    ensure!(one.answers().is_err(), "it answers after its death");
    two.answers().context("the other one")?;
    one.restart()?;
    expect(one.allocations() == 0, || "nobody has made an allocation".into())
}

/// Datagrams, at one every 5 ms.
const A_FEW: u64 = 5;
const A_SECOND: Duration = Duration::from_secs(1);
/// What the scheduling of a busy machine may cost.
const UNNOTICED: Duration = Duration::from_millis(300);
