//! How much any two languages have in common. In: a selection and the profiles that it comes from. Out: for each pair,
//! the neurons that both have, and how alike they fire the whole model.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::arithmetic::Row;
use super::{IdentifyError, Profiles, Selection};

/// What two languages have in common.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Overlap {
    /// Index of the first language; always below the second.
    pub a: u16,
    /// Index of the second language.
    pub b: u16,
    /// Neurons that serve both.
    pub shared: usize,
    /// Shared neurons over neurons that serve either; none if neither has any.
    pub jaccard: Option<f64>,
    /// Shared neurons over the smaller set; none if one has none.
    pub coefficient: Option<f64>,
    /// Cosine of their activation probabilities over all neurons; none if one fires no neuron.
    pub cosine: Option<f64>,
}

/// Every pair of languages, in the order of the profiles.
///
/// # Errors
/// If the selection does not come from these profiles.
pub fn overlaps(profiles: &Profiles, selection: &Selection) -> Result<Vec<Overlap>, IdentifyError> {
    selection.check_source(profiles)?;
    let languages = selection.languages.len();
    let shared = shared(selection);
    let products = products(profiles);
    let pairs = (0..languages).flat_map(|a| (a + 1..languages).map(move |b| (a, b)));
    let ratio = |part: usize, whole: usize| (whole > 0).then(|| part as f64 / whole as f64);
    let overlap = |(a, b): (usize, usize)| {
        let (both, first, second) = (shared[a * languages + b], shared[a * languages + a], shared[b * languages + b]);
        let lengths = products.at(a, a).sqrt() * products.at(b, b).sqrt();
        Overlap {
            a: a as u16,
            b: b as u16,
            shared: both,
            jaccard: ratio(both, first + second - both),
            coefficient: ratio(both, first.min(second)),
            cosine: (lengths > 0.0).then(|| (products.at(a, b) / lengths).min(1.0)),
        }
    };
    Ok(pairs.map(overlap).collect())
}

/// For languages a ≤ b at `a · languages + b`, the neurons that serve both.
fn shared(selection: &Selection) -> Vec<usize> {
    let languages = selection.languages.len();
    let mut shared = vec![0; languages * languages];
    for neuron in &selection.neurons {
        for (first, &a) in neuron.assigned.iter().enumerate() {
            for &b in &neuron.assigned[first..] {
                shared[usize::from(a) * languages + usize::from(b)] += 1;
            }
        }
    }
    shared
}

/// Neurons that one task adds up; fixed, so that the sums do not depend on the number of threads.
const CHUNK: usize = 8192;
/// Neurons whose counts in all languages stay in a core's cache.
const BLOCK: usize = 128;
/// Languages along a side of the square that is added up in registers.
const TILE: usize = 4;

/// Scalar products of the counts of any two languages a ≤ b; a square with sides padded to whole tiles.
struct Products {
    side: usize,
    sums: Vec<f64>,
}

impl Products {
    fn at(&self, a: usize, b: usize) -> f64 {
        self.sums[a * self.side + b]
    }
}

/// In a dense model p is a count over a number of tokens that the cosine divides out again: the counts themselves have the same
/// cosine. Experts have their own numbers of tokens, and p it is.
fn products(profiles: &Profiles) -> Products {
    let side = profiles.languages().len().next_multiple_of(TILE);
    let rows: Vec<Row<'_>> = profiles.languages().iter().map(|counts| counts.row(profiles.shape())).collect();
    let neurons = profiles.shape().neurons();
    let starts: Vec<usize> = (0..neurons).step_by(CHUNK).collect();
    let chunk = |&start: &usize| {
        let mut sums = vec![0.0; side * side];
        let mut block = vec![0.0; BLOCK * side];
        for start in (start..neurons.min(start + CHUNK)).step_by(BLOCK) {
            fill(&mut block, &rows, start, side);
            add_products(&mut sums, &block, side);
        }
        sums
    };
    let chunks: Vec<Vec<f64>> = starts.par_iter().map(chunk).collect();
    let mut sums = vec![0.0; side * side];
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, chunk)| *sum += chunk);
    }
    Products { side, sums }
}

/// `[neuron, language]` of a block of neurons; zero beyond the last neuron and the last language.
fn fill(block: &mut [f64], rows: &[Row<'_>], start: usize, side: usize) {
    block.fill(0.0);
    for (language, counts) in rows.iter().enumerate() {
        let end = counts.active.len().min(start + BLOCK);
        let active = counts.active[start..end].iter().enumerate();
        if let [_] = counts.tokens() {
            active.for_each(|(row, &active)| block[row * side + language] = f64::from(active));
        } else {
            active.for_each(|(row, &active)| {
                block[row * side + language] = f64::from(active) / counts.tokens_at(start + row) as f64;
            });
        }
    }
}

fn add_products(sums: &mut [f64], block: &[f64], side: usize) {
    for a in (0..side).step_by(TILE) {
        for b in (a..side).step_by(TILE) {
            let mut tile = [[0.0; TILE]; TILE];
            for row in block.chunks_exact(side) {
                let left: [f64; TILE] = row[a..a + TILE].try_into().expect("sides are whole tiles");
                let right: [f64; TILE] = row[b..b + TILE].try_into().expect("sides are whole tiles");
                for (tile, left) in tile.iter_mut().zip(left) {
                    tile.iter_mut().zip(right).for_each(|(sum, right)| *sum += left * right);
                }
            }
            for (row, tile) in tile.iter().enumerate() {
                let sums = &mut sums[(a + row) * side + b..][..TILE];
                sums.iter_mut().zip(tile).for_each(|(sum, tile)| *sum += tile);
            }
        }
    }
}
