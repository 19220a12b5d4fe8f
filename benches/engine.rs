//! The engine in process: append, range, latest and open. `benches/README.md` describes the method.
#![allow(missing_docs)]

use std::hint::black_box;
use std::io::Write;
use std::os::unix::fs::FileExt;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use fastk::query::predicate::compile;
use fastk::query::{NumberFormat, Predicate, Query, Scan, ScanSpec, latest_start};
use fastk::store::{Durability, Store, StoreOptions, WriteMode};
use fastk::types::column::Cell;
use fastk::types::{Column, ColumnCells, ColumnType, Rows, SeriesKey, SeriesSpec};

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
    Rows::of_words(ts, columns)
}

fn write(store: &Store, rows: Rows) {
    store.write(&key(), rows, WriteMode::Append, None).expect("written");
}

/// Reads a range, checks the number of rows, and returns a value that depends on every column.
fn read(store: &Store, range: (i64, i64), rows: usize) -> i64 {
    let state = store.snapshot();
    let series = state.get(&key()).expect("registered");
    let spec = ScanSpec::range(range);
    let mut found = 0;
    let mut sum = 0_i64;
    for block in Scan::new(series, store.cache(), &spec) {
        let block = block.expect("an intact block");
        found += block.rows();
        sum = (0..block.column_count()).fold(sum, |sum, column| sum.wrapping_add(block.words(column)[0]));
    }
    assert_eq!(found, rows);
    sum
}

