//! Networks.

use std::{collections::BTreeSet, net::IpAddr};

use crate::{
    changelog::Entry,
    changes::EventKind,
    command::{NetworkUpdate, NewNetwork, Outcome},
    ids::{NodeId, Vni},
    records::{Dhcp, Membership, Network, NodeState, RecordKey, Subnet},
    refusal::Refusal,
    registry::Registry,
};

/// What the switch takes: from what IPv6 needs (RFC 8200, section 5) to the largest frame of an endpoint.
const MTU: std::ops::RangeInclusive<u32> = 1280..=9216;
/// The first VNI that is chosen here; lower ones are for operators who number by hand.
const FIRST_VNI: u32 = 100;

impl Registry {
    pub(crate) fn create_network(&mut self, new: NewNetwork) -> Result<Outcome, Refusal> {
        self.check_network_name(&new.name)?;
        let nodes = self.membership(new.nodes.as_deref())?;
        let vni = match new.vni {
            Some(vni) => self.check_vni(vni)?,
            None => self.free_vni()?,
        };
        let network = Network {
            vni,
            name: new.name,
            mode: new.mode,
            mtu: new.mtu,
            subnet_v4: new.subnet_v4,
            subnet_v6: new.subnet_v6,
            gateways: new.gateways,
            dhcp: new.dhcp,
            anti_spoof: new.anti_spoof,
            mss_clamp: new.mss_clamp,
            broadcast_rate: new.broadcast_rate,
            broadcast_burst: new.broadcast_burst,
            host: new.host,
            nodes,
            created: self.now,
        };
        check_network(&network)?;
        if network.host {
            self.check_room_for_hosts(&network)?;
        }
        if self.counters.vni < vni.0 && new.vni.is_none() {
            self.counters.vni = vni.0;
            self.mark(RecordKey::Counters);
        }
        self.event(EventKind::NetworkCreated, vni, format!("network {} was made", network.name));
        let members = network.nodes.clone();
        self.put_network(network);
        self.place_hosts();
        self.log_change(Entry::Network(vni));
        self.log_peers(&members);
        Ok(Outcome::Network(vni))
    }

    pub(crate) fn update_network(
        &mut self,
        reference: &str,
        update: NetworkUpdate,
    ) -> Result<Outcome, Refusal> {
        let old = self.find_network(reference)?.clone();
        let mut new = old.clone();
        let NetworkUpdate {
            mode,
            mtu,
            gateways,
            dhcp,
            anti_spoof,
            mss_clamp,
            broadcast_rate,
            broadcast_burst,
            nodes,
        } = update;
        new.mode = mode.unwrap_or(new.mode);
        new.mtu = mtu.unwrap_or(new.mtu);
        new.gateways = gateways.unwrap_or(new.gateways);
        new.dhcp = dhcp.unwrap_or(new.dhcp);
        new.anti_spoof = anti_spoof.unwrap_or(new.anti_spoof);
        new.mss_clamp = mss_clamp.unwrap_or(new.mss_clamp);
        new.broadcast_rate = broadcast_rate.unwrap_or(new.broadcast_rate);
        new.broadcast_burst = broadcast_burst.unwrap_or(new.broadcast_burst);
        if let Some(nodes) = nodes {
            new.nodes = self.membership(nodes.as_deref())?;
        }
        check_network(&new)?;
        if let Some(gateway) =
            new.gateways.iter().find(|ip| self.index.placed_ips.contains_key(&(new.vni, **ip)))
        {
            return Err(Refusal::conflict(format!(
                "gateways: {gateway} is an instance's; choose another address"
            )));
        }
        if new == old {
            return Ok(Outcome::Network(old.vni));
        }
        let vni = new.vni;
        if new.nodes != old.nodes {
            self.change_membership(&old, &new)?;
        } else {
            self.put_network(new.clone());
        }
        self.log_change(Entry::Network(vni));
        let on_it = |i: &crate::records::Instance| i.nics.iter().any(|n| n.vni == vni);
        let agents: BTreeSet<NodeId> =
            self.instances.values().filter(|i| on_it(i)).flat_map(crate::index::agents_of).collect();
        self.changes.agents.extend(agents);
        self.event(EventKind::NetworkUpdated, vni, format!("network {} was changed", new.name));
        Ok(Outcome::Network(vni))
    }

    /// Nodes that join or leave see other bindings and peers: they start from a snapshot.
    fn change_membership(&mut self, old: &Network, new: &Network) -> Result<(), Refusal> {
        let all: BTreeSet<NodeId> = self.nodes.keys().copied().collect();
        let left: BTreeSet<NodeId> =
            all.iter().copied().filter(|n| old.nodes.includes(*n) && !new.nodes.includes(*n)).collect();
        let joined: BTreeSet<NodeId> =
            all.iter().copied().filter(|n| !old.nodes.includes(*n) && new.nodes.includes(*n)).collect();
        let lives_on = |i: &&crate::records::Instance| {
            i.nics.iter().any(|n| n.vni == old.vni) && crate::index::agents_of(i).any(|n| left.contains(&n))
        };
        if let Some(instance) = self.instances.values().find(lives_on) {
            return Err(Refusal::conflict(format!(
                "nodes: {} is on network {} at a node that would leave it; move or delete it first",
                instance.id, old.name
            )));
        }
        self.put_network(new.clone());
        let gone: Vec<_> =
            self.bindings_of(old.vni).filter(|b| left.contains(&b.node)).map(|b| b.key.clone()).collect();
        for key in gone {
            self.remove_binding(&key);
        }
        let moved = Membership::Nodes(left.union(&joined).copied().collect());
        self.log_peers(&moved);
        self.log_change(Entry::Resync(moved));
        Ok(())
    }

