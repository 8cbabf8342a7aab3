//! Records by language: rows of JSONL, Parquet or TSV files, or of a data set on a Hub, as JSON objects. What questions and answers
//! lie in, where a corpus has text.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    path::{Path, PathBuf},
    str::FromStr,
};

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    compute::cast,
    datatypes::{DataType, Float64Type, Int64Type},
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Map, Value};

use super::{CorpusError, files::Lines, hub::language_in, identity, jsonl::LANGUAGE_FIELDS};
use crate::{
    hub::{Hub, HubPath, Kind, Snapshot, unwatched},
    language::{LanguageCode, Registry},
};

/// Where records lie: `jsonl:PATH`, `parquet:PATH`, `tsv:PATH`, `hub:OWNER/NAME[/FOLDER][@REVISION]`, or a path that says by its end
/// which of them it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordsSpec {
    kind: &'static str,
    path: PathBuf,
}

const HUB: &str = "hub";
/// Bytes that a language's records may take: several times those of the largest benchmark.
const LARGEST: usize = 128 << 20;
/// Kinds of files, and how their names end.
const KINDS: [(&str, &[&str]); 3] = [
    ("jsonl", &[".jsonl", ".ndjson", ".jsonl.gz", ".jsonl.zst"]),
    ("parquet", &[".parquet"]),
    ("tsv", &[".tsv", ".tsv.gz", ".tsv.zst"]),
];
/// Parts of a data set, as the names of files and folders have them.
const PARTS: [&str; 6] = ["train", "training", "dev", "validation", "val", "test"];

impl FromStr for RecordsSpec {
    type Err = CorpusError;

    fn from_str(text: &str) -> Result<Self, CorpusError> {
        if let Some((kind, path)) = text.split_once(':') {
            let known = KINDS.iter().map(|(kind, _)| *kind).chain([HUB]).find(|known| *known == kind);
            if let Some(kind) = known {
                return Ok(Self { kind, path: PathBuf::from(path) });
            }
        }
        let ends = |endings: &[&str]| endings.iter().any(|end| text.ends_with(end));
        let kind = KINDS.iter().find(|(_, endings)| ends(endings)).map(|(kind, _)| *kind);
        let kinds = "jsonl:PATH, parquet:PATH, tsv:PATH, hub:OWNER/NAME[/FOLDER][@REVISION]".to_owned();
        let kind = kind.ok_or_else(|| CorpusError::UnknownKind { spec: text.to_owned(), kinds })?;
        Ok(Self { kind, path: PathBuf::from(text) })
    }
}

impl fmt::Display for RecordsSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.path.display())
    }
}

/// Records, known by language and not yet read.
pub struct Records {
    id: String,
    languages: BTreeMap<LanguageCode, Vec<PathBuf>>,
    /// One file, each of whose rows says its language.
    mixed: bool,
    /// Where the files are fetched from when they are read.
    snapshot: Option<Snapshot>,
}

/// A row, and where it stands.
pub struct Record {
    /// The file.
    pub path: PathBuf,
    /// The row, from 1.
    pub row: u64,
    /// Its fields.
    pub fields: Map<String, Value>,
}

impl Records {
    /// Finds the files. Of a data set's parts, those of `parts` that is there first; `language` is what files are in that do not say.
    ///
    /// # Errors
    /// When nothing is there, or no file is of a language that we know.
    pub fn open(
        spec: &RecordsSpec,
        parts: &[&str],
        language: Option<LanguageCode>,
        offline: bool,
    ) -> Result<Self, CorpusError> {
        if spec.kind == HUB {
            return Self::of_hub(&spec.path, parts, language, offline);
        }
        let path = &spec.path;
        if !path.exists() {
            return Err(CorpusError::NotFound { path: path.clone() });
        }
        let id = identity(spec.kind, path);
        let endings = KINDS.iter().find(|(kind, _)| *kind == spec.kind).map_or(&[][..], |(_, endings)| endings);
        if path.is_file() {
            let own = path.file_name().and_then(|name| name.to_string_lossy().split('.').find_map(language_in));
            if let Some(code) = own.or(language).filter(|_| !says_language(path).unwrap_or(false)) {
                return Ok(Self {
                    id,
                    languages: BTreeMap::from([(code, vec![path.clone()])]),
                    mixed: false,
                    snapshot: None,
                });
            }
            return Self::mixed(id, path);
        }
        let mut names = Vec::new();
        below(path, path, &mut names)?;
        names.retain(|name| endings.iter().any(|end| name.ends_with(end)));
        let files = by_language(&names, parts, language);
        if files.is_empty() {
            let wanted = "CODE.jsonl, CODE.parquet or CODE.tsv, or a folder CODE with such files,";
            return Err(CorpusError::NoLanguages { path: path.clone(), wanted, ignored: names });
        }
        let languages =
            files.into_iter().map(|(code, names)| (code, names.iter().map(|name| path.join(name)).collect()));
        Ok(Self { id, languages: languages.collect(), mixed: false, snapshot: None })
    }

