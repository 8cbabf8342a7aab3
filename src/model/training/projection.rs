//! A frozen projection: its backward gives only the input's gradient.

use std::{mem::MaybeUninit, sync::Arc};

use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{made, with};
use crate::model::{
    bf16,
    matrix::{Matrix, filled, multiply, slice},
};

/// A frozen weight `[out, in]`: `x Wᵀ` forward, `g W` backward, and no gradient of its own.
#[derive(Clone)]
pub enum Frozen {
    /// In the checkpoint's own layout, which serves both directions.
    Plain(Tensor),
    /// In bf16 on the CPU, as the processor's instructions read it, once for each direction.
    Halves(Arc<bf16::Panels>, Arc<bf16::Panels>),
    /// In bf16 on the CPU in its own layout, since others hold it too: the embedding as head.
    Wide(Tensor),
}

/// Rows above which a weight is not laid out twice: only an embedding has so many.
const LONGEST: usize = 30_000;

impl Frozen {
    pub fn new(weight: Tensor) -> Result<Self> {
        let weight = weight.contiguous()?;
        if !weight.device().is_cpu() || weight.dtype() != DType::BF16 {
            return Ok(Self::Plain(weight));
        }
        if weight.dim(0)? > LONGEST {
            return Ok(Self::Wide(weight));
        }
        let back = Arc::new(bf16::Panels::new(&weight.t()?.contiguous()?)?);
        Ok(Self::Halves(Arc::new(bf16::Panels::new(&weight)?), back))
    }

    /// The gradient of the input from the output's `[.., out]`.
    pub fn back(&self, gradient: &Tensor) -> Result<Tensor> {
        let gradient = gradient.contiguous()?;
        let out = gradient.dims().last().copied().unwrap_or_default();
        match self {
            Self::Plain(weight) => {
                let inner = weight.dim(1)?;
                let shape = ending(gradient.shape(), inner);
                if !(weight.device().is_cpu() && weight.dtype() == DType::F32) {
                    return gradient.reshape(((), out))?.matmul(weight)?.reshape(shape);
                }
                with(&gradient, |gradient| {
                    with(weight, |weight| {
                        // SAFETY: a product writes every value.
                        #[allow(unsafe_code)]
                        unsafe {
                            made(&shape, |y| times(gradient, weight, out, inner, true, y))
                        }
                    })
                })
            }
            Self::Halves(_, panels) => {
                let y = gradient.reshape(((), out))?.apply_op1_no_bwd(&**panels)?;
                let shape = ending(gradient.shape(), y.dim(1)?);
                y.reshape(shape)
            }
            Self::Wide(weight) => {
                let shape = ending(gradient.shape(), weight.dim(1)?);
                let gradient = rounded(&gradient.reshape(((), out))?)?;
                let mut sum: Option<Tensor> = None;
                for start in (0..out).step_by(WIDENED) {
                    let rows = WIDENED.min(out - start);
                    let weight = weight.narrow(0, start, rows)?.to_dtype(DType::F32)?;
                    let part = gradient.narrow(1, start, rows)?.contiguous()?.matmul(&weight)?;
                    sum = Some(match sum {
                        Some(sum) => (sum + part)?,
                        None => part,
                    });
                }
                sum.expect("an embedding has rows").reshape(shape)
            }
        }
    }
}

/// `x [tokens, in]` times a weight `[out, in]`, by its rows or, backward, by its columns.
pub(super) fn times(x: &[f32], weight: &[f32], out: usize, inner: usize, back: bool, y: &mut [MaybeUninit<f32>]) {
    let (wide, narrow) = if back { (out, inner) } else { (inner, out) };
    // [wide, narrow] of the weight's values.
    let (rows, columns) = if back { (inner, 1) } else { (1, inner) };
    let tokens = (x.len() / wide).div_ceil(rayon::current_num_threads()).max(16);
    y.par_chunks_mut(tokens * narrow).zip(x.par_chunks(tokens * wide)).for_each(|(y, x)| {
        multiply(
            [x.len() / wide, narrow, wide],
            (y, Matrix { offset: 0, rows: narrow, columns: 1 }),
            (x, Matrix { offset: 0, rows: wide, columns: 1 }),
            (weight, Matrix { offset: 0, rows, columns }),
        );
    });
}

