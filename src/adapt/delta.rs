//! What an adaptation changed, as replacement values: putting it on the base is a copy, and doing so twice is the same.
//!
//! A delta is a safetensors file. Of neurons it holds, per layer, `layers.N.mlp.neurons` (their indices, ascending),
//! `layers.N.mlp.gate` and `.up` (`[neurons, hidden]`) and `layers.N.mlp.down` (`[hidden, neurons]`); of whole tensors
//! `tensor.NAME`. All are in the number format of the base's tensor. The metadata name the base, its revision, and the SHA-256 of every
//! tensor that is touched, before and after.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{AdaptError, run::head, trainable::Trainable};
use crate::{
    checkpoint::{Checkpoint, TensorBytes},
    language::LanguageCode,
    model::{Architecture, ModelError, Patch, Projection, Site, family, patch::Cut},
    neuron::NeuronSet,
    output::{Draft, OutputError, sha256},
};

/// What a delta says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeltaHead {
    /// The base model.
    pub base: String,
    /// Its revision, where it has one.
    pub revision: Option<String>,
    /// The language.
    pub language: LanguageCode,
    /// The method.
    pub method: String,
    /// The run.
    pub run: String,
    /// Values that were trained.
    pub trained: u64,
    /// Values of the model.
    pub parameters: u64,
    /// The corpus.
    pub corpus: String,
    /// Tokens that were trained on.
    pub tokens: u64,
    /// What named the neurons, where something did.
    pub atlas: Option<String>,
}

/// A delta on a base whose tensors were found to be the right ones.
pub struct Delta {
    path: PathBuf,
    /// What it says of itself.
    pub head: DeltaHead,
    /// Per tensor of the checkpoint, what replaces parts of it.
    edits: BTreeMap<String, Vec<Edit>>,
}

/// A replacement.
struct Edit {
    values: Stored,
    /// Where the values belong in the tensor; none where they are all of it.
    rows: Option<Rows>,
}

/// Rows or columns of a projection.
struct Rows {
    cut: Cut,
    neurons: Vec<u32>,
    /// The dimension of `[out, in]` that the neurons are along.
    along: usize,
}

/// Where values lie in the file.
struct Stored {
    start: u64,
    len: usize,
    dtype: safetensors::Dtype,
    shape: Vec<usize>,
}

const FORMAT: &str = "neuroglot.delta";
const PROJECTIONS: [Projection; 3] = [Projection::Gate, Projection::Up, Projection::Down];
const LONGEST_HEADER: u64 = 100_000_000;

fn layer_key(layer: usize, what: &str) -> String {
    format!("layers.{layer}.mlp.{what}")
}

fn along(projection: Projection) -> usize {
    usize::from(projection == Projection::Down)
}

// --- Writing -----------------------------------------------------------------------------------------------------------------------

/// What a trained model's tensors have become.
struct Source<'a> {
    trainable: &'a Trainable,
    neurons: Option<&'a NeuronSet>,
    checkpoint: &'a Checkpoint,
    architecture: &'a Architecture,
}

