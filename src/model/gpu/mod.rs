//! Kernels of our own on NVIDIA GPUs. Their texts, the .cu files beside this, are compiled where they run, at their first use.

pub mod activation;
pub mod attention;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod driver;
mod flash;
pub mod norm;
pub mod product;
pub mod training;

use std::{
    borrow::Cow,
    collections::{HashMap, hash_map::Entry},
    sync::{LazyLock, Mutex},
};

use candle_core::{
    CudaDevice, CudaStorage, DType, Layout, Result, Shape, Storage, Tensor, WithDType,
    backend::{BackendDevice, BackendStorage},
    cuda_backend::{
        CudaDType, DeviceId, WrapErr,
        cudarc::{
            driver::{
                CudaFunction, DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg,
                result::{device::get_default_mem_pool, mem_pool},
                sys,
            },
            nvrtc::{CompileOptions, compile_ptx_with_opts},
        },
    },
};

/// Number formats that the kernels read.
trait Number: CudaDType + DeviceRepr + WithDType {}
impl Number for f32 {}
impl Number for half::bf16 {}
impl Number for u32 {}

/// Kernels that are compiled together.
struct Source {
    name: &'static str,
    text: &'static str,
}

macro_rules! source {
    ($name:literal: $($part:literal),+) => {
        Source { name: concat!("neuroglot-", $name), text: concat!(include_str!("numbers.cu"), $(include_str!($part)),+) }
    };
}

static ACTIVATION: Source = source!("activation": "nonlinear.cu", "activation.cu");
static ATTENTION: Source = source!("attention": "heads.cu", "attention.cu");
static FLASH: Source = source!("flash": "heads.cu", "tensor_cores.cu", "flash.cu");
static NORM: Source = source!("norm": "norm.cu");
static PRODUCT: Source = source!("product": "product.cu");
static TRAINING: Source = source!("training": "nonlinear.cu", "training.cu");

/// Threads of one block.
const BLOCK: u32 = 256;
/// Bytes that one thread reads at once.
const WORD: usize = 16;

/// Whether the kernels read these values.
pub fn fits(x: &Tensor) -> bool {
    x.device().is_cuda() && matches!(x.dtype(), DType::F32 | DType::BF16)
}

fn only_on_gpus<T>() -> Result<T> {
    candle_core::bail!("this kernel is one of NVIDIA's GPUs")
}

fn number(n: usize) -> Result<u32> {
    u32::try_from(n).map_err(candle_core::Error::wrap)
}

/// As many blocks as so many threads take.
fn grid(threads: usize) -> Result<LaunchConfig> {
    let blocks = number(threads.div_ceil(BLOCK as usize))?;
    Ok(LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (BLOCK, 1, 1), shared_mem_bytes: 0 })
}

/// A kernel, compiled for the GPU at hand at its first use and then kept: to ask the driver for it costs as much as to start it.
fn function(device: &CudaDevice, source: &'static Source, name: &str) -> Result<CudaFunction> {
    function_for(device, source, &[], name)
}

