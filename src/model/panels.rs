//! Products with weights that are cut into panels of output columns, shared out among the threads.
//!
//! A thread multiplies a few tokens with all panels: what it reads of their activations stays in its caches, and the threads meet
//! once, not after every block of columns, which costs a fifth of the time at these sizes.

use std::{
    array,
    borrow::Cow,
    mem::{MaybeUninit, discriminant},
    ops::Range,
};

use candle_core::{DType, Result, Tensor};
use rayon::prelude::*;

use super::{
    activation::Activation,
    avx512, bf16,
    matrix::{filled, overwritten, write},
    observer::{Run, Tally},
    single,
    sums::{Hidden, Sums},
    training::FrozenNorm,
};

/// Output columns of a panel of our own kernels.
pub(super) const PANEL: usize = 64;

/// Steps before a tile's last at which the places of its sums are asked for: they would else come from memory while the next tile's
/// sums wait. What is read in so many steps, 24 KB, does not drive them out of the first-level cache.
#[cfg(target_arch = "x86_64")]
pub(super) const AHEAD: usize = 96;

/// Asks for the places of `N` rows of a panel's sums, `L` lines each.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn ask_for<const N: usize, const L: usize>(sums: *const f32, stride: usize) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

    for row in 0..N {
        for line in (0..16 * L).step_by(16) {
            // SAFETY: asking for memory reads none, whatever the address.
            #[allow(unsafe_code)]
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(sums.wrapping_add(row * stride + line).cast());
            }
        }
    }
}

/// The columns of panels of `width`, the last of which need not be whole.
pub(super) fn of_equal_width(out: usize, width: usize) -> Vec<Range<usize>> {
    (0..out).step_by(width).map(|start| start..out.min(start + width)).collect()
}

/// A weight `[out, in]` cut into panels of output columns, each laid out as its products read it.
pub(super) trait Panels: Sync {
    /// A few rows of activations as the products read them.
    type Rows<'x>: Sync;

    /// Output columns and inner values.
    fn shape(&self) -> [usize; 2];

    /// The columns of every panel, one panel after the other.
    fn columns(&self) -> Vec<Range<usize>>;

    /// Tokens of one task of a whole network at most: the more, the seldomer a panel is read, the fewer, the more of their hidden
    /// units stay in the second-level cache.
    fn most(&self) -> usize {
        256
    }

    /// Rows `[tokens, in]`, behind a norm if there is one.
    fn rows<'x>(&self, x: &'x [f32], norm: Option<&FrozenNorm>) -> Self::Rows<'x>;

    /// Rows `[tokens, in]` of hidden units that `make` puts into their places.
    ///
    /// # Safety
    /// It puts all of them there.
    #[allow(unsafe_code)]
    unsafe fn made(&self, tokens: usize, make: impl FnOnce(Hidden<'_>)) -> Self::Rows<'static>;

    /// The products of rows with the panel of these columns; fills as many columns of each row of the place.
    fn multiply(&self, rows: &Self::Rows<'_>, columns: Range<usize>, place: Place<'_>);
}

/// Where products go: rows that are `stride` apart.
pub(super) struct Place<'a> {
    pub values: &'a mut [MaybeUninit<f32>],
    pub stride: usize,
    /// Rows as far apart, to which the products are added.
    pub onto: Option<&'a [f32]>,
}

impl Place<'_> {
    /// Products `[tokens, width]` whose first columns are what is wanted.
    pub fn take(self, products: &[f32], width: usize, columns: usize) {
        for (to, product) in self.values.chunks_mut(self.stride).zip(products.chunks_exact(width)) {
            write(&product[..columns], &mut to[..columns]);
        }
        // SAFETY: these columns are written.
        #[allow(unsafe_code)]
        unsafe {
            add(self.onto, self.values, self.stride, columns);
        }
    }
}

/// Adds what is there already to the first columns of products, all in rows that are `stride` apart.
///
/// # Safety
/// These columns of the products have been written.
#[allow(unsafe_code)]
pub(super) unsafe fn add(onto: Option<&[f32]>, products: &mut [MaybeUninit<f32>], stride: usize, columns: usize) {
    let Some(onto) = onto else { return };
    for (to, x) in products.chunks_mut(stride).zip(onto.chunks(stride)) {
        for (to, x) in to[..columns].iter_mut().zip(x) {
            // SAFETY: as the caller promises.
            unsafe { *to.assume_init_mut() += x };
        }
    }
}

/// A weight in one of the layouts that there are.
pub(super) enum Laid {
    Single(single::Panels),
    Avx512(avx512::Panels),
    Halves(bf16::Panels),
}

