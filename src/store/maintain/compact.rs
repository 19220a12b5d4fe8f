//! Compaction, retention and vacuum: what keeps a store small without anybody noticing.
//!
//! - A compaction writes one chunk from all chunks of a partition between two fences, reads it back beside what it
//!   replaces, and only then publishes it. It is due from [`CHUNKS_MAX`] chunks or 30 % garbage on, or when many
//!   deletes hang over few bytes.
//! - Retention is an ordinary delete of what is too old or too much.
//! - Vacuum unlinks files that the manifest gave up and nobody reads. Nothing else is ever unlinked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use crate::disk;
use crate::error::{Error, ErrorCode, Result};
use crate::format::manifest::{ChunkRecord, Edit};
use crate::planted::{Bug, planted};
use crate::store::facade::{DeleteOutcome, Maintenance, Store, StoreInner, wall_ms};
use crate::store::publish::seal::{ChunkWrite, STAGED_MAX, SealInterval, SealedSeries, StagedChunk};
use crate::store::read::chunk::{ChunkFile, MapCache, chunk_name, series_dir};
use crate::store::read::merge::{Merge, MergeSource};
use crate::store::read::sidecar;
use crate::store::read::state::{SeriesId, SeriesState, Tombstone};
use crate::types::schema::series_not_found;
use crate::types::{SeriesDef, SeriesKey};

/// Chunks of one partition between two fences from which they are merged into one.
pub const CHUNKS_MAX: usize = 8;
/// Percent of a partition's chunk bytes that may be garbage.
pub const GARBAGE_PERCENT: u64 = 30;
/// Bytes of chunks that may be written anew to get rid of one delete, and the bytes a group counts as at least: 256
/// deletes over a small group, more over a larger one. Each costs every reader time and is a file.
const BYTES_PER_DELETE: u64 = 64 << 10;
const GROUP_BYTES_MIN: u64 = 16 << 20;
/// Partitions that are compacted before the result is published.
const PARTS_MAX: usize = 64;

/// What a compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompactReport {
    /// Groups of chunks looked at, and those rewritten.
    pub partitions_considered: u64,
    pub partitions_compacted: u64,
    pub chunks_removed: u64,
    pub chunks_written: u64,
    /// Bytes of the chunk files read, and of those written instead.
    pub bytes_before: u64,
    pub bytes_after: u64,
}

/// What a vacuum did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VacuumReport {
    pub files_removed: u64,
    /// Files given up that a reader still has open.
    pub files_waiting: u64,
    pub bytes_waiting: u64,
}

/// Chunks that may become one.
pub struct CompactionGroup {
    pub partition: String,
    pub interval: SealInterval,
    pub chunks: Vec<Arc<ChunkFile>>,
}

/// Why a group is to become one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionReason {
    /// It has too many chunks.
    pub many: bool,
    /// Too many of its bytes are garbage.
    pub much: bool,
    /// Too many deletes lie over it, and one chunk leaves all of them behind.
    pub deletes: bool,
    /// The chunk would be the partition as of this commit.
    as_of: Option<u64>,
}

impl CompactionReason {
    pub fn any(self) -> bool {
        self.many || self.much || self.deletes
    }
}

