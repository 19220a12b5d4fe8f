//! Trading calendars: the times at which rows are expected.
//!
//! A calendar is `"24x7"`, `"weekdays"` (Monday to Friday of UTC), the name of an exchange such as `"XNYS"`
//! ([`exchanges`]), or weekly windows in a time zone:
//! `{"zone":"America/New_York","windows":[{"from":"Sun 17:00","to":"Fri 17:00"}]}`. A moment is open when the local
//! time of the zone is at or after `from` and before `to` of some window. A window therefore keeps its local hours
//! across clock changes, a skipped hour has no moments, and a repeated hour counts twice.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

use super::exchanges::{self, Exchange};
use super::sessions;
use crate::error::{Error, Result};

const DAY: i64 = 86_400;
const WEEK: i64 = 7 * DAY;
/// 1969-12-29T00:00:00, a Monday, in seconds.
const MONDAY: i64 = -3 * DAY;
/// Maximum number of windows of a calendar.
const WINDOWS_MAX: usize = 64;

const DAYS: [(&str, &str); 7] = [
    ("mon", "monday"),
    ("tue", "tuesday"),
    ("wed", "wednesday"),
    ("thu", "thursday"),
    ("fri", "friday"),
    ("sat", "saturday"),
    ("sun", "sunday"),
];

/// The times at which rows are expected.
#[derive(Clone, Debug)]
pub enum Calendar {
    /// At all times.
    Always,
    /// Within weekly windows of local time.
    Weekly(Weekly),
}

/// Weekly windows in a time zone.
#[derive(Clone, Debug)]
pub struct Weekly {
    zone: TimeZone,
    /// Seconds from Monday 00:00, `from` within the week and `to` at most a week later; ascending and disjoint.
    windows: Vec<(i64, i64)>,
}

impl Calendar {
    /// Parses the calendar of a registration.
    ///
    /// # Errors
    /// `invalid_argument` naming the mistake.
    pub fn parse(value: &Value) -> Result<Self> {
        match value {
            Value::String(name) => match name.as_str() {
                "24x7" => Ok(Calendar::Always),
                "weekdays" => Ok(Calendar::Weekly(Weekly { zone: TimeZone::UTC, windows: vec![(0, 5 * DAY)] })),
                other => match exchanges::exchange(other) {
                    Some(Exchange { zone, sessions, .. }) => {
                        let windows = coalesce(sessions::parse(sessions)?);
                        Ok(Calendar::Weekly(Weekly { zone: zone_named(zone)?, windows }))
                    }
                    None => Err(invalid(&format!(
                        "{:?} is neither 24x7 nor weekdays nor one of {}",
                        truncated(other),
                        exchanges::names()
                    ))),
                },
            },
            Value::Object(fields) => {
                if let Some(unknown) = fields.keys().find(|name| !["zone", "windows"].contains(&name.as_str())) {
                    return Err(invalid(&format!("{:?} is not one of zone, windows", truncated(unknown))));
                }
                let zone =
                    fields.get("zone").and_then(Value::as_str).ok_or_else(|| invalid("zone is missing or not text"))?;
                let zone = zone_named(zone)?;
                let listed = fields.get("windows").and_then(Value::as_array);
                let listed = listed.ok_or_else(|| invalid("windows is missing or not a list"))?;
                if listed.is_empty() || listed.len() > WINDOWS_MAX {
                    return Err(invalid(&format!("{} windows are not between 1 and {WINDOWS_MAX}", listed.len())));
                }
                let windows = listed.iter().enumerate().map(|(at, value)| window(at, value)).collect::<Result<_>>()?;
                Ok(Calendar::Weekly(Weekly { zone, windows: coalesce(windows) }))
            }
            _ => Err(invalid("neither text nor an object")),
        }
    }

    /// The calendar of a series: `24x7` when none is registered.
    pub fn of(registered: Option<&Value>) -> Result<Self> {
        registered.map_or(Ok(Calendar::Always), Self::parse)
    }

