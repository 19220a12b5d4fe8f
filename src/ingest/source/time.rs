//! Times of a source: epoch numbers, textual formats, zones.
//!
//! A [`TimeReader`] reads the time cells of one file by one rule. An ambiguous time is an error of its row: a date
//! whose day or month may come first, a wall-clock time that a zone skips or repeats.

use jiff::fmt::strtime::BrokenDownTime;
use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, civil};

use crate::error::{Error, Result};
use crate::types::number::parse_i64;
use crate::types::time::{MAX_SECOND, TimeUnit, in_range};

use super::cell::SourceCell;

const SECONDS_MAX: u64 = MAX_SECOND.unsigned_abs();

/// Unit of epoch integers in a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochUnit {
    S,
    Ms,
    Us,
    Ns,
}

impl EpochUnit {
    pub const ALL: [EpochUnit; 4] = [Self::S, Self::Ms, Self::Us, Self::Ns];

    pub fn name(self) -> &'static str {
        match self {
            EpochUnit::S => "s",
            EpochUnit::Ms => "ms",
            EpochUnit::Us => "us",
            EpochUnit::Ns => "ns",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|unit| unit.name() == name)
    }

    /// Ticks per second.
    pub fn per_second(self) -> i64 {
        match self {
            EpochUnit::S => 1,
            EpochUnit::Ms => 1_000,
            EpochUnit::Us => 1_000_000,
            EpochUnit::Ns => 1_000_000_000,
        }
    }
}

/// A point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceTime(Timestamp);

impl SourceTime {
    fn of_ticks(ticks: i64, per_second: i64) -> Result<Self, BadTime> {
        let nanos = ticks.rem_euclid(per_second) * (1_000_000_000 / per_second);
        let nanos = i32::try_from(nanos).map_err(|_| out_of_range())?;
        Timestamp::new(ticks.div_euclid(per_second), nanos).map(Self).map_err(|_| out_of_range())
    }

    /// The coarsest unit that holds this moment exactly.
    pub fn unit(self) -> TimeUnit {
        match self.0.subsec_nanosecond() {
            nanos if nanos % 1_000_000 == 0 => TimeUnit::Ms,
            nanos if nanos % 1_000 == 0 => TimeUnit::Us,
            _ => TimeUnit::Ns,
        }
    }

    /// The timestamp in `unit`.
    pub fn ticks(self, unit: TimeUnit) -> Result<i64, BadTime> {
        let (step, nanos) = (1_000_000_000 / unit.per_second(), i64::from(self.0.subsec_nanosecond()));
        if nanos % step != 0 {
            let message = format!("is finer than the unit of the series, {}", unit.name());
            return Err(BadTime { reason: "precision_loss", message });
        }
        // Seconds and nanoseconds before the epoch are both negative.
        let ticks = self.0.as_second().checked_mul(unit.per_second());
        let ticks = ticks.and_then(|ticks| ticks.checked_add(nanos / step));
        ticks.filter(|ticks| in_range(*ticks, unit)).ok_or_else(out_of_range)
    }
}

/// Why a cell is not a valid time: a stable reason, and the text after the quoted cell in the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadTime {
    pub reason: &'static str,
    pub message: String,
}

fn bad(message: impl Into<String>) -> BadTime {
    BadTime { reason: "bad_time", message: message.into() }
}

fn out_of_range() -> BadTime {
    BadTime { reason: "time_out_of_range", message: "is outside 1678-01-01 to 2261-12-31".into() }
}

/// Parses the zone of textual times without an offset: an IANA name or a fixed offset.
///
/// # Errors
/// `invalid_argument` for an unknown name.
pub fn parse_zone(text: &str) -> Result<TimeZone> {
    if text.eq_ignore_ascii_case("utc") || text.eq_ignore_ascii_case("z") {
        return Ok(TimeZone::UTC);
    }
    if let Some(offset) = parse_offset(text.as_bytes()) {
        return Ok(TimeZone::fixed(offset));
    }
    TimeZone::get(text).map_err(|_| {
        Error::invalid(format!("--time-zone {text:?} is unknown"))
            .with_hint("use an IANA name such as America/New_York, or a fixed offset such as -05:00")
    })
}

