//! Matrix products over slices, on the calling thread: the callers know better than the library where to part the work.

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, DType, Layout, Result, Storage, Tensor};
use gemm::{Parallelism, gemm};

/// Where a matrix lies in a slice: offset of its first element, distance between rows and between columns.
#[derive(Clone, Copy)]
pub struct Matrix {
    pub offset: usize,
    pub rows: usize,
    pub columns: usize,
}

impl Matrix {
    fn end(self, rows: usize, columns: usize) -> usize {
        self.offset + (rows - 1) * self.rows + (columns - 1) * self.columns
    }
}

/// `out [m, n] = a [m, k] · b [k, n]`, on this thread. `out` is only written.
pub fn multiply(sizes: [usize; 3], out: (&mut [MaybeUninit<f32>], Matrix), a: (&[f32], Matrix), b: (&[f32], Matrix)) {
    product(sizes, out, a, b, false);
}

/// The same, whose rows have the same bits however many there are: the library adds up a single row's products in another order.
/// The columns of `out` lie side by side.
pub fn multiply_rows(
    [m, n, k]: [usize; 3],
    (out, o): (&mut [MaybeUninit<f32>], Matrix),
    (a, l): (&[f32], Matrix),
    b: (&[f32], Matrix),
) {
    if m > 1 {
        return multiply([m, n, k], (out, o), (a, l), b);
    }
    let twice = Matrix { rows: 0, ..l };
    // SAFETY: the product writes both rows.
    #[allow(unsafe_code)]
    let both = unsafe {
        filled(2 * n, |to| multiply([2, n, k], (to, Matrix { offset: 0, rows: n, columns: 1 }), (a, twice), b))
    };
    write(&both[..n], &mut out[o.offset..][..n]);
}

/// `out [m, n] += a [m, k] · b [k, n]`, on this thread.
pub fn multiply_add(sizes: [usize; 3], (out, o): (&mut [f32], Matrix), a: (&[f32], Matrix), b: (&[f32], Matrix)) {
    // SAFETY: a product writes numbers.
    #[allow(unsafe_code)]
    product(sizes, (unsafe { overwritten(out) }, o), a, b, true);
}

/// With `add`, `out` is read and so must hold numbers.
#[allow(unsafe_code, clippy::cast_possible_wrap, clippy::many_single_char_names)]
fn product(
    [m, n, k]: [usize; 3],
    (out, o): (&mut [MaybeUninit<f32>], Matrix),
    (a, l): (&[f32], Matrix),
    (b, r): (&[f32], Matrix),
    add: bool,
) {
    assert!(o.end(m, n) < out.len() && l.end(m, k) < a.len() && r.end(k, n) < b.len(), "a matrix leaves its slice");
    // SAFETY: the assertion above bounds every element that is read or written, and `out` is borrowed mutably.
    unsafe {
        gemm(
            m,
            n,
            k,
            out.as_mut_ptr().cast::<f32>().add(o.offset),
            o.columns as isize,
            o.rows as isize,
            add,
            a.as_ptr().add(l.offset),
            l.columns as isize,
            l.rows as isize,
            b.as_ptr().add(r.offset),
            r.columns as isize,
            r.rows as isize,
            // The factor of what is there, which is not read unless `add`.
            if add { 1.0f32 } else { 0.0 },
            1.0f32,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// `len` values that `fill` writes: zeroing them first costs as much as a tenth of a thin product.
///
/// # Safety
/// `fill` writes every one of them.
#[allow(unsafe_code)]
pub unsafe fn filled<T>(len: usize, fill: impl FnOnce(&mut [MaybeUninit<T>])) -> Vec<T> {
    let mut values = Vec::with_capacity(len);
    fill(&mut values.spare_capacity_mut()[..len]);
    // SAFETY: the capacity is there, and the caller promises that every value is written.
    unsafe { values.set_len(len) };
    values
}

/// Whether a tensor's values lie row by row in f32 on the CPU.
pub fn is_plain(x: &Tensor) -> bool {
    x.is_contiguous() && x.dtype() == DType::F32 && x.device().is_cpu()
}

/// Values into a place of as many.
pub fn write(values: &[f32], to: &mut [MaybeUninit<f32>]) {
    for (to, value) in to.iter_mut().zip(values) {
        to.write(*value);
    }
}

/// Values that are there already, as a place to write others.
///
/// # Safety
/// Nothing uninitialised is written there.
#[allow(unsafe_code)]
pub unsafe fn overwritten(values: &mut [f32]) -> &mut [MaybeUninit<f32>] {
    // SAFETY: the same size and alignment, and the caller promises to leave initialised values.
    unsafe { &mut *(std::ptr::from_mut(values) as *mut [MaybeUninit<f32>]) }
}

/// The values of a contiguous f32 tensor.
pub fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => candle_core::bail!("{:?} is not contiguous", layout.shape()),
    }
}

/// What comes of the values of an f32 tensor on the CPU, row by row.
pub fn with<T>(x: &Tensor, work: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    let x = x.contiguous()?;
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        candle_core::bail!("a kernel for the CPU was given a tensor elsewhere")
    };
    work(slice(storage, layout)?)
}

/// The values of a contiguous f32 tensor, to be written to.
pub fn slice_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    let CpuStorage::F32(values) = storage else { candle_core::bail!("values of a kernel for the CPU are f32") };
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&mut values[start..end]),
        None => candle_core::bail!("{:?} is not contiguous", layout.shape()),
    }
}
