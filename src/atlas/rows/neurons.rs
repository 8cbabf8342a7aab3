//! `data/neurons/MODEL/METHOD.parquet`: one row per neuron and language that it serves.

use std::path::Path;

use super::{Columns, Table, floats32};
use crate::{atlas::AtlasError, language::LanguageCode, neuron::NeuronId};

/// A neuron that serves a language, `data/neurons/MODEL/METHOD.parquet`.
#[derive(Clone, Debug, PartialEq)]
pub struct NeuronRow {
    /// Model id.
    pub model: String,
    /// Identification run.
    pub run: String,
    /// Method.
    pub method: String,
    /// The language that it serves.
    pub language: LanguageCode,
    /// Layer.
    pub layer: usize,
    /// Expert within the layer; 0 in a dense model. Added in 1.1.
    pub expert: usize,
    /// Index within the expert, which is that within the layer in a dense model.
    pub neuron: usize,
    /// Place by entropy, from 0, over all layers; unknown of masks that others made, and then null, from 1.2 on.
    pub rank: Option<u32>,
    /// Entropy over the languages, in nats.
    pub entropy: Option<f32>,
    /// Share of the language's tokens at which it is active; of those that are routed to its expert, where there are experts.
    pub probability: Option<f32>,
    /// The language's part of its probabilities summed over all languages.
    pub share: Option<f32>,
    /// Mean of its activation over the same tokens.
    pub mean_activation: Option<f32>,
    /// Probability above the activation bar.
    pub margin: Option<f32>,
    /// Share of resamples that select it for the language.
    pub selection_freq: Option<f32>,
    /// Languages that it serves.
    pub languages: u16,
    /// `exclusive`, `family`, `shared`, `general` or `dead`.
    pub class: Option<String>,
}

impl NeuronRow {
    const SCHEMA: (&str, &str) = ("neuroglot.neurons", "1.2");

    /// Which neuron of the model.
    #[must_use]
    pub fn id(&self) -> NeuronId {
        NeuronId { layer: self.layer, expert: self.expert, index: self.neuron }
    }

    /// Writes a table of neurons; returns its number of rows.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(rows: &[Self], place: &Path) -> Result<usize, AtlasError> {
        Self::table(rows).write(place, Self::schema(rows))
    }

    fn schema(rows: &[Self]) -> (&'static str, &'static str) {
        if rows.iter().all(|row| row.rank.is_some()) { (Self::SCHEMA.0, "1.1") } else { Self::SCHEMA }
    }

    fn table(rows: &[Self]) -> Table {
        Table::default()
            .text("model", rows.iter().map(|row| &row.model))
            .text("run", rows.iter().map(|row| &row.run))
            .text("method", rows.iter().map(|row| &row.method))
            .text("language", rows.iter().map(|row| row.language.to_string()))
            .i16("layer", rows.iter().map(|row| row.layer as i16))
            .i16("expert", rows.iter().map(|row| row.expert as i16))
            .i32("neuron", rows.iter().map(|row| row.neuron as i32))
            .known_i32("rank", rows.iter().map(|row| row.rank.map(|rank| rank as i32)))
            .optional_f32("entropy", rows.iter().map(|row| row.entropy))
            .optional_f32("probability", rows.iter().map(|row| row.probability))
            .optional_f32("share", rows.iter().map(|row| row.share))
            .optional_f32("mean_activation", rows.iter().map(|row| row.mean_activation))
            .optional_f32("margin", rows.iter().map(|row| row.margin))
            .optional_f32("selection_freq", rows.iter().map(|row| row.selection_freq))
            .i16("languages", rows.iter().map(|row| row.languages as i16))
            .optional_text("class", rows.iter().map(|row| row.class.as_ref()))
    }

    /// The same file in memory.
    ///
    /// # Errors
    /// When it cannot be encoded.
    pub fn bytes(rows: &[Self]) -> Result<Vec<u8>, AtlasError> {
        Self::table(rows).bytes(Path::new("neurons.parquet"), Self::schema(rows))
    }

    /// Reads a table of neurons.
    ///
    /// # Errors
    /// When the file is broken, or its rows are not sorted by language, layer, expert and neuron.
    pub fn read(path: &Path) -> Result<Vec<Self>, AtlasError> {
        let table = Columns::read(path, Self::SCHEMA)?;
        let (models, runs, methods) = (table.text("model")?, table.text("run")?, table.text("method")?);
        let (languages, layers) = (table.parsed("language")?, table.counts("layer")?);
        let (experts, neurons) = (table.added_counts("expert", 0)?, table.counts("neuron")?);
        let (ranks, entropies) = (table.optional_counts("rank")?, floats32(table.optional_float("entropy")?));
        let (probabilities, shares) =
            (floats32(table.optional_float("probability")?), floats32(table.optional_float("share")?));
        let (means, margins) =
            (floats32(table.optional_float("mean_activation")?), floats32(table.optional_float("margin")?));
        let (frequencies, served, classes) = (
            floats32(table.optional_float("selection_freq")?),
            table.counts("languages")?,
            table.optional_text("class")?,
        );
        let row = |i: usize| Self {
            model: models[i].clone(),
            run: runs[i].clone(),
            method: methods[i].clone(),
            language: languages[i],
            layer: layers[i],
            expert: experts[i],
            neuron: neurons[i],
            rank: ranks[i],
            entropy: entropies[i],
            probability: probabilities[i],
            share: shares[i],
            mean_activation: means[i],
            margin: margins[i],
            selection_freq: frequencies[i],
            languages: served[i],
            class: classes[i].clone(),
        };
        let rows: Vec<Self> = (0..table.rows()).map(row).collect();
        if rows.is_sorted_by_key(|row| (row.language, row.id())) {
            Ok(rows)
        } else {
            Err(AtlasError::broken(path, "is not sorted by language, layer, expert and neuron"))
        }
    }
}
