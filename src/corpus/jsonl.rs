//! `jsonl:PATH`: one JSON object a line with a text field; a file per language, or one file with a language field.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{
    Corpus, CorpusError, CorpusOptions, Documents, Raw, Split,
    files::{LanguageFiles, Lines, Place},
    identity,
};
use crate::language::{LanguageCode, Registry};

/// Names under which a row may say its language.
pub const LANGUAGE_FIELDS: [&str; 3] = ["language", "lang", "code"];

struct JsonLines {
    id: String,
    field: String,
    place: Place,
}

pub fn open(path: &Path, options: &CorpusOptions) -> Result<Box<dyn Corpus>, CorpusError> {
    let field = options.text_column.clone().unwrap_or_else(|| "text".to_owned());
    let place = if path.is_dir() {
        Place::Folder(LanguageFiles::find(path, &[".jsonl", ".ndjson"], "CODE.jsonl, CODE.jsonl.gz or CODE.jsonl.zst")?)
    } else {
        Place::File { path: path.to_owned(), languages: languages(path)? }
    };
    Ok(Box::new(JsonLines { id: identity("jsonl", path), field, place }))
}

fn languages(path: &Path) -> Result<BTreeSet<LanguageCode>, CorpusError> {
    let mut languages = BTreeSet::new();
    for row in rows(path)? {
        let row = row?;
        languages.insert(language_of(path, row.line, &row.value)?);
    }
    if languages.is_empty() {
        return Err(CorpusError::NoLanguages {
            path: path.to_owned(),
            wanted: "a row with a language",
            ignored: vec![],
        });
    }
    Ok(languages)
}

fn language_of(path: &Path, line: u64, row: &Value) -> Result<LanguageCode, CorpusError> {
    let wrong = |problem| CorpusError::Json { path: path.to_owned(), line, problem };
    let spelling = LANGUAGE_FIELDS.iter().find_map(|field| row.get(*field)).and_then(Value::as_str);
    let spelling =
        spelling.ok_or_else(|| wrong(format!("no field `{}` says its language", LANGUAGE_FIELDS.join("`, `"))))?;
    Registry::builtin().resolve(spelling).map(|language| language.code).map_err(|error| wrong(error.to_string()))
}

/// A line of the file.
struct Row {
    line: u64,
    value: Value,
    /// Whether its bytes were not UTF-8.
    mended: bool,
}

fn rows(path: &Path) -> Result<impl Iterator<Item = Result<Row, CorpusError>> + Send + use<>, CorpusError> {
    let path = path.to_owned();
    let numbered = Lines::open(&path)?.zip(1u64..);
    Ok(numbered.filter_map(move |(line, number)| {
        let line = match line {
            Ok(line) => line,
            Err(error) => return Some(Err(error)),
        };
        let text = String::from_utf8_lossy(line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line));
        if text.trim().is_empty() {
            return None;
        }
        let wrong = |problem: String| CorpusError::Json { path: path.clone(), line: number, problem };
        // serde's line is always the first: it sees one line at a time.
        let not_json =
            |error: serde_json::Error| format!("not JSON: {error}").replace(" at line 1 column ", " at column ");
        let mended = matches!(text, Cow::Owned(_));
        let row = |value| Row { line: number, value, mended };
        Some(serde_json::from_str(&text).map(row).map_err(|error| wrong(not_json(error))))
    }))
}

/// The texts of one file's rows, of one language or of all.
pub(super) fn texts(
    path: PathBuf,
    field: String,
    only: Option<LanguageCode>,
) -> Result<impl Iterator<Item = Result<Raw, CorpusError>> + Send, CorpusError> {
    Ok(rows(&path)?.filter_map(move |row| {
        let Row { line, value: row, mended } = match row {
            Ok(row) => row,
            Err(error) => return Some(Err(error)),
        };
        match only.map(|wanted| language_of(&path, line, &row).map(|language| language == wanted)) {
            Some(Err(error)) => return Some(Err(error)),
            Some(Ok(false)) => return None,
            Some(Ok(true)) | None => {}
        }
        // As in a table, null is an empty document.
        let text = row.get(&field).and_then(|text| if text.is_null() { Some("") } else { text.as_str() });
        let raw = |text: &str| if mended { Raw::Mended(text.to_owned()) } else { Raw::Bytes(text.into()) };
        Some(text.map(raw).ok_or_else(|| CorpusError::Json {
            path: path.clone(),
            line,
            problem: format!("has no string field `{field}`; name it with --text-column"),
        }))
    }))
}

impl Corpus for JsonLines {
    fn id(&self) -> &str {
        &self.id
    }

    fn languages(&self) -> Vec<LanguageCode> {
        self.place.languages()
    }

    fn unit(&self) -> &'static str {
        "row"
    }

    fn documents(&self, language: LanguageCode, split: Split) -> Result<Documents, CorpusError> {
        let (files, only) = self.place.of(&self.id, language)?;
        let field = self.field.clone();
        let rows = files.into_iter().flat_map(move |path| match texts(path, field.clone(), only) {
            Ok(rows) => Box::new(rows) as Box<dyn Iterator<Item = _> + Send>,
            Err(error) => Box::new(std::iter::once(Err(error))),
        });
        Ok(Documents::new(split, rows))
    }
}
