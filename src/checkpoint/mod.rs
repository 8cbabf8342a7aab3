//! A model on disk as Hugging Face keeps it: config.json, tokenizer.json and safetensors, one file or shards with an index.
//! In: a folder. Out: its config, its tokenizer, and tensors that were checked against the config before any work.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor, safetensors::MmapedSafetensors};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokenizers::Tokenizer;

use crate::output;

/// A checkpoint folder, its weights mapped into memory and not yet read.
pub struct Checkpoint {
    folder: PathBuf,
    config: Map<String, Value>,
    tensors: BTreeMap<String, TensorFile>,
    shards: Vec<PathBuf>,
    mapped: MmapedSafetensors,
}

/// A tensor as its file's header declares it.
#[derive(Clone, Debug)]
struct TensorFile {
    file: PathBuf,
    dtype: String,
    shape: Vec<usize>,
}

/// A tensor that a config asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorNeed {
    /// Its name in the checkpoint.
    pub name: String,
    /// Its shape, as `torch` writes it.
    pub shape: Vec<usize>,
}

/// Hashes of what a checkpoint consists of, for provenance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointHashes {
    /// SHA-256 of config.json.
    pub config: String,
    /// SHA-256 of tokenizer.json.
    pub tokenizer: String,
    /// SHA-256 of every weight file, by name.
    pub weights: BTreeMap<String, String>,
}

/// A safetensors header is JSON of a few hundred bytes a tensor; the format's own readers refuse more than this.
const LONGEST_HEADER: u64 = 100_000_000;

