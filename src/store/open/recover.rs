//! Opening a store, in the steps that `docs/recovery.md` numbers: lock, format, manifest, files of the tail, log, replay;
//! only then, and only when nothing is damaged, what is left over is tidied away and the log opened for writing.
//!
//! Reading changes nothing on disk, so a crash before the tidying leaves what was there, and each step of the tidying can
//! be taken again. Damage in the log, the manifest, the files of the tail or FORMAT never stops the opening: what is
//! intact is served, the rest is named, and the store takes no writes until it is repaired.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::disk::{self, DiskPath};
use crate::error::{Error, ErrorCode, Result};
use crate::format::FORMAT_VERSION;
use crate::format::manifest::Edit;
use crate::format::wal::{Commit, LoggedChange, decode_commit};
use crate::planted::{Bug, planted};
use crate::store::facade::{Maintenance, StoreInner, StoreOptions, wall_ms};
use crate::store::maintain::checkpoint::{load_receipts, load_run, receipts_path, run_path};
use crate::store::manifest::edits::{Contents, Manifest};
use crate::store::manifest::{current, edits as manifest};
use crate::store::open::salvage;
use crate::store::open_progress::{OpenProgress, OpenStep};
use crate::store::publish::seal::{DROP_MARKER, DropMarker};
use crate::store::read::chunk::{ChunkFile, MapCache, chunk_id_of, series_dir};
use crate::store::read::retained_commits::{COMMIT_BYTES, ReplayedCommits, RetainedCommits};
use crate::store::read::state::{Run, SeriesId, SeriesState, SeriesView, Snapshot, StoreState, Tombstone};
use crate::store::wal::commit_queue::CommitQueue;
use crate::store::wal::disk_reserve::DiskReserve;
use crate::store::wal::segments as log;
use crate::store::wal::segments::Log;
use crate::sync::Mutex;
use crate::sync::atomic::AtomicU64;
use crate::types::{Rows, SeriesDef};

/// What opening found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Whether the store was created.
    pub created: bool,
    /// Commits replayed from the log.
    pub commits_replayed: u64,
    /// Torn ends of unfinished writes that were cut.
    pub torn: Vec<String>,
    /// Damage that keeps the store from taking writes until it is repaired.
    pub damage: Vec<String>,
    /// Closed ranges of log sequence numbers whose commits are lost.
    pub lost_lsns: Vec<(u64, u64)>,
    /// Log sequence number from which on commits may be lost without a trace: the end of the log is gone.
    pub lost_from: Option<u64>,
    /// Closed ranges of the commits that were in what the log lost; `None` for an end nobody knows. Commits that went
    /// to chunks without the log are among the numbers, and are not lost.
    pub lost_commits: Vec<(u64, Option<u64>)>,
    /// Names and commits of snapshots that are known from the manifest only, since the log lost their commit.
    pub lost_snapshots: Vec<(String, u64)>,
    /// Numbers of series whose registration the log lost: what later commits did to them cannot be applied.
    pub lost_series: Vec<u64>,
    /// Damage that cost nothing.
    pub spare: Vec<String>,
    /// Files of unfinished work that were removed.
    pub leftovers_removed: u64,
    /// Milliseconds it took.
    pub duration_ms: u64,
}

/// Says which format the store has.
pub const FORMAT_FILE: &str = "FORMAT";
/// Held by the process that has the store open.
pub const LOCK_FILE: &str = "LOCK";
/// Directories of a store.
pub const DIRECTORIES: [&str; 6] = ["wal", "runs", "manifest", "chunks", "tmp", "quarantine"];

/// What the manifest of a store is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManifestTrust {
    /// For what it says; where it is damaged the other files are asked.
    Manifest,
    /// For lost: the other files alone are asked.
    FilesOnly,
}

/// A store as it was read, before anything on disk was changed.
#[derive(Debug)]
pub struct RecoveredStore {
    pub state: StoreState,
    /// What counts from now on.
    pub manifest: manifest::RecoveredManifest,
    /// What the manifest itself says, as far as it can be read.
    pub known: Contents,
    /// Whether the files were asked instead.
    pub salvaged: bool,
    pub log: log::RecoveredLog,
    pub start: log::ReplayStart,
    pub report: RecoveryReport,
    pub format_damage: Option<String>,
    /// Damaged run and receipt files.
    pub damaged_files: Vec<(DiskPath, String)>,
    /// Series that are not in the manifest any more and still have rows in run files.
    pub left_in_runs: BTreeSet<SeriesId>,
    /// Whether the manifest is known to be the newest there was.
    pub newest: bool,
    pub next_series_id: u64,
    /// Commits of the log that stay readable.
    pub replayed: ReplayedCommits,
}

