//! A frozen projection with trained rows or columns in it.

use std::sync::Arc;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp2, DType, Device, InplaceOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

#[cfg(feature = "cuda")]
use super::projection::times_on_gpu;
use super::{
    made,
    projection::{ending, times},
    with,
};
use crate::model::matrix::{Matrix, filled, multiply_add, slice, slice_mut};

/// A frozen weight `[out, in]`, some rows or columns of which are trained. Before every product the values, in f32, are laid into the
/// weight, so that one product computes all of it forward and one backward; only the gradient of the values is more. A weight in bf16 (on a
/// GPU) has them rounded, as the checkpoint will that the values go into.
#[derive(Clone)]
pub struct Replaced {
    weight: Tensor,
    indices: Arc<Vec<u32>>,
    /// The same where the weight is, `[count]`.
    there: Tensor,
    along: usize,
}

impl Replaced {
    pub fn new(weight: &Tensor, indices: &[u32], along: usize) -> Result<Self> {
        let size = weight.dim(along)?;
        if let Some(index) = indices.iter().find(|&&index| index as usize >= size) {
            candle_core::bail!("neuron {index} of a projection with {size}");
        }
        // A copy of its own, since it is written to.
        let weight = weight.copy()?.contiguous()?;
        let there = Tensor::new(indices, weight.device())?;
        Ok(Self { weight, indices: Arc::new(indices.to_vec()), there, along })
    }

    /// Of rows `x [.., width]` the values that belong to the neurons, `[tokens, count]`.
    pub fn select(&self, x: &Tensor) -> Result<Tensor> {
        let width = x.dims().last().copied().unwrap_or_default();
        if !x.device().is_cpu() {
            return x.reshape(((), width))?.index_select(&self.there, 1);
        }
        let own = with(x, |x| Ok(columns(x, width, &self.indices)))?;
        Tensor::from_vec(own, (x.elem_count() / width, self.indices.len()), &Device::Cpu)
    }

    /// The gradient of the values, in f32: of rows from the input `[.., in]` and the neurons' part of the output's gradient, of columns from
    /// the neurons' part of the input and the output's gradient `[.., out]`; the neurons' part is `[tokens, count]`.
    pub fn own_gradient(&self, whole: &Tensor, selected: &Tensor) -> Result<Tensor> {
        let width = whole.dims().last().copied().unwrap_or_default();
        let count = self.indices.len();
        if !whole.device().is_cpu() {
            let whole = whole.reshape(((), width))?;
            let (a, b) = if self.along == 0 { (selected, &whole) } else { (&whole, selected) };
            return a.t()?.matmul(b)?.to_dtype(DType::F32);
        }
        let (own, shape) = with(whole, |whole| {
            with(selected, |selected| {
                Ok(if self.along == 0 {
                    (across(selected, count, whole, width), (count, width))
                } else {
                    (across(whole, width, selected, count), (width, count))
                })
            })
        })?;
        Tensor::from_vec(own, shape, &Device::Cpu)
    }

    /// The gradient of the input from the output's `[.., out]`.
    pub fn back(&self, gradient: &Tensor) -> Result<Tensor> {
        let gradient = gradient.contiguous()?;
        let (out, inner) = self.weight.dims2()?;
        let shape = ending(gradient.shape(), inner);
        if !gradient.device().is_cpu() {
            return gradient.reshape(((), out))?.matmul(&self.weight)?.reshape(shape);
        }
        with(&gradient, |gradient| {
            with(&self.weight, |weight| {
                // SAFETY: a product writes every value.
                #[allow(unsafe_code)]
                unsafe {
                    made(&shape, |y| times(gradient, weight, out, inner, true, y))
                }
            })
        })
    }
}

/// Lays values into a weight.
struct Put<'a> {
    indices: &'a [u32],
    along: usize,
    values: &'a [f32],
}

impl InplaceOp1 for Put<'_> {
    fn name(&self) -> &'static str {
        "put-rows"
    }

    fn cpu_fwd(&self, weight: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (out, inner) = layout.shape().dims2()?;
        let weight = slice_mut(weight, layout)?;
        if self.along == 0 {
            for (row, values) in self.indices.iter().zip(self.values.chunks_exact(inner)) {
                weight[*row as usize * inner..][..inner].copy_from_slice(values);
            }
        } else {
            let rows = weight.chunks_exact_mut(inner).zip(self.values.chunks_exact(self.values.len() / out));
            for (row, values) in rows {
                for (column, value) in self.indices.iter().zip(values) {
                    row[*column as usize] = *value;
                }
            }
        }
        Ok(())
    }
}

/// Some columns of rows of `width` values, `[rows, columns]`.
fn columns(x: &[f32], width: usize, indices: &[u32]) -> Vec<f32> {
    x.chunks_exact(width).flat_map(|row| indices.iter().map(move |&column| row[column as usize])).collect()
}

/// `aᵀ b [m, n]` of `a [tokens, m]` and `b [tokens, n]`.
fn across(a: &[f32], m: usize, b: &[f32], n: usize) -> Vec<f32> {
    let tokens = a.len() / m;
    let mut found = vec![0f32; m * n];
    let rows = m.div_ceil(rayon::current_num_threads()).max(8);
    found.par_chunks_mut(rows * n).enumerate().for_each(|(i, found)| {
        let (count, first) = (found.len() / n, i * rows);
        multiply_add(
            [count, n, tokens],
            (found, Matrix { offset: 0, rows: n, columns: 1 }),
            (a, Matrix { offset: first, rows: 1, columns: m }),
            (b, Matrix { offset: 0, rows: n, columns: 1 }),
        );
    });
    found
}

impl CustomOp2 for Replaced {
    fn name(&self) -> &'static str {
        "projection-with-trained-rows"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        values: &CpuStorage,
        values_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (out, inner) = self.weight.dims2()?;
        let values = slice(values, values_layout)?;
        self.weight.inplace_op1(&Put { indices: &self.indices, along: self.along, values })?;
        if layout.dims().last() != Some(&inner) {
            candle_core::bail!("a projection of width {inner} was given vectors of {:?}", layout.shape());
        }
        let x = slice(x, layout)?;
        let y = with(&self.weight, |weight| {
            // SAFETY: a product writes every value.
            #[allow(unsafe_code)]
            Ok(unsafe { filled(x.len() / inner * out, |y| times(x, weight, out, inner, false, y)) })
        })?;
        Ok((CpuStorage::F32(y), ending(layout.shape(), out)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        layout: &Layout,
        values: &CudaStorage,
        values_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        crate::model::gpu::training::put(&self.weight, &self.there, self.along, (values, values_layout))?;
        times_on_gpu(x, layout, &self.weight)
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.contiguous()?;
        let own = if self.along == 0 {
            self.own_gradient(x, &self.select(&gradient)?)?
        } else {
            self.own_gradient(&gradient, &self.select(x)?)?
        };
        let back = x.track_op().then(|| self.back(&gradient)).transpose()?;
        Ok((back, Some(own)))
    }
}
