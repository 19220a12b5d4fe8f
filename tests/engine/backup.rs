//! Backups: their contents, crashes during a backup, and restores.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::sim_disk::{Fault, FaultPlan, Rng, SimDisk, SimState};
use fastk::ErrorCode;
use fastk::disk::DiskPath;
use fastk::format::backup::{CopyMethod, decode_backup, encode_backup};
use fastk::store::{
    BackupOptions, BackupReport, RepairOptions, RestoreOptions, RestoreReport, SeriesWrite, Store, StoreOptions,
    TaskControl, VerifyOptions, WriteMode, read_listing, repair, restore, restore_on, verify,
};
use fastk::types::schema::ValueIndexSpec;
use fastk::types::{Rows, SeriesKey, SeriesSpec};

use super::guarantees::{MINUTE, def, minutes, options};
use super::known_defects::{Files, contents, shown};

/// Rows by series.
type Rowset = BTreeMap<String, Vec<Vec<i64>>>;

fn back_up(store: &Store, to: &Path, options: &BackupOptions) -> fastk::Result<BackupReport> {
    store.backup(to, options, &TaskControl::new())
}

fn apply() -> RestoreOptions {
    RestoreOptions { apply: true, ..RestoreOptions::default() }
}

fn restored(backup: &Path, root: &Path, options: &RestoreOptions) -> fastk::Result<RestoreReport> {
    restore(backup, root, options, &TaskControl::new())
}

/// Asserts that no file is damaged, missing or orphaned.
fn assert_clean(root: &Path) {
    let report = verify(&DiskPath::os(root), VerifyOptions { live: Some(false) }, &TaskControl::new()).unwrap();
    assert!(report.clean && report.findings.is_empty(), "{report:?}");
}

/// The contents of the store now, under the name "", and under every snapshot.
fn all_shown(store: &Store) -> BTreeMap<String, Rowset> {
    let named = store.snapshots().into_iter().map(|(name, _)| {
        let rows = shown(store, &store.as_of(&name).unwrap());
        (name, rows)
    });
    named.chain([(String::new(), shown(store, &store.snapshot()))]).collect()
}

fn keys() -> [SeriesKey; 2] {
    ["A", "B"].map(|symbol| SeriesKey::kline(symbol, "1m").unwrap())
}

fn small() -> StoreOptions {
    StoreOptions { wal_segment_bytes: 16 << 10, ..options() }
}

fn once() -> Vec<SeriesWrite> {
    keys().map(|key| SeriesWrite::new(key, minutes(44_500, 30), WriteMode::Upsert)).to_vec()
}

/// Chunks of two months with an index, a run file, a delete, two snapshots, a series that only a snapshot shows, a
/// receipt, and rows in the log.
fn fill(store: &Store) {
    let [a, b] = keys();
    let mut spec = SeriesSpec::of_key(&a);
    spec.value_index = Some(ValueIndexSpec::Columns(vec!["close".into()]));
    store.register(spec.resolve().unwrap()).unwrap();
    let removed = SeriesKey::kline("GONE", "1m").unwrap();
    for key in [&b, &removed] {
        store.register(def(key)).unwrap();
    }
    for key in [&a, &b, &removed] {
        store.write(key, minutes(44_400, 400), WriteMode::Upsert, None).unwrap();
    }
    store.seal(&[]).unwrap();
    store.write(&b, minutes(44_450, 100), WriteMode::Upsert, None).unwrap();
    store.create_snapshot("early").unwrap();
    store.drop_series(&removed, None).unwrap();
    store.write_many(once(), Some("once")).unwrap();
    store.checkpoint().unwrap();
    store.delete_range(&a, (44_600 * MINUTE, 44_700 * MINUTE), None).unwrap();
    store.create_snapshot("late").unwrap();
    store.write(&a, minutes(44_650, 20), WriteMode::Upsert, None).unwrap();
    store.write(&b, minutes(10, 5), WriteMode::Upsert, None).unwrap();
}

/// More writes; also drops a snapshot and replaces chunks.
fn change(store: &Store) {
    let [a, b] = keys();
    store.write(&a, minutes(90_000, 50), WriteMode::Upsert, None).unwrap();
    store.seal(&[]).unwrap();
    store.drop_snapshot("early").unwrap();
    store.delete_range(&b, (44_420 * MINUTE, 44_460 * MINUTE), None).unwrap();
    store.compact(&[], true).unwrap();
    store.write(&b, minutes(44_430, 3), WriteMode::Upsert, None).unwrap();
}

