//! `perplexity`: the negative log-likelihood of documents, per token and per byte.
//!
//! Every byte is scored. A document is tokenised as it is; its first token is predicted from the token that begins a text (or else
//! that which ends one). A document longer than the context is cut as lm-evaluation-harness' `loglikelihood_rolling` does: windows that
//! predict `context` tokens each, the last one with as much before it as fits.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Better, EvaluateError, Report, Subject, Task, TaskOptions, runner::batches, statistics};
use crate::{
    corpus::{self, Corpus, Document, Split},
    language::LanguageCode,
    output::hex,
};

pub const NAME: &str = "perplexity";

struct Perplexity {
    corpus: Box<dyn Corpus>,
    split: Split,
    limit: Option<usize>,
}

pub fn open(_: &str, options: &TaskOptions) -> Result<Box<dyn Task>, EvaluateError> {
    let spec = options.corpus.as_ref().ok_or(EvaluateError::NoCorpus { task: NAME })?;
    let corpus = corpus::open(spec, &options.reading)?;
    Ok(Box::new(Perplexity { corpus, split: options.split, limit: options.limit }))
}

/// A piece of a document: what the model reads, and how many of the last positions predict.
struct Window {
    document: usize,
    input: Vec<u32>,
    targets: Vec<u32>,
}

/// What was found of a document.
#[derive(Clone, Copy, Default)]
struct Scored {
    nll: f64,
    tokens: u64,
    bytes: u64,
}

impl Task for Perplexity {
    fn name(&self) -> &'static str {
        NAME
    }

    fn languages(&self) -> Vec<LanguageCode> {
        self.corpus.languages()
    }

    fn settings(&self) -> Value {
        json!({
            "corpus": self.corpus.id(), "document": self.corpus.unit(), "split": self.split, "limit": self.limit,
            "policy": "every token is scored; the first is predicted from the token that begins a text, or else ends one; long documents in windows that predict `context` tokens each, the last with as much before it as fits",
        })
    }

    fn run(
        &self,
        subject: &Subject,
        language: LanguageCode,
        tell: &mut dyn FnMut(u64),
    ) -> Result<Option<Report>, EvaluateError> {
        let mut documents = self.corpus.documents(language, self.split)?;
        let (mut scored, mut pool, mut hash) = (Vec::new(), Vec::new(), Sha256::new());
        let mut waiting = 0;
        for document in documents.by_ref().take(self.limit.unwrap_or(usize::MAX)) {
            let Document::Text(text) = document? else {
                return Err(EvaluateError::NoText { corpus: self.corpus.id().to_owned(), task: NAME });
            };
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(&text);
            let ids = subject.ids(&text, false)?;
            waiting += ids.len();
            let own = Scored { nll: 0.0, tokens: ids.len() as u64, bytes: text.len() as u64 };
            pool.extend(windows(&ids, scored.len(), subject.settings.prefix, subject.settings.context));
            scored.push(own);
            // Enough to make batches of windows that are equally long, and no more.
            if waiting >= 16 * subject.settings.batch_tokens {
                if !score(subject, &std::mem::take(&mut pool), &mut scored, tell)? {
                    return Ok(None);
                }
                waiting = 0;
            }
        }
        if !score(subject, &pool, &mut scored, tell)? {
            return Ok(None);
        }
        if scored.is_empty() {
            return Err(EvaluateError::Empty { data: self.corpus.id().to_owned(), unit: "document", language });
        }
        if !scored.iter().all(|document| document.nll.is_finite()) {
            let precision = subject.settings.precision.clone();
            return Err(EvaluateError::NotFinite { task: NAME, language, precision });
        }
        Ok(Some(report(language, &scored, &hex(&hash.finalize()))))
    }
}

/// The windows of a document of ids.
fn windows(ids: &[u32], document: usize, prefix: u32, context: usize) -> impl Iterator<Item = Window> {
    let whole: Vec<u32> = std::iter::once(prefix).chain(ids.iter().copied()).collect();
    let tokens = ids.len();
    (0..tokens).step_by(context).map(move |start| {
        let end = (start + context).min(tokens);
        // Position p of `whole` predicts token p; as much stands before as the context holds.
        let first = end.saturating_sub(context);
        Window { document, input: whole[first..end].to_vec(), targets: whole[start + 1..=end].to_vec() }
    })
}

/// Adds every window's log-likelihoods to its document's; false when the run was stopped.
fn score(
    subject: &Subject,
    windows: &[Window],
    scored: &mut [Scored],
    tell: &mut dyn FnMut(u64),
) -> Result<bool, EvaluateError> {
    let lengths: Vec<usize> = windows.iter().map(|window| window.input.len()).collect();
    let mut found: Vec<f64> = vec![0.0; windows.len()];
    for batch in batches(&lengths, subject.settings.batch_tokens) {
        if subject.stopped() {
            return Ok(false);
        }
        let inputs: Vec<&[u32]> = batch.iter().map(|&i| windows[i].input.as_slice()).collect();
        let ids = subject.batch(&inputs)?;
        let longest = ids.dim(1)?;
        let hidden = subject.decoder.hidden(&ids, &mut crate::model::Unobserved)?.flatten_to(1)?;
        let (mut places, mut targets) = (Vec::new(), Vec::new());
        for (row, &i) in batch.iter().enumerate() {
            let (end, predicted) = (row * longest + lengths[i], windows[i].targets.len());
            places.extend((end - predicted..end).map(|place| place as u32));
            targets.extend_from_slice(&windows[i].targets);
        }
        let mut log_p = subject.log_likelihoods(&hidden, &places, &targets)?.into_iter();
        for &i in &batch {
            found[i] = log_p.by_ref().take(windows[i].targets.len()).map(f64::from).sum();
        }
        tell(targets.len() as u64);
    }
    // In the order of the text: sums do not depend on how windows met in batches.
    for (window, log_p) in windows.iter().zip(found) {
        scored[window.document].nll -= log_p;
    }
    Ok(true)
}

fn report(language: LanguageCode, scored: &[Scored], sha256: &str) -> Report {
    let column = |of: fn(&Scored) -> f64| scored.iter().map(of).collect::<Vec<f64>>();
    let nll = column(|document| document.nll);
    let (tokens, bytes) = (column(|document| document.tokens as f64), column(|document| document.bytes as f64));
    let per_token = statistics::ratio("nll", Better::Lower, &nll, &tokens);
    let per_byte = statistics::ratio("nats_per_byte", Better::Lower, &nll, &bytes);
    let (exp, bits) = (per_token.value.exp(), 1.0 / std::f64::consts::LN_2);
    Report {
        task: NAME.to_owned(),
        language,
        unit: "document".to_owned(),
        units: scored.len(),
        tokens: scored.iter().map(|document| document.tokens).sum(),
        text_sha256: sha256.to_owned(),
        prompt: None,
        remarks: Vec::new(),
        scores: vec![
            statistics::mapped("bits_per_byte", &per_byte, per_byte.value * bits, bits),
            statistics::mapped("perplexity", &per_token, exp, exp),
            per_token,
        ],
        items: scored.iter().map(|d| json!({ "nll": d.nll, "tokens": d.tokens, "bytes": d.bytes })).collect(),
    }
}
