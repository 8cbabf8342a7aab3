//! Keys and values of tokens that a model has seen, so that what follows them is run without them.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Mutex,
};

use candle_core::{D, DType, Device, Result, Tensor};

use super::{DecoderSpec, RopeScaling, attention::Scores};

/// What a decoder keeps of some rows of tokens, which may be of different lengths. Begun empty, filled by
/// [`Decoder::extend`](super::Decoder::extend).
#[derive(Clone)]
pub struct Cache {
    rows: Vec<Vec<u32>>,
    /// Per row, the position of every column of the keys; none where another row was longer.
    columns: Vec<Vec<Option<usize>>>,
    /// Per layer, keys and values `[rows, kv_heads, columns, head_dim]`.
    layers: Vec<KeyValue>,
}

#[derive(Clone)]
struct KeyValue {
    key: Tensor,
    value: Tensor,
}

impl Cache {
    /// Of so many rows, none of which holds a token.
    #[must_use]
    pub fn new(rows: usize) -> Self {
        Self { rows: vec![Vec::new(); rows], columns: vec![Vec::new(); rows], layers: Vec::new() }
    }

    /// The tokens of every row.
    #[must_use]
    pub fn rows(&self) -> &[Vec<u32>] {
        &self.rows
    }

    /// Tokens of every row.
    #[must_use]
    pub fn lengths(&self) -> Vec<usize> {
        self.rows.iter().map(Vec::len).collect()
    }

    /// The rows of these numbers, in this order; a number may stand twice.
    ///
    /// # Errors
    /// When there is no such row.
    pub fn select(&self, rows: &[usize]) -> Result<Self> {
        let Some(first) = self.layers.first() else { return Ok(Self::new(rows.len())) };
        let places: Vec<u32> = rows.iter().map(|&row| row as u32).collect();
        let places = Tensor::new(places, first.key.device())?;
        let pick = |x: &Tensor| x.index_select(&places, 0);
        let layer = |layer: &KeyValue| Ok(KeyValue { key: pick(&layer.key)?, value: pick(&layer.value)? });
        Ok(Self {
            rows: rows.iter().map(|&row| self.rows[row].clone()).collect(),
            columns: rows.iter().map(|&row| self.columns[row].clone()).collect(),
            layers: self.layers.iter().map(layer).collect::<Result<_>>()?,
        })
    }

    /// Whether a row that is here outgrows a window of pre-training beyond which all its keys are turned otherwise.
    pub(super) fn stretches(&self, spec: &DecoderSpec, new: &[&[u32]]) -> bool {
        let longest = spec.ropes.iter().filter_map(|rope| match rope.scaling {
            RopeScaling::LongRope { original_positions, .. } => Some(original_positions),
            _ => None,
        });
        let outgrows = |bound: usize| {
            let mut rows = self.rows.iter().zip(new);
            rows.any(|(old, new)| (1..=bound).contains(&old.len()) && old.len() + new.len() > bound)
        };
        longest.into_iter().any(outgrows)
    }

    /// Adds tokens, and gives what the layers need to run them. Positions of padding stay below `known`.
    pub(super) fn take(
        &mut self,
        spec: &DecoderSpec,
        new: &[&[u32]],
        known: Option<usize>,
        dtype: DType,
        device: &Device,
    ) -> Result<Past> {
        if new.len() != self.rows.len() {
            candle_core::bail!("{} rows cannot extend a cache of {}", new.len(), self.rows.len());
        }
        let most = new.iter().map(|row| row.len()).max().unwrap_or(0);
        let before = self.lengths();
        let mut positions = Vec::with_capacity(new.len());
        for ((row, columns), (tokens, &start)) in
            self.rows.iter_mut().zip(&mut self.columns).zip(new.iter().zip(&before))
        {
            row.extend_from_slice(tokens);
            columns.extend((0..most).map(|i| (i < tokens.len()).then_some(start + i)));
            let last =
                known.map_or(usize::MAX, |known| known.saturating_sub(1).max((start + tokens.len()).saturating_sub(1)));
            positions.push((0..most).map(|i| (start + i).min(last)).collect::<Vec<_>>());
        }
        let seen = |window: Option<usize>| {
            let value = |(row, i, column): (usize, usize, usize)| {
                let query = before[row] + i;
                // What stands behind a row's end sees itself, so that it is a number at least; nobody sees it.
                let own = column + most == self.columns[row].len() + i;
                let sees = self.columns[row][column]
                    .is_some_and(|key| key <= query && window.is_none_or(|window| query - key < window));
                if sees || own { 0.0 } else { f32::NEG_INFINITY }
            };
            self.table(most, value, device)?.to_dtype(dtype)
        };
        let mut unseen = BTreeMap::new();
        for layer in &spec.layers {
            if let Entry::Vacant(place) = unseen.entry(layer.window) {
                place.insert(seen(layer.window)?);
            }
        }
        let distance = |(row, i, column): (usize, usize, usize)| {
            let key = self.columns[row][column].unwrap_or(before[row] + i);
            (before[row] + i) as f32 - key as f32
        };
        let distances = spec.attention.alibi.then(|| self.table(most, distance, device)).transpose()?;
        let layers = Mutex::new(std::mem::take(&mut self.layers));
        Ok(Past {
            positions,
            lengths: self.lengths(),
            unseen,
            distances,
            fresh: before.iter().all(|&length| length == 0),
            layers,
        })
    }

