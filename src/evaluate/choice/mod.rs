//! Multiple choice by log-likelihood: which continuation of a prompt does the model find likeliest?
//!
//! Scores are those of lm-evaluation-harness on the same items: prompt and continuation are tokenised together and cut where the prompt
//! alone ends, spaces at the end of the prompt belong to the continuation, what is too long is cut from the left.
//! `acc` takes the largest sum of log-likelihoods, `acc_norm` divides it by the continuation's characters, `acc_bytes` by its bytes.

mod formats;

use candle_core::Tensor;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub use self::formats::{FORMATS, Format};
use super::{Better, EvaluateError, Report, Subject, Task, TaskOptions, runner::batches, statistics};
use crate::{
    corpus::{Records, RecordsSpec},
    language::LanguageCode,
    model::Cache,
    output::hex,
};

pub const NAME: &str = "choice";

/// A question.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// What it is called in the data, or its row.
    pub id: String,
    /// The prompt.
    pub context: String,
    /// The continuations, with the space that parts them from the prompt.
    pub continuations: Vec<String>,
    /// The continuations as they are measured for normalised accuracies.
    pub choices: Vec<String>,
    /// Which of them is right.
    pub answer: usize,
}

struct Choice {
    format: &'static Format,
    records: Records,
    limit: Option<usize>,
}

pub fn open(name: &str, options: &TaskOptions) -> Result<Box<dyn Task>, EvaluateError> {
    let format = FORMATS.iter().find(|format| format.name == name).expect("a name of the table");
    let published = || format!("hub:{}", format.published).parse::<RecordsSpec>();
    let spec = options.data.clone().map_or_else(published, Ok)?;
    let language = format.language.map(|code| code.parse().expect("a code of the registry"));
    let records = Records::open(&spec, format.parts, language, options.reading.offline)?;
    Ok(Box::new(Choice { format, records, limit: options.limit }))
}

impl Task for Choice {
    fn name(&self) -> &'static str {
        self.format.name
    }

    fn languages(&self) -> Vec<LanguageCode> {
        self.records.languages()
    }

    fn settings(&self) -> Value {
        json!({
            "data": self.records.id(), "limit": self.limit, "context": self.format.context,
            "continuations": self.format.continuations, "shots": 0,
        })
    }

    fn run(
        &self,
        subject: &Subject,
        language: LanguageCode,
        tell: &mut dyn FnMut(u64),
    ) -> Result<Option<Report>, EvaluateError> {
        let records = self.records.of(language, self.limit)?;
        let items =
            records.into_iter().map(|record| self.format.item(&record, language)).collect::<Result<Vec<_>, _>>()?;
        if items.is_empty() {
            return Err(EvaluateError::Empty { data: self.records.id().to_owned(), unit: "item", language });
        }
        let requests = items.iter().map(|item| Request::new(subject, item)).collect::<Result<Vec<_>, _>>()?;
        let Some(found) = score(subject, &requests, tell)? else { return Ok(None) };
        if found.iter().flatten().any(|log_p| !log_p.is_finite()) {
            let precision = subject.settings.precision.clone();
            return Err(EvaluateError::NotFinite { task: self.format.name, language, precision });
        }
        let cut = requests.iter().filter(|request| request.cut).count();
        let mut report = report(self.format.name, language, &items, &found);
        report.tokens = requests.iter().map(Request::targets).sum::<usize>() as u64;
        if cut > 0 {
            report.remarks.push(format!("{cut} prompts are longer than the context and were cut from the left"));
        }
        Ok(Some(report))
    }
}

/// An item's continuations as tokens.
struct Request {
    /// Tokens that the inputs of all continuations begin with.
    shared: usize,
    rows: Vec<Row>,
    /// Whether the prompt was too long.
    cut: bool,
}

struct Row {
    /// What the model reads.
    input: Vec<u32>,
    /// What its last positions predict.
    targets: Vec<u32>,
}

impl Request {
    fn new(subject: &Subject, item: &Item) -> Result<Self, EvaluateError> {
        let context = subject.settings.context;
        let mut cut = false;
        let row = |continuation: &String| {
            let (mut ids, targets) = pair(subject, &item.context, continuation)?;
            // All but the last token is read, at most as many as the context holds.
            cut |= ids.len() > context + 1;
            ids.drain(..ids.len().saturating_sub(context + 1));
            let targets = targets[targets.len().saturating_sub(ids.len() - 1)..].to_vec();
            ids.pop();
            Ok(Row { input: ids, targets })
        };
        let rows = item.continuations.iter().map(row).collect::<Result<Vec<Row>, EvaluateError>>()?;
        let first = &rows[0].input;
        let common = |row: &Row| first.iter().zip(&row.input).take_while(|(a, b)| a == b).count();
        let shared = rows.iter().map(common).min().unwrap_or(0);
        Ok(Self { shared, rows, cut })
    }

    fn targets(&self) -> usize {
        self.rows.iter().map(|row| row.targets.len()).sum()
    }

    /// Inputs that go beyond what is shared, by the number of their row.
    fn rest(&self) -> impl Iterator<Item = (usize, &[u32])> {
        let rest = self.rows.iter().map(|row| &row.input[self.shared..]).enumerate();
        rest.filter(|(_, input)| !input.is_empty())
    }
}

