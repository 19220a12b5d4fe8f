//! `docs/format.md` matches the code: every table is compared with encoded bytes.

use fastk::format::chunk::{self, BlockMeta, ChunkMeta, DictionaryMeta};
use fastk::format::order_key::NativeType;
use fastk::format::receipt::{Receipt, SeriesReceipt};
use fastk::format::{coverage, current, envelope, ipc, manifest, receipt, run, value_index, wal, zone_map};
use fastk::types::{CellSlice, ColumnCells, Rows, SeriesKey, SeriesSpec};
use prost::Message;

/// Rows of the table whose header contains `title`, cells trimmed of blanks and backquotes.
fn table(title: &str) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/format.md")).unwrap();
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
    };
    let mut lines = text.lines().skip_while(|line| !(line.starts_with('|') && line.replace('`', "").contains(title)));
    assert!(lines.next().is_some(), "docs/format.md has no table {title:?}");
    lines.skip(1).take_while(|line| line.starts_with('|')).map(cells).collect()
}

/// Checks a table of offset, bytes and field against encoded bytes; the fields must be contiguous.
fn check_layout(title: &str, bytes: &[u8], expected: &[(&str, Vec<u8>)]) {
    let rows = table(title);
    assert_eq!(rows.len(), expected.len(), "{title}");
    let mut end = 0;
    for (row, (field, value)) in rows.iter().zip(expected) {
        let (offset, length): (usize, usize) = (row[0].parse().unwrap(), row[1].parse().unwrap());
        assert!(row[2].starts_with(field), "{title}: {} is not {field}", row[2]);
        assert_eq!((offset, length), (end, value.len()), "{title}: {field}");
        assert_eq!(&bytes[offset..offset + length], value, "{title}: {field}");
        end = offset + length;
    }
}

fn le(value: u64) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}

fn le4(value: u32) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}

#[test]
fn the_log_is_laid_out_as_documented() {
    let header = wal::SegmentHeader { number: 11, epoch: 12, first_lsn: 13, segment_bytes: 14 };
    let segment = wal::encode_segment_header(&header);
    assert_eq!(segment.len(), 64);
    check_layout(
        "field of a segment header",
        &segment,
        &[
            ("magic", b"FASTKWAL".to_vec()),
            ("version", le4(2)),
            ("zero", le4(0)),
            ("number", le(11)),
            ("epoch", le(12)),
            ("LSN", le(13)),
            ("bytes", le(14)),
            ("checksum", le4(crc32c::crc32c(&segment[..48]))),
        ],
    );
    let header = wal::FrameHeader {
        kind: wal::FrameKind::Commit,
        lsn: 21,
        epoch: 22,
        durable_lsn: 23,
        commit: 24,
        payload_bytes: 3,
    };
    let mut frame = Vec::new();
    wal::put_frame(&mut frame, &header, b"abc");
    assert_eq!(&frame[wal::FRAME_HEADER_BYTES..wal::FRAME_HEADER_BYTES + 3], b"abc");
    check_layout(
        "field of a frame",
        &frame,
        &[
            ("magic", b"FKWF".to_vec()),
            ("checksum", le4(crc32c::crc32c(&frame[8..wal::FRAME_HEADER_BYTES + 3]))),
            ("kind", le4(1)),
            ("zero", le4(0)),
            ("LSN", le(21)),
            ("epoch", le(22)),
            ("durable LSN", le(23)),
            ("commit", le(24)),
            ("bytes", le(3)),
        ],
    );
    let rows = Rows::of_words(vec![1], vec![vec![2]]);
    let operations = [
        ("write", wal::LoggedChange::Write { series_id: 5, replaced: 0, rows, texts: Vec::new() }),
        ("delete", wal::LoggedChange::Delete { series_id: 5, start: 0, end: 1, deleted: 0, left: None }),
        ("register or change", wal::LoggedChange::Register { series_id: 5, def: "{}".into() }),
        ("drop", wal::LoggedChange::Drop { series_id: 5 }),
        ("create snapshot", wal::LoggedChange::CreateSnapshot { name: "x".into() }),
        ("drop snapshot", wal::LoggedChange::DropSnapshot { name: "x".into() }),
        ("register kind", wal::LoggedChange::RegisterKind { def: "x".into() }),
        ("drop kind", wal::LoggedChange::DropKind { name: "x".into() }),
    ];
    assert_eq!(table("what follows").len(), operations.len());
    for (row, (name, operation)) in table("what follows").iter().zip(operations) {
        let named = matches!(
            operation,
            wal::LoggedChange::CreateSnapshot { .. }
                | wal::LoggedChange::DropSnapshot { .. }
                | wal::LoggedChange::RegisterKind { .. }
                | wal::LoggedChange::DropKind { .. }
        );
        let payload = wal::encode_commit(&wal::Commit { operations: vec![operation], ..wal::Commit::default() });
        assert_eq!((row[0].as_str(), row[1].as_str()), (payload[16].to_string().as_str(), name));
        if named {
            assert_eq!(payload[17..], [&1_u32.to_le_bytes()[..], b"x"].concat());
        } else {
            assert_eq!(payload[17..25], 5_u64.to_le_bytes());
        }
    }
}

