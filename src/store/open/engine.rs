//! Opening a store for use: recovery, cleanup, and the components over the recovered state.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::clock::elapsed_ms;
use crate::disk::{self, DiskPath};
use crate::error::{Error, ErrorCode, Result};
use crate::format::FORMAT_VERSION;
use crate::format::manifest::Edit;
use crate::store::directory::{DIRECTORIES, FORMAT_FILE, LOCK_FILE, format_text, is_token_file};
use crate::store::maintain::maintenance::Maintenance;
use crate::store::maintain::root_check::RootCheck;
use crate::store::manifest::edits::{Contents, Manifest, manifest_dir};
use crate::store::open::recover::{
    ManifestTrust, RecoveredStore, RecoveryReport, RetainedRange, exists, read_store_with_progress,
};
use crate::store::open_progress::OpenStep;
use crate::store::options::StoreOptions;
use crate::store::publish::publisher::Publisher;
use crate::store::publish::series_files::{DROP_MARKER, DropMarker, put_drop_marker, remove_series_files};
use crate::store::read::chunk::MapCache;
use crate::store::read::chunk_paths::{chunk_id_of, series_dir};
use crate::store::read::reads::Reads;
use crate::store::read::retained_commits::{COMMIT_BYTES, RetainedCommits};
use crate::store::read::series_state::SeriesId;
use crate::store::read::snapshot_views::SnapshotViews;
use crate::store::registration::parse_def;
use crate::store::wal::commit_queue::CommitQueue;
use crate::store::wal::component::Wal;
use crate::store::wal::disk_reserve::DiskReserve;
use crate::store::wal::segments::Log;
use crate::store::write::writes::Writes;

/// The components of an open store. Dropping it leaves the log synced and releases the directory.
#[derive(Debug)]
pub struct Engine {
    pub root: DiskPath,
    pub options: Arc<StoreOptions>,
    /// Random name of this history of the store.
    pub epoch: String,
    /// What opening found and did.
    pub recovery: RecoveryReport,
    pub root_check: RootCheck,
    pub maintenance: Arc<Maintenance>,
    pub writes: Arc<Writes>,
    pub publisher: Arc<Publisher>,
    pub reads: Arc<Reads>,
    pub wal: Arc<Wal>,
    /// Released last.
    pub lock: Arc<disk::Lock>,
}

