//! Between the protocol's messages and the registry's types. What a node sends is checked here and nowhere else.

use std::net::{IpAddr, SocketAddr};

use controller_api::node as proto;
use controller_registry::{
    AntiSpoof, Binding, BindingClaim, BindingKey, BindingSource, BindingState, BindingWithdrawal, Capacity,
    ClaimRefusal, ClaimRefusalReason, DesiredInstance, DesiredState, Dhcp, Generation, HostStation,
    InstanceState, InstanceStatus, Mac, Mode, Network, NodeId, Peer, Vni,
};

/// What is wrong with a message: a sentence with the field.
pub(super) type Wrong = String;

/// A network with what the receiver is itself in it.
pub(super) fn network(network: &Network, host: Option<&HostStation>) -> proto::Network {
    proto::Network {
        vni: network.vni.0,
        name: network.name.clone(),
        mode: match network.mode {
            Mode::Rewrite => "rewrite".to_owned(),
            Mode::Preserve => "preserve".to_owned(),
        },
        mtu: network.mtu,
        dhcp: match network.dhcp {
            Dhcp::Forward => "forward".to_owned(),
            Dhcp::LocalOnly => "local-only".to_owned(),
            Dhcp::Trusted(mac) => format!("trusted:{mac}"),
        },
        anti_spoof: match network.anti_spoof {
            AntiSpoof::Learn => "learn".to_owned(),
            AntiSpoof::Strict => "strict".to_owned(),
        },
        mss_clamp: network.mss_clamp,
        broadcast_rate: network.broadcast_rate,
        broadcast_burst: network.broadcast_burst,
        host: host.map(host_station),
        gateways: network.gateways.iter().map(IpAddr::to_string).collect(),
    }
}

fn host_station(station: &HostStation) -> proto::HostStation {
    proto::HostStation {
        addresses: station.addresses.iter().map(|(ip, length)| format!("{ip}/{length}")).collect(),
        mac: station.mac.0.to_vec(),
    }
}

pub(super) fn peer(peer: &Peer) -> proto::Peer {
    proto::Peer {
        node_id: peer.id.to_string(),
        name: peer.name.clone(),
        public_key: peer.public_key.0.to_vec(),
        addresses: peer.addresses.iter().map(SocketAddr::to_string).collect(),
        vnis: peer.vnis.iter().map(|vni| vni.0).collect(),
    }
}

pub(super) fn key(key: &BindingKey) -> proto::BindingKey {
    proto::BindingKey {
        vni: key.vni.0,
        vlans: key.vlans.iter().map(|&vlan| vlan.into()).collect(),
        mac: key.mac.0.to_vec(),
    }
}

pub(super) fn binding(binding: &Binding) -> proto::Binding {
    let source = match binding.source {
        BindingSource::Controller => proto::BindingSource::Controller,
        BindingSource::Learned => proto::BindingSource::Learned,
    };
    let state = match binding.state {
        BindingState::Active => proto::BindingState::Active,
        BindingState::Prepared => proto::BindingState::Prepared,
    };
    proto::Binding {
        key: Some(key(&binding.key)),
        ips: binding.ips.iter().map(IpAddr::to_string).collect(),
        node_id: binding.node.to_string(),
        generation: binding.generation.0,
        source: source.into(),
        state: state.into(),
    }
}

/// The reason as metrics have it.
pub(super) fn reason_word(reason: ClaimRefusalReason) -> &'static str {
    match reason {
        ClaimRefusalReason::Stale => "stale",
        ClaimRefusalReason::BoundElsewhere => "bound-elsewhere",
        ClaimRefusalReason::Network => "network",
        ClaimRefusalReason::Address => "address",
        ClaimRefusalReason::Full => "full",
    }
}