#[test]
fn a_backup_and_the_store_restored_from_it_have_the_contents_of_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let (root, to, again) = (dir.path().join("store"), dir.path().join("deep/backup"), dir.path().join("again"));
    let store = Store::open(&root, true, small()).unwrap();
    fill(&store);
    let expected = all_shown(&store);
    let before = store.snapshot().commit;
    let planned = back_up(&store, &to, &BackupOptions { dry_run: true, ..BackupOptions::default() }).unwrap();
    assert!(
        !to.exists() && planned.dry_run && planned.rows == store.snapshot().registered().map(|s| s.rows).sum::<u64>()
    );
    let report = back_up(&store, &to, &BackupOptions::default()).unwrap();
    assert_eq!((report.commit, report.series, report.snapshots), (before, 2, 2));
    assert!(report.linked.files > 5 && report.kept.files == 0 && report.damaged.is_empty(), "{report:?}");
    assert!(all_shown(&store) == expected);

    // Opened in place, the backup is complete, refuses writes, and its files and their times do not change.
    let untouched = |path: &Path| -> (Files, Vec<i64>) {
        let names = super::guarantees::files(path, ".", "");
        (contents(path), names.iter().map(|name| std::fs::metadata(name).unwrap().mtime_nsec()).collect())
    };
    let left = untouched(&to);
    for _ in 0..2 {
        let backup = Store::open(&to, false, small()).unwrap();
        assert!(all_shown(&backup) == expected);
        assert_eq!((backup.epoch(), backup.snapshot().commit), (store.epoch(), before));
        let refused = backup.write(&keys()[0], minutes(0, 1), WriteMode::Upsert, None).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::WriterStopped);
        assert!(refused.hint().unwrap().contains("restore"), "{refused}");
        assert!(backup.seal(&[]).is_err() && backup.checkpoint().is_err() && backup.create_snapshot("x").is_err());
        assert!(backup.drop_series(&keys()[0], None).is_err());
        drop(backup);
        assert!(untouched(&to) == left);
    }

    let plan = restored(&to, &again, &RestoreOptions::default()).unwrap();
    assert!(!plan.applied && plan.epoch.is_none() && !again.exists());
    let done = restored(&to, &again, &apply()).unwrap();
    assert_eq!((done.commit, done.rows, done.files), (before, plan.rows, plan.files));
    assert!(untouched(&to) == left);
    let other = Store::open(&again, false, small()).unwrap();
    assert_eq!(Some(other.epoch()), done.epoch.as_deref());
    assert_ne!(other.epoch(), store.epoch());
    assert!(all_shown(&other) == expected);
    assert!(other.write_many(once(), Some("once")).unwrap().repeated, "the receipt is gone");
    assert_clean(&to);
    assert_clean(&again);
    // It is a normal store, and its writes change neither the backup nor the first store.
    change(&other);
    let changed = all_shown(&other);
    other.vacuum().unwrap();
    drop(other);
    assert!(all_shown(&Store::open(&again, false, small()).unwrap()) == changed);
    assert!(untouched(&to) == left && all_shown(&store) == expected);
}

/// The operations of a writer, by commit.
enum Done {
    Register(SeriesKey),
    Write(SeriesKey, Rows),
    Delete(SeriesKey, (i64, i64)),
    Snapshot(String),
    Forget(String),
}

/// Every cell of every snapshot at a commit, computed from the operations.
fn replayed(done: &BTreeMap<u64, Done>, commit: u64) -> BTreeMap<String, Rowset> {
    let mut now: BTreeMap<String, BTreeMap<i64, Vec<i64>>> = BTreeMap::new();
    let mut named: BTreeMap<String, Rowset> = BTreeMap::new();
    let listed = |now: &BTreeMap<String, BTreeMap<i64, Vec<i64>>>| -> Rowset {
        now.iter().map(|(key, rows)| (key.clone(), rows.values().cloned().collect())).collect()
    };
    for (_, done) in done.range(..=commit) {
        match done {
            Done::Register(key) => drop(now.insert(key.to_string(), BTreeMap::new())),
            Done::Write(key, rows) => {
                let map = now.get_mut(key.as_str()).unwrap();
                for (row, ts) in rows.ts.iter().enumerate() {
                    let cells = std::iter::once(*ts).chain(rows.columns.iter().map(|column| column.words()[row]));
                    map.insert(*ts, cells.collect());
                }
            }
            Done::Delete(key, (start, end)) => {
                now.get_mut(key.as_str()).unwrap().retain(|ts, _| !(start..=end).contains(&ts));
            }
            Done::Snapshot(name) => drop(named.insert(name.clone(), listed(&now))),
            Done::Forget(name) => drop(named.remove(name)),
        }
    }
    named.insert(String::new(), listed(&now));
    named
}

