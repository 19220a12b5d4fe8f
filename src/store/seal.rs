//! Sealing: the tail becomes chunk files. Checkpoint: the log is trimmed.
//!
//! Order of every publication: chunk written, synced, linked, directory synced; tombstone files likewise; then the
//! manifest edit that makes them count; then the state readers see; files nobody needs are unlinked last. A crash
//! between any two steps leaves either files no manifest names or log frames that are replayed over chunks that
//! already have their rows: both are harmless.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::chunk::{ChunkFile, chunk_name, series_dir};
use super::merge::{Merge, Source};
use super::sidecar::{self, zone_map_path};
use super::state::{SeriesId, SeriesState, Structural, Tombstone};
use super::{Inner, Maintenance, def_json};
use crate::disk::{self, Staged};
use crate::error::{Error, ErrorCode, Result};
use crate::format::chunk::{ChunkHead, ChunkSummary, ChunkWriter, block_rows};
use crate::format::manifest::{ChunkRecord, Edit, RunRecord, SeriesRecord, TombstoneRecord};
use crate::format::run::encode_run;
use crate::format::tombstone::{DropFile, TombstoneFile, encode_drop, encode_tombstone};
use crate::format::zone_map::ZoneMap;
use crate::types::{ColumnType, Rows};

/// Chunks of one partition from which sealing merges them into one.
const PARTITION_CHUNKS_MAX: usize = 8;
/// Tail rows from which a checkpoint gives a series a chunk instead of a place in the run file.
const CHUNK_ROWS_MIN: u64 = 4_096;

/// What a seal did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SealReport {
    pub series_sealed: u64,
    pub chunks_written: u64,
    /// Rows of the chunks written.
    pub rows_sealed: u64,
}

/// One series' part of a publication.
struct Sealed {
    series_id: SeriesId,
    added: Vec<ChunkRecord>,
    removed: Vec<Arc<ChunkFile>>,
    record: SeriesRecord,
    tombstones: Vec<Tombstone>,
}

impl Inner {
    /// Moves the tails of these series into chunks, with one manifest edit for all of them.
    pub fn seal(&self, ids: &[SeriesId]) -> Result<SealReport> {
        let mut maintenance = self.maintenance();
        let outcome = self.seal_with(&mut maintenance, ids);
        self.note_upkeep(&outcome);
        outcome
    }

    fn seal_with(&self, maintenance: &mut Maintenance, ids: &[SeriesId]) -> Result<SealReport> {
        let (frozen, commit) = {
            let mut pending = self.queue.lock();
            pending.check_writable()?;
            let mut frozen = Vec::new();
            for id in ids {
                if pending.state.series.get(id).is_some_and(|series| !series.runs.is_empty()) {
                    self.queue.apply(&mut pending, Structural::Freeze { series_id: *id });
                    frozen.extend(pending.state.series.get(id).cloned());
                }
            }
            (frozen, pending.state.commit)
        };
        let outcome = self.seal_frozen(maintenance, &frozen, commit);
        if outcome.is_err() {
            let mut pending = self.queue.lock();
            for series in frozen {
                self.queue.apply(&mut pending, Structural::Thaw { series_id: series.id });
            }
        }
        outcome
    }

    /// Publishes an edit. When the system refuses it halfway nobody knows what of it is on disk: the writer stops, as
    /// it does after a failed write of the log. A full disk is noticed before the edit has a name and only fails this.
    fn publish(&self, maintenance: &mut Maintenance, edit: Edit) -> Result<u64> {
        maintenance.manifest.publish(edit).inspect_err(|error| {
            if error.code() != ErrorCode::StorageFull {
                self.queue.stop(error);
            }
        })
    }

