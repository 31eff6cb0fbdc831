//! The switch daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    switchd::cli::main(switchd::daemon::run)
}
