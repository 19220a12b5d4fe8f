//! Panels compared with a naive join of the rows of each series, over random series with gaps, late rows and seals.

use std::collections::{BTreeMap, BTreeSet};

use fastk::error::ErrorCode;
use fastk::query::{PagePosition, Query, RowOrder, StoreReader};
use fastk::store::{Store, StoreOptions, WriteMode};
use fastk::types::{OrderRule, Rows, SeriesDef, SeriesKey, SeriesSpec};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;

use crate::case_amount::amount;

const MINUTE: i64 = 60_000;
/// A Monday.
const FIRST: i64 = 1_704_067_200_000;

/// Key, interval, and the prefix of its columns in a panel of all.
const SERIES: [(&str, i64, &str); 6] = [
    ("kline/AAA/1m", MINUTE, "AAA.1m"),
    ("kline/BBB/1m", MINUTE, "BBB"),
    ("kline/AAA/5m", 5 * MINUTE, "AAA.5m"),
    ("scalar/feature/AAA/1h/rsi", 60 * MINUTE, "AAA.rsi"),
    ("scalar/feature/BBB/1m/vol", MINUTE, "BBB.vol"),
    ("scalar/news/AAA/tick/score", 0, "AAA.score"),
];

/// Rows of a series or panel: timestamp and cells.
type Table = Vec<(i64, Vec<Option<i64>>)>;

struct Market {
    rng: StdRng,
    store: Store,
    _root: tempfile::TempDir,
}

impl Market {
    fn new(seed: u64) -> Self {
        let root = tempfile::tempdir().unwrap();
        let options = StoreOptions { background_maintenance: false, ..StoreOptions::default() };
        let store = Store::open(root.path(), true, options).unwrap();
        for (key, ..) in SERIES {
            let key = SeriesKey::parse(key).unwrap();
            store.register(SeriesSpec::of_key(&key).resolve().unwrap()).unwrap();
        }
        Self { rng: StdRng::seed_from_u64(seed), store, _root: root }
    }

    /// Rows in several commits, some of them sealed, some on the times of others.
    fn fill(&mut self) {
        for _ in 0..self.rng.random_range(4..24) {
            let (key, interval, _) = SERIES[self.rng.random_range(0..SERIES.len())];
            let key = SeriesKey::parse(key).unwrap();
            let step = interval.max(7_919);
            let count = [1, 5, 60, 900][self.rng.random_range(0..4)];
            let mut ts = FIRST + self.rng.random_range(0..48) * 60 * MINUTE;
            let mut times = Vec::new();
            for _ in 0..count {
                times.push(ts);
                ts += step * if self.rng.random_bool(0.1) { self.rng.random_range(1..90) } else { 1 };
            }
            let columns = SeriesSpec::of_key(&key).resolve().unwrap().columns.len();
            let mut cells: Vec<Vec<i64>> = Vec::new();
            for _ in 0..columns {
                cells.push(times.iter().map(|_| self.rng.random_range(0..1_000_000)).collect());
            }
            let rows = Rows::of_words(times, cells);
            self.store.write(&key, rows, WriteMode::Upsert, None).unwrap();
            match self.rng.random_range(0..5) {
                0 => drop(self.store.seal(&[]).unwrap()),
                1 => drop(self.store.compact(&[], true).unwrap()),
                _ => {}
            }
        }
    }
}

/// The rows of a plan up to its limit, and where it continues.
fn read(reader: &StoreReader, query: &Query, from: Option<PagePosition>) -> (Table, Option<PagePosition>) {
    let mut plan = reader.plan(query).unwrap();
    if let Some(position) = from {
        assert!(plan.resume(position), "{position:?}");
    }
    let bounds = plan.row_bounds();
    assert!(plan.is_ordered_by_time());
    let mut scan = plan.scan();
    let mut table = Table::new();
    for block in scan.by_ref() {
        let block = block.unwrap();
        for row in 0..block.rows() {
            let cell = |column: usize| {
                let cells = block.column(column);
                cells.is_valid(row).then(|| cells.words()[row])
            };
            table.push((block.timestamps()[row], (1..block.column_count()).map(cell).collect()));
        }
    }
    assert!(bounds.contains(&(table.len() as u64)), "{} rows outside {bounds:?}", table.len());
    (table, scan.next_position())
}

