//! The neurons of a language, from an atlas folder or a file of masks, for this very model.

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde_json::Value;

use super::AdaptError;
use crate::{
    atlas::{Atlas, MaskSet, ModelRow},
    checkpoint::CheckpointHashes,
    language::LanguageCode,
    neuron::{FfnShape, NeuronSet},
};

/// Which neurons, and what says so.
#[derive(Clone, Debug, PartialEq)]
pub struct AtlasMask {
    /// The neurons.
    pub neurons: NeuronSet,
    /// The method that found them.
    pub method: String,
    /// The identification run.
    pub run: String,
    /// The rate that they were cut at.
    pub rate: f64,
}

/// The model that a mask must be of.
pub struct Model<'a> {
    id: &'a str,
    revision: Option<&'a str>,
    hashes: &'a CheckpointHashes,
    shape: FfnShape,
}

/// Reads the neurons of a language from an atlas folder or a safetensors file of masks.
///
/// # Errors
/// When the language, the method or the rate is not there, or model, revision, weights or width differ.
#[allow(clippy::too_many_arguments, reason = "half of them say which model, half which neurons")]
pub fn read(
    path: &Path,
    id: &str,
    revision: Option<&str>,
    hashes: &CheckpointHashes,
    shape: FfnShape,
    language: LanguageCode,
    method: &str,
    rate: Option<f64>,
) -> Result<AtlasMask, AdaptError> {
    let model = Model { id, revision, hashes, shape };
    if path.is_file() { model.file(path, language) } else { model.atlas(path, language, method, rate) }
}

const OTHER_NAME: &str = "if it is the same model under another name, say so with --model-id";
const OTHER_WEIGHTS: &str = "take the model that the atlas was made from, or make an atlas of this one";

impl Model<'_> {
    fn atlas(
        &self,
        path: &Path,
        language: LanguageCode,
        method: &str,
        rate: Option<f64>,
    ) -> Result<AtlasMask, AdaptError> {
        let atlas = Atlas::open(path)?;
        let row = match atlas.models.iter().find(|row| row.id == self.id) {
            Some(row) => row,
            None => atlas.models.iter().find(|row| self.has_weights_of(row)).ok_or_else(|| {
                let theirs = atlas.models.iter().map(|row| row.id.clone()).collect::<Vec<_>>().join(", ");
                other(path, "model", theirs, self.id, OTHER_NAME)
            })?,
        };
        self.check_shape(path, row.shape())?;
        self.check_revision(path, row.revision.as_deref())?;
        if row.weights_sha256.is_some() && !self.has_weights_of(row) {
            let theirs = format!("weights of another SHA-256 ({})", row.id);
            return Err(other(path, "other weights", theirs, "its own", OTHER_WEIGHTS));
        }
        let (neurons, cut) = atlas.set(row, method, language, rate)?;
        let (run, _, _) = atlas.identification(row, method)?;
        Ok(AtlasMask { neurons, method: method.to_owned(), run: run.run.clone(), rate: cut.rate })
    }

    fn file(&self, path: &Path, language: LanguageCode) -> Result<AtlasMask, AdaptError> {
        let broken = |problem: String| AdaptError::broken(path, problem);
        let bytes = std::fs::read(path).map_err(|error| broken(format!("cannot be read: {error}")))?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes)
            .map_err(|error| broken(format!("is no safetensors file of masks: {error}")))?;
        let said = metadata.metadata().clone().unwrap_or_default();
        let field = |name: &str| said.get(name).cloned();
        let known = |name: &str| {
            field(name).ok_or_else(|| broken(format!("does not say its {name}; write it with `neuroglot mask`")))
        };
        let number = |name: &str| {
            let text = known(name)?;
            text.parse::<usize>().map_err(|_| broken(format!("says that its {name} is `{text}`")))
        };
        let theirs = known("model")?;
        if theirs != self.id {
            return Err(other(path, "model", theirs, self.id, OTHER_NAME));
        }
        let experts = field("experts").map_or(Ok(1), |_| number("experts"))?;
        self.check_shape(path, FfnShape { layers: number("layers")?, experts, width: number("width")? })?;
        self.check_revision(path, field("revision").as_deref())?;
        let mut sets = MaskSet::parse(path, &bytes, self.shape)?;
        let held = sets.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let missing = || AdaptError::NotInMask { path: path.to_owned(), language, held };
        Ok(AtlasMask {
            neurons: sets.remove(&language).ok_or_else(missing)?,
            method: field("method").unwrap_or_default(),
            run: field("run").unwrap_or_default(),
            rate: field("top_rate").and_then(|rate| rate.parse().ok()).unwrap_or_default(),
        })
    }

    fn has_weights_of(&self, row: &ModelRow) -> bool {
        let ours = serde_json::to_value(&self.hashes.weights).expect("plain data");
        let theirs = row.weights_sha256.as_ref().and_then(|text| serde_json::from_str::<Value>(text).ok());
        theirs == Some(ours)
    }

    fn check_shape(&self, path: &Path, theirs: FfnShape) -> Result<(), AdaptError> {
        if theirs == self.shape {
            return Ok(());
        }
        Err(other(path, "a model with", theirs.to_string(), &self.shape.to_string(), OTHER_WEIGHTS))
    }

    fn check_revision(&self, path: &Path, theirs: Option<&str>) -> Result<(), AdaptError> {
        match (theirs, self.revision) {
            (Some(theirs), Some(ours)) if theirs != ours => {
                Err(other(path, "revision", theirs.to_owned(), ours, "write --model OWNER/NAME@REVISION"))
            }
            _ => Ok(()),
        }
    }
}

fn other(path: &Path, what: &'static str, theirs: String, ours: &str, advice: &'static str) -> AdaptError {
    AdaptError::OtherModel { path: PathBuf::from(path), what, theirs, ours: ours.to_owned(), advice }
}
