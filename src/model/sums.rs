//! Sums over the tokens of a run: what is counted of the gates, in the pass that makes activations of them.

use std::{mem::MaybeUninit, ops::Range};

use super::{
    activation::Activation,
    observer::Tally,
    simd::{larger, vectorised},
};

/// Neurons whose rows are read together, so that a few tokens of them stay in the first-level cache.
const TILE: usize = 256;
/// Neurons whose sums stand in registers, and how many where so many are no longer left.
const LANES: usize = 48;
const FEW: usize = 16;
/// Tokens whose activations are added in f32 before they go into f64: widening every one costs more than all the rest, and
/// eight additions lose nothing that the activations themselves are sure of.
const NARROW: usize = 8;

/// Sums over the tokens of one run, per neuron of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Sums {
    active: Vec<u32>,
    sum: Vec<f64>,
    sum_sq: Vec<f64>,
    max: Vec<f32>,
}

/// Rows of gates, and what becomes of their activations.
trait Rows {
    /// The gates `[tokens, width]`, and their width.
    fn gates(&self) -> (&[f32], usize);

    /// Takes the activations of `N` gates of a token, the first in column `column`.
    fn put<const N: usize>(&mut self, row: usize, column: usize, activations: &[f32; N]);
}

/// Gates that are only looked at.
struct Seen<'a>(&'a [f32], usize);

/// Gates that become activations.
struct Replaced<'a>(&'a mut [f32], usize);

/// Values `up` of the up projection, `[tokens, width]` as the gates, that are multiplied by their activations.
struct Multiplied<'a> {
    gates: &'a [f32],
    up: &'a mut [f32],
    width: usize,
}

/// Places of hidden units `[tokens, neurons]`, wherever the next product reads them.
pub struct Hidden<'a> {
    pub values: &'a mut [MaybeUninit<f32>],
    /// Of every token, where its first eight neurons begin, and how far from there its next eight.
    pub rows: &'a [(usize, usize)],
}

impl Hidden<'_> {
    /// Neurons that lie side by side.
    pub const TOGETHER: usize = 8;

    /// Those of the tokens from one on.
    pub fn from(&mut self, token: usize) -> Hidden<'_> {
        Hidden { values: self.values, rows: &self.rows[token..] }
    }

    /// Puts `N` neurons of a token into their places, the first of which is a multiple of eight if there are so many.
    #[inline(always)]
    fn put<const N: usize>(&mut self, token: usize, neuron: usize, values: &[f32; N]) {
        let (first, apart) = self.rows[token];
        let first = first + neuron / Self::TOGETHER * apart + neuron % Self::TOGETHER;
        let (eights, rest) = values.as_chunks::<{ Hidden::TOGETHER }>();
        for (i, values) in eights.iter().enumerate() {
            *part_mut::<_, { Hidden::TOGETHER }>(self.values, first + i * apart) = values.map(MaybeUninit::new);
        }
        for (i, value) in rest.iter().enumerate() {
            self.values[first + i].write(*value);
        }
    }
}

/// Values `up [tokens, width]` whose products with the activations become hidden units, the first of neuron `column`.
struct Placed<'a> {
    gates: &'a [f32],
    up: &'a [f32],
    width: usize,
    to: Hidden<'a>,
    column: usize,
}

impl Rows for Seen<'_> {
    #[inline(always)]
    fn gates(&self) -> (&[f32], usize) {
        (self.0, self.1)
    }

    #[inline(always)]
    fn put<const N: usize>(&mut self, _: usize, _: usize, _: &[f32; N]) {}
}

impl Rows for Replaced<'_> {
    #[inline(always)]
    fn gates(&self) -> (&[f32], usize) {
        (self.0, self.1)
    }

    #[inline(always)]
    fn put<const N: usize>(&mut self, row: usize, column: usize, activations: &[f32; N]) {
        *part_mut(self.0, row * self.1 + column) = *activations;
    }
}

