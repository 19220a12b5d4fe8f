//! Publishing: the manifest edit that makes files count, the state readers see after it, and the files it replaces.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, TryLockResult, Weak};

use crate::disk::{self, DiskPath};
use crate::error::{ErrorCode, Result};
use crate::format::manifest::{ChunkRecord, Edit};
use crate::store::manifest::current::CurrentHint;
use crate::store::manifest::edits::Manifest;
use crate::store::publish::counters::Counters;
use crate::store::publish::series_files;
use crate::store::publish::stager::{ChunkStager, bounds_of};
use crate::store::read::chunk::ChunkFile;
use crate::store::read::chunk_paths::{chunk_id_of, chunk_name, series_dir};
use crate::store::read::reads::Reads;
use crate::store::read::series_state::{SeriesId, SeriesState};
use crate::store::read::sidecar;
use crate::store::read::structural::{NewChunks, Structural};
use crate::store::read::tombstone::Tombstone;
use crate::store::wal::component::Wal;
use crate::sync::{Mutex, MutexGuard};

/// The component that publishes files through manifest edits.
#[derive(Debug)]
pub struct Publisher {
    pub root: DiskPath,
    pub wal: Arc<Wal>,
    reads: Arc<Reads>,
    pub stager: ChunkStager,
    pub counters: Counters,
    hint: CurrentHint,
    files: Mutex<PublishedFiles>,
    /// Series dropped by this process whose files still exist: readers may need them.
    dropped: Mutex<BTreeMap<SeriesId, Arc<SeriesState>>>,
}

/// One series' part of a publication.
pub struct SealedSeries {
    pub series_id: SeriesId,
    pub added: Vec<ChunkRecord>,
    pub removed: Vec<Arc<ChunkFile>>,
    /// Tombstones that still hide something afterwards.
    pub tombstones: Vec<Tombstone>,
}

/// The manifest, and what this process knows about the files in addition to it.
#[derive(Debug)]
pub struct PublishedFiles {
    pub manifest: Manifest,
    /// Chunks that this process replaced: a reader that holds one still reads its file.
    pub retired: BTreeMap<u64, Weak<ChunkFile>>,
    /// Series whose chunks changed since the last check for compaction.
    pub uncompacted: BTreeSet<SeriesId>,
}

impl PublishedFiles {
    /// Whether a replaced chunk still has readers.
    pub fn is_read(&self, chunk_id: u64) -> bool {
        self.retired.get(&chunk_id).is_some_and(|chunk| chunk.strong_count() > 0)
    }
}

/// Checks new chunks of a series before they are published in place of some others: of two chunks that span the same
/// times, all commits of one are later than those of the other, so that it is known which row of a timestamp is the later
/// one.
pub fn assert_publishable_chunks(series: &SeriesState, added: &[ChunkRecord], removed: &[Arc<ChunkFile>]) {
    let is_kept = |record: &&ChunkRecord| removed.iter().all(|removed| removed.record.id != record.id);
    let mut ordered: Vec<&ChunkRecord> = added.iter().collect();
    ordered.sort_by_key(|chunk| chunk.ts_min);
    for (at, new) in ordered.iter().enumerate() {
        let stored = series.chunks.within((new.ts_min, new.ts_max)).map(|chunk| &chunk.record).filter(is_kept);
        let later = ordered.iter().skip(at + 1).take_while(|later| later.ts_min <= new.ts_max);
        for other in later.copied().chain(stored) {
            let is_apart = new.commit_hi < other.commit_lo || other.commit_hi < new.commit_lo;
            assert!(is_apart, "commits of {} and of {}", bounds_of(new), bounds_of(other));
        }
    }
}

impl Publisher {
    /// The publisher of a store whose manifest was read.
    pub fn new(root: &DiskPath, wal: Arc<Wal>, reads: Arc<Reads>, manifest: Manifest, chunk_bytes_max: u64) -> Self {
        let files = PublishedFiles {
            uncompacted: manifest.contents.series.keys().copied().collect(),
            retired: BTreeMap::new(),
            manifest,
        };
        Self {
            root: root.clone(),
            stager: ChunkStager::new(root, Arc::clone(&reads.cache), chunk_bytes_max),
            wal,
            reads,
            counters: Counters::default(),
            hint: CurrentHint::new(root),
            files: Mutex::new(files),
            dropped: Mutex::default(),
        }
    }

    /// Publishes an edit. When the system refuses it halfway it is unknown what of it is on disk: the writer stops, as
    /// it does after a failed write of the log. A full disk, or a file that cannot be created, is detected before the
    /// edit has a name and only fails this.
    pub fn publish(&self, files: &mut PublishedFiles, mut edit: Edit) -> Result<u64> {
        // Paths below a directory that was replaced belong to another store.
        self.wal.queue.check_owned()?;
        edit.chunks_unlinked = self.vacuum_files(files);
        let number = files.manifest.publish(edit).inspect_err(|error| {
            let unchanged = error.code() == ErrorCode::StorageFull || error.is_refusal();
            if !unchanged {
                self.wal.queue.stop(error);
            }
        })?;
        self.note_edit(number);
        self.count_runs(files);
        Ok(number)
    }

    /// Records the number and bytes of the run files, so that reading them does not wait for maintenance.
    pub fn count_runs(&self, files: &PublishedFiles) {
        let runs = &files.manifest.contents.runs;
        self.counters.set_runs(runs.values().map(|run| run.bytes).sum(), runs.len() as u64);
    }

