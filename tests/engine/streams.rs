//! Readers stream a whole series while a writer overwrites, deletes, seals, checkpoints, compacts, vacuums, creates and
//! drops snapshots: each stream equals its snapshot, cell by cell, and memory is bounded.
//!
//! `FASTK_STREAM_ROWS` sets the rows (10,000,000 for the proof), `FASTK_STREAM_PASSES` the passes of each reader.
//! The test runs in its own process, so that only its memory is counted.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fastk::query::{Scan, ScanSpec};
use fastk::store::{Store, StoreOptions, StoreState, WriteMode};
use fastk::types::{Rows, SeriesKey};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::guarantees::{MINUTE, def, files, key};

const READERS: u64 = 8;
const COLUMNS: i64 = 5;
/// Minimum number of rounds of changes during the reads.
const ROUNDS_MIN: u64 = 72;
/// Most anonymous memory of the process, for any number of rows: the blocks of readers, the tails, one seal or
/// compaction, and the records of this test. Ten million rows alone are 480 MB.
const ANONYMOUS_BYTES_MAX: u64 = 256 << 20;
/// Minutes that are overwritten together, and the number of such clusters.
const CLUSTER: i64 = 40;
const CLUSTERS: i64 = 200;
/// Minutes that are deleted together, and the number of such ranges.
const HOLE: i64 = 300;
const HOLES: i64 = 40;

/// A cell is derived from its minute, its column and the number of writes of its minute.
fn cell(minute: i64, column: i64, generation: i64) -> i64 {
    minute * 7 + column * 3 + generation * 1_000_003
}

fn rows(minutes: impl Iterator<Item = i64> + Clone, generation: i64) -> Rows {
    Rows::of_words(
        minutes.clone().map(|minute| minute * MINUTE).collect(),
        (0..COLUMNS).map(|c| minutes.clone().map(|minute| cell(minute, c, generation)).collect()).collect(),
    )
}

/// The change of a commit to a range of minutes: its generation, `None` for a delete.
type Done = (u64, (i64, i64), Option<i64>);

/// The changes, in the order of the commits.
#[derive(Default)]
struct Diary {
    done: Mutex<Vec<Done>>,
    /// All changes up to this commit are recorded.
    commit: AtomicU64,
}

impl Diary {
    /// Minutes that were overwritten or deleted as of a commit, in the order of time.
    fn as_of(&self, commit: u64) -> Vec<(i64, Option<i64>)> {
        while self.commit.load(Ordering::Acquire) < commit {
            std::thread::sleep(Duration::from_micros(200));
        }
        let mut changed = BTreeMap::new();
        for (_, (first, last), generation) in self.done.lock().unwrap().iter().take_while(|(at, ..)| *at <= commit) {
            changed.extend((*first..=*last).map(|minute| (minute, *generation)));
        }
        changed.into_iter().collect()
    }
}

