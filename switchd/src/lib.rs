//! The switch daemon, as a library for its binaries and benches.

pub mod endpoint;
pub mod netlink;
pub mod tap;
