//! What a reader sees: an immutable [`StoreState`] of the whole store at one commit.
//!
//! States share everything that did not change (persistent maps, shared runs and chunks), so making the next one
//! costs the logarithm of the number of series, and taking one costs nothing.

use std::ops::Deref;
use std::sync::Arc;

use arrow::buffer::Buffer;
use imbl::{HashMap, OrdMap};

use crate::disk::is_resident;
use crate::error::{Error, Result};
use crate::format::receipt::Receipt;
use crate::planted::{Bug, planted};
use crate::store::read::append_buffer::AppendBuffer;
use crate::store::read::chunk::{BlockColumns, ChunkFile, MapCache};
use crate::store::read::merge::{Merge, MergeSource, mark_present};
use crate::types::{Rows, SeriesDef, SeriesKey};

/// Number of a series inside its store; never used twice.
pub type SeriesId = u64;

/// Most rows a run grows to by merging with its neighbours.
const RUN_ROWS_MAX: usize = 262_144;
/// A run of up to this many rows takes every newer one in: rows that arrive one at a time are read as few pieces.
/// Bounds what an append of one row copies where it cannot go behind the others.
const RUN_ROWS_SMALL: usize = 256;
/// Rows that a run of one row has room for.
const ROOM_ROWS: usize = 8;

/// What is called few blocks and runs.
const BLOCKS_AT_HAND: usize = 2;
const RUNS_AT_HAND: usize = 16;
const RUN_ROWS_AT_HAND: usize = 16_384;

/// The store at one commit.
#[derive(Clone, Debug, Default)]
pub struct StoreState {
    pub commit: u64,
    /// Number of the last manifest edit.
    pub edit: u64,
    pub series: OrdMap<SeriesId, Arc<SeriesState>>,
    pub keys: OrdMap<SeriesKey, SeriesId>,
    /// Writes done under an idempotency key, by the hash of the key.
    pub receipts: HashMap<u128, Arc<Receipt>>,
    /// Named views, by name.
    pub snapshots: OrdMap<String, Snapshot>,
    /// Rising commits of the snapshots: rows on both sides of one are never merged.
    pub fences: Arc<Vec<u64>>,
    /// Whether series are left out that were there: such a state answers one read and is not kept.
    pub is_partial: bool,
}

/// A named view of the store at one commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub commit: u64,
    /// Wall clock in milliseconds; for people only.
    pub created_ms: i64,
}

impl StoreState {
    /// The series of this key.
    pub fn get(&self, key: &SeriesKey) -> Option<&Arc<SeriesState>> {
        self.series.get(self.keys.get(key)?)
    }

    /// Sets or replaces a series. During replay a dropped series and its successor of the same key can be there
    /// together: the key means the younger one.
    pub fn put(&mut self, series: SeriesState) {
        if series.dropped_commit.is_none() && self.keys.get(&series.def.key).is_none_or(|id| *id < series.id) {
            self.keys.insert(series.def.key.clone(), series.id);
        }
        self.series.insert(series.id, Arc::new(series));
    }

    /// Whether this very state of a series is in here.
    pub fn has(&self, series: &Arc<SeriesState>) -> bool {
        self.series.get(&series.id).is_some_and(|own| Arc::ptr_eq(own, series))
    }

