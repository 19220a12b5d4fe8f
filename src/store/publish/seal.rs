//! Sealing: the tail becomes chunk files.
//!
//! Order of every publication: chunk written, synced, linked, directory synced; tombstone files likewise; then the
//! manifest edit that makes them count; then the state readers see; files nobody needs are unlinked last. A crash
//! between any two steps leaves either files no manifest names or log frames that are replayed over chunks that
//! already have their rows: both are harmless.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use crate::disk::{self, DiskPath, StagedFile};
use crate::error::{Error, ErrorCode, Result};
use crate::format::chunk::{ChunkHead, ChunkSummary, ChunkWriter, block_rows};
use crate::format::coverage::Coverage;
use crate::format::manifest::{ChunkRecord, Edit, SeriesRecord, TombstoneRecord, ViewRecord};
use crate::format::tombstone::{
    DropFile, RegistrationFile, TombstoneFile, encode_drop, encode_registration, encode_tombstone,
};
use crate::format::zone_map::ZoneMap;
use crate::planted::{Bug, planted};
use crate::store::facade::{Maintenance, StoreInner, def_json};
use crate::store::read::chunk::{ChunkFile, chunk_id_of, chunk_name, series_dir};
use crate::store::read::merge::{Merge, MergeSource};
use crate::store::read::sidecar::{self, coverage_path, zone_map_path};
use crate::store::read::state::{NewChunks, SeriesId, SeriesState, Structural, Tombstone, fenced};
use crate::store::wal::commit_queue::FrozenRuns;
use crate::types::{ColumnType, SeriesDef};

/// What a seal did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SealReport {
    pub series_sealed: u64,
    pub chunks_written: u64,
    /// Rows of the chunks written.
    pub rows_sealed: u64,
}

/// One series' part of a publication.
pub struct SealedSeries {
    pub series_id: SeriesId,
    pub added: Vec<ChunkRecord>,
    pub removed: Vec<Arc<ChunkFile>>,
    /// Tombstones that still hide something afterwards.
    pub tombstones: Vec<Tombstone>,
}

/// What goes into a chunk.
pub struct ChunkWrite<'a> {
    pub partition: &'a str,
    /// Closed range of the partition.
    pub range: (i64, i64),
    pub sources: Vec<MergeSource>,
    /// Deletes to take rows away by.
    pub tombstones: Vec<Tombstone>,
    /// The rows are those as of this commit, when it lies behind the last one of the sources.
    pub as_of: Option<u64>,
    pub replaces: Vec<u64>,
}

/// Chunks that are staged before they get their names together: each holds up to three open files.
pub const STAGED_MAX: usize = 64;

/// A chunk that is written and has no name yet.
pub struct StagedChunk {
    pub record: ChunkRecord,
    def: Arc<SeriesDef>,
    /// The chunk, then its sidecars, each with its path to be.
    files: Vec<(StagedFile, DiskPath)>,
}

/// The rows of one partition between two fences, which may become one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SealInterval {
    /// First fence at or behind the commits inside; later deletes must not take rows from it.
    pub upper: u64,
}

impl SealInterval {
    pub fn of(fences: &[u64], commit: u64) -> Self {
        let next =
            if planted(Bug::FencesIgnored) { usize::MAX } else { fences.partition_point(|fence| *fence < commit) };
        Self { upper: fences.get(next).copied().unwrap_or(u64::MAX) }
    }

    /// The deletes that may take rows of the interval away for good.
    pub fn tombstones(self, series: &SeriesState) -> Vec<Tombstone> {
        series.tombstones.iter().filter(|t| t.commit <= self.upper).copied().collect()
    }
}

impl StoreInner {
    /// Moves the tails of these series into chunks, with one manifest edit for all of them.
    pub fn seal(&self, ids: &[SeriesId]) -> Result<SealReport> {
        let mut maintenance = self.maintenance();
        let outcome = self.seal_with(&mut maintenance, ids);
        self.note_upkeep(&outcome);
        outcome
    }

