//! The backward pass for training: gradients of what is trained, and nothing for what is frozen.
//!
//! A frozen projection's backward gives only its input's gradient, so that a token costs 2 FLOPs per frozen parameter forward and 2
//! backward, where candle's own product would add 2 for a gradient that nobody wants. On the CPU the frozen parts are kernels.

use std::{
    mem::MaybeUninit,
    sync::{Arc, Mutex, PoisonError},
};

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Device, InplaceOp1, Layout, Result, Shape, Tensor, Var,
    backprop::GradStore,
};
use rayon::prelude::*;

use super::{
    Activation, Decoder, Unobserved,
    attention::{Causal, QUERIES, Scores},
    bf16,
    matrix::{Matrix, filled, multiply, multiply_add, overwritten, slice},
    simd::{exp, vectorised},
    spec::{NormKind, NormSpec},
};

/// In place of the id that a position should predict: the position is not scored.
pub const UNSCORED: u32 = u32::MAX;

/// What of a forward pass is kept for the backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activations {
    /// All: no work is done twice.
    Kept,
    /// Every layer's input; the rest is computed once more, layer by layer, in the backward pass.
    Recomputed,
}

/// Whether a tensor is one that our own kernels read.
pub fn has_kernels(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// Tokens whose logits are held at once.
const SCORED: usize = 256;

impl Decoder {
    /// Mean negative log-likelihood, in nats per scored token, of windows `ids` [batch, seq], and its gradient for each of `vars`, none
    /// where a variable took no part. `targets` are the ids that the positions should predict, window by window, or [`UNSCORED`].
    /// The decoder is one of [`Decoder::trained`].
    ///
    /// # Errors
    /// When a tensor operation fails or nothing is scored.
    pub fn gradients(
        &self,
        ids: &Tensor,
        targets: &[u32],
        vars: &[Var],
        activations: Activations,
    ) -> Result<(f64, Vec<Option<Tensor>>)> {
        let mut gradients = Gradients { vars, sums: vec![None; vars.len()] };
        let positions = self.positions(ids)?;
        let embedded = self.embedding.forward(ids)?;
        let mut x = embedded.clone();
        let mut passes = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            // Below the first trained weight nothing needs a gradient.
            let input = if x.track_op() { Var::from_tensor(&x.detach())?.as_tensor().clone() } else { x };
            x = layer.forward(input.clone(), &positions, &mut Unobserved)?;
            let tracked = x.track_op();
            let output = (activations == Activations::Kept).then(|| x.clone());
            passes.push((layer, input, output, tracked));
            if tracked && activations == Activations::Recomputed {
                // The graph goes, the need for a gradient stays.
                x = Var::from_tensor(&x.detach())?.as_tensor().clone();
            }
        }
        let (loss, mut gradient) = self.score(&x, targets, Some(&mut gradients))?;
        drop(x);
        while let Some((layer, input, output, tracked)) = passes.pop() {
            let Some(above) = gradient.take().filter(|_| tracked) else { break };
            let output = match output {
                Some(output) => output,
                None => layer.forward(input.clone(), &positions, &mut Unobserved)?,
            };
            let mut found = backward(&output, above)?;
            gradient = if input.is_variable() { found.remove(&input) } else { None };
            gradients.add(&mut found)?;
        }
        if let Some(gradient) = gradient.filter(|_| embedded.track_op()) {
            gradients.add(&mut backward(&embedded, gradient)?)?;
        }
        Ok((loss, gradients.sums))
    }

    /// Sum of the negative log-likelihood over the scored tokens, in nats, and their number; without gradients.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn scored_nll(&self, ids: &Tensor, targets: &[u32]) -> Result<(f64, usize)> {
        let positions = self.positions(ids)?;
        let mut x = self.embedding.forward(ids)?.detach();
        for layer in &self.layers {
            x = layer.forward(x, &positions, &mut Unobserved)?.detach();
        }
        let scored = targets.iter().filter(|&&id| id != UNSCORED).count();
        if scored == 0 {
            return Ok((0.0, 0));
        }
        let (mean, _) = self.score(&x, targets, None)?;
        Ok((mean * scored as f64, scored))
    }

    /// The mean loss of the last layer's output, and its gradient, a few tokens at a time: all logits of a batch would be its largest
    /// tensor by far.
    fn score(
        &self,
        x: &Tensor,
        targets: &[u32],
        mut gradients: Option<&mut Gradients>,
    ) -> Result<(f64, Option<Tensor>)> {
        let hidden = x.dim(2)?;
        let rows = x.reshape(((), hidden))?.detach();
        let tokens = rows.dim(0)?;
        let scored = targets.iter().filter(|&&id| id != UNSCORED).count();
        if scored == 0 || targets.len() != tokens {
            candle_core::bail!("{scored} of {} targets are scored at {tokens} tokens", targets.len());
        }
        let (mut loss, mut parts) = (0.0, Vec::new());
        for (i, targets) in targets.chunks(SCORED).enumerate() {
            let part = rows.narrow(0, i * SCORED, targets.len())?.unsqueeze(0)?;
            let part = if gradients.is_some() { Var::from_tensor(&part)?.as_tensor().clone() } else { part };
            let logits = self.head.forward(&self.norm.forward(&part)?)?;
            let nll = cross_entropy(&logits, targets, 1.0 / scored as f64)?;
            loss += f64::from(nll.to_dtype(DType::F32)?.to_scalar::<f32>()?);
            if let Some(gradients) = gradients.as_deref_mut() {
                drop(logits);
                let mut found = nll.backward()?;
                match found.remove(&part) {
                    Some(gradient) => parts.push(gradient),
                    None => candle_core::bail!("the head drops gradients"),
                }
                gradients.add(&mut found)?;
            }
        }
        if parts.is_empty() {
            return Ok((loss, None));
        }
        Ok((loss, Some(Tensor::cat(&parts, 1)?.reshape(x.shape())?)))
    }
}

