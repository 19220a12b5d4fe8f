//! Checkpoints: everything moves out of the log, which is then trimmed.
//!
//! Long tails become chunks. The others go into one run file for all series, whose rows are from then on read from its
//! map. Run files are merged by size, [`RUN_FILES_MERGED`] at a time, so that a row is written about once a level
//! however slowly its series fills a chunk; rows that reached a chunk are left out on the way. When run files hold
//! more than their share, the longest tails are sealed until they do not.

use std::collections::BTreeMap;
use std::io::BufWriter;
use std::sync::Arc;
use std::time::Instant;

use crate::disk::{self, DiskPath, StagedFile};
use crate::error::{Error, Result};
use crate::format::manifest::{Edit, ReceiptsRecord, RunRecord, SnapshotRecord};
use crate::format::receipt::{Receipt, decode_receipts, encode_receipts};
use crate::format::run::{RunOrigin, RunWriter, decode_run};
use crate::planted::{Bug, planted};
use crate::store::facade::{Maintenance, StoreInner, wall_ms};
use crate::store::publish::seal::{DropMarker, series_record};
use crate::store::read::state::{Run, SeriesId, SeriesState, Snapshot, StoreState, Structural};
use crate::store::wal::commit_queue::FrozenRuns;
use crate::store::write::rows::RECEIPT_KEEP_MS;

/// Tail rows from which a checkpoint gives a series a chunk instead of a place in the run file: one block.
const CHUNK_ROWS_MIN: u64 = 16_384;
/// Run files of a level that are merged into one of the next.
const RUN_FILES_MERGED: usize = 8;
/// Receipt files that are merged into one.
const RECEIPT_FILES_MERGED: usize = 8;

/// Path of a run file.
pub fn run_path(root: &DiskPath, id: u64) -> DiskPath {
    root.join("runs").join(format!("{id:020}.run"))
}

/// Path of a receipt file.
pub fn receipts_path(root: &DiskPath, id: u64) -> DiskPath {
    root.join("runs").join(format!("{id:020}.receipts"))
}

/// Maps a run file and checks every byte of it. Gives its runs by series, each series' in the order of their commits.
pub fn load_run(root: &DiskPath, record: &RunRecord) -> Result<Vec<(SeriesId, Run)>> {
    let path = run_path(root, record.id);
    let file = disk::open(&path)?;
    let found = disk::file_bytes(&file, &path)?;
    if found != record.bytes {
        return Err(Error::corrupt(format!("{}: {found} bytes, expected {}", path.display(), record.bytes)));
    }
    let map = disk::map(&file, &path)?;
    let decoded =
        decode_run(map.as_slice()).map_err(|e| Error::new(e.code(), format!("{}: {}", path.display(), e.detail())))?;
    let crc = decoded.crc;
    if crc != record.crc {
        return Err(Error::corrupt(format!("{}: checksum {crc:08x}, expected {:08x}", path.display(), record.crc)));
    }
    let wide = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    Ok(decoded
        .runs
        .into_iter()
        .map(|entry| {
            let column = |position: u32| {
                let at = entry.offset + entry.stride() * u64::from(position);
                map.column(wide(at), wide(entry.rows * 8))
            };
            let columns = (0..entry.columns).map(column).collect();
            (entry.series_id, Run::mapped(record.id, (entry.commit_lo, entry.commit_hi), columns))
        })
        .collect())
}

/// Reads a receipt file.
pub fn load_receipts(root: &DiskPath, record: &ReceiptsRecord) -> Result<Vec<Receipt>> {
    let path = receipts_path(root, record.id);
    let bytes = disk::read(&path)?;
    let receipts = decode_receipts(&bytes)
        .map_err(|error| Error::new(error.code(), format!("{}: {}", path.display(), error.detail())))?;
    let newest_ms = receipts.iter().map(|receipt| receipt.wall_ms).max().unwrap_or(0);
    if (bytes.len() as u64, newest_ms) != (record.bytes, record.newest_ms) {
        return Err(Error::corrupt(format!("{} is another file", path.display())));
    }
    Ok(receipts)
}

impl StoreInner {
    /// Moves everything out of the log and trims it.
    pub fn checkpoint(&self) -> Result<()> {
        let mut maintenance = self.maintenance();
        let begun = Instant::now();
        let outcome = self.with_ballast(|| self.checkpoint_with(&mut maintenance));
        metrics::histogram!("fastk_checkpoint_seconds").record(begun.elapsed());
        self.note_upkeep(&outcome);
        outcome
    }

    pub fn checkpoint_with(&self, maintenance: &mut Maintenance) -> Result<()> {
        self.forget_receipts();
        let long = self.long_tails();
        self.seal_with(maintenance, &long)?;
        let frozen = self.queue.freeze(None)?;
        if planted(Bug::TrimmedEarly) {
            self.queue.trim(frozen.segment)?;
        }
        let outcome = self.settle(maintenance, &frozen);
        if outcome.is_err() {
            self.queue.apply(&mut self.queue.lock(), Structural::Thaw(frozen.ids));
            return outcome;
        }
        // What the manifest gave up, which is less than was frozen when there was nothing to publish.
        let given_up = maintenance.manifest.contents.wal_first_segment;
        self.queue.trim(if planted(Bug::TrimmedWithoutEdit) { frozen.segment } else { given_up })?;
        while self.merge_runs(maintenance)? {}
        Ok(())
    }

