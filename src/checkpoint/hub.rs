//! A model on a Hub: which of a repository's files a checkpoint needs. The rest (other formats of the same weights, pictures,
//! training logs) stays where it is.

use std::{path::PathBuf, sync::atomic::AtomicBool};

use super::{
    CheckpointError,
    safetensors::{INDEX, SINGLE, shard_names},
};
use crate::hub::{Hub, HubPath, Kind, RemoteFile, Snapshot, Watch, unwatched};

/// The files of a model on a Hub, known and not yet fetched.
pub struct HubModel {
    snapshot: Snapshot,
    files: Vec<RemoteFile>,
    /// The one file, where the model is a GGUF.
    gguf: Option<String>,
}

/// What a plain loader reads beside the weights; the last three where they are there.
const NEEDED: [&str; 2] = ["config.json", "tokenizer.json"];
const USEFUL: [&str; 3] = ["tokenizer_config.json", "special_tokens_map.json", "generation_config.json"];

impl HubModel {
    /// Asks a Hub for `owner/name[/FILE.gguf][@revision]` and picks the files that the checkpoint consists of.
    ///
    /// # Errors
    /// When there is no such model, it may not be seen, or it holds neither safetensors nor the GGUF file named.
    pub fn find(hub: &Hub, place: &HubPath) -> Result<Self, CheckpointError> {
        let snapshot = hub.snapshot(Kind::Model, &place.repo, place.revision.as_deref())?;
        if let Some(path) = &place.path {
            let files = vec![snapshot.file(path)?.clone()];
            return Ok(Self { snapshot, files, gguf: Some(path.clone()) });
        }
        let all = snapshot.files()?;
        let weights = match (all.contains_key(SINGLE), all.contains_key(INDEX)) {
            (true, _) => vec![SINGLE.to_owned()],
            (false, true) => {
                let index = snapshot.fetch(snapshot.file(INDEX)?, &unwatched())?;
                let shards = shard_names(&index)?;
                std::iter::once(INDEX.to_owned()).chain(shards).collect()
            }
            (false, false) => {
                let gguf: Vec<&str> = all.keys().map(String::as_str).filter(|path| is_gguf(path)).collect();
                return Err(CheckpointError::NoHubWeights { model: place.repo.to_string(), gguf: named(&gguf) });
            }
        };
        let needed = NEEDED.into_iter().map(str::to_owned).chain(weights);
        let mut files =
            needed.map(|path| Ok(snapshot.file(&path)?.clone())).collect::<Result<Vec<_>, CheckpointError>>()?;
        files.extend(USEFUL.iter().filter_map(|path| all.get(*path)).cloned());
        Ok(Self { snapshot, files, gguf: None })
    }

    /// As [`HubModel::find`], for who asks only what the model is like: config.json, or the GGUF file named, in which it stands.
    ///
    /// # Errors
    /// When there is no such model, it may not be seen, or it has no config.json.
    pub fn find_config(hub: &Hub, place: &HubPath) -> Result<Self, CheckpointError> {
        let snapshot = hub.snapshot(Kind::Model, &place.repo, place.revision.as_deref())?;
        let files = vec![snapshot.file(place.path.as_deref().unwrap_or(NEEDED[0]))?.clone()];
        Ok(Self { snapshot, files, gguf: place.path.clone() })
    }

    /// `owner/name`.
    #[must_use]
    pub fn id(&self) -> String {
        self.snapshot.repo().to_string()
    }

    /// The commit.
    #[must_use]
    pub fn commit(&self) -> &str {
        self.snapshot.commit()
    }

    /// The files that it consists of.
    #[must_use]
    pub fn files(&self) -> &[RemoteFile] {
        &self.files
    }

    /// Bytes that are not in the cache.
    #[must_use]
    pub fn missing_bytes(&self) -> u64 {
        self.files.iter().filter(|file| self.snapshot.cached(file).is_none()).map(|file| file.bytes).sum()
    }

    /// Fetches what is not in the cache; the folder or the GGUF file to open, or nothing when `stop` was set on the way.
    ///
    /// # Errors
    /// The first file that cannot be fetched; those before it stay in the cache.
    pub fn fetch(&self, watch: &Watch, stop: &AtomicBool) -> Result<Option<PathBuf>, CheckpointError> {
        let missing: Vec<&RemoteFile> = self.files.iter().filter(|file| self.snapshot.cached(file).is_none()).collect();
        let whole = self.snapshot.fetch_all(&missing, watch, stop, |_, _| Ok(()))?;
        let folder = self.snapshot.folder();
        Ok(whole.then(|| self.gguf.as_ref().map_or_else(|| folder.clone(), |file| folder.join(file))))
    }
}

fn is_gguf(path: &str) -> bool {
    std::path::Path::new(path).extension().is_some_and(|extension| extension == "gguf")
}

fn named(gguf: &[&str]) -> String {
    match gguf {
        [] => "; convert other formats with `save_pretrained(…, safe_serialization=True)`".to_owned(),
        [first, rest @ ..] => {
            let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
            format!("; it holds GGUF files ({first}{more}): name one, as in OWNER/NAME/{first}")
        }
    }
}
