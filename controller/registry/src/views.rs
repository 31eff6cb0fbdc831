//! What the shell tells agents and switches, derived from the records.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use crate::{
    ids::{Generation, InstanceId, Mac, NodeId, PublicKey, Vni},
    records::{DesiredState, Instance, Limits, Nic, Stage},
    registry::Registry,
};

/// A node as another one sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Its key.
    pub public_key: PublicKey,
    /// Where to dial it, best first.
    pub addresses: Vec<SocketAddr>,
    /// The networks that both have.
    pub vnis: Vec<Vni>,
}

/// What an agent shall have of one instance.
///
/// What the registry relies on, of an agent: it stops, starts or removes exactly what is named. A copy that is there
/// with an older generation is taken over by a newer one as it is, with its volume; `download_from` is for one that
/// has no volume of this generation yet. It reports the generation that it acts on, and a copy that is to be absent
/// as `Absent` with the generation that it was told.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "as in Instance")]
pub struct DesiredInstance {
    pub id: InstanceId,
    pub name: String,
    pub generation: Generation,
    pub desired: DesiredState,
    pub driver: String,
    pub limits: Limits,
    pub image: String,
    pub command: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub nics: Vec<DesiredNic>,
    /// Once stopped, its volume goes to this transfer.
    pub upload_to: Option<String>,
    /// Its volume comes from this transfer; it is stopped, not started, until it is complete.
    pub download_from: Option<String>,
}

/// An interface with what the instance has to know of its network.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "as in Network and Nic")]
pub struct DesiredNic {
    pub vni: Vni,
    pub network: String,
    pub mac: Mac,
    /// With the subnet's prefix length.
    pub addresses: Vec<(IpAddr, u8)>,
    pub mtu: u32,
    pub gateways: Vec<IpAddr>,
}

/// Who sends and who takes a transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransferEnds {
    /// What is moved.
    pub instance: InstanceId,
    /// The node that may upload.
    pub from: NodeId,
    /// The node that may download.
    pub to: NodeId,
}

impl Registry {
    /// What a node's agent shall have. An instance that is not in it is none of its business.
    #[must_use]
    pub fn desired_instances(&self, node: NodeId) -> Vec<DesiredInstance> {
        let ids = self.index.instances_at.get(&node).into_iter().flatten();
        ids.filter_map(|id| self.instances.get(id)).filter_map(|i| self.desired_at(i, node)).collect()
    }

    fn desired_at(&self, instance: &Instance, node: NodeId) -> Option<DesiredInstance> {
        let (mut upload_to, mut download_from) = (None, None);
        let (generation, desired) = if let Some(generation) = instance.leftovers.get(&node) {
            (*generation, DesiredState::Absent)
        } else if let Some(m) = instance.migration.as_ref().filter(|m| m.from == node || m.to == node) {
            let transfer = (!m.transfer.is_empty()).then(|| m.transfer.clone());
            match (m.stage, node == m.from) {
                (Stage::Prepare, true) => (instance.generation, instance.desired),
                (Stage::Prepare | Stage::Stop, false) => return None,
                (Stage::Stop, true) => (m.from_generation, DesiredState::Stopped),
                (Stage::Transfer, true) => {
                    upload_to = transfer;
                    (m.from_generation, DesiredState::Stopped)
                }
                (Stage::Transfer, false) => {
                    download_from = transfer;
                    (m.generation, DesiredState::Stopped)
                }
                (Stage::Start, true) => (m.from_generation, DesiredState::Stopped),
                (Stage::Start, false) => (m.generation, instance.desired),
            }
        } else if instance.node == node && instance.unconfirmed.is_none() {
            (instance.generation, instance.desired)
        } else {
            return None;
        };
        Some(DesiredInstance {
            id: instance.id,
            name: instance.name.clone(),
            generation,
            desired,
            driver: instance.driver.clone(),
            limits: instance.limits.clone(),
            image: instance.image.clone(),
            command: instance.command.clone(),
            env: instance.env.clone(),
            nics: instance.nics.iter().filter_map(|nic| self.desired_nic(nic)).collect(),
            upload_to,
            download_from,
        })
    }

    fn desired_nic(&self, nic: &Nic) -> Option<DesiredNic> {
        let network = self.networks.get(&nic.vni)?;
        let length = |ip: &IpAddr| {
            let subnet =
                [network.subnet_v4, network.subnet_v6].into_iter().flatten().find(|s| s.contains(*ip));
            subnet.map_or(if ip.is_ipv4() { 32 } else { 128 }, crate::records::Subnet::length)
        };
        Some(DesiredNic {
            vni: nic.vni,
            network: network.name.clone(),
            mac: nic.mac,
            addresses: nic.ips.iter().map(|ip| (*ip, length(ip))).collect(),
            mtu: network.mtu,
            gateways: network.gateways.clone(),
        })
    }

    /// Who may send and take a transfer; none if there is no such one now.
    #[must_use]
    pub fn transfer(&self, transfer: &str) -> Option<TransferEnds> {
        let moving = |i: &&Instance| {
            i.migration.as_ref().is_some_and(|m| m.transfer == transfer && m.stage == Stage::Transfer)
        };
        let instance = self.instances.values().find(moving)?;
        let migration = instance.migration.as_ref()?;
        Some(TransferEnds { instance: instance.id, from: migration.from, to: migration.to })
    }

    /// A node as another one sees it; none if they share no network or it is not one (any more).
    pub(crate) fn peer_of(&self, node: NodeId, peer: NodeId) -> Option<Peer> {
        let record = self.nodes.get(&peer).filter(|n| n.is_member())?;
        let vnis: Vec<Vni> = self
            .networks
            .values()
            .filter(|n| n.nodes.includes(node) && n.nodes.includes(peer))
            .map(|n| n.vni)
            .collect();
        if vnis.is_empty() {
            return None;
        }
        Some(Peer {
            id: peer,
            name: record.name.clone(),
            public_key: record.public_key?,
            addresses: record.addresses.clone(),
            vnis,
        })
    }

    /// A node is a peer of another: signals between them are passed on.
    #[must_use]
    pub fn are_peers(&self, a: NodeId, b: NodeId) -> bool {
        a != b
            && self.nodes.get(&a).is_some_and(crate::records::Node::is_member)
            && self.peer_of(a, b).is_some()
    }
}
