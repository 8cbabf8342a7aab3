//! A projection: `y = x Wᵀ + b`.

use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{
    Path,
    matrix::{Matrix, multiply, slice},
};

/// Weight `[out, in]` and, where the family has one, bias `[out]`.
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias }
    }

    /// `[batch, seq, in]` to `[batch, seq, out]`.
    pub fn forward(&self, x: &Tensor, path: Path) -> Result<Tensor> {
        let (batch, seq, width) = x.dims3()?;
        // One matrix product over all tokens: candle would otherwise multiply window by window.
        let x = x.reshape((batch * seq, width))?.contiguous()?;
        let by_rows = path == Path::Inference && x.device().is_cpu() && x.dtype() == DType::F32;
        let y = if by_rows { x.apply_op2_no_bwd(&self.weight, &ByRows)? } else { x.matmul(&self.weight.t()?)? };
        let y = match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        };
        y.reshape((batch, seq, ()))
    }
}

/// `x [tokens, in] · weight [out, in]ᵀ`, each thread a few rows of it. The library's own threads meet after every block of
/// columns, which costs a fifth of the time at these sizes.
struct ByRows;

/// Tokens of one task: enough that packing the weight anew for each is small beside the product, few enough for all threads.
fn rows(tokens: usize) -> usize {
    tokens.div_ceil(2 * rayon::current_num_threads()).clamp(64, 512)
}

impl CustomOp2 for ByRows {
    fn name(&self) -> &'static str {
        "projection-by-rows"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (tokens, inner) = x_layout.shape().dims2()?;
        let (out, _) = weight_layout.shape().dims2()?;
        let (x, weight) = (slice(x, x_layout)?, slice(weight, weight_layout)?);
        let mut y = vec![0f32; tokens * out];
        let rows = rows(tokens);
        let at = |rows, columns| Matrix { offset: 0, rows, columns };
        y.par_chunks_mut(rows * out).zip(x.par_chunks(rows * inner)).for_each(|(y, x)| {
            multiply([y.len() / out, out, inner], (y, at(out, 1)), (x, at(inner, 1)), (weight, at(1, inner)));
        });
        Ok((CpuStorage::F32(y), Shape::from((tokens, out))))
    }
}
