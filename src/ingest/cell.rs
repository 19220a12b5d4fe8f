//! The stored form of a cell: from text, an integer, a decimal or a double.

use std::io::Write;

use super::options::{DecimalInput, DecodeOptions};
use crate::types::dictionary::TEXT_BYTES_MAX;
use crate::types::number::{
    DECIMAL_LIMIT, NumberError, WIDE_DECIMAL_LIMIT, decimal_to_f64, f64_to_decimal, f64_to_wide_decimal, parse_decimal,
    parse_f32, parse_f64, parse_integer, parse_wide_decimal, rescale, rescale_wide, write_decimal, write_f64,
    write_i64,
};
use crate::types::time::{parse_cell, rfc3339};
use crate::types::width::to_usize;
use crate::types::{CellSlice, Column, ColumnType, Dictionary, Rounding};

/// A cell in stored form that is not null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored<'t> {
    /// A cell of up to 8 bytes, in the low bytes: an integer or a time, the bits of a float, a flag, the position of an
    /// enum value.
    Word(i64),
    /// A cell of 16 bytes.
    Wide(i128),
    Text(&'t str),
    /// The bytes of a cell as hexadecimal digits, two for each.
    Hex(&'t [u8]),
    Bytes(&'t [u8]),
}

/// Why a cell is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CellError {
    /// Null, or an empty cell of CSV.
    Missing,
    /// NaN, which counts as missing where rows without a value are left out.
    Nan,
    Number(NumberError),
    /// `bad_time` or `time_out_of_range`.
    Time(&'static str),
    /// Neither true nor false.
    NotABool,
    /// A number or a flag in a column of text.
    NotAText,
    /// A text that the enum does not list.
    UnknownValue,
    /// A position beyond the texts of the rows.
    UnknownText,
    /// A text with NUL or invalid UTF-8.
    BadText,
    TooLong,
    /// One different text too many.
    DictionaryFull,
    /// Not as many bytes as the column has, or no hexadecimal digits.
    BadBytes,
}

impl From<NumberError> for CellError {
    fn from(error: NumberError) -> Self {
        Self::Number(error)
    }
}

impl CellError {
    /// The stable `reason` of a row error.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Nan => NumberError::NotFinite.reason(),
            Self::Number(error) => error.reason(),
            Self::Time(reason) => reason,
            Self::NotABool | Self::NotAText => "wrong_type",
            Self::UnknownValue | Self::UnknownText => "unknown_value",
            Self::BadText => "bad_text",
            Self::TooLong => "too_long",
            Self::DictionaryFull => "dictionary_full",
            Self::BadBytes => "bad_bytes",
        }
    }

    /// What is wrong with a cell of a column, after its name and text.
    pub(super) fn sentence(self, column: &Column) -> String {
        match (self, column.kind) {
            (Self::Missing, _) => "is missing".into(),
            (Self::Nan | Self::Number(NumberError::NotFinite), _) => "is not a finite number".into(),
            (Self::Number(NumberError::NotANumber), _) => "is not a number".into(),
            (
                Self::Number(NumberError::PrecisionLoss),
                ColumnType::Decimal { digits } | ColumnType::WideDecimal { digits },
            ) => format!("has more than {digits} digits after the point"),
            (Self::Number(NumberError::PrecisionLoss), ColumnType::Float32) => "is not exact as float32".into(),
            (Self::Number(NumberError::PrecisionLoss), _) => "is not an integer".into(),
            (Self::Number(NumberError::Overflow), ColumnType::Decimal { digits }) => {
                format!("does not fit 18 digits, {digits} of them after the point")
            }
            (Self::Number(NumberError::Overflow), ColumnType::WideDecimal { digits }) => {
                format!("does not fit 38 digits, {digits} of them after the point")
            }
            (Self::Number(NumberError::Overflow), ColumnType::Float64 | ColumnType::Int64) => "is out of range".into(),
            (Self::Number(NumberError::Overflow), kind) => format!("is out of the range of {}", kind.text()),
            (Self::Time("time_out_of_range"), ColumnType::Timestamp { unit }) => {
                format!("is outside 1678-01-01 to 2261-12-31 as an epoch in {}", unit.name())
            }
            (Self::Time(_), ColumnType::Timestamp { unit }) => format!("is not a time in whole {}", unit.name()),
            (Self::Time(_), _) => "is not a time".into(),
            (Self::NotABool, _) => "is neither true nor false".into(),
            (Self::NotAText, _) => "is not a string".into(),
            (Self::UnknownValue, _) => format!("is not one of {}", list_values(&column.values)),
            (Self::UnknownText, _) => "is not one of the texts of the rows".into(),
            (Self::BadText, _) => "is not UTF-8, or has a NUL".into(),
            (Self::TooLong, _) => format!("is longer than {TEXT_BYTES_MAX} bytes"),
            (Self::DictionaryFull, _) => "is one different text too many for the column".into(),
            (Self::BadBytes, ColumnType::Bytes { length }) => {
                format!("is not {length} bytes, as text {} hexadecimal digits", 2 * u32::from(length))
            }
            (Self::BadBytes, _) => "is not a number of bytes".into(),
        }
    }
}

