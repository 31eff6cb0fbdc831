//! Super-frames for tests, built by hand and checked with etherparse.

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::{Batch, Coalescer, FrameSource};
use crate::frame::checksum::Sum;
use crate::frame::transport::tcp_flags::{ACK, CWR, FIN, PSH};
use crate::ids::{PeerId, Vni};
use crate::vnet::{Gso, PartialCsum, VnetHdr};

/// A super-frame in words.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) tags: Vec<(u16, u16)>,
    pub(crate) v6: bool,
    pub(crate) udp: bool,
    /// 32-bit words of IPv4 options, or 8-byte units of IPv6 hop-by-hop options.
    pub(crate) ip_options: usize,
    pub(crate) tcp_options: Vec<u8>,
    pub(crate) flags: u8,
    pub(crate) seq: u32,
    pub(crate) id: u16,
    pub(crate) df: bool,
    pub(crate) tos: u8,
    pub(crate) ports: [u16; 2],
    pub(crate) payload: usize,
    pub(crate) gso_size: u16,
}

impl Default for Spec {
    fn default() -> Spec {
        Spec {
            tags: Vec::new(),
            v6: false,
            udp: false,
            ip_options: 0,
            tcp_options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
            flags: ACK,
            seq: 1000,
            id: 100,
            df: true,
            tos: 0,
            ports: [4000, 5001],
            payload: 10_000,
            gso_size: 1448,
        }
    }
}

impl Spec {
    /// The super-frame with its virtio-net header, as the kernel hands them over.
    pub(crate) fn build(&self) -> (Vec<u8>, VnetHdr) {
        let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for (tpid, tci) in &self.tags {
            f.extend(tpid.to_be_bytes());
            f.extend(tci.to_be_bytes());
        }
        let l4_header = if self.udp { 8 } else { 20 + self.tcp_options.len() };
        let l4_len = l4_header + self.payload;
        let protocol = if self.udp { 17 } else { 6 };
        let addresses = if self.v6 {
            f.extend([0x86, 0xdd, 0x60 | (self.tos >> 4), self.tos << 4, 0x12, 0x34]);
            f.extend(((self.ip_options * 8 + l4_len) as u16).to_be_bytes());
            f.extend([if self.ip_options > 0 { 0 } else { protocol }, 64]);
            let addresses: Vec<u8> = (0u8..32).map(|i| i ^ 0xfd).collect();
            f.extend(&addresses);
            if self.ip_options > 0 {
                let mut hop = vec![0; self.ip_options * 8];
                hop[..4].copy_from_slice(&[
                    protocol,
                    self.ip_options as u8 - 1,
                    1,
                    self.ip_options as u8 * 8 - 4,
                ]);
                f.extend(hop);
            }
            addresses
        } else {
            f.extend([0x08, 0x00]);
            let l3 = f.len();
            f.extend([0x45 + self.ip_options as u8, self.tos]);
            f.extend(((20 + self.ip_options * 4 + l4_len) as u16).to_be_bytes());
            f.extend(self.id.to_be_bytes());
            f.extend([if self.df { 0x40 } else { 0 }, 0, 64, protocol, 0, 0]);
            let addresses = vec![10, 0, 0, 1, 10, 0, 0, 2];
            f.extend(&addresses);
            f.extend(std::iter::repeat_n(1, self.ip_options * 4));
            let sum = Sum::default().bytes(&f[l3..]).finish();
            f[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
            addresses
        };
        let l4 = f.len();
        let seed = Sum::default().bytes(&addresses).word(protocol.into()).word(l4_len as u16).fold();
        f.extend(self.ports[0].to_be_bytes());
        f.extend(self.ports[1].to_be_bytes());
        if self.udp {
            f.extend((l4_len as u16).to_be_bytes());
            f.extend(seed.to_be_bytes());
        } else {
            f.extend(self.seq.to_be_bytes());
            f.extend([0, 0, 0, 77, ((20 + self.tcp_options.len()) * 4) as u8, self.flags, 2, 0]);
            f.extend(seed.to_be_bytes());
            f.extend([0, 0]);
            f.extend(&self.tcp_options);
        }
        let hdr_len = f.len() as u16;
        f.extend((0..self.payload).map(|i| (i * 7 + i / 251) as u8));
        let ecn = self.flags & CWR != 0;
        let vnet = VnetHdr {
            csum: Some(PartialCsum { start: l4 as u16, offset: if self.udp { 6 } else { 16 } }),
            data_valid: false,
            gso: match (self.udp, self.v6) {
                (true, _) => Gso::UdpL4,
                (false, false) => Gso::TcpV4 { ecn },
                (false, true) => Gso::TcpV6 { ecn },
            },
            hdr_len,
            gso_size: self.gso_size,
        };
        (f, vnet)
    }

    pub(crate) fn header_len(&self) -> usize {
        usize::from(Spec { payload: 0, ..self.clone() }.build().1.hdr_len)
    }

    /// Any super-frame up to the longest.
    pub(crate) fn any() -> impl Strategy<Value = Spec> {
        let tag = (prop::sample::select(vec![0x8100u16, 0x88a8]), any::<u16>());
        let network =
            (prop::collection::vec(tag, 0..3), any::<bool>(), any::<bool>(), 0usize..4, any::<u8>());
        let flags = prop::sample::subsequence(vec![FIN, PSH, CWR, 0x40], 0..=4);
        let tcp = (0usize..=10, flags, any::<u32>());
        let ip = (any::<u16>(), any::<bool>());
        (network, tcp, ip, 1usize..65_000, 1u16..3000).prop_map(
            |((tags, v6, udp, ip_options, tos), (words, flags, seq), (id, df), payload, gso_size)| {
                let mut spec = Spec {
                    tags,
                    v6,
                    udp,
                    ip_options: ip_options.saturating_sub(1),
                    tcp_options: std::iter::repeat_n([1, 3, 3, 7], words).flatten().collect(),
                    flags: flags.into_iter().fold(ACK, |all, flag| all | flag),
                    seq,
                    id,
                    df,
                    tos,
                    payload,
                    gso_size,
                    ..Spec::default()
                };
                // Most payloads are a few segments, and those of many stay under the longest frame.
                spec.payload = payload.min(usize::from(gso_size) * 60).min(65_535 - spec.header_len());
                spec
            },
        )
    }
}

pub(crate) fn source() -> FrameSource {
    FrameSource { vni: Vni::new(100).unwrap(), peer: PeerId(1) }
}

/// Panics unless IP and layer-4 checksums and lengths are right.
pub(crate) fn verify(frame: &[u8]) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let transport = packet.transport.unwrap();
    match packet.net.unwrap() {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.calc_header_checksum(), header.header_checksum);
            match transport {
                TransportSlice::Tcp(tcp) => {
                    let sum = tcp.to_header().calc_checksum_ipv4(&header, tcp.payload()).unwrap();
                    assert_eq!(sum % 0xffff, tcp.checksum() % 0xffff);
                }
                TransportSlice::Udp(udp) => {
                    assert_ne!(udp.checksum(), 0);
                    let sum = udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap();
                    assert_eq!(sum % 0xffff, udp.checksum() % 0xffff);
                }
                other => panic!("{other:?}"),
            }
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header().to_header();
            match transport {
                TransportSlice::Tcp(tcp) => {
                    let sum = tcp.to_header().calc_checksum_ipv6(&header, tcp.payload()).unwrap();
                    assert_eq!(sum % 0xffff, tcp.checksum() % 0xffff);
                }
                TransportSlice::Udp(udp) => {
                    assert_ne!(udp.checksum(), 0);
                    let sum = udp.to_header().calc_checksum_ipv6(&header, udp.payload()).unwrap();
                    assert_eq!(sum % 0xffff, udp.checksum() % 0xffff);
                }
                other => panic!("{other:?}"),
            }
        }
        other => panic!("{other:?}"),
    }
}