fn query(fields: serde_json::Value) -> Query {
    serde_json::from_value(fields).unwrap()
}

/// The join of the rows of each series, and when each becomes known after its timestamp.
fn join(tables: &[(Table, i64)], widths: &[usize], tolerance: Option<i64>, range: (i64, i64)) -> Table {
    let maps: Vec<BTreeMap<i64, &Vec<Option<i64>>>> =
        tables.iter().map(|(table, _)| table.iter().map(|(ts, cells)| (*ts, cells)).collect()).collect();
    let times: BTreeSet<i64> = match tolerance {
        None => maps.iter().flat_map(|map| map.keys().copied()).collect(),
        Some(_) => maps[0].keys().copied().collect(),
    };
    let mut joined = Table::new();
    for ts in times.into_iter().filter(|ts| range.0 <= *ts && *ts <= range.1) {
        let mut cells = Vec::new();
        for (at, (map, width)) in maps.iter().zip(widths).enumerate() {
            let found = match tolerance {
                Some(tolerance) if at > 0 => {
                    let moment = ts + tables[0].1;
                    let last = map.iter().rev().find(|(ts, _)| **ts + tables[at].1 <= moment);
                    last.filter(|(ts, _)| moment - (**ts + tables[at].1) <= tolerance).map(|(_, cells)| *cells)
                }
                _ => map.get(&ts).copied(),
            };
            match found {
                Some(found) => cells.extend(found.iter().copied()),
                None => cells.extend(vec![None; *width]),
            }
        }
        joined.push((ts, cells));
    }
    joined
}

#[test]
fn a_panel_is_the_join_of_its_series_and_its_pages_are_the_panel() {
    for seed in 0..amount("FASTK_PANEL_CASES", 24) {
        let mut market = Market::new(seed);
        market.fill();
        let reader = market.store.reader();
        for _ in 0..10 {
            let rng = &mut market.rng;
            let mut chosen: Vec<usize> = (0..SERIES.len()).collect();
            for at in 0..chosen.len() {
                chosen.swap(at, rng.random_range(0..SERIES.len()));
            }
            chosen.truncate(rng.random_range(1..=SERIES.len()));
            let every = rng.random_bool(0.4).then_some(("1h", 60 * MINUTE));
            let tolerance =
                rng.random_bool(0.6).then_some([("1m", MINUTE), ("30m", 30 * MINUTE), ("2d", 2_880 * MINUTE)]);
            let tolerance = tolerance.map(|choices| choices[rng.random_range(0..3)]);
            let known_at_ts = rng.random_bool(0.3);
            let range = match rng.random_bool(0.5) {
                true => (i64::MIN, i64::MAX),
                false => {
                    let start = FIRST + rng.random_range(0..2_000) * MINUTE;
                    (start, start + rng.random_range(0..2_000) * MINUTE)
                }
            };
            let join_with = match tolerance {
                None => json!("exact"),
                Some((text, _)) if known_at_ts => json!({"asof": text, "known": "ts"}),
                Some((text, _)) => json!({"asof": text}),
            };
            let keys: Vec<&str> = chosen.iter().map(|at| SERIES[*at].0).collect();
            let mut panel = query(json!({"series": keys, "layout": "wide", "join": join_with}));
            if range.0 > i64::MIN {
                panel.start = Some(fastk::query::TimeValue::Epoch(range.0));
                panel.end = Some(fastk::query::TimeValue::Epoch(range.1));
            }
            panel.every = every.map(|(text, _)| text.into());
            panel.fill = (every.is_some() && rng.random_bool(0.3)).then_some(fastk::query::FillRule::Prev);
            let mut widths = Vec::new();
            let tables: Vec<(Table, i64)> = chosen
                .iter()
                .map(|at| {
                    let (key, interval, _) = SERIES[*at];
                    let names = if key.starts_with("kline") {
                        json!(["open", "high", "low", "close", "volume"])
                    } else {
                        json!(["value"])
                    };
                    widths.push(names.as_array().unwrap().len());
                    let mut only = query(json!({"series": [key], "columns": names}));
                    (only.every, only.fill) = (panel.every.clone(), panel.fill);
                    let length = if known_at_ts { 0 } else { every.map_or(interval, |(_, length)| length) };
                    (read(&reader, &only, None).0, length)
                })
                .collect();
            let mut whole = join(&tables, &widths, tolerance.map(|(_, ticks)| ticks), range);
            let context = format!("seed {seed}, {panel:?}");
            assert_eq!(read(&reader, &panel, None), (whole.clone(), None), "{context}");
            // The last rows.
            let count = rng.random_range(1..50);
            let latest = Query { latest: Some(count), ..panel.clone() };
            let from = whole.len().saturating_sub(count as usize);
            assert_eq!(read(&reader, &latest, None).0, whole[from..], "{context}");
            if rng.random_bool(0.5) {
                panel.order = RowOrder::Desc;
                whole.reverse();
                assert_eq!(read(&reader, &panel, None), (whole.clone(), None), "{context}");
            }
            if rng.random_bool(0.5) {
                let schema = reader.plan(&panel).unwrap().schema().clone();
                let column = rng.random_range(0..schema.columns.len());
                let word = if rng.random_bool(0.5) { "is_null" } else { "is_not_null" };
                let condition = json!({"column": schema.columns[column].name, "op": word});
                panel.predicates = Some(vec![serde_json::from_value(condition).unwrap()]);
                whole.retain(|(_, cells)| cells[column].is_none() == (word == "is_null"));
            }
            panel.limit = Some([1, 7, 500, 20_000][rng.random_range(0..4)]);
            let (mut paged, mut position) = (Table::new(), None);
            let pages_max = if panel.limit == Some(1) { 20 } else { usize::MAX };
            for _ in 0..pages_max {
                let (page, next) = read(&reader, &panel, position);
                assert!(page.len() as u64 <= panel.limit.unwrap());
                paged.extend(page);
                position = next;
                if position.is_none() {
                    break;
                }
            }
            let compared = if position.is_none() { whole.len() } else { paged.len() };
            assert_eq!(paged, whole[..compared], "{context}");
        }
    }
}

