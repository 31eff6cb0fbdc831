//! The command line of the controller.
//!
//! [`client`] is the API as a library: settings in, typed calls, pages, operations and events out.

mod cli;
pub mod client;
mod commands;
pub mod config;
pub mod error;
mod output;
mod progress;
mod routes;
mod tables;
#[cfg(test)]
mod testing;
pub mod tls;
mod top;
pub mod units;

use std::io::ErrorKind;
use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;
use crate::error::Error;

/// Parses the command line and carries it out.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("skippy: the runtime does not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(commands::run(cli));
    // A question that nobody answered may still wait on the standard input.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // `skippy ... | head` has seen enough.
        Err(Error::Output(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("skippy: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
