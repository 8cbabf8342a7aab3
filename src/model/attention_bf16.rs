//! Causal self-attention on the CPU whose products are those of bf16: queries, keys, weights and values are rounded to it, sums and
//! the softmax are f32.

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape};
use rayon::prelude::*;

use super::{
    attention::{Scores, by_blocks},
    bf16::{Kernel, PANEL, Panels, Rows, copy},
    matrix::{overwritten, slice},
};

/// Of query `[batch, seq, heads, dim]`, key and value `[batch, seq, kv_heads, dim]`, all f32.
pub struct Rounded<'a> {
    pub scores: &'a Scores,
}

/// Keys and values of one window and one of their heads, as the products read them.
struct Packed {
    key: Panels,
    value: Panels,
}

/// Sizes of one call.
#[derive(Clone, Copy)]
struct Sizes<'a> {
    scores: &'a Scores,
    kernel: Kernel,
    heads: usize,
    kv_heads: usize,
    dim: usize,
}

impl CustomOp3 for Rounded<'_> {
    fn name(&self) -> &'static str {
        "causal-attention-bf16"
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
        let sizes = Sizes { scores: self.scores, kernel: Kernel::best(), heads, kv_heads, dim };
        let query = slice(query, query_layout)?;
        let (key, value) = (slice(key, key_layout)?, slice(value, value_layout)?);
        let packed: Vec<Packed> = (0..batch * kv_heads)
            .into_par_iter()
            .map(|number| {
                let (window, head) = (number / kv_heads, number % kv_heads);
                let place = |position| ((window * seq + position) * kv_heads + head) * dim;
                Packed {
                    key: Panels::of_rows(seq, dim, |position| &key[place(position)..][..dim]),
                    value: Panels::of_columns(dim, seq, |position| &value[place(position)..][..dim]),
                }
            })
            .collect();
        let row = heads * dim;
        // SAFETY: a product writes each head of each query of its block.
        #[allow(unsafe_code)]
        let mixed = unsafe {
            by_blocks(query.len(), seq, row, |window, first, out, scores| {
                let query = &query[(window * seq + first) * row..][..out.len()];
                sizes.block(first, query, &packed[window * kv_heads..][..kv_heads], out, scores);
            })
        };
        Ok((CpuStorage::F32(mixed), query_layout.shape().clone()))
    }
}

impl Sizes<'_> {
    /// Attention of a few consecutive queries, the first at position `first`.
    fn block(
        self,
        first: usize,
        query: &[f32],
        packed: &[Packed],
        out: &mut [MaybeUninit<f32>],
        scores: &mut Vec<f32>,
    ) {
        let Self { heads, kv_heads, dim, kernel, .. } = self;
        let row = heads * dim;
        let queries = query.len() / row;
        let window = |position: usize| self.scores.window.map_or(0, |window| (position + 1).saturating_sub(window));
        // Whole panels of keys: those that no query of the block sees get no weight.
        let panels = window(first) / PANEL..(first + queries).div_ceil(PANEL);
        let (from, stride) = (panels.start * PANEL, panels.len() * PANEL);
        for head in 0..heads {
            let Packed { key, value } = &packed[head / (heads / kv_heads)];
            let rows = Rows::of(queries, dim, kernel, |i| &query[i * row + head * dim..][..dim]);
            scores.resize(rows.padded() * stride, 0.0);
            for (i, panel) in panels.clone().enumerate() {
                // SAFETY: a product writes numbers.
                #[allow(unsafe_code)]
                let to = unsafe { overwritten(scores) };
                rows.times(key.panel(panel, 0), &mut to[i * PANEL..], stride);
            }
            for (i, scores) in scores.chunks_exact_mut(stride).take(queries).enumerate() {
                let position = first + i;
                let seen = window(position) - from..position + 1 - from;
                scores[..seen.start].fill(0.0);
                scores[seen.end..].fill(0.0);
                self.scores.shape(head, &mut scores[seen]);
            }
            // The values end with the window, and so do the weights that are not 0.
            let inner = first + queries - from;
            let weights = Rows::of(queries, inner, kernel, |i| &scores[i * stride..][..inner]);
            for (i, column) in (0..dim).step_by(PANEL).enumerate() {
                let (panel, column, end) = (value.panel(i, from), head * dim + column, (head + 1) * dim);
                if weights.are_whole() && column + PANEL <= end {
                    weights.times(panel, &mut out[column..], row);
                } else {
                    copy(&weights.product(panel), &mut out[column..], row, PANEL.min(end - column));
                }
            }
        }
    }
}