#[test]
fn endpoints_of_a_panel_together_have_its_rows() {
    let mut market = Market::new(7);
    market.fill();
    let reader = market.store.reader();
    let keys: Vec<&str> = SERIES.iter().map(|(key, ..)| *key).collect();
    for join in [json!("exact"), json!({"asof": "3h"})] {
        let panel = query(json!({"series": keys, "layout": "wide", "join": join}));
        let whole = read(&reader, &panel, None).0;
        let mut parts = Table::new();
        for (start, end) in reader.plan(&panel).unwrap().split(5).unwrap() {
            let bound = |ts| Some(fastk::query::TimeValue::Epoch(ts));
            let part = Query { start: bound(start), end: bound(end), ..panel.clone() };
            parts.extend(read(&reader, &part, None).0);
        }
        assert_eq!(parts, whole);
    }
}

/// Column names of a panel of these keys.
fn names(reader: &StoreReader, fields: serde_json::Value) -> Vec<String> {
    let mut fields = fields;
    fields["layout"] = json!("wide");
    let plan = reader.plan(&query(fields)).unwrap();
    plan.schema().columns.iter().map(|column| column.name.clone()).collect()
}

#[test]
fn columns_are_named_by_as_much_of_their_keys_as_tells_them_apart() {
    let market = Market::new(0);
    let store = &market.store;
    for key in ["scalar/factor/AAA/1h/rsi", "kline/AAA.rsi/1m", "scalar/f/AAA/1h/close"] {
        let key = SeriesKey::parse(key).unwrap();
        store.register(SeriesSpec::of_key(&key).resolve().unwrap()).unwrap();
    }
    let reader = store.reader();
    let (close, value) = (json!(["close"]), json!(["close", "value"]));
    let of = |series: serde_json::Value, columns: &serde_json::Value| {
        names(&reader, json!({"series": series, "columns": columns}))
    };
    assert_eq!(of(json!(["kline/BBB/1m", "kline/AAA/1m"]), &close), ["BBB.close", "AAA.close"]);
    assert_eq!(
        of(json!(["kline/AAA/1m", "kline/BBB/1m", "kline/AAA/5m"]), &close),
        ["AAA.1m.close", "BBB.close", "AAA.5m.close"]
    );
    // The value of a scalar is its name.
    let series = json!(["kline/AAA/1m", "scalar/feature/AAA/1h/rsi"]);
    assert_eq!(of(series, &value), ["AAA.close", "AAA.rsi"]);
    let series = json!(["scalar/*/AAA/1h/rsi", "kline/AAA/1m"]);
    assert_eq!(of(series, &value), ["factor.AAA.1h.rsi", "feature.AAA.1h.rsi", "AAA.close"]);
    // A symbol can be spelled like the symbol and name of a scalar, and a scalar like a column.
    let series = json!(["kline/AAA.rsi/1m", "scalar/feature/AAA/1h/rsi"]);
    assert_eq!(of(series, &value), ["AAA.rsi.1m.close", "feature.AAA.1h.rsi"]);
    let series = json!(["kline/AAA/1m", "scalar/f/AAA/1h/close"]);
    assert_eq!(of(series, &value), ["kline/AAA/1m.close", "scalar/f/AAA/1h/close"]);
    // Of buckets the values, unless others are named.
    let hours = json!({"series": ["kline/BBB/1m"], "every": "1h"});
    assert_eq!(names(&reader, hours), ["BBB.open", "BBB.high", "BBB.low", "BBB.close", "BBB.volume"]);
    let hours = json!({"series": ["kline/BBB/1m"], "every": "1h", "columns": ["source_rows", "close"]});
    assert_eq!(names(&reader, hours), ["BBB.source_rows", "BBB.close"]);
    // Arrow says of which series and field a column is.
    let plan = reader.plan(&query(json!({"series": ["kline/BBB/1m"], "layout": "wide"}))).unwrap();
    let schema = plan.schema().arrow_schema();
    assert_eq!(schema.field(4).metadata()["fastk.series"], "kline/BBB/1m");
    assert_eq!(schema.field(4).metadata()["fastk.column"], "close");
}

