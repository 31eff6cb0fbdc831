//! The command line of the controller.

pub mod client;
pub mod config;
pub mod error;
pub mod tls;
pub mod units;

use std::process::ExitCode;

/// Carries out the command line.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
