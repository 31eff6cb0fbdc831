//! What is kept of a lab whose test failed.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use crate::lab::{Instance, Lab, Node, target_dir};

/// Writes the state of every node and instance, and their daemons' logs, under `target/netns-failures/<lab>/`.
pub(crate) fn keep(lab: &Lab) {
    let dir = target_dir().join("netns-failures").join(&lab.spec().name);
    let _ = fs::remove_dir_all(&dir);
    if let Err(error) = fs::create_dir_all(&dir) {
        eprintln!("cannot keep evidence in {}: {error}", dir.display());
        return;
    }
    for node in lab.nodes() {
        keep_node(node, &dir);
    }
    for instance in lab.instances() {
        keep_instance(instance, &dir);
    }
    keep_captures(lab.dir(), &dir);
    eprintln!("evidence kept in {}", dir.display());
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
