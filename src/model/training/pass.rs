//! A layer's way forward and back. Where all of attention or of the feed-forward network is frozen, but for rows and columns that lie in it, its
//! backward pass is written out: it keeps no more than it reads, and no sum begins with zeros. What else is trained goes through the graph.

use std::sync::Arc;

use candle_core::{Result, Tensor, Var};

use super::{Activations, CausalGradient, Gated, Gradients, backward, has_kernels};
use crate::model::{
    Path, Unobserved,
    attention::Scores,
    feed_forward::{Dense, FeedForward},
    layer::Layer,
    norm::{Norm, normed},
    positions::Positions,
    residual::add,
    rope::Rotary,
};

/// What the way back through one layer, or a part of it, begins with.
pub enum Pass<'a> {
    /// Parts that read the same residual stream and whose backward pass is written out.
    Written {
        layer: &'a Layer,
        attention: Option<Mixed<'a>>,
        feed_forward: Option<Fed<'a>>,
        /// Whether something below is trained.
        onward: bool,
    },
    /// A part from its input, a variable where something below is trained, to its output.
    Graph { input: Tensor, output: Tensor },
    /// A layer of which only the input was kept.
    Again { layer: &'a Layer, input: Tensor, onward: bool },
}

/// Takes the residual stream through a layer. `tracked` says whether something below is trained, and then whether something up to here is.
pub fn forward<'a>(
    layer: &'a Layer,
    x: Tensor,
    positions: &'a Positions,
    tracked: &mut bool,
    activations: Activations,
    passes: &mut Vec<Pass<'a>>,
) -> Result<Tensor> {
    if activations == Activations::Kept {
        return kept(layer, x, positions, tracked, passes);
    }
    let onward = *tracked;
    let y = kept(layer, x.clone(), positions, tracked, &mut Vec::new())?;
    if *tracked {
        passes.push(Pass::Again { layer, input: x, onward });
    }
    Ok(y)
}

fn kept<'a>(
    layer: &'a Layer,
    x: Tensor,
    positions: &'a Positions,
    tracked: &mut bool,
    passes: &mut Vec<Pass<'a>>,
) -> Result<Tensor> {
    let rotary = layer.rope.map(|rope| &positions.ropes[rope]);
    let attention = has_kernels(&x) && layer.attention_is_written();
    let dense = written(layer).filter(|_| has_kernels(&x));
    if layer.parallel {
        let Some(dense) = dense.filter(|_| attention) else {
            return graph(x, tracked, passes, |x| layer.forward(x, positions, &mut Unobserved));
        };
        let (mixed, mixing) = Mixed::of(layer, &x, rotary)?;
        let (fed, feeding) = Fed::of(layer, dense, &x)?;
        push(layer, Some(mixing), Some(feeding), tracked, passes);
        return plus(plus(mixed, &fed)?, &x);
    }
    let x = if attention {
        let (y, mixing) = Mixed::of(layer, &x, rotary)?;
        push(layer, Some(mixing), None, tracked, passes);
        plus(y, &x)?
    } else {
        graph(x, tracked, passes, |x| layer.attend(x, positions))?
    };
    let Some(dense) = dense else {
        return graph(x, tracked, passes, |x| layer.feed(x, &mut Unobserved));
    };
    let (y, feeding) = Fed::of(layer, dense, &x)?;
    push(layer, None, Some(feeding), tracked, passes);
    plus(y, &x)
}

fn push<'a>(
    layer: &'a Layer,
    attention: Option<Mixed<'a>>,
    feed_forward: Option<Fed<'a>>,
    tracked: &mut bool,
    passes: &mut Vec<Pass<'a>>,
) {
    let onward = *tracked;
    *tracked |= feed_forward.as_ref().is_some_and(|fed| fed.dense.down.replaced().is_some());
    if *tracked {
        passes.push(Pass::Written { layer, attention, feed_forward, onward });
    }
}

