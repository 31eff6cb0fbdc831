use super::*;
use crate::offload::finish_checksum;
use crate::offload::testing::{Spec, verify};
use proptest::prelude::*;

const SYN: u8 = tcp_flags::SYN;
const MSS_1460: [u8; 4] = [2, 4, 5, 180];

fn syn(v6: bool, tags: Vec<(u16, u16)>, options: Vec<u8>) -> Vec<u8> {
    let spec = Spec { v6, tags, tcp_options: options, flags: SYN, payload: 0, ..Spec::default() };
    let (mut frame, vnet) = spec.build();
    finish_checksum(&mut frame, vnet.csum.unwrap()).unwrap();
    frame
}

#[test]
fn the_option_is_lowered_and_the_checksum_follows() {
    for tags in [vec![], vec![(0x8100, 5)], vec![(0x88a8, 7), (0x8100, 5)]] {
        for (v6, expected) in [(false, 1360u16), (true, 1340)] {
            // Even and odd offsets, last and first.
            for options in [
                MSS_1460.to_vec(),
                [&[1, 1, 1, 1], &MSS_1460[..]].concat(),
                [&[1], &MSS_1460[..], &[1, 0, 0]].concat(),
            ] {
                let mut frame = syn(v6, tags.clone(), options.clone());
                let before = frame.clone();
                assert_eq!(clamp_mss(&mut frame, 1400, false), Some(1460), "{v6} {options:?}");
                verify(&frame);
                let header = frame.len() - options.len();
                let at = header + options.windows(2).position(|w| w == [2, 4]).unwrap() + 2;
                assert_eq!(frame[at..at + 2], expected.to_be_bytes());
                // Only the option and the checksum changed.
                let changed = frame.iter().zip(&before).filter(|(a, b)| a != b).count();
                assert!(changed <= 4, "{changed}");
                assert_eq!(clamp_mss(&mut frame, 1400, false), None);
            }
        }
    }
}

#[test]
fn a_partial_checksum_stays() {
    let mut frame = syn(false, vec![], MSS_1460.to_vec());
    let checksum = frame[34 + 16..34 + 18].to_vec();
    assert_eq!(clamp_mss(&mut frame, 1400, true), Some(1460));
    assert_eq!(frame[34 + 16..34 + 18], checksum);
}

#[test]
fn what_stays_as_it_is() {
    let mut plain = Spec { flags: tcp_flags::ACK, tcp_options: MSS_1460.to_vec(), ..Spec::default() };
    plain.payload = 4;
    let cases = [
        ("smaller already", syn(false, vec![], vec![2, 4, 2, 24])),
        ("no option", syn(false, vec![], vec![1, 1, 4, 2])),
        ("behind the end of options", syn(false, vec![], vec![0, 1, 1, 1, 2, 4, 5, 180])),
        ("wrong length", syn(false, vec![], vec![2, 3, 5, 180])),
        ("cut", syn(false, vec![], vec![1, 2, 4, 5])),
        ("an option of length zero", syn(false, vec![], vec![5, 0, 0, 0, 2, 4, 5, 180])),
        ("no SYN", plain.build().0),
        ("UDP", Spec { udp: true, payload: 4, ..Spec::default() }.build().0),
    ];
    for (name, mut frame) in cases {
        let before = frame.clone();
        assert_eq!(clamp_mss(&mut frame, 1400, false), None, "{name}");
        assert_eq!(frame, before, "{name}");
    }
}

proptest! {
    #[test]
    fn any_syn_stays_right(
        v6: bool, ip_mtu: u16, mss: u16, nops in 0usize..8, damage in prop::collection::vec((0usize..120, any::<u8>()), 0..3),
    ) {
        let mut options = vec![1; nops];
        options.extend([2, 4]);
        options.extend(mss.to_be_bytes());
        options.resize(options.len().next_multiple_of(4), 0);
        let mut frame = syn(v6, vec![], options);
        let max = ip_mtu.saturating_sub(if v6 { 60 } else { 40 });
        prop_assert_eq!(clamp_mss(&mut frame, ip_mtu, false), (mss > max).then_some(mss));
        verify(&frame);
        for (at, byte) in damage {
            if let Some(b) = frame.get_mut(at) { *b = byte; }
        }
        clamp_mss(&mut frame, 0, false);
        for len in 0..frame.len() {
            clamp_mss(&mut frame[..len], 0, false);
        }
    }
}
