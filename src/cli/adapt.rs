//! `neuroglot adapt`.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    time::Instant,
};

use candle_core::{DType, Device};
use clap::Args;
use serde_json::{Value, json};
use tokenizers::Tokenizer;

use super::{
    Outcome, STOP, Talk,
    apply::card,
    hub::{HubArgs, Located, folder_name, on_hub},
    profile::{corpus_help, model_help, separator},
    usage,
};
use crate::{
    adapt::{
        self, AdaptError, Adaptation, Change, Choice, Cost, DecayTo, Delta, DeltaHead, Event, Finish, METHODS, Method,
        Page, RunFolder, RunHead, Schedule, Settings, Text, TextPlan, Trainable, Trainer,
    },
    checkpoint::{Checkpoint, CheckpointHashes},
    corpus::{self, Corpus, CorpusOptions, CorpusSpec, DocumentUnit},
    hub::{RepoId, unwatched},
    identify::Matching,
    language::{LanguageCode, Registry},
    model::{
        self, Activations, Architecture,
        device::{self, DeviceChoice, Opened, Precision},
        family,
    },
    neuron::NeuronSet,
    output::{self, size, thousands},
    release::{Artefact, Choice as Parts, Measurement, Pull, model_card},
    tokens::{Separator, WindowPlan},
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
    /// Where to compute: auto, cpu, cuda, cuda:N or metal.
    #[arg(long, default_value_t, value_name = "DEVICE")]
    device: DeviceChoice,
    /// Number format of the frozen weights; what trains is f32.
    #[arg(long, value_enum, default_value_t)]
    dtype: Precision,
    /// The model's name in the atlas, owner/name; the one on the Hub, or the folder's name, unless said.
    #[arg(long, value_name = "ID")]
    model_id: Option<String>,
    /// The model's revision; of a model on the Hub, the commit that was fetched.
    #[arg(long, value_name = "REVISION")]
    model_revision: Option<String>,
    /// The model's licence for the card, as an SPDX identifier.
    #[arg(long, value_name = "SPDX")]
    model_licence: Option<String>,
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

/// One run of a sweep, or the only one.
#[derive(Clone)]
struct Cell {
    method: &'static Method,
    rate: f64,
    seed: u64,
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

impl Cell {
    fn name(&self) -> String {
        format!("{}-lr{:e}-seed{}", self.method.name, self.rate, self.seed)
    }
}

/// `methods=… seeds=… rates=…`.
fn grid(words: &[String], own: &Cell, rate: Option<f64>) -> anyhow::Result<Vec<Cell>> {
    let (mut methods, mut seeds, mut rates) =
        (vec![own.method], vec![own.seed], rate.into_iter().collect::<Vec<f64>>());
    for word in words.iter().flat_map(|word| word.split_whitespace()) {
        let wrong = || {
            usage(anyhow::anyhow!("--sweep: `{word}` is not understood; write methods=A,B seeds=1,2 rates=1e-4,3e-4"))
        };
        let (name, list) = word.split_once('=').ok_or_else(wrong)?;
        let items = list.split(',').map(str::trim).filter(|item| !item.is_empty());
        match name {
            "methods" if list == "all" => methods = METHODS.iter().collect(),
            "methods" => methods = items.map(Method::named).collect::<Result<_, _>>().map_err(usage)?,
            "seeds" => seeds = items.map(str::parse).collect::<Result<_, _>>().map_err(|_| wrong())?,
            "rates" => rates = items.map(positive).collect::<Result<_, _>>().map_err(|_| wrong())?,
            _ => return Err(wrong()),
        }
    }
    if methods.is_empty() || seeds.is_empty() {
        return Err(usage(anyhow::anyhow!("--sweep: a grid needs a method and a seed at least")));
    }
    let mut cells = Vec::new();
    for method in methods {
        let own = if rates.is_empty() { vec![method.rate] } else { rates.clone() };
        for rate in own {
            cells.extend(seeds.iter().map(|&seed| Cell { method, rate, seed }));
        }
    }
    Ok(cells)
}

fn language(typed: &str) -> anyhow::Result<LanguageCode> {
    match Registry::builtin().resolve_list(typed, &[]).map_err(usage)?[..] {
        [language] => Ok(language),
        _ => Err(usage(anyhow::anyhow!("--language {typed}: one language is adapted to at a time"))),
    }
}

/// The neurons and what says so.
struct Mask {
    neurons: NeuronSet,
    provenance: Value,
    words: String,
}

/// What all runs of a command have in common: model, text, device, all checked.
struct Ground {
    checkpoint: Checkpoint,
    architecture: Architecture,
    hashes: CheckpointHashes,
    tokenizer: Tokenizer,
    corpus: Box<dyn Corpus>,
    validation: Option<Box<dyn Corpus>>,
    language: LanguageCode,
    id: String,
    revision: Option<String>,
    device: Device,
    dtype: DType,
    plan: TextPlan,
    steps: u64,
}

impl Ground {
    fn new(
        args: &AdaptArgs,
        located: &Located,
        spec: &CorpusSpec,
        validation: Option<&CorpusSpec>,
        language: LanguageCode,
    ) -> anyhow::Result<Self> {
        let training = &args.training;
        let options = CorpusOptions {
            unit: training.document,
            text_column: training.text_column.clone(),
            offline: args.hub.offline,
        };
        let corpus = corpus::open(spec, &options)?;
        // Opened and dropped: a language without text is said before any work.
        corpus.documents(language, corpus::Split::Train)?;
        let validation = validation.map(|spec| corpus::open(spec, &options)).transpose()?;
        let checkpoint = Checkpoint::open(&located.path)?;
        if checkpoint.shards().is_empty() {
            return Err(AdaptError::Gguf { path: located.path.clone() }.into());
        }
        let architecture = family::read(&checkpoint).map_err(model::ModelError::from)?;
        checkpoint.check(&architecture.tensors(), |name| architecture.ignores(name))?;
        let spec = &architecture.spec;
        let tokenizer = checkpoint.tokenizer(spec.vocabulary)?;
        let context = training.context as usize;
        if context > spec.positions {
            return Err(usage(crate::profile::ProfileError::Context { context, positions: spec.positions }));
        }
        let Opened { device, remark: _ } = training.device.open()?;
        let dtype = training.dtype.on(&device);
        let per_step = u64::from(training.batch) * u64::from(training.accumulate) * context as u64;
        let windows = WindowPlan {
            context,
            tokens: training.tokens.max(context as u64),
            folds: 1,
            separator: separator(&checkpoint, training.document_separator)?,
            vocabulary: spec.vocabulary,
        };
        let (id, revision) = located.name(training.model_id.as_ref(), training.model_revision.as_ref())?;
        Ok(Self {
            hashes: checkpoint.hashes()?,
            plan: TextPlan { language, windows, validation: training.validation_tokens },
            steps: training.tokens.div_ceil(per_step),
            checkpoint,
            architecture,
            tokenizer,
            corpus,
            validation,
            language,
            id,
            revision,
            device,
            dtype,
        })
    }

    /// The neurons: from a folder or a file, or from a Hub by way of a folder beside the run.
    fn mask(&self, atlas: &Path, args: &AdaptArgs, talk: &Talk) -> anyhow::Result<Option<Mask>> {
        let training = &args.training;
        let mut place = atlas.to_owned();
        let mut name = folder_name(atlas);
        if let Some(typed) = on_hub(atlas)? {
            let hub = args.hub.open()?;
            let (repo, revision): (RepoId, Option<String>) = (typed.repo, typed.revision);
            let parts = Parts {
                models: vec![self.id.clone()],
                methods: vec![training.atlas_method.clone()],
                languages: Some(self.language.to_string()),
                counts: false,
            };
            place = args.out.join(".atlas");
            let (pull, _) = Pull::new(&hub, &repo, revision.as_deref(), &parts, &place)?;
            if pull.files() > 0 {
                talk.say(format!("{repo}: {} files, {} to fetch", pull.files(), size(pull.bytes())));
            }
            let done = pull.run(&unwatched(), &STOP)?;
            if done.interrupted {
                talk.say("interrupted; the same command continues");
                return Ok(None);
            }
            name = format!("{}@{}", done.repo, done.commit);
        }
        let found = adapt::read_mask(
            &place,
            &self.id,
            self.revision.as_deref(),
            &self.hashes,
            self.architecture.spec.ffn,
            self.language,
            &training.atlas_method,
            training.top_rate,
        )?;
        let provenance =
            json!({ "method": found.method, "run": found.run, "rate": found.rate, "neurons": found.neurons.len() });
        talk.say(format!(
            "{} neurons serve {} ({})",
            thousands(found.neurons.len() as u64),
            self.language,
            found.method
        ));
        Ok(Some(Mask { neurons: found.neurons, provenance, words: name }))
    }

    fn choice<'a>(&'a self, args: &AdaptArgs, cell: &Cell, mask: Option<&'a Mask>) -> Choice<'a> {
        let training = &args.training;
        Choice {
            architecture: &self.architecture,
            language: self.language,
            neurons: mask.map(|mask| &mask.neurons),
            seed: cell.seed,
            matching: training.matching,
            rank: training.rank as usize,
            alpha: training.alpha,
            dropout: training.dropout,
        }
    }

    fn settings(&self, args: &AdaptArgs, cell: &Cell) -> Settings {
        let training = &args.training;
        let optimiser =
            adapt::AdamW { decay: training.weight_decay, decay_to: training.decay_to, ..adapt::AdamW::new(cell.rate) };
        Settings {
            optimiser,
            clip: training.clip.unwrap_or(cell.method.clip),
            schedule: training.schedule,
            warmup: training.warmup,
            batch: training.batch as usize,
            accumulate: training.accumulate as usize,
            steps: self.steps,
            validate_every: training.validate_every,
            patience: training.patience,
            seed: cell.seed,
        }
    }

    /// Everything that decides what comes out of a run.
    fn head(&self, args: &AdaptArgs, cell: &Cell, settings: &Settings, mask: Option<&Mask>) -> RunHead {
        let training = &args.training;
        let mut parameters = json!({
            "model": self.id,
            "revision": self.revision,
            "hashes": self.hashes,
            "language": self.language,
            "method": cell.method.name,
            "corpus": self.corpus.id(),
            "document": self.corpus.unit(),
            "validation_corpus": self.validation.as_ref().map(|corpus| corpus.id().to_owned()),
            "validation_tokens": self.plan.validation,
            "tokens": training.tokens,
            "context": training.context,
            "separator": training.document_separator,
            "settings": settings,
            "precision": device::precision(self.dtype),
            "device": device::kind(&self.device),
        });
        if cell.method.neurons {
            parameters["neurons"] = mask.map_or(Value::Null, |mask| mask.provenance.clone());
        }
        if cell.method.name == "random" {
            parameters["matching"] = json!(training.matching);
        }
        if cell.method.name == "lora" {
            parameters["lora"] = json!({ "rank": training.rank, "alpha": training.alpha, "dropout": training.dropout });
        }
        RunHead::new(parameters)
    }

    fn cost(&self, args: &AdaptArgs, adaptation: &dyn Adaptation) -> Cost {
        let training = &args.training;
        let sizes = [training.batch, training.accumulate, training.context].map(|n| n as usize);
        adapt::cost(adaptation, &self.architecture, self.dtype, activations(training), sizes, self.steps)
    }

    /// One run from its folder's state to its delta; none when it was interrupted.
    fn train(
        &self,
        args: &AdaptArgs,
        cell: &Cell,
        mask: Option<&Mask>,
        out: &Path,
        talk: &Talk,
    ) -> anyhow::Result<Option<Done>> {
        let settings = self.settings(args, cell);
        let folder = RunFolder::begin(out, self.head(args, cell, &settings, mask))?;
        if let Some(done) = Done::read(&folder) {
            talk.say(format!("{}: was finished before", out.display()));
            return Ok(Some(done));
        }
        let text = Text::prepare(out, &self.plan, &self.tokenizer, self.corpus.as_ref(), self.validation.as_deref())?;
        let choice = self.choice(args, cell, mask);
        let adaptation = cell.method.open(&choice)?;
        let trainable = Trainable::load(&self.checkpoint, &self.architecture, &*adaptation, self.dtype, &self.device)?;
        let trained = trainable.size();
        talk.say(format!(
            "{}: {} of {} parameters train; {} tokens of text, {} held out",
            cell.method.name,
            thousands(trained),
            thousands(self.architecture.parameters()),
            thousands(text.read.train.tokens),
            thousands(text.read.held_out_tokens)
        ));
        let trainer = Trainer {
            trainable: &trainable,
            text: &text,
            settings,
            activations: activations(&args.training),
            save_every: args.training.save_every,
            stop: &STOP,
        };
        let mut live = Live::new(talk, &settings, self.plan.windows.context);
        let finish = trainer.run(&folder, |event| live.tell(&event))?;
        live.end();
        if finish == Finish::Stopped {
            return Ok(None);
        }
        let outcome = trainer.take_best(&folder)?;
        let head = DeltaHead {
            base: self.id.clone(),
            revision: self.revision.clone(),
            language: self.language,
            method: cell.method.name.to_owned(),
            run: folder.head.run.clone(),
            trained,
            parameters: self.architecture.parameters(),
            corpus: self.corpus.id().to_owned(),
            tokens: outcome.step * (settings.batch * settings.accumulate * self.plan.windows.context) as u64,
            atlas: mask.filter(|_| cell.method.neurons).map(|mask| mask.words.clone()),
        };
        let place = folder.file("delta.safetensors");
        adapt::write_delta(&place, &head, &trainable, adaptation.neurons(), &self.checkpoint, &self.architecture)?;
        if adapt::exports(cell.method.name, &self.architecture) {
            adapt::adapter(&folder.file("adapter"), cell.method.name, &self.id, &choice, &trainable)?;
        }
        let delta = Delta::open(&place, &self.checkpoint)?;
        let changes = adapt::changes(&delta, &self.checkpoint, &self.architecture)?;
        let done = Done {
            folder: out.to_owned(),
            head,
            rate: cell.rate,
            seed: cell.seed,
            outcome,
            relative: mean_change(&changes),
        };
        let page = Page {
            language: self.language,
            method: cell.method.name,
            base: &self.id,
            run: &folder.head.run,
            parameters: &folder.head.parameters,
            trained,
            model_parameters: self.architecture.parameters(),
            tokens: done.head.tokens,
            outcome: &done.outcome,
            changes: &changes,
        };
        adapt::page(&folder, &page)?;
        let measured = Measurement {
            task: "held-out text".to_owned(),
            language: self.language,
            metric: "loss, nats per token".to_owned(),
            before: done.outcome.before,
            after: done.outcome.best,
            standard_error: None,
        };
        let readme = card(&done.head, Artefact::Delta, args.training.model_licence.clone(), vec![measured]);
        output::write(&folder.file("README.md"), model_card(&readme).as_bytes())?;
        // The last file: a folder that has it is finished.
        output::write(&folder.file("result.json"), &serde_json::to_vec_pretty(&done.json())?)?;
        Ok(Some(done))
    }
}

fn activations(training: &TrainingArgs) -> Activations {
    if training.recompute { Activations::Recomputed } else { Activations::Kept }
}

/// ‖Δ‖ / ‖W‖ over the trained parts of all projections, each counted by its weights.
fn mean_change(changes: &[Change]) -> f64 {
    let weights: u64 = changes.iter().map(|change| change.weights).sum();
    changes.iter().map(|change| change.relative * change.weights as f64).sum::<f64>() / weights.max(1) as f64
}

/// A finished run.
struct Done {
    folder: PathBuf,
    head: DeltaHead,
    rate: f64,
    seed: u64,
    outcome: adapt::Outcome,
    relative: f64,
}

impl Done {
    fn read(folder: &RunFolder) -> Option<Self> {
        let json: Value = serde_json::from_slice(&std::fs::read(folder.file("result.json")).ok()?).ok()?;
        let number = |name: &str| json["outcome"][name].as_f64();
        let step = |name: &str| json["outcome"][name].as_u64();
        Some(Self {
            folder: folder.path().to_owned(),
            head: serde_json::from_value(json["head"].clone()).ok()?,
            rate: json["rate"].as_f64()?,
            seed: json["seed"].as_u64()?,
            outcome: adapt::Outcome {
                step: step("step")?,
                before: number("before")?,
                best: number("best")?,
                best_step: step("best_step")?,
                last: number("last")?,
            },
            relative: json["relative_change"].as_f64()?,
        })
    }

    fn json(&self) -> Value {
        json!({
            "head": self.head,
            "rate": self.rate,
            "seed": self.seed,
            "outcome": self.outcome,
            "relative_change": self.relative,
        })
    }

    fn words(&self) -> String {
        let adapt::Outcome { before, best, best_step, step, .. } = self.outcome;
        let delta = self.folder.join("delta.safetensors");
        let bytes = std::fs::metadata(&delta).map(|file| file.len()).unwrap_or_default();
        format!(
            "held-out loss {before:.4} before, {best:.4} at best (step {best_step} of {step}); {} in {}",
            size(bytes),
            delta.display()
        )
    }
}

/// Per method and rate: the mean gain over the seeds and its standard error.
fn methods(rows: &[(Cell, Done)]) -> Vec<Value> {
    let mut groups: Vec<(&Cell, Vec<&Done>)> = Vec::new();
    for (cell, done) in rows {
        match groups
            .iter_mut()
            .find(|(first, _)| first.method.name == cell.method.name && first.rate.to_bits() == cell.rate.to_bits())
        {
            Some((_, group)) => group.push(done),
            None => groups.push((cell, vec![done])),
        }
    }
    let summary = |(cell, group): &(&Cell, Vec<&Done>)| {
        let gains: Vec<f64> = group.iter().map(|done| done.outcome.best - done.outcome.before).collect();
        let n = gains.len() as f64;
        let mean = gains.iter().sum::<f64>() / n;
        let variance = gains.iter().map(|gain| (gain - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
        json!({
            "method": cell.method.name, "rate": cell.rate, "seeds": gains.len(), "trained": group[0].head.trained,
            "change": mean, "standard_error": (gains.len() > 1).then(|| (variance / n).sqrt()),
            "relative_change": group.iter().map(|done| done.relative).sum::<f64>() / n,
        })
    };
    groups.iter().map(summary).collect()
}

fn table(rows: &[(Cell, Done)]) -> String {
    let mut lines = vec![
        "| method | learning rate | seeds | weights | held-out loss, change in nats per token | standard error | weights moved by |".to_owned(),
        "|---|---|---|---|---|---|---|".to_owned(),
    ];
    for row in methods(rows) {
        let error =
            row["standard_error"].as_f64().map_or_else(|| "one seed".to_owned(), |error| format!("± {error:.4}"));
        lines.push(format!(
            "| {} | {:e} | {} | {} | {:+.4} | {error} | {:.2e} |",
            row["method"].as_str().unwrap_or_default(),
            row["rate"].as_f64().unwrap_or_default(),
            row["seeds"],
            thousands(row["trained"].as_u64().unwrap_or_default()),
            row["change"].as_f64().unwrap_or_default(),
            row["relative_change"].as_f64().unwrap_or_default(),
        ));
    }
    lines.join("\n") + "\n"
}

/// The line that people see while a run goes.
struct Live<'a> {
    talk: &'a Talk,
    progress: super::talk::Progress,
    begun: Instant,
    steps: u64,
    per_step: u64,
    done: u64,
    validation: Option<f64>,
    told: Instant,
}

impl<'a> Live<'a> {
    fn new(talk: &'a Talk, settings: &Settings, context: usize) -> Self {
        let per_step = (settings.batch * settings.accumulate * context) as u64;
        let progress = talk.training(settings.steps * per_step);
        let now = Instant::now();
        Self { talk, progress, begun: now, steps: settings.steps, per_step, done: 0, validation: None, told: now }
    }

    fn tell(&mut self, event: &Event) {
        match *event {
            Event::Resumed(step) => {
                self.progress.skip(step * self.per_step);
                self.talk.say(format!("continuing behind step {}", thousands(step)));
            }
            Event::Step { step, loss, tokens } => {
                self.done += 1;
                self.progress.advance(tokens);
                let memory = device::peak_memory().map_or_else(String::new, |bytes| format!(" · {}", size(bytes)));
                let held_out = self.validation.map_or_else(String::new, |loss| format!(" · held out {loss:.4}"));
                self.progress.now(format!("step {step} of {} · loss {loss:.4}{held_out}{memory}", self.steps));
                // Where there is no bar, a line now and then.
                if !std::io::stderr().is_terminal() && self.told.elapsed().as_secs() >= 30 {
                    self.told = Instant::now();
                    let seconds = self.begun.elapsed().as_secs_f64();
                    let rate = (self.done * self.per_step) as f64 / seconds;
                    let left = (self.steps - step) as f64 * seconds / self.done as f64;
                    self.talk.say(format!(
                        "step {step} of {} · loss {loss:.4}{held_out}{memory} · {rate:.0} tokens/s · about {} min left",
                        self.steps,
                        (left / 60.0).ceil()
                    ));
                }
            }
            Event::Validated { step, loss, best } => {
                self.validation = Some(loss);
                let word = if best { ", the best so far" } else { "" };
                self.progress.line(format!("step {step}: held-out loss {loss:.4}{word}"));
            }
        }
    }

    fn end(self) {
        self.progress.end();
    }
}
