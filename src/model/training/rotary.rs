//! Rotary positions.

use std::{mem::MaybeUninit, sync::Arc};

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::with;
use crate::model::{
    matrix::{filled, slice, write},
    simd::vectorised,
};

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

    /// Turns the heads that are `x [heads · head_dim]` of a token at a position.
    pub fn heads(&self, x: &[f32], y: &mut [MaybeUninit<f32>], head_dim: usize, position: usize) {
        self.turn_heads((x, y, head_dim), position, 1.0);
    }

    fn turn_heads(&self, (x, y, head_dim): (&[f32], &mut [MaybeUninit<f32>], usize), position: usize, sign: f32) {
        let half = self.dim / 2;
        let at = position * half..(position + 1) * half;
        turn_heads(x, y, head_dim, (&self.cos[at.clone()], &self.sin[at], sign), self.interleaved);
    }

    /// `sign` is 1, or −1 to turn back.
    fn turn(&self, x: &[f32], shape: &Shape, sign: f32) -> Result<Vec<f32>> {
        let (_, seq, heads, head_dim) = shape.dims4()?;
        let row = heads * head_dim;
        let fill = |y: &mut [MaybeUninit<f32>]| {
            y.par_chunks_mut(row).zip(x.par_chunks(row)).enumerate().with_min_len(16).for_each(|(token, (y, x))| {
                self.turn_heads((x, y, head_dim), token % seq, sign);
            });
        };
        // SAFETY: the rows are whole heads, and every value of each is written.
        #[allow(unsafe_code)]
        Ok(unsafe { filled(x.len(), fill) })
    }
}

vectorised! {
    /// Turns the first values of each head of a token by angles of these cosines and sines, and copies the others.
    fn turn_heads(
        x: &[f32],
        y: &mut [MaybeUninit<f32>],
        head_dim: usize,
        angles: (&[f32], &[f32], f32),
        interleaved: bool,
    ) {
        let (cos, sin, sign) = angles;
        let half = cos.len();
        for (y, x) in y.chunks_exact_mut(head_dim).zip(x.chunks_exact(head_dim)) {
            let ((y, y_rest), (x, x_rest)) = (y.split_at_mut(2 * half), x.split_at(2 * half));
            write(x_rest, y_rest);
            let angles = cos.iter().zip(sin);
            if interleaved {
                for ((y, x), (cos, sin)) in y.chunks_exact_mut(2).zip(x.chunks_exact(2)).zip(angles) {
                    y[0].write(x[0] * cos - sign * x[1] * sin);
                    y[1].write(sign * x[0] * sin + x[1] * cos);
                }
            } else {
                let ((y1, y2), (x1, x2)) = (y.split_at_mut(half), x.split_at(half));
                for (((y1, y2), (x1, x2)), (cos, sin)) in y1.iter_mut().zip(y2).zip(x1.iter().zip(x2)).zip(angles) {
                    y1.write(x1 * cos - sign * x2 * sin);
                    y2.write(sign * x1 * sin + x2 * cos);
                }
            }
        }
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
