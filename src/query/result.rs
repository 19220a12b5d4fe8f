//! The schema of a result: names and types of its columns, and its [`Block`]s as Arrow record batches.
//!
//! `numbers` sets how the cells of a block are converted, as the last step. A result of several series has a `series`
//! column before `ts`: positions in the list of keys of its schema.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, BooleanArray, DictionaryArray, FixedSizeBinaryArray, PrimitiveArray,
    StringArray,
};
use arrow::buffer::{BooleanBuffer, Buffer, MutableBuffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    ArrowDictionaryKeyType, DataType, Decimal64Type, Decimal128Type, Field, Float32Type, Float64Type, Int8Type,
    Int16Type, Int32Type, Int64Type, Schema, SchemaRef, TimeUnit as ArrowUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::format::chunk::{DECIMAL_PRECISION, WIDE_DECIMAL_PRECISION, decimal_scale, stored_type, timestamp_type};
use crate::store::Block;
use crate::types::cells::at;
use crate::types::width::narrow;
use crate::types::{
    CellLayout, CellSlice, Column, ColumnType, Dictionary, SeriesDef, SeriesKey, SharedCells, TimeUnit, number, wide,
};

/// Representation of number columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum NumberFormat {
    /// Each column in its stored type.
    #[default]
    Stored,
    /// Decimals as the nearest double.
    Float64,
    /// Decimals as `Decimal128(18, digits)`; wide ones are `Decimal128(38, digits)` anyway.
    Decimal128,
    /// Decimals as their scaled integer; wide ones as `Decimal128(38, 0)`.
    Raw,
    /// Decimals and integers of 8 bytes as text.
    String,
}

/// A column of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResultColumn {
    pub name: String,
    pub kind: ColumnType,
    /// Whether cells can be null.
    pub nullable: bool,
    /// What the cells of an `enum` or `text` are positions in; `None` for other types.
    pub labels: Option<Dictionary>,
}

impl ResultColumn {
    /// A column as a series has it, with the dictionary of its texts.
    pub fn of(column: &Column, texts: Option<&Dictionary>) -> Self {
        let labels = match column.kind {
            ColumnType::Enum => Some(column.values.iter().map(|value| Arc::from(value.as_str())).collect()),
            ColumnType::Text => Some(texts.cloned().unwrap_or_default()),
            _ => None,
        };
        Self { name: column.name.clone(), kind: column.kind, nullable: column.nullable, labels }
    }
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
    /// Several series side by side: each column has its series.
    Panel {
        /// Keys and globs of the query.
        selectors: Arc<[String]>,
        /// The series and field of each column.
        sources: Arc<[PanelColumn]>,
    },
}

/// A column of a panel: a field of a series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PanelColumn {
    pub series: SeriesKey,
    pub field: String,
}

/// Names and types of the columns of a result, and its series.
#[derive(Clone, Debug)]
pub struct ResultSchema {
    pub subject: Subject,
    pub unit: TimeUnit,
    /// The columns in order; `ts`, and `series` where there are several, come before them.
    pub columns: Vec<ResultColumn>,
    pub numbers: NumberFormat,
    /// Commit of the store that was read.
    pub commit: u64,
}

impl ResultSchema {
    /// Schema of these columns of a series, `None` for all. `dictionaries` are the texts of the series, by column: none
    /// are needed for a schema alone.
    pub fn of(
        def: &SeriesDef,
        dictionaries: &[Dictionary],
        columns: Option<&[usize]>,
        numbers: NumberFormat,
        version: u64,
        commit: u64,
    ) -> Self {
        let all: Vec<usize> = (0..def.columns.len()).collect();
        let columns = columns
            .unwrap_or(&all)
            .iter()
            .filter_map(|position| Some(ResultColumn::of(def.columns.get(*position)?, dictionaries.get(*position))))
            .collect();
        let subject = Subject::One { series: def.key.clone(), version };
        Self { subject, unit: def.unit, columns, numbers, commit }
    }

