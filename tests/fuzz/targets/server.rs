//! Targets of the server: bodies of writes and queries, before any row is stored.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Decimal64Array, Float64Array, Int64Array, StringArray, TimestampMillisecondArray};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field};
use arrow::ipc::reader::read_record_batch;
use arrow::ipc::writer::StreamWriter;
use arrow::record_batch::RecordBatch;
use fastk::ErrorCode;
use fastk::ingest::{
    BodyFormat, DecimalInput, DecodeOptions, MissingCells, ParsedRows, RowRules, arrow_guard, from_batch, parse,
    parse_many,
};
use fastk::query::predicate::compile;
use fastk::query::{ClosedRange, Predicate, Query};
use fastk::types::{SeriesDef, SeriesKey, SeriesSpec};

use super::targets::Target;

/// Every target of the server.
pub const TARGETS: &[Target] = &[
    Target {
        name: "put_message",
        run: put_message,
        strict: None,
        fix: None,
        seeds: messages,
        memory_factor: 64,
        catches_panics: false,
    },
    Target {
        name: "arrow_body",
        run: arrow_body,
        strict: None,
        fix: None,
        seeds: streams,
        memory_factor: 64,
        catches_panics: false,
    },
    Target {
        name: "parquet_body",
        run: parquet_body,
        strict: None,
        fix: None,
        seeds: parquets,
        memory_factor: 4_096,
        catches_panics: true,
    },
    Target {
        name: "json_rows",
        run: json_rows,
        strict: None,
        fix: None,
        seeds: texts,
        memory_factor: 256,
        catches_panics: false,
    },
    Target {
        name: "csv_rows",
        run: csv_rows,
        strict: None,
        fix: None,
        seeds: csvs,
        memory_factor: 256,
        catches_panics: false,
    },
    Target {
        name: "query_body",
        run: query_body,
        strict: None,
        fix: None,
        seeds: queries,
        memory_factor: 256,
        catches_panics: false,
    },
];

fn of_json(json: &str) -> SeriesDef {
    serde_json::from_str::<SeriesSpec>(json).unwrap().resolve().unwrap()
}

/// A kline with every type of column, and a scalar.
fn defs() -> [Arc<SeriesDef>; 2] {
    thread_local!(static DEFS: [Arc<SeriesDef>; 2] = [
        r#"{"kind":"kline","symbol":"X","timeframe":"1m","price_digits":2,"extra_columns":[{"name":"trades","type":"int64"}]}"#,
        r#"{"kind":"scalar","category":"c","symbol":"X","timeframe":"1h","name":"n","unit":"us"}"#,
    ].map(|json| Arc::new(of_json(json))));
    DEFS.with(Clone::clone)
}

fn options() -> [DecodeOptions; 2] {
    let lenient = DecodeOptions {
        numbers: DecimalInput::Raw,
        missing: MissingCells::Skip,
        validate: RowRules::None,
        ..DecodeOptions::default()
    };
    [DecodeOptions::default(), lenient]
}

/// A body is decoded to rows of the right shape or refused with an error of the caller.
fn accept(def: &SeriesDef, outcome: fastk::Result<ParsedRows>) {
    match outcome {
        Ok(parsed) => parsed.rows.check_columns(&def.columns).unwrap(),
        Err(error) => assert!(error.code().http() < 500, "{error}"),
    }
}

fn body(format: BodyFormat, data: &[u8]) {
    for options in options() {
        for def in defs() {
            accept(&def, parse(format, &def, data, &options));
        }
        let lookup = |key: &SeriesKey| {
            let found = defs().into_iter().find(|def| def.key == *key);
            found.ok_or_else(|| fastk::Error::new(ErrorCode::SeriesNotFound, "no such series"))
        };
        match parse_many(format, data, &options, &|key| lookup(key).map(|def| (def, None))) {
            Ok(parts) => parts.into_iter().for_each(|(key, parsed)| accept(&lookup(&key).unwrap(), Ok(parsed))),
            Err(error) => assert!(error.code().http() < 500, "{error}"),
        }
    }
}