/// Sums of gradients over the parts of a pass, in the order of the variables.
struct Gradients<'a> {
    vars: &'a [Var],
    sums: Vec<Option<Tensor>>,
}

impl Gradients<'_> {
    fn add(&mut self, found: &mut GradStore) -> Result<()> {
        for (var, sum) in self.vars.iter().zip(&mut self.sums) {
            if let Some(gradient) = found.remove(var.as_tensor()) {
                *sum = Some(match sum.take() {
                    Some(sum) => (sum + gradient)?,
                    None => gradient,
                });
            }
        }
        Ok(())
    }
}

/// The backward pass of `y` from its own gradient.
fn backward(y: &Tensor, gradient: Tensor) -> Result<GradStore> {
    if y.device().is_cpu() {
        return y.apply_op1(Seed(gradient))?.backward();
    }
    (y * gradient)?.sum_all()?.backward()
}

/// A scalar whose gradient is a given one: `backward` begins with a one.
struct Seed(Tensor);

impl CustomOp1 for Seed {
    fn name(&self) -> &'static str {
        "seed"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), Shape::from(())))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.0.clone()))
    }
}

/// The tensor that a slice kernel makes in the shape of `like`.
///
/// # Safety
/// `fill` writes every value.
#[allow(unsafe_code)]
unsafe fn made(like: &Shape, fill: impl FnOnce(&mut [MaybeUninit<f32>])) -> Result<Tensor> {
    // SAFETY: as the caller promises.
    let values = unsafe { filled(like.elem_count(), fill) };
    Tensor::from_vec(values, like, &Device::Cpu)
}

/// The values of a tensor that our kernels read.
fn with<T>(x: &Tensor, work: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    let x = x.contiguous()?;
    let (storage, layout) = x.storage_and_layout();
    let candle_core::Storage::Cpu(storage) = &*storage else {
        candle_core::bail!("a kernel for the CPU was given a tensor elsewhere")
    };
    work(slice(storage, layout)?)
}

// --- A frozen projection ---------------------------------------------------------------------------------------------------------

/// A frozen weight `[out, in]`: `x Wᵀ` forward, `g W` backward, and no gradient of its own.
pub enum Frozen {
    /// In the checkpoint's own layout, which serves both directions.
    Plain(Tensor),
    /// In bf16 on the CPU, as the processor's instructions read it, once for each direction.
    Halves(bf16::Panels, Arc<bf16::Panels>),
    /// In bf16 on the CPU in its own layout, since others hold it too: the embedding as head.
    Wide(Tensor),
}

/// Rows above which a weight is not laid out twice: only an embedding has so many.
const LONGEST: usize = 30_000;

impl Frozen {
    pub fn new(weight: Tensor) -> Result<Self> {
        let weight = weight.contiguous()?;
        if !weight.device().is_cpu() || weight.dtype() != DType::BF16 {
            return Ok(Self::Plain(weight));
        }
        if weight.dim(0)? > LONGEST {
            return Ok(Self::Wide(weight));
        }
        let back = Arc::new(bf16::Panels::new(&weight.t()?.contiguous()?)?);
        Ok(Self::Halves(bf16::Panels::new(&weight)?, back))
    }
}

/// `x [tokens, in]` times a weight `[out, in]`, by its rows or, backward, by its columns.
fn times(x: &[f32], weight: &[f32], out: usize, inner: usize, back: bool, y: &mut [MaybeUninit<f32>]) {
    let (wide, narrow) = if back { (out, inner) } else { (inner, out) };
    // [wide, narrow] of the weight's values.
    let (rows, columns) = if back { (inner, 1) } else { (1, inner) };
    let tokens = (x.len() / wide).div_ceil(rayon::current_num_threads()).max(16);
    y.par_chunks_mut(tokens * narrow).zip(x.par_chunks(tokens * wide)).for_each(|(y, x)| {
        multiply(
            [x.len() / wide, narrow, wide],
            (y, Matrix { offset: 0, rows: narrow, columns: 1 }),
            (x, Matrix { offset: 0, rows: wide, columns: 1 }),
            (weight, Matrix { offset: 0, rows, columns }),
        );
    });
}