    pub fn seal_with(&self, maintenance: &mut Maintenance, ids: &[SeriesId]) -> Result<SealReport> {
        // Who names a series twice means it once: the same rows in two chunks would be an error of the store.
        let ids: BTreeSet<SeriesId> = ids.iter().copied().collect();
        let ids: Vec<SeriesId> = ids.into_iter().collect();
        let frozen = self.queue.freeze(Some(&ids))?;
        let series: Vec<Arc<SeriesState>> = ids
            .iter()
            .filter_map(|id| frozen.state.series.get(id))
            .filter(|series| series.tail().next().is_some())
            .cloned()
            .collect();
        let outcome = self.seal_frozen(maintenance, &series, &frozen);
        if outcome.is_err() {
            let first = maintenance.manifest.contents.next_file_id;
            series.iter().for_each(|series| self.remove_unpublished(series.id, first));
            self.queue.apply(&mut self.queue.lock(), Structural::Thaw(frozen.ids));
        }
        outcome
    }

    /// Publishes an edit. When the system refuses it halfway nobody knows what of it is on disk: the writer stops, as
    /// it does after a failed write of the log. A full disk, or a file that cannot be created, is noticed before the edit
    /// has a name and only fails this.
    pub fn publish(&self, maintenance: &mut Maintenance, mut edit: Edit) -> Result<u64> {
        // Paths below a directory that was replaced belong to another store.
        self.queue.check_owned()?;
        edit.chunks_unlinked = self.vacuum_files(maintenance);
        let number = maintenance.manifest.publish(edit).inspect_err(|error| {
            let unchanged = error.code() == ErrorCode::StorageFull || error.is_refusal();
            if !unchanged && !planted(Bug::WriterGoesOnAfterEdit) {
                self.queue.stop(error);
            }
        })?;
        self.note_edit(number);
        self.count_runs(maintenance);
        Ok(number)
    }

    /// Takes down what the run files are, so that whoever asks need not wait for maintenance.
    pub fn count_runs(&self, maintenance: &Maintenance) {
        let runs = &maintenance.manifest.contents.runs;
        self.counters.set_runs(runs.values().map(|run| run.bytes).sum(), runs.len() as u64);
    }

    /// Seals series as they were when their runs were frozen.
    pub fn seal_frozen(
        &self,
        maintenance: &mut Maintenance,
        chosen: &[Arc<SeriesState>],
        frozen: &FrozenRuns,
    ) -> Result<SealReport> {
        let mut report = SealReport::default();
        if chosen.is_empty() {
            return Ok(report);
        }
        let begun = Instant::now();
        // Everything frozen must be durable and published before it may reach a chunk.
        self.queue.settled(&frozen.decided)?;
        let (commit, fences) = (frozen.state.commit, &frozen.state.fences);
        let mut next_file_id = maintenance.manifest.contents.next_file_id;
        let mut edit = Edit::default();
        let mut parts = Vec::new();
        disk::create_dirs(&chosen.iter().map(|series| series_dir(&self.root, series.id)).collect::<Vec<_>>())?;
        let mut staged = Vec::new();
        for series in chosen {
            let part = self.stage_chunks(series, commit, fences, &mut next_file_id, &mut staged)?;
            if staged.len() >= STAGED_MAX {
                self.place_chunks(std::mem::take(&mut staged))?;
            }
            report.series_sealed += 1;
            report.chunks_written += part.added.len() as u64;
            report.rows_sealed += part.added.iter().map(|chunk| chunk.rows).sum::<u64>();
            edit.series.push(series_record(series, commit)?);
            parts.push((part, Some(commit), Arc::clone(series)));
        }
        self.place_chunks(staged)?;
        self.publish_chunks(maintenance, parts, edit, next_file_id)?;
        self.counters.add_seal(report);
        metrics::histogram!("fastk_seal_seconds").record(begun.elapsed());
        Ok(report)
    }

    /// Unlinks chunk files, from the id `first` on, that were written for an edit which was not published. Nobody else
    /// would, and on a full disk every attempt would take more of what room is left.
    pub fn remove_unpublished(&self, series_id: SeriesId, first: u64) {
        // An edit that failed halfway may count after all.
        if self.queue.stopped().is_some() {
            return;
        }
        let dir = series_dir(&self.root, series_id);
        for name in disk::list(&dir).unwrap_or_default() {
            if chunk_id_of(&name).is_some_and(|id| id >= first)
                && let Err(error) = disk::remove(&dir.join(name))
            {
                tracing::warn!(%error, "an unpublished file stays behind");
            }
        }
    }

