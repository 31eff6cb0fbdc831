//! Networks of the nodes themselves. Each node is a station of them, by a binding that is made with the node and goes
//! with it; nothing else may be bound there.

use std::{collections::BTreeSet, net::IpAddr};

use crate::{
    changelog::Entry,
    changes::EventKind,
    ids::{Generation, Mac, NodeId, Vni},
    records::{Binding, BindingKey, BindingSource, BindingState, Membership, Network, RecordKey, Subnet},
    refusal::Refusal,
    registry::Registry,
};

/// What a node is in a network of the nodes themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostStation {
    /// Its addresses, with the subnet's prefix length.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Its MAC.
    pub mac: Mac,
}

impl Registry {
    /// What a node is in a network, if the network is one of the nodes themselves.
    #[must_use]
    pub fn host_station(&self, node: NodeId, vni: Vni) -> Option<HostStation> {
        let network = self.networks.get(&vni).filter(|network| network.host)?;
        let binding = self.host_binding(node, vni)?;
        let length = |ip: IpAddr| subnets(network).find(|s| s.contains(ip)).map(|s| (ip, s.length()));
        let addresses = binding.ips.iter().filter_map(|ip| length(*ip)).collect();
        Some(HostStation { addresses, mac: binding.key.mac })
    }

    /// A node's own addresses, in all networks of the nodes themselves.
    pub fn host_addresses(&self, node: NodeId) -> impl Iterator<Item = IpAddr> {
        let bindings = self.networks.values().filter(|n| n.host);
        bindings.filter_map(move |n| self.host_binding(node, n.vni)).flat_map(|b| b.ips.iter().copied())
    }

    /// An address is of a network of the nodes themselves: what carries that network must not go by it.
    pub(crate) fn is_host_address(&self, ip: IpAddr) -> bool {
        self.networks.values().filter(|n| n.host).flat_map(subnets).any(|s| s.contains(ip.to_canonical()))
    }

    fn host_binding(&self, node: NodeId, vni: Vni) -> Option<&Binding> {
        self.bindings_after(None, Some(vni), Some(node)).next()
    }

    /// All nodes find an address.
    pub(crate) fn check_room_for_hosts(&self, network: &Network) -> Result<(), Refusal> {
        let nodes = self.nodes.values().filter(|n| n.is_member()).count();
        match subnets(network).find(|s| s.hosts().take(nodes).count() < nodes) {
            Some(small) => Err(Refusal::exhausted(format!(
                "{small} has fewer addresses than the cluster's {nodes} nodes; take a larger subnet"
            ))),
            None => Ok(()),
        }
    }

    /// Gives each node a station in each network of the nodes themselves where it has none: the lowest free address
    /// of each subnet, and a MAC. Returns the nodes that got one.
    pub(crate) fn place_hosts(&mut self) -> BTreeSet<NodeId> {
        let mut placed = BTreeSet::new();
        let networks: Vec<Network> = self.networks.values().filter(|n| n.host).cloned().collect();
        for network in networks {
            let without = |n: &&NodeId| self.host_binding(**n, network.vni).is_none();
            let members = self.nodes.values().filter(|n| n.is_member()).map(|n| &n.id);
            let nodes: Vec<NodeId> = members.filter(without).copied().collect();
            if nodes.is_empty() {
                continue;
            }
            let mut taken: BTreeSet<IpAddr> =
                self.bindings_of(network.vni).flat_map(|b| b.ips.iter().copied()).collect();
            for node in nodes {
                if self.place_host(node, &network, &mut taken).is_err() {
                    break;
                }
                placed.insert(node);
            }
        }
        placed
    }

    /// The same when a node has come.
    pub(crate) fn place_new_host(&mut self, node: NodeId) {
        self.place_hosts();
        let without = |n: &&Network| n.host && self.host_binding(node, n.vni).is_none();
        let full: Vec<String> = self.networks.values().filter(without).map(|n| n.name.clone()).collect();
        for name in full {
            let message =
                format!("it has no address in network {name}, whose subnet is used up; remove a node");
            self.event(EventKind::Warning, node, message);
        }
    }

    /// The same when a node has gone: one that found no address may have its. It knows the network without it.
    pub(crate) fn place_hosts_again(&mut self) {
        let placed = self.place_hosts();
        if !placed.is_empty() {
            self.log_change(Entry::Resync(Membership::Nodes(placed)));
        }
    }

    fn place_host(
        &mut self,
        node: NodeId,
        network: &Network,
        taken: &mut BTreeSet<IpAddr>,
    ) -> Result<(), Refusal> {
        let free = |subnet: Subnet| {
            subnet.hosts().find(|ip| !taken.contains(ip)).ok_or_else(|| {
                Refusal::exhausted(format!("all addresses of {subnet} are taken; remove a node"))
            })
        };
        let ips: Vec<IpAddr> = subnets(network).map(free).collect::<Result<_, _>>()?;
        let mac = self.counters.next_mac()?;
        self.mark(RecordKey::Counters);
        taken.extend(&ips);
        self.put_binding(Binding {
            key: BindingKey { vni: network.vni, vlans: Vec::new(), mac },
            ips,
            node,
            generation: Generation(0),
            source: BindingSource::Controller,
            state: BindingState::Active,
            instance: None,
        });
        Ok(())
    }
}

fn subnets(network: &Network) -> impl Iterator<Item = Subnet> + use<> {
    [network.subnet_v4, network.subnet_v6].into_iter().flatten()
}
