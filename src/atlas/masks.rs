//! Masks: which neurons serve a language, as bits, as JSON, as a table, or as the lists that published scripts read.

use std::{collections::BTreeMap, path::Path};

use safetensors::SafeTensors;
use serde_json::json;

use super::{AtlasError, pth};
use crate::{
    language::LanguageCode,
    neuron::{FfnShape, NeuronSet},
    output,
};

/// How a mask is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum MaskFormat {
    /// `U8 [layers, ceil(experts · width / 8)]`, one tensor per language: bit j of byte i (little) is neuron n = 8·i + j of the
    /// layer, which is neuron n mod width of expert n div width. A dense model is its only expert.
    Safetensors,
    /// Lists of indices per layer; where there are experts, per layer and expert.
    Json,
    /// Rows of layer, expert, neuron and their evidence.
    Parquet,
    /// `torch.save` of `list[language][layer]` of int64 tensors, as published LAPE code reads it. Refused where there are experts:
    /// that code takes a layer's indices for rows of one gate projection.
    Pth,
}

impl MaskFormat {
    /// Whether masks over a grid can be written so.
    #[must_use]
    pub fn holds(self, shape: FfnShape) -> bool {
        self != Self::Pth || !shape.is_routed()
    }
}

/// What a mask is of.
#[derive(Clone, Debug, PartialEq)]
pub struct Mask {
    /// Model id.
    pub model: String,
    /// Its revision.
    pub revision: Option<String>,
    /// Method.
    pub method: String,
    /// Rate.
    pub top_rate: f64,
    /// Ranks below it are in.
    pub asked: usize,
    /// Identification run.
    pub run: String,
    /// SHA-256 of the table of neurons that it was made from.
    pub table_sha256: String,
}

/// Masks of several languages of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct MaskSet {
    /// What they are of.
    pub mask: Mask,
    /// One set per language, by code.
    pub sets: BTreeMap<LanguageCode, NeuronSet>,
}

impl MaskSet {
    /// The bytes of a safetensors, JSON or pth file; a Parquet mask is a part of the neurons table instead.
    ///
    /// # Errors
    /// When the format has no place for the model's experts.
    pub fn bytes(&self, format: MaskFormat) -> Result<Option<Vec<u8>>, AtlasError> {
        let order: Vec<LanguageCode> = self.sets.keys().copied().collect();
        self.bytes_in_order(format, &order)
    }

    /// As [`MaskSet::bytes`]; the lists of a pth file, which names no languages, stand in the order given.
    ///
    /// # Errors
    /// As [`MaskSet::bytes`].
    ///
    /// # Panics
    /// If a language of the order has no set.
    pub fn bytes_in_order(&self, format: MaskFormat, order: &[LanguageCode]) -> Result<Option<Vec<u8>>, AtlasError> {
        if let Some(shape) = self.shape().filter(|&shape| !format.holds(shape)) {
            return Err(AtlasError::ExpertsInPth { shape });
        }
        Ok(match format {
            MaskFormat::Safetensors => Some(self.safetensors()),
            MaskFormat::Json => Some(self.json()),
            MaskFormat::Pth => Some(pth::lists(&order.iter().map(|code| self.sets[code].layers()).collect::<Vec<_>>())),
            MaskFormat::Parquet => None,
        })
    }

    fn shape(&self) -> Option<FfnShape> {
        self.sets.values().next().map(NeuronSet::shape)
    }

    fn metadata(&self) -> BTreeMap<&str, String> {
        let mask = &self.mask;
        let mut pairs = BTreeMap::from([
            ("neuroglot.schema", "neuroglot.mask".to_owned()),
            ("neuroglot.schema_version", "1.0".to_owned()),
            ("model", mask.model.clone()),
            ("method", mask.method.clone()),
            ("top_rate", mask.top_rate.to_string()),
            ("neurons_asked", mask.asked.to_string()),
            ("run", mask.run.clone()),
            ("table_sha256", mask.table_sha256.clone()),
            ("bits", "bit j of byte i (least significant first) is neuron 8*i+j".to_owned()),
        ]);
        pairs.extend(mask.revision.clone().map(|revision| ("revision", revision)));
        if let Some(shape) = self.shape() {
            pairs.extend([("layers", shape.layers.to_string()), ("width", shape.width.to_string())]);
            if shape.is_routed() {
                pairs.insert("neuroglot.schema_version", "1.1".to_owned());
                pairs.insert("experts", shape.experts.to_string());
                let bits =
                    "bit j of byte i (least significant first) is n = 8*i+j: expert n // width, neuron n % width";
                pairs.insert("bits", bits.to_owned());
            }
        }
        pairs
    }

