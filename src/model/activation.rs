//! The FFN's non-linearity, its product with the up projection, and the counting of active neurons, in one pass.

use std::cell::RefCell;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

#[cfg(feature = "cuda")]
use super::gpu::activation as gpu;
use super::{
    matrix::{slice, slice_mut},
    observer::{Observer, Tally},
    simd::{AT_ONCE, erf, exp, exp_of, map, pairwise, vectorised},
    sums::Sums,
};

/// A non-linearity that keeps the sign of its input's positive part: a neuron is active where its gate is positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x · σ(x)`.
    Silu,
    /// `x · Φ(x)`, with the normal distribution's Φ (Hendrycks & Gimpel 2016, arXiv 1606.08415).
    Gelu,
    /// The same with `(1 + tanh(√(2/π) (x + 0.044715 x³))) / 2` in place of Φ.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}

impl Activation {
    /// By differentiable operators.
    pub(super) fn forward(self, gate: &Tensor) -> Result<Tensor> {
        match self {
            Self::Silu => candle_nn::ops::silu(gate),
            Self::Gelu => gate.gelu_erf(),
            Self::GeluTanh => gate.gelu(),
            Self::Relu => gate.relu(),
        }
    }

    /// Activation and its derivative of every value.
    #[inline(always)]
    pub(super) fn slopes(self, from: &[f32], to: &mut [f32], slope: &mut [f32]) {
        #[inline(always)]
        fn each(from: &[f32], to: &mut [f32], slope: &mut [f32], value: impl Fn(f32) -> (f32, f32)) {
            for ((to, slope), &x) in to.iter_mut().zip(slope).zip(from) {
                (*to, *slope) = value(x);
            }
        }
        match self {
            // (x σ)' = σ + x σ (1 − σ)
            Self::Silu => each(from, to, slope, |x| {
                let sigmoid = 1.0 / (1.0 + exp(-x));
                (x * sigmoid, sigmoid * (1.0 + x * (1.0 - sigmoid)))
            }),
            // (x Φ)' = Φ + x φ
            Self::Gelu => each(from, to, slope, |x| {
                let phi = 0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
                (x * phi, phi + x * 0.398_942_3 * exp(-0.5 * x * x))
            }),
            // With y = 2 √(2/π) (x + 0.044715 x³): (x σ(y))' = σ + x σ (1 − σ) y'
            Self::GeluTanh => each(from, to, slope, |x| {
                let y = 2.0 * 0.797_884_6 * x * (0.044_715 * x).mul_add(x, 1.0);
                let dy = 2.0 * 0.797_884_6 * (3.0 * 0.044_715 * x).mul_add(x, 1.0);
                let sigmoid = 1.0 / (1.0 + exp(-y));
                (x * sigmoid, sigmoid * (1.0 + x * (1.0 - sigmoid) * dy))
            }),
            Self::Relu => each(from, to, slope, |x| if x > 0.0 { (x, 1.0) } else { (0.0, 0.0) }),
        }
    }

    /// Of every value. The choice lies outside the loop, so that each becomes vector code.
    #[inline(always)]
    pub(super) fn values(self, from: &[f32], to: &mut [f32]) {
        #[inline(always)]
        fn each(from: &[f32], to: &mut [f32], value: impl Fn(f32) -> f32) {
            for (to, &x) in to.iter_mut().zip(from) {
                *to = value(x);
            }
        }
        match self {
            Self::Silu => logistic_products(from, to, |x| x),
            Self::Gelu => each(from, to, |x| 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))),
            // (1 + tanh(y)) / 2 is the logistic function of 2y.
            Self::GeluTanh => {
                logistic_products(from, to, |x| 2.0 * 0.797_884_6 * x * (0.044_715 * x).mul_add(x, 1.0));
            }
            Self::Relu => each(from, to, |x| x.max(0.0)),
        }
    }
}

/// `x · σ(y(x))` of every value.
#[inline(always)]
fn logistic_products(from: &[f32], to: &mut [f32], y: impl Fn(f32) -> f32) {
    #[inline(always)]
    fn each<const N: usize>(x: [f32; N], y: impl Fn(f32) -> f32) -> [f32; N] {
        pairwise(x, &exp_of(map(x, |x| -y(x))), |x, e| x / (1.0 + e))
    }
    let ((from, from_rest), (to, to_rest)) = (from.as_chunks::<AT_ONCE>(), to[..from.len()].as_chunks_mut());
    for (to, from) in to.iter_mut().zip(from) {
        *to = each(*from, &y);
    }
    for (to, from) in to_rest.iter_mut().zip(from_rest) {
        [*to] = each([*from], &y);
    }
}

/// The activations of a FFN without an up projection; what the observer wants to see is seen in the same pass.
pub fn plain(mut gate: Tensor, act: Activation, layer: usize, observer: &mut dyn Observer) -> Result<Tensor> {
    if !has_kernel(&gate) {
        observe(&gate, act, layer, observer)?;
        return act.forward(&gate);
    }
    if observer.tally().is_none() {
        observer.gate(layer, &gate)?;
        // The observer may have kept it.
        gate = gate.copy()?;
    }
    let tally = observer.tally();
    gate.inplace_op1(&PlainOp { act, layer, tally: RefCell::new(tally) })?;
    Ok(gate)
}

