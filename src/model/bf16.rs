//! Matrix products in bf16: both factors are rounded to bf16, their products are added up in f32.
//!
//! The weights lie in memory as the processor's instructions read them; which instructions those are is found at run time:
//! AMX tiles, AVX512-BF16, or f32 after widening.

use std::{mem::MaybeUninit, ops::Range, sync::OnceLock};

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor};
use half::bf16;
use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::{amx, simd::pack_lines};
use super::{
    attention::QUERIES,
    attention_panels::Factors,
    matrix::{Matrix, filled, multiply_rows, slice},
    panels::{self, PANEL, Place},
    simd::{Line, interleave, pack, round, vectorised},
    sums::Hidden,
    training::FrozenNorm,
};

/// Inner values are padded with zeros to a multiple of this: what a tile takes at once.
const STEP: usize = 32;
/// Pairs of inner values after which the sums are put down, so that a panel's part stays in the second-level cache.
#[cfg(target_arch = "x86_64")]
const BLOCK: usize = 1024;

/// Lines of 64 columns.
const LINES: usize = PANEL / 16;

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
    /// Whether this processor has the instructions.
    fn is_there(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx => amx::is_there(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512f"),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Amx | Self::Avx512 => false,
            Self::Portable => true,
        }
    }

    /// What this processor can run, the fastest first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        [Self::Amx, Self::Avx512, Self::Portable].into_iter().filter(|kernel| kernel.is_there()).collect()
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
        let weight: Vec<_> = weight.iter().map(|&w| bf16::from_f32(w)).collect();
        let [ours, portable] = [self, Self::Portable].map(|kernel| Panels::of(&weight, out, inner, kernel).product(&x));
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

/// A weight `[out, in]` in bf16, cut into panels of 64 output columns, each stored as `[in / 2, 64]` pairs, for AMX as tiles
/// `[in / 32, 4, 16, 16]` of 16 pairs by 16 columns; what is missing to whole panels and steps is zero.
pub struct Panels {
    values: Vec<Line>,
    out: usize,
    inner: usize,
    kernel: Kernel,
}

impl Panels {
    /// Of a bf16 tensor `[out, in]` on the CPU, for the fastest kernel.
    ///
    /// # Errors
    /// When it is none.
    pub fn new(weight: &Tensor) -> Result<Self> {
        let (out, inner) = weight.dims2()?;
        let weight = weight.contiguous()?;
        let (storage, layout) = weight.storage_and_layout();
        let candle_core::Storage::Cpu(storage) = &*storage else { candle_core::bail!("the weight is not on the CPU") };
        let Some((start, end)) = layout.contiguous_offsets() else { candle_core::bail!("the weight has gaps") };
        Ok(Self::of(&storage.as_slice::<bf16>()?[start..end], out, inner, Kernel::best()))
    }

    /// Of values `[out, in]`, row by row, for one of the kernels that [are there](Kernel::available).
    ///
    /// # Panics
    /// When that kernel is another processor's.
    #[must_use]
    pub fn of(weight: &[bf16], out: usize, inner: usize, kernel: Kernel) -> Self {
        assert!(kernel.is_there(), "{kernel:?} is another processor's");
        let mut panels = Self::empty(out, inner, kernel);
        let size = panels.size();
        panels.values.par_chunks_mut(size).zip(weight.par_chunks(PANEL * inner)).for_each(|(panel, rows)| {
            let pairs: Vec<u32> = rows
                .chunks_exact(inner)
                .flat_map(|row| row.chunks(2))
                .map(|pair| {
                    u32::from(pair[0].to_bits()) | pair.get(1).map_or(0, |high| u32::from(high.to_bits()) << 16)
                })
                .collect();
            put(panel, &pairs, inner.div_ceil(2), kernel);
        });
        panels
    }

    fn empty(out: usize, inner: usize, kernel: Kernel) -> Self {
        Self { values: vec![Line([0; 16]); out.div_ceil(PANEL) * size(inner)], out, inner, kernel }
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
    pub fn product(&self, x: &[f32]) -> Vec<f32> {
        assert_eq!(x.len() % self.inner, 0, "rows of {} values", self.inner);
        panels::product(self, x)
    }
}

impl panels::Panels for Panels {
    type Rows<'x> = Rows;