#[test]
fn runs_are_laid_out_as_documented() {
    let def = SeriesSpec::of_key(&SeriesKey::kline("X", "1m").unwrap()).resolve().unwrap();
    let json = serde_json::to_vec(&def).unwrap();
    let mut writer = run::RunWriter::new(Vec::new(), run::RunOrigin { level: 8, base_commit: 9 }).unwrap();
    writer.add(1, &def, &[], (2, 3), &[&[11, 12], &[13, 14]].map(|words| CellSlice::of_words(words))).unwrap();
    writer.add(1, &def, &[], (4, 5), &[&[15], &[16]].map(|words| CellSlice::of_words(words))).unwrap();
    let (file, _, crc) = writer.finish().unwrap();
    check_layout(
        "field of a run file",
        &file,
        &[
            ("magic", b"FASTKRUN".to_vec()),
            ("version", le4(2)),
            ("level", le4(8)),
            ("commit", le(9)),
            ("checksum", le4(crc32c::crc32c(&file[..24]))),
            ("zeros", vec![0; 36]),
        ],
    );
    let columns_at = 64 + (run::RUN_HEADER_BYTES + json.len()).next_multiple_of(64);
    let header = &file[64..columns_at];
    let run_bytes = &file[columns_at..columns_at + 128];
    check_layout(
        "field of a run header",
        header,
        &[
            ("magic", b"FKRN".to_vec()),
            ("checksum", le4(crc32c::crc32c(&header[8..]))),
            ("bytes", le4(json.len() as u32)),
            ("number of columns", le4(2)),
            ("series id", le(1)),
            ("lowest commit", le(2)),
            ("highest commit", le(3)),
            ("first timestamp", le(11)),
            ("last timestamp", le(12)),
            ("rows", le4(2)),
            ("checksum", le4(crc32c::crc32c(run_bytes))),
            ("a bit per column", le(0)),
            ("bytes of the columns", le(128)),
            ("version", le4(0)),
            ("bytes of the texts", le4(0)),
        ],
    );
    let rest = &header[run::RUN_HEADER_BYTES..];
    assert!(rest.starts_with(&json) && rest[json.len()..].iter().all(|byte| *byte == 0));
    assert_eq!(run_bytes[..16], [le(11), le(12)].concat());
    assert_eq!(run_bytes[64..80], [le(13), le(14)].concat());
    let second_at = columns_at + 128;
    assert_eq!((&file[second_at..second_at + 4], &file[second_at + 8..second_at + 12]), (&b"FKRN"[..], &[0; 4][..]));
    let index_at = second_at + 128 + 128;
    check_layout(
        "field of a run entry",
        &file[index_at..],
        &[
            ("series id", le(1)),
            ("lowest commit", le(2)),
            ("highest commit", le(3)),
            ("rows", le(2)),
            ("offset", le(columns_at as u64)),
            ("first timestamp", le(11)),
            ("last timestamp", le(12)),
            ("number of columns", le4(2)),
            ("checksum", le4(crc32c::crc32c(run_bytes))),
            ("bytes", le4(header.len() as u32)),
            ("checksum", header[4..8].to_vec()),
            ("a bit per column", le(0)),
            ("bytes of the columns", le(128)),
            ("version", le4(0)),
            ("zeros", le4(0)),
        ],
    );
    let trailer = &file[index_at + 2 * run::RUN_ENTRY_BYTES..];
    let covered = [&file[..64], &file[index_at..file.len() - 12]].concat();
    assert_eq!((trailer.len(), crc), (run::RUN_TRAILER_BYTES, crc32c::crc32c(&covered)));
    check_layout(
        "field of a run trailer",
        trailer,
        &[
            ("offset", le(index_at as u64)),
            ("number of entries", le(2)),
            ("commit", le(9)),
            ("level", le4(8)),
            ("checksum", le4(crc)),
            ("magic", b"FASTKRUN".to_vec()),
        ],
    );
}

