//! IP multicast between instances.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::net::if_::if_nametoindex;
use socket2::SockRef;

use super::fill;
use crate::ns::Namespace;

/// Sends `count` datagrams to `group` through `eth0` of `from`; `receivers` have joined it on their `eth0`. Returns how
/// many right ones each receiver got. A wrong one is an error.
pub fn multicast(from: &Namespace, receivers: &[&Namespace], group: IpAddr, count: u64) -> Result<Vec<u64>> {
    let sockets: Vec<UdpSocket> = receivers.iter().map(|ns| joined(ns, group)).collect::<Result<_>>()?;
    // IPv4 chooses the interface by route, and these namespaces have no default route.
    from.ip("route replace 224.0.0.0/4 dev eth0")?;
    let sender = from.enter(|| sender(group))?;
    let mut payload = [0; 1200];
    for n in 0..count {
        fill(&mut payload, n << 20);
        payload[..8].copy_from_slice(&n.to_le_bytes());
        sender.send_to(&payload, SocketAddr::new(group, PORT)).context("cannot send to the group")?;
    }
    sockets.iter().map(|socket| count_right(socket, count)).collect()
}

fn joined(ns: &Namespace, group: IpAddr) -> Result<UdpSocket> {
    ns.enter(|| {
        let index = if_nametoindex("eth0")?;
        let socket = UdpSocket::bind(SocketAddr::new(group, PORT)).context("cannot bind to the group")?;
        match group {
            IpAddr::V4(v4) => {
                let by_index = socket2::InterfaceIndexOrAddress::Index(index);
                SockRef::from(&socket).join_multicast_v4_n(&v4, &by_index)?;
            }
            IpAddr::V6(v6) => socket.join_multicast_v6(&v6, index)?,
        }
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        Ok(socket)
    })
}

fn sender(group: IpAddr) -> Result<UdpSocket> {
    let any: IpAddr =
        if group.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    let index = if_nametoindex("eth0")?;
    if group.is_ipv6() {
        SockRef::from(&socket).set_multicast_if_v6(index)?;
    }
    Ok(socket)
}

fn count_right(socket: &UdpSocket, count: u64) -> Result<u64> {
    let (mut buf, mut want, mut got) = ([0; 2000], [0; 1200], 0);
    let deadline = Instant::now() + Duration::from_secs(2);
    while got < count && Instant::now() < deadline {
        let Ok(len) = socket.recv(&mut buf) else { continue };
        let Some(n) = buf.first_chunk().map(|b| u64::from_le_bytes(*b)) else { continue };
        fill(&mut want, n << 20);
        want[..8].copy_from_slice(&n.to_le_bytes());
        if buf[..len] != want {
            bail!("multicast datagram {n} arrived changed");
        }
        got += 1;
    }
    Ok(got)
}

const PORT: u16 = 5353;
