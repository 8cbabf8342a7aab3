//! What identification reads. In: per language, how many tokens ran (and went to each expert) and how often each neuron fired.
//! Out: [`Profiles`], checked once, so that nothing behind them checks again.

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
    /// Tokens routed to each expert, for each of the folds of `fold_tokens` and in the order of [`FfnShape::ffn`]; empty of a dense
    /// model, where every token goes everywhere.
    pub fold_routed: Vec<Vec<u64>>,
}

impl LanguageCounts {
    /// Tokens run, over all folds.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.fold_tokens.iter().fold(0, |sum, &tokens| sum.saturating_add(tokens))
    }

    /// Tokens that the neurons of a feed-forward network could fire at, over all folds.
    #[must_use]
    pub fn tokens_of(&self, ffn: usize) -> u64 {
        if self.fold_routed.is_empty() {
            return self.tokens();
        }
        self.fold_routed.iter().map(|fold| fold[ffn]).sum()
    }

    /// The same of one fold.
    pub(super) fn fold_tokens_of(&self, fold: usize, ffn: usize) -> u64 {
        self.fold_routed.get(fold).map_or_else(|| self.fold_tokens[fold], |routed| routed[ffn])
    }

    /// The same of every expert; empty of a dense model.
    pub(super) fn routed(&self) -> Vec<u64> {
        let experts = self.fold_routed.first().map_or(0, Vec::len);
        (0..experts).map(|ffn| self.tokens_of(ffn)).collect()
    }

    /// The most tokens that a neuron could fire at.
    pub(super) fn most_tokens(&self) -> u64 {
        self.routed().into_iter().max().unwrap_or_else(|| self.tokens())
    }

    pub(super) fn row(&self, shape: FfnShape) -> Row<'_> {
        if self.fold_routed.is_empty() {
            Row::new(&self.active, [self.tokens()], shape.neurons())
        } else {
            Row::new(&self.active, self.routed(), shape.width)
        }
    }

    fn check(&self, shape: FfnShape) -> Result<(), IdentifyError> {
        let language = self.language;
        if self.tokens() > u64::from(u32::MAX) {
            return Err(IdentifyError::TooManyTokens { language, tokens: self.tokens() });
        }
        self.check_routed(shape)?;
        self.check_row(shape, "the sum over folds", &self.active, |ffn| self.tokens_of(ffn))?;
        if self.fold_active.is_empty() {
            return Ok(());
        }
        if self.fold_active.len() != self.fold_tokens.len() {
            let (active, tokens) = (self.fold_active.len(), self.fold_tokens.len());
            return Err(IdentifyError::Folds { language, active, tokens });
        }
        for (fold, active) in self.fold_active.iter().enumerate() {
            self.check_row(shape, &format!("fold {fold}"), active, |ffn| self.fold_tokens_of(fold, ffn))?;
        }
        self.check_sum(shape)
    }

    /// Every fold says of every expert how many of its tokens went there; of a dense model none says anything.
    fn check_routed(&self, shape: FfnShape) -> Result<(), IdentifyError> {
        let language = self.language;
        let (folds, experts) = if shape.is_routed() { (self.fold_tokens.len(), shape.ffns()) } else { (0, 0) };
        let found = self.fold_routed.iter().map(Vec::len).find(|&found| found != experts).unwrap_or(experts);
        if self.fold_routed.len() != folds || found != experts {
            let found = (self.fold_routed.len(), found);
            return Err(IdentifyError::Routing { language, found, wanted: (folds, experts) });
        }
        for (fold, (routed, &tokens)) in self.fold_routed.iter().zip(&self.fold_tokens).enumerate() {
            if let Some(ffn) = routed.iter().position(|&routed| routed > tokens) {
                let (layer, expert) = (ffn / shape.experts, ffn % shape.experts);
                let routed = routed[ffn];
                return Err(IdentifyError::RoutedAboveTokens { language, fold, layer, expert, routed, tokens });
            }
        }
        Ok(())
    }

    fn check_row(
        &self,
        shape: FfnShape,
        row: &str,
        active: &[u32],
        tokens: impl Fn(usize) -> u64,
    ) -> Result<(), IdentifyError> {
        let (language, row) = (self.language, row.to_owned());
        if active.len() != shape.neurons() {
            return Err(IdentifyError::Length { language, row, found: active.len(), wanted: shape.neurons() });
        }
        for (ffn, part) in active.chunks(shape.width).enumerate() {
            let tokens = tokens(ffn);
            if let Some(index) = part.iter().position(|&active| u64::from(active) > tokens) {
                let neuron = shape.neuron(ffn * shape.width + index);
                let active = part[index];
                return Err(IdentifyError::ActiveAboveTokens { language, row, shape, neuron, active, tokens });
            }
        }
        Ok(())
    }

    fn check_sum(&self, shape: FfnShape) -> Result<(), IdentifyError> {
        let sums = (0..self.active.len()).map(|place| self.fold_active.iter().map(|fold| u64::from(fold[place])).sum());
        match sums
            .zip(&self.active)
            .enumerate()
            .find(|&(_, (folds, &active)): &(_, (u64, _))| folds != u64::from(active))
        {
            Some((place, (folds, &active))) => {
                let neuron = shape.neuron(place);
                Err(IdentifyError::FoldSum { language: self.language, shape, neuron, folds, active })
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
    /// If a row has another length than the grid, a neuron fired more often than there were tokens for it, folds do not add
    /// up to their sum, a language comes twice, or there are 2^32 tokens or more.
    pub fn new(shape: FfnShape, languages: Vec<LanguageCounts>) -> Result<Self, IdentifyError> {
        Self::of(shape, languages.into_iter().map(Arc::new).collect())
    }

    fn of(shape: FfnShape, languages: Vec<Arc<LanguageCounts>>) -> Result<Self, IdentifyError> {
        let neurons = shape.checked_neurons().and_then(|neurons| u32::try_from(neurons).ok());
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
