//! Time buckets: the intervals whose rows are combined to one row of a coarser result.
//!
//! Borders are a pure function of the rule, its zone, its sessions and its offset. No range of a query and no row moves
//! them.
//!
//! - `align=utc`: seconds, minutes and hours count from the epoch, without interruption; days and longer follow the
//!   calendar of UTC.
//! - `align=local`: seconds, minutes and hours count from midnight of each day of the zone, in elapsed time; a bucket
//!   that would reach over the next midnight ends there. Days and longer follow the calendar of the zone.
//! - `align=session`: seconds, minutes and hours count from the opening of each session; a bucket that would reach over
//!   the close ends there. Days and longer hold the sessions of their trading days. A time outside of every session is
//!   in no bucket.
//!
//! Several days count from 1970-01-01, several weeks from Monday 1970-01-05, several months from January 1970. A session
//! belongs to the date of its last moment, and one of more than a day is divided into days at its opening time. A local
//! time that the clock skips means the moment of the change, one that occurs twice the first occurrence.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use serde::{Deserialize, Serialize};

use super::calendar::{Calendar, is_calendar_name};
use super::civil_days::{civil_from_days, days_from_civil};
use super::grid::Grid;
use super::schema::timeframe_ms;
use super::sessions;
use super::time::{MAX_SECOND, MIN_SECOND, TimeUnit};
use super::width::narrow;
use crate::error::{Error, Result};

const DAY: i64 = 86_400;
const WEEK: i64 = 7 * DAY;
/// 1969-12-29, the Monday before the epoch, in days.
const MONDAY: i64 = -3;
/// Longest bucket in days, months and so on: all valid times are within a few of them.
const COUNT_MAX: i64 = 100_000_000;
/// Longest offset: a week.
const OFFSET_MAX: i64 = WEEK;
/// Maximum number of sessions of a week.
const SESSIONS_MAX: usize = 128;
/// Times outside of this range of seconds are treated as its ends: a margin of ten years around the valid times.
const CLAMP: (i64, i64) = (MIN_SECOND - 3_660 * DAY, MAX_SECOND + 3_660 * DAY);

/// What the borders of buckets follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub enum BucketAlign {
    /// The epoch and the calendar of UTC.
    #[default]
    Utc,
    /// The days of a zone.
    Local,
    /// Trading sessions.
    Session,
}

/// Length of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BucketLength {
    Seconds(i64),
    Days(i64),
    Weeks(i64),
    Months(i64),
}

impl BucketLength {
    /// Parses a count and one of `s m h d w M q y`.
    ///
    /// # Errors
    /// `invalid_argument` naming the text.
    pub fn parse(text: &str) -> Result<Self> {
        let shown: String = text.chars().take(40).collect();
        let invalid = || {
            Error::invalid(format!("every {shown:?} is not a length of buckets")).with_hint(
                "a count from 1 on and one of s, m, h, d, w, M (months), q (quarters), y, such as 65m, 1h, 1d or 1M",
            )
        };
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (count, unit) = text.split_at_checked(digits).ok_or_else(invalid)?;
        if count.starts_with('0') {
            return Err(invalid());
        }
        let count: i64 = count.parse().map_err(|_| invalid())?;
        if count > COUNT_MAX {
            return Err(invalid());
        }
        Ok(match unit {
            "s" => Self::Seconds(count),
            "m" => Self::Seconds(count * 60),
            "h" => Self::Seconds(count * 3_600),
            "d" => Self::Days(count),
            "w" => Self::Weeks(count),
            "M" => Self::Months(count),
            "q" => Self::Months(count * 3),
            "y" => Self::Months(count * 12),
            _ => return Err(invalid()),
        })
    }

    /// First day of the block of days that a day lies in, and of the next block.
    fn block_of(self, day: i64) -> (i64, i64) {
        let of = |origin: i64, length: i64| {
            let first = origin + (day - origin).div_euclid(length) * length;
            (first, first + length)
        };
        match self {
            // Seconds never span days.
            Self::Seconds(_) => (day, day + 1),
            Self::Days(count) => of(0, count),
            Self::Weeks(count) => of(MONDAY + 7, 7 * count),
            Self::Months(count) => {
                let (year, month, _) = civil_from_days(day);
                let months = (year - 1970) * 12 + i64::from(month) - 1;
                let first = months.div_euclid(count) * count;
                let day_of = |month: i64| {
                    let of_year = narrow::<u8, _>(month.rem_euclid(12)) + 1;
                    days_from_civil(1970 + month.div_euclid(12), of_year, 1)
                };
                (day_of(first), day_of(first + count))
            }
        }
    }
}

/// A bucket, or the part of it that one session fills. Times are in the unit of the buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// First moment of the bucket: the `ts` of its row.
    pub start: i64,
    /// The part: `from..to`.
    pub from: i64,
    pub to: i64,
    /// First moment after the bucket.
    pub end: i64,
}

