//! Defects known from other storage engines, one test each, which fails if this engine has the defect.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Barrier};

use fastk::ErrorCode;
use fastk::format::manifest::{ChunkRecord, Edit, decode_edit, encode_edit};
use fastk::query::coverage::{CoverageReport, CoverageSpec, coverage};
use fastk::query::{Scan, ScanSpec, latest_start};
use fastk::store::{SeriesState, SeriesWrite, Store, StoreOptions, StoreState, WriteMode};
use fastk::types::schema::{ColumnSpec, Partition};
use fastk::types::{Calendar, Rows, SeriesDef, SeriesKey, SeriesSpec};

use super::guarantees::{MINUTE, def, files, key, minutes, options, read};

const ALL: (i64, i64) = (i64::MIN, i64::MAX);

/// Every file below a directory but the lock, with its bytes.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

pub(crate) fn contents(root: &Path) -> Files {
    let all = files(root, ".", "").into_iter().filter(|path| !path.ends_with("LOCK"));
    let name = |path: &Path| path.strip_prefix(root.join(".")).unwrap().display().to_string();
    all.map(|path| (name(&path), std::fs::read(&path).unwrap())).collect()
}

/// Total bytes of the files of a kind.
fn disk_bytes(root: &Path, dir: &str, ending: &str) -> u64 {
    files(root, dir, ending).iter().map(|path| std::fs::metadata(path).unwrap().len()).sum()
}

/// Every cell of a range, `ts` first.
pub(crate) fn rows_of(series: &SeriesState, store: &Store, range: (i64, i64), desc: bool) -> Vec<Vec<i64>> {
    let mut rows = Vec::new();
    for block in Scan::new(series, store.cache(), &ScanSpec { desc, ..ScanSpec::range(range) }) {
        let block = block.unwrap();
        let columns: Vec<&[i64]> = (0..block.column_count()).map(|column| block.words(column)).collect();
        rows.extend((0..block.rows()).map(|row| columns.iter().map(|column| column[row]).collect::<Vec<i64>>()));
    }
    rows
}

fn rows_now(store: &Store, key: &SeriesKey) -> Vec<Vec<i64>> {
    rows_of(store.snapshot().get(key).unwrap(), store, ALL, false)
}

/// The rows of a scan.
fn listed(rows: &Rows) -> Vec<Vec<i64>> {
    let row = |row: usize| std::iter::once(rows.ts[row]).chain(rows.columns.iter().map(|c| c.words()[row])).collect();
    (0..rows.len()).map(row).collect()
}

/// The coverage of a whole series.
fn covered(series: &SeriesState, store: &Store) -> CoverageReport {
    let calendar = Calendar::of(None).unwrap();
    let spec = CoverageSpec { start: None, end: None, calendar: &calendar, missing_min: 1, gaps_max: 10 };
    coverage(series, store.cache(), &spec).unwrap()
}

fn one_partition(key: &SeriesKey) -> SeriesDef {
    SeriesDef { partition: Partition::All, ..def(key) }
}

fn open(root: &Path) -> Store {
    Store::open(root, false, options()).unwrap()
}

/// Runs one step of maintenance.
fn maintain(store: &Store, step: usize) {
    match step {
        0 => drop(store.seal(&[]).unwrap()),
        1 => store.checkpoint().unwrap(),
        2 => drop(store.compact(&[], false).unwrap()),
        _ => drop(store.vacuum().unwrap()),
    }
}

#[test]
fn scalars_written_into_a_month_with_rows_are_merged_with_them() {
    const DAY: i64 = 86_400_000;
    let key = SeriesKey::scalar("metric", "BTC", "1d", "load").unwrap();
    let mut spec = SeriesSpec::of_key(&key);
    spec.partition = Some("month".into());
    spec.value = Some(ColumnSpec { name: None, kind: Some("int64".into()), digits: None, merge: None });
    let definition = spec.resolve().unwrap();
    // The location of the old rows during the write: tail, run file, chunk, chunk of an earlier process.
    for place in 0..4 {
        let root = tempfile::tempdir().unwrap();
        let mut store = Store::open(root.path(), true, options()).unwrap();
        store.register(definition.clone()).unwrap();
        let days = |days: &[i64], value: i64| {
            Rows::of_words(
                days.iter().map(|day| day * DAY).collect(),
                vec![days.iter().map(|day| day + value).collect()],
            )
        };
        store.write(&key, days(&[0, 4, 8, 30, 31], 100), WriteMode::Upsert, None).unwrap();
        match place {
            0 => {}
            1 => store.checkpoint().unwrap(),
            _ => drop(store.seal(&[]).unwrap()),
        }
        if place == 3 {
            drop(store);
            store = open(root.path());
        }
        let written = store.write(&key, days(&[2, 4, 9, 30, 40], 200), WriteMode::Upsert, None).unwrap();
        assert_eq!((written.rows_written, written.rows_replaced), (5, 2));
        let expected: Vec<Vec<i64>> =
            [(0, 100), (2, 200), (4, 200), (8, 100), (9, 200), (30, 200), (31, 100), (40, 200)]
                .map(|(day, value)| vec![day * DAY, day + value])
                .to_vec();
        for step in 0..4 {
            assert_eq!(rows_now(&store, &key), expected, "place {place}, before step {step}");
            maintain(&store, step);
            assert_eq!(rows_now(&store, &key), expected, "place {place}, after step {step}");
            drop(store);
            store = open(root.path());
            assert_eq!(rows_now(&store, &key), expected, "place {place}, reopened after step {step}");
        }
    }
}

