//! Encoded bodies read back by independent readers, and the body left by an error.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Decimal64Type, Float64Type, Int64Type};
use arrow::ipc::reader::StreamReader;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::egress::*;
use crate::error::{Error, Result};
use crate::query::result::ResultColumn;
use crate::query::{Block, ResultSchema};
use crate::query::{NumberFormat, StoredMessage, Subject};
use crate::types::{CellLayout, ColumnCells, ColumnType, SeriesKey, SharedCells, TimeUnit};

fn shape(numbers: NumberFormat) -> ResultSchema {
    let column = |name: &str, kind| ResultColumn { name: name.into(), kind, nullable: false, labels: None };
    ResultSchema {
        subject: Subject::One { series: SeriesKey::kline("BTC-USD", "1m").unwrap(), version: 7 },
        unit: TimeUnit::Ms,
        columns: vec![
            column("close", ColumnType::Decimal { digits: 2 }),
            column("volume", ColumnType::Float64),
            column("trades", ColumnType::Int64),
        ],
        numbers,
        commit: 9,
    }
}

fn bits(value: f64) -> i64 {
    value.to_bits().cast_signed()
}

/// `rows` rows of which the first are (0, -0.05, 0.1, -3) and (60000, 0.95, 1.1, -2).
fn block(first: usize, rows: usize) -> Block {
    let range = || (first..first + rows).map(|row| row as i64);
    let buffers = [
        range().map(|row| row * 60_000).collect::<Vec<i64>>(),
        range().map(|row| row * 100 - 5).collect(),
        range().map(|row| bits(row as f64 + 0.1)).collect(),
        range().map(|row| row - 3).collect(),
    ];
    Block::new(rows, buffers.map(|words| SharedCells::from(ColumnCells::from(words)))).unwrap()
}

fn pieces(shape: &ResultSchema, options: EncodeOptions, blocks: Vec<Result<Block>>) -> Vec<Result<Bytes>> {
    BodyEncoder::new(shape, options, blocks.into_iter(), |_| Trailer { next_cursor: Some("next".into()), stats: None })
        .unwrap()
        .collect()
}

fn body(shape: &ResultSchema, options: EncodeOptions, blocks: Vec<Block>) -> Vec<u8> {
    pieces(shape, options, blocks.into_iter().map(Ok).collect()).into_iter().flat_map(|piece| piece.unwrap()).collect()
}

fn text(numbers: NumberFormat, options: EncodeOptions) -> String {
    String::from_utf8(body(&shape(numbers), options, vec![block(0, 1), block(1, 1)])).unwrap()
}

fn of(format: OutFormat) -> EncodeOptions {
    EncodeOptions { format, ..EncodeOptions::default() }
}

#[test]
fn json_rows_have_exact_digits_and_the_cursor() {
    assert_eq!(
        text(NumberFormat::Stored, of(OutFormat::Json)),
        "{\"series\":\"kline/BTC-USD/1m\",\"version\":7,\"commit\":9,\"rows\":[\
         {\"ts\":0,\"close\":-0.05,\"volume\":0.1,\"trades\":-3},\n\
         {\"ts\":60000,\"close\":0.95,\"volume\":1.1,\"trades\":-2}],\"next_cursor\":\"next\"}\n"
    );
    let none = String::from_utf8(body(&shape(NumberFormat::Stored), of(OutFormat::Json), vec![])).unwrap();
    assert!(none.ends_with("\"rows\":[],\"next_cursor\":\"next\"}\n"), "{none}");
}

#[test]
fn json_columns_hold_the_same_cells() {
    let options = EncodeOptions { shape: JsonShape::Columns, ..EncodeOptions::default() };
    assert_eq!(
        text(NumberFormat::Stored, options),
        "{\"series\":\"kline/BTC-USD/1m\",\"version\":7,\"commit\":9,\"columns\":{\"ts\":[0,60000],\
         \"close\":[-0.05,0.95],\"volume\":[0.1,1.1],\"trades\":[-3,-2]},\"next_cursor\":\"next\"}\n"
    );
    let many = body(&shape(NumberFormat::Stored), options, vec![block(0, 10_000), block(10_000, 7)]);
    let many: serde_json::Value = serde_json::from_slice(&many).unwrap();
    for (name, last) in [("ts", 10_006.0 * 60_000.0), ("trades", 10_003.0), ("close", 10_005.95)] {
        let column = many["columns"][name].as_array().unwrap();
        assert_eq!((column.len(), column[10_006].as_f64().unwrap()), (10_007, last), "{name}");
    }
}

