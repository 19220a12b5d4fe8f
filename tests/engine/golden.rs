//! Golden files: `tests/golden/v2/` has one file of every kind as written by version 2.
//!
//! They are never edited. A difference means that the format changed, which needs a new version. Before a release,
//! and only then, `FASTK_BLESS=1 cargo nextest run --no-default-features --test engine golden` rewrites them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arrow::array::{Array, Decimal64Array, Float64Array, Int64Array};
use arrow::ipc::reader::FileReader;
use fastk::format::backup::{Backup, BackupDamage, BackupFile, CopyMethod, decode_backup, encode_backup};
use fastk::format::chunk::{self, ChunkHead, ChunkSummary, ChunkWriter, SliceNumber};
use fastk::format::coverage::Coverage;
use fastk::format::current::{Current, decode_current, encode_current};
use fastk::format::manifest::{self, Edit};
use fastk::format::order_key::{NativeType, append_keys};
use fastk::format::receipt::{Receipt, SeriesReceipt, decode_receipts, encode_receipts};
use fastk::format::run::{RunOrigin, RunWriter, decode_run};
use fastk::format::tombstone::{
    DropFile, RegistrationFile, TombstoneFile, decode_drop, decode_registration, decode_tombstone, encode_drop,
    encode_registration, encode_tombstone,
};
use fastk::format::value_index::{ValueIndex, write_pages};
use fastk::format::wal::{self, Commit, FrameHeader, FrameKind, LoggedChange, SegmentHeader};
use fastk::format::zone_map::ZoneMap;
use fastk::store::{Store, StoreOptions, WriteMode};
use fastk::types::schema::{ColumnSpec, MergeRule, Retention, ValueIndexSpec};
use fastk::types::{ColumnCells, Grid, Rows, SeriesDef, SeriesKey, SeriesSpec, TimeUnit};

use crate::known_defects::shown;

/// The message for a difference.
pub(crate) const CHANGED: &str = "the bytes of version 2 are frozen: a difference means that the format changed and needs a new \
                       version. tests/golden/README.md says more";

pub(crate) fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v2")
}

fn is_blessed() -> bool {
    std::env::var_os("FASTK_BLESS").is_some_and(|value| value == "1")
}

/// The committed file.
pub(crate) fn golden(name: &str) -> Vec<u8> {
    std::fs::read(dir().join(name)).unwrap_or_else(|error| panic!("tests/golden/v2/{name}: {error}"))
}

/// Compares a file with the committed one, or writes it.
pub(crate) fn compare(name: &str, made: &[u8]) {
    let path = dir().join(name);
    if is_blessed() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, made).unwrap();
        return;
    }
    let expected = golden(name);
    let same = expected.iter().zip(made).take_while(|(expected, made)| expected == made).count();
    assert!(
        expected == made,
        "tests/golden/v2/{name} has {} bytes, the program writes {}, and byte {same} differs: {CHANGED}",
        expected.len(),
        made.len()
    );
}

const MINUTE: i64 = 60_000;
/// 2024-02-01T00:00:00Z in milliseconds.
const START: i64 = 1_706_745_600_000;

fn bits(value: f64) -> i64 {
    value.to_bits().cast_signed()
}

fn decimal_def() -> SeriesDef {
    let mut spec = SeriesSpec::of_key(&SeriesKey::kline("BTCUSDT", "1m").unwrap());
    (spec.price_digits, spec.volume_digits) = (Some(2), Some(8));
    spec.calendar = Some(serde_json::json!("weekdays"));
    spec.retention = Some(Retention { max_age: Some("365d".into()), max_rows: Some(1_000_000) });
    spec.value_index = Some(ValueIndexSpec::Columns(vec!["close".into()]));
    spec.description = Some("one-minute bars, „Spot“".into());
    spec.resolve().unwrap()
}

fn float_def() -> SeriesDef {
    SeriesSpec::of_key(&SeriesKey::kline("EURUSD", "1d").unwrap()).resolve().unwrap()
}