/// The rule of buckets as a caller writes it.
#[derive(Clone, Copy, Debug, Default)]
pub struct BucketText<'a> {
    pub every: &'a str,
    /// By default `session` where sessions are given, `local` where a zone is given, else `utc`.
    pub align: Option<BucketAlign>,
    pub zone: Option<&'a str>,
    /// `09:30-16:00`, `mon-fri 09:30-16:00,sun 17:00-18:00`, the name of an exchange such as `XNYS`, or `calendar`.
    pub session: Option<&'a str>,
    pub offset: Option<&'a str>,
}

/// The division of the time axis into buckets.
#[derive(Clone, Debug)]
pub struct TimeBuckets {
    length: BucketLength,
    per_second: i64,
    axis: BucketAxis,
}

#[derive(Clone, Debug)]
enum BucketAxis {
    /// Seconds from a phase.
    Uniform { step: i64, phase: i64 },
    /// Days of a zone, each starting `offset` seconds of local time after midnight; UTC without a zone.
    Days { zone: Option<TimeZone>, offset: i64 },
    /// Sessions of a zone, ascending and disjoint.
    Sessions { zone: TimeZone, week: Vec<SessionWindow> },
}

/// One session of a week, in seconds from Monday 00:00 of local time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SessionWindow {
    from: i64,
    to: i64,
    /// The day that it belongs to, counted from the Monday.
    day: i64,
}

/// A session of a certain week as moments.
#[derive(Clone, Copy, Debug)]
struct SessionSpan {
    week: i64,
    at: usize,
    from: i64,
    to: i64,
    day: i64,
}

impl TimeBuckets {
    /// The buckets of a rule for timestamps of a unit; `calendar` is the one of the series.
    ///
    /// # Errors
    /// `invalid_argument` naming the part of the rule that is wrong.
    pub fn parse(text: &BucketText<'_>, calendar: Option<&serde_json::Value>, unit: TimeUnit) -> Result<Self> {
        let length = BucketLength::parse(text.every)?;
        let align = text.align.unwrap_or(match (text.session, text.zone) {
            (Some(_), _) => BucketAlign::Session,
            (None, Some(_)) => BucketAlign::Local,
            (None, None) => BucketAlign::Utc,
        });
        if text.session.is_some() && align != BucketAlign::Session {
            return Err(Error::invalid("session needs align=session").with_hint("leave out align, or session"));
        }
        let offset = text.offset.map(parse_offset).transpose()?.unwrap_or(0);
        let zone = text.zone.map(parse_zone).transpose()?;
        let axis = match (align, zone) {
            (BucketAlign::Utc, Some(_)) => {
                return Err(Error::invalid("tz has no meaning with align=utc").with_hint("use align=local"));
            }
            (BucketAlign::Utc, None) => match length {
                BucketLength::Seconds(step) => BucketAxis::Uniform { step, phase: offset.rem_euclid(step) },
                _ => BucketAxis::Days { zone: None, offset },
            },
            (BucketAlign::Local, None) => {
                return Err(Error::invalid("align=local needs tz").with_hint("such as tz=America/New_York"));
            }
            (BucketAlign::Local, zone) => BucketAxis::Days { zone, offset },
            (BucketAlign::Session, zone) => {
                if text.offset.is_some() {
                    return Err(Error::invalid(
                        "offset has no meaning with sessions: they have their own opening time",
                    ));
                }
                session_axis(text, zone, calendar)?
            }
        };
        if let (BucketLength::Seconds(step), false) = (length, matches!(axis, BucketAxis::Uniform { .. }))
            && step > DAY
        {
            return Err(Error::invalid(format!("every {} is longer than a day, at which its buckets end", text.every))
                .with_hint("use days, such as 2d, or align=utc"));
        }
        Ok(Self { length, per_second: unit.per_second(), axis })
    }

    /// Whether buckets leave out times between sessions.
    pub fn has_sessions(&self) -> bool {
        matches!(self.axis, BucketAxis::Sessions { .. })
    }

    /// Whether each border is a border of the grid; `None` where that must be decided border by border.
    pub fn fits(&self, grid: &Grid) -> Option<bool> {
        let Grid::Fixed { length, phase } = *grid else { return None };
        let is_on_grid = |step: i64, from: i64| {
            let (step, from) = (step.saturating_mul(self.per_second), from.saturating_mul(self.per_second));
            step % length == 0 && (from - phase) % length == 0
        };
        match (&self.axis, self.length) {
            (BucketAxis::Uniform { step, phase }, _) => Some(is_on_grid(*step, *phase)),
            (BucketAxis::Days { zone: None, offset }, _) if is_on_grid(DAY, *offset) => Some(true),
            // The second border of a day or session is not on the grid.
            (_, BucketLength::Seconds(step)) if !is_on_grid(step, phase.div_euclid(self.per_second)) => Some(false),
            _ => None,
        }
    }

