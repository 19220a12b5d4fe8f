//! One test per guarantee of the engine.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fastk::ErrorCode;
use fastk::clock::Clock;
use fastk::query::{Scan, ScanSpec};
use fastk::store::{ExpectedVersion, RECEIPT_RETENTION_MS, SeriesWrite, Store, StoreOptions, WriteMode};
use fastk::types::{Rows, SeriesDef, SeriesKey, SeriesSpec};

pub(crate) const MINUTE: i64 = 60_000;

pub(crate) fn options() -> StoreOptions {
    StoreOptions { wal_segment_bytes: 1 << 20, background_maintenance: false, ..StoreOptions::default() }
}

pub(crate) fn key() -> SeriesKey {
    SeriesKey::kline("BTCUSDT", "1m").unwrap()
}

pub(crate) fn def(key: &SeriesKey) -> SeriesDef {
    let mut spec = SeriesSpec::of_key(key);
    spec.price_digits = Some(2);
    spec.volume_digits = Some(8);
    spec.resolve().unwrap()
}

/// `count` minutes from `first` on, every cell derived from its timestamp.
pub(crate) fn minutes(first: i64, count: i64) -> Rows {
    let ts: Vec<i64> = (first..first + count).map(|minute| minute * MINUTE).collect();
    let columns = (0..5).map(|column| ts.iter().map(|ts| ts / MINUTE * 10 + column).collect()).collect();
    Rows::of_words(ts, columns)
}

pub(crate) fn read(store: &Store, key: &SeriesKey) -> fastk::Result<Vec<(i64, i64)>> {
    let state = store.snapshot();
    let series = state.get(key).unwrap();
    let spec = ScanSpec::range((i64::MIN, i64::MAX));
    let mut rows = Vec::new();
    for block in Scan::new(series, store.cache(), &spec) {
        let block = block?;
        rows.extend(block.words(0).iter().copied().zip(block.words(4).iter().copied()));
    }
    Ok(rows)
}

pub(crate) fn files(root: &Path, dir: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![root.join(dir)];
    while let Some(path) = waiting.pop() {
        for entry in std::fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn flip(path: &Path, byte: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[byte] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_second_open_fails_at_once_with_store_locked() {
    let root = tempfile::tempdir().unwrap();
    let first = Store::open(root.path(), true, options()).unwrap();
    // The first one stays open, so a second one that waited for it would not return.
    let error = Store::open(root.path(), true, options()).unwrap_err();
    assert_eq!(error.code(), ErrorCode::StoreLocked);
    drop(first);
    Store::open(root.path(), false, options()).unwrap();
}

#[test]
fn a_store_is_created_only_in_an_empty_directory_and_opened_only_where_one_exists() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(Store::open(root.path(), false, options()).unwrap_err().code(), ErrorCode::NotFound);
    std::fs::write(root.path().join("thesis.tex"), "mine").unwrap();
    assert_eq!(Store::open(root.path(), true, options()).unwrap_err().code(), ErrorCode::InvalidArgument);
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1, "no file was created");
}

#[test]
fn another_format_or_an_unknown_feature_is_refused_and_unchanged() {
    for (body, reason) in [
        (r#"{"format":3,"required_features":[]}"#, "has format 3"),
        (r#"{"format":1,"required_features":[]}"#, "before the first release"),
        (r#"{"format":2,"required_features":["x"]}"#, "features [\"x\"]"),
    ] {
        let root = tempfile::tempdir().unwrap();
        drop(Store::open(root.path(), true, options()).unwrap());
        let text = format!("{body} {:08x}\n", crc32c::crc32c(body.as_bytes()));
        std::fs::write(root.path().join("FORMAT"), text).unwrap();
        let before = files(root.path(), ".", "");
        let refused = Store::open(root.path(), true, options()).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::UnsupportedFormat);
        assert!(refused.detail().contains(reason), "{refused}");
        assert_eq!(files(root.path(), ".", ""), before);
    }
}

#[test]
fn the_newest_write_wins_across_chunk_tail_and_reopen() {
    let root = tempfile::tempdir().unwrap();
    let mut store = Store::open(root.path(), true, options()).unwrap();
    store.register(def(&key())).unwrap();
    store.write(&key(), minutes(0, 40_000), WriteMode::Upsert, None).unwrap();
    store.seal(&[]).unwrap();
    let mut correction = minutes(20_000, 1);
    correction.columns[3].words_mut()[0] = -7;
    for round in 0..3 {
        let written = store.write(&key(), correction.clone(), WriteMode::Upsert, None).unwrap();
        assert_eq!((written.rows_written, written.rows_replaced), (1, 1), "round {round}");
        assert_eq!(read(&store, &key()).unwrap()[20_000], (20_000 * MINUTE, -7));
        match round {
            0 => drop(store.seal(&[]).unwrap()),
            1 => store.checkpoint().unwrap(),
            _ => {}
        }
        drop(store);
        store = Store::open(root.path(), false, options()).unwrap();
        let rows = read(&store, &key()).unwrap();
        assert_eq!((rows.len(), rows[20_000].1, rows[20_001].1), (40_000, -7, 200_013));
    }
}

#[test]
fn a_complete_block_is_served_from_the_map_and_equals_the_file() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), true, options()).unwrap();
    store.register(def(&key())).unwrap();
    store.write(&key(), minutes(0, 40_000), WriteMode::Upsert, None).unwrap();
    store.seal(&[]).unwrap();
    let chunk = std::fs::read(&files(root.path(), "chunks", ".arrow")[0]).unwrap();
    let state = store.snapshot();
    let spec = ScanSpec::range((i64::MIN, i64::MAX));
    let blocks: Vec<_> = Scan::new(state.get(&key()).unwrap(), store.cache(), &spec).map(Result::unwrap).collect();
    assert_eq!(blocks.iter().map(|b| b.rows()).collect::<Vec<_>>(), [16_384, 16_384, 7_232]);
    let report = fastk::format::inspect::inspect(&chunk).unwrap();
    for (position, block) in blocks.iter().enumerate() {
        let stored = block.message().unwrap();
        let at = report["blocks"][position]["offset"].as_u64().unwrap() as usize;
        assert!(chunk[at..at + stored.bytes().len()] == stored.bytes()[..], "block {position} as in the file");
        for column in block.packed_columns() {
            let cells = column.buffer();
            assert!(stored.body().as_ptr_range().contains(&cells.as_ptr()), "the column is inside the map");
            assert_eq!(cells.capacity(), cells.len(), "the buffer does not claim the whole map");
        }
    }
    // One newer row over the second block rebuilds that block only.
    store.write(&key(), minutes(20_000, 1), WriteMode::Upsert, None).unwrap();
    let state = store.snapshot();
    let blocks: Vec<_> = Scan::new(state.get(&key()).unwrap(), store.cache(), &spec).map(Result::unwrap).collect();
    assert!(blocks[0].message().is_some() && blocks[blocks.len() - 1].message().is_some());
    assert_eq!(blocks.iter().map(|b| b.rows()).sum::<usize>(), 40_000);
}

