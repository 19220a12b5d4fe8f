//! Tests of all phases together, with a sink in memory.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{Error, ErrorCode, Result};
use crate::ingest::show_cell;
use crate::ingest::source::file::tests::{file, gzip};
use crate::service::RowMode;
use crate::types::{
    CellLayout, Column, ColumnChange, ColumnType, KindDef, OrderRule, Rows, SeriesDef, SeriesKey, SeriesSpec, TimeUnit,
};

use super::args::{ImportSettings, tests::args};
use super::sink::{RegisteredSeries, Sink, SinkReply};
use super::{ImportOutcome, import};

#[derive(Debug, Default)]
struct MemorySink {
    def: Option<SeriesDef>,
    /// The one registered kind.
    kind: Option<KindDef>,
    rows: BTreeMap<i64, Vec<i64>>,
    /// The rows of series with other columns than words, as they were written.
    batches: Vec<Rows>,
    writes: usize,
    sealed: bool,
    /// The write of this number fails.
    fail_at: Option<usize>,
}

impl Sink for MemorySink {
    fn name(&self) -> String {
        "memory".into()
    }

    fn registered(&mut self, _key: &SeriesKey) -> Result<Option<RegisteredSeries>> {
        let first_ts = self.rows.keys().next().copied();
        Ok(self.def.clone().map(|def| RegisteredSeries { def, first_ts }))
    }

    fn unregister(&mut self, _key: &SeriesKey) {
        assert!(self.rows.is_empty());
        self.def = None;
    }

    fn change(&mut self, _key: &SeriesKey, columns: Vec<ColumnChange>) -> Result<SeriesDef> {
        let def = self.def.as_ref().unwrap().evolved(&columns)?;
        self.def = Some(def.clone());
        Ok(def)
    }

    fn kind(&mut self, key: &SeriesKey) -> Result<KindDef> {
        let kind = self.kind.clone().filter(|kind| kind.name == key.kind());
        kind.ok_or_else(|| Error::new(ErrorCode::NotFound, format!("there is no kind {}", key.kind())))
    }

    fn register(&mut self, spec: &SeriesSpec) -> Result<SeriesDef> {
        let def = match &self.kind {
            Some(kind) => spec.clone().resolve_as(kind)?,
            None => spec.clone().resolve()?,
        };
        self.def = Some(def.clone());
        Ok(def)
    }

    fn write(&mut self, def: &SeriesDef, rows: Rows, mode: RowMode) -> Result<SinkReply> {
        rows.check_columns(&def.columns)?;
        assert!(rows.len() <= super::deliver::BATCH_ROWS);
        if self.fail_at == Some(self.writes) {
            return Err(Error::new(ErrorCode::StorageFull, "the disk is full"));
        }
        self.writes += 1;
        let mut written = SinkReply { rows: rows.len() as u64, replaced: 0 };
        if def.layouts().any(|layout| layout != CellLayout::WORD) {
            self.batches.push(rows);
            return Ok(written);
        }
        for (at, ts) in rows.ts.iter().enumerate() {
            let cells = rows.columns.iter().map(|column| column.words()[at]).collect();
            let old = self.rows.insert(*ts, cells);
            assert!(mode == RowMode::Upsert || old.is_none());
            written.replaced += u64::from(old.is_some());
        }
        Ok(written)
    }

    fn seal(&mut self, _key: &SeriesKey) -> Result<()> {
        self.sealed = true;
        Ok(())
    }
}

fn run(memory: &mut MemorySink, paths: &[&Path], flags: &str) -> Result<ImportOutcome> {
    run_into("kline/X/1m", memory, paths, flags)
}

fn run_into(series: &str, memory: &mut MemorySink, paths: &[&Path], flags: &str) -> Result<ImportOutcome> {
    let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    let settings = ImportSettings::of(&args(&format!("{} --series {series} --root r {flags}", paths.join(" "))))?;
    let outcome = import(&settings, None, Some(memory), &mut |_| ());
    if let Ok(outcome) = &outcome {
        assert!(!outcome.summary.text(outcome.error.is_some()).is_empty());
    }
    outcome
}

fn import_text(text: &str, flags: &str) -> (MemorySink, ImportOutcome) {
    let (_folder, path) = file("x.csv", text.as_bytes());
    let mut memory = MemorySink::default();
    let outcome = run(&mut memory, &[&path], flags).unwrap();
    (memory, outcome)
}

const MAP: &str = "--map ts=0,open=1,close=2,high=3,low=4,volume=5";

fn digits(memory: &MemorySink, column: &str) -> ColumnType {
    let def = memory.def.as_ref().unwrap();
    def.columns[def.column(column).unwrap()].kind
}