fn scalar_def() -> SeriesDef {
    let mut spec = SeriesSpec::of_key(&SeriesKey::scalar("funding", "BTCUSDT", "8h", "rate").unwrap());
    spec.unit = Some(TimeUnit::Us);
    let value = |digits| ColumnSpec { name: None, kind: None, digits, merge: Some(MergeRule::Last) };
    spec.value = Some(value(Some(6)));
    spec.resolve().unwrap()
}

fn extra_def() -> SeriesDef {
    let mut spec = SeriesSpec::of_key(&SeriesKey::kline("ES", "1M").unwrap());
    spec.price_digits = Some(2);
    spec.extra_columns = ["trades", "buys"]
        .map(|name| ColumnSpec {
            name: Some(name.into()),
            kind: Some("int64".into()),
            digits: None,
            merge: Some(MergeRule::Sum),
        })
        .to_vec();
    spec.unit = Some(TimeUnit::Ns);
    spec.resolve().unwrap()
}

/// The chunks: name, registration, and rows in blocks.
fn chunks() -> Vec<(&'static str, SeriesDef, Vec<Rows>)> {
    let minutes = |first: i64, count: i64| {
        // Every ninth minute is missing, and one row is off the grid.
        let ts: Vec<i64> = (first..first + count)
            .filter(|minute| minute % 9 != 8)
            .map(|minute| START + minute * MINUTE + i64::from(minute == 7))
            .collect();
        let cell = |column: i64| ts.iter().map(|ts| (ts / MINUTE % 1_000) * 100 - 50_000 + column).collect();
        {
            let columns = (0..5).map(cell).collect();
            Rows::of_words(ts, columns)
        }
    };
    let days: Vec<i64> = (-3..4).map(|day| day * 86_400_000).collect();
    let doubles = [0.1, -2.5, 1e-300, -0.0, f64::MAX, f64::MIN_POSITIVE, 1.0 / 3.0].map(bits).to_vec();
    let hours: Vec<i64> = (0..3).map(|hour| (START + hour * 8 * 3_600_000) * 1_000).collect();
    let months: Vec<i64> =
        [0, 31, 60].iter().map(|day| (START - 31 * 86_400_000 + day * 86_400_000) * 1_000_000).collect();
    let eight = |words: [i64; 3], count| vec![words.to_vec(); count];
    let mut extra = eight([-1, 0, 999_999_999_999_999_999], 4);
    extra.push([1.5, 2.5, 3.5].map(bits).to_vec());
    extra.extend([vec![1, 2, 3], vec![i64::MIN, 0, i64::MAX]]);
    vec![
        ("kline-decimal", decimal_def(), vec![minutes(0, 1_152), minutes(1_152, 30)]),
        ("kline-float64", float_def(), vec![Rows::of_words(days, vec![doubles; 5])]),
        ("scalar-us", scalar_def(), vec![Rows::of_words(hours, vec![vec![-100, 0, 123_456]])]),
        ("extra-int64", extra_def(), vec![Rows::of_words(months, extra)]),
    ]
}

fn write_chunk(def: &SeriesDef, blocks: &[Rows], number: u64) -> (Vec<u8>, ChunkSummary) {
    let ts = blocks[0].ts[0];
    let head = ChunkHead {
        series_id: 10 + number,
        chunk_id: 20 + number,
        partition: def.partition.span_of(ts, def.unit).name,
        series: def,
        commit_lo: 5,
        commit_hi: 7 + number,
        replaces: (0..number).collect(),
        slice: SliceNumber::ONLY,
        dictionaries: &[],
    };
    let mut writer = ChunkWriter::new(Vec::new(), head).unwrap();
    for rows in blocks {
        writer.write_block(&rows.slices()).unwrap();
    }
    writer.finish().unwrap()
}

fn zone_map(def: &SeriesDef, blocks: &[Rows], summary: &ChunkSummary) -> ZoneMap {
    let mut map = ZoneMap::new(summary.meta.chunk_id, def.columns.len() + 1);
    map.footer_crc = summary.footer_crc;
    for rows in blocks {
        map.add_block(&rows.slices(), &NativeType::of_series(def));
    }
    map
}