#[test]
fn a_bar_is_seen_when_it_is_closed_and_not_before() {
    let market = Market::new(0);
    let write = |key: &str, times: Vec<i64>| {
        let key = SeriesKey::parse(key).unwrap();
        let columns = SeriesSpec::of_key(&key).resolve().unwrap().columns.len();
        let cells = vec![times.clone(); columns];
        market.store.write(&key, Rows::of_words(times, cells), WriteMode::Upsert, None).unwrap();
    };
    write("kline/BBB/1m", (0..180).map(|minute| FIRST + minute * MINUTE).collect());
    write("scalar/feature/AAA/1h/rsi", vec![FIRST, FIRST + 60 * MINUTE]);
    write("scalar/news/AAA/tick/score", vec![FIRST + 10 * MINUTE + 30_000]);
    let reader = market.store.reader();
    let series = json!(["kline/BBB/1m", "scalar/feature/AAA/1h/rsi", "scalar/news/AAA/tick/score"]);
    let seen = |join: serde_json::Value| {
        let panel = json!({"series": series, "layout": "wide", "join": join, "columns": ["close", "value"]});
        let (table, _) = read(&reader, &query(panel), None);
        let first = |column: usize| {
            let found = table.iter().find(|(_, cells)| cells[column].is_some());
            found.map(|(ts, cells)| ((ts - FIRST) / MINUTE, (cells[column].unwrap() - FIRST) / MINUTE))
        };
        let count = |column: usize| table.iter().filter(|(_, cells)| cells[column].is_some()).count();
        (first(1), count(1), first(2), count(2))
    };
    // The bar of 00:59 closes at 01:00, when that of the first hour is known. The news of 00:10:30 come before the bar
    // of 00:10 closes.
    assert_eq!(seen(json!({"asof": "1d"})), (Some((59, 0)), 121, Some((10, 10)), 170));
    assert_eq!(seen(json!({"asof": "5m"})), (Some((59, 0)), 12, Some((10, 10)), 5));
    // By their timestamps alone the hour is seen before it has happened.
    assert_eq!(seen(json!({"asof": "1d", "known": "ts"})), (Some((0, 0)), 180, Some((11, 10)), 169));
}

