//! The command line: strings to a validated plan, the plan to the library, its errors and its exit code to people.

mod bench;
mod compare;
mod demo;
mod identify;
mod import;
mod mask;
mod merge;
mod profile;
mod site;
mod talk;
mod verify;

use std::{ffi::OsString, io::IsTerminal, process::ExitCode, sync::atomic::AtomicBool};

use clap::{Parser, Subcommand};

use self::talk::Talk;

/// Finds, publishes and maps the neurons of a language model that serve each language.
#[derive(Parser)]
#[command(name = "neuroglot", version, max_term_width = 100, propagate_version = true)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 interrupted: the same command continues.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Say nothing but errors.
    #[arg(long, short, global = true)]
    quiet: bool,
    /// Print machine-readable results on stdout.
    #[arg(long, global = true)]
    json: bool,
    /// Threads to compute with; all that this process may use, unless said.
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
}

#[derive(Subcommand)]
enum Command {
    Demo(demo::DemoArgs),
    Profile(profile::ProfileArgs),
    Merge(merge::MergeArgs),
    Identify(identify::IdentifyArgs),
    Site(site::SiteArgs),
    Mask(mask::MaskArgs),
    Import(import::ImportArgs),
    Compare(compare::CompareArgs),
    Verify(verify::VerifyArgs),
    Bench(bench::BenchArgs),
}

/// How a command ended.
enum Outcome {
    Done,
    Interrupted,
}

/// Set by Ctrl-C and by SIGTERM.
static STOP: AtomicBool = AtomicBool::new(false);

/// An error in what was typed, as opposed to what was found.
#[derive(Debug)]
struct Usage(anyhow::Error);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for Usage {}

/// Marks an error as wrong usage: exit code 2.
fn usage(error: impl Into<anyhow::Error>) -> anyhow::Error {
    anyhow::Error::new(Usage(error.into()))
}

/// Runs the program with this process's arguments.
#[must_use]
pub fn main() -> ExitCode {
    run(std::env::args_os())
}

fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // clap prints help on stdout and mistakes on stderr; a closed pipe is no reason to fail.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_env("NEUROGLOT_LOG").unwrap_or_else(|_| "warn".into()))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()))
        .with_target(false)
        .without_time()
        .init();
    if let Some(threads) = cli.threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.into()).build_global();
        pool.expect("the pool is built once, before anything uses it");
    }
    listen();
    let talk = Talk::new(cli.quiet, cli.json);
    let outcome = match cli.command {
        Command::Demo(args) => args.run(&talk),
        Command::Profile(args) => args.run(&talk),
        Command::Merge(args) => args.run(&talk),
        Command::Identify(args) => args.run(&talk),
        Command::Site(args) => args.run(&talk),
        Command::Mask(args) => args.run(&talk),
        Command::Import(args) => args.run(&talk),
        Command::Compare(args) => args.run(&talk),
        Command::Verify(args) => args.run(&talk),
        Command::Bench(args) => args.run(&talk),
    };
    match outcome {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Interrupted) => ExitCode::from(3),
        Err(error) => {
            Talk::error(&error);
            ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
        }
    }
}

/// The first signal asks the command to end after what it is doing; the second ends it at once. Files are whole either way.
fn listen() {
    use std::sync::atomic::Ordering;
    let handler = || {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(3);
        }
    };
    if let Err(error) = ctrlc::set_handler(handler) {
        tracing::warn!(%error, "signals are not handled; an interrupted command is still resumable");
    }
}
