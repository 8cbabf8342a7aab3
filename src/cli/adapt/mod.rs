//! `neuroglot adapt`.

mod live;
mod run;
mod sweep;

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use self::{
    run::{Ground, Mask},
    sweep::{Cell, grid, methods, table},
};
use super::{
    Outcome, Talk,
    hub::{HubArgs, NameArgs},
    place::PlaceArgs,
    profile::{corpus_help, model_help},
    usage,
};
use crate::{
    adapt::{AdaptError, Cost, DecayTo, METHODS, Method, Schedule},
    corpus::{CorpusSpec, DocumentUnit},
    identify::Matching,
    language::{LanguageCode, Registry},
    output::{self, size, thousands},
    tokens::Separator,
};

/// Fine-tune exactly a language's neurons, or by a method to compare that with; what comes out is a small delta on the base model.
///
/// The run folder keeps everything that the same command needs to continue an interrupted run to the bit.
#[derive(Args)]
pub struct AdaptArgs {
    #[arg(long, value_name = "DIR|OWNER/NAME", help = model_help())]
    model: PathBuf,
    /// Where the neurons stand: an atlas folder, a mask file of `neuroglot mask`, or OWNER/NAME[@REVISION] of an atlas on the Hub.
    #[arg(long, value_name = "DIR|FILE|OWNER/NAME")]
    atlas: Option<PathBuf>,
    /// The language, in any usual spelling.
    #[arg(long, value_name = "LANGUAGE")]
    language: String,
    #[arg(long, value_name = "KIND:PATH|NAME", help = corpus_help())]
    corpus: String,
    #[arg(long, value_name = "METHOD", default_value = "subnetwork", help = method_help())]
    method: String,
    /// Folder for the run; an unfinished one of the same run is continued.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Compare instead: methods, seeds and learning rates, each as a run of its own below --out, as in
    /// `methods=subnetwork,random seeds=1,2,3 rates=1e-4,3e-4`. A rate may be left out: every method then takes its own.
    #[arg(long, value_name = "GRID", num_args = 1..)]
    sweep: Option<Vec<String>>,
    /// Say what would train, how much memory and how many steps it takes, and do nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    training: TrainingArgs,
    #[command(flatten)]
    hub: HubArgs,
}

/// How it trains.
#[derive(Args, Clone)]
struct TrainingArgs {
    /// Tokens to train on; where the text has fewer, it is gone over again in another order.
    #[arg(long, default_value_t = 100_000_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000))]
    tokens: u64,
    /// Tokens per window.
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    context: u32,
    /// Windows that go through the model together.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Batches for one step.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    accumulate: u32,
    /// Learning rate; the method's own unless said.
    #[arg(long, value_name = "R", value_parser = positive)]
    lr: Option<f64>,
    /// Weight decay.
    #[arg(long, default_value_t = 0.01, value_name = "R", value_parser = not_negative)]
    weight_decay: f64,
    /// What weight decay pulls towards.
    #[arg(long, value_enum, default_value_t)]
    decay_to: DecayTo,
    /// Largest norm of the gradient; the method's own unless said.
    #[arg(long, value_name = "R", value_parser = positive)]
    clip: Option<f64>,
    /// How the learning rate goes over the steps.
    #[arg(long, value_enum, default_value_t)]
    schedule: Schedule,
    /// Steps in which the learning rate rises first.
    #[arg(long, default_value_t = 0, value_name = "N")]
    warmup: u64,
    /// Steps between validations.
    #[arg(long, default_value_t = 500, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    validate_every: u64,
    /// Held-out tokens that a validation reads at most.
    #[arg(long, default_value_t = 50_000, value_name = "N", value_parser = clap::value_parser!(u64).range(2..))]
    validation_tokens: u64,
    /// Other text to validate on; unless said, every twentieth document of the corpus, which is then not trained on.
    #[arg(long, value_name = "KIND:PATH|NAME")]
    validation_corpus: Option<String>,
    /// End after so many validations without a better one.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    patience: Option<u32>,
    /// Steps between states on the disk, from which a killed run continues.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    save_every: u64,
    /// Keep only every layer's input for the backward pass and compute the rest again: a third more time, a fraction of the memory.
    #[arg(long)]
    recompute: bool,
    /// Seed of the order of the text, of random neurons and of LoRA's first values.
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// For random: as many neurons in every layer, or over all layers together.
    #[arg(long, default_value_t = Matching::PerLayer, value_name = "per-layer|overall")]
    matching: Matching,
    /// For lora: the rank.
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rank: u32,
    /// For lora: α; its product is multiplied by α / rank.
    #[arg(long, default_value_t = 64.0, value_name = "R", value_parser = positive)]
    alpha: f64,
    /// For lora: share of its inputs that are dropped in training.
    #[arg(long, default_value_t = 0.1, value_name = "R", value_parser = share)]
    dropout: f64,
    /// The atlas' method.
    #[arg(long, default_value = "lape", value_name = "METHOD")]
    atlas_method: String,
    /// One of the atlas' rates; the largest unless said.
    #[arg(long, value_name = "R")]
    top_rate: Option<f64>,
    /// How text files are cut into documents.
    #[arg(long, value_enum, default_value_t)]
    document: DocumentUnit,
    /// Column or field that holds the text, for parquet: and jsonl:.
    #[arg(long, value_name = "NAME")]
    text_column: Option<String>,
    /// The model's token between documents.
    #[arg(long, value_enum, default_value_t)]
    document_separator: Separator,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    name: NameArgs,
}

