//! The grid of a timeframe: the time axis cut into numbered buckets of one interval each.
//!
//! - Seconds, minutes, hours and single days count from the epoch, weeks from a Monday, months from 1 January.
//! - Bars of several days or weeks take their phase from `origin`, else from the first stored bar. A registered
//!   `origin` sets the phase of every timeframe.
//! - A label that does not imply a length needs `interval_ms`.

use super::civil_days::{civil_from_days, days_from_civil};
use super::schema::{SeriesDef, timeframe_months, timeframe_ms};
use super::time::{self, TimeUnit};
use super::width::narrow;
use crate::error::{Error, ErrorCode, ROW_ERRORS_MAX, Result, RowError};

const SECONDS_PER_DAY: i64 = 86_400;
/// 1969-12-29, the Monday before the epoch, in days.
const MONDAY: i64 = -3;

/// Buckets of equal length, or of calendar months. Bucket 0 starts at the phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Grid {
    /// `length` ticks each; `0 <= phase < length` ticks after the epoch.
    Fixed { length: i64, phase: i64 },
    /// `length` months each; `0 <= phase < length` months after January 1970.
    Months { length: i64, phase: i64, unit: TimeUnit },
}

impl Grid {
    /// The grid of a series whose first stored row is `first_ts`.
    ///
    /// # Errors
    /// `invalid_argument` when neither the timeframe nor the registration defines the length of an interval.
    pub fn of(def: &SeriesDef, first_ts: Option<i64>) -> Result<Self> {
        let label = def.timeframe().unwrap_or_default();
        if let Some(months) = timeframe_months(label) {
            let length = i64::from(months);
            let phase = def.origin.map_or(0, |origin| month_of(origin, def.unit));
            return Ok(Grid::Months { length, phase: phase.rem_euclid(length), unit: def.unit });
        }
        let interval_ms = def.interval_ms.filter(|ms| *ms > 0).ok_or_else(|| {
            let error = match def.timeframe() {
                Some(label) => Error::invalid(format!("timeframe {label:?} of {} has no fixed length", def.key)),
                None => Error::invalid(format!("{} has no timeframe", def.key)),
            };
            error.with_hint("register the series with interval_ms")
        })?;
        let length = interval_ticks(interval_ms, def.unit)
            .map_err(|error| Error::invalid(format!("{} of {}", error.detail(), def.key)))?;
        let day = SECONDS_PER_DAY * def.unit.per_second();
        let week = timeframe_ms(label).is_some() && label.ends_with('w');
        let by_label = if week { MONDAY * day } else { 0 };
        let anchor = match def.origin {
            Some(origin) => origin,
            None if starts_with_first_row(def) => first_ts.unwrap_or(by_label),
            None => by_label,
        };
        Ok(Grid::Fixed { length, phase: anchor.rem_euclid(length) })
    }

    /// Whether a bucket starts at a timestamp.
    pub fn has(&self, ts: i64) -> bool {
        self.start_of(self.bucket_of(ts)) == ts
    }

    /// Whether buckets start at all of these timestamps. Consecutive timestamps one bucket apart need no division.
    pub fn has_all(&self, ts: &[i64]) -> bool {
        let Grid::Fixed { length, phase } = *self else { return ts.iter().all(|ts| self.has(*ts)) };
        let mut previous = phase;
        ts.iter().fold(true, |all, ts| {
            let has = match ts.checked_sub(previous) {
                Some(step) => step == length || step % length == 0,
                None => self.has(*ts),
            };
            previous = *ts;
            all & has
        })
    }

    /// The bucket start nearest to a timestamp; the earlier one on a tie.
    pub fn nearest(&self, ts: i64) -> i64 {
        let bucket = self.bucket_of(ts);
        let (before, after) = (self.start_of(bucket), self.start_of(bucket.saturating_add(1)));
        if i128::from(after) - i128::from(ts) < i128::from(ts) - i128::from(before) { after } else { before }
    }

