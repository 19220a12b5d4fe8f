//! One series at one commit: its registration, its chunks, its tail, and its views at snapshots.

use std::sync::Arc;

use crate::disk::is_resident;
use crate::error::{Error, Result};
use crate::store::read::chunk::{ChunkFile, MapCache};
use crate::store::read::chunk_list::Chunks;
use crate::store::read::merge::Merge;
use crate::store::read::merge_source::{MergeSource, mark_present};
use crate::store::read::run::{RUN_ROWS_MAX, RUN_ROWS_SMALL, Run};
use crate::store::read::tombstone::{Tombstone, has_snapshot_between, is_apart};
use crate::types::cells;
use crate::types::width::to_usize;
use crate::types::{CellSlice, ColumnCells, Dictionary, KeyColumns, OrderRule, Rows, SeriesDef};

/// Number of a series inside its store; never used twice.
pub type SeriesId = u64;

/// Maximum blocks of a read that runs without a blocking thread.
const QUICK_BLOCKS_MAX: usize = 2;

/// Maximum runs of such a read.
const QUICK_RUNS_MAX: usize = 16;

/// Maximum rows in these runs.
const QUICK_RUN_ROWS_MAX: usize = 16_384;

/// What a series was at the commit of a snapshot: recorded when the series changes for the first time after
/// it.
#[derive(Clone, Debug)]
pub struct SeriesView {
    /// The commit of the snapshot.
    pub commit: u64,
    /// Commit of the last change before it.
    pub last_commit: u64,
    pub def: Arc<SeriesDef>,
    pub version: u64,
    pub rows: u64,
    pub bounds: Option<(i64, i64)>,
}

/// Rows that are stored at given timestamps.
#[derive(Debug)]
pub struct RowsAt {
    /// For each timestamp the position of its row in the columns.
    pub positions: Vec<Option<usize>>,
    /// The columns of the registration.
    pub columns: Vec<ColumnCells>,
}

/// One series at one commit.
#[derive(Clone, Debug)]
pub struct SeriesState {
    pub id: SeriesId,
    pub def: Arc<SeriesDef>,
    /// Texts by column, empty for columns of other types. They only grow, so that earlier views share them.
    pub dictionaries: Arc<Vec<Dictionary>>,
    /// Commits that touched the series.
    pub version: u64,
    /// Distinct rows stored.
    pub rows: u64,
    /// First and last timestamp stored.
    pub bounds: Option<(i64, i64)>,
    /// Commit of the registration.
    pub created_commit: u64,
    /// Commit of the last change.
    pub last_commit: u64,
    /// Commit at which the series was dropped; afterwards it is retained only for snapshots.
    pub dropped_commit: Option<u64>,
    /// The series as snapshots see it where that differs from now, oldest first.
    pub views: Arc<Vec<SeriesView>>,
    pub chunks: Arc<Chunks>,
    /// Runs in a run file, oldest first: mapped, and no longer merged with newer ones.
    pub filed: Vec<Arc<Run>>,
    /// Runs that are being moved to a file: no longer merged with newer ones.
    pub frozen: Vec<Arc<Run>>,
    /// Runs in commit order, the newest last.
    pub runs: Vec<Arc<Run>>,
    pub tombstones: Arc<Vec<Tombstone>>,
    /// Rows of commits up to this one are in chunks.
    pub sealed_commit: u64,
    /// Wall clock of the last write in milliseconds; for display only.
    pub last_write_ms: i64,
}

impl SeriesState {
    /// A series just registered at a commit, without rows.
    pub fn new(id: SeriesId, def: Arc<SeriesDef>, commit: u64) -> Self {
        Self {
            id,
            dictionaries: Arc::new(vec![Dictionary::default(); def.columns.len()]),
            def,
            version: 1,
            created_commit: commit,
            last_commit: commit,
            dropped_commit: None,
            views: Arc::default(),
            rows: 0,
            bounds: None,
            chunks: Arc::default(),
            filed: Vec::new(),
            frozen: Vec::new(),
            runs: Vec::new(),
            tombstones: Arc::default(),
            sealed_commit: 0,
            last_write_ms: 0,
        }
    }