#[test]
fn ndjson_and_csv_write_one_line_per_row() {
    assert_eq!(
        text(NumberFormat::Stored, of(OutFormat::Ndjson)),
        "{\"ts\":0,\"close\":-0.05,\"volume\":0.1,\"trades\":-3}\n{\"ts\":60000,\"close\":0.95,\"volume\":1.1,\"trades\":-2}\n"
    );
    assert_eq!(text(NumberFormat::Raw, of(OutFormat::Csv)), "ts,close,volume,trades\n0,-5,0.1,-3\n60000,95,1.1,-2\n");
    let options = EncodeOptions { times: TimeFormat::Rfc3339, ..of(OutFormat::Csv) };
    assert_eq!(
        text(NumberFormat::String, options),
        "ts,close,volume,trades\n1970-01-01T00:00:00Z,-0.05,0.1,-3\n1970-01-01T00:01:00Z,0.95,1.1,-2\n"
    );
}

#[test]
fn string_numbers_quote_integers_decimals_and_times() {
    let line = text(NumberFormat::String, of(OutFormat::Ndjson));
    assert!(line.starts_with("{\"ts\":\"0\",\"close\":\"-0.05\",\"volume\":0.1,\"trades\":\"-3\"}\n"), "{line}");
    let options = EncodeOptions { times: TimeFormat::Rfc3339, ..of(OutFormat::Ndjson) };
    assert!(text(NumberFormat::Stored, options).starts_with("{\"ts\":\"1970-01-01T00:00:00Z\",\"close\":-0.05,"));
    for (numbers, close) in
        [(NumberFormat::Float64, "-0.05"), (NumberFormat::Decimal128, "-0.05"), (NumberFormat::Raw, "-5")]
    {
        let line = text(numbers, of(OutFormat::Ndjson));
        assert!(line.starts_with(&format!("{{\"ts\":0,\"close\":{close},\"volume\":0.1,\"trades\":-3}}")), "{line}");
    }
}

#[test]
fn long_results_come_in_many_pieces() {
    for format in OutFormat::ALL {
        let blocks = (0..20).map(|part| Ok(block(part * 16_384, 16_384))).collect();
        let pieces = pieces(&shape(NumberFormat::Stored), of(format), blocks);
        assert!(pieces.len() > 5, "{format:?}: {}", pieces.len());
        let longest = pieces.iter().map(|piece| piece.as_ref().unwrap().len()).max().unwrap();
        assert!(longest < 4 << 20, "{format:?}: {longest}");
    }
}

const NUMBERS: [NumberFormat; 5] =
    [NumberFormat::Stored, NumberFormat::Float64, NumberFormat::Decimal128, NumberFormat::Raw, NumberFormat::String];

#[test]
fn arrow_streams_read_back_as_the_same_batches() {
    for numbers in NUMBERS {
        let shape = shape(numbers);
        let schema = shape.arrow_schema();
        // 5 rows need padding, 16,384 rows are sent without a copy.
        let blocks = [block(0, 16_384), block(16_384, 5)];
        let expected: Vec<RecordBatch> =
            blocks.iter().map(|block| shape.record_batch(&schema, block).unwrap()).collect();
        let bytes = body(&shape, of(OutFormat::Arrow), blocks.to_vec());
        let reader = StreamReader::try_new(bytes.as_slice(), None).unwrap();
        assert_eq!(reader.schema(), schema, "{numbers:?}");
        assert_eq!(reader.map(|batch| batch.unwrap()).collect::<Vec<_>>(), expected, "{numbers:?}");
        let empty = body(&shape, of(OutFormat::Arrow), vec![]);
        assert_eq!(StreamReader::try_new(empty.as_slice(), None).unwrap().schema(), schema);
    }
}

