//! Golden files with columns of every type: nulls, enums, texts and their dictionaries, cells of 1 to 16 bytes, equal
//! timestamps in the order of arrival, and rows from before and after a change of the columns.

use std::path::Path;

use fastk::format::chunk::{self, ChunkHead, ChunkWriter, SliceNumber};
use fastk::format::order_key::NativeType;
use fastk::format::run::{RunOrigin, RunWriter, decode_run, series_of};
use fastk::format::texts::ColumnTexts;
use fastk::format::wal::{self, Commit, FrameHeader, FrameKind, LoggedChange, SegmentHeader};
use fastk::format::zone_map::ZoneMap;
use fastk::store::{Store, StoreOptions, StoreState, TaskControl, WriteMode};
use fastk::types::kind::KindDef;
use fastk::types::{Column, ColumnType, Rows, SeriesDef, SeriesKey, SeriesSpec};

use super::golden::{CHANGED, committed_store, compare, copy, golden};
use super::records::{self, Cell, Row, columns_of_every_type, rows_of};

const DAY: i64 = 86_400_000;

/// A kind with a column of every type.
fn kind() -> KindDef {
    let head = r#"{"kind":"every_type","key":["name"],"order":"arrival","partition":"day","fields":[]}"#;
    KindDef { fields: columns_of_every_type(), ..serde_json::from_str(head).unwrap() }
}

fn def() -> SeriesDef {
    SeriesSpec::of_key(&key()).resolve_as(&kind()).unwrap()
}

fn key() -> SeriesKey {
    SeriesKey::new("every_type", &["a"]).unwrap()
}

/// The cell of a row: ends of the range of the type, and values between them.
fn cell(column: &Column, position: usize, row: i64) -> Cell {
    let n = row + position as i64;
    if column.nullable && n % 4 == 1 {
        return Cell::Null;
    }
    let integer = |low: i64, high: i64| match n % 5 {
        0 => Cell::Number(low.into(), 0),
        1 => Cell::Number(high.into(), 0),
        _ => Cell::Number((n % 100).into(), 0),
    };
    match column.kind {
        ColumnType::Decimal { digits } => Cell::Number(i128::from(n * 1_001 - 5_000), digits),
        ColumnType::WideDecimal { digits } => Cell::Number(i128::from(n % 1_000 - 7) * 10_i128.pow(30), digits),
        ColumnType::Float64 => Cell::Float([-1.0 / 3.0, 1e300, -0.0, 2.5][(n % 4) as usize]),
        ColumnType::Float32 => Cell::Float([0.5, -1.25, 3.0][(n % 3) as usize]),
        ColumnType::Int64 => integer(i64::MIN, i64::MAX),
        ColumnType::Int32 => integer(i32::MIN.into(), i32::MAX.into()),
        ColumnType::Int16 => integer(i16::MIN.into(), i16::MAX.into()),
        ColumnType::Int8 => integer(i8::MIN.into(), i8::MAX.into()),
        ColumnType::UInt64 => Cell::Number(if n % 3 == 0 { u64::MAX.into() } else { n.into() }, 0),
        ColumnType::UInt32 => integer(0, u32::MAX.into()),
        ColumnType::UInt16 => integer(0, u16::MAX.into()),
        ColumnType::UInt8 => integer(0, u8::MAX.into()),
        ColumnType::Bool => Cell::Number((n % 2).into(), 0),
        ColumnType::Timestamp { .. } => Cell::Number(i128::from(n) * 1_000_000_007, 0),
        ColumnType::Enum => Cell::Text(column.values[(n as usize) % column.values.len()].clone()),
        ColumnType::Text => Cell::Text(["", "Zürich", "a longer text", "x"][(n % 4) as usize].into()),
        ColumnType::Bytes { length } => Cell::Bytes((0..length).map(|byte| (n + i64::from(byte)) as u8).collect()),
    }
}

/// Rows of which three at a time have one timestamp.
fn rows(columns: &[Column], first: i64, count: i64) -> Vec<Row> {
    let row = |row: i64| {
        let cells = columns.iter().enumerate().map(|(position, column)| cell(column, position, row)).collect();
        Row { ts: row / 3, cells }
    };
    (first..first + count).map(row).collect()
}

fn read(store: &Store, state: &StoreState) -> Vec<Row> {
    records::read(store, state, &key(), (i64::MIN, i64::MAX), false).unwrap()
}

/// The texts of rows, as the log has them.
fn new_texts(rows: &Rows) -> Vec<ColumnTexts> {
    ColumnTexts::added(&rows.texts, &[])
}