    /// Whether readers of now or of a snapshot can see the series.
    pub fn is_reachable(&self, snapshot_commits: &[u64]) -> bool {
        self.dropped_commit.is_none_or(|dropped| has_snapshot_between(snapshot_commits, self.created_commit, dropped))
    }

    /// The series after one more commit; what snapshots before it see is recorded.
    pub fn touched(&self, commit: u64, snapshot_commits: &[u64]) -> Self {
        let mut next = self.clone();
        next.touch(commit, snapshot_commits);
        next
    }

    /// Sets a changed registration.
    pub fn set_def(&mut self, def: Arc<SeriesDef>) {
        if self.dictionaries.len() < def.columns.len() {
            Arc::make_mut(&mut self.dictionaries).resize(def.columns.len(), Dictionary::default());
        }
        self.def = def;
    }

    /// Counts one more commit and records what earlier snapshots see.
    fn touch(&mut self, commit: u64, snapshot_commits: &[u64]) {
        let last_snapshot = snapshot_commits
            .partition_point(|snapshot| *snapshot < commit)
            .checked_sub(1)
            .and_then(|at| snapshot_commits.get(at));
        if let Some(snapshot) = last_snapshot
            && self.last_commit <= *snapshot
        {
            let needed = |view: &SeriesView| {
                has_snapshot_between(snapshot_commits, view.last_commit, view.commit.saturating_add(1))
            };
            let mut views: Vec<SeriesView> = self.views.iter().filter(|view| needed(view)).cloned().collect();
            views.push(SeriesView {
                commit: *snapshot,
                last_commit: self.last_commit,
                def: Arc::clone(&self.def),
                version: self.version,
                rows: self.rows,
                bounds: self.bounds,
            });
            self.views = Arc::new(views);
        }
        self.version += 1;
        self.last_commit = commit;
    }

    /// The series as it was at the commit of a snapshot; `None` when it did not exist.
    pub fn as_of(&self, commit: u64) -> Option<Self> {
        if self.created_commit > commit || self.dropped_commit.is_some_and(|dropped| dropped <= commit) {
            return None;
        }
        let mut view = self.clone();
        view.dropped_commit = None;
        if self.last_commit <= commit {
            return Some(view);
        }
        let then = self.views.iter().find(|view| view.last_commit <= commit && commit <= view.commit)?;
        view.def = Arc::clone(&then.def);
        view.version = then.version;
        view.rows = then.rows;
        view.bounds = then.bounds;
        view.last_commit = then.last_commit;
        view.chunks = Arc::new(self.chunks.iter().filter(|chunk| chunk.record.commit_hi <= commit).cloned().collect());
        for runs in [&mut view.filed, &mut view.frozen, &mut view.runs] {
            runs.retain(|run| run.commit_hi <= commit);
        }
        view.tombstones = Arc::new(self.tombstones.iter().filter(|t| t.commit <= commit).copied().collect());
        Some(view)
    }

    /// All chunks and runs.
    pub fn sources(&self) -> Vec<MergeSource> {
        let chunks = self.chunks.iter().cloned().map(MergeSource::Chunk);
        chunks.chain(self.tail().cloned().map(MergeSource::Run)).collect()
    }

    /// Runs not yet in chunks, oldest first.
    pub fn tail(&self) -> impl Iterator<Item = &Arc<Run>> {
        self.filed.iter().chain(&self.frozen).chain(&self.runs)
    }

    /// Rows of the tail, including overwritten and deleted ones.
    pub fn tail_rows(&self) -> u64 {
        self.tail().map(|run| run.rows() as u64).sum()
    }

