//! What travels on the node's one UDP socket, and by which path a peer is reached. Pure: no socket, no clock.

mod demux;
mod paths;

pub use demux::{Protocol, classify};
pub use paths::{Path, PathKind, PathTable, Slot, canonical, is_real_source};