    /// Parses the text of a parameter: a name, or JSON.
    pub fn parse_text(text: &str) -> Result<Value> {
        let trimmed = text.trim();
        let value = if trimmed.starts_with(['{', '"']) {
            serde_json::from_str(trimmed).map_err(|error| invalid(&format!("invalid JSON: {error}")))?
        } else {
            Value::String(trimmed.to_owned())
        };
        Self::parse(&value)?;
        Ok(value)
    }

    /// Zone and windows in seconds from Monday 00:00, ascending and disjoint; `None` for a calendar that is always open.
    pub fn windows(&self) -> Option<(&TimeZone, &[(i64, i64)])> {
        match self {
            Calendar::Always => None,
            Calendar::Weekly(weekly) => Some((&weekly.zone, &weekly.windows)),
        }
    }

    /// The open periods within `from..to`, in seconds since the epoch: ascending, disjoint, half-open. The cost grows
    /// with the number of periods, not their length.
    pub fn openings(&self, from: i64, to: i64) -> OpenPeriods<'_> {
        match self {
            Calendar::Always => OpenPeriods { always: (from < to).then_some((from, to)), weekly: None },
            Calendar::Weekly(weekly) => OpenPeriods { always: None, weekly: Some(PeriodWalk::new(weekly, from, to)) },
        }
    }
}

/// Whether a text is the name of a calendar, if perhaps an unknown one: `24x7`, `weekdays`, or one like `XNYS`.
pub fn is_calendar_name(text: &str) -> bool {
    matches!(text, "24x7" | "weekdays") || exchanges::is_name(text)
}

fn zone_named(name: &str) -> Result<TimeZone> {
    TimeZone::get(name).map_err(|_| invalid(&format!("{:?} is not an IANA time zone", truncated(name))))
}

fn invalid(mistake: &str) -> Error {
    Error::invalid(format!("calendar: {mistake}")).with_hint(
        "24x7, weekdays, XNYS or another exchange, or {\"zone\":\"America/New_York\",\"windows\":[{\"from\":\"Sun 17:00\",\"to\":\"Fri 17:00\"}]}",
    )
}

fn truncated(text: &str) -> String {
    text.chars().take(80).collect()
}

/// `from` and `to` of a window in seconds; a window that crosses the end of the week ends in the next week.
fn window(at: usize, value: &Value) -> Result<(i64, i64)> {
    let fields = value.as_object().ok_or_else(|| invalid(&format!("window {at} is not an object")))?;
    if let Some(unknown) = fields.keys().find(|name| !["from", "to"].contains(&name.as_str())) {
        return Err(invalid(&format!("window {at}: {:?} is not one of from, to", truncated(unknown))));
    }
    let moment = |name: &str| {
        let text = fields.get(name).and_then(Value::as_str);
        let text = text.ok_or_else(|| invalid(&format!("window {at}: {name} is missing or not text")))?;
        moment(text)
            .ok_or_else(|| invalid(&format!("window {at}: {name} {:?} is not a weekday and time", truncated(text))))
    };
    let (from, to) = (moment("from")?, moment("to")?);
    if from == to {
        return Err(invalid(&format!("window {at} ends where it starts")));
    }
    let from = from % WEEK;
    Ok((from, if to < from { to + WEEK } else { to }))
}

/// Seconds from Monday 00:00 of a text such as `Sun 17:00`, `Mon 09:30:15` or `Fri 24:00`.
fn moment(text: &str) -> Option<i64> {
    let mut words = text.split_ascii_whitespace();
    let (day, time) = (words.next()?.to_ascii_lowercase(), words.next()?);
    if words.next().is_some() {
        return None;
    }
    let day = DAYS.iter().position(|(short, long)| day == *short || day == *long)?;
    let mut parts = time.split(':').map(|part| {
        let plain = part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
        part.parse::<i64>().ok().filter(|_| plain)
    });
    let (hour, minute) = (parts.next()??, parts.next()??);
    let second = match parts.next() {
        None => 0,
        Some(second) => second?,
    };
    let of_day = hour * 3_600 + minute * 60 + second;
    if parts.next().is_some() || minute > 59 || second > 59 || of_day > DAY {
        return None;
    }
    Some(i64::try_from(day).ok()? * DAY + of_day)
}

