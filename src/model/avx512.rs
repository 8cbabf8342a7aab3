//! Matrix products in f32 by AVX-512: weights lie in memory as the kernel reads them, and tokens are read where they are.
//!
//! Each sum is made of blocks of inner values, in their order, whatever other tokens or columns there are.

use std::{mem::MaybeUninit, ops::Range, sync::OnceLock};

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::{
    attention_panels::Factors,
    matrix::with,
    panels::{self, PANEL},
};

/// Sixteen values; a cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub [f32; WIDTH]);

const WIDTH: usize = 16;
/// Lines of a panel's row.
const LINES: usize = PANEL / WIDTH;

/// Whether this processor has the instructions, and the environment does not say `NEUROGLOT_AVX512=0`: then, as on other processors,
/// products in f32 are a library's.
#[must_use]
pub fn is_there() -> bool {
    static THERE: OnceLock<bool> = OnceLock::new();
    #[cfg(target_arch = "x86_64")]
    let has = || is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    let has = || false;
    *THERE.get_or_init(|| has() && std::env::var_os("NEUROGLOT_AVX512").is_none_or(|value| value != "0"))
}

/// A weight `[out, in]` in f32, cut into panels of 64 output columns, each stored as `[in, 64]`; what is missing to whole panels is
/// zero.
pub struct Panels {
    values: Vec<Line>,
    out: usize,
    inner: usize,
}

impl Panels {
    /// Of an f32 tensor `[out, in]` on the CPU.
    ///
    /// # Errors
    /// When it is none.
    pub fn new(weight: &Tensor) -> Result<Self> {
        let (out, inner) = weight.dims2()?;
        with(weight, |values| Ok(Self::of(values, out, inner)))
    }

    /// Of values `[out, in]`, row by row.
    #[must_use]
    pub fn of(weight: &[f32], out: usize, inner: usize) -> Self {
        let mut panels = Self::empty(out, inner);
        panels.values.par_chunks_mut(inner * LINES).zip(weight.par_chunks(PANEL * inner)).for_each(|(panel, rows)| {
            let rows: Vec<_> = rows.chunks_exact(inner).collect();
            put(panel, &rows);
        });
        panels
    }

    /// `x Wᵀ [tokens, out]` of `x [tokens, in]`.
    ///
    /// # Panics
    /// When `x` is not whole rows, or the processor [lacks the instructions](is_there).
    #[must_use]
    pub fn product(&self, x: &[f32]) -> Vec<f32> {
        assert_eq!(x.len() % self.inner, 0, "rows of {} values", self.inner);
        panels::product(self, x)
    }

    fn empty(out: usize, inner: usize) -> Self {
        Self { values: vec![Line([0.0; WIDTH]); out.div_ceil(PANEL) * inner * LINES], out, inner }
    }
}

/// Puts the weights of a panel's output columns into their places. Sixteen columns are read together: what is written is whole lines
/// then, and not one value of every fourth.
fn put(panel: &mut [Line], rows: &[&[f32]]) {
    for (i, rows) in rows.chunks(WIDTH).enumerate() {
        for (k, line) in panel[i..].iter_mut().step_by(LINES).enumerate() {
            for (value, row) in line.0.iter_mut().zip(rows) {
                *value = row[k];
            }
        }
    }
}

/// Rows of `inner` values that are `stride` apart.
pub struct Rows<'x> {
    x: &'x [f32],
    stride: usize,
    tokens: usize,
    inner: usize,
}

impl panels::Panels for Panels {
    type Rows<'x> = Rows<'x>;

    fn shape(&self) -> [usize; 2] {
        [self.out, self.inner]
    }

    fn columns(&self) -> Vec<Range<usize>> {
        panels::of_equal_width(self.out)
    }

    fn rows<'x>(&self, x: &'x [f32]) -> Rows<'x> {
        <Self as Factors>::rows(x, self.inner, [x.len() / self.inner, self.inner])
    }

    fn multiply(&self, rows: &Rows<'_>, columns: Range<usize>, to: &mut [MaybeUninit<f32>], stride: usize) {
        Self::times(rows, self.panel(columns.start / PANEL, 0), to, stride, columns.len());
    }
}

impl Factors for Panels {
    const NAME: &'static str = "causal-attention-avx512";
    /// Two tiles of the kernel.
    const QUERIES: usize = 12;
    type Line = Line;
    type Rows<'x> = Rows<'x>;

