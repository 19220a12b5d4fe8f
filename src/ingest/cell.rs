//! The stored word of a cell: text, an integer, a decimal or a double.

use std::io::Write;

use super::options::{DecimalInput, DecodeOptions};
use crate::types::number::{
    DECIMAL_LIMIT, NumberError, decimal_to_f64, f64_to_decimal, parse_decimal, parse_f64, parse_integer, rescale,
    write_decimal, write_f64, write_i64,
};
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
        _ => Err(NumberError::NotANumber),
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

/// The word of an integer.
pub(super) fn int_word(value: i64, target: ColumnType) -> Result<(i64, bool), NumberError> {
    let word = match target {
        ColumnType::Int64 => value,
        ColumnType::Float64 => double_word(decimal_to_f64(value, 0)),
        ColumnType::Decimal { digits } => rescale(value, 0, digits).ok_or(NumberError::Overflow)?,
        _ => return Err(NumberError::NotANumber),
    };
    Ok((word, false))
}

/// The word of a decimal: by rescaling where that is exact, else by `slow` from its text.
pub(super) fn decimal_word(
    raw: Option<i64>,
    scale: i8,
    target: ColumnType,
    slow: impl FnOnce() -> Result<(i64, bool), NumberError>,
) -> Result<(i64, bool), NumberError> {
    let (Some(raw), Ok(scale)) = (raw, u8::try_from(scale)) else { return slow() };
    match target {
        ColumnType::Decimal { digits } => match rescale(raw, scale, digits) {
            Some(word) => Ok((word, false)),
            None => slow(),
        },
        ColumnType::Float64 => Ok((double_word(decimal_to_f64(raw, scale)), false)),
        ColumnType::Int64 if scale == 0 => Ok((raw, false)),
        _ => slow(),
    }
}

/// The word of a double. `rounding` applies to integer columns: decimal columns always take the nearest decimal.
pub(super) fn float_word(value: f64, target: ColumnType, rounding: Rounding) -> Result<(i64, bool), NumberError> {
    if !value.is_finite() {
        return Err(NumberError::NotFinite);
    }
    match target {
        ColumnType::Float64 => Ok((double_word(value), false)),
        ColumnType::Decimal { digits } => f64_to_decimal(value, digits).map(|fixed| (fixed.raw, fixed.rounded)),
        ColumnType::Int64 => {
            let is_rounded = value.fract() != 0.0;
            if is_rounded && rounding == Rounding::Exact {
                return Err(NumberError::PrecisionLoss);
            }
            let value = value.round_ties_even();
            // -2^63 is a double, 2^63 the first one beyond.
            if !(-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&value) {
                return Err(NumberError::Overflow);
            }
            #[allow(clippy::cast_possible_truncation, reason = "an integer in range")]
            Ok((value as i64, is_rounded))
        }
        _ => Err(NumberError::NotANumber),
    }
}

/// The word of a float of 32 bits or less: a decimal is parsed from the float's own shortest form, not from that of the
/// double it widens to.
pub(super) fn short_word(value: f32, target: ColumnType, rounding: Rounding) -> Result<(i64, bool), NumberError> {
    match target {
        ColumnType::Decimal { digits } if value.is_finite() => {
            let mut text = [0_u8; 64];
            let mut rest = text.as_mut_slice();
            // The longest form of an f32 in scientific notation has 15 bytes.
            if write!(rest, "{value:e}").is_err() {
                return Err(NumberError::NotANumber);
            }
            let unused = rest.len();
            let used = text.len() - unused;
            let text = text.get(..used).unwrap_or_default();
            parse_decimal(text, digits, Rounding::Nearest).map(|fixed| (fixed.raw, fixed.rounded))
        }
        _ => float_word(f64::from(value), target, rounding),
    }
}

/// A stored word as text.
pub fn show_word(word: i64, kind: ColumnType) -> String {
    let double = f64::from_bits(word.cast_unsigned());
    let mut out = Vec::new();
    match kind {
        ColumnType::Decimal { digits } => write_decimal(&mut out, word, digits),
        ColumnType::Float64 if double.is_finite() => write_f64(&mut out, double),
        ColumnType::Float64 => out.extend_from_slice(double.to_string().as_bytes()),
        _ => write_i64(&mut out, word),
    }
    String::from_utf8_lossy(&out).into_owned()
}