#[test]
fn what_makes_no_sense_is_refused_with_a_way_out() {
    let market = Market::new(0);
    let store = &market.store;
    let key = SeriesKey::parse("scalar/c/TTT/tick/trade").unwrap();
    let spec = SeriesSpec::of_key(&key).resolve().unwrap();
    store.register(SeriesDef { order: OrderRule::Arrival, ..spec }).unwrap();
    let key = SeriesKey::parse("scalar/c/UUU/tick/micro").unwrap();
    let spec = SeriesSpec::of_key(&key).resolve().unwrap();
    store.register(SeriesDef { unit: fastk::types::TimeUnit::Us, ..spec }).unwrap();
    let reader = store.reader();
    let refused = |fields: serde_json::Value| {
        let error = reader.plan(&query(fields)).unwrap_err();
        (error.code(), format!("{} {}", error.detail(), error.hint().unwrap_or_default()))
    };
    let wide = |mut fields: serde_json::Value| {
        fields["layout"] = json!("wide");
        refused(fields)
    };
    let a = "kline/AAA/1m";
    for ((code, text), expected, words) in [
        (wide(json!({"series": [a, "scalar/c/TTT/tick/trade"]})), ErrorCode::InvalidArgument, "every=1s"),
        (wide(json!({"series": [a, "scalar/c/UUU/tick/micro"]})), ErrorCode::SchemaMismatch, "unit"),
        (wide(json!({"series": [a, "kline/*/2m"]})), ErrorCode::SeriesNotFound, "kline/*/2m"),
        (wide(json!({"series": ["kline/*/1m", a], "join": {"asof": "5m"}})), ErrorCode::InvalidArgument, "glob"),
        (wide(json!({"series": [a], "join": {"asof": "5"}})), ErrorCode::InvalidArgument, "tolerance"),
        (wide(json!({"series": [a], "latest_complete": 5})), ErrorCode::InvalidArgument, "latest"),
        (wide(json!({"series": [a], "columns": ["close", "close"]})), ErrorCode::InvalidArgument, "twice"),
        (wide(json!({"series": [a], "columns": ["price"]})), ErrorCode::SchemaMismatch, "price"),
        (
            wide(json!({"series": [a, "scalar/feature/AAA/1h/rsi"], "columns": ["close"]})),
            ErrorCode::SchemaMismatch,
            "it has value",
        ),
        (
            wide(json!({"series": [a], "where": [{"column": "close", "op": "gt", "value": 1}]})),
            ErrorCode::SchemaMismatch,
            "AAA.open",
        ),
        (refused(json!({"series": [a], "join": "exact"})), ErrorCode::InvalidArgument, "layout wide"),
        (refused(json!({"series": [a, "scalar/feature/AAA/1h/rsi"]})), ErrorCode::InvalidArgument, "layout wide"),
    ] {
        assert_eq!(code, expected, "{text}");
        assert!(text.contains(words), "{text} without {words}");
    }
    // The way out.
    let seconds = json!({"series": [a, "scalar/c/TTT/tick/trade"], "layout": "wide", "every": "1m"});
    assert!(reader.plan(&query(seconds)).is_ok());
}

#[test]
fn a_panel_has_a_limit_of_series() {
    let market = Market::new(0);
    for at in 0..1_001 {
        let key = SeriesKey::parse(&format!("scalar/many/S{at}/1d/n")).unwrap();
        market.store.register(SeriesSpec::of_key(&key).resolve().unwrap()).unwrap();
    }
    let panel = query(json!({"series": ["scalar/many/*/1d/n"], "layout": "wide"}));
    let error = market.store.reader().plan(&panel).unwrap_err();
    assert_eq!((error.code(), error.detail().contains("1000")), (ErrorCode::TooLarge, true), "{error:?}");
    let panel = query(json!({"series": ["scalar/many/S1*/1d/n"], "layout": "wide"}));
    assert_eq!(market.store.reader().plan(&panel).unwrap().series().len(), 112);
}
