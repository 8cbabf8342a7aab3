//! The rows of every table, their columns, and both ways between them.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{
    AtlasError, Table,
    table::{Columns, floats32},
};
use crate::{
    language::{Language, LanguageCode},
    neuron::FfnShape,
};

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
    /// Neurons per layer.
    pub width: usize,
    /// Parameters.
    pub parameters: u64,
    /// Number format of the stored weights.
    pub dtype: String,
    /// SHA-256 of config.json.
    pub config_sha256: String,
    /// SHA-256 of tokenizer.json.
    pub tokenizer_sha256: String,
    /// JSON object: weight file to SHA-256.
    pub weights_sha256: String,
    /// SPDX identifier of its licence.
    pub licence: Option<String>,
}

impl ModelRow {
    const SCHEMA: (&str, &str) = ("neuroglot.models", "1.0");

    /// The grid of its neurons.
    #[must_use]
    pub fn shape(&self) -> FfnShape {
        FfnShape { layers: self.layers, width: self.width }
    }

    pub(super) fn write(rows: &[Self], place: &Path) -> Result<usize, AtlasError> {
        Table::default()
            .text("id", rows.iter().map(|row| &row.id))
            .optional_text("revision", rows.iter().map(|row| row.revision.as_ref()))
            .text("architecture", rows.iter().map(|row| &row.architecture))
            .i32("layers", rows.iter().map(|row| row.layers as i32))
            .i32("width", rows.iter().map(|row| row.width as i32))
            .i64("parameters", rows.iter().map(|row| row.parameters as i64))
            .text("dtype", rows.iter().map(|row| &row.dtype))
            .text("config_sha256", rows.iter().map(|row| &row.config_sha256))
            .text("tokenizer_sha256", rows.iter().map(|row| &row.tokenizer_sha256))
            .text("weights_sha256", rows.iter().map(|row| &row.weights_sha256))
            .optional_text("licence", rows.iter().map(|row| row.licence.as_ref()))
            .write(place, Self::SCHEMA)
    }

    pub(super) fn read(path: &Path) -> Result<Vec<Self>, AtlasError> {
        let table = Columns::read(path, Self::SCHEMA)?;
        let (layers, width) = (table.counts("layers")?, table.counts("width")?);
        let (ids, revisions, licences) =
            (table.text("id")?, table.optional_text("revision")?, table.optional_text("licence")?);
        let (architectures, parameters, dtypes) =
            (table.text("architecture")?, table.counts("parameters")?, table.text("dtype")?);
        let (configs, tokenizers, weights) =
            (table.text("config_sha256")?, table.text("tokenizer_sha256")?, table.text("weights_sha256")?);
        let row = |i: usize| Self {
            id: ids[i].clone(),
            revision: revisions[i].clone(),
            architecture: architectures[i].clone(),
            layers: layers[i],
            width: width[i],
            parameters: parameters[i],
            dtype: dtypes[i].clone(),
            config_sha256: configs[i].clone(),
            tokenizer_sha256: tokenizers[i].clone(),
            weights_sha256: weights[i].clone(),
            licence: licences[i].clone(),
        };
        Ok((0..table.rows()).map(row).collect())
    }
}

/// A language, `data/languages.parquet`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LanguageRow {
    /// `mlt_Latn`.
    pub code: LanguageCode,
    /// ISO 639-1.
    pub iso639_1: Option<String>,
    /// BCP 47 tag.
    pub bcp47: String,
    /// Glottolog's code.
    pub glottocode: Option<String>,
    /// `ltr` or `rtl`.
    pub direction: String,
    /// English name.
    pub name: String,
    /// Its own name for itself.
    pub autonym: Option<String>,
    /// Family.
    pub family: String,
    /// Branch.
    pub subfamily: Option<String>,
    /// Macro-area.
    pub area: Option<String>,
    /// Speakers, estimated.
    pub speakers: Option<u64>,
    /// Degrees north.
    pub latitude: Option<f64>,
    /// Degrees east.
    pub longitude: Option<f64>,
}

impl From<&Language> for LanguageRow {
    fn from(language: &Language) -> Self {
        Self {
            code: language.code,
            iso639_1: language.iso639_1.clone(),
            bcp47: language.bcp47.clone(),
            glottocode: language.glottocode.clone(),
            direction: language.direction.as_str().to_owned(),
            name: language.name.clone(),
            autonym: language.autonym.clone(),
            family: language.family.clone(),
            subfamily: language.subfamily.clone(),
            area: language.area.clone(),
            speakers: language.speakers,
            latitude: language.coordinates.map(|(latitude, _)| latitude),
            longitude: language.coordinates.map(|(_, longitude)| longitude),
        }
    }
}

