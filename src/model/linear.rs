//! A projection: `y = x Wᵀ + b`.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor};

use super::{
    Path,
    activation::{Activation, check_runs},
    bf16,
    matrix::{is_plain, with},
    norm::{Norm, normed},
    observer::Tally,
    panels::{self, Around, Laid, Panels as _},
    patch::{Cut, Patch},
    training::{Frozen, FrozenNorm, Replaced, has_kernels},
};

/// Weight `[out, in]` and, where the family has one, bias `[out]`.
pub struct Linear {
    weight: Weight,
    bias: Option<Bias>,
    patch: Option<Arc<dyn Patch>>,
}

/// A bias as the projection adds it, or a trained one as the checkpoint holds it.
enum Bias {
    Own(Tensor),
    Trained(Tensor, Cut),
}

enum Weight {
    Plain(Tensor),
    /// bf16 for activations in f32, in candle's own layout.
    Wide(Tensor),
    /// In the order in which kernels of our own read it.
    Laid(Laid),
    /// Behind which only the input has a gradient.
    Frozen(Frozen),
    /// The same, but for rows or columns that lie in it and have a gradient.
    Replaced(Replaced, Tensor),
    /// Has a gradient itself: the tensor as the checkpoint holds it, of which the projection is a part.
    Trained(Tensor, Cut),
}

impl Linear {
    /// For the inference path on the CPU, the weight is laid out for the matrix product.
    pub fn new(weight: &Tensor, bias: Option<Tensor>, path: Path) -> Result<Self> {
        if path != Path::Inference || !weight.device().is_cpu() {
            return Self::shared(weight.clone(), bias);
        }
        let Some(layout) = Laid::new(weight)? else { return Self::shared(weight.clone(), bias) };
        Ok(Self { weight: Weight::Laid(layout), bias: beside(weight, bias)?.map(Bias::Own), patch: None })
    }

    /// For training: a part of a weight and of a bias as the checkpoint holds them. What is a variable there is trained, all else frozen.
    pub fn trainable(weight: &Tensor, bias: Option<Tensor>, cut: Cut, patch: Option<Arc<dyn Patch>>) -> Result<Self> {
        let replaced = patch.as_ref().and_then(|patch| patch.replaces()).filter(|_| has_kernels(weight));
        let layout = if weight.track_op() {
            Weight::Trained(weight.clone(), cut)
        } else if let Some((indices, along, values)) = replaced {
            let op = Replaced::new(&cut.of(weight)?, indices, along)?;
            let layout = Weight::Replaced(op, values.as_tensor().clone());
            let bias = beside(weight, bias)?.map(|bias| cut.of_bias(&bias)).transpose()?;
            return Ok(Self { weight: layout, bias: bias.map(Bias::Own), patch: None });
        } else {
            Weight::Frozen(Frozen::new(cut.of(weight)?)?)
        };
        let bias = beside(weight, bias)?;
        let bias = match bias {
            Some(bias) if bias.track_op() && !cut.is_view() => Some(Bias::Trained(bias, cut)),
            Some(bias) => Some(Bias::Own(cut.of_bias(&bias)?)),
            None => None,
        };
        Ok(Self { weight: layout, bias, patch })
    }

    /// With a weight that others hold too, such as an embedding that is also the head.
    pub fn shared(weight: Tensor, bias: Option<Tensor>) -> Result<Self> {
        let bias = beside(&weight, bias)?;
        let wide = activations(&weight) != weight.dtype();
        let weight = if wide { Weight::Wide(weight) } else { Weight::Plain(weight) };
        Ok(Self { weight, bias: bias.map(Bias::Own), patch: None })
    }

    /// Whether it rounds its factors to bf16 and gives f32.
    pub fn rounds(&self) -> bool {
        matches!(self.weight, Weight::Laid(Laid::Halves(_)))
    }