#[test]
fn complete_chunk_blocks_are_not_copied_when_no_number_is_converted() {
    let message = Bytes::from(vec![7_u8; 100_000]);
    let stored = StoredMessage::new(message.clone(), 64);
    for (numbers, is_stored) in
        [(NumberFormat::Stored, true), (NumberFormat::Raw, true), (NumberFormat::Float64, false)]
    {
        let block = block(0, 16_384).stored_as(stored.clone());
        let pieces = pieces(&shape(numbers), of(OutFormat::Arrow), vec![Ok(block)]);
        let found = pieces.iter().any(|piece| piece.as_ref().unwrap().as_ptr() == message.as_ptr());
        assert_eq!(found, is_stored, "{numbers:?}");
    }
}

#[test]
fn parquet_files_read_back_with_their_types() {
    for numbers in NUMBERS {
        let shape = shape(numbers);
        let blocks: Vec<Block> = (0..5).map(|part| block(part * 16_384, 16_384)).collect();
        let file = Bytes::from(body(&shape, of(OutFormat::Parquet), blocks));
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        assert_eq!(builder.metadata().num_row_groups(), 2);
        assert_eq!(builder.schema().fields(), shape.arrow_schema().fields(), "{numbers:?}");
        let batches: Vec<RecordBatch> = builder.build().unwrap().map(|batch| batch.unwrap()).collect();
        let batch = arrow_concat(&batches);
        assert_eq!(batch.num_rows(), 5 * 16_384);
        assert_eq!(batch["volume"].as_primitive::<Float64Type>().value(80_000), 80_000.1);
        let close = &batch["close"];
        match numbers {
            NumberFormat::Stored => assert_eq!(close.as_primitive::<Decimal64Type>().value(80_000), 7_999_995),
            NumberFormat::Raw => assert_eq!(close.as_primitive::<Int64Type>().value(80_000), 7_999_995),
            NumberFormat::Float64 => assert_eq!(close.as_primitive::<Float64Type>().value(80_000), 79_999.95),
            NumberFormat::String => assert_eq!(close.as_string::<i32>().value(80_000), "79999.95"),
            NumberFormat::Decimal128 => assert_eq!(close.null_count(), 0),
        }
    }
}

fn arrow_concat(batches: &[RecordBatch]) -> RecordBatch {
    let schema = batches[0].schema();
    let columns = (0..schema.fields().len())
        .map(|column| {
            let parts: Vec<_> = batches.iter().map(|batch| batch.column(column).to_data()).collect();
            let mut all = arrow::array::MutableArrayData::new(parts.iter().collect(), false, 0);
            for (position, part) in parts.iter().enumerate() {
                all.try_extend(position, 0, part.len()).unwrap();
            }
            arrow::array::make_array(all.freeze())
        })
        .collect();
    RecordBatch::try_new(schema, columns).unwrap()
}

#[test]
fn an_error_leaves_a_body_without_its_end() {
    for format in OutFormat::ALL {
        for shape_of in [JsonShape::Rows, JsonShape::Columns] {
            let options = EncodeOptions { format, shape: shape_of, ..EncodeOptions::default() };
            if options.check().is_err() {
                continue;
            }
            let shape = shape(NumberFormat::Stored);
            let complete = body(&shape, options, vec![block(0, 16_384), block(16_384, 16_384)]);
            let blocks =
                vec![Ok(block(0, 16_384)), Ok(block(16_384, 16_384)), Err(Error::corrupt("the last")), Ok(block(0, 1))];
            let pieces = pieces(&shape, options, blocks);
            let (last, sent) = pieces.split_last().unwrap();
            assert_eq!(last.as_ref().unwrap_err().code(), crate::ErrorCode::CorruptData, "{format:?}");
            let sent: Vec<u8> = sent.iter().flat_map(|piece| piece.clone().unwrap()).collect();
            assert!(sent.len() < complete.len() && complete.starts_with(&sent), "{format:?}");
        }
    }
}