    fn of_hub(
        place: &Path,
        parts: &[&str],
        language: Option<LanguageCode>,
        offline: bool,
    ) -> Result<Self, CorpusError> {
        let place: HubPath = place.to_string_lossy().parse()?;
        let snapshot = Hub::open(offline)?.snapshot(Kind::Dataset, &place.repo, place.revision.as_deref())?;
        let folder = place.path.as_deref().unwrap_or_default();
        let is_table = |path: &String| KINDS.iter().any(|(_, endings)| endings.iter().any(|end| path.ends_with(end)));
        let names: Vec<String> = snapshot.below(folder)?.into_keys().filter(is_table).collect();
        let files = by_language(&names, parts, language);
        if files.is_empty() {
            return Err(CorpusError::NoHubLanguages { corpus: snapshot.id() });
        }
        let languages = files.into_iter().map(|(code, names)| (code, names.into_iter().map(PathBuf::from).collect()));
        let languages = languages.collect();
        let id = if folder.is_empty() {
            format!("hub:{}", snapshot.id())
        } else {
            format!("hub:{}/{folder}@{}", snapshot.repo(), snapshot.commit())
        };
        Ok(Self { id, languages, mixed: false, snapshot: Some(snapshot) })
    }

    fn mixed(id: String, path: &Path) -> Result<Self, CorpusError> {
        let mut languages = BTreeMap::new();
        for record in read(path)? {
            languages.insert(language_of(&record?)?, vec![path.to_owned()]);
        }
        if languages.is_empty() {
            let wanted = "a row with a language";
            return Err(CorpusError::NoLanguages { path: path.to_owned(), wanted, ignored: vec![] });
        }
        Ok(Self { id, languages, mixed: true, snapshot: None })
    }

    /// What it is, without the place where it lies on this machine.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The languages that there are records of.
    #[must_use]
    pub fn languages(&self) -> Vec<LanguageCode> {
        self.languages.keys().copied().collect()
    }

    /// One language's records in the order of the files, the first `limit` of them.
    ///
    /// # Errors
    /// When there are none of this language, a file is broken, or there are more than memory should be filled with.
    pub fn of(&self, language: LanguageCode, limit: Option<usize>) -> Result<Vec<Record>, CorpusError> {
        let (limit, mut room) = (limit.unwrap_or(usize::MAX), LARGEST);
        let none = || CorpusError::NoText { corpus: self.id.clone(), language, available: self.languages() };
        let mut records = Vec::new();
        for file in self.languages.get(&language).ok_or_else(none)? {
            // Only what is read is fetched.
            let path = match &self.snapshot {
                None => file.clone(),
                Some(snapshot) => snapshot.fetch(snapshot.file(&file.to_string_lossy())?, &unwatched())?,
            };
            for record in read(&path)? {
                if records.len() == limit {
                    return Ok(records);
                }
                let record = record?;
                if !self.mixed || language_of(&record)? == language {
                    room = room.checked_sub(record.weight()).ok_or_else(|| CorpusError::TooMany {
                        path: record.path.clone(),
                        language,
                        read: records.len(),
                    })?;
                    records.push(record);
                }
            }
        }
        Ok(records)
    }
}

