//! Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685) of the feed-forward projections: `W + (α / r) B A`, as PEFT computes it.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Result, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Adaptation, Choice, Method, dropout::dropout};
use crate::model::{Patch, Site};

pub(super) const METHOD: Method = Method {
    name: "lora",
    help: "low-rank matrices beside gate, up and down of every layer",
    rate: 1e-4,
    clip: 1.0,
    neurons: false,
    open: |choice: &Choice| {
        let &Choice { rank, alpha, dropout, seed, .. } = choice;
        Ok(Box::new(Lora { rank, scale: alpha / rank as f64, dropout, seed }))
    },
};

struct Lora {
    rank: usize,
    scale: f64,
    dropout: f64,
    seed: u64,
}

/// A stream of random numbers for one projection.
fn stream(seed: u64, site: Site, purpose: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    let words = [seed, site.layer as u64, site.projection as u64, purpose];
    key.chunks_exact_mut(8).zip(words).for_each(|(key, word)| key.copy_from_slice(&word.to_le_bytes()));
    ChaCha8Rng::from_seed(key)
}

/// Uniform in 0..1, of 24 bits.
fn unit(rng: &mut ChaCha8Rng) -> f32 {
    (rng.next_u32() >> 8) as f32 / (1 << 24) as f32
}

impl Adaptation for Lora {
    fn size(&self, site: Site, out: usize, inner: usize) -> u64 {
        if site.projection.is_ffn() { (self.rank * (out + inner)) as u64 } else { 0 }
    }

    fn patch(&self, site: Site, weight: &Tensor) -> Result<Option<Arc<dyn Patch>>> {
        if !site.projection.is_ffn() {
            return Ok(None);
        }
        let ((out, inner), device) = (weight.dims2()?, weight.device());
        // Kaiming's uniform with a = √5, as PEFT begins: within ±1/√in.
        let bound = 1.0 / (inner as f32).sqrt();
        let mut rng = stream(self.seed, site, 0);
        let values: Vec<f32> = (0..self.rank * inner).map(|_| (2.0 * unit(&mut rng) - 1.0) * bound).collect();
        Ok(Some(Arc::new(LowRank {
            a: Var::from_tensor(&Tensor::from_vec(values, (self.rank, inner), device)?)?,
            b: Var::zeros((out, self.rank), DType::F32, device)?,
            scale: self.scale,
            dropout: self.dropout,
            site,
            seed: Mutex::new(None),
        })))
    }
}

struct LowRank {
    /// `[rank, in]`.
    a: Var,
    /// `[out, rank]`.
    b: Var,
    scale: f64,
    dropout: f64,
    site: Site,
    seed: Mutex<Option<u64>>,
}

impl LowRank {
    /// The input with a share of its values dropped and the others larger, the same for the same seed: a layer that is recomputed meets the
    /// same ones.
    fn dropped(&self, x: &Tensor) -> Result<Tensor> {
        let seed = *self.seed.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(seed) = seed.filter(|_| self.dropout > 0.0) else { return Ok(x.clone()) };
        dropout(x, self.dropout, stream(seed, self.site, 1).next_u64())
    }
}

impl Patch for LowRank {
    fn apply(&self, x: &Tensor, y: Tensor) -> Result<Tensor> {
        let (batch, seq, width) = x.dims3()?;
        let x = self.dropped(x)?.reshape((batch * seq, width))?;
        let low = (x.matmul(&self.a.to_dtype(x.dtype())?.t()?)? * self.scale)?;
        let high = low.matmul(&self.b.to_dtype(x.dtype())?.t()?)?;
        y + high.reshape((batch, seq, ()))?
    }

    fn merge(&self, weight: &Tensor) -> Result<Tensor> {
        weight.to_dtype(DType::F32)? + (self.b.matmul(&self.a)? * self.scale)?
    }

    fn vars(&self) -> Vec<(&'static str, &Var)> {
        vec![("lora_A", &self.a), ("lora_B", &self.b)]
    }

    fn seed(&self, seed: Option<u64>) {
        *self.seed.lock().unwrap_or_else(PoisonError::into_inner) = seed;
    }
}