#[test]
fn options_the_format_does_not_support_are_rejected() {
    for (format, times, shape, is_fine) in [
        (OutFormat::Json, TimeFormat::Rfc3339, JsonShape::Columns, true),
        (OutFormat::Csv, TimeFormat::Rfc3339, JsonShape::Rows, true),
        (OutFormat::Csv, TimeFormat::Epoch, JsonShape::Columns, false),
        (OutFormat::Arrow, TimeFormat::Rfc3339, JsonShape::Rows, false),
        (OutFormat::Parquet, TimeFormat::Rfc3339, JsonShape::Rows, false),
    ] {
        assert_eq!(EncodeOptions { format, times, shape }.check().is_ok(), is_fine, "{format:?} {times:?} {shape:?}");
    }
}

/// Every type, each nullable.
const TYPES: [(&str, ColumnType); 17] = [
    ("dec", ColumnType::Decimal { digits: 2 }),
    ("wide", ColumnType::WideDecimal { digits: 3 }),
    ("f64", ColumnType::Float64),
    ("f32", ColumnType::Float32),
    ("i64", ColumnType::Int64),
    ("i32", ColumnType::Int32),
    ("i16", ColumnType::Int16),
    ("i8", ColumnType::Int8),
    ("u64", ColumnType::UInt64),
    ("u32", ColumnType::UInt32),
    ("u16", ColumnType::UInt16),
    ("u8", ColumnType::UInt8),
    ("flag", ColumnType::Bool),
    ("at", ColumnType::Timestamp { unit: TimeUnit::Us }),
    ("side", ColumnType::Enum),
    ("note", ColumnType::Text),
    ("id", ColumnType::Bytes { length: 3 }),
];
const SIDES: [&str; 2] = ["buy", "sell short"];
const NOTES: [&str; 6] = ["", "a,b", "say \"hi\"\n", "ünï\u{1}\\", " x", "plain"];
const NOTES_CSV: [&str; 6] = ["\"\"", "\"a,b\"", "\"say \"\"hi\"\"\n\"", "ünï\u{1}\\", "\" x\"", "plain"];

pub(crate) fn typed_shape(numbers: NumberFormat) -> ResultSchema {
    let column = |(name, kind): (&str, ColumnType)| {
        let labels = match kind {
            ColumnType::Enum => Some(SIDES.iter().map(|text| (*text).into()).collect()),
            ColumnType::Text => Some(NOTES.iter().map(|text| (*text).into()).collect()),
            _ => None,
        };
        ResultColumn { name: name.into(), kind, nullable: true, labels }
    };
    ResultSchema { columns: TYPES.map(column).to_vec(), ..shape(numbers) }
}

fn is_null(column: usize, row: usize) -> bool {
    row % 7 == column % 7
}

