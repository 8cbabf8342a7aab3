//! (IA)³ (Liu et al. 2022, arXiv 2205.05638): a factor for every key, every value and every activation of a FFN.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor, Var};

use super::{Adaptation, Choice, Method};
use crate::model::{Patch, Projection, Site};

pub(super) const METHOD: Method = Method {
    name: "ia3",
    help: "a factor for every key, value and FFN activation",
    rate: 1e-3,
    clip: 1.0,
    neurons: false,
    open: |_: &Choice| Ok(Box::new(Ia3)),
};

struct Ia3;

impl Adaptation for Ia3 {
    fn size(&self, site: Site, out: usize, inner: usize) -> u64 {
        match site.projection {
            Projection::Key | Projection::Value => out as u64,
            Projection::Down => inner as u64,
            _ => 0,
        }
    }

    fn patch(&self, site: Site, weight: &Tensor) -> Result<Option<Arc<dyn Patch>>> {
        let (out, inner) = weight.dims2()?;
        let (width, inputs) = match site.projection {
            Projection::Key | Projection::Value => (out, false),
            Projection::Down => (inner, true),
            _ => return Ok(None),
        };
        Ok(Some(Arc::new(Factors { factors: Var::ones(width, DType::F32, weight.device())?, inputs })))
    }
}

struct Factors {
    factors: Var,
    /// Whether the projection's inputs are multiplied, or else its outputs.
    inputs: bool,
}

impl Factors {
    fn times(&self, x: &Tensor) -> Result<Tensor> {
        x.broadcast_mul(&self.factors.to_dtype(x.dtype())?)
    }
}

impl Patch for Factors {
    fn enter(&self, x: &Tensor) -> Result<Tensor> {
        if self.inputs { self.times(x) } else { Ok(x.clone()) }
    }

    fn apply(&self, _: &Tensor, y: Tensor) -> Result<Tensor> {
        if self.inputs { Ok(y) } else { self.times(&y) }
    }

    fn merge(&self, weight: &Tensor) -> Result<Tensor> {
        let weight = weight.to_dtype(DType::F32)?;
        if self.inputs {
            weight.broadcast_mul(&self.factors)
        } else {
            weight.broadcast_mul(&self.factors.unsqueeze(1)?)
        }
    }

    fn merge_bias(&self, bias: &Tensor) -> Result<Tensor> {
        if self.inputs { Ok(bias.clone()) } else { bias.to_dtype(DType::F32)?.mul(&self.factors) }
    }

    fn vars(&self) -> Vec<(&'static str, &Var)> {
        vec![("factors", &self.factors)]
    }
}
