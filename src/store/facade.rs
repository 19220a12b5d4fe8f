//! The facade of the engine: each method of [`Store`] calls the component that carries it out.

use std::path::Path;
use std::sync::Arc;

use crate::disk::overlay::OverlayDisk;
use crate::disk::{self, DiskPath};
use crate::error::{Error, ErrorCode, Result};
use crate::format::receipt::SeriesReceipt;
use crate::store::backup::create::{BackupReport, BackupRun};
use crate::store::backup::listing::BackupOptions;
use crate::store::backup::view;
use crate::store::check::overlaps::{OverlapReport, explain};
use crate::store::check::scrub::scrub;
use crate::store::check::verify::finding::VerifyReport;
use crate::store::check::verify::run::verify_open;
use crate::store::directory::{LISTING, LOCK_FILE, check_finished};
use crate::store::maintain::background::MaintenanceThreads;
use crate::store::open::engine::Engine;
use crate::store::open::recover::{RecoveryReport, exists};
use crate::store::options::{ReadOnly, StoreOptions};
use crate::store::publish::counters::{CompactReport, MaintenanceCounts, SealReport, VacuumReport};
use crate::store::publish::sidecars::SidecarReport;
use crate::store::read::chunk::MapCache;
use crate::store::read::files::{SeriesFiles, series_files};
use crate::store::read::precondition::IfVersion;
use crate::store::read::retained_commits::RetainedCommits;
use crate::store::read::series_state::{SeriesId, SeriesState};
use crate::store::read::store_state::{RegisteredKind, Snapshot, StoreState};
use crate::store::task_control::TaskControl;
use crate::store::write::delete::DeleteOutcome;
use crate::store::write::request::{DecidedWrite, SeriesWrite, WriteMode, WriteOutcome};
use crate::types::kind::built_in_named;
use crate::types::schema::series_not_found;
use crate::types::{KindDef, Rows, SeriesDef, SeriesKey};

/// An open store. Dropping it syncs the log and releases the directory.
pub struct Store {
    pub(in crate::store) engine: Engine,
    background: Option<MaintenanceThreads>,
    /// Held by a store that is only read.
    shared: Option<disk::SharedLock>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("root", &self.engine.root).finish_non_exhaustive()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Some(background) = self.background.take() {
            background.stop();
        }
    }
}

impl Store {
    /// Opens the store in `root`, creating it when `create` is set and there is none. A backup is opened for reading
    /// only, and not changed.
    ///
    /// # Errors
    /// `store_locked` when another process has it open, `not_found` when there is none, `unsupported_format` for a
    /// newer one, `corrupt_data` when the manifest or a needed file is damaged.
    pub fn open(root: &Path, create: bool, options: StoreOptions) -> Result<Self> {
        Self::open_on(&DiskPath::os(root), create, options)
    }

    /// Opens a store on any disk.
    ///
    /// # Errors
    /// Those of [`Store::open`].
    pub fn open_on(root: &DiskPath, create: bool, options: StoreOptions) -> Result<Self> {
        check_finished(root)?;
        if root.join(LISTING).exists() {
            return Ok(Self { engine: view::open(root, options)?, background: None, shared: None });
        }
        if options.read_only == ReadOnly::Opened && !root.disk().may_write(root) && exists(root)? {
            return Self::open_read_only(root, options);
        }
        let engine = Engine::open(root, create, options)?;
        let background = match engine.options.background_maintenance {
            true => Some(MaintenanceThreads::start(&engine.maintenance)?),
            false => None,
        };
        Ok(Self { engine, background, shared: None })
    }

    /// Opens a store in a directory that cannot be written to. What opening writes stays in memory.
    fn open_read_only(root: &DiskPath, options: StoreOptions) -> Result<Self> {
        let shared = disk::SharedLock::acquire(&root.join(LOCK_FILE))?;
        let engine =
            Engine::open(&OverlayDisk::over(root)?, false, StoreOptions { background_maintenance: false, ..options })?;
        let detail = format!("{} is not writable, so the store is open for reading only", root.display());
        engine.refuse(
            Error::new(ErrorCode::WriterStopped, detail)
                .with_hint("mount it writable, or give this user write permission"),
        );
        Ok(Self { engine, background: None, shared: Some(shared) })
    }