/// The same of a text that is compiled for certain sizes, its macros.
fn function_for(
    device: &CudaDevice,
    source: &'static Source,
    sizes: &[(&str, usize)],
    name: &str,
) -> Result<CudaFunction> {
    type Kernels = HashMap<(DeviceId, &'static str), HashMap<String, CudaFunction>>;
    static KEPT: LazyLock<Mutex<Kernels>> = LazyLock::new(Mutex::default);
    static COMPILED: LazyLock<Mutex<HashMap<String, String>>> = LazyLock::new(Mutex::default);
    let defined: String = sizes.iter().map(|(size, value)| format!(" {size}={value}")).collect();
    let key = if defined.is_empty() { Cow::Borrowed(name) } else { Cow::Owned(format!("{name}{defined}")) };
    let mut kept = KEPT.lock().expect("nobody panics while compiling");
    let kernels = kept.entry((device.id(), source.name)).or_default();
    if let Some(kernel) = kernels.get(&*key) {
        return Ok(kernel.clone());
    }
    let (major, minor) = device.cuda_stream().context().compute_capability().w()?;
    let mut compiled = COMPILED.lock().expect("nobody panics while compiling");
    let module = format!("{}{defined}", source.name);
    let ptx = match compiled.entry(format!("{module} for compute_{major}{minor}")) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(place) => {
            let defines = sizes.iter().map(|(size, value)| format!("--define-macro={size}={value}"));
            let target = [format!("--gpu-architecture=compute_{major}{minor}"), "--std=c++14".to_owned()];
            let options = CompileOptions {
                options: target.into_iter().chain(defines).collect(),
                name: Some(format!("{}.cu", source.name)),
                ..CompileOptions::default()
            };
            place.insert(compile_ptx_with_opts(source.text, options).w()?.to_src())
        }
    };
    let kernel = device.get_or_load_custom_func(name, &module, ptx)?.into_cuda_function();
    kernels.insert(key.into_owned(), kernel.clone());
    Ok(kernel)
}

/// Where a storage's value with a number lies. All work is on one stream, so that the pointer outlives its use as the storage does.
fn pointer<T: Number>(storage: &CudaStorage, first: usize) -> Result<u64> {
    let slice = storage.as_cuda_slice::<T>()?.slice(first..);
    let stream = storage.device.cuda_stream();
    let (pointer, _guard) = slice.device_ptr(&stream);
    Ok(pointer)
}

/// The same of any format that kernels read, for the first value of what must lie in one piece.
fn place(storage: &CudaStorage, layout: &Layout) -> Result<u64> {
    let Some((first, _)) = layout.contiguous_offsets() else { candle_core::bail!("{:?} has gaps", layout.shape()) };
    match storage.dtype() {
        DType::F32 => pointer::<f32>(storage, first),
        DType::BF16 => pointer::<half::bf16>(storage, first),
        DType::U32 => pointer::<u32>(storage, first),
        other => candle_core::bail!("no kernel reads {other:?}"),
    }
}

/// Where a tensor lies that lasts as long as the call.
fn place_of(tensor: &Tensor) -> Result<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else {
        candle_core::bail!("a kernel for GPUs was given a tensor elsewhere")
    };
    place(storage, layout)
}

/// An error unless tensors are of one format and size: a kernel is told the first one's alone.
fn check_alike(tensors: &[&Tensor]) -> Result<()> {
    for pair in tensors.windows(2) {
        if pair[0].dtype() != pair[1].dtype() || pair[0].elem_count() != pair[1].elem_count() {
            candle_core::bail!("a kernel takes {:?} and {:?} for tensors of one format and size", pair[0], pair[1]);
        }
    }
    Ok(())
}

fn device_of(tensor: &Tensor) -> Result<CudaDevice> {
    Ok(tensor.device().as_cuda_device()?.clone())
}

/// What a kernel is given.
#[derive(Clone, Copy)]
enum Argument {
    Place(u64),
    Long(u64),
    Number(u32),
    Real(f32),
}

/// Queues a kernel for so many threads.
///
/// # Safety
/// The arguments are those of the kernel, and what it reads and writes at places lies there.
#[allow(unsafe_code)]
unsafe fn start(
    device: &CudaDevice,
    source: &'static Source,
    name: &str,
    threads: usize,
    arguments: &[Argument],
) -> Result<()> {
    // SAFETY: as the caller promises.
    unsafe { launch(device, &function(device, source, name)?, grid(threads)?, arguments) }
}