/// A message of a Flight put: length of the header (`u32`), header, body. Messages that pass the guard are decoded
/// without catching panics.
pub fn put_message(data: &[u8]) {
    let Some((length, rest)) = data.split_first_chunk::<4>() else { return };
    let header_bytes = (u32::from_le_bytes(*length) as usize).min(rest.len());
    let (header, body) = rest.split_at(header_bytes);
    if let Ok((schema, ids)) = arrow_guard::schema_of(header) {
        assert!(schema.fields().len() <= header.len() && schema.fields().len() == ids.len());
    }
    let labelled = labelled_batch().schema();
    let _ = arrow_guard::check_message(header, body, &labelled, Some(0));
    for words in [DataType::Utf8, DataType::LargeUtf8, DataType::Utf8View] {
        let _ = arrow_guard::check_dictionary(header, body, &Field::new("words", words, true));
    }
    let schema = kline_batch().schema();
    if arrow_guard::check_message(header, body, &schema, None).is_err() {
        return;
    }
    let message = arrow_guard::message(header).unwrap();
    let batch = message.header_as_record_batch().unwrap();
    let buffers = Buffer::from(body);
    if let Ok(batch) = read_record_batch(&buffers, batch, schema, &HashMap::new(), None, &message.version()) {
        for def in defs() {
            accept(&def, from_batch(&def, batch.clone(), &DecodeOptions::default()));
        }
    }
}

/// An Arrow stream, of one series and of several.
pub fn arrow_body(data: &[u8]) {
    body(BodyFormat::Arrow, data);
}

/// A Parquet file, of one series and of several.
pub fn parquet_body(data: &[u8]) {
    body(BodyFormat::Parquet, data);
}

/// Rows as JSON and as NDJSON, of one series and of several.
pub fn json_rows(data: &[u8]) {
    body(BodyFormat::Json, data);
    body(BodyFormat::Ndjson, data);
}

/// Rows as CSV, of one series and of several.
pub fn csv_rows(data: &[u8]) {
    body(BodyFormat::Csv, data);
}

/// The body of a query, and each line as a predicate.
pub fn query_body(data: &[u8]) {
    let compiled = |predicates: &[Predicate]| {
        for def in defs() {
            for numbers in [
                fastk::query::NumberFormat::Stored,
                fastk::query::NumberFormat::Float64,
                fastk::query::NumberFormat::Raw,
            ] {
                let dictionaries = vec![fastk::types::Dictionary::default(); def.columns.len()];
                if let Err(error) = compile(&def, &dictionaries, predicates, numbers) {
                    assert!(error.code().http() < 500, "{error}");
                }
            }
        }
    };
    if let Ok(query) = serde_json::from_slice::<Query>(data) {
        let json = serde_json::to_vec(&query).unwrap();
        assert!(serde_json::from_slice::<Query>(&json).unwrap() == query);
        compiled(query.predicates.as_deref().unwrap_or_default());
        for def in defs() {
            let _ = ClosedRange::parse(def.unit, query.start.as_ref(), query.end.as_ref());
        }
    }
    for line in std::str::from_utf8(data).unwrap_or_default().lines() {
        if let Ok(predicate) = Predicate::parse(line) {
            compiled(std::slice::from_ref(&predicate));
        }
    }
}

const T0: i64 = 1_706_745_600_000;

