//! What peers send.

use std::time::Duration;

use switch_core::fragment::{Fragmenter, Reassembler, ReassemblyLimits};
use switch_core::frame::ecn::Ecn;
use switch_core::ids::{PeerId, ReceiverIndex};
use switch_core::seal::{Cipher, KEY_MATERIAL_LEN, KeyMaterial, Opener, Role, Sealer};
use switch_core::time::Time;
use switch_core::wire::{
    FRAGMENT_HEADER_LEN, HEADER_LEN, Header, Lane, Message, PROBE_LEN, TAG_LEN, encode_fragment,
};

use crate::input::Input;

/// `data` is a datagram, an opened message, and a script of messages: what is read is written back the same,
/// nothing forged opens, what is sealed and cut arrives, and reassembly keeps its bounds.
pub fn overlay_parse(data: &[u8]) {
    if let Ok(header) = Header::parse(data) {
        assert_eq!(header.encode()[..], data[..HEADER_LEN]);
        let mut datagram = data.to_vec();
        let mut opener = Opener::new(Cipher::Aes256Gcm, &key(), Role::Responder);
        let opened = opener.open(&header, &mut datagram);
        assert!(opened.is_err(), "a datagram sealed without the key");
    }
    message(data);
    sealed(data);
    fragments(data);
    script(data);
}

fn key() -> KeyMaterial {
    KeyMaterial::new([9; KEY_MATERIAL_LEN])
}

fn message(data: &[u8]) {
    let Ok(message) = Message::parse(data) else { return };
    let (encoded, rest) = match &message {
        Message::Frame(header, frame) => {
            if let Some(csum) = header.csum {
                assert!(usize::from(csum.start) + usize::from(csum.offset) + 2 <= frame.len());
            }
            (header.encode().to_vec(), *frame)
        }
        Message::Fragment(vni, info, piece) => (encode_fragment(*vni, info).to_vec(), *piece),
        Message::Probe(probe) => (probe.encode().to_vec(), &data[PROBE_LEN..]),
    };
    let again = [&encoded[..], rest].concat();
    assert_eq!(Message::parse(&again), Ok(message));
    assert!(again.len() == data.len() && encoded.len() <= FRAGMENT_HEADER_LEN);
}

/// Sealed here it opens there, once, and not with a bit changed.
fn sealed(data: &[u8]) {
    let data = &data[..data.len().min(2000)];
    let mut datagram = vec![0; HEADER_LEN];
    datagram.extend(data);
    datagram.resize(datagram.len() + TAG_LEN, 0);
    let mut sealer = Sealer::new(Cipher::Aes256Gcm, &key(), Role::Initiator, ReceiverIndex(9), 1, 10);
    sealer.seal(Lane::Bulk, &mut datagram).expect("the first of ten");
    let header = Header::parse(&datagram).expect("our own");
    let mut opener = Opener::new(Cipher::Aes256Gcm, &key(), Role::Responder);
    let mut forged = datagram.clone();
    let at = usize::from(data.first().copied().unwrap_or(0)) % forged.len();
    forged[at] ^= 1 << (data.len() % 8);
    if let Ok(forged_header) = Header::parse(&forged) {
        assert!(opener.open(&forged_header, &mut forged).is_err(), "byte {at} was changed");
    }
    let mut copy = datagram.clone();
    let (message, _) = opener.open(&header, &mut datagram).expect("our own");
    assert_eq!(message[..data.len()], *data);
    assert!(opener.open(&header, &mut copy).is_err(), "a replay");
}

fn limits() -> ReassemblyLimits {
    ReassemblyLimits { max_bytes: 20_000, max_messages: 4, timeout: Duration::from_secs(1) }
}

/// Cut in two sizes and put together, forwards and backwards.
fn fragments(data: &[u8]) {
    let data = &data[..data.len().min(10_000)];
    for (max, backwards) in [(1 + data.len() / 7, false), (512, true)] {
        let Ok(pieces) = Fragmenter::new(1).cut(data, max) else { return };
        let mut pieces: Vec<_> = pieces.collect();
        assert!(pieces.iter().all(|(_, piece)| piece.len() <= max));
        if backwards {
            pieces.reverse();
        }
        let mut reassembler = Reassembler::new(limits());
        let (last, before) = pieces.split_last().expect("at least one");
        for (info, piece) in before {
            assert_eq!(reassembler.handle(PeerId(1), *info, piece, Ecn::NotEct, Time::ZERO), Ok(None));
        }
        let whole = reassembler.handle(PeerId(1), last.0, last.1, Ecn::Ce, Time::ZERO).expect("in bounds");
        assert_eq!(whole.map(|(message, outer)| (&*message, outer)), Some((data, Ecn::Ce)));
    }
}

/// Blocks are messages of three peers, some time apart.
fn script(data: &[u8]) {
    let mut input = Input(data);
    let mut reassembler = Reassembler::new(limits());
    let mut now = Time::ZERO;
    while let (Some(op), Some(block)) = (input.byte(), input.block()) {
        now = now + Duration::from_millis(u64::from(op >> 2));
        if let Ok(Message::Fragment(_, info, piece)) = Message::parse(block) {
            let total = usize::from(info.total);
            let (peer, outer) = (PeerId(u32::from(op & 3)), Ecn::from_octet(op >> 2));
            if let Ok(Some((whole, _))) = reassembler.handle(peer, info, piece, outer, now) {
                assert_eq!(whole.len(), total);
            }
        }
        assert!(reassembler.messages() <= 4 && reassembler.bytes() <= 20_000);
        reassembler.handle_timeout(now);
        assert!(reassembler.poll_timeout().is_none_or(|due| due > now));
    }
    for peer in 0..4 {
        reassembler.forget(PeerId(peer));
    }
    assert_eq!((reassembler.messages(), reassembler.bytes()), (0, 0));
}
