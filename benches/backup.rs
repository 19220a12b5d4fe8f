//! Backups of a store of 10 million rows, and what one costs writers that go on. `benches/README.md` says how figures
//! are taken.
#![allow(missing_docs)]

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fastk::store::{BackupOptions, RestoreOptions, Store, StoreOptions, TaskControl, WriteMode, restore};
use fastk::types::{Rows, SeriesKey, SeriesSpec};

const MINUTE: i64 = 60_000;
const SERIES: i64 = 4;
const ROWS: i64 = 2_500_000;
/// How long appends are timed at a stretch.
const SPAN: Duration = Duration::from_secs(4);

fn key(series: i64) -> SeriesKey {
    SeriesKey::kline(&format!("S{series}"), "1m").expect("a valid key")
}

fn minutes(first: i64, count: i64) -> Rows {
    let ts: Vec<i64> = (first..first + count).map(|minute| minute * MINUTE).collect();
    let columns = (0..5).map(|column| ts.iter().map(|ts| ts / MINUTE % 9_973 + column).collect()).collect();
    Rows { ts, columns }
}

fn register(store: &Store, key: &SeriesKey) {
    let mut spec = SeriesSpec::of_key(key);
    spec.price_digits = Some(2);
    spec.volume_digits = Some(8);
    store.register(spec.resolve().expect("a valid registration")).expect("registered");
}

fn back_up(store: &Store, to: &Path, options: &BackupOptions) -> Duration {
    let begun = Instant::now();
    store.backup(to, options, &TaskControl::new()).expect("backed up");
    begun.elapsed()
}

/// Times appends of one row for a while, during which `beside` runs again and again. Gives how often it ran.
fn appends(store: &Store, took: &mut Vec<Duration>, beside: impl Fn() + Sync) -> usize {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) {
                beside();
                rounds += 1;
            }
            rounds
        });
        let key = key(SERIES);
        let first = store.snapshot().get(&key).and_then(|series| series.bounds).map_or(0, |(_, last)| last / MINUTE);
        let begun = Instant::now();
        for minute in first + 1.. {
            let one = Instant::now();
            store.write(&key, minutes(minute, 1), WriteMode::Append, None).expect("written");
            took.push(one.elapsed());
            if begun.elapsed() > SPAN {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        worker.join().expect("it ended")
    })
}

fn say(name: &str, mut took: Vec<Duration>, rounds: usize) {
    took.sort_unstable();
    let at =
        |permille: usize| took.get((took.len() - 1) * permille / 1_000).map_or(0.0, |took| took.as_secs_f64() * 1e3);
    println!(
        "appends {name}: {} taken, median {:.3} ms, p99 {:.3} ms, longest {:.1} ms ({rounds} rounds beside)",
        took.len(),
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
    store.checkpoint().expect("settled");
    store.compact(&[], true).expect("compacted");
    store.vacuum().expect("tidied");
    let links = BackupOptions::default();
    let unread = BackupOptions { verify: false, ..links.clone() };
    let copies = BackupOptions { copy: true, ..links.clone() };
    let report = store.backup(&path("links"), &links, &TaskControl::new()).expect("backed up");
    println!(
        "{} rows, {} chunks, {} files, {} bytes",
        report.rows, report.chunks, report.linked.files, report.linked.bytes
    );
    for (name, how) in [("links", &links), ("links without reading", &unread), ("copies", &copies)] {
        let mut took: Vec<Duration> =
            (0..5).map(|round| back_up(&store, &path(&format!("{name} {round}")), how)).collect();
        took.sort_unstable();
        println!("backup with {name}: median {:?} of 5, {:?} to {:?}", took[2], took[0], took[4]);
    }
    println!("the same again, nothing changed: {:?}", back_up(&store, &path("copies 0"), &copies));
    store.write(&key(0), minutes(ROWS, 40_000), WriteMode::Append, None).expect("written");
    store.seal(&[]).expect("sealed");
    println!("the same again, a month more: {:?}", back_up(&store, &path("copies 0"), &copies));
    for (name, link) in [("copies", false), ("links", true)] {
        let begun = Instant::now();
        let options = RestoreOptions { apply: true, link, ..RestoreOptions::default() };
        restore(&path("copies 0"), &path(&format!("restored {name}")), &options, &TaskControl::new())
            .expect("restored");
        println!("restore with {name}: {:?}", begun.elapsed());
    }
    for name in std::fs::read_dir(dir.path()).expect("listed").flatten() {
        if name.file_name() != "store" {
            std::fs::remove_dir_all(name.path()).expect("removed");
        }
    }
    let beside = |how: &BackupOptions| {
        back_up(&store, &path("beside"), how);
        std::fs::remove_dir_all(path("beside")).expect("removed");
    };
    let mut kinds = [("alone", Vec::new(), 0), ("beside links", Vec::new(), 0), ("beside copies", Vec::new(), 0)];
    // In turns, so that whatever else the machine does hits all of them.
    for _ in 0..5 {
        for (name, took, rounds) in &mut kinds {
            *rounds += match *name {
                "alone" => appends(&store, took, || std::thread::sleep(Duration::from_millis(20))),
                "beside links" => appends(&store, took, || beside(&links)),
                _ => appends(&store, took, || beside(&copies)),
            };
        }
    }
    for (name, took, rounds) in kinds {
        say(name, took, rounds);
    }
}
