//! The table of counts, in a profile and in an atlas alike: one row per neuron and language, folds as columns.

use std::{fs::File, io::Write, path::Path, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, Float32Array, Float64Array, Int16Array, Int32Array, Int64Array, RecordBatch,
        StringArray,
    },
    compute::cast,
    datatypes::{DataType, Field, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type, Schema},
};
use parquet::{
    arrow::{
        ArrowWriter, ProjectionMask,
        arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder},
        arrow_writer::ArrowWriterOptions,
    },
    basic::{Compression, Encoding, ZstdLevel},
    errors::ParquetError,
    file::{
        metadata::{KeyValue, RowGroupMetaData},
        properties::{WriterProperties, WriterPropertiesBuilder},
    },
};

use rayon::prelude::*;

use super::{Profile, ProfileError, pages};
use crate::{
    model::Tally,
    neuron::FfnShape,
    output::{Draft, OutputError},
    tokens::Coverage,
};

/// Name in the files' metadata.
pub const COUNTS_SCHEMA: &str = "neuroglot.counts";

/// Version in the files' metadata: 1.1 added the column of experts.
#[must_use]
pub fn counts_version(experts: bool) -> &'static str {
    if experts { "1.1" } else { "1.0" }
}

/// How a table of counts, or of routed tokens beside it, is written.
#[derive(Clone, Debug)]
pub struct TableLayout {
    /// Id of the run.
    pub run: String,
    /// Tokens asked per language: they decide how wide a count is.
    pub tokens: u64,
    /// Folds of documents.
    pub folds: usize,
    /// Whether counts have a column of experts. A profile leaves it out where there are none; an atlas has it always, so that
    /// tables of several models are read as one.
    pub experts: bool,
    /// Further pairs of metadata.
    pub further: Vec<(String, String)>,
    /// A row group ends with a language once it holds so many rows.
    pub group_rows: usize,
}

/// Columns: run, language, layer, expert (where there are any), neuron, `active_0` … per fold, sum, `sum_sq`, max (null where no
/// token was run). Counts are 32 bits wide unless a language is asked for more tokens than that holds.
#[must_use]
pub fn counts_schema(folds: usize, tokens: u64, experts: bool) -> Schema {
    let mut fields = vec![
        Field::new("run", DataType::Utf8, false),
        Field::new("language", DataType::Utf8, false),
        Field::new("layer", DataType::Int16, false),
    ];
    if experts {
        fields.push(Field::new("expert", DataType::Int16, false));
    }
    fields.push(Field::new("neuron", DataType::Int32, false));
    fields.extend(fold_fields("active", folds, tokens));
    fields.push(Field::new("sum", DataType::Float64, false));
    fields.push(Field::new("sum_sq", DataType::Float64, false));
    fields.push(Field::new("max", DataType::Float32, true));
    Schema::new(fields)
}

/// One column of counts per fold.
pub(super) fn fold_fields(name: &str, folds: usize, tokens: u64) -> impl Iterator<Item = Field> {
    let kind = if i32::try_from(tokens).is_err() { DataType::Int64 } else { DataType::Int32 };
    (0..folds).map(move |fold| Field::new(format!("{name}_{fold}"), kind.clone(), false))
}

/// A fold's counts, as wide as its column.
pub(super) fn fold_column(field: &Field, counts: &[u64]) -> ArrayRef {
    if field.data_type() == &DataType::Int32 {
        Arc::new(Int32Array::from_iter_values(counts.iter().map(|&n| n as i32)))
    } else {
        Arc::new(Int64Array::from_iter_values(counts.iter().map(|&n| n as i64)))
    }
}

/// How every table of this project is written: zstd, page index, a schema name and version.
pub(crate) fn options(schema: (&str, &str), further: Vec<(String, String)>) -> ArrowWriterOptions {
    // Parquet's own types say all; a copy of the schema for arrow would hide our metadata from pyarrow's readers.
    ArrowWriterOptions::new().with_properties(properties(schema, further)).with_skip_arrow_metadata(true)
}

