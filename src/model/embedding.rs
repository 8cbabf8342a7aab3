//! From token ids to the residual stream.

use candle_core::{DType, Device, Module, Result, Tensor};

use super::{
    linear::{activations, beside},
    norm::Norm,
    weights::Weights,
};

/// Token embeddings, scaled, with learned positions added and normalised, as the family has it.
pub struct Embedding {
    tokens: candle_nn::Embedding,
    scale: Option<f64>,
    /// Rows of positions, from that of position 0 on.
    positions: Option<Tensor>,
    norm: Option<Norm>,
}

impl Embedding {
    pub fn build(weights: &mut Weights) -> Result<Self> {
        let (spec, names) = (weights.spec(), weights.names());
        let tokens = weights.tensor(&format!("{}.weight", names.outer(names.embedding)))?;
        let positions = match spec.embedding.learned_positions {
            None => None,
            Some(table) => {
                let rows = weights.tensor(&format!("{}.weight", names.outer(names.positions)))?;
                beside(&tokens, Some(rows.narrow(0, table.offset, table.rows - table.offset)?))?
            }
        };
        let norm =
            if spec.embedding.norm { Some(weights.norm(&names.outer(names.embedding_norm), spec.norm)?) } else { None };
        let tokens = candle_nn::Embedding::new(tokens, spec.hidden);
        Ok(Self { tokens, scale: spec.embedding.scale, positions, norm })
    }

    /// Ids `[batch, seq]` to `[batch, seq, hidden]`.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        let mut x = self.tokens.forward(ids)?.to_dtype(self.dtype())?;
        if let Some(scale) = self.scale {
            x = (x * scale)?;
        }
        if let Some(positions) = &self.positions {
            let (seq, known) = (ids.dim(1)?, positions.dim(0)?);
            if seq > known {
                candle_core::bail!(
                    "a window of {seq} tokens is longer than the {known} positions that the model has learned"
                );
            }
            x = x.broadcast_add(&positions.narrow(0, 0, seq)?)?;
        }
        match &self.norm {
            Some(norm) => norm.forward(&x),
            None => Ok(x),
        }
    }

    /// `[vocabulary, hidden]`.
    pub fn table(&self) -> &Tensor {
        self.tokens.embeddings()
    }

    pub fn device(&self) -> &Device {
        self.table().device()
    }

    /// Number format of the residual stream.
    pub fn dtype(&self) -> DType {
        activations(self.table())
    }
}
