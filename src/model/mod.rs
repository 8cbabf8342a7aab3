//! The decoder: one forward pass for every family, with an observer at the gates of its feed-forward networks.
//! In: a checkpoint and windows of token ids. Out: gates to an [`Observer`]; hidden states or logits when asked.

mod activation;
#[cfg(target_arch = "x86_64")]
mod amx;
mod attention;
mod attention_panels;
pub mod avx512;
pub mod bf16;
mod cache;
pub mod cost;
pub mod device;
mod embedding;
mod experts;
pub mod family;
mod feed_forward;
#[cfg(feature = "cuda")]
pub(crate) mod gpu;
mod head;
mod layer;
mod linear;
pub mod loss;
pub(crate) mod matrix;
mod norm;
mod observer;
mod panels;
pub mod patch;
mod positions;
mod residual;
mod rope;
pub(crate) mod simd;
mod single;
mod softmax;
pub mod spec;
mod sums;
mod training;
mod weights;

use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, IndexOp, Result, Tensor};
use rayon::prelude::*;

pub use self::{
    activation::Activation,
    cache::Cache,
    family::Architecture,
    observer::{Observer, Tally, Unobserved},
    patch::{Patch, Projection, Site},
    rope::{RopeScaling, RopeSpec},
    spec::DecoderSpec,
    training::{Activations, UNSCORED},
};
use self::{
    embedding::Embedding, head::Head, layer::Layer, norm::Norm, observer::InOrder, positions::Positions,
    weights::Weights,
};
use crate::checkpoint::{Checkpoint, CheckpointError};

/// Which operators a forward pass uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// Fused operators, without gradients: on the CPU, kernels of our own.
    Inference,
    /// Fused operators that every device has, without gradients: what `Inference` means on a GPU. On the CPU it is there to be tested.
    Portable,
    /// Operators with gradients: the fused ones drop them without a word.
    Differentiable,
    /// The same for training: what is no variable is frozen and has no gradient, which saves half of the backward pass. On the CPU
    /// and on NVIDIA's GPUs, kernels of our own.
    Training,
}

/// A decoder language model, ready to run.
pub struct Decoder {
    spec: DecoderSpec,
    embedding: Embedding,
    layers: Vec<Layer>,
    norm: Norm,
    head: Head,
    path: Path,
}

