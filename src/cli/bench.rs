//! `neuroglot bench`.

use std::{
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::Instant,
};

use candle_core::{DType, Device, Tensor};
use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Outcome, STOP, Talk, usage};
use crate::{
    checkpoint::Checkpoint,
    model::{self, Architecture, Decoder, ModelError, Tally, cost, family},
};

/// Measure how fast this machine multiplies and copies, and how much of it profiling uses.
#[derive(Args)]
pub struct BenchArgs {
    /// Model folder or GGUF file to time.
    #[arg(long, value_name = "PATH", conflicts_with = "shape")]
    model: Option<PathBuf>,
    #[arg(long, value_name = "NAME", default_value = "smollm2-135m", help = shape_help())]
    shape: String,
    /// Take only so many layers: a large model's layers are all alike.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    layers: Option<u16>,
    /// Tokens per window.
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    context: u32,
    /// Tokens that go through the model together.
    #[arg(long, default_value_t = 2048, value_name = "N")]
    batch_tokens: u32,
    /// Passes that are timed.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
}

/// Sizes of well-known models, as their config.json says them.
static SHAPES: &str = include_str!("../../atlas/shapes.json");

fn shapes() -> Map<String, Value> {
    serde_json::from_str(SHAPES).expect("the bundled shapes are JSON")
}

/// The names of the well-known models, for people.
pub(super) fn shape_names() -> String {
    shapes().keys().cloned().collect::<Vec<_>>().join(", ")
}

/// The sizes of a well-known model, if there is one of this name: its config and what that asks for.
pub(super) fn shape(name: &str) -> anyhow::Result<Option<(Map<String, Value>, Architecture)>> {
    let Some(Value::Object(config)) = shapes().remove(name) else { return Ok(None) };
    let architecture = family::of_config("shapes.json".into(), &config, &|_| false).map_err(ModelError::from)?;
    Ok(Some((config, architecture)))
}

fn shape_help() -> String {
    format!("Time random weights of a well-known model's sizes: {}", shape_names())
}

/// What was measured. Rates are per second; spreads are the slowest and the fastest pass.
#[derive(Serialize)]
struct Measured {
    model: String,
    layers: usize,
    device: &'static str,
    precision: &'static str,
    threads: usize,
    batch: usize,
    context: usize,
    product_flops: f64,
    copy_bytes: f64,
    flops_per_token: f64,
    tokens: f64,
    tokens_spread: [f64; 2],
    /// Of the product's rate: the median of the rounds' own shares, for a machine's speed drifts.
    share: f64,
}

impl BenchArgs {
    pub fn run(self, talk: &Talk) -> anyhow::Result<Outcome> {
        let (context, rounds) = (self.context as usize, usize::from(self.rounds));
        let batch = (self.batch_tokens as usize / context).max(1);
        let (name, architecture, decoder) = self.decoder()?;
        if context > architecture.spec.positions {
            return Err(usage(anyhow::anyhow!(
                "--context {context} is longer than the {} positions of {name}",
                architecture.spec.positions
            )));
        }
        talk.say(format!("{name}: {batch} × {context} tokens, {} passes", rounds + 1));
        let wanted = rounds;
        let rounds = rounds_of(&decoder, batch, context, rounds)?;
        if rounds.len() < wanted {
            talk.say("interrupted: a measurement has no half; the same command begins anew");
            return Ok(Outcome::Interrupted);
        }
        let (tokens, product) = (sorted(&rounds, |round| round.tokens), sorted(&rounds, |round| round.product));
        let flops_per_token = architecture.spec.flops(context).total();
        let shares = sorted(&rounds, |round| round.tokens * flops_per_token / round.product);
        let measured = Measured {
            model: name,
            layers: architecture.spec.ffn.layers,
            device: "cpu",
            precision: "f32",
            threads: rayon::current_num_threads(),
            batch,
            context,
            product_flops: median(&product),
            copy_bytes: cost::copy_rate(rounds.len()),
            flops_per_token,
            tokens: median(&tokens),
            tokens_spread: [tokens[0], tokens[tokens.len() - 1]],
            share: median(&shares),
        };
        talk.result(&measured, || measured.table())?;
        Ok(Outcome::Done)
    }

    fn decoder(&self) -> anyhow::Result<(String, Architecture, Decoder)> {
        match &self.model {
            Some(path) => of_checkpoint(path, self.layers),
            None => self.of_shape(),
        }
    }

