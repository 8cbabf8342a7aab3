//! BLEU (Papineni et al. 2002) of a corpus, equal to sacrebleu's by default: tokens by `13a`, four orders, exponential smoothing, one
//! reference. `13a` does not part what is written without spaces, so that of Chinese or Thai it says little: read chrF++ there.

use std::collections::HashMap;

use super::python::{split, trim_end};

const ORDERS: usize = 4;

/// What the score of a corpus is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    hypothesis: u64,
    reference: u64,
    correct: [u64; ORDERS],
    total: [u64; ORDERS],
}

impl Statistics {
    /// Of one sentence.
    #[must_use]
    pub fn of(hypothesis: &str, reference: &str) -> Self {
        let (hypothesis, reference) = (tokens_13a(hypothesis), tokens_13a(reference));
        let (hypothesis, reference): (Vec<&str>, Vec<&str>) =
            (split(&hypothesis).collect(), split(&reference).collect());
        let mut all =
            Self { hypothesis: hypothesis.len() as u64, reference: reference.len() as u64, ..Self::default() };
        for n in 1..=ORDERS {
            let mut counts: HashMap<&[&str], u64> = HashMap::new();
            reference.windows(n).for_each(|ngram| *counts.entry(ngram).or_default() += 1);
            for ngram in hypothesis.windows(n) {
                all.total[n - 1] += 1;
                if let Some(left) = counts.get_mut(ngram).filter(|left| **left > 0) {
                    *left -= 1;
                    all.correct[n - 1] += 1;
                }
            }
        }
        all
    }

    /// With those of another sentence.
    #[must_use]
    pub fn plus(self, other: &Self) -> Self {
        self.with(other, |a, b| a + b)
    }

    /// Without those of a sentence that was added.
    #[must_use]
    pub fn minus(self, other: &Self) -> Self {
        self.with(other, |a, b| a - b)
    }

    fn with(self, other: &Self, f: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            hypothesis: f(self.hypothesis, other.hypothesis),
            reference: f(self.reference, other.reference),
            correct: std::array::from_fn(|n| f(self.correct[n], other.correct[n])),
            total: std::array::from_fn(|n| f(self.total[n], other.total[n])),
        }
    }

    /// The score, 0 to 100: the geometric mean of the precisions, times a penalty for what is too short.
    #[must_use]
    pub fn score(&self) -> f64 {
        if self.correct.iter().all(|&n| n == 0) {
            return 0.0;
        }
        let (hypothesis, reference) = (self.hypothesis as f64, self.reference as f64);
        let penalty = if hypothesis < reference { (1.0 - reference / hypothesis).exp() } else { 1.0 };
        let mut smoothing = 1.0;
        let mut logarithms = 0.0;
        for (&correct, &total) in self.correct.iter().zip(&self.total) {
            // No n-gram so long: the precision is 0, whose logarithm sacrebleu takes for this.
            if total == 0 {
                return penalty * f64::exp(-9_999_999_999.0);
            }
            let precision = if correct == 0 {
                smoothing *= 2.0;
                100.0 / (smoothing * total as f64)
            } else {
                100.0 * correct as f64 / total as f64
            };
            logarithms += precision.ln();
        }
        penalty * (logarithms / ORDERS as f64).exp()
    }
}

/// The tokenizer of mteval-v13a, tokens parted by white space.
fn tokens_13a(text: &str) -> String {
    let mut text = trim_end(text).replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    if text.contains('&') {
        text = text.replace("&quot;", "\"").replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">");
    }
    let text: Vec<char> = format!(" {text} ").chars().collect();
    let text = marks_apart(&text);
    let is_stop = |c: char| c == '.' || c == ',';
    let text = pairs(&text, |a, b| !a.is_ascii_digit() && is_stop(b), |a, b| [a, ' ', b, ' ']);
    let text = pairs(&text, |a, b| is_stop(a) && !b.is_ascii_digit(), |a, b| [' ', a, ' ', b]);
    let text = pairs(&text, |a, b| a.is_ascii_digit() && b == '-', |a, b| [a, ' ', b, ' ']);
    text.into_iter().collect()
}

/// Marks of ASCII but `'`, `,`, `-` and `.` as words of their own.
fn marks_apart(text: &[char]) -> Vec<char> {
    let is_mark = |c: char| c == ' ' || (c.is_ascii_punctuation() && !matches!(c, '\'' | ',' | '-' | '.'));
    text.iter().flat_map(|&c| if is_mark(c) { vec![' ', c, ' '] } else { vec![c] }).collect()
}

/// Replaces pairs of neighbours from left to right; a pair begins behind the one before it.
fn pairs(text: &[char], wanted: impl Fn(char, char) -> bool, put: impl Fn(char, char) -> [char; 4]) -> Vec<char> {
    let mut found = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        match text.get(at + 1) {
            Some(&next) if wanted(text[at], next) => {
                found.extend(put(text[at], next));
                at += 2;
            }
            _ => {
                found.push(text[at]);
                at += 1;
            }
        }
    }
    found
}
