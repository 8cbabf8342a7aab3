//! A projection: `y = x Wᵀ + b`.

use std::{mem::MaybeUninit, sync::Arc};

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{
    Path, bf16,
    matrix::{Matrix, filled, multiply, slice},
    patch::{Cut, Patch},
    training::{Frozen, Replaced, has_kernels},
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
    Panels(Panels),
    Halves(bf16::Panels),
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
        let layout = match weight.dtype() {
            DType::F32 => Weight::Panels(Panels::new(weight)?),
            DType::BF16 => Weight::Halves(bf16::Panels::new(weight)?),
            _ => return Self::shared(weight.clone(), bias),
        };
        Ok(Self { weight: layout, bias: beside(weight, bias)?.map(Bias::Own), patch: None })
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
        matches!(self.weight, Weight::Halves(_))
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
            (Weight::Plain(weight), None, None) => super::gpu::onto::project(x, h, weight),
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
            Weight::Plain(weight) => x.matmul(&weight.t()?)?,
            Weight::Wide(weight) => bf16::widened(&x, weight)?,
            Weight::Panels(panels) => x.apply_op1_no_bwd(panels)?,
            Weight::Halves(panels) => x.apply_op1_no_bwd(panels)?,
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

/// The number format that activations have beside a weight: on the CPU everything but the products is computed in f32, which costs
/// nothing there and spares a rounding at every step.
pub fn activations(weight: &Tensor) -> DType {
    if weight.device().is_cpu() && weight.dtype() == DType::BF16 { DType::F32 } else { weight.dtype() }
}

/// A bias, or another small weight that is no factor of a product, in the format of the activations.
pub fn beside(weight: &Tensor, bias: Option<Tensor>) -> Result<Option<Tensor>> {
    bias.map(|bias| bias.to_dtype(activations(weight))).transpose()
}

/// A weight `[out, in]` cut into panels of [`PANEL`] rows, each stored transposed, `[in, PANEL]` (the last is of another width): the
/// order in which the matrix product reads it, which would otherwise be made anew for every few tokens.
///
/// Each thread multiplies a few tokens with all panels. The library's own threads meet after every block of columns, which
/// costs a fifth of the time at these sizes.
struct Panels {
    values: Vec<f32>,
    out: usize,
    inner: usize,
}

/// A multiple of the rows that the microkernel takes at once (16 with AVX2, 48 with AVX-512).
const PANEL: usize = 96;
/// The last panel is at least this wide: the library adds up products of at most 64 × 64 in other blocks, and a token's sums must
/// not depend on how many other tokens share its batch.
const NARROWEST: usize = 65;

/// Tokens of one task: few enough that every thread has some, enough that a panel is read from memory seldom.
pub fn tokens_per_task(tokens: usize) -> usize {
    tokens.div_ceil(2 * rayon::current_num_threads()).clamp(64, 512)
}

/// How many panels of `out` rows are [`PANEL`] wide; one more holds the rest.
fn full(out: usize) -> usize {
    out.saturating_sub(NARROWEST) / PANEL
}

impl Panels {
    fn new(weight: &Tensor) -> Result<Self> {
        let (out, inner) = weight.dims2()?;
        let weight = weight.flatten_all()?.contiguous()?;
        let (storage, layout) = weight.storage_and_layout();
        let candle_core::Storage::Cpu(storage) = &*storage else { candle_core::bail!("the weight is not on the CPU") };
        let weight = slice(storage, layout)?;
        let mut panels = vec![0f32; out * inner];
        let full = full(out) * inner * PANEL;
        let (equal, last) = panels.split_at_mut(full);
        let (rows, last_rows) = weight.split_at(full);
        let pairs = equal.par_chunks_mut(PANEL * inner).zip(rows.par_chunks(PANEL * inner));
        pairs.chain([(last, last_rows)]).for_each(|(panel, rows)| {
            let width = rows.len() / inner;
            for (i, row) in rows.chunks_exact(inner).enumerate() {
                for (value, to) in row.iter().zip(panel[i..].iter_mut().step_by(width)) {
                    *to = *value;
                }
            }
        });
        Ok(Self { values: panels, out, inner })
    }

    /// `x [tokens, in]` times one panel, into columns of `y` that begin at `column` and are `stride` apart row by row.
    fn multiply(&self, panel: &[f32], x: &[f32], y: &mut [MaybeUninit<f32>], column: usize, stride: usize) {
        let (width, tokens) = (panel.len() / self.inner, x.len() / self.inner);
        let at = |offset, rows, columns| Matrix { offset, rows, columns };
        multiply(
            [tokens, width, self.inner],
            (y, at(column, stride, 1)),
            (x, at(0, self.inner, 1)),
            (panel, at(0, width, 1)),
        );
    }

    /// Every panel, and the first of the columns that it gives.
    fn iter(&self) -> impl Iterator<Item = (&[f32], usize)> {
        let (equal, last) = self.values.split_at(full(self.out) * PANEL * self.inner);
        let panels = equal.chunks_exact(PANEL * self.inner).chain([last]);
        panels.enumerate().map(|(i, panel)| (panel, i * PANEL))
    }

    /// Every thread some tokens, and all panels.
    fn by_tokens(&self, x: &[f32], y: &mut [MaybeUninit<f32>]) {
        let tokens = tokens_per_task(x.len() / self.inner);
        y.par_chunks_mut(tokens * self.out).zip(x.par_chunks(tokens * self.inner)).for_each(|(y, x)| {
            for (panel, column) in self.iter() {
                self.multiply(panel, x, y, column, self.out);
            }
        });
    }

    /// Every thread some panels, and all tokens: for few tokens.
    fn by_panels(&self, x: &[f32], y: &mut [MaybeUninit<f32>]) {
        let tokens = x.len() / self.inner;
        let panels: Vec<_> = self.iter().collect();
        let products: Vec<_> = panels
            .into_par_iter()
            .map(|(panel, column)| {
                let width = panel.len() / self.inner;
                // SAFETY: the product has `tokens` rows of `width` values.
                #[allow(unsafe_code)]
                let product = unsafe { filled(tokens * width, |y| self.multiply(panel, x, y, 0, width)) };
                (column, width, product)
            })
            .collect();
        for (row, y) in y.chunks_exact_mut(self.out).enumerate() {
            for (column, width, product) in &products {
                for (y, value) in y[*column..].iter_mut().zip(&product[row * width..][..*width]) {
                    y.write(*value);
                }
            }
        }
    }
}

impl CustomOp1 for Panels {
    fn name(&self) -> &'static str {
        "projection"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, inner) = layout.shape().dims2()?;
        if inner != self.inner {
            candle_core::bail!("a projection of width {} was given vectors of width {inner}", self.inner);
        }
        let x = slice(x, layout)?;
        let few = tokens < 64 * rayon::current_num_threads();
        // SAFETY: the panels are all columns of `y`, and both ways go through all panels and all tokens.
        #[allow(unsafe_code)]
        let y = unsafe { filled(tokens * self.out, |y| if few { self.by_panels(x, y) } else { self.by_tokens(x, y) }) };
        Ok((CpuStorage::F32(y), Shape::from((tokens, self.out))))
    }
}
