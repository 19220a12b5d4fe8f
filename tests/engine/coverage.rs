//! Coverage against a plain set of timestamps: random writes, deletes, seals and damage; every result is
//! recomputed bucket by bucket.
//!
//! `FASTK_COVERAGE_CASES` sets the amount, `FASTK_COVERAGE_SEED` replays one failing case.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use fastk::query::coverage::{CoverageReport, CoverageSpec, Gap, coverage, last_complete, ratio};
use fastk::query::{Scan, ScanSpec};
use fastk::store::{Store, StoreOptions, WriteMode};
use fastk::types::civil_days::{civil_from_days, days_from_civil};
use fastk::types::{Calendar, Rows, SeriesKey, SeriesSpec, TimeUnit};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

const SECOND: i64 = 1_000;
const DAY: i64 = 86_400 * SECOND;

/// The buckets of a case for the naive computation, in milliseconds.
#[derive(Clone, Copy)]
enum Buckets {
    /// Of equal length from an anchor.
    Every(i64, i64),
    /// Of equal length from the first row.
    FromFirst(i64),
    /// Calendar months.
    Months(i64),
}

struct Case {
    timeframe: &'static str,
    interval_ms: Option<i64>,
    /// In milliseconds.
    origin: Option<i64>,
    unit: TimeUnit,
    buckets: Buckets,
    partition: &'static str,
}

fn cases() -> Vec<Case> {
    let case = |timeframe, buckets, unit| Case {
        timeframe,
        interval_ms: None,
        origin: None,
        unit,
        buckets,
        partition: "auto",
    };
    vec![
        Case { partition: "day", ..case("1m", Buckets::Every(0, 60 * SECOND), TimeUnit::Ms) },
        Case { partition: "month", ..case("45m", Buckets::Every(0, 2_700 * SECOND), TimeUnit::Us) },
        case("4h", Buckets::Every(0, 14_400 * SECOND), TimeUnit::Ns),
        case("1d", Buckets::Every(0, DAY), TimeUnit::Ms),
        Case { origin: Some(79_200 * SECOND), ..case("1d", Buckets::Every(79_200 * SECOND, DAY), TimeUnit::Ms) },
        case("3d", Buckets::FromFirst(3 * DAY), TimeUnit::Ms),
        Case { origin: Some(-DAY), ..case("2w", Buckets::Every(-DAY, 14 * DAY), TimeUnit::Us) },
        // The epoch was a Thursday.
        case("1w", Buckets::Every(4 * DAY, 7 * DAY), TimeUnit::Ms),
        case("1M", Buckets::Months(1), TimeUnit::Ns),
        case("3M", Buckets::Months(3), TimeUnit::Ms),
        Case { interval_ms: Some(90_000), origin: Some(7), ..case("bars", Buckets::Every(7, 90_000), TimeUnit::Ms) },
    ]
}

impl Buckets {
    /// The length, or the shortest length.
    fn length(self) -> i64 {
        match self {
            Buckets::Every(_, length) | Buckets::FromFirst(length) => length,
            Buckets::Months(months) => months * 28 * DAY,
        }
    }

    /// Starts of all buckets that overlap the closed range, and of the next one.
    fn starts(self, (from, to): (i64, i64), first: Option<i64>) -> Vec<i64> {
        let (anchor, length) = match self {
            Buckets::Every(anchor, length) => (anchor, length),
            Buckets::FromFirst(length) => (first.unwrap_or(0), length),
            Buckets::Months(months) => {
                let (year, ..) = civil_from_days(from.div_euclid(DAY));
                let mut starts = Vec::new();
                let mut month = (year - 1970) * 12 - 12;
                loop {
                    let start = days_from_civil(1970 + month.div_euclid(12), month.rem_euclid(12) as u8 + 1, 1) * DAY;
                    if month.rem_euclid(months) == 0 {
                        starts.push(start);
                        if start > to {
                            return starts;
                        }
                    }
                    month += 1;
                }
            }
        };
        let mut start = from - (from - anchor).rem_euclid(length);
        let mut starts = vec![start];
        while start <= to {
            start += length;
            starts.push(start);
        }
        starts
    }
}

/// A calendar, and whether it is open at a time in milliseconds.
type Hours = (Value, fn(i64) -> bool);

