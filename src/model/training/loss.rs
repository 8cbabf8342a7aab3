//! Next-token cross-entropy over logits.

use std::sync::{Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{UNSCORED, has_kernels, with};
use crate::model::{
    matrix::slice,
    simd::{exp, sum_by, vectorised},
};

/// `scale` times the sum of the negative log-likelihood of the scored targets under `logits [1, tokens, vocabulary]`.
pub(super) fn cross_entropy(logits: &Tensor, targets: &[u32], scale: f64) -> Result<Tensor> {
    let width = logits.dims().last().copied().unwrap_or_default();
    if let Some(id) = targets.iter().find(|&&id| id != UNSCORED && id as usize >= width) {
        candle_core::bail!("id {id} should be predicted, but there are {width} logits");
    }
    #[cfg(feature = "cuda")]
    if crate::model::gpu::fits(logits) {
        return crate::model::gpu::training::CrossEntropy::sum(logits, targets, scale as f32);
    }
    if has_kernels(logits) {
        let op = CrossEntropy { targets: targets.to_vec(), scale: scale as f32, levels: Mutex::new(Vec::new()) };
        return logits.contiguous()?.apply_op1(op);
    }
    let rows = logits.squeeze(0)?.to_dtype(DType::F32)?;
    let scored: Vec<u32> = targets.iter().map(|&id| u32::from(id != UNSCORED)).collect();
    let ids: Vec<u32> = targets.iter().map(|&id| if id == UNSCORED { 0 } else { id }).collect();
    let device = rows.device();
    let ids = Tensor::from_vec(ids, (targets.len(), 1), device)?;
    let scored = Tensor::from_vec(scored, (targets.len(), 1), device)?.to_dtype(DType::F32)?;
    let log_p = candle_nn::ops::log_softmax(&rows, candle_core::D::Minus1)?.gather(&ids, 1)?;
    (log_p * scored)?.sum_all()? * -scale
}

struct CrossEntropy {
    targets: Vec<u32>,
    scale: f32,
    /// Per token, the logarithm of the sum of the exponentials, from the forward pass for the backward pass.
    levels: Mutex<Vec<f32>>,
}

vectorised! {
    fn level(logits: &[f32], to: &mut f32) {
        let mut maxima = [f32::NEG_INFINITY; 16];
        let (parts, rest) = logits.as_chunks::<16>();
        for part in parts {
            for (max, &value) in maxima.iter_mut().zip(part) {
                *max = if value > *max { value } else { *max };
            }
        }
        let max = maxima.iter().chain(rest).fold(f32::NEG_INFINITY, |max, &value| if value > max { value } else { max });
        // A NaN is no maximum, but it must not pass for a loss.
        *to = max + sum_by(logits, |x| exp(x - max)).ln();
        if logits.iter().any(|x| x.is_nan()) {
            *to = f32::NAN;
        }
    }
}

vectorised! {
    fn probabilities(logits: &[f32], level: f32, scale: f32, to: &mut [f32]) {
        for (to, &x) in to.iter_mut().zip(logits) {
            *to = exp(x - level) * scale;
        }
    }
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let width = layout.dims().last().copied().unwrap_or_default();
        let logits = slice(logits, layout)?;
        let levels: Vec<f32> = logits
            .par_chunks(width)
            .map(|logits| {
                let mut found = 0.0;
                level(logits, &mut found);
                found
            })
            .collect();
        let scored = self.targets.iter().enumerate().filter(|(_, id)| **id != UNSCORED);
        let total: f64 =
            scored.map(|(token, &id)| f64::from(levels[token] - logits[token * width + id as usize])).sum();
        *self.levels.lock().unwrap_or_else(PoisonError::into_inner) = levels;
        Ok((CpuStorage::F32(vec![(total * f64::from(self.scale)) as f32]), Shape::from(())))
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let scale = self.scale * gradient.to_scalar::<f32>()?;
        let width = logits.dims().last().copied().unwrap_or_default();
        let levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = vec![0f32; logits.elem_count()];
        with(logits, |logits| {
            found.par_chunks_mut(width).zip(logits.par_chunks(width)).enumerate().for_each(|(token, (to, logits))| {
                let id = self.targets[token];
                if id != UNSCORED {
                    probabilities(logits, levels[token], scale, to);
                    to[id as usize] -= scale;
                }
            });
            Ok(())
        })?;
        Ok(Some(Tensor::from_vec(found, logits.shape(), &Device::Cpu)?))
    }
}
