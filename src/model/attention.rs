//! Causal self-attention with grouped heads.

use std::{mem::MaybeUninit, sync::Arc};

use candle_core::{CpuStorage, CustomOp3, D, DType, Device, Layout, Result, Shape, Tensor};

use super::{
    Path,
    attention_panels::InPanels,
    avx512, bf16,
    linear::Linear,
    matrix::{Matrix, filled, multiply, overwritten, slice},
    norm::Norm,
    panels::in_order,
    positions::Positions,
    rope::Rotary,
    softmax::{Seen, softmax},
    training::{CausalGradient, has_kernels},
};

/// The four projections around scaled dot-product attention (Vaswani et al. 2017, arXiv 1706.03762).
pub struct Attention {
    pub layer: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub query: Linear,
    pub key: Linear,
    pub value: Linear,
    pub output: Linear,
    pub query_key_norm: Option<QueryKey>,
    pub scores: Scores,
}

/// The norms of queries and keys.
pub struct QueryKey {
    pub query: Norm,
    pub key: Norm,
    /// Over the whole vector instead of head by head.
    pub whole: bool,
}

/// What becomes of the scores before their softmax.
#[derive(Clone)]
pub struct Scores {
    /// Their factor.
    pub scale: f64,
    /// `c · tanh(s / c)`.
    pub softcap: Option<f64>,
    /// Tokens that a query sees, itself among them.
    pub window: Option<usize>,
    /// A head's slope times the key's distance is taken off.
    pub slopes: Option<Vec<f32>>,
}

impl Attention {
    /// What the output projection is given: `norm(x) [batch, seq, hidden]` to `[batch, seq, heads · head_dim]`.
    pub fn mix(
        &self,
        x: &Tensor,
        norm: Option<&Norm>,
        rotary: Option<&Arc<Rotary>>,
        positions: &Positions,
        path: Path,
    ) -> Result<Tensor> {
        let (batch, seq, _) = x.dims3()?;
        let split = |y: Tensor, heads: usize| y.reshape((batch, seq, heads, self.head_dim));
        let [mut query, mut key, value] = Linear::together([&self.query, &self.key, &self.value], x, norm)?;
        let whole = self.query_key_norm.as_ref().filter(|norms| norms.whole);
        if let Some(norms) = whole {
            (query, key) = (norms.query.forward(&query)?, norms.key.forward(&key)?);
        }
        (query, key) = (split(query, self.heads)?, split(key, self.kv_heads)?);
        let by_head = self.query_key_norm.as_ref().filter(|norms| !norms.whole);
        if let Some(norms) = by_head {
            (query, key) = (norms.query.forward(&query)?, norms.key.forward(&key)?);
        }
        let value = split(value, self.kv_heads)?;
        #[cfg(feature = "cuda")]
        if positions.past.is_none() {
            use super::gpu::{
                attention::{Attend, attend},
                fits,
            };
            let mixed = match path {
                Path::Portable if on_gpu(&query) => {
                    Some(attend(&self.scores, rotary.map(|rotary| &**rotary), &query, &key, &value)?)
                }
                Path::Training if fits(&query) => Some(Attend::over(&self.scores, rotary, &query, &key, &value)?),
                _ => None,
            };
            if let Some(mixed) = mixed {
                return mixed.reshape((batch, seq, ()));
            }
        }
        let in_panels =
            path == Path::Inference && (self.query.rounds() || query.dtype() == DType::F32 && avx512::is_there());
        let mut turn = None;
        if let Some(rotary) = rotary {
            // What is kept for later tokens is kept turned.
            turn = if in_panels && positions.past.is_none() { rotary.in_hand(&query, path)? } else { None };
            if turn.is_none() {
                (query, key) = (rotary.turn(&query, path)?, rotary.turn(&key, path)?);
            }
        }
        // [batch, seq, heads, head_dim]
        let mixed = match path {
            _ if !self.whole(positions, &key, &value, path)? => {
                let past = positions.past.as_ref().expect("windows without a past are whole");
                past.attend(self.layer, &self.scores, [&query, &key, &value], self.query.rounds())?
            }
            Path::Inference if self.query.rounds() => {
                let op = InPanels::<bf16::Panels>::new(&self.scores, turn);
                query.contiguous()?.apply_op3_no_bwd(&key.contiguous()?, &value, &op)?
            }
            Path::Inference if in_panels => {
                let op = InPanels::<avx512::Factor>::new(&self.scores, turn);
                query.contiguous()?.apply_op3_no_bwd(&key.contiguous()?, &value, &op)?
            }
            Path::Inference if x.dtype() == DType::F32 => {
                query.contiguous()?.apply_op3_no_bwd(&key.contiguous()?, &value, &Causal { scores: &self.scores })?
            }
            Path::Inference | Path::Portable => self.scores.fused(&query, &key, &value, positions)?,
            Path::Training if has_kernels(x) => {
                let op = CausalGradient { scores: self.scores.clone() };
                query.contiguous()?.apply_op3(&key.contiguous()?, &value.contiguous()?, op)?
            }
            Path::Differentiable | Path::Training => self.scores.plain(&query, &key, &value)?,
        };
        mixed.reshape((batch, seq, ()))
    }
}

