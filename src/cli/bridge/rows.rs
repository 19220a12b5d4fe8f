//! Rows as scaled integers: encodes records as bodies, and decodes results into records.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::args::{InputArgs, RangeArgs};
use crate::cli::rows::{BodyOptions, OutputOptions};
use crate::cli::target::CommandTarget;
use crate::cli::write::read_input;
use crate::error::{Error, ErrorCode, Result, RowError};
use crate::query::{NumberFormat, Query, TimeValue};
use crate::service::{RowMode, WriteMethod, WriteOptions};
use crate::types::number::DECIMAL_LIMIT;
use crate::types::{Partition, SeriesKey, TimeUnit};

/// Reads the input of a write.
pub fn input<T: DeserializeOwned>(args: &InputArgs) -> Result<T> {
    let bytes = read_input(args.input_json.as_deref())?;
    let from = args.input_json.as_ref().map_or("standard input".into(), |path| path.display().to_string());
    if bytes.trim_ascii().is_empty() {
        return Err(Error::invalid(format!("{from} is empty, expected rows as JSON")));
    }
    serde_json::from_slice(&bytes).map_err(|error| Error::invalid(format!("{from}: {error}")))
}

/// How bodies are decoded: scaled integers as CSV at any timestamp, as in the contract.
pub fn write_options() -> BodyOptions {
    BodyOptions { format: "csv".into(), numbers: Some("raw".into()), ..BodyOptions::default() }.any_time()
}

/// A body of rows of `N` integers, `ts` first.
pub fn body<const N: usize>(columns: [&str; N], rows: &[[i64; N]]) -> Vec<u8> {
    let mut text = columns.join(",");
    text.push('\n');
    for row in rows {
        for (position, cell) in row.iter().enumerate() {
            if position > 0 {
                text.push(',');
            }
            text.push_str(&cell.to_string());
        }
        text.push('\n');
    }
    text.into_bytes()
}

/// Upserts a body; returns the number of rows stored.
pub fn write(target: &CommandTarget, key: &SeriesKey, body: Vec<u8>) -> Result<u64> {
    let upsert = WriteOptions { method: WriteMethod::Mode(RowMode::Upsert), ..WriteOptions::default() };
    Ok(target.write(key, body.into(), &write_options(), &upsert)?.reply.rows_written)
}

/// Refuses several rows with one timestamp, since it is unknown which of them is valid.
pub fn refuse_repeats<const N: usize>(rows: &[[i64; N]]) -> Result<()> {
    let mut seen: Vec<(i64, u64)> = rows.iter().map(|row| row.first().copied().unwrap_or_default()).zip(0..).collect();
    seen.sort_unstable();
    let repeats = seen.windows(2).filter_map(|pair| match pair {
        [(ts, _), (again, row)] if ts == again => Some((*ts, *row)),
        _ => None,
    });
    let errors: Vec<RowError> =
        repeats.map(|(ts, row)| error(row, "ts", "duplicate", format!("ts {ts} is listed twice"))).collect();
    refuse(errors)
}

/// Rescales one column from `from` digits to `to` digits.
///
/// # Errors
/// `invalid_rows` for values that would lose digits or overflow.
pub fn rescale<const N: usize>(rows: &mut [[i64; N]], column: usize, name: &str, from: u8, to: u8) -> Result<()> {
    let factor = super::series::scale_of(from.abs_diff(to));
    let mut errors = Vec::new();
    for (position, row) in (0..).zip(rows) {
        let Some(cell) = row.get_mut(column) else { continue };
        let (scaled, reason) = if to >= from {
            (cell.checked_mul(factor).filter(|cell| cell.unsigned_abs() < DECIMAL_LIMIT.unsigned_abs()), "overflow")
        } else {
            (Some(*cell / factor).filter(|_| *cell % factor == 0), "precision_loss")
        };
        match scaled {
            Some(scaled) => *cell = scaled,
            None => {
                let message = format!("{name} {cell} with {from} digits does not fit the {to} of the series");
                errors.push(error(position, name, reason, message));
            }
        }
    }
    refuse(errors)
}

fn error(row: u64, field: &str, reason: &str, message: String) -> RowError {
    RowError { series: None, row, field: field.into(), reason: reason.into(), message }
}

fn refuse(errors: Vec<RowError>) -> Result<()> {
    match errors.len() {
        0 => Ok(()),
        1 => {
            Err(Error::new(ErrorCode::InvalidRows, "1 record cannot be stored; nothing was written").with_rows(errors))
        }
        count => {
            let detail = format!("{count} records cannot be stored; nothing was written");
            Err(Error::new(ErrorCode::InvalidRows, detail).with_rows(errors))
        }
    }
}

/// The number of calendar months in UTC with these timestamps.
pub fn months<const N: usize>(rows: &[[i64; N]]) -> u64 {
    let starts: BTreeSet<i64> =
        rows.iter().filter_map(|row| row.first()).map(|ts| Partition::Month.span_of(*ts, TimeUnit::Ms).start).collect();
    starts.len() as u64
}