impl Record {
    /// About as many bytes as it takes.
    fn weight(&self) -> usize {
        fn of(value: &Value) -> usize {
            let inside = match value {
                Value::String(text) => text.len(),
                Value::Array(items) => items.iter().map(of).sum(),
                Value::Object(fields) => fields.iter().map(|(name, value)| name.len() + of(value)).sum(),
                _ => 0,
            };
            inside + 64
        }
        self.fields.iter().map(|(name, value)| name.len() + of(value)).sum::<usize>() + 64
    }
}

/// The files of every language, of the part that is there first.
fn by_language(
    names: &[String],
    parts: &[&str],
    language: Option<LanguageCode>,
) -> BTreeMap<LanguageCode, Vec<String>> {
    let mut files: BTreeMap<LanguageCode, Vec<String>> = BTreeMap::new();
    for name in names {
        if let Some(code) = name.split(['/', '.']).find_map(language_in).or(language) {
            files.entry(code).or_default().push(name.clone());
        }
    }
    for names in files.values_mut() {
        let part = |name: &str| {
            let mut words = name.split(['/', '.', '-', '_']);
            words.find_map(|word| PARTS.iter().find(|part| **part == word).copied())
        };
        if let Some(first) = parts.iter().find(|wanted| names.iter().any(|name| part(name) == Some(wanted))) {
            names.retain(|name| part(name) == Some(first));
        }
    }
    files
}

/// Names of all files below a folder, from there on, sorted.
fn below(root: &Path, folder: &Path, names: &mut Vec<String>) -> Result<(), CorpusError> {
    let unreadable = |source| CorpusError::Unreadable { path: folder.to_owned(), source };
    let listing = std::fs::read_dir(folder).map_err(unreadable)?;
    let mut paths = listing.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            below(root, &path, names)?;
        } else if let Ok(name) = path.strip_prefix(root) {
            names.push(name.to_string_lossy().replace('\\', "/"));
        }
    }
    Ok(())
}

fn says_language(path: &Path) -> Result<bool, CorpusError> {
    let first = read(path)?.next().transpose()?;
    Ok(first.is_some_and(|record| LANGUAGE_FIELDS.iter().any(|field| record.fields.contains_key(*field))))
}

fn language_of(record: &Record) -> Result<LanguageCode, CorpusError> {
    let wrong = |problem| CorpusError::Json { path: record.path.clone(), line: record.row, problem };
    let spelling = LANGUAGE_FIELDS.iter().find_map(|field| record.fields.get(*field)).and_then(Value::as_str);
    let spelling =
        spelling.ok_or_else(|| wrong(format!("no field `{}` says its language", LANGUAGE_FIELDS.join("`, `"))))?;
    match language_in(spelling) {
        Some(code) => Ok(code),
        None => Registry::builtin().resolve(spelling).map(|language| language.code).map_err(|e| wrong(e.to_string())),
    }
}

type Rows = Box<dyn Iterator<Item = Result<Record, CorpusError>>>;

/// The rows of a file.
fn read(path: &Path) -> Result<Rows, CorpusError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let kind = KINDS.iter().find(|(_, endings)| endings.iter().any(|end| name.ends_with(end)));
    match kind.map(|(kind, _)| *kind) {
        Some("parquet") => parquet(path),
        Some("tsv") => tsv(path),
        _ => jsonl(path),
    }
}

fn jsonl(path: &Path) -> Result<Rows, CorpusError> {
    let owned = path.to_owned();
    let lines = Lines::open(path)?.zip(1u64..);
    Ok(Box::new(lines.filter_map(move |(line, row)| {
        let wrong = |problem| CorpusError::Json { path: owned.clone(), line: row, problem };
        let line = match line {
            Ok(line) => line,
            Err(error) => return Some(Err(error)),
        };
        let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line);
        if line.trim_ascii().is_empty() {
            return None;
        }
        let fields = serde_json::from_slice::<Map<String, Value>>(line).map_err(|error| {
            wrong(
                format!("is no JSON object, and one per line is wanted: {error}")
                    .replace(" at line 1 column ", " at column "),
            )
        });
        Some(fields.map(|fields| Record { path: owned.clone(), row, fields }))
    })))
}

