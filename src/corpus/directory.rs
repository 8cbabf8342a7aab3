//! `dir:PATH`: a folder of plain text files, one language each.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Corpus, CorpusError, CorpusOptions, DocumentUnit, Documents, Raw, Split,
    files::{LanguageFiles, Lines},
    identity,
};
use crate::language::LanguageCode;

const DOCUMENT_IDS: &str = "DOCUMENT_IDS.tsv";

struct Directory {
    id: String,
    files: LanguageFiles,
    cut: Cut,
}

/// Where one document ends and the next begins.
#[derive(Clone)]
enum Cut {
    Ids { path: PathBuf, ids: Arc<Vec<String>> },
    Paragraph,
    Line,
    File,
}

pub fn open(path: &Path, options: &CorpusOptions) -> Result<Box<dyn Corpus>, CorpusError> {
    let files = LanguageFiles::find(path, &[".txt"], "CODE.txt, CODE.txt.gz or CODE.txt.zst")?;
    let list = path.join(DOCUMENT_IDS);
    let cut = match options.unit {
        DocumentUnit::Auto if list.is_file() => Cut::Ids { ids: Arc::new(document_ids(&list)?), path: list },
        DocumentUnit::Auto | DocumentUnit::Paragraph => Cut::Paragraph,
        DocumentUnit::Line => Cut::Line,
        DocumentUnit::File => Cut::File,
    };
    Ok(Box::new(Directory { id: identity("dir", path), files, cut }))
}

fn document_ids(path: &Path) -> Result<Vec<String>, CorpusError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| CorpusError::Unreadable { path: path.to_owned(), source })?;
    Ok(text.lines().map(str::to_owned).collect())
}

impl Corpus for Directory {
    fn id(&self) -> &str {
        &self.id
    }

    fn languages(&self) -> Vec<LanguageCode> {
        self.files.languages()
    }

    fn unit(&self) -> &'static str {
        match self.cut {
            Cut::Ids { .. } => "document-ids",
            Cut::Paragraph => "paragraph",
            Cut::Line => "line",
            Cut::File => "file",
        }
    }

    fn documents(&self, language: LanguageCode, split: Split) -> Result<Documents, CorpusError> {
        let files = self.files.of(&self.id, language)?.to_vec();
        let cut = self.cut.clone();
        let pieces = files.into_iter().flat_map(move |path| match Pieces::open(&path, cut.clone()) {
            Ok(pieces) => Box::new(pieces) as Box<dyn Iterator<Item = _> + Send>,
            Err(error) => Box::new(std::iter::once(Err(error))),
        });
        Ok(Documents::new(split, pieces.map(|piece| piece.map(Raw::Bytes))))
    }
}

/// The documents of one file.
struct Pieces {
    lines: Lines,
    cut: Cut,
    number: usize,
    /// A line that was read and belongs to the next document.
    ahead: Option<Vec<u8>>,
    ended: bool,
}

impl Pieces {
    fn open(path: &Path, cut: Cut) -> Result<Self, CorpusError> {
        Ok(Self { lines: Lines::open(path)?, cut, number: 0, ahead: None, ended: false })
    }

    /// Whether a document ends before line `number` (from 0), given that line's text.
    fn ends_before(&self, number: usize, line: &[u8]) -> bool {
        match &self.cut {
            Cut::Ids { ids, .. } => ids.get(number) != ids.get(number - 1),
            Cut::Paragraph => line.trim_ascii().is_empty(),
            Cut::Line => true,
            Cut::File => false,
        }
    }

    fn line(&mut self) -> Option<Result<Vec<u8>, CorpusError>> {
        if let Some(line) = self.ahead.take() {
            return Some(Ok(line));
        }
        if self.ended {
            return None;
        }
        let line = self.lines.next();
        self.number += usize::from(line.is_some());
        self.ended = line.is_none();
        let Cut::Ids { path, ids } = &self.cut else { return line };
        let fits = match &line {
            Some(Ok(_)) => self.number <= ids.len(),
            Some(Err(_)) => true,
            None => self.number == ids.len(),
        };
        if fits {
            return line;
        }
        self.ended = true;
        let (path, ids, text, lines) = (path.clone(), ids.len(), self.lines.path.clone(), self.number);
        Some(Err(CorpusError::DocumentIds { path, ids, text, lines }))
    }
}

impl Iterator for Pieces {
    type Item = Result<Vec<u8>, CorpusError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut document = Vec::new();
        loop {
            let line = match self.line() {
                None => return (!document.is_empty()).then_some(Ok(document)),
                Some(Err(error)) => return Some(Err(error)),
                Some(Ok(line)) => line,
            };
            let blank = line.trim_ascii().is_empty();
            if !document.is_empty() && self.ends_before(self.number - 1, &line) {
                // The blank line between two paragraphs belongs to neither.
                if !(blank && matches!(self.cut, Cut::Paragraph)) {
                    self.ahead = Some(line);
                }
                return Some(Ok(document));
            }
            if !(blank && document.is_empty() && matches!(self.cut, Cut::Paragraph)) {
                document.extend(line);
            }
        }
    }
}
