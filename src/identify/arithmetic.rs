//! The two ways of computing probabilities and entropies. In: counts. Out: numbers, always held as f64, so that
//! whatever ranks or compares them is written once.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::IdentifyError;
use super::kth::partition_point;

/// One language's counts as the arithmetic reads them: how often each neuron fired, and at how many tokens it could.
///
/// In a dense model every neuron sees every token. A neuron of an expert sees those that the router sends there, so that the
/// neurons of an expert share a number.
#[derive(Clone)]
pub(super) struct Row<'a> {
    pub active: &'a [u32],
    /// n of the formulas, for every `span` neurons.
    tokens: Vec<u64>,
    span: usize,
}

impl<'a> Row<'a> {
    /// `tokens` for every `span` neurons.
    pub fn new(active: &'a [u32], tokens: impl IntoIterator<Item = u64>, span: usize) -> Self {
        // An expert without tokens is active at none: over one token its probabilities are 0, and need no case of their own.
        Self { active, tokens: tokens.into_iter().map(|tokens| tokens.max(1)).collect(), span }
    }

    /// The same tokens with other counts.
    pub fn with<'b>(&self, active: &'b [u32]) -> Row<'b> {
        Row { active, tokens: self.tokens.clone(), span: self.span }
    }

    /// Neurons that share a number of tokens; the last part may be shorter.
    pub fn span(&self) -> usize {
        self.span
    }

    /// Tokens that every part sees.
    pub fn tokens(&self) -> &[u64] {
        &self.tokens
    }

    /// Tokens that a neuron sees.
    #[inline]
    pub fn tokens_at(&self, place: usize) -> u64 {
        self.tokens[place / self.span]
    }

    /// The counts, with their tokens, of neurons that see the same tokens.
    pub fn parts(&self) -> impl Iterator<Item = (u64, &'a [u32])> {
        self.tokens.iter().copied().zip(self.active.chunks(self.span))
    }
}

/// How probabilities and entropies are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arithmetic {
    /// In f64; the order of the languages leaves no trace in the result.
    #[default]
    Exact,
    /// In f32, step by step as the published script computes, to reproduce published masks.
    Reference,
}

impl Arithmetic {
    /// The share of tokens at which a neuron is active; not a number without tokens.
    #[must_use]
    #[inline]
    pub fn probability(self, active: u32, tokens: u64) -> f64 {
        match self {
            Self::Exact => f64::from(active) / tokens as f64,
            // Both numbers are rounded to f32 before they are divided, as torch divides integers.
            Self::Reference => f64::from(active as f32 / tokens as f32),
        }
    }

    /// The entropy, in nats, of a neuron's activation probabilities once they are scaled to add up to 1; a neuron that
    /// never fires has 0, the lowest, and only the filter removes it.
    #[must_use]
    pub fn entropy(self, probabilities: &[f64]) -> f64 {
        match self {
            Self::Exact => exact_entropy(&mut probabilities.to_vec()),
            Self::Reference => reference_entropy(probabilities),
        }
    }

    /// [`Arithmetic::entropy`] without a copy, for the inner loop; it may reorder the probabilities.
    #[inline]
    pub(super) fn entropy_in_place(self, probabilities: &mut [f64]) -> f64 {
        match self {
            Self::Exact => exact_entropy(probabilities),
            Self::Reference => reference_entropy(probabilities),
        }
    }

    /// The highest count that a bar still holds back: `active > highest_held` exactly where `p > bar`.
    pub(super) fn highest_held(self, bar: f64, tokens: u64) -> u32 {
        // p grows with the count, in f32 too, so the bar splits 0..=tokens in two; a count of 0 is always held.
        (partition_point(1..tokens + 1, |active| self.probability(active as u32, tokens) <= bar) - 1) as u32
    }
}

/// `H = ln S − (Σ p ln p) / S` with `S = Σ p`, added up from the smallest: the same bits for every order of the
/// languages.
fn exact_entropy(probabilities: &mut [f64]) -> f64 {
    probabilities.sort_unstable_by_key(|p| p.to_bits());
    let first = probabilities.partition_point(|&p| p == 0.0);
    let Some(&largest) = probabilities.last().filter(|&&p| p > 0.0) else { return 0.0 };
    let (mut sum, mut sum_ln) = (0.0, 0.0);
    for p in &probabilities[first..] {
        // H does not change with scale: over the largest, one language gives exactly 0, and m equal ones exactly ln m.
        let scaled = p / largest;
        sum += scaled;
        sum_ln += scaled * scaled.ln();
    }
    sum.ln() - sum_ln / sum
}

/// `q = p / Σ p`, `H = −Σ q ln q`, every step in f32 and in the order of the languages.
fn reference_entropy(probabilities: &[f64]) -> f64 {
    let sum: f32 = probabilities.iter().map(|&p| p as f32).sum();
    let terms = probabilities.iter().map(|&p| {
        // 0 / 0 is NaN, which the script sets to 0: the comparison is false for both.
        let q = p as f32 / sum;
        if q > 0.0 { q * q.ln() } else { 0.0 }
    });
    // Taken from 0, not negated: an entropy of 0 has no sign.
    f64::from(0.0 - terms.sum::<f32>())
}

impl FromStr for Arithmetic {
    type Err = IdentifyError;

    fn from_str(text: &str) -> Result<Self, IdentifyError> {
        match text {
            "exact" => Ok(Self::Exact),
            "reference" => Ok(Self::Reference),
            _ => Err(IdentifyError::Choice {
                what: "arithmetic",
                given: text.to_owned(),
                known: "`exact` or `reference`",
            }),
        }
    }
}

impl fmt::Display for Arithmetic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Exact => "exact",
            Self::Reference => "reference",
        })
    }
}
