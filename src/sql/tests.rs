//! Statements over small stores: plans, results, doors.

use std::sync::Arc;
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use arrow::util::display::array_value_to_string;
use serde_json::{Value, json};

use super::{SqlEngine, SqlParameters, SqlRequest, SqlSettings, SqlView, SystemTable, ViewSource};
use crate::error::{Error, ErrorCode, Result};
use crate::store::{Store, StoreOptions, WriteMode};
use crate::types::{Rows, SeriesKey, SeriesSpec, TimeUnit};

const MINUTE: i64 = 60_000;
/// 2024-02-01.
const START: i64 = 1_706_745_600_000;

/// The views of a store, of which only series with a prefix are visible.
#[derive(Debug)]
struct TestViews {
    store: Arc<Store>,
    prefix: &'static str,
}

impl TestViews {
    fn of(&self, state: Arc<crate::store::StoreState>) -> SqlView {
        let prefix = self.prefix;
        let sees = Arc::new(move |key: &SeriesKey| key.as_str().starts_with(prefix));
        SqlView { state, cache: Arc::clone(self.store.cache()), sees }
    }
}

impl ViewSource for TestViews {
    fn now(&self) -> Result<SqlView> {
        Ok(self.of(self.store.snapshot()))
    }

    fn as_of(&self, name: &str) -> Result<SqlView> {
        Ok(self.of(self.store.as_of(name)?))
    }

    fn system_tables(&self) -> Vec<SystemTable> {
        Vec::new()
    }

    fn sees_snapshot(&self, _: &str) -> bool {
        true
    }
}

struct Fixture {
    root: tempfile::TempDir,
    store: Arc<Store>,
    engine: SqlEngine,
}

impl Fixture {
    fn new() -> Self {
        Self::with(SqlSettings { threads: 2, ..SqlSettings::default() })
    }

    fn with(settings: SqlSettings) -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&root.path().join("store"), true, StoreOptions::default()).unwrap());
        let engine = SqlEngine::new(settings, Some(root.path().join("spill"))).unwrap();
        Self { root, store, engine }
    }

    /// Registers bars with prices of some digits and writes `count` of them: the close of bar n is 100 + n/100.
    fn bars(&self, symbol: &str, timeframe: &str, digits: u8, count: i64) {
        let key = SeriesKey::kline(symbol, timeframe).unwrap();
        let spec = SeriesSpec { price_digits: Some(digits), volume_digits: Some(3), ..SeriesSpec::of_key(&key) };
        self.store.register(spec.resolve().unwrap()).unwrap();
        let scale = 10_i64.pow(digits.into());
        let price = |n: i64| 100 * scale + n * scale / 100;
        let words = |f: &dyn Fn(i64) -> i64| (0..count).map(f).collect::<Vec<i64>>();
        let columns = vec![
            words(&price),
            words(&|n| price(n) + scale),
            words(&|n| price(n) - scale),
            words(&price),
            words(&|n| n * 1_000),
        ];
        let rows = Rows::of_words(words(&|n| START + n * MINUTE), columns);
        self.store.write(&key, rows, WriteMode::Upsert, None).unwrap();
    }

    fn scalar(&self, key: &str, values: &[f64]) {
        let key = SeriesKey::parse(key).unwrap();
        self.store.register(SeriesSpec::of_key(&key).resolve().unwrap()).unwrap();
        let ts = (0..values.len() as i64).map(|n| START + n * 3_600_000).collect();
        let words = values.iter().map(|value| value.to_bits().cast_signed()).collect();
        self.store.write(&key, Rows::of_words(ts, vec![words]), WriteMode::Upsert, None).unwrap();
    }

    fn run_as(&self, prefix: &'static str, request: SqlRequest) -> Result<Vec<RecordBatch>> {
        let views = Arc::new(TestViews { store: Arc::clone(&self.store), prefix });
        self.engine.start_blocking(request, views)?.collect()
    }

    fn try_rows(&self, sql: &str) -> Result<Vec<String>> {
        self.rows_with(SqlRequest { sql: sql.to_owned(), ..SqlRequest::default() })
    }

    fn rows_with(&self, request: SqlRequest) -> Result<Vec<String>> {
        Ok(lines(&self.run_as("", request)?))
    }

    fn rows(&self, sql: &str) -> Vec<String> {
        self.try_rows(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"))
    }

    fn one(&self, sql: &str) -> String {
        self.rows(sql).join(" | ")
    }

    fn fails(&self, sql: &str) -> Error {
        self.try_rows(sql).map(|rows| rows.join("\n")).unwrap_err()
    }

    /// The physical plan.
    fn plan(&self, sql: &str) -> String {
        let batches = self.run_as("", SqlRequest { sql: format!("EXPLAIN {sql}"), ..SqlRequest::default() }).unwrap();
        let mut text = String::new();
        for batch in &batches {
            for row in 0..batch.num_rows() {
                if array_value_to_string(batch.column(0), row).unwrap() == "physical_plan" {
                    text += &array_value_to_string(batch.column(1), row).unwrap();
                }
            }
        }
        assert!(!text.is_empty(), "{batches:?}");
        text
    }
}

fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let mut lines = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let cells = batch.columns().iter().map(|column| match column.is_null(row) {
                true => "null".to_owned(),
                false => array_value_to_string(column, row).unwrap(),
            });
            lines.push(cells.collect::<Vec<_>>().join(" "));
        }
    }
    lines
}

#[test]
fn a_table_has_the_series_of_a_timeframe_with_the_columns_of_all() {
    let fixture = Fixture::new();
    fixture.bars("A", "1m", 2, 3);
    fixture.bars("B", "1m", 4, 2);
    fixture.bars("A", "1M", 2, 1);
    fixture.scalar("scalar/feature/A/1h/rsi_14", &[70.5, 30.25]);
    assert_eq!(
        fixture.rows("SELECT symbol, ts, close, volume FROM klines_1m ORDER BY symbol, ts"),
        [
            "A 2024-02-01T00:00:00Z 100.0000 0.000",
            "A 2024-02-01T00:01:00Z 100.0100 1.000",
            "A 2024-02-01T00:02:00Z 100.0200 2.000",
            "B 2024-02-01T00:00:00Z 100.0000 0.000",
            "B 2024-02-01T00:01:00Z 100.0100 1.000",
        ]
    );
    assert_eq!(fixture.rows("SELECT close FROM \"kline/A/1m\" WHERE close > 100.005"), ["100.01", "100.02"]);
    assert_eq!(fixture.rows("SELECT close FROM kline.\"1M\""), ["100.00"]);
    assert_eq!(fixture.rows("SELECT symbol, name, value FROM scalars_feature_1h WHERE value > 50"), ["A rsi_14 70.5"]);
    assert_eq!(
        fixture.rows("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1"),
        ["klines_1m", "klines_1mo", "scalars_feature_1h"]
    );
    assert_eq!(
        fixture.rows("SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'klines_1m' AND column_name IN ('symbol', 'close') ORDER BY 1"),
        ["close Decimal128(20, 4)", "symbol Utf8View"]
    );
    assert_eq!(
        fixture.rows("SELECT key, table_name, rows, first_ts FROM system.series WHERE kind = 'scalar'"),
        ["scalar/feature/A/1h/rsi_14 scalars_feature_1h 2 2024-02-01T00:00:00Z"]
    );
    fixture.store.seal(&[]).unwrap();
    assert_eq!(fixture.one("SELECT count(*), sum(rows) FROM system.chunks"), "4 8");
}

#[test]
fn conditions_select_exactly_in_the_scan() {
    let fixture = Fixture::new();
    for symbol in ["AAA", "ABB", "BBB"] {
        fixture.bars(symbol, "1m", 2, 1_000);
    }
    for sealed in [false, true] {
        if sealed {
            fixture.store.seal(&[]).unwrap();
        }
        for (condition, rows) in [
            ("symbol = 'AAA'", 1_000),
            ("symbol LIKE 'A%'", 2_000),
            ("symbol IN ('AAA', 'BBB', 'CCC')", 2_000),
            ("length(symbol) = 3 AND symbol > 'ABA'", 2_000),
            ("ts >= '2024-02-01T10:00:00Z'", 1_200),
            ("ts > '2024-02-01T10:00:00Z'", 1_197),
            ("ts BETWEEN '2024-02-01T00:00:00' AND '2024-02-01T00:00:59.999'", 3),
            ("ts = TIMESTAMP '2024-02-01T00:01:00'", 3),
            ("ts < TIMESTAMP '2024-02-01T00:00:00.001'", 3),
            ("ts < DATE '2024-02-01'", 0),
            ("close > 100.10", 2_967),
            ("close > 100.105", 2_967),
            ("close >= 100.1", 2_970),
            ("close = 100.1 OR close = 100.2", 6),
            ("close IN (100, 100.01, 5)", 6),
            ("close NOT IN (100, 100.01)", 2_994),
            ("close BETWEEN 100 AND 100.02", 9),
            ("close <> 100", 2_997),
            ("close * 2 > 219.97", 3),
            ("close > open", 0),
            ("volume >= 999", 3),
            ("close > 1e2", 2_997),
            ("close IS NULL", 0),
            ("close IS NOT NULL AND symbol <> 'AAA' AND ts < '2024-02-01T00:10:00Z' AND close < 100.05", 10),
        ] {
            let found = fixture.one(&format!("SELECT count(*) FROM klines_1m WHERE {condition}"));
            assert_eq!(found, rows.to_string(), "{condition}");
        }
    }
    let plan = fixture
        .plan("SELECT ts FROM klines_1m WHERE symbol LIKE 'A%' AND ts >= '2024-02-01T10:00:00Z' AND close > 100.105");
    assert!(!plan.contains("FilterExec"), "{plan}");
    assert!(
        plan.contains("series=2") && plan.contains("ts=2024-02-01T10:00:00Z..=") && plan.contains("close:gt:"),
        "{plan}"
    );
    let plan = fixture.plan("SELECT ts FROM klines_1m WHERE close > open");
    assert!(plan.contains("FilterExec"), "{plan}");
}

