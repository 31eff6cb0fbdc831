//! A node of a cluster: switchd and the node agent, enrolled by a token.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use super::{Cluster, text};
use crate::daemon::{Daemon, bin};
use crate::lab::{KEY_FILE, Node, PORT, SOCKET_FILE};
use crate::wait::wait_ok;

/// A node; its switchd is the lab node's.
#[derive(Debug)]
pub struct Member {
    name: String,
    agent: Mutex<Option<Daemon>>,
}

impl Member {
    pub(super) fn new(name: &str) -> Member {
        Member { name: name.to_owned(), agent: Mutex::default() }
    }

    /// Its name, in the lab and in the cluster.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its namespace, files and switchd.
    pub fn node<'a>(&self, cluster: &'a Cluster) -> Result<&'a Node> {
        cluster.lab().node(&self.name)
    }

    /// Asks for a token, enrols, starts both daemons, and waits until the controller sees the node online.
    pub fn join(&self, cluster: &Cluster) -> Result<()> {
        let token = self.token(cluster)?;
        self.join_with(cluster, &token)?;
        self.start(cluster)?;
        self.wait_online(cluster)
    }

    /// A join token for this node.
    pub fn token(&self, cluster: &Cluster) -> Result<String> {
        let added = cluster.skippy(&["node", "add", "--provider", "manual", "--name", &self.name])?;
        text(&added["join"], "token")
    }

    /// `switchd join`: an error with what it said if it fails.
    pub fn join_with(&self, cluster: &Cluster, token: &str) -> Result<()> {
        let node = self.node(cluster)?;
        self.write_config(cluster, node)?;
        let (switchd, config) =
            (bin("switchd")?.display().to_string(), node.config_path().display().to_string());
        let args = [&switchd, "join", token, "--config", &config, "--no-start"];
        let done = node.ns().finish(&args, JOIN_LIMIT)?;
        ensure!(done.status.success(), "switchd join: {}{}", done.stderr.trim(), done.stdout);
        Ok(())
    }

    /// Makes `other`, which has not joined, a copy of this node: the same key and `node.json`.
    pub fn clone_to(&self, cluster: &Cluster, other: &Member) -> Result<()> {
        let (from, to) = (self.node(cluster)?, other.node(cluster)?);
        other.write_config(cluster, to)?;
        std::fs::create_dir_all(state_dir(to))?;
        std::fs::copy(from.dir().join(KEY_FILE), to.dir().join(KEY_FILE)).context("copying the key")?;
        std::fs::copy(state_dir(from).join("node.json"), state_dir(to).join("node.json"))
            .context("copying node.json")?;
        Ok(())
    }

    /// Starts switchd and the agent.
    pub fn start(&self, cluster: &Cluster) -> Result<()> {
        self.node(cluster)?.restart()?;
        self.start_agent(cluster)
    }

    /// Starts the agent; one that runs is killed first.
    pub fn start_agent(&self, cluster: &Cluster) -> Result<()> {
        self.kill_agent();
        let node = self.node(cluster)?;
        let group = format!("{}{}", cluster.lab().prefix(), self.name);
        let key = node.dir().join(KEY_FILE);
        let config = agent_toml(&node.dir().join("agent-state"), &state_dir(node), &key, &group);
        std::fs::write(agent_config_path(node), config).context("writing the agent's configuration")?;
        let (agent, config) =
            (bin("node-agent")?.display().to_string(), agent_config_path(node).display().to_string());
        let log = self.agent_log(cluster)?;
        *self.slot() =
            Some(Daemon::start_with_host_mounts(node.ns(), &[&agent, "run", "--config", &config], &log)?);
        Ok(())
    }

    /// SIGKILL to the agent, if it runs. Its instances go on.
    pub fn kill_agent(&self) {
        if let Some(mut agent) = self.slot().take() {
            agent.kill9();
        }
    }

    /// Waits until the controller has sessions with switchd and the agent of this node.
    pub fn wait_online(&self, cluster: &Cluster) -> Result<()> {
        wait_ok(&format!("{} to be online", self.name), ONLINE_WITHIN, || {
            let node = cluster.skippy(&["node", "show", &self.name])?;
            let online = node["state"] == "online" && node["agent_online"] == true;
            if online { Ok(()) } else { Err(anyhow!("not online: {node}")) }
        })
    }

    /// Where its agent's log is.
    pub fn agent_log(&self, cluster: &Cluster) -> Result<PathBuf> {
        Ok(self.node(cluster)?.dir().join("agent.log"))
    }

    /// Where its agent looks for images.
    pub fn image_dir(&self, cluster: &Cluster) -> Result<PathBuf> {
        Ok(self.node(cluster)?.dir().join("agent-state/images"))
    }

    /// What `node-agent status <args>` prints.
    pub fn agent_status_text(&self, cluster: &Cluster, args: &[&str]) -> Result<String> {
        let node = self.node(cluster)?;
        let (agent, config) =
            (bin("node-agent")?.display().to_string(), agent_config_path(node).display().to_string());
        node.ns().exec(&[&[agent.as_str(), "status", "--config", &config], args].concat())
    }

    /// What `node-agent status --json` says.
    pub fn agent_status(&self, cluster: &Cluster) -> Result<Value> {
        let said = self.agent_status_text(cluster, &["--json"])?;
        serde_json::from_str(&said).with_context(|| format!("node-agent status printed no JSON: {said}"))
    }

    /// The first process of an instance, once it runs.
    pub fn instance_pid(&self, cluster: &Cluster, id: &str) -> Result<u32> {
        wait_ok(&format!("{id} to run on {}", self.name), RUNS_WITHIN, || {
            let status = self.agent_status(cluster)?;
            let rows = status.as_array().cloned().unwrap_or_default();
            let pid = rows.iter().find(|row| row["id"] == id).and_then(|row| row["pid"].as_u64());
            let pid = pid.ok_or_else(|| anyhow!("no running instance {id} on {}: {status}", self.name))?;
            u32::try_from(pid).context("a process id is a u32")
        })
    }

    pub(super) fn leave_running(&self) {
        if let Some(agent) = self.slot().take() {
            agent.leave_running();
        }
    }

    /// Where its switchd keeps what the controller said.
    pub fn switch_state_dir(&self, cluster: &Cluster) -> Result<PathBuf> {
        Ok(state_dir(self.node(cluster)?))
    }

    /// Makes it a node that never joined: daemons ended, key and state gone. Its instances must be gone already.
    pub fn forget(&self, cluster: &Cluster) -> Result<()> {
        self.kill_agent();
        let node = self.node(cluster)?;
        node.kill9();
        let _ = std::fs::remove_file(node.dir().join(KEY_FILE));
        for dir in [state_dir(node), agent_state_dir(node)] {
            let _ = std::fs::remove_dir_all(dir);
        }
        Ok(())
    }

    /// A machine's power cut: SIGKILL to switchd, the agent and every instance.
    pub fn cut_power(&self, cluster: &Cluster) -> Result<()> {
        let status = self.agent_status(cluster)?;
        self.kill_agent();
        self.node(cluster)?.kill9();
        kill_instances(&status);
        Ok(())
    }

    fn write_config(&self, cluster: &Cluster, node: &Node) -> Result<()> {
        let (key, socket) = (node.dir().join(KEY_FILE), node.dir().join(SOCKET_FILE));
        node.write_config(&switchd_toml(&key, &socket, &state_dir(node), &cluster.setup.switchd_toml))
    }

    fn slot(&self) -> MutexGuard<'_, Option<Daemon>> {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// SIGKILL to the first process of each instance; the others of its namespace go with it.
