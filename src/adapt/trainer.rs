//! The loop: gradients, clipping, AdamW; validation, the best and the last; a state that a killed run continues from.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    AdaptError,
    optimiser::{AdamW, DecayTo, Moments, Schedule, clip, norm},
    run::{Lines, Metric, Progress, RunFolder},
    text::{Text, targets},
    trainable::{Parameter, Trainable},
};
use crate::model::{Activations, device::peak_memory};

/// How a run trains.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The optimiser.
    pub optimiser: AdamW,
    /// Largest norm of the gradient over all trained values.
    pub clip: f64,
    /// How the learning rate goes.
    pub schedule: Schedule,
    /// Steps in which it rises first.
    pub warmup: u64,
    /// Windows that go through the model together.
    pub batch: usize,
    /// Batches whose gradients are averaged for one step.
    pub accumulate: usize,
    /// Steps in all.
    pub steps: u64,
    /// Steps between validations.
    pub validate_every: u64,
    /// Validations without a better one after which the run ends; none where it goes on.
    pub patience: Option<u32>,
    /// Seed of the order of the text and of whatever is dropped.
    pub seed: u64,
}

/// A run.
pub struct Trainer<'a> {
    /// What trains.
    pub trainable: &'a Trainable,
    /// On which text.
    pub text: &'a Text,
    /// How.
    pub settings: Settings,
    /// What is kept for the backward pass; it changes no result.
    pub activations: Activations,
    /// Steps between states on the disk; it changes no result.
    pub save_every: u64,
    /// Set by a signal: the run saves its state and ends behind the step at hand.
    pub stop: &'a AtomicBool,
}

/// What a run tells while it goes.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// It continues behind this step.
    Resumed(u64),
    /// A step is done.
    Step {
        /// Which.
        step: u64,
        /// Its loss.
        loss: f64,
        /// Tokens of it.
        tokens: u64,
        /// The most bytes that were held up to now, where the system says.
        memory: Option<u64>,
    },
    /// A validation is done.
    Validated {
        /// Behind which step.
        step: u64,
        /// Its loss.
        loss: f64,
        /// Whether it is the best so far.
        best: bool,
    },
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// All steps are done, or the patience is at its end.
    Done,
    /// The stop was set; the state is on the disk.
    Stopped,
}

/// What came out of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// Steps done.
    pub step: u64,
    /// Held-out loss before training, nats per token.
    pub before: f64,
    /// The best held-out loss and its step.
    pub best: f64,
    /// Behind which step.
    pub best_step: u64,
    /// The last held-out loss.
    pub last: f64,
}

