//! A model: a folder as Hugging Face keeps it, a GGUF file as llama.cpp does, or either on a Hub.
//! In: a path. Out: its config, its tokenizer, and tensors that were checked against the config before any work, all of them
//! in Hugging Face's spelling, whatever the files' own.

mod gguf;
mod hub;
mod safetensors;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokenizers::Tokenizer;

use self::safetensors::{INDEX, SINGLE};
pub use self::{gguf::GgufError, hub::HubModel};
use crate::{hub::HubError, output};

/// A checkpoint, its weights not yet read.
pub struct Checkpoint {
    folder: PathBuf,
    config_path: PathBuf,
    config: Map<String, Value>,
    tensors: BTreeMap<String, StoredTensor>,
    files: Box<dyn Files>,
}

/// What the two kinds of checkpoint do each in their own way. Tensors go by Hugging Face's names.
trait Files: Send + Sync {
    fn tensor(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor>;
    fn tokenizer(&self) -> Result<Tokenizer, CheckpointError>;
    /// The file that the tokenizer comes from, for messages.
    fn tokenizer_path(&self) -> PathBuf;
    /// The file that lists the tensors, for messages.
    fn weights_path(&self) -> PathBuf;
    /// How the files themselves call a tensor.
    fn spelling(&self, name: &str) -> String {
        name.to_owned()
    }
    fn hashes(&self) -> Result<CheckpointHashes, CheckpointError>;
    /// Where a tensor's bytes lie as they are, of files that hold them so.
    fn bytes(&self, name: &str) -> Option<TensorBytes> {
        let _ = name;
        None
    }
    /// The weight files, of a checkpoint whose tensors can be replaced byte by byte.
    fn shards(&self) -> &[PathBuf] {
        &[]
    }
}

/// Where the bytes of a stored tensor lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorBytes {
    /// The weight file.
    pub file: PathBuf,
    /// The first byte.
    pub start: u64,
    /// How many.
    pub len: usize,
    /// The number format, as safetensors spells it.
    pub dtype: String,
    /// The shape, as `torch` writes it.
    pub shape: Vec<usize>,
}

impl TensorBytes {
    /// The bytes themselves.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self) -> Result<Vec<u8>, CheckpointError> {
        let unreadable = |source| CheckpointError::Unreadable { path: self.file.clone(), source };
        let mut file = File::open(&self.file).map_err(unreadable)?;
        file.seek(SeekFrom::Start(self.start)).map_err(unreadable)?;
        let mut bytes = vec![0; self.len];
        file.read_exact(&mut bytes).map_err(unreadable)?;
        Ok(bytes)
    }
}

