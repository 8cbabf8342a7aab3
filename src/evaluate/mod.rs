//! Evaluation: what a model can do in a language, with standard errors, and what changed between two models on the same items.
//! In: a decoder, its tokenizer, a [`Task`] and its text. Out: [`Report`]s, one per task and language, and [`Difference`]s.

mod alignment;
mod choice;
mod compare;
mod perplexity;
mod runner;
pub mod statistics;
mod store;
mod translation;

use std::{path::PathBuf, sync::atomic::AtomicBool};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokenizers::Tokenizer;

pub use self::{
    choice::{FORMATS, Format},
    compare::{Difference, compare},
    runner::Subject,
    store::{EVALUATION, Evaluation, Parameters, Store, TaskParameters},
    translation::{bleu, chrf},
};
use crate::{
    checkpoint::CheckpointError,
    corpus::{CorpusError, CorpusOptions, CorpusSpec, RecordsSpec, Split},
    language::LanguageCode,
    model::{Decoder, ModelError},
    output::OutputError,
};

/// Something that is measured of a model, language by language.
pub trait Task: Send + Sync {
    /// What it is called in reports and tables.
    fn name(&self) -> &'static str;

    /// The languages that it has text for, by code.
    fn languages(&self) -> Vec<LanguageCode>;

    /// Everything that decides its results beside the model, prompts among it.
    fn settings(&self) -> Value;

    /// Measures one language. Nothing comes back when the run was stopped meanwhile; `tell` hears of tokens as they are run.
    ///
    /// # Errors
    /// When the text cannot be read, has an item that is none, or the model cannot be run.
    fn run(
        &self,
        subject: &Subject,
        language: LanguageCode,
        tell: &mut dyn FnMut(u64),
    ) -> Result<Option<Report>, EvaluateError>;
}

/// What a person may choose about tasks.
#[derive(Clone, Debug)]
pub struct TaskOptions {
    /// Text, for the tasks that read documents or parallel lines.
    pub corpus: Option<CorpusSpec>,
    /// How it is read.
    pub reading: CorpusOptions,
    /// Which of its documents.
    pub split: Split,
    /// Questions and answers; the published data set of the task unless said.
    pub data: Option<RecordsSpec>,
    /// Documents, items or sentences per language; all of them unless said.
    pub limit: Option<usize>,
    /// The language that is translated from, and that others are aligned with.
    pub source: LanguageCode,
    /// Translated examples in a prompt.
    pub shots: usize,
    /// Tokens that a translation may have.
    pub new_tokens: usize,
    /// Seed of the bootstrap.
    pub seed: u64,
}

type Open = fn(&str, &TaskOptions) -> Result<Box<dyn Task>, EvaluateError>;

/// A kind of task: its name on the command line and how to open one.
pub struct Kind {
    /// Its name.
    pub name: &'static str,
    /// One line of help.
    pub help: &'static str,
    open: Open,
}

/// Every kind of task. The formats of `choice` are names of tasks themselves.
pub const TASKS: &[Kind] = &[
    Kind {
        name: perplexity::NAME,
        help: "negative log-likelihood per token and bits per byte of documents",
        open: perplexity::open,
    },
    Kind { name: choice::NAME, help: "multiple choice by log-likelihood", open: choice::open },
    Kind {
        name: translation::NAME,
        help: "translation out of --source by greedy generation, chrF++ and BLEU",
        open: translation::open,
    },
    Kind {
        name: alignment::NAME,
        help: "how much nearer a sentence lies to its translation in --source than to other sentences, layer by layer",
        open: alignment::open,
    },
];

/// Opens a task by its name, or by that of a format of `choice`.
///
/// # Errors
/// When there is no such task, or its text cannot be found.
pub fn open(name: &str, options: &TaskOptions) -> Result<Box<dyn Task>, EvaluateError> {
    let kind = TASKS.iter().find(|kind| kind.name == name && name != choice::NAME);
    let of_choice = || {
        FORMATS.iter().any(|format| format.name == name).then(|| TASKS.iter().find(|kind| kind.name == choice::NAME))
    };
    match kind.or_else(|| of_choice().flatten()) {
        Some(kind) => (kind.open)(name, options),
        None => Err(EvaluateError::NoTask { name: name.to_owned(), names: names().join(", ") }),
    }
}

/// The names that [`open`] understands.
#[must_use]
pub fn names() -> Vec<&'static str> {
    let kinds = TASKS.iter().map(|kind| kind.name).filter(|name| *name != choice::NAME);
    kinds.chain(FORMATS.iter().map(|format| format.name)).collect()
}

/// What was measured of one task in one language.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The task.
    pub task: String,
    /// The language.
    pub language: LanguageCode,
    /// What is counted: documents, items, sentences.
    pub unit: String,
    /// How many there were.
    pub units: usize,
    /// Tokens that were scored or generated.
    pub tokens: u64,
    /// SHA-256 over the text of all units: says whether two reports are of the same.
    pub text_sha256: String,
    /// The first prompt, where there are prompts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// What a reader of the numbers should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
    /// The measures.
    pub scores: Vec<Score>,
    /// What was found of every unit, in the order of the text.
    pub items: Vec<Value>,
}

/// One measure of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Its name.
    pub metric: String,
    /// Its value.
    pub value: f64,
    /// Its standard error; none of a single unit.
    pub stderr: Option<f64>,
    /// Which direction is an improvement.
    pub better: Better,
    /// What the standard error is of, so that those of differences can be had.
    pub spread: Spread,
}

