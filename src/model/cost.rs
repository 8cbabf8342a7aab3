//! What a profiling pass has to compute, and how fast this machine can compute at best.

use std::{hint::black_box, time::Instant};

use candle_core::{DType, Device, Result, Tensor};
use rayon::prelude::*;

use super::{
    DecoderSpec, Path,
    linear::{Linear, activations},
};

/// Floating-point operations of a profiling pass, per token; a multiplication and an addition are two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flops {
    /// Of the projections.
    pub projections: f64,
    /// Of the products between queries, keys and values.
    pub attention: f64,
}

impl Flops {
    /// Both together.
    #[must_use]
    pub fn total(self) -> f64 {
        self.projections + self.attention
    }
}

impl DecoderSpec {
    /// What a profiling pass costs per token in windows of `seq` tokens: no head, and of the last layer nothing behind the gate.
    #[must_use]
    pub fn flops(&self, seq: usize) -> Flops {
        let attention = &self.attention;
        let (queries, keys) = (attention.heads * attention.head_dim, attention.kv_heads * attention.head_dim);
        let around = (self.hidden * (2 * queries + 2 * keys)) as f64;
        let experts = self.feed_forward.routing.map_or(1, |routing| routing.experts_per_token);
        let router = if self.ffn.is_routed() { self.hidden * self.ffn.experts } else { 0 };
        let projection = (self.hidden * self.ffn.width * experts) as f64;
        let ffn = projection * if self.feed_forward.gated { 3.0 } else { 2.0 } + router as f64;
        let layers = self.ffn.layers as f64;
        // Side by side with attention, the last layer's FFN needs no attention at all.
        let attending = if self.placement.parallel() { layers - 1.0 } else { layers };
        let unneeded = projection * if self.feed_forward.gated { 2.0 } else { 1.0 };
        let seen = |window: Option<usize>| {
            let seen = |position: usize| window.map_or(position + 1, |window| window.min(position + 1));
            (0..seq).map(|position| seen(position) as f64).sum::<f64>() / seq as f64
        };
        let keys_seen: f64 = self.layers.iter().take(attending as usize).map(|layer| seen(layer.window)).sum();
        Flops {
            projections: 2.0 * (attending * around + layers * ffn - unneeded),
            attention: 2.0 * 2.0 * queries as f64 * keys_seen,
        }
    }
}

/// A product of matrices for timing: the ceiling that a forward pass is held against.
pub struct Product {
    x: Tensor,
    linear: Linear,
    plain: Option<[Tensor; 2]>,
}

impl Product {
    /// Two square matrices: of 2,048 rows on the CPU, of 8,192 on a GPU, which is faster the larger they are.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn new(dtype: DType, device: &Device) -> Result<Self> {
        let side = if device.is_cpu() { 2048 } else { 8192 };
        let weight = arbitrary(&[side, side], dtype, device)?;
        let x = weight.to_dtype(activations(&weight))?.unsqueeze(0)?;
        let linear = Linear::new(&weight, None, Path::Inference)?;
        // candle's own product, where it knows the format.
        let plain = if x.dtype() == dtype { Some([weight.clone(), weight.t()?.contiguous()?]) } else { None };
        Ok(Self { x, linear, plain })
    }

    /// FLOP/s of one product in our own layout or one of candle's, whichever is faster.
    ///
    /// # Errors
    /// When there is no memory for the result.
    pub fn rate(&self) -> Result<f64> {
        let device = self.x.device();
        let mut best = seconds(device, || self.linear.forward(&self.x))?;
        if let Some([left, right]) = &self.plain {
            best = best.min(seconds(device, || left.matmul(right))?);
        }
        Ok(2.0 * (self.x.dim(2)? as f64).powi(3) / best)
    }
}

/// The best rate at which a device's memory is copied, by all threads on the CPU, in bytes read plus bytes written per second.
///
/// # Errors
/// When there is no memory for the copy.
pub fn copy_rate(rounds: usize, device: &Device) -> Result<f64> {
    const BYTES: usize = 1 << 28;
    if !device.is_cpu() {
        let from = Tensor::zeros(BYTES, DType::U8, device)?;
        let mut best = f64::INFINITY;
        for _ in 0..=rounds {
            best = best.min(seconds(device, || from.copy())?);
        }
        return Ok(2.0 * BYTES as f64 / best);
    }
    let from = vec![1u8; BYTES];
    let mut to = vec![0u8; BYTES];
    let chunk = BYTES / (4 * rayon::current_num_threads());
    let mut best = f64::INFINITY;
    for _ in 0..=rounds {
        let start = Instant::now();
        to.par_chunks_mut(chunk).zip(from.par_chunks(chunk)).for_each(|(to, from)| to.copy_from_slice(from));
        black_box(&to);
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(2.0 * BYTES as f64 / best)
}

fn seconds(device: &Device, work: impl FnOnce() -> Result<Tensor>) -> Result<f64> {
    device.synchronize()?;
    let start = Instant::now();
    black_box(work()?);
    device.synchronize()?;
    Ok(start.elapsed().as_secs_f64())
}

/// A weight of a shape for timing: small values that are the same every time.
///
/// # Errors
/// When there is no memory for it.
pub fn arbitrary(shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
    let size = shape.iter().product();
    let mut values = vec![0f32; size];
    values.par_iter_mut().enumerate().for_each(|(i, value)| *value = (i * 7919 % 1009) as f32 / 25_000.0 - 0.02);
    Tensor::from_vec(values, shape, device)?.to_dtype(dtype)
}
