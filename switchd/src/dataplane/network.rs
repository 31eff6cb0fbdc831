//! One network on this node: its switch and its endpoint's TAP.

use std::io::{self, IoSlice};
use std::sync::Arc;

use switch_core::ids::Vni;
use switch_core::offload::{Coalescer, Split, finish_checksum};
use switch_core::switch::{DropReason, Switch};
use switch_core::vnet::{Gso, VnetHdr};

use super::NetworkConfig;
use super::snapshot::{Buckets, DropCounts};
use crate::tap::{Offloads, Tap, is_gone};

/// A network.
pub(super) struct Network {
    pub(super) name: Arc<str>,
    pub(super) vni: Vni,
    pub(super) switch: Switch,
    pub(super) tap: Option<Tap>,
    pub(super) mss_clamp: bool,
    /// Joins what arrives in one batch, if the TAP takes super-frames.
    pub(super) coalescer: Coalescer,
    pub(super) local: SideCounters,
    pub(super) remote: SideCounters,
    scratch: Vec<u8>,
}

/// What came from one side.
#[derive(Clone, Debug)]
pub(super) struct SideCounters {
    pub(super) frames: u64,
    pub(super) bytes: u64,
    pub(super) super_frames: u64,
    pub(super) sizes: Buckets<9>,
    /// Drops that the switch did not decide.
    pub(super) drops: DropCounts,
}

impl SideCounters {
    fn new() -> SideCounters {
        SideCounters {
            frames: 0,
            bytes: 0,
            super_frames: 0,
            sizes: Buckets::new([64, 128, 256, 512, 1024, 1522, 4096, 16_384, 65_557]),
            drops: DropCounts::default(),
        }
    }

    pub(super) fn count(&mut self, len: usize, vnet: &VnetHdr) {
        self.frames += 1;
        self.bytes += len as u64;
        self.super_frames += u64::from(vnet.gso != Gso::None);
        self.sizes.observe(len as u64);
    }
}

impl Network {
    pub(super) fn new(config: NetworkConfig) -> Network {
        Network {
            name: config.name,
            vni: config.switch.vni,
            switch: Switch::new(config.switch),
            tap: None,
            mss_clamp: config.mss_clamp,
            coalescer: Coalescer::new(BATCH_FRAMES, false),
            local: SideCounters::new(),
            remote: SideCounters::new(),
            scratch: Vec::new(),
        }
    }

    pub(super) fn set_tap(&mut self, tap: Option<Tap>) {
        let uso = tap.as_ref().is_some_and(|tap| tap.offloads().uso);
        self.coalescer = Coalescer::new(BATCH_FRAMES, uso);
        self.tap = tap;
    }

    /// Whether runs of segments may be joined for this TAP.
    pub(super) fn coalesces(&self) -> bool {
        self.tap.as_ref().is_some_and(|tap| tap.offloads().tso4 && tap.offloads().tso6)
    }

    /// Puts a frame on the bridge; `parts` together are the frame.
    pub(super) fn deliver(&mut self, vnet: &VnetHdr, parts: &[IoSlice<'_>]) {
        let Some(tap) = &mut self.tap else {
            return self.remote.drops.count(DropReason::TapWrite, 1);
        };
        let result = match unsupported(tap.offloads(), vnet) {
            false => write(tap, vnet, parts),
            true => {
                self.scratch.clear();
                parts.iter().for_each(|part| self.scratch.extend_from_slice(part));
                write_finished(tap, vnet, &mut self.scratch)
            }
        };
        let Err(e) = result else { return };
        self.remote.drops.count(DropReason::TapWrite, 1);
        if is_gone(&e) {
            self.set_tap(None); // the endpoint's keeper opens another
        } else if e.raw_os_error() == Some(libc::EINVAL) && vnet.gso != Gso::None {
            let reduced = reduce(tap.offloads(), vnet.gso);
            tracing::warn!(network = %self.name, gso = ?vnet.gso, "the kernel refuses a super-frame on the TAP: this offload stays off");
            let _ = tap.set_offloads(reduced);
            let uso = tap.offloads().uso;
            self.coalescer = Coalescer::new(BATCH_FRAMES, uso);
        }
    }
}

fn write(tap: &Tap, vnet: &VnetHdr, parts: &[IoSlice<'_>]) -> io::Result<()> {
    let header = vnet.encode();
    let mut slices = [IoSlice::new(&[]); MAX_PARTS + 1];
    slices[0] = IoSlice::new(&header);
    slices[1..=parts.len()].copy_from_slice(parts);
    tap.write_vectored(&slices[..=parts.len()]).map(|_| ())
}

/// For a TAP without the offload: whole segments with whole checksums.
fn write_finished(tap: &Tap, vnet: &VnetHdr, frame: &mut [u8]) -> io::Result<()> {
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidData);
    if vnet.gso == Gso::None {
        if let Some(csum) = vnet.csum {
            finish_checksum(frame, csum).map_err(invalid)?;
        }
        return write(tap, &VnetHdr::default(), &[IoSlice::new(frame)]);
    }
    let split = Split::new(frame, vnet, usize::MAX).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    let mut segment = vec![0; split.segment_len(0)];
    for i in 0..split.count() {
        let len = split.write_segment(i, &mut segment);
        finish_checksum(&mut segment[..len], split.csum()).map_err(invalid)?;
        write(tap, &VnetHdr::default(), &[IoSlice::new(&segment[..len])])?;
    }
    Ok(())
}

fn unsupported(on: Offloads, vnet: &VnetHdr) -> bool {
    match vnet.gso {
        Gso::None => vnet.csum.is_some() && !on.csum,
        Gso::TcpV4 { .. } => !on.tso4,
        Gso::TcpV6 { .. } => !on.tso6,
        Gso::UdpL4 => !on.uso,
    }
}

fn reduce(on: Offloads, refused: Gso) -> Offloads {
    match refused {
        Gso::None => on,
        Gso::TcpV4 { .. } | Gso::TcpV6 { .. } => Offloads::CSUM_ONLY,
        Gso::UdpL4 => Offloads { uso: false, ..on },
    }
}

/// Frames that one batch of receives may hold without allocation.
pub(super) const BATCH_FRAMES: usize = 2048;
/// The header and the payloads of the longest run.
pub(super) const MAX_PARTS: usize = switch_core::offload::MAX_SEGMENTS + 1;
