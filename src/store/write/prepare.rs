//! What a write finds out before the lock, and what it decides under it.

use std::sync::Arc;

use crate::error::{Error, ErrorCode, Result, RowError};
use crate::store::read::chunk::MapCache;
use crate::store::read::series_state::SeriesState;
use crate::store::write::merge_rows::{combine, fold};
use crate::store::write::request::{SeriesWrite, WriteMode};
use crate::types::Rows;
use crate::types::grid::check_phase;

/// What was read before the lock, valid as long as the series is still at this version.
pub struct PreparedWrite {
    pub seen: Option<Arc<SeriesState>>,
    found: StoredRows,
    pub duplicates: u64,
}

/// Stored rows the write is about.
pub enum StoredRows {
    Unknown,
    Count(u64),
    /// Cells of every row of the write that is stored.
    Rows(Vec<Option<Vec<i64>>>),
}

/// Sorts the rows and reads what is stored at their timestamps.
pub fn prepare(
    write: &mut SeriesWrite,
    series: Option<&Arc<SeriesState>>,
    cache: &Arc<MapCache>,
) -> Result<PreparedWrite> {
    let (rows, mode) = (&mut write.rows, write.mode);
    if let Some(series) = series {
        rows.check_columns(series.def.columns.len())?;
    }
    if mode == WriteMode::Append {
        check_rising(rows)?;
    }
    let duplicates = match (mode, series) {
        (WriteMode::Merge { first }, Some(series)) => fold(rows, &series.def, first)?,
        (WriteMode::Merge { .. }, None) => 0,
        _ => rows.sort_last_wins(),
    };
    if mode == WriteMode::Insert && duplicates > 0 {
        return Err(Error::new(
            ErrorCode::InvalidRows,
            format!("{}: {duplicates} rows repeat a timestamp of the same write", write.key),
        )
        .with_hint("mode=upsert keeps the last of them"));
    }
    let found = match (mode, series) {
        (WriteMode::Append, _) | (_, None) => StoredRows::Unknown,
        (WriteMode::Merge { .. }, Some(series)) => StoredRows::Rows(series.rows_at(cache, &rows.ts)?),
        (_, Some(series)) => StoredRows::Count(series.count_present(cache, &rows.ts)?),
    };
    Ok(PreparedWrite { seen: series.cloned(), found, duplicates: duplicates as u64 })
}

/// Checks the condition of the mode and returns how many rows exist; under `merge` the rows become those to store.
pub fn decide(
    series: &SeriesState,
    write: &mut SeriesWrite,
    prepared: PreparedWrite,
    cache: &Arc<MapCache>,
) -> Result<u64> {
    let (key, rows) = (&write.key, &mut write.rows);
    rows.check_columns(series.def.columns.len())?;
    check_phase(&series.def, series.bounds.map(|(first, _)| first), &write.phase_pending)?;
    let fresh = prepared.seen.as_ref().is_some_and(|seen| (seen.id, seen.version) == (series.id, series.version));
    match write.mode {
        WriteMode::Append => match (rows.ts.first(), series.bounds) {
            (Some(first), Some((_, last))) if *first <= last => Err(Error::new(
                ErrorCode::OutOfOrder,
                format!("{key}: timestamp {first} is not after the last stored one, {last}"),
            )
            .with_hint("mode=upsert accepts rows in any order")),
            _ => Ok(0),
        },
        WriteMode::Merge { first } => {
            if prepared.seen.is_none_or(|seen| seen.id != series.id) {
                fold(rows, &series.def, first)?;
            }
            let stored = match prepared.found {
                StoredRows::Rows(stored) if fresh => stored,
                _ => series.rows_at(cache, &rows.ts)?,
            };
            for (row, stored) in stored.iter().enumerate() {
                if let Some(stored) = stored {
                    combine(rows, row, stored, &series.def, first)?;
                }
            }
            Ok(stored.iter().flatten().count() as u64)
        }
        WriteMode::Upsert | WriteMode::Insert => {
            let replaced = match prepared.found {
                StoredRows::Count(count) if fresh => count,
                _ => series.count_present(cache, &rows.ts)?,
            };
            if write.mode == WriteMode::Insert && replaced > 0 {
                return Err(Error::new(
                    ErrorCode::RowsExist,
                    format!("{key}: {replaced} of {} timestamps are already stored", rows.len()),
                )
                .with_hint("mode=upsert replaces them"));
            }
            Ok(replaced)
        }
    }
}

fn check_rising(rows: &Rows) -> Result<()> {
    let mut previous = None;
    for (row, ts) in rows.ts.iter().enumerate() {
        if let Some(previous) = previous
            && *ts <= previous
        {
            let (code, reason) = if *ts == previous {
                (ErrorCode::InvalidRows, "duplicate")
            } else {
                (ErrorCode::OutOfOrder, "out_of_order")
            };
            let message = format!("timestamp {ts} is not after {previous}");
            return Err(Error::new(code, format!("row {row}: {message}"))
                .with_hint("append needs ascending timestamps; mode=upsert accepts rows in any order")
                .with_rows(vec![RowError {
                    series: None,
                    row: row as u64,
                    field: "ts".into(),
                    reason: reason.into(),
                    message,
                }]));
        }
        previous = Some(*ts);
    }
    Ok(())
}