fn calendars() -> Vec<Hours> {
    fn weekday(ts: i64) -> i64 {
        (ts.div_euclid(DAY) + 3).rem_euclid(7)
    }
    // Five hours west of UTC, Sunday 17:00 to Friday 17:00.
    fn fx(ts: i64) -> bool {
        let local = (ts - 5 * 3_600 * SECOND + 3 * DAY).rem_euclid(7 * DAY);
        !(4 * DAY + 17 * 3_600 * SECOND..6 * DAY + 17 * 3_600 * SECOND).contains(&local)
    }
    fn mornings(ts: i64) -> bool {
        let of_day = ts.rem_euclid(DAY) / SECOND;
        [0, 2].contains(&weekday(ts)) && (9 * 3_600 + 90..12 * 3_600).contains(&of_day)
    }
    vec![
        (json!("24x7"), |_| true),
        (json!("weekdays"), |ts| weekday(ts) < 5),
        (json!({"zone": "Etc/GMT+5", "windows": [{"from": "Sun 17:00", "to": "Fri 17:00"}]}), fx),
        (
            json!({"zone": "UTC", "windows": [{"from": "Wed 09:01:30", "to": "Wed 12:00"}, {"from": "Mon 09:01:30", "to": "Mon 12:00"}]}),
            mornings,
        ),
    ]
}

struct Bench {
    store: Option<Store>,
    root: tempfile::TempDir,
    key: SeriesKey,
    case: Case,
    /// Rows in milliseconds.
    rows: BTreeSet<i64>,
    rng: StdRng,
}

fn options() -> StoreOptions {
    StoreOptions { background_maintenance: false, wal_segment_bytes: 64 << 10, maps_max: 2, ..StoreOptions::default() }
}

impl Bench {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut cases = cases();
        let case = cases.swap_remove(rng.random_range(0..cases.len()));
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), true, options()).unwrap();
        let key = SeriesKey::scalar("c", "S", case.timeframe, "n").unwrap();
        let mut spec = SeriesSpec::of_key(&key);
        spec.unit = Some(case.unit);
        spec.interval_ms = case.interval_ms;
        spec.origin = case.origin.map(|ms| ms * ticks(case.unit));
        spec.partition = Some(case.partition.into());
        store.register(spec.resolve().unwrap()).unwrap();
        Self { store: Some(store), root, key, case, rows: BTreeSet::new(), rng }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    /// A random time within about 600 buckets around the epoch.
    fn moment(&mut self) -> i64 {
        let length = self.case.buckets.length();
        let bucket = self.rng.random_range(-400..200);
        bucket * length + self.rng.random_range(0..length) * i64::from(self.rng.random_bool(0.5))
    }

    fn step(&mut self) {
        let ticks = ticks(self.case.unit);
        match self.rng.random_range(0..10) {
            0..5 => {
                let from = self.moment();
                let count = [1, 5, 60, 200][self.rng.random_range(0..4)];
                let length = self.case.buckets.length();
                let first = self.rows.first().copied();
                let mut starts = self.case.buckets.starts((from, from + count * length), first);
                let keep = [0.5, 0.95, 1.0][self.rng.random_range(0..3)];
                starts.retain(|_| self.rng.random_bool(keep));
                let ts: Vec<i64> = starts
                    .into_iter()
                    .map(|start| start + if self.rng.random_bool(0.03) { self.rng.random_range(0..length) } else { 0 })
                    .collect();
                let distinct: BTreeSet<i64> = ts.into_iter().collect();
                let rows =
                    Rows::of_words(distinct.iter().map(|ms| ms * ticks).collect(), vec![vec![0; distinct.len()]]);
                self.store().write(&self.key, rows, WriteMode::Upsert, None).unwrap();
                self.rows.extend(distinct);
            }
            5..7 => {
                let (a, b) = (self.moment(), self.moment());
                let (from, to) = if self.rng.random_bool(0.1) {
                    (-i64::MAX / 2_000_000, i64::MAX / 2_000_000)
                } else {
                    (a.min(b), a.max(b))
                };
                self.store().delete_range(&self.key, (from * ticks, to * ticks), None).unwrap();
                self.rows.retain(|ts| !(from..=to).contains(ts));
            }
            7..9 => {
                self.store().seal(&[]).unwrap();
            }
            _ => {
                self.store = None;
                for path in sidecars(self.root.path()) {
                    match self.rng.random_range(0..6) {
                        0 => std::fs::remove_file(path).unwrap(),
                        1 => {
                            let mut bytes = std::fs::read(&path).unwrap();
                            let at = self.rng.random_range(0..bytes.len().max(1));
                            let bit = 1 << self.rng.random_range(0..8);
                            bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= bit);
                            std::fs::write(path, bytes).unwrap();
                        }
                        2 => std::fs::write(path, b"").unwrap(),
                        _ => {}
                    }
                }
                self.store = Some(Store::open(self.root.path(), false, options()).unwrap());
            }
        }
    }

    fn check(&mut self) {
        let state = self.store().snapshot();
        let series = state.get(&self.key).unwrap().clone();
        let ticks = ticks(self.case.unit);
        let (a, b) = (self.moment(), self.moment());
        let (low, high) = (a.min(b), a.max(b));
        let start = self.rng.random_bool(0.6).then_some(low);
        let end = self.rng.random_bool(0.6).then_some(high);
        let (value, is_open) = {
            let mut all = calendars();
            all.swap_remove(self.rng.random_range(0..all.len()))
        };
        let calendar = Calendar::parse(&value).unwrap();
        let missing_min = self.rng.random_range(1..4);
        let gaps_max = [0, 3, 100_000][self.rng.random_range(0..3)];
        let naive = Naive::new(self, start, end, is_open);
        let spec = CoverageSpec {
            start: start.map(|ms| ms * ticks),
            end: end.map(|ms| ms * ticks),
            calendar: &calendar,
            missing_min,
            gaps_max,
        };
        let found = coverage(&series, self.store().cache(), &spec).unwrap();
        naive.compare(&found, missing_min, gaps_max, ticks);
        if start.is_none() && end.is_none() && value == json!("24x7") {
            assert_eq!(ratio(&series, self.store().cache()).unwrap(), found.ratio());
        }
        let expectation = [1, 2, 5, 40][self.rng.random_range(0..4)];
        let complete =
            last_complete(&series, self.store().cache(), &calendar, (spec.start, spec.end), expectation).unwrap();
        let rows: Vec<i64> = complete.map_or(Vec::new(), |complete| {
            let spec = ScanSpec { filter: complete.filter.into_iter().collect(), ..ScanSpec::range(complete.range) };
            let blocks = Scan::new(&series, self.store().cache(), &spec).map(Result::unwrap);
            blocks.flat_map(|block| block.words(0).to_vec()).collect()
        });
        assert_eq!(
            rows,
            naive.last_complete(expectation as usize, ticks),
            "the last {expectation} of {}",
            self.case.timeframe
        );
    }
}