fn append(c: &mut Criterion) {
    let mut group = c.benchmark_group("append");
    group.throughput(Throughput::Elements(1));
    // Time of the disk itself for the same bytes: the limit to compare with.
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

/// One-row appends compared with the same rows written at once: the cost of a read must not depend on how rows arrived.
/// Each pair is measured in the unsealed tail, and after a checkpoint and a restart.
fn after_appends(c: &mut Criterion) {
    let mut group = c.benchmark_group("appends");
    let rows = 100_000;
    let options = || StoreOptions { durability: Durability::None, ..StoreOptions::default() };
    let ways = [("at_once", rows), ("one_by_one", 1)];
    let dirs = ways.map(|_| tempfile::tempdir().expect("a directory"));
    let mut stores: Vec<Store> = ways
        .iter()
        .zip(&dirs)
        .map(|((_, step), dir)| {
            let store = store(dir.path(), options());
            for first in (0..rows).step_by(usize::try_from(*step).expect("a step")) {
                write(&store, minutes(first, *step));
            }
            store
        })
        .collect();
    let day = 1_440;
    let ranges = [
        ("day_in_the_middle", rows / 2, rows / 2 + day - 1),
        ("last_day", rows - day, rows - 1),
        ("all_rows", 0, rows - 1),
    ];
    for place in ["tail", "restarted"] {
        if place == "restarted" {
            stores.iter().for_each(|store| store.checkpoint().expect("a checkpoint"));
            drop(std::mem::take(&mut stores));
            let open = |dir: &tempfile::TempDir| Store::open(dir.path(), false, options()).expect("opened");
            stores = dirs.iter().map(open).collect();
        }
        for (range, first, last) in ranges {
            group.throughput(Throughput::Elements(last.abs_diff(first) + 1));
            let (range_ms, count) = ((first * MINUTE, last * MINUTE), (last - first + 1) as usize);
            let sums: Vec<i64> = stores.iter().map(|store| checksum(store, range_ms)).collect();
            assert!(sums.windows(2).all(|pair| pair[0] == pair[1]), "other cells in {range}");
            for ((way, _), store) in ways.iter().zip(&stores) {
                let name = format!("{place}/{range}/{way}");
                group.bench_function(&name, |b| b.iter(|| black_box(read(store, range_ms, count))));
                group.bench_function(name + "/every_cell", |b| b.iter(|| black_box(sum(store, range_ms))));
            }
        }
    }
    drop(stores);
    // Cost to the writer of keeping the tail readable, without syncs.
    let dir = tempfile::tempdir().expect("a directory");
    let store = store(dir.path(), options());
    let mut minute = 0;
    group.throughput(Throughput::Elements(1));
    group.bench_function("cost_of_one_append", |b| {
        b.iter(|| {
            minute += 1;
            write(&store, minutes(minute, 1));
        });
    });
    group.finish();
}

/// Reads every cell of a range, as fast as a sum does.
fn sum(store: &Store, range: (i64, i64)) -> i64 {
    let state = store.snapshot();
    let series = state.get(&key()).expect("registered");
    let blocks = Scan::new(series, store.cache(), &ScanSpec::range(range)).map(|block| block.expect("an intact block"));
    blocks.fold(0, |sum, block| {
        let columns = (0..block.column_count()).flat_map(|column| block.words(column));
        columns.fold(sum, |sum: i64, word| sum.wrapping_add(*word))
    })
}

/// A value that depends on every cell of a range and its position.
fn checksum(store: &Store, range: (i64, i64)) -> i64 {
    let state = store.snapshot();
    let mut columns = [0_i64; 6];
    for block in Scan::new(state.get(&key()).expect("registered"), store.cache(), &ScanSpec::range(range)) {
        let block = block.expect("an intact block");
        for (position, sum) in columns.iter_mut().enumerate() {
            let mix = |sum: i64, word: &i64| sum.wrapping_mul(31).wrapping_add(*word);
            *sum = block.words(position).iter().fold(*sum, mix);
        }
    }
    columns.iter().fold(0, |sum, column| sum.wrapping_mul(31).wrapping_add(*column))
}

/// The same commits by one thread and by several, each with its own series: more writers must not be slower.
fn writers(c: &mut Criterion) {
    let mut group = c.benchmark_group("writers");
    group.sample_size(10);
    let commits = 2_000_i64;
    for (name, durability) in [("durable", Durability::Sync), ("unsynced", Durability::None)] {
        for threads in [1, 2, 4, 16] {
            let dir = tempfile::tempdir().expect("a directory");
            let store = Store::open(dir.path(), true, StoreOptions { durability, ..StoreOptions::default() });
            let store = store.expect("a new store");
            let keys: Vec<SeriesKey> =
                (0..threads).map(|n| SeriesKey::kline(&format!("S{n}"), "1m").expect("a valid key")).collect();
            for key in &keys {
                store.register(SeriesSpec::of_key(key).resolve().expect("a valid registration")).expect("registered");
            }
            let mut round = 0;
            group.throughput(Throughput::Elements(commits as u64));
            group.bench_function(format!("{name}/{threads}_threads"), |b| {
                b.iter(|| {
                    let (each, first) = (commits / threads, round * commits);
                    round += 1;
                    std::thread::scope(|scope| {
                        for key in &keys {
                            let store = &store;
                            scope.spawn(move || {
                                for minute in first..first + each {
                                    let written = store.write(key, minutes(minute, 1), WriteMode::Append, None);
                                    written.expect("written");
                                }
                            });
                        }
                    });
                });
            });
        }
    }
    group.finish();
}

const MANY: i64 = 10_000_000;

/// A series of ten million rows in one partition: `open` ascends with time, `close` and `volume` are scattered.
fn many(root: &std::path::Path, value_index: &[&str]) -> Store {
    let options =
        StoreOptions { durability: Durability::None, background_maintenance: false, ..StoreOptions::default() };
    let store = Store::open(root, true, options).expect("a new store");
    let mut spec = SeriesSpec::of_key(&key());
    spec.price_digits = Some(2);
    spec.volume_digits = Some(8);
    spec.partition = Some("all".into());
    let mut def = spec.resolve().expect("a valid registration");
    def.value_index = value_index.iter().map(|name| (*name).to_owned()).collect();
    store.register(def).expect("registered");
    for first in (0..MANY).step_by(2_500_000) {
        let mut rows = minutes(first, 2_500_000);
        for (row, minute) in (first..first + 2_500_000).enumerate() {
            rows.columns[0].words_mut()[row] = minute;
            // A multiplicative hash: every value of close ten times, one bit of volume at random.
            let mixed = (minute.wrapping_mul(0x9E37_79B9_7F4A_7C15_u64 as i64) >> 20) & 0xFFFF_FFFF;
            rows.columns[3].words_mut()[row] = mixed % (MANY / 10);
            rows.columns[4].words_mut()[row] = (mixed >> 7) % 1_000;
        }
        write(&store, rows);
    }
    store.seal(&[]).expect("sealed");
    store
}

/// Reads the rows a predicate on raw values selects; returns the number of rows and of scanned zones.
fn select(store: &Store, predicate: &str) -> (usize, f64) {
    let state = store.snapshot();
    let series = state.get(&key()).expect("registered");
    let predicate = Predicate::parse(predicate).expect("a predicate");
    let filter = compile(&series.def, &series.dictionaries, &[predicate], NumberFormat::Raw).expect("a known column");
    let mut scan = Scan::new(series, store.cache(), &ScanSpec { filter, ..ScanSpec::range((i64::MIN, i64::MAX)) });
    let rows = scan.by_ref().map(|block| black_box(block.expect("an intact block")).rows()).sum();
    let stats = scan.stats();
    (rows, stats.zones_scanned as f64 / stats.zones_considered.max(1) as f64)
}

/// Predicates over ten million rows, with and without a value index.
fn predicates(c: &mut Criterion) {
    let mut group = c.benchmark_group("predicate");
    group.sample_size(10);
    for (how, value_index) in [("zones_only", &[][..]), ("indexed", &["close"][..])] {
        let dir = tempfile::tempdir().expect("a directory");
        let store = many(dir.path(), value_index);
        let found = select(&store, "close:eq:4711").0;
        assert!((1..100).contains(&found), "{found} rows");
        group.throughput(Throughput::Elements(MANY as u64));
        group.bench_function(format!("eq_few_rows_{how}"), |b| b.iter(|| black_box(select(&store, "close:eq:4711"))));
        if !value_index.is_empty() {
            continue;
        }
        let (rows, zones) = select(&store, "open:between:5000000,5009999");
        assert!(rows == 10_000 && zones < 0.05, "{rows} rows, {zones} of the zones");
        group.bench_function("clustered_a_thousandth", |b| {
            b.iter(|| black_box(select(&store, "open:between:5000000,5009999")));
        });
        for (name, limit) in [("a_thousandth", 1), ("half", 500), ("all_but_a_thousandth", 999)] {
            group.bench_function(format!("scattered_{name}"), |b| {
                b.iter(|| black_box(select(&store, &format!("volume:lt:{limit}"))));
            });
        }
    }
    group.finish();
}

const WIDTH_ROWS: usize = 4_000_000;

/// A column of a type whose cells are the even numbers below 200, scattered.
fn scattered(kind: ColumnType, first: usize, rows: usize) -> ColumnCells {
    fn cells<T: Cell>(first: usize, rows: usize, cell: impl Fn(u8) -> T) -> ColumnCells {
        let number = |row: usize| (row.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33) % 100;
        (first..first + rows)
            .map(|row| cell(u8::try_from(number(row) * 2).expect("below 200")))
            .collect::<Vec<T>>()
            .into()
    }
    match kind {
        ColumnType::WideDecimal { .. } => cells(first, rows, i128::from),
        ColumnType::Float64 => cells(first, rows, f64::from),
        ColumnType::Float32 => cells(first, rows, f32::from),
        ColumnType::Int32 => cells(first, rows, i32::from),
        ColumnType::Int16 => cells(first, rows, i16::from),
        ColumnType::UInt8 => cells(first, rows, |cell| cell),
        _ => cells(first, rows, i64::from),
    }
}

/// Bytes of columns of every width that a condition checks: one that no cell matches and zone maps do not exclude, one
/// that a hundredth matches, and one that half of the cells match.
fn widths(c: &mut Criterion) {
    let kinds = [
        ColumnType::Int64,
        ColumnType::UInt64,
        ColumnType::Float64,
        ColumnType::WideDecimal { digits: 0 },
        ColumnType::Int32,
        ColumnType::Float32,
        ColumnType::Int16,
        ColumnType::UInt8,
    ];
    let dir = tempfile::tempdir().expect("a directory");
    let options =
        StoreOptions { durability: Durability::None, background_maintenance: false, ..StoreOptions::default() };
    let store = Store::open(dir.path(), true, options).expect("a new store");
    let key = SeriesKey::scalar("c", "X", "tick", "n").expect("a valid key");
    let mut def = SeriesSpec::of_key(&key).resolve().expect("a valid registration");
    def.columns = kinds.map(|kind| Column::new(kind.name(), kind)).to_vec();
    def.columns[3].name = "wide".into();
    store.register(def).expect("registered");
    for first in (0..WIDTH_ROWS).step_by(1_000_000) {
        let ts = (first as i64..first as i64 + 1_000_000).collect();
        let columns = kinds.map(|kind| scattered(kind, first, 1_000_000)).to_vec();
        store.write(&key, Rows::new(ts, columns), WriteMode::Append, None).expect("written");
    }
    store.seal(&[]).expect("sealed");
    let mut group = c.benchmark_group("width");
    let state = store.snapshot();
    let series = state.get(&key).expect("registered");
    for (position, kind) in kinds.into_iter().enumerate() {
        let name = &series.def.columns[position].name;
        group.throughput(Throughput::Bytes((WIDTH_ROWS * kind.layout().width()) as u64));
        for (what, condition, rows) in [
            ("no_match", "eq:101", 0..1),
            ("a_hundredth", "lt:2", 30_000..50_000),
            ("half", "lt:100", 1_900_000..2_100_000),
        ] {
            let predicate = Predicate::parse(&format!("{name}:{condition}")).expect("a predicate");
            let filter =
                compile(&series.def, &series.dictionaries, &[predicate], NumberFormat::Stored).expect("compiled");
            let spec = ScanSpec { filter, columns: Some(Vec::new()), ..ScanSpec::range((i64::MIN, i64::MAX)) };
            let count = || -> usize {
                Scan::new(series, store.cache(), &spec).map(|block| block.expect("an intact block").rows()).sum()
            };
            assert!(rows.contains(&count()), "{name}: {} rows", count());
            group.bench_function(format!("{name}/{what}"), |b| b.iter(|| black_box(count())));
        }
    }
    group.finish();
}

/// Buckets of ten million one-minute bars; the number of buckets and a cell of each column are checked.
fn resample(c: &mut Criterion) {
    let mut group = c.benchmark_group("resample");
    group.sample_size(10);
    group.throughput(Throughput::Elements(MANY as u64));
    let dir = tempfile::tempdir().expect("a directory");
    let store = many(dir.path(), &[]);
    let reader = store.reader();
    let run = |options: &str| {
        let query = format!(r#"{{"series":["{}"],"every":{options}}}"#, key());
        let query: Query = serde_json::from_str(&query).expect("a query");
        let (mut rows, mut counted) = (0, 0);
        for block in reader.plan(&query).expect("a plan").scan() {
            let block = black_box(block.expect("an intact block"));
            rows += block.rows();
            counted += block.column(block.column_count() - 3).typed::<u64>().iter().sum::<u64>();
        }
        (rows, counted)
    };
    for (name, options, buckets) in [
        ("hours", r#""1h""#, 166_667),
        ("days", r#""1d""#, 6_945),
        ("days_of_new_york", r#""1d","tz":"America/New_York""#, 6_946),
        ("hours_of_new_york", r#""1h","tz":"America/New_York""#, 166_667),
        ("hours_by_max", r#""1h","agg":["high:max"]"#, 166_667),
        ("hours_by_sum", r#""1h","agg":["volume:sum"]"#, 166_667),
        ("hours_by_vwap", r#""1h","agg":["vwap(close,volume)"]"#, 166_667),
        ("hours_counted", r#""1h","agg":["count"]"#, 166_667),
        ("minutes", r#""1m""#, 10_000_000),
        ("last_100_hours", r#""1h","latest":100"#, 100),
    ] {
        let (rows, counted) = run(options);
        assert_eq!(rows, buckets, "{name}");
        assert!(counted == MANY as u64 || rows == 100, "{name}: {counted}");
        group.bench_function(name, |b| b.iter(|| run(options)));
    }
    group.finish();
}

/// Series and rows of each of a panel.
const PANEL: (i64, i64) = (10, 1_000_000);

/// Ten series of a million one-minute bars side by side; `gaps` leaves out another tenth of each.
fn panel_store(root: &std::path::Path, gaps: bool) -> Store {
    let options = StoreOptions { durability: Durability::None, ..StoreOptions::default() };
    let store = Store::open(root, true, options).expect("a new store");
    for series in 0..PANEL.0 {
        let key = SeriesKey::kline(&format!("S{series}"), "1m").expect("a valid key");
        store.register(SeriesSpec::of_key(&key).resolve().expect("a valid registration")).expect("registered");
        for first in (0..PANEL.1).step_by(100_000) {
            let is_there = |minute: &i64| !gaps || (minute * 7 + series) % 10 != 0;
            let ts: Vec<i64> = (first..first + 100_000).filter(is_there).map(|minute| minute * MINUTE).collect();
            let cells = |column: i64| {
                ts.iter().map(move |ts| f64::from(i32::try_from(ts / MINUTE % 9_973 + column).expect("small")))
            };
            let columns =
                (0..5).map(|column| cells(column).map(|cell| cell.to_bits().cast_signed()).collect()).collect();
            store.write(&key, Rows::of_words(ts, columns), WriteMode::Append, None).expect("written");
        }
    }
    store.seal(&[]).expect("sealed");
    store
}

/// Panels; the number of rows and of nulls is checked.
fn panel(c: &mut Criterion) {
    let mut group = c.benchmark_group("panel");
    group.sample_size(10);
    group.throughput(Throughput::Elements((PANEL.0 * PANEL.1).unsigned_abs()));
    for gaps in [false, true] {
        let dir = tempfile::tempdir().expect("a directory");
        let store = panel_store(dir.path(), gaps);
        let reader = store.reader();
        let run = |options: &str| {
            let query = format!(r#"{{"series":["kline/*/1m"],"layout":"wide"{options}}}"#);
            let query: Query = serde_json::from_str(&query).expect("a query");
            let (mut rows, mut nulls) = (0, 0);
            for block in reader.plan(&query).expect("a plan").scan() {
                let block = black_box(block.expect("an intact block"));
                rows += block.rows() as u64;
                nulls += block.columns().map(|column| column.null_count() as u64).sum::<u64>();
            }
            (rows, nulls)
        };
        for (name, options, columns) in
            [("close", r#","columns":["close"]"#, 1), ("all_columns", "", 5), ("hours", r#","every":"1h""#, 5)]
        {
            let (rows, nulls) = run(options);
            let expected = if name == "hours" { 16_667 } else { PANEL.1.unsigned_abs() };
            let missing = if gaps && name != "hours" { PANEL.1.unsigned_abs() * columns } else { 0 };
            assert_eq!((rows, nulls), (expected, missing), "{name}");
            let name = if gaps { format!("gaps/{name}") } else { format!("aligned/{name}") };
            group.bench_function(name, |b| b.iter(|| run(options)));
        }
    }
    group.finish();
}

criterion_group!(benches, append, reads, after_appends, writers, predicates, widths, resample, panel);
criterion_main!(benches);
