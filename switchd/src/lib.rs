//! The switch daemon, as a library for its binaries and benches.

pub mod admin;
pub mod capture;
pub mod cli;
pub mod config;
pub mod ctl;
pub mod daemon;
pub mod dataplane;
pub mod desired;
pub mod endpoint;
pub mod links;
pub mod metrics;
pub mod netlink;
pub mod portmap;
pub mod session;
pub mod tap;
pub mod traversal;
pub mod underlay;
pub mod view;

pub use node_session::key;
