//! Columns of cells, and their conversion from Arrow record batches.
//!
//! Shared by all columnar inputs: `{"columns": …}`, Arrow streams, Flight and Parquet.

use std::io::Write;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray};
use arrow::datatypes::{
    DataType, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, Float16Type, Float32Type, Float64Type,
    Int8Type, Int16Type, Int32Type, Int64Type, Schema, TimeUnit as ArrowUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use arrow::record_batch::RecordBatch;

use crate::error::{Error, ErrorCode, Result};
use crate::types::number::{DECIMAL_LIMIT, NumberError};
use crate::types::{ColumnType, Rows, SeriesDef, time};

use super::cell::{CellValue, decimal_word, double_word, float_word, int_word, number_word, raw_word, short_word};
use super::header::fields_of_header;
use super::memory::DECODED_BYTES_MAX;
use super::options::{DecimalInput, DecodeOptions, MissingCells};
use super::parsed::{ParsedRows, Part};
use super::row_errors::{RowErrors, quote};

/// Columns filled one after the other, block by block. A bad cell is stored as 0, so that positions stay aligned.
pub(super) struct ColumnSet<'a> {
    pub(super) def: &'a SeriesDef,
    pub(super) options: &'a DecodeOptions,
    pub(super) ts: Vec<i64>,
    columns: Vec<Vec<i64>>,
    rounded: Vec<u64>,
    errors: RowErrors,
    /// Number of rows in earlier blocks.
    row_base: usize,
    /// Rows with a missing value under `missing=skip`, in any order.
    missing: Vec<usize>,
    rounded_rows: Vec<(usize, usize)>,
}

fn wide(row: usize) -> u64 {
    row as u64
}

impl<'a> ColumnSet<'a> {
    pub(super) fn new(def: &'a SeriesDef, options: &'a DecodeOptions) -> Self {
        let column_count = def.columns.len();
        Self {
            def,
            options,
            ts: Vec::new(),
            columns: vec![Vec::new(); column_count],
            rounded: vec![0; column_count],
            errors: RowErrors::default(),
            row_base: 0,
            missing: Vec::new(),
            rounded_rows: Vec::new(),
        }
    }

    /// Position in the body of a row of this block.
    fn row(&self, row: usize) -> u64 {
        wide(self.row_base + row)
    }

    /// Records a timestamp that cannot be stored.
    pub(super) fn bad_time(&mut self, row: usize, reason: &str, shown: impl FnOnce() -> String) {
        let row = self.row(row);
        self.errors.add_time(self.def, row, reason, shown);
        self.ts.push(0);
    }

    /// Appends the next cell of a column.
    pub(super) fn cell(&mut self, row: usize, column: usize, cell: CellValue, shown: impl FnOnce() -> String) {
        let word = match cell {
            CellValue::Word(word, rounded) => {
                if rounded {
                    if let Some(count) = self.rounded.get_mut(column) {
                        *count += 1;
                    }
                    if self.options.missing == MissingCells::Skip && self.columns.len() > 1 {
                        self.rounded_rows.push((self.row_base + row, column));
                    }
                }
                word
            }
            CellValue::Missing { .. } if self.options.missing == MissingCells::Skip => {
                self.missing.push(self.row_base + row);
                0
            }
            bad => {
                let row = self.row(row);
                self.errors.add_cell(self.def, row, column, bad, shown);
                0
            }
        };
        if let Some(words) = self.columns.get_mut(column) {
            words.push(word);
        }
    }

    /// Records a cell that is neither number nor text.
    pub(super) fn wrong_type(&mut self, row: usize, field: usize, shown: &[u8]) {
        let at = self.row(row);
        self.errors.add(self.def, at, field, "wrong_type", |name| {
            format!("{name} {} is neither a number nor a string", quote(shown))
        });
        match field.checked_sub(1) {
            None => self.ts.push(0),
            Some(column) => self.columns.get_mut(column).map_or((), |words| words.push(0)),
        }
    }

    /// Ends a block of `rows` rows; every column must have grown by that many cells.
    pub(super) fn end_block(&mut self, rows: usize) {
        self.row_base += rows;
    }

    /// Records the notation of a timestamp.
    pub(super) fn record_notation(&mut self, written: time::TimeNotation) {
        self.errors.record_notation(written);
    }