pub(super) fn refusal(refusal: &ClaimRefusal) -> proto::BindingRefusal {
    let reason = match refusal.reason {
        ClaimRefusalReason::Stale => proto::BindingRefusalReason::Stale,
        ClaimRefusalReason::BoundElsewhere => proto::BindingRefusalReason::BoundElsewhere,
        ClaimRefusalReason::Network => proto::BindingRefusalReason::Network,
        ClaimRefusalReason::Address => proto::BindingRefusalReason::Address,
        ClaimRefusalReason::Full => proto::BindingRefusalReason::Full,
    };
    proto::BindingRefusal {
        key: Some(key(&refusal.key)),
        reason: reason.into(),
        current: refusal.current.as_ref().map(binding),
    }
}

pub(super) fn binding_key(from: Option<proto::BindingKey>) -> Result<BindingKey, Wrong> {
    let from = from.ok_or("key is missing")?;
    if from.vni > Vni::MAX.0 {
        return Err(format!("key.vni: {} has more than 24 bits", from.vni));
    }
    if from.vlans.len() > MAX_VLANS {
        return Err(format!("key.vlans: {} tags, at most {MAX_VLANS} are known", from.vlans.len()));
    }
    let vlan = |&vlan: &u32| match u16::try_from(vlan) {
        Ok(vlan @ 1..=4094) => Ok(vlan),
        _ => Err(format!("key.vlans: {vlan} is no VLAN")),
    };
    let mac = from.mac.as_slice().try_into().map_err(|_| "key.mac has other than 6 bytes")?;
    Ok(BindingKey {
        vni: Vni(from.vni),
        vlans: from.vlans.iter().map(vlan).collect::<Result<_, _>>()?,
        mac: Mac(mac),
    })
}

pub(super) fn claim(from: proto::BindingClaim) -> Result<BindingClaim, Wrong> {
    if from.ips.len() > MAX_IPS {
        return Err(format!("claims: {} IPs of one station, at most {MAX_IPS} are taken", from.ips.len()));
    }
    let ip = |text: &String| text.parse().map_err(|_| format!("claims: {text:.60?} is no IP"));
    Ok(BindingClaim {
        key: binding_key(from.key).map_err(|wrong| format!("claims: {wrong}"))?,
        ips: from.ips.iter().map(ip).collect::<Result<_, _>>()?,
        seen_generation: Generation(from.seen_generation),
    })
}

pub(super) fn withdrawal(from: proto::BindingWithdrawal) -> Result<BindingWithdrawal, Wrong> {
    let key = binding_key(from.key).map_err(|wrong| format!("withdrawals: {wrong}"))?;
    Ok(BindingWithdrawal { key, generation: Generation(from.generation) })
}