/// The query of a range in scaled integers; `None` when no timestamp can be in it.
pub fn query(key: &SeriesKey, columns: &[&str], range: RangeArgs) -> Option<Query> {
    let start = range.start_ts.max(TimeUnit::Ms.min_ts());
    let end = range.end_ts.min(TimeUnit::Ms.max_ts());
    (start <= end).then(|| Query {
        start: Some(TimeValue::Epoch(start)),
        end: Some(TimeValue::Epoch(end)),
        columns: Some(columns.iter().map(ToString::to_string).collect()),
        numbers: NumberFormat::Raw,
        ..Query::of(key)
    })
}

/// Reads rows of `N` integers, `ts` first and then these columns.
pub fn read<const N: usize>(
    target: &CommandTarget,
    key: &SeriesKey,
    columns: &[&str],
    range: RangeArgs,
) -> Result<Vec<[i64; N]>> {
    let Some(query) = query(key, columns, range) else { return Ok(Vec::new()) };
    let options = OutputOptions { format: "csv".into(), times: Some("epoch".into()), shape: None };
    let mut lines = RecordLines::default();
    target.read(&query, &options, &mut |piece: Bytes| lines.take(&piece))?;
    lines.end()
}

/// Parses lines of integers after a header, from a sequence of buffers.
#[derive(Debug, Default)]
struct RecordLines<const N: usize> {
    rows: Vec<[i64; N]>,
    has_header: bool,
    /// The start of an incomplete line.
    open: Vec<u8>,
}

impl<const N: usize> RecordLines<N> {
    fn take(&mut self, piece: &[u8]) -> Result<()> {
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            self.open.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.open);
                self.line(&line)?;
            }
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> Result<()> {
        if !self.has_header {
            self.has_header = true;
            return Ok(());
        }
        let broken = || Error::internal(format!("{:?} is not a row of {N} integers", String::from_utf8_lossy(line)));
        let text = std::str::from_utf8(line).map_err(|_| broken())?;
        let mut row = [0; N];
        let mut cells = text.trim_end().split(',');
        for cell in &mut row {
            *cell = cells.next().and_then(|text| text.parse().ok()).ok_or_else(broken)?;
        }
        if cells.next().is_some() {
            return Err(broken());
        }
        self.rows.push(row);
        Ok(())
    }

    fn end(self) -> Result<Vec<[i64; N]>> {
        if !self.has_header || !self.open.is_empty() {
            return Err(Error::internal("the response ends within a line"));
        }
        Ok(self.rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_parsed_across_buffer_boundaries() {
        let text = b"ts,value\n-1,5\n2,-999999999999999999\n";
        for at in 0..text.len() {
            let mut lines = RecordLines::<2>::default();
            lines.take(&text[..at]).unwrap();
            lines.take(&text[at..]).unwrap();
            assert_eq!(lines.end().unwrap(), [[-1, 5], [2, -999_999_999_999_999_999]]);
        }
        for bad in ["", "ts,value\n1,", "ts,value\n1\n", "ts,value\n1,2,3\n", "ts,value\n1,x\n"] {
            let mut lines = RecordLines::<2>::default();
            let taken = lines.take(bad.as_bytes());
            assert!(taken.is_err() || lines.end().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn scales_change_only_where_nothing_is_lost() {
        let mut rows = [[0, 1_500], [1, -200]];
        rescale(&mut rows, 1, "open", 3, 1).unwrap();
        assert_eq!(rows, [[0, 15], [1, -2]]);
        rescale(&mut rows, 1, "open", 1, 4).unwrap();
        assert_eq!(rows, [[0, 15_000], [1, -2_000]]);
        let error = rescale(&mut rows, 1, "open", 4, 0).unwrap_err();
        assert_eq!((error.rows()[0].row, error.rows()[0].reason.as_str()), (0, "precision_loss"));
        let mut rows = [[0, 999_999_999_999_999_999], [1, 1_000_000_000_000_000_000]];
        assert_eq!(rescale(&mut rows, 1, "open", 0, 0).unwrap_err().rows()[0].row, 1);
        assert_eq!(rescale(&mut [[0, i64::MIN]], 1, "open", 0, 18).unwrap_err().rows()[0].reason, "overflow");
    }

    #[test]
    fn repeated_timestamps_are_reported_at_the_later_record() {
        let error = refuse_repeats(&[[5, 0], [1, 0], [5, 1], [1, 2]]).unwrap_err();
        let rows: Vec<u64> = error.rows().iter().map(|row| row.row).collect();
        assert_eq!((error.code(), rows), (ErrorCode::InvalidRows, vec![3, 2]));
        assert!(refuse_repeats(&[[1, 0], [2, 0]]).is_ok());
    }
}
