//! Random operations against a plain ordered map: after every step the engine returns the contents of the map.
//!
//! `FASTK_PROOF` sets the percentage of 2,000 cases, `FASTK_MODEL_CASES` and `FASTK_MODEL_STEPS` set the amount,
//! `FASTK_MODEL_SEED` replays one failing case.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fastk::ErrorCode;
use fastk::query::coverage::{CoverageSpec, coverage};
use fastk::query::predicate::compile;
use fastk::query::{NumberFormat, Operator, Predicate, Scan, ScanSpec, latest_start};
use fastk::store::{SeriesWrite, Store, StoreOptions, StoreState, WriteMode, WriteOutcome};
use fastk::types::schema::{Retention, ValueIndexSpec};
use fastk::types::{Calendar, Rows, SeriesKey, SeriesSpec};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const MINUTE: i64 = 60_000;
const COLUMNS: usize = 5;

type Map = BTreeMap<i64, [i64; COLUMNS]>;

/// The store under test and its expected contents.
struct Model {
    store: Option<Store>,
    root: tempfile::TempDir,
    keys: Vec<SeriesKey>,
    maps: Vec<Map>,
    options: StoreOptions,
    rng: StdRng,
    /// Held snapshots, with their expected contents.
    kept: Vec<(std::sync::Arc<fastk::store::StoreState>, Vec<Map>)>,
    /// Named snapshots with their expected contents: rows and version of every series.
    named: BTreeMap<String, Vec<(Map, u64)>>,
    /// Writes with an idempotency key.
    once: Vec<(String, SeriesWrite, WriteOutcome)>,
    names: u64,
}

fn options(rng: &mut StdRng) -> StoreOptions {
    StoreOptions {
        wal_segment_bytes: 16 << 10,
        tail_rows_max: [50, 400, 1 << 40][rng.random_range(0..3)],
        wal_bytes_max: [32 << 10, 1 << 30][rng.random_range(0..2)],
        chunk_bytes_max: [1 << 10, 4 << 10, 16 << 10, 1 << 30][rng.random_range(0..4)],
        tail_bytes_max: [2 << 10, 256 << 10, 1 << 30][rng.random_range(0..3)],
        maps_max: [1, 4, 8_192][rng.random_range(0..3)],
        background_maintenance: rng.random_bool(0.5),
        ..StoreOptions::default()
    }
}

