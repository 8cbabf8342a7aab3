//! `translation`: sentences out of one language into another by greedy generation, scored by chrF++ and BLEU.
//!
//! The first lines of the two languages are the examples of the prompt, the others are translated. A translation ends with its line,
//! with the token that ends a text, or with the tokens that it may have.

pub mod bleu;
pub mod chrf;
mod python;

use candle_core::Tensor;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Better, EvaluateError, Report, Score, Subject, Task, TaskOptions, runner::batches, statistics};
use crate::{
    corpus::{self, Corpus, Document, Split},
    language::{LanguageCode, Registry},
    model::Cache,
    output::hex,
};

pub const NAME: &str = "translation";

struct Translation {
    lines: Parallel,
    shots: usize,
    new_tokens: usize,
    limit: Option<usize>,
}

pub fn open(_: &str, options: &TaskOptions) -> Result<Box<dyn Task>, EvaluateError> {
    let lines = Parallel::open(NAME, options)?;
    let (shots, new_tokens, limit) = (options.shots, options.new_tokens, options.limit);
    Ok(Box::new(Translation { lines, shots, new_tokens, limit }))
}

/// A corpus whose lines are translations of one another.
pub struct Parallel {
    task: &'static str,
    corpus: Box<dyn Corpus>,
    split: Split,
    pub source: LanguageCode,
}

impl Parallel {
    pub fn open(task: &'static str, options: &TaskOptions) -> Result<Self, EvaluateError> {
        let spec = options.corpus.as_ref().ok_or(EvaluateError::NoCorpus { task })?;
        let reading = corpus::CorpusOptions { unit: corpus::DocumentUnit::Line, ..options.reading.clone() };
        let corpus = corpus::open(spec, &reading)?;
        let source = options.source;
        corpus.documents(source, Split::All)?;
        Ok(Self { task, corpus, split: options.split, source })
    }

    pub fn id(&self) -> &str {
        self.corpus.id()
    }

    /// The languages that have something to be parallel to.
    pub fn languages(&self) -> Vec<LanguageCode> {
        self.corpus.languages().into_iter().filter(|language| *language != self.source).collect()
    }

    /// Pairs of lines, first the source's. Where one of them is blank there is no pair.
    pub fn pairs(&self, language: LanguageCode) -> Result<Vec<(String, String)>, EvaluateError> {
        let (sources, targets) = (self.lines(self.source)?, self.lines(language)?);
        if sources.len() != targets.len() {
            return Err(EvaluateError::Parallel {
                corpus: self.id().to_owned(),
                language,
                found: targets.len() as u64,
                source_language: self.source,
                wanted: sources.len() as u64,
            });
        }
        Ok(sources.into_iter().zip(targets).filter_map(|(source, target)| Some((source?, target?))).collect())
    }

    /// The lines of a language, blank ones among them.
    fn lines(&self, language: LanguageCode) -> Result<Vec<Option<String>>, EvaluateError> {
        let mut documents = self.corpus.documents(language, self.split)?;
        let mut lines: Vec<Option<String>> = Vec::new();
        while let Some(document) = documents.next() {
            let Document::Text(text) = document? else {
                return Err(EvaluateError::NoText { corpus: self.id().to_owned(), task: self.task });
            };
            // Blank ones were passed over and counted; one line may hold a single line break, at its end.
            let place = documents.notes().empty_documents as usize + lines.iter().flatten().count();
            lines.resize(place, None);
            lines.push(Some(text.trim_end_matches(['\n', '\r']).to_owned()));
        }
        lines.resize(lines.iter().flatten().count() + documents.notes().empty_documents as usize, None);
        Ok(lines)
    }
}