/// The first values of an enum.
fn list_values(values: &[String]) -> String {
    const SHOWN: usize = 20;
    let mut list: Vec<&str> = values.iter().take(SHOWN).map(String::as_str).collect();
    if values.len() > SHOWN {
        list.push("…");
    }
    list.join(", ")
}

/// How the text of a cell is written in its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextForm {
    /// A number or `true` or `false` of JSON, without quotes.
    Bare,
    /// A string of JSON or a cell of CSV.
    String,
}

/// A column, and the positions of its values by text where it is an enum.
#[derive(Clone, Debug)]
pub(super) struct ColumnReading<'a> {
    pub(super) column: &'a Column,
    /// The values in the order of their bytes, and their positions.
    values: Vec<(&'a [u8], u8)>,
}

impl<'a> ColumnReading<'a> {
    pub(super) fn new(column: &'a Column) -> Self {
        let mut values: Vec<(&[u8], u8)> = column.values.iter().map(String::as_bytes).zip(0..=u8::MAX).collect();
        values.sort_unstable();
        Self { column, values }
    }

    /// Stored form of a cell in text form, and whether digits were lost.
    #[inline]
    pub(super) fn text<'t>(
        &self,
        text: &'t [u8],
        form: TextForm,
        options: &DecodeOptions,
    ) -> Result<(Stored<'t>, bool), CellError> {
        let kind = self.column.kind;
        let read = match kind {
            ColumnType::Decimal { .. } | ColumnType::Float64 | ColumnType::Int64 => {
                number_word(text, kind, options.numbers, options.rounding)
                    .map(|(word, rounded)| (Stored::Word(word), rounded))
            }
            _ => return self.other_text(text, form, options),
        };
        read.map_err(|error| number_error(error, text))
    }

    fn other_text<'t>(
        &self,
        text: &'t [u8],
        form: TextForm,
        options: &DecodeOptions,
    ) -> Result<(Stored<'t>, bool), CellError> {
        let stored = match self.column.kind {
            ColumnType::Bool => Stored::Word(flag(text).ok_or(CellError::NotABool)?.into()),
            ColumnType::Timestamp { unit } => Stored::Word(parse_cell(text, unit).map_err(CellError::Time)?),
            ColumnType::Enum | ColumnType::Text | ColumnType::Bytes { .. } if form == TextForm::Bare => {
                return Err(CellError::NotAText);
            }
            ColumnType::Enum => Stored::Word(self.value(text)?.into()),
            ColumnType::Text => Stored::Text(open_text(text)?),
            ColumnType::Bytes { length } => {
                let is_hex = text.len() == 2 * to_usize(length) && text.iter().all(u8::is_ascii_hexdigit);
                if is_hex { Stored::Hex(text) } else { return Err(CellError::BadBytes) }
            }
            kind => {
                return number_cell(text, kind, options.numbers, options.rounding)
                    .map_err(|error| number_error(error, text));
            }
        };
        Ok((stored, false))
    }

    /// Position of a value of an enum.
    pub(super) fn value(&self, text: &[u8]) -> Result<u8, CellError> {
        let found = self.values.binary_search_by_key(&text, |(value, _)| *value);
        let found = found.ok().and_then(|at| self.values.get(at));
        found.map(|(_, position)| *position).ok_or(CellError::UnknownValue)
    }
}

