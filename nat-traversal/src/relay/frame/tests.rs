use std::net::Ipv6Addr;

use proptest::prelude::*;
use turn_client_proto::types::attribute::{Data, XorPeerAddress};
use turn_client_proto::types::stun::message::Message;

use super::*;

fn peers() -> impl Strategy<Value = SocketAddr> {
    let v4 = any::<[u8; 4]>().prop_map(|ip| IpAddr::from(Ipv4Addr::from(ip)));
    let v6 = any::<[u8; 16]>().prop_map(|ip| IpAddr::from(Ipv6Addr::from(ip)));
    (prop_oneof![v4, v6], any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn whole(head: &IndicationHead, payload: &[u8]) -> Vec<u8> {
    let mut datagram = head.as_slice().to_vec();
    datagram.extend_from_slice(payload);
    datagram.resize(datagram.len() + stream_padding(payload.len()), 0);
    datagram
}

proptest! {
    #[test]
    fn channel_data_comes_back(channel in CHANNELS, payload in prop::collection::vec(any::<u8>(), 0..1500)) {
        let mut datagram = channel_header(channel, payload.len() as u16).to_vec();
        datagram.extend_from_slice(&payload);
        prop_assert_eq!(parse_channel(&datagram), Some((channel, &payload[..])));
        for cut in 0..datagram.len() {
            prop_assert_eq!(parse_channel(&datagram[..cut]), None);
        }
        datagram.extend_from_slice(&[0; 3]);
        prop_assert_eq!(parse_channel(&datagram), Some((channel, &payload[..])), "padding is left out");
    }

    #[test]
    fn indications_come_back_and_read_as_the_library_reads_them(
        peer in peers(), payload in prop::collection::vec(any::<u8>(), 0..1500), id in any::<[u8; 12]>(),
    ) {
        let datagram = whole(&data_indication(peer, payload.len(), id).unwrap(), &payload);
        let (from, range) = parse_data_indication(&datagram).unwrap();
        prop_assert_eq!((from, &datagram[range]), (peer, &payload[..]));
        prop_assert_eq!(parse_send_indication(&datagram), None);
        for cut in 0..datagram.len() {
            prop_assert_eq!(parse_data_indication(&datagram[..cut]), None);
        }
        let sent = whole(&send_indication(peer, payload.len(), id).unwrap(), &payload);
        let (to, range) = parse_send_indication(&sent).unwrap();
        prop_assert_eq!((to, &sent[range]), (peer, &payload[..]));
        let message = Message::from_bytes(&sent).unwrap();
        let seen = message.attribute::<XorPeerAddress>().unwrap().addr(message.transaction_id());
        prop_assert_eq!(seen, peer);
        let data = message.attribute::<Data<'_>>().unwrap();
        prop_assert_eq!(data.data(), &payload[..]);
    }

    #[test]
    fn mutated_and_random_datagrams_never_panic(
        peer in peers(), payload in prop::collection::vec(any::<u8>(), 0..200),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        noise in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut datagram = whole(&data_indication(peer, payload.len(), [3; 12]).unwrap(), &payload);
        for (at, bits) in flips {
            let at = at.index(datagram.len());
            datagram[at] ^= bits;
        }
        if let Some((_, range)) = parse_data_indication(&datagram) {
            prop_assert!(datagram.get(range).is_some());
        }
        parse_channel(&datagram);
        parse_data_indication(&noise);
        parse_channel(&noise);
    }
}

#[test]
fn what_is_too_long_for_an_indication_is_refused() {
    let peer = "192.0.2.1:1".parse().unwrap();
    assert!(send_indication(peer, 65_500, [0; 12]).is_some());
    assert!(send_indication(peer, 65_535, [0; 12]).is_none());
    assert!(send_indication(peer, 70_000, [0; 12]).is_none());
}

#[test]
fn an_indication_without_data_or_peer_is_none() {
    let peer: SocketAddr = "192.0.2.1:1".parse().unwrap();
    let datagram = whole(&data_indication(peer, 4, [1; 12]).unwrap(), &[1, 2, 3, 4]);
    let mut no_data = datagram.clone();
    no_data[33] = 0x14;
    assert_eq!(parse_data_indication(&no_data), None);
    let mut no_peer = datagram;
    no_peer[21] = 0x14;
    assert_eq!(parse_data_indication(&no_peer), None);
}

#[test]
fn other_channel_numbers_are_none() {
    for channel in [0u16, 0x3fff, 0x5000, 0x7fff, 0x8000] {
        assert_eq!(parse_channel(&channel_header(channel, 0)), None, "{channel:x}");
    }
}

#[test]
fn padding_fills_to_four() {
    for (length, padding) in [(0, 0), (1, 3), (2, 2), (3, 1), (4, 0), (1201, 3)] {
        assert_eq!(stream_padding(length), padding);
    }
}
