//! How far a selection can be trusted. In: profiles with folds of documents, and the selection made from their sum.
//! Out: how often each neuron would be selected again if other documents had been read, and how well two halves agree.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::arithmetic::Row;
use super::lape::NAME;
use super::random::stream;
use super::{Identifier, IdentifyError, LanguageCounts, Lape, Profiles, Selection};
use crate::language::LanguageCode;
use crate::neuron::{FfnShape, NeuronSet};

/// How a selection is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resampling {
    /// How many times.
    pub resamples: u32,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for Resampling {
    fn default() -> Self {
        Self { resamples: 200, seed: 0 }
    }
}

/// How far a selection can be trusted; where the folds do not say, the answer is none and never a guess.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stability {
    /// For each selected neuron and each language in its `assigned`, the share of resamples that selected the neuron
    /// and assigned it to the language; none where the language's variance between documents is unknown.
    pub selection_freq: Vec<Vec<Option<f32>>>,
    /// One row for each language, in the order of the selection.
    pub languages: Vec<LanguageStability>,
}

/// How far one language's neurons can be trusted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LanguageStability {
    /// The language.
    pub language: LanguageCode,
    /// Design effect: how many times larger the variance between folds of documents is than if every token were drawn
    /// on its own; none with fewer than two folds that have tokens (of a model with experts: for any of them).
    pub deff: Option<f64>,
    /// Mean of the selection frequency over the language's neurons.
    pub mean_selection_freq: Option<f32>,
    /// Jaccard of the neurons found in even and in odd folds, each identified on its own; none if a half has no tokens
    /// or neither finds a neuron.
    pub split_half_jaccard: Option<f32>,
    /// How far, on average, the probabilities of the language's neurons lie above the activation bar.
    pub margin_to_bar: Option<f64>,
}

impl Stability {
    /// Examines the selection that `lape` made from these profiles.
    ///
    /// A language whose design effect is unknown keeps its counts in every resample.
    ///
    /// # Errors
    /// If the selection does not come from these profiles, or not from `lape` at this rate.
    pub fn estimate(
        lape: &Lape,
        profiles: &Profiles,
        selection: &Selection,
        resampling: Resampling,
    ) -> Result<Self, IdentifyError> {
        selection.check_source(profiles)?;
        let wanted = lape.top_rate.of(profiles.shape().neurons());
        if selection.method != NAME || selection.asked != wanted {
            let (method, asked) = (selection.method.clone(), selection.asked);
            return Err(IdentifyError::OtherOptions { method, asked, wanted });
        }
        let deffs: Vec<Option<f64>> =
            profiles.languages().par_iter().map(|counts| design_effect(counts, profiles.shape())).collect();
        let selection_freq = selection_freq(lape, profiles, selection, &deffs, resampling);
        let means = means(selection, &selection_freq);
        let jaccards = split_half(lape, profiles)?;
        let row = |language: usize| LanguageStability {
            language: selection.languages[language],
            deff: deffs[language],
            mean_selection_freq: means[language],
            split_half_jaccard: jaccards[language],
            margin_to_bar: margin(selection, language),
        };
        Ok(Self { selection_freq, languages: (0..selection.languages.len()).map(row).collect() })
    }
}

/// `deff = [Σ_j Σ_f n_f (p_fj − p_j)² / (F − 1)] / Σ_j p_j (1 − p_j)` over neurons j and the F folds f that have
/// tokens for them. Neurons that have tokens in fewer than two folds say nothing and are left out.
///
/// If every token were drawn on its own, numerator and denominator would have the same mean, whatever the fold sizes.
fn design_effect(counts: &LanguageCounts, shape: FfnShape) -> Option<f64> {
    let (mut between, mut binomial) = (0.0, 0.0);
    let row = counts.row(shape);
    for (part, start) in (0..row.active.len()).step_by(row.span()).enumerate() {
        let folds: Vec<(f64, &[u32])> = (counts.fold_active.iter().enumerate())
            .map(|(fold, active)| (counts.fold_tokens_of(fold, part) as f64, &active[start..]))
            .filter(|(tokens, _)| *tokens > 0.0)
            .collect();
        if folds.len() < 2 {
            continue;
        }
        let tokens = row.tokens()[part] as f64;
        let mut squares = 0.0;
        for (place, &active) in row.active[start..].iter().take(row.span()).enumerate() {
            let p = f64::from(active) / tokens;
            binomial += p * (1.0 - p);
            squares += folds.iter().map(|(n, fold)| n * (f64::from(fold[place]) / n - p).powi(2)).sum::<f64>();
        }
        between += squares / (folds.len() - 1) as f64;
    }
    (binomial > 0.0).then(|| between / binomial)
}

