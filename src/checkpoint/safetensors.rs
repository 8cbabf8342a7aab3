//! A checkpoint as Hugging Face keeps it: a folder with config.json, tokenizer.json and safetensors, one file or shards with
//! an index. In: the folder. Out: its config, its tokenizer, and the weights, read one by one when they are asked for.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor, WithDType};
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::tensor::Metadata;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;
use tokenizers::Tokenizer;

use super::{Checkpoint, CheckpointError, CheckpointHashes, Files, StoredTensor, TensorBytes, file_name, read, sha256};

/// An open folder, its weights not yet read.
///
/// They are not mapped either: a mapped file that another program cuts short ends the process, and its pages would count as
/// ours on top of the converted weights.
struct Folder {
    path: PathBuf,
    shards: Vec<PathBuf>,
    places: BTreeMap<String, Place>,
}

/// Where a tensor's values lie in a file.
struct Place {
    file: PathBuf,
    start: u64,
    dtype: String,
    shape: Vec<usize>,
}

/// Values that one task reads and converts.
const CHUNK: usize = 1 << 20;
/// Values that are read at once, so that what is read takes no room to speak of.
const PIECE: usize = 1 << 14;

/// A safetensors header is JSON of a few hundred bytes a tensor; the format's own readers refuse more than this.
const LONGEST_HEADER: u64 = 100_000_000;

/// Opens a folder: reads the config and every shard's header.
pub(super) fn open(folder: &Path) -> Result<Checkpoint, CheckpointError> {
    let config_path = folder.join("config.json");
    let config = serde_json::from_slice(&read(&config_path)?).map_err(|error| CheckpointError::Broken {
        path: config_path.clone(),
        problem: format!("no JSON object: {error}"),
    })?;
    let shards = shards(folder)?;
    let (mut tensors, mut places) = (BTreeMap::new(), BTreeMap::new());
    for shard in &shards {
        for (name, place) in header(shard)? {
            let (file, dtype, shape) = (place.file.clone(), place.dtype.clone(), place.shape.clone());
            let readable = width(&dtype).is_some();
            tensors.insert(name.clone(), StoredTensor { file, dtype, shape, readable });
            places.insert(name, place);
        }
    }
    let files = Box::new(Folder { path: folder.to_owned(), shards, places });
    Ok(Checkpoint { folder: folder.to_owned(), config_path, config, tensors, files })
}

impl Files for Folder {
    fn tensor(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let Some(place) = self.places.get(name) else { candle_core::bail!("no file has a tensor `{name}`") };
        let shape = place.shape.as_slice();
        match dtype {
            DType::F32 => Tensor::from_vec(place.values(|value| value)?, shape, device),
            DType::F16 => Tensor::from_vec(place.values(f16::from_f32)?, shape, device),
            DType::BF16 => Tensor::from_vec(place.values(bf16::from_f32)?, shape, device),
            other => candle_core::bail!("weights are not converted to {other:?}"),
        }
    }

    fn bytes(&self, name: &str) -> Option<TensorBytes> {
        let Place { file, start, dtype, shape } = self.places.get(name)?;
        let len = shape.iter().product::<usize>() * width(dtype)?;
        Some(TensorBytes { file: file.clone(), start: *start, len, dtype: dtype.clone(), shape: shape.clone() })
    }

    fn shards(&self) -> &[PathBuf] {
        &self.shards
    }

    fn tokenizer(&self) -> Result<Tokenizer, CheckpointError> {
        let path = self.tokenizer_path();
        let json = read(&path)?;
        let broken = |problem: String| CheckpointError::Broken { path: path.clone(), problem };
        // The crate takes for granted that what it reads is JSON, and panics inside a decoder that is not.
        serde_json::from_slice::<AnyJson>(&json).map_err(|error| broken(error.to_string()))?;
        Tokenizer::from_bytes(json).map_err(|error| broken(error.to_string()))
    }

    fn tokenizer_path(&self) -> PathBuf {
        self.path.join("tokenizer.json")
    }

    fn weights_path(&self) -> PathBuf {
        if let [single] = self.shards.as_slice() { single.clone() } else { self.path.join(INDEX) }
    }

    fn hashes(&self) -> Result<CheckpointHashes, CheckpointError> {
        let weights = self.shards.iter().map(|shard| Ok((file_name(shard), sha256(shard)?)));
        Ok(CheckpointHashes {
            config: sha256(&self.path.join("config.json"))?,
            tokenizer: sha256(&self.tokenizer_path())?,
            weights: weights.collect::<Result<_, CheckpointError>>()?,
        })
    }
}

/// Bytes of one value.
fn width(dtype: &str) -> Option<usize> {
    match dtype {
        "F32" => Some(4),
        "F16" | "BF16" => Some(2),
        _ => None,
    }
}

