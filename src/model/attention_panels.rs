//! Causal self-attention on the CPU by kernels of our own: keys and values are laid out once for all the queries that see them. The
//! softmax is f32, whatever queries, keys, weights and values are rounded to for their products.

use std::{borrow::Cow, marker::PhantomData, mem::MaybeUninit};

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape};
use rayon::prelude::*;

use super::{
    attention::{Scores, by_blocks},
    matrix::{filled, overwritten, slice, write},
    panels::PANEL,
    training::Turn,
};

/// Weights `[out, in]` in panels of 64 output columns, and rows of the other factor, as the kernel of one number format reads them.
pub(super) trait Factors: Sized + Send + Sync {
    /// The name of attention by such products.
    const NAME: &'static str;
    /// Queries whose weights are multiplied with the values together: with those up to the last that one of them sees.
    const QUERIES: usize;
    /// What panels are made of.
    type Line;
    /// Rows of the other factor.
    type Rows<'x>;

    /// Of the rows of `[out, in]`, on this thread.
    fn of_rows<'a>(out: usize, inner: usize, row: impl Fn(usize) -> &'a [f32]) -> Self;

    /// Of the rows of the transposed, `[in, out]`, on this thread.
    fn of_columns<'a>(out: usize, inner: usize, column: impl Fn(usize) -> &'a [f32]) -> Self;

    /// One panel from an inner value on, which is a multiple of 32.
    fn panel(&self, number: usize, inner: usize) -> &[Self::Line];

    /// Rows `[tokens, in]` that are `stride` apart.
    fn rows(x: &[f32], stride: usize, shape: [usize; 2]) -> Self::Rows<'_>;

    /// How many rows there are.
    fn tokens(rows: &Self::Rows<'_>) -> usize;

    /// How many rows a product writes.
    fn padded(rows: &Self::Rows<'_>) -> usize;

    /// The product of rows with one panel into rows that are `stride` apart; writes 64 values of every row, the padding among them.
    fn whole(rows: &Self::Rows<'_>, panel: &[Self::Line], to: &mut [MaybeUninit<f32>], stride: usize);

    /// The first `width` columns of it, and no padding.
    fn times(rows: &Self::Rows<'_>, panel: &[Self::Line], to: &mut [MaybeUninit<f32>], stride: usize, width: usize) {
        let (tokens, padded) = (Self::tokens(rows), Self::padded(rows));
        if width == PANEL && tokens == padded {
            return Self::whole(rows, panel, to, stride);
        }
        // SAFETY: the product writes all rows.
        #[allow(unsafe_code)]
        let product = unsafe { filled(padded * PANEL, |to| Self::whole(rows, panel, to, PANEL)) };
        for (to, product) in to.chunks_mut(stride).zip(product.chunks_exact(PANEL)).take(tokens) {
            write(&product[..width], &mut to[..width]);
        }
    }
}

/// Of query `[batch, seq, heads, dim]`, key and value `[batch, seq, kv_heads, dim]`, all f32, by products of such factors.
pub struct InPanels<'a, F> {
    scores: &'a Scores,
    turn: Option<Turn>,
    factors: PhantomData<F>,
}

impl<'a, F> InPanels<'a, F> {
    /// `turn` turns queries and keys by their positions, if they still have to be.
    pub fn new(scores: &'a Scores, turn: Option<Turn>) -> Self {
        Self { scores, turn, factors: PhantomData }
    }

    /// Rows of heads `[tokens, heads · dim]` that are `stride` apart, the first at position `first`, turned, and how far apart they
    /// then are.
    fn turned<'x>(&self, x: &'x [f32], [row, stride, dim]: [usize; 3], first: usize) -> (Cow<'x, [f32]>, usize) {
        let Some(turn) = &self.turn else { return (Cow::Borrowed(x), stride) };
        let tokens = (x.len() - row) / stride + 1;
        let fill = |y: &mut [MaybeUninit<f32>]| {
            for (i, (x, y)) in x.chunks(stride).zip(y.chunks_exact_mut(row)).enumerate() {
                turn.heads(&x[..row], y, dim, first + i);
            }
        };
        // SAFETY: every head of every token is written.
        #[allow(unsafe_code)]
        (Cow::Owned(unsafe { filled(tokens * row, fill) }), row)
    }
}