    /// Sets a later state of a series that is in here under the same key.
    pub fn replace(&mut self, series: SeriesState) {
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

    /// Every registered series; `series` also holds dropped ones that a snapshot still shows.
    pub fn registered(&self) -> impl Iterator<Item = &Arc<SeriesState>> {
        self.series.values().filter(|series| series.dropped_commit.is_none())
    }

    /// Drops a series at a commit. It stays out of sight while a snapshot needs it; else it is given back.
    pub fn drop_series(&mut self, id: SeriesId, commit: u64) -> Option<Arc<SeriesState>> {
        let series = self.remove(id)?;
        let mut next = series.touched(commit, &self.fences);
        next.dropped_commit = Some(commit);
        if next.is_reachable(&self.fences) {
            self.series.insert(id, Arc::new(next));
            return None;
        }
        Some(series)
    }

    /// Adds a named view at a commit.
    pub fn create_snapshot(&mut self, name: String, snapshot: Snapshot) {
        self.snapshots.insert(name, snapshot);
        self.set_fences();
    }

    /// Takes a named view away at a commit. Gives the series dropped by then that nothing shows any more; they are out
    /// of the state. Replay can know of series that are dropped later: a snapshot in between may show them.
    pub fn drop_snapshot(&mut self, name: &str, commit: u64) -> Vec<Arc<SeriesState>> {
        self.snapshots.remove(name);
        self.set_fences();
        let gone = |series: &&Arc<SeriesState>| {
            let dropped = series.dropped_commit.is_some_and(|dropped| dropped <= commit || planted(Bug::DropForeseen));
            dropped && !series.is_reachable(&self.fences)
        };
        let gone: Vec<SeriesId> = self.series.values().filter(gone).map(|series| series.id).collect();
        gone.into_iter().filter_map(|id| self.series.remove(&id)).collect()
    }

    fn set_fences(&mut self) {
        let mut fences: Vec<u64> = self.snapshots.values().map(|snapshot| snapshot.commit).collect();
        fences.sort_unstable();
        self.fences = Arc::new(fences);
    }

    /// The store as it was at the commit of a snapshot that is still there.
    pub fn as_of(&self, commit: u64) -> StoreState {
        let mut view = StoreState { commit, edit: self.edit, ..StoreState::default() };
        for series in self.series.values().filter_map(|series| series.as_of(commit)) {
            view.put(series);
        }
        view
    }
}

/// Sorted, distinct rows that are durable in the log and not yet in a chunk.
#[derive(Debug)]
pub struct Run {
    pub commit_lo: u64,
    pub commit_hi: u64,
    /// Run file it is mapped from; `None` while only the log has it.
    pub file: Option<u64>,
    /// `ts`, then the columns; never empty.
    columns: Vec<Buffer>,
    /// Where the columns stand, when more rows may come behind them there.
    room: Option<AppendBuffer>,
}

impl Run {
    /// A run of sorted, distinct rows; `None` when there are none.
    pub fn new(rows: Rows, commit_lo: u64, commit_hi: u64) -> Option<Self> {
        if rows.is_empty() {
            return None;
        }
        let mut columns = vec![Buffer::from_vec(rows.ts)];
        columns.extend(rows.columns.into_iter().map(Buffer::from_vec));
        Some(Self { commit_lo, commit_hi, file: None, columns, room: None })
    }

    /// A run of few sorted, distinct rows that more will come behind.
    fn growing(rows: &Rows, commit: u64) -> Self {
        let columns: Vec<&[i64]> = std::iter::once(&rows.ts).chain(&rows.columns).map(Vec::as_slice).collect();
        let room = AppendBuffer::with((2 * rows.len()).max(ROOM_ROWS), &columns);
        Self { commit_lo: commit, commit_hi: commit, file: None, columns: room.columns(rows.len()), room: Some(room) }
    }

    /// This run and rows behind its last one, without copying it while its room has space. A room that is full moves
    /// into one twice as large.
    fn grown(&self, rows: &Rows, commit: u64) -> Run {
        let before = self.rows();
        let all = before + rows.len();
        let room = match &self.room {
            Some(room) if room.append(before, rows) => room.clone(),
            _ => {
                let columns: Vec<&[i64]> = (0..self.columns.len()).map(|column| self.words(column)).collect();
                let room = AppendBuffer::with((2 * all).min(RUN_ROWS_MAX.max(all)), &columns);
                let appended = room.append(before, rows);
                debug_assert!(appended, "a new room has space");
                room
            }
        };
        let (commit_lo, commit_hi) = (self.commit_lo.min(commit), self.commit_hi.max(commit));
        Run { commit_lo, commit_hi, file: None, columns: room.columns(all), room: Some(room) }
    }

    /// Whether rows go behind the last one at little cost: into its room, or into one that is made for many more. Not
    /// where rows stand that were refused: a disk that is full would make a copy of the run of every attempt.
    fn takes(&self, rows: &Rows) -> bool {
        let after = self.timestamps().last() < rows.ts.first() && self.columns.len() == rows.columns.len() + 1;
        let free = self.room.as_ref().is_some_and(|room| room.ends_at(self.rows()));
        let grows = free || self.rows() <= RUN_ROWS_SMALL;
        after && grows && rows.len() <= RUN_ROWS_SMALL && self.rows() + rows.len() <= RUN_ROWS_MAX
    }

