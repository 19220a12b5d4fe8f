//! Tests of cells of every type in every format, of nulls, and of hostile dictionaries.

use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::{DataType, Field, Int8Type, Int32Type, Schema, UInt64Type, i256};
use arrow::ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions, StreamWriter};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::error::{ErrorCode, Result};
use crate::types::dictionary::{TEXT_BYTES_MAX, TEXTS_MAX};
use crate::types::{
    CellLayout, Column, ColumnCells, ColumnType, Dictionary, OrderRule, Rounding, Rows, SeriesDef, SeriesKey,
    SeriesSpec, TimeUnit,
};

fn of_columns(columns: Vec<Column>) -> SeriesDef {
    let key = SeriesKey::scalar("c", "X", "tick", "n").unwrap();
    SeriesDef { columns, ..SeriesSpec::of_key(&key).resolve().unwrap() }
}

/// A column of each type but the eight-byte numbers of klines, all nullable or none.
fn columns(nullable: bool) -> Vec<Column> {
    let column = |name: &str, kind| Column { nullable, ..Column::new(name, kind) };
    vec![
        column("price", ColumnType::Decimal { digits: 2 }),
        column("quote", ColumnType::WideDecimal { digits: 10 }),
        column("delta", ColumnType::Float64),
        column("iv", ColumnType::Float32),
        column("size", ColumnType::Int32),
        column("id", ColumnType::UInt64),
        column("flags", ColumnType::UInt8),
        column("maker", ColumnType::Bool),
        column("sent", ColumnType::Timestamp { unit: TimeUnit::Us }),
        Column { values: vec!["buy".into(), "sell".into()], ..column("side", ColumnType::Enum) },
        column("venue", ColumnType::Text),
        column("hash", ColumnType::Bytes { length: 4 }),
    ]
}

fn column(kind: ColumnType) -> SeriesDef {
    of_columns(vec![Column { nullable: true, ..Column::new("v", kind) }])
}

fn options() -> DecodeOptions {
    DecodeOptions::default().any_time()
}

const BIG: i128 = 99_999_999_999_999_999_999_999_999_999_999_999_999;

fn cells<T: crate::types::column::Cell>(kind: ColumnType, cells: [Option<T>; 3]) -> ColumnCells {
    let mut column = ColumnCells::new(kind.layout());
    for cell in cells {
        match cell {
            Some(cell) => column.push(cell),
            None => column.push_null(),
        }
    }
    column
}

/// Three rows; the second is null in every column.
fn expected() -> Rows {
    let kinds: Vec<ColumnType> = columns(true).iter().map(|column| column.kind).collect();
    let mut hash = ColumnCells::new(CellLayout::Bytes(4));
    hash.push_bytes(&[0xde, 0xad, 0xbe, 0xef]);
    hash.push_null();
    hash.push_bytes(&[0, 1, 2, 0xff]);
    let columns = vec![
        cells(kinds[0], [Some(150_i64), None, Some(-5)]),
        cells(kinds[1], [Some(BIG), None, Some(-1_i128)]),
        cells(kinds[2], [Some(0.1_f64), None, Some(-0.0)]),
        cells(kinds[3], [Some(0.1_f32), None, Some(-1.5)]),
        cells(kinds[4], [Some(i32::MAX), None, Some(i32::MIN)]),
        cells(kinds[5], [Some(u64::MAX), None, Some(0)]),
        cells(kinds[6], [Some(255_u8), None, Some(0)]),
        cells(kinds[7], [Some(1_u8), None, Some(0)]),
        cells(kinds[8], [Some(1_706_745_600_000_001_i64), None, Some(0)]),
        cells(kinds[9], [Some(1_u8), None, Some(0)]),
        cells(kinds[10], [Some(0_u32), None, Some(1)]),
        hash,
    ];
    let texts = ["X\"N,é\\", ""].into_iter().map(Arc::from).collect();
    let mut rows = Rows::new(vec![5, 5, 3], columns);
    rows.texts = vec![Dictionary::default(); 12];
    rows.texts[10] = texts;
    rows
}

/// One row per timestamp is not required of the rows: the first two have the same, the third an earlier one.
const JSON_ROWS: &str = r#"[
 {"ts":5,"price":1.5,"quote":"9999999999999999999999999999.9999999999","delta":0.1,"iv":0.1,"size":2147483647,
  "id":18446744073709551615,"flags":255,"maker":true,"sent":"2024-02-01T00:00:00.000001Z","side":"sell",
  "venue":"X\"N,\u00e9\\","hash":"DEADbeef"},
 {"ts":5,"price":null,"quote":null,"delta":null,"iv":null,"size":null,"id":null,"maker":null,"hash":null},
 {"ts":3,"price":"-0.05","quote":-1e-10,"delta":-0.0,"iv":"-1.5","size":"-2147483648","id":0,"flags":0.0,
  "maker":false,"sent":"1970-01-01","side":"buy","venue":"","hash":"000102ff"}]"#;

