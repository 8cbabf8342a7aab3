//! What training needs besides norms and attention. The kernels are in training.cu; what they compute is what `model/training/` computes on
//! the CPU.

use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, DType, Layout, Result, Shape, Storage, Tensor, backend::BackendStorage,
};

use super::{
    Argument::{self, Long, Number, Place, Real},
    TRAINING, check_alike, device_of, fits, in_words, named, number, only_on_gpus, place, place_of, start, unwritten,
};
use crate::model::Activation;

/// `act(gate) · up`, of one shape each.
///
/// # Errors
/// When the GPU has no room or fails.
#[allow(unsafe_code)]
pub fn gated(
    act: Activation,
    (gate, gate_layout): (&CudaStorage, &Layout),
    (up, up_layout): (&CudaStorage, &Layout),
) -> Result<(CudaStorage, Shape)> {
    let shape = gate_layout.shape();
    if up_layout.shape() != shape || up.dtype() != gate.dtype() {
        let (format, other) = (gate.dtype(), up.dtype());
        candle_core::bail!("the gate is {shape:?} {format:?}, the up projection {:?} {other:?}", up_layout.shape());
    }
    // SAFETY: the kernel writes every value.
    let out = unsafe { unwritten(&gate.device, shape, gate.dtype())? };
    let places = [place(gate, gate_layout)?, place(up, up_layout)?, place(&out, &Layout::contiguous(shape))?];
    let count = shape.elem_count();
    let (name, values) = named("gated", gate.dtype(), in_words(gate.dtype(), count, &places));
    let arguments = [&places.map(Place)[..], &[Long(count as u64), Number(act as u32)]].concat();
    // SAFETY: the arguments are those of the kernel in training.cu, and the three are of one size.
    unsafe { start(&gate.device, &TRAINING, &name, count / values, &arguments)? };
    Ok((out, shape.clone()))
}

/// The gradients of gate and up projection from that of `act(gate) · up`.
///
/// # Errors
/// When the GPU has no room or fails.
#[allow(unsafe_code)]
pub fn gated_back(act: Activation, gate: &Tensor, up: &Tensor, gradient: &Tensor) -> Result<[Tensor; 2]> {
    let (gate, up, gradient) = (gate.contiguous()?, up.contiguous()?, gradient.contiguous()?);
    check_alike(&[&gate, &up, &gradient])?;
    let count = gate.elem_count();
    // SAFETY: the kernel writes every value.
    let (to_gate, to_up) = unsafe { (gate.empty_like()?, up.empty_like()?) };
    let places = [place_of(&gate)?, place_of(&up)?, place_of(&gradient)?, place_of(&to_gate)?, place_of(&to_up)?];
    let (name, values) = named("gated_back", gate.dtype(), in_words(gate.dtype(), count, &places));
    let arguments = [&places.map(Place)[..], &[Long(count as u64), Number(act as u32)]].concat();
    // SAFETY: the arguments are those of the kernel in training.cu, and the five are of one size.
    unsafe { start(&device_of(&gate)?, &TRAINING, &name, count / values, &arguments)? };
    Ok([to_gate, to_up])
}

/// `x + y` in place of `x`; says whether it was done.
///
/// # Errors
/// When the GPU fails.
#[allow(unsafe_code)]
pub fn add(x: &Tensor, y: &Tensor) -> Result<bool> {
    if !fits(x) || x.shape() != y.shape() || !(x.is_contiguous() && y.is_contiguous()) {
        return Ok(false);
    }
    check_alike(&[x, y])?;
    let (count, places) = (x.elem_count(), [place_of(x)?, place_of(y)?]);
    let (name, values) = named("add", x.dtype(), in_words(x.dtype(), count, &places));
    let arguments = [&places.map(Place)[..], &[Long(count as u64)]].concat();
    // SAFETY: the arguments are those of the kernel in training.cu, and both are of one size.
    unsafe { start(&device_of(x)?, &TRAINING, &name, count / values, &arguments)? };
    Ok(true)
}