fn method_help() -> String {
    let rows = METHODS.iter().map(|method| format!("{}: {} (lr {:e})", method.name, method.help, method.rate));
    format!("What trains. {}", rows.collect::<Vec<_>>().join("; "))
}

fn number(text: &str, fits: impl Fn(f64) -> bool, wanted: &str) -> Result<f64, String> {
    text.parse().ok().filter(|&value: &f64| value.is_finite() && fits(value)).ok_or_else(|| format!("write {wanted}"))
}

fn positive(text: &str) -> Result<f64, String> {
    number(text, |value| value > 0.0, "a number above 0, as in 1e-4")
}

fn not_negative(text: &str) -> Result<f64, String> {
    number(text, |value| value >= 0.0, "a number from 0 on, as in 0.01")
}

fn share(text: &str) -> Result<f64, String> {
    number(text, |value| (0.0..1.0).contains(&value), "a number from 0 to below 1, as in 0.1")
}

impl AdaptArgs {
    pub fn run(self, talk: &Talk) -> anyhow::Result<Outcome> {
        let method = Method::named(&self.method).map_err(usage)?;
        let training = &self.training;
        let own = Cell { method, rate: training.lr.unwrap_or(method.rate), seed: training.seed };
        let grid = self.sweep.as_ref().map(|words| grid(words, &own, training.lr)).transpose()?;
        let spec: CorpusSpec = self.corpus.parse().map_err(usage)?;
        let validation: Option<CorpusSpec> =
            training.validation_corpus.as_deref().map(str::parse).transpose().map_err(usage)?;
        let language = language(&self.language)?;
        let Some(located) = self.hub.locate(&self.model, talk)? else {
            talk.say("interrupted; the same command continues");
            return Ok(Outcome::Interrupted);
        };
        let ground = Ground::new(&self, &located, &spec, validation.as_ref(), language)?;
        let cells = grid.clone().unwrap_or_else(|| vec![own]);
        let mask = match (&self.atlas, cells.iter().any(|cell| cell.method.neurons)) {
            (Some(atlas), true) => match ground.mask(atlas, &self, talk)? {
                Some(mask) => Some(mask),
                None => return Ok(Outcome::Interrupted),
            },
            (None, true) => return Err(usage(AdaptError::NoMask)),
            (_, false) => None,
        };
        if self.dry_run {
            return self.explain(&ground, &cells, mask.as_ref(), talk);
        }
        if grid.is_none() {
            let Some(done) = ground.train(&self, &cells[0], mask.as_ref(), &self.out, talk)? else {
                talk.say("interrupted; the same command continues");
                return Ok(Outcome::Interrupted);
            };
            talk.result(&done.json(), || done.words())?;
            talk.say(format!(
                "next: neuroglot apply {} --model {} --out CHECKPOINT",
                done.folder.join("delta.safetensors").display(),
                self.model.display()
            ));
            return Ok(Outcome::Done);
        }
        self.sweep(&ground, &cells, mask.as_ref(), talk)
    }

