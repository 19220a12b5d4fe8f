//! Log segments cut at every byte, alone, two at a time, and together with a lost manifest. The oracle knows every
//! commit that was acknowledged before the damage: what is gone after the repair is compared with what the repair says
//! is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::sim_disk::{SimDisk, SimState};
use fastk::format::wal::{
    FRAME_ALIGNMENT, FrameRead, SEGMENT_HEADER_BYTES, decode_segment_header, frame_at, frame_bytes,
};
use fastk::query::{Scan, ScanSpec};
use fastk::store::{
    RepairOptions, RepairReport, Store, StoreOptions, TaskControl, VerifyOptions, WriteMode, repair, verify,
};
use fastk::types::{Rows, SeriesKey};

use super::guarantees::{MINUTE, def, key, options};
use super::proof_amount::Proof;

const ROOT: &str = "/cuts/store";

/// The visible effect of an acknowledged commit.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Did {
    Row(SeriesKey, i64),
    Registered(SeriesKey),
    Snapshot(String),
}

/// A killed store, and its acknowledged commits.
struct Killed {
    state: SimState,
    acknowledged: BTreeMap<u64, Did>,
    epoch: String,
    last: u64,
    /// Last commit that a checkpoint removed from the log.
    settled_to: u64,
}

fn small(wal_segment_bytes: u64) -> StoreOptions {
    StoreOptions { wal_segment_bytes, ..options() }
}

fn row(minute: i64) -> Rows {
    Rows::of_words(vec![minute * MINUTE], vec![vec![minute]; 5])
}

fn other() -> SeriesKey {
    SeriesKey::kline("LATER", "1m").unwrap()
}

/// Sixty synced writes and snapshots, then a kill. With `settled`, a checkpoint has removed the first of
/// them from the log.
fn killed(segment_bytes: u64, settled: bool) -> Killed {
    let disk = SimDisk::new(SimState::default(), 3);
    let store = Store::open_on(&disk.path(ROOT), true, small(segment_bytes)).unwrap();
    let (mut acknowledged, mut settled_to) = (BTreeMap::new(), 0);
    let mut note = |store: &Store, did: Did| drop(acknowledged.insert(store.snapshot().commit, did));
    store.register(def(&key())).unwrap();
    note(&store, Did::Registered(key()));
    for minute in 0..60 {
        store.write(&key(), row(minute), WriteMode::Upsert, None).unwrap();
        note(&store, Did::Row(key(), minute * MINUTE));
        if minute == 15 || minute == 40 || minute == 59 {
            let name = format!("at{minute}");
            store.create_snapshot(&name).unwrap();
            note(&store, Did::Snapshot(name));
        }
        if settled && minute == 20 {
            store.checkpoint().unwrap();
            settled_to = store.snapshot().commit;
        }
        if minute == 30 {
            store.register(def(&other())).unwrap();
            note(&store, Did::Registered(other()));
        }
    }
    let (epoch, last) = (store.epoch().to_owned(), store.snapshot().commit);
    Killed { state: disk.state(), acknowledged, epoch, last, settled_to }
}

fn segments(state: &SimState) -> Vec<PathBuf> {
    state.files().into_keys().filter(|path| path.extension().is_some_and(|ending| ending == "wal")).collect()
}

/// End offsets of the frames of a segment; the first is the end of the header.
fn borders(segment: &[u8]) -> Vec<usize> {
    let epoch = decode_segment_header(segment).unwrap().epoch;
    let mut borders = vec![SEGMENT_HEADER_BYTES];
    let mut at = SEGMENT_HEADER_BYTES;
    while let FrameRead::Frame(frame, _) = frame_at(segment, at, epoch) {
        at += frame_bytes(frame.payload_bytes);
        borders.push(at);
    }
    borders
}

