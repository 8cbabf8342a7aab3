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
    /// Where nothing of it is trained and we have a kernel of our own.
    frozen: Option<Arc<Box<dyn CustomOp1 + Send + Sync>>>,
    /// The same on the CPU, for those who have a few rows in hand.
    on_rows: Option<FrozenNorm>,
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
        let (spec, weight) = match (spec.kind, path) {
            (NormKind::RmsPlusOne, Path::Inference | Path::Portable) => {
                (NormSpec { kind: NormKind::Rms, ..spec }, (weight + 1.0)?)
            }
            _ => (spec, weight),
        };
        let trained = weight.track_op() || bias.as_ref().is_some_and(Tensor::track_op);
        let mut norm = Self { spec, weight, bias, path, frozen: None, on_rows: None };
        let has_kernel = matches!(path, Path::Inference | Path::Training) && has_kernels(&norm.weight);
        if has_kernel && !trained && norm.weight.rank() == 1 {
            norm.frozen = Some(Arc::new(norm.kernel()?));
            if norm.weight.device().is_cpu() {
                norm.on_rows = Some(norm.on_cpu()?);
            }
        }
        Ok(norm)
    }

    fn kernel(&self) -> Result<Box<dyn CustomOp1 + Send + Sync>> {
        #[cfg(feature = "cuda")]
        if super::gpu::fits(&self.weight) {
            return Ok(Box::new(self.on_gpu(self.used()?)));
        }
        Ok(Box::new(self.on_cpu()?))
    }

    fn on_cpu(&self) -> Result<FrozenNorm> {
        FrozenNorm::new(self.spec, &self.used()?, self.bias.as_ref())
    }

    /// The kernel for rows in f32 on the CPU, where there is one.
    pub fn on_rows(&self) -> Option<&FrozenNorm> {
        self.on_rows.as_ref()
    }

    /// The weight as it multiplies, where it is stored as training has it.
    fn used(&self) -> Result<Tensor> {
        if self.spec.kind == NormKind::RmsPlusOne { &self.weight + 1.0 } else { Ok(self.weight.clone()) }
    }

    #[cfg(feature = "cuda")]
    #[allow(clippy::cast_possible_truncation)]
    fn on_gpu(&self, weight: Tensor) -> super::gpu::norm::Normal {
        let (eps, centred) = (self.spec.eps as f32, self.spec.kind == NormKind::Layer);
        super::gpu::norm::Normal { weight, bias: self.bias.clone(), eps, centred }
    }

    /// Whether its backward pass is written out: it is frozen, and we have a kernel.
    pub fn is_written(&self) -> bool {
        self.frozen.is_some()
    }

    /// The gradient of the input `x` from the output's, where it [is written out](Norm::is_written).
    pub fn back(&self, x: &Tensor, gradient: &Tensor) -> Result<Tensor> {
        let Some(frozen) = &self.frozen else { candle_core::bail!("a norm whose backward pass is the graph's") };
        let found = frozen.bwd(x, x, gradient)?;
        found.map_or_else(|| gradient.zeros_like(), Ok)
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
        if matches!(self.path, Path::Differentiable | Path::Training) {
            return self.plain(x, &self.used()?);
        }
        #[cfg(feature = "cuda")]
        if super::gpu::fits(x) && self.weight.dtype() == x.dtype() {
            return x.contiguous()?.apply_op1_no_bwd(&self.on_gpu(self.weight.clone()));
        }
        if self.spec.kind == NormKind::Layer {
            let zeros = || self.weight.zeros_like();
            let bias = self.bias.as_ref().map_or_else(zeros, |bias| Ok(bias.clone()))?;
            return candle_nn::ops::layer_norm(&x.contiguous()?, &self.weight, &bias, eps);
        }
        candle_nn::ops::rms_norm(&x.contiguous()?, &self.weight, eps)
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