/// SHA-256 over pairs of lines.
pub fn sha256(pairs: &[(String, String)]) -> String {
    let mut hash = Sha256::new();
    for text in pairs.iter().flat_map(|(source, target)| [source, target]) {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    hex(&hash.finalize())
}

/// The English name of a language, as prompts have it.
fn english(language: LanguageCode) -> String {
    Registry::builtin().get(language).map_or_else(|| language.to_string(), |language| language.name.clone())
}

impl Task for Translation {
    fn name(&self) -> &'static str {
        NAME
    }

    fn languages(&self) -> Vec<LanguageCode> {
        self.lines.languages()
    }

    fn settings(&self) -> Value {
        json!({
            "corpus": self.lines.id(), "split": self.lines.split, "source": self.lines.source, "limit": self.limit,
            "shots": self.shots, "new_tokens": self.new_tokens,
            "prompt": "{source language} sentence: {source}\n{target language} sentence: {target}, examples parted by an empty line",
            "generation": "greedy, up to the end of the line", "bleu": "13a, exponential smoothing",
            "chrf": "6 characters, 2 words, beta 2",
        })
    }

    fn run(
        &self,
        subject: &Subject,
        language: LanguageCode,
        tell: &mut dyn FnMut(u64),
    ) -> Result<Option<Report>, EvaluateError> {
        let mut pairs = self.lines.pairs(language)?;
        let tested = pairs.split_off(pairs.len().min(self.shots));
        let tested = &tested[..tested.len().min(self.limit.unwrap_or(usize::MAX))];
        if tested.is_empty() {
            let data = self.lines.id().to_owned();
            return Err(EvaluateError::Empty { data, unit: "line behind the examples", language });
        }
        let (from, to) = (english(self.lines.source), english(language));
        let shown = |source: &str, target: &str| format!("{from} sentence: {source}\n{to} sentence:{target}");
        let examples: String =
            pairs.iter().map(|(source, target)| shown(source, &format!(" {target}")) + "\n\n").collect();
        let prompts: Vec<String> = tested.iter().map(|(source, _)| examples.clone() + &shown(source, "")).collect();
        let Some((texts, tokens)) = generate(subject, &prompts, self.new_tokens, tell)? else { return Ok(None) };
        let mut report = report(language, tested, &texts, sha256(&[&pairs, tested].concat()));
        (report.tokens, report.prompt) = (tokens, prompts.into_iter().next());
        let empty = texts.iter().filter(|text| text.is_empty()).count();
        if empty > 0 {
            report.remarks.push(format!("{empty} of {} translations are empty", texts.len()));
        }
        Ok(Some(report))
    }
}

/// A row that is being written.
struct Writing {
    number: usize,
    ids: Vec<u32>,
}

/// The line that the model writes behind each prompt, and the tokens of all of them; nothing when the run was stopped.
fn generate(
    subject: &Subject,
    prompts: &[String],
    new_tokens: usize,
    tell: &mut dyn FnMut(u64),
) -> Result<Option<(Vec<String>, u64)>, EvaluateError> {
    let context = subject.settings.context;
    let new_tokens = new_tokens.min(context - 1);
    let cut = |prompt: &String| {
        let ids = subject.ids(prompt, true)?;
        let ids = if ids.is_empty() { vec![subject.settings.prefix] } else { ids };
        // Too many examples: the first ones go.
        Ok(ids[ids.len().saturating_sub(context - new_tokens)..].to_vec())
    };
    let prompts = prompts.iter().map(cut).collect::<Result<Vec<_>, EvaluateError>>()?;
    let sizes: Vec<usize> = prompts.iter().map(|ids| ids.len() + new_tokens).collect();
    let (mut texts, mut tokens) = (vec![String::new(); prompts.len()], 0);
    for batch in batches(&sizes, subject.settings.batch_tokens) {
        let mut cache = Cache::new(batch.len());
        let mut new: Vec<Vec<u32>> = batch.iter().map(|&i| prompts[i].clone()).collect();
        let mut writing: Vec<Writing> = batch.iter().map(|&number| Writing { number, ids: Vec::new() }).collect();
        while !writing.is_empty() {
            if subject.stopped() {
                return Ok(None);
            }
            let next = likeliest(subject, &mut cache, &new)?;
            tell(writing.len() as u64);
            tokens += writing.len() as u64;
            let mut going = Vec::new();
            for (row, (writing, id)) in writing.iter_mut().zip(&next).enumerate() {
                let ends = subject.settings.ends.contains(id);
                if !ends {
                    writing.ids.push(*id);
                }
                if ends || writing.ids.len() == new_tokens || decoded(subject, &[*id])?.contains('\n') {
                    // A line break in front of the translation is its end too, as for the harness.
                    let text = decoded(subject, &writing.ids)?;
                    let line = text.split('\n').next().unwrap_or_default().trim();
                    line.clone_into(&mut texts[writing.number]);
                } else {
                    going.push(row);
                }
            }
            if going.len() < writing.len() {
                cache = cache.select(&going)?;
                let mut row = 0;
                writing.retain(|_| {
                    row += 1;
                    going.contains(&(row - 1))
                });
            }
            new = going.iter().map(|&row| vec![next[row]]).collect();
        }
    }
    Ok(Some((texts, tokens)))
}

