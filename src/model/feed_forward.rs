//! A layer's feed-forward network, whose hidden units are the neurons.

use candle_core::{Result, Tensor};

use super::{
    Path, activation,
    activation::Activation,
    experts::Mixture,
    linear::Linear,
    norm::Norm,
    observer::{Observer, Tally},
    patch::{Projection, Site},
    training,
    weights::Weights,
};

/// The feed-forward part of a layer.
pub enum FeedForward {
    /// One network for all tokens.
    Dense(Dense),
    /// Several, each for the tokens that a router sends there.
    Routed(Mixture),
}

/// `down(act(gate(x)) · up(x))`, or `down(act(gate(x)))` without an up projection.
pub struct Dense {
    pub gate: Linear,
    pub up: Option<Linear>,
    pub down: Linear,
    pub activation: Activation,
    path: Path,
}

/// What a network has made of its input.
pub enum Product<'a> {
    /// Its hidden units `[batch, seq, ffn]`, and the projection that they still have to go through.
    Hidden(Tensor, &'a Linear),
    /// What it adds to the residual stream, `[batch, seq, hidden]`.
    Done(Tensor),
}

impl FeedForward {
    pub fn build(weights: &mut Weights, layer: usize) -> Result<Self> {
        match weights.spec().feed_forward.routing {
            Some(routing) => Ok(Self::Routed(Mixture::build(weights, layer, routing)?)),
            None => Dense::build(weights, layer).map(Self::Dense),
        }
    }

    /// Of `x [batch, seq, hidden]`.
    pub fn product(&self, x: &Tensor, layer: usize, observer: &mut dyn Observer) -> Result<Product<'_>> {
        match self {
            Self::Dense(dense) => dense.product(x, layer, observer),
            Self::Routed(experts) => experts.forward(x, layer, observer).map(Product::Done),
        }
    }

    /// `x` and the product of `norm(x)`, `[batch, seq, hidden]`, where all of it is one pass; else nothing.
    pub fn onto(
        &self,
        x: &Tensor,
        norm: Option<&Norm>,
        layer: usize,
        observer: &mut dyn Observer,
    ) -> Result<Option<Tensor>> {
        match (self, observer.tally()) {
            (Self::Dense(dense), Some(tally)) => dense.onto(x, norm, layer, tally),
            _ => Ok(None),
        }
    }

    /// Only the gate, for an observer.
    pub fn observe(&self, x: &Tensor, layer: usize, observer: &mut dyn Observer) -> Result<()> {
        match self {
            Self::Dense(dense) => activation::observe(&dense.gate.forward(x)?, dense.activation, layer, observer),
            Self::Routed(experts) => experts.observe(x, layer, observer),
        }
    }
}

impl Dense {
    fn build(weights: &mut Weights, layer: usize) -> Result<Self> {
        let (spec, names) = (weights.spec(), weights.names());
        let bias = spec.feed_forward.bias;
        let at = |projection| Some(Site { layer, projection });
        let (gate, up) = if spec.feed_forward.gated {
            let [gate, up] = weights.fused(layer, [Projection::Gate, Projection::Up], bias)?;
            (gate, Some(up))
        } else {
            (weights.linear(&names.inner(layer, names.plain), bias, at(Projection::Gate))?, None)
        };
        let down = weights.linear(&names.inner(layer, names.down), bias, at(Projection::Down))?;
        Ok(Self { gate, up, down, activation: spec.feed_forward.activation, path: weights.path() })
    }

    fn onto(&self, x: &Tensor, norm: Option<&Norm>, layer: usize, tally: &mut Tally) -> Result<Option<Tensor>> {
        match (self.path, &self.up) {
            (Path::Inference, Some(up)) => self.at_once(up, (x, norm, true), layer, tally),
            _ => Ok(None),
        }
    }

    fn at_once(
        &self,
        up: &Linear,
        input: (&Tensor, Option<&Norm>, bool),
        layer: usize,
        tally: &mut Tally,
    ) -> Result<Option<Tensor>> {
        Linear::gated([&self.gate, up, &self.down], input, self.activation, layer, tally)
    }

    fn product(&self, x: &Tensor, layer: usize, observer: &mut dyn Observer) -> Result<Product<'_>> {
        if let (Path::Inference, Some(up), Some(tally)) = (self.path, &self.up, observer.tally())
            && let Some(y) = self.at_once(up, (x, None, false), layer, tally)?
        {
            return Ok(Product::Done(y));
        }
        // [batch, seq, ffn]: positive exactly where the neuron fires; all our non-linearities keep the sign.
        let (gate, up) = match &self.up {
            Some(up) => {
                let [gate, up] = Linear::together([&self.gate, up], x, None)?;
                (gate, Some(up))
            }
            None => (self.gate.forward(x)?, None),
        };
        let h = match (self.path, up) {
            (Path::Inference | Path::Portable, Some(up)) => {
                activation::gated(&gate, up, self.activation, layer, observer)?
            }
            (Path::Inference | Path::Portable, None) => activation::plain(gate, self.activation, layer, observer)?,
            (Path::Training, Some(up)) if training::has_kernels(&gate) => {
                activation::observe(&gate, self.activation, layer, observer)?;
                gate.apply_op2(&up, training::Gated(self.activation))?
            }
            (Path::Differentiable | Path::Training, up) => {
                activation::observe(&gate, self.activation, layer, observer)?;
                let h = self.activation.forward(&gate)?;
                if let Some(up) = up { (h * up)? } else { h }
            }
        };
        Ok(Product::Hidden(h, &self.down))
    }
}
