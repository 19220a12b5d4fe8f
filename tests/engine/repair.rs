//! A bad day for every kind of file: what is damaged is named, what is whole is served, nothing wrong ever is, and a
//! repair loses no more than the block, run or frame that was hit.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::sim_disk::{Rng, SimDisk, SimState};
use fastk::ErrorCode;
use fastk::query::{Scan, ScanSpec};
use fastk::store::{
    LostRows, RepairOptions, RepairReport, SeriesWrite, Store, StoreOptions, StoreState, WriteMode, repair,
};
use fastk::types::schema::Retention;
use fastk::types::{Rows, SeriesKey, SeriesSpec};

use super::guarantees::{MINUTE, def, minutes, options};

const ROOT: &str = "/lab/store";

type Shown = BTreeMap<String, Vec<Vec<i64>>>;

fn bars() -> SeriesKey {
    SeriesKey::kline("BTCUSDT", "1m").unwrap()
}

fn feature() -> SeriesKey {
    SeriesKey::parse("scalar/feature/BTCUSDT/1m/rsi_14").unwrap()
}

fn slow() -> SeriesKey {
    SeriesKey::kline("SLOW", "1m").unwrap()
}

fn fast() -> SeriesKey {
    SeriesKey::kline("FAST", "1m").unwrap()
}

fn small() -> StoreOptions {
    StoreOptions { wal_segment_bytes: 8 << 10, ..options() }
}

fn open(disk: &SimDisk) -> Store {
    Store::open_on(&disk.path(ROOT), false, small()).unwrap()
}

fn scalars(first: i64, rows: i64) -> Rows {
    let ts: Vec<i64> = (first..first + rows).map(|minute| minute * MINUTE).collect();
    let values = ts.iter().map(|ts| (*ts as f64 / 7.0).to_bits() as i64).collect();
    Rows::of_words(ts, vec![values])
}

/// A store with a file of every kind, each of them needed.
fn filled() -> SimDisk {
    let disk = SimDisk::new(SimState::default(), 7);
    let store = Store::open_on(&disk.path(ROOT), true, small()).unwrap();
    let mut indexed = def(&bars());
    indexed.value_index = vec!["close".into()];
    store.register(indexed).unwrap();
    let mut spec = SeriesSpec::of_key(&feature());
    spec.partition = Some("all".into());
    store.register(spec.resolve().unwrap()).unwrap();
    store.register(def(&slow())).unwrap();
    store.register(def(&fast())).unwrap();
    store.write(&bars(), minutes(44_000, 1_500), WriteMode::Upsert, None).unwrap();
    store.write(&feature(), scalars(0, 40_000), WriteMode::Upsert, None).unwrap();
    store.seal(&[]).unwrap();
    store.create_snapshot("before").unwrap();
    store.write(&bars(), minutes(44_200, 300), WriteMode::Merge { first: None }, None).unwrap();
    store.delete_range(&bars(), (44_900 * MINUTE, 45_000 * MINUTE), None).unwrap();
    store.delete_range(&feature(), (100 * MINUTE, 120 * MINUTE), None).unwrap();
    store.seal(&[bars()]).unwrap();
    // Enough edits for a manifest checkpoint, and run files.
    for minute in 0..70 {
        store.write(&slow(), minutes(minute, 1), WriteMode::Upsert, None).unwrap();
        store.checkpoint().unwrap();
    }
    let once = vec![SeriesWrite::new(slow(), minutes(100, 5), WriteMode::Upsert)];
    store.write_many(once, Some("once")).unwrap();
    store
        .change_series(&slow(), None, |def| {
            def.retention = Some(Retention { max_rows: Some(1_000_000), max_age: None });
            Ok(())
        })
        .unwrap();
    store.checkpoint().unwrap();
    for minute in 0..12 {
        store.write(&fast(), minutes(minute * 3, 1), WriteMode::Append, None).unwrap();
    }
    drop(store);
    disk
}

