//! `kill -9` of a process with concurrent writes, merges, writes of two series, deletes, retries, named snapshots,
//! sealing, checkpoints, compaction and vacuum. After each kill every acknowledged change is visible, and the one
//! change of a client in flight is atomic.
//!
//! The killed process is this test binary itself. Every change is derived from its number, so that the parent can
//! compute the acknowledged contents. `FASTK_KILL_ROUNDS` sets the rounds, `FASTK_KILL_SEED` the random choices.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fastk::store::{SeriesWrite, Store, StoreOptions, StoreState, WriteMode};
use fastk::types::{Rows, SeriesKey};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::guarantees::{MINUTE, def};
use super::known_defects::rows_of;

const CLIENTS: u64 = 4;
/// Most named snapshots of a client.
const NAMED_MAX: usize = 2;
/// A client repeats keyed writes among this many of its last changes.
const REPEATED: u64 = 60;

type Map = BTreeMap<i64, Vec<i64>>;

/// Expected contents of the two series and the snapshots of one client.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    maps: [Map; 2],
    named: BTreeMap<String, [Map; 2]>,
}

/// One change of a client.
#[derive(Clone)]
enum Change {
    Upsert {
        which: usize,
        rows: Rows,
    },
    /// With an idempotency key: to one series, or to both as one commit.
    Merge {
        parts: Vec<(usize, Rows)>,
    },
    Delete {
        which: usize,
        range: (i64, i64),
    },
    /// Repeats an earlier keyed write.
    Retry {
        number: u64,
    },
    /// Creates a snapshot, or drops the first when there are enough.
    Snapshot,
}

fn keys(client: u64) -> [SeriesKey; 2] {
    ["A", "B"].map(|part| SeriesKey::kline(&format!("C{client}-{part}"), "1m").unwrap())
}

fn name(client: u64, number: u64) -> String {
    format!("c{client}-{number:08}")
}

fn rows(rng: &mut StdRng, number: u64) -> Rows {
    let (count, step) = (rng.random_range(1..120), rng.random_range(1..90));
    // Within about a month around a partition boundary.
    let first = rng.random_range(-10_000..20_000);
    let mut rows = Rows::empty_words(5, count as usize);
    for row in 0..count {
        let cell = number as i64 * 1_000 + row;
        rows.push((first + row * step) * MINUTE, &[cell, cell + 9, cell - 9, cell + 1, 1]);
    }
    rows
}

fn change(seed: u64, client: u64, number: u64) -> Change {
    let mut rng = StdRng::seed_from_u64(seed ^ (client << 56) ^ (number << 8));
    match rng.random_range(0..32) {
        0..12 => Change::Upsert { which: rng.random_range(0..2), rows: rows(&mut rng, number) },
        12..18 => Change::Merge { parts: vec![(rng.random_range(0..2), rows(&mut rng, number))] },
        18..24 => Change::Merge { parts: vec![(0, rows(&mut rng, number)), (1, rows(&mut rng, number))] },
        24..27 => {
            let first = rng.random_range(-10_000..20_000) * MINUTE;
            Change::Delete {
                which: rng.random_range(0..2),
                range: (first, first + rng.random_range(0..9_000) * MINUTE),
            }
        }
        27..30 => Change::Retry { number: number.saturating_sub(rng.random_range(1..REPEATED)) },
        _ => Change::Snapshot,
    }
}

fn writes(client: u64, parts: &[(usize, Rows)]) -> Vec<SeriesWrite> {
    let mode = WriteMode::Merge { first: None };
    parts.iter().map(|(which, rows)| SeriesWrite::new(keys(client)[*which].clone(), rows.clone(), mode)).collect()
}

/// Repeats a keyed write; returns whether it had been applied. `None` if that number is another kind of change.
fn repeat(store: &Store, seed: u64, client: u64, number: u64) -> Option<bool> {
    let Change::Merge { parts } = change(seed, client, number) else { return None };
    Some(store.write_many(writes(client, &parts), Some(&name(client, number))).unwrap().repeated)
}

fn names_of(client: u64, names: impl Iterator<Item = String>) -> Vec<String> {
    names.filter(|name| name.starts_with(&format!("c{client}-"))).collect()
}

/// Applies a change to the store.
fn apply(store: &Store, seed: u64, client: u64, number: u64) {
    match change(seed, client, number) {
        Change::Upsert { which, rows } => {
            store.write(&keys(client)[which], rows, WriteMode::Upsert, None).unwrap();
        }
        Change::Merge { .. } => assert_eq!(repeat(store, seed, client, number), Some(false)),
        Change::Delete { which, range } => {
            store.delete_range(&keys(client)[which], range, None).unwrap();
        }
        Change::Retry { number: earlier } if earlier > 0 && earlier < number => {
            let done = repeat(store, seed, client, earlier);
            assert!(done != Some(false), "write {earlier} of client {client} was acknowledged and is forgotten");
        }
        Change::Retry { .. } => {}
        Change::Snapshot => {
            let named = names_of(client, store.snapshots().into_iter().map(|(name, _)| name));
            match named.first().filter(|_| named.len() >= NAMED_MAX) {
                Some(first) => drop(store.drop_snapshot(first).unwrap()),
                None => drop(store.create_snapshot(&name(client, number)).unwrap()),
            }
        }
    }
}

