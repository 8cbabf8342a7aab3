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
    training::forget,
    weights::Weights,
};

/// A layer. Which of its four norms are there, and whether attention and FFN read the same residual stream, is its placement.
pub struct Layer {
    number: usize,
    before_attention: Option<Norm>,
    attention: Attention,
    after_attention: Option<Norm>,
    before_ffn: Option<Norm>,
    ffn: FeedForward,
    after_ffn: Option<Norm>,
    parallel: bool,
    rope: Option<usize>,
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
            ffn: FeedForward::build(weights, number)?,
            after_ffn,
            parallel: placement.parallel(),
            rope: spec.layers[number].rope,
            path: weights.path(),
        })
    }

    /// The residual stream behind the layer, `[batch, seq, hidden]`.
    pub fn forward(&self, x: Tensor, positions: &Positions, observer: &mut dyn Observer) -> Result<Tensor> {
        let input = normed(self.before_attention.as_ref(), &x)?;
        let mixed = self.mix(&input, positions)?;
        if self.parallel {
            // Before attention is added to `x`, which is what `input` would be without a norm.
            let input = if self.before_ffn.is_some() { self.ffn_input(&x)? } else { input };
            let product = self.ffn.product(&input, self.number, observer)?;
            return self.fed(self.attended(x, &mixed)?, product);
        }
        if self.path == Path::Training && self.before_attention.is_some() && !self.attention.reads_input() {
            forget(&input)?;
        }
        drop(input);
        let x = self.attended(x, &mixed)?;
        drop(mixed);
        let product = self.ffn.product(&self.ffn_input(&x)?, self.number, observer)?;
        self.fed(x, product)
    }

    /// Only the gate, for an observer, and what it depends on.
    pub fn observe(&self, x: Tensor, positions: &Positions, observer: &mut dyn Observer) -> Result<()> {
        let input = if self.parallel {
            normed(self.before_ffn.as_ref().or(self.before_attention.as_ref()), &x)?
        } else {
            let mixed = self.mix(&normed(self.before_attention.as_ref(), &x)?, positions)?;
            self.ffn_input(&self.attended(x, &mixed)?)?
        };
        self.ffn.observe(&input, self.number, observer)
    }

    /// What attention gives its output projection.
    fn mix(&self, normed: &Tensor, positions: &Positions) -> Result<Tensor> {
        self.attention.mix(normed, self.rope.map(|rope| &positions.ropes[rope]), positions, self.path)
    }

    /// The residual stream behind attention.
    fn attended(&self, x: Tensor, mixed: &Tensor) -> Result<Tensor> {
        let x = add_projected(x, &self.attention.output, mixed, self.after_attention.as_ref(), self.path)?;
        if self.path == Path::Training && !self.attention.output.reads_input() {
            forget(mixed)?;
        }
        Ok(x)
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
