//! Damage to files with columns of every type: dictionaries, bitmaps of nulls, cells of 1 to 16 bytes, texts in the log,
//! in runs and in the manifest. No reader ever gets another row, a check finds every flipped byte of a chunk, and a
//! repair loses no more than what was hit. A dictionary is no loss: it is written again from that of the series.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fastk::ErrorCode;
use fastk::format::chunk::decode_chunk;
use fastk::format::chunk_salvage::salvage_chunk;
use fastk::format::manifest::ChunkRecord;
use fastk::store::{RepairOptions, RepairReport, Store, StoreOptions, TaskControl, WriteMode, repair};
use fastk::types::{OrderRule, Partition, SeriesDef, SeriesKey, SeriesSpec};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::guarantees::options;
use super::records::{self, Row, columns_of_every_type, random_cell, rows_of};
use crate::sim_disk::{SimDisk, SimState};

const ROOT: &str = "/lab/store";
const DAY: i64 = 86_400_000;

type Files = BTreeMap<PathBuf, Arc<Vec<u8>>>;

fn small() -> StoreOptions {
    StoreOptions { wal_segment_bytes: 64 << 10, ..options() }
}

fn key() -> SeriesKey {
    SeriesKey::parse("scalar/c/S/tick/n").unwrap()
}

/// A column of every type, and a nullable one of every second.
fn def() -> SeriesDef {
    let columns = columns_of_every_type();
    let spec = SeriesSpec::of_key(&key()).resolve().unwrap();
    SeriesDef { order: OrderRule::Arrival, columns, partition: Partition::Day, interval_ms: None, ..spec }
}

/// Two chunks, each of several blocks, a run file and rows in the log, all with texts of their own; and all rows.
fn filled() -> (SimState, Vec<Row>) {
    let disk = SimDisk::new(SimState::default(), 5);
    let store = Store::open_on(&disk.path(ROOT), true, small()).unwrap();
    let def = def();
    store.register(def.clone()).unwrap();
    let mut rng = StdRng::seed_from_u64(3);
    let mut all = Vec::new();
    let mut write = |first: i64, count: i64| {
        let cells = |rng: &mut StdRng| def.columns.iter().map(|column| random_cell(rng, column)).collect();
        let rows: Vec<Row> = (0..count).map(|row| Row { ts: first + row / 3, cells: cells(&mut rng) }).collect();
        store.write(&key(), rows_of(&def.columns, &rows), WriteMode::Upsert, None).unwrap();
        all.extend(rows);
    };
    write(0, 12_000);
    write(DAY, 500);
    store.seal(&[]).unwrap();
    write(2 * DAY, 200);
    store.checkpoint().unwrap();
    write(3 * DAY, 60);
    write(4 * DAY, 60);
    drop(store);
    (disk.state(), all)
}

fn files(state: &SimState) -> Files {
    let mut files = state.files();
    files.retain(|path, _| !path.ends_with("LOCK"));
    files
}

fn is(path: &Path, text: &str) -> bool {
    path.to_string_lossy().contains(text)
}

/// The rows of the series as they are read, or the error.
fn read(store: &Store) -> fastk::Result<Vec<Row>> {
    records::read(store, &store.snapshot(), &key(), (i64::MIN, i64::MAX), false)
}

fn run_repair(disk: &SimDisk, apply: bool) -> RepairReport {
    repair(&disk.path(ROOT), RepairOptions { apply, rebuild_manifest: false }).unwrap()
}

