//! The functions of NVIDIA's driver that candle calls, looked up in `libcuda.so.1` when the driver is first asked for anything. Linked in the
//! usual way, a program would not start where there is no driver, not even to say so or to compute on the CPU.
//!
//! The linker takes these definitions and leaves the library out. A function that is missing here comes from the library after all, and then
//! the program needs it to start, as others do.

#![allow(non_snake_case, non_upper_case_globals)]

use std::{
    arch::naked_asm,
    error::Error,
    ffi::{c_int, c_uint, c_void},
    sync::{
        OnceLock,
        atomic::{AtomicPtr, Ordering},
    },
};

use libloading::os::unix::Library;

/// `CUDA_ERROR_NO_DEVICE` of cuda.h.
const NO_DEVICE: c_int = 100;
/// `CUDA_ERROR_NOT_SUPPORTED` of cuda.h.
const NOT_SUPPORTED: c_int = 801;

/// A function that the driver does not have.
extern "C" fn missing() -> c_int {
    NOT_SUPPORTED
}

/// Functions that go on, their arguments untouched, to those of the driver.
macro_rules! forwarded {
    ($($function:ident)*) => {
        mod places {
            use super::{AtomicPtr, c_void, missing};

            $(pub static $function: AtomicPtr<c_void> = AtomicPtr::new(missing as *mut c_void);)*
        }

        $(
            #[unsafe(naked)]
            #[unsafe(no_mangle)]
            #[allow(unsafe_code)]
            extern "C" fn $function() {
                naked_asm!("jmp qword ptr [rip + {place}]", place = sym places::$function);
            }
        )*

        static PLACES: &[(&str, &AtomicPtr<c_void>)] = &[$((stringify!($function), &places::$function)),*];
    };
}

forwarded! {
    cuCtxDestroy_v2 cuCtxGetCurrent cuCtxSetCurrent cuCtxSynchronize
    cuDeviceGet cuDeviceGetAttribute cuDeviceGetDefaultMemPool cuDevicePrimaryCtxRelease_v2 cuDevicePrimaryCtxRetain
    cuEventCreate cuEventDestroy_v2 cuEventRecord
    cuFuncSetAttribute
    cuGetErrorString
    cuLaunchKernel
    cuMemAllocAsync cuMemAlloc_v2 cuMemFreeAsync cuMemFree_v2 cuMemGetInfo_v2
    cuMemPoolGetAttribute cuMemPoolSetAttribute
    cuMemcpyDtoDAsync_v2 cuMemcpyDtoHAsync_v2 cuMemcpyHtoDAsync_v2 cuMemcpyPeerAsync cuMemsetD8Async
    cuModuleGetFunction cuModuleLoad cuModuleLoadData cuModuleUnload
    cuStreamCreate cuStreamDestroy_v2 cuStreamIsCapturing cuStreamSynchronize cuStreamWaitEvent
}

type Init = extern "C" fn(c_uint) -> c_int;

/// The driver's `cuInit`, behind which all its other functions are in their places; or why there is none, in the loader's words.
fn driver() -> Result<Init, &'static str> {
    static DRIVER: OnceLock<Result<Init, String>> = OnceLock::new();
    // The error itself only says which call failed.
    let words = |error: libloading::Error| error.source().map_or_else(|| error.to_string(), ToString::to_string);
    DRIVER.get_or_init(|| load().map_err(words)).as_ref().copied().map_err(String::as_str)
}

#[allow(unsafe_code)]
fn load() -> Result<Init, libloading::Error> {
    // SAFETY: the driver's own library, which every program for its GPUs loads; it stays loaded, so what it gave stays valid. `cuInit` takes and
    // returns a number (cuda.h).
    unsafe {
        let library = Library::new("libcuda.so.1")?;
        let init: Init = *library.get::<Init>("cuInit")?;
        for (name, place) in PLACES {
            if let Ok(function) = library.get::<*mut c_void>(*name) {
                place.store(*function, Ordering::Release);
            }
        }
        std::mem::forget(library);
        Ok(init)
    }
}

/// The driver's first function, before which nothing else of it may be called.
#[unsafe(no_mangle)]
#[allow(unsafe_code)]
extern "C" fn cuInit(flags: c_uint) -> c_int {
    driver().map_or(NO_DEVICE, |init| init(flags))
}

/// Loads the driver.
///
/// # Errors
/// When there is none on this machine, in the loader's words.
pub fn find() -> Result<(), &'static str> {
    driver().map(|_| ())
}