#[test]
fn text_is_imported_exactly_and_a_second_import_changes_nothing() {
    let text = "1364774820000,93.25,93.3,93.3,93.25,8e-8\r\n1364774880000,100,100,100,100,93.3\r\n";
    let (_folder, path) = file("x.csv", &gzip(text.as_bytes()));
    let mut memory = MemorySink::default();
    let first = run(&mut memory, &[&path], MAP).unwrap();
    assert!(first.error.is_none() && memory.sealed && first.summary.registered);
    assert_eq!((first.summary.rows_read, first.summary.rows_written, first.summary.rows_replaced), (2, 2, 0));
    assert!(first.summary.rounded.is_empty());
    assert_eq!(digits(&memory, "open"), ColumnType::Decimal { digits: 4 });
    assert_eq!(digits(&memory, "volume"), ColumnType::Decimal { digits: 10 });
    assert_eq!(memory.rows[&1364774820000], [932_500, 933_000, 932_500, 933_000, 800]);
    let stored = memory.rows.clone();
    let second = run(&mut memory, &[&path], MAP).unwrap();
    assert_eq!((second.summary.rows_written, second.summary.rows_replaced), (2, 2));
    assert!(!second.summary.registered);
    assert_eq!(memory.rows, stored);
}

/// A series of trades with nulls, whose rows keep their order of arrival.
fn trades() -> SeriesDef {
    let column = |name: &str, kind| Column { nullable: true, ..Column::new(name, kind) };
    let columns = vec![
        Column::new("price", ColumnType::Decimal { digits: 2 }),
        column("quote", ColumnType::WideDecimal { digits: 3 }),
        column("size", ColumnType::UInt8),
        column("maker", ColumnType::Bool),
        column("sent", ColumnType::Timestamp { unit: TimeUnit::Us }),
        Column { values: vec!["buy".into(), "sell".into()], ..column("side", ColumnType::Enum) },
        column("venue", ColumnType::Text),
        column("hash", ColumnType::Bytes { length: 2 }),
        column("iv", ColumnType::Float32),
    ];
    let key = SeriesKey::parse("kline/X/1m").unwrap();
    SeriesDef { columns, rules: Vec::new(), order: OrderRule::Arrival, ..SeriesSpec::of_key(&key).resolve().unwrap() }
}

/// The rows as text, in the order of arrival.
fn shown(rows: &Rows, def: &SeriesDef) -> Vec<String> {
    let show = |row: usize| {
        let cells = def.columns.iter().zip(&rows.columns).zip(&rows.texts);
        let cells = cells.map(|((column, cells), texts)| show_cell(cells.as_slice(), row, column, Some(texts)));
        std::iter::once(rows.ts[row].to_string()).chain(cells).collect::<Vec<_>>().join(" ")
    };
    (0..rows.len()).map(show).collect()
}

#[test]
fn cells_of_every_type_are_imported_into_a_registered_series_in_their_order() {
    let csv = "Side,TS,venue,price,quote,size,maker,sent,hash\n\
               sell,120000,\"\",1.5,12345678901234567890.125,255,T,1970-01-01T00:00:01Z,00ff\n\
               buy,120000,X Y,1.5,,,,,\n,60000,,2,0.5,0,false,7,ABCD\nbuy,120000,X Y,1.5,,,,,\n";
    let json = r#"[{"ts":120000,"side":"sell","venue":"","price":1.5,"quote":"12345678901234567890.125","size":255,
        "maker":true,"sent":"1970-01-01T00:00:01Z","hash":"00FF"},
        {"ts":120000,"side":"buy","venue":"X Y","price":1.5},
        {"ts":60000,"side":null,"price":2,"quote":0.5,"size":0,"maker":false,"sent":7,"hash":"abcd"},
        {"ts":120000,"side":"buy","venue":"X Y","price":1.5}]"#;
    for text in [csv, json] {
        let (_folder, path) = file("x", text.as_bytes());
        let mut memory = MemorySink { def: Some(trades()), ..MemorySink::default() };
        let outcome = run(&mut memory, &[&path], "--time-unit ms").unwrap();
        assert!(outcome.error.is_none(), "{:?}", outcome.error);
        assert_eq!((outcome.summary.rows_read, outcome.summary.rows_written), (4, 4), "no row repeats another");
        let def = trades();
        // The second file has no column `iv`, which is nullable.
        let expected = [
            "60000 2.00 0.500 0 false 1970-01-01T00:00:00.000007Z null null abcd null",
            "120000 1.50 12345678901234567890.125 255 true 1970-01-01T00:00:01Z sell  00ff null",
            "120000 1.50 null null null null buy X Y null null",
            "120000 1.50 null null null null buy X Y null null",
        ];
        assert_eq!(shown(&memory.batches[0], &def), expected, "{text}");
    }
}

#[test]
fn a_series_is_widened_only_on_request_and_only_when_every_row_is_accepted_then() {
    let (_folder, path) = file("x.csv", b"ts,price,quote,size\n60000,1.2345,1.00005,300\n");
    let run_on = |flags: &str, path: &Path| {
        let mut memory = MemorySink { def: Some(trades()), ..MemorySink::default() };
        let outcome = run(&mut memory, &[path], &format!("--time-unit ms {flags}")).unwrap();
        (memory, outcome)
    };
    let (memory, refused) = run_on("", &path);
    assert!(refused.error.unwrap().hint().unwrap().contains("--widen"));
    assert_eq!(memory.def.unwrap(), trades());
    let (memory, widened) = run_on("--widen", &path);
    assert!(widened.error.is_none(), "{:?}", widened.error);
    let kinds: Vec<String> = memory.def.as_ref().unwrap().columns.iter().map(|column| column.kind.text()).collect();
    assert_eq!(kinds[..3], ["decimal(4)", "decimal(5, wide)", "uint16"]);
    assert!(shown(&memory.batches[0], memory.def.as_ref().unwrap())[0].starts_with("60000 1.2345 1.00005 300 null"));
    // A dry run and a row that stays invalid change nothing.
    assert_eq!(run_on("--widen --dry-run", &path).0.def.unwrap(), trades());
    let (_folder, path) = file("x.csv", b"ts,price,maker\n60000,1.2345,true\n60000,1,maybe\n");
    let (memory, refused) = run_on("--widen", &path);
    assert!(refused.error.is_some() && memory.batches.is_empty());
    assert_eq!(memory.def.unwrap(), trades());
}