#[test]
fn a_backup_under_load_equals_the_store_at_its_commit_cell_by_cell() {
    let dir = tempfile::tempdir().unwrap();
    let options =
        StoreOptions { background_maintenance: true, tail_rows_max: 700, wal_bytes_max: 128 << 10, ..small() };
    let store = Store::open(&dir.path().join("store"), true, options).unwrap();
    let done: Mutex<BTreeMap<u64, Done>> = Mutex::default();
    let note = |commit: u64, what: Done| assert!(done.lock().unwrap().insert(commit, what).is_none());
    let stop = AtomicBool::new(false);
    let writer = |seed: u64| {
        let mut rng = Rng(seed);
        let key = SeriesKey::kline(&format!("W{seed}"), "1m").unwrap();
        let (_, _, commit) = store.register(def(&key)).unwrap();
        note(commit, Done::Register(key.clone()));
        let mut names = 0;
        while !stop.load(Ordering::Relaxed) {
            let first = 44_000 + (rng.roll() % 3_000) as i64;
            match rng.roll() % 40 {
                0..34 => {
                    let mut rows = minutes(first, 1 + (rng.roll() % 60) as i64);
                    let salt = (rng.roll() % 1_000) as i64;
                    rows.columns.iter_mut().flat_map(|column| column.words_mut()).for_each(|cell| *cell += salt);
                    let written = store.write(&key, rows.clone(), WriteMode::Upsert, None).unwrap();
                    note(written.commit, Done::Write(key.clone(), rows));
                }
                34..37 => {
                    let range = (first * MINUTE, (first + 100) * MINUTE);
                    let deleted = store.delete_range(&key, range, None).unwrap();
                    if deleted.rows_deleted > 0 {
                        note(deleted.commit, Done::Delete(key.clone(), range));
                    }
                }
                37 => {
                    names += 1;
                    let name = format!("{seed}-{names}");
                    let snapshot = store.create_snapshot(&name).unwrap();
                    note(snapshot.commit, Done::Snapshot(name));
                }
                38 if names > 2 => {
                    let name = format!("{seed}-{}", names - 2);
                    if let Ok(commit) = store.drop_snapshot(&name) {
                        note(commit, Done::Forget(name));
                    }
                }
                _ => drop(store.compact(&[], rng.percent(50)).unwrap()),
            }
        }
    };
    let mut taken = Vec::new();
    let started_at = std::time::Instant::now();
    std::thread::scope(|scope| {
        for seed in 0..4 {
            scope.spawn(move || writer(seed));
        }
        let plain = BackupOptions::default();
        let forced = BackupOptions { copy: true, ..BackupOptions::default() };
        // The first two grow in one directory.
        for (round, name) in ["one", "one", "two", "three"].into_iter().enumerate() {
            // The writers make some progress between two backups.
            let enough = store.snapshot().commit + 100;
            while store.snapshot().commit < enough {
                assert!(started_at.elapsed().as_secs() < 300, "the writers stopped");
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            let to = dir.path().join(name);
            let report = back_up(&store, &to, if round == 2 { &forced } else { &plain });
            taken.push((to, report));
            drop(store.vacuum());
        }
        stop.store(true, Ordering::Relaxed);
    });
    let done = done.into_inner().unwrap();
    println!("{} commits", done.len());
    for (round, (to, report)) in taken.into_iter().enumerate().skip(1) {
        let report = report.unwrap();
        assert!(report.commit > 0 && report.commit <= *done.last_key_value().unwrap().0);
        let expected = replayed(&done, report.commit);
        let backup = Store::open(&to, false, small()).unwrap();
        let found = all_shown(&backup);
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "round {round}");
        for (name, rows) in &expected {
            assert!(found[name] == *rows, "round {round}, view {name:?} at commit {}", report.commit);
        }
        let again = dir.path().join(format!("again-{round}"));
        restored(&to, &again, &apply()).unwrap();
        assert!(all_shown(&Store::open(&again, false, small()).unwrap()) == expected, "round {round}, restored");
    }
    let forced = read_listing(&DiskPath::os(dir.path().join("two"))).unwrap();
    assert!(forced.files.iter().all(|file| !file.shared && file.how != CopyMethod::Linked));
}

fn inodes(root: &Path) -> BTreeMap<String, u64> {
    let name = |path: &Path| path.strip_prefix(root.join(".")).unwrap().display().to_string();
    let all = super::guarantees::files(root, ".", "").into_iter();
    all.map(|path| (name(&path), std::fs::metadata(&path).unwrap().ino())).collect()
}