/// Rows for the weights of one layout.
pub(super) enum LaidRows<'x> {
    Single(Cow<'x, [f32]>),
    Avx512(avx512::Tiles),
    Halves(bf16::Rows),
}

impl Laid {
    /// Of a tensor `[out, in]` on the CPU, if it is in f32 or bf16.
    pub fn new(weight: &Tensor) -> Result<Option<Self>> {
        Ok(match weight.dtype() {
            DType::F32 if avx512::is_there() => Some(Self::Avx512(avx512::Panels::new(weight)?)),
            DType::F32 => Some(Self::Single(single::Panels::new(weight)?)),
            DType::BF16 => Some(Self::Halves(bf16::Panels::new(weight)?)),
            _ => None,
        })
    }

    /// Whether weights can be multiplied together with `x [.., in]`, and had better be.
    pub fn fit(weights: &[&Self], x: &Tensor) -> bool {
        let inner = |weight: &&Self| x.dims().ends_with(&[weight.shape()[1]]);
        Self::alike(weights) && weights.iter().all(inner) && !few(x.elem_count() / weights[0].shape()[1])
    }

    /// Whether weights lie in one layout.
    pub fn alike(weights: &[&Self]) -> bool {
        weights.windows(2).all(|pair| discriminant(pair[0]) == discriminant(pair[1]))
    }
}

impl Panels for Laid {
    type Rows<'x> = LaidRows<'x>;

    fn shape(&self) -> [usize; 2] {
        match self {
            Self::Single(weight) => weight.shape(),
            Self::Avx512(weight) => weight.shape(),
            Self::Halves(weight) => weight.shape(),
        }
    }

    fn columns(&self) -> Vec<Range<usize>> {
        match self {
            Self::Single(weight) => weight.columns(),
            Self::Avx512(weight) => weight.columns(),
            Self::Halves(weight) => weight.columns(),
        }
    }

    fn most(&self) -> usize {
        match self {
            Self::Single(weight) => weight.most(),
            Self::Avx512(weight) => weight.most(),
            Self::Halves(weight) => weight.most(),
        }
    }

    fn rows<'x>(&self, x: &'x [f32], norm: Option<&FrozenNorm>) -> LaidRows<'x> {
        match self {
            Self::Single(weight) => LaidRows::Single(weight.rows(x, norm)),
            Self::Avx512(weight) => LaidRows::Avx512(weight.rows(x, norm)),
            Self::Halves(weight) => LaidRows::Halves(Panels::rows(weight, x, norm)),
        }
    }

    #[allow(unsafe_code)]
    unsafe fn made(&self, tokens: usize, make: impl FnOnce(Hidden<'_>)) -> LaidRows<'static> {
        // SAFETY: as the caller promises.
        unsafe {
            match self {
                Self::Single(weight) => LaidRows::Single(weight.made(tokens, make)),
                Self::Avx512(weight) => LaidRows::Avx512(weight.made(tokens, make)),
                Self::Halves(weight) => LaidRows::Halves(weight.made(tokens, make)),
            }
        }
    }

    fn multiply(&self, rows: &LaidRows<'_>, columns: Range<usize>, place: Place<'_>) {
        match (self, rows) {
            (Self::Single(weight), LaidRows::Single(rows)) => weight.multiply(rows, columns, place),
            (Self::Avx512(weight), LaidRows::Avx512(rows)) => weight.multiply(rows, columns, place),
            (Self::Halves(weight), LaidRows::Halves(rows)) => weight.multiply(rows, columns, place),
            _ => unreachable!("rows are made for weights of one layout"),
        }
    }
}

/// Tokens of the next task where so many are left: enough that a panel is read from memory seldom, and ever fewer towards the end,
/// so that the threads finish together; a thread alone has nobody to wait for. Whole tiles of AMX, whose rows would have to be
/// filled up.
fn tokens_of_task(left: usize, most: usize, threads: usize) -> usize {
    if threads == 1 { most } else { left.div_ceil(2 * threads).next_multiple_of(16).clamp(32, most) }
}

/// Does tasks by whichever thread is free, in their order.
pub(super) fn in_order<T: Send>(tasks: Vec<T>, each: impl Fn(T) + Send + Sync) {
    tasks.into_iter().par_bridge().for_each(each);
}

/// Whether these are so few tokens that the threads had better share out the panels.
pub(super) fn few(tokens: usize) -> bool {
    tokens < 64 * rayon::current_num_threads()
}

/// What comes before and behind the products of a few tokens, while these are in the cache.
#[derive(Clone, Copy, Default)]
pub(super) struct Around<'a> {
    /// The norm of what is multiplied.
    pub norm: Option<&'a FrozenNorm>,
    /// `[tokens, out]`, to which the product is added.
    pub residual: Option<&'a [f32]>,
}

