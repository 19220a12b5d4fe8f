//! Many slow series: one row per minute for thousands of series, one commit per minute. Reports files, bytes written
//! and memory.
//!
//! `cargo bench --no-default-features --bench month -- [SERIES] [DAYS]`, 1,000 series for 2 days by default.

use std::path::Path;
use std::time::Instant;

use fastk::store::SeriesWrite;
use fastk::{Rows, SeriesKey, SeriesSpec, Store, StoreOptions, WriteMode};

const MINUTE: i64 = 60_000;
const BEGIN: i64 = 1_704_067_200_000;

/// A field of a `/proc` file, in its own unit.
fn system(file: &str, field: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|value| value.parse().ok()).unwrap_or(0)
}

fn walk(dir: &Path, files: &mut u64, bytes: &mut u64) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => walk(&entry.path(), files, bytes),
            Ok(meta) => {
                *files += 1;
                *bytes += meta.len();
            }
            Err(_) => {}
        }
    }
}

fn main() {
    let numbers: Vec<i64> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let (series, days) = match numbers.as_slice() {
        [series, days, ..] => (*series, *days),
        [series] => (*series, 2),
        [] => (1_000, 2),
    };
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(dir.path(), true, StoreOptions::default()).expect("a store");
    let keys: Vec<SeriesKey> =
        (0..series).map(|n| SeriesKey::scalar("feature", &format!("S{n}"), "1m", "x").expect("a key")).collect();
    for key in &keys {
        store.register(SeriesSpec::of_key(key).resolve().expect("a registration")).expect("registered");
    }
    let written_before = system("/proc/self/io", "wchar");
    let started = Instant::now();
    let (mut anon_max, mut files_max, mut slowest) = (0, 0, 0.0_f64);
    for minute in 0..days * 1_440 {
        let ts = BEGIN + minute * MINUTE;
        let writes = keys.iter().enumerate().map(|(n, key)| {
            let value = (n as f64 + minute as f64 / 1_000.0).to_bits().cast_signed();
            SeriesWrite::new(key.clone(), Rows::of_words(vec![ts], vec![vec![value]]), WriteMode::Append)
        });
        let writes = writes.collect();
        let commit = Instant::now();
        store.write_many(writes, None).expect("written");
        slowest = slowest.max(commit.elapsed().as_secs_f64());
        if minute % 60 == 59 {
            anon_max = anon_max.max(system("/proc/self/status", "RssAnon:"));
        }
        if minute % 1_440 == 1_439 {
            let (mut files, mut bytes) = (0, 0);
            walk(dir.path(), &mut files, &mut bytes);
            files_max = files_max.max(files);
            let rows = series * (minute + 1);
            let written = system("/proc/self/io", "wchar") - written_before;
            println!(
                "day {:>3}: {rows} rows, {files} files, {:.2} GB on disk, {:.2} bytes written a byte of rows, \
                 {} MB anonymous at most, {:.0} s, slowest commit {:.0} ms",
                (minute + 1) / 1_440,
                bytes as f64 / 1e9,
                written as f64 / (rows * 16) as f64,
                anon_max / 1_024,
                started.elapsed().as_secs_f64(),
                slowest * 1e3,
            );
        }
    }
    println!("{:?}", store.maintenance_counts());
    let (run_bytes, run_files) = store.run_files();
    println!(
        "{run_files} run files with {:.1} MB; most files at the end of a day: {files_max}",
        run_bytes as f64 / 1e6
    );
    let opened = Instant::now();
    drop(store);
    let closed = opened.elapsed();
    let opened = Instant::now();
    let store = Store::open(dir.path(), false, StoreOptions::default()).expect("opened again");
    println!("closed in {:.2} s, opened again in {:.2} s", closed.as_secs_f64(), opened.elapsed().as_secs_f64());
    let reader = store.reader();
    let rows: u64 = keys.iter().map(|key| reader.series(key).expect("there").rows).sum();
    assert_eq!(rows, u64::try_from(series * days * 1_440).expect("positive"));
    let last = reader.latest(&keys[0], 60).expect("read").doubles(0).expect("intact");
    assert_eq!(last.last().copied(), Some((BEGIN + (days * 1_440 - 1) * MINUTE) as f64));
}
