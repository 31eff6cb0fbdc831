//! An instance: a namespace with one interface in a node's bridge.

use std::net::IpAddr;

use anyhow::{Result, anyhow};

use super::node::Node;
use super::spec::InstanceSpec;
use crate::frames::Mac;
use crate::ns::Namespace;

/// An instance of a [`super::Lab`].
#[derive(Debug)]
pub struct Instance {
    spec: InstanceSpec,
    network: String,
    node: String,
    ns: Namespace,
}

impl Instance {
    pub(super) fn new(spec: InstanceSpec, network: &str, node: &str, ns: Namespace) -> Instance {
        Instance { spec, network: network.to_owned(), node: node.to_owned(), ns }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Its network.
    pub fn network(&self) -> &str {
        &self.network
    }

    /// The name of the node it lives on.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Its namespace.
    pub fn ns(&self) -> &Namespace {
        &self.ns
    }

    /// The port on the node's bridge that leads to it.
    pub fn port(&self) -> String {
        format!("v-{}", self.spec.name)
    }

    /// MAC of `eth0`.
    pub fn mac(&self) -> Result<Mac> {
        self.spec.mac.parse()
    }

    /// Its first IPv4 address.
    pub fn v4(&self) -> Result<IpAddr> {
        self.address(IpAddr::is_ipv4)
    }

    /// Its first IPv6 address.
    pub fn v6(&self) -> Result<IpAddr> {
        self.address(IpAddr::is_ipv6)
    }

    /// Both, as rows for tables of tests.
    pub fn both(&self) -> Result<[IpAddr; 2]> {
        Ok([self.v4()?, self.v6()?])
    }

    /// Its neighbour table, as `ip neigh` prints it.
    pub fn neighbours(&self) -> Result<String> {
        self.ns.ip("neigh show")
    }

    /// Forgets its neighbours, static ones aside.
    pub fn flush_neighbours(&self) -> Result<()> {
        self.ns.ip("neigh flush dev eth0").map(drop)
    }

    /// Moves the instance to another node's bridge with its MAC and addresses, as a migration would. Nothing is
    /// announced.
    pub fn move_to(&self, from: &Node, to: &Node, bridge: &str) -> Result<()> {
        from.ns().ip(&format!("link del {}", self.port()))?;
        self.plug(to, Some(bridge))
    }

    fn address(&self, want: impl Fn(&IpAddr) -> bool) -> Result<IpAddr> {
        let parsed = self.spec.ips.iter().filter_map(|cidr| cidr.split('/').next()?.parse().ok());
        parsed.into_iter().find(want).ok_or_else(|| anyhow!("{} has no such address", self.name()))
    }

    pub(super) fn plug(&self, node: &Node, bridge: Option<&str>) -> Result<()> {
        let InstanceSpec { mac, mtu, ips, .. } = &self.spec;
        let port = self.port();
        let master = bridge.map(|b| format!("link set {port} master {b}\n")).unwrap_or_default();
        node.ns().ip_batch(&format!(
            "link add {port} mtu {mtu} type veth peer name eth0 address {mac} mtu {mtu} netns {}\n\
             {master}link set {port} up\n",
            self.ns.name()
        ))?;
        // The node's own stack is no guest of the bridge: without this it would send ND of its own from the port.
        node.ns().sysctl(&format!("net/ipv6/conf/{port}/disable_ipv6"), "1")?;
        let addresses: String = ips
            .iter()
            .map(|ip| format!("addr add {ip} dev eth0{}\n", if ip.contains(':') { " nodad" } else { "" }))
            .collect();
        self.ns.ip_batch(&format!("{addresses}link set eth0 up\n"))
    }
}
