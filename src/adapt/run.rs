//! A run's folder: what decides it, its metrics line by line, and a state that it continues from to the bit.
//!
//!     run.json                what decides the run; another command is refused here
//!     text/                   token ids to train and to validate on
//!     metrics.jsonl           loss, gradient norm and learning rate per step; validation; no times
//!     speed.jsonl             tokens per second of the steps behind the first, and memory, of every process that worked on the run
//!     state.safetensors       the last values, both moments, the step and the length of metrics.jsonl
//!     best.safetensors        the values of the best validation
//!     delta.safetensors       what comes out

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    path::{Path, PathBuf},
};

use candle_core::Tensor;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    AdaptError, Text,
    optimiser::Moments,
    trainable::{Parameter, values},
};
use crate::{
    output::{self, OutputError},
    profile::{canonical, differences},
};

/// What decides a run, and a run's id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunHead {
    /// Version of the format.
    pub version: u32,
    /// The first 16 hexadecimal digits of the SHA-256 of the parameters.
    pub run: String,
    /// Everything that decides what comes out.
    pub parameters: Value,
}

impl RunHead {
    /// Of parameters.
    #[must_use]
    pub fn new(parameters: Value) -> Self {
        let run = output::sha256(canonical(&parameters).as_bytes())[..16].to_owned();
        Self { version: 1, run, parameters }
    }
}

/// A line of metrics.jsonl.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Metric {
    /// A step.
    Step {
        /// From 1.
        step: u64,
        /// Mean negative log-likelihood of its tokens, nats per token.
        loss: f64,
        /// Norm of the gradient before clipping.
        gradient_norm: f64,
        /// Learning rate.
        rate: f64,
    },
    /// A validation.
    Validation {
        /// Steps done before it.
        step: u64,
        /// Mean negative log-likelihood of the held-out tokens, nats per token.
        validation: f64,
        /// How many were scored.
        tokens: u64,
    },
}

/// How far a run is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    /// The best validation so far: its step and its loss.
    pub best: Option<(u64, f64)>,
    /// The validation before training.
    pub before: Option<f64>,
    /// The last validation.
    pub last: Option<f64>,
    /// Validations since the best.
    pub waited: u32,
    /// Whether the run has ended, by its steps or early.
    pub done: bool,
    /// Bytes of metrics.jsonl that belong to the steps done.
    pub metrics: u64,
}

/// Values, moments and progress.
pub(super) type State = (Vec<Moments>, Progress);

/// A run folder.
pub struct RunFolder {
    path: PathBuf,
    /// What decides the run.
    pub head: RunHead,
}

const HEAD: &str = "run.json";
const METRICS: &str = "metrics.jsonl";
const STATE: &str = "state.safetensors";
const BEST: &str = "best.safetensors";

impl RunFolder {
    /// Where a command keeps the masks that it fetched from a Hub for a run, before the run begins.
    pub const ATLAS: &str = ".atlas";