    /// The keys of all series, where the result has a `series` column.
    pub fn keys(&self) -> Option<&Arc<StringArray>> {
        match &self.subject {
            Subject::One { .. } | Subject::Panel { .. } => None,
            Subject::Many { keys, .. } => Some(keys),
        }
    }

    /// Version of the series, where the result has a single one.
    pub fn version(&self) -> Option<u64> {
        match &self.subject {
            Subject::One { version, .. } => Some(*version),
            Subject::Many { .. } | Subject::Panel { .. } => None,
        }
    }

    /// What was queried: a key, or keys and globs separated by commas.
    pub fn title(&self) -> String {
        match &self.subject {
            Subject::One { series, .. } => series.to_string(),
            Subject::Many { selectors, .. } | Subject::Panel { selectors, .. } => selectors.join(","),
        }
    }

    /// The Arrow schema, with `fastk.series`, `fastk.commit` and, for one series, `fastk.version` in its metadata. Columns of
    /// a panel have `fastk.series` and `fastk.column` in theirs.
    pub fn arrow_schema(&self) -> SchemaRef {
        let mut fields = Vec::with_capacity(self.columns.len() + 2);
        if self.keys().is_some() {
            let words = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
            fields.push(Field::new(SERIES_COLUMN, words, false));
        }
        fields.push(Field::new("ts", timestamp_type(self.unit), false));
        let mut sources = match &self.subject {
            Subject::Panel { sources, .. } => sources.iter(),
            _ => [].iter(),
        };
        fields.extend(self.columns.iter().map(|column| {
            let kind = arrow_type(column.kind, self.numbers);
            let field = Field::new(&column.name, kind, column.nullable);
            let Some(PanelColumn { series, field: name }) = sources.next() else { return field };
            let of = [("fastk.series", series.as_str()), ("fastk.column", name.as_str())];
            field.with_metadata(of.map(|(name, text)| (name.to_owned(), text.to_owned())).into())
        }));
        let mut metadata = HashMap::from([
            ("fastk.series".to_string(), self.title()),
            ("fastk.commit".to_string(), self.commit.to_string()),
        ]);
        metadata.extend(self.version().map(|version| ("fastk.version".to_string(), version.to_string())));
        Arc::new(Schema::new_with_metadata(fields, metadata))
    }

    /// Whether the cells of a block are sent as they are (no conversion by `numbers`).
    pub fn is_plain(&self) -> bool {
        self.conversions().all(|conversion| conversion == Conversion::Keep)
    }

    /// Whether some cells are converted to text.
    pub fn has_numbers_as_text(&self) -> bool {
        self.conversions().any(|conversion| matches!(conversion, Conversion::Text(_)))
    }