impl CompactionGroup {
    pub fn bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.record.file_bytes).sum()
    }

    pub fn rows(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.record.rows).sum()
    }

    fn sources(&self) -> Vec<MergeSource> {
        self.chunks.iter().cloned().map(MergeSource::Chunk).collect()
    }

    /// Deletes that take rows of these chunks.
    pub fn tombstones(&self, series: &SeriesState) -> Vec<Tombstone> {
        let hits = |t: &Tombstone| {
            self.chunks.iter().any(|chunk| {
                let record = &chunk.record;
                record.commit_hi < t.commit && record.ts_min <= t.end && t.start <= record.ts_max
            })
        };
        self.interval.tombstones(series).into_iter().filter(hits).collect()
    }

    fn merge(&self, series: &SeriesState, cache: &Arc<MapCache>) -> Merge {
        let tombstones = Arc::new(self.tombstones(series));
        let (def, cache) = (Arc::clone(&series.def), Arc::clone(cache));
        Merge::new(self.sources(), tombstones, def, cache, (i64::MIN, i64::MAX), false)
    }

    /// Rows that no newer chunk and no delete took.
    pub fn live_rows(&self, series: &SeriesState, cache: &Arc<MapCache>) -> Result<u64> {
        let mut spans: Vec<(i64, i64)> = self.chunks.iter().map(|c| (c.record.ts_min, c.record.ts_max)).collect();
        spans.sort_unstable();
        let apart = spans.windows(2).all(|pair| matches!(pair, [(_, end), (start, _)] if end < start));
        if apart && self.tombstones(series).is_empty() {
            return Ok(self.rows());
        }
        self.merge(series, cache).count_rows()
    }

    /// Whether it is to become one chunk; with `full` as soon as it is more than that or has any garbage.
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
        let between = others.map(|source| source.commit_lo()).filter(|lo| *lo > highest).min().unwrap_or(u64::MAX);
        let as_of = last_delete.filter(|commit| *commit < between);
        let bytes = self.bytes();
        CompactionReason {
            many: self.chunks.len() >= if full { 2 } else { CHUNKS_MAX },
            much: garbage_bytes * 100 >= bytes * GARBAGE_PERCENT || (full && garbage_bytes > 0),
            // Only when the new chunk leaves all of them behind: it would be due again at once otherwise.
            deletes: as_of.is_some()
                && (tombstones.len() as u64).saturating_mul(BYTES_PER_DELETE) >= bytes.max(GROUP_BYTES_MIN),
            as_of,
        }
    }

    /// Bytes of the files that hold nothing anybody can read.
    pub fn garbage_bytes(&self, live_rows: u64) -> u64 {
        let (bytes, rows) = (u128::from(self.bytes()), u128::from(self.rows().max(1)));
        let dead = u128::from(self.rows().saturating_sub(live_rows));
        u64::try_from(bytes * dead / rows).unwrap_or(u64::MAX)
    }
}

/// The chunks of a series by partition and fences.
pub fn groups_of(series: &SeriesState, fences: &[u64]) -> Vec<CompactionGroup> {
    let mut groups: BTreeMap<(String, SealInterval), Vec<Arc<ChunkFile>>> = BTreeMap::new();
    for chunk in series.chunks.iter() {
        let interval = SealInterval::of(fences, chunk.record.commit_hi);
        groups.entry((chunk.record.partition.clone(), interval)).or_default().push(Arc::clone(chunk));
    }
    let group = |((partition, interval), chunks)| CompactionGroup { partition, interval, chunks };
    groups.into_iter().map(group).collect()
}

impl StoreInner {
    /// Compacts what is due among the series whose chunks changed since the last time, and these.
    pub fn compact_changed(&self, also: &[SeriesId]) -> Result<CompactReport> {
        let ids: Vec<SeriesId> = {
            let mut maintenance = self.maintenance();
            maintenance.uncompacted.extend(also);
            std::mem::take(&mut maintenance.uncompacted).into_iter().collect()
        };
        if ids.is_empty() { Ok(CompactReport::default()) } else { self.compact(&ids, false) }
    }

    /// Compacts what is due among these series, all when empty; with `full` every partition that is more than one chunk
    /// without garbage. A damaged chunk is left as it is, for its readers to be told; the others go on.
    pub fn compact(&self, ids: &[SeriesId], full: bool) -> Result<CompactReport> {
        let mut maintenance = self.maintenance();
        let begun = Instant::now();
        let outcome = self.compact_with(&mut maintenance, ids, full);
        metrics::histogram!("fastk_compaction_seconds").record(begun.elapsed());
        self.note_upkeep(&outcome);
        outcome
    }