impl Model {
    fn after(&self, seed: u64, client: u64, number: u64) -> Self {
        let mut next = self.clone();
        next.apply(seed, client, number);
        next
    }

    fn apply(&mut self, seed: u64, client: u64, number: u64) {
        match change(seed, client, number) {
            Change::Upsert { which, rows } => {
                for (row, ts) in rows.ts.iter().enumerate() {
                    self.maps[which].insert(*ts, rows.columns.iter().map(|column| column.words()[row]).collect());
                }
            }
            Change::Merge { parts } => {
                for (which, rows) in parts {
                    for (row, ts) in rows.ts.iter().enumerate() {
                        let new: Vec<i64> = rows.columns.iter().map(|column| column.words()[row]).collect();
                        let cells = match self.maps[which].get(ts) {
                            None => new,
                            Some(old) => {
                                vec![old[0], old[1].max(new[1]), old[2].min(new[2]), new[3], old[4] + new[4]]
                            }
                        };
                        self.maps[which].insert(*ts, cells);
                    }
                }
            }
            Change::Delete { which, range } => self.maps[which].retain(|ts, _| *ts < range.0 || *ts > range.1),
            Change::Retry { .. } => {}
            Change::Snapshot if self.named.len() >= NAMED_MAX => {
                self.named.pop_first();
            }
            Change::Snapshot => {
                self.named.insert(name(client, number), self.maps.clone());
            }
        }
    }

    /// The contents of a client in a store.
    fn found(store: &Store, client: u64) -> Self {
        let maps = |state: &StoreState| {
            keys(client).map(|key| {
                let Some(series) = state.get(&key) else { return Map::new() };
                let rows = rows_of(series, store, (i64::MIN, i64::MAX), false);
                let map: Map = rows.into_iter().map(|row| (row[0], row[1..].to_vec())).collect();
                assert_eq!(series.rows, map.len() as u64, "the count of {key}");
                let bounds = map.keys().next().copied().zip(map.keys().last().copied());
                assert_eq!(series.bounds, bounds, "the bounds of {key}");
                map
            })
        };
        let named = names_of(client, store.snapshots().into_iter().map(|(name, _)| name));
        let named = named.into_iter().map(|name| (name.clone(), maps(&store.as_of(&name).unwrap()))).collect();
        Self { maps: maps(&store.snapshot()), named }
    }
}

fn options(background_maintenance: bool) -> StoreOptions {
    // Small limits, so that maintenance is always in progress.
    StoreOptions {
        wal_segment_bytes: 32 << 10,
        wal_bytes_max: 96 << 10,
        tail_rows_max: 400,
        tail_bytes_max: 24 << 10,
        background_maintenance,
        ..StoreOptions::default()
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The process that is killed.
fn child(root: &Path, seed: u64) {
    let started_at = Instant::now();
    let store = Store::open(root, true, options(true)).unwrap();
    for key in (0..CLIENTS).flat_map(keys) {
        store.register(def(&key)).unwrap();
    }
    let over = || started_at.elapsed() > Duration::from_secs(120);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let store = &store;
            scope.spawn(move || {
                let mut number = setting(&format!("FASTK_KILL_NEXT_{client}"), 1);
                while !over() {
                    apply(store, seed, client, number);
                    println!("ack {client} {number}");
                    number += 1;
                }
            });
        }
        // Each round starts with another step, so that each step is interrupted.
        for step in (0..4).cycle().skip(setting("FASTK_KILL_STEP", 0) as usize).take_while(|_| !over()) {
            match step {
                0 => store.checkpoint().unwrap(),
                1 => drop(store.seal(&[])),
                2 => drop(store.compact(&[], false)),
                _ => drop(store.vacuum()),
            }
            assert_eq!(store.maintenance_failed(), None);
            let counts = store.maintenance_counts();
            println!(
                "maintenance {} {} {} {}",
                counts.seals, counts.checkpoints, counts.compactions, counts.files_removed
            );
        }
    });
}

