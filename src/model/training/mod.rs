//! The backward pass for training: gradients of what is trained, and nothing for what is frozen.
//!
//! A frozen projection's backward gives only its input's gradient, so that a token costs 2 FLOPs per frozen parameter forward and 2
//! backward, where candle's own product would add 2 for a gradient that nobody wants. On the CPU and on NVIDIA's GPUs the frozen parts are
//! kernels.

mod activation;
mod attention;
mod loss;
mod norm;
mod pass;
mod projection;
mod replaced;
mod rotary;

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor, Var, backprop::GradStore};

use self::loss::cross_entropy;
pub use self::{
    activation::Gated, attention::CausalGradient, norm::FrozenNorm, projection::Frozen, replaced::Replaced,
    rotary::Turn,
};
use super::{
    Decoder, Unobserved,
    matrix::{filled, with},
};

/// In place of the id that a position should predict: the position is not scored.
pub const UNSCORED: u32 = u32::MAX;

/// What of a forward pass is kept for the backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activations {
    /// All: no work is done twice.
    Kept,
    /// Every layer's input; the rest is computed once more, layer by layer, in the backward pass.
    Recomputed,
}

/// Whether a tensor is one that our own kernels read.
pub fn has_kernels(x: &Tensor) -> bool {
    #[cfg(feature = "cuda")]
    if super::gpu::fits(x) {
        return true;
    }
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// Tokens whose logits are held at once.
const SCORED: usize = 256;

impl Decoder {
    /// Mean negative log-likelihood, in nats per scored token, of windows `ids` [batch, seq], and its gradient for each of `vars`, none
    /// where a variable took no part. `targets` are the ids that the positions should predict, window by window, or [`UNSCORED`].
    /// The decoder is one of [`Decoder::trained`].
    ///
    /// # Errors
    /// When a tensor operation fails or nothing is scored.
    pub fn gradients(
        &self,
        ids: &Tensor,
        targets: &[u32],
        vars: &[Var],
        activations: Activations,
    ) -> Result<(f64, Vec<Option<Tensor>>)> {
        let mut gradients = Gradients { vars, sums: vec![None; vars.len()] };
        let positions = self.positions(ids)?;
        let embedded = self.embedding.forward(ids)?;
        // Below the first trained weight nothing needs a gradient.
        let (mut x, mut tracked) = (embedded.detach(), embedded.track_op());
        let mut passes = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            x = pass::forward(layer, x, &positions, &mut tracked, activations, &mut passes)?;
        }
        let (losses, mut gradient) = self.score(&x, targets, Some(&mut gradients))?;
        drop(x);
        while let Some(pass) = passes.pop() {
            let Some(above) = gradient else { break };
            gradient = pass.back(above, &positions, &mut gradients)?;
        }
        if let Some(gradient) = gradient.filter(|_| embedded.track_op()) {
            gradients.add(&mut backward(&embedded, gradient)?)?;
        }
        Ok((total(&losses)?, gradients.sums))
    }

    /// Sum of the negative log-likelihood over the scored tokens, in nats, and their number; without gradients.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn scored_nll(&self, ids: &Tensor, targets: &[u32]) -> Result<(f64, usize)> {
        let positions = self.positions(ids)?;
        let mut x = self.embedding.forward(ids)?.detach();
        for layer in &self.layers {
            x = layer.forward(x, &positions, &mut Unobserved)?.detach();
        }
        let scored = targets.iter().filter(|&&id| id != UNSCORED).count();
        if scored == 0 {
            return Ok((0.0, 0));
        }
        let (losses, _) = self.score(&x, targets, None)?;
        Ok((total(&losses)? * scored as f64, scored))
    }

    /// The parts of the mean loss of the last layer's output, and its gradient, a few tokens at a time: all logits of a batch would be its largest
    /// tensor by far.
    fn score(
        &self,
        x: &Tensor,
        targets: &[u32],
        mut gradients: Option<&mut Gradients>,
    ) -> Result<(Vec<Tensor>, Option<Tensor>)> {
        let hidden = x.dim(2)?;
        let rows = x.reshape(((), hidden))?.detach();
        let tokens = rows.dim(0)?;
        let scored = targets.iter().filter(|&&id| id != UNSCORED).count();
        if scored == 0 || targets.len() != tokens {
            candle_core::bail!("{scored} of {} targets are scored at {tokens} tokens", targets.len());
        }
        // Read when all is queued, since reading waits for a GPU.
        let (mut losses, mut parts) = (Vec::new(), Vec::new());
        for (i, targets) in targets.chunks(SCORED).enumerate() {
            let part = rows.narrow(0, i * SCORED, targets.len())?.unsqueeze(0)?;
            let part = if gradients.is_some() { Var::from_tensor(&part)?.as_tensor().clone() } else { part };
            let logits = self.head.forward(&self.norm.forward(&part)?)?;
            let nll = cross_entropy(&logits, targets, 1.0 / scored as f64)?;
            losses.push(nll.detach().to_dtype(DType::F32)?);
            if let Some(gradients) = gradients.as_deref_mut() {
                drop(logits);
                let mut found = nll.backward()?;
                match found.remove(&part) {
                    Some(gradient) => parts.push(gradient),
                    None => candle_core::bail!("the head drops gradients"),
                }
                gradients.add(&mut found)?;
            }
        }
        let gradient = if parts.is_empty() { None } else { Some(Tensor::cat(&parts, 1)?.reshape(x.shape())?) };
        Ok((losses, gradient))
    }
}