    /// The bucket a timestamp lies in.
    pub fn bucket_of(&self, ts: i64) -> i64 {
        match *self {
            Grid::Fixed { length, phase } => ts.div_euclid(length) - i64::from(ts.rem_euclid(length) < phase),
            Grid::Months { length, phase, unit } => (month_of(ts, unit) - phase).div_euclid(length),
        }
    }

    /// First timestamp of a bucket, saturated to `i64`.
    pub fn start_of(&self, bucket: i64) -> i64 {
        let wide = match *self {
            Grid::Fixed { length, phase } => i128::from(bucket) * i128::from(length) + i128::from(phase),
            Grid::Months { length, phase, unit } => {
                let month = bucket.saturating_mul(length).saturating_add(phase).clamp(-MONTHS_MAX, MONTHS_MAX);
                let of_year = narrow::<u8, _>(month.rem_euclid(12)) + 1;
                let days = days_from_civil(1970 + month.div_euclid(12), of_year, 1);
                i128::from(days) * i128::from(SECONDS_PER_DAY * unit.per_second())
            }
        };
        i64::try_from(wide).unwrap_or(if wide < 0 { i64::MIN } else { i64::MAX })
    }

    /// Last timestamp of a bucket.
    pub fn end_of(&self, bucket: i64) -> i64 {
        match self.start_of(bucket.saturating_add(1)) {
            i64::MAX => i64::MAX,
            next => next.saturating_sub(1),
        }
    }

    /// The first bucket that starts at or after a timestamp.
    pub fn first_at(&self, ts: i64) -> i64 {
        let bucket = self.bucket_of(ts);
        if self.start_of(bucket) == ts { bucket } else { bucket.saturating_add(1) }
    }
}

/// An interval in ticks of a unit.
///
/// # Errors
/// `invalid_argument` for one that is too long, or no multiple of the unit.
pub fn interval_ticks(interval_ms: i64, unit: TimeUnit) -> Result<i64> {
    let invalid = |what: &str| Error::invalid(format!("interval_ms {interval_ms} is {what} unit {}", unit.name()));
    let ticks = time::convert_wide(interval_ms, 1_000, unit).ok_or_else(|| invalid("no multiple of"))?;
    i64::try_from(ticks).map_err(|_| invalid("too long for"))
}

/// Whether the first stored row decides the phase of the grid: bars of several days or weeks without an `origin`.
pub fn starts_with_first_row(def: &SeriesDef) -> bool {
    let label = def.timeframe().unwrap_or_default();
    let is_days = timeframe_ms(label).is_some() && label.ends_with(['d', 'w']);
    def.origin.is_none() && is_days && !matches!(label, "1d" | "1w")
}

/// Reason of a row error: the timestamp lies between two grid points.
pub const OFF_GRID: &str = "off_grid";
/// How the caller of a rejected write can fix rows off the grid.
pub const OFF_GRID_HINT: &str = "send the start of each interval, or register the series with the origin of its bars; \
    grid=allow (--grid allow on the command line) stores rows between the grid points as they are";

/// Message for a timestamp that is not on the grid of its series.
pub fn off_grid_message(def: &SeriesDef, grid: &Grid, ts: i64) -> String {
    let nearest = grid.nearest(ts);
    format!(
        "ts {ts} ({}) is not on the {} grid, the nearest grid point is {nearest} ({})",
        time::rfc3339(ts, def.unit),
        def.timeframe().unwrap_or("interval"),
        time::rfc3339(nearest, def.unit)
    )
}

