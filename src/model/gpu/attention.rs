//! Attention, in one pass where flash.rs knows how, or around cuBLAS's products: heads moved and turned, weights made in place, in one pass
//! each. The kernels are in attention.cu.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{
    CpuStorage, CudaDevice, CudaStorage, CustomOp1, CustomOp3, DType, Device, InplaceOp1, InplaceOp2, Layout, Result,
    Shape, Storage, Tensor,
    backend::BackendStorage,
    cuda_backend::{WrapErr, cudarc::driver::PushKernelArg},
};
use half::bf16;

use super::{
    ATTENTION, Argument, Number, WORD,
    flash::{self, Flash},
    function, grid, in_words, named, number, only_on_gpus, place, place_of, pointer, start,
};
use crate::model::{attention::Scores, rope::Rotary};

/// Queries of one block: enough for a product that fills a GPU, few enough that the keys that no query of it sees save something.
const QUERIES: usize = 128;
/// Scores that are held at once: half a GB in bf16.
const SCORES: usize = 1 << 28;

/// Causal attention of whole windows: query `[batch, seq, heads, dim]`, key and value `[batch, seq, kv_heads, dim]`, of which query and
/// key are not turned yet, to `[batch, seq, heads, dim]`. Where it is not one pass, block of queries by block of queries; heads that share a
/// key are multiplied with it together, without a copy of it for each.
///
/// # Errors
/// When the GPU has no room or fails.
pub fn attend(
    scores: &Scores,
    rotary: Option<&Rotary>,
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
) -> Result<Tensor> {
    let (batch, seq, heads, dim) = query.dims4()?;
    let kv_heads = key.dim(2)?;
    let slopes = slopes(scores, query.device())?;
    if query.dtype() == DType::BF16 && flash::fits([query, key, value])? {
        let turned = |x: &Tensor| match rotary {
            Some(_) => heads_first(x, rotary, 0, seq)?.transpose(1, 2),
            None => Ok(x.clone()),
        };
        let own = rotary.filter(|rotary| flash::turns(rotary));
        let query = if own.is_some() { query.clone() } else { turned(query)? };
        let op = Flash { scores, rotary: own, slopes: slopes.as_ref() };
        return query.apply_op3_no_bwd(&turned(key)?, value, &op);
    }
    let (key, value) = (heads_first(key, rotary, 0, seq)?, heads_first(value, None, 0, seq)?);
    // SAFETY: the blocks are all queries, and each of them is put there.
    #[allow(unsafe_code)]
    let mixed = unsafe { Tensor::empty((batch, seq, heads, dim), query.dtype(), query.device())? };
    let size = (SCORES / (batch * heads * seq)).clamp(1, QUERIES);
    for first in (0..seq).step_by(size) {
        let queries = size.min(seq - first);
        let oldest = scores.window.map_or(0, |window| (first + 1).saturating_sub(window));
        let keys = first + queries - oldest;
        let query = heads_first(query, rotary, first, queries)?;
        let query = query.reshape((batch, kv_heads, heads / kv_heads * queries, dim))?;
        let weights = query.matmul(&key.narrow(2, oldest, keys)?.t()?)?;
        weights.inplace_op1(&Weigh { scores, slopes: slopes.as_ref(), heads, queries, first, oldest })?;
        let block = weights.matmul(&value.narrow(2, oldest, keys)?)?.reshape((batch, heads, queries, dim))?;
        mixed.inplace_op2(&block, &TokensFirst { back: None, first })?;
    }
    Ok(mixed)
}

fn heads_first(x: &Tensor, rotary: Option<&Rotary>, first: usize, tokens: usize) -> Result<Tensor> {
    x.apply_op1_no_bwd(&HeadsFirst { rotary, first, tokens })
}

fn slopes(scores: &Scores, device: &Device) -> Result<Option<Tensor>> {
    scores.slopes.as_ref().map(|slopes| Tensor::new(slopes.as_slice(), device)).transpose()
}

