//! The engine in process: append, range, latest and open. `benches/README.md` says how figures are taken.
#![allow(missing_docs)]

use std::hint::black_box;
use std::io::Write;
use std::os::unix::fs::FileExt;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use fastk::query::{Scan, ScanSpec, latest_start};
use fastk::store::{Durability, Store, StoreOptions, WriteMode};
use fastk::types::{Rows, SeriesKey, SeriesSpec};

const MINUTE: i64 = 60_000;
const ROWS: i64 = 2_000_000;

fn key() -> SeriesKey {
    SeriesKey::kline("BTCUSDT", "1m").expect("a valid key")
}

fn store(root: &std::path::Path, options: StoreOptions) -> Store {
    let store = Store::open(root, true, options).expect("a new store");
    let mut spec = SeriesSpec::of_key(&key());
    spec.price_digits = Some(2);
    spec.volume_digits = Some(8);
    store.register(spec.resolve().expect("a valid registration")).expect("registered");
    store
}

fn minutes(first: i64, count: i64) -> Rows {
    let ts: Vec<i64> = (first..first + count).map(|minute| minute * MINUTE).collect();
    let columns = (0..5).map(|column| ts.iter().map(|ts| ts / MINUTE % 9_973 + column).collect()).collect();
    Rows { ts, columns }
}

fn write(store: &Store, rows: Rows) {
    store.write(&key(), rows, WriteMode::Append, None).expect("written");
}

/// Reads a range, checks how many rows came, and gives a value that depends on every column.
fn read(store: &Store, range: (i64, i64), rows: usize) -> i64 {
    let state = store.snapshot();
    let series = state.get(&key()).expect("registered");
    let spec = ScanSpec::range(range);
    let mut found = 0;
    let mut sum = 0_i64;
    for block in Scan::new(series, store.cache(), &spec) {
        let block = block.expect("a whole block");
        found += block.rows;
        sum = (0..block.columns.len()).fold(sum, |sum, column| sum.wrapping_add(block.words(column)[0]));
    }
    assert_eq!(found, rows);
    sum
}

fn append(c: &mut Criterion) {
    let mut group = c.benchmark_group("append");
    group.throughput(Throughput::Elements(1));
    // What the disk itself needs for the same bytes: the limit to compare with.
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("bare");
    let mut file = std::fs::File::create(path).expect("a file");
    file.write_all(&vec![0; 64 << 20]).expect("zeros");
    file.sync_all().expect("synced");
    let mut offset = 0;
    group.bench_function("bare_fdatasync_192_bytes", |b| {
        b.iter(|| {
            file.write_all_at(&[1; 192], offset).expect("written");
            file.sync_data().expect("synced");
            offset = (offset + 192) % (63 << 20);
        });
    });
    let dir = tempfile::tempdir().expect("a directory");
    let durable = store(dir.path(), StoreOptions::default());
    let mut minute = 0;
    group.bench_function("one_row_durable", |b| {
        b.iter(|| {
            minute += 1;
            write(&durable, minutes(minute, 1));
        });
    });
    group.throughput(Throughput::Elements(100_000));
    group.sample_size(10);
    let dir = tempfile::tempdir().expect("a directory");
    let bulk = store(dir.path(), StoreOptions::default());
    let mut first = 0;
    group.bench_function("100000_rows_durable", |b| {
        b.iter_batched(
            || {
                first += 100_000;
                minutes(first, 100_000)
            },
            |rows| write(&bulk, rows),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn reads(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = store(dir.path(), StoreOptions::default());
    for first in (0..ROWS).step_by(250_000) {
        write(&store, minutes(first, 250_000));
    }
    store.seal(&[]).expect("sealed");
    let mut group = c.benchmark_group("read");
    let day = 1_440 * MINUTE;
    let start = ROWS / 2 * MINUTE;
    for (name, range, rows) in [
        ("range_one_day", (start, start + day - 1), 1_440),
        ("range_one_year", (start, start + 365 * day - 1), 525_600),
        ("all_rows", (i64::MIN, i64::MAX), ROWS as usize),
    ] {
        group.throughput(Throughput::Elements(rows as u64));
        group.bench_function(name, |b| b.iter(|| black_box(read(&store, range, rows))));
    }
    group.throughput(Throughput::Elements(100));
    group.bench_function("latest_100", |b| {
        b.iter(|| {
            let state = store.snapshot();
            let series = state.get(&key()).expect("registered");
            let from = latest_start(series, store.cache(), (i64::MIN, i64::MAX), 100, &[]).expect("a start");
            black_box(read(&store, (from, i64::MAX), 100))
        });
    });
    group.finish();
    drop(store);
    let mut group = c.benchmark_group("open");
    group.sample_size(10);
    group.bench_function("two_million_rows_sealed", |b| {
        b.iter(|| Store::open(dir.path(), false, StoreOptions::default()).expect("opened"));
    });
    group.finish();
}

/// One-row appends against the same rows written at once: a read must not pay for how rows arrived.
fn after_appends(c: &mut Criterion) {
    let mut group = c.benchmark_group("read_after");
    let rows = 100_000;
    for (name, one_by_one) in [("100000_rows_at_once", false), ("100000_one_row_appends", true)] {
        let dir = tempfile::tempdir().expect("a directory");
        let store = store(dir.path(), StoreOptions { durability: Durability::None, ..StoreOptions::default() });
        if one_by_one {
            for minute in 0..rows {
                write(&store, minutes(minute, 1));
            }
        } else {
            write(&store, minutes(0, rows));
        }
        group.throughput(Throughput::Elements(rows as u64));
        group.bench_function(name, |b| b.iter(|| black_box(read(&store, (i64::MIN, i64::MAX), rows as usize))));
    }
    group.finish();
}

criterion_group!(benches, append, reads, after_appends);
criterion_main!(benches);
