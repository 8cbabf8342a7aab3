//! From a file of published masks to sets of neurons: the pickle says which tensor stands where, the model's grid and the number of
//! languages say what they may hold, and only then is anything unpacked.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, Read, Seek},
    path::Path,
};

use zip::result::ZipError;

use super::{
    archive::Archive,
    pickle::{self, Lists, PickleError, Tensor},
};
use crate::{
    language::LanguageCode,
    neuron::{FfnShape, NeuronSet},
};

/// Why a file of masks is not read. Messages go behind the file's name.
#[derive(Debug, thiserror::Error)]
pub enum PthError {
    /// A folder, a pipe, a device.
    #[error("is no file; name a .pth file of published masks")]
    NoFile,
    /// Nothing in it.
    #[error("is empty; download it again")]
    Empty,
    /// Something else.
    #[error(
        "is no file that `torch.save` wrote: it does not begin as a zip archive does; choose a .pth file of published masks"
    )]
    NoZip,
    /// A file of an old torch.
    #[error(
        "is in the format of torch before 1.6; load it with a newer torch, if you trust it, and write it again with `torch.save`"
    )]
    Legacy,
    /// An archive that torch did not write, or a damaged one.
    #[error("{0}; download the file again, or write it again with `torch.save`")]
    Zip(String),
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// The pickle holds something else.
    #[error("data.pkl: {0}")]
    Pickle(#[from] PickleError),
    /// Fewer or more lists than languages.
    #[error(
        "holds lists of {found} languages, but --languages names {named}; the file does not say which they are: name all {found} in its \
         order"
    )]
    Languages {
        /// Lists in the file.
        found: usize,
        /// Languages named.
        named: usize,
    },
    /// Fewer or more layers than the model has.
    #[error(
        "language {language} ({code}) has {found} layers, but the model has {shape}; name the model that the masks are of"
    )]
    Layers {
        /// Its place.
        language: usize,
        /// Which it is.
        code: LanguageCode,
        /// Lists of it in the file.
        found: usize,
        /// The model's grid.
        shape: FfnShape,
    },
    /// A list that no layer of the model can have.
    #[error("language {language} ({code}), layer {layer}: {problem}")]
    Indices {
        /// Its place.
        language: usize,
        /// Which it is.
        code: LanguageCode,
        /// The layer.
        layer: usize,
        /// What is wrong.
        problem: String,
    },
    /// A model with experts.
    #[error("lists a layer's indices, as published code does, and has no place for experts, but the model has {0}")]
    Experts(FfnShape),
}

impl PthError {
    pub(super) fn zip(error: ZipError) -> Self {
        match error {
            ZipError::Io(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => Self::Io(error),
            error => Self::Zip(format!("is a broken archive ({error})")),
        }
    }
}

/// A file of masks, its indices not yet read.
pub struct MaskFile<R> {
    archive: Archive<R>,
    little: bool,
    lists: Lists,
}

impl MaskFile<BufReader<File>> {
    /// Opens a file.
    ///
    /// # Errors
    /// When it is not what `torch.save` writes for lists of index tensors.
    pub fn open(path: &Path) -> Result<Self, PthError> {
        // A pipe would be waited for, a device read for ever.
        if !std::fs::metadata(path)?.is_file() {
            return Err(PthError::NoFile);
        }
        Self::new(BufReader::new(File::open(path)?))
    }
}

impl<R: Read + Seek> MaskFile<R> {
    /// Reads archive and pickle, and checks that every storage is there.
    ///
    /// # Errors
    /// As [`MaskFile::open`].
    pub fn new(reader: R) -> Result<Self, PthError> {
        let mut archive = Archive::open(reader)?;
        // torch before 2.1 does not say it, and had no other.
        let little = match archive.size("byteorder")? {
            None => true,
            Some(_) => match archive.read("byteorder", 16)?.as_slice() {
                b"little" => true,
                b"big" => false,
                _ => return Err(PthError::Zip("says another byte order than `little` and `big`".to_owned())),
            },
        };
        let lists = Lists::parse(&archive.read("data.pkl", pickle::LONGEST)?)?;
        for storage in &lists.storages {
            let wanted = storage.length.checked_mul(storage.kind.width() as u64);
            let found = archive.size(&format!("data/{}", storage.key))?;
            if found.is_none() || found != wanted {
                let key: String = storage.key.chars().filter(|c| !c.is_control()).take(40).collect();
                let found = found.map_or_else(|| "is not there".to_owned(), |found| format!("has {found} bytes"));
                let problem = format!("entry `data/{key}` should hold {} values and {found}", storage.length);
                return Err(PthError::Zip(problem));
            }
        }
        Ok(Self { archive, little, lists })
    }