    /// The rows, without those that lack a value, and their errors.
    pub(super) fn into_parts(mut self) -> Part {
        self.missing.sort_unstable();
        self.missing.dedup();
        if !self.missing.is_empty() {
            for (row, column) in &self.rounded_rows {
                if self.missing.binary_search(row).is_ok()
                    && let Some(count) = self.rounded.get_mut(*column)
                {
                    *count -= 1;
                }
            }
            drop_rows(&mut self.ts, &self.missing);
            for column in &mut self.columns {
                drop_rows(column, &self.missing);
            }
        }
        let parsed = ParsedRows {
            rows: Rows::new(self.ts, self.columns.into_iter().map(Into::into).collect()),
            skipped: wide(self.missing.len()),
            rounded: self.rounded,
            skipped_rows: self.missing.iter().copied().map(wide).collect(),
            phase_pending: Vec::new(),
        };
        (parsed, self.errors)
    }
}

/// Removes the cells at these positions, which ascend.
fn drop_rows(cells: &mut Vec<i64>, dropped: &[usize]) {
    let mut dropped = dropped.iter().copied().peekable();
    let mut at = 0;
    cells.retain(|_| {
        let is_dropped = dropped.next_if_eq(&at).is_some();
        at += 1;
        !is_dropped
    });
}

/// Whether an Arrow type can fill a field; field 0 is `ts`.
fn fits(field: usize, kind: &DataType) -> bool {
    if field == 0 {
        return matches!(kind, DataType::Timestamp(..) | DataType::Int64);
    }
    kind.is_numeric()
}

/// Checks the columns of a schema against the registration and returns the field of each.
///
/// # Errors
/// `schema_mismatch` naming the column.
pub(super) fn check_schema(def: &SeriesDef, schema: &Schema) -> Result<Vec<usize>> {
    let fields = fields_of_header(def, schema.fields().iter().map(|field| field.name().as_str()))?;
    for (field, column) in fields.iter().zip(schema.fields()) {
        if !fits(*field, column.data_type()) {
            let wanted = if *field == 0 { "a timestamp or int64" } else { "a decimal, float or integer type" };
            return Err(Error::new(
                ErrorCode::SchemaMismatch,
                format!("column {} is {}, not {wanted}", column.name(), column.data_type()),
            ));
        }
    }
    Ok(fields)
}

/// Converts record batches to columns.
pub(super) struct ColumnReader<'a> {
    set: ColumnSet<'a>,
}

impl<'a> ColumnReader<'a> {
    pub(super) fn new(def: &'a SeriesDef, options: &'a DecodeOptions) -> Self {
        Self { set: ColumnSet::new(def, options) }
    }

    /// Adds the rows of a batch.
    ///
    /// # Errors
    /// `schema_mismatch`, or `too_large`. Offending rows are collected.
    pub(super) fn add(&mut self, batch: RecordBatch) -> Result<()> {
        let set = &mut self.set;
        let (schema, arrays, row_count) = batch.into_parts();
        let fields = check_schema(set.def, &schema)?;
        check_size(set.def, wide(set.row_base + row_count))?;
        for (field, array) in fields.into_iter().zip(arrays) {
            match field.checked_sub(1) {
                None => add_times(set, array)?,
                Some(column) => add_numbers(set, column, array)?,
            }
        }
        set.end_block(row_count);
        Ok(())
    }

    /// Number of cell errors collected.
    pub(super) fn error_count(&self) -> usize {
        self.set.errors.len()
    }

    pub(super) fn into_parts(self) -> Part {
        self.set.into_parts()
    }
}

/// `too_large` if `rows` rows of the series decode into more than [`DECODED_BYTES_MAX`].
pub(super) fn check_size(def: &SeriesDef, rows: u64) -> Result<()> {
    let bytes = rows.saturating_mul(8 * wide(def.columns.len() + 1));
    if bytes > DECODED_BYTES_MAX {
        return Err(Error::new(
            ErrorCode::TooLarge,
            format!("the body decodes into {bytes} bytes of cells, more than {DECODED_BYTES_MAX}"),
        )
        .with_hint("split it into several bodies"));
    }
    Ok(())
}

fn mismatch(array: &ArrayRef) -> Error {
    Error::new(ErrorCode::SchemaMismatch, format!("{} is not a type that this column accepts", array.data_type()))
}

