//! The sealed datagram and the message inside it, byte for byte; `docs/wire-format.md` is the same in prose.
//! All fields are big-endian.

use crate::fragment::FragmentInfo;
use crate::ids::{ReceiverIndex, Vni};
use crate::vnet::PartialCsum;

/// Bytes in front of the ciphertext.
pub const HEADER_LEN: usize = 16;
/// Bytes of the authentication tag behind the ciphertext.
pub const TAG_LEN: usize = 16;
/// Bytes that sealing adds to a message.
pub const SEAL_OVERHEAD: usize = HEADER_LEN + TAG_LEN;
/// Bytes in front of the frame in a frame or segment message.
pub const FRAME_HEADER_LEN: usize = 8;
/// Bytes in front of the data in a fragment message.
pub const FRAGMENT_HEADER_LEN: usize = 12;
/// Bytes of a probe, before padding.
pub const PROBE_LEN: usize = 12;
/// The wire format's version, bits 4 and 5 of the first byte.
pub const VERSION: u8 = 0;

/// The header of a sealed datagram. Authenticated, not encrypted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The low four bits of the session's number, for people who read captures.
    pub epoch: u8,
    /// Which of the receiver's sessions this belongs to.
    pub receiver: ReceiverIndex,
    /// Which of the session's two sequences the counter is of.
    pub lane: Lane,
    /// Never repeats within a session, direction and lane; with the lane it is the nonce. Below 2^63.
    pub counter: u64,
}

/// How a datagram is queued where others wait. Datagrams of one lane stay in order; of two lanes, one may overtake the
/// other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Lane {
    /// In turn.
    #[default]
    Bulk,
    /// Ahead of bulk: frames of flows that send little, and probes.
    Prompt,
}

impl Header {
    /// Lane and counter as one number: the eight bytes of the header, and of the nonce.
    pub fn sequence(&self) -> u64 {
        match self.lane {
            Lane::Bulk => self.counter & !PROMPT,
            Lane::Prompt => self.counter | PROMPT,
        }
    }

    /// The first [`HEADER_LEN`] bytes of the datagram.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let [r0, r1, r2, r3] = self.receiver.0.to_be_bytes();
        let [c0, c1, c2, c3, c4, c5, c6, c7] = self.sequence().to_be_bytes();
        let first = SEALED | VERSION << 4 | self.epoch & 0x0f;
        [first, 0, 0, 0, r0, r1, r2, r3, c0, c1, c2, c3, c4, c5, c6, c7]
    }

    /// Reads the header of a datagram whose first byte is 128 to 191 (RFC 7983 leaves that range to us).
    pub fn parse(datagram: &[u8]) -> Result<Header, WireError> {
        let Some(&[first, reserved, f0, f1, r0, r1, r2, r3, c0, c1, c2, c3, c4, c5, c6, c7]) =
            datagram.first_chunk::<HEADER_LEN>()
        else {
            return Err(WireError::Short);
        };
        if datagram.len() < SEAL_OVERHEAD {
            return Err(WireError::Short);
        }
        if first & 0xc0 != SEALED {
            return Err(WireError::NotSealed(first));
        }
        if first >> 4 & 3 != VERSION {
            return Err(WireError::Version(first >> 4 & 3));
        }
        if [reserved, f0, f1] != [0; 3] {
            return Err(WireError::Reserved);
        }
        let sequence = u64::from_be_bytes([c0, c1, c2, c3, c4, c5, c6, c7]);
        Ok(Header {
            epoch: first & 0x0f,
            receiver: ReceiverIndex(u32::from_be_bytes([r0, r1, r2, r3])),
            lane: if sequence & PROMPT != 0 { Lane::Prompt } else { Lane::Bulk },
            counter: sequence & !PROMPT,
        })
    }
}

/// The message inside a sealed datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message<'a> {
    /// One Ethernet frame.
    Frame(FrameHeader, &'a [u8]),
    /// A part of a message that did not fit one datagram.
    Fragment(Vni, FragmentInfo, &'a [u8]),
    /// Nothing for a bridge: a sign of life.
    Probe(Probe),
}

/// What precedes a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// The network.
    pub vni: Vni,
    /// Where the frame was cut from.
    pub origin: Origin,
    /// The checksum that was left partial, if one was.
    pub csum: Option<PartialCsum>,
}

/// What a frame was cut from. It tells of the sender; what is joined on receipt is the receiver's to say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Origin {
    /// As the instance sent it.
    #[default]
    Whole,
    /// A segment of a TCP super-frame.
    TcpSegment,
    /// A datagram of a UDP super-frame (USO).
    UdpSegment,
}

