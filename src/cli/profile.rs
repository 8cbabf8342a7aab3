//! `neuroglot profile`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;
use tokenizers::Tokenizer;

use super::{
    Outcome, STOP, Talk,
    hub::{HubArgs, Located, NameArgs},
    memory,
    place::{Place, PlaceArgs},
    usage,
};
use crate::{
    checkpoint::Checkpoint,
    corpus::{self, Corpus, CorpusOptions, CorpusSpec, DocumentUnit, PRESETS, SOURCES, Split},
    language::{LanguageCode, Registry},
    model::{self, Decoder, device, family::FAMILIES},
    output::{count, thousands},
    profile::{COUNTING, Event, Finish, ModelCard, ProfileError, ProfileFolder, ProfileHead, Profiler, RunParameters},
    tokens::{Coverage, CoverageStatus, Separator, WindowPlan},
};

/// Run a model over text in many languages and count, per language, in how many tokens each FFN neuron is active.
///
/// Every finished language is a file of its own: a run that is interrupted continues with the same command.
#[derive(Args)]
pub struct ProfileArgs {
    #[arg(long, value_name = "DIR|FILE.gguf|OWNER/NAME", help = model_help())]
    model: PathBuf,
    #[arg(long, value_name = "KIND:PATH|NAME", help = corpus_help())]
    corpus: String,
    /// Languages in any usual spelling, separated by commas; `all` of the corpus; or @FILE.
    #[arg(long, default_value = "all", value_name = "LIST")]
    languages: String,
    /// Tokens per language.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000))]
    tokens: u64,
    /// Folder for the profile; an unfinished one of the same run is continued.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Which of several processes this is: 2/4 takes every fourth language, from the second. `merge` joins their folders.
    #[arg(long, value_name = "I/N", value_parser = shard)]
    shard: Option<(usize, usize)>,
    #[command(flatten)]
    settings: ProfileSettings,
}

/// Settings that `profile` and `demo` share.
#[derive(Args, Clone)]
pub struct ProfileSettings {
    /// Tokens per window.
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub context: u32,
    /// Folds that documents are dealt to; they tell how stable an identification is.
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub folds: u8,
    /// How text files are cut into documents.
    #[arg(long, value_enum, default_value_t)]
    pub document: DocumentUnit,
    /// Column or field that holds the text, for parquet: and jsonl:.
    #[arg(long, value_name = "NAME")]
    pub text_column: Option<String>,
    /// Which documents of the corpus.
    #[arg(long, value_enum, default_value_t)]
    pub split: Split,
    /// The model's token between documents.
    #[arg(long, value_enum, default_value_t)]
    pub document_separator: Separator,
    /// Tokens that go through the model together; unless said, 2,048 on the CPU, more for more than eight threads, and what free
    /// memory allows on a GPU. Counts do not depend on it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub batch_tokens: Option<u32>,
    #[command(flatten)]
    pub place: PlaceArgs,
    #[command(flatten)]
    pub name: NameArgs,
    #[command(flatten)]
    pub hub: HubArgs,
}

pub(super) fn model_help() -> String {
    let families = FAMILIES.iter().map(|family| format!("{} ({})", family.model_type, family.models));
    let families = families.collect::<Vec<_>>().join("; ");
    format!(
        "Model folder with config.json, tokenizer.json and safetensors, a GGUF file, or OWNER/NAME[/FILE.gguf][@REVISION] on the Hub. Families: {families}"
    )
}

pub(super) fn corpus_help() -> String {
    let sources = SOURCES.iter().map(|source| format!("{}:{}, {}", source.name, source.place, source.help));
    let presets = PRESETS.iter().map(|preset| format!("{}[@REVISION], {} ({})", preset.name, preset.help, preset.repo));
    format!("Text to read. {}", sources.chain(presets).collect::<Vec<_>>().join("; "))
}

fn shard(text: &str) -> Result<(usize, usize), String> {
    let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    parts.filter(|(i, n)| (1..=*n).contains(i)).ok_or_else(|| "write I/N with 1 ≤ I ≤ N, as in 2/4".to_owned())
}

