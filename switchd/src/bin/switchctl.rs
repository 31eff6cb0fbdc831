//! Looks into a running `switchd`.

use std::process::ExitCode;

fn main() -> ExitCode {
    switchd::ctl::main()
}
