//! Exact conversions of decimal numbers between text, doubles and fixed point.
//!
//! Invariants:
//! - The grammar of a number is `[+-]digits[.digits][e±n]`; `5.` and `.5` are valid, spaces are not.
//! - Parsing a decimal never passes through a double: the raw integer is exact, or it is rounded half to even on the
//!   decimal digits and marked as rounded.
//! - Parsing takes time linear in the length of the text, for all digits and exponents, and does not allocate.
//! - Bounds of a decimal are those of a column: |raw| < 10^18.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::cells;
use super::width::narrow;

/// Maximum number of digits of a decimal column.
pub const DIGITS_MAX: u8 = 18;
/// A decimal cell lies strictly between `-DECIMAL_LIMIT` and `DECIMAL_LIMIT`.
pub const DECIMAL_LIMIT: i64 = 1_000_000_000_000_000_000;
/// Raw values of a decimal of 16 bytes lie below this and above its negative: 10^38.
pub const WIDE_DECIMAL_LIMIT: i128 = 10_i128.pow(38);

/// Handling of numbers with more digits than the column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum Rounding {
    /// Reject the row.
    #[default]
    Exact,
    /// Round half to even on the decimal form.
    Nearest,
}

/// Why a number cannot be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumberError {
    /// The text does not follow the grammar.
    NotANumber,
    /// NaN or an infinity.
    NotFinite,
    /// More digits than the column has, or a fraction in an integer column.
    PrecisionLoss,
    /// Beyond the range of the column.
    Overflow,
}

impl NumberError {
    /// The stable `reason` of a row error.
    pub fn reason(self) -> &'static str {
        match self {
            NumberError::NotANumber => "not_a_number",
            NumberError::NotFinite => "not_finite",
            NumberError::PrecisionLoss => "precision_loss",
            NumberError::Overflow => "overflow",
        }
    }
}

/// A fixed-point number: `raw / 10^digits`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fixed {
    pub raw: i64,
    /// Whether digits were lost.
    pub rounded: bool,
}

/// Powers of ten that fit 64 bits.
const POW10: [u64; 20] = {
    let mut table = [1_u64; 20];
    let mut at = 1;
    while at < 20 {
        #[allow(clippy::indexing_slicing, reason = "evaluated by the compiler")]
        {
            table[at] = table[at - 1] * 10;
        }
        at += 1;
    }
    table
};

/// 10^`exponent` where it fits 64 bits.
fn pow10(exponent: u64) -> Option<u64> {
    POW10.get(usize::try_from(exponent).ok()?).copied()
}

/// A parsed number; its value is `(int ++ frac) * 10^(exponent - frac.len())`.
#[derive(Clone, Copy)]
struct NumberParts<'a> {
    negative: bool,
    int: &'a [u8],
    frac: &'a [u8],
    /// Saturated: beyond ±10^17 no text is long enough to compensate for it.
    exponent: i64,
}

/// Splits off the leading decimal digits.
fn leading_digits(text: &[u8]) -> (&[u8], &[u8]) {
    let length = text.iter().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(length)
}

impl<'a> NumberParts<'a> {
    fn of(text: &'a [u8]) -> Result<Self, NumberError> {
        let (negative, unsigned) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        let (int, rest) = leading_digits(unsigned);
        let (frac, rest) = match rest {
            [b'.', rest @ ..] => leading_digits(rest),
            rest => (&[][..], rest),
        };
        if int.is_empty() && frac.is_empty() {
            let special = ["nan", "inf", "infinity"].iter().any(|word| unsigned.eq_ignore_ascii_case(word.as_bytes()));
            return Err(if special { NumberError::NotFinite } else { NumberError::NotANumber });
        }
        let exponent = match rest {
            [] => 0,
            [b'e' | b'E', rest @ ..] => read_exponent(rest)?,
            _ => return Err(NumberError::NotANumber),
        };
        Ok(Self { negative, int, frac, exponent })
    }

    fn digits(&self) -> impl DoubleEndedIterator<Item = u8> + 'a {
        self.int.iter().chain(self.frac).map(|b| b - b'0')
    }

    /// Power of ten of the last digit in the text.
    fn last_power(&self) -> i64 {
        self.exponent.saturating_sub(length(self.frac))
    }

    /// Magnitude of the number times 10^`digits`, and whether that was rounded (half to even).
    fn scaled(&self, digits: u8) -> Result<(u64, bool), NumberError> {
        let written = self.int.len() + self.frac.len();
        if written <= 19 {
            let mantissa = self.digits().fold(0, |sum, digit| sum * 10 + u64::from(digit));
            return shift(mantissa, self.last_power().saturating_add(i64::from(digits)));
        }
        // Long texts: drop zeros at both ends, then cut after the last significant digit.
        let leading = self.digits().take_while(|digit| *digit == 0).count();
        if leading == written {
            return Ok((0, false));
        }
        let trailing = self.digits().rev().take_while(|digit| *digit == 0).count();
        let count = written - leading - trailing;
        let significant = || self.digits().skip(leading).take(count);
        let trailing = narrow::<i64, _>(trailing);
        let power = self.last_power().saturating_add(trailing).saturating_add(i64::from(digits));
        if count <= 19 {
            return shift(significant().fold(0, |sum, digit| sum * 10 + u64::from(digit)), power);
        }
        // Twenty digits or more, the last not zero: some of them must be cut, or the number is too large.
        let kept = narrow::<i64, _>(count).saturating_add(power);
        if power >= 0 || kept > 19 {
            return Err(NumberError::Overflow);
        }
        let Ok(kept) = usize::try_from(kept) else { return Ok((0, true)) };
        let mut rest = significant();
        let quotient = rest.by_ref().take(kept).fold(0, |sum, digit| sum * 10 + u64::from(digit));
        let first_cut = rest.next().unwrap_or(0);
        let more = rest.next().is_some();
        let up = first_cut > 5 || (first_cut == 5 && (more || quotient % 2 == 1));
        Ok((quotient + u64::from(up), true))
    }
}

fn length(text: &[u8]) -> i64 {
    narrow(text.len())
}

/// The number after `e`.
fn read_exponent(text: &[u8]) -> Result<i64, NumberError> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if digits.is_empty() {
        return Err(NumberError::NotANumber);
    }
    let mut sum = 0_i64;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return Err(NumberError::NotANumber);
        }
        if sum < 1_000_000_000_000_000_000 / 10 {
            sum = sum * 10 + i64::from(digit - b'0');
        }
    }
    Ok(if negative { -sum } else { sum })
}