#[test]
fn one_flipped_bit_is_an_error_for_its_block_and_the_other_blocks_still_read() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), true, options()).unwrap();
    store.register(def(&key())).unwrap();
    store.write(&key(), minutes(0, 40_000), WriteMode::Upsert, None).unwrap();
    store.seal(&[]).unwrap();
    drop(store);
    let path = files(root.path(), "chunks", ".arrow").remove(0);
    // The middle of the second block.
    flip(&path, 1_200_000);
    let store = Store::open(root.path(), false, options()).unwrap();
    let error = read(&store, &key()).unwrap_err();
    assert_eq!(error.code(), ErrorCode::CorruptData);
    assert!(error.detail().contains("block 1") && error.detail().contains(".arrow"), "{error}");
    let state = store.snapshot();
    for (range, rows) in [((0, 16_383 * MINUTE), 16_384), ((32_768 * MINUTE, i64::MAX), 7_232)] {
        let spec = ScanSpec::range(range);
        let found: usize =
            Scan::new(state.get(&key()).unwrap(), store.cache(), &spec).map(|block| block.unwrap().rows()).sum();
        assert_eq!(found, rows);
    }
}

#[test]
fn a_store_with_a_damaged_manifest_run_or_format_opens_read_only_and_names_the_file() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), true, options()).unwrap();
    store.register(def(&key())).unwrap();
    store.write(&key(), minutes(0, 10), WriteMode::Upsert, None).unwrap();
    store.checkpoint().unwrap();
    drop(store);
    for (dir, ending) in [("manifest", ".edit"), ("runs", ".run"), (".", "FORMAT")] {
        let path = files(root.path(), dir, ending).pop().unwrap();
        let length = std::fs::metadata(&path).unwrap().len() as usize;
        // An edit is stored twice: damage of one copy loses nothing.
        let copy_at = fastk::format::manifest::COPY_ALIGNMENT;
        let (first, second) = if ending == ".edit" { (length - copy_at, copy_at) } else { (length, 0) };
        for byte in (0..first).step_by(1 + first / 50) {
            flip(&path, byte);
            if second > 0 {
                assert_eq!(read(&Store::open(root.path(), false, options()).unwrap(), &key()).unwrap().len(), 10);
                flip(&path, second + byte);
            }
            let store = Store::open(root.path(), false, options()).unwrap();
            let damage = store.recovery().damage.join("; ");
            assert!(damage.contains(path.file_name().unwrap().to_str().unwrap()), "{}: {damage}", path.display());
            let refused = store.write(&key(), minutes(20, 1), WriteMode::Upsert, None).unwrap_err();
            assert_eq!(refused.code(), ErrorCode::WriterStopped);
            match read(&store, &key()) {
                Ok(rows) => assert_eq!(rows.len(), 10, "{}: byte {byte}", path.display()),
                Err(error) => {
                    assert_eq!((error.code(), ending), (ErrorCode::CorruptData, ".run"), "byte {byte}: {error}");
                }
            }
            drop(store);
            flip(&path, byte);
            if second > 0 {
                flip(&path, second + byte);
            }
        }
    }
    assert_eq!(read(&Store::open(root.path(), false, options()).unwrap(), &key()).unwrap().len(), 10);
}

#[test]
fn a_torn_tail_is_cut_and_rot_in_synced_frames_stops_the_writer_only() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), true, options()).unwrap();
    store.register(def(&key())).unwrap();
    for minute in 0..20 {
        store.write(&key(), minutes(minute, 1), WriteMode::Append, None).unwrap();
    }
    drop(store);
    let segment = files(root.path(), "wal", ".wal").pop().unwrap();
    let whole = std::fs::read(&segment).unwrap();
    let report = fastk::format::inspect::inspect(&whole).unwrap();
    let offsets: Vec<usize> =
        report["frames"].as_array().unwrap().iter().map(|f| f["offset"].as_u64().unwrap() as usize).collect();
    assert_eq!(report["end"], "clean");
    // The marker written at close and the last commit are cut anywhere: the store opens with the earlier rows.
    let (last_commit, marker) = (offsets[offsets.len() - 2], offsets[offsets.len() - 1]);
    let mut torn = whole.clone();
    torn[last_commit + 100..].fill(0);
    std::fs::write(&segment, &torn).unwrap();
    let store = Store::open(root.path(), false, options()).unwrap();
    assert_eq!(read(&store, &key()).unwrap().len(), 19);
    assert!(store.recovery().damage.is_empty() && !store.recovery().torn.is_empty());
    store.write(&key(), minutes(50, 1), WriteMode::Append, None).unwrap();
    drop(store);
    assert_eq!(read(&Store::open(root.path(), false, options()).unwrap(), &key()).unwrap().len(), 20);
    // Damage in the middle: later frames show that it was synced.
    assert!(marker > last_commit);
    let mut rotten = whole;
    rotten[offsets[10] + 70] ^= 1;
    std::fs::write(&segment, &rotten).unwrap();
    let store = Store::open(root.path(), false, options()).unwrap();
    assert_eq!(read(&store, &key()).unwrap().len(), 19, "every intact frame is served");
    let error = store.write(&key(), minutes(60, 1), WriteMode::Append, None).unwrap_err();
    assert_eq!(error.code(), ErrorCode::WriterStopped);
    drop(store);
    assert_eq!(std::fs::read(&segment).unwrap(), rotten, "opening a damaged log does not change it");
}

