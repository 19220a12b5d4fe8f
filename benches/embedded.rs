//! The engine in process, driven by one command per line, so that `benches/compare` can interleave it with other
//! engines.
//!
//! Reads one command per line from standard input and prints one line of JSON for each: `ns` has the time of every
//! repetition, `rows` and `sum` describe the last result, `error` is the reason of a failure. Preparation (reading
//! files, checksums) is not timed.
//!
//! | command | what is timed |
//! |---|---|
//! | `open DIR [none] [idle]` | opening a store, created if missing; `none` disables syncs, `idle` disables maintenance |
//! | `close` | closing the store |
//! | `register JSON` | registering a series |
//! | `write KEY FILE MODE` | writing an Arrow file, one commit per record batch; `{}` in the key is the number of the batch |
//! | `each KEY FILE` | writing an Arrow file, one commit per row |
//! | `spread PREFIX FIRST END FILE` | writing an Arrow file into each of the series `PREFIX00000` and so on |
//! | `settle` | seal, checkpoint, compact, vacuum: deferred maintenance |
//! | `range KEY START END TIMES`, `latest KEY N TIMES`, `predicate KEY COLUMN:OP:VALUE TIMES` | rows to Arrow record batches |
//! | `resample KEY EVERY TIMES` | buckets of all rows to Arrow record batches, without the columns about the buckets |
//! | `sum KEY START END TIMES` | like `range`, and every cell read |
//! | `cross PREFIX TS TIMES` | one bar of every series with this key prefix, as one table by time |
//! | `append KEY TIMES` | one row after the last |
//! | `fanin PREFIX N TIMES` | one row for each of N series in one commit |
//! | `fdatasync DIR BYTES TIMES HOW` | the bare sync of BYTES bytes within a file of zeros (`zeroed`) or at its end (`growing`) |
//! | `plant DIR CHUNKS` | nothing: creates a store whose manifest lists CHUNKS chunks of one series |

use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::io::{BufRead, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use arrow::array::{Array, AsArray, StringArray};
use arrow::datatypes::{DataType, Int32Type};
use arrow::ipc::reader::FileReader;
use arrow::record_batch::RecordBatch;
use fastk::format::manifest::{ChunkRecord, Edit, decode_edit, encode_edit};
use fastk::query::{MultiLayout, Query, TimeValue};
use fastk::store::Durability;
use fastk::types::{Partition, TimeUnit};
use fastk::{
    Error, Predicate, ResampleSpec, Result, Rows, Select, SeriesKey, SeriesSpec, SeriesWrite, Store, StoreOptions,
    WriteMode,
};
use serde_json::{Value, json};

const MINUTE: i64 = 60_000;
const DAY: i64 = 1_440 * MINUTE;
/// Size of the file for repeated syncs.
const ZEROED_BYTES: usize = 64 << 20;

/// The allocator of the program.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    // `cargo bench` passes a flag; this program does nothing then.
    if std::env::args().len() > 1 {
        eprintln!("embedded has no arguments; benches/compare/run drives it through its standard input");
        return;
    }
    let mut session = Session { store: None };
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("a line of text");
        let reply = session.execute(&line).unwrap_or_else(|error| json!({ "error": error.to_string() }));
        println!("{reply}");
        std::io::stdout().flush().expect("stdout is open");
    }
}

/// State of the commands.
struct Session {
    store: Option<Store>,
}

/// Times of the repetitions, and the last result.
struct Timed<T> {
    ns: Vec<u64>,
    last: T,
}

/// Repeats `work`. Results are dropped outside the timing.
fn timed<T>(times: &str, mut work: impl FnMut() -> Result<T>) -> Result<Timed<T>> {
    let times: usize = number(times)?;
    let mut ns = Vec::with_capacity(times);
    let mut last = None;
    for _ in 0..times.max(1) {
        drop(last.take());
        let started = Instant::now();
        last = Some(black_box(work()?));
        ns.push(nanos(started));
    }
    last.map(|last| Timed { ns, last }).ok_or_else(|| Error::internal("zero repetitions"))
}