/// `mantissa * 10^power`, half to even.
fn shift(mantissa: u64, power: i64) -> Result<(u64, bool), NumberError> {
    if mantissa == 0 || power == 0 {
        return Ok((mantissa, false));
    }
    let factor = pow10(power.unsigned_abs());
    if power > 0 {
        let raised = factor.and_then(|factor| mantissa.checked_mul(factor));
        return raised.map(|raw| (raw, false)).ok_or(NumberError::Overflow);
    }
    // Beyond the table the divisor is more than twice any mantissa.
    let Some(divisor) = factor else { return Ok((0, true)) };
    let (quotient, rest) = (mantissa / divisor, mantissa % divisor);
    let up = match rest.cmp(&(divisor / 2)) {
        Ordering::Less => false,
        Ordering::Greater => true,
        Ordering::Equal => quotient % 2 == 1,
    };
    Ok((quotient + u64::from(up), rest != 0))
}

/// Parses a number as fixed point of `digits` digits, exactly.
///
/// # Errors
/// `PrecisionLoss` for digits the column cannot store unless `rounding` is nearest (zeros are no loss);
/// `Overflow` unless |raw| < 10^18.
pub fn parse_decimal(text: &[u8], digits: u8, rounding: Rounding) -> Result<Fixed, NumberError> {
    let parts = NumberParts::of(text)?;
    let (magnitude, rounded) = parts.scaled(digits)?;
    if magnitude >= DECIMAL_LIMIT.unsigned_abs() {
        return Err(NumberError::Overflow);
    }
    if rounded && rounding == Rounding::Exact {
        return Err(NumberError::PrecisionLoss);
    }
    let raw = i64::try_from(magnitude).map_err(|_| NumberError::Overflow)?;
    Ok(Fixed { raw: if parts.negative { -raw } else { raw }, rounded })
}

/// Parses a number as the nearest double.
///
/// # Errors
/// `Overflow` where the nearest double is an infinity.
pub fn parse_f64(text: &[u8]) -> Result<f64, NumberError> {
    NumberParts::of(text)?;
    let text = std::str::from_utf8(text).map_err(|_| NumberError::NotANumber)?;
    let value: f64 = text.parse().map_err(|_| NumberError::NotANumber)?;
    if value.is_finite() { Ok(value) } else { Err(NumberError::Overflow) }
}

/// Parses a number with an integer value, such as `5`, `5.0` or `1e3`.
///
/// # Errors
/// `PrecisionLoss` for a fraction.
pub fn parse_i64(text: &[u8]) -> Result<i64, NumberError> {
    parse_integer(text, Rounding::Exact).map(|fixed| fixed.raw)
}

/// Parses a number as a 64-bit integer; under nearest rounding a fraction is rounded half to even.
///
/// # Errors
/// `PrecisionLoss` for a fraction unless `rounding` is nearest.
pub fn parse_integer(text: &[u8], rounding: Rounding) -> Result<Fixed, NumberError> {
    let parts = NumberParts::of(text)?;
    let (magnitude, rounded) = parts.scaled(0)?;
    let value = if parts.negative { 0_i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() };
    let raw = value.ok_or(NumberError::Overflow)?;
    if rounded && rounding == Rounding::Exact { Err(NumberError::PrecisionLoss) } else { Ok(Fixed { raw, rounded }) }
}

/// `mantissa * 10^power`, half to even.
fn shift_wide(mantissa: u128, power: i64) -> Result<(u128, bool), NumberError> {
    if mantissa == 0 || power == 0 {
        return Ok((mantissa, false));
    }
    let factor = u32::try_from(power.unsigned_abs()).ok().and_then(|power| 10_u128.checked_pow(power));
    if power > 0 {
        let raised = factor.and_then(|factor| mantissa.checked_mul(factor));
        return raised.map(|raw| (raw, false)).ok_or(NumberError::Overflow);
    }
    // 10^39 is more than twice any mantissa of 38 digits.
    let Some(divisor) = factor else { return Ok((0, true)) };
    let (quotient, rest) = (mantissa / divisor, mantissa % divisor);
    let up = match rest.cmp(&(divisor / 2)) {
        Ordering::Less => false,
        Ordering::Greater => true,
        Ordering::Equal => quotient % 2 == 1,
    };
    Ok((quotient + u128::from(up), rest != 0))
}

/// Magnitude of a number times 10^`digits`, and whether that was rounded (half to even).
fn scaled_wide(parts: &NumberParts<'_>, digits: u8) -> Result<(u128, bool), NumberError> {
    /// Most digits of a mantissa.
    const COUNT_MAX: usize = 38;
    let sum = |digits: &mut dyn Iterator<Item = u8>| digits.fold(0_u128, |sum, digit| sum * 10 + u128::from(digit));
    let written = parts.int.len() + parts.frac.len();
    let leading = parts.digits().take_while(|digit| *digit == 0).count();
    if leading == written {
        return Ok((0, false));
    }
    let trailing = parts.digits().rev().take_while(|digit| *digit == 0).count();
    let count = written - leading - trailing;
    let significant = || parts.digits().skip(leading).take(count);
    let zeros = narrow::<i64, _>(trailing);
    let power = parts.last_power().saturating_add(zeros).saturating_add(i64::from(digits));
    if count <= COUNT_MAX {
        return shift_wide(sum(&mut significant()), power);
    }
    // More digits, the last not zero: some of them must be cut, or the number is too large.
    let kept = narrow::<i64, _>(count).saturating_add(power);
    if power >= 0 || kept > narrow::<i64, _>(COUNT_MAX) {
        return Err(NumberError::Overflow);
    }
    let Ok(kept) = usize::try_from(kept) else { return Ok((0, true)) };
    let mut rest = significant();
    let quotient = sum(&mut rest.by_ref().take(kept));
    let first_cut = rest.next().unwrap_or(0);
    let more = rest.next().is_some();
    let up = first_cut > 5 || (first_cut == 5 && (more || quotient % 2 == 1));
    Ok((quotient + u128::from(up), true))
}

/// Parses a number as fixed point of 16 bytes and `digits` digits, exactly; returns the scaled integer and whether
/// digits were lost.
///
/// # Errors
/// `PrecisionLoss` for digits the column cannot store unless `rounding` is nearest; `Overflow` unless |raw| < 10^38.
pub fn parse_wide_decimal(text: &[u8], digits: u8, rounding: Rounding) -> Result<(i128, bool), NumberError> {
    let parts = NumberParts::of(text)?;
    let (magnitude, rounded) = scaled_wide(&parts, digits)?;
    if magnitude >= WIDE_DECIMAL_LIMIT.unsigned_abs() {
        return Err(NumberError::Overflow);
    }
    if rounded && rounding == Rounding::Exact {
        return Err(NumberError::PrecisionLoss);
    }
    let raw = i128::try_from(magnitude).map_err(|_| NumberError::Overflow)?;
    Ok((if parts.negative { -raw } else { raw }, rounded))
}