impl LanguageRow {
    const SCHEMA: (&str, &str) = ("neuroglot.languages", "1.0");

    pub(super) fn write(rows: &[Self], place: &Path) -> Result<usize, AtlasError> {
        Table::default()
            .text("code", rows.iter().map(|row| row.code.to_string()))
            .text("iso639_3", rows.iter().map(|row| row.code.iso639_3().to_owned()))
            .optional_text("iso639_1", rows.iter().map(|row| row.iso639_1.as_ref()))
            .text("bcp47", rows.iter().map(|row| &row.bcp47))
            .optional_text("glottocode", rows.iter().map(|row| row.glottocode.as_ref()))
            .text("script", rows.iter().map(|row| row.code.script().to_owned()))
            .text("direction", rows.iter().map(|row| &row.direction))
            .text("name", rows.iter().map(|row| &row.name))
            .optional_text("autonym", rows.iter().map(|row| row.autonym.as_ref()))
            .text("family", rows.iter().map(|row| &row.family))
            .optional_text("subfamily", rows.iter().map(|row| row.subfamily.as_ref()))
            .optional_text("area", rows.iter().map(|row| row.area.as_ref()))
            .optional_i64("speakers", rows.iter().map(|row| row.speakers.map(|n| n as i64)))
            .optional_f64("latitude", rows.iter().map(|row| row.latitude))
            .optional_f64("longitude", rows.iter().map(|row| row.longitude))
            .write(place, Self::SCHEMA)
    }

    pub(super) fn read(path: &Path) -> Result<Vec<Self>, AtlasError> {
        let table = Columns::read(path, Self::SCHEMA)?;
        let codes = table.parsed("code")?;
        let (iso639_1, bcp47, glottocodes) =
            (table.optional_text("iso639_1")?, table.text("bcp47")?, table.optional_text("glottocode")?);
        let (directions, names, autonyms) =
            (table.text("direction")?, table.text("name")?, table.optional_text("autonym")?);
        let (families, subfamilies, areas) =
            (table.text("family")?, table.optional_text("subfamily")?, table.optional_text("area")?);
        let (latitudes, longitudes) = (table.optional_float("latitude")?, table.optional_float("longitude")?);
        let speakers = table.optional_integer("speakers")?;
        let row = |i: usize| Self {
            code: codes[i],
            iso639_1: iso639_1[i].clone(),
            bcp47: bcp47[i].clone(),
            glottocode: glottocodes[i].clone(),
            direction: directions[i].clone(),
            name: names[i].clone(),
            autonym: autonyms[i].clone(),
            family: families[i].clone(),
            subfamily: subfamilies[i].clone(),
            area: areas[i].clone(),
            speakers: speakers[i].and_then(|n| u64::try_from(n).ok()),
            latitude: latitudes[i],
            longitude: longitudes[i],
        };
        Ok((0..table.rows()).map(row).collect())
    }
}

/// A run, `data/runs.parquet`: everything needed to repeat it.
#[derive(Clone, Debug, PartialEq)]
pub struct RunRow {
    /// Hash of the parameters.
    pub run: String,
    /// `profile` or `identify`.
    pub kind: String,
    /// The profile that an identification was made from.
    pub parent: Option<String>,
    /// Model id.
    pub model: String,
    /// Its revision.
    pub revision: Option<String>,
    /// Corpus, of a profile.
    pub corpus: Option<String>,
    /// Which of its documents.
    pub split: Option<String>,
    /// Tokens asked per language.
    pub tokens: Option<u64>,
    /// Tokens per window.
    pub context: Option<u64>,
    /// Between documents.
    pub separator: Option<String>,
    /// Folds of documents.
    pub folds: Option<u64>,
    /// Seed, of an identification.
    pub seed: Option<u64>,
    /// Number format of the forward pass.
    pub precision: Option<String>,
    /// Kind of device.
    pub device: Option<String>,
    /// Method, of an identification.
    pub method: Option<String>,
    /// Version of the program.
    pub tool_version: String,
    /// All parameters, as JSON with sorted keys.
    pub parameters: String,
    /// What an identification found out on the way, as JSON: bars, cut, notes.
    pub result: Option<String>,
}