#[test]
fn decimals_next_to_doubles_are_doubles_and_select_in_the_scan() {
    let fixture = Fixture::new();
    // Larger, smaller and finer numbers than a decimal of 38 digits with 15 after the point has.
    let values = [0.1, 0.3, 1e-17, 123_456_789.123_456_78, 1e25, -2.5];
    fixture.scalar("scalar/feature/A/1h/x", &values);
    fixture.bars("A", "1h", 2, 6);
    for (condition, rows) in [
        ("value > 0.1", 3),
        ("value >= 0.1", 4),
        ("0.1 <= value", 4),
        ("value = 0.1", 1),
        ("value <> 0.1", 5),
        ("value IN (0.1, -2.5, 7.0)", 2),
        ("value NOT IN (0.1, -2.5)", 4),
        ("value BETWEEN 0.1 AND 123456789.12345678", 3),
        ("value NOT BETWEEN 0.1 AND 123456789.12345678", 3),
        ("value = 123456789.12345678", 1),
        ("value = 0.00000000000000001", 1),
        ("value < 0.00000000000000001", 1),
        ("value > 9999999999999999999999999.0", 0),
        ("value > 999999999999999999999999.0", 1),
        ("value = CAST(0.3 AS DECIMAL(38, 20))", 1),
    ] {
        let sql = format!("SELECT count(*) FROM scalars_feature_1h WHERE {condition}");
        assert_eq!(fixture.one(&sql), rows.to_string(), "{condition}");
        let plan = fixture.plan(&sql.replace("count(*)", "ts"));
        // Of one of two conditions the scan knows nothing.
        let is_either = condition.contains("value IN") || condition.contains("NOT BETWEEN");
        assert_eq!(plan.contains("FilterExec"), is_either, "{condition}: {plan}");
        assert!(!plan.contains("CAST"), "{condition}: {plan}");
    }
    let joined = "klines_1h b JOIN scalars_feature_1h s ON b.symbol = s.symbol AND b.ts + (s.ts - b.ts) = s.ts";
    for (expression, result) in [
        ("value + 0.2 FROM scalars_feature_1h WHERE value = 0.1", 0.1_f64 + 0.2),
        ("value * 3 FROM scalars_feature_1h WHERE value = 0.1", 0.1 * 3.0),
        ("value / 2.0 FROM scalars_feature_1h WHERE value > 1e24", 1e25 / 2.0),
        (&format!("close - value FROM {joined} WHERE value = 0.3 AND close = 100.05 LIMIT 1"), 100.05 - 0.3),
    ] {
        let found: f64 = fixture.one(&format!("SELECT {expression}")).parse().unwrap();
        assert_eq!(found.to_bits(), result.to_bits(), "{expression}: {found}");
    }
    // The names of columns stay.
    let request = SqlRequest {
        sql: "SELECT value > 0.1, max(value * 2.0) OVER () FROM scalars_feature_1h".to_owned(),
        ..SqlRequest::default()
    };
    let batches = fixture.run_as("", request).unwrap();
    let schema = batches.first().unwrap().schema();
    let names: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(
        names,
        [
            "scalars_feature_1h.value > Decimal128(0.1,1,1)",
            "max(scalars_feature_1h.value * Decimal128(2.0,2,1)) ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING",
        ]
    );
}

/// Closes of bars beside the nearest one of another table, for all comparisons of the condition.
#[test]
fn an_as_of_join_has_one_row_for_each_left_row() {
    let fixture = Fixture::new();
    fixture.bars("A", "1m", 2, 200);
    fixture.bars("C", "1m", 2, 200);
    fixture.bars("A", "5m", 2, 30);
    fixture.bars("B", "5m", 2, 30);
    let join = |op: &str, rest: &str| {
        format!(
            "SELECT a.symbol, a.ts, a.close, b.symbol, b.ts, b.close FROM klines_5m a ASOF JOIN klines_1m b MATCH_CONDITION (a.ts {op} b.ts) ON a.symbol = b.symbol {rest}"
        )
    };
    assert_eq!(
        fixture.rows(&join(">", "WHERE a.ts < '2024-02-01T00:03:00Z' ORDER BY a.symbol, a.ts")),
        [
            "A 2024-02-01T00:00:00Z 100.00 null null null",
            "A 2024-02-01T00:01:00Z 100.01 A 2024-02-01T00:00:00Z 100.00",
            "A 2024-02-01T00:02:00Z 100.02 A 2024-02-01T00:01:00Z 100.01",
            "B 2024-02-01T00:00:00Z 100.00 null null null",
            "B 2024-02-01T00:01:00Z 100.01 null null null",
            "B 2024-02-01T00:02:00Z 100.02 null null null",
        ]
    );
    for (op, first) in [(">=", "00:10:00"), (">", "00:09:00"), ("<=", "00:10:00"), ("<", "00:11:00")] {
        let found = fixture.one(&join(op, "WHERE a.symbol = 'A' AND a.ts = '2024-02-01T00:10:00Z'"));
        assert!(
            found.contains(&format!("A 2024-02-01T{first}Z")) && found.starts_with("A 2024-02-01T00:10:00Z"),
            "{op} {found}"
        );
        let turned = op.replace('<', "x").replace('>', "<").replace('x', ">");
        let sql = format!(
            "SELECT b.ts FROM klines_5m a ASOF JOIN klines_1m b MATCH_CONDITION (b.ts {turned} a.ts) ON b.symbol = a.symbol WHERE a.symbol = 'A' AND a.ts = '2024-02-01T00:10:00Z'"
        );
        assert_eq!(fixture.one(&sql), format!("2024-02-01T{first}Z"), "{op}");
    }
    // Every left row once, also without a match, without keys, and in a subquery.
    for (sql, counts) in [
        (
            "SELECT count(*), count(b.ts) FROM klines_5m a ASOF JOIN klines_1m b MATCH_CONDITION (a.ts > b.ts) ON a.symbol = b.symbol",
            "60 29",
        ),
        (
            "SELECT count(*), count(b.ts) FROM klines_5m a ASOF JOIN (SELECT * FROM klines_1m WHERE symbol = 'C') b MATCH_CONDITION (a.ts >= b.ts)",
            "60 60",
        ),
        (
            "SELECT count(*), count(b.ts) FROM klines_1m a ASOF JOIN klines_1m b MATCH_CONDITION (a.ts > b.ts) ON a.symbol = b.symbol",
            "400 398",
        ),
        (
            "SELECT count(*), count(x) FROM (SELECT b.close AS x FROM klines_5m a ASOF JOIN klines_1m b MATCH_CONDITION (a.ts <= b.ts) ON a.symbol = b.symbol)",
            "60 30",
        ),
        (
            "SELECT count(*), count(b.ts) FROM klines_5m a ASOF JOIN klines_1m b MATCH_CONDITION (a.ts >= b.ts) ON a.symbol = b.symbol AND a.close = b.close",
            "60 30",
        ),
        (
            "SELECT count(*), count(b.ts) FROM klines_5m a ASOF JOIN klines_1m b MATCH_CONDITION (a.ts >= b.ts) ON a.symbol = b.symbol WHERE b.close > 100.10",
            "19 19",
        ),
        (
            "SELECT count(*), count(c.ts) FROM klines_5m a ASOF JOIN klines_1m b MATCH_CONDITION (a.ts >= b.ts) ON a.symbol = b.symbol ASOF JOIN klines_1m c MATCH_CONDITION (b.ts > c.ts) ON b.symbol = c.symbol",
            "60 29",
        ),
        (
            "SELECT count(*), count(b.ts) FROM (klines_5m a ASOF JOIN klines_1m b MATCH_CONDITION (a.ts >= b.ts) ON a.symbol = b.symbol)",
            "60 30",
        ),
    ] {
        assert_eq!(fixture.one(sql), counts, "{sql}");
    }
    let request = SqlRequest {
        sql: join(">=", "AND ? = 1 WHERE a.ts = ?"),
        parameters: SqlParameters::Values(vec![json!(1), json!("2024-02-01T00:10:00Z")]),
        ..SqlRequest::default()
    };
    // A condition that is no equality of both tables has no meaning for what is nearest.
    assert!(fixture.rows_with(request).unwrap_err().hint().unwrap_or_default().contains("MATCH_CONDITION"));
    for wrong in [
        "SELECT 1 FROM klines_5m a ASOF JOIN klines_1m b MATCH_CONDITION (a.ts = b.ts) ON a.symbol = b.symbol",
        "SELECT 1 FROM klines_5m a ASOF JOIN klines_1m b MATCH_CONDITION (a.ts > a.ts) ON a.symbol = b.symbol",
        "SELECT 1 FROM klines_5m a ASOF JOIN klines_1m b MATCH_CONDITION (a.symbol > b.symbol)",
        "SELECT 1 FROM klines_5m a ASOF JOIN klines_1m b MATCH_CONDITION (a.ts > b.ts AND a.close > b.close)",
        "SELECT 1 FROM klines_5m a ASOF JOIN klines_1m b MATCH_CONDITION (a.ts > b.ts) ON a.symbol > b.symbol",
        "SELECT 1 FROM klines_5m a ASOF JOIN klines_1m b MATCH_CONDITION (a.ts > b.ts) USING (symbol)",
        "SELECT 1 FROM klines_5m a ASOF JOIN klines_1m b ON a.symbol = b.symbol AND a.ts >= b.ts",
        "SELECT __asof_match(true) FROM klines_1m",
    ] {
        let error = fixture.fails(wrong);
        assert_eq!(error.code(), ErrorCode::InvalidArgument, "{wrong} {error:?}");
        assert!(error.hint().is_some_and(|hint| hint.contains("MATCH_CONDITION")), "{wrong} {error:?}");
    }
}