    /// Written here and not by the safetensors crate, which orders metadata by chance: the same masks are the same bytes.
    fn safetensors(&self) -> Vec<u8> {
        let mut header = serde_json::Map::new();
        header.insert("__metadata__".to_owned(), json!(self.metadata()));
        let mut data = Vec::new();
        for (language, set) in &self.sets {
            let start = data.len();
            data.extend(pack(set));
            let shape = [set.shape().layers, set.shape().layer_width().div_ceil(8)];
            header.insert(
                language.to_string(),
                json!({ "dtype": "U8", "shape": shape, "data_offsets": [start, data.len()] }),
            );
        }
        let mut header = serde_json::to_vec(&header).expect("plain data");
        header.resize(header.len().next_multiple_of(8), b' ');
        [&(header.len() as u64).to_le_bytes(), header.as_slice(), &data].concat()
    }

    fn json(&self) -> Vec<u8> {
        let languages: BTreeMap<String, serde_json::Value> =
            self.sets.iter().map(|(language, set)| (language.to_string(), indices(set))).collect();
        let mut json =
            serde_json::to_vec(&json!({ "metadata": self.metadata(), "languages": languages })).expect("plain data");
        json.push(b'\n');
        json
    }

    /// Reads the sets of a safetensors file of masks.
    ///
    /// # Errors
    /// When it is none, or its tensors do not fit the grid, or a bit beyond the width is set.
    pub fn read(path: &Path, shape: FfnShape) -> Result<BTreeMap<LanguageCode, NeuronSet>, AtlasError> {
        let bytes =
            std::fs::read(path).map_err(|error| AtlasError::broken(path, format!("cannot be read: {error}")))?;
        Self::parse(path, &bytes, shape)
    }

    /// Reads the sets in the content of a safetensors file; `path` is for messages.
    ///
    /// # Errors
    /// As [`MaskSet::read`].
    pub fn parse(path: &Path, bytes: &[u8], shape: FfnShape) -> Result<BTreeMap<LanguageCode, NeuronSet>, AtlasError> {
        let file = SafeTensors::deserialize(bytes)
            .map_err(|error| AtlasError::broken(path, format!("is not a safetensors file: {error}")))?;
        let wanted = [shape.layers, shape.layer_width().div_ceil(8)];
        let mut sets = BTreeMap::new();
        for (name, tensor) in file.tensors() {
            if tensor.dtype() != safetensors::Dtype::U8 || tensor.shape() != wanted {
                let problem = format!(
                    "tensor `{name}` is {:?} {:?}, but U8 {wanted:?} is wanted",
                    tensor.dtype(),
                    tensor.shape()
                );
                return Err(AtlasError::broken(path, problem));
            }
            let set = unpack(tensor.data(), shape).ok_or_else(|| {
                AtlasError::broken(path, format!("tensor `{name}` has bits beyond neuron {}", shape.layer_width()))
            })?;
            sets.insert(name.parse()?, set);
        }
        Ok(sets)
    }

    /// Writes a file of any format but Parquet.
    pub(super) fn write(&self, place: &Path, format: MaskFormat) -> Result<(), AtlasError> {
        let bytes = self.bytes(format)?.expect("Parquet masks are written as tables");
        Ok(output::write(place, &bytes)?)
    }
}

/// `[layer]` lists of indices; `[layer][expert]` where there are experts.
fn indices(set: &NeuronSet) -> serde_json::Value {
    let shape = set.shape();
    if !shape.is_routed() {
        return json!(set.layers());
    }
    let experts = |layer| (0..shape.experts).map(move |expert| set.expert(layer, expert).collect::<Vec<_>>());
    json!((0..shape.layers).map(|layer| experts(layer).collect::<Vec<_>>()).collect::<Vec<_>>())
}

fn pack(set: &NeuronSet) -> Vec<u8> {
    let bytes = set.shape().layer_width().div_ceil(8);
    let mut bits = vec![0u8; set.shape().layers * bytes];
    for (layer, row) in set.layers().iter().enumerate() {
        for &place in row {
            bits[layer * bytes + place as usize / 8] |= 1 << (place % 8);
        }
    }
    bits
}

fn unpack(bits: &[u8], shape: FfnShape) -> Option<NeuronSet> {
    let (bytes, width) = (shape.layer_width().div_ceil(8), shape.layer_width());
    let places = (0..shape.layers).flat_map(|layer| (0..bytes * 8).map(move |place| (layer, place)));
    let set: Vec<(usize, usize)> =
        places.filter(|(layer, place)| bits[layer * bytes + place / 8] >> (place % 8) & 1 == 1).collect();
    let id = |&(layer, place): &(usize, usize)| shape.neuron(layer * width + place);
    set.iter().all(|&(_, place)| place < width).then(|| NeuronSet::new(shape, set.iter().map(id)))
}