    /// A run in a mapped file, whose bytes were checked.
    pub fn mapped(file: u64, (commit_lo, commit_hi): (u64, u64), columns: Vec<Buffer>) -> Self {
        Self { commit_lo, commit_hi, file: Some(file), columns, room: None }
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

    /// How many columns, `ts` among them.
    pub fn column_count(&self) -> usize {
        self.columns.len()
    }

    /// Bytes of all cells.
    pub fn bytes(&self) -> u64 {
        self.columns.iter().map(|column| column.len() as u64).sum()
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

    /// Both runs in one; rows of `newer` win.
    pub fn merged_with(&self, newer: &Run) -> Run {
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
            file: None,
            columns: columns.into_iter().map(Buffer::from_vec).collect(),
            room: None,
        }
    }
}

/// Chunks of a series, ordered by first timestamp, then commit.
#[derive(Clone, Debug, Default)]
pub struct Chunks {
    chunks: Vec<Arc<ChunkFile>>,
    /// For each chunk the last timestamp of it and all before it.
    reach: Vec<i64>,
}

impl FromIterator<Arc<ChunkFile>> for Chunks {
    fn from_iter<I: IntoIterator<Item = Arc<ChunkFile>>>(chunks: I) -> Self {
        let mut chunks: Vec<Arc<ChunkFile>> = chunks.into_iter().collect();
        chunks.sort_by_key(|chunk| (chunk.record.ts_min, chunk.record.commit_hi));
        let mut last = i64::MIN;
        let reach = |chunk: &Arc<ChunkFile>| {
            last = last.max(chunk.record.ts_max);
            last
        };
        Self { reach: chunks.iter().map(reach).collect(), chunks }
    }
}

impl Deref for Chunks {
    type Target = [Arc<ChunkFile>];

