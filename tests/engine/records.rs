//! Series of any order rule and any column types against a plain list of rows: writes, deletes, maintenance, changes of
//! columns, snapshots, killed processes and rebuilt manifests in random order.

use std::cmp::Ordering;
use std::path::Path;

use fastk::disk::DiskPath;
use fastk::query::{Scan, ScanSpec};
use fastk::store::{RepairOptions, Store, StoreOptions, StoreState, TaskControl, WriteMode, repair};
use fastk::types::{
    CellSlice, Column, ColumnCells, ColumnType, Dictionary, OrderRule, Partition, Rows, SeriesDef, SeriesKey,
    SeriesSpec, TimeUnit,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::case_amount::amount;

/// One cell as the plain list has it.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    Null,
    /// An integer, and the digits after the decimal point.
    Number(i128, u8),
    Float(f64),
    Text(String),
    Bytes(Vec<u8>),
}

/// One row as the plain list has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub ts: i64,
    pub cells: Vec<Cell>,
}

/// The rows of one series, in the order of their arrival.
#[derive(Clone, Debug)]
struct Oracle {
    order: OrderRule,
    columns: Vec<Column>,
    rows: Vec<Row>,
}

impl Oracle {
    fn key_of(&self, row: &Row) -> Vec<i128> {
        let OrderRule::Unique(names) = &self.order else { return Vec::new() };
        let column = |name: &String| self.columns.iter().position(|column| column.name == *name).unwrap();
        let number = |name: &String| match row.cells[column(name)] {
            Cell::Number(number, _) => number,
            ref other => panic!("a key of {other:?}"),
        };
        names.iter().map(number).collect()
    }

    fn add(&mut self, row: Row) {
        if self.order != OrderRule::Arrival {
            let key = self.key_of(&row);
            let same: Vec<bool> = self.rows.iter().map(|old| old.ts == row.ts && self.key_of(old) == key).collect();
            let mut same = same.into_iter();
            self.rows.retain(|_| !same.next().unwrap());
        }
        self.rows.push(row);
    }

    /// The rows in the order of the series, under the columns as they are now.
    fn listed(&self) -> Vec<Row> {
        let mut rows = self.rows.clone();
        rows.sort_by(|a, b| a.ts.cmp(&b.ts).then_with(|| self.key_of(a).cmp(&self.key_of(b))));
        for row in &mut rows {
            row.cells.resize(self.columns.len(), Cell::Null);
            for (cell, column) in row.cells.iter_mut().zip(&self.columns) {
                *cell = widened(cell, column.kind);
            }
        }
        rows
    }
}

fn widened(cell: &Cell, kind: ColumnType) -> Cell {
    match (cell, kind) {
        (Cell::Number(raw, from), ColumnType::Decimal { digits } | ColumnType::WideDecimal { digits }) => {
            Cell::Number(raw * 10_i128.pow(u32::from(digits - from)), digits)
        }
        (other, _) => other.clone(),
    }
}

const TYPES: [ColumnType; 17] = [
    ColumnType::Decimal { digits: 2 },
    ColumnType::WideDecimal { digits: 4 },
    ColumnType::Float64,
    ColumnType::Float32,
    ColumnType::Int64,
    ColumnType::Int32,
    ColumnType::Int16,
    ColumnType::Int8,
    ColumnType::UInt64,
    ColumnType::UInt32,
    ColumnType::UInt16,
    ColumnType::UInt8,
    ColumnType::Bool,
    ColumnType::Timestamp { unit: TimeUnit::Ns },
    ColumnType::Enum,
    ColumnType::Text,
    ColumnType::Bytes { length: 5 },
];

