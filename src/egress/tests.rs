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
use crate::types::{ColumnCells, ColumnType, SeriesKey, SharedCells, TimeUnit};

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
