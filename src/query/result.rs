//! The schema of a result: names and types of its columns, and its [`Block`]s as Arrow record batches.
//!
//! `numbers` sets how the words of a block are converted, as the last step. A result of several series has a `series`
//! column before `ts`: positions in the list of keys of its schema.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Decimal64Array, Decimal128Array, DictionaryArray, Float64Array, Int32Array, Int64Array, StringArray,
    StringBuilder, TimestampMicrosecondArray, TimestampMillisecondArray, TimestampNanosecondArray,
};
use arrow::buffer::{Buffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::format::chunk::{DECIMAL_PRECISION, decimal_scale, stored_type, timestamp_type};
use crate::store::Block;
use crate::types::{ColumnType, SeriesDef, SeriesKey, TimeUnit, number};

/// Representation of number columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum NumberFormat {
    /// As stored: `Decimal64(18, digits)`, `Float64` or `Int64`.
    #[default]
    Stored,
    /// Decimals as the nearest double.
    Float64,
    /// Decimals as `Decimal128(18, digits)`.
    Decimal128,
    /// Decimals as their scaled integer.
    Raw,
    /// Decimals and integers as text.
    String,
}

/// A number column of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResultColumn {
    pub name: String,
    pub kind: ColumnType,
}

/// Name of the column with the series of each row, in a result of several series.
pub const SERIES_COLUMN: &str = "series";

/// The series of a result.
#[derive(Clone, Debug)]
pub enum Subject {
    /// One series and its version.
    One { series: SeriesKey, version: u64 },
    /// Several series, or a glob: each row has its series. There is no version, since a version belongs to one series.
    Many {
        /// Keys and globs of the query.
        selectors: Arc<[String]>,
        /// All selected series, by key, whether they have rows or not; the series of a block's rows are positions in it.
        keys: Arc<StringArray>,
    },
}

/// Names and types of the columns of a result, and its series.
#[derive(Clone, Debug)]
pub struct ResultSchema {
    pub subject: Subject,
    pub unit: TimeUnit,
    /// Number columns in order; `ts`, and `series` where there are several, come before them.
    pub columns: Vec<ResultColumn>,
    pub numbers: NumberFormat,
    /// Commit of the store that was read.
    pub commit: u64,
}

impl ResultSchema {
    /// Schema of these columns of a series, `None` for all.
    pub fn of(def: &SeriesDef, columns: Option<&[usize]>, numbers: NumberFormat, version: u64, commit: u64) -> Self {
        let all: Vec<usize> = (0..def.columns.len()).collect();
        let columns = columns
            .unwrap_or(&all)
            .iter()
            .filter_map(|position| def.columns.get(*position))
            .map(|column| ResultColumn { name: column.name.clone(), kind: column.kind })
            .collect();
        let subject = Subject::One { series: def.key.clone(), version };
        Self { subject, unit: def.unit, columns, numbers, commit }
    }

    /// The keys of all series, where the result has a `series` column.
    pub fn keys(&self) -> Option<&Arc<StringArray>> {
        match &self.subject {
            Subject::One { .. } => None,
            Subject::Many { keys, .. } => Some(keys),
        }
    }

    /// Version of the series, where the result has a single one.
    pub fn version(&self) -> Option<u64> {
        match &self.subject {
            Subject::One { version, .. } => Some(*version),
            Subject::Many { .. } => None,
        }
    }

    /// What was queried: a key, or keys and globs separated by commas.
    pub fn title(&self) -> String {
        match &self.subject {
            Subject::One { series, .. } => series.to_string(),
            Subject::Many { selectors, .. } => selectors.join(","),
        }
    }

    /// The Arrow schema, with `fastk.series`, `fastk.commit` and, for one series, `fastk.version` in its metadata.
    pub fn arrow_schema(&self) -> SchemaRef {
        let mut fields = Vec::with_capacity(self.columns.len() + 2);
        if self.keys().is_some() {
            let words = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
            fields.push(Field::new(SERIES_COLUMN, words, false));
        }
        fields.push(Field::new("ts", timestamp_type(self.unit), false));
        for column in &self.columns {
            fields.push(Field::new(&column.name, arrow_type(column.kind, self.numbers), false));
        }
        let mut metadata = HashMap::from([
            ("fastk.series".to_string(), self.title()),
            ("fastk.commit".to_string(), self.commit.to_string()),
        ]);
        metadata.extend(self.version().map(|version| ("fastk.version".to_string(), version.to_string())));
        Arc::new(Schema::new_with_metadata(fields, metadata))
    }

    /// Whether a block's words are sent as they are (no conversion by `numbers`).
    pub fn is_plain(&self) -> bool {
        match self.numbers {
            NumberFormat::Stored | NumberFormat::Raw => true,
            NumberFormat::Float64 | NumberFormat::Decimal128 => self.columns.iter().all(|c| c.kind.digits().is_none()),
            NumberFormat::String => false,
        }
    }