#[test]
fn sixty_four_threads_reading_one_chunk_get_identical_rows() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), true, options()).unwrap();
    let other = SeriesKey::kline("OTHER", "1m").unwrap();
    for key in [&key(), &other] {
        store.register(one_partition(key)).unwrap();
        store.write(key, minutes(0, 40_000), WriteMode::Upsert, None).unwrap();
    }
    store.seal(&[]).unwrap();
    drop(store);
    // With one map at most, every thread evicts the file of another.
    for maps_max in [8_192, 1] {
        // No file is mapped or verified when they start.
        let store = Store::open(root.path(), false, StoreOptions { maps_max, ..options() }).unwrap();
        let (state, expected, barrier) = (store.snapshot(), minutes(0, 40_000), Barrier::new(64));
        std::thread::scope(|scope| {
            for reader in 0..64_usize {
                let (store, state, expected, barrier, other) = (&store, &state, &expected, &barrier, &other);
                scope.spawn(move || {
                    barrier.wait();
                    for (round, key) in [&key(), other, &key()].into_iter().enumerate() {
                        let first = reader * 300 * round;
                        let spec = ScanSpec::range((first as i64 * MINUTE, i64::MAX));
                        let mut row = first;
                        for block in Scan::new(state.get(key).unwrap(), store.cache(), &spec) {
                            let block = block.unwrap();
                            let end = row + block.rows();
                            assert!(block.words(0) == &expected.ts[row..end], "reader {reader}, times from row {row}");
                            for column in 0..5 {
                                let same = block.words(column + 1) == &expected.columns[column].words()[row..end];
                                assert!(same, "reader {reader}, column {column} from row {row}");
                            }
                            row = end;
                        }
                        assert_eq!(row, 40_000, "reader {reader}");
                    }
                });
            }
        });
    }
}

#[test]
fn a_refused_open_and_an_inspection_change_no_byte_under_a_live_writer() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), true, options()).unwrap();
    store.register(def(&key())).unwrap();
    store.write(&key(), minutes(0, 3_000), WriteMode::Upsert, None).unwrap();
    store.seal(&[]).unwrap();
    store.write(&key(), minutes(3_000, 10), WriteMode::Upsert, None).unwrap();
    store.checkpoint().unwrap();
    store.write(&key(), minutes(3_010, 10), WriteMode::Upsert, None).unwrap();
    store.describe_holder("{\"mine\":1}\n").unwrap();
    // Temporary state of a writer in the middle of a file.
    std::fs::write(root.path().join("tmp/half"), b"being written").unwrap();
    let seen = || -> Vec<_> {
        let stamped =
            |path: &Path| (std::fs::metadata(path).unwrap().modified().unwrap(), std::fs::read(path).unwrap());
        files(root.path(), ".", "").into_iter().map(|path| (stamped(&path), path)).collect()
    };
    let before = seen();
    for create in [false, true] {
        assert_eq!(Store::open(root.path(), create, options()).unwrap_err().code(), ErrorCode::StoreLocked);
    }
    let mut described = 0;
    for (.., path) in &before {
        described += usize::from(fastk::format::inspect::inspect(&std::fs::read(path).unwrap()).is_ok());
    }
    assert!(described >= 5, "{described} files were described");
    assert_eq!(rows_now(&store, &key()).len(), 3_020);
    assert!(seen() == before, "a byte, a name or a modification time differs");
    store.write(&key(), minutes(4_000, 1), WriteMode::Append, None).unwrap();
}

#[test]
fn an_appended_row_is_visible_at_once_to_every_kind_of_read() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), true, options()).unwrap();
    store.register(def(&key())).unwrap();
    let mut rows = 0;
    for round in 0..4 {
        for minute in rows..rows + 40 {
            store.write(&key(), minutes(minute, 1), WriteMode::Append, None).unwrap();
            let state = store.snapshot();
            let series = state.get(&key()).unwrap();
            let (ts, cache, count) = (minute * MINUTE, store.cache(), minute as u64 + 1);
            let row = listed(&minutes(minute, 1)).remove(0);
            assert_eq!((series.rows, series.bounds), (count, Some((0, ts))));
            assert_eq!(rows_of(series, &store, ALL, false).last(), Some(&row));
            assert_eq!(rows_of(series, &store, ALL, true).first(), Some(&row));
            assert_eq!(rows_of(series, &store, (ts, ts), false), [row]);
            assert_eq!(latest_start(series, cache, ALL, 1, &[]).unwrap(), ts);
            assert_eq!(series.count_rows(cache, (1, ts)).unwrap(), count - 1);
            assert_eq!(series.nth_timestamp(cache, count).unwrap(), Some(ts));
            assert_eq!(series.count_present(cache, &[ts]).unwrap(), 1);
            let stored = series.rows_at(cache, &[ts]).unwrap();
            assert_eq!((stored.positions, stored.columns[3].words()), (vec![Some(0)], &[minute * 10 + 3][..]));
            assert_eq!(covered(series, &store).present, count);
        }
        rows += 40;
        maintain(&store, round);
    }
}