fn register(store: &Store, key: &SeriesKey, partition: &str) {
    let mut spec = SeriesSpec::of_key(key);
    spec.price_digits = Some(2);
    spec.volume_digits = Some(0);
    spec.partition = Some(partition.into());
    if key.symbol() == Some("S1") {
        spec.value_index = Some(ValueIndexSpec::Columns(vec!["open".into(), "close".into()]));
    }
    store.register(spec.resolve().unwrap()).unwrap();
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let options = options(&mut rng);
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), true, options.clone()).unwrap();
        let keys: Vec<SeriesKey> = (0..2).map(|n| SeriesKey::kline(&format!("S{n}"), "1m").unwrap()).collect();
        for (key, partition) in keys.iter().zip(["day", "all"]) {
            register(&store, key, partition);
        }
        let maps = vec![Map::new(); keys.len()];
        Self {
            store: Some(store),
            root,
            keys,
            maps,
            options,
            rng,
            kept: Vec::new(),
            named: BTreeMap::new(),
            once: Vec::new(),
            names: 0,
        }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    /// A timestamp within about three weeks, half of them in one day.
    fn ts(&mut self) -> i64 {
        let minutes = if self.rng.random_bool(0.5) { 1_440 } else { 30_000 };
        (self.rng.random_range(0..minutes) - 10_000) * MINUTE
    }

    fn rows(&mut self) -> (Rows, Vec<(i64, [i64; COLUMNS])>) {
        let count = [1, 3, 40, 900, 3_000][self.rng.random_range(0..5)];
        let mut rows = Rows::empty_words(COLUMNS, count);
        let mut listed = Vec::new();
        let ordered = self.rng.random_bool(0.6);
        let mut ts = self.ts();
        for _ in 0..count {
            let cells = std::array::from_fn(|_| self.rng.random_range(-1_000_000..1_000_000));
            rows.push(ts, &cells);
            listed.push((ts, cells));
            ts = if ordered { ts + MINUTE * self.rng.random_range(1..3) } else { self.ts() };
        }
        (rows, listed)
    }

    fn step(&mut self) {
        let which = self.rng.random_range(0..self.keys.len());
        match self.rng.random_range(0..132) {
            0..45 => self.write(which, WriteMode::Upsert),
            45..52 => self.write(which, WriteMode::Insert),
            52..60 => self.write(which, WriteMode::Append),
            60..72 => self.delete(which),
            72..84 if !self.options.background_maintenance && self.rng.random_bool(0.3) => {
                self.crash_within_maintenance()
            }
            72..80 => {
                let keys = if self.rng.random_bool(0.5) { vec![self.keys[which].clone()] } else { Vec::new() };
                self.store().seal(&keys).unwrap();
            }
            80..86 => self.store().checkpoint().unwrap(),
            86..90 => self.reopen(),
            90..93 => self.damage_sidecars(),
            93..95 => {
                let report = self.store().rebuild_sidecars().unwrap();
                let again = self.store().rebuild_sidecars().unwrap();
                // A seal in the background may publish a chunk with the indexes that were registered when it began.
                if !self.options.background_maintenance {
                    assert_eq!((again.rebuilt, again.removed), (0, 0), "after {report:?}");
                }
            }
            95..96 => self.change_index(which),
            96..98 => self.drop_and_register(which),
            98..100 => {
                let snapshot = self.store().snapshot();
                self.kept.push((snapshot, self.maps.clone()));
            }
            100..108 => self.merge(which),
            108..112 => self.write_all(),
            112..116 => self.repeat(),
            116..121 => self.name_snapshot(),
            121..124 => self.drop_snapshot(),
            124..127 => {
                let full = self.rng.random_bool(0.5);
                self.store().compact(&[], full).unwrap();
            }
            127..129 => self.vacuum(),
            _ => self.retain(which),
        }
    }

    /// Merges: volumes are added, the other columns get the first, highest, lowest and last value.
    fn merge(&mut self, which: usize) {
        let (rows, listed) = self.rows();
        let outcome = self.write_once(vec![(which, rows, WriteMode::Merge { first: None })]);
        let map = &mut self.maps[which];
        let before = map.len();
        for (ts, cells) in &listed {
            map.entry(*ts)
                .and_modify(|old| {
                    *old = [old[0], old[1].max(cells[1]), old[2].min(cells[2]), cells[3], old[4] + cells[4]];
                })
                .or_insert(*cells);
        }
        let written = outcome.written[0];
        assert_eq!(written.rows_written - written.rows_replaced, (map.len() - before) as u64);
        assert_eq!(written.rows_written + written.rows_duplicate, listed.len() as u64);
    }

    /// An atomic write to all series.
    fn write_all(&mut self) {
        let mut parts = Vec::new();
        let mut lists = Vec::new();
        for which in 0..self.keys.len() {
            let (rows, listed) = self.rows();
            parts.push((which, rows, WriteMode::Upsert));
            lists.push(listed);
        }
        if self.rng.random_bool(0.2) {
            let absent = SeriesKey::kline("ABSENT", "1m").unwrap();
            let mut writes: Vec<SeriesWrite> = parts
                .into_iter()
                .map(|(which, rows, mode)| SeriesWrite::new(self.keys[which].clone(), rows, mode))
                .collect();
            writes.push(SeriesWrite::new(absent, writes[0].rows.clone(), WriteMode::Upsert));
            let before = self.store().snapshot().commit;
            assert_eq!(self.store().write_many(writes, None).unwrap_err().code(), ErrorCode::SeriesNotFound);
            assert_eq!(self.store().snapshot().commit, before);
            return;
        }
        let outcome = self.write_once(parts);
        assert!(outcome.written.iter().all(|written| written.commit == outcome.commit));
        for (map, listed) in self.maps.iter_mut().zip(lists) {
            map.extend(listed);
        }
    }

    fn write_once(&mut self, parts: Vec<(usize, Rows, WriteMode)>) -> WriteOutcome {
        self.names += 1;
        let key = format!("key {}", self.names);
        let writes: Vec<SeriesWrite> = parts
            .into_iter()
            .map(|(which, rows, mode)| SeriesWrite::new(self.keys[which].clone(), rows, mode))
            .collect();
        let first = writes[0].clone();
        let several = writes.len() > 1;
        let outcome = self.store().write_many(writes, Some(&key)).unwrap();
        assert!(!outcome.repeated);
        if !several {
            self.once.push((key, first, outcome.clone()));
        }
        outcome
    }

    /// A retry returns the first result and changes nothing; another write with the key is refused.
    fn repeat(&mut self) {
        if self.once.is_empty() {
            return;
        }
        let (key, write, outcome) = self.once[self.rng.random_range(0..self.once.len())].clone();
        let before = self.store().snapshot().commit;
        let again = self.store().write_many(vec![write.clone()], Some(&key)).unwrap();
        assert!(again.repeated);
        assert_eq!((again.written, again.commit), (outcome.written, outcome.commit));
        let mut other = write;
        other.rows.ts[0] += 1;
        let refused = self.store().write_many(vec![other], Some(&key)).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::IdempotencyMismatch);
        assert_eq!(self.store().snapshot().commit, before);
    }

    fn name_snapshot(&mut self) {
        self.names += 1;
        let name = format!("s{}", self.names % 7);
        let exists = self.named.contains_key(&name);
        let state = self.store().snapshot();
        match self.store().create_snapshot(&name) {
            Ok(_) => {
                assert!(!exists);
                let versions = self.keys.iter().map(|key| state.get(key).unwrap().version);
                self.named.insert(name, self.maps.iter().cloned().zip(versions).collect());
            }
            Err(error) => assert!(exists && error.code() == ErrorCode::SnapshotExists, "{error}"),
        }
    }

    fn drop_snapshot(&mut self) {
        let Some(name) = self.named.keys().nth(self.rng.random_range(0..4)).cloned() else { return };
        self.named.remove(&name);
        self.store().drop_snapshot(&name).unwrap();
        assert_eq!(self.store().as_of(&name).unwrap_err().code(), ErrorCode::SnapshotNotFound);
    }

    /// After a vacuum without readers the directory has exactly the files of the store.
    fn vacuum(&mut self) {
        self.check_kept();
        self.kept.clear();
        if self.options.background_maintenance {
            self.store().vacuum().unwrap();
            return;
        }
        assert_eq!(self.store().vacuum().unwrap().files_waiting, 0);
        let state = self.store().snapshot();
        for series in state.series.values() {
            let mut named: Vec<_> = series.chunks.iter().map(|chunk| chunk.path().to_path_buf()).collect();
            named.sort();
            let dir = self.root.path().join(format!("chunks/{:010}", series.id));
            let mut found: Vec<_> = std::fs::read_dir(dir)
                .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
                .unwrap_or_default();
            found.retain(|path: &std::path::PathBuf| path.extension().is_some_and(|e| e == "arrow"));
            found.sort();
            assert_eq!(found, named, "files of series {}", series.id);
            let bytes: u64 = found.iter().map(|path| std::fs::metadata(path).unwrap().len()).sum();
            assert_eq!(bytes, series.file_bytes());
        }
    }

    fn retain(&mut self, which: usize) {
        let key = self.keys[which].clone();
        let map = &self.maps[which];
        let by_rows = self.rng.random_bool(0.5);
        let (retention, first_kept) = if by_rows {
            let keep = self.rng.random_range(1..4_000_u64);
            let first = map.keys().rev().nth(keep as usize - 1).copied().unwrap_or(i64::MIN);
            (Retention { max_rows: Some(keep), max_age: None }, first)
        } else {
            let minutes = self.rng.random_range(1..20_000_i64);
            let first = map.last_key_value().map_or(i64::MIN, |(last, _)| last - minutes * MINUTE);
            (Retention { max_age: Some(format!("{minutes}m")), max_rows: None }, first)
        };
        let set = |retention: Option<Retention>| {
            self.store().change_series(&key, None, |def| {
                def.retention = retention;
                Ok(())
            })
        };
        set(Some(retention)).unwrap();
        let cut = self.store().apply_retention(&[]).unwrap();
        set(None).unwrap();
        let before = map.len();
        let kept: Map = map.range(first_kept..).map(|(ts, cells)| (*ts, *cells)).collect();
        let deleted: u64 = cut.iter().map(|(_, deleted)| deleted.rows_deleted).sum();
        assert_eq!(deleted, (before - kept.len()) as u64);
        self.maps[which] = kept;
    }

    /// Compares intervals and gaps with those of the map.
    fn check_coverage(&self, state: &StoreState, key: &SeriesKey, map: &Map) {
        let series = state.get(key).unwrap();
        let spec =
            CoverageSpec { start: None, end: None, calendar: &Calendar::Always, missing_min: 1, gaps_max: usize::MAX };
        let found = coverage(series, self.store().cache(), &spec).unwrap();
        assert_eq!((found.present, found.rows, found.off_grid), (map.len() as u64, map.len() as u64, 0), "{key}");
        let stamps: Vec<i64> = map.keys().copied().collect();
        let gaps: Vec<(i64, i64)> = stamps
            .windows(2)
            .filter(|pair| pair[1] - pair[0] > MINUTE)
            .map(|pair| (pair[0] + MINUTE, pair[1] - MINUTE))
            .collect();
        let listed: Vec<(i64, i64)> = found.gaps.iter().map(|gap| (gap.start, gap.end)).collect();
        assert!(listed == gaps, "gaps of {key}: {} found, {} expected", listed.len(), gaps.len());
        let expected = stamps.first().zip(stamps.last()).map_or(0, |(first, last)| (last - first) / MINUTE + 1);
        assert_eq!(found.expected, expected as u64, "{key}");
    }

    fn check_named(&self) {
        let listed: Vec<String> = self.store().snapshots().into_iter().map(|(name, _)| name).collect();
        assert!(listed.iter().eq(self.named.keys()), "{listed:?}");
        for (name, series) in &self.named {
            let state = self.store().as_of(name).unwrap();
            for (key, (map, version)) in self.keys.iter().zip(series) {
                check_range(self.store(), &state, key, map, (i64::MIN, i64::MAX), false, None, None, &[]);
                self.check_coverage(&state, key, map);
                let found = state.get(key).unwrap();
                assert_eq!((found.rows, found.version), (map.len() as u64, *version), "{key} as of {name}");
                let bounds = map.first_key_value().zip(map.last_key_value()).map(|((a, _), (b, _))| (*a, *b));
                assert_eq!(found.bounds, bounds, "bounds of {key} as of {name}");
            }
        }
    }

    fn write(&mut self, which: usize, mode: WriteMode) {
        let (rows, mut listed) = self.rows();
        let map = &self.maps[which];
        let mut distinct: BTreeMap<i64, [i64; COLUMNS]> = BTreeMap::new();
        let repeats = listed.len()
            != listed.iter().map(|(ts, _)| distinct.insert(*ts, [0; COLUMNS])).filter(Option::is_none).count();
        // The first row that does not follow its predecessor determines the error.
        let unordered = listed
            .windows(2)
            .find(|pair| pair[0].0 >= pair[1].0)
            .map(|pair| if pair[0].0 == pair[1].0 { ErrorCode::InvalidRows } else { ErrorCode::OutOfOrder });
        let replaced = distinct.keys().filter(|ts| map.contains_key(ts)).count();
        let follows = map.last_key_value().is_none_or(|(last, _)| listed[0].0 > *last);
        let expected = match mode {
            WriteMode::Upsert => None,
            WriteMode::Insert if repeats => Some(ErrorCode::InvalidRows),
            WriteMode::Insert if replaced > 0 => Some(ErrorCode::RowsExist),
            WriteMode::Append if unordered.is_some() => unordered,
            WriteMode::Append if !follows => Some(ErrorCode::OutOfOrder),
            WriteMode::Insert | WriteMode::Append | WriteMode::Merge { .. } => None,
        };
        let outcome = self.store().write(&self.keys[which], rows, mode, None);
        match (outcome, expected) {
            (Ok(written), None) => {
                assert_eq!(written.rows_written, distinct.len() as u64);
                assert_eq!(written.rows_replaced, replaced as u64);
                self.maps[which].extend(listed.drain(..));
            }
            (Err(error), Some(code)) => assert_eq!(error.code(), code),
            (outcome, expected) => panic!("{mode:?}: {outcome:?}, expected {expected:?}"),
        }
    }

    fn delete(&mut self, which: usize) {
        let (a, b) = (self.ts(), self.ts());
        let range = if self.rng.random_bool(0.1) { (i64::MIN, i64::MAX) } else { (a.min(b), a.max(b)) };
        let dropped: Vec<i64> = self.maps[which].range(range.0..=range.1).map(|(ts, _)| *ts).collect();
        let deleted = self.store().delete_range(&self.keys[which], range, None).unwrap();
        assert_eq!(deleted.rows_deleted, dropped.len() as u64);
        for ts in dropped {
            self.maps[which].remove(&ts);
        }
    }

    fn drop_and_register(&mut self, which: usize) {
        let key = self.keys[which].clone();
        self.store().drop_series(&key, None).unwrap();
        self.maps[which].clear();
        let partition = ["day", "month", "all"][self.rng.random_range(0..3)];
        register(self.store(), &key, partition);
    }

    /// Removes, truncates, overwrites and swaps sidecars, which must not change any result.
    fn damage_sidecars(&mut self) {
        let sidecars: Vec<PathBuf> = sidecars(self.root.path());
        for path in &sidecars {
            // Maintenance may remove a chunk with its sidecars at any time.
            let Ok(mut bytes) = std::fs::read(path) else { continue };
            let bit = self.rng.random_range(0..bytes.len().max(1) * 8);
            match self.rng.random_range(0..8) {
                0 => std::fs::remove_file(path).unwrap_or_default(),
                1 => bytes.truncate(bit / 8),
                2 if !bytes.is_empty() => bytes[bit / 8] ^= 1 << (bit % 8),
                3 => {
                    let other = &sidecars[self.rng.random_range(0..sidecars.len())];
                    bytes = std::fs::read(other).unwrap_or_default();
                }
                _ => continue,
            }
            if path.exists() {
                std::fs::write(path, bytes).unwrap();
            }
        }
    }

    fn change_index(&mut self, which: usize) {
        let expectation = [vec![], vec!["high".to_owned()], vec!["close".to_owned(), "open".to_owned()]];
        let expectation = expectation[self.rng.random_range(0..3)].clone();
        let key = self.keys[which].clone();
        self.store()
            .change_series(&key, None, |def| {
                def.value_index = expectation;
                Ok(())
            })
            .unwrap();
    }

    fn reopen(&mut self) {
        // Held snapshots end with their process.
        self.check_kept();
        self.kept.clear();
        self.store = None;
        self.store = Some(Store::open(self.root.path(), false, self.options.clone()).unwrap());
    }

    /// Runs one step of maintenance and opens the images of a crash between any two of its file operations: all files
    /// of before and after, with the manifest edits published until then. Each image, opened twice, equals the store.
    fn crash_within_maintenance(&mut self) {
        self.check_kept();
        self.kept.clear();
        let before = files_of(self.root.path());
        match self.rng.random_range(0..4) {
            0 => drop(self.store().seal(&[]).unwrap()),
            1 => self.store().checkpoint().unwrap(),
            2 => drop(self.store().compact(&[], false).unwrap()),
            _ => drop(self.store().vacuum().unwrap()),
        }
        let after = files_of(self.root.path());
        let number = |name: &Path| -> u64 { name.file_stem().unwrap().to_str().unwrap().parse().unwrap() };
        let is_manifest = |name: &Path| name.starts_with("manifest");
        let last = |files: &Files| {
            files
                .keys()
                .filter(|name| is_manifest(name) && !name.ends_with("CURRENT"))
                .map(|name| number(name))
                .max()
                .unwrap()
        };
        for published in last(&before)..=last(&after) {
            let image = tempfile::tempdir().unwrap();
            for (name, bytes) in before.iter().chain(&after) {
                let hint = name.ends_with("CURRENT");
                if (hint && !image.path().join(name).exists())
                    || (!hint && (!is_manifest(name) || number(name) <= published))
                {
                    let path = image.path().join(name);
                    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                    std::fs::write(path, bytes).unwrap();
                }
            }
            let root = std::mem::replace(&mut self.root, image);
            let store = self.store.take();
            for _ in 0..2 {
                self.store = None;
                self.store = Some(Store::open(self.root.path(), false, self.options.clone()).unwrap());
                self.check();
                self.check_named();
                self.repeat();
            }
            // Further operations are correct too.
            self.store().checkpoint().unwrap();
            self.store().compact(&[], false).unwrap();
            self.check();
            self.check_named();
            self.store = store;
            self.root = root;
        }
    }

    fn check_kept(&self) {
        for (state, maps) in &self.kept {
            for (key, map) in self.keys.iter().zip(maps) {
                check_range(self.store(), state, key, map, (i64::MIN, i64::MAX), false, None, None, &[]);
            }
        }
    }

    fn check(&mut self) {
        let state = self.store().snapshot();
        for which in 0..self.keys.len() {
            let (key, map) = (self.keys[which].clone(), self.maps[which].clone());
            let series = state.get(&key).unwrap();
            assert_eq!(series.rows, map.len() as u64, "count of {key}");
            let bounds = map.first_key_value().zip(map.last_key_value()).map(|((first, _), (last, _))| (*first, *last));
            assert_eq!(series.bounds, bounds, "bounds of {key}");
            self.check_coverage(&state, &key, &map);
            let (a, b) = (self.ts(), self.ts());
            let limit = self.rng.random_bool(0.5).then(|| self.rng.random_range(1..2_000));
            let desc = self.rng.random_bool(0.5);
            let columns = self.rng.random_bool(0.3).then(|| vec![3, 0]);
            let filter = if self.rng.random_bool(0.5) { self.predicates() } else { Vec::new() };
            check_range(self.store(), &state, &key, &map, (i64::MIN, i64::MAX), desc, None, None, &[]);
            check_range(self.store(), &state, &key, &map, (a.min(b), a.max(b)), desc, limit, columns, &filter);
            let count = self.rng.random_range(1..1_500_u64);
            let start = latest_start(series, self.store().cache(), (i64::MIN, b), count, &[]).unwrap();
            let expectation = map.range(..=b).rev().nth(count as usize - 1).map_or(i64::MIN, |(ts, _)| *ts);
            assert_eq!(start, expectation, "latest {count} of {key}");
            let range = (a.min(b), a.max(b));
            assert_eq!(
                series.count_rows(self.store().cache(), range).unwrap(),
                map.range(range.0..=range.1).count() as u64
            );
        }
    }
}

