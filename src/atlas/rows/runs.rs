//! `data/runs.parquet`: everything needed to repeat a run, and the JSON in two of its columns.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Columns, Table};
use crate::{atlas::AtlasError, language::LanguageCode};

/// A run, `data/runs.parquet`: everything needed to repeat it.
#[derive(Clone, Debug, PartialEq)]
pub struct RunRow {
    /// Hash of the parameters.
    pub run: String,
    /// `profile`, `identify` or `import`.
    pub kind: String,
    /// The profile that an identification was made from.
    pub parent: Option<String>,
    /// Model id.
    pub model: String,
    /// Its revision.
    pub revision: Option<String>,
    /// Corpus, of a profile.
    pub corpus: Option<String>,
    /// Which of its documents.
    pub split: Option<String>,
    /// Tokens asked per language.
    pub tokens: Option<u64>,
    /// Tokens per window.
    pub context: Option<u64>,
    /// Between documents.
    pub separator: Option<String>,
    /// Folds of documents.
    pub folds: Option<u64>,
    /// Seed, of an identification.
    pub seed: Option<u64>,
    /// Number format of the forward pass.
    pub precision: Option<String>,
    /// Kind of device.
    pub device: Option<String>,
    /// Method, of an identification.
    pub method: Option<String>,
    /// Version of the program.
    pub tool_version: String,
    /// All parameters, as JSON with sorted keys.
    pub parameters: String,
    /// What an identification found out on the way, as JSON: bars, cut, notes.
    pub result: Option<String>,
    /// Where the masks of an import come from. Added in 1.1, and there only where an atlas holds an import.
    pub origin: Option<String>,
}

/// The kind of a run that took masks from a file.
pub(in crate::atlas) const IMPORT: &str = "import";

impl RunRow {
    /// The languages compared, of a run that found neurons.
    pub(in crate::atlas) fn compared(&self) -> Option<Vec<LanguageCode>> {
        serde_json::from_str(&self.parameters).ok().map(|parameters: IdentifyParameters| parameters.languages)
    }

    const SCHEMA: (&str, &str) = ("neuroglot.runs", "1.1");

    pub(in crate::atlas) fn write(rows: &[Self], place: &Path) -> Result<usize, AtlasError> {
        let number = |value: Option<u64>| value.map(|n| n as i64);
        let imported = rows.iter().any(|row| row.origin.is_some());
        let table = Table::default()
            .text("run", rows.iter().map(|row| &row.run))
            .text("kind", rows.iter().map(|row| &row.kind))
            .optional_text("parent", rows.iter().map(|row| row.parent.as_ref()))
            .text("model", rows.iter().map(|row| &row.model))
            .optional_text("revision", rows.iter().map(|row| row.revision.as_ref()))
            .optional_text("corpus", rows.iter().map(|row| row.corpus.as_ref()))
            .optional_text("split", rows.iter().map(|row| row.split.as_ref()))
            .optional_i64("tokens", rows.iter().map(|row| number(row.tokens)))
            .optional_i64("context", rows.iter().map(|row| number(row.context)))
            .optional_text("separator", rows.iter().map(|row| row.separator.as_ref()))
            .optional_i64("folds", rows.iter().map(|row| number(row.folds)))
            .optional_i64("seed", rows.iter().map(|row| number(row.seed)))
            .optional_text("precision", rows.iter().map(|row| row.precision.as_ref()))
            .optional_text("device", rows.iter().map(|row| row.device.as_ref()))
            .optional_text("method", rows.iter().map(|row| row.method.as_ref()))
            .text("tool_version", rows.iter().map(|row| &row.tool_version))
            .text("parameters", rows.iter().map(|row| &row.parameters))
            .optional_text("result", rows.iter().map(|row| row.result.as_ref()));
        if imported {
            table.optional_text("origin", rows.iter().map(|row| row.origin.as_ref())).write(place, Self::SCHEMA)
        } else {
            table.write(place, (Self::SCHEMA.0, "1.0"))
        }
    }