/// Appends an array to `ts`.
fn add_times(set: &mut ColumnSet<'_>, array: ArrayRef) -> Result<()> {
    match array.data_type() {
        DataType::Int64 => add_time_array::<Int64Type>(set, array, set.def.unit.per_second()),
        DataType::Timestamp(ArrowUnit::Second, _) => add_time_array::<TimestampSecondType>(set, array, 1),
        DataType::Timestamp(ArrowUnit::Millisecond, _) => {
            add_time_array::<TimestampMillisecondType>(set, array, 1_000);
        }
        DataType::Timestamp(ArrowUnit::Microsecond, _) => {
            add_time_array::<TimestampMicrosecondType>(set, array, 1_000_000);
        }
        DataType::Timestamp(ArrowUnit::Nanosecond, _) => {
            add_time_array::<TimestampNanosecondType>(set, array, 1_000_000_000);
        }
        _ => return Err(mismatch(&array)),
    }
    Ok(())
}

/// Appends the 64-bit cells of an array. An empty column reuses the memory of an array without other owners.
fn append(column: &mut Vec<i64>, array: ArrayRef) {
    let data = array.to_data();
    drop(array);
    let (offset, length) = (data.offset(), data.len());
    let Some(buffer) = data.buffers().first().cloned() else { return };
    drop(data);
    let words = buffer.typed_data::<i64>();
    if column.is_empty() && offset == 0 && words.len() == length {
        *column = buffer.into_vec().unwrap_or_else(|shared| shared.typed_data().to_vec());
    } else {
        column.extend_from_slice(words.get(offset..offset + length).unwrap_or_default());
    }
}

fn add_time_array<T: ArrowPrimitiveType<Native = i64>>(set: &mut ColumnSet<'_>, array: ArrayRef, per_second: i64) {
    let unit = set.def.unit;
    // Writers often set a wrong unit in Arrow timestamps, so their unit is checked like that of integers.
    set.record_notation(time::TimeNotation::Epoch);
    let times = array.as_primitive::<T>();
    if times.null_count() == 0 && per_second == unit.per_second() {
        let is_good = times.values().iter().fold(true, |good, ts| good & time::in_range(*ts, unit));
        if is_good {
            append(&mut set.ts, array);
            return;
        }
    }
    set.ts.reserve(times.len());
    for (row, cell) in times.iter().enumerate() {
        let Some(source) = cell else {
            set.bad_time(row, "missing", String::new);
            continue;
        };
        let converted =
            if per_second == unit.per_second() { Some(source) } else { time::convert(source, per_second, unit) };
        match converted {
            Some(ts) if time::in_range(ts, unit) => set.ts.push(ts),
            Some(ts) => set.bad_time(row, "time_out_of_range", || ts.to_string()),
            // Too far away for the unit, or between two of its ticks.
            None if per_second < unit.per_second() => {
                set.bad_time(row, "time_out_of_range", || format!("{source} of {per_second} a second"));
            }
            None => set.bad_time(row, "bad_time", || format!("{source} of {per_second} a second")),
        }
    }
}

/// Appends an array to a number column.
fn add_numbers(set: &mut ColumnSet<'_>, column: usize, array: ArrayRef) -> Result<()> {
    let Some(kind) = set.def.columns.get(column).map(|column| column.kind) else { return Err(mismatch(&array)) };
    // Under `numbers=raw` a decimal column takes scaled integers, which must stay below its limit.
    let is_raw = set.options.numbers == DecimalInput::Raw && kind.digits().is_some();
    let target = if is_raw { ColumnType::Int64 } else { kind };
    let rounding = set.options.rounding;
    if are_stored_words(&array, target, is_raw)
        && let Some(column) = set.columns.get_mut(column)
    {
        append(column, array);
        return Ok(());
    }
    let array = &array;
    let check_limit = move |word: Result<(i64, bool), NumberError>| match word {
        Ok((word, rounded)) if is_raw => raw_word(word).map(|word| (word, rounded)),
        word => word,
    };
    macro_rules! ints {
        ($kind:ty) => {
            add_array::<$kind>(set, column, array, move |value| {
                check_limit(
                    i64::try_from(value).map_err(|_| NumberError::Overflow).and_then(|value| int_word(value, target)),
                )
            })
        };
    }
    macro_rules! decimals {
        ($kind:ty, $scale:expr) => {{
            let scale = *$scale;
            let mut text = Vec::new();
            add_array::<$kind>(set, column, array, move |value| {
                check_limit(decimal_word(value.to_i64_exact(), scale, target, || {
                    text.clear();
                    // Writing to memory does not fail.
                    let _ = write!(text, "{value}e{}", -i16::from(scale));
                    number_word(&text, target, DecimalInput::Decimal, rounding)
                }))
            })
        }};
    }
    match array.data_type() {
        DataType::Int8 => ints!(Int8Type),
        DataType::Int16 => ints!(Int16Type),
        DataType::Int32 => ints!(Int32Type),
        DataType::Int64 => ints!(Int64Type),
        DataType::UInt8 => ints!(UInt8Type),
        DataType::UInt16 => ints!(UInt16Type),
        DataType::UInt32 => ints!(UInt32Type),
        // A double column also takes integers above the signed 64-bit range.
        DataType::UInt64 if target == ColumnType::Float64 => {
            #[allow(clippy::cast_precision_loss, reason = "the nearest double is requested")]
            add_array::<UInt64Type>(set, column, array, |value| Ok((double_word(value as f64), false)));
        }
        DataType::UInt64 => ints!(UInt64Type),
        DataType::Float16 => {
            add_array::<Float16Type>(set, column, array, move |value| {
                check_limit(short_word(value.to_f32(), target, rounding))
            });
        }
        DataType::Float32 => {
            add_array::<Float32Type>(set, column, array, move |value| check_limit(short_word(value, target, rounding)));
        }
        DataType::Float64 => {
            add_array::<Float64Type>(set, column, array, move |value| check_limit(float_word(value, target, rounding)));
        }
        DataType::Decimal32(_, scale) => decimals!(Decimal32Type, scale),
        DataType::Decimal64(_, scale) => decimals!(Decimal64Type, scale),
        DataType::Decimal128(_, scale) => decimals!(Decimal128Type, scale),
        DataType::Decimal256(_, scale) => decimals!(Decimal256Type, scale),
        _ => return Err(mismatch(array)),
    }
    Ok(())
}

