//! Rotary positions.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::with;
use crate::model::matrix::slice;

/// Turns `[batch, seq, heads, head_dim]`; its gradient is turned back.
#[derive(Clone)]
pub struct Turn {
    cos: Arc<Vec<f32>>,
    sin: Arc<Vec<f32>>,
    dim: usize,
    interleaved: bool,
}

impl Turn {
    pub fn new(cos: Arc<Vec<f32>>, sin: Arc<Vec<f32>>, dim: usize, interleaved: bool) -> Self {
        Self { cos, sin, dim, interleaved }
    }

    /// `sign` is 1, or −1 to turn back.
    fn turn(&self, x: &[f32], shape: &Shape, sign: f32) -> Result<Vec<f32>> {
        let (_, seq, heads, head_dim) = shape.dims4()?;
        let half = self.dim / 2;
        let mut y = vec![0f32; x.len()];
        let row = heads * head_dim;
        y.par_chunks_mut(row).zip(x.par_chunks(row)).enumerate().with_min_len(16).for_each(|(token, (y, x))| {
            let at = token % seq * half;
            let (cos, sin) = (&self.cos[at..at + half], &self.sin[at..at + half]);
            for (y, x) in y.chunks_exact_mut(head_dim).zip(x.chunks_exact(head_dim)) {
                y[self.dim..].copy_from_slice(&x[self.dim..]);
                if self.interleaved {
                    let pairs = y[..self.dim].chunks_exact_mut(2).zip(x[..self.dim].chunks_exact(2));
                    for ((y, x), (cos, sin)) in pairs.zip(cos.iter().zip(sin)) {
                        y[0] = x[0] * cos - sign * x[1] * sin;
                        y[1] = sign * x[0] * sin + x[1] * cos;
                    }
                } else {
                    let (y1, y2) = y[..self.dim].split_at_mut(half);
                    let (x1, x2) = x[..self.dim].split_at(half);
                    let pairs = y1.iter_mut().zip(y2).zip(x1.iter().zip(x2));
                    for (((y1, y2), (x1, x2)), (cos, sin)) in pairs.zip(cos.iter().zip(sin)) {
                        *y1 = x1 * cos - sign * x2 * sin;
                        *y2 = sign * x1 * sin + x2 * cos;
                    }
                }
            }
        });
        Ok(y)
    }
}

impl CustomOp1 for Turn {
    fn name(&self) -> &'static str {
        "rotary"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = self.turn(slice(x, layout)?, layout.shape(), 1.0)?;
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        self.back(gradient).map(Some)
    }
}

impl Turn {
    /// Turned back.
    pub fn back(&self, gradient: &Tensor) -> Result<Tensor> {
        let back = with(gradient, |values| self.turn(values, gradient.shape(), -1.0))?;
        Tensor::from_vec(back, gradient.shape(), &Device::Cpu)
    }
}
