//! Time: units, and parsing and formatting of text.
//!
//! Timestamps are UTC epoch integers in the unit of the series. Ranges are closed.

use jiff::civil;
use serde::{Deserialize, Serialize};

use super::civil_days::civil_from_days;
use super::number::{NumberError, parse_i64, write_i64};
use super::width::narrow;
use crate::error::{Error, Result};

/// Unit of the timestamps of a series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum TimeUnit {
    S,
    #[default]
    Ms,
    Us,
    Ns,
}

impl TimeUnit {
    /// Ticks in a second.
    pub fn per_second(self) -> i64 {
        match self {
            TimeUnit::S => 1,
            TimeUnit::Ms => 1_000,
            TimeUnit::Us => 1_000_000,
            TimeUnit::Ns => 1_000_000_000,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            TimeUnit::S => "s",
            TimeUnit::Ms => "ms",
            TimeUnit::Us => "us",
            TimeUnit::Ns => "ns",
        }
    }

    /// First valid timestamp: 1678-01-01T00:00:00Z.
    pub fn min_ts(self) -> i64 {
        MIN_SECOND * self.per_second()
    }

    /// Last valid timestamp: the last tick of 2261-12-31.
    pub fn max_ts(self) -> i64 {
        (MAX_SECOND + 1) * self.per_second() - 1
    }
}

const SECONDS_PER_DAY: i64 = 86_400;
/// 1678-01-01T00:00:00Z in seconds.
pub const MIN_SECOND: i64 = -9_214_560_000;
/// 2261-12-31T23:59:59Z in seconds.
pub const MAX_SECOND: i64 = 9_214_646_399;

/// The bound of a closed range that a text sets: it decides the meaning of a bare date and of finer digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    Start,
    End,
}

/// A point in time parsed from text.
struct Instant {
    /// Seconds from 1970-01-01T00:00:00Z.
    second: i64,
    /// The fraction of a second.
    fraction: Fraction,
    /// The text has no time of day.
    is_date: bool,
}

/// The first nine digits of a fraction, and whether a later one is not zero.
#[derive(Clone, Copy, Default)]
struct Fraction {
    nanos: i64,
    finer: bool,
}

impl Instant {
    /// Ticks of `unit`, rounded down, and whether there is a remainder.
    fn ticks(&self, unit: TimeUnit) -> Option<(i64, bool)> {
        let nanos_per_tick = 1_000_000_000 / unit.per_second();
        let whole = self.fraction.nanos / nanos_per_tick;
        let rest = self.fraction.nanos % nanos_per_tick != 0 || self.fraction.finer;
        Some((self.second.checked_mul(unit.per_second())?.checked_add(whole)?, rest))
    }
}

/// Parses `count` digits.
fn take_number(text: &mut &[u8], count: usize) -> Option<i16> {
    let (digits, rest) = text.split_at_checked(count)?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    *text = rest;
    Some(digits.iter().fold(0, |sum: i16, digit| sum.wrapping_mul(10).wrapping_add((digit - b'0').into())))
}

fn take_byte(text: &mut &[u8], byte: u8) -> Option<()> {
    *text = text.strip_prefix(&[byte])?;
    Some(())
}

/// Parses a date, or a date and a time of day with an optional offset.
fn read_instant(text: &[u8]) -> Option<Instant> {
    let mut rest = text;
    let century = take_number(&mut rest, 2)?;
    let year = century * 100 + take_number(&mut rest, 2)?;
    take_byte(&mut rest, b'-')?;
    let month = i8::try_from(take_number(&mut rest, 2)?).ok()?;
    take_byte(&mut rest, b'-')?;
    let day = i8::try_from(take_number(&mut rest, 2)?).ok()?;
    let date = civil::Date::new(year, month, day).ok()?;
    if rest.is_empty() {
        let second = epoch_seconds(date.to_datetime(civil::Time::midnight()));
        return Some(Instant { second, fraction: Fraction::default(), is_date: true });
    }
    rest = match rest {
        [b'T' | b't' | b' ', rest @ ..] => rest,
        _ => return None,
    };
    let hour = take_number(&mut rest, 2)?;
    take_byte(&mut rest, b':')?;
    let minute = take_number(&mut rest, 2)?;
    let mut second = 0;
    let mut fraction = Fraction::default();
    if let [b':', tail @ ..] = rest {
        rest = tail;
        second = take_number(&mut rest, 2)?;
        if let [b'.', tail @ ..] = rest {
            let count = tail.iter().position(|b| !b.is_ascii_digit()).unwrap_or(tail.len());
            let (digits, tail) = tail.split_at(count);
            if digits.is_empty() {
                return None;
            }
            let nine = digits.iter().copied().chain(std::iter::repeat(b'0')).take(9);
            fraction.nanos = nine.fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
            fraction.finer = digits.iter().skip(9).any(|digit| *digit != b'0');
            rest = tail;
        }
    }
    let part = |value: i16| i8::try_from(value).ok();
    let time = civil::Time::new(part(hour)?, part(minute)?, part(second)?, 0).ok()?;
    let second = epoch_seconds(date.to_datetime(time)) - read_offset(rest)?;
    Some(Instant { second, fraction, is_date: false })
}

