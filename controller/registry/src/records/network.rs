//! Networks.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::ids::{Mac, NodeId, Timestamp, Vni};

/// One virtual layer-2 segment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    /// Its id.
    pub vni: Vni,
    /// Its name; the bridge on each node is `br-<name>`.
    pub name: String,
    /// What guests see of remote stations.
    pub mode: Mode,
    /// The guests' MTU.
    pub mtu: u32,
    /// Where instances' IPv4 addresses come from.
    pub subnet_v4: Option<Subnet>,
    /// Where instances' IPv6 addresses come from.
    pub subnet_v6: Option<Subnet>,
    /// The instances' way out, at most one of each family.
    pub gateways: Vec<IpAddr>,
    /// What is done with DHCP.
    pub dhcp: Dhcp,
    /// What is done with a source that is bound elsewhere.
    pub anti_spoof: AntiSpoof,
    /// The MSS of TCP is clamped to what fits a path.
    pub mss_clamp: bool,
    /// Broadcast frames a second from one station; 0 for the switch's default.
    pub broadcast_rate: u32,
    /// Broadcast frames at once from one station; 0 for the switch's default.
    pub broadcast_burst: u32,
    /// It is for the nodes themselves: each of them, not its instances, is a station of it.
    pub host: bool,
    /// Which nodes have it.
    pub nodes: Membership,
    /// When it was made.
    pub created: Timestamp,
}

impl Default for Network {
    fn default() -> Self {
        Network {
            vni: Vni(0),
            name: String::new(),
            mode: Mode::Rewrite,
            mtu: 1500,
            subnet_v4: None,
            subnet_v6: None,
            gateways: Vec::new(),
            dhcp: Dhcp::Forward,
            anti_spoof: AntiSpoof::Learn,
            mss_clamp: true,
            broadcast_rate: 0,
            broadcast_burst: 0,
            host: false,
            nodes: Membership::All,
            created: Timestamp(0),
        }
    }
}

/// What guests see of remote stations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The endpoint's MAC.
    #[default]
    Rewrite,
    /// Their own MACs.
    Preserve,
}

/// What is done with DHCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dhcp {
    /// It is passed on like other broadcasts.
    #[default]
    Forward,
    /// It stays on its bridge.
    LocalOnly,
    /// Only this server's answers pass.
    Trusted(Mac),
}

/// What is done with a local frame of a station that is bound elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AntiSpoof {
    /// It may be a move and is claimed.
    #[default]
    Learn,
    /// It is dropped.
    Strict,
}

/// Which nodes have a network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Membership {
    /// Every node, those to come too.
    #[default]
    All,
    /// These.
    Nodes(BTreeSet<NodeId>),
}

impl Membership {
    /// A node has the network.
    #[must_use]
    pub fn includes(&self, node: NodeId) -> bool {
        match self {
            Membership::All => true,
            Membership::Nodes(nodes) => nodes.contains(&node),
        }
    }
}

/// A range of addresses, `10.1.0.0/24`. Bits past the length are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subnet {
    base: IpAddr,
    length: u8,
}

impl Subnet {
    /// The first address.
    #[must_use]
    pub fn base(self) -> IpAddr {
        self.base
    }

    /// The prefix's length in bits.
    #[must_use]
    pub fn length(self) -> u8 {
        self.length
    }

    /// An address is in it.
    #[must_use]
    pub fn contains(self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.base.is_ipv4() && mask(ip, self.length) == self.base
    }

    /// The addresses that instances may have, lowest first: neither the first one nor, in IPv4, the last one (the
    /// broadcast address); a /31, /32, /127 or /128 is used whole.
    pub fn hosts(self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.base.is_ipv4();
        self.host_range().map(move |n| {
            if v4 {
                IpAddr::V4(Ipv4Addr::from_bits(
                    u32::try_from(n & 0xffff_ffff).expect("the mask leaves 32 bits"),
                ))
            } else {
                IpAddr::V6(Ipv6Addr::from_bits(n))
            }
        })
    }
}

impl Subnet {
    /// An address is one of [`hosts`](Subnet::hosts).
    #[must_use]
    pub fn may_host(self, ip: IpAddr) -> bool {
        self.contains(ip) && self.host_range().contains(&bits(ip))
    }

    fn host_range(self) -> std::ops::RangeInclusive<u128> {
        let v4 = self.base.is_ipv4();
        let start = bits(self.base);
        let free = u32::from(if v4 { 32 } else { 128 } - self.length);
        let last = start | if free >= 128 { u128::MAX } else { (1 << free) - 1 };
        match (free > 1, v4) {
            (false, _) => start..=last,
            (true, true) => start + 1..=last - 1,
            (true, false) => start + 1..=last,
        }
    }
}

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

fn mask(ip: IpAddr, length: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let keep = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() & keep))
        }
        IpAddr::V6(ip) => {
            let keep = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & keep))
        }
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.length)
    }
}

impl FromStr for Subnet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a subnet such as 10.1.0.0/24 or fd00:1::/64");
        let (base, length) = text.split_once('/').ok_or_else(wrong)?;
        let base: IpAddr = base.parse().map_err(|_| wrong())?;
        let length: u8 = length.parse().map_err(|_| wrong())?;
        if length > if base.is_ipv4() { 32 } else { 128 } {
            return Err(wrong());
        }
        let first = mask(base, length);
        if first != base {
            return Err(format!("`{text}` has bits past its length; write {first}/{length}"));
        }
        Ok(Subnet { base, length })
    }
}

impl Serialize for Subnet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Subnet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(text: &str, count: usize) -> Vec<String> {
        text.parse::<Subnet>().unwrap().hosts().take(count).map(|ip| ip.to_string()).collect()
    }

    #[test]
    fn hosts_are_the_addresses_that_instances_may_have() {
        assert_eq!(hosts("10.1.0.0/30", 9), ["10.1.0.1", "10.1.0.2"]);
        assert_eq!(hosts("10.1.0.0/31", 9), ["10.1.0.0", "10.1.0.1"]);
        assert_eq!(hosts("10.1.0.4/32", 9), ["10.1.0.4"]);
        assert_eq!(hosts("255.255.255.252/30", 9), ["255.255.255.253", "255.255.255.254"]);
        assert_eq!(hosts("fd00::/64", 2), ["fd00::1", "fd00::2"]);
        assert_eq!(hosts("::/0", 1), ["::1"]);
        assert_eq!(hosts("0.0.0.0/0", 1), ["0.0.0.1"]);
    }

    #[test]
    fn subnets_that_are_none_are_refused() {
        for text in
            ["10.1.0.0", "10.1.0.1/24", "10.1.0.0/33", "fd00::/129", "a/8", "10.1.0.0/", "10.1.0.0/-1"]
        {
            assert!(text.parse::<Subnet>().is_err(), "{text}");
        }
    }
}