/// A header and rows, parted by tabs and never quoted, as SIB-200 is published.
fn tsv(path: &Path) -> Result<Rows, CorpusError> {
    let owned = path.to_owned();
    let mut lines = Lines::open(path)?;
    let text = |line: Vec<u8>| String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned();
    let header = lines.next().transpose()?.map(text).unwrap_or_default();
    let names: Vec<String> = header.trim_start_matches('\u{feff}').split('\t').map(str::to_owned).collect();
    Ok(Box::new(lines.zip(2u64..).filter_map(move |(line, row)| {
        let line = match line {
            Ok(line) => text(line),
            Err(error) => return Some(Err(error)),
        };
        if line.is_empty() {
            return None;
        }
        let cells: Vec<&str> = line.split('\t').collect();
        if cells.len() != names.len() {
            let problem =
                format!("has {} cells, but {} are wanted, as many as the header names", cells.len(), names.len());
            return Some(Err(CorpusError::Json { path: owned.clone(), line: row, problem }));
        }
        let fields = names.iter().cloned().zip(cells.into_iter().map(Value::from)).collect();
        Some(Ok(Record { path: owned.clone(), row, fields }))
    })))
}

fn parquet(path: &Path) -> Result<Rows, CorpusError> {
    let owned = path.to_owned();
    let broken = |problem: String| CorpusError::Broken { path: path.to_owned(), format: "Parquet", problem };
    let file = File::open(path).map_err(|source| CorpusError::Unreadable { path: path.to_owned(), source })?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| broken(error.to_string()))?;
    let reader = builder.with_batch_size(256).build().map_err(|error| broken(error.to_string()))?;
    let mut row = 0;
    Ok(Box::new(reader.flat_map(move |batch| {
        let records = batch.map_err(|error| error.to_string()).and_then(|batch| objects(&batch));
        let named = |fields| {
            row += 1;
            Ok(Record { path: owned.clone(), row, fields })
        };
        match records {
            Ok(records) => records.into_iter().map(named).collect::<Vec<_>>(),
            Err(problem) => vec![Err(CorpusError::Broken { path: owned.clone(), format: "Parquet", problem })],
        }
    })))
}

/// Every row of a table.
fn objects(batch: &RecordBatch) -> Result<Vec<Map<String, Value>>, String> {
    let schema = batch.schema();
    let columns = || schema.fields().iter().zip(batch.columns());
    let object = |row| columns().map(|(field, column)| Ok((field.name().clone(), cell(column, row)?))).collect();
    (0..batch.num_rows()).map(object).collect()
}

/// A cell as JSON: text, numbers, lists of them and structures.
fn cell(column: &ArrayRef, row: usize) -> Result<Value, String> {
    if column.is_null(row) {
        return Ok(Value::Null);
    }
    let whole = |kind: &DataType| cast(&column.slice(row, 1), kind).map_err(|error| error.to_string());
    let list =
        |items: ArrayRef| (0..items.len()).map(|i| cell(&items, i)).collect::<Result<Vec<_>, _>>().map(Value::from);
    match column.data_type() {
        DataType::Boolean => Ok(Value::from(column.as_boolean().value(row))),
        kind if kind.is_integer() => Ok(Value::from(whole(&DataType::Int64)?.as_primitive::<Int64Type>().value(0))),
        kind if kind.is_floating() => {
            Ok(Value::from(whole(&DataType::Float64)?.as_primitive::<Float64Type>().value(0)))
        }
        DataType::List(_) => list(column.as_list::<i32>().value(row)),
        DataType::LargeList(_) => list(column.as_list::<i64>().value(row)),
        DataType::Struct(fields) => {
            let columns = fields.iter().zip(column.as_struct().columns());
            let cells = columns.map(|(field, column)| Ok((field.name().clone(), cell(column, row)?)));
            cells.collect::<Result<Map<_, _>, String>>().map(Value::from)
        }
        _ => Ok(Value::from(whole(&DataType::Utf8)?.as_string::<i32>().value(0))),
    }
}