impl Engine {
    /// Opens the store in `root`, creating it when `create` is set and there is none.
    ///
    /// # Errors
    /// `store_locked` when another process has it open, `not_found` when there is none, `unsupported_format` for a
    /// newer one, and those of the disk.
    pub fn open(root: &DiskPath, create: bool, options: StoreOptions) -> Result<Self> {
        let started = std::time::Instant::now();
        let opening = options.opening.clone().unwrap_or_default();
        let existed = exists(root)?;
        if !existed && !create {
            return Err(Error::new(ErrorCode::NotFound, format!("{} is not a store", root.display()))
                .with_hint("serve, demo, import and register create one"));
        }
        disk::create_dir(root)?;
        if !existed {
            check_unused(root)?;
        }
        let lock = disk::Lock::acquire(&root.join(LOCK_FILE))?;
        lock.describe(&format!("{{\"pid\":{},\"format\":{FORMAT_VERSION}}}\n", std::process::id()))?;
        // Without the lock another process may have created the store since the first look.
        let exists = existed || exists(root)?;
        if !exists {
            create_store(root)?;
        }
        let retained = (options.commit_retention_bytes_max > 0).then(|| RetainedRange {
            commits_max: options.commit_retention_bytes_max / COMMIT_BYTES,
            since_ms: options.clock.wall_ms().saturating_sub_unsigned(options.commit_retention_ms),
        });
        let RecoveredStore {
            state,
            manifest: found,
            log: recovered,
            start,
            mut report,
            newest,
            next_series_id,
            left_in_runs,
            replayed,
            ..
        } = read_store_with_progress(root, ManifestTrust::Manifest, &opening, retained)?;
        opening.begin(OpenStep::Tidy, 0);
        report.created = !exists;
        let cache = Arc::new(MapCache::new(options.maps_max, options.prefetch));
        // Entity tags, cursors and tickets of before refer to rows that are not all there.
        let lost = recovered.has_lost() || found.contents.epoch.is_empty();
        let epoch_of_damaged = if lost && !report.damage.is_empty() { Some(fresh_epoch(root)?) } else { None };
        let next_lsn = recovered.next_lsn;
        let mut manifest = Manifest::new(root, found);
        let damaged = !report.damage.is_empty();
        let log = if damaged {
            Log::closed(root, &recovered, options.wal_segment_bytes)
        } else {
            remove_leftovers(root, &manifest.contents, newest, &mut report)?;
            let log = Log::open(root, start, &recovered, options.wal_segment_bytes)?;
            // After the log has a segment: a store with a name and without a log lost it.
            if manifest.contents.epoch.is_empty() {
                manifest.publish(first_edit(root)?)?;
            }
            log
        };
        log_report(&report);
        let stopped = damaged.then(|| format!("the store is damaged: {}", report.damage.join("; ")));
        let lock = Arc::new(lock);
        let retained = Arc::new(
            RetainedCommits::new(options.commit_retention_ms, options.clock.clone())
                .with_history(options.commit_retention_bytes_max, replayed),
        );
        let queue = CommitQueue::new(state, log, next_lsn, options.durability, stopped)
            .owned_by(Arc::clone(&lock))
            .with_past(Arc::clone(&retained))
            .with_clock(options.clock.clone());
        report.duration_ms = elapsed_ms(started);
        let epoch = epoch_of_damaged.unwrap_or_else(|| manifest.contents.epoch.clone());
        let options = Arc::new(options);
        let reads = Arc::new(Reads { cache, retained, views: SnapshotViews::default() });
        let wal = Arc::new(Wal { queue, reserve: DiskReserve::new(root, options.wal_segment_bytes) });
        let publisher =
            Arc::new(Publisher::new(root, Arc::clone(&wal), Arc::clone(&reads), manifest, options.chunk_bytes_max));
        let writes = Arc::new(Writes::new(root, &publisher, &wal, &reads, options.tail_rows_max, next_series_id));
        let maintenance = Arc::new(Maintenance::new(root, &options, &wal, &reads, &publisher, &writes));
        publisher.count_runs(&publisher.lock());
        if !damaged {
            remove_dropped(root, &publisher.lock().manifest.contents, &left_in_runs)?;
            wal.reserve.take();
            // Names that a killed process had not synced were read above: they are made durable before the hint records
            // them.
            disk::sync_dir(&manifest_dir(root))?;
            disk::sync_dir(&root.join("wal"))?;
            let number = publisher.lock().manifest.contents.number;
            publisher.note_edit(number);
        }
        let root_check = RootCheck::new(Arc::clone(&lock));
        Ok(Self {
            root: root.clone(),
            options,
            epoch,
            recovery: report,
            root_check,
            maintenance,
            writes,
            publisher,
            reads,
            wal,
            lock,
        })
    }

    /// Refuses every write from now on.
    pub fn refuse(&self, refusal: Error) {
        self.wal.queue.refuse(refusal);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let queue = &self.wal.queue;
        if queue.takes_writes() {
            let synced = queue.flush().and_then(|()| queue.sync());
            if let Err(error) = synced.and_then(|()| queue.mark()) {
                tracing::error!(%error, "closing the store");
            }
            self.publisher.note_current();
        }
    }
}

/// Removes files of series whose drop was published before a crash. Where a snapshot still shows a series, its drop
/// gets the marker that it lacks in a store that was restored.
fn remove_dropped(root: &DiskPath, contents: &Contents, left_in_runs: &BTreeSet<SeriesId>) -> Result<()> {
    let known = &contents.series;
    for record in known.values().filter(|record| record.dropped_commit > 0) {
        put_drop_marker(root, record.id, parse_def(&record.def)?.key.clone(), record.dropped_commit)?;
    }
    for name in disk::list(&root.join("chunks"))? {
        let Ok(id) = name.parse::<u64>() else { continue };
        if !known.contains_key(&id) && series_dir(root, id).join(DROP_MARKER).found()? {
            remove_series_files(
                root,
                id,
                if left_in_runs.contains(&id) { DropMarker::Kept } else { DropMarker::Removed },
            );
        }
    }
    Ok(())
}

/// The parts of a new store before it has contents.
fn create_store(root: &DiskPath) -> Result<()> {
    for name in DIRECTORIES {
        disk::create_dir(&root.join(name))?;
    }
    disk::publish(&root.join("tmp"), &root.join(FORMAT_FILE), format_text().as_bytes())?;
    Ok(())
}