/// The commits whose effect a store shows.
fn shown(store: &Store, acknowledged: &BTreeMap<u64, Did>) -> BTreeSet<u64> {
    let state = store.snapshot();
    let mut rows: BTreeMap<String, BTreeSet<i64>> = BTreeMap::new();
    for series in state.registered() {
        let found = rows.entry(series.def.key.to_string()).or_default();
        for block in Scan::new(series, store.cache(), &ScanSpec::range((i64::MIN, i64::MAX))) {
            found.extend(block.unwrap().words(0).iter().copied());
        }
    }
    let names: BTreeSet<String> = store.snapshots().into_iter().map(|(name, _)| name).collect();
    let is_shown = |did: &Did| match did {
        Did::Row(key, ts) => rows.get(key.as_str()).is_some_and(|rows| rows.contains(ts)),
        Did::Registered(key) => rows.contains_key(key.as_str()),
        Did::Snapshot(name) => names.contains(name),
    };
    acknowledged.iter().filter(|(_, did)| is_shown(did)).map(|(commit, _)| *commit).collect()
}

fn run_repair(state: &SimState, apply: bool) -> (SimDisk, RepairReport) {
    let disk = SimDisk::new(state.clone(), 5);
    let report = repair(&disk.path(ROOT), RepairOptions { apply, rebuild_manifest: false }).unwrap();
    (disk, report)
}

/// The damage, which decides what a report may leave open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    Manifest,
    NoManifest,
}

/// Opens, repairs and compares. Returns the number of lost commits.
fn check(killed: &Killed, damaged: &SimState, kept: Kept, what: &str) -> usize {
    let acknowledged = &killed.acknowledged;
    let store = Store::open_on(&SimDisk::new(damaged.clone(), 4).path(ROOT), false, options()).unwrap();
    let found = store.recovery().clone();
    assert!(!found.damage.is_empty(), "{what}: the cut is no torn end");
    // Even before the repair, no earlier entity tag is valid.
    if shown(&store, acknowledged).len() < acknowledged.len() {
        assert_ne!(store.epoch(), killed.epoch, "{what}: the epoch of the damaged store");
    }
    drop(store);
    let (_, plan) = run_repair(damaged, false);
    let (disk, report) = run_repair(damaged, true);
    assert!(!plan.clean && report.applied, "{what}");
    assert_eq!(
        (&plan.lost_lsns, plan.lost_from, &plan.lost_commits, &plan.lost_snapshots, &plan.lost_series),
        (&report.lost_lsns, report.lost_from, &report.lost_commits, &report.lost_snapshots, &report.lost_series),
        "{what}: the plan promised another loss"
    );
    let store = Store::open_on(&disk.path(ROOT), false, options()).unwrap();
    assert!(store.recovery().damage.is_empty(), "{what}: {:?}", store.recovery().damage);
    let there = shown(&store, acknowledged);
    let removed: BTreeSet<u64> = acknowledged.keys().filter(|commit| !there.contains(commit)).copied().collect();
    let is_named = |commit: u64| {
        report.lost_commits.iter().any(|(first, last)| *first <= commit && last.is_none_or(|last| commit <= last))
    };
    // Exactly the lost commits are reported.
    for commit in acknowledged.keys() {
        let did = &acknowledged[commit];
        if kept == Kept::NoManifest && *commit <= killed.settled_to && matches!(did, Did::Snapshot(_)) {
            // Only the manifest had it.
            assert!(report.forgotten.iter().any(|item| item.contains("snapshots")), "{what}: {report:?}");
            continue;
        }
        if removed.contains(commit) {
            assert!(is_named(*commit), "{what}: commit {commit} ({did:?}) is lost and not reported: {report:?}");
        } else if kept == Kept::Manifest {
            assert!(
                !is_named(*commit),
                "{what}: commit {commit} ({did:?}) is present and reported as lost: {report:?}"
            );
        }
    }
    if kept == Kept::Manifest {
        for commit in &removed {
            if let Did::Snapshot(name) = &acknowledged[commit] {
                let named = report.lost_snapshots.iter().any(|lost| lost.name == *name && lost.commit == *commit);
                assert!(named, "{what}: snapshot {name} is lost and not reported: {report:?}");
            }
        }
    }
    // Without the registration of a series its later rows are lost.
    let registered = removed.iter().any(|commit| matches!(&acknowledged[commit], Did::Registered(_)));
    assert!(registered || report.lost_series.is_empty(), "{what}: {:?}", report.lost_series);
    for lost in &report.lost_snapshots {
        assert!(removed.contains(&lost.commit), "{what}: snapshot {} is present and reported as lost", lost.name);
    }
    if removed.is_empty() && kept == Kept::Manifest {
        assert!(report.lost_lsns.is_empty(), "{what}: {report:?}");
    }
    assert!(kept == Kept::Manifest || store.epoch() != killed.epoch, "{what}: the epoch");
    if removed.iter().any(|commit| *commit > killed.settled_to) {
        assert!(report.has_lost() && (!report.lost_lsns.is_empty() || report.lost_from.is_some()), "{what}");
        assert_ne!(store.epoch(), killed.epoch, "{what}: the epoch");
    }
    // No commit number is reused.
    if there.contains(acknowledged.keys().next().unwrap()) {
        store.write(&key(), row(9_000), WriteMode::Upsert, None).unwrap();
    } else {
        store.register(def(&SeriesKey::kline("NEW", "1m").unwrap())).unwrap();
    }
    let next = store.snapshot().commit;
    assert!(next > killed.last || kept == Kept::NoManifest && removed.is_empty(), "{what}: commit {next} again");
    drop(store);
    assert!(run_repair(&disk.state(), false).1.clean, "{what}: not intact afterwards");
    let verified = verify(&disk.path(ROOT), VerifyOptions { live: Some(false) }, &TaskControl::new()).unwrap();
    assert!(verified.clean, "{what}: {:?}", verified.findings);
    removed.len()
}