/// `rows` rows from `first` on, in memory as chunk files have it, of which the block is a part at an odd offset.
pub(crate) fn typed_block(first: usize, rows: usize) -> Block {
    let before = 3;
    let all = || (first..first + before + rows).map(|row| row.wrapping_sub(before));
    let mut columns: Vec<SharedCells> = vec![ColumnCells::from(all().map(|row| row as i64).collect::<Vec<_>>()).into()];
    for (column, (_, kind)) in TYPES.into_iter().enumerate() {
        let mut cells = ColumnCells::new(kind.layout());
        for row in all() {
            if is_null(column, row) {
                cells.push_null();
                continue;
            }
            let n = row as i64;
            match kind {
                ColumnType::Decimal { .. } => cells.push(n * 101 - 500),
                ColumnType::WideDecimal { .. } => cells.push(i128::from(n - 2) * 10_i128.pow(30) + 7),
                ColumnType::Float64 => cells.push(row as f64 + 0.5),
                ColumnType::Float32 => cells.push(row as f32 * 1.1),
                ColumnType::Int64 => cells.push(i64::MIN.wrapping_add(n)),
                ColumnType::Int32 => cells.push(i32::MIN.wrapping_add(n as i32)),
                ColumnType::Int16 => cells.push(i16::MIN.wrapping_add(n as i16)),
                ColumnType::Int8 => cells.push(i8::MIN.wrapping_add(n as i8)),
                ColumnType::UInt64 => cells.push(u64::MAX - n as u64),
                ColumnType::UInt32 => cells.push(u32::MAX - n as u32),
                ColumnType::UInt16 => cells.push(u16::MAX - n as u16),
                ColumnType::UInt8 => cells.push(u8::MAX.wrapping_sub(n as u8)),
                ColumnType::Bool => cells.push(u8::from(row.is_multiple_of(3))),
                ColumnType::Timestamp { .. } => cells.push(1_700_000_000_000_000 + n),
                ColumnType::Enum => cells.push((row % SIDES.len()) as u8),
                ColumnType::Text => cells.push((row % NOTES.len()) as u32),
                ColumnType::Bytes { .. } => {
                    let all = vec![row as u8, 0xAB, 0xFF].into();
                    cells.extend(SharedCells::packed(CellLayout::Bytes(3), all, None).slice(0, 1));
                }
            }
        }
        columns.push(SharedCells::from(cells).packed_slice(0, before + rows));
    }
    Block::new(before + rows, columns).unwrap().slice(before, rows)
}

/// A cell as text, under `numbers=stored`; `None` for a null.
pub(crate) fn typed_text(column: usize, row: usize) -> Option<String> {
    let n = row as i64;
    let with_point = |raw: i128, digits: usize| {
        let text = format!("{:0>width$}", raw.unsigned_abs(), width = digits + 1);
        let (before, after) = text.split_at(text.len() - digits);
        format!("{}{before}.{after}", if raw < 0 { "-" } else { "" })
    };
    (!is_null(column, row)).then(|| match TYPES[column].1 {
        ColumnType::Decimal { .. } => with_point(i128::from(n * 101 - 500), 2),
        ColumnType::WideDecimal { .. } => with_point(i128::from(n - 2) * 10_i128.pow(30) + 7, 3),
        ColumnType::Float64 => format!("{:?}", row as f64 + 0.5),
        ColumnType::Float32 => format!("{:?}", row as f32 * 1.1),
        ColumnType::Int64 => (i64::MIN + n).to_string(),
        ColumnType::Int32 => (i32::MIN + n as i32).to_string(),
        ColumnType::Int16 => (i16::MIN + n as i16).to_string(),
        ColumnType::Int8 => i8::MIN.wrapping_add(n as i8).to_string(),
        ColumnType::UInt64 => (u64::MAX - n as u64).to_string(),
        ColumnType::UInt32 => (u32::MAX - n as u32).to_string(),
        ColumnType::UInt16 => (u16::MAX - n as u16).to_string(),
        ColumnType::UInt8 => u8::MAX.wrapping_sub(n as u8).to_string(),
        ColumnType::Bool => row.is_multiple_of(3).to_string(),
        ColumnType::Timestamp { .. } => (1_700_000_000_000_000 + n).to_string(),
        ColumnType::Enum => SIDES[row % SIDES.len()].into(),
        ColumnType::Text => NOTES[row % NOTES.len()].into(),
        ColumnType::Bytes { .. } => format!("{:02x}abff", row as u8),
    })
}

fn typed_json(column: usize, row: usize, is_quoted: impl Fn(ColumnType) -> bool) -> String {
    match typed_text(column, row) {
        None => "null".into(),
        Some(text) if is_quoted(TYPES[column].1) => serde_json::to_string(&text).unwrap(),
        Some(text) => text,
    }
}

fn is_text(kind: ColumnType) -> bool {
    matches!(kind, ColumnType::Enum | ColumnType::Text | ColumnType::Bytes { .. })
}