/// The addresses that a switch says it has, and the one that its session comes from; each once, in this order.
pub(super) fn addresses(from: &proto::RegisterSwitch, remote: SocketAddr) -> Result<Vec<SocketAddr>, Wrong> {
    if from.addresses.len() > MAX_ADDRESSES {
        return Err(format!(
            "register.addresses: {}, at most {MAX_ADDRESSES} are kept",
            from.addresses.len()
        ));
    }
    let mut addresses = Vec::new();
    for text in &from.addresses {
        let address: SocketAddr =
            text.parse().map_err(|_| format!("register.addresses: {text:.60?} is no address with a port"))?;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    let port = u16::try_from(from.listen_port)
        .map_err(|_| format!("register.listen_port: {} is no port", from.listen_port))?;
    let seen = SocketAddr::new(remote.ip().to_canonical(), port);
    if port != 0 && !addresses.contains(&seen) {
        addresses.push(seen);
    }
    Ok(addresses)
}

pub(super) fn node_id(text: &str) -> Result<NodeId, Wrong> {
    text.parse().map_err(|_| format!("node_id: {text:.60?} is no node's id"))
}

/// Free text of a node, bounded.
pub(super) fn text(mut text: String, most: usize) -> String {
    if text.len() > most {
        let mut end = most;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text.replace(|c: char| c.is_control(), " ")
}

pub(super) fn capacity(from: Option<proto::Capacity>) -> Capacity {
    let from = from.unwrap_or_default();
    Capacity {
        cores: from.cores,
        memory_bytes: from.memory_bytes,
        disk_bytes: from.disk_bytes,
        accelerator: text(from.accelerator, MAX_WORD),
    }
}

pub(super) fn drivers(from: Vec<String>) -> Vec<String> {
    from.into_iter().take(MAX_DRIVERS).map(|driver| text(driver, MAX_WORD)).collect()
}

pub(super) fn instances(from: Vec<proto::InstanceStatus>) -> Result<Vec<InstanceStatus>, Wrong> {
    if from.len() > MAX_INSTANCES {
        return Err(format!("instances: {}, at most {MAX_INSTANCES} are taken", from.len()));
    }
    from.into_iter().map(instance).collect()
}

fn instance(from: proto::InstanceStatus) -> Result<InstanceStatus, Wrong> {
    use proto::instance_status::State;
    let state = match from.state() {
        State::Starting => InstanceState::Starting,
        State::Running => InstanceState::Running,
        State::Stopping => InstanceState::Stopping,
        State::Stopped => InstanceState::Stopped,
        State::Failed => InstanceState::Failed,
        State::Absent => InstanceState::Absent,
        State::Unspecified => return Err(format!("instances: {:.60?} has no state", from.id)),
    };
    Ok(InstanceStatus {
        id: from.id.parse().map_err(|_| format!("instances: {:.60?} is no instance's id", from.id))?,
        generation: Generation(from.generation),
        state,
        detail: text(from.detail, MAX_SENTENCE),
        uploaded: from.uploaded,
        cpu_usec: from.cpu_usec,
        memory_bytes: from.memory_bytes,
        cores_milli_limit: from.cores_milli_limit,
        memory_bytes_limit: from.memory_bytes_limit,
        runtime: text(from.runtime, MAX_WORD),
        progress_percent: from.progress_percent.min(100),
    })
}

/// The bridge has the name that every switch gives it. It must not depend on what a switch has reported so far: another
/// bridge is another spec, for which the agent would start the instance again.
pub(super) fn spec(from: DesiredInstance) -> proto::InstanceSpec {
    let desired = match from.desired {
        DesiredState::Running => proto::instance_spec::Desired::Running,
        DesiredState::Stopped => proto::instance_spec::Desired::Stopped,
        DesiredState::Absent => proto::instance_spec::Desired::Absent,
    };
    let nics = from.nics.into_iter().map(|nic| {
        let gateway = |v4: bool| {
            let found = nic.gateways.iter().find(|gateway| gateway.is_ipv4() == v4);
            found.map(IpAddr::to_string).unwrap_or_default()
        };
        proto::Nic {
            vni: nic.vni.0,
            bridge: format!("br-{}", nic.network),
            mac: nic.mac.0.to_vec(),
            addresses: nic.addresses.iter().map(|(ip, length)| format!("{ip}/{length}")).collect(),
            mtu: nic.mtu,
            gateway_v4: gateway(true),
            gateway_v6: gateway(false),
            network: nic.network,
        }
    });
    proto::InstanceSpec {
        id: from.id.to_string(),
        name: from.name,
        generation: from.generation.0,
        desired: desired.into(),
        driver: from.driver,
        cores_milli: from.limits.cores_milli,
        memory_bytes: from.limits.memory_bytes,
        disk_bytes: from.limits.disk_bytes,
        image: from.image,
        command: from.command,
        environment: from.env.into_iter().collect(),
        nics: nics.collect(),
        upload_to: from.upload_to.unwrap_or_default(),
        download_from: from.download_from.unwrap_or_default(),
    }
}

const MAX_VLANS: usize = 2;
const MAX_IPS: usize = 64;
const MAX_ADDRESSES: usize = 32;
const MAX_DRIVERS: usize = 8;
const MAX_INSTANCES: usize = 4096;
const MAX_WORD: usize = 64;
pub(super) const MAX_SENTENCE: usize = 1024;