fn coverage(def: &SeriesDef, blocks: &[Rows], summary: &ChunkSummary) -> Coverage {
    let grid = match def.unit {
        TimeUnit::Ns => Grid::Months { length: 1, phase: 0, unit: TimeUnit::Ns },
        _ => Grid::Fixed {
            length: def.interval_ms.unwrap() * if def.unit == TimeUnit::Us { 1_000 } else { 1 },
            phase: 0,
        },
    };
    let mut coverage = Coverage::new(summary.meta.chunk_id, grid);
    coverage.footer_crc = summary.footer_crc;
    blocks.iter().for_each(|rows| coverage.add(&rows.ts));
    coverage.optimize();
    coverage
}

/// A value index of `close` and of the first column.
fn value_index(def: &SeriesDef, blocks: &[Rows], summary: &ChunkSummary) -> (ValueIndex, Vec<u8>) {
    let rows = u32::try_from(summary.meta.rows).unwrap();
    let mut offset = ValueIndex::directory_bytes([rows; 2]) as u64;
    let (chunk_id, footer_crc) = (summary.meta.chunk_id, summary.footer_crc);
    let mut index = ValueIndex { chunk_id, footer_crc, rows, columns: Vec::new() };
    let mut pages = Vec::new();
    for position in [1, def.column("close").unwrap() + 1] {
        let mut entries: Vec<(i64, u32)> = Vec::new();
        for rows in blocks {
            let (cells, first_row) = (rows.columns[position - 1].as_slice(), entries.len() as u32);
            append_keys(cells, NativeType::of(def.columns[position - 1].kind), first_row, &mut entries);
        }
        entries.sort_unstable();
        let put = |bytes: &[u8]| -> fastk::Result<()> {
            pages.extend_from_slice(bytes);
            Ok(())
        };
        let (column, end) = write_pages(&entries, position, offset, put).unwrap();
        offset = end;
        index.columns.push(column);
    }
    let mut file = index.encode();
    file.extend_from_slice(&pages);
    (index, file)
}

#[test]
fn chunks_of_version_2_and_their_sidecars_are_read_and_written_as_they_were() {
    for (number, (name, def, blocks)) in chunks().into_iter().enumerate() {
        let (file, summary) = write_chunk(&def, &blocks, number as u64);
        compare(&format!("{name}.arrow"), &file);
        let file = golden(&format!("{name}.arrow"));
        let (meta, footer_crc) = chunk::decode_chunk(&file).unwrap();
        assert_eq!((&meta, footer_crc), (&summary.meta, summary.footer_crc), "{name}");
        assert_eq!(
            (meta.series_id, meta.chunk_id, meta.commit_hi),
            (10 + number as u64, 20 + number as u64, 7 + number as u64)
        );
        assert_eq!((&meta.series, meta.rows as usize), (&def, blocks.iter().map(Rows::len).sum()), "{name}");
        // As read by another program.
        let batches = FileReader::try_new(std::io::Cursor::new(&file), None).unwrap();
        for (batch, rows) in batches.map(Result::unwrap).zip(&blocks) {
            let words = |column: &dyn Array| -> Vec<i64> {
                let any = column.as_any();
                let doubles = |array: &Float64Array| array.values().iter().copied().map(bits).collect();
                any.downcast_ref::<Float64Array>().map(doubles).unwrap_or_else(|| {
                    let decimals = any.downcast_ref::<Decimal64Array>().map(|array| array.values().to_vec());
                    decimals.or_else(|| Some(any.downcast_ref::<Int64Array>()?.values().to_vec())).unwrap()
                })
            };
            let found: Vec<ColumnCells> = batch.columns().iter().skip(1).map(|column| words(column).into()).collect();
            assert_eq!(found, rows.columns, "{name}");
        }

        let zones = zone_map(&def, &blocks, &summary);
        compare(&format!("{name}.zmap"), &zones.encode());
        assert_eq!(ZoneMap::decode(&golden(&format!("{name}.zmap"))).unwrap(), zones, "{name}");
        let covered = coverage(&def, &blocks, &summary);
        compare(&format!("{name}.cov"), &covered.encode());
        assert_eq!(Coverage::decode(&golden(&format!("{name}.cov")), def.unit).unwrap(), covered, "{name}");
        if def.column("close").is_some() {
            let (index, file) = value_index(&def, &blocks, &summary);
            compare(&format!("{name}.vix"), &file);
            assert_eq!(ValueIndex::check(&golden(&format!("{name}.vix"))).unwrap(), index, "{name}");
        }
    }
}

