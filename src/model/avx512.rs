//! Matrix products in f32 by AVX-512: both factors lie in memory as the kernel reads them.
//!
//! Each sum is made of blocks of inner values, in their order, whatever other tokens or columns there are.

use std::{mem::MaybeUninit, ops::Range, sync::OnceLock};

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::{
    attention_panels::Factors,
    matrix::{filled, with, write},
    panels::{self, PANEL, Place},
    simd::vectorised,
    sums::Hidden,
    training::FrozenNorm,
};

/// Sixteen values; a cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub [f32; WIDTH]);

const WIDTH: usize = 16;
/// Columns of a weight's panel, in lines.
const LINES: usize = 3;
/// Tokens whose sums with these columns stand in registers: 9 × 3 of the 32, beside 3 of the panel and one of the tokens. Of shapes that
/// fit, this one reads least from the second-level cache.
const TOKENS: usize = 9;
/// Columns of a panel in attention, in lines: 64, as many as a head often has.
const WIDE: usize = PANEL / WIDTH;
/// Queries whose sums with these columns stand in registers.
const FEW: usize = 6;
/// Inner values of a token that lie together.
const STEPS: usize = Hidden::TOGETHER;

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

/// Values `[out, in]`, cut into panels of `L` lines of output columns, each stored as `[in, 16 · L]`; what is missing to whole panels
/// is zero.
struct Cut<const L: usize> {
    values: Vec<Line>,
    out: usize,
    inner: usize,
}

impl<const L: usize> Cut<L> {
    const COLUMNS: usize = L * WIDTH;

    fn empty(out: usize, inner: usize) -> Self {
        Self { values: vec![Line([0.0; WIDTH]); out.div_ceil(Self::COLUMNS) * inner * L], out, inner }
    }

    /// A panel and those that lie behind it.
    fn from(&self, number: usize) -> &[Line] {
        &self.values[number * self.inner * L..]
    }
}

/// Puts the weights of a panel's output columns into their places. Sixteen columns are read together: what is written is whole lines
/// then, and not single values of each.
fn put<const L: usize>(panel: &mut [Line], rows: &[&[f32]]) {
    for (i, rows) in rows.chunks(WIDTH).enumerate() {
        for (k, line) in panel[i..].iter_mut().step_by(L).enumerate() {
            for (value, row) in line.0.iter_mut().zip(rows) {
                *value = row[k];
            }
        }
    }
}

/// A weight `[out, in]` in f32, in panels of 48 output columns.
pub struct Panels(Cut<LINES>);

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
        let mut cut = Cut::<LINES>::empty(out, inner);
        let rows = weight.par_chunks(Cut::<LINES>::COLUMNS * inner);
        cut.values.par_chunks_mut(inner * LINES).zip(rows).for_each(|(panel, rows)| {
            let rows: Vec<_> = rows.chunks_exact(inner).collect();
            put::<LINES>(panel, &rows);
        });
        Self(cut)
    }

    /// `x Wᵀ [tokens, out]` of `x [tokens, in]`.
    ///
    /// # Panics
    /// When `x` is not whole rows, or the processor [lacks the instructions](is_there).
    #[must_use]
    pub fn product(&self, x: &[f32]) -> Vec<f32> {
        assert_eq!(x.len() % self.0.inner, 0, "rows of {} values", self.0.inner);
        panels::product(self, x)
    }
}

/// Tokens in tiles `[in / 8, 9, 8]`, of which the [last two](tiles) may hold fewer; what is missing to eight inner values is not read.
pub struct Tiles {
    values: Vec<f32>,
    tokens: usize,
    inner: usize,
}

impl Tiles {
    /// Of rows `[tokens, in]`, behind a norm if there is one: nine rows are in the first-level cache when they are put into their tile.
    fn of(x: &[f32], inner: usize, norm: Option<&FrozenNorm>) -> Self {
        let (tokens, padded) = (x.len() / inner, inner.next_multiple_of(STEPS));
        let fill = |to: &mut [MaybeUninit<f32>]| {
            for Range { start, end } in tiles(tokens) {
                let rows = panels::behind(norm, &x[start * inner..end * inner]);
                put_tile(&rows, inner, &mut to[start * padded..end * padded]);
            }
        };
        // SAFETY: every value of every tile is written.
        #[allow(unsafe_code)]
        Self { values: unsafe { filled(tokens * padded, fill) }, tokens, inner }
    }

    fn tokens(&self) -> Tokens<'_> {
        let &Self { ref values, tokens, inner } = self;
        Tokens { values, apart: inner.next_multiple_of(STEPS), count: tokens, inner }
    }
}

/// How many of the tokens that are left the next tile takes. What is left for the last two they share: each has to read the panel,
/// however few its tokens are.
const fn tile_of(left: usize, most: usize) -> usize {
    if left <= most {
        left
    } else if left < 2 * most {
        left.div_ceil(2)
    } else {
        most
    }
}