#[test]
fn a_later_backup_keeps_unchanged_files_and_adds_only_new_ones() {
    for copy in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (root, to) = (dir.path().join("store"), dir.path().join("backup"));
        let store = Store::open(&root, true, small()).unwrap();
        fill(&store);
        let how = BackupOptions { copy, ..BackupOptions::default() };
        let first = back_up(&store, &to, &how).unwrap();
        let before = inodes(&to);
        let of_store = inodes(&root);
        let chunks = |all: &BTreeMap<String, u64>| -> BTreeMap<String, u64> {
            all.iter()
                .filter(|(name, _)| name.ends_with(".arrow"))
                .map(|(name, inode)| (name.clone(), *inode))
                .collect()
        };
        let shared = chunks(&before).iter().filter(|(name, inode)| of_store[*name] == **inode).count();
        assert_eq!(shared, if copy { 0 } else { chunks(&before).len() });

        let same = back_up(&store, &to, &how).unwrap();
        assert_eq!((same.linked.files, same.copied.files, same.files_removed), (0, 0, 0), "{same:?}");
        assert_eq!(same.kept.bytes, first.linked.bytes + first.copied.bytes);

        // A month more: its chunk and sidecars are new, with the tail and the manifest.
        store.write(&keys()[0], minutes(90_000, 50), WriteMode::Upsert, None).unwrap();
        store.seal(&[]).unwrap();
        let added = back_up(&store, &to, &how).unwrap();
        let after = inodes(&to);
        for (name, inode) in chunks(&before) {
            assert_eq!(after[&name], inode, "{name} was rewritten");
        }
        assert!(chunks(&after).len() > chunks(&before).len());
        let new: Vec<&String> = after.keys().filter(|name| !before.contains_key(*name)).collect();
        assert_eq!(added.linked.files + added.copied.files, new.len() as u64, "{new:?}");
        let bytes: u64 = new.iter().map(|name| std::fs::metadata(to.join(name)).unwrap().len()).sum();
        assert_eq!(added.linked.bytes + added.copied.bytes, bytes);
        let expected = all_shown(&store);
        assert!(all_shown(&Store::open(&to, false, small()).unwrap()) == expected);

        change(&store);
        let expected = all_shown(&store);
        let third = back_up(&store, &to, &how).unwrap();
        assert!(third.files_removed > 0, "{third:?}");
        let listed = read_listing(&DiskPath::os(&to)).unwrap();
        let mut found: Vec<String> = contents(&to).into_keys().filter(|name| name != "backup.json").collect();
        let mut named: Vec<String> = listed.files.into_iter().map(|file| file.path).collect();
        found.sort();
        named.sort();
        assert_eq!(found, named);
        assert!(all_shown(&Store::open(&to, false, small()).unwrap()) == expected);

        // Incremental backups: each one shares unchanged files with the previous one.
        let next = dir.path().join("next");
        let based = back_up(&store, &next, &BackupOptions { base: Some(to.clone()), ..how.clone() }).unwrap();
        let (old, new) = (chunks(&inodes(&to)), chunks(&inodes(&next)));
        assert_eq!(old, new, "{based:?}");
        assert!(all_shown(&Store::open(&next, false, small()).unwrap()) == expected);
        std::fs::remove_dir_all(&to).unwrap();
        restored(&next, &dir.path().join("again"), &apply()).unwrap();
    }
}

#[test]
fn separate_copies_replace_shared_files_on_request() {
    let dir = tempfile::tempdir().unwrap();
    let (root, to) = (dir.path().join("store"), dir.path().join("backup"));
    let store = Store::open(&root, true, small()).unwrap();
    fill(&store);
    back_up(&store, &to, &BackupOptions::default()).unwrap();
    back_up(&store, &to, &BackupOptions { copy: true, ..BackupOptions::default() }).unwrap();
    let (of_store, of_backup) = (inodes(&root), inodes(&to));
    let shared = of_backup.iter().filter(|(name, inode)| of_store.get(*name) == Some(inode));
    assert_eq!(shared.map(|(name, _)| name).collect::<Vec<_>>(), Vec::<&String>::new());
    // A linked restore shares with the backup instead.
    let again = dir.path().join("again");
    restored(&to, &again, &RestoreOptions { link: true, ..apply() }).unwrap();
    let restored = inodes(&again);
    assert!(of_backup.iter().filter(|(name, _)| name.starts_with("chunks")).all(|(name, n)| restored[name] == *n));
    assert!(all_shown(&Store::open(&again, false, small()).unwrap()) == all_shown(&store));
}

#[test]
fn directories_with_other_files_are_refused_and_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let store = Store::open(&path("store"), true, small()).unwrap();
    fill(&store);
    let other = Store::open(&path("other"), true, small()).unwrap();
    std::fs::create_dir(path("full")).unwrap();
    std::fs::write(path("full/letter"), "dear").unwrap();
    std::fs::write(path("file"), "").unwrap();
    std::os::unix::fs::symlink(path("store"), path("link")).unwrap();
    back_up(&other, &path("foreign"), &BackupOptions::default()).unwrap();
    let before = contents(dir.path());
    for name in ["store", "store/in/it", "link/backup", ".", "full", "file", "other", "foreign"] {
        let error = back_up(&store, &path(name), &BackupOptions::default()).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument, "{name}: {error}");
        assert!(error.hint().is_some(), "{name}");
    }
    let based = BackupOptions { base: Some(path("foreign")), ..BackupOptions::default() };
    assert_eq!(back_up(&store, &path("new"), &based).unwrap_err().code(), ErrorCode::InvalidArgument);
    let based = BackupOptions { base: Some(path("full")), ..BackupOptions::default() };
    assert_eq!(back_up(&store, &path("new"), &based).unwrap_err().code(), ErrorCode::NotFound);
    assert!(!path("new").exists());
    for name in ["store", "full", "file", "foreign/in", "."] {
        let error = restored(&path("foreign"), &path(name), &apply()).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument, "{name}: {error}");
    }
    assert_eq!(restored(&path("full"), &path("new"), &apply()).unwrap_err().code(), ErrorCode::NotFound);
    // No file changed, except by the checkpoint of the store before the copy.
    let rest = |files: Files| -> Files { files.into_iter().filter(|(name, _)| !name.starts_with("store/")).collect() };
    assert!(rest(contents(dir.path())) == rest(before));
}

