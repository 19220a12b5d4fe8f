//! Tests of body decoding: what each format accepts and rejects, and that no bytes cause a panic.

use arrow::array::*;
use arrow::datatypes::*;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use std::sync::Arc;

use super::guarded::guarded;
use super::*;
use crate::error::ErrorCode;
use crate::types::{ColumnCells, Rounding, Rows, SeriesDef, SeriesKey, SeriesSpec, TimeUnit};

fn def(json: &str) -> SeriesDef {
    serde_json::from_str::<SeriesSpec>(json).unwrap().resolve().unwrap()
}

fn kline() -> SeriesDef {
    def(r#"{"kind":"kline","symbol":"X","timeframe":"1m","price_digits":2,"volume_digits":3,
        "extra_columns":[{"name":"trades","type":"int64"},{"name":"vwap"}]}"#)
}

fn scalar(value: &str) -> SeriesDef {
    def(&format!(
        r#"{{"kind":"scalar","category":"feature","symbol":"X","timeframe":"1m","name":"n","value":{value}}}"#
    ))
}

fn bits(value: f64) -> i64 {
    value.to_bits().cast_signed()
}

/// Bodies of these tests are about cells; the rules for timestamps are tested in `timestamp_rules.rs`.
fn any_time() -> DecodeOptions {
    DecodeOptions::default().any_time()
}

const T0: i64 = 1_706_745_600_000;

/// The rows that the bodies of all formats below contain.
fn expected() -> Rows {
    Rows::of_words(
        vec![T0 + 60_000, T0],
        vec![
            vec![4_200_015, 100],
            vec![4_210_000, 200],
            vec![4_190_000, 50],
            vec![4_200_100, 150],
            vec![1_500, 0],
            vec![7, -3],
            vec![bits(0.1), bits(-2.5)],
        ],
    )
}

const JSON: &str = r#"[
  {"ts":1706745660000,"open":42000.15,"high":"42100.00","low":4.19e4,"close":42001,"volume":1.5,"trades":7,"vwap":0.1},
  {"vwap":"-2.5","ts":"2024-02-01T00:00:00Z","open":1.00,"high":2,"low":0.5,"close":1.50000,"volume":0,"trades":-3.0}]"#;

fn ok(format: BodyFormat, def: &SeriesDef, body: &[u8]) -> ParsedRows {
    parse(format, def, body, &any_time()).unwrap()
}

/// Code, detail and `row/field/reason` of each row error.
fn rejection(
    format: BodyFormat,
    def: &SeriesDef,
    body: &[u8],
    options: &DecodeOptions,
) -> (ErrorCode, String, Vec<String>) {
    let error = parse(format, def, body, options).unwrap_err();
    let rows = error.rows().iter().map(|e| format!("{}/{}/{}", e.row, e.field, e.reason)).collect();
    (error.code(), error.detail().to_owned(), rows)
}

fn row_errors(format: BodyFormat, def: &SeriesDef, body: &str) -> Vec<String> {
    let (code, detail, rows) = rejection(format, def, body.as_bytes(), &any_time());
    assert_eq!(code, ErrorCode::InvalidRows, "{detail}");
    rows
}

fn stream(batch: &RecordBatch) -> Vec<u8> {
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(batch).unwrap();
    writer.write(&batch.slice(0, 0)).unwrap();
    writer.into_inner().unwrap()
}

fn parquet_of(batch: &RecordBatch) -> Vec<u8> {
    let mut body = Vec::new();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut body, batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    body
}

fn batch_of(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
}

/// The expected rows in a mixture of types.
fn kline_batch() -> RecordBatch {
    let decimal = |cells: Vec<i128>, scale| -> ArrayRef {
        Arc::new(Decimal128Array::from(cells).with_precision_and_scale(30, scale).unwrap())
    };
    let decimal64: ArrayRef =
        Arc::new(Decimal64Array::from(vec![4_190_000, 50]).with_precision_and_scale(18, 2).unwrap());
    batch_of(vec![
        ("vwap", Arc::new(Float64Array::from(vec![0.1, -2.5]))),
        ("open", decimal(vec![42_000_150_000, 1_000_000], 6)),
        ("high", Arc::new(Int32Array::from(vec![42_100, 2]))),
        ("low", decimal64),
        ("close", Arc::new(Float64Array::from(vec![42_001.0, 1.5]))),
        ("volume", Arc::new(Float32Array::from(vec![1.5, 0.0]))),
        ("trades", Arc::new(Int8Array::from(vec![7, -3]))),
        (
            "ts",
            Arc::new(
                TimestampMicrosecondArray::from(vec![(T0 + 60_000) * 1000, T0 * 1000])
                    .with_timezone("America/New_York"),
            ),
        ),
    ])
}

#[test]
fn every_format_decodes_to_the_same_rows_in_body_order() {
    let def = kline();
    let columns = r#"{"columns":{"vwap":[0.1,-2.5],"ts":[1706745660000,"1706745600000"],"open":[42000.15,"1"],
        "high":[42100,2],"low":[41900,0.5],"close":[42001,1.5],"volume":[1.5,0],"trades":[7,-3]}}"#;
    let ndjson = JSON.replace("[\n", "").replace("},\n", "}\n").replace("}]", "}\r\n\n");
    let csv = "\u{feff}ts,open,high,low,close,volume,vwap,trades\r\n1706745660000,42000.15,42100.0,41900,42001,1.5,0.1,7\r\n\"2024-02-01\",1,2,.5,\"1.5\",0,-2.5,-3";
    let batch = kline_batch();
    for (format, body) in [
        (BodyFormat::Json, JSON.as_bytes().to_vec()),
        (BodyFormat::Json, format!("{{\"rows\":{JSON}}}").into_bytes()),
        (BodyFormat::Json, columns.as_bytes().to_vec()),
        (BodyFormat::Ndjson, ndjson.into_bytes()),
        (BodyFormat::Csv, csv.as_bytes().to_vec()),
        (BodyFormat::Arrow, stream(&batch)),
        (BodyFormat::Parquet, parquet_of(&batch)),
    ] {
        let parsed = ok(format, &def, &body);
        assert_eq!(parsed.rows, expected(), "{format:?}");
        assert_eq!((parsed.skipped, parsed.rounded), (0, vec![0; 7]), "{format:?}");
    }
    assert_eq!(from_batch(&def, batch.clone(), &any_time()).unwrap().rows, expected());
}

