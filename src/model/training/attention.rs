//! Causal attention, whose weights are computed again in the backward pass.

use candle_core::{CpuStorage, CustomOp3, Device, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::with;
use crate::model::{
    attention::{Causal, QUERIES, Scores},
    matrix::{Matrix, multiply, multiply_add, overwritten},
    simd::{sum_by_pairs, vectorised},
};

/// Causal attention over query `[batch, seq, heads, dim]`, key and value `[batch, seq, kv_heads, dim]`. The weights of the keys are
/// computed again in the backward pass: they would be the only tensors that grow with the square of the window.
pub struct CausalGradient {
    pub scores: Scores,
}

impl CustomOp3 for CausalGradient {
    fn name(&self) -> &'static str {
        "causal-attention-with-gradient"
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
        Causal { scores: &self.scores }.cpu_fwd(query, query_layout, key, key_layout, value, value_layout)
    }

    fn bwd(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [query, key, value] = self.back([query, key, value], gradient)?;
        Ok((Some(query), Some(key), Some(value)))
    }
}

impl CausalGradient {
    /// The gradients of query, key and value from that of what they give.
    pub fn back(&self, [query, key, value]: [&Tensor; 3], gradient: &Tensor) -> Result<[Tensor; 3]> {
        let (batch, seq, heads, dim) = query.dims4()?;
        let kv_heads = key.dim(2)?;
        let sizes = Sizes { scores: &self.scores, seq, heads, kv_heads, dim };
        let parts = with(query, |query| {
            with(key, |key| {
                with(value, |value| {
                    with(gradient, |gradient| {
                        let tasks: Vec<_> =
                            (0..batch).flat_map(|window| (0..kv_heads).map(move |head| (window, head))).collect();
                        let parts = tasks.into_par_iter().with_max_len(1).map(|(window, head)| {
                            let rows = |x: &'_ [f32]| -> std::ops::Range<usize> {
                                let size = x.len() / batch;
                                window * size..(window + 1) * size
                            };
                            sizes.back(
                                head,
                                &query[rows(query)],
                                &key[rows(key)],
                                &value[rows(value)],
                                &gradient[rows(gradient)],
                            )
                        });
                        Ok(parts.collect::<Vec<_>>())
                    })
                })
            })
        })?;
        let (group, row, kv_row) = (heads / kv_heads, heads * dim, kv_heads * dim);
        let mut d_query = vec![0f32; batch * seq * row];
        let (mut d_key, mut d_value) = (vec![0f32; batch * seq * kv_row], vec![0f32; batch * seq * kv_row]);
        for (i, part) in parts.iter().enumerate() {
            let (window, head) = (i / kv_heads, i % kv_heads);
            for position in 0..seq {
                let token = window * seq + position;
                let own = &part.query[position * group * dim..][..group * dim];
                d_query[token * row + head * group * dim..][..group * dim].copy_from_slice(own);
                let at = token * kv_row + head * dim;
                d_key[at..at + dim].copy_from_slice(&part.key[position * dim..][..dim]);
                d_value[at..at + dim].copy_from_slice(&part.value[position * dim..][..dim]);
            }
        }
        let tensor = |values, like: &Tensor| Tensor::from_vec(values, like.shape(), &Device::Cpu);
        Ok([tensor(d_query, query)?, tensor(d_key, key)?, tensor(d_value, value)?])
    }
}

#[derive(Clone, Copy)]
struct Sizes<'a> {
    scores: &'a Scores,
    seq: usize,
    heads: usize,
    kv_heads: usize,
    dim: usize,
}

/// Gradients of one key's head in one window: query `[seq, group, dim]`, key and value `[seq, dim]`.
struct HeadGradients {
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
}

vectorised! {
    /// From the gradient of the weights to that of the raw products, in place: `p (g − Σ p g)`, times the slope of what was done to them.
    fn softmax_back(weights: &[f32], slopes: &[f32], scale: f32, gradient: &mut [f32]) {
        let along = sum_by_pairs(weights, gradient, |p, g| p * g);
        for (g, p) in gradient.iter_mut().zip(weights) {
            *g = p * (*g - along) * scale;
        }
        for (g, slope) in gradient.iter_mut().zip(slopes) {
            *g *= slope;
        }
    }
}

impl Sizes<'_> {
    fn back(self, kv_head: usize, query: &[f32], key: &[f32], value: &[f32], gradient: &[f32]) -> HeadGradients {
        let Self { scores: rule, seq, heads, kv_heads, dim } = self;
        let (group, row, kv_row) = (heads / kv_heads, heads * dim, kv_heads * dim);
        let mut found = HeadGradients {
            query: vec![0.0; seq * group * dim],
            key: vec![0.0; seq * dim],
            value: vec![0.0; seq * dim],
        };
        let at = |offset, rows, columns| Matrix { offset, rows, columns };
        let (mut weights, mut slopes, mut back) = (Vec::new(), Vec::new(), Vec::new());
        for first in (0..seq).step_by(QUERIES) {
            let queries = QUERIES.min(seq - first);
            let oldest = rule.window.map_or(0, |window| (first + 1).saturating_sub(window));
            let keys = first + queries - oldest;
            weights.resize(queries * keys, 0f32);
            back.resize(queries * keys, 0f32);
            for member in 0..group {
                let head = kv_head * group + member;
                let (q, kv) = (first * row + head * dim, oldest * kv_row + kv_head * dim);
                // [queries, keys] = query · keyᵀ, and the gradient of the weights = gradient · valueᵀ
                // SAFETY: a product writes numbers.
                #[allow(unsafe_code)]
                let (to, to_back) = unsafe { (overwritten(&mut weights), overwritten(&mut back)) };
                let products = [queries, keys, dim];
                multiply(products, (to, at(0, keys, 1)), (query, at(q, row, 1)), (key, at(kv, 1, kv_row)));
                multiply(products, (to_back, at(0, keys, 1)), (gradient, at(q, row, 1)), (value, at(kv, 1, kv_row)));
                for i in 0..queries {
                    let position = first + i;
                    let unseen = rule.window.map_or(0, |window| (position + 1).saturating_sub(window)) - oldest;
                    let seen = unseen..position + 1 - oldest;
                    let (weights, back) = (&mut weights[i * keys..][..keys], &mut back[i * keys..][..keys]);
                    slopes.clear();
                    if let Some(cap) = rule.softcap {
                        // d/ds c tanh(s/c) = 1 − tanh²(s/c)
                        let (cap, scale) = (cap as f32, rule.scale as f32);
                        slopes.extend(weights[seen.clone()].iter().map(|s| {
                            let tanh = (s * scale / cap).tanh();
                            1.0 - tanh * tanh
                        }));
                    }
                    back[..seen.start].fill(0.0);
                    back[seen.end..].fill(0.0);
                    rule.shape(head, weights, keys, [position, oldest]);
                    softmax_back(&weights[seen.clone()], &slopes, rule.scale as f32, &mut back[seen]);
                }
                // value += weightsᵀ · gradient, key += backᵀ · query, query = back · key
                let own = at(oldest * dim, dim, 1);
                let turned = [keys, dim, queries];
                multiply_add(turned, (&mut found.value, own), (&weights, at(0, 1, keys)), (gradient, at(q, row, 1)));
                multiply_add(turned, (&mut found.key, own), (&back, at(0, 1, keys)), (query, at(q, row, 1)));
                multiply_add(
                    [queries, dim, keys],
                    (&mut found.query, at(first * group * dim + member * dim, group * dim, 1)),
                    (&back, at(0, keys, 1)),
                    (key, at(kv, kv_row, 1)),
                );
            }
        }
        found
    }
}
