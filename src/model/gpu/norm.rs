//! `RMSNorm`. The kernels are in norm.cu.

use candle_core::{
    CpuStorage, CudaStorage, CustomOp2, DType, Layout, Result, Shape, Tensor,
    backend::BackendStorage,
    cuda_backend::{WrapErr, cudarc::driver::PushKernelArg},
};
use half::bf16;

use super::{NORM, Number, WORD, fits, function, grid, number, only_on_gpus, pointer};

/// `RMSNorm` over the last dimension of `x`, whose weight is `[width]`; nothing where there is no kernel for them.
///
/// # Errors
/// When the GPU has no room or fails.
pub fn rms(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Option<Tensor>> {
    if !fits(x) || weight.dtype() != x.dtype() {
        return Ok(None);
    }
    x.contiguous()?.apply_op2_no_bwd(weight, &Rms { eps }).map(Some)
}

struct Rms {
    eps: f32,
}

impl Rms {
    #[allow(unsafe_code)]
    fn typed<T: Number>(
        &self,
        [name, wide_name]: [&str; 2],
        (x, layout): (&CudaStorage, &Layout),
        (weight, weight_layout): (&CudaStorage, &Layout),
    ) -> Result<(CudaStorage, Shape)> {
        let (Some((start, end)), Some((weight_start, weight_end))) =
            (layout.contiguous_offsets(), weight_layout.contiguous_offsets())
        else {
            candle_core::bail!("{:?} or its weight has gaps", layout.shape())
        };
        let (size, width) = (end - start, weight_end - weight_start);
        if layout.dims().last() != Some(&width) {
            candle_core::bail!("a norm of width {width} was given {:?}", layout.shape());
        }
        // SAFETY: the kernel writes every value.
        let out = unsafe { x.device.alloc::<T>(size)? };
        let out = CudaStorage::wrap_cuda_slice(out, x.device.clone());
        let places = [pointer::<T>(x, start)?, pointer::<T>(weight, weight_start)?, pointer::<T>(&out, 0)?];
        let wide =
            width.is_multiple_of(WORD / size_of::<T>()) && places.iter().all(|at| at.is_multiple_of(WORD as u64));
        let (rows, wide_number) = ((size / width) as u64, number(width)?);
        let kernel = function(&x.device, &NORM, if wide { wide_name } else { name })?;
        let stream = x.device.cuda_stream();
        let mut launch = stream.launch_builder(&kernel);
        for place in &places {
            launch.arg(place);
        }
        launch.arg(&rows).arg(&wide_number).arg(&self.eps);
        // SAFETY: the arguments are those of the kernel in norm.cu, and the three tensors are as large as it reads and writes.
        unsafe { launch.launch(grid(size / width * 32)?) }.w()?;
        Ok((out, layout.shape().clone()))
    }
}

impl CustomOp2 for Rms {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        only_on_gpus()
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (x, weight) = ((x, layout), (weight, weight_layout));
        match x.0.dtype() {
            DType::F32 => self.typed::<f32>(["rms_f32", "rms_f32_wide"], x, weight),
            _ => self.typed::<bf16>(["rms_bf16", "rms_bf16_wide"], x, weight),
        }
    }
}
