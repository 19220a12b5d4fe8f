//! The engine: one directory, one owning process, many readers.
//!
//! A write is decided under the commit queue's lock, framed into the log, synced and published; readers take the
//! published [`StoreState`] and never wait. Sealing moves the tail into chunk files, and long sorted writes go there at once;
//! a manifest edit makes them count.
//! All methods block and may be called from any thread.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, PoisonError, Weak};

use crate::disk::overlay::OverlayDisk;
use crate::disk::{self, DiskPath};
use crate::error::{Error, ErrorCode, Result};
use crate::format::wal::{Commit, LoggedChange, encode_commit};
use crate::store::backup::create as backup;
use crate::store::backup::target::LISTING;
use crate::store::maintain::background::MaintenanceThreads;
use crate::store::maintain::counters::{self, UpkeepCounts};
use crate::store::maintain::root_check;
use crate::store::manifest::current::CurrentHint;
use crate::store::manifest::edits::Manifest;
use crate::store::open::recover::{self, RecoveryReport};
use crate::store::open_progress::OpenProgress;
use crate::store::publish::seal::SealReport;
use crate::store::read::chunk::{ChunkFile, MapCache};
use crate::store::read::retained_commits::RetainedCommits;
use crate::store::read::state::{SeriesId, SeriesState, StoreState};
use crate::store::wal::commit_queue::{CommitQueue, Durability};
use crate::store::wal::disk_reserve;
use crate::store::write::snapshots;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};
use crate::types::schema::series_not_found;
use crate::types::{SeriesDef, SeriesKey};

/// How a store behaves. The defaults are those of `config/fastk.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// When a write is acknowledged.
    pub durability: Durability,
    /// Longest time written rows stay unsynced under `interval`.
    pub sync_interval_ms: u64,
    /// Bytes of a log segment.
    pub wal_segment_bytes: u64,
    /// Bytes of log frames after which the tail is moved out and the log trimmed.
    pub wal_bytes_max: u64,
    /// Tail rows of one series after which it is sealed.
    pub tail_rows_max: u64,
    /// Bytes of rows that all tails may hold in run files; beyond it the longest are sealed.
    pub tail_bytes_max: u64,
    /// How long the commits of replies, cursors and tickets stay readable.
    pub commit_retention_ms: u64,
    /// About how many bytes of memory earlier commits may take that only a reply can have named: 8 KiB each and the rows
    /// written since. 0 keeps those of cursors and tickets alone, and their files no longer than they are needed.
    pub commit_retention_bytes_max: u64,
    /// Most chunk files mapped at once.
    pub maps_max: usize,
    /// Whether upkeep (sealing, trimming) runs in the background.
    pub upkeep: bool,
    /// Whether blocks are brought into memory when they are read, so that nobody downstream waits for the disk. A
    /// server wants it; an embedder whose own thread reads the cells does not need it.
    pub prefetch: bool,
    /// Where the opening tells how far it is.
    pub opening: Option<Arc<OpenProgress>>,
    /// What becomes of the attempt to open a directory that this process may not write to.
    pub read_only: ReadOnly,
}

/// What becomes of the attempt to open a directory that this process may not write to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadOnly {
    /// It fails with `io`.
    #[default]
    Refused,
    /// The store is opened for reading, and nothing on disk is changed. Every change of it is refused.
    Opened,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            durability: Durability::Sync,
            sync_interval_ms: 200,
            wal_segment_bytes: 16 << 20,
            wal_bytes_max: 64 << 20,
            tail_rows_max: 262_144,
            tail_bytes_max: 1 << 30,
            commit_retention_ms: 600_000,
            commit_retention_bytes_max: 0,
            maps_max: 8_192,
            upkeep: true,
            prefetch: false,
            opening: None,
            read_only: ReadOnly::Refused,
        }
    }
}

/// Refuses a change unless the series is this one, at this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpectedVersion {
    /// `None` for whatever series has the key now.
    pub series_id: Option<SeriesId>,
    pub version: u64,
}

/// Condition of a change; `None` for any version.
pub type IfVersion = Option<ExpectedVersion>;

