//! Profiling: a decoder runs over a language's windows and every neuron's activity is counted, per fold of documents.
//! In: a checkpoint, a corpus and a plan. Out: a folder with one file of counts per language, resumable at any time.

mod counts;
mod pages;
mod routed;
mod run;
mod store;

use serde::{Deserialize, Serialize};

pub use self::{
    counts::{
        COUNTS_SCHEMA, CountsReader, CountsTable, TableLayout, counts_schema, counts_version, visit_active,
        write_counts,
    },
    routed::{ROUTED_SCHEMA, Routed, RoutedTable, routed_schema, write_routed},
    run::{Event, Finish, Profiler, in_batches},
    store::{ProfileFolder, ProfileHead},
};
pub(crate) use self::{
    counts::{check_schema, options, unwritten},
    pages::open as open_parquet,
};
use crate::{
    checkpoint::{CheckpointError, CheckpointHashes},
    corpus::{CorpusError, Split},
    language::LanguageCode,
    model::{DecoderSpec, ModelError, Tally},
    output::{self, OutputError},
    tokens::{Coverage, Separator, TokensError},
};

/// The counts of one language over one run.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// What was run.
    pub coverage: Coverage,
    /// What was counted.
    pub tally: Tally,
}

/// Everything that decides a run's counts. Its hash is the run's id, the same on every machine and for every shard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunParameters {
    /// The model's name.
    pub model: String,
    /// Its revision, where it has one.
    pub revision: Option<String>,
    /// Hashes of its files.
    pub hashes: CheckpointHashes,
    /// The corpus.
    pub corpus: String,
    /// How its text is cut into documents.
    pub document: String,
    /// Which of its documents.
    pub split: Split,
    /// Tokens asked per language.
    pub tokens: u64,
    /// Tokens per window.
    pub context: usize,
    /// What stands between documents.
    pub separator: Separator,
    /// Folds of documents.
    pub folds: usize,
    /// Number format of the forward pass.
    pub precision: String,
    /// Kind of device.
    pub device: String,
    /// Version of the counting, raised whenever the same input would give other counts.
    pub counting: u32,
}

/// Version of the counting.
pub const COUNTING: u32 = 1;

impl RunParameters {
    /// The run's id: the first 16 hexadecimal digits of the SHA-256 of the parameters as JSON with sorted keys.
    #[must_use]
    pub fn id(&self) -> String {
        let json = canonical(&serde_json::to_value(self).expect("plain data"));
        output::sha256(json.as_bytes())[..16].to_owned()
    }
}

/// The settings in which two runs differ, by name, each with both values; `a.b` is `b` within `a`.
#[must_use]
pub fn differences(there: &serde_json::Value, here: &serde_json::Value) -> Vec<String> {
    use serde_json::Value;
    match (there, here) {
        (Value::Object(a), Value::Object(b)) => {
            let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            let null = &Value::Null;
            let within = |name: &String| {
                let found = differences(a.get(name).unwrap_or(null), b.get(name).unwrap_or(null));
                let joined = |rest: String| {
                    if rest.starts_with(' ') { format!("{name}{rest}") } else { format!("{name}.{rest}") }
                };
                found.into_iter().map(joined).collect::<Vec<_>>()
            };
            names.into_iter().flat_map(within).collect()
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).flat_map(|(a, b)| differences(a, b)).collect()
        }
        _ if there != here => vec![format!(" ({there} there, {here} here)")],
        _ => Vec::new(),
    }
}

/// JSON without white space, keys sorted.
#[must_use]
pub fn canonical(value: &serde_json::Value) -> String {
    use serde_json::Value;
    match value {
        Value::Object(fields) => {
            let sorted: std::collections::BTreeMap<_, _> = fields.iter().collect();
            let fields =
                sorted.iter().map(|(key, value)| format!("{}:{}", Value::from(key.as_str()), canonical(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        plain => plain.to_string(),
    }
}

/// What of a model an atlas says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelCard {
    /// `owner/name`, or the folder's name.
    pub id: String,
    /// Commit on the Hub.
    pub revision: Option<String>,
    /// `model_type` in its config.
    pub architecture: String,
    /// The architecture in numbers.
    pub spec: DecoderSpec,
    /// Number of parameters.
    pub parameters: u64,
    /// Number format of the stored weights.
    pub dtype: String,
    /// Licence, where its owner states one.
    pub licence: Option<String>,
}

/// What can go wrong while profiling.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// A file cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The corpus cannot be read.
    #[error(transparent)]
    Corpus(#[from] CorpusError),
    /// The text cannot be cut into windows.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// The model cannot be run.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The forward pass gave numbers that are none.
    #[error(
        "{language}: the activations of layer {layer} are not finite; the weights overflow in {precision}, or are damaged"
    )]
    NotFinite {
        /// The language.
        language: LanguageCode,
        /// The first such layer.
        layer: usize,
        /// Number format of the forward pass.
        precision: String,
    },
    /// A context that the model was not made for.
    #[error(
        "--context {context} is longer than the {positions} positions that the model was made for; choose {positions} or less"
    )]
    Context {
        /// Tokens per window.
        context: usize,
        /// `max_position_embeddings`.
        positions: usize,
    },
    /// Fewer tokens than one window.
    #[error("--tokens {tokens} is less than one window of --context {context}; ask for at least {context} tokens")]
    TooFew {
        /// Tokens asked.
        tokens: u64,
        /// Tokens per window.
        context: usize,
    },
    /// A folder that holds another run.
    #[error(
        "{path}: holds another run, which differs in {difference}; choose another --out, or the same settings to continue it"
    )]
    OtherRun {
        /// The folder's profile.json.
        path: std::path::PathBuf,
        /// Fields and their two values.
        difference: String,
    },
    /// A folder without a profile.
    #[error("{path}: holds no profile (no profile.json); `neuroglot profile --out {path}` makes one")]
    NoProfile {
        /// The folder.
        path: std::path::PathBuf,
    },
    /// A folder that is not empty and holds no profile.
    #[error("{path}: is not empty and holds no profile; choose an empty or new folder with --out")]
    Occupied {
        /// The folder.
        path: std::path::PathBuf,
    },
    /// A file that is not what it should be.
    #[error("{path}: {problem}{}", output::unless_said(.problem, "; delete it and make it again"))]
    Broken {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The model has no token for the separator.
    #[error("{path}: `{field}` names no token, so --document-separator {separator} cannot be used with this model")]
    NoSeparator {
        /// config.json.
        path: std::path::PathBuf,
        /// The field.
        field: &'static str,
        /// `bos` or `eos`.
        separator: &'static str,
    },
}
