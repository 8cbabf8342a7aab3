//! Rotary position embeddings (Su et al. 2021, arXiv 2104.09864) and the ways to stretch them.

use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::{
    Path,
    training::{Turn, has_kernels},
};

/// Base, extent and scaling of the rotary frequencies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RopeSpec {
    /// Base θ: frequency i is `θ^(−2i/dim)`.
    pub theta: f64,
    /// The first coordinates of a head that are turned; the others carry no position.
    pub dim: usize,
    /// Whether neighbours are paired (GPT-J, Command R) instead of the two halves (GPT-NeoX, Llama).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub interleaved: bool,
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
    /// YaRN (Peng et al. 2023, arXiv 2309.00071): frequencies that turn less than `slow` times in the original window are divided
    /// by `factor`, those that turn more than `fast` times are kept, a ramp over their index between.
    Yarn {
        /// The divisor of low frequencies.
        factor: f64,
        /// Turns above which a frequency is kept.
        fast: f64,
        /// Turns below which a frequency is divided.
        slow: f64,
        /// Window of pre-training.
        original_positions: usize,
        /// Whether the ramp begins and ends at whole indices.
        truncate: bool,
        /// Factor of cosines and sines.
        attention_factor: f64,
    },
    /// LongRoPE (Ding et al. 2024, arXiv 2402.13753): a divisor of its own for each frequency, of one list in windows up to the
    /// original length and of another in longer ones.
    LongRope {
        /// Divisors in windows of at most `original_positions`.
        short: Vec<f64>,
        /// Divisors in longer windows.
        long: Vec<f64>,
        /// Window of pre-training.
        original_positions: usize,
        /// Factor of cosines and sines.
        attention_factor: f64,
    },
}

impl RopeSpec {
    /// The `dim / 2` angular frequencies, radians per position, in a window of `seq` tokens.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)]
    pub fn frequencies(&self, seq: usize) -> Vec<f32> {
        let base = (0..self.dim).step_by(2).map(|i| self.theta.powf(-(i as f64) / self.dim as f64));
        base.enumerate().map(|(i, frequency)| self.stretch(i, frequency, seq) as f32).collect()
    }

    fn stretch(&self, i: usize, frequency: f64, seq: usize) -> f64 {
        match &self.scaling {
            RopeScaling::Default => frequency,
            RopeScaling::Linear { factor } => frequency / factor,
            RopeScaling::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_positions } => {
                let (low, high) = (low_frequency_factor, high_frequency_factor);
                let turns = *original_positions as f64 * frequency / std::f64::consts::TAU;
                // 0 where fewer than `low` turns fit into the original window, 1 where more than `high` do.
                let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
            RopeScaling::Yarn { factor, fast, slow, original_positions, truncate, .. } => {
                let (low, high) = self.ramp(*fast, *slow, *original_positions, *truncate);
                let divided = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                divided * frequency / factor + (1.0 - divided) * frequency
            }
            RopeScaling::LongRope { short, long, original_positions, .. } => {
                frequency / if seq > *original_positions { long[i] } else { short[i] }
            }
        }
    }

    /// Between which indices YaRN goes over from kept to divided frequencies.
    fn ramp(&self, fast: f64, slow: f64, original_positions: usize, truncate: bool) -> (f64, f64) {
        // The index whose frequency turns `turns` times in the original window.
        let index = |turns: f64| {
            let wavelengths = original_positions as f64 / (turns * std::f64::consts::TAU);
            self.dim as f64 * wavelengths.ln() / (2.0 * self.theta.ln())
        };
        let (low, high) = (index(fast), index(slow));
        let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
        let (low, high) = (low.max(0.0), high.min(self.dim as f64 - 1.0));
        (low, high.max(low + 0.001))
    }

    fn attention_factor(&self) -> f64 {
        match self.scaling {
            RopeScaling::Yarn { attention_factor, .. } | RopeScaling::LongRope { attention_factor, .. } => {
                attention_factor
            }
            _ => 1.0,
        }
    }
}

/// Cosines and sines of the positions of windows: `[seq, dim / 2]`, or `[rows, seq, dim / 2]` where every row has its own.
pub struct Rotary {
    pub cos: Tensor,
    pub sin: Tensor,
    /// Values of a head that are turned, its first.
    pub dim: usize,
    /// Whether the pairs that are turned are neighbours, or else halves apart.
    pub interleaved: bool,
    kernel: Mutex<Option<Turn>>,
}