impl Checkpoint {
    /// Opens a folder: reads the config and every shard's header, and maps the weights.
    ///
    /// # Errors
    /// When a file is missing, cut short, or not what its name says; the error names the file.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        if !folder.is_dir() {
            return Err(CheckpointError::NoFolder { path: folder.to_owned() });
        }
        let config = read_object(&folder.join("config.json"))?;
        let shards = shards(folder)?;
        let mut tensors = BTreeMap::new();
        for shard in &shards {
            tensors.extend(header(shard)?);
        }
        // SAFETY: the map is only read; a file that another program cuts short while we run ends the process, as with
        // every reader of mapped weights.
        #[allow(unsafe_code)]
        let mapped = unsafe { MmapedSafetensors::multi(&shards) }
            .map_err(|error| CheckpointError::Broken { path: folder.to_owned(), problem: error.to_string() })?;
        Ok(Self { folder: folder.to_owned(), config, tensors, shards, mapped })
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// config.json.
    #[must_use]
    pub fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    /// Path of config.json, for messages.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.folder.join("config.json")
    }

    /// Whether there is such a tensor.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The number format that most of the weights are stored in, as safetensors spells it (`BF16`).
    #[must_use]
    pub fn stored_dtype(&self) -> String {
        let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
        for tensor in self.tensors.values() {
            *sizes.entry(&tensor.dtype).or_default() += tensor.shape.iter().product::<usize>();
        }
        sizes.into_iter().max_by_key(|(_, size)| *size).map_or_else(String::new, |(dtype, _)| dtype.to_owned())
    }

    /// Compares the files with what a config asks for: every tensor there, of the right shape, in a float format, and none
    /// besides, for a tensor that nobody reads (a bias, say) would be arithmetic left out.
    ///
    /// # Errors
    /// The first difference, naming file, tensor, found and expected.
    pub fn check(&self, needs: &[TensorNeed], ignored: impl Fn(&str) -> bool) -> Result<(), CheckpointError> {
        for need in needs {
            let Some(found) = self.tensors.get(&need.name) else {
                return Err(CheckpointError::Missing {
                    path: self.weights_path(),
                    name: need.name.clone(),
                    shape: need.shape.clone(),
                });
            };
            if found.shape != need.shape {
                return Err(CheckpointError::Shape {
                    path: found.file.clone(),
                    name: need.name.clone(),
                    found: found.shape.clone(),
                    wanted: need.shape.clone(),
                });
            }
            if !["F32", "F16", "BF16"].contains(&found.dtype.as_str()) {
                return Err(CheckpointError::DType {
                    path: found.file.clone(),
                    name: need.name.clone(),
                    found: found.dtype.clone(),
                });
            }
        }
        let needed: std::collections::BTreeSet<&str> = needs.iter().map(|need| need.name.as_str()).collect();
        match self.tensors.iter().find(|(name, _)| !needed.contains(name.as_str()) && !ignored(name)) {
            Some((name, tensor)) => Err(CheckpointError::Unexpected {
                path: tensor.file.clone(),
                name: name.clone(),
                shape: tensor.shape.clone(),
            }),
            None => Ok(()),
        }
    }

    /// One tensor on a device, converted to the number format in which the model runs.
    ///
    /// # Errors
    /// When the device has no room for it, or the file has no such tensor.
    pub fn tensor(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        self.mapped.load(name, device)?.to_dtype(dtype)
    }

    /// tokenizer.json, checked to fit an embedding of `vocabulary` rows.
    ///
    /// # Errors
    /// When the file is missing or broken, or belongs to another vocabulary.
    pub fn tokenizer(&self, vocabulary: usize) -> Result<Tokenizer, CheckpointError> {
        let path = self.folder.join("tokenizer.json");
        let bytes = read(&path)?;
        let mut tokenizer = Tokenizer::from_bytes(&bytes)
            .map_err(|error| CheckpointError::Broken { path: path.clone(), problem: error.to_string() })?;
        // Windows are full and never padded: whatever the file asks for in these two would change the counts.
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(None)
            .map_err(|error| CheckpointError::Broken { path: path.clone(), problem: error.to_string() })?;
        let largest = tokenizer.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        // Embeddings are often padded to a multiple of 64 or 1,024 rows, but not by a tenth of the vocabulary and 1,024.
        if largest > vocabulary || vocabulary - largest > 1024 + vocabulary / 10 {
            return Err(CheckpointError::Vocabulary { path, tokenizer: largest, model: vocabulary });
        }
        Ok(tokenizer)
    }

    /// SHA-256 of every file that decides what the model computes.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn hashes(&self) -> Result<CheckpointHashes, CheckpointError> {
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let weights = self.shards.iter().map(|shard| Ok((name(shard), sha256(shard)?)));
        Ok(CheckpointHashes {
            config: sha256(&self.config_path())?,
            tokenizer: sha256(&self.folder.join("tokenizer.json"))?,
            weights: weights.collect::<Result<_, CheckpointError>>()?,
        })
    }

    fn weights_path(&self) -> PathBuf {
        if let [single] = self.shards.as_slice() { single.clone() } else { self.folder.join(INDEX) }
    }
}

const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";

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
    let list: ShardIndex = serde_json::from_slice(&read(&index)?)
        .map_err(|error| CheckpointError::Broken { path: index.clone(), problem: error.to_string() })?;
    let names: std::collections::BTreeSet<&String> = list.weight_map.values().collect();
    let mut shards = Vec::new();
    for name in names {
        // A shard lies beside its index: a name with a folder in it would leave the checkpoint.
        if Path::new(name).file_name() != Some(std::ffi::OsStr::new(name)) {
            return Err(CheckpointError::Broken {
                path: index,
                problem: format!("it names `{name}`, which is no file beside it"),
            });
        }
        let shard = folder.join(name);
        if !shard.is_file() {
            let tensors = list.weight_map.values().filter(|file| *file == name).count();
            return Err(CheckpointError::MissingShard { index, shard: name.clone(), tensors });
        }
        shards.push(shard);
    }
    Ok(shards)
}

#[derive(Deserialize)]
struct HeaderEntry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