#[test]
fn json_has_every_cell_of_every_type() {
    let is_long = |kind| {
        matches!(
            kind,
            ColumnType::Decimal { .. }
                | ColumnType::WideDecimal { .. }
                | ColumnType::Int64
                | ColumnType::UInt64
                | ColumnType::Timestamp { .. }
        )
    };
    for (numbers, quotes_long) in
        [(NumberFormat::Stored, false), (NumberFormat::Decimal128, false), (NumberFormat::String, true)]
    {
        let is_quoted = |kind| is_text(kind) || quotes_long && is_long(kind);
        let blocks = || vec![typed_block(0, 13), typed_block(13, 40)];
        let lines: Vec<String> = (0..53)
            .map(|row| {
                let ts = if quotes_long { format!("\"{row}\"") } else { row.to_string() };
                let cells = (0..TYPES.len())
                    .map(|column| format!(",\"{}\":{}", TYPES[column].0, typed_json(column, row, is_quoted)));
                format!("{{\"ts\":{ts}{}}}", cells.collect::<String>())
            })
            .collect();
        let found = String::from_utf8(body(&typed_shape(numbers), of(OutFormat::Ndjson), blocks())).unwrap();
        assert_eq!(found.lines().collect::<Vec<_>>(), lines, "{numbers:?}");
        let json = body(&typed_shape(numbers), of(OutFormat::Json), blocks());
        let parsed: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(parsed["rows"].as_array().unwrap().len(), 53);
        assert_eq!(parsed["rows"][4]["note"].as_str(), typed_text(15, 4).as_deref());
        let options = EncodeOptions { shape: JsonShape::Columns, ..of(OutFormat::Json) };
        let columns = String::from_utf8(body(&typed_shape(numbers), options, blocks())).unwrap();
        for (column, (name, _)) in TYPES.into_iter().enumerate() {
            let cells: Vec<String> = (0..53).map(|row| typed_json(column, row, is_quoted)).collect();
            assert!(columns.contains(&format!(",\"{name}\":[{}]", cells.join(","))), "{numbers:?} {name}");
        }
    }
    let line =
        String::from_utf8(body(&typed_shape(NumberFormat::Float64), of(OutFormat::Ndjson), vec![typed_block(2, 1)]));
    assert!(line.unwrap().starts_with("{\"ts\":2,\"dec\":-2.98,\"wide\":0.007,"));
    let line = String::from_utf8(body(&typed_shape(NumberFormat::Raw), of(OutFormat::Ndjson), vec![typed_block(2, 1)]));
    assert!(line.unwrap().starts_with("{\"ts\":2,\"dec\":-298,\"wide\":7,"));
    let options = EncodeOptions { times: TimeFormat::Rfc3339, ..of(OutFormat::Ndjson) };
    let line = String::from_utf8(body(&typed_shape(NumberFormat::Stored), options, vec![typed_block(2, 1)])).unwrap();
    assert!(line.contains("\"at\":\"2023-11-14T22:13:20.000002Z\""), "{line}");
}

#[test]
fn csv_tells_nulls_from_empty_texts_and_quotes_what_needs_it() {
    let found =
        body(&typed_shape(NumberFormat::Stored), of(OutFormat::Csv), vec![typed_block(0, 13), typed_block(13, 40)]);
    let names: Vec<&str> = TYPES.iter().map(|(name, _)| *name).collect();
    let mut expected = format!("ts,{}\n", names.join(","));
    for row in 0..53 {
        expected += &row.to_string();
        for (column, (_, kind)) in TYPES.into_iter().enumerate() {
            expected.push(',');
            match typed_text(column, row) {
                Some(_) if kind == ColumnType::Text => expected += NOTES_CSV[row % NOTES.len()],
                text => expected += &text.unwrap_or_default(),
            }
        }
        expected.push('\n');
    }
    assert_eq!(std::str::from_utf8(&found).unwrap(), expected);
    let mut reader = csv::Reader::from_reader(found.as_slice());
    for (row, record) in reader.records().enumerate() {
        let record = record.unwrap();
        assert_eq!(&record[16], typed_text(15, row).unwrap_or_default(), "{row}");
    }
}

