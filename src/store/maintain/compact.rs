//! Compaction: fewer chunks, and less garbage in them.
//!
//! - A compaction merges all chunks of a slice of a partition between two snapshots into one, or into several of equal
//!   size when they have too many rows for one. It reads the new chunks back and compares them with those that they
//!   replace, and only then publishes them, by one edit. It is due from 8 chunks or 30 % garbage on, or when many deletes
//!   apply to few bytes.
//! - Retention is an ordinary delete of what is too old or too much.
//! - Vacuum unlinks files that the manifest no longer names and no one reads. No other file is ever unlinked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use crate::error::{Error, Result};
use crate::format::chunk::SliceNumber;
use crate::format::manifest::{ChunkRecord, Edit};
use crate::store::maintain::compaction_group::{CompactionGroup, groups_of};
use crate::store::maintain::maintenance::Maintenance;
use crate::store::publish::counters::CompactReport;
use crate::store::publish::publisher::{PublishedFiles, SealedSeries};
use crate::store::publish::slices::ranges_of_merge;
use crate::store::publish::stager::{ChunkWrite, STAGED_MAX, StagedChunk};
use crate::store::read::chunk::{ChunkFile, OpenChunk};
use crate::store::read::series_state::{SeriesId, SeriesState};
use crate::types::width::narrow;

/// Slices that are compacted before the result is published.
const PARTS_MAX: usize = 64;

impl Maintenance {
    /// Compacts what is due among the series whose chunks changed since the last time, and these.
    pub fn compact_changed(&self, also: &[SeriesId]) -> Result<CompactReport> {
        let ids: Vec<SeriesId> = {
            let mut files = self.publisher.lock();
            files.uncompacted.extend(also);
            std::mem::take(&mut files.uncompacted).into_iter().collect()
        };
        if ids.is_empty() { Ok(CompactReport::default()) } else { self.compact(&ids, false) }
    }

    /// Compacts what is due among these series, all when empty; with `full` every slice of a partition that is more than one
    /// chunk without garbage. A damaged chunk is left as it is, so that its readers get the error; the others are compacted.
    pub fn compact(&self, ids: &[SeriesId], full: bool) -> Result<CompactReport> {
        let mut files = self.publisher.lock();
        let started = Instant::now();
        let outcome = self.wal.queue.stop_on_panic(|| self.compact_with(&mut files, ids, full));
        metrics::histogram!("fastk_compaction_seconds").record(started.elapsed());
        self.note(&outcome);
        outcome
    }

    fn compact_with(&self, files: &mut PublishedFiles, ids: &[SeriesId], full: bool) -> Result<CompactReport> {
        let mut report = CompactReport::default();
        let state = self.wal.queue.published();
        // A delete removes rows from files permanently only when it is itself durable.
        self.wal.queue.flush()?;
        self.wal.queue.sync()?;
        // Once each, however often it is listed: its chunks are replaced once.
        let chosen: BTreeSet<SeriesId> =
            if ids.is_empty() { state.series.keys().copied().collect() } else { ids.iter().copied().collect() };
        let mut parts = Vec::new();
        let mut written = Vec::new();
        let mut staged = 0;
        let mut next_file_id = files.manifest.contents.next_file_id;
        let mut failed = None;
        let mut live_counts = self.live_counts.lock().unwrap_or_else(PoisonError::into_inner);
        live_counts.retain(|id| state.series.contains_key(&id));
        for series in chosen.iter().filter_map(|id| state.series.get(id)) {
            let mut garbage = 0;
            let groups = groups_of(series, &state.snapshot_commits, self.options.chunk_bytes_max);
            let counts = live_counts.of_groups(series, &groups, &self.reads.cache);
            for (group, live) in groups.into_iter().zip(counts) {
                report.partitions_considered += 1;
                let first = next_file_id;
                match live.and_then(|live| self.compact_group(series, &group, live, full, &mut next_file_id)) {
                    Ok(CompactionOutcome::Left { garbage_bytes }) => garbage += garbage_bytes,
                    Ok(CompactionOutcome::Written { chunks, live }) => {
                        staged += chunks.staged.len();
                        written.push(CompactedGroup { series: Arc::clone(series), group, chunks, live });
                    }
                    Err(error) => {
                        self.publisher.remove_unpublished(series.id, first);
                        tracing::error!(series = %series.def.key, partition = group.partition, %error, "not compacted");
                        failed.get_or_insert(error);
                    }
                }
                if staged >= STAGED_MAX {
                    staged = 0;
                    parts.extend(self.place_compacted(std::mem::take(&mut written), &mut report, &mut failed));
                }
            }
            self.publisher.counters.set_garbage(series.id, garbage);
            if parts.len() >= PARTS_MAX {
                // The edit says up to which number files exist, so that it has all of them.
                staged = 0;
                parts.extend(self.place_compacted(std::mem::take(&mut written), &mut report, &mut failed));
                self.publish_compacted(files, std::mem::take(&mut parts), next_file_id)?;
            }
        }
        parts.extend(self.place_compacted(written, &mut report, &mut failed));
        if !parts.is_empty() {
            self.publish_compacted(files, parts, next_file_id)?;
        }
        self.publisher.counters.add_compaction(report);
        match failed {
            None => Ok(report),
            Some(error) => Err(error),
        }
    }

