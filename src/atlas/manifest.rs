//! `manifest.json`: every other file of a release with its size, hash and rows.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::AtlasError;
use crate::output::{self, stays_inside};

/// Name of the manifest in an atlas.
pub const MANIFEST: &str = "manifest.json";
const SCHEMA: &str = "neuroglot.manifest";
const VERSION: &str = "1.0";

/// What an atlas holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// `neuroglot.manifest`.
    pub schema: String,
    /// A reader refuses a newer major version.
    pub schema_version: String,
    /// The release that it is, once it is one.
    pub release: Option<String>,
    /// The program that wrote it.
    pub tool: Tool,
    /// SPDX identifier of the licence of tables and masks.
    pub licence: String,
    /// What a reader should know of text and models, in sentences.
    #[serde(default)]
    pub remarks: Vec<String>,
    /// Run ids.
    pub runs: Vec<String>,
    /// Sums over the files.
    pub totals: Totals,
    /// Every file but this one, by path.
    pub files: Vec<FileEntry>,
}

/// The program that wrote an atlas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// `neuroglot`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its commit, where the build knew it.
    pub git_sha: Option<String>,
}

/// Sums over an atlas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Models.
    pub models: usize,
    /// Languages.
    pub languages: usize,
    /// Files.
    pub files: usize,
    /// Bytes.
    pub bytes: u64,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Path within the atlas, with `/`.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// Hash.
    pub sha256: String,
    /// Rows, of a table.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rows: Option<usize>,
}

impl FileEntry {
    /// Measures a file.
    pub(crate) fn measure(atlas: &Path, path: &str, rows: Option<usize>) -> Result<Self, AtlasError> {
        let file = atlas.join(path);
        let unreadable = |error: std::io::Error| AtlasError::broken(&file, format!("cannot be read: {error}"));
        let bytes = std::fs::metadata(&file).map_err(unreadable)?.len();
        Ok(Self { path: path.to_owned(), bytes, sha256: output::sha256_file(&file).map_err(unreadable)?, rows })
    }
}

impl Manifest {
    /// The manifest of files.
    #[must_use]
    pub fn new(
        licence: &str,
        remarks: Vec<String>,
        runs: Vec<String>,
        models: usize,
        languages: usize,
        mut files: Vec<FileEntry>,
    ) -> Self {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let tool = Tool {
            name: "neuroglot".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            git_sha: option_env!("NEUROGLOT_GIT_SHA").map(str::to_owned),
        };
        let totals = Totals { models, languages, files: files.len(), bytes: files.iter().map(|file| file.bytes).sum() };
        let (schema, schema_version) = (SCHEMA.to_owned(), VERSION.to_owned());
        Self { schema, schema_version, release: None, tool, licence: licence.to_owned(), remarks, runs, totals, files }
    }

    /// Reads an atlas' manifest. Paths that would leave the atlas are refused here, once for all readers.
    ///
    /// # Errors
    /// When there is none, or it is broken or of a newer major version.
    pub fn read(atlas: &Path) -> Result<Self, AtlasError> {
        let path = atlas.join(MANIFEST);
        let json = match std::fs::read(&path) {
            Ok(json) => json,
            Err(_) if atlas.is_file() => return Err(AtlasError::File { path: atlas.to_owned() }),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
                return Err(AtlasError::NoAtlas { path: atlas.to_owned() });
            }
            Err(error) => return Err(AtlasError::broken(&path, format!("cannot be read: {error}"))),
        };
        Self::parse(&path, &json)
    }

    /// Reads the content of a manifest; `path` is for messages.
    ///
    /// # Errors
    /// As [`Manifest::read`].
    pub fn parse(path: &Path, json: &[u8]) -> Result<Self, AtlasError> {
        let manifest: Self =
            serde_json::from_slice(json).map_err(|error| AtlasError::broken(path, format!("is broken: {error}")))?;
        if manifest.schema != SCHEMA || manifest.schema_version.split('.').next() != VERSION.split('.').next() {
            let found = format!("{} {}", manifest.schema, manifest.schema_version);
            return Err(AtlasError::broken(
                path,
                format!("is `{found}`, but this neuroglot reads {SCHEMA} {VERSION}; use a newer one"),
            ));
        }
        let mut seen = std::collections::BTreeSet::new();
        if let Some(file) = manifest.files.iter().find(|file| !seen.insert(&file.path)) {
            return Err(AtlasError::broken(path, format!("names `{}` twice", file.path)));
        }
        match manifest.files.iter().find(|file| !stays_inside(&file.path)) {
            Some(file) => Err(AtlasError::broken(path, format!("names `{}`, which lies outside the atlas", file.path))),
            None => Ok(manifest),
        }
    }

    /// Its text.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain data") + "\n"
    }

    /// Writes the manifest: the last file of an atlas to appear.
    pub(super) fn write(&self, atlas: &Path) -> Result<(), AtlasError> {
        Ok(output::write(&atlas.join(MANIFEST), self.json().as_bytes())?)
    }

    /// The manifest of some of the files.
    #[must_use]
    pub fn only(&self, keep: impl Fn(&FileEntry) -> bool) -> Self {
        let mut some = self.clone();
        some.files.retain(keep);
        some.count_files();
        some
    }

    /// The manifest of a release: with its name, and a card of its own instead of the atlas' one.
    #[must_use]
    pub fn released(&self, release: &str, card: FileEntry) -> Self {
        let mut released = self.clone();
        released.release = Some(release.to_owned());
        released.files.retain(|file| file.path != card.path);
        released.files.push(card);
        released.files.sort_by(|a, b| a.path.cmp(&b.path));
        released.count_files();
        released
    }

    fn count_files(&mut self) {
        self.totals.files = self.files.len();
        self.totals.bytes = self.files.iter().map(|file| file.bytes).sum();
    }

    /// The entry of a path.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<&FileEntry> {
        self.files.iter().find(|file| file.path == path)
    }
}
