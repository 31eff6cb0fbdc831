//! Builds a [`LabSpec`] and takes it away again.

mod instance;
mod node;
mod spec;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use anyhow::{Context, Result, anyhow};

pub use instance::Instance;
pub use node::Node;
pub(crate) use node::{KEY_FILE, PORT, SOCKET_FILE};
pub use spec::{BridgeSpec, InstanceSpec, LabSpec, NodeSpec, UnderlaySpec};

use crate::ns::Namespace;
use crate::{SwitchdConfig, cgroups, cmd, evidence};

/// A running lab. Dropping it ends its daemons and removes its namespaces and files.
#[derive(Debug)]
pub struct Lab {
    spec: LabSpec,
    prefix: String,
    dir: PathBuf,
    underlays: Vec<Namespace>,
    nodes: Vec<Node>,
    instances: Vec<Instance>,
    keep: AtomicBool,
    failed: AtomicBool,
}

/// Builds `spec`, runs `body` in it, and keeps evidence under `target/netns-failures/<name>/` if it fails.
pub fn lab_test(spec: LabSpec, body: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    require_root()?;
    sweep();
    let lab = Lab::build(spec)?;
    lab.failed.store(true, Ordering::Relaxed);
    body(&lab)?;
    lab.failed.store(false, Ordering::Relaxed);
    Ok(())
}

/// An error that says what to do unless this is root.
pub fn require_root() -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        Ok(())
    } else {
        Err(anyhow!("network namespaces need root: run this as root, or with sudo"))
    }
}

