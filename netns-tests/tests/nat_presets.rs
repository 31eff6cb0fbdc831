//! The kinds of routers of the NAT lab, found out with plain UDP sockets: what fails here is not the daemon's fault.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netns_tests::nat::preset::{self, Filter, Mapping, Quirks};
use netns_tests::nat::probe::{self, Hairpin, Servers};
use netns_tests::nat::{BareLab, Cut, NatSpec, Preset};
use netns_tests::{expect, measure, wait_for};

/// As a table, one row for each preset.
#[test]
fn each_maps_and_filters_as_its_name_says() -> Result<()> {
    let presets = preset::ALL.into_iter().chain([preset::CGNAT_SYMMETRIC]);
    let lab = BareLab::build(&NatSpec::new("nat_presets", &presets.clone().collect::<Vec<_>>()))?;
    let v4 = Servers::bind(lab.ground().internet().ns(), false)?;
    let v6 = Servers::bind(lab.ground().internet().ns(), true)?;
    println!("| preset | family | mapping | filter | ports that four servers saw |\n|---|---|---|---|---|");
    let mut wrong = Vec::new();
    for ((preset, site), node) in presets.zip(lab.ground().sites()).zip(lab.lab().nodes()) {
        let mut row = |family: &str, servers: &Servers, local: IpAddr, want: Option<(Mapping, Filter)>| {
            let seen = servers.probe(node.ns(), local).with_context(|| preset.name.to_owned())?;
            let ports: Vec<u16> = seen.seen.iter().map(SocketAddr::port).collect();
            println!("| {} | {family} | {:?} | {:?} | {ports:?} |", preset.name, seen.mapping, seen.filter);
            if seen.mapping.zip(seen.filter) != want {
                wrong.push(format!("{} by {family}: {seen:?}, not {want:?}", preset.name));
            }
            anyhow::Ok(())
        };
        if preset.families.v4() {
            row("IPv4", &v4, site.client(1)?, preset.behaviour())?;
        }
        if preset.families.v6() {
            let stateful = Some((Mapping::None, Filter::AddressAndPort));
            row("IPv6", &v6, site.client_v6(1).into(), stateful)?;
        }
    }
    expect(wrong.is_empty(), || wrong.join("\n"))
}

/// One site with two nodes.
fn pair(name: &str, preset: Preset, quirks: Quirks) -> NatSpec {
    let mut spec = NatSpec::new(name, &[preset]);
    (spec.sites[0].nodes, spec.sites[0].quirks) = (2, quirks);
    spec
}

#[test]
fn hairpin_comes_from_the_mapping_or_not_at_all() -> Result<()> {
    for preset in [preset::FULL_CONE, preset::PORT_RESTRICTED, preset::SYMMETRIC] {
        for (hairpin, want) in [(true, Hairpin::FromMapping), (false, Hairpin::No)] {
            let quirks = Quirks { hairpin, ..Quirks::default() };
            let lab = BareLab::build(&pair("nat_hairpin", preset, quirks))?;
            let servers = Servers::bind(lab.ground().internet().ns(), false)?;
            let client = |name: &str| -> Result<_> {
                let (site, k) = lab.ground().place(name)?;
                Ok((lab.lab().node(name)?.ns(), site.client(k)?))
            };
            let got = probe::hairpin(&servers, client("node-a")?, client("node-b")?)?;
            expect(got == want, || format!("{} with hairpin {hairpin}: {got:?}", preset.name))?;
        }
    }
    Ok(())
}

/// A stranger's packet that comes before ours to it: a router that answers it gives us another port.
#[test]
fn early_inbound_costs_the_port_where_the_router_answers() -> Result<()> {
    for drops_unsolicited in [true, false] {
        let quirks = Quirks { drops_unsolicited, ..Quirks::default() };
        let lab = BareLab::build(&pair("nat_early", preset::MASQUERADE, quirks))?;
        let (site, node) = (&lab.ground().sites()[0], lab.lab().node("node-a")?);
        let servers = Servers::bind(lab.ground().internet().ns(), false)?;
        let local = SocketAddr::new(site.client(1)?, 5000);
        let socket = probe::bind_port(node.ns(), local)?;
        let answered = servers.answers(&socket, SocketAddr::new(site.wan().into(), 5000))?;
        ensure!(!answered, "an unsolicited packet came in");
        let mapped = servers.mapped_by_first(&socket)?.context("a packet gets out")?;
        expect((mapped.port() == 5000) == drops_unsolicited, || {
            format!("mapped to {mapped} where the router drops: {drops_unsolicited}")
        })?;
    }
    Ok(())
}