#[test]
fn changes_with_a_stale_version_are_refused_and_change_nothing() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), true, options()).unwrap();
    store.register(def(&key())).unwrap();
    let written = store.write(&key(), minutes(0, 3), WriteMode::Upsert, None).unwrap();
    let stale = Some(ExpectedVersion { series_id: None, version: written.version - 1 });
    for error in [
        store.write(&key(), minutes(5, 1), WriteMode::Upsert, stale).unwrap_err(),
        store.delete_range(&key(), (0, MINUTE), stale).unwrap_err(),
        store.drop_series(&key(), stale).unwrap_err(),
    ] {
        assert_eq!(error.code(), ErrorCode::CommitConflict);
    }
    assert_eq!(read(&store, &key()).unwrap().len(), 3);
    let fresh = Some(ExpectedVersion { series_id: Some(written.series_id), version: written.version });
    store.write(&key(), minutes(5, 1), WriteMode::Upsert, fresh).unwrap();
}

#[test]
fn many_threads_writing_one_bar_and_reading_it_never_see_it_torn() {
    let root = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(root.path(), true, options()).unwrap());
    store.register(def(&key())).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..8_i64 {
            let store = Arc::clone(&store);
            scope.spawn(move || {
                for round in 0..50 {
                    let value = writer * 1_000 + round;
                    let rows = Rows::of_words(vec![0], vec![vec![value]; 5]);
                    store.write(&key(), rows, WriteMode::Upsert, None).unwrap();
                    let state = store.snapshot();
                    let spec = ScanSpec::range((0, 0));
                    let block = Scan::new(state.get(&key()).unwrap(), store.cache(), &spec).next().unwrap().unwrap();
                    let first = block.words(1)[0];
                    assert!((1..=5).all(|column| block.words(column) == [first]), "a torn bar");
                }
            });
        }
    });
    let state = store.snapshot();
    assert_eq!((state.get(&key()).unwrap().version, state.get(&key()).unwrap().rows), (401, 1));
}

#[test]
fn a_retained_commit_repeats_its_result_until_it_is_released() {
    let root = tempfile::tempdir().unwrap();
    let clock = Clock::manual(0);
    let options = StoreOptions { commit_retention_ms: 3_600_000, clock: clock.clone(), ..options() };
    let store = Store::open(root.path(), true, options).unwrap();
    store.register(def(&key())).unwrap();
    store.write(&key(), minutes(0, 5), WriteMode::Upsert, None).unwrap();
    let state = store.snapshot();
    store.retained_commits().keep(&state);
    store.write(&key(), minutes(5, 5), WriteMode::Upsert, None).unwrap();
    clock.advance(Duration::from_millis(3_599_999));
    assert_eq!(store.at_commit(state.commit).unwrap().get(&key()).unwrap().rows, 5);
    // A request retains it again.
    clock.advance(Duration::from_millis(3_599_999));
    assert_eq!(store.at_commit(state.commit).unwrap().get(&key()).unwrap().rows, 5);
    clock.advance(Duration::from_millis(3_600_000));
    assert_eq!(store.at_commit(state.commit).unwrap_err().code(), ErrorCode::CommitGone);
    assert_eq!(store.at_commit(state.commit + 100).unwrap_err().code(), ErrorCode::InvalidArgument);
}

#[test]
fn a_receipt_is_returned_for_a_day() {
    let root = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1_700_000_000_000);
    let options = StoreOptions { clock: clock.clone(), ..options() };
    let mut store = Store::open(root.path(), true, options.clone()).unwrap();
    store.register(def(&key())).unwrap();
    let once = |store: &Store| {
        let write = SeriesWrite::new(key(), minutes(0, 5), WriteMode::Upsert);
        store.write_many(vec![write], Some("once")).unwrap().repeated
    };
    assert!(!once(&store));
    clock.advance(Duration::from_millis(RECEIPT_RETENTION_MS as u64 - 1));
    assert!(once(&store));
    store.checkpoint().unwrap();
    drop(store);
    store = Store::open(root.path(), false, options).unwrap();
    assert!(once(&store));
    clock.advance(Duration::from_millis(1));
    assert!(!once(&store));
    clock.advance(Duration::from_millis(RECEIPT_RETENTION_MS as u64 + 1));
    store.checkpoint().unwrap();
    assert!(store.snapshot().receipts.is_empty());
}

#[test]
fn checkpoints_trim_the_log_and_lose_nothing() {
    let root = tempfile::tempdir().unwrap();
    let mut store = Store::open(root.path(), true, StoreOptions { wal_segment_bytes: 64 << 10, ..options() }).unwrap();
    let keys: Vec<SeriesKey> = (0..50).map(|n| SeriesKey::kline(&format!("S{n}"), "1m").unwrap()).collect();
    for key in &keys {
        store.register(def(key)).unwrap();
    }
    for round in 0..20_i64 {
        for key in &keys {
            store.write(key, minutes(round * 10, 10), WriteMode::Append, None).unwrap();
        }
        store.checkpoint().unwrap();
        assert_eq!(files(root.path(), "wal", ".wal").len(), 1, "round {round}");
        // Eight files of a level become one of the next: after eight rounds there is one again.
        let (merged, single) = ((round + 1) / 8, (round + 1) % 8);
        assert_eq!(files(root.path(), "runs", ".run").len() as i64, merged + single, "round {round}");
        drop(store);
        store = Store::open(root.path(), false, options()).unwrap();
        assert_eq!(store.recovery().commits_replayed, 0, "round {round}");
        for key in &keys {
            assert_eq!(read(&store, key).unwrap().len() as i64, (round + 1) * 10);
        }
    }
    assert!(files(root.path(), "chunks", ".arrow").is_empty(), "small tails get no chunk");
}