    /// Whether the store is only read because its directory cannot be written to.
    pub fn is_read_only(&self) -> bool {
        self.shared.is_some()
    }

    pub fn root(&self) -> &Path {
        &self.engine.root
    }

    pub fn options(&self) -> &StoreOptions {
        &self.engine.options
    }

    /// Random name of this history of the store.
    pub fn epoch(&self) -> &str {
        &self.engine.epoch
    }

    /// What opening found and did.
    pub fn recovery(&self) -> &RecoveryReport {
        &self.engine.recovery
    }

    /// Why the store refuses writes, if it does.
    pub fn writer_stopped(&self) -> Option<String> {
        self.engine.wal.queue.stopped()
    }

    /// Refuses a change outside the log once the directory of the store or its `LOCK` was removed or replaced.
    ///
    /// # Errors
    /// `writer_stopped`.
    pub fn check_owned(&self) -> Result<()> {
        self.engine.wal.queue.check_owned()
    }

    /// Why the directory of the store is not the one that was opened, if it is not.
    pub fn root_lost(&self) -> Option<String> {
        self.engine.root_check.problem()
    }

    /// Why the last background step failed, if it did.
    pub fn maintenance_failed(&self) -> Option<String> {
        self.engine.maintenance.failed()
    }

    /// Records in `LOCK` which server uses the store, for other processes to find.
    pub fn describe_holder(&self, json: &str) -> Result<()> {
        self.engine.lock.describe(json)
    }

    /// The store as every reader sees it now.
    pub fn snapshot(&self) -> Arc<StoreState> {
        self.engine.wal.queue.published()
    }

    /// The cache of open chunk files, needed to read from a snapshot.
    pub fn cache(&self) -> &Arc<MapCache> {
        &self.engine.reads.cache
    }

    /// Bytes of the log on disk, and bytes of frames in it.
    pub fn log_bytes(&self) -> (u64, u64) {
        self.engine.wal.queue.log_bytes()
    }

    /// Retained commits, for cursors and tickets.
    pub fn retained_commits(&self) -> &Arc<RetainedCommits> {
        &self.engine.reads.retained
    }

    /// How many rows a delete would remove.
    pub fn count_range(&self, key: &SeriesKey, range: (i64, i64)) -> Result<u64> {
        let state = self.snapshot();
        let series = state.get(key).ok_or_else(|| series_not_found(key))?;
        series.count_rows(&self.engine.reads.cache, range)
    }

    /// Deletes a closed range as one commit. Deleting nothing changes nothing.
    pub fn delete_range(&self, key: &SeriesKey, range: (i64, i64), if_version: IfVersion) -> Result<DeleteOutcome> {
        let deleted = self.engine.writes.delete_range(key, range, if_version)?;
        if let Some(background) = self.background.as_ref().filter(|_| deleted.rows_deleted > 0) {
            background.request_compaction(deleted.series_id);
        }
        Ok(deleted)
    }

    /// Moves the tails of these series (all when empty) into chunk files.
    pub fn seal(&self, keys: &[SeriesKey]) -> Result<SealReport> {
        let ids = if keys.is_empty() {
            let state = self.snapshot();
            state.registered().filter(|series| series.tail_rows() > 0).map(|series| series.id).collect()
        } else {
            self.ids_of(keys)?
        };
        self.engine.maintenance.seal(&ids)
    }

    /// Counts of maintenance since the store was opened.
    pub fn maintenance_counts(&self) -> MaintenanceCounts {
        self.engine.publisher.counters.counts()
    }

    /// Bytes of a series' chunk files that hold nothing readable, as of the last compaction step.
    pub fn garbage_bytes(&self, series_id: SeriesId) -> u64 {
        self.engine.publisher.counters.garbage(series_id)
    }