impl ProfileArgs {
    pub fn run(self, talk: &Talk) -> anyhow::Result<Outcome> {
        let spec: CorpusSpec = self.corpus.parse().map_err(usage)?;
        let Some(model) = self.settings.hub.locate(&self.model, talk)? else {
            talk.say("interrupted; the same command continues");
            return Ok(Outcome::Interrupted);
        };
        let plan = ProfilePlan::new(&model, &spec, &self.languages, self.tokens, &self.settings, self.shard)?;
        let folder = ProfileFolder::begin(&self.out, plan.head.clone())?;
        if plan.run(&folder, talk)? == Finish::Stopped {
            talk.say(format!(
                "interrupted: {} of {} languages are finished in {}; the same command continues",
                folder.languages()?.len(),
                plan.languages.len(),
                self.out.display()
            ));
            return Ok(Outcome::Interrupted);
        }
        let coverage =
            plan.languages.iter().map(|&language| folder.coverage(language)).collect::<Result<Vec<_>, _>>()?;
        let report = serde_json::json!({ "run": folder.head.run, "out": self.out, "coverage": coverage });
        talk.result(&report, || summary(&self.out, &coverage))?;
        talk.say(format!("next: neuroglot identify {} --out ATLAS", self.out.display()));
        Ok(Outcome::Done)
    }
}

fn summary(out: &Path, coverage: &[Coverage]) -> String {
    let tokens: u64 = coverage.iter().map(|language| language.tokens).sum();
    format!("{}, {} tokens in {}", count(coverage.len(), "language"), thousands(tokens), out.display())
}

/// A profile that can be run: paths there, languages known, tensors checked.
pub struct ProfilePlan {
    pub head: ProfileHead,
    pub languages: Vec<LanguageCode>,
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    corpus: Box<dyn Corpus>,
    split: Split,
    windows: WindowPlan,
    batch: Option<usize>,
    place: Place,
}

impl ProfilePlan {
    pub fn new(
        model: &Located,
        corpus: &CorpusSpec,
        languages: &str,
        tokens: u64,
        settings: &ProfileSettings,
        shard: Option<(usize, usize)>,
    ) -> anyhow::Result<Self> {
        let options = CorpusOptions {
            unit: settings.document,
            text_column: settings.text_column.clone(),
            offline: settings.hub.offline,
        };
        let (id, revision) = model.name(&settings.name)?;
        let corpus = corpus::open(corpus, &options)?;
        let languages = choose(corpus.as_ref(), languages, shard)?;
        let checkpoint = Checkpoint::open(&model.path)?;
        let architecture = model::family::read(&checkpoint).map_err(model::ModelError::from)?;
        checkpoint.check(&architecture.tensors(), |name| architecture.ignores(name))?;
        let (parameters_of_model, spec) = (architecture.parameters(), architecture.spec);
        let tokenizer = checkpoint.tokenizer(spec.vocabulary)?;
        let context = settings.context as usize;
        if context > spec.positions {
            return Err(usage(ProfileError::Context { context, positions: spec.positions }));
        }
        if tokens < context as u64 {
            return Err(usage(ProfileError::TooFew { tokens, context }));
        }
        let place = settings.place.open()?;
        let windows = WindowPlan {
            context,
            tokens,
            folds: settings.folds.into(),
            separator: separator(&checkpoint, settings.document_separator)?,
            vocabulary: spec.vocabulary,
        };
        let parameters = RunParameters {
            model: id.clone(),
            revision: revision.clone(),
            hashes: checkpoint.hashes()?,
            corpus: corpus.id().to_owned(),
            document: corpus.unit().to_owned(),
            split: settings.split,
            tokens,
            context,
            separator: settings.document_separator,
            folds: windows.folds,
            precision: device::precision(place.dtype).to_owned(),
            device: device::kind(&place.device).to_owned(),
            counting: COUNTING,
        };
        let card = ModelCard {
            id,
            revision,
            architecture: checkpoint.config().get("model_type").and_then(Value::as_str).unwrap_or_default().to_owned(),
            parameters: parameters_of_model,
            dtype: checkpoint.stored_dtype(),
            licence: settings.name.licence.clone(),
            spec,
        };
        let batch = settings.batch_tokens.map(|tokens| (tokens as usize / context).max(1));
        let head = ProfileHead::new(parameters, card);
        let split = settings.split;
        Ok(Self { head, languages, checkpoint, tokenizer, corpus, split, windows, batch, place })
    }