    /// Series whose tail is worth a chunk, and the longest others while all tails together take too much room.
    fn long_tails(&self) -> Vec<SeriesId> {
        let state = self.queue.published();
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

    /// Publishes what the log held up to the freeze: runs, registrations, snapshots, receipts.
    pub fn settle(&self, maintenance: &mut Maintenance, frozen: &FrozenRuns) -> Result<()> {
        self.queue.settled(&frozen.decided)?;
        let state = &frozen.state;
        let contents = &maintenance.manifest.contents;
        // Commits that went straight to chunks have no frame.
        if contents.wal_first_lsn == frozen.first_lsn && contents.base_commit >= state.commit {
            return Ok(());
        }
        let mut edit = Edit {
            base_commit: state.commit,
            wal_first_segment: frozen.segment,
            wal_first_lsn: frozen.first_lsn,
            next_series_id: self.next_series_id.load(crate::sync::atomic::Ordering::Relaxed),
            next_file_id: contents.next_file_id,
            ..Edit::default()
        };
        for series in state.series.values() {
            let recorded = contents.series.get(&series.id);
            if recorded.is_none_or(|record| record.version != series.version) {
                // The run files hold the tail: the chunks end where they ended before.
                self.tell_registration(series, recorded)?;
                edit.series.push(series_record(series, series.sealed_commit)?);
            }
            if let Some(commit) = series.dropped_commit {
                self.put_drop_marker(series.id, series.def.key.clone(), commit)?;
            }
            let needed = series.needed_tombstones();
            if !needed.is_empty() || contents.tombstones_of(series.id).next().is_some() {
                self.tombstone_files(contents, series, &needed, &mut edit)?;
            }
        }
        let dropped: Vec<u64> = contents.series.keys().filter(|id| !state.series.contains_key(*id)).copied().collect();
        for id in &dropped {
            self.mark_dropped(contents, *id, state.commit)?;
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
        let gone_receipts = self.settle_receipts(contents, state, &mut edit)?;
        let entries = state.series.values().map(|series| (series.as_ref(), series.frozen.clone()));
        let settled = self.write_runs(entries, (0, state.commit), &mut edit)?;
        // Files none of whose rows is needed any more.
        let used: std::collections::BTreeSet<u64> =
            state.series.values().flat_map(|series| &series.settled).filter_map(|run| run.file).collect();
        edit.runs_removed = contents.runs.keys().filter(|id| !used.contains(id)).copied().collect();
        let gone_runs = edit.runs_removed.clone();
        if planted(Bug::RunsRemovedEarly) {
            gone_runs.iter().try_for_each(|id| disk::remove(&run_path(&self.root, *id)))?;
        }
        let number = self.publish(maintenance, edit)?;
        self.show_runs(settled, Vec::new(), number);
        for id in gone_runs {
            disk::remove(&run_path(&self.root, id))?;
        }
        for id in gone_receipts {
            disk::remove(&receipts_path(&self.root, id))?;
        }
        for id in dropped {
            match self.dropped().remove(&id) {
                // The last reader of each chunk unlinks it; the marker stays for the next opening.
                Some(series) => series.chunks.iter().for_each(|chunk| chunk.retire()),
                None => {
                    self.remove_series_files(id, if used.is_empty() { DropMarker::Removed } else { DropMarker::Kept })
                }
            }
        }
        self.counters.add_checkpoint();
        Ok(())
    }

    /// Puts snapshots that only the log knows into the manifest, as far as nobody maintains it just now: a log that loses
    /// their commits leaves their names then. Nothing depends on it.
    pub fn record_snapshots(&self) {
        let Ok(mut maintenance) = self.maintenance.try_lock() else { return };
        let state = self.queue.published();
        let known = &maintenance.manifest.contents.snapshots;
        let is_new = |(name, snapshot): &(&String, &Snapshot)| {
            known.get(*name).is_none_or(|known| known.commit != snapshot.commit)
        };
        let record = |(name, snapshot): (&String, &Snapshot)| {
            let (commit, created_ms) = (snapshot.commit, snapshot.created_ms);
            SnapshotRecord { name: name.clone(), commit, created_ms }
        };
        let snapshots: Vec<SnapshotRecord> = state.snapshots.iter().filter(is_new).map(record).collect();
        let outcome = match snapshots.is_empty() {
            true => Ok(()),
            // The manifest is never ahead of what is durable in the log.
            false => self
                .queue
                .sync()
                .and_then(|()| self.publish(&mut maintenance, Edit { snapshots, ..Edit::default() }).map(|_| ())),
        };
        if let Err(error) = outcome {
            tracing::warn!(%error, "the name of a snapshot is in the log only for now");
        }
    }

    fn show_runs(&self, runs: Vec<(SeriesId, Vec<Arc<Run>>)>, replaced: Vec<u64>, edit: u64) {
        let change = Structural::Settled { runs: Arc::new(runs), replaced: Arc::new(replaced), edit };
        self.queue.apply(&mut self.queue.lock(), change);
        self.views.expire(edit);
    }

    /// Writes runs, those of one series after those of the other, as one file, adds it to the edit and gives the runs
    /// mapped from it. Nothing for no runs.
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
                let columns: Vec<&[i64]> = (0..run.column_count()).map(|column| run.words(column)).collect();
                let commits = (run.commit_lo, run.commit_hi);
                writer.add(series.id, &series.def, commits, &columns).map_err(|error| fail(&error))?;
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
        self.counters.add_run_file(bytes);
        Ok(mapped.into_iter().collect())
    }

    /// Links a finished file to the next free name.
    fn publish_new(&self, staged: StagedFile, next_id: &mut u64, path: fn(&DiskPath, u64) -> DiskPath) -> Result<u64> {
        // A file of this name can stand there from a step that never reached the manifest.
        while path(&self.root, *next_id).found()? {
            *next_id += 1;
        }
        let id = *next_id;
        *next_id += 1;
        let target = path(&self.root, id);
        if staged.publish(&target)? {
            return Ok(id);
        }
        Err(Error::internal(format!("{} appeared while it was written", target.display())))
    }

    /// Merges the run files of one level into one of the next, when there are enough of them.
    fn merge_runs(&self, maintenance: &mut Maintenance) -> Result<bool> {
        let contents = &maintenance.manifest.contents;
        let mut levels: BTreeMap<u32, Vec<&RunRecord>> = BTreeMap::new();
        for run in contents.runs.values() {
            levels.entry(run.level).or_default().push(run);
        }
        let Some((level, files)) = levels.into_iter().find(|(_, files)| files.len() >= RUN_FILES_MERGED) else {
            return Ok(false);
        };
        let base_commit = files.iter().map(|file| file.base_commit).max().unwrap_or(0);
        let ids: Vec<u64> = files.iter().map(|file| file.id).collect();
        let state = self.queue.published();
        // One series at a time: together they would not fit into memory.
        let entries = state.series.values().map(|series| {
            let mut runs: Vec<Arc<Run>> = Vec::new();
            for run in series.settled.iter().filter(|run| run.file.is_some_and(|file| ids.contains(&file))) {
                match runs.last_mut() {
                    Some(last) if !series.apart(last, run, &state.fences) => *last = Arc::new(last.merged_with(run)),
                    _ => runs.push(Arc::clone(run)),
                }
            }
            (series.as_ref(), runs)
        });
        let mut edit = Edit { next_file_id: contents.next_file_id, runs_removed: ids.clone(), ..Edit::default() };
        let merged = self.write_runs(entries, (level + 1, base_commit), &mut edit)?;
        let number = self.publish(maintenance, edit)?;
        self.show_runs(merged, ids.clone(), number);
        for id in ids {
            disk::remove(&run_path(&self.root, id))?;
        }
        Ok(true)
    }

    /// Puts receipts that only the log has into a file, and all into one when there are many files. Gives the files
    /// that are no longer needed.
    fn settle_receipts(
        &self,
        contents: &crate::store::manifest::edits::Contents,
        state: &StoreState,
        edit: &mut Edit,
    ) -> Result<Vec<u64>> {
        let old = wall_ms().saturating_sub(RECEIPT_KEEP_MS);
        let expired = contents.receipts.values().filter(|file| file.newest_ms < old);
        let mut gone: Vec<u64> = expired.map(|file| file.id).collect();
        let whole = contents.receipts.len() >= RECEIPT_FILES_MERGED;
        if whole {
            gone = contents.receipts.keys().copied().collect();
        }
        let unsettled = |receipt: &Receipt| receipt.written.iter().any(|w| w.commit > contents.base_commit);
        let receipts = state.receipts.values().map(Arc::as_ref).filter(|receipt| whole || unsettled(receipt));
        let receipts: Vec<&Receipt> = receipts.filter(|_| !planted(Bug::ReceiptsNotSettled)).collect();
        if let Some(newest_ms) = receipts.iter().map(|receipt| receipt.wall_ms).max() {
            let bytes = encode_receipts(receipts.into_iter());
            let mut staged = StagedFile::create(&self.root.join("tmp"))?;
            staged.put(&bytes)?;
            let id = self.publish_new(staged, &mut edit.next_file_id, receipts_path)?;
            edit.receipts.push(ReceiptsRecord { id, bytes: bytes.len() as u64, newest_ms });
        }
        edit.receipts_removed = gone.clone();
        Ok(gone)
    }

    /// Lets go of receipts that answer no retry any more.
    pub fn forget_receipts(&self) {
        let before_ms = wall_ms().saturating_sub(RECEIPT_KEEP_MS);
        // Looked for without the lock: there can be a million of them.
        if self.queue.published().receipts.values().any(|receipt| receipt.wall_ms < before_ms) {
            self.queue.apply(&mut self.queue.lock(), Structural::Forget { before_ms });
        }
    }
}