    /// The same for one chunk.
    pub fn remove_unpublished_chunk(&self, record: &ChunkRecord) {
        if self.queue.stopped().is_some() {
            return;
        }
        let path = series_dir(&self.root, record.series_id).join(chunk_name(&record.partition, record.id));
        if let Err(error) = sidecar::remove_all(&path).and_then(|()| disk::remove(&path)) {
            tracing::warn!(%error, "an unpublished file stays behind");
        }
    }

    /// Publishes new chunks, then lets readers see them, then lets the files they replace go.
    pub fn publish_chunks(
        &self,
        maintenance: &mut Maintenance,
        parts: Vec<(SealedSeries, Option<u64>, Arc<SeriesState>)>,
        mut edit: Edit,
        next_file_id: u64,
    ) -> Result<()> {
        for (part, _, series) in &parts {
            self.keep_deletes(series, &part.removed)?;
            self.tombstone_files(&maintenance.manifest.contents, series, &part.tombstones, &mut edit)?;
            edit.chunks.extend(part.added.iter().cloned());
            edit.chunks_removed.extend(part.removed.iter().map(|chunk| chunk.record.id));
        }
        edit.next_file_id = if planted(Bug::FileIdsReused) { 0 } else { next_file_id };
        let number = self.publish(maintenance, edit)?;
        let changes: Vec<NewChunks> = parts
            .iter()
            .map(|(part, sealed_commit, _)| NewChunks {
                series_id: part.series_id,
                added: part.added.iter().map(|r| Arc::new(ChunkFile::new(&self.root, r.clone()))).collect(),
                removed: part.removed.iter().map(|chunk| chunk.record.id).collect(),
                sealed_commit: *sealed_commit,
            })
            .collect();
        self.queue.apply(&mut self.queue.lock(), Structural::Chunks { parts: Arc::new(changes), edit: number });
        self.views.expire(number);
        maintenance
            .uncompacted
            .extend(parts.iter().filter(|(_, sealed, _)| sealed.is_some()).map(|(part, ..)| part.series_id));
        for chunk in parts.iter().flat_map(|(part, ..)| &part.removed) {
            maintenance.retired.insert(chunk.record.id, Arc::downgrade(chunk));
            chunk.retire();
        }
        Ok(())
    }

    /// Writes the chunks of one series, without names yet: one for each partition its tail touches, on each side of every
    /// fence.
    fn stage_chunks(
        &self,
        series: &Arc<SeriesState>,
        commit: u64,
        fences: &[u64],
        next_file_id: &mut u64,
        staged: &mut Vec<StagedChunk>,
    ) -> Result<SealedSeries> {
        let mut groups: BTreeMap<(String, SealInterval), (i64, i64)> = BTreeMap::new();
        for run in series.settled.iter().chain(&series.frozen) {
            let interval = SealInterval::of(fences, run.commit_hi);
            let mut row = 0;
            let ts = run.timestamps();
            while let Some(first) = ts.get(row) {
                let span = series.def.partition.span_of(*first, series.def.unit);
                row += ts.get(row..).map_or(0, |rest| rest.partition_point(|ts| *ts <= span.end));
                groups.insert((span.name, interval), (span.start, span.end));
            }
        }
        let mut added = Vec::new();
        for ((partition, interval), range) in groups {
            let runs = series.settled.iter().chain(&series.frozen);
            let runs = runs.filter(|run| SealInterval::of(fences, run.commit_hi) == interval);
            let sources: Vec<MergeSource> = runs.cloned().map(MergeSource::Run).collect();
            let tombstones = interval.tombstones(series);
            // The whole tail up to `commit` is here, so the chunk is the partition as of the last delete among them.
            let as_of = tombstones.iter().map(|t| t.commit).filter(|t| *t <= commit).max();
            let write = ChunkWrite { partition: &partition, range, sources, tombstones, as_of, replaces: Vec::new() };
            if let Some(chunk) = self.stage_chunk(series, write, next_file_id)? {
                added.push(chunk.record.clone());
                staged.push(chunk);
            }
        }
        // Chunks that a delete covers whole go now, unless a snapshot still shows them.
        let covered = |chunk: &ChunkFile| {
            series.tombstones.iter().any(|t| {
                chunk.record.commit_hi < t.commit
                    && t.start <= chunk.record.ts_min
                    && chunk.record.ts_max <= t.end
                    && !fenced(fences, chunk.record.commit_hi, t.commit)
            })
        };
        let removed: Vec<Arc<ChunkFile>> = series.chunks.iter().filter(|chunk| covered(chunk)).cloned().collect();
        let mut after = series.as_ref().clone();
        after.settled.clear();
        after.frozen.clear();
        let tombstones = self.tombstones_after(after, &added, &removed);
        Ok(SealedSeries { series_id: series.id, added, removed, tombstones })
    }

