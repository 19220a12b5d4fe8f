//! Partitions of several chunks: where they are cut, what late rows rewrite, and what the files alone show of them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use fastk::disk::DiskPath;
use fastk::query::{Scan, ScanSpec};
use fastk::store::{FindingKind, RepairOptions, RepairReport, Store, StoreOptions, TaskControl, WriteMode, repair};
use fastk::types::{Column, ColumnType, OrderRule, Partition, Rows, SeriesDef, SeriesKey, SeriesSpec};
use fastk::{ErrorCode, Result};

/// Most rows of a chunk: a row has 16 bytes.
const ROWS_MAX: u64 = 100;

const ALL: (i64, i64) = (i64::MIN, i64::MAX);

fn options(chunk_bytes_max: u64) -> StoreOptions {
    StoreOptions {
        background_maintenance: false,
        tail_rows_max: u64::MAX,
        chunk_bytes_max,
        wal_segment_bytes: 64 << 10,
        ..StoreOptions::default()
    }
}

fn small() -> StoreOptions {
    options(ROWS_MAX * 16)
}

fn key() -> SeriesKey {
    SeriesKey::parse("scalar/c/S/tick/n").unwrap()
}

fn def(order: OrderRule) -> SeriesDef {
    let columns = vec![Column::new("value", ColumnType::Int64)];
    let spec = SeriesSpec::of_key(&key());
    SeriesDef { order, columns, partition: Partition::All, interval_ms: None, ..spec.resolve().unwrap() }
}

fn unique() -> OrderRule {
    OrderRule::Unique(Vec::new())
}

fn store(root: &Path, order: OrderRule, options: StoreOptions) -> Store {
    let store = Store::open(root, true, options).unwrap();
    store.register(def(order)).unwrap();
    store
}

/// Writes a row at each of these timestamps, and seals them.
fn seal(store: &Store, ts: impl IntoIterator<Item = i64>, value: i64) {
    let ts: Vec<i64> = ts.into_iter().collect();
    let values = vec![value; ts.len()];
    store.write(&key(), Rows::of_words(ts, vec![values]), WriteMode::Upsert, None).unwrap();
    store.seal(&[]).unwrap();
}

fn rows(store: &Store, range: (i64, i64)) -> Result<Vec<(i64, i64)>> {
    let state = store.snapshot();
    let mut rows = Vec::new();
    for block in Scan::new(state.get(&key()).unwrap(), store.cache(), &ScanSpec::range(range)) {
        let block = block?;
        rows.extend(block.timestamps().iter().copied().zip(block.words(1).iter().copied()));
    }
    Ok(rows)
}

/// Id, rows, first and last timestamp of each chunk, in the order of time.
fn chunks(store: &Store) -> Vec<(u64, u64, i64, i64)> {
    let state = store.snapshot();
    let records = state.get(&key()).unwrap().chunks.iter().map(|chunk| &chunk.record);
    records.map(|record| (record.id, record.rows, record.ts_min, record.ts_max)).collect()
}

fn assert_clean(store: &Store) {
    let report = store.verify(&TaskControl::default()).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
}

#[test]
fn rows_of_a_timestamp_are_never_in_two_chunks_of_a_seal() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path(), OrderRule::Arrival, small());
    let ts: Vec<i64> = (0..3_000).map(|row| row / 30).chain([200; 500]).chain(300..420).collect();
    seal(&store, ts.clone(), 1);
    let found = chunks(&store);
    assert!(found.len() >= 20, "{found:?}");
    assert!(found.windows(2).all(|pair| pair[0].3 < pair[1].2), "{found:?}");
    // More than ROWS_MAX only to the end of a timestamp.
    assert!(found.iter().all(|chunk| chunk.1 < ROWS_MAX + 500), "{found:?}");
    assert!(rows(&store, ALL).unwrap() == ts.iter().map(|ts| (*ts, 1)).collect::<Vec<_>>());
    // Rows of the last timestamp of a chunk are after those in it.
    let last = found[0].3;
    seal(&store, [last, 200, 200], 2);
    store.compact(&[], true).unwrap();
    let found = rows(&store, ALL).unwrap();
    let mut expected: Vec<(i64, i64)> = ts.iter().map(|ts| (*ts, 1)).collect();
    expected.extend([(last, 2), (200, 2), (200, 2)]);
    expected.sort_unstable();
    assert!(found == expected, "{} rows instead of {}", found.len(), expected.len());
    assert_clean(&store);
}