fn graph(
    x: Tensor,
    tracked: &mut bool,
    passes: &mut Vec<Pass>,
    run: impl FnOnce(Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let input = if *tracked { Var::from_tensor(&x)?.into_inner() } else { x };
    let output = run(input.clone())?;
    *tracked = output.track_op();
    let x = output.detach();
    if *tracked {
        passes.push(Pass::Graph { input, output });
    }
    Ok(x)
}

/// `y + x`, the values of `y` not being needed any more.
fn plus(y: Tensor, x: &Tensor) -> Result<Tensor> {
    add(y, x, Path::Inference)
}

/// A layer's feed-forward network, where its backward pass is written out.
fn written(layer: &Layer) -> Option<&Dense> {
    let norms = [&layer.before_ffn, &layer.after_ffn];
    let FeedForward::Dense(dense) = &layer.feed_forward else { return None };
    let projections = [&dense.gate, dense.up.as_ref()?, &dense.down];
    let all = norms.into_iter().flatten().all(Norm::is_written) && projections.iter().all(|it| it.is_written());
    all.then_some(dense)
}

impl Layer {
    fn attention_is_written(&self) -> bool {
        let attention = &self.attention;
        let of_heads = attention.query_key_norm.iter().flat_map(|norms| [&norms.query, &norms.key]);
        let norms = [&self.before_attention, &self.after_attention].into_iter().flatten().chain(of_heads);
        let projections = [&attention.query, &attention.key, &attention.value, &attention.output];
        let frozen = projections.iter().all(|it| it.is_written() && it.replaced().is_none());
        frozen && norms.into_iter().all(Norm::is_written)
    }

    /// The norm before the feed-forward network; in a parallel layer it may be that before attention.
    fn norm_before_ffn(&self) -> Option<&Norm> {
        let shared = self.before_attention.as_ref().filter(|_| self.parallel);
        self.before_ffn.as_ref().or(shared)
    }
}

/// What attention's way back reads.
pub struct Mixed<'a> {
    x: Tensor,
    rotary: Option<&'a Arc<Rotary>>,
    /// Queries and keys before a norm of their own.
    before_norm: Option<[Tensor; 2]>,
    /// Query, key and value `[batch, seq, heads, head_dim]` as the kernel was given them.
    heads: [Tensor; 3],
    /// What the norm behind attention was given.
    before_last: Option<Tensor>,
}

impl<'a> Mixed<'a> {
    /// What attention adds to the residual stream, and what its way back reads.
    fn of(layer: &Layer, x: &Tensor, rotary: Option<&'a Arc<Rotary>>) -> Result<(Tensor, Self)> {
        let attention = &layer.attention;
        let (batch, seq, _) = x.dims3()?;
        let input = normed(layer.before_attention.as_ref(), x)?;
        let projected = [&attention.query, &attention.key, &attention.value].map(|projection| projection.still(&input));
        let [query, key, value] = projected;
        let (query, key, value) = (query?, key?, value?);
        drop(input);
        let split = |y: &Tensor, heads: usize| y.reshape((batch, seq, heads, attention.head_dim));
        let before_norm = attention.query_key_norm.as_ref().map(|_| [query.clone(), key.clone()]);
        let (query, key) = match &attention.query_key_norm {
            Some(norms) if norms.whole => (norms.query.forward(&query)?, norms.key.forward(&key)?),
            _ => (query, key),
        };
        let (query, key) = (split(&query, attention.heads)?, split(&key, attention.kv_heads)?);
        let (query, key) = match &attention.query_key_norm {
            Some(norms) if !norms.whole => (norms.query.forward(&query)?, norms.key.forward(&key)?),
            _ => (query, key),
        };
        let heads = [query, key, split(&value, attention.kv_heads)?];
        let (mixed, heads) = mix(&attention.scores, rotary, heads)?;
        let y = attention.output.still(&mixed.reshape((batch, seq, ()))?)?;
        drop(mixed);
        let last = normed(layer.after_attention.as_ref(), &y)?;
        let before_last = layer.after_attention.as_ref().map(|_| y);
        Ok((last, Self { x: x.clone(), rotary, before_norm, heads, before_last }))
    }