/// Checks rows of a series whose first stored row decides the phase ([`starts_with_first_row`]): against that row, or
/// in an empty series against the earliest of `rows`, which are positions in the body and timestamps.
///
/// # Errors
/// `invalid_rows` with the reason [`OFF_GRID`].
pub fn check_phase(def: &SeriesDef, first_ts: Option<i64>, rows: &[(u64, i64)]) -> Result<()> {
    let Some(first) = first_ts.or_else(|| rows.iter().map(|(_, ts)| *ts).min()) else { return Ok(()) };
    let Ok(grid) = Grid::of(def, Some(first)) else { return Ok(()) };
    let mut off = rows.iter().filter(|(_, ts)| !grid.has(*ts));
    let errors: Vec<RowError> = off
        .by_ref()
        .take(ROW_ERRORS_MAX)
        .map(|(row, ts)| RowError {
            series: None,
            row: *row,
            field: "ts".into(),
            reason: OFF_GRID.into(),
            message: off_grid_message(def, &grid, *ts),
        })
        .collect();
    let Some(error) = errors.first() else { return Ok(()) };
    let more = errors.len() - 1 + off.count();
    let mut detail = format!("{}: row {}: {}", def.key, error.row, error.message);
    if more > 0 {
        detail.push_str(&format!(", and {more} more"));
    }
    Err(Error::new(ErrorCode::InvalidRows, detail).with_hint(OFF_GRID_HINT).with_rows(errors))
}

/// Limit of month numbers, so that their days do not overflow.
const MONTHS_MAX: i64 = 1 << 40;