/// Whether kernels of our own do it, and not fused attention that was compiled in.
#[cfg(feature = "cuda")]
fn on_gpu(query: &Tensor) -> bool {
    #[cfg(feature = "flash-attn")]
    if flashes(query) {
        return false;
    }
    super::gpu::fits(query)
}

/// Whether `FlashAttention` knows such queries `[batch, seq, heads, dim]`.
#[cfg(feature = "flash-attn")]
fn flashes(query: &Tensor) -> bool {
    let dim = query.dims().last().copied().unwrap_or_default();
    matches!(query.dtype(), DType::BF16 | DType::F16) && dim % 8 == 0 && dim <= 256
}

impl Attention {
    /// Whether these are windows from their first token on, whose attention is that of the kernels. Their keys and values are kept
    /// where somebody will want them.
    fn whole(&self, positions: &Positions, key: &Tensor, value: &Tensor, path: Path) -> Result<bool> {
        match &positions.past {
            None => Ok(true),
            Some(past) => Ok(path == Path::Inference && past.begin(self.layer, key, value, self.query.rounds())?),
        }
    }
}

impl Scores {
    /// By differentiable operators: query `[batch, seq, heads, dim]`, key and value `[batch, seq, kv_heads, dim]`.
    fn plain(&self, query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor> {
        let (batch, seq, heads, dim) = query.dims4()?;
        let kv_heads = key.dim(2)?;
        let shared = |x: &Tensor| {
            let x = x.transpose(1, 2)?.unsqueeze(2)?;
            x.expand((batch, kv_heads, heads / kv_heads, seq, dim))?.contiguous()?.reshape((batch, heads, seq, dim))
        };
        let query = query.transpose(1, 2)?.contiguous()?;
        let (key, value) = (shared(key)?, shared(value)?);
        let mut scores = (query.matmul(&key.t()?)? * self.scale)?;
        if let Some(cap) = self.softcap {
            scores = ((scores / cap)?.tanh()? * cap)?;
        }
        let bias = self.bias(heads, seq, query.device())?.to_dtype(query.dtype())?;
        let weights = candle_nn::ops::softmax(&scores.broadcast_add(&bias)?, D::Minus1)?;
        weights.matmul(&value)?.transpose(1, 2)?.contiguous()
    }

    /// By fused operators that every device has.
    fn fused(&self, query: &Tensor, key: &Tensor, value: &Tensor, positions: &Positions) -> Result<Tensor> {
        #[cfg(feature = "flash-attn")]
        if flashes(query) {
            return self.flash(query, key, value);
        }
        self.in_blocks(query, key, value, positions)
    }

    /// By `FlashAttention` (Dao 2023, arXiv 2307.08691).
    #[cfg(feature = "flash-attn")]
    fn flash(&self, query: &Tensor, key: &Tensor, value: &Tensor) -> Result<Tensor> {
        use candle_flash_attn::{flash_attn_alibi_windowed, flash_attn_alibi_windowed_softcap, flash_attn_windowed};
        let (query, key, value) = (query.contiguous()?, key.contiguous()?, value.contiguous()?);
        // Keys to the left of the query's own.
        let (before, scale) = (self.window.map(|window| window - 1), self.scale as f32);
        let slopes = self.slopes.as_ref().map(|slopes| Tensor::new(slopes.as_slice(), query.device())).transpose()?;
        match (self.softcap, &slopes) {
            (Some(cap), slopes) => flash_attn_alibi_windowed_softcap(
                &query,
                &key,
                &value,
                slopes.as_ref(),
                scale,
                before,
                Some(0),
                cap as f32,
            ),
            (None, Some(slopes)) => flash_attn_alibi_windowed(&query, &key, &value, slopes, scale, before, Some(0)),
            (None, None) => flash_attn_windowed(&query, &key, &value, scale, before, Some(0)),
        }
    }

    /// Block of queries by block of queries: keys that no query of a block sees are left out, and no more than [`SCORES`] scores are
    /// held at once. Heads that share a key are multiplied with it together, without a copy of it for each.
    fn in_blocks(&self, query: &Tensor, key: &Tensor, value: &Tensor, positions: &Positions) -> Result<Tensor> {
        let (batch, seq, heads, dim) = query.dims4()?;
        let kv_heads = key.dim(2)?;
        let group = heads / kv_heads;
        let heads_first = |x: &Tensor| x.transpose(1, 2)?.contiguous();
        let (query, key, value) = (heads_first(query)?, heads_first(key)?, heads_first(value)?);
        let slopes = self.slopes.as_ref().map(|slopes| Tensor::from_slice(slopes, (1, heads, 1, 1), query.device()));
        let slopes = slopes.transpose()?;
        let size = (SCORES / (batch * heads * seq)).next_multiple_of(QUERIES).min(seq);
        let blocks = (0..seq).step_by(size).map(|start| {
            let queries = size.min(seq - start);
            let oldest = self.window.map_or(0, |window| (start + 1).saturating_sub(window));
            let keys = start + queries - oldest;
            let (key, value) = (key.narrow(2, oldest, keys)?, value.narrow(2, oldest, keys)?);
            let query =
                query.narrow(2, start, queries)?.contiguous()?.reshape((batch, kv_heads, group * queries, dim))?;
            let mut scores = (query.matmul(&key.t()?)? * self.scale)?.reshape((batch, heads, queries, keys))?;
            if let Some(cap) = self.softcap {
                scores = ((scores / cap)?.tanh()? * cap)?;
            }
            let dtype = scores.dtype();
            if let Some(slopes) = &slopes {
                // bf16 has no room for distances above 256.
                let distances = positions.distances(start, queries, oldest, keys)?;
                scores =
                    scores.to_dtype(DType::F32)?.broadcast_sub(&slopes.broadcast_mul(&distances)?)?.to_dtype(dtype)?;
            }
            let scores = scores.broadcast_add(&positions.unseen(self.window, start, queries, oldest, keys)?)?;
            let weights = candle_nn::ops::softmax_last_dim(&scores)?;
            let weights = weights.reshape((batch, kv_heads, group * queries, keys))?;
            weights.matmul(&value)?.reshape((batch, heads, queries, dim))
        });
        Tensor::cat(&blocks.collect::<Result<Vec<_>>>()?, 2)?.transpose(1, 2)?.contiguous()
    }

    /// What is added to the scores, `[heads or 1, seq, seq]`: −∞ where a query does not see a key.
    fn bias(&self, heads: usize, seq: usize, device: &Device) -> Result<Tensor> {
        let seen = |i: usize, j: usize| j <= i && self.window.is_none_or(|window| i - j < window);
        let slopes = self.slopes.clone().unwrap_or_else(|| vec![0.0]);
        let bias: Vec<f32> = slopes
            .iter()
            .flat_map(|&slope| (0..seq).flat_map(move |i| (0..seq).map(move |j| (slope, i, j))))
            .map(|(slope, i, j)| if seen(i, j) { -slope * (i - j) as f32 } else { f32::NEG_INFINITY })
            .collect();
        debug_assert!(slopes.len() == 1 || slopes.len() == heads);
        Tensor::from_vec(bias, (slopes.len(), seq, seq), device)
    }
}

/// The slopes of ALiBi, one per head (Press et al. 2022, arXiv 2108.12409, and its extension to any number of heads).
pub fn alibi_slopes(heads: usize) -> Vec<f32> {
    let power = heads.next_power_of_two() / if heads.is_power_of_two() { 1 } else { 2 };
    let slope = |base: usize, i: usize| 2f64.powf(-8.0 * i as f64 / base as f64) as f32;
    let between = (0..heads - power).map(|i| slope(2 * power, 2 * i + 1));
    (1..=power).map(|i| slope(power, i)).chain(between).collect()
}

/// Scores that are held at once on a device without fused attention: half a GB in bf16.
const SCORES: usize = 1 << 28;
/// Queries that one task takes: their scores against a window of 2,048 fit into the second-level cache.
pub const QUERIES: usize = 64;

/// The same on the CPU, block of queries by block of queries, so that what no query of a block sees is never computed and no
/// matrix of seq × seq scores is written.
pub struct Causal<'a> {
    pub scores: &'a Scores,
}

