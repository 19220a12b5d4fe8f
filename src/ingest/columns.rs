//! Conversion of Arrow record batches to columns of a series.
//!
//! Shared by Arrow streams, Flight and Parquet.

use std::io::Write;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray};
use arrow::datatypes::{
    DataType, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, Float16Type, Float32Type, Float64Type,
    Int8Type, Int16Type, Int32Type, Int64Type, Schema, TimeUnit as ArrowUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};

use crate::error::{Error, ErrorCode, Result};
use crate::types::number::{DECIMAL_LIMIT, NumberError};
use crate::types::{ColumnType, Rounding, SeriesDef, time};

use super::arrow_rows::{ArrowRows, Words};
use super::builder::ColumnBuilder;
use super::cell::{
    CellError, Stored, decimal_cell, decimal_word, double_word, float_cell, float_word, int_cell, int_word,
    number_cell, number_word, raw_wide, raw_word, short_cell, short_word,
};
use super::column_set::ColumnSet;
use super::header::fields_of_header;
use super::memory::DECODED_BYTES_MAX;
use super::options::{DecimalInput, DecodeOptions};
use super::parsed::Part;
use super::string_columns::{add_strings, is_text};

/// Whether an Arrow type has bytes.
pub(super) fn is_binary(kind: &DataType) -> bool {
    matches!(kind, DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_))
}

/// The Arrow types that a field takes, for messages, and whether one of them fits; field 0 is `ts`.
fn fits(def: &SeriesDef, field: usize, kind: &DataType) -> (&'static str, bool) {
    let is_time = matches!(kind, DataType::Timestamp(..) | DataType::Int64);
    let column = field.checked_sub(1).and_then(|column| def.columns.get(column));
    let Some(column) = column else { return ("a timestamp or int64", is_time) };
    let (wanted, fits) = match column.kind {
        ColumnType::Timestamp { .. } => ("a timestamp or int64", is_time),
        ColumnType::Bool => ("a boolean", kind == &DataType::Boolean),
        ColumnType::Enum | ColumnType::Text => {
            let words = match kind {
                DataType::Dictionary(_, words) => words,
                kind => kind,
            };
            ("utf8, large_utf8, utf8_view or a dictionary of those", is_text(words))
        }
        ColumnType::Bytes { .. } => ("a binary type, or utf8 of hexadecimal digits", is_binary(kind) || is_text(kind)),
        _ => ("a decimal, float or integer type", kind.is_numeric()),
    };
    // Nulls alone, of which each row is checked.
    (wanted, fits || kind == &DataType::Null)
}