fn ticks(unit: TimeUnit) -> i64 {
    unit.per_second() / 1_000
}

fn sidecars(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in std::fs::read_dir(root.join("chunks")).unwrap() {
        let entries = std::fs::read_dir(folder.unwrap().path()).unwrap().map(|entry| entry.unwrap().path());
        found.extend(entries.filter(|path| path.extension().is_some_and(|ending| ending == "cov")));
    }
    found.sort();
    found
}

/// The naive computation, bucket by bucket.
struct Naive {
    /// Rows of the range.
    rows: Vec<i64>,
    off_grid: u64,
    outside: u64,
    /// Start and end of the expected buckets, and whether they contain a row.
    expected: Vec<(i64, i64, bool)>,
    bounds: Option<(i64, i64)>,
}

impl Naive {
    fn new(bench: &Bench, start: Option<i64>, end: Option<i64>, is_open: fn(i64) -> bool) -> Self {
        let mut naive = Naive { rows: Vec::new(), off_grid: 0, outside: 0, expected: Vec::new(), bounds: None };
        let first = bench.rows.first().copied();
        let bucket_start = |ts: i64| {
            let starts = bench.case.buckets.starts((ts, ts), first);
            *starts.iter().rfind(|start| **start <= ts).unwrap()
        };
        let Some(start) = start.or(first.map(bucket_start)) else { return naive };
        let Some(end) = end.or(bench.rows.last().copied()) else { return naive };
        if start > end {
            return naive;
        }
        naive.rows = bench.rows.range(start..=end).copied().collect();
        let starts = bench.case.buckets.starts((start, end), first);
        for pair in starts.windows(2) {
            let (from, next) = (pair[0], pair[1]);
            let inside: Vec<i64> =
                bench.rows.range(from.max(start)..next.min(end + 1).max(from.max(start))).copied().collect();
            naive.off_grid += inside.iter().filter(|ts| **ts != from).count() as u64;
            if !is_open(from) {
                naive.outside += inside.len() as u64;
            }
            if (start..=end).contains(&from) {
                naive.bounds = Some((naive.bounds.map_or(from, |(low, _)| low), from));
                if is_open(from) {
                    naive.expected.push((from, next - 1, !inside.is_empty()));
                }
            }
        }
        naive
    }

