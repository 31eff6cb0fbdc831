//! A controller on the internet, nodes at sites that join it, an instance on each.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use super::net::{CONTROLLER as CONTROLLER_HOST, Internet, Site, v4, v6};
use super::preset::{Preset, Quirks};
use crate::cluster::{CONTROLLER, Cluster, Setup};
use crate::lab::{Instance, Lab, LabSpec, Node, NodeSpec, require_root, sweep};
use crate::ns::Namespace;
use crate::wait::wait_ok;
use crate::{ctl, evidence, measure};

/// What a NAT lab is made of. Its nodes are `node-a`, `node-b`, ... in the order of the sites; each has an instance,
/// `a1`, `b1`, ..., on the bridge of the network `blue`.
#[derive(Clone, Debug)]
pub struct NatSpec {
    /// Short name for messages and the folder of evidence.
    pub name: String,
    /// The sites.
    pub sites: Vec<SiteSpec>,
    /// Tables in the `switchd.toml` of every node, `[nat]` for one; each ends with an empty line.
    pub switchd_toml: String,
    /// Tables in `controller.toml`, in the same way.
    pub controller_toml: String,
}

/// A router and what is behind it.
#[derive(Clone, Copy, Debug)]
pub struct SiteSpec {
    /// Its kind.
    pub preset: Preset,
    /// And more.
    pub quirks: Quirks,
    /// How many nodes it has, at most 5.
    pub nodes: u8,
}

impl NatSpec {
    /// A node at a site of its own of each preset.
    pub fn new(name: &str, presets: &[Preset]) -> NatSpec {
        let site = |preset: &Preset| SiteSpec { preset: *preset, quirks: Quirks::default(), nodes: 1 };
        NatSpec {
            name: name.to_owned(),
            sites: presets.iter().map(site).collect(),
            switchd_toml: String::new(),
            controller_toml: String::new(),
        }
    }

    fn lab(&self) -> LabSpec {
        let count = self.sites.iter().map(|site| usize::from(site.nodes)).sum();
        let mut spec = LabSpec::star(&self.name, count, &["blue"], 1);
        spec.underlays.clear();
        spec.nodes.push(NodeSpec { name: CONTROLLER.to_owned(), bridges: Vec::new() });
        spec
    }
}

/// The internet and the sites, with the lab's nodes connected to them. Dropping it removes routers and internet.
#[derive(Debug)]
pub struct Ground {
    internet: Internet,
    sites: Vec<Site>,
    /// Site, and which client of it.
    places: BTreeMap<String, (usize, u8)>,
}

impl Ground {
    /// Makes it for a lab of this process.
    pub fn build(lab: &Lab, sites: &[SiteSpec]) -> Result<Ground> {
        let prefix = lab.prefix();
        let internet = Internet::build(prefix)?;
        let mut ground = Ground { internet, sites: Vec::new(), places: BTreeMap::new() };
        ground.internet.connect(lab.node(CONTROLLER)?.ns(), "eth0", CONTROLLER_HOST)?;
        let mut nodes = lab.nodes().iter().filter(|node| node.name() != CONTROLLER);
        for (i, spec) in sites.iter().enumerate() {
            let number = u8::try_from(i + 1).context("a site's number is a byte")?;
            ground.sites.push(Site::build(prefix, &ground.internet, number, spec.preset, spec.quirks)?);
            for k in 1..=spec.nodes {
                let node = nodes.next().ok_or_else(|| anyhow!("fewer nodes than the sites say"))?;
                ground.sites[i].connect(node.ns(), k)?;
                ground.places.insert(node.name().to_owned(), (i, k));
            }
        }
        Ok(ground)
    }

    /// The internet.
    pub fn internet(&self) -> &Internet {
        &self.internet
    }

    /// The sites, in their order.
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// The site of a node, and which client of it the node is.
    pub fn place(&self, node: &str) -> Result<(&Site, u8)> {
        let (site, k) = self.places.get(node).ok_or_else(|| anyhow!("{node} is at no site"))?;
        Ok((&self.sites[*site], *k))
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.sites.iter().flat_map(Site::routers).for_each(Namespace::delete);
        self.internet.ns().delete();
    }
}

/// A lab without a controller, for what needs sockets only: the nodes' namespaces and the ground.
#[derive(Debug)]
pub struct BareLab {
    // First, so that what is killed is killed before its routers go.
    lab: Lab,
    ground: Ground,
}

impl BareLab {
    /// Makes it.
    pub fn build(spec: &NatSpec) -> Result<BareLab> {
        require_root()?;
        sweep();
        let lab = Lab::build(spec.lab())?;
        let ground = Ground::build(&lab, &spec.sites)?;
        Ok(BareLab { lab, ground })
    }

    /// The nodes.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Internet and sites.
    pub fn ground(&self) -> &Ground {
        &self.ground
    }
}

/// A running NAT lab: the controller answers, and all nodes have joined and are online. They know nothing of each other
/// before [`NatLab::introduce`].
#[derive(Debug)]
pub struct NatLab {
    // Before the ground, so that daemons end first.
    cluster: Cluster,
    ground: Ground,
}

impl NatLab {
    /// Makes it.
    pub fn build(spec: &NatSpec) -> Result<NatLab> {
        NatLab::build_with(spec.clone(), |_, _, _| Ok(()))
    }