#[test]
fn a_chunk_with_columns_of_every_type_is_read_and_written_as_it_was() {
    let def = def();
    let written = rows(&def.columns, 0, 130);
    let rows = rows_of(&def.columns, &written);
    let head = ChunkHead {
        series_id: 10,
        chunk_id: 20,
        partition: def.partition.span_of(0, def.unit).name,
        series: &def,
        commit_lo: 5,
        commit_hi: 7,
        replaces: Vec::new(),
        slice: SliceNumber::ONLY,
        dictionaries: &rows.texts,
    };
    let mut writer = ChunkWriter::new(Vec::new(), head).unwrap();
    writer.write_block(&rows.slices()).unwrap();
    let (file, summary) = writer.finish().unwrap();
    compare("every-type.arrow", &file);
    let file = golden("every-type.arrow");
    let (meta, footer_crc) = chunk::decode_chunk(&file).unwrap();
    assert_eq!((&meta, footer_crc), (&summary.meta, summary.footer_crc));
    assert_eq!((&meta.series, meta.rows), (&def, 130));
    let mut zones = ZoneMap::new(20, def.columns.len() + 1);
    zones.add_block(&rows.slices(), &NativeType::of_series(&def));
    zones.footer_crc = summary.footer_crc;
    compare("every-type.zmap", &zones.encode());
    assert_eq!(ZoneMap::decode(&golden("every-type.zmap")).unwrap(), zones);

    // As another program reads it: one column of each type, with its nulls, texts and values.
    let batches = arrow::ipc::reader::FileReader::try_new(std::io::Cursor::new(&file), None).unwrap();
    let text = |cells: &dyn arrow::array::Array, row| arrow::util::display::array_value_to_string(cells, row).unwrap();
    let mut expected = written.into_iter();
    for batch in batches.map(Result::unwrap) {
        for at in 0..batch.num_rows() {
            let row = expected.next().unwrap();
            for (column, cell) in batch.columns().iter().skip(1).zip(&row.cells) {
                let is_time = matches!(column.data_type(), arrow::datatypes::DataType::Timestamp(..));
                let found = if is_time { String::new() } else { text(column, at) };
                match cell {
                    Cell::Null => assert!(column.is_null(at)),
                    Cell::Number(number, _) if is_time => {
                        let data = column.to_data();
                        assert_eq!(i128::from(data.buffers()[0].typed_data::<i64>()[data.offset() + at]), *number);
                    }
                    Cell::Number(number, _) if found == "true" || found == "false" => {
                        assert_eq!(found == "true", *number == 1);
                    }
                    Cell::Number(number, _) => {
                        assert_eq!(found.replace('.', "").parse::<i128>().unwrap(), *number, "{found}");
                    }
                    Cell::Text(text) => assert_eq!(found, *text),
                    Cell::Float(value) => assert_eq!(found.parse::<f64>().unwrap(), *value),
                    Cell::Bytes(bytes) => {
                        assert_eq!(found, bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
                    }
                }
            }
        }
    }
    assert!(expected.next().is_none());
}

#[test]
fn runs_and_the_log_with_columns_of_every_type_are_read_and_written_as_they_were() {
    let def = def();
    let rows = rows_of(&def.columns, &rows(&def.columns, 0, 40));
    let mut writer = RunWriter::new(Vec::new(), RunOrigin { level: 0, base_commit: 3 }).unwrap();
    writer.add(10, &def, &rows.texts, (4, 5), &rows.slices()).unwrap();
    let (file, _, _) = writer.finish().unwrap();
    compare("every-type.run", &file);
    let file = golden("every-type.run");
    let decoded = decode_run(&file).unwrap();
    let series = series_of(&file, &decoded.runs[0]).unwrap();
    assert_eq!((series.def, series.texts), (Some(def), new_texts(&rows)));

    const BYTES: usize = 16_384;
    let header = SegmentHeader { number: 1, epoch: 0x0123_4567_89AB_CDEF, first_lsn: 1, segment_bytes: BYTES as u64 };
    let texts = new_texts(&rows);
    let operations = [
        LoggedChange::RegisterKind { def: serde_json::to_string(&kind()).unwrap() },
        LoggedChange::Register { series_id: 10, def: serde_json::to_string(&self::def()).unwrap() },
        LoggedChange::Write { series_id: 10, replaced: 0, rows, texts },
        LoggedChange::DropKind { name: "another".into() },
    ];
    let commits = operations.map(|change| Commit { receipt: None, wall_ms: 1, operations: vec![change] });
    let mut frames = Vec::new();
    for (commit, number) in commits.iter().zip(1..) {
        let payload = wal::encode_commit(commit);
        let frame = FrameHeader {
            kind: FrameKind::Commit,
            lsn: number,
            epoch: header.epoch,
            durable_lsn: number - 1,
            commit: number,
            payload_bytes: payload.len(),
        };
        frames.push((frame, payload));
    }
    let mut file = wal::encode_segment_header(&header).to_vec();
    frames.iter().for_each(|(frame, payload)| wal::put_frame(&mut file, frame, payload));
    assert!(file.len() < BYTES, "{}", file.len());
    file.resize(BYTES, 0);
    compare("every-type.wal", &file);
    let file = golden("every-type.wal");
    let mut offset = wal::SEGMENT_HEADER_BYTES;
    for ((frame, payload), commit) in frames.iter().zip(commits) {
        assert_eq!(wal::frame_at(&file, offset, header.epoch), wal::FrameRead::Frame(*frame, payload));
        assert_eq!(wal::decode_commit(payload).unwrap(), commit_as_read(commit));
        offset += wal::frame_bytes(payload.len());
    }
}

/// Texts of the rows are in the texts of the commit once it is read.
fn commit_as_read(mut commit: Commit) -> Commit {
    for operation in &mut commit.operations {
        if let LoggedChange::Write { rows, .. } = operation {
            rows.texts = Vec::new();
        }
    }
    commit
}

fn options() -> StoreOptions {
    StoreOptions { wal_segment_bytes: 24 << 10, background_maintenance: false, ..StoreOptions::default() }
}

/// The columns after the changes: a wider integer, one more value, one more column.
fn changed() -> Vec<Column> {
    let mut columns = kind().fields;
    for column in &mut columns {
        match column.kind {
            ColumnType::Int16 => column.kind = ColumnType::Int32,
            ColumnType::Decimal { digits } => column.kind = ColumnType::Decimal { digits: digits + 1 },
            ColumnType::Enum => column.values.push("unknown".into()),
            _ => {}
        }
    }
    columns.push(Column { nullable: true, ..Column::new("added", ColumnType::Text) });
    columns
}

/// Sealed rows, a snapshot, changed columns, rows in a run file and rows in the log.
fn fill(root: &Path) {
    let store = Store::open(root, true, options()).unwrap();
    store.register_kind(kind()).unwrap();
    store.register(def()).unwrap();
    let columns = kind().fields;
    let write = |columns: &[Column], first, count| {
        let rows = rows_of(columns, &rows(columns, first, count));
        store.write(&key(), rows, WriteMode::Upsert, None).unwrap();
    };
    write(&columns, 0, 60);
    write(&columns, 3 * DAY, 30);
    store.seal(&[]).unwrap();
    store.create_snapshot("before").unwrap();
    let change = |def: &mut SeriesDef| {
        def.columns = changed();
        def.schema_version += 1;
        Ok(())
    };
    store.change_series(&key(), None, change).unwrap();
    write(&changed(), 30, 20);
    store.checkpoint().unwrap();
    write(&changed(), 45, 10);
    store.delete_range(&key(), (2, 4), None).unwrap();
}

/// The rows of the snapshot, and those of now.
fn filled() -> (Vec<Row>, Vec<Row>) {
    let columns = kind().fields;
    let before = [rows(&columns, 0, 60), rows(&columns, 3 * DAY, 30)].concat();
    let now = changed();
    // What the older rows are under the changed columns.
    let read_as_now = |row: &Row| {
        let cell = |(cell, column): (&Cell, &Column)| match (cell, column.kind) {
            (Cell::Number(number, from), ColumnType::Decimal { digits }) => {
                Cell::Number(number * 10_i128.pow(u32::from(digits - from)), digits)
            }
            _ => cell.clone(),
        };
        let cells = row.cells.iter().zip(&now).map(cell).chain([Cell::Null]).collect();
        Row { ts: row.ts, cells }
    };
    let mut all: Vec<Row> = before.iter().map(read_as_now).collect();
    all.extend([rows(&now, 30, 20), rows(&now, 45, 10)].concat());
    all.retain(|row| !(2..=4).contains(&row.ts));
    // Stable: rows of one timestamp stay in the order of their arrival.
    all.sort_by_key(|row| row.ts);
    (before, all)
}

#[test]
fn a_store_with_columns_of_every_type_opens_and_returns_the_written_rows() {
    let root = copy(&committed_store("store-of-every-type", fill));
    let (before, now) = filled();
    for round in 0..2 {
        let store = Store::open(root.path(), false, options()).unwrap();
        assert!(store.recovery().damage.is_empty() && store.recovery().torn.is_empty(), "{:?}", store.recovery());
        assert!(read(&store, &store.snapshot()) == now, "round {round}: {CHANGED}");
        assert!(read(&store, &store.as_of("before").unwrap()) == before, "round {round}, the snapshot: {CHANGED}");
        let found = store.verify(&TaskControl::default()).unwrap().findings;
        assert!(found.is_empty(), "{found:?}");
        // Rewritten files give the same rows.
        store.checkpoint().unwrap();
        store.seal(&[]).unwrap();
        store.compact(&[], true).unwrap();
    }
}