/// Every row of every readable series, and the number of others, which must fail with `corrupt_data`.
fn shown(store: &Store, state: &Arc<StoreState>, what: &str) -> (Shown, usize) {
    let mut unreadable = 0;
    let mut all = Shown::new();
    for series in state.registered() {
        let mut rows = Vec::new();
        let mut failed = false;
        for block in Scan::new(series, store.cache(), &ScanSpec::range((i64::MIN, i64::MAX))) {
            match block {
                Ok(block) => {
                    let columns: Vec<&[i64]> = (0..block.column_count()).map(|column| block.words(column)).collect();
                    rows.extend((0..block.rows()).map(|row| columns.iter().map(|c| c[row]).collect::<Vec<i64>>()));
                }
                Err(error) => {
                    assert_eq!(error.code(), ErrorCode::CorruptData, "{what}: {error}");
                    failed = true;
                    break;
                }
            }
        }
        if failed {
            unreadable += 1;
        } else {
            assert_eq!(series.rows, rows.len() as u64, "{what}: rows of {}", series.def.key);
            all.insert(series.def.key.to_string(), rows);
        }
    }
    (all, unreadable)
}

/// The contents of the store: now, and under its snapshot.
fn whole(disk: &SimDisk) -> [Shown; 2] {
    let store = open(disk);
    assert!(store.recovery().damage.is_empty(), "{:?}", store.recovery().damage);
    let (now, bad) = shown(&store, &store.snapshot(), "whole");
    let (then, bad_then) = shown(&store, &store.as_of("before").unwrap(), "whole");
    assert_eq!(bad + bad_then, 0);
    [now, then]
}

fn copy(state: &SimState) -> SimDisk {
    SimDisk::new(state.clone(), 99)
}

fn files(state: &SimState) -> BTreeMap<PathBuf, Arc<Vec<u8>>> {
    let mut files = state.files();
    files.retain(|path, _| !path.ends_with("LOCK"));
    files
}

fn run_repair(disk: &SimDisk, apply: bool) -> RepairReport {
    repair(&disk.path(ROOT), RepairOptions { apply, rebuild_manifest: false }).unwrap()
}

/// Reads, repairs, and compares a damaged store with the intact one. Returns the report and the number of lost rows.
fn check(damaged: &SimState, expected: &[Shown; 2], what: &str) -> (RepairReport, usize) {
    // Reads before the repair are correct or refused.
    let disk = copy(damaged);
    let store = open(&disk);
    let (now, _) = shown(&store, &store.snapshot(), what);
    let noted = !store.recovery().damage.is_empty() || !store.recovery().torn.is_empty();
    let lost_log = !store.recovery().lost_lsns.is_empty() || store.recovery().lost_from.is_some();
    for (key, rows) in &now {
        let right = &expected[0][key];
        if lost_log {
            let right: BTreeSet<&Vec<i64>> = right.iter().collect();
            assert!(rows.iter().all(|row| right.contains(row)), "{what}: {key} shows rows that never were");
        } else {
            assert!(rows == right, "{what}: {key} shows other rows: {} for {}", rows.len(), right.len());
        }
    }
    assert_eq!(now.len() + shown(&store, &store.snapshot(), what).1, expected[0].len(), "{what}: a series is missing");
    drop(store);
    // The plan changes no file.
    let disk = copy(damaged);
    let plan = run_repair(&disk, false);
    assert!(files(&disk.state()) == files(damaged), "{what}: looking changed the store");
    if noted && plan.clean {
        // Only a torn end, which an open truncates.
        assert!(plan.lost.is_empty(), "{what}");
    }
    let report = run_repair(&disk, true);
    assert_eq!(report.clean, plan.clean, "{what}");
    assert_eq!(report.lost, plan.lost, "{what}: the plan reported another loss");
    let again = run_repair(&copy(&disk.state()), false);
    assert!(again.clean, "{what}: not intact afterwards: {again:?}");
    // After the repair every row is present or reported as lost.
    let store = open(&disk);
    assert!(store.recovery().damage.is_empty(), "{what}: {:?}", store.recovery().damage);
    let (now, bad) = shown(&store, &store.snapshot(), what);
    assert_eq!(bad, 0, "{what}: still unreadable");
    let mut removed = 0;
    for (key, right) in &expected[0] {
        let rows = now.get(key).unwrap_or_else(|| panic!("{what}: {key} is gone"));
        if rows == right {
            continue;
        }
        let named = |ts: i64| {
            let named = report.lost.iter().any(|lost| {
                lost.series == *key
                    && lost.ts_min.is_none_or(|first| first <= ts)
                    && lost.ts_max.is_none_or(|last| ts <= last)
            });
            named || !report.lost_lsns.is_empty() || report.lost_from.is_some()
        };
        // An older version of a lost row can become visible.
        let (left, were): (BTreeSet<&Vec<i64>>, BTreeSet<&Vec<i64>>) = (rows.iter().collect(), right.iter().collect());
        for row in left.difference(&were) {
            assert!(named(row[0]), "{what}: {key} {} is another row", row[0]);
        }
        for row in were.difference(&left) {
            removed += 1;
            assert!(named(row[0]), "{what}: {key} {} is lost and not reported", row[0]);
        }
    }
    if report.lost.is_empty() && report.lost_lsns.is_empty() && report.lost_from.is_none() {
        assert!(now == expected[0], "{what}: other rows");
        if store.snapshots().iter().any(|(name, _)| name == "before") {
            let (then, bad) = shown(&store, &store.as_of("before").unwrap(), what);
            assert_eq!(bad, 0, "{what}");
            for (key, rows) in &expected[1] {
                let found = then.get(key).map(Vec::len);
                assert!(then.get(key) == Some(rows), "{what}: before: {key}: {found:?} rows for {}", rows.len());
            }
        }
    }
    // The repaired store accepts writes.
    store.write(&fast(), minutes(900, 2), WriteMode::Append, None).unwrap();
    store.checkpoint().unwrap();
    (report, removed)
}

