//! The command line of the controller.

use std::process::ExitCode;

fn main() -> ExitCode {
    skippy::main()
}
