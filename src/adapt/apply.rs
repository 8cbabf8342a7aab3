//! A delta on its base: a plain checkpoint, sharded as the base is, whose untouched bytes are the base's.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Write},
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{
    AdaptError,
    delta::{Delta, DeltaHead},
};
use crate::{
    checkpoint::Checkpoint,
    output::{self, Draft, OutputError},
};

/// What was written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Applied {
    /// The folder.
    pub out: PathBuf,
    /// Tensors that the delta touches.
    pub tensors: usize,
    /// Weight files.
    pub shards: usize,
    /// Files that were copied as they are.
    pub copied: Vec<String>,
}

/// Files beside the weights that belong to a checkpoint: config, tokenizer, templates, licences.
const BESIDE: [&str; 6] = ["json", "txt", "model", "jinja", "tiktoken", "py"];

/// Writes a checkpoint.
///
/// # Errors
/// When the base is a GGUF file, the folder is the base's own, or a file cannot be read or written.
pub fn apply(delta: &Delta, checkpoint: &Checkpoint, out: &Path) -> Result<Applied, AdaptError> {
    let folder = checkpoint.folder();
    if checkpoint.shards().is_empty() {
        return Err(AdaptError::Gguf { path: folder.to_owned() });
    }
    check_place(folder, out, delta)?;
    let marker = serde_json::to_vec_pretty(&delta.head).expect("plain data");
    output::write(&out.join(MARKER), &marker)?;
    let copied: Vec<String> = beside(folder)?.into_iter().filter(|name| name != MARKER).collect();
    for name in &copied {
        copy(&folder.join(name), &out.join(name), &BTreeMap::new())?;
    }
    for shard in checkpoint.shards() {
        let mut changed: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for name in delta.tensors() {
            let Some(place) = checkpoint.bytes(name).filter(|place| place.file == *shard) else { continue };
            changed.extend(delta.bytes(checkpoint, name)?.map(|bytes| (place.start, bytes)));
        }
        let name = shard.file_name().unwrap_or_default();
        copy(shard, &out.join(name), &changed)?;
    }
    Ok(Applied { out: out.to_owned(), tensors: delta.tensors().count(), shards: checkpoint.shards().len(), copied })
}

/// Says in a checkpoint which delta it was made with, so that the same command may finish or repeat it.
const MARKER: &str = "neuroglot.json";

/// A new or empty folder, or one of the same delta; never the base itself.
fn check_place(base: &Path, out: &Path, delta: &Delta) -> Result<(), AdaptError> {
    let same = matches!((base.canonicalize(), out.canonicalize()), (Ok(base), Ok(out)) if base == out);
    if same {
        return Err(AdaptError::broken(out, "is the base model's own folder; choose another --out"));
    }
    let marker = std::fs::read(out.join(MARKER)).ok();
    let own =
        marker.and_then(|json| serde_json::from_slice::<DeltaHead>(&json).ok()).is_some_and(|head| head == delta.head);
    if !own && output::is_occupied(out, &[]) {
        return Err(AdaptError::broken(
            out,
            "is not empty and holds no checkpoint of this delta; choose an empty or new folder with --out",
        ));
    }
    Ok(())
}

/// Names of the files beside the weights. README.md is not among them: it speaks of the base.
fn beside(folder: &Path) -> Result<Vec<String>, AdaptError> {
    let unreadable = |error: std::io::Error| AdaptError::broken(folder, format!("cannot be read: {error}"));
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let belongs = path.extension().is_some_and(|ending| BESIDE.iter().any(|known| ending == *known))
            || ["LICENSE", "LICENCE", "NOTICE"].iter().any(|known| name.starts_with(known));
        if path.is_file() && belongs && !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Copies a file, with other bytes in some places.
fn copy(from: &Path, to: &Path, changed: &BTreeMap<u64, Vec<u8>>) -> Result<(), AdaptError> {
    let unreadable = |error: std::io::Error| AdaptError::broken(from, format!("cannot be read: {error}"));
    let failed = |source| AdaptError::from(OutputError { path: to.to_owned(), source });
    let mut file = File::open(from).map_err(unreadable)?;
    let mut draft = Draft::new(to)?;
    let mut block = vec![0; 1 << 20];
    let mut at = 0u64;
    loop {
        let read = file.read(&mut block).map_err(unreadable)?;
        if read == 0 {
            break;
        }
        let end = at + read as u64;
        // The one that began before this block may reach into it.
        let first = changed.range(..=at).next_back().map_or(at, |(start, _)| *start);
        for (start, bytes) in changed.range(first..end) {
            let (from, until) = ((*start).max(at), (start + bytes.len() as u64).min(end));
            if from < until {
                let part = &bytes[(from - start) as usize..(until - start) as usize];
                block[(from - at) as usize..(until - at) as usize].copy_from_slice(part);
            }
        }
        draft.write_all(&block[..read]).map_err(failed)?;
        at = end;
    }
    draft.keep()?;
    Ok(())
}

impl Applied {
    /// One sentence.
    #[must_use]
    pub fn words(&self) -> String {
        let size = std::fs::read_dir(&self.out)
            .map(|files| files.flatten().filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum::<u64>());
        format!(
            "{} tensors changed, all other bytes are the base's; {} in {}",
            self.tensors,
            output::size(size.unwrap_or_default()),
            self.out.display()
        )
    }
}