const JSON_COLUMNS: &str = r#"{"columns":{"ts":[5,5,3],"price":[1.5,null,-0.05],
 "quote":["9999999999999999999999999999.9999999999",null,-1e-10],"delta":[0.1,null,-0.0],"iv":[0.1,null,-1.5],
 "size":[2147483647,null,-2147483648],"id":["18446744073709551615",null,0],"flags":[255,null,0],
 "maker":[true,null,"F"],"sent":[1706745600000001,null,0],"side":["sell",null,"buy"],
 "venue":["X\"N,é\\",null,""],"hash":["deadbeef",null,"000102FF"]}}"#;

const CSV: &str = "hash,venue,ts,price,quote,delta,iv,size,id,flags,maker,sent,side\r\n\
 deadbeef,\"X\"\"N,é\\\",5,1.5,9999999999999999999999999999.9999999999,0.1,0.1,2147483647,18446744073709551615,255,\
 T,1706745600000001,sell\r\n\
 ,,5,,,,,,,,,,\r\n\
 000102ff,\"\",3,-0.05,-0.0000000001,-0.0,-1.5,-2147483648,0,0,FALSE,1970-01-01T00:00:00Z,buy\r\n";

fn decimal128(cells: Vec<Option<i128>>, digits: i8) -> ArrayRef {
    Arc::new(Decimal128Array::from(cells).with_precision_and_scale(38, digits).unwrap())
}

