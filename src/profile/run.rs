//! The loop: tokenisation runs beside the forward pass, and so does the writing of a finished language.

use std::{
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    thread,
};

use candle_core::Tensor;
use tokenizers::Tokenizer;

use super::{Profile, ProfileError, ProfileFolder};
use crate::{
    corpus::{Corpus, Split},
    language::LanguageCode,
    model::{Decoder, ModelError, Tally, device::is_out_of_memory},
    tokens::{Coverage, Window, WindowPlan, Windows},
};

/// A run: which decoder, over which text, in which pieces.
pub struct Profiler<'a> {
    /// The model.
    pub decoder: &'a Decoder,
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// The text.
    pub corpus: &'a dyn Corpus,
    /// Which of its documents.
    pub split: Split,
    /// How it is cut.
    pub plan: WindowPlan,
    /// Windows that go through the model together, at first: half as many whenever the device has no room for them.
    pub batch: usize,
    /// Set by a signal: the run ends before the next batch.
    pub stop: &'a AtomicBool,
}

/// What a run tells while it goes.
#[derive(Debug)]
pub enum Event<'a> {
    /// A language was finished before and is left as it is.
    Kept(LanguageCode),
    /// A batch of so many tokens is done.
    Batch(LanguageCode, u64),
    /// A language is finished and on the disk.
    Finished(&'a Coverage),
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// All languages are there.
    Done,
    /// The stop was set; what is finished is on the disk.
    Stopped,
}

/// What the tokenising thread sends.
enum Message {
    Batch(LanguageCode, Vec<Window>),
    End(Coverage),
    Failed(ProfileError),
}

/// Batches that may wait: enough to bridge a long document, too few to matter in memory.
const WAITING: usize = 8;

impl Profiler<'_> {
    /// Profiles the languages that the folder does not hold yet, one after the other.
    ///
    /// # Errors
    /// The first thing that cannot be read, run or written; languages finished before it stay.
    pub fn run(
        &self,
        languages: &[LanguageCode],
        folder: &ProfileFolder,
        mut tell: impl FnMut(Event),
    ) -> Result<Finish, ProfileError> {
        let (kept, open): (Vec<_>, Vec<_>) = languages.iter().copied().partition(|&language| folder.has(language));
        for language in kept {
            folder.coverage(language)?;
            tell(Event::Kept(language));
        }
        thread::scope(|scope| {
            let (send, receive) = sync_channel(WAITING);
            scope.spawn(move || self.tokenize(&open, &send));
            let (give, take) = sync_channel(1);
            let (answer, written) = channel();
            scope.spawn(move || write(folder, &take, &answer));
            let counted = self.count(&receive, &give, &written, &mut tell);
            // Whatever ended the counting, what was counted is written.
            drop(give);
            for coverage in written {
                tell(Event::Finished(&coverage?));
            }
            counted
        })
    }

    /// Sends every language's batches and its end. Stops when nobody listens any more.
    fn tokenize(&self, languages: &[LanguageCode], send: &SyncSender<Message>) {
        for &language in languages {
            let windows = match self.corpus.documents(language, self.split) {
                Ok(documents) => Windows::new(language, self.plan.clone(), self.tokenizer, documents),
                Err(error) => return drop(send.send(Message::Failed(error.into()))),
            };
            if self.send_batches(language, windows, send).is_none() {
                return;
            }
        }
    }

    fn send_batches(&self, language: LanguageCode, mut windows: Windows, send: &SyncSender<Message>) -> Option<()> {
        loop {
            match windows.by_ref().take(self.batch).collect::<Result<Vec<_>, _>>() {
                Err(error) => {
                    send.send(Message::Failed(error.into())).ok()?;
                    return None;
                }
                Ok(batch) if batch.is_empty() => return send.send(Message::End(windows.coverage())).ok(),
                Ok(batch) => send.send(Message::Batch(language, batch)).ok()?,
            }
        }
    }

    fn count(
        &self,
        receive: &Receiver<Message>,
        give: &SyncSender<Profile>,
        written: &Receiver<Result<Coverage, ProfileError>>,
        tell: &mut impl FnMut(Event),
    ) -> Result<Finish, ProfileError> {
        let empty = || Tally::new(self.decoder.spec().ffn, self.plan.folds);
        let (mut tally, mut room) = (empty(), self.batch);
        for message in receive {
            for coverage in written.try_iter() {
                tell(Event::Finished(&coverage?));
            }
            if self.stop.load(Ordering::Relaxed) {
                return Ok(Finish::Stopped);
            }
            match message {
                Message::Failed(error) => return Err(error),
                Message::Batch(language, windows) => {
                    let tokens = windows.len() as u64 * self.plan.context as u64;
                    self.forward(&windows, &mut room, &mut tally).map_err(ModelError::from)?;
                    tell(Event::Batch(language, tokens));
                }
                Message::End(coverage) => {
                    tally.settle().map_err(ModelError::from)?;
                    let profile = Profile { coverage, tally: std::mem::replace(&mut tally, empty()) };
                    // Nobody takes it where a language before it could not be written: the reason is among the answers.
                    if give.send(profile).is_err() {
                        break;
                    }
                }
            }
        }
        Ok(Finish::Done)
    }

    fn forward(&self, windows: &[Window], room: &mut usize, tally: &mut Tally) -> candle_core::Result<()> {
        in_batches(windows, room, tally, &mut |windows, tally| {
            let ids: Vec<u32> = windows.iter().flat_map(|window| &window.ids).copied().collect();
            let ids = Tensor::from_vec(ids, (windows.len(), self.plan.context), self.decoder.device())?;
            self.decoder.observe(&ids, tally)
        })
    }
}

