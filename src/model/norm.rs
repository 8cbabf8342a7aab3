//! Normalisations, fused for inference and by differentiable operators.

use std::sync::Arc;

use candle_core::{CustomOp1, Result, Tensor};

use super::{
    Path,
    linear::{activations, beside},
    spec::{NormKind, NormSpec},
    training::{FrozenNorm, has_kernels},
};

/// A normalisation over the last dimension.
pub struct Norm {
    spec: NormSpec,
    /// `[width]`, or `[heads, width]` for heads with weights of their own.
    weight: Tensor,
    bias: Option<Tensor>,
    path: Path,
    /// While training, where it is frozen and we have a kernel.
    frozen: Option<Arc<Box<dyn CustomOp1 + Send + Sync>>>,
}

/// `x` behind a norm that may not be there.
pub fn normed(norm: Option<&Norm>, x: &Tensor) -> Result<Tensor> {
    norm.map_or_else(|| Ok(x.clone()), |norm| norm.forward(x))
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
        let trained = weight.track_op() || bias.as_ref().is_some_and(Tensor::track_op);
        let frozen: Option<Arc<Box<dyn CustomOp1 + Send + Sync>>> =
            if path == Path::Training && !trained && weight.rank() == 1 && has_kernels(&weight) {
                Some(Arc::new(Box::new(FrozenNorm::new(spec, &weight, bias.as_ref())?)))
            } else {
                None
            };
        Ok(Self { spec, weight, bias, path, frozen })
    }

    #[allow(clippy::cast_possible_truncation)]
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let eps = self.spec.eps as f32;
        if let Some(frozen) = self.frozen.as_ref().filter(|_| has_kernels(x)) {
            return x.contiguous()?.apply_op1_arc(frozen.clone());
        }
        if self.weight.rank() > 1 {
            let normed = self.plain(x, &self.weight.ones_like()?.get(0)?)?;
            return normed.broadcast_mul(&self.weight);
        }
        match (self.path, self.spec.kind) {
            (Path::Differentiable | Path::Training, NormKind::RmsPlusOne) => self.plain(x, &(&self.weight + 1.0)?),
            (Path::Differentiable | Path::Training, _) => self.plain(x, &self.weight),
            (Path::Inference | Path::Portable, NormKind::Layer) => {
                let zeros = || self.weight.zeros_like();
                let bias = self.bias.as_ref().map_or_else(zeros, |bias| Ok(bias.clone()))?;
                candle_nn::ops::layer_norm(&x.contiguous()?, &self.weight, &bias, eps)
            }
            (Path::Inference | Path::Portable, _) => {
                #[cfg(feature = "cuda")]
                if let Some(normed) = super::gpu::norm::rms(x, &self.weight, eps)? {
                    return Ok(normed);
                }
                candle_nn::ops::rms_norm(&x.contiguous()?, &self.weight, eps)
            }
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
