//! Scenarios of several threads, each for one schedule.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::sim_disk::{Fault, FaultPlan, SimDisk, SimState};
use fastk::query::{Scan, ScanSpec};
use fastk::store::{Durability, SeriesWrite, Store, StoreOptions, StoreState, WriteMode};
use fastk::types::{Rows, SeriesKey, SeriesSpec};
use fastk::{Error, ErrorCode};
use shuttle::rand::{Rng, thread_rng};
use shuttle::{Config, FailurePersistence, thread};

const MINUTE: i64 = 60_000;
const ROOT: &str = "/store";

fn key(symbol: &str) -> SeriesKey {
    SeriesKey::kline(symbol, "1m").unwrap()
}

fn below(limit: u64) -> u64 {
    thread_rng().gen_range(0..limit)
}

fn options() -> StoreOptions {
    let segment = [4 << 10, 64 << 10][below(2) as usize];
    // Rows of one series go to the log, or directly to chunks.
    let tail_rows_max = [1 << 40, 1][below(2) as usize];
    StoreOptions { background_maintenance: false, wal_segment_bytes: segment, tail_rows_max, ..StoreOptions::default() }
}

/// A new store with two series.
fn store_on(disk: &SimDisk, options: StoreOptions) -> Arc<Store> {
    let store = Store::open_on(&disk.path(ROOT), true, options).unwrap();
    for symbol in ["A", "B"] {
        let mut spec = SeriesSpec::of_key(&key(symbol));
        (spec.price_digits, spec.volume_digits, spec.partition) = (Some(0), Some(0), Some("day".into()));
        store.register(spec.resolve().unwrap()).unwrap();
    }
    Arc::new(store)
}

/// One row of this value, at minute `at` of day `day`.
fn row(day: i64, at: i64, value: i64) -> Rows {
    let mut rows = Rows::empty_words(5, 1);
    rows.push(day * 86_400_000 + at * MINUTE, &[value; 5]);
    rows
}

/// Value by timestamp in a state.
fn cells(store: &Store, state: &StoreState, symbol: &str) -> BTreeMap<i64, i64> {
    let series = state.get(&key(symbol)).unwrap();
    let mut found = BTreeMap::new();
    for block in Scan::new(series, store.cache(), &ScanSpec::range((i64::MIN, i64::MAX))) {
        let block = block.unwrap();
        for row in 0..block.rows() {
            found.insert(block.words(0)[row], block.words(1)[row]);
            assert_eq!(block.words(1)[row], block.words(5)[row], "half of a row");
        }
    }
    assert_eq!(series.rows, found.len() as u64, "row count and number of rows");
    found
}

/// Writers of one series and of two, a reader, maintenance, sometimes a full or failing disk: acknowledged writes are
/// visible from then on and survive a power cut; writes refused for a full disk are never visible.
pub fn queue() {
    queue_with(options());
}

/// The same scenario with every row through the log.
pub fn logged_queue() {
    queue_with(StoreOptions { tail_rows_max: 1 << 40, ..options() });
}