    /// Gives the new chunks their names and compares those of each group with what they replace. Returns the correct ones;
    /// the chunks of the others stay as they are.
    fn place_compacted(
        &self,
        written: Vec<CompactedGroup>,
        report: &mut CompactReport,
        failed: &mut Option<Error>,
    ) -> Vec<(SealedSeries, Option<u64>, Arc<SeriesState>)> {
        let mut staged = Vec::new();
        let mut places = Vec::new();
        for CompactedGroup { series, group, chunks, live } in written {
            staged.extend(chunks.staged);
            places.push((series, group, chunks.records, live));
        }
        let placed = self.publisher.stager.place_chunks(staged);
        let mut parts = Vec::new();
        for (series, group, records, live) in places {
            let checked = placed.clone().and_then(|()| self.check_compacted(&series, &group, &records, live));
            if let Err(error) = checked {
                records.iter().for_each(|record| self.publisher.remove_unpublished_chunk(record));
                tracing::error!(series = %series.def.key, partition = group.partition, %error, "not compacted");
                failed.get_or_insert(error);
                continue;
            }
            report.partitions_compacted += 1;
            report.chunks_removed += group.chunks.len() as u64;
            report.chunks_written += records.len() as u64;
            report.bytes_before += group.bytes();
            report.bytes_after += records.iter().map(|record| record.file_bytes).sum::<u64>();
            let part =
                SealedSeries { series_id: series.id, added: records, removed: group.chunks, tombstones: Vec::new() };
            parts.push((part, None, series));
        }
        parts
    }

    /// Tombstones that are no longer needed are worked out for all parts of a series together.
    fn publish_compacted(
        &self,
        files: &mut PublishedFiles,
        parts: Vec<(SealedSeries, Option<u64>, Arc<SeriesState>)>,
        next_file_id: u64,
    ) -> Result<()> {
        let mut joined: BTreeMap<SeriesId, (SealedSeries, Option<u64>, Arc<SeriesState>)> = BTreeMap::new();
        for (part, commit, series) in parts {
            match joined.get_mut(&series.id) {
                Some((whole, ..)) => {
                    whole.added.extend(part.added);
                    whole.removed.extend(part.removed);
                }
                None => {
                    joined.insert(series.id, (part, commit, series));
                }
            }
        }
        // Deletes decided meanwhile are in the log only, and stay there.
        for (part, _, series) in joined.values_mut() {
            part.tombstones = self.publisher.tombstones_after(series.as_ref().clone(), &part.added, &part.removed);
        }
        let ids: Vec<SeriesId> = joined.keys().copied().collect();
        let published =
            self.publisher.publish_chunks(files, joined.into_values().collect(), Edit::default(), next_file_id);
        if published.is_err() {
            let first = files.manifest.contents.next_file_id;
            ids.iter().for_each(|id| self.publisher.remove_unpublished(*id, first));
        }
        published
    }

