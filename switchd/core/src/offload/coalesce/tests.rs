use proptest::prelude::*;

use super::*;
use crate::frame::transport::tcp_flags::{ACK, CWR, FIN, PSH, RST, SYN, URG};
use crate::offload::testing::{Spec, coalesce, drain, fix_ip, source, verify};
use crate::offload::{MAX_SUPER_FRAME, Split, finish_checksum};

fn split(spec: &Spec, max_frame: usize) -> (Vec<Vec<u8>>, PartialCsum) {
    let (frame, vnet) = spec.build();
    let split = Split::new(&frame, &vnet, max_frame).unwrap();
    let segments = (0..split.count()).map(|i| {
        let mut out = vec![0; split.segment_len(i)];
        split.write_segment(i, &mut out);
        out
    });
    (segments.collect(), split.csum())
}

/// Frames per run.
fn shape(frames: &[Vec<u8>], csum: Option<PartialCsum>) -> Vec<usize> {
    coalesce(frames, csum).iter().map(|(_, _, indices)| indices.len()).collect()
}

const L4: usize = 34;

/// Two segments of 1448 bytes, untagged, that join; `change` is done to the second.
fn pair(v6: bool, change: impl Fn(&mut Vec<u8>)) -> (Vec<Vec<u8>>, PartialCsum) {
    let (mut frames, csum) = split(&Spec { v6, payload: 2896, ..Spec::default() }, usize::MAX);
    change(&mut frames[1]);
    if !v6 {
        fix_ip(&mut frames[1], 14);
    }
    (frames, csum)
}

type Change<'a> = &'a dyn Fn(&mut Vec<u8>);

#[test]
fn a_split_super_frame_comes_back() {
    let spec = Spec { flags: ACK | PSH | FIN | CWR, payload: 60_000, ..Spec::default() };
    let (frames, csum) = split(&spec, 1400);
    let runs = coalesce(&frames, Some(csum));
    let (frame, mut vnet) = spec.build();
    vnet.gso_size = 1400 - 66;
    assert_eq!((runs.len(), &runs[0].0, runs[0].1), (1, &frame, vnet));
}

