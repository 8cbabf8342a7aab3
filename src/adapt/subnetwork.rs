//! The neurons of a language: of each its row of the gate and of the up projection and its column of the down projection, and nothing
//! else (arXiv 2510.13580). They are variables of their own beside frozen projections: a masked large one would still decay.

use std::sync::Arc;

use candle_core::{D, Result, Tensor, Var};

use super::{Adaptation, Choice, Method};
use crate::{
    model::{Patch, Projection, Site},
    neuron::NeuronSet,
};

pub(super) const METHOD: Method = Method {
    name: "subnetwork",
    help: "the neurons that serve the language, and nothing else",
    rate: 1e-4,
    clip: 1.0,
    neurons: true,
    open: |choice: &Choice| Ok(Box::new(Subnetwork { neurons: choice.neurons()?.clone() })),
};

/// Trains a set of neurons.
pub(super) struct Subnetwork {
    pub neurons: NeuronSet,
}

impl Adaptation for Subnetwork {
    fn neurons(&self) -> Option<&NeuronSet> {
        Some(&self.neurons)
    }

    fn size(&self, site: Site, out: usize, inner: usize) -> u64 {
        let neurons = self.neurons.layer(site.layer).len();
        let each = match site.projection {
            Projection::Gate | Projection::Up => inner,
            Projection::Down => out,
            _ => 0,
        };
        (neurons * each) as u64
    }

    fn patch(&self, site: Site, weight: &Tensor) -> Result<Option<Arc<dyn Patch>>> {
        let neurons = self.neurons.layer(site.layer);
        if neurons.is_empty() || !site.projection.is_ffn() {
            return Ok(None);
        }
        Ok(Some(Arc::new(Rows::new(neurons, weight, site.projection == Projection::Down)?)))
    }
}

/// Rows of a projection's outputs, or columns of its inputs, with values of their own.
struct Rows {
    indices: Vec<u32>,
    neurons: Tensor,
    /// The dimension of the weight `[out, in]` that the neurons are along.
    along: usize,
    /// What the frozen weight has there.
    base: Tensor,
    values: Var,
}

impl Rows {
    fn new(neurons: &[u32], weight: &Tensor, columns: bool) -> Result<Self> {
        let (along, indices) = (usize::from(columns), neurons.to_vec());
        let neurons = Tensor::new(neurons, weight.device())?;
        let base = weight.index_select(&neurons, along)?.to_dtype(candle_core::DType::F32)?;
        Ok(Self { indices, neurons, along, values: Var::from_tensor(&base)?, base })
    }
}

impl Patch for Rows {
    /// `y + x (V − W)ᵀ` on the neurons: exactly `y` where nothing was trained yet.
    fn apply(&self, x: &Tensor, y: Tensor) -> Result<Tensor> {
        let change = (self.values.as_tensor() - &self.base)?.to_dtype(y.dtype())?;
        let times = |x: &Tensor| {
            let (batch, seq, width) = x.dims3()?;
            x.reshape((batch * seq, width))?.matmul(&change.t()?)?.reshape((batch, seq, ()))
        };
        if self.along == 0 {
            return y.index_add(&self.neurons, &times(x)?, D::Minus1);
        }
        y + times(&x.index_select(&self.neurons, D::Minus1)?)?
    }

    fn merge(&self, weight: &Tensor) -> Result<Tensor> {
        let weight = weight.to_dtype(candle_core::DType::F32)?;
        let index = self.neurons.unsqueeze(1 - self.along)?.broadcast_as(self.values.shape())?.contiguous()?;
        weight.scatter(&index, &self.values.as_tensor().contiguous()?, self.along)
    }

    fn replaces(&self) -> Option<(&[u32], usize, &Var)> {
        Some((&self.indices, self.along, &self.values))
    }

    fn vars(&self) -> Vec<(&'static str, &Var)> {
        vec![("values", &self.values)]
    }
}