/// What can be wrong with a model.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The config is of no family that we know, or asks for what we do not compute.
    #[error(transparent)]
    Config(#[from] family::ConfigError),
    /// The files do not fit the config.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A tensor operation failed.
    #[error("the model's arithmetic failed: {0}")]
    Tensor(#[from] candle_core::Error),
}

impl Decoder {
    /// Loads a checkpoint: the config is read and every tensor checked before the first weight moves.
    ///
    /// # Errors
    /// When config and files do not fit one another or this program, or the device has no room.
    pub fn load(
        checkpoint: &Checkpoint,
        dtype: DType,
        device: &Device,
        path: Path,
    ) -> std::result::Result<Self, ModelError> {
        let architecture = family::read(checkpoint)?;
        checkpoint.check(&architecture.tensors(), |name| architecture.ignores(name))?;
        Ok(Self::build(&architecture, path, |name| checkpoint.tensor(name, dtype, device))?)
    }

    /// Builds a decoder from tensors by their checkpoint names; a training run gives its own variables here. Each is asked for once.
    ///
    /// # Errors
    /// When `weight` has no such tensor or it is of another shape.
    pub fn build(architecture: &Architecture, path: Path, weight: impl FnMut(&str) -> Result<Tensor>) -> Result<Self> {
        Self::from_weights(Weights::new(architecture, path, weight))
    }

    /// Builds a decoder for training: `weight` gives variables where the checkpoint's own tensors are trained, `patch` puts trained
    /// weights beside projections, of which it is given the site and the weight `[out, in]`.
    ///
    /// # Errors
    /// As [`Decoder::build`].
    pub fn trained(
        architecture: &Architecture,
        weight: impl FnMut(&str) -> Result<Tensor>,
        patch: impl FnMut(Site, &Tensor) -> Result<Option<Arc<dyn Patch>>>,
    ) -> Result<Self> {
        Self::from_weights(Weights::new(architecture, Path::Training, weight).patched(patch))
    }

    fn from_weights(mut weights: Weights) -> Result<Self> {
        let spec = weights.spec().clone();
        let embedding = Embedding::build(&mut weights)?;
        let path = weights.settle(embedding.device());
        let layers = (0..spec.ffn.layers).map(|layer| Layer::build(&mut weights, layer));
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let stem = weights.names().outer(weights.names().norm);
        let norm = weights.norm(&stem, spec.norm)?;
        let head = Head::build(&mut weights, &embedding)?;
        Ok(Self { spec, embedding, layers, norm, head, path })
    }

    /// The architecture.
    #[must_use]
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// Whether its frozen weights are in bf16.
    #[must_use]
    pub fn rounds(&self) -> bool {
        self.embedding.table().dtype() == DType::BF16
    }

    /// Where it runs.
    #[must_use]
    pub fn device(&self) -> &Device {
        self.embedding.device()
    }

    /// Shows every gate of windows `ids` [batch, seq] to an observer and computes nothing that no gate depends on:
    /// no head, and of the last layer's FFN only the gate.
    ///
    /// # Errors
    /// When a tensor operation or the observer fails.
    pub fn observe(&self, ids: &Tensor, observer: &mut dyn Observer) -> Result<()> {
        let (last, rest) = self.layers.split_last().expect("a decoder has layers");
        self.among_threads(|| {
            let positions = self.positions(ids)?;
            if let Some(tally) = observer.tally()
                && let Some(parts) = self.for_each_thread(ids, tally)?
            {
                return self.observe_parts(parts, &positions, tally);
            }
            let mut x = self.embedding.forward(ids)?;
            for layer in rest {
                x = layer.forward(x, &positions, observer)?;
            }
            last.observe(x, &positions, observer)
        })
    }

    /// On the CPU, a batch and its tally in one part of whole windows for each thread, where there are enough of them and a thread that
    /// has ended can help another.
    fn for_each_thread(&self, ids: &Tensor, tally: &Tally) -> Result<Option<Vec<(Tensor, Tally)>>> {
        let ((batch, seq), threads) = (ids.dims2()?, rayon::current_num_threads());
        if !self.device().is_cpu() || threads == 1 || panels::few(batch / threads * seq) {
            return Ok(None);
        }
        let windows: Vec<_> = (0..threads).map(|i| i * batch / threads..(i + 1) * batch / threads).collect();
        let tokens: Vec<_> = windows.iter().map(|windows| windows.len() * seq).collect();
        let Some(tallies) = tally.parts(&tokens) else { return Ok(None) };
        let parts =
            windows.into_iter().zip(tallies).map(|(own, tally)| Ok((ids.narrow(0, own.start, own.len())?, tally)));
        parts.collect::<Result<_>>().map(Some)
    }

    /// The same by parts that do not wait for each other: a thread stays with its windows, whose activations stay in its caches.
    fn observe_parts(&self, parts: Vec<(Tensor, Tally)>, positions: &Positions, tally: &mut Tally) -> Result<()> {
        let (last, rest) = self.layers.split_last().expect("a decoder has layers");
        let tally = Mutex::new(InOrder::new(tally, parts.len()));
        let take = |number, own: &mut Tally| tally.lock().expect("nobody panicked with it").take(number, own);
        parts.into_par_iter().enumerate().try_for_each(|(number, (ids, mut own))| {
            let mut x = self.embedding.forward(&ids)?;
            for layer in rest {
                x = layer.forward(x, positions, &mut own)?;
                take(number, &mut own);
            }
            last.observe(x, positions, &mut own)?;
            take(number, &mut own);
            Ok(())
        })
    }

    /// Hidden states after the final norm, `[batch, seq, hidden]`.
    ///
    /// # Errors
    /// When a tensor operation or the observer fails.
    pub fn hidden(&self, ids: &Tensor, observer: &mut dyn Observer) -> Result<Tensor> {
        self.among_threads(|| {
            let positions = self.positions(ids)?;
            let mut x = self.embedding.forward(ids)?;
            for layer in &self.layers {
                x = layer.forward(x, &positions, observer)?;
            }
            self.norm.forward(&x)
        })
    }

    /// Logits of every next token, `[batch, seq, vocabulary]`.
    ///
    /// # Errors
    /// When a tensor operation or the observer fails.
    pub fn logits(&self, ids: &Tensor, observer: &mut dyn Observer) -> Result<Tensor> {
        self.head.forward(&self.hidden(ids, observer)?)
    }

    /// Logits of hidden states `[n, hidden]`, `[n, vocabulary]`: of those alone that somebody wants to know.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn head(&self, hidden: &Tensor) -> Result<Tensor> {
        self.head.forward(&hidden.unsqueeze(0)?)?.squeeze(0)
    }

    /// Shows the residual stream behind every layer, `[batch, seq, hidden]`, to `visit`, with the layer's number.
    ///
    /// # Errors
    /// When a tensor operation or `visit` fails.
    pub fn residuals(&self, ids: &Tensor, visit: &mut dyn FnMut(usize, &Tensor) -> Result<()>) -> Result<()> {
        let positions = self.positions(ids)?;
        let mut x = self.embedding.forward(ids)?;
        for (number, layer) in self.layers.iter().enumerate() {
            x = layer.forward(x, &positions, &mut Unobserved)?;
            visit(number, &x)?;
        }
        Ok(())
    }

    /// Runs the tokens that follow what `cache` holds, row by row as many as there are, and keeps their keys and values there. Gives
    /// their hidden states after the final norm, `[rows, most, hidden]`; those behind a row's own last token mean nothing.
    ///
    /// Equal to running the rows whole, as far as rounding goes. Keys and values stay on the device; nothing has gradients.
    ///
    /// # Errors
    /// When a tensor operation fails, or a row becomes longer than the positions that the model has learned.
    pub fn extend(&self, cache: &mut Cache, rows: &[&[u32]]) -> Result<Tensor> {
        if cache.stretches(&self.spec, rows) {
            return self.extend_anew(cache, rows);
        }
        let most = rows.iter().map(|row| row.len()).max().unwrap_or(0);
        let ids: Vec<u32> = rows.iter().flat_map(|row| (0..most).map(|i| row.get(i).copied().unwrap_or(0))).collect();
        let ids = Tensor::from_vec(ids, (rows.len(), most), self.device())?;
        let known = self.spec.embedding.learned_positions.map(|table| table.rows - table.offset);
        let past = cache.take(&self.spec, rows, known, self.embedding.dtype(), self.device())?;
        let (hidden, past) = self.among_threads(|| {
            let mut x = self.embedding.forward_at(&ids, &past.positions)?;
            let positions = Positions::behind(&self.spec, past, self.embedding.dtype(), self.device())?;
            for layer in &self.layers {
                x = layer.forward(x, &positions, &mut Unobserved)?;
            }
            Ok((self.norm.forward(&x)?, positions.past.expect("it was put there")))
        })?;
        cache.put(past);
        Ok(hidden)
    }

    /// The same where a row outgrows the window of pre-training, and with it the angles of all its keys (`LongRoPE`).
    fn extend_anew(&self, cache: &mut Cache, rows: &[&[u32]]) -> Result<Tensor> {
        let before: Vec<usize> = cache.lengths();
        let whole: Vec<Vec<u32>> = cache.rows().iter().zip(rows).map(|(old, new)| [old, *new].concat()).collect();
        *cache = Cache::new(rows.len());
        let hidden = self.extend(cache, &whole.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
        let most = rows.iter().map(|row| row.len()).max().unwrap_or(0);
        let own = before.iter().enumerate().map(|(row, &start)| {
            let there = most.min(hidden.dim(1)? - start);
            hidden.i(row)?.narrow(0, start, there)?.pad_with_zeros(0, 0, most - there)
        });
        Tensor::stack(&own.collect::<Result<Vec<_>>>()?, 0)
    }

    /// Mean next-token negative log-likelihood of every window, in nats per token, `[batch]`.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn nll(&self, ids: &Tensor) -> Result<Tensor> {
        let rows = ids.dim(0)?;
        let losses = (0..rows).map(|row| {
            let window = ids.i(row..=row)?;
            loss::next_token(&self.logits(&window, &mut Unobserved)?.i(0)?, &window.i(0)?)
        });
        Tensor::stack(&losses.collect::<Result<Vec<_>>>()?, 0)
    }

    /// On the CPU, a pass by one of the threads that share its work: one from outside would hand it over, sleep and be woken at each step.
    fn among_threads<T: Send>(&self, pass: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        if self.device().is_cpu() { rayon::scope(|_| pass()) } else { pass() }
    }

    fn positions(&self, ids: &Tensor) -> Result<Positions> {
        Positions::new(&self.spec, ids.dim(1)?, self.embedding.dtype(), ids.device(), self.path)
    }
}