/// Keys and values of one window and one of their heads.
struct Packed<F> {
    key: F,
    value: F,
}

/// Sizes of one call.
#[derive(Clone, Copy)]
struct Sizes<'a> {
    scores: &'a Scores,
    heads: usize,
    kv_heads: usize,
    dim: usize,
}

impl<F: Factors> CustomOp3 for InPanels<'_, F> {
    fn name(&self) -> &'static str {
        F::NAME
    }

    fn cpu_fwd(
        &self,
        query: &CpuStorage,
        query_layout: &Layout,
        key: &CpuStorage,
        key_layout: &Layout,
        value: &CpuStorage,
        value_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (batch, seq, heads, dim) = query_layout.shape().dims4()?;
        let (_, _, kv_heads, _) = key_layout.shape().dims4()?;
        let sizes = Sizes { scores: self.scores, heads, kv_heads, dim };
        let query = slice(query, query_layout)?;
        let (key, value) = (slice(key, key_layout)?, slice(value, value_layout)?);
        let packed: Vec<Packed<F>> = (0..batch * kv_heads)
            .into_par_iter()
            .map(|number| {
                let (window, head) = (number / kv_heads, number % kv_heads);
                let row = kv_heads * dim;
                let own = window * seq * row + head * dim..(window + 1) * seq * row;
                let (key, value) = (&key[own.clone()], &value[own]);
                let (turned, stride) = self.turned(key, [dim, row, dim], 0);
                Packed {
                    key: F::of_rows(seq, dim, |position| &turned[position * stride..][..dim]),
                    value: F::of_columns(dim, seq, |position| &value[position * row..][..dim]),
                }
            })
            .collect();
        let row = heads * dim;
        // SAFETY: a product writes each head of each query of its block.
        #[allow(unsafe_code)]
        let mixed = unsafe {
            by_blocks(query.len(), seq, row, |window, first, out| {
                let query = &query[(window * seq + first) * row..][..out.len()];
                let (query, _) = self.turned(query, [row, row, dim], first);
                sizes.block(first, &query, &packed[window * kv_heads..][..kv_heads], out);
            })
        };
        Ok((CpuStorage::F32(mixed), query_layout.shape().clone()))
    }
}

impl Sizes<'_> {
    /// Attention of a few consecutive queries, the first at position `first`.
    fn block<F: Factors>(self, first: usize, query: &[f32], packed: &[Packed<F>], out: &mut [MaybeUninit<f32>]) {
        let Self { heads, kv_heads, dim, .. } = self;
        let row = heads * dim;
        let queries = query.len() / row;
        let oldest = self.scores.window.map_or(0, |window| (first + 1).saturating_sub(window));
        // Whole panels of keys: those that no query of the block sees get no weight.
        let panels = oldest / PANEL..(first + queries).div_ceil(PANEL);
        let (from, stride) = (panels.start * PANEL, panels.len() * PANEL);
        let mut scores = Vec::new();
        for head in 0..heads {
            let Packed { key, value } = &packed[head / (heads / kv_heads)];
            let rows = F::rows(&query[head * dim..], row, [queries, dim]);
            scores.resize(F::padded(&rows) * stride, 0.0);
            for (i, panel) in panels.clone().enumerate() {
                // SAFETY: a product writes numbers.
                #[allow(unsafe_code)]
                let to = unsafe { overwritten(&mut scores) };
                F::whole(&rows, key.panel(panel, 0), &mut to[i * PANEL..], stride);
            }
            let (scores, mut out) = (&mut scores[..queries * stride], &mut out[..]);
            self.scores.shape(head, scores, stride, [first, from]);
            for (i, scores) in scores.chunks(F::QUERIES * stride).enumerate() {
                let queries = scores.len() / stride;
                // The values end with the window, and so do the weights that are not 0.
                let seen = first + i * F::QUERIES + queries - from;
                let weights = F::rows(scores, stride, [queries, seen]);
                for (i, column) in (0..dim).step_by(PANEL).enumerate() {
                    let to = &mut out[head * dim + column..];
                    F::times(&weights, value.panel(i, from), to, row, PANEL.min(dim - column));
                }
                out = &mut out[queries * row..];
            }
        }
    }
}