/// The text of a column of texts.
pub(super) fn open_text(text: &[u8]) -> Result<&str, CellError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(CellError::TooLong);
    }
    std::str::from_utf8(text).ok().filter(|text| !text.contains('\0')).ok_or(CellError::BadText)
}

/// A flag in text form.
fn flag(text: &[u8]) -> Option<bool> {
    let is = |words: &[&str]| words.iter().any(|word| text.eq_ignore_ascii_case(word.as_bytes()));
    if is(&["true", "t", "1"]) {
        return Some(true);
    }
    is(&["false", "f", "0"]).then_some(false)
}

fn number_error(error: NumberError, text: &[u8]) -> CellError {
    match error {
        NumberError::NotFinite if is_nan(text) => CellError::Nan,
        error => CellError::Number(error),
    }
}

fn is_nan(text: &[u8]) -> bool {
    let unsigned = text.strip_prefix(b"-").or(text.strip_prefix(b"+")).unwrap_or(text);
    unsigned.eq_ignore_ascii_case(b"nan")
}

/// Stored word of a double.
pub(super) fn double_word(value: f64) -> i64 {
    value.to_bits().cast_signed()
}

/// Stored word of a float of 32 bits.
pub(super) fn float32_word(value: f32) -> i64 {
    value.to_bits().into()
}

/// Stored word of a decimal column for a scaled integer.
pub(super) fn raw_word(raw: i64) -> Result<i64, NumberError> {
    if raw.unsigned_abs() < DECIMAL_LIMIT.unsigned_abs() { Ok(raw) } else { Err(NumberError::Overflow) }
}