#[test]
fn bounds_latest_rows_and_appends_are_correct_at_every_boundary_of_zones_and_blocks() {
    for count in [1_023_i64, 1_024, 1_025, 16_383, 16_384, 16_385] {
        let root = tempfile::tempdir().unwrap();
        let mut store = Store::open(root.path(), true, options()).unwrap();
        store.register(one_partition(&key())).unwrap();
        // The last timestamp is three times in the write: the last row wins.
        let mut rows = minutes(0, count);
        for value in [-3, -4] {
            rows.push((count - 1) * MINUTE, &[value; 5]);
        }
        let written = store.write(&key(), rows, WriteMode::Upsert, None).unwrap();
        assert_eq!((written.rows_written, written.rows_duplicate), (count as u64, 2));
        let mut count = count;
        for stage in ["tail", "run file", "chunk", "reopened", "tail behind the chunk"] {
            match stage {
                "run file" => store.checkpoint().unwrap(),
                "chunk" => drop(store.seal(&[]).unwrap()),
                "reopened" => {
                    drop(store);
                    store = open(root.path());
                }
                _ => {}
            }
            let last = (count - 1) * MINUTE;
            for minute in [0, count - 2, count - 1] {
                let error = store.write(&key(), minutes(minute, 5), WriteMode::Append, None).unwrap_err();
                assert_eq!(error.code(), ErrorCode::OutOfOrder, "{stage}, {count} rows, append at {minute}");
            }
            let state = store.snapshot();
            let (series, cache) = (state.get(&key()).unwrap(), store.cache());
            assert_eq!((series.rows, series.bounds), (count as u64, Some((0, last))), "{stage}");
            for expected in [1, 2, 1_023, 1_024, 1_025, 16_383, 16_384, 16_385, count - 1, count, count + 1] {
                let start = latest_start(series, cache, ALL, expected as u64, &[]).unwrap();
                let first = if expected > count { i64::MIN } else { (count - expected) * MINUTE };
                assert_eq!(start, first, "{stage}: the last {expected} of {count}");
                let there = count.min(expected);
                assert_eq!(series.count_rows(cache, (start, i64::MAX)).unwrap(), there as u64);
            }
            for border in [1_023, 1_024, 16_383, 16_384, count - 1] {
                for (from, to) in [(border, border), (border - 1, border), (border - 1, border + 1)] {
                    let found: Vec<i64> =
                        rows_of(series, &store, (from * MINUTE, to * MINUTE), false).iter().map(|row| row[0]).collect();
                    let there: Vec<i64> = (from..=to).filter(|m| *m < count).map(|m| m * MINUTE).collect();
                    assert_eq!(found, there, "{stage}: {from} to {to} of {count}");
                }
            }
            assert_eq!(rows_of(series, &store, (last, last), false)[0][1..], [-4; 5], "{stage}");
            if stage == "reopened" {
                // The next row is appended after the last one, wherever the last block ends.
                let mut next = minutes(count, 1);
                next.columns.iter_mut().for_each(|column| column.words_mut()[0] = -4);
                store.write(&key(), next, WriteMode::Append, None).unwrap();
                count += 1;
            }
        }
        // The row at the boundary is overwritten and deleted.
        let last = (count - 2) * MINUTE;
        let mut rows = minutes(count - 2, 1);
        rows.columns[0].words_mut()[0] = 77;
        assert_eq!(store.write(&key(), rows, WriteMode::Upsert, None).unwrap().rows_replaced, 1);
        let state = store.snapshot();
        assert_eq!(rows_of(state.get(&key()).unwrap(), &store, (last, last), true)[0][1], 77);
        assert_eq!(store.delete_range(&key(), (last, i64::MAX), None).unwrap().rows_deleted, 2);
        let state = store.snapshot();
        assert_eq!(state.get(&key()).unwrap().bounds, Some((0, (count - 3) * MINUTE)));
        store.write(&key(), minutes(count - 2, 1), WriteMode::Append, None).unwrap();
    }
}

#[test]
fn compaction_keeps_every_live_row() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), true, options()).unwrap();
    store.register(one_partition(&key())).unwrap();
    // Adjacent, in between, and on both sides of a block.
    for part in 0..9 {
        let mut rows = Rows::empty_words(5, 0);
        for row in listed(&minutes(0, 18_000)).into_iter().filter(|row| row[0] / MINUTE % 9 == part) {
            rows.push(row[0], &row[1..]);
        }
        store.write(&key(), rows, WriteMode::Upsert, None).unwrap();
        store.seal(&[]).unwrap();
    }
    let before = rows_now(&store, &key());
    assert_eq!(before, listed(&minutes(0, 18_000)));
    let report = store.compact(&[], false).unwrap();
    assert_eq!((report.partitions_compacted, report.chunks_removed, report.chunks_written), (1, 9, 1));
    assert!(rows_now(&store, &key()) == before);
    assert_eq!(store.compact(&[], false).unwrap().partitions_compacted, 0, "nothing is left to compact");
    store.vacuum().unwrap();
    drop(store);
    let store = open(root.path());
    assert!(rows_now(&store, &key()) == before);
    let state = store.snapshot();
    assert_eq!(state.get(&key()).unwrap().chunks[0].record.rows, 18_000);
}

