//! What identification reads. In: per language, how many tokens ran and how often each neuron fired. Out: [`Profiles`],
//! checked once, so that nothing behind them checks again.

use std::collections::BTreeSet;
use std::sync::Arc;

use rayon::prelude::*;

use super::IdentifyError;
use super::arithmetic::Row;
use crate::language::LanguageCode;
use crate::neuron::FfnShape;

/// How often each neuron fired on one language's tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LanguageCounts {
    /// The language.
    pub language: LanguageCode,
    /// Tokens run in each fold of the documents.
    pub fold_tokens: Vec<u64>,
    /// Tokens at which each neuron fired, layer by layer, summed over the folds.
    pub active: Vec<u32>,
    /// The same per fold; empty when only the sum is known.
    pub fold_active: Vec<Vec<u32>>,
}

impl LanguageCounts {
    /// Tokens run, over all folds.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.fold_tokens.iter().fold(0, |sum, &tokens| sum.saturating_add(tokens))
    }

    pub(super) fn row(&self) -> Row<'_> {
        Row { tokens: self.tokens(), active: &self.active }
    }

    fn check(&self, shape: FfnShape) -> Result<(), IdentifyError> {
        let language = self.language;
        if self.tokens() > u64::from(u32::MAX) {
            return Err(IdentifyError::TooManyTokens { language, tokens: self.tokens() });
        }
        self.check_row(shape, "the sum over folds", &self.active, self.tokens())?;
        if self.fold_active.is_empty() {
            return Ok(());
        }
        if self.fold_active.len() != self.fold_tokens.len() {
            let (active, tokens) = (self.fold_active.len(), self.fold_tokens.len());
            return Err(IdentifyError::Folds { language, active, tokens });
        }
        for (fold, (active, &tokens)) in self.fold_active.iter().zip(&self.fold_tokens).enumerate() {
            self.check_row(shape, &format!("fold {fold}"), active, tokens)?;
        }
        self.check_sum(shape)
    }

    fn check_row(&self, shape: FfnShape, row: &str, active: &[u32], tokens: u64) -> Result<(), IdentifyError> {
        let (language, row) = (self.language, row.to_owned());
        if active.len() != shape.neurons() {
            return Err(IdentifyError::Length { language, row, found: active.len(), wanted: shape.neurons() });
        }
        match active.iter().position(|&active| u64::from(active) > tokens) {
            Some(place) => Err(IdentifyError::ActiveAboveTokens {
                language,
                row,
                neuron: shape.neuron(place),
                active: active[place],
                tokens,
            }),
            None => Ok(()),
        }
    }

    fn check_sum(&self, shape: FfnShape) -> Result<(), IdentifyError> {
        let sums = (0..self.active.len()).map(|place| self.fold_active.iter().map(|fold| u64::from(fold[place])).sum());
        match sums
            .zip(&self.active)
            .enumerate()
            .find(|&(_, (folds, &active)): &(_, (u64, _))| folds != u64::from(active))
        {
            Some((place, (folds, &active))) => {
                Err(IdentifyError::FoldSum { language: self.language, neuron: shape.neuron(place), folds, active })
            }
            None => Ok(()),
        }
    }
}

/// The counts of one model on several languages: lengths, ranges and names are known to be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profiles {
    shape: FfnShape,
    // Shared, so that a subset of the languages copies no counts: 132 languages of an 8B model are 242 MB.
    languages: Vec<Arc<LanguageCounts>>,
}

impl Profiles {
    /// Puts the counts of several languages side by side.
    ///
    /// # Errors
    /// If a row has another length than the grid, a neuron fired more often than there were tokens, folds do not add
    /// up to their sum, a language comes twice, or there are 2^32 tokens or more.
    pub fn new(shape: FfnShape, languages: Vec<LanguageCounts>) -> Result<Self, IdentifyError> {
        Self::of(shape, languages.into_iter().map(Arc::new).collect())
    }

    fn of(shape: FfnShape, languages: Vec<Arc<LanguageCounts>>) -> Result<Self, IdentifyError> {
        let neurons = shape.layers.checked_mul(shape.width).and_then(|neurons| u32::try_from(neurons).ok());
        if neurons.is_none_or(|neurons| neurons == 0) {
            return Err(IdentifyError::Shape { shape });
        }
        check_names(&languages)?;
        languages.par_iter().try_for_each(|counts| counts.check(shape))?;
        Ok(Self { shape, languages })
    }

    /// The grid of the model's neurons.
    #[must_use]
    pub fn shape(&self) -> FfnShape {
        self.shape
    }

    /// The counts, language by language.
    #[must_use]
    pub fn languages(&self) -> &[Arc<LanguageCounts>] {
        &self.languages
    }

    /// The languages, in the order of the counts.
    #[must_use]
    pub fn codes(&self) -> Vec<LanguageCode> {
        self.languages.iter().map(|counts| counts.language).collect()
    }

    /// The same counts for some of the languages, in the order given; no count is copied.
    ///
    /// # Errors
    /// If a language was never profiled (all such are named), comes twice, or none is given.
    pub fn subset(&self, codes: &[LanguageCode]) -> Result<Self, IdentifyError> {
        let find = |code: &LanguageCode| self.languages.iter().find(|counts| counts.language == *code).cloned();
        let missing: Vec<LanguageCode> = codes.iter().filter(|code| find(code).is_none()).copied().collect();
        if !missing.is_empty() {
            return Err(IdentifyError::Missing { missing, known: self.codes() });
        }
        let languages: Vec<_> = codes.iter().filter_map(find).collect();
        check_names(&languages)?;
        Ok(Self { shape: self.shape, languages })
    }
}

fn check_names(languages: &[Arc<LanguageCounts>]) -> Result<(), IdentifyError> {
    if languages.is_empty() {
        return Err(IdentifyError::NoLanguages);
    }
    if languages.len() > usize::from(u16::MAX) {
        return Err(IdentifyError::TooManyLanguages { languages: languages.len() });
    }
    let mut seen = BTreeSet::new();
    match languages.iter().find(|counts| !seen.insert(counts.language)) {
        Some(counts) => Err(IdentifyError::Duplicate { language: counts.language }),
        None => Ok(()),
    }
}
