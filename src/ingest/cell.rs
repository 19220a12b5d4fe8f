//! The stored word of a cell in text form.

use super::options::{DecimalInput, DecodeOptions};
use crate::types::number::{DECIMAL_LIMIT, NumberError, parse_decimal, parse_f64, parse_integer};
use crate::types::{ColumnType, Rounding};

/// Result of converting a source cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CellValue {
    /// The stored word, and whether digits were lost.
    Word(i64, bool),
    /// Null or NaN.
    Missing { nan: bool },
    /// The cell cannot be stored, with the reason.
    Bad(NumberError),
}

/// Stored word of a double.
pub(super) fn double_word(value: f64) -> i64 {
    value.to_bits().cast_signed()
}

/// Stored word of a decimal column for a scaled integer.
pub(super) fn raw_word(raw: i64) -> Result<i64, NumberError> {
    if raw.unsigned_abs() < DECIMAL_LIMIT.unsigned_abs() { Ok(raw) } else { Err(NumberError::Overflow) }
}

/// Stored word of a number in text form, and whether digits were lost.
pub(super) fn number_word(
    text: &[u8],
    kind: ColumnType,
    numbers: DecimalInput,
    rounding: Rounding,
) -> Result<(i64, bool), NumberError> {
    match (kind, numbers) {
        (ColumnType::Decimal { digits }, DecimalInput::Decimal) => {
            parse_decimal(text, digits, rounding).map(|fixed| (fixed.raw, fixed.rounded))
        }
        (ColumnType::Decimal { .. }, DecimalInput::Raw) => {
            let fixed = parse_integer(text, rounding)?;
            raw_word(fixed.raw).map(|raw| (raw, fixed.rounded))
        }
        (ColumnType::Float64, _) => parse_f64(text).map(|value| (double_word(value), false)),
        (ColumnType::Int64, _) => parse_integer(text, rounding).map(|fixed| (fixed.raw, fixed.rounded)),
    }
}

/// Converts a number cell in text form; empty text is a missing value.
pub(super) fn text_cell(text: &[u8], kind: ColumnType, options: &DecodeOptions) -> CellValue {
    match number_word(text, kind, options.numbers, options.rounding) {
        Ok((word, rounded)) => CellValue::Word(word, rounded),
        Err(NumberError::NotANumber) if text.is_empty() => CellValue::Missing { nan: false },
        Err(NumberError::NotFinite) if is_nan(text) => CellValue::Missing { nan: true },
        Err(error) => CellValue::Bad(error),
    }
}

fn is_nan(text: &[u8]) -> bool {
    let unsigned = text.strip_prefix(b"-").or(text.strip_prefix(b"+")).unwrap_or(text);
    unsigned.eq_ignore_ascii_case(b"nan")
}
