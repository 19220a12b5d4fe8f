//! Overlaps: which chunks of a partition span the same times, which one takes precedence, and what compaction would do.
//!
//! Overlaps are normal: late rows become a chunk of their own, and the newer chunk takes precedence where both have a
//! row. They cost readers a merge, so compaction removes them in time.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;

use crate::disk::DiskPath;
use crate::error::Result;
use crate::store::check::verify::manifest;
use crate::store::check::verify::read_file::check_is_store;
use crate::store::maintain::compaction_group::{CHUNKS_MAX, CompactionGroup, GARBAGE_PERCENT, groups_of};
use crate::store::open::recover::state_of;
use crate::store::read::chunk::{ChunkFile, MapCache};
use crate::store::read::series_state::SeriesState;
use crate::store::read::store_state::StoreState;

/// Most partitions of one report.
const PARTITIONS_MAX: usize = 1_000;

/// Most overlapping pairs reported of one partition.
const PAIRS_MAX: usize = 100;

/// Chunks that a check from outside keeps mapped.
const MAPS_MAX: usize = 64;

/// A chunk of a partition that has several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct OverlapChunk {
    pub id: u64,
    /// Path below the data directory.
    pub file: String,
    pub rows: u64,
    pub bytes: u64,
    pub ts_min: i64,
    pub ts_max: i64,
    /// Its rows are those of these commits.
    pub commit_lo: u64,
    pub commit_hi: u64,
}

/// Two chunks that span the same times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct OverlapPair {
    pub older: u64,
    /// Its row is the one that is read where both have one.
    pub newer: u64,
    /// The times both span.
    pub ts_min: i64,
    pub ts_max: i64,
}

/// A partition with more than one chunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Overlap {
    pub series: String,
    pub partition: String,
    /// Oldest commits first.
    pub chunks: Vec<OverlapChunk>,
    /// The first hundred pairs.
    pub pairs: Vec<OverlapPair>,
    /// Rows in the files; those of them that a newer chunk or a delete hides.
    pub rows: u64,
    pub rows_hidden: u64,
    /// Whether background compaction would merge something here.
    pub due: bool,
    /// What it would do, and why; one sentence for each slice, and each stretch between named snapshots: it never
    /// merges over them.
    pub compaction: Vec<String>,
}

/// Every partition with more than one chunk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct OverlapReport {
    /// Partitions with more than one chunk, and those of them whose chunks span the same times.
    pub partitions: u64,
    pub overlapping: u64,
    /// The first 1,000 of them.
    pub overlaps: Vec<Overlap>,
}

/// Explains the store in `root` by its manifest, without its lock; `chunk_bytes_max` is the setting with which it is
/// opened. Rows that are only in the log are no chunks.
///
/// # Errors
/// `not_found` when there is no store; `unsupported_format`, `io`, `corrupt_data` for an unreadable manifest.
pub fn overlaps(root: &DiskPath, chunk_bytes_max: u64) -> Result<OverlapReport> {
    check_is_store(root)?;
    let contents = manifest::read(root)?.contents;
    let state = state_of(root, &contents, contents.base_commit)?;
    Ok(explain(&state, &Arc::new(MapCache::new(MAPS_MAX, false)), chunk_bytes_max))
}

pub fn explain(state: &StoreState, cache: &Arc<MapCache>, chunk_bytes_max: u64) -> OverlapReport {
    let mut report = OverlapReport::default();
    for series in state.series.values() {
        let mut partitions: BTreeMap<String, Vec<CompactionGroup>> = BTreeMap::new();
        for group in groups_of(series, &state.snapshot_commits, chunk_bytes_max) {
            partitions.entry(group.partition.clone()).or_default().push(group);
        }
        for (partition, groups) in partitions {
            if groups.iter().map(|group| group.chunks.len()).sum::<usize>() < 2 {
                continue;
            }
            report.partitions += 1;
            let chunks = sorted(&groups);
            let pairs = pairs(&chunks);
            report.overlapping += u64::from(!pairs.is_empty());
            if report.overlaps.len() < PARTITIONS_MAX {
                report.overlaps.push(partition_of(series, partition, &groups, &chunks, pairs, cache));
            }
        }
    }
    report
}

