//! Makes and ends a machine. What it consists of is recorded before it is made, so that a run that was killed can be
//! cleaned up and repeated.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, Permissions};
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use controller::provider::Request;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::namespace::{Namespace, ip};
use crate::processes::{self, Process};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Machine {
    node: String,
    operation: String,
    namespace: String,
    port: String,
    address: Ipv4Addr,
    processes: Vec<Process>,
    ready: bool,
}

/// Makes the machine of a node and lets it join. The same operation again finds it ready, or makes it anew.
pub(crate) fn create(
    config: &Config,
    request: &Request,
    progress: impl Fn(u8, &str),
) -> anyhow::Result<(String, String)> {
    let token = request.join_token.as_deref().context("the request has no join_token")?;
    let dir = directory(config, &request.node)?;
    let _lock = lock(config)?;
    if let Some(machine) = load(&dir)? {
        let whole = machine.ready && machine.processes.iter().all(|process| process.runs());
        if whole && machine.operation == request.operation {
            return Ok((machine.namespace.clone(), format!("{} was ready already", machine.address)));
        }
        clear(config, &machine, &dir)?;
    }
    let (address, length) = free_address(config)?;
    let mut machine = Machine {
        node: request.node.clone(),
        operation: request.operation.clone(),
        namespace: format!("{}{}", config.prefix, request.name),
        port: port_name(&config.prefix, &request.node),
        address,
        processes: Vec::new(),
        ready: false,
    };
    let made = make(config, request, &mut machine, &dir, length, token, &progress);
    if let Err(error) = made {
        // Nothing half-made stays; the error that counts is the first one.
        let _ = clear(config, &machine, &dir);
        return Err(error);
    }
    Ok((machine.namespace.clone(), format!("namespace {}, address {address}", machine.namespace)))
}

/// Ends the machine of a node. One that is not there is no error.
pub(crate) fn destroy(config: &Config, request: &Request) -> anyhow::Result<(String, String)> {
    let dir = directory(config, &request.node)?;
    let _lock = lock(config)?;
    match load(&dir)? {
        Some(machine) => {
            clear(config, &machine, &dir)?;
            Ok((machine.namespace.clone(), format!("namespace {} removed", machine.namespace)))
        }
        None => Ok((request.id.clone().unwrap_or_default(), "it was not there".to_owned())),
    }
}

fn make(
    config: &Config,
    request: &Request,
    machine: &mut Machine,
    dir: &Path,
    length: u8,
    token: &str,
    progress: &impl Fn(u8, &str),
) -> anyhow::Result<()> {
    let namespace = Namespace { name: machine.namespace.clone() };
    if namespace.exists() {
        bail!(
            "the namespace {} is there already and is not this provider's: ip netns del {0}",
            namespace.name
        );
    }
    make_dir(dir)?;
    save(machine, dir)?;
    progress(10, "making the namespace");
    namespace.make()?;
    let address = format!("{}/{length}", machine.address);
    namespace.attach(&config.underlay_namespace, &config.underlay_bridge, &machine.port, &address)?;

    let fill = |text: &str| {
        text.replace("{dir}", &dir.to_string_lossy())
            .replace("{binaries}", &config.binaries.to_string_lossy())
            .replace("{node}", &request.node)
            .replace("{name}", &request.name)
            .replace("{address}", &machine.address.to_string())
    };
    for (name, content) in &config.files {
        std::fs::write(dir.join(name), fill(content)).with_context(|| format!("writing {name}"))?;
    }
    progress(30, "joining");
    if !config.join.is_empty() {
        let command = command(&config.join, &fill, &machine.namespace, dir)?;
        namespace.run(command, &format!("{token}\n"))?;
    }
    progress(60, "starting the daemons");
    for (i, words) in config.run.iter().enumerate() {
        let mut command = command(words, &fill, &machine.namespace, dir)?;
        let log = File::create(dir.join(format!("daemon-{i}.log"))).context("making a log file")?;
        let log_too = log.try_clone().context("making a log file")?;
        command.stdin(Stdio::null()).stdout(log).stderr(log_too).process_group(0);
        let child = namespace.spawn(command)?;
        let pid = child.id().cast_signed();
        let process =
            Process::of(pid).with_context(|| format!("{} ended at once, see daemon-{i}.log", words[0]))?;
        std::fs::write(dir.join(format!("daemon-{i}.pid")), format!("{pid}\n"))
            .context("writing a pid file")?;
        machine.processes.push(process);
        save(machine, dir)?;
    }
    machine.ready = true;
    save(machine, dir)
}

