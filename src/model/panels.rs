//! Products with weights that are cut into panels of output columns, shared out among the threads.
//!
//! A thread multiplies a few tokens with all panels: what it reads of their activations stays in its caches, and the threads meet
//! once, not after every block of columns, which costs a fifth of the time at these sizes.

use std::{
    array,
    mem::{MaybeUninit, discriminant},
    ops::Range,
};

use candle_core::Tensor;
use rayon::prelude::*;

use super::{
    activation::Activation,
    bf16,
    matrix::{filled, overwritten, write},
    observer::Run,
    single,
    sums::Sums,
};

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
    fn most(&self) -> usize;

    /// Rows `[tokens, in]`.
    fn rows<'x>(&self, x: &'x [f32]) -> Self::Rows<'x>;

    /// The products of rows with the panel of these columns, into rows that are `stride` apart; fills as many columns of each.
    fn multiply(&self, rows: &Self::Rows<'_>, columns: Range<usize>, to: &mut [MaybeUninit<f32>], stride: usize);
}

/// A weight in one of the layouts that there are.
pub(super) enum Laid {
    Single(single::Panels),
    Halves(bf16::Panels),
}

/// Rows for the weights of one layout.
pub(super) enum LaidRows<'x> {
    Single(&'x [f32]),
    Halves(bf16::Rows),
}

impl Laid {
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
            Self::Halves(weight) => weight.best().shape(),
        }
    }

    fn columns(&self) -> Vec<Range<usize>> {
        match self {
            Self::Single(weight) => weight.columns(),
            Self::Halves(weight) => weight.best().columns(),
        }
    }

    fn most(&self) -> usize {
        match self {
            Self::Single(weight) => weight.most(),
            Self::Halves(weight) => weight.best().most(),
        }
    }

    fn rows<'x>(&self, x: &'x [f32]) -> LaidRows<'x> {
        match self {
            Self::Single(weight) => LaidRows::Single(weight.rows(x)),
            Self::Halves(weight) => LaidRows::Halves(weight.best().rows(x)),
        }
    }

    fn multiply(&self, rows: &LaidRows<'_>, columns: Range<usize>, to: &mut [MaybeUninit<f32>], stride: usize) {
        match (self, rows) {
            (Self::Single(weight), LaidRows::Single(rows)) => weight.multiply(rows, columns, to, stride),
            (Self::Halves(weight), LaidRows::Halves(rows)) => weight.best().multiply(rows, columns, to, stride),
            _ => unreachable!("rows are made for weights of one layout"),
        }
    }
}

/// Tokens of one task: few enough that every thread has some, enough that a panel is read from memory seldom.
fn tokens_per_task(tokens: usize, most: usize) -> usize {
    tokens.div_ceil(2 * rayon::current_num_threads()).clamp(64, most)
}

/// Whether these are so few tokens that the threads had better share out the panels.
pub(super) fn few(tokens: usize) -> bool {
    tokens < 64 * rayon::current_num_threads()
}

/// `x Wᵀ [tokens, out]` of `x [tokens, in]`.
pub(super) fn product<P: Panels>(weight: &P, x: &[f32]) -> Vec<f32> {
    let [_, inner] = weight.shape();
    if few(x.len() / inner) {
        return by_panels(weight, x);
    }
    let [y] = together([weight], x);
    y
}

