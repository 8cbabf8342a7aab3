//! Projections: cuBLAS's products, added to what is there where that is wanted.
//!
//! cuBLAS takes the algorithm that it expects to be the fastest, on Hopper's GPUs up to a tenth slower than the best. So a large product in
//! bf16 that comes again and again is tried by the algorithms that cuBLASLt proposes, and from then on the fastest of those is taken
//! that give the very bits of cuBLAS's own choice: what a model says does not depend on what was found.

use std::{
    collections::HashMap,
    ffi::c_void,
    mem::MaybeUninit,
    sync::{LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

use candle_core::{
    CpuStorage, CudaDevice, CudaStorage, CustomOp2, DType, InplaceOp3, Layout, Result, Shape, Tensor,
    backend::{BackendDevice, BackendStorage},
    cuda_backend::{
        CudaDType, DeviceId, WrapErr,
        cudarc::{
            cublas::{CudaBlas, Gemm, GemmConfig, result::gemm_ex, sys as blas},
            cublaslt::{
                result::{
                    create_handle, create_matmul_desc, create_matmul_pref, create_matrix_layout, destroy_matmul_desc,
                    destroy_matmul_pref, destroy_matrix_layout, matmul, set_matmul_desc_attribute,
                    set_matmul_pref_attribute,
                },
                sys,
            },
            driver::{CudaSlice, DevicePtr},
        },
    },
};
use half::bf16;

use super::{
    Argument::{Long, Place},
    Number, PRODUCT, WORD, fits, number, only_on_gpus, place, pointer, start,
};
use crate::model::device::is_out_of_memory;

/// Operations of a product below which a search gains nothing.
const LARGE: f64 = 1e11;
/// Uses of a product before its search, which costs about a third of them and gains about a twentieth of each that follows.
const USES: u32 = 128;
/// Algorithms that are tried, and their runs that are timed.
const CANDIDATES: usize = 8;
const RUNS: usize = 3;
/// How much faster than cuBLAS's own choice another must be.
const LEAST: f64 = 1.01;
/// Where cuBLASLt takes matrices to begin, unless told.
const ALIGNED: u64 = 256;
/// Room for an algorithm's partial sums: what NVIDIA recommends for Hopper.
const WORKSPACE: usize = 32 << 20;
/// Threads that compare two products.
const COMPARING: u64 = 1 << 18;

/// `h Wᵀ [tokens, out]` of many tokens `h [tokens, in]` and a weight `[out, in]`; nothing where candle's own product does as well.
///
/// # Errors
/// When the GPU has no room or fails.
pub fn product(h: &Tensor, weight: &Tensor) -> Result<Option<Tensor>> {
    let whole = [h, weight].iter().all(|tensor| tensor.is_contiguous());
    let (Ok((tokens, inner)), Ok((out, width))) = (h.dims2(), weight.dims2()) else { return Ok(None) };
    let sizes = Sizes { out, inner, tokens };
    if !whole || !fits(h) || h.dtype() != weight.dtype() || width != inner || !sizes.is_large(h.dtype()) {
        return Ok(None);
    }
    h.apply_op2_no_bwd(weight, &Product).map(Some)
}

/// `x + h Wᵀ` in place of `x [.., out]`, for `h [.., in]` and a weight `[out, in]`; says whether it was done.
///
/// # Errors
/// When the GPU fails.
pub fn project(x: &Tensor, h: &Tensor, weight: &Tensor) -> Result<bool> {
    let alike = [h, weight].iter().all(|tensor| tensor.dtype() == x.dtype() && tensor.is_contiguous());
    if !fits(x) || !alike || !x.is_contiguous() {
        return Ok(false);
    }
    x.inplace_op3(h, weight, &Onto)?;
    Ok(true)
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Sizes {
    out: usize,
    inner: usize,
    tokens: usize,
}

impl Sizes {
    fn is_large(&self, dtype: DType) -> bool {
        let operations = 2.0 * self.out as f64 * self.inner as f64 * self.tokens as f64;
        dtype == DType::BF16 && operations >= LARGE && self.out.is_multiple_of(8)
    }
}

/// Where the matrices lie, in bf16: `to [tokens, out]` becomes `kept · to + h [tokens, in] · weight [out, in]ᵀ`.
#[derive(Clone, Copy)]
struct Operands {
    weight: u64,
    h: u64,
    to: u64,
    kept: f32,
}

/// What is known of products of certain sizes.
enum Known {
    /// So many of them.
    Uses(u32),
    /// cuBLAS's own choice is the best.
    Own,
    Better(Plan),
}

/// A product and an algorithm for it, as cuBLASLt describes them.
struct Plan {
    described: Described,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

/// By columns: to `[out, tokens]` of weight `[in, out]`, transposed, and h `[in, tokens]`.
struct Described {
    operation: sys::cublasLtMatmulDesc_t,
    weight: sys::cublasLtMatrixLayout_t,
    h: sys::cublasLtMatrixLayout_t,
    to: sys::cublasLtMatrixLayout_t,
}

impl Described {
    #[allow(unsafe_code)]
    fn new(sizes: Sizes) -> Result<Self> {
        let format = sys::cudaDataType_t::CUDA_R_16BF;
        let matrix = |rows: usize, columns: usize| {
            create_matrix_layout(format, rows as u64, columns as u64, rows as i64).map_err(failed)
        };
        let sum = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let described = Self {
            operation: create_matmul_desc(sum, sys::cudaDataType_t::CUDA_R_32F).map_err(failed)?,
            weight: matrix(sizes.inner, sizes.out)?,
            h: matrix(sizes.inner, sizes.tokens)?,
            to: matrix(sizes.out, sizes.tokens)?,
        };
        let transposed = blas::cublasOperation_t::CUBLAS_OP_T as i32;
        let attribute = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA;
        // SAFETY: the attribute is a number of 32 bits, and the description has just been made.
        unsafe {
            let value: *const i32 = &raw const transposed;
            set_matmul_desc_attribute(described.operation, attribute, value.cast(), size_of::<i32>())
        }
        .map_err(failed)?;
        Ok(described)
    }
}

impl Drop for Described {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: nobody else has them. What could go wrong is that they are no descriptions.
        unsafe {
            let _ = destroy_matmul_desc(self.operation);
            for layout in [self.weight, self.h, self.to] {
                let _ = destroy_matrix_layout(layout);
            }
        }
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> candle_core::Error {
    candle_core::Error::wrap(error)
}

/// cuBLASLt on one GPU, and what was found there.
struct Library {
    handle: sys::cublasLtHandle_t,
    workspace: CudaSlice<u8>,
    known: HashMap<Sizes, Known>,
}

// SAFETY: cuBLASLt's handle and descriptions may be used by any thread, and one at a time uses them here.
#[allow(unsafe_code)]
unsafe impl Send for Library {}

impl Library {
    #[allow(unsafe_code)]
    fn open(device: &CudaDevice) -> Result<Self> {
        // SAFETY: algorithms write what they read of it.
        let workspace = unsafe { device.alloc::<u8>(WORKSPACE)? };
        Ok(Self { handle: create_handle().map_err(failed)?, workspace, known: HashMap::new() })
    }

    fn multiply(&mut self, device: &CudaDevice, sizes: Sizes, operands: Operands) -> Result<()> {
        let known = self.known.entry(sizes).or_insert(Known::Uses(0));
        match known {
            Known::Better(plan) => {
                run(self.handle, &self.workspace, device, (&plan.described, &plan.algorithm), operands)
            }
            Known::Own => own(device, sizes, operands),
            Known::Uses(uses) => {
                *uses += 1;
                let due = *uses == USES;
                own(device, sizes, operands)?;
                if due {
                    let found = self.search(device, sizes, operands).unwrap_or_else(|error| {
                        // A product was made all the same; without room for others, or without cuBLASLt, it stays as it is.
                        tracing::debug!(%error, out_of_memory = is_out_of_memory(&error), "no search for a faster product");
                        None
                    });
                    self.known.insert(sizes, found.map_or(Known::Own, Known::Better));
                }
                Ok(())
            }
        }
    }

    /// An algorithm that is faster than cuBLAS's own choice, if there is one with the same bits.
    #[allow(unsafe_code)]
    fn search(&self, device: &CudaDevice, sizes: Sizes, operands: Operands) -> Result<Option<Plan>> {
        let room = || {
            // SAFETY: products fill it before it is compared.
            let slice = unsafe { device.alloc::<bf16>(sizes.out * sizes.tokens)? };
            Ok::<_, candle_core::Error>(CudaStorage::wrap_cuda_slice(slice, device.clone()))
        };
        let place = |storage: &CudaStorage| pointer::<bf16>(storage, 0);
        // A product that nothing was added to is what cuBLAS's own choice gave, and needs no other room.
        let own_room = if operands.kept == 0.0 { None } else { Some(room()?) };
        let own_operands = Operands { to: own_room.as_ref().map_or(Ok(operands.to), place)?, kept: 0.0, ..operands };
        let mut out = room()?;
        let tried = Operands { to: place(&out)?, kept: 0.0, ..operands };
        own(device, sizes, own_operands)?;
        let described = Described::new(sizes)?;
        let by = |algorithm: &sys::cublasLtMatmulAlgo_t| {
            run(self.handle, &self.workspace, device, (&described, algorithm), tried)
        };
        let (all, mut candidates) = (self.proposed(&described)?, Vec::new());
        let proposed = all.len();
        for algorithm in all {
            // What the one before left there is no product of this one.
            device.cuda_stream().memset_zeros(bf16::as_cuda_slice_mut(&mut out)?).w()?;
            if by(&algorithm).is_ok() && !differ(device, own_operands.to, tried.to, sizes)? {
                candidates.push((Duration::ZERO, algorithm));
            }
        }
        // By turns, for a GPU slows down as it gets hot.
        let mut own_time = Duration::ZERO;
        for _ in 0..RUNS {
            own_time += time(device, || own(device, sizes, own_operands))?;
            for (taken, algorithm) in &mut candidates {
                *taken += time(device, || by(algorithm))?;
            }
        }
        let same = candidates.len();
        let best = candidates.into_iter().min_by_key(|(taken, _)| *taken);
        let gain = best.as_ref().map_or(0.0, |(taken, _)| own_time.as_secs_f64() / taken.as_secs_f64());
        let Sizes { out, inner, tokens } = sizes;
        tracing::debug!(out, inner, tokens, proposed, same, gain, "products were compared");
        Ok(best.filter(|_| gain > LEAST).map(|(_, algorithm)| Plan { described, algorithm }))
    }

    /// Algorithms that may be the fastest for a product.
    #[allow(unsafe_code)]
    fn proposed(&self, described: &Described) -> Result<Vec<sys::cublasLtMatmulAlgo_t>> {
        let preference = create_matmul_pref().map_err(failed)?;
        let mut results = [const { MaybeUninit::<sys::cublasLtMatmulHeuristicResult_t>::uninit() }; CANDIDATES];
        let mut found = 0;
        // SAFETY: the attribute is a size; there is room for as many results as are asked for, and so many of them are read as were written.
        unsafe {
            let attribute = sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
            let room: *const usize = &WORKSPACE;
            let asked =
                set_matmul_pref_attribute(preference, attribute, room.cast(), size_of::<usize>()).and_then(|()| {
                    let Described { operation, weight, h, to } = *described;
                    sys::cublasLtMatmulAlgoGetHeuristic(
                        self.handle,
                        operation,
                        weight,
                        h,
                        to,
                        to,
                        preference,
                        CANDIDATES as i32,
                        results.as_mut_ptr().cast(),
                        &raw mut found,
                    )
                    .result()
                });
            let _ = destroy_matmul_pref(preference);
            asked.map_err(failed)?;
            let found = usize::try_from(found).unwrap_or(0).min(CANDIDATES);
            Ok(results[..found].iter().map(|result| result.assume_init().algo).collect())
        }
    }
}

/// A product by an algorithm of cuBLASLt.
#[allow(unsafe_code)]
fn run(
    handle: sys::cublasLtHandle_t,
    workspace: &CudaSlice<u8>,
    device: &CudaDevice,
    (described, algorithm): (&Described, &sys::cublasLtMatmulAlgo_t),
    operands: Operands,
) -> Result<()> {
    let stream = device.cuda_stream();
    let (workspace, _guard) = workspace.device_ptr(&stream);
    let (one, Described { operation, weight, h, to }) = (1.0f32, described);
    let [factor, kept]: [*const f32; 2] = [&raw const one, &raw const operands.kept];
    // SAFETY: the matrices lie where the operands say, as large as they are described, and the workspace is as large as algorithms were told.
    unsafe {
        matmul(
            handle,
            *operation,
            factor.cast(),
            kept.cast(),
            operands.weight as *const c_void,
            *weight,
            operands.h as *const c_void,
            *h,
            operands.to as *const c_void,
            *to,
            operands.to as *mut c_void,
            *to,
            algorithm,
            workspace as *mut c_void,
            WORKSPACE,
            stream.cu_stream().cast(),
        )
    }
    .map_err(failed)
}

/// A product by the algorithm that cuBLAS takes.
#[allow(unsafe_code)]
fn own(device: &CudaDevice, sizes: Sizes, operands: Operands) -> Result<()> {
    let [out, inner, tokens] = [sizes.out, sizes.inner, sizes.tokens].map(|n| number(n).map(u32::cast_signed));
    let (out, inner, format) = (out?, inner?, blas::cudaDataType_t::CUDA_R_16BF);
    let one = 1.0f32;
    let [factor, kept]: [*const f32; 2] = [&raw const one, &raw const operands.kept];
    // SAFETY: the matrices lie where the operands say and are as large as the sizes. cuBLAS counts by columns: its toᵀ [out, tokens] =
    // W [out, in] · hᵀ [in, tokens].
    unsafe {
        gemm_ex(
            *device.cublas_handle().handle(),
            blas::cublasOperation_t::CUBLAS_OP_T,
            blas::cublasOperation_t::CUBLAS_OP_N,
            out,
            tokens?,
            inner,
            factor.cast(),
            operands.weight as *const c_void,
            format,
            inner,
            operands.h as *const c_void,
            format,
            inner,
            kept.cast(),
            operands.to as *mut c_void,
            format,
            out,
            blas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            blas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )
    }
    .w()
}

/// Of one run, from an idle GPU to an idle GPU.
fn time(device: &CudaDevice, run: impl Fn() -> Result<()>) -> Result<Duration> {
    device.synchronize()?;
    let start = Instant::now();
    run()?;
    device.synchronize()?;
    Ok(start.elapsed())
}

/// Whether products of these sizes at two places differ.
#[allow(unsafe_code)]
fn differ(device: &CudaDevice, a: u64, b: u64, sizes: Sizes) -> Result<bool> {
    let found = CudaStorage::wrap_cuda_slice(device.alloc_zeros::<u32>(1)?, device.clone());
    let words = (sizes.out * sizes.tokens * size_of::<bf16>() / WORD) as u64;
    let arguments = [Place(a), Place(b), Long(words), Long(COMPARING), Place(pointer::<u32>(&found, 0)?)];
    // SAFETY: the arguments are those of the kernel in product.cu, and so many words lie at both places.
    unsafe { start(device, &PRODUCT, "differing", COMPARING as usize, &arguments)? };
    Ok(device.clone_dtoh(found.as_cuda_slice::<u32>()?)? != [0])
}

/// By cuBLASLt, once it knows better, or by cuBLAS.
fn multiply(device: &CudaDevice, sizes: Sizes, operands: Operands) -> Result<()> {
    static LIBRARIES: LazyLock<Mutex<HashMap<DeviceId, Option<Library>>>> = LazyLock::new(Mutex::default);
    if [operands.weight, operands.h, operands.to].iter().any(|place| !place.is_multiple_of(ALIGNED)) {
        return own(device, sizes, operands);
    }
    let mut libraries = LIBRARIES.lock().unwrap_or_else(PoisonError::into_inner);
    let library = libraries.entry(device.id()).or_insert_with(|| {
        Library::open(device).inspect_err(|error| tracing::debug!(%error, "cuBLASLt does not open")).ok()
    });
    match library {
        Some(library) => library.multiply(device, sizes, operands),
        None => own(device, sizes, operands),
    }
}

struct Product;

impl CustomOp2 for Product {
    fn name(&self) -> &'static str {
        "projection"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        only_on_gpus()
    }

    #[allow(unsafe_code)]
    fn cuda_fwd(
        &self,
        h: &CudaStorage,
        h_place: &Layout,
        weight: &CudaStorage,
        weight_place: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let ((tokens, inner), (out, _)) = (h_place.shape().dims2()?, weight_place.shape().dims2()?);
        let device = &h.device;
        // SAFETY: the product fills it.
        let to = CudaStorage::wrap_cuda_slice(unsafe { device.alloc::<bf16>(tokens * out)? }, device.clone());
        let operands = Operands {
            weight: place(weight, weight_place)?,
            h: place(h, h_place)?,
            to: pointer::<bf16>(&to, 0)?,
            kept: 0.0,
        };
        multiply(device, Sizes { out, inner, tokens }, operands)?;
        Ok((to, (tokens, out).into()))
    }
}

struct Onto;

fn typed<T: Number>(x: &mut CudaStorage, h: &CudaStorage, weight: &CudaStorage, layouts: [&Layout; 3]) -> Result<()>
where
    CudaBlas: Gemm<T>,
{
    let [x_place, h_place, weight_place] = layouts;
    let (out, inner) = weight_place.shape().dims2()?;
    let tokens = h_place.shape().elem_count() / inner;
    if x_place.shape().elem_count() != tokens * out {
        candle_core::bail!("{:?} is no place for {tokens} tokens of {out}", x_place.shape());
    }
    let sizes = Sizes { out, inner, tokens };
    if sizes.is_large(x.dtype()) {
        let [weight, h] = [place(weight, weight_place), place(h, h_place)];
        let operands = Operands { weight: weight?, h: h?, to: place(x, x_place)?, kept: 1.0 };
        return multiply(&x.device.clone(), sizes, operands);
    }
    let whole = |layout: &Layout| {
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("{:?} has gaps", layout.shape())
        };
        Ok(start..end)
    };
    let [out_size, inner_size, tokens] = [out, inner, tokens].map(|n| number(n).map(u32::cast_signed));
    let (out_size, inner_size) = (out_size?, inner_size?);
    // cuBLAS counts by columns: its xᵀ [out, tokens] = W [out, in] · hᵀ [in, tokens].
    let config = GemmConfig {
        transa: blas::cublasOperation_t::CUBLAS_OP_T,
        transb: blas::cublasOperation_t::CUBLAS_OP_N,
        m: out_size,
        n: tokens?,
        k: inner_size,
        alpha: T::one(),
        lda: inner_size,
        ldb: inner_size,
        beta: T::one(),
        ldc: out_size,
    };
    let blas = x.device.cublas_handle();
    let weight = weight.as_cuda_slice::<T>()?.slice(whole(weight_place)?);
    let h = h.as_cuda_slice::<T>()?.slice(whole(h_place)?);
    let x_place = whole(x_place)?;
    let mut x = T::as_cuda_slice_mut(x)?.slice_mut(x_place);
    // SAFETY: the sizes are those of the three slices.
    #[allow(unsafe_code)]
    unsafe { blas.gemm(config, &weight, &h, &mut x) }.w()
}

impl InplaceOp3 for Onto {
    fn name(&self) -> &'static str {
        "projection-onto"
    }

    fn cpu_fwd(
        &self,
        _: &mut CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<()> {
        only_on_gpus()
    }

    fn cuda_fwd(
        &self,
        x: &mut CudaStorage,
        place: &Layout,
        h: &CudaStorage,
        h_place: &Layout,
        weight: &CudaStorage,
        weight_place: &Layout,
    ) -> Result<()> {
        match x.dtype() {
            DType::F32 => typed::<f32>(x, h, weight, [place, h_place, weight_place]),
            _ => typed::<bf16>(x, h, weight, [place, h_place, weight_place]),
        }
    }
}
