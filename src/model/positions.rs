//! What a forward pass needs to know of positions: the angles of rotary embeddings, and which keys a query does not see.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use candle_core::{DType, Device, Result, Tensor};

use super::{DecoderSpec, Path, cache::Past, rope::Rotary};

/// Tables for windows of one length, made once for all layers.
pub struct Positions {
    /// One table of angles for each rotary embedding that some layer uses.
    pub ropes: Vec<Arc<Rotary>>,
    /// Per sliding window of some layer, `[seq, seq]`: 0 where a query sees a key, −∞ where not. Empty where a kernel knows.
    unseen: BTreeMap<Option<usize>, Tensor>,
    /// `[seq, seq]`: how far a key lies behind a query, where scores depend on it.
    distances: Option<Tensor>,
    /// What came before, where rows are extended.
    pub past: Option<Past>,
}

impl Positions {
    pub fn new(spec: &DecoderSpec, seq: usize, dtype: DType, device: &Device, path: Path) -> Result<Self> {
        let ropes =
            spec.ropes.iter().map(|rope| Rotary::new(rope, seq, dtype, device).map(Arc::new)).collect::<Result<_>>()?;
        let (mut unseen, mut distances) = (BTreeMap::new(), None);
        // Kernels of our own on NVIDIA's GPUs know who sees whom.
        if path == Path::Portable && !device.is_cuda() {
            for layer in &spec.layers {
                if let Entry::Vacant(place) = unseen.entry(layer.window) {
                    let sees = |i: usize, j: usize| j <= i && layer.window.is_none_or(|window| i - j < window);
                    let value = |i, j| if sees(i, j) { 0.0 } else { f32::NEG_INFINITY };
                    place.insert(table(seq, value, device)?.to_dtype(dtype)?);
                }
            }
            if spec.attention.alibi {
                distances = Some(table(seq, |i, j| i as f32 - j as f32, device)?);
            }
        }
        Ok(Self { ropes, unseen, distances, past: None })
    }

    /// Of tokens that extend rows: the angles of their own positions.
    pub fn behind(spec: &DecoderSpec, past: Past, dtype: DType, device: &Device) -> Result<Self> {
        let rotary = |rope| Rotary::at(rope, &past.positions, &past.lengths, dtype, device).map(Arc::new);
        let ropes = spec.ropes.iter().map(rotary).collect::<Result<_>>()?;
        Ok(Self { ropes, unseen: BTreeMap::new(), distances: None, past: Some(past) })
    }

    /// What is added to the scores of some queries and keys, `[queries, keys]`.
    pub fn unseen(
        &self,
        window: Option<usize>,
        start: usize,
        queries: usize,
        oldest: usize,
        keys: usize,
    ) -> Result<Tensor> {
        let Some(table) = self.unseen.get(&window) else { candle_core::bail!("no layer has a window of {window:?}") };
        table.narrow(0, start, queries)?.narrow(1, oldest, keys)
    }

    /// Distances of some queries and keys, `[queries, keys]`.
    pub fn distances(&self, start: usize, queries: usize, oldest: usize, keys: usize) -> Result<Tensor> {
        let Some(table) = &self.distances else { candle_core::bail!("no layer's scores depend on distances") };
        table.narrow(0, start, queries)?.narrow(1, oldest, keys)
    }
}

fn table(seq: usize, value: impl Fn(usize, usize) -> f32, device: &Device) -> Result<Tensor> {
    let values = (0..seq).flat_map(|i| (0..seq).map(move |j| (i, j))).map(|(i, j)| value(i, j));
    Tensor::from_vec(values.collect::<Vec<_>>(), (seq, seq), device)
}