    fn back(self, layer: &Layer, gradient: &Tensor) -> Result<Tensor> {
        let attention = &layer.attention;
        let (batch, seq, _) = self.x.dims3()?;
        let above = back_through(layer.after_attention.as_ref(), self.before_last.as_ref(), gradient)?;
        let above = attention.output.back(&above)?.reshape((batch, seq, attention.heads, attention.head_dim))?;
        let [query, key, value] = mix_back(&attention.scores, self.rotary, self.heads, &above)?;
        drop(above);
        let flat = |x: Tensor| x.reshape((batch, seq, ()));
        let (query, key) = match (&attention.query_key_norm, self.before_norm) {
            (Some(norms), Some([before_query, before_key])) if norms.whole => {
                (norms.query.back(&before_query, &flat(query)?)?, norms.key.back(&before_key, &flat(key)?)?)
            }
            (Some(norms), Some([before_query, before_key])) => {
                let shaped = |before: Tensor, like: &Tensor| before.reshape(like.shape());
                (
                    flat(norms.query.back(&shaped(before_query, &query)?, &query)?)?,
                    flat(norms.key.back(&shaped(before_key, &key)?, &key)?)?,
                )
            }
            _ => (flat(query)?, flat(key)?),
        };
        let sum = plus(attention.query.back(&query)?, &attention.key.back(&key)?)?;
        let sum = plus(sum, &attention.value.back(&flat(value)?)?)?;
        back_through(layer.before_attention.as_ref(), Some(&self.x), &sum)
    }
}

/// The gradient before a norm that may not be there.
fn back_through(norm: Option<&Norm>, input: Option<&Tensor>, gradient: &Tensor) -> Result<Tensor> {
    match (norm, input) {
        (Some(norm), Some(input)) => norm.back(input, gradient),
        _ => Ok(gradient.clone()),
    }
}

/// Attention over query, key and value as they come from their projections; and what its way back wants of them.
fn mix(scores: &Scores, rotary: Option<&Arc<Rotary>>, heads: [Tensor; 3]) -> Result<(Tensor, [Tensor; 3])> {
    let [query, key, value] = heads;
    #[cfg(feature = "cuda")]
    if crate::model::gpu::fits(&query) {
        let mixed = crate::model::gpu::attention::attend(scores, rotary.map(|it| &**it), &query, &key, &value)?;
        return Ok((mixed, [query, key, value]));
    }
    let turn = |x: Tensor| rotary.map_or(Ok(x.clone()), |rotary| rotary.turn(&x, Path::Training));
    let (query, key) = (turn(query)?, turn(key)?);
    let mixed = query.apply_op3_no_bwd(&key, &value, &CausalGradient { scores: scores.clone() })?;
    Ok((mixed, [query, key, value]))
}

fn mix_back(
    scores: &Scores,
    rotary: Option<&Arc<Rotary>>,
    heads: [Tensor; 3],
    gradient: &Tensor,
) -> Result<[Tensor; 3]> {
    let [query, key, value] = &heads;
    #[cfg(feature = "cuda")]
    if crate::model::gpu::fits(query) {
        let rotary = rotary.map(|it| &**it);
        return crate::model::gpu::attention::attend_back(scores, rotary, [query, key, value], gradient);
    }
    let [query, key, value] = CausalGradient { scores: scores.clone() }.back([query, key, value], gradient)?;
    drop(heads);
    let Some(rotary) = rotary else { return Ok([query, key, value]) };
    Ok([rotary.turn_back(&query)?, rotary.turn_back(&key)?, value])
}

