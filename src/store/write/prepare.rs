//! What a write finds out before the lock, and what it decides under it.

use std::sync::Arc;

use crate::error::{Error, ErrorCode, Result, RowError};
use crate::store::read::chunk::MapCache;
use crate::store::read::series_state::{RowsAt, SeriesState};
use crate::store::write::merge_rows::{combine, fold};
use crate::store::write::request::{SeriesWrite, WriteMode};
use crate::types::grid::check_phase;
use crate::types::{CellSlice, ColumnCells, OrderRule, Rows, SeriesDef};

/// What was read before the lock, valid as long as the series is still at this version.
pub struct PreparedWrite {
    pub seen: Option<Arc<SeriesState>>,
    found: StoredRows,
    pub duplicates: u64,
}

/// Stored rows at the timestamps of a write.
pub enum StoredRows {
    Unknown,
    Count(u64),
    /// The rows that are stored at the timestamps of the write.
    Rows(RowsAt),
}

/// Sorts the rows and reads what is stored at their timestamps.
pub fn prepare(
    write: &mut SeriesWrite,
    series: Option<&Arc<SeriesState>>,
    cache: &Arc<MapCache>,
) -> Result<PreparedWrite> {
    let (rows, mode) = (&mut write.rows, write.mode);
    let def = series.map(|series| Arc::clone(&series.def)).or_else(|| write.create.clone());
    if let Some(def) = &def {
        rows.check_columns(&def.columns)?;
        check_mode(def, mode)?;
    }
    if mode == WriteMode::Append {
        check_rising(rows, def.as_deref())?;
    }
    let duplicates = match (mode, &def) {
        (WriteMode::Merge { first }, Some(def)) if series.is_some() => fold(rows, def, first)?,
        (WriteMode::Merge { .. }, _) | (_, None) => 0,
        (_, Some(def)) => rows.sort(def),
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
        (_, Some(series)) => StoredRows::Count(series.count_stored(cache, rows)?),
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
    rows.check_columns(&series.def.columns)?;
    check_mode(&series.def, write.mode)?;
    if prepared.seen.is_none() && !matches!(write.mode, WriteMode::Merge { .. }) {
        rows.sort(&series.def);
    }
    check_phase(&series.def, series.bounds.map(|(first, _)| first), &write.phase_pending)?;
    let fresh = prepared.seen.as_ref().is_some_and(|seen| (seen.id, seen.version) == (series.id, series.version));
    match write.mode {
        WriteMode::Append => match (rows.ts.first(), series.bounds) {
            (Some(first), Some((_, last))) if is_before(series, rows, *first, last, cache)? => Err(Error::new(
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
            let cells: Vec<CellSlice<'_>> = stored.columns.iter().map(ColumnCells::as_slice).collect();
            for (row, position) in stored.positions.iter().enumerate() {
                if let Some(position) = position {
                    combine(rows, row, &cells, *position, &series.def, first)?;
                }
            }
            Ok(stored.positions.iter().flatten().count() as u64)
        }
        WriteMode::Upsert | WriteMode::Insert => {
            let replaced = match prepared.found {
                StoredRows::Count(count) if fresh => count,
                _ => series.count_stored(cache, rows)?,
            };
            if write.mode == WriteMode::Insert && replaced > 0 {
                let what = if series.def.order.is_by_timestamp() { "timestamps" } else { "rows" };
                return Err(Error::new(
                    ErrorCode::RowsExist,
                    format!("{key}: {replaced} of {} {what} are already stored", rows.len()),
                )
                .with_hint("mode=upsert replaces them"));
            }
            Ok(replaced)
        }
    }
}

/// Whether rows from `first` on cannot be appended to rows that end at `last`. Rows of the last timestamp can follow in the
/// order of arrival, and where further columns tell them from those that are stored.
fn is_before(series: &SeriesState, rows: &Rows, first: i64, last: i64, cache: &Arc<MapCache>) -> Result<bool> {
    Ok(match &series.def.order {
        OrderRule::Unique(columns) if columns.is_empty() => first <= last,
        OrderRule::Arrival => first < last,
        OrderRule::Unique(_) => first < last || first == last && series.count_stored(cache, rows)? > 0,
    })
}

/// Refuses modes that a series does not have.
fn check_mode(def: &SeriesDef, mode: WriteMode) -> Result<()> {
    match mode {
        WriteMode::Merge { .. } if !def.order.is_by_timestamp() => {
            Err(Error::invalid(format!("{}: merge needs a series with one row per timestamp", def.key))
                .with_hint("write the rows with mode=upsert"))
        }
        _ => Ok(()),
    }
}

fn check_rising(rows: &Rows, def: Option<&SeriesDef>) -> Result<()> {
    let repeats = def.is_some_and(|def| !def.order.is_by_timestamp());
    let mut previous = None;
    for (row, ts) in rows.ts.iter().enumerate() {
        if let Some(previous) = previous
            && (*ts < previous || *ts == previous && !repeats)
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
