//! Pages of series whose rows share timestamps: together they are the result without a limit, and no page ends between
//! rows of one timestamp of a series unless the query allows it.

use fastk::query::{
    LimitTies, MultiLayout, NumberFormat, Operator, PagePosition, Predicate, Query, RowOrder, RowSubject, StoreReader,
};
use fastk::store::{Store, StoreOptions, WriteMode};
use fastk::types::{Column, ColumnType, OrderRule, Partition, Rows, SeriesDef, SeriesKey, SeriesSpec};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::case_amount::amount;

/// Series, timestamp and a number that no other row has.
type Row = (usize, i64, i64);

struct Ticks {
    rng: StdRng,
    store: Store,
    keys: Vec<SeriesKey>,
    rows: Vec<Row>,
    /// Rows written.
    written: i64,
    _root: tempfile::TempDir,
}

impl Ticks {
    fn new(seed: u64) -> Self {
        let root = tempfile::tempdir().unwrap();
        let options = StoreOptions { background_maintenance: false, ..StoreOptions::default() };
        let store = Store::open(root.path(), true, options).unwrap();
        let orders = [OrderRule::Arrival, OrderRule::Unique(vec!["number".into()]), OrderRule::default()];
        let mut keys = Vec::new();
        for (position, order) in orders.into_iter().enumerate() {
            let key = SeriesKey::parse(&format!("scalar/c/S{position}/tick/n")).unwrap();
            let spec = SeriesSpec::of_key(&key).resolve().unwrap();
            let column = Column { name: "number".into(), kind: ColumnType::Int64, ..spec.columns[0].clone() };
            let (columns, partition) = (vec![column], Partition::Hour);
            store.register(SeriesDef { order, columns, partition, interval_ms: None, ..spec }).unwrap();
            keys.push(key);
        }
        Self { rng: StdRng::seed_from_u64(seed), store, keys, rows: Vec::new(), written: 0, _root: root }
    }

    /// Rows in several commits, some of them sealed, and late ones.
    fn fill(&mut self) {
        for _ in 0..self.rng.random_range(1..12) {
            let series = self.rng.random_range(0..self.keys.len());
            let count = [1, 3, 30, 700][self.rng.random_range(0..4)];
            let mut ts = self.rng.random_range(0..12) * 900_000;
            let (mut times, mut numbers) = (Vec::new(), Vec::new());
            for _ in 0..count {
                if self.rng.random_bool(0.1) {
                    ts += self.rng.random_range(0..900_000);
                }
                if series == 2 {
                    ts += i64::from(times.last() == Some(&ts));
                    self.rows.retain(|row| (row.0, row.1) != (series, ts));
                }
                self.written += 1;
                // Ascending by arrival, but for the series whose rows are in the order of the number.
                let number = if series == 1 { self.written * 7_919 % 1_000_003 } else { self.written };
                self.rows.push((series, ts, number));
                times.push(ts);
                numbers.push(number);
            }
            let rows = Rows::of_words(times, vec![numbers]);
            self.store.write(&self.keys[series], rows, WriteMode::Upsert, None).unwrap();
            match self.rng.random_range(0..4) {
                0 => drop(self.store.seal(&[]).unwrap()),
                1 => drop(self.store.compact(&[], true).unwrap()),
                _ => {}
            }
        }
    }

    fn random_query(&mut self) -> (Query, Vec<usize>) {
        let several = self.rng.random_bool(0.6);
        let only = self.rng.random_range(0..self.keys.len());
        let selected = if several { (0..self.keys.len()).collect() } else { vec![only] };
        let series = if several { vec!["scalar/c/*/tick/n".into()] } else { vec![self.keys[only].to_string()] };
        let order = if self.rng.random_bool(0.5) { RowOrder::Asc } else { RowOrder::Desc };
        let layout = if self.rng.random_bool(0.5) { MultiLayout::ByTime } else { MultiLayout::BySeries };
        let mut query = Query { series, order, layout: Some(layout), ..Query::default() };
        if self.rng.random_bool(0.3) {
            let value = serde_json::json!(self.rng.random_range(0..2_000));
            query.predicates = Some(vec![
                serde_json::from_value(serde_json::json!({"column": "number", "op": "gt", "value": value})).unwrap(),
            ]);
        }
        (query, selected)
    }
}