    fn compare(&self, found: &CoverageReport, missing_min: u64, gaps_max: usize, ticks: i64) {
        let present = self.expected.iter().filter(|(.., present)| *present).count() as u64;
        assert_eq!((found.expected, found.present), (self.expected.len() as u64, present), "expected and present");
        assert_eq!(found.rows, self.rows.len() as u64, "rows");
        assert_eq!((found.off_grid, found.outside_calendar), (self.off_grid, self.outside), "off grid, outside");
        assert_eq!(found.bounds, self.bounds.map(|(low, high)| (low * ticks, high * ticks)), "bounds");
        let mut gaps: Vec<Gap> = Vec::new();
        let mut after_missing = false;
        for (start, _, present) in &self.expected {
            match gaps.last_mut() {
                _ if *present => {}
                Some(gap) if after_missing => (gap.end, gap.missing) = (start * ticks, gap.missing + 1),
                _ => gaps.push(Gap { start: start * ticks, end: start * ticks, missing: 1 }),
            }
            after_missing = !present;
        }
        let longest = gaps.iter().rev().max_by_key(|gap| gap.missing).copied();
        assert_eq!(found.longest_gap, longest, "longest gap");
        gaps.retain(|gap| gap.missing >= missing_min);
        assert_eq!(found.gaps_total, gaps.len() as u64, "number of gaps");
        gaps.truncate(gaps_max);
        assert_eq!(found.gaps, gaps, "gaps");
        let ratio = (!self.expected.is_empty()).then(|| present as f64 / self.expected.len() as f64);
        assert_eq!(found.ratio(), ratio);
    }

    /// Rows of the last `expectation` consecutive expected buckets that all have rows.
    fn last_complete(&self, expectation: usize, ticks: i64) -> Vec<i64> {
        let found = self.expected.windows(expectation).rfind(|run| run.iter().all(|(.., present)| *present));
        let inside = |ts: &i64| found.unwrap().iter().any(|(from, to, _)| from <= ts && ts <= to);
        if found.is_none() {
            Vec::new()
        } else {
            self.rows.iter().filter(|ts| inside(ts)).map(|ts| ts * ticks).collect()
        }
    }
}

fn run_case(seed: u64) {
    let mut bench = Bench::new(seed);
    for _ in 0..25 {
        bench.step();
        bench.check();
        bench.check();
    }
}

#[test]
fn coverage_equals_that_of_a_plain_set_of_timestamps() {
    if let Ok(seed) = std::env::var("FASTK_COVERAGE_SEED") {
        return run_case(seed.parse().unwrap());
    }
    let amount = std::env::var("FASTK_COVERAGE_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    for seed in 0..amount {
        if let Err(cause) = std::panic::catch_unwind(|| run_case(seed)) {
            eprintln!(
                "replay: FASTK_COVERAGE_SEED={seed} cargo test --no-default-features --test engine coverage_is_what"
            );
            std::panic::resume_unwind(cause);
        }
    }
}

fn minutes_with_gaps(rows: i64, gaps: i64) -> Vec<i64> {
    let every = rows / gaps;
    (0..rows).filter(|row| row % every != every / 2).map(|row| row * 60 * SECOND).collect()
}

#[test]
fn every_chunk_has_a_sidecar_that_is_removed_with_it() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), true, options()).unwrap();
    let key = SeriesKey::scalar("c", "S", "1m", "n").unwrap();
    store.register(SeriesSpec::of_key(&key).resolve().unwrap()).unwrap();
    let write = |ts: Vec<i64>| {
        let columns = vec![vec![0; ts.len()]];
        store.write(&key, Rows::of_words(ts, columns), WriteMode::Upsert, None).unwrap();
        store.seal(&[]).unwrap();
    };
    write(minutes_with_gaps(100_000, 10));
    let made = sidecars(root.path());
    assert_eq!(made.len(), 3, "one a month: {made:?}");
    let bytes: u64 = made.iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!(bytes < 3 * 400, "runs are stored as runs: {bytes} bytes");
    assert!(made.iter().all(|path| path.with_extension("arrow").exists()));
    store.delete_range(&key, (i64::MIN, i64::MAX), None).unwrap();
    write(vec![0]);
    assert_eq!(sidecars(root.path()).len(), 1);
    // For a timeframe without a length there is no sidecar.
    let tick = SeriesKey::scalar("c", "S", "tick", "n").unwrap();
    store.register(SeriesSpec::of_key(&tick).resolve().unwrap()).unwrap();
    store.write(&tick, Rows::of_words(vec![1], vec![vec![0]]), WriteMode::Upsert, None).unwrap();
    store.seal(&[]).unwrap();
    assert_eq!(sidecars(root.path()).len(), 1);
    let state = store.snapshot();
    let always = Calendar::Always;
    let spec = CoverageSpec { start: None, end: None, calendar: &always, missing_min: 1, gaps_max: 1 };
    let error = coverage(state.get(&tick).unwrap(), store.cache(), &spec).unwrap_err();
    assert_eq!(error.code(), fastk::ErrorCode::InvalidArgument);
    assert_eq!(ratio(state.get(&tick).unwrap(), store.cache()).unwrap(), None);
}

