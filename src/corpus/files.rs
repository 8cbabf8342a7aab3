//! Which file holds which language, and how to read it plain, gzipped or by zstd.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use super::CorpusError;
use crate::language::{LanguageCode, LanguageError, Registry};

/// The files of every language in a folder: `CODE.ext[.gz|.zst]`, or all such files inside a folder `CODE/`.
pub struct LanguageFiles {
    pub files: BTreeMap<LanguageCode, Vec<PathBuf>>,
}

impl LanguageFiles {
    pub fn find(folder: &Path, extensions: &[&str], wanted: &'static str) -> Result<Self, CorpusError> {
        let mut files: BTreeMap<LanguageCode, Vec<PathBuf>> = BTreeMap::new();
        let mut ignored = Vec::new();
        for path in entries(folder)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let is_folder = path.is_dir();
            let stem = if is_folder { Some(name.as_str()) } else { stem(&name, extensions) };
            let language = stem.map(|stem| Registry::builtin().resolve(stem).map(|language| language.code));
            if let Some(Err(error @ LanguageError::Ambiguous { .. })) = &language {
                tracing::warn!("{}: is passed over: {error}", path.display());
            }
            let Some(Ok(language)) = language else {
                ignored.push(name);
                continue;
            };
            let found = if is_folder { inside(&path, extensions)? } else { vec![path] };
            if found.is_empty() {
                ignored.push(format!("{name}/ without such files"));
                continue;
            }
            if let (Some(first), Some(second)) = (files.get(&language).and_then(|f| f.first()), found.first()) {
                return Err(CorpusError::Twice { language, first: first.clone(), second: second.clone() });
            }
            files.insert(language, found);
        }
        if files.is_empty() {
            return Err(CorpusError::NoLanguages { path: folder.to_owned(), wanted, ignored });
        }
        if !ignored.is_empty() {
            tracing::debug!(folder = %folder.display(), ?ignored, "files that belong to no known language");
        }
        Ok(Self { files })
    }

    pub fn languages(&self) -> Vec<LanguageCode> {
        self.files.keys().copied().collect()
    }

    pub fn of(&self, corpus: &str, language: LanguageCode) -> Result<&[PathBuf], CorpusError> {
        self.files.get(&language).map(Vec::as_slice).ok_or_else(|| CorpusError::NoText {
            corpus: corpus.to_owned(),
            language,
            available: self.languages(),
        })
    }
}

/// `mlt_Latn` of `mlt_Latn.txt.gz`, if the rest of the name is one of the extensions.
fn stem<'a>(name: &'a str, extensions: &[&str]) -> Option<&'a str> {
    let plain = [".gz", ".zst"].iter().find_map(|packed| name.strip_suffix(packed)).unwrap_or(name);
    extensions.iter().find_map(|extension| plain.strip_suffix(extension))
}

fn inside(folder: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>, CorpusError> {
    let is_text = |path: &PathBuf| path.is_file() && stem(&path.to_string_lossy(), extensions).is_some();
    Ok(entries(folder)?.into_iter().filter(is_text).collect())
}

/// A folder's entries, sorted by name.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, CorpusError> {
    if folder.is_file() {
        return Err(CorpusError::NoFolder { path: folder.to_owned() });
    }
    let unreadable = |source| CorpusError::Unreadable { path: folder.to_owned(), source };
    let listing = std::fs::read_dir(folder).map_err(unreadable)?;
    let mut paths = listing.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    paths.sort();
    Ok(paths)
}

/// Where the rows of a tabular corpus lie.
pub enum Place {
    /// One file (or folder of files) per language.
    Folder(LanguageFiles),
    /// One file, each of whose rows says its language.
    File { path: PathBuf, languages: BTreeSet<LanguageCode> },
}

impl Place {
    pub fn languages(&self) -> Vec<LanguageCode> {
        match self {
            Self::Folder(files) => files.languages(),
            Self::File { languages, .. } => languages.iter().copied().collect(),
        }
    }

    /// The files to read for a language, and the language to keep where a file holds several.
    pub fn of(
        &self,
        corpus: &str,
        language: LanguageCode,
    ) -> Result<(Vec<PathBuf>, Option<LanguageCode>), CorpusError> {
        match self {
            Self::Folder(files) => Ok((files.of(corpus, language)?.to_vec(), None)),
            Self::File { path, languages } if languages.contains(&language) => Ok((vec![path.clone()], Some(language))),
            Self::File { .. } => {
                Err(CorpusError::NoText { corpus: corpus.to_owned(), language, available: self.languages() })
            }
        }
    }
}

/// Opens a text file; `.gz` (all members) and `.zst` are unpacked while reading.
pub fn reader(path: &Path) -> Result<Box<dyn BufRead + Send>, CorpusError> {
    let unreadable = |source| CorpusError::Unreadable { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    Ok(match path.extension().and_then(|extension| extension.to_str()) {
        Some("gz") => Box::new(BufReader::new(flate2::read::MultiGzDecoder::new(file))),
        Some("zst") => Box::new(BufReader::new(zstd::Decoder::new(file).map_err(unreadable)?)),
        _ => Box::new(BufReader::with_capacity(1 << 16, file)),
    })
}

/// Bytes of the longest line that is read: longer than any book.
const LONGEST: u64 = 32 << 20;

/// Lines with their line breaks, as bytes.
pub struct Lines {
    pub path: PathBuf,
    reader: Box<dyn BufRead + Send>,
}

impl Lines {
    pub fn open(path: &Path) -> Result<Self, CorpusError> {
        Ok(Self { path: path.to_owned(), reader: reader(path)? })
    }
}

impl Iterator for Lines {
    type Item = Result<Vec<u8>, CorpusError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = Vec::new();
        match self.reader.by_ref().take(LONGEST + 1).read_until(b'\n', &mut line) {
            Ok(0) => None,
            Ok(bytes) if bytes as u64 > LONGEST => {
                let problem = format!("a line is longer than {} MB", LONGEST >> 20);
                Some(Err(CorpusError::Broken { path: self.path.clone(), format: "text", problem }))
            }
            Ok(_) => Some(Ok(line)),
            Err(source) => Some(Err(CorpusError::Unreadable { path: self.path.clone(), source })),
        }
    }
}
