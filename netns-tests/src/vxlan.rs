//! Plaintext kernel VXLAN on the namespaces of a lab, to compare with.

use std::net::IpAddr;

use anyhow::Result;

use crate::lab::{Instance, Lab, Node};

/// Gives every instance of the lab's first network a second interface `vx0`, in a bridge `br-vx` of its node whose
/// VXLAN device reaches all other nodes over underlay 0, offloads as the kernel sets them.
///
/// The instances' MTU there is the underlay's less 50, so that VXLAN's packets fit: VXLAN fragments nothing.
pub fn build(lab: &Lab) -> Result<()> {
    let mtu = lab.spec().underlays[0].mtu - OVERHEAD;
    for node in lab.nodes() {
        let local = node.underlay_v4(0);
        let pin = node.underlay_v4(0).to_string().rsplit('.').next().unwrap_or("0").to_owned();
        node.ns().ip_batch(&format!(
            "link add br-vx address 02:bf:00:00:00:{pin:0>2} type bridge mcast_snooping 0\n\
             link add vx type vxlan id 4242 dev eth0 local {local} dstport 4789\n\
             link set vx mtu {mtu} master br-vx up\nlink set br-vx up\n"
        ))?;
        for peer in others(lab, node) {
            node.ns().bridge(&format!("fdb append 00:00:00:00:00:00 dev vx dst {}", peer.underlay_v4(0)))?;
        }
    }
    for instance in members(lab) {
        let (node, name) = (lab.node(instance.node())?, instance.name());
        node.ns().ip_batch(&format!(
            "link add x-{name} mtu {mtu} type veth peer name vx0 mtu {mtu} netns {}\n\
             link set x-{name} master br-vx up\n",
            instance.ns().name()
        ))?;
        instance.ns().ip_batch(&format!("addr add {}/24 dev vx0\nlink set vx0 up\n", address(instance)?))?;
    }
    Ok(())
}

/// The address on `vx0`: 10.9.0.x where the instance's own is 10.0.0.x.
pub fn address(instance: &Instance) -> Result<IpAddr> {
    Ok(match instance.v4()? {
        IpAddr::V4(v4) => IpAddr::from([10, 9, 0, v4.octets()[3]]),
        v6 => v6,
    })
}

fn others<'a>(lab: &'a Lab, node: &'a Node) -> impl Iterator<Item = &'a Node> {
    lab.nodes().iter().filter(|other| other.name() != node.name())
}

fn members(lab: &Lab) -> impl Iterator<Item = &Instance> {
    let first = lab.spec().nodes.first().and_then(|n| n.bridges.first()).map(|b| b.network.clone());
    lab.instances().iter().filter(move |i| Some(i.network()) == first.as_deref())
}

/// Outer IPv4, UDP and VXLAN headers and the inner Ethernet header (RFC 7348), in bytes.
pub const OVERHEAD: u32 = 20 + 8 + 8 + 14;
