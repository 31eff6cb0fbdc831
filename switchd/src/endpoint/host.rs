//! The host itself as a station: the addresses and the MAC that its bridge has.

use std::net::IpAddr;

use tracing::{debug, info, warn};

use super::EndpointError;
use super::keeper::Keeper;
use crate::config::HostStation;
use crate::netlink::{Address, NetlinkError};

impl Keeper {
    /// What the bridge is to have of the host.
    pub(super) fn wanted_host(&self) -> Option<HostStation> {
        let mut host = self.config.host.clone()?;
        if host.addresses.iter().any(|(ip, _)| ip.is_ipv6()) {
            // Without one of its own the host cannot poll its neighbours (ndisc_send_ns, net/ipv6/ndisc.c).
            host.addresses.push((host.link_local().into(), 64));
        }
        host.addresses.retain(|(ip, _)| !self.refused.contains(ip));
        Some(host)
    }

    /// The bridge's addresses, if they are of interest.
    pub(super) async fn host_addresses(&self, bridge: u32) -> Result<Vec<Address>, NetlinkError> {
        if self.config.host.is_none() {
            return Ok(Vec::new());
        }
        self.netlink.addresses(bridge).await
    }

    /// Gives the bridge an address of the host. An IPv6 address that the host does not take is done without: it may
    /// have no IPv6.
    pub(super) async fn add_host_address(
        &mut self,
        bridge: u32,
        ip: IpAddr,
        prefix: u8,
    ) -> Result<(), EndpointError> {
        self.check_overlap(bridge, ip, prefix).await?;
        let name = self.config.bridge.clone();
        let safe = self.make_station(&name);
        if ip.is_ipv6() && !safe {
            warn!(bridge = name, %ip, "not added: accept_ra of the bridge cannot be set to 0, and its peers could give the host routes");
            self.refused.push(ip);
            return Ok(());
        }
        match self.netlink.add_address(bridge, ip, prefix).await {
            Ok(()) => {
                info!(bridge = name, %ip, prefix, "this node has its address");
                Ok(())
            }
            Err(e) if ip.is_ipv6() && !e.is_gone() && e.errno().is_some() => {
                warn!(bridge = name, %ip, "not added: {e}");
                self.refused.push(ip);
                Ok(())
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Takes the host's addresses away. None of a bridge that goes on.
    pub(super) async fn remove_host_addresses(&self, bridge: u32) -> Result<(), NetlinkError> {
        let Some(host) = self.wanted_host() else { return Ok(()) };
        for address in self.netlink.addresses(bridge).await? {
            if host.addresses.contains(&(address.ip, address.prefix)) {
                self.netlink.remove_address(bridge, address.ip, address.prefix).await?;
            }
        }
        Ok(())
    }

    /// On a bridge that switchd made the host is asked for the addresses of that bridge alone, not for others that it
    /// has, and takes no routes or addresses from router advertisements. False if the latter could not be said.
    pub(super) fn keep_to_itself(&self) -> bool {
        sysctl("ipv4", &self.config.bridge, "arp_ignore", "1");
        sysctl("ipv6", &self.config.bridge, "accept_ra", "0")
    }

    /// The host speaks here for its addresses of this network alone, and does not pass on what it hears here. False if
    /// it might take routes from others.
    fn make_station(&self, bridge: &str) -> bool {
        sysctl("ipv4", bridge, "arp_announce", "2");
        sysctl("ipv4", bridge, "accept_redirects", "0");
        sysctl("ipv4", bridge, "forwarding", "0");
        sysctl("ipv6", bridge, "accept_redirects", "0");
        sysctl("ipv6", bridge, "disable_ipv6", "0");
        self.keep_to_itself()
    }

    /// An address whose subnet is that of another device would take the host's traffic for itself, the underlay's
    /// first of all.
    async fn check_overlap(&self, bridge: u32, ip: IpAddr, prefix: u8) -> Result<(), EndpointError> {
        if is_link_local(ip) {
            return Ok(());
        }
        for link in self.netlink.links().await?.into_iter().filter(|link| link.index != bridge) {
            for address in self.netlink.addresses(link.index).await? {
                if overlap((ip, prefix), (address.ip, address.prefix)) {
                    return Err(EndpointError::Overlap {
                        ip,
                        prefix,
                        bridge: self.config.bridge.clone(),
                        device: link.name,
                        other: address.ip,
                    });
                }
            }
        }
        Ok(())
    }
}

/// True if it was set.
fn sysctl(family: &str, device: &str, key: &str, value: &str) -> bool {
    let path = format!("/proc/sys/net/{family}/conf/{device}/{key}");
    match std::fs::write(&path, value) {
        Ok(()) => true,
        Err(e) => {
            debug!("cannot write {path}: {e}");
            false
        }
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// One of two subnets holds the other.
fn overlap(a: (IpAddr, u8), b: (IpAddr, u8)) -> bool {
    let shorter = a.1.min(b.1);
    let bits = |ip| match ip {
        IpAddr::V4(ip) => (32, u128::from(ip.to_bits())),
        IpAddr::V6(ip) => (128, ip.to_bits()),
    };
    let ((width, a), (other_width, b)) = (bits(a.0), bits(b.0));
    let shift = |bits: u128| bits.checked_shr(width - u32::from(shorter)).unwrap_or(0);
    width == other_width && shift(a) == shift(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_local_address_goes_with_the_mac() {
        let of = |mac| HostStation { addresses: Vec::new(), mac: switch_core::ids::Mac(mac) }.link_local();
        assert_eq!(of([0x02, 0x73, 0x69, 0, 0, 7]).to_string(), "fe80::73:69ff:fe00:7");
        assert_eq!(of([0x52, 0x54, 0, 0x12, 0x34, 0x56]).to_string(), "fe80::5054:ff:fe12:3456");
    }

    #[test]
    fn subnets_overlap_where_one_holds_the_other() {
        let cases = [
            ("10.0.0.1/24", "10.0.0.200/24", true),
            ("10.0.0.1/24", "10.0.1.1/24", false),
            ("100.80.0.1/16", "100.64.0.9/10", true),
            ("100.80.0.1/16", "100.80.7.7/32", true),
            ("10.0.0.1/8", "fd00::1/8", false),
            ("fd00::1/64", "fd00:0:0:1::1/64", false),
            ("fd00::1/64", "fd00::2/128", true),
            ("10.0.0.1/24", "127.0.0.1/8", false),
        ];
        let parse = |text: &str| {
            let (ip, prefix) = text.split_once('/').unwrap();
            (ip.parse().unwrap(), prefix.parse().unwrap())
        };
        for (a, b, expected) in cases {
            assert_eq!(overlap(parse(a), parse(b)), expected, "{a} {b}");
            assert_eq!(overlap(parse(b), parse(a)), expected, "{b} {a}");
        }
    }
}
