//! Super-frames split and segments coalesced.

use switch_core::frame::Eth;
use switch_core::frame::ip::Ip;
use switch_core::ids::{PeerId, Vni};
use switch_core::offload::{Coalescer, FrameSource, MAX_SUPER_FRAME, Piece, Split, finish_checksum};
use switch_core::vnet::{Gso, PartialCsum, VnetHdr};

use crate::input::Input;

/// The first byte chooses: a super-frame behind its virtio-net header and a length limit, to be split, its segments
/// coalesced; or a batch of frames, to be coalesced, its runs split.
pub fn offload_split_coalesce(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    if first & 1 == 0 { super_frame(rest) } else { batch(rest) }
}

fn super_frame(data: &[u8]) {
    let Ok(vnet) = VnetHdr::parse(data) else { return };
    let mut input = Input(&data[10..]);
    let Some(max_frame) = input.word().map(usize::from) else { return };
    let frame = input.0;
    let Ok(split) = Split::new(frame, &vnet, max_frame) else { return };

    assert!(split.count() > 0 && split.stride() <= usize::from(vnet.gso_size));
    // A hostile size makes many segments; a few of them say it all.
    let count = split.count().min(80);
    let mut segments = Vec::new();
    let mut sent = 0;
    for i in 0..count {
        let mut segment = vec![0; split.segment_len(i)];
        assert_eq!(split.write_segment(i, &mut segment), segment.len());
        assert!(segment.len() <= max_frame || split.oversized());
        let payload = &segment[split.header_len()..];
        assert_eq!(payload, &frame[split.header_len() + sent..][..payload.len()]);
        sent += payload.len();
        right(&segment, split.csum());
        segments.push(segment);
    }
    // A super-frame's own IPv4 header is not summed: each segment gets a right one.
    let runs = coalesce(&segments, |_| Some(split.csum()), |_| true);
    let payload: usize = runs.iter().map(|run| run.payload).sum();
    assert_eq!(payload, sent);
}

fn batch(data: &[u8]) {
    let mut input = Input(data);
    let (mut frames, mut how) = (Vec::new(), Vec::new());
    while let (Some(op), Some(frame)) = (input.byte(), input.block()) {
        frames.push(frame.to_vec());
        how.push(op);
    }
    let csum = |i: usize| {
        let start = if how[i] & 4 == 0 { 34 } else { 54 };
        let offset = if how[i] & 8 == 0 { 16 } else { 6 };
        (how[i] & 1 == 0).then_some(PartialCsum { start, offset })
    };
    coalesce(&frames, csum, |i| how[i] & 2 == 0);
}

struct Coalesced {
    payload: usize,
}

/// Coalesces a batch and checks each run against its frames.
fn coalesce(
    frames: &[Vec<u8>],
    csum: impl Fn(usize) -> Option<PartialCsum>,
    uso: impl Fn(usize) -> bool,
) -> Vec<Coalesced> {
    let source = FrameSource { vni: Vni::new(1).expect("in range"), peer: PeerId(1) };
    let mut coalescer = Coalescer::new(frames.len(), true);
    for (i, frame) in frames.iter().enumerate() {
        coalescer.push(source, i as u32, frame, csum(i), uso(i));
    }
    let mut seen = vec![false; frames.len()];
    let mut out = Vec::new();
    let mut batch = coalescer.finish();
    while let Some(run) = batch.next_run() {
        let pieces: Vec<Piece> = run.payloads().collect();
        assert_eq!(pieces.len(), run.segments());
        let bytes = |piece: &Piece| &frames[piece.index as usize][piece.start as usize..piece.end as usize];
        for piece in &pieces {
            assert!(!std::mem::replace(&mut seen[piece.index as usize], true), "a frame leaves once");
        }
        assert!(pieces.is_sorted_by_key(|piece| piece.index), "frames of a run leave in order");
        if run.is_single() {
            let index = run.index() as usize;
            assert_eq!(bytes(&pieces[0]), frames[index]);
            assert_eq!(run.vnet(), VnetHdr { csum: csum(index), ..VnetHdr::default() });
            out.push(Coalesced { payload: payload_len(&frames[index]) });
            continue;
        }
        let mut whole = run.header().to_vec();
        for piece in &pieces {
            whole.extend(bytes(piece));
        }
        assert!(whole.len() == run.frame_len() && whole.len() <= MAX_SUPER_FRAME);
        let vnet = run.vnet();
        assert_ne!(vnet.gso, Gso::None);
        let split = Split::new(&whole, &vnet, usize::MAX).expect("a run is a super-frame");
        assert_eq!(split.count(), pieces.len());
        for (i, piece) in pieces.iter().enumerate() {
            assert_eq!(split.payload(i), bytes(piece), "a run splits into the frames that it came of");
            let mut segment = vec![0; split.segment_len(i)];
            split.write_segment(i, &mut segment);
            right(&segment, split.csum());
            let frame = &frames[piece.index as usize];
            same_headers(&segment, frame, &split);
            if csum(piece.index as usize).is_none() {
                assert_eq!(layer4_sum(frame), 0xffff, "a damaged frame joined a run");
            }
        }
        out.push(Coalesced { payload: whole.len() - run.header().len() });
    }
    assert!(seen.iter().all(|seen| *seen), "every frame leaves");
    out
}

/// Headers come back as they were, but for what GRO may lose: the IPv4 identification where it means nothing, and
/// the checksum, which may have been full.
fn same_headers(segment: &[u8], frame: &[u8], split: &Split<'_>) {
    let csum = usize::from(split.csum().start + split.csum().offset);
    let ip = Eth::parse(frame).and_then(|eth| Ip::parse(frame, &eth)).expect("it joined a run");
    for at in 0..split.header_len() {
        let checksum = at == csum || at == csum + 1;
        let id = ip.l4 - ip.l3 == 20 && (at == ip.l3 + 4 || at == ip.l3 + 5) && frame[ip.l3 + 6] & 0x40 != 0;
        let header_sum = ip.l4 - ip.l3 == 20 && (at == ip.l3 + 10 || at == ip.l3 + 11);
        assert!(checksum || id || header_sum || segment[at] == frame[at], "byte {at}");
    }
}

fn layer4_sum(frame: &[u8]) -> u16 {
    let ip = Eth::parse(frame).and_then(|eth| Ip::parse(frame, &eth)).expect("a good packet");
    ip.pseudo_header(frame, ip.end - ip.l4).bytes(&frame[ip.l4..ip.end]).fold()
}

/// The frame's lengths agree and, once its partial checksum is completed, its checksums are right.
fn right(segment: &[u8], csum: PartialCsum) {
    let mut frame = segment.to_vec();
    finish_checksum(&mut frame, csum).expect("inside of the frame");
    let ip = Eth::parse(&frame).and_then(|eth| Ip::parse(&frame, &eth)).expect("a segment is a good packet");
    assert_eq!(ip.end, frame.len());
    assert_eq!(layer4_sum(&frame), 0xffff);
}

/// What a single frame counts for: it is a segment of its own, behind headers of its own.
fn payload_len(frame: &[u8]) -> usize {
    use switch_core::frame::transport::{Tcp, Udp};
    let Ok(eth) = Eth::parse(frame) else { return 0 };
    let Ok(ip) = Ip::parse(frame, &eth) else { return 0 };
    let tcp = Tcp::parse(frame, &ip).map(|tcp| tcp.payload().len());
    tcp.or_else(|_| Udp::parse(frame, &ip).map(|udp| udp.payload().len())).unwrap_or(0)
}
