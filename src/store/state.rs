//! What a reader sees: an immutable [`State`] of the whole store at one commit.
//!
//! States share everything that did not change (persistent maps, shared runs and chunks), so making the next one
//! costs the logarithm of the number of series, and taking one costs nothing.

use std::sync::Arc;

use arrow::buffer::Buffer;
use imbl::OrdMap;

use super::chunk::{BlockColumns, ChunkFile, MapCache};
use super::merge::{Merge, Source, mark_present};
use crate::error::{Error, Result};
use crate::types::{Rows, SeriesDef, SeriesKey};

/// Number of a series inside its store; never used twice.
pub type SeriesId = u64;

/// Most rows a run grows to by merging with its neighbours.
const RUN_ROWS_MAX: usize = 262_144;

/// The store at one commit.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub commit: u64,
    /// Number of the last manifest edit.
    pub edit: u64,
    pub series: OrdMap<SeriesId, Arc<SeriesState>>,
    pub keys: OrdMap<SeriesKey, SeriesId>,
}

impl State {
    /// The series of this key.
    pub fn get(&self, key: &SeriesKey) -> Option<&Arc<SeriesState>> {
        self.series.get(self.keys.get(key)?)
    }

    /// Sets or replaces a series. During replay a dropped series and its successor of the same key can be there
    /// together: the key means the younger one.
    pub fn put(&mut self, series: SeriesState) {
        if self.keys.get(&series.def.key).is_none_or(|id| *id < series.id) {
            self.keys.insert(series.def.key.clone(), series.id);
        }
        self.series.insert(series.id, Arc::new(series));
    }

    /// Takes a series out.
    pub fn remove(&mut self, id: SeriesId) -> Option<Arc<SeriesState>> {
        let series = self.series.remove(&id)?;
        if self.keys.get(&series.def.key) == Some(&id) {
            self.keys.remove(&series.def.key);
        }
        Some(series)
    }
}

/// Sorted, distinct rows that are durable in the log and not yet in a chunk.
#[derive(Debug)]
pub struct Run {
    pub commit_lo: u64,
    pub commit_hi: u64,
    /// `ts`, then the columns; never empty.
    columns: Vec<Buffer>,
}

impl Run {
    /// A run of sorted, distinct rows; `None` when there are none.
    pub fn new(rows: Rows, commit_lo: u64, commit_hi: u64) -> Option<Self> {
        if rows.is_empty() {
            return None;
        }
        let mut columns = vec![Buffer::from_vec(rows.ts)];
        columns.extend(rows.columns.into_iter().map(Buffer::from_vec));
        Some(Self { commit_lo, commit_hi, columns })
    }

    pub fn timestamps(&self) -> &[i64] {
        self.words(0)
    }

    /// Cells of a column; `ts` is column 0.
    pub fn words(&self, column: usize) -> &[i64] {
        self.columns.get(column).map_or(&[], |buffer| buffer.typed_data::<i64>())
    }

    pub fn rows(&self) -> usize {
        self.timestamps().len()
    }

    pub fn ts_min(&self) -> i64 {
        self.timestamps().first().copied().unwrap_or(i64::MAX)
    }

    pub fn ts_max(&self) -> i64 {
        self.timestamps().last().copied().unwrap_or(i64::MIN)
    }

    /// The rows as one block.
    pub fn columns(&self) -> BlockColumns {
        BlockColumns { rows: self.rows(), columns: self.columns.clone(), message: None }
    }

    /// The rows as they are encoded.
    pub fn to_rows(&self) -> Rows {
        let mut columns = self.columns.iter().map(|buffer| buffer.typed_data::<i64>().to_vec());
        Rows { ts: columns.next().unwrap_or_default(), columns: columns.collect() }
    }

