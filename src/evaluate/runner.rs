//! What all tasks ask of a model: ids of a text, log-likelihoods of tokens, batches that a signal can end.

use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{Result, Tensor};
use tokenizers::Tokenizer;

use super::{EvaluateError, SubjectSettings};
use crate::model::{Decoder, loss};

/// A model that is evaluated.
pub struct Subject<'a> {
    /// The model.
    pub decoder: &'a Decoder,
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// What else its numbers depend on.
    pub settings: SubjectSettings,
    /// Set by a signal: the run ends before the next batch.
    pub stop: &'a AtomicBool,
}

/// Logits that are held at once.
const LOGITS: usize = 1 << 24;

impl Subject<'_> {
    /// Whether the run is to end.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The ids of a text: with what the tokenizer puts around one if `special`, else of the text alone.
    ///
    /// # Errors
    /// When the tokenizer fails.
    pub fn ids(&self, text: &str, special: bool) -> std::result::Result<Vec<u32>, EvaluateError> {
        let failed = |error: tokenizers::Error| EvaluateError::Tokenizer {
            what: format!("`{}`", text.chars().take(40).collect::<String>()),
            problem: error.to_string(),
        };
        Ok(self.tokenizer.encode_fast(text, special).map_err(failed)?.get_ids().to_vec())
    }

    /// Windows of ids as one batch `[windows, longest]`; shorter ones are filled behind their end, where no token sees it.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn batch(&self, windows: &[&[u32]]) -> Result<Tensor> {
        let longest = windows.iter().map(|window| window.len()).max().unwrap_or(0);
        let ids = windows.iter().flat_map(|window| (0..longest).map(|i| window.get(i).copied().unwrap_or(0)));
        Tensor::from_vec(ids.collect::<Vec<u32>>(), (windows.len(), longest), self.decoder.device())
    }

    /// Log-likelihoods of next tokens: for each place in `hidden` [n, hidden], that of its target.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn log_likelihoods(&self, hidden: &Tensor, places: &[u32], targets: &[u32]) -> Result<Vec<f32>> {
        let size = (LOGITS / self.decoder.spec().vocabulary).max(1);
        let mut found = Vec::with_capacity(targets.len());
        for (places, targets) in places.chunks(size).zip(targets.chunks(size)) {
            let rows = hidden.index_select(&Tensor::new(places, hidden.device())?, 0)?;
            found.extend(loss::log_likelihoods(&self.decoder.head(&rows)?, targets)?);
        }
        Ok(found)
    }
}

/// Numbers of things by size, the largest first, cut into batches of which each holds at most `room` together, filled up to the
/// largest of a batch; one thing at least.
pub fn batches(sizes: &[usize], room: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(sizes[i]), i));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    for i in order {
        match batches.last_mut() {
            Some(batch) if (batch.len() + 1) * sizes[batch[0]] <= room => batch.push(i),
            _ => batches.push(vec![i]),
        }
    }
    batches
}