#[test]
fn a_restored_store_has_exactly_the_contents_of_the_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let (root, to) = (dir.path().join("store"), dir.path().join("backup"));
    let store = Store::open(&root, true, small()).unwrap();
    fill(&store);
    // The next backup has the views of "early" in run files and chunks both.
    store.checkpoint().unwrap();
    store
        .change_series(&keys()[1], None, |def| {
            def.description = Some("later".into());
            Ok(())
        })
        .unwrap();
    let expected = all_shown(&store);
    back_up(&store, &to, &BackupOptions::default()).unwrap();
    for (name, others) in [("early", vec!["early"]), ("late", vec!["early", "late"])] {
        let again = dir.path().join(name);
        let options = RestoreOptions { as_of: Some(name.into()), ..apply() };
        let report = restored(&to, &again, &options).unwrap();
        assert_eq!(report.snapshots, others);
        let left_out: u64 = if name == "early" { 1 } else { 0 };
        assert_eq!(report.snapshots_left_out.len() as u64, left_out);
        let then = store.as_of(name).unwrap();
        let other = Store::open(&again, false, small()).unwrap();
        let state = other.snapshot();
        assert_eq!(state.commit, then.commit);
        assert!(shown(&other, &state) == expected[name], "{name}");
        for earlier in others {
            assert!(shown(&other, &other.as_of(earlier).unwrap()) == expected[earlier], "{earlier} in {name}");
        }
        for series in then.registered() {
            let found = state.get(&series.def.key).unwrap();
            assert_eq!((found.version, found.rows, found.bounds), (series.version, series.rows, series.bounds));
            assert_eq!(found.def, series.def);
        }
        // The keyed write came after "early": the restored store does not have it, so its retry is applied.
        assert_eq!(other.write_many(once(), Some("once")).unwrap().repeated, name == "late");
        assert_clean(&again);
        let rows = all_shown(&other);
        other.seal(&[]).unwrap();
        other.checkpoint().unwrap();
        other.compact(&[], true).unwrap();
        drop(other);
        assert!(all_shown(&Store::open(&again, false, small()).unwrap()) == rows, "{name} after maintenance");
    }
    let removed = SeriesKey::kline("GONE", "1m").unwrap();
    assert!(expected["early"].contains_key(removed.as_str()) && !expected["late"].contains_key(removed.as_str()));
    let options = RestoreOptions { as_of: Some("never".into()), ..apply() };
    let error = restored(&to, &dir.path().join("never"), &options).unwrap_err();
    assert_eq!((error.code(), error.hint()), (ErrorCode::SnapshotNotFound, Some("it has early, late")));
    assert!(!dir.path().join("never").exists());
}

#[test]
fn the_manifest_of_a_restored_store_can_be_rebuilt_from_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let (to, again) = (dir.path().join("backup"), dir.path().join("again"));
    let store = Store::open(&dir.path().join("store"), true, small()).unwrap();
    fill(&store);
    // Only the manifest has snapshots and data that only they need.
    store.drop_snapshot("early").unwrap();
    store.drop_snapshot("late").unwrap();
    let expected = all_shown(&store);
    back_up(&store, &to, &BackupOptions::default()).unwrap();
    restored(&to, &again, &apply()).unwrap();
    let before = inodes(&to);
    let refused = repair(&DiskPath::os(&to), RepairOptions { apply: true, rebuild_manifest: true }).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::WriterStopped);
    assert_eq!(inodes(&to), before);
    repair(&DiskPath::os(&again), RepairOptions { apply: true, rebuild_manifest: true }).unwrap();
    assert!(all_shown(&Store::open(&again, false, small()).unwrap()) == expected);
}

#[test]
fn a_damaged_chunk_stops_a_backup_by_name_unless_damage_is_allowed() {
    for copy in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (root, to) = (dir.path().join("store"), dir.path().join("backup"));
        let store = Store::open(&root, true, small()).unwrap();
        fill(&store);
        store.checkpoint().unwrap();
        let chunk = super::guarantees::files(&root, "chunks", ".arrow")[0].clone();
        let name = chunk.strip_prefix(&root).unwrap().display().to_string();
        let mut bytes = std::fs::read(&chunk).unwrap();
        bytes[2_000] ^= 4;
        std::fs::write(&chunk, &bytes).unwrap();
        let how = BackupOptions { copy, ..BackupOptions::default() };
        let error = back_up(&store, &to, &how).unwrap_err();
        assert_eq!(error.code(), ErrorCode::CorruptData);
        assert!(error.detail().contains(&name), "{error}");
        assert!(!to.exists(), "the incomplete backup was not removed");
        let how = BackupOptions { allow_damaged: true, ..how };
        for _ in 0..2 {
            let report = back_up(&store, &to, &how).unwrap();
            assert_eq!(report.damaged.len(), 1, "{report:?}");
            assert_eq!(report.damaged[0].path, name);
            assert_eq!(std::fs::read(to.join(&name)).unwrap(), bytes);
        }
        let again = dir.path().join("again");
        assert!(restored(&to, &again, &apply()).unwrap_err().detail().contains(&name));
        assert!(!again.exists());
        let report = restored(&to, &again, &RestoreOptions { allow_damaged: true, ..apply() }).unwrap();
        assert_eq!(report.damaged.len(), 1);
        std::fs::remove_file(&chunk).unwrap();
        let error = back_up(&store, &dir.path().join("third"), &BackupOptions::default()).unwrap_err();
        assert!(error.code() == ErrorCode::CorruptData && error.detail().contains(&name), "{error}");
    }
}

