//! Documents to token ids, and token ids to full windows of equal length, dealt to folds by document.
//! In: documents, a tokenizer and a [`WindowPlan`]. Out: [`Window`]s and the language's [`Coverage`]. There is no padding, so the
//! number of tokens is exact.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use tokenizers::Tokenizer;

use crate::{
    corpus::{CorpusError, Document, Documents, Notes},
    language::LanguageCode,
};

/// What stands between two documents of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Separator {
    /// Nothing: the counts are of the language's own tokens only.
    #[default]
    None,
    /// The model's token for the beginning of a text before every document.
    Bos,
    /// The model's token for the end of a text after every document.
    Eos,
}

/// How much of a language is run, and in what pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowPlan {
    /// Tokens per window.
    pub context: usize,
    /// Tokens asked per language; the windows hold at most so many.
    pub tokens: u64,
    /// Number of folds that the documents are dealt to.
    pub folds: usize,
    /// Token before or after every document.
    pub separator: Option<(Separator, u32)>,
    /// Rows of the embedding: a prepared id at or above it is an error.
    pub vocabulary: usize,
}

impl WindowPlan {
    fn windows(&self) -> u64 {
        self.tokens / self.context as u64
    }

    /// Windows that a fold takes before the others have theirs.
    fn share(&self, fold: usize) -> u64 {
        let (windows, folds) = (self.windows(), self.folds as u64);
        windows / folds + u64::from((fold as u64) < windows % folds)
    }
}

/// A full window of token ids, all of documents of one fold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The fold.
    pub fold: usize,
    /// `context` ids.
    pub ids: Vec<u32>,
}

/// Whether a language got the tokens that were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CoverageStatus {
    /// All of them.
    Full,
    /// Fewer: the corpus ended.
    Short,
    /// None.
    Empty,
}

impl CoverageStatus {
    /// The word in the tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Short => "short",
            Self::Empty => "empty",
        }
    }
}

/// What of a language was run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Coverage {
    /// The language.
    pub language: LanguageCode,
    /// Whether the tokens asked for were there.
    pub status: CoverageStatus,
    /// Tokens that the model ran over.
    pub tokens: u64,
    /// Tokens of all documents that were read, run or not.
    pub tokens_read: u64,
    /// What was seen in the documents read.
    #[serde(flatten)]
    pub notes: Notes,
    /// Tokens run, per fold.
    pub fold_tokens: Vec<u64>,
    /// Documents read, per fold.
    pub fold_documents: Vec<u64>,
    /// SHA-256 over the documents read.
    pub text_sha256: String,
}

/// What can be wrong on the way from text to windows.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// The text cannot be read.
    #[error(transparent)]
    Corpus(#[from] CorpusError),
    /// The tokenizer failed.
    #[error("{language}: the tokenizer cannot read document {document}: {problem}")]
    Tokenizer {
        /// The language.
        language: LanguageCode,
        /// Number of the document, from 1.
        document: u64,
        /// What the tokenizer said.
        problem: String,
    },
    /// Prepared windows of another length.
    #[error("{language}: prepared window {window} has {found} ids, but --context is {wanted}; set --context {found}")]
    Context {
        /// The language.
        language: LanguageCode,
        /// Number of the window, from 1.
        window: u64,
        /// Its length.
        found: usize,
        /// The context of the plan.
        wanted: usize,
    },
    /// A prepared id that the model has no embedding for.
    #[error("{language}: prepared window {window} holds id {id}, but the model's embedding has {vocabulary} rows; the ids are another tokenizer's")]
    Id {
        /// The language.
        language: LanguageCode,
        /// Number of the window, from 1.
        window: u64,
        /// The id.
        id: u32,
        /// Rows of the embedding.
        vocabulary: usize,
    },
}

/// The windows of one language: an iterator that reads no further than it must.
pub struct Windows<'a> {
    language: LanguageCode,
    plan: WindowPlan,
    tokenizer: &'a Tokenizer,
    documents: Documents,
    folds: Vec<Fold>,
    ready: VecDeque<Window>,
    tokens_read: u64,
    given: u64,
    ended: bool,
}

/// The tokens of one fold that no window holds yet.
#[derive(Default)]
struct Fold {
    buffer: VecDeque<u32>,
    documents: u64,
    windows: u64,
    /// Tokens dealt to it, in windows or not.
    tokens: u64,
}

