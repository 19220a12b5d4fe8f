//! Rules for the timestamps of rows: each starts an interval of the timeframe and is in the unit of the series.

use super::options::{DecodeOptions, GridRule, ImplausibleTs};
use super::parsed::{ParsedRows, TimeBounds};
use super::row_errors::{IMPLAUSIBLE_TS, RowErrors};
use crate::types::grid::{OFF_GRID, off_grid_message, starts_with_first_row};
use crate::types::time::{coarser_unit_of, coarser_units_span, convert, is_old, rfc3339};
use crate::types::{Grid, SeriesDef};

/// Adds an error for each row whose timestamp breaks a rule, unless the row already has one. Rows whose grid starts
/// with the first stored row are listed in `parsed.phase_pending` instead.
pub(super) fn check(
    def: &SeriesDef,
    stored: TimeBounds,
    parsed: &mut ParsedRows,
    options: &DecodeOptions,
    errors: &mut RowErrors,
) {
    let misread = options.implausible_ts == ImplausibleTs::Reject && has_wrong_unit(def, stored, parsed, errors);
    let grid = (options.grid == GridRule::Reject).then(|| Grid::of(def, None).ok()).flatten();
    let is_phased = starts_with_first_row(def);
    let off_grid = grid.is_some_and(|grid| !is_phased && !grid.has_all(&parsed.rows.ts));
    if misread || off_grid {
        let known_bad = if errors.is_empty() { Vec::new() } else { errors.rows() };
        for (row, ts) in parsed.positions().zip(&parsed.rows.ts) {
            let is_known = || known_bad.binary_search(&row).is_ok();
            if let Some((unit, per_second)) = coarser_unit_of(*ts, def.unit).filter(|_| misread && !is_known()) {
                errors.add(def, row, 0, IMPLAUSIBLE_TS, |_| wrong_unit_message(def, *ts, unit, per_second));
            } else if let Some(grid) = grid.filter(|grid| off_grid && !grid.has(*ts) && !is_known()) {
                errors.add(def, row, 0, OFF_GRID, |_| off_grid_message(def, &grid, *ts));
            }
        }
    }
    if grid.is_some() && is_phased {
        parsed.phase_pending = parsed.positions().zip(parsed.rows.ts.iter().copied()).collect();
    }
}

/// Whether some timestamps would lie in 1990 to 2099 in a coarser unit and there is no evidence that the series has
/// data of 1970. Evidence is older rows, among these or stored, or several rows that all start an interval of the
/// timeframe (of timestamps in another unit about one in a thousand does).
fn has_wrong_unit(def: &SeriesDef, stored: TimeBounds, parsed: &ParsedRows, errors: &RowErrors) -> bool {
    let ts = &parsed.rows.ts;
    let (low, high) = coarser_units_span(def.unit);
    let Some((first, last)) = parsed.rows.bounds() else { return false };
    if last < low || high <= first || !errors.has_epochs() || !ts.iter().any(|ts| (low..high).contains(ts)) {
        return false;
    }
    let is_old = |ts: &i64| is_old(*ts, def.unit);
    let has_old = stored.is_some_and(|(first, last)| is_old(&first) || is_old(&last)) || ts.iter().any(is_old);
    !has_old && !starts_intervals(def, high, ts) && ts.iter().any(|ts| coarser_unit_of(*ts, def.unit).is_some())
}

/// Whether there are several timestamps from the epoch to `high`, all of them on the grid.
fn starts_intervals(def: &SeriesDef, high: i64, ts: &[i64]) -> bool {
    let early: Vec<i64> = ts.iter().copied().filter(|ts| (0..high).contains(ts)).collect();
    let (first, last) = (early.iter().min().copied(), early.iter().max().copied());
    first != last && Grid::of(def, first).is_ok_and(|grid| grid.has_all(&early))
}

fn wrong_unit_message(def: &SeriesDef, ts: i64, unit: &str, per_second: i64) -> String {
    let meant = convert(ts, per_second, def.unit).map_or(String::new(), |ts| format!(" ({})", rfc3339(ts, def.unit)));
    format!("ts {ts} is {} in {}, it looks like {unit}{meant}", rfc3339(ts, def.unit), def.unit.name())
}