    /// Both runs in one; rows of `newer` win.
    fn merged_with(&self, newer: &Run) -> Run {
        let (old, new) = (self.timestamps(), newer.timestamps());
        let mut columns: Vec<Vec<i64>> =
            self.columns.iter().map(|_| Vec::with_capacity(old.len() + new.len())).collect();
        let mut copy = |from: &Run, range: std::ops::Range<usize>| {
            for (position, column) in columns.iter_mut().enumerate() {
                column.extend_from_slice(from.words(position).get(range.clone()).unwrap_or_default());
            }
        };
        let (mut i, mut j) = (0, 0);
        while let (Some(a), Some(b)) = (old.get(i), new.get(j)) {
            if a < b {
                let until = i + old.get(i..).map_or(0, |rest| rest.partition_point(|ts| ts < b));
                copy(self, i..until);
                i = until;
            } else {
                let until = j + new.get(j..).map_or(0, |rest| rest.partition_point(|ts| ts < a));
                copy(newer, j..until.max(j));
                j = until;
                if new.get(j) == Some(a) {
                    i += 1;
                    copy(newer, j..j + 1);
                    j += 1;
                }
            }
        }
        copy(self, i..old.len());
        copy(newer, j..new.len());
        Run {
            commit_lo: self.commit_lo.min(newer.commit_lo),
            commit_hi: self.commit_hi.max(newer.commit_hi),
            columns: columns.into_iter().map(Buffer::from_vec).collect(),
        }
    }
}

/// A deleted closed range: hides rows of commits before its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tombstone {
    pub commit: u64,
    pub start: i64,
    pub end: i64,
}

/// One series at one commit.
#[derive(Clone, Debug)]
pub struct SeriesState {
    pub id: SeriesId,
    pub def: Arc<SeriesDef>,
    /// Commits that touched the series.
    pub version: u64,
    /// Distinct rows stored.
    pub rows: u64,
    /// First and last timestamp stored.
    pub bounds: Option<(i64, i64)>,
    /// Ordered by partition, then commit.
    pub chunks: Arc<Vec<Arc<ChunkFile>>>,
    /// Runs that are being sealed: not merged with newer ones any more.
    pub frozen: Vec<Arc<Run>>,
    /// Runs in commit order, the newest last.
    pub runs: Vec<Arc<Run>>,
    pub tombstones: Arc<Vec<Tombstone>>,
    /// Rows of commits up to this one are in chunks.
    pub sealed_commit: u64,
    /// Wall clock of the last write in milliseconds; for people only.
    pub last_write_ms: i64,
}

impl SeriesState {
    /// A series without rows.
    pub fn empty(id: SeriesId, def: Arc<SeriesDef>) -> Self {
        Self {
            id,
            def,
            version: 0,
            rows: 0,
            bounds: None,
            chunks: Arc::default(),
            frozen: Vec::new(),
            runs: Vec::new(),
            tombstones: Arc::default(),
            sealed_commit: 0,
            last_write_ms: 0,
        }
    }

    /// Everything rows can come from.
    pub fn sources(&self) -> Vec<Source> {
        let chunks = self.chunks.iter().cloned().map(Source::Chunk);
        chunks.chain(self.tail().cloned().map(Source::Run)).collect()
    }

    /// Runs not yet in chunks, oldest first.
    pub fn tail(&self) -> impl Iterator<Item = &Arc<Run>> {
        self.frozen.iter().chain(&self.runs)
    }

    /// Rows of the tail, before overwritten and deleted ones are taken off.
    pub fn tail_rows(&self) -> u64 {
        self.tail().map(|run| run.rows() as u64).sum()
    }