    /// Seals series as they were at `commit`, when their runs were frozen.
    fn seal_frozen(
        &self,
        maintenance: &mut Maintenance,
        frozen: &[Arc<SeriesState>],
        commit: u64,
    ) -> Result<SealReport> {
        let mut report = SealReport::default();
        if frozen.is_empty() {
            return Ok(report);
        }
        // Everything frozen must be durable and published before it may reach a chunk.
        self.queue.flush()?;
        self.queue.sync()?;
        let mut next_chunk_id = maintenance.manifest.contents.next_chunk_id;
        let mut edit = Edit::default();
        let mut parts = Vec::new();
        for series in frozen {
            let part = self.write_chunks(series, commit, &mut next_chunk_id)?;
            report.series_sealed += 1;
            report.chunks_written += part.added.len() as u64;
            report.rows_sealed += part.added.iter().map(|chunk| chunk.rows).sum::<u64>();
            self.tombstone_files(&maintenance.manifest.contents, series, &part.tombstones, &mut edit)?;
            edit.series.push(part.record.clone());
            edit.chunks.extend(part.added.iter().cloned());
            edit.chunks_removed.extend(part.removed.iter().map(|chunk| chunk.record.id));
            parts.push(part);
        }
        edit.next_chunk_id = next_chunk_id;
        let number = self.publish(maintenance, edit)?;
        let mut pending = self.queue.lock();
        for part in &parts {
            let change = Structural::Sealed {
                series_id: part.series_id,
                added: part.added.iter().map(|r| Arc::new(ChunkFile::new(&self.root, r.clone()))).collect(),
                removed: part.removed.iter().map(|chunk| chunk.record.id).collect(),
                sealed_commit: part.record.sealed_commit,
                edit: number,
            };
            self.queue.apply(&mut pending, change);
        }
        drop(pending);
        parts.iter().flat_map(|part| &part.removed).for_each(|chunk| chunk.retire());
        Ok(report)
    }

    /// Writes the chunks of one series: one for each partition its frozen runs touch.
    fn write_chunks(&self, series: &Arc<SeriesState>, commit: u64, next_chunk_id: &mut u64) -> Result<Sealed> {
        let dir = series_dir(&self.root, series.id);
        disk::create_dir(&dir)?;
        let mut by_partition: BTreeMap<String, (i64, i64)> = BTreeMap::new();
        for run in &series.frozen {
            let mut row = 0;
            let ts = run.timestamps();
            while let Some(first) = ts.get(row) {
                let span = series.def.partition.span_of(*first, series.def.unit);
                row += ts.get(row..).map_or(0, |rest| rest.partition_point(|ts| *ts <= span.end));
                by_partition.insert(span.name, (span.start, span.end));
            }
        }
        let mut added = Vec::new();
        let mut removed = Vec::new();
        for (partition, range) in by_partition {
            let neighbours: Vec<Arc<ChunkFile>> =
                series.chunks.iter().filter(|c| c.record.partition == partition).cloned().collect();
            let mut sources: Vec<Source> = series.frozen.iter().cloned().map(Source::Run).collect();
            let mut replaces = Vec::new();
            if neighbours.len() + 1 >= PARTITION_CHUNKS_MAX {
                replaces = neighbours.iter().map(|chunk| chunk.record.id).collect();
                sources.extend(neighbours.iter().cloned().map(Source::Chunk));
                removed.extend(neighbours);
            }
            if let Some(record) = self.write_chunk(series, &partition, range, sources, replaces, next_chunk_id)? {
                added.push(record);
            }
        }
        // Chunks that a delete covers whole go now.
        let covered = |chunk: &Arc<ChunkFile>| {
            series.tombstones.iter().any(|t| {
                chunk.record.commit_hi < t.commit && t.start <= chunk.record.ts_min && chunk.record.ts_max <= t.end
            })
        };
        for chunk in series.chunks.iter().filter(|chunk| covered(chunk)) {
            if !removed.iter().any(|gone| gone.record.id == chunk.record.id) {
                removed.push(Arc::clone(chunk));
            }
        }
        // What tombstones are still about, once the frozen runs are gone.
        let mut after = series.as_ref().clone();
        after.frozen.clear();
        let gone = |chunk: &Arc<ChunkFile>| removed.iter().any(|r| r.record.id == chunk.record.id);
        after.chunks = Arc::new(after.chunks.iter().filter(|chunk| !gone(chunk)).cloned().collect());
        let tombstones = after.needed_tombstones();
        let record = series_record(series, commit)?;
        Ok(Sealed { series_id: series.id, added, removed, record, tombstones })
    }