/// The products of the same `x [tokens, in]` with several weights: every thread some tokens, and all panels.
pub(super) fn together<P: Panels, const N: usize>(weights: [&P; N], x: &[f32]) -> [Vec<f32>; N] {
    let [_, inner] = weights[0].shape();
    assert!(weights.iter().all(|weight| weight.shape()[1] == inner), "the weights are for the same input");
    let (tokens, outs) = (x.len() / inner, weights.map(|weight| weight.shape()[0]));
    let each = tokens_per_task(tokens, 512);
    let mut products = outs.map(|out| Vec::with_capacity(tokens * out));
    let mut rest: [&mut [MaybeUninit<f32>]; N] = products.each_mut().map(|y: &mut Vec<f32>| y.spare_capacity_mut());
    let mut places = |tokens: usize| -> [_; N] {
        array::from_fn(|i| rest[i].split_off_mut(..tokens * outs[i]).expect("there is room for all tokens"))
    };
    let tasks: Vec<_> = x.chunks(each * inner).map(|x| (x, places(x.len() / inner))).collect();
    tasks.into_par_iter().with_max_len(1).for_each(|(x, mut to)| {
        let rows = weights[0].rows(x);
        for (weight, to) in weights.into_iter().zip(&mut to) {
            each_panel(weight, &rows, to);
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
    let ([out, inner], rows) = (weight.shape(), weight.rows(x));
    let tokens = x.len() / inner;
    let products: Vec<_> = weight
        .columns()
        .into_par_iter()
        .map(|columns| {
            let width = columns.len();
            // SAFETY: the product has `tokens` rows of `width` values.
            #[allow(unsafe_code)]
            let product = unsafe { filled(tokens * width, |y| weight.multiply(&rows, columns.clone(), y, width)) };
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

/// `(act(x Gᵀ) · x Uᵀ) Dᵀ [tokens, out]` of `x [tokens, in]`, whose tokens are those of the runs, and the sums of each run over the
/// activations. Of gates and the up projection's values, no more than a panel of a few tokens is ever there, and of hidden units no
/// more than a few tokens'.
pub(super) fn gated<P: Panels>(
    [gate, up, down]: [&P; 3],
    x: &[f32],
    act: Activation,
    runs: &[Run],
) -> (Vec<f32>, Vec<(usize, Sums)>) {
    let ([neurons, inner], [out, _]) = (gate.shape(), down.shape());
    assert!(up.shape() == gate.shape() && down.shape()[1] == neurons, "the projections are of one network");
    let tokens = x.len() / inner;
    let mut y = Vec::with_capacity(tokens * out);
    let (mut rest, mut x) = (&mut y.spare_capacity_mut()[..tokens * out], x);
    let tasks: Vec<_> = tasks(runs, tokens_per_task(tokens, gate.most()))
        .map(|runs| {
            let tokens: usize = runs.iter().map(|run| run.tokens).sum();
            let own = x.split_off(..tokens * inner).zip(rest.split_off_mut(..tokens * out));
            let (x, to) = own.expect("the runs are the tokens that there are");
            (runs, x, to)
        })
        .collect();
    assert!(rest.is_empty() && x.is_empty(), "the runs are all tokens");
    let sums: Vec<Vec<_>> = tasks
        .into_par_iter()
        .with_max_len(1)
        .map(|(runs, x, to)| {
            let mut sums: Vec<_> = runs.iter().map(|run| (run.fold, Sums::empty(neurons))).collect();
            // SAFETY: the panels are all neurons, and the runs all tokens.
            #[allow(unsafe_code)]
            let h = unsafe { filled(x.len() / inner * neurons, |h| hidden([gate, up], x, act, (runs, &mut sums), h)) };
            each_panel(down, &down.rows(&h), to);
            sums
        })
        .collect();
    // SAFETY: the tasks are all tokens, and each has filled all columns of its own.
    #[allow(unsafe_code)]
    unsafe {
        y.set_len(tokens * out);
    }
    (y, sums.into_iter().flatten().collect())
}

/// Hidden units `h [tokens, neurons]` of a few tokens, panel by panel, and the sums of their runs.
fn hidden<P: Panels>(
    [gate, up]: [&P; 2],
    x: &[f32],
    act: Activation,
    (runs, sums): (&[Run], &mut [(usize, Sums)]),
    h: &mut [MaybeUninit<f32>],
) {
    let [neurons, inner] = gate.shape();
    let (rows, tokens) = (gate.rows(x), x.len() / inner);
    let (mut gates, mut ups) = (Vec::new(), Vec::new());
    for columns in gate.columns() {
        let width = columns.len();
        gates.resize(tokens * width, 0.0);
        ups.resize(tokens * width, 0.0);
        // SAFETY: products write numbers.
        #[allow(unsafe_code)]
        let (to_gates, to_ups) = unsafe { (overwritten(&mut gates), overwritten(&mut ups)) };
        gate.multiply(&rows, columns.clone(), to_gates, width);
        up.multiply(&rows, columns.clone(), to_ups, width);
        let mut start = 0;
        for (run, (_, sums)) in runs.iter().zip(&mut *sums) {
            let values = start * width..(start + run.tokens) * width;
            let to = &mut h[start * neurons..(start + run.tokens) * neurons];
            sums.add_product(act, columns.clone(), [&gates[values.clone()], &ups[values]], to);
            start += run.tokens;
        }
    }
}

/// The product of a few rows with every panel.
fn each_panel<P: Panels>(weight: &P, rows: &P::Rows<'_>, to: &mut [MaybeUninit<f32>]) {
    let [out, _] = weight.shape();
    for columns in weight.columns() {
        weight.multiply(rows, columns.clone(), &mut to[columns.start..], out);
    }
}

/// Runs that follow one another, of about so many tokens together.
fn tasks(runs: &[Run], tokens: usize) -> impl Iterator<Item = &[Run]> {
    let mut rest = runs;
    std::iter::from_fn(move || {
        let mut there = 0;
        let len = rest.iter().take_while(|run| {
            let room = there == 0 || there + run.tokens <= tokens;
            there += run.tokens;
            room
        });
        let own;
        (own, rest) = rest.split_at(len.count());
        (!own.is_empty()).then_some(own)
    })
}