#[test]
fn a_new_series_has_the_columns_of_its_kind_and_is_widened_on_request() {
    let kind: KindDef = serde_json::from_str(
        r#"{"kind":"ticks","key":["venue","symbol"],"unit":"us","order":"arrival","fields":[
            {"name":"price","type":"decimal","digits":2},{"name":"side","type":"enum","values":["buy","sell"]},
            {"name":"note","type":"text","nullable":true}]}"#,
    )
    .unwrap();
    let text = b"ts,price,side\n1706745600000000,1.25,sell\n1706745600000000,1.5,buy\n";
    let new = || MemorySink { kind: Some(kind.clone()), ..MemorySink::default() };
    let (_folder, path) = file("x.csv", text);
    let mut memory = new();
    let outcome = run_into("ticks/V/S", &mut memory, &[&path], "").unwrap();
    assert!(outcome.error.is_none() && outcome.summary.registered, "{:?}", outcome.error);
    let def = memory.def.clone().unwrap();
    assert_eq!((&def.columns, def.unit, &def.order), (&kind.fields, TimeUnit::Us, &OrderRule::Arrival));
    assert_eq!(shown(&memory.batches[0], &def), ["1706745600000000 1.25 sell null", "1706745600000000 1.50 buy null"]);
    // Digits and values that the kind does not have.
    let (_folder, path) = file("x.csv", b"ts,price,side\n1706745600000000,1.255,cross\n1706745600000000,1,hold\n");
    let mut memory = new();
    let refused = run_into("ticks/V/S", &mut memory, &[&path], "").unwrap();
    let hint = refused.error.unwrap().hint().unwrap().to_owned();
    assert!(hint.contains("--widen") && memory.def.is_none(), "{hint}");
    let mut memory = new();
    let widened = run_into("ticks/V/S", &mut memory, &[&path], "--widen").unwrap();
    assert!(widened.error.is_none(), "{:?}", widened.error);
    let def = memory.def.clone().unwrap();
    assert_eq!(def.columns[0].kind, ColumnType::Decimal { digits: 3 });
    let (stays, more) = def.columns[1].values.split_at(2);
    assert!(stays == ["buy", "sell"] && more.len() == 2 && more.contains(&"cross".into()), "{more:?}");
    assert_eq!(
        shown(&memory.batches[0], &def),
        ["1706745600000000 1.255 cross null", "1706745600000000 1.000 hold null"]
    );
    // A text that is no value of an enum widens nothing.
    let (_folder, path) = file("x.csv", b"ts,price,side\n1706745600000000,1.255,cross\n1706745600000000,1,\"a,b\"\n");
    let mut memory = new();
    let refused = run_into("ticks/V/S", &mut memory, &[&path], "--widen").unwrap();
    assert!(refused.error.is_some() && memory.def.is_none() && memory.batches.is_empty());
    let unknown = run_into("tick/V/S", &mut new(), &[&path], "").unwrap_err();
    assert_eq!(unknown.code(), ErrorCode::NotFound);
}

#[test]
fn cells_that_a_type_cannot_hold_are_refused_with_their_reason() {
    for (cells, reason) in [
        ("price,size\n1,256\n", "overflow"),
        ("price,size\n1,-1\n", "overflow"),
        ("price,size\n1,1.5\n", "precision_loss"),
        ("price,quote\n1,1.0005\n", "precision_loss"),
        ("price,side\n1,Buy\n", "unknown_value"),
        ("price,maker\n1,yes\n", "wrong_type"),
        ("price,sent\n1,soon\n", "bad_time"),
        ("price,hash\n1,00f\n", "bad_bytes"),
        ("price,iv\n1,nan\n", "not_finite"),
        ("price,size\n,1\n", "missing"),
    ] {
        let text = cells.lines().zip(["ts", "60000"]).map(|(line, ts)| format!("{ts},{line}\n")).collect::<String>();
        let (_folder, path) = file("x.csv", text.as_bytes());
        let mut memory = MemorySink { def: Some(trades()), ..MemorySink::default() };
        let outcome = run(&mut memory, &[&path], "--time-unit ms").unwrap();
        assert!(outcome.error.is_some() && memory.batches.is_empty(), "{text}");
        let reasons = format!("{:?}", outcome.summary);
        assert!(reasons.contains(&format!("{reason:?}")), "{text}: {reasons}");
    }
}