    pub(in crate::atlas) fn read(path: &Path) -> Result<Vec<Self>, AtlasError> {
        let table = Columns::read(path, Self::SCHEMA)?;
        let (runs, kinds, parents) = (table.text("run")?, table.text("kind")?, table.optional_text("parent")?);
        let (models, revisions, corpora) =
            (table.text("model")?, table.optional_text("revision")?, table.optional_text("corpus")?);
        let (splits, separators, methods) =
            (table.optional_text("split")?, table.optional_text("separator")?, table.optional_text("method")?);
        let (precisions, devices) = (table.optional_text("precision")?, table.optional_text("device")?);
        let number = |name| -> Result<Vec<Option<u64>>, AtlasError> {
            Ok(table.optional_integer(name)?.into_iter().map(|n| n.and_then(|n| u64::try_from(n).ok())).collect())
        };
        let (tokens, contexts, folds, seeds) =
            (number("tokens")?, number("context")?, number("folds")?, number("seed")?);
        let (versions, parameters, results) =
            (table.text("tool_version")?, table.text("parameters")?, table.optional_text("result")?);
        let origins = table.added_text("origin")?;
        let row = |i: usize| Self {
            run: runs[i].clone(),
            kind: kinds[i].clone(),
            parent: parents[i].clone(),
            model: models[i].clone(),
            revision: revisions[i].clone(),
            corpus: corpora[i].clone(),
            split: splits[i].clone(),
            tokens: tokens[i],
            context: contexts[i],
            separator: separators[i].clone(),
            folds: folds[i],
            seed: seeds[i],
            precision: precisions[i].clone(),
            device: devices[i].clone(),
            method: methods[i].clone(),
            tool_version: versions[i].clone(),
            parameters: parameters[i].clone(),
            result: results[i].clone(),
            origin: origins[i].clone(),
        };
        Ok((0..table.rows()).map(row).collect())
    }
}

/// Parameters of an identification; their hash is its run id. What nobody knows of masks that others made is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IdentifyParameters {
    /// Run of the profile; an import has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Method.
    pub method: String,
    /// Quantile of the filter bar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter_rate: Option<f64>,
    /// Quantile of the activation bar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation_bar: Option<f64>,
    /// Rates, ascending.
    pub top_rates: Vec<f64>,
    /// `exact` or `reference`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arithmetic: Option<String>,
    /// Seed of draws.
    pub seed: u64,
    /// Resamples behind the selection frequencies.
    pub resamples: u32,
    /// The languages compared: another list gives other sets. Those of an import stand in the order of its file.
    pub languages: Vec<LanguageCode>,
    /// The file that an import was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// A file of masks that others made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Its name.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// Its hash.
    pub sha256: String,
    /// Where it was published, in the words of who imported it.
    pub source: Option<String>,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, SHA-256 {}", self.file, self.sha256)?;
        self.source.iter().try_for_each(|source| write!(f, ", {source}"))
    }
}

/// What an identification found out on the way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IdentifyResult {
    /// Probability that a neuron had to exceed in some language to be considered.
    pub filter_bar: Option<f64>,
    /// Probability above which a neuron serves a language.
    pub activation_bar: Option<f64>,
    /// Neurons that passed the filter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finite: Option<usize>,
    /// One entry per rate, ascending.
    pub rates: Vec<RateResult>,
    /// What a reader should know, in words.
    pub notes: Vec<String>,
}

/// One cut of the ranking.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RateResult {
    /// Share of the model's neurons asked for; of an import that does not say it, the share that is in the masks.
    pub rate: f64,
    /// The same as a number of neurons: ranks below it belong to this cut.
    pub asked: usize,
    /// Neurons selected.
    pub selected: usize,
    /// Highest entropy selected, in nats.
    pub entropy_cut: Option<f64>,
    /// Neurons tied at the cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tied: Option<usize>,
    /// How many of them were taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken: Option<usize>,
}

impl IdentifyResult {
    /// The largest rate, which the tables hold in full.
    #[must_use]
    pub fn largest(&self) -> Option<&RateResult> {
        self.rates.last()
    }

    /// The entry of a rate, or the largest.
    #[must_use]
    pub fn rate(&self, rate: Option<f64>) -> Option<&RateResult> {
        match rate {
            None => self.largest(),
            Some(wanted) => self.rates.iter().find(|rate| (rate.rate - wanted).abs() < 1e-12),
        }
    }
}

impl RateResult {
    /// Whether a rank belongs to this cut. Neurons of an import have none, and all of them belong to its only cut.
    #[must_use]
    pub fn includes(&self, rank: Option<u32>) -> bool {
        rank.is_none_or(|rank| (rank as usize) < self.asked)
    }
}
