//! What people see while a run goes.

use std::{io::IsTerminal, time::Instant};

use crate::{
    adapt::{Event, Settings},
    cli::{Talk, talk::Progress},
    output::{size, thousands},
};

/// The line that people see while a run goes.
pub(super) struct Live<'a> {
    talk: &'a Talk,
    progress: Progress,
    begun: Instant,
    steps: u64,
    per_step: u64,
    done: u64,
    validation: Option<f64>,
    told: Instant,
}

impl<'a> Live<'a> {
    pub(super) fn new(talk: &'a Talk, settings: &Settings, context: usize) -> Self {
        let per_step = (settings.batch * settings.accumulate * context) as u64;
        let progress = talk.training(settings.steps * per_step);
        let now = Instant::now();
        Self { talk, progress, begun: now, steps: settings.steps, per_step, done: 0, validation: None, told: now }
    }

    pub(super) fn tell(&mut self, event: &Event) {
        match *event {
            Event::Resumed(step) => {
                self.progress.skip(step * self.per_step);
                self.talk.say(format!("continuing after step {}", thousands(step)));
            }
            Event::Step { step, loss, tokens, memory } => {
                self.done += 1;
                self.progress.advance(tokens);
                let memory = memory.map_or_else(String::new, |bytes| format!(" · {}", size(bytes)));
                let held_out = self.validation.map_or_else(String::new, |loss| format!(" · held out {loss:.4}"));
                self.progress.now(format!("step {step} of {} · loss {loss:.4}{held_out}{memory}", self.steps));
                // Where there is no bar, a line now and then.
                if !std::io::stderr().is_terminal() && self.told.elapsed().as_secs() >= 30 {
                    self.told = Instant::now();
                    let seconds = self.begun.elapsed().as_secs_f64();
                    let rate = (self.done * self.per_step) as f64 / seconds;
                    let left = (self.steps - step) as f64 * seconds / self.done as f64;
                    self.talk.say(format!(
                        "step {step} of {} · loss {loss:.4}{held_out}{memory} · {rate:.0} tokens/s · about {} min left",
                        self.steps,
                        (left / 60.0).ceil()
                    ));
                }
            }
            Event::Validated { step, loss, best } => {
                self.validation = Some(loss);
                let word = if best { ", the best so far" } else { "" };
                self.progress.line(format!("step {step}: held-out loss {loss:.4}{word}"));
            }
        }
    }

    pub(super) fn end(self) {
        self.progress.end();
    }
}
