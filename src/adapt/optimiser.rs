//! AdamW (Loshchilov & Hutter 2017, arXiv 1711.05101), the clipping of gradients, and schedules of the learning rate: every operation in
//! the order in which PyTorch does it.

use candle_core::{CpuStorage, DType, InplaceOp2, InplaceOp3, Layout, Result, Tensor, Var};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::model::matrix::{slice, slice_mut};

/// What weight decay pulls towards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum DecayTo {
    /// Zero, as AdamW was published.
    #[default]
    Zero,
    /// The value before training.
    Base,
}

/// How the learning rate goes over the steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// The same throughout.
    #[default]
    Constant,
    /// Half a cosine down to zero.
    Cosine,
    /// Straight down to zero.
    Linear,
}

impl Schedule {
    /// The factor of the learning rate at a step, the first being 1: `warmup` steps straight up, then as transformers has it.
    #[must_use]
    pub fn factor(self, step: u64, warmup: u64, steps: u64) -> f64 {
        let done = step - 1;
        if done < warmup {
            return done as f64 / warmup as f64;
        }
        let share = (done - warmup) as f64 / steps.saturating_sub(warmup).max(1) as f64;
        match self {
            Self::Constant => 1.0,
            Self::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * share).cos()),
            Self::Linear => (1.0 - share).max(0.0),
        }
    }
}

/// The optimiser's settings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdamW {
    /// Learning rate.
    pub rate: f64,
    /// Decay of the mean of the gradients.
    pub beta1: f64,
    /// Decay of the mean of their squares.
    pub beta2: f64,
    /// Added to the root.
    pub eps: f64,
    /// Share, times the learning rate, by which a weight is pulled at every step.
    pub decay: f64,
    /// Towards what.
    pub decay_to: DecayTo,
}

impl AdamW {
    /// The defaults of the paper and of PyTorch, at a learning rate.
    #[must_use]
    pub fn new(rate: f64) -> Self {
        Self { rate, beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: 0.01, decay_to: DecayTo::Zero }
    }

    /// One step of one parameter: its moments, its gradient times `factor`, and its values before training, where it is pulled there, are
    /// tensors of its own shape in f32.
    ///
    /// # Errors
    /// When they are of another shape or the device fails.
    #[allow(clippy::cast_possible_truncation)]
    pub fn step(
        &self,
        step: u64,
        rate: f64,
        value: &Var,
        moments: &mut Moments,
        (gradient, factor): (&Tensor, f32),
        base: Option<&Tensor>,
    ) -> Result<()> {
        let steps = i32::try_from(step).unwrap_or(i32::MAX);
        let (first, second) = (1.0 - self.beta1.powi(steps), 1.0 - self.beta2.powi(steps));
        let mean = Mean { factor, mix: (1.0 - self.beta1) as f32 };
        let square = Square { factor, beta2: self.beta2 as f32, rest: (1.0 - self.beta2) as f32 };
        let update = Update {
            keep: (1.0 - rate * self.decay) as f32,
            pull: (rate * self.decay) as f32,
            base: base.filter(|_| self.decay_to == DecayTo::Base),
            root: second.sqrt() as f32,
            eps: self.eps as f32,
            size: (rate / first) as f32,
        };
        #[cfg(feature = "cuda")]
        if value.device().is_cuda() {
            use crate::model::gpu::training::Step;
            let (Mean { mix, .. }, Square { beta2, rest, .. }) = (mean, square);
            let Update { keep, pull, base, root, eps, size } = update;
            let step = Step { factor, mix, beta2, rest, keep, pull, root, eps, size };
            return step.take(value, [&moments.mean, &moments.square], gradient, base);
        }
        if !value.device().is_cpu() {
            moments.mean = mean.of(&moments.mean, gradient)?;
            moments.square = square.of(&moments.square, gradient)?;
            return value.set(&update.of(value, moments)?);
        }
        let gradient = gradient.contiguous()?;
        moments.mean.inplace_op2(&gradient, &mean)?;
        moments.square.inplace_op2(&gradient, &square)?;
        value.inplace_op3(&moments.mean, &moments.square, &update)
    }
}

/// Running means of a parameter's gradients and of their squares, in f32, where the parameter is.
#[derive(Clone, Debug)]
pub struct Moments {
    /// Of the gradients.
    pub mean: Tensor,
    /// Of their squares.
    pub square: Tensor,
}

impl Moments {
    /// Of a parameter that has seen no gradient.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn new(value: &Var) -> Result<Self> {
        let zeros = || Tensor::zeros(value.shape(), DType::F32, value.device());
        Ok(Self { mean: zeros()?, square: zeros()? })
    }
}

/// Values that one task takes.
const CHUNK: usize = 1 << 15;

/// The norm of the gradients of all parameters together.
///
/// # Errors
/// When the device fails.
pub fn norm(gradients: &[Tensor]) -> Result<f64> {
    #[cfg(feature = "cuda")]
    if gradients.iter().all(|gradient| gradient.device().is_cuda()) {
        let squares = crate::model::gpu::training::squares(gradients)?;
        return Ok(squares.into_iter().map(f64::from).sum::<f64>().sqrt());
    }
    if gradients.iter().any(|gradient| !gradient.device().is_cpu()) {
        // Read together, since reading waits for the device.
        let squares = gradients.iter().map(|gradient| gradient.sqr()?.sum_all()).collect::<Result<Vec<_>>>()?;
        let squares = Tensor::stack(&squares, 0)?.to_vec1::<f32>()?;
        return Ok(squares.into_iter().map(f64::from).sum::<f64>().sqrt());
    }
    let square = |gradient: &Tensor| -> Result<f64> {
        let gradient = gradient.contiguous()?;
        let (storage, layout) = gradient.storage_and_layout();
        let candle_core::Storage::Cpu(storage) = &*storage else {
            candle_core::bail!("the gradient is not on the CPU")
        };
        let parts = slice(storage, layout)?.par_chunks(CHUNK);
        // Added in the order of the parts, so that the sum is the same whatever the number of threads.
        let sums = parts.map(|part| part.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>());
        Ok(sums.collect::<Vec<_>>().into_iter().sum())
    };
    gradients.iter().map(square).sum::<Result<f64>>().map(f64::sqrt)
}

