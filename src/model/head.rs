//! From the residual stream to logits.

use candle_core::{Result, Tensor};

use super::{embedding::Embedding, linear::Linear, spec::HeadSpec, weights::Weights};

/// The head: the embedding again or a projection of its own, scaled and capped as the family has it.
pub struct Head {
    projection: Linear,
    spec: HeadSpec,
}

impl Head {
    pub fn build(weights: &mut Weights, embedding: &Embedding) -> Result<Self> {
        let (spec, head) = (weights.spec().head.clone(), weights.names().head);
        let weight = if spec.tied { embedding.table().clone() } else { weights.tensor(&format!("{head}.weight"))? };
        let bias = if spec.bias { Some(weights.tensor(&format!("{head}.bias"))?) } else { None };
        Ok(Self { projection: weights.shared(weight, bias)?, spec })
    }

    /// `[batch, seq, hidden]` to `[batch, seq, vocabulary]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut logits = self.projection.forward(x)?;
        if let Some(scale) = self.spec.scale {
            logits = (logits * scale)?;
        }
        match self.spec.softcap {
            Some(cap) => (logits / cap)?.tanh()? * cap,
            None => Ok(logits),
        }
    }
}