/// Their sum, in the order of the parts.
fn total(losses: &[Tensor]) -> Result<f64> {
    losses.iter().map(|loss| loss.to_scalar::<f32>().map(f64::from)).sum()
}

/// Sums of gradients over the parts of a pass, in the order of the variables.
struct Gradients<'a> {
    vars: &'a [Var],
    sums: Vec<Option<Tensor>>,
}

impl Gradients<'_> {
    /// Of one variable, by its tensor.
    fn put(&mut self, values: &Tensor, gradient: Tensor) -> Result<()> {
        let Some(place) = self.vars.iter().position(|var| var.id() == values.id()) else { return Ok(()) };
        let sum = &mut self.sums[place];
        *sum = Some(match sum.take() {
            Some(sum) => (sum + gradient)?,
            None => gradient,
        });
        Ok(())
    }

    fn add(&mut self, found: &mut GradStore) -> Result<()> {
        for var in self.vars {
            if let Some(gradient) = found.remove(var.as_tensor()) {
                self.put(var, gradient)?;
            }
        }
        Ok(())
    }
}

/// The backward pass of `y` from its own gradient.
fn backward(y: &Tensor, gradient: Tensor) -> Result<GradStore> {
    if has_kernels(y) {
        return y.apply_op1(Seed(gradient))?.backward();
    }
    (y * gradient)?.sum_all()?.backward()
}

/// A scalar whose gradient is a given one: `backward` begins with a one.
struct Seed(Tensor);

impl CustomOp1 for Seed {
    fn name(&self) -> &'static str {
        "seed"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), Shape::from(())))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, y: &candle_core::CudaStorage, _: &Layout) -> Result<(candle_core::CudaStorage, Shape)> {
        use candle_core::backend::BackendDevice;
        Ok((y.device.zeros_impl(&Shape::from(()), DType::F32)?, Shape::from(())))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.0.clone()))
    }
}

/// The tensor that a slice kernel makes in the shape of `like`.
///
/// # Safety
/// `fill` writes every value.
#[allow(unsafe_code)]
unsafe fn made(like: &Shape, fill: impl FnOnce(&mut [MaybeUninit<f32>])) -> Result<Tensor> {
    // SAFETY: as the caller promises.
    let values = unsafe { filled(like.elem_count(), fill) };
    Tensor::from_vec(values, like, &Device::Cpu)
}

/// Values that one task takes.
const CHUNK: usize = 1 << 15;
