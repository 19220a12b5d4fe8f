//! Opening a store, in the numbered steps of `docs/recovery.md`: lock, format, manifest, files of the tail, log,
//! replay; only then, and only when nothing is damaged, leftover files are removed and the log is opened for writing.
//!
//! Reading changes nothing on disk, so a crash before the cleanup changes nothing, and each step of the cleanup can be
//! repeated. Damage in the log, the manifest, the files of the tail or FORMAT never fails the open: what is intact is
//! served, the rest is reported, and the store is read-only until it is repaired.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::disk::{self, DiskPath};
use crate::error::{ErrorCode, Result};
use crate::format::texts::add_all;
use crate::format::wal::decode_commit;
use crate::store::directory::{FORMAT_FILE, check_format};
use crate::store::manifest::current;
use crate::store::manifest::edits::{Contents, RecoveredManifest, manifest_dir, read_manifest};
use crate::store::open::covered::CoveredCommits;
use crate::store::open::replay::Replay;
use crate::store::open::salvage;
use crate::store::open_progress::{OpenProgress, OpenStep};
use crate::store::read::chunk::ChunkFile;
use crate::store::read::retained_commits::ReplayedCommits;
use crate::store::read::run::Run;
use crate::store::read::run_files::{load_receipts, load_run, receipts_path, run_path};
use crate::store::read::series_state::{SeriesId, SeriesState, SeriesView};
use crate::store::read::store_state::{RegisteredKind, Snapshot, StoreState};
use crate::store::read::tombstone::Tombstone;
use crate::store::registration::{parse_def, parse_kind};
use crate::store::wal::segments::{RecoveredLog, ReplayStart, read_log};

/// Result of opening a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Whether the store was created.
    pub created: bool,
    /// Commits replayed from the log.
    pub commits_replayed: u64,
    /// Torn writes that were cut from the end of the log.
    pub torn: Vec<String>,
    /// Damage that makes the store read-only until it is repaired.
    pub damage: Vec<String>,
    /// Closed ranges of log sequence numbers whose commits are lost.
    pub lost_lsns: Vec<(u64, u64)>,
    /// Log sequence number from which on commits may be lost without a trace: the end of the log is missing.
    pub lost_from: Option<u64>,
    /// Closed ranges of the commits in the lost parts of the log; `None` for an unknown end. The ranges can include
    /// commits of bulk loads, which are not in the log and not lost.
    pub lost_commits: Vec<(u64, Option<u64>)>,
    /// Names and commits of snapshots that are known from the manifest only, since the log lost their commit.
    pub lost_snapshots: Vec<(String, u64)>,
    /// Numbers of series whose registration the log lost: later commits to them cannot be applied.
    pub lost_series: Vec<u64>,
    /// Kinds whose definition is lost, and is what the series of them tell.
    pub recovered_kinds: Vec<String>,
    /// Damage without loss: another file holds the same information.
    pub redundant_damage: Vec<String>,
    /// Files of unfinished work that were removed.
    pub leftovers_removed: u64,
    /// Duration in milliseconds.
    pub duration_ms: u64,
}

/// Whether the manifest of a store is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManifestTrust {
    /// Trusted; where it is damaged the other files are read instead.
    Manifest,
    /// Not trusted: only the other files are read.
    FilesOnly,
}

/// A store as it was read, before anything on disk was changed.
#[derive(Debug)]
pub struct RecoveredStore {
    pub state: StoreState,
    /// The contents in effect: of the manifest, or of the other files where it is not used.
    pub manifest: RecoveredManifest,
    /// Contents of the manifest itself, as far as it can be read.
    pub known: Contents,
    /// Whether the contents come from the other files.
    pub salvaged: bool,
    pub log: RecoveredLog,
    pub start: ReplayStart,
    pub report: RecoveryReport,
    pub format_damage: Option<String>,
    /// Damaged run and receipt files.
    pub damaged_files: Vec<(DiskPath, String)>,
    /// Series that are no longer in the manifest and still have rows in run files.
    pub left_in_runs: BTreeSet<SeriesId>,
    /// Whether the manifest is known to end with the newest edit ever published.
    pub newest: bool,
    pub next_series_id: u64,
    /// Commits of the log that remain readable after the open.
    pub replayed: ReplayedCommits,
}

