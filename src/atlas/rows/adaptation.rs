//! `data/adaptation/MODEL/METHOD-RUN.parquet`: what training for a language changed in it and elsewhere, measure by measure.

use std::path::Path;

use super::{Columns, Table};
use crate::{atlas::AtlasError, language::LanguageCode};

/// A measure before and after an adaptation, `data/adaptation/MODEL/METHOD-RUN.parquet`.
#[derive(Clone, Debug, PartialEq)]
pub struct AdaptationRow {
    /// Id of the base model.
    pub model: String,
    /// Run that trained, or else that measured the result.
    pub run: String,
    /// The method of adaptation: `subnetwork`, `lora`, `full` and so on.
    pub method: String,
    /// The language that was trained for.
    pub target: LanguageCode,
    /// Parameters that the adaptation touched, where somebody said.
    pub parameters: Option<u64>,
    /// The task.
    pub task: String,
    /// The language that was measured.
    pub language: LanguageCode,
    /// The measure.
    pub metric: String,
    /// [`AdaptationRow::HIGHER`] or [`AdaptationRow::LOWER`]: which direction is an improvement.
    pub better: String,
    /// Documents, items or sentences that it was measured on.
    pub units: u64,
    /// Of the base model.
    pub before: f64,
    /// Of the adapted one.
    pub after: f64,
    /// After minus before.
    pub difference: f64,
    /// Standard error of the difference, paired unit by unit; none of a single unit.
    pub stderr: Option<f64>,
}

impl AdaptationRow {
    const SCHEMA: (&str, &str) = ("neuroglot.adaptation", "1.0");
    /// Larger values are better.
    pub const HIGHER: &str = "higher";
    /// Smaller values are better.
    pub const LOWER: &str = "lower";

    /// The difference, positive where it is an improvement.
    #[must_use]
    pub fn gain(&self) -> f64 {
        if self.better == Self::LOWER { -self.difference } else { self.difference }
    }

    /// Writes a table; returns its number of rows.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(rows: &[Self], place: &Path) -> Result<usize, AtlasError> {
        let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        Table::default()
            .text("model", rows.iter().map(|row| &row.model))
            .text("run", rows.iter().map(|row| &row.run))
            .text("method", rows.iter().map(|row| &row.method))
            .text("target", rows.iter().map(|row| row.target.to_string()))
            .optional_i64("parameters", rows.iter().map(|row| row.parameters.map(count)))
            .text("task", rows.iter().map(|row| &row.task))
            .text("language", rows.iter().map(|row| row.language.to_string()))
            .text("metric", rows.iter().map(|row| &row.metric))
            .text("better", rows.iter().map(|row| &row.better))
            .i64("units", rows.iter().map(|row| count(row.units)))
            .optional_f64("before", rows.iter().map(|row| Some(row.before)))
            .optional_f64("after", rows.iter().map(|row| Some(row.after)))
            .optional_f64("difference", rows.iter().map(|row| Some(row.difference)))
            .optional_f64("stderr", rows.iter().map(|row| row.stderr))
            .write(place, Self::SCHEMA)
    }

    /// Reads a table.
    ///
    /// # Errors
    /// When the file is broken, or a value in it means nothing.
    pub fn read(path: &Path) -> Result<Vec<Self>, AtlasError> {
        let table = Columns::read(path, Self::SCHEMA)?;
        let text = |name: &str| table.text(name);
        let (models, runs, methods) = (text("model")?, text("run")?, text("method")?);
        let (tasks, metrics, betters) = (text("task")?, text("metric")?, text("better")?);
        let (targets, languages) = (table.parsed("target")?, table.parsed("language")?);
        let (parameters, units) = (table.optional_counts("parameters")?, table.counts("units")?);
        let number = |name: &str| -> Result<Vec<f64>, AtlasError> {
            let known = |(row, value): (usize, Option<f64>)| {
                let problem = || AtlasError::broken(path, format!("column `{name}` is no number in row {row}"));
                value.filter(|value| value.is_finite()).ok_or_else(problem)
            };
            table.optional_float(name)?.into_iter().enumerate().map(known).collect()
        };
        let (before, after, difference) = (number("before")?, number("after")?, number("difference")?);
        let errors = table.optional_float("stderr")?;
        let row = |i: usize| {
            if ![Self::HIGHER, Self::LOWER].contains(&betters[i].as_str()) {
                return Err(AtlasError::broken(path, format!("column `better` is `{}` in row {i}", betters[i])));
            }
            if (after[i] - before[i] - difference[i]).abs() > 1e-9 * (1.0 + after[i].abs() + before[i].abs()) {
                return Err(AtlasError::broken(path, format!("`difference` is not `after` minus `before` in row {i}")));
            }
            if errors[i].is_some_and(|error| !(error >= 0.0 && error.is_finite())) {
                return Err(AtlasError::broken(path, format!("column `stderr` is no standard error in row {i}")));
            }
            Ok(Self {
                model: models[i].clone(),
                run: runs[i].clone(),
                method: methods[i].clone(),
                target: targets[i],
                parameters: parameters[i],
                task: tasks[i].clone(),
                language: languages[i],
                metric: metrics[i].clone(),
                better: betters[i].clone(),
                units: units[i],
                before: before[i],
                after: after[i],
                difference: difference[i],
                stderr: errors[i],
            })
        };
        (0..table.rows()).map(row).collect()
    }
}
