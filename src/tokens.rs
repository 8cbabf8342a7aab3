//! Documents to token ids, and token ids to full windows of equal length; every token knows its document's fold.
//! In: documents, a tokenizer and a [`WindowPlan`]. Out: [`Window`]s and the language's [`Coverage`]. There is no padding, so the
//! number of tokens is exact, and folds change nothing about the windows: the counts of all folds add up to those without.

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

    /// Tokens that one document may fill before others had their turn: a quarter, whatever the number of folds. One long
    /// document would otherwise end the corpus early and leave the folds nothing to disagree about.
    fn cap(&self) -> usize {
        usize::try_from(self.tokens / 4).unwrap_or(usize::MAX).max(self.context)
    }
}

/// A full window of token ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// `context` ids.
    pub ids: Vec<u32>,
    /// The fold of every token's document.
    pub folds: Vec<u8>,
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
    #[error(
        "{language}: prepared window {window} holds id {id}, but the model's embedding has {vocabulary} rows; the ids are another tokenizer's"
    )]
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
    /// Tokens that no window holds yet, with their folds.
    buffer: VecDeque<(u32, u8)>,
    /// Tokens of long documents above the cap, for when the documents end.
    reserve: VecDeque<(u32, u8)>,
    tokens_read: u64,
    given: u64,
    folds: Vec<Fold>,
    ended: bool,
}

#[derive(Clone, Default)]
struct Fold {
    documents: u64,
    /// Tokens dealt to it.
    dealt: u64,
    /// Tokens of it in the windows given.
    given: u64,
}

impl<'a> Windows<'a> {
    /// Windows over a language's documents.
    #[must_use]
    pub fn new(language: LanguageCode, plan: WindowPlan, tokenizer: &'a Tokenizer, documents: Documents) -> Self {
        let folds = vec![Fold::default(); plan.folds];
        let (buffer, reserve) = (VecDeque::new(), VecDeque::new());
        Self { language, plan, tokenizer, documents, buffer, reserve, tokens_read: 0, given: 0, folds, ended: false }
    }

    /// What was read and given; final once the iterator has ended.
    #[must_use]
    pub fn coverage(&self) -> Coverage {
        let status = match self.given {
            0 => CoverageStatus::Empty,
            given if given < self.plan.windows() => CoverageStatus::Short,
            _ => CoverageStatus::Full,
        };
        Coverage {
            language: self.language,
            status,
            tokens: self.given * self.plan.context as u64,
            tokens_read: self.tokens_read,
            notes: self.documents.notes().clone(),
            fold_tokens: self.folds.iter().map(|fold| fold.given).collect(),
            fold_documents: self.folds.iter().map(|fold| fold.documents).collect(),
            text_sha256: self.documents.sha256(),
        }
    }

    /// The tokens that are left behind the last window, fewer than a window's, once the documents have ended and where the plan has room
    /// for them; for those who mask what is missing.
    #[must_use]
    pub fn rest(&mut self) -> Vec<u32> {
        let room = self.plan.tokens.saturating_sub(self.given * self.plan.context as u64);
        if !self.ended || self.buffer.len() >= self.plan.context {
            return Vec::new();
        }
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        self.buffer.drain(..).take(room).map(|(id, _)| id).collect()
    }

    /// Deals a document to the fold with the fewest tokens.
    fn take(&mut self, document: Document) -> Result<(), TokensError> {
        let ids = match document {
            Document::Text(text) => self.tokenize(&text)?,
            Document::Ids(ids) => self.prepared(ids)?,
        };
        self.tokens_read += ids.len() as u64;
        let (fold, _) = self.folds.iter().enumerate().min_by_key(|(_, fold)| fold.dealt).expect("there is a fold");
        self.folds[fold].documents += 1;
        self.folds[fold].dealt += ids.len() as u64;
        let fold = u8::try_from(fold).expect("there are at most 64 folds");
        let (first, surplus) = ids.split_at(ids.len().min(self.plan.cap()));
        self.buffer.extend(first.iter().map(|&id| (id, fold)));
        let room = usize::try_from(self.plan.tokens).unwrap_or(usize::MAX).saturating_sub(self.reserve.len());
        self.reserve.extend(surplus.iter().take(room).map(|&id| (id, fold)));
        Ok(())
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

    /// Reads documents, and at their end the reserve, until a window is full; false when there is no more.
    fn fill(&mut self) -> Result<bool, TokensError> {
        while self.buffer.len() < self.plan.context {
            if !self.ended {
                match self.documents.next() {
                    Some(document) => self.take(document?)?,
                    None => self.ended = true,
                }
            } else if let Some(token) = self.reserve.pop_front() {
                self.buffer.push_back(token);
            } else {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Iterator for Windows<'_> {
    type Item = Result<Window, TokensError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.given == self.plan.windows() {
            return None;
        }
        match self.fill() {
            Err(error) => {
                self.given = self.plan.windows();
                Some(Err(error))
            }
            Ok(false) => None,
            Ok(true) => {
                let (ids, folds): (Vec<u32>, Vec<u8>) = self.buffer.drain(..self.plan.context).unzip();
                folds.iter().for_each(|&fold| self.folds[usize::from(fold)].given += 1);
                self.given += 1;
                Some(Ok(Window { ids, folds }))
            }
        }
    }
}
