//! A crash between any two operations of a maintenance step: every possible state of the directory opens with every row
//! and accepts further operations.
//!
//! The directory is copied before and after a step. A crash leaves the old files with some of the new ones (before the
//! edit that names them), or all of both (after the edit, before the old ones are removed).

use std::collections::BTreeMap;

use fastk::format::manifest::decode_edit;
use fastk::store::{SeriesWrite, Store, StoreOptions, WriteMode};
use fastk::types::SeriesKey;

use super::guarantees::{MINUTE, def, minutes, options};
use super::known_defects::{Files, contents, shown};

/// Rows of every series, now and under the snapshot.
type Shown = [BTreeMap<String, Vec<Vec<i64>>>; 2];

/// A named step: prepares the store, then runs the step.
type Step = (&'static str, fn(&Store), fn(&Store));

fn keys() -> [SeriesKey; 2] {
    ["A", "B"].map(|symbol| SeriesKey::kline(symbol, "1m").unwrap())
}

fn small() -> StoreOptions {
    StoreOptions { wal_segment_bytes: 32 << 10, ..options() }
}

fn once() -> Vec<SeriesWrite> {
    keys().map(|key| SeriesWrite::new(key, minutes(44_500, 300), WriteMode::Merge { first: None })).to_vec()
}

/// Rows of two partitions, some overwritten and some deleted, a snapshot in between, and a receipt.
fn fill(store: &Store) {
    for key in keys() {
        store.register(def(&key)).unwrap();
        store.write(&key, minutes(44_000, 1_200), WriteMode::Upsert, None).unwrap();
    }
    store.write_many(once(), Some("once")).unwrap();
    store.create_snapshot("then").unwrap();
    let [a, b] = keys();
    store.write(&a, minutes(44_100, 700), WriteMode::Merge { first: None }, None).unwrap();
    store.delete_range(&b, (44_300 * MINUTE, 44_900 * MINUTE), None).unwrap();
}

fn all_shown(store: &Store) -> Shown {
    [shown(store, &store.snapshot()), shown(store, &store.as_of("then").unwrap())]
}

fn seal_often(store: &Store) {
    for part in 0..9 {
        for key in keys() {
            store.write(&key, minutes(43_000 + part * 150, 150), WriteMode::Merge { first: None }, None).unwrap();
        }
        store.seal(&[]).unwrap();
    }
    store.delete_range(&keys()[0], (43_000 * MINUTE, 43_400 * MINUTE), None).unwrap();
}

fn checkpoint_often(store: &Store) {
    for part in 0..7 {
        store.write(&keys()[1], minutes(part * 5, 3), WriteMode::Upsert, None).unwrap();
        store.checkpoint().unwrap();
    }
    store.write(&keys()[1], minutes(100, 3), WriteMode::Upsert, None).unwrap();
}

/// Opens the files after a crash, compares, runs every kind of step, and compares again.
fn check(left: &Files, expected: &Shown, what: &str) {
    let root = tempfile::tempdir().unwrap();
    for (name, bytes) in left {
        let path = root.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let store = Store::open(root.path(), false, small()).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(store.recovery().damage.is_empty(), "{what}: {:?}", store.recovery().damage);
    assert!(all_shown(&store) == *expected, "{what}: other rows");
    assert!(store.write_many(once(), Some("once")).unwrap().repeated, "{what}: the receipt is lost");
    let [a, _] = keys();
    let written = store.write(&a, minutes(90_000, 5), WriteMode::Append, None).unwrap();
    assert_eq!(written.rows_written, 5, "{what}");
    let expected = all_shown(&store);
    store.seal(&[]).unwrap_or_else(|error| panic!("{what}: {error}"));
    store.checkpoint().unwrap_or_else(|error| panic!("{what}: {error}"));
    store.compact(&[], false).unwrap_or_else(|error| panic!("{what}: {error}"));
    store.vacuum().unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(all_shown(&store) == expected, "{what}: other rows after maintenance");
    drop(store);
    let store = Store::open(root.path(), false, small()).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(all_shown(&store) == expected, "{what}: other rows after a second opening");
    assert!(store.write_many(once(), Some("once")).unwrap().repeated, "{what}");
}

fn run_of(id: u64) -> String {
    format!("runs/{id:020}.run")
}

#[test]
fn a_crash_within_any_maintenance_step_loses_no_row_and_blocks_no_later_writer() {
    let steps: [Step; 6] = [
        ("seal", |_| {}, |store| assert_eq!(store.seal(&[]).unwrap().series_sealed, 2)),
        ("checkpoint", |_| {}, |store| store.checkpoint().unwrap()),
        ("checkpoint that merges run files", checkpoint_often, |store| store.checkpoint().unwrap()),
        ("compaction", seal_often, |store| assert!(store.compact(&[], false).unwrap().partitions_compacted > 0)),
        (
            "vacuum",
            |store| {
                seal_often(store);
                store.compact(&[], false).unwrap();
            },
            |store| assert!(store.vacuum().unwrap().files_removed > 0),
        ),
        (
            "checkpoint after a drop",
            |store| {
                let removed = SeriesKey::kline("GONE", "1m").unwrap();
                store.register(def(&removed)).unwrap();
                store.write(&removed, minutes(0, 100), WriteMode::Upsert, None).unwrap();
                store.seal(&[]).unwrap();
                store.drop_series(&removed, None).unwrap();
            },
            |store| store.checkpoint().unwrap(),
        ),
    ];
    let mut states = 0;
    for (name, prepare, step) in steps {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), true, small()).unwrap();
        fill(&store);
        prepare(&store);
        let expected = all_shown(&store);
        let before = contents(root.path());
        step(&store);
        let after = contents(root.path());
        assert!(all_shown(&store) == expected, "{name}");
        drop(store);

        let is_edit = |name: &str| name.starts_with("manifest/");
        let new: Vec<&String> = after.keys().filter(|name| !before.contains_key(*name)).collect();
        let edits: Vec<&String> = new.iter().copied().filter(|name| is_edit(name)).collect();
        assert!(!edits.is_empty(), "{name} published nothing");
        let with = |names: &[&String]| -> Files {
            // The log is append-only: its later bytes may exist earlier.
            let mut left = before.clone();
            left.extend(names.iter().map(|name| ((*name).clone(), after[*name].clone())));
            left
        };
        let files: Vec<&String> = new.iter().copied().filter(|name| !is_edit(name)).collect();
        check(&before, &expected, &format!("{name}: nothing done"));
        check(&with(&files), &expected, &format!("{name}: files without their edit"));
        let mut littered = with(&[]);
        for (number, file) in files.iter().enumerate() {
            let bytes = &after[*file];
            littered.insert(format!("tmp/{number}"), bytes[..bytes.len() / 2].to_vec());
            check(&with(&[file]), &expected, &format!("{name}: only {file}"));
            let mut cut = with(&[]);
            cut.insert((*file).clone(), bytes[..bytes.len() / 2].to_vec());
            // Every log segment is read.
            if !file.starts_with("wal/") {
                check(&cut, &expected, &format!("{name}: half of {file}"));
            }
        }
        check(&littered, &expected, &format!("{name}: unfinished files"));
        for count in 1..=edits.len() {
            let mut names = files.clone();
            names.extend(&edits[..count]);
            let left = with(&names);
            // A file created and removed within the step is unknown here.
            let (last, _) = decode_edit(&after[edits[count - 1]]).unwrap();
            if last.runs.iter().all(|run| left.contains_key(&run_of(run.id))) {
                check(&left, &expected, &format!("{name}: {count} of {} edits, old files not removed", edits.len()));
                states += 1;
            }
        }
        check(&after, &expected, &format!("{name}: all done"));
        states += 4 + 2 * files.len();
    }
    println!("{states} states");
    assert!(states > 40, "{states} states are too few");
}
