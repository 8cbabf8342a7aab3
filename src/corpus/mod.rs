//! Text by language: where documents come from. Documents, not lines, are the unit that is counted and dealt to folds.
//! In: `dir:PATH`, `jsonl:PATH`, `parquet:PATH`, `ids:PATH`, or a data set on a Hub. Out: a stream of [`Document`]s and [`Notes`] on their state.

mod directory;
mod files;
mod hub;
mod ids;
mod jsonl;
mod parquet;
mod records;

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use self::{
    hub::{PRESETS, Preset},
    records::{Record, Records, RecordsSpec},
};
use crate::{hub::HubError, language::LanguageCode, output::hex};

/// A source of documents in several languages.
pub trait Corpus: Send + Sync {
    /// What it is, without the place where it lies on this machine: `dir:ntrex-128`.
    fn id(&self) -> &str;

    /// The languages that it has files for, by code.
    fn languages(&self) -> Vec<LanguageCode>;

    /// How its text is cut into documents, in a word for the provenance.
    fn unit(&self) -> &'static str;

    /// One language's documents, always in the same order.
    ///
    /// # Errors
    /// When the language has no file here or a file cannot be opened.
    fn documents(&self, language: LanguageCode, split: Split) -> Result<Documents, CorpusError>;
}

/// One document: text, or token ids that somebody prepared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// UTF-8 text, line breaks kept.
    Text(String),
    /// A prepared window of token ids.
    Ids(Vec<u32>),
}

/// Which documents of a corpus: every twentieth is held out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// All documents.
    #[default]
    All,
    /// All but every twentieth.
    Train,
    /// Every twentieth document: number 20, 40, 60 and so on.
    HeldOut,
}

impl Split {
    fn takes(self, index: u64) -> bool {
        let held_out = index % 20 == 19;
        match self {
            Self::All => true,
            Self::Train => !held_out,
            Self::HeldOut => held_out,
        }
    }
}

/// How a plain text file is cut into documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum DocumentUnit {
    /// By `DOCUMENT_IDS.tsv` beside the files where it exists (one id per line, as NTREX-128 has it), else at blank lines.
    #[default]
    Auto,
    /// At blank lines.
    Paragraph,
    /// Every line is a document.
    Line,
    /// Every file is a document.
    File,
}

/// What a person may choose about the reading of a corpus.
#[derive(Clone, Debug, Default)]
pub struct CorpusOptions {
    /// For `dir:`.
    pub unit: DocumentUnit,
    /// Name of the text column or field; the source's own when absent.
    pub text_column: Option<String>,
    /// Of a data set on a Hub, take what the cache holds.
    pub offline: bool,
}

/// What was seen while reading: nothing here is fatal, all of it is reported.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notes {
    /// Documents with text.
    pub documents: u64,
    /// Documents without any text, passed over.
    pub empty_documents: u64,
    /// Documents with bytes that are not UTF-8; each bad sequence became U+FFFD.
    pub invalid_utf8: u64,
    /// Byte-order marks taken off.
    pub byte_order_marks: u64,
    /// Bytes of UTF-8 text in the documents read.
    pub bytes: u64,
}

/// A language's documents: an iterator that also keeps [`Notes`] and a hash of what it gave.
pub struct Documents {
    raw: Box<dyn Iterator<Item = Result<Raw, CorpusError>> + Send>,
    split: Split,
    index: u64,
    notes: Notes,
    hash: Sha256,
}

/// A document as a source reads it.
enum Raw {
    Bytes(Vec<u8>),
    /// Text of a record whose bytes were not UTF-8; each bad sequence is U+FFFD already.
    Mended(String),
    Ids(Vec<u32>),
}

impl Documents {
    fn new(split: Split, raw: impl Iterator<Item = Result<Raw, CorpusError>> + Send + 'static) -> Self {
        Self { raw: Box::new(raw), split, index: 0, notes: Notes::default(), hash: Sha256::new() }
    }

    /// What was seen so far.
    #[must_use]
    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    /// SHA-256 over the documents given so far, in hexadecimal: says whether two runs read the same text.
    #[must_use]
    pub fn sha256(&self) -> String {
        hex(&self.hash.clone().finalize())
    }

    /// Text without its byte-order mark, or nothing if it is blank.
    fn clean(&mut self, mut bytes: Vec<u8>) -> Option<String> {
        if bytes.starts_with(b"\xef\xbb\xbf") {
            self.notes.byte_order_marks += 1;
            bytes.drain(..3);
        }
        let text = String::from_utf8(bytes).unwrap_or_else(|error| {
            self.notes.invalid_utf8 += 1;
            String::from_utf8_lossy(error.as_bytes()).into_owned()
        });
        if text.trim().is_empty() {
            self.notes.empty_documents += 1;
            return None;
        }
        self.notes.bytes += text.len() as u64;
        self.hash.update((text.len() as u64).to_le_bytes());
        self.hash.update(&text);
        Some(text)
    }
}