#[cfg(test)]
mod tests {
    use super::super::{BodyFormat, MissingCells, parse_into};
    use super::*;
    use crate::error::{ErrorCode, Result};
    use crate::types::{SeriesKey, SeriesSpec, TimeUnit};

    const DAY: i64 = 86_400_000;

    fn scalar(timeframe: &str, unit: TimeUnit) -> SeriesDef {
        let mut spec = SeriesSpec::of_key(&SeriesKey::scalar("c", "X", timeframe, "n").unwrap());
        spec.unit = Some(unit);
        spec.resolve().unwrap()
    }

    fn write(def: &SeriesDef, stored: TimeBounds, ts: &[i64], options: &DecodeOptions) -> Result<ParsedRows> {
        let rows: Vec<String> = ts.iter().map(|ts| format!("{{\"ts\":{ts},\"value\":1}}")).collect();
        parse_into(BodyFormat::Ndjson, def, stored, rows.join("\n").as_bytes(), options)
    }

    fn reasons(written: Result<ParsedRows>) -> Vec<(u64, String)> {
        let error = written.unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidRows);
        error.rows().iter().map(|row| (row.row, row.reason.clone())).collect()
    }

    #[test]
    fn a_timestamp_in_a_coarser_unit_is_rejected_in_every_unit() {
        let options = DecodeOptions::default();
        for (ts, unit, seconds) in [
            (1_706_745_600, TimeUnit::Ms, "looks like s (2024-02-01T00:00:00Z)"),
            (631_152_000, TimeUnit::Ms, "looks like s (1990-01-01T00:00:00Z)"),
            (1_706_745_600, TimeUnit::Us, "looks like s (2024-02-01T00:00:00Z)"),
            (1_706_745_600_000, TimeUnit::Us, "looks like ms (2024-02-01T00:00:00Z)"),
            (1_706_745_600, TimeUnit::Ns, "looks like s (2024-02-01T00:00:00Z)"),
            (1_706_745_600_000, TimeUnit::Ns, "looks like ms (2024-02-01T00:00:00Z)"),
            (1_706_745_600_000_000, TimeUnit::Ns, "looks like us (2024-02-01T00:00:00Z)"),
        ] {
            let def = scalar("tick", unit);
            let error = write(&def, None, &[ts], &options).unwrap_err();
            assert_eq!((error.rows()[0].reason.as_str(), error.rows()[0].field.as_str()), (IMPLAUSIBLE_TS, "ts"));
            assert!(error.rows()[0].message.contains(seconds), "{error}");
            assert!(error.hint().unwrap().contains("implausible_ts=allow"), "{error}");
            let allowed = DecodeOptions { implausible_ts: ImplausibleTs::Allow, ..options };
            assert_eq!(write(&def, None, &[ts], &allowed).unwrap().rows.ts, [ts]);
        }
        // A timestamp in a finer unit is out of range, and the message names the unit.
        let error = write(&scalar("tick", TimeUnit::Ms), None, &[1_706_745_600_000_000], &options).unwrap_err();
        assert_eq!(error.rows()[0].reason, "time_out_of_range");
        assert!(error.detail().contains("it looks like us"), "{error}");
    }

    #[test]
    fn old_data_stays_writable_and_other_units_are_still_rejected() {
        let options = DecodeOptions::default();
        let daily = scalar("1d", TimeUnit::Ms);
        let since_1950: Vec<i64> = (-7_305..20_000).map(|day| day * DAY).collect();
        assert_eq!(write(&daily, None, &since_1950, &options).unwrap().rows.ts, since_1950);
        // January 1970 alone is distinguished from seconds by the stored rows.
        let january: Vec<i64> = (0..31).map(|day| day * DAY).collect();
        assert!(write(&daily, Some((-7_305 * DAY, -DAY)), &january, &options).is_ok());
        assert!(write(&daily, Some((200 * DAY, 20_000 * DAY)), &january, &options).is_ok());
        assert!(write(&daily, Some((19_000 * DAY, 20_000 * DAY)), &[20 * DAY], &options).is_err());
        // Consecutive midnights are days; the same days in seconds are not.
        assert!(write(&daily, Some((19_000 * DAY, 20_000 * DAY)), &january, &options).is_ok());
        let seconds: Vec<i64> = (20_000..20_031).map(|day| day * 86_400).collect();
        assert_eq!(reasons(write(&daily, None, &seconds, &options)).len(), 31);
        // A few small numbers are not dates in another unit.
        let tick = scalar("tick", TimeUnit::Ms);
        assert!(write(&tick, None, &[-1, 0, 1, 60_000, 86_400_000], &options).is_ok());
        // Seconds since 1950 all lie within months of the epoch.
        let seconds: Vec<i64> = (-7_305..20_000).map(|day| day * 86_400).collect();
        assert!(write(&tick, None, &seconds, &options).is_err());
        // One row among good ones.
        let mixed = [1_706_745_600_000, 1_706_745_660, 1_706_745_720_000];
        assert_eq!(reasons(write(&tick, None, &mixed, &options)), [(1, IMPLAUSIBLE_TS.to_string())]);
        // A date has no unit.
        let body = b"ts,value\n1970-01-20,1\n";
        assert!(parse_into(BodyFormat::Csv, &tick, None, body, &options).is_ok());
    }

    #[test]
    fn rows_between_grid_points_are_rejected_with_the_nearest_one() {
        let options = DecodeOptions::default();
        let minutes = scalar("1m", TimeUnit::Ms);
        let at = 1_706_745_600_000;
        assert!(write(&minutes, None, &[at, at + 60_000, at - 60_000, at + 180_000], &options).is_ok());
        let error = write(&minutes, None, &[at, at + 500, at + 59_000], &options).unwrap_err();
        let messages: Vec<&str> = error.rows().iter().map(|row| row.message.as_str()).collect();
        assert_eq!(
            messages,
            [
                "ts 1706745600500 (2024-02-01T00:00:00.500Z) is not on the 1m grid, the nearest grid point is \
                 1706745600000 (2024-02-01T00:00:00Z)",
                "ts 1706745659000 (2024-02-01T00:00:59Z) is not on the 1m grid, the nearest grid point is \
                 1706745660000 (2024-02-01T00:01:00Z)",
            ]
        );
        assert!(error.hint().unwrap().contains("grid=allow"), "{error}");
        let allowed = DecodeOptions { grid: GridRule::Allow, ..options };
        assert!(write(&minutes, None, &[at + 500], &allowed).is_ok());
        // No length, no grid; seconds on a grid of milliseconds are reported as seconds.
        assert!(write(&scalar("tick", TimeUnit::Ms), None, &[at + 500], &options).is_ok());
        assert_eq!(reasons(write(&minutes, None, &[at / 1_000], &options)), [(0, IMPLAUSIBLE_TS.to_string())]);
    }

    #[test]
    fn skipped_rows_do_not_shift_the_positions_of_others() {
        let options = DecodeOptions { missing: MissingCells::Skip, ..DecodeOptions::default() };
        let minutes = scalar("1m", TimeUnit::Ms);
        for (format, body) in [
            (BodyFormat::Csv, "ts,value\n0,1\n60000,\n60001,2\n120000,\n180001,3\n"),
            (BodyFormat::Json, r#"{"columns":{"ts":[0,60000,60001,120000,180001],"value":[1,null,2,null,3]}}"#),
        ] {
            let error = parse_into(format, &minutes, None, body.as_bytes(), &options).unwrap_err();
            assert_eq!(error.rows().iter().map(|row| row.row).collect::<Vec<_>>(), [2, 4], "{error}");
        }
    }

    #[test]
    fn bars_of_several_days_are_checked_against_the_first_stored_row() {
        let options = DecodeOptions::default();
        let parsed = write(&scalar("3d", TimeUnit::Ms), None, &[DAY, 4 * DAY, 5 * DAY], &options).unwrap();
        assert_eq!(parsed.phase_pending, [(0, DAY), (1, 4 * DAY), (2, 5 * DAY)]);
        let allowed = DecodeOptions { grid: GridRule::Allow, ..options };
        assert!(write(&scalar("3d", TimeUnit::Ms), None, &[DAY], &allowed).unwrap().phase_pending.is_empty());
        assert!(write(&scalar("1d", TimeUnit::Ms), None, &[DAY], &options).unwrap().phase_pending.is_empty());
    }
}
