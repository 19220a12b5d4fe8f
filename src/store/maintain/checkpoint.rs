//! Checkpoints: everything moves out of the log, which is then trimmed.
//!
//! Long tails become chunks. The others go into one run file for all series, whose rows are then read from the
//! mapped file. Run files are merged by size, [`RUN_FILES_MERGED`] at a time, so that a row is written about once per
//! level however slowly its series fills a chunk; a merge leaves out rows that are in a chunk by then. When the
//! remaining tails exceed `tail_bytes_max`, the longest are sealed until half of it is left.

use std::collections::BTreeMap;
use std::io::BufWriter;
use std::sync::Arc;
use std::time::Instant;

use crate::disk::{self, DiskPath, StagedFile};
use crate::error::{Error, Result};
use crate::format::manifest::{Edit, ReceiptsRecord, RunRecord, SnapshotRecord};
use crate::format::receipt::{Receipt, encode_receipts};
use crate::format::run::{RunOrigin, RunWriter};
use crate::store::maintain::maintenance::Maintenance;
use crate::store::publish::publisher::PublishedFiles;
use crate::store::publish::records::{kind_record, new_texts, series_record};
use crate::store::publish::series_files::{self, DropMarker};
use crate::store::read::run::Run;
use crate::store::read::run_files::{load_run, receipts_path, run_path};
use crate::store::read::series_state::{SeriesId, SeriesState};
use crate::store::read::store_state::StoreState;
use crate::store::read::structural::Structural;
use crate::store::wal::commit_queue::FrozenRuns;
use crate::store::write::idempotency::RECEIPT_RETENTION_MS;

/// Minimum number of tail rows for which a checkpoint writes a chunk instead of a run in the run file: one block.
const CHUNK_ROWS_MIN: u64 = 16_384;

/// Number of run files of one level that are merged into one file of the next.
const RUN_FILES_MERGED: usize = 8;

/// Number of receipt files that are merged into one.
const RECEIPT_FILES_MERGED: usize = 8;

impl Maintenance {
    /// Moves everything out of the log and trims it.
    pub fn checkpoint(&self) -> Result<()> {
        let mut files = self.publisher.lock();
        let started = Instant::now();
        let outcome = self.wal.reserve.with_reserve(|| self.checkpoint_with(&mut files));
        metrics::histogram!("fastk_checkpoint_seconds").record(started.elapsed());
        self.note(&outcome);
        outcome
    }

    /// A checkpoint by the holder of the files.
    pub fn checkpoint_with(&self, files: &mut PublishedFiles) -> Result<()> {
        self.wal.queue.stop_on_panic(|| self.empty_log(files))
    }

    fn empty_log(&self, files: &mut PublishedFiles) -> Result<()> {
        self.drop_old_receipts();
        let long = self.long_tails();
        self.publisher.seal_with(files, &long)?;
        let frozen = self.wal.queue.freeze(None)?;
        let outcome = self.publish_frozen(files, &frozen);
        if outcome.is_err() {
            self.wal.queue.apply(&mut self.wal.queue.lock(), Structural::Thaw(frozen.ids));
            return outcome;
        }
        // Segments before this one are released by the manifest: fewer than were frozen when nothing was published.
        let given_up = files.manifest.contents.wal_first_segment;
        self.wal.queue.trim(given_up)?;
        while self.merge_runs(files)? {}
        Ok(())
    }

    /// Series whose tail is worth a chunk, and the longest others while all tails together take too much space.
    fn long_tails(&self) -> Vec<SeriesId> {
        let state = self.wal.queue.published();
        let bytes = |series: &SeriesState| series.tail().map(|run| run.bytes()).sum::<u64>();
        let (mut long, mut short) = (Vec::new(), Vec::new());
        let mut left = 0;
        for series in state.series.values().filter(|series| series.tail_rows() > 0) {
            if series.tail_rows() >= CHUNK_ROWS_MIN {
                long.push(series.id);
            } else {
                left += bytes(series);
                short.push((bytes(series), series.id));
            }
        }
        if left > self.options.tail_bytes_max {
            short.sort_unstable();
            while let Some((bytes, id)) = short.pop().filter(|_| left > self.options.tail_bytes_max / 2) {
                left -= bytes;
                long.push(id);
            }
        }
        long
    }