/// How the time cells of a file are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TimeRule {
    /// Epoch numbers with this many ticks per second.
    Epoch(i64),
    /// A strftime format.
    Format(String),
    /// Any of the common unambiguous formats.
    Layouts,
}

impl TimeRule {
    /// A description for messages.
    pub fn describe(&self) -> String {
        match self {
            TimeRule::Epoch(1) => "epoch s".into(),
            TimeRule::Epoch(1_000) => "epoch ms".into(),
            TimeRule::Epoch(1_000_000) => "epoch us".into(),
            TimeRule::Epoch(_) => "epoch ns".into(),
            TimeRule::Format(format) => format.clone(),
            TimeRule::Layouts => "written".into(),
        }
    }

    /// The rule for a file: from the flags, else from the first time cells of the file.
    pub fn detect(unit: Option<EpochUnit>, format: Option<&str>, sample: &[String]) -> Self {
        if let Some(format) = format {
            return TimeRule::Format(format.into());
        }
        if let Some(unit) = unit {
            return TimeRule::Epoch(unit.per_second());
        }
        let filled: Vec<&[u8]> = sample.iter().map(|text| text.trim().as_bytes()).filter(|t| !t.is_empty()).collect();
        let epochs: Option<Vec<u64>> = filled.iter().map(|text| integer_part(text)).collect();
        match epochs {
            // Compact dates are integers too: they are dates only if every cell is one.
            Some(epochs) if !epochs.is_empty() && !filled.iter().all(|text| compact(text).is_some()) => {
                let largest = epochs.into_iter().max().unwrap_or(0);
                TimeRule::Epoch(match largest {
                    0..=SECONDS_MAX => 1,
                    _ if largest <= SECONDS_MAX * 1_000 => 1_000,
                    _ if largest <= SECONDS_MAX * 1_000_000 => 1_000_000,
                    _ => 1_000_000_000,
                })
            }
            _ => TimeRule::Layouts,
        }
    }
}

/// Magnitude of an epoch number without its fraction; `None` if the text is not a plain number.
fn integer_part(text: &[u8]) -> Option<u64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let mut parts = digits.splitn(2, |b| *b == b'.');
    let integer = parts.next()?;
    if integer.is_empty() || !parts.next().unwrap_or_default().iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(integer).ok()?.parse().ok()
}

/// Whether a cell can be a time: a common format, or an integer of at least 9 digits.
pub fn looks_like_time(text: &str) -> bool {
    let text = text.trim().as_bytes();
    layout(text).is_ok() || integer_part(text).is_some_and(|number| number >= 100_000_000)
}

/// Whether the text of a time cell is a plain number.
pub fn is_plain_number(text: &str) -> bool {
    integer_part(text.trim().as_bytes()).is_some()
}

/// Whether epoch numbers of this rule look like times since midnight: every sample is in the first day since the epoch,
/// in the unit of the rule or, if the unit was detected by magnitude, in milliseconds.
pub fn look_like_times_of_day(rule: &TimeRule, unit: Option<EpochUnit>, sample: &[String]) -> bool {
    let TimeRule::Epoch(per_second) = rule else { return false };
    let per_second = if unit.is_some() { *per_second } else { (*per_second).max(1_000) };
    let day = per_second.unsigned_abs().saturating_mul(86_400);
    let mut filled = sample.iter().map(|text| text.trim()).filter(|text| !text.is_empty()).peekable();
    filled.peek().is_some()
        && filled.all(|text| !text.starts_with('-') && integer_part(text.as_bytes()).is_some_and(|number| number < day))
}

/// The first date in a file name: `YYYYMMDD` or `YYYY-MM-DD`, not part of a longer number.
pub fn date_in_name(name: &str) -> Option<civil::Date> {
    let bytes = name.as_bytes();
    (0..bytes.len()).find_map(|at| {
        let before = at.checked_sub(1).and_then(|before| bytes.get(before));
        let rest = bytes.get(at..)?;
        let (date, length) = match rest {
            [a, b, c, d, b'-', m1, m2, b'-', d1, d2, ..] => ([*a, *b, *c, *d, *m1, *m2, *d1, *d2], 10),
            [a, b, c, d, m1, m2, d1, d2, ..] => ([*a, *b, *c, *d, *m1, *m2, *d1, *d2], 8),
            _ => return None,
        };
        let is_digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_digit);
        if is_digit(before) || is_digit(rest.get(length)) {
            return None;
        }
        compact(&date).map(|wall| wall.date())
    })
}

