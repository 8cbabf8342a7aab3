//! Matrix products in bf16: both factors are rounded to bf16, their products are added up in f32.
//!
//! The weights lie in memory as the processor's instructions read them; which instructions those are is found at run time:
//! AMX tiles, AVX512-BF16, or f32 after widening.

use std::{mem::MaybeUninit, ops::Range, sync::OnceLock};

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor};
use half::bf16;
use rayon::prelude::*;

use super::{
    attention::QUERIES,
    attention_panels::Factors,
    matrix::{Matrix, filled, multiply_rows, slice},
    panels::{self, PANEL},
    simd::{interleave, pack},
};

/// Inner values are padded with zeros to a multiple of this: what a tile takes at once.
const STEP: usize = 32;
/// Pairs of inner values after which the sums are put down, so that a panel's part stays in the second-level cache.
#[cfg(target_arch = "x86_64")]
const BLOCK: usize = 1024;

/// Sixteen pairs of bf16, each in 32 bits with the earlier one low; a cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line([u32; 16]);

/// How a product is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Tiles of 16 × 32 values (Intel AMX-BF16).
    Amx,
    /// `vdpbf16ps`: sixteen sums of two products at once.
    Avx512,
    /// f32 products of the widened values.
    Portable,
}

impl Kernel {
    /// What this processor can run, the fastest first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        let has = |kernel: &Self| match kernel {
            #[cfg(target_arch = "x86_64")]
            Self::Amx => super::amx::is_there(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512f"),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Amx | Self::Avx512 => false,
            Self::Portable => true,
        };
        [Self::Amx, Self::Avx512, Self::Portable].into_iter().filter(has).collect()
    }

    /// The fastest that gives what the portable one gives. It is tried once in a process: a processor's rare instructions are
    /// trusted only where they have shown that they do what we think they do.
    #[must_use]
    pub fn best() -> Self {
        static BEST: OnceLock<Kernel> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().into_iter().find(|kernel| kernel.is_right()).unwrap_or(Self::Portable))
    }

    fn is_right(self) -> bool {
        let (tokens, inner, out) = (37, 70, 90);
        let values = |n: usize| (0..n).map(|i| (i * 7919 % 1009) as f32 / 504.0 - 1.0).collect::<Vec<_>>();
        let (x, weight) = (values(tokens * inner), values(out * inner));
        let panels = Panels::of(&weight.iter().map(|&w| bf16::from_f32(w)).collect::<Vec<_>>(), out, inner);
        let (ours, portable) = (panels.product(self, &x), panels.product(Self::Portable, &x));
        let right = ours.iter().zip(&portable).all(|(a, b)| (a - b).abs() <= 1e-4);
        if !right {
            tracing::warn!("{self:?} gives wrong products on this processor and is not used");
        }
        right
    }

    /// The name of its instructions.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Amx => "AMX",
            Self::Avx512 => "AVX512-BF16",
            Self::Portable => "widened to f32",
        }
    }
}

/// A weight `[out, in]` in bf16, cut into panels of 64 output columns, each stored as `[in / 2, 64]` pairs; what is missing to
/// whole panels and steps is zero.
pub struct Panels {
    values: Vec<Line>,
    out: usize,
    inner: usize,
}

impl Panels {
    /// Of a bf16 tensor `[out, in]` on the CPU.
    ///
    /// # Errors
    /// When it is none.
    pub fn new(weight: &Tensor) -> Result<Self> {
        let (out, inner) = weight.dims2()?;
        let weight = weight.contiguous()?;
        let (storage, layout) = weight.storage_and_layout();
        let candle_core::Storage::Cpu(storage) = &*storage else { candle_core::bail!("the weight is not on the CPU") };
        let Some((start, end)) = layout.contiguous_offsets() else { candle_core::bail!("the weight has gaps") };
        Ok(Self::of(&storage.as_slice::<bf16>()?[start..end], out, inner))
    }

    /// Of values `[out, in]`, row by row.
    #[must_use]
    pub fn of(weight: &[bf16], out: usize, inner: usize) -> Self {
        let mut panels = Self::empty(out, inner);
        let size = panels.size();
        panels.values.par_chunks_mut(size).zip(weight.par_chunks(PANEL * inner)).for_each(|(panel, rows)| {
            for (column, row) in rows.chunks_exact(inner).enumerate() {
                for (pair, values) in row.chunks(2).enumerate() {
                    let high = values.get(1).map_or(0, |value| u32::from(value.to_bits()));
                    put(panel, pair, column, u32::from(values[0].to_bits()) | high << 16);
                }
            }
        });
        panels
    }