    /// Publishes the contents of the log up to the commit of `frozen`: runs, registrations, snapshots, receipts.
    pub fn publish_frozen(&self, files: &mut PublishedFiles, frozen: &FrozenRuns) -> Result<()> {
        self.wal.queue.wait_durable(&frozen.decided)?;
        let state = &frozen.state;
        let contents = &files.manifest.contents;
        // Commits of bulk loads have no frame.
        if contents.wal_first_lsn == frozen.first_lsn && contents.base_commit >= state.commit {
            return Ok(());
        }
        let mut edit = Edit {
            base_commit: state.commit,
            wal_first_segment: frozen.segment,
            wal_first_lsn: frozen.first_lsn,
            next_series_id: self.writes.next_series_id(),
            next_file_id: contents.next_file_id,
            ..Edit::default()
        };
        for series in state.series.values() {
            let recorded = contents.series.get(&series.id);
            if recorded.is_none_or(|record| record.version != series.version) {
                // The tail goes to run files, so the chunks still end at the same commit.
                series_files::write_registration(&self.root, series, recorded)?;
                edit.series.push(series_record(series, series.sealed_commit)?);
            }
            // A seal records the series, but not its texts.
            edit.texts.extend(new_texts(series, contents)?);
            if let Some(commit) = series.dropped_commit {
                series_files::put_drop_marker(&self.root, series.id, series.def.key.clone(), commit)?;
            }
            let needed = series.needed_tombstones();
            if !needed.is_empty() || contents.tombstones_of(series.id).next().is_some() {
                series_files::tombstone_files(&self.root, contents, series, &needed, &mut edit)?;
            }
        }
        let dropped: Vec<u64> = contents.series.keys().filter(|id| !state.series.contains_key(*id)).copied().collect();
        for id in &dropped {
            series_files::mark_dropped(&self.root, contents, *id, state.commit)?;
        }
        edit.series_dropped = dropped.clone();
        for (name, snapshot) in &state.snapshots {
            if contents.snapshots.get(name).is_none_or(|known| known.commit != snapshot.commit) {
                let (commit, created_ms) = (snapshot.commit, snapshot.created_ms);
                edit.snapshots.push(SnapshotRecord { name: name.clone(), commit, created_ms });
            }
        }
        edit.snapshots_removed =
            contents.snapshots.keys().filter(|name| !state.snapshots.contains_key(*name)).cloned().collect();
        for (name, kind) in &state.kinds {
            if contents.kinds.get(name).is_none_or(|known| known.commit != kind.commit) {
                edit.kinds.push(kind_record(kind)?);
            }
        }
        edit.kinds_removed = contents.kinds.keys().filter(|name| !state.kinds.contains_key(*name)).cloned().collect();
        let gone_receipts = self.move_receipts(contents, state, &mut edit)?;
        let entries = state.series.values().map(|series| (series.as_ref(), series.frozen.clone()));
        let filed = self.write_runs(entries, (0, state.commit), &mut edit)?;
        // Run files of which no row is still needed.
        let used: std::collections::BTreeSet<u64> =
            state.series.values().flat_map(|series| &series.filed).filter_map(|run| run.file).collect();
        edit.runs_removed = contents.runs.keys().filter(|id| !used.contains(id)).copied().collect();
        let gone_runs = edit.runs_removed.clone();
        let number = self.publisher.publish(files, edit)?;
        self.show_runs(filed, Vec::new(), number);
        for id in gone_runs {
            disk::remove(&run_path(&self.root, id))?;
        }
        for id in gone_receipts {
            disk::remove(&receipts_path(&self.root, id))?;
        }
        for id in dropped {
            match self.publisher.dropped().remove(&id) {
                // The last reader of each chunk unlinks it; the marker stays until the next open.
                Some(series) => series.chunks.iter().for_each(|chunk| chunk.retire()),
                None => series_files::remove_series_files(
                    &self.root,
                    id,
                    if used.is_empty() { DropMarker::Removed } else { DropMarker::Kept },
                ),
            }
        }
        self.publisher.counters.add_checkpoint();
        Ok(())
    }

    fn show_runs(&self, runs: Vec<(SeriesId, Vec<Arc<Run>>)>, replaced: Vec<u64>, edit: u64) {
        let change = Structural::Filed { runs: Arc::new(runs), replaced: Arc::new(replaced), edit };
        self.wal.queue.apply(&mut self.wal.queue.lock(), change);
        self.reads.views.expire(edit);
    }

    /// Writes runs, grouped by series, into one file, adds the file to the edit and returns the runs mapped from it.
    /// Without runs no file is written.
    fn write_runs<'s>(
        &self,
        entries: impl Iterator<Item = (&'s SeriesState, Vec<Arc<Run>>)>,
        (level, base_commit): (u32, u64),
        edit: &mut Edit,
    ) -> Result<Vec<(SeriesId, Vec<Arc<Run>>)>> {
        let mut staged = StagedFile::create(&self.root.join("tmp"))?;
        let staged_path = staged.path().to_owned();
        let fail = |error: &std::io::Error| Error::io("write", &staged_path, error);
        let out = BufWriter::with_capacity(1 << 20, &mut staged);
        let mut writer = RunWriter::new(out, RunOrigin { level, base_commit }).map_err(|error| fail(&error))?;
        for (series, runs) in entries {
            for run in runs {
                let columns = run.slices();
                let commits = (run.commit_lo, run.commit_hi);
                writer
                    .add(series.id, &run.def, &series.dictionaries, commits, &columns)
                    .map_err(|error| fail(&error))?;
            }
        }
        if writer.is_empty() {
            return Ok(Vec::new());
        }
        let (out, bytes, crc) = writer.finish().map_err(|error| fail(&error))?;
        out.into_inner().map_err(|error| fail(error.error()))?;
        let id = self.publish_new(staged, &mut edit.next_file_id, run_path)?;
        let record = RunRecord { id, bytes, crc, level, base_commit };
        // Read back from the disk before anything relies on it.
        let mut mapped: BTreeMap<SeriesId, Vec<Arc<Run>>> = BTreeMap::new();
        for (series_id, run) in load_run(&self.root, &record)? {
            mapped.entry(series_id).or_default().push(Arc::new(run));
        }
        edit.runs.push(record);
        self.publisher.counters.add_run_file(bytes);
        Ok(mapped.into_iter().collect())
    }