fn properties(schema: (&str, &str), further: Vec<(String, String)>) -> WriterProperties {
    let mut pairs = vec![
        ("neuroglot.schema".to_owned(), schema.0.to_owned()),
        ("neuroglot.schema_version".to_owned(), schema.1.to_owned()),
    ];
    pairs.extend(further);
    // The bytes of a float's exponent resemble one another, those of its mantissa do not: kept apart they pack better.
    let split = |builder: WriterPropertiesBuilder, column: &str| {
        builder
            .set_column_dictionary_enabled(column.into(), false)
            .set_column_encoding(column.into(), Encoding::BYTE_STREAM_SPLIT)
    };
    let builder = ["sum", "sum_sq", "max"].into_iter().fold(WriterProperties::builder(), split);
    builder
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3).expect("3 is a level of zstd")))
        .set_created_by("neuroglot".to_owned())
        .set_max_row_group_row_count(Some(1 << 30))
        .set_key_value_metadata(Some(pairs.into_iter().map(|(key, value)| KeyValue::new(key, value)).collect()))
        .build()
}

/// What the system said, out of what the Parquet writer made of it: a full disk stays a full disk.
pub(crate) fn unwritten(place: &Path, error: ParquetError) -> OutputError {
    let source = match error {
        ParquetError::External(error) => match error.downcast::<std::io::Error>() {
            Ok(error) => *error,
            Err(error) => std::io::Error::other(error),
        },
        error => std::io::Error::other(error),
    };
    OutputError { path: place.to_owned(), source }
}

/// Writes the counts of languages, in the order given.
///
/// # Errors
/// When the disk is full or the file cannot be written.
pub fn write_counts<P: std::borrow::Borrow<Profile>>(
    place: &Path,
    layout: &TableLayout,
    profiles: impl IntoIterator<Item = Result<P, ProfileError>>,
) -> Result<usize, ProfileError> {
    let schema = Arc::new(counts_schema(layout.folds, layout.tokens, layout.experts));
    let batches = profiles.into_iter().map(|profile| Ok(batch(&schema, layout, profile?.borrow())));
    write_batches(place, (COUNTS_SCHEMA, counts_version(layout.experts)), layout, &schema, batches)
}

/// Writes a table that has one batch per language.
pub(super) fn write_batches(
    place: &Path,
    name: (&str, &str),
    layout: &TableLayout,
    schema: &Arc<Schema>,
    batches: impl Iterator<Item = Result<RecordBatch, ProfileError>>,
) -> Result<usize, ProfileError> {
    let failed = |error| unwritten(place, error);
    let mut draft = Draft::new(place)?;
    let options = options(name, layout.further.clone());
    let mut writer = ArrowWriter::try_new_with_options(&mut draft, schema.clone(), options).map_err(failed)?;
    let mut rows = 0;
    for batch in batches {
        let batch = batch?;
        rows += batch.num_rows();
        writer.write(&batch).map_err(failed)?;
        if writer.in_progress_rows() >= layout.group_rows {
            writer.flush().map_err(failed)?;
        }
    }
    writer.close().map_err(failed)?;
    draft.flush().map_err(|source| OutputError { path: place.to_owned(), source })?;
    draft.keep()?;
    Ok(rows)
}

fn batch(schema: &Arc<Schema>, layout: &TableLayout, profile: &Profile) -> RecordBatch {
    let tally = &profile.tally;
    let (shape, language) = (tally.shape(), profile.coverage.language.to_string());
    let neurons = shape.neurons();
    let id = |flat| shape.neuron(flat);
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&layout.run, neurons))),
        Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&language, neurons))),
        Arc::new(Int16Array::from_iter_values((0..neurons).map(|flat| id(flat).layer as i16))),
    ];
    if layout.experts {
        columns.push(Arc::new(Int16Array::from_iter_values((0..neurons).map(|flat| id(flat).expert as i16))));
    }
    columns.push(Arc::new(Int32Array::from_iter_values((0..neurons).map(|flat| id(flat).index as i32))));
    for active in &tally.active {
        columns.push(fold_column(schema.field(columns.len()), active));
    }
    columns.push(Arc::new(Float64Array::from(tally.sum.clone())));
    columns.push(Arc::new(Float64Array::from(tally.sum_sq.clone())));
    columns.push(Arc::new(tally.max.iter().map(|&max| max.is_finite().then_some(max)).collect::<Float32Array>()));
    RecordBatch::try_new(schema.clone(), columns).expect("the columns are those of the schema")
}