fn written(series_id: u64) -> SeriesReceipt {
    SeriesReceipt {
        series_id,
        rows_written: 3,
        rows_replaced: 1,
        rows_duplicate: 2,
        rows_skipped: 4,
        version: 5,
        commit: 6,
        first_ts: Some(-START),
        last_ts: Some(START),
        durable: true,
    }
}

fn receipt(number: u64) -> Receipt {
    let empty = SeriesReceipt { first_ts: None, last_ts: None, durable: false, ..written(number + 1) };
    Receipt {
        key: u128::from(number) << 64 | 7,
        fingerprint: u128::MAX - u128::from(number),
        wall_ms: START + number as i64,
        written: if number == 0 { vec![written(1), empty] } else { Vec::new() },
    }
}

/// One commit with every operation.
fn commits() -> Vec<Commit> {
    let rows = Rows::of_words(vec![-1, START], vec![vec![10, -20], vec![bits(0.5), i64::MAX]]);
    let def = serde_json::to_string(&decimal_def()).unwrap();
    vec![
        Commit { receipt: None, wall_ms: START, operations: vec![LoggedChange::Register { series_id: 1, def }] },
        Commit {
            receipt: Some(receipt(0)),
            wall_ms: START + 1,
            operations: vec![LoggedChange::Write { series_id: 1, replaced: 1, rows, texts: Vec::new() }],
        },
        Commit {
            receipt: None,
            wall_ms: -1,
            operations: vec![
                LoggedChange::Delete { series_id: 1, start: i64::MIN, end: -1, deleted: 1, left: Some((START, START)) },
                LoggedChange::Delete { series_id: 2, start: 0, end: i64::MAX, deleted: 2, left: None },
                LoggedChange::Drop { series_id: 2 },
                LoggedChange::CreateSnapshot { name: "monday".into() },
                LoggedChange::DropSnapshot { name: "monday".into() },
            ],
        },
    ]
}

#[test]
fn a_log_segment_of_version_2_is_read_and_written_as_it_was() {
    const BYTES: usize = 4_096;
    let header = SegmentHeader { number: 3, epoch: 0x0123_4567_89AB_CDEF, first_lsn: 41, segment_bytes: BYTES as u64 };
    let mut frames: Vec<(FrameHeader, Vec<u8>)> = Vec::new();
    for (at, commit) in (0_u64..).zip(commits()) {
        let payload = wal::encode_commit(&commit);
        let header = FrameHeader {
            kind: FrameKind::Commit,
            lsn: 41 + at,
            epoch: header.epoch,
            durable_lsn: 40 + at,
            commit: 9 + at,
            payload_bytes: payload.len(),
        };
        frames.push((header, payload));
    }
    let last = frames.last().unwrap().0;
    let marker = FrameHeader { kind: FrameKind::Marker, lsn: 44, durable_lsn: 43, commit: 0, payload_bytes: 0, ..last };
    frames.push((marker, Vec::new()));
    let mut file = wal::encode_segment_header(&header).to_vec();
    for (header, payload) in &frames {
        wal::put_frame(&mut file, header, payload);
    }
    assert!(file.len() < BYTES);
    file.resize(BYTES, 0);
    compare("segment.wal", &file);

    let file = golden("segment.wal");
    assert_eq!(wal::decode_segment_header(&file).unwrap(), header);
    let mut offset = wal::SEGMENT_HEADER_BYTES;
    let mut found = Vec::new();
    for (header, payload) in &frames {
        assert_eq!(wal::frame_at(&file, offset, header.epoch), wal::FrameRead::Frame(*header, payload));
        offset += wal::frame_bytes(payload.len());
        if header.kind == FrameKind::Commit {
            found.push(wal::decode_commit(payload).unwrap());
        }
    }
    assert_eq!(found, commits());
    assert_eq!(wal::frame_at(&file, offset, header.epoch), wal::FrameRead::Empty);
}