/// The factor that makes gradients of a norm no longer than `largest`.
#[must_use]
#[allow(clippy::cast_possible_truncation)]
pub fn clip(norm: f64, largest: f64) -> f32 {
    ((largest / (norm + 1e-6)) as f32).min(1.0)
}

fn same_length(lengths: &[usize]) -> Result<()> {
    if lengths.windows(2).any(|pair| pair[0] != pair[1]) {
        candle_core::bail!("a parameter, its moments and its gradient are of different lengths: {lengths:?}");
    }
    Ok(())
}

/// The running mean, one gradient further.
struct Mean {
    factor: f32,
    mix: f32,
}

impl Mean {
    fn of(&self, mean: &Tensor, gradient: &Tensor) -> Result<Tensor> {
        mean + ((gradient * f64::from(self.factor))? - mean)? * f64::from(self.mix)
    }
}

impl InplaceOp2 for Mean {
    fn name(&self) -> &'static str {
        "adamw-mean"
    }

    fn cpu_fwd(&self, mean: &mut CpuStorage, place: &Layout, gradient: &CpuStorage, from: &Layout) -> Result<()> {
        let (mean, gradient) = (slice_mut(mean, place)?, slice(gradient, from)?);
        same_length(&[mean.len(), gradient.len()])?;
        mean.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK)).for_each(|(mean, gradient)| {
            for (mean, g) in mean.iter_mut().zip(gradient) {
                *mean += (g * self.factor - *mean) * self.mix;
            }
        });
        Ok(())
    }
}

/// The running mean of the squares, one gradient further.
struct Square {
    factor: f32,
    beta2: f32,
    rest: f32,
}

impl Square {
    fn of(&self, square: &Tensor, gradient: &Tensor) -> Result<Tensor> {
        (square * f64::from(self.beta2))? + ((gradient * f64::from(self.factor))?.sqr()? * f64::from(self.rest))?
    }
}

impl InplaceOp2 for Square {
    fn name(&self) -> &'static str {
        "adamw-square"
    }

    fn cpu_fwd(&self, square: &mut CpuStorage, place: &Layout, gradient: &CpuStorage, from: &Layout) -> Result<()> {
        let (square, gradient) = (slice_mut(square, place)?, slice(gradient, from)?);
        same_length(&[square.len(), gradient.len()])?;
        square.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK)).for_each(|(square, gradient)| {
            for (square, g) in square.iter_mut().zip(gradient) {
                let g = g * self.factor;
                *square = *square * self.beta2 + self.rest * g * g;
            }
        });
        Ok(())
    }
}

/// The values, one step further.
struct Update<'a> {
    keep: f32,
    pull: f32,
    base: Option<&'a Tensor>,
    root: f32,
    eps: f32,
    size: f32,
}

impl Update<'_> {
    fn of(&self, value: &Tensor, moments: &Moments) -> Result<Tensor> {
        let pulled = match self.base {
            None => (value.detach() * f64::from(self.keep))?,
            Some(base) => (value.detach() - ((value.detach() - base)? * f64::from(self.pull))?)?,
        };
        let root = ((moments.square.sqrt()? / f64::from(self.root))? + f64::from(self.eps))?;
        pulled - ((&moments.mean / root)? * f64::from(self.size))?
    }
}

impl InplaceOp3 for Update<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(
        &self,
        value: &mut CpuStorage,
        place: &Layout,
        mean: &CpuStorage,
        mean_place: &Layout,
        square: &CpuStorage,
        square_place: &Layout,
    ) -> Result<()> {
        let value = slice_mut(value, place)?;
        let (mean, square) = (slice(mean, mean_place)?, slice(square, square_place)?);
        same_length(&[value.len(), mean.len(), square.len()])?;
        let parts = value.par_chunks_mut(CHUNK).zip(mean.par_chunks(CHUNK).zip(square.par_chunks(CHUNK)));
        let step = |value: &mut f32, mean: f32, square: f32| {
            *value -= self.size * (mean / (square.sqrt() / self.root + self.eps));
        };
        let Some(base) = self.base else {
            parts.for_each(|(value, (mean, square))| {
                for ((value, mean), square) in value.iter_mut().zip(mean).zip(square) {
                    *value *= self.keep;
                    step(value, *mean, *square);
                }
            });
            return Ok(());
        };
        let (storage, layout) = base.storage_and_layout();
        let candle_core::Storage::Cpu(storage) = &*storage else { candle_core::bail!("the base is not on the CPU") };
        let base = slice(storage, layout)?;
        same_length(&[mean.len(), base.len()])?;
        parts.zip(base.par_chunks(CHUNK)).for_each(|((value, (mean, square)), base)| {
            for (((value, mean), square), base) in value.iter_mut().zip(mean).zip(square).zip(base) {
                *value -= self.pull * (*value - base);
                step(value, *mean, *square);
            }
        });
        Ok(())
    }
}