    /// For the fastest kernel.
    pub(super) fn best(&self) -> By<'_> {
        By { panels: self, kernel: Kernel::best() }
    }

    fn empty(out: usize, inner: usize) -> Self {
        Self { values: vec![Line([0; 16]); out.div_ceil(PANEL) * size(inner)], out, inner }
    }

    /// Lines of one panel.
    fn size(&self) -> usize {
        size(self.inner)
    }

    /// `x Wᵀ [tokens, out]` of `x [tokens, in]`.
    ///
    /// # Panics
    /// When `x` is not whole rows.
    #[must_use]
    pub fn product(&self, kernel: Kernel, x: &[f32]) -> Vec<f32> {
        assert_eq!(x.len() % self.inner, 0, "rows of {} values", self.inner);
        panels::product(&By { panels: self, kernel }, x)
    }
}

/// Panels for a kernel of the caller's choice.
pub(super) struct By<'a> {
    panels: &'a Panels,
    kernel: Kernel,
}

impl panels::Panels for By<'_> {
    type Rows<'x> = Rows;

    fn shape(&self) -> [usize; 2] {
        [self.panels.out, self.panels.inner]
    }

    fn columns(&self) -> Vec<Range<usize>> {
        panels::of_equal_width(self.panels.out)
    }

    fn rows(&self, x: &[f32]) -> Rows {
        let inner = self.panels.inner;
        Rows::of(x, inner, [x.len() / inner, inner], self.kernel)
    }

    fn multiply(&self, rows: &Rows, columns: Range<usize>, to: &mut [MaybeUninit<f32>], stride: usize) {
        Panels::times(rows, self.panels.panel(columns.start / PANEL, 0), to, stride, columns.len());
    }
}

impl Factors for Panels {
    const NAME: &'static str = "causal-attention-bf16";
    const QUERIES: usize = QUERIES;
    type Line = Line;
    type Rows<'x> = Rows;

    fn of_rows<'a>(out: usize, inner: usize, row: impl Fn(usize) -> &'a [f32]) -> Self {
        let mut panels = Self::empty(out, inner);
        for (panel, start) in panels.values.chunks_exact_mut(size(inner)).zip((0..out).step_by(PANEL)) {
            for column in 0..PANEL.min(out - start) {
                // SAFETY: all pairs are written.
                #[allow(unsafe_code)]
                let packed = unsafe { filled(inner.div_ceil(2), |packed| pack(row(start + column), packed)) };
                packed.iter().enumerate().for_each(|(pair, &values)| put(panel, pair, column, values));
            }
        }
        panels
    }

    fn of_columns<'a>(out: usize, inner: usize, column: impl Fn(usize) -> &'a [f32]) -> Self {
        let mut panels = Self::empty(out, inner);
        let zeros = vec![0f32; out];
        let mut pairs = vec![0u32; out];
        for pair in 0..inner.div_ceil(2) {
            let high = if 2 * pair + 1 < inner { column(2 * pair + 1) } else { &zeros };
            interleave(column(2 * pair), high, &mut pairs);
            for (panel, pairs) in panels.values.chunks_exact_mut(size(inner)).zip(pairs.chunks(PANEL)) {
                for (line, pairs) in panel[pair * (PANEL / 16)..].iter_mut().zip(pairs.chunks(16)) {
                    line.0[..pairs.len()].copy_from_slice(pairs);
                }
            }
        }
        panels
    }

    fn panel(&self, number: usize, inner: usize) -> &[Line] {
        &self.values[number * self.size()..][..self.size()][inner / 2 * (PANEL / 16)..]
    }

    fn rows(x: &[f32], stride: usize, shape: [usize; 2]) -> Rows {
        Rows::of(x, stride, shape, Kernel::best())
    }

    fn tokens(rows: &Rows) -> usize {
        match rows {
            #[cfg(target_arch = "x86_64")]
            Rows::Pairs { tokens, .. } => *tokens,
            Rows::Wide { values, inner } => values.len() / inner,
        }
    }

    fn padded(rows: &Rows) -> usize {
        match rows {
            #[cfg(target_arch = "x86_64")]
            Rows::Pairs { values, pairs, .. } => values.len() / pairs,
            Rows::Wide { values, inner } => values.len() / inner,
        }
    }

    fn whole(rows: &Rows, panel: &[Line], to: &mut [MaybeUninit<f32>], stride: usize) {
        match rows {
            #[cfg(target_arch = "x86_64")]
            Rows::Pairs { kernel: Kernel::Amx, values, pairs, .. } => {
                super::amx::times(values, *pairs, panel.as_flattened_pairs(), to, stride);
            }
            #[cfg(target_arch = "x86_64")]
            Rows::Pairs { values, pairs, .. } => {
                // SAFETY: `Kernel::available` has found the instructions.
                #[allow(unsafe_code)]
                unsafe {
                    avx512::times(values, *pairs, panel, to, stride);
                }
            }
            Rows::Wide { values, inner } => wide(values, *inner, panel, to, stride),
        }
    }
}