/// An edit with every field set.
fn edit() -> Edit {
    use manifest::{
        ChunkRecord, KindRecord, ReceiptsRecord, RunRecord, SeriesRecord, SnapshotRecord, TextsRecord, TombstoneRecord,
        ViewRecord,
    };
    let def = serde_json::to_string(&decimal_def()).unwrap();
    let chunk = |id| ChunkRecord {
        id,
        series_id: 1,
        partition: "2024-02".into(),
        rows: 100,
        ts_min: -START,
        ts_max: START,
        commit_lo: 2,
        commit_hi: 3,
        file_bytes: 4_096,
        file_crc: 0xDEAD_BEEF,
        footer_crc: 0x0BAD_CAFE,
        block_crcs: vec![1, 0xFFFF_FFFF],
        texts: 9,
    };
    let view = ViewRecord {
        commit: 4,
        last_commit: 3,
        def: def.clone(),
        version: 2,
        rows: 90,
        first_ts: Some(-START),
        last_ts: Some(0),
    };
    let series = SeriesRecord {
        id: 1,
        def,
        version: 7,
        rows: 100,
        first_ts: Some(-START),
        last_ts: Some(START),
        sealed_commit: 5,
        last_write_ms: START,
        created_commit: 1,
        last_commit: 6,
        dropped_commit: 8,
        views: vec![view],
    };
    let tombstone = |commit| TombstoneRecord { series_id: 1, commit, start: i64::MIN, end: i64::MAX };
    Edit {
        number: 12,
        series: vec![series, SeriesRecord { id: 2, ..SeriesRecord::default() }],
        series_dropped: vec![3, 4],
        chunks: vec![chunk(5), chunk(6)],
        chunks_removed: vec![7],
        tombstones: vec![tombstone(8)],
        tombstones_removed: vec![tombstone(9)],
        runs: vec![RunRecord { id: 10, bytes: 1_000, crc: 0x1234_5678, level: 2, base_commit: 11 }],
        base_commit: 12,
        wal_first_segment: 13,
        wal_first_lsn: 14,
        next_series_id: 15,
        next_file_id: 16,
        epoch: "0123456789abcdef".into(),
        runs_removed: vec![17],
        snapshots: vec![SnapshotRecord { name: "monday".into(), commit: 18, created_ms: START }],
        snapshots_removed: vec!["sunday".into()],
        receipts: vec![ReceiptsRecord { id: 19, bytes: 2_000, newest_ms: START }],
        receipts_removed: vec![20],
        chunks_unlinked: vec![21],
        chunks_waiting: vec![chunk(22)],
        texts: vec![TextsRecord { series_id: 1, texts: vec![0, 0, 0, 0], total: 3 }],
        kinds: vec![KindRecord { name: "greeks".into(), commit: 23, def: "{}".into() }],
        kinds_removed: vec!["chains".into()],
    }
}

#[test]
fn manifest_files_of_version_2_are_read_and_written_as_they_were() {
    compare("every-field.edit", &manifest::encode_edit(&edit()));
    assert_eq!(manifest::decode_edit(&golden("every-field.edit")).unwrap(), (edit(), None));
    compare("every-field.checkpoint", &manifest::encode_checkpoint(&edit()));
    assert_eq!(manifest::decode_checkpoint(&golden("every-field.checkpoint")).unwrap(), edit());
    let current = Current { edit: 12, wal_segment: 13 };
    compare("CURRENT", &encode_current(&current));
    assert_eq!(decode_current(&golden("CURRENT")).unwrap(), current);
}

