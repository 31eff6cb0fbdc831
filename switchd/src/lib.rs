//! The switch daemon, as a library for its binaries and benches.

pub mod config;
pub mod dataplane;
pub mod key;
pub mod links;
pub mod netlink;
pub mod tap;
pub mod underlay;
pub mod view;