/// The fixed-point number of 16 bytes nearest to the shortest decimal form of a double, as [`f64_to_decimal`].
///
/// # Errors
/// `NotFinite`, or `Overflow` unless |raw| < 10^38.
pub fn f64_to_wide_decimal(value: f64, digits: u8) -> Result<(i128, bool), NumberError> {
    if !value.is_finite() {
        return Err(NumberError::NotFinite);
    }
    parse_wide_decimal(NumberText::of_f64(value).as_bytes(), digits, Rounding::Nearest)
}

/// Converts `raw` from `from` to `to` digits; `None` unless the result is exact and below the limit of a decimal of 16
/// bytes.
pub fn rescale_wide(raw: i128, from: u8, to: u8) -> Option<i128> {
    let factor = || 10_i128.checked_pow(from.abs_diff(to).into());
    let scaled = match from.cmp(&to) {
        _ if raw == 0 => 0,
        Ordering::Equal => raw,
        Ordering::Less => raw.checked_mul(factor()?)?,
        Ordering::Greater => {
            let factor = factor()?;
            if raw % factor != 0 {
                return None;
            }
            raw / factor
        }
    };
    (scaled.unsigned_abs() < WIDE_DECIMAL_LIMIT.unsigned_abs()).then_some(scaled)
}

/// Parses a number as the nearest float of 32 bits.
///
/// # Errors
/// `Overflow` where the nearest one is an infinity.
pub fn parse_f32(text: &[u8]) -> Result<f32, NumberError> {
    NumberParts::of(text)?;
    let text = std::str::from_utf8(text).map_err(|_| NumberError::NotANumber)?;
    let value: f32 = text.parse().map_err(|_| NumberError::NotANumber)?;
    if value.is_finite() { Ok(value) } else { Err(NumberError::Overflow) }
}

/// The significant digits, and the power of ten of the first one; `None` for zero.
fn magnitude(parts: &NumberParts<'_>) -> Option<(Vec<u8>, i64)> {
    let written = parts.int.len() + parts.frac.len();
    let leading = parts.digits().take_while(|digit| *digit == 0).count();
    let trailing = parts.digits().rev().take_while(|digit| *digit == 0).count();
    if leading == written {
        return None;
    }
    let first = narrow::<i64, _>(written - leading - 1).saturating_add(parts.last_power());
    Some((parts.digits().skip(leading).take(written - leading - trailing).collect(), first))
}

/// Compares two numbers of any length exactly.
fn compare(a: &NumberParts<'_>, b: &NumberParts<'_>) -> Ordering {
    let (digits_a, digits_b) = (magnitude(a), magnitude(b));
    let sign = |negative: bool, zero: bool| {
        if zero {
            0
        } else if negative {
            -1
        } else {
            1
        }
    };
    let signs = (sign(a.negative, digits_a.is_none()), sign(b.negative, digits_b.is_none()));
    let sizes = match (digits_a, digits_b) {
        (Some((digits_a, first_a)), Some((digits_b, first_b))) if signs.0 == signs.1 => {
            first_a.cmp(&first_b).then_with(|| digits_a.cmp(&digits_b))
        }
        _ => return signs.0.cmp(&signs.1),
    };
    if signs.0 < 0 { sizes.reverse() } else { sizes }
}

/// The highest `i64` at or below, and the lowest at or above, a number times 10^`digits`; `None` beyond the range of
/// `i64`. Both are equal where the scaled number is an `i64`.
pub fn integers_around(text: &[u8], digits: u8) -> Result<(Option<i64>, Option<i64>), NumberError> {
    let parts = NumberParts::of(text)?;
    let beyond = if parts.negative { (None, Some(i64::MIN)) } else { (Some(i64::MAX), None) };
    let (size, rounded) = match parts.scaled(digits) {
        Ok(scaled) => scaled,
        Err(NumberError::Overflow) => return Ok(beyond),
        Err(other) => return Err(other),
    };
    let signed = if parts.negative { -i128::from(size) } else { i128::from(size) };
    let Ok(near) = i64::try_from(signed) else { return Ok(beyond) };
    if !rounded {
        return Ok((Some(near), Some(near)));
    }
    let mut shown = Vec::new();
    write_decimal(&mut shown, near, digits);
    Ok(match compare(&NumberParts::of(&shown)?, &parts) {
        Ordering::Equal => (Some(near), Some(near)),
        Ordering::Greater => (near.checked_sub(1), Some(near)),
        Ordering::Less => (Some(near), near.checked_add(1)),
    })
}

/// The highest `i128` at or below, and the lowest at or above, a number times 10^`digits`; `None` beyond the range of
/// `i128`. Both are equal where the scaled number is an `i128`.
pub fn wide_around(text: &[u8], digits: u8) -> Result<(Option<i128>, Option<i128>), NumberError> {
    let parts = NumberParts::of(text)?;
    let beyond = if parts.negative { (None, Some(i128::MIN)) } else { (Some(i128::MAX), None) };
    let Some((significant, first)) = magnitude(&parts) else { return Ok((Some(0), Some(0))) };
    // Number of digits before the decimal point of the scaled number.
    let whole = first.saturating_add(1).saturating_add(i64::from(digits)).max(0);
    if whole > 39 {
        return Ok(beyond);
    }
    let whole: usize = narrow(whole);
    let mut size = 0_i128;
    for digit in significant.iter().copied().chain(std::iter::repeat(0)).take(whole) {
        match size.checked_mul(10).and_then(|size| size.checked_add(digit.into())) {
            Some(next) => size = next,
            None => return Ok(beyond),
        }
    }
    let near = if parts.negative { -size } else { size };
    Ok(match (significant.len() > whole, parts.negative) {
        (false, _) => (Some(near), Some(near)),
        (true, false) => (Some(near), near.checked_add(1)),
        (true, true) => (near.checked_sub(1), Some(near)),
    })
}

/// The float a number parses to, twice; beyond the range of floats of 4 bytes the finite ones at or below and at or
/// above it.
pub fn floats_around(text: &[u8]) -> Result<(Option<f32>, Option<f32>), NumberError> {
    let parts = NumberParts::of(text)?;
    let text = std::str::from_utf8(text).map_err(|_| NumberError::NotANumber)?;
    let value: f32 = text.parse().map_err(|_| NumberError::NotANumber)?;
    Ok(match (value.is_finite(), parts.negative) {
        (true, _) => (Some(value), Some(value)),
        (false, true) => (None, Some(f32::MIN)),
        (false, false) => (Some(f32::MAX), None),
    })
}