/// The gradients of query, key and value of [`attend`], from that of what comes out: all queries at once where
/// their scores have room, and the weights of the keys computed again.
///
/// # Errors
/// When the GPU has no room or fails.
pub fn attend_back(
    scores: &Scores,
    rotary: Option<&Rotary>,
    [query, key, value]: [&Tensor; 3],
    gradient: &Tensor,
) -> Result<[Tensor; 3]> {
    let gradient = &gradient.contiguous()?;
    let (batch, seq, heads, dim) = query.dims4()?;
    let kv_heads = key.dim(2)?;
    let (all_keys, all_values) = (heads_first(key, rotary, 0, seq)?, heads_first(value, None, 0, seq)?);
    let slopes = slopes(scores, query.device())?;
    // SAFETY: the blocks are all queries, and each of them is put there.
    #[allow(unsafe_code)]
    let to_query = unsafe { query.empty_like()? };
    let (mut to_key, mut to_value): (Option<Tensor>, Option<Tensor>) = (None, None);
    let size = (SCORES / (batch * heads * seq)).clamp(1, seq);
    for first in (0..seq).step_by(size) {
        let queries = size.min(seq - first);
        let oldest = scores.window.map_or(0, |window| (first + 1).saturating_sub(window));
        let keys = first + queries - oldest;
        let grouped = |x: Tensor| x.reshape((batch, kv_heads, heads / kv_heads * queries, dim));
        let query = grouped(heads_first(query, rotary, first, queries)?)?;
        let above = grouped(heads_first(gradient, None, first, queries)?)?;
        let (key, value) = (all_keys.narrow(2, oldest, keys)?, all_values.narrow(2, oldest, keys)?);
        let weights = query.matmul(&key.t()?)?;
        let raw = scores.softcap.map(|_| weights.copy()).transpose()?;
        weights.inplace_op1(&Weigh { scores, slopes: slopes.as_ref(), heads, queries, first, oldest })?;
        let back = above.matmul(&value.t()?)?;
        let of_value = weights.t()?.matmul(&above)?;
        back.inplace_op2(&weights, &WeighBack { scores, raw: raw.as_ref() })?;
        drop((weights, raw));
        let of_key = back.t()?.matmul(&query)?;
        let of_query = back.matmul(&key)?.reshape((batch, heads, queries, dim))?;
        to_query.inplace_op2(&of_query, &TokensFirst { back: rotary, first })?;
        let added = |sum: Option<Tensor>, part: Tensor| -> Result<Tensor> {
            // Among all keys.
            let part = part.pad_with_zeros(2, oldest, seq - oldest - keys)?;
            sum.map_or_else(|| Ok(part.clone()), |sum| sum + &part)
        };
        to_key = Some(added(to_key, of_key)?);
        to_value = Some(added(to_value, of_value)?);
    }
    let (Some(of_key), Some(of_value)) = (to_key, to_value) else { candle_core::bail!("windows without a token") };
    let tokens_first = |x: Tensor, back| {
        // SAFETY: all tokens are put there.
        #[allow(unsafe_code)]
        let to = unsafe { key.empty_like()? };
        to.inplace_op2(&x, &TokensFirst { back, first: 0 })?;
        Ok::<_, candle_core::Error>(to)
    };
    Ok([to_query, tokens_first(of_key, rotary)?, tokens_first(of_value, None)?])
}

/// Attention as [`attend`] computes it, with a gradient.
pub struct Attend {
    scores: Scores,
    rotary: Option<Arc<Rotary>>,
    /// What comes out, until the operator's own forward pass copies it.
    mixed: Mutex<Option<Tensor>>,
}

impl Attend {
    /// Of the same arguments as [`attend`].
    ///
    /// # Errors
    /// When the GPU has no room or fails.
    pub fn over(
        scores: &Scores,
        rotary: Option<&Arc<Rotary>>,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
    ) -> Result<Tensor> {
        let (query, key, value) = (query.contiguous()?, key.contiguous()?, value.contiguous()?);
        let rotary = rotary.cloned();
        let mixed = attend(scores, rotary.as_deref(), &query.detach(), &key.detach(), &value.detach())?;
        query.apply_op3(&key, &value, Self { scores: scores.clone(), rotary, mixed: Mutex::new(Some(mixed)) })
    }
}

impl CustomOp3 for Attend {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        only_on_gpus()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let mixed = self.mixed.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mixed) = mixed else { candle_core::bail!("attention runs forward once") };
        let (storage, layout) = mixed.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else { candle_core::bail!("it was computed on a GPU") };
        Ok((storage.try_clone(layout)?, layout.shape().clone()))
    }

    fn bwd(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [query, key, value] = attend_back(&self.scores, self.rotary.as_deref(), [query, key, value], gradient)?;
        Ok((Some(query), Some(key), Some(value)))
    }
}