    /// The block as an Arrow record batch under [`ResultSchema::arrow_schema`] (passed in, since it is the same for all
    /// blocks).
    pub fn record_batch(&self, schema: &SchemaRef, block: &Block) -> Result<RecordBatch> {
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(block.column_count() + 1);
        if let Some(keys) = self.keys() {
            let positions = Int32Array::new(block.series_indexes(), None);
            let words = DictionaryArray::try_new(positions, Arc::clone(keys) as ArrayRef).map_err(|error| {
                Error::internal(format!("a row of {} belongs to none of its series: {error}", self.title()))
            })?;
            arrays.push(Arc::new(words));
        }
        let mut columns = block.packed_columns();
        let ts = columns.next().ok_or_else(|| Error::internal("a block without ts"))?;
        arrays.push(timestamp_array(ts.buffer().clone().into(), self.unit));
        for (column, cells) in self.columns.iter().zip(columns) {
            arrays.push(number_array(cells.buffer(), column.kind, self.numbers)?);
        }
        RecordBatch::try_new(schema.clone(), arrays)
            .map_err(|error| Error::internal(format!("block of {} does not fit its schema: {error}", self.title())))
    }
}

/// Arrow type of a number column under `numbers`.
pub fn arrow_type(kind: ColumnType, numbers: NumberFormat) -> DataType {
    match (kind, numbers) {
        (kind, NumberFormat::Stored) => stored_type(kind),
        (ColumnType::Decimal { digits }, NumberFormat::Decimal128) => {
            DataType::Decimal128(DECIMAL_PRECISION, decimal_scale(digits))
        }
        (ColumnType::Decimal { .. }, NumberFormat::Float64) | (ColumnType::Float64, _) => DataType::Float64,
        (ColumnType::Decimal { .. } | ColumnType::Int64, NumberFormat::String) => DataType::Utf8,
        (ColumnType::Decimal { .. }, NumberFormat::Raw) | (ColumnType::Int64, _) => DataType::Int64,
        (other, _) => stored_type(other),
    }
}

fn timestamp_array(words: ScalarBuffer<i64>, unit: TimeUnit) -> ArrayRef {
    match unit {
        TimeUnit::Ms => Arc::new(TimestampMillisecondArray::new(words, None).with_timezone("UTC")),
        TimeUnit::Us => Arc::new(TimestampMicrosecondArray::new(words, None).with_timezone("UTC")),
        TimeUnit::Ns => Arc::new(TimestampNanosecondArray::new(words, None).with_timezone("UTC")),
    }
}

fn number_array(buffer: &Buffer, kind: ColumnType, numbers: NumberFormat) -> Result<ArrayRef> {
    let words = || ScalarBuffer::<i64>::from(buffer.clone());
    let typed = |array: std::result::Result<ArrayRef, arrow::error::ArrowError>| {
        array.map_err(|error| Error::internal(format!("decimal column: {error}")))
    };
    Ok(match (kind, numbers) {
        (ColumnType::Decimal { digits }, NumberFormat::Stored) => typed(
            Decimal64Array::new(words(), None)
                .with_precision_and_scale(DECIMAL_PRECISION, decimal_scale(digits))
                .map(|array| Arc::new(array) as ArrayRef),
        )?,
        (ColumnType::Decimal { digits }, NumberFormat::Decimal128) => typed(
            words()
                .iter()
                .map(|raw| i128::from(*raw))
                .collect::<Decimal128Array>()
                .with_precision_and_scale(DECIMAL_PRECISION, decimal_scale(digits))
                .map(|array| Arc::new(array) as ArrayRef),
        )?,
        (ColumnType::Decimal { digits }, NumberFormat::Float64) => {
            let mut values = Vec::with_capacity(buffer.len() / 8);
            number::decimals_to_f64(&words(), digits, &mut values);
            Arc::new(Float64Array::from(values))
        }
        (ColumnType::Decimal { digits }, NumberFormat::String) => text_array(&words(), digits),
        (ColumnType::Int64, NumberFormat::String) => text_array(&words(), 0),
        (ColumnType::Decimal { .. }, NumberFormat::Raw) | (ColumnType::Int64, _) => {
            Arc::new(Int64Array::new(words(), None))
        }
        (ColumnType::Float64, _) => Arc::new(Float64Array::new(ScalarBuffer::<f64>::from(buffer.clone()), None)),
        (other, _) => return Err(Error::internal(format!("a result column of type {}", other.text()))),
    })
}

fn text_array(words: &[i64], digits: u8) -> ArrayRef {
    let mut builder = StringBuilder::with_capacity(words.len(), words.len() * 12);
    let mut text = Vec::with_capacity(24);
    for raw in words {
        text.clear();
        number::write_decimal(&mut text, *raw, digits);
        builder.append_value(String::from_utf8_lossy(&text));
    }
    Arc::new(builder.finish())
}
