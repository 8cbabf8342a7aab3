//! The decoder: one forward pass for every family, with an observer at the gates of its feed-forward networks.
//! In: a checkpoint and windows of token ids. Out: gates to an [`Observer`]; hidden states or logits when asked.

mod activation;
mod attention;
pub mod family;
mod linear;
pub mod loss;
mod matrix;
mod norm;
mod observer;
mod rope;
mod simd;

use candle_core::{DType, Device, IndexOp, Module, Result, Tensor};
use candle_nn::Embedding;
use serde::{Deserialize, Serialize};

pub use self::{
    activation::Activation,
    observer::{Observer, Tally, Unobserved},
    rope::{RopeScaling, RopeSpec},
};
use self::{attention::Attention, linear::Linear, norm::RmsNorm, rope::Rotary};
use crate::{
    checkpoint::{Checkpoint, CheckpointError, TensorNeed},
    neuron::FfnShape,
};

/// Everything about an architecture that its forward pass depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DecoderSpec {
    /// Rows of the embedding.
    pub vocabulary: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// The grid of FFN neurons.
    pub ffn: FfnShape,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; each serves `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// ε of the RMS norms.
    pub norm_eps: f64,
    /// Rotary embedding.
    pub rope: RopeSpec,
    /// The longest window that the model was made for.
    pub positions: usize,
    /// The FFN's non-linearity.
    pub activation: Activation,
    /// Whether the attention projections have biases.
    pub attention_bias: bool,
    /// Whether the FFN projections have biases.
    pub ffn_bias: bool,
    /// Whether the output head is the embedding.
    pub tied: bool,
}

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
    path: Path,
    embedding: Embedding,
    layers: Vec<Layer>,
    norm: RmsNorm,
    head: Linear,
}

struct Layer {
    attention_norm: RmsNorm,
    attention: Attention,
    ffn_norm: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
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
        let spec = family::spec(checkpoint)?;
        checkpoint.check(&spec.tensors(), |name| spec.ignores(name))?;
        Ok(Self::build(spec, path, |name| checkpoint.tensor(name, dtype, device))?)
    }

    /// Builds a decoder from tensors by their checkpoint names; a training run gives its own variables here.
    ///
    /// # Errors
    /// When `weight` has no such tensor or it is of another shape.
    pub fn build(spec: DecoderSpec, path: Path, mut weight: impl FnMut(&str) -> Result<Tensor>) -> Result<Self> {
        let embedding = weight("model.embed_tokens.weight")?;
        let head = if spec.tied { embedding.clone() } else { weight("lm_head.weight")? };
        let mut layers = Vec::with_capacity(spec.ffn.layers);
        for layer in 0..spec.ffn.layers {
            layers.push(Layer::build(&spec, path, layer, &mut weight)?);
        }
        let norm = RmsNorm::new(weight("model.norm.weight")?, spec.norm_eps);
        let embedding = Embedding::new(embedding, spec.hidden);
        Ok(Self { path, embedding, layers, norm, head: Linear::shared(head, None), spec })
    }

    /// The architecture.
    #[must_use]
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// Where it runs.
    #[must_use]
    pub fn device(&self) -> &Device {
        self.embedding.embeddings().device()
    }

    /// Shows every gate of windows `ids` [batch, seq] to an observer and computes nothing that no gate depends on:
    /// no head, and of the last layer's FFN only the gate.
    ///
    /// # Errors
    /// When a tensor operation or the observer fails.
    pub fn observe(&self, ids: &Tensor, observer: &mut dyn Observer) -> Result<()> {
        let (last, rest) = self.layers.split_last().expect("a decoder has layers");
        let rotary = self.rotary(ids)?;
        let mut x = self.embedding.forward(ids)?;
        for (i, layer) in rest.iter().enumerate() {
            x = layer.forward(&x, &rotary, self.path, i, self.spec.activation, observer)?;
        }
        let x = last.attend(&x, &rotary, self.path)?;
        let gate = last.gate.forward(&last.ffn_norm.forward(&x, self.path)?)?;
        activation::observe(&gate, self.spec.activation, rest.len(), observer)
    }

    /// Hidden states after the final norm, `[batch, seq, hidden]`.
    ///
    /// # Errors
    /// When a tensor operation or the observer fails.
    pub fn hidden(&self, ids: &Tensor, observer: &mut dyn Observer) -> Result<Tensor> {
        let rotary = self.rotary(ids)?;
        let mut x = self.embedding.forward(ids)?;
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&x, &rotary, self.path, i, self.spec.activation, observer)?;
        }
        self.norm.forward(&x, self.path)
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

    fn rotary(&self, ids: &Tensor) -> Result<Rotary> {
        Rotary::new(&self.spec.rope, self.spec.head_dim, ids.dim(1)?, self.embedding.embeddings().dtype(), ids.device())
    }
}

impl Layer {
    fn build(
        spec: &DecoderSpec,
        path: Path,
        layer: usize,
        weight: &mut impl FnMut(&str) -> Result<Tensor>,
    ) -> Result<Self> {
        let mut linear = |name: &str, bias: bool| {
            let at = |part| format!("model.layers.{layer}.{name}.{part}");
            let bias = if bias { Some(weight(&at("bias"))?) } else { None };
            Linear::new(&weight(&at("weight"))?, bias, path)
        };
        let (attention_bias, ffn_bias) = (spec.attention_bias, spec.ffn_bias);
        let attention = Attention {
            heads: spec.heads,
            kv_heads: spec.kv_heads,
            head_dim: spec.head_dim,
            query: linear("self_attn.q_proj", attention_bias)?,
            key: linear("self_attn.k_proj", attention_bias)?,
            value: linear("self_attn.v_proj", attention_bias)?,
            output: linear("self_attn.o_proj", attention_bias)?,
        };
        let gate = linear("mlp.gate_proj", ffn_bias)?;
        let up = linear("mlp.up_proj", ffn_bias)?;
        let down = linear("mlp.down_proj", ffn_bias)?;
        let mut norm = |name: &str| {
            Ok::<_, candle_core::Error>(RmsNorm::new(
                weight(&format!("model.layers.{layer}.{name}.weight"))?,
                spec.norm_eps,
            ))
        };
        let attention_norm = norm("input_layernorm")?;
        let ffn_norm = norm("post_attention_layernorm")?;
        Ok(Self { attention_norm, attention, ffn_norm, gate, up, down })
    }

    /// The residual stream after attention, `[batch, seq, hidden]`.
    fn attend(&self, x: &Tensor, rotary: &Rotary, path: Path) -> Result<Tensor> {
        x + self.attention.forward(&self.attention_norm.forward(x, path)?, rotary, path)?
    }

    fn forward(
        &self,
        x: &Tensor,
        rotary: &Rotary,
        path: Path,
        layer: usize,
        act: Activation,
        observer: &mut dyn Observer,
    ) -> Result<Tensor> {
        let x = self.attend(x, rotary, path)?;
        let normed = self.ffn_norm.forward(&x, path)?;
        // [batch, seq, ffn]: positive exactly where the neuron fires; SiLU and GELU keep the sign.
        let gate = self.gate.forward(&normed)?;
        let up = self.up.forward(&normed)?;
        let h = match path {
            Path::Inference => activation::gated(&gate, up, act, layer, observer)?,
            Path::Differentiable => {
                activation::observe(&gate, act, layer, observer)?;
                (act.forward(&gate)? * up)?
            }
        };
        x + self.down.forward(&h)?
    }
}

impl DecoderSpec {
    /// Every tensor that a checkpoint of this architecture holds.
    #[must_use]
    pub fn tensors(&self) -> Vec<TensorNeed> {
        let mut needs = Vec::new();
        let mut need = |name: String, shape: &[usize]| needs.push(TensorNeed { name, shape: shape.to_vec() });
        let (queries, keys, width) = (self.heads * self.head_dim, self.kv_heads * self.head_dim, self.ffn.width);
        need("model.embed_tokens.weight".into(), &[self.vocabulary, self.hidden]);
        need("model.norm.weight".into(), &[self.hidden]);
        if !self.tied {
            need("lm_head.weight".into(), &[self.vocabulary, self.hidden]);
        }
        for layer in 0..self.ffn.layers {
            let at = |name: &str| format!("model.layers.{layer}.{name}");
            for (name, out, inner, bias) in [
                ("self_attn.q_proj", queries, self.hidden, self.attention_bias),
                ("self_attn.k_proj", keys, self.hidden, self.attention_bias),
                ("self_attn.v_proj", keys, self.hidden, self.attention_bias),
                ("self_attn.o_proj", self.hidden, queries, self.attention_bias),
                ("mlp.gate_proj", width, self.hidden, self.ffn_bias),
                ("mlp.up_proj", width, self.hidden, self.ffn_bias),
                ("mlp.down_proj", self.hidden, width, self.ffn_bias),
            ] {
                need(at(&format!("{name}.weight")), &[out, inner]);
                if bias {
                    need(at(&format!("{name}.bias")), &[out]);
                }
            }
            need(at("input_layernorm.weight"), &[self.hidden]);
            need(at("post_attention_layernorm.weight"), &[self.hidden]);
        }
        needs
    }

    /// Tensors that checkpoints carry and nobody reads: precomputed rotary frequencies, and a copy of a tied head.
    #[must_use]
    pub fn ignores(&self, name: &str) -> bool {
        name.ends_with("rotary_emb.inv_freq") || (self.tied && name == "lm_head.weight")
    }

    /// Number of parameters, a tied head counted once.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.tensors().iter().map(|need| need.shape.iter().product::<usize>() as u64).sum()
    }
}