#[test]
fn interval_and_none_acknowledge_before_the_sync_and_a_closed_store_keeps_every_row() {
    use fastk::store::Durability;
    for durability in [Durability::Interval, Durability::None] {
        let root = tempfile::tempdir().unwrap();
        let options = StoreOptions { durability, background_maintenance: true, sync_interval_ms: 20, ..options() };
        let store = Store::open(root.path(), true, options.clone()).unwrap();
        store.register(def(&key())).unwrap();
        let written = store.write(&key(), minutes(0, 10), WriteMode::Upsert, None).unwrap();
        assert!(!written.durable);
        assert_eq!(read(&store, &key()).unwrap().len(), 10);
        drop(store);
        assert_eq!(read(&Store::open(root.path(), false, options).unwrap(), &key()).unwrap().len(), 10);
    }
}

#[test]
fn a_predicate_reads_only_the_zones_that_can_match_and_works_without_zone_maps_too() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), true, options()).unwrap();
    store.register(def(&key())).unwrap();
    // Values rise with time, so zones are clustered: one row in a thousand matches. FASTK_PROOF=100: ten million rows.
    let count = if super::proof_amount::percent() >= 100.0 { 10_000_000 } else { 200_000 };
    for first in (0..count).step_by(1_000_000) {
        store.write(&key(), minutes(first, (count - first).min(1_000_000)), WriteMode::Append, None).unwrap();
    }
    store.seal(&[]).unwrap();
    let expectation = (count / 1_000) as usize;
    let predicate = format!("open:between:{},{}", count / 2 * 10, (count / 2 + count / 1_000 - 1) * 10);
    let run_query = |store: &Store| {
        let (rows, stats) = scan_with(store, &key(), &predicate);
        (rows.len(), stats)
    };
    let (rows, stats) = run_query(&store);
    assert_eq!((rows, stats.rows_matched, stats.fallback), (expectation, expectation as u64, false));
    assert!(stats.zones_scanned * 20 < stats.zones_considered, "{stats:?}");
    assert!(stats.rows_checked <= expectation as u64 + 2 * 1_024, "{stats:?}");
    assert!(stats.chunks_pruned + 2 >= stats.chunks_considered, "{stats:?}");
    assert!(stats.blocks_considered > 10 && stats.blocks_pruned + 2 >= stats.blocks_considered, "{stats:?}");
    assert_eq!(stats.chunks_scanned, stats.chunks_considered - stats.chunks_pruned);
    drop(store);
    let maps = files(root.path(), "chunks", ".zmap");
    assert!(!maps.is_empty());
    for damage in [false, true] {
        for path in &maps {
            if damage {
                flip(path, 40)
            } else {
                std::fs::remove_file(path).unwrap_or_default()
            }
            if !damage {
                std::fs::write(path, b"garbage of some length that is no zone map at all").unwrap();
            }
        }
        let store = Store::open(root.path(), false, options()).unwrap();
        let (rows, stats) = run_query(&store);
        assert_eq!((rows, stats.zones_considered, stats.fallback), (expectation, 0, true));
    }
}

#[test]
fn a_newer_row_that_does_not_match_still_hides_the_older_one_that_does() {
    use fastk::query::predicate::compile;
    use fastk::query::{NumberFormat, Predicate};
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), true, options()).unwrap();
    store.register(def(&key())).unwrap();
    store.write(&key(), minutes(0, 5_000), WriteMode::Upsert, None).unwrap();
    store.seal(&[]).unwrap();
    let mut rows = minutes(1_000, 1);
    rows.columns[3].words_mut()[0] = -1;
    for sealed in [false, true] {
        store.write(&key(), rows.clone(), WriteMode::Upsert, None).unwrap();
        if sealed {
            store.seal(&[]).unwrap();
        }
        let state = store.snapshot();
        let series = state.get(&key()).unwrap();
        let predicate = Predicate::parse("close:eq:100.03").unwrap();
        let filter = compile(&series.def, &series.dictionaries, &[predicate], NumberFormat::Stored).unwrap();
        let mut scan = Scan::new(series, store.cache(), &ScanSpec { filter, ..ScanSpec::range((i64::MIN, i64::MAX)) });
        assert!(scan.next().is_none(), "the row at minute 1000 has another close now, sealed {sealed}");
    }
}

#[test]
fn a_manifest_edit_that_cannot_be_published_stops_the_writer_and_readers_continue() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), true, options()).unwrap();
    store.register(def(&key())).unwrap();
    store.write(&key(), minutes(0, 10), WriteMode::Upsert, None).unwrap();
    // The number of the next edit exists, as if another process had written it.
    let edits = files(root.path(), "manifest", ".edit");
    let taken = root.path().join("manifest").join(format!("{:020}.edit", edits.len() + 1));
    std::fs::write(&taken, b"not ours").unwrap();
    assert_eq!(store.seal(&[]).unwrap_err().code(), ErrorCode::CommitConflict);
    let error = store.write(&key(), minutes(20, 1), WriteMode::Upsert, None).unwrap_err();
    assert_eq!(error.code(), ErrorCode::WriterStopped);
    assert_eq!(read(&store, &key()).unwrap().len(), 10);
    drop(store);
    std::fs::remove_file(taken).unwrap();
    let store = Store::open(root.path(), false, options()).unwrap();
    assert_eq!(read(&store, &key()).unwrap().len(), 10);
    store.write(&key(), minutes(20, 1), WriteMode::Upsert, None).unwrap();
}

/// Rows and stats of a scan for one predicate.
fn scan_with(store: &Store, key: &SeriesKey, predicate: &str) -> (Vec<(i64, i64)>, fastk::query::ScanStats) {
    use fastk::query::predicate::compile;
    use fastk::query::{NumberFormat, Predicate};
    let state = store.snapshot();
    let series = state.get(key).unwrap();
    let filter =
        compile(&series.def, &series.dictionaries, &[Predicate::parse(predicate).unwrap()], NumberFormat::Raw).unwrap();
    let mut scan = Scan::new(series, store.cache(), &ScanSpec { filter, ..ScanSpec::range((i64::MIN, i64::MAX)) });
    let mut rows = Vec::new();
    for block in scan.by_ref() {
        let block = block.unwrap();
        rows.extend(block.words(0).iter().copied().zip(block.words(4).iter().copied()));
    }
    (rows, scan.stats())
}