#[test]
fn a_run_file_that_was_damaged_after_it_was_read_stops_a_backup_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (root, to) = (dir.path().join("store"), dir.path().join("backup"));
    let store = Store::open(&root, true, small()).unwrap();
    fill(&store);
    store.checkpoint().unwrap();
    for (ending, at) in [(".run", 200), (".receipts", 40)] {
        let path = super::guarantees::files(&root, "runs", ending)[0].clone();
        let whole = std::fs::read(&path).unwrap();
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let name = path.strip_prefix(&root).unwrap().display().to_string();
        let error = back_up(&store, &to, &BackupOptions { copy: true, ..BackupOptions::default() }).unwrap_err();
        assert!(error.code() == ErrorCode::CorruptData && error.detail().contains(&name), "{error}");
        assert!(!to.exists());
        std::fs::write(&path, whole).unwrap();
    }
    back_up(&store, &to, &BackupOptions::default()).unwrap();
}

#[test]
fn cancelled_backups_and_restores_leave_no_files() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store"), true, small()).unwrap();
    fill(&store);
    let to = dir.path().join("backup");
    let watch = TaskControl::new();
    watch.cancel();
    assert_eq!(store.backup(&to, &BackupOptions::default(), &watch).unwrap_err().code(), ErrorCode::NotReady);
    assert!(!to.exists());
    // Cancelled during the copy, which the rate limit slows down.
    let watch = TaskControl::with_rate(1 << 10);
    std::thread::scope(|scope| {
        let backup = scope.spawn(|| store.backup(&to, &BackupOptions::default(), &watch));
        while watch.progress().0 == 0 {
            std::thread::yield_now();
        }
        watch.cancel();
        assert_eq!(backup.join().unwrap().unwrap_err().code(), ErrorCode::NotReady);
    });
    assert!(!to.exists());
    let watch = TaskControl::new();
    store.backup(&to, &BackupOptions::default(), &watch).unwrap();
    let (done, total) = watch.progress();
    assert!(done > 0 && done == total);
    // A cancelled restore leaves the directory empty.
    let watch = TaskControl::new();
    watch.cancel();
    let again = dir.path().join("again");
    assert_eq!(restore(&to, &again, &apply(), &watch).unwrap_err().code(), ErrorCode::NotReady);
    assert!(!again.exists());
}

#[test]
fn a_flipped_bit_anywhere_in_a_backup_is_refused_by_restore_with_the_name_of_the_file() {
    let disk = SimDisk::default();
    let store = Store::open_on(&disk.path("/store"), true, small()).unwrap();
    fill(&store);
    store.backup(Path::new("/backup"), &BackupOptions::default(), &TaskControl::new()).unwrap();
    drop(store);
    let whole = disk.state();
    let check = |state: SimState| {
        let disk = SimDisk::new(state, 1);
        restore_on(&disk.path("/backup"), &disk.path("/again"), &RestoreOptions::default(), &TaskControl::new())
    };
    check(whole.clone()).unwrap();
    let named = |name: &str| name != "LOCK";
    let mut flips = 0;
    for (path, bytes) in whole.files() {
        let Ok(name) = path.strip_prefix("/backup").map(|name| name.display().to_string()) else { continue };
        if !named(&name) {
            continue;
        }
        // Every byte of small files, and a sample of the others.
        let step = (bytes.len() / 400).max(1);
        for at in (0..bytes.len()).step_by(step).chain([bytes.len() - 1]) {
            let mut state = whole.clone();
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 1 << (at % 8);
            state.put_file(&path, damaged).unwrap();
            let error = check(state).expect_err(&format!("byte {at} of {name}"));
            assert!(error.detail().contains(&name), "byte {at} of {name}: {error}");
            flips += 1;
        }
        for length in [0, bytes.len() / 2, bytes.len() - 1] {
            let mut state = whole.clone();
            state.put_file(&path, bytes[..length].to_vec()).unwrap();
            assert!(check(state).unwrap_err().detail().contains(&name), "{name} cut at {length}");
        }
        let mut state = whole.clone();
        state.remove_file(&path).unwrap();
        let error = check(state).unwrap_err();
        assert!(error.detail().contains(&name) || name == "backup.json", "{name} is gone: {error}");
    }
    println!("{flips} flipped bits");
    assert!(flips > 3_000);
}

#[test]
fn a_listing_of_another_manifest_or_without_a_chunk_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store"), true, small()).unwrap();
    fill(&store);
    let to = dir.path().join("backup");
    back_up(&store, &to, &BackupOptions::default()).unwrap();
    let whole = decode_backup(&std::fs::read(to.join("backup.json")).unwrap()).unwrap();
    let mut less = whole.clone();
    less.files.retain(|file| !file.path.ends_with(".arrow"));
    let mut other = whole.clone();
    other.epoch = "another".into();
    for forged in [less, other] {
        std::fs::write(to.join("backup.json"), encode_backup(&forged).unwrap()).unwrap();
        let error = restored(&to, &dir.path().join("again"), &apply()).unwrap_err();
        assert_eq!(error.code(), ErrorCode::CorruptData, "{error}");
    }
}