    /// Bytes of the chunk files.
    pub fn file_bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.record.file_bytes).sum()
    }

    /// Rows in time order within the closed range.
    pub fn merge(&self, cache: &Arc<MapCache>, range: (i64, i64), desc: bool) -> Merge {
        let (start, end) = range;
        let chunks = self.chunks.within(range);
        let runs = self.tail().filter(|run| run.ts_min() <= end && run.ts_max() >= start);
        let sources = chunks.cloned().map(MergeSource::Chunk).chain(runs.cloned().map(MergeSource::Run)).collect();
        Merge::new(sources, Arc::clone(&self.tombstones), Arc::clone(&self.def), Arc::clone(cache), range, desc)
    }

    /// First timestamp of the blocks or chunks that contain the last `rows` rows of a closed range, estimated from
    /// their row counts.
    pub fn start_of_last(&self, (start, end): (i64, i64), rows: u64) -> i64 {
        let mut left = rows;
        for chunk in self.chunks.within((start, end)).rev() {
            if let Some(open) = chunk.opened() {
                for block in open.blocks().iter().rev().filter(|block| block.ts_min <= end) {
                    left = left.saturating_sub(u64::from(block.rows));
                    if left == 0 {
                        return block.ts_min.max(start);
                    }
                }
            } else {
                left = left.saturating_sub(chunk.record.rows);
                if left == 0 {
                    return chunk.record.ts_min.max(start);
                }
            }
        }
        start
    }

    /// Whether the row counts of the blocks at the end of a closed range are exact: no row of them is deleted, lies
    /// after the range, or is stored twice.
    pub fn has_exact_counts(&self, range: (i64, i64)) -> bool {
        let apart = |a: &&Arc<ChunkFile>, b: &&Arc<ChunkFile>| a.record.ts_max < b.record.ts_min;
        self.tombstones.is_empty()
            && self.bounds.is_none_or(|(_, last)| range.1 >= last)
            && self.chunks.within(range).is_sorted_by(apart)
    }

    /// Whether the rows of a closed range are few and in memory already.
    pub fn is_in_memory(&self, (start, end): (i64, i64)) -> bool {
        let mut blocks = QUICK_BLOCKS_MAX;
        let runs = self.tail().filter(|run| run.ts_min() <= end && run.ts_max() >= start);
        let mut rows = 0;
        let mut is_quick = |run: &Arc<Run>| {
            rows += run.rows();
            rows <= QUICK_RUN_ROWS_MAX
                && (run.file.is_none() || run.columns.iter().all(|column| is_resident(column.buffer())))
        };
        self.chunks
            .within((start, end))
            .all(|chunk| chunk.opened().is_some_and(|open| open.is_in_memory((start, end), &mut blocks)))
            && runs
                .take(QUICK_RUNS_MAX + 1)
                .enumerate()
                .all(|(position, run)| position < QUICK_RUNS_MAX && is_quick(run))
    }

    /// How many of these ascending timestamps are stored.
    pub fn count_present(&self, cache: &MapCache, timestamps: &[i64]) -> Result<u64> {
        let (Some(first), Some(last)) = (timestamps.first(), timestamps.last()) else { return Ok(0) };
        if self.bounds.is_none_or(|(low, high)| *first > high || *last < low) {
            return Ok(0);
        }
        let mut found = vec![false; timestamps.len()];
        for source in self.sources() {
            mark_present(&source, &self.tombstones, cache, timestamps, &mut found)?;
        }
        Ok(found.iter().filter(|found| **found).count() as u64)
    }

    /// The rows stored at each of these ascending timestamps, of a series with one row per timestamp.
    pub fn rows_at(&self, cache: &Arc<MapCache>, timestamps: &[i64]) -> Result<RowsAt> {
        let columns = self.def.layouts().map(ColumnCells::new).collect();
        let mut found = RowsAt { positions: vec![None; timestamps.len()], columns };
        let (Some(first), Some(last)) = (timestamps.first(), timestamps.last()) else { return Ok(found) };
        if self.bounds.is_none_or(|(low, high)| *first > high || *last < low) {
            return Ok(found);
        }
        let (mut at, mut stored_rows) = (0, 0);
        while let Some(ts) = timestamps.get(at) {
            // Timestamps that lie close are found in one pass, those far apart each by its own search.
            let mut merge = self.merge(cache, (*ts, *last), false);
            let mut passed = 0;
            while let Some(piece) = merge.next_piece()? {
                let block = piece.block();
                let stored = block.timestamps();
                let Some(high) = stored.last() else { continue };
                let mut row = 0;
                while let Some(ts) = timestamps.get(at).filter(|ts| *ts <= high) {
                    row += cells::from(stored, row).partition_point(|stored| stored < ts);
                    if let (true, Some(slot)) = (stored.get(row) == Some(ts), found.positions.get_mut(at)) {
                        *slot = Some(stored_rows);
                        stored_rows += 1;
                        for (position, column) in found.columns.iter_mut().enumerate() {
                            column.extend(block.column(position + 1).slice(row, 1));
                        }
                    }
                    at += 1;
                    passed = 0;
                }
                passed += 1;
                if passed > 2 || at == timestamps.len() {
                    break;
                }
            }
            if merge.is_at_end() {
                break;
            }
        }
        Ok(found)
    }

    /// How many of these rows, in the order of the series, have the key of a stored row.
    pub fn count_stored(&self, cache: &Arc<MapCache>, rows: &Rows) -> Result<u64> {
        match &self.def.order {
            OrderRule::Arrival => Ok(0),
            OrderRule::Unique(columns) if columns.is_empty() => self.count_present(cache, &rows.ts),
            OrderRule::Unique(_) => self.count_keys(cache, rows),
        }
    }

    fn count_keys(&self, cache: &Arc<MapCache>, rows: &Rows) -> Result<u64> {
        let (Some(first), Some(last)) = (rows.ts.first(), rows.ts.last()) else { return Ok(0) };
        if self.bounds.is_none_or(|(low, high)| *first > high || *last < low) {
            return Ok(0);
        }
        let (key, new) = (KeyColumns::of(&self.def), rows.slices());
        let (mut at, mut found) = (0, 0);
        while let Some(ts) = rows.ts.get(at) {
            let mut merge = self.merge(cache, (*ts, *last), false);
            let mut passed = 0;
            while let Some(piece) = merge.next_piece()? {
                let stored: Vec<CellSlice<'_>> = piece.block().columns().collect();
                let times = piece.block().timestamps();
                let mut row = 0;
                while let (Some(ts), Some(time)) = (rows.ts.get(at), times.get(row)) {
                    let order = time.cmp(ts).then_with(|| key.compare(&stored, row, &new, at));
                    if order.is_lt() && time < ts {
                        row += cells::from(times, row).partition_point(|time| time < ts);
                        continue;
                    }
                    found += u64::from(order.is_eq());
                    row += usize::from(order.is_le());
                    passed = if order.is_ge() { 0 } else { passed };
                    at += usize::from(order.is_ge());
                }
                passed += 1;
                // The rows of a timestamp may continue in the next piece.
                if at == rows.len() || passed > 2 && times.last() < rows.ts.get(at) {
                    break;
                }
            }
            if merge.is_at_end() {
                break;
            }
        }
        Ok(found)
    }

    /// Exact number of rows in a closed range.
    pub fn count_rows(&self, cache: &Arc<MapCache>, (start, end): (i64, i64)) -> Result<u64> {
        match self.bounds {
            None => Ok(0),
            Some((low, high)) if start <= low && high <= end => Ok(self.rows),
            Some(_) => self.merge(cache, (start, end), false).count_rows(),
        }
    }

    /// Timestamp of the n-th row, counted from 1.
    pub fn nth_timestamp(&self, cache: &Arc<MapCache>, n: u64) -> Result<Option<i64>> {
        let Some((first, last)) = self.bounds.filter(|_| n > 0) else { return Ok(None) };
        let mut merge = self.merge(cache, (first, last), false);
        let mut left = n;
        while let Some(piece) = merge.next_piece()? {
            let rows = piece.rows() as u64;
            if rows >= left {
                return Ok(piece.ts(to_usize(left - 1)));
            }
            left -= rows;
        }
        Ok(None)
    }

    /// The series after a write of sorted, distinct rows, `replaced` of which existed.
    pub fn with_rows(&self, rows: Rows, replaced: u64, commit: u64, wall_ms: i64, snapshot_commits: &[u64]) -> Self {
        let mut next = self.clone();
        next.count_rows_written(&rows, replaced, commit, wall_ms, snapshot_commits);
        next.push_rows(rows, commit, snapshot_commits);
        next
    }

    /// Applies all effects of a write except the rows themselves.
    pub fn count_rows_written(
        &mut self,
        rows: &Rows,
        replaced: u64,
        commit: u64,
        wall_ms: i64,
        snapshot_commits: &[u64],
    ) {
        self.touch(commit, snapshot_commits);
        self.last_write_ms = wall_ms;
        self.rows += (rows.len() as u64).saturating_sub(replaced);
        if let (Some(low), Some(high)) = (rows.ts.first().copied(), rows.ts.last().copied()) {
            self.bounds = Some(self.bounds.map_or((low, high), |(first, last)| (first.min(low), last.max(high))));
        }
    }

    /// Adds sorted, distinct rows of one commit. Few of them after the newest run go into its buffer.
    fn push_rows(&mut self, rows: Rows, commit: u64, snapshot_commits: &[u64]) {
        if let Some(newest) = self.runs.last()
            && newest.takes(&self.def, &rows)
            && !is_apart(&self.tombstones, newest.commit_hi, commit, snapshot_commits)
        {
            let grown = newest.grown(&rows, commit);
            self.runs.pop();
            // The grown run may now have the size of the run before it, and is then merged with it.
            self.push_run(grown, snapshot_commits);
        } else if rows.len() <= RUN_ROWS_SMALL && !rows.is_empty() {
            self.push_run(Run::growing(&self.def, &rows, commit), snapshot_commits);
        } else if let Some(run) = Run::new(&self.def, rows, commit, commit) {
            self.push_run(run, snapshot_commits);
        }
    }

    /// Adds a run and merges it with its older neighbours while they are small or of similar size, so that there are
    /// never more than about log(rows) runs. Runs on both sides of a delete or a snapshot stay apart.
    pub fn push_run(&mut self, run: Run, snapshot_commits: &[u64]) {
        let mut newest = run;
        while let Some(older) = self.runs.last() {
            let apart = self.apart(older, &newest, snapshot_commits);
            let similar =
                older.rows() <= RUN_ROWS_SMALL.max(2 * newest.rows()) && older.rows() + newest.rows() <= RUN_ROWS_MAX;
            if apart || !similar || !older.has_columns_of(&newest) {
                break;
            }
            newest = older.merged_with(&newest);
            self.runs.pop();
        }
        self.runs.push(Arc::new(newest));
    }

    /// Whether a delete or a snapshot lies between two runs.
    pub fn apart(&self, older: &Run, newer: &Run, snapshot_commits: &[u64]) -> bool {
        is_apart(&self.tombstones, older.commit_hi, newer.commit_lo, snapshot_commits)
    }

    /// The series after a delete of `deleted` rows. Reads nothing: the bounds stay as they were.
    pub fn without_range(
        &self,
        (start, end): (i64, i64),
        deleted: u64,
        commit: u64,
        wall_ms: i64,
        snapshot_commits: &[u64],
    ) -> Self {
        let mut next = self.touched(commit, snapshot_commits);
        next.last_write_ms = wall_ms;
        next.rows = next.rows.saturating_sub(deleted);
        let inside = |run: &Arc<Run>| {
            start <= run.ts_min()
                && run.ts_max() <= end
                && !has_snapshot_between(snapshot_commits, run.commit_hi, commit)
        };
        next.runs.retain(|run| !inside(run));
        if next.sources().iter().any(|s| s.ts_min() <= end && s.ts_max() >= start) {
            // A tombstone that this one covers adds nothing, unless a snapshot lies between them.
            let covered = |t: &Tombstone| {
                start <= t.start && t.end <= end && !has_snapshot_between(snapshot_commits, t.commit, commit)
            };
            let mut tombstones: Vec<Tombstone> = next.tombstones.iter().filter(|t| !covered(t)).copied().collect();
            tombstones.push(Tombstone { commit, start, end });
            next.tombstones = Arc::new(tombstones);
        }
        next
    }

    /// First and last timestamp after a delete of a range, which may have removed them.
    pub fn bounds_after(&self, cache: &Arc<MapCache>, (start, end): (i64, i64)) -> Result<Option<(i64, i64)>> {
        let Some((first, last)) = self.bounds.filter(|_| self.rows > 0) else { return Ok(None) };
        if start > first && end < last {
            return Ok(Some((first, last)));
        }
        let edge = |desc: bool| -> Result<i64> {
            let piece = self.merge(cache, (first, last), desc).next_piece()?;
            piece
                .and_then(|piece| piece.ts(if desc { piece.rows().saturating_sub(1) } else { 0 }))
                .ok_or_else(|| Error::internal(format!("the row count of {} is inconsistent", self.def.key)))
        };
        Ok(Some((edge(false)?, edge(true)?)))
    }

    /// Tombstones that still hide rows of a chunk or run.
    pub fn needed_tombstones(&self) -> Vec<Tombstone> {
        if self.tombstones.is_empty() {
            return Vec::new();
        }
        let sources = self.sources();
        let needed = |t: &Tombstone| {
            sources.iter().any(|s| s.commit_hi() < t.commit && s.ts_min() <= t.end && s.ts_max() >= t.start)
        };
        self.tombstones.iter().copied().filter(needed).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::SeriesKey;

    fn run(ts: &[i64], value: i64, commit: u64) -> Run {
        Run::new(&series().def, Rows::of_words(ts.to_vec(), vec![vec![value; ts.len()]]), commit, commit).unwrap()
    }

    fn one(ts: i64, value: i64) -> Rows {
        Rows::of_words(vec![ts], vec![vec![value]])
    }

    fn series() -> SeriesState {
        let spec = crate::types::SeriesSpec::of_key(&SeriesKey::parse("scalar/metric/A/1m/x").unwrap());
        SeriesState::new(1, Arc::new(spec.resolve().unwrap()), 1)
    }

    #[test]
    fn rows_appended_one_by_one_stay_one_run_and_are_not_copied() {
        let mut now = series();
        let mut copies = 0;
        let mut before = Vec::new();
        for ts in 0..5_000 {
            let next = now.with_rows(one(ts, ts * 10), 0, ts.unsigned_abs() + 2, 0, &[]);
            let at = |series: &SeriesState| series.runs.first().map(|run| run.timestamps().as_ptr());
            copies += usize::from(at(&next) != at(&now));
            before.push(std::mem::replace(&mut now, next));
        }
        assert_eq!((now.runs.len(), now.rows), (1, 5_000));
        assert!(copies < 15, "{copies} copies of the run");
        // The states that a reader took before are unchanged.
        for (rows, then) in before.iter().enumerate().skip(1).step_by(97) {
            let run = &then.runs[0];
            assert_eq!((run.rows(), run.ts_max()), (rows, rows as i64 - 1));
            assert_eq!(run.column(1).words().last(), Some(&((rows as i64 - 1) * 10)));
            assert_eq!(run.columns[1].buffer().capacity(), rows * 8, "a column claims no more than itself");
        }
    }

    #[test]
    fn two_states_derived_from_one_do_not_overwrite_each_other() {
        let base = series().with_rows(one(1, 10), 0, 2, 0, &[]).with_rows(one(2, 20), 0, 3, 0, &[]);
        // The first was refused, as on a full disk; the second continues from the same rows.
        let refused = base.with_rows(one(3, 30), 0, 4, 0, &[]);
        let kept = base.with_rows(one(4, 40), 0, 4, 0, &[]);
        assert_eq!(refused.runs[0].column(1).words(), [10, 20, 30]);
        assert_eq!(kept.runs[0].column(1).words(), [10, 20, 40]);
        assert_eq!(kept.with_rows(one(5, 50), 0, 5, 0, &[]).runs[0].column(1).words(), [10, 20, 40, 50]);
        assert_eq!(base.runs[0].timestamps(), [1, 2]);
    }

    #[test]
    fn late_rows_do_not_each_become_a_run() {
        let (mut now, mut commit) = (series(), 1);
        for part in 1..=40 {
            for ts in (0..300).map(|n| part * 1_000 + n).chain([part * 1_000 - 1]) {
                commit += 1;
                now = now.with_rows(one(ts, 0), 0, commit, 0, &[]);
            }
        }
        assert!(now.runs.len() < 12, "{} runs", now.runs.len());
        assert_eq!(now.tail_rows(), 40 * 301);
    }

    #[test]
    fn a_row_that_was_refused_costs_no_copy_of_a_long_run() {
        let mut base = series();
        for ts in 0..2_000 {
            base = base.with_rows(one(ts, 0), 0, ts.unsigned_abs() + 2, 0, &[]);
        }
        let _refused = base.with_rows(one(5_000, 0), 0, 3_000, 0, &[]);
        let again = base.with_rows(one(6_000, 0), 0, 3_000, 0, &[]);
        assert_eq!(again.runs[0].timestamps().as_ptr(), base.runs[0].timestamps().as_ptr());
        assert_eq!((again.runs.len(), again.runs[1].timestamps()), (2, &[6_000][..]));
    }

    #[test]
    fn a_row_after_a_snapshot_or_a_delete_begins_a_run() {
        let split = series().with_rows(one(1, 10), 0, 2, 0, &[]).with_rows(one(2, 20), 0, 4, 0, &[3]);
        assert_eq!(split.runs.len(), 2);
        let deleted = series().with_rows(one(1, 10), 0, 2, 0, &[]).without_range((0, 0), 0, 3, 0, &[]);
        assert_eq!(
            deleted.with_rows(one(2, 20), 0, 4, 0, &[]).runs.len(),
            1,
            "it hides nothing, so it is not retained"
        );
        let deleted = series().with_rows(one(1, 10), 0, 2, 0, &[]).with_rows(one(2, 20), 0, 3, 0, &[]);
        let deleted = deleted.without_range((2, 9), 1, 4, 0, &[]).with_rows(one(3, 30), 0, 5, 0, &[]);
        assert_eq!(deleted.runs.len(), 2);
    }

    #[test]
    fn merging_runs_keeps_every_timestamp_once_and_the_newest_value() {
        let merged = run(&[1, 3, 5, 9], 1, 1).merged_with(&run(&[0, 3, 4, 9, 12], 2, 2));
        assert_eq!(merged.timestamps(), [0, 1, 3, 4, 5, 9, 12]);
        assert_eq!(merged.column(1).words(), [2, 1, 2, 2, 1, 2, 2]);
        assert_eq!((merged.commit_lo, merged.commit_hi), (1, 2));
        let disjoint = run(&[1, 2], 1, 1).merged_with(&run(&[3, 4], 2, 2));
        assert_eq!((disjoint.timestamps(), disjoint.column(1).words()), (&[1, 2, 3, 4][..], &[1, 1, 2, 2][..]));
    }
}
