//! Dropout (Srivastava et al. 2014) whose choice is a function of a seed and a value's place: the same wherever and however often it is made,
//! so that nothing of it is kept for the backward pass or for a layer that is recomputed.

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

#[cfg(feature = "cuda")]
use crate::model::gpu::{fits, training::dropped};
use crate::model::{matrix::slice, simd::vectorised};

/// `x` with each value dropped with a probability of `rate`, to the 65,536th, and the others `1 / (1 − rate)` times as large.
///
/// # Errors
/// When the device has no room or fails.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub fn dropout(x: &Tensor, rate: f64, seed: u64) -> Result<Tensor> {
    let op = Dropout { seed, limit: (rate * 65536.0).round() as u32, kept: (1.0 / (1.0 - rate)) as f32 };
    let own = x.device().is_cpu() && x.dtype() == DType::F32;
    #[cfg(feature = "cuda")]
    let own = own || fits(x);
    if own {
        return x.contiguous()?.apply_op1(op);
    }
    let mut mask = vec![1f32; x.elem_count()];
    op.scale(&mut mask);
    x * Tensor::from_vec(mask, x.shape(), x.device())?.to_dtype(x.dtype())?
}

#[derive(Clone, Copy)]
struct Dropout {
    seed: u64,
    limit: u32,
    kept: f32,
}

/// Values that one task takes, a multiple of four.
const CHUNK: usize = 1 << 15;

vectorised! {
    fn scale(rule: Dropout, first: u64, values: &mut [f32]) {
        for (number, four) in (first..).zip(values.chunks_mut(4)) {
            // The finaliser of SplitMix64.
            let mut bits = rule.seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            bits ^= bits >> 31;
            for (n, value) in four.iter_mut().enumerate() {
                let own = (bits >> (16 * n)) as u32 & 0xffff;
                *value *= if own < rule.limit { 0.0 } else { rule.kept };
            }
        }
    }
}

impl Dropout {
    fn scale(self, values: &mut [f32]) {
        let parts = values.par_chunks_mut(CHUNK).enumerate();
        parts.for_each(|(i, values)| scale(self, (i * CHUNK / 4) as u64, values));
    }
}

impl CustomOp1 for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut values = slice(x, layout)?.to_vec();
        self.scale(&mut values);
        Ok((CpuStorage::F32(values), layout.shape().clone()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        dropped((x, layout), self.seed, self.limit, self.kept)
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        gradient.contiguous()?.apply_op1_no_bwd(self).map(Some)
    }
}