impl RunRow {
    const SCHEMA: (&str, &str) = ("neuroglot.runs", "1.0");

    pub(super) fn write(rows: &[Self], place: &Path) -> Result<usize, AtlasError> {
        let number = |value: Option<u64>| value.map(|n| n as i64);
        Table::default()
            .text("run", rows.iter().map(|row| &row.run))
            .text("kind", rows.iter().map(|row| &row.kind))
            .optional_text("parent", rows.iter().map(|row| row.parent.as_ref()))
            .text("model", rows.iter().map(|row| &row.model))
            .optional_text("revision", rows.iter().map(|row| row.revision.as_ref()))
            .optional_text("corpus", rows.iter().map(|row| row.corpus.as_ref()))
            .optional_text("split", rows.iter().map(|row| row.split.as_ref()))
            .optional_i64("tokens", rows.iter().map(|row| number(row.tokens)))
            .optional_i64("context", rows.iter().map(|row| number(row.context)))
            .optional_text("separator", rows.iter().map(|row| row.separator.as_ref()))
            .optional_i64("folds", rows.iter().map(|row| number(row.folds)))
            .optional_i64("seed", rows.iter().map(|row| number(row.seed)))
            .optional_text("precision", rows.iter().map(|row| row.precision.as_ref()))
            .optional_text("device", rows.iter().map(|row| row.device.as_ref()))
            .optional_text("method", rows.iter().map(|row| row.method.as_ref()))
            .text("tool_version", rows.iter().map(|row| &row.tool_version))
            .text("parameters", rows.iter().map(|row| &row.parameters))
            .optional_text("result", rows.iter().map(|row| row.result.as_ref()))
            .write(place, Self::SCHEMA)
    }

    pub(super) fn read(path: &Path) -> Result<Vec<Self>, AtlasError> {
        let table = Columns::read(path, Self::SCHEMA)?;
        let (runs, kinds, parents) = (table.text("run")?, table.text("kind")?, table.optional_text("parent")?);
        let (models, revisions, corpora) =
            (table.text("model")?, table.optional_text("revision")?, table.optional_text("corpus")?);
        let (splits, separators, methods) =
            (table.optional_text("split")?, table.optional_text("separator")?, table.optional_text("method")?);
        let (precisions, devices) = (table.optional_text("precision")?, table.optional_text("device")?);
        let number = |name| -> Result<Vec<Option<u64>>, AtlasError> {
            Ok(table.optional_integer(name)?.into_iter().map(|n| n.and_then(|n| u64::try_from(n).ok())).collect())
        };
        let (tokens, contexts, folds, seeds) =
            (number("tokens")?, number("context")?, number("folds")?, number("seed")?);
        let (versions, parameters, results) =
            (table.text("tool_version")?, table.text("parameters")?, table.optional_text("result")?);
        let row = |i: usize| Self {
            run: runs[i].clone(),
            kind: kinds[i].clone(),
            parent: parents[i].clone(),
            model: models[i].clone(),
            revision: revisions[i].clone(),
            corpus: corpora[i].clone(),
            split: splits[i].clone(),
            tokens: tokens[i],
            context: contexts[i],
            separator: separators[i].clone(),
            folds: folds[i],
            seed: seeds[i],
            precision: precisions[i].clone(),
            device: devices[i].clone(),
            method: methods[i].clone(),
            tool_version: versions[i].clone(),
            parameters: parameters[i].clone(),
            result: results[i].clone(),
        };
        Ok((0..table.rows()).map(row).collect())
    }
}

/// Parameters of an identification; their hash is its run id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IdentifyParameters {
    /// Run of the profile.
    pub profile: String,
    /// Method.
    pub method: String,
    /// Quantile of the filter bar.
    pub filter_rate: f64,
    /// Quantile of the activation bar.
    pub activation_bar: f64,
    /// Rates, ascending.
    pub top_rates: Vec<f64>,
    /// `exact` or `reference`.
    pub arithmetic: String,
    /// Seed of draws.
    pub seed: u64,
    /// Resamples behind the selection frequencies.
    pub resamples: u32,
    /// The languages compared: another list gives other sets.
    pub languages: Vec<LanguageCode>,
}