#[test]
fn empty_bodies_of_rows_are_no_error() {
    let def = kline();
    let empty = kline_batch().slice(0, 0);
    for (format, body) in [
        (BodyFormat::Json, b"[]".to_vec()),
        (BodyFormat::Json, br#"{"rows":[]}"#.to_vec()),
        (BodyFormat::Ndjson, b"\n".to_vec()),
        (BodyFormat::Csv, b"ts,open,high,low,close,volume,trades,vwap\n".to_vec()),
        (BodyFormat::Arrow, stream(&empty)),
        (BodyFormat::Parquet, parquet_of(&empty)),
    ] {
        assert!(ok(format, &def, &body).rows.is_empty(), "{format:?}");
    }
}

#[test]
fn row_errors_name_row_field_and_reason() {
    let def = kline();
    let good = r#"{"ts":1,"open":1,"high":2,"low":0.5,"close":1.5,"volume":0,"trades":1,"vwap":1}"#;
    let bad = |from: &str, to: &str| {
        let body = format!("[{good},{},{good}]", good.replace(from, to));
        row_errors(BodyFormat::Json, &def, &body)
    };
    assert_eq!(bad(r#""open":1,"#, ""), ["1/open/missing"]);
    assert_eq!(bad(r#""ts":1,"#, ""), ["1/ts/missing"]);
    assert_eq!(bad(r#""open":1"#, r#""open":null"#), ["1/open/missing"]);
    assert_eq!(bad(r#""open":1"#, r#""open":true"#), ["1/open/wrong_type"]);
    assert_eq!(bad(r#""open":1"#, r#""open":[1]"#), ["1/open/wrong_type"]);
    assert_eq!(bad(r#""ts":1"#, r#""ts":{"a":1}"#), ["1/ts/wrong_type"]);
    assert_eq!(bad(r#""open":1"#, r#""open":"""#), ["1/open/not_a_number"]);
    assert_eq!(bad(r#""open":1"#, r#""open":"1 ""#), ["1/open/not_a_number"]);
    assert_eq!(bad(r#""open":1"#, r#""open":"NaN""#), ["1/open/not_finite"]);
    assert_eq!(bad(r#""vwap":1"#, r#""vwap":"-inf""#), ["1/vwap/not_finite"]);
    assert_eq!(bad(r#""vwap":1"#, r#""vwap":1e400"#), ["1/vwap/overflow"]);
    assert_eq!(bad(r#""high":2"#, r#""high":1e16"#), ["1/high/overflow"]);
    assert_eq!(bad(r#""open":1"#, r#""open":1.005"#), ["1/open/precision_loss"]);
    assert_eq!(bad(r#""trades":1"#, r#""trades":1.5"#), ["1/trades/precision_loss"]);
    assert_eq!(bad(r#""ts":1"#, r#""ts":"yesterday""#), ["1/ts/bad_time"]);
    assert_eq!(bad(r#""ts":1"#, r#""ts":1.5"#), ["1/ts/bad_time"]);
    assert_eq!(bad(r#""ts":1"#, r#""ts":9214646400000"#), ["1/ts/time_out_of_range"]);
    assert_eq!(bad(r#""high":2"#, r#""high":1.2"#), ["1/high/ohlc"]);
    assert_eq!(bad(r#""low":0.5"#, r#""low":1.2"#), ["1/low/ohlc"]);
    assert_eq!(bad(r#""low":0.5"#, r#""low":3"#), ["1/high/ohlc", "1/low/ohlc"]);
    assert_eq!(bad(r#""volume":0"#, r#""volume":-0.001"#), ["1/volume/negative_volume"]);
    assert_eq!(bad(good, r#"{"ts":1}"#).len(), 7);

    let (_, detail, _) = rejection(BodyFormat::Json, &def, good.replace("1.5", "1.505").as_bytes(), &any_time());
    assert!(detail.contains("rows must be") || detail.contains("has a field"), "{detail}");
    let (_, detail, _) = rejection(BodyFormat::Ndjson, &def, good.replace("1.5", "1.505").as_bytes(), &any_time());
    assert_eq!(detail, "row 0: close \"1.505\" has more than 2 digits after the point");
}

#[test]
fn one_error_lists_the_first_hundred_rows_in_order() {
    let def = kline();
    let rows: Vec<String> = (0..300)
        .map(|row| {
            let (open, ts) = if row % 2 == 0 { ("x", "1") } else { ("1", "y") };
            format!("{ts},{open},2,0.5,1.5,0,1,1")
        })
        .collect();
    let csv = format!("ts,open,high,low,close,volume,trades,vwap\n{}", rows.join("\n"));
    let errors = row_errors(BodyFormat::Csv, &def, &csv);
    assert_eq!((errors.len(), errors[0].as_str(), errors[99].as_str()), (100, "0/open/not_a_number", "99/ts/bad_time"));

    let cells = |bad: &str| (0..300).map(|_| bad.to_owned()).collect::<Vec<_>>().join(",");
    let json = format!(r#"{{"columns":{{"ts":[{}],"value":[{}]}}}}"#, cells("\"y\""), cells("\"x\""));
    let errors = row_errors(BodyFormat::Json, &scalar(r#"{"digits":2}"#), &json);
    assert_eq!((errors.len(), errors[99].as_str()), (100, "49/value/not_a_number"));
}

#[test]
fn columns_must_match_the_registration() {
    let def = scalar(r#"{"digits":2}"#);
    let mismatch = |format, body: &[u8]| {
        let (code, detail, _) = rejection(format, &def, body, &any_time());
        assert_eq!(code, ErrorCode::SchemaMismatch, "{detail}");
        detail
    };
    use BodyFormat::*;
    assert!(mismatch(Json, br#"[{"ts":1,"value":1,"extra":{"deep":[1]},"more":1}]"#).contains(r#""extra", "more""#));
    assert!(mismatch(Ndjson, br#"{"ts":1,"value":1,"series":"k"}"#).contains("series"));
    assert!(mismatch(Json, br#"{"columns":{"ts":[1],"value":[1],"x":[1]}}"#).contains("\"x\""));
    assert!(mismatch(Json, br#"{"columns":{"ts":[1]}}"#).contains("value"));
    assert!(mismatch(Json, br#"{"columns":{"ts":[1],"value":[1,2]}}"#).contains("2 cells"));
    assert!(mismatch(Json, br#"{"columns":{"ts":[1],"ts":[1],"value":[1]}}"#).contains("twice"));
    assert!(mismatch(Csv, b"ts,value,series\n1,1,k\n").contains("series"));
    assert!(mismatch(Csv, b"ts\n1\n").contains("value"));
    assert!(mismatch(Csv, b"ts,value,ts\n1,1,1\n").contains("twice"));
    assert!(mismatch(Csv, b"1,2\n3,4\n").contains("\"1\""));
    let ts: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let value: ArrayRef = Arc::new(Float64Array::from(vec![1.0]));
    let text: ArrayRef = Arc::new(StringArray::from(vec!["1"]));
    for (columns, word) in [
        (vec![("ts", ts.clone())], "value"),
        (vec![("ts", ts.clone()), ("value", value.clone()), ("volume", value.clone())], "volume"),
        (vec![("ts", ts.clone()), ("value", text.clone())], "value is Utf8"),
        (vec![("ts", text), ("value", value.clone())], "ts is Utf8"),
        (vec![("ts", value.clone()), ("value", value)], "ts is Float64"),
    ] {
        let batch = batch_of(columns);
        assert!(mismatch(Parquet, &parquet_of(&batch)).contains(word), "{word}");
        assert!(mismatch(Arrow, &stream(&batch)).contains(word), "{word}");
        assert_eq!(from_batch(&def, batch.clone(), &any_time()).unwrap_err().code(), ErrorCode::SchemaMismatch);
    }
}

#[test]
fn malformed_text_is_an_invalid_argument() {
    let def = scalar(r#"{"digits":2}"#);
    use BodyFormat::*;
    for (format, body) in [
        (Json, ""),
        (Json, "nope"),
        (Json, "1"),
        (Json, r#"[{"ts":1,"value":1}"#),
        (Json, r#"[{"ts":1,"value":1}]]"#),
        (Json, r#"[{"ts":1,"value":1}] x"#),
        (Json, r#"[{"ts":1,"value":1},]"#),
        (Json, r#"[{"ts":1,"value":NaN}]"#),
        (Json, r#"[{"ts":1,"value":01}]"#),
        (Json, r#"[{"ts":1,"value":1,"value":2}]"#),
        (Json, r#"{"ts":1,"value":1}"#),
        (Json, r#"{}"#),
        (Json, r#"{"rows":[],"columns":{}}"#),
        (Json, r#"{"rows":[],"rows":[]}"#),
        (Json, r#"{"rows":{}}"#),
        (Json, r#"{"columns":[]}"#),
        (Json, r#"{"columns":{"ts":1}}"#),
        (Ndjson, "[{\"ts\":1,\"value\":1}]"),
        (Ndjson, "{\"ts\":1,\"value\":1} {\"ts\":2,\"value\":1}"),
        (Ndjson, "{\"ts\":1,\"value\":1}\n{\"ts\":2,"),
        (Csv, ""),
        (Csv, "ts,value\n1"),
        (Csv, "ts,value\n1,2,3"),
        (Csv, "ts,value\n1,2\n3,\"4"),
    ] {
        let result = parse(format, &def, body.as_bytes(), &any_time());
        let error = result.expect_err(body);
        assert_eq!(error.code(), ErrorCode::InvalidArgument, "{body} {error}");
    }
    let error = parse(Json, &def, b"[{\"ts\":1,\"value\":\"\xff\"}]", &any_time()).unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidArgument);
}

#[test]
fn deep_nesting_is_rejected_quickly() {
    let def = scalar(r#"{"digits":2}"#);
    let deep = "[".repeat(100 << 20);
    for head in ["", "{\"rows\":", "[{\"ts\":", "[{\"x\":", "{\"columns\":{\"ts\":["] {
        let body = format!("{head}{deep}");
        let formats = if head.is_empty() { &BodyFormat::ALL[..2] } else { &BodyFormat::ALL[..1] };
        for format in formats.iter().copied() {
            let start = std::time::Instant::now();
            let error = parse(format, &def, body.as_bytes(), &any_time()).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument, "{head}");
            assert!(start.elapsed().as_secs() < 120, "{head} took {:?}", start.elapsed());
        }
    }
}

#[test]
fn row_arrays_have_the_cells_of_every_column_in_order() {
    let def = def(r#"{"kind":"kline","symbol":"X","timeframe":"1m","price_digits":2,"volume_digits":3}"#);
    let rows = r#"[[1706745600000,42000.15,"42100.00",41900.5,42001,1.5],[1706745660000,1,2,0.5,1.5,0]]"#;
    let named = "ts,open,high,low,close,volume\n1706745600000,42000.15,42100,41900.5,42001,1.5\n\
                 1706745660000,1,2,0.5,1.5,0\n";
    let expected = parse(BodyFormat::Csv, &def, named.as_bytes(), &DecodeOptions::default()).unwrap();
    let lines = rows[1..rows.len() - 1].replace("],[", "]\n[");
    for (format, body) in [
        (BodyFormat::Json, rows.to_string()),
        (BodyFormat::Json, format!(r#"{{"rows":{rows}}}"#)),
        (BodyFormat::Ndjson, lines),
    ] {
        assert_eq!(parse(format, &def, body.as_bytes(), &DecodeOptions::default()).unwrap(), expected, "{body}");
    }
    // No cell is guessed: too few, too many, none, or null.
    for (body, reason) in [
        ("[[1706745600000,1,2,0.5,1.5]]", "row 0 has 5 cells, a row of kline/X/1m has 6"),
        ("[[1706745600000,1,2,0.5,1.5,0],[1706745600000,1,2,0.5,1.5,0,7]]", "row 1 has 7 cells"),
        ("[[]]", "row 0 has 0 cells"),
    ] {
        let error = parse(BodyFormat::Json, &def, body.as_bytes(), &DecodeOptions::default()).unwrap_err();
        assert_eq!(error.code(), ErrorCode::SchemaMismatch, "{body}");
        assert!(error.detail().starts_with(reason), "{error}");
        assert!(error.hint().unwrap().contains("ts, open, high, low, close, volume"), "{error:?}");
    }
    assert_eq!(row_errors(BodyFormat::Json, &def, "[[1706745600000,1,2,0.5,1.5,null]]"), ["0/volume/missing"]);
    assert_eq!(row_errors(BodyFormat::Json, &def, "[[1706745600000,1,2,0.5,[1.5],0]]"), ["0/close/wrong_type"]);
    // Extra columns are cells like the others; rows of many series must name their series.
    let body = r#"[[1706745600000,1,2,0.5,1.5,0,7,0.25]]"#;
    assert_eq!(
        ok(BodyFormat::Json, &kline(), body.as_bytes()).rows.columns[5..],
        [ColumnCells::from([7_i64]), [bits(0.25)].into()]
    );
    let known = std::sync::Arc::new(def.clone());
    let lookup = |_: &crate::types::SeriesKey| Ok((known.clone(), None));
    let error = parse_many(BodyFormat::Ndjson, br#"["kline/X/1m",1,1,1,1,1]"#, &any_time(), &lookup).unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidArgument, "{error}");
    let many = format!(r#"{{"writes":[{{"series":"kline/X/1m","rows":{rows}}}]}}"#);
    let parsed = parse_many(BodyFormat::Json, many.as_bytes(), &DecodeOptions::default(), &lookup).unwrap();
    assert_eq!(parsed[0].1.rows, expected.rows);
}

#[test]
fn integers_round_on_request() {
    let int = scalar(r#"{"type":"int64"}"#);
    let nearest = DecodeOptions { rounding: Rounding::Nearest, ..any_time() };
    for (text, rounded) in
        [("1.5", 2), ("2.5", 2), ("-0.6", -1), ("9223372036854775807.4", i64::MAX), ("0.4", 0), ("7", 7)]
    {
        let body = format!("ts,value\n0,{text}\n");
        let parsed = parse(BodyFormat::Csv, &int, body.as_bytes(), &nearest).unwrap();
        assert_eq!(parsed.rows.columns[0], [rounded], "{text}");
        assert_eq!(parsed.rounded, [u64::from(text.contains('.'))], "{text}");
    }
    let body = b"ts,value\n0,9223372036854775807.5\n";
    assert_eq!(rejection(BodyFormat::Csv, &int, body, &nearest).2, ["0/value/overflow"]);
    // Scaled integers and Arrow's doubles and decimals too.
    let raw = DecodeOptions { numbers: DecimalInput::Raw, ..nearest };
    let decimal = scalar(r#"{"type":"decimal","digits":2}"#);
    assert_eq!(parse(BodyFormat::Csv, &decimal, b"ts,value\n0,12.5\n", &raw).unwrap().rows.columns[0], [12]);
    let times: ArrayRef = Arc::new(Int64Array::from(vec![0, 1]));
    let wide = Decimal128Array::from(vec![15_i128, 25]).with_precision_and_scale(20, 1).unwrap();
    for values in [Arc::new(Float64Array::from(vec![1.5, 2.5])) as ArrayRef, Arc::new(wide)] {
        let batch = batch_of(vec![("ts", times.clone()), ("value", values)]);
        assert_eq!(from_batch(&int, batch.clone(), &nearest).unwrap().rows.columns[0], [2, 2]);
        assert_eq!(from_batch(&int, batch, &any_time()).unwrap_err().rows()[0].reason, "precision_loss");
    }
}

#[test]
fn the_format_of_a_body_is_detected_from_its_bytes() {
    let batch = kline_batch();
    for (body, format) in [
        (&b"[[1,2]]"[..], Some(BodyFormat::Json)),
        (b"\xef\xbb\xbf \n[{\"ts\":1}]", Some(BodyFormat::Json)),
        (b"{\"rows\":[]}", Some(BodyFormat::Json)),
        (b"{ \"columns\" : {}}", Some(BodyFormat::Json)),
        (b"{\"writes\":[]}", Some(BodyFormat::Json)),
        (b"{\"ts\":1,\"value\":2}\n", Some(BodyFormat::Ndjson)),
        (b"ts,value\n1,2\n", Some(BodyFormat::Csv)),
        (b"\"series\",\"ts\",\"value\"\r\n", Some(BodyFormat::Csv)),
        (&stream(&batch), Some(BodyFormat::Arrow)),
        (&parquet_of(&batch), Some(BodyFormat::Parquet)),
        (b"open,high\n1,2\n", None),
        (b"hello", None),
        (b"<html>", None),
        (b"{", None),
        (b"{]", None),
        (b"", None),
        (b"\x1f\x8b\x08", None),
    ] {
        assert_eq!(BodyFormat::of_body(body), format, "{:?}", String::from_utf8_lossy(&body[..body.len().min(40)]));
    }
}

#[test]
fn rounding_happens_only_on_request() {
    let def = scalar(r#"{"digits":2}"#);
    let nearest = DecodeOptions { rounding: Rounding::Nearest, ..any_time() };
    for (format, body) in [
        (BodyFormat::Json, r#"[{"ts":1,"value":1.005},{"ts":2,"value":"1.015"},{"ts":3,"value":1.5}]"#),
        (BodyFormat::Json, r#"{"columns":{"ts":[1,2,3],"value":[1.005,1.015,1.5]}}"#),
        (BodyFormat::Csv, "ts,value\n1,1.005\n2,1.015\n3,1.5\n"),
    ] {
        let parsed = parse(format, &def, body.as_bytes(), &nearest).unwrap();
        assert_eq!((parsed.rows.columns[0].words(), parsed.rounded), ([100, 102, 150].as_slice(), vec![2]));
        assert_eq!(row_errors(format, &def, body), ["0/value/precision_loss", "1/value/precision_loss"]);
    }
    let ts: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    let decimal: ArrayRef = Arc::new(
        Decimal256Array::from(vec![i256::from(1_005), i256::from(1_500)]).with_precision_and_scale(50, 3).unwrap(),
    );
    let batch = batch_of(vec![("ts", ts.clone()), ("value", decimal)]);
    let parsed = from_batch(&def, batch.clone(), &nearest).unwrap();
    assert_eq!((parsed.rows.columns[0].words(), parsed.rounded), ([100, 150].as_slice(), vec![1]));
    let error = from_batch(&def, batch.clone(), &any_time()).unwrap_err();
    assert_eq!(error.rows()[0].reason, "precision_loss");
    // Doubles always take the nearest decimal of their shortest form.
    let value: ArrayRef = Arc::new(Float64Array::from(vec![0.285, 0.1]));
    let parsed = from_batch(&def, batch_of(vec![("ts", ts.clone()), ("value", value)]), &any_time()).unwrap();
    assert_eq!((parsed.rows.columns[0].words(), parsed.rounded), ([28, 10].as_slice(), vec![1]));
    let value: ArrayRef = Arc::new(Float32Array::from(vec![0.1, 16_777_216.0]));
    let def = scalar(r#"{"digits":9}"#);
    let parsed = from_batch(&def, batch_of(vec![("ts", ts), ("value", value)]), &any_time()).unwrap();
    assert_eq!(parsed.rows.columns[0], [100_000_000, 16_777_216_000_000_000]);
    assert_eq!(parsed.rounded, [0]);
}

#[test]
fn raw_numbers_are_scaled_integers() {
    let def = kline();
    let raw = DecodeOptions { numbers: DecimalInput::Raw, ..any_time() };
    let body = r#"[{"ts":1,"open":100,"high":"200","low":50,"close":1.5e2,"volume":0,"trades":1,"vwap":0.5}]"#;
    let parsed = parse(BodyFormat::Json, &def, body.as_bytes(), &raw).unwrap();
    let cells: Vec<i64> = parsed.rows.columns.iter().flat_map(|column| column.words()).copied().collect();
    assert_eq!(cells, [100, 200, 50, 150, 0, 1, bits(0.5)]);
    for (from, reason) in [("100.5", "precision_loss"), ("1000000000000000000", "overflow")] {
        let body = body.replace("100,", &format!("{from},"));
        let (_, _, rows) = rejection(BodyFormat::Json, &def, body.as_bytes(), &raw);
        assert_eq!(rows[0], format!("0/open/{reason}"));
    }
    let def = scalar(r#"{"digits":4}"#);
    let of = |array: ArrayRef| {
        let batch = batch_of(vec![("ts", Arc::new(Int64Array::from(vec![1])) as ArrayRef), ("value", array)]);
        from_batch(&def, batch.clone(), &raw)
            .map(|parsed| parsed.rows.columns[0].words()[0])
            .map_err(|e| e.rows()[0].reason.clone())
    };
    assert_eq!(of(Arc::new(Int64Array::from(vec![12_345]))), Ok(12_345));
    assert_eq!(of(Arc::new(UInt16Array::from(vec![12_345]))), Ok(12_345));
    assert_eq!(of(Arc::new(Int64Array::from(vec![10_i64.pow(18)]))), Err("overflow".into()));
    assert_eq!(of(Arc::new(Float64Array::from(vec![1.5]))), Err("precision_loss".into()));
}

#[test]
fn missing_scalars_are_skipped_only_on_request() {
    let def = scalar(r#"{"digits":2}"#);
    let skip = DecodeOptions { missing: MissingCells::Skip, ..any_time() };
    for (format, body) in [
        (BodyFormat::Json, r#"[{"ts":1,"value":1},{"ts":2,"value":null},{"ts":3,"value":"NaN"},{"ts":4,"value":4}]"#),
        (BodyFormat::Json, r#"{"columns":{"ts":[1,2,3,4],"value":[1,null,"nan",4]}}"#),
        (BodyFormat::Csv, "ts,value\n1,1\n2,\n3,NaN\n4,4\n"),
    ] {
        let parsed = parse(format, &def, body.as_bytes(), &skip).unwrap();
        assert_eq!((parsed.rows.ts.as_slice(), parsed.skipped), ([1, 4].as_slice(), 2), "{body}");
        assert_eq!(parsed.rows.columns, [[100, 400]]);
        assert_eq!(row_errors(format, &def, body), ["1/value/missing", "2/value/not_finite"]);
    }
    let batch = batch_of(vec![
        ("ts", Arc::new(Int64Array::from(vec![1, 2, 3, 4])) as ArrayRef),
        ("value", Arc::new(Float64Array::from(vec![Some(1.0), None, Some(f64::NAN), Some(4.0)]))),
    ]);
    for (format, body) in [(BodyFormat::Arrow, stream(&batch)), (BodyFormat::Parquet, parquet_of(&batch))] {
        let parsed = parse(format, &def, &body, &skip).unwrap();
        assert_eq!((parsed.rows.ts.as_slice(), parsed.skipped), ([1, 4].as_slice(), 2));
        let (_, _, rows) = rejection(format, &def, &body, &any_time());
        assert_eq!(rows, ["1/value/missing", "2/value/not_finite"]);
    }
    // A missing time or an infinity is never skipped, and klines reject missing=skip.
    let (_, _, rows) = rejection(BodyFormat::Csv, &def, b"ts,value\n,1\n1,inf\n", &skip);
    assert_eq!(rows, ["0/ts/missing", "1/value/not_finite"]);
    let (code, ..) = rejection(BodyFormat::Json, &kline(), b"[]", &skip);
    assert_eq!(code, ErrorCode::InvalidArgument);
}

#[test]
fn arrow_numbers_and_times_convert_exactly_or_are_rejected() {
    let of = |def: &SeriesDef, ts: ArrayRef, value: ArrayRef| {
        from_batch(def, batch_of(vec![("ts", ts), ("value", value)]), &any_time())
            .map(|parsed| (parsed.rows.ts[0], parsed.rows.columns[0].words()[0]))
            .map_err(|e| format!("{}/{}", e.rows()[0].field, e.rows()[0].reason))
    };
    let one = || -> ArrayRef { Arc::new(Int64Array::from(vec![1])) };
    let (decimal, double, int) = (scalar(r#"{"digits":2}"#), scalar("{}"), scalar(r#"{"type":"int64"}"#));
    assert_eq!(of(&decimal, Arc::new(TimestampSecondArray::from(vec![5])), one()), Ok((5_000, 100)));
    assert_eq!(of(&decimal, Arc::new(TimestampNanosecondArray::from(vec![5_000_000])), one()), Ok((5, 100)));
    for (ts, reason) in [
        (Arc::new(TimestampNanosecondArray::from(vec![5_000_001])) as ArrayRef, "ts/bad_time"),
        (Arc::new(TimestampSecondArray::from(vec![i64::MAX])), "ts/time_out_of_range"),
        (Arc::new(Int64Array::from(vec![i64::MIN])), "ts/time_out_of_range"),
        (Arc::new(TimestampMillisecondArray::from(vec![None::<i64>])), "ts/missing"),
    ] {
        assert_eq!(of(&decimal, ts, one()), Err(reason.into()));
    }
    let cases: Vec<(&SeriesDef, ArrayRef, Result<i64, &str>)> = vec![
        (&decimal, Arc::new(UInt64Array::from(vec![u64::MAX])), Err("value/overflow")),
        (&decimal, Arc::new(Int64Array::from(vec![10_i64.pow(16)])), Err("value/overflow")),
        (&decimal, Arc::new(Float64Array::from(vec![f64::INFINITY])), Err("value/not_finite")),
        (&decimal, Arc::new(Float64Array::from(vec![1e300])), Err("value/overflow")),
        (&decimal, Arc::new(Decimal32Array::from(vec![15]).with_precision_and_scale(9, 1).unwrap()), Ok(150)),
        (&decimal, Arc::new(Decimal128Array::from(vec![15]).with_precision_and_scale(9, -3).unwrap()), Ok(1_500_000)),
        (
            &decimal,
            Arc::new(Decimal128Array::from(vec![15 * 10_i128.pow(25)]).with_precision_and_scale(38, 25).unwrap()),
            Ok(1_500),
        ),
        (
            &decimal,
            Arc::new(Decimal128Array::from(vec![10_i128.pow(30)]).with_precision_and_scale(38, 2).unwrap()),
            Err("value/overflow"),
        ),
        (&double, Arc::new(Decimal64Array::from(vec![1]).with_precision_and_scale(18, 1).unwrap()), Ok(bits(0.1))),
        (&double, Arc::new(UInt64Array::from(vec![u64::MAX])), Ok(bits(18_446_744_073_709_551_615.0))),
        (&double, Arc::new(Float32Array::from(vec![0.1])), Ok(bits(f64::from(0.1_f32)))),
        (&double, Arc::new(Float64Array::from(vec![f64::NAN])), Err("value/not_finite")),
        (&int, Arc::new(Float64Array::from(vec![5.0])), Ok(5)),
        (&int, Arc::new(Float64Array::from(vec![5.5])), Err("value/precision_loss")),
        (&int, Arc::new(Float64Array::from(vec![9_223_372_036_854_775_808.0])), Err("value/overflow")),
        (&int, Arc::new(Float64Array::from(vec![-9_223_372_036_854_775_808.0])), Ok(i64::MIN)),
        (
            &int,
            Arc::new(Decimal64Array::from(vec![150]).with_precision_and_scale(18, 2).unwrap()),
            Err("value/precision_loss"),
        ),
        (&int, Arc::new(Decimal64Array::from(vec![100]).with_precision_and_scale(18, 2).unwrap()), Ok(1)),
        (&int, Arc::new(Int64Array::from(vec![i64::MIN])), Ok(i64::MIN)),
    ];
    for (def, value, expected) in cases {
        let shown = format!("{value:?}");
        assert_eq!(of(def, one(), value), expected.map(|word| (1, word)).map_err(Into::into), "{shown}");
    }
}

#[test]
fn ohlc_is_checked_on_doubles_and_can_be_turned_off() {
    let def = def(r#"{"kind":"kline","symbol":"X","timeframe":"1m"}"#);
    let row = |o: f64, h: f64, l: f64, c: f64, v: f64| {
        Rows::of_words(vec![1], [o, h, l, c, v].map(|value| vec![bits(value)]).to_vec())
    };
    let on = any_time();
    for (rows, good) in [
        (row(1.0, 2.0, 0.5, 1.5, 0.0), true),
        (row(-1.0, -0.5, -2.0, -1.5, -0.0), true),
        (row(0.0, -0.0, 0.0, -0.0, 0.0), true),
        (row(-1.0, -1.5, -2.0, -1.5, 0.0), false),
        (row(1.0, 2.0, 1.1, 1.5, 0.0), false),
        (row(1.0, 2.0, 0.5, 1.5, -1e-300), false),
        (row(1.0, f64::NAN, 0.5, 1.5, 0.0), false),
    ] {
        assert_eq!(validate(&def, &rows, &on).is_ok(), good, "{rows:?}");
    }
    let off = DecodeOptions { validate: RowRules::None, ..on };
    assert!(validate(&def, &row(5.0, 1.0, 9.0, 5.0, -1.0), &off).is_ok());
    let mut late = row(1.0, 2.0, 0.5, 1.5, 0.0);
    late.ts[0] = TimeUnit::Ms.max_ts() + 1;
    assert_eq!(validate(&def, &late, &off).unwrap_err().rows()[0].reason, "time_out_of_range");
    late.columns.pop();
    assert_eq!(validate(&def, &late, &off).unwrap_err().code(), ErrorCode::SchemaMismatch);
}

#[test]
fn truncated_bodies_are_rejected_at_every_byte() {
    let def = kline();
    let batch = kline_batch();
    for (format, body) in [(BodyFormat::Arrow, stream(&batch)), (BodyFormat::Parquet, parquet_of(&batch))] {
        for length in 0..body.len() {
            let error = parse(format, &def, &body[..length], &any_time()).expect_err("cut");
            assert_eq!(error.code(), ErrorCode::InvalidArgument, "{format:?} cut at {length}: {error}");
        }
        let longer = [body.as_slice(), b"x"].concat();
        assert!(parse(format, &def, &longer, &any_time()).is_err(), "{format:?}");
    }
}

#[test]
fn arrow_compression_dictionaries_broken_files_and_nesting_are_rejected() {
    let def = scalar("{}");
    let refused = |body: &[u8], word: &str| {
        let (code, detail, _) = rejection(BodyFormat::Arrow, &def, body, &any_time());
        assert_eq!(code, ErrorCode::InvalidArgument, "{detail}");
        assert!(detail.contains(word), "{detail}");
    };
    let ts: ArrayRef = Arc::new(Int64Array::from(vec![1; 1000]));
    let value: ArrayRef = Arc::new(Float64Array::from(vec![1.0; 1000]));
    let batch = batch_of(vec![("ts", ts.clone()), ("value", value.clone())]);
    for codec in [arrow::ipc::CompressionType::LZ4_FRAME, arrow::ipc::CompressionType::ZSTD] {
        let options = IpcWriteOptions::default().try_with_compression(Some(codec)).unwrap();
        let mut writer = StreamWriter::try_new_with_options(Vec::new(), &batch.schema(), options).unwrap();
        writer.write(&batch).unwrap();
        refused(&writer.into_inner().unwrap(), "compressed");
    }
    let mut file = arrow::ipc::writer::FileWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    file.write(&batch).unwrap();
    let mut file = file.into_inner().unwrap();
    assert_eq!(ok(BodyFormat::Arrow, &def, &file).rows.ts.len(), 1000);
    file.pop();
    refused(&file, "footer");
    file.truncate(2_000);
    refused(&file, "truncated");
    let keys = Int32Array::from(vec![0; 1000]);
    let numbers: ArrayRef = Arc::new(DictionaryArray::new(keys, Arc::new(Float64Array::from(vec![1.0]))));
    refused(&stream(&batch_of(vec![("ts", ts.clone()), ("value", numbers)])), "dictionary");
    let words: ArrayRef = Arc::new(DictionaryArray::<Int32Type>::from_iter(vec!["a"; 1000]));
    let (code, detail, _) =
        rejection(BodyFormat::Arrow, &def, &stream(&batch_of(vec![("ts", ts.clone()), ("value", words)])), &any_time());
    assert_eq!(code, ErrorCode::SchemaMismatch, "{detail}");
    let nested: ArrayRef = Arc::new(StructArray::from(batch.clone()));
    refused(&stream(&batch_of(vec![("ts", ts), ("value", nested)])), "nested");
    refused(b"", "truncated");
}

#[test]
fn parquet_that_decompresses_into_too_much_is_rejected_before_decoding() {
    let def = scalar("{}");
    // Dictionary and run-length encoding make eighty million rows a small file.
    let schema = Arc::new(Schema::new(vec![
        Field::new("ts", DataType::Int64, false),
        Field::new("value", DataType::Float64, false),
    ]));
    let mut body = Vec::new();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut body, schema.clone(), None).unwrap();
    let block = RecordBatch::try_new(
        schema,
        vec![Arc::new(Int64Array::from(vec![1; 1 << 20])), Arc::new(Float64Array::from(vec![1.0; 1 << 20]))],
    )
    .unwrap();
    for _ in 0..80 {
        writer.write(&block).unwrap();
    }
    writer.close().unwrap();
    assert!(body.len() < 1 << 20, "{}", body.len());
    let (code, detail, _) = rejection(BodyFormat::Parquet, &def, &body, &any_time());
    assert_eq!(code, ErrorCode::TooLarge, "{detail}");
}

/// Footer of a file whose schema has the given child counts.
fn parquet_with_children(children: &[u8]) -> Vec<u8> {
    let mut footer = vec![0x15, 0x02, 0x19, 0xfc];
    assert!(children.len() < 128);
    footer.push(u8::try_from(children.len()).unwrap());
    for count in children {
        // Field 4 is the name, field 5 the number of children.
        footer.extend_from_slice(&[0x48, 1, b'x', 0x15, count * 2, 0]);
    }
    footer.push(0);
    let length = u32::try_from(footer.len()).unwrap();
    [b"PAR1".as_slice(), &footer, &length.to_le_bytes(), b"PAR1"].concat()
}

#[test]
fn nested_parquet_footers_are_rejected() {
    let refused = |children: &[u8], word: &str| {
        let error = super::parquet_guard::check_footer(&parquet_with_children(children)).unwrap_err();
        assert!(error.detail().contains(word), "{error}");
    };
    assert!(super::parquet_guard::check_footer(&parquet_with_children(&[2, 0, 0])).is_ok());
    refused(&[1, 1, 0], "nested");
    refused(&[60, 0, 0], "nested");
}

/// Flips, overwrites, inserts, removes or repeats a few bytes.
fn mutate(random: &mut StdRng, body: &[u8]) -> Vec<u8> {
    let mut body = body.to_vec();
    for _ in 0..random.random_range(1..5) {
        if body.is_empty() {
            break;
        }
        let at = random.random_range(0..body.len());
        match random.random_range(0..7) {
            0 => body[at] ^= 1 << random.random_range(0..8),
            1 => body[at] = random.random(),
            2 => body[at] = [0, 0xff, 0x7f, 0x80][random.random_range(0..4)],
            3 => body.insert(at, random.random()),
            4 => drop(body.remove(at)),
            5 => body.truncate(at),
            _ => {
                let end = (at + 8).min(body.len());
                body[at..end].fill([0, 0xff][random.random_range(0..2)]);
            }
        }
    }
    body
}

#[test]
fn no_mutation_of_a_body_panics() {
    let def = kline();
    let batch = kline_batch();
    let csv =
        "ts,open,high,low,close,volume,vwap,trades\n1,42000.15,42100.0,41900,42001,1.5,0.1,7\n2,1,2,.5,1.5,0,-2.5,-3\n";
    std::panic::set_hook(Box::new(|_| {}));
    let mut taken = 0;
    for (format, body, rounds) in [
        (BodyFormat::Arrow, stream(&batch), 6_000),
        (BodyFormat::Parquet, parquet_of(&batch), 6_000),
        (BodyFormat::Json, JSON.as_bytes().to_vec(), 6_000),
        (BodyFormat::Ndjson, JSON.replace('\n', "").replace("},", "}\n").into_bytes(), 3_000),
        (BodyFormat::Csv, csv.as_bytes().to_vec(), 3_000),
    ] {
        let mut random = StdRng::seed_from_u64(7);
        for round in 0..rounds {
            let body = mutate(&mut random, &body);
            let result = std::panic::catch_unwind(|| parse(format, &def, &body, &any_time()));
            match result {
                Err(_) => {
                    let _ = std::panic::take_hook();
                    panic!("{format:?} round {round}: {body:?}");
                }
                Ok(Ok(parsed)) => {
                    parsed.rows.check_columns(&def.columns).unwrap();
                    taken += 1;
                }
                Ok(Err(error)) => assert!(error.code().http() < 500, "{error}"),
            }
        }
    }
    let _ = std::panic::take_hook();
    assert!(taken > 100, "the mutations are all so wild that they test nothing: {taken}");
}

#[test]
fn the_arrow_guard_alone_prevents_decoder_panics() {
    let body = stream(&kline_batch());
    let def = kline();
    let schema = kline_batch().schema();
    // The first message is the schema; find the record batch after it.
    let meta = |at: usize| i32::from_le_bytes(body[at + 4..at + 8].try_into().unwrap()) as usize;
    let start = 8 + meta(0);
    let header_range = start + 8..start + 8 + meta(start);
    let mut random = StdRng::seed_from_u64(3);
    let mut passed = 0;
    for _ in 0..20_000 {
        let mut header = body[header_range.clone()].to_vec();
        let at = random.random_range(0..header.len());
        header[at] = random.random();
        let buffers = &body[header_range.end..];
        if arrow_guard::check_message(&header, buffers, &schema, None).is_err() {
            continue;
        }
        passed += 1;
        let message = arrow::ipc::root_as_message(&header).unwrap();
        let batch = message.header_as_record_batch().unwrap();
        let decoded = arrow::ipc::reader::read_record_batch(
            &arrow::buffer::Buffer::from(buffers),
            batch,
            schema.clone(),
            &Default::default(),
            None,
            &message.version(),
        );
        if let Ok(batch) = decoded {
            let _ = from_batch(&def, batch.clone(), &any_time());
        }
    }
    assert!(passed > 100, "{passed}");
}

#[test]
fn no_patched_schema_message_panics_in_the_decoder() {
    let body = stream(&kline_batch());
    let header_bytes = i32::from_le_bytes(body[4..8].try_into().unwrap()) as usize;
    let header = &body[8..8 + header_bytes];
    assert_eq!(arrow_guard::schema_of(header).unwrap().0, *kline_batch().schema());
    // The message of a panic caught by `guarded`.
    std::panic::set_hook(Box::new(|_| {}));
    let caught = guarded::<()>("arrow", || panic!("on purpose")).unwrap_err();
    let _ = std::panic::take_hook();
    let mut refused = 0;
    for at in 0..header.len() {
        for value in [0, 1, 7, 0x7F, 0xFF] {
            let mut patched = header.to_vec();
            patched[at] = value;
            if let Err(error) = arrow_guard::schema_of(&patched) {
                assert_ne!(error.detail(), caught.detail(), "byte {at} as {value}");
                refused += 1;
            }
        }
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn media_types_and_names_select_the_formats() {
    for format in BodyFormat::ALL {
        assert_eq!(BodyFormat::from_name(format.name()), Some(format));
        assert_eq!(BodyFormat::from_media_type(format.media_type()), Some(format));
    }
    assert_eq!(BodyFormat::from_media_type("Application/JSON; charset=utf-8"), Some(BodyFormat::Json));
    assert_eq!((BodyFormat::from_media_type("text/plain"), BodyFormat::from_name("xml")), (None, None));
    let options: DecodeOptions = serde_json::from_str(r#"{"rounding":"nearest","missing":"skip"}"#).unwrap();
    assert_eq!(
        (options.missing, options.numbers, options.validate),
        (MissingCells::Skip, DecimalInput::Decimal, RowRules::Ohlc)
    );
}

/// A reservation of at most `bytes_max` bytes.
fn reservation(bytes_max: u64) -> Reservation {
    DecodeMemory::new(bytes_max).reservation(std::time::Duration::ZERO)
}

#[test]
fn every_format_reserves_memory_for_all_its_cells_before_decoding() {
    let json = JSON.as_bytes().to_vec();
    let columns = br#"{"columns":{"ts":[1,2],"open":[1,1],"high":[1,1],"low":[1,1],"close":[1,1],"volume":[1,1],"trades":[1,1],"vwap":[1,1]}}"#;
    let csv = b"ts,open,high,low,close,volume,trades,vwap\n1,1,1,1,1,1,1,1\n2,1,1,1,1,1,1,1";
    let batch = kline_batch();
    let bodies = [
        (BodyFormat::Json, json),
        (BodyFormat::Json, columns.to_vec()),
        (BodyFormat::Csv, csv.to_vec()),
        (BodyFormat::Arrow, stream(&batch)),
        (BodyFormat::Parquet, parquet_of(&batch)),
    ];
    for (format, body) in bodies {
        let rows = ok(format, &kline(), &body).rows;
        let cells = (rows.len() * (rows.columns.len() + 1)) as u64;
        let memory = DecodeMemory::new(1 << 30);
        let mut taken = memory.reservation(std::time::Duration::ZERO);
        reserve(format, &body, Some(&kline()), &mut taken).unwrap();
        assert!(memory.reserved_bytes() >= cells * CELL_BYTES, "{format:?}: {}", memory.reserved_bytes());
        let refused = reserve(format, &body, Some(&kline()), &mut reservation(cells * CELL_BYTES - 1)).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::TooLarge, "{format:?}");
    }
}

#[test]
fn arrow_messages_with_more_rows_than_bytes_are_rejected() {
    // Neither has a buffer as long as its rows need.
    let rows = 1_000_000;
    let nulls =
        batch_of(vec![("ts", Arc::new(NullArray::new(rows)) as ArrayRef), ("value", Arc::new(NullArray::new(rows)))]);
    let runs = RunArray::try_new(&Int32Array::from(vec![i32::try_from(rows).unwrap()]), &Float64Array::from(vec![1.0]))
        .unwrap();
    let repeated = batch_of(vec![
        ("ts", Arc::new(Int64Array::from_iter_values(0..i64::try_from(rows).unwrap())) as ArrayRef),
        ("value", Arc::new(runs)),
    ]);
    for batch in [nulls, repeated] {
        let body = stream(&batch);
        let (code, ..) =
            rejection(BodyFormat::Arrow, &scalar(r#"{"type":"float64"}"#), &body, &DecodeOptions::default());
        assert!(matches!(code, ErrorCode::InvalidArgument | ErrorCode::SchemaMismatch), "{code:?}");
        let refused = reserve(BodyFormat::Arrow, &body, None, &mut reservation(1 << 20)).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::TooLarge);
    }
}

#[test]
fn delta_encoded_parquet_strings_are_rejected() {
    use parquet::basic::Encoding;
    use parquet::file::properties::WriterProperties;
    let long = "s".repeat(100_000);
    let batch = batch_of(vec![
        ("series", Arc::new(StringArray::from(vec![long.as_str(); 1_000])) as ArrayRef),
        ("ts", Arc::new(Int64Array::from_iter_values(0..1_000))),
    ]);
    let properties = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_column_encoding("series".into(), Encoding::DELTA_BYTE_ARRAY)
        .build();
    let mut body = Vec::new();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut body, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let refused = reserve(BodyFormat::Parquet, &body, None, &mut reservation(1 << 30)).unwrap_err();
    assert!(refused.detail().contains("DELTA_BYTE_ARRAY"), "{refused}");
    let lookup = |_: &SeriesKey| Ok((Arc::new(kline()), None));
    assert!(parse_many(BodyFormat::Parquet, &body, &DecodeOptions::default(), &lookup).is_err());
}
