//! Fuzz targets of the core. Each is a plain function over bytes that asserts what must hold for all of them, so
//! that the same code runs under libFuzzer (`fuzz_targets/`) and, with its corpus and fixed mutations, under
//! `cargo test`.

mod frames;
mod input;
mod neighbour;
mod offload;
mod overlay;

pub use frames::frame_parse;
pub use neighbour::arp_nd_reply;
pub use offload::offload_split_coalesce;
pub use overlay::overlay_parse;
