//! `neuroglot bench`.

use std::{
    io::BufRead,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::Instant,
};

use candle_core::Tensor;
use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    Outcome, STOP, Talk,
    hub::HubArgs,
    memory,
    place::{Place, PlaceArgs},
    usage,
};
use crate::{
    checkpoint::Checkpoint,
    model::{self, Architecture, Decoder, ModelError, Tally, cost, device, family},
};

/// Measure how fast this machine multiplies and copies, and how much of it profiling uses.
#[derive(Args)]
pub struct BenchArgs {
    /// Model folder or GGUF file to time, or OWNER/NAME[/FILE.gguf][@REVISION] on the Hub.
    #[arg(long, value_name = "PATH|OWNER/NAME", conflicts_with = "shape")]
    model: Option<PathBuf>,
    #[command(flatten)]
    hub: HubArgs,
    #[arg(long, value_name = "NAME", default_value = "smollm2-135m", help = shape_help())]
    shape: String,
    /// Take only so many layers: a large model's layers are all alike.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    layers: Option<u16>,
    /// Tokens per window.
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    context: u32,
    /// Tokens that go through the model together; unless said, as many as `profile` takes.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch_tokens: Option<u32>,
    #[command(flatten)]
    place: PlaceArgs,
    /// Passes that are timed.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Do one pass for every line on stdin and answer it by a line of JSON: for programs that compare speeds in turns.
    #[arg(long, hide = true)]
    turns: bool,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    instructions: Option<&'static str>,
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
        let place = self.place.open()?;
        place.tell(talk);
        let Some((name, architecture, decoder)) = self.decoder(&place, talk)? else {
            talk.say("interrupted; the same command continues");
            return Ok(Outcome::Interrupted);
        };
        if context > architecture.spec.positions {
            return Err(usage(anyhow::anyhow!(
                "--context {context} is longer than the {} positions of {name}",
                architecture.spec.positions
            )));
        }
        let fitting = || device::batch_tokens(&architecture.spec, place.dtype, &place.device, context);
        let batch = (self.batch_tokens.map_or_else(fitting, |tokens| tokens as usize) / context).max(1);
        memory::keep_freed();
        let mut pass = Pass::new(&decoder, batch, context)?;
        talk.say(format!("{name}: {batch} × {context} tokens, {} passes", rounds + pass.before()));
        if self.turns {
            return turns(&mut pass);
        }
        let wanted = rounds;
        let rounds = rounds_of(&mut pass, &place, rounds)?;
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
            device: device::kind(&place.device),
            precision: device::precision(place.dtype),
            instructions: place.instructions(),
            threads: rayon::current_num_threads(),
            batch,
            context,
            product_flops: median(&product),
            copy_bytes: cost::copy_rate(rounds.len(), &place.device)?,
            flops_per_token,
            tokens: median(&tokens),
            tokens_spread: [tokens[0], tokens[tokens.len() - 1]],
            share: median(&shares),
        };
        talk.result(&measured, || measured.table())?;
        Ok(Outcome::Done)
    }

    /// What is timed; nothing, when a model was still being fetched as the command was interrupted.
    fn decoder(&self, place: &Place, talk: &Talk) -> anyhow::Result<Option<(String, Architecture, Decoder)>> {
        let Some(model) = &self.model else { return self.of_shape(place).map(Some) };
        let found = self.hub.locate(model, talk)?;
        found.map(|found| of_checkpoint(&found.path, self.layers, place)).transpose()
    }

    fn of_shape(&self, place: &Place) -> anyhow::Result<(String, Architecture, Decoder)> {
        let Some((_, mut architecture)) = shape(&self.shape)? else {
            let known = shape_names();
            return Err(usage(anyhow::anyhow!("--shape {}: no such shape is known; take one of {known}", self.shape)));
        };
        shorten(&mut architecture, self.layers);
        room(&architecture, place)?;
        let needs = architecture.tensors();
        let decoder = Decoder::build(&architecture, model::Path::Inference, |name| {
            let need = needs.iter().find(|need| need.name == name).expect("a decoder asks for what it lists");
            cost::arbitrary(&need.shape, place.dtype, &place.device)
        })?;
        Ok((self.shape.clone(), architecture, decoder))
    }
}

