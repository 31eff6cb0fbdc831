//! The switch daemon, as a library for its binaries and benches.

pub mod admin;
pub mod capture;
pub mod cli;
pub mod config;
pub mod ctl;
pub mod key;
pub mod metrics;
pub mod view;