/// Some tokens of `[batch, seq, heads, dim]`, turned, as `[batch, heads, tokens, dim]`.
struct HeadsFirst<'a> {
    rotary: Option<&'a Rotary>,
    first: usize,
    tokens: usize,
}

/// A block `[batch, heads, tokens, dim]` put into `[batch, seq, heads, dim]`, turned back where it is a gradient of what was turned.
struct TokensFirst<'a> {
    back: Option<&'a Rotary>,
    first: usize,
}

/// The weights of keys `[batch, kv_heads, heads / kv_heads · queries, keys]` in place of their raw products.
struct Weigh<'a> {
    scores: &'a Scores,
    slopes: Option<&'a Tensor>,
    heads: usize,
    queries: usize,
    first: usize,
    oldest: usize,
}

/// Windows, tokens, heads and values of a head, in the order in which the kernel counts them.
struct Sizes {
    windows: usize,
    tokens: usize,
    heads: usize,
    dim: usize,
}

/// Values from one window, token or head to the next, and the first token that is meant.
struct Place {
    at: u64,
    first: usize,
    strides: [usize; 3],
}

#[allow(unsafe_code)]
fn shift<T: Number>(
    device: &CudaDevice,
    sizes: &Sizes,
    from: &Place,
    to: &Place,
    (rotary, sense): (Option<&Rotary>, f32),
) -> Result<()> {
    let Sizes { windows, tokens, heads, dim } = *sizes;
    let pack = WORD / size_of::<T>();
    let whole = |n: usize| n.is_multiple_of(pack);
    let even = |place: &Place| place.at.is_multiple_of(WORD as u64) && place.strides.iter().copied().all(whole);
    let turnable = rotary.is_none_or(|rotary| !rotary.interleaved && whole(rotary.dim / 2) && rotary.dim % 2 == 0);
    let wide = whole(dim) && even(from) && even(to) && turnable;
    let values = if wide { pack } else { 1 };
    let name = match (T::DTYPE, wide) {
        (DType::F32, false) => "move_f32",
        (DType::F32, true) => "move_f32_wide",
        (_, false) => "move_bf16",
        (_, true) => "move_bf16_wide",
    };
    let (cos, sin) = match rotary {
        Some(rotary) => (place_of(&rotary.cos)?, place_of(&rotary.sin)?),
        None => (0, 0),
    };
    let (rotated, interleaved) =
        (rotary.map_or(0, |rotary| rotary.dim), rotary.is_some_and(|rotary| rotary.interleaved));
    let sizes = [windows, tokens, heads, dim, from.first, to.first].map(number);
    let strides = [from.strides, to.strides].map(|strides| strides.map(|stride| stride as u64));
    let (rotated, interleaved) = (number(rotated)?, u32::from(interleaved));
    let (kernel, stream) = (function(device, &ATTENTION, name)?, device.cuda_stream());
    let sizes = sizes.into_iter().collect::<Result<Vec<_>>>()?;
    let mut launch = stream.launch_builder(&kernel);
    launch.arg(&from.at).arg(&to.at);
    for size in &sizes {
        launch.arg(size);
    }
    for stride in strides.iter().flatten() {
        launch.arg(stride);
    }
    launch.arg(&cos).arg(&sin).arg(&rotated).arg(&interleaved).arg(&sense);
    // SAFETY: the arguments are those of the kernel in attention.cu, and sizes and strides those of the two tensors.
    unsafe { launch.launch(grid(windows * tokens * heads * dim / values)?) }.w()?;
    Ok(())
}

/// Strides of windows, tokens and heads, in this order, of a layout that has them at these places.
pub(super) fn strides(layout: &Layout, order: [usize; 3]) -> Result<[usize; 3]> {
    match *layout.stride() {
        [.., 1] if layout.dims().len() == 4 => Ok(order.map(|i| layout.stride()[i])),
        _ => candle_core::bail!("the values of a head of {:?} do not lie side by side", layout.shape()),
    }
}