fn queue_with(options: StoreOptions) {
    let disk = SimDisk::new(SimState::default(), below(1 << 40));
    let store = store_on(&disk, options.clone());
    // The state that a power cut at the time of the observer must preserve.
    let seen: Arc<Mutex<Option<(SimState, u64)>>> = Arc::default();
    if below(4) == 0 {
        let fault = [Fault::Full, Fault::Io][below(2) as usize];
        disk.fail(Some(FaultPlan { at: below(12), fault, forever: false, only_changes: true }));
    }
    let writer = |number: i64, symbols: &'static [&'static str]| {
        let store = Arc::clone(&store);
        thread::spawn(move || {
            let mut acknowledged: Vec<(i64, u64)> = Vec::new();
            let mut refused: Vec<i64> = Vec::new();
            for at in 0..3 {
                let value = number * 100 + at;
                let rows = row(number, at, value);
                let ts = rows.ts[0];
                let writes =
                    symbols.iter().map(|symbol| SeriesWrite::new(key(symbol), rows.clone(), WriteMode::Upsert));
                match store.write_many(writes.collect(), None) {
                    Ok(outcome) => {
                        let commit = outcome.written.iter().map(|written| written.commit).max().unwrap();
                        let state = store.snapshot();
                        assert!(state.commit >= commit, "acknowledged {commit}, shown {}", state.commit);
                        for symbol in symbols {
                            assert_eq!(cells(&store, &state, symbol).get(&ts), Some(&value), "read your own write");
                        }
                        if let Some((_, last)) = acknowledged.last() {
                            assert!(commit > *last, "commits of one writer rise");
                        }
                        acknowledged.push((ts, commit));
                    }
                    Err(error) => {
                        let known = [ErrorCode::StorageFull, ErrorCode::WriterStopped, ErrorCode::Io];
                        assert!(known.contains(&error.code()), "{error}");
                        if error.code() == ErrorCode::StorageFull {
                            refused.push(ts);
                        }
                    }
                }
            }
            (symbols, number, acknowledged, refused)
        })
    };
    let writers = [writer(1, &["A"]), writer(2, &["B"]), writer(3, &["A", "B"])];
    let reader = {
        let (store, disk, seen) = (Arc::clone(&store), disk.clone(), Arc::clone(&seen));
        let look_at_disk = below(3);
        thread::spawn(move || {
            let (mut last, mut edit) = (0, 0);
            for look in 0..3 {
                let state = store.snapshot();
                assert!(state.commit >= last, "commit {} after {last}", state.commit);
                last = state.commit;
                assert!(state.edit >= edit, "files of edit {} after {edit}", state.edit);
                edit = state.edit;
                let both = |symbol| -> BTreeMap<i64, i64> {
                    cells(&store, &state, symbol).into_iter().filter(|(_, value)| *value >= 300).collect()
                };
                assert_eq!(both("A"), both("B"), "half of a commit");
                if look == look_at_disk {
                    // Rows seen by a reader are durable.
                    *seen.lock().unwrap() = Some((disk.state(), state.commit));
                }
                thread::yield_now();
            }
        })
    };
    let maintenance = {
        let store = Arc::clone(&store);
        thread::spawn(move || {
            let mut edit = 0;
            for _ in 0..2 {
                let done: Result<(), Error> = match below(4) {
                    0 => store.checkpoint(),
                    1 => store.seal(&[]).map(drop),
                    2 => store.compact(&[], true).map(drop),
                    _ => store.create_snapshot(&format!("s{}", below(1 << 30))).map(drop),
                };
                if let Err(error) = done {
                    let known = [ErrorCode::StorageFull, ErrorCode::WriterStopped, ErrorCode::Io];
                    assert!(known.contains(&error.code()), "{error}");
                }
                let state = store.snapshot();
                assert!(state.edit >= edit, "files of edit {} after {edit}", state.edit);
                edit = state.edit;
            }
            edit
        })
    };
    let done: Vec<_> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
    reader.join().unwrap();
    let edit = maintenance.join().unwrap();
    assert!(store.snapshot().edit >= edit, "files of edit {} at the end, {edit} before", store.snapshot().edit);

    let check = |store: &Store, what: &str| {
        let state = store.snapshot();
        for symbol in ["A", "B"] {
            let found = cells(store, &state, symbol);
            for (symbols, number, acknowledged, refused) in &done {
                for (at, (ts, _)) in acknowledged.iter().enumerate().filter(|_| symbols.contains(&symbol)) {
                    let value = found.get(ts).unwrap_or_else(|| panic!("{what}: write {at} of {number} is lost"));
                    assert_eq!(*value / 100, *number, "{what}");
                }
                for ts in refused {
                    assert_eq!(found.get(ts), None, "{what}: a refused write is visible");
                }
            }
        }
    };
    check(&store, "at the end");
    let mut commits: Vec<u64> = done.iter().flat_map(|(_, _, all, _)| all.iter().map(|(_, commit)| *commit)).collect();
    commits.sort_unstable();
    assert!(commits.windows(2).all(|pair| pair[0] != pair[1]), "two commits of one number: {commits:?}");

    disk.fail(None);
    let seed = below(1 << 40);
    let after = SimDisk::new(disk.state().after_power_loss(seed), seed);
    drop(store);
    check(&Store::open_on(&after.path(ROOT), false, options.clone()).unwrap(), "after a power cut");
    if let Some((state, commit)) = seen.lock().unwrap().take() {
        let then = SimDisk::new(state.after_power_loss(seed), seed);
        let store = Store::open_on(&then.path(ROOT), false, options).unwrap();
        assert!(store.snapshot().commit >= commit, "a reader saw {commit}, left is {}", store.snapshot().commit);
    }
}