    /// `[batch, seq, in]` to `[batch, seq, out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let Some(patch) = &self.patch else { return self.product(x) };
        patch.apply(x, self.product(&patch.enter(x)?)?)
    }

    /// `x + h Wᵀ + b` in place of `x [batch, seq, out]`, for `h [batch, seq, in]`, where the product itself can add; else nothing.
    #[cfg(feature = "cuda")]
    pub fn onto(&self, x: &Tensor, h: &Tensor) -> Result<bool> {
        match (&self.weight, &self.bias, &self.patch) {
            (Weight::Plain(weight), None, None) => super::gpu::product::project(x, h, weight),
            _ => Ok(false),
        }
    }

    /// Whether its backward pass can be written out: nothing of it is trained but rows or columns that lie in it.
    pub fn is_written(&self) -> bool {
        let bias = match &self.bias {
            None => true,
            Some(Bias::Own(bias)) => !bias.track_op(),
            Some(Bias::Trained(..)) => false,
        };
        bias && self.patch.is_none() && matches!(self.weight, Weight::Frozen(_) | Weight::Replaced(..))
    }

    /// The trained rows or columns that lie in it.
    pub fn replaced(&self) -> Option<(&Replaced, &Tensor)> {
        match &self.weight {
            Weight::Replaced(replaced, values) => Some((replaced, values)),
            _ => None,
        }
    }

    /// [`Linear::forward`] of what has no gradient, without a graph.
    pub fn still(&self, x: &Tensor) -> Result<Tensor> {
        match &self.weight {
            Weight::Frozen(frozen) => self.biased(x.contiguous()?.apply_op1_no_bwd(frozen)?),
            Weight::Replaced(op, values) => self.biased(x.contiguous()?.apply_op2_no_bwd(&values.detach(), op)?),
            _ => self.forward(x),
        }
    }

    /// The gradient of the input from the output's `[.., out]`, where it [is written out](Linear::is_written).
    pub fn back(&self, gradient: &Tensor) -> Result<Tensor> {
        match &self.weight {
            Weight::Frozen(frozen) => frozen.back(gradient),
            Weight::Replaced(replaced, _) => replaced.back(gradient),
            _ => candle_core::bail!("a projection whose backward pass is the graph's"),
        }
    }

    /// What several projections make of the same `x [batch, seq, in]` behind a norm, which is read once: `[batch, seq, out]` of each.
    pub fn together<const N: usize>(projections: [&Self; N], x: &Tensor, norm: Option<&Norm>) -> Result<[Tensor; N]> {
        let laid = all(projections.map(Self::laid)).filter(|weights| Laid::fit(weights, x));
        let (Some(weights), Ok(norm)) = (laid, on_rows(norm, x)) else {
            let x = normed(norm, x)?;
            return each(projections.map(|projection| projection.forward(&x)));
        };
        let (batch, seq, _) = x.dims3()?;
        let around = Around { norm, residual: None };
        let products = with(x, |x| Ok(panels::together(weights, x, around)))?;
        let products = products.map(|y| {
            let out = y.len() / (batch * seq);
            Tensor::from_vec(y, (batch, seq, out), x.device())
        });
        let mut biased = each(products)?;
        for (y, projection) in biased.iter_mut().zip(projections) {
            *y = projection.biased(y.clone())?;
        }
        Ok(biased)
    }

    /// `x + h Wᵀ` for `x [batch, seq, out]` and `h [batch, seq, in]`, where it is one pass of kernels of our own; else nothing.
    pub fn added(&self, x: &Tensor, h: &Tensor) -> Result<Option<Tensor>> {
        let laid = self.laid().filter(|laid| Laid::fit(&[laid], h) && self.bias.is_none() && is_plain(x));
        let Some(laid) = laid else { return Ok(None) };
        let [y] = with(x, |x| with(h, |h| Ok(panels::together([laid], h, Around { norm: None, residual: Some(x) }))))?;
        Tensor::from_vec(y, x.shape(), x.device()).map(Some)
    }

    /// `down(act(gate(h)) · up(h)) [batch, seq, out]` of `h = norm(x) [batch, seq, in]`, counted in the same pass, where these
    /// projections' products are kernels of our own and nothing comes between; else nothing. With `onto`, it is added to `x`.
    pub fn gated(
        [gate, up, down]: [&Self; 3],
        (x, norm, onto): (&Tensor, Option<&Norm>, bool),
        act: Activation,
        ffn: usize,
        tally: &mut Tally,
    ) -> Result<Option<Tensor>> {
        let plain = gate.bias.is_none() && up.bias.is_none() && !(onto && down.bias.is_some());
        let weights = all([gate, up, down].map(Self::laid)).filter(|weights| {
            let [gate, up, down] = *weights;
            plain && Laid::alike(&[gate, down]) && Laid::fit(&[gate, up], x)
        });
        let (Some(weights), Ok(norm)) = (weights, on_rows(norm, x)) else { return Ok(None) };
        let (batch, seq, _) = x.dims3()?;
        check_runs(tally, batch * seq)?;
        let (y, sums) =
            with(x, |x| Ok(panels::gated(weights, x, act, tally, Around { norm, residual: onto.then_some(x) })))?;
        let ([width, _], [out, _]) = (weights[0].shape(), weights[2].shape());
        tally.add(ffn, width, sums);
        down.biased(Tensor::from_vec(y, (batch, seq, out), x.device())?).map(Some)
    }

    /// The weight, where its product is a kernel of our own and nothing comes between.
    fn laid(&self) -> Option<&Laid> {
        match (&self.weight, &self.patch) {
            (Weight::Laid(laid), None) => Some(laid),
            _ => None,
        }
    }

    fn product(&self, x: &Tensor) -> Result<Tensor> {
        if let Weight::Frozen(frozen) = &self.weight {
            return self.biased(x.contiguous()?.apply_op1(frozen.clone())?);
        }
        if let Weight::Replaced(op, values) = &self.weight {
            return self.biased(x.contiguous()?.apply_op2(values, op.clone())?);
        }
        let (batch, seq, width) = x.dims3()?;
        // One matrix product over all tokens: candle would otherwise multiply window by window.
        let x = x.reshape((batch * seq, width))?.contiguous()?;
        let y = match &self.weight {
            Weight::Plain(weight) => of_plain(&x, weight)?,
            Weight::Wide(weight) => bf16::widened(&x, weight)?,
            Weight::Laid(laid) => {
                let [out, inner] = laid.shape();
                if inner != width {
                    candle_core::bail!("a projection of width {inner} was given vectors of width {width}");
                }
                Tensor::from_vec(with(&x, |x| Ok(panels::product(laid, x)))?, (batch * seq, out), x.device())?
            }
            // Cut out anew at every use, since what is a copy would not see the variable change.
            Weight::Trained(weight, cut) => x.matmul(&cut.of(weight)?.to_dtype(x.dtype())?.t()?)?,
            Weight::Frozen(_) | Weight::Replaced(..) => unreachable!("multiplied above"),
        };
        self.biased(y)?.reshape((batch, seq, ()))
    }

    fn biased(&self, y: Tensor) -> Result<Tensor> {
        match &self.bias {
            None => Ok(y),
            Some(Bias::Own(bias)) => y.broadcast_add(&bias.to_dtype(y.dtype())?),
            Some(Bias::Trained(bias, cut)) => y.broadcast_add(&cut.of_bias(bias)?.to_dtype(y.dtype())?),
        }
    }
}