/// Far more right rows than left ones, and the other way round: matches are gathered from batches that are gone.
#[test]
fn as_of_joins_of_many_batches_are_the_same_on_every_number_of_threads() {
    for threads in [1, 3] {
        let fixture = Fixture::with(SqlSettings { threads, ..SqlSettings::default() });
        for symbol in ["A", "B", "D"] {
            fixture.bars(symbol, "1m", 2, 100_000);
        }
        fixture.bars("A", "5m", 2, 300);
        let few = "FROM (SELECT * FROM klines_1m WHERE (close - 100) * 100 % 333 = 0) a";
        for (from, op, sum) in
            [(few, ">=", "903 602"), (few, "<", "903 602"), ("FROM klines_1m a", "<=", "300000 200000")]
        {
            let sql = format!(
                "SELECT count(*), count(b.ts) {from} ASOF JOIN (SELECT * FROM klines_1m WHERE symbol <> 'D') b MATCH_CONDITION (a.ts {op} b.ts) ON a.symbol = b.symbol"
            );
            let found = fixture.try_rows(&sql);
            assert_eq!(found.unwrap_or_else(|error| vec![format!("{error:?}")]), [sum], "{threads} {sql}");
        }
        let sql = "SELECT sum(a.close - b.close), max(a.ts - b.ts), min(a.ts - b.ts) FROM klines_1m a ASOF JOIN klines_5m b MATCH_CONDITION (a.ts >= b.ts) ON a.symbol = b.symbol WHERE a.symbol = 'A'";
        // Bar n of 100,000 beside bar min(n, 299).
        let sum: i64 = (0..100_000_i64).map(|n| n - n.min(299)).sum();
        assert!(fixture.one(sql).starts_with(&format!("{}.{:02} ", sum / 100, sum % 100)), "{}", fixture.one(sql));
    }
}

#[test]
fn as_of_joins_convert_only_the_decimals_that_match() {
    let fixture = Fixture::new();
    for symbol in ["A", "B"] {
        fixture.bars(symbol, "1m", 2, 70_000);
        fixture.bars(symbol, "5m", 4, 500);
    }
    for sealed in [false, true] {
        if sealed {
            fixture.store.seal(&[]).unwrap();
        }
        for (op, keys, filter) in [
            (">=", "a.symbol = b.symbol", ""),
            (">=", "a.symbol = b.symbol", "WHERE a.symbol = 'B'"),
            ("<", "a.symbol = b.symbol", "WHERE a.symbol = 'A'"),
            ("<=", "a.symbol = b.symbol AND a.close = b.close", "WHERE a.symbol = 'A'"),
        ] {
            let sql = |right: &str| {
                format!(
                    "SELECT a.ts, a.close, b.ts, b.close, b.close * 2, b.volume, b.low FROM klines_5m a \
                     ASOF JOIN {right} b MATCH_CONDITION (a.ts {op} b.ts) ON {keys} {filter} ORDER BY a.symbol, a.ts"
                )
            };
            let plan = fixture.plan(&sql("klines_1m"));
            assert_eq!(plan.contains("decimals=stored"), !keys.contains("close"), "{plan}");
            // Conditions that no scan knows are above it.
            let converted = "(SELECT * FROM klines_1m WHERE abs(volume) >= 0)";
            assert!(!fixture.plan(&sql(converted)).contains("decimals=stored"));
            assert_eq!(fixture.rows(&sql("klines_1m")), fixture.rows(&sql(converted)), "{op} {keys} {filter}");
        }
    }
    // Series of other digits have no common stored type.
    fixture.bars("C", "1m", 6, 10);
    let plan = fixture.plan(
        "SELECT b.close FROM klines_5m a ASOF JOIN klines_1m b MATCH_CONDITION (a.ts >= b.ts) ON a.symbol = b.symbol",
    );
    assert!(plan.contains("AsOfExec"), "{plan}");
    assert_eq!(
        fixture.one("SELECT b.close FROM klines_5m a ASOF JOIN klines_1m b MATCH_CONDITION (a.ts >= b.ts) ON a.symbol = b.symbol WHERE a.symbol = 'B' AND a.ts = '2024-02-01T00:05:00Z'"),
        "100.050000"
    );
}

#[test]
fn as_of_joins_need_no_sort_and_read_only_what_can_match() {
    let fixture = Fixture::new();
    for symbol in ["A", "B", "C"] {
        fixture.bars(symbol, "1m", 2, 40_000);
        fixture.bars(symbol, "5m", 2, 40_000);
    }
    let sql = |op: &str, rest: &str| {
        format!(
            "SELECT a.close, b.close FROM klines_5m a ASOF JOIN klines_1m b MATCH_CONDITION (a.ts {op} b.ts) ON a.symbol = b.symbol {rest}"
        )
    };
    for op in [">=", ">", "<=", "<"] {
        for rest in ["", "WHERE a.symbol = 'A'", "WHERE a.symbol > 'A'"] {
            let plan = fixture.plan(&sql(op, rest));
            assert!(plan.contains("AsOfExec") && !plan.contains("SortExec"), "{op} {rest} {plan}");
        }
    }
    // Partitions of the same symbols on both sides.
    let plan = fixture.plan(&sql(">=", ""));
    assert!(!plan.contains("SortPreservingMergeExec") && !plan.contains("RepartitionExec"), "{plan}");
    let counts = "ORDER BY a.ts LIMIT 5";
    let plan = fixture.plan(&sql(">=", &format!("WHERE a.symbol = 'A' {counts}")));
    assert!(!plan.contains("SortExec"), "{plan}");
    let plan = fixture
        .plan(&sql(">=", "WHERE a.symbol = 'A' AND a.ts < '2024-02-01T10:00:00Z' AND a.close > 100.5 AND b.close > 1"));
    let scans: Vec<&str> = plan.lines().filter(|line| line.contains("SeriesScan")).collect();
    assert!(scans.len() == 2 && scans.iter().all(|scan| scan.contains("series=1")), "{plan}");
    assert!(scans[0].contains("close:gt:") && scans[0].contains("..=2024-02-01T09:59:59.999Z"), "{plan}");
    // The right side ends with the left one; its own condition is above the join.
    assert!(!scans[1].contains("where=") && scans[1].contains("..=2024-02-01T10:00:00Z"), "{plan}");
    assert!(plan.contains("FilterExec"), "{plan}");
    let plan = fixture.plan("SELECT b.close FROM (SELECT symbol AS s, ts AS t FROM klines_5m WHERE symbol = 'B' AND ts >= '2024-02-02') a ASOF JOIN klines_1m b MATCH_CONDITION (a.t <= b.ts) ON a.s = b.symbol");
    let scans: Vec<&str> = plan.lines().filter(|line| line.contains("SeriesScan")).collect();
    assert!(
        scans.iter().all(|scan| scan.contains("series=1") && scan.contains("ts=2024-02-02T00:00:00Z..=")),
        "{plan}"
    );
    assert_eq!(fixture.one("SELECT count(*) FROM klines_5m a ASOF JOIN klines_1m b MATCH_CONDITION (a.ts >= b.ts) ON a.symbol = b.symbol"), "120000");
}