#[test]
fn run_and_receipt_files_of_version_2_are_read_and_written_as_they_were() {
    let origin = RunOrigin { level: 2, base_commit: 30 };
    let mut writer = RunWriter::new(Vec::new(), origin).unwrap();
    let mut expected = Vec::new();
    for ((_, def, blocks), series_id) in chunks().into_iter().zip(1..) {
        let rows = blocks.last().unwrap();
        for commit_lo in [series_id, series_id + 1] {
            writer.add(series_id, &def, &[], (commit_lo, series_id + 3), &rows.slices()).unwrap();
            expected.push((
                series_id,
                commit_lo,
                rows.slices().iter().flat_map(|column| column.words()).copied().collect::<Vec<_>>(),
            ));
        }
    }
    let (file, _, crc) = writer.finish().unwrap();
    compare("tails.run", &file);
    let file = golden("tails.run");
    let decoded = decode_run(&file).unwrap();
    assert_eq!((decoded.origin, decoded.crc), (origin, crc));
    for (run, (series_id, commit_lo, words)) in decoded.runs.iter().zip(&expected) {
        assert_eq!((run.series_id, run.commit_lo), (*series_id, *commit_lo));
        let column = |column: u64| {
            let at = (run.offset + column * (run.rows * 8).next_multiple_of(64)) as usize;
            file[at..at + run.rows as usize * 8].to_vec()
        };
        let cells: Vec<u8> = (0..u64::from(run.columns)).flat_map(column).collect();
        assert_eq!(cells, words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>());
    }

    let receipts: Vec<Receipt> = (0..1_026).map(receipt).collect();
    compare("two-pages.receipts", &encode_receipts(receipts.iter()));
    assert_eq!(decode_receipts(&golden("two-pages.receipts")).unwrap(), receipts);
}

#[test]
fn tombstones_drop_markers_and_registrations_of_version_2_are_read_and_written_as_they_were() {
    let key = decimal_def().key;
    let tombstone = TombstoneFile { series_id: 1, key: key.clone(), commit: 2, start: -START, end: START };
    compare("one.tombstone", &encode_tombstone(&tombstone).unwrap());
    assert_eq!(decode_tombstone(&golden("one.tombstone")).unwrap(), tombstone);
    let drop = DropFile { series_id: 1, key, commit: 2 };
    compare("dropped", &encode_drop(&drop).unwrap());
    assert_eq!(decode_drop(&golden("dropped")).unwrap(), drop);
    let registration = RegistrationFile { series_id: 1, commit: 2, series: decimal_def() };
    compare("one.registration", &encode_registration(&registration).unwrap());
    assert_eq!(decode_registration(&golden("one.registration")).unwrap(), registration);
}

#[test]
fn a_listing_of_a_backup_of_version_2_is_read_and_written_as_it_was() {
    let file =
        |path: &str, how, shared| BackupFile { path: path.into(), bytes: 4_096, crc32c: 0x0BAD_CAFE, how, shared };
    let backup = Backup {
        version: 1,
        format: 1,
        created_ms: START,
        epoch: "0123456789abcdef".into(),
        commit: 9,
        manifest: 12,
        series: 2,
        rows: 1_000,
        chunks: 1,
        snapshots: vec!["monday".into()],
        damaged: vec![BackupDamage { path: "runs/00000000000000000002.run".into(), reason: "it is cut".into() }],
        files: vec![
            file("FORMAT", CopyMethod::Kept, false),
            file("chunks/0000000001/all-0000000000000003.arrow", CopyMethod::Linked, true),
            file("runs/00000000000000000002.run", CopyMethod::Copied, false),
            file("manifest/00000000000000000012.checkpoint", CopyMethod::Written, false),
        ],
    };
    compare("backup.json", &encode_backup(&backup).unwrap());
    assert_eq!(decode_backup(&golden("backup.json")).unwrap(), backup);
}