/// Reads, verifies, repairs and reads a store with a damaged file.
fn check(damaged: &SimState, expected: &[Row], path: &Path, what: &str) -> RepairReport {
    let disk = SimDisk::new(damaged.clone(), 9);
    let store = Store::open_on(&disk.path(ROOT), false, small()).unwrap();
    let noted = !store.recovery().damage.is_empty() || !store.recovery().torn.is_empty();
    match read(&store) {
        Ok(rows) if rows == expected => {}
        // Rows of a damaged log are missing, and said to be.
        Ok(rows) => {
            assert!(noted && is(path, ".wal"), "{what}: {} rows for {}", rows.len(), expected.len());
            assert!(rows.iter().all(|row| expected.contains(row)), "{what}: another row");
        }
        Err(error) => assert_eq!(error.code(), ErrorCode::CorruptData, "{what}: {error}"),
    }
    if is(path, ".arrow") {
        let report = store.verify(&TaskControl::default()).unwrap();
        let name = path.file_name().unwrap().to_string_lossy();
        assert!(format!("{:?}", report.findings).contains(name.as_ref()), "{what}: not found: {:?}", report.findings);
    }
    drop(store);
    let disk = SimDisk::new(damaged.clone(), 9);
    let report = run_repair(&disk, true);
    let again = run_repair(&SimDisk::new(disk.state(), 9), false);
    assert!(again.clean, "{what}: not intact afterwards: {again:?}");
    let store = Store::open_on(&disk.path(ROOT), false, small()).unwrap();
    assert!(store.recovery().damage.is_empty(), "{what}: {:?}", store.recovery().damage);
    let rows = read(&store).unwrap_or_else(|error| panic!("{what}: still unreadable: {error}"));
    if rows == expected {
        return report;
    }
    let is_lost = |row: &Row| {
        !report.lost_lsns.is_empty()
            || report.lost_from.is_some()
            || report.lost.iter().any(|lost| {
                lost.ts_min.is_none_or(|first| first <= row.ts) && lost.ts_max.is_none_or(|last| row.ts <= last)
            })
    };
    let mut left = rows.iter().peekable();
    for row in expected {
        if left.next_if_eq(&row).is_none() {
            assert!(is_lost(row), "{what}: the row at {} is lost and not reported: {:?}", row.ts, report.lost);
        }
    }
    assert!(left.next().is_none(), "{what}: another row");
    report
}

/// The state with a bit of a byte of a file flipped.
fn flipped(state: &SimState, files: &Files, path: &Path, byte: usize, bit: u32) -> SimState {
    let mut bytes = files[path].as_ref().clone();
    bytes[byte] ^= 1 << bit;
    let mut damaged = state.clone();
    damaged.put_file(path, bytes).unwrap();
    damaged
}

#[test]
fn a_flipped_bit_in_a_file_with_columns_of_every_type_never_shows_another_row() {
    let (state, expected) = filled();
    let files = files(&state);
    let mut rng = StdRng::seed_from_u64(1);
    let flips = (crate::proof_amount::percent() * 2.0).ceil().max(3.0) as usize;
    let mut count = 0;
    for (path, bytes) in &files {
        let flips = if is(path, ".arrow") || is(path, ".run") || is(path, ".wal") { 4 * flips } else { flips };
        for flip in 0..flips {
            // Half of the flips are in the used part of the file.
            let byte = rng.random_range(0..bytes.len());
            let byte = if flip % 2 == 0 { byte } else { byte % 20_000.min(bytes.len()) };
            let what = format!("{} byte {byte}", path.display());
            check(&flipped(&state, &files, path, byte, rng.random_range(0..8)), &expected, path, &what);
            count += 1;
        }
    }
    println!("proof record_damage: {count} flipped bits in {} files", files.len());
}

#[test]
fn bitmaps_of_nulls_and_cells_of_every_width_are_covered_by_checksums() {
    let (state, expected) = filled();
    let files = files(&state);
    let path = files.keys().rfind(|path| is(path, ".arrow")).unwrap();
    let (meta, _) = decode_chunk(&files[path]).unwrap();
    let block = meta.blocks[0];
    assert!(block.nulls != 0 && meta.blocks.len() == 1, "{block:?}");
    // Steps of 64 bytes meet every buffer, since each begins at a multiple of 64.
    let (begin, end) = (block.offset as usize, (block.offset + block.bytes()) as usize);
    let step = if crate::proof_amount::percent() >= 100.0 { 64 } else { 1_024 };
    for byte in (begin..end).step_by(step) {
        let report = check(&flipped(&state, &files, path, byte, 2), &expected, path, &format!("byte {byte}"));
        assert_eq!(report.lost.len(), 1, "byte {byte}");
        assert_eq!(report.lost[0].rows, Some(500), "byte {byte}");
    }
}

