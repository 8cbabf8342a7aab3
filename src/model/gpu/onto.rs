//! A projection added to what is there, by the matrix product itself.

use candle_core::{
    CpuStorage, CudaStorage, DType, InplaceOp3, Layout, Result, Tensor,
    backend::BackendStorage,
    cuda_backend::{
        WrapErr,
        cudarc::cublas::{CudaBlas, Gemm, GemmConfig, sys::cublasOperation_t},
    },
};
use half::bf16;

use super::{Number, fits, number, only_on_gpus};

/// `x + h Wᵀ` in place of `x [.., out]`, for `h [.., in]` and a weight `[out, in]`; says whether it was done.
///
/// # Errors
/// When the GPU fails.
pub fn project(x: &Tensor, h: &Tensor, weight: &Tensor) -> Result<bool> {
    let alike = [h, weight].iter().all(|tensor| tensor.dtype() == x.dtype() && tensor.is_contiguous());
    if !fits(x) || !alike || !x.is_contiguous() {
        return Ok(false);
    }
    x.inplace_op3(h, weight, &Onto)?;
    Ok(true)
}

struct Onto;

fn typed<T: Number>(x: &mut CudaStorage, h: &CudaStorage, weight: &CudaStorage, layouts: [&Layout; 3]) -> Result<()>
where
    CudaBlas: Gemm<T>,
{
    let [place, h_place, weight_place] = layouts;
    let (out, inner) = weight_place.shape().dims2()?;
    let tokens = h_place.shape().elem_count() / inner;
    if place.shape().elem_count() != tokens * out {
        candle_core::bail!("{:?} is no place for {tokens} tokens of {out}", place.shape());
    }
    let whole = |layout: &Layout| {
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("{:?} has gaps", layout.shape())
        };
        Ok(start..end)
    };
    let [out_size, inner_size, tokens] = [out, inner, tokens].map(|n| number(n).map(u32::cast_signed));
    let (out_size, inner_size) = (out_size?, inner_size?);
    // cuBLAS counts by columns: its xᵀ [out, tokens] = W [out, in] · hᵀ [in, tokens].
    let config = GemmConfig {
        transa: cublasOperation_t::CUBLAS_OP_T,
        transb: cublasOperation_t::CUBLAS_OP_N,
        m: out_size,
        n: tokens?,
        k: inner_size,
        alpha: T::one(),
        lda: inner_size,
        ldb: inner_size,
        beta: T::one(),
        ldc: out_size,
    };
    let blas = x.device.cublas_handle();
    let weight = weight.as_cuda_slice::<T>()?.slice(whole(weight_place)?);
    let h = h.as_cuda_slice::<T>()?.slice(whole(h_place)?);
    let place = whole(place)?;
    let mut x = T::as_cuda_slice_mut(x)?.slice_mut(place);
    // SAFETY: the sizes are those of the three slices.
    #[allow(unsafe_code)]
    unsafe { blas.gemm(config, &weight, &h, &mut x) }.w()
}

impl InplaceOp3 for Onto {
    fn name(&self) -> &'static str {
        "projection-onto"
    }

    fn cpu_fwd(
        &self,
        _: &mut CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<()> {
        only_on_gpus()
    }

    fn cuda_fwd(
        &self,
        x: &mut CudaStorage,
        place: &Layout,
        h: &CudaStorage,
        h_place: &Layout,
        weight: &CudaStorage,
        weight_place: &Layout,
    ) -> Result<()> {
        match x.dtype() {
            DType::F32 => typed::<f32>(x, h, weight, [place, h_place, weight_place]),
            _ => typed::<bf16>(x, h, weight, [place, h_place, weight_place]),
        }
    }
}