/// Which commits of the log are to stay readable.
#[derive(Clone, Copy, Debug)]
struct RetainedRange {
    /// The last ones, at most so many.
    commits_max: u64,
    /// Wall clock in milliseconds from which on they were made.
    since_ms: i64,
}

/// Reads a store without changing anything. Damage is no error: it is told in the report.
///
/// # Errors
/// `unsupported_format`, and those of reading files.
pub fn read_store(root: &DiskPath, trust: ManifestTrust) -> Result<RecoveredStore> {
    read_store_telling(root, trust, &OpenProgress::default(), None)
}

/// The same; `opening` is told how far it is, and `wanted` commits of the log are given back.
///
/// # Errors
/// Those of [`read_store`].
fn read_store_telling(
    root: &DiskPath,
    trust: ManifestTrust,
    opening: &OpenProgress,
    wanted: Option<RetainedRange>,
) -> Result<RecoveredStore> {
    opening.begin(OpenStep::Manifest, 0);
    let mut report = RecoveryReport::default();
    let mut damage = Vec::new();
    let format_damage = match check_format(root) {
        Err(error) if error.code() == ErrorCode::CorruptData => Some(error.detail().to_owned()),
        other => other.map(|()| None)?,
    };
    damage.extend(format_damage.clone());
    let mut found = manifest::read_manifest(root)?;
    let hint = current::read(root);
    if hint.edit > found.contents.number {
        let (last, edit) = (found.contents.number, hint.edit);
        found.missing.push(format!("the manifest ends at edit {last}, but there was an edit {edit}"));
    }
    // A store without a name is new, unless something is in it.
    if found.contents.epoch.is_empty() && salvage::holds_data(root)? {
        found.missing.push("the manifest is gone".to_owned());
    }
    report.spare.extend(found.spare.iter().cloned());
    damage.extend(found.missing.iter().cloned());
    let newest = hint.edit == found.contents.number;
    let known = found.contents.clone();
    let mut marked = Vec::new();
    let salvaged = trust == ManifestTrust::FilesOnly || !found.missing.is_empty();
    if salvaged {
        let nothing = Contents { number: known.number, ..Contents::default() };
        let believed = if trust == ManifestTrust::FilesOnly { &nothing } else { &known };
        // Where the log begins is no statement about rows: it shows whether its beginning is missing.
        let begins = (found.missing.is_empty() && !known.epoch.is_empty())
            .then_some((known.wal_first_segment, known.wal_first_lsn));
        (found.contents, marked) = salvage::contents(root, believed, begins)?;
    }
    let contents = &found.contents;
    let start = log::ReplayStart {
        segment: contents.wal_first_segment,
        lsn: contents.wal_first_lsn,
        last_segment: hint.wal_segment,
        new: known.epoch.is_empty() && !salvaged,
    };
    let mut log = log::read_log(root, start, opening)?;
    // Later snapshots are in the log, unless it lost them. An edit that is missing may have trimmed their frames.
    let told_to = match log.commits.first() {
        _ if !salvaged => contents.base_commit,
        _ if log.has_lost() => known.base_commit,
        first => first.map_or(u64::MAX, |(frame, _)| frame.commit - 1).max(known.base_commit),
    };
    let mut state = state_of(root, contents, told_to)?;
    let (damaged_files, left_in_runs) = load_runs(root, contents, &mut state)?;
    damage.extend(damaged_files.iter().map(|(_, reason)| reason.clone()));
    damage.extend(log.rot.iter().cloned());
    let runs_base = contents.runs.values().map(|run| run.base_commit).max().unwrap_or(0);
    let base = contents.base_commit.max(known.base_commit).max(runs_base);
    let mut lost_commits = lost_commits(&log, base, highest_commit(&known));
    let mut replay = Replay {
        state: &mut state,
        contents,
        next_series_id: contents.next_series_id,
        loose: HashMap::new(),
        snapshots_seen: BTreeSet::new(),
        unknown: BTreeMap::new(),
        replayed: ReplayedCommits::default(),
    };
    let keep_from = (log.commits.len() as u64).saturating_sub(wanted.map_or(0, |wanted| wanted.commits_max));
    let mut position = 0_u64;
    opening.begin(OpenStep::Commits, log.commits.len() as u64);
    for (frame, payload) in std::mem::take(&mut log.commits) {
        opening.advance();
        position += 1;
        if frame.commit <= contents.base_commit {
            continue;
        }
        match decode_commit(&payload) {
            Ok(commit) => {
                let is_kept = position > keep_from && wanted.is_some_and(|wanted| commit.wall_ms >= wanted.since_ms);
                replay.commit(frame.commit, commit)?;
                if is_kept {
                    replay.keep();
                }
            }
            Err(error) => {
                // Its checksum is right: whoever wrote it wrote nonsense.
                damage.push(format!("log frame {}: {}", frame.lsn, error.detail()));
                log.lost.push((frame.lsn, frame.lsn));
                lost_commits.push((frame.commit, Some(frame.commit)));
            }
        }
        report.commits_replayed += 1;
    }
    replay.settle_all();
    let next_series_id = replay.next_series_id;
    let (seen, unknown, mut replayed) = (replay.snapshots_seen, replay.unknown, replay.replayed);
    let unseen = known
        .snapshots
        .values()
        .filter(|snapshot| snapshot.commit > told_to && !seen.contains(&(snapshot.name.clone(), snapshot.commit)));
    if log.has_lost() {
        // Their frames are whole, and their rows are lost all the same.
        lost_commits.extend(unknown.values().flatten().map(|commit| (*commit, Some(*commit))));
        report.lost_series = unknown.keys().copied().collect();
        report.lost_snapshots = unseen.map(|snapshot| (snapshot.name.clone(), snapshot.commit)).collect();
    }
    if salvaged {
        salvage::drop_marked(&mut state, &marked);
        salvage::recount(&mut state, None);
        // Not every commit is in the log: the next one has to come behind all that any file has.
        state.commit = state.commit.max(highest_commit(&known)).max(highest_commit(&found.contents));
    }
    replayed.until = state.commit;
    if salvaged || !damage.is_empty() {
        // What is missing from the files is missing from earlier commits too, and nobody could tell.
        replayed.states.clear();
    }
    report.torn.clone_from(&log.torn);
    report.lost_lsns.clone_from(&log.lost);
    report.lost_from = log.lost_from;
    report.lost_commits = merged(lost_commits);
    report.damage = damage;
    Ok(RecoveredStore {
        state,
        manifest: found,
        known,
        salvaged,
        log,
        start,
        report,
        format_damage,
        damaged_files,
        left_in_runs,
        newest,
        next_series_id,
        replayed,
    })
}