/// A column of every type, every second of them nullable, and texts that can be null.
pub fn columns_of_every_type() -> Vec<Column> {
    let column = |(number, kind): (usize, &ColumnType)| {
        let values = if *kind == ColumnType::Enum { vec!["buy".into(), "sell".into()] } else { Vec::new() };
        Column { nullable: number % 2 == 1, values, ..Column::new(format!("c{number}"), *kind) }
    };
    let mut columns: Vec<Column> = TYPES.iter().enumerate().map(column).collect();
    columns.push(Column { nullable: true, ..Column::new("note", ColumnType::Text) });
    columns
}

fn random_column(rng: &mut StdRng, name: String, nullable: bool) -> Column {
    let kind = TYPES[rng.random_range(0..TYPES.len())];
    let values = if kind == ColumnType::Enum { vec!["buy".into(), "sell".into()] } else { Vec::new() };
    Column { nullable, values, ..Column::new(name, kind) }
}

fn random_def(rng: &mut StdRng, key: &SeriesKey) -> SeriesDef {
    let order = match rng.random_range(0..3) {
        0 => OrderRule::Unique(Vec::new()),
        1 => OrderRule::Unique(vec!["seq".into()]),
        _ => OrderRule::Arrival,
    };
    let mut columns = vec![Column::new("seq", ColumnType::UInt32)];
    for number in 0..rng.random_range(1..7) {
        let nullable = rng.random_bool(0.5);
        columns.push(random_column(rng, format!("c{number}"), nullable));
    }
    let partition = [Partition::Day, Partition::All][rng.random_range(0..2)];
    SeriesDef { order, columns, partition, interval_ms: None, ..SeriesSpec::of_key(key).resolve().unwrap() }
}

pub fn random_cell(rng: &mut StdRng, column: &Column) -> Cell {
    if column.nullable && rng.random_bool(0.3) {
        return Cell::Null;
    }
    let mut number = |low: i64, high: i64| Cell::Number(rng.random_range(low..=high).into(), 0);
    match column.kind {
        ColumnType::Decimal { digits } => Cell::Number(rng.random_range(-1_000_000_i128..1_000_000), digits),
        ColumnType::WideDecimal { digits } => Cell::Number(rng.random_range(-10_i128.pow(30)..10_i128.pow(30)), digits),
        ColumnType::Float64 => Cell::Float(rng.random_range(-1e9..1e9)),
        ColumnType::Float32 => Cell::Float(f64::from(rng.random_range(-1e3_f32..1e3))),
        ColumnType::Int64 => number(i64::MIN, i64::MAX),
        ColumnType::Int32 => number(i32::MIN.into(), i32::MAX.into()),
        ColumnType::Int16 => number(i16::MIN.into(), i16::MAX.into()),
        ColumnType::Int8 => number(i8::MIN.into(), i8::MAX.into()),
        ColumnType::UInt64 => Cell::Number(rng.random_range(0..=u64::MAX).into(), 0),
        ColumnType::UInt32 => number(0, u32::MAX.into()),
        ColumnType::UInt16 => number(0, u16::MAX.into()),
        ColumnType::UInt8 => number(0, u8::MAX.into()),
        ColumnType::Bool => number(0, 1),
        ColumnType::Timestamp { .. } => number(0, i64::MAX),
        ColumnType::Enum => Cell::Text(column.values[rng.random_range(0..column.values.len())].clone()),
        ColumnType::Text => Cell::Text(format!("text {}", rng.random_range(0..40))),
        ColumnType::Bytes { length } => Cell::Bytes((0..length).map(|_| rng.random_range(0..=255)).collect()),
    }
}

