//! The configuration's names as the planes' numbers, and what of it the worker was told.

use std::collections::HashMap;
use std::sync::Arc;

use switch_core::ids::{Generation, PeerId, Vni};
use switch_core::switch::{
    self, Binding, BindingKey, DhcpPolicy, Limits, Place, Policy, Source, State, SwitchConfig,
};

use crate::config::{AntiSpoof, Config, Dhcp, LinkConfig, Mode, Network, Peer, StaticBinding};
use crate::dataplane::{Command, Handle, MssClamp, NetworkConfig};
use crate::key::PublicKey;
use crate::links;

/// Numbers of the peers, and the static bindings that are set.
#[derive(Debug, Default)]
pub(super) struct Registry {
    peers: HashMap<String, (PeerId, PublicKey)>,
    next: u32,
    bindings: HashMap<(Vni, BindingKey), Generation>,
}

impl Registry {
    /// Tells the worker what of `config` it does not know yet: peers, policies, static bindings. A peer whose key
    /// changed is another peer. Removed peers are the links' to end.
    pub(super) fn apply(&mut self, config: &Config, worker: &Handle) {
        let current = |name: &str, key| config.peers.iter().any(|p| p.name == name && p.public_key == key);
        self.peers.retain(|name, (_, key)| current(name, *key));
        for peer in &config.peers {
            let id = self.id_of(peer);
            let allowed = config
                .networks
                .iter()
                .filter(|network| config.peers_of(network).any(|member| member.name == peer.name));
            let allowed = allowed.map(|network| network.vni).collect();
            worker.send(Command::AddPeer(id, peer.name.as_str().into(), allowed));
        }
        for network in &config.networks {
            worker.send(Command::SetPolicy(network.vni, policy(network), MssClamp(network.mss_clamp)));
        }
        self.apply_bindings(config, worker);
    }

    /// The peers for the link plane.
    pub(super) fn peers(&self, config: &Config) -> Vec<links::PeerConfig> {
        let peer = |peer: &Peer| {
            let (id, key) = *self.peers.get(&peer.name)?;
            Some(links::PeerConfig { id, name: peer.name.as_str().into(), key, address: peer.address })
        };
        config.peers.iter().filter_map(peer).collect()
    }

    /// Numbers by name.
    pub(super) fn ids(&self) -> Arc<HashMap<String, PeerId>> {
        Arc::new(self.peers.iter().map(|(name, (id, _))| (name.clone(), *id)).collect())
    }

    fn id_of(&mut self, peer: &Peer) -> PeerId {
        let next = &mut self.next;
        let (id, _) = self.peers.entry(peer.name.clone()).or_insert_with(|| {
            *next += 1;
            (PeerId(*next), peer.public_key)
        });
        *id
    }

    fn apply_bindings(&mut self, config: &Config, worker: &Handle) {
        let mut wanted = HashMap::new();
        for network in &config.networks {
            for binding in &network.bindings {
                let Some(at) = self.place(config, binding) else { continue };
                let key = BindingKey { tags: binding.vlans, mac: binding.mac };
                wanted.insert((network.vni, key), binding.generation);
                let binding = Binding {
                    tags: binding.vlans,
                    mac: binding.mac,
                    ips: binding.ips.clone(),
                    at,
                    generation: binding.generation,
                    source: Source::Controller,
                    state: State::Active,
                };
                worker.send(Command::SetBinding(network.vni, Box::new(binding)));
            }
        }
        for ((vni, key), generation) in std::mem::replace(&mut self.bindings, wanted.clone()) {
            if !wanted.contains_key(&(vni, key)) {
                worker.send(Command::RemoveBinding(vni, key, generation));
            }
        }
    }

    fn place(&self, config: &Config, binding: &StaticBinding) -> Option<Place> {
        if binding.node == config.node.name {
            return Some(Place::Local);
        }
        self.peers.get(&binding.node).map(|(id, _)| Place::Peer(*id))
    }
}

pub(super) fn network_config(network: &Network, hash_seed: [u64; 4]) -> NetworkConfig {
    let switch = SwitchConfig {
        vni: network.vni,
        mode: match network.mode {
            Mode::Rewrite => switch::Mode::Rewrite,
            Mode::Preserve => switch::Mode::Preserve,
        },
        endpoint_mac: network.endpoint_mac,
        policy: policy(network),
        limits: Limits {
            max_macs: network.max_macs,
            max_ips: network.max_ips,
            mac_age: network.mac_age,
            ip_age: network.ip_age,
            ..Limits::default()
        },
        gateways: network.gateways.clone(),
        hash_seed,
    };
    NetworkConfig { name: network.name.as_str().into(), switch, mss_clamp: network.mss_clamp }
}

pub(super) fn link_config(link: &LinkConfig) -> links::LinkConfig {
    links::LinkConfig {
        keepalive: link.keepalive,
        dead_after: link.dead_after,
        rekey_after: link.rekey_after,
        underlay_mtu: link.underlay_mtu,
    }
}

/// AES-GCM beats ChaCha20-Poly1305 only where the CPU has instructions for it.
pub(super) fn cpu_has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    let has = std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    let has = std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let has = false;
    has
}

fn policy(network: &Network) -> Policy {
    Policy {
        dhcp: match network.dhcp {
            Dhcp::Forward => DhcpPolicy::Forward,
            Dhcp::LocalOnly => DhcpPolicy::LocalOnly,
            Dhcp::Trusted(mac) => DhcpPolicy::Trusted(mac),
        },
        anti_spoof: match network.anti_spoof {
            AntiSpoof::Learn => switch::AntiSpoof::Learn,
            AntiSpoof::Strict => switch::AntiSpoof::Strict,
        },
        broadcast_rate: network.broadcast_rate,
        broadcast_burst: network.broadcast_burst,
    }
}
