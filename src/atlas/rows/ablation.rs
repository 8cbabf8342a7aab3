//! `data/ablation/MODEL/METHOD.parquet`: what switching off a language's neurons does to every language, beside random controls.

use std::path::Path;

use super::{Columns, Table};
use crate::{atlas::AtlasError, language::LanguageCode};

/// A cell of the ablation matrix, `data/ablation/MODEL/METHOD.parquet`.
#[derive(Clone, Debug, PartialEq)]
pub struct AblationRow {
    /// Model id.
    pub model: String,
    /// Run that measured it.
    pub run: String,
    /// Method that selected the neurons.
    pub method: String,
    /// The language whose neurons were switched off, or as many random ones.
    pub ablated: LanguageCode,
    /// The language on whose text the loss was measured.
    pub language: LanguageCode,
    /// [`AblationRow::OWN`], [`AblationRow::PER_LAYER`] or [`AblationRow::ANYWHERE`].
    pub control: String,
    /// Which draw of a control, from 0.
    pub draw: u16,
    /// Rise of the mean loss, in nats per token.
    pub delta: f64,
    /// Its standard error over windows.
    pub stderr: Option<f64>,
}

impl AblationRow {
    const SCHEMA: (&str, &str) = ("neuroglot.ablation", "1.0");
    /// The language's own neurons.
    pub const OWN: &str = "own";
    /// Random neurons, as many in each layer.
    pub const PER_LAYER: &str = "random-per-layer";
    /// Random neurons, as many over all layers.
    pub const ANYWHERE: &str = "random-anywhere";

    /// Writes a table of cells; returns its number of rows.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(rows: &[Self], place: &Path) -> Result<usize, AtlasError> {
        Table::default()
            .text("model", rows.iter().map(|row| &row.model))
            .text("run", rows.iter().map(|row| &row.run))
            .text("method", rows.iter().map(|row| &row.method))
            .text("ablated", rows.iter().map(|row| row.ablated.to_string()))
            .text("language", rows.iter().map(|row| row.language.to_string()))
            .text("control", rows.iter().map(|row| &row.control))
            .i16("draw", rows.iter().map(|row| row.draw as i16))
            .optional_f64("delta", rows.iter().map(|row| Some(row.delta)))
            .optional_f64("stderr", rows.iter().map(|row| row.stderr))
            .write(place, Self::SCHEMA)
    }

    /// Reads a table of cells.
    ///
    /// # Errors
    /// When the file is broken, or names a control that is none.
    pub fn read(path: &Path) -> Result<Vec<Self>, AtlasError> {
        let table = Columns::read(path, Self::SCHEMA)?;
        let (models, runs, methods) = (table.text("model")?, table.text("run")?, table.text("method")?);
        let (ablated, languages) = (table.parsed("ablated")?, table.parsed("language")?);
        let (controls, draws) = (table.text("control")?, table.counts("draw")?);
        let (deltas, errors) = (table.optional_float("delta")?, table.optional_float("stderr")?);
        let row = |i: usize| {
            if ![Self::OWN, Self::PER_LAYER, Self::ANYWHERE].contains(&controls[i].as_str()) {
                return Err(AtlasError::broken(path, format!("column `control` is `{}` in row {i}", controls[i])));
            }
            let delta = deltas[i].filter(|delta| delta.is_finite());
            Ok(Self {
                model: models[i].clone(),
                run: runs[i].clone(),
                method: methods[i].clone(),
                ablated: ablated[i],
                language: languages[i],
                control: controls[i].clone(),
                draw: draws[i],
                delta: delta
                    .ok_or_else(|| AtlasError::broken(path, format!("column `delta` is no number in row {i}")))?,
                stderr: errors[i],
            })
        };
        (0..table.rows()).map(row).collect()
    }
}
