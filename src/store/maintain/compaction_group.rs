//! Chunks that may be merged, and why they would.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::Result;
use crate::store::publish::seal::SealInterval;
use crate::store::publish::slices::{rows_max, slices_of};
use crate::store::read::chunk::{ChunkFile, MapCache};
use crate::store::read::merge::Merge;
use crate::store::read::merge_source::MergeSource;
use crate::store::read::series_state::{SeriesId, SeriesState};
use crate::store::read::tombstone::Tombstone;
use crate::types::OrderRule;
use crate::types::width::narrow;

/// Chunks of one slice of a partition between two snapshots from which on they are merged.
pub const CHUNKS_MAX: u64 = 8;

/// Percent of the bytes of these chunks that may be garbage.
pub const GARBAGE_PERCENT: u64 = 30;

/// Bytes of chunks that may be rewritten to get rid of one delete, and the least bytes that a group counts as: 256
/// deletes over a small group, more over a larger one. Each costs every reader time and is a file.
const BYTES_PER_DELETE: u64 = 64 << 10;

const GROUP_BYTES_MIN: u64 = 16 << 20;

/// Chunks of one slice of a partition between two snapshots. They may become one chunk, or several when they have too many
/// rows.
pub struct CompactionGroup {
    pub partition: String,
    pub interval: SealInterval,
    pub chunks: Vec<Arc<ChunkFile>>,
    /// Most rows of a chunk.
    pub rows_max: u64,
}

/// Why a group is to be merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionReason {
    /// The group has too many chunks.
    pub too_many_chunks: bool,
    /// Too many of its bytes are garbage.
    pub too_much_garbage: bool,
    /// Too many deletes hide rows of the group, and new chunks replace all of them.
    pub deletes: bool,
    /// The chunks would be their part of the partition as of this commit.
    pub as_of: Option<u64>,
}

impl CompactionReason {
    pub fn any(self) -> bool {
        self.too_many_chunks || self.too_much_garbage || self.deletes
    }
}

impl CompactionGroup {
    pub fn bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.record.file_bytes).sum()
    }

    pub fn rows(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.record.rows).sum()
    }

    pub fn sources(&self) -> Vec<MergeSource> {
        self.chunks.iter().cloned().map(MergeSource::Chunk).collect()
    }

    /// Deletes that hide rows of these chunks.
    pub fn tombstones(&self, series: &SeriesState) -> Vec<Tombstone> {
        let hits = |t: &Tombstone| {
            self.chunks.iter().any(|chunk| {
                let record = &chunk.record;
                record.commit_hi < t.commit && record.ts_min <= t.end && t.start <= record.ts_max
            })
        };
        self.interval.tombstones(series).into_iter().filter(hits).collect()
    }

    pub fn merge(&self, series: &SeriesState, cache: &Arc<MapCache>) -> Merge {
        let tombstones = Arc::new(self.tombstones(series));
        let (def, cache) = (Arc::clone(&series.def), Arc::clone(cache));
        Merge::new(self.sources(), tombstones, def, cache, (i64::MIN, i64::MAX), false)
    }

    /// First and last timestamp.
    pub fn times(&self) -> (i64, i64) {
        let times = self.chunks.iter().map(|chunk| (chunk.record.ts_min, chunk.record.ts_max));
        times.fold((i64::MAX, i64::MIN), |all, (first, last)| (all.0.min(first), all.1.max(last)))
    }

    /// Whether no two chunks span the same times.
    fn is_apart(&self) -> bool {
        let mut spans: Vec<(i64, i64)> = self.chunks.iter().map(|c| (c.record.ts_min, c.record.ts_max)).collect();
        spans.sort_unstable();
        spans.windows(2).all(|pair| matches!(pair, [(_, end), (start, _)] if end < start))
    }

    /// Whether no chunk hides rows of another one, and no delete rows of them.
    fn has_all_rows(&self, series: &SeriesState) -> bool {
        let is_without_key = series.def.order == OrderRule::Arrival;
        (is_without_key || self.is_apart()) && self.tombstones(series).is_empty()
    }

    /// Rows that no newer chunk and no delete hides.
    pub fn live_rows(&self, series: &SeriesState, cache: &Arc<MapCache>) -> Result<u64> {
        if self.has_all_rows(series) { Ok(self.rows()) } else { self.merge(series, cache).count_rows() }
    }

    /// The chunks that rows become.
    pub fn chunks_of(&self, live_rows: u64) -> u64 {
        live_rows.div_ceil(self.rows_max)
    }

    /// Why the group is to be merged. With `full` chunks that need not be, or any garbage, are enough.
    pub fn due(&self, series: &SeriesState, live_rows: u64, full: bool) -> CompactionReason {
        let tombstones = self.tombstones(series);
        let garbage_bytes = self.garbage_bytes(live_rows);
        // The chunks are the slice as of the last delete, unless rows came before that delete from elsewhere.
        let last_delete = tombstones.iter().map(|t| t.commit).max();
        let is_own = |id: u64| self.chunks.iter().any(|chunk| chunk.record.id == id);
        let (first, last) = self.times();
        let others = series.sources().into_iter().filter(|source| match source {
            MergeSource::Chunk(chunk) => {
                let record = &chunk.record;
                let spans_same = record.ts_min <= last && first <= record.ts_max;
                record.partition == self.partition && spans_same && !is_own(record.id)
            }
            MergeSource::Run(_) => true,
        });
        let highest = self.chunks.iter().map(|chunk| chunk.record.commit_hi).max().unwrap_or(0);
        let later = others.filter(|source| source.commit_hi() > highest);
        let between = later.map(|source| source.commit_lo().max(highest + 1)).min();
        let as_of = last_delete.filter(|commit| between.is_none_or(|between| *commit < between));
        let (bytes, chunks) = (self.bytes(), self.chunks.len() as u64);
        let needed = self.chunks_of(live_rows).max(1);
        CompactionReason {
            too_many_chunks: if full { chunks > needed || !self.is_apart() } else { chunks + 1 >= needed + CHUNKS_MAX },
            too_much_garbage: garbage_bytes * 100 >= bytes * GARBAGE_PERCENT || (full && garbage_bytes > 0),
            // Only when the new chunks are newer than all of them: they would be due again at once otherwise.
            deletes: as_of.is_some()
                && (tombstones.len() as u64).saturating_mul(BYTES_PER_DELETE) >= bytes.max(GROUP_BYTES_MIN),
            as_of,
        }
    }

    /// Bytes of the files that hold nothing readable.
    pub fn garbage_bytes(&self, live_rows: u64) -> u64 {
        let (bytes, rows) = (u128::from(self.bytes()), u128::from(self.rows().max(1)));
        let dead = u128::from(self.rows().saturating_sub(live_rows));
        narrow(bytes * dead / rows)
    }
}