impl Trainer<'_> {
    /// Trains from where the folder's state ends.
    ///
    /// # Errors
    /// When the loss is no number, the device has no room, or the folder cannot be written to.
    pub fn run(&self, folder: &RunFolder, mut tell: impl FnMut(Event)) -> Result<Finish, AdaptError> {
        let trainable = self.trainable;
        let pulled = self.settings.optimiser.decay_to == DecayTo::Base;
        let before = |parameter: &Parameter| pulled.then(|| parameter.var.copy()).transpose();
        let base = trainable.parameters.iter().map(before).collect::<Result<Vec<_>, _>>()?;
        let mut state = match folder.state(&trainable.parameters)? {
            Some((moments, progress)) => {
                tell(Event::Resumed(progress.step));
                State { moments, progress }
            }
            None => State {
                moments: trainable.vars().iter().map(Moments::new).collect::<Result<_, _>>()?,
                progress: Progress::default(),
            },
        };
        let mut lines = folder.metrics(&state.progress)?;
        if state.progress.before.is_none() {
            self.validate(&mut state, folder, &mut lines, &mut tell)?;
        }
        let mut pace = Pace::default();
        while !state.progress.done {
            if self.stop.load(Ordering::Relaxed) {
                self.save(&mut state, folder, &lines)?;
                self.record(folder, &pace)?;
                return Ok(Finish::Stopped);
            }
            let begun = Instant::now();
            self.step(&mut state, &base, &mut lines, &mut tell)?;
            pace.took(begun.elapsed());
            let step = state.progress.step;
            let last = step == self.settings.steps;
            if last || step.is_multiple_of(self.settings.validate_every) {
                self.validate(&mut state, folder, &mut lines, &mut tell)?;
            }
            let out_of_patience = self.settings.patience.is_some_and(|patience| state.progress.waited >= patience);
            state.progress.done = last || out_of_patience;
            if state.progress.done || step.is_multiple_of(self.save_every) {
                self.save(&mut state, folder, &lines)?;
            }
        }
        self.record(folder, &pace)?;
        Ok(Finish::Done)
    }

    /// Puts the values of the best validation into the model.
    ///
    /// # Errors
    /// When the run has none.
    pub fn take_best(&self, folder: &RunFolder) -> Result<Outcome, AdaptError> {
        let progress = folder.progress()?;
        folder.take_best(&self.trainable.parameters)?;
        let (best_step, best) = progress.best.unwrap_or_default();
        Ok(Outcome {
            step: progress.step,
            before: progress.before.unwrap_or_default(),
            best,
            best_step,
            last: progress.last.unwrap_or_default(),
        })
    }

    fn step(
        &self,
        state: &mut State,
        base: &[Option<Tensor>],
        lines: &mut Lines,
        tell: &mut impl FnMut(Event),
    ) -> Result<(), AdaptError> {
        let Settings { optimiser, batch, accumulate, seed, .. } = self.settings;
        let step = state.progress.step + 1;
        let vars = self.trainable.vars();
        let mut gradients: Vec<Tensor> = Vec::new();
        let mut loss = 0.0;
        for part in 0..accumulate as u64 {
            let pass = (step - 1) * accumulate as u64 + part;
            let ids = self.text.draw(seed, pass * batch as u64, batch)?;
            let targets = targets(&ids, self.text.context());
            let ids = Tensor::from_vec(ids, (batch, self.text.context()), self.trainable.decoder.device())?;
            self.trainable.seed(Some(mixed(seed, pass)));
            let (part_loss, found) = self.trainable.decoder.gradients(&ids, &targets, &vars, self.activations)?;
            loss += part_loss / accumulate as f64;
            for (i, (found, var)) in found.into_iter().zip(&vars).enumerate() {
                let mut found = match found {
                    Some(found) => found.to_dtype(DType::F32)?,
                    None => var.zeros_like()?,
                };
                if accumulate > 1 {
                    found = (found / accumulate as f64)?;
                }
                match gradients.get_mut(i) {
                    Some(sum) => *sum = (&*sum + found)?,
                    None => gradients.push(found),
                }
            }
        }
        let norm = norm(&gradients)?;
        let factor = clip(norm, self.settings.clip);
        if !loss.is_finite() || !norm.is_finite() {
            let bf16 = self.trainable.decoder.rounds();
            return Err(AdaptError::Diverged { step, loss, bf16 });
        }
        let rate = optimiser.rate * self.settings.schedule.factor(step, self.settings.warmup, self.settings.steps);
        let parameters = vars.iter().zip(&mut state.moments).zip(&gradients).zip(base);
        for (((var, moments), gradient), base) in parameters {
            optimiser.step(step, rate, var, moments, (gradient, factor), base.as_ref())?;
        }
        state.progress.step = step;
        lines.put(&Metric::Step { step, loss, gradient_norm: norm, rate })?;
        let memory = peak_memory(self.trainable.decoder.device());
        tell(Event::Step { step, loss, tokens: self.tokens_per_step(), memory });
        Ok(())
    }

    fn tokens_per_step(&self) -> u64 {
        (self.settings.batch * self.settings.accumulate * self.text.context()) as u64
    }

    fn validate(
        &self,
        state: &mut State,
        folder: &RunFolder,
        lines: &mut Lines,
        tell: &mut impl FnMut(Event),
    ) -> Result<(), AdaptError> {
        self.trainable.seed(None);
        let (mut sum, mut tokens) = (0.0, 0);
        for (ids, targets) in self.text.held_out() {
            let ids = Tensor::from_vec(ids, (1, self.text.context()), self.trainable.decoder.device())?;
            let (nll, scored) = self.trainable.decoder.scored_nll(&ids, &targets)?;
            sum += nll;
            tokens += scored as u64;
        }
        let (step, loss) = (state.progress.step, sum / tokens as f64);
        let progress = &mut state.progress;
        // Before training nothing is chosen yet.
        let best = step > 0 && progress.best.is_none_or(|(_, best)| loss < best);
        if step == 0 {
            progress.before = Some(loss);
        } else if best {
            progress.best = Some((step, loss));
            progress.waited = 0;
            folder.write_best(&self.trainable.parameters)?;
        } else {
            progress.waited += 1;
        }
        progress.last = Some(loss);
        lines.put(&Metric::Validation { step, validation: loss, tokens })?;
        tell(Event::Validated { step, loss, best });
        Ok(())
    }

    fn save(&self, state: &mut State, folder: &RunFolder, lines: &Lines) -> Result<(), AdaptError> {
        state.progress.metrics = lines.settle()?;
        folder.write_state(&self.trainable.parameters, &state.moments, &state.progress)
    }

    fn record(&self, folder: &RunFolder, pace: &Pace) -> Result<(), AdaptError> {
        let Some(steps_per_second) = pace.steps_per_second() else { return Ok(()) };
        folder.speed(&json!({
            "steps": pace.steps,
            "tokens": pace.steps * self.tokens_per_step(),
            "seconds": pace.all.as_secs_f64(),
            "tokens_per_second": steps_per_second * self.tokens_per_step() as f64,
            "peak_memory": peak_memory(self.trainable.decoder.device()),
        }))
    }
}

/// Everything that the next step depends on.
struct State {
    moments: Vec<Moments>,
    progress: Progress,
}

/// The time that a process spent on its steps, and not on validation and on what it wrote.
#[derive(Default)]
struct Pace {
    steps: u64,
    first: Duration,
    all: Duration,
}

impl Pace {
    fn took(&mut self, time: Duration) {
        if self.steps == 0 {
            self.first = time;
        }
        self.steps += 1;
        self.all += time;
    }

    /// Of the steps behind the first, in which a GPU's kernels are compiled; of that one where it is the only one.
    fn steps_per_second(&self) -> Option<f64> {
        let (steps, time) =
            if self.steps > 1 { (self.steps - 1, self.all.checked_sub(self.first)?) } else { (self.steps, self.all) };
        (steps > 0).then(|| steps as f64 / time.as_secs_f64())
    }
}

/// A seed for one pass: the finaliser of SplitMix64, so that neighbours have nothing in common.
fn mixed(seed: u64, pass: u64) -> u64 {
    let mut x = seed ^ pass.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
