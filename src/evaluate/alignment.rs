//! `alignment`: how much nearer a sentence's hidden state lies to that of its translation than to those of other sentences.
//!
//! Per layer: the mean cosine of the mean-pooled residual streams of parallel sentences, minus that of mismatched pairs. A sentence is
//! read behind the token that begins a text, which is not pooled: many models park a large state there that all sentences share.

use candle_core::{DType, Device, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::{
    Better, EvaluateError, Report, Subject, Task, TaskOptions,
    runner::batches,
    statistics,
    translation::{Parallel, sha256},
};
use crate::language::LanguageCode;

pub const NAME: &str = "alignment";

/// Resamples of the bootstrap.
const RESAMPLES: usize = 1000;
/// Sentences compared at most: every one is compared with every other.
const MOST: usize = 1000;

struct Alignment {
    lines: Parallel,
    limit: usize,
    seed: u64,
}

pub fn open(_: &str, options: &TaskOptions) -> Result<Box<dyn Task>, EvaluateError> {
    let lines = Parallel::open(NAME, options)?;
    Ok(Box::new(Alignment { lines, limit: options.limit.unwrap_or(MOST).min(MOST), seed: options.seed }))
}

impl Task for Alignment {
    fn name(&self) -> &'static str {
        NAME
    }

    fn languages(&self) -> Vec<LanguageCode> {
        self.lines.languages()
    }

    fn settings(&self) -> Value {
        json!({
            "corpus": self.lines.id(), "source": self.lines.source, "limit": self.limit, "seed": self.seed,
            "resamples": RESAMPLES,
            "states": "residual stream behind every layer, mean over the tokens of a sentence, read behind the token that begins a text",
        })
    }

    fn run(
        &self,
        subject: &Subject,
        language: LanguageCode,
        tell: &mut dyn FnMut(u64),
    ) -> Result<Option<Report>, EvaluateError> {
        let mut pairs = self.lines.pairs(language)?;
        let all = pairs.len();
        pairs.truncate(self.limit);
        if pairs.len() < 2 {
            let data = self.lines.id().to_owned();
            return Err(EvaluateError::Empty { data, unit: "pair of two lines", language });
        }
        let (sources, targets): (Vec<&str>, Vec<&str>) = pairs.iter().map(|(a, b)| (a.as_str(), b.as_str())).unzip();
        let Some((sources, first)) = states(subject, &sources, tell)? else { return Ok(None) };
        let Some((targets, second)) = states(subject, &targets, tell)? else { return Ok(None) };
        let weights = resamples(pairs.len(), self.seed)?;
        let mut layers = Vec::new();
        for (source, target) in sources.iter().zip(&targets) {
            // [sentences, sentences]: cosine of sentence i and the translation of sentence j.
            layers.push(Cosines::new(&source.matmul(&target.t()?)?)?.resampled(&weights)?);
        }
        let mut report = report(language, &layers, pairs.len(), sha256(&pairs));
        report.tokens = first + second;
        if all > pairs.len() {
            report.remarks.push(format!("the first {} of {all} sentences", pairs.len()));
        }
        if !report.scores.iter().all(|score| score.value.is_finite()) {
            let precision = subject.settings.precision.clone();
            return Err(EvaluateError::NotFinite { task: NAME, language, precision });
        }
        Ok(Some(report))
    }
}

/// Of every layer, the sentences' states `[sentences, hidden]` in f64, each of length 1; and the tokens that were pooled.
#[allow(clippy::type_complexity)]
fn states(
    subject: &Subject,
    sentences: &[&str],
    tell: &mut dyn FnMut(u64),
) -> Result<Option<(Vec<Tensor>, u64)>, EvaluateError> {
    let mut rows = Vec::with_capacity(sentences.len());
    for sentence in sentences {
        let mut ids = [&[subject.settings.prefix], subject.ids(sentence, false)?.as_slice()].concat();
        ids.truncate(subject.settings.context);
        rows.push(ids);
    }
    let sizes: Vec<usize> = rows.iter().map(Vec::len).collect();
    let depth = subject.decoder.spec().ffn.layers;
    let mut pooled: Vec<Vec<Option<Tensor>>> = vec![vec![None; rows.len()]; depth];
    for batch in batches(&sizes, subject.settings.batch_tokens) {
        if subject.stopped() {
            return Ok(None);
        }
        let windows: Vec<&[u32]> = batch.iter().map(|&i| rows[i].as_slice()).collect();
        let ids = subject.batch(&windows)?;
        subject.decoder.residuals(&ids, &mut |layer, x| {
            for (row, &i) in batch.iter().enumerate() {
                let own = x.get(row)?.narrow(0, 1, sizes[i] - 1)?.to_dtype(DType::F32)?;
                pooled[layer][i] = Some(own.mean(0)?.to_device(&Device::Cpu)?.to_dtype(DType::F64)?);
            }
            Ok(())
        })?;
        tell(batch.iter().map(|&i| sizes[i] as u64).sum());
    }
    let unit = |layer: Vec<Option<Tensor>>| {
        let states =
            Tensor::stack(&layer.into_iter().map(|state| state.expect("every row was run")).collect::<Vec<_>>(), 0)?;
        states.broadcast_div(&states.sqr()?.sum_keepdim(1)?.sqrt()?)
    };
    let tokens = sizes.iter().map(|size| *size as u64 - 1).sum();
    Ok(Some((pooled.into_iter().map(unit).collect::<Result<_, _>>()?, tokens)))
}