/// `act(gate) · up`, written over `up`; what the observer wants to see is seen in the same pass.
pub fn gated(gate: &Tensor, up: Tensor, act: Activation, layer: usize, observer: &mut dyn Observer) -> Result<Tensor> {
    if !has_kernel(gate) {
        observe(gate, act, layer, observer)?;
        return act.forward(gate)? * up;
    }
    let tally = observer.tally();
    let counts_itself = tally.is_some();
    up.inplace_op2(gate, &GatedOp { act, layer, tally: RefCell::new(tally) })?;
    if !counts_itself {
        observer.gate(layer, gate)?;
    }
    Ok(up)
}

/// Shows a gate to the observer without computing anything else.
pub fn observe(gate: &Tensor, act: Activation, layer: usize, observer: &mut dyn Observer) -> Result<()> {
    let Some(tally) = observer.tally() else { return observer.gate(layer, gate) };
    #[cfg(feature = "cuda")]
    if gate.device().is_cuda() && has_kernel(gate) {
        check_runs(tally, gate.dim(0)? * gate.dim(1)?)?;
        let (storage, layout) = gate.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else { candle_core::bail!("the gate is on a GPU") };
        return gpu::pass(act, layer, Some(tally), (storage, layout), None, gpu::Output::Nowhere);
    }
    let gate = gate.to_dtype(DType::F32)?.to_device(&candle_core::Device::Cpu)?.contiguous()?;
    let (batch, seq, width) = gate.dims3()?;
    check_runs(tally, batch * seq)?;
    let (storage, layout) = gate.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { candle_core::bail!("the gate was moved to the CPU") };
    let gate = slice(storage, layout)?;
    let mut rest = gate;
    let pieces: Vec<(usize, &[f32])> = tally
        .runs()
        .iter()
        .map(|run| {
            let (piece, behind) = rest.split_at(run.tokens * width);
            rest = behind;
            (run.fold, piece)
        })
        .collect();
    let sums = pieces.into_par_iter().map(|(fold, gate)| (fold, Sums::new(act, width, gate))).collect();
    tally.add(layer, width, sums);
    Ok(())
}

pub(super) fn check_runs(tally: &Tally, tokens: usize) -> Result<()> {
    let announced: usize = tally.runs().iter().map(|run| run.tokens).sum();
    if announced != tokens {
        candle_core::bail!("the tally was told of {announced} tokens, but the batch has {tokens}");
    }
    Ok(())
}

/// Whether a kernel of ours reads the gate.
fn has_kernel(gate: &Tensor) -> bool {
    let format = match gate.device() {
        candle_core::Device::Cpu => gate.dtype() == DType::F32,
        candle_core::Device::Cuda(_) => cfg!(feature = "cuda") && matches!(gate.dtype(), DType::F32 | DType::BF16),
        candle_core::Device::Metal(_) => false,
    };
    format && gate.is_contiguous()
}

struct GatedOp<'a> {
    act: Activation,
    layer: usize,
    tally: RefCell<Option<&'a mut Tally>>,
}

impl candle_core::InplaceOp2 for GatedOp<'_> {
    fn name(&self) -> &'static str {
        "gated-activation"
    }

    fn cpu_fwd(&self, up: &mut CpuStorage, up_layout: &Layout, gate: &CpuStorage, gate_layout: &Layout) -> Result<()> {
        let (batch, seq, width) = gate_layout.shape().dims3()?;
        let gate = slice(gate, gate_layout)?;
        let up = slice_mut(up, up_layout)?;
        let act = self.act;
        let mut tally = self.tally.borrow_mut();
        let Some(tally) = tally.as_deref_mut() else {
            up.par_chunks_mut(ROWS * width)
                .zip(gate.par_chunks(ROWS * width))
                .for_each(|(up, gate)| multiply(act, width, up, gate));
            return Ok(());
        };
        check_runs(tally, batch * seq)?;
        let (mut up, mut gate) = (up, gate);
        let mut pieces = Vec::with_capacity(tally.runs().len());
        for run in tally.runs() {
            let (up_piece, up_rest) = up.split_at_mut(run.tokens * width);
            let (gate_piece, gate_rest) = gate.split_at(run.tokens * width);
            pieces.push((run.fold, up_piece, gate_piece));
            (up, gate) = (up_rest, gate_rest);
        }
        let sums =
            pieces.into_par_iter().map(|(fold, up, gate)| (fold, Sums::with_product(act, width, up, gate))).collect();
        tally.add(self.layer, width, sums);
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        up: &mut CudaStorage,
        up_layout: &Layout,
        gate: &CudaStorage,
        gate_layout: &Layout,
    ) -> Result<()> {
        let mut tally = self.tally.borrow_mut();
        let tally = checked(tally.as_deref_mut(), gate_layout)?;
        gpu::pass(self.act, self.layer, tally, (gate, gate_layout), Some((&*up, up_layout)), gpu::Output::OverUp)
    }
}

