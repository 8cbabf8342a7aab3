//! The command line: strings to a validated plan, the plan to the library, its errors and its exit code to people.

mod adapt;
mod apply;
mod bench;
mod compare;
mod demo;
mod evaluate;
mod hub;
mod identify;
mod import;
mod mask;
mod memory;
mod merge;
mod place;
mod profile;
mod publish;
mod pull;
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
    Adapt(Box<adapt::AdaptArgs>),
    Apply(apply::ApplyArgs),
    Compare(compare::CompareArgs),
    Publish(publish::PublishArgs),
    Pull(pull::PullArgs),
    Verify(verify::VerifyArgs),
    Evaluate(evaluate::EvaluateArgs),
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
    calm();
    run(std::env::args_os())
}

/// Leaves candle's own threads asleep, unless somebody asks for them: they wait for one another by spinning, which makes a pass several
/// times slower wherever another program runs beside it, and what is worth several threads here has them from rayon.
#[allow(unsafe_code)]
fn calm() {
    const THREADS: &str = "CANDLE_NUM_THREADS";
    if std::env::var_os(THREADS).is_none() {
        // SAFETY: this is the program's first act; no other thread is there to read the environment.
        unsafe { std::env::set_var(THREADS, "1") };
    }
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
    log(cli.quiet);
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
        Command::Adapt(args) => args.run(&talk),
        Command::Apply(args) => args.run(&talk),
        Command::Compare(args) => args.run(&talk),
        Command::Publish(args) => args.run(&talk),
        Command::Pull(args) => args.run(&talk),
        Command::Verify(args) => args.run(&talk),
        Command::Evaluate(args) => args.run(&talk),
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

/// Sets up the log on stderr: what `NEUROGLOT_LOG` asks for, without secrets; unless it asks, warnings and the long downloads.
fn log(quiet: bool) {
    use tracing_subscriber::EnvFilter;
    let usual = if quiet { "error" } else { "warn,neuroglot::corpus::hub=info" };
    let asked = EnvFilter::try_from_env("NEUROGLOT_LOG").ok();
    // What the libraries of the Hub have to say stands in our own errors; below `info`, they log requests whole.
    let filter = match asked {
        None => {
            LIBRARIES.iter().fold(EnvFilter::new(usual), |filter, name| filter.add_directive(directive(name, "off")))
        }
        Some(asked) => LIBRARIES.iter().fold(asked, |filter, name| filter.add_directive(directive(name, "info"))),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Clean(std::io::stderr()))
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()))
        .with_target(false)
        .without_time()
        .init();
}

/// Libraries that speak to a Hub.
const LIBRARIES: [&str; 11] = [
    "hf_hub",
    "xet",
    "xet_client",
    "xet_data",
    "xet_core_structures",
    "xet_runtime",
    "reqwest",
    "hyper",
    "hyper_util",
    "h2",
    "rustls",
];

fn directive(library: &str, level: &str) -> tracing_subscriber::filter::Directive {
    format!("{library}={level}").parse().expect("a constant")
}

/// A writer that secrets do not pass. An event is written in one piece, so that none is cut in two.
struct Clean(std::io::Stderr);

impl std::io::Write for Clean {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let clean = crate::hub::without_secrets(&String::from_utf8_lossy(bytes));
        self.0.write_all(clean.as_bytes()).map(|()| bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
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