/// Months from January 1970.
fn month_of(ts: i64, unit: TimeUnit) -> i64 {
    let (year, month, _) = civil_from_days(ts.div_euclid(SECONDS_PER_DAY * unit.per_second()));
    (year - 1970) * 12 + i64::from(month) - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{SeriesKey, SeriesSpec};

    const DAY: i64 = 86_400_000;

    fn def(timeframe: &str, unit: TimeUnit, origin: Option<i64>, interval_ms: Option<i64>) -> SeriesDef {
        let mut spec = SeriesSpec::of_key(&SeriesKey::kline("X", timeframe).unwrap());
        (spec.unit, spec.origin, spec.interval_ms) = (Some(unit), origin, interval_ms);
        spec.resolve().unwrap()
    }

    fn grid(timeframe: &str) -> Grid {
        Grid::of(&def(timeframe, TimeUnit::Ms, None, None), None).unwrap()
    }

    /// Timestamp of a date in milliseconds.
    fn at(text: &str) -> i64 {
        crate::types::time::parse_param(text, TimeUnit::Ms, crate::types::time::Bound::Start).unwrap()
    }

    /// Starts of the buckets in a closed range.
    fn starts(grid: Grid, from: i64, to: i64) -> Vec<i64> {
        (grid.first_at(from)..=grid.bucket_of(to)).map(|bucket| grid.start_of(bucket)).collect()
    }

    #[test]
    fn buckets_cover_the_axis_once_in_every_unit() {
        for unit in [TimeUnit::S, TimeUnit::Ms, TimeUnit::Us, TimeUnit::Ns] {
            for timeframe in ["1s", "7s", "1m", "45m", "4h", "1d", "3d", "1w", "2w", "1M", "3M", "12M"] {
                let grid = Grid::of(&def(timeframe, unit, None, None), Some(-5 * DAY)).unwrap();
                for seed in [unit.min_ts(), -1_234_567_890_123, -1, 0, 1, 1_706_745_600_000, unit.max_ts()] {
                    let bucket = grid.bucket_of(seed);
                    let (start, end) = (grid.start_of(bucket), grid.end_of(bucket));
                    assert!(start <= seed && seed <= end, "{timeframe} {unit:?} {seed}: {start} to {end}");
                    if start > unit.min_ts() && end < unit.max_ts() {
                        assert_eq!((grid.bucket_of(start), grid.bucket_of(end)), (bucket, bucket));
                        assert_eq!((grid.bucket_of(start - 1), grid.bucket_of(end + 1)), (bucket - 1, bucket + 1));
                        assert_eq!((grid.first_at(start), grid.first_at(start + 1)), (bucket, bucket + 1));
                    }
                }
            }
        }
    }

    #[test]
    fn months_start_on_day_one_also_before_the_epoch() {
        let mut wanted = Vec::new();
        for year in 1890..1975 {
            for month in 1..=12_u8 {
                wanted.push(days_from_civil(year, month, 1) * DAY);
            }
        }
        assert_eq!(starts(grid("1M"), at("1890-01-01"), at("1974-12-31")), wanted);
        let quarters: Vec<i64> = wanted.iter().copied().step_by(3).collect();
        assert_eq!(starts(grid("3M"), at("1890-01-01"), at("1974-12-31")), quarters);
        let from_february = Grid::of(&def("3M", TimeUnit::Ms, Some(at("2020-02-14")), None), None).unwrap();
        assert_eq!(
            starts(from_february, at("1969-10-01"), at("1970-06-01")),
            [at("1969-11-01"), at("1970-02-01"), at("1970-05-01")]
        );
    }

    #[test]
    fn weeks_start_on_monday_unless_the_origin_says_otherwise() {
        // 2024-02-05 is a Monday.
        assert_eq!(
            starts(grid("1w"), at("2024-02-01"), at("2024-02-20")),
            [at("2024-02-05"), at("2024-02-12"), at("2024-02-19")]
        );
        assert_eq!(
            starts(grid("1w"), at("1969-12-20"), at("1970-01-05")),
            [at("1969-12-22"), at("1969-12-29"), at("1970-01-05")]
        );
        let sunday = Grid::of(&def("1w", TimeUnit::Ms, Some(at("2024-02-04")), None), None).unwrap();
        assert_eq!(starts(sunday, at("2024-02-01"), at("2024-02-12")), [at("2024-02-04"), at("2024-02-11")]);
    }

    #[test]
    fn several_days_take_their_phase_from_the_origin_or_the_first_bar() {
        let first = Some(at("2017-08-17"));
        for timeframe in ["3d", "2w", "10d"] {
            let by_first = Grid::of(&def(timeframe, TimeUnit::Ms, None, None), first).unwrap();
            let by_origin = Grid::of(&def(timeframe, TimeUnit::Ms, first, None), Some(5)).unwrap();
            assert_eq!(by_first, by_origin);
            let length = timeframe_ms(timeframe).unwrap();
            assert_eq!(
                starts(by_first, at("2017-08-17"), at("2017-08-17") + length),
                [at("2017-08-17"), at("2017-08-17") + length]
            );
            assert_eq!(by_first.first_at(at("2017-08-16")), by_first.bucket_of(at("2017-08-17")));
        }
        // One day, hours and minutes do not depend on what is stored.
        for timeframe in ["1d", "12h", "15m"] {
            let free = Grid::of(&def(timeframe, TimeUnit::Ms, None, None), Some(12_345)).unwrap();
            assert_eq!(free, grid(timeframe));
        }
        let evening = Grid::of(&def("1d", TimeUnit::Ms, Some(at("2024-01-01T22:00:00Z")), None), None).unwrap();
        assert_eq!(starts(evening, at("2024-02-01"), at("2024-02-02")), [at("2024-02-01T22:00:00Z")]);
    }

    #[test]
    fn other_labels_need_interval_ms() {
        let error = Grid::of(&def("tick", TimeUnit::Ms, None, None), None).unwrap_err();
        assert!(error.detail().contains("\"tick\"") && error.hint().unwrap().contains("interval_ms"), "{error}");
        let given = Grid::of(&def("bars", TimeUnit::Us, None, Some(250)), None).unwrap();
        assert_eq!(given, Grid::Fixed { length: 250_000, phase: 0 });
        let phased = Grid::of(&def("bars", TimeUnit::Ms, Some(-7), Some(100)), None).unwrap();
        assert_eq!(phased, Grid::Fixed { length: 100, phase: 93 });
        assert!(Grid::of(&def("bars", TimeUnit::Ns, None, Some(i64::MAX / 10)), None).is_err());
    }
}
