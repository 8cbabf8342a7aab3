//! The `neuroglot` program: parses, runs a command, says what went wrong.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    neuroglot::cli::main()
}