/// Two inside sockets with one port: masquerade is endpoint-independent for neither, a range of ports for both.
#[test]
fn a_port_that_two_want_makes_masquerade_symmetric() -> Result<()> {
    for (preset, independent) in [(preset::MASQUERADE, false), (preset::PORT_RESTRICTED, true)] {
        let lab = BareLab::build(&pair("nat_collision", preset, Quirks::default()))?;
        let internet = lab.ground().internet().ns();
        let (one, two) = (Servers::bind(internet, false)?, Servers::bind(internet, false)?);
        let socket = |name: &str| -> Result<_> {
            let (site, k) = lab.ground().place(name)?;
            probe::bind_port(lab.lab().node(name)?.ns(), SocketAddr::new(site.client(k)?, 5000))
        };
        let (a, b) = (socket("node-a")?, socket("node-b")?);
        let first = [one.mapped_by_first(&a)?, two.mapped_by_first(&b)?];
        let second = [two.mapped_by_first(&a)?, one.mapped_by_first(&b)?];
        expect((first == second) == independent, || format!("{}: {first:?}, {second:?}", preset.name))?;
    }
    Ok(())
}

#[test]
fn mappings_end_when_they_are_forgotten_or_unused() -> Result<()> {
    let quirks = Quirks { udp_timeout: Some(2), ..Quirks::default() };
    let lab = BareLab::build(&pair("nat_rebind", preset::FULL_CONE, quirks))?;
    let (site, node) = (&lab.ground().sites()[0], lab.lab().node("node-a")?);
    let servers = Servers::bind(lab.ground().internet().ns(), false)?;
    let socket = probe::bind(node.ns(), site.client(1)?)?;
    let mapped = || -> Result<SocketAddr> {
        let at = servers.mapped_by_first(&socket)?.context("a packet gets out")?;
        ensure!(servers.answers(&socket, at)?, "a new mapping does not work");
        Ok(at)
    };
    let old = mapped()?;
    site.rebind()?;
    ensure!(!servers.answers(&socket, old)?, "the old mapping outlived a flush");
    let new = mapped()?;
    ensure!(new != old, "{new} again");
    let unused = std::time::Instant::now();
    wait_for("the timeout of an unused mapping", Duration::from_secs(5), || {
        unused.elapsed() > Duration::from_millis(3200)
    })?;
    ensure!(!servers.answers(&socket, new)?, "the mapping outlived its timeout");
    let moved = site.change_wan()?;
    let at = mapped()?;
    expect(at.ip() == IpAddr::from(moved), || format!("{at} after the router moved to {moved}"))
}

/// The direct path is cut, both ways or one, and the servers of the internet stay in reach.
#[test]
fn the_direct_path_alone_can_be_cut() -> Result<()> {
    let lab = BareLab::build(&NatSpec::new("nat_cut", &[preset::OPEN, preset::OPEN]))?;
    let (a, b) = (&lab.ground().sites()[0], &lab.ground().sites()[1]);
    let (node_a, node_b) = (lab.lab().node("node-a")?, lab.lab().node("node-b")?);
    let servers = Servers::bind(lab.ground().internet().ns(), false)?;
    let (at_a, at_b) = (probe::bind(node_a.ns(), a.client(1)?)?, probe::bind(node_b.ns(), b.client(1)?)?);
    let passes = |from: &std::net::UdpSocket, to: &std::net::UdpSocket| -> Result<bool> {
        from.send_to(b"x", to.local_addr()?)?;
        Ok(to.recv_from(&mut [0; 8]).is_ok())
    };
    for (cut, to_a, to_b) in
        [(Cut::BothWays, false, false), (Cut::Inbound, false, true), (Cut::Outbound, true, false)]
    {
        a.cut(cut)?;
        let got = (passes(&at_b, &at_a)?, passes(&at_a, &at_b)?);
        ensure!(got == (to_a, to_b), "{cut:?}: {got:?}");
        ensure!(servers.mapped_by_first(&at_a)?.is_some(), "{cut:?}: the servers are out of reach");
        a.heal()?;
        ensure!(passes(&at_b, &at_a)? && passes(&at_a, &at_b)?, "{cut:?} does not heal");
    }
    let old = a.client(1)?;
    let new = a.move_client(node_a.ns(), 1)?;
    ensure!(new != old, "{new} again");
    measure::ping_ok(node_b.ns(), new)
}