    /// A folder for a run: a new one, or one of the same run that is continued.
    ///
    /// # Errors
    /// When it holds something else.
    pub fn begin(path: &Path, head: RunHead) -> Result<Self, AdaptError> {
        let file = path.join(HEAD);
        if file.is_file() {
            let bytes = std::fs::read(&file).map_err(|error| damaged(&file, error))?;
            let found: RunHead = serde_json::from_slice(&bytes).map_err(|error| damaged(&file, error))?;
            if found.run != head.run {
                if path.join(STATE).is_file() || path.join(BEST).is_file() {
                    let mut what = differences(&found.parameters, &head.parameters);
                    what.truncate(3);
                    return Err(AdaptError::OtherRun { path: path.to_owned(), what: what.join(", ") });
                }
                // A run without a state, be it that its settings were wrong, gives way to another.
                Text::forget(path)?;
                output::write(&file, &serde_json::to_vec_pretty(&head).expect("plain data"))?;
            }
        } else {
            if output::is_occupied(path, &[Self::ATLAS]) {
                return Err(AdaptError::Occupied { path: path.to_owned() });
            }
            output::write(&file, &serde_json::to_vec_pretty(&head).expect("plain data"))?;
        }
        Ok(Self { path: path.to_owned(), head })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file of the folder.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Appends to the metrics.
    pub(super) fn metrics(&self, progress: &Progress) -> Result<Lines, AdaptError> {
        let path = self.file(METRICS);
        let failed = |source| OutputError { path: path.clone(), source };
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        let there = file.metadata().map_err(failed)?.len();
        if there < progress.metrics {
            return Err(damaged(&path, format!("it has {there} bytes, the state knows of {}", progress.metrics)));
        }
        // What a killed process wrote behind its last state is written again by the same steps.
        file.set_len(progress.metrics).map_err(failed)?;
        drop(file);
        let file = OpenOptions::new().append(true).open(&path).map_err(failed)?;
        Ok(Lines { path, file, written: progress.metrics })
    }

    /// Appends to the record of speed, which no run depends on.
    pub(super) fn speed(&self, line: &Value) -> Result<(), AdaptError> {
        let path = self.file("speed.jsonl");
        let failed = |source| OutputError { path: path.clone(), source };
        let mut file = OpenOptions::new().create(true).append(true).open(&path).map_err(failed)?;
        writeln!(file, "{line}").map_err(failed)?;
        Ok(())
    }

    /// The metrics so far.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read_metrics(&self) -> Result<Vec<Metric>, AdaptError> {
        let path = self.file(METRICS);
        let mut text = String::new();
        File::open(&path).and_then(|mut file| file.read_to_string(&mut text)).map_err(|error| damaged(&path, error))?;
        text.lines().map(|line| serde_json::from_str(line).map_err(|error| damaged(&path, error))).collect()
    }

    /// How far the run is, without its values.
    ///
    /// # Errors
    /// When the state is broken.
    pub fn progress(&self) -> Result<Progress, AdaptError> {
        let path = self.file(STATE);
        if !path.is_file() {
            return Ok(Progress::default());
        }
        let bytes = std::fs::read(&path).map_err(|error| damaged(&path, error))?;
        progress(&path, &bytes)
    }

    /// Values, moments and progress of the state; none where the run has not got so far.
    pub(super) fn state(&self, parameters: &[Parameter]) -> Result<Option<State>, AdaptError> {
        let path = self.file(STATE);
        if !path.is_file() {
            return Ok(None);
        }
        let bytes = std::fs::read(&path).map_err(|error| damaged(&path, error))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|error| damaged(&path, error))?;
        let mut moments = Vec::with_capacity(parameters.len());
        for parameter in parameters {
            let part = |kind: &str| floats(&path, &file, &format!("{kind}.{}", parameter.name), parameter);
            parameter.var.set(&part("value")?)?;
            moments.push(Moments { mean: part("mean")?, square: part("square")? });
        }
        Ok(Some((moments, progress(&path, &bytes)?)))
    }

    /// Sets parameters to the values of the best validation.
    pub(super) fn take_best(&self, parameters: &[Parameter]) -> Result<(), AdaptError> {
        let path = self.file(BEST);
        let bytes = std::fs::read(&path).map_err(|error| damaged(&path, error))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|error| damaged(&path, error))?;
        for parameter in parameters {
            parameter.var.set(&floats(&path, &file, &format!("value.{}", parameter.name), parameter)?)?;
        }
        Ok(())
    }

    pub(super) fn write_state(
        &self,
        parameters: &[Parameter],
        moments: &[Moments],
        progress: &Progress,
    ) -> Result<(), AdaptError> {
        let named = |(parameter, moments): (&Parameter, &Moments)| {
            let parts = [("value", parameter.var.as_tensor()), ("mean", &moments.mean), ("square", &moments.square)];
            parts.map(|(kind, tensor)| (format!("{kind}.{}", parameter.name), tensor.clone()))
        };
        write_floats(
            &self.file(STATE),
            &json!({ "progress": serde_json::to_string(progress).expect("plain data") }),
            &parameters.iter().zip(moments).flat_map(named).collect::<Vec<_>>(),
        )
    }

    pub(super) fn write_best(&self, parameters: &[Parameter]) -> Result<(), AdaptError> {
        let named = |parameter: &Parameter| (format!("value.{}", parameter.name), parameter.var.as_tensor().clone());
        write_floats(&self.file(BEST), &json!({}), &parameters.iter().map(named).collect::<Vec<_>>())
    }
}

