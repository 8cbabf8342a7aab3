//! Rotary position embeddings (Su et al. 2021, arXiv 2104.09864) and the ways to stretch them.

use candle_core::{DType, Device, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::Path;

/// Base and scaling of the rotary frequencies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RopeSpec {
    /// Base θ: frequency i of a head of width d is `θ^(−2i/d)`.
    pub theta: f64,
    /// How the frequencies are stretched for windows longer than those of pre-training.
    pub scaling: RopeScaling,
}

/// Stretching of rotary frequencies, as transformers' `rope_type` names it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum RopeScaling {
    /// None.
    Default,
    /// Every frequency divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, smooth between.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Wavelengths above `original_positions / low_frequency_factor` are divided.
        low_frequency_factor: f64,
        /// Wavelengths below `original_positions / high_frequency_factor` are kept.
        high_frequency_factor: f64,
        /// Window of pre-training.
        original_positions: usize,
    },
}

impl RopeSpec {
    /// The `head_dim / 2` angular frequencies, radians per position.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)]
    pub fn frequencies(&self, head_dim: usize) -> Vec<f32> {
        let base = (0..head_dim).step_by(2).map(|i| self.theta.powf(-(i as f64) / head_dim as f64));
        base.map(|frequency| self.scaling.stretch(frequency) as f32).collect()
    }
}

impl RopeScaling {
    fn stretch(&self, frequency: f64) -> f64 {
        match *self {
            Self::Default => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 { factor, low_frequency_factor: low, high_frequency_factor: high, original_positions } => {
                let turns = original_positions as f64 * frequency / std::f64::consts::TAU;
                // 0 where fewer than `low` turns fit into the original window, 1 where more than `high` do.
                let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        }
    }
}

/// Cosines and sines `[seq, head_dim / 2]` of the positions of one window.
pub struct Rotary {
    cos: Tensor,
    sin: Tensor,
}

impl Rotary {
    pub fn new(spec: &RopeSpec, head_dim: usize, seq: usize, dtype: DType, device: &Device) -> Result<Self> {
        let frequencies = spec.frequencies(head_dim);
        let angles: Vec<f32> = (0..seq)
            .flat_map(|position| frequencies.iter().map(move |frequency| position as f32 * frequency))
            .collect();
        let angles = Tensor::from_vec(angles, (seq, frequencies.len()), device)?;
        Ok(Self { cos: angles.cos()?.to_dtype(dtype)?, sin: angles.sin()?.to_dtype(dtype)? })
    }

    /// Turns queries or keys `[batch, seq, heads, head_dim]`, halves paired as in Llama checkpoints.
    pub fn turn(&self, x: &Tensor, path: Path) -> Result<Tensor> {
        match path {
            Path::Inference => candle_nn::rotary_emb::rope_thd(&x.contiguous()?, &self.cos, &self.sin),
            Path::Differentiable => {
                candle_nn::rotary_emb::rope_slow(&x.transpose(1, 2)?.contiguous()?, &self.cos, &self.sin)?
                    .transpose(1, 2)
            }
        }
    }
}