fn cut(state: &SimState, path: &Path, length: usize) -> SimState {
    let mut damaged = state.clone();
    let bytes = state.file(path).unwrap();
    damaged.put_file(path, bytes[..length].to_vec()).unwrap();
    damaged
}

fn without_manifest(state: &SimState) -> SimState {
    let mut damaged = state.clone();
    let is_manifest = |path: &&PathBuf| path.to_string_lossy().contains("/manifest/");
    for path in state.files().keys().filter(is_manifest) {
        damaged.remove_file(path).unwrap();
    }
    damaged
}

/// Lengths to cut a segment to: around every frame boundary, and a number between by the amount of the proof.
fn lengths(bytes: &[u8], rounds: &mut impl FnMut() -> u64) -> Vec<usize> {
    let borders = borders(bytes);
    let end = *borders.last().unwrap();
    let mut lengths: BTreeSet<usize> = [0, 1, 63, bytes.len() - 1].into();
    for border in borders {
        lengths.extend([border - 1, border, border + 1]);
        lengths.extend([border + FRAME_ALIGNMENT - 1, border + FRAME_ALIGNMENT]);
    }
    let every = rounds().max(1) as usize;
    lengths.extend((0..(end + 3 * FRAME_ALIGNMENT).min(bytes.len())).step_by(every));
    lengths.into_iter().filter(|length| *length < bytes.len()).collect()
}

/// Distance of the cuts between frame boundaries, by the amount of the proof.
fn stride(proof: &Proof) -> u64 {
    100u64.checked_div(proof.rounds()).unwrap_or(1)
}

#[test]
fn every_loss_of_a_cut_segment_is_reported() {
    let proof = Proof::new("cut_segments", 100);
    let every = stride(&proof);
    let (mut cuts, mut removed) = (0, 0);
    for (segment_bytes, settled) in [(32 << 10, false), (4 << 10, false), (4 << 10, true)] {
        let killed = killed(segment_bytes, settled);
        let segments = segments(&killed.state);
        assert_eq!(segments.len() > 2, segment_bytes == 4 << 10);
        for path in &segments {
            let bytes = killed.state.file(path).unwrap();
            for length in lengths(&bytes, &mut || every) {
                let what = format!("{segment_bytes} {settled}: {} cut to {length}", path.display());
                removed += check(&killed, &cut(&killed.state, path, length), Kept::Manifest, &what);
                cuts += 1;
            }
        }
    }
    proof.close(format_args!("{cuts} cuts, {removed} commits lost and reported"));
}

