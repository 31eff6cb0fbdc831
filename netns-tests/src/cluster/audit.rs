//! Whether what the controller says of instances, bindings and machines is what there is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;

use super::{Cluster, PROVIDED, text};
use crate::cmd;
use crate::ctl;
use crate::daemon::bin;
use crate::wait::wait_ok;

/// What one node's agent and switch say.
struct Site {
    node: String,
    instances: Vec<Value>,
    bindings: Vec<Value>,
}

/// What the controller says.
struct Said {
    nodes: Vec<Value>,
    instances: Vec<Value>,
    bindings: Vec<Value>,
}

impl Cluster {
    /// Waits until controller, agents and switches agree; an instance that runs twice is an error at once. To be
    /// called when no operation is meant to run. Returns how long it took.
    pub fn wait_consistent(&self, within: Duration) -> Result<Duration> {
        let began = Instant::now();
        let doubled = wait_ok("controller, agents and switches to agree", within, || {
            let said = self.said()?;
            let sites = self.sites(&said)?;
            if let Err(doubled) = check_doubled(&sites) {
                return Ok(Err(doubled));
            }
            self.check(&said, &sites)?;
            Ok(Ok(()))
        })?;
        doubled.map(|()| began.elapsed())
    }

    fn said(&self) -> Result<Said> {
        let [nodes, instances, bindings, running] = [
            &["node", "list"][..],
            &["instance", "list"],
            &["binding", "list"],
            &["operation", "list", "--state", "running"],
        ]
        .map(|what| self.list(what));
        let running = running?;
        ensure!(running.is_empty(), "operations that do not end: {running:?}");
        let nodes = nodes?.into_iter().filter(|node| node["state"] != "removed").collect();
        Ok(Said { nodes, instances: instances?, bindings: bindings? })
    }

    fn sites(&self, said: &Said) -> Result<Vec<Site>> {
        std::thread::scope(|scope| {
            let asked: Vec<_> = said.nodes.iter().map(|node| scope.spawn(move || self.site(node))).collect();
            let join = |answer: std::thread::ScopedJoinHandle<'_, Result<Site>>| {
                answer.join().map_err(|_| anyhow!("asking a node panicked"))?
            };
            asked.into_iter().map(join).collect()
        })
    }

    fn site(&self, node: &Value) -> Result<Site> {
        let (id, name) = (text(node, "id")?, text(node, "name")?);
        let (instances, bindings) = match self.member(&name) {
            Ok(member) => (member.agent_status(self)?, member.node(self)?.ctl(&["bindings"])?),
            Err(_) => {
                let dir = self.machines_dir().join(&id);
                let socket = dir.join("switchd.sock").display().to_string();
                let switchctl = bin("switchctl")?.display().to_string();
                let bindings = cmd::run(&[&switchctl, "--socket", &socket, "--json", "bindings"])?;
                (machine_agent_status(&dir)?, serde_json::from_str(&bindings)?)
            }
        };
        let rows = |answer: &Value| ctl::rows(answer, "bindings").to_vec();
        Ok(Site { node: name, instances: rows(&instances), bindings: rows(&bindings) })
    }

    fn check(&self, said: &Said, sites: &[Site]) -> Result<()> {
        let away = |node: &&Value| node["state"] != "online" || node["agent_online"] != true;
        if let Some(node) = said.nodes.iter().find(away) {
            bail!("{} is {}, its agent online: {}", node["name"], node["state"], node["agent_online"]);
        }
        check_instances(said, sites)?;
        check_bindings(said)?;
        for site in sites {
            check_switch(said, site).with_context(|| format!("the switch of {}", site.node))?;
        }
        self.check_machines(said)
    }

    /// What the agents of the provider's machines say.
    pub(super) fn machines_agent_status(&self) -> Vec<Value> {
        let dirs = std::fs::read_dir(self.machines_dir()).into_iter().flatten().flatten();
        dirs.filter_map(|entry| machine_agent_status(&entry.path()).ok()).collect()
    }

    fn machines_dir(&self) -> PathBuf {
        self.lab.dir().join("provider")
    }

    /// The provider's machines, and the namespaces that they are, against the controller's nodes.
    fn check_machines(&self, said: &Said) -> Result<()> {
        let provided = said.nodes.iter().filter(|node| node["provider"] == "netns");
        let nodes: BTreeMap<String, String> =
            provided.map(|node| Ok((text(node, "id")?, text(node, "name")?))).collect::<Result<_>>()?;
        let recorded: BTreeSet<String> = std::fs::read_dir(self.machines_dir())
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.path().is_dir())
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        ensure!(
            nodes.keys().eq(recorded.iter()),
            "the provider has machines of {recorded:?}, the controller nodes {nodes:?}"
        );
        let prefix = format!("{}{PROVIDED}", self.prefix);
        let list = cmd::run(&["ip", "netns", "list"])?;
        let there: BTreeSet<&str> =
            list.lines().filter_map(|line| line.split_whitespace().next()?.strip_prefix(&prefix)).collect();
        let named: BTreeSet<&str> = nodes.values().map(String::as_str).collect();
        ensure!(there == named, "machines {there:?}, nodes {named:?}");
        Ok(())
    }
}