/// A tensor's last dimension replaced.
fn ending(shape: &Shape, last: usize) -> Shape {
    let dims = shape.dims();
    Shape::from([&dims[..dims.len() - 1], &[last]].concat())
}

/// The number format to which a product in bf16 rounds both factors.
fn rounded(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(DType::BF16)?.to_dtype(DType::F32)
}

/// Rows of a weight in bf16 that are widened at once.
const WIDENED: usize = 4096;

impl CustomOp1 for Frozen {
    fn name(&self) -> &'static str {
        "frozen-projection"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let inner = layout.dims().last().copied().unwrap_or_default();
        match self {
            Self::Plain(weight) if weight.dtype() == DType::F32 => {
                let (out, wanted) = weight.dims2()?;
                if inner != wanted {
                    candle_core::bail!("a projection of width {wanted} was given vectors of width {inner}");
                }
                let x = slice(x, layout)?;
                let y = with(weight, |weight| {
                    // SAFETY: a product writes every value.
                    #[allow(unsafe_code)]
                    Ok(unsafe { filled(x.len() / inner * out, |y| times(x, weight, out, inner, false, y)) })
                })?;
                Ok((CpuStorage::F32(y), ending(layout.shape(), out)))
            }
            Self::Plain(weight) => candle_core::bail!("weights in {:?} are not trained on the CPU", weight.dtype()),
            Self::Halves(panels, _) => {
                let x =
                    Tensor::from_slice(slice(x, layout)?, (layout.shape().elem_count() / inner, inner), &Device::Cpu)?;
                let y = x.apply_op1_no_bwd(panels)?;
                let out = y.dim(1)?;
                Ok((CpuStorage::F32(y.flatten_all()?.to_vec1()?), ending(layout.shape(), out)))
            }
            Self::Wide(weight) => {
                let x =
                    Tensor::from_slice(slice(x, layout)?, (layout.shape().elem_count() / inner, inner), &Device::Cpu)?;
                let y = bf16::widened(&x, weight)?;
                let out = y.dim(1)?;
                Ok((CpuStorage::F32(y.flatten_all()?.to_vec1()?), ending(layout.shape(), out)))
            }
        }
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &candle_core::CudaStorage, layout: &Layout) -> Result<(candle_core::CudaStorage, Shape)> {
        use candle_core::backend::BackendStorage;
        let Self::Plain(weight) = self else { candle_core::bail!("a weight laid out for the CPU") };
        let (out, inner) = weight.dims2()?;
        let (storage, own) = weight.storage_and_layout();
        let candle_core::Storage::Cuda(storage) = &*storage else { candle_core::bail!("the weight is not on the GPU") };
        let tokens = layout.shape().elem_count() / inner;
        let x_layout = Layout::contiguous_with_offset((tokens, inner), layout.start_offset());
        let y = x.matmul(storage, (1, tokens, out, inner), &x_layout, &own.transpose(0, 1)?)?;
        Ok((y, ending(layout.shape(), out)))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let shape = x.shape();
        let gradient = gradient.contiguous()?;
        let out = gradient.dims().last().copied().unwrap_or_default();
        Ok(Some(match self {
            Self::Plain(weight) if has_kernels(weight) => {
                let inner = weight.dim(1)?;
                with(&gradient, |gradient| {
                    with(weight, |weight| {
                        // SAFETY: a product writes every value.
                        #[allow(unsafe_code)]
                        unsafe {
                            made(shape, |y| times(gradient, weight, out, inner, true, y))
                        }
                    })
                })?
            }
            Self::Plain(weight) => gradient.reshape(((), out))?.matmul(weight)?.reshape(shape)?,
            Self::Halves(_, panels) => gradient.reshape(((), out))?.apply_op1_no_bwd(&**panels)?.reshape(shape)?,
            Self::Wide(weight) => {
                let gradient = rounded(&gradient.reshape(((), out))?)?;
                let mut sum: Option<Tensor> = None;
                for start in (0..out).step_by(WIDENED) {
                    let rows = WIDENED.min(out - start);
                    let weight = weight.narrow(0, start, rows)?.to_dtype(DType::F32)?;
                    let part = gradient.narrow(1, start, rows)?.contiguous()?.matmul(&weight)?;
                    sum = Some(match sum {
                        Some(sum) => (sum + part)?,
                        None => part,
                    });
                }
                sum.expect("an embedding has rows").reshape(shape)?
            }
        }))
    }
}

// --- A frozen projection with trained rows or columns in it ----------------------------------------------------------------------

/// A frozen weight `[out, in]` in f32, some rows or columns of which are trained. Before every product the values are laid into the
/// weight, so that one product computes all of it forward and one backward; only the gradient of the values is more.
pub struct Replaced {
    weight: Tensor,
    indices: Vec<u32>,
    along: usize,
}

impl Replaced {
    pub fn new(weight: &Tensor, indices: &[u32], along: usize) -> Result<Self> {
        // A copy of its own, since it is written to.
        Ok(Self { weight: weight.copy()?.contiguous()?, indices: indices.to_vec(), along })
    }
}