    fn of_shape(&self) -> anyhow::Result<(String, Architecture, Decoder)> {
        let Some((_, mut architecture)) = shape(&self.shape)? else {
            let known = shape_names();
            return Err(usage(anyhow::anyhow!("--shape {}: no such shape is known; take one of {known}", self.shape)));
        };
        shorten(&mut architecture, self.layers);
        room(&architecture)?;
        let needs = architecture.tensors();
        let decoder = Decoder::build(&architecture, model::Path::Inference, |name| {
            let need = needs.iter().find(|need| need.name == name).expect("a decoder asks for what it lists");
            cost::arbitrary(&need.shape, DType::F32, &Device::Cpu)
        })?;
        Ok((self.shape.clone(), architecture, decoder))
    }
}

fn of_checkpoint(path: &Path, layers: Option<u16>) -> anyhow::Result<(String, Architecture, Decoder)> {
    let checkpoint = Checkpoint::open(path)?;
    let mut architecture = family::read(&checkpoint).map_err(ModelError::from)?;
    checkpoint.check(&architecture.tensors(), |name| architecture.ignores(name))?;
    shorten(&mut architecture, layers);
    room(&architecture)?;
    let decoder = Decoder::build(&architecture, model::Path::Inference, |name| {
        checkpoint.tensor(name, DType::F32, &Device::Cpu)
    })?;
    Ok((path.display().to_string(), architecture, decoder))
}

fn shorten(architecture: &mut Architecture, layers: Option<u16>) {
    if let Some(layers) = layers {
        let spec = &mut architecture.spec;
        spec.ffn.layers = spec.ffn.layers.min(layers.into());
        spec.layers.truncate(spec.ffn.layers);
    }
}

/// Refuses weights that the machine's free memory does not hold, before anything is allocated.
fn room(architecture: &Architecture) -> anyhow::Result<()> {
    let (wanted, layers) = (4 * architecture.parameters(), architecture.spec.ffn.layers);
    let Some(free) = free_memory() else { return Ok(()) };
    if wanted > free {
        anyhow::bail!(
            "{layers} layers need {:.1} GB of weights in f32, but {:.1} GB of memory are free; take fewer by --layers",
            wanted as f64 / 1e9,
            free as f64 / 1e9
        );
    }
    Ok(())
}

/// Bytes that can be had without swapping, where the system says it.
fn free_memory() -> Option<u64> {
    let table = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = table.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}

/// A product and a profiling pass, one right after the other.
struct Round {
    product: f64,
    tokens: f64,
}

/// Rounds over the same windows, after one that warms up.
fn rounds_of(decoder: &Decoder, batch: usize, context: usize, rounds: usize) -> anyhow::Result<Vec<Round>> {
    let vocabulary = decoder.spec().vocabulary;
    let ids = (0..batch * context).map(|i| u32::try_from(i * 7919 % vocabulary).unwrap_or_default()).collect();
    let ids = Tensor::from_vec(ids, (batch, context), &Device::Cpu)?;
    let folds = vec![vec![0u8; context]; batch];
    let (product, mut tally) = (cost::Product::new()?, Tally::new(decoder.spec().ffn, 1));
    let mut round = || {
        let product = product.rate()?;
        tally.begin(folds.iter().map(Vec::as_slice));
        let start = Instant::now();
        decoder.observe(&ids, &mut tally)?;
        anyhow::Ok(Round { product, tokens: (batch * context) as f64 / start.elapsed().as_secs_f64() })
    };
    round()?;
    (0..rounds).take_while(|_| !STOP.load(Ordering::Relaxed)).map(|_| round()).collect()
}

fn sorted(rounds: &[Round], figure: impl Fn(&Round) -> f64) -> Vec<f64> {
    let mut figures: Vec<f64> = rounds.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    figures
}

fn median(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}

impl Measured {
    fn table(&self) -> String {
        let [slowest, fastest] = self.tokens_spread;
        let rows = [
            (
                "matrix product",
                format!("{:.0} GFLOP/s in {}, {} threads", self.product_flops / 1e9, self.precision, self.threads),
            ),
            ("copy", format!("{:.1} GB/s read and written", self.copy_bytes / 1e9)),
            ("model", format!("{}, {} layers, {} × {} tokens", self.model, self.layers, self.batch, self.context)),
            (
                "needs",
                format!(
                    "{:.3} GFLOP per token, which allow {:.0} tokens/s",
                    self.flops_per_token / 1e9,
                    self.product_flops / self.flops_per_token
                ),
            ),
            (
                "profiling",
                format!(
                    "{:.1} tokens/s ({slowest:.1} to {fastest:.1}), {:.0} % of that",
                    self.tokens,
                    100.0 * self.share
                ),
            ),
        ];
        rows.map(|(what, figure)| format!("{what:<16}{figure}")).join("\n")
    }
}
