//! Text of the numbers that [`number`] does not write: decimals of 16 bytes, floats of 4 bytes, unsigned integers.

use std::io::Write;

use super::cells;
use super::number;

/// Magnitudes of a wide decimal are below this: 10^38.
pub const WIDE_LIMIT: u128 = 10_u128.pow(38);

/// Appends `raw / 10^digits` with exactly `digits` digits after the point, such as `-0.05`.
pub fn write_wide(out: &mut Vec<u8>, raw: i128, digits: u8) {
    let mut buffer = itoa::Buffer::new();
    let text = buffer.format(raw.unsigned_abs()).as_bytes();
    if raw < 0 {
        out.push(b'-');
    }
    let digits = usize::from(digits);
    if digits == 0 {
        return out.extend_from_slice(text);
    }
    match text.len().checked_sub(digits).filter(|before| *before > 0) {
        Some(before) => {
            let (before, after) = text.split_at(before);
            out.extend_from_slice(before);
            out.push(b'.');
            out.extend_from_slice(after);
        }
        None => {
            out.extend_from_slice(b"0.");
            out.resize(out.len() + digits - text.len(), b'0');
            out.extend_from_slice(text);
        }
    }
}

/// The double nearest to `raw / 10^digits`.
pub fn wide_to_f64(raw: i128, digits: u8) -> f64 {
    if let (Ok(raw), 0..=18) = (i64::try_from(raw), digits) {
        return number::decimal_to_f64(raw, digits);
    }
    // Sign, 39 digits, and an exponent of three.
    let mut text = [0_u8; 48];
    let mut rest = &mut text[..];
    let written = write!(rest, "{raw}e-{digits}");
    let used = 48 - rest.len();
    let parsed = std::str::from_utf8(cells::range(&text, 0..used)).ok().and_then(|text| text.parse().ok());
    #[allow(clippy::cast_precision_loss, reason = "the text always fits; this is the nearest value without it")]
    parsed.filter(|_| written.is_ok()).unwrap_or_else(|| raw as f64 / 10_f64.powi(i32::from(digits)))
}

/// Converts `raw` from `from` to at least as many digits `to`; `None` unless the result is below the limit.
pub fn rescale_wide(raw: i128, from: u8, to: u8) -> Option<i128> {
    if raw == 0 {
        return Some(0);
    }
    let factor = 10_i128.checked_pow(u32::from(to.checked_sub(from)?))?;
    raw.checked_mul(factor).filter(|scaled| scaled.unsigned_abs() < WIDE_LIMIT)
}

/// Appends the shortest text that reads back as the same float, a JSON number; `null` for NaN and infinities.
pub fn write_f32(out: &mut Vec<u8>, value: f32) {
    // Writing to memory cannot fail.
    let _ = serde_json::to_writer(out, &value);
}

/// Appends an integer.
pub fn write_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(raw: i128, digits: u8) -> String {
        let mut out = Vec::new();
        write_wide(&mut out, raw, digits);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn wide_decimals_are_written_with_all_their_digits() {
        let nines = 10_i128.pow(38) - 1;
        for (raw, digits, expected) in [
            (0, 0, "0"),
            (0, 2, "0.00"),
            (-5, 2, "-0.05"),
            (-500, 2, "-5.00"),
            (1, 38, "0.00000000000000000000000000000000000001"),
            (nines, 0, "99999999999999999999999999999999999999"),
            (-nines, 38, "-0.99999999999999999999999999999999999999"),
            (nines, 8, "999999999999999999999999999999.99999999"),
        ] {
            assert_eq!(text(raw, digits), expected);
        }
    }

    #[test]
    fn the_nearest_double_is_that_of_the_text() {
        for raw in [0, 1, -7, 1 << 53, (1 << 53) + 1, 10_i128.pow(38) - 1, -(10_i128.pow(30) + 1), i128::from(i64::MAX)]
        {
            for digits in [0, 2, 18, 19, 38] {
                let expected: f64 = text(raw, digits).parse().unwrap();
                assert_eq!(wide_to_f64(raw, digits), expected, "{raw} {digits}");
            }
        }
    }

    #[test]
    fn rescaling_is_exact_or_fails() {
        assert_eq!(
            (rescale_wide(-7, 2, 4), rescale_wide(0, 0, 38), rescale_wide(1, 4, 2)),
            (Some(-700), Some(0), None)
        );
        assert_eq!(rescale_wide(1, 0, 37), Some(10_i128.pow(37)));
        assert_eq!((rescale_wide(1, 0, 38), rescale_wide(10_i128.pow(37), 0, 2)), (None, None));
    }

    #[test]
    fn floats_are_written_shortest() {
        for value in [0.1_f32, -1.25, f32::MAX, f32::MIN_POSITIVE, 16_777_216.0, 1e-45, 3.402_823e38] {
            let mut out = Vec::new();
            write_f32(&mut out, value);
            let text = String::from_utf8(out).unwrap();
            assert_eq!(text.parse::<f32>().unwrap(), value);
            assert_eq!(text.parse::<f64>().unwrap() as f32, value);
            assert!(text.len() <= 16, "{text}");
        }
    }
}
