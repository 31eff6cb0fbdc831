//! What a switch is told at its start, and the part of it that may change while it runs.

use std::net::IpAddr;
use std::time::Duration;

use crate::ids::{Mac, Vni};

/// A switch's settings.
#[derive(Clone, Debug)]
pub struct SwitchConfig {
    /// The network that the switch serves.
    pub vni: Vni,
    /// Which MAC addresses guests see.
    pub mode: Mode,
    /// The address that stands for every remote instance in [`Mode::Rewrite`], and the source of frames that
    /// the switch makes itself. The same on every node of the network; never the TAP device's own.
    pub endpoint_mac: Mac,
    /// The reloadable rules.
    pub policy: Policy,
    /// Bounds and ages.
    pub limits: Limits,
    /// IPs of the network's routers. Others are learned from router advertisements and DHCPv4. Guests see a
    /// router's own MAC in [`Mode::Rewrite`] too, so that the MAC tells what is for the router.
    pub gateways: Vec<IpAddr>,
    /// Keys of the tables' hash function: random, so that nobody can choose addresses that collide.
    pub hash_seed: [u64; 4],
}

/// Which MAC addresses guests see for remote instances.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// The endpoint's, for every remote IP (the paper's section IV-B).
    #[default]
    Rewrite,
    /// The instances' own, with ARP and ND answered from the bindings (RFC 9161).
    Preserve,
}

/// Rules of a network that may change while it runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Which DHCP and router-advertisement messages cross the overlay.
    pub dhcp: DhcpPolicy,
    /// What a frame's source address must satisfy.
    pub anti_spoof: AntiSpoof,
    /// Frames per second that may be flooded to the peers.
    pub broadcast_rate: u32,
    /// Frames that may be flooded at once after a silence. An eighth of it is kept for ARP, ND and DHCP.
    pub broadcast_burst: u32,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            dhcp: DhcpPolicy::Forward,
            anti_spoof: AntiSpoof::Learn,
            broadcast_rate: 1000,
            broadcast_burst: 2000,
        }
    }
}

/// What becomes of DHCPv4, DHCPv6, router solicitations and router advertisements.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DhcpPolicy {
    /// Forwarded like any frame.
    #[default]
    Forward,
    /// None crosses the overlay, in either direction.
    LocalOnly,
    /// A server's messages and router advertisements cross only from this MAC.
    Trusted(Mac),
}

/// What a frame's source must satisfy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AntiSpoof {
    /// Sources are learned; only what contradicts a controller's binding is refused.
    #[default]
    Learn,
    /// A local frame needs a controller's binding that puts its MAC on this node (and, where that binding
    /// lists IPs, its source IP among them); a remote frame must not contradict a controller's binding.
    Strict,
}

/// Bounds and ages of a switch's tables. A full table evicts what was learned or announced and not seen for longest,
/// never a controller's binding. Memory: about 530 bytes a MAC with two IPs, used only when filled; 100,000 bindings
/// fit the defaults, in 53 MB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Stations, counted by (VLAN tags, MAC).
    pub max_macs: usize,
    /// IPs, counted by (VLAN tags, IP).
    pub max_ips: usize,
    /// Learned IPs of one station.
    pub max_ips_per_mac: usize,
    /// A learned station without IPs is forgotten this long after its last frame.
    pub mac_age: Duration,
    /// A learned IP is forgotten this long after ARP or ND last named it.
    pub ip_age: Duration,
    /// Targets whose requests are remembered, to limit them and to return their replies.
    pub max_asks: usize,
    /// One request for an unknown target crosses the overlay per interval.
    pub ask_interval: Duration,
    /// Frames held for one unresolved target. Their bytes are bounded too: 64 KiB and a frame.
    pub hold_per_target: usize,
    /// Frames held of one sender.
    pub hold_per_sender: usize,
    /// Frames held in all.
    pub hold_frames: usize,
    /// Bytes held in all.
    pub hold_bytes: usize,
    /// A held frame is dropped after this.
    pub hold_time: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_macs: 1 << 17,
            max_ips: 1 << 18,
            max_ips_per_mac: 64,
            mac_age: Duration::from_secs(300),
            ip_age: Duration::from_secs(1200),
            max_asks: 4096,
            ask_interval: Duration::from_secs(1),
            hold_per_target: 16,
            hold_per_sender: 256,
            hold_frames: 1024,
            hold_bytes: 4 << 20,
            hold_time: Duration::from_secs(3),
        }
    }
}