#[test]
fn one_invalid_row_refuses_the_import_unless_it_is_skipped() {
    let text = "date,open,high,low,close,volume\n2017-01-03,1,2,1,1,5\n,1,2,1,1,5\n2017-01-05,1,0.5,1,1,5\n\
                2017-01-06,1,2,1,x,5\n2017-01-07,1,2,1,1,-5\n2017-01-08,1,2,1\n2017-01-09,1,2,1,1,5\n";
    let (memory, refused) = import_text(text, "");
    let error = refused.error.unwrap();
    assert_eq!(error.code(), ErrorCode::InvalidRows);
    assert!(refused.summary.text(true).starts_with("nothing imported"));
    assert!(memory.def.is_none() && memory.rows.is_empty(), "the registration is removed too");
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
    let text_report = refused.summary.text(true);
    assert!(text_report.contains(": high is below open (ohlc)") && !text_report.contains("high high"), "{text_report}");
    let (memory, skipped) = import_text(text, "--on-invalid skip");
    assert!(skipped.error.is_none());
    assert_eq!((skipped.summary.rows_written, skipped.summary.rows_invalid, skipped.summary.rows_skipped), (2, 5, 5));
    assert_eq!(memory.rows.len(), 2);
    let (memory, kept) = import_text(text, "--on-invalid skip --validate none");
    assert_eq!((kept.summary.rows_invalid, kept.summary.rows_inconsistent), (3, 2));
    assert_eq!(kept.summary.inconsistent.iter().map(|row| row.row).collect::<Vec<_>>(), [2, 4]);
    assert_eq!(memory.rows.len(), 4);
}

const REPEATED: &str = "date,open,high,low,close,volume\n2017-01-03,1,2,1,1,5\n2017-01-04,1,2,1,1,5\n\
                        2017-01-03,1,2,1,2,5\n2017-01-04,1,2,1,1.0,5\n2017-01-05,1,2,1,1,5\n";

fn closes(memory: &MemorySink) -> Vec<i64> {
    memory.rows.values().map(|cells| cells[3]).collect()
}

#[test]
fn rows_that_repeat_a_time_with_different_values_refuse_the_import_by_default() {
    for flags in ["", "--on-invalid skip", "--mode insert", "--on-duplicate reject"] {
        let (memory, outcome) = import_text(REPEATED, flags);
        let error = outcome.error.unwrap();
        assert_eq!(error.code(), ErrorCode::InvalidRows);
        assert!(error.detail().starts_with("1 of 5 rows repeat a timestamp"), "{error}");
        assert!(
            error.detail().contains("line 4 (row 2) after") && error.detail().contains("line 2 (row 0)"),
            "{error}"
        );
        assert!(error.hint().unwrap().contains("--on-duplicate last"));
        assert!(memory.def.is_none() && memory.rows.is_empty());
        let summary = outcome.summary;
        assert_eq!((summary.rows_written, summary.rows_duplicate, summary.rows_different), (0, 2, 1));
        let seen: Vec<_> = summary.duplicates.iter().map(|r| (r.row, r.other_row, r.identical)).collect();
        assert_eq!(seen, [(2, 0, false), (3, 1, true)]);
    }
}

#[test]
fn identical_repeats_are_stored_once_and_counted() {
    let text = REPEATED.replace("2017-01-03,1,2,1,2,5", "2017-01-03,1.0,2,1,1,5");
    for flags in ["", "--mode insert", "--mode append", "--on-duplicate last", "--on-duplicate identical"] {
        let (memory, outcome) = import_text(&text, flags);
        assert!(outcome.error.is_none(), "{flags}: {:?}", outcome.error);
        let summary = outcome.summary;
        assert_eq!((summary.rows_read, summary.rows_written, summary.rows_duplicate), (5, 3, 2), "{flags}");
        assert_eq!(summary.rows_different, 0);
        assert_eq!(memory.rows.len(), 3);
    }
}

#[test]
fn on_duplicate_last_stores_the_last_row_and_identical_none_of_a_time_whose_rows_differ() {
    let (memory, outcome) = import_text(REPEATED, "--on-duplicate last");
    assert_eq!(closes(&memory), [2000, 1000, 1000]);
    let seen: Vec<_> = outcome.summary.duplicates.iter().map(|r| (r.row, r.other_row, r.identical)).collect();
    assert_eq!(seen, [(0, 2, false), (1, 3, true)]);
    assert_eq!(outcome.summary.warnings[0].kind, "different_rows");
    let (memory, outcome) = import_text(REPEATED, "--on-duplicate identical");
    assert_eq!(closes(&memory), [1000, 1000], "the rows of 2017-01-03 differ");
    let summary = outcome.summary;
    assert_eq!((summary.rows_written, summary.rows_duplicate, summary.rows_different), (2, 3, 1));
}

#[test]
fn repeats_are_found_across_files_as_in_one() {
    let header = "date,open,high,low,close,volume\n";
    let (_a, first) = file("a.csv", format!("{header}2017-01-03,1,2,1,1,5\n2017-01-04,1,2,1,1,5\n").as_bytes());
    let (_b, same) = file("b.csv", format!("{header}2017-01-04,1,2,1,1,5.0\n2017-01-05,1,2,1,1,5\n").as_bytes());
    let (_c, other) = file("c.csv", format!("{header}2017-01-04,9,9,9,9,5\n").as_bytes());
    let outcome = run(&mut MemorySink::default(), &[&first, &same], "").unwrap();
    assert!(outcome.error.is_none());
    assert_eq!((outcome.summary.rows_written, outcome.summary.rows_duplicate), (3, 1));
    let mut memory = MemorySink::default();
    let outcome = run(&mut memory, &[&first, &other], "").unwrap();
    let detail = outcome.error.unwrap().detail().to_string();
    assert!(detail.contains("c.csv line 2") && detail.contains("a.csv line 3"), "{detail}");
    assert!(memory.rows.is_empty());
}