    /// What tombstones are still about once chunks came and went.
    pub fn tombstones_after(
        &self,
        mut series: SeriesState,
        added: &[ChunkRecord],
        removed: &[Arc<ChunkFile>],
    ) -> Vec<Tombstone> {
        let gone = |chunk: &Arc<ChunkFile>| removed.iter().any(|gone| gone.record.id == chunk.record.id);
        let kept = series.chunks.iter().filter(|chunk| !gone(chunk)).cloned();
        let new = added.iter().map(|record| Arc::new(ChunkFile::new(&self.root, record.clone())));
        series.chunks = Arc::new(kept.chain(new).collect());
        series.needed_tombstones()
    }

    /// Writes one chunk and its derived sidecars, without names yet; `None` when there are no rows for it.
    pub fn stage_chunk(
        &self,
        series: &SeriesState,
        write: ChunkWrite<'_>,
        next_file_id: &mut u64,
    ) -> Result<Option<StagedChunk>> {
        let ChunkWrite { partition, range, sources, tombstones, as_of, replaces } = write;
        let commit_lo = sources.iter().map(MergeSource::commit_lo).min().unwrap_or(0);
        let commit_hi = sources.iter().map(MergeSource::commit_hi).chain(as_of).max().unwrap_or(0);
        let merge =
            Merge::new(sources, Arc::new(tombstones), Arc::clone(&series.def), Arc::clone(&self.cache), range, false);
        let dir = series_dir(&self.root, series.id);
        loop {
            // Files of this name can be there from a seal that never reached the manifest: take the next id.
            let chunk_id = *next_file_id;
            *next_file_id += 1;
            let path = dir.join(chunk_name(partition, chunk_id));
            let (zones_path, coverage_path) = (zone_map_path(&path), coverage_path(&path));
            if path.found()? || zones_path.found()? || coverage_path.found()? {
                continue;
            }
            let head = ChunkHead {
                series_id: series.id,
                chunk_id,
                partition: partition.to_owned(),
                series: &series.def,
                commit_lo,
                commit_hi,
                replaces,
            };
            let tmp = self.root.join("tmp");
            let mut staged = StagedFile::create(&tmp)?;
            let coverage = series.grid().ok().map(|grid| Coverage::new(chunk_id, grid));
            let Some((summary, mut zones, coverage)) = fill(&mut staged, head, merge, coverage)? else {
                return Ok(None);
            };
            let mut files = vec![(staged, path)];
            let mut derived = |path: DiskPath, bytes: &[u8]| -> Result<()> {
                let mut staged = StagedFile::create(&tmp)?;
                staged.put(bytes)?;
                files.push((staged, path));
                Ok(())
            };
            zones.footer_crc = summary.footer_crc;
            derived(zones_path, &zones.encode())?;
            if let Some(mut coverage) = coverage {
                coverage.footer_crc = summary.footer_crc;
                coverage.optimize();
                derived(coverage_path, &coverage.encode())?;
            }
            return Ok(Some(StagedChunk { record: chunk_record(&summary), def: Arc::clone(&series.def), files }));
        }
    }