    fn compact_with(&self, maintenance: &mut Maintenance, ids: &[SeriesId], full: bool) -> Result<CompactReport> {
        let mut report = CompactReport::default();
        let state = self.queue.published();
        // A delete takes rows out of files for good only when it is itself durable.
        self.queue.flush()?;
        self.queue.sync()?;
        // Once each, however often it is named: what takes the place of chunks is one chunk.
        let chosen: BTreeSet<SeriesId> =
            if ids.is_empty() { state.series.keys().copied().collect() } else { ids.iter().copied().collect() };
        let mut parts = Vec::new();
        let mut written = Vec::new();
        let mut next_file_id = maintenance.manifest.contents.next_file_id;
        let mut failed = None;
        for series in chosen.iter().filter_map(|id| state.series.get(id)) {
            let mut garbage = 0;
            for group in groups_of(series, &state.fences) {
                report.partitions_considered += 1;
                let first = next_file_id;
                match self.compact_group(series, &group, full, &mut next_file_id) {
                    Ok(CompactionOutcome::Left { garbage_bytes }) => garbage += garbage_bytes,
                    Ok(CompactionOutcome::Written { chunk, live }) => {
                        written.push(CompactedChunk { series: Arc::clone(series), group, chunk, live });
                    }
                    Err(error) => {
                        self.remove_unpublished(series.id, first);
                        tracing::error!(series = %series.def.key, partition = group.partition, %error, "not compacted");
                        failed.get_or_insert(error);
                    }
                }
                if written.len() >= STAGED_MAX {
                    parts.extend(self.place_compacted(std::mem::take(&mut written), &mut report, &mut failed));
                }
            }
            self.counters.set_garbage(series.id, garbage);
            if parts.len() >= PARTS_MAX {
                self.publish_compacted(maintenance, std::mem::take(&mut parts), next_file_id)?;
            }
        }
        parts.extend(self.place_compacted(written, &mut report, &mut failed));
        if !parts.is_empty() {
            self.publish_compacted(maintenance, parts, next_file_id)?;
        }
        self.counters.add_compaction(report);
        match failed {
            None => Ok(report),
            Some(error) => Err(error),
        }
    }

    /// Gives the new chunks their names and compares each with what it replaces. Gives those that are right; the chunks of
    /// the others stay as they are.
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
        let placed = self.place_chunks(staged);
        let mut parts = Vec::new();
        for (series, group, record, live) in places {
            let checked = placed.clone().and_then(|()| self.check_compacted(&series, &group, record.as_ref(), live));
            if let Err(error) = checked {
                if let Some(record) = &record {
                    self.remove_unpublished_chunk(record);
                }
                tracing::error!(series = %series.def.key, partition = group.partition, %error, "not compacted");
                failed.get_or_insert(error);
                continue;
            }
            report.partitions_compacted += 1;
            report.chunks_removed += group.chunks.len() as u64;
            report.chunks_written += u64::from(record.is_some());
            report.bytes_before += group.bytes();
            report.bytes_after += record.as_ref().map_or(0, |record| record.file_bytes);
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
        maintenance: &mut Maintenance,
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
        // Deletes that came in between are in the log only, and stay there.
        for (part, _, series) in joined.values_mut() {
            part.tombstones = self.tombstones_after(series.as_ref().clone(), &part.added, &part.removed);
        }
        let ids: Vec<SeriesId> = joined.keys().copied().collect();
        let published = self.publish_chunks(maintenance, joined.into_values().collect(), Edit::default(), next_file_id);
        if published.is_err() {
            let first = maintenance.manifest.contents.next_file_id;
            ids.iter().for_each(|id| self.remove_unpublished(*id, first));
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
        let live = group.live_rows(series, &self.cache)?;
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
            replaces: ids,
        };
        let chunk = if live == 0 { None } else { self.stage_chunk(series, write, next_file_id)? };
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
        let rows = added.map_or(0, |record| record.rows);
        let wrong = |what: String| {
            Error::internal(format!(
                "compaction of {} {} gave {what}; nothing was changed",
                series.def.key, group.partition
            ))
        };
        if rows != live {
            return Err(wrong(format!("{rows} rows for {live}")));
        }
        let Some(record) = added else { return Ok(()) };
        let written = Arc::new(ChunkFile::new(&self.root, record.clone()));
        let mut old = group.merge(series, &self.cache);
        let open = written.open_uncached()?;
        let mut position = 0;
        let mut row = 0;
        let mut block = None;
        while let Some(piece) = old.next_piece()? {
            let mut lo = piece.lo;
            while lo < piece.hi {
                let current = match block.take() {
                    Some(current) => current,
                    None => open.block(position, &series.def)?,
                };
                let count = (piece.hi - lo).min(current.rows - row);
                let same = piece.block.columns.columns.iter().zip(&current.columns).all(|(a, b)| {
                    a.typed_data::<i64>().get(lo..lo + count) == b.typed_data::<i64>().get(row..row + count)
                });
                if !same || count == 0 {
                    return Err(wrong(format!("other cells in block {position}")));
                }
                lo += count;
                row += count;
                if row < current.rows {
                    block = Some(current);
                } else {
                    row = 0;
                    position += 1;
                }
            }
        }
        Ok(())
    }

