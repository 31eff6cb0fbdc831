//! What is kept of a lab whose test failed.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use crate::cluster::{Cluster, Member};
use crate::lab::{Instance, Lab, LabSpec, Node, target_dir};
use crate::nat::{Ground, Site};

/// Removes what was kept of an earlier run.
pub(crate) fn clear(spec: &LabSpec) {
    let _ = fs::remove_dir_all(dir(spec));
}

/// Writes the state of every node and instance, and their daemons' logs, under `target/netns-failures/<lab>/`.
pub(crate) fn keep(lab: &Lab) {
    let Some(dir) = made(lab.spec()) else { return };
    for node in lab.nodes() {
        keep_node(node, &dir);
    }
    for instance in lab.instances() {
        keep_instance(instance, &dir);
    }
    keep_captures(lab.dir(), &dir);
    eprintln!("evidence kept in {}", dir.display());
}

/// Writes what the controller and the agents know, and the logs that are not those of the lab's nodes, to the same place.
pub(crate) fn keep_cluster(cluster: &Cluster) {
    let Some(dir) = made(cluster.lab().spec()) else { return };
    let mut text = String::new();
    for command in
        ["status", "node list -w", "instance list -w", "binding list -w", "link list -w", "network list -w"]
    {
        section(&mut text, command, cluster.skippy_text(&command.split(' ').collect::<Vec<_>>()));
    }
    for command in ["operation", "event"] {
        section(&mut text, command, cluster.skippy_text(&[command, "list"]));
    }
    let _ = fs::write(dir.join("skippy.txt"), text);
    for member in cluster.members() {
        keep_agent(cluster, member, &dir);
    }
    keep_provided(&cluster.lab().dir().join("provider"), &dir);
}

/// Writes what the routers do and remember, and the logs of other servers, to the same place.
pub(crate) fn keep_ground(lab: &Lab, ground: &Ground) {
    let Some(dir) = made(lab.spec()) else { return };
    let mut text = String::new();
    for router in ground.sites().iter().flat_map(Site::routers) {
        section(&mut text, router.name(), router.exec(&["nft", "list", "ruleset"]));
        section(&mut text, "mappings", router.exec(&["conntrack", "-L"]));
        section(&mut text, "addresses", router.ip("-br addr show"));
    }
    let _ = fs::write(dir.join("routers.txt"), text);
    for entry in fs::read_dir(lab.dir()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("coturn") {
            let _ = fs::copy(entry.path().join("log"), dir.join(format!("{name}.log")));
        }
    }
}

fn keep_agent(cluster: &Cluster, member: &Member, dir: &Path) {
    let name = member.name();
    if let Ok(log) = member.agent_log(cluster) {
        let _ = fs::copy(log, dir.join(format!("{name}-agent.log")));
    }
    let mut text = String::new();
    section(&mut text, "node-agent status", member.agent_status_text(cluster, &[]));
    section(&mut text, "node-agent status --json", member.agent_status_text(cluster, &["--json"]));
    let _ = fs::write(dir.join(format!("{name}-agent.txt")), text);
}

/// The logs of the provider's machines, each in a folder by its name.
fn keep_provided(from: &Path, to: &Path) {
    for machine in fs::read_dir(from).into_iter().flatten().flatten() {
        let logs = fs::read_dir(machine.path()).into_iter().flatten().flatten().map(|entry| entry.path());
        for log in logs.filter(|path| path.extension().is_some_and(|e| e == "log")) {
            let name = log.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let _ = fs::copy(&log, to.join(format!("{}-{name}", machine.file_name().to_string_lossy())));
        }
    }
}

fn made(spec: &LabSpec) -> Option<PathBuf> {
    let dir = dir(spec);
    match fs::create_dir_all(&dir) {
        Ok(()) => Some(dir),
        Err(error) => {
            eprintln!("cannot keep evidence in {}: {error}", dir.display());
            None
        }
    }
}

fn dir(spec: &LabSpec) -> PathBuf {
    target_dir().join("netns-failures").join(&spec.name)
}

fn keep_node(node: &Node, dir: &Path) {
    let name = node.name();
    let _ = fs::copy(node.log_path(), dir.join(format!("{name}.log")));
    let _ = fs::copy(node.config_path(), dir.join(format!("{name}.toml")));
    let _ = fs::copy(node.dir().join("agent.log"), dir.join(format!("{name}.agent.log")));
    let mut text = String::new();
    for args in ["-d -s link show", "addr show", "neigh show", "route show"] {
        section(&mut text, &format!("ip {args}"), node.ns().ip(args));
    }
    section(&mut text, "bridge fdb", node.ns().bridge("fdb show"));
    section(&mut text, "sockets", node.ns().exec(&["ss", "-uapmn"]));
    if node.switchd_runs() {
        for command in ["status", "links", "bindings", "macs", "stats", "why-dropped"] {
            section(&mut text, command, node.ctl_text(&["--json", command]));
        }
    }
    let _ = fs::write(dir.join(format!("{name}.txt")), text);
}

fn keep_instance(instance: &Instance, dir: &Path) {
    let mut text = String::new();
    for args in ["-s link show", "addr show", "neigh show"] {
        section(&mut text, &format!("ip {args}"), instance.ns().ip(args));
    }
    section(&mut text, "nstat", instance.ns().exec(&["nstat", "-a", "-s"]));
    let _ = fs::write(dir.join(format!("{}.txt", instance.name())), text);
}

fn keep_captures(from: &Path, to: &Path) {
    let captures = fs::read_dir(from).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_capture = |p: &PathBuf| p.extension().is_some_and(|e| e == "pcap" || e == "pcapng");
    for path in captures.filter(is_capture) {
        if let Some(name) = path.file_name() {
            let _ = fs::copy(&path, to.join(name));
        }
    }
}

fn section(text: &mut String, title: &str, body: anyhow::Result<String>) {
    let body = body.unwrap_or_else(|error| format!("{error:#}"));
    let _ = writeln!(text, "== {title}\n{body}\n");
}