/// Tiles of nine tokens.
fn tiles(tokens: usize) -> impl Iterator<Item = Range<usize>> {
    let mut end = 0;
    std::iter::from_fn(move || {
        let start = end;
        end += tile_of(tokens - start, TOKENS);
        (end > start).then_some(start..end)
    })
}

vectorised! {
    /// Puts rows `[.., in]` into their [tile](Tiles).
    fn put_tile(rows: &[f32], inner: usize, to: &mut [MaybeUninit<f32>]) {
        let count = rows.len() / inner;
        for (i, to) in to.chunks_exact_mut(count * STEPS).enumerate() {
            for (row, to) in rows.chunks_exact(inner).zip(to.as_chunks_mut::<STEPS>().0) {
                let row = &row[i * STEPS..];
                if let Some(values) = row.first_chunk::<STEPS>() {
                    *to = values.map(MaybeUninit::new);
                } else {
                    to.fill(MaybeUninit::new(0.0));
                    write(row, to);
                }
            }
        }
    }
}

impl panels::Panels for Panels {
    type Rows<'x> = Tiles;

    fn shape(&self) -> [usize; 2] {
        [self.0.out, self.0.inner]
    }

    fn columns(&self) -> Vec<Range<usize>> {
        panels::of_equal_width(self.0.out, Cut::<LINES>::COLUMNS)
    }

    fn rows(&self, x: &[f32], norm: Option<&FrozenNorm>) -> Tiles {
        Tiles::of(x, self.0.inner, norm)
    }

    #[allow(unsafe_code)]
    unsafe fn made(&self, tokens: usize, make: impl FnOnce(Hidden<'_>)) -> Tiles {
        let inner = self.0.inner;
        let padded = inner.next_multiple_of(STEPS);
        let rows = tiles(tokens)
            .flat_map(|tile| (0..tile.len()).map(move |i| (tile.start * padded + i * STEPS, STEPS * tile.len())));
        let rows: Vec<_> = rows.collect();
        let fill = |to: &mut [MaybeUninit<f32>]| {
            if padded > inner {
                to.fill(MaybeUninit::new(0.0));
            }
            make(Hidden { values: to, rows: &rows });
        };
        // SAFETY: as the caller promises; the padding is zero.
        Tiles { values: unsafe { filled(tokens * padded, fill) }, tokens, inner }
    }

    fn multiply(&self, rows: &Tiles, columns: Range<usize>, place: Place<'_>) {
        const COLUMNS: usize = Cut::<LINES>::COLUMNS;
        // With the panels behind it: the next one is asked for meanwhile.
        let panels = self.0.from(columns.start / COLUMNS);
        let times = times::<TOKENS, LINES, true>;
        if columns.len() == COLUMNS {
            return times(rows.tokens(), panels, place);
        }
        let whole = |values: &mut [MaybeUninit<f32>]| {
            times(rows.tokens(), panels, Place { values, stride: COLUMNS, onto: None });
        };
        // SAFETY: the product writes all rows.
        #[allow(unsafe_code)]
        let products = unsafe { filled(rows.tokens * COLUMNS, whole) };
        place.take(&products, COLUMNS, columns.len());
    }
}

/// Tokens `[tokens, in]`: row by row, which are `apart` from one another, or in [tiles](Tiles), with the padding `apart` values a token.
#[derive(Clone, Copy)]
pub struct Tokens<'x> {
    values: &'x [f32],
    apart: usize,
    count: usize,
    inner: usize,
}

