use proptest::prelude::*;

use super::*;
use crate::frame::transport::tcp_flags::{ACK, CWR, FIN, PSH};
use crate::offload::finish_checksum;
use crate::offload::testing::{Spec, verify};

fn segments(frame: &[u8], vnet: &VnetHdr, max_frame: usize) -> Vec<Vec<u8>> {
    let split = Split::new(frame, vnet, max_frame).unwrap();
    (0..split.count())
        .map(|i| {
            let mut out = vec![0xaa; split.segment_len(i) + 3];
            let len = split.write_segment(i, &mut out);
            assert_eq!((len, &out[len..]), (split.segment_len(i), &[0xaa; 3][..]));
            out.truncate(len);
            out
        })
        .collect()
}

#[test]
fn tcp_is_cut_smaller_than_the_mss_never_larger() {
    let (frame, vnet) = Spec { payload: 3000, gso_size: 1000, ..Spec::default() }.build();
    let header = 14 + 20 + 32;
    let lens = |max: usize| segments(&frame, &vnet, max).iter().map(|s| s.len() - header).collect::<Vec<_>>();
    assert_eq!(lens(usize::MAX), [1000, 1000, 1000]);
    assert_eq!(lens(header + 1000), [1000, 1000, 1000]);
    assert_eq!(lens(header + 900), [900, 900, 900, 300]);
    assert_eq!(lens(header + 1).len(), 3000);
}

#[test]
fn flags_stand_where_the_kernel_puts_them() {
    let spec = Spec { flags: ACK | PSH | FIN | CWR | 0x40, payload: 3 * 1448, ..Spec::default() };
    let (frame, vnet) = spec.build();
    let flags: Vec<u8> = segments(&frame, &vnet, usize::MAX).iter().map(|s| s[14 + 20 + 13]).collect();
    assert_eq!(flags, [ACK | CWR | 0x40, ACK | 0x40, ACK | PSH | FIN | 0x40]);
}

#[test]
fn udp_datagrams_keep_their_size() {
    let (frame, vnet) = Spec { udp: true, payload: 2500, gso_size: 1200, ..Spec::default() }.build();
    let split = Split::new(&frame, &vnet, 1000).unwrap();
    assert!(split.oversized());
    assert!(!Split::new(&frame, &vnet, 1242).unwrap().oversized());
    let lens: Vec<usize> = segments(&frame, &vnet, 1000).iter().map(|s| s.len() - 42).collect();
    assert_eq!(lens, [1200, 1200, 100]);
}

#[test]
fn scattered_and_written_segments_agree() {
    let (frame, vnet) = Spec::default().build();
    let split = Split::new(&frame, &vnet, 1400).unwrap();
    for (i, written) in segments(&frame, &vnet, 1400).iter().enumerate() {
        let mut header = [0; MAX_HEADER];
        let len = split.write_header(i, &mut header);
        assert_eq!([&header[..len], split.payload(i)].concat(), *written);
    }
    assert!(split.payload(split.count()).is_empty() && split.payload(usize::MAX).is_empty());
}

#[test]
fn refusals() {
    let good = Spec::default();
    let refused = |change: &dyn Fn(&mut Vec<u8>, &mut VnetHdr), max: usize| {
        let (mut frame, mut vnet) = good.build();
        change(&mut frame, &mut vnet);
        Split::new(&frame, &vnet, max).err()
    };
    assert_eq!(refused(&|_, _| {}, 1400), None);
    assert_eq!(refused(&|_, v| v.gso = Gso::None, 1400), Some(SplitError::NotSuper));
    assert_eq!(refused(&|_, v| v.gso = Gso::TcpV6 { ecn: false }, 1400), Some(SplitError::Version));
    assert!(matches!(refused(&|_, v| v.gso = Gso::UdpL4, 1400), Some(SplitError::Frame(_))));
    assert_eq!(refused(&|_, v| v.csum = None, 1400), Some(SplitError::FullChecksum));
    let place =
        |start, offset| move |_: &mut Vec<u8>, v: &mut VnetHdr| v.csum = Some(PartialCsum { start, offset });
    assert_eq!(refused(&place(34, 6), 1400), Some(SplitError::ChecksumPlace));
    assert_eq!(refused(&place(u16::MAX, 16), 1400), Some(SplitError::ChecksumPlace));
    assert_eq!(refused(&|f, _| f[14 + 20 + 13] |= 2, 1400), Some(SplitError::Flags));
    assert_eq!(refused(&|_, v| v.gso_size = 0, 1400), Some(SplitError::NoRoom { max_frame: 1400 }));
    assert_eq!(refused(&|_, _| {}, 66), Some(SplitError::NoRoom { max_frame: 66 }));
    assert_eq!(
        refused(&|f, _| f[14 + 6] = 0x20, 1400).map(|e| matches!(e, SplitError::Frame(_))),
        Some(true)
    );
    // The hint is a hint.
    for hdr_len in [0, 1, 66, 1000, u16::MAX] {
        assert_eq!(refused(&|_, v| v.hdr_len = hdr_len, 1400), None);
    }
    let (frame, vnet) = Spec { payload: 0, ..Spec::default() }.build();
    assert_eq!(Split::new(&frame, &vnet, 1400).err(), Some(SplitError::Empty));
    let long = Spec { v6: true, ip_options: 8, tags: vec![(0x8100, 1)], ..Spec::default() };
    let (frame, vnet) = long.build();
    assert_eq!(Split::new(&frame, &vnet, 1400).err(), Some(SplitError::Header { len: 18 + 40 + 64 + 32 }));
}

