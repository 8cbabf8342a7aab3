//! Before and after: differences of two evaluations, unit by unit.

use serde::Serialize;

use super::{Better, EvaluateError, Evaluation, Report};
use crate::language::LanguageCode;

/// How a measure changed from one evaluation to another.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The task.
    pub task: String,
    /// The language.
    pub language: LanguageCode,
    /// The measure.
    pub metric: String,
    /// Which direction is an improvement.
    pub better: Better,
    /// Units that both saw.
    pub units: usize,
    /// Its value before.
    pub before: f64,
    /// Its value after.
    pub after: f64,
    /// After minus before.
    pub difference: f64,
    /// Standard error of the difference, paired unit by unit.
    pub stderr: Option<f64>,
}

impl Difference {
    /// The difference in units of its standard error, counted as positive where it is an improvement.
    #[must_use]
    pub fn gain(&self) -> Option<f64> {
        let sign = if self.better == Better::Higher { 1.0 } else { -1.0 };
        self.stderr.filter(|stderr| *stderr > 0.0).map(|stderr| sign * self.difference / stderr)
    }
}

/// The differences of everything that both evaluations measured, in the order of the later one.
///
/// # Errors
/// When they have nothing in common, or what they share was measured on other text.
pub fn compare(before: &Evaluation, after: &Evaluation) -> Result<Vec<Difference>, EvaluateError> {
    let mut differences = Vec::new();
    for report in &after.reports {
        let same = |other: &&Report| (&other.task, other.language) == (&report.task, report.language);
        let Some(earlier) = before.reports.iter().find(same) else { continue };
        let not_paired = |what| EvaluateError::NotPaired { task: report.task.clone(), language: report.language, what };
        if earlier.units != report.units || earlier.text_sha256 != report.text_sha256 {
            return Err(not_paired("text"));
        }
        let settings = |evaluation: &Evaluation| {
            evaluation.parameters.tasks.iter().find(|task| task.task == report.task).map(|task| task.settings.clone())
        };
        if settings(before) != settings(after) || before.parameters.context != after.parameters.context {
            return Err(not_paired("settings"));
        }
        for score in &report.scores {
            let Some(old) = earlier.scores.iter().find(|old| old.metric == score.metric) else { continue };
            differences.push(Difference {
                task: report.task.clone(),
                language: report.language,
                metric: score.metric.clone(),
                better: score.better,
                units: report.units,
                before: old.value,
                after: score.value,
                difference: score.value - old.value,
                stderr: score.spread.minus(&old.spread).and_then(|spread| spread.stderr()),
            });
        }
    }
    if differences.is_empty() { Err(EvaluateError::NothingInCommon) } else { Ok(differences) }
}