/// The product of tokens, `N` of them at a time, with the first of the panels of `L` lines; writes all columns of the panel.
fn times<const N: usize, const L: usize, const TILED: bool>(x: Tokens, panels: &[Line], place: Place<'_>) {
    #[cfg(target_arch = "x86_64")]
    {
        assert!(is_there(), "products by AVX-512 on a processor that has none");
        // SAFETY: the processor has the instructions.
        #[allow(unsafe_code)]
        unsafe {
            if kernel::asks() {
                kernel::times::<N, L, TILED, true>(x, panels, place);
            } else {
                kernel::times::<N, L, TILED, false>(x, panels, place);
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (x.values, x.apart, x.inner, panels, place.values);
        unreachable!("products by AVX-512 on a processor that has none");
    }
}

/// One factor of attention, in panels of 64 columns; the other's rows are read where they are.
pub struct Factor(Cut<WIDE>);

impl Factors for Factor {
    const NAME: &'static str = "causal-attention-avx512";
    /// Two tiles of the kernel.
    const QUERIES: usize = 2 * FEW;
    type Line = Line;
    type Rows<'x> = Tokens<'x>;

    fn of_rows<'a>(out: usize, inner: usize, row: impl Fn(usize) -> &'a [f32]) -> Self {
        let mut cut = Cut::empty(out, inner);
        for (number, panel) in cut.values.chunks_exact_mut(inner * WIDE).enumerate() {
            let rows: Vec<_> = (number * PANEL..out.min((number + 1) * PANEL)).map(&row).collect();
            put::<WIDE>(panel, &rows);
        }
        Self(cut)
    }

    fn of_columns<'a>(out: usize, inner: usize, column: impl Fn(usize) -> &'a [f32]) -> Self {
        let mut cut = Cut::empty(out, inner);
        for k in 0..inner {
            for (panel, values) in cut.values.chunks_exact_mut(inner * WIDE).zip(column(k).chunks(PANEL)) {
                for (line, values) in panel[k * WIDE..].iter_mut().zip(values.chunks(WIDTH)) {
                    line.0[..values.len()].copy_from_slice(values);
                }
            }
        }
        Self(cut)
    }

    fn panel(&self, number: usize, inner: usize) -> &[Line] {
        &self.0.from(number)[..self.0.inner * WIDE][inner * WIDE..]
    }

    fn rows(values: &[f32], apart: usize, [count, inner]: [usize; 2]) -> Tokens<'_> {
        Tokens { values, apart, count, inner }
    }

    fn padded(rows: &Tokens<'_>) -> usize {
        rows.count
    }

    fn tokens(rows: &Tokens<'_>) -> usize {
        rows.count
    }

    fn whole(rows: &Tokens<'_>, panel: &[Line], to: &mut [MaybeUninit<f32>], stride: usize) {
        times::<FEW, WIDE, false>(*rows, panel, Place { values: to, stride, onto: None });
    }
}

#[cfg(target_arch = "x86_64")]
mod kernel {
    use std::{
        arch::x86_64::{
            __cpuid, _MM_HINT_T0, _MM_HINT_T1, _mm_prefetch, _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
            _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
        },
        array,
        mem::MaybeUninit,
        sync::OnceLock,
    };

    use super::{
        super::panels::{AHEAD, Place, ask_for},
        Line, STEPS, Tokens, WIDTH, tile_of,
    };

    /// Inner values of one block at most: its part of a weight's panel is 288 KB, which stays in the second-level cache. Sums of blocks
    /// are more exact, too, than one sum of all.
    const BLOCK: usize = 1536;

    /// Eights of inner values that tokens are asked for ahead: hidden units are more than the second-level cache holds.
    const FAR: usize = 4;

    /// Whether a product asks for memory before it reads it. Intel's cores wait for every panel's first tile, as long as three more take,
    /// for every tile's tokens, and for the second-level cache. AMD's reach 97 % of what their units can without asking, and a request
    /// for memory costs them what it gains.
    pub fn asks() -> bool {
        static ASKS: OnceLock<bool> = OnceLock::new();
        #[allow(unsafe_code, unused_unsafe)]
        *ASKS.get_or_init(|| {
            // SAFETY: every x86-64 processor has cpuid.
            let maker = unsafe { __cpuid(0) };
            [maker.ebx, maker.edx, maker.ecx].map(u32::to_le_bytes).as_flattened() == b"GenuineIntel"
        })
    }

    /// As [its caller](super::times); with `ASK`, memory is asked for before it is read.
    #[allow(unsafe_code)]
    #[target_feature(enable = "avx512f")]
    pub fn times<const N: usize, const L: usize, const TILED: bool, const ASK: bool>(
        x: Tokens,
        panels: &[Line],
        place: Place<'_>,
    ) {
        let Place { values: product, stride, onto } = place;
        let Tokens { values, apart, count: tokens, inner } = x;
        let (panel, behind) = panels.split_at(inner * L);
        // Of the next panel, at every eighth step of every tile.
        let lines = if behind.is_empty() { 0 } else { (STEPS * L).div_ceil(tokens.div_ceil(N)).min(2) };
        let mut next = behind.as_ptr();
        let block = inner.div_ceil(inner.div_ceil(BLOCK)).next_multiple_of(STEPS);
        for start in (0..inner).step_by(block) {
            let panel = &panel[start * L..inner.min(start + block) * L];
            let mut first = 0;
            while first < tokens {
                let count = tile_of(tokens - first, N);
                let from = first * apart + if TILED { start * count } else { start };
                let (x, y) = ((&values[from..], apart), (&mut product[first * stride..], stride));
                // What there is already is added behind the last block, in the order in which others add it.
                let onto = onto.filter(|_| start + block >= inner).map(|onto| &onto[first * stride..]);
                let (ask, add) = ((next, lines), (start > 0, onto));
                next = next.wrapping_add(panel.len() / L / STEPS * lines);
                first += count;
                match count {
                    1 => tile::<1, L, TILED, ASK>(x, panel, ask, y, add),
                    2 => tile::<2, L, TILED, ASK>(x, panel, ask, y, add),
                    3 => tile::<3, L, TILED, ASK>(x, panel, ask, y, add),
                    4 => tile::<4, L, TILED, ASK>(x, panel, ask, y, add),
                    5 => tile::<5, L, TILED, ASK>(x, panel, ask, y, add),
                    6 => tile::<6, L, TILED, ASK>(x, panel, ask, y, add),
                    7 => tile::<7, L, TILED, ASK>(x, panel, ask, y, add),
                    8 => tile::<8, L, TILED, ASK>(x, panel, ask, y, add),
                    _ => tile::<N, L, TILED, ASK>(x, panel, ask, y, add),
                }
            }
        }
    }

