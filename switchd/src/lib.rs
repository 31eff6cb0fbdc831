//! The switch daemon, as a library for its binaries and benches.

pub mod netlink;
pub mod tap;
