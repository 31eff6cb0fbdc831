//! The virtio-net header that precedes each frame on a TAP with `IFF_VNET_HDR`
//! (`struct virtio_net_hdr`, include/uapi/linux/virtio_net.h; VIRTIO 1.3, 5.1.6). Little-endian: the shell
//! sets `TUNSETVNETLE`.

/// Bytes of the header on the TAP.
pub const VNET_HDR_LEN: usize = 10;

/// How the kernel segmented, or is to segment, a super-frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Gso {
    /// An ordinary frame.
    #[default]
    None,
    /// TCP over IPv4; `ecn`: CWR belongs to the first segment only.
    TcpV4 {
        /// VIRTIO_NET_HDR_GSO_ECN.
        ecn: bool,
    },
    /// TCP over IPv6.
    TcpV6 {
        /// VIRTIO_NET_HDR_GSO_ECN.
        ecn: bool,
    },
    /// UDP datagrams of one size (USO), IPv4 or IPv6.
    UdpL4,
}

/// A checksum left partial: the field holds the pseudo-header's sum, and whoever hands the frame to a real NIC
/// adds the bytes from `start` to the end of the frame and stores the result at `start + offset`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartialCsum {
    /// First byte to sum, from the start of the Ethernet header.
    pub start: u16,
    /// Where the checksum goes, from `start`.
    pub offset: u16,
}

/// The header, parsed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VnetHdr {
    /// The partial checksum (VIRTIO_NET_HDR_F_NEEDS_CSUM), if any.
    pub csum: Option<PartialCsum>,
    /// Checksums were verified by the device (VIRTIO_NET_HDR_F_DATA_VALID).
    pub data_valid: bool,
    /// Kind of super-frame.
    pub gso: Gso,
    /// Bytes of Ethernet to layer-4 headers; a hint of the kernel's, not to be trusted.
    pub hdr_len: u16,
    /// Layer-4 payload bytes in each segment of a super-frame.
    pub gso_size: u16,
}

/// Why a header was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum VnetError {
    /// Fewer than [`VNET_HDR_LEN`] bytes.
    #[error("virtio-net header cut short")]
    Short,
    /// A `gso_type` that no offload of ours asked for.
    #[error("unknown virtio-net gso_type {0}")]
    GsoType(u8),
    /// A super-frame with `gso_size` zero.
    #[error("super-frame with gso_size 0")]
    GsoSize,
}

impl VnetHdr {
    /// Reads the header at the start of `buf`.
    pub fn parse(buf: &[u8]) -> Result<VnetHdr, VnetError> {
        let Some(&[flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1]) = buf.first_chunk::<VNET_HDR_LEN>()
        else {
            return Err(VnetError::Short);
        };
        let ecn = gso_type & GSO_ECN != 0;
        let gso = match gso_type & !GSO_ECN {
            GSO_NONE => Gso::None,
            GSO_TCPV4 => Gso::TcpV4 { ecn },
            GSO_TCPV6 => Gso::TcpV6 { ecn },
            GSO_UDP_L4 => Gso::UdpL4,
            other => return Err(VnetError::GsoType(other)),
        };
        let gso_size = u16::from_le_bytes([g0, g1]);
        if gso != Gso::None && gso_size == 0 {
            return Err(VnetError::GsoSize);
        }
        let csum = (flags & F_NEEDS_CSUM != 0).then(|| PartialCsum {
            start: u16::from_le_bytes([s0, s1]),
            offset: u16::from_le_bytes([o0, o1]),
        });
        Ok(VnetHdr {
            csum,
            data_valid: flags & F_DATA_VALID != 0,
            gso,
            hdr_len: u16::from_le_bytes([h0, h1]),
            gso_size,
        })
    }

    /// The header as the TAP wants it.
    pub fn encode(&self) -> [u8; VNET_HDR_LEN] {
        let mut flags = 0;
        let (mut start, mut offset) = (0u16, 0u16);
        if let Some(csum) = self.csum {
            flags |= F_NEEDS_CSUM;
            (start, offset) = (csum.start, csum.offset);
        }
        if self.data_valid {
            flags |= F_DATA_VALID;
        }
        let gso_type = match self.gso {
            Gso::None => GSO_NONE,
            Gso::TcpV4 { ecn } => GSO_TCPV4 | if ecn { GSO_ECN } else { 0 },
            Gso::TcpV6 { ecn } => GSO_TCPV6 | if ecn { GSO_ECN } else { 0 },
            Gso::UdpL4 => GSO_UDP_L4,
        };
        let [h0, h1] = self.hdr_len.to_le_bytes();
        let [g0, g1] = self.gso_size.to_le_bytes();
        let [s0, s1] = start.to_le_bytes();
        let [o0, o1] = offset.to_le_bytes();
        [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1]
    }
}

const F_NEEDS_CSUM: u8 = 1;
const F_DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let hdr = VnetHdr {
            csum: Some(PartialCsum { start: 34, offset: 16 }),
            data_valid: false,
            gso: Gso::TcpV4 { ecn: true },
            hdr_len: 66,
            gso_size: 1448,
        };
        assert_eq!(hdr.encode(), [1, 0x81, 66, 0, 0xa8, 5, 34, 0, 16, 0]);
        assert_eq!(VnetHdr::parse(&hdr.encode()), Ok(hdr));
    }

    #[test]
    fn refuses_bad_headers() {
        assert_eq!(VnetHdr::parse(&[0; 9]), Err(VnetError::Short));
        assert_eq!(VnetHdr::parse(&[0, 3, 0, 0, 1, 0, 0, 0, 0, 0]), Err(VnetError::GsoType(3)));
        assert_eq!(VnetHdr::parse(&[0, 1, 0, 0, 0, 0, 0, 0, 0, 0]), Err(VnetError::GsoSize));
    }
}