/// Lays values into a weight.
struct Put<'a> {
    indices: &'a [u32],
    along: usize,
    values: &'a [f32],
}

impl InplaceOp1 for Put<'_> {
    fn name(&self) -> &'static str {
        "put-rows"
    }

    fn cpu_fwd(&self, weight: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (out, inner) = layout.shape().dims2()?;
        let Some((start, end)) = layout.contiguous_offsets() else { candle_core::bail!("the weight has gaps") };
        let CpuStorage::F32(weight) = weight else { candle_core::bail!("the weight is not f32") };
        let weight = &mut weight[start..end];
        if self.along == 0 {
            for (row, values) in self.indices.iter().zip(self.values.chunks_exact(inner)) {
                weight[*row as usize * inner..][..inner].copy_from_slice(values);
            }
        } else {
            let rows = weight.chunks_exact_mut(inner).zip(self.values.chunks_exact(self.values.len() / out));
            for (row, values) in rows {
                for (column, value) in self.indices.iter().zip(values) {
                    row[*column as usize] = *value;
                }
            }
        }
        Ok(())
    }
}

/// Some columns of rows of `width` values, `[rows, columns]`.
fn columns(x: &[f32], width: usize, indices: &[u32]) -> Vec<f32> {
    x.chunks_exact(width).flat_map(|row| indices.iter().map(move |&column| row[column as usize])).collect()
}

/// `aᵀ b [m, n]` of `a [tokens, m]` and `b [tokens, n]`.
fn across(a: &[f32], m: usize, b: &[f32], n: usize) -> Vec<f32> {
    let tokens = a.len() / m;
    let mut found = vec![0f32; m * n];
    let rows = m.div_ceil(rayon::current_num_threads()).max(8);
    found.par_chunks_mut(rows * n).enumerate().for_each(|(i, found)| {
        let (count, first) = (found.len() / n, i * rows);
        multiply_add(
            [count, n, tokens],
            (found, Matrix { offset: 0, rows: n, columns: 1 }),
            (a, Matrix { offset: first, rows: 1, columns: m }),
            (b, Matrix { offset: 0, rows: n, columns: 1 }),
        );
    });
    found
}

impl CustomOp2 for Replaced {
    fn name(&self) -> &'static str {
        "projection-with-trained-rows"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        values: &CpuStorage,
        values_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (out, inner) = self.weight.dims2()?;
        let values = slice(values, values_layout)?;
        self.weight.inplace_op1(&Put { indices: &self.indices, along: self.along, values })?;
        if layout.dims().last() != Some(&inner) {
            candle_core::bail!("a projection of width {inner} was given vectors of {:?}", layout.shape());
        }
        let x = slice(x, layout)?;
        let y = with(&self.weight, |weight| {
            // SAFETY: a product writes every value.
            #[allow(unsafe_code)]
            Ok(unsafe { filled(x.len() / inner * out, |y| times(x, weight, out, inner, false, y)) })
        })?;
        Ok((CpuStorage::F32(y), ending(layout.shape(), out)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        values: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (out, inner) = self.weight.dims2()?;
        let count = self.indices.len();
        let gradient = gradient.contiguous()?;
        let own = with(&gradient, |gradient| {
            with(x, |x| {
                Ok(if self.along == 0 {
                    across(&columns(gradient, out, &self.indices), count, x, inner)
                } else {
                    across(gradient, out, &columns(x, inner, &self.indices), count)
                })
            })
        })?;
        let own = Tensor::from_vec(own, values.shape(), &Device::Cpu)?;
        if !x.track_op() {
            return Ok((None, Some(own)));
        }
        let back = with(&gradient, |gradient| {
            with(&self.weight, |weight| {
                // SAFETY: a product writes every value.
                #[allow(unsafe_code)]
                unsafe {
                    made(x.shape(), |y| times(gradient, weight, out, inner, true, y))
                }
            })
        })?;
        Ok((Some(back), Some(own)))
    }
}

// --- A frozen norm ---------------------------------------------------------------------------------------------------------------

/// A norm over the last dimension whose weight and bias are frozen.
pub struct FrozenNorm {
    kind: NormKind,
    eps: f32,
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
}

impl FrozenNorm {
    #[allow(clippy::cast_possible_truncation)]
    pub fn new(spec: NormSpec, weight: &Tensor, bias: Option<&Tensor>) -> Result<Self> {
        let weight = if spec.kind == NormKind::RmsPlusOne { (weight + 1.0)? } else { weight.clone() };
        Ok(Self {
            kind: spec.kind,
            eps: spec.eps as f32,
            weight: weight.to_vec1()?,
            bias: bias.map(Tensor::to_vec1).transpose()?,
        })
    }
}

/// Sum in sixteen running parts: vector code, and less rounding than one part.
#[inline(always)]
fn sum(values: impl ExactSizeIterator<Item = f32>) -> f32 {
    let mut sums = [0f32; 16];
    let mut values = values;
    while values.len() >= 16 {
        for sum in &mut sums {
            *sum += values.next().unwrap_or_default();
        }
    }
    for value in values {
        sums[0] += value;
    }
    sums.iter().sum()
}

/// Of one vector, the mean (0 for an RMS norm) and the inverse of the root.
#[inline(always)]
fn moments(kind: NormKind, eps: f32, x: &[f32]) -> (f32, f32) {
    let n = x.len() as f32;
    let mean = if kind == NormKind::Layer { sum(x.iter().copied()) / n } else { 0.0 };
    let square = sum(x.iter().map(|x| (x - mean) * (x - mean))) / n;
    (mean, 1.0 / (square + eps).sqrt())
}

vectorised! {
    fn normalise(norm: &FrozenNorm, x: &[f32], y: &mut [f32]) {
        let width = norm.weight.len();
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            let (mean, inverse) = moments(norm.kind, norm.eps, x);
            for ((y, x), w) in y.iter_mut().zip(x).zip(&norm.weight) {
                *y = (x - mean) * inverse * w;
            }
            if let Some(bias) = &norm.bias {
                for (y, b) in y.iter_mut().zip(bias) {
                    *y += b;
                }
            }
        }
    }
}