#[test]
fn the_cost_of_a_century_depends_on_windows_and_not_on_buckets() {
    let root = tempfile::tempdir().unwrap();
    let store = Store::open(root.path(), true, options()).unwrap();
    let key = SeriesKey::scalar("c", "S", "1s", "n").unwrap();
    let mut spec = SeriesSpec::of_key(&key);
    spec.partition = Some("all".into());
    store.register(spec.resolve().unwrap()).unwrap();
    // 2^32 seconds are 136 years: bucket numbers need more bits.
    let ends = vec![-6_000_000_000 * SECOND, 6_000_000_000 * SECOND];
    store.write(&key, Rows::of_words(ends, vec![vec![0; 2]]), WriteMode::Upsert, None).unwrap();
    store.seal(&[]).unwrap();
    let state = store.snapshot();
    let fx = json!({"zone": "America/New_York", "windows": [{"from": "Sun 17:00", "to": "Fri 17:00"}]});
    for (calendar, ratio_to_all) in [(Calendar::Always, 1.0), (Calendar::parse(&fx).unwrap(), 5.0 / 7.0)] {
        let spec = CoverageSpec { start: None, end: None, calendar: &calendar, missing_min: 1, gaps_max: 10 };
        // A walk over the buckets would take minutes.
        let started_at = std::time::Instant::now();
        let found = coverage(state.get(&key).unwrap(), store.cache(), &spec).unwrap();
        assert!(started_at.elapsed().as_secs() < 60, "{:?}", started_at.elapsed());
        assert!((found.expected as f64 / 12_000_000_001.0 - ratio_to_all).abs() < 1e-3, "{}", found.expected);
        assert_eq!(found.gaps.len(), 1);
    }
}

/// Prints the time of coverage of 10 million rows with 1,000 gaps.
#[test]
#[ignore = "a measurement: run it alone, in release"]
fn coverage_of_ten_million_rows_is_measured() {
    let root = tempfile::tempdir().unwrap();
    let store =
        Store::open(root.path(), true, StoreOptions { background_maintenance: false, ..StoreOptions::default() })
            .unwrap();
    let key = SeriesKey::scalar("c", "S", "1m", "n").unwrap();
    store.register(SeriesSpec::of_key(&key).resolve().unwrap()).unwrap();
    for part in minutes_with_gaps(10_000_000, 1_000).chunks(1_000_000) {
        let rows = Rows::of_words(part.to_vec(), vec![vec![0; part.len()]]);
        store.write(&key, rows, WriteMode::Upsert, None).unwrap();
    }
    let fx = json!({"zone": "America/New_York", "windows": [{"from": "Sun 17:00", "to": "Fri 17:00"}]});
    let measure = |store: &Store, what: &str| {
        let state = store.snapshot();
        let series = state.get(&key).unwrap();
        for value in [json!("24x7"), fx.clone()] {
            let calendar = Calendar::parse(&value).unwrap();
            let spec = CoverageSpec { start: None, end: None, calendar: &calendar, missing_min: 1, gaps_max: 10_000 };
            let mut best = f64::MAX;
            let mut first = 0.0;
            for round in 0..20 {
                let started_at = std::time::Instant::now();
                let found = coverage(series, store.cache(), &spec).unwrap();
                let ms = started_at.elapsed().as_secs_f64() * 1_000.0;
                assert!(found.gaps.len() > 500, "{}", found.gaps.len());
                if round == 0 {
                    first = ms;
                }
                best = f64::min(best, ms);
            }
            println!("{what}, {value}: {first:.3} ms at first, then {best:.3} ms");
        }
    };
    measure(&store, "tail of 10 million rows");
    store.seal(&[]).unwrap();
    drop(store);
    let store = Store::open(root.path(), false, options()).unwrap();
    let bytes: u64 = sidecars(root.path()).iter().map(|path| path.metadata().unwrap().len()).sum();
    println!("{} sidecars, {bytes} bytes", sidecars(root.path()).len());
    measure(&store, "sealed");
    for path in sidecars(root.path()) {
        std::fs::remove_file(path).unwrap();
    }
    drop(store);
    let store = Store::open(root.path(), false, options()).unwrap();
    measure(&store, "without sidecars");
}