    /// Links a finished file to the next free name.
    fn publish_new(&self, staged: StagedFile, next_id: &mut u64, path: fn(&DiskPath, u64) -> DiskPath) -> Result<u64> {
        // A file of this name can be left from a step that never reached the manifest.
        while path(&self.root, *next_id).found()? {
            *next_id += 1;
        }
        let id = *next_id;
        *next_id += 1;
        let target = path(&self.root, id);
        if staged.publish(&target)? {
            return Ok(id);
        }
        Err(Error::internal(format!("{} was created by another process or thread", target.display())))
    }

    /// Merges the run files of one level into one of the next, when there are enough of them.
    fn merge_runs(&self, files: &mut PublishedFiles) -> Result<bool> {
        let contents = &files.manifest.contents;
        let mut levels: BTreeMap<u32, Vec<&RunRecord>> = BTreeMap::new();
        for run in contents.runs.values() {
            levels.entry(run.level).or_default().push(run);
        }
        let Some((level, old)) = levels.into_iter().find(|(_, files)| files.len() >= RUN_FILES_MERGED) else {
            return Ok(false);
        };
        let Some(base_commit) = old.iter().map(|file| file.base_commit).max() else { return Ok(false) };
        let ids: Vec<u64> = old.iter().map(|file| file.id).collect();
        let state = self.wal.queue.published();
        // One series at a time: together they would not fit into memory.
        let entries = state.series.values().map(|series| {
            let mut runs: Vec<Arc<Run>> = Vec::new();
            for run in series.filed.iter().filter(|run| run.file.is_some_and(|file| ids.contains(&file))) {
                match runs.last_mut() {
                    Some(last) if !series.apart(last, run, &state.snapshot_commits) && last.has_columns_of(run) => {
                        *last = Arc::new(last.merged_with(run))
                    }
                    _ => runs.push(Arc::clone(run)),
                }
            }
            (series.as_ref(), runs)
        });
        let mut edit = Edit { next_file_id: contents.next_file_id, runs_removed: ids.clone(), ..Edit::default() };
        let merged = self.write_runs(entries, (level + 1, base_commit), &mut edit)?;
        let number = self.publisher.publish(files, edit)?;
        self.show_runs(merged, ids.clone(), number);
        for id in ids {
            disk::remove(&run_path(&self.root, id))?;
        }
        Ok(true)
    }

    /// Writes receipts that only the log has into a file, or all receipts when there are many files. Returns the files
    /// that are no longer needed.
    fn move_receipts(
        &self,
        contents: &crate::store::manifest::edits::Contents,
        state: &StoreState,
        edit: &mut Edit,
    ) -> Result<Vec<u64>> {
        let old = self.options.clock.wall_ms().saturating_sub(RECEIPT_RETENTION_MS);
        let expired = contents.receipts.values().filter(|file| file.newest_ms < old);
        let mut removed: Vec<u64> = expired.map(|file| file.id).collect();
        let whole = contents.receipts.len() >= RECEIPT_FILES_MERGED;
        if whole {
            removed = contents.receipts.keys().copied().collect();
        }
        let unsettled = |receipt: &Receipt| receipt.written.iter().any(|w| w.commit > contents.base_commit);
        let receipts = state.receipts.values().map(Arc::as_ref);
        let receipts: Vec<&Receipt> = receipts.filter(|receipt| whole || unsettled(receipt)).collect();
        if let Some(newest_ms) = receipts.iter().map(|receipt| receipt.wall_ms).max() {
            let bytes = encode_receipts(receipts.into_iter());
            let mut staged = StagedFile::create(&self.root.join("tmp"))?;
            staged.put(&bytes)?;
            let id = self.publish_new(staged, &mut edit.next_file_id, receipts_path)?;
            edit.receipts.push(ReceiptsRecord { id, bytes: bytes.len() as u64, newest_ms });
        }
        edit.receipts_removed = removed.clone();
        Ok(removed)
    }

    /// Drops expired receipts.
    pub fn drop_old_receipts(&self) {
        let before_ms = self.options.clock.wall_ms().saturating_sub(RECEIPT_RETENTION_MS);
        // Searched without the lock: there can be a million of them.
        if self.wal.queue.published().receipts.values().any(|receipt| receipt.wall_ms < before_ms) {
            self.wal.queue.apply(&mut self.wal.queue.lock(), Structural::Forget { before_ms });
        }
    }
}