vectorised! {
    /// With x̂ = (x − mean) / root and h = g · w: dx = (h − mean(h x̂) x̂ − [layer norm] mean(h)) / root.
    fn normalise_back(norm: &FrozenNorm, x: &[f32], g: &[f32], dx: &mut [f32]) {
        let width = norm.weight.len();
        let n = width as f32;
        for ((x, g), dx) in x.chunks_exact(width).zip(g.chunks_exact(width)).zip(dx.chunks_exact_mut(width)) {
            let (mean, inverse) = moments(norm.kind, norm.eps, x);
            for ((dx, g), w) in dx.iter_mut().zip(g).zip(&norm.weight) {
                *dx = g * w;
            }
            let along = sum(dx.iter().zip(x).map(|(h, x)| h * (x - mean))) * inverse / n;
            let level = if norm.kind == NormKind::Layer { sum(dx.iter().copied()) / n } else { 0.0 };
            for (dx, x) in dx.iter_mut().zip(x) {
                *dx = (*dx - along * (x - mean) * inverse - level) * inverse;
            }
        }
    }
}

/// Values that one task takes.
const CHUNK: usize = 1 << 15;

/// Whole rows of about [`CHUNK`] values.
fn rows_of(width: usize) -> usize {
    (CHUNK / width).max(1) * width
}

impl CustomOp1 for FrozenNorm {
    fn name(&self) -> &'static str {
        "frozen-norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(x, layout)?;
        let mut y = vec![0f32; x.len()];
        let chunk = rows_of(self.weight.len());
        y.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).for_each(|(y, x)| normalise(self, x, y));
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let chunk = rows_of(self.weight.len());
        let mut dx = vec![0f32; x.elem_count()];
        with(x, |x| {
            with(gradient, |g| {
                dx.par_chunks_mut(chunk)
                    .zip(x.par_chunks(chunk).zip(g.par_chunks(chunk)))
                    .for_each(|(dx, (x, g))| normalise_back(self, x, g, dx));
                Ok(())
            })
        })?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), &Device::Cpu)?))
    }
}

// --- Rotary positions ------------------------------------------------------------------------------------------------------------

/// Turns `[batch, seq, heads, head_dim]`; its gradient is turned back.
#[derive(Clone)]
pub struct Turn {
    cos: Arc<Vec<f32>>,
    sin: Arc<Vec<f32>>,
    dim: usize,
    interleaved: bool,
}

impl Turn {
    pub fn new(cos: Arc<Vec<f32>>, sin: Arc<Vec<f32>>, dim: usize, interleaved: bool) -> Self {
        Self { cos, sin, dim, interleaved }
    }

    /// `sign` is 1, or −1 to turn back.
    fn turn(&self, x: &[f32], shape: &Shape, sign: f32) -> Result<Vec<f32>> {
        let (_, seq, heads, head_dim) = shape.dims4()?;
        let half = self.dim / 2;
        let mut y = vec![0f32; x.len()];
        let row = heads * head_dim;
        y.par_chunks_mut(row).zip(x.par_chunks(row)).enumerate().with_min_len(16).for_each(|(token, (y, x))| {
            let at = token % seq * half;
            let (cos, sin) = (&self.cos[at..at + half], &self.sin[at..at + half]);
            for (y, x) in y.chunks_exact_mut(head_dim).zip(x.chunks_exact(head_dim)) {
                y[self.dim..].copy_from_slice(&x[self.dim..]);
                if self.interleaved {
                    let pairs = y[..self.dim].chunks_exact_mut(2).zip(x[..self.dim].chunks_exact(2));
                    for ((y, x), (cos, sin)) in pairs.zip(cos.iter().zip(sin)) {
                        y[0] = x[0] * cos - sign * x[1] * sin;
                        y[1] = sign * x[0] * sin + x[1] * cos;
                    }
                } else {
                    let (y1, y2) = y[..self.dim].split_at_mut(half);
                    let (x1, x2) = x[..self.dim].split_at(half);
                    let pairs = y1.iter_mut().zip(y2).zip(x1.iter().zip(x2));
                    for (((y1, y2), (x1, x2)), (cos, sin)) in pairs.zip(cos.iter().zip(sin)) {
                        *y1 = x1 * cos - sign * x2 * sin;
                        *y2 = sign * x1 * sin + x2 * cos;
                    }
                }
            }
        });
        Ok(y)
    }
}

