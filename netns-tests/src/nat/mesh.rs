//! Many nodes on the internet itself, each with a link to every other.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::lab::Ground;
use super::net::{CONTROLLER as CONTROLLER_HOST, v4, v6};
use super::view::Admin;
use crate::cluster::{CONTROLLER, Cluster, Setup};
use crate::lab::{BridgeSpec, InstanceSpec, Lab, LabSpec, NodeSpec, require_root, sweep};
use crate::measure;
use crate::wait::wait_ok;

/// The nodes `n1`, `n2`, ..., each with an instance `i1`, `i2`, ... on the network `blue`.
#[derive(Debug)]
pub struct Mesh {
    cluster: Cluster,
    ground: Ground,
    nodes: usize,
}

/// What passed between nodes while nobody spoke.
#[derive(Clone, Copy, Debug)]
pub struct Quiet {
    /// For how long.
    pub time: Duration,
    /// UDP between nodes, all links, both ways.
    pub straight: Counted,
    /// UDP between nodes and the controller's relay, which is their STUN server too.
    pub by_relay: Counted,
}

/// Packets that were counted.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    /// How many.
    pub packets: u64,
    /// Their bytes, IP headers included.
    pub bytes: u64,
}

impl Mesh {
    /// Builds it; all nodes have joined and are online.
    pub fn build(nodes: usize) -> Result<Mesh> {
        require_root()?;
        sweep();
        ensure!((2..=MOST).contains(&nodes), "2 to {MOST} nodes fit, not {nodes}");
        let lab = Lab::build(spec(nodes))?;
        let ground = Ground::build(&lab, &[])?;
        for (i, node) in (0u8..).zip(lab.nodes().iter().filter(|node| node.name() != CONTROLLER)) {
            ground.internet().connect_by_gateway(node.ns(), "eth0", FIRST_HOST + i)?;
        }
        // What the controller and its nodes say to each other by TCP is not a link's.
        let (v4, v6) = (v4(CONTROLLER_HOST), v6(CONTROLLER_HOST));
        ground.internet().ns().nft(&format!(
            "table inet links {{\n counter straight {{ }}\n counter by_relay {{ }}\n chain f {{ type filter hook forward \
             priority 0; policy accept;\n  meta l4proto != udp accept\n  ip saddr {v4} counter name by_relay accept\n  \
             ip daddr {v4} counter name by_relay accept\n  ip6 saddr {v6} counter name by_relay accept\n  \
             ip6 daddr {v6} counter name by_relay accept\n  counter name straight\n }}\n}}\n"
        ))?;
        let setup = Setup {
            addresses: vec![v4.into(), v6.into()],
            provider: false,
            controller_toml: String::new(),
            switchd_toml: String::new(),
        };
        lab.set_failed(true);
        let mesh = Mesh { cluster: Cluster::start_as(lab, setup)?, ground, nodes };
        mesh.cluster.join_switches(ALL_WITHIN)?;
        Ok(mesh)
    }

    /// How many links there are to be.
    pub fn links(&self) -> usize {
        self.nodes * (self.nodes - 1) / 2
    }

    /// Makes the network, lets every instance say something to all, and returns how long it takes until every node has
    /// a link up to every other.
    pub fn connect(&self) -> Result<Duration> {
        let began = Instant::now();
        self.cluster.skippy(&["network", "add", "blue"])?;
        let names: Vec<String> = (1..=self.nodes).map(|n| format!("n{n}")).collect();
        let mut admins = names
            .iter()
            .map(|name| Admin::connect(&self.cluster.lab().node(name)?.socket_path()))
            .collect::<Result<Vec<_>>>()?;
        for instance in self.cluster.lab().instances() {
            // A question for an address that nobody has goes to every peer. Nobody answers it.
            let ask = ["ping", "-n", "-c", "1", "-W", "0.01", NOBODY];
            instance.ns().finish(&ask, Duration::from_secs(5)).context("ping")?;
        }
        wait_ok("all links", ALL_WITHIN, || {
            for (admin, name) in admins.iter_mut().zip(&names) {
                let links = admin.links()?;
                let up =
                    crate::ctl::rows(&links, "links").iter().filter(|link| link["state"] == "up").count();
                ensure!(up == self.nodes - 1, "{name} has {up} of {} links up", self.nodes - 1);
            }
            Ok(())
        })?;
        let took = began.elapsed();
        let first = self.cluster.lab().instance("i1")?;
        let last = self.cluster.lab().instance(&format!("i{}", self.nodes))?;
        measure::ping_ok(first.ns(), last.v4()?)?;
        self.cluster.lab().set_failed(false);
        Ok(took)
    }

    /// Counts what passes in `time` from now.
    pub fn listen(&self, time: Duration) -> Result<Quiet> {
        let (began, before) = (Instant::now(), [self.counter("straight")?, self.counter("by_relay")?]);
        std::thread::sleep(time);
        let after = [self.counter("straight")?, self.counter("by_relay")?];
        let passed = |i: usize| Counted {
            packets: after[i].packets - before[i].packets,
            bytes: after[i].bytes - before[i].bytes,
        };
        Ok(Quiet { time: began.elapsed(), straight: passed(0), by_relay: passed(1) })
    }

    /// CPU time that all switches have used so far.
    pub fn cpu_time(&self) -> Result<Duration> {
        self.pids()?.into_iter().map(measure::cpu_time).sum()
    }

    /// Resident memory of each switch, in bytes, sorted.
    pub fn memory(&self) -> Result<Vec<u64>> {
        let mut all = self.pids()?.into_iter().map(measure::resident).collect::<Result<Vec<_>>>()?;
        all.sort_unstable();
        Ok(all)
    }

    fn pids(&self) -> Result<Vec<u32>> {
        self.cluster.members().map(|member| member.node(&self.cluster)?.switchd_pid()).collect()
    }

    fn counter(&self, name: &str) -> Result<Counted> {
        let said = self.ground.internet().ns().exec(&["nft", "list", "counter", "inet", "links", name])?;
        let number = |after: &str| -> Option<u64> {
            said.split_once(after)?.1.split_whitespace().next()?.parse().ok()
        };
        let counted = number("packets ").zip(number("bytes "));
        counted
            .map(|(packets, bytes)| Counted { packets, bytes })
            .with_context(|| format!("no counts in {said}"))
    }
}

fn spec(nodes: usize) -> LabSpec {
    let node = |n: usize| {
        let instance = InstanceSpec {
            name: format!("i{n}"),
            mac: format!("02:00:00:01:00:{n:02x}"),
            ips: vec![format!("10.0.0.{n}/24")],
            mtu: 1500,
        };
        let blue = BridgeSpec { network: "blue".into(), create: true, instances: vec![instance] };
        NodeSpec { name: format!("n{n}"), bridges: vec![blue] }
    };
    let controller = NodeSpec { name: CONTROLLER.to_owned(), bridges: Vec::new() };
    LabSpec {
        name: "mesh".to_owned(),
        underlays: Vec::new(),
        nodes: (1..=nodes).map(node).chain([controller]).collect(),
    }
}

/// Hosts of the internet from here on are nodes.
const FIRST_HOST: u8 = 40;
const MOST: usize = 200;
const NOBODY: &str = "10.0.0.254";
const ALL_WITHIN: Duration = Duration::from_secs(180);