/// Writes every language that it is given, and says how that went; ends with the first that cannot be written.
fn write(folder: &ProfileFolder, take: &Receiver<Profile>, answer: &Sender<Result<Coverage, ProfileError>>) {
    for profile in take {
        let result = check_finite(&profile, &folder.head.parameters.precision)
            .and_then(|()| folder.write(&profile))
            .map(|()| profile.coverage);
        let failed = result.is_err();
        if answer.send(result).is_err() || failed {
            return;
        }
    }
}

/// Counts windows in batches of at most `room`. Where a pass fails for want of memory, `room` is halved and its windows go through once
/// more in smaller batches; the layers that had counted them do not count them again.
///
/// # Errors
/// When a pass fails for another reason, or the device has no room for a single window.
pub fn in_batches(
    windows: &[Window],
    room: &mut usize,
    tally: &mut Tally,
    pass: &mut dyn FnMut(&[Window], &mut Tally) -> candle_core::Result<()>,
) -> candle_core::Result<()> {
    let mut rest = windows;
    while !rest.is_empty() {
        let (batch, behind) = rest.split_at(rest.len().min(*room));
        count_batch(batch, 0, room, tally, pass)?;
        rest = behind;
    }
    Ok(())
}

/// One batch, which `counted` feed-forward networks have counted before.
fn count_batch(
    windows: &[Window],
    counted: usize,
    room: &mut usize,
    tally: &mut Tally,
    pass: &mut dyn FnMut(&[Window], &mut Tally) -> candle_core::Result<()>,
) -> candle_core::Result<()> {
    tally.begin(windows.iter().map(|window| window.folds.as_slice()));
    tally.resume(counted);
    match pass(windows, tally) {
        Err(error) if is_out_of_memory(&error) && windows.len() > 1 => {
            let half = windows.len().div_ceil(2);
            tracing::warn!("no room for {} windows at once; going on with {half}", windows.len());
            *room = half;
            let counted = tally.counted();
            windows.chunks(half).try_for_each(|windows| count_batch(windows, counted, room, tally, pass))
        }
        result => result,
    }
}

fn check_finite(profile: &Profile, precision: &str) -> Result<(), ProfileError> {
    let shape = profile.tally.shape();
    match profile.tally.sum_sq.iter().position(|sum| !sum.is_finite()) {
        None => Ok(()),
        Some(flat) => Err(ProfileError::NotFinite {
            language: profile.coverage.language,
            layer: shape.neuron(flat).layer,
            precision: precision.to_owned(),
        }),
    }
}
