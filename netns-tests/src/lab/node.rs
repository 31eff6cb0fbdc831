//! A node: a namespace with bridges, an interface in each underlay, and a daemon.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde_json::Value;

use super::spec::{NodeSpec, UnderlaySpec};
use crate::daemon::{Daemon, switchctl_bin, switchd_bin};
use crate::ns::Namespace;
use crate::wait::{wait_for, wait_ok};
use crate::{SwitchdConfig, cmd, ctl};

/// A node of a [`super::Lab`].
#[derive(Debug)]
pub struct Node {
    number: usize,
    spec: NodeSpec,
    ns: Namespace,
    dir: PathBuf,
    daemon: Mutex<Option<Daemon>>,
}

impl Node {
    pub(super) fn new(number: usize, spec: NodeSpec, ns: Namespace, dir: PathBuf) -> Node {
        Node { number, spec, ns, dir, daemon: Mutex::new(None) }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// What it was built from.
    pub fn spec(&self) -> &NodeSpec {
        &self.spec
    }

    /// Its namespace.
    pub fn ns(&self) -> &Namespace {
        &self.ns
    }

    /// Folder with its configuration, key, socket and log.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its IPv4 address in underlay `i`: 10.99.i.n, where n counts nodes from 1.
    pub fn underlay_v4(&self, i: usize) -> IpAddr {
        IpAddr::from([10, 99, i as u8, self.number as u8])
    }

    /// Its IPv6 address in underlay `i`: fd99:i::n.
    pub fn underlay_v6(&self, i: usize) -> IpAddr {
        IpAddr::from([0xfd99, i as u16, 0, 0, 0, 0, 0, self.number as u16])
    }

    /// Where its daemon listens, by IPv4 in underlay `i`.
    pub fn underlay_socket(&self, i: usize) -> String {
        SocketAddr::new(self.underlay_v4(i), PORT).to_string()
    }

    /// Where its daemon listens, by IPv6 in underlay `i`.
    pub fn underlay_socket_v6(&self, i: usize) -> String {
        SocketAddr::new(self.underlay_v6(i), PORT).to_string()
    }

    /// Makes a bridge with a pinned MAC: an unpinned one takes its ports', and its neighbours go stale.
    pub fn create_bridge(&self, bridge: &str) -> Result<()> {
        let mac = format!("02:bb:{:02x}:{}", self.number, short_hash(bridge));
        self.ns.ip_batch(&format!(
            "link add {bridge} address {mac} type bridge mcast_snooping 0\nlink set {bridge} up\n"
        ))
    }

    /// Puts the ports of this node's instances of `network` into `bridge`.
    pub fn attach_instances(&self, network: &str, bridge: &str) -> Result<()> {
        let spec = self.spec.bridges.iter().find(|b| b.network == network);
        let spec = spec.ok_or_else(|| anyhow!("{} has no network {network}", self.name()))?;
        spec.instances
            .iter()
            .try_for_each(|i| self.ns.ip(&format!("link set v-{} master {bridge}", i.name)).map(drop))
    }

    /// Writes configuration and starts the daemon. Its readiness is not waited for.
    pub fn start_switchd(&self, config: &SwitchdConfig) -> Result<()> {
        self.start_switchd_text(&config.to_toml())
    }

    /// Like [`Node::start_switchd`], from the text of a configuration.
    pub fn start_switchd_text(&self, toml: &str) -> Result<()> {
        self.write_config(toml)?;
        self.restart()
    }

    /// Writes the configuration file only.
    pub fn write_config(&self, toml: &str) -> Result<()> {
        let path = self.config_path();
        std::fs::write(&path, toml).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Starts the daemon with the configuration that is there; what still runs is killed first.
    pub fn restart(&self) -> Result<()> {
        self.kill9();
        let (bin, config) = (switchd_bin()?.display().to_string(), self.config_path().display().to_string());
        let daemon = Daemon::start(&self.ns, &[&bin, "run", "--config", &config], &self.log_path())?;
        *self.slot() = Some(daemon);
        Ok(())
    }

    /// SIGKILL to the daemon, if it runs.
    pub fn kill9(&self) {
        if let Some(mut daemon) = self.slot().take() {
            daemon.kill9();
        }
    }

    /// SIGTERM to the daemon, and waits for its end; an error if it ends badly or not within five seconds.
    pub fn terminate(&self) -> Result<()> {
        let daemon = self.slot().take();
        daemon.ok_or_else(|| anyhow!("no daemon runs on {}", self.name()))?.terminate()
    }

    /// SIGHUP to the daemon: it reads its configuration again.
    pub fn reload(&self) -> Result<()> {
        self.slot().as_ref().ok_or_else(|| anyhow!("no daemon runs on {}", self.name()))?.hangup()
    }

    /// Process id of the daemon.
    pub fn switchd_pid(&self) -> Result<u32> {
        Ok(self.slot().as_ref().ok_or_else(|| anyhow!("no daemon runs on {}", self.name()))?.pid())
    }

    /// True while the daemon runs.
    pub fn switchd_runs(&self) -> bool {
        self.slot().as_mut().is_some_and(Daemon::runs)
    }

    /// What `switchctl --json <args>` answers.
    pub fn ctl(&self, args: &[&str]) -> Result<Value> {
        let text = self.ctl_text(&[&["--json"], args].concat())?;
        serde_json::from_str(&text).with_context(|| format!("switchctl {args:?} printed no JSON: {text}"))
    }

    /// What `switchctl <args>` prints.
    pub fn ctl_text(&self, args: &[&str]) -> Result<String> {
        let bin = switchctl_bin()?.display().to_string();
        let socket = self.socket_path().display().to_string();
        cmd::run(&[&[bin.as_str(), "--socket", &socket], args].concat())
    }

    /// The counters, as `switchctl --json stats` gives them.
    pub fn stats(&self) -> Result<Value> {
        self.ctl(&["stats"])
    }

    /// Waits until the daemon says that it is ready.
    pub fn wait_ready(&self) -> Result<()> {
        wait_ok(&format!("switchd on {} to be ready", self.name()), READY_WITHIN, || {
            if !self.switchd_runs() {
                return Err(anyhow!("switchd on {} ended:\n{}", self.name(), self.log_tail(15)));
            }
            let status = self.ctl(&["status"])?;
            if ctl::ready(&status) { Ok(()) } else { Err(anyhow!("not ready: {status}")) }
        })
    }

    /// Waits until the link to `peer` is up, or not up.
    pub fn wait_link(&self, peer: &str, up: bool) -> Result<Duration> {
        let word = if up { "up" } else { "down" };
        wait_for(&format!("the link from {} to {peer} to be {word}", self.name()), READY_WITHIN, || {
            self.ctl(&["links"]).is_ok_and(|links| ctl::link_up(&links, peer) == up)
        })
    }

    /// The public key, after making a key pair with `switchd keygen` if there is none yet.
    pub fn public_key(&self) -> Result<String> {
        let bin = switchd_bin()?.display().to_string();
        let key = self.dir.join(KEY_FILE).display().to_string();
        if !Path::new(&key).exists() {
            cmd::run(&[&bin, "keygen", "--out", &key])?;
        }
        Ok(cmd::run(&[&bin, "pubkey", "--key", &key])?.trim().to_owned())
    }

    /// Where its configuration is.
    pub fn config_path(&self) -> PathBuf {
        self.dir.join("switchd.toml")
    }

    /// Where its admin socket is.
    pub fn socket_path(&self) -> PathBuf {
        self.dir.join(SOCKET_FILE)
    }

    /// Where its daemon's log is.
    pub fn log_path(&self) -> PathBuf {
        self.dir.join("switchd.log")
    }

    /// The last lines of the daemon's log.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = std::fs::read_to_string(self.log_path()).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Lets the daemon outlive this process.
    pub(super) fn leave_running(&self) {
        if let Some(daemon) = self.slot().take() {
            daemon.leave_running();
        }
    }

    pub(super) fn join_underlay(&self, i: usize, spec: &UnderlaySpec, underlay: &Namespace) -> Result<()> {
        let (n, node, mtu) = (self.number, self.ns.name(), spec.mtu);
        let port_mtu = spec.hidden_mtu.unwrap_or(mtu);
        underlay.ip_batch(&format!(
            "link add p{n} mtu {port_mtu} type veth peer name eth{i} address 02:ee:00:{i:02x}:00:{n:02x} mtu {mtu} \
             netns {node}\nlink set p{n} master br0\nlink set p{n} up\n"
        ))?;
        self.ns.ip_batch(&format!(
            "addr add {}/24 dev eth{i}\naddr add {}/64 dev eth{i} nodad\nlink set eth{i} up\n",
            self.underlay_v4(i),
            self.underlay_v6(i)
        ))?;
        if spec.loss_percent > 0.0 || spec.hidden_mtu.is_some() {
            let eth = format!("eth{i}");
            self.ns.exec(&["ethtool", "-K", &eth, "tx-udp-segmentation", "off"])?;
        }
        Ok(())
    }

    fn slot(&self) -> MutexGuard<'_, Option<Daemon>> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Three bytes of a MAC that differ between a node's bridges.
fn short_hash(text: &str) -> String {
    let sum = text.bytes().fold(7u32, |h, b| h.wrapping_mul(31).wrapping_add(u32::from(b)));
    let [_, a, b, c] = sum.to_be_bytes();
    format!("{a:02x}:{b:02x}:{c:02x}")
}

/// UDP port of every daemon in the lab.
pub(crate) const PORT: u16 = 4840;
pub(crate) const KEY_FILE: &str = "private.key";
pub(crate) const SOCKET_FILE: &str = "switchd.sock";
const READY_WITHIN: Duration = Duration::from_secs(10);
