//! An evaluation on disk: one JSON file, or a folder with a file per task and language. Either grows report by report, so that a run
//! that was ended goes on where it stopped.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{EvaluateError, Report};
use crate::{
    checkpoint::CheckpointHashes,
    language::LanguageCode,
    output,
    profile::{canonical, differences},
};

/// The head of an evaluation that is a folder.
pub const EVALUATION: &str = "evaluation.json";
const SCHEMA: &str = "neuroglot.evaluation";
const VERSION: &str = "1.0";

/// Everything that decides an evaluation's numbers. Its hash is the run's id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parameters {
    /// The model's name.
    pub model: String,
    /// Its revision, where it has one.
    pub revision: Option<String>,
    /// Hashes of its files.
    pub hashes: CheckpointHashes,
    /// SHA-256 of the delta on top of it, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delta: Option<String>,
    /// Number format of the forward pass.
    pub precision: String,
    /// Kind of device.
    pub device: String,
    /// Tokens that the model sees at most.
    pub context: usize,
    /// The tasks.
    pub tasks: Vec<TaskParameters>,
}

/// A task and its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskParameters {
    /// Its name.
    pub task: String,
    /// Its settings.
    pub settings: Value,
}

/// Reports of one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// `neuroglot.evaluation`.
    pub schema: String,
    /// A reader refuses a newer major version.
    pub schema_version: String,
    /// The program that made it.
    pub tool_version: String,
    /// Id of the run.
    pub run: String,
    /// What decides its numbers.
    pub parameters: Parameters,
    /// What was measured, in the order of tasks and languages.
    #[serde(default)]
    pub reports: Vec<Report>,
}

impl Evaluation {
    /// An evaluation that has measured nothing yet.
    #[must_use]
    pub fn new(parameters: Parameters) -> Self {
        let json = canonical(&serde_json::to_value(&parameters).expect("plain data"));
        Self {
            schema: SCHEMA.to_owned(),
            schema_version: VERSION.to_owned(),
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            run: output::sha256(json.as_bytes())[..16].to_owned(),
            parameters,
            reports: Vec::new(),
        }
    }

    /// Reads an evaluation: the file, or the folder with all its reports.
    ///
    /// # Errors
    /// When it cannot be read or is none.
    pub fn read(place: &Path) -> Result<Self, EvaluateError> {
        if !place.is_dir() {
            return Self::head(place);
        }
        let mut evaluation = Self::head(&place.join(EVALUATION))?;
        for task in &evaluation.parameters.tasks {
            let folder = place.join(&task.task);
            let mut files: Vec<PathBuf> =
                std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
            files.retain(|file| file.extension().is_some_and(|end| end == "json"));
            files.sort();
            for file in files {
                evaluation.reports.push(parse(&file)?);
            }
        }
        Ok(evaluation)
    }

    fn head(path: &Path) -> Result<Self, EvaluateError> {
        let head: Self = parse(path)?;
        let major = |version: &str| version.split('.').next().map(str::to_owned);
        if head.schema != SCHEMA || major(&head.schema_version) != major(VERSION) {
            let problem = format!("it is `{} {}`, and {SCHEMA} {VERSION} is wanted", head.schema, head.schema_version);
            return Err(EvaluateError::Broken { path: path.to_owned(), problem });
        }
        Ok(head)
    }

    /// The report of a task in a language.
    #[must_use]
    pub fn report(&self, task: &str, language: LanguageCode) -> Option<&Report> {
        self.reports.iter().find(|report| report.task == task && report.language == language)
    }
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, EvaluateError> {
    let broken = |problem: String| EvaluateError::Broken { path: path.to_owned(), problem };
    let bytes = std::fs::read(path).map_err(|error| broken(format!("it cannot be read: {error}")))?;
    serde_json::from_slice(&bytes).map_err(|error| broken(error.to_string()))
}

/// Where an evaluation goes.
pub struct Store {
    place: PathBuf,
    /// What is there.
    pub evaluation: Evaluation,
}

impl Store {
    /// Begins an evaluation, or goes on with the one of the same parameters that is there.
    ///
    /// # Errors
    /// When the place holds something else.
    pub fn begin(place: &Path, parameters: Parameters) -> Result<Self, EvaluateError> {
        let fresh = Evaluation::new(parameters);
        let head = if is_file(place) { place.to_owned() } else { place.join(EVALUATION) };
        if !head.exists() {
            if !is_file(place) && output::is_occupied(place, &[]) {
                return Err(EvaluateError::Occupied { path: place.to_owned() });
            }
            return Ok(Self { place: place.to_owned(), evaluation: fresh });
        }
        let there = Evaluation::read(place)?;
        if there.run != fresh.run {
            let difference = difference(&there.parameters, &fresh.parameters);
            return Err(EvaluateError::OtherRun { path: head, difference });
        }
        Ok(Self { place: place.to_owned(), evaluation: there })
    }

    /// Keeps a report. Nothing is written before the first one, so that a run which failed at once leaves its place free. Reports stand in the order of the tasks, and of a task in that of the codes.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add(&mut self, report: Report) -> Result<(), EvaluateError> {
        let text = serde_json::to_string_pretty(&report).expect("plain data") + "\n";
        let file = format!("{}/{}.json", report.task, report.language);
        self.evaluation.reports.push(report);
        let order = |report: &Report| {
            let tasks = &self.evaluation.parameters.tasks;
            (tasks.iter().position(|task| task.task == report.task), report.language)
        };
        let mut reports = std::mem::take(&mut self.evaluation.reports);
        reports.sort_by_key(order);
        self.evaluation.reports = reports;
        if is_file(&self.place) {
            return self.write_head();
        }
        if self.evaluation.reports.len() == 1 {
            self.write_head()?;
        }
        Ok(output::write(&self.place.join(file), text.as_bytes())?)
    }

    fn write_head(&self) -> Result<(), EvaluateError> {
        if is_file(&self.place) {
            let text = serde_json::to_string_pretty(&self.evaluation).expect("plain data") + "\n";
            return Ok(output::write(&self.place, text.as_bytes())?);
        }
        let head = Evaluation { reports: Vec::new(), ..self.evaluation.clone() };
        let text = serde_json::to_string_pretty(&head).expect("plain data") + "\n";
        Ok(output::write(&self.place.join(EVALUATION), text.as_bytes())?)
    }
}

/// Whether a place is that of a single file.
fn is_file(place: &Path) -> bool {
    place.is_file() || (!place.is_dir() && place.extension().is_some_and(|end| end == "json"))
}

/// The fields in which two evaluations differ, with both values.
fn difference(there: &Parameters, wanted: &Parameters) -> String {
    let names =
        |parameters: &Parameters| parameters.tasks.iter().map(|task| task.task.as_str()).collect::<Vec<_>>().join(", ");
    if names(there) != names(wanted) {
        return format!("tasks ({} there, {} here)", names(there), names(wanted));
    }
    let value = |parameters: &Parameters| serde_json::to_value(parameters).expect("plain data");
    let mut found = differences(&value(there), &value(wanted));
    found.truncate(3);
    found.join(", ")
}
