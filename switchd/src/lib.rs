//! The switch daemon, as a library for its binaries and benches.

pub mod config;
pub mod key;
pub mod view;
