//! The phases together, into a sink in memory.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{Error, ErrorCode, Result};
use crate::service::Mode;
use crate::types::{ColumnType, Rows, SeriesDef, SeriesKey, SeriesSpec, TimeUnit};

use super::args::{Settings, tests::args};
use super::open::tests::{file, gzip};
use super::sink::{Sink, Written};
use super::{Outcome, import};

#[derive(Debug, Default)]
struct Memory {
    def: Option<SeriesDef>,
    rows: BTreeMap<i64, Vec<i64>>,
    writes: usize,
    sealed: bool,
    /// The write of this number fails.
    fail_at: Option<usize>,
}

impl Sink for Memory {
    fn name(&self) -> String {
        "memory".into()
    }

    fn registered(&mut self, _key: &SeriesKey) -> Result<Option<SeriesDef>> {
        Ok(self.def.clone())
    }

    fn register(&mut self, spec: &SeriesSpec) -> Result<SeriesDef> {
        let def = spec.clone().resolve()?;
        self.def = Some(def.clone());
        Ok(def)
    }

    fn write(&mut self, def: &SeriesDef, rows: Rows, mode: Mode) -> Result<Written> {
        rows.check_shape(def.columns.len())?;
        assert!(rows.len() <= super::deliver::BATCH_ROWS);
        if self.fail_at == Some(self.writes) {
            return Err(Error::new(ErrorCode::StorageFull, "the disk is full"));
        }
        self.writes += 1;
        let mut written = Written { rows: rows.len() as u64, replaced: 0 };
        for (at, ts) in rows.ts.iter().enumerate() {
            let cells = rows.columns.iter().map(|column| column[at]).collect();
            let old = self.rows.insert(*ts, cells);
            assert!(mode == Mode::Upsert || old.is_none());
            written.replaced += u64::from(old.is_some());
        }
        Ok(written)
    }

    fn seal(&mut self, _key: &SeriesKey) -> Result<()> {
        self.sealed = true;
        Ok(())
    }
}

fn run(memory: &mut Memory, paths: &[&Path], flags: &str) -> Result<Outcome> {
    let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    let settings = Settings::of(&args(&format!("{} --series kline/X/1m --root r {flags}", paths.join(" "))))?;
    let outcome = import(&settings, Some(memory), &mut |_| ());
    if let Ok(outcome) = &outcome {
        assert!(!outcome.summary.text().is_empty());
    }
    outcome
}

fn once(text: &str, flags: &str) -> (Memory, Outcome) {
    let (_folder, path) = file("x.csv", text.as_bytes());
    let mut memory = Memory::default();
    let outcome = run(&mut memory, &[&path], flags).unwrap();
    (memory, outcome)
}

const MAP: &str = "--map ts=0,open=1,close=2,high=3,low=4,volume=5";

fn digits(memory: &Memory, column: &str) -> ColumnType {
    let def = memory.def.as_ref().unwrap();
    def.columns[def.column(column).unwrap()].kind
}

#[test]
fn text_arrives_exact_and_a_second_time_changes_nothing() {
    let text = "1364774820000,93.25,93.3,93.3,93.25,8e-8\r\n1364774880000,100,100,100,100,93.3\r\n";
    let (_folder, path) = file("x.csv", &gzip(text.as_bytes()));
    let mut memory = Memory::default();
    let first = run(&mut memory, &[&path], MAP).unwrap();
    assert!(first.error.is_none() && memory.sealed && first.summary.registered);
    assert_eq!((first.summary.rows_read, first.summary.rows_written, first.summary.rows_replaced), (2, 2, 0));
    assert!(first.summary.rounded.is_empty());
    assert_eq!(digits(&memory, "open"), ColumnType::Decimal { digits: 2 });
    assert_eq!(digits(&memory, "volume"), ColumnType::Decimal { digits: 8 });
    assert_eq!(memory.rows[&1364774820000], [9325, 9330, 9325, 9330, 8]);
    let stored = memory.rows.clone();
    let second = run(&mut memory, &[&path], MAP).unwrap();
    assert_eq!((second.summary.rows_written, second.summary.rows_replaced), (2, 2));
    assert!(!second.summary.registered);
    assert_eq!(memory.rows, stored);
}