/// Minutes whose close repeats every `period` rows, in an order that no zone map can use.
fn scattered_rows(count: i64, period: i64) -> Rows {
    let mut rows = minutes(0, count);
    rows.columns[3] = (0..count).map(|row| (row * 7_919) % period).collect::<Vec<_>>().into();
    rows
}

#[test]
fn an_index_lookup_reads_little_more_than_the_matching_rows() {
    use fastk::query::IndexUsed;
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), true, options()).unwrap();
    let indexed = SeriesDef { value_index: vec!["close".into()], ..def(&key()) };
    let plain = def(&SeriesKey::kline("PLAIN", "1m").unwrap());
    for def in [&indexed, &plain] {
        let mut def = def.clone();
        // One chunk, so that it is the index and not the partition that narrows.
        def.partition = fastk::types::Partition::All;
        store.register(def).unwrap();
    }
    for key in [&indexed.key, &plain.key] {
        store.write(key, scattered_rows(200_000, 20_000), WriteMode::Upsert, None).unwrap();
    }
    store.seal(&[]).unwrap();
    assert_eq!(files(root.path(), "chunks", ".vix").len(), 1);
    for (predicate, matches) in
        [("close:eq:17", 10), ("close:in:17,3,19999", 30), ("close:between:100,104", 50), ("close:eq:20000", 0)]
    {
        let (rows, stats) = scan_with(&store, &indexed.key, predicate);
        let (expectation, unaided) = scan_with(&store, &plain.key, predicate);
        assert_eq!((rows.len(), &rows), (matches, &expectation), "{predicate}");
        assert!(matches == 0 || unaided.rows_checked > 100_000, "{predicate}: {unaided:?}");
        assert_eq!((stats.rows_checked, stats.rows_matched), (matches as u64, matches as u64), "{predicate}");
        let expected = if matches == 0 { IndexUsed::ZoneMap } else { IndexUsed::Both };
        assert_eq!((stats.index_used, stats.fallback), (expected, false), "{predicate}");
        assert_eq!(stats.zones_considered, 196);
        assert!(stats.zones_scanned <= matches as u64, "{predicate}: {stats:?}");
    }
    // Half of the rows: reading them one by one would cost more than a scan.
    let (rows, stats) = scan_with(&store, &indexed.key, "close:lt:10000");
    assert_eq!((rows.len(), stats.rows_checked, stats.index_used), (100_000, 200_000, IndexUsed::ZoneMap));
    // Without zone maps the index still narrows.
    for path in files(root.path(), "chunks", ".zmap") {
        std::fs::remove_file(path).unwrap();
    }
    drop(store);
    let store = Store::open(root.path(), false, options()).unwrap();
    let (rows, stats) = scan_with(&store, &indexed.key, "close:eq:17");
    assert_eq!((rows.len(), stats.rows_checked, stats.index_used), (10, 10, IndexUsed::ValueIndex));
    assert!(stats.fallback);
}

#[test]
fn an_indexed_row_that_was_overwritten_or_deleted_is_not_returned() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), true, options()).unwrap();
    store.register(SeriesDef { value_index: vec!["close".into()], ..def(&key()) }).unwrap();
    store.write(&key(), scattered_rows(40_000, 4_000), WriteMode::Upsert, None).unwrap();
    store.seal(&[]).unwrap();
    let minutes_of = |rows: &[(i64, i64)]| rows.iter().map(|(ts, _)| ts / MINUTE).collect::<Vec<i64>>();
    let first = minutes_of(&scan_with(&store, &key(), "close:eq:7").0);
    assert_eq!(first.len(), 10);
    // One loses the value, another row gains it, one is deleted; in the tail first, then in chunks.
    let mut rows = minutes(first[2], 2);
    rows.columns[3] = [-1_i64, 7].into();
    store.write(&key(), rows, WriteMode::Upsert, None).unwrap();
    let dropped = first[5] * MINUTE;
    store.delete_range(&key(), (dropped, dropped), None).unwrap();
    let mut expectation: Vec<i64> = first.iter().copied().filter(|m| *m != first[2] && *m != first[5]).collect();
    expectation.push(first[2] + 1);
    expectation.sort_unstable();
    assert_eq!(minutes_of(&scan_with(&store, &key(), "close:eq:7").0), expectation);
    store.seal(&[]).unwrap();
    let (rows, stats) = scan_with(&store, &key(), "close:eq:7");
    assert_eq!(minutes_of(&rows), expectation);
    assert!(stats.rows_checked <= 12, "{stats:?}");
    assert_eq!(minutes_of(&scan_with(&store, &key(), "close:eq:-1").0), [first[2]]);
}