/// Stored cell of a decimal column of 16 bytes for a scaled integer.
pub(super) fn raw_wide(raw: i128) -> Result<i128, NumberError> {
    if raw.unsigned_abs() < WIDE_DECIMAL_LIMIT.unsigned_abs() { Ok(raw) } else { Err(NumberError::Overflow) }
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

/// Stored form of a number of any type in text form, and whether digits were lost.
pub(super) fn number_cell(
    text: &[u8],
    kind: ColumnType,
    numbers: DecimalInput,
    rounding: Rounding,
) -> Result<(Stored<'static>, bool), NumberError> {
    let wide = |digits: u8| parse_wide_decimal(text, digits, rounding);
    match (kind, numbers) {
        (ColumnType::Decimal { .. } | ColumnType::Float64 | ColumnType::Int64, _) => {
            number_word(text, kind, numbers, rounding).map(|(word, rounded)| (Stored::Word(word), rounded))
        }
        (ColumnType::WideDecimal { digits }, DecimalInput::Decimal) => {
            wide(digits).map(|(raw, rounded)| (Stored::Wide(raw), rounded))
        }
        (ColumnType::WideDecimal { .. }, DecimalInput::Raw) => {
            wide(0).map(|(raw, rounded)| (Stored::Wide(raw), rounded))
        }
        (ColumnType::Float32, _) => parse_f32(text).map(|value| (Stored::Word(float32_word(value)), false)),
        (kind, _) => {
            // The range comes first: a fraction beyond it is out of range under every rounding.
            let (value, rounded) = wide(0)?;
            Ok((Stored::Word(integer_word(value, kind)?), rounded))
        }
    }
}

/// The word of an integer in a column of integers.
fn integer_word(value: i128, kind: ColumnType) -> Result<i64, NumberError> {
    fn fit<T: TryFrom<i128> + Into<i64>>(value: i128) -> Result<i64, NumberError> {
        T::try_from(value).map(Into::into).map_err(|_| NumberError::Overflow)
    }
    match kind {
        ColumnType::Int64 => fit::<i64>(value),
        ColumnType::Int32 => fit::<i32>(value),
        ColumnType::Int16 => fit::<i16>(value),
        ColumnType::Int8 => fit::<i8>(value),
        ColumnType::UInt64 => u64::try_from(value).map(u64::cast_signed).map_err(|_| NumberError::Overflow),
        ColumnType::UInt32 => fit::<u32>(value),
        ColumnType::UInt16 => fit::<u16>(value),
        ColumnType::UInt8 => fit::<u8>(value),
        _ => Err(NumberError::NotANumber),
    }
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

/// The stored form of an integer in a number column of any type.
pub(super) fn int_cell(value: i128, target: ColumnType) -> Result<(Stored<'static>, bool), NumberError> {
    let narrow = || i64::try_from(value).map_err(|_| NumberError::Overflow);
    let stored = match target {
        ColumnType::Decimal { .. } => Stored::Word(int_word(narrow()?, target)?.0),
        ColumnType::WideDecimal { digits } => {
            Stored::Wide(rescale_wide(value, 0, digits).ok_or(NumberError::Overflow)?)
        }
        #[allow(clippy::cast_precision_loss, reason = "the nearest double is requested")]
        ColumnType::Float64 => Stored::Word(double_word(value as f64)),
        #[allow(clippy::cast_precision_loss, reason = "the nearest float is requested")]
        ColumnType::Float32 => Stored::Word(float32_word(value as f32)),
        kind => Stored::Word(integer_word(value, kind)?),
    };
    Ok((stored, false))
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

/// The stored form of a decimal in a number column of any type: by rescaling where that is exact, else by `slow` from
/// its text.
pub(super) fn decimal_cell(
    raw: Option<i128>,
    scale: i8,
    target: ColumnType,
    slow: impl FnOnce() -> Result<(Stored<'static>, bool), NumberError>,
) -> Result<(Stored<'static>, bool), NumberError> {
    match (raw, u8::try_from(scale), target) {
        (Some(raw), Ok(scale), ColumnType::WideDecimal { digits }) => match rescale_wide(raw, scale, digits) {
            Some(raw) => Ok((Stored::Wide(raw), false)),
            None => slow(),
        },
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
            let (value, is_rounded) = whole(value, rounding)?;
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

/// A double as a whole number, half to even, and whether it has a fraction.
fn whole(value: f64, rounding: Rounding) -> Result<(f64, bool), NumberError> {
    let is_rounded = value.fract() != 0.0;
    if is_rounded && rounding == Rounding::Exact {
        return Err(NumberError::PrecisionLoss);
    }
    Ok((value.round_ties_even(), is_rounded))
}

/// The stored form of a double in a number column of any type.
pub(super) fn float_cell(
    value: f64,
    target: ColumnType,
    rounding: Rounding,
) -> Result<(Stored<'static>, bool), NumberError> {
    if !value.is_finite() {
        return Err(NumberError::NotFinite);
    }
    match target {
        ColumnType::Decimal { .. } | ColumnType::Float64 | ColumnType::Int64 => {
            float_word(value, target, rounding).map(|(word, rounded)| (Stored::Word(word), rounded))
        }
        ColumnType::WideDecimal { digits } => {
            f64_to_wide_decimal(value, digits).map(|(raw, rounded)| (Stored::Wide(raw), rounded))
        }
        ColumnType::Float32 => {
            #[allow(clippy::cast_possible_truncation, reason = "compared with the double below")]
            let near = value as f32;
            if !near.is_finite() {
                return Err(NumberError::Overflow);
            }
            #[allow(clippy::float_cmp, reason = "asks for the same number")]
            let is_rounded = f64::from(near) != value;
            if is_rounded && rounding == Rounding::Exact {
                return Err(NumberError::PrecisionLoss);
            }
            Ok((Stored::Word(float32_word(near)), is_rounded))
        }
        kind => {
            let (value, is_rounded) = whole(value, rounding)?;
            // All integer types end within ±2^64.
            if value.abs() > 18_446_744_073_709_551_616.0 {
                return Err(NumberError::Overflow);
            }
            #[allow(clippy::cast_possible_truncation, reason = "an integer in range")]
            Ok((Stored::Word(integer_word(value as i128, kind)?), is_rounded))
        }
    }
}

/// The shortest text of a float of 32 bits or less.
fn short_text(value: f32, text: &mut [u8; 64]) -> Option<&[u8]> {
    let mut rest = text.as_mut_slice();
    // The longest form of an f32 in scientific notation has 15 bytes.
    write!(rest, "{value:e}").ok()?;
    let unused = rest.len();
    text.get(..64 - unused)
}

/// The word of a float of 32 bits or less: a decimal is parsed from the float's own shortest form, not from that of the
/// double it widens to.
pub(super) fn short_word(value: f32, target: ColumnType, rounding: Rounding) -> Result<(i64, bool), NumberError> {
    match target {
        ColumnType::Decimal { digits } if value.is_finite() => {
            let mut text = [0_u8; 64];
            let text = short_text(value, &mut text).ok_or(NumberError::NotANumber)?;
            parse_decimal(text, digits, Rounding::Nearest).map(|fixed| (fixed.raw, fixed.rounded))
        }
        _ => float_word(f64::from(value), target, rounding),
    }
}

/// The stored form of a float of 32 bits or less in a number column of any type, as [`short_word`].
pub(super) fn short_cell(
    value: f32,
    target: ColumnType,
    rounding: Rounding,
) -> Result<(Stored<'static>, bool), NumberError> {
    match target {
        ColumnType::WideDecimal { digits } if value.is_finite() => {
            let mut text = [0_u8; 64];
            let text = short_text(value, &mut text).ok_or(NumberError::NotANumber)?;
            parse_wide_decimal(text, digits, Rounding::Nearest).map(|(raw, rounded)| (Stored::Wide(raw), rounded))
        }
        ColumnType::Decimal { .. } => {
            short_word(value, target, rounding).map(|(word, rounded)| (Stored::Word(word), rounded))
        }
        _ => float_cell(f64::from(value), target, rounding),
    }
}

/// A stored word of a column of 8 bytes as text.
pub fn show_word(word: i64, kind: ColumnType) -> String {
    let double = f64::from_bits(word.cast_unsigned());
    let mut out = Vec::new();
    match kind {
        ColumnType::Decimal { digits } => write_decimal(&mut out, word, digits),
        ColumnType::Float64 if double.is_finite() => write_f64(&mut out, double),
        ColumnType::Float64 => out.extend_from_slice(double.to_string().as_bytes()),
        ColumnType::UInt64 => return word.cast_unsigned().to_string(),
        ColumnType::Timestamp { unit } => return rfc3339(word, unit),
        _ => write_i64(&mut out, word),
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A stored cell of any type as text; `texts` is the dictionary of its column.
pub fn show_cell(cells: CellSlice<'_>, row: usize, column: &Column, texts: Option<&Dictionary>) -> String {
    if !cells.is_valid(row) {
        return "null".into();
    }
    if column.kind == ColumnType::Bool {
        return cells.flag(row).to_string();
    }
    let cell = cells.slice(row, 1);
    let memory = cell.memory();
    let at = |position: usize| format!("position {position}");
    match column.kind {
        ColumnType::WideDecimal { digits } => {
            show_wide(cell.typed::<i128>().first().copied().unwrap_or_default(), digits)
        }
        ColumnType::Float32 => cell.typed::<f32>().first().copied().unwrap_or_default().to_string(),
        ColumnType::Int32 => cell.typed::<i32>().first().copied().unwrap_or_default().to_string(),
        ColumnType::Int16 => cell.typed::<i16>().first().copied().unwrap_or_default().to_string(),
        ColumnType::Int8 => cell.typed::<i8>().first().copied().unwrap_or_default().to_string(),
        ColumnType::UInt32 => cell.typed::<u32>().first().copied().unwrap_or_default().to_string(),
        ColumnType::UInt16 => cell.typed::<u16>().first().copied().unwrap_or_default().to_string(),
        ColumnType::UInt8 => cell.typed::<u8>().first().copied().unwrap_or_default().to_string(),
        ColumnType::Enum => {
            let position = usize::from(cell.typed::<u8>().first().copied().unwrap_or_default());
            column.values.get(position).map_or_else(|| at(position), Clone::clone)
        }
        ColumnType::Text => {
            let position = cell.typed::<u32>().first().copied().unwrap_or_default();
            let text = texts.and_then(|texts| texts.get(position));
            text.map_or_else(|| at(to_usize(position)), |text| text.as_ref().to_owned())
        }
        ColumnType::Bytes { .. } => memory.iter().map(|byte| format!("{byte:02x}")).collect(),
        kind => show_word(cell.words().first().copied().unwrap_or_default(), kind),
    }
}

/// A fixed-point number of 16 bytes as text.
pub(super) fn show_wide(raw: i128, digits: u8) -> String {
    let magnitude = format!("{:0>1$}", raw.unsigned_abs(), usize::from(digits) + 1);
    let (int, fraction) = magnitude.split_at(magnitude.len() - usize::from(digits));
    let sign = if raw < 0 { "-" } else { "" };
    if digits == 0 { format!("{sign}{int}") } else { format!("{sign}{int}.{fraction}") }
}
