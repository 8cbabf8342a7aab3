//! The table of routed tokens, in a profile and in an atlas alike: one row per language, layer and expert, folds as columns. A
//! neuron of an expert can only be active at tokens that the router sends there: these are the denominators of its counts. A
//! dense model has no such table, for there every token of the language goes everywhere.

use std::{fs::File, path::Path, sync::Arc};

use arrow::{
    array::{ArrayRef, AsArray, Int16Array, RecordBatch, StringArray},
    compute::concat_batches,
    datatypes::{DataType, Field, Int16Type, Schema},
};

use super::{
    ProfileError,
    counts::{TableLayout, broken, check_schema, copy_fold, fold_column, fold_fields, names, write_batches},
    pages,
};
use crate::{language::LanguageCode, neuron::FfnShape};

/// Name and version in the files' metadata.
pub const ROUTED_SCHEMA: (&str, &str) = ("neuroglot.routed", "1.0");

/// Columns: run, language, layer, expert, `routed_0` … per fold.
#[must_use]
pub fn routed_schema(folds: usize, tokens: u64) -> Schema {
    let mut fields = vec![
        Field::new("run", DataType::Utf8, false),
        Field::new("language", DataType::Utf8, false),
        Field::new("layer", DataType::Int16, false),
        Field::new("expert", DataType::Int16, false),
    ];
    fields.extend(fold_fields("routed", folds, tokens));
    Schema::new(fields)
}

/// Tokens that were routed to every expert, per fold and in the order of [`FfnShape::ffn`].
pub type Routed = Vec<Vec<u64>>;

/// The rows of one or more languages of a file of routed tokens.
pub struct RoutedTable {
    /// Id of the run.
    pub run: String,
    /// Code and routed tokens of every language, in the file's order.
    pub languages: Vec<(String, Routed)>,
}

/// Writes the routed tokens of languages, in the order given.
///
/// # Errors
/// When the disk is full or the file cannot be written.
pub fn write_routed(
    place: &Path,
    layout: &TableLayout,
    shape: FfnShape,
    languages: impl IntoIterator<Item = Result<(LanguageCode, Routed), ProfileError>>,
) -> Result<usize, ProfileError> {
    let schema = Arc::new(routed_schema(layout.folds, layout.tokens));
    let batches = languages.into_iter().map(|language| {
        let (language, routed) = language?;
        Ok(batch(&schema, layout, shape, language, &routed))
    });
    write_batches(place, ROUTED_SCHEMA, layout, &schema, batches)
}

fn batch(
    schema: &Arc<Schema>,
    layout: &TableLayout,
    shape: FfnShape,
    language: LanguageCode,
    routed: &Routed,
) -> RecordBatch {
    let ffns = shape.ffns();
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&layout.run, ffns))),
        Arc::new(StringArray::from_iter_values(std::iter::repeat_n(language.to_string(), ffns))),
        Arc::new(Int16Array::from_iter_values((0..ffns).map(|ffn| (ffn / shape.experts) as i16))),
        Arc::new(Int16Array::from_iter_values((0..ffns).map(|ffn| (ffn % shape.experts) as i16))),
    ];
    for fold in routed {
        columns.push(fold_column(schema.field(columns.len()), fold));
    }
    RecordBatch::try_new(schema.clone(), columns).expect("the columns are those of the schema")
}

impl RoutedTable {
    /// Reads a file; every language must cover every expert of every layer, in order.
    ///
    /// # Errors
    /// When it is no table of routed tokens of a version that we know, or not of a model of this shape and number of folds.
    pub fn read(path: &Path, shape: FfnShape, folds: usize) -> Result<Self, ProfileError> {
        let unreadable = |error: &dyn std::fmt::Display| broken(path, format!("cannot be read: {error}"));
        let file = File::open(path).map_err(|error| unreadable(&error))?;
        let builder = pages::open(file).map_err(|error| {
            broken(path, format!("is not a readable Parquet file: {error}; delete it and profile again"))
        })?;
        check_schema(path, &builder, ROUTED_SCHEMA)?;
        let pairs = builder.metadata().file_metadata().key_value_metadata();
        let run = pairs.and_then(|pairs| pairs.iter().find(|pair| pair.key == "neuroglot.run"));
        let run = run.and_then(|pair| pair.value.clone()).unwrap_or_default();
        let schema = builder.schema().clone();
        let wanted = routed_schema(folds, u64::MAX);
        if !names(&schema).starts_with(&names(&wanted)) {
            return Err(broken(
                path,
                format!("has the columns {:?}, but {:?} are wanted", names(&schema), names(&wanted)),
            ));
        }
        let reader = builder.build().map_err(|error| unreadable(&error))?;
        let batches = reader.collect::<Result<Vec<_>, _>>().map_err(|error| unreadable(&error))?;
        let rows = concat_batches(&schema, &batches).map_err(|error| unreadable(&error))?;
        let languages = languages(&rows, shape, folds).map_err(|problem| broken(path, problem))?;
        Ok(Self { run, languages })
    }

    /// Routed tokens of a language.
    #[must_use]
    pub fn of(&self, language: &str) -> Option<&Routed> {
        self.languages.iter().find(|(code, _)| code == language).map(|(_, routed)| routed)
    }
}

fn languages(rows: &RecordBatch, shape: FfnShape, folds: usize) -> Result<Vec<(String, Routed)>, String> {
    let ffns = shape.ffns();
    if ffns == 0 || !rows.num_rows().is_multiple_of(ffns) {
        return Err(format!("has {} rows, which is no whole number of languages of {shape}", rows.num_rows()));
    }
    let language = |start: usize| {
        let rows = rows.slice(start, ffns);
        let code = rows.column(1).as_string::<i32>();
        let (layers, experts) =
            (rows.column(2).as_primitive::<Int16Type>(), rows.column(3).as_primitive::<Int16Type>());
        for ffn in 0..ffns {
            let wanted = (code.value(0), (ffn / shape.experts) as i16, (ffn % shape.experts) as i16);
            let found = (code.value(ffn), layers.value(ffn), experts.value(ffn));
            if found != wanted {
                return Err(format!("row {found:?} stands where {wanted:?} is wanted (language, layer, expert)"));
            }
        }
        let mut routed = vec![vec![0; ffns]; folds];
        for (fold, routed) in routed.iter_mut().enumerate() {
            copy_fold(&rows, 4 + fold, routed)?;
        }
        Ok((code.value(0).to_owned(), routed))
    };
    (0..rows.num_rows()).step_by(ffns).map(language).collect()
}
