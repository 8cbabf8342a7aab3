//! The observer at the gates, and the tally that most observers fill.

use candle_core::{Result, Tensor};

use crate::neuron::FfnShape;

/// Looks at the gates of a forward pass.
pub trait Observer {
    /// Called once per layer with the gate's pre-activation `[batch, seq, ffn]`.
    ///
    /// # Errors
    /// Whatever the observer cannot do ends the forward pass.
    fn gate(&mut self, layer: usize, gate: &Tensor) -> Result<()>;

    /// An observer that only counts lends its tally instead: the activation's kernel then fills it in the pass that it makes
    /// over the gates anyway, and `gate` is not called.
    fn tally(&mut self) -> Option<&mut Tally> {
        None
    }
}

/// Nobody looks.
pub struct Unobserved;

impl Observer for Unobserved {
    fn gate(&mut self, _: usize, _: &Tensor) -> Result<()> {
        Ok(())
    }
}

/// Sums over tokens, per neuron: in how many its activation was positive (per fold), and the activation's moments.
#[derive(Clone, Debug, PartialEq)]
pub struct Tally {
    shape: FfnShape,
    /// The tokens of the batch at hand, as runs of one fold.
    runs: Vec<Run>,
    /// Per fold, layer-major: tokens at which the neuron was active.
    pub active: Vec<Vec<u64>>,
    /// Layer-major: sum of the activation over all tokens.
    pub sum: Vec<f64>,
    /// Layer-major: sum of its square.
    pub sum_sq: Vec<f64>,
    /// Layer-major: its maximum, −∞ before the first token.
    pub max: Vec<f32>,
}

impl Tally {
    /// An empty tally.
    #[must_use]
    pub fn new(shape: FfnShape, folds: usize) -> Self {
        let neurons = shape.neurons();
        Self {
            shape,
            runs: Vec::new(),
            active: vec![vec![0; neurons]; folds],
            sum: vec![0.0; neurons],
            sum_sq: vec![0.0; neurons],
            max: vec![f32::NEG_INFINITY; neurons],
        }
    }

    /// The grid of neurons.
    #[must_use]
    pub fn shape(&self) -> FfnShape {
        self.shape
    }

    /// Says to which fold each token of each window of the next batch belongs.
    pub fn begin<'a>(&mut self, windows: impl IntoIterator<Item = &'a [u8]>) {
        // A run ends with its window, so that sums do not depend on which windows share a batch.
        let runs = windows.into_iter().flat_map(|folds| folds.chunk_by(|a, b| a == b));
        let pieces = runs.flat_map(|run| run.chunks(PIECE));
        self.runs = pieces.map(|run| Run { fold: usize::from(run[0]), tokens: run.len() }).collect();
    }

    /// The runs of the batch, in the order of its tokens.
    pub(super) fn runs(&self) -> &[Run] {
        &self.runs
    }
}

/// Consecutive tokens of one window and one fold; at most [`PIECE`], for they are one thread's task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub fold: usize,
    pub tokens: usize,
}

/// Fixed, so that sums are added in the same order whatever the number of threads.
const PIECE: usize = 64;

impl Observer for Tally {
    fn gate(&mut self, _: usize, _: &Tensor) -> Result<()> {
        candle_core::bail!("a tally is filled by the activation's kernel")
    }

    fn tally(&mut self) -> Option<&mut Tally> {
        Some(self)
    }
}