/// How often each sentence is in each resample, `[resamples, sentences]`.
fn resamples(sentences: usize, seed: u64) -> candle_core::Result<Tensor> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut weights = vec![0f64; RESAMPLES * sentences];
    for row in weights.chunks_mut(sentences) {
        for _ in 0..sentences {
            row[random.random_range(0..sentences)] += 1.0;
        }
    }
    Tensor::from_vec(weights, (RESAMPLES, sentences), &Device::Cpu)
}

/// Cosines of all pairs of one layer.
struct Cosines {
    all: Tensor,
    matched: Tensor,
}

/// A layer's measure, its two parts and its resamples.
struct Layer {
    matched: f64,
    mismatched: f64,
    resamples: Vec<f64>,
}

impl Cosines {
    fn new(all: &Tensor) -> candle_core::Result<Self> {
        let (sentences, _) = all.dims2()?;
        let eye = Tensor::eye(sentences, DType::F64, all.device())?;
        Ok(Self { matched: (all * eye)?.sum(1)?, all: all.clone() })
    }

    /// Pairs of a sentence with itself, drawn twice, are no mismatched pairs.
    fn resampled(&self, weights: &Tensor) -> candle_core::Result<Layer> {
        let of = |weights: &Tensor| {
            let n = weights.sum(1)?;
            let square = weights.sqr()?;
            let diagonal = self.matched.unsqueeze(1)?;
            let matched = (weights.matmul(&diagonal)?.squeeze(1)? / &n)?;
            let pairs = (n.sqr()? - square.sum(1)?)?;
            let every = (weights.matmul(&self.all)? * weights)?.sum(1)?;
            let mismatched = ((every - square.matmul(&diagonal)?.squeeze(1)?)? / pairs)?;
            Ok::<_, candle_core::Error>((matched.to_vec1::<f64>()?, mismatched.to_vec1::<f64>()?))
        };
        let (matched, mismatched) = of(&Tensor::ones((1, weights.dim(1)?), DType::F64, weights.device())?)?;
        let (a, b) = of(weights)?;
        let resamples = a.iter().zip(&b).map(|(a, b)| a - b).filter(|value| value.is_finite()).collect();
        Ok(Layer { matched: matched[0], mismatched: mismatched[0], resamples })
    }
}

fn report(language: LanguageCode, layers: &[Layer], sentences: usize, sha256: String) -> Report {
    let depth = layers.len() as f64;
    let value = |layer: &Layer| layer.matched - layer.mismatched;
    let mean_of = |draw: usize| layers.iter().map(|layer| layer.resamples[draw]).sum::<f64>() / depth;
    let draws = layers.iter().map(|layer| layer.resamples.len()).min().unwrap_or(0);
    let mean = layers.iter().map(value).sum::<f64>() / depth;
    let all = statistics::bootstrap("alignment", Better::Higher, mean, (0..draws).map(mean_of).collect());
    let of_layer = |(number, layer): (usize, &Layer)| {
        statistics::bootstrap(&format!("layer_{number:02}"), Better::Higher, value(layer), layer.resamples.clone())
    };
    let row = |(number, layer): (usize, &Layer)| json!({ "layer": number, "matched": layer.matched, "mismatched": layer.mismatched });
    Report {
        task: NAME.to_owned(),
        language,
        unit: "sentence".to_owned(),
        units: sentences,
        tokens: 0,
        text_sha256: sha256,
        prompt: None,
        remarks: Vec::new(),
        scores: std::iter::once(all).chain(layers.iter().enumerate().map(of_layer)).collect(),
        items: layers.iter().enumerate().map(row).collect(),
    }
}