fn kline_batch() -> RecordBatch {
    let decimal = |cells: Vec<i64>| -> ArrayRef {
        Arc::new(Decimal64Array::from(cells).with_precision_and_scale(18, 2).unwrap())
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("ts", Arc::new(TimestampMillisecondArray::from(vec![T0, T0 + 60_000]).with_timezone("UTC"))),
        ("open", decimal(vec![4_200_015, 100])),
        ("high", decimal(vec![4_210_000, 200])),
        ("low", decimal(vec![4_190_000, 50])),
        ("close", Arc::new(Float64Array::from(vec![Some(42_001.0), Some(1.5)]))),
        ("volume", Arc::new(Float64Array::from(vec![1.5, 0.0]))),
        ("trades", Arc::new(Int64Array::from(vec![7, -3]))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn labelled_batch() -> RecordBatch {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("series", Arc::new(StringArray::from(vec!["scalar/c/X/1h/n", "scalar/c/X/1h/n"]))),
        ("ts", Arc::new(Int64Array::from(vec![T0 * 1_000, (T0 + 1) * 1_000]))),
        ("value", Arc::new(Float64Array::from(vec![Some(0.5), None]))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn scalar_batch() -> RecordBatch {
    labelled_batch().project(&[1, 2]).unwrap()
}

fn stream(batch: &RecordBatch) -> Vec<u8> {
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap()
}

fn streams() -> Vec<Vec<u8>> {
    [kline_batch(), labelled_batch(), scalar_batch()].iter().map(stream).collect()
}

/// The messages of the streams.
fn messages() -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for stream in streams() {
        let mut rest = stream.as_slice();
        while let Some((length, after)) = rest.get(4..).and_then(|rest| rest.split_first_chunk::<4>()) {
            let header_bytes = u32::from_le_bytes(*length) as usize;
            if header_bytes == 0 {
                break;
            }
            let (header, after) = after.split_at(header_bytes);
            let body_bytes = arrow_guard::message(header).unwrap().bodyLength() as usize;
            let (body, after) = after.split_at(body_bytes);
            found.push([&length[..], header, body].concat());
            rest = after;
        }
    }
    found
}

fn parquets() -> Vec<Vec<u8>> {
    let write = |batch: &RecordBatch| {
        let mut file = Vec::new();
        let mut writer = parquet::arrow::ArrowWriter::try_new(&mut file, batch.schema(), None).unwrap();
        writer.write(batch).unwrap();
        writer.close().unwrap();
        file
    };
    [kline_batch(), labelled_batch(), scalar_batch()].iter().map(write).collect()
}

fn bytes(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn texts() -> Vec<Vec<u8>> {
    bytes(&[
        r#"[{"ts":1706745660000,"open":42000.15,"high":"42100.00","low":4.19e4,"close":42001,"volume":1.5,"trades":7},
            {"ts":"2024-02-01T00:00:00Z","open":1.00,"high":2,"low":0.5,"close":1.50000,"volume":0,"trades":-3.0}]"#,
        r#"{"columns":{"ts":[1706745660000],"open":[1],"high":[2],"low":["0.5"],"close":[1],"volume":[0],"trades":[1]}}"#,
        "{\"ts\":1706745660000000,\"value\":0.1}\n{\"ts\":1706745660000001,\"value\":null}\n",
        r#"[{"ts":1706745660000000,"value":"-0"},{"ts":1,"value":1e308}]"#,
        r#"{"writes":[{"series":"scalar/c/X/1h/n","rows":[{"ts":1,"value":2}]}]}"#,
        "{\"series\":\"scalar/c/X/1h/n\",\"ts\":1,\"value\":2}\n{\"series\":\"scalar/c/X/1h/n\",\"ts\":2,\"value\":-2}\n",
        r#"[[[[[[[[[[[[[[[[[[[[{"ts":[{"a":"\ud800"}]}]]]]]]]]]]]]]]]]]]]]"#,
    ])
}

fn csvs() -> Vec<Vec<u8>> {
    bytes(&[
        "ts,open,high,low,close,volume,trades\n1706745660000,42000.15,42100.0,41900,42001,1.5,7\n\"2024-02-01\",1,2,.5,\"1.5\",0,-3",
        "\u{feff}ts,value\r\n1,0.5\r\n2,\r\n",
        "series,ts,value\nscalar/c/X/1h/n,1,2\n\"scalar/c/X/1h/n\",2,\"-3\"\n",
    ])
}

fn queries() -> Vec<Vec<u8>> {
    bytes(&[
        r#"{"series":["kline/X/1m"],"start":"2024-02-01","end":1706745660000,"columns":["close"],"limit":10,
            "where":[{"column":"close","op":"between","value":[1,"2.50"]},{"column":"ts","op":"in","value":[1,2,3]}],
            "order":"desc","numbers":"raw","explain":true}"#,
        r#"{"series":["kline/*/1m","kline/Y/1m"],"latest":5,"layout":"by_time","as_of":"monday","commit":7}"#,
        r#"{"series":["scalar/c/X/1h/n"],"where":[{"op":"gte","value":1e-320},{"op":"ne","value":"-0"}],"cursor":"x"}"#,
        "close:gt:100\ntrades:not-in:1,-9223372036854775808,3\nvolume:between_exclusive:0.1,1e400\nlte:0.30000000000000004",
    ])
}