    fn of_rows<'a>(out: usize, inner: usize, row: impl Fn(usize) -> &'a [f32]) -> Self {
        let mut panels = Self::empty(out, inner);
        for (number, panel) in panels.values.chunks_exact_mut(inner * LINES).enumerate() {
            let rows: Vec<_> = (number * PANEL..out.min((number + 1) * PANEL)).map(&row).collect();
            put(panel, &rows);
        }
        panels
    }

    fn of_columns<'a>(out: usize, inner: usize, column: impl Fn(usize) -> &'a [f32]) -> Self {
        let mut panels = Self::empty(out, inner);
        for k in 0..inner {
            for (panel, values) in panels.values.chunks_exact_mut(inner * LINES).zip(column(k).chunks(PANEL)) {
                for (line, values) in panel[k * LINES..].iter_mut().zip(values.chunks(WIDTH)) {
                    line.0[..values.len()].copy_from_slice(values);
                }
            }
        }
        panels
    }

    fn panel(&self, number: usize, inner: usize) -> &[Line] {
        &self.values[number * self.inner * LINES..][..self.inner * LINES][inner * LINES..]
    }

    fn rows(x: &[f32], stride: usize, [tokens, inner]: [usize; 2]) -> Rows<'_> {
        Rows { x, stride, tokens, inner }
    }

    fn padded(rows: &Rows<'_>) -> usize {
        rows.tokens
    }

    fn tokens(rows: &Rows<'_>) -> usize {
        rows.tokens
    }

    fn whole(rows: &Rows<'_>, panel: &[Line], to: &mut [MaybeUninit<f32>], stride: usize) {
        #[cfg(target_arch = "x86_64")]
        {
            assert!(is_there(), "products by AVX-512 on a processor that has none");
            // SAFETY: the processor has the instructions.
            #[allow(unsafe_code)]
            unsafe {
                kernel::times(rows, panel, to, stride);
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = (rows, panel, to, stride);
            unreachable!("products by AVX-512 on a processor that has none");
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod kernel {
    use std::{
        arch::x86_64::{
            _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
        },
        array,
        mem::MaybeUninit,
    };

    use super::{
        super::panels::{AHEAD, ask_ahead, ask_for},
        LINES, Line, PANEL, Rows, WIDTH,
    };

    /// Tokens whose sums stand in registers: 6 × 4 of the 32, beside 4 of the panel and one of the tokens.
    const TOKENS: usize = 6;
    /// Inner values of one block at most: its part of a panel is 192 KB, which stays in the second-level cache. Sums of blocks are
    /// more exact, too, than one sum of all.
    const BLOCK: usize = 768;

    /// The product of rows with the first of a panel's rows, into rows that are `stride` apart; writes 64 values of each.
    #[allow(unsafe_code)]
    #[target_feature(enable = "avx512f")]
    pub fn times(rows: &Rows, panel: &[Line], product: &mut [MaybeUninit<f32>], stride: usize) {
        let Rows { x, stride: apart, tokens, inner } = *rows;
        for start in (0..inner).step_by(BLOCK) {
            let panel = &panel[start * LINES..inner.min(start + BLOCK) * LINES];
            for first in (0..tokens).step_by(TOKENS) {
                let x = (&x[first * apart + start..], apart);
                let y = (&mut product[first * stride..], stride);
                let add = start > 0;
                match tokens - first {
                    1 => tile::<1>(x, panel, y, add),
                    2 => tile::<2>(x, panel, y, add),
                    3 => tile::<3>(x, panel, y, add),
                    4 => tile::<4>(x, panel, y, add),
                    5 => tile::<5>(x, panel, y, add),
                    _ => tile::<6>(x, panel, y, add),
                }
            }
        }
    }

    /// The product of `N` rows with one block of a panel; with `add`, added to the sums that are there.
    #[allow(unsafe_code)]
    #[target_feature(enable = "avx512f")]
    fn tile<const N: usize>(
        (x, apart): (&[f32], usize),
        panel: &[Line],
        (product, stride): (&mut [MaybeUninit<f32>], usize),
        add: bool,
    ) {
        let count = panel.len() / LINES;
        assert!(x.len() >= (N - 1) * apart + count && product.len() >= (N - 1) * stride + PANEL);
        let last = count.saturating_sub(AHEAD);
        let product = product.as_mut_ptr().cast::<f32>();
        // SAFETY: the assertion bounds every read and write, a line is sixteen values, and what is added to is there.
        unsafe {
            let mut sums = [[_mm512_setzero_ps(); LINES]; N];
            let rows: [_; N] = array::from_fn(|i| x.as_ptr().add(i * apart));
            let mut line = panel.as_ptr().cast::<f32>();
            for k in 0..count {
                if k == last {
                    ask_for::<N>(product, stride);
                }
                ask_ahead(line);
                let columns = [0, 1, 2, 3].map(|j| _mm512_loadu_ps(line.add(j * WIDTH)));
                for (row, sums) in rows.iter().zip(&mut sums) {
                    let token = _mm512_set1_ps(*row.add(k));
                    for (sum, column) in sums.iter_mut().zip(columns) {
                        *sum = _mm512_fmadd_ps(token, column, *sum);
                    }
                }
                line = line.add(PANEL);
            }
            for (i, sums) in sums.iter().enumerate() {
                for (j, sum) in sums.iter().enumerate() {
                    let place = product.add(i * stride + j * WIDTH);
                    let sum = if add { _mm512_add_ps(_mm512_loadu_ps(place), *sum) } else { *sum };
                    _mm512_storeu_ps(place, sum);
                }
            }
        }
    }
}