    /// `[rows, 1, new, columns]`.
    fn table(&self, new: usize, value: impl Fn((usize, usize, usize)) -> f32, device: &Device) -> Result<Tensor> {
        let (rows, columns) = (self.rows.len(), self.columns.first().map_or(0, Vec::len));
        let places = (0..rows).flat_map(|row| (0..new).flat_map(move |i| (0..columns).map(move |c| (row, i, c))));
        Tensor::from_vec(places.map(value).collect::<Vec<f32>>(), (rows, 1, new, columns), device)
    }

    pub(super) fn put(&mut self, past: Past) {
        self.layers = past.layers.into_inner().expect("nobody panicked with it");
    }
}

/// What the layers need to run the tokens that extend some rows.
pub struct Past {
    /// Per row, the position of every new token.
    pub positions: Vec<Vec<usize>>,
    /// Tokens of every row, the new ones among them.
    pub lengths: Vec<usize>,
    /// Per sliding window of some layer, `[rows, 1, new, columns]`: 0 where a query sees a key, −∞ where not.
    unseen: BTreeMap<Option<usize>, Tensor>,
    /// `[rows, 1, new, columns]`: how far a key lies behind a query, where scores depend on it.
    distances: Option<Tensor>,
    /// Whether nothing came before: rows begin at position 0 and padding stands behind them, so that causal attention is all.
    fresh: bool,
    layers: Mutex<Vec<KeyValue>>,
}

impl Past {
    /// Attention of new queries `[rows, new, heads, dim]` over all keys, after the new keys and values `[rows, new, kv_heads, dim]`
    /// were added to the layer's; `rounds` where the factors of products are rounded to bf16.
    pub fn attend(
        &self,
        layer: usize,
        scores: &Scores,
        [query, key, value]: [&Tensor; 3],
        rounds: bool,
    ) -> Result<Tensor> {
        let round = |x: Tensor| self::round(x, rounds);
        let heads_first = |x: &Tensor| round(x.transpose(1, 2)?.contiguous()?);
        let (rows, new, heads, dim) = query.dims4()?;
        let kv_heads = key.dim(2)?;
        let group = heads / kv_heads;
        let KeyValue { key, value } = self.add(layer, heads_first(key)?, heads_first(value)?)?;
        let columns = key.dim(2)?;
        let query = heads_first(query)?.reshape((rows, kv_heads, group * new, dim))?;
        let mut found = (query.matmul(&key.t()?)? * scores.scale)?.reshape((rows, heads, new, columns))?;
        if let Some(cap) = scores.softcap {
            found = ((found / cap)?.tanh()? * cap)?;
        }
        if let (Some(slopes), Some(distances)) = (&scores.slopes, &self.distances) {
            let (dtype, slopes) = (found.dtype(), Tensor::from_slice(slopes, (1, heads, 1, 1), found.device())?);
            // bf16 has no room for distances above 256.
            let bias = slopes.broadcast_mul(distances)?;
            found = (found.to_dtype(DType::F32)? - bias)?.to_dtype(dtype)?;
        }
        let Some(unseen) = self.unseen.get(&scores.window) else {
            candle_core::bail!("no layer has a window of {:?}", scores.window)
        };
        let weights = candle_nn::ops::softmax(&found.broadcast_add(unseen)?, D::Minus1)?;
        let weights = round(weights)?.reshape((rows, kv_heads, group * new, columns))?;
        weights.matmul(&value)?.reshape((rows, heads, new, dim))?.transpose(1, 2)?.contiguous()
    }

    /// Keeps the first keys and values of a layer, whose attention is that of whole windows; false where there are older ones.
    pub fn begin(&self, layer: usize, key: &Tensor, value: &Tensor, rounds: bool) -> Result<bool> {
        if self.fresh {
            let heads_first = |x: &Tensor| self::round(x.transpose(1, 2)?.contiguous()?, rounds);
            self.add(layer, heads_first(key)?, heads_first(value)?)?;
        }
        Ok(self.fresh)
    }

    fn add(&self, layer: usize, key: Tensor, value: Tensor) -> Result<KeyValue> {
        let mut layers = self.layers.lock().expect("nobody panicked with it");
        let Some(old) = layers.get_mut(layer) else {
            layers.push(KeyValue { key, value });
            return Ok(layers[layer].clone());
        };
        *old = KeyValue { key: Tensor::cat(&[&old.key, &key], 2)?, value: Tensor::cat(&[&old.value, &value], 2)? };
        Ok(old.clone())
    }
}

/// As a product of bf16 takes it.
fn round(x: Tensor, rounds: bool) -> Result<Tensor> {
    if rounds { x.to_dtype(DType::BF16)?.to_dtype(DType::F32) } else { Ok(x) }
}