/// Comparisons of times with constants between two ticks of a column select what exact numbers would.
#[test]
fn times_compare_exactly_in_every_unit() {
    let fixture = Fixture::new();
    for (unit, of) in [("s", TimeUnit::S), ("ms", TimeUnit::Ms), ("us", TimeUnit::Us), ("ns", TimeUnit::Ns)] {
        let per_second = of.per_second();
        let key = SeriesKey::parse(&format!("scalar/{unit}/X/1s/v")).unwrap();
        let spec = SeriesSpec { unit: Some(of), ..SeriesSpec::of_key(&key) };
        fixture.store.register(spec.resolve().unwrap()).unwrap();
        let seconds = 1_706_745_600_i64;
        // Three ticks around a second.
        let ts: Vec<i64> = (-1..=1).map(|tick| seconds * per_second + tick).collect();
        fixture.store.write(&key, Rows::of_words(ts.clone(), vec![vec![0; 3]]), WriteMode::Upsert, None).unwrap();
        for constant in [
            "2024-02-01T00:00:00.000000000",
            "2024-02-01T00:00:00.500000000",
            "2024-01-31T23:59:59.500000000",
            "2024-02-01T00:00:00.000500000",
            "2024-02-01T00:00:00.000000500",
            "2024-02-01T00:00:00.000000001",
            "2024-01-31T23:59:59.999999999",
            "2024-02-01T00:00:01.000000000",
        ] {
            let nanos = constant
                .parse::<jiff::civil::DateTime>()
                .unwrap()
                .to_zoned(jiff::tz::TimeZone::UTC)
                .unwrap()
                .timestamp()
                .as_nanosecond();
            let at = |ts: i64| i128::from(ts) * (1_000_000_000 / i128::from(per_second));
            let count = |keeps: &dyn Fn(i128) -> bool| ts.iter().filter(|ts| keeps(at(**ts))).count();
            let later = nanos + 500;
            for value in [
                format!("'{constant}Z'"),
                format!("TIMESTAMP '{constant}'"),
                format!("to_timestamp('{constant}Z')"),
                format!("(TIMESTAMP '{constant}' + INTERVAL '0 seconds')"),
            ] {
                for (condition, wanted) in [
                    (format!("ts > {value}"), count(&|ts| ts > nanos)),
                    (format!("ts >= {value}"), count(&|ts| ts >= nanos)),
                    (format!("ts < {value}"), count(&|ts| ts < nanos)),
                    (format!("ts <= {value}"), count(&|ts| ts <= nanos)),
                    (format!("ts = {value}"), count(&|ts| ts == nanos)),
                    (format!("ts <> {value}"), count(&|ts| ts != nanos)),
                    (format!("{value} <= ts"), count(&|ts| ts >= nanos)),
                    (format!("NOT (ts > {value})"), count(&|ts| ts <= nanos)),
                    (format!("ts IS DISTINCT FROM {value}"), count(&|ts| ts != nanos)),
                    (format!("ts IS NOT DISTINCT FROM {value}"), count(&|ts| ts == nanos)),
                    (
                        format!("ts BETWEEN {value} AND {value} + INTERVAL '500 nanoseconds'")
                            .replace("' + INT", "'::timestamp + INT"),
                        count(&|ts| ts >= nanos && ts <= later),
                    ),
                    (format!("ts NOT BETWEEN {value} AND {value}"), count(&|ts| ts != nanos)),
                    (
                        format!("ts IN ({value}, '2024-02-01T00:00:00Z')"),
                        count(&|ts| ts == nanos || ts == i128::from(seconds) * 1_000_000_000),
                    ),
                    (format!("ts NOT IN ({value})"), count(&|ts| ts != nanos)),
                    (format!("CASE WHEN ts >= {value} THEN 1 ELSE 0 END = 1"), count(&|ts| ts >= nanos)),
                ] {
                    let sql = format!("SELECT count(*) FROM scalars_{unit}_1s WHERE {condition}");
                    let found = fixture.try_rows(&sql).unwrap_or_else(|error| vec![format!("{error:?}")]);
                    assert_eq!(found, [wanted.to_string()], "{sql}");
                }
            }
            let request = SqlRequest {
                sql: format!("SELECT count(*) FROM scalars_{unit}_1s WHERE ts >= ?"),
                parameters: SqlParameters::Values(vec![json!(format!("{constant}Z"))]),
                ..SqlRequest::default()
            };
            assert_eq!(
                fixture.rows_with(request).unwrap(),
                [count(&|ts| ts >= nanos).to_string()],
                "{unit} {constant}"
            );
        }
    }
    // Still evaluated by the scan.
    let plan = fixture.plan("SELECT * FROM scalars_ms_1s WHERE ts >= '2024-02-01T00:00:00.0005Z' AND ts < TIMESTAMP '2024-02-01T00:00:01.0005'");
    assert!(
        !plan.contains("FilterExec") && plan.contains("ts=2024-02-01T00:00:00.001Z..=2024-02-01T00:00:01Z"),
        "{plan}"
    );
    assert_eq!(fixture.one("SELECT count(*) FROM scalars_ms_1s a JOIN scalars_s_1s b ON a.ts = b.ts"), "1");
    assert_eq!(
        fixture.one("SELECT count(b.ts) FROM scalars_s_1s a ASOF JOIN scalars_ns_1s b MATCH_CONDITION (a.ts > b.ts)"),
        "2"
    );
}

#[test]
fn counts_and_bounds_are_answered_without_reading() {
    let fixture = Fixture::new();
    fixture.bars("A", "1m", 2, 500);
    fixture.bars("B", "1m", 2, 700);
    fixture.store.seal(&[]).unwrap();
    for sql in [
        "SELECT count(*) FROM klines_1m",
        "SELECT min(ts), max(ts) FROM klines_1m",
        "SELECT count(*) FROM klines_1m WHERE symbol = 'B'",
        "SELECT count(*) FROM klines_1m WHERE ts >= '2024-02-01T01:00:00Z'",
    ] {
        let plan = fixture.plan(sql);
        assert!(plan.contains("PlaceholderRowExec") && !plan.contains("SeriesScan"), "{sql}: {plan}");
    }
    assert_eq!(
        fixture.one("SELECT count(*), min(ts), max(ts) FROM klines_1m"),
        "1200 2024-02-01T00:00:00Z 2024-02-01T11:39:00Z"
    );
    assert_eq!(
        fixture.one("SELECT count(*) FROM klines_1m WHERE ts >= '2024-02-01T01:00:00Z'"),
        (440 + 640).to_string()
    );
    // Bounds of a part are not those of the series.
    assert_eq!(fixture.one("SELECT min(ts) FROM klines_1m WHERE ts > '2024-02-01T01:00:30Z'"), "2024-02-01T01:01:00Z");
    assert_eq!(fixture.one("SELECT count(*) FROM (SELECT * FROM klines_1m LIMIT 7)"), "7");
    assert_eq!(fixture.one("SELECT count(*) FROM (SELECT * FROM klines_1m WHERE symbol = 'A' LIMIT 7)"), "7");
}

#[test]
fn declared_orders_need_no_sort() {
    let fixture = Fixture::new();
    for symbol in ["A", "B", "C", "D"] {
        fixture.bars(symbol, "1m", 2, 40_000);
    }
    fixture.bars("A", "1h", 2, 10);
    for sql in [
        "SELECT ts, close FROM klines_1m WHERE symbol = 'A' ORDER BY ts",
        "SELECT ts, close FROM klines_1m WHERE symbol = 'A' ORDER BY ts DESC LIMIT 10",
        "SELECT ts, close FROM \"kline/A/1m\" ORDER BY ts DESC",
        "SELECT * FROM klines_1m ORDER BY symbol, ts LIMIT 10",
        "SELECT * FROM klines_1m ORDER BY symbol, ts DESC LIMIT 10",
        "SELECT * FROM klines_1m ORDER BY ts, symbol LIMIT 10",
        "SELECT * FROM klines_1m ORDER BY ts DESC LIMIT 10",
        "SELECT symbol, count(close) FROM klines_1m GROUP BY symbol ORDER BY symbol",
        "SELECT time_bucket('1h', ts) AS t, max(high) FROM klines_1m WHERE symbol = 'A' GROUP BY t ORDER BY t",
        "SELECT ts, lag(close) OVER (ORDER BY ts) FROM klines_1m WHERE symbol = 'A'",
    ] {
        let plan = fixture.plan(sql);
        assert!(!plan.contains("SortExec"), "{sql}: {plan}");
    }
    assert_eq!(
        fixture.rows("SELECT ts, symbol FROM klines_1m ORDER BY ts DESC, symbol LIMIT 5"),
        [
            "2024-02-28T18:39:00Z A",
            "2024-02-28T18:39:00Z B",
            "2024-02-28T18:39:00Z C",
            "2024-02-28T18:39:00Z D",
            "2024-02-28T18:38:00Z A"
        ]
    );
    assert_eq!(fixture.rows("SELECT close FROM \"kline/A/1m\" ORDER BY ts DESC LIMIT 2"), ["499.99", "499.98"]);
    let grouped =
        fixture.plan("SELECT symbol, time_bucket('1h', ts) AS t, max(high) FROM klines_1m GROUP BY symbol, t");
    assert!(grouped.contains("SinglePartitioned") && !grouped.contains("RepartitionExec"), "{grouped}");
}

/// A wrong declaration of order or partitions is a wrong result: every number of threads must give the same.
#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let mut results: Vec<Vec<Vec<String>>> = Vec::new();
    for threads in [1, 2, 7] {
        let fixture = Fixture::with(SqlSettings { threads, ..SqlSettings::default() });
        for (symbol, count) in [("A", 90_000), ("B", 30_000), ("C", 10), ("D", 70_000), ("E", 5_000)] {
            fixture.bars(symbol, "1m", 2, count);
        }
        fixture.bars("F", "1h", 2, 200_000);
        let statements = [
            "SELECT symbol, count(*), sum(close), min(low), max(high) FROM klines_1m GROUP BY symbol ORDER BY symbol",
            "SELECT symbol, time_bucket('1d', ts) t, first(open, ts), last(close, ts), sum(volume) FROM klines_1m GROUP BY symbol, t ORDER BY symbol, t",
            "SELECT time_bucket('1mo', ts) t, first(open, ts), last(close, ts), count(*) FROM klines_1h WHERE symbol = 'F' GROUP BY t ORDER BY t",
            "SELECT count(*), sum(a.close - b.close) FROM klines_1m a JOIN klines_1m b ON a.ts = b.ts AND a.symbol = b.symbol",
            "SELECT a.symbol, b.symbol, count(*) FROM klines_1m a JOIN klines_1m b ON a.ts = b.ts WHERE a.symbol < b.symbol GROUP BY 1, 2 ORDER BY 1, 2",
            "SELECT count(*), sum(c) FROM (SELECT close - lag(close) OVER (PARTITION BY symbol ORDER BY ts) c FROM klines_1m)",
            "SELECT ts, symbol, close FROM klines_1m WHERE ts >= '2024-02-03' ORDER BY ts, symbol LIMIT 20",
            "SELECT ts, symbol, close FROM klines_1m ORDER BY ts DESC, symbol LIMIT 20",
            "SELECT DISTINCT symbol FROM klines_1m ORDER BY symbol DESC",
            "SELECT symbol, close FROM klines_1m WHERE symbol IN ('A', 'D') AND close > 799.9 ORDER BY close DESC, symbol LIMIT 9",
            "SELECT close FROM klines_1h ORDER BY ts DESC LIMIT 5 OFFSET 3",
            "SELECT count(*) FROM (SELECT symbol FROM klines_1m UNION ALL SELECT symbol FROM klines_1h)",
        ];
        results.push(statements.iter().map(|sql| fixture.rows(sql)).collect());
    }
    for (one, other) in [(0, 1), (0, 2)] {
        for (position, (one, other)) in results[one].iter().zip(&results[other]).enumerate() {
            assert_eq!(one, other, "statement {position}");
        }
    }
    assert_eq!(results[0][3], [format!("{} 0.00", 90_000 + 30_000 + 10 + 70_000 + 5_000)]);
}

