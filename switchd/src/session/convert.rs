//! The controller's words as the daemon's types, and back. Pure. What cannot be understood is a sentence for the
//! report of what was applied.

use std::net::{IpAddr, SocketAddr};

use controller_api::node as wire;
use switch_core::frame::Tags;
use switch_core::ids::{Generation, Mac, Vni};
use switch_core::switch::{BindingKey, Source, State};

use crate::config::{self, AntiSpoof, HostStation, Mode, Network};
use crate::desired::{DesiredBinding, DesiredPeer};
use crate::key::PublicKey;

/// A network, on this node: bridge `br-<name>`, made if it is missing, endpoint `sw<vni>`.
pub(super) fn network(wire: &wire::Network) -> Result<Network, String> {
    let wrong = |what: &str| format!("network {:?}: {what}: mend it at the controller", wire.name);
    let vni = Vni::new(wire.vni).map_err(|error| wrong(&error.to_string()))?;
    let mut network = Network::with_defaults(wire.name.clone(), vni);
    network.bridge = format!("br-{}", wire.name);
    network.max_macs = MAX_ENTRIES;
    network.max_ips = MAX_ENTRIES;
    network.mode = match wire.mode.as_str() {
        "" | "rewrite" => Mode::Rewrite,
        "preserve" => Mode::Preserve,
        other => return Err(wrong(&format!("this switchd knows no mode {other:?}"))),
    };
    network.anti_spoof = match wire.anti_spoof.as_str() {
        "" | "learn" => AntiSpoof::Learn,
        "strict" => AntiSpoof::Strict,
        other => return Err(wrong(&format!("this switchd knows no anti_spoof {other:?}"))),
    };
    if !wire.dhcp.is_empty() {
        network.dhcp = config::dhcp(&wire.dhcp).map_err(|error| wrong(&error))?;
    }
    // What is 0 was not said.
    if wire.mtu != 0 {
        network.mtu = u16::try_from(wire.mtu).map_err(|_| wrong("its MTU is out of range"))?;
    }
    if wire.broadcast_rate != 0 {
        network.broadcast_rate = wire.broadcast_rate;
    }
    if wire.broadcast_burst != 0 {
        network.broadcast_burst = wire.broadcast_burst;
    }
    network.mss_clamp = wire.mss_clamp;
    let gateways: Option<Vec<IpAddr>> = wire.gateways.iter().map(|text| text.parse().ok()).collect();
    network.gateways = gateways.ok_or_else(|| wrong("a gateway is no IP address"))?;
    network.host = wire.host.as_ref().map(host_station).transpose().map_err(|error| wrong(&error))?;
    network.check().map_err(|error| wrong(&error))?;
    Ok(network)
}

fn host_station(wire: &wire::HostStation) -> Result<HostStation, String> {
    let mac = wire.mac.as_slice().try_into().map_err(|_| "the MAC of this node in it has not 6 bytes")?;
    let address = |text: &String| {
        let (ip, prefix) = text.split_once('/')?;
        Some((ip.parse().ok()?, prefix.parse().ok()?))
    };
    let addresses: Option<Vec<(IpAddr, u8)>> = wire.addresses.iter().map(address).collect();
    Ok(HostStation { addresses: addresses.ok_or("an address of this node in it is none")?, mac: Mac(mac) })
}

/// Another node, by its id. Addresses that cannot be dialled are left out.
pub(super) fn peer(wire: &wire::Peer) -> Result<(String, DesiredPeer), String> {
    let wrong = |what: &str| format!("node {:?} ({}): {what}", wire.name, wire.node_id);
    let key: [u8; 32] =
        wire.public_key.as_slice().try_into().map_err(|_| wrong("its public key has not 32 bytes"))?;
    let vnis: Result<Vec<Vni>, _> = wire.vnis.iter().map(|vni| Vni::new(*vni)).collect();
    let addresses = wire.addresses.iter().filter_map(|text| text.parse::<SocketAddr>().ok());
    let dialled = |address: &SocketAddr| {
        !address.ip().is_unspecified() && !address.ip().is_multicast() && address.port() != 0
    };
    let peer = DesiredPeer {
        name: wire.name.clone(),
        public_key: PublicKey(key),
        addresses: addresses.filter(dialled).collect(),
        vnis: vnis.map_err(|error| wrong(&error.to_string()))?,
    };
    if wire.node_id.is_empty() {
        return Err(wrong("it has no id"));
    }
    Ok((wire.node_id.clone(), peer))
}

/// A binding; `own` is this node's id.
pub(super) fn binding(wire: &wire::Binding, own: &str) -> Result<(Vni, BindingKey, DesiredBinding), String> {
    let (vni, key) = binding_key(wire.key.as_ref())?;
    let wrong = |what: &str| format!("binding of {} in VNI {vni}: {what}", key.mac);
    let ips: Option<Vec<IpAddr>> = wire.ips.iter().map(|text| text.parse().ok()).collect();
    let source = match wire.source() {
        wire::BindingSource::Controller => Source::Controller,
        wire::BindingSource::Learned => Source::Announced,
        wire::BindingSource::Unspecified => return Err(wrong("it has no source")),
    };
    let state = match wire.state() {
        wire::BindingState::Active => State::Active,
        wire::BindingState::Prepared => State::Prepared,
        wire::BindingState::Unspecified => return Err(wrong("it has no state")),
    };
    let binding = DesiredBinding {
        ips: ips.ok_or_else(|| wrong("one of its IPs is none"))?,
        node: (wire.node_id != own).then(|| wire.node_id.clone()),
        generation: Generation(wire.generation),
        source,
        state,
    };
    Ok((vni, key, binding))
}