#[test]
fn given_digits_round_numbers_and_count_them() {
    let text = "ts,open,high,low,close,volume\n1640995200000,1.005,1.015,1.00,1.01,0.4\n1640995260000,1,1,1,1,1\n";
    let (memory, outcome) = import_text(text, "--price-digits 2 --volume-digits 0 --rounding nearest");
    assert_eq!(memory.rows[&1640995200000], [100, 102, 100, 101, 0], "half to even");
    let summary = outcome.summary;
    let rounded: Vec<_> = summary.rounded.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    assert_eq!(rounded, [("high", 1), ("open", 1), ("volume", 1)]);
    let rows: Vec<_> =
        summary.rounded_rows.iter().map(|r| (r.line.unwrap(), &*r.column, &*r.before, &*r.after)).collect();
    assert_eq!(rows, [(2, "open", "1.005", "1.00"), (2, "high", "1.015", "1.02"), (2, "volume", "0.4", "0")]);
    let warning = &summary.warnings[0];
    assert_eq!(warning.kind, "rounded");
    assert!(warning.message.contains("open 1") && warning.message.contains("1.005 became 1.00"), "{warning:?}");
    assert!(summary.text(false).contains("line 2 (row 0): high 1.015 became 1.02"));
    let (memory, outcome) = import_text(text, "--price-digits 2");
    assert_eq!(outcome.summary.invalid[0].reason, "precision_loss");
    let hint = outcome.error.unwrap().hint().unwrap().to_string();
    assert!(hint.contains("--price-digits 3 keeps them") && hint.contains("--rounding nearest"), "{hint}");
    assert!(memory.def.is_none());
}

#[test]
fn a_registered_series_keeps_its_digits() {
    let (_folder, path) = file("x.csv", b"ts,open,high,low,close,volume\n1640995200000,1.005,1.005,1.005,1.005,1\n");
    let mut memory = MemorySink::default();
    let mut spec = SeriesSpec::of_key(&SeriesKey::parse("kline/X/1m").unwrap());
    spec.price_digits = Some(1);
    memory.register(&spec).unwrap();
    let outcome = run(&mut memory, &[&path], "").unwrap();
    assert_eq!(outcome.summary.invalid_reasons["precision_loss"], 1);
    let error = outcome.error.unwrap();
    assert_eq!(error.code(), ErrorCode::InvalidRows);
    let hint = error.hint().unwrap();
    assert!(hint.contains("open has 1 of the 3 digits it needs"), "{hint}");
    assert!(hint.contains("--widen") && hint.contains("--rounding nearest"), "{hint}");
    assert!(memory.rows.is_empty() && !hint.contains("--validate"));
    let outcome = run(&mut memory, &[&path], "--rounding nearest").unwrap();
    assert_eq!(outcome.summary.rounded["open"], 1);
    assert_eq!(memory.rows[&1640995200000][0], 10);
    assert_eq!(f64::from_bits(memory.rows[&1640995200000][4].cast_unsigned()), 1.0, "volume stays float64");
    assert_eq!(run(&mut memory, &[&path], "--price-digits 3").unwrap_err().code(), ErrorCode::SchemaMismatch);
    assert_eq!(run(&mut memory, &[&path], "--extra count").unwrap_err().code(), ErrorCode::InvalidArgument);
}

#[test]
fn times_finer_than_a_millisecond_choose_the_unit() {
    let text = "ts,open,high,low,close,volume\n1640995200000001,1,1,1,1,1\n1640995260000000,1,1,1,1,1\n";
    let (memory, outcome) = import_text(text, "--off-grid allow");
    assert_eq!((outcome.summary.rows_off_grid, outcome.summary.warnings[0].kind), (1, "off_grid"));
    assert_eq!(outcome.summary.unit, TimeUnit::Us);
    assert_eq!(memory.rows.keys().next(), Some(&1640995200000001));
    let (memory, _) = import_text(&text.replace("000001,", "000000,"), "");
    assert_eq!(memory.rows.keys().next(), Some(&1640995200000));
}

#[test]
fn files_of_different_units_make_one_series() {
    let (_a, old) = file("a.csv", b"open_time,open,high,low,close,volume\n1735516800000,1,1,1,1,1\n");
    let (_b, new) = file("b.csv", b"1735689600000000,1,1,1,1,2\n");
    let map = "--map ts=0,open=1,high=2,low=3,close=4,volume=5";
    let mut memory = MemorySink::default();
    let outcome = run(&mut memory, &[&new, &old], map).unwrap();
    assert!(outcome.error.is_none());
    assert_eq!(memory.rows.keys().copied().collect::<Vec<_>>(), [1735516800000, 1735689600000]);
}