    /// Deletes what retention no longer keeps. `exact` cuts to the row; else only when 5 % more than that is there, so
    /// that background upkeep is not a delete a minute.
    pub fn retain(&self, exact: bool, ids: &[SeriesId]) -> Result<Vec<(SeriesId, DeleteOutcome)>> {
        let mut cuts = Vec::new();
        let mut failed = None;
        let chosen: Vec<SeriesId> = if ids.is_empty() {
            self.queue.published().registered().map(|series| series.id).collect()
        } else {
            ids.to_vec()
        };
        for id in chosen {
            // As it is now: what keeps it may have changed while the series before it were cut.
            let state = self.queue.published();
            let Some(series) = state.series.get(&id).filter(|series| series.dropped_commit.is_none()) else { continue };
            match self.retain_series(series, exact) {
                Ok(None) => {}
                Ok(Some(deleted)) => {
                    self.counters.add_retention(deleted.rows_deleted);
                    cuts.push((id, deleted));
                }
                // Dropped or changed in between: the next time will tell.
                Err(error) if matches!(error.code(), ErrorCode::SeriesNotFound | ErrorCode::CommitConflict) => {}
                Err(error) => {
                    tracing::error!(series = %series.def.key, %error, "retention could not be applied");
                    failed.get_or_insert(error);
                }
            }
        }
        match failed {
            None => Ok(cuts),
            Some(error) => Err(error),
        }
    }

    pub fn retain_series(&self, series: &SeriesState, exact: bool) -> Result<Option<DeleteOutcome>> {
        let Some(end) = self.retention_end(series, exact)? else { return Ok(None) };
        let unchanged = |now: &SeriesState| now.id == series.id && now.def.retention == series.def.retention;
        self.delete_range_if(&series.def.key, (i64::MIN, end), None, unchanged).map(Some)
    }

    /// Last timestamp that retention does not keep.
    fn retention_end(&self, series: &SeriesState, exact: bool) -> Result<Option<i64>> {
        let (Some(retention), Some((first, last))) = (&series.def.retention, series.bounds) else { return Ok(None) };
        let mut end: Option<i64> = None;
        if let Some(age) = retention.max_age_ms()? {
            let age = in_unit(&series.def, age);
            // A wrong clock or a row from the future must not take what is young by the other measure.
            let newest = last.min(in_unit(&series.def, wall_ms()));
            let cut = newest.saturating_sub(age).saturating_sub(1);
            let slack = if exact { 0 } else { age / 20 };
            if first <= cut.saturating_sub(slack) {
                end = Some(cut);
            }
        }
        if let Some(max_rows) = retention.max_rows {
            let slack = if exact { 0 } else { max_rows / 20 };
            if series.rows > max_rows.saturating_add(slack) {
                end = end.max(series.nth_timestamp(&self.cache, series.rows - max_rows)?);
            }
        }
        Ok(end)
    }