/// The tensors of one safetensors file, read from its header alone; the file must be as long as the header says.
fn header(path: &Path) -> Result<BTreeMap<String, TensorFile>, CheckpointError> {
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
        return Err(broken(format!("it declares a header of {size} bytes; this is no safetensors file")));
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
        tensors.insert(name, TensorFile { file: path.to_owned(), dtype: entry.dtype, shape: entry.shape });
    }
    let wanted = end.saturating_add(size + 8);
    if wanted > length {
        return Err(CheckpointError::Short { path: path.to_owned(), found: length, wanted });
    }
    Ok(tensors)
}

fn read(path: &Path) -> Result<Vec<u8>, CheckpointError> {
    std::fs::read(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => CheckpointError::NoFile { path: path.to_owned() },
        _ => CheckpointError::Unreadable { path: path.to_owned(), source },
    })
}

fn read_object(path: &Path) -> Result<Map<String, Value>, CheckpointError> {
    serde_json::from_slice(&read(path)?)
        .map_err(|error| CheckpointError::Broken { path: path.to_owned(), problem: format!("no JSON object: {error}") })
}

/// SHA-256 of a file, in hexadecimal.
fn sha256(path: &Path) -> Result<String, CheckpointError> {
    let unreadable = |source| CheckpointError::Unreadable { path: path.to_owned(), source };
    output::sha256_file(path).map_err(unreadable)
}

/// What can be wrong with a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// No folder at the path.
    #[error(
        "{path}: there is no such model folder; a folder with config.json, tokenizer.json and model.safetensors is wanted"
    )]
    NoFolder {
        /// The path.
        path: PathBuf,
    },
    /// A file that every checkpoint has is missing.
    #[error("{path}: there is no such file; a model folder holds config.json, tokenizer.json and model.safetensors")]
    NoFile {
        /// The file.
        path: PathBuf,
    },
    /// A folder without weights.
    #[error(
        "{path}: holds neither {SINGLE} nor {INDEX}; convert other formats with `save_pretrained(…, safe_serialization=True)`"
    )]
    NoWeights {
        /// The folder.
        path: PathBuf,
    },
    /// An index that names a shard which is not there.
    #[error("{index}: names `{shard}` for {tensors} tensors, but there is no such file beside it; download it again")]
    MissingShard {
        /// The index.
        index: PathBuf,
        /// The file that is not there.
        shard: String,
        /// How many tensors it should hold.
        tensors: usize,
    },
    /// A file that the system does not let us read.
    #[error("{path}: cannot be read: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file that is not what its name says.
    #[error("{path}: is broken: {problem}")]
    Broken {
        /// The file.
        path: PathBuf,
        /// What its reader said.
        problem: String,
    },
    /// A file that ends early.
    #[error("{path}: is cut short: it has {found} bytes and its header asks for {wanted}; download it again")]
    Short {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        found: u64,
        /// The length that its header asks for.
        wanted: u64,
    },
    /// A tensor that the config asks for and no file has.
    #[error("{path}: has no tensor `{name}`, but this config needs one of shape {shape:?}")]
    Missing {
        /// The weight file or the index.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A tensor of another shape.
    #[error("{path}: tensor `{name}` is {found:?}, but this config needs {wanted:?}")]
    Shape {
        /// The weight file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The shape in the file.
        found: Vec<usize>,
        /// The shape that the config asks for.
        wanted: Vec<usize>,
    },
    /// A tensor in a number format that is no plain float.
    #[error("{path}: tensor `{name}` is stored as {found}; F32, F16 and BF16 are read, quantised weights are not")]
    DType {
        /// The weight file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The format in the file.
        found: String,
    },
    /// A tensor that the config gives no place.
    #[error(
        "{path}: holds tensor `{name}` {shape:?}, which this config has no place for; config.json and weights do not belong together"
    )]
    Unexpected {
        /// The weight file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A tokenizer of another model.
    #[error(
        "{path}: has {tokenizer} token ids, but the model's embedding has {model} rows; it is another model's tokenizer"
    )]
    Vocabulary {
        /// tokenizer.json.
        path: PathBuf,
        /// Its largest id plus one.
        tokenizer: usize,
        /// Rows of the embedding.
        model: usize,
    },
}