/// `x Wᵀ [tokens, out]` by the device's own product, for `x [tokens, in]` and a weight `[out, in]`.
fn of_plain(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let Some(y) = super::gpu::product::product(x, weight)? {
        return Ok(y);
    }
    x.matmul(&weight.t()?)
}

/// The number format that activations have beside a weight: on the CPU everything but the products is computed in f32, which costs
/// nothing there and spares a rounding at every step.
pub fn activations(weight: &Tensor) -> DType {
    if weight.device().is_cpu() && weight.dtype() == DType::BF16 { DType::F32 } else { weight.dtype() }
}

/// A bias, or another small weight that is no factor of a product, in the format of the activations.
pub fn beside(weight: &Tensor, bias: Option<Tensor>) -> Result<Option<Tensor>> {
    bias.map(|bias| bias.to_dtype(activations(weight))).transpose()
}

/// There is none for a norm of a few rows in hand.
struct NoKernel;

/// A norm that may not be there, as it takes a few rows of `x` in hand.
fn on_rows<'a>(norm: Option<&'a Norm>, x: &Tensor) -> std::result::Result<Option<&'a FrozenNorm>, NoKernel> {
    norm.map(|norm| norm.on_rows().filter(|_| is_plain(x)).ok_or(NoKernel)).transpose()
}

/// Every one of them, if they are all there.
fn all<T, const N: usize>(found: [Option<T>; N]) -> Option<[T; N]> {
    let there = found.iter().all(Option::is_some);
    there.then(|| found.map(|found| found.expect("looked for above")))
}

/// Every one of them, or the first error.
fn each<T, const N: usize>(results: [Result<T>; N]) -> Result<[T; N]> {
    let values = results.into_iter().collect::<Result<Vec<_>>>()?;
    Ok(values.try_into().unwrap_or_else(|_| unreachable!("as many as results")))
}