#[test]
fn reported_bytes_are_those_of_the_files() {
    let root = tempfile::tempdir().unwrap();
    let mut store = Store::open(root.path(), true, StoreOptions { wal_segment_bytes: 64 << 10, ..options() }).unwrap();
    let keys: Vec<SeriesKey> = (0..3).map(|n| SeriesKey::kline(&format!("S{n}"), "1m").unwrap()).collect();
    let check = |store: &Store, step: &str| {
        let state = store.snapshot();
        let chunks: u64 = state.series.values().map(|series| series.file_bytes()).sum();
        let waiting = store.vacuum().unwrap().bytes_waiting;
        assert_eq!(chunks + waiting, disk_bytes(root.path(), "chunks", ".arrow"), "chunks, {step}");
        let runs = files(root.path(), "runs", ".run").len() as u64;
        assert_eq!(store.run_files(), (disk_bytes(root.path(), "runs", ".run"), runs), "runs, {step}");
        assert_eq!(store.log_bytes().0, disk_bytes(root.path(), "wal", ".wal"), "log, {step}");
        assert!(store.log_bytes().1 <= store.log_bytes().0);
        // The space freed on the file system is about the size of the files.
        for path in files(root.path(), "chunks", ".arrow") {
            let meta = std::fs::metadata(&path).unwrap();
            let blocks = std::os::unix::fs::MetadataExt::blocks(&meta) * 512;
            assert!(blocks + 4_096 >= meta.len(), "{}: a file with holes", path.display());
        }
    };
    for key in &keys {
        store.register(def(key)).unwrap();
    }
    for round in 0..10_i64 {
        for (key, rows) in keys.iter().zip([1, 300, 5_000]) {
            store.write(key, minutes(round * 5_000, rows), WriteMode::Upsert, None).unwrap();
        }
        check(&store, "written");
        store.checkpoint().unwrap();
        check(&store, "after a checkpoint");
        if round % 3 == 2 {
            store.seal(&[]).unwrap();
            check(&store, "sealed");
        }
    }
    // A reader keeps the files that a compaction replaces.
    let held = store.snapshot();
    assert_eq!(rows_of(held.get(&keys[2]).unwrap(), &store, ALL, false).len(), 50_000);
    store.delete_range(&keys[2], (0, 25_000 * MINUTE), None).unwrap();
    store.seal(&[]).unwrap();
    assert!(store.compact(&[], false).unwrap().chunks_removed > 0);
    check(&store, "compacted under a reader");
    assert!(store.vacuum().unwrap().bytes_waiting > 0);
    drop(held);
    check(&store, "compacted");
    assert_eq!(store.vacuum().unwrap().bytes_waiting, 0);
    drop(store);
    store = open(root.path());
    check(&store, "reopened");
}

#[test]
fn threads_merging_one_bar_lose_no_update_and_tear_no_bar() {
    const THREADS: i64 = 16;
    const ROUNDS: i64 = 40;
    let root = tempfile::tempdir().unwrap();
    let options =
        StoreOptions { background_maintenance: true, tail_rows_max: 1, wal_segment_bytes: 16 << 10, ..options() };
    let store = Store::open(root.path(), true, options).unwrap();
    store.register(def(&key())).unwrap();
    let merge = WriteMode::Merge { first: None };
    store
        .write(&key(), Rows::of_words(vec![0], vec![vec![500], vec![500], vec![500], vec![500], vec![0]]), merge, None)
        .unwrap();
    let barrier = Barrier::new(THREADS as usize);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (store, barrier) = (&store, &barrier);
            scope.spawn(move || {
                barrier.wait();
                for round in 0..ROUNDS {
                    let price = 500 + (thread - THREADS / 2) * ROUNDS + round;
                    let bar = [price, price + 1, price - 1, price, 1];
                    let rows = Rows::of_words(vec![0], bar.map(|cell| vec![cell]).to_vec());
                    assert_eq!(store.write(&key(), rows, merge, None).unwrap().rows_replaced, 1);
                    let found = rows_now(store, &key()).remove(0);
                    let [_, open, high, low, close, volume] = found[..] else { panic!("{found:?}") };
                    assert!(open == 500 && low <= close && close <= high && low <= open && open <= high, "{found:?}");
                    assert!(
                        volume > round && high > price && low < price,
                        "an update of this thread is missing: {found:?}"
                    );
                }
            });
        }
    });
    let expected = |store: &Store| {
        let found = rows_now(store, &key());
        assert_eq!(found.len(), 1);
        let (low, high) = (500 - THREADS / 2 * ROUNDS - 1, 500 + THREADS / 2 * ROUNDS);
        assert_eq!((found[0][1], found[0][2], found[0][3], found[0][5]), (500, high, low, THREADS * ROUNDS));
    };
    expected(&store);
    drop(store);
    expected(&open(root.path()));
}

