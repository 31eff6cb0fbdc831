//! Which lane a local frame takes: flows that send little go ahead of those that send much.
//!
//! A bulk flow keeps queues full: the TAP's, the network's, the receiver's socket's. Frames of a flow that sends little
//! are sealed in a lane of their own, which both ends serve first. A flow changes from prompt to bulk at any time: what
//! went ahead is ahead. It changes back only after a silence longer than what any queue holds, so that its frames stay
//! in order.

use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use crate::ids::Vni;
use crate::time::Time;
use crate::wire::Lane;

/// What flows have sent of late, by a hash of their network, addresses and ports. Flows of one hash are one flow here.
#[derive(Debug)]
pub struct Lanes {
    hash: ahash::RandomState,
    flows: Box<[Flow]>,
}

#[derive(Clone, Copy, Debug)]
struct Flow {
    /// Until then it is a bulk flow.
    bulk_until: Time,
    /// When the bytes were begun to be counted.
    since: Time,
    bytes: u32,
}

impl Lanes {
    /// `seed` keys the hash, so that nobody can choose flows that share a place.
    pub fn new(seed: [u64; 4]) -> Lanes {
        let [a, b, c, d] = seed;
        let flow = Flow { bulk_until: Time::ZERO, since: Time::ZERO, bytes: 0 };
        Lanes {
            hash: ahash::RandomState::with_seeds(a, b, c, d),
            flows: vec![flow; FLOWS].into_boxed_slice(),
        }
    }

    /// The lane of a network's frame, from its Ethernet header on.
    pub fn lane(&mut self, vni: Vni, frame: &[u8], now: Time) -> Lane {
        let at = self.place(vni, frame);
        let flow = &mut self.flows[at];
        if frame.len() > PROMPT_FRAME || now < flow.bulk_until {
            flow.bulk_until = now + BULK_FOR;
            return Lane::Bulk;
        }
        if now.since(flow.since) >= WINDOW {
            (flow.since, flow.bytes) = (now, 0);
        }
        flow.bytes += frame.len() as u32;
        if flow.bytes > PROMPT_BYTES {
            flow.bulk_until = now + BULK_FOR;
            return Lane::Bulk;
        }
        Lane::Prompt
    }

    fn place(&self, vni: Vni, frame: &[u8]) -> usize {
        let mut hasher = self.hash.build_hasher();
        hasher.write_u32(vni.get());
        // At most two tags are looked behind.
        let mut tags = 0;
        while tags < 8 && matches!(frame.get(12 + tags..14 + tags), Some([0x81, 0] | [0x88, 0xa8])) {
            tags += 4;
        }
        hasher.write(frame.get(12..12 + tags).unwrap_or_default());
        let behind = frame.get(tags..).unwrap_or_default();
        let part = |range: std::ops::Range<usize>| behind.get(range).unwrap_or_default();
        match part(12..14) {
            // Fragments of a datagram have no ports but in the first one.
            [8, 0] => {
                hasher.write(part(26..34));
                let first_part = matches!(part(20..22), [flags, 0] if flags & 0x3f == 0);
                if first_part && part(14..15) == [0x45] && matches!(part(23..24), [TCP | UDP]) {
                    hasher.write(part(34..38));
                }
            }
            [0x86, 0xdd] => {
                hasher.write(part(22..54));
                if matches!(part(20..21), [TCP | UDP]) {
                    hasher.write(part(54..58));
                }
            }
            _ => hasher.write(frame.get(0..18).unwrap_or_default()),
        }
        hasher.finish() as usize % FLOWS
    }
}