pub(super) fn kill_instances(status: &Value) {
    let pids = status.as_array().into_iter().flatten().filter_map(|row| row["pid"].as_u64());
    for pid in pids.filter_map(|pid| i32::try_from(pid).ok()) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
}

fn state_dir(node: &Node) -> PathBuf {
    node.dir().join("switchd-state")
}

fn agent_state_dir(node: &Node) -> PathBuf {
    node.dir().join("agent-state")
}

fn agent_config_path(node: &Node) -> PathBuf {
    node.dir().join("agent.toml")
}

/// The configuration of a node's switch, from the places of its key, its admin socket and its state, and further tables.
pub(super) fn switchd_toml(key: &Path, socket: &Path, state: &Path, tables: &str) -> String {
    format!(
        "[node]\nprivate_key = {}\nlisten = \"[::]:{PORT}\"\n\n[admin]\nsocket = {}\n\n\
         {tables}[controller]\nstate_dir = {}\n",
        quoted(key),
        quoted(socket),
        quoted(state)
    )
}

/// The configuration of an agent. Its control group is named as the lab is, so that what a killed test leaves is found.
pub(super) fn agent_toml(state: &Path, node_state: &Path, key: &Path, group: &str) -> String {
    format!(
        "state_dir = {}\nimage_dir = {}\nnode_state_dir = {}\nprivate_key = {}\ncgroup_parent = {group:?}\n\
         # Where KVM is nested, a stock kernel does not come up in time.\naccelerator = \"tcg\"\n",
        quoted(state),
        quoted(&state.join("images")),
        quoted(node_state),
        quoted(key),
    )
}

fn quoted(path: &Path) -> String {
    format!("{:?}", path.display().to_string())
}

const JOIN_LIMIT: Duration = Duration::from_secs(15);
const RUNS_WITHIN: Duration = Duration::from_secs(3);
const ONLINE_WITHIN: Duration = Duration::from_secs(15);
