use super::*;
use futures_util::FutureExt;

use crate::config::Carriage;
use crate::dataplane::peers::Peers;
use nat_traversal::{CandidateKind, CandidatePair, Offer, PathId, Route};
use switch_core::fragment::{Reassembler, ReassemblyLimits};
use switch_core::frame::ecn::Ecn;
use switch_core::time::Time;
use switch_core::wire::{Lane, Message};

const PEER: PeerId = PeerId(1);
const OUTBOUND: Outbound =
    Outbound { vni: Vni::MAX, mss_clamp: true, carriage: Carriage::Quic, lane: Lane::Bulk, spare: true };

/// A peer whose path is known to carry 1200 bytes, and what gathers for it.
struct Rig {
    peers: Peers,
    out: CarriageOut,
    sender: QuicSender,
    queue: QuicQueue,
}

impl Rig {
    fn new(limit: usize) -> Rig {
        let mut peers = Peers::new([0; 4]);
        peers.add(PEER, "other".into(), vec![OUTBOUND.vni]);
        let (sender, queue) = QuicSender::new(limit);
        Rig { peers, out: CarriageOut::new(Arc::default()), sender, queue }
    }

    /// The path is found to carry all that there is to find.
    fn widen(&mut self) {
        let peer = self.peers.get_mut(PEER).unwrap();
        let mut now = Instant::now();
        let pair =
            CandidatePair { local: CandidateKind::Host, local_address: None, remote: CandidateKind::Host };
        let route = Route::Direct("192.0.2.2:4840".parse().unwrap());
        peer.paths.set_usable(true, now);
        peer.paths.offer(Offer { id: PathId(1), route, pair, proven: true }, now);
        while peer.datagram_max() < 1472 {
            now = peer.paths.poll_timeout().unwrap().max(now) + Duration::from_micros(200);
            peer.paths.handle_timeout(now);
            while let Some(mut probe) = peer.paths.poll_transmit() {
                (probe.answer_wanted, probe.len) = (false, probe.len.max(44));
                peer.paths.handle_probe(probe, 44, now);
            }
        }
    }

    fn send(&mut self, vnet: &VnetHdr, frame: &mut [u8]) -> Result<(), DropReason> {
        self.send_by(Lane::Bulk, vnet, frame)
    }

    fn send_by(&mut self, lane: Lane, vnet: &VnetHdr, frame: &mut [u8]) -> Result<(), DropReason> {
        let peer = self.peers.get_mut(PEER).unwrap();
        let outbound = Outbound { lane, ..OUTBOUND };
        self.out.send(Some(&self.sender), peer, outbound, vnet, frame, &mut Vec::new())
    }

    fn whole(&mut self, len: usize, mark: u8) -> Result<(), DropReason> {
        self.send(&VnetHdr::default(), &mut vec![mark; len])
    }

    fn messages(&mut self) -> Vec<Bytes> {
        self.out.flush();
        std::iter::from_fn(|| self.queue.bulk.try_recv().ok())
            .flat_map(Batch::messages)
            .map(|message| message.bytes)
            .collect()
    }
}

fn frame_of(message: &[u8]) -> &[u8] {
    match Message::parse(message) {
        Ok(Message::Frame(header, frame)) => {
            assert_eq!(header.vni, OUTBOUND.vni);
            frame
        }
        other => panic!("{other:?}"),
    }
}