fn push(cells: &mut ColumnCells, texts: &mut Dictionary, cell: &Cell, column: &Column) {
    let number = match cell {
        Cell::Null => return cells.push_null(),
        Cell::Number(number, _) => *number,
        Cell::Float(value) if column.kind == ColumnType::Float32 => return cells.push(*value as f32),
        Cell::Float(value) => return cells.push(*value),
        Cell::Text(text) if column.kind == ColumnType::Text => return cells.push(texts.insert(text).unwrap()),
        Cell::Text(text) => {
            let position = column.values.iter().position(|value| value == text).unwrap();
            return cells.push(u8::try_from(position).unwrap());
        }
        Cell::Bytes(bytes) => {
            let one = ColumnCells::from_bytes(column.kind.layout(), bytes, None).unwrap();
            return cells.extend(one.as_slice());
        }
    };
    match column.kind {
        ColumnType::Decimal { .. } | ColumnType::Int64 | ColumnType::Timestamp { .. } => cells.push(number as i64),
        ColumnType::WideDecimal { .. } => cells.push(number),
        ColumnType::Int32 => cells.push(number as i32),
        ColumnType::Int16 => cells.push(number as i16),
        ColumnType::Int8 => cells.push(number as i8),
        ColumnType::UInt64 => cells.push(number as u64),
        ColumnType::UInt32 => cells.push(number as u32),
        ColumnType::UInt16 => cells.push(number as u16),
        ColumnType::UInt8 => cells.push(number as u8),
        ColumnType::Bool => cells.extend(ColumnCells::flags([number == 1]).as_slice()),
        other => panic!("a number of {other:?}"),
    }
}

pub fn rows_of(columns: &[Column], rows: &[Row]) -> Rows {
    let mut out = Rows::with_capacity(columns, rows.len());
    out.texts = vec![Dictionary::default(); columns.len()];
    for row in rows {
        out.ts.push(row.ts);
        for (position, column) in columns.iter().enumerate() {
            push(&mut out.columns[position], &mut out.texts[position], &row.cells[position], column);
        }
    }
    out
}

fn cell_of(cells: CellSlice<'_>, row: usize, column: &Column, texts: &Dictionary) -> Cell {
    if !cells.is_valid(row) {
        return Cell::Null;
    }
    match column.kind {
        ColumnType::Decimal { digits } => Cell::Number(cells.words()[row].into(), digits),
        ColumnType::WideDecimal { digits } => Cell::Number(cells.typed::<i128>()[row], digits),
        ColumnType::Float64 => Cell::Float(cells.typed::<f64>()[row]),
        ColumnType::Float32 => Cell::Float(f64::from(cells.typed::<f32>()[row])),
        ColumnType::Int64 | ColumnType::Timestamp { .. } => Cell::Number(cells.words()[row].into(), 0),
        ColumnType::Int32 => Cell::Number(cells.typed::<i32>()[row].into(), 0),
        ColumnType::Int16 => Cell::Number(cells.typed::<i16>()[row].into(), 0),
        ColumnType::Int8 => Cell::Number(cells.typed::<i8>()[row].into(), 0),
        ColumnType::UInt64 => Cell::Number(cells.typed::<u64>()[row].into(), 0),
        ColumnType::UInt32 => Cell::Number(cells.typed::<u32>()[row].into(), 0),
        ColumnType::UInt16 => Cell::Number(cells.typed::<u16>()[row].into(), 0),
        ColumnType::UInt8 => Cell::Number(cells.typed::<u8>()[row].into(), 0),
        ColumnType::Bool => Cell::Number(cells.flag(row).into(), 0),
        ColumnType::Enum => Cell::Text(column.values[usize::from(cells.typed::<u8>()[row])].clone()),
        ColumnType::Text => Cell::Text(texts.get(cells.typed::<u32>()[row]).unwrap().to_string()),
        ColumnType::Bytes { .. } => Cell::Bytes(cells.slice(row, 1).plain().unwrap().to_vec()),
    }
}

/// The stored rows of a range.
fn stored(store: &Store, state: &StoreState, key: &SeriesKey, range: (i64, i64), desc: bool) -> Vec<Row> {
    read(store, state, key, range, desc).unwrap()
}

