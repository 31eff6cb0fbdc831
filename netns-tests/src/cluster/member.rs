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
        self.write_config(node)?;
        let (switchd, config) =
            (bin("switchd")?.display().to_string(), node.config_path().display().to_string());
        let args = [&switchd, "join", token, "--config", &config, "--no-start"];
        let done = node.ns().finish(&args, JOIN_LIMIT)?;
        ensure!(done.status.success(), "switchd join: {}{}", done.stderr.trim(), done.stdout);
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
        std::fs::write(agent_config_path(node), agent_config(node))
            .context("writing the agent's configuration")?;
        let (agent, config) =
            (bin("node-agent")?.display().to_string(), agent_config_path(node).display().to_string());
        let log = node.dir().join("agent.log");
        *self.slot() = Some(Daemon::start(node.ns(), &[&agent, "run", "--config", &config], &log)?);
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

    /// What `node-agent status --json` says.
    pub fn agent_status(&self, cluster: &Cluster) -> Result<Value> {
        let node = self.node(cluster)?;
        let (agent, config) =
            (bin("node-agent")?.display().to_string(), agent_config_path(node).display().to_string());
        let said = node.ns().exec(&[&agent, "status", "--json", "--config", &config])?;
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

    /// Ends the agent, then every process in the cgroups and namespaces of its instances.
    pub(super) fn end_instances(&self, cluster: &Cluster) {
        let status = self.agent_status(cluster).ok();
        self.kill_agent();
        status.iter().for_each(kill_instances);
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

    fn write_config(&self, node: &Node) -> Result<()> {
        let (key, socket) = (node.dir().join(KEY_FILE), node.dir().join(SOCKET_FILE));
        let state = state_dir(node);
        node.write_config(&format!(
            "[node]\nprivate_key = {:?}\nlisten = \"[::]:{PORT}\"\n\n[admin]\nsocket = {:?}\n\n\
             [link]\nkeepalive = \"200ms\"\ndead_after = \"1s\"\n\n[controller]\nstate_dir = {:?}\n",
            key.display().to_string(),
            socket.display().to_string(),
            state.display().to_string()
        ))
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

fn agent_config(node: &Node) -> String {
    let path = |p: &Path| format!("{:?}", p.display().to_string());
    format!(
        "state_dir = {}\nimage_dir = {}\nnode_state_dir = {}\nprivate_key = {}\n",
        path(&agent_state_dir(node)),
        path(&node.dir().join("images")),
        path(&state_dir(node)),
        path(&node.dir().join(KEY_FILE)),
    )
}

const JOIN_LIMIT: Duration = Duration::from_secs(15);
const RUNS_WITHIN: Duration = Duration::from_secs(3);
const ONLINE_WITHIN: Duration = Duration::from_secs(15);