/// What an identification found out on the way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IdentifyResult {
    /// Probability that a neuron had to exceed in some language to be considered.
    pub filter_bar: Option<f64>,
    /// Probability above which a neuron serves a language.
    pub activation_bar: Option<f64>,
    /// Neurons that passed the filter.
    pub finite: usize,
    /// One entry per rate, ascending.
    pub rates: Vec<RateResult>,
    /// What a reader should know, in words.
    pub notes: Vec<String>,
}

/// One cut of the ranking.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RateResult {
    /// Share of the model's neurons asked for.
    pub rate: f64,
    /// The same as a number of neurons: ranks below it belong to this cut.
    pub asked: usize,
    /// Neurons selected.
    pub selected: usize,
    /// Highest entropy selected, in nats.
    pub entropy_cut: Option<f64>,
    /// Neurons tied at the cut.
    pub tied: usize,
    /// How many of them were taken.
    pub taken: usize,
}

impl IdentifyResult {
    /// The largest rate, which the tables hold in full.
    #[must_use]
    pub fn largest(&self) -> Option<&RateResult> {
        self.rates.last()
    }

    /// The entry of a rate, or the largest.
    #[must_use]
    pub fn rate(&self, rate: Option<f64>) -> Option<&RateResult> {
        match rate {
            None => self.largest(),
            Some(wanted) => self.rates.iter().find(|rate| (rate.rate - wanted).abs() < 1e-12),
        }
    }
}

impl RateResult {
    /// Whether a rank belongs to this cut.
    #[must_use]
    pub fn includes(&self, rank: u32) -> bool {
        (rank as usize) < self.asked
    }
}

/// What of a language was run, `data/coverage.parquet`.
#[derive(Clone, Debug, PartialEq)]
pub struct CoverageRow {
    /// Run.
    pub run: String,
    /// Language.
    pub language: LanguageCode,
    /// `full`, `short` or `empty`.
    pub status: String,
    /// Tokens run.
    pub tokens: u64,
    /// Tokens read.
    pub tokens_read: u64,
    /// Documents read.
    pub documents: u64,
    /// Documents without text.
    pub empty_documents: u64,
    /// Documents with bytes that are not UTF-8.
    pub invalid_utf8: u64,
    /// Byte-order marks taken off.
    pub byte_order_marks: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Tokens read per byte read; none where nothing was.
    pub tokens_per_byte: Option<f64>,
    /// Tokens run, per fold.
    pub fold_tokens: Vec<u64>,
    /// Documents read, per fold.
    pub fold_documents: Vec<u64>,
    /// SHA-256 over the documents read.
    pub text_sha256: String,
    /// What a reader should know of the text.
    pub remark: Option<String>,
}

impl CoverageRow {
    const SCHEMA: (&str, &str) = ("neuroglot.coverage", "1.0");

    pub(super) fn write(rows: &[Self], place: &Path) -> Result<usize, AtlasError> {
        let signed = |values: &[u64]| values.iter().map(|&n| n as i64).collect();
        Table::default()
            .text("run", rows.iter().map(|row| &row.run))
            .text("language", rows.iter().map(|row| row.language.to_string()))
            .text("status", rows.iter().map(|row| &row.status))
            .i64("tokens", rows.iter().map(|row| row.tokens as i64))
            .i64("tokens_read", rows.iter().map(|row| row.tokens_read as i64))
            .i64("documents", rows.iter().map(|row| row.documents as i64))
            .i64("empty_documents", rows.iter().map(|row| row.empty_documents as i64))
            .i64("invalid_utf8", rows.iter().map(|row| row.invalid_utf8 as i64))
            .i64("byte_order_marks", rows.iter().map(|row| row.byte_order_marks as i64))
            .i64("bytes", rows.iter().map(|row| row.bytes as i64))
            .optional_f64("tokens_per_byte", rows.iter().map(|row| row.tokens_per_byte))
            .lists("fold_tokens", rows.iter().map(|row| signed(&row.fold_tokens)))
            .lists("fold_documents", rows.iter().map(|row| signed(&row.fold_documents)))
            .text("text_sha256", rows.iter().map(|row| &row.text_sha256))
            .optional_text("remark", rows.iter().map(|row| row.remark.as_ref()))
            .write(place, Self::SCHEMA)
    }

