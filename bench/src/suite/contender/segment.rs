//! A network of a contender's own: a bridge on each node and an interface in each end's instance.

use std::net::IpAddr;

use anyhow::Result;
use netns_tests::{Instance, Lab, Node};

use super::{CLIENT, SERVER};
use crate::suite::Arena;

/// A contender's own network, which touches no other's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    /// The bridge is `br-<tag>`, an instance's interface `<tag>0`. At most eight bytes.
    pub(super) tag: &'static str,
    /// An instance has 10.`subnet`.0.x/24, where its first address is 10.0.0.x.
    pub(super) subnet: u8,
    /// Of the instances' interfaces and whatever is attached.
    pub(super) mtu: u32,
}

impl Segment {
    /// Makes bridges and interfaces.
    pub(super) fn build(&self, lab: &Lab) -> Result<()> {
        let Segment { tag, mtu, .. } = self;
        for name in [CLIENT, SERVER] {
            let instance = lab.instance(name)?;
            let node = lab.node(instance.node())?;
            node.create_bridge(&format!("br-{tag}"))?;
            node.ns().ip_batch(&format!(
                "link add {tag}-{name} mtu {mtu} type veth peer name {tag}0 mtu {mtu} netns {}\n\
                 link set {tag}-{name} master br-{tag}\nlink set {tag}-{name} up\n",
                instance.ns().name()
            ))?;
            self.address_interface(instance)?;
        }
        Ok(())
    }

    /// Puts the contender's device on `node` into the bridge.
    pub(super) fn attach(&self, node: &Node, device: &str) -> Result<()> {
        node.ns().sysctl(&format!("net/ipv6/conf/{device}/disable_ipv6"), "1")?;
        let Segment { tag, mtu, .. } = self;
        node.ns().ip(&format!("link set {device} mtu {mtu} master br-{tag} up")).map(drop)
    }

    /// Instead of bridge and interface: the contender's device itself becomes the instance's interface.
    pub(super) fn hand_over(&self, lab: &Lab, instance: &Instance, device: &str) -> Result<()> {
        let Segment { tag, mtu, .. } = self;
        lab.node(instance.node())?
            .ns()
            .ip(&format!("link set {device} mtu {mtu} name {tag}0 netns {}", instance.ns().name()))?;
        self.address_interface(instance)
    }

    /// The ends in this network.
    pub(super) fn arena<'a>(&self, lab: &'a Lab, contender: &'static str) -> Result<Arena<'a>> {
        let (client, server) = (lab.instance(CLIENT)?, lab.instance(SERVER)?);
        Ok(Arena {
            contender,
            client: client.ns(),
            server: server.ns(),
            address: self.address(server)?,
            client_address: self.address(client)?,
            daemons: Vec::new(),
            encrypted: true,
        })
    }

    /// An instance's address in it.
    pub(super) fn address(&self, instance: &Instance) -> Result<IpAddr> {
        Ok(match instance.v4()? {
            IpAddr::V4(v4) => IpAddr::from([10, self.subnet, 0, v4.octets()[3]]),
            v6 => v6,
        })
    }

    fn address_interface(&self, instance: &Instance) -> Result<()> {
        let (tag, address) = (self.tag, self.address(instance)?);
        instance.ns().ip_batch(&format!("addr add {address}/24 dev {tag}0\nlink set {tag}0 up\n"))
    }
}