/// The commits that were in what the log lost, by the frames before and behind; the manifest has everything up to `base`,
/// and knows that there was a commit `highest`.
fn lost_commits(log: &log::RecoveredLog, base: u64, highest: u64) -> Vec<(u64, Option<u64>)> {
    let frames = || log.commits.iter().map(|(frame, _)| (frame.lsn, frame.commit));
    let before = |lsn: u64| frames().filter(|frame| frame.0 < lsn).map(|frame| frame.1).max().unwrap_or(0).max(base);
    let behind = |lsn: u64| frames().filter(|frame| frame.0 > lsn).map(|frame| frame.1).min();
    let mut lost = Vec::new();
    for (first, last) in &log.lost {
        let from = before(*first) + 1;
        let to = match behind(*last) {
            Some(next) => next - 1,
            // At most one commit a frame.
            None => (from + (last - first)).max(highest),
        };
        if from <= to {
            lost.push((from, Some(to)));
        }
    }
    if let Some(first) = log.lost_from {
        lost.push((before(first) + 1, None));
    }
    lost
}

/// Ranges in their order, with those that touch as one.
fn merged(mut ranges: Vec<(u64, Option<u64>)>) -> Vec<(u64, Option<u64>)> {
    ranges.sort_unstable();
    let mut merged: Vec<(u64, Option<u64>)> = Vec::new();
    for (first, last) in ranges {
        match merged.last_mut() {
            Some((_, None)) => {}
            Some((_, Some(end))) if first <= *end + 1 => {
                let longer = last.map(|last| last.max(*end));
                if let Some((_, end)) = merged.last_mut() {
                    *end = longer;
                }
            }
            _ => merged.push((first, last)),
        }
    }
    merged
}