    fn write_chunk(
        &self,
        series: &SeriesState,
        partition: &str,
        range: (i64, i64),
        sources: Vec<Source>,
        replaces: Vec<u64>,
        next_chunk_id: &mut u64,
    ) -> Result<Option<ChunkRecord>> {
        let commit_lo = sources.iter().map(Source::commit_lo).min().unwrap_or(0);
        let commit_hi = sources.iter().map(Source::commit_hi).max().unwrap_or(0);
        let merge = Merge::new(
            sources,
            Arc::clone(&series.tombstones),
            Arc::clone(&series.def),
            Arc::clone(&self.cache),
            range,
            false,
        );
        let dir = series_dir(&self.root, series.id);
        loop {
            // A file of this name can stand there from a seal that never reached the manifest: take the next id.
            let chunk_id = *next_chunk_id;
            *next_chunk_id += 1;
            let path = dir.join(chunk_name(partition, chunk_id));
            if path.exists() {
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
            let mut staged = Staged::create(&tmp)?;
            let Some((summary, mut zones)) = fill(&mut staged, head, merge)? else { return Ok(None) };
            if !staged.publish(&path)? {
                return Err(Error::internal(format!("{} appeared while it was written", path.display())));
            }
            // Derived, so after the chunk: without it reads only take longer.
            zones.footer_crc = summary.footer_crc;
            disk::publish(&tmp, &zone_map_path(&path), &zones.encode())?;
            let record = ChunkRecord {
                id: chunk_id,
                series_id: series.id,
                partition: partition.to_owned(),
                rows: summary.meta.rows,
                ts_min: summary.meta.ts_min,
                ts_max: summary.meta.ts_max,
                commit_lo,
                commit_hi,
                file_bytes: summary.file_bytes,
                file_crc: summary.file_crc,
                footer_crc: summary.footer_crc,
            };
            sidecar::index_new_chunk(&ChunkFile::new(&self.root, record.clone()), &tmp, &series.def)?;
            return Ok(Some(record));
        }
    }

    /// Writes tombstone files the manifest does not know yet, and lists those it may forget. The files stay: what
    /// they say remains true for any chunk that turns up again.
    fn tombstone_files(
        &self,
        manifest: &super::manifest::Contents,
        series: &SeriesState,
        needed: &[Tombstone],
        edit: &mut Edit,
    ) -> Result<()> {
        let series_id = series.id;
        for t in needed {
            if manifest.tombstones.contains(&(series_id, t.commit, t.start, t.end)) {
                continue;
            }
            let dir = series_dir(&self.root, series_id);
            disk::create_dir(&dir)?;
            let key = series.def.key.clone();
            let file = TombstoneFile { series_id, key, commit: t.commit, start: t.start, end: t.end };
            // The same delete may have been written before a crash: an existing file is the same file.
            disk::publish(&self.root.join("tmp"), &dir.join(tombstone_name(t.commit)), &encode_tombstone(&file)?)?;
            edit.tombstones.push(TombstoneRecord { series_id, commit: t.commit, start: t.start, end: t.end });
        }
        for (id, commit, start, end) in manifest.tombstones.iter().filter(|(id, ..)| *id == series_id) {
            if !needed.contains(&Tombstone { commit: *commit, start: *start, end: *end }) {
                let (series_id, commit, start, end) = (*id, *commit, *start, *end);
                edit.tombstones_removed.push(TombstoneRecord { series_id, commit, start, end });
            }
        }
        Ok(())
    }

    /// Moves everything out of the log and trims it.
    pub fn checkpoint(&self) -> Result<()> {
        let mut maintenance = self.maintenance();
        let outcome = self.checkpoint_with(&mut maintenance);
        self.note_upkeep(&outcome);
        outcome
    }

    fn checkpoint_with(&self, maintenance: &mut Maintenance) -> Result<()> {
        let large: Vec<SeriesId> = {
            let state = self.queue.published();
            state.series.values().filter(|s| s.tail_rows() >= CHUNK_ROWS_MIN).map(|s| s.id).collect()
        };
        self.seal_with(maintenance, &large)?;
        let (segment, first_lsn, state) = self.queue.log_position()?;
        let contents = &maintenance.manifest.contents;
        if contents.wal_first_lsn == first_lsn {
            return Ok(());
        }
        let mut edit = Edit {
            base_commit: state.commit,
            wal_first_segment: segment,
            wal_first_lsn: first_lsn,
            next_series_id: self.next_series_id.load(std::sync::atomic::Ordering::Relaxed),
            next_chunk_id: contents.next_chunk_id,
            ..Edit::default()
        };
        let mut entries = Vec::new();
        for series in state.series.values() {
            for run in series.tail() {
                entries.push((series.id, run.commit_lo, run.commit_hi, run.to_rows()));
            }
            let recorded = contents.series.get(&series.id);
            if recorded.is_none_or(|record| record.version != series.version) {
                let mut record = series_record(series, state.commit)?;
                // The run file holds the tail: the chunks end where they ended before.
                record.sealed_commit = series.sealed_commit;
                edit.series.push(record);
            }
            let needed = series.needed_tombstones();
            if !needed.is_empty() || contents.tombstones.iter().any(|(id, ..)| *id == series.id) {
                self.tombstone_files(contents, series, &needed, &mut edit)?;
            }
        }
        let dropped: Vec<u64> = contents.series.keys().filter(|id| !state.series.contains_key(*id)).copied().collect();
        for id in &dropped {
            self.mark_dropped(contents, *id, state.commit)?;
        }
        edit.series_dropped = dropped.clone();
        let old_run = contents.run.as_ref().map(|run| run.id);
        if entries.is_empty() {
            edit.run_removed = old_run.is_some();
        } else {
            edit.run = Some(self.write_run(state.commit, &entries)?);
        }
        let number = self.publish(maintenance, edit)?;
        self.queue.apply(&mut self.queue.lock(), Structural::Edit { edit: number });
        self.queue.trim(segment)?;
        if let Some(id) = old_run.filter(|id| *id != state.commit) {
            disk::remove(&run_path(&self.root, id))?;
        }
        for id in dropped {
            match self.dropped().remove(&id) {
                // The last reader of each chunk unlinks it; the marker stays for the next opening.
                Some(series) => series.chunks.iter().for_each(|chunk| chunk.retire()),
                None => self.remove_series_files(id),
            }
        }
        Ok(())
    }

    /// A run file is named by the commit it is complete up to.
    fn write_run(&self, base_commit: u64, entries: &[(u64, u64, u64, Rows)]) -> Result<RunRecord> {
        let bytes = encode_run(base_commit, entries.iter().map(|(id, lo, hi, rows)| (*id, *lo, *hi, rows)));
        let path = run_path(&self.root, base_commit);
        if !disk::publish(&self.root.join("tmp"), &path, &bytes)? {
            // Left by a checkpoint that never reached the manifest; nothing names it.
            disk::remove(&path)?;
            if !disk::publish(&self.root.join("tmp"), &path, &bytes)? {
                return Err(Error::internal(format!("{} cannot be replaced", path.display())));
            }
        }
        Ok(RunRecord { id: base_commit, bytes: bytes.len() as u64, crc: crc32c::crc32c(&bytes) })
    }

    fn mark_dropped(&self, manifest: &super::manifest::Contents, series_id: u64, commit: u64) -> Result<()> {
        let dir = series_dir(&self.root, series_id);
        let Some(record) = manifest.series.get(&series_id).filter(|_| dir.is_dir()) else { return Ok(()) };
        let def: crate::types::SeriesDef = serde_json::from_str(&record.def)
            .map_err(|error| Error::internal(format!("registration of series {series_id}: {error}")))?;
        let marker = encode_drop(&DropFile { series_id, key: def.key, commit })?;
        disk::publish(&self.root.join("tmp"), &dir.join(DROP_MARKER), &marker)?;
        Ok(())
    }

    /// Unlinks the files of a dropped series; readers that still map them are not disturbed. Best effort: what stays
    /// is removed at the next opening.
    pub fn remove_series_files(&self, series_id: u64) {
        let dir = series_dir(&self.root, series_id);
        let names = disk::list(&dir).unwrap_or_default();
        // The marker goes last: while it stands, nobody takes the other files for lost ones.
        for name in names.iter().filter(|name| *name != DROP_MARKER).chain(names.iter().filter(|n| *n == DROP_MARKER)) {
            if let Err(error) = disk::remove(&dir.join(name)) {
                tracing::warn!(%error, "a file of a dropped series stays behind");
                return;
            }
        }
        disk::remove_dir_if_empty(&dir);
    }
}

/// File beside the chunks of a series that was dropped.
pub const DROP_MARKER: &str = "dropped";

fn tombstone_name(commit: u64) -> String {
    format!("{commit:020}.tombstone")
}

/// Path of a run file.
pub fn run_path(root: &std::path::Path, id: u64) -> std::path::PathBuf {
    root.join("runs").join(format!("{id:020}.run"))
}

fn series_record(series: &SeriesState, sealed_commit: u64) -> Result<SeriesRecord> {
    Ok(SeriesRecord {
        id: series.id,
        def: def_json(&series.def)?,
        version: series.version,
        rows: series.rows,
        first_ts: series.bounds.map(|(first, _)| first),
        last_ts: series.bounds.map(|(_, last)| last),
        sealed_commit,
        last_write_ms: series.last_write_ms,
    })
}

/// Writes the merged rows as blocks; `None` when there are none (the file is not published then).
fn fill(staged: &mut Staged, head: ChunkHead<'_>, mut merge: Merge) -> Result<Option<(ChunkSummary, ZoneMap)>> {
    let column_count = head.series.columns.len() + 1;
    let full = block_rows(head.series.columns.len());
    let path = staged.path().to_owned();
    let fail = |e: &std::io::Error| Error::io("write", &path, e);
    let is_float: Vec<bool> = std::iter::once(false)
        .chain(head.series.columns.iter().map(|column| column.kind == ColumnType::Float64))
        .collect();
    let zones = ZoneMap::new(head.chunk_id, column_count);
    let out = std::io::BufWriter::with_capacity(1 << 20, staged.file()?);
    let mut blocks = Blocks { writer: ChunkWriter::new(out, head).map_err(|e| fail(&e))?, zones, is_float };
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
                blocks.write(&mut buffered).map_err(|e| fail(&e))?;
            }
        }
    }
    if !any {
        return Ok(None);
    }
    blocks.write(&mut buffered).map_err(|e| fail(&e))?;
    let (out, summary) = blocks.writer.finish().map_err(|e| fail(&e))?;
    out.into_inner().map_err(|e| fail(e.error()))?;
    Ok(Some((summary, blocks.zones)))
}

/// A chunk and its zone map, growing together.
struct Blocks<W> {
    writer: ChunkWriter<W>,
    zones: ZoneMap,
    is_float: Vec<bool>,
}

impl<W: std::io::Write> Blocks<W> {
    fn write(&mut self, buffered: &mut [Vec<i64>]) -> std::io::Result<()> {
        let columns: Vec<&[i64]> = buffered.iter().map(Vec::as_slice).collect();
        self.writer.write_block(&columns)?;
        self.zones.add_block(&columns, |column| self.is_float.get(column).copied().unwrap_or(false));
        buffered.iter_mut().for_each(Vec::clear);
        Ok(())
    }
}