impl Rotary {
    pub fn new(spec: &RopeSpec, seq: usize, dtype: DType, device: &Device) -> Result<Self> {
        let frequencies = spec.frequencies(seq);
        let angles: Vec<f32> = (0..seq)
            .flat_map(|position| frequencies.iter().map(move |frequency| position as f32 * frequency))
            .collect();
        Self::of_angles(spec, &Tensor::from_vec(angles, (seq, frequencies.len()), device)?, dtype)
    }

    /// Of `positions` [rows][seq], in rows that are `lengths` long all in all.
    pub fn at(
        spec: &RopeSpec,
        positions: &[Vec<usize>],
        lengths: &[usize],
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let of_row = |(row, &length): (&Vec<usize>, &usize)| {
            let frequencies = spec.frequencies(length);
            let angles = |&position: &usize| frequencies.iter().map(move |frequency| position as f32 * frequency);
            row.iter().flat_map(angles).collect::<Vec<f32>>()
        };
        let angles: Vec<f32> = positions.iter().zip(lengths).flat_map(of_row).collect();
        let shape = (positions.len(), positions.first().map_or(0, Vec::len), spec.dim / 2);
        Self::of_angles(spec, &Tensor::from_vec(angles, shape, device)?, dtype)
    }

    fn of_angles(spec: &RopeSpec, angles: &Tensor, dtype: DType) -> Result<Self> {
        let scaled = |x: Tensor| (x * spec.attention_factor())?.to_dtype(dtype);
        Ok(Self {
            cos: scaled(angles.cos()?)?,
            sin: scaled(angles.sin()?)?,
            dim: spec.dim,
            interleaved: spec.interleaved,
            kernel: Mutex::new(None),
        })
    }

    /// Turns queries or keys `[batch, seq, heads, head_dim]`.
    pub fn turn(&self, x: &Tensor, path: Path) -> Result<Tensor> {
        let head_dim = x.dim(3)?;
        if let Some(kernel) = self.in_hand(x, path)? {
            return x.contiguous()?.apply_op1(kernel);
        }
        if self.dim == head_dim {
            return self.turn_whole(x, path);
        }
        let turned = self.turn_whole(&x.narrow(3, 0, self.dim)?, path)?;
        Tensor::cat(&[turned, x.narrow(3, self.dim, head_dim - self.dim)?], 3)
    }

    /// The gradient of what was turned, from that of what came out, where we have a kernel for it.
    pub fn turn_back(&self, gradient: &Tensor) -> Result<Tensor> {
        self.kernel()?.back(gradient)
    }

    /// The kernel that turns such queries or keys on the CPU, for those who have them in hand, where there is one.
    pub fn in_hand(&self, x: &Tensor, path: Path) -> Result<Option<Turn>> {
        let has_kernel = match path {
            Path::Training => has_kernels(x),
            // The kernel's windows all begin at the same position.
            Path::Inference => has_kernels(x) && self.cos.rank() == 2,
            Path::Portable | Path::Differentiable => false,
        };
        has_kernel.then(|| self.kernel()).transpose()
    }

    /// The kernel that turns and, for the gradient, turns back.
    fn kernel(&self) -> Result<Turn> {
        let table = |x: &Tensor| x.flatten_all()?.to_vec1::<f32>().map(Arc::new);
        let mut kernel = self.kernel.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if kernel.is_none() {
            *kernel = Some(Turn::new(table(&self.cos)?, table(&self.sin)?, self.dim, self.interleaved));
        }
        Ok(kernel.clone().expect("it was made above"))
    }

    fn turn_whole(&self, x: &Tensor, path: Path) -> Result<Tensor> {
        use candle_nn::rotary_emb::{rope_i, rope_i_slow, rope_slow, rope_thd};
        if !matches!(path, Path::Differentiable | Path::Training) && !self.interleaved {
            return rope_thd(&x.contiguous()?, &self.cos, &self.sin);
        }
        let by_head = x.transpose(1, 2)?.contiguous()?;
        let turned = match (path, self.interleaved) {
            (Path::Inference | Path::Portable, _) => rope_i(&by_head, &self.cos, &self.sin),
            (Path::Differentiable | Path::Training, true) => rope_i_slow(&by_head, &self.cos, &self.sin),
            (Path::Differentiable | Path::Training, false) => rope_slow(&by_head, &self.cos, &self.sin),
        };
        turned?.transpose(1, 2)
    }
}
