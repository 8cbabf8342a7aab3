//! `data/overlap/MODEL/METHOD.parquet`: one row per pair of languages.

use std::path::Path;

use super::{Columns, Table};
use crate::{atlas::AtlasError, language::LanguageCode};

/// What two languages share, `data/overlap/MODEL/METHOD.parquet`.
#[derive(Clone, Debug, PartialEq)]
pub struct OverlapRow {
    /// Model id.
    pub model: String,
    /// Identification run.
    pub run: String,
    /// Method.
    pub method: String,
    /// The first language by code.
    pub language_a: LanguageCode,
    /// The second.
    pub language_b: LanguageCode,
    /// Neurons that serve both.
    pub shared: usize,
    /// Shared over all of both; none where both sets are empty.
    pub jaccard: Option<f64>,
    /// Shared over the smaller set.
    pub overlap_coefficient: Option<f64>,
    /// Cosine of the activation probabilities of all neurons.
    pub cosine: Option<f64>,
}

impl OverlapRow {
    const SCHEMA: (&str, &str) = ("neuroglot.overlap", "1.0");

    pub(in crate::atlas) fn write(rows: &[Self], place: &Path) -> Result<usize, AtlasError> {
        Table::default()
            .text("model", rows.iter().map(|row| &row.model))
            .text("run", rows.iter().map(|row| &row.run))
            .text("method", rows.iter().map(|row| &row.method))
            .text("language_a", rows.iter().map(|row| row.language_a.to_string()))
            .text("language_b", rows.iter().map(|row| row.language_b.to_string()))
            .i32("shared", rows.iter().map(|row| row.shared as i32))
            .optional_f64("jaccard", rows.iter().map(|row| row.jaccard))
            .optional_f64("overlap_coefficient", rows.iter().map(|row| row.overlap_coefficient))
            .optional_f64("cosine", rows.iter().map(|row| row.cosine))
            .write(place, Self::SCHEMA)
    }

    pub(in crate::atlas) fn read(path: &Path) -> Result<Vec<Self>, AtlasError> {
        let table = Columns::read(path, Self::SCHEMA)?;
        let (models, runs, methods) = (table.text("model")?, table.text("run")?, table.text("method")?);
        let (first, second, shared) =
            (table.parsed("language_a")?, table.parsed("language_b")?, table.counts("shared")?);
        let (jaccard, coefficient, cosine) = (
            table.optional_float("jaccard")?,
            table.optional_float("overlap_coefficient")?,
            table.optional_float("cosine")?,
        );
        let row = |i: usize| Self {
            model: models[i].clone(),
            run: runs[i].clone(),
            method: methods[i].clone(),
            language_a: first[i],
            language_b: second[i],
            shared: shared[i],
            jaccard: jaccard[i],
            overlap_coefficient: coefficient[i],
            cosine: cosine[i],
        };
        Ok((0..table.rows()).map(row).collect())
    }
}