/// The contents of a store restored from a disk, or the error.
fn restored_from(state: SimState, seed: u64) -> fastk::Result<BTreeMap<String, Rowset>> {
    let disk = SimDisk::new(state, seed);
    restore_on(&disk.path("/backup"), &disk.path("/again"), &apply(), &TaskControl::new())?;
    Ok(all_shown(&Store::open_on(&disk.path("/again"), false, small()).unwrap()))
}

#[test]
fn a_crash_at_any_step_of_a_backup_leaves_the_earlier_one_or_the_new_one() {
    let mut images = 0;
    for copy in [false, true] {
        let how = BackupOptions { copy, ..BackupOptions::default() };
        let disk = SimDisk::default();
        let store = Store::open_on(&disk.path("/store"), true, small()).unwrap();
        fill(&store);
        let mut earlier = None;
        for round in 0..2 {
            disk.record();
            store.backup(Path::new("/backup"), &how, &TaskControl::new()).unwrap();
            let moments = disk.recorded();
            let new = all_shown(&store);
            let mut found = [0, 0];
            for (position, moment) in moments.iter().enumerate() {
                let seed = position as u64 * 7 + u64::from(copy);
                let what = format!("copy {copy}, round {round}, before {:?} {:?}", moment.op, moment.path);
                let crashed = moment.before.after_power_loss(seed);
                images += 1;
                match restored_from(crashed.clone(), seed) {
                    Ok(rows) if rows == new => found[1] += 1,
                    Ok(rows) => {
                        assert!(Some(&rows) == earlier.as_ref(), "{what}: neither backup");
                        found[0] += 1;
                    }
                    Err(error) => {
                        assert!(earlier.is_none() && error.code() == ErrorCode::NotFound, "{what}: {error}");
                        found[0] += 1;
                    }
                }
                // The store and its backups continue despite the leftovers.
                if position % 5 == 0 {
                    let disk = SimDisk::new(crashed, seed);
                    let store = Store::open_on(&disk.path("/store"), false, small()).unwrap();
                    let report = store.backup(Path::new("/backup"), &how, &TaskControl::new());
                    report.unwrap_or_else(|error| panic!("{what}: {error}"));
                    let expected = all_shown(&store);
                    assert!(restored_from(disk.state(), 1).unwrap() == expected, "{what}: the next backup");
                    let listing = read_listing(&disk.path("/backup")).unwrap();
                    let left = disk.state().files().into_keys().filter(|path| path.starts_with("/backup"));
                    assert_eq!(left.count(), listing.files.len() + 2, "{what}: a file is left over");
                }
            }
            assert!(found[0] > 20 && found[1] > 0, "{found:?}");
            earlier = Some(new);
            if round == 0 {
                change(&store);
            }
        }
    }
    println!("{images} images");
}

#[test]
fn a_crash_at_any_step_of_a_restore_leaves_no_store_or_the_complete_one() {
    let disk = SimDisk::default();
    let store = Store::open_on(&disk.path("/store"), true, small()).unwrap();
    fill(&store);
    store.backup(Path::new("/backup"), &BackupOptions::default(), &TaskControl::new()).unwrap();
    let expected = all_shown(&store);
    drop(store);
    disk.record();
    restore_on(&disk.path("/backup"), &disk.path("/again"), &apply(), &TaskControl::new()).unwrap();
    let (mut none, mut whole) = (0, 0);
    for (position, moment) in disk.recorded().iter().enumerate() {
        let what = format!("before {:?} {:?}", moment.op, moment.path);
        let disk = SimDisk::new(moment.before.after_power_loss(position as u64), 1);
        let again = disk.path("/again");
        match Store::open_on(&again, false, small()) {
            Ok(store) => {
                assert!(all_shown(&store) == expected, "{what}");
                whole += 1;
            }
            Err(error) => {
                assert_eq!(error.code(), ErrorCode::NotFound, "{what}: {error}");
                // No store is created among the leftovers, but a restore into the directory succeeds.
                if again.join("restore.begun").exists() {
                    assert!(Store::open_on(&again, true, small()).is_err(), "{what}");
                }
                restore_on(&disk.path("/backup"), &again, &apply(), &TaskControl::new())
                    .unwrap_or_else(|error| panic!("{what}: {error}"));
                assert!(all_shown(&Store::open_on(&again, false, small()).unwrap()) == expected, "{what}");
                none += 1;
            }
        }
    }
    assert!(none > 20 && whole > 0, "{none} {whole}");
}