#[test]
fn every_byte_of_a_chunk_with_dictionaries_and_nulls_is_covered_by_a_checksum() {
    let (state, _) = filled();
    let files = files(&state);
    let path = files.keys().rfind(|path| is(path, ".arrow")).unwrap();
    let mut file = files[path].as_ref().clone();
    let (meta, _) = decode_chunk(&file).unwrap();
    let record = ChunkRecord {
        id: meta.chunk_id,
        series_id: meta.series_id,
        footer_crc: decode_chunk(&file).unwrap().1,
        block_crcs: meta.blocks.iter().map(|block| block.crc).collect(),
        ..ChunkRecord::default()
    };
    let whole = salvage_chunk(&file, Some(&record)).unwrap();
    assert!(whole.is_intact());
    let step = if crate::proof_amount::percent() >= 100.0 { 1 } else { 13 };
    for byte in (0..file.len()).step_by(step) {
        file[byte] ^= 1 << (byte % 8);
        let error = decode_chunk(&file).err().unwrap_or_else(|| panic!("byte {byte} goes unnoticed"));
        assert_eq!(error.code(), ErrorCode::CorruptData, "byte {byte}: {error}");
        let found = salvage_chunk(&file, Some(&record)).unwrap();
        assert!(!found.is_intact(), "byte {byte}");
        let within = |offset: u64, bytes: u64| (offset..offset + bytes).contains(&(byte as u64));
        let blocks = meta.blocks.iter().filter(|block| within(block.offset, block.bytes())).count();
        let dictionaries = meta.dictionaries.iter().filter(|entry| within(entry.offset, entry.bytes())).count();
        assert_eq!((found.damaged.len(), found.damaged_dictionaries.len()), (blocks, dictionaries), "byte {byte}");
        file[byte] ^= 1 << (byte % 8);
        let is_outside = blocks + dictionaries == 0;
        assert!(!is_outside || found.repaired(&file).is_some_and(|repaired| repaired == file), "byte {byte}");
    }
}

#[test]
fn a_damaged_dictionary_of_a_chunk_is_found_and_written_again_without_loss() {
    let (state, expected) = filled();
    let files = files(&state);
    let mut dictionaries = 0;
    for path in files.keys().filter(|path| is(path, ".arrow")) {
        let (meta, _) = decode_chunk(&files[path]).unwrap();
        assert_eq!(meta.dictionaries.len(), 3, "an enum and two columns of texts");
        for entry in &meta.dictionaries {
            let (begin, bytes) = (entry.offset as usize, entry.bytes() as usize);
            // Its header, its offsets and its texts.
            for byte in [begin + 9, begin + entry.header_bytes as usize, begin + bytes / 2, begin + bytes - 1] {
                let what = format!("{} byte {byte}", path.display());
                let report = check(&flipped(&state, &files, path, byte, 3), &expected, path, &what);
                assert!(!report.clean && !report.has_lost() && report.lost.is_empty(), "{what}: {report:?}");
                assert!(
                    report.actions.iter().any(|action| action.reason.contains("a dictionary")),
                    "{what}: {report:?}"
                );
                dictionaries += 1;
            }
        }
    }
    assert_eq!(dictionaries, 24);
}

/// The manifest has the texts of runs and chunks; without it, they come from these files.
#[test]
fn texts_survive_the_loss_of_the_manifest_and_of_a_dictionary() {
    let (mut state, expected) = filled();
    for path in files(&state).into_keys().filter(|path| is(path, "/manifest/")) {
        state.remove_file(&path).unwrap();
    }
    let disk = SimDisk::new(state, 9);
    let report = repair(&disk.path(ROOT), RepairOptions { apply: true, rebuild_manifest: false }).unwrap();
    assert!(report.applied && report.lost.is_empty() && report.lost_lsns.is_empty(), "{report:?}");
    let store = Store::open_on(&disk.path(ROOT), false, small()).unwrap();
    assert!(read(&store).unwrap() == expected);
}