    /// Gives staged chunks and their sidecars their names, durably: all files are synced, then linked, the chunk before
    /// its sidecars, then their directories synced. Syncs of many small chunks so share their flushes.
    pub fn place_chunks(&self, mut chunks: Vec<StagedChunk>) -> Result<()> {
        let mut files: Vec<&mut StagedFile> =
            chunks.iter_mut().flat_map(|chunk| chunk.files.iter_mut().map(|(staged, _)| staged)).collect();
        StagedFile::sync_all(&mut files)?;
        let mut dirs = Vec::new();
        let mut placed = Vec::new();
        for StagedChunk { record, def, files } in chunks {
            for (staged, path) in files {
                if !staged.place(&path)? {
                    return Err(Error::internal(format!("{} appeared while it was written", path.display())));
                }
                dirs.extend(path.parent());
            }
            placed.push((record, def));
        }
        if !planted(Bug::DirectoryNotSynced) {
            disk::sync_dirs(dirs)?;
        }
        for (record, def) in placed {
            self.index(&ChunkFile::new(&self.root, record), &def);
        }
        Ok(())
    }

    /// Writes the value index of a chunk that is linked, or has it written later.
    pub fn index(&self, chunk: &ChunkFile, def: &SeriesDef) {
        if let Err(error) = sidecar::index_new_chunk(chunk, &self.root.join("tmp"), def) {
            tracing::warn!(%error, "a chunk goes without its value index for now");
            self.cache.orders.add_chunk(chunk.record.series_id, chunk.record.id);
        }
    }

    /// Writes the deletes that took rows of chunks which go now. Nobody needs them, unless a manifest has to be made anew
    /// while the files are still there.
    fn keep_deletes(&self, series: &SeriesState, removed: &[Arc<ChunkFile>]) -> Result<()> {
        let took = |t: &Tombstone| {
            removed.iter().any(|chunk| {
                let record = &chunk.record;
                record.commit_hi < t.commit && record.ts_min <= t.end && t.start <= record.ts_max
            })
        };
        for t in series.tombstones.iter().filter(|t| took(t)) {
            self.tombstone_file(series, t)?;
        }
        Ok(())
    }

    fn tombstone_file(&self, series: &SeriesState, t: &Tombstone) -> Result<()> {
        let dir = series_dir(&self.root, series.id);
        let path = dir.join(tombstone_name(t.commit));
        if path.found()? {
            // The same delete: written for an earlier step, or before a crash.
            return Ok(());
        }
        disk::create_dir(&dir)?;
        let key = series.def.key.clone();
        let file = TombstoneFile { series_id: series.id, key, commit: t.commit, start: t.start, end: t.end };
        disk::publish(&self.root.join("tmp"), &path, &encode_tombstone(&file)?).map(|_| ())
    }

    /// Writes the registration of a series beside its chunks when no other file but the manifest would tell it: it changed,
    /// or the series has no row in a chunk or run file.
    pub fn tell_registration(&self, series: &SeriesState, recorded: Option<&SeriesRecord>) -> Result<()> {
        let changed = match recorded {
            Some(record) => record.def != def_json(&series.def)?,
            None => false,
        };
        let told = !series.chunks.is_empty() || !series.settled.is_empty() || !series.frozen.is_empty();
        let dir = series_dir(&self.root, series.id);
        let is_there = || disk::list(&dir).map(|names| names.iter().any(|name| name.ends_with(REGISTRATION)));
        if !changed && (told || is_there()?) {
            return Ok(());
        }
        disk::create_dir(&dir)?;
        let commit = series.last_commit;
        let file = RegistrationFile { series_id: series.id, commit, series: series.def.as_ref().clone() };
        let path = dir.join(format!("{commit:020}{REGISTRATION}"));
        disk::publish(&self.root.join("tmp"), &path, &encode_registration(&file)?).map(|_| ())
    }

    /// Writes tombstone files the manifest does not know yet, and lists those it may forget. The files stay: what
    /// they say remains true for any chunk that turns up again.
    pub fn tombstone_files(
        &self,
        manifest: &crate::store::manifest::edits::Contents,
        series: &SeriesState,
        needed: &[Tombstone],
        edit: &mut Edit,
    ) -> Result<()> {
        let series_id = series.id;
        for t in needed {
            if manifest.tombstones.contains(&(series_id, t.commit, t.start, t.end)) {
                continue;
            }
            if !planted(Bug::TombstoneFilesLeftOut) {
                self.tombstone_file(series, t)?;
            }
            edit.tombstones.push(TombstoneRecord { series_id, commit: t.commit, start: t.start, end: t.end });
        }
        for (id, commit, start, end) in manifest.tombstones_of(series_id) {
            if !needed.contains(&Tombstone { commit: *commit, start: *start, end: *end }) {
                let (series_id, commit, start, end) = (*id, *commit, *start, *end);
                edit.tombstones_removed.push(TombstoneRecord { series_id, commit, start, end });
            }
        }
        Ok(())
    }