#[test]
fn scattered_rows_of_an_index_equal_those_of_a_scan() {
    use fastk::query::{Predicate, Select};
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), true, options()).unwrap();
    let plain = SeriesKey::kline("PLAIN", "1m").unwrap();
    store.register(SeriesDef { value_index: vec!["close".into()], ..def(&key()) }).unwrap();
    store.register(def(&plain)).unwrap();
    for key in [&key(), &plain] {
        store.write(key, scattered_rows(120_000, 1_000), WriteMode::Upsert, None).unwrap();
        store.seal(&[]).unwrap();
        // Every 77th minute is overwritten in its own chunk, some to the value and some away from it; then rows in the
        // tail
        // and deletes, before and after both.
        for (first, step, from) in [(30, 77, 0), (1_000, 501, 60_000)] {
            let mut newer = scattered_rows(120_000, 1_000);
            newer.columns[3].words_mut().rotate_left(1);
            let keep: Vec<usize> = (first..120_000).step_by(step).filter(|row| *row >= from).collect();
            let picked = |words: &[i64]| keep.iter().map(|row| words[*row]).collect::<Vec<i64>>();
            let rows = Rows::of_words(picked(&newer.ts), newer.columns.iter().map(|c| picked(c.words())).collect());
            store.write(key, rows, WriteMode::Upsert, None).unwrap();
            if from == 0 {
                store.delete_range(key, (9_000 * MINUTE, 9_999 * MINUTE), None).unwrap();
                store.seal(std::slice::from_ref(key)).unwrap();
            }
        }
        store.delete_range(key, (70_000 * MINUTE, 70_400 * MINUTE), None).unwrap();
    }
    let reader = store.reader();
    let mut found = 0;
    for texts in
        [&["close:in:7,8,500"][..], &["close:between:3,9", "open:gte:300000"], &["close:eq:5", "volume:lt:900000"]]
    {
        let predicates: Vec<Predicate> = texts.iter().map(|text| Predicate::parse(text).unwrap()).collect();
        let all = Select { predicates: &predicates, numbers: fastk::query::NumberFormat::Raw, ..Select::default() };
        for select in [
            all.clone(),
            Select { descending: true, ..all.clone() },
            Select { limit: Some(50), ..all.clone() },
            Select { limit: Some(50), descending: true, ..all.clone() },
            Select { latest: Some(77), ..all.clone() },
            Select { range: Some(29_999 * MINUTE..=69_999 * MINUTE), columns: Some(&["close"]), ..all.clone() },
        ] {
            let rows = |key: &SeriesKey| {
                let blocks = reader.select(key, &select).unwrap().map(|block| block.unwrap());
                let mut columns: Vec<Vec<i64>> = Vec::new();
                for block in blocks {
                    columns.resize(block.column_count(), Vec::new());
                    columns.iter_mut().enumerate().for_each(|(at, column)| column.extend(block.words(at)));
                }
                columns
            };
            let (indexed, expectation) = (rows(&key()), rows(&plain));
            assert_eq!(indexed, expectation, "{texts:?}, {select:?}");
            found += expectation.first().map_or(0, Vec::len);
        }
    }
    assert!(found > 1_000, "{found} rows were compared");
    let (rows, stats) = scan_with(&store, &key(), "close:eq:7");
    assert!(rows.len() > 100 && stats.rows_checked < 5_000, "{stats:?}");
}

#[test]
fn a_damaged_sidecar_is_ignored_and_rebuilt_in_the_background() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), true, options()).unwrap();
    let def = SeriesDef { value_index: vec!["close".into()], ..def(&key()) };
    store.register(SeriesDef { partition: fastk::types::Partition::All, ..def }).unwrap();
    store.write(&key(), scattered_rows(50_000, 5_000), WriteMode::Upsert, None).unwrap();
    store.seal(&[]).unwrap();
    drop(store);
    let sidecars: Vec<PathBuf> = [".zmap", ".vix"].iter().flat_map(|kind| files(root.path(), "chunks", kind)).collect();
    let whole: Vec<Vec<u8>> = sidecars.iter().map(|path| std::fs::read(path).unwrap()).collect();
    let right = |store: &Store| assert_eq!(scan_with(store, &key(), "close:eq:7").0.len(), 10);
    for (damaged, (path, bytes)) in sidecars.iter().zip(&whole).enumerate() {
        // Damage in the head, the directory, the last byte, the whole file, and the file of another chunk.
        for damage in 0..5 {
            let mut spoilt = bytes.clone();
            let last = spoilt.len() - 1;
            match damage {
                0 => spoilt[0] ^= 1,
                1 => spoilt[40] ^= 1,
                2 => spoilt[last] ^= 1,
                3 => spoilt.clear(),
                _ => spoilt = whole[1 - damaged].clone(),
            }
            std::fs::write(path, &spoilt).unwrap();
            let store = Store::open(root.path(), false, options()).unwrap();
            right(&store);
            let report = store.rebuild_sidecars().unwrap();
            assert_eq!((report.rebuilt, report.removed), (1, 0), "{}, damage {damage}", path.display());
            assert!(std::fs::read(path).unwrap() == *bytes, "{} is as it was", path.display());
            right(&store);
            assert_eq!(scan_with(&store, &key(), "close:eq:7").1.rows_checked, 10);
        }
    }
    for path in &sidecars {
        std::fs::remove_file(path).unwrap();
    }
    let store = Store::open(root.path(), false, StoreOptions { background_maintenance: true, ..options() }).unwrap();
    right(&store);
    let started_at = std::time::Instant::now();
    while sidecars.iter().zip(&whole).any(|(path, bytes)| std::fs::read(path).ok().as_ref() != Some(bytes)) {
        assert!(started_at.elapsed().as_secs() < 120, "the query that found them missing requested new ones");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    right(&store);
}

#[test]
fn a_changed_value_index_is_built_for_existing_chunks() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), true, options()).unwrap();
    store.register(SeriesDef { partition: fastk::types::Partition::All, ..def(&key()) }).unwrap();
    store.write(&key(), scattered_rows(50_000, 5_000), WriteMode::Upsert, None).unwrap();
    store.seal(&[]).unwrap();
    let change = |columns: &[&str]| {
        let columns: Vec<String> = columns.iter().map(|name| (*name).to_owned()).collect();
        store
            .change_series(&key(), None, |def| {
                def.value_index = columns;
                Ok(())
            })
            .unwrap();
    };
    let checked = || {
        let (rows, stats) = scan_with(&store, &key(), "close:eq:7");
        assert_eq!(rows.len(), 10);
        stats.rows_checked
    };
    let unaided = checked();
    assert!(unaided > 20_000, "{unaided}");
    change(&["close", "volume"]);
    assert_eq!(checked(), unaided, "not built yet");
    let report = store.rebuild_sidecars().unwrap();
    assert_eq!((report.chunks_checked, report.rebuilt, report.removed), (1, 1, 0));
    assert_eq!(checked(), 10);
    change(&["volume"]);
    assert_eq!(store.rebuild_sidecars().unwrap().rebuilt, 1);
    assert_eq!(checked(), unaided);
    change(&[]);
    assert_eq!(store.rebuild_sidecars().unwrap().removed, 1);
    assert!(files(root.path(), "chunks", ".vix").is_empty());
    assert_eq!(checked(), unaided);
}

