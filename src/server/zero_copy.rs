//! Whole blocks of chunk files are sent by both interfaces as slices of the mapped file: not copied and not re-encoded.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::flight;
use crate::egress::{BodyEncoder, EncodeOptions, OutFormat, Trailer};
use crate::format::chunk::decode_chunk;
use crate::query::{NumberFormat, Query};
use crate::service::Service;
use crate::store::{StoreOptions, WriteMode};
use crate::types::{Column, ColumnCells, ColumnType, Rows, SeriesDef, SeriesKey, SeriesSpec, TimeUnit};

const MINUTE: i64 = 60_000;
/// Two full blocks and a partial third.
const ROWS: i64 = 42_768;
const BLOCK: i64 = 16_384;
/// Shorter pieces are headers and padding.
const LONG_BYTES: usize = 64 * 1024;

struct SealedStore {
    _dir: tempfile::TempDir,
    service: Arc<Service>,
    key: SeriesKey,
    file: PathBuf,
    bytes: Vec<u8>,
}

fn sealed_store() -> SealedStore {
    let key = SeriesKey::kline("BTC", "1m").unwrap();
    let mut spec = SeriesSpec::of_key(&key);
    (spec.price_digits, spec.volume_digits, spec.partition) = (Some(2), Some(0), Some("all".into()));
    let ts: Vec<i64> = (0..ROWS).map(|minute| minute * MINUTE).collect();
    let columns = (0..5).map(|column| ts.iter().map(|ts| ts / MINUTE + column).collect()).collect();
    sealed(spec.resolve().unwrap(), Rows::of_words(ts, columns))
}

fn sealed(def: SeriesDef, rows: Rows) -> SealedStore {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { background_maintenance: false, ..StoreOptions::default() };
    let service = Service::open(dir.path(), true, options).unwrap();
    let key = def.key.clone();
    let store = service.store();
    store.register(def).unwrap();
    store.write(&key, rows, WriteMode::Append, None).unwrap();
    store.seal(&[]).unwrap();
    let folder = std::fs::read_dir(dir.path().join("chunks")).unwrap().next().unwrap().unwrap().path();
    let mut files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let file = files.find(|path| path.extension().is_some_and(|ending| ending == "arrow")).unwrap();
    let bytes = std::fs::read(&file).unwrap();
    SealedStore { _dir: dir, service, key, file: file.canonicalize().unwrap(), bytes }
}

impl SealedStore {
    fn query(&self, range: Range<i64>) -> Query {
        let when = |minute: i64| Some(crate::query::TimeValue::Epoch(minute * MINUTE));
        Query { start: when(range.start), end: when(range.end - 1), ..Query::of(&self.key) }
    }

    fn by_flight(&self, query: &Query) -> Vec<Bytes> {
        flight::pieces(self.service.read(query).unwrap())
    }

    fn by_rest(&self, query: &Query) -> Vec<Bytes> {
        let result = self.service.read(query).unwrap();
        let options = EncodeOptions { format: OutFormat::Arrow, ..EncodeOptions::default() };
        let encoder = BodyEncoder::new(&result.shape.clone(), options, result, |_| Trailer::default()).unwrap();
        encoder.map(Result::unwrap).collect()
    }

    /// Where the file is mapped, according to the system.
    fn mapped(&self) -> Vec<Range<usize>> {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let of_file = maps.lines().filter(|line| line.ends_with(self.file.to_str().unwrap()));
        let address = |text: &str| usize::from_str_radix(text, 16).unwrap();
        let spans = of_file.map(|line| line.split(' ').next().unwrap().split_once('-').unwrap());
        spans.map(|(from, to)| address(from)..address(to)).collect()
    }

    /// The long pieces, each of which must be in the map.
    fn check_mapped<'p>(&self, pieces: &'p [Bytes]) -> Vec<&'p Bytes> {
        let mapped = self.mapped();
        let long_pieces: Vec<&Bytes> = pieces.iter().filter(|piece| piece.len() > LONG_BYTES).collect();
        for piece in &long_pieces {
            let (from, to) = (piece.as_ptr().addr(), piece.as_ptr().addr() + piece.len());
            assert!(mapped.iter().any(|map| map.start <= from && to <= map.end), "{from:x} is not in {mapped:x?}");
        }
        long_pieces
    }

    fn is_in_file(&self, piece: &[u8]) -> bool {
        self.bytes.windows(piece.len()).any(|window| window == piece)
    }
}