    /// A walk over the buckets, which finds the next one sooner.
    pub fn walk(&self) -> BucketWalk<'_> {
        BucketWalk { buckets: self, day: None, session: None, block: None }
    }

    fn ticks(&self, second: i64) -> i64 {
        second.saturating_mul(self.per_second)
    }

    fn bucket(&self, (start, end): (i64, i64), (from, to): (i64, i64)) -> Bucket {
        Bucket { start: self.ticks(start), from: self.ticks(from), to: self.ticks(to), end: self.ticks(end) }
    }

    fn second(&self, ts: i64) -> i64 {
        ts.div_euclid(self.per_second).clamp(CLAMP.0, CLAMP.1)
    }
}

/// Finds buckets; consecutive ones at little cost.
#[derive(Clone, Debug)]
pub struct BucketWalk<'a> {
    buckets: &'a TimeBuckets,
    /// The last day, as seconds: its first moment, and that of the next day.
    day: Option<(i64, i64)>,
    session: Option<SessionSpan>,
    /// The last block of trading days: its first day and that of the next block, its first moment and its end.
    block: Option<((i64, i64), (i64, i64))>,
}

impl BucketWalk<'_> {
    /// The bucket, or the part of one, that a timestamp lies in; between sessions the next one.
    pub fn at(&mut self, ts: i64) -> Bucket {
        let second = self.buckets.second(ts);
        match &self.buckets.axis {
            BucketAxis::Uniform { step, phase } => {
                let start = second - (second - phase).rem_euclid(*step);
                self.buckets.bucket((start, start + step), (start, start + step))
            }
            BucketAxis::Days { zone, offset } => self.in_day(zone.as_ref(), *offset, second),
            BucketAxis::Sessions { zone, week } => {
                let span = self.session_at(zone, week, second);
                self.in_session(zone, week, span, second)
            }
        }
    }

    /// The last bucket, or part of one, that starts before a timestamp.
    pub fn before(&mut self, ts: i64) -> Bucket {
        let BucketAxis::Sessions { zone, week } = &self.buckets.axis else { return self.at(ts.saturating_sub(1)) };
        let second = self.buckets.second(ts.saturating_sub(1));
        let mut span = self.session_at(zone, week, second);
        while span.from > second {
            span = previous_session(zone, week, span);
        }
        self.session = Some(span);
        self.in_session(zone, week, span, second.min(span.to - 1))
    }

    /// The first part of the first bucket that starts at or after a timestamp.
    pub fn starting_at(&mut self, ts: i64) -> Bucket {
        let mut found = self.at(ts);
        while found.start < ts {
            let next = self.at(found.end);
            if next.start <= found.start {
                // The end of all times.
                return next;
            }
            found = next;
        }
        found
    }

    /// The first part of the next bucket.
    pub fn after(&mut self, bucket: &Bucket) -> Bucket {
        self.at(bucket.end)
    }

    fn in_day(&mut self, zone: Option<&TimeZone>, offset: i64, second: i64) -> Bucket {
        let first_moment = |day: i64| moment(zone, day * DAY + offset);
        if let BucketLength::Seconds(step) = self.buckets.length {
            let (first, next) = match self.day.filter(|(first, next)| *first <= second && second < *next) {
                Some(known) => known,
                None => {
                    let day = day_of(zone, offset, second);
                    (first_moment(day), first_moment(day + 1))
                }
            };
            self.day = Some((first, next));
            let start = first + (second - first) / step * step;
            let end = (start + step).min(next);
            return self.buckets.bucket((start, end), (start, end));
        }
        let (first, next) = self.buckets.length.block_of(day_of(zone, offset, second));
        let span = (first_moment(first), first_moment(next));
        self.buckets.bucket(span, span)
    }

    /// The session that a moment lies in, or the next one.
    fn session_at(&mut self, zone: &TimeZone, week: &[SessionWindow], second: i64) -> SessionSpan {
        if let Some(known) = self.session {
            if known.from <= second && second < known.to {
                return known;
            }
            if known.to <= second && second - known.to < WEEK {
                let mut span = next_session(zone, week, known);
                while span.to <= second {
                    span = next_session(zone, week, span);
                }
                self.session = Some(span);
                return span;
            }
        }
        let local = second + offset_at(zone, second);
        // A session of the week before can reach into this one.
        let mut span = span_of(zone, week, (local - MONDAY * DAY).div_euclid(WEEK) - 2, 0);
        while span.to <= second || span.from >= span.to {
            span = next_session(zone, week, span);
        }
        self.session = Some(span);
        span
    }

    fn in_session(&mut self, zone: &TimeZone, week: &[SessionWindow], span: SessionSpan, second: i64) -> Bucket {
        if let BucketLength::Seconds(step) = self.buckets.length {
            let start = span.from + (second - span.from).max(0) / step * step;
            let end = (start + step).min(span.to);
            return self.buckets.bucket((start, end), (start, end));
        }
        let days = self.buckets.length.block_of(span.day);
        let bounds = match self.block.filter(|(known, _)| *known == days) {
            Some((_, bounds)) => bounds,
            None => block_bounds(zone, week, days),
        };
        self.block = Some((days, bounds));
        self.buckets.bucket(bounds, (span.from, span.to))
    }
}