#[test]
fn extra_columns_are_imported() {
    let text =
        "open_time,open,high,low,close,volume,quote_volume,count,Adj Close\n1640995200000,1,1,1,1,1,2.50,7,1.5\n";
    let (memory, _) = import_text(text, "--extra quote_volume,count,adj_close:4");
    assert_eq!(memory.rows[&1640995200000][5..], [25_000, 7, 15_000]);
    assert_eq!(digits(&memory, "count"), ColumnType::Int64);
    assert_eq!(digits(&memory, "adj_close"), ColumnType::Decimal { digits: 4 });
}

#[test]
fn a_dry_run_writes_nothing() {
    let (memory, outcome) = import_text("1364774820000,1,1,1,1,1\n", &format!("{MAP} --dry-run"));
    assert!(outcome.error.is_none() && outcome.summary.dry_run);
    assert!(memory.def.is_none() && memory.rows.is_empty());
    assert_eq!((outcome.summary.rows_read, outcome.summary.rows_written), (1, 0));
}

#[test]
fn a_failed_write_reports_the_rows_written_before() {
    let mut text = String::new();
    for minute in 0..300_000_i64 {
        text.push_str(&format!("{},1,1,1,1,1\n", 1_364_774_820_000 + minute * 60_000));
    }
    let (_folder, path) = file("x.csv", text.as_bytes());
    let mut memory = MemorySink { fail_at: Some(1), ..MemorySink::default() };
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
    let settings = ImportSettings::of(&args(&line)).unwrap();
    let mut memory = MemorySink::default();
    let outcome = import(&settings, None, Some(&mut memory), &mut |_| ()).unwrap();
    assert_eq!(outcome.summary.invalid[0].reason, "missing");
    assert_eq!(memory.rows.values().next().unwrap(), &[12_500]);
}

#[test]
fn a_file_of_smaller_ticks_fits_the_headroom_of_the_first_or_is_refused_and_never_rounded() {
    let bar = |ts: i64, price: &str| format!("ts,open,high,low,close,volume\n{ts},{price},{price},{price},{price},1\n");
    let (_a, first) = file("a.csv", bar(1640995200000, "93.25").as_bytes());
    let (_b, finer) = file("b.csv", bar(1640995260000, "93.2512").as_bytes());
    let (_c, finest) = file("c.csv", bar(1640995320000, "93.25125").as_bytes());
    let mut memory = MemorySink::default();
    assert!(run(&mut memory, &[&first], "").unwrap().error.is_none());
    assert!(run(&mut memory, &[&finer], "").unwrap().error.is_none());
    assert_eq!(memory.rows[&1640995260000][0], 932_512);
    let stored = memory.rows.clone();
    assert_eq!(run(&mut memory, &[&finest], "").unwrap().error.unwrap().code(), ErrorCode::InvalidRows);
    assert_eq!(memory.rows, stored);
    // The digits come from all files of one import.
    let mut memory = MemorySink::default();
    assert!(run(&mut memory, &[&first, &finest], "").unwrap().error.is_none());
    assert_eq!(digits(&memory, "open"), ColumnType::Decimal { digits: 7 });
}

#[test]
fn doubles_with_more_digits_than_a_registered_series_are_refused_and_rounded_only_by_flag() {
    use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch};
    use std::sync::Arc;
    let price: ArrayRef = Arc::new(Float64Array::from(vec![1.25, 0.1 + 0.2]));
    let mut columns: Vec<(&str, ArrayRef)> =
        vec![("ts", Arc::new(Int64Array::from(vec![1_640_995_200_000, 1_640_995_260_000])))];
    columns.extend(["open", "high", "low", "close", "volume"].map(|name| (name, Arc::clone(&price))));
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut bytes = Vec::new();
    let mut writer = parquet::arrow::ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let (_folder, path) = file("x.parquet", &bytes);
    let mut memory = MemorySink::default();
    let mut spec = SeriesSpec::of_key(&SeriesKey::parse("kline/X/1m").unwrap());
    (spec.price_digits, spec.volume_digits) = (Some(2), Some(2));
    memory.register(&spec).unwrap();
    let outcome = run(&mut memory, &[&path], "").unwrap();
    assert_eq!(
        outcome.summary.invalid.iter().map(|row| (row.row, row.reason)).collect::<Vec<_>>(),
        [(1, "precision_loss")]
    );
    assert!(outcome.error.unwrap().hint().unwrap().contains("--rounding nearest") && memory.rows.is_empty());
    let outcome = run(&mut memory, &[&path], "--rounding nearest").unwrap();
    assert_eq!(outcome.summary.rounded["open"], 1);
    let first = &outcome.summary.rounded_rows[0];
    assert_eq!((first.row, &*first.before, &*first.after), (1, "0.30000000000000004", "0.30"));
    assert_eq!(memory.rows[&1_640_995_260_000][0], 30);
}

