//! A store on a simulated disk, a plain model of it, and random operations on both.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::sim_disk::{Moment, Rng, SimDisk, SimState};
use fastk::ErrorCode;
use fastk::query::{Scan, ScanSpec};
use fastk::store::{Durability, SeriesState, SeriesWrite, Store, StoreOptions, StoreState, WriteMode, WriteOutcome};
use fastk::types::schema::{Retention, ValueIndexSpec};
use fastk::types::{Rows, SeriesDef, SeriesKey, SeriesSpec};

pub const MINUTE: i64 = 60_000;
const COLUMNS: usize = 5;
const ROOT: &str = "/store";

type Map = BTreeMap<i64, [i64; COLUMNS]>;

/// A series at one commit.
#[derive(Debug)]
pub struct Series {
    id: u64,
    version: u64,
    def: Arc<SeriesDef>,
    rows: Map,
    hash: u64,
}

/// Every series by the number of its key.
type AllSeries = BTreeMap<usize, Arc<Series>>;

/// The store at one commit.
#[derive(Clone, Debug, Default)]
pub struct Shot {
    pub commit: u64,
    series: AllSeries,
    /// Named snapshots: commit and contents.
    snapshots: BTreeMap<String, (u64, Arc<AllSeries>)>,
    /// Number of receipts of the world.
    receipts: usize,
}

/// A write with an idempotency key.
#[derive(Clone, Debug)]
pub struct Once {
    key: String,
    writes: Vec<SeriesWrite>,
    outcome: WriteOutcome,
}

/// The effects of one operation.
pub struct Span {
    pub what: &'static str,
    pub moments: Vec<Moment>,
    /// States that a power cut may leave: from the last durable one before to the one after the operation.
    pub allowed: Vec<Arc<Shot>>,
    pub receipts: Arc<Vec<Once>>,
}

pub struct World {
    pub disk: SimDisk,
    pub store: Option<Store>,
    options: StoreOptions,
    pub rng: Rng,
    keys: Arc<Vec<SeriesKey>>,
    /// States from the last durable commit to the last one.
    shots: VecDeque<Arc<Shot>>,
    receipts: Arc<Vec<Once>>,
    names: u64,
    /// A state that a reader holds, and its contents.
    kept: Option<(Arc<StoreState>, Arc<Shot>)>,
}

fn mix(hash: u64, word: i64) -> u64 {
    (hash ^ word.cast_unsigned()).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

fn hash_of(rows: &Map) -> u64 {
    let words = rows.iter().flat_map(|(ts, cells)| std::iter::once(*ts).chain(*cells));
    words.fold(1, mix)
}

/// The number of rows that the store reads of a series, and their hash.
fn read_hash(store: &Store, series: &SeriesState) -> fastk::Result<(u64, u64)> {
    let (mut rows, mut hash) = (0, 1);
    for block in Scan::new(series, store.cache(), &ScanSpec::range((i64::MIN, i64::MAX))) {
        let block = block?;
        let columns: Vec<&[i64]> = (0..block.column_count()).map(|column| block.words(column)).collect();
        for row in 0..block.rows() {
            hash = columns.iter().fold(hash, |hash, column| mix(hash, column[row]));
        }
        rows += block.rows() as u64;
    }
    Ok((rows, hash))
}

fn bounds_of(rows: &Map) -> Option<(i64, i64)> {
    rows.first_key_value().zip(rows.last_key_value()).map(|((first, _), (last, _))| (*first, *last))
}

pub fn keys() -> Vec<SeriesKey> {
    ["A", "B", "C"].map(|symbol| SeriesKey::kline(symbol, "1m").unwrap()).to_vec()
}

fn def_of(keys: &[SeriesKey], which: usize) -> SeriesDef {
    let mut spec = SeriesSpec::of_key(&keys[which]);
    (spec.price_digits, spec.volume_digits) = (Some(2), Some(0));
    spec.partition = Some(["day", "all", "month"][which].into());
    if which == 1 {
        spec.value_index = Some(ValueIndexSpec::Columns(vec!["open".into(), "close".into()]));
    }
    spec.resolve().unwrap()
}

/// The rows in the form of the model.
fn listed(rows: &Rows) -> impl Iterator<Item = (i64, [i64; COLUMNS])> + '_ {
    rows.ts.iter().enumerate().map(|(row, ts)| (*ts, std::array::from_fn(|column| rows.columns[column].words()[row])))
}