/// Sorts windows and merges those that touch or overlap, also across the end of the week.
fn coalesce(mut windows: Vec<(i64, i64)>) -> Vec<(i64, i64)> {
    windows.sort_unstable();
    let mut merged: Vec<(i64, i64)> = Vec::with_capacity(windows.len());
    for (from, to) in windows {
        match merged.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => merged.push((from, to)),
        }
    }
    // The last window can overlap the first ones of the next week.
    while let (Some(first), Some(last)) = (merged.first().copied(), merged.last().copied()) {
        if last.1 - last.0 >= WEEK {
            return vec![(0, WEEK)];
        }
        if merged.len() == 1 || last.1 < first.0 + WEEK {
            break;
        }
        merged.remove(0);
        if let Some(last) = merged.last_mut() {
            last.1 = last.1.max(first.1 + WEEK);
        }
    }
    merged
}

/// Iterator of [`Calendar::openings`].
#[derive(Debug)]
pub struct OpenPeriods<'a> {
    always: Option<(i64, i64)>,
    weekly: Option<PeriodWalk<'a>>,
}

impl Iterator for OpenPeriods<'_> {
    type Item = (i64, i64);

    fn next(&mut self) -> Option<(i64, i64)> {
        self.always.take().or_else(|| self.weekly.as_mut()?.next())
    }
}

/// Walks the periods between clock changes; within one, local time is UTC plus a fixed offset.
#[derive(Debug)]
struct PeriodWalk<'a> {
    weekly: &'a Weekly,
    /// The rest of the current period, `from..until`, in seconds since the epoch.
    from: i64,
    until: i64,
    to: i64,
    /// Seconds east of UTC during the period.
    offset: i64,
    /// Week number and position of the next window.
    week: i64,
    at: usize,
}

impl<'a> PeriodWalk<'a> {
    fn new(weekly: &'a Weekly, from: i64, to: i64) -> Self {
        let mut walk = Self { weekly, from, until: from, to, offset: 0, week: 0, at: 0 };
        walk.enter(from);
        walk
    }

    /// Starts the period that `from` lies in.
    fn enter(&mut self, from: i64) {
        let zone = &self.weekly.zone;
        let instant = Timestamp::from_second(from).unwrap_or(if from < 0 { Timestamp::MIN } else { Timestamp::MAX });
        self.from = from;
        self.offset = i64::from(zone.to_offset(instant).seconds());
        let change = zone.following(instant).map(|change| change.timestamp().as_second()).find(|at| *at > from);
        self.until = change.unwrap_or(self.to).min(self.to);
        // A window of the previous week can reach into this one.
        self.week = (from + self.offset - MONDAY).div_euclid(WEEK) - 1;
        self.at = 0;
    }

