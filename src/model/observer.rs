//! The observer at the gates, and the tally that most observers fill.

use std::collections::VecDeque;

use candle_core::{Result, Tensor};

use super::sums::Sums;
use crate::neuron::FfnShape;

/// Looks at the gates of a forward pass.
pub trait Observer: Send {
    /// Called once per dense layer with the gate's pre-activation `[batch, seq, ffn]`.
    ///
    /// # Errors
    /// Whatever the observer cannot do ends the forward pass.
    fn gate(&mut self, layer: usize, gate: &Tensor) -> Result<()>;

    /// Called, in a layer with experts, once for every expert that a token of the batch is routed to: with the ascending places of
    /// its tokens in the batch (`window · seq + position`) and their gate's pre-activations `[routed tokens, ffn]`. A token stands
    /// with each of the experts that it is routed to, whatever their weights.
    ///
    /// # Errors
    /// As [`Observer::gate`]; also when the observer knows nothing of experts, for to see nothing would look like silence.
    fn expert(&mut self, layer: usize, expert: usize, tokens: &[u32], gate: &Tensor) -> Result<()> {
        let _ = (tokens, gate);
        candle_core::bail!("this observer sees dense layers only, but layer {layer} has experts (here {expert})")
    }

    /// An observer that only counts lends its tally instead: the activation's kernel then fills it in the pass that it makes
    /// over the gates anyway, and neither `gate` nor `expert` is called.
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

    fn expert(&mut self, _: usize, _: usize, _: &[u32], _: &Tensor) -> Result<()> {
        Ok(())
    }
}

/// Sums over tokens, per neuron in the order of [`FfnShape::flat`]: in how many its activation was positive (per fold), and the
/// activation's moments. A neuron of an expert is summed over the tokens that were routed there.
#[derive(Clone, Debug, PartialEq)]
pub struct Tally {
    shape: FfnShape,
    /// The tokens of the batch at hand, where a window or a fold ends.
    stretches: Vec<Stretch>,
    /// The same as runs.
    runs: Vec<Run>,
    /// Feed-forward networks before this one have counted the batch already, those before `counted` in this pass.
    first: usize,
    counted: usize,
    /// Of a part of another tally's batch: what is to be added there, network by network.
    aside: Option<Vec<(usize, FoldSums)>>,
    /// What a GPU has counted and this tally has not heard of.
    #[cfg(feature = "cuda")]
    pub(super) abroad: super::gpu::activation::Abroad,
    /// Per fold: tokens at which the neuron was active.
    pub active: Vec<Vec<u64>>,
    /// Per fold, in the order of [`FfnShape::ffn`]: tokens that were routed to the expert. Without folds in a dense model, where
    /// every token goes everywhere.
    pub routed: Vec<Vec<u64>>,
    /// Sum of the activation over all tokens.
    pub sum: Vec<f64>,
    /// Sum of its square.
    pub sum_sq: Vec<f64>,
    /// Its maximum, −∞ before the first token.
    pub max: Vec<f32>,
}

impl Tally {
    /// An empty tally.
    #[must_use]
    pub fn new(shape: FfnShape, folds: usize) -> Self {
        let neurons = shape.neurons();
        Self {
            shape,
            stretches: Vec::new(),
            first: 0,
            counted: 0,
            aside: None,
            #[cfg(feature = "cuda")]
            abroad: super::gpu::activation::Abroad::default(),
            runs: Vec::new(),
            active: vec![vec![0; neurons]; folds],
            routed: if shape.is_routed() { vec![vec![0; shape.ffns()]; folds] } else { Vec::new() },
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
        (self.first, self.counted) = (0, 0);
        #[cfg(feature = "cuda")]
        self.abroad.begin();
        // A stretch ends with its window, so that sums do not depend on which windows share a batch.
        let alike = windows.into_iter().flat_map(|folds| folds.chunk_by(|a, b| a == b));
        (self.stretches, self.runs) = (Vec::new(), Vec::new());
        let mut end = 0;
        for folds in alike {
            let fold = usize::from(folds[0]);
            end += folds.len();
            self.stretches.push(Stretch { fold, end });
            self.runs.extend(folds.chunks(PIECE).map(|piece| Run { fold, tokens: piece.len() }));
        }
    }

    /// How many feed-forward networks, in the order of [`FfnShape::ffn`], have counted the batch at hand.
    #[must_use]
    pub fn counted(&self) -> usize {
        self.counted
    }

    /// Says, after [`Tally::begin`], that so many feed-forward networks have counted these tokens in a pass that failed behind
    /// them: they are not to count them twice.
    pub fn resume(&mut self, counted: usize) {
        (self.first, self.counted) = (counted, counted);
    }

    pub(super) fn wants(&self, ffn: usize) -> bool {
        ffn >= self.first
    }

    pub(super) fn has_counted(&mut self, ffn: usize) {
        self.counted = self.counted.max(ffn + 1);
    }

    /// Brings home what a GPU has counted; before it, the sums of passes there are not in the tally.
    ///
    /// # Errors
    /// When the GPU has failed in one of those passes.
    #[cfg_attr(not(feature = "cuda"), allow(clippy::unnecessary_wraps))]
    pub fn settle(&mut self) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let Some(sums) = self.abroad.take() {
            sums.bring_home(self)?;
        }
        Ok(())
    }