/// Bytes of resampled counts that may be held at once.
const RESAMPLED_BYTES: usize = 512 << 20;

fn selection_freq(
    lape: &Lape,
    profiles: &Profiles,
    selection: &Selection,
    deffs: &[Option<f64>],
    Resampling { resamples, seed }: Resampling,
) -> Vec<Vec<Option<f32>>> {
    let hits: Vec<Vec<AtomicU32>> =
        selection.neurons.iter().map(|neuron| neuron.assigned.iter().map(|_| AtomicU32::new(0)).collect()).collect();
    let resamples = if selection.neurons.is_empty() || deffs.iter().all(Option::is_none) { 0 } else { resamples };
    let bytes = size_of::<u32>() * profiles.shape().neurons() * profiles.languages().len();
    let together = (RESAMPLED_BYTES / bytes).max(1);
    let repetitions: Vec<u64> = (0..u64::from(resamples)).collect();
    for group in repetitions.chunks(together) {
        // Whole numbers added in any order: the sums do not depend on the number of threads.
        group.par_iter().for_each(|&repetition| {
            let counts = resample(profiles, deffs, seed, repetition);
            count_hits(lape, profiles, &counts, selection, &hits);
        });
    }
    let known = |language: u16| resamples > 0 && deffs[usize::from(language)].is_some();
    let frequency = |(hits, &language): (AtomicU32, &u16)| {
        known(language).then(|| (f64::from(hits.into_inner()) / f64::from(resamples)) as f32)
    };
    hits.into_iter()
        .zip(&selection.neurons)
        .map(|(hits, neuron)| hits.into_iter().zip(&neuron.assigned).map(frequency).collect())
        .collect()
}

/// Counts as they might have been over other documents, language by language; how many tokens go to which expert stays.
fn resample(profiles: &Profiles, deffs: &[Option<f64>], seed: u64, repetition: u64) -> Vec<Vec<u32>> {
    let language = |(counts, deff): (&Arc<LanguageCounts>, &Option<f64>)| match deff {
        Some(deff) => {
            let mut normals = Normals::new(stream(seed, counts.language, repetition + 1));
            let mut drawn = Vec::with_capacity(counts.active.len());
            for (tokens, part) in counts.row(profiles.shape()).parts() {
                let tokens = tokens as f64;
                drawn.extend(part.iter().map(|&active| {
                    // var(p) = deff · p (1 − p) / n, so the count n·p has variance deff · n·p (1 − p).
                    let active = f64::from(active);
                    let deviation = (deff * active * (1.0 - active / tokens)).sqrt();
                    // `as` stops at 0; adding a half makes its cut a rounding.
                    (active + deviation * normals.draw() + 0.5).min(tokens) as u32
                }));
            }
            drawn
        }
        None => counts.active.clone(),
    };
    profiles.languages().par_iter().zip(deffs).map(language).collect()
}