/// Writes what an adaptation changed.
///
/// # Errors
/// When the checkpoint is a GGUF file or the delta cannot be written.
pub fn write(
    path: &Path,
    said: &DeltaHead,
    trainable: &Trainable,
    neurons: Option<&NeuronSet>,
    checkpoint: &Checkpoint,
    architecture: &Architecture,
) -> Result<(), AdaptError> {
    let source = Source { trainable, neurons, checkpoint, architecture };
    let touched = source.touched()?;
    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    for name in touched.keys() {
        let place = source.place(name)?;
        before.insert(name, sha256(&place.read()?));
        after.insert(name, sha256(&bytes(&source.result(name, &touched)?, &place.dtype)?));
    }
    let items = source.items(&touched)?;
    let mut header = Map::new();
    let mut metadata = Map::new();
    metadata.insert("format".to_owned(), json!(FORMAT));
    metadata.insert("version".to_owned(), json!("1"));
    metadata.insert("base".to_owned(), json!(said.base));
    metadata.insert("language".to_owned(), json!(said.language));
    metadata.insert("method".to_owned(), json!(said.method));
    metadata.insert("run".to_owned(), json!(said.run));
    metadata.extend(said.revision.iter().map(|revision| ("revision".to_owned(), json!(revision))));
    metadata.insert("head".to_owned(), json!(serde_json::to_string(said).expect("plain data")));
    metadata.insert("base_sha256".to_owned(), json!(serde_json::to_string(&before).expect("plain data")));
    metadata.insert("sha256".to_owned(), json!(serde_json::to_string(&after).expect("plain data")));
    header.insert("__metadata__".to_owned(), Value::Object(metadata));
    let mut end = 0;
    for item in &items {
        let start = end;
        end += item.len;
        let entry = json!({ "dtype": item.dtype, "shape": item.shape, "data_offsets": [start, end] });
        header.insert(item.key.clone(), entry);
    }
    let failed = |source| OutputError { path: path.to_owned(), source };
    let mut draft = Draft::new(path)?;
    draft.write_all(&head(&header)).map_err(failed)?;
    for item in &items {
        draft.write_all(&source.item(item, &touched)?).map_err(failed)?;
    }
    draft.keep()?;
    Ok(())
}

/// A tensor of the delta.
struct Item {
    key: String,
    dtype: String,
    shape: Vec<usize>,
    len: usize,
    what: What,
}

enum What {
    Neurons(Vec<u32>),
    Rows(Site),
    Whole(String),
}

/// The trained part of a tensor: the patched projections in it, or all of it.
type Touched = BTreeMap<String, Vec<Site>>;

impl Source<'_> {
    fn place(&self, name: &str) -> Result<TensorBytes, AdaptError> {
        self.checkpoint.bytes(name).ok_or_else(|| AdaptError::Gguf { path: self.checkpoint.config_path() })
    }

    fn touched(&self) -> Result<Touched, AdaptError> {
        let mut touched: Touched = BTreeMap::new();
        for (name, _) in &self.trainable.tensors {
            touched.entry(name.clone()).or_default();
        }
        for (site, patch) in &self.trainable.patches {
            let Some(place) = self.architecture.place(*site) else { continue };
            touched.entry(format!("{}.weight", place.stem)).or_default().push(*site);
            let bias = format!("{}.bias", place.stem);
            if self.checkpoint.has(&bias) {
                let own = place.cut.of_bias(&self.checkpoint.tensor(&bias, DType::F32, &Device::Cpu)?)?;
                let own = own.to_device(self.trainable.decoder.device())?;
                let merged = patch.merge_bias(&own)?;
                if merged.to_vec1::<f32>()? != own.to_vec1::<f32>()? {
                    touched.entry(bias).or_default().push(*site);
                }
            }
        }
        Ok(touched)
    }

    /// A tensor as training left it, in f32 but rounded to its own number format.
    fn result(&self, name: &str, touched: &Touched) -> Result<Tensor, AdaptError> {
        let dtype = &self.place(name)?.dtype;
        if let Some((_, var)) = self.trainable.tensors.iter().find(|(own, _)| own == name) {
            return Ok(rounded(&var.as_tensor().to_device(&Device::Cpu)?, dtype)?);
        }
        let mut tensor = self.checkpoint.tensor(name, DType::F32, &Device::Cpu)?;
        for site in touched.get(name).into_iter().flatten() {
            let (Some(place), Some(patch)) = (self.architecture.place(*site), self.trainable.patch(*site)) else {
                continue;
            };
            let device = self.trainable.decoder.device();
            if name.rsplit('.').next() == Some("bias") {
                let own = place.cut.of_bias(&tensor)?.to_device(device)?;
                let merged = patch.merge_bias(&own)?.to_device(&Device::Cpu)?;
                tensor = place.cut.put_bias(&tensor, &rounded(&merged, dtype)?)?;
            } else {
                let own = place.cut.of(&tensor)?.to_device(device)?;
                let merged = patch.merge(&own)?.to_device(&Device::Cpu)?;
                tensor = place.cut.put(&tensor, &rounded(&merged, dtype)?)?;
            }
        }
        Ok(tensor)
    }

    fn items(&self, touched: &Touched) -> Result<Vec<Item>, AdaptError> {
        let mut items = Vec::new();
        let Some(neurons) = self.neurons else {
            for name in touched.keys() {
                let TensorBytes { dtype, shape, len, .. } = self.place(name)?;
                items.push(Item { key: format!("tensor.{name}"), dtype, shape, len, what: What::Whole(name.clone()) });
            }
            return Ok(items);
        };
        let hidden = self.architecture.spec.hidden;
        for (layer, own) in neurons.layers().iter().enumerate().filter(|(_, own)| !own.is_empty()) {
            items.push(Item {
                key: layer_key(layer, "neurons"),
                dtype: "U32".to_owned(),
                shape: vec![own.len()],
                len: 4 * own.len(),
                what: What::Neurons(own.clone()),
            });
            for projection in PROJECTIONS {
                let site = Site { layer, projection };
                let Some(place) = self.architecture.place(site) else { continue };
                let name = format!("{}.weight", place.stem);
                let stored = self.place(&name)?;
                let width = stored.len / stored.shape.iter().product::<usize>().max(1);
                let shape = if along(projection) == 0 { vec![own.len(), hidden] } else { vec![hidden, own.len()] };
                items.push(Item {
                    key: layer_key(layer, projection.name()),
                    dtype: stored.dtype,
                    len: own.len() * hidden * width,
                    shape,
                    what: What::Rows(site),
                });
            }
        }
        Ok(items)
    }

    fn item(&self, item: &Item, touched: &Touched) -> Result<Vec<u8>, AdaptError> {
        match &item.what {
            What::Neurons(neurons) => Ok(neurons.iter().flat_map(|index| index.to_le_bytes()).collect()),
            What::Whole(name) => bytes(&self.result(name, touched)?, &item.dtype),
            What::Rows(site) => {
                let values = self.trainable.patch(*site).and_then(Patch::replaces).map(|(_, _, values)| values);
                let values = values.expect("neurons have values of their own");
                bytes(&values.as_tensor().to_device(&Device::Cpu)?, &item.dtype)
            }
        }
    }
}