    fn next(&mut self) -> Option<(i64, i64)> {
        while self.from < self.to {
            let Some((from, to)) = self.weekly.windows.get(self.at).copied() else {
                self.at = 0;
                self.week += 1;
                continue;
            };
            let monday = MONDAY + self.week * WEEK - self.offset;
            let (from, to) = (monday + from, monday + to);
            if from >= self.until {
                if self.until >= self.to {
                    self.from = self.to;
                    return None;
                }
                self.enter(self.until);
                continue;
            }
            self.at += 1;
            let (from, to) = (from.max(self.from), to.min(self.until));
            if from < to {
                return Some((from, to));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::Weekday;
    use serde_json::json;

    /// Whether the local time of the zone lies inside a window: the definition, one moment at a time.
    fn is_open(zone: &str, windows: &[(i64, i64)], second: i64) -> bool {
        let local = Timestamp::from_second(second).unwrap().to_zoned(TimeZone::get(zone).unwrap()).datetime();
        let day = i64::from(local.date().weekday().to_monday_zero_offset());
        let time = local.time();
        let at = day * DAY + i64::from(time.hour()) * 3_600 + i64::from(time.minute()) * 60 + i64::from(time.second());
        assert_eq!(Weekday::Monday.to_monday_zero_offset(), 0);
        windows.iter().any(|(from, to)| (from <= &at && at < *to) || (from <= &(at + WEEK) && at + WEEK < *to))
    }

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_second()
    }

    fn compare(calendar: &Value, zone: &str, windows: &[(i64, i64)], from: &str, to: &str, step: i64) {
        let calendar = Calendar::parse(calendar).unwrap();
        let (from, to) = (at(from), at(to));
        let openings: Vec<(i64, i64)> = calendar.openings(from, to).collect();
        assert!(openings.iter().all(|(from, to)| from < to));
        assert!(openings.windows(2).all(|pair| pair[0].1 <= pair[1].0), "ascending and disjoint");
        let mut second = from;
        while second < to {
            let opened = openings.iter().any(|(from, to)| *from <= second && second < *to);
            assert_eq!(opened, is_open(zone, windows, second), "{zone} {}", Timestamp::from_second(second).unwrap());
            second += step;
        }
    }

    #[test]
    fn windows_keep_their_local_hours_across_clock_changes() {
        let fx = json!({"zone": "America/New_York", "windows": [{"from": "Sun 17:00", "to": "Fri 17:00"}]});
        let windows = [(6 * DAY + 17 * 3_600, 4 * DAY + 17 * 3_600 + WEEK)];
        compare(&fx, "America/New_York", &windows, "2024-02-25T00:00:00Z", "2024-04-01T00:00:00Z", 900);
        compare(&fx, "America/New_York", &windows, "2024-10-20T00:00:00Z", "2024-11-20T00:00:00Z", 900);
        let calendar = Calendar::parse(&fx).unwrap();
        let openings: Vec<_> = calendar.openings(at("2024-03-05T00:00:00Z"), at("2024-03-16T00:00:00Z")).collect();
        // Winter: 22:00 UTC; the clock changes on Sunday 2024-03-10, so that evening opens at 21:00 UTC.
        assert_eq!(
            openings,
            [
                (at("2024-03-05T00:00:00Z"), at("2024-03-08T22:00:00Z")),
                (at("2024-03-10T21:00:00Z"), at("2024-03-15T21:00:00Z")),
            ]
        );
    }

    #[test]
    fn skipped_hours_have_no_moments_and_repeated_ones_count_twice() {
        let night = json!({"zone": "America/New_York", "windows": [{"from": "Sun 01:15", "to": "Sun 02:30"}]});
        let windows = [(6 * DAY + 4_500, 6 * DAY + 9_000)];
        for (from, to) in [
            ("2024-03-08T00:00:00Z", "2024-03-12T00:00:00Z"),
            ("2024-11-01T00:00:00Z", "2024-11-05T00:00:00Z"),
            ("1883-11-15T00:00:00Z", "1883-11-21T00:00:00Z"),
            ("2090-03-01T00:00:00Z", "2090-03-20T00:00:00Z"),
        ] {
            compare(&night, "America/New_York", &windows, from, to, 60);
        }
        let calendar = Calendar::parse(&night).unwrap();
        let spring: Vec<_> = calendar.openings(at("2024-03-10T00:00:00Z"), at("2024-03-11T00:00:00Z")).collect();
        assert_eq!(spring, [(at("2024-03-10T06:15:00Z"), at("2024-03-10T07:00:00Z"))]);
        let autumn: Vec<_> = calendar.openings(at("2024-11-03T00:00:00Z"), at("2024-11-04T00:00:00Z")).collect();
        let both = [
            (at("2024-11-03T05:15:00Z"), at("2024-11-03T06:00:00Z")),
            (at("2024-11-03T06:15:00Z"), at("2024-11-03T07:30:00Z")),
        ];
        assert_eq!(autumn, both);
    }

    #[test]
    fn windows_are_sorted_and_merged_also_across_the_end_of_the_week() {
        let hours = json!({"zone": "Asia/Kolkata", "windows": [
            {"from": "Tue 09:15", "to": "Tue 15:30"}, {"from": "Monday 09:15:30", "to": "mon 15:30"},
            {"from": "Sat 22:00", "to": "Mon 01:00"}, {"from": "Sun 20:00", "to": "Mon 02:00"},
            {"from": "Wed 00:00", "to": "Wed 24:00"}, {"from": "Thu 00:00", "to": "Thu 00:00:01"},
        ]});
        let windows = [
            (9 * 3_600 + 930, 15 * 3_600 + 1_800),
            (DAY + 9 * 3_600 + 900, DAY + 15 * 3_600 + 1_800),
            (2 * DAY, 3 * DAY + 1),
            (5 * DAY + 22 * 3_600, WEEK + 7_200),
        ];
        match Calendar::parse(&hours).unwrap() {
            Calendar::Weekly(weekly) => assert_eq!(weekly.windows, windows),
            Calendar::Always => panic!("it has windows"),
        }
        compare(&hours, "Asia/Kolkata", &windows, "1969-12-20T00:00:00Z", "1970-01-20T00:00:00Z", 450);
        let always = json!({"zone": "Europe/Berlin", "windows": [
            {"from": "Wed 12:00", "to": "Sun 00:00"}, {"from": "Sat 12:00", "to": "Thu 00:00"}]});
        let calendar = Calendar::parse(&always).unwrap();
        let open: i64 =
            calendar.openings(at("2024-03-01T00:00:00Z"), at("2024-05-01T00:00:00Z")).map(|(a, b)| b - a).sum();
        assert_eq!(open, 61 * DAY);
    }

    #[test]
    fn weekdays_are_monday_to_friday_of_utc() {
        compare(&json!("weekdays"), "UTC", &[(0, 5 * DAY)], "1969-12-20T00:00:00Z", "1970-01-20T00:00:00Z", 3_600);
        let always: Vec<_> = Calendar::parse(&json!("24x7")).unwrap().openings(-5, 9).collect();
        assert_eq!(always, [(-5, 9)]);
        assert_eq!(Calendar::Always.openings(3, 3).count(), 0);
    }

    #[test]
    fn errors_name_the_mistake() {
        for (value, mistake) in [
            (json!("nyse"), "nyse"),
            (json!(5), "neither text nor an object"),
            (json!({"windows": []}), "zone"),
            (json!({"zone": "Mars/Base", "windows": []}), "Mars/Base"),
            (json!({"zone": "UTC"}), "windows"),
            (json!({"zone": "UTC", "windows": []}), "0 windows"),
            (json!({"zone": "UTC", "windows": [1]}), "window 0"),
            (json!({"zone": "UTC", "days": [], "windows": []}), "days"),
            (json!({"zone": "UTC", "windows": [{"from": "Mon 00:00"}]}), "to is missing"),
            (json!({"zone": "UTC", "windows": [{"from": "Mon 00:00", "to": "Mon 00:00"}]}), "ends where it starts"),
            (json!({"zone": "UTC", "windows": [{"from": "Mon 00:00", "to": "Mon 24:01"}]}), "Mon 24:01"),
            (json!({"zone": "UTC", "windows": [{"from": "Mo 00:00", "to": "Tue 00:00"}]}), "Mo 00:00"),
            (json!({"zone": "UTC", "windows": [{"from": "Mon 7:00", "to": "Tue 00:00"}]}), "Mon 7:00"),
            (json!({"zone": "UTC", "windows": [{"from": "Mon 07:00", "to": "Tue 00:00", "x": 1}]}), "\"x\""),
        ] {
            let error = Calendar::parse(&value).unwrap_err();
            assert!(error.detail().contains(mistake) && error.hint().is_some(), "{value}: {error}");
        }
        assert!(Calendar::parse_text("{\"zone\"").is_err());
        assert_eq!(Calendar::parse_text(" weekdays ").unwrap(), json!("weekdays"));
    }
}