/// Values `[tokens, row]` of windows of `seq` tokens, made by all threads a few queries at a time: `block` is given a window's number,
/// the first query's position in it, and the place to fill.
///
/// # Safety
/// `block` fills the whole place.
#[allow(unsafe_code)]
pub unsafe fn by_blocks(
    values: usize,
    seq: usize,
    row: usize,
    block: impl Fn(usize, usize, &mut [MaybeUninit<f32>]) + Send + Sync,
) -> Vec<f32> {
    let fill = |mixed: &mut [MaybeUninit<f32>]| {
        let windows = mixed.chunks_mut(seq * row).enumerate();
        let mut blocks: Vec<_> = windows
            .flat_map(|(window, out)| out.chunks_mut(QUERIES * row).enumerate().map(move |(i, out)| (window, i, out)))
            .collect();
        // The longest rows first, so that no thread is left alone with them at the end.
        blocks.sort_by_key(|(_, i, _)| std::cmp::Reverse(*i));
        in_order(blocks, |(window, i, out)| block(window, i * QUERIES, out));
    };
    // SAFETY: the blocks are all of it, and each is filled, as the caller promises.
    unsafe { filled(values, fill) }
}

/// Sizes of one call.
#[derive(Clone, Copy)]
struct Sizes<'a> {
    scores: &'a Scores,
    heads: usize,
    kv_heads: usize,
    dim: usize,
}

