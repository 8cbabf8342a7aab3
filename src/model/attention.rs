//! Causal self-attention with grouped heads.

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, CustomOp3, D, DType, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{
    Path,
    linear::Linear,
    matrix::{Matrix, filled, multiply, overwritten, slice},
    rope::Rotary,
    simd::{exp, vectorised},
};

/// The four projections around scaled dot-product attention (Vaswani et al. 2017, arXiv 1706.03762).
pub struct Attention {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub query: Linear,
    pub key: Linear,
    pub value: Linear,
    pub output: Linear,
}

impl Attention {
    /// `[batch, seq, hidden]` to `[batch, seq, hidden]`.
    pub fn forward(&self, x: &Tensor, rotary: &Rotary, path: Path) -> Result<Tensor> {
        let (batch, seq, _) = x.dims3()?;
        let split = |y: Tensor, heads: usize| y.reshape((batch, seq, heads, self.head_dim));
        let query = rotary.turn(&split(self.query.forward(x)?, self.heads)?, path)?;
        let key = rotary.turn(&split(self.key.forward(x)?, self.kv_heads)?, path)?;
        let value = split(self.value.forward(x)?, self.kv_heads)?;
        let fused = path == Path::Inference && x.device().is_cpu() && x.dtype() == DType::F32;
        // [batch, seq, heads, head_dim]
        let mixed = if fused { query.apply_op3_no_bwd(&key, &value, &Causal)? } else { plain(&query, &key, &value)? };
        self.output.forward(&mixed.reshape((batch, seq, ()))?)
    }
}

/// By differentiable operators: query `[batch, seq, heads, dim]`, key and value `[batch, seq, kv_heads, dim]`.
fn plain(query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor> {
    let (batch, seq, heads, dim) = query.dims4()?;
    let kv_heads = key.dim(2)?;
    let shared = |x: &Tensor| {
        let x = x.transpose(1, 2)?.unsqueeze(2)?;
        x.expand((batch, kv_heads, heads / kv_heads, seq, dim))?.contiguous()?.reshape((batch, heads, seq, dim))
    };
    let query = query.transpose(1, 2)?.contiguous()?;
    let (key, value) = (shared(key)?, shared(value)?);
    let scores = (query.matmul(&key.t()?)? * scale(dim))?;
    let mask: Vec<f32> =
        (0..seq).flat_map(|i| (0..seq).map(move |j| if j > i { f32::NEG_INFINITY } else { 0.0 })).collect();
    let mask = Tensor::from_vec(mask, (seq, seq), query.device())?.to_dtype(query.dtype())?;
    let weights = candle_nn::ops::softmax(&scores.broadcast_add(&mask)?, D::Minus1)?;
    weights.matmul(&value)?.transpose(1, 2)?.contiguous()
}

fn scale(dim: usize) -> f64 {
    1.0 / (dim as f64).sqrt()
}

/// Queries that one task takes: their scores against a window of 2,048 fit into the second-level cache.
const QUERIES: usize = 64;

/// The same on the CPU, block of queries by block of queries, so that the masked half is never computed and no matrix of
/// seq × seq scores is written.
struct Causal;

/// Sizes of one call.
#[derive(Clone, Copy)]
struct Sizes {
    heads: usize,
    kv_heads: usize,
    dim: usize,
}

impl CustomOp3 for Causal {
    fn name(&self) -> &'static str {
        "causal-attention"
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
        let (_, seq, heads, dim) = query_layout.shape().dims4()?;
        let (_, _, kv_heads, _) = key_layout.shape().dims4()?;
        let sizes = Sizes { heads, kv_heads, dim };
        let query = slice(query, query_layout)?;
        let (key, value) = (slice(key, key_layout)?, slice(value, value_layout)?);
        let (row, kv_row) = (heads * dim, kv_heads * dim);
        let mixed = filled(query.len(), |mixed| {
            let windows = mixed.chunks_mut(seq * row).enumerate();
            let mut blocks: Vec<_> = windows
                .flat_map(|(window, out)| {
                    out.chunks_mut(QUERIES * row).enumerate().map(move |(i, out)| (window, i, out))
                })
                .collect();
            // The longest rows first, so that no thread is left alone with them at the end.
            blocks.sort_by_key(|(_, i, _)| std::cmp::Reverse(*i));
            blocks.into_par_iter().for_each_init(Vec::new, |scores, (window, i, out)| {
                let start = window * seq + i * QUERIES;
                let query = &query[start * row..][..out.len()];
                let kv = window * seq * kv_row..(window + 1) * seq * kv_row;
                sizes.block(i * QUERIES, query, &key[kv.clone()], &value[kv], out, scores);
            });
        });
        Ok((CpuStorage::F32(mixed), query_layout.shape().clone()))
    }
}

impl Sizes {
    /// Attention of a few consecutive queries, the first at position `first`, over the keys and values of their window.
    fn block(
        self,
        first: usize,
        query: &[f32],
        key: &[f32],
        value: &[f32],
        out: &mut [MaybeUninit<f32>],
        scores: &mut Vec<f32>,
    ) {
        let Self { heads, kv_heads, dim } = self;
        let (row, kv_row) = (heads * dim, kv_heads * dim);
        let queries = query.len() / row;
        let keys = first + queries;
        scores.resize(queries * keys, 0.0);
        for head in 0..heads {
            let (q, kv) = (head * dim, head / (heads / kv_heads) * dim);
            let at = |offset, rows, columns| Matrix { offset, rows, columns };
            // [queries, keys] = query [queries, dim] · key [keys, dim]ᵀ
            multiply(
                [queries, keys, dim],
                (overwritten(scores), at(0, keys, 1)),
                (query, at(q, row, 1)),
                (key, at(kv, 1, kv_row)),
            );
            for (i, scores) in scores.chunks_exact_mut(keys).enumerate() {
                softmax(scores, first + i + 1, scale(dim) as f32);
            }
            // [queries, dim] = weights [queries, keys] · value [keys, dim]
            multiply([queries, dim, keys], (out, at(q, row, 1)), (scores, at(0, keys, 1)), (value, at(kv, kv_row, 1)));
        }
    }
}

vectorised! {
    /// Softmax of the first `seen` scores, times `scale`; the rest, which lie in the future, become 0.
    fn softmax(scores: &mut [f32], seen: usize, scale: f32) {
        let (scores, future) = scores.split_at_mut(seen);
        future.fill(0.0);
        let max = max(scores);
        for s in scores.iter_mut() {
            *s = exp((*s - max) * scale);
        }
        let inverse = 1.0 / sum(scores);
        for s in scores.iter_mut() {
            *s *= inverse;
        }
    }
}

/// Maximum in sixteen running parts, for vector code.
#[inline(always)]
fn max(values: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (parts, rest) = values.as_chunks::<16>();
    let mut maxima = [f32::NEG_INFINITY; 16];
    for part in parts {
        for (max, &value) in maxima.iter_mut().zip(part) {
            *max = larger(*max, value);
        }
    }
    maxima.iter().chain(rest).fold(f32::NEG_INFINITY, |max, &value| larger(max, value))
}

/// Sum in sixteen running parts: vector code, and less rounding than one part.
#[inline(always)]
fn sum(values: &[f32]) -> f32 {
    let (parts, rest) = values.as_chunks::<16>();
    let mut sums = [0f32; 16];
    for part in parts {
        for (sum, value) in sums.iter_mut().zip(part) {
            *sum += value;
        }
    }
    sums.iter().sum::<f32>() + rest.iter().sum::<f32>()
}
