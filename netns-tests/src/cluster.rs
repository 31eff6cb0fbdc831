//! A lab whose nodes are joined by a controller: the controller in a namespace of its own, nodes that enrol by token,
//! instances that the node agents run.

mod ask;
mod audit;
mod member;
mod station;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

pub use member::Member;
pub use station::Station;

use crate::daemon::{Daemon, bin};
use crate::lab::{Lab, LabSpec, Node, NodeSpec, UnderlaySpec, require_root, sweep};
use crate::ns::Namespace;
use crate::wait::wait_ok;
use crate::{cgroups, cmd, evidence};

/// A running controller and the nodes of its lab. Dropping it ends the daemons and removes namespaces and files.
#[derive(Debug)]
pub struct Cluster {
    // Before the lab, so that daemons and instances end first.
    controller: Mutex<Option<Daemon>>,
    members: BTreeMap<String, Member>,
    attached: Mutex<Vec<Namespace>>,
    lab: Lab,
    prefix: String,
    token: String,
    fingerprint: String,
    setup: Setup,
}

/// What differs between clusters.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// Where nodes reach the controller; the first is where its REST API is asked.
    pub(crate) addresses: Vec<IpAddr>,
    /// The controller can make machines on the lab's first underlay.
    pub(crate) provider: bool,
    /// Tables at the end of `controller.toml`.
    pub(crate) controller_toml: String,
    /// Tables in the `switchd.toml` of every node.
    pub(crate) switchd_toml: String,
}

/// Builds a cluster of `nodes` nodes, none of which has joined yet, and runs `body` in it. Evidence is kept under
/// `target/netns-failures/<name>/` if it fails.
pub fn cluster_test(name: &str, nodes: usize, body: impl FnOnce(&Cluster) -> Result<()>) -> Result<()> {
    require_root()?;
    sweep();
    let lab = Lab::build(spec(name, nodes))?;
    lab.set_failed(true);
    let cluster = Cluster::start(lab)?;
    body(&cluster)?;
    cluster.lab.set_failed(false);
    Ok(())
}

impl Cluster {
    /// The same under a prefix of the caller's, for the demo.
    pub fn build_as(name: &str, nodes: usize, prefix: &str) -> Result<Cluster> {
        Cluster::start(Lab::build_as(spec(name, nodes), prefix)?)
    }

    fn start(lab: Lab) -> Result<Cluster> {
        let setup = Setup {
            addresses: vec![lab.node(CONTROLLER)?.underlay_v4(0)],
            provider: true,
            controller_toml: String::new(),
            switchd_toml: QUICK_LINKS.to_owned(),
        };
        Cluster::start_as(lab, setup)
    }

    /// Starts the controller on the lab's node of that name, which can be reached already.
    pub(crate) fn start_as(lab: Lab, setup: Setup) -> Result<Cluster> {
        let node = lab.node(CONTROLLER)?;
        let controller = bin("controller")?.display().to_string();
        let state = state_dir(node).display().to_string();
        let mut init = vec![controller.clone(), "init".into(), "--state-dir".into(), state];
        init.extend(["--name".into(), "lab".into()]);
        init.extend(setup.addresses.iter().flat_map(|ip| ["--advertise".into(), advertised(*ip)]));
        let token = node.ns().exec(&init)?.trim().to_owned();
        let provider = lab.dir().join("provider.toml");
        if setup.provider {
            std::fs::write(&provider, provider_config(&lab)?)?;
        }
        node.write_config(&controller_config(&lab, node, &setup, &provider)?)?;
        let config = node.config_path().display().to_string();
        let fingerprint =
            node.ns().exec(&[&controller, "fingerprint", "--config", &config])?.trim().to_owned();
        let members = lab
            .nodes()
            .iter()
            .filter(|node| node.name() != CONTROLLER)
            .map(|node| (node.name().to_owned(), Member::new(node.name())))
            .collect();
        let prefix = lab.prefix().to_owned();
        let cluster = Cluster {
            controller: Mutex::default(),
            members,
            attached: Mutex::default(),
            lab,
            prefix,
            token,
            fingerprint,
            setup,
        };
        cluster.start_controller()?;
        Ok(cluster)
    }

    /// The lab under it.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The controller's namespace and files.
    pub fn controller(&self) -> Result<&Node> {
        self.lab.node(CONTROLLER)
    }