/// Which direction of a measure is an improvement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Larger values.
    Higher,
    /// Smaller values.
    Lower,
}

impl Better {
    /// The word in the tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Higher => "higher",
            Self::Lower => "lower",
        }
    }
}

/// How a measure varies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spread {
    /// The influence of every unit: how far it lies from the value, linearised (Efron 1982). The standard error is √(Σ d² / (n (n − 1))).
    Influence(Vec<f64>),
    /// The value in every resample of a bootstrap over units; two reports of as many units and the same seed have the same resamples.
    Resamples(Vec<f64>),
}

/// What can go wrong while evaluating.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    /// A task that does not exist.
    #[error("`{name}` is no task; choose among {names}")]
    NoTask {
        /// What was asked.
        name: String,
        /// What there is.
        names: String,
    },
    /// A task without text.
    #[error("{task} reads text, and none was given; name it with --corpus")]
    NoCorpus {
        /// The task.
        task: &'static str,
    },
    /// A corpus of token ids where text is wanted.
    #[error("{corpus}: holds token ids, and {task} counts bytes of text; choose a corpus of text")]
    NoText {
        /// The corpus.
        corpus: String,
        /// The task.
        task: &'static str,
    },
    /// The corpus or the data cannot be read.
    #[error(transparent)]
    Corpus(#[from] CorpusError),
    /// An item that is none.
    #[error("{path}, row {row}: {problem}")]
    Item {
        /// The file.
        path: PathBuf,
        /// The row, from 1.
        row: u64,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// Nothing to measure.
    #[error(
        "{data}: has no {unit} in {language}, so there is nothing to measure; choose other languages or other data"
    )]
    Empty {
        /// Corpus or data.
        data: String,
        /// What is counted.
        unit: &'static str,
        /// The language.
        language: LanguageCode,
    },
    /// Lines that are to be translations of one another and are not as many.
    #[error(
        "{corpus}: has {found} lines in {language} and {wanted} in {source_language}, so they are no translations of one another line by line"
    )]
    Parallel {
        /// The corpus.
        corpus: String,
        /// The language.
        language: LanguageCode,
        /// Its lines.
        found: u64,
        /// The language that it is parallel to.
        source_language: LanguageCode,
        /// The lines of that.
        wanted: u64,
    },
    /// A text that the tokenizer cannot read.
    #[error("the tokenizer cannot read {what}: {problem}")]
    Tokenizer {
        /// The text.
        what: String,
        /// What the tokenizer said.
        problem: String,
    },
    /// A model that says neither how a text begins nor how it ends.
    #[error(
        "{path}: neither `bos_token_id` nor `eos_token_id` names a token, and the first token of a text needs one before it"
    )]
    NoPrefix {
        /// config.json.
        path: PathBuf,
    },
    /// A context that the model was not made for.
    #[error("--context {context} is outside of 2 to {positions}, the positions that the model was made for")]
    Context {
        /// Tokens per window.
        context: usize,
        /// `max_position_embeddings`.
        positions: usize,
    },
    /// The model cannot be run.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Numbers that are none.
    #[error(
        "{task}, {language}: the model's log-likelihoods are not finite; the weights overflow in {precision}, or are damaged"
    )]
    NotFinite {
        /// The task.
        task: &'static str,
        /// The language.
        language: LanguageCode,
        /// Number format of the forward pass.
        precision: String,
    },
    /// A file cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// A file that holds another evaluation.
    #[error(
        "{path}: holds another evaluation, which differs in {difference}; choose another --out, or the same settings to continue it"
    )]
    OtherRun {
        /// The file.
        path: PathBuf,
        /// Fields and their two values.
        difference: String,
    },
    /// A folder that is not empty and holds no evaluation.
    #[error(
        "{path}: is not empty and holds no evaluation; choose an empty or new folder, or a file FILE.json, with --out"
    )]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
    /// A file that is not what it should be.
    #[error("{path}: is no evaluation that this program reads: {problem}")]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Two evaluations that cannot be compared.
    #[error(
        "{task}, {language}: the two evaluations are not of the same {what}, so their difference means nothing; evaluate both on the same data"
    )]
    NotPaired {
        /// The task.
        task: String,
        /// The language.
        language: LanguageCode,
        /// What differs.
        what: &'static str,
    },
    /// Two evaluations without a task and language that both have.
    #[error("the two evaluations have no task and language in common, so there is nothing to compare")]
    NothingInCommon,
}

impl From<candle_core::Error> for EvaluateError {
    fn from(error: candle_core::Error) -> Self {
        Self::Model(ModelError::Tensor(error))
    }
}

/// A decoder with everything that tasks need of a model.
#[must_use]
pub fn subject<'a>(
    decoder: &'a Decoder,
    tokenizer: &'a Tokenizer,
    settings: SubjectSettings,
    stop: &'a AtomicBool,
) -> Subject<'a> {
    Subject { decoder, tokenizer, settings, stop }
}

/// What a model's evaluation depends on beside its weights.
#[derive(Clone, Debug)]
pub struct SubjectSettings {
    /// The token before a text: that which begins one, or else that which ends one.
    pub prefix: u32,
    /// Tokens that end a text.
    pub ends: Vec<u32>,
    /// Tokens that the model sees at most.
    pub context: usize,
    /// Tokens that go through the model together.
    pub batch_tokens: usize,
    /// Number format of the forward pass, for messages.
    pub precision: String,
}