    pub(crate) fn delete_network(&mut self, reference: &str) -> Result<Outcome, Refusal> {
        let network = self.find_network(reference)?.clone();
        let vni = network.vni;
        if network.host && self.settings.kept_network == Some(vni) {
            return Err(Refusal::conflict(format!(
                "the controller's configuration keeps network {}; set mgmt.enabled = false there and restart the \
                 controller first",
                network.name
            )));
        }
        if let Some(instance) = self.instances.values().find(|i| i.nics.iter().any(|n| n.vni == vni)) {
            return Err(Refusal::conflict(format!(
                "{} is on network {}; delete the network's instances first",
                instance.id, network.name
            )));
        }
        // One entry stands for all of them: a switch drops a network with what is in it.
        let keys: Vec<_> = self.bindings_of(vni).map(|b| b.key.clone()).collect();
        for key in keys {
            self.forget_binding(&key);
        }
        self.networks.remove(&vni);
        self.mark(RecordKey::Network(vni));
        self.log_change(Entry::NetworkRemoved(vni, network.nodes.clone()));
        self.log_peers(&network.nodes);
        self.event(EventKind::NetworkDeleted, vni, format!("network {} was deleted", network.name));
        Ok(Outcome::Done)
    }

    /// The networks that these nodes share with others have changed.
    fn log_peers(&mut self, members: &Membership) {
        let ids: Vec<NodeId> =
            self.nodes.values().filter(|n| n.is_member() && members.includes(n.id)).map(|n| n.id).collect();
        for id in ids {
            self.log_change(Entry::Peer(id));
        }
    }

    fn membership(&self, nodes: Option<&[String]>) -> Result<Membership, Refusal> {
        let Some(nodes) = nodes else { return Ok(Membership::All) };
        let ids = nodes.iter().map(|reference| {
            let node = self.find_node(reference)?;
            if node.state == NodeState::Removed {
                return Err(Refusal::invalid("nodes", format!("{} has been removed; leave it out", node.id)));
            }
            Ok(node.id)
        });
        Ok(Membership::Nodes(ids.collect::<Result<_, _>>()?))
    }

    fn check_vni(&self, vni: Vni) -> Result<Vni, Refusal> {
        if vni.0 == 0 || vni > Vni::MAX {
            return Err(Refusal::invalid("vni", format!("{vni} is not a VNI; use 1 to 16777215, or none")));
        }
        match self.networks.get(&vni) {
            Some(other) => Err(Refusal::conflict(format!(
                "VNI {vni} is network {}'s; choose another, or none",
                other.name
            ))),
            None => Ok(vni),
        }
    }

    /// Not one that was chosen before: frames of a deleted network may still be under way.
    fn free_vni(&self) -> Result<Vni, Refusal> {
        let first = self.counters.vni.saturating_add(1).max(FIRST_VNI);
        (first..=Vni::MAX.0)
            .map(Vni)
            .find(|vni| !self.networks.contains_key(vni))
            .ok_or_else(|| Refusal::exhausted("no VNI is left above the last one; choose one yourself"))
    }
}

fn check_network(network: &Network) -> Result<(), Refusal> {
    if !MTU.contains(&network.mtu) {
        return Err(Refusal::invalid(
            "mtu",
            format!("{} is outside 1280 to 9216; guests use 1500", network.mtu),
        ));
    }
    check_subnet("subnet_v4", network.subnet_v4, true)?;
    check_subnet("subnet_v6", network.subnet_v6, false)?;
    if network.host {
        check_host_network(network)?;
    }
    for v4 in [true, false] {
        if network.gateways.iter().filter(|ip| ip.is_ipv4() == v4).count() > 1 {
            return Err(Refusal::invalid("gateways", "more than one of a family; name one"));
        }
    }
    for gateway in &network.gateways {
        let subnet = if gateway.is_ipv4() { network.subnet_v4 } else { network.subnet_v6 };
        if !bindable(*gateway) || subnet.is_some_and(|s| !s.contains(*gateway)) {
            return Err(Refusal::invalid(
                "gateways",
                format!("{gateway} is not an address of the network; take one of its subnet"),
            ));
        }
    }
    if let Dhcp::Trusted(mac) = network.dhcp
        && !mac.is_unicast()
    {
        return Err(Refusal::invalid("dhcp", format!("{mac} cannot be a server's MAC; give a unicast one")));
    }
    Ok(())
}

fn check_subnet(field: &'static str, subnet: Option<Subnet>, v4: bool) -> Result<(), Refusal> {
    let Some(subnet) = subnet else { return Ok(()) };
    let family = if v4 { "IPv4" } else { "IPv6" };
    if subnet.base().is_ipv4() != v4 {
        return Err(Refusal::invalid(
            field,
            format!("{subnet} is not {family}; put it into the other field"),
        ));
    }
    if subnet.length() < 8 || subnet.base().is_multicast() || subnet.base().is_loopback() {
        return Err(Refusal::invalid(field, format!("{subnet} cannot be a network's; use a private range")));
    }
    Ok(())
}

/// A network of the nodes themselves has all of them and nobody else.
fn check_host_network(network: &Network) -> Result<(), Refusal> {
    if network.subnet_v4.is_none() && network.subnet_v6.is_none() {
        return Err(Refusal::invalid(
            "subnet_v4",
            "a network of the nodes themselves gives them addresses; name a subnet of either family",
        ));
    }
    if !network.gateways.is_empty() {
        return Err(Refusal::invalid(
            "gateways",
            "a network of the nodes themselves has none; leave them out",
        ));
    }
    if network.nodes != Membership::All {
        return Err(Refusal::invalid(
            "nodes",
            "every node has a network of the nodes themselves; leave them out",
        ));
    }
    Ok(())
}

/// An address that a station can have.
pub(crate) fn bindable(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !(ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() || broadcast)
}