    /// The product of `N` tokens with one block of a panel; with `add`, added to the sums that are there, and with `onto`, to those rows.
    /// On the way, so many lines of the next panel are asked for every eight steps.
    #[allow(unsafe_code)]
    #[target_feature(enable = "avx512f")]
    fn tile<const N: usize, const L: usize, const TILED: bool, const ASK: bool>(
        (x, apart): (&[f32], usize),
        panel: &[Line],
        (mut next, lines): (*const Line, usize),
        (product, stride): (&mut [MaybeUninit<f32>], usize),
        (add, onto): (bool, Option<&[f32]>),
    ) {
        let count = panel.len() / L;
        let read = if TILED { N * count.next_multiple_of(STEPS) } else { (N - 1) * apart + count };
        let written = (N - 1) * stride + L * WIDTH;
        assert!(x.len() >= read && product.len() >= written && onto.is_none_or(|onto| onto.len() >= written));
        // Tokens of a tile are read from where its first is.
        let (apart, eight) = if TILED { (0, N * STEPS) } else { (apart, STEPS) };
        let whole = count / STEPS;
        let last = whole.saturating_sub(AHEAD / STEPS);
        let product = product.as_mut_ptr().cast::<f32>();
        // SAFETY: the assertion bounds every read and write, a line is sixteen values, and what is added to is there. Asking for memory
        // reads none, whatever the address.
        unsafe {
            let mut sums = [[_mm512_setzero_ps(); L]; N];
            let mut rows: [_; N] = array::from_fn(|i| x.as_ptr().add(i * apart));
            let mut line = panel.as_ptr();
            let mut step = |rows: &[*const f32; N], line: *const Line, k: usize| {
                if ASK {
                    // The row that is multiplied eight steps behind this one.
                    for j in 0..L {
                        _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(STEPS * L + j).cast());
                    }
                }
                let columns: [_; L] = array::from_fn(|j| _mm512_loadu_ps(line.add(j).cast()));
                for (i, sums) in sums.iter_mut().enumerate() {
                    let row = if TILED { rows[0].add(i * STEPS) } else { rows[i] };
                    let token = _mm512_set1_ps(*row.add(k));
                    for (sum, column) in sums.iter_mut().zip(columns) {
                        *sum = _mm512_fmadd_ps(token, column, *sum);
                    }
                }
            };
            for k in 0..whole {
                if ASK && TILED {
                    for i in 0..eight.div_ceil(WIDTH) {
                        _mm_prefetch::<_MM_HINT_T0>(rows[0].wrapping_add(FAR * eight + i * WIDTH).cast());
                    }
                    for i in 0..lines {
                        _mm_prefetch::<_MM_HINT_T1>(next.wrapping_add(i).cast());
                    }
                    next = next.wrapping_add(lines);
                }
                // Row by row: a core waits for no more than a dozen lines at once.
                let row = k.wrapping_sub(last);
                if row < N {
                    ask_for::<1, L>(product.wrapping_add(row * stride), stride);
                    if let Some(onto) = onto {
                        ask_for::<1, L>(onto.as_ptr().wrapping_add(row * stride), stride);
                    }
                }
                for k in 0..STEPS {
                    step(&rows, line.add(k * L), k);
                }
                rows = rows.map(|row| row.add(eight));
                line = line.add(STEPS * L);
            }
            for k in 0..count % STEPS {
                step(&rows, line.add(k * L), k);
            }
            for (i, sums) in sums.iter().enumerate() {
                for (j, &sum) in sums.iter().enumerate() {
                    let at = i * stride + j * WIDTH;
                    let sum = if add { _mm512_add_ps(_mm512_loadu_ps(product.add(at)), sum) } else { sum };
                    let sum = match onto {
                        Some(onto) => _mm512_add_ps(_mm512_loadu_ps(onto.as_ptr().add(at)), sum),
                        None => sum,
                    };
                    _mm512_storeu_ps(product.add(at), sum);
                }
            }
        }
    }
}
