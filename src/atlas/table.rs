//! Parquet tables as columns of plain values: the one place that knows arrow's arrays.

use std::{fs::File, io::Write, path::Path, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, Float32Array, Float64Array, Int16Array, Int32Array, Int64Array, ListArray,
        RecordBatch, StringArray,
    },
    compute::{cast, concat_batches},
    datatypes::{DataType, Field, Float64Type, Int64Type, Schema},
};
use parquet::arrow::ArrowWriter;

use super::AtlasError;
use crate::{
    output::{Draft, OutputError},
    profile::{check_schema, open_parquet, options, unwritten},
};

/// A table on its way to a file.
#[derive(Default)]
pub struct Table {
    fields: Vec<Field>,
    columns: Vec<ArrayRef>,
}

impl Table {
    fn push(mut self, name: &str, nullable: bool, column: ArrayRef) -> Self {
        self.fields.push(Field::new(name, column.data_type().clone(), nullable));
        self.columns.push(column);
        self
    }

    pub fn text<S: AsRef<str>>(self, name: &str, values: impl Iterator<Item = S>) -> Self {
        self.push(name, false, Arc::new(StringArray::from_iter_values(values)))
    }

    /// As [`Table::optional_text`], but declared to hold no null where it holds none: what a profile fills in throughout stays the
    /// bytes that it was before an import could leave it open.
    pub fn known_text<S: AsRef<str>>(self, name: &str, values: impl Iterator<Item = Option<S>>) -> Self {
        let column: StringArray = values.collect();
        self.push(name, column.null_count() > 0, Arc::new(column))
    }

    pub fn optional_text<S: AsRef<str>>(self, name: &str, values: impl Iterator<Item = Option<S>>) -> Self {
        self.push(name, true, Arc::new(values.collect::<StringArray>()))
    }

    pub fn i16(self, name: &str, values: impl Iterator<Item = i16>) -> Self {
        self.push(name, false, Arc::new(Int16Array::from_iter_values(values)))
    }

    pub fn i32(self, name: &str, values: impl Iterator<Item = i32>) -> Self {
        self.push(name, false, Arc::new(Int32Array::from_iter_values(values)))
    }

    /// As [`Table::known_text`], of whole numbers.
    pub fn known_i32(self, name: &str, values: impl Iterator<Item = Option<i32>>) -> Self {
        let column: Int32Array = values.collect();
        self.push(name, column.null_count() > 0, Arc::new(column))
    }

    pub fn i64(self, name: &str, values: impl Iterator<Item = i64>) -> Self {
        self.push(name, false, Arc::new(Int64Array::from_iter_values(values)))
    }

    pub fn optional_i64(self, name: &str, values: impl Iterator<Item = Option<i64>>) -> Self {
        self.push(name, true, Arc::new(values.collect::<Int64Array>()))
    }

    pub fn optional_f32(self, name: &str, values: impl Iterator<Item = Option<f32>>) -> Self {
        self.push(name, true, Arc::new(values.collect::<Float32Array>()))
    }

    pub fn optional_f64(self, name: &str, values: impl Iterator<Item = Option<f64>>) -> Self {
        self.push(name, true, Arc::new(values.collect::<Float64Array>()))
    }

    pub fn lists(self, name: &str, values: impl Iterator<Item = Vec<i64>>) -> Self {
        let lists = values.map(|list| Some(list.into_iter().map(Some)));
        self.push(name, false, Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(lists)))
    }

    /// Writes the table; returns its number of rows.
    pub fn write(self, place: &Path, schema: (&str, &str)) -> Result<usize, AtlasError> {
        let mut draft = Draft::new(place)?;
        let rows = self.encode(&mut draft, place, schema)?;
        draft.flush().map_err(|source| OutputError { path: place.to_owned(), source })?;
        draft.keep()?;
        Ok(rows)
    }

    /// The table's file in memory; `name` is what an error calls it.
    pub fn bytes(self, name: &Path, schema: (&str, &str)) -> Result<Vec<u8>, AtlasError> {
        let mut bytes = Vec::new();
        self.encode(&mut bytes, name, schema)?;
        Ok(bytes)
    }

    fn encode(self, target: impl Write + Send, place: &Path, schema: (&str, &str)) -> Result<usize, AtlasError> {
        let failed = |error| unwritten(place, error);
        let fields = Arc::new(Schema::new(self.fields));
        let batch = RecordBatch::try_new(fields.clone(), self.columns).expect("columns of one table are equally long");
        let mut writer =
            ArrowWriter::try_new_with_options(target, fields, options(schema, Vec::new())).map_err(failed)?;
        // A row group without rows is more than some readers can take.
        if batch.num_rows() > 0 {
            writer.write(&batch).map_err(failed)?;
        }
        writer.close().map_err(failed)?;
        Ok(batch.num_rows())
    }
}

/// A table read from a file, of the expected schema.
pub struct Columns<'a> {
    path: &'a Path,
    batch: RecordBatch,
}