#[test]
fn conditions_on_ts_narrow_the_range_before_any_file_is_opened() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), true, options()).unwrap();
    store.register(SeriesDef { partition: fastk::types::Partition::Day, ..def(&key()) }).unwrap();
    store.write(&key(), minutes(0, 20_000), WriteMode::Upsert, None).unwrap();
    store.seal(&[]).unwrap();
    let chunks = files(root.path(), "chunks", ".arrow");
    assert_eq!(chunks.len(), 14);
    // Only the chunk of the first day can be opened.
    for path in &chunks[1..] {
        std::fs::remove_file(path).unwrap();
    }
    let limit = 1_440 * MINUTE;
    let (rows, stats) = scan_with(&store, &key(), &format!("ts:lt:{limit}"));
    assert_eq!((rows.len(), stats.rows_matched), (1_440, 1_440));
    assert_eq!(scan_with(&store, &key(), "ts:in:0,60000,60001").0.len(), 2);
    assert_eq!(scan_with(&store, &key(), "ts:lt:0").0.len(), 0);
}

#[test]
fn chunks_of_a_failed_seal_are_removed() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), true, options()).unwrap();
    let other = SeriesKey::kline("OTHER", "1m").unwrap();
    for key in [&key(), &other] {
        store.register(def(key)).unwrap();
        store.write(key, minutes(0, 10), WriteMode::Upsert, None).unwrap();
    }
    // The directory of the second series cannot be created.
    let in_the_way = root.path().join("chunks/0000000002");
    std::fs::write(&in_the_way, b"").unwrap();
    for _ in 0..3 {
        assert_eq!(store.seal(&[]).unwrap_err().code(), ErrorCode::Io);
        assert!(files(root.path(), "chunks", "").iter().all(|path| *path == in_the_way));
    }
    std::fs::remove_file(&in_the_way).unwrap();
    store.write(&key(), minutes(20, 1), WriteMode::Upsert, None).unwrap();
    assert_eq!(store.seal(&[]).unwrap().chunks_written, 2);
    assert_eq!(read(&store, &key()).unwrap().len(), 11);
}

#[test]
fn retention_continues_after_a_series_with_a_damaged_chunk() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), true, options()).unwrap();
    let other = SeriesKey::kline("OTHER", "1m").unwrap();
    for key in [&key(), &other] {
        store.register(def(key)).unwrap();
        store.write(key, minutes(0, 10), WriteMode::Upsert, None).unwrap();
        let retention = Some(fastk::types::schema::Retention { max_rows: Some(4), max_age: None });
        store
            .change_series(key, None, |def| {
                def.retention = retention;
                Ok(())
            })
            .unwrap();
    }
    store.seal(&[]).unwrap();
    flip(&files(root.path(), "chunks/0000000001", ".arrow")[0], 3_000);
    assert_eq!(store.apply_retention(&[]).unwrap_err().code(), ErrorCode::CorruptData);
    assert_eq!(read(&store, &other).unwrap().len(), 4);
}

#[test]
fn many_snapshots_of_a_growing_series_keep_the_manifest_small() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), true, options()).unwrap();
    let mut def = def(&key());
    def.description = Some("a long story ".repeat(20));
    store.register(def).unwrap();
    let made: Vec<_> = (0..100)
        .map(|number| {
            store.write(&key(), minutes(number, 1), WriteMode::Upsert, None).unwrap();
            store.create_snapshot(&format!("s{number}")).unwrap()
        })
        .collect();
    store
        .change_series(&key(), None, |def| {
            def.description = None;
            Ok(())
        })
        .unwrap();
    store
        .change_series(&key(), None, |def| {
            def.description = Some("a long story ".repeat(20));
            Ok(())
        })
        .unwrap();
    store.checkpoint().unwrap();
    let edit = files(root.path(), "manifest", ".edit").pop().unwrap();
    let (edit, _) = fastk::format::manifest::decode_edit(&std::fs::read(edit).unwrap()).unwrap();
    let bytes = fastk::format::manifest::encode_checkpoint(&edit).len();
    assert!(bytes < 100 * 100, "{bytes} bytes");
    drop(store);
    let store = Store::open(root.path(), false, options()).unwrap();
    for (number, snapshot) in made.iter().enumerate() {
        let name = format!("s{number}");
        let view = store.as_of(&name).unwrap();
        let series = view.get(&key()).unwrap();
        assert_eq!(series.rows, number as u64 + 1);
        assert!(series.def.description.as_ref().is_some_and(|text| text.starts_with("a long story")));
        assert!(store.snapshots().contains(&(name, *snapshot)));
    }
}

#[test]
fn run_files_given_up_before_a_crash_are_removed_by_the_next_open() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), true, options()).unwrap();
    store.register(def(&key())).unwrap();
    store.write(&key(), minutes(0, 10), WriteMode::Upsert, None).unwrap();
    store.checkpoint().unwrap();
    let old = files(root.path(), "runs", ".run").remove(0);
    let bytes = std::fs::read(&old).unwrap();
    store.seal(&[]).unwrap();
    store.write(&key(), minutes(20, 1), WriteMode::Upsert, None).unwrap();
    store.checkpoint().unwrap();
    assert!(!old.exists());
    drop(store);
    std::fs::write(&old, bytes).unwrap();
    let store = Store::open(root.path(), false, options()).unwrap();
    assert_eq!(files(root.path(), "runs", ".run").len(), 1);
    assert!(!old.exists());
    assert_eq!(read(&store, &key()).unwrap().len(), 11);
}