/// Live rows of groups, so that a check reads those groups only that changed since the last one.
#[derive(Debug, Default)]
pub struct LiveRowCounts(BTreeMap<SeriesId, Vec<LiveRowCount>>);

/// Live rows of the group of these chunks under these deletes.
#[derive(Debug)]
struct LiveRowCount {
    chunks: Vec<u64>,
    tombstones: Vec<Tombstone>,
    rows: u64,
}

impl LiveRowCounts {
    /// The live rows of each group of a series, in their order. Other groups of the series are forgotten.
    pub fn of_groups(
        &mut self,
        series: &SeriesState,
        groups: &[CompactionGroup],
        cache: &Arc<MapCache>,
    ) -> Vec<Result<u64>> {
        let known = self.0.remove(&series.id).unwrap_or_default();
        let mut counts = Vec::new();
        let count = |group: &CompactionGroup| {
            if group.has_all_rows(series) {
                return Ok(group.rows());
            }
            let chunks: Vec<u64> = group.chunks.iter().map(|chunk| chunk.record.id).collect();
            let tombstones = group.tombstones(series);
            let same = known.iter().find(|known| known.chunks == chunks && known.tombstones == tombstones);
            let rows = match same {
                Some(known) => known.rows,
                None => group.live_rows(series, cache)?,
            };
            counts.push(LiveRowCount { chunks, tombstones, rows });
            Ok(rows)
        };
        let found = groups.iter().map(count).collect();
        if !counts.is_empty() {
            self.0.insert(series.id, counts);
        }
        found
    }

    /// Forgets series that do not exist any more.
    pub fn retain(&mut self, exists: impl Fn(SeriesId) -> bool) {
        self.0.retain(|id, _| exists(*id));
    }
}

/// The chunks of a series by partition, snapshots and slice, where cells of `chunk_bytes_max` bytes fit into a chunk. All
/// chunks of a partition make up its slices, so that those on both sides of a snapshot are cut alike.
pub fn groups_of(series: &SeriesState, snapshot_commits: &[u64], chunk_bytes_max: u64) -> Vec<CompactionGroup> {
    let rows_max = rows_max(&series.def, chunk_bytes_max);
    let mut partitions: BTreeMap<&str, Vec<Arc<ChunkFile>>> = BTreeMap::new();
    for chunk in series.chunks.iter() {
        partitions.entry(&chunk.record.partition).or_default().push(Arc::clone(chunk));
    }
    let mut groups = Vec::new();
    for (partition, chunks) in partitions {
        let mut intervals: BTreeMap<(SealInterval, usize), Vec<Arc<ChunkFile>>> = BTreeMap::new();
        for (slice, chunks) in slices_of(chunks, rows_max).into_iter().enumerate() {
            for chunk in chunks {
                let interval = SealInterval::of(snapshot_commits, chunk.record.commit_hi);
                intervals.entry((interval, slice)).or_default().push(chunk);
            }
        }
        let group =
            |((interval, _), chunks)| CompactionGroup { partition: partition.to_owned(), interval, chunks, rows_max };
        groups.extend(intervals.into_iter().map(group));
    }
    groups
}