    /// Bytes of the chunk files.
    pub fn file_bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.record.file_bytes).sum()
    }

    /// Rows in time order within the closed range.
    pub fn merge(&self, cache: &Arc<MapCache>, range: (i64, i64), desc: bool) -> Merge {
        Merge::new(self.sources(), Arc::clone(&self.tombstones), Arc::clone(&self.def), Arc::clone(cache), range, desc)
    }

    /// How many of these rising timestamps are stored.
    pub fn count_present(&self, cache: &MapCache, wanted: &[i64]) -> Result<u64> {
        let (Some(first), Some(last)) = (wanted.first(), wanted.last()) else { return Ok(0) };
        if self.bounds.is_none_or(|(low, high)| *first > high || *last < low) {
            return Ok(0);
        }
        let mut found = vec![false; wanted.len()];
        for source in self.sources() {
            mark_present(&source, &self.tombstones, cache, wanted, &mut found)?;
        }
        Ok(found.iter().filter(|found| **found).count() as u64)
    }

    /// Exact number of rows in a closed range.
    pub fn count_rows(&self, cache: &Arc<MapCache>, (start, end): (i64, i64)) -> Result<u64> {
        match self.bounds {
            None => Ok(0),
            Some((low, high)) if start <= low && high <= end => Ok(self.rows),
            Some(_) => {
                let mut merge = self.merge(cache, (start, end), false);
                let mut rows = 0;
                while let Some(piece) = merge.next_piece()? {
                    rows += (piece.hi - piece.lo) as u64;
                }
                Ok(rows)
            }
        }
    }

    /// The series after a write of sorted, distinct rows, `replaced` of which existed.
    pub fn with_rows(&self, rows: Rows, replaced: u64, commit: u64, wall_ms: i64) -> Self {
        let mut next = self.clone();
        next.version += 1;
        next.last_write_ms = wall_ms;
        next.rows += (rows.len() as u64).saturating_sub(replaced);
        let Some(run) = Run::new(rows, commit, commit) else { return next };
        let (low, high) = (run.ts_min(), run.ts_max());
        next.bounds = Some(next.bounds.map_or((low, high), |(first, last)| (first.min(low), last.max(high))));
        next.push_run(run);
        next
    }

    /// Adds a run and merges it with its older neighbours while they are of like size, so that there are never
    /// more than about log(rows) runs. Runs on both sides of a delete stay apart.
    pub fn push_run(&mut self, run: Run) {
        let mut newest = run;
        while let Some(older) = self.runs.last() {
            let fenced = self.tombstones.iter().any(|t| older.commit_hi < t.commit && t.commit < newest.commit_lo);
            let alike = older.rows() <= 2 * newest.rows() && older.rows() + newest.rows() <= RUN_ROWS_MAX;
            if fenced || !alike {
                break;
            }
            newest = older.merged_with(&newest);
            self.runs.pop();
        }
        self.runs.push(Arc::new(newest));
    }

    /// The series after a delete of `deleted` rows.
    pub fn without_range(
        &self,
        cache: &Arc<MapCache>,
        (start, end): (i64, i64),
        deleted: u64,
        commit: u64,
        wall_ms: i64,
    ) -> Result<Self> {
        let mut next = self.clone();
        next.version += 1;
        next.last_write_ms = wall_ms;
        next.rows = next.rows.saturating_sub(deleted);
        let inside = |run: &Arc<Run>| start <= run.ts_min() && run.ts_max() <= end;
        next.runs.retain(|run| !inside(run));
        if next.sources().iter().any(|s| s.ts_min() <= end && s.ts_max() >= start) {
            let mut tombstones = next.tombstones.as_ref().clone();
            tombstones.push(Tombstone { commit, start, end });
            next.tombstones = Arc::new(tombstones);
        }
        if next.rows == 0 {
            next.bounds = None;
        } else if let Some((first, last)) = next.bounds
            && (start <= first || end >= last)
        {
            let edge = |desc: bool| -> Result<i64> {
                let piece = next.merge(cache, (first, last), desc).next_piece()?;
                piece
                    .and_then(|piece| {
                        let ts = piece.block.columns.columns.first()?.typed_data::<i64>();
                        ts.get(if desc { piece.hi.checked_sub(1)? } else { piece.lo }).copied()
                    })
                    .ok_or_else(|| Error::internal(format!("{} lost count of its rows", next.def.key)))
            };
            next.bounds = Some((edge(false)?, edge(true)?));
        }
        Ok(next)
    }

    /// Tombstones that still hide rows of something.
    pub fn needed_tombstones(&self) -> Vec<Tombstone> {
        let sources = self.sources();
        let needed = |t: &Tombstone| {
            sources.iter().any(|s| s.commit_hi() < t.commit && s.ts_min() <= t.end && s.ts_max() >= t.start)
        };
        self.tombstones.iter().copied().filter(needed).collect()
    }
}

