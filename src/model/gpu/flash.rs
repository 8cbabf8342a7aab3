//! Attention in one pass over its keys and values. The kernels are in flash.cu.

use candle_core::{
    CpuStorage, CudaDevice, CudaStorage, CustomOp3, DType, Layout, Result, Shape, Tensor,
    backend::BackendStorage,
    cuda_backend::{
        WrapErr,
        cudarc::driver::{LaunchConfig, sys},
    },
};
use half::bf16;

use super::{
    Argument::{Long, Number, Place, Real},
    FLASH, WORD,
    attention::{check_angles, strides},
    function_for, launch, number, only_on_gpus, place_of, pointer,
};
use crate::model::{attention::Scores, rope::Rotary};

/// Values of one word.
const WORDS: usize = WORD / size_of::<bf16>();
/// Queries of one block, and keys of one tile, as in flash.cu.
const QUERIES: usize = 64;
const KEYS: usize = 64;
/// Threads of one block, as in flash.cu.
const THREADS: u32 = 128;
/// Bytes of a block's memory that every kernel may use without asking.
const UNASKED: usize = 48 << 10;

/// Bytes of a block's memory: queries, keys and values, in rows that end in an empty word.
fn memory(dim: usize) -> usize {
    (QUERIES + 2 * KEYS) * (dim + WORDS) * size_of::<bf16>()
}

/// Whether the kernel turns queries by these angles itself.
pub fn turns(rotary: &Rotary) -> bool {
    !rotary.interleaved && rotary.dim.is_multiple_of(2 * WORDS)
}

/// Whether the kernel reads these queries, keys and values `[batch, seq, heads, dim]`.
///
/// # Errors
/// When the driver does not say what the GPU can do.
pub fn fits(tensors: [&Tensor; 3]) -> Result<bool> {
    let (windows, seq, heads, dim) = tensors[0].dims4()?;
    let words = |tensor: &&Tensor| {
        let stride = tensor.stride();
        let rows = stride[..3].iter().all(|stride| stride.is_multiple_of(WORDS)) && stride[3] == 1;
        Ok::<_, candle_core::Error>(rows && tensor.dtype() == DType::BF16 && start(tensor)?.is_multiple_of(WORD as u64))
    };
    if !dim.is_multiple_of(16) || dim > 256 || u32::try_from(windows * heads * seq).is_err() {
        return Ok(false);
    }
    for tensor in &tensors {
        if !words(tensor)? {
            return Ok(false);
        }
    }
    let context = tensors[0].device().as_cuda_device()?.cuda_stream().context().clone();
    let most = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
    let most = usize::try_from(context.attribute(most).w()?).unwrap_or_default();
    Ok(context.compute_capability().w()?.0 >= 8 && memory(dim) <= most)
}

/// Where a tensor's first value lies.
fn start(tensor: &Tensor) -> Result<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        candle_core::Storage::Cuda(storage) if storage.dtype() == DType::BF16 => {
            pointer::<bf16>(storage, layout.start_offset())
        }
        _ => candle_core::bail!("{:?} is not in bf16 on a GPU", tensor.shape()),
    }
}

/// Queries, keys and values `[batch, seq, heads, dim]` to `[batch, seq, heads, dim]`: FlashAttention-2 (Dao 2023, arXiv 2307.08691).
pub struct Flash<'a> {
    pub scores: &'a Scores,
    /// Of the queries, where [`turns`] says that they may be; keys are turned already.
    pub rotary: Option<&'a Rotary>,
    pub slopes: Option<&'a Tensor>,
}

impl CustomOp3 for Flash<'_> {
    fn name(&self) -> &'static str {
        "flash-attention"
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

    #[allow(unsafe_code, clippy::cast_possible_truncation)]
    fn cuda_fwd(
        &self,
        query: &CudaStorage,
        query_layout: &Layout,
        key: &CudaStorage,
        key_layout: &Layout,
        value: &CudaStorage,
        value_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let shape = query_layout.shape().clone();
        let (windows, seq, heads, dim) = shape.dims4()?;
        let (_, _, kv_heads, _) = key_layout.shape().dims4()?;
        let theirs = [windows, seq, kv_heads, dim];
        if key_layout.dims() != theirs
            || value_layout.dims() != theirs
            || kv_heads == 0
            || !heads.is_multiple_of(kv_heads)
        {
            candle_core::bail!("queries {shape:?}, keys {:?}, values {:?}", key_layout.shape(), value_layout.shape());
        }
        check_angles(self.rotary, seq, dim)?;
        let device: &CudaDevice = &query.device;
        // SAFETY: the kernel writes every value.
        let out = unsafe { device.alloc::<bf16>(shape.elem_count())? };
        let out = CudaStorage::wrap_cuda_slice(out, device.clone());

        let shaped = self.scores.softcap.is_some() || self.slopes.is_some();
        let name = if shaped { "flash_shaped" } else { "flash_plain" };
        let kernel = function_for(device, &FLASH, &[("HEAD_DIM", dim)], name)?;
        let shared_mem_bytes = number(memory(dim))?;
        if memory(dim) > UNASKED {
            let most = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            kernel.set_attribute(most, shared_mem_bytes.cast_signed()).w()?;
        }
        let (mut places, mut gaps) = (Vec::new(), Vec::new());
        for (storage, layout) in [(query, query_layout), (key, key_layout), (value, value_layout)] {
            places.push(Place(pointer::<bf16>(storage, layout.start_offset())?));
            gaps.extend(strides(layout, [0, 1, 2])?.map(|gap| Long(gap as u64)));
        }
        let sizes = [seq, heads, heads / kv_heads].map(number).into_iter().collect::<Result<Vec<_>>>()?;
        let (cos, sin) = match self.rotary {
            Some(rotary) => (place_of(&rotary.cos)?, place_of(&rotary.sin)?),
            None => (0, 0),
        };
        let cap = self.scores.softcap.unwrap_or_default();
        places.push(Place(pointer::<bf16>(&out, 0)?));
        places.extend(sizes.into_iter().map(Number));
        let rest = [
            Place(cos),
            Place(sin),
            Number(number(self.rotary.map_or(0, |rotary| rotary.dim))?),
            Number(number(self.scores.window.unwrap_or_default())?),
            Real(self.scores.scale as f32),
            Real(cap as f32),
            Place(self.slopes.map_or(Ok(0), place_of)?),
        ];
        let blocks = number(windows * heads * seq.div_ceil(QUERIES))?;
        let config = LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes };
        // SAFETY: the arguments are those of the kernel in flash.cu, and sizes and strides those of the tensors.
        unsafe { launch(device, &kernel, config, &[&places[..], &gaps, &rest].concat())? };
        Ok((out, shape))
    }
}
