//! Compaction: fewer chunks, and less garbage in them.
//!
//! - A compaction writes one chunk from all chunks of a partition between two snapshots, reads it back and compares it
//!   with the chunks that it replaces, and only then publishes it. It is due from [`CHUNKS_MAX`] chunks or 30 % garbage
//!   on, or when many deletes apply to few bytes.
//! - Retention is an ordinary delete of what is too old or too much.
//! - Vacuum unlinks files that the manifest no longer names and no one reads. No other file is ever unlinked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use crate::error::{Error, Result};
use crate::format::manifest::{ChunkRecord, Edit};
use crate::store::maintain::compaction_group::{CompactionGroup, groups_of};
use crate::store::maintain::maintenance::Maintenance;
use crate::store::publish::counters::CompactReport;
use crate::store::publish::publisher::{PublishedFiles, SealedSeries};
use crate::store::publish::stager::{ChunkWrite, STAGED_MAX, StagedChunk};
use crate::store::read::chunk::ChunkFile;
use crate::store::read::series_state::{SeriesId, SeriesState};

/// Partitions that are compacted before the result is published.
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

    /// Compacts what is due among these series, all when empty; with `full` every partition that is more than one chunk
    /// without garbage. A damaged chunk is left as it is, so that its readers get the error; the others are compacted.
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
        // Once each, however often it is listed: several chunks are replaced by one.
        let chosen: BTreeSet<SeriesId> =
            if ids.is_empty() { state.series.keys().copied().collect() } else { ids.iter().copied().collect() };
        let mut parts = Vec::new();
        let mut written = Vec::new();
        let mut next_file_id = files.manifest.contents.next_file_id;
        let mut failed = None;
        for series in chosen.iter().filter_map(|id| state.series.get(id)) {
            let mut garbage = 0;
            for group in groups_of(series, &state.snapshot_commits) {
                report.partitions_considered += 1;
                let first = next_file_id;
                match self.compact_group(series, &group, full, &mut next_file_id) {
                    Ok(CompactionOutcome::Left { garbage_bytes }) => garbage += garbage_bytes,
                    Ok(CompactionOutcome::Written { chunk, live }) => {
                        written.push(CompactedChunk { series: Arc::clone(series), group, chunk, live });
                    }
                    Err(error) => {
                        self.publisher.remove_unpublished(series.id, first);
                        tracing::error!(series = %series.def.key, partition = group.partition, %error, "not compacted");
                        failed.get_or_insert(error);
                    }
                }
                if written.len() >= STAGED_MAX {
                    parts.extend(self.place_compacted(std::mem::take(&mut written), &mut report, &mut failed));
                }
            }
            self.publisher.counters.set_garbage(series.id, garbage);
            if parts.len() >= PARTS_MAX {
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

    /// Gives the new chunks their names and compares each with what it replaces. Returns the correct ones; the chunks
    /// of the others stay as they are.
    fn place_compacted(
        &self,
        written: Vec<CompactedChunk>,
        report: &mut CompactReport,
        failed: &mut Option<Error>,
    ) -> Vec<(SealedSeries, Option<u64>, Arc<SeriesState>)> {
        let mut staged = Vec::new();
        let mut places = Vec::new();
        for CompactedChunk { series, group, chunk, live } in written {
            let record = chunk.as_ref().map(|chunk| chunk.record.clone());
            staged.extend(chunk);
            places.push((series, group, record, live));
        }
        let placed = self.publisher.stager.place_chunks(staged);
        let mut parts = Vec::new();
        for (series, group, record, live) in places {
            let checked = placed.clone().and_then(|()| self.check_compacted(&series, &group, record.as_ref(), live));
            if let Err(error) = checked {
                if let Some(record) = &record {
                    self.publisher.remove_unpublished_chunk(record);
                }
                tracing::error!(series = %series.def.key, partition = group.partition, %error, "not compacted");
                failed.get_or_insert(error);
                continue;
            }
            report.partitions_compacted += 1;
            report.chunks_removed += group.chunks.len() as u64;
            report.chunks_written += u64::from(record.is_some());
            report.bytes_before += group.bytes();
            report.bytes_after += record.iter().map(|record| record.file_bytes).sum::<u64>();
            let part = SealedSeries {
                series_id: series.id,
                added: record.into_iter().collect(),
                removed: group.chunks,
                tombstones: Vec::new(),
            };
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
        full: bool,
        next_file_id: &mut u64,
    ) -> Result<CompactionOutcome> {
        let live = group.live_rows(series, &self.reads.cache)?;
        let garbage_bytes = group.garbage_bytes(live);
        let due = group.due(series, garbage_bytes, full);
        if !due.any() {
            return Ok(CompactionOutcome::Left { garbage_bytes });
        }
        let (tombstones, as_of) = (group.tombstones(series), due.as_of);
        let ids: Vec<u64> = group.chunks.iter().map(|chunk| chunk.record.id).collect();
        let span = group.chunks.iter().fold((i64::MAX, i64::MIN), |span, chunk| {
            (span.0.min(chunk.record.ts_min), span.1.max(chunk.record.ts_max))
        });
        let write = ChunkWrite {
            partition: &group.partition,
            range: span,
            sources: group.sources(),
            tombstones,
            as_of,
            after: 0,
            replaces: ids,
        };
        let chunk = if live == 0 { None } else { self.publisher.stager.stage_chunk(series, write, next_file_id)? };
        Ok(CompactionOutcome::Written { chunk, live })
    }

    /// Reads the new chunk back and compares it, cell by cell, with what it replaces.
    fn check_compacted(
        &self,
        series: &SeriesState,
        group: &CompactionGroup,
        added: Option<&ChunkRecord>,
        live: u64,
    ) -> Result<()> {
        // Without a live row there is no new chunk.
        let rows = added.map_or(0, |record| record.rows);
        let wrong = |what: String| {
            Error::internal(format!(
                "compaction of {} {} produced {what}; nothing was changed",
                series.def.key, group.partition
            ))
        };
        if rows != live {
            return Err(wrong(format!("{rows} rows instead of {live}")));
        }
        let Some(record) = added else { return Ok(()) };
        let written = Arc::new(ChunkFile::new(&self.root, record.clone()));
        let mut old = group.merge(series, &self.reads.cache);
        let open = written.open_uncached()?;
        let mut position = 0;
        let mut row = 0;
        let mut block = None;
        while let Some(piece) = old.next_piece()? {
            let mut lo = 0;
            while lo < piece.rows() {
                let current = match block.take() {
                    Some(current) => current,
                    None => open.block(position, &series.def)?,
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
                } else {
                    row = 0;
                    position += 1;
                }
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
    /// The replacing chunk is written, or none is needed: none of its rows is read.
    Written {
        chunk: Option<StagedChunk>,
        live: u64,
    },
}

/// A group and the chunk that is to replace it.
struct CompactedChunk {
    series: Arc<SeriesState>,
    group: CompactionGroup,
    chunk: Option<StagedChunk>,
    /// Rows that the chunk has to have.
    live: u64,
}