#[test]
fn an_upsert_of_an_old_sealed_row_rewrites_only_its_partition() {
    let root = tempfile::tempdir().unwrap();
    let hours = SeriesKey::kline("BTCUSDT", "1h").unwrap();
    let mut store = Store::open(root.path(), true, options()).unwrap();
    store.register(SeriesDef { partition: Partition::Month, ..def(&hours) }).unwrap();
    // Six years of hours.
    let mut rows = minutes(0, 6 * 8_766);
    rows.ts.iter_mut().for_each(|ts| *ts *= 60);
    let mut expected = listed(&rows);
    store.write(&hours, rows, WriteMode::Upsert, None).unwrap();
    store.seal(&[]).unwrap();
    let before = contents(&root.path().join("chunks"));
    assert_eq!(before.keys().filter(|name| name.ends_with(".arrow")).count(), 73);
    // 1970-03, and an hour that was missing in no month.
    expected[1_500][4] = -1;
    let ts = expected[1_500][0];
    let correction = Rows::of_words(vec![ts], expected[1_500][1..].iter().map(|cell| vec![*cell]).collect());
    let written = store.write(&hours, correction, WriteMode::Upsert, None).unwrap();
    assert_eq!((written.rows_written, written.rows_replaced), (1, 1));
    for step in 0..5 {
        assert!(rows_now(&store, &hours) == expected, "step {step}");
        let now = contents(&root.path().join("chunks"));
        assert!(before.iter().all(|(name, bytes)| now.get(name) == Some(bytes)), "step {step}: an old file changed");
        let new: Vec<&String> = now.keys().filter(|name| !before.contains_key(*name)).collect();
        assert!(new.iter().all(|name| name.contains("1970-03")), "step {step}: {new:?}");
        assert!(new.iter().filter(|name| name.ends_with(".arrow")).count() <= 1, "step {step}: {new:?}");
        if step < 4 {
            maintain(&store, step);
        }
        drop(store);
        store = open(root.path());
    }
    assert_eq!(files(root.path(), "chunks", ".arrow").len(), 74);
}

#[test]
fn an_idle_reader_or_snapshot_delays_no_checkpoint() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), true, StoreOptions { wal_segment_bytes: 64 << 10, ..options() }).unwrap();
    store.register(def(&key())).unwrap();
    store.write(&key(), minutes(0, 60_000), WriteMode::Upsert, None).unwrap();
    let expected = listed(&minutes(0, 60_000));
    // A stream that stopped after its first block, an idle state, and a named snapshot.
    let state = store.snapshot();
    let mut idle = Scan::new(state.get(&key()).unwrap(), store.cache(), &ScanSpec::range(ALL));
    let first = idle.next().unwrap().unwrap();
    assert!(first.rows() < 60_000);
    store.create_snapshot("kept").unwrap();
    for round in 0..5 {
        for part in 0..20 {
            let mut rows = minutes(part * 100, 100);
            rows.columns[0].words_mut().iter_mut().for_each(|cell| *cell = -round);
            store.write(&key(), rows, WriteMode::Upsert, None).unwrap();
        }
        assert!(files(root.path(), "wal", ".wal").len() > 1);
        store.checkpoint().unwrap();
        assert_eq!(files(root.path(), "wal", ".wal").len(), 1, "round {round}: the log was trimmed");
        store.seal(&[]).unwrap();
        store.compact(&[], false).unwrap();
        store.vacuum().unwrap();
    }
    let mut ts: Vec<i64> = first.words(0).to_vec();
    let mut opens: Vec<i64> = first.words(1).to_vec();
    for block in idle {
        let block = block.unwrap();
        ts.extend(block.words(0));
        opens.extend(block.words(1));
    }
    assert!(ts.iter().zip(&opens).eq(expected.iter().map(|row| (&row[0], &row[1]))), "the stream is its snapshot");
    let kept = store.as_of("kept").unwrap();
    assert!(rows_of(kept.get(&key()).unwrap(), &store, ALL, false) == expected);
    assert_eq!(rows_now(&store, &key())[1_999][1], -4);
}