#[test]
fn an_import_that_stores_no_row_registers_nothing() {
    let header = "ts,open,high,low,close,volume\n";
    let bad = format!("{header}1640995200000,x,1,1,1,1\n1640995260000,1,1,1,,1\n");
    for (text, flags, code) in [
        (&bad[..], "", Some(ErrorCode::InvalidRows)),
        (&bad, "--on-invalid skip", Some(ErrorCode::InvalidRows)),
        (header, "", None),
        (header, "--on-invalid skip", None),
    ] {
        let (memory, outcome) = import_text(text, flags);
        assert_eq!(outcome.error.map(|error| error.code()), code, "{text} {flags}");
        assert!(memory.def.is_none() && !outcome.summary.registered);
        assert_eq!(outcome.summary.warnings.iter().any(|warning| warning.kind == "no_rows"), code.is_none());
    }
    // A registration whose first write fails is removed.
    let (_folder, path) = file("x.csv", format!("{header}1640995200000,1,1,1,1,1\n").as_bytes());
    let mut memory = MemorySink { fail_at: Some(0), ..MemorySink::default() };
    let outcome = run(&mut memory, &[&path], "").unwrap();
    assert_eq!(outcome.error.unwrap().code(), ErrorCode::StorageFull);
    assert!(memory.def.is_none() && !outcome.summary.registered);
}

#[test]
fn rows_off_the_grid_are_invalid_unless_they_are_allowed() {
    let text = "ts,open,high,low,close,volume\n1640995200000,1,1,1,1,1\n1640995230000,1,1,1,1,1\n";
    let (memory, outcome) = import_text(text, "");
    let row = &outcome.summary.invalid[0];
    assert_eq!((row.line, row.field.as_str(), row.reason), (Some(3), "ts", "off_grid"));
    assert!(row.message.contains("2022-01-01T00:00:30Z is not the start of an interval of 1m"), "{}", row.message);
    assert!(outcome.error.unwrap().hint().unwrap().contains("--off-grid allow") && memory.rows.is_empty());
    let (memory, outcome) = import_text(text, "--off-grid allow");
    assert_eq!((memory.rows.len(), outcome.summary.rows_off_grid), (2, 1));
    assert!(outcome.summary.warnings.iter().any(|w| w.kind == "off_grid" && w.message.contains("line 3")));
    // Stored rows anchor bars of several days, not the first row of a later file.
    let (_a, first) = file("a.csv", b"ts,open,high,low,close,volume\n2024-01-02,1,1,1,1,1\n2024-01-05,1,1,1,1,1\n");
    let (_b, later) = file("b.csv", b"ts,open,high,low,close,volume\n2024-01-09,1,1,1,1,1\n");
    let mut memory = MemorySink::default();
    let mut three = |path: &Path| {
        let line = format!("{} --series kline/X/3d --root r", path.display());
        import(&ImportSettings::of(&args(&line)).unwrap(), None, Some(&mut memory), &mut |_| ()).unwrap()
    };
    assert!(three(&first).error.is_none());
    assert_eq!(three(&later).summary.invalid_reasons["off_grid"], 1);
}

#[test]
fn suspect_times_are_warned_about_with_their_row() {
    let kinds = |outcome: &ImportOutcome| outcome.summary.warnings.iter().map(|w| w.kind).collect::<Vec<_>>();
    let header = "ts,open,high,low,close,volume\n";
    let (memory, outcome) =
        import_text(&format!("{header}34200000,1,1,1,1,1\n34260000,1,1,1,1,1\n"), "--off-grid allow");
    assert_eq!(kinds(&outcome), ["time_without_date", "before_1990"]);
    let warnings = &outcome.summary.warnings;
    assert!(warnings[0].message.contains("x.csv") && warnings[0].message.contains("--base-date"), "{warnings:?}");
    assert!(warnings[1].message.contains("2 rows") && warnings[1].message.contains("line 2"), "{warnings:?}");
    assert_eq!((outcome.summary.rows_before_1990, memory.rows.len()), (2, 2));
    let hours: String = (0..5).map(|hour| format!("2024-01-01 0{hour}:00,1,1,1,1,1\n")).collect();
    let (_, outcome) = import_text(&format!("{header}{hours}"), "");
    assert_eq!(kinds(&outcome), ["step"]);
    assert!(outcome.summary.warnings[0].message.contains("1h (4 of 4 steps)"));
    let minutes: String = (0..5).map(|minute| format!("2024-01-01 00:0{minute},1,1,1,1,1\n")).collect();
    assert_eq!(kinds(&import_text(&format!("{header}{minutes}"), "").1), [""; 0]);
}

#[test]
fn times_since_midnight_use_the_date_of_the_flag_or_of_the_file_name() {
    let rows = b"34200000,1,1,1,1,1\n34260000,1,1,1,1,2\n";
    let map = "--map ts=0,open=1,high=2,low=3,close=4,volume=5 --time-unit ms --time-zone America/New_York";
    let (_a, first) = file("20131007_spy_minute_trade.csv", rows);
    let (_b, second) = file("20131008_spy_minute_trade.csv", rows);
    let expected = [1_381_152_600_000, 1_381_152_660_000, 1_381_239_000_000, 1_381_239_060_000];
    let mut memory = MemorySink::default();
    let outcome = run(&mut memory, &[&first, &second], &format!("{map} --base-date name")).unwrap();
    assert!(outcome.error.is_none() && outcome.summary.warnings.is_empty(), "{:?}", outcome.summary.warnings);
    assert_eq!(memory.rows.keys().copied().collect::<Vec<_>>(), expected);
    assert!(outcome.summary.files[0].found.contains("ms since midnight of 2013-10-07"));
    let mut memory = MemorySink::default();
    run(&mut memory, &[&first], &format!("{map} --base-date 2013-10-07")).unwrap();
    assert_eq!(memory.rows.keys().copied().collect::<Vec<_>>(), expected[..2]);
    let unit = run(&mut memory, &[&first], &format!("{MAP} --base-date name")).unwrap_err();
    assert!(unit.hint().unwrap().contains("--time-unit"), "{unit}");
    let (_c, unnamed) = file("spy.csv", rows);
    assert!(
        run(&mut memory, &[&unnamed], &format!("{map} --base-date name")).unwrap_err().detail().contains("no date")
    );
}