fn store_options() -> StoreOptions {
    StoreOptions { wal_segment_bytes: 8_192, background_maintenance: false, ..StoreOptions::default() }
}

fn bars(first: i64, count: i64, base: i64) -> Rows {
    let ts: Vec<i64> = (first..first + count).map(|minute| START + minute * MINUTE).collect();
    let columns = (0..5).map(|column| ts.iter().map(|ts| base + ts / MINUTE % 1_000 + column).collect()).collect();
    Rows::of_words(ts, columns)
}

/// Creates every kind of file: sealed, checkpointed and only logged data.
fn fill(root: &Path) {
    let store = Store::open(root, true, store_options()).unwrap();
    let (bars_of, rates, removed, empty) = (decimal_def(), scalar_def(), float_def(), extra_def());
    for def in [&bars_of, &rates, &removed, &empty] {
        store.register(def.clone()).unwrap();
    }
    let write = |key: &SeriesKey, rows| store.write(key, rows, WriteMode::Upsert, None).unwrap();
    // Two partitions: 2024-02-29 and 2024-03-01.
    write(&bars_of.key, bars(0, 20, 100));
    write(&bars_of.key, bars(29 * 1_440, 20, 200));
    write(&removed.key, Rows::of_words(vec![0], vec![vec![bits(1.0)]; 5]));
    store.seal(&[]).unwrap();
    store.create_snapshot("sealed").unwrap();
    store.delete_range(&bars_of.key, (START + 5 * MINUTE, START + 9 * MINUTE), None).unwrap();
    write(&rates.key, Rows::of_words(vec![START * 1_000, (START + 1) * 1_000], vec![vec![-5, 6]]));
    let once = fastk::SeriesWrite::new(bars_of.key.clone(), bars(20, 5, 300), WriteMode::Upsert);
    store.write_many(vec![once], Some("once")).unwrap();
    store.checkpoint().unwrap();
    store.drop_series(&removed.key, None).unwrap();
    write(&bars_of.key, bars(22, 6, 400));
    store.create_snapshot("logged").unwrap();
    store.delete_range(&bars_of.key, (START, START), None).unwrap();
    write(&rates.key, Rows::of_words(vec![0], vec![vec![7]]));
}

/// Rows of each series, `ts` first.
type Shown = BTreeMap<String, Vec<Vec<i64>>>;

/// Rows that `fill` stores, and those of the snapshots.
fn filled() -> [(Option<&'static str>, Shown); 3] {
    let (bars_of, rates, removed) = (decimal_def().key, scalar_def().key, float_def().key);
    let empty = (extra_def().key.to_string(), Vec::new());
    let list = |parts: &[Rows]| -> Vec<Vec<i64>> {
        let mut rows = BTreeMap::new();
        for part in parts {
            for (row, ts) in part.ts.iter().enumerate() {
                rows.insert(*ts, [&[*ts], &*part.columns.iter().map(|c| c.words()[row]).collect::<Vec<_>>()].concat());
            }
        }
        rows.into_values().collect()
    };
    let without = |mut rows: Vec<Vec<i64>>, from: i64, to: i64| -> Vec<Vec<i64>> {
        rows.retain(|row| !(START + from * MINUTE..=START + to * MINUTE).contains(&row[0]));
        rows
    };
    let old = [bars(0, 20, 100), bars(29 * 1_440, 20, 200)];
    let all = [&old[..], &[bars(20, 5, 300), bars(22, 6, 400)]].concat();
    let rate = |first: &[(i64, i64)]| first.iter().map(|(ts, value)| vec![*ts, *value]).collect::<Vec<_>>();
    let two = [(START * 1_000, -5), ((START + 1) * 1_000, 6)];
    let sealed = BTreeMap::from([
        empty.clone(),
        (bars_of.to_string(), list(&old)),
        (rates.to_string(), Vec::new()),
        (removed.to_string(), vec![[&[0][..], &[bits(1.0); 5]].concat()]),
    ]);
    let logged = BTreeMap::from([
        empty.clone(),
        (bars_of.to_string(), without(list(&all), 5, 9)),
        (rates.to_string(), rate(&two)),
    ]);
    let now = BTreeMap::from([
        empty,
        (bars_of.to_string(), without(without(list(&all), 5, 9), 0, 0)),
        (rates.to_string(), rate(&[&[(0, 7)], &two[..]].concat())),
    ]);
    [(None, now), (Some("sealed"), sealed), (Some("logged"), logged)]
}

/// Every file below `root` but the lock, by its path.
pub(crate) fn tree(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = crate::guarantees::files(root, ".", "").into_iter();
    files
        .map(|path| {
            (path.strip_prefix(root.join(".")).unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap())
        })
        .filter(|(name, _)| name != "LOCK" && !name.starts_with("tmp/"))
        .collect()
}

/// A copy of the committed store.
pub(crate) fn copy_of_store() -> tempfile::TempDir {
    copy(&dir().join("store"))
}

pub(crate) fn copy(store: &Path) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    replace_tree(store, root.path());
    root
}

