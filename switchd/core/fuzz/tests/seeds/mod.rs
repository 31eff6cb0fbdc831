//! The corpus, as code: what the files under `corpus/` are written from.

pub(crate) mod frames;

use switch_core::fragment::{FragmentInfo, Fragmenter};
use switch_core::ids::{ReceiverIndex, Vni};
use switch_core::seal::{Cipher, KEY_MATERIAL_LEN, KeyMaterial, Role, Sealer};
use switch_core::vnet::{Gso, PartialCsum, VnetHdr};
use switch_core::wire::{FrameHeader, Lane, Origin, Probe, encode_fragment};

/// The seeds of one target.
pub(crate) fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "frame_parse" => frames::all(),
        "overlay_parse" => overlay(),
        "offload_split_coalesce" => offload(),
        "arp_nd_reply" => neighbour(),
        other => panic!("no target {other}"),
    }
}

fn overlay() -> Vec<Vec<u8>> {
    let vni = Vni::new(100).unwrap();
    let frame = frames::tcp(false, 1, 30, 0);
    let mut all = Vec::new();
    for origin in [Origin::Whole, Origin::TcpSegment, Origin::UdpSegment] {
        for csum in [None, Some(PartialCsum { start: 34, offset: 16 })] {
            all.push([&FrameHeader { vni, origin, csum }.encode()[..], &frame].concat());
        }
    }
    for answer_wanted in [false, true] {
        for heard_ms in [None, Some(1500)] {
            all.push(Probe { answer_wanted, sequence: 7, heard_ms, datagram_len: 1200 }.encode().to_vec());
        }
    }
    let pieces: Vec<Vec<u8>> = Fragmenter::new(5)
        .cut(&frame, 40)
        .unwrap()
        .map(|(info, data)| [&encode_fragment(vni, &info)[..], data].concat())
        .collect();
    all.extend(pieces.clone());
    let blocks: Vec<Vec<u8>> = pieces.iter().map(|piece| block(1, piece)).collect();
    all.push(blocks.concat());
    all.push(blocks.iter().rev().flatten().copied().collect());
    all.push([&blocks[0][..], &blocks[0]].concat());
    all.push(
        [&blocks[0][..], &block(2, &pieces[1]), &block(250, &pieces[1]), &block(250, &pieces[2])].concat(),
    );
    let large = |op: u8, id: u32, total: u16| {
        let info = FragmentInfo { id, offset: 0, total };
        block(op, &[&encode_fragment(vni, &info)[..], b"the first of many"].concat())
    };
    all.push((0..12).flat_map(|id| large(id as u8 % 4, id, 9000)).collect());
    all.push((0..6).flat_map(|id| large(1, id, 9000 + 2000 * id as u16)).collect());
    all.push((0..9).flat_map(|id| large(2, id, 300)).collect());
    for cipher in [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305] {
        let key = KeyMaterial::new([7; KEY_MATERIAL_LEN]);
        let mut sealer = Sealer::new(cipher, &key, Role::Responder, ReceiverIndex(9), 3, 10);
        let mut datagram = [&[0; 16][..], &all[0], &[0; 16]].concat();
        sealer.seal(Lane::Bulk, &mut datagram).unwrap();
        all.push(datagram);
    }
    all
}

fn offload() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (v6, tags, flags) in [(false, 0, 0), (false, 1, 8), (false, 2, 0x89), (true, 0, 0x80), (true, 2, 1)] {
        for (payload, gso_size, max_frame) in [(1000, 536, 1500), (1000, 400, 300), (5, 100, 80)] {
            let frame = frames::tcp(v6, 0xffff_fe00, payload, flags);
            let gso = if v6 { Gso::TcpV6 { ecn: flags & 0x80 != 0 } } else { Gso::TcpV4 { ecn: false } };
            all.push(super_frame(&frame, tags, gso, gso_size, max_frame));
        }
    }
    for (payload, max_frame) in [(1000, 1500), (1000, 200)] {
        all.push(super_frame(&frames::udp(payload), 0, Gso::UdpL4, 300, max_frame));
    }
    for v6 in [false, true] {
        let flow = |last: usize, flags: u8| -> Vec<Vec<u8>> {
            let segment = |i: u32| {
                frames::tcp(v6, i * 200, if i == 3 { last } else { 200 }, if i == 3 { flags } else { 0 })
            };
            (0..4).map(segment).collect()
        };
        for op in [0u8, 1, if v6 { 4 } else { 0 }] {
            all.push(batch(op, &flow(90, 8)));
            all.push(batch(op, &flow(0, 0)));
        }
    }
    for flags in [0x80, 0x40, 0x20, 8, 1, 4] {
        let second: Vec<_> =
            (0..3).map(|i| frames::tcp(false, i * 90, 90, if i == 1 { flags } else { 0 })).collect();
        all.extend([batch(0, &second), batch(1, &second)]);
    }
    let udp = vec![frames::udp(200), frames::udp(200), frames::udp(50)];
    all.extend([batch(1, &udp), batch(8, &udp), batch(10, &udp)]);
    let mixed = [
        frames::tcp(false, 0, 100, 0),
        frames::arps()[0].clone(),
        frames::tcp(false, 100, 100, 0),
        frames::udp(9),
    ];
    all.push(batch(1, &mixed));
    all
}