impl CustomOp1 for Panels {
    fn name(&self) -> &'static str {
        "projection-bf16"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (tokens, inner) = layout.shape().dims2()?;
        if inner != self.inner {
            candle_core::bail!("a projection of width {} was given vectors of width {inner}", self.inner);
        }
        let y = self.product(Kernel::best(), slice(x, layout)?);
        Ok((CpuStorage::F32(y), Shape::from((tokens, self.out))))
    }
}

/// `x Wᵀ` of `x [tokens, in]` in f32 with a weight `[out, in]` in bf16, in candle's own operators: for weights that others hold too.
///
/// # Errors
/// When the shapes do not fit.
pub fn widened(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    const ROWS: usize = 4096;
    let x = x.to_dtype(DType::BF16)?.to_dtype(DType::F32)?;
    let out = weight.dim(0)?;
    let parts = (0..out).step_by(ROWS).map(|start| {
        let rows = weight.narrow(0, start, ROWS.min(out - start))?.to_dtype(DType::F32)?;
        x.matmul(&rows.t()?)
    });
    Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 1)
}

/// Pairs of inner values with the padding.
fn pairs(inner: usize) -> usize {
    inner.next_multiple_of(STEP) / 2
}

/// Lines of one panel.
fn size(inner: usize) -> usize {
    pairs(inner) * (PANEL / 16)
}

fn put(panel: &mut [Line], pair: usize, column: usize, values: u32) {
    panel[pair * (PANEL / 16) + column / 16].0[column % 16] = values;
}

/// Rows `[tokens, in]` as one kernel reads them.
pub(super) enum Rows {
    /// Pairs of bf16, `[tokens, pairs]`; for tiles, rows of zeros fill the tokens to a multiple of 16.
    #[cfg(target_arch = "x86_64")]
    Pairs { kernel: Kernel, values: Vec<u32>, tokens: usize, pairs: usize },
    /// Rounded to bf16, in f32: `[tokens, in]`.
    Wide { values: Vec<f32>, inner: usize },
}

impl Rows {
    /// Of rows that are `stride` apart.
    fn of(x: &[f32], stride: usize, [tokens, inner]: [usize; 2], kernel: Kernel) -> Self {
        let row = |token: usize| &x[token * stride..][..inner];
        #[cfg(target_arch = "x86_64")]
        if kernel != Kernel::Portable {
            let pairs = pairs(inner);
            let all = if kernel == Kernel::Amx { tokens.next_multiple_of(16) } else { tokens };
            let fill = |values: &mut [MaybeUninit<u32>]| {
                let (own, padding) = values.split_at_mut(tokens * pairs);
                for (token, to) in own.chunks_exact_mut(pairs).enumerate() {
                    pack(row(token), to);
                }
                padding.fill(MaybeUninit::new(0));
            };
            // SAFETY: all rows and the padding behind them are written.
            #[allow(unsafe_code)]
            let values = unsafe { filled(all * pairs, fill) };
            return Self::Pairs { kernel, values, tokens, pairs };
        }
        debug_assert_eq!(kernel, Kernel::Portable);
        let values = (0..tokens).flat_map(row).map(|&x| bf16::from_f32(x).to_f32()).collect();
        Self::Wide { values, inner }
    }
}

trait Pairs {
    fn as_flattened_pairs(&self) -> &[u32];
}

impl Pairs for [Line] {
    fn as_flattened_pairs(&self) -> &[u32] {
        // SAFETY: a line is sixteen u32 without padding.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts(self.as_ptr().cast::<u32>(), self.len() * 16)
        }
    }
}