fn nanos(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T> {
    text.parse().map_err(|_| Error::invalid(format!("{text:?} is no number that fits here")))
}

fn other(error: impl std::fmt::Display) -> Error {
    Error::internal(error.to_string())
}

impl Session {
    fn store(&self) -> Result<&Store> {
        self.store.as_ref().ok_or_else(|| Error::invalid("no store is open"))
    }

    fn execute(&mut self, line: &str) -> Result<Value> {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        let words: Vec<&str> = rest.split_whitespace().collect();
        match (command, words.as_slice()) {
            ("open", [dir, flags @ ..]) => self.open(Path::new(dir), flags),
            ("close", []) => {
                let started = Instant::now();
                drop(self.store.take());
                Ok(json!({ "ns": [nanos(started)] }))
            }
            ("register", _) => {
                let spec: SeriesSpec = serde_json::from_str(rest).map_err(other)?;
                let started = Instant::now();
                self.store()?.register(spec.resolve()?)?;
                Ok(json!({ "ns": [nanos(started)] }))
            }
            ("write", [key, file, mode]) => self.write(key, &batches_of(file)?, mode),
            ("each", [key, file]) => self.each(key, &batches_of(file)?),
            ("spread", [prefix, first, end, file]) => {
                self.spread(prefix, number(first)?..number(end)?, &batches_of(file)?)
            }
            ("settle", []) => self.settle(),
            ("range", [key, start, end, times]) => {
                let (key, range) = (SeriesKey::parse(key)?, number(start)?..=number(end)?);
                self.select(&key, &Select { range: Some(range), ..Select::default() }, times)
            }
            ("latest", [key, rows, times]) => {
                let select = Select { latest: Some(number(rows)?), ..Select::default() };
                self.select(&SeriesKey::parse(key)?, &select, times)
            }
            ("predicate", [key, predicate, times]) => {
                let predicates = [Predicate::parse(predicate)?];
                let select = Select { predicates: &predicates, ..Select::default() };
                self.select(&SeriesKey::parse(key)?, &select, times)
            }
            ("resample", [key, every, times]) => {
                let buckets = ResampleSpec { every: (*every).to_owned(), ..ResampleSpec::default() };
                let columns = ["open", "high", "low", "close", "volume"];
                let select = Select { resample: Some(&buckets), columns: Some(&columns), ..Select::default() };
                self.select(&SeriesKey::parse(key)?, &select, times)
            }
            ("sum", [key, start, end, times]) => {
                let (key, range) = (SeriesKey::parse(key)?, number(start)?..=number(end)?);
                self.sum(&key, &Select { range: Some(range), ..Select::default() }, times)
            }
            ("cross", [prefix, ts, times]) => self.cross(prefix, number(ts)?, times),
            ("append", [key, times]) => self.append(&SeriesKey::parse(key)?, times),
            ("fanin", [prefix, count, times]) => self.fan_in(prefix, number(count)?, times),
            ("fdatasync", [dir, bytes, times, how]) => fdatasync(Path::new(dir), number(bytes)?, times, how),
            ("plant", [dir, chunks]) => plant(Path::new(dir), number(chunks)?),
            _ => Err(Error::invalid(format!("{line:?} is no command"))),
        }
    }

    fn open(&mut self, dir: &Path, flags: &[&str]) -> Result<Value> {
        drop(self.store.take());
        let durability = if flags.contains(&"none") { Durability::None } else { Durability::Sync };
        let options =
            StoreOptions { durability, background_maintenance: !flags.contains(&"idle"), ..StoreOptions::default() };
        let before = anonymous_bytes();
        let started = Instant::now();
        let store = Store::open(dir, true, options)?;
        let ns = nanos(started);
        let chunks: usize = store.snapshot().registered().map(|series| series.chunks.len()).sum();
        let rows: u64 = store.snapshot().registered().map(|series| series.rows).sum();
        self.store = Some(store);
        let after = anonymous_bytes();
        Ok(json!({ "ns": [ns], "rows": rows, "chunks": chunks, "anonymous": after, "anonymous_before": before }))
    }

    /// Copying the words out of the record batches is timed too, since consumers of Arrow tables also have to read
    /// them.
    fn write(&self, key: &str, batches: &[RecordBatch], mode: &str) -> Result<Value> {
        let store = self.store()?;
        let mode = match mode {
            "append" => WriteMode::Append,
            "upsert" => WriteMode::Upsert,
            _ => return Err(Error::invalid(format!("mode {mode:?} is not one of append, upsert"))),
        };
        let keys: Vec<SeriesKey> = (0..batches.len())
            .map(|number| SeriesKey::parse(&key.replace("{}", &format!("{number:03}"))))
            .collect::<Result<_>>()?;
        for key in &keys {
            registered(store, key)?;
        }
        let mut rows = 0;
        let started = Instant::now();
        for (key, batch) in keys.iter().zip(batches) {
            rows += store.write(key, rows_of(batch), mode, None)?.rows_written;
        }
        Ok(json!({ "ns": [nanos(started)], "rows": rows }))
    }

    fn each(&self, key: &str, batches: &[RecordBatch]) -> Result<Value> {
        let (store, key) = (self.store()?, SeriesKey::parse(key)?);
        registered(store, &key)?;
        let mut rows = 0;
        let started = Instant::now();
        for batch in batches {
            for row in 0..batch.num_rows() {
                rows += store.write(&key, rows_of(&batch.slice(row, 1)), WriteMode::Append, None)?.rows_written;
            }
        }
        Ok(json!({ "ns": [nanos(started)], "rows": rows }))
    }

    fn spread(&self, prefix: &str, numbers: Range<usize>, batches: &[RecordBatch]) -> Result<Value> {
        let store = self.store()?;
        let mut rows = 0;
        let started = Instant::now();
        for number in numbers {
            let key = SeriesKey::kline(&format!("{prefix}{number:05}"), "1m")?;
            registered(store, &key)?;
            for batch in batches {
                rows += store.write(&key, rows_of(batch), WriteMode::Append, None)?.rows_written;
            }
        }
        Ok(json!({ "ns": [nanos(started)], "rows": rows }))
    }

    fn settle(&self) -> Result<Value> {
        let store = self.store()?;
        let started = Instant::now();
        store.seal(&[])?;
        store.checkpoint()?;
        store.compact(&[], true)?;
        store.vacuum()?;
        Ok(json!({ "ns": [nanos(started)] }))
    }

    /// From loading the published state to the last record batch.
    fn select(&self, key: &SeriesKey, select: &Select<'_>, times: &str) -> Result<Value> {
        let store = self.store()?;
        let read = || store.reader().select(key, select)?.record_batches().collect::<Result<Vec<_>>>();
        let Timed { ns, last } = timed(times, read)?;
        let (rows, sum) = checksum(&last)?;
        Ok(json!({ "ns": ns, "rows": rows, "sum": sum }))
    }

    fn sum(&self, key: &SeriesKey, select: &Select<'_>, times: &str) -> Result<Value> {
        let store = self.store()?;
        let read = || {
            let mut sums = [0_i64; 64];
            let mut rows = 0;
            for batch in store.reader().select(key, select)?.record_batches() {
                let batch = batch?;
                rows += batch.num_rows();
                for (sum, column) in sums.iter_mut().zip(batch.columns()) {
                    *sum = words(column.as_ref()).iter().fold(*sum, |sum, word| sum.wrapping_add(*word));
                }
            }
            Ok((rows, sums.iter().fold(0, |total: i64, sum| total.wrapping_mul(31).wrapping_add(*sum))))
        };
        let Timed { ns, last: (rows, sum) } = timed(times, read)?;
        Ok(json!({ "ns": ns, "rows": rows, "sum": sum.cast_unsigned().to_string() }))
    }

    fn cross(&self, prefix: &str, ts: i64, times: &str) -> Result<Value> {
        let store = self.store()?;
        let read = || {
            let reader = store.reader();
            let keys = reader.keys().filter(|key| key.as_str().starts_with(prefix));
            let series = keys.map(ToString::to_string).collect();
            let when = Some(TimeValue::Epoch(ts));
            let layout = Some(MultiLayout::ByTime);
            let plan = reader.plan(&Query { series, start: when.clone(), end: when, layout, ..Query::default() })?;
            let shape = plan.schema().clone();
            let schema = shape.arrow_schema();
            let scan = plan.scan();
            scan.map(|block| shape.record_batch(&schema, &block?)).collect::<Result<Vec<_>>>()
        };
        let Timed { ns, last } = timed(times, read)?;
        let (rows, sum) = checksum(&last)?;
        Ok(json!({ "ns": ns, "rows": rows, "sum": sum }))
    }

    fn append(&self, key: &SeriesKey, times: &str) -> Result<Value> {
        let store = self.store()?;
        let mut minute = next_minute(store, key)?;
        let before = store.log_bytes().1;
        let write = || {
            minute += 1;
            store.write(key, bar(0, minute * MINUTE), WriteMode::Append, None)
        };
        let Timed { ns, last } = timed(times, write)?;
        let logged = store.log_bytes().1.saturating_sub(before) / ns.len() as u64;
        Ok(json!({ "ns": ns, "rows": last.rows_written, "durable": last.durable, "logged": logged }))
    }

    fn fan_in(&self, prefix: &str, count: usize, times: &str) -> Result<Value> {
        let store = self.store()?;
        let key = |number: usize| SeriesKey::kline(&format!("{prefix}{number:03}"), "1m");
        let keys: Vec<SeriesKey> = (0..count).map(key).collect::<Result<_>>()?;
        for key in &keys {
            registered(store, key)?;
        }
        let first = keys.first().ok_or_else(|| Error::invalid("0 series"))?;
        let mut minute = next_minute(store, first)?;
        let before = store.log_bytes().1;
        let write = || {
            minute += 1;
            let one = |(number, key): (usize, &SeriesKey)| {
                SeriesWrite::new(key.clone(), bar(number as i64, minute * MINUTE), WriteMode::Append)
            };
            store.write_many(keys.iter().enumerate().map(one).collect(), None)
        };
        let Timed { ns, last } = timed(times, write)?;
        let logged = store.log_bytes().1.saturating_sub(before) / ns.len() as u64;
        let durable = last.written.iter().all(|written| written.durable);
        Ok(json!({ "ns": ns, "rows": last.written.len(), "durable": durable, "logged": logged }))
    }
}

/// Registers a series with columns of doubles, unless it exists.
fn registered(store: &Store, key: &SeriesKey) -> Result<()> {
    if store.reader().series(key).is_err() {
        store.register(SeriesSpec::of_key(key).resolve()?)?;
    }
    Ok(())
}

/// The minute after the last row.
fn next_minute(store: &Store, key: &SeriesKey) -> Result<i64> {
    let last = store.reader().series(key)?.bounds.map(|(_, last)| last / MINUTE);
    Ok(last.map_or(0, |last| last + 1))
}

/// One valid bar of float columns.
fn bar(number: i64, ts: i64) -> Rows {
    let price = 100.0 + number as f64 / 100.0;
    let words = [price, price + 1.0, price - 1.0, price + 0.5, 1.5].map(|cell| cell.to_bits().cast_signed());
    Rows::of_words(vec![ts], words.map(|word| vec![word]).into())
}

fn batches_of(file: &str) -> Result<Vec<RecordBatch>> {
    let reader = FileReader::try_new(File::open(file).map_err(other)?, None).map_err(other)?;
    reader.map(|batch| batch.map_err(other)).collect()
}

fn rows_of(batch: &RecordBatch) -> Rows {
    let mut columns = batch.columns().iter().map(|column| words(column.as_ref()).to_vec());
    Rows::of_words(columns.next().unwrap_or_default(), columns.collect())
}

/// The cells of a column of 8-byte words.
fn words(column: &dyn Array) -> &[i64] {
    macro_rules! cells {
        ($($kind:ident)*) => {
            match column.data_type() {
                $(DataType::$kind { .. } => {
                    let values = column.as_any().downcast_ref::<kinds::$kind>().expect("its own type").values();
                    values.inner().typed_data::<i64>()
                })*
                other => panic!("{other} has no cells of 8 bytes"),
            }
        };
    }
    cells!(Int64 Float64 Decimal64 Timestamp)
}

/// The array types of series columns.
mod kinds {
    pub(crate) use arrow::array::{Decimal64Array as Decimal64, Float64Array as Float64, Int64Array as Int64};
    pub(crate) type Timestamp = arrow::array::TimestampMillisecondArray;
}

/// Row count, and a number that depends on every cell and its row. As text, since many JSON parsers use doubles.
fn checksum(batches: &[RecordBatch]) -> Result<(usize, String)> {
    let columns = batches.first().map_or(0, RecordBatch::num_columns);
    let mut sums = vec![0_u64; columns];
    let mut rows = 0;
    for batch in batches {
        for (sum, column) in sums.iter_mut().zip(batch.columns()) {
            let mut weight = 2 * rows as u64 + 1;
            let mut add = |cell: u64| {
                *sum = sum.wrapping_add(cell.wrapping_mul(weight));
                weight += 2;
            };
            match column.data_type() {
                DataType::Dictionary(..) => {
                    let labels = column.as_dictionary::<Int32Type>();
                    let names = labels.downcast_dict::<StringArray>().ok_or_else(|| other("labels are not strings"))?;
                    names.into_iter().for_each(|name| add(text_word(name.unwrap_or_default())));
                }
                _ => words(column.as_ref()).iter().for_each(|word| add(word.cast_unsigned())),
            }
        }
        rows += batch.num_rows();
    }
    let sum = sums.iter().fold(0_u64, |total, sum| total.wrapping_mul(31).wrapping_add(*sum));
    Ok((rows, sum.to_string()))
}

/// FNV-1a hash of a text.
fn text_word(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Anonymous memory of this process.
fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap_or_default();
    1024 * line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0)
}