#[test]
fn a_routing_header_is_refused() {
    let (mut frame, vnet) = Spec { v6: true, ip_options: 1, ..Spec::default() }.build();
    frame[14 + 6] = 43;
    assert_eq!(Split::new(&frame, &vnet, 1400).err(), Some(SplitError::Routed));
}

proptest! {
    #[test]
    fn segments_are_right_and_carry_the_payload(spec in Spec::any(), max in 200usize..3000) {
        let (frame, vnet) = spec.build();
        let header = spec.header_len();
        let split = Split::new(&frame, &vnet, max).unwrap();
        let mut payload: Vec<u8> = Vec::new();
        let all = segments(&frame, &vnet, max);
        for (i, segment) in all.iter().enumerate() {
            let last = i + 1 == all.len();
            prop_assert!(segment.len() <= max || spec.udp);
            prop_assert!(segment.len() <= max || split.oversized());
            prop_assert!(last || segment.len() == header + split.stride());
            prop_assert!(segment.len() - header <= usize::from(spec.gso_size));
            if !spec.udp {
                let l4 = usize::from(split.csum().start);
                let seq = u32::from_be_bytes(segment[l4 + 4..l4 + 8].try_into().unwrap());
                prop_assert_eq!(seq, spec.seq.wrapping_add(payload.len() as u32));
            }
            if !spec.v6 {
                let id = 14 + spec.tags.len() * 4 + 4;
                prop_assert_eq!(&segment[id..id + 2], &spec.id.wrapping_add(i as u16).to_be_bytes());
            }
            payload.extend(&segment[header..]);
            let mut full = segment.clone();
            finish_checksum(&mut full, split.csum()).unwrap();
            verify(&full);
        }
        prop_assert_eq!(&payload[..], &frame[header..]);
    }

    #[test]
    fn a_segment_made_in_place_is_the_one_that_is_copied(spec in Spec::any(), max in 200usize..3000, front in 0usize..20) {
        let (mut frame, vnet) = spec.build();
        let copied = segments(&frame, &vnet, max);
        let plan = SplitPlan::new(&frame, &vnet, max).unwrap();
        prop_assert_eq!(plan.write_in_place(0, front, &mut frame), None);
        for (i, segment) in copied.iter().enumerate().skip(1) {
            match plan.write_in_place(i, front, &mut frame) {
                Some(at) => {
                    frame[at.clone()][..front].fill(0xee);
                    prop_assert_eq!(&frame[at][front..], &segment[..], "segment {}", i);
                }
                None => prop_assert!(plan.stride() < front),
            }
        }
    }

    #[test]
    fn damaged_super_frames_never_panic(
        spec in Spec::any(), max in 0usize..3000, cut in any::<prop::sample::Index>(), keep: bool,
        damage in prop::collection::vec((0usize..160, any::<u8>()), 0..6), start: u16, offset in 0u16..20, lie: bool,
    ) {
        let (mut frame, mut vnet) = spec.build();
        for (at, byte) in damage {
            if let Some(b) = frame.get_mut(at) { *b = byte; }
        }
        if !keep {
            frame.truncate(cut.index(frame.len()));
        }
        if lie {
            vnet.csum = Some(PartialCsum { start: start % 200, offset });
        }
        if let Ok(split) = Split::new(&frame, &vnet, max) {
            let mut out = vec![0; 70_000];
            let mut total = 0;
            for i in 0..split.count() {
                let len = split.write_segment(i, &mut out);
                prop_assert!(split.oversized() || len <= max);
                total += len - split.header_len();
            }
            prop_assert!(total <= frame.len());
        }
    }
}