#[test]
fn receipts_and_envelopes_are_laid_out_as_documented() {
    let written = SeriesReceipt {
        series_id: 4,
        rows_written: 5,
        rows_replaced: 6,
        rows_duplicate: 7,
        rows_skipped: 8,
        version: 9,
        commit: 10,
        first_ts: Some(11),
        last_ts: Some(12),
        durable: true,
    };
    let mut bytes = Vec::new();
    Receipt { key: 1, fingerprint: 2, wall_ms: 3, written: vec![written] }.put(&mut bytes);
    check_layout(
        "field of a receipt |",
        &bytes,
        &[
            ("hash of the idempotency key", 1_u128.to_le_bytes().to_vec()),
            ("hash of what", 2_u128.to_le_bytes().to_vec()),
            ("wall clock", le(3)),
            ("number of series", le4(1)),
            ("series id", le(4)),
            ("rows written", le(5)),
            ("rows replaced", le(6)),
            ("rows of the same", le(7)),
            ("rows the caller", le(8)),
            ("version", le(9)),
            ("commit", le(10)),
            ("1 when", vec![1]),
            ("1 when", vec![1]),
            ("first timestamp", le(11)),
            ("last timestamp", le(12)),
        ],
    );
    let one = Receipt { key: 1, fingerprint: 2, wall_ms: 3, written: Vec::new() };
    let file = receipt::encode_receipts([one].iter());
    let payload = envelope::open("receipts", receipt::RECEIPTS_MAGIC, 1, &file).unwrap();
    check_layout(
        "field of a receipt page",
        payload,
        &[("number", le4(0)), ("number of pages", le4(1)), ("number of receipts", le4(1))],
    );
    assert_eq!(payload[12..16], 44_u32.to_le_bytes());
    assert_eq!(receipt::PAGE_RECEIPTS, 1_024);
    let edit = manifest::Edit { number: 7, ..manifest::Edit::default() };
    let file = manifest::encode_checkpoint(&edit);
    let payload_bytes = file.len() - envelope::ENVELOPE_BYTES;
    check_layout(
        "field of an envelope",
        &file,
        &[
            ("magic", manifest::CHECKPOINT_MAGIC.to_vec()),
            ("version", le4(1)),
            ("checksum", le4(crc32c::crc32c(&[&file[..12], &file[16..]].concat()))),
            ("bytes", le(payload_bytes as u64)),
        ],
    );
    let twice = manifest::encode_edit(&edit);
    let copy = &twice[4_096..];
    assert!(copy.starts_with(manifest::EDIT_MAGIC) && twice.starts_with(copy));
    assert!(twice[copy.len()..4_096].iter().all(|byte| *byte == 0));
    let file = current::encode_current(&current::Current { edit: 3, wal_segment: 4 });
    let payload = envelope::open("CURRENT", current::CURRENT_MAGIC, 1, &file).unwrap();
    check_layout("field of CURRENT", payload, &[("number of an edit", le(3)), ("number of a log segment", le(4))]);
}

#[test]
fn zone_maps_are_laid_out_as_documented() {
    let mut map = zone_map::ZoneMap::new(41, 2);
    map.footer_crc = 42;
    let mut sizes = ColumnCells::from([7_u32, 5]);
    sizes.push_null();
    let types = [NativeType::I64, NativeType::U32];
    map.add_block(&[CellSlice::of_words(&[1, 2, 3]), sizes.as_slice()], &types);
    let file = map.encode();
    let payload = envelope::open("zone map", zone_map::ZONE_MAP_MAGIC, 2, &file).unwrap();
    check_layout(
        "field of a zone map",
        payload,
        &[
            ("chunk id", le(41)),
            ("footer checksum", le4(42)),
            ("number of columns", le4(2)),
            ("number of zones", le4(1)),
        ],
    );
    let column = |kind, min, max| [le4(kind), le(min), le(max)].concat();
    assert_eq!(payload[20..], [column(0, 1, 3), column(1, 5, 7), le4(1)].concat());
}