/// Time of the disk itself to make bytes durable.
fn fdatasync(dir: &Path, bytes: usize, times: &str, how: &str) -> Result<Value> {
    let path = dir.join("bare");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&path).map_err(other)?;
    let room = match how {
        "zeroed" => ZEROED_BYTES.max(2 * bytes),
        "growing" => 0,
        _ => return Err(Error::invalid(format!("{how:?} is not one of zeroed, growing"))),
    };
    file.write_all(&vec![0; room]).and_then(|()| file.sync_all()).map_err(other)?;
    let block = vec![1; bytes];
    let mut at = 0;
    let write = || {
        file.write_all_at(&block, at as u64).and_then(|()| file.sync_data()).map_err(other)?;
        at += bytes;
        if how == "zeroed" && at + bytes > room {
            at = 0;
        }
        Ok(())
    };
    let Timed { ns, last: () } = timed(times, write)?;
    std::fs::remove_file(&path).map_err(other)?;
    Ok(json!({ "ns": ns }))
}

/// Creates a store of one day in one chunk, and an edit that adds one chunk per day without files: an open that touched
/// them would fail.
fn plant(dir: &Path, count: u64) -> Result<Value> {
    let store = Store::open(dir, true, StoreOptions { background_maintenance: false, ..StoreOptions::default() })?;
    let key = SeriesKey::kline("BTCUSDT", "1m")?;
    let spec = SeriesSpec { partition: Some("day".into()), ..SeriesSpec::of_key(&key) };
    store.register(spec.resolve()?)?;
    let mut rows = bar(0, 0);
    (1..10).for_each(|minute| rows.append(bar(0, minute * MINUTE)));
    store.write(&key, rows, WriteMode::Upsert, None)?;
    store.seal(&[])?;
    drop(store);
    let manifest = dir.join("manifest");
    let entries = std::fs::read_dir(&manifest).map_err(other)?.flatten().map(|entry| entry.path());
    let newest = entries.filter(|path| path.extension().is_some_and(|ending| ending == "edit")).max();
    let newest = newest.ok_or_else(|| Error::internal("no edit was written"))?;
    let (last, _) = decode_edit(&std::fs::read(newest).map_err(other)?)?;
    let (Some(series), Some(chunk)) = (last.series.first(), last.chunks.first()) else {
        return Err(Error::internal("the last edit sealed nothing"));
    };
    let mut series = series.clone();
    let planted = |day: u64| {
        let ts_min = day as i64 * DAY;
        let partition = Partition::Day.span_of(ts_min, TimeUnit::Ms).name;
        ChunkRecord { id: chunk.id + day, partition, ts_min, ts_max: ts_min + 9 * MINUTE, ..chunk.clone() }
    };
    let chunks: Vec<ChunkRecord> = (1..count).map(planted).collect();
    series.rows += 10 * chunks.len() as u64;
    series.last_ts = chunks.last().map(|chunk| chunk.ts_max).or(series.last_ts);
    let number = last.number + 1;
    let edit = Edit { number, series: vec![series], chunks, next_file_id: chunk.id + count, ..Edit::default() };
    std::fs::write(manifest.join(format!("{number:020}.edit")), encode_edit(&edit)).map_err(other)?;
    Ok(json!({ "rows": 10 * count }))
}