fn merged(old: &[i64; COLUMNS], new: &[i64; COLUMNS]) -> [i64; COLUMNS] {
    [old[0], old[1].max(new[1]), old[2].min(new[2]), new[3], old[4] + new[4]]
}

fn applied(map: &mut Map, rows: &Rows, mode: WriteMode) {
    for (ts, cells) in listed(rows) {
        match map.get_mut(&ts) {
            Some(old) if matches!(mode, WriteMode::Merge { .. }) => *old = merged(old, &cells),
            _ => drop(map.insert(ts, cells)),
        }
    }
}

/// The first difference between a state and its expected contents.
fn differs(store: &Store, state: &StoreState, keys: &[SeriesKey], expectation: &AllSeries) -> Option<String> {
    if state.registered().count() != expectation.len() {
        return Some(format!("{} series, expected {}", state.registered().count(), expectation.len()));
    }
    for (which, expectation) in expectation {
        let key = &keys[*which];
        let Some(found) = state.get(key) else { return Some(format!("{key} is missing")) };
        let shown = (found.id, found.version, found.rows, found.bounds);
        let expected =
            (expectation.id, expectation.version, expectation.rows.len() as u64, bounds_of(&expectation.rows));
        if shown != expected {
            return Some(format!("{key}: id, version, rows, bounds {shown:?}, expected {expected:?}"));
        }
        if found.def != expectation.def {
            return Some(format!("{key}: registration {:?}, expected {:?}", found.def, expectation.def));
        }
        match read_hash(store, found) {
            Ok(read) if read == (expectation.rows.len() as u64, expectation.hash) => {}
            Ok((rows, _)) => return Some(format!("{key}: other cells in {rows} rows")),
            Err(error) => return Some(format!("{key}: {error}")),
        }
    }
    None
}

/// Finds the one of these states that equals all contents of an open store.
pub fn compare(
    store: &Store,
    keys: &[SeriesKey],
    allowed: &[Arc<Shot>],
    receipts: &[Once],
) -> Result<Arc<Shot>, String> {
    if let Some(rot) = store.recovery().damage.first() {
        return Err(format!("rot: {rot}"));
    }
    let state = store.snapshot();
    let Some(shot) = allowed.iter().find(|shot| shot.commit == state.commit) else {
        let commits: Vec<u64> = allowed.iter().map(|shot| shot.commit).collect();
        return Err(format!("the store is at commit {}, allowed are {commits:?}", state.commit));
    };
    if let Some(what) = differs(store, &state, keys, &shot.series) {
        return Err(format!("at commit {}: {what}", state.commit));
    }
    let snapshots = state.snapshots.iter().map(|(name, snapshot)| (name, snapshot.commit));
    if !snapshots.eq(shot.snapshots.iter().map(|(name, (commit, _))| (name, *commit))) {
        return Err(format!("snapshots {:?}, expected {:?}", state.snapshots, shot.snapshots.keys()));
    }
    for (name, (_, expectation)) in &shot.snapshots {
        let then = store.as_of(name).map_err(|error| format!("as of {name}: {error}"))?;
        if let Some(what) = differs(store, &then, keys, expectation) {
            return Err(format!("as of {name} at commit {}: {what}", state.commit));
        }
    }
    let mut found: Vec<_> = state.receipts.values().map(|receipt| &receipt.written).collect();
    found.sort_by_key(|written| written.iter().map(|written| written.commit).max());
    if !found.into_iter().eq(receipts[..shot.receipts].iter().map(|once| &once.outcome.written)) {
        return Err(format!("{} receipts, expected {}", state.receipts.len(), shot.receipts));
    }
    Ok(Arc::clone(shot))
}