    /// The same of all series.
    pub fn garbage_bytes_total(&self) -> u64 {
        self.engine.publisher.counters.garbage_total()
    }

    /// Bytes of the run files on disk, and their number.
    pub fn run_files(&self) -> (u64, u64) {
        self.engine.publisher.counters.runs()
    }

    /// Moves everything out of the log (large tails into chunks, small ones into one run file) and trims it.
    pub fn checkpoint(&self) -> Result<()> {
        self.engine.maintenance.checkpoint()
    }

    /// Writes rows of one series as one commit: all of them, or none. Returns when they are durable under the
    /// configured mode and visible to every reader.
    ///
    /// # Errors
    /// `series_not_found`, `schema_mismatch`, `rows_exist`, `out_of_order`, `invalid_rows` for a repeated timestamp
    /// under `insert` or `append`, a sum out of range under `merge` and a row off the grid, `commit_conflict`,
    /// `writer_stopped`, `storage_full`.
    pub fn write(&self, key: &SeriesKey, rows: Rows, mode: WriteMode, if_version: IfVersion) -> Result<SeriesReceipt> {
        let write = SeriesWrite { if_version, ..SeriesWrite::new(key.clone(), rows, mode) };
        let outcome = self.write_many(vec![write], None)?;
        outcome.written.first().copied().ok_or_else(|| Error::internal("a write without a result"))
    }

    /// Writes rows of many series as one commit with one sync: all of them, or none.
    ///
    /// Under an idempotency key a repeat within 24 hours, also after a restart, returns the result of the first write
    /// and changes nothing.
    ///
    /// # Errors
    /// Those of [`Store::write`], each naming its series; `invalid_argument` for a series named twice;
    /// `idempotency_mismatch` when the key was used for something else; `overloaded` when a million keys are stored.
    pub fn write_many(&self, writes: Vec<SeriesWrite>, idempotency_key: Option<&str>) -> Result<WriteOutcome> {
        self.finish_write(self.begin_write(writes, idempotency_key)?)
    }

    /// Checks the sidecars of all chunks and writes those that are missing, damaged or no longer what the registration
    /// requires. Maintenance does this on its own for chunks that a query found so.
    ///
    /// # Errors
    /// `corrupt_data` when a chunk itself is damaged; those before it are done.
    pub fn rebuild_sidecars(&self) -> Result<SidecarReport> {
        self.engine.maintenance.rebuild_sidecars()
    }

    /// Registers a kind of series. False when the same definition exists already. Durable on return as a write is.
    ///
    /// # Errors
    /// `invalid_argument`; `kind_exists` when it is defined otherwise, or its name is one of FastK; `too_large`, and
    /// those of a write.
    pub fn register_kind(&self, kind: KindDef) -> Result<(RegisteredKind, bool)> {
        self.engine.writes.register_kind(kind)
    }

    /// Drops a kind without series. Returns the commit of the drop.
    ///
    /// # Errors
    /// `not_found`; `kind_in_use` while series of it exist, also those that only snapshots show.
    pub fn drop_kind(&self, name: &str) -> Result<u64> {
        self.engine.writes.drop_kind(name)
    }

    /// The kind of this name: a built-in or a registered one.
    ///
    /// # Errors
    /// `not_found`, naming similar kinds.
    pub fn kind(&self, name: &str) -> Result<Arc<KindDef>> {
        if let Some(kind) = built_in_named(name) {
            return Ok(Arc::new(kind.clone()));
        }
        let state = self.snapshot();
        state.kinds.get(name).map(|kind| Arc::clone(&kind.def)).ok_or_else(|| state.kind_not_found(name))
    }

    /// Every named snapshot, by name.
    pub fn snapshots(&self) -> Vec<(String, Snapshot)> {
        self.snapshot().snapshots.iter().map(|(name, snapshot)| (name.clone(), *snapshot)).collect()
    }

