//! Closed ranges of timestamps: the one place where bounds are converted to the unit of a series and checked.

use crate::error::{Error, Result};
use crate::query::request::TimeValue;
use crate::types::TimeUnit;
use crate::types::time::{self, Bound};

/// A range of timestamps that includes both bounds, of which the first is not after the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClosedRange {
    start: i64,
    end: i64,
}

impl ClosedRange {
    /// All timestamps.
    pub const ALL: Self = Self { start: i64::MIN, end: i64::MAX };

    /// The range of these bounds in the unit of the series.
    ///
    /// # Errors
    /// `invalid_argument` for a start after the end.
    pub fn new(start: i64, end: i64) -> Result<Self> {
        if start > end {
            return Err(Error::invalid(format!("start {start} is after end {end}"))
                .with_hint("ranges are closed: start <= end"));
        }
        Ok(Self { start, end })
    }

    /// The range of bounds as a caller writes them, an absent one being open; `None` for a range between two ticks of
    /// the unit, which holds no timestamp.
    ///
    /// # Errors
    /// `invalid_argument` for text that is not a time, for a time outside of 1678 to 2261, and for a start after the
    /// end.
    pub fn parse(unit: TimeUnit, start: Option<&TimeValue>, end: Option<&TimeValue>) -> Result<Option<Self>> {
        let first = start.map(|when| timestamp("start", when, unit, Bound::Start)).transpose()?.unwrap_or(i64::MIN);
        let last = end.map(|when| timestamp("end", when, unit, Bound::End)).transpose()?.unwrap_or(i64::MAX);
        match (start, end) {
            (Some(start), Some(end)) if first > last && !ends_before(start, end, unit)? => Ok(None),
            _ => Self::new(first, last).map(Some),
        }
    }

    /// Like [`parse`](Self::parse), for an operation that needs a timestamp in its range.
    ///
    /// # Errors
    /// `invalid_argument` also for a range without a timestamp.
    pub fn parse_non_empty(unit: TimeUnit, start: Option<&TimeValue>, end: Option<&TimeValue>) -> Result<Self> {
        Self::parse(unit, start, end)?.ok_or_else(|| Error::invalid("no timestamp lies between start and end"))
    }

    /// First and last timestamp.
    pub fn bounds(self) -> (i64, i64) {
        (self.start, self.end)
    }

    /// First and last timestamp, as far as the range is not open.
    pub fn given_bounds(self) -> (Option<i64>, Option<i64>) {
        (Some(self.start).filter(|ts| *ts != i64::MIN), Some(self.end).filter(|ts| *ts != i64::MAX))
    }
}

fn timestamp(what: &str, when: &TimeValue, unit: TimeUnit, bound: Bound) -> Result<i64> {
    match when {
        TimeValue::Epoch(ts) if time::in_range(*ts, unit) => Ok(*ts),
        TimeValue::Epoch(ts) => Err(Error::invalid(format!("{what} {ts} is outside 1678 to 2261 in {}", unit.name()))),
        TimeValue::Text(text) => time::parse_param(text, unit, bound).map_err(|error| {
            let named = Error::new(error.code(), error.detail().replacen("time ", &format!("{what} "), 1));
            error.hint().map_or(named.clone(), |hint| named.with_hint(hint))
        }),
    }
}

/// Whether the end of a range is before its start, at full precision.
fn ends_before(start: &TimeValue, end: &TimeValue, unit: TimeUnit) -> Result<bool> {
    let nanos_per_tick = 1_000_000_000 / unit.per_second();
    let nanos = |when: &TimeValue, bound: Bound| match when {
        TimeValue::Epoch(ts) => Ok(ts.saturating_mul(nanos_per_tick)),
        TimeValue::Text(text) => match text.parse::<i64>() {
            Ok(ts) => Ok(ts.saturating_mul(nanos_per_tick)),
            Err(_) => time::parse_param(text, TimeUnit::Ns, bound),
        },
    };
    // Values finer than nanoseconds are rounded up on both sides.
    let end = nanos(end, Bound::End)?.max(nanos(end, Bound::Start)?);
    Ok(end < nanos(start, Bound::Start)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;

    fn parsed(start: &str, end: &str) -> Result<Option<(i64, i64)>> {
        let (start, end) = (TimeValue::Text(start.into()), TimeValue::Text(end.into()));
        ClosedRange::parse(TimeUnit::Ms, Some(&start), Some(&end)).map(|range| range.map(ClosedRange::bounds))
    }

    #[test]
    fn a_range_between_two_ticks_is_empty_and_one_that_ends_before_it_starts_is_refused() {
        assert_eq!(parsed("1970-01-01", "1970-01-01").unwrap(), Some((0, 86_399_999)));
        assert_eq!(parsed("1970-01-01T00:00:00.0001Z", "1970-01-01T00:00:00.0009Z").unwrap(), None);
        for (start, end) in [("2", "1"), ("1970-01-01T00:00:00.0009Z", "1970-01-01T00:00:00.0001Z")] {
            assert_eq!(parsed(start, end).unwrap_err().code(), ErrorCode::InvalidArgument, "{start} {end}");
        }
        assert!(ClosedRange::new(2, 1).is_err());
        let open = ClosedRange::parse(TimeUnit::Ms, Some(&TimeValue::Epoch(5)), None).unwrap().unwrap();
        assert_eq!((open.bounds(), open.given_bounds()), ((5, i64::MAX), (Some(5), None)));
        assert!(ClosedRange::parse(TimeUnit::Ms, Some(&TimeValue::Epoch(i64::MAX)), None).is_err());
    }
}