#[test]
fn whole_blocks_are_sent_as_slices_of_the_file() {
    let sealed = sealed_store();
    let query = sealed.query(0..ROWS);
    for (interface, pieces) in [("flight", sealed.by_flight(&query)), ("rest", sealed.by_rest(&query))] {
        let long_pieces = sealed.check_mapped(&pieces);
        assert_eq!(long_pieces.len(), 3, "{interface}: one piece per block");
        assert!(long_pieces.iter().all(|piece| sealed.is_in_file(piece)), "{interface}");
        // The rest is framing.
        let rest: usize =
            pieces.iter().map(Bytes::len).sum::<usize>() - long_pieces.iter().map(|p| p.len()).sum::<usize>();
        assert!(rest < 8 * 1024, "{interface}: {rest} bytes besides the blocks");
    }
}

#[test]
fn partial_blocks_are_sent_as_slices_of_the_file() {
    let sealed = sealed_store();
    let query = sealed.query(1..2 * BLOCK + 9_000);
    for (interface, pieces) in [("flight", sealed.by_flight(&query)), ("rest", sealed.by_rest(&query))] {
        let long_pieces = sealed.check_mapped(&pieces);
        // Six columns of the first and of the last block, the second block whole.
        assert_eq!(long_pieces.len(), 6 + 1 + 6, "{interface}");
        assert!(long_pieces.iter().all(|piece| sealed.is_in_file(piece)), "{interface}");
    }
}

#[test]
fn selected_columns_are_sent_as_slices_of_the_file() {
    let sealed = sealed_store();
    let query = Query { columns: Some(vec!["close".into(), "volume".into()]), ..sealed.query(0..ROWS) };
    for (interface, pieces) in [("flight", sealed.by_flight(&query)), ("rest", sealed.by_rest(&query))] {
        let long_pieces = sealed.check_mapped(&pieces);
        // `ts` and two more of three blocks; the columns of the half block are long enough, too.
        assert_eq!(long_pieces.len(), 9, "{interface}");
    }
}

#[test]
fn converted_numbers_are_not_slices_of_the_file() {
    let sealed = sealed_store();
    let query = Query { numbers: NumberFormat::Float64, ..sealed.query(0..ROWS) };
    let pieces = sealed.by_rest(&query);
    let mapped = sealed.mapped();
    let outside = |piece: &&Bytes| !mapped.iter().any(|map| map.contains(&piece.as_ptr().addr()));
    assert!(pieces.iter().filter(|piece| piece.len() > LONG_BYTES).any(|piece| outside(&piece)));
}

