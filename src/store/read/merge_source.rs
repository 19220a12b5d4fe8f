//! What a merge reads from: a chunk or a run, and the ranges of it that deletes hide.

use std::sync::Arc;

use arrow::buffer::Buffer;

use crate::error::Result;
use crate::store::read::chunk::{ChunkFile, MapCache};
use crate::store::read::run::Run;
use crate::store::read::tombstone::Tombstone;
use crate::types::cells;

/// Something sorted to read from.
#[derive(Clone, Debug)]
pub enum MergeSource {
    Chunk(Arc<ChunkFile>),
    Run(Arc<Run>),
}

impl MergeSource {
    pub fn ts_min(&self) -> i64 {
        match self {
            MergeSource::Chunk(chunk) => chunk.record.ts_min,
            MergeSource::Run(run) => run.ts_min(),
        }
    }

    pub fn ts_max(&self) -> i64 {
        match self {
            MergeSource::Chunk(chunk) => chunk.record.ts_max,
            MergeSource::Run(run) => run.ts_max(),
        }
    }

    /// Highest commit inside.
    pub fn commit_hi(&self) -> u64 {
        match self {
            MergeSource::Chunk(chunk) => chunk.record.commit_hi,
            MergeSource::Run(run) => run.commit_hi,
        }
    }

    /// Lowest commit inside.
    pub fn commit_lo(&self) -> u64 {
        match self {
            MergeSource::Chunk(chunk) => chunk.record.commit_lo,
            MergeSource::Run(run) => run.commit_lo,
        }
    }

    pub fn rows(&self) -> u64 {
        match self {
            MergeSource::Chunk(chunk) => chunk.record.rows,
            MergeSource::Run(run) => run.rows() as u64,
        }
    }
}

/// Ranges that tombstones hide from one source, sorted and apart, within the range of the merge.
pub fn hidden_ranges(source: &MergeSource, tombstones: &[Tombstone], start: i64, end: i64) -> Vec<(i64, i64)> {
    let hidden: Vec<(i64, i64)> = tombstones
        .iter()
        .filter(|t| t.commit > source.commit_hi() && t.start <= end && t.end >= start)
        .map(|t| (t.start, t.end))
        .collect();
    coalesce(hidden)
}

/// Closed ranges sorted, with those that touch made one.
pub fn coalesce(mut ranges: Vec<(i64, i64)>) -> Vec<(i64, i64)> {
    ranges.sort_unstable();
    let mut joined: Vec<(i64, i64)> = Vec::with_capacity(ranges.len());
    for (from, to) in ranges {
        match joined.last_mut() {
            Some(last) if from <= last.1.saturating_add(1) => last.1 = last.1.max(to),
            _ => joined.push((from, to)),
        }
    }
    joined
}

/// For ascending `wanted`, sets `found[i]` where the timestamp is stored in `source` and not hidden.
pub fn mark_present(
    source: &MergeSource,
    tombstones: &[Tombstone],
    cache: &MapCache,
    timestamps: &[i64],
    found: &mut [bool],
) -> Result<()> {
    let (Some(first), Some(last)) = (timestamps.first(), timestamps.last()) else { return Ok(()) };
    if source.ts_min() > *last || source.ts_max() < *first {
        return Ok(());
    }
    let hidden = hidden_ranges(source, tombstones, *first, *last);
    let mut mark = |stored: &[i64]| {
        let (Some(low), Some(high)) = (stored.first(), stored.last()) else { return };
        let mut at = timestamps.partition_point(|ts| ts < low);
        let mut row = 0;
        while let Some(ts) = timestamps.get(at).filter(|ts| *ts <= high) {
            row += cells::from(stored, row).partition_point(|stored| stored < ts);
            let there = stored.get(row) == Some(ts) && !hidden.iter().any(|(from, to)| from <= ts && ts <= to);
            if let (true, Some(slot)) = (there, found.get_mut(at)) {
                *slot = true;
            }
            at += 1;
        }
    };
    match source {
        MergeSource::Run(run) => mark(run.timestamps()),
        MergeSource::Chunk(chunk) => {
            let open = chunk.open(cache)?;
            for (position, block) in open.blocks().iter().enumerate() {
                let from = timestamps.partition_point(|ts| *ts < block.ts_min);
                if timestamps.get(from).is_some_and(|ts| *ts <= block.ts_max) {
                    let stored: Buffer = open.timestamps(position)?;
                    mark(stored.typed_data::<i64>());
                }
            }
        }
    }
    Ok(())
}
