//! A model in one GGUF file, as llama.cpp keeps it: metadata, tokenizer and weights, most often quantised.
//! In: the file. Out: what a checkpoint folder gives. Names, shapes and layout become Hugging Face's on the way, exactly
//! but for one rounding: a norm that is stored with 1 added comes back as near as an f32 allows.

mod architecture;
mod config;
mod file;
mod formats;
mod pre_tokenizers;
mod tokenizer;

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use sha2::{Digest, Sha256};
use tokenizers::Tokenizer;

use self::{
    architecture::{ARCHITECTURES, Architecture},
    file::GgufFile,
};
use super::{Checkpoint, CheckpointError, CheckpointHashes, Files, StoredTensor, file_name, sha256};
use crate::output;

/// An open file, and what its tensors are called in Hugging Face's words.
struct Gguf {
    file: GgufFile,
    architecture: &'static Architecture,
    /// Hugging Face's names to the file's.
    names: BTreeMap<String, String>,
    heads: usize,
    kv_heads: usize,
    /// SHA-256 of the config as JSON.
    config_sha256: String,
}

/// Whether a path is a GGUF file, or calls itself one.
pub(super) fn is_one(path: &Path) -> bool {
    let begins = || {
        let mut magic = [0; 4];
        File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && &magic == file::MAGIC
    };
    path.is_file() && (path.extension().is_some_and(|extension| extension == "gguf") || begins())
}

/// Opens a file: reads everything before the weights and says it in Hugging Face's words.
pub(super) fn open(path: &Path) -> Result<Checkpoint, CheckpointError> {
    let file = GgufFile::open(path)?;
    let architecture = whole_model(&file)?;
    let config = config::config(&file, architecture)?;
    let mut tensors = BTreeMap::new();
    let mut names = BTreeMap::new();
    for (name, place) in file.tensors.iter().filter(|(name, _)| *name != config::FREQUENCIES) {
        // A name that we do not know stays as it is, and `check` will find that no config has a place for it.
        let theirs = architecture.hugging_face(name).unwrap_or_else(|| name.clone());
        let (dtype, shape) = (place.format.name.to_owned(), place.shape.clone());
        tensors.insert(theirs.clone(), StoredTensor { file: path.to_owned(), dtype, shape, readable: true });
        if let Some(twin) = names.insert(theirs, name.clone()) {
            let problem = format!("its tensors `{twin}` and `{name}` are the same one");
            return Err(CheckpointError::Broken { path: path.to_owned(), problem });
        }
    }
    let json = serde_json::to_vec(&config).expect("plain data");
    let size = |field: &str| config[field].as_u64().unwrap_or_default() as usize;
    let (heads, kv_heads) = (size("num_attention_heads"), size("num_key_value_heads"));
    let config_sha256 = output::sha256(&json);
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    let files = Box::new(Gguf { file, architecture, names, heads, kv_heads, config_sha256 });
    Ok(Checkpoint { folder, config_path: path.to_owned(), config, tensors, files })
}

/// The architecture of a file that holds a model, and all of it.
fn whole_model(file: &GgufFile) -> Result<&'static Architecture, GgufError> {
    let path = file.path.clone();
    if let Some(kind) = file.text("general.type")?.filter(|kind| *kind != "model") {
        return Err(GgufError::NoModel { path, kind: kind.to_owned() });
    }
    if let Some(parts) = file.whole("split.count")?.filter(|parts| *parts > 1) {
        return Err(GgufError::Split { path, parts });
    }
    let key = "general.architecture";
    let name = file.text(key)?.ok_or_else(|| GgufError::Absent { path: path.clone(), key: key.to_owned() })?;
    Architecture::of(name).ok_or_else(|| GgufError::Architecture {
        path,
        found: name.to_owned(),
        known: ARCHITECTURES.iter().map(|architecture| architecture.name).collect::<Vec<_>>().join(", "),
    })
}

impl Files for Gguf {
    fn tensor(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let Some(own) = self.names.get(name) else {
            candle_core::bail!("{}: has no tensor `{}`", self.file.path.display(), self.spelling(name));
        };
        let place = &self.file.tensors[own];
        let mut floats = self.file.floats(place)?;
        if self.architecture.gemma && name.ends_with("norm.weight") {
            floats.iter_mut().for_each(|weight| *weight -= 1.0);
        }
        let mut tensor = Tensor::from_vec(floats, place.shape.as_slice(), &Device::Cpu)?;
        if self.architecture.interleaved && name.contains(".self_attn.q_proj.") {
            tensor = halves(&tensor, self.heads)?;
        }
        if self.architecture.interleaved && name.contains(".self_attn.k_proj.") {
            tensor = halves(&tensor, self.kv_heads)?;
        }
        tensor.to_dtype(dtype)?.to_device(device)
    }

