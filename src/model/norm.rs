//! Root-mean-square normalisation (Zhang & Sennrich 2019, arXiv 1910.07467).

use candle_core::{Result, Tensor};

use super::Path;

/// `x / √(mean(x²) + ε) · weight`, over the last dimension.
pub struct RmsNorm {
    weight: Tensor,
    eps: f32,
}

impl RmsNorm {
    #[allow(clippy::cast_possible_truncation)]
    pub fn new(weight: Tensor, eps: f64) -> Self {
        Self { weight, eps: eps as f32 }
    }

    pub fn forward(&self, x: &Tensor, path: Path) -> Result<Tensor> {
        match path {
            Path::Inference => candle_nn::ops::rms_norm(&x.contiguous()?, &self.weight, self.eps),
            Path::Differentiable => candle_nn::ops::rms_norm_slow(x, &self.weight, self.eps),
        }
    }
}