    fn conversions(&self) -> impl Iterator<Item = Conversion> + '_ {
        self.columns.iter().map(|column| Conversion::of(column.kind, self.numbers))
    }

    /// The texts of the columns that have a dictionary, in the order of the schema: the column with the series of each
    /// row, then enums and texts.
    pub fn dictionaries(&self) -> impl Iterator<Item = &StringArray> + '_ {
        let labels = self.columns.iter().filter_map(|column| column.labels.as_ref());
        self.keys().map(Arc::as_ref).into_iter().chain(labels.map(Dictionary::labels))
    }

    /// The buffers of the columns of a block under [`ResultSchema::arrow_schema`]. Only converted cells are copied, and
    /// flags that do not start a byte.
    pub fn column_buffers<'a>(&'a self, block: &'a Block) -> impl Iterator<Item = ColumnBuffers> + 'a {
        let series = self.keys().map(|_| ColumnBuffers::of_cells(block.series_indexes().into_inner()));
        let conversions = std::iter::once(Conversion::Keep).chain(self.conversions());
        let columns = block.packed_columns().zip(conversions);
        let converted = move |(cells, conversion): (SharedCells, Conversion)| conversion.apply(&cells, block.rows());
        series.into_iter().chain(columns.map(converted))
    }

    /// The block as an Arrow record batch under [`ResultSchema::arrow_schema`] (passed in, since it is the same for all
    /// blocks).
    ///
    /// # Errors
    /// `corrupt_data` for a cell whose dictionary does not have it; `internal` when the block has other columns.
    pub fn record_batch(&self, schema: &SchemaRef, block: &Block) -> Result<RecordBatch> {
        let rows = block.rows();
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
        let mut dictionaries = self.dictionaries();
        for (field, buffers) in schema.fields().iter().zip(self.column_buffers(block)) {
            let is_dictionary = matches!(field.data_type(), DataType::Dictionary(..));
            let texts = if is_dictionary { dictionaries.next() } else { None };
            let array = array_of(field.data_type(), buffers, rows, texts).map_err(|error| match texts {
                Some(_) => Error::corrupt(format!(
                    "a cell of column {} of {} is not in its dictionary: {error}",
                    field.name(),
                    self.title()
                )),
                None => Error::internal(format!("column {} of {}: {error}", field.name(), self.title())),
            })?;
            arrays.push(array);
        }
        RecordBatch::try_new(schema.clone(), arrays)
            .map_err(|error| Error::internal(format!("block of {} does not fit its schema: {error}", self.title())))
    }

    /// Bytes of the columns of this number of rows as sent, with the offsets and texts of their dictionaries. `None`
    /// where they depend on the cells, or on how these are divided into blocks: numbers as text, `bool`, and columns that
    /// can have nulls.
    pub fn bytes_of(&self, rows: u64) -> Option<u64> {
        let dictionary = |texts: usize, bytes: usize| (texts as u64 + 1) * 4 + bytes as u64;
        let (mut row_bytes, mut once) = (8, 0);
        if let Some(keys) = self.keys() {
            row_bytes += 4;
            once += dictionary(keys.len(), keys.value_data().len());
        }
        for column in &self.columns {
            let layout = column.kind.layout();
            row_bytes += match (Conversion::of(column.kind, self.numbers), layout) {
                (Conversion::Text(_), _) | (_, CellLayout::Flag) => return None,
                _ if column.nullable => return None,
                (Conversion::Keep, CellLayout::Bytes(width)) => u64::from(width),
                (Conversion::Double(_) | Conversion::WideDouble(_), _) => 8,
                (Conversion::Decimal128, _) => 16,
            };
            if let Some(labels) = &column.labels {
                once += dictionary(labels.len(), labels.bytes());
            }
        }
        Some(rows.saturating_mul(row_bytes).saturating_add(once))
    }
}

/// Arrow type of a column under `numbers`.
pub fn arrow_type(kind: ColumnType, numbers: NumberFormat) -> DataType {
    match (Conversion::of(kind, numbers), kind) {
        (Conversion::Double(_) | Conversion::WideDouble(_), _) => DataType::Float64,
        (Conversion::Text(_), _) => DataType::Utf8,
        (Conversion::Decimal128, ColumnType::Decimal { digits }) => {
            DataType::Decimal128(DECIMAL_PRECISION, decimal_scale(digits))
        }
        // The cells stay as they are under another type.
        (_, ColumnType::Decimal { .. }) if numbers == NumberFormat::Raw => DataType::Int64,
        (_, ColumnType::WideDecimal { .. }) if numbers == NumberFormat::Raw => {
            DataType::Decimal128(WIDE_DECIMAL_PRECISION, 0)
        }
        (_, kind) => stored_type(kind),
    }
}

/// A number that is written as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WrittenNumber {
    Int,
    UInt,
    Decimal(u8),
    Wide(u8),
}

/// Conversion of the cells of a column by `numbers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Conversion {
    Keep,
    /// From decimals of this many digits to doubles.
    Double(u8),
    /// From decimals of 16 bytes to doubles.
    WideDouble(u8),
    /// From decimals of 8 to decimals of 16 bytes.
    Decimal128,
    Text(WrittenNumber),
}