fn of_checkpoint(path: &Path, layers: Option<u16>, place: &Place) -> anyhow::Result<(String, Architecture, Decoder)> {
    let checkpoint = Checkpoint::open(path)?;
    let mut architecture = family::read(&checkpoint).map_err(ModelError::from)?;
    checkpoint.check(&architecture.tensors(), |name| architecture.ignores(name))?;
    shorten(&mut architecture, layers);
    room(&architecture, place)?;
    let decoder = Decoder::build(&architecture, model::Path::Inference, |name| {
        checkpoint.tensor(name, place.dtype, &place.device)
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

/// Refuses weights that the device's free memory does not hold, before anything is allocated.
fn room(architecture: &Architecture, place: &Place) -> anyhow::Result<()> {
    let bytes = place.dtype.size_in_bytes() as u64;
    let (wanted, layers) = (bytes * architecture.parameters(), architecture.spec.ffn.layers);
    let Some(free) = device::free_memory(&place.device) else { return Ok(()) };
    if wanted > free {
        anyhow::bail!(
            "{layers} layers need {:.1} GB of weights in {}, but {:.1} GB of memory are free; take fewer by --layers",
            wanted as f64 / 1e9,
            device::precision(place.dtype),
            free as f64 / 1e9
        );
    }
    Ok(())
}

/// A product and a profiling pass, one right after the other.
struct Round {
    product: f64,
    tokens: f64,
}

/// A profiling pass over windows that are always the same.
struct Pass<'a> {
    decoder: &'a Decoder,
    ids: Tensor,
    folds: Vec<Vec<u8>>,
    tally: Tally,
}

impl<'a> Pass<'a> {
    fn new(decoder: &'a Decoder, batch: usize, context: usize) -> anyhow::Result<Self> {
        let vocabulary = decoder.spec().vocabulary;
        // Every id once before any comes again, as many different ones as text has at least.
        let ids = (0..batch * context).map(|i| u32::try_from(i * 7919 % vocabulary).unwrap_or_default()).collect();
        let ids = Tensor::from_vec(ids, (batch, context), decoder.device())?;
        Ok(Self { decoder, ids, folds: vec![vec![0; context]; batch], tally: Tally::new(decoder.spec().ffn, 1) })
    }

    /// Passes before any is timed: a GPU finds its fastest products in the first ones (`model/gpu/product.rs`).
    fn before(&self) -> usize {
        if self.decoder.device().is_cpu() { 1 } else { 5 }
    }

    fn warm_up(&mut self) -> anyhow::Result<()> {
        for _ in 0..self.before() {
            self.rate()?;
        }
        Ok(())
    }

    /// Tokens per second of one.
    fn rate(&mut self) -> anyhow::Result<f64> {
        self.tally.begin(self.folds.iter().map(Vec::as_slice));
        let start = Instant::now();
        self.decoder.observe(&self.ids, &mut self.tally)?;
        self.decoder.device().synchronize()?;
        Ok(self.ids.elem_count() as f64 / start.elapsed().as_secs_f64())
    }
}

/// One pass for every line on stdin.
fn turns(pass: &mut Pass) -> anyhow::Result<Outcome> {
    pass.warm_up()?;
    for line in std::io::stdin().lock().lines() {
        line?;
        println!("{{\"tokens_per_second\": {:.1}}}", pass.rate()?);
    }
    Ok(Outcome::Done)
}

/// Rounds after passes that warm up.
fn rounds_of(pass: &mut Pass, place: &Place, rounds: usize) -> anyhow::Result<Vec<Round>> {
    let product = cost::Product::new(place.dtype, &place.device)?;
    product.rate()?;
    pass.warm_up()?;
    let mut round = || anyhow::Ok(Round { product: product.rate()?, tokens: pass.rate()? });
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
    /// What multiplies.
    fn means(&self) -> String {
        let instructions = self.instructions.map_or_else(String::new, |name| format!(" ({name})"));
        if self.device == "cpu" {
            format!("{instructions}, {} threads", self.threads)
        } else {
            format!(" on {}", self.device)
        }
    }

    fn table(&self) -> String {
        let [slowest, fastest] = self.tokens_spread;
        let rows = [
            (
                "matrix product",
                format!("{:.0} GFLOP/s in {}{}", self.product_flops / 1e9, self.precision, self.means()),
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