/// First moment and end of the sessions of the days `first..next`.
fn block_bounds(zone: &TimeZone, week: &[SessionWindow], (first, next): (i64, i64)) -> (i64, i64) {
    let week_of = |day: i64| (day - MONDAY).div_euclid(7);
    let mut opening = span_of(zone, week, week_of(first) - 2, 0);
    while opening.day < first || opening.from >= opening.to {
        opening = next_session(zone, week, opening);
    }
    let mut end = opening.to;
    let mut span = match week_of(next) - 3 {
        later if later > opening.week => span_of(zone, week, later, 0),
        _ => opening,
    };
    while span.day < next {
        end = span.to.max(end);
        span = next_session(zone, week, span);
    }
    (opening.from, end)
}

/// A session of a week. Sessions without a moment, in an hour that the clock skips, are empty.
fn span_of(zone: &TimeZone, windows: &[SessionWindow], week: i64, at: usize) -> SessionSpan {
    let Some(window) = windows.get(at) else {
        return SessionSpan { week, at, from: CLAMP.1, to: i64::MAX, day: i64::MAX };
    };
    let monday = MONDAY * DAY + week * WEEK;
    SessionSpan {
        week,
        at,
        from: moment(Some(zone), monday + window.from),
        to: moment(Some(zone), monday + window.to),
        day: MONDAY + 7 * week + window.day,
    }
}

/// The next session that has moments.
fn next_session(zone: &TimeZone, windows: &[SessionWindow], span: SessionSpan) -> SessionSpan {
    let (mut week, mut at) = (span.week, span.at);
    loop {
        (week, at) = if at + 1 < windows.len() { (week, at + 1) } else { (week + 1, 0) };
        let next = span_of(zone, windows, week, at);
        if next.from < next.to {
            return next;
        }
    }
}

/// The session before one, that has moments.
fn previous_session(zone: &TimeZone, windows: &[SessionWindow], span: SessionSpan) -> SessionSpan {
    let (mut week, mut at) = (span.week, span.at);
    loop {
        (week, at) = if at > 0 { (week, at - 1) } else { (week - 1, windows.len().saturating_sub(1)) };
        let previous = span_of(zone, windows, week, at);
        if previous.from < previous.to {
            return previous;
        }
    }
}

/// Seconds east of UTC at a moment.
fn offset_at(zone: &TimeZone, second: i64) -> i64 {
    zone.to_offset(timestamp(second)).seconds().into()
}