    fn deref(&self) -> &Self::Target {
        &self.chunks
    }
}

impl Chunks {
    /// Those that can hold rows of a closed range. Found by search, however many others there are.
    pub fn within(&self, (start, end): (i64, i64)) -> impl DoubleEndedIterator<Item = &Arc<ChunkFile>> {
        let first = self.reach.partition_point(|last| *last < start);
        let until = self.chunks.partition_point(|chunk| chunk.record.ts_min <= end);
        let near = self.chunks.get(first..until).unwrap_or_default();
        near.iter().filter(move |chunk| chunk.record.ts_max >= start)
    }
}

/// A deleted closed range: hides rows of commits before its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tombstone {
    pub commit: u64,
    pub start: i64,
    pub end: i64,
}

/// What a series was at a fence and up to it: kept when the series changes for the first time behind it.
#[derive(Clone, Debug)]
pub struct SeriesView {
    /// The fence.
    pub commit: u64,
    /// Commit of the last change before it.
    pub last_commit: u64,
    pub def: Arc<SeriesDef>,
    pub version: u64,
    pub rows: u64,
    pub bounds: Option<(i64, i64)>,
}

/// Whether a fence lies between two commits: at or behind `older`, before `newer`.
pub fn fenced(fences: &[u64], older: u64, newer: u64) -> bool {
    let next = fences.partition_point(|fence| *fence < older);
    fences.get(next).is_some_and(|fence| *fence < newer)
}

/// Whether a delete or a fence stands between two commits.
fn is_apart(tombstones: &[Tombstone], older: u64, newer: u64, fences: &[u64]) -> bool {
    fenced(fences, older, newer) || tombstones.iter().any(|t| older < t.commit && t.commit < newer)
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
    /// Commit of the registration.
    pub created_commit: u64,
    /// Commit of the last change.
    pub last_commit: u64,
    /// Commit at which the series was dropped; it is only kept for snapshots then.
    pub dropped_commit: Option<u64>,
    /// What snapshots see of it where that differs from now, oldest first.
    pub views: Arc<Vec<SeriesView>>,
    pub chunks: Arc<Chunks>,
    /// Runs that stand in a run file, oldest first: mapped, and not merged with newer ones any more.
    pub settled: Vec<Arc<Run>>,
    /// Runs that are being moved to a file: not merged with newer ones any more.
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
    /// A series just registered at a commit, without rows.
    pub fn new(id: SeriesId, def: Arc<SeriesDef>, commit: u64) -> Self {
        Self {
            id,
            def,
            version: 1,
            created_commit: commit,
            last_commit: commit,
            dropped_commit: None,
            views: Arc::default(),
            rows: 0,
            bounds: None,
            chunks: Arc::default(),
            settled: Vec::new(),
            frozen: Vec::new(),
            runs: Vec::new(),
            tombstones: Arc::default(),
            sealed_commit: 0,
            last_write_ms: 0,
        }
    }

    /// Whether readers of now or of a snapshot can see the series.
    pub fn is_reachable(&self, fences: &[u64]) -> bool {
        self.dropped_commit.is_none_or(|dropped| fenced(fences, self.created_commit, dropped))
    }

    /// The series after one more commit; what snapshots before it see is kept.
    pub fn touched(&self, commit: u64, fences: &[u64]) -> Self {
        let mut next = self.clone();
        next.touch(commit, fences);
        next
    }

    /// Counts one more commit and keeps what snapshots before it see.
    fn touch(&mut self, commit: u64, fences: &[u64]) {
        let last_fence = fences.partition_point(|fence| *fence < commit).checked_sub(1).and_then(|at| fences.get(at));
        if let Some(fence) = last_fence
            && self.last_commit <= *fence
        {
            let needed = |view: &SeriesView| fenced(fences, view.last_commit, view.commit.saturating_add(1));
            let mut views: Vec<SeriesView> = self.views.iter().filter(|view| needed(view)).cloned().collect();
            views.push(SeriesView {
                commit: *fence,
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

    /// The series as it was at the commit of a snapshot; `None` when it was not there.
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
        for runs in [&mut view.settled, &mut view.frozen, &mut view.runs] {
            runs.retain(|run| run.commit_hi <= commit);
        }
        view.tombstones = Arc::new(self.tombstones.iter().filter(|t| t.commit <= commit).copied().collect());
        Some(view)
    }

    /// Everything rows can come from.
    pub fn sources(&self) -> Vec<MergeSource> {
        let chunks = self.chunks.iter().cloned().map(MergeSource::Chunk);
        chunks.chain(self.tail().cloned().map(MergeSource::Run)).collect()
    }

    /// Runs not yet in chunks, oldest first.
    pub fn tail(&self) -> impl Iterator<Item = &Arc<Run>> {
        self.settled.iter().chain(&self.frozen).chain(&self.runs)
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
        let (start, end) = range;
        let chunks = self.chunks.within(range);
        let runs = self.tail().filter(|run| run.ts_min() <= end && run.ts_max() >= start);
        let sources = chunks.cloned().map(MergeSource::Chunk).chain(runs.cloned().map(MergeSource::Run)).collect();
        Merge::new(sources, Arc::clone(&self.tombstones), Arc::clone(&self.def), Arc::clone(cache), range, desc)
    }

    /// Where the blocks or chunks begin that hold the last `rows` rows of a closed range, as far as their numbers of
    /// rows tell.
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

    /// Whether the blocks at the end of a closed range hold as many rows of it as they have: nothing is deleted, lies
    /// behind its end, or is there twice.
    pub fn counts_hold(&self, range: (i64, i64)) -> bool {
        let apart = |a: &&Arc<ChunkFile>, b: &&Arc<ChunkFile>| a.record.ts_max < b.record.ts_min;
        self.tombstones.is_empty()
            && self.bounds.is_none_or(|(_, last)| range.1 >= last)
            && self.chunks.within(range).is_sorted_by(apart)
    }

    /// Whether the rows of a closed range are few and in memory already.
    pub fn is_at_hand(&self, (start, end): (i64, i64)) -> bool {
        let mut blocks = BLOCKS_AT_HAND;
        let runs = self.tail().filter(|run| run.ts_min() <= end && run.ts_max() >= start);
        let mut rows = 0;
        let mut is_near = |run: &Arc<Run>| {
            rows += run.rows();
            rows <= RUN_ROWS_AT_HAND && (run.file.is_none() || run.columns.iter().all(|column| is_resident(column)))
        };
        self.chunks
            .within((start, end))
            .all(|chunk| chunk.opened().is_some_and(|open| open.is_at_hand((start, end), &mut blocks)))
            && runs.take(RUNS_AT_HAND + 1).enumerate().all(|(position, run)| position < RUNS_AT_HAND && is_near(run))
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

    /// The cells stored at each of these rising timestamps, in the order of the registration.
    pub fn rows_at(&self, cache: &Arc<MapCache>, wanted: &[i64]) -> Result<Vec<Option<Vec<i64>>>> {
        let mut found = vec![None; wanted.len()];
        let (Some(first), Some(last)) = (wanted.first(), wanted.last()) else { return Ok(found) };
        if self.bounds.is_none_or(|(low, high)| *first > high || *last < low) {
            return Ok(found);
        }
        let mut at = 0;
        while let Some(ts) = wanted.get(at) {
            // Timestamps that lie close are found in one pass, those far apart each by its own search.
            let mut merge = self.merge(cache, (*ts, *last), false);
            let mut passed = 0;
            while let Some(piece) = merge.next_piece()? {
                let columns = &piece.block.columns.columns;
                let stored = piece.timestamps();
                let Some(high) = stored.last() else { continue };
                let mut row = 0;
                while let Some(ts) = wanted.get(at).filter(|ts| *ts <= high) {
                    row += stored.get(row..).map_or(0, |rest| rest.partition_point(|stored| stored < ts));
                    if let (true, Some(slot)) = (stored.get(row) == Some(ts), found.get_mut(at)) {
                        let cells = columns.iter().skip(1);
                        *slot =
                            Some(cells.filter_map(|c| c.typed_data::<i64>().get(piece.lo + row).copied()).collect());
                    }
                    at += 1;
                    passed = 0;
                }
                passed += 1;
                if passed > 2 || at == wanted.len() {
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
            let rows = (piece.hi - piece.lo) as u64;
            if rows >= left {
                return Ok(piece.timestamps().get(usize::try_from(left - 1).unwrap_or(usize::MAX)).copied());
            }
            left -= rows;
        }
        Ok(None)
    }

    /// The series after a write of sorted, distinct rows, `replaced` of which existed.
    pub fn with_rows(&self, rows: Rows, replaced: u64, commit: u64, wall_ms: i64, fences: &[u64]) -> Self {
        let mut next = self.clone();
        next.count_rows_written(&rows, replaced, commit, wall_ms, fences);
        next.push_rows(rows, commit, fences);
        next
    }

    /// Everything a write changes but the rows themselves.
    pub fn count_rows_written(&mut self, rows: &Rows, replaced: u64, commit: u64, wall_ms: i64, fences: &[u64]) {
        self.touch(commit, fences);
        self.last_write_ms = wall_ms;
        self.rows += (rows.len() as u64).saturating_sub(replaced);
        if let (Some(low), Some(high)) = (rows.ts.first().copied(), rows.ts.last().copied()) {
            self.bounds = Some(self.bounds.map_or((low, high), |(first, last)| (first.min(low), last.max(high))));
        }
    }

    /// Adds sorted, distinct rows of one commit. Few of them behind the newest run go into its room.
    fn push_rows(&mut self, rows: Rows, commit: u64, fences: &[u64]) {
        if let Some(newest) = self.runs.last()
            && newest.takes(&rows)
            && !is_apart(&self.tombstones, newest.commit_hi, commit, fences)
        {
            let grown = newest.grown(&rows, commit);
            self.runs.pop();
            // It may have become like the one before it.
            self.push_run(grown, fences);
        } else if rows.len() <= RUN_ROWS_SMALL && !rows.is_empty() {
            self.push_run(Run::growing(&rows, commit), fences);
        } else if let Some(run) = Run::new(rows, commit, commit) {
            self.push_run(run, fences);
        }
    }

    /// Adds a run and merges it with its older neighbours while they are small or of like size, so that there are
    /// never more than about log(rows) runs. Runs on both sides of a delete or a fence stay apart.
    pub fn push_run(&mut self, run: Run, fences: &[u64]) {
        let mut newest = run;
        while let Some(older) = self.runs.last() {
            let apart = self.apart(older, &newest, fences);
            let alike =
                older.rows() <= RUN_ROWS_SMALL.max(2 * newest.rows()) && older.rows() + newest.rows() <= RUN_ROWS_MAX;
            if apart || !alike {
                break;
            }
            newest = older.merged_with(&newest);
            self.runs.pop();
        }
        self.runs.push(Arc::new(newest));
    }

    /// Whether a delete or a fence stands between two runs.
    pub fn apart(&self, older: &Run, newer: &Run, fences: &[u64]) -> bool {
        is_apart(&self.tombstones, older.commit_hi, newer.commit_lo, fences)
    }

    /// The series after a delete of `deleted` rows. Reads nothing: the bounds stay as they were.
    pub fn without_range(
        &self,
        (start, end): (i64, i64),
        deleted: u64,
        commit: u64,
        wall_ms: i64,
        fences: &[u64],
    ) -> Self {
        let mut next = self.touched(commit, fences);
        next.last_write_ms = wall_ms;
        next.rows = next.rows.saturating_sub(deleted);
        let inside =
            |run: &Arc<Run>| start <= run.ts_min() && run.ts_max() <= end && !fenced(fences, run.commit_hi, commit);
        next.runs.retain(|run| !inside(run));
        if next.sources().iter().any(|s| s.ts_min() <= end && s.ts_max() >= start) {
            // One that this one covers says nothing more, unless a snapshot stands between them.
            let covered = |t: &Tombstone| start <= t.start && t.end <= end && !fenced(fences, t.commit, commit);
            let mut tombstones: Vec<Tombstone> = next.tombstones.iter().filter(|t| !covered(t)).copied().collect();
            tombstones.push(Tombstone { commit, start, end });
            next.tombstones = Arc::new(tombstones);
        }
        next
    }

    /// First and last timestamp, where a delete of a range may have taken them.
    pub fn bounds_after(&self, cache: &Arc<MapCache>, (start, end): (i64, i64)) -> Result<Option<(i64, i64)>> {
        let Some((first, last)) = self.bounds.filter(|_| self.rows > 0) else { return Ok(None) };
        if start > first && end < last {
            return Ok(Some((first, last)));
        }
        let edge = |desc: bool| -> Result<i64> {
            let piece = self.merge(cache, (first, last), desc).next_piece()?;
            piece
                .and_then(|piece| {
                    let ts = piece.timestamps();
                    if desc { ts.last() } else { ts.first() }.copied()
                })
                .ok_or_else(|| Error::internal(format!("{} lost count of its rows", self.def.key)))
        };
        Ok(Some((edge(false)?, edge(true)?)))
    }

    /// Tombstones that still hide rows of something.
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

/// A change of a state that carries no rows of its own: what maintenance does.
#[derive(Clone, Debug)]
pub enum Structural {
    /// Runs may not be merged with newer ones any more.
    Freeze(Arc<Vec<SeriesId>>),
    /// It failed: frozen runs are ordinary ones again.
    Thaw(Arc<Vec<SeriesId>>),
    /// Chunks take the place of chunks, and of the settled and frozen runs where `sealed_commit` is set.
    Chunks { parts: Arc<Vec<NewChunks>>, edit: u64 },
    /// Runs of a file take the place of the frozen runs, or of those of other files.
    Settled { runs: Arc<Vec<(SeriesId, Vec<Arc<Run>>)>>, replaced: Arc<Vec<u64>>, edit: u64 },
    /// Receipts older than this wall clock answer no retry any more.
    Forget { before_ms: i64 },
}

/// One series' part of a publication of chunks.
#[derive(Clone, Debug)]
pub struct NewChunks {
    pub series_id: SeriesId,
    pub added: Vec<Arc<ChunkFile>>,
    pub removed: Vec<u64>,
    /// Rows of commits up to this one are in chunks now; `None` for a compaction, which leaves the tail alone.
    pub sealed_commit: Option<u64>,
}

impl Structural {
    /// Applies the change; rows seen by a reader stay the same.
    pub fn apply(&self, state: &mut StoreState) {
        let change = |state: &mut StoreState, id: SeriesId, change: &dyn Fn(&mut SeriesState)| {
            if let Some(series) = state.series.get(&id) {
                let mut next = series.as_ref().clone();
                change(&mut next);
                state.series.insert(id, Arc::new(next));
            }
        };
        match self {
            Structural::Freeze(ids) => {
                for id in ids.iter() {
                    change(state, *id, &|series| {
                        let runs = std::mem::take(&mut series.runs);
                        series.frozen.extend(runs);
                    });
                }
            }
            Structural::Thaw(ids) => {
                for id in ids.iter() {
                    change(state, *id, &|series| {
                        let runs = std::mem::take(&mut series.runs);
                        series.runs = std::mem::take(&mut series.frozen);
                        series.runs.extend(runs);
                    });
                }
            }
            Structural::Chunks { parts, edit } => {
                state.edit = state.edit.max(*edit);
                for part in parts.iter() {
                    change(state, part.series_id, &|series| {
                        if let Some(commit) = part.sealed_commit {
                            series.settled.clear();
                            series.frozen.clear();
                            series.sealed_commit = series.sealed_commit.max(commit);
                        }
                        let kept = series.chunks.iter().filter(|c| !part.removed.contains(&c.record.id));
                        series.chunks = Arc::new(kept.chain(&part.added).cloned().collect());
                        series.tombstones = Arc::new(series.needed_tombstones());
                    });
                }
            }
            Structural::Settled { runs, replaced, edit } => {
                state.edit = state.edit.max(*edit);
                for (id, runs) in runs.iter() {
                    change(state, *id, &|series| {
                        if replaced.is_empty() {
                            series.frozen.clear();
                        }
                        series.settled.retain(|run| run.file.is_none_or(|file| !replaced.contains(&file)));
                        series.settled.extend(runs.iter().cloned());
                        series.settled.sort_by_key(|run| run.commit_lo);
                    });
                }
            }
            Structural::Forget { before_ms } => {
                state.receipts.retain(|_, receipt| receipt.wall_ms >= *before_ms);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(ts: &[i64], value: i64, commit: u64) -> Run {
        Run::new(Rows { ts: ts.to_vec(), columns: vec![vec![value; ts.len()]] }, commit, commit).unwrap()
    }

    fn one(ts: i64, value: i64) -> Rows {
        Rows { ts: vec![ts], columns: vec![vec![value]] }
    }

    fn series() -> SeriesState {
        let spec = crate::types::SeriesSpec::of_key(&SeriesKey::parse("scalar/metric/A/1m/x").unwrap());
        SeriesState::new(1, Arc::new(spec.resolve().unwrap()), 1)
    }

    #[test]
    fn rows_that_come_one_by_one_stay_one_run_and_are_not_copied() {
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
        // What a reader took before stays what it was.
        for (rows, then) in before.iter().enumerate().skip(1).step_by(97) {
            let run = &then.runs[0];
            assert_eq!((run.rows(), run.ts_max()), (rows, rows as i64 - 1));
            assert_eq!(run.words(1).last(), Some(&((rows as i64 - 1) * 10)));
            assert_eq!(run.columns().columns[1].capacity(), rows * 8, "a column claims no more than itself");
        }
    }

    #[test]
    fn two_states_that_go_on_from_one_do_not_write_over_each_other() {
        let base = series().with_rows(one(1, 10), 0, 2, 0, &[]).with_rows(one(2, 20), 0, 3, 0, &[]);
        // The first was refused, as on a full disk; the second goes on from the same rows.
        let refused = base.with_rows(one(3, 30), 0, 4, 0, &[]);
        let kept = base.with_rows(one(4, 40), 0, 4, 0, &[]);
        assert_eq!(refused.runs[0].words(1), [10, 20, 30]);
        assert_eq!(kept.runs[0].words(1), [10, 20, 40]);
        assert_eq!(kept.with_rows(one(5, 50), 0, 5, 0, &[]).runs[0].words(1), [10, 20, 40, 50]);
        assert_eq!(base.runs[0].timestamps(), [1, 2]);
    }

    #[test]
    fn late_rows_do_not_leave_a_run_each() {
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
    fn a_row_behind_a_fence_or_a_delete_begins_a_run() {
        let fenced = series().with_rows(one(1, 10), 0, 2, 0, &[]).with_rows(one(2, 20), 0, 4, 0, &[3]);
        assert_eq!(fenced.runs.len(), 2);
        let deleted = series().with_rows(one(1, 10), 0, 2, 0, &[]).without_range((0, 0), 0, 3, 0, &[]);
        assert_eq!(deleted.with_rows(one(2, 20), 0, 4, 0, &[]).runs.len(), 1, "it hides nothing, so it is not kept");
        let deleted = series().with_rows(one(1, 10), 0, 2, 0, &[]).with_rows(one(2, 20), 0, 3, 0, &[]);
        let deleted = deleted.without_range((2, 9), 1, 4, 0, &[]).with_rows(one(3, 30), 0, 5, 0, &[]);
        assert_eq!(deleted.runs.len(), 2);
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
