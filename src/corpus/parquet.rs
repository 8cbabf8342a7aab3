//! `parquet:PATH`: tables with a text column; a file per language, or one file with a language column.

use std::{
    collections::BTreeSet,
    fs::File,
    path::{Path, PathBuf},
};

use arrow::{
    array::{Array, AsArray, RecordBatch},
    compute::cast,
    datatypes::DataType,
};
use parquet::arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder};

use super::{
    Corpus, CorpusError, CorpusOptions, Documents, Raw, Split,
    files::{LanguageFiles, Place},
    identity,
    jsonl::LANGUAGE_FIELDS,
};
use crate::language::{LanguageCode, Registry};

struct Tables {
    id: String,
    column: String,
    place: Place,
}

pub fn open(path: &Path, options: &CorpusOptions) -> Result<Box<dyn Corpus>, CorpusError> {
    let column = options.text_column.clone().unwrap_or_else(|| "text".to_owned());
    let place = if path.is_dir() {
        Place::Folder(LanguageFiles::find(path, &[".parquet"], "CODE.parquet")?)
    } else {
        Place::File { path: path.to_owned(), languages: languages(path)? }
    };
    Ok(Box::new(Tables { id: identity("parquet", path), column, place }))
}

fn broken(path: &Path, problem: impl ToString) -> CorpusError {
    CorpusError::Broken { path: path.to_owned(), format: "Parquet", problem: problem.to_string() }
}

pub(super) type Rows = Box<dyn Iterator<Item = Result<Vec<Option<String>>, CorpusError>> + Send>;

/// Rows of the named columns as text; binary is read as UTF-8.
fn columns(path: &Path, names: &[&str]) -> Result<Rows, CorpusError> {
    let file = File::open(path).map_err(|source| CorpusError::Unreadable { path: path.to_owned(), source })?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| broken(path, error))?;
    let found: Vec<String> = builder.schema().fields().iter().map(|field| field.name().clone()).collect();
    if let Some(missing) = names.iter().find(|name| !found.iter().any(|field| field == *name)) {
        let advice = "name the text column with --text-column";
        return Err(CorpusError::Column { path: path.to_owned(), column: (*missing).to_owned(), found, advice });
    }
    let mask = ProjectionMask::columns(builder.parquet_schema(), names.iter().copied());
    let reader = builder.with_projection(mask).with_batch_size(256).build().map_err(|error| broken(path, error))?;
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let path = path.to_owned();
    Ok(Box::new(reader.flat_map(move |batch| {
        let rows = batch.map_err(|error| broken(&path, error)).and_then(|batch| cells(&path, &batch, &names));
        match rows {
            Ok(rows) => rows.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(error) => vec![Err(error)],
        }
    })))
}

fn cells(path: &Path, batch: &RecordBatch, names: &[String]) -> Result<Vec<Vec<Option<String>>>, CorpusError> {
    let texts = names
        .iter()
        .map(|name| {
            let column = batch.column_by_name(name).expect("the column was projected");
            cast(column, &DataType::Utf8).map_err(|error| broken(path, error))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let cell = |column: &arrow::array::ArrayRef, row: usize| {
        let column = column.as_string::<i32>();
        (!column.is_null(row)).then(|| column.value(row).to_owned())
    };
    Ok((0..batch.num_rows()).map(|row| texts.iter().map(|column| cell(column, row)).collect()).collect())
}

fn language_column(path: &Path) -> Result<&'static str, CorpusError> {
    let file = File::open(path).map_err(|source| CorpusError::Unreadable { path: path.to_owned(), source })?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| broken(path, error))?;
    let has = |name: &&&str| builder.schema().field_with_name(name).is_ok();
    LANGUAGE_FIELDS.iter().find(has).copied().ok_or_else(|| CorpusError::Column {
        path: path.to_owned(),
        column: LANGUAGE_FIELDS.join("`, `"),
        found: builder.schema().fields().iter().map(|field| field.name().clone()).collect(),
        advice: "call the column of languages so, or give a folder with a table for each language",
    })
}

fn language_of(path: &Path, spelling: Option<&str>) -> Result<LanguageCode, CorpusError> {
    let spelling = spelling.ok_or_else(|| broken(path, "a row does not say its language"))?;
    Registry::builtin().resolve(spelling).map(|language| language.code).map_err(|error| broken(path, error))
}

fn languages(path: &Path) -> Result<BTreeSet<LanguageCode>, CorpusError> {
    let column = language_column(path)?;
    let mut spellings = BTreeSet::new();
    for row in columns(path, &[column])? {
        spellings.insert(row?.swap_remove(0));
    }
    if spellings.is_empty() {
        return Err(CorpusError::NoLanguages {
            path: path.to_owned(),
            wanted: "a row with a language",
            ignored: vec![],
        });
    }
    spellings.iter().map(|spelling| language_of(path, spelling.as_deref())).collect()
}

/// The texts of one file's rows, of one language or of all; a null is an empty document.
pub(super) fn texts(path: PathBuf, column: &str, only: Option<LanguageCode>) -> Result<Rows, CorpusError> {
    let Some(wanted) = only else { return columns(&path, &[column]) };
    let rows = columns(&path, &[column, language_column(&path)?])?;
    Ok(Box::new(rows.filter_map(move |row| match row {
        Err(error) => Some(Err(error)),
        Ok(row) => match language_of(&path, row[1].as_deref()) {
            Err(error) => Some(Err(error)),
            Ok(language) => (language == wanted).then_some(Ok(row)),
        },
    })))
}

/// A row's text.
pub(super) fn raw(row: Vec<Option<String>>) -> Raw {
    Raw::Bytes(row.into_iter().next().flatten().unwrap_or_default().into_bytes())
}

impl Corpus for Tables {
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
        let column = self.column.clone();
        let rows = files.into_iter().flat_map(move |path| match texts(path, &column, only) {
            Ok(rows) => rows,
            Err(error) => Box::new(std::iter::once(Err(error))),
        });
        Ok(Documents::new(split, rows.map(move |row| row.map(raw))))
    }
}