#[test]
fn every_loss_of_several_cut_segments_and_a_lost_manifest_is_reported() {
    let proof = Proof::new("cut_several", 100);
    let every = stride(&proof) as usize;
    let (mut cases, mut removed) = (0, 0);
    for settled in [false, true] {
        let killed = killed(4 << 10, settled);
        let segments = segments(&killed.state);
        let files: BTreeMap<&PathBuf, Arc<Vec<u8>>> =
            segments.iter().map(|path| (path, killed.state.file(path).unwrap())).collect();
        let some = |path: &PathBuf| {
            let borders = borders(&files[path]);
            let all = borders.iter().flat_map(|border| [*border, border + 70]);
            let chosen: Vec<usize> = all.filter(|at| *at < files[path].len()).step_by(every.min(7)).collect();
            chosen
        };
        for (position, first) in segments.iter().enumerate() {
            for one in some(first) {
                let damaged = cut(&killed.state, first, one);
                let what = format!("{settled}: {} cut to {one}, no manifest", first.display());
                removed += check(&killed, &without_manifest(&damaged), Kept::NoManifest, &what);
                cases += 1;
                for second in segments.iter().skip(position + 1) {
                    for two in some(second).into_iter().step_by(3) {
                        let both = cut(&damaged, second, two);
                        let what = format!("{settled}: {} to {one}, {} to {two}", first.display(), second.display());
                        removed += check(&killed, &both, Kept::Manifest, &what);
                        cases += 1;
                    }
                    // One segment cut, and the next one removed.
                    let mut both = damaged.clone();
                    both.remove_file(second).unwrap();
                    let what = format!("{settled}: {} to {one}, {} missing", first.display(), second.display());
                    removed += check(&killed, &both, Kept::Manifest, &what);
                    cases += 1;
                }
            }
        }
    }
    proof.close(format_args!("{cases} damaged stores, {removed} commits lost and reported"));
}

/// Sixty synced writes and a snapshot, killed, the segment cut to 9,000 bytes.
#[test]
fn a_log_cut_in_its_middle_reports_the_lost_commits_and_the_snapshot_and_changes_the_epoch() {
    let killed = killed(64 << 10, false);
    let path = segments(&killed.state).remove(0);
    let damaged = cut(&killed.state, &path, 9_000);
    let removed = check(&killed, &damaged, Kept::Manifest, "9,000 bytes");
    let (disk, report) = run_repair(&damaged, true);
    let last = *killed.acknowledged.keys().next_back().unwrap();
    let first = last + 1 - removed as u64;
    assert!(removed > 10, "{removed}");
    assert_eq!((report.lost_lsns, report.lost_commits), (vec![], vec![(first, None)]));
    assert_eq!(report.lost_from, Some(first), "every commit is a frame here");
    let names: Vec<&str> = report.lost_snapshots.iter().map(|lost| lost.name.as_str()).collect();
    assert!(names.contains(&"at59"), "{names:?}");
    let store = Store::open_on(&disk.path(ROOT), false, options()).unwrap();
    assert!(store.snapshot().commit >= last && store.epoch() != killed.epoch);
}

#[test]
fn a_cut_of_unused_space_loses_nothing() {
    let killed = killed(64 << 10, false);
    let path = segments(&killed.state).remove(0);
    let end = *borders(&killed.state.file(&path).unwrap()).last().unwrap();
    let damaged = cut(&killed.state, &path, end + FRAME_ALIGNMENT);
    assert_eq!(check(&killed, &damaged, Kept::Manifest, "unused space"), 0);
    let (disk, report) = run_repair(&damaged, true);
    assert!(!report.has_lost(), "{report:?}");
    let store = Store::open_on(&disk.path(ROOT), false, options()).unwrap();
    assert_eq!(store.epoch(), killed.epoch);
}
