//! The controller.

use std::process::ExitCode;

fn main() -> ExitCode {
    controller::cli::main(controller::run::run)
}
