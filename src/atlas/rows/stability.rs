//! `data/stability/MODEL/METHOD.parquet`: one row per language.

use std::path::Path;

use super::{Columns, Table};
use crate::{atlas::AtlasError, language::LanguageCode};

/// How far a language's set can be trusted, `data/stability/MODEL/METHOD.parquet`; a language without neurons has its row too.
#[derive(Clone, Debug, PartialEq)]
pub struct StabilityRow {
    /// Model id.
    pub model: String,
    /// Identification run.
    pub run: String,
    /// Method.
    pub method: String,
    /// The language.
    pub language: LanguageCode,
    /// Neurons that serve it.
    pub neurons: usize,
    /// Design effect of its documents.
    pub deff: Option<f64>,
    /// Mean selection frequency of its neurons.
    pub mean_selection_freq: Option<f64>,
    /// Jaccard of the sets found in even and in odd folds.
    pub split_half_jaccard: Option<f64>,
    /// Mean probability above the activation bar.
    pub margin_to_bar: Option<f64>,
}

impl StabilityRow {
    const SCHEMA: (&str, &str) = ("neuroglot.stability", "1.0");

    pub(in crate::atlas) fn write(rows: &[Self], place: &Path) -> Result<usize, AtlasError> {
        Table::default()
            .text("model", rows.iter().map(|row| &row.model))
            .text("run", rows.iter().map(|row| &row.run))
            .text("method", rows.iter().map(|row| &row.method))
            .text("language", rows.iter().map(|row| row.language.to_string()))
            .i32("neurons", rows.iter().map(|row| row.neurons as i32))
            .optional_f64("deff", rows.iter().map(|row| row.deff))
            .optional_f64("mean_selection_freq", rows.iter().map(|row| row.mean_selection_freq))
            .optional_f64("split_half_jaccard", rows.iter().map(|row| row.split_half_jaccard))
            .optional_f64("margin_to_bar", rows.iter().map(|row| row.margin_to_bar))
            .write(place, Self::SCHEMA)
    }

    pub(in crate::atlas) fn read(path: &Path) -> Result<Vec<Self>, AtlasError> {
        let table = Columns::read(path, Self::SCHEMA)?;
        let (models, runs, methods) = (table.text("model")?, table.text("run")?, table.text("method")?);
        let (languages, neurons) = (table.parsed("language")?, table.counts("neurons")?);
        let (deff, frequency) = (table.optional_float("deff")?, table.optional_float("mean_selection_freq")?);
        let (jaccard, margin) = (table.optional_float("split_half_jaccard")?, table.optional_float("margin_to_bar")?);
        let row = |i: usize| Self {
            model: models[i].clone(),
            run: runs[i].clone(),
            method: methods[i].clone(),
            language: languages[i],
            neurons: neurons[i],
            deff: deff[i],
            mean_selection_freq: frequency[i],
            split_half_jaccard: jaccard[i],
            margin_to_bar: margin[i],
        };
        Ok((0..table.rows()).map(row).collect())
    }
}