#[test]
fn a_full_or_failing_disk_keeps_the_earlier_backup_and_leaves_no_files() {
    for fault in [Fault::Full, Fault::Io] {
        let disk = SimDisk::default();
        let store = Store::open_on(&disk.path("/store"), true, small()).unwrap();
        fill(&store);
        store.checkpoint().unwrap();
        let empty = disk.state();
        store.backup(Path::new("/backup"), &BackupOptions::default(), &TaskControl::new()).unwrap();
        let earlier = all_shown(&store);
        change(&store);
        store.checkpoint().unwrap();
        drop(store);
        let second = disk.state();
        for (state, before) in [(empty, None), (second, Some(&earlier))] {
            let (mut at, mut done) = (0, false);
            while !done {
                let disk = SimDisk::new(state.clone(), 3);
                let how = BackupOptions { copy: true, ..BackupOptions::default() };
                let store = Store::open_on(&disk.path("/store"), false, small()).unwrap();
                let names = |disk: &SimDisk| -> Vec<_> {
                    disk.state().files().into_keys().filter(|path| path.starts_with("/backup")).collect()
                };
                let was = names(&disk);
                disk.fail(Some(FaultPlan { at, fault, forever: false, only_changes: true }));
                let outcome = store.backup(Path::new("/backup"), &how, &TaskControl::new());
                let hit = disk.counted().1 > 0;
                disk.fail(None);
                done = !hit;
                let what = format!("{fault:?} at {at}, earlier backup: {}", before.is_some());
                let found = restored_from(disk.state(), 1);
                match (&outcome, found) {
                    (Ok(_), found) => assert!(found.unwrap() == all_shown(&store), "{what}"),
                    (Err(error), Err(missing)) => {
                        assert!(before.is_none() && missing.code() == ErrorCode::NotFound, "{what}: {missing}");
                        let code = if fault == Fault::Full { ErrorCode::StorageFull } else { ErrorCode::Io };
                        assert!([code, ErrorCode::Io].contains(&error.code()), "{what}: {error}");
                        // Only files that could not be removed may remain.
                        assert!(names(&disk).len() <= 1, "{what}: {:?}", names(&disk));
                    }
                    (Err(_), Ok(found)) => {
                        assert!(Some(&found) == before || found == all_shown(&store), "{what}");
                        if Some(&found) == before {
                            assert!(names(&disk).len() <= was.len() + 1, "{what}: {:?}", names(&disk));
                        }
                    }
                }
                at += 1;
            }
            assert!(at > 30, "{at}");
        }
    }
}

#[test]
fn a_backup_open_for_reading_keeps_its_contents_during_a_later_backup() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store"), true, small()).unwrap();
    fill(&store);
    let to = dir.path().join("backup");
    back_up(&store, &to, &BackupOptions::default()).unwrap();
    let expected = all_shown(&store);
    let open = Arc::new(Store::open(&to, false, small()).unwrap());
    let early = open.as_of("early").unwrap();
    assert!(shown(&open, &early) == expected["early"]);
    assert!(early.get(&SeriesKey::kline("GONE", "1m").unwrap()).is_some());
    // Mapped files remain readable.
    change(&store);
    back_up(&store, &to, &BackupOptions::default()).unwrap();
    assert!(shown(&open, &early) == expected["early"]);
    assert_eq!(Store::open(&to, true, small()).unwrap().snapshots().len(), 1);
}

/// The outer backup would treat the inner one as its own when it is replaced, and destroy it.
#[test]
fn a_backup_inside_a_backup_or_a_store_is_refused_under_any_path() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let store = Store::open(&path("store"), true, small()).unwrap();
    fill(&store);
    back_up(&store, &path("outer"), &BackupOptions::default()).unwrap();
    std::os::unix::fs::symlink(path("outer"), path("link")).unwrap();
    std::os::unix::fs::symlink(path("store"), path("way")).unwrap();
    // An unfinished backup.
    std::fs::create_dir_all(path("begun")).unwrap();
    std::fs::write(path("begun/backup.begun"), store.epoch()).unwrap();
    let before = contents(dir.path());
    for (to, why) in [
        ("outer/inner", "is inside the backup"),
        ("outer/deep/inner", "is inside the backup"),
        ("outer/chunks/0000000001", "is inside the backup"),
        ("new/../outer/inner", "is inside the backup"),
        ("new/../link/inner", "is inside the backup"),
        ("link/inner", "is inside the backup"),
        ("begun/inner", "is inside the incomplete backup"),
        ("store/inner", "is inside"),
        ("store/quarantine", "is inside"),
        ("new/../store/inner", "is inside"),
        ("new/../way/chunks/inner", "is inside"),
        ("way/inner", "is inside"),
        ("new/..", "contains"),
        ("", "contains"),
    ] {
        for dry_run in [true, false] {
            let options = BackupOptions { dry_run, ..BackupOptions::default() };
            let error = back_up(&store, &path(to), &options).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument, "{to}: {error}");
            assert!(error.detail().contains(why) && error.hint().is_some(), "{to}: {error}");
        }
        if why.contains("is inside") {
            let error = restored(&path("outer"), &path(to), &apply()).unwrap_err();
            assert!(error.detail().contains("is inside"), "{to}: {error}");
        }
    }
    assert!(contents(dir.path()) == before, "a refusal changed something");
    // Sibling directories are accepted, and the outer backup can be replaced.
    back_up(&store, &path("begun"), &BackupOptions::default()).unwrap();
    back_up(&store, &path("outer"), &BackupOptions::default()).unwrap();
    assert_clean(&path("outer"));
}