/// The stored rows of a range, or the error of their read.
pub fn read(
    store: &Store,
    state: &StoreState,
    key: &SeriesKey,
    range: (i64, i64),
    desc: bool,
) -> fastk::Result<Vec<Row>> {
    let series = state.get(key).unwrap();
    let spec = ScanSpec { desc, ..ScanSpec::range(range) };
    let mut rows = Vec::new();
    for block in Scan::new(series, store.cache(), &spec) {
        let block = block?;
        for row in 0..block.rows() {
            let cell = |(position, column): (usize, &Column)| {
                cell_of(block.column(position + 1), row, column, &series.dictionaries[position])
            };
            let cells = series.def.columns.iter().enumerate().map(cell).collect();
            rows.push(Row { ts: block.timestamps()[row], cells });
        }
    }
    Ok(rows)
}

struct Model {
    rng: StdRng,
    options: StoreOptions,
    root: tempfile::TempDir,
    store: Option<Store>,
    keys: Vec<SeriesKey>,
    oracles: Vec<Oracle>,
    snapshots: Vec<(String, Vec<Oracle>)>,
}

/// Mostly with chunks so small that partitions are cut all the time; loads happen in a third of the cases.
fn options(rng: &mut StdRng) -> StoreOptions {
    StoreOptions {
        background_maintenance: false,
        tail_rows_max: [u64::MAX, u64::MAX, 200][rng.random_range(0..3)],
        chunk_bytes_max: [1 << 30, 20 << 10, 4 << 10, 1 << 10, 1][rng.random_range(0..5)],
        wal_segment_bytes: 64 << 10,
        ..StoreOptions::default()
    }
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let root = tempfile::tempdir().unwrap();
        let options = options(&mut rng);
        let store = Store::open(root.path(), true, options.clone()).unwrap();
        let (mut keys, mut oracles) = (Vec::new(), Vec::new());
        for number in 0..2 {
            let key = SeriesKey::parse(&format!("scalar/c/S{number}/tick/n")).unwrap();
            let def = random_def(&mut rng, &key);
            oracles.push(Oracle { order: def.order.clone(), columns: def.columns.clone(), rows: Vec::new() });
            store.register(def).unwrap();
            keys.push(key);
        }
        Self { rng, options, root, store: Some(store), keys, oracles, snapshots: Vec::new() }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn random_ts(&mut self) -> i64 {
        self.rng.random_range(0..60) * 4_000_000
    }

    fn write(&mut self, which: usize) {
        let count = [1, 2, 7, 40, 300][self.rng.random_range(0..5)];
        let in_order = self.rng.random_bool(0.5);
        let last = self.oracles[which].rows.iter().map(|row| row.ts).max().unwrap_or(0);
        let mut ts = if in_order { last } else { self.random_ts() };
        let mut rows = Vec::new();
        for _ in 0..count {
            // Most rows have the timestamp of the row before.
            if self.rng.random_bool(0.3) {
                ts = if in_order { ts + self.rng.random_range(1..3) } else { self.random_ts() };
            }
            let columns = self.oracles[which].columns.clone();
            let mut cells: Vec<Cell> = columns.iter().map(|column| random_cell(&mut self.rng, column)).collect();
            cells[0] = Cell::Number(self.rng.random_range(0..5), 0);
            rows.push(Row { ts, cells });
        }
        let oracle = &mut self.oracles[which];
        let new = rows_of(&oracle.columns, &rows);
        let before = oracle.listed().len();
        let (written, mode) = (rows.len(), WriteMode::Upsert);
        rows.into_iter().for_each(|row| oracle.add(row));
        let added = (oracle.rows.len() - before) as u64;
        let outcome = self.store().write(&self.keys[which], new, mode, None).unwrap();
        assert_eq!(outcome.rows_written - outcome.rows_replaced, added, "{outcome:?} of {written}");
        assert_eq!(outcome.rows_written + outcome.rows_duplicate, written as u64);
    }

    fn delete(&mut self, which: usize) {
        let (a, b) = (self.random_ts(), self.random_ts());
        let range = (a.min(b), a.max(b));
        let before = self.oracles[which].rows.len();
        self.oracles[which].rows.retain(|row| row.ts < range.0 || row.ts > range.1);
        let outcome = self.store().delete_range(&self.keys[which], range, None).unwrap();
        assert_eq!(outcome.rows_deleted, (before - self.oracles[which].rows.len()) as u64);
    }

    /// Adds a column, widens one, or adds a value to an enum.
    fn evolve(&mut self, which: usize) {
        let mut columns = self.oracles[which].columns.clone();
        let at = self.rng.random_range(1..columns.len());
        if self.rng.random_bool(0.3) && columns.len() < 12 {
            let name = format!("c{}", columns.len() + 10);
            columns.push(random_column(&mut self.rng, name, true));
        } else {
            let column = &mut columns[at];
            column.kind = match column.kind {
                ColumnType::Decimal { digits } if digits < 8 => ColumnType::Decimal { digits: digits + 1 },
                ColumnType::Decimal { digits } => ColumnType::WideDecimal { digits },
                ColumnType::WideDecimal { digits } if digits < 7 => ColumnType::WideDecimal { digits: digits + 1 },
                ColumnType::Int8 => ColumnType::Int32,
                ColumnType::Int16 | ColumnType::Int32 => ColumnType::Int64,
                ColumnType::UInt8 => ColumnType::UInt16,
                ColumnType::UInt16 => ColumnType::UInt32,
                ColumnType::UInt32 => ColumnType::UInt64,
                ColumnType::Float32 => ColumnType::Float64,
                other => other,
            };
            if column.kind == ColumnType::Enum && column.values.len() < 9 {
                column.values.push(format!("value {}", column.values.len()));
            }
        }
        if columns == self.oracles[which].columns {
            return;
        }
        self.oracles[which].columns = columns.clone();
        let change = |def: &mut SeriesDef| {
            def.columns = columns;
            def.schema_version += 1;
            Ok(())
        };
        self.store().change_series(&self.keys[which], None, change).unwrap();
    }

    /// Continues with a copy of the files, as after `kill -9`.
    fn kill(&mut self) {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(self.root.path(), copy.path());
        self.store = None;
        self.root = copy;
        self.store = Some(Store::open(self.root.path(), false, self.options.clone()).unwrap());
        let recovery = self.store().recovery();
        assert!(recovery.damage.is_empty() && recovery.lost_commits.is_empty(), "{recovery:?}");
    }

    fn rebuild(&mut self) {
        self.store = None;
        // Snapshots without rows of their own are known to the manifest alone.
        self.snapshots.clear();
        let root: &Path = self.root.path();
        let report = repair(&DiskPath::os(root), RepairOptions { apply: true, rebuild_manifest: true }).unwrap();
        assert!(report.lost.is_empty(), "{report:?}");
        self.store = Some(Store::open(root, false, self.options.clone()).unwrap());
        for (name, _) in self.store().snapshots() {
            self.store().drop_snapshot(&name).unwrap();
        }
        // A series without rows may be known to the manifest alone.
        for (key, oracle) in self.keys.iter().zip(&self.oracles) {
            if self.store().snapshot().get(key).is_none() {
                assert!(oracle.rows.is_empty(), "{key} is gone");
                let spec = SeriesSpec::of_key(key).resolve().unwrap();
                let (order, columns) = (oracle.order.clone(), oracle.columns.clone());
                let def = SeriesDef { order, columns, partition: Partition::Day, interval_ms: None, ..spec };
                self.store().register(def).unwrap();
            }
        }
    }

    fn step(&mut self) {
        let which = self.rng.random_range(0..self.keys.len());
        match self.rng.random_range(0..100) {
            0..45 => self.write(which),
            45..55 => self.delete(which),
            55..65 => self.evolve(which),
            65..75 => drop(self.store().seal(&[]).unwrap()),
            75..80 => self.store().checkpoint().unwrap(),
            80..86 => drop(self.store().compact(&[], self.seed_bool()).unwrap()),
            86..91 => self.kill(),
            91..93 => self.rebuild(),
            93..98 if self.snapshots.len() < 4 => {
                let name = format!("s{}", self.rng.random_range(0..1_000_000));
                self.store().create_snapshot(&name).unwrap();
                self.snapshots.push((name, self.oracles.clone()));
            }
            _ => {
                if let Some((name, _)) = self.snapshots.pop() {
                    self.store().drop_snapshot(&name).unwrap();
                }
            }
        }
    }

    fn seed_bool(&self) -> bool {
        self.snapshots.len().is_multiple_of(2)
    }

    fn check(&mut self) {
        let state = self.store().snapshot();
        for which in 0..self.keys.len() {
            let expected = self.oracles[which].listed();
            let key = &self.keys[which];
            let series = state.get(key).unwrap();
            assert_eq!(series.rows, expected.len() as u64, "rows of {:?}", series.def.order);
            let found = stored(self.store(), &state, key, (i64::MIN, i64::MAX), false);
            assert_same(&found, &expected, &series.def);
            let mut reversed = stored(self.store(), &state, key, (i64::MIN, i64::MAX), true);
            reversed.reverse();
            assert_same(&reversed, &expected, &series.def);
            let (a, b) = (self.random_ts(), self.random_ts());
            let range = (a.min(b), a.max(b));
            let within: Vec<Row> =
                expected.iter().filter(|row| range.0 <= row.ts && row.ts <= range.1).cloned().collect();
            let key = &self.keys[which];
            assert_same(&stored(self.store(), &state, key, range, false), &within, &series.def);
            assert_eq!(self.store().count_range(key, range).unwrap(), within.len() as u64);
        }
        for (name, oracles) in &self.snapshots {
            let view = self.store().as_of(name).unwrap();
            for (key, oracle) in self.keys.iter().zip(oracles) {
                let series = view.get(key).unwrap();
                assert_eq!(series.def.columns, oracle.columns, "columns of {name}");
                let found = stored(self.store(), &view, key, (i64::MIN, i64::MAX), false);
                assert_same(&found, &oracle.listed(), &series.def);
            }
        }
    }
}