/// The bytes of f32 values in a number format of safetensors.
fn bytes(tensor: &Tensor, dtype: &str) -> Result<Vec<u8>, AdaptError> {
    let values = tensor.flatten_all()?.to_vec1::<f32>()?;
    Ok(match dtype {
        "F32" => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        "F16" => values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
    })
}

/// f32 values that a number format can hold.
fn rounded(tensor: &Tensor, dtype: &str) -> candle_core::Result<Tensor> {
    let narrow = match dtype {
        "F32" => return Ok(tensor.clone()),
        "F16" => DType::F16,
        _ => DType::BF16,
    };
    tensor.to_dtype(narrow)?.to_dtype(DType::F32)
}

// --- Reading -----------------------------------------------------------------------------------------------------------------------

impl Delta {
    /// Opens a delta for a checkpoint that is its base, or that it was put on before.
    ///
    /// # Errors
    /// When the file is no delta, does not fit the model, or a tensor that it touches is another model's.
    pub fn open(path: &Path, checkpoint: &Checkpoint) -> Result<Self, AdaptError> {
        let broken = |problem: String| AdaptError::broken(path, problem);
        let architecture = family::read(checkpoint).map_err(ModelError::from)?;
        let (metadata, data) = header(path)?;
        let said = metadata.metadata().clone().unwrap_or_default();
        let field =
            |name: &str| said.get(name).ok_or_else(|| broken(format!("is no delta: its metadata have no `{name}`")));
        if field("format")? != FORMAT {
            return Err(broken(format!("is of format `{}`, but `{FORMAT}` is wanted", field("format")?)));
        }
        if field("version")? != "1" {
            return Err(broken(format!(
                "is of version {}; this program reads version 1: take a newer one",
                field("version")?
            )));
        }
        let head = serde_json::from_str(field("head")?).map_err(|error| broken(error.to_string()))?;
        let hashes = |name: &str| -> Result<BTreeMap<String, String>, AdaptError> {
            serde_json::from_str(field(name)?).map_err(|error| broken(format!("`{name}`: {error}")))
        };
        let (before, after) = (hashes("base_sha256")?, hashes("sha256")?);
        let edits = edits(path, &metadata, data, &architecture, checkpoint)?;
        let delta = Self { path: path.to_owned(), head, edits };
        delta.check(checkpoint, &before, &after)?;
        Ok(delta)
    }