/// Queues a kernel in blocks of the caller's choice.
///
/// # Safety
/// As [`start`].
#[allow(unsafe_code)]
unsafe fn launch(
    device: &CudaDevice,
    kernel: &CudaFunction,
    blocks: LaunchConfig,
    arguments: &[Argument],
) -> Result<()> {
    let stream = device.cuda_stream();
    let mut launch = stream.launch_builder(kernel);
    for argument in arguments {
        match argument {
            Argument::Place(value) | Argument::Long(value) => launch.arg(value),
            Argument::Number(value) => launch.arg(value),
            Argument::Real(value) => launch.arg(value),
        };
    }
    // SAFETY: as the caller promises.
    unsafe { launch.launch(blocks) }.w()?;
    Ok(())
}

/// Whether rows of so many values of a format are whole words that begin where words do.
fn in_words(dtype: DType, width: usize, places: &[u64]) -> bool {
    (width * dtype.size_in_bytes()).is_multiple_of(WORD) && places.iter().all(|place| place.is_multiple_of(WORD as u64))
}

/// A kernel's name for a format, value by value or word by word, and the values that a thread takes.
fn named(kernel: &str, dtype: DType, wide: bool) -> (String, usize) {
    let format = if dtype == DType::F32 { "f32" } else { "bf16" };
    if wide {
        (format!("{kernel}_{format}_wide"), WORD / dtype.size_in_bytes())
    } else {
        (format!("{kernel}_{format}"), 1)
    }
}

/// A storage whose values a kernel will write.
///
/// # Safety
/// Every value is written before it is read.
#[allow(unsafe_code)]
unsafe fn unwritten(device: &CudaDevice, shape: &Shape, dtype: DType) -> Result<CudaStorage> {
    // SAFETY: as the caller promises.
    unsafe { device.alloc_uninit(shape, dtype) }
}

/// The device's pool, from which all its memory comes.
#[allow(unsafe_code)]
fn pool(device: &CudaDevice) -> Result<sys::CUmemoryPool> {
    // SAFETY: the device is there.
    unsafe { get_default_mem_pool(device.cuda_stream().context().cu_device()) }.w()
}

/// Ends the events by which tensors wait for their last use on another stream: two are made with every tensor, and recorded and waited for
/// at every use.
#[allow(unsafe_code)]
pub fn use_one_stream(device: &CudaDevice) {
    // SAFETY: the device was opened with a stream of its own, on which all its memory is allotted, used and given back, whatever thread asks
    // for it; and what a device holds is never handed to another device of the same GPU.
    unsafe { device.disable_event_tracking() };
}

/// Lets the driver keep memory that was given back, as much as was ever used: without it, it returns everything to the system whenever
/// somebody waits for the GPU, and the next batch begins by asking for it page by page.
///
/// # Errors
/// When the driver has no pools.
#[allow(unsafe_code)]
pub fn keep_memory(device: &CudaDevice) -> Result<()> {
    let mut most = u64::MAX;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the attribute is a number of 64 bits.
    unsafe { mem_pool::set_attribute(pool(device)?, attribute, (&raw mut most).cast()) }.w()
}

/// A number that the pool knows of itself.
#[allow(unsafe_code)]
fn figure(device: &CudaDevice, attribute: sys::CUmemPool_attribute) -> Result<u64> {
    let mut bytes = 0u64;
    // SAFETY: these attributes are numbers of 64 bits.
    unsafe { mem_pool::get_attribute(pool(device)?, attribute, (&raw mut bytes).cast()) }.w()?;
    Ok(bytes)
}

/// Bytes that are free on the device, or kept for this program and unused.
///
/// # Errors
/// When the driver does not say.
pub fn free_memory(device: &CudaDevice) -> Result<u64> {
    use sys::CUmemPool_attribute::{CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, CU_MEMPOOL_ATTR_USED_MEM_CURRENT};
    let (free, _) = device.cuda_stream().context().mem_get_info().w()?;
    let kept = figure(device, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
    Ok(free as u64 + kept.saturating_sub(figure(device, CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?))
}

/// The most bytes that tensors have held on the device; the driver's own and its kernels' come on top.
///
/// # Errors
/// When the driver does not say.
pub fn peak_memory(device: &CudaDevice) -> Result<u64> {
    figure(device, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH)
}