/// Repeats the selection on resampled counts, and counts which of the selected neurons come back for which language.
fn count_hits(lape: &Lape, profiles: &Profiles, counts: &[Vec<u32>], selection: &Selection, hits: &[Vec<AtomicU32>]) {
    let old = profiles.languages().iter().map(|counts| counts.row(profiles.shape()));
    let rows: Vec<Row<'_>> = old.zip(counts).map(|(old, new)| old.with(new)).collect();
    let compared: Vec<Row<'_>> =
        rows.iter().zip(&selection.tokens).filter(|(_, tokens)| **tokens > 0).map(|(row, _)| row.clone()).collect();
    let cut = lape.cut(&compared);
    let held = lape.highest_held(&rows, cut.activation_bar);
    let mut again = vec![false; profiles.shape().neurons()];
    cut.ranked.iter().for_each(|ranked| again[ranked.place as usize] = true);
    for (neuron, hits) in selection.neurons.iter().zip(hits) {
        let place = selection.shape.flat(neuron.id);
        for (&language, hits) in neuron.assigned.iter().zip(hits).filter(|_| again[place]) {
            let language = usize::from(language);
            let row = &rows[language];
            if row.active[place] > held[language][place / row.span()] {
                hits.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Standard normal numbers, two from each turn of Box and Muller.
struct Normals {
    rng: ChaCha8Rng,
    second: Option<f64>,
}

impl Normals {
    fn new(rng: ChaCha8Rng) -> Self {
        Self { rng, second: None }
    }

    fn draw(&mut self) -> f64 {
        if let Some(second) = self.second.take() {
            return second;
        }
        let radius = (-2.0 * self.uniform().ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * self.uniform()).sin_cos();
        self.second = Some(radius * sin);
        radius * cos
    }

    /// Uniform above 0 and up to 1: its logarithm is finite.
    fn uniform(&mut self) -> f64 {
        ((self.rng.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }
}

fn means(selection: &Selection, selection_freq: &[Vec<Option<f32>>]) -> Vec<Option<f32>> {
    let mut sums = vec![(0.0, 0u32); selection.languages.len()];
    for (neuron, frequencies) in selection.neurons.iter().zip(selection_freq) {
        for (&language, frequency) in neuron.assigned.iter().zip(frequencies) {
            if let Some(frequency) = frequency {
                let (sum, count) = &mut sums[usize::from(language)];
                *sum += f64::from(*frequency);
                *count += 1;
            }
        }
    }
    sums.into_iter().map(|(sum, count)| (count > 0).then(|| (sum / f64::from(count)) as f32)).collect()
}

/// Jaccard of each language's neurons in even and in odd folds. Only languages with tokens in both halves take part:
/// a language that is missing from one half would change every other language's set there.
fn split_half(lape: &Lape, profiles: &Profiles) -> Result<Vec<Option<f32>>, IdentifyError> {
    let halved: Vec<&LanguageCounts> = profiles
        .languages()
        .iter()
        .map(AsRef::as_ref)
        .filter(|counts| !counts.fold_active.is_empty() && (0..2).all(|parity| half_tokens(counts, parity) > 0))
        .collect();
    if halved.len() < 2 {
        return Ok(vec![None; profiles.languages().len()]);
    }
    let sets = |parity: usize| -> Result<Vec<NeuronSet>, IdentifyError> {
        let counts = halved.par_iter().map(|counts| half(counts, parity)).collect();
        let selection = lape.identify(&Profiles::new(profiles.shape(), counts)?)?;
        Ok((0..halved.len()).map(|language| selection.set(language)).collect())
    };
    let (even, odd) = (sets(0)?, sets(1)?);
    let jaccard = |counts: &Arc<LanguageCounts>| {
        let place = halved.iter().position(|halved| halved.language == counts.language)?;
        let shared = even[place].iter().filter(|&neuron| odd[place].contains(neuron)).count();
        let either = even[place].len() + odd[place].len() - shared;
        (either > 0).then(|| (shared as f64 / either as f64) as f32)
    };
    Ok(profiles.languages().iter().map(jaccard).collect())
}

fn half_tokens(counts: &LanguageCounts, parity: usize) -> u64 {
    counts.fold_tokens.iter().skip(parity).step_by(2).sum()
}

/// The counts of every second fold.
fn half(counts: &LanguageCounts, parity: usize) -> LanguageCounts {
    let mut active = vec![0; counts.active.len()];
    for fold in counts.fold_active.iter().skip(parity).step_by(2) {
        active.iter_mut().zip(fold).for_each(|(sum, fold)| *sum += fold);
    }
    let fold_tokens = vec![half_tokens(counts, parity)];
    let mut routed = vec![0; counts.routed().len()];
    for fold in counts.fold_routed.iter().skip(parity).step_by(2) {
        routed.iter_mut().zip(fold).for_each(|(sum, fold)| *sum += fold);
    }
    let fold_routed = if routed.is_empty() { Vec::new() } else { vec![routed] };
    LanguageCounts { language: counts.language, fold_tokens, active, fold_active: Vec::new(), fold_routed }
}

/// Mean distance of a language's neurons to the activation bar.
fn margin(selection: &Selection, language: usize) -> Option<f64> {
    let bar = selection.activation_bar?;
    let serves = selection.neurons.iter().filter(|neuron| neuron.assigned.contains(&(language as u16)));
    let margins: Vec<f64> = serves.map(|neuron| neuron.probabilities[language] - bar).collect();
    (!margins.is_empty()).then(|| margins.iter().sum::<f64>() / margins.len() as f64)
}