pub(super) fn check_angles(rotary: Option<&Rotary>, seq: usize, dim: usize) -> Result<()> {
    if let Some(rotary) = rotary
        && (rotary.cos.dims() != [rotary.cos.dim(0)?, rotary.dim / 2] || rotary.cos.dim(0)? < seq || rotary.dim > dim)
    {
        candle_core::bail!("angles {:?} for {seq} tokens and heads of {dim}", rotary.cos.dims());
    }
    Ok(())
}

impl HeadsFirst<'_> {
    #[allow(unsafe_code)]
    fn typed<T: Number>(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (windows, seq, heads, dim) = layout.shape().dims4()?;
        let tokens = self.tokens;
        if self.first + tokens > seq {
            candle_core::bail!("tokens {} to {} of {seq}", self.first, self.first + tokens);
        }
        check_angles(self.rotary, seq, dim)?;
        // SAFETY: the kernel writes every value.
        let out = unsafe { x.device.alloc::<T>(windows * heads * tokens * dim)? };
        let out = CudaStorage::wrap_cuda_slice(out, x.device.clone());
        let from = Place {
            at: pointer::<T>(x, layout.start_offset())?,
            first: self.first,
            strides: strides(layout, [0, 1, 2])?,
        };
        let to = Place { at: pointer::<T>(&out, 0)?, first: 0, strides: [heads * tokens * dim, dim, tokens * dim] };
        shift::<T>(&x.device, &Sizes { windows, tokens, heads, dim }, &from, &to, (self.rotary, 1.0))?;
        Ok((out, (windows, heads, tokens, dim).into()))
    }
}

impl CustomOp1 for HeadsFirst<'_> {
    fn name(&self) -> &'static str {
        "heads-first"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        only_on_gpus()
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        match x.dtype() {
            DType::F32 => self.typed::<f32>(x, layout),
            _ => self.typed::<bf16>(x, layout),
        }
    }
}

impl TokensFirst<'_> {
    fn typed<T: Number>(
        &self,
        mixed: &CudaStorage,
        layout: &Layout,
        block: &CudaStorage,
        block_layout: &Layout,
    ) -> Result<()> {
        let (windows, heads, tokens, dim) = block_layout.shape().dims4()?;
        let (_, seq, ..) = layout.shape().dims4()?;
        if layout.dims() != [windows, seq, heads, dim] || self.first + tokens > seq {
            candle_core::bail!("{:?} has no place for {:?}", layout.shape(), block_layout.shape());
        }
        check_angles(self.back, seq, dim)?;
        let at = |storage, layout: &Layout| pointer::<T>(storage, layout.start_offset());
        let from = Place { at: at(block, block_layout)?, first: 0, strides: strides(block_layout, [0, 2, 1])? };
        let to = Place { at: at(mixed, layout)?, first: self.first, strides: strides(layout, [0, 1, 2])? };
        shift::<T>(&mixed.device, &Sizes { windows, tokens, heads, dim }, &from, &to, (self.back, -1.0))
    }
}

impl InplaceOp2 for TokensFirst<'_> {
    fn name(&self) -> &'static str {
        "tokens-first"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<()> {
        only_on_gpus()
    }

    fn cuda_fwd(
        &self,
        mixed: &mut CudaStorage,
        layout: &Layout,
        block: &CudaStorage,
        block_layout: &Layout,
    ) -> Result<()> {
        match mixed.dtype() {
            DType::F32 => self.typed::<f32>(mixed, layout, block, block_layout),
            _ => self.typed::<bf16>(mixed, layout, block, block_layout),
        }
    }
}