#[test]
fn late_rows_rewrite_the_slice_they_lie_in_and_no_other() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path(), unique(), small());
    seal(&store, (0..1_000).map(|row| row * 10), 1);
    let before = chunks(&store);
    assert_eq!(before.len(), 10);
    for round in 0..8 {
        seal(&store, [3_105 + round * 20, 3_107 + round * 20], 2);
    }
    let report = store.compact(&[], false).unwrap();
    assert_eq!((report.partitions_compacted, report.chunks_removed), (1, 9), "{report:?}");
    let kept: BTreeSet<u64> = chunks(&store).iter().map(|chunk| chunk.0).collect();
    let rewritten: Vec<u64> = before.iter().map(|chunk| chunk.0).filter(|id| !kept.contains(id)).collect();
    assert_eq!(rewritten, [before[3].0]);
    assert_eq!(rows(&store, ALL).unwrap().len(), 1_016);
    assert_clean(&store);
}

#[test]
pub fn late_rows_all_over_a_partition_do_not_join_its_slices() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path(), unique(), small());
    seal(&store, (0..1_000).map(|row| row * 10), 1);
    let starts: Vec<i64> = chunks(&store).iter().map(|chunk| chunk.2).collect();
    for round in 0..3 {
        seal(&store, (0..50).map(|row| row * 200 + 5 + round), 2);
        let found = chunks(&store);
        for (_, _, first, last) in &found {
            let slice = |ts: i64| starts.partition_point(|start| *start <= ts);
            assert_eq!(slice(*first), slice(*last), "{found:?}");
        }
    }
    assert_eq!(store.compact(&[], false).unwrap().partitions_compacted, 0);
    let report = store.compact(&[], true).unwrap();
    assert_eq!((report.partitions_compacted, report.chunks_removed), (10, 40), "{report:?}");
    // Each slice has 115 rows, and becomes two.
    let found = chunks(&store);
    assert!(found.len() == 20 && found.iter().all(|chunk| chunk.1 <= ROWS_MAX), "{found:?}");
    assert_eq!(store.compact(&[], true).unwrap().partitions_compacted, 0, "it is done once");
    assert_eq!(rows(&store, ALL).unwrap().len(), 1_150);
    assert_clean(&store);
}

#[test]
fn rows_in_the_order_of_time_are_rewritten_within_the_last_slice_only() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path(), unique(), small());
    let mut rewritten = 0;
    for part in 0..200 {
        seal(&store, (0..5).map(|row| part * 5 + row), part);
        let report = store.compact(&[], false).unwrap();
        rewritten += report.bytes_before;
    }
    let found = chunks(&store);
    // Up to seven chunks per slice.
    assert!(found.len() <= 70 && found.iter().all(|chunk| chunk.1 <= ROWS_MAX), "{found:?}");
    let state = store.snapshot();
    let bytes = state.get(&key()).unwrap().file_bytes();
    assert!(rewritten < 12 * bytes, "{rewritten} bytes were rewritten for {bytes}");
    assert_eq!(rows(&store, ALL).unwrap().len(), 1_000);
    assert_clean(&store);
}

/// A store whose rows are in a chunk and late ones over it, and the same after a compaction has cut them.
struct Compacted {
    before: tempfile::TempDir,
    after: tempfile::TempDir,
    expected: Vec<(i64, i64)>,
    /// Files of the new chunks, first times first.
    slices: Vec<PathBuf>,
}

/// With or without the log of the rows.
fn compacted(is_logged: bool) -> Compacted {
    let (before, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let whole = store(before.path(), OrderRule::Arrival, options(1 << 30));
    seal(&whole, 0..300, 1);
    seal(&whole, (0..30).map(|row| row * 10), 2);
    if !is_logged {
        let other = SeriesKey::parse("scalar/c/T/tick/n").unwrap();
        whole.register(SeriesDef { key: other.clone(), ..def(unique()) }).unwrap();
        for part in 0..40 {
            let rows = Rows::of_words((0..200).map(|row| part * 200 + row).collect(), vec![vec![1; 200]]);
            whole.write(&other, rows, WriteMode::Upsert, None).unwrap();
        }
    }
    whole.checkpoint().unwrap();
    let expected = rows(&whole, ALL).unwrap();
    assert_eq!(chunks(&whole).len(), 2);
    drop(whole);
    copy(before.path(), after.path());
    let cut = Store::open(after.path(), false, small()).unwrap();
    cut.compact(&[], true).unwrap();
    cut.vacuum().unwrap();
    let found = chunks(&cut);
    assert_eq!((found.len(), rows(&cut, ALL).unwrap()), (4, expected.clone()));
    let slices = found.iter().map(|chunk| file_of(after.path(), chunk.0)).collect();
    drop(cut);
    Compacted { before, after, expected, slices }
}

fn files(root: &Path, dir: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root.join(dir)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, "", ending));
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn file_of(root: &Path, id: u64) -> PathBuf {
    let names = files(root, "chunks", &format!("-{id:016}.arrow"));
    names.into_iter().next().unwrap()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(path, target).unwrap();
        }
    }
}