/// Refuses commits that are still to come.
pub(in crate::store) fn check_past(now: &StoreState, commit: u64) -> Result<()> {
    if commit > now.commit {
        return Err(Error::invalid(format!("commit {commit} lies ahead of the store, which is at {}", now.commit)));
    }
    Ok(())
}

/// What a delete did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeleteOutcome {
    pub series_id: SeriesId,
    pub rows_deleted: u64,
    pub version: u64,
    pub commit: u64,
}

/// An open store. Dropping it syncs the log and gives the directory free.
pub struct Store {
    pub(in crate::store) inner: Arc<StoreInner>,
    pub(in crate::store) upkeep: Option<MaintenanceThreads>,
    /// Held while the directory is only read.
    pub(in crate::store) shared: Option<disk::SharedLock>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("root", &self.inner.root).finish_non_exhaustive()
    }
}

pub(in crate::store) struct StoreInner {
    pub(in crate::store) root: DiskPath,
    pub(in crate::store) options: StoreOptions,
    pub(in crate::store) queue: CommitQueue,
    pub(in crate::store) cache: Arc<MapCache>,
    /// Sealing, trimming and publishing happen one at a time.
    pub(in crate::store) maintenance: Mutex<Maintenance>,
    /// Why the last of them failed, if it did. Not under their lock: looking at it never waits for them.
    pub(in crate::store) upkeep_failed: Mutex<Option<String>>,
    pub(in crate::store) looking: root_check::RootCheck,
    pub(in crate::store) pins: Arc<RetainedCommits>,
    pub(in crate::store) views: snapshots::SnapshotViews,
    pub(in crate::store) counters: counters::Counters,
    /// Series dropped by this process whose files are still there: readers may need them.
    pub(in crate::store) dropped: Mutex<BTreeMap<SeriesId, Arc<SeriesState>>>,
    pub(in crate::store) epoch: String,
    pub(in crate::store) recovery: RecoveryReport,
    /// Never used twice; rises under the queue's lock.
    pub(in crate::store) next_series_id: AtomicU64,
    pub(in crate::store) ballast: disk_reserve::DiskReserve,
    pub(in crate::store) hint: CurrentHint,
    pub(in crate::store) lock: Arc<disk::Lock>,
}

#[derive(Debug)]
pub(in crate::store) struct Maintenance {
    pub(in crate::store) manifest: Manifest,
    /// Chunks this process gave up: whoever holds one still reads its file.
    pub(in crate::store) retired: BTreeMap<u64, Weak<ChunkFile>>,
    /// Series whose chunks changed since they were last looked at for compaction.
    pub(in crate::store) uncompacted: BTreeSet<SeriesId>,
}

impl Maintenance {
    /// Whether a chunk this process gave up is still read.
    pub(in crate::store) fn is_read(&self, chunk_id: u64) -> bool {
        self.retired.get(&chunk_id).is_some_and(|chunk| chunk.strong_count() > 0)
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
        backup::check_finished(root)?;
        if root.join(LISTING).exists() {
            return backup::open(root, options);
        }
        if options.read_only == ReadOnly::Opened && !root.disk().may_write(root) && recover::exists(root)? {
            return Self::open_read_only(root, options);
        }
        let inner = Arc::new(StoreInner::open(root, create, options)?);
        let upkeep = if inner.options.upkeep { Some(MaintenanceThreads::start(&inner)?) } else { None };
        Ok(Self { inner, upkeep, shared: None })
    }

    /// Opens a store in a directory that cannot be written to. What opening writes stays in memory.
    pub(in crate::store) fn open_read_only(root: &DiskPath, options: StoreOptions) -> Result<Self> {
        let shared = disk::SharedLock::acquire(&root.join(recover::LOCK_FILE))?;
        let inner = StoreInner::open(&OverlayDisk::over(root)?, false, StoreOptions { upkeep: false, ..options })?;
        let detail = format!("{} cannot be written to: it is only read", root.display());
        inner.queue.refuse(
            Error::new(ErrorCode::WriterStopped, detail)
                .with_hint("mount it writable, or give this user the right to write to it"),
        );
        Ok(Self { inner: Arc::new(inner), upkeep: None, shared: Some(shared) })
    }

