//! The decoder: one forward pass for every family, with an observer at the gates of its feed-forward networks.
//! In: a checkpoint and windows of token ids. Out: gates to an [`Observer`]; hidden states or logits when asked.

mod activation;
mod attention;
pub mod cost;
mod embedding;
mod experts;
pub mod family;
mod feed_forward;
mod head;
mod layer;
mod linear;
pub mod loss;
mod matrix;
mod norm;
mod observer;
mod residual;
mod rope;
mod simd;
pub mod spec;
mod weights;

use candle_core::{DType, Device, IndexOp, Result, Tensor};

pub use self::{
    activation::Activation,
    family::Architecture,
    observer::{Observer, Tally, Unobserved},
    rope::{RopeScaling, RopeSpec},
    spec::DecoderSpec,
};
use self::{embedding::Embedding, head::Head, layer::Layer, norm::Norm, rope::Rotary, weights::Weights};
use crate::checkpoint::{Checkpoint, CheckpointError};

/// Which operators a forward pass uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// Fused operators, without gradients.
    Inference,
    /// Operators with gradients: the fused ones drop them without a word.
    Differentiable,
}

/// A decoder language model, ready to run.
pub struct Decoder {
    spec: DecoderSpec,
    embedding: Embedding,
    layers: Vec<Layer>,
    norm: Norm,
    head: Head,
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
        let mut weights = Weights::new(architecture, path, weight);
        let embedding = Embedding::build(&mut weights)?;
        let layers = (0..architecture.spec.ffn.layers).map(|layer| Layer::build(&mut weights, layer));
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let norm = weights.norm(&architecture.names.outer(architecture.names.norm), architecture.spec.norm)?;
        let head = Head::build(&mut weights, &embedding)?;
        Ok(Self { embedding, layers, norm, head, spec: architecture.spec.clone() })
    }

    /// The architecture.
    #[must_use]
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
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
        let ropes = self.ropes(ids)?;
        let mut x = self.embedding.forward(ids)?;
        for layer in rest {
            x = layer.forward(x, &ropes, observer)?;
        }
        last.observe(x, &ropes, observer)
    }

    /// Hidden states after the final norm, `[batch, seq, hidden]`.
    ///
    /// # Errors
    /// When a tensor operation or the observer fails.
    pub fn hidden(&self, ids: &Tensor, observer: &mut dyn Observer) -> Result<Tensor> {
        let ropes = self.ropes(ids)?;
        let mut x = self.embedding.forward(ids)?;
        for layer in &self.layers {
            x = layer.forward(x, &ropes, observer)?;
        }
        self.norm.forward(&x)
    }

    /// Logits of every next token, `[batch, seq, vocabulary]`.
    ///
    /// # Errors
    /// When a tensor operation or the observer fails.
    pub fn logits(&self, ids: &Tensor, observer: &mut dyn Observer) -> Result<Tensor> {
        self.head.forward(&self.hidden(ids, observer)?)
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

    /// One table of angles for each rotary embedding that some layer uses.
    fn ropes(&self, ids: &Tensor) -> Result<Vec<Rotary>> {
        let (seq, dtype) = (ids.dim(1)?, self.embedding.dtype());
        self.spec.ropes.iter().map(|rope| Rotary::new(rope, seq, dtype, ids.device())).collect()
    }
}