#[test]
fn one_invalid_row_stops_everything_unless_it_is_to_be_skipped() {
    let text = "date,open,high,low,close,volume\n2017-01-03,1,2,1,1,5\n,1,2,1,1,5\n2017-01-05,1,0.5,1,1,5\n\
                2017-01-06,1,2,1,x,5\n2017-01-07,1,2,1,1,-5\n2017-01-08,1,2,1\n2017-01-09,1,2,1,1,5\n";
    let (memory, refused) = once(text, "");
    let error = refused.error.unwrap();
    assert_eq!(error.code(), ErrorCode::InvalidRows);
    assert!(refused.summary.text().starts_with("nothing imported"));
    assert!(memory.def.is_none() && memory.rows.is_empty(), "not even the registration is left");
    let reasons: Vec<_> =
        refused.summary.invalid.iter().map(|r| (r.row, r.line.unwrap(), &*r.field, r.reason)).collect();
    assert_eq!(
        reasons,
        [
            (1, 3, "ts", "bad_time"),
            (2, 4, "high", "ohlc"),
            (3, 5, "close", "not_a_number"),
            (4, 6, "volume", "negative_volume"),
            (5, 7, "close", "missing"),
        ]
    );
    let (memory, skipped) = once(text, "--on-invalid skip");
    assert!(skipped.error.is_none());
    assert_eq!((skipped.summary.rows_written, skipped.summary.rows_invalid, skipped.summary.rows_skipped), (2, 5, 5));
    assert_eq!(memory.rows.len(), 2);
    let (memory, kept) = once(text, "--on-invalid skip --validate none");
    assert_eq!((kept.summary.rows_invalid, kept.summary.rows_inconsistent), (3, 2));
    assert_eq!(kept.summary.inconsistent.iter().map(|row| row.row).collect::<Vec<_>>(), [2, 4]);
    assert_eq!(memory.rows.len(), 4);
}

#[test]
fn repeated_times_are_reported_and_the_last_stays() {
    let text = "date,open,high,low,close,volume\n2017-01-03,1,2,1,1,5\n2017-01-04,1,2,1,1,5\n2017-01-03,1,2,1,2,5\n\
                2017-01-04,1,2,1,1.0,5\n";
    let (memory, outcome) = once(text, "");
    let summary = outcome.summary;
    assert_eq!((summary.rows_read, summary.rows_written, summary.rows_duplicate), (4, 2, 2));
    let seen: Vec<_> = summary.duplicates.iter().map(|r| (r.row, r.kept_row, r.identical)).collect();
    assert_eq!(seen, [(0, 2, false), (1, 3, true)]);
    assert_eq!(memory.rows.values().map(|cells| cells[3]).collect::<Vec<_>>(), [20, 10]);
    let (memory, outcome) = once(text, "--mode insert");
    assert_eq!(outcome.error.unwrap().code(), ErrorCode::InvalidRows);
    assert!(memory.rows.is_empty());
    assert_eq!(
        outcome.summary.invalid.iter().map(|row| (row.row, row.reason)).collect::<Vec<_>>(),
        [(2, "duplicate"), (3, "duplicate")]
    );
    let (memory, _) = once(text, "--mode insert --on-invalid skip");
    assert_eq!(memory.rows.values().map(|cells| cells[3]).collect::<Vec<_>>(), [10, 10], "the first stays");
}

#[test]
fn digits_of_the_user_round_and_are_counted() {
    let text = "ts,open,high,low,close,volume\n1640995200000,1.005,1.015,1.00,1.01,0.4\n1640995260000,1,1,1,1,1\n";
    let (memory, outcome) = once(text, "--price-digits 2 --volume-digits 0");
    assert_eq!(memory.rows[&1640995200000], [100, 102, 100, 101, 0], "half to even");
    let rounded: Vec<_> = outcome.summary.rounded.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    assert_eq!(rounded, [("high", 1), ("open", 1), ("volume", 1)]);
    let (_, outcome) = once(text, "--price-digits 2 --rounding exact");
    assert_eq!(outcome.summary.invalid[0].reason, "precision_loss");
}