impl CustomOp1 for Turn {
    fn name(&self) -> &'static str {
        "rotary"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = self.turn(slice(x, layout)?, layout.shape(), 1.0)?;
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let back = with(gradient, |gradient| self.turn(gradient, x.shape(), -1.0))?;
        Ok(Some(Tensor::from_vec(back, x.shape(), &Device::Cpu)?))
    }
}

// --- The activation --------------------------------------------------------------------------------------------------------------

/// `act(gate) · up`.
pub struct Gated(pub Activation);

/// Values whose activations fit into the first-level cache.
const TILE: usize = 512;

vectorised! {
    fn gate_forward(act: Activation, gate: &[f32], up: &[f32], h: &mut [f32]) {
        for ((gate, up), h) in gate.chunks(TILE).zip(up.chunks(TILE)).zip(h.chunks_mut(TILE)) {
            act.values(gate, h);
            for (h, up) in h.iter_mut().zip(up) {
                *h *= up;
            }
        }
    }
}

/// The two slices of gradients that one task writes.
struct Pair<'a> {
    gate: &'a mut [f32],
    up: &'a mut [f32],
}

vectorised! {
    fn gate_back(act: Activation, gate: &[f32], up: &[f32], g: &[f32], to: Pair) {
        let mut slope = [0f32; TILE];
        let parts = gate.chunks(TILE).zip(up.chunks(TILE)).zip(g.chunks(TILE));
        for (((gate, up), g), (d_gate, d_up)) in parts.zip(to.gate.chunks_mut(TILE).zip(to.up.chunks_mut(TILE))) {
            act.slopes(gate, d_up, &mut slope);
            for ((((d_gate, d_up), slope), up), g) in d_gate.iter_mut().zip(d_up).zip(&slope).zip(up).zip(g) {
                *d_gate = g * up * slope;
                *d_up *= g;
            }
        }
    }
}

impl CustomOp2 for Gated {
    fn name(&self) -> &'static str {
        "gated-activation-with-gradient"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (slice(gate, gate_layout)?, slice(up, up_layout)?);
        let mut h = vec![0f32; gate.len()];
        h.par_chunks_mut(CHUNK)
            .zip(gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK)))
            .for_each(|(h, (gate, up))| gate_forward(self.0, gate, up, h));
        Ok((CpuStorage::F32(h), gate_layout.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let size = gate.elem_count();
        let (mut d_gate, mut d_up) = (vec![0f32; size], vec![0f32; size]);
        with(gate, |gate| {
            with(up, |up| {
                with(gradient, |g| {
                    let from = gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK)).zip(g.par_chunks(CHUNK));
                    let to = d_gate.par_chunks_mut(CHUNK).zip(d_up.par_chunks_mut(CHUNK));
                    from.zip(to).for_each(|(((gate, up), g), (d_gate, d_up))| {
                        gate_back(self.0, gate, up, g, Pair { gate: d_gate, up: d_up });
                    });
                    Ok(())
                })
            })
        })?;
        let tensor = |values| Tensor::from_vec(values, gate.shape(), &Device::Cpu).map(Some);
        Ok((tensor(d_gate)?, tensor(d_up)?))
    }
}

// --- Causal attention ------------------------------------------------------------------------------------------------------------

/// Causal attention over query `[batch, seq, heads, dim]`, key and value `[batch, seq, kv_heads, dim]`. The weights of the keys are
/// computed again in the backward pass: they would be the only tensors that grow with the square of the window.
pub struct CausalGradient {
    pub scores: Scores,
}