impl FrameHeader {
    /// The first [`FRAME_HEADER_LEN`] bytes of the message.
    pub fn encode(&self) -> [u8; FRAME_HEADER_LEN] {
        let [v0, v1, v2] = self.vni.to_bytes();
        let mut kind = match self.origin {
            Origin::Whole => KIND_FRAME,
            Origin::TcpSegment => KIND_TCP_SEGMENT,
            Origin::UdpSegment => KIND_UDP_SEGMENT,
        };
        let (mut start, mut offset) = (0u16, 0u16);
        if let Some(csum) = self.csum {
            kind |= FLAG_PARTIAL_CSUM;
            (start, offset) = (csum.start, csum.offset);
        }
        let [s0, s1] = start.to_be_bytes();
        let [o0, o1] = offset.to_be_bytes();
        [v0, v1, v2, kind, s0, s1, o0, o1]
    }
}

/// The first [`FRAGMENT_HEADER_LEN`] bytes of a fragment message.
pub fn encode_fragment(vni: Vni, info: &FragmentInfo) -> [u8; FRAGMENT_HEADER_LEN] {
    let [v0, v1, v2] = vni.to_bytes();
    let [i0, i1, i2, i3] = info.id.to_be_bytes();
    let [o0, o1] = info.offset.to_be_bytes();
    let [t0, t1] = info.total.to_be_bytes();
    [v0, v1, v2, KIND_FRAGMENT, i0, i1, i2, i3, o0, o1, t0, t1]
}

/// A question about a path, or the answer to one; bytes behind it are padding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Probe {
    /// The receiver is asked to answer, by the way that this came.
    pub answer_wanted: bool,
    /// Chosen by the asker; the answer has the same.
    pub sequence: u32,
    /// How long ago the sender had last heard the receiver on this path, milliseconds; `None`: never, or longer ago
    /// than [`MAX_HEARD_MS`].
    pub heard_ms: Option<u16>,
    /// Bytes of the whole sealed datagram: of a question as it was sent, repeated by the answer as it arrived.
    pub datagram_len: u16,
}

/// The longest time that [`Probe::heard_ms`] tells.
pub const MAX_HEARD_MS: u16 = u16::MAX - 1;

impl Probe {
    /// The [`PROBE_LEN`] bytes of the message.
    pub fn encode(&self) -> [u8; PROBE_LEN] {
        let [s0, s1, s2, s3] = self.sequence.to_be_bytes();
        let flag = if self.answer_wanted { FLAG_ANSWER_WANTED } else { 0 };
        let [h0, h1] = self.heard_ms.unwrap_or(NEVER_HEARD).to_be_bytes();
        let [l0, l1] = self.datagram_len.to_be_bytes();
        [0, 0, 0, KIND_PROBE | flag, s0, s1, s2, s3, h0, h1, l0, l1]
    }
}

impl<'a> Message<'a> {
    /// Reads an opened message.
    pub fn parse(message: &'a [u8]) -> Result<Message<'a>, WireError> {
        let Some((&[v0, v1, v2, kind, a, b, c, d], rest)) = message.split_first_chunk::<FRAME_HEADER_LEN>()
        else {
            return Err(WireError::Short);
        };
        let flags = kind & 0xf0;
        let kind = kind & 0x0f;
        if kind == KIND_PROBE {
            let Some(&[h0, h1, l0, l1]) = rest.first_chunk::<4>() else { return Err(WireError::Short) };
            return Ok(Message::Probe(Probe {
                answer_wanted: flags & FLAG_ANSWER_WANTED != 0,
                sequence: u32::from_be_bytes([a, b, c, d]),
                heard_ms: Some(u16::from_be_bytes([h0, h1])).filter(|ms| *ms != NEVER_HEARD),
                datagram_len: u16::from_be_bytes([l0, l1]),
            }));
        }
        let vni = Vni::new(u32::from_be_bytes([0, v0, v1, v2])).map_err(|_| WireError::Vni)?;
        if kind == KIND_FRAGMENT {
            let Some((&[o0, o1, t0, t1], data)) = message[FRAME_HEADER_LEN..].split_first_chunk::<4>() else {
                return Err(WireError::Short);
            };
            let offset = u16::from_be_bytes([o0, o1]);
            let total = u16::from_be_bytes([t0, t1]);
            let info = FragmentInfo { id: u32::from_be_bytes([a, b, c, d]), offset, total };
            return Ok(Message::Fragment(vni, info, data));
        }
        let origin = match kind {
            KIND_FRAME => Origin::Whole,
            KIND_TCP_SEGMENT => Origin::TcpSegment,
            KIND_UDP_SEGMENT => Origin::UdpSegment,
            other => return Err(WireError::Kind(other)),
        };
        let mut csum = None;
        if flags & FLAG_PARTIAL_CSUM != 0 {
            let partial =
                PartialCsum { start: u16::from_be_bytes([a, b]), offset: u16::from_be_bytes([c, d]) };
            if usize::from(partial.start) + usize::from(partial.offset) + 2 > rest.len() {
                return Err(WireError::Csum);
            }
            csum = Some(partial);
        }
        Ok(Message::Frame(FrameHeader { vni, origin, csum }, rest))
    }
}

/// Why a datagram or message was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WireError {
    /// It ends inside a header.
    #[error("cut short")]
    Short,
    /// The first byte is not of a sealed datagram.
    #[error("first byte {0:#04x} is not of a sealed datagram")]
    NotSealed(u8),
    /// A newer format.
    #[error("wire format version {0} is not spoken here")]
    Version(u8),
    /// Reserved bits are set.
    #[error("reserved bits are set")]
    Reserved,
    /// VNI 0.
    #[error("VNI 0")]
    Vni,
    /// An unknown kind of message.
    #[error("unknown kind of message {0}")]
    Kind(u8),
    /// The partial checksum lies outside the frame.
    #[error("partial checksum outside the frame")]
    Csum,
}