    /// The same after `prepare` has seen the ground, the folder for files, and the spec, of which it may change the
    /// configurations: for servers that are to be there before the nodes.
    pub fn build_with(
        mut spec: NatSpec,
        prepare: impl FnOnce(&Ground, &Path, &mut NatSpec) -> Result<()>,
    ) -> Result<NatLab> {
        let BareLab { lab, ground } = BareLab::build(&spec)?;
        prepare(&ground, lab.dir(), &mut spec)?;
        let setup = Setup {
            addresses: vec![v4(CONTROLLER_HOST).into(), v6(CONTROLLER_HOST).into()],
            provider: false,
            controller_toml: spec.controller_toml,
            switchd_toml: spec.switchd_toml,
        };
        lab.set_failed(true);
        let nat = NatLab { cluster: Cluster::start_as(lab, setup)?, ground };
        nat.cluster.join_switches(ONLINE_WITHIN)?;
        nat.cluster.lab().set_failed(false);
        Ok(nat)
    }

    /// Waits until the controller has a session with every node.
    pub fn wait_online(&self) -> Result<()> {
        self.cluster.wait_switches(ONLINE_WITHIN)
    }

    /// Waits until nodes that have just begun know their ways to the internet: the controller's relay serves each, and
    /// no more is asked of it.
    pub fn settle(&self) -> Result<()> {
        let nodes = self.cluster.members().count() as f64;
        let (mut last, mut since) = (0.0, Instant::now());
        wait_ok("the relay to serve every node", SETTLED_WITHIN, || {
            let allocations = self.cluster.metric("controller_relay_allocations")?;
            if allocations > last {
                (last, since) = (allocations, Instant::now());
            }
            ensure!(last >= nodes && since.elapsed() > SETTLED_AFTER, "{last} allocations of {nodes} nodes");
            Ok(())
        })
    }

    /// Runs `body`, and keeps evidence if it fails.
    pub fn run<T>(&self, body: impl FnOnce(&NatLab) -> Result<T>) -> Result<T> {
        self.lab().set_failed(true);
        let value = body(self)?;
        self.lab().set_failed(false);
        Ok(value)
    }

    /// Makes the network `blue`, which makes all nodes peers of each other.
    pub fn introduce(&self) -> Result<()> {
        self.cluster.skippy(&["network", "add", "blue"]).map(drop)
    }

    /// Introduces the nodes, and waits until an instance on the first reaches one on the second.
    pub fn connect(&self) -> Result<()> {
        self.introduce()?;
        self.reaches("a1", "b1", CONNECTS_WITHIN)
    }

    /// Waits until a ping of `from` is answered by `to`.
    pub fn reaches(&self, from: &str, to: &str, within: Duration) -> Result<()> {
        let (from, to) = (self.instance(from)?, self.instance(to)?);
        wait_ok(&format!("{} to reach {}", from.name(), to.name()), within, || {
            let ping = measure::ping(from.ns(), to.v4()?, 1, Duration::from_millis(10))?;
            ensure!(ping.received == 1, "no answer to ping");
            Ok(())
        })
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Namespaces, files and daemons of the nodes.
    pub fn lab(&self) -> &Lab {
        self.cluster.lab()
    }

    /// Internet and sites.
    pub fn ground(&self) -> &Ground {
        &self.ground
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.lab().node(name)
    }

    /// An instance by name.
    pub fn instance(&self, name: &str) -> Result<&Instance> {
        self.lab().instance(name)
    }

    /// The site of a node.
    pub fn site(&self, node: &str) -> Result<&Site> {
        Ok(self.ground.place(node)?.0)
    }

    /// Gives a node another address at its site.
    pub fn move_node(&self, node: &str) -> Result<IpAddr> {
        let (site, k) = self.ground.place(node)?;
        site.move_client(self.node(node)?.ns(), k)
    }

    /// The kind of path that the link from `node` to `peer` uses, by its name.
    pub fn path(&self, node: &str, peer: &str) -> Result<String> {
        let links = self.node(node)?.ctl(&["links"])?;
        let link = ctl::link(&links, peer).ok_or_else(|| anyhow!("{node} has no link with {peer}"))?;
        ensure!(link["state"] == "up", "the link is not up: {link}");
        link["path"].as_str().map(str::to_owned).with_context(|| format!("a link without a path: {link}"))
    }

    /// Waits until the links of both nodes with each other are direct.
    pub fn wait_direct(&self, within: Duration) -> Result<()> {
        wait_ok("direct paths", within, || {
            let paths = self.paths()?;
            ensure!(paths.iter().all(|path| is_direct(path)), "the paths are {paths:?}");
            Ok(())
        })
    }

    /// Waits until one of the two says that its path is relayed: where one relay serves, the other may see its address
    /// as a peer's like any other.
    pub fn wait_relayed(&self, within: Duration) -> Result<()> {
        wait_ok("a relayed path", within, || {
            let paths = self.paths()?;
            ensure!(paths.iter().any(|path| path == RELAYED), "the paths are {paths:?}");
            Ok(())
        })
    }

    fn paths(&self) -> Result<[String; 2]> {
        Ok([self.path("node-a", "node-b")?, self.path("node-b", "node-a")?])
    }
}

impl Drop for NatLab {
    fn drop(&mut self) {
        if self.lab().failed() || std::thread::panicking() {
            evidence::keep_ground(self.lab(), &self.ground);
        }
    }
}

/// Whether a kind of path, by its name, leads straight to the peer. A link that is just up has none yet.
pub fn is_direct(path: &str) -> bool {
    !path.is_empty() && path != RELAYED
}

/// The kind of path that goes through a relay.
pub const RELAYED: &str = "relayed";
const SETTLED_WITHIN: Duration = Duration::from_secs(15);
/// Without another allocation.
const SETTLED_AFTER: Duration = Duration::from_secs(1);
const ONLINE_WITHIN: Duration = Duration::from_secs(20);
/// A link that does not come in this time is said not to come.
pub const CONNECTS_WITHIN: Duration = Duration::from_secs(10);