/// A super-frame of TCP over IPv4 with `payload` bytes.
fn super_frame(payload: usize, segment: u16) -> (VnetHdr, Vec<u8>) {
    let mut frame = vec![2; 12];
    frame.extend([8, 0, 0x45, 0]);
    frame.extend((40 + payload as u16).to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    frame.extend((0..payload).map(|i| i as u8));
    let csum = Some(PartialCsum { start: 34, offset: 16 });
    (
        VnetHdr {
            gso: Gso::TcpV4 { ecn: false },
            gso_size: segment,
            hdr_len: 54,
            csum,
            ..VnetHdr::default()
        },
        frame,
    )
}

#[test]
fn frames_that_fit_go_whole_and_in_order() {
    let mut rig = Rig::new(1434);
    for mark in 0..3 {
        rig.whole(60 + usize::from(mark), mark).unwrap();
    }
    let messages = rig.messages();
    let frames: Vec<_> = messages.iter().map(|message| frame_of(message)).collect();
    assert_eq!(frames, [&[0; 60][..], &[1; 61], &[2; 62]]);
    let counters = rig.peers.get(PEER).unwrap().counters;
    assert_eq!((counters.quic_to_peer, counters.quic_bytes_to_peer), (3, 183 + 24));
    assert_eq!(counters.datagrams_to_peer, 0);
}

#[test]
fn the_lower_of_the_paths_and_quics_limit_counts() {
    for (limit, widen, longest) in [(1434, false, 1200 - OVERHEAD), (1434, true, 1434), (1100, true, 1100)] {
        let mut rig = Rig::new(limit);
        if widen {
            rig.widen();
        }
        rig.whole(longest - FRAME_HEADER_LEN, 7).unwrap();
        assert_eq!(rig.messages().iter().map(Bytes::len).collect::<Vec<_>>(), [longest]);
        rig.whole(longest - FRAME_HEADER_LEN + 1, 7).unwrap();
        assert_eq!(rig.messages().len(), 2, "limit {limit}");
    }
}

#[test]
fn long_frames_come_together_again() {
    let mut rig = Rig::new(1162);
    let mut reassembler = Reassembler::new(ReassemblyLimits::default());
    rig.whole(9014, 7).unwrap();
    let messages = rig.messages();
    assert!(messages.len() > 7 && messages.iter().all(|message| message.len() <= 1162));
    let mut whole = Vec::new();
    for message in &messages {
        let Ok(Message::Fragment(_, info, data)) = Message::parse(message) else { panic!("{message:?}") };
        if let Some((message, _)) = reassembler.handle(PEER, info, data, Ecn::NotEct, Time::ZERO).unwrap() {
            whole = frame_of(message).to_vec();
        }
    }
    assert_eq!(whole, [7; 9014]);
}

#[test]
fn super_frames_are_cut_to_what_fits_now() {
    let mut rig = Rig::new(1434);
    rig.widen();
    for limit in [1434, 1162, 1434] {
        rig.queue.set_limit(limit);
        let (vnet, mut frame) = super_frame(40_000, 1448);
        rig.send(&vnet, &mut frame).unwrap();
        let messages = rig.messages();
        let longest = messages.iter().map(Bytes::len).max().unwrap();
        assert!((limit - 8..=limit).contains(&longest), "{longest} of {limit}");
        let payload: Vec<u8> = messages.iter().flat_map(|message| frame_of(message)[54..].to_vec()).collect();
        assert_eq!(payload, frame[54..]);
    }
}

#[test]
fn a_peer_without_datagrams_gets_no_frames() {
    for limit in [0, 1, 100, LEAST - 1] {
        assert_eq!(Rig::new(limit).whole(60, 1), Err(DropReason::NoCarriage), "{limit}");
    }
    let mut rig = Rig::new(1434);
    let peer = rig.peers.get_mut(PEER).unwrap();
    let mut scratch = Vec::new();
    let sent = rig.out.send(None, peer, OUTBOUND, &VnetHdr::default(), &mut [1; 60], &mut scratch);
    assert_eq!(sent, Err(DropReason::NoCarriage));
}

#[test]
fn what_finds_no_room_or_no_connection_is_counted() {
    let mut rig = Rig::new(1434);
    for _ in 0..BULK_QUEUE + 3 {
        rig.whole(60, 1).unwrap();
        rig.whole(60, 2).unwrap();
        rig.out.flush();
    }
    assert_eq!(rig.out.drops.full.load(Ordering::Relaxed), 6);
    assert_eq!(rig.messages().len(), 2 * BULK_QUEUE);
    rig.queue.bulk.close();
    rig.whole(60, 1).unwrap();
    rig.out.flush();
    assert_eq!(rig.out.drops.lost.load(Ordering::Relaxed), 1);
    assert_eq!(rig.out.drops.counts().iter().map(|(_, count)| count).sum::<u64>(), 7);
}

#[test]
fn a_batch_grows_stale_and_holds_no_more_than_its_bound() {
    let mut rig = Rig::new(1434);
    for _ in 0..100 {
        rig.whole(1000, 1).unwrap();
    }
    rig.out.flush();
    let mut first = rig.queue.bulk.try_recv().unwrap();
    assert!(first.bytes.len() <= BATCH_BYTES && first.len() > 32);
    first.since -= QueuedMessage::MAX_AGE / 2;
    let mut message = first.messages().last().unwrap();
    assert!(!message.is_stale());
    message.since -= QueuedMessage::MAX_AGE / 2;
    assert!(message.is_stale());
}

#[test]
fn each_connection_gets_its_own() {
    let mut rig = Rig::new(1434);
    rig.whole(60, 1).unwrap();
    let (other, mut queue) = QuicSender::new(1434);
    let peer = rig.peers.get_mut(PEER).unwrap();
    rig.out.send(Some(&other), peer, OUTBOUND, &VnetHdr::default(), &mut [2; 60], &mut Vec::new()).unwrap();
    assert_eq!(rig.messages().len(), 1);
    let messages: Vec<_> = queue.bulk.try_recv().unwrap().messages().collect();
    assert_eq!(frame_of(&messages[0].bytes), [2; 60]);
}

/// The marks of the frames that the link plane would send, one batch each.
async fn batches(rig: &mut Rig) -> Vec<Vec<u8>> {
    let mut batches = Vec::new();
    while let Some(Some((_, batch))) = tokio::task::unconstrained(rig.queue.next()).now_or_never() {
        batches.push(batch.messages().map(|message| frame_of(&message.bytes)[0]).collect());
    }
    batches
}

#[tokio::test]
async fn prompt_frames_have_a_queue_of_their_own_that_comes_first() {
    let mut rig = Rig::new(1434);
    for _ in 0..BULK_QUEUE + 1 {
        rig.whole(60, 1).unwrap();
        rig.out.flush();
    }
    for mark in [2, 3] {
        rig.send_by(Lane::Prompt, &VnetHdr::default(), &mut [mark; 60]).unwrap();
    }
    rig.out.flush();
    assert_eq!(rig.out.drops.full.load(Ordering::Relaxed), 1);
    assert_eq!(rig.queue.prompt().map(|batch| batch.len()), Some(2));
    for _ in 0..PROMPT_QUEUE + 1 {
        rig.send_by(Lane::Prompt, &VnetHdr::default(), &mut [4; 60]).unwrap();
        rig.out.flush();
    }
    assert_eq!(rig.out.drops.full.load(Ordering::Relaxed), 2);
    let expected = [vec![vec![4]; PROMPT_QUEUE], vec![vec![1]; BULK_QUEUE]].concat();
    assert_eq!(batches(&mut rig).await, expected);
    // Nothing that is gathered keeps the session's queues open.
    drop(rig.sender);
    assert!(rig.queue.next().await.is_none());
}

/// A flow's first frames are prompt and the next ones bulk: no queue has the latter before the former.
#[tokio::test]
async fn what_is_prompt_is_handed_over_before_bulk_that_came_after_it() {
    let mut rig = Rig::new(1434);
    rig.send_by(Lane::Prompt, &VnetHdr::default(), &mut [1; 60]).unwrap();
    while rig.queue.bulk.is_empty() {
        rig.whole(1000, 2).unwrap();
    }
    assert_eq!(rig.queue.prompt.len(), 1);
    rig.out.flush();
    assert_eq!(batches(&mut rig).await.concat()[..2], [1, 2]);
}