/// Whether all cells of an array already have the stored form; otherwise each is converted.
fn are_stored_words(array: &ArrayRef, target: ColumnType, is_raw: bool) -> bool {
    if array.null_count() > 0 {
        return false;
    }
    // No early exit, so that the loop is vectorized.
    let all = |words: &[i64], is_good: fn(i64) -> bool| words.iter().fold(true, |good, word| good & is_good(*word));
    let is_decimal = |word: i64| word.unsigned_abs() < DECIMAL_LIMIT.unsigned_abs();
    match (array.data_type(), target) {
        (DataType::Float64, ColumnType::Float64) => {
            array.as_primitive::<Float64Type>().values().iter().fold(true, |good, number| good & number.is_finite())
        }
        (DataType::Int64, ColumnType::Int64) => !is_raw || all(array.as_primitive::<Int64Type>().values(), is_decimal),
        (DataType::Decimal64(_, scale), ColumnType::Decimal { digits }) if i16::from(*scale) == i16::from(digits) => {
            all(array.as_primitive::<Decimal64Type>().values(), is_decimal)
        }
        _ => false,
    }
}

/// Conversion of a decimal's unscaled integer to 64 bits where it fits.
trait ToI64Exact {
    fn to_i64_exact(self) -> Option<i64>;
}

impl ToI64Exact for i32 {
    fn to_i64_exact(self) -> Option<i64> {
        Some(self.into())
    }
}

impl ToI64Exact for i64 {
    fn to_i64_exact(self) -> Option<i64> {
        Some(self)
    }
}

impl ToI64Exact for i128 {
    fn to_i64_exact(self) -> Option<i64> {
        self.try_into().ok()
    }
}

impl ToI64Exact for arrow::datatypes::i256 {
    fn to_i64_exact(self) -> Option<i64> {
        self.to_i128()?.try_into().ok()
    }
}

/// Appends the cells of an array, converted by `word`.
fn add_array<T: ArrowPrimitiveType>(
    set: &mut ColumnSet<'_>,
    column: usize,
    array: &ArrayRef,
    mut word: impl FnMut(T::Native) -> Result<(i64, bool), NumberError>,
) {
    let array: &PrimitiveArray<T> = array.as_primitive::<T>();
    if let Some(words) = set.columns.get_mut(column) {
        words.reserve(array.len());
    }
    for (row, value) in array.iter().enumerate() {
        let cell = match value.map(&mut word) {
            None => CellValue::Missing { nan: false },
            Some(Ok((word, rounded))) => CellValue::Word(word, rounded),
            // NaN is the only value that differs from itself.
            #[allow(clippy::eq_op, reason = "requests NaN")]
            Some(Err(NumberError::NotFinite)) if value != value => CellValue::Missing { nan: true },
            Some(Err(error)) => CellValue::Bad(error),
        };
        // Formatted from the array, so that the message shows the source value.
        set.cell(row, column, cell, || arrow::util::display::array_value_to_string(array, row).unwrap_or_default());
    }
}