    /// Runs what is not there yet, with progress.
    pub fn run(&self, folder: &ProfileFolder, talk: &Talk) -> anyhow::Result<Finish> {
        let tokens = self.windows.tokens / self.windows.context as u64 * self.windows.context as u64;
        let progress = talk.tokens(tokens * self.languages.len() as u64);
        self.place.tell(talk);
        let Place { device, dtype, .. } = &self.place;
        let decoder = Decoder::load(&self.checkpoint, *dtype, device, model::Path::Inference)?;
        memory::keep_freed();
        let context = self.windows.context;
        // Asked for behind the weights: what is free then is for the activations.
        let fitting = || device::batch_tokens(decoder.spec(), *dtype, device, context) / context;
        let profiler = Profiler {
            decoder: &decoder,
            tokenizer: &self.tokenizer,
            corpus: self.corpus.as_ref(),
            split: self.split,
            plan: self.windows.clone(),
            batch: self.batch.unwrap_or_else(fitting),
            stop: &STOP,
        };
        let mut kept = 0;
        let finish = profiler.run(&self.languages, folder, |event| match event {
            Event::Kept(_) => {
                kept += 1;
                progress.skip(tokens);
            }
            Event::Batch(language, done) => {
                progress.now(language);
                progress.advance(done);
            }
            Event::Finished(coverage) => {
                progress.skip(tokens - coverage.tokens);
                progress.line(line(coverage));
            }
        })?;
        progress.end();
        if kept > 0 {
            talk.say(format!("{} finished before and kept", count(kept, "language")));
        }
        Ok(finish)
    }
}

/// One finished language, with whatever a reader of the numbers should know.
fn line(coverage: &Coverage) -> String {
    let notes = &coverage.notes;
    let mut remarks = Vec::new();
    let mut remark = |n: u64, what: &str| {
        if n > 0 {
            remarks.push(format!("{} {what}", thousands(n)));
        }
    };
    remark(notes.invalid_utf8, "documents with invalid UTF-8");
    remark(notes.empty_documents, "empty documents");
    remark(notes.byte_order_marks, "byte-order marks");
    match coverage.status {
        CoverageStatus::Full => {}
        CoverageStatus::Short => remarks.push("the corpus ended before the tokens asked for".to_owned()),
        CoverageStatus::Empty => remarks.push("not one full window of text".to_owned()),
    }
    let remarks = if remarks.is_empty() { String::new() } else { format!(" ({})", remarks.join("; ")) };
    let (tokens, documents) = (thousands(coverage.tokens), thousands(notes.documents));
    format!("{}  {tokens:>9} tokens of {documents} documents{remarks}", coverage.language)
}

fn choose(corpus: &dyn Corpus, list: &str, shard: Option<(usize, usize)>) -> anyhow::Result<Vec<LanguageCode>> {
    let languages = Registry::builtin().resolve_list(list, &corpus.languages()).map_err(usage)?;
    for &language in &languages {
        // Opened and dropped: a language without text is said before any work.
        corpus.documents(language, Split::All)?;
    }
    Ok(match shard {
        None => languages,
        Some((i, n)) => languages.into_iter().skip(i - 1).step_by(n).collect(),
    })
}

pub(super) fn separator(checkpoint: &Checkpoint, separator: Separator) -> anyhow::Result<Option<(Separator, u32)>> {
    let (field, word) = match separator {
        Separator::None => return Ok(None),
        Separator::Bos => ("bos_token_id", "bos"),
        Separator::Eos => ("eos_token_id", "eos"),
    };
    let value = checkpoint.config().get(field).unwrap_or(&Value::Null);
    // Llama 3 lists several; the first is the one that ends a text.
    let id = value.as_u64().or_else(|| value.as_array()?.first()?.as_u64()).and_then(|id| u32::try_from(id).ok());
    let path = checkpoint.config_path();
    let id = id.ok_or(ProfileError::NoSeparator { path, field, separator: word })?;
    Ok(Some((separator, id)))
}