#[test]
fn value_indexes_are_laid_out_as_documented() {
    let mut pages = Vec::new();
    let offset = value_index::ValueIndex::directory_bytes([3]) as u64;
    let put = |bytes: &[u8]| -> fastk::Result<()> {
        pages.extend_from_slice(bytes);
        Ok(())
    };
    let (column, end) = value_index::write_pages(&[(300, 1), (300, 2), (701, 0)], 4, offset, put).unwrap();
    let index = value_index::ValueIndex { chunk_id: 41, footer_crc: 42, rows: 3, columns: vec![column] };
    let mut file = index.encode();
    let payload = envelope::open("value index", value_index::VALUE_INDEX_MAGIC, 2, &file).unwrap();
    check_layout(
        "field of a value index",
        payload,
        &[
            ("chunk id", le(41)),
            ("footer checksum", le4(42)),
            ("rows", le4(3)),
            ("number of columns", le4(1)),
            ("position", le4(4)),
            ("number of its entries", le4(3)),
            ("lowest key", le(300)),
            ("bytes of a key", le4(2)),
            ("checksum", le4(crc32c::crc32c(&pages))),
        ],
    );
    assert_eq!(pages, [1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 145, 1]);
    assert_eq!(value_index::PAGE_ENTRIES, 1_024);
    file.extend_from_slice(&pages);
    assert_eq!(file.len() as u64, end);
    assert_eq!(value_index::ValueIndex::check(&file).unwrap(), index);
}

#[test]
fn coverage_is_laid_out_as_documented() {
    use fastk::types::{Grid, TimeUnit};
    for (kind, grid) in
        [(1, Grid::Fixed { length: 60, phase: 7 }), (2, Grid::Months { length: 60, phase: 7, unit: TimeUnit::Ms })]
    {
        let mut found = coverage::Coverage::new(41, grid);
        found.footer_crc = 42;
        found.add(&[grid.start_of(-1), grid.start_of(2), grid.start_of(2) + 5]);
        let file = found.encode();
        assert_eq!(&file[..8], coverage::COVERAGE_MAGIC);
        let payload = envelope::open("coverage", coverage::COVERAGE_MAGIC, 1, &file).unwrap();
        check_layout(
            "field of coverage",
            payload,
            &[
                ("chunk id", le(41)),
                ("footer checksum", le4(42)),
                ("kind of interval", le4(kind)),
                ("length", le(60)),
                ("phase", le(7)),
                ("number of rows", le(1)),
            ],
        );
        assert_eq!(payload[40..48], (grid.start_of(2) + 5).to_le_bytes());
        let bits = roaring::RoaringTreemap::deserialize_from(&payload[48..]).unwrap();
        assert_eq!(bits.iter().collect::<Vec<_>>(), [(1 << 63) - 1, (1 << 63) + 2]);
    }
}

/// Names and tags of a documented message against messages that have one field set each.
fn check_tags(title: &str, messages: Vec<(&str, Vec<u8>)>) {
    let rows = table(title);
    assert_eq!(rows.len(), messages.len(), "{title}");
    for (row, (name, bytes)) in rows.iter().zip(messages) {
        let key = prost::encoding::decode_varint(&mut bytes.as_slice()).unwrap();
        assert_eq!((row[0].as_str(), row[1].as_str()), ((key >> 3).to_string().as_str(), name), "{title}");
    }
}