const SEALED: u8 = 0x80;
/// Of the counter's field: the lane.
const PROMPT: u64 = 1 << 63;
const KIND_FRAME: u8 = 0;
const KIND_TCP_SEGMENT: u8 = 1;
const KIND_UDP_SEGMENT: u8 = 2;
const KIND_FRAGMENT: u8 = 3;
const KIND_PROBE: u8 = 4;
const FLAG_PARTIAL_CSUM: u8 = 0x10;
const FLAG_ANSWER_WANTED: u8 = 0x10;
const NEVER_HEARD: u16 = u16::MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn header_refuses_what_it_does_not_know() {
        let good = Header { epoch: 3, receiver: ReceiverIndex(7), lane: Lane::Bulk, counter: 9 }.encode();
        let mut datagram = [0; SEAL_OVERHEAD];
        datagram[..HEADER_LEN].copy_from_slice(&good);
        let with = |at: usize, value: u8| {
            let mut d = datagram;
            d[at] = value;
            Header::parse(&d)
        };
        assert_eq!(with(0, 0x43), Err(WireError::NotSealed(0x43)));
        assert_eq!(with(0, 0x93), Err(WireError::Version(1)));
        assert_eq!(with(1, 1), Err(WireError::Reserved));
        assert_eq!(with(3, 1), Err(WireError::Reserved));
        assert_eq!(Header::parse(&datagram[..SEAL_OVERHEAD - 1]), Err(WireError::Short));
    }

    #[test]
    fn probes_round_trip_with_padding() {
        let asked =
            Probe { answer_wanted: true, sequence: 0x01020304, heard_ms: Some(0x0506), datagram_len: 0x0708 };
        assert_eq!(asked.encode(), [0, 0, 0, 0x14, 1, 2, 3, 4, 5, 6, 7, 8]);
        let never = Probe { answer_wanted: false, heard_ms: None, ..asked };
        assert_eq!(never.encode(), [0, 0, 0, 4, 1, 2, 3, 4, 0xff, 0xff, 7, 8]);
        for probe in [asked, never] {
            let mut padded = probe.encode().to_vec();
            padded.extend([0; 100]);
            assert_eq!(Message::parse(&padded), Ok(Message::Probe(probe)));
        }
        assert_eq!(Message::parse(&asked.encode()[..PROBE_LEN - 1]), Err(WireError::Short));
    }

    #[test]
    fn a_checksum_outside_the_frame_is_refused() {
        let vni = Vni::new(5).expect("in range");
        let csum = Some(PartialCsum { start: 34, offset: 16 });
        let mut message = FrameHeader { vni, origin: Origin::Whole, csum }.encode().to_vec();
        message.extend([0; 51]);
        assert_eq!(Message::parse(&message), Err(WireError::Csum));
        message.push(0);
        assert!(Message::parse(&message).is_ok());
    }

    proptest! {
        #[test]
        fn header_round_trips(epoch in 0u8..16, receiver: u32, prompt: bool, counter in 0u64..1 << 63) {
            let lane = if prompt { Lane::Prompt } else { Lane::Bulk };
            let header = Header { epoch, receiver: ReceiverIndex(receiver), lane, counter };
            let mut datagram = header.encode().to_vec();
            datagram.extend([0; TAG_LEN]);
            prop_assert_eq!(Header::parse(&datagram), Ok(header));
        }

        #[test]
        fn fragments_round_trip(id: u32, offset: u16, total: u16, vni in 1u32..0x100_0000, data: Vec<u8>) {
            let vni = Vni::new(vni).expect("in range");
            let info = FragmentInfo { id, offset, total };
            let mut message = encode_fragment(vni, &info).to_vec();
            message.extend(&data);
            prop_assert_eq!(Message::parse(&message), Ok(Message::Fragment(vni, info, &data[..])));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = Header::parse(&bytes);
            let _ = Message::parse(&bytes);
        }
    }
}