#[test]
fn a_registered_series_keeps_its_digits() {
    let (_folder, path) = file("x.csv", b"ts,open,high,low,close,volume\n1640995200000,1.005,1.005,1.005,1.005,1\n");
    let mut memory = Memory::default();
    let mut spec = SeriesSpec::of_key(&SeriesKey::parse("kline/X/1m").unwrap());
    spec.price_digits = Some(1);
    memory.register(&spec).unwrap();
    let outcome = run(&mut memory, &[&path], "").unwrap();
    assert_eq!(outcome.summary.rounded["open"], 1);
    assert_eq!(memory.rows[&1640995200000][0], 10);
    assert_eq!(f64::from_bits(memory.rows[&1640995200000][4].cast_unsigned()), 1.0, "volume stays float64");
    assert_eq!(run(&mut memory, &[&path], "--price-digits 3").unwrap_err().code(), ErrorCode::SchemaMismatch);
    assert_eq!(run(&mut memory, &[&path], "--extra count").unwrap_err().code(), ErrorCode::InvalidArgument);
}

#[test]
fn times_finer_than_a_millisecond_choose_the_unit() {
    let text = "ts,open,high,low,close,volume\n1640995200000001,1,1,1,1,1\n1640995260000000,1,1,1,1,1\n";
    let (memory, outcome) = once(text, "");
    assert_eq!(outcome.summary.unit, TimeUnit::Us);
    assert_eq!(memory.rows.keys().next(), Some(&1640995200000001));
    let (memory, _) = once(&text.replace("000001,", "000000,"), "");
    assert_eq!(memory.rows.keys().next(), Some(&1640995200000));
}

#[test]
fn files_of_different_units_make_one_series() {
    let (_a, old) = file("a.csv", b"open_time,open,high,low,close,volume\n1735516800000,1,1,1,1,1\n");
    let (_b, new) = file("b.csv", b"1735689600000000,1,1,1,1,2\n");
    let map = "--map ts=0,open=1,high=2,low=3,close=4,volume=5";
    let mut memory = Memory::default();
    let outcome = run(&mut memory, &[&new, &old], map).unwrap();
    assert!(outcome.error.is_none());
    assert_eq!(memory.rows.keys().copied().collect::<Vec<_>>(), [1735516800000, 1735689600000]);
}

#[test]
fn extra_columns_come_along() {
    let text =
        "open_time,open,high,low,close,volume,quote_volume,count,Adj Close\n1640995200000,1,1,1,1,1,2.50,7,1.5\n";
    let (memory, _) = once(text, "--extra quote_volume,count,adj_close:4");
    assert_eq!(memory.rows[&1640995200000][5..], [250, 7, 15_000]);
    assert_eq!(digits(&memory, "count"), ColumnType::Int64);
    assert_eq!(digits(&memory, "adj_close"), ColumnType::Decimal { digits: 4 });
}

#[test]
fn a_dry_run_writes_nothing() {
    let (memory, outcome) = once("1364774820000,1,1,1,1,1\n", &format!("{MAP} --dry-run"));
    assert!(outcome.error.is_none() && outcome.summary.dry_run);
    assert!(memory.def.is_none() && memory.rows.is_empty());
    assert_eq!((outcome.summary.rows_read, outcome.summary.rows_written), (1, 0));
}

#[test]
fn a_failed_write_is_told_with_what_was_written() {
    let mut text = String::new();
    for minute in 0..300_000_i64 {
        text.push_str(&format!("{},1,1,1,1,1\n", 1_364_774_820_000 + minute * 60_000));
    }
    let (_folder, path) = file("x.csv", text.as_bytes());
    let mut memory = Memory { fail_at: Some(1), ..Memory::default() };
    let outcome = run(&mut memory, &[&path], MAP).unwrap();
    let error = outcome.error.unwrap();
    assert_eq!(error.code(), ErrorCode::StorageFull);
    assert!(error.hint().unwrap().contains("262144 rows"));
    assert_eq!(outcome.summary.rows_written, 262_144);
    memory.fail_at = None;
    let again = run(&mut memory, &[&path], MAP).unwrap();
    assert_eq!((again.summary.rows_written, again.summary.rows_replaced), (300_000, 262_144));
}

#[test]
fn scalars_are_imported_by_value_or_by_their_name() {
    let (_folder, path) =
        file("x.json", br#"[{"timestamp":"2017-01-03","ema":null},{"timestamp":"2017-01-04","ema":1.25}]"#);
    let line = format!("{} --series scalar/indicator/X/1d/ema --root r --on-invalid skip", path.display());
    let settings = Settings::of(&args(&line)).unwrap();
    let mut memory = Memory::default();
    let outcome = import(&settings, Some(&mut memory), &mut |_| ()).unwrap();
    assert_eq!(outcome.summary.invalid[0].reason, "missing");
    assert_eq!(memory.rows.values().next().unwrap(), &[125]);
}