    /// Merges chunks of these series (all when empty) where it is due: 8 or more in a partition or slice of it, 30 % of
    /// its bytes garbage, or many deletes over it; with `full` wherever there is more than one chunk or any garbage.
    /// Readers of the old files are not disturbed.
    ///
    /// # Errors
    /// `series_not_found`; `corrupt_data` when a chunk is damaged: its partition stays as it is.
    pub fn compact(&self, keys: &[SeriesKey], full: bool) -> Result<CompactReport> {
        self.engine.maintenance.compact(&self.ids_of(keys)?, full)
    }

    /// The same by series id. Ids of dropped series are skipped.
    ///
    /// # Errors
    /// `corrupt_data` when a chunk is damaged: its partition stays as it is.
    pub fn compact_ids(&self, ids: &[SeriesId], full: bool) -> Result<CompactReport> {
        if ids.is_empty() {
            return Ok(CompactReport::default());
        }
        self.engine.maintenance.compact(ids, full)
    }

    /// Ids of these series.
    ///
    /// # Errors
    /// `series_not_found`.
    pub fn series_ids(&self, keys: &[SeriesKey]) -> Result<Vec<SeriesId>> {
        self.ids_of(keys)
    }

    /// Unlinks files that were replaced and that no reader uses.
    pub fn vacuum(&self) -> Result<VacuumReport> {
        self.engine.maintenance.vacuum()
    }

    /// Deletes what the retention of these series (all when empty) no longer covers. Returns what was deleted, by
    /// series id.
    ///
    /// The age of a row is measured from the newest row of its series, or from the clock when that row lies in the
    /// future.
    ///
    /// # Errors
    /// `series_not_found`, and those of a delete.
    pub fn apply_retention(&self, keys: &[SeriesKey]) -> Result<Vec<(SeriesId, DeleteOutcome)>> {
        self.engine.maintenance.retain(true, &self.ids_of(keys)?)
    }

    fn ids_of(&self, keys: &[SeriesKey]) -> Result<Vec<SeriesId>> {
        let state = self.snapshot();
        let id = |key| state.get(key).map(|series| series.id).ok_or_else(|| series_not_found(key));
        keys.iter().map(id).collect()
    }

    /// Checks every file of the store, as [`verify`] does from outside.
    ///
    /// # Errors
    /// `not_ready` when `control` was cancelled, `io` when a directory cannot be listed.
    pub fn verify(&self, control: &TaskControl) -> Result<VerifyReport> {
        verify_open(&self.engine.root, &self.engine.wal, control)
    }

    /// The same check; also rewrites sidecars that are damaged or missing, unless it is a dry run. No other file is
    /// changed. Rewritten files are listed apart from the findings.
    ///
    /// # Errors
    /// As [`Store::verify`], and those of writing.
    pub fn scrub(&self, dry_run: bool, control: &TaskControl) -> Result<VerifyReport> {
        scrub(&self.engine.root, &self.engine.maintenance, dry_run, control)
    }

    /// Explains which chunks overlap now.
    pub fn overlaps(&self) -> OverlapReport {
        explain(&self.snapshot(), self.cache(), self.engine.options.chunk_bytes_max)
    }

    /// Backs the whole store up into `target`, a new or empty directory or one with an earlier backup of this store,
    /// as it is at one commit. Readers, writers and maintenance continue meanwhile.
    ///
    /// # Errors
    /// `invalid_argument` when the directory lies in a store or in another backup, or the store in it, or when it holds
    /// something else;
    /// `corrupt_data` naming a damaged file of the store; `storage_full`; `writer_stopped` when what is in the log
    /// cannot be moved out of it; `not_ready` when it was cancelled. An unfinished backup is removed again.
    pub fn backup(&self, target: &Path, options: &BackupOptions, control: &TaskControl) -> Result<BackupReport> {
        let Engine { root, epoch, maintenance, .. } = &self.engine;
        BackupRun { root, epoch, maintenance }.run(&root.elsewhere(target), options, control)
    }

    /// The state of an earlier commit.
    ///
    /// # Errors
    /// `commit_gone` when it is no longer retained.
    pub fn at_commit(&self, commit: u64) -> Result<Arc<StoreState>> {
        self.engine.reads.at_commit(self.snapshot(), commit)
    }