/// Removes what labs of processes that no longer live have left: namespaces with what runs in them, instances, files.
pub fn sweep() {
    let orphaned = |name: &str| owner(name).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
    // Agents first, which would start their instances again.
    let Ok(list) = cmd::run(&["ip", "netns", "list"]) else { return };
    for name in list.lines().filter_map(|line| line.split_whitespace().next()) {
        if orphaned(name) {
            Namespace::existing(name).delete();
        }
    }
    cgroups::remove(orphaned);
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        if orphaned(&entry.file_name().to_string_lossy()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// The build's `target` folder, found from the running executable by cargo's tag or by its name; `target` where that
/// does not work.
pub fn target_dir() -> PathBuf {
    let exe = std::env::current_exe().unwrap_or_default();
    exe.ancestors()
        .find(|dir| dir.join("CACHEDIR.TAG").exists() || dir.ends_with("target"))
        .map_or_else(|| PathBuf::from("target"), Path::to_path_buf)
}

impl Lab {
    /// Makes everything the spec names, under names unique to this process and lab.
    pub fn build(spec: LabSpec) -> Result<Lab> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Lab::build_as(spec, &format!("{PREFIX}{}-{count}-", std::process::id()))
    }

    /// Makes everything under a prefix of the caller's, which [`sweep`] leaves alone if it does not look like a
    /// process's own. Removes what an earlier lab of that prefix left.
    pub fn build_as(spec: LabSpec, prefix: &str) -> Result<Lab> {
        Lab::remove(prefix)?;
        evidence::clear(&spec);
        let dir = std::env::temp_dir().join(prefix.trim_end_matches('-'));
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let mut lab = Lab {
            spec,
            prefix: prefix.to_owned(),
            dir,
            underlays: Vec::new(),
            nodes: Vec::new(),
            instances: Vec::new(),
            keep: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        };
        lab.build_underlays()?;
        for (i, node) in lab.spec.nodes.clone().into_iter().enumerate() {
            lab.build_node(i, node)?;
        }
        Ok(lab)
    }

    /// Removes the namespaces and files of the labs whose names begin with `prefix`.
    pub fn remove(prefix: &str) -> Result<()> {
        Lab::remove_namespaces(prefix)?;
        cgroups::remove(|name| name.starts_with(prefix));
        let _ = std::fs::remove_dir_all(std::env::temp_dir().join(prefix.trim_end_matches('-')));
        Ok(())
    }

    /// Removes the namespaces whose names begin with `prefix`, and ends what runs in them.
    pub fn remove_namespaces(prefix: &str) -> Result<()> {
        for name in cmd::run(&["ip", "netns", "list"])?.lines().filter_map(|l| l.split_whitespace().next()) {
            if name.starts_with(prefix) {
                Namespace::existing(name).delete();
            }
        }
        Ok(())
    }

    /// What it was built from.
    pub fn spec(&self) -> &LabSpec {
        &self.spec
    }

    /// Folder for the lab's files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// All instances.
    pub fn instances(&self) -> &[Instance] {
        &self.instances
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Result<&Node> {
        self.nodes.iter().find(|n| n.name() == name).ok_or_else(|| anyhow!("no node {name} in this lab"))
    }

    /// The instance of this name.
    pub fn instance(&self, name: &str) -> Result<&Instance> {
        self.instances
            .iter()
            .find(|i| i.name() == name)
            .ok_or_else(|| anyhow!("no instance {name} in this lab"))
    }

    /// The namespace of underlay `i`: its bridge is `br0`, and `p<n>` is the port of node n (from 1).
    pub fn underlay(&self, i: usize) -> &Namespace {
        &self.underlays[i]
    }

    /// Leaves namespaces and files behind when dropped.
    pub fn keep(&self) {
        self.keep.store(true, Ordering::Relaxed);
    }

    /// It was told to.
    pub(crate) fn keeps(&self) -> bool {
        self.keep.load(Ordering::Relaxed)
    }

    /// Evidence is kept when it is dropped.
    pub(crate) fn set_failed(&self, failed: bool) {
        self.failed.store(failed, Ordering::Relaxed);
    }

    /// Evidence is to be kept.
    pub(crate) fn failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// With what all its namespaces' names begin.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Starts the shipped daemon on every node, all of them peers of each other over underlay 0, after `tweak` has
    /// seen each configuration, and waits until every daemon is ready and every link is up.
    pub fn start_switchd(&self, tweak: impl Fn(&mut SwitchdConfig)) -> Result<()> {
        self.start_switchd_unready(tweak)?;
        self.wait_links()
    }

    /// Like [`Lab::start_switchd`], without the wait.
    pub fn start_switchd_unready(&self, tweak: impl Fn(&mut SwitchdConfig)) -> Result<()> {
        for mut config in self.configs()? {
            tweak(&mut config);
            self.node(&config.node)?.start_switchd(&config)?;
        }
        Ok(())
    }

    /// One configuration for each node, with every other node as its peer.
    pub fn configs(&self) -> Result<Vec<SwitchdConfig>> {
        let keys: Vec<String> = self.nodes.iter().map(Node::public_key).collect::<Result<_>>()?;
        let config = |node: &Node| {
            let mut config = SwitchdConfig::new(node.name(), node.dir());
            for (i, bridge) in node.spec().bridges.iter().enumerate() {
                config.network(&bridge.network, 100 * (i as u32 + 1)).create_bridge = !bridge.create;
            }
            for (peer, key) in self.nodes.iter().zip(&keys).filter(|(peer, _)| peer.name() != node.name()) {
                config.peer(peer.name(), key, &peer.underlay_socket(0));
            }
            config
        };
        Ok(self.nodes.iter().map(config).collect())
    }

    /// Waits until every daemon says that it is ready and that the link to every other node is up.
    pub fn wait_links(&self) -> Result<()> {
        for node in &self.nodes {
            node.wait_ready()?;
            for peer in self.nodes.iter().filter(|peer| peer.name() != node.name()) {
                node.wait_link(peer.name(), true)?;
            }
        }
        Ok(())
    }

    fn build_underlays(&mut self) -> Result<()> {
        for (i, spec) in self.spec.underlays.iter().enumerate() {
            let ns = Namespace::create(&format!("{}underlay{i}", self.prefix))?;
            self.underlays.push(ns.clone());
            ns.ip_batch("link add br0 address 02:ff:00:00:00:01 type bridge\nlink set br0 up\n")?;
            if spec.loss_percent > 0.0 {
                let share = (spec.loss_percent * 10_000.0) as u32;
                ns.nft(&format!(
                    "table bridge loss {{\n chain forward {{\n  type filter hook forward priority 0\n  \
                     meta length > {LOSS_SPARES} numgen random mod 1000000 < {share} counter drop\n }}\n}}\n"
                ))?;
            }
        }
        Ok(())
    }

    fn build_node(&mut self, i: usize, spec: NodeSpec) -> Result<()> {
        let ns = Namespace::create(&format!("{}{}", self.prefix, spec.name))?;
        let dir = self.dir.join(&spec.name);
        std::fs::create_dir_all(&dir)?;
        let node = Node::new(i + 1, spec, ns, dir);
        // Known to the lab before anything can fail, so that drop removes it.
        self.nodes.push(node);
        let node = &self.nodes[i];
        for (u, underlay) in self.spec.underlays.iter().enumerate() {
            node.join_underlay(u, underlay, &self.underlays[u])?;
        }
        for bridge in &node.spec().bridges {
            if bridge.create {
                node.create_bridge(&bridge.bridge())?;
            }
            for spec in &bridge.instances {
                let ns = Namespace::create(&format!("{}{}", self.prefix, spec.name))?;
                let instance = Instance::new(spec.clone(), &bridge.network, node.name(), ns);
                self.instances.push(instance);
                if let Some(instance) = self.instances.last() {
                    instance.plug(node, bridge.create.then(|| bridge.bridge()).as_deref())?;
                }
            }
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.failed.load(Ordering::Relaxed) || std::thread::panicking() {
            evidence::keep(self);
        }
        if self.keep.load(Ordering::Relaxed) {
            for node in &self.nodes {
                node.leave_running();
            }
            return;
        }
        for node in &self.nodes {
            node.kill9();
        }
        let namespaces = self.instances.iter().map(Instance::ns).chain(self.nodes.iter().map(Node::ns));
        for ns in namespaces.chain(&self.underlays) {
            ns.delete();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// The process that made the lab a name belongs to.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

const PREFIX: &str = "swlab-";

/// ARP and ND of the underlay itself is not to be lost: a lost neighbour resolution stalls for a second, which says
/// nothing about the overlay. In bytes of IP packet.
const LOSS_SPARES: u32 = 100;