impl World {
    pub fn options(rng: &mut Rng) -> StoreOptions {
        StoreOptions {
            wal_segment_bytes: [4 << 10, 8 << 10][(rng.roll() % 2) as usize],
            tail_bytes_max: [2 << 10, 16 << 10, 1 << 30][(rng.roll() % 3) as usize],
            maps_max: [1, 8_192][(rng.roll() % 2) as usize],
            chunk_bytes_max: [500, 2 << 10, 1 << 30][(rng.roll() % 3) as usize],
            tail_rows_max: [5, 20, 1 << 40][(rng.roll() % 3) as usize],
            durability: if rng.percent(85) {
                Durability::Sync
            } else if rng.percent(50) {
                Durability::Interval
            } else {
                Durability::None
            },
            background_maintenance: false,
            ..StoreOptions::default()
        }
    }

    /// A new store without recorded operations.
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let options = Self::options(&mut rng);
        Self::with(options, rng)
    }

    /// A new store with this durability.
    #[allow(dead_code, reason = "only the tests of planted faults use it")]
    pub fn under(seed: u64, durability: Durability) -> Self {
        let mut rng = Rng(seed);
        let options = StoreOptions { durability, ..Self::options(&mut rng) };
        Self::with(options, rng)
    }

    fn with(options: StoreOptions, mut rng: Rng) -> Self {
        let disk = SimDisk::new(SimState::default(), rng.roll());
        let store = Store::open_on(&disk.path(ROOT), true, options.clone()).unwrap();
        Self {
            disk,
            store: Some(store),
            options,
            rng,
            keys: Arc::new(keys()),
            shots: VecDeque::from([Arc::new(Shot::default())]),
            receipts: Arc::default(),
            names: 0,
            kept: None,
        }
    }

    /// Continues with a store that was opened on a crash image.
    pub fn adopt(disk: SimDisk, store: Store, shot: Arc<Shot>, receipts: &[Once], seed: u64) -> Self {
        Self {
            disk,
            options: store.options().clone(),
            store: Some(store),
            rng: Rng(seed),
            keys: Arc::new(keys()),
            receipts: Arc::new(receipts[..shot.receipts].to_vec()),
            names: 1_000_000 + shot.commit,
            kept: None,
            shots: VecDeque::from([shot]),
        }
    }

    pub fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    pub fn options_used(&self) -> &StoreOptions {
        &self.options
    }

    pub fn now(&self) -> &Arc<Shot> {
        self.shots.back().unwrap()
    }

    fn roll(&mut self, below: u64) -> u64 {
        self.rng.roll() % below
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len() as u64) as usize]
    }

    /// Runs operations until the manifest has about `edits` edits.
    pub fn age(&mut self, edits: u64) {
        while self.store().snapshot().edit < edits {
            self.step();
            match self.roll(4) {
                0 | 1 => drop(self.store().seal(&[]).unwrap()),
                2 => self.store().checkpoint().unwrap(),
                _ => {}
            }
        }
    }

    /// One random operation.
    pub fn step(&mut self) -> Span {
        self.disk.recorded();
        let before = self.shots.len() - 1;
        let what = self.operate();
        self.read_on();
        let moments = self.disk.recorded();
        // Unsynced commits may be lost, but only a suffix of them.
        let from = if self.options.durability == Durability::Sync { before } else { 0 };
        let allowed: Vec<Arc<Shot>> = self.shots.iter().skip(from).cloned().collect();
        if self.options.durability == Durability::Sync || matches!(what, "reopen") {
            self.shots.drain(..self.shots.len() - 1);
        }
        Span { what, moments, allowed, receipts: Arc::clone(&self.receipts) }
    }

    /// A reader that holds an older state still reads the contents of that state.
    fn read_on(&mut self) {
        if let Some((state, shot)) = &self.kept {
            if let Some(what) = differs(self.store(), state, &self.keys, &shot.series) {
                panic!("a reader at commit {}: {what}", shot.commit);
            }
            if self.rng.percent(10) {
                self.kept = None;
            }
        } else if self.rng.percent(30) {
            self.kept = Some((self.store().snapshot(), Arc::clone(self.now())));
        }
    }

    fn operate(&mut self) -> &'static str {
        if self.now().series.len() < 2 {
            return self.register();
        }
        let which = self.roll(3) as usize;
        if !self.now().series.contains_key(&which) {
            return self.register();
        }
        match self.roll(120) {
            0..30 => self.write(&[which], WriteMode::Upsert),
            30..34 => self.write(&[which], WriteMode::Insert),
            34..40 => self.write(&[which], WriteMode::Append),
            40..50 => self.write(&[which], WriteMode::Merge { first: None }),
            50..60 => {
                let all: Vec<usize> = self.now().series.keys().copied().collect();
                let mode = self.pick(&[WriteMode::Upsert, WriteMode::Merge { first: None }]);
                self.write(&all, mode)
            }
            60..68 => self.delete(which),
            68..70 => self.drop_series(which),
            70..73 => self.change(which),
            73..78 => self.create_snapshot(),
            78..81 => self.drop_snapshot(),
            81..89 => {
                let keys = if self.rng.percent(50) { vec![self.keys[which].clone()] } else { Vec::new() };
                self.store().seal(&keys).unwrap();
                "seal"
            }
            89..97 => {
                self.store().checkpoint().unwrap();
                "checkpoint"
            }
            97..103 => {
                let full = self.rng.percent(70);
                self.store().compact(&[], full).unwrap();
                "compact"
            }
            103..107 => {
                self.store().vacuum().unwrap();
                "vacuum"
            }
            107..109 => self.retain(which),
            109..111 => {
                self.store().rebuild_sidecars().unwrap();
                "rebuild"
            }
            111..115 => {
                self.repeat();
                "repeat"
            }
            _ => {
                self.reopen();
                "reopen"
            }
        }
    }

    /// The last shot with one more commit, for a change to fill in.
    fn next(&self, commit: u64) -> Shot {
        let mut next = self.now().as_ref().clone();
        assert_eq!(commit, next.commit + 1);
        next.commit = commit;
        next
    }

    fn push(&mut self, shot: Shot) {
        self.shots.push_back(Arc::new(shot));
    }

    pub fn register(&mut self) -> &'static str {
        let Some(which) = (0..3).find(|which| !self.now().series.contains_key(which)) else { return "nothing" };
        let (series, created, commit) = self.store().register(def_of(&self.keys, which)).unwrap();
        assert!(created);
        let mut next = self.next(commit);
        let rows = Map::new();
        let hash = hash_of(&rows);
        next.series
            .insert(which, Arc::new(Series { id: series.id, version: 1, def: Arc::clone(&series.def), rows, hash }));
        self.push(next);
        "register"
    }

    fn ts(&mut self) -> i64 {
        let minutes = if self.rng.percent(50) { 200 } else { 4_000 };
        (self.roll(minutes).cast_signed() - 100) * MINUTE
    }

    fn rows(&mut self) -> Rows {
        let count = self.pick(&[1, 1, 2, 5, 20, 20, 110]);
        let mut rows = Rows::empty_words(COLUMNS, count);
        let ordered = self.rng.percent(60);
        let mut ts = self.ts();
        for _ in 0..count {
            let cells: [i64; COLUMNS] = std::array::from_fn(|_| self.roll(2_000_000).cast_signed() - 1_000_000);
            rows.push(ts, &cells);
            ts = if ordered { ts + MINUTE * (1 + self.roll(2).cast_signed()) } else { self.ts() };
        }
        rows
    }

    /// The outcome of a write in the model: the error, or the new contents.
    fn model_write(&self, write: &SeriesWrite, which: usize) -> Result<Map, ErrorCode> {
        let series = &self.now().series[&which];
        let rows = &write.rows;
        // The first row that does not follow its predecessor determines the error.
        let unordered = rows
            .ts
            .windows(2)
            .find(|pair| pair[0] >= pair[1])
            .map(|pair| if pair[0] == pair[1] { ErrorCode::InvalidRows } else { ErrorCode::OutOfOrder });
        if write.mode == WriteMode::Append
            && let Some(code) = unordered
        {
            return Err(code);
        }
        match write.mode {
            WriteMode::Append if bounds_of(&series.rows).is_some_and(|(_, last)| rows.ts[0] <= last) => {
                return Err(ErrorCode::OutOfOrder);
            }
            WriteMode::Insert => {
                let mut stamps = rows.ts.clone();
                stamps.sort_unstable();
                stamps.dedup();
                if stamps.len() < rows.ts.len() {
                    return Err(ErrorCode::InvalidRows);
                }
                if stamps.iter().any(|ts| series.rows.contains_key(ts)) {
                    return Err(ErrorCode::RowsExist);
                }
            }
            _ => {}
        }
        let mut map = series.rows.clone();
        applied(&mut map, rows, write.mode);
        Ok(map)
    }

    pub fn write(&mut self, which: &[usize], mode: WriteMode) -> &'static str {
        let mut writes = Vec::new();
        for which in which {
            let mut rows = self.rows();
            if mode == WriteMode::Append && self.rng.percent(80) {
                let last = bounds_of(&self.now().series[which].rows).map_or(0, |(_, last)| last);
                rows.ts = (0..rows.ts.len()).map(|row| last + MINUTE * (1 + row as i64)).collect();
            }
            writes.push(SeriesWrite::new(self.keys[*which].clone(), rows, mode));
        }
        self.names += 1;
        let name = self.rng.percent(40).then(|| format!("key {}", self.names));
        self.write_as(which, writes, name)
    }

    fn write_as(&mut self, which: &[usize], writes: Vec<SeriesWrite>, name: Option<String>) -> &'static str {
        let maps: Result<Vec<Map>, ErrorCode> =
            writes.iter().zip(which).map(|(write, which)| self.model_write(write, *which)).collect();
        let edit = self.store().snapshot().edit;
        let outcome = self.store().write_many(writes.clone(), name.as_deref());
        let loaded = self.store().snapshot().edit > edit;
        let (maps, outcome) = match (maps, outcome) {
            (Ok(maps), Ok(outcome)) => (maps, outcome),
            (Err(code), Err(error)) if code == error.code() => return "refused write",
            (maps, outcome) => panic!("the model says {:?}, the store {outcome:?}", maps.err()),
        };
        assert!(!outcome.repeated);
        let mut next = self.next(outcome.commit);
        for ((map, which), written) in maps.into_iter().zip(which).zip(&outcome.written) {
            let old = &next.series[which];
            assert_eq!(written.version, old.version + 1);
            let def = Arc::clone(&old.def);
            let series = Series { id: old.id, version: old.version + 1, def, hash: hash_of(&map), rows: map };
            next.series.insert(*which, Arc::new(series));
        }
        if let Some(key) = name {
            Arc::make_mut(&mut self.receipts).push(Once { key, writes, outcome });
            next.receipts += 1;
        }
        self.push(next);
        match (which.len(), loaded) {
            (1, true) => "write to chunks",
            (1, false) => "write",
            _ => "write of many",
        }
    }

    pub fn delete(&mut self, which: usize) -> &'static str {
        let start = self.ts();
        let end = start + self.pick(&[0, 20, 300, 5_000]) * MINUTE;
        let deleted = self.store().delete_range(&self.keys[which], (start, end), None).unwrap();
        self.deleted(which, (start, end), deleted.rows_deleted, deleted.commit);
        "delete"
    }

    fn deleted(&mut self, which: usize, (start, end): (i64, i64), count: u64, commit: u64) {
        let old = Arc::clone(&self.now().series[&which]);
        let mut rows = old.rows.clone();
        rows.retain(|ts, _| *ts < start || *ts > end);
        assert_eq!(count, (old.rows.len() - rows.len()) as u64);
        if count > 0 {
            let mut next = self.next(commit);
            let def = Arc::clone(&old.def);
            let series = Series { id: old.id, version: old.version + 1, def, hash: hash_of(&rows), rows };
            next.series.insert(which, Arc::new(series));
            self.push(next);
        }
    }

    pub fn drop_series(&mut self, which: usize) -> &'static str {
        let dropped = self.store().drop_series(&self.keys[which], None).unwrap();
        let mut next = self.next(dropped.commit);
        next.series.remove(&which);
        self.push(next);
        "drop"
    }

    fn changed(&mut self, which: usize, change: impl Fn(&mut SeriesDef)) {
        let changed = self.store().change_series(&self.keys[which], None, |def| {
            change(def);
            Ok(())
        });
        let changed = changed.unwrap();
        let mut def = self.now().series[&which].def.as_ref().clone();
        change(&mut def);
        if def == *self.now().series[&which].def {
            // A definition that stays as it is makes no commit.
            assert_eq!(changed.version, self.now().series[&which].version);
            assert_eq!(self.store().snapshot().commit, self.now().commit);
            return;
        }
        let mut next = self.next(changed.last_commit);
        let old = &next.series[&which];
        let series =
            Series { id: old.id, version: old.version + 1, def: Arc::new(def), rows: old.rows.clone(), hash: old.hash };
        next.series.insert(which, Arc::new(series));
        self.push(next);
    }

    fn change(&mut self, which: usize) -> &'static str {
        let names: &[&str] = self.pick(&[&[], &["close"], &["open", "volume"]]);
        let text = format!("changed {}", self.names);
        self.changed(which, |def| {
            def.value_index = names.iter().map(|name| (*name).to_owned()).collect();
            def.description = Some(text.clone());
        });
        "change"
    }

    fn retain(&mut self, which: usize) -> &'static str {
        let keep = 1 + self.roll(200);
        let retention = Some(Retention { max_rows: Some(keep), max_age: None });
        if self.now().series[&which].def.retention.is_none() {
            self.changed(which, |def| def.retention.clone_from(&retention));
            return "retention set";
        }
        let series = Arc::clone(&self.now().series[&which]);
        let keep = series.def.retention.as_ref().unwrap().max_rows.unwrap() as usize;
        let cut = self.store().apply_retention(&[self.keys[which].clone()]).unwrap();
        if let Some(end) = series.rows.keys().rev().nth(keep) {
            self.deleted(which, (i64::MIN, *end), cut[0].1.rows_deleted, cut[0].1.commit);
        } else {
            assert!(cut.is_empty());
        }
        "retention"
    }

    pub fn create_snapshot(&mut self) -> &'static str {
        self.names += 1;
        let name = format!("s{}", self.names % 5);
        match self.store().create_snapshot(&name) {
            Ok(snapshot) => {
                let mut next = self.next(snapshot.commit);
                next.snapshots.insert(name, (snapshot.commit, Arc::new(next.series.clone())));
                self.push(next);
            }
            Err(error) => assert!(
                error.code() == ErrorCode::SnapshotExists && self.now().snapshots.contains_key(&name),
                "{error}"
            ),
        }
        "snapshot"
    }

    fn drop_snapshot(&mut self) -> &'static str {
        let at = self.roll(3) as usize;
        let Some(name) = self.now().snapshots.keys().nth(at).cloned() else { return "nothing" };
        let commit = self.store().drop_snapshot(&name).unwrap();
        let mut next = self.next(commit);
        next.snapshots.remove(&name);
        self.push(next);
        "drop snapshot"
    }

    /// A retry of an applied write changes nothing and returns the first result.
    pub fn repeat(&mut self) {
        let count = self.now().receipts;
        if count == 0 {
            return;
        }
        let at = self.roll(count as u64) as usize;
        let once = self.receipts[at].clone();
        let again = self.store().write_many(once.writes.clone(), Some(&once.key)).unwrap();
        assert!(again.repeated, "{} is not known", once.key);
        assert_eq!((again.written, again.commit), (once.outcome.written, once.outcome.commit));
        assert_eq!(self.store().snapshot().commit, self.now().commit);
    }

    /// Retries a write that may have been in flight at the power cut: it must be applied once.
    pub fn retry(&mut self, once: &Once) {
        if self.receipts.iter().any(|known| known.key == once.key) {
            let again = self.store().write_many(once.writes.clone(), Some(&once.key)).unwrap();
            assert!(again.repeated && again.written == once.outcome.written);
            return;
        }
        let keys = Arc::clone(&self.keys);
        let place = |write: &SeriesWrite| keys.iter().position(|key| *key == write.key).unwrap();
        let which: Vec<usize> = once.writes.iter().map(place).collect();
        if which.iter().any(|which| !self.now().series.contains_key(which)) {
            // Unsynced: the registration is lost too.
            let refused = self.store().write_many(once.writes.clone(), Some(&once.key)).unwrap_err();
            return assert_eq!(refused.code(), ErrorCode::SeriesNotFound);
        }
        self.write_as(&which, once.writes.clone(), Some(once.key.clone()));
    }

    pub fn reopen(&mut self) {
        self.kept = None;
        drop(self.store.take());
        self.store = Some(self.open());
    }

    pub fn open(&self) -> Store {
        open(&self.disk, &self.options).unwrap()
    }

    /// Compares the open store with the model.
    pub fn check(&self) -> Result<(), String> {
        compare(self.store(), &self.keys, &[Arc::clone(self.now())], &self.receipts).map(|_| ())
    }
}