    /// Every cell as a run of its own, in one table.
    fn sweep(&self, ground: &Ground, cells: &[Cell], mask: Option<&Mask>, talk: &Talk) -> anyhow::Result<Outcome> {
        let mut rows = Vec::new();
        for (i, cell) in cells.iter().enumerate() {
            let folder = self.out.join(cell.name());
            talk.say(format!("run {} of {}: {}", i + 1, cells.len(), cell.name()));
            let Some(done) = ground.train(self, cell, mask, &folder, talk)? else {
                talk.say(format!("interrupted: {i} of {} runs are finished; the same command continues", cells.len()));
                return Ok(Outcome::Interrupted);
            };
            rows.push((cell.clone(), done));
        }
        let json = json!({
            "language": ground.language,
            "base": ground.id,
            "runs": rows.iter().map(|(_, done)| done.json()).collect::<Vec<_>>(),
            "methods": methods(&rows),
        });
        output::write(&self.out.join("sweep.json"), &serde_json::to_vec_pretty(&json)?)?;
        let table = table(&rows);
        output::write(&self.out.join("sweep.md"), table.as_bytes())?;
        talk.result(&json, || table)?;
        Ok(Outcome::Done)
    }

    fn explain(&self, ground: &Ground, cells: &[Cell], mask: Option<&Mask>, talk: &Talk) -> anyhow::Result<Outcome> {
        let mut found: Vec<(String, Cost)> = Vec::new();
        for cell in cells {
            let adaptation = cell.method.open(&ground.choice(self, cell, mask))?;
            if found.iter().all(|(name, _)| name != cell.method.name) {
                found.push((cell.method.name.to_owned(), ground.cost(self, &*adaptation)));
            }
        }
        let json: Vec<Value> = found.iter().map(|(name, cost)| json!({ "method": name, "cost": cost })).collect();
        talk.result(&json, || found.iter().map(|(name, cost)| explained(name, cost)).collect::<Vec<_>>().join("\n\n"))?;
        Ok(Outcome::Done)
    }
}

fn explained(method: &str, cost: &Cost) -> String {
    let share = 100.0 * cost.trained as f64 / cost.parameters as f64;
    let mut lines = vec![format!(
        "{method}: {} of {} parameters train ({share:.2} %)",
        thousands(cost.trained),
        thousands(cost.parameters)
    )];
    lines.extend(
        cost.per_layer
            .iter()
            .enumerate()
            .map(|(layer, trained)| format!("  layer {layer:>3}  {:>14}", thousands(*trained))),
    );
    if cost.outside > 0 {
        lines.push(format!("  outside    {:>14}", thousands(cost.outside)));
    }
    let total = cost.weight_bytes + cost.trained_bytes + cost.activation_bytes;
    lines.push(format!(
        "memory: about {} ({} weights, {} trained values with gradients and moments, {} activations)",
        size(total),
        size(cost.weight_bytes),
        size(cost.trained_bytes),
        size(cost.activation_bytes)
    ));
    lines.push(format!("steps: {} over {} tokens", thousands(cost.steps), thousands(cost.tokens)));
    lines.join("\n")
}

fn language(typed: &str) -> anyhow::Result<LanguageCode> {
    match Registry::builtin().resolve_list(typed, &[]).map_err(usage)?[..] {
        [language] => Ok(language),
        _ => Err(usage(anyhow::anyhow!("--language {typed}: one language is adapted to at a time"))),
    }
}