/// The rows of a query up to its limit, and where it continues.
fn read(
    reader: &StoreReader,
    query: &Query,
    selected: &[usize],
    from: Option<PagePosition>,
) -> (Vec<Row>, Option<PagePosition>) {
    let mut plan = reader.plan(query).unwrap();
    if let Some(position) = from {
        assert!(plan.resume(position));
    }
    let (bounds, count, is_single) =
        (plan.row_bounds(), plan.count_rows().unwrap(), plan.subject() == RowSubject::Series);
    let mut scan = plan.scan();
    let mut rows = Vec::new();
    for block in scan.by_ref() {
        let block = block.unwrap();
        for row in 0..block.rows() {
            let series = if is_single { selected[0] } else { block.series_of(row) };
            rows.push((series, block.timestamps()[row], block.words(1)[row]));
        }
    }
    assert!(bounds.contains(&(rows.len() as u64)), "{} rows outside {bounds:?}", rows.len());
    assert!(count.is_none_or(|count| count == rows.len() as u64), "{} rows, not {count:?}", rows.len());
    (rows, scan.next_position())
}

fn expected(rows: &[Row], query: &Query, selected: &[usize]) -> Vec<Row> {
    let bound = query.predicates.as_ref().map(|predicates| {
        let text = predicates[0].to_text();
        text.rsplit(':').next().unwrap().parse::<i64>().unwrap()
    });
    let mut rows: Vec<Row> = rows
        .iter()
        .filter(|row| selected.contains(&row.0) && bound.is_none_or(|bound| row.2 > bound))
        .copied()
        .collect();
    let descending = query.order == RowOrder::Desc;
    let by_time = query.layout == Some(MultiLayout::ByTime);
    rows.sort_by_key(|&(series, ts, number)| {
        let (ts, number) = if descending { (-ts, -number) } else { (ts, number) };
        if by_time { (ts, series as i64, number) } else { (series as i64, ts, number) }
    });
    rows
}

#[test]
fn pages_of_equal_timestamps_are_the_whole_result_and_split_them_only_when_told() {
    for seed in 0..amount("FASTK_PAGES_CASES", 40) {
        let mut ticks = Ticks::new(seed);
        ticks.fill();
        let reader = ticks.store.reader();
        for _ in 0..12 {
            let (mut query, selected) = ticks.random_query();
            let whole = expected(&ticks.rows, &query, &selected);
            assert_eq!(read(&reader, &query, &selected, None), (whole.clone(), None), "seed {seed}, {query:?}");
            let (mut found, mut position): (Vec<Row>, _) = (Vec::new(), None);
            loop {
                let limit = [1, 2, 5, 100, 5_000][ticks.rng.random_range(0..5)];
                query.limit = Some(limit);
                query.ties = if ticks.rng.random_bool(0.5) { LimitTies::Split } else { LimitTies::Whole };
                let (page, next) = read(&reader, &query, &selected, position);
                found.extend(&page);
                let last = |rows: &[Row]| rows.last().map(|row| (row.0, row.1));
                if next.is_some() {
                    let following = whole.get(found.len()).map(|row| (row.0, row.1));
                    let tied = page.iter().rev().take_while(|row| Some((row.0, row.1)) == last(&page)).count() as u64;
                    match query.ties {
                        LimitTies::Split => assert_eq!(page.len() as u64, limit, "seed {seed}, {query:?}"),
                        LimitTies::Whole => {
                            assert_ne!(following, last(&page), "seed {seed}, {query:?}");
                            let rows = page.len() as u64;
                            assert!(rows >= limit && rows - tied < limit, "seed {seed}: {rows} rows for {query:?}");
                        }
                    }
                }
                position = next;
                if position.is_none() {
                    break;
                }
            }
            assert_eq!(found, whole, "seed {seed}, {query:?}");
        }
    }
}

#[test]
fn the_last_rows_of_a_series_include_all_of_their_first_timestamp() {
    let mut ticks = Ticks::new(7);
    let rows = Rows::of_words(vec![1, 1, 2, 2, 2, 3], vec![(0..6).collect()]);
    ticks.store.write(&ticks.keys[0], rows, WriteMode::Upsert, None).unwrap();
    let (reader, selected) = (ticks.store.reader(), [0]);
    let query = Query { latest: Some(2), ..Query::of(&ticks.keys[0]) };
    assert_eq!(read(&reader, &query, &selected, None).0.len(), 4);
    let filter: Predicate = serde_json::from_str(r#"{"column":"number","op":"lte","value":4}"#).unwrap();
    assert_eq!((filter.op, query.numbers), (Operator::Lte, NumberFormat::Stored));
    let query = Query { latest: Some(2), predicates: Some(vec![filter]), ..query };
    assert_eq!(read(&reader, &query, &selected, None).0.len(), 3);
    ticks.rows.clear();
}