/// Which commits of the log remain readable after the open.
#[derive(Clone, Copy, Debug)]
pub struct RetainedRange {
    /// The last ones, at most this many.
    pub commits_max: u64,
    /// Of these, only commits made at or after this wall-clock time in milliseconds.
    pub since_ms: i64,
}

/// Reads a store without changing anything. Damage is no error: it is in the report.
///
/// # Errors
/// `unsupported_format`, and those of reading files.
pub fn read_store(root: &DiskPath, trust: ManifestTrust) -> Result<RecoveredStore> {
    read_store_with_progress(root, trust, &OpenProgress::default(), None)
}

/// Like [`read_store`]; reports its progress to `opening`, and retains the `wanted` commits of the log.
///
/// # Errors
/// Those of [`read_store`].
pub fn read_store_with_progress(
    root: &DiskPath,
    trust: ManifestTrust,
    opening: &OpenProgress,
    retained: Option<RetainedRange>,
) -> Result<RecoveredStore> {
    opening.begin(OpenStep::Manifest, 0);
    let mut report = RecoveryReport::default();
    let mut damage = Vec::new();
    let format_damage = match check_format(root) {
        Err(error) if error.code() == ErrorCode::CorruptData => Some(error.detail().to_owned()),
        other => other.map(|()| None)?,
    };
    damage.extend(format_damage.clone());
    let mut found = read_manifest(root)?;
    let hint = current::read(root);
    if hint.edit > found.contents.number {
        let (last, edit) = (found.contents.number, hint.edit);
        found.missing.push(format!("the manifest ends at edit {last}, but there was an edit {edit}"));
        // A repair continues after it, or the hint would name an edit that is missing for ever.
        found.highest = found.highest.max(edit);
    }
    // A store without an epoch is new, unless it holds data.
    if found.contents.epoch.is_empty() && salvage::holds_data(root)? {
        found.missing.push("the manifest is missing".to_owned());
    }
    report.redundant_damage.extend(found.redundant_damage.iter().cloned());
    damage.extend(found.missing.iter().cloned());
    let newest = hint.edit == found.contents.number;
    let known = found.contents.clone();
    let (mut marked, mut missing) = (Vec::new(), Vec::new());
    let salvaged = trust == ManifestTrust::FilesOnly || !found.missing.is_empty();
    if salvaged {
        let nothing = Contents { number: known.number, ..Contents::default() };
        let trusted = if trust == ManifestTrust::FilesOnly { &nothing } else { &known };
        // The start of the log says nothing about rows: it shows whether frames before it are missing.
        let begins = (found.missing.is_empty() && !known.epoch.is_empty())
            .then_some((known.wal_first_segment, known.wal_first_lsn));
        let files = salvage::contents(root, trusted, begins)?;
        (found.contents, marked, missing) = (files.contents, files.marked, files.missing);
    }
    let contents = &found.contents;
    let start = ReplayStart {
        segment: contents.wal_first_segment,
        lsn: contents.wal_first_lsn,
        last_segment: hint.wal_segment,
        new: known.epoch.is_empty() && !salvaged,
    };
    let mut log = read_log(root, start, opening)?;
    if !missing.is_empty() {
        // What the log still has is replayed.
        let logged: BTreeSet<u64> = log.commits.iter().map(|(frame, _)| frame.commit).collect();
        missing.retain(|slice| (slice.commits.0..=slice.commits.1).any(|commit| !logged.contains(&commit)));
    }
    // Later snapshots are in the log, unless it lost them. An edit that is missing may have trimmed their frames.
    let snapshots_until = match log.commits.first() {
        _ if !salvaged => contents.base_commit,
        _ if log.has_lost() => known.base_commit,
        first => first.map_or(u64::MAX, |(frame, _)| frame.commit - 1).max(known.base_commit),
    };
    let mut state = state_of(root, contents, snapshots_until)?;
    let mut covered = salvaged.then(CoveredCommits::default);
    let (damaged_files, left_in_runs) = load_runs(root, contents, &mut state, covered.as_mut())?;
    damage.extend(damaged_files.iter().map(|(_, reason)| reason.clone()));
    damage.extend(log.damaged_places.iter().cloned());
    let runs_base = contents.runs.values().map(|run| run.base_commit).max().unwrap_or(0);
    let base = contents.base_commit.max(known.base_commit).max(runs_base);
    let mut lost_commits = lost_commits(&log, base, highest_commit(&known));
    let mut replay = Replay {
        state: &mut state,
        contents,
        next_series_id: contents.next_series_id,
        unsorted: HashMap::new(),
        snapshots_seen: BTreeSet::new(),
        unknown: BTreeMap::new(),
        covered,
        replayed: ReplayedCommits::default(),
    };
    let keep_from = (log.commits.len() as u64).saturating_sub(retained.map_or(0, |retained| retained.commits_max));
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
                let is_kept =
                    position > keep_from && retained.is_some_and(|retained| commit.wall_ms >= retained.since_ms);
                replay.commit(frame.commit, commit)?;
                if is_kept {
                    replay.keep();
                }
            }
            Err(error) => {
                // Its checksum matches, so it was damaged before it was written.
                damage.push(format!("log frame {}: {}", frame.lsn, error.detail()));
                log.lost.push((frame.lsn, frame.lsn));
                lost_commits.push((frame.commit, Some(frame.commit)));
            }
        }
        report.commits_replayed += 1;
    }
    replay.build_all_runs();
    let next_series_id = replay.next_series_id;
    let (seen, unknown, mut replayed) = (replay.snapshots_seen, replay.unknown, replay.replayed);
    let unseen = known.snapshots.values().filter(|snapshot| {
        snapshot.commit > snapshots_until && !seen.contains(&(snapshot.name.clone(), snapshot.commit))
    });
    if log.has_lost() {
        // Their frames are intact, but their series is unknown, so their rows are lost too.
        lost_commits.extend(unknown.values().flatten().map(|commit| (*commit, Some(*commit))));
        report.lost_series = unknown.keys().copied().filter(|id| !state.series.contains_key(id)).collect();
        report.lost_snapshots = unseen.map(|snapshot| (snapshot.name.clone(), snapshot.commit)).collect();
    }
    if salvaged {
        salvage::drop_marked(&mut state, &marked);
        salvage::mark_missing(root, &mut state, missing);
        salvage::recount(&mut state, None);
        // Not every commit is in the log: the next number must be above those in all files.
        state.commit = state.commit.max(highest_commit(&known)).max(highest_commit(&found.contents));
    }
    // A lost manifest or log can leave series without their kind.
    report.recovered_kinds = state.add_kinds_of_series();
    replayed.until = state.commit;
    if salvaged || !damage.is_empty() {
        // Earlier commits lack the lost data too, and reads of them would not fail.
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

/// The commits in the lost parts of the log, derived from the frames before and after; the manifest covers everything
/// up to `base`, and names commits up to `highest`.
fn lost_commits(log: &RecoveredLog, base: u64, highest: u64) -> Vec<(u64, Option<u64>)> {
    let frames = || log.commits.iter().map(|(frame, _)| (frame.lsn, frame.commit));
    let before = |lsn: u64| frames().filter(|frame| frame.0 < lsn).map(|frame| frame.1).max().unwrap_or(0).max(base);
    let after = |lsn: u64| frames().filter(|frame| frame.0 > lsn).map(|frame| frame.1).min();
    let mut lost = Vec::new();
    for (first, last) in &log.lost {
        let from = before(*first) + 1;
        let to = match after(*last) {
            Some(next) => next - 1,
            // At most one commit per frame.
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

/// Ranges in order, with adjacent ones coalesced.
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

/// The highest commit number in the manifest.
pub fn highest_commit(contents: &Contents) -> u64 {
    let chunks = contents.chunks.values().chain(contents.waiting.values()).map(|chunk| chunk.commit_hi);
    let series = contents
        .series
        .values()
        .flat_map(|series| [series.sealed_commit, series.last_commit, series.created_commit, series.dropped_commit]);
    let tombstones = contents.tombstones.iter().map(|(_, commit, ..)| *commit);
    let snapshots = contents.snapshots.values().map(|snapshot| snapshot.commit);
    let runs = contents.runs.values().map(|run| run.base_commit);
    let kinds = contents.kinds.values().map(|kind| kind.commit);
    let all = chunks.chain(kinds).chain(series).chain(tombstones).chain(snapshots).chain(runs);
    all.max().unwrap_or(0).max(contents.base_commit)
}

/// Whether there is a store, damaged or not.
pub fn exists(root: &DiskPath) -> Result<bool> {
    Ok(root.join(FORMAT_FILE).found()? || !disk::list(&manifest_dir(root))?.is_empty() || salvage::holds_data(root)?)
}

/// The state that the manifest describes, without tails. Snapshots of commits after `snapshots_until` are left to the
/// log; the manifest has them in case the log loses them.
pub fn state_of(root: &DiskPath, contents: &Contents, snapshots_until: u64) -> Result<StoreState> {
    let mut state = StoreState { commit: contents.base_commit, edit: contents.number, ..StoreState::default() };
    for record in contents.snapshots.values().filter(|record| record.commit <= snapshots_until) {
        let snapshot = Snapshot { commit: record.commit, created_ms: record.created_ms };
        state.create_snapshot(record.name.clone(), snapshot);
    }
    for record in contents.kinds.values() {
        let kind = RegisteredKind { def: parse_kind(&record.def)?, commit: record.commit };
        state.kinds.insert(record.name.clone(), kind);
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
        if let Some(recorded) = contents.texts.get(&record.id) {
            add_all(&recorded.texts, Arc::make_mut(&mut series.dictionaries).as_mut_slice())?;
        }
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

/// Leaves out runs that were merged into others before their file was removed: of two with commits in common the one that
/// goes further, or that has more, contains the other.
fn without_merged(mut runs: Vec<Arc<Run>>) -> Vec<Arc<Run>> {
    runs.sort_by_key(|run| std::cmp::Reverse((run.commit_hi, run.commit_hi - run.commit_lo, run.rows(), run.file)));
    let mut kept: Vec<Arc<Run>> = Vec::with_capacity(runs.len());
    for run in runs {
        if kept.iter().all(|other| other.commit_hi < run.commit_lo || run.commit_hi < other.commit_lo) {
            kept.push(run);
        }
    }
    kept
}

/// Damaged files with the reason, and series without a record that still have rows in a run file.
type LoadedRuns = (Vec<(DiskPath, String)>, BTreeSet<SeriesId>);

/// Loads tail rows and receipts from run files and receipt files. Reads of damaged rows fail with `corrupt_data`; the
/// damaged files are returned.
fn load_runs(
    root: &DiskPath,
    contents: &Contents,
    state: &mut StoreState,
    mut covered: Option<&mut CoveredCommits>,
) -> Result<LoadedRuns> {
    let is_salvaged = covered.is_some();
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
            let Some(series) = state.series.get_mut(&series_id) else { continue };
            if !run.texts.is_empty() {
                // Runs and chunks have all texts of their time: the longest dictionary counts.
                let dictionaries = Arc::make_mut(&mut Arc::make_mut(series).dictionaries);
                run.texts.iter().try_for_each(|texts| texts.add_to(dictionaries))?;
            }
            let run = match &mut covered {
                Some(covered) => covered.remaining_run(series, run),
                None => Some(run),
            };
            let Some(run) = run else { continue };
            if run.commit_hi > series.sealed_commit {
                by_series.entry(series_id).or_default().push(Arc::new(run));
            }
        }
    }
    for (series_id, mut runs) in by_series {
        if let Some(series) = state.series.get(&series_id) {
            if is_salvaged {
                runs = without_merged(runs);
            }
            runs.sort_by_key(|run| run.commit_lo);
            let mut next = series.as_ref().clone();
            next.filed = runs;
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
