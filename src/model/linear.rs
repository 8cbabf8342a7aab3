//! A projection: `y = x Wᵀ + b`.

use candle_core::{Result, Tensor};

/// Weight `[out, in]` and, where the family has one, bias `[out]`.
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias }
    }

    /// `[batch, seq, in]` to `[batch, seq, out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, seq, width) = x.dims3()?;
        // One matrix product over all tokens: candle would otherwise multiply window by window.
        let y = x.reshape((batch * seq, width))?.matmul(&self.weight.t()?)?;
        let y = match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        };
        y.reshape((batch, seq, ()))
    }
}