const FLOWS: usize = 1024;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// The longest frame that goes ahead: one Ethernet frame with two tags.
const PROMPT_FRAME: usize = 1522;
/// A flow that sends more than so much in a window is a bulk flow: 13 Mbit/s.
const PROMPT_BYTES: u32 = 16 << 10;
const WINDOW: Duration = Duration::from_millis(10);
/// How long a bulk flow stays one after its last frame.
const BULK_FOR: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(port: u16, len: usize) -> Vec<u8> {
        let mut frame = vec![0; len];
        frame[12..15].copy_from_slice(&[8, 0, 0x45]);
        frame[23] = UDP;
        frame[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        frame[34..36].copy_from_slice(&port.to_be_bytes());
        frame
    }

    const VNI: Vni = Vni::MAX;

    fn at(ms: u64) -> Time {
        Time::from_epoch(Duration::from_millis(1000 + ms))
    }

    #[test]
    fn flows_of_one_vlan_are_told_apart_and_those_of_two_as_well() {
        let tagged = |tags: &[u8], port, len| {
            let mut tagged = frame(port, len);
            tagged.splice(12..12, tags.iter().copied());
            tagged
        };
        let (five, six, both) = ([0x81, 0, 0, 5], [0x81, 0, 0, 6], [0x88, 0xa8, 0, 9, 0x81, 0, 0, 5]);
        let mut lanes = Lanes::new([1, 2, 3, 4]);
        assert_eq!(lanes.lane(VNI, &tagged(&five, 1, 60_000), at(0)), Lane::Bulk);
        assert_eq!(lanes.lane(VNI, &tagged(&both, 1, 60_000), at(0)), Lane::Bulk);
        for (tags, port, lane) in [
            (&five[..], 1, Lane::Bulk),
            (&five, 2, Lane::Prompt),
            (&six, 1, Lane::Prompt),
            (&both, 1, Lane::Bulk),
            (&both, 2, Lane::Prompt),
            (&[], 1, Lane::Prompt),
        ] {
            assert_eq!(lanes.lane(VNI, &tagged(tags, port, 100), at(1)), lane, "{tags:?} {port}");
        }
        for len in 0..40 {
            lanes.lane(VNI, &tagged(&both, 1, 60)[..len], at(2));
        }
    }

    #[test]
    fn a_flow_that_sends_little_goes_ahead_beside_one_that_sends_much() {
        let mut lanes = Lanes::new([1, 2, 3, 4]);
        for ms in 0..1000 {
            assert_eq!(lanes.lane(VNI, &frame(1, 60_000), at(ms)), Lane::Bulk);
            assert_eq!(lanes.lane(VNI, &frame(2, 100), at(ms)), Lane::Prompt);
        }
    }

    #[test]
    fn a_flow_becomes_bulk_by_its_rate_and_goes_ahead_again_after_a_silence() {
        let mut lanes = Lanes::new([1, 2, 3, 4]);
        let small = frame(1, 1000);
        assert!((0..16).all(|_| lanes.lane(VNI, &small, at(0)) == Lane::Prompt));
        assert_eq!(lanes.lane(VNI, &small, at(0)), Lane::Bulk);
        assert_eq!(lanes.lane(VNI, &small, at(99)), Lane::Bulk, "each frame prolongs it");
        assert_eq!(lanes.lane(VNI, &small, at(198)), Lane::Bulk);
        assert_eq!(lanes.lane(VNI, &small, at(298)), Lane::Prompt);
    }

    #[test]
    fn one_long_frame_makes_a_bulk_flow_and_fragments_are_a_flow_of_their_own() {
        let mut lanes = Lanes::new([1, 2, 3, 4]);
        assert_eq!(lanes.lane(VNI, &frame(1, PROMPT_FRAME + 1), at(0)), Lane::Bulk);
        assert_eq!(lanes.lane(VNI, &frame(1, 60), at(1)), Lane::Bulk);
        let mut first_part = frame(1, 1500);
        first_part[20] = 0x20;
        assert_eq!(lanes.lane(VNI, &first_part, at(1)), Lane::Prompt);
    }

    #[test]
    fn networks_with_the_same_addresses_have_flows_of_their_own() {
        let mut lanes = Lanes::new([1, 2, 3, 4]);
        assert_eq!(lanes.lane(VNI, &frame(1, 60_000), at(0)), Lane::Bulk);
        assert_eq!(lanes.lane(Vni::new(5).unwrap(), &frame(1, 100), at(0)), Lane::Prompt);
        assert_eq!(lanes.lane(VNI, &frame(1, 100), at(0)), Lane::Bulk);
    }

    #[test]
    fn any_bytes_have_a_lane() {
        let mut lanes = Lanes::new([1, 2, 3, 4]);
        for len in 0..80 {
            for kind in [[8, 0], [0x86, 0xdd], [8, 6]] {
                let mut bytes = vec![0xff; len];
                if let Some(at) = bytes.get_mut(12..14) {
                    at.copy_from_slice(&kind);
                }
                assert_eq!(lanes.lane(VNI, &bytes, at(0)), Lane::Prompt);
            }
        }
    }
}