/// The double a number parses to, twice; beyond the range of doubles the finite ones at or below and at or above it.
/// Every text that parses to a stored double therefore compares as equal to it: `0.1` and `0.10000000000000001` are the
/// same double.
pub fn doubles_around(text: &[u8]) -> Result<(Option<f64>, Option<f64>), NumberError> {
    match parse_f64(text) {
        Ok(read) => Ok((Some(read), Some(read))),
        Err(NumberError::Overflow) if NumberParts::of(text)?.negative => Ok((None, Some(f64::MIN))),
        Err(NumberError::Overflow) => Ok((Some(f64::MAX), None)),
        Err(other) => Err(other),
    }
}

/// Number of digits after and before the decimal point, with the exponent applied; `None` for malformed text.
///
/// After the point trailing zeros count (`100.50` → 2, `8e-8` → 8); before it leading zeros do not (`0.5` → 0).
/// Both saturate at 255.
pub fn fraction_digits(text: &[u8]) -> Option<(u8, u8)> {
    let parts = NumberParts::of(text).ok()?;
    let after = parts.last_power().saturating_neg().clamp(0, 255);
    let before = match parts.digits().position(|digit| digit != 0) {
        None => 0,
        Some(leading) => {
            let int = length(parts.int).saturating_sub(narrow::<i64, _>(leading));
            int.saturating_add(parts.exponent).clamp(0, 255)
        }
    };
    Some((narrow(after), narrow(before)))
}

/// A small buffer on the stack for the text of one number.
struct NumberText {
    bytes: [u8; 32],
    used: usize,
}

impl NumberText {
    /// The shortest text that reads back as `value`.
    fn of_f64(value: f64) -> Self {
        let mut short = Self { bytes: [0; 32], used: 0 };
        // Writing a finite double to a buffer of 32 bytes cannot fail: its longest form has 24.
        if serde_json::to_writer(&mut short, &value).is_err() {
            short.used = 0;
        }
        short
    }

    fn as_bytes(&self) -> &[u8] {
        cells::range(&self.bytes, 0..self.used)
    }
}