/// Reads the counts of one file, language by language.
pub struct CountsReader {
    path: std::path::PathBuf,
    builder: Option<ParquetRecordBatchReaderBuilder<File>>,
    folds: usize,
    experts: bool,
}

/// The rows of one or more languages of a counts file.
pub struct CountsTable {
    /// Language code of every block of rows, in the file's order.
    pub languages: Vec<String>,
    /// The tally of each.
    pub tallies: Vec<Tally>,
}

impl CountsReader {
    /// Opens a file and checks its schema.
    ///
    /// # Errors
    /// When it is not a table of counts of a version that we know.
    pub fn open(path: &Path) -> Result<Self, ProfileError> {
        let file = File::open(path).map_err(|error| broken(path, error))?;
        let builder = pages::open(file).map_err(|error| {
            broken(path, format!("is not a readable Parquet file: {error}; delete it and profile again"))
        })?;
        check_schema(path, &builder, (COUNTS_SCHEMA, counts_version(true)))?;
        let has = |is: &dyn Fn(&Field) -> bool| builder.schema().fields().iter().filter(|field| is(field)).count();
        let folds = has(&|field| field.name().starts_with("active_"));
        let experts = has(&|field| field.name() == "expert") > 0;
        let wide = has(&|field| field.data_type() == &DataType::Int64) > 0;
        let wanted = counts_schema(folds, if wide { u64::MAX } else { 0 }, experts);
        let same = |(a, b): (&Arc<Field>, &Arc<Field>)| a.name() == b.name() && a.data_type() == b.data_type();
        let fields = builder.schema().fields();
        // A minor version may add columns behind these.
        if folds == 0 || fields.len() < wanted.fields().len() || !wanted.fields().iter().zip(fields).all(same) {
            return Err(broken(
                path,
                format!("has the columns {:?}, which are not those of counts", names(builder.schema())),
            ));
        }
        Ok(Self { path: path.to_owned(), builder: Some(builder), folds, experts })
    }

    /// A pair of the file's metadata.
    #[must_use]
    pub fn metadata(&self, key: &str) -> Option<String> {
        let pairs = self.builder.as_ref()?.metadata().file_metadata().key_value_metadata()?;
        pairs.iter().find(|pair| pair.key == key).and_then(|pair| pair.value.clone())
    }

    /// Coverage of the language, in a profile's file.
    ///
    /// # Errors
    /// When the file has none.
    pub fn coverage(&self) -> Result<Coverage, ProfileError> {
        let json =
            self.metadata("neuroglot.coverage").ok_or_else(|| broken(&self.path, "has no coverage in its metadata"))?;
        serde_json::from_str(&json).map_err(|error| broken(&self.path, format!("its coverage is broken: {error}")))
    }

    /// Number of folds.
    #[must_use]
    pub fn folds(&self) -> usize {
        self.folds
    }

    /// Reads all rows; every language must cover the whole grid, in order. How many tokens were routed to an expert stands in a
    /// table of its own: those of the tallies are zero.
    ///
    /// # Errors
    /// When the rows are not those of a grid of this shape.
    pub fn read(mut self, shape: FfnShape) -> Result<CountsTable, ProfileError> {
        let path = self.path.clone();
        let wrong = |error: &dyn std::fmt::Display| broken(&path, format!("cannot be read: {error}"));
        let builder = self.builder.take().expect("a reader reads once");
        // Said before anything is allocated: the shape comes from another file.
        let rows = usize::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
        if shape.checked_neurons().is_none_or(|neurons| neurons == 0 || rows % neurons != 0) {
            let FfnShape { layers, experts, width } = shape;
            let experts = if shape.is_routed() { format!("{experts} × ") } else { String::new() };
            return Err(broken(
                &path,
                format!(
                    "has {rows} rows, which is no whole number of languages of {layers} × {experts}{width} neurons"
                ),
            ));
        }
        if shape.is_routed() && !self.experts {
            return Err(broken(&path, format!("has no column `expert`, but the model has {shape}")));
        }
        let reader = builder.with_batch_size(shape.neurons().min(1 << 16)).build().map_err(|error| wrong(&error))?;
        let mut table = CountsTable { languages: Vec::new(), tallies: Vec::new() };
        let mut at = 0;
        for batch in reader {
            let batch = batch.map_err(|error| wrong(&error))?;
            let mut start = 0;
            while start < batch.num_rows() {
                if at == 0 {
                    table.languages.push(batch.column(1).as_string::<i32>().value(start).to_owned());
                    table.tallies.push(Tally::new(shape, self.folds));
                }
                let take = (batch.num_rows() - start).min(shape.neurons() - at);
                let language = table.languages.last().expect("pushed at its first row");
                let tally = table.tallies.last_mut().expect("pushed at its first row");
                copy(&batch.slice(start, take), self.experts, at, language, tally)
                    .map_err(|problem| broken(&path, problem))?;
                at = (at + take) % shape.neurons();
                start += take;
            }
        }
        Ok(table)
    }
}