#[allow(clippy::too_many_arguments)]
fn check_range(
    store: &Store,
    state: &fastk::store::StoreState,
    key: &SeriesKey,
    map: &Map,
    range: (i64, i64),
    desc: bool,
    limit: Option<u64>,
    columns: Option<Vec<usize>>,
    filter: &[Condition],
) {
    let Some(series) = state.get(key) else { return assert!(map.is_empty()) };
    let wanted_columns = columns.clone().unwrap_or((0..COLUMNS).collect());
    let mut expectation: Vec<Vec<i64>> = map
        .range(range.0..=range.1)
        .filter(|(ts, cells)| filter.iter().all(|condition| condition.holds(**ts, cells)))
        .map(|(ts, cells)| std::iter::once(*ts).chain(wanted_columns.iter().map(|column| cells[*column])).collect())
        .collect();
    if desc {
        expectation.reverse();
    }
    let limit_rows = limit.map_or(usize::MAX, |limit| limit as usize);
    let next = expectation.get(limit_rows).map(|row| row[0]);
    expectation.truncate(limit_rows);
    let predicates: Vec<Predicate> = filter.iter().map(|condition| condition.predicate.clone()).collect();
    let compiled = compile(&series.def, &series.dictionaries, &predicates, NumberFormat::Stored).unwrap();
    let mut scan = Scan::new(
        series,
        store.cache(),
        &ScanSpec { range, desc, limit: limit.into(), skip: 0, columns, filter: compiled },
    );
    let mut found: Vec<Vec<i64>> = Vec::new();
    for block in scan.by_ref() {
        let block = block.unwrap();
        assert!(block.rows() > 0 && block.column_count() == wanted_columns.len() + 1);
        for row in 0..block.rows() {
            found.push((0..block.column_count()).map(|column| block.words(column)[row]).collect());
        }
    }
    assert_eq!(found.len(), expectation.len(), "rows of {key} in {range:?}, descending {desc}, limit {limit:?}");
    assert!(found == expectation, "cells of {key} in {range:?}, descending {desc}");
    assert_eq!(scan.next_ts(), next, "what follows the limit");
}