/// Starts this test as another process, kills it `pause` after a number of acknowledgements, and returns its output.
fn killed(root: &Path, seed: u64, round: u64, next: &[u64], acknowledged: usize, pause: Duration) -> Vec<String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let test = "kills::a_killed_process_keeps_every_acknowledged_change_and_no_partial_one";
    command.args(["--exact", test, "--nocapture"]);
    command.env("FASTK_KILL_ROOT", root).env("FASTK_KILL_SEED", seed.to_string());
    command.env("FASTK_KILL_STEP", (round % 4).to_string());
    for (client, number) in next.iter().enumerate() {
        command.env(format!("FASTK_KILL_NEXT_{client}"), number.to_string());
    }
    let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut output: Vec<String> = Vec::new();
    let mut acks = 0;
    while acks < acknowledged {
        let Some(line) = lines.next() else { break };
        acks += usize::from(line.starts_with("ack "));
        output.push(line);
    }
    let reader = std::thread::spawn(move || lines.collect::<Vec<String>>());
    std::thread::sleep(pause);
    let alive = process.try_wait().unwrap().is_none();
    process.kill().unwrap();
    process.wait().unwrap();
    output.extend(reader.join().unwrap());
    assert!(alive, "the process exited by itself: FASTK_KILL_SEED={seed} replays; its last output {:?}", output.last());
    output
}

#[test]
fn a_killed_process_keeps_every_acknowledged_change_and_no_partial_one() {
    let seed = setting("FASTK_KILL_SEED", 1);
    if let Some(root) = std::env::var_os("FASTK_KILL_ROOT") {
        return child(Path::new(&root), seed);
    }
    let rounds = setting("FASTK_KILL_ROUNDS", 8);
    let mut rng = StdRng::seed_from_u64(seed);
    let root = tempfile::tempdir().unwrap();
    let mut models = vec![Model::default(); CLIENTS as usize];
    let mut next = vec![1_u64; CLIENTS as usize];
    let (mut in_flight, mut receipts) = (0, 0);
    let mut maintenance = [0_u64; 4];
    let mut round = 0;
    // More rounds if the disk is so slow that some kind of step never finished.
    while round < rounds || (round < 5 * rounds && maintenance[..3].contains(&0)) {
        let replay = format!("round {round}: FASTK_KILL_SEED={seed} FASTK_KILL_ROUNDS={rounds} replays");
        let (acknowledged, pause) = (rng.random_range(1..500), Duration::from_micros(rng.random_range(0..40_000)));
        let output = killed(root.path(), seed, round, &next, acknowledged, pause);
        let mut counts = [0_u64; 4];
        for line in &output {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                // A truncated line is ignored.
                ["ack", client, number] => {
                    let (Ok(client), Ok(number)) = (client.parse::<u64>(), number.parse::<u64>()) else { continue };
                    if next[client as usize] == number {
                        models[client as usize].apply(seed, client, number);
                        next[client as usize] += 1;
                    }
                }
                ["maintenance", ..] if words.len() == 5 => {
                    counts = std::array::from_fn(|at| words[at + 1].parse().unwrap_or(0));
                }
                _ => {}
            }
        }
        maintenance.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        let store = Store::open(root.path(), false, options(false)).unwrap_or_else(|error| panic!("{replay}: {error}"));
        assert!(store.recovery().damage.is_empty(), "{:?}: {replay}", store.recovery().damage);
        for client in 0..CLIENTS {
            let at = client as usize;
            let found = Model::found(&store, client);
            let after = models[at].after(seed, client, next[at]);
            let there = found != models[at];
            if there {
                assert!(found == after, "client {client}, change {}: neither before nor after; {replay}", next[at]);
                in_flight += 1;
            }
            // A receipt exists exactly if its rows do.
            if let Some(known) = repeat(&store, seed, client, next[at]) {
                assert_eq!(known, there, "client {client}, change {}: receipt and rows differ; {replay}", next[at]);
                assert!(
                    Model::found(&store, client) == after,
                    "client {client}: the retry is not applied once; {replay}"
                );
                models[at] = after;
                next[at] += 1;
            } else if there {
                models[at] = after;
                next[at] += 1;
            }
            let commit = store.snapshot().commit;
            for number in next[at].saturating_sub(REPEATED).max(1)..next[at] {
                if let Some(known) = repeat(&store, seed, client, number) {
                    assert!(known, "client {client}, write {number}: its receipt is lost; {replay}");
                    receipts += 1;
                }
            }
            assert_eq!(store.snapshot().commit, commit, "{replay}");
            assert!(Model::found(&store, client) == models[at], "a retry changed something; {replay}");
        }
        round += 1;
    }
    println!(
        "{round} kills, {} changes, {in_flight} in flight were applied, {receipts} receipts checked; \
         seals, checkpoints, compactions, files removed: {maintenance:?}",
        next.iter().sum::<u64>() - CLIENTS
    );
    assert!(next.iter().all(|number| *number > round), "{next:?} changes are too few");
    // On a busy machine a kill can come before every seal.
    assert!(maintenance[..3].iter().sum::<u64>() > 0, "{maintenance:?}: maintenance never finished");
}
