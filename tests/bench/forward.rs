//! Tokens per second of a profiling pass with and without an observer, alternating in one run.
//!
//!     cargo bench --bench forward -- MODEL [--rounds 7] [--batch 4] [--context 512] [--threads N] [--turns]
//!
//! Also the peak of memory while the model is loaded. Counted: what `profile` runs, the gates of all layers and nothing behind the last one. `--turns` is for tests/bench/compare.py: one
//! pass for every line on stdin, answered by one line of JSON.

use std::{io::BufRead, path::PathBuf, time::Instant};

use candle_core::{DType, Device, Tensor};
use clap::Parser;
use neuroglot::{
    checkpoint::Checkpoint,
    model::{Decoder, Observer, Path, Tally, Unobserved, family},
};

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Arguments {
    model: PathBuf,
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    #[arg(long, default_value_t = 4)]
    batch: usize,
    #[arg(long, default_value_t = 512)]
    context: usize,
    #[arg(long)]
    threads: Option<usize>,
    #[arg(long)]
    turns: bool,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let arguments = Arguments::parse();
    if let Some(threads) = arguments.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().expect("built once");
    }
    let checkpoint = Checkpoint::open(&arguments.model).expect("a model folder");
    let before = memory("VmRSS:");
    let decoder = Decoder::load(&checkpoint, DType::F32, &Device::Cpu, Path::Inference).expect("a known family");
    let loading = memory("VmHWM:") - before;
    let weights = 4.0 * family::read(&checkpoint).expect("a known family").parameters() as f64 / 1e6;
    let (batch, context) = (arguments.batch, arguments.context);
    // Ids as the peer draws them, without a generator: every id once before any comes again.
    let ids: Vec<u32> = (0..batch * context).map(|i| (i * 7919 % decoder.spec().vocabulary) as u32).collect();
    let ids = Tensor::from_vec(ids, (batch, context), &Device::Cpu).expect("as many ids as the shape says");
    let folds = vec![vec![0u8; context]; batch];
    let mut tally = Tally::new(decoder.spec().ffn, 1);
    let mut run = |observed: bool| {
        tally.begin(folds.iter().map(Vec::as_slice));
        let observer: &mut dyn Observer = if observed { &mut tally } else { &mut Unobserved };
        let start = Instant::now();
        decoder.observe(&ids, observer).expect("the model runs");
        (batch * context) as f64 / start.elapsed().as_secs_f64()
    };
    run(true);
    if arguments.turns {
        for line in std::io::stdin().lock().lines() {
            line.expect("stdin can be read");
            println!("{{\"tokens_per_second\": {:.1}}}", run(true));
        }
        return;
    }
    let (mut with, mut without, mut costs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..arguments.rounds {
        let (a, b) = (run(true), run(false));
        with.push(a);
        without.push(b);
        costs.push((b / a - 1.0) * 100.0);
    }
    let (observed, unobserved, cost) = (spread(with), spread(without), spread(costs));
    println!("loading: peak {loading:.0} MB more than before, for {weights:.0} MB of weights in f32");
    println!("{} rounds of {batch} × {context} tokens, {} threads", arguments.rounds, rayon::current_num_threads());
    let line = |what: &str, [low, median, high]: [f64; 3]| println!("{what:28} {median:8.1}   ({low:.1} to {high:.1})");
    line("tokens/s, counting", observed);
    line("tokens/s, nobody looking", unobserved);
    line("cost of counting, %", cost);
}

/// Lowest, median and highest.
fn spread(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [values[0], values[values.len() / 2], values[values.len() - 1]]
}

/// A line of /proc/self/status, in MB; 0 where there is none.
fn memory(line: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes = status.lines().find_map(|text| text.strip_prefix(line)).unwrap_or("0 kB");
    kilobytes.trim().trim_end_matches(" kB").parse::<f64>().map_or(0.0, |kilobytes| kilobytes * 1024.0 / 1e6)
}