/// A tensor as its file's header declares it.
#[derive(Clone, Debug)]
struct StoredTensor {
    file: PathBuf,
    /// The number format, as the file format spells it.
    dtype: String,
    /// Its shape, as `torch` writes it.
    shape: Vec<usize>,
    /// Whether the number format is one that we can turn into floats.
    readable: bool,
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
    /// SHA-256 of config.json; for a GGUF file, of the config made from its metadata.
    pub config: String,
    /// SHA-256 of tokenizer.json; for a GGUF file, of the metadata that its tokenizer is made from.
    pub tokenizer: String,
    /// SHA-256 of every weight file, by name.
    pub weights: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens a folder or a GGUF file: reads the config and every header, and leaves the weights on the disk.
    ///
    /// # Errors
    /// When a file is missing, cut short, or not what its name says; the error names the file.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        if path.is_dir() {
            safetensors::open(path)
        } else if gguf::is_one(path) {
            gguf::open(path)
        } else {
            Err(CheckpointError::NoModel { path: path.to_owned() })
        }
    }

    /// The folder that the files lie in.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// config.json, or what a GGUF file's metadata say in its words.
    #[must_use]
    pub fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    /// The file that the config comes from, for messages.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.config_path.clone()
    }

    /// Whether there is such a tensor.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The number formats that the weights are stored in, as the files spell them: the largest share first, those of less
    /// than a hundredth left out (`BF16`, `Q4_1 + Q8_0`).
    #[must_use]
    pub fn stored_dtype(&self) -> String {
        let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
        for tensor in self.tensors.values() {
            *sizes.entry(&tensor.dtype).or_default() += tensor.shape.iter().product::<usize>();
        }
        let total: usize = sizes.values().sum();
        let mut shares: Vec<_> = sizes.into_iter().filter(|(_, size)| *size >= total.div_ceil(100)).collect();
        shares.sort_by_key(|&(_, size)| std::cmp::Reverse(size));
        shares.into_iter().map(|(dtype, _)| dtype).collect::<Vec<_>>().join(" + ")
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
                    path: self.files.weights_path(),
                    name: self.files.spelling(&need.name),
                    shape: need.shape.clone(),
                });
            };
            if found.shape != need.shape {
                return Err(CheckpointError::Shape {
                    path: found.file.clone(),
                    name: self.files.spelling(&need.name),
                    found: found.shape.clone(),
                    wanted: need.shape.clone(),
                });
            }
            if !found.readable {
                return Err(CheckpointError::DType {
                    path: found.file.clone(),
                    name: need.name.clone(),
                    found: found.dtype.clone(),
                });
            }
        }
        let needed: BTreeSet<&str> = needs.iter().map(|need| need.name.as_str()).collect();
        match self.tensors.iter().find(|(name, _)| !needed.contains(name.as_str()) && !ignored(name)) {
            Some((name, tensor)) => Err(CheckpointError::Unexpected {
                path: tensor.file.clone(),
                name: self.files.spelling(name),
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
        self.files.tensor(name, dtype, device)
    }

    /// Where a tensor's bytes lie; none in a GGUF file, which stores other tensors than it stands for.
    #[must_use]
    pub fn bytes(&self, name: &str) -> Option<TensorBytes> {
        self.files.bytes(name)
    }

    /// The safetensors files; none of a GGUF file.
    #[must_use]
    pub fn shards(&self) -> &[PathBuf] {
        self.files.shards()
    }

    /// The tokenizer, checked to fit an embedding of `vocabulary` rows.
    ///
    /// # Errors
    /// When the file is missing or broken, or belongs to another vocabulary.
    pub fn tokenizer(&self, vocabulary: usize) -> Result<Tokenizer, CheckpointError> {
        let path = self.files.tokenizer_path();
        let mut tokenizer = self.files.tokenizer()?;
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
        self.files.hashes()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, CheckpointError> {
    std::fs::read(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => CheckpointError::NoFile { path: path.to_owned() },
        _ => CheckpointError::Unreadable { path: path.to_owned(), source },
    })
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// SHA-256 of a file, in hexadecimal.
fn sha256(path: &Path) -> Result<String, CheckpointError> {
    let unreadable = |source| CheckpointError::Unreadable { path: path.to_owned(), source };
    output::sha256_file(path).map_err(unreadable)
}

/// What can be wrong with a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Neither a folder nor a GGUF file at the path.
    #[error(
        "{path}: there is no such model; a folder with config.json, tokenizer.json and model.safetensors, a GGUF file, or OWNER/NAME on a Hub (with @main behind it where a folder OWNER is here) is wanted"
    )]
    NoModel {
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
    #[error("{path}: is broken: {problem}{}", output::unless_said(.problem, "; download it again"))]
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
        "{path}: holds tensor `{name}` {shape:?}, which this config has no place for; config and weights do not belong together"
    )]
    Unexpected {
        /// The weight file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A model on a Hub without weights that we read.
    #[error("{model} holds neither {SINGLE} nor {INDEX}{gguf}")]
    NoHubWeights {
        /// The model.
        model: String,
        /// What there is instead, and what to do.
        gguf: String,
    },
    /// The Hub does not give the files.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// What only a GGUF file can get wrong.
    #[error(transparent)]
    Gguf(#[from] GgufError),
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