fn sorted(groups: &[CompactionGroup]) -> Vec<Arc<ChunkFile>> {
    let mut chunks: Vec<Arc<ChunkFile>> = groups.iter().flat_map(|group| &group.chunks).cloned().collect();
    chunks.sort_by_key(|chunk| (chunk.record.commit_hi, chunk.record.id));
    chunks
}

fn pairs(chunks: &[Arc<ChunkFile>]) -> Vec<OverlapPair> {
    let mut found = Vec::new();
    for (position, newer) in chunks.iter().enumerate() {
        for older in chunks.iter().take(position) {
            let (a, b) = (&older.record, &newer.record);
            let (ts_min, ts_max) = (a.ts_min.max(b.ts_min), a.ts_max.min(b.ts_max));
            if ts_min <= ts_max && found.len() < PAIRS_MAX {
                found.push(OverlapPair { older: a.id, newer: b.id, ts_min, ts_max });
            }
        }
    }
    found
}

fn partition_of(
    series: &SeriesState,
    partition: String,
    groups: &[CompactionGroup],
    chunks: &[Arc<ChunkFile>],
    pairs: Vec<OverlapPair>,
    cache: &Arc<MapCache>,
) -> Overlap {
    let (mut rows_hidden, mut due, mut compaction) = (0, false, Vec::new());
    for group in groups {
        let place = match group.interval.upper {
            u64::MAX => String::new(),
            upper => format!("before the snapshot at commit {upper}: "),
        };
        let count = group.chunks.len();
        let live = match group.live_rows(series, cache) {
            Ok(live) => live,
            Err(error) => {
                compaction.push(format!("{place}not compacted: {}", error.detail()));
                continue;
            }
        };
        let hidden = group.rows().saturating_sub(live);
        rows_hidden += hidden;
        let garbage = group.garbage_bytes(live);
        let due_now = group.due(series, live, false);
        due |= due_now.any();
        let percent = garbage * 100 / group.bytes().max(1);
        let into = match group.chunks_of(live) {
            0 | 1 => format!("one of {live} rows"),
            chunks => format!("{chunks} of {live} rows together"),
        };
        let what = match (due_now.any(), group.due(series, live, true).any()) {
            (true, _) if live == 0 => format!("{count} chunks will be removed: none of their rows is read any more"),
            (true, _) => {
                let why = match (due_now.too_many_chunks, due_now.too_much_garbage) {
                    (true, _) => format!("{count} chunks, the limit is {CHUNKS_MAX}"),
                    (false, true) => {
                        format!("{percent} % of their bytes are garbage, the limit is {GARBAGE_PERCENT} %")
                    }
                    (false, false) => "many deletes cover them".to_owned(),
                };
                format!("{count} chunks will be compacted into {into} by background maintenance: {why}")
            }
            (false, true) => format!(
                "{count} chunks stay for now ({percent} % garbage); `fastk admin compact` merges them into {into}"
            ),
            (false, false) if count == 1 => "one chunk without garbage: nothing to do".to_owned(),
            (false, false) => format!("{count} chunks without garbage: nothing to do"),
        };
        compaction.push(format!("{place}{what}"));
    }
    let chunk = |chunk: &Arc<ChunkFile>| OverlapChunk {
        id: chunk.record.id,
        file: chunk.name().to_owned(),
        rows: chunk.record.rows,
        bytes: chunk.record.file_bytes,
        ts_min: chunk.record.ts_min,
        ts_max: chunk.record.ts_max,
        commit_lo: chunk.record.commit_lo,
        commit_hi: chunk.record.commit_hi,
    };
    Overlap {
        series: series.def.key.to_string(),
        partition,
        chunks: chunks.iter().map(chunk).collect(),
        pairs,
        rows: chunks.iter().map(|chunk| chunk.record.rows).sum(),
        rows_hidden,
        due,
        compaction,
    }
}