#[test]
fn decimals_are_exact_where_narrower_ones_are_truncated() {
    let fixture = Fixture::new();
    let key = SeriesKey::parse("kline/X/1m").unwrap();
    let spec = SeriesSpec { price_digits: Some(2), volume_digits: Some(0), ..SeriesSpec::of_key(&key) };
    fixture.store.register(spec.resolve().unwrap()).unwrap();
    let a = [10_050, 10_000, 9_999, 10_199, 300, -250];
    let n = [100, 100, 100, 101, 3, -2];
    let columns = vec![a.to_vec(), vec![900_000_000_000_000_000; 6], a.to_vec(), a.to_vec(), n.to_vec()];
    let rows = Rows::of_words((0..6).map(|n| START + n * MINUTE).collect(), columns);
    fixture.store.write(&key, rows, WriteMode::Upsert, None).unwrap();
    let first = |expression: &str| {
        fixture.one(&format!("SELECT {expression} FROM (SELECT close AS a, open AS b, CAST(volume AS BIGINT) AS n, ts FROM klines_1m) ORDER BY ts LIMIT 1"))
    };
    for (expression, result) in [
        ("a * 2", "201.00"),
        ("a + 1", "101.50"),
        ("a / 3", "33.500000"),
        ("a % 7", "2.50"),
        ("(a + b) / 2", "100.500000"),
        ("a * n", "10050.00"),
        ("coalesce(a, 0)", "100.50"),
        ("nullif(a, 0)", "100.50"),
        ("CASE WHEN a > 0 THEN a ELSE 0 END", "100.50"),
        ("greatest(a, 100)", "100.50"),
        ("abs(-a)", "100.50"),
        ("round(a, 1)", "100.5"),
    ] {
        let found = first(expression);
        assert_eq!(
            found.trim_end_matches('0').trim_end_matches('.'),
            result.trim_end_matches('0').trim_end_matches('.'),
            "{expression}: {found}"
        );
    }
    let count = |condition: &str| {
        fixture.one(&format!(
            "SELECT count(*) FROM (SELECT close AS a, CAST(volume AS BIGINT) AS n FROM klines_1m) WHERE {condition}"
        ))
    };
    assert_eq!((count("a > n").as_str(), count("a = n").as_str()), ("2", "2"));
    assert_eq!(
        fixture.one(
            "SELECT count(*) FROM klines_1m x JOIN (SELECT CAST(volume AS BIGINT) n FROM klines_1m) y ON x.close = y.n"
        ),
        "4"
    );
    assert_eq!(fixture.one("SELECT sum(CASE WHEN close > 100 THEN close ELSE 0 END) FROM klines_1m"), "202.49");
    assert_eq!(
        fixture.rows("SELECT close FROM klines_1m WHERE close < 0 UNION ALL SELECT 1 ORDER BY 1"),
        ["-2.50", "1.00"]
    );
    // Six times 9·10^15 has no space in 8 bytes with two digits.
    assert_eq!(fixture.one("SELECT sum(high) FROM klines_1m"), "54000000000000000.00");
    assert!(fixture.one("SELECT avg(high) FROM klines_1m").starts_with("9000000000000000.00"));
    assert_eq!(fixture.one("SELECT round(vwap(close, volume), 6) FROM klines_1m WHERE volume > 0"), "99.89849");
    // Literals are decimals: no double is next to them.
    assert_eq!(fixture.one("SELECT 0.1 + 0.2 = 0.3"), "true");
}

#[test]
fn partitions_of_a_series_follow_each_other() {
    let fixture = Fixture::new();
    fixture.bars("A", "1m", 2, 70_000);
    fixture.store.seal(&[]).unwrap();
    let numbers = |sql: &str| -> Vec<i64> {
        let plan = fixture.plan(sql);
        assert!(plan.contains("ConsecutiveExec: partitions=2") && !plan.contains("Sort"), "{sql}: {plan}");
        fixture.rows(sql).iter().map(|line| line.parse().unwrap()).collect()
    };
    let expected: Vec<i64> = (0..70_000).filter(|n| n % 7 == 3).collect();
    let select = "SELECT CAST(volume AS BIGINT) FROM klines_1m WHERE CAST(volume AS BIGINT) % 7 = 3";
    assert_eq!(numbers(&format!("{select} ORDER BY ts")), expected);
    fixture.bars("B", "1m", 2, 70_000);
    fixture.bars("AB", "1m", 2, 10);
    let by_key = "SELECT CAST(volume AS BIGINT) FROM klines_1m ORDER BY symbol, ts";
    let plan = fixture.plan(by_key);
    assert!(plan.contains("ConsecutiveExec: partitions=3") && !plan.contains("Sort"), "{plan}");
    let all: Vec<i64> = (0..70_000).chain(0..10).chain(0..70_000).collect();
    let found: Vec<i64> = fixture.rows(by_key).iter().map(|line| line.parse().unwrap()).collect();
    assert_eq!(found, all);
    // By time, rows of the symbols alternate.
    let by_time = "SELECT CAST(volume AS BIGINT) FROM klines_1m WHERE ts < '2024-02-01T00:02:00' ORDER BY ts, symbol";
    assert!(!fixture.plan(by_time).contains("ConsecutiveExec"));
    assert_eq!(fixture.rows(by_time), ["0", "0", "0", "1", "1", "1"]);
    fixture.store.drop_series(&SeriesKey::kline("B", "1m").unwrap(), None).unwrap();
    fixture.store.drop_series(&SeriesKey::kline("AB", "1m").unwrap(), None).unwrap();
    let reversed: Vec<i64> = (7..70_000).rev().collect();
    assert_eq!(numbers("SELECT CAST(volume AS BIGINT) FROM klines_1m WHERE volume >= 7 ORDER BY ts DESC"), reversed);
}

#[test]
fn runs_have_the_aggregates_of_a_hash_table() {
    let fixture = Fixture::new();
    for (symbol, count) in [("A", 70_000), ("B", 20_000), ("C", 7)] {
        fixture.bars(symbol, "1m", 2, count);
    }
    fixture.scalar("scalar/feature/A/1h/x", &[0.5, 0.1, 0.2, f64::MAX, 0.25, -0.0, 0.0, 1e-9]);
    fixture.store.seal(&[]).unwrap();
    // With a condition that is true for all rows, aggregates are those of DataFusion.
    let always = "FILTER (WHERE ts > '2000-01-01')";
    let bars = "count(*) {f}, count(nullif(close, 100.03)) {f}, sum(close) {f}, min(low) {f}, max(high) {f}, \
        sum(nullif(volume, 3)) {f}, min(nullif(close, 100.03)) {f}, first(open, ts) {f}, last(close, ts) {f}, \
        first(nullif(close, 100), ts) {f}, last(close, 0 - CAST(volume AS BIGINT)) {f}, max(ts) {f}, count(ts) {f}, \
        sum(CAST(volume AS BIGINT) * 2) {f}, sum(CAST(close AS DOUBLE) * 1e0) {f}, first(symbol, ts)";
    let numbers =
        "count(value) {f}, sum(value) {f}, min(value) {f}, max(value) {f}, first(value, ts) {f}, last(value, ts) {f}";
    for (select, from, group) in [
        (bars, "klines_1m WHERE symbol = 'A'", "time_bucket('1h', ts)"),
        // Each row is a group, and one group has the rows of many batches.
        (bars, "klines_1m WHERE symbol = 'B'", "ts"),
        (bars, "klines_1m WHERE symbol = 'A'", "time_bucket('1mo', ts)"),
        (bars, "klines_1m WHERE symbol = 'A' AND close > 100.02 AND ts > '2024-02-02'", "time_bucket('7m', ts)"),
        (bars, "klines_1m", "symbol"),
        (bars, "klines_1m", "symbol, time_bucket('1d', ts, 'America/New_York')"),
        (bars, "klines_1m", "symbol, time_bucket('9m', ts)"),
        (bars, "klines_1m WHERE symbol = 'C' AND close < 0", "symbol, ts"),
        (numbers, "scalars_feature_1h", "time_bucket('2h', ts)"),
    ] {
        let without_text = select.replace(", first(symbol, ts)", "");
        let query = |select: &str, filter: &str| {
            let select = select.replace("{f}", filter);
            format!("SELECT {group}, {select} FROM {from} GROUP BY {group} ORDER BY {group}")
        };
        let runs = query(&without_text, "");
        let hashed = query(&without_text, always);
        assert!(fixture.plan(&runs).contains("RunAggregateExec"), "{}", fixture.plan(&runs));
        assert!(!fixture.plan(&hashed).contains("RunAggregateExec"), "{}", fixture.plan(&hashed));
        let (runs, hashed) = (fixture.rows(&runs), fixture.rows(&hashed));
        assert_eq!(runs.len(), hashed.len(), "{group}");
        assert!(runs == hashed, "{from} {group}: {:?}", runs.iter().zip(&hashed).find(|(run, other)| run != other));
        // An aggregate of a text has no run, and those beside it none either.
        let with_text = fixture.rows(&query(select, ""));
        assert_eq!(with_text.len(), runs.len());
    }
}

