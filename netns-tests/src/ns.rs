//! One network namespace: its life, commands in it, and code that runs inside it.

use std::fs::File;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};

use crate::cmd::{self, Finished};

/// A named network namespace (`ip netns`).
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes the namespace, with loopback up, and without the host's netfilter looking at bridged frames.
    pub fn create(name: &str) -> Result<Namespace> {
        cmd::run(&["ip", "netns", "add", name])?;
        let ns = Namespace { name: name.to_owned() };
        ns.ip("link set lo up")?;
        // br_netfilter passes bridged frames through iptables, per namespace and on by default.
        for key in ["call-iptables", "call-ip6tables", "call-arptables"] {
            ns.sysctl(&format!("net/bridge/bridge-nf-{key}"), "0")?;
        }
        // The lab's addresses are its own: nobody else can hold them, and tests must not wait for DAD.
        for scope in ["all", "default"] {
            ns.sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0")?;
            ns.sysctl(&format!("net/ipv6/conf/{scope}/router_solicitation_delay"), "0")?;
        }
        Ok(ns)
    }

    /// A namespace that exists already.
    pub fn existing(name: &str) -> Namespace {
        Namespace { name: name.to_owned() }
    }

    /// Its name for `ip netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Kills what still runs in it and deletes it. Errors are ignored: a second delete is no harm.
    pub fn delete(&self) {
        if let Ok(pids) = cmd::run(&["ip", "netns", "pids", &self.name]) {
            for pid in pids.split_whitespace().filter_map(|p| p.parse().ok()) {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
            }
        }
        let _ = cmd::run(&["ip", "netns", "del", &self.name]);
    }

    /// `ip <args>` in this namespace; `args` are split at blanks.
    pub fn ip(&self, args: &str) -> Result<String> {
        let mut full = vec!["ip", "-n", &self.name];
        full.extend(args.split_whitespace());
        cmd::run(&full)
    }

    /// Many `ip` commands, one a line, in one process; stops at the first error.
    pub fn ip_batch(&self, lines: &str) -> Result<()> {
        cmd::run_with_input(&["ip", "-n", &self.name, "-batch", "-"], Some(lines)).map(drop)
    }

    /// `bridge <args>` in this namespace.
    pub fn bridge(&self, args: &str) -> Result<String> {
        let mut full = vec!["bridge", "-n", &self.name];
        full.extend(args.split_whitespace());
        cmd::run(&full)
    }

    /// Runs a command in the namespace and returns its standard output; its failure is an error.
    pub fn exec<S: AsRef<str>>(&self, args: &[S]) -> Result<String> {
        cmd::run(&self.wrap(args))
    }

    /// Runs a command in the namespace to its end, whatever its exit status.
    pub fn finish<S: AsRef<str>>(&self, args: &[S], limit: Duration) -> Result<Finished> {
        cmd::finish(&self.wrap(args), None, limit)
    }

    /// Loads an nftables rule set (text as for `nft -f`).
    pub fn nft(&self, rules: &str) -> Result<()> {
        cmd::run_with_input(&self.wrap(&["nft", "-f", "-"]), Some(rules)).map(drop)
    }

    /// Starts a command in the namespace, its output to `log`. `ip netns exec` becomes the command itself, so the
    /// child's pid is the command's.
    pub fn spawn<S: AsRef<str>>(&self, args: &[S], log: &File) -> Result<Child> {
        self.start(&self.wrap(args), log)
    }

    /// The same, but only the network namespace is entered: `ip netns exec` mounts a /sys of its own.
    pub fn spawn_with_host_mounts<S: AsRef<str>>(&self, args: &[S], log: &File) -> Result<Child> {
        let mut full = vec!["nsenter".to_owned(), format!("--net=/run/netns/{}", self.name)];
        full.extend(args.iter().map(|a| a.as_ref().to_owned()));
        self.start(&full, log)
    }

    fn start(&self, args: &[String], log: &File) -> Result<Child> {
        cmd::command(args)?
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log.try_clone()?)
            .spawn()
            .with_context(|| format!("cannot start `{}` in {}", args.join(" "), self.name))
    }

    /// Runs `body` on a thread inside the namespace. Sockets made there stay in the namespace when they leave it.
    pub fn enter<T: Send>(&self, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    let file = File::open(format!("/run/netns/{}", self.name))
                        .with_context(|| format!("no namespace {}", self.name))?;
                    setns(&file, CloneFlags::CLONE_NEWNET)
                        .with_context(|| format!("cannot enter {}", self.name))?;
                    body()
                })
                .join()
                .map_err(|_| anyhow!("a thread in {} panicked", self.name))?
        })
    }

    /// Sets a sysctl (`net/...`) if this kernel has it.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{key}");
        self.enter(|| match std::fs::write(&path, value) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            result => result.with_context(|| format!("cannot set {path}")),
        })
    }

    fn wrap<S: AsRef<str>>(&self, args: &[S]) -> Vec<String> {
        let mut full: Vec<String> = ["ip", "netns", "exec", &self.name].map(str::to_owned).into();
        full.extend(args.iter().map(|a| a.as_ref().to_owned()));
        full
    }
}
