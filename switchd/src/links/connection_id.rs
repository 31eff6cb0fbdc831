//! Connection ids (RFC 9000, 5.1) that keep a connection's packets on one socket, and so in order.

use std::time::Duration;

use quinn::{ConnectionId, ConnectionIdGenerator};

/// Random ids, not ids that only this process can tell: a restarted node must answer its predecessor's.
///
/// One bit is not random. The first byte of a short header (64 to 127) may be that of channel data (64 to 79), behind
/// which the kernel looks for a sealed datagram to give it to its lane's socket (`underlay::sys`). It looks at the
/// fifth byte of the packet, the fourth of the id: below 128 nothing is sealed there.
#[derive(Debug)]
pub(super) struct InOrder;

impl ConnectionIdGenerator for InOrder {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; LEN];
        aws_lc_rs::rand::fill(&mut id).expect("the operating system has randomness");
        id[3] &= 0x7f;
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

const LEN: usize = 8;

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};

    use super::*;
    use crate::underlay::Underlay;

    #[test]
    fn packets_of_a_connection_arrive_at_the_socket_that_is_not_the_bulk_lane_s() {
        let underlay = Underlay::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let to = SocketAddr::from(([127, 0, 0, 1], underlay.socket().local_addr().unwrap().port()));
        let from = UdpSocket::bind("127.0.0.1:0").unwrap();
        underlay.socket().set_nonblocking(false).unwrap();
        underlay.socket().set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let mut buf = [0; 64];
        for _ in 0..64 {
            let id = InOrder.generate_cid();
            for first in 64..128 {
                let mut packet = [first; 40];
                packet[1..=LEN].copy_from_slice(&id);
                // What comes next is protected, and looks random.
                packet[12] = first << 2;
                from.send_to(&packet, to).unwrap();
                let len = underlay.socket().recv(&mut buf).unwrap();
                assert_eq!(buf[..len], packet, "{id}");
            }
        }
    }

    #[test]
    fn no_two_are_alike() {
        let ids: std::collections::HashSet<_> = (0..1000).map(|_| InOrder.generate_cid().to_vec()).collect();
        assert_eq!((ids.len(), InOrder.cid_len()), (1000, LEN));
    }
}