fn timestamp(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap_or(if second < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

/// The moment of a local time in seconds from 1970-01-01T00:00:00: the first one where it occurs twice, the change of
/// the clock where it is skipped.
fn moment(zone: Option<&TimeZone>, local: i64) -> i64 {
    let Some(zone) = zone else { return local };
    let Some(civil) = civil(local) else { return local };
    match zone.to_ambiguous_timestamp(civil).offset() {
        AmbiguousOffset::Unambiguous { offset } => local - i64::from(offset.seconds()),
        AmbiguousOffset::Fold { before, .. } => local - i64::from(before.seconds()),
        AmbiguousOffset::Gap { after, .. } => {
            let earlier = local - i64::from(after.seconds());
            let change = zone.following(timestamp(earlier)).next();
            change.map_or(earlier, |change| change.timestamp().as_second())
        }
    }
}

fn civil(local: i64) -> Option<DateTime> {
    let (year, month, day) = civil_from_days(local.div_euclid(DAY));
    let of_day = local.rem_euclid(DAY);
    let part = |value: i64| i8::try_from(value).ok();
    let (hour, minute, second) = (part(of_day / 3_600)?, part(of_day / 60 % 60)?, part(of_day % 60)?);
    DateTime::new(i16::try_from(year).ok()?, part(month.into())?, part(day.into())?, hour, minute, second, 0).ok()
}

/// The day of a moment, where days start `offset` seconds after midnight.
fn day_of(zone: Option<&TimeZone>, offset: i64, second: i64) -> i64 {
    let Some(zone) = zone else { return (second - offset).div_euclid(DAY) };
    let mut day = (second + offset_at(zone, second) - offset).div_euclid(DAY);
    while moment(Some(zone), day * DAY + offset) > second {
        day -= 1;
    }
    while moment(Some(zone), (day + 1) * DAY + offset) <= second {
        day += 1;
    }
    day
}

fn parse_zone(name: &str) -> Result<TimeZone> {
    TimeZone::get(name).map_err(|_| {
        let shown: String = name.chars().take(80).collect();
        Error::invalid(format!("tz {shown:?} is not an IANA time zone")).with_hint("such as America/New_York")
    })
}

/// Seconds of `09:30`, `-02:00`, `30m` or `-1d`.
fn parse_offset(text: &str) -> Result<i64> {
    let invalid = || {
        let shown: String = text.chars().take(40).collect();
        Error::invalid(format!("offset {shown:?} is not a time of at most a week"))
            .with_hint("such as 09:30, -02:00, 30m or -1d")
    };
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let seconds = match rest.contains(':') {
        true => sessions::time_of_day(rest),
        false => timeframe_ms(rest).map(|ms| ms / 1_000),
    };
    seconds.filter(|seconds| *seconds <= OFFSET_MAX).map(|seconds| sign * seconds).ok_or_else(invalid)
}

/// The axis of sessions.
fn session_axis(
    text: &BucketText<'_>,
    zone: Option<TimeZone>,
    calendar: Option<&serde_json::Value>,
) -> Result<BucketAxis> {
    let session = text.session.unwrap_or("calendar");
    let named = match session {
        "calendar" => Some(Calendar::of(calendar)?),
        name if is_calendar_name(name) => Some(Calendar::parse(&name.into())?),
        _ => None,
    };
    let (zone, windows) = if let Some(calendar) = named {
        let Some((of_calendar, windows)) = calendar.windows() else {
            let detail = match session {
                "calendar" => "the series has no calendar with sessions".to_owned(),
                name => format!("{name} has no sessions: it is always open"),
            };
            return Err(Error::invalid(detail)
                .with_hint("give session and tz, such as session=09:30-16:00&tz=America/New_York, or session=XNYS"));
        };
        if zone.is_some_and(|zone| zone != *of_calendar) {
            let what = if session == "calendar" { "the calendar" } else { session };
            return Err(Error::invalid(format!("tz is not the zone of {what}")).with_hint("leave out tz"));
        }
        (of_calendar.clone(), windows.to_vec())
    } else {
        let zone = zone.ok_or_else(|| {
            Error::invalid("session needs tz").with_hint("such as tz=America/New_York; UTC is tz=UTC")
        })?;
        (zone, sessions::parse(session)?)
    };
    let mut week: Vec<SessionWindow> = Vec::new();
    for (from, to) in windows {
        // A longer window is divided at its opening time.
        let mut start = from;
        while start < to {
            let end = (start + DAY).min(to);
            week.push(SessionWindow { from: start, to: end, day: (end - 1).div_euclid(DAY) });
            start = end;
        }
    }
    week.sort_unstable_by_key(|window| window.from);
    let overlaps = week.iter().zip(week.iter().skip(1)).any(|(one, next)| one.to > next.from)
        || week.first().zip(week.last()).is_some_and(|(first, last)| last.to > first.from + WEEK);
    if overlaps {
        return Err(Error::invalid(format!("sessions {session:?} overlap")));
    }
    if week.is_empty() || week.len() > SESSIONS_MAX {
        return Err(Error::invalid(format!("{} sessions a week are not between 1 and {SESSIONS_MAX}", week.len())));
    }
    Ok(BucketAxis::Sessions { zone, week })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rule<'a>(every: &'a str, zone: &'a str, session: Option<&'a str>) -> BucketText<'a> {
        BucketText { every, zone: Some(zone), session, ..BucketText::default() }
    }

    fn buckets(text: &BucketText<'_>) -> TimeBuckets {
        TimeBuckets::parse(text, None, TimeUnit::S).unwrap()
    }

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_second()
    }

    /// Starts and ends of the buckets from a time on, until another one.
    fn spans(buckets: &TimeBuckets, from: &str, until: &str) -> Vec<(String, String)> {
        let (mut walk, until) = (buckets.walk(), at(until));
        let mut found = Vec::new();
        let mut bucket = walk.at(at(from));
        while bucket.start < until {
            let text = |second: i64| timestamp(second).to_string().trim_end_matches(":00Z").to_owned();
            found.push((text(bucket.start), text(bucket.end)));
            bucket = walk.after(&bucket);
        }
        found
    }

    fn hours(buckets: &TimeBuckets, from: &str, until: &str) -> Vec<f64> {
        let spans = spans(buckets, from, until);
        spans
            .iter()
            .map(|(from, to)| (at(&format!("{to}:00Z")) - at(&format!("{from}:00Z"))) as f64 / 3_600.0)
            .collect()
    }

    /// Borders are a pure function: each moment of a bucket finds it, in any order, with a walk or without one.
    fn assert_pure(buckets: &TimeBuckets, from: &str, until: &str, step: i64) {
        let mut walk = buckets.walk();
        let mut backwards = buckets.walk();
        let mut second = at(from);
        while second < at(until) {
            let bucket = buckets.walk().at(second);
            assert_eq!(walk.at(second), bucket, "{}", timestamp(second));
            assert!(bucket.start <= bucket.from && bucket.from < bucket.to && bucket.to <= bucket.end);
            assert!(second < bucket.to);
            if bucket.from <= second {
                assert_eq!(buckets.walk().at(bucket.from), bucket);
                assert_eq!(buckets.walk().at(bucket.to - 1), bucket);
                assert_eq!(buckets.walk().before(second + 1), bucket, "{}", timestamp(second));
            } else {
                assert!(buckets.has_sessions());
            }
            let earlier = backwards.before(bucket.from);
            assert!(earlier.to <= bucket.from, "{earlier:?} {bucket:?}");
            assert_eq!(buckets.walk().at(earlier.to), bucket);
            second += step;
        }
    }

    #[test]
    fn hours_of_utc_are_uniform_and_its_longer_buckets_follow_the_calendar() {
        let text = BucketText { every: "65m", ..BucketText::default() };
        assert_eq!(spans(&buckets(&text), "1970-01-01T01:10:00Z", "1970-01-01T02:00:00Z")[0].0, "1970-01-01T01:05");
        for (every, start, end) in [
            ("1d", "2024-02-29T00:00", "2024-03-01T00:00"),
            ("1w", "2024-02-26T00:00", "2024-03-04T00:00"),
            ("1M", "2024-02-01T00:00", "2024-03-01T00:00"),
            ("1q", "2024-01-01T00:00", "2024-04-01T00:00"),
            ("1y", "2024-01-01T00:00", "2025-01-01T00:00"),
            ("10y", "2020-01-01T00:00", "2030-01-01T00:00"),
            ("2d", "2024-02-29T00:00", "2024-03-02T00:00"),
        ] {
            let text = BucketText { every, ..BucketText::default() };
            let found = spans(&buckets(&text), "2024-02-29T13:00:00Z", "2024-02-29T14:00:00Z");
            assert_eq!(found, [(start.to_owned(), end.to_owned())], "{every}");
            assert_pure(&buckets(&text), "2024-02-27T00:00:00Z", "2024-03-05T00:00:00Z", 7_001);
        }
        let shifted = BucketText { every: "1w", offset: Some("-1d"), ..BucketText::default() };
        assert_eq!(spans(&buckets(&shifted), "2024-02-29T13:00:00Z", "2024-03-01T00:00:00Z")[0].0, "2024-02-25T00:00");
        let shifted = BucketText { every: "1h", offset: Some("-00:30"), ..BucketText::default() };
        assert_eq!(spans(&buckets(&shifted), "2024-02-29T13:00:00Z", "2024-02-29T13:10:00Z")[0].0, "2024-02-29T12:30");
    }

    #[test]
    fn a_day_of_25_hours_has_a_bucket_more_and_one_of_23_hours_a_shorter_one() {
        let berlin = buckets(&rule("4h", "Europe/Berlin", None));
        let autumn = hours(&berlin, "2024-10-26T22:00:00Z", "2024-10-27T23:00:00Z");
        assert_eq!(autumn, [4.0, 4.0, 4.0, 4.0, 4.0, 4.0, 1.0]);
        let spring = hours(&berlin, "2024-03-30T23:00:00Z", "2024-03-31T22:00:00Z");
        assert_eq!(spring, [4.0, 4.0, 4.0, 4.0, 4.0, 3.0]);
        let days = buckets(&rule("1d", "America/New_York", None));
        assert_eq!(hours(&days, "2024-11-02T04:00:00Z", "2024-11-05T05:00:00Z"), [24.0, 25.0, 24.0]);
        assert_eq!(hours(&days, "2024-03-09T05:00:00Z", "2024-03-12T04:00:00Z"), [24.0, 23.0, 24.0]);
        // The clock of Lord Howe Island changes by half an hour.
        let howe = buckets(&rule("1h", "Australia/Lord_Howe", None));
        let autumn = hours(&howe, "2024-04-06T13:00:00Z", "2024-04-07T13:30:00Z");
        assert_eq!((autumn.len(), autumn[24], autumn[..24].iter().all(|hours| *hours == 1.0)), (25, 0.5, true));
        let spring = hours(&howe, "2024-10-05T13:30:00Z", "2024-10-06T13:00:00Z");
        assert_eq!((spring.len(), spring[23], spring[..23].iter().all(|hours| *hours == 1.0)), (24, 0.5, true));
    }

    #[test]
    fn borders_are_a_pure_function_in_every_zone_and_on_the_days_of_changes() {
        for (zone, from, until) in [
            ("America/New_York", "2024-03-08T00:00:00Z", "2024-03-12T00:00:00Z"),
            ("America/New_York", "2024-11-01T00:00:00Z", "2024-11-05T00:00:00Z"),
            ("Australia/Sydney", "2024-04-05T00:00:00Z", "2024-04-09T00:00:00Z"),
            ("Australia/Sydney", "2024-10-04T00:00:00Z", "2024-10-08T00:00:00Z"),
            ("Australia/Lord_Howe", "2024-04-05T00:00:00Z", "2024-04-09T00:00:00Z"),
            ("Australia/Lord_Howe", "2024-10-04T00:00:00Z", "2024-10-08T00:00:00Z"),
            // Midnight is skipped, occurs twice, and a whole day is skipped.
            ("America/Sao_Paulo", "2018-11-02T00:00:00Z", "2018-11-06T00:00:00Z"),
            ("America/St_Johns", "2006-10-27T00:00:00Z", "2006-10-31T00:00:00Z"),
            ("Pacific/Apia", "2011-12-28T00:00:00Z", "2012-01-02T00:00:00Z"),
            ("America/New_York", "1883-11-16T00:00:00Z", "1883-11-20T00:00:00Z"),
        ] {
            for every in ["7m", "30m", "1h", "4h", "65m", "24h", "1d", "2d", "1w", "1M", "1y"] {
                assert_pure(&buckets(&rule(every, zone, None)), from, until, 1_613);
                if ["7m", "4h", "24h", "2d", "1y"].contains(&every) {
                    continue;
                }
                for session in ["09:30-16:00", "mon-fri 02:15-03:45", "17:00-17:00", "09:50-16:30,17:10-07:00"] {
                    assert_pure(&buckets(&rule(every, zone, Some(session))), from, until, 10_807);
                }
            }
        }
    }

    #[test]
    fn sessions_start_their_buckets_at_the_open_and_cut_the_last_one_at_the_close() {
        let bars = buckets(&rule("65m", "America/New_York", Some("mon-fri 09:30-16:00")));
        let starts: Vec<String> =
            spans(&bars, "2024-03-08T14:30:00Z", "2024-03-11T20:00:00Z").into_iter().map(|(from, _)| from).collect();
        // Friday in winter time, Monday in summer time.
        let expected = [
            "2024-03-08T14:30",
            "2024-03-08T15:35",
            "2024-03-08T16:40",
            "2024-03-08T17:45",
            "2024-03-08T18:50",
            "2024-03-08T19:55",
            "2024-03-11T13:30",
            "2024-03-11T14:35",
            "2024-03-11T15:40",
            "2024-03-11T16:45",
            "2024-03-11T17:50",
            "2024-03-11T18:55",
        ];
        assert_eq!(starts, expected);
        let hourly = buckets(&rule("1h", "America/New_York", Some("09:30-16:00")));
        assert_eq!(hours(&hourly, "2024-03-11T13:30:00Z", "2024-03-11T20:00:00Z"), [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5]);
        // A time between two sessions finds the next one.
        assert_eq!(hourly.walk().at(at("2024-03-11T20:00:00Z")).start, at("2024-03-12T13:30:00Z"));
    }

    #[test]
    fn a_session_belongs_to_the_date_of_its_last_moment() {
        // The night session of Sydney opens the trading day of the next date.
        let days = buckets(&rule("1d", "Australia/Sydney", Some("09:50-16:30,17:10-07:00")));
        let found = spans(&days, "2024-06-03T07:10:00Z", "2024-06-05T07:00:00Z");
        assert_eq!(
            found,
            [
                ("2024-06-03T07:10".to_owned(), "2024-06-04T06:30".to_owned()),
                ("2024-06-04T07:10".to_owned(), "2024-06-05T06:30".to_owned()),
            ]
        );
        let parts = (days.walk().at(at("2024-06-03T07:10:00Z")), days.walk().at(at("2024-06-03T23:50:00Z")));
        assert_eq!((parts.0.start, parts.0.to), (at("2024-06-03T07:10:00Z"), at("2024-06-03T21:00:00Z")));
        assert_eq!((parts.1.start, parts.1.from), (parts.0.start, at("2024-06-03T23:50:00Z")));
        // A calendar with one window a week: days start at 17:00, and the one that opens on Sunday is Monday's.
        let fx = json!({"zone": "America/New_York", "windows": [{"from": "Sun 17:00", "to": "Fri 17:00"}]});
        let text = BucketText { every: "1d", session: Some("calendar"), ..BucketText::default() };
        let days = TimeBuckets::parse(&text, Some(&fx), TimeUnit::S).unwrap();
        assert_eq!(hours(&days, "2024-03-03T22:00:00Z", "2024-03-12T20:00:00Z"), [24.0; 7]);
        let weeks = TimeBuckets::parse(&BucketText { every: "1w", ..text }, Some(&fx), TimeUnit::S).unwrap();
        assert_eq!(
            spans(&weeks, "2024-03-10T21:00:00Z", "2024-03-11T00:00:00Z"),
            [("2024-03-10T21:00".to_owned(), "2024-03-15T21:00".to_owned())]
        );
        let months = TimeBuckets::parse(&BucketText { every: "1M", ..text }, Some(&fx), TimeUnit::S).unwrap();
        // The trading day of 2024-02-01 opens on the evening before.
        assert_eq!(
            spans(&months, "2024-02-10T21:00:00Z", "2024-02-11T00:00:00Z"),
            [("2024-01-31T22:00".to_owned(), "2024-02-29T22:00".to_owned())]
        );
    }

    #[test]
    fn units_and_extreme_times_do_not_overflow() {
        for unit in [TimeUnit::S, TimeUnit::Ms, TimeUnit::Us, TimeUnit::Ns] {
            for every in ["1s", "65m", "1d", "1w", "1M", "10y"] {
                for text in [
                    BucketText { every, ..BucketText::default() },
                    rule(every, "Asia/Tokyo", None),
                    rule(every, "Asia/Tokyo", Some("09:00-11:30,12:30-15:30")),
                ] {
                    let buckets = TimeBuckets::parse(&text, None, unit).unwrap();
                    for ts in [i64::MIN, unit.min_ts(), -1, 0, unit.max_ts(), i64::MAX] {
                        let bucket = buckets.walk().at(ts);
                        assert!(bucket.start < bucket.end || bucket.end == i64::MAX || bucket.start == i64::MIN);
                        buckets.walk().before(ts);
                    }
                }
            }
        }
    }

    #[test]
    fn whether_source_bars_lie_within_buckets_is_known_from_the_rules_where_possible() {
        let hour = Grid::Fixed { length: 3_600, phase: 0 };
        let of = |text: &BucketText<'_>| buckets(text).fits(&hour);
        assert_eq!(of(&BucketText { every: "4h", ..BucketText::default() }), Some(true));
        assert_eq!(of(&BucketText { every: "90m", ..BucketText::default() }), Some(false));
        assert_eq!(of(&BucketText { every: "4h", offset: Some("30m"), ..BucketText::default() }), Some(false));
        assert_eq!(of(&BucketText { every: "1M", ..BucketText::default() }), Some(true));
        assert_eq!(of(&rule("30m", "America/New_York", None)), Some(false));
        assert_eq!(of(&rule("1h", "America/New_York", Some("09:30-16:00"))), None);
        assert_eq!(of(&rule("1d", "America/New_York", None)), None);
    }

    #[test]
    fn errors_name_the_part_that_is_wrong() {
        let text = BucketText { every: "1h", ..BucketText::default() };
        for (text, part) in [
            (BucketText { every: "1H", ..text }, "\"1H\""),
            (BucketText { every: "h", ..text }, "\"h\""),
            (BucketText { every: "0h", ..text }, "\"0h\""),
            (BucketText { every: "99999999999h", ..text }, "99999999999h"),
            (BucketText { zone: Some("Mars/Base"), ..text }, "Mars/Base"),
            (BucketText { align: Some(BucketAlign::Local), ..text }, "needs tz"),
            (BucketText { align: Some(BucketAlign::Utc), zone: Some("UTC"), ..text }, "align=utc"),
            (BucketText { align: Some(BucketAlign::Session), ..text }, "no calendar"),
            (BucketText { session: Some("09:30-16:00"), ..text }, "session needs tz"),
            (BucketText { session: Some("09:30-16:00"), align: Some(BucketAlign::Local), ..text }, "align=session"),
            (rule("1h", "UTC", Some("9:30-16:00")), "9:30-16:00"),
            (rule("1h", "UTC", Some("funday 09:30-16:00")), "funday"),
            (rule("1h", "UTC", Some("09:30-16:00,15:00-17:00")), "overlap"),
            (BucketText { offset: Some("1h"), ..rule("1h", "UTC", Some("09:30-16:00")) }, "offset"),
            (BucketText { offset: Some("8d"), ..text }, "8d"),
            (BucketText { offset: Some("1x"), ..text }, "1x"),
            (rule("25h", "Europe/Berlin", None), "longer than a day"),
        ] {
            let error = TimeBuckets::parse(&text, None, TimeUnit::Ms).unwrap_err();
            assert!(error.detail().contains(part), "{part}: {error}");
        }
    }
}