/// Reads the time cells of one file.
#[derive(Clone, Debug)]
pub struct TimeReader {
    pub rule: TimeRule,
    /// The zone of times without an offset.
    zone: TimeZone,
    /// The date for times of day; without one a time must have its own date.
    base: Option<civil::Date>,
    joined: Vec<u8>,
}

impl TimeReader {
    pub fn new(rule: TimeRule, zone: TimeZone) -> Self {
        Self { rule, zone, base: None, joined: Vec::new() }
    }

    /// The same reader for times of day of this date.
    pub fn on(self, base: Option<civil::Date>) -> Self {
        Self { base, ..self }
    }

    /// The time of a wall clock in the zone.
    fn of_wall(&self, wall: civil::DateTime) -> Result<SourceTime, BadTime> {
        let found = self.zone.to_ambiguous_timestamp(wall);
        if found.is_ambiguous() {
            return Err(bad("is skipped or repeated where the zone changes its clocks"));
        }
        found.compatible().map(SourceTime).map_err(|_| out_of_range())
    }

    /// The time for a time of day: wall-clock time of the base date in the zone.
    fn on_base(&self, base: civil::Date, since_midnight: SourceTime) -> Result<SourceTime, BadTime> {
        let wall = Offset::UTC.to_datetime(since_midnight.0);
        if wall.date() != civil::date(1970, 1, 1) {
            return Err(bad("is not a time of day: it is not between midnight and midnight"));
        }
        self.of_wall(base.to_datetime(wall.time()))
    }

    /// The time of an epoch number, or with a base date of a number of ticks since its midnight.
    fn counted(&self, moment: SourceTime) -> Result<SourceTime, BadTime> {
        self.base.map_or(Ok(moment), |base| self.on_base(base, moment))
    }