/// A predicate, evaluated on the map without the code under test.
struct Condition {
    predicate: Predicate,
    /// Position among the cells; `None` for `ts`.
    column: Option<usize>,
    /// Values times 1,000; not a multiple of ten: between two values of a column of two digits.
    values: Vec<i64>,
}

impl Condition {
    fn holds(&self, ts: i64, cells: &[i64; COLUMNS]) -> bool {
        let cell = self.column.map_or(ts * 1_000, |column| cells[column] * 10);
        let (first, last) = (self.values[0], self.values[self.values.len() - 1]);
        match self.predicate.op {
            Operator::Eq => cell == first,
            Operator::Ne => cell != first,
            Operator::Gt => cell > first,
            Operator::Gte => cell >= first,
            Operator::Lt => cell < first,
            Operator::Lte => cell <= first,
            Operator::Between => first <= cell && cell <= last,
            Operator::BetweenExclusive => first < cell && cell < last,
            Operator::In => self.values.contains(&cell),
            Operator::NotIn => !self.values.contains(&cell),
            Operator::Prefix | Operator::IsNull | Operator::IsNotNull => unreachable!("not for decimals without nulls"),
        }
    }
}

impl Model {
    fn predicates(&mut self) -> Vec<Condition> {
        let count = self.rng.random_range(1..3);
        (0..count).map(|_| self.predicate()).collect()
    }