/// Reads how often every neuron fired, all folds together, and nothing else: for a picture of a whole atlas, several row groups at a
/// time. `visit` gets pieces of a language in no particular order: its code, the place of the first neuron, and the counts from there.
///
/// # Errors
/// When the file is no table of counts, its rows are no whole languages of a grid of this shape, or `visit` refuses a language.
pub fn visit_active(
    path: &Path,
    shape: FfnShape,
    visit: impl Fn(&str, usize, &[u64]) -> Result<(), String> + Sync,
) -> Result<(), ProfileError> {
    let wrong = |error: &dyn std::fmt::Display| broken(path, format!("cannot be read: {error}"));
    let CountsReader { builder, folds, experts, .. } = CountsReader::open(path)?;
    let metadata = builder.expect("it was opened just now").metadata().clone();
    let neurons = shape.checked_neurons().filter(|&neurons| neurons > 0).ok_or_else(|| wrong(&"an empty grid"))?;
    let rows = |group: &RowGroupMetaData| usize::try_from(group.num_rows()).unwrap_or(0);
    let starts: Vec<usize> = metadata
        .row_groups()
        .iter()
        .scan(0, |start, group| Some(std::mem::replace(start, *start + rows(group))))
        .collect();
    let all: usize = metadata.row_groups().iter().map(rows).sum();
    if !all.is_multiple_of(neurons) {
        return Err(wrong(&format!("{all} rows are no whole number of languages of {shape}")));
    }
    let first = 4 + usize::from(experts);
    let leaves = std::iter::once(1).chain(first..first + folds);
    let mask = ProjectionMask::leaves(metadata.file_metadata().schema_descr(), leaves);
    let metadata =
        ArrowReaderMetadata::try_new(metadata, ArrowReaderOptions::default()).map_err(|error| wrong(&error))?;
    starts.into_par_iter().enumerate().try_for_each(|(group, start)| {
        let file = File::open(path).map_err(|error| wrong(&error))?;
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata.clone())
            .with_row_groups(vec![group])
            .with_projection(mask.clone())
            .with_batch_size(1 << 16)
            .build()
            .map_err(|error| wrong(&error))?;
        let mut row = start;
        for batch in reader {
            let batch = batch.map_err(|error| wrong(&error))?;
            let mut active = vec![0u64; batch.num_rows()];
            let mut of_fold = active.clone();
            for fold in 0..folds {
                copy_fold(&batch, 1 + fold, &mut of_fold).map_err(|error| wrong(&error))?;
                active.iter_mut().zip(&of_fold).for_each(|(sum, of_fold)| *sum = sum.saturating_add(*of_fold));
            }
            let languages = batch.column(0).as_string::<i32>();
            let mut at = 0;
            while at < active.len() {
                let place = (row + at) % neurons;
                let end = active.len().min(at + neurons - place);
                if languages.value(at) != languages.value(end - 1) {
                    return Err(wrong(&format!("{} does not cover {shape}", languages.value(at))));
                }
                visit(languages.value(at), place, &active[at..end]).map_err(|error| wrong(&error))?;
                at = end;
            }
            row += active.len();
        }
        Ok(())
    })
}