/// Rows behind a norm that may not be there.
pub(super) fn behind<'x>(norm: Option<&FrozenNorm>, x: &'x [f32]) -> Cow<'x, [f32]> {
    norm.map_or(Cow::Borrowed(x), |norm| Cow::Owned(norm.rows(x)))
}

/// Hidden units `[tokens, neurons]` row by row, which `make` puts there.
///
/// # Safety
/// It puts all of them there.
#[allow(unsafe_code)]
pub(super) unsafe fn row_by_row([tokens, neurons]: [usize; 2], make: impl FnOnce(Hidden<'_>)) -> Vec<f32> {
    let rows: Vec<_> = (0..tokens).map(|token| (token * neurons, Hidden::TOGETHER)).collect();
    // SAFETY: as the caller promises.
    unsafe { filled(tokens * neurons, |values| make(Hidden { values, rows: &rows })) }
}

/// `x Wᵀ [tokens, out]` of `x [tokens, in]`.
pub(super) fn product<P: Panels>(weight: &P, x: &[f32]) -> Vec<f32> {
    let [_, inner] = weight.shape();
    if few(x.len() / inner) {
        return by_panels(weight, x);
    }
    let [y] = together([weight], x, Around::default());
    y
}

/// The products of the same `x [tokens, in]` with several weights: every thread some tokens, and all panels. A residual is for all.
pub(super) fn together<P: Panels, const N: usize>(weights: [&P; N], x: &[f32], around: Around) -> [Vec<f32>; N] {
    let [_, inner] = weights[0].shape();
    assert!(weights.iter().all(|weight| weight.shape()[1] == inner), "the weights are for the same input");
    let (tokens, outs) = (x.len() / inner, weights.map(|weight| weight.shape()[0]));
    let mut products = outs.map(|out| Vec::with_capacity(tokens * out));
    let mut rest: [&mut [MaybeUninit<f32>]; N] = products.each_mut().map(|y: &mut Vec<f32>| y.spare_capacity_mut());
    let (mut left, mut tasks) = (x, Vec::new());
    assert!(around.residual.is_none_or(|residual| outs.iter().all(|out| residual.len() == tokens * out)));
    while !left.is_empty() {
        let there = left.len() / inner;
        let (first, tokens) = (tokens - there, tokens_of_task(there, 256, rayon::current_num_threads()).min(there));
        let x = left.split_off(..tokens * inner).expect("no more than are there");
        let to: [_; N] =
            array::from_fn(|i| rest[i].split_off_mut(..tokens * outs[i]).expect("there is room for all tokens"));
        tasks.push((first, x, to));
    }
    in_order(tasks, |(first, x, mut to)| {
        let rows = weights[0].rows(x, around.norm);
        for (weight, to) in weights.into_iter().zip(&mut to) {
            each_panel(weight, &rows, around.residual.map(|x| &x[first * weight.shape()[0]..]), to);
        }
    });
    for (y, out) in products.iter_mut().zip(outs) {
        // SAFETY: the tasks are all tokens, and each has filled all columns of its own.
        #[allow(unsafe_code)]
        unsafe {
            y.set_len(tokens * out);
        }
    }
    products
}

/// Every thread some panels, and all tokens: for few tokens.
fn by_panels<P: Panels>(weight: &P, x: &[f32]) -> Vec<f32> {
    let ([out, inner], rows) = (weight.shape(), weight.rows(x, None));
    let tokens = x.len() / inner;
    let products: Vec<_> = weight
        .columns()
        .into_par_iter()
        .map(|columns| {
            let width = columns.len();
            // SAFETY: the product has `tokens` rows of `width` values.
            #[allow(unsafe_code)]
            let product = unsafe {
                filled(tokens * width, |values| {
                    weight.multiply(&rows, columns.clone(), Place { values, stride: width, onto: None });
                })
            };
            (columns, product)
        })
        .collect();
    let fill = |y: &mut [MaybeUninit<f32>]| {
        for (row, y) in y.chunks_exact_mut(out).enumerate() {
            for (columns, product) in &products {
                write(&product[row * columns.len()..][..columns.len()], &mut y[columns.clone()]);
            }
        }
    };
    // SAFETY: the panels are all columns.
    #[allow(unsafe_code)]
    unsafe {
        filled(tokens * out, fill)
    }
}

/// `(act(x Gᵀ) · x Uᵀ) Dᵀ [tokens, out]` of `x [tokens, in]`, whose tokens are the tally's, and the sums of each of its runs over
/// the activations. Of gates and the up projection's values, no more than a panel of a few tokens is ever there, and of hidden units no
/// more than a few tokens'.
pub(super) fn gated<P: Panels>(
    [gate, up, down]: [&P; 3],
    x: &[f32],
    act: Activation,
    tally: &Tally,
    around: Around,
) -> (Vec<f32>, Vec<(usize, Sums)>) {
    let ([neurons, inner], [out, _]) = (gate.shape(), down.shape());
    assert!(up.shape() == gate.shape() && down.shape()[1] == neurons, "the projections are of one network");
    let tokens = x.len() / inner;
    assert!(around.residual.is_none_or(|residual| residual.len() == tokens * out));
    let mut y = Vec::with_capacity(tokens * out);
    let (mut rest, mut x, mut first) = (&mut y.spare_capacity_mut()[..tokens * out], x, 0);
    let mut sums: Vec<_> = tasks(tally.runs(), gate.most(), tally.threads()).map(|runs| (runs, Vec::new())).collect();
    let tasks = sums.iter_mut().map(|(runs, sums)| {
        let tokens: usize = runs.iter().map(|run| run.tokens).sum();
        let own = x.split_off(..tokens * inner).zip(rest.split_off_mut(..tokens * out));
        first += tokens;
        (*runs, sums, first - tokens, own.expect("the runs are the tokens that there are"))
    });
    let tasks: Vec<_> = tasks.collect();
    assert!(rest.is_empty() && x.is_empty(), "the runs are all tokens");
    in_order(tasks, |(runs, sums, first, (x, to))| {
        let rows = gate.rows(x, around.norm);
        *sums = runs.iter().map(|run| (run.fold, Sums::empty(neurons))).collect();
        // SAFETY: the panels are all neurons, and the runs all tokens.
        #[allow(unsafe_code)]
        let h = unsafe { down.made(x.len() / inner, |h| hidden([gate, up], &rows, act, (runs, sums), h)) };
        each_panel(down, &h, around.residual.map(|x| &x[first * out..]), to);
    });
    // SAFETY: the tasks are all tokens, and each has filled all columns of its own.
    #[allow(unsafe_code)]
    unsafe {
        y.set_len(tokens * out);
    }
    (y, sums.into_iter().flat_map(|(_, sums)| sums).collect())
}

/// Hidden units of a few tokens, panel by panel, and the sums of their runs.
fn hidden<P: Panels>(
    [gate, up]: [&P; 2],
    rows: &P::Rows<'_>,
    act: Activation,
    (runs, sums): (&[Run], &mut [(usize, Sums)]),
    mut h: Hidden<'_>,
) {
    let tokens: usize = runs.iter().map(|run| run.tokens).sum();
    let (mut gates, mut ups) = (Vec::new(), Vec::new());
    for columns in gate.columns() {
        let width = columns.len();
        gates.resize(tokens * width, 0.0);
        ups.resize(tokens * width, 0.0);
        // SAFETY: products write numbers.
        #[allow(unsafe_code)]
        let (to_gates, to_ups) = unsafe { (overwritten(&mut gates), overwritten(&mut ups)) };
        for (weight, values) in [(gate, to_gates), (up, to_ups)] {
            weight.multiply(rows, columns.clone(), Place { values, stride: width, onto: None });
        }
        let mut start = 0;
        for (run, (_, sums)) in runs.iter().zip(&mut *sums) {
            let values = start * width..(start + run.tokens) * width;
            sums.add_product(act, columns.clone(), [&gates[values.clone()], &ups[values]], h.from(start));
            start += run.tokens;
        }
    }
}

/// The product of a few rows with every panel, added to theirs of a residual if there is one.
fn each_panel<P: Panels>(weight: &P, rows: &P::Rows<'_>, residual: Option<&[f32]>, to: &mut [MaybeUninit<f32>]) {
    let [out, _] = weight.shape();
    for columns in weight.columns() {
        let onto = residual.map(|x| &x[columns.start..]);
        weight.multiply(rows, columns.clone(), Place { values: &mut to[columns.start..], stride: out, onto });
    }
}

/// Runs that follow one another, as many as make up [one task](tokens_of_task).
fn tasks(runs: &[Run], most: usize, threads: usize) -> impl Iterator<Item = &[Run]> {
    let (mut rest, mut left) = (runs, runs.iter().map(|run| run.tokens).sum());
    std::iter::from_fn(move || {
        let (mut there, tokens) = (0, tokens_of_task(left, most, threads));
        let len = rest.iter().take_while(|run| {
            let room = there == 0 || there + run.tokens <= tokens;
            there += run.tokens;
            room
        });
        let own;
        (own, rest) = rest.split_at(len.count());
        left -= own.iter().map(|run| run.tokens).sum::<usize>();
        (!own.is_empty()).then_some(own)
    })
}