    fn predicate(&mut self) -> Condition {
        // The others are for texts and nulls.
        let (op, name) = Operator::ALL[self.rng.random_range(0..10)];
        let column = self.rng.random_bool(0.8).then(|| self.rng.random_range(0..4));
        let count = match name {
            "between" | "between_exclusive" => 2,
            "in" | "not_in" => self.rng.random_range(1..5),
            _ => 1,
        };
        let which = self.rng.random_range(0..self.maps.len());
        let mut values: Vec<i64> = (0..count)
            .map(|_| {
                let stored = self.maps[which].values().nth(self.rng.random_range(0..200)).map(|cells| cells[0] * 10);
                match (column, stored) {
                    (None, _) => self.ts() * 1_000 + self.rng.random_range(-1..2),
                    (Some(_), Some(stored)) if self.rng.random_bool(0.4) => stored,
                    (Some(_), _) => self.rng.random_range(-12_000_000..12_000_000),
                }
            })
            .collect();
        if count == 2 && self.rng.random_bool(0.9) {
            values.sort_unstable();
        }
        let texts: Vec<String> = values.iter().map(|value| thousandths(*value)).collect();
        let name = column.map_or("ts", |column| ["open", "high", "low", "close"][column]);
        let op_name = Operator::ALL.iter().find(|(known, _)| *known == op).unwrap().1;
        let predicate = Predicate::parse(&format!("{name}:{op_name}:{}", texts.join(","))).unwrap();
        Condition { predicate, column, values }
    }
}

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// Every file of a store, by its relative path.
fn files_of(root: &Path) -> Files {
    let mut files = Files::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(dir) = waiting.pop() {
        for path in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                waiting.push(path);
            } else {
                files.insert(path.strip_prefix(root).unwrap().to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    files
}

/// Zone maps and value indexes of all chunks.
fn sidecars(root: &Path) -> Vec<PathBuf> {
    let series = std::fs::read_dir(root.join("chunks")).into_iter().flatten().flatten();
    let files = series.flat_map(|dir| std::fs::read_dir(dir.path()).into_iter().flatten().flatten());
    let paths = files.map(|file| file.path());
    let mut paths: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|kind| kind == "zmap" || kind == "vix")).collect();
    paths.sort();
    paths
}