impl CustomOp3 for CausalGradient {
    fn name(&self) -> &'static str {
        "causal-attention-with-gradient"
    }

    fn cpu_fwd(
        &self,
        query: &CpuStorage,
        query_layout: &Layout,
        key: &CpuStorage,
        key_layout: &Layout,
        value: &CpuStorage,
        value_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Causal { scores: &self.scores }.cpu_fwd(query, query_layout, key, key_layout, value, value_layout)
    }

    fn bwd(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (batch, seq, heads, dim) = query.dims4()?;
        let kv_heads = key.dim(2)?;
        let sizes = Sizes { scores: &self.scores, seq, heads, kv_heads, dim };
        let parts = with(query, |query| {
            with(key, |key| {
                with(value, |value| {
                    with(gradient, |gradient| {
                        let tasks: Vec<_> =
                            (0..batch).flat_map(|window| (0..kv_heads).map(move |head| (window, head))).collect();
                        let parts = tasks.into_par_iter().with_max_len(1).map(|(window, head)| {
                            let rows = |x: &'_ [f32]| -> std::ops::Range<usize> {
                                let size = x.len() / batch;
                                window * size..(window + 1) * size
                            };
                            sizes.back(
                                head,
                                &query[rows(query)],
                                &key[rows(key)],
                                &value[rows(value)],
                                &gradient[rows(gradient)],
                            )
                        });
                        Ok(parts.collect::<Vec<_>>())
                    })
                })
            })
        })?;
        let (group, row, kv_row) = (heads / kv_heads, heads * dim, kv_heads * dim);
        let mut d_query = vec![0f32; batch * seq * row];
        let (mut d_key, mut d_value) = (vec![0f32; batch * seq * kv_row], vec![0f32; batch * seq * kv_row]);
        for (i, part) in parts.iter().enumerate() {
            let (window, head) = (i / kv_heads, i % kv_heads);
            for position in 0..seq {
                let token = window * seq + position;
                let own = &part.query[position * group * dim..][..group * dim];
                d_query[token * row + head * group * dim..][..group * dim].copy_from_slice(own);
                let at = token * kv_row + head * dim;
                d_key[at..at + dim].copy_from_slice(&part.key[position * dim..][..dim]);
                d_value[at..at + dim].copy_from_slice(&part.value[position * dim..][..dim]);
            }
        }
        let tensor = |values, like: &Tensor| Tensor::from_vec(values, like.shape(), &Device::Cpu).map(Some);
        Ok((tensor(d_query, query)?, tensor(d_key, key)?, tensor(d_value, value)?))
    }
}

#[derive(Clone, Copy)]
struct Sizes<'a> {
    scores: &'a Scores,
    seq: usize,
    heads: usize,
    kv_heads: usize,
    dim: usize,
}

/// Gradients of one key's head in one window: query `[seq, group, dim]`, key and value `[seq, dim]`.
struct HeadGradients {
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
}

vectorised! {
    /// From the gradient of the weights to that of the raw products, in place: `p (g − Σ p g)`, times the slope of what was done to them.
    fn softmax_back(weights: &[f32], slopes: &[f32], scale: f32, gradient: &mut [f32]) {
        let along = sum(weights.iter().zip(gradient.iter()).map(|(p, g)| p * g));
        for (g, p) in gradient.iter_mut().zip(weights) {
            *g = p * (*g - along) * scale;
        }
        for (g, slope) in gradient.iter_mut().zip(slopes) {
            *g *= slope;
        }
    }
}

impl Sizes<'_> {
    fn back(self, kv_head: usize, query: &[f32], key: &[f32], value: &[f32], gradient: &[f32]) -> HeadGradients {
        let Self { scores: rule, seq, heads, kv_heads, dim } = self;
        let (group, row, kv_row) = (heads / kv_heads, heads * dim, kv_heads * dim);
        let mut found = HeadGradients {
            query: vec![0.0; seq * group * dim],
            key: vec![0.0; seq * dim],
            value: vec![0.0; seq * dim],
        };
        let at = |offset, rows, columns| Matrix { offset, rows, columns };
        let (mut weights, mut slopes, mut back) = (Vec::new(), Vec::new(), Vec::new());
        for first in (0..seq).step_by(QUERIES) {
            let queries = QUERIES.min(seq - first);
            let oldest = rule.window.map_or(0, |window| (first + 1).saturating_sub(window));
            let keys = first + queries - oldest;
            weights.resize(queries * keys, 0f32);
            back.resize(queries * keys, 0f32);
            for member in 0..group {
                let head = kv_head * group + member;
                let (q, kv) = (first * row + head * dim, oldest * kv_row + kv_head * dim);
                // [queries, keys] = query · keyᵀ, and the gradient of the weights = gradient · valueᵀ
                // SAFETY: a product writes numbers.
                #[allow(unsafe_code)]
                let (to, to_back) = unsafe { (overwritten(&mut weights), overwritten(&mut back)) };
                let products = [queries, keys, dim];
                multiply(products, (to, at(0, keys, 1)), (query, at(q, row, 1)), (key, at(kv, 1, kv_row)));
                multiply(products, (to_back, at(0, keys, 1)), (gradient, at(q, row, 1)), (value, at(kv, 1, kv_row)));
                for i in 0..queries {
                    let position = first + i;
                    let unseen = rule.window.map_or(0, |window| (position + 1).saturating_sub(window)) - oldest;
                    let seen = unseen..position + 1 - oldest;
                    let (weights, back) = (&mut weights[i * keys..][..keys], &mut back[i * keys..][..keys]);
                    slopes.clear();
                    if let Some(cap) = rule.softcap {
                        // d/ds c tanh(s/c) = 1 − tanh²(s/c)
                        let (cap, scale) = (cap as f32, rule.scale as f32);
                        slopes.extend(weights[seen.clone()].iter().map(|s| {
                            let tanh = (s * scale / cap).tanh();
                            1.0 - tanh * tanh
                        }));
                    }
                    weights[..seen.start].fill(0.0);
                    weights[seen.end..].fill(0.0);
                    back[..seen.start].fill(0.0);
                    back[seen.end..].fill(0.0);
                    rule.shape(head, &mut weights[seen.clone()]);
                    softmax_back(&weights[seen.clone()], &slopes, rule.scale as f32, &mut back[seen]);
                }
                // value += weightsᵀ · gradient, key += backᵀ · query, query = back · key
                let own = at(oldest * dim, dim, 1);
                let turned = [keys, dim, queries];
                multiply_add(turned, (&mut found.value, own), (&weights, at(0, 1, keys)), (gradient, at(q, row, 1)));
                multiply_add(turned, (&mut found.key, own), (&back, at(0, 1, keys)), (query, at(q, row, 1)));
                multiply_add(
                    [queries, dim, keys],
                    (&mut found.query, at(first * group * dim + member * dim, group * dim, 1)),
                    (&back, at(0, keys, 1)),
                    (key, at(kv, kv_row, 1)),
                );
            }
        }
        found
    }
}

