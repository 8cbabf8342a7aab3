//! The table of counts, in a profile and in an atlas alike: one row per neuron and language, folds as columns.

use std::{fs::File, io::Write, path::Path, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, Float32Array, Float64Array, Int16Array, Int32Array, Int64Array, RecordBatch,
        StringArray,
    },
    compute::cast,
    datatypes::{DataType, Field, Float32Type, Float64Type, Int32Type, Int64Type, Schema},
};
use parquet::{
    arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder, arrow_writer::ArrowWriterOptions},
    basic::{Compression, Encoding, ZstdLevel},
    errors::ParquetError,
    file::{
        metadata::KeyValue,
        properties::{WriterProperties, WriterPropertiesBuilder},
    },
};

use super::{Profile, ProfileError};
use crate::{
    model::Tally,
    neuron::FfnShape,
    output::{Draft, OutputError},
    tokens::Coverage,
};

/// Name and version in the files' metadata.
pub const COUNTS_SCHEMA: (&str, &str) = ("neuroglot.counts", "1.0");

/// Columns: run, language, layer, neuron, `active_0` … per fold, sum, `sum_sq`, max (null where no token was run). Counts are 32 bits
/// wide unless a language is asked for more tokens than that holds.
#[must_use]
pub fn counts_schema(folds: usize, tokens: u64) -> Schema {
    let wide = i32::try_from(tokens).is_err();
    let active = if wide { DataType::Int64 } else { DataType::Int32 };
    let mut fields = vec![
        Field::new("run", DataType::Utf8, false),
        Field::new("language", DataType::Utf8, false),
        Field::new("layer", DataType::Int16, false),
        Field::new("neuron", DataType::Int32, false),
    ];
    fields.extend((0..folds).map(|fold| Field::new(format!("active_{fold}"), active.clone(), false)));
    fields.push(Field::new("sum", DataType::Float64, false));
    fields.push(Field::new("sum_sq", DataType::Float64, false));
    fields.push(Field::new("max", DataType::Float32, true));
    Schema::new(fields)
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

/// Writes the counts of languages, in the order given. A row group ends with a language once it holds `group_rows` rows.
///
/// # Errors
/// When the disk is full or the file cannot be written.
pub fn write_counts<P: std::borrow::Borrow<Profile>>(
    place: &Path,
    run: &str,
    tokens: u64,
    profiles: impl IntoIterator<Item = Result<P, ProfileError>>,
    folds: usize,
    further: Vec<(String, String)>,
    group_rows: usize,
) -> Result<usize, ProfileError> {
    let failed = |error| unwritten(place, error);
    let schema = Arc::new(counts_schema(folds, tokens));
    let mut draft = Draft::new(place)?;
    let mut writer = ArrowWriter::try_new_with_options(&mut draft, schema.clone(), options(COUNTS_SCHEMA, further))
        .map_err(failed)?;
    let mut rows = 0;
    for profile in profiles {
        let batch = batch(&schema, run, profile?.borrow());
        rows += batch.num_rows();
        writer.write(&batch).map_err(failed)?;
        if writer.in_progress_rows() >= group_rows {
            writer.flush().map_err(failed)?;
        }
    }
    writer.close().map_err(failed)?;
    draft.flush().map_err(|source| OutputError { path: place.to_owned(), source })?;
    draft.keep()?;
    Ok(rows)
}

fn batch(schema: &Arc<Schema>, run: &str, profile: &Profile) -> RecordBatch {
    let tally = &profile.tally;
    let (shape, language) = (tally.shape(), profile.coverage.language.to_string());
    let neurons = shape.neurons();
    let id = |flat| shape.neuron(flat);
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(std::iter::repeat_n(run, neurons))),
        Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&language, neurons))),
        Arc::new(Int16Array::from_iter_values((0..neurons).map(|flat| id(flat).layer as i16))),
        Arc::new(Int32Array::from_iter_values((0..neurons).map(|flat| id(flat).index as i32))),
    ];
    for (fold, active) in tally.active.iter().enumerate() {
        let narrow = schema.field(4 + fold).data_type() == &DataType::Int32;
        columns.push(if narrow {
            Arc::new(Int32Array::from_iter_values(active.iter().map(|&n| n as i32)))
        } else {
            Arc::new(Int64Array::from_iter_values(active.iter().map(|&n| n as i64)))
        });
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
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| {
            broken(path, format!("is not a readable Parquet file: {error}; delete it and profile again"))
        })?;
        check_schema(path, &builder, COUNTS_SCHEMA)?;
        let folds = builder.schema().fields().iter().filter(|field| field.name().starts_with("active_")).count();
        let tokens = if builder.schema().fields().iter().any(|field| field.data_type() == &DataType::Int64) {
            u64::MAX
        } else {
            0
        };
        let wanted = counts_schema(folds, tokens);
        let same = |(a, b): (&Arc<Field>, &Arc<Field>)| a.name() == b.name() && a.data_type() == b.data_type();
        let fields = builder.schema().fields();
        // A minor version may add columns behind these.
        if folds == 0 || fields.len() < wanted.fields().len() || !wanted.fields().iter().zip(fields).all(same) {
            return Err(broken(
                path,
                format!("has the columns {:?}, which are not those of counts", names(builder.schema())),
            ));
        }
        Ok(Self { path: path.to_owned(), builder: Some(builder), folds })
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

    /// Reads all rows; every language must cover the whole grid, in order.
    ///
    /// # Errors
    /// When the rows are not those of a grid of this shape.
    pub fn read(mut self, shape: FfnShape) -> Result<CountsTable, ProfileError> {
        let path = self.path.clone();
        let wrong = |error: &dyn std::fmt::Display| broken(&path, format!("cannot be read: {error}"));
        let builder = self.builder.take().expect("a reader reads once");
        // Said before anything is allocated: the shape comes from another file.
        let rows = usize::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
        if shape.layers.checked_mul(shape.width).is_none_or(|neurons| neurons == 0 || rows % neurons != 0) {
            let FfnShape { layers, width } = shape;
            return Err(broken(
                &path,
                format!("has {rows} rows, which is no whole number of languages of {layers} × {width} neurons"),
            ));
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
                copy(&batch.slice(start, take), shape, at, language, tally)
                    .map_err(|problem| broken(&path, problem))?;
                at = (at + take) % shape.neurons();
                start += take;
            }
        }
        Ok(table)
    }
}