fn wide(x: &[f32], inner: usize, panel: &[Line], product: &mut [MaybeUninit<f32>], stride: usize) {
    // The library adds up products of at most 64 × 64 in other blocks, and a token's sums must not depend on how many other
    // tokens share its batch: with as many columns of zeros, no product is so small.
    const WIDTH: usize = 2 * PANEL;
    let mut weight = vec![0f32; inner * WIDTH];
    let rows = weight.chunks_exact_mut(WIDTH);
    for (k, to) in rows.enumerate() {
        let pairs = panel[k / 2 * (PANEL / 16)..][..PANEL / 16].as_flattened_pairs();
        for (pair, to) in pairs.iter().zip(to) {
            *to = f32::from_bits(if k % 2 == 0 { pair << 16 } else { pair & 0xffff_0000 });
        }
    }
    let tokens = x.len() / inner;
    let at = |rows, columns| Matrix { offset: 0, rows, columns };
    // SAFETY: the product writes all tokens and all columns.
    #[allow(unsafe_code)]
    let all = unsafe {
        filled(tokens * WIDTH, |to| {
            multiply_rows([tokens, WIDTH, inner], (to, at(WIDTH, 1)), (x, at(inner, 1)), (&weight, at(WIDTH, 1)));
        })
    };
    for (all, to) in all.chunks_exact(WIDTH).zip(product.chunks_mut(stride)) {
        for (to, all) in to[..PANEL].iter_mut().zip(all) {
            to.write(*all);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::{
        arch::x86_64::{
            __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_set1_epi32, _mm512_setzero_ps,
            _mm512_storeu_ps,
        },
        mem::MaybeUninit,
    };

    use super::{
        super::panels::{AHEAD, ask_for},
        BLOCK, Line, PANEL,
    };

    /// Tokens whose sums stand in registers: 6 × 4 of the 32, beside 4 of the panel and one of the tokens.
    const TOKENS: usize = 6;

    /// The product of rows of pairs with one panel.
    #[allow(unsafe_code)]
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub fn times(x: &[u32], pairs: usize, panel: &[Line], product: &mut [MaybeUninit<f32>], stride: usize) {
        for start in (0..pairs).step_by(BLOCK) {
            let block = start..pairs.min(start + BLOCK);
            let panel = &panel[block.start * (PANEL / 16)..block.end * (PANEL / 16)];
            for (x, y) in x.chunks(TOKENS * pairs).zip(product.chunks_mut(TOKENS * stride)) {
                let (x, y) = ((x, pairs), (y, stride));
                match x.0.len() / pairs {
                    6 => tile::<6>(x, block.start, panel, y),
                    5 => tile::<5>(x, block.start, panel, y),
                    4 => tile::<4>(x, block.start, panel, y),
                    3 => tile::<3>(x, block.start, panel, y),
                    2 => tile::<2>(x, block.start, panel, y),
                    _ => tile::<1>(x, block.start, panel, y),
                }
            }
        }
    }

    #[allow(unsafe_code)]
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn tile<const N: usize>(
        (x, pairs): (&[u32], usize),
        start: usize,
        panel: &[Line],
        (product, stride): (&mut [MaybeUninit<f32>], usize),
    ) {
        let count = panel.len() / (PANEL / 16);
        assert!(count > 0 && x.len() >= (N - 1) * pairs + start + count && product.len() >= (N - 1) * stride + PANEL);
        let last = count.saturating_sub(AHEAD);
        let product = product.as_mut_ptr().cast::<f32>();
        // SAFETY: the assertion bounds every read and write, a line is sixteen values, and from the second block on the sums are there.
        unsafe {
            let mut sums = [[_mm512_setzero_ps(); 4]; N];
            if start > 0 {
                for (i, sums) in sums.iter_mut().enumerate() {
                    for (j, sum) in sums.iter_mut().enumerate() {
                        *sum = _mm512_loadu_ps(product.add(i * stride + 16 * j));
                    }
                }
            }
            let (x, lines) = (x.as_ptr().add(start), panel.as_ptr().cast::<__m512bh>());
            for pair in 0..count {
                if pair == last {
                    ask_for::<N>(product, stride);
                }
                let columns = [0, 1, 2, 3].map(|j| *lines.add(4 * pair + j));
                for (i, sums) in sums.iter_mut().enumerate() {
                    let token = _mm512_set1_epi32((*x.add(i * pairs + pair)).cast_signed());
                    let token = std::mem::transmute::<__m512i, __m512bh>(token);
                    for (sum, column) in sums.iter_mut().zip(columns) {
                        *sum = _mm512_dpbf16_ps(*sum, token, column);
                    }
                }
            }
            for (i, sums) in sums.iter().enumerate() {
                for (j, sum) in sums.iter().enumerate() {
                    _mm512_storeu_ps(product.add(i * stride + 16 * j), *sum);
                }
            }
        }
    }
}