    /// The tensors that it touches.
    pub fn tensors(&self) -> impl Iterator<Item = &str> {
        self.edits.keys().map(String::as_str)
    }

    /// A tensor of the checkpoint with the delta's values laid in.
    ///
    /// # Errors
    /// When a file cannot be read or the device has no room.
    pub fn tensor(
        &self,
        checkpoint: &Checkpoint,
        name: &str,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        match self.edits.get(name) {
            None => checkpoint.tensor(name, dtype, device),
            Some(edits) => self.edited(checkpoint, name, edits)?.to_dtype(dtype)?.to_device(device),
        }
    }

    /// The same as bytes in the number format of the checkpoint; none for a tensor that it does not touch.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn bytes(&self, checkpoint: &Checkpoint, name: &str) -> Result<Option<Vec<u8>>, AdaptError> {
        let (Some(edits), Some(place)) = (self.edits.get(name), checkpoint.bytes(name)) else { return Ok(None) };
        Ok(Some(bytes(&self.edited(checkpoint, name, edits)?, &place.dtype)?))
    }

    /// Every part of a tensor that it replaces, as it is in the checkpoint and as it becomes: of a projection, where the tensor holds one, the
    /// trained rows or columns only.
    pub(super) fn parts(
        &self,
        checkpoint: &Checkpoint,
        architecture: &Architecture,
        mut see: impl FnMut(&str, Option<Site>, &[f32], &[f32]),
    ) -> Result<(), AdaptError> {
        for (name, edits) in &self.edits {
            let before = checkpoint.tensor(name, DType::F32, &Device::Cpu)?;
            let after = self.edited(checkpoint, name, edits)?;
            let flat = |tensor: &Tensor| tensor.flatten_all()?.to_vec1::<f32>();
            let sites: Vec<(Site, Cut)> = sites(architecture, name);
            if sites.is_empty() {
                see(name, None, &flat(&before)?, &flat(&after)?);
            }
            let shared = sites.len() > 1;
            for (site, cut) in sites {
                let (mut before, mut after) = (cut.of(&before)?, cut.of(&after)?);
                let rows = edits.iter().filter_map(|edit| edit.rows.as_ref()).find(|rows| rows.cut == cut);
                if let Some(rows) = rows {
                    let index = Tensor::new(rows.neurons.as_slice(), &Device::Cpu)?;
                    before = before.index_select(&index, rows.along)?;
                    after = after.index_select(&index, rows.along)?;
                }
                let (before, after) = (flat(&before)?, flat(&after)?);
                // Of a tensor that holds several projections, only those that were touched are meant.
                if !shared || before != after {
                    see(name, Some(site), &before, &after);
                }
            }
        }
        Ok(())
    }

    fn edited(&self, checkpoint: &Checkpoint, name: &str, edits: &[Edit]) -> candle_core::Result<Tensor> {
        let [Edit { values, rows: None }] = edits else {
            let mut tensor = checkpoint.tensor(name, DType::F32, &Device::Cpu)?;
            for edit in edits {
                let Some(rows) = &edit.rows else { candle_core::bail!("`{name}` is replaced twice") };
                let mut projection = rows.cut.of(&tensor)?;
                projection = rows.put(&projection, &self.read(&edit.values)?)?;
                tensor = rows.cut.put(&tensor, &projection)?;
            }
            return Ok(tensor);
        };
        Tensor::from_vec(self.read(values)?, values.shape.as_slice(), &Device::Cpu)
    }

    fn read(&self, stored: &Stored) -> candle_core::Result<Vec<f32>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(stored.start))?;
        let mut bytes = vec![0; stored.len];
        file.read_exact(&mut bytes)?;
        Ok(match stored.dtype {
            safetensors::Dtype::F32 => {
                bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
            }
            safetensors::Dtype::F16 => {
                bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
            }
            _ => bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        })
    }

    /// Whether every tensor that is touched is the base's, or is what the delta makes of it.
    fn check(
        &self,
        checkpoint: &Checkpoint,
        before: &BTreeMap<String, String>,
        after: &BTreeMap<String, String>,
    ) -> Result<(), AdaptError> {
        self.edits.par_iter().try_for_each(|(name, _)| {
            let place = checkpoint.bytes(name).ok_or_else(|| AdaptError::Gguf { path: checkpoint.config_path() })?;
            let found = sha256(&place.read()?);
            if [before, after].iter().any(|hashes| hashes.get(name) == Some(&found)) {
                return Ok(());
            }
            Err(AdaptError::OtherBase {
                path: self.path.clone(),
                base: self.head.base.clone(),
                tensor: name.clone(),
                model: checkpoint.folder().to_owned(),
            })
        })
    }
}

