//! Encoding and decoding of rows by the server, without its sockets.
#![allow(missing_docs)]

use std::hint::black_box;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, TimestampMillisecondArray};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fastk::egress::{BodyEncoder, EncodeOptions, OutFormat, Trailer};
use fastk::ingest::{self, BodyFormat};
use fastk::query::{NumberFormat, Query, TimeValue};
use fastk::service::Service;
use fastk::store::{StoreOptions, WriteMode};
use fastk::types::{Rows, SeriesKey, SeriesSpec};

const MINUTE: i64 = 60_000;
const ROWS: i64 = 1_000_000;
const DAY: i64 = 1_440;

fn key(symbol: &str) -> SeriesKey {
    SeriesKey::kline(symbol, "1m").expect("a valid key")
}

/// A million sealed bars of two and eight digits, and 500 series without rows.
fn service(root: &std::path::Path) -> Arc<Service> {
    let options = StoreOptions { background_maintenance: false, ..StoreOptions::default() };
    let service = Service::open(root, true, options).expect("a new store");
    let store = service.store();
    let symbols = (0..500).map(|n| format!("S{n}")).chain(["BTC".into()]);
    for symbol in symbols {
        let mut spec = SeriesSpec::of_key(&key(&symbol));
        (spec.price_digits, spec.volume_digits) = (Some(2), Some(8));
        store.register(spec.resolve().expect("a valid registration")).expect("registered");
    }
    for first in (0..ROWS).step_by(250_000) {
        let ts: Vec<i64> = (first..first + 250_000).map(|minute| minute * MINUTE).collect();
        let price = |shift: i64| ts.iter().map(|ts| 4_200_000 + ts / MINUTE * 37 % 99_991 + shift).collect();
        let volume = ts.iter().map(|ts| ts / MINUTE * 7_919 % 1_000_000_007).collect();
        let columns = vec![price(0), price(500), price(-500), price(120), volume];
        store.write(&key("BTC"), Rows::of_words(ts, columns), WriteMode::Append, None).expect("written");
    }
    store.seal(&[]).expect("sealed");
    service
}

fn body(service: &Service, query: &Query, format: OutFormat) -> usize {
    let result = service.read(query).expect("a result");
    let options = EncodeOptions { format, ..EncodeOptions::default() };
    let encoder = BodyEncoder::new(&result.shape.clone(), options, result, |_| Trailer::default()).expect("an encoder");
    encoder.map(|piece| piece.expect("a piece").len()).sum()
}

fn out(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a directory");
    let service = service(dir.path());
    let mut group = c.benchmark_group("out");
    let start = 500_000 * MINUTE;
    let range = |rows: i64| Query {
        start: Some(TimeValue::Epoch(start)),
        end: Some(TimeValue::Epoch(start + (rows - 1) * MINUTE)),
        ..Query::of(&key("BTC"))
    };
    for (name, rows, format, numbers) in [
        ("json_day", DAY, OutFormat::Json, NumberFormat::Stored),
        ("json_100000", 100_000, OutFormat::Json, NumberFormat::Stored),
        ("csv_100000", 100_000, OutFormat::Csv, NumberFormat::Stored),
        ("json_100000_float64", 100_000, OutFormat::Json, NumberFormat::Float64),
        ("arrow_day", DAY, OutFormat::Arrow, NumberFormat::Stored),
        ("arrow_100000", 100_000, OutFormat::Arrow, NumberFormat::Stored),
        ("arrow_100000_float64", 100_000, OutFormat::Arrow, NumberFormat::Float64),
    ] {
        let query = Query { numbers, ..range(rows) };
        group.throughput(Throughput::Elements(rows as u64));
        group.bench_function(name, |b| b.iter(|| black_box(body(&service, &query, format))));
    }
    group.finish();

    let mut group = c.benchmark_group("in");
    let def = service.def(&key("BTC")).expect("registered");
    let options = ingest::DecodeOptions::default();
    let rows = 65_536;
    group.throughput(Throughput::Elements(rows));
    let ts: ArrayRef = Arc::new(
        TimestampMillisecondArray::from_iter_values((0..rows as i64).map(|n| n * MINUTE)).with_timezone("UTC"),
    );
    let doubles = |shift: f64| -> ArrayRef {
        Arc::new(Float64Array::from_iter_values((0..rows).map(|n| 42_000.0 + (n % 10_000) as f64 / 100.0 + shift)))
    };
    let batch = RecordBatch::try_from_iter([
        ("ts", ts.clone()),
        ("open", doubles(0.0)),
        ("high", doubles(5.0)),
        ("low", doubles(-5.0)),
        ("close", doubles(1.25)),
        ("volume", doubles(0.0)),
    ])
    .expect("a batch");
    let float_def = SeriesSpec::of_key(&key("BTC")).resolve().expect("a valid registration");
    group.bench_function("batch_of_doubles_as_doubles", |b| {
        b.iter(|| black_box(ingest::from_batch(&float_def, batch.clone(), &options).expect("rows").rows.len()))
    });
    group.bench_function("batch_of_doubles_as_decimals", |b| {
        b.iter(|| black_box(ingest::from_batch(&def, batch.clone(), &options).expect("rows").rows.len()))
    });
    let query = Query { end: Some(TimeValue::Epoch((rows as i64 - 1) * MINUTE)), ..Query::of(&key("BTC")) };
    let result = service.read(&query).expect("a result");
    let schema = result.shape.arrow_schema();
    let shape = result.shape.clone();
    let stored: Vec<RecordBatch> =
        result.map(|block| shape.record_batch(&schema, &block.expect("a block")).expect("a batch")).collect();
    let stored = arrow::compute::concat_batches(&schema, &stored).expect("one batch");
    group.bench_function("batch_as_stored", |b| {
        b.iter(|| black_box(ingest::from_batch(&def, stored.clone(), &options).expect("rows").rows.len()))
    });

    group.throughput(Throughput::Elements(500));
    let writes: Vec<String> = (0..500)
        .map(|n| {
            format!(
                r#"{{"series":"kline/S{n}/1m","rows":[{{"ts":1700000040000,"open":42000.15,"high":42010.5,"low":41990.25,"close":42001.75,"volume":12.34567891}}]}}"#
            )
        })
        .collect();
    let many = format!(r#"{{"writes":[{}]}}"#, writes.join(","));
    let lookup = |key: &SeriesKey| service.known(key);
    group.bench_function("one_bar_of_500_series_as_json", |b| {
        b.iter(|| {
            let parsed = ingest::parse_many(BodyFormat::Json, many.as_bytes(), &options, &lookup);
            black_box(parsed.expect("rows").len())
        })
    });
    group.finish();
}

criterion_group! {
    name = protocols;
    config = Criterion::default().sample_size(30);
    targets = out
}
criterion_main!(protocols);