fn copy(batch: &RecordBatch, experts: bool, at: usize, language: &str, tally: &mut Tally) -> Result<(), String> {
    let shape = tally.shape();
    let languages = batch.column(1).as_string::<i32>();
    let layers = batch.column(2).as_primitive::<Int16Type>();
    let first = 3 + usize::from(experts);
    let expert = experts.then(|| batch.column(3).as_primitive::<Int16Type>());
    let neurons = batch.column(first).as_primitive::<Int32Type>();
    for row in 0..batch.num_rows() {
        let id = shape.neuron(at + row);
        let wanted = (language, id.layer as i16, id.expert as i16, id.index as i32);
        let expert = expert.map_or(0, |experts| experts.value(row));
        let found = (languages.value(row), layers.value(row), expert, neurons.value(row));
        if found != wanted {
            let columns = "language, layer, expert, neuron";
            return Err(format!("row {found:?} stands where {wanted:?} is wanted ({columns})"));
        }
    }
    let first = first + 1;
    let folds = tally.active.len();
    for (fold, active) in tally.active.iter_mut().enumerate() {
        copy_fold(batch, first + fold, &mut active[at..])?;
    }
    let rows = batch.num_rows();
    let after = first + folds;
    tally.sum[at..at + rows].copy_from_slice(batch.column(after).as_primitive::<Float64Type>().values());
    tally.sum_sq[at..at + rows].copy_from_slice(batch.column(after + 1).as_primitive::<Float64Type>().values());
    let max = batch.column(after + 2).as_primitive::<Float32Type>();
    for (row, to) in tally.max[at..at + rows].iter_mut().enumerate() {
        *to = if max.is_null(row) { f32::NEG_INFINITY } else { max.value(row) };
    }
    Ok(())
}

/// Copies a fold's counts, of either width, out of a column.
pub(super) fn copy_fold(batch: &RecordBatch, column: usize, to: &mut [u64]) -> Result<(), String> {
    let counts = cast(batch.column(column), &DataType::Int64).map_err(|error| error.to_string())?;
    for (to, &from) in to.iter_mut().zip(counts.as_primitive::<Int64Type>().values()) {
        *to = u64::try_from(from).map_err(|_| format!("{} is {from}", batch.schema().field(column).name()))?;
    }
    Ok(())
}

pub(crate) fn names(schema: &Schema) -> Vec<&str> {
    schema.fields().iter().map(|field| field.name().as_str()).collect()
}

/// Refuses a table that declares more than its bytes can hold, before room is made for it.
fn check_pages(path: &Path, builder: &ParquetRecordBatchReaderBuilder<File>) -> Result<(), ProfileError> {
    let problem = File::open(path).and_then(|mut file| pages::problem(&mut file, builder.metadata()));
    match problem.map_err(|error| broken(path, format!("cannot be read: {error}")))? {
        Some(problem) => Err(broken(path, problem)),
        None => Ok(()),
    }
}

/// Refuses a file of another table, or of a newer major version, or one that declares more than it can hold.
pub(crate) fn check_schema(
    path: &Path,
    builder: &ParquetRecordBatchReaderBuilder<File>,
    (name, version): (&str, &str),
) -> Result<(), ProfileError> {
    let pairs = builder.metadata().file_metadata().key_value_metadata();
    let value = |key: &str| {
        let pair = pairs.and_then(|pairs| pairs.iter().find(|pair| pair.key == key));
        pair.and_then(|pair| pair.value.as_deref()).unwrap_or("none")
    };
    let (found, found_version) = (value("neuroglot.schema"), value("neuroglot.schema_version"));
    if found != name {
        return Err(broken(path, format!("has the schema `{found}`, but `{name}` is wanted")));
    }
    if found_version.split('.').next() != version.split('.').next() {
        return Err(broken(
            path,
            format!("has schema version {found_version}, but this neuroglot reads {version}; use a newer neuroglot"),
        ));
    }
    check_pages(path, builder)
}

pub(super) fn broken(path: &Path, problem: impl ToString) -> ProfileError {
    ProfileError::Broken { path: path.to_owned(), problem: problem.to_string() }
}