impl Rows {
    fn put(&self, projection: &Tensor, values: &[f32]) -> candle_core::Result<Tensor> {
        let (out, inner) = projection.dims2()?;
        let mut to = projection.flatten_all()?.to_vec1::<f32>()?;
        for (i, &neuron) in self.neurons.iter().enumerate() {
            let neuron = neuron as usize;
            if self.along == 0 {
                to[neuron * inner..][..inner].copy_from_slice(&values[i * inner..][..inner]);
            } else {
                for row in 0..out {
                    to[row * inner + neuron] = values[row * self.neurons.len() + i];
                }
            }
        }
        Tensor::from_vec(to, (out, inner), &Device::Cpu)
    }
}

/// The header of a safetensors file, and where its data begin; nothing is believed that the file's length does not bear out.
fn header(path: &Path) -> Result<(Metadata, u64), AdaptError> {
    let broken = |problem: String| AdaptError::broken(path, problem);
    let unreadable = |error: std::io::Error| broken(format!("cannot be read: {error}"));
    let mut file = File::open(path).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    let mut size = [0; 8];
    file.read_exact(&mut size).map_err(|_| broken("is no safetensors file: it is too short".to_owned()))?;
    let size = u64::from_le_bytes(size);
    if size > LONGEST_HEADER || size + 8 > length {
        return Err(broken(format!(
            "is no whole safetensors file: it declares a header of {size} bytes and has {length}"
        )));
    }
    let mut json = vec![0; usize::try_from(size).expect("bounded above")];
    file.read_exact(&mut json).map_err(unreadable)?;
    let metadata: Metadata = serde_json::from_slice(&json)
        .map_err(|error| broken(format!("is no safetensors file: its header cannot be read ({error})")))?;
    let end = metadata.tensors().values().map(|info| info.data_offsets.1 as u64).max().unwrap_or_default();
    if end + size + 8 > length {
        return Err(broken(format!("is cut short: it has {length} bytes and its header asks for {}", end + size + 8)));
    }
    Ok((metadata, size + 8))
}