/// Checks the columns of a schema against the registration and returns the field of each.
///
/// # Errors
/// `schema_mismatch` naming the column.
pub(super) fn check_schema(def: &SeriesDef, schema: &Schema) -> Result<Vec<usize>> {
    let fields = fields_of_header(def, schema.fields().iter().map(|field| field.name().as_str()))?;
    for (field, column) in fields.iter().zip(schema.fields()) {
        let (wanted, fits) = fits(def, *field, column.data_type());
        if !fits {
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
        Self { set: ColumnSet::new(def, options, 0) }
    }

    /// Adds the rows of a batch.
    ///
    /// # Errors
    /// `schema_mismatch`, or `too_large`. Offending rows are collected.
    pub(super) fn add(&mut self, batch: ArrowRows) -> Result<()> {
        let set = &mut self.set;
        let row_count = batch.batch.num_rows();
        let fields = check_schema(set.def, &batch.sent)?;
        check_size(set.def, wide(set.row_base + row_count))?;
        let (_, arrays, _) = batch.batch.into_parts();
        set.absent_columns(&fields, row_count);
        for ((field, array), words) in fields.into_iter().zip(arrays).zip(&batch.words) {
            match field.checked_sub(1) {
                None => add_times(set, array)?,
                Some(column) => add_column(set, column, array, words.as_deref())?,
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

fn wide(row: usize) -> u64 {
    row as u64
}

/// Bytes of the cells of a row, of which a nullable one also has a flag.
pub(super) fn row_bytes(def: &SeriesDef) -> u64 {
    let cells = def.columns.iter().map(|column| column.kind.layout().width() + usize::from(column.nullable));
    wide(cells.sum::<usize>() + size_of::<i64>())
}

/// `too_large` if `rows` rows of the series decode into more than [`DECODED_BYTES_MAX`].
pub(super) fn check_size(def: &SeriesDef, rows: u64) -> Result<()> {
    let bytes = rows.saturating_mul(row_bytes(def));
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

/// Appends an array to a column; `words` are those of a dictionary, whose positions the array has.
fn add_column(set: &mut ColumnSet<'_>, column: usize, array: ArrayRef, words: Option<&Words>) -> Result<()> {
    let Some(kind) = set.def.columns.get(column).map(|column| column.kind) else { return Err(mismatch(&array)) };
    match kind {
        _ if array.data_type() == &DataType::Null => {
            (0..array.len()).for_each(|row| set.missing(row, column + 1));
            Ok(())
        }
        ColumnType::Decimal { .. } | ColumnType::Float64 | ColumnType::Int64 => add_words(set, column, kind, array),
        ColumnType::Bool => add_flags(set, column, &array),
        ColumnType::Timestamp { unit } => add_timestamps(set, column, unit, &array),
        ColumnType::Enum | ColumnType::Text | ColumnType::Bytes { .. } => add_strings(set, column, &array, words),
        _ => add_numbers(set, column, kind, &array),
    }
}

/// Appends an array of flags.
fn add_flags(set: &mut ColumnSet<'_>, column: usize, array: &ArrayRef) -> Result<()> {
    let flags = array.as_boolean_opt().ok_or_else(|| mismatch(array))?;
    if flags.null_count() == 0 {
        set.append_memory(column, array);
        return Ok(());
    }
    for (row, flag) in flags.iter().enumerate() {
        let cell = flag.map(|flag| (Stored::Word(flag.into()), false)).ok_or(CellError::Missing);
        set.cell(row, column, cell, String::new);
    }
    Ok(())
}

/// Appends an array of times to a column of times.
fn add_timestamps(set: &mut ColumnSet<'_>, column: usize, unit: time::TimeUnit, array: &ArrayRef) -> Result<()> {
    let per_second = match array.data_type() {
        DataType::Int64 => unit.per_second(),
        DataType::Timestamp(ArrowUnit::Second, _) => 1,
        DataType::Timestamp(ArrowUnit::Millisecond, _) => 1_000,
        DataType::Timestamp(ArrowUnit::Microsecond, _) => 1_000_000,
        DataType::Timestamp(ArrowUnit::Nanosecond, _) => 1_000_000_000,
        _ => return Err(mismatch(array)),
    };
    let ticks = array.to_data();
    let ticks = PrimitiveArray::<Int64Type>::from(
        ticks
            .into_builder()
            .data_type(DataType::Int64)
            .build()
            .map_err(|error| Error::invalid(format!("arrow body is malformed: {error}")))?,
    );
    let is_same = per_second == unit.per_second();
    let all_in_range = || ticks.values().iter().fold(true, |good, ts| good & time::in_range(*ts, unit));
    if is_same && ticks.null_count() == 0 && all_in_range() {
        set.append_memory(column, array);
        return Ok(());
    }
    for (row, source) in ticks.iter().enumerate() {
        let converted = source.ok_or(CellError::Missing).and_then(|source| {
            // Too far away for the unit, or between two of its ticks.
            let reason = if per_second < unit.per_second() { "time_out_of_range" } else { "bad_time" };
            let ts = if is_same { Some(source) } else { time::convert(source, per_second, unit) };
            let ts = ts.ok_or(CellError::Time(reason))?;
            if time::in_range(ts, unit) { Ok(ts) } else { Err(CellError::Time("time_out_of_range")) }
        });
        let shown = || source.map_or_else(String::new, |source| format!("{source} of {per_second} a second"));
        set.cell(row, column, converted.map(|ts| (Stored::Word(ts), false)), shown);
    }
    Ok(())
}

/// Appends an array to a number column of a type other than those of [`add_words`].
fn add_numbers(set: &mut ColumnSet<'_>, column: usize, kind: ColumnType, array: &ArrayRef) -> Result<()> {
    // Under `numbers=raw` a decimal column takes scaled integers, which must stay below its limit.
    let is_raw = set.options.numbers == DecimalInput::Raw && matches!(kind, ColumnType::WideDecimal { .. });
    let target = if is_raw { ColumnType::WideDecimal { digits: 0 } } else { kind };
    let rounding = set.options.rounding;
    if is_stored_form(array, target) {
        set.append_memory(column, array);
        return Ok(());
    }
    // A fraction of a scaled integer is no digit of the number.
    let check = move |cell: Result<(Stored<'static>, bool), NumberError>| match cell {
        Ok((_, true)) if is_raw && rounding == Rounding::Exact => Err(NumberError::PrecisionLoss),
        cell => cell,
    };
    macro_rules! ints {
        ($kind:ty) => {
            add_array::<$kind>(set, column, array, move |value| int_cell(value.into(), target))
        };
    }
    macro_rules! decimals {
        ($kind:ty, $scale:expr) => {{
            let scale = *$scale;
            let mut text = Vec::new();
            add_array::<$kind>(set, column, array, move |value| {
                decimal_cell(value.to_i128_exact(), scale, target, || {
                    text.clear();
                    // Writing to memory does not fail.
                    let _ = write!(text, "{value}e{}", -i16::from(scale));
                    number_cell(&text, target, DecimalInput::Decimal, rounding)
                })
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
        DataType::UInt64 => ints!(UInt64Type),
        DataType::Float16 => {
            add_array::<Float16Type>(set, column, array, move |value| {
                check(short_cell(value.to_f32(), target, rounding))
            });
        }
        DataType::Float32 => {
            add_array::<Float32Type>(set, column, array, move |value| check(short_cell(value, target, rounding)));
        }
        DataType::Float64 => {
            add_array::<Float64Type>(set, column, array, move |value| check(float_cell(value, target, rounding)));
        }
        DataType::Decimal32(_, scale) => decimals!(Decimal32Type, scale),
        DataType::Decimal64(_, scale) => decimals!(Decimal64Type, scale),
        DataType::Decimal128(_, scale) => decimals!(Decimal128Type, scale),
        DataType::Decimal256(_, scale) => decimals!(Decimal256Type, scale),
        _ => return Err(mismatch(array)),
    }
    Ok(())
}

/// Whether the memory of an array has the cells of a column of this type, none of them null.
fn is_stored_form(array: &ArrayRef, target: ColumnType) -> bool {
    if array.null_count() > 0 {
        return false;
    }
    match (array.data_type(), target) {
        (DataType::Int32, ColumnType::Int32)
        | (DataType::Int16, ColumnType::Int16)
        | (DataType::Int8, ColumnType::Int8)
        | (DataType::UInt64, ColumnType::UInt64)
        | (DataType::UInt32, ColumnType::UInt32)
        | (DataType::UInt16, ColumnType::UInt16)
        | (DataType::UInt8, ColumnType::UInt8) => true,
        (DataType::Float32, ColumnType::Float32) => {
            array.as_primitive::<Float32Type>().values().iter().fold(true, |good, number| good & number.is_finite())
        }
        (DataType::Decimal128(_, scale), ColumnType::WideDecimal { digits })
            if i16::from(*scale) == i16::from(digits) =>
        {
            array.as_primitive::<Decimal128Type>().values().iter().all(|raw| raw_wide(*raw).is_ok())
        }
        _ => false,
    }
}

/// Appends an array to a number column of 8 bytes.
fn add_words(set: &mut ColumnSet<'_>, column: usize, kind: ColumnType, array: ArrayRef) -> Result<()> {
    // Under `numbers=raw` a decimal column takes scaled integers, which must stay below its limit.
    let is_raw = set.options.numbers == DecimalInput::Raw && kind.digits().is_some();
    let target = if is_raw { ColumnType::Int64 } else { kind };
    let rounding = set.options.rounding;
    if are_stored_words(&array, target, is_raw)
        && let Some(column) = set.columns.get_mut(column)
    {
        match column.words() {
            Some(words) => append(words, array),
            None => column.append_memory(&array),
        }
        return Ok(());
    }
    let array = &array;
    let check_limit = move |word: Result<(i64, bool), NumberError>| {
        let (word, rounded) = word?;
        Ok((Stored::Word(if is_raw { raw_word(word)? } else { word }), rounded))
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
            add_array::<UInt64Type>(set, column, array, |value| Ok((Stored::Word(double_word(value as f64)), false)));
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

/// Conversion of a decimal's unscaled integer to fewer bits where it fits.
trait ToExact {
    fn to_i64_exact(self) -> Option<i64>;
    fn to_i128_exact(self) -> Option<i128>;
}

macro_rules! to_exact {
    ($($kind:ty, $value:ident => $wide:expr;)*) => {
        $(impl ToExact for $kind {
            fn to_i64_exact(self) -> Option<i64> {
                self.to_i128_exact()?.try_into().ok()
            }

            fn to_i128_exact(self) -> Option<i128> {
                let $value = self;
                $wide
            }
        })*
    };
}

to_exact! {
    i32, value => Some(value.into());
    i64, value => Some(value.into());
    i128, value => Some(value);
    arrow::datatypes::i256, value => value.to_i128();
}

/// Appends the cells of an array, converted by `cell`.
fn add_array<T: ArrowPrimitiveType>(
    set: &mut ColumnSet<'_>,
    column: usize,
    array: &ArrayRef,
    mut cell: impl FnMut(T::Native) -> Result<(Stored<'static>, bool), NumberError>,
) {
    let array: &PrimitiveArray<T> = array.as_primitive::<T>();
    if let Some(words) = set.columns.get_mut(column).and_then(ColumnBuilder::words) {
        words.reserve(array.len());
    }
    for (row, value) in array.iter().enumerate() {
        let cell = match value.map(&mut cell) {
            None => Err(CellError::Missing),
            // NaN is the only value that differs from itself.
            #[allow(clippy::eq_op, reason = "requests NaN")]
            Some(Err(NumberError::NotFinite)) if value != value => Err(CellError::Nan),
            Some(converted) => converted.map_err(CellError::from),
        };
        // Formatted from the array, so that the message shows the source value.
        set.cell(row, column, cell, || arrow::util::display::array_value_to_string(array, row).unwrap_or_default());
    }
}