/// Ids of a prompt and its continuation, and which of them are the continuation's.
fn pair(subject: &Subject, context: &str, continuation: &str) -> Result<(Vec<u32>, Vec<u32>), EvaluateError> {
    if context.is_empty() {
        let own = subject.ids(continuation, false)?;
        return Ok(([&[subject.settings.prefix], own.as_slice()].concat(), own));
    }
    let bare = context.trim_end();
    let whole = subject.ids(&format!("{context}{continuation}"), true)?;
    let before = subject.ids(bare, true)?.len().min(whole.len());
    let own = whole[before..].to_vec();
    Ok((whole, own))
}

/// Log-likelihood of every continuation of every request; nothing when the run was stopped. What continuations share is run once, and
/// those that differ in their last token only, as letters of answers do, cost nothing beyond it.
fn score(
    subject: &Subject,
    requests: &[Request],
    tell: &mut dyn FnMut(u64),
) -> Result<Option<Vec<Vec<f64>>>, EvaluateError> {
    let size = |request: &Request| {
        let rest = request.rest().map(|(_, input)| input.len()).max().unwrap_or(0) * request.rest().count();
        request.shared + rest
    };
    let sizes: Vec<usize> = requests.iter().map(size).collect();
    let mut found: Vec<Vec<f64>> = requests.iter().map(|request| vec![0.0; request.rows.len()]).collect();
    for batch in batches(&sizes, subject.settings.batch_tokens) {
        if subject.stopped() {
            return Ok(None);
        }
        let requests: Vec<&Request> = batch.iter().map(|&i| &requests[i]).collect();
        for (&i, scores) in batch.iter().zip(score_batch(subject, &requests)?) {
            found[i] = scores;
        }
        tell(requests.iter().map(|request| request.targets() as u64).sum());
    }
    Ok(Some(found))
}

fn score_batch(subject: &Subject, requests: &[&Request]) -> Result<Vec<Vec<f64>>, EvaluateError> {
    let mut found: Vec<Vec<f64>> = requests.iter().map(|request| vec![0.0; request.rows.len()]).collect();
    let shared: Vec<&[u32]> = requests.iter().map(|request| &request.rows[0].input[..request.shared]).collect();
    let rest: Vec<(usize, usize, &[u32])> = (requests.iter().enumerate())
        .flat_map(|(number, request)| request.rest().map(move |(row, input)| (number, row, input)))
        .collect();
    let mut cache = Cache::new(requests.len());
    let first = subject.decoder.extend(&mut cache, &shared)?;
    let second = if rest.is_empty() {
        None
    } else {
        let mut cache = cache.select(&rest.iter().map(|&(number, _, _)| number).collect::<Vec<_>>())?;
        Some(subject.decoder.extend(&mut cache, &rest.iter().map(|&(_, _, input)| input).collect::<Vec<_>>())?)
    };
    // Where the states of every row's positions stand: in the first pass those of what is shared, behind them those of the second.
    let (width, wide) = (first.dim(1)?, second.as_ref().map_or(Ok(0), |hidden| hidden.dim(1))?);
    let hidden = match &second {
        None => first.flatten_to(1)?,
        Some(second) => Tensor::cat(&[first.flatten_to(1)?, second.flatten_to(1)?], 0)?,
    };
    let (mut places, mut targets, mut owners) = (Vec::new(), Vec::new(), Vec::new());
    for (number, request) in requests.iter().enumerate() {
        for (at, row) in request.rows.iter().enumerate() {
            let second = rest.iter().position(|&(owner, row, _)| (owner, row) == (number, at));
            for (position, &target) in (row.input.len() - row.targets.len()..).zip(&row.targets) {
                let place = match second {
                    Some(place) if position >= request.shared => {
                        requests.len() * width + place * wide + position - request.shared
                    }
                    _ => number * width + position,
                };
                places.push(place as u32);
                targets.push(target);
                owners.push((number, at));
            }
        }
    }
    for ((number, at), log_p) in owners.into_iter().zip(subject.log_likelihoods(&hidden, &places, &targets)?) {
        found[number][at] += f64::from(log_p);
    }
    Ok(found)
}

fn report(task: &str, language: LanguageCode, items: &[Item], found: &[Vec<f64>]) -> Report {
    let mut hash = Sha256::new();
    let mut add = |text: &str| {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    };
    for item in items {
        add(&item.context);
        item.continuations.iter().for_each(|continuation| add(continuation));
        add(&item.answer.to_string());
    }
    let accuracy = |metric: &str, length: &dyn Fn(&str) -> f64| {
        let right = |(item, scores): (&Item, &Vec<f64>)| {
            let normed = scores.iter().zip(&item.choices).map(|(score, choice)| score / length(choice));
            f64::from(u8::from(largest(normed) == item.answer))
        };
        statistics::mean(metric, Better::Higher, &items.iter().zip(found).map(right).collect::<Vec<_>>())
    };
    let row =
        |(item, scores): (&Item, &Vec<f64>)| json!({ "id": item.id, "answer": item.answer, "log_likelihoods": scores });
    Report {
        task: task.to_owned(),
        language,
        unit: "item".to_owned(),
        units: items.len(),
        tokens: 0,
        text_sha256: hex(&hash.finalize()),
        prompt: items.first().map(|item| format!("{}{}", item.context, item.continuations[item.answer])),
        remarks: Vec::new(),
        scores: vec![
            accuracy("acc", &|_| 1.0),
            accuracy("acc_norm", &|choice| choice.chars().count().max(1) as f64),
            accuracy("acc_bytes", &|choice| choice.len().max(1) as f64),
        ],
        items: items.iter().zip(found).map(row).collect(),
    }
}

/// The place of the largest value, of equal ones the first.
fn largest(values: impl Iterator<Item = f64>) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (at, value) in values.enumerate() {
        if value > best.1 {
            best = (at, value);
        }
    }
    best.0
}