/// Retained commits and snapshots do not change while all files are rewritten and unlinked.
pub fn retained_commits() {
    let disk = SimDisk::new(SimState::default(), below(1 << 40));
    let store = store_on(&disk, StoreOptions { durability: Durability::None, maps_max: 1, ..options() });
    for at in 0..3 {
        store.write(&key("A"), row(at, 0, at), WriteMode::Upsert, None).unwrap();
        store.seal(&[]).unwrap();
    }
    let work: Vec<_> = (0..2)
        .map(|thread| {
            let store = Arc::clone(&store);
            thread::spawn(move || {
                for step in 0..3 {
                    store.write(&key("A"), row(step % 2, 0, thread * 10 + step), WriteMode::Upsert, None).unwrap();
                    match below(4) {
                        0 => drop(store.compact(&[], true).unwrap()),
                        1 => drop(store.vacuum().unwrap()),
                        2 => drop(store.delete_range(&key("A"), (0, i64::MAX), None).unwrap()),
                        _ => drop(store.seal(&[]).unwrap()),
                    }
                }
            })
        })
        .collect();
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let store = Arc::clone(&store);
            thread::spawn(move || {
                let state = store.snapshot();
                let (commit, first) = (state.commit, cells(&store, &state, "A"));
                store.retained_commits().keep(&state);
                drop(state);
                for _ in 0..2 {
                    let kept = store.at_commit(commit).unwrap();
                    assert_eq!(kept.commit, commit);
                    assert_eq!(cells(&store, &kept, "A"), first, "a retained commit changed");
                    thread::yield_now();
                }
            })
        })
        .collect();
    for thread in work.into_iter().chain(readers) {
        thread.join().unwrap();
    }
}

/// Readers of more chunks than may be mapped, while those are replaced: correct rows, at most the allowed maps once all
/// are done, no file of a replaced chunk left over, no file of a live one missing.
pub fn maps() {
    const CHUNKS: i64 = 4;
    let disk = SimDisk::new(SimState::default(), below(1 << 40));
    let maps_max = 1 + below(2) as usize;
    let store = store_on(&disk, StoreOptions { maps_max, ..options() });
    for day in 0..CHUNKS {
        store.write(&key("A"), row(day, 0, day), WriteMode::Upsert, None).unwrap();
    }
    store.seal(&[]).unwrap();
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let store = Arc::clone(&store);
            thread::spawn(move || {
                for _ in 0..2 {
                    let state = store.snapshot();
                    let found = cells(&store, &state, "A");
                    assert_eq!(found.keys().count() as i64, CHUNKS);
                    assert!(found.values().enumerate().all(|(day, value)| value % 10 == day as i64), "{found:?}");
                }
            })
        })
        .collect();
    let writer = {
        let store = Arc::clone(&store);
        thread::spawn(move || {
            let day = below(CHUNKS as u64) as i64;
            store.write(&key("A"), row(day, 0, 10 + day), WriteMode::Upsert, None).unwrap();
            store.seal(&[]).unwrap();
            store.compact(&[], true).unwrap();
            store.vacuum().unwrap();
        })
    };
    for thread in readers.into_iter().chain([writer]) {
        thread.join().unwrap();
    }
    assert!(store.cache().len() <= maps_max, "{} maps, at most {maps_max}", store.cache().len());
    store.vacuum().unwrap();
    let files = disk.state().files();
    let chunks: Vec<_> = files.keys().filter(|path| path.extension().is_some_and(|ending| ending == "arrow")).collect();
    assert_eq!(chunks.len() as i64, CHUNKS, "{chunks:?}");
    assert_eq!(cells(&store, &store.snapshot(), "A").len() as i64, CHUNKS);
}