    /// Puts the marker of its drop beside the files of a series that the manifest knows. Series without a file of their own
    /// get a directory for it: their rows can be in run files of many series.
    pub fn mark_dropped(
        &self,
        manifest: &crate::store::manifest::edits::Contents,
        series_id: u64,
        commit: u64,
    ) -> Result<()> {
        let Some(record) = manifest.series.get(&series_id) else { return Ok(()) };
        let dir = series_dir(&self.root, series_id);
        if !dir.found()? && manifest.runs.is_empty() {
            return Ok(());
        }
        let def: SeriesDef = serde_json::from_str(&record.def)
            .map_err(|error| Error::internal(format!("registration of series {series_id}: {error}")))?;
        let commit = if record.dropped_commit > 0 { record.dropped_commit } else { commit };
        self.put_drop_marker(series_id, def.key, commit)
    }

    /// The same for a series that a snapshot still shows, so that a rebuilt manifest does not show it to everybody.
    pub fn put_drop_marker(&self, series_id: u64, key: crate::types::SeriesKey, commit: u64) -> Result<()> {
        let dir = series_dir(&self.root, series_id);
        let path = dir.join(DROP_MARKER);
        if path.found()? {
            return Ok(());
        }
        disk::create_dir(&dir)?;
        disk::publish(&self.root.join("tmp"), &path, &encode_drop(&DropFile { series_id, key, commit })?)?;
        Ok(())
    }

    /// Unlinks the files of a dropped series; readers that still map them are not disturbed. Best effort: what stays
    /// is removed at the next opening.
    pub fn remove_series_files(&self, series_id: u64, marker: DropMarker) {
        let dir = series_dir(&self.root, series_id);
        let names = disk::list(&dir).unwrap_or_default();
        // The marker goes last: while it stands, nobody takes the other files for lost ones.
        let last = names.iter().filter(|name| *name == DROP_MARKER && marker == DropMarker::Removed);
        for name in names.iter().filter(|name| *name != DROP_MARKER).chain(last) {
            if let Err(error) = disk::remove(&dir.join(name)) {
                tracing::warn!(%error, "a file of a dropped series stays behind");
                return;
            }
        }
        disk::remove_dir_if_empty(&dir);
    }
}

/// What becomes of the marker of a drop when the other files of the series are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropMarker {
    /// Run files still have rows of the series, which a rebuilt manifest would show again.
    Kept,
    Removed,
}

/// File beside the chunks of a series that was dropped.
pub const DROP_MARKER: &str = "dropped";

/// Ending of registration files.
pub const REGISTRATION: &str = ".registration";

/// File name of a tombstone.
pub fn tombstone_name(commit: u64) -> String {
    format!("{commit:020}.tombstone")
}

/// A series as the manifest keeps it.
pub fn series_record(series: &SeriesState, sealed_commit: u64) -> Result<SeriesRecord> {
    let views = series.views.iter().map(|view| {
        Ok(ViewRecord {
            commit: view.commit,
            last_commit: view.last_commit,
            def: if view.def == series.def { String::new() } else { def_json(&view.def)? },
            version: view.version,
            rows: view.rows,
            first_ts: view.bounds.map(|(first, _)| first),
            last_ts: view.bounds.map(|(_, last)| last),
        })
    });
    Ok(SeriesRecord {
        id: series.id,
        def: def_json(&series.def)?,
        version: series.version,
        rows: series.rows,
        first_ts: series.bounds.map(|(first, _)| first),
        last_ts: series.bounds.map(|(_, last)| last),
        sealed_commit,
        last_write_ms: series.last_write_ms,
        created_commit: series.created_commit,
        last_commit: series.last_commit,
        dropped_commit: series.dropped_commit.unwrap_or(0),
        views: views.collect::<Result<Vec<_>>>()?,
    })
}