impl Place {
    /// All values, converted chunk by chunk on the way, so that they are never held twice.
    fn values<T: WithDType>(&self, convert: impl Fn(f32) -> T + Sync) -> candle_core::Result<Vec<T>> {
        let Some(width) = width(&self.dtype) else { candle_core::bail!("{} is no float format", self.dtype) };
        let mut values = vec![T::zero(); self.shape.iter().product()];
        values.par_chunks_mut(CHUNK).enumerate().try_for_each(|(i, values)| {
            let mut file = File::open(&self.file)?;
            file.seek(SeekFrom::Start(self.start + (i * CHUNK * width) as u64))?;
            let mut bytes = vec![0; values.len().min(PIECE) * width];
            for values in values.chunks_mut(PIECE) {
                let bytes = &mut bytes[..values.len() * width];
                file.read_exact(bytes)?;
                let pairs = values.iter_mut().zip(bytes.chunks_exact(width));
                match self.dtype.as_str() {
                    "F32" => pairs.for_each(|(to, b)| *to = convert(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
                    "F16" => pairs.for_each(|(to, b)| *to = convert(f16::from_le_bytes([b[0], b[1]]).to_f32())),
                    _ => pairs.for_each(|(to, b)| *to = convert(bf16::from_le_bytes([b[0], b[1]]).to_f32())),
                }
            }
            std::io::Result::Ok(())
        })?;
        Ok(values)
    }
}

/// JSON of any kind, read to its end and every number of it, and not kept.
struct AnyJson;

impl<'de> Deserialize<'de> for AnyJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for AnyJson {
    type Value = Self;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self, A::Error> {
        while fields.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}

pub(super) const INDEX: &str = "model.safetensors.index.json";
pub(super) const SINGLE: &str = "model.safetensors";

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

fn shards(folder: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let single = folder.join(SINGLE);
    let index = folder.join(INDEX);
    if single.is_file() {
        return Ok(vec![single]);
    }
    if !index.is_file() {
        return Err(CheckpointError::NoWeights { path: folder.to_owned() });
    }
    let list = shard_index(&index)?;
    let mut shards = Vec::new();
    for name in list.shards() {
        let shard = folder.join(name);
        if !shard.is_file() {
            let tensors = list.weight_map.values().filter(|file| file.as_str() == name).count();
            return Err(CheckpointError::MissingShard { index, shard: name.to_owned(), tensors });
        }
        shards.push(shard);
    }
    Ok(shards)
}

impl ShardIndex {
    fn shards(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }
}

/// The index of a model in several files, its names checked.
fn shard_index(path: &Path) -> Result<ShardIndex, CheckpointError> {
    let broken = |problem: String| CheckpointError::Broken { path: path.to_owned(), problem };
    let list: ShardIndex = serde_json::from_slice(&read(path)?).map_err(|error| broken(error.to_string()))?;
    // A shard lies beside its index: a name with a folder in it would leave the checkpoint.
    let outside = |name: &&String| Path::new(name).file_name() != Some(std::ffi::OsStr::new(name));
    match list.weight_map.values().find(outside) {
        Some(name) => Err(broken(format!("it names `{name}`, which is no file beside it"))),
        None => Ok(list),
    }
}

/// The files that an index names.
pub(super) fn shard_names(index: &Path) -> Result<Vec<String>, CheckpointError> {
    Ok(shard_index(index)?.shards().into_iter().map(str::to_owned).collect())
}

#[derive(Deserialize)]
struct HeaderEntry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

/// The tensors of one safetensors file, read from its header alone; the file must be as long as the header says.
fn header(path: &Path) -> Result<BTreeMap<String, Place>, CheckpointError> {
    let unreadable = |source| CheckpointError::Unreadable { path: path.to_owned(), source };
    let broken = |problem: String| CheckpointError::Broken { path: path.to_owned(), problem };
    let mut file = File::open(path).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    let mut size = [0; 8];
    file.read_exact(&mut size).map_err(|_| CheckpointError::Short {
        path: path.to_owned(),
        found: length,
        wanted: 8,
    })?;
    let size = u64::from_le_bytes(size);
    if size > LONGEST_HEADER {
        return Err(broken(format!("it is no safetensors file, for it declares a header of {size} bytes")));
    }
    if size + 8 > length {
        return Err(CheckpointError::Short { path: path.to_owned(), found: length, wanted: size + 8 });
    }
    let mut json = vec![0; usize::try_from(size).expect("bounded above")];
    file.read_exact(&mut json).map_err(unreadable)?;
    let entries: BTreeMap<String, Value> =
        serde_json::from_slice(&json).map_err(|error| broken(format!("its header is not JSON: {error}")))?;
    let mut tensors = BTreeMap::new();
    let mut end = 0;
    for (name, entry) in entries.into_iter().filter(|(name, _)| name != "__metadata__") {
        let entry: HeaderEntry =
            serde_json::from_value(entry).map_err(|error| broken(format!("tensor `{name}`: {error}")))?;
        end = end.max(entry.data_offsets.1);
        let (file, start) = (path.to_owned(), (size + 8).saturating_add(entry.data_offsets.0));
        tensors.insert(name, Place { file, start, dtype: entry.dtype, shape: entry.shape });
    }
    let wanted = end.saturating_add(size + 8);
    if wanted > length {
        return Err(CheckpointError::Short { path: path.to_owned(), found: length, wanted });
    }
    // That every tensor has the bytes that its shape asks for, and that none overlap, is for the format's own reader to say.
    serde_json::from_slice::<Metadata>(&json).map_err(|error| broken(error.to_string()))?;
    Ok(tensors)
}