    fn tokenizer(&self) -> Result<Tokenizer, CheckpointError> {
        Ok(tokenizer::tokenizer(&self.file, self.architecture)?)
    }

    fn tokenizer_path(&self) -> PathBuf {
        self.file.path.clone()
    }

    fn weights_path(&self) -> PathBuf {
        self.file.path.clone()
    }

    fn spelling(&self, name: &str) -> String {
        self.names.get(name).cloned().or_else(|| self.architecture.llama_cpp(name)).unwrap_or_else(|| name.to_owned())
    }

    fn hashes(&self) -> Result<CheckpointHashes, CheckpointError> {
        let mut tokenizer = Sha256::new();
        for key in self.file.keys().filter(|key| key.starts_with("tokenizer.ggml.")) {
            let (kind, bytes) = self.file.bytes(key).expect("a key of the file");
            tokenizer.update((key.len() as u64).to_le_bytes());
            tokenizer.update(key);
            tokenizer.update([kind]);
            tokenizer.update((bytes.len() as u64).to_le_bytes());
            tokenizer.update(bytes);
        }
        Ok(CheckpointHashes {
            config: self.config_sha256.clone(),
            tokenizer: output::hex(&tokenizer.finalize()),
            weights: BTreeMap::from([(file_name(&self.file.path), sha256(&self.file.path)?)]),
        })
    }
}

/// Rows of a projection, or a bias, from llama.cpp's order within a head, (0, d/2, 1, d/2 + 1, …), to (0, 1, 2, …).
fn halves(tensor: &Tensor, heads: usize) -> candle_core::Result<Tensor> {
    let rows = tensor.dim(0)?;
    if heads == 0 || !rows.is_multiple_of(2 * heads) {
        candle_core::bail!("{rows} rows of queries or keys are not {heads} heads of an even width");
    }
    let pairs = tensor.reshape((heads, rows / heads / 2, 2, ()))?;
    pairs.transpose(1, 2)?.contiguous()?.reshape(tensor.shape())
}

/// What only a GGUF file can get wrong.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// A file that holds something else.
    #[error("{path}: `general.type` is `{kind}`, so that it is no model by itself; give the file of the model")]
    NoModel {
        /// The file.
        path: PathBuf,
        /// `adapter`, `mmproj`.
        kind: String,
    },
    /// A file that holds a part.
    #[error("{path}: is one of {parts} parts; join them with llama.cpp's `llama-gguf-split --merge` first")]
    Split {
        /// The file.
        path: PathBuf,
        /// How many there are.
        parts: u64,
    },
    /// An architecture that we do not know.
    #[error(
        "{path}: `general.architecture` is `{found}`; read from GGUF are {known}. Another model can be read from its Hugging Face folder, if its family is known"
    )]
    Architecture {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What we know.
        known: String,
    },
    /// A key that has to be there.
    #[error(
        "{path}: has no `{key}`, and nothing can stand in for it; take a complete file, or convert the model with a current llama.cpp"
    )]
    Absent {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// A value of another type or out of range.
    #[error(
        "{path}: `{key}` is {found}, but {wanted} is wanted; the file is damaged or was written by another program than llama.cpp"
    )]
    Metadata {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value.
        found: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// A key that nobody here has heard of.
    #[error(
        "{path}: `{key}` is {found}, and no such key is known: it may change the model's arithmetic. Take the model's Hugging Face folder"
    )]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value.
        found: String,
    },
    /// A value that changes the arithmetic in a way that is not implemented.
    #[error(
        "{path}: `{key}` is {found}, which changes the model's arithmetic and is not implemented; {implemented} is wanted"
    )]
    NotImplemented {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value.
        found: String,
        /// What works.
        implemented: String,
    },
    /// A number format that is not read.
    #[error(
        "{path}: tensor `{tensor}` is stored as {found}; {} are read. Take a file that is quantised in one of these",
        formats::read()
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its format.
        found: String,
    },
    /// A vocabulary whose parts do not fit one another.
    #[error("{path}: its vocabulary is broken: {problem}; download the file again, or take another")]
    Vocabulary {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        problem: String,
    },
    /// A tokenizer that cannot be rebuilt with certainty.
    #[error(
        "{path}: `{key}` is `{found}`; a tokenizer can be made of {known}. Take the model's Hugging Face folder, which has its tokenizer.json"
    )]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// Its value.
        found: String,
        /// What we know.
        known: String,
    },
}