/// Seconds from 1970-01-01T00:00:00 to a wall clock of whole seconds.
fn epoch_seconds(wall: civil::DateTime) -> i64 {
    wall.duration_since(civil::DateTime::constant(1970, 1, 1, 0, 0, 0, 0)).as_secs()
}

/// Seconds east of UTC of `Z`, `+01:00`, `+0100`, `+01` or empty text; a space is a `+` decoded from a URL.
fn read_offset(text: &[u8]) -> Option<i64> {
    let (sign, mut rest) = match text {
        [] | [b'Z' | b'z'] => return Some(0),
        [b'+' | b' ', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return None,
    };
    let hours = take_number(&mut rest, 2)?;
    let minutes = match rest {
        [] => 0,
        [b':', tail @ ..] | tail => {
            rest = tail;
            take_number(&mut rest, 2)?
        }
    };
    if !rest.is_empty() || hours > 23 || minutes > 59 {
        return None;
    }
    Some(sign * (i64::from(hours) * 3_600 + i64::from(minutes) * 60))
}

/// Whether text is a plain integer.
fn is_integer(text: &[u8]) -> bool {
    let digits = match text {
        [b'-' | b'+', rest @ ..] => rest,
        rest => rest,
    };
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

/// Parses a time of a request: an epoch integer in `unit`, RFC 3339 text (no offset means UTC) or a date.
///
/// A date as [`Bound::End`] means its last tick. Digits finer than the unit are rounded into the range: up at its
/// start, down at its end.
///
/// # Errors
/// `invalid_argument` naming the text, also outside 1678-01-01 to 2261-12-31.
pub fn parse_param(text: &str, unit: TimeUnit, bound: Bound) -> Result<i64> {
    let shown = || -> String { text.chars().take(80).collect() };
    let outside = || {
        Error::invalid(format!("time {:?} is outside 1678-01-01 to 2261-12-31", shown()))
            .with_hint(format!("epoch integers are read in the unit of the series, {}", unit.name()))
    };
    let bytes = text.as_bytes();
    let ts = if is_integer(bytes) {
        parse_i64(bytes).map_err(|_| outside())?
    } else {
        let instant = read_instant(bytes).ok_or_else(|| {
            Error::invalid(format!("time {:?} is not a time", shown()))
                .with_hint("an epoch integer, RFC 3339 such as 2024-02-29T12:00:00Z, or a date")
        })?;
        let (ticks, finer) = instant.ticks(unit).ok_or_else(outside)?;
        match bound {
            Bound::Start => ticks.saturating_add(i64::from(finer)),
            Bound::End if instant.is_date => ticks.saturating_add(SECONDS_PER_DAY * unit.per_second() - 1),
            Bound::End => ticks,
        }
    };
    if in_range(ts, unit) { Ok(ts) } else { Err(outside()) }
}

/// Parses a `ts` cell: an epoch integer in `unit`, RFC 3339 text or a date (its first tick).
///
/// # Errors
/// The reason of a row error: `bad_time`, also for digits finer than the unit, or `time_out_of_range`.
pub fn parse_cell(text: &[u8], unit: TimeUnit) -> Result<i64, &'static str> {
    parse_cell_as(text, unit).map(|(ts, _)| ts)
}

/// Notation of a timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeNotation {
    /// An integer, which does not show its unit.
    Epoch,
    /// A date, with or without a time of day.
    Date,
}

