//! Where peers may reach this node: the host's own addresses with the port of its UDP socket.

use std::net::{IpAddr, SocketAddr};

use crate::netlink::{Address, Link, LinkKind, Netlink, NetlinkError};

/// Reads them from the kernel. `overlay` are the names of the overlay's bridges and endpoints.
pub(crate) async fn read(
    netlink: &Netlink,
    overlay: &[String],
    listen: SocketAddr,
) -> Result<Vec<SocketAddr>, NetlinkError> {
    let mut host = Vec::new();
    for link in netlink.links().await? {
        if is_usable(&link, overlay) {
            let addresses = netlink.addresses(link.index).await?;
            host.push((link, addresses));
        }
    }
    Ok(choose(&host, overlay, listen))
}

/// Which of them are announced, in the kernel's order.
fn choose(host: &[(Link, Vec<Address>)], overlay: &[String], listen: SocketAddr) -> Vec<SocketAddr> {
    let links = host.iter().filter(|(link, _)| is_usable(link, overlay));
    let ips = links.flat_map(|(_, addresses)| addresses).filter(|address| !address.link_local);
    let ips = ips.map(|address| address.ip).filter(|ip| is_reachable(*ip, listen.ip()));
    let mut chosen: Vec<SocketAddr> = ips.map(|ip| SocketAddr::new(ip, listen.port())).collect();
    chosen.dedup();
    chosen.truncate(MOST);
    chosen
}

fn is_usable(link: &Link, overlay: &[String]) -> bool {
    link.up && link.kind != LinkKind::Tap && !overlay.contains(&link.name)
}

fn is_reachable(ip: IpAddr, listen: IpAddr) -> bool {
    let own_only = !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast();
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let heard = match listen {
        IpAddr::V4(listen) if listen.is_unspecified() => ip.is_ipv4(),
        // Both families.
        IpAddr::V6(listen) if listen.is_unspecified() => true,
        listen => listen == ip,
    };
    own_only && !link_local && heard
}

/// More would only be dialled in vain.
const MOST: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn link(name: &str, kind: LinkKind, up: bool) -> Link {
        Link {
            index: 1,
            name: name.into(),
            kind,
            master: None,
            mac: None,
            mtu: 1500,
            up,
            created_by_us: false,
            multicast_router: None,
        }
    }

    fn address(ip: &str) -> Address {
        Address { ip: ip.parse().unwrap(), prefix: 24, link_local: ip.starts_with("fe80") }
    }

    fn host() -> Vec<(Link, Vec<Address>)> {
        vec![
            (link("lo", LinkKind::Other, true), vec![address("127.0.0.1"), address("::1")]),
            (
                link("eth0", LinkKind::Other, true),
                vec![
                    address("192.0.2.1"),
                    address("2001:db8::1"),
                    address("fe80::1"),
                    address("169.254.1.1"),
                ],
            ),
            (link("eth1", LinkKind::Other, false), vec![address("192.0.2.2")]),
            (link("br0", LinkKind::Bridge, true), vec![address("198.51.100.1")]),
            (link("br-blue", LinkKind::Bridge, true), vec![address("10.0.0.1")]),
            (link("tap0", LinkKind::Tap, true), vec![address("10.1.0.1")]),
        ]
    }

    #[test]
    fn the_hosts_own_addresses_are_announced_and_no_others() {
        let cases = [
            ("[::]:4840", vec!["192.0.2.1:4840", "[2001:db8::1]:4840", "198.51.100.1:4840"]),
            ("0.0.0.0:4841", vec!["192.0.2.1:4841", "198.51.100.1:4841"]),
            ("192.0.2.1:4840", vec!["192.0.2.1:4840"]),
            ("127.0.0.1:4840", vec![]),
        ];
        for (listen, expected) in cases {
            let chosen = choose(&host(), &["br-blue".into(), "sw100".into()], listen.parse().unwrap());
            let expected: Vec<SocketAddr> = expected.iter().map(|text| text.parse().unwrap()).collect();
            assert_eq!(chosen, expected, "{listen}");
        }
    }
}
