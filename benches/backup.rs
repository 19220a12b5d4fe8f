//! Backups of a store of 10 million rows, and their cost to concurrent writers. `benches/README.md` describes the
//! method.
#![allow(missing_docs)]

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fastk::store::{BackupOptions, RestoreOptions, Store, StoreOptions, TaskControl, WriteMode, restore};
use fastk::types::{Rows, SeriesKey, SeriesSpec};

const MINUTE: i64 = 60_000;
const SERIES: i64 = 4;
const ROWS: i64 = 2_500_000;
/// Duration of one measurement of appends.
const SPAN: Duration = Duration::from_secs(4);

fn key(series: i64) -> SeriesKey {
    SeriesKey::kline(&format!("S{series}"), "1m").expect("a valid key")
}

fn minutes(first: i64, count: i64) -> Rows {
    let ts: Vec<i64> = (first..first + count).map(|minute| minute * MINUTE).collect();
    let columns = (0..5).map(|column| ts.iter().map(|ts| ts / MINUTE % 9_973 + column).collect()).collect();
    Rows::of_words(ts, columns)
}

fn register(store: &Store, key: &SeriesKey) {
    let mut spec = SeriesSpec::of_key(key);
    spec.price_digits = Some(2);
    spec.volume_digits = Some(8);
    store.register(spec.resolve().expect("a valid registration")).expect("registered");
}

fn back_up(store: &Store, to: &Path, options: &BackupOptions) -> Duration {
    let started = Instant::now();
    store.backup(to, options, &TaskControl::new()).expect("backed up");
    started.elapsed()
}

/// Times appends of one row for [`SPAN`] while `background` runs repeatedly. Returns how often it ran.
fn appends(store: &Store, durations: &mut Vec<Duration>, background: impl Fn() + Sync) -> usize {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) {
                background();
                rounds += 1;
            }
            rounds
        });
        let key = key(SERIES);
        let first = store.snapshot().get(&key).and_then(|series| series.bounds).map_or(0, |(_, last)| last / MINUTE);
        let started = Instant::now();
        for minute in first + 1.. {
            let one = Instant::now();
            store.write(&key, minutes(minute, 1), WriteMode::Append, None).expect("written");
            durations.push(one.elapsed());
            if started.elapsed() > SPAN {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        worker.join().expect("the worker ended")
    })
}

fn print_summary(name: &str, mut durations: Vec<Duration>, rounds: usize) {
    durations.sort_unstable();
    let at = |permille: usize| {
        durations.get((durations.len() - 1) * permille / 1_000).map_or(0.0, |durations| durations.as_secs_f64() * 1e3)
    };
    println!(
        "appends {name}: {} appends, median {:.3} ms, p99 {:.3} ms, longest {:.1} ms ({rounds} background rounds)",
        durations.len(),
        at(500),
        at(990),
        at(1_000)
    );
}

fn main() {
    let dir = match std::env::var_os("FASTK_BENCH_DIR") {
        Some(parent) => tempfile::tempdir_in(parent),
        None => tempfile::tempdir(),
    };
    let dir = dir.expect("a directory");
    let path = |name: &str| dir.path().join(name);
    let store = Store::open(&path("store"), true, StoreOptions::default()).expect("a new store");
    for series in 0..=SERIES {
        register(&store, &key(series));
    }
    for series in 0..SERIES {
        for first in (0..ROWS).step_by(250_000) {
            store.write(&key(series), minutes(first, 250_000), WriteMode::Append, None).expect("written");
        }
    }
    store.seal(&[]).expect("sealed");
    store.checkpoint().expect("checkpointed");
    store.compact(&[], true).expect("compacted");
    store.vacuum().expect("vacuumed");
    let links = BackupOptions::default();
    let unread = BackupOptions { verify: false, ..links.clone() };
    let copies = BackupOptions { copy: true, ..links.clone() };
    let report = store.backup(&path("links"), &links, &TaskControl::new()).expect("backed up");
    println!(
        "{} rows, {} chunks, {} files, {} bytes",
        report.rows, report.chunks, report.linked.files, report.linked.bytes
    );
    for (name, how) in [("links", &links), ("links without reading", &unread), ("copies", &copies)] {
        let mut durations: Vec<Duration> =
            (0..5).map(|round| back_up(&store, &path(&format!("{name} {round}")), how)).collect();
        durations.sort_unstable();
        println!("backup with {name}: median {:?} of 5, {:?} to {:?}", durations[2], durations[0], durations[4]);
    }
    println!("again, without changes: {:?}", back_up(&store, &path("copies 0"), &copies));
    store.write(&key(0), minutes(ROWS, 40_000), WriteMode::Append, None).expect("written");
    store.seal(&[]).expect("sealed");
    println!("again, with one more month: {:?}", back_up(&store, &path("copies 0"), &copies));
    for (name, link) in [("copies", false), ("links", true)] {
        let started = Instant::now();
        let options = RestoreOptions { apply: true, link, ..RestoreOptions::default() };
        restore(&path("copies 0"), &path(&format!("restored {name}")), &options, &TaskControl::new())
            .expect("restored");
        println!("restore with {name}: {:?}", started.elapsed());
    }
    for name in std::fs::read_dir(dir.path()).expect("listed").flatten() {
        if name.file_name() != "store" {
            std::fs::remove_dir_all(name.path()).expect("removed");
        }
    }
    let backup_and_remove = |how: &BackupOptions| {
        back_up(&store, &path("background"), how);
        std::fs::remove_dir_all(path("background")).expect("removed");
    };
    let mut kinds = [
        ("alone", Vec::new(), 0),
        ("during backups with links", Vec::new(), 0),
        ("during backups with copies", Vec::new(), 0),
    ];
    // Interleaved, so that other load on the machine affects all of them.
    for _ in 0..5 {
        for (name, durations, rounds) in &mut kinds {
            *rounds += match *name {
                "alone" => appends(&store, durations, || std::thread::sleep(Duration::from_millis(20))),
                "during backups with links" => appends(&store, durations, || backup_and_remove(&links)),
                _ => appends(&store, durations, || backup_and_remove(&copies)),
            };
        }
    }
    for (name, durations, rounds) in kinds {
        print_summary(name, durations, rounds);
    }
}