#[test]
fn whole_blocks_of_every_width_with_nulls_and_dictionaries_are_slices_of_the_file() {
    let key = SeriesKey::scalar("c", "BTC", "1m", "n").unwrap();
    let spec = SeriesSpec { partition: Some("all".into()), ..SeriesSpec::of_key(&key) };
    let nullable = |name: &str, kind| Column { nullable: true, ..Column::new(name, kind) };
    // Types whose cells the loop below does not write one by one.
    let others = [
        ColumnType::Decimal { digits: 2 },
        ColumnType::Float64,
        ColumnType::Float32,
        ColumnType::Int32,
        ColumnType::Int16,
        ColumnType::Int8,
        ColumnType::UInt64,
        ColumnType::UInt16,
        ColumnType::UInt8,
        ColumnType::Timestamp { unit: TimeUnit::Ns },
        ColumnType::Bytes { length: 5 },
    ];
    let mut def = SeriesDef {
        columns: vec![
            Column::new("count", ColumnType::Int64),
            nullable("size", ColumnType::UInt32),
            Column { values: vec!["buy".into(), "sell".into()], ..Column::new("side", ColumnType::Enum) },
            nullable("flag", ColumnType::Bool),
            nullable("note", ColumnType::Text),
            Column::new("wide", ColumnType::WideDecimal { digits: 2 }),
        ],
        ..spec.resolve().unwrap()
    };
    let first_other = def.columns.len();
    for (number, kind) in others.into_iter().enumerate() {
        def.columns.push(Column { nullable: number % 2 == 0, ..Column::new(format!("other{number}"), kind) });
    }
    let mut rows = Rows::with_capacity(&def.columns, 0);
    rows.texts = vec![Default::default(); def.columns.len()];
    rows.texts[4] = ["x".into(), "y".into(), "".into()].into_iter().collect();
    for row in 0..ROWS {
        let n = usize::try_from(row).unwrap();
        rows.ts.push(row * MINUTE);
        let push = |column: &mut ColumnCells, is_null: bool, cell: u32| match is_null {
            true => column.push_null(),
            false => column.push(cell),
        };
        rows.columns[0].push(row);
        push(&mut rows.columns[1], n % 3 == 0, n as u32);
        rows.columns[2].push((n % 2) as u8);
        match n % 5 {
            0 => rows.columns[3].push_null(),
            _ => rows.columns[3].push(u8::from(n % 2 == 0)),
        }
        push(&mut rows.columns[4], n % 7 == 0, (n % 3) as u32);
        rows.columns[5].push(i128::from(row) * 10_i128.pow(20));
    }
    for (column, cells) in def.columns.iter().zip(&mut rows.columns).skip(first_other) {
        let layout = column.kind.layout();
        for row in 0..ROWS {
            match column.nullable && row % 9 == 4 {
                true => cells.push_null(),
                // Small integers, numbers of ordinary size where they are read as doubles.
                false => {
                    let bytes = vec![(row % 60) as u8; layout.width()];
                    cells.extend(ColumnCells::from_bytes(layout, &bytes, None).unwrap().as_slice());
                }
            }
        }
    }
    let sealed = sealed(def, rows);
    let blocks = decode_chunk(&sealed.bytes).unwrap().0.blocks.len();
    let query = sealed.query(0..ROWS);
    for (interface, pieces) in [("flight", sealed.by_flight(&query)), ("rest", sealed.by_rest(&query))] {
        let long_pieces = sealed.check_mapped(&pieces);
        assert_eq!(long_pieces.len(), blocks, "{interface}: one piece per block");
        assert!(long_pieces.iter().all(|piece| sealed.is_in_file(piece)), "{interface}");
    }
    let stream = sealed.by_rest(&query).concat();
    let reader = arrow::ipc::reader::StreamReader::try_new(stream.as_slice(), None).unwrap();
    let text = |cells: &arrow::array::ArrayRef, row| arrow::util::display::array_value_to_string(cells, row).unwrap();
    let mut n = 0;
    for batch in reader.map(|batch| batch.unwrap()) {
        for row in 0..batch.num_rows() {
            let note = if n % 7 == 0 { "" } else { ["x", "y", ""][n % 3] };
            let size = if n % 3 == 0 { String::new() } else { n.to_string() };
            assert_eq!((text(&batch["note"], row), text(&batch["size"], row)), (note.into(), size));
            assert_eq!(text(&batch["side"], row), ["buy", "sell"][n % 2]);
            assert_eq!(text(&batch["flag"], row), if n % 5 == 0 { "" } else { ["true", "false"][n % 2] });
            n += 1;
        }
    }
    assert_eq!(n as i64, ROWS);
    // A part of the rows, at an offset that splits a byte of flags.
    let part = sealed.by_rest(&sealed.query(3..2 * BLOCK)).concat();
    let batch = arrow::ipc::reader::StreamReader::try_new(part.as_slice(), None).unwrap().next().unwrap().unwrap();
    assert_eq!([0, 1, 2, 3].map(|row| text(&batch["flag"], row)), ["false", "true", "", "true"]);
    // Rows 3 and 4: bytes of 3, and a null.
    assert_eq!([0, 1].map(|row| text(&batch["other10"], row)), ["0303030303", ""]);
    assert_eq!([0, 1].map(|row| text(&batch["other8"], row)), ["3", ""]);
}