/// Streams all rows of a state and compares them with the diary. Returns the number of rows.
fn stream(
    store: &Store,
    state: &StoreState,
    key: &SeriesKey,
    diary: &Diary,
    count: i64,
    desc: bool,
    slow: bool,
) -> u64 {
    let mut changed = diary.as_of(state.commit);
    if desc {
        changed.reverse();
    }
    let mut changed = changed.into_iter().peekable();
    let series = state.get(key).unwrap();
    let (mut minute, step) = if desc { (count - 1, -1) } else { (0, 1) };
    let mut rows = 0;
    for block in Scan::new(series, store.cache(), &ScanSpec { desc, ..ScanSpec::range((i64::MIN, i64::MAX)) }) {
        let block = block.unwrap();
        let ts = block.words(0);
        let columns: Vec<&[i64]> = (1..=COLUMNS as usize).map(|column| block.words(column)).collect();
        for (row, ts) in ts.iter().enumerate() {
            let mut generation = 0;
            while let Some((_, now)) = changed.next_if(|(at, _)| *at == minute) {
                match now {
                    Some(now) => generation = now,
                    None => minute += step,
                }
            }
            assert_eq!(*ts, minute * MINUTE, "row {rows} of commit {}", state.commit);
            for (column, words) in columns.iter().enumerate() {
                let expected = cell(minute, column as i64, generation);
                assert_eq!(words[row], expected, "minute {minute}, column {column}, commit {}", state.commit);
            }
            minute += step;
            rows += 1;
        }
        if slow {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    while changed.next_if(|(at, now)| *at == minute && now.is_none()).is_some() {
        minute += step;
    }
    assert_eq!(minute, if desc { -1 } else { count }, "the stream of commit {} ended early", state.commit);
    assert_eq!(rows, series.rows, "the count of commit {}", state.commit);
    rows
}

/// Anonymous memory of this process.
fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1_024
}

/// Changes the store until stopped. Returns the number of operations of each kind.
fn change(
    store: &Store,
    diary: &Diary,
    count: i64,
    stop: &AtomicBool,
    rounds: &AtomicU64,
) -> BTreeMap<&'static str, u64> {
    let mut rng = StdRng::seed_from_u64(3);
    let mut counts = BTreeMap::new();
    let mut named: Vec<String> = Vec::new();
    let mut round = 0_i64;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let mut note = |what| *counts.entry(what).or_insert(0) += 1;
        // Overwrites are scattered over the whole series; some are in deleted ranges.
        let places: std::collections::BTreeSet<i64> = (0..4).map(|_| rng.random_range(0..CLUSTERS)).collect();
        let firsts: Vec<i64> = places.iter().map(|place| place * (count - CLUSTER) / CLUSTERS).collect();
        let written = rows(firsts.iter().flat_map(|first| *first..first + CLUSTER), round);
        let commit = store.write(&key(), written, WriteMode::Upsert, None).unwrap().commit;
        let spans = firsts.iter().map(|first| (commit, (*first, first + CLUSTER - 1), Some(round)));
        diary.done.lock().unwrap().extend(spans);
        diary.commit.store(commit, Ordering::Release);
        note("overwritten");
        if round % 5 == 0 {
            let first = rng.random_range(0..HOLES) * (count - HOLE) / HOLES;
            let span = (first, first + HOLE - 1);
            let deleted = store.delete_range(&key(), (span.0 * MINUTE, span.1 * MINUTE), None).unwrap();
            diary.done.lock().unwrap().push((deleted.commit, span, None));
            diary.commit.store(deleted.commit, Ordering::Release);
            note("deleted");
        }
        if round % 9 == 0 {
            let commit = if named.len() < 3 {
                named.push(format!("round-{round}"));
                note("named");
                store.create_snapshot(&named[named.len() - 1]).unwrap().commit
            } else {
                note("snapshots dropped");
                store.drop_snapshot(&named.remove(0)).unwrap()
            };
            diary.commit.store(commit, Ordering::Release);
        }
        match round % 12 {
            2 | 8 => {
                store.seal(&[]).unwrap();
                note("sealed");
            }
            5 => {
                store.checkpoint().unwrap();
                note("checkpoints");
            }
            9 => {
                store.compact(&[], false).unwrap();
                note("compacted");
            }
            11 => {
                store.vacuum().unwrap();
                note("vacuumed");
            }
            _ => {}
        }
        rounds.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(2));
    }
    counts
}