/// A name for a new history of a store.
pub fn fresh_epoch(root: &DiskPath) -> Result<String> {
    Ok(format!("{:016x}", disk::random(root)?))
}

fn first_edit(root: &DiskPath) -> Result<Edit> {
    let epoch = fresh_epoch(root)?;
    Ok(Edit { epoch, wal_first_segment: 1, wal_first_lsn: 1, next_series_id: 1, next_file_id: 1, ..Edit::default() })
}

/// Removes what a crash left over and nothing names. Only called for a store without damage.
fn remove_leftovers(root: &DiskPath, contents: &Contents, newest: bool, report: &mut RecoveryReport) -> Result<()> {
    for name in DIRECTORIES {
        disk::create_dir(&root.join(name))?;
    }
    for name in disk::list(&root.join("tmp"))? {
        let leftover = root.join("tmp").join(name);
        // Statements of SQL spill into a directory.
        if leftover.is_dir() { disk::remove_tree(&leftover)? } else { disk::remove(&leftover)? }
    }
    // Files with numbers the manifest did not assign could be those of an edit that was removed, unless it is known
    // that there was none.
    let below = if newest { u64::MAX } else { contents.next_file_id };
    report.leftovers_removed = remove_unnamed(root, contents, below)?;
    Ok(())
}

/// Removes files that were replaced and that a crash left, and those of work that never reached the manifest. Their
/// rows are in the log or in files the manifest names: nothing is trimmed or removed before an edit says so. Left for
/// ever, they would come back when a manifest is rebuilt from the files.
fn remove_unnamed(root: &DiskPath, contents: &Contents, below: u64) -> Result<u64> {
    let mut removed = 0;
    let dir = root.join("runs");
    for name in disk::list(&dir)? {
        let Some((Ok(id), kind)) = name.split_once('.').map(|(id, kind)| (id.parse::<u64>(), kind)) else { continue };
        let named = match kind {
            "run" => contents.runs.contains_key(&id),
            "receipts" => contents.receipts.contains_key(&id),
            _ => true,
        };
        if !named && id < below {
            disk::remove(&dir.join(&name))?;
            removed += 1;
        }
    }
    for series in disk::list(&root.join("chunks"))? {
        let Ok(series_id) = series.parse::<u64>() else { continue };
        let dir = series_dir(root, series_id);
        for name in disk::list(&dir)? {
            let Some(id) = chunk_id_of(&name) else { continue };
            if id < below && !contents.chunks.contains_key(&id) && !contents.waiting.contains_key(&id) {
                disk::remove(&dir.join(&name))?;
                removed += 1;
            }
        }
    }
    Ok(removed)
}

fn log_report(report: &RecoveryReport) {
    for torn in &report.torn {
        tracing::warn!(torn, "the incomplete write at the end of the log was truncated");
    }
    for damage in &report.redundant_damage {
        tracing::warn!(damage, "damage without loss of data; `fastk admin repair` fixes it");
    }
    for damage in &report.damage {
        tracing::error!(damage, "the store is damaged and read-only until `fastk admin repair`");
    }
    for (first, last) in &report.lost_lsns {
        tracing::error!(first, last, "commits of these log sequence numbers are lost");
    }
    if let Some(first) = report.lost_from {
        tracing::error!(first, "the end of the log is missing; commits from this log sequence number on may be lost");
    }
    for (first, last) in &report.lost_commits {
        tracing::error!(first, last, "these commits are lost, unless they are also stored outside the log");
    }
    for id in &report.lost_series {
        tracing::error!(id, "a series is lost: its registration is in a part of the log that is lost");
    }
    for (name, commit) in &report.lost_snapshots {
        tracing::error!(name, commit, "a snapshot is lost");
    }
}

/// Refuses to create a store in a directory that holds other files. Takes no lock, so that a refused directory is left
/// as it was: a store that another process is creating there at the same time is no reason to refuse.
fn check_unused(root: &DiskPath) -> Result<()> {
    let foreign: Vec<String> = disk::list(root)?
        .into_iter()
        .filter(|name| name != LOCK_FILE && !DIRECTORIES.contains(&name.as_str()) && !is_token_file(name))
        .collect();
    match foreign.first() {
        None => Ok(()),
        Some(_) if exists(root)? => Ok(()),
        Some(name) => {
            Err(Error::invalid(format!("{} is not empty (it has {name:?}) and is not a store", root.display()))
                .with_hint("choose an empty or new directory"))
        }
    }
}