/// A change of a state that carries no rows of its own: what maintenance does.
#[derive(Clone, Debug)]
pub enum Structural {
    /// The frozen runs are in chunks now.
    Sealed {
        series_id: SeriesId,
        added: Vec<Arc<ChunkFile>>,
        removed: Vec<u64>,
        sealed_commit: u64,
        edit: u64,
    },
    /// Runs may not be merged with newer ones any more.
    Freeze {
        series_id: SeriesId,
    },
    /// Sealing failed: frozen runs are ordinary ones again.
    Thaw {
        series_id: SeriesId,
    },
    Edit {
        edit: u64,
    },
}

impl Structural {
    /// Applies the change; rows seen by a reader stay the same.
    pub fn apply(&self, state: &mut State) {
        let change = |state: &mut State, id: SeriesId, change: &dyn Fn(&mut SeriesState)| {
            if let Some(series) = state.series.get(&id) {
                let mut next = series.as_ref().clone();
                change(&mut next);
                state.series.insert(id, Arc::new(next));
            }
        };
        match self {
            Structural::Freeze { series_id } => change(state, *series_id, &|series| {
                let runs = std::mem::take(&mut series.runs);
                series.frozen.extend(runs);
            }),
            Structural::Thaw { series_id } => change(state, *series_id, &|series| {
                let runs = std::mem::take(&mut series.runs);
                series.runs = std::mem::take(&mut series.frozen);
                series.runs.extend(runs);
            }),
            Structural::Sealed { series_id, added, removed, sealed_commit, edit } => {
                state.edit = state.edit.max(*edit);
                change(state, *series_id, &|series| {
                    series.frozen.clear();
                    series.sealed_commit = series.sealed_commit.max(*sealed_commit);
                    let mut chunks: Vec<Arc<ChunkFile>> =
                        series.chunks.iter().filter(|c| !removed.contains(&c.record.id)).cloned().collect();
                    chunks.extend(added.iter().cloned());
                    chunks.sort_by_key(|c| (c.record.ts_min, c.record.commit_hi));
                    series.chunks = Arc::new(chunks);
                    series.tombstones = Arc::new(series.needed_tombstones());
                });
            }
            Structural::Edit { edit } => state.edit = state.edit.max(*edit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(ts: &[i64], value: i64, commit: u64) -> Run {
        Run::new(Rows { ts: ts.to_vec(), columns: vec![vec![value; ts.len()]] }, commit, commit).unwrap()
    }

    #[test]
    fn merging_runs_keeps_every_timestamp_once_and_the_newest_value() {
        let merged = run(&[1, 3, 5, 9], 1, 1).merged_with(&run(&[0, 3, 4, 9, 12], 2, 2));
        assert_eq!(merged.timestamps(), [0, 1, 3, 4, 5, 9, 12]);
        assert_eq!(merged.words(1), [2, 1, 2, 2, 1, 2, 2]);
        assert_eq!((merged.commit_lo, merged.commit_hi), (1, 2));
        let disjoint = run(&[1, 2], 1, 1).merged_with(&run(&[3, 4], 2, 2));
        assert_eq!((disjoint.timestamps(), disjoint.words(1)), (&[1, 2, 3, 4][..], &[1, 1, 2, 2][..]));
    }
}