    /// Publishes new chunks, then lets readers see them, then lets the files they replace go.
    pub fn publish_chunks(
        &self,
        files: &mut PublishedFiles,
        parts: Vec<(SealedSeries, Option<u64>, Arc<SeriesState>)>,
        mut edit: Edit,
        next_file_id: u64,
    ) -> Result<()> {
        for (part, sealed, series) in &parts {
            assert_publishable_chunks(series, &part.added, &part.removed);
            // A seal takes the rows of run files too.
            let filed = if sealed.is_some() { series.filed.as_slice() } else { &[] };
            series_files::keep_deletes(&self.root, series, &part.removed, filed)?;
            series_files::tombstone_files(&self.root, &files.manifest.contents, series, &part.tombstones, &mut edit)?;
            edit.chunks.extend(part.added.iter().cloned());
            edit.chunks_removed.extend(part.removed.iter().map(|chunk| chunk.record.id));
        }
        edit.next_file_id = next_file_id;
        let number = self.publish(files, edit)?;
        let changes: Vec<NewChunks> = parts
            .iter()
            .map(|(part, sealed_commit, _)| NewChunks {
                series_id: part.series_id,
                added: part.added.iter().map(|r| Arc::new(ChunkFile::new(&self.root, r.clone()))).collect(),
                removed: part.removed.iter().map(|chunk| chunk.record.id).collect(),
                sealed_commit: *sealed_commit,
            })
            .collect();
        self.wal.queue.apply(&mut self.wal.queue.lock(), Structural::Chunks { parts: Arc::new(changes), edit: number });
        self.reads.views.expire(number);
        files
            .uncompacted
            .extend(parts.iter().filter(|(_, sealed, _)| sealed.is_some()).map(|(part, ..)| part.series_id));
        for chunk in parts.iter().flat_map(|(part, ..)| &part.removed) {
            files.retired.insert(chunk.record.id, Arc::downgrade(chunk));
            chunk.retire();
        }
        Ok(())
    }

    /// The tombstones that are still needed after chunks were added and removed.
    pub fn tombstones_after(
        &self,
        mut series: SeriesState,
        added: &[ChunkRecord],
        removed: &[Arc<ChunkFile>],
    ) -> Vec<Tombstone> {
        let is_removed =
            |chunk: &Arc<ChunkFile>| removed.iter().any(|is_removed| is_removed.record.id == chunk.record.id);
        let kept = series.chunks.iter().filter(|chunk| !is_removed(chunk)).cloned();
        let new = added.iter().map(|record| Arc::new(ChunkFile::new(&self.root, record.clone())));
        series.chunks = Arc::new(kept.chain(new).collect());
        series.needed_tombstones()
    }

    /// Unlinks chunk files, from the id `first` on, that were written for an edit which was not published. Nothing else
    /// does, and on a full disk every attempt would take more of the remaining space.
    pub fn remove_unpublished(&self, series_id: SeriesId, first: u64) {
        // An edit that failed halfway may count after all.
        if self.wal.queue.stopped().is_some() {
            return;
        }
        let dir = series_dir(&self.root, series_id);
        for name in disk::list(&dir).unwrap_or_default() {
            if chunk_id_of(&name).is_some_and(|id| id >= first)
                && let Err(error) = disk::remove(&dir.join(name))
            {
                tracing::warn!(%error, "an unpublished file could not be removed");
            }
        }
    }

    /// The same for one chunk.
    pub fn remove_unpublished_chunk(&self, record: &ChunkRecord) {
        if self.wal.queue.stopped().is_some() {
            return;
        }
        let path = series_dir(&self.root, record.series_id).join(chunk_name(&record.partition, record.id));
        if let Err(error) = sidecar::remove_all(&path).and_then(|()| disk::remove(&path)) {
            tracing::warn!(%error, "an unpublished file could not be removed");
        }
    }

    /// Unlinks replaced files that no reader uses, and returns their ids; for the next edit to record.
    pub fn vacuum_files(&self, files: &mut PublishedFiles) -> Vec<u64> {
        let mut unlinked = Vec::new();
        for record in files.manifest.contents.waiting.values() {
            // A chunk retired by this process unlinks itself when its last reader is dropped.
            if files.is_read(record.id) {
                continue;
            }
            let path = series_dir(&self.root, record.series_id).join(chunk_name(&record.partition, record.id));
            match disk::remove(&path).and_then(|()| sidecar::remove_all(&path)) {
                Ok(()) => unlinked.push(record.id),
                Err(error) => tracing::warn!(%error, "a replaced file could not be removed"),
            }
        }
        for id in &unlinked {
            files.retired.remove(id);
        }
        self.counters.add_vacuum(unlinked.len() as u64);
        unlinked
    }

    /// Records an edit that is durable in the hint `CURRENT`.
    pub fn note_edit(&self, number: u64) {
        self.hint.set_edit(number);
        self.note_current();
    }

    /// Records in the hint `CURRENT` how far the store is.
    pub fn note_current(&self) {
        self.hint.note(|| self.wal.queue.segment());
    }

    /// The lock under which files are written for the manifest: sealing, trimming and publishing happen one at a time.
    pub fn lock(&self) -> MutexGuard<'_, PublishedFiles> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same lock, unless it is held.
    pub fn try_lock(&self) -> TryLockResult<MutexGuard<'_, PublishedFiles>> {
        self.files.try_lock()
    }

    pub fn keep_files_of(&self, dropped_series: &[Arc<SeriesState>]) {
        self.dropped().extend(dropped_series.iter().map(|series| (series.id, Arc::clone(series))));
    }

    pub fn forget_files_of(&self, dropped_series: &[Arc<SeriesState>]) {
        self.dropped().retain(|id, _| dropped_series.iter().all(|series| series.id != *id));
    }

    pub fn dropped(&self) -> MutexGuard<'_, BTreeMap<SeriesId, Arc<SeriesState>>> {
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