#[test]
fn a_retried_batch_changes_no_row() {
    let root = tempfile::tempdir().unwrap();
    let mut store = Store::open(root.path(), true, options()).unwrap();
    store.register(def(&key())).unwrap();
    store.write(&key(), minutes(0, 50), WriteMode::Upsert, None).unwrap();
    // Applied twice, a merge would add the volumes twice.
    let batch = || vec![SeriesWrite::new(key(), minutes(20, 50), WriteMode::Merge { first: None })];
    let barrier = Barrier::new(8);
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let send = || {
            barrier.wait();
            (0..5).map(|_| store.write_many(batch(), Some("batch 1")).unwrap()).collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(send)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(outcomes.iter().filter(|outcome| !outcome.repeated).count(), 1, "one of them is the first");
    assert!(outcomes.iter().all(|outcome| outcome.written == outcomes[0].written));
    let (rows, commit) = (rows_now(&store, &key()), store.snapshot().commit);
    assert_eq!((rows.len(), rows[20][5], rows[60][5]), (70, 408, 604));
    for step in 0..4 {
        // A retry can come after maintenance, restarts and newer writes.
        maintain(&store, step);
        drop(store);
        store = open(root.path());
        let again = store.write_many(batch(), Some("batch 1")).unwrap();
        assert!(again.repeated && again.written == outcomes[0].written, "step {step}");
        assert_eq!(store.snapshot().commit, commit, "step {step}");
        assert!(rows_now(&store, &key()) == rows, "step {step}");
    }
    store.delete_range(&key(), (20 * MINUTE, 60 * MINUTE), None).unwrap();
    let rows = rows_now(&store, &key());
    assert!(store.write_many(batch(), Some("batch 1")).unwrap().repeated);
    assert!(rows_now(&store, &key()) == rows, "a retry brings nothing back");
}

#[test]
fn a_deleted_row_stays_deleted_through_seal_and_compaction_and_a_later_one_is_visible() {
    let root = tempfile::tempdir().unwrap();
    let mut store = Store::open(root.path(), true, options()).unwrap();
    store.register(one_partition(&key())).unwrap();
    let mut expected: BTreeMap<i64, i64> = BTreeMap::new();
    for round in 0..24_i64 {
        // At the delete the rows are in the tail, a run file, a chunk or a compacted chunk.
        let first = round * 70;
        let mut rows = minutes(first, 200);
        rows.columns[3].words_mut().iter_mut().for_each(|cell| *cell = round);
        expected.extend(rows.ts.iter().map(|ts| (*ts, round)));
        store.write(&key(), rows, WriteMode::Upsert, None).unwrap();
        for step in 0..(round % 5) as usize {
            maintain(&store, step);
        }
        let (from, to) = ((first - 40) * MINUTE, (first + 20) * MINUTE);
        let removed = expected.range(from..=to).count() as u64;
        assert_eq!(store.delete_range(&key(), (from, to), None).unwrap().rows_deleted, removed, "round {round}");
        expected.retain(|ts, _| *ts < from || *ts > to);
        // Some are written again.
        let mut back = minutes(first - 10, 3);
        back.columns[3].words_mut().fill(-round);
        expected.extend(back.ts.iter().map(|ts| (*ts, -round)));
        store.write(&key(), back, WriteMode::Upsert, None).unwrap();
        let same = |store: &Store, when: &str| {
            let found = read(store, &key()).unwrap();
            assert!(found.iter().copied().eq(expected.iter().map(|(ts, cell)| (*ts, *cell))), "round {round}, {when}");
            let state = store.snapshot();
            let series = state.get(&key()).unwrap();
            let backwards = rows_of(series, store, ALL, true);
            assert!(backwards.iter().map(|row| row[0]).eq(expected.keys().rev().copied()), "round {round}, {when}");
            assert_eq!(series.rows, expected.len() as u64);
            assert_eq!(series.count_rows(store.cache(), (from, to)).unwrap(), expected.range(from..=to).count() as u64);
        };
        same(&store, "deleted");
        for step in 0..4 {
            maintain(&store, (step + round as usize) % 4);
            same(&store, "maintained");
        }
        drop(store);
        store = open(root.path());
        same(&store, "reopened");
    }
}

#[test]
fn appends_beyond_the_size_of_the_log_wait_and_none_is_lost() {
    const THREADS: i64 = 64;
    const APPENDS: i64 = 25;
    const ROWS: i64 = 60;
    let root = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        background_maintenance: true,
        wal_segment_bytes: 16 << 10,
        wal_bytes_max: 64 << 10,
        tail_rows_max: 3_000,
        tail_bytes_max: 256 << 10,
        ..options()
    };
    let store = Store::open(root.path(), true, options).unwrap();
    let keys: Vec<SeriesKey> = (0..8).map(|n| SeriesKey::kline(&format!("S{n}"), "1m").unwrap()).collect();
    for key in &keys {
        store.register(def(key)).unwrap();
    }
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (store, key) = (&store, &keys[thread as usize % 8]);
            scope.spawn(move || {
                for append in 0..APPENDS {
                    let first = (thread * APPENDS + append) * ROWS;
                    let written = store.write(key, minutes(first, ROWS), WriteMode::Insert, None).unwrap();
                    assert_eq!(written.rows_written, ROWS as u64);
                }
            });
        }
    });
    let check = |store: &Store| {
        for (n, key) in keys.iter().enumerate() {
            let mut expected = Vec::new();
            for thread in (n as i64..THREADS).step_by(8) {
                expected.extend(listed(&minutes(thread * APPENDS * ROWS, APPENDS * ROWS)));
            }
            assert!(rows_now(store, key) == expected, "{key}");
        }
    };
    check(&store);
    assert!(store.maintenance_failed().is_none() && store.writer_stopped().is_none());
    // After maintenance the log is far smaller than the appended data.
    let started_at = std::time::Instant::now();
    while store.log_bytes().1 > 64 << 10 {
        assert!(started_at.elapsed().as_secs() < 120, "{:?} of log are left", store.log_bytes());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(store.maintenance_counts().checkpoints > 0 && store.maintenance_counts().seals > 0);
    check(&store);
    drop(store);
    check(&open(root.path()));
}

