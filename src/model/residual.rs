//! The residual stream.

use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor};
use rayon::prelude::*;

use super::{
    Path,
    linear::Linear,
    matrix::{is_plain, slice, slice_mut},
    norm::{Norm, normed},
};

/// `x + y`; for inference in place of `x`, whose values nobody else needs.
pub fn add(x: Tensor, y: &Tensor, path: Path) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if path == Path::Inference && super::gpu::training::add(&x, y)? {
        return Ok(x);
    }
    if path != Path::Inference || !is_plain(&x) || !is_plain(y) {
        return x + y;
    }
    x.inplace_op2(y, &Add)?;
    Ok(x)
}

/// `x + norm(projection(h))`; for inference, where it is not one pass, in place of `x`, whose values nobody else needs.
pub fn add_projected(x: Tensor, projection: &Linear, h: &Tensor, norm: Option<&Norm>, path: Path) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if path == Path::Portable && norm.is_none() && projection.onto(&x, h)? {
        return Ok(x);
    }
    if path == Path::Inference
        && norm.is_none()
        && let Some(y) = projection.added(&x, h)?
    {
        return Ok(y);
    }
    add(x, &normed(norm, &projection.forward(h)?)?, path)
}

struct Add;

/// Values that one task adds.
const CHUNK: usize = 1 << 15;

impl InplaceOp2 for Add {
    fn name(&self) -> &'static str {
        "residual"
    }

    fn cpu_fwd(&self, x: &mut CpuStorage, x_layout: &Layout, y: &CpuStorage, y_layout: &Layout) -> Result<()> {
        let (x, y) = (slice_mut(x, x_layout)?, slice(y, y_layout)?);
        x.par_chunks_mut(CHUNK).zip(y.par_chunks(CHUNK)).for_each(|(x, y)| {
            for (x, y) in x.iter_mut().zip(y) {
                *x += y;
            }
        });
        Ok(())
    }
}