    /// The first administrator's token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The fingerprint of the REST API's certificate.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Where the REST API is.
    pub fn url(&self) -> Result<String> {
        let address = self.setup.addresses.first().context("the controller has an address")?;
        Ok(format!("https://{}:4843", advertised(*address)))
    }

    /// Starts the controller and waits until it answers.
    pub fn start_controller(&self) -> Result<()> {
        self.spawn_controller()?;
        wait_ok("the controller to answer", READY_WITHIN, || self.skippy(&["whoami"])).map(drop)
    }

    /// Starts the controller and does not wait.
    pub fn spawn_controller(&self) -> Result<()> {
        let node = self.controller()?;
        let (bin, config) =
            (bin("controller")?.display().to_string(), node.config_path().display().to_string());
        let daemon =
            Daemon::start_with_host_mounts(node.ns(), &[&bin, "run", "--config", &config], &node.log_path())?;
        *self.slot() = Some(daemon);
        Ok(())
    }

    /// SIGKILL to the controller.
    pub fn kill_controller(&self) {
        if let Some(mut daemon) = self.slot().take() {
            daemon.kill9();
        }
    }

    /// SIGTERM to the controller, and waits for its end.
    pub fn stop_controller(&self) -> Result<()> {
        let daemon = self.slot().take();
        daemon.ok_or_else(|| anyhow!("no controller runs"))?.terminate()
    }

    /// What `skippy --json <args>` answers.
    pub fn skippy(&self, args: &[&str]) -> Result<Value> {
        let text = self.skippy_text(&[&["--json"], args].concat())?;
        serde_json::from_str(&text).with_context(|| format!("skippy {args:?} printed no JSON: {text}"))
    }

    /// What `skippy <args>` prints; a failure is an error with what it said.
    pub fn skippy_text(&self, args: &[&str]) -> Result<String> {
        let done = self.skippy_finish(args)?;
        ensure!(
            done.status.success(),
            "skippy {args:?} ({}): {}{}",
            done.status,
            done.stderr.trim(),
            done.stdout
        );
        Ok(done.stdout)
    }

    /// Runs `skippy <args>` to its end, whatever its exit status.
    pub fn skippy_finish(&self, args: &[&str]) -> Result<cmd::Finished> {
        let skippy = bin("skippy")?.display().to_string();
        let (url, token) = (format!("SKIPPY_URL={}", self.url()?), format!("SKIPPY_TOKEN={}", self.token));
        let fingerprint = format!("SKIPPY_FINGERPRINT={}", self.fingerprint);
        let env = ["env", "HOME=/nonexistent", &url, &token, &fingerprint, &skippy];
        self.controller()?.ns().finish(&[&env[..], args].concat(), SKIPPY_LIMIT)
    }

    /// A node of the cluster, by name.
    pub fn member(&self, name: &str) -> Result<&Member> {
        self.members.get(name).ok_or_else(|| anyhow!("no node {name} in this cluster"))
    }

    /// All nodes of the cluster.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// A namespace handle for what a container instance sees, by the instance's name: for ping, iperf3 and the like.
    /// To be asked for again after a move.
    pub fn instance_ns(&self, name: &str) -> Result<Namespace> {
        let instance = self.skippy(&["instance", "show", name])?;
        let (id, node) = (text(&instance, "id")?, self.node_of(&instance)?);
        let member =
            self.members().find(|m| m.name() == node).ok_or_else(|| anyhow!("{name} is on {node}"))?;
        let pid = member.instance_pid(self, &id)?;
        let alias = format!("{}i{pid}-{name}", self.prefix);
        let ns = Namespace::existing(&alias);
        let mut attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        if attached.iter().all(|known| known.name() != alias) {
            cmd::run(&["ip", "netns", "attach", &alias, &pid.to_string()])?;
            attached.push(ns.clone());
        }
        Ok(ns)
    }

    /// The name of the node that an instance lives on.
    pub fn node_of(&self, instance: &Value) -> Result<String> {
        text(&self.skippy(&["node", "show", &text(instance, "compute_node")?])?, "name")
    }

    /// Leaves everything running when dropped.
    pub fn keep(&self) {
        self.lab.keep();
        if let Some(daemon) = self.slot().take() {
            daemon.leave_running();
        }
        self.members().for_each(Member::leave_running);
    }

