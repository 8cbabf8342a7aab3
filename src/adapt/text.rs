//! The text of a run: full windows to train on and held-out documents to validate on, tokenised once and kept in the run folder.

use std::{
    fs::File,
    io::{ErrorKind, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use tokenizers::Tokenizer;

use super::AdaptError;
use crate::{
    corpus::{Corpus, Split},
    language::LanguageCode,
    model::UNSCORED,
    output::{self, Draft},
    tokens::{Coverage, WindowPlan, Windows},
};

/// How much text, and in what pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextPlan {
    /// The language.
    pub language: LanguageCode,
    /// How the training text is cut.
    pub windows: WindowPlan,
    /// Held-out tokens at most.
    pub validation: u64,
}

/// Tokenised text in a run folder.
pub struct Text {
    path: PathBuf,
    context: usize,
    windows: usize,
    held_out: Vec<u32>,
    /// What was read.
    pub read: TextRead,
}

/// What was read, of both parts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TextRead {
    /// To train on.
    pub train: Coverage,
    /// To validate on.
    pub held_out: Coverage,
    /// Tokens to validate on, the last window's included even where it is not full.
    pub held_out_tokens: u64,
}

const TRAIN: &str = "text/train.ids";
const HELD_OUT: &str = "text/held-out.ids";
const NOTES: &str = "text/text.json";

impl Text {
    /// Tokenises the text of a run, or finds it in the folder.
    ///
    /// # Errors
    /// When the text cannot be read, has no full window, or nothing of it can be held out.
    pub fn prepare(
        folder: &Path,
        plan: &TextPlan,
        tokenizer: &Tokenizer,
        corpus: &dyn Corpus,
        validation: Option<&dyn Corpus>,
    ) -> Result<Self, AdaptError> {
        if !folder.join(NOTES).is_file() {
            let train = Windows::new(
                plan.language,
                plan.windows.clone(),
                tokenizer,
                corpus.documents(plan.language, Split::Train)?,
            );
            let train = write(&folder.join(TRAIN), train)?.0;
            if train.tokens == 0 {
                let (context, tokens) = (plan.windows.context, train.tokens_read);
                return Err(AdaptError::TooShort {
                    corpus: corpus.id().to_owned(),
                    language: plan.language,
                    tokens,
                    context,
                });
            }
            let (source, split) = validation.map_or((corpus, Split::HeldOut), |corpus| (corpus, Split::All));
            // A text that fills no window is padded, so that one window is the least.
            let tokens = plan.validation.max(plan.windows.context as u64);
            let windows = WindowPlan { tokens, ..plan.windows.clone() };
            let documents = source.documents(plan.language, split)?;
            let held_out = Windows::new(plan.language, windows, tokenizer, documents);
            let (held_out, tokens) = write(&folder.join(HELD_OUT), held_out)?;
            if tokens < 2 {
                let documents = train.notes.documents;
                return Err(AdaptError::NoHeldOut {
                    corpus: source.id().to_owned(),
                    language: plan.language,
                    documents,
                });
            }
            let read = TextRead { train, held_out, held_out_tokens: tokens };
            let notes = serde_json::to_vec_pretty(&read).expect("plain data");
            output::write(&folder.join(NOTES), &notes)?;
        }
        Self::open(folder, plan.windows.context)
    }

