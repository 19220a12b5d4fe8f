//! Trading sessions as text: `mon-fri 09:30-16:00`, several separated by commas.

use super::width::narrow;
use crate::error::{Error, Result};

const DAY: i64 = 86_400;
const WEEKDAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Windows in seconds from Monday of `[DAY[-DAY] ]HH:MM-HH:MM`, separated by commas; without days one on each day. One that
/// does not end after it starts ends on the next day.
///
/// # Errors
/// `invalid_argument` naming the text.
pub fn parse(text: &str) -> Result<Vec<(i64, i64)>> {
    let shown: String = text.chars().take(80).collect();
    let invalid = || {
        Error::invalid(format!("session {shown:?} is not a list of sessions")).with_hint(
            "such as 09:30-16:00, mon-fri 09:30-16:00 or 09:50-16:30,17:10-07:00, XNYS or another exchange, or calendar for that of the series",
        )
    };
    let day_named = |name: &str| WEEKDAYS.iter().position(|known| known.eq_ignore_ascii_case(name));
    let mut windows = Vec::new();
    for part in text.split(',') {
        let part = part.trim();
        let (days, times) = match part.split_once(' ') {
            Some((days, times)) => {
                let (first, last) = days.split_once('-').unwrap_or((days, days));
                let (first, last) = (day_named(first).ok_or_else(invalid)?, day_named(last).ok_or_else(invalid)?);
                let count = (last + 7 - first) % 7 + 1;
                ((first..first + count).map(|day| day % 7).collect::<Vec<_>>(), times.trim())
            }
            None => ((0..7).collect(), part),
        };
        let (from, to) = times.split_once('-').ok_or_else(invalid)?;
        let (from, to) = (time_of_day(from).ok_or_else(invalid)?, time_of_day(to).ok_or_else(invalid)?);
        let from = from % DAY;
        let to = if to <= from { to + DAY } else { to };
        windows.extend(days.into_iter().map(|day| {
            let midnight = narrow::<i64, _>(day) * DAY;
            (midnight + from, midnight + to)
        }));
    }
    Ok(windows)
}

/// Seconds of `HH:MM`, up to 24:00.
pub fn time_of_day(text: &str) -> Option<i64> {
    let (hour, minute) = text.split_once(':')?;
    let part = |text: &str| {
        let is_plain = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<i64>().ok().filter(|_| is_plain)
    };
    let (hour, minute) = (part(hour)?, part(minute)?);
    let seconds = hour * 3_600 + minute * 60;
    (minute < 60 && seconds <= DAY).then_some(seconds)
}
