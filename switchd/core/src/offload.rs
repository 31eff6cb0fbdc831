//! Segmentation offload in software: super-frames split into segments on the way to a peer, and segments
//! coalesced into super-frames on the way to the bridge, by the rules of the kernel's GSO and GRO
//! (net/ipv4/tcp_offload.c, net/ipv4/udp_offload.c). Checksums that came partial stay partial.
//!
//! - [`Split`], [`SplitPlan`]: one super-frame into segments.
//! - [`Coalescer`]: a batch of frames into runs.
//! - [`clamp_mss`]: plain segments that fit the path.
//! - [`finish_checksum`]: for an endpoint without offloads.

mod coalesce;
mod finish;
mod mss;
mod split;

pub use coalesce::{Batch, Coalescer, FrameSource, MAX_SEGMENTS, Piece, Run};
pub use finish::{ChecksumError, finish_checksum};
pub use mss::clamp_mss;
pub use split::{Split, SplitError, SplitPlan};

/// The longest stack of headers, Ethernet to layer 4, that splits or coalesces: two tags, IPv4 with all its
/// options and TCP with all its options fit, or IPv6 with some extension headers.
pub const MAX_HEADER: usize = 144;

/// The longest super-frame, Ethernet header included. A device whose `gso_max_size` is the default 65,536 cuts
/// anything longer in software (`gso_features_check` in net/core/dev.c).
pub const MAX_SUPER_FRAME: usize = 65_535;

#[cfg(test)]
mod testing;