#[test]
fn manifest_fields_have_the_documented_tags() {
    use manifest::{
        ChunkRecord, Edit, KindRecord, ReceiptsRecord, RunRecord, SeriesRecord, SnapshotRecord, TextsRecord,
        TombstoneRecord, ViewRecord,
    };
    macro_rules! one {
        ($type:ident: $($field:ident = $value:expr),* $(,)?) => {
            vec![$((stringify!($field), $type { $field: $value, ..Default::default() }.encode_to_vec())),*]
        };
    }
    check_tags(
        "field of an edit",
        one!(Edit: number = 1, series = vec![SeriesRecord::default()], series_dropped = vec![1],
            chunks = vec![ChunkRecord::default()], chunks_removed = vec![1],
            tombstones = vec![TombstoneRecord::default()], tombstones_removed = vec![TombstoneRecord::default()],
            runs = vec![RunRecord::default()], base_commit = 1, wal_first_segment = 1, wal_first_lsn = 1,
            next_series_id = 1, next_file_id = 1, epoch = "x".into(), runs_removed = vec![1],
            snapshots = vec![SnapshotRecord::default()], snapshots_removed = vec!["x".into()],
            receipts = vec![ReceiptsRecord::default()], receipts_removed = vec![1], chunks_unlinked = vec![1],
            chunks_waiting = vec![ChunkRecord::default()], kinds = vec![KindRecord::default()],
            kinds_removed = vec!["x".into()], texts = vec![TextsRecord::default()]),
    );
    check_tags("field of texts", one!(TextsRecord: series_id = 1, texts = vec![1], total = 1));
    check_tags(
        "field of a series",
        one!(SeriesRecord: id = 1, def = "x".into(), version = 1, rows = 1, first_ts = Some(1), last_ts = Some(1),
            sealed_commit = 1, last_write_ms = 1, created_commit = 1, last_commit = 1, dropped_commit = 1,
            views = vec![ViewRecord::default()]),
    );
    check_tags(
        "field of a view",
        one!(ViewRecord: commit = 1, last_commit = 1, def = "x".into(), version = 1, rows = 1, first_ts = Some(1),
            last_ts = Some(1)),
    );
    check_tags("field of a snapshot", one!(SnapshotRecord: name = "x".into(), commit = 1, created_ms = 1));
    check_tags("field of a kind", one!(KindRecord: name = "x".into(), commit = 1, def = "x".into()));
    check_tags("field of a run record", one!(RunRecord: id = 1, bytes = 1, crc = 1, level = 1, base_commit = 1));
    check_tags("field of a receipts record", one!(ReceiptsRecord: id = 1, bytes = 1, newest_ms = 1));
    check_tags(
        "field of a chunk |",
        one!(ChunkRecord: id = 1, series_id = 1, partition = "x".into(), rows = 1, ts_min = 1, ts_max = 1,
            commit_lo = 1, commit_hi = 1, file_bytes = 1, file_crc = 1, footer_crc = 1, block_crcs = vec![1],
            texts = 1),
    );
}

#[test]
fn chunk_metadata_has_the_documented_fields() {
    let block =
        BlockMeta { offset: 0, header_bytes: 0, body_bytes: 0, rows: 0, ts_min: 0, ts_max: 0, nulls: 1, crc: 0 };
    let dictionary = DictionaryMeta { column: 0, texts: 0, offset: 0, header_bytes: 0, body_bytes: 0, crc: 0 };
    let meta = ChunkMeta {
        format: chunk::CHUNK_VERSION,
        series_id: 1,
        chunk_id: 1,
        partition: "all".into(),
        series: SeriesSpec::of_key(&SeriesKey::kline("X", "1m").unwrap()).resolve().unwrap(),
        rows: 0,
        ts_min: 0,
        ts_max: 0,
        commit_lo: 0,
        commit_hi: 0,
        replaces: Vec::new(),
        slice: 2,
        slices: 3,
        head_crc: 0,
        blocks: vec![block],
        dictionaries: vec![dictionary],
    };
    let fields = |value: &serde_json::Value| -> Vec<String> {
        let mut names: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
        names.sort();
        names
    };
    let documented = |title: &str| -> Vec<String> {
        let mut names: Vec<String> = table(title).into_iter().map(|row| row[0].clone()).collect();
        names.sort();
        names
    };
    assert_eq!(documented("field of fastk.chunk"), fields(&serde_json::to_value(&meta).unwrap()));
    let head = chunk::rebuild_head(&meta).unwrap();
    let (identity, _) = chunk::decode_head(&head).unwrap();
    assert_eq!(documented("field of fastk.head"), fields(&serde_json::to_value(&identity).unwrap()));
    assert_eq!((chunk::IDENTITY_KEY, chunk::META_KEY), ("fastk.head", "fastk.chunk"));
    assert_eq!(documented("field of a block"), fields(&serde_json::to_value(block).unwrap()));
    assert_eq!(documented("field of a dictionary"), fields(&serde_json::to_value(dictionary).unwrap()));
    let constants: Vec<String> = table("constant |").into_iter().map(|row| row[1].clone()).collect();
    let code = [chunk::ZONE_ROWS, chunk::BLOCK_ROWS_MAX, chunk::BLOCK_BYTES_MAX, ipc::ALIGNMENT];
    assert_eq!(constants, code.map(|value| value.to_string()));
}