/// The committed store of this name, or what `fill` writes.
pub(crate) fn committed_store(name: &str, fill: fn(&Path)) -> PathBuf {
    let committed = dir().join(name);
    if is_blessed() {
        let root = tempfile::tempdir().unwrap();
        fill(root.path());
        replace_tree(root.path(), &committed);
    }
    committed
}

/// Makes `to` have the files of `from`, and no others.
fn replace_tree(from: &Path, to: &Path) {
    if to.exists() {
        std::fs::remove_dir_all(to).unwrap();
    }
    for (name, bytes) in tree(from) {
        let path = to.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

#[test]
fn a_store_of_version_2_opens_and_returns_the_written_rows() {
    let committed = committed_store("store", fill);
    let names: Vec<String> = tree(&committed).into_keys().collect();
    let kinds = [
        ".arrow",
        ".zmap",
        ".cov",
        ".vix",
        ".tombstone",
        ".registration",
        ".run",
        ".receipts",
        ".edit",
        "CURRENT",
        ".wal",
        "FORMAT",
    ];
    for kind in kinds {
        assert!(names.iter().any(|name| name.ends_with(kind)), "no {kind} in {names:?}");
    }
    let root = copy_of_store();
    for round in 0..2 {
        let store = Store::open(root.path(), false, store_options()).unwrap();
        assert!(store.recovery().damage.is_empty() && store.recovery().torn.is_empty(), "{:?}", store.recovery());
        for (snapshot, expected) in filled() {
            let state = snapshot.map_or_else(|| Ok(store.snapshot()), |name| store.as_of(name)).unwrap();
            assert_eq!(shown(&store, &state), expected, "round {round}, {snapshot:?}: {CHANGED}");
        }
        // Rebuilt files give the same results.
        store.checkpoint().unwrap();
        store.seal(&[]).unwrap();
    }
    // A new store has the same kinds of files, and the same format file.
    let root = tempfile::tempdir().unwrap();
    fill(root.path());
    // The number of edits is not part of the format.
    let named = |names: Vec<String>| -> std::collections::BTreeSet<String> {
        let name = |name: String| if name.ends_with(".edit") { "manifest/*.edit".to_owned() } else { name };
        names.into_iter().map(name).collect()
    };
    let (made, names) = (named(tree(root.path()).into_keys().collect()), named(names));
    let (made_format, format) = (std::fs::read(root.path().join("FORMAT")).unwrap(), golden("store/FORMAT"));
    assert_eq!((made, made_format), (names, format), "{CHANGED}");
}

#[test]
fn the_golden_files_are_few_and_small() {
    let files = tree(&dir());
    let bytes: usize = files.values().map(Vec::len).sum();
    assert!(bytes < 400_000, "{bytes} bytes");
    for (name, bytes) in &files {
        let report = fastk::format::inspect::inspect(bytes);
        let is_text = name.ends_with("FORMAT") || name.ends_with(".json");
        assert!(is_text || report.is_ok_and(|report| report["intact"] == true), "{name}");
    }
}