/// Sums of the squares of the parts of tensors in f32, all read together, since reading waits for the GPU.
///
/// # Errors
/// When a tensor is in another format or the GPU fails.
#[allow(unsafe_code)]
pub fn squares(tensors: &[Tensor]) -> Result<Vec<f32>> {
    /// Values of a part, until there are as many parts as keep a GPU busy.
    const FEW: usize = 1 << 10;
    const MANY: usize = 1 << 13;
    let Some(first) = tensors.first() else { return Ok(Vec::new()) };
    let parts: Vec<usize> = tensors.iter().map(|it| it.elem_count().div_ceil(FEW).clamp(1, MANY)).collect();
    let sums = Tensor::zeros(parts.iter().sum::<usize>(), DType::F32, first.device())?;
    let mut to = place_of(&sums)?;
    for (tensor, parts) in tensors.iter().zip(parts) {
        let tensor = tensor.contiguous()?;
        if tensor.dtype() != DType::F32 {
            candle_core::bail!("squares are added in f32, not in {:?}", tensor.dtype());
        }
        let arguments =
            [Place(place_of(&tensor)?), Place(to), Long(tensor.elem_count() as u64), Number(number(parts)?)];
        // SAFETY: the arguments are those of the kernel in training.cu, and the sums of all parts have a place.
        unsafe { start(&device_of(&tensor)?, &TRAINING, "squares", parts * 32, &arguments)? };
        to += (parts * size_of::<f32>()) as u64;
    }
    sums.to_vec1()
}

/// Lays `values` (f32) into rows (`along` 0) or columns (1) of a weight `[out, in]` whose numbers are `indices` (u32).
///
/// # Errors
/// When the sizes do not fit or the GPU fails. An index beyond the weight is the caller's to rule out.
#[allow(unsafe_code)]
pub fn put(weight: &Tensor, indices: &Tensor, along: usize, (values, layout): (&CudaStorage, &Layout)) -> Result<()> {
    let (out, inner) = weight.dims2()?;
    let count = indices.elem_count();
    let wanted = if along == 0 { [count, inner] } else { [out, count] };
    if layout.dims() != wanted || values.dtype() != DType::F32 {
        candle_core::bail!("values {:?} for {count} of {out} x {inner} along {along}", layout.shape());
    }
    let places = [place(values, layout)?, place_of(weight)?, place_of(indices)?].map(Place);
    let sizes = [number(count)?, number(out)?, number(inner)?, number(along)?].map(Number);
    let (name, _) = named("put", weight.dtype(), false);
    let threads = layout.shape().elem_count();
    // SAFETY: the arguments are those of the kernel in training.cu; the sizes were checked.
    unsafe { start(&values.device, &TRAINING, &name, threads, &[&places[..], &sizes].concat()) }
}

/// `scale` times the sum of the negative log-likelihoods of `targets` under logits `[.., vocabulary]`, in f32. A target beyond the
/// vocabulary is none: the caller rules out what is not [`UNSCORED`](crate::model::UNSCORED).
pub struct CrossEntropy {
    /// `[tokens]`, u32.
    targets: Tensor,
    scale: f32,
    /// Per token, the logarithm of the sum of the exponentials.
    levels: Tensor,
    /// Per token.
    losses: Tensor,
}

/// Parts of a row that different warps read.
const PARTS: usize = 8;

impl CrossEntropy {
    /// Of every token's logits.
    ///
    /// # Errors
    /// When the GPU has no room or fails.
    pub fn sum(logits: &Tensor, targets: &[u32], scale: f32) -> Result<Tensor> {
        let device = logits.device();
        let targets = Tensor::new(targets, device)?;
        let floats = |n: usize| Tensor::zeros(n, DType::F32, device);
        let tokens = targets.elem_count();
        let op = Self { targets, scale, levels: floats(tokens)?, losses: floats(tokens)? };
        logits.contiguous()?.apply_op1(op)
    }
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        only_on_gpus()
    }

    #[allow(unsafe_code)]
    fn cuda_fwd(&self, logits: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let tokens = self.targets.elem_count();
        let width = layout.dims().last().copied().unwrap_or_default();
        if layout.shape().elem_count() != tokens * width {
            candle_core::bail!("{tokens} targets for logits {:?}", layout.shape());
        }
        let (dtype, device, at) = (logits.dtype(), &logits.device, place(logits, layout)?);
        let scratch = || Tensor::zeros(tokens * PARTS, DType::F32, self.targets.device());
        let (largest, sums) = (scratch()?, scratch()?);
        let [rows, columns, parts] = [number(tokens)?, number(width)?, number(PARTS)?].map(Number);
        let (name, _) = named("level_parts", dtype, in_words(dtype, width, &[at]));
        let (largest, sums) = (Place(place_of(&largest)?), Place(place_of(&sums)?));
        let arguments = [Place(at), largest, sums, rows, columns, parts];
        // SAFETY: the arguments are those of the kernel in training.cu, and all rows and parts have a place.
        unsafe { start(device, &TRAINING, &name, tokens * PARTS * 32, &arguments)? };
        let (name, _) = named("losses", dtype, false);
        let own = [place_of(&self.targets)?, place_of(&self.levels)?, place_of(&self.losses)?].map(Place);
        let arguments = [&[Place(at), largest, sums][..], &own, &[rows, columns, parts, Real(self.scale)]];
        // SAFETY: likewise.
        unsafe { start(device, &TRAINING, &name, tokens, &arguments.concat())? };
        let sum = self.losses.sum_all()?;
        let (storage, layout) = sum.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else { candle_core::bail!("it was computed on a GPU") };
        Ok((storage.try_clone(layout)?, Shape::from(())))
    }

    /// The gradient of the sum is taken for one: it is what `backward` begins with.
    #[allow(unsafe_code)]
    fn bwd(&self, logits: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        // SAFETY: the kernel writes every value.
        let out = unsafe { logits.empty_like()? };
        let (dtype, width) = (logits.dtype(), logits.dims().last().copied().unwrap_or_default());
        let (from, to) = (place_of(logits)?, place_of(&out)?);
        let (name, values) = named("losses_back", dtype, in_words(dtype, width, &[from, to]));
        let places = [from, place_of(&self.levels)?, place_of(&self.targets)?, to].map(Place);
        let sizes = [Number(number(self.targets.elem_count())?), Number(number(width)?), Real(self.scale)];
        let threads = logits.elem_count() / values;
        // SAFETY: the arguments are those of the kernel in training.cu, and both tensors are of one size.
        unsafe {
            start(&device_of(logits)?, &TRAINING, &name, threads, &[&places[..], &sizes].concat())?;
        }
        Ok(Some(out))
    }
}

