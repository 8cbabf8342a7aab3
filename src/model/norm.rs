//! Normalisations, fused for inference and by differentiable operators.

use candle_core::{Result, Tensor};

use super::{
    Path,
    linear::{activations, beside},
    spec::{NormKind, NormSpec},
};

/// A normalisation over the last dimension.
pub struct Norm {
    spec: NormSpec,
    /// `[width]`, or `[heads, width]` for heads with weights of their own.
    weight: Tensor,
    bias: Option<Tensor>,
    path: Path,
}

impl Norm {
    pub fn new(spec: NormSpec, weight: Tensor, bias: Option<Tensor>, path: Path) -> Result<Self> {
        let bias = beside(&weight, bias)?;
        let weight = weight.to_dtype(activations(&weight))?;
        // While training the weight itself is the variable, and 1 is added at every use.
        let weight = match (spec.kind, path) {
            (NormKind::RmsPlusOne, Path::Inference | Path::Portable) => (weight + 1.0)?,
            _ => weight,
        };
        Ok(Self { spec, weight, bias, path })
    }

    #[allow(clippy::cast_possible_truncation)]
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let eps = self.spec.eps as f32;
        if self.weight.rank() > 1 {
            let normed = self.plain(x, &self.weight.ones_like()?.get(0)?)?;
            return normed.broadcast_mul(&self.weight);
        }
        match (self.path, self.spec.kind) {
            (Path::Differentiable, NormKind::RmsPlusOne) => self.plain(x, &(&self.weight + 1.0)?),
            (Path::Differentiable, _) => self.plain(x, &self.weight),
            (Path::Inference | Path::Portable, NormKind::Layer) => {
                let zeros = || self.weight.zeros_like();
                let bias = self.bias.as_ref().map_or_else(zeros, |bias| Ok(bias.clone()))?;
                candle_nn::ops::layer_norm(&x.contiguous()?, &self.weight, &bias, eps)
            }
            (Path::Inference | Path::Portable, _) => candle_nn::ops::rms_norm(&x.contiguous()?, &self.weight, eps),
        }
    }

    /// By differentiable operators.
    #[allow(clippy::cast_possible_truncation)]
    fn plain(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let eps = self.spec.eps as f32;
        match (self.spec.kind, &self.bias) {
            (NormKind::Layer, Some(bias)) => candle_nn::ops::layer_norm_slow(x, weight, bias, eps),
            (NormKind::Layer, None) => candle_nn::ops::layer_norm_slow(x, weight, &weight.zeros_like()?, eps),
            _ => candle_nn::ops::rms_norm_slow(x, weight, eps),
        }
    }
}