/// What the way back of a feed-forward network reads.
pub struct Fed<'a> {
    dense: &'a Dense,
    x: Tensor,
    gate: Tensor,
    up: Tensor,
    /// What the norm behind it was given.
    before_last: Option<Tensor>,
}

impl<'a> Fed<'a> {
    /// What the network adds to the residual stream, and what its way back reads.
    fn of(layer: &Layer, dense: &'a Dense, x: &Tensor) -> Result<(Tensor, Self)> {
        let Some(up) = &dense.up else { candle_core::bail!("a network without a gate goes through the graph") };
        let input = normed(layer.norm_before_ffn(), x)?;
        let (gate, up) = (dense.gate.still(&input)?, up.still(&input)?);
        drop(input);
        let y = dense.down.still(&gate.apply_op2_no_bwd(&up, &Gated(dense.activation))?)?;
        let last = normed(layer.after_ffn.as_ref(), &y)?;
        let before_last = layer.after_ffn.as_ref().map(|_| y);
        Ok((last, Self { dense, x: x.clone(), gate, up, before_last }))
    }

    fn back(self, layer: &Layer, gradient: &Tensor, gradients: &mut Gradients) -> Result<Tensor> {
        let Self { dense, x, gate, up, before_last } = self;
        let Some(up_projection) = &dense.up else { candle_core::bail!("a network without a gate") };
        let above = back_through(layer.after_ffn.as_ref(), before_last.as_ref(), gradient)?;
        let act = Gated(dense.activation);
        if let Some((replaced, values)) = dense.down.replaced() {
            let selected = replaced.select(&gate)?.apply_op2_no_bwd(&replaced.select(&up)?, &act)?;
            gradients.put(values, replaced.own_gradient(&above, &selected)?)?;
        }
        let hidden = dense.down.back(&above)?;
        drop(above);
        let [to_gate, to_up] = act.back(&gate, &up, &hidden)?;
        drop((gate, up, hidden));
        // Made again: cheaper than it is to keep.
        let input = normed(layer.norm_before_ffn(), &x)?;
        for (projection, gradient) in [(&dense.gate, &to_gate), (up_projection, &to_up)] {
            if let Some((replaced, values)) = projection.replaced() {
                gradients.put(values, replaced.own_gradient(&input, &replaced.select(gradient)?)?)?;
            }
        }
        drop(input);
        let sum = dense.gate.back(&to_gate)?;
        drop(to_gate);
        let sum = plus(sum, &up_projection.back(&to_up)?)?;
        back_through(layer.norm_before_ffn(), Some(&x), &sum)
    }
}

impl<'a> Pass<'a> {
    /// From the gradient of what came out to that of what went in, if anything below asks for it; those of trained values are added on the
    /// way.
    pub fn back(self, gradient: Tensor, positions: &'a Positions, gradients: &mut Gradients) -> Result<Option<Tensor>> {
        match self {
            Self::Graph { input, output } => {
                let mut found = backward(&output, gradient)?;
                let below = if input.is_variable() { found.remove(&input) } else { None };
                gradients.add(&mut found)?;
                Ok(below)
            }
            Self::Written { layer, attention, feed_forward, onward } => {
                let mut below = gradient.clone();
                if let Some(fed) = feed_forward {
                    below = plus(fed.back(layer, &gradient, gradients)?, &below)?;
                }
                if !onward {
                    return Ok(None);
                }
                if let Some(mixed) = attention {
                    below = plus(mixed.back(layer, &gradient)?, &below)?;
                }
                Ok(Some(below))
            }
            Self::Again { layer, input, onward } => {
                let (mut passes, mut tracked) = (Vec::new(), onward);
                kept(layer, input, positions, &mut tracked, &mut passes)?;
                let mut gradient = Some(gradient);
                for pass in passes.into_iter().rev() {
                    let Some(above) = gradient else { break };
                    gradient = pass.back(above, positions, gradients)?;
                }
                Ok(gradient)
            }
        }
    }
}
