//! AdamW (Loshchilov & Hutter 2017, arXiv 1711.05101), the clipping of gradients, and schedules of the learning rate: every operation in
//! the order in which PyTorch does it.

use serde::{Deserialize, Serialize};

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

    /// One step of one parameter: `values`, its moments and its gradient are of the same length, and `base` too where it is pulled there.
    #[allow(clippy::cast_possible_truncation)]
    pub fn step(
        &self,
        step: u64,
        rate: f64,
        values: &mut [f32],
        moments: &mut Moments,
        gradient: &[f32],
        base: &[f32],
    ) {
        let steps = i32::try_from(step).unwrap_or(i32::MAX);
        let (first, second) = (1.0 - self.beta1.powi(steps), 1.0 - self.beta2.powi(steps));
        let (keep, pull) = ((1.0 - rate * self.decay) as f32, (rate * self.decay) as f32);
        let (mix, beta2, rest) = ((1.0 - self.beta1) as f32, self.beta2 as f32, (1.0 - self.beta2) as f32);
        let (root, eps, size) = (second.sqrt() as f32, self.eps as f32, (rate / first) as f32);
        let Moments { mean, square } = moments;
        for (i, value) in values.iter_mut().enumerate() {
            let g = gradient[i];
            match self.decay_to {
                DecayTo::Zero => *value *= keep,
                DecayTo::Base => *value -= pull * (*value - base[i]),
            }
            mean[i] += (g - mean[i]) * mix;
            square[i] = square[i] * beta2 + rest * g * g;
            *value -= size * (mean[i] / (square[i].sqrt() / root + eps));
        }
    }
}

/// Running means of a parameter's gradients and of their squares.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moments {
    /// Of the gradients.
    pub mean: Vec<f32>,
    /// Of their squares.
    pub square: Vec<f32>,
}

impl Moments {
    /// Of a parameter that has seen no gradient.
    #[must_use]
    pub fn new(len: usize) -> Self {
        Self { mean: vec![0.0; len], square: vec![0.0; len] }
    }
}

/// Makes the gradients of all parameters together no longer than `largest`, and gives their norm before.
#[allow(clippy::cast_possible_truncation)]
pub fn clip(gradients: &mut [Vec<f32>], largest: f64) -> f64 {
    let square = |gradient: &Vec<f32>| gradient.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>();
    let norm = gradients.iter().map(square).sum::<f64>().sqrt();
    let factor = (largest / (norm + 1e-6)) as f32;
    if factor < 1.0 {
        gradients.iter_mut().flatten().for_each(|g| *g *= factor);
    }
    norm
}
