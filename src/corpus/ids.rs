//! `ids:PATH`: windows of token ids that somebody prepared, so that two programs can be compared on the same input.

use std::path::Path;

use safetensors::{Dtype, SafeTensors};

use super::{Corpus, CorpusError, CorpusOptions, Documents, Raw, Split, files::LanguageFiles, identity};
use crate::language::LanguageCode;

struct Prepared {
    id: String,
    files: LanguageFiles,
}

pub fn open(path: &Path, _: &CorpusOptions) -> Result<Box<dyn Corpus>, CorpusError> {
    let files =
        LanguageFiles::find(path, &[".safetensors"], "CODE.safetensors with a tensor input_ids [rows, context]")?;
    Ok(Box::new(Prepared { id: identity("ids", path), files }))
}

impl Corpus for Prepared {
    fn id(&self) -> &str {
        &self.id
    }

    fn languages(&self) -> Vec<LanguageCode> {
        self.files.languages()
    }

    fn unit(&self) -> &'static str {
        "window"
    }

    fn documents(&self, language: LanguageCode, split: Split) -> Result<Documents, CorpusError> {
        let mut windows = Vec::new();
        for path in self.files.of(&self.id, language)? {
            windows.extend(rows(path)?);
        }
        Ok(Documents::new(split, windows.into_iter().map(|row| Ok(Raw::Ids(row)))))
    }
}

/// The rows of `input_ids`, an integer tensor `[rows, context]`.
fn rows(path: &Path) -> Result<Vec<Vec<u32>>, CorpusError> {
    let broken = |problem: String| CorpusError::Broken { path: path.to_owned(), format: "safetensors", problem };
    let bytes = std::fs::read(path).map_err(|source| CorpusError::Unreadable { path: path.to_owned(), source })?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| broken(error.to_string()))?;
    let ids = tensors.tensor("input_ids").map_err(|_| broken("it has no tensor `input_ids`".to_owned()))?;
    let &[_, context] = ids.shape() else {
        return Err(broken(format!("`input_ids` is {:?}, but [rows, context] is wanted", ids.shape())));
    };
    let values: Option<Vec<u32>> = match ids.dtype() {
        Dtype::I64 => integers(ids.data(), |b: [u8; 8]| u32::try_from(i64::from_le_bytes(b)).ok()),
        Dtype::I32 => integers(ids.data(), |b: [u8; 4]| u32::try_from(i32::from_le_bytes(b)).ok()),
        Dtype::U32 => integers(ids.data(), |b: [u8; 4]| Some(u32::from_le_bytes(b))),
        Dtype::U16 => integers(ids.data(), |b: [u8; 2]| Some(u16::from_le_bytes(b).into())),
        other => return Err(broken(format!("`input_ids` is {other:?}, but i64, i32, u32 or u16 is wanted"))),
    };
    let values = values.ok_or_else(|| broken("`input_ids` holds a negative or huge id".to_owned()))?;
    Ok(values.chunks_exact(context.max(1)).map(<[u32]>::to_vec).collect())
}

fn integers<const N: usize>(data: &[u8], value: impl Fn([u8; N]) -> Option<u32>) -> Option<Vec<u32>> {
    data.chunks_exact(N).map(|bytes| value(bytes.try_into().expect("chunks are of that size"))).collect()
}