    fn compact_group(
        &self,
        series: &Arc<SeriesState>,
        group: &CompactionGroup,
        live: u64,
        full: bool,
        next_file_id: &mut u64,
    ) -> Result<CompactionOutcome> {
        let due = group.due(series, live, full);
        if !due.any() {
            return Ok(CompactionOutcome::Left { garbage_bytes: group.garbage_bytes(live) });
        }
        let mut chunks = NewChunkFiles::default();
        if live == 0 {
            return Ok(CompactionOutcome::Written { chunks, live });
        }
        let times = group.times();
        let merge = group.merge(series, &self.reads.cache);
        let ranges = ranges_of_merge(merge, live, group.rows_max, times)?;
        let count: u32 = narrow(ranges.len());
        for (number, range) in (1..).zip(ranges) {
            let write = ChunkWrite {
                partition: &group.partition,
                range,
                sources: group.sources(),
                tombstones: group.tombstones(series),
                as_of: due.as_of,
                after: 0,
                replaces: group.chunks.iter().map(|chunk| chunk.record.id).collect(),
                slice: SliceNumber { number, count },
            };
            if let Some(chunk) = self.publisher.stager.stage_chunk(series, write, next_file_id)? {
                chunks.records.push(chunk.record.clone());
                chunks.staged.push(chunk);
            }
            if chunks.staged.len() >= STAGED_MAX {
                self.publisher.stager.place_chunks(std::mem::take(&mut chunks.staged))?;
            }
        }
        Ok(CompactionOutcome::Written { chunks, live })
    }

    /// Reads the new chunks back and compares them, cell by cell, with what they replace.
    fn check_compacted(
        &self,
        series: &SeriesState,
        group: &CompactionGroup,
        added: &[ChunkRecord],
        live: u64,
    ) -> Result<()> {
        // Without a live row there is no new chunk.
        let rows: u64 = added.iter().map(|record| record.rows).sum();
        let wrong = |what: String| {
            Error::internal(format!(
                "compaction of {} {} produced {what}; nothing was changed",
                series.def.key, group.partition
            ))
        };
        if rows != live {
            return Err(wrong(format!("{rows} rows instead of {live}")));
        }
        if live == 0 {
            return Ok(());
        }
        let mut old = group.merge(series, &self.reads.cache);
        let mut records = added.iter();
        let mut open = None;
        let mut position = 0;
        let mut row = 0;
        let mut block = None;
        while let Some(piece) = old.next_piece()? {
            let mut lo = 0;
            while lo < piece.rows() {
                let current = match (block.take(), &open) {
                    (Some(current), _) => current,
                    (None, Some(chunk)) => OpenChunk::block(chunk, position, &series.def)?,
                    (None, None) => {
                        let record = records.next().ok_or_else(|| wrong("chunks with fewer rows".to_owned()))?;
                        position = 0;
                        let chunk = Arc::new(ChunkFile::new(&self.root, record.clone())).open_uncached()?;
                        open.insert(chunk).block(position, &series.def)?
                    }
                };
                let count = (piece.rows() - lo).min(current.rows() - row);
                let same = (0..=series.def.columns.len()).all(|column| {
                    piece.block().column(column).slice(lo, count) == current.column(column).slice(row, count)
                });
                if !same || count == 0 {
                    return Err(wrong(format!("other cells in block {position}")));
                }
                lo += count;
                row += count;
                if row < current.rows() {
                    block = Some(current);
                    continue;
                }
                row = 0;
                position += 1;
                open = open.filter(|chunk| position < chunk.blocks().len());
            }
        }
        Ok(())
    }
}

/// What became of a group.
enum CompactionOutcome {
    Left {
        garbage_bytes: u64,
    },
    /// The replacing chunks are written, or none is needed: none of the rows is read.
    Written {
        chunks: NewChunkFiles,
        live: u64,
    },
}

/// The chunks that are to replace a group, in the order of time, and those of them that have no name yet.
#[derive(Default)]
struct NewChunkFiles {
    records: Vec<ChunkRecord>,
    staged: Vec<StagedChunk>,
}

/// A group and the chunks that are to replace it.
struct CompactedGroup {
    series: Arc<SeriesState>,
    group: CompactionGroup,
    chunks: NewChunkFiles,
    /// Rows that the chunks have to have.
    live: u64,
}
