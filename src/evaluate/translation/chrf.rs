//! chrF and chrF++ (Popović 2015, 2017) of a corpus, equal to sacrebleu's: character n-grams up to six without white space, word n-grams
//! up to two, β = 2, one reference.

use std::collections::HashMap;

use super::python::{split, words};

/// Orders of character n-grams.
const CHARACTERS: usize = 6;
/// Orders of word n-grams: with them, chrF is called chrF++.
const WORDS: usize = 2;
/// How much more recall weighs than precision.
const BETA: f64 = 2.0;
const ORDERS: usize = CHARACTERS + WORDS;

/// What the score of a corpus is made of: per order, n-grams of hypotheses, of references, and of both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics([[u64; 3]; ORDERS]);

impl Statistics {
    /// Of one sentence.
    #[must_use]
    pub fn of(hypothesis: &str, reference: &str) -> Self {
        let (hypothesis, reference) = (NGrams::of(hypothesis), NGrams::of(reference));
        let mut all = Self::default();
        let characters = (1..=CHARACTERS).map(|n| matches(&hypothesis.characters, &reference.characters, n));
        let words = (1..=WORDS).map(|n| matches(&hypothesis.words, &reference.words, n));
        all.0.iter_mut().zip(characters.chain(words)).for_each(|(to, found)| *to = found);
        all
    }

    /// With those of another sentence.
    #[must_use]
    pub fn plus(mut self, other: &Self) -> Self {
        self.0.iter_mut().flatten().zip(other.0.iter().flatten()).for_each(|(a, b)| *a += b);
        self
    }

    /// Without those of a sentence that was added.
    #[must_use]
    pub fn minus(mut self, other: &Self) -> Self {
        self.0.iter_mut().flatten().zip(other.0.iter().flatten()).for_each(|(a, b)| *a -= b);
        self
    }

    /// The score, 0 to 100: F of precision and recall, each the mean over the orders that hypotheses and references both have.
    #[must_use]
    pub fn score(&self) -> f64 {
        let (mut precision, mut recall, mut orders) = (0.0, 0.0, 0.0);
        for &[hypothesis, reference, both] in &self.0 {
            if hypothesis > 0 && reference > 0 {
                precision += both as f64 / hypothesis as f64;
                recall += both as f64 / reference as f64;
                orders += 1.0;
            }
        }
        if precision + recall == 0.0 {
            return 0.0;
        }
        let (precision, recall) = (precision / orders, recall / orders);
        let factor = BETA * BETA;
        100.0 * (1.0 + factor) * precision * recall / (factor * precision + recall)
    }
}

/// A sentence as its n-grams are taken.
struct NGrams {
    characters: Vec<char>,
    words: Vec<String>,
}

impl NGrams {
    fn of(text: &str) -> Self {
        Self { characters: split(text).flat_map(str::chars).collect(), words: words(text) }
    }
}

fn matches<T: std::hash::Hash + Eq>(hypothesis: &[T], reference: &[T], n: usize) -> [u64; 3] {
    let mut counts: HashMap<&[T], u64> = HashMap::new();
    reference.windows(n).for_each(|ngram| *counts.entry(ngram).or_default() += 1);
    let of = |text: &[T]| (text.len() + 1).saturating_sub(n) as u64;
    let mut both = 0;
    for ngram in hypothesis.windows(n) {
        if let Some(left) = counts.get_mut(ngram).filter(|left| **left > 0) {
            *left -= 1;
            both += 1;
        }
    }
    // What has no n-gram in the reference to meet is not counted against a hypothesis.
    let hypotheses = if of(reference) > 0 { of(hypothesis) } else { 0 };
    [hypotheses, of(reference), both]
}