/// A tally that has been told of as many tokens as there are.
#[cfg(feature = "cuda")]
fn checked<'a>(tally: Option<&'a mut Tally>, gate: &Layout) -> Result<Option<&'a mut Tally>> {
    let (batch, seq, _) = gate.shape().dims3()?;
    if let Some(tally) = &tally {
        check_runs(tally, batch * seq)?;
    }
    Ok(tally)
}

struct PlainOp<'a> {
    act: Activation,
    layer: usize,
    tally: RefCell<Option<&'a mut Tally>>,
}

impl candle_core::InplaceOp1 for PlainOp<'_> {
    fn name(&self) -> &'static str {
        "plain-activation"
    }

    fn cpu_fwd(&self, gate: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (batch, seq, width) = layout.shape().dims3()?;
        let gate = slice_mut(gate, layout)?;
        let act = self.act;
        let mut tally = self.tally.borrow_mut();
        let Some(tally) = tally.as_deref_mut() else {
            gate.par_chunks_mut(ROWS * width).for_each(|gate| replace(act, width, gate));
            return Ok(());
        };
        check_runs(tally, batch * seq)?;
        let mut rest = gate;
        let mut pieces = Vec::with_capacity(tally.runs().len());
        for run in tally.runs() {
            let (piece, behind) = rest.split_at_mut(run.tokens * width);
            pieces.push((run.fold, piece));
            rest = behind;
        }
        let sums = pieces.into_par_iter().map(|(fold, gate)| (fold, Sums::replacing(act, width, gate))).collect();
        tally.add(self.layer, width, sums);
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, gate: &mut CudaStorage, layout: &Layout) -> Result<()> {
        let mut tally = self.tally.borrow_mut();
        let tally = checked(tally.as_deref_mut(), layout)?;
        gpu::pass(self.act, self.layer, tally, (&*gate, layout), None, gpu::Output::OverGate)
    }
}

/// Tokens that one task multiplies where nothing is counted.
const ROWS: usize = 64;
/// Neurons whose activations stand aside in the first-level cache.
const TILE: usize = 256;

vectorised! {
    fn multiply(act: Activation, width: usize, up: &mut [f32], gate: &[f32]) {
        let mut activation = [0f32; TILE];
        for (up, gate) in up.chunks_exact_mut(width).zip(gate.chunks_exact(width)) {
            for (up, gate) in up.chunks_mut(TILE).zip(gate.chunks(TILE)) {
                act.values(gate, &mut activation);
                for (h, a) in up.iter_mut().zip(&activation) {
                    *h *= a;
                }
            }
        }
    }
}

vectorised! {
    fn replace(act: Activation, width: usize, gate: &mut [f32]) {
        let mut activation = [0f32; TILE];
        for gate in gate.chunks_exact_mut(width) {
            for gate in gate.chunks_mut(TILE) {
                act.values(gate, &mut activation);
                gate.copy_from_slice(&activation[..gate.len()]);
            }
        }
    }
}

impl Tally {
    /// Counts the tokens that were routed to one expert of the batch at hand: their ascending places and their gate's pre-activations
    /// `[routed tokens, ffn]`.
    ///
    /// # Errors
    /// When the tokens are not of the batch, or the gate is not of theirs.
    pub fn add_routed(
        &mut self,
        act: Activation,
        layer: usize,
        expert: usize,
        tokens: &[u32],
        gate: &Tensor,
    ) -> Result<()> {
        let (shape, runs) = (self.shape(), self.runs_of(tokens)?);
        let inside = shape.is_routed() && layer < shape.layers && expert < shape.experts;
        if !inside || gate.dims() != [tokens.len(), shape.width] {
            candle_core::bail!(
                "layer {layer} expert {expert}: gates {:?} of {} tokens, but the model has {shape}",
                gate.dims(),
                tokens.len()
            );
        }
        if !self.wants(shape.ffn(layer, expert)) {
            return Ok(());
        }
        let gate = gate.to_dtype(DType::F32)?.to_device(&candle_core::Device::Cpu)?.contiguous()?;
        let (storage, layout) = gate.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { candle_core::bail!("the gate was moved to the CPU") };
        let mut rest = slice(storage, layout)?;
        let pieces: Vec<(usize, &[f32])> = runs
            .iter()
            .map(|run| {
                let (piece, behind) = rest.split_at(run.tokens * shape.width);
                rest = behind;
                (run.fold, piece)
            })
            .collect();
        let sums = pieces.into_par_iter().map(|(fold, gate)| (fold, Sums::new(act, shape.width, gate))).collect();
        self.route(layer, expert, &runs);
        // A dense layer is its only expert, so that one way of adding serves both.
        self.add(shape.ffn(layer, expert), shape.width, sums);
        Ok(())
    }
}