fn run(root: &Path, count: i64, passes: u64) {
    let options = StoreOptions { background_maintenance: false, maps_max: 64, ..StoreOptions::default() };
    let store = Store::open(root, true, options.clone()).unwrap();
    store.register(def(&key())).unwrap();
    let (stop, peak, diary) = (AtomicBool::new(false), AtomicU64::new(0), Diary::default());
    let started_at = Instant::now();
    let mut counts = BTreeMap::new();
    let (streamed, rounds) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                peak.fetch_max(anonymous_bytes(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        // A panic below stops the other threads.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for first in (0..count).step_by(200_000) {
                let end = (first + 200_000).min(count);
                store.write(&key(), rows(first..end, 0), WriteMode::Append, None).unwrap();
                store.seal(&[]).unwrap();
            }
            diary.commit.store(store.snapshot().commit, Ordering::Release);
            println!("filled in {:.1?}, {} MiB anonymous", started_at.elapsed(), peak.load(Ordering::Relaxed) >> 20);
            std::thread::scope(|scope| {
                let readers: Vec<_> = (0..READERS)
                    .map(|reader| {
                        let (store, diary, streamed, rounds) = (&store, &diary, &streamed, &rounds);
                        scope.spawn(move || {
                            let mut rng = StdRng::seed_from_u64(reader);
                            let more = |pass: u64| pass < passes || rounds.load(Ordering::Relaxed) < ROUNDS_MIN;
                            for pass in (0..).take_while(|pass| more(*pass)) {
                                // Now, or as of a snapshot if one is there.
                                let named = store.snapshots();
                                let state = match rng.random_range(0..=named.len()) {
                                    0 => store.snapshot(),
                                    at => store.as_of(&named[at - 1].0).unwrap_or_else(|_| store.snapshot()),
                                };
                                let (desc, slow) = ((reader + pass) % 4 == 3, reader % 2 == 1);
                                let rows = stream(store, &state, &key(), diary, count, desc, slow);
                                streamed.fetch_add(rows, Ordering::Relaxed);
                            }
                        })
                    })
                    .collect();
                let writer = scope.spawn(|| {
                    let work = || change(&store, &diary, count, &stop, &rounds);
                    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
                    // Do not wait for a writer that has ended.
                    rounds.store(u64::MAX, Ordering::Relaxed);
                    diary.commit.store(u64::MAX, Ordering::Release);
                    outcome
                });
                let ended: Vec<_> = readers.into_iter().map(|reader| reader.join()).collect();
                stop.store(true, Ordering::Relaxed);
                counts = writer.join().unwrap().unwrap_or_else(|cause| std::panic::resume_unwind(cause));
                ended.into_iter().for_each(|ended| ended.unwrap());
            });
        }));
        stop.store(true, Ordering::Relaxed);
        if let Err(cause) = outcome {
            std::panic::resume_unwind(cause);
        }
    });
    let streamed = streamed.into_inner();
    let data: u64 = files(root, "chunks", ".arrow").iter().map(|path| std::fs::metadata(path).unwrap().len()).sum();
    let peak = peak.into_inner().max(anonymous_bytes());
    println!(
        "{streamed} rows streamed in {:.1?}, {} MiB of chunks, {} MiB anonymous at most, {counts:?}",
        started_at.elapsed(),
        data >> 20,
        peak >> 20
    );
    assert!(peak < ANONYMOUS_BYTES_MAX, "{peak} bytes of anonymous memory");
    assert!(peak > 0 || !cfg!(target_os = "linux"), "memory was not measured");
    for what in ["overwritten", "deleted", "named", "sealed", "checkpoints", "compacted", "vacuumed"] {
        assert!(counts.get(what).is_some_and(|count| *count > 0), "never {what}: {counts:?}");
    }
    assert!(store.maintenance_counts().compactions > 0, "no compaction ran");
    let rows = stream(&store, &store.snapshot(), &key(), &diary, count, false, false);
    drop(store);
    // All rows again after a restart, within the same memory.
    let store = Store::open(root, false, options).unwrap();
    assert_eq!(stream(&store, &store.snapshot(), &key(), &diary, count, true, false), rows);
    assert!(anonymous_bytes() < ANONYMOUS_BYTES_MAX);
}

#[test]
fn every_stream_equals_its_snapshot_and_memory_stays_bounded_under_changes() {
    let setting = |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    if std::env::var_os("FASTK_STREAM_CHILD").is_some() {
        let root = tempfile::tempdir().unwrap();
        return run(root.path(), setting("FASTK_STREAM_ROWS", 300_000), setting("FASTK_STREAM_PASSES", 2) as u64);
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    let test = "streams::every_stream_equals_its_snapshot_and_memory_stays_bounded_under_changes";
    let output = child.args(["--exact", test, "--nocapture"]).env("FASTK_STREAM_CHILD", "1").output().unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