impl std::io::Write for NumberText {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self.bytes.get_mut(self.used..self.used + bytes.len()) {
            Some(slot) => slot.copy_from_slice(bytes),
            None => return Err(std::io::ErrorKind::WriteZero.into()),
        }
        self.used += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// All integers up to this one are exact doubles.
const DOUBLE_EXACT: u64 = 1 << 53;
/// Below this magnitude a decimal integer of up to 15 digits and its nearest double determine each other.
const DOUBLE_DIGITS: f64 = 1e15;

/// 10^`digits` as a double, exact.
fn pow10_f64(digits: u8) -> Option<f64> {
    #[rustfmt::skip]
    const TABLE: [f64; 23] = [
        1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19,
        1e20, 1e21, 1e22,
    ];
    TABLE.get(usize::from(digits)).copied()
}

/// The fixed-point number nearest to the shortest decimal form of a double, half to even.
///
/// `rounded` is true if that form has more digits than the column.
///
/// # Errors
/// `NotFinite`, or `Overflow` unless |raw| < 10^18.
pub fn f64_to_decimal(value: f64, digits: u8) -> Result<Fixed, NumberError> {
    if !value.is_finite() {
        return Err(NumberError::NotFinite);
    }
    if let Some(factor) = pow10_f64(digits) {
        let scaled = (value * factor).round_ties_even();
        // A decimal of up to 15 digits that divides back to the double is its shortest form.
        if scaled.abs() < DOUBLE_DIGITS && scaled / factor == value {
            #[allow(clippy::cast_possible_truncation, reason = "an integer below 10^15")]
            return Ok(Fixed { raw: scaled as i64, rounded: false });
        }
    }
    parse_decimal(NumberText::of_f64(value).as_bytes(), digits, Rounding::Nearest)
}

/// Digits after the point of the shortest decimal form of a double; saturates at 255, 0 for NaN and infinities.
pub fn shortest_digits(value: f64) -> u8 {
    let text = NumberText::of_f64(value);
    let Ok(parts) = NumberParts::of(text.as_bytes()) else { return 0 };
    let zeros = parts.digits().rev().take_while(|digit| *digit == 0).count();
    if zeros == parts.int.len() + parts.frac.len() {
        return 0;
    }
    let power = parts.last_power().saturating_add(narrow::<i64, _>(zeros));
    narrow(power.saturating_neg().clamp(0, 255))
}

/// The double nearest to `raw / 10^digits`.
pub fn decimal_to_f64(raw: i64, digits: u8) -> f64 {
    match pow10_f64(digits) {
        // Both operands are exact, so the division rounds once.
        Some(factor) if raw.unsigned_abs() <= DOUBLE_EXACT => to_double(raw) / factor,
        _ => {
            use std::io::Write;
            let mut text = NumberText { bytes: [0; 32], used: 0 };
            let written = write!(text, "{raw}e-{digits}");
            let value = std::str::from_utf8(text.as_bytes()).ok().and_then(|text| text.parse().ok());
            value.filter(|_| written.is_ok()).unwrap_or_else(|| to_double(raw) / 10_f64.powi(i32::from(digits)))
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "callers have checked the range or want the nearest")]
fn to_double(raw: i64) -> f64 {
    raw as f64
}

/// Appends the doubles nearest to `raw / 10^digits`; a vectorized [`decimal_to_f64`].
pub fn decimals_to_f64(raw: &[i64], digits: u8, out: &mut Vec<f64>) {
    out.reserve(raw.len());
    let factor = pow10_f64(digits);
    for block in raw.chunks(1024) {
        // The fold has no branches, so the compiler vectorizes it and the division.
        let all = block.iter().fold(0, |all, raw| all | raw.unsigned_abs());
        match factor {
            Some(factor) if all < DOUBLE_EXACT => out.extend(block.iter().map(|raw| to_double(*raw) / factor)),
            _ => out.extend(block.iter().map(|raw| decimal_to_f64(*raw, digits))),
        }
    }
}

/// Converts `raw` from `from` to `to` digits; `None` unless the result is exact and below the limit of a decimal.
pub fn rescale(raw: i64, from: u8, to: u8) -> Option<i64> {
    let factor = || pow10(u64::from(from.abs_diff(to))).and_then(|factor| i64::try_from(factor).ok());
    let scaled = match from.cmp(&to) {
        _ if raw == 0 => 0,
        Ordering::Equal => raw,
        Ordering::Less => raw.checked_mul(factor()?)?,
        Ordering::Greater => {
            let factor = factor()?;
            if raw % factor != 0 {
                return None;
            }
            raw / factor
        }
    };
    (scaled.unsigned_abs() < DECIMAL_LIMIT.unsigned_abs()).then_some(scaled)
}

/// Size of the buffer for the text of a number. Text is copied in pieces of fixed length, which is faster than copying
/// exact lengths, so bytes after the text are overwritten.
pub const TEXT_BUFFER_BYTES: usize = 48;

/// Maximum number of digits, and the end position of the last one.
const DIGITS_END: usize = 24;
/// Length of the copied pieces: no integer is longer.
const PIECE: usize = 20;

/// Two digits for each number below 100.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[b'0'; 2]; 100];
    let mut n = 0_u8;
    while n < 100 {
        #[allow(clippy::indexing_slicing, reason = "evaluated by the compiler")]
        {
            pairs[n as usize] = [b'0' + n / 10, b'0' + n % 10];
        }
        n += 1;
    }
    pairs
};

/// The digits of a number, ending at [`DIGITS_END`] with zeros before them, and their start position.
#[inline]
fn digits_of(mut number: u64) -> ([u8; TEXT_BUFFER_BYTES], usize) {
    let mut text = [b'0'; TEXT_BUFFER_BYTES];
    let mut at = DIGITS_END;
    let mut put = |at: usize, pair: u64| {
        let pair = usize::try_from(pair).ok().and_then(|pair| PAIRS.get(pair));
        if let (Some(slot), Some(pair)) = (text.get_mut(at..at + 2), pair) {
            slot.copy_from_slice(pair);
        }
    };
    while number >= 100 {
        at -= 2;
        put(at, number % 100);
        number /= 100;
    }
    at -= 2;
    put(at, number);
    (text, at + usize::from(number < 10))
}

/// Copies a piece of the digits to a position of the text.
#[inline]
fn copy_piece(out: &mut [u8; TEXT_BUFFER_BYTES], at: usize, digits: &[u8; TEXT_BUFFER_BYTES], from: usize) {
    if let (Some(slot), Some(piece)) = (out.get_mut(at..at + PIECE), digits.get(from..from + PIECE)) {
        slot.copy_from_slice(piece);
    }
}

/// Writes an integer and returns its length; bytes of `out` after it may change.
#[inline]
pub fn format_i64(out: &mut [u8; TEXT_BUFFER_BYTES], value: i64) -> usize {
    let (digits, begin) = digits_of(value.unsigned_abs());
    out[0] = b'-';
    let sign = usize::from(value < 0);
    copy_piece(out, sign, &digits, begin);
    sign + DIGITS_END - begin
}

/// Writes `raw / 10^digits` with exactly `digits` digits after the point, such as `-0.05`, and returns its length;
/// bytes of `out` after it may change.
#[inline]
pub fn format_decimal(out: &mut [u8; TEXT_BUFFER_BYTES], raw: i64, digits: u8) -> usize {
    if digits == 0 {
        return format_i64(out, raw);
    }
    let (text, begin) = digits_of(raw.unsigned_abs());
    out[0] = b'-';
    let sign = usize::from(raw < 0);
    // There is at least one digit before the point.
    let point = DIGITS_END - usize::from(digits).min(PIECE);
    let begin = begin.min(point - 1);
    let at = sign + point - begin;
    copy_piece(out, sign, &text, begin);
    if let Some(byte) = out.get_mut(at) {
        *byte = b'.';
    }
    copy_piece(out, at + 1, &text, point);
    at + 1 + DIGITS_END - point
}

/// Writes a double like [`write_f64`] and returns its length.
#[inline]
pub fn format_f64(out: &mut [u8; TEXT_BUFFER_BYTES], value: f64) -> usize {
    let short = NumberText::of_f64(value);
    if let Some(buffer) = out.first_chunk_mut() {
        *buffer = short.bytes;
    }
    short.used
}

/// Writes the double nearest to `raw / 10^digits` like [`write_f64`] and returns its length.
///
/// Decimals of up to 15 digits and their doubles determine each other, so the digits of the decimal are the shortest
/// text of the double and no search is needed.
#[inline]
pub fn format_decimal_as_f64(out: &mut [u8; TEXT_BUFFER_BYTES], raw: i64, digits: u8) -> usize {
    let size = raw.unsigned_abs();
    // Doubles below 0.00001 are written with an exponent.
    let is_plain = size < 1_000_000_000_000_000
        && (raw == 0 || pow10(u64::from(digits.saturating_sub(5))).is_some_and(|least| size >= least));
    if !is_plain {
        return format_f64(out, decimal_to_f64(raw, digits));
    }
    let mut bytes = format_decimal(out, raw, digits);
    if digits == 0 {
        if let Some(point) = out.get_mut(bytes..bytes + 2) {
            point.copy_from_slice(b".0");
        }
        return bytes + 2;
    }
    // One digit stays after the point.
    while matches!(out.get(bytes - 2..bytes), Some([before, b'0']) if *before != b'.') {
        bytes -= 1;
    }
    bytes
}

/// Appends `raw / 10^digits` with exactly `digits` digits after the point, such as `-0.05`.
pub fn write_decimal(out: &mut Vec<u8>, raw: i64, digits: u8) {
    let mut text = [0; TEXT_BUFFER_BYTES];
    let bytes = format_decimal(&mut text, raw, digits);
    out.extend_from_slice(cells::range(&text, 0..bytes));
}

/// Appends the shortest text that reads back as the same double, a JSON number; `null` for NaN and infinities.
pub fn write_f64(out: &mut Vec<u8>, value: f64) {
    out.extend_from_slice(NumberText::of_f64(value).as_bytes());
}

/// Appends an integer.
pub fn write_i64(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::NumberError::*;
    use super::*;
    use proptest::prelude::*;

    fn exact(text: &str, digits: u8) -> Result<i64, NumberError> {
        parse_decimal(text.as_bytes(), digits, Rounding::Exact).map(|fixed| fixed.raw)
    }

    fn nearest(text: &str, digits: u8) -> Result<(i64, bool), NumberError> {
        parse_decimal(text.as_bytes(), digits, Rounding::Nearest).map(|fixed| (fixed.raw, fixed.rounded))
    }

    #[test]
    fn neighbours_of_wide_numbers_are_exact_at_any_length() {
        let max = i128::MAX;
        for (text, digits, floor, ceil) in [
            ("0", 38, Some(0), Some(0)),
            ("-0.00", 0, Some(0), Some(0)),
            ("1.5", 0, Some(1), Some(2)),
            ("-1.5", 0, Some(-2), Some(-1)),
            ("1.5", 1, Some(15), Some(15)),
            ("1e-40", 38, Some(0), Some(1)),
            ("-1e-40", 38, Some(-1), Some(0)),
            ("12e3", 2, Some(1_200_000), Some(1_200_000)),
            ("170141183460469231731687303715884105727", 0, Some(max), Some(max)),
            ("170141183460469231731687303715884105728", 0, Some(max), None),
            ("170141183460469231731687303715884105727.1", 0, Some(max), None),
            ("-170141183460469231731687303715884105729", 0, None, Some(i128::MIN)),
            ("1e99999999999999999999", 0, Some(max), None),
            ("1e-99999999999999999999", 0, Some(0), Some(1)),
        ] {
            assert_eq!(wide_around(text.as_bytes(), digits), Ok((floor, ceil)), "{text}, {digits} digits");
        }
        assert_eq!(wide_around(b"1x", 0), Err(NumberError::NotANumber));
        assert_eq!(floats_around(b"0.1"), Ok((Some(0.1), Some(0.1))));
        assert_eq!(floats_around(b"1e39"), Ok((Some(f32::MAX), None)));
        assert_eq!(floats_around(b"-1e39"), Ok((None, Some(f32::MIN))));
        assert_eq!(floats_around(b"nan"), Err(NumberError::NotFinite));
    }

    #[test]
    fn decimals_are_parsed_exactly() {
        for (text, digits, raw) in [
            ("42000.15", 2, 4_200_015),
            ("-0.05", 2, -5),
            ("+5.", 2, 500),
            (".5", 1, 5),
            ("8e-8", 8, 8),
            ("1E3", 0, 1000),
            ("1.2300", 2, 123),
            ("0e999999999999", 2, 0),
            ("0e-999999999999999999999999", 2, 0),
            ("-0", 3, 0),
            ("999999999999999999", 0, 999_999_999_999_999_999),
            ("0.000000000000000001", 18, 1),
            ("0000000000000000000000000000001.50", 2, 150),
            ("1.5000000000000000000000000000000", 1, 15),
            ("100000000000000000000000000000e-27", 2, 10_000),
        ] {
            assert_eq!(exact(text, digits), Ok(raw), "{text}");
        }
    }

    #[test]
    fn numbers_that_do_not_fit_are_rejected_with_a_reason() {
        for (text, digits, error) in [
            ("1.234", 2, PrecisionLoss),
            ("1e-400", 2, PrecisionLoss),
            ("8e-9", 8, PrecisionLoss),
            ("0.00000000000000000000000000000000001", 18, PrecisionLoss),
            ("1e400", 2, Overflow),
            ("1000000000000000000", 0, Overflow),
            ("-10000000000000000", 2, Overflow),
            ("99999999999999999999999999999999", 0, Overflow),
            ("1e999999999999999999999999", 0, Overflow),
            ("nan", 2, NotFinite),
            ("-Infinity", 2, NotFinite),
            ("+INF", 2, NotFinite),
            ("", 2, NotANumber),
            (".", 2, NotANumber),
            ("-", 2, NotANumber),
            (" 1", 2, NotANumber),
            ("1 ", 2, NotANumber),
            ("1e", 2, NotANumber),
            ("1e+", 2, NotANumber),
            ("e5", 2, NotANumber),
            ("1.2.3", 2, NotANumber),
            ("1,5", 2, NotANumber),
            ("0x10", 2, NotANumber),
            ("--1", 2, NotANumber),
            ("1_000", 2, NotANumber),
            ("null", 2, NotANumber),
            ("infinit", 2, NotANumber),
        ] {
            assert_eq!(exact(text, digits), Err(error), "{text}");
        }
        let long = format!("1{}", "0".repeat(1_000_000));
        assert_eq!(exact(&long, 0), Err(Overflow));
        assert_eq!(exact(&format!("{long}e-1000000"), 2), Ok(100));
        let tiny = format!("0.{}5", "0".repeat(1_000_000));
        assert_eq!((exact(&tiny, 2), nearest(&tiny, 2)), (Err(PrecisionLoss), Ok((0, true))));
    }

    #[test]
    fn nearest_rounds_half_to_even() {
        for (text, digits, raw, rounded) in [
            ("0.125", 2, 12, true),
            ("0.135", 2, 14, true),
            ("-0.125", 2, -12, true),
            ("0.1250000000000000000000000000001", 2, 13, true),
            ("0.1249999999999999999999999999999", 2, 12, true),
            ("0.5", 0, 0, true),
            ("1.5", 0, 2, true),
            ("0.50000000000000000000000000000000001", 0, 1, true),
            ("0.05", 0, 0, true),
            ("9e-20", 18, 0, true),
            ("6e-19", 18, 1, true),
            ("5e-19", 18, 0, true),
            ("1.10", 1, 11, false),
        ] {
            assert_eq!(nearest(text, digits), Ok((raw, rounded)), "{text}");
        }
        assert_eq!(nearest("999999999999999999.5", 0), Err(Overflow));
        assert_eq!(nearest("999999999999999999.49", 0), Ok((999_999_999_999_999_999, true)));
    }

    #[test]
    fn integers_and_doubles_share_the_grammar() {
        assert_eq!(parse_i64(b"9223372036854775807"), Ok(i64::MAX));
        assert_eq!(parse_i64(b"-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(parse_i64(b"9223372036854775808"), Err(Overflow));
        assert_eq!(parse_i64(b"18446744073709551615"), Err(Overflow));
        assert_eq!(parse_i64(b"18446744073709551616"), Err(Overflow));
        assert_eq!(parse_i64(b"99999999999999999999"), Err(Overflow));
        assert_eq!((parse_i64(b"1e3"), parse_i64(b"5.0")), (Ok(1000), Ok(5)));
        assert_eq!((parse_i64(b"5.5"), parse_i64(b"x")), (Err(PrecisionLoss), Err(NotANumber)));
        assert_eq!((parse_f64(b"1e400"), parse_f64(b"-inf")), (Err(Overflow), Err(NotFinite)));
        assert_eq!((parse_f64(b"0e999999999999"), parse_f64(b"8e-8")), (Ok(0.0), Ok(8e-8)));
        assert_eq!((parse_f64(b" 1"), parse_f64(b"5.")), (Err(NotANumber), Ok(5.0)));
    }

    #[test]
    fn digits_in_the_text_are_counted() {
        for (text, digits) in [
            ("8e-8", (8, 0)),
            ("100.50", (2, 3)),
            ("0.50", (2, 0)),
            ("1.5e3", (0, 4)),
            ("100.50e-1", (3, 2)),
            ("0E-8", (8, 0)),
            ("0", (0, 0)),
            ("1e300", (0, 255)),
            ("1e-300", (255, 0)),
        ] {
            assert_eq!(fraction_digits(text.as_bytes()), Some(digits), "{text}");
        }
        assert_eq!(fraction_digits(b"NaN"), None);
        for (value, digits) in [(0.1, 1), (1.0, 0), (1e300, 0), (1e-300, 255), (0.30000000000000004, 17), (-8e-8, 8)] {
            assert_eq!(shortest_digits(value), digits, "{value}");
        }
        assert_eq!((shortest_digits(1500.0), shortest_digits(0.0), shortest_digits(f64::NAN)), (0, 0, 0));
    }

    #[test]
    fn doubles_round_on_their_shortest_form() {
        let of = |value, digits| f64_to_decimal(value, digits).map(|fixed| (fixed.raw, fixed.rounded));
        assert_eq!(of(0.1, 8), Ok((10_000_000, false)));
        assert_eq!(of(0.1 + 0.2, 8), Ok((30_000_000, true)));
        assert_eq!(of(0.285, 2), Ok((28, true)));
        assert_eq!(of(0.295, 2), Ok((30, true)));
        assert_eq!(of(-0.0, 2), Ok((0, false)));
        assert_eq!(of(1e18, 0), Err(Overflow));
        assert_eq!(of(f64::NAN, 0), Err(NotFinite));
        assert_eq!(of(f64::NEG_INFINITY, 0), Err(NotFinite));
        assert_eq!(of(f64::MAX, 18), Err(Overflow));
        assert_eq!(of(5e-324, 18), Ok((0, true)));
    }

    #[test]
    fn rescaling_is_exact_or_none() {
        assert_eq!(rescale(123, 2, 4), Some(12_300));
        assert_eq!(rescale(12_300, 4, 2), Some(123));
        assert_eq!(rescale(12_301, 4, 2), None);
        assert_eq!(rescale(1, 0, 18), None);
        assert_eq!(rescale(-999_999_999_999_999_999, 3, 3), Some(-999_999_999_999_999_999));
        assert_eq!((rescale(0, 0, 200), rescale(1, 0, 200), rescale(1, 200, 0)), (Some(0), None, None));
    }

    fn written(raw: i64, digits: u8) -> String {
        let mut out = Vec::new();
        write_decimal(&mut out, raw, digits);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn decimals_are_written_with_all_their_digits() {
        assert_eq!(written(-5, 2), "-0.05");
        assert_eq!(written(5, 0), "5");
        assert_eq!(written(0, 0), "0");
        assert_eq!(written(0, 3), "0.000");
        assert_eq!(written(123, 3), "0.123");
        assert_eq!(written(1234, 3), "1.234");
        assert_eq!(written(i64::MIN, 0), i64::MIN.to_string());
    }

    #[test]
    fn neighbours_of_a_number_are_found_exactly() {
        let ints = |text: &str, digits| integers_around(text.as_bytes(), digits).unwrap();
        assert_eq!(ints("1.25", 2), (Some(125), Some(125)));
        assert_eq!(ints("1.251", 2), (Some(125), Some(126)));
        assert_eq!(ints("1.259999999999999999999999999", 2), (Some(125), Some(126)));
        assert_eq!(ints("-1.251", 2), (Some(-126), Some(-125)));
        assert_eq!(ints("1e-400", 2), (Some(0), Some(1)));
        assert_eq!(ints("-1e-400", 2), (Some(-1), Some(0)));
        assert_eq!(ints("1e30", 2), (Some(i64::MAX), None));
        assert_eq!(ints("-1e30", 2), (None, Some(i64::MIN)));
        assert_eq!(ints("-0", 2), (Some(0), Some(0)));
        let doubles = |text: &str| doubles_around(text.as_bytes()).unwrap();
        assert_eq!(doubles("0.5"), (Some(0.5), Some(0.5)));
        // Every text of a double parses to that double, not to a neighbour.
        for text in ["0.1", "1e-1", "0.10000000000000001", "0.09999999999999999999"] {
            assert_eq!(doubles(text), (Some(0.1), Some(0.1)), "{text}");
        }
        assert_eq!(doubles("0.10000000000000002"), (Some(0.1_f64.next_up()), Some(0.1_f64.next_up())));
        assert_eq!(doubles("-0.3"), (Some(-0.3), Some(-0.3)));
        assert_eq!(doubles("1.7976931348623157e308"), (Some(f64::MAX), Some(f64::MAX)));
        assert_eq!(doubles("1e400"), (Some(f64::MAX), None));
        assert_eq!(doubles("1e-400"), (Some(0.0), Some(0.0)));
        assert!(integers_around(b"nan", 2).is_err() && doubles_around(b"x").is_err());
    }

    proptest! {
        #[test]
        fn written_decimals_read_back(raw in -DECIMAL_LIMIT + 1..DECIMAL_LIMIT, digits in 0_u8..=18) {
            prop_assert_eq!(exact(&written(raw, digits), digits), Ok(raw));
        }

        #[test]
        fn numbers_are_written_like_the_standard_library_does(raw in any::<i64>(), shift in 0_u32..64, digits in 0_u8..=18) {
            let raw = raw >> shift;
            let mut buffer = [7; TEXT_BUFFER_BYTES];
            let bytes = format_i64(&mut buffer, raw);
            prop_assert_eq!(std::str::from_utf8(&buffer[..bytes]).unwrap(), raw.to_string());
            let bytes = format_decimal(&mut buffer, raw, digits);
            let text = format!("{:0>width$}", raw.unsigned_abs(), width = usize::from(digits) + 1);
            let (int, frac) = text.split_at(text.len() - usize::from(digits));
            let (sign, point) = (if raw < 0 { "-" } else { "" }, if digits > 0 { "." } else { "" });
            prop_assert_eq!(std::str::from_utf8(&buffer[..bytes]).unwrap(), format!("{sign}{int}{point}{frac}"));
        }

        #[test]
        fn decimals_are_written_as_their_doubles(raw in any::<i64>(), shift in 0_u32..64, zeros in 0_u32..9, digits in 0_u8..=18) {
            let raw = (raw >> shift) / 10_i64.pow(zeros) * 10_i64.pow(zeros);
            let mut buffer = [7; TEXT_BUFFER_BYTES];
            let bytes = format_decimal_as_f64(&mut buffer, raw, digits);
            let mut wanted = Vec::new();
            write_f64(&mut wanted, decimal_to_f64(raw, digits));
            prop_assert_eq!(String::from_utf8_lossy(&buffer[..bytes]), String::from_utf8_lossy(&wanted));
        }

        #[test]
        fn decimals_become_the_nearest_double(raw in any::<i64>(), shift in 0_u32..64, digits in 0_u8..=18) {
            let raw = raw >> shift;
            let expected: f64 = written(raw, digits).parse().unwrap();
            prop_assert_eq!(decimal_to_f64(raw, digits).to_bits(), expected.abs().copysign(
                if raw < 0 { -1.0 } else { 1.0 }).to_bits());
            let mut out = Vec::new();
            decimals_to_f64(&[raw, 1, raw], digits, &mut out);
            prop_assert_eq!(out, vec![expected, decimal_to_f64(1, digits), expected]);
        }

        #[test]
        fn doubles_follow_their_text(bits in any::<u64>(), raw in -10_i64.pow(17)..10_i64.pow(17), digits in 0_u8..=18) {
            for value in [f64::from_bits(bits), decimal_to_f64(raw, digits), decimal_to_f64(raw >> 20, digits)] {
                if !value.is_finite() {
                    continue;
                }
                let mut text = Vec::new();
                write_f64(&mut text, value);
                prop_assert_eq!(parse_f64(&text).unwrap().to_bits(), value.to_bits());
                prop_assert!(serde_json::from_slice::<serde_json::Number>(&text).is_ok());
                prop_assert_eq!(
                    f64_to_decimal(value, digits),
                    parse_decimal(&text, digits, Rounding::Nearest)
                );
                if f64_to_decimal(value, digits).is_ok() {
                    let lost = f64_to_decimal(value, digits).unwrap().rounded;
                    prop_assert_eq!(lost, shortest_digits(value) > digits);
                }
            }
        }

        #[test]
        fn long_and_short_texts_agree(int in "[0-9]{1,12}", frac in "[0-9]{0,12}", zeros in 0_usize..30, digits in 0_u8..=6) {
            let short = format!("{int}.{frac}");
            let long = format!("{}{int}.{frac}{}", "0".repeat(zeros), "0".repeat(30));
            prop_assert_eq!(nearest(&short, digits), nearest(&long, digits));
            let moved = format!("{int}{frac}{}e-{}", "0".repeat(zeros), frac.len() + zeros);
            prop_assert_eq!(nearest(&short, digits), nearest(&moved, digits));
        }

        #[test]
        fn parsing_any_bytes_does_not_panic(text in proptest::collection::vec(prop_oneof![
            Just(b'-'), Just(b'+'), Just(b'.'), Just(b'e'), Just(b'0'), Just(b'5'), Just(b'9'), any::<u8>()], 0..40)) {
            let double = parse_f64(&text);
            let decimal = parse_decimal(&text, 4, Rounding::Nearest);
            prop_assert_eq!(double == Err(NotANumber), decimal == Err(NotANumber));
            let _ = (parse_i64(&text), fraction_digits(&text));
        }
    }

    #[test]
    fn wide_decimals_are_exact_up_to_38_digits_and_round_half_to_even() {
        let nines = 10_i128.pow(38) - 1;
        for (text, digits, expected) in [
            ("0", 38, Ok((0, false))),
            ("-1.5", 2, Ok((-150, false))),
            ("99999999999999999999999999999999999999", 0, Ok((nines, false))),
            ("-9.9999999999999999999999999999999999999", 37, Ok((-nines, false))),
            ("100000000000000000000000000000000000000", 0, Err(NumberError::Overflow)),
            ("1e38", 0, Err(NumberError::Overflow)),
            ("1e37", 0, Ok((10_i128.pow(37), false))),
            ("1e-38", 38, Ok((1, false))),
            ("0.000000000000000000000000000000000000001", 38, Err(NumberError::PrecisionLoss)),
            ("18446744073709551616", 0, Ok((1 << 64, false))),
            ("1.005", 2, Err(NumberError::PrecisionLoss)),
            ("1.00500", 3, Ok((1_005, false))),
            ("1e999999999999999999999", 0, Err(NumberError::Overflow)),
            ("nan", 0, Err(NumberError::NotFinite)),
            ("1x", 0, Err(NumberError::NotANumber)),
        ] {
            assert_eq!(parse_wide_decimal(text.as_bytes(), digits, Rounding::Exact), expected, "{text}");
        }
        for (text, digits, raw) in [
            ("1.005", 2, 100),
            ("1.015", 2, 102),
            ("1.0050000000000000000000000000000000000000001", 2, 101),
            ("0.12345678901234567890123456789012345678901", 38, 12_345_678_901_234_567_890_123_456_789_012_345_679),
            ("1e-999", 2, 0),
        ] {
            assert_eq!(parse_wide_decimal(text.as_bytes(), digits, Rounding::Nearest), Ok((raw, true)), "{text}");
        }
        assert_eq!((rescale_wide(15, 1, 37), rescale_wide(15, 1, 0)), (Some(15 * 10_i128.pow(36)), None));
        assert_eq!((rescale_wide(nines, 0, 1), rescale_wide(-150, 2, 1)), (None, Some(-15)));
        assert_eq!(f64_to_wide_decimal(0.1, 38), Ok((10_i128.pow(37), false)));
        assert_eq!(f64_to_wide_decimal(1e38, 0), Err(NumberError::Overflow));
    }

    #[test]
    fn floats_of_32_bits_are_the_nearest_to_their_text() {
        assert_eq!((parse_f32(b"0.1"), parse_f32(b"16777217")), (Ok(0.1), Ok(16_777_216.0)));
        assert_eq!(
            (parse_f32(b"1e39"), parse_f32(b"nan"), parse_f32(b"")),
            (Err(NumberError::Overflow), Err(NumberError::NotFinite), Err(NumberError::NotANumber))
        );
    }

    proptest! {
        #[test]
        fn wide_and_narrow_decimals_are_parsed_alike(
            text in "[+-]?[0-9]{1,22}(\\.[0-9]{0,22})?(e-?[0-9]{1,2})?", digits in 0_u8..=18,
        ) {
            for rounding in [Rounding::Exact, Rounding::Nearest] {
                let wide = parse_wide_decimal(text.as_bytes(), digits, rounding);
                match parse_decimal(text.as_bytes(), digits, rounding) {
                    Ok(fixed) => prop_assert_eq!(wide, Ok((i128::from(fixed.raw), fixed.rounded))),
                    Err(NumberError::Overflow) => {
                        prop_assert!(wide.is_err() || wide.is_ok_and(|(raw, _)| raw.abs() >= DECIMAL_LIMIT.into()));
                    }
                    Err(error) => prop_assert_eq!(wide, Err(error)),
                }
            }
        }
    }
}