fn decoded(subject: &Subject, ids: &[u32]) -> Result<String, EvaluateError> {
    let failed = |error: tokenizers::Error| EvaluateError::Tokenizer {
        what: "what the model wrote".to_owned(),
        problem: error.to_string(),
    };
    subject.tokenizer.decode(ids, true).map_err(failed)
}

/// The likeliest next token of every row, after it was extended; of equal ones the first.
fn likeliest(subject: &Subject, cache: &mut Cache, new: &[Vec<u32>]) -> Result<Vec<u32>, EvaluateError> {
    let rows: Vec<&[u32]> = new.iter().map(Vec::as_slice).collect();
    let hidden = subject.decoder.extend(cache, &rows)?;
    let width = hidden.dim(1)?;
    let last: Vec<u32> = rows.iter().enumerate().map(|(row, new)| (row * width + new.len() - 1) as u32).collect();
    let last = Tensor::new(last, hidden.device())?;
    let logits = subject.decoder.head(&hidden.flatten_to(1)?.index_select(&last, 0)?)?;
    let logits = logits.to_dtype(candle_core::DType::F32)?.to_vec2::<f32>()?;
    let largest = |row: &Vec<f32>| {
        let mut best = 0;
        for (id, logit) in row.iter().enumerate() {
            if *logit > row[best] {
                best = id;
            }
        }
        best as u32
    };
    Ok(logits.iter().map(largest).collect())
}

fn report(language: LanguageCode, pairs: &[(String, String)], texts: &[String], sha256: String) -> Report {
    let both = || texts.iter().zip(pairs).map(|(text, (_, reference))| (text, reference));
    let chrf: Vec<_> = both().map(|(text, reference)| chrf::Statistics::of(text, reference)).collect();
    let bleu: Vec<_> = both().map(|(text, reference)| bleu::Statistics::of(text, reference)).collect();
    let all_chrf = chrf.iter().fold(chrf::Statistics::default(), chrf::Statistics::plus);
    let all_bleu = bleu.iter().fold(bleu::Statistics::default(), bleu::Statistics::plus);
    let score = |metric: &str, value: f64, without: Vec<f64>| -> Score {
        statistics::jackknife(metric, Better::Higher, value, &without)
    };
    let item = |(text, (source, reference)): (&String, &(String, String))| json!({ "source": source, "reference": reference, "hypothesis": text });
    Report {
        task: NAME.to_owned(),
        language,
        unit: "line".to_owned(),
        units: pairs.len(),
        tokens: 0,
        text_sha256: sha256,
        prompt: None,
        remarks: Vec::new(),
        scores: vec![
            score("chrf++", all_chrf.score(), chrf.iter().map(|one| all_chrf.minus(one).score()).collect()),
            score("bleu", all_bleu.score(), bleu.iter().map(|one| all_bleu.minus(one).score()).collect()),
        ],
        items: texts.iter().zip(pairs).map(item).collect(),
    }
}