fn machine_agent_status(dir: &Path) -> Result<Value> {
    let (agent, config) =
        (bin("node-agent")?.display().to_string(), dir.join("agent.toml").display().to_string());
    Ok(serde_json::from_str(&cmd::run(&[&agent, "status", "--json", "--config", &config])?)?)
}

fn check_doubled(sites: &[Site]) -> Result<()> {
    let mut runs: BTreeMap<&str, &str> = BTreeMap::new();
    for site in sites {
        for id in site.instances.iter().filter(|row| row["pid"].is_u64()).filter_map(|row| row["id"].as_str())
        {
            if let Some(other) = runs.insert(id, &site.node) {
                bail!("{id} runs on {other} and on {}", site.node);
            }
        }
    }
    Ok(())
}

/// Every instance is on the node that the controller says, in the state that it says, and nothing else is anywhere.
fn check_instances(said: &Said, sites: &[Site]) -> Result<()> {
    let mut found: BTreeMap<(String, String), String> = BTreeMap::new();
    for site in sites {
        for row in &site.instances {
            found.insert((text(row, "id")?, site.node.clone()), text(row, "state")?);
        }
    }
    for instance in &said.instances {
        let place = (text(instance, "id")?, text(instance, "compute_node_name")?);
        let state = text(instance, "state")?;
        ensure!(state == text(instance, "desired")?, "{} is {state}, not {}", place.0, instance["desired"]);
        let there = found.remove(&place);
        ensure!(
            there.as_deref() == Some(&state),
            "{} shall be {state} on {} and is {there:?} there",
            place.0,
            place.1
        );
    }
    ensure!(found.is_empty(), "nobody wants {found:?}");
    Ok(())
}

/// The controller's bindings of instances are those of the instances, each once and where it lives.
fn check_bindings(said: &Said) -> Result<()> {
    let mut wanted = BTreeSet::new();
    for instance in &said.instances {
        let state = if instance["state"] == "running" { "active" } else { "prepared" };
        for nic in ctl::rows(&instance["nics"], "") {
            let node = text(instance, "compute_node")?;
            wanted.insert((text(nic, "mac")?, node, state.to_owned(), text(instance, "id")?));
        }
    }
    let mut there = BTreeSet::new();
    for binding in said.bindings.iter().filter(|binding| binding["source"] == "controller") {
        let owner = binding["instance"].as_str().unwrap_or("nobody").to_owned();
        there.insert((text(binding, "mac")?, text(binding, "compute_node")?, text(binding, "state")?, owner));
    }
    ensure!(wanted == there, "bindings {there:?} of instances {wanted:?}");
    Ok(())
}

/// What a switch knows of instances is what the controller says, in its place and generation.
fn check_switch(said: &Said, site: &Site) -> Result<()> {
    let key = |row: &Value| Some((row["vni"].as_u64()?, row["mac"].as_str()?.to_owned()));
    let mut wanted: BTreeMap<_, _> = said
        .bindings
        .iter()
        .filter(|row| row["source"] == "controller")
        .filter_map(|row| {
            let node = row["compute_node_name"].as_str()?.to_owned();
            Some((key(row)?, (node, row["generation"].as_u64()?, text(row, "state").ok()?)))
        })
        .collect();
    // Beside a binding that is prepared, what was active before stays so: where an instance is stopped, its last place.
    let stopped: BTreeSet<(_, String)> = wanted
        .iter()
        .filter(|(_, (_, _, state))| state == "prepared")
        .map(|(key, (node, ..))| (key.clone(), node.clone()))
        .collect();
    for row in &site.bindings {
        let Some(found) = key(row).filter(|(_, mac)| mac.starts_with(INSTANCE_MACS)) else { continue };
        let place = (text(row, "node")?, row["generation"].as_u64().unwrap_or_default(), text(row, "state")?);
        if place.2 == "active" && stopped.contains(&(found.clone(), place.0.clone())) {
            continue;
        }
        let said = wanted.remove(&found);
        ensure!(said.as_ref() == Some(&place), "has {found:?} at {place:?}, the controller says {said:?}");
    }
    ensure!(wanted.is_empty(), "knows nothing of {wanted:?}");
    Ok(())
}

/// With what the controller's MACs of instances begin.
const INSTANCE_MACS: &str = "02:73:69";