impl Iterator for Documents {
    type Item = Result<Document, CorpusError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let raw = match self.raw.next()? {
                Ok(raw) => raw,
                Err(error) => return Some(Err(error)),
            };
            let index = self.index;
            self.index += 1;
            if !self.split.takes(index) {
                continue;
            }
            let document = match raw {
                Raw::Bytes(bytes) => self.clean(bytes).map(Document::Text),
                Raw::Mended(text) => {
                    self.notes.invalid_utf8 += 1;
                    self.clean(text.into_bytes()).map(Document::Text)
                }
                Raw::Ids(ids) => {
                    ids.iter().for_each(|id| self.hash.update(id.to_le_bytes()));
                    Some(Document::Ids(ids))
                }
            };
            let Some(document) = document else { continue };
            self.notes.documents += 1;
            return Some(Ok(document));
        }
    }
}

type Open = fn(&Path, &CorpusOptions) -> Result<Box<dyn Corpus>, CorpusError>;

/// A kind of corpus: its prefix on the command line and how to open one.
pub struct Source {
    /// `dir` in `dir:PATH`.
    pub name: &'static str,
    /// What stands behind the colon.
    pub place: &'static str,
    /// One line of help.
    pub help: &'static str,
    open: Open,
}

const HUB: &str = "hub";

/// Every kind of corpus that is named with its place.
pub const SOURCES: &[Source] = &[
    Source {
        name: "dir",
        place: "PATH",
        help: "a folder of CODE.txt files or CODE/ folders, plain, .gz or .zst",
        open: directory::open,
    },
    Source {
        name: "jsonl",
        place: "PATH",
        help: "CODE.jsonl files, or one file with a language field; plain, .gz or .zst",
        open: jsonl::open,
    },
    Source {
        name: "parquet",
        place: "PATH",
        help: "CODE.parquet files, or one file with a language column",
        open: parquet::open,
    },
    Source {
        name: "ids",
        place: "PATH",
        help: "prepared windows: CODE.safetensors with input_ids [rows, context]",
        open: ids::open,
    },
    Source {
        name: HUB,
        place: "OWNER/NAME[/FOLDER][@REVISION]",
        help: "a data set on a Hub whose Parquet or JSONL files have a language in their path",
        open: hub::open,
    },
];

/// Opens `KIND:PATH` or a preset.
///
/// # Errors
/// When the kind is unknown, the path is not there, or nothing in it belongs to a known language.
pub fn open(spec: &CorpusSpec, options: &CorpusOptions) -> Result<Box<dyn Corpus>, CorpusError> {
    if let Some(preset) = PRESETS.iter().find(|preset| preset.name == spec.kind) {
        return hub::open_preset(preset, &spec.path, options);
    }
    let source = SOURCES.iter().find(|source| source.name == spec.kind).expect("a spec names a row of the table");
    if source.name != HUB && !spec.path.exists() {
        return Err(CorpusError::NotFound { path: spec.path.clone() });
    }
    (source.open)(&spec.path, options)
}

/// A corpus as the command line names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorpusSpec {
    kind: &'static str,
    path: PathBuf,
}

impl FromStr for CorpusSpec {
    type Err = CorpusError;

    fn from_str(text: &str) -> Result<Self, CorpusError> {
        let (name, revision) = text.split_once('@').unwrap_or((text, ""));
        if let Some(preset) = PRESETS.iter().find(|preset| preset.name == name) {
            return Ok(Self { kind: preset.name, path: PathBuf::from(revision) });
        }
        let unknown = || CorpusError::UnknownKind { spec: text.to_owned(), kinds: kinds() };
        let (kind, path) = text.split_once(':').ok_or_else(unknown)?;
        let source = SOURCES.iter().find(|source| source.name == kind).ok_or_else(unknown)?;
        Ok(Self { kind: source.name, path: PathBuf::from(path) })
    }
}

impl fmt::Display for CorpusSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let preset = PRESETS.iter().any(|preset| preset.name == self.kind);
        match (preset, self.path.as_os_str().is_empty()) {
            (true, true) => f.write_str(self.kind),
            (true, false) => write!(f, "{}@{}", self.kind, self.path.display()),
            (false, _) => write!(f, "{}:{}", self.kind, self.path.display()),
        }
    }
}

