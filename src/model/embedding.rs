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

    /// Ids `[batch, seq]` of whole windows to `[batch, seq, hidden]`.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        self.placed(ids, |table| {
            let (seq, known) = (ids.dim(1)?, table.dim(0)?);
            if seq > known {
                return Err(too_long(seq, known));
            }
            table.narrow(0, 0, seq)
        })
    }

    /// Ids `[rows, seq]` at `positions` [rows][seq] to `[rows, seq, hidden]`.
    pub fn forward_at(&self, ids: &Tensor, positions: &[Vec<usize>]) -> Result<Tensor> {
        self.placed(ids, |table| {
            let known = table.dim(0)?;
            let places = positions.iter().flatten();
            if let Some(&position) = places.clone().find(|&&position| position >= known) {
                return Err(too_long(position + 1, known));
            }
            let places: Vec<u32> = places.map(|&position| position as u32).collect();
            let rows = table.index_select(&Tensor::new(places, table.device())?, 0)?;
            rows.reshape((ids.dim(0)?, ids.dim(1)?, ()))
        })
    }

    /// `rows` picks what is added from the table of learned positions.
    fn placed(&self, ids: &Tensor, rows: impl FnOnce(&Tensor) -> Result<Tensor>) -> Result<Tensor> {
        let mut x = self.tokens.forward(ids)?.to_dtype(self.dtype())?;
        if let Some(scale) = self.scale {
            x = (x * scale)?;
        }
        if let Some(positions) = &self.positions {
            x = x.broadcast_add(&rows(positions)?)?;
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

fn too_long(seq: usize, known: usize) -> candle_core::Error {
    let text = format!("a window of {seq} tokens is longer than the {known} positions that the model has learned");
    candle_core::Error::Msg(text)
}