impl Conversion {
    fn of(kind: ColumnType, numbers: NumberFormat) -> Self {
        match (numbers, kind) {
            (NumberFormat::Float64, ColumnType::Decimal { digits }) => Self::Double(digits),
            (NumberFormat::Float64, ColumnType::WideDecimal { digits }) => Self::WideDouble(digits),
            (NumberFormat::Decimal128, ColumnType::Decimal { .. }) => Self::Decimal128,
            (NumberFormat::String, ColumnType::Decimal { digits }) => Self::Text(WrittenNumber::Decimal(digits)),
            (NumberFormat::String, ColumnType::WideDecimal { digits }) => Self::Text(WrittenNumber::Wide(digits)),
            (NumberFormat::String, ColumnType::Int64) => Self::Text(WrittenNumber::Int),
            (NumberFormat::String, ColumnType::UInt64) => Self::Text(WrittenNumber::UInt),
            _ => Self::Keep,
        }
    }

    /// The buffers of packed cells.
    fn apply(self, cells: &SharedCells, rows: usize) -> ColumnBuffers {
        let mut buffers = match self {
            Self::Keep => ColumnBuffers::of_cells(cells.buffer().clone()),
            Self::Double(digits) => {
                let mut doubles = Vec::with_capacity(rows);
                number::decimals_to_f64(cells.words(), digits, &mut doubles);
                ColumnBuffers::of_cells(Buffer::from_vec(doubles))
            }
            Self::WideDouble(digits) => {
                let raw = cells.slice(0, rows);
                let doubles = raw.typed::<i128>().iter().map(|raw| wide::wide_to_f64(*raw, digits));
                ColumnBuffers::of_cells(Buffer::from_vec(doubles.collect::<Vec<f64>>()))
            }
            Self::Decimal128 => {
                let raw = cells.words().iter().map(|word| i128::from(*word));
                ColumnBuffers::of_cells(Buffer::from_vec(raw.collect::<Vec<i128>>()))
            }
            Self::Text(text) => text.buffers(cells.slice(0, rows)),
        };
        if let Some(validity) = cells.validity() {
            let valid = BooleanBuffer::new(validity.clone(), 0, rows);
            buffers.nulls = rows - valid.count_set_bits();
            // Chunk files have no bitmap without a null either.
            buffers.validity = (buffers.nulls > 0).then(|| validity.clone());
        }
        buffers
    }
}

impl WrittenNumber {
    /// Offsets and bytes of the texts; those of nulls are empty.
    fn buffers(self, cells: CellSlice<'_>) -> ColumnBuffers {
        let rows = cells.len();
        let mut offsets: Vec<i32> = Vec::with_capacity(rows + 1);
        let mut text: Vec<u8> = Vec::with_capacity(rows * 12);
        offsets.push(0);
        for row in 0..rows {
            if cells.is_valid(row) {
                match self {
                    Self::Int => number::write_i64(&mut text, at(cells.typed(), row)),
                    Self::UInt => wide::write_u64(&mut text, at(cells.typed(), row)),
                    Self::Decimal(digits) => number::write_decimal(&mut text, at(cells.typed(), row), digits),
                    Self::Wide(digits) => wide::write_wide(&mut text, at(cells.typed(), row), digits),
                }
            }
            offsets.push(narrow(text.len()));
        }
        let texts = Some(Buffer::from_vec(text));
        ColumnBuffers { nulls: 0, validity: None, cells: Buffer::from_vec(offsets), texts }
    }
}

/// The buffers of one column of a record batch.
#[derive(Clone, Debug)]
pub struct ColumnBuffers {
    /// Number of nulls.
    pub nulls: usize,
    /// Bits of the rows that are not null; `None` where none is.
    pub validity: Option<Buffer>,
    /// The cells; of texts the offsets.
    pub cells: Buffer,
    /// The bytes of texts.
    pub texts: Option<Buffer>,
}

impl ColumnBuffers {
    fn of_cells(cells: Buffer) -> Self {
        Self { nulls: 0, validity: None, cells, texts: None }
    }

    /// The buffers in the order of a message, the bitmap first; empty without one.
    pub fn into_buffers(self) -> impl Iterator<Item = Buffer> {
        [self.validity.unwrap_or_else(no_bytes), self.cells].into_iter().chain(self.texts)
    }
}

/// A buffer without bytes.
fn no_bytes() -> Buffer {
    MutableBuffer::new(0).into()
}