#[test]
fn first_and_last_are_values_of_the_rows_with_the_earliest_and_latest_time() {
    let fixture = Fixture::new();
    for symbol in ["A", "B"] {
        fixture.bars(symbol, "1m", 2, 1_000);
    }
    for (own, other) in [
        ("first(close, ts)", "first_value(close ORDER BY ts)"),
        ("last(close, ts)", "last_value(close ORDER BY ts)"),
        ("first(close, -CAST(volume AS BIGINT))", "last_value(close ORDER BY volume)"),
        ("last(close, CAST(-volume AS DOUBLE))", "first_value(close ORDER BY volume)"),
        ("last(close, CAST(volume AS BIGINT UNSIGNED))", "last_value(close ORDER BY volume)"),
        ("first(nullif(close, 100), ts) IGNORE NULLS", "min(nullif(close, 100))"),
        ("last(close > 101, ts)", "last_value(close > 101 ORDER BY ts)"),
        ("last(arrow_cast(close, 'Utf8'), ts)", "last_value(arrow_cast(close, 'Utf8') ORDER BY ts)"),
        ("first(close, ts) FILTER (WHERE volume > 100)", "min(close) FILTER (WHERE volume > 100)"),
        ("last(close, CASE WHEN volume < 10 THEN ts END)", "max(close) FILTER (WHERE volume < 10)"),
        ("first(close, CASE WHEN volume < 0 THEN ts END)", "min(close) FILTER (WHERE volume < 0)"),
    ] {
        for group in ["volume % 7", "symbol, volume % 3", "time_bucket('1h', ts)", "1"] {
            let query = |select: &str| {
                format!("SELECT {group} AS g, {select} AS v FROM klines_1m GROUP BY {group} ORDER BY {group}")
            };
            assert_eq!(fixture.rows(&query(own)), fixture.rows(&query(other)), "{own} {group}");
        }
        assert_eq!(
            fixture.one(&format!("SELECT {own} FROM klines_1m")),
            fixture.one(&format!("SELECT {other} FROM klines_1m")),
            "{own}"
        );
    }
    let moving = "OVER (PARTITION BY symbol ORDER BY ts ROWS BETWEEN 4 PRECEDING AND CURRENT ROW)";
    assert_eq!(
        fixture.rows(&format!(
            "SELECT close - first(close, ts) {moving} FROM klines_1m WHERE volume >= 995 AND symbol = 'A' ORDER BY ts"
        )),
        ["0.00", "0.01", "0.02", "0.03", "0.04"]
    );
    for wrong in ["first(close, symbol)", "first(close, close)", "last(close)"] {
        let error = fixture.fails(&format!("SELECT {wrong} FROM klines_1m"));
        assert_eq!(error.code(), ErrorCode::InvalidArgument, "{wrong}: {error:?}");
        assert!(error.to_string().contains("(value, ts)"), "{error:?}");
    }
}

#[test]
fn snapshots_are_read_by_name_and_a_statement_reads_one_commit() {
    let fixture = Fixture::new();
    fixture.bars("A", "1m", 2, 10);
    fixture.store.create_snapshot("before").unwrap();
    fixture.store.delete_range(&SeriesKey::kline("A", "1m").unwrap(), (i64::MIN, START + 4 * MINUTE), None).unwrap();
    assert_eq!(fixture.one("SELECT count(*) FROM klines_1m"), "5");
    assert_eq!(fixture.one("SET fastk.as_of = 'before'; SELECT count(*) FROM klines_1m"), "10");
    assert_eq!(fixture.one("SELECT count(*) FROM as_of('klines_1m', 'before')"), "10");
    assert_eq!(
        fixture.one("SELECT count(*), count(b.ts) FROM as_of('klines_1m', 'before') a LEFT JOIN klines_1m b ON a.ts = b.ts AND a.close = b.close"),
        "10 5"
    );
    let request = SqlRequest {
        sql: "SELECT count(*) FROM klines_1m".into(),
        as_of: Some("before".into()),
        ..SqlRequest::default()
    };
    assert_eq!(fixture.rows_with(request).unwrap(), ["10"]);
    assert_eq!(fixture.fails("SET fastk.as_of = 'none'; SELECT 1").code(), ErrorCode::SnapshotNotFound);
    assert_eq!(fixture.fails("SELECT * FROM as_of('klines_1m', 'none')").code(), ErrorCode::SnapshotNotFound);
    assert_eq!(fixture.rows("SELECT name FROM system.snapshots"), ["before"]);
}

#[test]
fn latest_has_the_last_rows_of_each_series() {
    let fixture = Fixture::new();
    fixture.bars("A", "1m", 2, 100);
    fixture.bars("B", "1m", 2, 50);
    fixture.bars("C", "1m", 2, 0);
    assert_eq!(fixture.rows("SELECT symbol, close FROM latest('klines_1m') ORDER BY symbol"), ["A 100.99", "B 100.49"]);
    assert_eq!(
        fixture.rows("SELECT symbol, close FROM latest('klines_1m', 2) WHERE symbol = 'B' ORDER BY ts DESC"),
        ["B 100.49", "B 100.48"]
    );
    // A condition selects among the last rows; it does not look for others.
    assert_eq!(fixture.one("SELECT count(*) FROM latest('klines_1m', 3) WHERE close < 100.48"), "1");
    for wrong in
        ["SELECT * FROM latest()", "SELECT * FROM latest('klines_1m', 0)", "SELECT * FROM latest('klines_1m', 1.5)"]
    {
        assert_eq!(fixture.fails(wrong).code(), ErrorCode::InvalidArgument, "{wrong}");
    }
    assert_eq!(fixture.fails("SELECT * FROM latest('none')").code(), ErrorCode::NotFound);
}

#[test]
fn resample_has_the_buckets_of_each_series() {
    let fixture = Fixture::new();
    fixture.bars("A", "1m", 2, 1_000);
    fixture.bars("B", "1m", 4, 300);
    fixture.bars("C", "1m", 2, 0);
    let grouped = "SELECT symbol, time_bucket('1h', ts) AS ts, first(open, ts) AS open, max(high) AS high, \
        min(low) AS low, last(close, ts) AS close, sum(volume) AS volume, count(*) AS source_rows \
        FROM klines_1m GROUP BY 1, 2";
    let wanted = "symbol, ts, open, high, low, close, volume, source_rows";
    for rest in [
        "ORDER BY symbol, ts",
        "WHERE ts >= '2024-02-01T00:30:00Z' AND ts < '2024-02-01T04:00:00Z' ORDER BY symbol, ts",
        "WHERE symbol = 'B' ORDER BY ts DESC LIMIT 2",
        "WHERE close > 101.5 ORDER BY symbol, ts",
        "WHERE source_rows < 60 ORDER BY symbol, ts",
    ] {
        let expected = fixture.rows(&format!("SELECT {wanted} FROM ({grouped}) {rest}"));
        let found = fixture.rows(&format!("SELECT {wanted} FROM resample('klines_1m', '1h') {rest}"));
        assert!(!expected.is_empty(), "{rest}");
        assert_eq!(found, expected, "{rest}");
    }
    assert_eq!(fixture.one("SELECT count(*) FROM resample('klines_1m', '1h')"), "22");
    // The first bucket starts before the first row.
    let first = "SELECT min(ts) = '2024-01-29T00:00:00Z', sum(source_rows) FROM resample('kline/A/1m', '1w')";
    assert_eq!(fixture.one(first), "true 1000");
    let local = "SELECT ts FROM resample('kline/A/1m', '1d', 'tz=America/New_York') ORDER BY ts LIMIT 1";
    assert_eq!(fixture.one(local), "2024-01-31T05:00:00Z");
    let agg = "SELECT bars, peak FROM resample('kline/A/1m', '1d', 'agg=count as bars,high:max as peak', 'fill=none')";
    assert_eq!(fixture.one(agg), "1000 110.99");
    let plan = fixture.plan("SELECT ts, close FROM resample('klines_1m', '1h') WHERE symbol = 'A' ORDER BY ts");
    assert!(plan.contains("every=1h") && !plan.contains("SortExec"), "{plan}");
    for wrong in [
        "SELECT * FROM resample('klines_1m')",
        "SELECT * FROM resample('klines_1m', '90s')",
        "SELECT * FROM resample('klines_1m', '1h', 'zone=UTC')",
        "SELECT * FROM resample('klines_1m', '1h', 'fill=half')",
        "SELECT * FROM resample('klines_1m', '1h', 'tz=Mars')",
    ] {
        assert_eq!(fixture.fails(wrong).code(), ErrorCode::InvalidArgument, "{wrong}");
    }
    assert_eq!(fixture.fails("SELECT * FROM resample('none', '1h')").code(), ErrorCode::NotFound);
}

#[test]
fn parameters_are_values_of_their_type() {
    let fixture = Fixture::new();
    fixture.bars("A", "1m", 2, 100);
    let run = |sql: &str, parameters: &[Value]| {
        let request = SqlRequest {
            sql: sql.into(),
            parameters: SqlParameters::Values(parameters.to_vec()),
            ..SqlRequest::default()
        };
        fixture.rows_with(request)
    };
    let sql = "SELECT count(*) FROM klines_1m WHERE symbol = ? AND ts >= ? AND close < ?";
    assert_eq!(run(sql, &[json!("A"), json!("2024-02-01T00:10:00Z"), json!(100.5)]).unwrap(), ["40"]);
    assert_eq!(run("SELECT $1 + 1, $2", &[json!(1), json!("x'; DROP")]).unwrap(), ["2 x'; DROP"]);
    assert_eq!(run("SELECT count(*) FROM klines_1m LIMIT ?", &[json!(1)]).unwrap(), ["100"]);
    for (sql, parameters) in [("SELECT ?", vec![]), ("SELECT $1", vec![json!([1])])] {
        assert_eq!(run(sql, &parameters).unwrap_err().code(), ErrorCode::InvalidArgument, "{sql}");
    }
}