/// Like [`parse_cell`], and returns the notation of the cell.
///
/// # Errors
/// As [`parse_cell`].
pub fn parse_cell_as(text: &[u8], unit: TimeUnit) -> Result<(i64, TimeNotation), &'static str> {
    let (ts, written) = match parse_i64(text) {
        Ok(ts) => (ts, TimeNotation::Epoch),
        Err(NumberError::Overflow) => return Err("time_out_of_range"),
        Err(_) => {
            let instant = read_instant(text).ok_or("bad_time")?;
            let (ticks, finer) = instant.ticks(unit).ok_or("time_out_of_range")?;
            if finer {
                return Err("bad_time");
            }
            (ticks, TimeNotation::Date)
        }
    };
    if in_range(ts, unit) { Ok((ts, written)) } else { Err("time_out_of_range") }
}

/// Seconds from the epoch to 1990-01-01 and to 2100-01-01, the period of most market data.
pub const MODERN: std::ops::Range<i64> = 631_152_000..4_102_444_800;
/// Common units of epoch integers, with their ticks per second.
const EPOCH_UNITS: [(&str, i64); 4] = [("s", 1), ("ms", 1_000), ("us", 1_000_000), ("ns", 1_000_000_000)];

/// Whether an epoch integer lies in 1990 to 2099 in a unit of `per_second` ticks per second.
fn is_modern(epoch: i64, per_second: i64) -> bool {
    MODERN.contains(&epoch.div_euclid(per_second))
}

/// The coarser unit in which a timestamp would lie in 1990 to 2099, as name and ticks per second. In `unit` such a
/// timestamp lies within the first 48 days of 1970.
pub fn coarser_unit_of(ts: i64, unit: TimeUnit) -> Option<(&'static str, i64)> {
    EPOCH_UNITS
        .into_iter()
        .filter(|(_, per_second)| *per_second < unit.per_second())
        .find(|(_, per_second)| is_modern(ts, *per_second))
}

/// The finer unit in which an epoch integer would lie in 1990 to 2099. In `unit` it is out of range.
pub fn finer_unit_of(epoch: i64, unit: TimeUnit) -> Option<&'static str> {
    EPOCH_UNITS
        .into_iter()
        .filter(|(_, per_second)| *per_second > unit.per_second())
        .find(|(_, per_second)| is_modern(epoch, *per_second))
        .map(|(name, _)| name)
}

/// All timestamps for which [`coarser_unit_of`] can return a unit lie in this range.
pub fn coarser_units_span(unit: TimeUnit) -> (i64, i64) {
    (MODERN.start, MODERN.end.saturating_mul(unit.per_second() / 1_000))
}

/// Whether a timestamp is before 1990 and not within the months around the epoch, where integers of a coarser unit
/// fall: a series with such a row has old data.
pub fn is_old(ts: i64, unit: TimeUnit) -> bool {
    /// In a coarser unit all valid times shrink to 107 days on either side of the epoch.
    const AROUND_EPOCH_DAYS: i64 = 122;
    let near = AROUND_EPOCH_DAYS * SECONDS_PER_DAY * unit.per_second();
    ts < MODERN.start * unit.per_second() && !(-near..near).contains(&ts)
}

/// A timestamp as RFC 3339 text, see [`write_rfc3339`].
pub fn rfc3339(ts: i64, unit: TimeUnit) -> String {
    let mut out = Vec::new();
    write_rfc3339(&mut out, ts, unit);
    String::from_utf8_lossy(&out).into_owned()
}

/// Whether a timestamp lies in 1678-01-01 to 2261-12-31.
pub fn in_range(ts: i64, unit: TimeUnit) -> bool {
    (unit.min_ts()..=unit.max_ts()).contains(&ts)
}

/// Converts a timestamp from a unit with `from_per_second` ticks per second; `None` unless exact.
pub fn convert(ts: i64, from_per_second: i64, to: TimeUnit) -> Option<i64> {
    convert_wide(ts, from_per_second, to).and_then(|ts| i64::try_from(ts).ok())
}

/// As [`convert`], of any magnitude.
pub fn convert_wide(ts: i64, from_per_second: i64, to: TimeUnit) -> Option<i128> {
    let wide = i128::from(ts) * i128::from(to.per_second());
    let from = i128::from(from_per_second);
    if wide.checked_rem(from)? != 0 {
        return None;
    }
    Some(wide / from)
}