    /// The runs of the batch, in the order of its tokens.
    pub(super) fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The runs of the tokens that are routed to one expert, given by their ascending places in the batch: the same tokens of a
    /// window give the same runs whatever else is in the batch, and all tokens give those of [`Tally::runs`].
    pub(super) fn runs_of(&self, tokens: &[u32]) -> Result<Vec<Run>> {
        if !tokens.is_sorted_by(|a, b| a < b) {
            candle_core::bail!(
                "the tokens of an expert do not ascend: each stands there once, in the order of the batch"
            );
        }
        let (mut runs, mut rest) = (Vec::new(), tokens);
        for &Stretch { fold, end } in &self.stretches {
            let (within, behind) = rest.split_at(rest.partition_point(|&token| (token as usize) < end));
            runs.extend(within.chunks(PIECE).map(|piece| Run { fold, tokens: piece.len() }));
            rest = behind;
        }
        if let Some(token) = rest.first() {
            let tokens = self.stretches.last().map_or(0, |stretch| stretch.end);
            candle_core::bail!("token {token} is routed, but the tally was told of {tokens} tokens");
        }
        Ok(runs)
    }

    /// Tallies of parts of the batch, of so many tokens each, of a dense model: they put their sums aside until [`InOrder`] takes them.
    /// Nothing, where the batch is not such parts.
    pub(super) fn parts(&self, tokens: &[usize]) -> Option<Vec<Self>> {
        let mut rest = self.runs.as_slice();
        let parts = tokens.iter().map(|&tokens| {
            let mut there = 0;
            let fits = |run: &&Run| {
                there += run.tokens;
                there <= tokens
            };
            let own;
            (own, rest) = rest.split_at(rest.iter().take_while(fits).count());
            let whole = own.iter().map(|run| run.tokens).sum::<usize>() == tokens;
            whole.then(|| Self {
                runs: own.to_vec(),
                first: self.first,
                aside: Some(Vec::new()),
                ..Self::new(FfnShape { layers: 0, ..self.shape }, 0)
            })
        });
        let parts = parts.collect::<Option<Vec<_>>>()?;
        (rest.is_empty() && !self.shape.is_routed()).then_some(parts)
    }

    /// How many threads had better share the batch: of parts, each has its own.
    pub(super) fn threads(&self) -> usize {
        if self.aside.is_some() { 1 } else { rayon::current_num_threads() }
    }

    /// The sums themselves, unless they are put aside.
    pub(super) fn put_aside(&mut self, ffn: usize, sums: FoldSums) -> Option<FoldSums> {
        let Some(aside) = &mut self.aside else { return Some(sums) };
        aside.push((ffn, sums));
        None
    }

    /// Counts the tokens of one expert's runs; its sums are added beside.
    pub(super) fn route(&mut self, layer: usize, expert: usize, runs: &[Run]) {
        let ffn = self.shape.ffn(layer, expert);
        for run in runs {
            self.routed[run.fold][ffn] += run.tokens as u64;
        }
    }
}

/// The sums of runs, each with its fold.
type FoldSums = Vec<(usize, Sums)>;

/// Adds what [`Tally::parts`] put aside in the order of the parts, whichever comes first: rounding depends on it.
pub(super) struct InOrder<'a> {
    tally: &'a mut Tally,
    waiting: Vec<VecDeque<(usize, FoldSums)>>,
}

impl<'a> InOrder<'a> {
    pub fn new(tally: &'a mut Tally, parts: usize) -> Self {
        Self { tally, waiting: vec![VecDeque::new(); parts] }
    }

    /// Takes what a part has put aside, and adds the networks that all parts have come past.
    pub fn take(&mut self, number: usize, part: &mut Tally) {
        self.waiting[number].extend(part.aside.iter_mut().flat_map(std::mem::take));
        while self.waiting.iter().all(|part| !part.is_empty()) {
            for (ffn, sums) in self.waiting.iter_mut().filter_map(VecDeque::pop_front) {
                self.tally.add(ffn, self.tally.shape.width, sums);
            }
        }
    }
}

/// Tokens of one window and one fold, up to a place in the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    fold: usize,
    end: usize,
}

/// Tokens of one stretch, one after the other or, of an expert, those that it gets; at most [`PIECE`], for they are one thread's
/// task.
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

    fn expert(&mut self, _: usize, _: usize, _: &[u32], _: &Tensor) -> Result<()> {
        candle_core::bail!("a tally is filled by the activation's kernel")
    }

    fn tally(&mut self) -> Option<&mut Tally> {
        Some(self)
    }
}
