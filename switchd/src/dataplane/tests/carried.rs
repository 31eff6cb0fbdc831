//! What QUIC gives to a running worker, right and wrong.

use switch_core::fragment::Fragmenter;
use switch_core::wire::{FrameHeader, Origin, Probe, encode_fragment};

use super::*;
use crate::dataplane::QuicMessages;

fn message(vni: Vni, len: usize) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 9, 0x88, 0xb5]);
    frame.resize(len, 7);
    [&FrameHeader { vni, origin: Origin::Whole, csum: None }.encode()[..], &frame].concat()
}

fn fragments(vni: Vni) -> Vec<Vec<u8>> {
    let whole = message(vni, 4000);
    let mut fragmenter = Fragmenter::new(1);
    let pieces = fragmenter.cut(&whole, 1000).unwrap();
    pieces.map(|(info, data)| [&encode_fragment(vni, &info)[..], data].concat()).collect()
}

/// Frames of members reach their network, whichever carriage it has itself; all else is counted.
#[tokio::test]
async fn messages_from_quic_are_judged_as_those_that_were_sealed() {
    let node = Node::start();
    let (vni, other) = (Vni::new(7).unwrap(), Vni::new(8).unwrap());
    node.send(Command::AddNetwork(network(vni, Vec::new())));
    node.send(Command::AddPeer(PEER, "other".into(), vec![vni]));
    let probe = Probe { answer_wanted: true, sequence: 1, heard_ms: None, datagram_len: 44 };
    let give = |peer: PeerId, messages: Vec<Vec<u8>>| {
        let messages = messages.into_iter().map(Bytes::from).collect();
        assert!(node.plane.handle.carried(QuicMessages { peer, messages }));
    };
    let count = |reason: &str| {
        let stats = node.plane.snapshot.load().stats.clone();
        let of_network = stats.networks.iter().flat_map(|network| &network.remote.drops);
        let all = stats.datagram_drops.iter().chain(of_network);
        all.filter(|(label, _)| label == reason).map(|(_, count)| count).sum::<u64>()
    };
    let frames = || node.plane.snapshot.load().stats.networks.first().map_or(0, |n| n.remote.frames);

    give(PEER, vec![message(vni, 60)]);
    node.snapshot("counted", |peer| peer.counters.quic_from_peer == 1).await;
    assert_eq!((count("not_a_member"), frames()), (1, 0), "it has not said that it is in the network");

    node.send(Command::SetMembership(PEER, vec![vni]));
    let wrong = vec![vec![], vec![1, 2, 3], probe.encode().to_vec(), vec![0xff; 1400]];
    give(PEER, [vec![message(vni, 60), message(other, 60)], wrong, fragments(vni)].concat());
    give(PeerId(99), vec![message(vni, 60)]);
    node.snapshot("counted", |peer| peer.counters.quic_from_peer == 12).await;
    let end = Instant::now() + PATIENCE;
    while frames() < 2 || count("not_a_member") < 2 {
        assert!(Instant::now() < end, "{} frames", frames());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!((count("unknown_network"), count("bad_inner_header"), frames()), (1, 4, 2));
    let peer = node.plane.snapshot.load().peers[&PEER].counters;
    assert_eq!((peer.datagrams_from_peer, peer.last_frame.is_some()), (0, true));
}

/// QUIC packets that find the link plane's queue full are counted one by one, also those that came in one piece.
#[tokio::test]
async fn every_packet_without_room_is_counted() {
    let mut node = Node::start();
    let stranger = Underlay::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let run = [0x40; RUN * 1000];
    let dropped = |node: &Node| {
        let stats = node.plane.snapshot.load().stats.clone();
        stats.datagram_drops.iter().find(|(label, _)| label == "queue_full").map_or(0, |(_, count)| *count)
    };
    let (mut sent, end) = (0, Instant::now() + PATIENCE);
    // Nobody takes anything from the queue.
    while dropped(&node) == 0 {
        assert!(Instant::now() < end, "{sent} sent");
        stranger.send(node.address(), &run, Some(1000), Ecn::NotEct).unwrap();
        sent += RUN as u64;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut queued = 0;
    while queued + dropped(&node) != sent {
        assert!(Instant::now() < end, "{sent} sent, {queued} queued, {} dropped", dropped(&node));
        match node.plane.quic.try_recv() {
            Ok(datagram) => queued += datagram.payload.len().div_ceil(datagram.stride) as u64,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    assert!(dropped(&node) >= RUN as u64);
}

/// What a peer left unfinished when it was removed is counted, and does not wait for its time to end.
#[tokio::test]
async fn a_removed_peers_fragments_are_dropped_and_counted() {
    let node = Node::start();
    let vni = Vni::new(7).unwrap();
    node.send(Command::AddNetwork(network(vni, Vec::new())));
    node.send(Command::AddPeer(PEER, "other".into(), vec![vni]));
    let first = Bytes::from(fragments(vni).swap_remove(0));
    assert!(node.plane.handle.carried(QuicMessages { peer: PEER, messages: vec![first] }));
    node.snapshot("the fragment", |peer| peer.counters.quic_from_peer == 1).await;
    node.send(Command::RemovePeer(PEER));
    let end = Instant::now() + PATIENCE;
    let of = |reason: &str| {
        let stats = node.plane.snapshot.load().stats.clone();
        stats.datagram_drops.iter().find(|(label, _)| label == reason).map_or(0, |(_, count)| *count)
    };
    while of("link_down") == 0 {
        assert!(Instant::now() < end && of("reassembly_timeout") == 0);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(of("link_down"), 1);
}

const RUN: usize = 10;
