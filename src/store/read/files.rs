//! Which chunk files hold a series, and which of their rows count: what a program needs to read them without FastK.
//!
//! A chunk file never changes, so it keeps rows that were overwritten or deleted after it was written, until a
//! compaction merges it with what came later. Compaction does not merge across named snapshots. The list therefore
//! names, for each file, the ranges of row positions that belong to the series.

use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;

use crate::error::{Error, ErrorCode, Result};
use crate::store::read::chunk::MapCache;
use crate::store::read::merge::Merge;
use crate::store::read::merge_source::MergeSource;
use crate::store::read::series_state::SeriesState;

/// Most row ranges of one list.
pub const ROW_RANGES_MAX: usize = 100_000;

/// Pieces of a merge between two calls of `check`.
const PIECES_PER_CHECK: usize = 256;

/// Half-open range of row positions in a file, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct RowRange {
    /// Position of the first row.
    pub start: u64,
    /// Position after the last row.
    pub end: u64,
}

/// A chunk file of a series.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct SeriesFile {
    /// Path below the data directory.
    pub file: String,
    /// Month, or other span of time, that its rows are of.
    pub partition: String,
    /// First and last timestamp in the file, in the unit of the series.
    pub ts_min: i64,
    pub ts_max: i64,
    /// Its rows were written by commits of this closed range.
    pub commit_lo: u64,
    pub commit_hi: u64,
    pub bytes: u64,
    /// Rows in the file.
    pub rows: u64,
    /// Those of them that belong to the series: the others were overwritten or deleted later.
    pub rows_current: u64,
    /// Their positions in the file, ascending and disjoint.
    pub row_ranges: Vec<RowRange>,
}

/// Where the rows of a series are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeriesFiles {
    /// Ordered by first timestamp, then commit; without files all of whose rows were overwritten or deleted.
    pub files: Vec<SeriesFile>,
    /// Rows of the series that are in the log or a run file, and in no chunk file.
    pub rows_outside: u64,
}

/// The chunk files of a series, and which of their rows belong to it. Reads the timestamps of those files that others,
/// the tail or deletes overlap; the others count in full. `check` is called between pieces and can stop the work.
///
/// # Errors
/// That of `check`; `corrupt_data` for a damaged file; `too_large` beyond [`ROW_RANGES_MAX`] ranges.
pub fn series_files(
    series: &SeriesState,
    cache: &Arc<MapCache>,
    check: &dyn Fn() -> Result<()>,
) -> Result<SeriesFiles> {
    let chunks = &series.chunks;
    // A chunk counts in full when no other source spans the same times and no later delete reaches into it.
    let mut spans: Vec<(i64, i64, u64)> = series.sources().iter().map(|s| (s.ts_min(), s.ts_max(), 0)).collect();
    spans.sort_unstable();
    let starts: Vec<i64> = spans.iter().map(|span| span.0).collect();
    let mut reach = i64::MIN;
    let reaches: Vec<i64> = spans
        .iter()
        .map(|span| {
            reach = reach.max(span.1);
            reach
        })
        .collect();
    let is_alone = |first: i64, last: i64| {
        let from = reaches.partition_point(|reach| *reach < first);
        let until = starts.partition_point(|start| *start <= last);
        until.saturating_sub(from) <= 1
    };
    let mut shared = Vec::new();
    let mut ranges: Vec<Vec<RowRange>> = Vec::with_capacity(chunks.len());
    for (position, chunk) in chunks.iter().enumerate() {
        let record = &chunk.record;
        let is_hit = series
            .tombstones
            .iter()
            .any(|t| record.commit_hi < t.commit && t.start <= record.ts_max && record.ts_min <= t.end);
        if is_hit || !is_alone(record.ts_min, record.ts_max) {
            shared.push((record.id, position));
            ranges.push(Vec::new());
        } else {
            ranges.push(vec![RowRange { start: 0, end: record.rows }]);
        }
    }
    shared.sort_unstable();
    let merged = shared.iter().filter_map(|(_, position)| chunks.get(*position)).cloned().map(MergeSource::Chunk);
    let sources = merged.chain(series.tail().cloned().map(MergeSource::Run)).collect();
    let mut merge = Merge::new(
        sources,
        Arc::clone(&series.tombstones),
        Arc::clone(&series.def),
        Arc::clone(cache),
        (i64::MIN, i64::MAX),
        false,
    );
    let mut found = SeriesFiles::default();
    let mut count = ranges.len();
    let mut pieces = 0;
    while let Some(piece) = merge.next_piece()? {
        if pieces % PIECES_PER_CHECK == 0 {
            check()?;
        }
        pieces += 1;
        let Some((chunk_id, first_row)) = piece.place() else {
            found.rows_outside += piece.rows() as u64;
            continue;
        };
        let at = shared.binary_search_by_key(&chunk_id, |(id, _)| *id).ok();
        let position = at.and_then(|at| shared.get(at)).map(|(_, position)| *position);
        let Some(own) = position.and_then(|position| ranges.get_mut(position)) else {
            return Err(Error::internal(format!(
                "a merge returned rows of chunk {chunk_id}, which is not one of its sources"
            )));
        };
        let (start, end) = (first_row as u64, (first_row + piece.rows()) as u64);
        match own.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => {
                count += 1;
                own.push(RowRange { start, end });
            }
        }
        if count > ROW_RANGES_MAX {
            let detail =
                format!("the current rows of {} are in more than {ROW_RANGES_MAX} ranges of its files", series.def.key);
            return Err(
                Error::new(ErrorCode::TooLarge, detail).with_hint("compact the series first, or read it through FastK")
            );
        }
    }
    for (chunk, row_ranges) in chunks.iter().zip(ranges) {
        let record = &chunk.record;
        let rows_current = row_ranges.iter().map(|range| range.end - range.start).sum();
        if rows_current == 0 {
            continue;
        }
        found.files.push(SeriesFile {
            file: chunk.name().to_owned(),
            partition: record.partition.clone(),
            ts_min: record.ts_min,
            ts_max: record.ts_max,
            commit_lo: record.commit_lo,
            commit_hi: record.commit_hi,
            bytes: record.file_bytes,
            rows: record.rows,
            rows_current,
            row_ranges,
        });
    }
    let listed = found.rows_outside + found.files.iter().map(|file| file.rows_current).sum::<u64>();
    if listed != series.rows {
        return Err(Error::internal(format!(
            "the files of {} have {listed} current rows, the series has {}",
            series.def.key, series.rows
        )));
    }
    Ok(found)
}