/// The highest commit that anything the manifest names is of.
pub fn highest_commit(contents: &Contents) -> u64 {
    let chunks = contents.chunks.values().chain(contents.waiting.values()).map(|chunk| chunk.commit_hi);
    let series = contents
        .series
        .values()
        .flat_map(|series| [series.sealed_commit, series.last_commit, series.created_commit, series.dropped_commit]);
    let tombstones = contents.tombstones.iter().map(|(_, commit, ..)| *commit);
    let snapshots = contents.snapshots.values().map(|snapshot| snapshot.commit);
    let runs = contents.runs.values().map(|run| run.base_commit);
    let all = chunks.chain(series).chain(tombstones).chain(snapshots).chain(runs);
    all.max().unwrap_or(0).max(contents.base_commit)
}

/// Whether there is a store, damaged or not.
pub fn exists(root: &DiskPath) -> Result<bool> {
    Ok(root.join(FORMAT_FILE).found()?
        || !disk::list(&manifest::manifest_dir(root))?.is_empty()
        || salvage::holds_data(root)?)
}

impl StoreInner {
    pub fn open(root: &DiskPath, create: bool, options: StoreOptions) -> Result<Self> {
        let begun = std::time::Instant::now();
        let opening = options.opening.clone().unwrap_or_default();
        let was_there = exists(root)?;
        if !was_there && !create {
            return Err(Error::new(ErrorCode::NotFound, format!("{} holds no store", root.display()))
                .with_hint("serve, demo, import and register create one"));
        }
        disk::create_dir(root)?;
        if !was_there {
            check_unused(root)?;
        }
        let lock = disk::Lock::acquire(&root.join(LOCK_FILE))?;
        lock.describe(&format!("{{\"pid\":{},\"format\":{FORMAT_VERSION}}}\n", std::process::id()))?;
        // Without the lock another process may have created the store since the first look.
        let exists = was_there || exists(root)?;
        if !exists {
            create_store(root)?;
        }
        let wanted = (options.commit_retention_bytes_max > 0).then(|| RetainedRange {
            commits_max: options.commit_retention_bytes_max / COMMIT_BYTES,
            since_ms: wall_ms().saturating_sub_unsigned(options.commit_retention_ms),
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
        } = read_store_telling(root, ManifestTrust::Manifest, &opening, wanted)?;
        opening.begin(OpenStep::Tidy, 0);
        report.created = !exists;
        let cache = Arc::new(MapCache::new(options.maps_max, options.prefetch));
        // Entity tags, cursors and tickets of before name rows that are not all there.
        let lost = recovered.has_lost() || found.contents.epoch.is_empty();
        let epoch_of_damaged = if lost && !report.damage.is_empty() { Some(fresh_epoch(root)?) } else { None };
        let next_lsn = recovered.next_lsn;
        let mut manifest = Manifest::new(root, found);
        let damaged = !report.damage.is_empty();
        let log = if damaged {
            Log::closed(root, &recovered, options.wal_segment_bytes)
        } else {
            tidy(root, &manifest.contents, newest, &mut report)?;
            let log = Log::open(root, start, &recovered, options.wal_segment_bytes)?;
            // After the log has a segment: a store with a name and without a log lost it.
            if manifest.contents.epoch.is_empty() {
                manifest.publish(first_edit(root)?)?;
            }
            log
        };
        say(&report);
        let stopped = damaged.then(|| format!("the store is damaged: {}", report.damage.join("; ")));
        let lock = Arc::new(lock);
        let pins = Arc::new(
            RetainedCommits::new(options.commit_retention_ms)
                .with_history(options.commit_retention_bytes_max, replayed),
        );
        let queue = CommitQueue::new(state, log, next_lsn, options.durability, stopped)
            .owned_by(Arc::clone(&lock))
            .with_past(Arc::clone(&pins));
        report.duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let inner = Self {
            root: root.clone(),
            pins,
            options,
            queue,
            cache,
            epoch: epoch_of_damaged.unwrap_or_else(|| manifest.contents.epoch.clone()),
            maintenance: Mutex::new(Maintenance {
                uncompacted: manifest.contents.series.keys().copied().collect(),
                retired: BTreeMap::new(),
                manifest,
            }),
            upkeep_failed: Mutex::default(),
            looking: Default::default(),
            views: crate::store::write::snapshots::SnapshotViews::default(),
            counters: crate::store::maintain::counters::Counters::default(),
            dropped: Mutex::default(),
            recovery: report,
            next_series_id: AtomicU64::new(next_series_id),
            ballast: DiskReserve::default(),
            hint: current::CurrentHint::default(),
            lock,
        };
        inner.count_runs(&inner.maintenance());
        if !damaged {
            inner.remove_dropped(&left_in_runs)?;
            inner.take_ballast();
            // Names that a killed process had not synced were read above: they last before the hint tells of them.
            disk::sync_dir(&manifest::manifest_dir(root))?;
            disk::sync_dir(&root.join("wal"))?;
            let number = inner.maintenance().manifest.contents.number;
            inner.note_edit(number);
        }
        Ok(inner)
    }

    /// Removes files of series whose drop was published before a crash. Where a snapshot still shows a series, its drop gets
    /// the marker that it lacks in a store that was restored.
    fn remove_dropped(&self, left_in_runs: &BTreeSet<SeriesId>) -> Result<()> {
        let maintenance = self.maintenance();
        let known = &maintenance.manifest.contents.series;
        for record in known.values().filter(|record| record.dropped_commit > 0) {
            self.put_drop_marker(record.id, parse_def(&record.def)?.key.clone(), record.dropped_commit)?;
        }
        for name in disk::list(&self.root.join("chunks"))? {
            let Ok(id) = name.parse::<u64>() else { continue };
            if !known.contains_key(&id) && series_dir(&self.root, id).join(DROP_MARKER).found()? {
                self.remove_series_files(
                    id,
                    if left_in_runs.contains(&id) { DropMarker::Kept } else { DropMarker::Removed },
                );
            }
        }
        Ok(())
    }
}

/// The parts of a new store that are there before anything is in it.
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

/// Removes what a crash left behind and nothing names. Only ever called for a store without damage.
fn tidy(root: &DiskPath, contents: &Contents, newest: bool, report: &mut RecoveryReport) -> Result<()> {
    for name in DIRECTORIES {
        disk::create_dir(&root.join(name))?;
    }
    for name in disk::list(&root.join("tmp"))? {
        disk::remove(&root.join("tmp").join(name))?;
    }
    // Files with numbers the manifest did not give out could be those of an edit that was taken away, unless it is known
    // that there was none.
    let below = if newest { u64::MAX } else { contents.next_file_id };
    report.leftovers_removed = remove_unnamed(root, contents, below)?;
    Ok(())
}

fn say(report: &RecoveryReport) {
    for torn in &report.torn {
        tracing::warn!(torn, "the torn end of an unfinished write was cut");
    }
    for spare in &report.spare {
        tracing::warn!(spare, "damage that cost nothing; `fastk admin repair` puts it in order");
    }
    for damage in &report.damage {
        tracing::error!(damage, "the store is damaged and takes no writes until `fastk admin repair`");
    }
    for (first, last) in &report.lost_lsns {
        tracing::error!(first, last, "commits of these log sequence numbers are lost");
    }
    if let Some(first) = report.lost_from {
        tracing::error!(first, "the end of the log is gone; commits from this log sequence number on may be lost");
    }
    for (first, last) in &report.lost_commits {
        tracing::error!(first, last, "these commits are lost as far as they were in the log alone");
    }
    for id in &report.lost_series {
        tracing::error!(id, "a series is lost: its registration is in a part of the log that is lost");
    }
    for (name, commit) in &report.lost_snapshots {
        tracing::error!(name, commit, "a snapshot is lost");
    }
}

/// Whether a file of a data directory belongs to who may use the store, not to the store.
pub fn is_beside(name: &str) -> bool {
    name.starts_with("tokens.")
}

/// Refuses to create a store in a directory that holds other files. Takes no lock, so that a refused directory is left
/// as it was: a store that another process is creating there at the same time is no reason to refuse.
fn check_unused(root: &DiskPath) -> Result<()> {
    let foreign: Vec<String> = disk::list(root)?
        .into_iter()
        .filter(|name| name != LOCK_FILE && !DIRECTORIES.contains(&name.as_str()) && !is_beside(name))
        .collect();
    match foreign.first() {
        None => Ok(()),
        Some(_) if exists(root)? => Ok(()),
        Some(name) => Err(Error::invalid(format!("{} is not empty (it holds {name:?}) and no store", root.display()))
            .with_hint("name an empty or a new directory")),
    }
}

/// Text of FORMAT.
pub fn format_text() -> String {
    let body = format!("{{\"format\":{FORMAT_VERSION},\"required_features\":[]}}");
    format!("{body} {:08x}\n", crc32c::crc32c(body.as_bytes()))
}

#[derive(serde::Deserialize)]
struct StoreFormat {
    format: u32,
    required_features: Vec<String>,
}

/// Refuses a store of a newer format, or one whose format cannot be told.
pub fn check_format(root: &DiskPath) -> Result<()> {
    let path = root.join(FORMAT_FILE);
    let text = disk::read(&path)?;
    let damaged = || Error::corrupt(format!("{} is damaged", path.display()));
    let text = std::str::from_utf8(&text).map_err(|_| damaged())?;
    let (body, crc) = text.strip_suffix('\n').and_then(|line| line.rsplit_once(' ')).ok_or_else(damaged)?;
    if format!("{:08x}", crc32c::crc32c(body.as_bytes())) != crc {
        return Err(damaged());
    }
    let format: StoreFormat = serde_json::from_str(body).map_err(|_| damaged())?;
    let newer = format.format > FORMAT_VERSION && !planted(Bug::NewerFormatOpened);
    if newer || !format.required_features.is_empty() {
        return Err(Error::new(
            ErrorCode::UnsupportedFormat,
            format!(
                "{} asks for format {} with features {:?}; this program knows format {FORMAT_VERSION}",
                path.display(),
                format.format,
                format.required_features
            ),
        )
        .with_hint("open it with the program that wrote it"));
    }
    Ok(())
}

/// A registration as the manifest has it.
pub fn parse_def(text: &str) -> Result<Arc<SeriesDef>> {
    serde_json::from_str(text)
        .map(Arc::new)
        .map_err(|error| Error::corrupt(format!("a registration in the store is unreadable: {error}")))
}

/// The state the manifest describes, without tails. Snapshots of commits behind `told_to` are left to the log: the manifest
/// has them for the case that the log loses them.
pub fn state_of(root: &DiskPath, contents: &Contents, told_to: u64) -> Result<StoreState> {
    let mut state = StoreState { commit: contents.base_commit, edit: contents.number, ..StoreState::default() };
    for record in contents.snapshots.values().filter(|record| record.commit <= told_to) {
        let snapshot = Snapshot { commit: record.commit, created_ms: record.created_ms };
        state.create_snapshot(record.name.clone(), snapshot);
    }
    let mut chunks: HashMap<u64, Vec<Arc<ChunkFile>>> = HashMap::new();
    for record in contents.chunks.values() {
        chunks.entry(record.series_id).or_default().push(Arc::new(ChunkFile::new(root, record.clone())));
    }
    let mut tombstones: HashMap<u64, Vec<Tombstone>> = HashMap::new();
    for (series_id, commit, start, end) in &contents.tombstones {
        let tombstone = Tombstone { commit: *commit, start: *start, end: *end };
        tombstones.entry(*series_id).or_default().push(tombstone);
    }
    for record in contents.series.values() {
        let mut series = SeriesState::new(record.id, parse_def(&record.def)?, 0);
        series.version = record.version;
        series.rows = record.rows;
        series.bounds = record.first_ts.zip(record.last_ts);
        series.sealed_commit = record.sealed_commit;
        series.last_write_ms = record.last_write_ms;
        series.created_commit = record.created_commit;
        series.last_commit = record.last_commit;
        series.dropped_commit = (record.dropped_commit > 0).then_some(record.dropped_commit);
        let views = record.views.iter().map(|view| {
            Ok(SeriesView {
                commit: view.commit,
                last_commit: view.last_commit,
                def: if view.def.is_empty() { Arc::clone(&series.def) } else { parse_def(&view.def)? },
                version: view.version,
                rows: view.rows,
                bounds: view.first_ts.zip(view.last_ts),
            })
        });
        series.views = Arc::new(views.collect::<Result<_>>()?);
        series.chunks = Arc::new(chunks.remove(&record.id).unwrap_or_default().into_iter().collect());
        series.tombstones = Arc::new(tombstones.remove(&record.id).unwrap_or_default());
        state.commit = state.commit.max(record.sealed_commit);
        state.put(series);
    }
    Ok(state)
}

/// Damaged files with the reason, and series without a record that still have rows in a run file.
type LoadedRuns = (Vec<(DiskPath, String)>, BTreeSet<SeriesId>);

/// Tail rows, and receipts, that left the log for files. What of them is damaged answers `corrupt_data`; the damaged files
/// are given back.
fn load_runs(root: &DiskPath, contents: &Contents, state: &mut StoreState) -> Result<LoadedRuns> {
    let mut damaged = Vec::new();
    let mut left = BTreeSet::new();
    let mut by_series: BTreeMap<u64, Vec<Arc<Run>>> = BTreeMap::new();
    for record in contents.runs.values() {
        let runs = match load_run(root, record) {
            Ok(runs) => runs,
            Err(error) if error.code() == ErrorCode::CorruptData => {
                damaged.push((run_path(root, record.id), error.detail().to_owned()));
                let (runs, lost) = salvage::intact_runs(root, record, contents)?;
                salvage::mark_lost(root, state, lost);
                runs
            }
            Err(error) => return Err(error),
        };
        for (series_id, run) in runs {
            if !state.series.contains_key(&series_id) {
                left.insert(series_id);
            }
            if state.series.get(&series_id).is_some_and(|series| run.commit_hi > series.sealed_commit) {
                by_series.entry(series_id).or_default().push(Arc::new(run));
            }
        }
    }
    for (series_id, mut runs) in by_series {
        if let Some(series) = state.series.get(&series_id) {
            runs.sort_by_key(|run| run.commit_lo);
            let mut next = series.as_ref().clone();
            next.settled = runs;
            state.put(next);
        }
    }
    for record in contents.receipts.values() {
        let receipts = match load_receipts(root, record) {
            Ok(receipts) => receipts,
            Err(error) if error.code() == ErrorCode::CorruptData => {
                damaged.push((receipts_path(root, record.id), error.detail().to_owned()));
                salvage::intact_receipts(root, record)
            }
            Err(error) => return Err(error),
        };
        for receipt in receipts {
            state.receipts.insert(receipt.key, Arc::new(receipt));
        }
    }
    Ok((damaged, left))
}

/// Removes files that the manifest gave up and a crash kept, and those of work that never reached it. Their rows are in
/// the log or in files the manifest names: nothing is trimmed or removed before an edit says so. Left for ever, they
/// would come back when a manifest is rebuilt from the files.
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

/// Rows of one series that were read from the log one after the other and are not yet a run: as many as follow each
/// other in time with nothing between them, so that rows written one at a time are not merged one at a time again.
#[derive(Debug)]
struct UnsortedRows {
    rows: Rows,
    commit_lo: u64,
    commit_hi: u64,
}

/// Most rows held so for a series.
const LOOSE_ROWS_MAX: usize = 65_536;

/// Applies logged commits, oldest first.
struct Replay<'a> {
    state: &'a mut StoreState,
    contents: &'a Contents,
    next_series_id: u64,
    loose: HashMap<SeriesId, UnsortedRows>,
    /// Snapshots that were made, by name and commit, whether or not they were dropped again.
    snapshots_seen: BTreeSet<(String, u64)>,
    /// Series that no file tells of, and the commits of their changes.
    unknown: BTreeMap<SeriesId, Vec<u64>>,
    replayed: ReplayedCommits,
}