/// What replaces what, by the tensors of the checkpoint.
fn edits(
    path: &Path,
    metadata: &Metadata,
    data: u64,
    architecture: &Architecture,
    checkpoint: &Checkpoint,
) -> Result<BTreeMap<String, Vec<Edit>>, AdaptError> {
    let broken = |problem: String| AdaptError::broken(path, problem);
    let tensors = metadata.tensors();
    let ordered: BTreeMap<&String, &&TensorInfo> = tensors.iter().collect();
    let stored = |info: &TensorInfo| Stored {
        start: data + info.data_offsets.0 as u64,
        len: info.data_offsets.1 - info.data_offsets.0,
        dtype: info.dtype,
        shape: info.shape.clone(),
    };
    let fits = |key: &str, info: &TensorInfo, place: &TensorBytes, shape: &[usize]| {
        let dtype = format!("{:?}", info.dtype);
        let width = place.len / place.shape.iter().product::<usize>().max(1);
        let long =
            info.data_offsets.1.checked_sub(info.data_offsets.0) == Some(shape.iter().product::<usize>() * width);
        if info.shape != shape || dtype != place.dtype || !long {
            return Err(broken(format!(
                "`{key}` is {dtype} {:?}, but this model needs {} {shape:?}; it is another model's",
                info.shape, place.dtype
            )));
        }
        Ok(())
    };
    let mut edits: BTreeMap<String, Vec<Edit>> = BTreeMap::new();
    for (key, info) in &ordered {
        if let Some(name) = key.strip_prefix("tensor.") {
            let place = checkpoint
                .bytes(name)
                .ok_or_else(|| broken(format!("replaces `{name}`, which the model does not have")))?;
            fits(key, info, &place, &place.shape)?;
            edits.entry(name.to_owned()).or_default().push(Edit { values: stored(info), rows: None });
            continue;
        }
        let parts: Vec<&str> = key.split('.').collect();
        let (layer, projection) = match parts[..] {
            ["layers", layer, "mlp", what] => {
                let layer: usize = layer.parse().map_err(|_| broken(format!("holds `{key}`, which names no layer")))?;
                let projection = PROJECTIONS.into_iter().find(|projection| projection.name() == what);
                match (what, projection) {
                    ("neurons", _) => continue,
                    (_, Some(projection)) => (layer, projection),
                    _ => return Err(broken(format!("holds `{key}`, which this program does not know"))),
                }
            }
            _ => return Err(broken(format!("holds `{key}`, which this program does not know"))),
        };
        let index = layer_key(layer, "neurons");
        let index_info = ordered.get(&index).ok_or_else(|| broken(format!("holds `{key}` without `{index}`")))?;
        let neurons = indices(path, index_info, data)?;
        let spec = &architecture.spec;
        let ascending = neurons.is_sorted_by(|a, b| a < b);
        if layer >= spec.ffn.layers || !ascending || neurons.last().is_some_and(|&last| last as usize >= spec.ffn.width)
        {
            return Err(broken(format!("`{index}` does not fit a model of {}; it is another model's", spec.ffn)));
        }
        let place = architecture
            .place(Site { layer, projection })
            .ok_or_else(|| broken(format!("holds `{key}`, but the model's FFN has no such projection")))?;
        let name = format!("{}.weight", place.stem);
        let bytes = checkpoint.bytes(&name).ok_or_else(|| AdaptError::Gguf { path: checkpoint.config_path() })?;
        let along = along(projection);
        let shape = if along == 0 { [neurons.len(), spec.hidden] } else { [spec.hidden, neurons.len()] };
        fits(key, info, &bytes, &shape)?;
        let rows = Some(Rows { cut: place.cut, neurons, along });
        edits.entry(name).or_default().push(Edit { values: stored(info), rows });
    }
    if edits.values().any(|edits| edits.len() > 1 && edits.iter().any(|edit| edit.rows.is_none())) {
        return Err(broken("replaces a tensor and parts of it".to_owned()));
    }
    Ok(edits)
}

/// The projections that a tensor holds.
fn sites(architecture: &Architecture, name: &str) -> Vec<(Site, Cut)> {
    let layers = 0..architecture.spec.ffn.layers;
    let all = layers.flat_map(|layer| Projection::ALL.map(|projection| Site { layer, projection }));
    let place = |site| Some((site, architecture.place(site)?));
    let own = all.filter_map(place).filter(|(_, place)| name.strip_suffix(".weight") == Some(place.stem.as_str()));
    own.map(|(site, place)| (site, place.cut)).collect()
}

fn indices(path: &Path, info: &TensorInfo, data: u64) -> Result<Vec<u32>, AdaptError> {
    let broken = |error: std::io::Error| AdaptError::broken(path, format!("cannot be read: {error}"));
    if info.dtype != safetensors::Dtype::U32 || info.shape.len() != 1 {
        return Err(AdaptError::broken(
            path,
            format!("holds neurons as {:?} {:?}, but U32 is wanted", info.dtype, info.shape),
        ));
    }
    let mut file = File::open(path).map_err(broken)?;
    file.seek(SeekFrom::Start(data + info.data_offsets.0 as u64)).map_err(broken)?;
    let mut bytes = vec![0; info.data_offsets.1 - info.data_offsets.0];
    file.read_exact(&mut bytes).map_err(broken)?;
    Ok(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}