fn rebuild(root: &Path, apply: bool) -> RepairReport {
    repair(&DiskPath::os(root), RepairOptions { apply, rebuild_manifest: true }).unwrap()
}

/// Removes the edits that another directory does not have.
fn lose_edits(root: &Path, of: &Path) {
    let names = |root: &Path| -> BTreeSet<_> {
        files(root, "manifest", ".edit").iter().map(|path| path.file_name().unwrap().to_owned()).collect()
    };
    for name in names(root).difference(&names(of)) {
        std::fs::remove_file(root.join("manifest").join(name)).unwrap();
    }
}

#[test]
pub fn a_manifest_rebuilt_after_a_crash_between_the_names_of_slices_doubles_and_loses_nothing() {
    let Compacted { before, after: _after, expected, slices } = compacted(true);
    for chosen in 0..1 << slices.len() {
        let root = tempfile::tempdir().unwrap();
        copy(before.path(), root.path());
        let named = slices.iter().enumerate().filter(|(number, _)| chosen >> number & 1 == 1);
        for (_, path) in named {
            let dir = files(root.path(), "chunks", ".arrow")[0].parent().unwrap().to_owned();
            assert!(dir.ends_with(path.parent().unwrap().file_name().unwrap()));
            std::fs::copy(path, dir.join(path.file_name().unwrap())).unwrap();
        }
        let report = rebuild(root.path(), true);
        assert!(!report.has_lost(), "{chosen:b}: {report:?}");
        let store = Store::open(root.path(), false, small()).unwrap();
        assert_eq!(rows(&store, ALL).unwrap(), expected, "{chosen:b}");
        assert_eq!(chunks(&store).len(), if chosen + 1 == 1 << slices.len() { 4 } else { 2 }, "{chosen:b}");
        assert_clean(&store);
    }
}

#[test]
fn a_slice_without_a_file_is_replayed_while_the_log_has_its_rows() {
    let Compacted { before, after, expected, slices } = compacted(true);
    for path in &slices {
        let root = tempfile::tempdir().unwrap();
        copy(after.path(), root.path());
        std::fs::remove_file(root.path().join(path.strip_prefix(after.path()).unwrap())).unwrap();
        lose_edits(root.path(), before.path());
        let report = rebuild(root.path(), true);
        assert!(!report.has_lost(), "{report:?}");
        let store = Store::open(root.path(), false, small()).unwrap();
        assert_eq!(rows(&store, ALL).unwrap(), expected);
        assert_clean(&store);
    }
}

#[test]
fn the_rows_are_the_same_when_the_edit_that_published_slices_is_lost() {
    let Compacted { before, after, expected, .. } = compacted(true);
    lose_edits(after.path(), before.path());
    let store = Store::open(after.path(), false, small()).unwrap();
    assert!(!store.recovery().damage.is_empty());
    assert_eq!(rows(&store, ALL).unwrap(), expected);
    drop(store);
    let report =
        repair(&DiskPath::os(after.path()), RepairOptions { apply: true, ..RepairOptions::default() }).unwrap();
    assert!(!report.has_lost(), "{report:?}");
    let store = Store::open(after.path(), false, small()).unwrap();
    assert_eq!(rows(&store, ALL).unwrap(), expected);
    assert_clean(&store);
}

#[test]
fn a_slice_without_a_file_is_reported_whatever_is_left_of_the_manifest() {
    let Compacted { before, after, expected, slices } = compacted(false);
    let bounds: Vec<(u64, i64, i64)> = {
        let store = Store::open(after.path(), false, small()).unwrap();
        chunks(&store).iter().map(|chunk| (chunk.1, chunk.2, chunk.3)).collect()
    };
    for (path, (_, first, last)) in slices.iter().zip(&bounds) {
        let rest: Vec<(i64, i64)> = expected.iter().copied().filter(|row| row.0 < *first || row.0 > *last).collect();
        let name = path.strip_prefix(after.path()).unwrap();
        let damaged = |lose: bool| {
            let root = tempfile::tempdir().unwrap();
            copy(after.path(), root.path());
            std::fs::remove_file(root.path().join(name)).unwrap();
            if lose {
                lose_edits(root.path(), before.path());
            }
            root
        };
        let whole = damaged(false);
        let store = Store::open(whole.path(), false, small()).unwrap();
        let kinds: Vec<FindingKind> =
            store.verify(&TaskControl::default()).unwrap().findings.iter().map(|finding| finding.kind).collect();
        assert!(kinds.contains(&FindingKind::MissingChunk), "{kinds:?}");
        assert_eq!(rows(&store, (*first, *last)).unwrap_err().code(), ErrorCode::CorruptData);
        drop(store);
        // From the files alone, and with the manifest of before the compaction.
        for root in [whole, damaged(true)] {
            let report = rebuild(root.path(), false);
            let [lost] = report.lost.as_slice() else { panic!("{report:?}") };
            assert!(lost.reason.contains("slice") && lost.reason.contains("of the 4"), "{lost:?}");
            let report = rebuild(root.path(), true);
            assert!(report.has_lost());
            let store = Store::open(root.path(), false, small()).unwrap();
            assert_eq!(rows(&store, ALL).unwrap(), rest);
            assert_clean(&store);
        }
        let root = damaged(true);
        let store = Store::open(root.path(), false, small()).unwrap();
        assert_eq!(rows(&store, (*first, *last)).unwrap_err().code(), ErrorCode::CorruptData, "not taken for absent");
    }
}