    /// Lets go of the text of a run that is no more, so that it is read anew.
    pub(super) fn forget(folder: &Path) -> Result<(), AdaptError> {
        let notes = folder.join(NOTES);
        match std::fs::remove_file(&notes) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(AdaptError::broken(&notes, error)),
            _ => Ok(()),
        }
    }

    fn open(folder: &Path, context: usize) -> Result<Self, AdaptError> {
        let (path, notes) = (folder.join(TRAIN), folder.join(NOTES));
        let bytes = read(&notes)?;
        let found: TextRead = serde_json::from_slice(&bytes).map_err(|error| AdaptError::broken(&notes, error))?;
        let held_out = ids(&read(&folder.join(HELD_OUT))?);
        let length = std::fs::metadata(&path).map_err(|error| AdaptError::broken(&path, error))?.len();
        if length != 4 * found.train.tokens || held_out.len() as u64 != found.held_out_tokens {
            return Err(AdaptError::broken(&path, "is not as long as its notes say"));
        }
        let windows = usize::try_from(found.train.tokens).unwrap_or(usize::MAX) / context;
        Ok(Self { path, context, windows, held_out, read: found })
    }

    /// Full windows to train on.
    #[must_use]
    pub fn windows(&self) -> usize {
        self.windows
    }

    /// Tokens per window.
    #[must_use]
    pub fn context(&self) -> usize {
        self.context
    }

    /// The windows number `first` to `first + count` of an endless stream that goes over the text in another order every time; the same
    /// for the same seed.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn draw(&self, seed: u64, first: u64, count: usize) -> Result<Vec<u32>, AdaptError> {
        let failed = |error: std::io::Error| AdaptError::broken(&self.path, format!("cannot be read: {error}"));
        let mut file = File::open(&self.path).map_err(failed)?;
        let mut found = Vec::with_capacity(count * self.context);
        let mut order: Option<(u64, Vec<u32>)> = None;
        for number in first..first + count as u64 {
            let (round, place) = (number / self.windows as u64, number % self.windows as u64);
            if order.as_ref().is_none_or(|(known, _)| *known != round) {
                order = Some((round, shuffled(self.windows, seed, round)));
            }
            let window =
                order.as_ref().expect("it was made above").1[usize::try_from(place).expect("a window's number")];
            file.seek(SeekFrom::Start(u64::from(window) * self.context as u64 * 4)).map_err(failed)?;
            let mut bytes = vec![0; self.context * 4];
            file.read_exact(&mut bytes).map_err(failed)?;
            found.extend(ids(&bytes));
        }
        Ok(found)
    }

    /// Held-out windows of `context` ids, with the targets of their positions; the last is filled up, and what fills it is not scored.
    pub fn held_out(&self) -> impl Iterator<Item = (Vec<u32>, Vec<u32>)> + '_ {
        self.held_out.chunks(self.context).filter(|window| window.len() > 1).map(|window| {
            let mut targets = targets(window, window.len());
            let mut ids = window.to_vec();
            ids.resize(self.context, 0);
            targets.resize(self.context, UNSCORED);
            (ids, targets)
        })
    }
}

/// What the positions of windows should predict: the next id; the last of a window nothing.
#[must_use]
pub fn targets(ids: &[u32], context: usize) -> Vec<u32> {
    ids.chunks(context).flat_map(|window| window[1..].iter().copied().chain([UNSCORED])).collect()
}

/// The numbers below `len` in an order that a seed and a round give.
fn shuffled(len: usize, seed: u64, round: u64) -> Vec<u32> {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&round.to_le_bytes());
    let mut rng = ChaCha8Rng::from_seed(key);
    let mut order: Vec<u32> = (0..u32::try_from(len).expect("fewer than 2^32 windows")).collect();
    for place in (1..len).rev() {
        // A product's upper half is uniform to within 2^-32, and no library's version changes it.
        let other = (u128::from(rng.next_u64()) * (place as u128 + 1)) >> 64;
        order.swap(place, usize::try_from(other).expect("below place"));
    }
    order
}

/// Writes the ids of windows, and of what is left behind the last full one where there is room for it.
fn write(path: &Path, mut windows: Windows) -> Result<(Coverage, u64), AdaptError> {
    let failed = |source| output::OutputError { path: path.to_owned(), source };
    let mut draft = Draft::new(path)?;
    let mut written = 0;
    let mut put = |draft: &mut Draft, ids: &[u32]| {
        written += ids.len() as u64;
        ids.iter().try_for_each(|id| draft.write_all(&id.to_le_bytes())).map_err(failed)
    };
    for window in windows.by_ref() {
        put(&mut draft, &window?.ids)?;
    }
    // Only validation takes a window that is not full: training's are counted by their number.
    if path.ends_with(HELD_OUT) {
        put(&mut draft, &windows.rest())?;
    }
    draft.keep()?;
    Ok((windows.coverage(), written))
}

fn read(path: &Path) -> Result<Vec<u8>, AdaptError> {
    std::fs::read(path).map_err(|error| AdaptError::broken(path, format!("cannot be read: {error}")))
}

fn ids(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}
