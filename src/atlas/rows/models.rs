//! `data/models.parquet`: one row per model.

use std::path::Path;

use super::{Columns, Table};
use crate::{atlas::AtlasError, neuron::FfnShape};

/// A model, `data/models.parquet`.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelRow {
    /// `owner/name`, or the name of its folder.
    pub id: String,
    /// Commit on the Hub.
    pub revision: Option<String>,
    /// `model_type` of its config.
    pub architecture: String,
    /// Decoder layers.
    pub layers: usize,
    /// Experts per layer that a router chooses from; 1 in a dense model. Added in 1.1.
    pub experts: usize,
    /// Neurons per expert, which are those of a layer in a dense model.
    pub width: usize,
    /// Parameters.
    pub parameters: u64,
    /// Number format of the stored weights. This and the hashes are unknown of a model that only others have run, and then null, from
    /// 1.2 on.
    pub dtype: Option<String>,
    /// SHA-256 of config.json.
    pub config_sha256: Option<String>,
    /// SHA-256 of tokenizer.json.
    pub tokenizer_sha256: Option<String>,
    /// JSON object: weight file to SHA-256.
    pub weights_sha256: Option<String>,
    /// SPDX identifier of its licence.
    pub licence: Option<String>,
}

impl ModelRow {
    const SCHEMA: (&str, &str) = ("neuroglot.models", "1.2");

    /// The grid of its neurons.
    #[must_use]
    pub fn shape(&self) -> FfnShape {
        FfnShape { layers: self.layers, experts: self.experts, width: self.width }
    }

    pub(in crate::atlas) fn write(rows: &[Self], place: &Path) -> Result<usize, AtlasError> {
        let known = |row: &Self| {
            [&row.dtype, &row.config_sha256, &row.tokenizer_sha256, &row.weights_sha256]
                .iter()
                .all(|known| known.is_some())
        };
        let version = if rows.iter().all(known) { "1.1" } else { Self::SCHEMA.1 };
        Table::default()
            .text("id", rows.iter().map(|row| &row.id))
            .optional_text("revision", rows.iter().map(|row| row.revision.as_ref()))
            .text("architecture", rows.iter().map(|row| &row.architecture))
            .i32("layers", rows.iter().map(|row| row.layers as i32))
            .i32("experts", rows.iter().map(|row| row.experts as i32))
            .i32("width", rows.iter().map(|row| row.width as i32))
            .i64("parameters", rows.iter().map(|row| row.parameters as i64))
            .known_text("dtype", rows.iter().map(|row| row.dtype.as_ref()))
            .known_text("config_sha256", rows.iter().map(|row| row.config_sha256.as_ref()))
            .known_text("tokenizer_sha256", rows.iter().map(|row| row.tokenizer_sha256.as_ref()))
            .known_text("weights_sha256", rows.iter().map(|row| row.weights_sha256.as_ref()))
            .optional_text("licence", rows.iter().map(|row| row.licence.as_ref()))
            .write(place, (Self::SCHEMA.0, version))
    }

    pub(in crate::atlas) fn read(path: &Path) -> Result<Vec<Self>, AtlasError> {
        let table = Columns::read(path, Self::SCHEMA)?;
        let (layers, experts, width) =
            (table.counts("layers")?, table.added_counts("experts", 1)?, table.counts("width")?);
        let (ids, revisions, licences) =
            (table.text("id")?, table.optional_text("revision")?, table.optional_text("licence")?);
        let (architectures, parameters, dtypes) =
            (table.text("architecture")?, table.counts("parameters")?, table.optional_text("dtype")?);
        let (configs, tokenizers, weights) = (
            table.optional_text("config_sha256")?,
            table.optional_text("tokenizer_sha256")?,
            table.optional_text("weights_sha256")?,
        );
        let row = |i: usize| Self {
            id: ids[i].clone(),
            revision: revisions[i].clone(),
            architecture: architectures[i].clone(),
            layers: layers[i],
            experts: experts[i],
            width: width[i],
            parameters: parameters[i],
            dtype: dtypes[i].clone(),
            config_sha256: configs[i].clone(),
            tokenizer_sha256: tokenizers[i].clone(),
            weights_sha256: weights[i].clone(),
            licence: licences[i].clone(),
        };
        let rows: Vec<Self> = (0..table.rows()).map(row).collect();
        // The tables count layers and experts in 16 bits and neurons in 32; a grid beyond that is none of ours.
        let fits = |row: &&Self| {
            let small = |n: usize| (1..=i16::MAX as usize).contains(&n);
            let neurons = row.shape().checked_neurons().is_some_and(|n| n > 0 && n <= i32::MAX as usize);
            small(row.layers) && small(row.experts) && neurons
        };
        match rows.iter().find(|row| !fits(row)) {
            Some(row) => Err(AtlasError::broken(path, format!("{} has {}, which no model has", row.id, row.shape()))),
            None => Ok(rows),
        }
    }
}