fn arrow_batch() -> RecordBatch {
    let side: DictionaryArray<Int8Type> = vec![Some("sell"), None, Some("buy")].into_iter().collect();
    let hash: Vec<Option<&[u8]>> = vec![Some(&[0xde, 0xad, 0xbe, 0xef]), None, Some(&[0, 1, 2, 0xff])];
    let hash = FixedSizeBinaryArray::try_from_sparse_iter_with_size(hash.into_iter(), 4).unwrap();
    let sent = TimestampNanosecondArray::from(vec![Some(1_706_745_600_000_001_000), None, Some(0)]);
    let venue = vec![Some("X\"N,é\\"), None, Some("")];
    batch_of(vec![
        ("ts", Arc::new(Int64Array::from(vec![5, 5, 3]))),
        ("price", Arc::new(Float64Array::from(vec![Some(1.5), None, Some(-0.05)]))),
        ("quote", decimal128(vec![Some(BIG), None, Some(-1)], 10)),
        ("delta", Arc::new(Float64Array::from(vec![Some(0.1), None, Some(-0.0)]))),
        ("iv", Arc::new(Float32Array::from(vec![Some(0.1), None, Some(-1.5)]))),
        ("size", Arc::new(Int32Array::from(vec![Some(i32::MAX), None, Some(i32::MIN)]))),
        ("id", Arc::new(UInt64Array::from(vec![Some(u64::MAX), None, Some(0)]))),
        ("flags", Arc::new(Int64Array::from(vec![Some(255), None, Some(0)]))),
        ("maker", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
        ("sent", Arc::new(sent.with_timezone("UTC"))),
        ("side", Arc::new(side)),
        ("venue", Arc::new(StringArray::from(venue))),
        ("hash", Arc::new(hash)),
    ])
}

/// The same rows in other Arrow types.
fn other_batch() -> RecordBatch {
    let venue: DictionaryArray<UInt64Type> = vec![Some("X\"N,é\\"), None, Some("")].into_iter().collect();
    let quote = Decimal256Array::from(vec![Some(i256::from_i128(BIG)), None, Some(i256::from_i128(-1))]);
    let mut columns: Vec<ArrayRef> = arrow_batch().columns().to_vec();
    columns[1] = decimal128(vec![Some(15_000), None, Some(-500)], 4);
    columns[2] = Arc::new(quote.with_precision_and_scale(76, 10).unwrap());
    columns[4] = Arc::new(Float64Array::from(vec![Some(f64::from(0.1_f32)), None, Some(-1.5)]));
    columns[5] = decimal128(vec![Some(21_474_836_470), None, Some(-21_474_836_480)], 1);
    columns[6] = decimal128(vec![Some(u64::MAX.into()), None, Some(0)], 0);
    columns[7] = Arc::new(UInt8Array::from(vec![Some(255), None, Some(0)]));
    columns[9] = Arc::new(Int64Array::from(vec![Some(1_706_745_600_000_001), None, Some(0)]));
    columns[10] = Arc::new(StringViewArray::from(vec![Some("sell"), None, Some("buy")]));
    columns[11] = Arc::new(venue);
    columns[12] = Arc::new(LargeStringArray::from(vec![Some("deadbeef"), None, Some("000102ff")]));
    let names = arrow_batch().schema();
    batch_of(names.fields().iter().map(|field| field.name().as_str()).zip(columns).collect())
}

fn batch_of(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
}

fn stream(batch: &RecordBatch) -> Vec<u8> {
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap()
}

fn parquet_of(batch: &RecordBatch) -> Vec<u8> {
    let mut body = Vec::new();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut body, batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    body
}

fn bodies() -> Vec<(BodyFormat, Vec<u8>)> {
    let ndjson = JSON_ROWS.replace('\n', "").replace("},", "}\n");
    let ndjson = ndjson.trim_start_matches('[').trim_end_matches(']').to_owned();
    vec![
        (BodyFormat::Json, JSON_ROWS.into()),
        (BodyFormat::Json, JSON_COLUMNS.into()),
        (BodyFormat::Ndjson, ndjson.into()),
        (BodyFormat::Csv, CSV.into()),
        (BodyFormat::Arrow, stream(&arrow_batch())),
        (BodyFormat::Arrow, stream(&other_batch())),
        (BodyFormat::Parquet, parquet_of(&arrow_batch())),
        (BodyFormat::Parquet, parquet_of(&other_batch())),
    ]
}

#[test]
fn rows_of_every_type_are_the_same_from_every_format() {
    for order in [OrderRule::Arrival, OrderRule::Unique(vec!["id".into()]), OrderRule::default()] {
        let def = SeriesDef { order, ..of_columns(columns(true)) };
        for (format, body) in bodies() {
            let shown = String::from_utf8_lossy(&body).into_owned();
            let parsed = parse(format, &def, &body, &options()).unwrap_or_else(|error| panic!("{error:?} {shown}"));
            assert_eq!(parsed.rows, expected(), "{format:?} {shown}");
            validate(&def, &parsed.rows, &options()).unwrap();
        }
        for batch in [arrow_batch(), other_batch()] {
            assert_eq!(from_batch(&def, batch, &options()).unwrap().rows, expected());
        }
    }
}

#[test]
fn bytes_of_the_width_of_numbers_are_read_as_bytes_in_every_format() {
    for length in [1_u16, 2, 4, 8, 16] {
        for nullable in [false, true] {
            let kind = ColumnType::Bytes { length };
            let def = of_columns(vec![Column { nullable, ..Column::new("v", kind) }]);
            let given: Vec<u8> = (0..length).map(|byte| 0xf0 ^ byte as u8).collect();
            let hex: String = given.iter().map(|byte| format!("{byte:02x}")).collect();
            let mut expected = ColumnCells::new(kind.layout());
            expected.push_bytes(&given);
            let fixed = FixedSizeBinaryArray::try_from_iter(std::iter::once(&given)).unwrap();
            let arrays: [ArrayRef; 3] = [
                Arc::new(fixed),
                Arc::new(BinaryArray::from(vec![given.as_slice()])),
                Arc::new(StringArray::from(vec![hex.as_str()])),
            ];
            let batches = arrays.map(|array| batch_of(vec![("ts", Arc::new(Int64Array::from(vec![5]))), ("v", array)]));
            let mut bodies = vec![
                (BodyFormat::Json, format!(r#"[{{"ts":5,"v":"{hex}"}}]"#).into_bytes()),
                (BodyFormat::Json, format!(r#"{{"columns":{{"ts":[5],"v":["{hex}"]}}}}"#).into_bytes()),
                (BodyFormat::Ndjson, format!("{{\"ts\":5,\"v\":\"{hex}\"}}\n").into_bytes()),
                (BodyFormat::Csv, format!("ts,v\n5,{hex}\n").into_bytes()),
            ];
            bodies.extend(batches.iter().map(|batch| (BodyFormat::Arrow, stream(batch))));
            bodies.extend(batches.iter().map(|batch| (BodyFormat::Parquet, parquet_of(batch))));
            for (format, body) in bodies {
                let found = parse(format, &def, &body, &options()).unwrap().rows;
                assert_eq!(found.columns, [expected.clone()], "{format:?}, {length} bytes");
            }
        }
    }
}

#[test]
fn a_null_in_a_column_that_is_not_nullable_is_missing_in_every_format() {
    let def = of_columns(columns(false));
    for (format, body) in bodies() {
        let error = parse(format, &def, &body, &options()).unwrap_err();
        let mut found: Vec<&str> = error.rows().iter().map(|row| row.field.as_str()).collect();
        found.sort_unstable();
        let mut names: Vec<&str> = def.columns.iter().map(|column| column.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(found, names, "{format:?}");
        assert!(error.rows().iter().all(|row| row.row == 1 && row.reason == "missing"), "{error:?}");
    }
    let mut nulls = expected();
    assert_eq!(validate(&def, &nulls, &options()).unwrap_err().code(), ErrorCode::SchemaMismatch);
    // Positions and bounds are checked too.
    let def = of_columns(columns(true));
    nulls.texts.clear();
    assert_eq!(validate(&def, &nulls, &options()).unwrap_err().rows()[0].reason, "unknown_value");
    for (at, bad) in [(0, ColumnCells::from([10_i64.pow(18); 3])), (1, [BIG + 1; 3].into()), (9, [2_u8; 3].into())] {
        let mut rows = expected();
        rows.columns[at] = bad;
        assert_eq!(validate(&def, &rows, &options()).unwrap_err().rows().len(), 3, "{at}");
    }
    let mut rows = expected();
    rows.columns[3] = [0.0_f32, f32::NAN, 1.0].into();
    assert_eq!(validate(&def, &rows, &options()).unwrap_err().rows()[0].reason, "not_finite");
    rows.columns[3] = [0_i64; 3].into();
    assert_eq!(validate(&def, &rows, &options()).unwrap_err().code(), ErrorCode::SchemaMismatch);
}

#[test]
fn a_body_without_a_nullable_column_has_nulls_in_it() {
    let def = of_columns(columns(true));
    let batch = batch_of(vec![("ts", Arc::new(Int64Array::from(vec![1, 2])))]);
    for (format, body) in [
        (BodyFormat::Json, br#"[{"ts":1},{"ts":2}]"#.to_vec()),
        (BodyFormat::Json, br#"{"columns":{"ts":[1,2]}}"#.to_vec()),
        (BodyFormat::Csv, b"ts\n1\n2\n".to_vec()),
        (BodyFormat::Arrow, stream(&batch)),
        (BodyFormat::Parquet, parquet_of(&batch)),
    ] {
        let rows = parse(format, &def, &body, &options()).unwrap().rows;
        assert!(rows.columns.iter().all(|column| column.as_slice().null_count() == 2), "{format:?} {rows:?}");
    }
    let def = of_columns(columns(false));
    assert_eq!(parse(BodyFormat::Csv, &def, b"ts\n1\n", &options()).unwrap_err().code(), ErrorCode::SchemaMismatch);
}

/// Reasons of the row errors.
fn reasons(result: Result<ParsedRows>) -> Vec<String> {
    match result {
        Ok(_) => Vec::new(),
        Err(error) => {
            assert_eq!(error.code(), ErrorCode::InvalidRows, "{error:?}");
            error.rows().iter().map(|row| row.reason.clone()).collect()
        }
    }
}

#[test]
fn text_that_a_type_cannot_hold_is_refused_with_its_reason() {
    let long = format!("\"{}\"", "x".repeat(TEXT_BYTES_MAX + 1));
    for (kind, cell, reason) in [
        (ColumnType::Int32, "2147483648", "overflow"),
        (ColumnType::Int8, "-129", "overflow"),
        (ColumnType::UInt64, "-1", "overflow"),
        (ColumnType::UInt64, "18446744073709551616", "overflow"),
        (ColumnType::UInt8, "256", "overflow"),
        (ColumnType::UInt8, "1.5", "precision_loss"),
        (ColumnType::Int16, "1e400", "overflow"),
        (ColumnType::UInt16, "\"\"", "not_a_number"),
        (ColumnType::UInt16, "true", "wrong_type"),
        (ColumnType::Float32, "1e39", "overflow"),
        (ColumnType::Float32, "\"nan\"", "not_finite"),
        (ColumnType::Float64, "\"NaN\"", "not_finite"),
        (ColumnType::WideDecimal { digits: 2 }, "1.005", "precision_loss"),
        (ColumnType::WideDecimal { digits: 2 }, "1e36", "overflow"),
        (ColumnType::Bool, "2", "wrong_type"),
        (ColumnType::Bool, "\"yes\"", "wrong_type"),
        (ColumnType::Timestamp { unit: TimeUnit::Ms }, "\"soon\"", "bad_time"),
        (ColumnType::Timestamp { unit: TimeUnit::Ms }, "\"2024-02-01T00:00:00.0001Z\"", "bad_time"),
        (ColumnType::Timestamp { unit: TimeUnit::Ms }, "9214646400000", "time_out_of_range"),
        (ColumnType::Text, "7", "wrong_type"),
        (ColumnType::Text, "[\"a\"]", "wrong_type"),
        (ColumnType::Text, "\"a\\u0000b\"", "bad_text"),
        (ColumnType::Text, &long, "too_long"),
        (ColumnType::Bytes { length: 2 }, "\"abc\"", "bad_bytes"),
        (ColumnType::Bytes { length: 2 }, "\"abcg\"", "bad_bytes"),
        (ColumnType::Bytes { length: 2 }, "1234", "wrong_type"),
    ] {
        let def = column(kind);
        for body in [format!(r#"[{{"ts":1,"v":{cell}}}]"#), format!(r#"{{"columns":{{"ts":[1],"v":[{cell}]}}}}"#)] {
            assert_eq!(reasons(parse(BodyFormat::Json, &def, body.as_bytes(), &options())), [reason], "{body}");
        }
    }
    let def = of_columns(columns(false));
    let body = CSV.replace(",sell", ",Sell");
    let error = parse(BodyFormat::Csv, &of_columns(columns(true)), body.as_bytes(), &options()).unwrap_err();
    assert_eq!((error.rows()[0].reason.as_str(), error.rows().len()), ("unknown_value", 1));
    assert_eq!(error.rows()[0].message, r#"side "Sell" is not one of buy, sell"#);
    assert!(def.columns.iter().all(|column| !column.nullable));
    // An empty text needs quotes in CSV, and is one in JSON.
    let def = of_columns(vec![Column::new("v", ColumnType::Text), Column::new("w", ColumnType::Text)]);
    let body = b"ts,v,w\n1,\"a,\"\"\",\"\"\r\n\n2,a\"b\"\"\",\n";
    assert_eq!(reasons(parse(BodyFormat::Csv, &def, body, &options())), ["missing"]);
    assert!(parse(BodyFormat::Json, &def, br#"[{"ts":1,"v":"","w":"x"}]"#, &options()).is_ok());
    let nearest = DecodeOptions { rounding: Rounding::Nearest, ..options() };
    let body = b"ts,v\n1,2.5\n";
    let parsed = parse(BodyFormat::Csv, &column(ColumnType::UInt8), body, &nearest).unwrap();
    assert_eq!((parsed.rows.columns[0].as_slice().typed::<u8>(), parsed.rounded), (&[2_u8][..], vec![1]));
}

#[test]
fn arrow_cells_that_a_type_cannot_hold_are_refused_with_their_reason() {
    let nearest = DecodeOptions { rounding: Rounding::Nearest, ..options() };
    let cases: Vec<(ColumnType, ArrayRef, &str, bool)> = vec![
        (ColumnType::Float32, Arc::new(Float64Array::from(vec![0.1])), "precision_loss", true),
        (ColumnType::Float32, Arc::new(Float64Array::from(vec![1e300])), "overflow", false),
        (ColumnType::Float32, Arc::new(Float32Array::from(vec![f32::NAN])), "not_finite", false),
        (ColumnType::UInt32, Arc::new(Int64Array::from(vec![-1])), "overflow", false),
        (ColumnType::UInt32, Arc::new(Float64Array::from(vec![1.5])), "precision_loss", true),
        (ColumnType::UInt64, Arc::new(Float64Array::from(vec![18_446_744_073_709_551_616.0])), "overflow", false),
        (ColumnType::Int8, decimal128(vec![Some(1_285)], 1), "precision_loss", false),
        (ColumnType::WideDecimal { digits: 1 }, decimal128(vec![Some(125)], 2), "precision_loss", true),
        (ColumnType::WideDecimal { digits: 30 }, Arc::new(Int64Array::from(vec![i64::MAX])), "overflow", false),
        (ColumnType::Text, Arc::new(StringArray::from(vec!["a\0"])), "bad_text", false),
        (ColumnType::Bytes { length: 2 }, Arc::new(BinaryArray::from(vec![&b"abc"[..]])), "bad_bytes", false),
        (
            ColumnType::Timestamp { unit: TimeUnit::Ms },
            Arc::new(TimestampMicrosecondArray::from(vec![1])),
            "bad_time",
            false,
        ),
        (
            ColumnType::Timestamp { unit: TimeUnit::Ns },
            Arc::new(TimestampSecondArray::from(vec![i64::MAX])),
            "time_out_of_range",
            false,
        ),
    ];
    for (kind, array, reason, rounds) in cases {
        let batch = batch_of(vec![("ts", Arc::new(Int64Array::from(vec![1]))), ("v", array)]);
        let def = column(kind);
        assert_eq!(reasons(from_batch(&def, batch.clone(), &options())), [reason], "{kind:?}");
        assert_eq!(from_batch(&def, batch, &nearest).is_ok(), rounds, "{kind:?}");
    }
    for (kind, array) in [
        (ColumnType::Bool, Arc::new(Int64Array::from(vec![1])) as ArrayRef),
        (ColumnType::Text, Arc::new(Int64Array::from(vec![1]))),
        (ColumnType::Enum, Arc::new(BooleanArray::from(vec![true]))),
        (ColumnType::UInt8, Arc::new(BooleanArray::from(vec![true]))),
        (ColumnType::Bytes { length: 2 }, Arc::new(Int64Array::from(vec![1]))),
        (ColumnType::Timestamp { unit: TimeUnit::Ms }, Arc::new(Float64Array::from(vec![1.0]))),
    ] {
        let batch = batch_of(vec![("ts", Arc::new(Int64Array::from(vec![1]))), ("v", array)]);
        for (format, body) in [(BodyFormat::Arrow, stream(&batch)), (BodyFormat::Parquet, parquet_of(&batch))] {
            let error = parse(format, &column(kind), &body, &options()).unwrap_err();
            assert_eq!(error.code(), ErrorCode::SchemaMismatch, "{kind:?} {error}");
        }
    }
}

#[test]
fn more_different_texts_than_a_column_can_have_are_refused() {
    let def = column(ColumnType::Text);
    let mut csv = String::from("ts,v\n");
    (0..=TEXTS_MAX).for_each(|number| csv.push_str(&format!("1,{number}\n")));
    assert_eq!(reasons(parse(BodyFormat::Csv, &def, csv.as_bytes(), &options())), ["dictionary_full"]);
    let texts = StringArray::from_iter_values((0..=TEXTS_MAX).map(|number| number.to_string()));
    let ts = Int64Array::from(vec![1; TEXTS_MAX + 1]);
    let batch = batch_of(vec![("ts", Arc::new(ts)), ("v", Arc::new(texts))]);
    assert_eq!(reasons(from_batch(&def, batch, &options())), ["dictionary_full"]);
}

/// Schema, dictionary and batch messages of a stream: header and body of each.
fn messages(batch: &RecordBatch) -> Vec<(Vec<u8>, Vec<u8>)> {
    let (generator, options) = (IpcDataGenerator::default(), IpcWriteOptions::default());
    let mut tracker = DictionaryTracker::new(false);
    let schema = generator.schema_to_bytes_with_dictionary_tracker(&batch.schema(), &mut tracker, &options);
    let mut context = IpcWriteContext::default();
    let (dictionaries, batch) = generator.encode(batch, &mut tracker, &options, &mut context).unwrap();
    std::iter::once(schema)
        .chain(dictionaries)
        .chain([batch])
        .map(|message| (message.ipc_message, message.arrow_data))
        .collect()
}

/// A batch with dictionaries, views and variable-length columns.
fn texts_batch() -> RecordBatch {
    let side: DictionaryArray<Int32Type> = vec![Some("sell"), None, Some("buy"), Some("sell")].into_iter().collect();
    let venue = StringViewArray::from(vec![Some("a text longer than a view holds"), Some("b"), None, Some("")]);
    let hash = BinaryArray::from(vec![Some(&[1_u8, 2, 3, 4][..]), None, Some(&[0; 4]), None]);
    let note = LargeStringArray::from(vec!["x", "yy", "", "zzz"]);
    batch_of(vec![
        ("ts", Arc::new(Int64Array::from(vec![1, 2, 3, 4]))),
        ("side", Arc::new(side)),
        ("venue", Arc::new(venue)),
        ("hash", Arc::new(hash)),
        ("note", Arc::new(note)),
        ("maker", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false), None]))),
    ])
}

fn texts_def() -> SeriesDef {
    let mut all = columns(true);
    all.retain(|column| ["side", "venue", "hash", "maker"].contains(&column.name.as_str()));
    all.push(Column { nullable: true, ..Column::new("note", ColumnType::Text) });
    of_columns(all)
}

#[test]
fn no_damage_to_dictionaries_or_texts_panics() {
    let def = texts_def();
    let good = messages(&texts_batch());
    let decode = |messages: &[(Vec<u8>, Vec<u8>)]| -> Result<ParsedRows> {
        let mut decoder = ArrowDecoder::new(&messages[0].0)?;
        let mut parsed = ParsedRows::default();
        for (header, body) in &messages[1..] {
            if ArrowDecoder::is_dictionary(header)? {
                decoder.take_dictionary(header, body)?;
            } else {
                parsed = from_arrow_into(&def, None, decoder.decode_batch(header, body)?, &options())?;
            }
        }
        Ok(parsed)
    };
    assert_eq!(decode(&good).unwrap().rows.len(), 4);
    std::panic::set_hook(Box::new(|_| {}));
    let mut random = StdRng::seed_from_u64(11);
    let (mut taken, mut refused) = (0, 0);
    for round in 0..30_000 {
        let mut bad = good.clone();
        let message = random.random_range(0..bad.len());
        let (header, body) = &mut bad[message];
        let bytes = if random.random_bool(0.3) && !body.is_empty() { body } else { header };
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..bytes.len());
            bytes[at] = random.random();
        }
        let result = std::panic::catch_unwind(|| decode(&bad));
        match result {
            Err(_) => {
                let _ = std::panic::take_hook();
                panic!("round {round}, message {message}: {:?}", bad[message]);
            }
            Ok(Ok(parsed)) => {
                parsed.rows.check_columns(&def.columns).unwrap();
                validate(&def, &parsed.rows, &options()).unwrap();
                taken += 1;
            }
            Ok(Err(error)) => {
                assert!(error.code().http() < 500, "{error}");
                refused += 1;
            }
        }
    }
    let _ = std::panic::take_hook();
    assert!(taken > 500 && refused > 500, "{taken} {refused}");
}

#[test]
fn positions_beyond_a_dictionary_and_dictionaries_of_no_column_are_refused() {
    let def = of_columns(vec![Column { nullable: true, ..Column::new("v", ColumnType::Text) }]);
    let ts: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    let of = |keys: Vec<i32>, words: Vec<&str>| {
        let words: ArrayRef = Arc::new(StringArray::from(words));
        let v = DictionaryArray::<Int32Type>::new(Int32Array::from(keys), words);
        messages(&batch_of(vec![("ts", ts.clone()), ("v", Arc::new(v))]))
    };
    let (long, short) = (of(vec![2, 0], vec!["a", "b", "c"]), of(vec![0, 0], vec!["z"]));
    let mut decoder = ArrowDecoder::new(&long[0].0).unwrap();
    let decode = |decoder: &ArrowDecoder, (header, body): &(Vec<u8>, Vec<u8>)| {
        from_arrow_into(&def, None, decoder.decode_batch(header, body)?, &options())
    };
    // A batch before its dictionary, and one whose dictionary was replaced by a shorter one.
    assert_eq!(decode(&decoder, &long[2]).unwrap_err().code(), ErrorCode::InvalidArgument);
    decoder.take_dictionary(&long[1].0, &long[1].1).unwrap();
    let rows = decode(&decoder, &long[2]).unwrap().rows;
    assert_eq!(rows.texts[0].texts().map(AsRef::as_ref).collect::<Vec<&str>>(), ["c", "a"]);
    decoder.take_dictionary(&short[1].0, &short[1].1).unwrap();
    assert!(decode(&decoder, &long[2]).unwrap_err().detail().contains("beyond its dictionary"));
    assert!(decode(&decoder, &short[2]).is_ok());
    // A dictionary of numbers, and one for a column that has none.
    let numbers: DictionaryArray<Int32Type> =
        DictionaryArray::new(Int32Array::from(vec![0, 0]), Arc::new(Int64Array::from(vec![7])));
    let numbers = messages(&batch_of(vec![("ts", ts.clone()), ("v", Arc::new(numbers))]));
    assert!(ArrowDecoder::new(&numbers[0].0).unwrap_err().detail().contains("dictionary"));
    let plain = messages(&batch_of(vec![("ts", ts.clone()), ("v", Arc::new(StringArray::from(vec!["a", "b"])))]));
    assert!(ArrowDecoder::new(&plain[0].0).unwrap().take_dictionary(&long[1].0, &long[1].1).is_err());
    assert!(decoder.take_dictionary(&long[2].0, &long[2].1).is_err());
    // More words than a column can have.
    let words: Vec<String> = (0..=TEXTS_MAX).map(|number| number.to_string()).collect();
    let bomb = of(vec![0, 1], words.iter().map(String::as_str).collect());
    let error = decoder.take_dictionary(&bomb[1].0, &bomb[1].1).unwrap_err();
    assert_eq!(error.code(), ErrorCode::TooLarge, "{error}");
    let schema = Schema::new(vec![Field::new("v", DataType::Utf8, true)]);
    assert!(arrow_guard::check_message(&long[1].0, &long[1].1, &schema, None).is_err());
}

#[test]
fn offsets_that_leave_their_text_are_refused_by_the_guard() {
    let batch = batch_of(vec![("v", Arc::new(StringArray::from(vec!["ab", "c", ""])))]);
    let (header, body) = messages(&batch).pop().unwrap();
    let offsets = body.windows(16).position(|bytes| bytes == [0, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0]).unwrap();
    let check = |at: usize, offset: i32| {
        let mut body = body.clone();
        body[offsets + 4 * at..offsets + 4 * at + 4].copy_from_slice(&offset.to_le_bytes());
        arrow_guard::check_message(&header, &body, &batch.schema(), None)
    };
    assert!(check(0, 0).is_ok() && check(0, 1).is_ok());
    for (at, offset) in [(0, -1), (0, 3), (1, 4), (1, i32::MAX), (2, 1), (3, 2), (3, 1_000), (3, i32::MIN)] {
        assert!(check(at, offset).is_err(), "{at} {offset}");
    }
}

#[test]
fn texts_of_several_series_go_to_their_dictionaries() {
    let def = Arc::new(texts_def());
    let keys = ["scalar/c/X/tick/n", "scalar/c/Y/tick/n"];
    let mut columns: Vec<(String, ArrayRef)> = Vec::new();
    let label: DictionaryArray<Int32Type> = vec![keys[0], keys[1], keys[0], keys[1]].into_iter().collect();
    let batch = texts_batch();
    for (at, field) in batch.schema().fields().iter().enumerate() {
        columns.push((field.name().clone(), batch.column(at).clone()));
        if at == 2 {
            columns.push(("series".into(), Arc::new(label.clone())));
        }
    }
    let batch = batch_of(columns.iter().map(|(name, array)| (name.as_str(), array.clone())).collect());
    let lookup = |_: &SeriesKey| Ok((def.clone(), None));
    for (format, body) in [(BodyFormat::Arrow, stream(&batch)), (BodyFormat::Parquet, parquet_of(&batch))] {
        let parsed = parse_many(format, &body, &options(), &lookup).unwrap();
        let shown = |series: usize, row: usize| -> Vec<String> {
            let rows = &parsed[series].1.rows;
            let cells = def.columns.iter().zip(&rows.columns).zip(&rows.texts);
            cells.map(|((column, cells), texts)| show_cell(cells.as_slice(), row, column, Some(texts))).collect()
        };
        assert_eq!(shown(0, 0), ["true", "sell", "a text longer than a view holds", "01020304", "x"], "{format:?}");
        assert_eq!(shown(0, 1), ["false", "buy", "null", "00000000", ""], "{format:?}");
        assert_eq!(shown(1, 0), ["null", "null", "b", "null", "yy"], "{format:?}");
        assert_eq!(shown(1, 1), ["null", "sell", "", "null", "zzz"], "{format:?}");
    }
}

#[test]
fn parquet_texts_of_few_bytes_do_not_become_many() {
    // One text of 100 kB in each of 100,000 rows: copied, ten gigabytes.
    let words: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(100_000)]));
    let rows = 100_000;
    let v = DictionaryArray::<Int32Type>::new(Int32Array::from(vec![0; rows]), words);
    let batch = batch_of(vec![("ts", Arc::new(Int64Array::from(vec![1; rows])) as ArrayRef), ("v", Arc::new(v))]);
    let body = parquet_of(&batch);
    assert!(body.len() < 1 << 20, "{}", body.len());
    let def = column(ColumnType::Text);
    let found = reasons(parse(BodyFormat::Parquet, &def, &body, &options()));
    assert!(found.iter().all(|reason| reason == "too_long") && !found.is_empty());
    let memory = DecodeMemory::new(1 << 30);
    reserve(BodyFormat::Parquet, &body, Some(&def), &mut memory.reservation(std::time::Duration::ZERO)).unwrap();
}

#[test]
fn memory_of_a_row_follows_the_width_of_its_cells() {
    let narrow = row_memory(&column(ColumnType::Bool));
    let wide = row_memory(&column(ColumnType::Bytes { length: 1_000 }));
    assert_eq!((narrow, wide), (2 * CELL_BYTES, CELL_BYTES + 6_000));
}