/// A file of a run that was damaged by other hands: our own writing leaves it whole or not there.
fn damaged(path: &Path, problem: impl std::fmt::Display) -> AdaptError {
    let way_out = "put it back, or remove the run's folder, and the same command begins anew";
    AdaptError::broken(path, format!("is damaged ({problem}); {way_out}"))
}

fn progress(path: &Path, bytes: &[u8]) -> Result<Progress, AdaptError> {
    let broken = |problem: String| damaged(path, problem);
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| broken(error.to_string()))?;
    let said = header.metadata().clone().unwrap_or_default();
    let text = said.get("progress").ok_or_else(|| broken("does not say how far the run is".to_owned()))?;
    serde_json::from_str(text).map_err(|error| broken(error.to_string()))
}

fn floats(path: &Path, file: &SafeTensors, name: &str, like: &Parameter) -> Result<Tensor, AdaptError> {
    let view = file.tensor(name).map_err(|error| damaged(path, error))?;
    if view.dtype() != Dtype::F32 || view.shape() != like.var.dims() {
        let problem =
            format!("tensor `{name}` is {:?} {:?}, but {:?} is wanted", view.dtype(), view.shape(), like.var.dims());
        return Err(damaged(path, problem));
    }
    let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect::<Vec<_>>();
    Ok(Tensor::from_vec(values, view.shape(), like.var.device())?)
}

/// Writes a safetensors file of f32 tensors, one after the other: the same bytes for the same values, which the library's metadata in
/// chance order would not be.
fn write_floats(path: &Path, metadata: &Value, tensors: &[(String, Tensor)]) -> Result<(), AdaptError> {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".to_owned(), metadata.clone());
    let mut end = 0;
    for (name, tensor) in tensors {
        let start = end;
        end += 4 * tensor.elem_count();
        header.insert(name.clone(), json!({ "dtype": "F32", "shape": tensor.dims(), "data_offsets": [start, end] }));
    }
    let failed = |source| OutputError { path: path.to_owned(), source };
    let mut draft = output::Draft::new(path)?;
    draft.write_all(&head(&header)).map_err(failed)?;
    for (_, tensor) in tensors {
        for value in values(tensor)? {
            draft.write_all(&value.to_le_bytes()).map_err(failed)?;
        }
    }
    draft.keep()?;
    Ok(())
}

/// The first bytes of a safetensors file.
pub(super) fn head(header: &serde_json::Map<String, Value>) -> Vec<u8> {
    let mut json = serde_json::to_vec(header).expect("plain data");
    json.resize(json.len().next_multiple_of(8), b' ');
    [&(json.len() as u64).to_le_bytes(), json.as_slice()].concat()
}

/// metrics.jsonl, open at its end.
pub(super) struct Lines {
    path: PathBuf,
    file: File,
    written: u64,
}

impl Lines {
    pub fn put(&mut self, metric: &Metric) -> Result<(), AdaptError> {
        let line = serde_json::to_string(metric).expect("plain data") + "\n";
        let failed = |source| OutputError { path: self.path.clone(), source };
        self.file.write_all(line.as_bytes()).map_err(failed)?;
        self.written += line.len() as u64;
        Ok(())
    }

    /// Waits until the lines are on the disk, and says how many bytes there are.
    pub fn settle(&self) -> Result<u64, AdaptError> {
        let failed = |source| OutputError { path: self.path.clone(), source };
        self.file.sync_all().map_err(failed)?;
        Ok(self.written)
    }
}