fn thousandths(value: i64) -> String {
    let sign = if value < 0 { "-" } else { "" };
    format!("{sign}{}.{:03}", value.abs() / 1_000, value.abs() % 1_000)
}

fn run_case(seed: u64, steps: u64) {
    let mut model = Model::new(seed);
    for _ in 0..steps {
        model.step();
        model.check();
        if model.rng.random_bool(0.2) {
            model.check_named();
        }
    }
    model.check_named();
    model.check_kept();
    model.reopen();
    model.check();
}

/// Cases of the full proof.
const CASES: u64 = 2_000;

/// Runs every second case, so that two tests share them.
fn run_cases(part: u64) {
    let started_at = std::time::Instant::now();
    let steps = crate::case_amount::amount("FASTK_MODEL_STEPS", 50);
    if let Ok(seed) = std::env::var("FASTK_MODEL_SEED") {
        return run_case(seed.parse().unwrap(), steps);
    }
    let share = (CASES as f64 * crate::proof_amount::percent() / 100.0).ceil() as u64;
    let cases = crate::case_amount::amount("FASTK_MODEL_CASES", share.max(40));
    for seed in (0..cases).filter(|seed| seed % 2 == part) {
        let outcome = std::panic::catch_unwind(|| run_case(seed, steps));
        if let Err(cause) = outcome {
            eprintln!(
                "replay: FASTK_MODEL_SEED={seed} FASTK_MODEL_STEPS={steps} cargo test --no-default-features --test engine the_engine_answers"
            );
            std::panic::resume_unwind(cause);
        }
    }
    println!("proof model_{part}: {} cases of {steps} steps, {:.1} s", cases / 2, started_at.elapsed().as_secs_f64());
}

#[test]
fn the_engine_equals_a_plain_ordered_map() {
    run_cases(0);
}

#[test]
fn the_engine_equals_a_plain_ordered_map_in_other_cases() {
    run_cases(1);
}

#[test]
fn a_store_opened_twice_is_the_same_store() {
    let mut model = Model::new(7);
    for _ in 0..30 {
        model.step();
    }
    let listing = |root: &Path| -> Vec<(String, Vec<u8>)> {
        let mut files = Vec::new();
        for dir in ["manifest", "chunks", "runs"] {
            let mut waiting = vec![root.join(dir)];
            while let Some(path) = waiting.pop() {
                for entry in std::fs::read_dir(path).unwrap() {
                    let path = entry.unwrap().path();
                    if path.is_dir() {
                        waiting.push(path);
                    } else {
                        files.push((path.display().to_string(), std::fs::read(&path).unwrap()));
                    }
                }
            }
        }
        files.sort();
        files
    };
    model.options.background_maintenance = false;
    model.reopen();
    let first = listing(model.root.path());
    model.reopen();
    assert!(listing(model.root.path()) == first, "opening again changed files");
    model.check();
}