// --- The loss --------------------------------------------------------------------------------------------------------------------

/// `scale` times the sum of the negative log-likelihood of the scored targets under `logits [1, tokens, vocabulary]`.
fn cross_entropy(logits: &Tensor, targets: &[u32], scale: f64) -> Result<Tensor> {
    if has_kernels(logits) {
        let op = CrossEntropy { targets: targets.to_vec(), scale: scale as f32, levels: Mutex::new(Vec::new()) };
        return logits.contiguous()?.apply_op1(op);
    }
    let rows = logits.squeeze(0)?.to_dtype(DType::F32)?;
    let scored: Vec<u32> = targets.iter().map(|&id| u32::from(id != UNSCORED)).collect();
    let ids: Vec<u32> = targets.iter().map(|&id| if id == UNSCORED { 0 } else { id }).collect();
    let device = rows.device();
    let ids = Tensor::from_vec(ids, (targets.len(), 1), device)?;
    let scored = Tensor::from_vec(scored, (targets.len(), 1), device)?.to_dtype(DType::F32)?;
    let log_p = candle_nn::ops::log_softmax(&rows, candle_core::D::Minus1)?.gather(&ids, 1)?;
    (log_p * scored)?.sum_all()? * -scale
}

struct CrossEntropy {
    targets: Vec<u32>,
    scale: f32,
    /// Per token, the logarithm of the sum of the exponentials, from the forward pass for the backward pass.
    levels: Mutex<Vec<f32>>,
}

vectorised! {
    fn level(logits: &[f32], to: &mut f32) {
        let mut maxima = [f32::NEG_INFINITY; 16];
        let (parts, rest) = logits.as_chunks::<16>();
        for part in parts {
            for (max, &value) in maxima.iter_mut().zip(part) {
                *max = if value > *max { value } else { *max };
            }
        }
        let max = maxima.iter().chain(rest).fold(f32::NEG_INFINITY, |max, &value| if value > max { value } else { max });
        // A NaN is no maximum, but it must not pass for a loss.
        *to = max + sum(logits.iter().map(|&x| exp(x - max))).ln();
        if logits.iter().any(|x| x.is_nan()) {
            *to = f32::NAN;
        }
    }
}

vectorised! {
    fn probabilities(logits: &[f32], level: f32, scale: f32, to: &mut [f32]) {
        for (to, &x) in to.iter_mut().zip(logits) {
            *to = exp(x - level) * scale;
        }
    }
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let width = layout.dims().last().copied().unwrap_or_default();
        if let Some(id) = self.targets.iter().find(|&&id| id != UNSCORED && id as usize >= width) {
            candle_core::bail!("id {id} should be predicted, but there are {width} logits");
        }
        let logits = slice(logits, layout)?;
        let levels: Vec<f32> = logits
            .par_chunks(width)
            .map(|logits| {
                let mut found = 0.0;
                level(logits, &mut found);
                found
            })
            .collect();
        let scored = self.targets.iter().enumerate().filter(|(_, id)| **id != UNSCORED);
        let total: f64 =
            scored.map(|(token, &id)| f64::from(levels[token] - logits[token * width + id as usize])).sum();
        *self.levels.lock().unwrap_or_else(PoisonError::into_inner) = levels;
        Ok((CpuStorage::F32(vec![(total * f64::from(self.scale)) as f32]), Shape::from(())))
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let scale = self.scale * gradient.to_scalar::<f32>()?;
        let width = logits.dims().last().copied().unwrap_or_default();
        let levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = vec![0f32; logits.elem_count()];
        with(logits, |logits| {
            found.par_chunks_mut(width).zip(logits.par_chunks(width)).enumerate().for_each(|(token, (to, logits))| {
                let id = self.targets[token];
                if id != UNSCORED {
                    probabilities(logits, levels[token], scale, to);
                    to[id as usize] -= scale;
                }
            });
            Ok(())
        })?;
        Ok(Some(Tensor::from_vec(found, logits.shape(), &Device::Cpu)?))
    }
}
