//! Chunks that may become one, and why they would.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::Result;
use crate::store::publish::seal::SealInterval;
use crate::store::read::chunk::{ChunkFile, MapCache};
use crate::store::read::merge::Merge;
use crate::store::read::merge_source::MergeSource;
use crate::store::read::series_state::SeriesState;
use crate::store::read::tombstone::Tombstone;
use crate::types::width::narrow;

/// Chunks of one partition between two snapshots from which they are merged into one.
pub const CHUNKS_MAX: usize = 8;

/// Percent of a partition's chunk bytes that may be garbage.
pub const GARBAGE_PERCENT: u64 = 30;

/// Bytes of chunks that may be rewritten to get rid of one delete, and the least bytes that a group counts as: 256
/// deletes over a small group, more over a larger one. Each costs every reader time and is a file.
const BYTES_PER_DELETE: u64 = 64 << 10;

const GROUP_BYTES_MIN: u64 = 16 << 20;

/// Chunks that may become one.
pub struct CompactionGroup {
    pub partition: String,
    pub interval: SealInterval,
    pub chunks: Vec<Arc<ChunkFile>>,
}

/// Why a group is to become one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionReason {
    /// The group has too many chunks.
    pub too_many_chunks: bool,
    /// Too many of its bytes are garbage.
    pub too_much_garbage: bool,
    /// Too many deletes hide rows of the group, and one chunk replaces all of them.
    pub deletes: bool,
    /// The chunk would be the partition as of this commit.
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

    /// Rows that no newer chunk and no delete hides.
    pub fn live_rows(&self, series: &SeriesState, cache: &Arc<MapCache>) -> Result<u64> {
        let mut spans: Vec<(i64, i64)> = self.chunks.iter().map(|c| (c.record.ts_min, c.record.ts_max)).collect();
        spans.sort_unstable();
        let apart = spans.windows(2).all(|pair| matches!(pair, [(_, end), (start, _)] if end < start));
        if apart && self.tombstones(series).is_empty() {
            return Ok(self.rows());
        }
        self.merge(series, cache).count_rows()
    }

    /// Why the group is to become one chunk. With `full` more than one chunk or any garbage is enough.
    pub fn due(&self, series: &SeriesState, garbage_bytes: u64, full: bool) -> CompactionReason {
        let tombstones = self.tombstones(series);
        // The chunk is the partition as of the last delete, unless rows came before that delete from elsewhere.
        let last_delete = tombstones.iter().map(|t| t.commit).max();
        let is_own = |id: u64| self.chunks.iter().any(|chunk| chunk.record.id == id);
        let others = series.sources().into_iter().filter(|source| match source {
            MergeSource::Chunk(chunk) => chunk.record.partition == self.partition && !is_own(chunk.record.id),
            MergeSource::Run(_) => true,
        });
        let highest = self.chunks.iter().map(|chunk| chunk.record.commit_hi).max().unwrap_or(0);
        let later = others.filter(|source| source.commit_hi() > highest);
        let between = later.map(|source| source.commit_lo().max(highest + 1)).min();
        let as_of = last_delete.filter(|commit| between.is_none_or(|between| *commit < between));
        let bytes = self.bytes();
        CompactionReason {
            too_many_chunks: self.chunks.len() >= if full { 2 } else { CHUNKS_MAX },
            too_much_garbage: garbage_bytes * 100 >= bytes * GARBAGE_PERCENT || (full && garbage_bytes > 0),
            // Only when the new chunk is newer than all of them: it would be due again at once otherwise.
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

/// The chunks of a series by partition and snapshots.
pub fn groups_of(series: &SeriesState, snapshot_commits: &[u64]) -> Vec<CompactionGroup> {
    let mut groups: BTreeMap<(String, SealInterval), Vec<Arc<ChunkFile>>> = BTreeMap::new();
    for chunk in series.chunks.iter() {
        let interval = SealInterval::of(snapshot_commits, chunk.record.commit_hi);
        groups.entry((chunk.record.partition.clone(), interval)).or_default().push(Arc::clone(chunk));
    }
    let group = |((partition, interval), chunks)| CompactionGroup { partition, interval, chunks };
    groups.into_iter().map(group).collect()
}