    /// The series of these keys at an earlier commit, and perhaps others.
    ///
    /// Finds more than [`Store::at_commit`]: a series that did not change since needs no retained commit.
    ///
    /// # Errors
    /// `commit_gone` when the commit is no longer retained for one of them.
    pub fn at_commit_of(&self, commit: u64, keys: &[SeriesKey]) -> Result<Arc<StoreState>> {
        self.engine.reads.at_commit_of(self.snapshot(), commit, keys)
    }

    /// The store as a named snapshot shows it.
    ///
    /// # Errors
    /// `snapshot_not_found`.
    pub fn as_of(&self, name: &str) -> Result<Arc<StoreState>> {
        self.engine.reads.as_of(&self.snapshot(), name)
    }

    /// Registers a series. `created` is false when the same definition exists already.
    ///
    /// # Errors
    /// `series_exists` when it is registered otherwise.
    pub fn register(&self, def: SeriesDef) -> Result<(Arc<SeriesState>, bool, u64)> {
        self.engine.writes.register(def)
    }

    /// Changes what may be changed of a registration; `change` gets the definition as it is. A definition that stays as
    /// it was makes no commit.
    pub fn change_series(
        &self,
        key: &SeriesKey,
        if_version: IfVersion,
        change: impl FnOnce(&mut SeriesDef) -> Result<()>,
    ) -> Result<Arc<SeriesState>> {
        self.engine.writes.change_series(key, if_version, change)
    }

    /// Drops a series with all its rows.
    pub fn drop_series(&self, key: &SeriesKey, if_version: IfVersion) -> Result<DeleteOutcome> {
        self.engine.writes.drop_series(key, if_version)
    }

    /// Decides a write as [`Store::write_many`] does and does not wait for it. Nothing of it is acknowledged or visible
    /// before [`Store::finish_write`]; writes become durable in the order in which they were decided.
    ///
    /// # Errors
    /// Those of [`Store::write_many`].
    pub fn begin_write(&self, writes: Vec<SeriesWrite>, idempotency_key: Option<&str>) -> Result<DecidedWrite> {
        self.engine.writes.begin_write(writes, idempotency_key)
    }

    /// Waits until a write is durable under the configured mode and visible to every reader.
    ///
    /// # Errors
    /// `writer_stopped`, `storage_full`: then nothing of it was written.
    pub fn finish_write(&self, writing: DecidedWrite) -> Result<WriteOutcome> {
        let (outcome, due) = self.engine.writes.finish_write(writing)?;
        if let Some(background) = &self.background {
            due.into_iter().for_each(|id| background.request_seal(id));
        }
        Ok(outcome)
    }

    /// Names the store as it is now. Durable on return as a write is.
    ///
    /// # Errors
    /// `invalid_argument` for a bad name, `snapshot_exists`, `too_large` beyond [`SNAPSHOTS_MAX`], and those of a
    /// write.
    pub fn create_snapshot(&self, name: &str) -> Result<Snapshot> {
        self.engine.writes.create_snapshot(name)
    }

    /// Drops a named view; what only it showed is removed later. Returns the commit of the drop.
    ///
    /// # Errors
    /// `snapshot_not_found`, and those of a write.
    pub fn drop_snapshot(&self, name: &str) -> Result<u64> {
        let commit = self.engine.writes.drop_snapshot(name)?;
        if let Some(background) = &self.background {
            background.request_compaction_of_all();
        }
        Ok(commit)
    }

    /// The chunk files of a series, and which of their rows belong to it. Reads the timestamps of those files that
    /// others, the tail or deletes overlap; the others count in full. `check` is called between pieces and can stop the
    /// work.
    ///
    /// # Errors
    /// That of `check`; `corrupt_data` for a damaged file; `too_large` beyond [`ROW_RANGES_MAX`] ranges.
    pub fn files(&self, series: &SeriesState, check: &dyn Fn() -> Result<()>) -> Result<SeriesFiles> {
        series_files(series, self.cache(), check)
    }
}