    fn shape(&self) -> [usize; 2] {
        [self.out, self.inner]
    }

    fn columns(&self) -> Vec<Range<usize>> {
        panels::of_equal_width(self.out, PANEL)
    }

    fn rows(&self, x: &[f32], norm: Option<&FrozenNorm>) -> Rows {
        Rows::of(&panels::behind(norm, x), self.inner, [x.len() / self.inner, self.inner], self.kernel)
    }

    #[allow(unsafe_code)]
    unsafe fn made(&self, tokens: usize, make: impl FnOnce(Hidden<'_>)) -> Rows {
        // SAFETY: as the caller promises.
        let h = unsafe { panels::row_by_row([tokens, self.inner], make) };
        Rows::of(&h, self.inner, [tokens, self.inner], self.kernel)
    }

    fn multiply(&self, rows: &Rows, columns: Range<usize>, place: Place<'_>) {
        // With the panels behind it: a kernel may ask for the next one meanwhile.
        let panels = &self.values[columns.start / PANEL * self.size()..];
        let Place { values, stride, onto } = place;
        Self::times(rows, panels, values, stride, columns.len());
        // SAFETY: the product writes all rows.
        #[allow(unsafe_code)]
        unsafe {
            panels::add(onto, values, stride, columns.len());
        }
    }
}

impl Factors for Panels {
    const NAME: &'static str = "causal-attention-bf16";
    const QUERIES: usize = QUERIES;
    type Line = Line;
    type Rows<'x> = Rows;

    fn of_rows<'a>(out: usize, inner: usize, row: impl Fn(usize) -> &'a [f32]) -> Self {
        let mut panels = Self::empty(out, inner, Kernel::best());
        let pairs = inner.div_ceil(2);
        for (panel, start) in panels.values.chunks_exact_mut(size(inner)).zip((0..out).step_by(PANEL)) {
            let columns = PANEL.min(out - start);
            let fill = |packed: &mut [MaybeUninit<u32>]| {
                for (column, packed) in packed.chunks_exact_mut(pairs).enumerate() {
                    pack(row(start + column), packed);
                }
            };
            // SAFETY: all pairs of all columns are written.
            #[allow(unsafe_code)]
            let packed = unsafe { filled(columns * pairs, fill) };
            put(panel, &packed, pairs, panels.kernel);
        }
        panels
    }

    fn of_columns<'a>(out: usize, inner: usize, column: impl Fn(usize) -> &'a [f32]) -> Self {
        let mut panels = Self::empty(out, inner, Kernel::best());
        let zeros = vec![0f32; out];
        let mut pairs = vec![0u32; out];
        for pair in 0..inner.div_ceil(2) {
            let high = if 2 * pair + 1 < inner { column(2 * pair + 1) } else { &zeros };
            interleave(column(2 * pair), high, &mut pairs);
            for (panel, pairs) in panels.values.chunks_exact_mut(size(inner)).zip(pairs.chunks(PANEL)) {
                for (i, pairs) in pairs.chunks(16).enumerate() {
                    panel[line(pair, i, panels.kernel)].0[..pairs.len()].copy_from_slice(pairs);
                }
            }
        }
        panels
    }

    fn panel(&self, number: usize, inner: usize) -> &[Line] {
        &self.values[number * self.size()..][..self.size()][inner / 2 * LINES..]
    }

    fn rows(x: &[f32], stride: usize, shape: [usize; 2]) -> Rows {
        Rows::of(x, stride, shape, Kernel::best())
    }

    fn tokens(rows: &Rows) -> usize {
        match rows {
            #[cfg(target_arch = "x86_64")]
            Rows::Tiles { tokens, .. } => *tokens,
            #[cfg(target_arch = "x86_64")]
            Rows::Pairs { values, pairs } => values.len() / pairs,
            Rows::Wide { values, inner } => values.len() / inner,
        }
    }

