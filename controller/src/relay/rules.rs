//! Where the relay sends to. It stands inside somebody's network, and nobody reaches what is behind it through it.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

/// The addresses that are relayed to.
#[derive(Debug)]
pub(super) struct Rules {
    allow_private: bool,
    /// For tests, whose only network is the loopback.
    allow_loopback: bool,
    /// What nodes know this host by.
    announced: Vec<IpAddr>,
    own: HashSet<IpAddr>,
    looked: Option<Instant>,
}

impl Rules {
    pub(super) fn new(allow_private: bool, allow_loopback: bool, announced: Vec<IpAddr>) -> Rules {
        Rules { allow_private, allow_loopback, announced, own: HashSet::new(), looked: None }
    }

    /// Whether datagrams may go there.
    pub(super) fn permit(&mut self, address: IpAddr, now: Instant) -> bool {
        let address = address.to_canonical();
        if embedded(address).is_some_and(|inner| !self.is_open(inner)) || !self.is_open(address) {
            return false;
        }
        self.learn_own(now);
        address.is_loopback() || !self.own.contains(&address)
    }

    fn is_open(&self, address: IpAddr) -> bool {
        if address.is_loopback() {
            return self.allow_loopback;
        }
        let no_host = match address {
            IpAddr::V4(ip) => {
                // 0/8 is this network, 240/4 is reserved and holds the broadcast address.
                ip.octets()[0] == 0 || ip.octets()[0] >= 240 || ip.is_link_local()
            }
            // fec0::/10 was site-local.
            IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.segments()[0] & 0xffc0 == 0xfec0,
        };
        let no_host = no_host || address.is_unspecified() || address.is_multicast();
        !no_host && (self.allow_private || !is_private(address))
    }

    /// Addresses come and go: what is known of them is never older than some seconds.
    fn learn_own(&mut self, now: Instant) {
        if self.looked.is_some_and(|looked| now.saturating_duration_since(looked) < OWN_AGE) {
            return;
        }
        self.looked = Some(now);
        // Without an answer, what is known already stands.
        if let Ok(interfaces) = nix::ifaddrs::getifaddrs() {
            let address = |interface: nix::ifaddrs::InterfaceAddress| {
                let address = interface.address?;
                let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
                v4.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()))
            };
            self.own = interfaces.filter_map(address).collect();
        }
        self.own.extend(&self.announced);
    }
}

/// Addresses of a site's own, and others that lead nowhere in the internet: the carriers' ones for NAT, 192.0.0/24
/// (RFC 6890), those of benchmarks (RFC 2544), and a site's own prefix for NAT64 (RFC 8215), which leads to any of them.
pub(super) fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(ip) => {
            ip.is_private()
                || matches!(ip.octets(), [100, 64..=127, ..] | [192, 0, 0, _] | [198, 18..=19, ..])
        }
        IpAddr::V6(ip) => ip.is_unique_local() || ip.segments()[..3] == [0x64, 0xff9b, 1],
    }
}

/// The IPv4 address that a translator or a tunnel would make of it: NAT64 (RFC 6052), 6to4, Teredo, IPv4-compatible.
fn embedded(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(ip) = address else { return None };
    let [a, b, c, d, e, f, g, h] = ip.segments();
    let v4 = |high: u16, low: u16| Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)).into());
    match [a, b, c, d, e, f] {
        [0x64, 0xff9b, 0, 0, 0, 0] | [0, 0, 0, 0, 0, 0] if ip != Ipv6Addr::LOCALHOST => v4(g, h),
        [0x2002, high, low, ..] => v4(high, low),
        [0x2001, 0, ..] => v4(!g, !h),
        _ => None,
    }
}

const OWN_AGE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn permits(rules: &mut Rules, addresses: &[&str]) -> Vec<bool> {
        let now = Instant::now();
        addresses.iter().map(|address| rules.permit(address.parse().unwrap(), now)).collect()
    }

    const NEVER: [&str; 19] = [
        "127.0.0.1",
        "::1",
        "0.0.0.0",
        "0.1.2.3",
        "::",
        "224.0.0.1",
        "ff02::1",
        "255.255.255.255",
        "240.0.0.1",
        "169.254.169.254",
        "fe80::1",
        "fec0::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "2002:7f00:1::1",
        "2001:0:4136:e378:8000:63bf:80ff:fffe",
        "::127.0.0.1",
        "203.0.113.10",
    ];
    const PRIVATE: [&str; 12] = [
        "10.1.0.2",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "192.0.0.8",
        "198.18.0.1",
        "198.19.255.1",
        "fd00::1",
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",
        "64:ff9b:1::808:808",
        "2002:a00:1::1",
    ];
    const PUBLIC: [&str; 4] = ["203.0.113.20", "2001:db8::20", "8.8.8.8", "64:ff9b::808:808"];

    #[test]
    fn what_is_no_other_host_is_never_sent_to() {
        let announced = vec!["203.0.113.10".parse().unwrap()];
        for allow_private in [false, true] {
            let mut rules = Rules::new(allow_private, false, announced.clone());
            assert_eq!(permits(&mut rules, &NEVER), [false; NEVER.len()]);
            assert_eq!(permits(&mut rules, &PUBLIC), [true; PUBLIC.len()]);
        }
    }

    #[test]
    fn private_addresses_are_sent_to_where_that_is_allowed() {
        for allow_private in [false, true] {
            let mut rules = Rules::new(allow_private, false, Vec::new());
            assert_eq!(permits(&mut rules, &PRIVATE), [allow_private; PRIVATE.len()]);
        }
    }

    #[test]
    fn this_hosts_addresses_are_its_own() {
        let mut rules = Rules::new(true, false, Vec::new());
        for interface in nix::ifaddrs::getifaddrs().unwrap() {
            let address = interface.address;
            let v4 = address.and_then(|address| address.as_sockaddr_in().copied());
            if let Some(v4) = v4.map(|v4| v4.ip()) {
                assert!(!rules.permit(v4.into(), Instant::now()), "{v4}");
            }
        }
    }
}