#[test]
fn nobody_sees_series_of_others() {
    let fixture = Fixture::new();
    fixture.bars("A", "1m", 2, 10);
    fixture.bars("SECRET", "1m", 2, 10);
    fixture.bars("SECRET", "1h", 2, 10);
    fixture.scalar("scalar/SECRET/A/1h/x", &[1.0]);
    let run = |sql: &str| fixture.run_as("kline/A", SqlRequest { sql: sql.into(), ..SqlRequest::default() });
    let shown = |sql: &str| match run(sql) {
        Ok(batches) => lines(&batches).join("\n"),
        Err(error) => format!("{} {:?}", error.detail(), error.hint()),
    };
    assert_eq!(shown("SELECT DISTINCT symbol FROM klines_1m"), "A");
    assert_eq!(shown("SELECT count(*) FROM klines_1m"), "10");
    assert_eq!(shown("SELECT count(*) FROM klines_1m WHERE symbol = 'SECRET'"), "0");
    assert_eq!(shown("SELECT key FROM system.series"), "kline/A/1m");
    assert_eq!(
        shown("SELECT DISTINCT table_name FROM information_schema.tables WHERE table_schema = 'public'"),
        "klines_1m"
    );
    for sql in [
        "SELECT * FROM \"kline/SECRET/1m\"",
        "SELECT * FROM klines_1h",
        "SELECT * FROM scalars_secret_1h",
        "SELECT * FROM kline.\"1h\"",
        "SELECT * FROM latest('kline/SECRET/1m')",
        "SELECT * FROM scalar.\"SECRET/1h\"",
    ] {
        let error = run(sql).unwrap_err();
        assert_eq!(error.code(), ErrorCode::NotFound, "{sql}: {error:?}");
    }
    for sql in [
        "EXPLAIN SELECT * FROM klines_1m",
        "EXPLAIN ANALYZE SELECT * FROM klines_1m",
        "EXPLAIN VERBOSE SELECT count(*) FROM klines_1m",
        "SELECT * FROM information_schema.columns",
        "SELECT * FROM system.chunks",
        "SHOW TABLES",
        "SELECT nothing FROM klines_1m",
    ] {
        assert!(!shown(sql).to_lowercase().contains("secret"), "{sql}: {}", shown(sql));
    }
}

#[test]
fn every_door_is_shut() {
    let fixture = Fixture::new();
    fixture.bars("A", "1m", 2, 10);
    let file = fixture.root.path().join("x.csv");
    std::fs::write(&file, "a\n1\n").unwrap();
    let file = file.display();
    for sql in [
        format!("COPY (SELECT 1) TO '{file}.out'"),
        format!("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '{file}'"),
        format!("SELECT * FROM '{file}'"),
        format!("SELECT * FROM \"{file}\""),
        format!("SELECT * FROM read_csv('{file}')"),
        "SELECT * FROM '/etc/passwd'".into(),
        "CREATE TABLE t AS SELECT 1".into(),
        "INSERT INTO klines_1m SELECT * FROM klines_1m".into(),
        "INSERT INTO system.series VALUES (1)".into(),
        "DROP TABLE klines_1m".into(),
        "SET datafusion.runtime.memory_limit = '10G'; SELECT 1".into(),
        "SELECT * FROM information_schema.df_settings".into(),
        "SHOW ALL".into(),
        "WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t".into(),
        "EXECUTE p".into(),
    ] {
        let error = fixture.fails(&sql);
        let shut =
            [ErrorCode::PermissionDenied, ErrorCode::NotFound, ErrorCode::InvalidArgument, ErrorCode::Unimplemented];
        assert!(shut.contains(&error.code()), "{sql}: {error:?}");
        assert!(error.code() != ErrorCode::Internal);
    }
    assert_eq!(
        std::fs::read_dir(fixture.root.path()).unwrap().count(),
        2 + usize::from(fixture.root.path().join("spill").exists())
    );
    // Deep nesting neither overflows the stack nor is executed.
    let deep = format!("SELECT {}1{}", "(".repeat(10_000), ")".repeat(10_000));
    assert_eq!(fixture.fails(&deep).code(), ErrorCode::InvalidArgument);
    let long = |terms: usize| format!("SELECT 1 {}", "+ 1 ".repeat(terms));
    assert_eq!(fixture.fails(&long(30_000)).code(), ErrorCode::TooLarge);
    assert_eq!(fixture.one(&long(900)), "901");
}

#[test]
fn memory_time_and_number_of_statements_are_limited() {
    let settings = SqlSettings {
        threads: 2,
        query_memory_bytes_max: 16 << 20,
        timeout_ms: 60_000,
        queries_max: 1,
        queue_max: 1,
        ..SqlSettings::default()
    };
    let fixture = Fixture::with(settings);
    fixture.bars("A", "1m", 2, 200_000);
    let numbers = "generate_series(1, 2000000)";
    let error = fixture.fails(&format!("SELECT count(*) FROM {numbers} a(x) JOIN {numbers} b(x) ON a.x = b.x"));
    assert_eq!(error.code(), ErrorCode::TooLarge, "{error:?}");
    // A sort beyond the memory uses the disk.
    assert_eq!(fixture.one("SELECT count(*) FROM (SELECT *, row_number() OVER (ORDER BY volume % 1000, close) r FROM klines_1m) WHERE r > 0"), "200000");
    let endless = "SELECT count(*) FROM generate_series(1, 100000000000) a(x) WHERE x % 7 = 8";
    // Joins that compare all rows of both tables before they return one, and functions that count up for ever.
    let pairs = "FROM klines_1m a JOIN klines_1m b ON";
    for sql in [
        endless.to_owned(),
        format!("SELECT count(*) {pairs} a.close < b.close - 10000000"),
        "SELECT count(*) FROM klines_1m a, klines_1m b WHERE a.close < b.close".to_owned(),
        format!("SELECT count(*) {pairs} a.volume - a.volume = b.volume - b.volume AND a.close < b.close - 10000000"),
        "SELECT sum(a.close + b.close) FROM klines_1m a, klines_1m b".to_owned(),
        "SELECT count(*) FROM klines_1m WHERE close - close IN (SELECT close - close FROM klines_1m)".to_owned(),
        "SELECT count(*) FROM klines_1m a WHERE NOT EXISTS (SELECT 1 FROM klines_1m b WHERE b.close < a.close - 10000000)".to_owned(),
    ] {
        let timeout = Some(Duration::from_millis(200));
        let request = SqlRequest { sql: sql.clone(), timeout, ..SqlRequest::default() };
        let error = fixture.rows_with(request).unwrap_err();
        assert_eq!(error.code(), ErrorCode::DeadlineExceeded, "{sql} {error:?}");
        assert!(error.detail().contains("within 200 ms"), "{sql} {error:?}");
        // Its thread is free again.
        assert_eq!(fixture.one("SELECT 1"), "1");
    }
    for (sql, code) in [
        ("SELECT length(repeat('x', 2000000000))", ErrorCode::TooLarge),
        ("SELECT max(length(rpad(symbol, 1000000))) FROM klines_1m", ErrorCode::TooLarge),
        ("SELECT range(1, 100000000000)", ErrorCode::InvalidArgument),
        ("SELECT array_repeat(1, 100000000000)", ErrorCode::InvalidArgument),
    ] {
        let error = fixture.fails(sql);
        assert_eq!(error.code(), code, "{sql} {error:?}");
    }
    assert_eq!(fixture.one("SELECT repeat('ab', 3) || lpad('x', 3, '-')"), "ababab--x");
    std::thread::scope(|scope| {
        let running = scope.spawn(|| fixture.fails(endless));
        let waiting = scope.spawn(|| {
            // Until the other has its place.
            while fixture.engine.running().iter().all(|query| query.status.name() == "waiting") {
                std::thread::sleep(Duration::from_millis(1));
            }
            fixture.try_rows("SELECT 1")
        });
        while fixture.engine.running().len() < 2 {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(fixture.fails("SELECT 2").code(), ErrorCode::Overloaded);
        // Cancelling the one that runs lets the other run.
        let first = fixture.engine.running().remove(0);
        assert!(first.sql.contains("generate_series") && fixture.engine.cancel(first.id, |_| true));
        assert!(!fixture.engine.cancel(999, |_| true));
        let error = running.join().unwrap();
        assert!(error.code() == ErrorCode::DeadlineExceeded && error.detail().contains("cancelled"), "{error:?}");
        assert_eq!(waiting.join().unwrap().unwrap(), ["1"]);
    });
    assert!(fixture.engine.running().is_empty());
}

#[test]
fn scalars_are_one_table_by_time_with_a_column_for_each_name() {
    let fixture = Fixture::new();
    fixture.scalar("scalar/feature/A/1h/rsi_14", &[70.5, 30.25, 50.0]);
    fixture.scalar("scalar/feature/A/1h/macd", &[1.0, 2.0]);
    fixture.scalar("scalar/feature/B/1h/macd", &[3.0]);
    fixture.scalar("scalar/feature/C/1h/other", &[9.0]);
    let key = SeriesKey::parse("scalar/feature/A/1h/exact").unwrap();
    let value = serde_json::from_value(json!({"digits": 2})).unwrap();
    let spec = SeriesSpec { value: Some(value), ..SeriesSpec::of_key(&key) };
    fixture.store.register(spec.resolve().unwrap()).unwrap();
    let ts = vec![START + 1_800_000, START + 3_600_000];
    fixture.store.write(&key, Rows::of_words(ts, vec![vec![150, 250]]), WriteMode::Upsert, None).unwrap();
    for sealed in [false, true] {
        if sealed {
            fixture.store.seal(&[]).unwrap();
        }
        assert_eq!(
            fixture.rows("SELECT * FROM scalars('feature', '1h', 'rsi_14', 'macd', 'exact') ORDER BY symbol, ts"),
            [
                "A 2024-02-01T00:00:00Z 70.5 1.0 null",
                "A 2024-02-01T00:30:00Z null null 1.50",
                "A 2024-02-01T01:00:00Z 30.25 2.0 2.50",
                "A 2024-02-01T02:00:00Z 50.0 null null",
                "B 2024-02-01T00:00:00Z null 3.0 null",
            ]
        );
        // A row is that of any name, whether it is shown or not.
        for (sql, rows) in [
            ("SELECT count(*) FROM scalars('feature', '1h', 'macd', 'exact')", "4"),
            ("SELECT count(macd) FROM scalars('feature', '1h', 'macd', 'exact')", "3"),
            (
                "SELECT count(*) FROM scalars('feature', '1h', 'macd', 'exact') WHERE symbol = 'A' AND ts < '2024-02-01T01:00:00Z'",
                "2",
            ),
            ("SELECT sum(macd) FROM scalars('feature', '1h', 'macd', 'exact') WHERE exact > 1.5", "2.0"),
            (
                "SELECT exact FROM scalars('feature', '1h', 'macd', 'exact') WHERE symbol = 'A' ORDER BY ts DESC LIMIT 1",
                "2.50",
            ),
        ] {
            assert_eq!(fixture.one(sql), rows, "{sql}");
        }
    }
    let plan = fixture.plan("SELECT ts, macd FROM scalars('feature', '1h', 'macd', 'exact') WHERE symbol = 'A' AND ts >= '2024-02-01T01:00:00Z' ORDER BY ts");
    assert!(!plan.contains("SortExec") && !plan.contains("FilterExec"), "{plan}");
    assert_eq!(plan.matches("series=1").count(), 2, "{plan}");
    for (sql, code) in [
        ("SELECT * FROM scalars('feature', '1h')", ErrorCode::InvalidArgument),
        ("SELECT * FROM scalars('feature', '1h', 'macd', 'macd')", ErrorCode::InvalidArgument),
        ("SELECT * FROM scalars('feature', '1h', 'nothing')", ErrorCode::NotFound),
        ("SELECT * FROM scalars('risk', '1h', 'macd')", ErrorCode::NotFound),
    ] {
        assert_eq!(fixture.fails(sql).code(), code, "{sql}");
    }
    let request =
        SqlRequest { sql: "SELECT symbol FROM scalars('feature', '1h', 'macd')".into(), ..SqlRequest::default() };
    assert_eq!(lines(&fixture.run_as("scalar/feature/B", request).unwrap()), ["B"]);
}

/// What EXPLAIN ANALYZE counts, summed over all scans.
fn counted(text: &str, name: &str) -> u64 {
    let name = format!("{name}=");
    let found = text.split(name.as_str()).skip(1);
    found
        .map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default().parse::<u64>().unwrap_or(0))
        .sum()
}

