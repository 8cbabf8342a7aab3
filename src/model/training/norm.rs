//! A frozen norm.

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{CHUNK, with};
use crate::model::{
    matrix::{filled, slice},
    simd::{sum, sum_by, sum_by_pairs, vectorised},
    spec::{NormKind, NormSpec},
};

/// A norm over the last dimension whose weight and bias are frozen.
#[derive(Clone)]
pub struct FrozenNorm {
    kind: NormKind,
    eps: f32,
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
}

impl FrozenNorm {
    /// With the weight as it multiplies.
    pub fn new(spec: NormSpec, weight: &Tensor, bias: Option<&Tensor>) -> Result<Self> {
        Ok(Self {
            kind: spec.kind,
            eps: spec.eps as f32,
            weight: weight.to_vec1()?,
            bias: bias.map(Tensor::to_vec1).transpose()?,
        })
    }

    /// Of whole rows, on this thread.
    pub fn rows(&self, x: &[f32]) -> Vec<f32> {
        assert_eq!(x.len() % self.weight.len(), 0, "rows of {} values", self.weight.len());
        // SAFETY: every value of every row is written.
        #[allow(unsafe_code)]
        unsafe {
            filled(x.len(), |y| normalise(self, x, y))
        }
    }
}

/// Of one vector, the mean (0 for an RMS norm) and the inverse of the root.
#[inline(always)]
fn moments(kind: NormKind, eps: f32, x: &[f32]) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = if kind == NormKind::Layer { sum(x) / n } else { 0.0 };
    let square = sum_by(x, |x| (x - mean) * (x - mean)) / n;
    (mean, 1.0 / (square + eps).sqrt())
}

vectorised! {
    fn normalise(norm: &FrozenNorm, x: &[f32], y: &mut [MaybeUninit<f32>]) {
        let width = norm.weight.len();
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            let (mean, inverse) = moments(norm.kind, norm.eps, x);
            let values = y.iter_mut().zip(x).zip(&norm.weight);
            match &norm.bias {
                None => values.for_each(|((y, x), w)| _ = y.write((x - mean) * inverse * w)),
                Some(bias) => {
                    values.zip(bias).for_each(|(((y, x), w), b)| _ = y.write((x - mean) * inverse * w + b));
                }
            }
        }
    }
}

vectorised! {
    /// With x̂ = (x − mean) / root and h = g · w: dx = (h − mean(h x̂) x̂ − [layer norm] mean(h)) / root.
    fn normalise_back(norm: &FrozenNorm, x: &[f32], g: &[f32], dx: &mut [f32]) {
        let width = norm.weight.len();
        let n = width as f32;
        for ((x, g), dx) in x.chunks_exact(width).zip(g.chunks_exact(width)).zip(dx.chunks_exact_mut(width)) {
            let (mean, inverse) = moments(norm.kind, norm.eps, x);
            for ((dx, g), w) in dx.iter_mut().zip(g).zip(&norm.weight) {
                *dx = g * w;
            }
            let along = sum_by_pairs(dx, x, |h, x| h * (x - mean)) * inverse / n;
            let level = if norm.kind == NormKind::Layer { sum(dx) / n } else { 0.0 };
            for (dx, x) in dx.iter_mut().zip(x) {
                *dx = (*dx - along * (x - mean) * inverse - level) * inverse;
            }
        }
    }
}

/// Whole rows of about [`CHUNK`] values.
fn rows_of(width: usize) -> usize {
    (CHUNK / width).max(1) * width
}

impl CustomOp1 for FrozenNorm {
    fn name(&self) -> &'static str {
        "frozen-norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(x, layout)?;
        let chunk = rows_of(self.weight.len());
        let fill = |y: &mut [MaybeUninit<f32>]| {
            y.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).for_each(|(y, x)| normalise(self, x, y));
        };
        // SAFETY: the chunks are whole rows, and every value of each is written.
        #[allow(unsafe_code)]
        let y = unsafe { filled(x.len(), fill) };
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let chunk = rows_of(self.weight.len());
        let mut dx = vec![0f32; x.elem_count()];
        with(x, |x| {
            with(gradient, |g| {
                dx.par_chunks_mut(chunk)
                    .zip(x.par_chunks(chunk).zip(g.par_chunks(chunk)))
                    .for_each(|(dx, (x, g))| normalise_back(self, x, g, dx));
                Ok(())
            })
        })?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), &Device::Cpu)?))
    }
}
