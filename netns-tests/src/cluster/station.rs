//! A station that nobody told the controller of: a namespace plugged into a node's bridge by hand.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use super::{Cluster, Member};
use crate::ctl;
use crate::ns::Namespace;
use crate::wait::wait_ok;

/// A station; its namespace goes with it.
#[derive(Debug)]
pub struct Station {
    ns: Namespace,
    number: u8,
}

impl Station {
    /// Makes it, plugged in nowhere. Its MAC is 02:de:ad:00:00:n.
    pub fn create(cluster: &Cluster, number: u8) -> Result<Station> {
        Ok(Station { ns: Namespace::create(&format!("{}st{number}", cluster.prefix))?, number })
    }

    /// Its namespace; `eth0` is there while it is plugged in.
    pub fn ns(&self) -> &Namespace {
        &self.ns
    }

    /// Its MAC.
    pub fn mac(&self) -> String {
        format!("02:de:ad:00:00:{:02x}", self.number)
    }

    /// Plugs it into the bridge of `network` on a node, with the address `ip` (CIDR).
    pub fn plug(&self, cluster: &Cluster, member: &Member, network: &str, ip: &str) -> Result<()> {
        let node = member.node(cluster)?;
        let bridge = wait_ok("the network's bridge", super::READY_WITHIN, || {
            let status = node.ctl(&["status"])?;
            let row = ctl::rows(&status, "networks").iter().find(|row| row["name"] == network);
            row.and_then(|row| row["bridge"].as_str().map(str::to_owned))
                .ok_or_else(|| anyhow!("{} has no network {network} yet", member.name()))
        })?;
        let port = self.port();
        node.ns().ip_batch(&format!(
            "link add {port} type veth peer name eth0 address {} netns {}\nlink set {port} master {bridge}\n\
             link set {port} up\n",
            self.mac(),
            self.ns.name()
        ))?;
        node.ns().sysctl(&format!("net/ipv6/conf/{port}/disable_ipv6"), "1")?;
        self.ns.sysctl("net/ipv6/conf/eth0/disable_ipv6", "1")?;
        self.ns.ip_batch(&format!("addr add {ip} dev eth0\nlink set eth0 up\n"))
    }

    /// Pulls it out.
    pub fn unplug(&self, cluster: &Cluster, member: &Member) -> Result<()> {
        member.node(cluster)?.ns().ip(&format!("link del {}", self.port())).map(drop)
    }

    /// Sends a frame that everybody sees: a question for an address that nobody has.
    pub fn speak(&self) -> Result<()> {
        self.ns.finish(&["ping", "-n", "-c", "1", "-W", "0.01", NOBODY], LIMIT).context("ping").map(drop)
    }

    fn port(&self) -> String {
        format!("v-st{}", self.number)
    }
}

impl Drop for Station {
    fn drop(&mut self) {
        self.ns.delete();
    }
}

/// In the /24 of every station of the tests.
const NOBODY: &str = "10.0.0.254";
const LIMIT: Duration = Duration::from_secs(5);