fn copy(batch: &RecordBatch, shape: FfnShape, at: usize, language: &str, tally: &mut Tally) -> Result<(), String> {
    let languages = batch.column(1).as_string::<i32>();
    let layers = batch.column(2).as_primitive::<arrow::datatypes::Int16Type>();
    let neurons = batch.column(3).as_primitive::<Int32Type>();
    for row in 0..batch.num_rows() {
        let id = shape.neuron(at + row);
        let found = (languages.value(row), i64::from(layers.value(row)), i64::from(neurons.value(row)));
        if found != (language, id.layer as i64, id.index as i64) {
            return Err(format!("row {found:?} stands where ({language}, {}, {}) is wanted", id.layer, id.index));
        }
    }
    let folds = tally.active.len();
    for (fold, active) in tally.active.iter_mut().enumerate() {
        let column = cast(batch.column(4 + fold), &DataType::Int64).map_err(|error| error.to_string())?;
        for (to, &from) in active[at..].iter_mut().zip(column.as_primitive::<Int64Type>().values()) {
            *to = u64::try_from(from).map_err(|_| format!("active_{fold} is {from}"))?;
        }
    }
    let rows = batch.num_rows();
    tally.sum[at..at + rows].copy_from_slice(batch.column(4 + folds).as_primitive::<Float64Type>().values());
    tally.sum_sq[at..at + rows].copy_from_slice(batch.column(5 + folds).as_primitive::<Float64Type>().values());
    let max = batch.column(6 + folds).as_primitive::<Float32Type>();
    for (row, to) in tally.max[at..at + rows].iter_mut().enumerate() {
        *to = if max.is_null(row) { f32::NEG_INFINITY } else { max.value(row) };
    }
    Ok(())
}

pub(crate) fn names(schema: &Schema) -> Vec<&str> {
    schema.fields().iter().map(|field| field.name().as_str()).collect()
}

/// Refuses a file of another table, or of a newer major version.
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
    Ok(())
}

fn broken(path: &Path, problem: impl ToString) -> ProfileError {
    ProfileError::Broken { path: path.to_owned(), problem: problem.to_string() }
}