    fn slot(&self) -> MutexGuard<'_, Option<Daemon>> {
        self.controller.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.lab.keeps() {
            return;
        }
        // Names for the instances' namespaces; the namespaces end with the instances.
        for ns in self.attached.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = cmd::run(&["ip", "netns", "del", ns.name()]);
        }
        if self.lab.failed() || std::thread::panicking() {
            evidence::keep_cluster(self);
        }
        self.members.values().for_each(Member::kill_agent);
        self.machines_agent_status().iter().for_each(member::kill_instances);
        // The provider's machines are not the lab's.
        let _ = Lab::remove_namespaces(&format!("{}{PROVIDED}", self.prefix));
        cgroups::remove(|name| name.starts_with(&self.prefix));
    }
}

/// A field of an answer that must be text.
pub fn text(value: &Value, field: &str) -> Result<String> {
    value[field].as_str().map(str::to_owned).ok_or_else(|| anyhow!("no text {field:?} in {value}"))
}

fn spec(name: &str, nodes: usize) -> LabSpec {
    let node = |name: String| NodeSpec { name, bridges: Vec::new() };
    let names = (0..nodes).map(|i| format!("node-{}", char::from(b'a' + i as u8)));
    LabSpec {
        name: name.to_owned(),
        underlays: vec![UnderlaySpec::default()],
        nodes: std::iter::once(CONTROLLER.to_owned()).chain(names).map(node).collect(),
    }
}

fn controller_config(lab: &Lab, node: &Node, setup: &Setup, provider: &Path) -> Result<String> {
    let command =
        [bin("provider-netns")?.display().to_string(), "--config".into(), provider.display().to_string()];
    let mut text = format!(
        "state_dir = {:?}\n\n[admin]\nsocket = {:?}\n\n[metrics]\nlisten = \"127.0.0.1:9842\"\n\n\
         [limits]\nheartbeat_seconds = 1\nenrolments_per_minute = 1000\n\n{}",
        state_dir(node).display().to_string(),
        lab.dir().join("controller.sock").display().to_string(),
        setup.controller_toml,
    );
    if setup.provider {
        text += &format!(
            "[[provider]]\nname = \"netns\"\nkind = \"exec\"\ncommand = {command:?}\ntimeout_seconds = 60\n"
        );
    }
    Ok(text)
}

/// As in a URL.
fn advertised(ip: IpAddr) -> String {
    if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() }
}

/// Machines of the provider are namespaces whose names begin as the lab's do, on the lab's underlay.
fn provider_config(lab: &Lab) -> Result<String> {
    let binaries = bin("switchd")?;
    let binaries = binaries.parent().context("a program lies in a folder")?;
    // Filled in by the provider.
    let dir = |name: &str| Path::new("{dir}").join(name);
    let group = format!("{}{PROVIDED}{{name}}", lab.prefix());
    Ok(format!(
        "underlay_namespace = {:?}\nunderlay_bridge = \"br0\"\naddresses = \"10.99.0.0/24\"\nfirst_address = 100\n\
         prefix = {:?}\nbinaries = {:?}\nstate_dir = {:?}\n\n\
         [files]\n\"switchd.toml\" = '''\n{}'''\n\"agent.toml\" = '''\n{}'''\n",
        lab.underlay(0).name(),
        format!("{}{PROVIDED}", lab.prefix()),
        binaries.display().to_string(),
        lab.dir().join("provider").display().to_string(),
        member::switchd_toml(&dir("switchd/private.key"), &dir("switchd.sock"), &dir("switchd"), QUICK_LINKS),
        member::agent_toml(&dir("agent"), &dir("switchd"), &dir("switchd/private.key"), &group),
    ))
}

fn state_dir(node: &Node) -> PathBuf {
    node.dir().join("state")
}

pub(crate) const CONTROLLER: &str = "controller";
/// Tests of failures are as short as these times.
const QUICK_LINKS: &str = "[link]\nkeepalive = \"200ms\"\ndead_after = \"1s\"\n\n";
/// With what the names of the provider's machines go on after the lab's prefix.
const PROVIDED: &str = "p-";
const READY_WITHIN: Duration = Duration::from_secs(10);
const SKIPPY_LIMIT: Duration = Duration::from_secs(90);