impl Rows for Multiplied<'_> {
    #[inline(always)]
    fn gates(&self) -> (&[f32], usize) {
        (self.gates, self.width)
    }

    #[inline(always)]
    fn put<const N: usize>(&mut self, row: usize, column: usize, activations: &[f32; N]) {
        let up = part_mut::<_, N>(self.up, row * self.width + column);
        for (up, a) in up.iter_mut().zip(activations) {
            *up *= a;
        }
    }
}

impl Rows for Placed<'_> {
    #[inline(always)]
    fn gates(&self) -> (&[f32], usize) {
        (self.gates, self.width)
    }

    #[inline(always)]
    fn put<const N: usize>(&mut self, row: usize, column: usize, activations: &[f32; N]) {
        // Read as a whole before anything is written: the compiler cannot know that the places are others.
        let mut product = *part::<_, N>(self.up, row * self.width + column);
        for (h, a) in product.iter_mut().zip(activations) {
            *h *= a;
        }
        self.to.put(row, self.column + column, &product);
    }
}

/// `N` values from a place on: of a length that the compiler knows, they are registers.
#[inline(always)]
fn part<T, const N: usize>(values: &[T], start: usize) -> &[T; N] {
    values[start..].first_chunk().expect("the columns lie in the row")
}

/// The same, to be written to.
#[inline(always)]
fn part_mut<T, const N: usize>(values: &mut [T], start: usize) -> &mut [T; N] {
    values[start..].first_chunk_mut().expect("the columns lie in the row")
}

vectorised! {
    fn sum(act: Activation, gate: &[f32], width: usize, sums: &mut Sums) {
        add_rows(act, Seen(gate, width), 0, sums);
    }
}

vectorised! {
    fn multiply_and_sum(act: Activation, up: &mut [f32], gate: &[f32], width: usize, sums: &mut Sums) {
        add_rows(act, Multiplied { gates: gate, up, width }, 0, sums);
    }
}

vectorised! {
    fn replace_and_sum(act: Activation, gate: &mut [f32], width: usize, sums: &mut Sums) {
        add_rows(act, Replaced(gate, width), 0, sums);
    }
}

vectorised! {
    fn place_and_sum(act: Activation, rows: Placed<'_>, sums: &mut Sums) {
        let first = rows.column;
        add_rows(act, rows, first, sums);
    }
}

/// Adds the rows of one run, whose column 0 is neuron `neuron`, to the sums.
#[inline(always)]
fn add_rows(act: Activation, mut rows: impl Rows, neuron: usize, sums: &mut Sums) {
    let (gates, width) = rows.gates();
    let count = gates.len() / width;
    for tile in (0..width).step_by(TILE) {
        let end = width.min(tile + TILE);
        let whole = tile..end - (end - tile) % LANES;
        let few = whole.end..end - (end - tile) % LANES % FEW;
        for first in (0..count).step_by(NARROW) {
            let tokens = first..count.min(first + NARROW);
            for column in whole.clone().step_by(LANES) {
                add_part::<LANES>(act, &mut rows, tokens.clone(), column, neuron, sums);
            }
            for column in few.clone().step_by(FEW) {
                add_part::<FEW>(act, &mut rows, tokens.clone(), column, neuron, sums);
            }
            for column in few.end..end {
                add_part::<1>(act, &mut rows, tokens.clone(), column, neuron, sums);
            }
        }
    }
}