/// Two decimal digits of a number below 100.
fn two(value: i64) -> [u8; 2] {
    let value: u8 = narrow(value % 100);
    [b'0' + value / 10, b'0' + value % 10]
}

/// Appends RFC 3339 text in UTC, such as `2024-02-01T00:00:00Z`, with a fraction of all digits of the unit unless it is
/// zero.
pub fn write_rfc3339(out: &mut Vec<u8>, ts: i64, unit: TimeUnit) {
    let per_second = unit.per_second();
    let (second, fraction) = (ts.div_euclid(per_second), ts.rem_euclid(per_second));
    let (days, of_day) = (second.div_euclid(SECONDS_PER_DAY), second.rem_euclid(SECONDS_PER_DAY));
    let (year, month, day) = civil_from_days(days);
    if (0..=9_999).contains(&year) {
        out.extend_from_slice(&two(year / 100));
        out.extend_from_slice(&two(year % 100));
    } else {
        // Unreachable for valid timestamps.
        write_i64(out, year);
    }
    let [m1, m2] = two(i64::from(month));
    let [d1, d2] = two(i64::from(day));
    let [h1, h2] = two(of_day / 3_600);
    let [n1, n2] = two(of_day / 60 % 60);
    let [s1, s2] = two(of_day % 60);
    out.extend_from_slice(&[b'-', m1, m2, b'-', d1, d2, b'T', h1, h2, b':', n1, n2, b':', s1, s2]);
    if fraction != 0 {
        out.push(b'.');
        let mut divisor = per_second / 10;
        while divisor > 0 {
            out.push(b'0' + narrow::<u8, _>(fraction / divisor % 10));
            divisor /= 10;
        }
    }
    out.push(b'Z');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(ts: i64, unit: TimeUnit) -> String {
        let mut out = Vec::new();
        write_rfc3339(&mut out, ts, unit);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn times_of_a_request_round_into_the_range() {
        use Bound::{End, Start};
        use TimeUnit::{Ms, Ns};
        for (text, unit, bound, ts) in [
            ("1706745600000", Ms, Start, 1_706_745_600_000),
            ("-1", Ms, Start, -1),
            ("2024-02-01", Ms, Start, 1_706_745_600_000),
            ("2024-02-29", Ms, End, 1_709_251_199_999),
            ("2024-02-29", Ns, End, 1_709_251_199_999_999_999),
            ("2024-02-01T00:00:00Z", Ms, End, 1_706_745_600_000),
            ("2024-02-01t00:00:00z", Ms, End, 1_706_745_600_000),
            ("2024-02-01 00:00", Ms, End, 1_706_745_600_000),
            ("2024-02-01T01:00:00+01:00", Ms, End, 1_706_745_600_000),
            ("2024-02-01T01:00:00 01:00", Ms, End, 1_706_745_600_000),
            ("2024-02-01 05:30:00 05:30", Ms, End, 1_706_745_600_000),
            ("2024-01-31T19:00:00-0500", Ms, End, 1_706_745_600_000),
            ("2024-02-01T00:00:00.0001Z", Ms, Start, 1_706_745_600_001),
            ("2024-02-01T00:00:00.0009Z", Ms, End, 1_706_745_600_000),
            ("2024-02-01T00:00:00.0010Z", Ms, Start, 1_706_745_600_001),
            ("2024-02-01T00:00:00.00000000001", Ns, Start, 1_706_745_600_000_000_001),
            ("1969-12-31T23:59:59.9999Z", Ms, End, -1),
            ("1969-12-31T23:59:59.9999Z", Ms, Start, 0),
            ("1678-01-01", Ns, Start, -9_214_560_000_000_000_000),
            ("2261-12-31", Ns, End, 9_214_646_399_999_999_999),
        ] {
            assert_eq!(parse_param(text, unit, bound).unwrap(), ts, "{text}");
        }
    }

    #[test]
    fn bad_times_are_rejected_by_name() {
        for bad in [
            "",
            "now",
            "2024",
            "2024-2-1",
            "2023-02-29",
            "2024-13-01",
            "2024-00-01",
            "2024-01-00",
            "2024-01-01T",
            "2024-01-01T24:00:00Z",
            "2024-01-01T00:60:00Z",
            "2024-01-01T00:00:60Z",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:00+1",
            "2024-01-01T00:00:00+24:00",
            "2024-01-01T00:00:00Zx",
            "1677-12-31",
            "2262-01-01",
            "99999999999999999999",
            "9214646400000",
            "1e3",
            "1.5",
            " 5",
            "２０２４-01-01",
        ] {
            match parse_param(bad, TimeUnit::Ms, Bound::Start) {
                // An epoch integer is read in milliseconds, however small.
                Ok(ts) => assert_eq!((bad, ts), ("2024", 2024)),
                Err(error) => {
                    assert_eq!(error.code(), crate::ErrorCode::InvalidArgument);
                    assert!(error.detail().contains(bad), "{error}");
                }
            }
        }
    }

    #[test]
    fn cells_are_exact_or_bad() {
        let of = |text: &str| parse_cell(text.as_bytes(), TimeUnit::Ms);
        assert_eq!(of("1706745600000"), Ok(1_706_745_600_000));
        assert_eq!(of("1706745600000.0"), Ok(1_706_745_600_000));
        assert_eq!(of("2024-02-01"), Ok(1_706_745_600_000));
        assert_eq!(of("2024-02-01T00:00:00.001000Z"), Ok(1_706_745_600_001));
        for bad in ["", "x", "1.5", "2024-02-01T00:00:00.0001Z", "2024-02-30", "nan"] {
            assert_eq!(of(bad), Err("bad_time"), "{bad}");
        }
        for bad in ["9214646400000", "99999999999999999999", "1600-01-01", "9999-12-31T00:00:00Z"] {
            assert_eq!(of(bad), Err("time_out_of_range"), "{bad}");
        }
    }

    #[test]
    fn units_convert_exactly_or_not_at_all() {
        assert_eq!(convert(5, 1, TimeUnit::Ms), Some(5_000));
        assert_eq!(convert(5_000_000, 1_000_000_000, TimeUnit::Ms), Some(5));
        assert_eq!(convert(5_000_001, 1_000_000_000, TimeUnit::Ms), None);
        assert_eq!(convert(i64::MAX, 1, TimeUnit::Ns), None);
        assert_eq!(convert(i64::MIN, 1_000, TimeUnit::Ms), Some(i64::MIN));
        assert_eq!(convert(1, 0, TimeUnit::Ms), None);
    }

    #[test]
    fn text_has_a_fraction_only_when_needed() {
        assert_eq!(text(1_706_745_600_000, TimeUnit::Ms), "2024-02-01T00:00:00Z");
        assert_eq!(text(1_706_745_600_010, TimeUnit::Ms), "2024-02-01T00:00:00.010Z");
        assert_eq!(text(-1, TimeUnit::Us), "1969-12-31T23:59:59.999999Z");
        assert_eq!(text(1, TimeUnit::Ns), "1970-01-01T00:00:00.000000001Z");
        // Not valid, but must not panic.
        for ts in [i64::MIN, i64::MAX] {
            assert!(text(ts, TimeUnit::Ms).ends_with('Z'));
        }
    }

    proptest! {
        #[test]
        fn written_times_read_back(seed in any::<i64>(), unit in 0_usize..3) {
            let unit = [TimeUnit::Ms, TimeUnit::Us, TimeUnit::Ns][unit];
            let span = i128::from(unit.max_ts()) - i128::from(unit.min_ts()) + 1;
            let ts = i64::try_from(i128::from(unit.min_ts()) + i128::from(seed).rem_euclid(span)).unwrap();
            let text = text(ts, unit);
            prop_assert_eq!(parse_cell(text.as_bytes(), unit), Ok(ts));
            prop_assert_eq!(parse_param(&text, unit, Bound::Start).unwrap(), ts);
            prop_assert_eq!(parse_param(&text, unit, Bound::End).unwrap(), ts);
            // An independent implementation of the calendar.
            let theirs: jiff::Timestamp = text.parse().unwrap();
            let nanos = i128::from(ts) * i128::from(1_000_000_000 / unit.per_second());
            prop_assert_eq!(theirs.as_nanosecond(), nanos);
        }

        #[test]
        fn parsing_any_text_does_not_panic(text in "[-+0-9TZ:. ]{0,32}") {
            let _ = parse_param(&text, TimeUnit::Ns, Bound::Start);
            let _ = parse_cell(text.as_bytes(), TimeUnit::Ns);
        }
    }
}