/// Opens the store on a disk.
pub fn open(disk: &SimDisk, options: &StoreOptions) -> fastk::Result<Store> {
    Store::open_on(&disk.path(ROOT), true, options.clone())
}

/// Records the contents of a store, for scenarios without a model.
pub fn observe(store: &Store) -> (Arc<Shot>, Vec<Once>) {
    let keys = keys();
    let state = store.snapshot();
    let all = |state: &StoreState| -> AllSeries {
        let found = keys.iter().enumerate().filter_map(|(which, key)| Some((which, state.get(key)?)));
        let series = found.map(|(which, series)| {
            let mut rows = Map::new();
            for block in Scan::new(series, store.cache(), &ScanSpec::range((i64::MIN, i64::MAX))) {
                let block = block.unwrap();
                let cells = |row: usize| std::array::from_fn(|column| block.words(column + 1)[row]);
                rows.extend((0..block.rows()).map(|row| (block.words(0)[row], cells(row))));
            }
            let (id, version, def, hash) = (series.id, series.version, Arc::clone(&series.def), hash_of(&rows));
            (which, Arc::new(Series { id, version, def, rows, hash }))
        });
        series.collect()
    };
    let named = state
        .snapshots
        .iter()
        .map(|(name, snapshot)| (name.clone(), (snapshot.commit, Arc::new(all(&store.as_of(name).unwrap())))));
    let mut receipts: Vec<Once> = state
        .receipts
        .values()
        .map(|receipt| {
            let commit = receipt.written.iter().map(|written| written.commit).max().unwrap_or(0);
            let outcome = WriteOutcome { written: receipt.written.clone(), commit, repeated: false };
            Once { key: String::new(), writes: Vec::new(), outcome }
        })
        .collect();
    receipts.sort_by_key(|once| once.outcome.commit);
    let shot = Shot { commit: state.commit, series: all(&state), snapshots: named.collect(), receipts: receipts.len() };
    (Arc::new(shot), receipts)
}

/// Registers all series.
pub fn register_all(store: &Store) {
    let keys = keys();
    (0..keys.len()).for_each(|which| drop(store.register(def_of(&keys, which)).unwrap()));
}

/// `count` minutes from `first` on, every cell derived from its timestamp and `salt`.
pub fn minutes(first: i64, count: i64, salt: i64) -> Rows {
    let ts: Vec<i64> = (first..first + count).map(|minute| minute * MINUTE).collect();
    let column = |column: i64| ts.iter().map(|ts| ts / MINUTE * 10 + column + salt).collect();
    {
        let columns = (0..COLUMNS as i64).map(column).collect();
        Rows::of_words(ts, columns)
    }
}