fn command(
    words: &[String],
    fill: &impl Fn(&str) -> String,
    mark: &str,
    dir: &Path,
) -> anyhow::Result<Command> {
    let (program, arguments) = words.split_first().context("join and run hold no empty command")?;
    let mut command = Command::new(fill(program));
    command.args(arguments.iter().map(|word| fill(word))).current_dir(dir).env(MARK, mark);
    Ok(command)
}

fn clear(config: &Config, machine: &Machine, dir: &Path) -> anyhow::Result<()> {
    let namespace = Namespace { name: machine.namespace.clone() };
    let inside = if namespace.exists() { namespace.pids() } else { Vec::new() };
    processes::end(&machine.processes, &inside, (MARK, &machine.namespace));
    // The port goes with its other end, but only once the kernel has torn the namespace down.
    let place: &[&str] =
        if config.underlay_namespace.is_empty() { &[] } else { &["-n", &config.underlay_namespace] };
    let _ = ip(&[place, &["link", "del", &machine.port]].concat());
    namespace.remove()?;
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", dir.display()))
        }
        _ => Ok(()),
    }
}

fn free_address(config: &Config) -> anyhow::Result<(Ipv4Addr, u8)> {
    let (first, count, length) = config.subnet()?;
    let mut taken = BTreeSet::new();
    for entry in std::fs::read_dir(&config.state_dir).context("reading state_dir")?.flatten() {
        if let Some(machine) = load(&entry.path())? {
            taken.insert(machine.address);
        }
    }
    (first..first + count)
        .map(Ipv4Addr::from_bits)
        .find(|address| !taken.contains(address))
        .map(|address| (address, length))
        .context("no address is free: remove nodes, or give `addresses` a larger range")
}

fn directory(config: &Config, node: &str) -> anyhow::Result<PathBuf> {
    let plain = !node.is_empty() && node.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    anyhow::ensure!(plain, "node: {node:?} is no node's id");
    Ok(config.state_dir.join(node))
}

fn make_dir(dir: &Path) -> anyhow::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(dir).with_context(|| format!("making {}", dir.display()))
}

/// One run at a time: addresses are chosen from what is recorded.
fn lock(config: &Config) -> anyhow::Result<Flock<File>> {
    make_dir(&config.state_dir)?;
    let path = config.state_dir.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .context("opening the lock")?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error).context("taking the lock")
}

fn load(dir: &Path) -> anyhow::Result<Option<Machine>> {
    match std::fs::read(dir.join(RECORD)) {
        Ok(text) => Ok(Some(
            serde_json::from_slice(&text).with_context(|| format!("in {}", dir.join(RECORD).display()))?,
        )),
        Err(_) => Ok(None),
    }
}

fn save(machine: &Machine, dir: &Path) -> anyhow::Result<()> {
    let temporary = dir.join("machine.new");
    let text = serde_json::to_vec_pretty(machine).context("writing the record")?;
    std::fs::write(&temporary, text).context("writing the record")?;
    std::fs::set_permissions(&temporary, Permissions::from_mode(0o600)).context("writing the record")?;
    std::fs::rename(&temporary, dir.join(RECORD)).context("writing the record")
}

/// Names of devices have 15 characters at most, so the prefix goes in as a hash: several labs share a host.
fn port_name(prefix: &str, node: &str) -> String {
    let hash =
        prefix.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("p{:05x}-{}", hash & 0xf_ffff, node.trim_start_matches("node-"))
}

const RECORD: &str = "machine.json";
/// In the environment of everything that a machine runs.
const MARK: &str = "PROVIDER_NETNS_MACHINE";