/// Checks cells that an independent reader decoded.
pub(crate) fn assert_typed(batch: &RecordBatch, first: usize) {
    use arrow::util::display::array_value_to_string;
    for (column, (name, kind)) in TYPES.into_iter().enumerate() {
        let cells = &batch[name];
        for row in 0..batch.num_rows() {
            let expected = typed_text(column, first + row);
            assert_eq!(cells.is_null(row), expected.is_none(), "{name} {row}");
            let Some(expected) = expected else { continue };
            let found = match kind {
                ColumnType::Timestamp { .. } => {
                    cells.as_primitive::<arrow::datatypes::TimestampMicrosecondType>().value(row).to_string()
                }
                _ => array_value_to_string(cells, row).unwrap(),
            };
            assert_eq!(found, expected, "{name} {row}");
        }
    }
}

#[test]
fn arrow_and_parquet_have_every_cell_of_every_type() {
    for numbers in NUMBERS {
        let shape = typed_shape(numbers);
        let schema = shape.arrow_schema();
        let blocks = [typed_block(0, 13), typed_block(13, 40)];
        let expected: Vec<RecordBatch> =
            blocks.iter().map(|block| shape.record_batch(&schema, block).unwrap()).collect();
        let bytes = body(&shape, of(OutFormat::Arrow), blocks.to_vec());
        let reader = StreamReader::try_new(bytes.as_slice(), None).unwrap();
        assert_eq!(reader.schema(), schema, "{numbers:?}");
        let found: Vec<RecordBatch> = reader.map(|batch| batch.unwrap()).collect();
        assert_eq!(found, expected, "{numbers:?}");
        let file = Bytes::from(body(&shape, of(OutFormat::Parquet), blocks.to_vec()));
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        assert_eq!(builder.schema().fields(), schema.fields(), "{numbers:?}");
        let stored: Vec<RecordBatch> = builder.build().unwrap().map(|batch| batch.unwrap()).collect();
        assert_eq!(stored.iter().map(RecordBatch::num_rows).sum::<usize>(), 53);
        if matches!(numbers, NumberFormat::Stored | NumberFormat::Decimal128 | NumberFormat::String) {
            assert_typed(&found[0], 0);
            assert_typed(&found[1], 13);
            assert_typed(&stored[0], 0);
        }
        let empty = body(&shape, of(OutFormat::Arrow), vec![]);
        assert_eq!(StreamReader::try_new(empty.as_slice(), None).unwrap().schema(), schema);
        assert_eq!(shape.bytes_of(53), None, "columns with nulls");
    }
}

#[test]
fn bytes_of_a_result_are_those_of_its_buffers() {
    for numbers in NUMBERS {
        let mut shape = typed_shape(numbers);
        shape.columns.retain(|column| column.kind != ColumnType::Bool);
        shape.columns.iter_mut().for_each(|column| column.nullable = false);
        let kept: Vec<usize> = std::iter::once(0).chain((1..=TYPES.len()).filter(|column| *column != 13)).collect();
        // Rows 0 to 6 have nulls; without their bitmaps their cells are zeros.
        let block = typed_block(0, 7).select(&kept);
        let cells: usize = shape.column_buffers(&block).map(|column| column.cells.len()).sum();
        let texts: usize = shape.dictionaries().map(|texts| texts.value_data().len() + 4 * (texts.len() + 1)).sum();
        let expected = (numbers != NumberFormat::String).then_some((cells + texts) as u64);
        assert_eq!(shape.bytes_of(7), expected, "{numbers:?}");
    }
}

#[test]
fn a_position_outside_of_the_dictionary_is_damage_and_no_text() {
    let mut shape = typed_shape(NumberFormat::Stored);
    shape.columns[15].labels = Some(["only".into()].into_iter().collect());
    for format in [OutFormat::Json, OutFormat::Csv, OutFormat::Parquet] {
        let pieces = pieces(&shape, of(format), vec![Ok(typed_block(0, 13))]);
        assert_eq!(pieces.last().unwrap().as_ref().unwrap_err().code(), crate::ErrorCode::CorruptData, "{format:?}");
    }
}