#[test]
fn a_log_without_its_segments_is_not_treated_as_empty() {
    for sealed in [false, true] {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), true, options()).unwrap();
        store.register(def(&key())).unwrap();
        store.write(&key(), minutes(0, 10), WriteMode::Upsert, None).unwrap();
        if sealed {
            store.seal(&[]).unwrap();
            store.write(&key(), minutes(10, 10), WriteMode::Upsert, None).unwrap();
        }
        drop(store);
        let segments = files(root.path(), "wal", ".wal");
        let kept: Vec<Vec<u8>> = segments.iter().map(|path| std::fs::read(path).unwrap()).collect();
        segments.iter().for_each(|path| std::fs::remove_file(path).unwrap());
        for _ in 0..2 {
            let store = Store::open(root.path(), false, options()).unwrap();
            assert!(store.recovery().damage.iter().any(|damage| damage.contains(".wal is missing")));
            let refused = store.register(def(&key())).unwrap_err();
            assert_eq!(refused.code(), ErrorCode::WriterStopped);
        }
        segments.iter().zip(kept).for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
        let store = Store::open(root.path(), false, options()).unwrap();
        assert_eq!(read(&store, &key()).unwrap().len(), if sealed { 20 } else { 10 });
    }
}

#[test]
fn readers_see_complete_commits_during_writes_and_maintenance() {
    use std::collections::BTreeMap;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    let root = tempfile::tempdir().unwrap();
    let few_maps = StoreOptions { maps_max: 2, wal_segment_bytes: 64 << 10, ..options() };
    let store = Store::open(root.path(), true, few_maps.clone()).unwrap();
    let mut spec = SeriesSpec::of_key(&key());
    (spec.price_digits, spec.volume_digits, spec.partition) = (Some(2), Some(8), Some("day".into()));
    store.register(spec.resolve().unwrap()).unwrap();
    // Every write sets the same rows, in three partitions, to one value; every delete removes them all.
    let write = |value: i64| {
        let ts: Vec<i64> = (0..60).map(|row| row * 71 * MINUTE).collect();
        let rows = {
            let columns = vec![vec![value; ts.len()]; 5];
            Rows::of_words(ts, columns)
        };
        store.write(&key(), rows, WriteMode::Upsert, None).unwrap();
    };
    let value_in = |state: &fastk::store::StoreState| -> Option<i64> {
        let series = state.get(&key()).unwrap();
        let mut values = Vec::new();
        for block in Scan::new(series, store.cache(), &ScanSpec::range((i64::MIN, i64::MAX))) {
            let block = block.unwrap();
            values.extend_from_slice(block.words(4));
        }
        assert!(
            values.is_empty() || (values.len() == 60 && values.iter().all(|value| *value == values[0])),
            "{values:?}"
        );
        assert_eq!(series.rows, values.len() as u64);
        values.first().copied()
    };
    let done = AtomicBool::new(false);
    let last = AtomicU64::new(0);
    let named: Mutex<BTreeMap<String, Option<i64>>> = Mutex::default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let started_at = std::time::Instant::now();
            for value in 1..i64::MAX {
                if started_at.elapsed().as_secs() >= 3 {
                    break;
                }
                if value % 5 == 0 {
                    store.delete_range(&key(), (i64::MIN, i64::MAX), None).unwrap();
                } else {
                    write(value);
                }
                last.store(value.cast_unsigned(), Ordering::SeqCst);
                if value % 7 == 0 {
                    let name = format!("s{}", value % 11);
                    if named.lock().unwrap().remove(&name).is_some() {
                        store.drop_snapshot(&name).unwrap();
                    }
                    store.create_snapshot(&name).unwrap();
                    let seen = if value % 5 == 0 { None } else { Some(value) };
                    named.lock().unwrap().insert(name, seen);
                }
            }
            done.store(true, Ordering::SeqCst);
        });
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                store.seal(&[]).unwrap();
                store.checkpoint().unwrap();
                store.compact(&[], true).unwrap();
                store.vacuum().unwrap();
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    let before = last.load(Ordering::SeqCst).cast_signed();
                    let state = store.snapshot();
                    let first = value_in(&state);
                    assert!(first.is_none_or(|value| value >= before), "{first:?} after {before}");
                    let listed = named.lock().unwrap().clone();
                    for (name, seen) in listed {
                        let Ok(view) = store.as_of(&name) else { continue };
                        let found = value_in(&view);
                        // It may have been created again under the same name since.
                        if named.lock().unwrap().get(&name) == Some(&seen) && store.as_of(&name).is_ok() {
                            assert_eq!(found, seen, "as of {name}");
                        }
                    }
                    assert_eq!(value_in(&state), first, "a held state changed");
                }
            });
        }
    });
    for round in 0..2 {
        for (name, seen) in named.lock().unwrap().iter() {
            assert_eq!(value_in(&store.as_of(name).unwrap()), *seen, "as of {name}, round {round}");
        }
        store.checkpoint().unwrap();
        store.compact(&[], true).unwrap();
    }
    store.vacuum().unwrap();
}

#[test]
fn many_small_deletes_are_compacted_before_they_exceed_the_garbage_limit() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), true, options()).unwrap();
    let mut spec = SeriesSpec::of_key(&key());
    (spec.price_digits, spec.volume_digits, spec.partition) = (Some(2), Some(8), Some("all".into()));
    store.register(spec.resolve().unwrap()).unwrap();
    store.write(&key(), minutes(0, 20_000), WriteMode::Upsert, None).unwrap();
    store.seal(&[]).unwrap();
    for delete in 0..300 {
        let ts = delete * 60 * MINUTE;
        store.delete_range(&key(), (ts, ts), None).unwrap();
        if delete == 100 {
            store.create_snapshot("between").unwrap();
        }
    }
    // The first 101 are too few, and those after the snapshot must not change its contents.
    assert_eq!(store.compact(&[], false).unwrap().partitions_compacted, 0);
    store.drop_snapshot("between").unwrap();
    assert_eq!(store.compact(&[], false).unwrap().partitions_compacted, 1);
    assert_eq!(store.compact(&[], false).unwrap().partitions_compacted, 0);
    let series = Arc::clone(store.snapshot().get(&key()).unwrap());
    assert!(series.tombstones.is_empty());
    assert_eq!(read(&store, &key()).unwrap().len(), 19_700);
    drop((series, store));
    let store = Store::open(root.path(), false, options()).unwrap();
    assert_eq!(read(&store, &key()).unwrap().len(), 19_700);
}