/// `x` with the values dropped whose 16 random bits are below `limit`, and the others `kept` times as large.
///
/// # Errors
/// When the GPU has no room or fails.
#[allow(unsafe_code)]
pub fn dropped((x, layout): (&CudaStorage, &Layout), seed: u64, limit: u32, kept: f32) -> Result<(CudaStorage, Shape)> {
    let shape = layout.shape();
    // SAFETY: the kernel writes every value.
    let out = unsafe { unwritten(&x.device, shape, x.dtype())? };
    let places = [place(x, layout)?, place(&out, &Layout::contiguous(shape))?].map(Place);
    let count = shape.elem_count();
    let (name, _) = named("drop", x.dtype(), false);
    let rest = [Long(count as u64), Long(seed), Number(limit), Real(kept)];
    // SAFETY: the arguments are those of the kernel in training.cu, and both are of one size.
    unsafe { start(&x.device, &TRAINING, &name, count.div_ceil(4), &[&places[..], &rest].concat())? };
    Ok((out, shape.clone()))
}

/// The numbers of one step of AdamW, in the order in which the kernel takes them.
pub struct Step {
    /// Of the gradient.
    pub factor: f32,
    /// Share of the gradient in the mean.
    pub mix: f32,
    /// Share of the old square.
    pub beta2: f32,
    /// Share of the new one.
    pub rest: f32,
    /// Of the value.
    pub keep: f32,
    /// Share of the way to the base.
    pub pull: f32,
    /// Divisor of the square's root.
    pub root: f32,
    /// Added to it.
    pub eps: f32,
    /// Of the change.
    pub size: f32,
}

impl Step {
    /// Of a parameter, its moments and its gradient, in f32 and of one size; `base` is what it is pulled towards, if not zero.
    ///
    /// # Errors
    /// When they are of different sizes or the GPU fails.
    #[allow(unsafe_code)]
    pub fn take(
        &self,
        value: &Tensor,
        [mean, square]: [&Tensor; 2],
        gradient: &Tensor,
        base: Option<&Tensor>,
    ) -> Result<()> {
        let gradient = gradient.contiguous()?;
        let count = value.elem_count();
        if value.dtype() != DType::F32 {
            candle_core::bail!("AdamW steps in f32, not in {:?}", value.dtype());
        }
        check_alike(&[value, mean, square, &gradient, base.unwrap_or(value)])?;
        let places = [place_of(value)?, place_of(mean)?, place_of(square)?, place_of(&gradient)?];
        let places = [places[0], places[1], places[2], places[3], base.map_or(Ok(0), place_of)?].map(Place);
        let Self { factor, mix, beta2, rest, keep, pull, root, eps, size } = *self;
        let numbers = [factor, mix, beta2, rest, keep, pull, root, eps, size].map(Real);
        let arguments: Vec<Argument> = [&places[..], &[Long(count as u64)], &numbers].concat();
        // SAFETY: the arguments are those of the kernel in training.cu, and all tensors are of one size.
        unsafe { start(&device_of(value)?, &TRAINING, "adamw", count, &arguments) }
    }
}
