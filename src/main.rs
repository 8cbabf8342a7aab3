//! The `neuroglot` program: parses, runs a command, says what went wrong.

use std::process::ExitCode;

fn main() -> ExitCode {
    neuroglot::cli::main()
}