    pub(super) fn read(path: &Path) -> Result<Vec<Self>, AtlasError> {
        let table = Columns::read(path, Self::SCHEMA)?;
        let (runs, languages, statuses) = (table.text("run")?, table.parsed("language")?, table.text("status")?);
        let (tokens, tokens_read, documents) =
            (table.counts("tokens")?, table.counts("tokens_read")?, table.counts("documents")?);
        let (empty, invalid, marks) =
            (table.counts("empty_documents")?, table.counts("invalid_utf8")?, table.counts("byte_order_marks")?);
        let (bytes, tokens_per_byte) = (table.counts("bytes")?, table.optional_float("tokens_per_byte")?);
        let (fold_tokens, fold_documents, hashes) =
            (table.lists("fold_tokens")?, table.lists("fold_documents")?, table.text("text_sha256")?);
        let remarks = table.optional_text("remark")?;
        let row = |i: usize| Self {
            remark: remarks[i].clone(),
            run: runs[i].clone(),
            language: languages[i],
            status: statuses[i].clone(),
            tokens: tokens[i],
            tokens_read: tokens_read[i],
            documents: documents[i],
            empty_documents: empty[i],
            invalid_utf8: invalid[i],
            byte_order_marks: marks[i],
            bytes: bytes[i],
            tokens_per_byte: tokens_per_byte[i],
            fold_tokens: fold_tokens[i].clone(),
            fold_documents: fold_documents[i].clone(),
            text_sha256: hashes[i].clone(),
        };
        Ok((0..table.rows()).map(row).collect())
    }
}

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
    /// Index within the layer.
    pub neuron: usize,
    /// Place by entropy, from 0, over all layers.
    pub rank: u32,
    /// Entropy over the languages, in nats.
    pub entropy: Option<f32>,
    /// Share of the language's tokens at which it is active.
    pub probability: Option<f32>,
    /// The language's part of its probabilities summed over all languages.
    pub share: Option<f32>,
    /// Mean of its activation over the language's tokens.
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
    const SCHEMA: (&str, &str) = ("neuroglot.neurons", "1.0");

    /// Writes a table of neurons; returns its number of rows.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(rows: &[Self], place: &Path) -> Result<usize, AtlasError> {
        Table::default()
            .text("model", rows.iter().map(|row| &row.model))
            .text("run", rows.iter().map(|row| &row.run))
            .text("method", rows.iter().map(|row| &row.method))
            .text("language", rows.iter().map(|row| row.language.to_string()))
            .i16("layer", rows.iter().map(|row| row.layer as i16))
            .i32("neuron", rows.iter().map(|row| row.neuron as i32))
            .i32("rank", rows.iter().map(|row| row.rank as i32))
            .optional_f32("entropy", rows.iter().map(|row| row.entropy))
            .optional_f32("probability", rows.iter().map(|row| row.probability))
            .optional_f32("share", rows.iter().map(|row| row.share))
            .optional_f32("mean_activation", rows.iter().map(|row| row.mean_activation))
            .optional_f32("margin", rows.iter().map(|row| row.margin))
            .optional_f32("selection_freq", rows.iter().map(|row| row.selection_freq))
            .i16("languages", rows.iter().map(|row| row.languages as i16))
            .optional_text("class", rows.iter().map(|row| row.class.as_ref()))
            .write(place, Self::SCHEMA)
    }

    /// Reads a table of neurons.
    ///
    /// # Errors
    /// When the file is broken, or its rows are not sorted by language, layer and neuron.
    pub fn read(path: &Path) -> Result<Vec<Self>, AtlasError> {
        let table = Columns::read(path, Self::SCHEMA)?;
        let (models, runs, methods) = (table.text("model")?, table.text("run")?, table.text("method")?);
        let (languages, layers, neurons) = (table.parsed("language")?, table.counts("layer")?, table.counts("neuron")?);
        let (ranks, entropies) = (table.counts("rank")?, floats32(table.optional_float("entropy")?));
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
        if rows.is_sorted_by_key(|row| (row.language, row.layer, row.neuron)) {
            Ok(rows)
        } else {
            Err(AtlasError::broken(path, "is not sorted by language, layer and neuron"))
        }
    }
}

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

    pub(super) fn write(rows: &[Self], place: &Path) -> Result<usize, AtlasError> {
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

    pub(super) fn read(path: &Path) -> Result<Vec<Self>, AtlasError> {
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

    pub(super) fn write(rows: &[Self], place: &Path) -> Result<usize, AtlasError> {
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

    pub(super) fn read(path: &Path) -> Result<Vec<Self>, AtlasError> {
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