#[test]
fn thousands_and_magnitudes_are_accepted_only_by_flag() {
    let text =
        "ts,open,high,low,close,volume\n1640995200000,\"1,234.56\",\"1,234.56\",\"1,234.56\",\"1,234.56\",193.34M\n";
    let (memory, outcome) = import_text(text, "");
    assert!(outcome.summary.invalid[0].message.contains("--thousands ,"));
    assert!(
        outcome.error.unwrap().hint().unwrap().contains("--thousands , accepts these numbers") && memory.def.is_none()
    );
    let (_, outcome) = import_text(text, "--thousands ,");
    assert!(outcome.error.unwrap().hint().unwrap().contains("--magnitudes accepts these numbers"));
    let (memory, outcome) = import_text(text, "--thousands , --magnitudes");
    assert!(outcome.error.is_none() && outcome.summary.rounded.is_empty());
    assert_eq!(digits(&memory, "open"), ColumnType::Decimal { digits: 4 });
    assert_eq!(memory.rows[&1640995200000], [12_345_600, 12_345_600, 12_345_600, 12_345_600, 19_334_000_000]);
}

#[test]
fn omitted_columns_are_in_the_summary_with_the_flags_that_import_them() {
    let text = "ts,open,high,low,close,volume,count,Adj Close,note\n1640995200000,1,1,1,1,1,7,1.5,x\n";
    let (memory, outcome) = import_text(text, "");
    let left: Vec<_> =
        outcome.summary.columns_left_out.iter().map(|left| (left.column.as_str(), left.flags.as_deref())).collect();
    let expected = [("count", Some("--extra count")), ("Adj Close", Some("--extra adj_close")), ("note", None)];
    assert_eq!(left, expected);
    assert!(outcome.summary.text(false).contains("--extra count,adj_close"), "{}", outcome.summary.text(false));
    assert_eq!(memory.rows[&1640995200000].len(), 5);
    let (memory, outcome) = import_text(text, "--extra count,adj_close");
    assert_eq!(memory.rows[&1640995200000].len(), 7);
    assert_eq!(outcome.summary.columns_left_out.len(), 1);
    let (_, outcome) = import_text("1364774820000,1,1,1,1,1,9\n", MAP);
    assert_eq!(outcome.summary.columns_left_out[0].flags.as_deref(), Some("--extra column_6 --map column_6=6"));
    let (memory, _) = import_text("1364774820000,1,1,1,1,1,9\n", &format!("{MAP},column_6=6 --extra column_6"));
    assert_eq!(memory.rows[&1364774820000][5], 9);
}

#[test]
fn the_hint_matches_the_reason() {
    let bar = |cells: &str| format!("ts,open,high,low,close,volume\n{cells}\n");
    for (cells, expected, not) in [
        ("1640995200000,1,0.5,1,1,1", "--validate none", "--time-format"),
        ("yesterday,1,1,1,1,1", "--time-format", "--validate"),
        ("1640995200000,x,1,1,1,1", "--map COLUMN=SOURCE", "--validate"),
        ("1640995200000,,1,1,1,1", "--set COLUMN=NUMBER", "--validate"),
        ("1640995230000,1,1,1,1,1", "--off-grid allow", "--validate"),
        ("1640995200000,0.1234567890123456789,1,0,1,1", "--rounding nearest", "--validate"),
        ("1640995200000,0.12345678901,123456789,0,1,1", "18 digits do not hold both the largest", "--price-digits"),
    ] {
        let (_, outcome) = import_text(&bar(cells), "");
        let error = outcome.error.unwrap();
        let hint = error.hint().unwrap();
        assert!(hint.contains(expected) && !hint.contains(not), "{cells}: {hint}");
    }
}

#[test]
fn staged_standard_input_is_imported() {
    for bytes in [
        b"ts,open,high,low,close,volume\n1640995200000,1,1,1,1,1\n".to_vec(),
        gzip(br#"[{"ts":1640995200000,"open":1,"high":1,"low":1,"close":1,"volume":1}]"#),
    ] {
        let (_folder, staged) = file("staged", &bytes);
        let mut memory = MemorySink::default();
        let settings = ImportSettings::of(&args("- --series kline/X/1m --root r")).unwrap();
        let outcome = import(&settings, Some(&staged), Some(&mut memory), &mut |_| ()).unwrap();
        assert_eq!(outcome.summary.files[0].path, "standard input");
        assert_eq!(memory.rows.len(), 1);
    }
}
