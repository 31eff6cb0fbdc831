//! The configuration's words as the planes'.

use std::net::IpAddr;

use switch_core::switch::{self, DhcpPolicy, Limits, Policy, SwitchConfig};

use crate::config::{AntiSpoof, Config, Dhcp, Mode, Network};
use crate::dataplane::NetworkConfig;
use crate::links;

pub(super) fn network_config(config: &Config, network: &Network, hash_seed: [u64; 4]) -> NetworkConfig {
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
    let host = network
        .host
        .iter()
        .flat_map(|host| host.addresses.iter().map(|(ip, _)| *ip).chain([IpAddr::V6(host.link_local())]));
    NetworkConfig {
        name: network.name.as_str().into(),
        switch,
        mss_clamp: network.mss_clamp,
        carriage: config.carriage_of(network),
        host: host.collect(),
    }
}

pub(super) fn link_config(config: &Config) -> links::LinkConfig {
    let link = &config.link;
    links::LinkConfig {
        keepalive: link.keepalive,
        dead_after: link.dead_after,
        rekey_after: link.rekey_after,
        underlay_mtu: link.underlay_mtu,
        on_demand: link.on_demand,
        quic_carriage: config.uses_quic_carriage(),
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

pub(super) fn policy(network: &Network) -> Policy {
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