/// The array of these buffers.
fn array_of(
    kind: &DataType,
    buffers: ColumnBuffers,
    rows: usize,
    texts: Option<&StringArray>,
) -> Result<ArrayRef, ArrowError> {
    let ColumnBuffers { validity, cells, texts: text, .. } = buffers;
    let nulls = validity.map(|valid| NullBuffer::new(BooleanBuffer::new(valid, 0, rows)));
    match kind {
        DataType::Boolean => Ok(Arc::new(BooleanArray::new(BooleanBuffer::new(cells, 0, rows), nulls))),
        DataType::Int8 => primitive::<Int8Type>(kind, cells, rows, nulls),
        DataType::Int16 => primitive::<Int16Type>(kind, cells, rows, nulls),
        DataType::Int32 => primitive::<Int32Type>(kind, cells, rows, nulls),
        DataType::Int64 => primitive::<Int64Type>(kind, cells, rows, nulls),
        DataType::UInt8 => primitive::<UInt8Type>(kind, cells, rows, nulls),
        DataType::UInt16 => primitive::<UInt16Type>(kind, cells, rows, nulls),
        DataType::UInt32 => primitive::<UInt32Type>(kind, cells, rows, nulls),
        DataType::UInt64 => primitive::<UInt64Type>(kind, cells, rows, nulls),
        DataType::Float32 => primitive::<Float32Type>(kind, cells, rows, nulls),
        DataType::Float64 => primitive::<Float64Type>(kind, cells, rows, nulls),
        DataType::Decimal64(..) => primitive::<Decimal64Type>(kind, cells, rows, nulls),
        DataType::Decimal128(..) => primitive::<Decimal128Type>(kind, cells, rows, nulls),
        DataType::Timestamp(ArrowUnit::Second, _) => primitive::<TimestampSecondType>(kind, cells, rows, nulls),
        DataType::Timestamp(ArrowUnit::Millisecond, _) => {
            primitive::<TimestampMillisecondType>(kind, cells, rows, nulls)
        }
        DataType::Timestamp(ArrowUnit::Microsecond, _) => {
            primitive::<TimestampMicrosecondType>(kind, cells, rows, nulls)
        }
        DataType::Timestamp(ArrowUnit::Nanosecond, _) => primitive::<TimestampNanosecondType>(kind, cells, rows, nulls),
        DataType::FixedSizeBinary(length) => {
            Ok(Arc::new(FixedSizeBinaryArray::try_new_with_len(*length, cells, nulls, rows)?))
        }
        DataType::Utf8 => {
            let offsets = OffsetBuffer::new(ScalarBuffer::new(cells, 0, rows + 1));
            Ok(Arc::new(StringArray::try_new(offsets, text.unwrap_or_else(no_bytes), nulls)?))
        }
        DataType::Dictionary(index, _) if **index == DataType::UInt8 => {
            dictionary::<UInt8Type>(cells, rows, nulls, texts)
        }
        DataType::Dictionary(..) => dictionary::<Int32Type>(cells, rows, nulls, texts),
        other => Err(ArrowError::SchemaError(format!("no cells are of type {other}"))),
    }
}

fn primitive<T: ArrowPrimitiveType>(
    kind: &DataType,
    cells: Buffer,
    rows: usize,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef, ArrowError> {
    let array = PrimitiveArray::<T>::try_new(ScalarBuffer::new(cells, 0, rows), nulls)?;
    Ok(Arc::new(array.with_data_type(kind.clone())))
}

fn dictionary<T: ArrowDictionaryKeyType>(
    positions: Buffer,
    rows: usize,
    nulls: Option<NullBuffer>,
    texts: Option<&StringArray>,
) -> Result<ArrayRef, ArrowError> {
    let positions = PrimitiveArray::<T>::try_new(ScalarBuffer::new(positions, 0, rows), nulls)?;
    let texts = texts.ok_or_else(|| ArrowError::SchemaError("a dictionary is missing".into()))?;
    Ok(Arc::new(DictionaryArray::try_new(positions, Arc::new(texts.clone()))?))
}