/// A day of rows of one value.
fn day(day: i64, rows: i64) -> Rows {
    let mut all = Rows::empty_words(5, rows as usize);
    (0..rows).for_each(|at| all.push(day * 86_400_000 + at * MINUTE, &[day; 5]));
    all
}

/// Writers that need new segments on a disk that is full once, while their series is sealed: what was refused is in no
/// file, what was acknowledged is there, also after a power cut.
pub fn refusals() {
    const ROWS: i64 = 50;
    let disk = SimDisk::new(SimState::default(), below(1 << 40));
    let options = StoreOptions { wal_segment_bytes: 4 << 10, tail_rows_max: 1 << 40, ..options() };
    let store = store_on(&disk, options.clone());
    store.write(&key("A"), day(0, ROWS), WriteMode::Upsert, None).unwrap();
    disk.fail(Some(FaultPlan { at: below(8), fault: Fault::Full, forever: false, only_changes: true }));
    let writers = [1, 2].map(|number| {
        let store = Arc::clone(&store);
        thread::spawn(move || {
            let written = store.write(&key("A"), day(number, ROWS), WriteMode::Upsert, None);
            (number, written.map(drop).map_err(|error| error.code()))
        })
    });
    let sealing = {
        let store = Arc::clone(&store);
        thread::spawn(move || drop(store.seal(&[])))
    };
    let done = writers.map(|writer| writer.join().unwrap());
    sealing.join().unwrap();
    disk.fail(None);
    let check = |store: &Store, what: &str| {
        let found = cells(store, &store.snapshot(), "A");
        for (number, outcome) in done {
            let rows = found.values().filter(|value| **value == number).count() as i64;
            match outcome {
                Ok(()) => assert_eq!(rows, ROWS, "{what}: an acknowledged write is lost"),
                Err(ErrorCode::StorageFull) => assert_eq!(rows, 0, "{what}: a refused write is visible"),
                Err(_) => {}
            }
        }
    };
    check(&store, "at the end");
    let seed = below(1 << 40);
    let after = SimDisk::new(disk.state().after_power_loss(seed), seed);
    drop(store);
    check(&Store::open_on(&after.path(ROOT), false, options).unwrap(), "after a power cut");
}

/// Rows loaded directly into chunks while snapshots are created: a snapshot never shows rows that were loaded after it.
pub fn loads() {
    let disk = SimDisk::new(SimState::default(), below(1 << 40));
    let options = StoreOptions { tail_rows_max: 1, ..options() };
    let store = store_on(&disk, options.clone());
    let loader = {
        let store = Arc::clone(&store);
        thread::spawn(move || {
            for day in 0..3 {
                store.write(&key("A"), row(day, 0, day), WriteMode::Upsert, None).unwrap();
            }
        })
    };
    let snapshots = {
        let store = Arc::clone(&store);
        thread::spawn(move || {
            let names = (0..3).map(|number| format!("s{number}"));
            let shown = names.map(|name| {
                store.create_snapshot(&name).unwrap();
                let rows = cells(&store, &store.as_of(&name).unwrap(), "A");
                (name, rows)
            });
            shown.collect::<Vec<_>>()
        })
    };
    loader.join().unwrap();
    let shown = snapshots.join().unwrap();
    let check = |store: &Store, what: &str| {
        for (name, rows) in &shown {
            assert_eq!(cells(store, &store.as_of(name).unwrap(), "A"), *rows, "{what}: snapshot {name} changed");
        }
        assert_eq!(cells(store, &store.snapshot(), "A").len(), 3, "{what}");
    };
    check(&store, "at the end");
    drop(store);
    check(&Store::open_on(&disk.path(ROOT), false, options).unwrap(), "after opening again");
}

pub fn config() -> Config {
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    config.failure_persistence = FailurePersistence::Print;
    config
}