impl<'a> Columns<'a> {
    pub fn read(path: &'a Path, schema: (&str, &str)) -> Result<Self, AtlasError> {
        let wrong = |error: &dyn std::fmt::Display| {
            AtlasError::broken(path, format!("is not a readable Parquet file: {error}"))
        };
        let file = File::open(path).map_err(|error| AtlasError::broken(path, format!("cannot be read: {error}")))?;
        let builder = open_parquet(file).map_err(|error| wrong(&error))?;
        check_schema(path, &builder, schema)?;
        let fields = builder.schema().clone();
        let reader = builder.build().map_err(|error| wrong(&error))?;
        let batches = reader.collect::<Result<Vec<_>, _>>().map_err(|error| wrong(&error))?;
        let batch = concat_batches(&fields, &batches).map_err(|error| wrong(&error))?;
        Ok(Self { path, batch })
    }

    pub fn rows(&self) -> usize {
        self.batch.num_rows()
    }

    fn column(&self, name: &str, kind: &DataType) -> Result<ArrayRef, AtlasError> {
        let column = self.batch.column_by_name(name);
        let column = column.ok_or_else(|| AtlasError::broken(self.path, format!("has no column `{name}`")))?;
        cast(column, kind).map_err(|error| AtlasError::broken(self.path, format!("column `{name}`: {error}")))
    }

    fn null(&self, name: &str, row: usize) -> AtlasError {
        AtlasError::broken(self.path, format!("column `{name}` is null in row {row}"))
    }

    pub fn optional_text(&self, name: &str) -> Result<Vec<Option<String>>, AtlasError> {
        let column = self.column(name, &DataType::Utf8)?;
        Ok(column.as_string::<i32>().iter().map(|value| value.map(str::to_owned)).collect())
    }

    pub fn text(&self, name: &str) -> Result<Vec<String>, AtlasError> {
        let values = self.optional_text(name)?.into_iter().enumerate();
        values.map(|(row, value)| value.ok_or_else(|| self.null(name, row))).collect()
    }

    /// Texts of a type that parses from text.
    pub fn parsed<T>(&self, name: &str) -> Result<Vec<T>, AtlasError>
    where
        T: std::str::FromStr<Err: std::fmt::Display>,
    {
        let parse = |text: String| {
            text.parse().map_err(|error| AtlasError::broken(self.path, format!("column `{name}`: {error}")))
        };
        self.text(name)?.into_iter().map(parse).collect()
    }

    pub fn optional_integer(&self, name: &str) -> Result<Vec<Option<i64>>, AtlasError> {
        Ok(self.column(name, &DataType::Int64)?.as_primitive::<Int64Type>().iter().collect())
    }

    /// Whole numbers that are not negative.
    pub fn counts<T: TryFrom<i64>>(&self, name: &str) -> Result<Vec<T>, AtlasError> {
        let values = self.optional_integer(name)?.into_iter().enumerate();
        let count = |(row, value): (usize, Option<i64>)| {
            let value = value.filter(|value| *value >= 0).ok_or_else(|| self.null(name, row))?;
            T::try_from(value)
                .map_err(|_| AtlasError::broken(self.path, format!("column `{name}` is {value} in row {row}")))
        };
        values.map(count).collect()
    }

    /// As [`Columns::counts`], of a column that a minor version added: a table that is older has `before` throughout.
    pub fn added_counts<T: TryFrom<i64> + Clone>(&self, name: &str, before: T) -> Result<Vec<T>, AtlasError> {
        match self.batch.column_by_name(name) {
            Some(_) => self.counts(name),
            None => Ok(vec![before; self.rows()]),
        }
    }

    /// As [`Columns::counts`], of a column that may be open.
    pub fn optional_counts<T: TryFrom<i64>>(&self, name: &str) -> Result<Vec<Option<T>>, AtlasError> {
        let count = |(row, value): (usize, Option<i64>)| {
            let Some(value) = value else { return Ok(None) };
            let wrong = || AtlasError::broken(self.path, format!("column `{name}` is {value} in row {row}"));
            if value < 0 { Err(wrong()) } else { T::try_from(value).map(Some).map_err(|_| wrong()) }
        };
        self.optional_integer(name)?.into_iter().enumerate().map(count).collect()
    }

    /// As [`Columns::optional_text`], of a column that a minor version added: a table that is older has nothing there.
    pub fn added_text(&self, name: &str) -> Result<Vec<Option<String>>, AtlasError> {
        match self.batch.column_by_name(name) {
            Some(_) => self.optional_text(name),
            None => Ok(vec![None; self.rows()]),
        }
    }

    pub fn optional_float(&self, name: &str) -> Result<Vec<Option<f64>>, AtlasError> {
        Ok(self.column(name, &DataType::Float64)?.as_primitive::<Float64Type>().iter().collect())
    }

    pub fn lists(&self, name: &str) -> Result<Vec<Vec<u64>>, AtlasError> {
        let kind = DataType::List(Arc::new(Field::new("item", DataType::Int64, true)));
        let column = self.column(name, &kind)?;
        let list = |row: Option<ArrayRef>| {
            let values = row.into_iter().flat_map(|row| row.as_primitive::<Int64Type>().values().to_vec());
            values.map(|value| u64::try_from(value).unwrap_or_default()).collect()
        };
        Ok(column.as_list::<i32>().iter().map(list).collect())
    }
}

pub(super) fn floats32(values: Vec<Option<f64>>) -> Vec<Option<f32>> {
    values.into_iter().map(|value| value.map(|value| value as f32)).collect()
}