#[test]
fn a_scan_started_before_its_chunks_were_replaced_returns_the_rows_of_its_snapshot() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), true, StoreOptions { maps_max: 1, ..options() }).unwrap();
    store.register(def(&key())).unwrap();
    let expected = minutes(0, 100_000);
    store.write(&key(), expected.clone(), WriteMode::Upsert, None).unwrap();
    store.seal(&[]).unwrap();
    let old = files(root.path(), "chunks", ".arrow");
    assert_eq!(old.len(), 3);
    let state = store.snapshot();
    let spec = ScanSpec::range(ALL);
    let mut started_at = Scan::new(state.get(&key()).unwrap(), store.cache(), &spec);
    let first = started_at.next().unwrap().unwrap();
    // One scan has read no block, the other is in the middle.
    let untouched = Scan::new(state.get(&key()).unwrap(), store.cache(), &spec);
    // Every row is overwritten or deleted, the files replaced and unlinked as far as possible.
    let mut rows = minutes(0, 100_000);
    rows.columns.iter_mut().flat_map(|column| column.words_mut()).for_each(|cell| *cell = -*cell);
    store.write(&key(), rows, WriteMode::Upsert, None).unwrap();
    store.delete_range(&key(), (50_000 * MINUTE, 99_000 * MINUTE), None).unwrap();
    store.seal(&[]).unwrap();
    assert!(store.compact(&[], false).unwrap().chunks_removed >= 6);
    assert!(store.vacuum().unwrap().files_waiting > 0, "files with readers stay");
    assert_eq!(read(&store, &key()).unwrap().len(), 50_999);
    for (name, before, scan) in [("begun", Some(first), started_at), ("untouched", None, untouched)] {
        let mut row = 0;
        for block in before.map(Ok).into_iter().chain(scan) {
            let block = block.unwrap();
            let end = row + block.rows();
            assert!(block.words(0) == &expected.ts[row..end], "{name}: times from row {row}");
            for column in 0..5 {
                assert!(
                    block.words(column + 1) == &expected.columns[column].words()[row..end],
                    "{name}: cells from row {row}"
                );
            }
            row = end;
        }
        assert_eq!(row, 100_000, "{name}");
    }
    drop(state);
    assert_eq!(store.vacuum().unwrap().files_waiting, 0);
    assert!(old.iter().all(|path| !path.exists()), "the old files went with their last reader");
}

#[test]
fn opening_a_store_of_many_chunks_opens_none_of_them() {
    let count: u64 = std::env::var("FASTK_MANY_CHUNKS").ok().and_then(|text| text.parse().ok()).unwrap_or(20_000);
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), true, options()).unwrap();
    store.register(SeriesDef { partition: Partition::Day, ..def(&key()) }).unwrap();
    store.write(&key(), minutes(0, 10), WriteMode::Upsert, None).unwrap();
    store.seal(&[]).unwrap();
    drop(store);
    let edits = files(root.path(), "manifest", ".edit");
    let (last, _) = decode_edit(&std::fs::read(edits.last().unwrap()).unwrap()).unwrap();
    let (mut series, chunk) = (last.series[0].clone(), last.chunks[0].clone());
    // The files of the chunks are missing: opening one fails.
    let chunks: Vec<ChunkRecord> = (1..=count)
        .map(|day| {
            let id = chunk.id + day;
            let ts_min = day as i64 * 1_440 * MINUTE;
            let partition = Partition::Day.span_of(ts_min, fastk::types::TimeUnit::Ms).name;
            ChunkRecord { id, partition, ts_min, ts_max: ts_min + 9 * MINUTE, ..chunk.clone() }
        })
        .collect();
    series.rows += 10 * count;
    series.last_ts = chunks.last().map(|chunk| chunk.ts_max);
    let number = last.number + 1;
    let edit = Edit { number, series: vec![series], chunks, next_file_id: chunk.id + count + 1, ..Edit::default() };
    std::fs::write(root.path().join(format!("manifest/{number:020}.edit")), encode_edit(&edit)).unwrap();
    let started_at = std::time::Instant::now();
    let store = open(root.path());
    println!("{count} chunks: opened in {:?}", started_at.elapsed());
    assert!(store.cache().is_empty(), "no chunk was mapped");
    let state = store.snapshot();
    let found = state.get(&key()).unwrap();
    let end = (count as i64 * 1_440 + 9) * MINUTE;
    assert_eq!((found.chunks.len() as u64, found.rows, found.bounds), (count + 1, 10 * (count + 1), Some((0, end))));
    // A read opens only the chunks it needs: that of the first day exists, that of the second does not.
    assert_eq!(rows_of(found, &store, (0, 1_440 * MINUTE - 1), false), listed(&minutes(0, 10)));
    assert_eq!(store.cache().len(), 1);
    let missing = Scan::new(found, store.cache(), &ScanSpec::range((1_440 * MINUTE, end))).next().unwrap();
    assert!(missing.unwrap_err().detail().contains("1970-01-02"));
    // So does a write after all of them.
    store.write(&key(), minutes((count as i64 + 1) * 1_440, 5), WriteMode::Append, None).unwrap();
    assert_eq!(store.cache().len(), 1);
}