#[test]
fn rows_that_no_longer_matter_are_not_read() {
    let fixture = Fixture::new();
    for symbol in ["A", "B"] {
        fixture.bars(symbol, "1m", 2, 200_000);
    }
    fixture.bars("C", "5m", 2, 60);
    fixture.store.seal(&[]).unwrap();
    let analyzed = |sql: &str| fixture.one(&format!("EXPLAIN ANALYZE {sql}"));
    let all = analyzed("SELECT symbol, close FROM klines_1m WHERE volume % 7 = 100");
    let blocks = counted(&all, "blocks_scanned");
    for sql in [
        // Closes ascend: after the first block none is smaller.
        "SELECT close FROM klines_1m WHERE symbol = 'A' ORDER BY close LIMIT 10",
        "SELECT symbol, ts, close FROM klines_1m ORDER BY close, symbol LIMIT 10",
        "SELECT min(close) FROM klines_1m",
        "SELECT count(*) FROM klines_1m b JOIN klines_5m a ON a.ts = b.ts",
        "SELECT count(*) FROM klines_1m b JOIN klines_5m a ON a.close = b.close",
    ] {
        let found = analyzed(sql);
        let read = counted(&found, "blocks_scanned");
        assert!(read * 2 < blocks && found.contains("dynamic=["), "{sql}: {read} of {blocks} {found}");
    }
    assert_eq!(fixture.one("SELECT count(*) FROM klines_1m b JOIN klines_5m a ON a.ts = b.ts"), "120");
    assert_eq!(fixture.one("SELECT count(*) FROM klines_1m b JOIN klines_5m a ON a.close = b.close"), "120");
    assert_eq!(
        fixture.rows("SELECT close, symbol FROM klines_1m ORDER BY close, symbol LIMIT 3"),
        ["100.00 A", "100.00 B", "100.01 A"]
    );
    assert_eq!(
        fixture.rows("SELECT close, symbol FROM klines_1m ORDER BY close DESC, symbol DESC LIMIT 3"),
        ["2099.99 B", "2099.99 A", "2099.98 B"]
    );
    assert_eq!(fixture.one("SELECT min(close), max(close) FROM klines_1m WHERE volume >= 0"), "100.00 2099.99");
    assert_eq!(
        fixture.one("SELECT count(*) FROM (SELECT * FROM klines_1m LIMIT 1000) b JOIN klines_5m a ON a.ts = b.ts"),
        "60"
    );
}

#[test]
fn options_of_resample_have_names() {
    let fixture = Fixture::new();
    fixture.bars("A", "1m", 2, 150);
    let count = |options: &str| {
        fixture.one(&format!("SELECT count(*), sum(source_rows) FROM resample('klines_1m', {options})"))
    };
    assert_eq!(count("'1h'"), "3 150");
    assert_eq!(count("every => '1h'"), "3 150");
    assert_eq!(count("'1h', partial => 'drop'"), "2 120");
    assert_eq!(count("'1h', partial => drop, agg => ARRAY['close:last as c', 'count']"), "2 120");
    assert_eq!(count("every => '1d', tz => 'America/New_York', align => 'local', offset => '09:30'"), "1 150");
    assert_eq!(count("'30m', session => '00:00-01:00', tz => 'UTC', fill => null"), "2 60");
    assert_eq!(fixture.one("SELECT max(c) FROM resample('klines_1m', '1h', agg => 'close:max as c, count')"), "101.49");
    for (options, part) in [
        ("'1h', fill => 'prior'", "fill"),
        ("'1h', align => 'moon'", "align"),
        ("'1h', partial => 'keep'", "partial"),
        ("'1h', zone => 'UTC'", "zone"),
        ("'1h', tz => 'Mars/Base'", "Mars/Base"),
        ("'1h', fill => 1 + 1", "fill"),
        ("'1h', partial => drop, fill => prev", "partial"),
        ("fill => 'prev'", "every"),
    ] {
        let error = fixture.fails(&format!("SELECT * FROM resample('klines_1m', {options})"));
        assert_eq!(error.code(), ErrorCode::InvalidArgument, "{options} {error:?}");
        assert!(error.detail().contains(part), "{options} {error:?}");
    }
}

#[test]
fn rows_that_are_dropped_end_their_statement() {
    let fixture = Fixture::new();
    fixture.bars("A", "1m", 2, 50_000);
    let views = Arc::new(TestViews { store: Arc::clone(&fixture.store), prefix: "" });
    let request = SqlRequest { sql: "SELECT a.ts FROM klines_1m a, klines_1m b".into(), ..SqlRequest::default() };
    let mut rows = fixture.engine.start_blocking(request, views).unwrap();
    assert!(rows.next().unwrap().is_ok());
    assert_eq!(fixture.engine.running().len(), 1);
    drop(rows);
    assert!(fixture.engine.running().is_empty());
}

#[test]
fn errors_name_what_is_wrong_and_the_way_out() {
    let fixture = Fixture::new();
    fixture.bars("A", "1m", 2, 3);
    for (sql, code, detail, hint) in [
        ("SELECT * FROM klines_5m", ErrorCode::NotFound, "klines_5m", "SHOW TABLES"),
        ("SELECT clse FROM klines_1m", ErrorCode::InvalidArgument, "clse", "close"),
        (
            "SELECT * FROM klines_1m WHERE ts > 1706745600000",
            ErrorCode::InvalidArgument,
            "Timestamp",
            "to_timestamp_millis",
        ),
        ("SELECT 1 / 0", ErrorCode::InvalidArgument, "zero", "nullif"),
        ("SELEC 1", ErrorCode::InvalidArgument, "SQL", ""),
        ("SELECT time_bucket('5x', ts) FROM klines_1m", ErrorCode::InvalidArgument, "5x", "4h"),
        ("SELECT time_bucket('1d', ts, 'Mars/Base') FROM klines_1m", ErrorCode::InvalidArgument, "Mars/Base", "IANA"),
    ] {
        let error = fixture.fails(sql);
        assert_eq!(error.code(), code, "{sql}: {error:?}");
        assert!(error.detail().contains(detail), "{sql}: {error:?}");
        assert!(error.hint().unwrap_or_default().contains(hint), "{sql}: {error:?}");
    }
}