/// The product of `x [.., in]` and a weight `[out, in]` on a GPU.
#[cfg(feature = "cuda")]
pub(super) fn times_on_gpu(
    x: &candle_core::CudaStorage,
    layout: &Layout,
    weight: &Tensor,
) -> Result<(candle_core::CudaStorage, Shape)> {
    use candle_core::backend::BackendStorage;
    let (out, inner) = weight.dims2()?;
    if layout.dims().last() != Some(&inner) {
        candle_core::bail!("a projection of width {inner} was given vectors of {:?}", layout.shape());
    }
    let (storage, own) = weight.storage_and_layout();
    let candle_core::Storage::Cuda(storage) = &*storage else { candle_core::bail!("the weight is not on the GPU") };
    let tokens = layout.shape().elem_count() / inner;
    let x_layout = Layout::contiguous_with_offset((tokens, inner), layout.start_offset());
    let y = x.matmul(storage, (1, tokens, out, inner), &x_layout, &own.transpose(0, 1)?)?;
    Ok((y, ending(layout.shape(), out)))
}

/// A tensor's last dimension replaced.
pub(super) fn ending(shape: &Shape, last: usize) -> Shape {
    let dims = shape.dims();
    Shape::from([&dims[..dims.len() - 1], &[last]].concat())
}

/// The number format to which a product in bf16 rounds both factors.
fn rounded(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(DType::BF16)?.to_dtype(DType::F32)
}

/// Rows of a weight in bf16 that are widened at once.
const WIDENED: usize = 4096;

impl CustomOp1 for Frozen {
    fn name(&self) -> &'static str {
        "frozen-projection"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let inner = layout.dims().last().copied().unwrap_or_default();
        match self {
            Self::Plain(weight) if weight.dtype() == DType::F32 => {
                let (out, wanted) = weight.dims2()?;
                if inner != wanted {
                    candle_core::bail!("a projection of width {wanted} was given vectors of width {inner}");
                }
                let x = slice(x, layout)?;
                let y = with(weight, |weight| {
                    // SAFETY: a product writes every value.
                    #[allow(unsafe_code)]
                    Ok(unsafe { filled(x.len() / inner * out, |y| times(x, weight, out, inner, false, y)) })
                })?;
                Ok((CpuStorage::F32(y), ending(layout.shape(), out)))
            }
            Self::Plain(weight) => candle_core::bail!("weights in {:?} are not trained on the CPU", weight.dtype()),
            Self::Halves(panels, _) => {
                let x =
                    Tensor::from_slice(slice(x, layout)?, (layout.shape().elem_count() / inner, inner), &Device::Cpu)?;
                let y = x.apply_op1_no_bwd(&**panels)?;
                let out = y.dim(1)?;
                Ok((CpuStorage::F32(y.flatten_all()?.to_vec1()?), ending(layout.shape(), out)))
            }
            Self::Wide(weight) => {
                let x =
                    Tensor::from_slice(slice(x, layout)?, (layout.shape().elem_count() / inner, inner), &Device::Cpu)?;
                let y = bf16::widened(&x, weight)?;
                let out = y.dim(1)?;
                Ok((CpuStorage::F32(y.flatten_all()?.to_vec1()?), ending(layout.shape(), out)))
            }
        }
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &candle_core::CudaStorage, layout: &Layout) -> Result<(candle_core::CudaStorage, Shape)> {
        let Self::Plain(weight) = self else { candle_core::bail!("a weight laid out for the CPU") };
        times_on_gpu(x, layout, weight)
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        self.back(gradient).map(Some)
    }
}