fn is(path: &Path, text: &str) -> bool {
    path.to_string_lossy().contains(text)
}

/// Most rows that may be lost by one flipped bit of a file.
fn loss_max(path: &Path) -> usize {
    if is(path, ".arrow") {
        16_384
    } else if is(path, ".run") {
        // The longest run.
        70
    } else if is(path, ".wal") {
        1
    } else {
        0
    }
}

#[test]
fn one_flipped_bit_in_any_file_is_found_contained_and_repaired() {
    let disk = filled();
    let expected = whole(&disk);
    let state = disk.state();
    let mut rng = Rng(std::env::var("FASTK_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1));
    let flips = (crate::proof_amount::percent() / 2.0).ceil() as u64;
    let mut kinds: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let all = files(&state);
    for ending in [".arrow", ".zmap", ".vix", ".cov", ".run", ".receipts", ".wal", ".edit", ".checkpoint", ".tombstone"]
    {
        assert!(all.keys().any(|path| is(path, ending)), "there is no {ending} file");
    }
    for (path, bytes) in &all {
        for _ in 0..flips.max(1) {
            let at = (rng.roll() % bytes.len() as u64) as usize;
            // Half of the flips are in the used part of the file.
            let at = if rng.percent(50) { at } else { at.min(2_000) % bytes.len() };
            let mut spoilt = bytes.as_ref().clone();
            spoilt[at] ^= 1 << (rng.roll() % 8);
            let mut damaged = state.clone();
            damaged.put_file(path, spoilt).unwrap();
            let what = format!("{} byte {at}", path.display());
            let (_, removed) = check(&damaged, &expected, &what);
            assert!(removed <= loss_max(path), "{what}: {removed} rows are gone");
            let kind = path.extension().map_or("FORMAT, CURRENT".into(), |e| e.to_string_lossy().into_owned());
            let entry = kinds.entry(kind).or_default();
            *entry = (entry.0 + 1, entry.1 + removed);
        }
    }
    println!("proof repaired_flips: flips and rows lost by kind of file: {kinds:?}");
}

#[test]
fn a_truncated_missing_duplicated_or_swapped_file_never_shows_a_wrong_row_and_is_repaired() {
    let disk = filled();
    let expected = whole(&disk);
    let state = disk.state();
    let all = files(&state);
    let mut cases = 0;
    for (path, bytes) in &all {
        let mut spoilt: Vec<(String, SimState)> = Vec::new();
        for length in [0, 1, bytes.len() / 3, bytes.len().saturating_sub(1)] {
            let mut damaged = state.clone();
            damaged.put_file(path, bytes[..length].to_vec()).unwrap();
            spoilt.push((format!("cut to {length}"), damaged));
        }
        let mut damaged = state.clone();
        damaged.remove_file(path).unwrap();
        spoilt.push(("missing".into(), damaged));
        let sibling = all.keys().filter(|other| *other != path && other.parent() == path.parent());
        if let Some(other) = sibling.rev().find(|other| other.extension() == path.extension()) {
            let mut damaged = state.clone();
            damaged.put_file(path, all[other].as_ref().clone()).unwrap();
            spoilt.push((format!("replaced by {}", other.display()), damaged.clone()));
            damaged.put_file(other, bytes.as_ref().clone()).unwrap();
            spoilt.push((format!("swapped with {}", other.display()), damaged));
        }
        for (how, damaged) in spoilt {
            check(&damaged, &expected, &format!("{}: {how}", path.display()));
            cases += 1;
        }
    }
    println!("{cases} damaged stores");
}

#[test]
fn a_rebuilt_manifest_gives_the_same_rows() {
    let disk = filled();
    let expected = whole(&disk);
    let before = {
        let store = open(&disk);
        let state = store.snapshot();
        state.registered().map(|s| (s.def.clone(), s.rows, s.bounds)).collect::<Vec<_>>()
    };
    let state = disk.state();
    // With the manifest removed, and with an existing one ignored.
    let mut removed = state.clone();
    for path in files(&state).keys().filter(|path| is(path, "/manifest/")) {
        removed.remove_file(path).unwrap();
    }
    for (what, damaged) in [("gone", removed), ("not believed", state)] {
        let disk = copy(&damaged);
        let options = RepairOptions { apply: false, rebuild_manifest: true };
        let plan = repair(&disk.path(ROOT), options).unwrap();
        assert!(!plan.clean && !plan.forgotten.is_empty() && plan.lost.is_empty(), "{what}: {plan:?}");
        assert!(files(&disk.state()) == files(&damaged), "{what}: looking changed the store");
        let report = repair(&disk.path(ROOT), RepairOptions { apply: true, ..options }).unwrap();
        assert!(report.applied && report.lost.is_empty() && report.lost_lsns.is_empty(), "{what}: {report:?}");
        let store = open(&disk);
        assert!(store.recovery().damage.is_empty());
        let (now, bad) = shown(&store, &store.snapshot(), what);
        for (key, rows) in &expected[0] {
            let found = now.get(key).map_or(0, Vec::len);
            assert!(now.get(key) == Some(rows), "{what}: {key}: {found} rows for {}, {bad} unreadable", rows.len());
        }
        let state = store.snapshot();
        for (series, (def, rows, bounds)) in state.registered().zip(&before) {
            assert_eq!(series.def.columns, def.columns, "{what}: digits and columns");
            assert_eq!((&series.def.unit, &series.def.partition), (&def.unit, &def.partition), "{what}");
            assert_eq!((series.rows, series.bounds), (*rows, *bounds), "{what}: {}", def.key);
        }
        assert!(
            store
                .write_many(vec![SeriesWrite::new(slow(), minutes(100, 5), WriteMode::Upsert)], Some("once"))
                .unwrap()
                .repeated
        );
        store.compact(&[], true).unwrap();
        let (now, _) = shown(&store, &store.snapshot(), what);
        assert!(now == expected[0], "{what}: other rows after a compaction");
    }
}

#[test]
fn a_repair_interrupted_anywhere_can_be_repeated() {
    let disk = filled();
    let expected = whole(&disk);
    let state = disk.state();
    for part in [".arrow", ".run", ".wal", ".edit"] {
        let path = files(&state).into_keys().rfind(|path| is(path, part)).unwrap();
        let mut bytes = files(&state)[&path].as_ref().clone();
        for at in [300, 4_200] {
            let at = at % bytes.len();
            bytes[at] ^= 4;
        }
        let mut damaged = state.clone();
        damaged.put_file(&path, bytes).unwrap();
        let disk = copy(&damaged);
        disk.record();
        let report = run_repair(&disk, true);
        let moments = disk.recorded();
        assert!(moments.len() > 5);
        for (position, moment) in moments.iter().enumerate().step_by(3) {
            let what = format!("{part}: before {:?} {} ({position})", moment.op, moment.path.display());
            let left = moment.before.after_power_loss(position as u64);
            let disk = copy(&left);
            run_repair(&disk, true);
            assert!(run_repair(&disk, false).clean, "{what}: not intact afterwards");
            let store = open(&disk);
            assert!(store.recovery().damage.is_empty(), "{what}");
            let (now, bad) = shown(&store, &store.snapshot(), &what);
            assert_eq!(bad, 0, "{what}");
            for (key, right) in &expected[0] {
                let named = |row: &&Vec<i64>| {
                    let within = |lost: &&LostRows| {
                        lost.ts_min.is_none_or(|first| first <= row[0]) && lost.ts_max.is_none_or(|last| row[0] <= last)
                    };
                    !report.lost_lsns.is_empty()
                        || report.lost.iter().filter(|lost| lost.series == *key).any(|l| within(&l))
                };
                let kept: Vec<_> = right.iter().filter(|row| !named(row)).collect();
                let found: Vec<_> = now[key].iter().filter(|row| !named(row)).collect();
                assert!(kept == found, "{what}: {key} has other rows outside of the lost ranges");
            }
        }
    }
}

/// A store whose series GONE was dropped while a snapshot shows it.
fn dropped_under_a_snapshot(sealed: bool) -> SimDisk {
    let disk = SimDisk::new(SimState::default(), 11);
    let store = Store::open_on(&disk.path(ROOT), true, small()).unwrap();
    for key in [bars(), slow()] {
        store.register(def(&key)).unwrap();
        store.write(&key, minutes(0, 30), WriteMode::Upsert, None).unwrap();
    }
    if sealed {
        store.seal(&[]).unwrap();
    }
    store.checkpoint().unwrap();
    store.create_snapshot("before").unwrap();
    store.drop_series(&slow(), None).unwrap();
    store.write(&bars(), minutes(30, 5), WriteMode::Upsert, None).unwrap();
    store.checkpoint().unwrap();
    leave_log(&store);
    drop(store);
    disk
}

/// Writes the minutes 35 to 134 of `bars`, until all earlier commits have left the log.
fn leave_log(store: &Store) {
    for minute in 35..135 {
        store.write(&bars(), minutes(minute, 1), WriteMode::Upsert, None).unwrap();
    }
    store.checkpoint().unwrap();
}

#[test]
fn a_dropped_series_that_a_snapshot_shows_is_not_restored_by_a_rebuilt_manifest() {
    for sealed in [true, false] {
        let disk = dropped_under_a_snapshot(sealed);
        let state = disk.state();
        let manifest: Vec<PathBuf> = files(&state).into_keys().filter(|path| is(path, "/manifest/")).collect();
        let mut removed = state.clone();
        manifest.iter().for_each(|path| removed.remove_file(path).unwrap());
        for (what, damaged, rebuild) in [("gone", removed, false), ("not believed", state.clone(), true)] {
            let what = format!("{what}, sealed {sealed}");
            let disk = copy(&damaged);
            let options = RepairOptions { apply: true, rebuild_manifest: rebuild };
            let report = repair(&disk.path(ROOT), options).unwrap();
            let store = open(&disk);
            assert!(store.snapshot().get(&slow()).is_none(), "{what}: it came back to life: {report:?}");
            assert_eq!(store.snapshot().get(&bars()).unwrap().rows, 135, "{what}");
            if rebuild {
                // The old manifest is readable: losses of the new one are listed one by one.
                let names: Vec<&str> = report.lost_snapshots.iter().map(|lost| lost.name.as_str()).collect();
                let series: Vec<&str> = report.lost_series.iter().map(|lost| lost.series.as_str()).collect();
                assert_eq!((names, series), (vec!["before"], vec![slow().as_str()]), "{what}");
                assert!(report.lost_series[0].reason.contains("dropped"), "{what}");
            } else {
                assert!(!report.forgotten.is_empty(), "{what}");
            }
            drop(store);
            assert!(run_repair(&disk, false).clean, "{what}");
        }
        // Without the newest edit, only the snapshot shows the series.
        let newest = manifest.iter().rfind(|path| is(path, ".edit")).unwrap();
        let mut damaged = state.clone();
        damaged.remove_file(newest).unwrap();
        let disk = copy(&damaged);
        run_repair(&disk, true);
        let store = open(&disk);
        assert!(store.snapshot().get(&slow()).is_none(), "sealed {sealed}");
        let then = store.as_of("before").unwrap();
        let (rows, bad) = shown(&store, &then, "before");
        assert_eq!((bad, rows.get(slow().as_str()).map(Vec::len)), (0, Some(30)), "sealed {sealed}");
        // The series is removed with the snapshot.
        store.drop_snapshot("before").unwrap();
        store.checkpoint().unwrap();
        store.vacuum().unwrap();
        drop(store);
        open(&disk);
        let left =
            files(&disk.state()).into_keys().filter(|path| is(path, "/chunks/0000000002/") && is(path, ".arrow"));
        assert_eq!(left.count(), 0, "sealed {sealed}");
    }
}

/// Rows of a dropped series can remain in a run file that other series need.
#[test]
fn a_dropped_series_with_rows_in_a_run_file_is_not_restored() {
    let disk = SimDisk::new(SimState::default(), 12);
    let store = Store::open_on(&disk.path(ROOT), true, small()).unwrap();
    for key in [bars(), slow()] {
        store.register(def(&key)).unwrap();
        store.write(&key, minutes(0, 30), WriteMode::Upsert, None).unwrap();
    }
    store.checkpoint().unwrap();
    store.drop_series(&slow(), None).unwrap();
    store.checkpoint().unwrap();
    store.write(&bars(), minutes(30, 5), WriteMode::Upsert, None).unwrap();
    store.checkpoint().unwrap();
    leave_log(&store);
    drop(store);
    for round in 0..2 {
        let mut damaged = disk.state();
        for path in files(&damaged).into_keys().filter(|path| is(path, "/manifest/")) {
            damaged.remove_file(&path).unwrap();
        }
        let rebuilt = copy(&damaged);
        run_repair(&rebuilt, true);
        let store = open(&rebuilt);
        assert!(store.snapshot().get(&slow()).is_none(), "round {round}: it came back to life");
        assert_eq!(store.snapshot().get(&bars()).unwrap().rows, 135);
        drop(store);
        // The cleanup of an open must keep the marker of the dropped series.
        open(&disk);
    }
}

#[test]
fn settings_and_names_known_only_to_the_manifest_are_listed_one_by_one() {
    let disk = filled();
    // The other file with the retention is removed too, and so is every trace of a series without
    // rows.
    let store = open(&disk);
    store.register(def(&SeriesKey::kline("EMPTY", "1m").unwrap())).unwrap();
    store
        .change_series(&feature(), None, |def| {
            def.retention = Some(Retention { max_rows: Some(2_000_000), max_age: None });
            Ok(())
        })
        .unwrap();
    store.checkpoint().unwrap();
    leave_log(&store);
    drop(store);
    let mut damaged = disk.state();
    for path in files(&damaged).into_keys().filter(|path| is(path, ".registration")) {
        damaged.remove_file(&path).unwrap();
    }
    let rebuilt = copy(&damaged);
    let report = repair(&rebuilt.path(ROOT), RepairOptions { apply: true, rebuild_manifest: true }).unwrap();
    let names: Vec<&str> = report.lost_snapshots.iter().map(|lost| lost.name.as_str()).collect();
    assert_eq!(names, ["before"]);
    let series: Vec<&str> = report.lost_series.iter().map(|lost| lost.series.as_str()).collect();
    assert_eq!(series, ["kline/EMPTY/1m"]);
    let forgotten = report.forgotten.join("\n");
    assert!(forgotten.contains(feature().as_str()) && forgotten.contains("retention was"), "{forgotten}");
    assert!(report.has_lost());
}
