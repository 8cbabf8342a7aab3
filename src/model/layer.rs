//! One layer: attention and feed-forward network around the residual stream.

use candle_core::{Result, Tensor};

use super::{
    Path,
    attention::{Attention, QueryKey, Scores, alibi_slopes},
    feed_forward::{FeedForward, Product},
    norm::{Norm, normed},
    observer::Observer,
    patch::{Projection, Site},
    positions::Positions,
    residual::{add, add_projected},
    spec::QueryKeyNorm,
    weights::Weights,
};

/// A layer. Which of its four norms are there, and whether attention and FFN read the same residual stream, is its placement.
pub struct Layer {
    number: usize,
    pub before_attention: Option<Norm>,
    pub attention: Attention,
    pub after_attention: Option<Norm>,
    pub before_ffn: Option<Norm>,
    pub feed_forward: FeedForward,
    pub after_ffn: Option<Norm>,
    pub parallel: bool,
    pub rope: Option<usize>,
    path: Path,
}

impl Layer {
    pub fn build(weights: &mut Weights, number: usize) -> Result<Self> {
        let (spec, names) = (weights.spec(), weights.names());
        let placement = spec.placement;
        let mut norm =
            |there: bool, stem: &str| there.then(|| weights.norm(&names.inner(number, stem), spec.norm)).transpose();
        let before_attention = norm(placement.before_attention(), names.before_attention)?;
        let after_attention = norm(placement.after(), names.after_attention)?;
        let before_ffn = norm(placement.before_ffn(), names.before_ffn)?;
        let after_ffn = norm(placement.after(), names.after_ffn)?;
        Ok(Self {
            number,
            before_attention,
            attention: attention(weights, number)?,
            after_attention,
            before_ffn,
            feed_forward: FeedForward::build(weights, number)?,
            after_ffn,
            parallel: placement.parallel(),
            rope: spec.layers[number].rope,
            path: weights.path(),
        })
    }

    /// The residual stream behind the layer, `[batch, seq, hidden]`.
    pub fn forward(&self, x: Tensor, positions: &Positions, observer: &mut dyn Observer) -> Result<Tensor> {
        if !self.parallel {
            return self.feed(self.attend(x, positions)?, observer);
        }
        let input = normed(self.before_attention.as_ref(), &x)?;
        let mixed = self.mix(&input, None, positions)?;
        // Before attention is added to `x`, which is what `input` would be without a norm.
        let input = if self.before_ffn.is_some() { self.ffn_input(&x)? } else { input };
        let product = self.feed_forward.product(&input, self.number, observer)?;
        self.fed(self.attended(x, &mixed)?, product)
    }

    /// The residual stream behind attention, where the layer is not parallel.
    pub fn attend(&self, x: Tensor, positions: &Positions) -> Result<Tensor> {
        let mixed = self.mix(&x, self.before_attention.as_ref(), positions)?;
        self.attended(x, &mixed)
    }

    /// The residual stream behind the feed-forward network, where the layer is not parallel.
    pub fn feed(&self, x: Tensor, observer: &mut dyn Observer) -> Result<Tensor> {
        if self.after_ffn.is_none()
            && let Some(y) = self.feed_forward.onto(&x, self.before_ffn.as_ref(), self.number, observer)?
        {
            return Ok(y);
        }
        let product = self.feed_forward.product(&self.ffn_input(&x)?, self.number, observer)?;
        self.fed(x, product)
    }

    /// Only the gate, for an observer, and what it depends on.
    pub fn observe(&self, x: Tensor, positions: &Positions, observer: &mut dyn Observer) -> Result<()> {
        let input = if self.parallel {
            normed(self.before_ffn.as_ref().or(self.before_attention.as_ref()), &x)?
        } else {
            self.ffn_input(&self.attend(x, positions)?)?
        };
        self.feed_forward.observe(&input, self.number, observer)
    }

    /// What attention over `norm(x)` gives its output projection.
    fn mix(&self, x: &Tensor, norm: Option<&Norm>, positions: &Positions) -> Result<Tensor> {
        self.attention.mix(x, norm, self.rope.map(|rope| &positions.ropes[rope]), positions, self.path)
    }

    /// The residual stream behind attention.
    fn attended(&self, x: Tensor, mixed: &Tensor) -> Result<Tensor> {
        add_projected(x, &self.attention.output, mixed, self.after_attention.as_ref(), self.path)
    }

    /// The residual stream behind the feed-forward network.
    fn fed(&self, x: Tensor, product: Product) -> Result<Tensor> {
        match product {
            Product::Hidden(h, down) => add_projected(x, down, &h, self.after_ffn.as_ref(), self.path),
            Product::Done(y) => add(x, &normed(self.after_ffn.as_ref(), &y)?, self.path),
        }
    }

    fn ffn_input(&self, x: &Tensor) -> Result<Tensor> {
        normed(self.before_ffn.as_ref(), x)
    }
}

fn attention(weights: &mut Weights, layer: usize) -> Result<Attention> {
    let (spec, names) = (weights.spec(), weights.names());
    let (shape, own) = (&spec.attention, &spec.layers[layer]);
    let [query, key, value] =
        weights.fused(layer, [Projection::Query, Projection::Key, Projection::Value], shape.input_bias)?;
    let norm = match shape.query_key_norm {
        QueryKeyNorm::None => None,
        QueryKeyNorm::PerHead(norm) | QueryKeyNorm::PerHeadOwn(norm) => Some((norm, false)),
        QueryKeyNorm::Whole(norm) => Some((norm, true)),
    };
    let query_key_norm = match norm {
        None => None,
        Some((norm, whole)) => Some(QueryKey {
            query: weights.norm(&names.inner(layer, names.query_norm), norm)?,
            key: weights.norm(&names.inner(layer, names.key_norm), norm)?,
            whole,
        }),
    };
    Ok(Attention {
        layer,
        heads: shape.heads,
        kv_heads: shape.kv_heads,
        head_dim: shape.head_dim,
        query,
        key,
        value,
        output: weights.linear(
            &names.inner(layer, names.attention_output),
            shape.output_bias,
            Some(Site { layer, projection: Projection::Output }),
        )?,
        query_key_norm,
        scores: Scores {
            scale: own.scale,
            softcap: shape.softcap,
            window: own.window,
            slopes: shape.alibi.then(|| alibi_slopes(shape.heads)),
        },
    })
}
