//! A machine's network namespace and its way into the underlay, by `ip`.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};
use nix::sched::{CloneFlags, setns};

/// A named network namespace.
#[derive(Clone, Debug)]
pub(crate) struct Namespace {
    pub(crate) name: String,
}

impl Namespace {
    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    pub(crate) fn exists(&self) -> bool {
        self.path().exists()
    }

    pub(crate) fn make(&self) -> anyhow::Result<()> {
        ip(&["netns", "add", &self.name])?;
        ip(&["-n", &self.name, "link", "set", "lo", "up"])
    }

    pub(crate) fn remove(&self) -> anyhow::Result<()> {
        if self.exists() { ip(&["netns", "del", &self.name]) } else { Ok(()) }
    }

    /// A veth pair: `eth0` here with the address, the other end a port of the bridge.
    pub(crate) fn attach(
        &self,
        underlay: &str,
        bridge: &str,
        port: &str,
        address: &str,
    ) -> anyhow::Result<()> {
        let at = |words: &[&str]| {
            let place: &[&str] = if underlay.is_empty() { &[] } else { &["-n", underlay] };
            ip(&[place, words].concat())
        };
        at(&["link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", &self.name])?;
        at(&["link", "set", port, "master", bridge, "up"])
            .with_context(|| format!("is underlay_bridge {bridge:?} in underlay_namespace {underlay:?}?"))?;
        ip(&["-n", &self.name, "addr", "add", address, "dev", "eth0"])?;
        ip(&["-n", &self.name, "link", "set", "eth0", "up"])
    }

    /// Starts a program inside. Only the network namespace is entered: unlike under `ip netns exec`, what the program
    /// mounts, namespaces among it, is seen outside.
    pub(crate) fn spawn(&self, mut command: Command) -> anyhow::Result<Child> {
        let file = File::open(self.path()).with_context(|| format!("opening the namespace {}", self.name))?;
        // A thread of its own, since entering is for the thread's life.
        let thread = std::thread::spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).context("entering the namespace (needs CAP_SYS_ADMIN)")?;
            command.spawn().with_context(|| format!("starting {}", command.get_program().to_string_lossy()))
        });
        match thread.join() {
            Ok(child) => child,
            Err(_) => bail!("the thread in the namespace {} ended", self.name),
        }
    }

    /// Runs a program inside to its end, with `input` on its stdin.
    pub(crate) fn run(&self, mut command: Command, input: &str) -> anyhow::Result<()> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = self.spawn(command)?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that ends without reading says why below.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output().with_context(|| format!("waiting for {name}"))?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "{name} failed ({}): {}", output.status, stderr.trim());
        Ok(())
    }

    /// Processes that are in it.
    pub(crate) fn pids(&self) -> Vec<i32> {
        let output = Command::new("ip").args(["netns", "pids", &self.name]).output();
        let text =
            output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }
}

pub(crate) fn ip(words: &[&str]) -> anyhow::Result<()> {
    let output =
        Command::new("ip").args(words).stdin(Stdio::null()).output().context("running `ip` (iproute2)")?;
    if !output.status.success() {
        bail!("`ip {}` failed: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