    /// The time of a row from its time cells, which are joined with a space.
    pub fn read(&mut self, cells: &[SourceCell<'_>]) -> Result<SourceTime, BadTime> {
        if let [cell] = cells {
            return self.one(*cell);
        }
        let mut joined = std::mem::take(&mut self.joined);
        joined.clear();
        for cell in cells {
            if !joined.is_empty() {
                joined.push(b' ');
            }
            joined.extend_from_slice(cell.show().trim().as_bytes());
        }
        let read = self.text(&joined);
        self.joined = joined;
        read
    }

    fn one(&self, cell: SourceCell<'_>) -> Result<SourceTime, BadTime> {
        match cell {
            SourceCell::Missing => Err(bad("is empty")),
            SourceCell::Wrong(what) => Err(bad(format!("is {what}, not a time"))),
            SourceCell::Flag(_) => Err(bad("is a boolean, not a time")),
            SourceCell::Bytes(_) => Err(bad("is bytes, not a time")),
            SourceCell::Text(text) => self.text(text),
            SourceCell::Int(number) => match &self.rule {
                TimeRule::Epoch(per_second) => self.counted(SourceTime::of_ticks(number, *per_second)?),
                _ => self.text(itoa::Buffer::new().format(number).as_bytes()),
            },
            SourceCell::Float(number) => self.text(number.to_string().as_bytes()),
            SourceCell::TimeOfDay { ticks, per_second } => match self.base {
                Some(base) => self.on_base(base, SourceTime::of_ticks(ticks, per_second)?),
                None => Err(bad("is a time of day without a date: set it by --base-date")),
            },
            SourceCell::Time { .. } if self.base.is_some() => Err(bad("has a date: remove --base-date")),
            SourceCell::Time { ticks, per_second, zoned } => {
                let moment = SourceTime::of_ticks(ticks, per_second)?;
                if zoned { Ok(moment) } else { self.of_wall(Offset::UTC.to_datetime(moment.0)) }
            }
        }
    }

    fn text(&self, text: &[u8]) -> Result<SourceTime, BadTime> {
        if text.is_empty() {
            return Err(bad("is empty"));
        }
        match &self.rule {
            TimeRule::Epoch(per_second) => self.counted(epoch(text, *per_second)?),
            TimeRule::Format(format) => self.format(format, text),
            TimeRule::Layouts => match self.base {
                Some(base) => {
                    let time = time_of_day(text)
                        .ok_or_else(|| bad("is not a time of day such as 09:30 or 09:30:00.250 (see --time-format)"))?;
                    self.of_wall(base.to_datetime(time))
                }
                None => match layout(text)? {
                    (wall, Some(offset)) => offset.to_timestamp(wall).map(SourceTime).map_err(|_| out_of_range()),
                    (wall, None) => self.of_wall(wall),
                },
            },
        }
    }

    fn format(&self, format: &str, text: &[u8]) -> Result<SourceTime, BadTime> {
        let parsed = BrokenDownTime::parse(format, text).map_err(|_| bad(format!("does not match {format:?}")))?;
        if parsed.offset().is_some() || parsed.timestamp().is_some() {
            let found =
                parsed.to_timestamp().map_err(|_| bad(format!("is not a complete time in the format {format:?}")))?;
            return Ok(SourceTime(found));
        }
        let date = match self.base {
            Some(base) => base,
            None => parsed.to_date().map_err(|_| match parsed.hour() {
                Some(_) => {
                    bad(format!("is not a date in the format {format:?}: set the date of a time of day by --base-date"))
                }
                None => bad(format!("is not a date in the format {format:?}")),
            })?,
        };
        let time = if parsed.hour().is_some() {
            parsed.to_time().map_err(|_| bad(format!("is not a time in the format {format:?}")))?
        } else {
            civil::Time::midnight()
        };
        self.of_wall(date.to_datetime(time))
    }
}

/// The time of an epoch number, with a fraction if its unit allows one.
fn epoch(text: &[u8], per_second: i64) -> Result<SourceTime, BadTime> {
    let not = || bad("is not an epoch number").with_hint();
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let mut parts = digits.splitn(2, |b| *b == b'.');
    let integer = parts.next().unwrap_or_default();
    let fraction = parts.next().unwrap_or_default();
    if integer.is_empty() || !integer.iter().chain(fraction).all(u8::is_ascii_digit) {
        // A number such as 1.5e12 is valid if it is an integer.
        let ticks = parse_i64(text).map_err(|_| not())?;
        return SourceTime::of_ticks(ticks, per_second);
    }
    let mut nanos_of_tick = 1_000_000_000 / per_second;
    let mut extra = 0_i64;
    for digit in fraction {
        nanos_of_tick /= 10;
        if nanos_of_tick == 0 && *digit != b'0' {
            return Err(bad("has digits below a nanosecond"));
        }
        extra += i64::from(digit - b'0') * nanos_of_tick;
    }
    let integer: i64 = std::str::from_utf8(integer).ok().and_then(|text| text.parse().ok()).ok_or_else(not)?;
    let total = i128::from(integer) * i128::from(1_000_000_000 / per_second) + i128::from(extra);
    let total = if negative { -total } else { total };
    Timestamp::from_nanosecond(total).map(SourceTime).map_err(|_| out_of_range())
}

impl BadTime {
    fn with_hint(mut self) -> Self {
        self.message.push_str(" (textual times need --time-format)");
        self
    }
}

/// `±HH`, `±HHMM` or `±HH:MM`.
fn parse_offset(text: &[u8]) -> Option<Offset> {
    let (sign, rest) = match text {
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = match rest {
        [a, b] => (two(*a, *b)?, 0),
        [a, b, c, d] | [a, b, b':', c, d] => (two(*a, *b)?, two(*c, *d)?),
        _ => return None,
    };
    let seconds = sign * (i32::from(hours) * 3_600 + i32::from(minutes) * 60);
    (hours < 24 && minutes < 60).then(|| Offset::from_seconds(seconds).ok()).flatten()
}

fn two(a: u8, b: u8) -> Option<i8> {
    (a.is_ascii_digit() && b.is_ascii_digit()).then(|| i8::try_from((a - b'0') * 10 + (b - b'0')).unwrap_or(0))
}

fn year(text: &[u8; 4]) -> Option<i16> {
    let [a, b, c, d] = *text;
    Some(i16::from(two(a, b)?) * 100 + i16::from(two(c, d)?))
}

/// `YYYYMMDD` or `YYYYMMDDHHMMSS`.
fn compact(text: &[u8]) -> Option<civil::DateTime> {
    let (date, rest) = text.split_first_chunk::<8>()?;
    let [y @ .., m1, m2, d1, d2] = date;
    let date = civil::Date::new(year(y)?, two(*m1, *m2)?, two(*d1, *d2)?).ok()?;
    let time = match rest {
        [] => civil::Time::midnight(),
        [h1, h2, m1, m2, s1, s2] => civil::Time::new(two(*h1, *h2)?, two(*m1, *m2)?, two(*s1, *s2)?, 0).ok()?,
        _ => return None,
    };
    // Numbers that only look like a date are epoch numbers.
    (1_600..=2_400).contains(&date.year()).then(|| date.to_datetime(time))
}

/// Parses one of the common formats into wall clock and offset.
///
/// `YYYY-MM-DD` (also with `/` or `.`, or without separators), then nothing or a space or `T` and `HH:MM[:SS[.f]]`
/// or `HHMM[SS]`, then nothing or `Z`, `UTC` or an offset.
fn layout(text: &[u8]) -> Result<(civil::DateTime, Option<Offset>), BadTime> {
    layout_of(text).ok_or_else(|| {
        let slashed = text.iter().filter(|b| b"/.-".contains(b)).count() == 2 && text.first() != Some(&b'-');
        if time_of_day(text).is_some() {
            bad("is a time of day without a date: set it by --base-date")
        } else if slashed && text.iter().take(4).any(|b| b"/.-".contains(b)) {
            bad("is ambiguous, day or month first: set --time-format, such as %m/%d/%Y or %d/%m/%Y")
        } else {
            bad("is not a time in a common format (see --time-format)")
        }
    })
}

fn layout_of(text: &[u8]) -> Option<(civil::DateTime, Option<Offset>)> {
    if let Some(wall) = compact(text) {
        return Some((wall, None));
    }
    let (date, rest) = match text {
        [a, b, c, d, s1 @ (b'-' | b'/' | b'.'), m1, m2, s2, d1, d2, rest @ ..] if s1 == s2 => {
            (civil::Date::new(year(&[*a, *b, *c, *d])?, two(*m1, *m2)?, two(*d1, *d2)?).ok()?, rest)
        }
        _ => {
            let (date, rest) = text.split_first_chunk::<8>()?;
            (compact(date)?.date(), rest)
        }
    };
    let rest = match rest {
        [] => return Some((date.to_datetime(civil::Time::midnight()), None)),
        [b' ' | b'T' | b't', rest @ ..] => rest,
        _ => return None,
    };
    let (time, rest) = clock_time(rest)?;
    let offset = match rest.trim_ascii_start() {
        [] => None,
        b"Z" | b"z" | b"UTC" | b"GMT" => Some(Offset::UTC),
        offset => Some(parse_offset(offset)?),
    };
    Some((date.to_datetime(time), offset))
}

/// Parses `HH:MM[:SS[.f]]` or `HHMM[SS[.f]]` at the start of a text: the time and the rest.
fn clock_time(text: &[u8]) -> Option<(civil::Time, &[u8])> {
    let rest = text;
    let (hour, minute, rest) = match rest {
        [h1, h2, b':', m1, m2, rest @ ..] | [h1, h2, m1, m2, rest @ ..] => (two(*h1, *h2)?, two(*m1, *m2)?, rest),
        _ => return None,
    };
    let (second, rest) = match rest {
        [b':', s1, s2, rest @ ..] => (two(*s1, *s2)?, rest),
        [s1, s2, rest @ ..] if s1.is_ascii_digit() => (two(*s1, *s2)?, rest),
        rest => (0, rest),
    };
    let (nanos, rest) = match rest {
        [b'.' | b',', rest @ ..] => {
            let length = rest.iter().position(|b| !b.is_ascii_digit()).unwrap_or(rest.len());
            let (digits, rest) = rest.split_at(length);
            let mut place = 1_000_000_000;
            let mut nanos = 0;
            for digit in digits {
                place /= 10;
                if place == 0 && *digit != b'0' {
                    return None;
                }
                nanos += i32::from(digit - b'0') * place;
            }
            (nanos, if digits.is_empty() { return None } else { rest })
        }
        rest => (0, rest),
    };
    Some((civil::Time::new(hour, minute, second, nanos).ok()?, rest))
}

/// A time of day with colons.
fn time_of_day(text: &[u8]) -> Option<civil::Time> {
    let (time, rest) = clock_time(text).filter(|_| text.get(2) == Some(&b':'))?;
    rest.is_empty().then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::time::convert;
    use proptest::prelude::*;

    fn clock(rule: TimeRule, zone: &str) -> TimeReader {
        TimeReader::new(rule, parse_zone(zone).unwrap())
    }

    fn ms(clock: &mut TimeReader, text: &str) -> Result<i64, BadTime> {
        clock.read(&[SourceCell::Text(text.as_bytes())])?.ticks(TimeUnit::Ms)
    }

    proptest! {
        #[test]
        fn ticks_of_every_unit_convert_exactly_or_not_at_all(seed in any::<i64>(), from in 0_usize..4, to in 0_usize..3) {
            let per_second = EpochUnit::ALL[from].per_second();
            let unit = [TimeUnit::Ms, TimeUnit::Us, TimeUnit::Ns][to];
            let span = (2 * MAX_SECOND).saturating_mul(per_second);
            for ticks in [seed, seed % span, seed % 1_000_000] {
                let read = SourceTime::of_ticks(ticks, per_second).and_then(|time| time.ticks(unit));
                let wanted = convert(ticks, per_second, unit).filter(|ts| in_range(*ts, unit));
                prop_assert_eq!(read.ok(), wanted, "{} of {} a second in {:?}", ticks, per_second, unit);
                let text = epoch(ticks.to_string().as_bytes(), per_second).and_then(|time| time.ticks(unit));
                prop_assert_eq!(text.ok(), wanted);
            }
        }
    }

    #[test]
    fn common_formats_are_parsed_in_the_given_zone() {
        let mut utc = clock(TimeRule::Layouts, "UTC");
        for (text, expected) in [
            ("1970-01-01", 0),
            ("1950-01-03", -630_979_200_000),
            ("2012-02-01 00:01:00+00:00", 1_328_054_460_000),
            ("2021-12-31 23:01:00.000000", 1_640_991_660_000),
            ("2021-12-31T23:01:00.250Z", 1_640_991_660_250),
            ("2020-12-15 09:30", 1_608_024_600_000),
            ("20250302 170000", 1_740_934_800_000),
            ("20250302", 1_740_873_600_000),
            ("20250302170000", 1_740_934_800_000),
            ("2025/03/02 17:00", 1_740_934_800_000),
            ("2025.03.02 17:00", 1_740_934_800_000),
            ("2025-03-02 17:00 -05:00", 1_740_952_800_000),
            ("2025-03-02T17:00:00-0500", 1_740_952_800_000),
        ] {
            assert_eq!(ms(&mut utc, text), Ok(expected), "{text}");
        }
        let mut est = clock(TimeRule::Layouts, "-05:00");
        assert_eq!(ms(&mut est, "20250302 170000"), Ok(1_740_952_800_000));
        assert_eq!(ms(&mut est, "2025-03-02 17:00Z"), Ok(1_740_934_800_000), "an offset in the text has precedence");
    }

    #[test]
    fn named_zones_observe_daylight_saving_and_refuse_skipped_and_repeated_hours() {
        let mut york = clock(TimeRule::Layouts, "America/New_York");
        assert_eq!(ms(&mut york, "2024-01-02 09:30"), Ok(1_704_205_800_000));
        assert_eq!(ms(&mut york, "2024-07-02 09:30"), Ok(1_719_927_000_000));
        for text in ["2024-03-10 02:30", "2024-11-03 01:30"] {
            assert_eq!(ms(&mut york, text).unwrap_err().reason, "bad_time", "{text}");
        }
    }

    #[test]
    fn ambiguous_times_are_refused() {
        let mut utc = clock(TimeRule::Layouts, "UTC");
        for text in ["", "01/03/2017", "1-Sep-10", "2017-13-01", "2017-02-29", "12:30", "2017-01-03 25:00", "x"] {
            assert_eq!(ms(&mut utc, text).unwrap_err().reason, "bad_time", "{text}");
        }
        assert!(ms(&mut utc, "01/03/2017").unwrap_err().message.contains("--time-format"));
        assert_eq!(ms(&mut utc, "2300-01-01").unwrap_err().reason, "time_out_of_range");
        assert_eq!(ms(&mut utc, "1600-01-01").unwrap_err().reason, "time_out_of_range");
        assert_eq!(ms(&mut utc, "2020-01-01 00:00:00.0001").unwrap_err().reason, "precision_loss");
    }

    #[test]
    fn a_given_format_is_the_only_one_accepted() {
        let mut day_last = clock(TimeRule::Format("%m/%d/%Y".into()), "UTC");
        assert_eq!(ms(&mut day_last, "01/03/2017"), Ok(1_483_401_600_000));
        assert_eq!(ms(&mut day_last, "").unwrap_err().reason, "bad_time");
        let mut short = clock(TimeRule::Format("%m/%d/%y".into()), "UTC");
        assert_eq!(ms(&mut short, "01/03/17"), Ok(1_483_401_600_000));
        let mut stamp = clock(TimeRule::Format("%Y%m%d %H%M%S".into()), "-05:00");
        assert_eq!(ms(&mut stamp, "20250302 170000"), Ok(1_740_952_800_000));
        let mut offset = clock(TimeRule::Format("%Y-%m-%d %H:%M %z".into()), "-05:00");
        assert_eq!(ms(&mut offset, "2025-03-02 17:00 +0100"), Ok(1_740_931_200_000));
    }

    #[test]
    fn the_unit_of_epoch_numbers_is_detected_by_their_magnitude() {
        let rule =
            |cells: &[&str]| TimeRule::detect(None, None, &cells.iter().map(|c| (*c).to_string()).collect::<Vec<_>>());
        assert_eq!(rule(&["1640995200"]), TimeRule::Epoch(1));
        assert_eq!(rule(&["1640995200000"]), TimeRule::Epoch(1_000));
        assert_eq!(rule(&["1640995200000000"]), TimeRule::Epoch(1_000_000));
        assert_eq!(rule(&["1640995200000000000"]), TimeRule::Epoch(1_000_000_000));
        assert_eq!(rule(&["-631152000", "0"]), TimeRule::Epoch(1));
        assert_eq!(rule(&["20250302", "20250303"]), TimeRule::Layouts);
        assert_eq!(rule(&["2025-03-02"]), TimeRule::Layouts);
        assert_eq!(rule(&[""]), TimeRule::Layouts);
        let given = TimeRule::detect(Some(EpochUnit::Ns), None, &["1640995200".to_string()]);
        assert_eq!(given, TimeRule::Epoch(1_000_000_000));
        let mut seconds = clock(TimeRule::Epoch(1), "-05:00");
        assert_eq!(ms(&mut seconds, "1640995200.25"), Ok(1_640_995_200_250));
        assert_eq!(ms(&mut seconds, "-1.5"), Ok(-1_500));
        assert_eq!(ms(&mut seconds, "1.6e9"), Ok(1_600_000_000_000));
        assert_eq!(ms(&mut seconds, "2020-01-01").unwrap_err().reason, "bad_time");
        assert_eq!(ms(&mut seconds, "99999999999").unwrap_err().reason, "time_out_of_range");
    }

    #[test]
    fn times_of_day_use_the_base_date_and_the_zone() {
        let base = Some(civil::date(2013, 10, 7));
        let mut lean = clock(TimeRule::Epoch(1_000), "America/New_York").on(base);
        assert_eq!(ms(&mut lean, "34200000"), Ok(1_381_152_600_000), "09:30 in New York is 13:30 UTC");
        assert_eq!(lean.read(&[SourceCell::Int(34_200_000)]).unwrap().0.as_second(), 1_381_152_600);
        for text in ["86400000", "-1", "1381152600000"] {
            assert!(ms(&mut lean, text).unwrap_err().message.contains("midnight"), "{text}");
        }
        let mut written = clock(TimeRule::Layouts, "-05:00").on(base);
        assert_eq!(ms(&mut written, "09:30"), Ok(1_381_156_200_000));
        assert_eq!(ms(&mut written, "09:30:00.250"), Ok(1_381_156_200_250));
        assert_eq!(ms(&mut written, "2013-10-07 09:30").unwrap_err().reason, "bad_time");
        let mut format = clock(TimeRule::Format("%H%M%S".into()), "UTC").on(base);
        assert_eq!(ms(&mut format, "133000"), Ok(1_381_152_600_000));
        let typed = SourceCell::TimeOfDay { ticks: 48_600, per_second: 1 };
        assert_eq!(clock(TimeRule::Layouts, "UTC").on(base).read(&[typed]).unwrap().0.as_second(), 1_381_152_600);
        let dated = SourceCell::Time { ticks: 0, per_second: 1, zoned: true };
        assert!(format.read(&[dated]).unwrap_err().message.contains("--base-date"));
        // The hour that the zone skips is refused.
        let mut spring = clock(TimeRule::Epoch(1_000), "America/New_York").on(Some(civil::date(2024, 3, 10)));
        assert_eq!(ms(&mut spring, "9000000").unwrap_err().reason, "bad_time");
    }

    #[test]
    fn the_error_of_a_time_of_day_without_a_date_names_the_flag_for_it() {
        for bad in [
            ms(&mut clock(TimeRule::Layouts, "UTC"), "09:30:00"),
            ms(&mut clock(TimeRule::Format("%H:%M".into()), "UTC"), "09:30"),
            clock(TimeRule::Layouts, "UTC")
                .read(&[SourceCell::TimeOfDay { ticks: 1, per_second: 1 }])
                .map(|moment| moment.0.as_second()),
        ] {
            assert!(bad.unwrap_err().message.contains("--base-date"));
        }
        let text = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_string()).collect::<Vec<_>>();
        let looks = |unit, cells: &[&str]| {
            let cells = text(cells);
            look_like_times_of_day(&TimeRule::detect(unit, None, &cells), unit, &cells)
        };
        assert!(looks(None, &["34200000", "34260000"]));
        assert!(looks(Some(EpochUnit::Ns), &["34200000000000"]));
        assert!(!looks(None, &["1640995200", "1640995260"]));
        assert!(!looks(None, &["-34200000"]) && !looks(None, &[]) && !looks(None, &["2024-01-01"]));
    }

    #[test]
    fn dates_are_found_in_file_names() {
        let date = |name| date_in_name(name).map(|date| date.to_string());
        assert_eq!(date("20131007_spy_minute_trade.csv").as_deref(), Some("2013-10-07"));
        assert_eq!(date("BTCUSDT-trades-2023-02-28.csv").as_deref(), Some("2023-02-28"));
        for name in ["spy.csv", "1381152600000.csv", "20131340.csv", "123420131007.csv"] {
            assert_eq!(date(name), None, "{name}");
        }
    }

    #[test]
    fn two_cells_are_joined_with_a_space() {
        let mut utc = clock(TimeRule::Layouts, "UTC");
        let moment = utc.read(&[SourceCell::Text(b"2006-01-02"), SourceCell::Text(b"09:01:00")]).unwrap();
        assert_eq!(moment.ticks(TimeUnit::Ms), Ok(1_136_192_460_000));
    }

    #[test]
    fn typed_times_without_a_zone_are_wall_clock() {
        let naive = SourceCell::Time { ticks: 1_704_187_800_000, per_second: 1_000, zoned: false };
        let mut york = clock(TimeRule::Layouts, "America/New_York");
        assert_eq!(york.read(&[naive]).unwrap().0.as_second(), 1_704_205_800);
        let zoned = SourceCell::Time { ticks: 1_704_187_800_000, per_second: 1_000, zoned: true };
        assert_eq!(york.read(&[zoned]).unwrap().0.as_second(), 1_704_187_800);
    }
}