#[test]
fn rebuilding_sidecars_changes_no_file_of_data() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), true, options()).unwrap();
    store.register(SeriesDef { value_index: vec!["close".into()], ..def(&key()) }).unwrap();
    store.write(&key(), minutes(0, 60_000), WriteMode::Upsert, None).unwrap();
    store.seal(&[]).unwrap();
    store.write(&key(), minutes(60_000, 100), WriteMode::Upsert, None).unwrap();
    let before = contents(root.path());
    let is_sidecar = |name: &str| [".zmap", ".vix", ".cov"].iter().any(|ending| name.ends_with(ending));
    let sidecars: Vec<&String> = before.keys().filter(|name| is_sidecar(name)).collect();
    assert_eq!(sidecars.len(), 6);
    for (at, name) in sidecars.iter().enumerate() {
        match at % 2 {
            0 => std::fs::remove_file(root.path().join(name)).unwrap(),
            _ => std::fs::write(root.path().join(name), b"not one").unwrap(),
        }
    }
    assert!(store.rebuild_sidecars().unwrap().rebuilt > 0);
    assert!(contents(root.path()) == before, "the sidecars are rebuilt identically, and no other file changed");
}

#[test]
fn long_names_rare_timeframes_and_times_before_the_epoch_work_from_tail_to_chunk() {
    const DAY: i64 = 86_400_000;
    let long = "A".repeat(fastk::types::key::SYMBOL_BYTES_MAX);
    for (symbol, timeframe, step) in [
        (long.as_str(), "3d", 3 * DAY),
        ("BTC-PERP_2024.06+X", "1w", 7 * DAY),
        (long.as_str(), "1M", 31 * DAY),
        ("X", "1m", MINUTE),
    ] {
        let root = tempfile::tempdir().unwrap();
        let key = SeriesKey::kline(symbol, timeframe).unwrap();
        let mut store = Store::open(root.path(), true, options()).unwrap();
        store.register(def(&key)).unwrap();
        let mut expected: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
        // From decades before the epoch to decades after it; 1M at the first day of each month.
        let ts_of = |row: i64| match timeframe {
            "1M" => (row * 30 + row / 2) * DAY,
            "1w" => row * step + 4 * DAY,
            _ => row * step,
        };
        for (round, rows) in [-600..-100_i64, -200..200, -5..900].into_iter().enumerate() {
            let ts: Vec<i64> = rows.map(ts_of).collect();
            let columns =
                (0..5).map(|column| ts.iter().map(|ts| ts / 1_000 + column + round as i64).collect()).collect();
            let rows = Rows::of_words(ts, columns);
            expected.extend(listed(&rows).into_iter().map(|row| (row[0], row)));
            store.write(&key, rows, WriteMode::Upsert, None).unwrap();
            let removed = (ts_of(-20), ts_of(-18));
            store.delete_range(&key, removed, None).unwrap();
            expected.retain(|ts, _| *ts < removed.0 || *ts > removed.1);
            maintain(&store, round);
            drop(store);
            store = open(root.path());
            let state = store.snapshot();
            let (series, cache) = (state.get(&key).unwrap(), store.cache());
            assert!(rows_of(series, &store, ALL, false).iter().eq(expected.values()), "{key}, round {round}");
            assert!(rows_of(series, &store, ALL, true).iter().eq(expected.values().rev()), "{key}, round {round}");
            assert_eq!(series.bounds, expected.keys().next().copied().zip(expected.keys().last().copied()));
            for (from, to) in [(ts_of(-150), -1), (-1, 0), (i64::MIN, ts_of(-1)), (0, i64::MAX)] {
                let found = rows_of(series, &store, (from, to), false);
                assert!(found.iter().eq(expected.range(from..=to).map(|(_, row)| row)), "{key}: {from} to {to}");
            }
            let start = latest_start(series, cache, (i64::MIN, -1), 7, &[]).unwrap();
            assert_eq!(Some(&start), expected.range(..0).rev().nth(6).map(|(ts, _)| ts));
            let report = covered(series, &store);
            assert_eq!(report.rows, expected.len() as u64, "{key}: {report:?}");
            assert!(report.present > 0 && (round == 0 || report.gaps_total > 0), "{key}: {report:?}");
        }
    }
}

/// The contents of a state, for comparisons.
pub(crate) fn shown(store: &Store, state: &StoreState) -> BTreeMap<String, Vec<Vec<i64>>> {
    let rows = |series: &Arc<SeriesState>| (series.def.key.to_string(), rows_of(series, store, ALL, false));
    state.registered().map(rows).collect()
}