impl<'a> Windows<'a> {
    /// Windows over a language's documents.
    #[must_use]
    pub fn new(language: LanguageCode, plan: WindowPlan, tokenizer: &'a Tokenizer, documents: Documents) -> Self {
        let folds = (0..plan.folds).map(|_| Fold::default()).collect();
        let ready = VecDeque::new();
        Self { language, plan, tokenizer, documents, folds, ready, tokens_read: 0, given: 0, ended: false }
    }

    /// What was read and given; final once the iterator has ended.
    #[must_use]
    pub fn coverage(&self) -> Coverage {
        let context = self.plan.context as u64;
        let tokens = self.given * context;
        let status = match self.given {
            0 => CoverageStatus::Empty,
            given if given < self.plan.windows() => CoverageStatus::Short,
            _ => CoverageStatus::Full,
        };
        Coverage {
            language: self.language,
            status,
            tokens,
            tokens_read: self.tokens_read,
            notes: self.documents.notes().clone(),
            fold_tokens: self.folds.iter().map(|fold| fold.windows * context).collect(),
            fold_documents: self.folds.iter().map(|fold| fold.documents).collect(),
            text_sha256: self.documents.sha256(),
        }
    }

    /// The fold for the next document: the one with the fewest tokens among those that still want some, so that a long
    /// document fills its own fold and never ends the corpus for the others.
    fn wanting(&self) -> Option<usize> {
        let wants = |fold: &usize| self.folds[*fold].windows < self.plan.share(*fold);
        (0..self.folds.len()).filter(wants).min_by_key(|&fold| (self.folds[fold].tokens, fold))
    }

    fn take(&mut self, document: Document, fold: usize) -> Result<(), TokensError> {
        let ids = match document {
            Document::Text(text) => self.tokenize(&text)?,
            Document::Ids(ids) => self.prepared(ids)?,
        };
        self.tokens_read += ids.len() as u64;
        let at = &mut self.folds[fold];
        at.documents += 1;
        at.tokens += ids.len() as u64;
        at.buffer.extend(ids);
        while self.folds[fold].windows < self.plan.share(fold) && self.cut(fold) {}
        Ok(())
    }

    /// Moves one full window out of a fold's buffer, if there is one.
    fn cut(&mut self, fold: usize) -> bool {
        let at = &mut self.folds[fold];
        let full = at.buffer.len() >= self.plan.context;
        if full {
            at.windows += 1;
            self.ready.push_back(Window { fold, ids: at.buffer.drain(..self.plan.context).collect() });
        }
        full
    }

    fn tokenize(&self, text: &str) -> Result<Vec<u32>, TokensError> {
        let encoding = self.tokenizer.encode_fast(text, false).map_err(|error| TokensError::Tokenizer {
            language: self.language,
            document: self.documents.notes().documents,
            problem: error.to_string(),
        })?;
        let ids = encoding.get_ids();
        Ok(match self.plan.separator {
            Some((Separator::Bos, id)) => [&[id], ids].concat(),
            Some((Separator::Eos, id)) => [ids, &[id]].concat(),
            _ => ids.to_vec(),
        })
    }

    fn prepared(&self, ids: Vec<u32>) -> Result<Vec<u32>, TokensError> {
        let (language, window) = (self.language, self.documents.notes().documents);
        if ids.len() != self.plan.context {
            return Err(TokensError::Context { language, window, found: ids.len(), wanted: self.plan.context });
        }
        match ids.iter().find(|id| **id as usize >= self.plan.vocabulary) {
            Some(&id) => Err(TokensError::Id { language, window, id, vocabulary: self.plan.vocabulary }),
            None => Ok(ids),
        }
    }

    /// When the documents have ended, what a fold has above its share fills the place of what another lacks.
    fn fill_up(&mut self) {
        let mut given: u64 = self.folds.iter().map(|fold| fold.windows).sum();
        for fold in 0..self.folds.len() {
            while given < self.plan.windows() && self.cut(fold) {
                given += 1;
            }
        }
    }
}

impl Iterator for Windows<'_> {
    type Item = Result<Window, TokensError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(window) = self.ready.pop_front() {
                self.given += 1;
                return Some(Ok(window));
            }
            if self.ended {
                return None;
            }
            let Some(fold) = self.wanting() else {
                self.ended = true;
                return None;
            };
            match self.documents.next() {
                None => {
                    self.ended = true;
                    self.fill_up();
                }
                Some(document) => {
                    if let Err(error) = document.map_err(TokensError::from).and_then(|document| self.take(document, fold)) {
                        self.ended = true;
                        return Some(Err(error));
                    }
                }
            }
        }
    }
}