    /// Whether the store is only read because its directory cannot be written to.
    pub fn is_read_only(&self) -> bool {
        self.shared.is_some()
    }

    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    pub fn options(&self) -> &StoreOptions {
        &self.inner.options
    }

    /// Random name of this history of the store.
    pub fn epoch(&self) -> &str {
        &self.inner.epoch
    }

    /// What opening found and did.
    pub fn recovery(&self) -> &RecoveryReport {
        &self.inner.recovery
    }

    /// Why the store takes no writes, if it does not.
    pub fn writer_stopped(&self) -> Option<String> {
        self.inner.queue.stopped()
    }

    /// Refuses a change that is kept beside the log once the directory of the store or its `LOCK` was taken.
    ///
    /// # Errors
    /// `writer_stopped`.
    pub fn check_owned(&self) -> Result<()> {
        self.inner.queue.check_owned()
    }

    /// Why the directory of the store is not the one that was opened, if it is not.
    pub fn root_lost(&self) -> Option<String> {
        self.inner.root_lost()
    }

    /// Why the last background step failed, if it did.
    pub fn upkeep_failed(&self) -> Option<String> {
        self.inner.upkeep_failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes into `LOCK` who serves the store, for other processes to find.
    pub fn describe_holder(&self, json: &str) -> Result<()> {
        self.inner.lock.describe(json)
    }

    /// The store as every reader sees it now.
    pub fn snapshot(&self) -> Arc<StoreState> {
        self.inner.queue.published()
    }

    /// The cache of open chunk files, needed to read from a snapshot.
    pub fn cache(&self) -> &Arc<MapCache> {
        &self.inner.cache
    }

    /// Bytes of the log on disk, and bytes of frames in it.
    pub fn log_bytes(&self) -> (u64, u64) {
        self.inner.queue.log_bytes()
    }

    /// Commits kept readable for cursors and tickets.
    pub fn pins(&self) -> &Arc<RetainedCommits> {
        &self.inner.pins
    }

    /// The state of an earlier commit.
    ///
    /// # Errors
    /// `commit_gone` when nothing kept it.
    pub fn at_commit(&self, commit: u64) -> Result<Arc<StoreState>> {
        let now = self.snapshot();
        if now.commit == commit {
            return Ok(now);
        }
        check_past(&now, commit)?;
        if let Some(kept) = self.inner.pins.get(commit) {
            let replayed = self.inner.pins.replayed();
            if commit > replayed.until {
                return Ok(kept);
            }
            // Read back from the log: the files can be ahead of it.
            let was_there = |series: &&Arc<SeriesState>| series.created_commit <= commit;
            if replayed.dropped <= commit
                && kept.series.values().filter(was_there).all(|series| replayed.holds(series, commit))
            {
                let mut state = StoreState { commit, edit: kept.edit, is_partial: true, ..StoreState::default() };
                kept.registered().filter(was_there).for_each(|series| state.put(series.as_ref().clone()));
                return Ok(Arc::new(state));
            }
        }
        self.of_snapshot(&now, commit)
    }

    /// The series of these keys at an earlier commit, and perhaps others.
    ///
    /// Finds more than [`Store::at_commit`]: a series that did not change since needs nobody who kept the commit.
    ///
    /// # Errors
    /// `commit_gone` when nothing kept the commit for one of them.
    pub fn at_commit_of(&self, commit: u64, keys: &[SeriesKey]) -> Result<Arc<StoreState>> {
        let now = self.snapshot();
        if now.commit == commit {
            return Ok(now);
        }
        check_past(&now, commit)?;
        let (kept, replayed) = (self.inner.pins.get(commit), self.inner.pins.replayed());
        if let Some(kept) = kept.as_ref().filter(|_| commit > replayed.until) {
            return Ok(Arc::clone(kept));
        }
        let mut state = StoreState { commit, edit: now.edit, is_partial: true, ..StoreState::default() };
        let was_there = |series: &&Arc<SeriesState>| series.created_commit <= commit;
        for key in keys {
            let unchanged = now.get(key).filter(was_there);
            let logged = kept.as_ref().and_then(|kept| kept.get(key)).filter(was_there);
            let holds = [unchanged.filter(|s| s.last_commit <= commit), logged.filter(|s| replayed.holds(s, commit))];
            match holds.into_iter().flatten().next() {
                Some(series) => state.put(series.as_ref().clone()),
                // It was not there, unless it was dropped since.
                None if logged.is_none() && kept.is_some() && replayed.dropped <= commit => {}
                None => return self.of_snapshot(&now, commit),
            }
        }
        Ok(Arc::new(state))
    }

    /// The state of a commit that a named snapshot is of.
    pub(in crate::store) fn of_snapshot(&self, now: &StoreState, commit: u64) -> Result<Arc<StoreState>> {
        if let Some((name, _)) = now.snapshots.iter().find(|(_, snapshot)| snapshot.commit == commit) {
            return self.as_of(name);
        }
        let detail = format!("commit {commit} is no longer kept; the store is at {}", now.commit);
        Err(Error::new(ErrorCode::CommitGone, detail).with_hint("read again without commit, cursor or ticket"))
    }

    /// Registers a series. `created` is false when the same definition is there already.
    ///
    /// # Errors
    /// `series_exists` when it is registered otherwise.
    pub fn register(&self, def: SeriesDef) -> Result<(Arc<SeriesState>, bool, u64)> {
        let queue = &self.inner.queue;
        let mut pending = queue.lock();
        if let Some(existing) = pending.state.get(&def.key).cloned() {
            let commit = pending.state.commit;
            let decided = pending.decided();
            drop(pending);
            existing.def.check_same_rows_as(&def)?;
            // It may not be durable yet.
            let decided = decided?;
            queue.wait(&decided)?;
            return Ok((existing, false, commit));
        }
        pending.check_writable()?;
        let id = self.inner.next_series_id.fetch_add(1, Ordering::Relaxed);
        let mut state = pending.state.as_ref().clone();
        state.commit += 1;
        let commit = state.commit;
        let series = SeriesState::new(id, Arc::new(def), commit);
        let operation = LoggedChange::Register { series_id: id, def: def_json(&series.def)? };
        state.put(series.clone());
        let batch = queue.enqueue(&mut pending, state, frame(vec![operation]))?;
        drop(pending);
        queue.wait(&batch)?;
        Ok((Arc::new(series), true, commit))
    }

    /// Changes what may be changed of a registration; `change` gets the definition as it is. A definition that stays as
    /// it was makes no commit.
    pub fn change_series(
        &self,
        key: &SeriesKey,
        if_version: IfVersion,
        change: impl FnOnce(&mut SeriesDef) -> Result<()>,
    ) -> Result<Arc<SeriesState>> {
        let queue = &self.inner.queue;
        let mut pending = queue.lock();
        let series = current(&pending.state, key, if_version)?;
        let mut def = series.def.as_ref().clone();
        change(&mut def)?;
        if def == *series.def {
            // What it is may not be durable yet.
            let decided = pending.decided()?;
            drop(pending);
            queue.wait(&decided)?;
            return Ok(series);
        }
        let mut state = pending.state.as_ref().clone();
        state.commit += 1;
        let mut next = series.touched(state.commit, &state.fences);
        next.def = Arc::new(def);
        let operation = LoggedChange::Register { series_id: next.id, def: def_json(&next.def)? };
        state.put(next.clone());
        let batch = queue.enqueue(&mut pending, state, frame(vec![operation]))?;
        drop(pending);
        queue.wait(&batch)?;
        if next.def.value_index != series.def.value_index {
            // Upkeep writes the new indexes and removes those nobody wants any more.
            next.chunks.iter().for_each(|chunk| self.inner.cache.orders.add_chunk(next.id, chunk.record.id));
        }
        Ok(Arc::new(next))
    }

    /// Drops a series with all its rows.
    pub fn drop_series(&self, key: &SeriesKey, if_version: IfVersion) -> Result<DeleteOutcome> {
        let queue = &self.inner.queue;
        let mut pending = queue.lock();
        let series = current(&pending.state, key, if_version)?;
        let mut state = pending.state.as_ref().clone();
        state.commit += 1;
        let commit = state.commit;
        let gone: Vec<Arc<SeriesState>> = state.drop_series(series.id, commit).into_iter().collect();
        let batch = queue.enqueue(&mut pending, state, frame(vec![LoggedChange::Drop { series_id: series.id }]))?;
        // Before it is durable: a checkpoint right behind it must know that readers may hold the files.
        self.inner.keep_files_of(&gone);
        drop(pending);
        queue.wait(&batch).inspect_err(|_| self.inner.forget_files_of(&gone))?;
        Ok(DeleteOutcome { series_id: series.id, rows_deleted: series.rows, version: series.version + 1, commit })
    }

    /// How many rows a delete would take.
    pub fn count_range(&self, key: &SeriesKey, range: (i64, i64)) -> Result<u64> {
        let state = self.snapshot();
        let series = state.get(key).ok_or_else(|| series_not_found(key))?;
        series.count_rows(&self.inner.cache, range)
    }

    /// Deletes a closed range as one commit. Deleting nothing changes nothing.
    pub fn delete_range(&self, key: &SeriesKey, range: (i64, i64), if_version: IfVersion) -> Result<DeleteOutcome> {
        let deleted = self.inner.delete_range(key, range, if_version)?;
        if let Some(upkeep) = self.upkeep.as_ref().filter(|_| deleted.rows_deleted > 0) {
            upkeep.compact_soon(deleted.series_id);
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
        self.inner.seal(&ids)
    }

    /// What upkeep did since the store was opened.
    pub fn upkeep_counts(&self) -> UpkeepCounts {
        self.inner.counters.counts()
    }

    /// Bytes of a series' chunk files that hold nothing readable, as of the last compaction step.
    pub fn garbage_bytes(&self, series_id: SeriesId) -> u64 {
        self.inner.counters.garbage(series_id)
    }

    /// The same of all series.
    pub fn garbage_bytes_total(&self) -> u64 {
        self.inner.counters.garbage_total()
    }

    /// Bytes of the run files on disk, and how many there are.
    pub fn run_files(&self) -> (u64, u64) {
        self.inner.counters.runs()
    }

    /// Moves everything out of the log (large tails into chunks, small ones into one run file) and trims it.
    pub fn checkpoint(&self) -> Result<()> {
        self.inner.checkpoint()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Some(upkeep) = self.upkeep.take() {
            upkeep.stop();
        }
        if self.inner.queue.takes_writes() {
            let settle = self.inner.queue.flush().and_then(|()| self.inner.queue.sync());
            if let Err(error) = settle.and_then(|()| self.inner.queue.mark()) {
                tracing::error!(%error, "closing the store");
            }
            self.inner.note_current();
        }
    }
}

impl StoreInner {
    pub(in crate::store) fn delete_range(
        &self,
        key: &SeriesKey,
        range: (i64, i64),
        if_version: IfVersion,
    ) -> Result<DeleteOutcome> {
        self.delete_range_if(key, range, if_version, |_| true)
    }

    /// Deletes a range of the series that is there when it comes to it, if that one is `wanted`; else
    /// `commit_conflict`.
    pub(in crate::store) fn delete_range_if(
        &self,
        key: &SeriesKey,
        range: (i64, i64),
        if_version: IfVersion,
        wanted: impl Fn(&SeriesState) -> bool,
    ) -> Result<DeleteOutcome> {
        let queue = &self.queue;
        // The range is read before the lock, and again under it only when the series changed in between.
        let before = queue.published();
        let read = match before.get(key) {
            Some(series) => Some((series.id, series.version, self.read_for_delete(series, range)?)),
            None => None,
        };
        let mut pending = queue.lock_to_read(std::iter::once(key));
        pending.check_writable()?;
        let series = current(&pending.state, key, if_version)?;
        if !wanted(&series) {
            return Err(Error::new(ErrorCode::CommitConflict, format!("series {key} was changed in between")));
        }
        let (deleted, left) = match read {
            Some((id, version, read)) if (id, version) == (series.id, series.version) => read,
            _ => self.read_for_delete(&series, range)?,
        };
        if deleted == 0 {
            let commit = pending.state.commit;
            let decided = pending.decided()?;
            drop(pending);
            queue.wait(&decided)?;
            return Ok(DeleteOutcome { series_id: series.id, rows_deleted: 0, version: series.version, commit });
        }
        let mut state = pending.state.as_ref().clone();
        state.commit += 1;
        let commit = state.commit;
        let mut next = series.without_range(range, deleted, commit, wall_ms(), &state.fences);
        next.bounds = left;
        let version = next.version;
        let operation =
            LoggedChange::Delete { series_id: series.id, start: range.0, end: range.1, deleted, left: next.bounds };
        state.put(next);
        let batch = queue.enqueue(&mut pending, state, frame(vec![operation]))?;
        drop(pending);
        queue.wait(&batch)?;
        Ok(DeleteOutcome { series_id: series.id, rows_deleted: deleted, version, commit })
    }

    /// How many rows a delete takes, and between which timestamps the others lie.
    pub(in crate::store) fn read_for_delete(
        &self,
        series: &SeriesState,
        range: (i64, i64),
    ) -> Result<(u64, Option<(i64, i64)>)> {
        let deleted = series.count_rows(&self.cache, range)?;
        if deleted == 0 {
            return Ok((0, series.bounds));
        }
        let next = series.without_range(range, deleted, series.last_commit + 1, 0, &[]);
        Ok((deleted, next.bounds_after(&self.cache, range)?))
    }

    pub(in crate::store) fn maintenance(&self) -> MutexGuard<'_, Maintenance> {
        self.maintenance.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::store) fn note_upkeep<T>(&self, outcome: &Result<T>) {
        if outcome.as_ref().is_err_and(|error| error.code() == ErrorCode::StorageFull) {
            self.pins.give_up_history();
        }
        let failed = outcome.as_ref().err().map(ToString::to_string);
        *self.upkeep_failed.lock().unwrap_or_else(PoisonError::into_inner) = failed;
    }

    pub(in crate::store) fn keep_files_of(&self, gone: &[Arc<SeriesState>]) {
        self.dropped().extend(gone.iter().map(|series| (series.id, Arc::clone(series))));
    }

    pub(in crate::store) fn forget_files_of(&self, gone: &[Arc<SeriesState>]) {
        self.dropped().retain(|id, _| gone.iter().all(|series| series.id != *id));
    }

    pub(in crate::store) fn dropped(&self) -> MutexGuard<'_, BTreeMap<SeriesId, Arc<SeriesState>>> {
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The series a change is about, at the version it asks for.
pub(in crate::store) fn current(
    state: &StoreState,
    key: &SeriesKey,
    if_version: IfVersion,
) -> Result<Arc<SeriesState>> {
    let series = state.get(key).ok_or_else(|| series_not_found(key))?;
    match if_version {
        Some(expected)
            if expected.version != series.version || expected.series_id.is_some_and(|id| id != series.id) =>
        {
            Err(Error::new(
                ErrorCode::CommitConflict,
                format!("series {key} is at version {}, not {}", series.version, expected.version),
            )
            .with_hint("read it again and repeat the change"))
        }
        _ => Ok(Arc::clone(series)),
    }
}

pub(in crate::store) fn frame(operations: Vec<LoggedChange>) -> Vec<u8> {
    encode_commit(&Commit { receipt: None, wall_ms: wall_ms(), operations })
}

pub(in crate::store) fn def_json(def: &SeriesDef) -> Result<String> {
    serde_json::to_string(def).map_err(|error| Error::internal(format!("registration as JSON: {error}")))
}

/// Milliseconds since the epoch, for people only: nothing is ordered by it.
pub(in crate::store) fn wall_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