fn kinds() -> String {
    let sources = SOURCES.iter().map(|source| format!("{}:{}", source.name, source.place));
    sources.chain(PRESETS.iter().map(|preset| preset.name.to_owned())).collect::<Vec<_>>().join(", ")
}

/// `dir:ntrex-128` for a folder `/somewhere/ntrex-128`: what it is, not where.
fn identity(kind: &str, path: &Path) -> String {
    let absolute = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    format!("{kind}:{}", absolute.file_name().map_or_else(|| "/".into(), |name| name.to_string_lossy()))
}

/// What can be wrong with a corpus.
#[derive(Debug, thiserror::Error)]
pub enum CorpusError {
    /// A corpus of a kind that does not exist.
    #[error("`{spec}` is no corpus; write one of {kinds}")]
    UnknownKind {
        /// What was typed.
        spec: String,
        /// What can be typed.
        kinds: String,
    },
    /// Nothing at this path.
    #[error("{path}: there is no such file or folder")]
    NotFound {
        /// The path.
        path: PathBuf,
    },
    /// A file where a folder is wanted.
    #[error("{path}: is a file, but a folder with a file for each language is wanted")]
    NoFolder {
        /// The path.
        path: PathBuf,
    },
    /// A file or folder that the system does not let us read.
    #[error("{path}: cannot be read: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A folder without a file of a known language.
    #[error("{path}: holds no text of a language we know; {wanted} is wanted, where CODE is a language such as `mlt_Latn` or `mt`{}", seen(.ignored))]
    NoLanguages {
        /// The folder.
        path: PathBuf,
        /// The names that would be read.
        wanted: &'static str,
        /// Files that were passed over.
        ignored: Vec<String>,
    },
    /// Two files that both claim a language.
    #[error("{first} and {second} both hold {language}; keep one, or put both into a folder `{language}/`")]
    Twice {
        /// The language.
        language: LanguageCode,
        /// One file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// A language that this corpus has no text for.
    #[error("{corpus} has no text for {language}; it has {}", listed(.available))]
    NoText {
        /// The corpus.
        corpus: String,
        /// The language.
        language: LanguageCode,
        /// What there is.
        available: Vec<LanguageCode>,
    },
    /// A data set on a Hub without files of a known language.
    #[error(
        "{corpus} holds no Parquet or JSONL files of a language we know; name the folder of them, as in hub:OWNER/NAME/FOLDER"
    )]
    NoHubLanguages {
        /// The data set.
        corpus: String,
    },
    /// The Hub does not give the files.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// A line that is not a JSON object with text.
    #[error("{path}, line {line}: {problem}")]
    Json {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        problem: String,
    },
    /// A table without the column.
    #[error("{path}: has no column `{column}`, but {}; {advice}", .found.join(", "))]
    Column {
        /// The file.
        path: PathBuf,
        /// The column looked for.
        column: String,
        /// The columns there are.
        found: Vec<String>,
        /// What to do.
        advice: &'static str,
    },
    /// A file that is not what its name says.
    #[error("{path}: is not a readable {format} file: {problem}; download or make it again")]
    Broken {
        /// The file.
        path: PathBuf,
        /// The format expected.
        format: &'static str,
        /// What its reader said.
        problem: String,
    },
    /// More records than memory should be filled with.
    #[error(
        "{path}: the {read} records of {language} up to here take 128 MB, and there are more; take the first of them by --limit"
    )]
    TooMany {
        /// The file that is too much.
        path: PathBuf,
        /// The language.
        language: LanguageCode,
        /// Records that were read.
        read: usize,
    },
    /// A list of document ids that does not fit the text.
    #[error("{path}: names {ids} lines, but {text} has {lines}; mend it, or choose --document line, paragraph or file")]
    DocumentIds {
        /// `DOCUMENT_IDS.tsv`.
        path: PathBuf,
        /// Its lines.
        ids: usize,
        /// The text.
        text: PathBuf,
        /// At least so many lines.
        lines: usize,
    },
}

fn seen(ignored: &[String]) -> String {
    match ignored {
        [] => " (it is empty)".to_owned(),
        names => format!(
            " (there is {}{})",
            names[..names.len().min(4)].join(", "),
            if names.len() > 4 { ", …" } else { "" }
        ),
    }
}

fn listed(codes: &[LanguageCode]) -> String {
    let names: Vec<String> = codes.iter().take(8).map(ToString::to_string).collect();
    if codes.len() > 8 { format!("{} and {} more", names.join(", "), codes.len() - 8) } else { names.join(", ") }
}