/// Adds at most [`NARROW`] tokens of `N` neurons, the first in column `column`. Column 0 of the rows is neuron `neuron`.
#[inline(always)]
fn add_part<const N: usize>(
    act: Activation,
    rows: &mut impl Rows,
    tokens: Range<usize>,
    column: usize,
    neuron: usize,
    sums: &mut Sums,
) {
    let mut active = [0u32; N];
    let (mut sum, mut sum_sq, mut max) = ([0f32; N], [0f32; N], [f32::NEG_INFINITY; N]);
    for row in tokens {
        let (gates, width) = rows.gates();
        let gate = *part::<_, N>(gates, row * width + column);
        let mut activation = [0f32; N];
        act.values(&gate, &mut activation);
        for i in 0..N {
            // A run has at most 64 tokens; a checked sum would branch at every neuron.
            active[i] = active[i].wrapping_add(u32::from(gate[i] > 0.0));
            sum[i] += activation[i];
            sum_sq[i] = activation[i].mul_add(activation[i], sum_sq[i]);
            max[i] = larger(max[i], activation[i]);
        }
        rows.put(row, column, &activation);
    }
    let first = neuron + column;
    for (total, n) in part_mut::<_, N>(&mut sums.active, first).iter_mut().zip(active) {
        *total = total.wrapping_add(n);
    }
    for (total, value) in part_mut::<_, N>(&mut sums.sum, first).iter_mut().zip(sum) {
        *total += f64::from(value);
    }
    for (total, value) in part_mut::<_, N>(&mut sums.sum_sq, first).iter_mut().zip(sum_sq) {
        *total += f64::from(value);
    }
    for (total, value) in part_mut::<_, N>(&mut sums.max, first).iter_mut().zip(max) {
        *total = larger(*total, value);
    }
}

impl Sums {
    /// Of no tokens.
    pub fn empty(width: usize) -> Self {
        Self {
            active: vec![0; width],
            sum: vec![0.0; width],
            sum_sq: vec![0.0; width],
            max: vec![f32::NEG_INFINITY; width],
        }
    }

    /// Of gates `[tokens, width]`.
    pub fn new(act: Activation, width: usize, gate: &[f32]) -> Self {
        let mut sums = Self::empty(width);
        sum(act, gate, width, &mut sums);
        sums
    }

    /// Of gates `[tokens, width]`, whose activations are multiplied onto `up`.
    pub fn with_product(act: Activation, width: usize, up: &mut [f32], gate: &[f32]) -> Self {
        let mut sums = Self::empty(width);
        multiply_and_sum(act, up, gate, width, &mut sums);
        sums
    }

    /// Of gates `[tokens, width]`, in whose place their activations are put.
    pub fn replacing(act: Activation, width: usize, gate: &mut [f32]) -> Self {
        let mut sums = Self::empty(width);
        replace_and_sum(act, gate, width, &mut sums);
        sums
    }

    /// Adds gates `[tokens, neurons]` of some of the neurons, the first of which is a multiple of eight; their activations times `up`
    /// become hidden units, all of which are written.
    pub fn add_product(&mut self, act: Activation, neurons: Range<usize>, [gates, up]: [&[f32]; 2], to: Hidden<'_>) {
        let (width, column) = (neurons.len(), neurons.start);
        place_and_sum(act, Placed { gates, up, width, to, column }, self);
    }
}

impl Tally {
    /// Adds the sums of the runs of one feed-forward network, each with its fold, in the order of their tokens.
    pub(super) fn add(&mut self, ffn: usize, width: usize, runs: Vec<(usize, Sums)>) {
        if !self.wants(ffn) {
            return;
        }
        let Some(runs) = self.put_aside(ffn, runs) else { return };
        let at = ffn * width..(ffn + 1) * width;
        for (fold, sums) in runs {
            for (total, n) in self.active[fold][at.clone()].iter_mut().zip(&sums.active) {
                *total += u64::from(*n);
            }
            for (total, value) in self.sum[at.clone()].iter_mut().zip(&sums.sum) {
                *total += value;
            }
            for (total, value) in self.sum_sq[at.clone()].iter_mut().zip(&sums.sum_sq) {
                *total += value;
            }
            for (total, value) in self.max[at.clone()].iter_mut().zip(&sums.max) {
                *total = total.max(*value);
            }
        }
        self.has_counted(ffn);
    }
}