fn super_frame(frame: &[u8], tags: usize, gso: Gso, gso_size: u16, max_frame: u16) -> Vec<u8> {
    let frame = if tags == 0 { frame.to_vec() } else { frames::tagged(frame, tags) };
    let ip = 14 + 4 * tags;
    let start = ip as u16 + if frame[ip] >> 4 == 4 { 20 } else { 40 };
    let offset = if gso == Gso::UdpL4 { 6 } else { 16 };
    let vnet =
        VnetHdr { csum: Some(PartialCsum { start, offset }), gso, hdr_len: 66, gso_size, data_valid: false };
    [&[0][..], &vnet.encode(), &max_frame.to_be_bytes(), &frame].concat()
}

/// IPv4 identifications increment over the frames.
fn batch(op: u8, frames: &[Vec<u8>]) -> Vec<u8> {
    let mut data = vec![1];
    for (i, frame) in frames.iter().enumerate() {
        let mut frame = frame.clone();
        if frame[12..14] == [8, 0] {
            frame[18..20].copy_from_slice(&(i as u16).to_be_bytes());
            frame[24..26].fill(0);
            let sum = switch_core::frame::checksum::Sum::default().bytes(&frame[14..34]).finish();
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        data.extend(block(op, &frame));
    }
    data
}

fn neighbour() -> Vec<Vec<u8>> {
    const LOCAL: u8 = 0;
    const REMOTE: u8 = 2;
    const TIME: u8 = 4 | 4 << 3;
    const BIND: u8 = 6 | 1 << 3;
    /// Of a peer, with a higher generation from one to the next.
    const ANNOUNCE: [u8; 2] = [7 | 1 << 3 | 0x20, 7 | 2 << 3 | 0x60];
    const CONFIRM: u8 = 7 | 3 << 3;
    let all = frames::all();
    let script = |settings: u8, steps: &[(u8, &[u8])]| {
        let mut data = vec![settings];
        for (op, frame) in steps {
            data.extend(block(*op, frame));
        }
        data
    };
    let mut scripts = Vec::new();
    for settings in [0u8, 1, 8, 9] {
        for family in [frames::arps(), frames::nds()] {
            for (first, second) in [(LOCAL, REMOTE), (REMOTE, LOCAL)] {
                let steps: Vec<(u8, &[u8])> = family
                    .iter()
                    .enumerate()
                    .map(|(i, f)| (if i % 2 == 0 { first } else { second }, &f[..]))
                    .collect();
                scripts.push(script(settings, &steps));
                let again: Vec<_> = steps.iter().chain([&(TIME, &[][..])]).chain(&steps).copied().collect();
                scripts.push(script(settings, &again));
            }
        }
    }
    for settings in [0, 1, 4, 6] {
        let steps: Vec<(u8, &[u8])> =
            all.iter().enumerate().map(|(i, f)| (if i % 3 == 0 { REMOTE } else { LOCAL }, &f[..])).collect();
        scripts.push(script(settings, &steps));
    }
    let arps = frames::arps();
    scripts
        .push(script(8, &[(BIND, &arps[0]), (BIND | 0x20, &arps[1]), (LOCAL, &arps[0]), (REMOTE, &arps[1])]));
    scripts.push(script(
        0,
        &[(BIND | 0xa0, &arps[1]), (LOCAL, &arps[0]), (5, &[]), (LOCAL, &arps[0]), (LOCAL, &all[18])],
    ));
    for settings in [0, 1] {
        scripts.push(script(
            settings,
            &[
                (ANNOUNCE[0], &arps[0]),
                (LOCAL, &arps[1]),
                (LOCAL, &arps[0]),
                (ANNOUNCE[0], &arps[0]),
                (ANNOUNCE[1], &arps[0]),
                (LOCAL, &arps[0]),
                (CONFIRM, &arps[0]),
                (TIME, &[]),
                (BIND | 0x10, &arps[0]),
                (ANNOUNCE[1], &arps[0]),
            ],
        ));
    }
    scripts
}

fn block(op: u8, bytes: &[u8]) -> Vec<u8> {
    [&[op][..], &(bytes.len() as u16).to_be_bytes(), bytes].concat()
}