/// Writes the merged rows as blocks; `None` when there are none (the file is not published then).
fn fill(
    staged: &mut StagedFile,
    head: ChunkHead<'_>,
    mut merge: Merge,
    coverage: Option<Coverage>,
) -> Result<Option<(ChunkSummary, ZoneMap, Option<Coverage>)>> {
    let column_count = head.series.columns.len() + 1;
    let full = block_rows(head.series.columns.len());
    let path = staged.path().clone();
    let fail = |e: &std::io::Error| Error::io("write", &path, e);
    let out = std::io::BufWriter::with_capacity(1 << 16, staged);
    let mut blocks = ChunkBuilder::new(out, head, coverage).map_err(|e| fail(&e))?;
    let mut buffered: Vec<Vec<i64>> = vec![Vec::with_capacity(full); column_count];
    let mut any = false;
    while let Some(piece) = merge.next_piece()? {
        any = true;
        let mut lo = piece.lo;
        while lo < piece.hi {
            let room = full - buffered.first().map_or(0, Vec::len);
            let hi = piece.hi.min(lo + room);
            for (column, buffer) in buffered.iter_mut().zip(&piece.block.columns.columns) {
                column.extend_from_slice(buffer.typed_data::<i64>().get(lo..hi).unwrap_or_default());
            }
            lo = hi;
            if buffered.first().map_or(0, Vec::len) == full {
                blocks.write_buffered(&mut buffered).map_err(|e| fail(&e))?;
            }
        }
    }
    if !any {
        return Ok(None);
    }
    blocks.write_buffered(&mut buffered).map_err(|e| fail(&e))?;
    let (out, summary, zones, coverage) = blocks.finish().map_err(|e| fail(&e))?;
    out.into_inner().map_err(|e| fail(e.error()))?;
    Ok(Some((summary, zones, coverage)))
}

/// A chunk and its sidecars, growing together.
pub struct ChunkBuilder<W> {
    writer: ChunkWriter<W>,
    zones: ZoneMap,
    coverage: Option<Coverage>,
    is_float: Vec<bool>,
}

impl<W: std::io::Write> ChunkBuilder<W> {
    pub fn new(out: W, head: ChunkHead<'_>, coverage: Option<Coverage>) -> std::io::Result<Self> {
        let floats = head.series.columns.iter().map(|column| column.kind == ColumnType::Float64);
        let is_float: Vec<bool> = std::iter::once(false).chain(floats).collect();
        let zones = ZoneMap::new(head.chunk_id, is_float.len());
        Ok(Self { writer: ChunkWriter::new(out, head)?, zones, coverage, is_float })
    }

    /// Writes rows that follow those before them, `ts` first, at most as many as a block holds.
    pub fn write(&mut self, columns: &[&[i64]]) -> std::io::Result<()> {
        self.writer.write_block(columns)?;
        if let (Some(coverage), Some(ts)) = (&mut self.coverage, columns.first()) {
            coverage.add(ts);
        }
        self.zones.add_block(columns, |column| self.is_float.get(column).copied().unwrap_or(false));
        Ok(())
    }

    fn write_buffered(&mut self, buffered: &mut [Vec<i64>]) -> std::io::Result<()> {
        let columns: Vec<&[i64]> = buffered.iter().map(Vec::as_slice).collect();
        self.write(&columns)?;
        buffered.iter_mut().for_each(Vec::clear);
        Ok(())
    }

    /// Writes the footer.
    pub fn finish(self) -> std::io::Result<(W, ChunkSummary, ZoneMap, Option<Coverage>)> {
        let (out, summary) = self.writer.finish()?;
        Ok((out, summary, self.zones, self.coverage))
    }
}

/// What the manifest says of a chunk that was written.
pub fn chunk_record(summary: &ChunkSummary) -> ChunkRecord {
    let meta = &summary.meta;
    ChunkRecord {
        id: meta.chunk_id,
        series_id: meta.series_id,
        partition: meta.partition.clone(),
        rows: meta.rows,
        ts_min: meta.ts_min,
        ts_max: meta.ts_max,
        commit_lo: meta.commit_lo,
        commit_hi: meta.commit_hi,
        file_bytes: summary.file_bytes,
        file_crc: summary.file_crc,
        footer_crc: summary.footer_crc,
        block_crcs: meta.blocks.iter().map(|block| block.crc).collect(),
    }
}