#[test]
fn what_must_be_equal() {
    let set = |at: usize, byte: u8| move |f: &mut Vec<u8>| f[at] = byte;
    let flip = |at: usize| move |f: &mut Vec<u8>| f[at] ^= 1;
    let (frames, csum) = pair(false, |_| {});
    assert_eq!(shape(&frames, Some(csum)), [2]);
    let v4: &[(&str, Change<'_>)] = &[
        ("destination MAC", &flip(5)),
        ("source MAC", &flip(11)),
        ("TOS", &flip(15)),
        ("identification", &flip(18)),
        ("DF", &set(20, 0)),
        ("reserved bit", &set(20, 0xc0)),
        ("TTL", &flip(22)),
        ("source", &flip(29)),
        ("destination", &flip(33)),
        ("source port", &flip(L4 + 1)),
        ("destination port", &flip(L4 + 3)),
        ("sequence", &flip(L4 + 7)),
        ("acknowledgment", &flip(L4 + 11)),
        ("accurate ECN bit", &flip(L4 + 12)),
        ("window", &flip(L4 + 15)),
        ("urgent pointer", &flip(L4 + 19)),
        ("timestamp", &flip(L4 + 27)),
        ("ECE", &set(L4 + 13, ACK | 0x40)),
        ("CWR", &set(L4 + 13, ACK | CWR)),
        ("no ACK", &set(L4 + 13, 0)),
        ("SYN", &set(L4 + 13, ACK | SYN)),
        ("RST", &set(L4 + 13, ACK | RST)),
        ("URG", &set(L4 + 13, ACK | URG)),
    ];
    for (name, change) in v4 {
        let (frames, csum) = pair(false, change);
        assert_eq!(shape(&frames, Some(csum)), [1, 1], "{name}");
    }
    let v6: &[(&str, usize)] =
        &[("traffic class", 15), ("flow label", 17), ("hop limit", 21), ("source", 37), ("destination", 53)];
    for (name, at) in v6 {
        let (frames, csum) = pair(true, flip(*at));
        assert_eq!(shape(&frames, Some(csum)), [1, 1], "{name}");
    }
    let (mut frames, csum) = pair(false, |_| {});
    frames[1][24] ^= 1;
    assert_eq!(shape(&frames, Some(csum)), [1, 1], "wrong IPv4 header checksum");
}

#[test]
fn tags_must_be_equal() {
    let spec = Spec { tags: vec![(0x88a8, 3), (0x8100, 9)], payload: 2896, ..Spec::default() };
    let (frames, csum) = split(&spec, usize::MAX);
    assert_eq!(shape(&frames, Some(csum)), [2]);
    for at in 12..20 {
        let mut frames = frames.clone();
        frames[1][at] ^= 1;
        assert_eq!(shape(&frames, Some(csum)), [1, 1], "{at}");
    }
}

#[test]
fn sources_must_be_equal() {
    let (frames, csum) = pair(false, |_| {});
    let other_peer = FrameSource { peer: PeerId(2), ..source() };
    let other_network = FrameSource { vni: Vni::new(7).unwrap(), ..source() };
    for (second, runs) in [(source(), 1), (other_peer, 2), (other_network, 2)] {
        let mut coalescer = Coalescer::new(2, true);
        coalescer.push(source(), 0, &frames[0], Some(csum), false);
        coalescer.push(second, 1, &frames[1], Some(csum), false);
        assert_eq!(drain(coalescer.finish(), &frames).len(), runs);
    }
}

#[test]
fn push_and_fin_end_a_run() {
    for flag in [PSH, FIN] {
        let (mut frames, csum) = split(&Spec { payload: 4 * 1448, ..Spec::default() }, usize::MAX);
        frames[1][L4 + 13] |= flag;
        assert_eq!(shape(&frames, Some(csum)), [2, 2]);
        let runs = coalesce(&frames, Some(csum));
        assert_eq!((runs[0].0[L4 + 13], runs[1].0[L4 + 13]), (ACK | flag, ACK));
        frames[0][L4 + 13] |= flag;
        assert_eq!(shape(&frames, Some(csum)), [1, 1, 2]);
    }
}

#[test]
fn a_shorter_frame_ends_a_run_and_a_longer_one_begins_another() {
    let spec = |seq, payload| Spec { seq, payload, id: seq as u16, df: true, ..Spec::default() };
    let one = |seq, payload| spec(seq, payload).build().0;
    let csum = spec(0, 1).build().1.csum;
    let fixed_id = |mut f: Vec<u8>| {
        f[18..20].fill(0);
        fix_ip(&mut f, 14);
        f
    };
    let frames: Vec<Vec<u8>> =
        [one(0, 100), one(100, 100), one(200, 50), one(250, 100), one(350, 101), one(451, 101)]
            .into_iter()
            .map(fixed_id)
            .collect();
    assert_eq!(shape(&frames, csum), [3, 1, 2]);
}

#[test]
fn identifications_increment_or_with_df_stay() {
    let ids = |ids: [u16; 4], df: bool| {
        let (mut frames, csum) = split(&Spec { payload: 4 * 1448, df, ..Spec::default() }, usize::MAX);
        for (frame, id) in frames.iter_mut().zip(ids) {
            frame[18..20].copy_from_slice(&id.to_be_bytes());
            fix_ip(frame, 14);
        }
        shape(&frames, Some(csum))
    };
    assert_eq!(ids([65_534, 65_535, 0, 1], false), [4]);
    assert_eq!(ids([5, 6, 7, 8], true), [4]);
    assert_eq!(ids([5, 5, 5, 5], true), [4]);
    assert_eq!(ids([5, 5, 5, 5], false), [1, 1, 1, 1]);
    assert_eq!(ids([5, 5, 6, 7], true), [2, 2]);
    assert_eq!(ids([5, 6, 6, 6], true), [2, 2]);
    assert_eq!(ids([5, 7, 8, 9], true), [1, 3]);
}

#[test]
fn full_checksums_join_only_where_right() {
    let (partial, csum) = split(&Spec { payload: 3 * 1448, ..Spec::default() }, usize::MAX);
    let mut full = partial.clone();
    for frame in &mut full {
        finish_checksum(frame, csum).unwrap();
    }
    let runs = coalesce(&full, None);
    assert_eq!(runs, coalesce(&partial, Some(csum)));

    let mut damaged = full.clone();
    damaged[1][100] ^= 1;
    let runs = coalesce(&damaged, None);
    assert_eq!(runs.len(), 3);
    assert_eq!((&runs[1].0, runs[1].1), (&damaged[1], VnetHdr::default()));

    let mut coalescer = Coalescer::new(2, true);
    coalescer.push(source(), 0, &full[0], None, false);
    coalescer.push(source(), 1, &partial[1], Some(csum), false);
    assert_eq!(drain(coalescer.finish(), &full).len(), 2, "a mixture");
}

#[test]
fn a_partial_checksum_elsewhere_passes_alone() {
    let (frames, csum) = pair(false, |_| {});
    for wrong in [PartialCsum { offset: 6, ..csum }, PartialCsum { start: 0, ..csum }] {
        let runs = coalesce(&frames, Some(wrong));
        assert_eq!((runs.len(), runs[0].1.csum), (2, Some(wrong)));
    }
}

#[test]
fn udp_joins_where_caller_and_endpoint_let_it() {
    for v6 in [false, true] {
        let spec = Spec { udp: true, v6, payload: 5000, gso_size: 1200, df: false, ..Spec::default() };
        let (frames, csum) = split(&spec, usize::MAX);
        for (marked, endpoint, runs) in [(true, true, 1), (false, true, 5), (true, false, 5)] {
            let mut coalescer = Coalescer::new(8, endpoint);
            for (i, frame) in frames.iter().enumerate() {
                coalescer.push(source(), i as u32, frame, Some(csum), marked);
            }
            let out = drain(coalescer.finish(), &frames);
            assert_eq!(out.len(), runs);
            if runs == 1 {
                assert_eq!((out[0].0.clone(), out[0].1), spec.build());
            }
        }
    }
    let (mut frames, csum) =
        split(&Spec { udp: true, payload: 2400, gso_size: 1200, ..Spec::default() }, 9000);
    for frame in &mut frames {
        frame[L4 + 6..L4 + 8].fill(0);
    }
    assert_eq!(shape(&frames, None), [1, 1], "no checksum");
    assert_eq!(shape(&frames, Some(csum)), [2]);
}

#[test]
fn a_run_stays_within_the_kernels_limits() {
    let (frames, csum) = split(&Spec { payload: 300, gso_size: 1, ..Spec::default() }, usize::MAX);
    assert_eq!(shape(&frames, Some(csum)), [MAX_SEGMENTS, MAX_SEGMENTS, 44]);

    let first = Spec { payload: 65_000, ..Spec::default() };
    let second = Spec { seq: first.seq + 65_000, id: 145, ..first.clone() };
    let (mut frames, csum) = split(&first, usize::MAX);
    frames.truncate(44);
    let (more, _) = split(&Spec { seq: first.seq + 44 * 1448, id: 144, ..second }, usize::MAX);
    frames.extend(more);
    for (frame, _, _) in coalesce(&frames, Some(csum)) {
        assert!(frame.len() <= MAX_SUPER_FRAME);
    }
    assert_eq!(shape(&frames, Some(csum))[0], 45);
}

#[test]
fn padding_is_left_behind() {
    let (mut frames, csum) =
        split(&Spec { payload: 21, gso_size: 10, tcp_options: vec![], ..Spec::default() }, 9000);
    for frame in &mut frames {
        frame.resize(80, 0);
    }
    let runs = coalesce(&frames, Some(csum));
    assert_eq!((runs.len(), runs[0].0.len()), (1, 54 + 21));
    // Alone, it stays as it came.
    assert_eq!(coalesce(&frames[..1], Some(csum))[0].0, frames[0]);
}

#[test]
fn interleaved_flows_coalesce() {
    let flows: Vec<_> = (0..8u16)
        .map(|port| split(&Spec { ports: [port, 80], payload: 5 * 1448, ..Spec::default() }, 9000).0)
        .collect();
    let csum = Spec::default().build().1.csum;
    let frames: Vec<Vec<u8>> = (0..5).flat_map(|i| flows.iter().map(move |flow| flow[i].clone())).collect();
    assert_eq!(shape(&frames, csum), [5; 8]);
}

#[test]
fn the_state_is_reused() {
    let (frames, csum) = split(&Spec::default(), 9000);
    let mut coalescer = Coalescer::new(frames.len(), true);
    for taken in [true, false, true] {
        for (i, frame) in frames.iter().enumerate() {
            coalescer.push(source(), i as u32, frame, Some(csum), false);
        }
        let batch = coalescer.finish();
        if taken {
            assert_eq!(drain(batch, &frames).len(), 1);
        }
    }
    assert!(coalescer.finish().next_run().is_none());
}

proptest! {
    #[test]
    fn split_then_coalesce_is_the_identity(spec in Spec::any(), max in 150usize..3000, full: bool) {
        let (frame, vnet) = spec.build();
        let (mut frames, csum) = split(&spec, max);
        if full {
            for frame in &mut frames {
                finish_checksum(frame, csum).unwrap();
            }
        }
        let runs = coalesce(&frames, (!full).then_some(csum));
        let joins = spec.ip_options == 0 && frames.len() > 1;
        if joins && frames.len() <= MAX_SEGMENTS {
            let stride = frames[0].len() - usize::from(vnet.hdr_len);
            prop_assert_eq!(runs.len(), 1);
            prop_assert_eq!(&runs[0].0, &frame);
            prop_assert_eq!(runs[0].1, VnetHdr { gso_size: stride as u16, ..vnet });
        } else if !joins {
            let out: Vec<&Vec<u8>> = runs.iter().map(|(frame, _, _)| frame).collect();
            prop_assert_eq!(out, frames.iter().collect::<Vec<_>>());
        }
        // Whatever became a run can be split again into right frames.
        let mut payload: Vec<u8> = Vec::new();
        for (frame, vnet, _) in &runs {
            payload.extend(&frame[usize::from(Spec { payload: 0, ..spec.clone() }.build().1.hdr_len)..]);
            if vnet.gso != Gso::None {
                let split = Split::new(frame, vnet, usize::MAX).unwrap();
                let mut out = vec![0; 70_000];
                for i in 0..split.count() {
                    let len = split.write_segment(i, &mut out);
                    finish_checksum(&mut out[..len], split.csum()).unwrap();
                    verify(&out[..len]);
                }
            }
        }
        prop_assert_eq!(&payload[..], &frame[usize::from(vnet.hdr_len)..]);
    }

    #[test]
    fn order_is_kept(steps in prop::collection::vec((0u16..11, 0u8..10), 1..150)) {
        let mut seqs = [0u32; 11];
        let (mut frames, mut flows) = (Vec::new(), Vec::new());
        let csum = Spec::default().build().1.csum;
        for (flow, kind) in steps {
            let seq = &mut seqs[usize::from(flow)];
            let payload = match kind { 0 => 0, 1 => 30, _ => 100 };
            *seq += if kind == 2 { 1000 } else { 0 };
            let (mut frame, _) = Spec { ports: [flow, 80], id: 0, seq: *seq, payload, ..Spec::default() }.build();
            *seq += payload as u32;
            if kind == 3 && flow == 10 {
                frame[12..14].copy_from_slice(&[0x08, 0x06]);
                flows.push(None);
            } else {
                flows.push(Some(flow));
            }
            frames.push(frame);
        }
        let order: Vec<u32> = coalesce(&frames, csum).into_iter().flat_map(|(_, _, indices)| indices).collect();
        prop_assert_eq!(order.len(), frames.len());
        for (i, a) in order.iter().enumerate() {
            for b in &order[i + 1..] {
                let (fa, fb) = (flows[*a as usize], flows[*b as usize]);
                prop_assert!(a < b || (fa.is_some() && fb.is_some() && fa != fb), "{} before {}", a, b);
            }
        }
    }

    #[test]
    fn damaged_frames_never_panic(
        spec in Spec::any(), damage in prop::collection::vec((any::<prop::sample::Index>(), 0usize..120, any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(), cut_at in any::<prop::sample::Index>(), full: bool,
    ) {
        let (mut frames, csum) = split(&spec, 1400);
        for (frame, at, byte) in damage {
            let frame = frame.index(frames.len());
            if let Some(b) = frames[frame].get_mut(at) { *b = byte; }
        }
        let victim = cut.index(frames.len());
        let len = cut_at.index(frames[victim].len() + 1);
        frames[victim].truncate(len);
        let runs = coalesce(&frames, (!full).then_some(csum));
        let mut seen: Vec<u32> = runs.iter().flat_map(|(_, _, indices)| indices.clone()).collect();
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..frames.len() as u32).collect::<Vec<_>>());
        for (frame, vnet, indices) in &runs {
            if indices.len() == 1 {
                prop_assert_eq!(frame, &frames[indices[0] as usize]);
            } else {
                prop_assert!(Split::new(frame, vnet, usize::MAX).is_ok());
            }
        }
    }
}