    /// Languages in the file.
    #[must_use]
    pub fn languages(&self) -> usize {
        self.lists.languages.len()
    }

    /// One set per language, in the order of the file, which is that of the codes.
    ///
    /// # Errors
    /// When the number of languages or layers is another, or a list is not ascending, holds an index twice or one that the model's layers
    /// do not have.
    pub fn sets(&mut self, shape: FfnShape, codes: &[LanguageCode]) -> Result<Vec<NeuronSet>, PthError> {
        self.check(shape, codes)?;
        let mut sets: Vec<Vec<Vec<u32>>> = vec![vec![Vec::new(); shape.layers]; codes.len()];
        // Storage by storage: each is unpacked once, whatever the number of its parts, and one at a time.
        let mut parts: BTreeMap<usize, Vec<(usize, usize, Tensor)>> = BTreeMap::new();
        for (language, layers) in self.lists.languages.iter().enumerate() {
            for (layer, &tensor) in layers.iter().enumerate().filter(|(_, tensor)| tensor.length > 0) {
                parts.entry(tensor.storage).or_default().push((language, layer, tensor));
            }
        }
        for (storage, parts) in parts {
            let storage = &self.lists.storages[storage];
            let bytes = storage.length.saturating_mul(storage.kind.width() as u64);
            let values = storage.kind.values(&self.archive.read(&format!("data/{}", storage.key), bytes)?, self.little);
            for (language, layer, tensor) in parts {
                let all = values.iter().skip(tensor.offset as usize).step_by(tensor.stride.max(1) as usize);
                let indices = all.take(tensor.length as usize);
                sets[language][layer] = ascending(indices, shape.width).map_err(|problem| PthError::Indices {
                    language,
                    code: codes[language],
                    layer,
                    problem,
                })?;
            }
        }
        let set = |layers| NeuronSet::from_layers(shape, layers).expect("every list was checked");
        Ok(sets.into_iter().map(set).collect())
    }

    /// Everything that the pickle alone can get wrong.
    fn check(&self, shape: FfnShape, codes: &[LanguageCode]) -> Result<(), PthError> {
        if shape.is_routed() {
            return Err(PthError::Experts(shape));
        }
        if self.languages() != codes.len() {
            return Err(PthError::Languages { found: self.languages(), named: codes.len() });
        }
        // As many values as all lists together can need, with a second column beside them, which `nonzero` leaves in its storage.
        let most = (2 * codes.len() as u64).saturating_mul(shape.neurons() as u64);
        if let Some(storage) = self.lists.storages.iter().find(|storage| storage.length > most) {
            let problem = format!(
                "a storage holds {} values, more than {most}, which is all that the lists could need",
                storage.length
            );
            return Err(PthError::Zip(problem));
        }
        for ((language, layers), &code) in self.lists.languages.iter().enumerate().zip(codes) {
            if layers.len() != shape.layers {
                return Err(PthError::Layers { language, code, found: layers.len(), shape });
            }
            let wide = layers.iter().position(|tensor| tensor.length > shape.width as u64);
            if let Some(layer) = wide {
                let problem = format!("{} indices, but a layer has {} neurons", layers[layer].length, shape.width);
                return Err(PthError::Indices { language, code, layer, problem });
            }
        }
        Ok(())
    }
}

/// Indices that ascend and lie within the width, or what is wrong with them.
fn ascending<'a>(indices: impl Iterator<Item = &'a i64>, width: usize) -> Result<Vec<u32>, String> {
    let mut list: Vec<u32> = Vec::new();
    for &index in indices {
        let known = u32::try_from(index).ok().filter(|&index| (index as usize) < width);
        let known = known.ok_or_else(|| format!("index {index} lies outside the {width} neurons of a layer"))?;
        match list.last() {
            Some(&last) if last == known => return Err(format!("index {index} stands twice")),
            Some(&last) if last > known => {
                return Err(format!("index {index} stands after {last}; write the file again with sorted lists"));
            }
            _ => list.push(known),
        }
    }
    Ok(list)
}