    fn padded(rows: &Rows) -> usize {
        match rows {
            #[cfg(target_arch = "x86_64")]
            Rows::Tiles { tokens, .. } => tokens.next_multiple_of(16),
            _ => Self::tokens(rows),
        }
    }

    fn whole(rows: &Rows, panel: &[Line], to: &mut [MaybeUninit<f32>], stride: usize) {
        match rows {
            #[cfg(target_arch = "x86_64")]
            Rows::Tiles { values, pairs, .. } => amx::times(values, *pairs, panel, to, stride),
            #[cfg(target_arch = "x86_64")]
            Rows::Pairs { values, pairs } => {
                // SAFETY: panels and rows are made for kernels that are there.
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
        let y = self.product(slice(x, layout)?);
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
    pairs(inner) * LINES
}

/// Where in a panel the line of a pair of inner values and of sixteen columns lies.
fn line(pair: usize, columns: usize, kernel: Kernel) -> usize {
    match kernel {
        Kernel::Amx => (pair / 16 * LINES + columns) * 16 + pair % 16,
        Kernel::Avx512 | Kernel::Portable => pair * LINES + columns,
    }
}

/// Puts a panel's columns `[columns, pairs]` into their places. Sixteen columns are read together: what is written is whole lines then.
fn put(panel: &mut [Line], columns: &[u32], pairs: usize, kernel: Kernel) {
    for (i, columns) in columns.chunks(16 * pairs).enumerate() {
        for pair in 0..pairs {
            let line = &mut panel[line(pair, i, kernel)].0;
            for (to, column) in line.iter_mut().zip(columns.chunks_exact(pairs)) {
                *to = column[pair];
            }
        }
    }
}

/// Rows `[tokens, in]` as one kernel reads them.
pub(super) enum Rows {
    /// Tiles of 16 tokens by 16 pairs of bf16, `[tokens / 16, pairs / 16, 16, 16]`; rows of zeros fill the tokens to a multiple of 16.
    #[cfg(target_arch = "x86_64")]
    Tiles { values: Vec<Line>, tokens: usize, pairs: usize },
    /// Pairs of bf16, `[tokens, pairs]`.
    #[cfg(target_arch = "x86_64")]
    Pairs { values: Vec<u32>, pairs: usize },
    /// Rounded to bf16, in f32: `[tokens, in]`.
    Wide { values: Vec<f32>, inner: usize },
}

impl Rows {
    /// Of rows that are `stride` apart.
    fn of(x: &[f32], stride: usize, [tokens, inner]: [usize; 2], kernel: Kernel) -> Self {
        let row = |token: usize| &x[token * stride..][..inner];
        match kernel {
            #[cfg(target_arch = "x86_64")]
            Kernel::Amx => {
                let pairs = pairs(inner);
                let fill = |tiles: &mut [MaybeUninit<Line>]| {
                    for (block, tiles) in tiles.chunks_exact_mut(pairs).enumerate() {
                        for i in 0..16 {
                            let token = 16 * block + i;
                            pack_lines(
                                if token < tokens { row(token) } else { &[] },
                                tiles[i..].iter_mut().step_by(16),
                            );
                        }
                    }
                };
                // SAFETY: every line of every row is written.
                #[allow(unsafe_code)]
                let values = unsafe { filled(tokens.div_ceil(16) * pairs, fill) };
                Self::Tiles { values, tokens, pairs }
            }
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => {
                let pairs = pairs(inner);
                let fill = |values: &mut [MaybeUninit<u32>]| {
                    for (token, to) in values.chunks_exact_mut(pairs).enumerate() {
                        pack(row(token), to);
                    }
                };
                // SAFETY: all rows are written.
                #[allow(unsafe_code)]
                let values = unsafe { filled(tokens * pairs, fill) };
                Self::Pairs { values, pairs }
            }
            #[cfg(not(target_arch = "x86_64"))]
            Kernel::Amx | Kernel::Avx512 => unreachable!("these are another processor's"),
            Kernel::Portable => {
                let fill = |to: &mut [MaybeUninit<f32>]| {
                    for (token, to) in to.chunks_exact_mut(inner).enumerate() {
                        round(row(token), to);
                    }
                };
                // SAFETY: every value of every row is written.
                #[allow(unsafe_code)]
                let values = unsafe { filled(tokens * inner, fill) };
                Self::Wide { values, inner }
            }
        }
    }
}

vectorised! {
    /// The values of pairs, row by row of a panel: those of the earlier inner value, then of the later one. Line by line: of a loop over
    /// the few lines of a row the compiler makes scalar code.
    fn widen(pairs: &[Line], values: &mut [MaybeUninit<super::avx512::Line>]) {
        for (i, pairs) in pairs.iter().enumerate() {
            let low = i / LINES * 2 * LINES + i % LINES;
            values[low].write(super::avx512::Line(pairs.0.map(|pair| f32::from_bits(pair << 16))));
            values[low + LINES].write(super::avx512::Line(pairs.0.map(|pair| f32::from_bits(pair & 0xffff_0000))));
        }
    }
}

fn wide(x: &[f32], inner: usize, panel: &[Line], product: &mut [MaybeUninit<f32>], stride: usize) {
    const WIDTH: usize = 2 * PANEL;
    let tokens = x.len() / inner;
    let pairs = &panel[..inner.div_ceil(2) * LINES];
    // SAFETY: every pair is two values.
    #[allow(unsafe_code)]
    let lines = unsafe { filled(2 * pairs.len(), |lines| widen(pairs, lines)) };
    // The columns' values, inner value by inner value.
    let lines = &lines[..inner * LINES];
    if super::avx512::is_there() {
        let rows = super::avx512::Factor::rows(x, inner, [tokens, inner]);
        return super::avx512::Factor::whole(&rows, lines, product, stride);
    }
    // The library adds up products of at most 64 × 64 in other blocks, and a token's sums must not depend on how many other
    // tokens share its batch: with as many columns of zeros, no product is so small.
    let mut weight = vec![0f32; inner * WIDTH];
    let places = weight.chunks_exact_mut(WIDTH).flat_map(|row| row[..PANEL].chunks_exact_mut(16));
    places.zip(lines).for_each(|(to, line)| to.copy_from_slice(&line.0));
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
        array,
        mem::MaybeUninit,
    };

    use super::{
        super::panels::{AHEAD, ask_for},
        BLOCK, LINES, Line, PANEL,
    };

    /// Tokens whose sums stand in registers: 6 × 4 of the 32, beside 4 of the panel and one of the tokens.
    const TOKENS: usize = 6;

    /// The product of rows of pairs with one panel.
    #[allow(unsafe_code)]
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub fn times(x: &[u32], pairs: usize, panel: &[Line], product: &mut [MaybeUninit<f32>], stride: usize) {
        for start in (0..pairs).step_by(BLOCK) {
            let block = start..pairs.min(start + BLOCK);
            let panel = &panel[block.start * LINES..block.end * LINES];
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
        let count = panel.len() / LINES;
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
            let rows: [_; N] = array::from_fn(|i| x.as_ptr().add(i * pairs + start));
            let mut line = panel.as_ptr();
            for pair in 0..count {
                if pair == last {
                    ask_for::<N, LINES>(product, stride);
                }
                let columns = [0, 1, 2, 3].map(|j| *line.add(j).cast::<__m512bh>());
                for (row, sums) in rows.iter().zip(&mut sums) {
                    let token = _mm512_set1_epi32((*row.add(pair)).cast_signed());
                    let token = std::mem::transmute::<__m512i, __m512bh>(token);
                    for (sum, column) in sums.iter_mut().zip(columns) {
                        *sum = _mm512_dpbf16_ps(*sum, token, column);
                    }
                }
                line = line.add(LINES);
            }
            for (i, sums) in sums.iter().enumerate() {
                for (j, sum) in sums.iter().enumerate() {
                    _mm512_storeu_ps(product.add(i * stride + 16 * j), *sum);
                }
            }
        }
    }
}