    /// Unlinks files the manifest gave up and nobody reads, and gives their ids; for the next edit to record.
    pub fn vacuum_files(&self, maintenance: &mut Maintenance) -> Vec<u64> {
        let mut unlinked = Vec::new();
        for record in maintenance.manifest.contents.waiting.values() {
            // A chunk retired by this process unlinks itself when its last reader lets go.
            if maintenance.is_read(record.id) && !planted(Bug::ReadersIgnored) {
                continue;
            }
            let path = series_dir(&self.root, record.series_id).join(chunk_name(&record.partition, record.id));
            match disk::remove(&path).and_then(|()| sidecar::remove_all(&path)) {
                Ok(()) => unlinked.push(record.id),
                Err(error) => tracing::warn!(%error, "a file that was given up stays behind"),
            }
        }
        for id in &unlinked {
            maintenance.retired.remove(id);
        }
        self.counters.add_vacuum(unlinked.len() as u64);
        unlinked
    }

    /// Unlinks what can be unlinked and records it.
    pub fn vacuum(&self) -> Result<VacuumReport> {
        let mut maintenance = self.maintenance();
        let before = maintenance.manifest.contents.waiting.len();
        // Publishing anything unlinks them.
        let waiting = maintenance.manifest.contents.waiting.keys();
        if waiting.into_iter().any(|id| !maintenance.is_read(*id) || planted(Bug::ReadersIgnored)) {
            self.with_ballast(|| self.publish(&mut maintenance, Edit::default()))?;
        }
        let waiting = &maintenance.manifest.contents.waiting;
        let report = VacuumReport {
            files_removed: (before - waiting.len()) as u64,
            files_waiting: waiting.len() as u64,
            bytes_waiting: waiting.values().map(|record| record.file_bytes).sum(),
        };
        self.counters.set_waiting(report);
        Ok(report)
    }
}

/// What became of a group.
enum CompactionOutcome {
    Left {
        garbage_bytes: u64,
    },
    /// The chunk that replaces it is written, or none is needed: no row of it is read any more.
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

fn in_unit(def: &SeriesDef, ms: i64) -> i64 {
    ms.saturating_mul(def.unit.per_second() / 1_000)
}

impl Store {
    /// Merges chunks of these series (all when empty) where it is due: 8 or more in a partition, 30 % of a partition's
    /// bytes garbage, or many deletes over it; with `full` wherever there is more than one chunk or any garbage. Readers
    /// of the old files are not disturbed.
    ///
    /// # Errors
    /// `series_not_found`; `corrupt_data` when a chunk is damaged: its partition stays as it is.
    pub fn compact(&self, keys: &[SeriesKey], full: bool) -> Result<CompactReport> {
        self.inner.compact(&self.ids_of(keys)?, full)
    }

    /// The same by series id. Ids of series that are gone are passed over.
    ///
    /// # Errors
    /// `corrupt_data` when a chunk is damaged: its partition stays as it is.
    pub fn compact_ids(&self, ids: &[SeriesId], full: bool) -> Result<CompactReport> {
        if ids.is_empty() {
            return Ok(CompactReport::default());
        }
        self.inner.compact(ids, full)
    }

    /// Ids of these series.
    ///
    /// # Errors
    /// `series_not_found`.
    pub fn series_ids(&self, keys: &[SeriesKey]) -> Result<Vec<SeriesId>> {
        self.ids_of(keys)
    }

    /// Unlinks files that were replaced and that no reader holds any more.
    pub fn vacuum(&self) -> Result<VacuumReport> {
        self.inner.vacuum()
    }

    /// Deletes what the retention of these series (all when empty) no longer keeps. Gives what was deleted, by series id.
    ///
    /// The age of a row is measured from the newest row of its series, or from the clock when that row lies in the
    /// future.
    ///
    /// # Errors
    /// `series_not_found`, and those of a delete.
    pub fn apply_retention(&self, keys: &[SeriesKey]) -> Result<Vec<(SeriesId, DeleteOutcome)>> {
        self.inner.retain(true, &self.ids_of(keys)?)
    }

    pub(in crate::store) fn ids_of(&self, keys: &[SeriesKey]) -> Result<Vec<SeriesId>> {
        let state = self.snapshot();
        let id = |key| state.get(key).map(|series| series.id).ok_or_else(|| series_not_found(key));
        keys.iter().map(id).collect()
    }
}