#[test]
fn a_slice_that_was_deleted_or_rewritten_is_not_missed() {
    let Compacted { after, mut expected, .. } = compacted(false);
    let store = Store::open(after.path(), false, small()).unwrap();
    let found = chunks(&store);
    let (first, last) = (found[1].2, found[1].3);
    store.delete_range(&key(), (first, last), None).unwrap();
    expected.retain(|row| row.0 < first || row.0 > last);
    seal(&store, [found[2].2 + 1], 3);
    store.compact(&[], true).unwrap();
    store.checkpoint().unwrap();
    store.vacuum().unwrap();
    let at = expected.partition_point(|row| row.0 <= found[2].2 + 1);
    expected.insert(at, (found[2].2 + 1, 3));
    assert_eq!(rows(&store, ALL).unwrap(), expected);
    drop(store);
    let report = rebuild(after.path(), true);
    assert!(!report.has_lost(), "{report:?}");
    let store = Store::open(after.path(), false, small()).unwrap();
    assert_eq!(rows(&store, ALL).unwrap(), expected);
    assert_clean(&store);
}

#[test]
fn a_delete_in_a_run_file_survives_the_loss_of_the_manifest_after_a_seal() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path(), OrderRule::Arrival, small());
    let other = SeriesKey::parse("scalar/c/T/tick/n").unwrap();
    store.register(SeriesDef { key: other.clone(), ..def(OrderRule::Arrival) }).unwrap();
    let one = |ts: i64| Rows::of_words(vec![ts], vec![vec![1]]);
    for key in [&key(), &other] {
        for ts in [1, 2, 3, 4] {
            store.write(key, one(ts), WriteMode::Upsert, None).unwrap();
        }
    }
    // The rows are in a run file that the other series still needs.
    store.checkpoint().unwrap();
    store.delete_range(&key(), (3, 9), None).unwrap();
    store.seal(&[key()]).unwrap();
    store.checkpoint().unwrap();
    assert_eq!(rows(&store, ALL).unwrap(), [(1, 1), (2, 1)]);
    drop(store);
    let report = rebuild(root.path(), true);
    assert!(!report.has_lost(), "{report:?}");
    let store = Store::open(root.path(), false, small()).unwrap();
    assert_eq!(rows(&store, ALL).unwrap(), [(1, 1), (2, 1)]);
}

#[test]
pub fn a_load_is_cut_as_a_seal_is() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path(), OrderRule::Arrival, StoreOptions { tail_rows_max: 50, ..small() });
    let ts: Vec<i64> = (0..1_000).map(|row| row / 3).collect();
    store.write(&key(), Rows::of_words(ts.clone(), vec![vec![1; 1_000]]), WriteMode::Upsert, None).unwrap();
    let found = chunks(&store);
    assert!(found.len() >= 9 && found.windows(2).all(|pair| pair[0].3 < pair[1].2), "{found:?}");
    assert_eq!(rows(&store, ALL).unwrap(), ts.iter().map(|ts| (*ts, 1)).collect::<Vec<_>>());
    drop(store);
    assert!(!rebuild(root.path(), true).has_lost());
    let store = Store::open(root.path(), false, small()).unwrap();
    assert_eq!(rows(&store, ALL).unwrap().len(), 1_000);
    assert_clean(&store);
}

#[test]
fn a_compaction_of_many_slices_is_published_in_several_edits() {
    let root = tempfile::tempdir().unwrap();
    let store = store(root.path(), unique(), small());
    // More slices of one series than one edit has.
    seal(&store, (0..15_000).map(|row| row * 10), 1);
    seal(&store, (0..150).map(|slice| slice * 1_000 + 5), 2);
    let report = store.compact(&[], true).unwrap();
    assert_eq!((report.partitions_compacted, report.chunks_written), (150, 300), "{report:?}");
    assert_eq!(rows(&store, ALL).unwrap().len(), 15_150);
    assert_clean(&store);
}
