//! One run, from checked arguments to its delta, card and page; and what is shown of it.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokenizers::Tokenizer;

use super::{AdaptArgs, TrainingArgs, live::Live, sweep::Cell};
use crate::{
    adapt::{
        self, AdaptError, Adaptation, Change, Choice, Cost, Delta, DeltaHead, Finish, Page, RunFolder, RunHead,
        Settings, Text, TextPlan, Trainable, Trainer,
    },
    checkpoint::{Checkpoint, CheckpointHashes},
    cli::{
        STOP, Talk,
        apply::card,
        hub::{Located, folder_name, on_hub},
        memory,
        place::Place,
        profile::separator,
        usage,
    },
    corpus::{self, Corpus, CorpusOptions, CorpusSpec},
    hub::{RepoId, unwatched},
    language::LanguageCode,
    model::{self, Activations, Architecture, device, family},
    neuron::NeuronSet,
    output::{self, size, thousands},
    release::{Artefact, Choice as Parts, Measurement, Pull, model_card},
    tokens::WindowPlan,
};

/// The neurons and what says so.
pub(super) struct Mask {
    neurons: NeuronSet,
    provenance: Value,
    words: String,
}

/// What all runs of a command have in common: model, text, device, all checked.
pub(super) struct Ground {
    checkpoint: Checkpoint,
    architecture: Architecture,
    hashes: CheckpointHashes,
    tokenizer: Tokenizer,
    corpus: Box<dyn Corpus>,
    validation: Option<Box<dyn Corpus>>,
    pub(super) language: LanguageCode,
    pub(super) id: String,
    revision: Option<String>,
    place: Place,
    plan: TextPlan,
    steps: u64,
}

impl Ground {
    pub(super) fn new(
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
        let place = training.place.open()?;
        let per_step = u64::from(training.batch) * u64::from(training.accumulate) * context as u64;
        let windows = WindowPlan {
            context,
            tokens: training.tokens.max(context as u64),
            folds: 1,
            separator: separator(&checkpoint, training.document_separator)?,
            vocabulary: spec.vocabulary,
        };
        let (id, revision) = located.name(&training.name)?;
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
            place,
        })
    }

    /// The neurons: from a folder or a file, or from a Hub by way of a folder beside the run.
    pub(super) fn mask(&self, atlas: &Path, args: &AdaptArgs, talk: &Talk) -> anyhow::Result<Option<Mask>> {
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
            place = args.out.join(RunFolder::ATLAS);
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

    pub(super) fn choice<'a>(&'a self, args: &AdaptArgs, cell: &Cell, mask: Option<&'a Mask>) -> Choice<'a> {
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
            "precision": device::precision(self.place.dtype),
            "device": device::kind(&self.place.device),
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

    pub(super) fn cost(&self, args: &AdaptArgs, adaptation: &dyn Adaptation) -> Cost {
        let training = &args.training;
        let sizes = [training.batch, training.accumulate, training.context].map(|n| n as usize);
        adapt::cost(adaptation, &self.architecture, self.place.dtype, activations(training), sizes, self.steps)
    }

    /// One run from its folder's state to its delta; none when it was interrupted.
    pub(super) fn train(
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
        self.place.tell(talk);
        let text = Text::prepare(out, &self.plan, &self.tokenizer, self.corpus.as_ref(), self.validation.as_deref())?;
        let choice = self.choice(args, cell, mask);
        let adaptation = cell.method.open(&choice)?;
        let trainable =
            Trainable::load(&self.checkpoint, &self.architecture, &*adaptation, self.place.dtype, &self.place.device)?;
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
        memory::keep_freed();
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
        let readme = card(&done.head, Artefact::Delta, args.training.name.licence.clone(), vec![measured]);
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
pub(super) struct Done {
    pub(super) folder: PathBuf,
    pub(super) head: DeltaHead,
    rate: f64,
    seed: u64,
    pub(super) outcome: adapt::Outcome,
    pub(super) relative: f64,
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

    pub(super) fn json(&self) -> Value {
        json!({
            "head": self.head,
            "rate": self.rate,
            "seed": self.seed,
            "outcome": self.outcome,
            "relative_change": self.relative,
        })
    }

    pub(super) fn words(&self) -> String {
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