impl CustomOp3 for Causal<'_> {
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
        let sizes = Sizes { scores: self.scores, heads, kv_heads, dim };
        let query = slice(query, query_layout)?;
        let (key, value) = (slice(key, key_layout)?, slice(value, value_layout)?);
        let (row, kv_row) = (heads * dim, kv_heads * dim);
        // SAFETY: a product writes each head of each query of its block.
        #[allow(unsafe_code)]
        let mixed = unsafe {
            by_blocks(query.len(), seq, row, |window, first, out| {
                let query = &query[(window * seq + first) * row..][..out.len()];
                let kv = window * seq * kv_row..(window + 1) * seq * kv_row;
                sizes.block(first, query, &key[kv.clone()], &value[kv], out);
            })
        };
        Ok((CpuStorage::F32(mixed), query_layout.shape().clone()))
    }
}

impl Sizes<'_> {
    /// Attention of a few consecutive queries, the first at position `first`, over the keys and values of their window.
    fn block(self, first: usize, query: &[f32], key: &[f32], value: &[f32], out: &mut [MaybeUninit<f32>]) {
        let Self { heads, kv_heads, dim, .. } = self;
        let (row, kv_row) = (heads * dim, kv_heads * dim);
        let queries = query.len() / row;
        // The first key that the first query sees.
        let oldest = self.scores.window.map_or(0, |window| (first + 1).saturating_sub(window));
        let keys = first + queries - oldest;
        let mut scores = vec![0.0; queries * keys];
        for head in 0..heads {
            let (q, kv) = (head * dim, oldest * kv_row + head / (heads / kv_heads) * dim);
            let at = |offset, rows, columns| Matrix { offset, rows, columns };
            // [queries, keys] = query [queries, dim] · key [keys, dim]ᵀ
            // SAFETY: a product writes numbers.
            #[allow(unsafe_code)]
            let to = (unsafe { overwritten(&mut scores) }, at(0, keys, 1));
            multiply([queries, keys, dim], to, (query, at(q, row, 1)), (key, at(kv, 1, kv_row)));
            self.scores.shape(head, &mut scores, keys, [first, oldest]);
            // [queries, dim] = weights [queries, keys] · value [keys, dim]
            multiply([queries, dim, keys], (out, at(q, row, 1)), (&scores, at(0, keys, 1)), (value, at(kv, kv_row, 1)));
        }
    }
}

impl Scores {
    /// Weights `[queries, keys]` for a head's consecutive queries, in place of their raw products with consecutive keys; the first of
    /// each are at these positions. What a query does not see gets no weight.
    #[allow(clippy::cast_possible_truncation)]
    pub fn shape(&self, head: usize, products: &mut [f32], keys: usize, [query, key]: [usize; 2]) {
        let seen = Seen { query, key, window: self.window };
        let mut scale = self.scale as f32;
        if self.softcap.is_some() || self.slopes.is_some() {
            let cap = self.softcap.map_or(0.0, |cap| cap as f32);
            let slope = self.slopes.as_ref().map_or(0.0, |slopes| slopes[head]);
            for (i, products) in products.chunks_exact_mut(keys).enumerate() {
                let seen = seen.by(i);
                let distance = seen.len();
                for (j, s) in products[seen].iter_mut().enumerate() {
                    *s *= scale;
                    if cap > 0.0 {
                        *s = cap * (*s / cap).tanh();
                    }
                    *s -= slope * (distance - 1 - j) as f32;
                }
            }
            scale = 1.0;
        }
        softmax(products, keys, seen, scale);
    }
}