fn assert_same(found: &[Row], expected: &[Row], def: &SeriesDef) {
    let differs = found.iter().zip(expected).position(|(found, expected)| found != expected);
    let at = differs.unwrap_or(found.len().min(expected.len()));
    assert!(
        found.len().cmp(&expected.len()) == Ordering::Equal && differs.is_none(),
        "{} rows, expected {}; row {at} is {:?}, expected {:?}; {:?} {:?}",
        found.len(),
        expected.len(),
        found.get(at),
        expected.get(at),
        def.order,
        def.columns
    );
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

pub fn run_case(seed: u64, steps: u64) {
    let mut model = Model::new(seed);
    for _ in 0..steps {
        model.step();
        model.check();
    }
    let report = model.store().verify(&TaskControl::default()).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
}

/// Cases at 100 percent.
const CASES: f64 = 1_000.0;

#[test]
fn records_of_any_kind_equal_a_plain_list() {
    let steps = amount("FASTK_RECORDS_STEPS", 40);
    if let Ok(seed) = std::env::var("FASTK_RECORDS_SEED") {
        return run_case(seed.parse().unwrap(), steps);
    }
    let share = (CASES * crate::proof_amount::percent() / 100.0).ceil() as u64;
    let cases = amount("FASTK_RECORDS_CASES", share.max(30));
    for seed in 0..cases {
        if let Err(cause) = std::panic::catch_unwind(|| run_case(seed, steps)) {
            eprintln!(
                "replay: FASTK_RECORDS_SEED={seed} FASTK_RECORDS_STEPS={steps} cargo test --no-default-features --test engine records_of"
            );
            std::panic::resume_unwind(cause);
        }
    }
    println!("proof records: {cases} cases of {steps} steps");
}