impl Weigh<'_> {
    #[allow(unsafe_code, clippy::cast_possible_truncation)]
    fn typed<T: Number>(&self, weights: &CudaStorage, layout: &Layout) -> Result<()> {
        let (size, keys) = (layout.shape().elem_count(), layout.shape().dims4()?.3);
        let (Some((start, _)), true) =
            (layout.contiguous_offsets(), size.is_multiple_of(self.heads * self.queries * keys))
        else {
            candle_core::bail!(
                "{:?} has gaps, or is not of {} heads and {} queries",
                layout.shape(),
                self.heads,
                self.queries
            )
        };
        let at = pointer::<T>(weights, start)?;
        let wide = keys.is_multiple_of(WORD / size_of::<T>()) && at.is_multiple_of(WORD as u64);
        // In bf16 a row of no more keys than that stays in registers.
        let name = match (T::DTYPE, wide, keys) {
            (DType::F32, false, _) => "weigh_f32",
            (DType::F32, true, _) => "weigh_f32_wide",
            (_, false, _) => "weigh_bf16",
            (_, true, ..=256) => "weigh_bf16_256",
            (_, true, ..=512) => "weigh_bf16_512",
            (_, true, ..=1024) => "weigh_bf16_1024",
            (_, true, ..=2048) => "weigh_bf16_2048",
            (_, true, _) => "weigh_bf16_wide",
        };
        let rows = size / keys;
        let (heads, queries, keys) = (number(self.heads)?, number(self.queries)?, number(keys)?);
        let (first, oldest) = (number(self.first)?, number(self.oldest)?);
        let window = self.scores.window.map_or(Ok(0), number)?;
        let (scale, cap) = (self.scores.scale as f32, self.scores.softcap.map_or(0.0, |cap| cap as f32));
        let slopes = self.slopes.map_or(Ok(0), place_of)?;
        let (kernel, stream) = (function(&weights.device, &ATTENTION, name)?, weights.device.cuda_stream());
        let count = rows as u64;
        let mut launch = stream.launch_builder(&kernel);
        launch.arg(&at).arg(&count).arg(&heads).arg(&queries).arg(&keys).arg(&first).arg(&oldest).arg(&window);
        launch.arg(&scale).arg(&cap).arg(&slopes);
        // SAFETY: the arguments are those of the kernel in attention.cu, and every row lies within the tensor.
        unsafe { launch.launch(grid(rows * 32)?) }.w()?;
        Ok(())
    }
}

impl InplaceOp1 for Weigh<'_> {
    fn name(&self) -> &'static str {
        "attention-weights"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> Result<()> {
        only_on_gpus()
    }

    fn cuda_fwd(&self, weights: &mut CudaStorage, layout: &Layout) -> Result<()> {
        match weights.dtype() {
            DType::F32 => self.typed::<f32>(weights, layout),
            _ => self.typed::<bf16>(weights, layout),
        }
    }
}

/// The gradient of the raw products `[batch, kv_heads, heads / kv_heads · queries, keys]` in place of that of the weights.
struct WeighBack<'a> {
    scores: &'a Scores,
    /// The raw products, where they are capped.
    raw: Option<&'a Tensor>,
}

impl InplaceOp2 for WeighBack<'_> {
    fn name(&self) -> &'static str {
        "attention-weights-back"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<()> {
        only_on_gpus()
    }

    #[allow(unsafe_code, clippy::cast_possible_truncation)]
    fn cuda_fwd(
        &self,
        gradient: &mut CudaStorage,
        layout: &Layout,
        weights: &CudaStorage,
        weights_layout: &Layout,
    ) -> Result<()> {
        let raw_size = self.raw.map_or(layout.shape().elem_count(), Tensor::elem_count);
        let formats = [weights.dtype(), self.raw.map_or(gradient.dtype(), Tensor::dtype)];
        if layout.dims() != weights_layout.dims()
            || raw_size != layout.shape().elem_count()
            || formats != [gradient.dtype(); 2]
        {
            candle_core::bail!("the weights {:?} have a gradient {:?}", weights_layout.shape(), layout.shape());
        }
        let keys = layout.shape().dims4()?.3;
        let rows = layout.shape().elem_count() / keys;
        let (own, to) = (place(weights, weights_layout)?, place(gradient, layout)?);
        let raw = self.raw.map_or(Ok(0), place_of)?;
        let dtype = gradient.dtype();
        let (name, _) = named("weigh_back", dtype, in_words(dtype, keys, &[own, raw, to]));
        let (scale, cap) = (self.scores.scale as f32, self.scores.softcap.map_or(0.0, |cap| cap as f32));
        let places = [Argument::Place(own), Argument::Place(raw), Argument::Place(to), Argument::Long(rows as u64)];
        let rest = [Argument::Number(number(keys)?), Argument::Real(scale), Argument::Real(cap)];
        // SAFETY: the arguments are those of the kernel in attention.cu, and the tensors are of one shape.
        unsafe { start(&gradient.device, &ATTENTION, &name, rows * 32, &[&places[..], &rest].concat()) }
    }
}