/// What came out of a batch: each run's frame, virtio-net header and the indices of its frames.
pub(crate) fn drain(mut batch: Batch<'_>, frames: &[Vec<u8>]) -> Vec<(Vec<u8>, VnetHdr, Vec<u32>)> {
    let mut out = Vec::new();
    while let Some(mut run) = batch.next_run() {
        let mut frame = run.header_mut().to_vec();
        let mut indices = Vec::new();
        for piece in run.payloads() {
            frame.extend(&frames[piece.index as usize][piece.start as usize..piece.end as usize]);
            indices.push(piece.index);
        }
        assert_eq!(frame.len(), run.frame_len());
        assert_eq!(indices.len(), run.segments());
        assert_eq!(indices[0], run.index());
        out.push((frame, run.vnet(), indices));
    }
    out
}

/// One batch of frames with partial checksums at the same place.
pub(crate) fn coalesce(frames: &[Vec<u8>], csum: Option<PartialCsum>) -> Vec<(Vec<u8>, VnetHdr, Vec<u32>)> {
    let mut coalescer = Coalescer::new(frames.len(), true);
    for (i, frame) in frames.iter().enumerate() {
        coalescer.push(source(), i as u32, frame, csum, true);
    }
    drain(coalescer.finish(), frames)
}

/// Computes the IPv4 header's checksum anew.
pub(crate) fn fix_ip(frame: &mut [u8], l3: usize) {
    let len = usize::from(frame[l3] & 0xf) * 4;
    frame[l3 + 10..l3 + 12].fill(0);
    let sum = Sum::default().bytes(&frame[l3..l3 + len]).finish();
    frame[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
}