impl Replay<'_> {
    /// Keeps the state as it is now.
    fn keep(&mut self) {
        self.settle_all();
        self.replayed.states.push(Arc::new(self.state.clone()));
    }

    /// Makes a run of what is held of a series.
    fn settle(&mut self, id: SeriesId) {
        let Some(UnsortedRows { rows, commit_lo, commit_hi }) = self.loose.remove(&id) else { return };
        let fences = Arc::clone(&self.state.fences);
        if let (Some(run), Some(series)) = (Run::new(rows, commit_lo, commit_hi), self.state.series.get_mut(&id)) {
            Arc::make_mut(series).push_run(run, &fences);
        }
    }

    fn settle_all(&mut self) {
        let ids: Vec<SeriesId> = self.loose.keys().copied().collect();
        ids.into_iter().for_each(|id| self.settle(id));
    }

    fn write(&mut self, id: SeriesId, rows: Rows, replaced: u64, number: u64, wall_ms: i64) {
        let fences = Arc::clone(&self.state.fences);
        let follows = self.loose.get(&id).is_some_and(|loose| {
            loose.rows.ts.last() < rows.ts.first() && loose.rows.len() + rows.len() <= LOOSE_ROWS_MAX
        });
        if !follows {
            self.settle(id);
        }
        if let Some(series) = self.state.series.get_mut(&id) {
            Arc::make_mut(series).count_rows_written(&rows, replaced, number, wall_ms, &fences);
        }
        match self.loose.get_mut(&id) {
            Some(loose) => {
                loose.commit_hi = number;
                loose.rows.append(rows);
            }
            None => {
                self.loose.insert(id, UnsortedRows { rows, commit_lo: number, commit_hi: number });
            }
        }
    }

    /// Applies a commit unless chunks hold it already.
    fn commit(&mut self, number: u64, commit: Commit) -> Result<()> {
        self.state.commit = self.state.commit.max(number);
        if let Some(receipt) = commit.receipt.filter(|_| !planted(Bug::ReceiptsNotReplayed)) {
            self.state.receipts.insert(receipt.key, Arc::new(receipt));
        }
        for operation in commit.operations {
            let id = match &operation {
                LoggedChange::Write { series_id, .. }
                | LoggedChange::Delete { series_id, .. }
                | LoggedChange::Register { series_id, .. }
                | LoggedChange::Drop { series_id } => *series_id,
                LoggedChange::CreateSnapshot { name } => {
                    // Rows before and behind it stay apart.
                    self.settle_all();
                    let snapshot = Snapshot { commit: number, created_ms: commit.wall_ms };
                    self.snapshots_seen.insert((name.clone(), number));
                    self.state.create_snapshot(name.clone(), snapshot);
                    continue;
                }
                LoggedChange::DropSnapshot { name } => {
                    self.settle_all();
                    self.state.drop_snapshot(name, number);
                    continue;
                }
            };
            self.next_series_id = self.next_series_id.max(id + 1);
            if !matches!(operation, LoggedChange::Write { .. }) {
                self.replayed.rewritten.insert(id, number);
            }
            if matches!(operation, LoggedChange::Drop { .. }) {
                self.replayed.dropped = number;
            }
            let known = self.state.series.get(&id).map(|series| series.sealed_commit);
            if known.is_some_and(|sealed_commit| number <= sealed_commit) && !planted(Bug::ReplayedTwice) {
                continue;
            }
            match (operation, known) {
                (LoggedChange::Register { def, .. }, None) => {
                    // A series the manifest once knew and no longer does was dropped; ids are never used twice.
                    self.state.put(SeriesState::new(id, parse_def(&def)?, number));
                }
                (LoggedChange::Write { replaced, rows, .. }, Some(_)) => {
                    self.write(id, rows, replaced, number, commit.wall_ms);
                }
                (other, Some(_)) => {
                    self.settle(id);
                    self.change(id, other, number, commit.wall_ms)?;
                }
                // The manifest never knew it, and its registration is not in the log.
                (_, None) if id >= self.contents.next_series_id => self.unknown.entry(id).or_default().push(number),
                // Rows of a series that a later commit dropped, with the drop already in the manifest.
                (_, None) => {
                    let base = self.contents.base_commit;
                    tracing::debug!(id, number, base, "a logged change has no series");
                }
            }
        }
        Ok(())
    }

    /// Applies a change of a series that is there, other than a write.
    fn change(&mut self, id: SeriesId, operation: LoggedChange, number: u64, wall_ms: i64) -> Result<()> {
        let fences = Arc::clone(&self.state.fences);
        let Some(series) = self.state.series.get(&id).cloned() else { return Ok(()) };
        match operation {
            LoggedChange::Register { def, .. } => {
                let mut next = series.touched(number, &fences);
                next.def = parse_def(&def)?;
                self.state.put(next);
            }
            LoggedChange::Delete { start, end, deleted, left, .. } => {
                // Chunks may be ahead of the log, so nothing is read here: what was left is in the log.
                let mut next = series.without_range((start, end), deleted, number, wall_ms, &fences);
                next.bounds = left;
                self.state.put(next);
            }
            LoggedChange::Drop { .. } => {
                self.state.drop_series(id, number);
            }
            LoggedChange::Write { .. } | LoggedChange::CreateSnapshot { .. } | LoggedChange::DropSnapshot { .. } => {}
        }
        Ok(())
    }
}