/// A binding's name.
pub(super) fn binding_key(wire: Option<&wire::BindingKey>) -> Result<(Vni, BindingKey), String> {
    let wire = wire.ok_or("a binding has no key")?;
    let vni = Vni::new(wire.vni).map_err(|error| format!("a binding: {error}"))?;
    let mac: [u8; 6] = wire
        .mac
        .as_slice()
        .try_into()
        .map_err(|_| format!("a binding in VNI {vni}: its MAC has not 6 bytes"))?;
    let vids: Option<Vec<u16>> = wire.vlans.iter().map(|vid| u16::try_from(*vid).ok()).collect();
    let tags = vids
        .and_then(|vids| Tags::from_vids(&vids))
        .ok_or_else(|| format!("binding of {} in VNI {vni}: its VLANs are none", Mac(mac)))?;
    Ok((vni, BindingKey { tags, mac: Mac(mac) }))
}

/// A network, as the controller would have named it.
pub(super) fn network_to_wire(network: &Network) -> wire::Network {
    wire::Network {
        vni: network.vni.get(),
        name: network.name.clone(),
        mode: network.mode.to_string(),
        mtu: network.mtu.into(),
        dhcp: network.dhcp.to_string(),
        anti_spoof: network.anti_spoof.to_string(),
        mss_clamp: network.mss_clamp,
        broadcast_rate: network.broadcast_rate,
        broadcast_burst: network.broadcast_burst,
        gateways: texts(&network.gateways),
        host: network.host.as_ref().map(|host| wire::HostStation {
            addresses: host.addresses.iter().map(|(ip, prefix)| format!("{ip}/{prefix}")).collect(),
            mac: host.mac.0.to_vec(),
        }),
    }
}

/// A node, as the controller would have named it.
pub(super) fn peer_to_wire(id: &str, peer: &DesiredPeer) -> wire::Peer {
    wire::Peer {
        node_id: id.to_owned(),
        name: peer.name.clone(),
        public_key: peer.public_key.0.to_vec(),
        addresses: texts(&peer.addresses),
        vnis: peer.vnis.iter().map(|vni| vni.get()).collect(),
    }
}

/// A binding, as the controller would have named it.
pub(super) fn binding_to_wire(
    vni: Vni,
    key: BindingKey,
    binding: &DesiredBinding,
    own: &str,
) -> wire::Binding {
    let source = match binding.source {
        Source::Controller => wire::BindingSource::Controller,
        Source::Announced | Source::Learned => wire::BindingSource::Learned,
    };
    let state = match binding.state {
        State::Active => wire::BindingState::Active,
        State::Prepared => wire::BindingState::Prepared,
    };
    wire::Binding {
        key: Some(key_to_wire(vni, key)),
        ips: texts(&binding.ips),
        node_id: binding.node.clone().unwrap_or_else(|| own.to_owned()),
        generation: binding.generation.0,
        source: source.into(),
        state: state.into(),
    }
}

/// A binding's name, for the wire.
pub(super) fn key_to_wire(vni: Vni, key: BindingKey) -> wire::BindingKey {
    wire::BindingKey {
        vni: vni.get(),
        vlans: key.tags.vids().iter().map(|vid| u32::from(*vid)).collect(),
        mac: key.mac.0.to_vec(),
    }
}

/// Addresses as the protocol writes them.
pub(super) fn texts<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(T::to_string).collect()
}

/// Of each table of a network: what a cluster's whole network may need.
const MAX_ENTRIES: usize = 1 << 17;

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(addresses: &[&str], mac: &[u8]) -> wire::Network {
        wire::Network {
            vni: 7,
            name: "mgmt".into(),
            mode: "preserve".into(),
            mtu: 1500,
            dhcp: "local-only".into(),
            anti_spoof: "strict".into(),
            broadcast_rate: 1000,
            broadcast_burst: 2000,
            host: Some(wire::HostStation {
                addresses: addresses.iter().map(|text| (*text).to_owned()).collect(),
                mac: mac.to_vec(),
            }),
            ..wire::Network::default()
        }
    }

    #[test]
    fn what_this_node_is_in_a_network_is_stored_as_it_came() {
        let told = wire(&["100.80.0.7/16", "fd00::7/64"], &[2, 0, 0, 0, 0, 7]);
        let network = network(&told).unwrap();
        assert_eq!(network.host.as_ref().map(|host| host.addresses.len()), Some(2));
        assert_eq!(network_to_wire(&network), told);
        let moved = Network { host: None, ..network.clone() };
        assert!(!network.differs_live_only(&moved), "the bridge is made anew");
    }

    #[test]
    fn what_no_node_can_be_is_a_sentence() {
        let mac = [2, 0, 0, 0, 0, 7];
        let cases = [
            (wire(&["100.80.0.7"], &mac), "is none"),
            (wire(&["100.80.0.7/33"], &mac), "cannot be the node's own address"),
            (wire(&["224.0.0.1/16"], &mac), "cannot be the node's own address"),
            (wire(&["100.80.0.7/16"], &mac[..5]), "has not 6 bytes"),
            (wire(&["100.80.0.7/16"], &[3, 0, 0, 0, 0, 7]), "cannot be the node's own MAC"),
        ];
        for (told, words) in cases {
            let error = network(&told).unwrap_err();
            assert!(error.contains(words) && error.contains("mend it at the controller"), "{error}");
        }
    }
}
