//! A mixture of experts: a router sends each token to a few of a layer's feed-forward networks (Shazeer et al. 2017, arXiv 1701.06538).

use candle_core::{D, DType, Result, Tensor};

use super::{activation::Activation, linear::Linear, observer::Observer, spec::Routing, weights::Weights};

/// A router and its experts, each a gated feed-forward network.
pub struct Mixture {
    router: Linear,
    experts: Vec<Expert>,
    routing: Routing,
    activation: Activation,
}

struct Expert {
    gate: Linear,
    up: Linear,
    down: Linear,
}

/// Where the tokens of a batch go.
struct Routes {
    /// Per expert, the ascending places of its tokens in the batch.
    tokens: Vec<Vec<u32>>,
    /// `[tokens, experts]`: the factor of an expert's output, 0 where a token does not go.
    weights: Tensor,
}

impl Mixture {
    pub fn build(weights: &mut Weights, layer: usize, routing: Routing) -> Result<Self> {
        let (spec, names) = (weights.spec(), weights.names());
        // The router is small, and its choices are sensitive: plain layout, plain product.
        let router = Linear::shared(weights.tensor(&format!("{}.weight", names.inner(layer, names.router)))?, None)?;
        let mut expert = |expert: usize| {
            let mut linear = |stem: &str| weights.linear(&names.expert(layer, expert, stem), false, None);
            let [gate, up, down] = names.expert_projections;
            Ok(Expert { gate: linear(gate)?, up: linear(up)?, down: linear(down)? })
        };
        let experts = (0..spec.ffn.experts).map(&mut expert).collect::<Result<Vec<_>>>()?;
        Ok(Self { router, experts, routing, activation: spec.feed_forward.activation })
    }

    /// `[batch, seq, hidden]` to `[batch, seq, hidden]`.
    pub fn forward(&self, x: &Tensor, layer: usize, observer: &mut dyn Observer) -> Result<Tensor> {
        let routes = self.route(x)?;
        let rows = x.flatten_to(1)?;
        let mut mixed = rows.zeros_like()?;
        for (number, expert) in self.experts.iter().enumerate() {
            let Some((places, own)) = routes.of(number, &rows)? else { continue };
            // [1, routed tokens, ffn]
            let gate = expert.gate.forward(&own)?;
            self.show(&gate, layer, number, &routes.tokens[number], observer)?;
            let h = (self.activation.forward(&gate)? * expert.up.forward(&own)?)?;
            let weight = routes.weights.index_select(&places, 0)?.narrow(1, number, 1)?;
            let out = expert.down.forward(&h)?.squeeze(0)?.broadcast_mul(&weight.to_dtype(rows.dtype())?)?;
            mixed = mixed.index_add(&places, &out, 0)?;
        }
        mixed.reshape(x.shape())
    }

    /// Only the gates, for an observer.
    pub fn observe(&self, x: &Tensor, layer: usize, observer: &mut dyn Observer) -> Result<()> {
        let routes = self.route(x)?;
        let rows = x.flatten_to(1)?;
        for (number, expert) in self.experts.iter().enumerate() {
            let Some((_, own)) = routes.of(number, &rows)? else { continue };
            self.show(&expert.gate.forward(&own)?, layer, number, &routes.tokens[number], observer)?;
        }
        Ok(())
    }

    fn show(
        &self,
        gate: &Tensor,
        layer: usize,
        expert: usize,
        tokens: &[u32],
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let gate = gate.squeeze(0)?;
        match observer.tally() {
            Some(tally) => tally.add_routed(self.activation, layer, expert, tokens, &gate),
            None => observer.expert(layer, expert, tokens, &gate),
        }
    }

    /// Softmax over all experts, then the largest few; of equal ones the first.
    fn route(&self, x: &Tensor) -> Result<Routes> {
        // [tokens, experts]
        let logits = self.router.forward(x)?.flatten_to(1)?.to_dtype(DType::F32)?;
        let probabilities = candle_nn::ops::softmax(&logits, D::Minus1)?;
        let experts = self.experts.len();
        let mut tokens = vec![Vec::new(); experts];
        let mut chosen = vec![0f32; logits.elem_count()];
        for (token, row) in probabilities.detach().to_vec2::<f32>()?.iter().enumerate() {
            let mut order: Vec<usize> = (0..experts).collect();
            order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
            for &expert in &order[..self.routing.experts_per_token] {
                let place = u32::try_from(token).map_err(candle_core::Error::wrap)?;
                tokens[expert].push(place);
                chosen[token * experts + expert] = 1.0;
            }
        }
        let chosen = Tensor::from_vec(chosen, logits.shape(), x.device())?;
        let mut weights = (probabilities * chosen)?;
        if self.routing.normalised {
            weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
        }
        Ok(Routes { tokens, weights })
    }
}

impl Routes {
    /// The places of one expert's tokens and their rows as a batch of one window, if there are any.
    fn of(&self, expert: usize, rows: &Tensor) -> Result<Option<(Tensor, Tensor)>> {
        let tokens = &self.tokens[expert];
        if tokens.is_empty() {
            return Ok(None);
        }
        let places = Tensor::new(tokens.as_slice(), rows.device())?;
        let own = rows.index_select(&places, 0)?.unsqueeze(0)?;
        Ok(Some((places, own)))
    }
}
