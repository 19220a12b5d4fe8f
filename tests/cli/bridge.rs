//! `fastk bridge`: the output of every command, with and without a server, is byte for byte that of
//! `tests/golden/bridge/`, and matches the schemas in `openapi/bridge/`.
//!
//! `FASTK_BLESS=1 cargo nextest run --test cli -E 'test(bridge)'` rewrites the files: review the diff.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::program::{Server, fastk, run, run_with};

/// A command and its expected output.
struct Step {
    /// Name of the golden file.
    name: &'static str,
    words: Vec<String>,
    input: String,
    status: i32,
}

fn step(name: &'static str, status: i32, words: &str, input: &str) -> Step {
    let words = words.split_whitespace().map(str::to_string).collect();
    Step { name, words, input: input.into(), status }
}

const BTC: &str = "--symbol BTCUSDT --timeframe 1m";
const ALL: &str = "--start-ts -9223372036854775808 --end-ts 9223372036854775807";
const RSI: &str = "--symbol BTCUSDT --timeframe 1m --category feature --name rsi-14";
const EDGE: i64 = 999_999_999_999_999_999;

fn bar(ts: i64, open: i64, high: i64, low: i64, close: i64, volume: i64) -> Value {
    json!({"ts": ts, "open": open, "high": high, "low": low, "close": close, "volume": volume})
}

fn bars(price_scale: i64, records: &[Value]) -> String {
    json!({"timeframe_ms": 60_000, "price_scale": price_scale, "volume_scale": 100_000_000, "records": records})
        .to_string()
}

fn values(timeframe_ms: Value, records: impl IntoIterator<Item = (i64, i64)>) -> String {
    let records: Vec<Value> = records.into_iter().map(|(ts, value)| json!({"ts": ts, "value": value})).collect();
    json!({"timeframe_ms": timeframe_ms, "records": records}).to_string()
}

/// Bars of four months, two of them before 1970, with the largest and smallest cells.
fn some_bars() -> String {
    bars(
        100,
        &[
            bar(1_709_251_200_000, 6_100_000, 6_100_001, 6_099_999, 6_100_000, 200_000_000),
            bar(-60_000, -5, EDGE, -EDGE, 7, EDGE),
            bar(0, 0, 0, 0, 0, 0),
            bar(1_706_745_600_000, 4_200_010, 4_200_100, 4_199_999, 4_200_050, 100_000_001),
            bar(-2_678_400_000, 1, 1, 1, 1, 1),
        ],
    )
}

/// Values that zone maps and indexes can narrow: rising by row, each eight times.
fn many_values() -> String {
    values(json!(60_000), (0..4_096).map(|row| (1_706_745_600_000 + 60_000 * row, row / 8)))
}

fn before_compaction() -> Vec<Step> {
    let write = format!("write-kline-range {BTC}");
    let write_rsi = format!("write-scalar-range {RSI}");
    let ma = "--symbol BTCUSDT --timeframe 1m --indicator-name ma20";
    let refused = bars(100, &[bar(0, 1, 1, 1, 1, 1), bar(60_000, 1, 0, 1, 1, 1)]);
    let twice = bars(100, &[bar(0, 1, 1, 1, 1, 1), bar(0, 1, 1, 1, 1, 1)]);
    let too_large = bars(100, &[bar(0, EDGE + 1, EDGE + 1, 1, 1, 1)]);
    let edges = [(-1, i64::MIN), (0, 0), (1, i64::MAX), (1_706_745_600_000, -EDGE)];
    vec![
        // A series whose first write is refused is not registered.
        step("klines_refused", 2, &write, &refused),
        step("klines_missing", 3, &format!("read-kline-range {BTC} {ALL}"), ""),
        step("klines_inventory_missing", 0, &format!("kline-inventory {BTC}"), ""),
        step("klines_written", 0, &write, &some_bars()),
        step("klines_written_again", 0, &write, &some_bars()),
        step("klines_twice", 2, &write, &twice),
        step("klines_too_large", 2, &write, &too_large),
        step("klines_bad_scale", 2, &write, &some_bars().replace("\"price_scale\":100,", "\"price_scale\":7,")),
        step("klines_bad_interval", 2, &write, &some_bars().replace("60000,\"vol", "300000,\"vol")),
        step("klines_unknown_field", 2, &write, &some_bars().replace("\"close\"", "\"last\"")),
        step("klines_fraction", 2, &write, &some_bars().replace("\"close\":7", "\"close\":7.5")),
        step("klines_no_input", 2, &write, ""),
        step("klines_no_json", 2, &write, "ts,open"),
        step("klines_no_file", 8, &format!("{write} --input-json none/there.json"), ""),
        step("klines_read", 0, &format!("read-kline-range {BTC} {ALL}"), ""),
        step("klines_read_one", 0, &format!("read-kline-range {BTC} --start-ts -60000 --end-ts -60000"), ""),
        step("klines_read_closed", 0, &format!("read-kline-range {BTC} --start-ts -60000 --end-ts 0"), ""),
        step("klines_read_none", 0, &format!("read-kline-range {BTC} --start-ts 1 --end-ts 2"), ""),
        step("klines_read_backwards", 2, &format!("read-kline-range {BTC} --start-ts 2 --end-ts 1"), ""),
        step("klines_inventory", 0, &format!("kline-inventory {BTC}"), ""),
        // Four digits where the series has two: exact or refused.
        step("klines_rescaled", 0, &write, &bars(10_000, &[bar(60_000, 100, 400, 100, 300, 1)])),
        step("klines_not_exact", 2, &write, &bars(10_000, &[bar(120_000, 100, 400, 100, 301, 1)])),
        step("klines_fewer_digits", 0, &write, &bars(1, &[bar(180_000, 1, 4, 1, 3, 1)])),
        step("klines_overflow", 2, &write, &bars(1, &[bar(180_000, 1, EDGE, 1, 3, 1)])),
        step("klines_rescaled_read", 0, &format!("read-kline-range {BTC} --start-ts 60000 --end-ts 240000"), ""),
        step("klines_empty_write", 0, "write-kline-range --symbol EMPTY --timeframe 1m", &bars(100, &[])),
        step("klines_empty_read", 0, &format!("read-kline-range --symbol EMPTY --timeframe 1m {ALL}"), ""),
        step("klines_empty_inventory", 0, "kline-inventory --symbol EMPTY --timeframe 1m", ""),
        step(
            "klines_month",
            0,
            "write-kline-range --symbol BTCUSDT --timeframe 1M",
            &bars(100, &[bar(0, 1, 1, 1, 1, 1)]).replace("60000", "2592000000"),
        ),
        step("klines_month_read", 0, &format!("read-kline-range --symbol BTCUSDT --timeframe 1M {ALL}"), ""),
        step(
            "klines_own_label",
            0,
            "write-kline-range --symbol BTCUSDT --timeframe tick",
            &bars(100, &[bar(0, 1, 1, 1, 1, 1)]).replace("60000", "250"),
        ),
        step(
            "klines_own_label_contradicted",
            2,
            "write-kline-range --symbol BTCUSDT --timeframe tick",
            &bars(100, &[bar(0, 1, 1, 1, 1, 1)]).replace("60000", "500"),
        ),
        step("klines_other_unit", 2, &format!("read-kline-range --symbol MICRO --timeframe 1m {ALL}"), ""),
        step("klines_doubles", 2, &format!("read-kline-range --symbol FLOAT --timeframe 1m {ALL}"), ""),
        step("klines_bad_symbol", 2, &format!("read-kline-range --symbol .x --timeframe 1m {ALL}"), ""),
        step("scalars_missing", 0, &format!("read-scalar-range {RSI} {ALL}"), ""),
        step("scalars_inventory_missing", 0, &format!("scalar-inventory {RSI}"), ""),
        step("scalars_query_missing", 0, &format!("query-scalar-predicate {RSI} {ALL} --predicate gt --value 1"), ""),
        step("scalars_written", 0, &write_rsi, &values(Value::Null, edges)),
        step("scalars_written_again", 0, &write_rsi, &values(json!(60_000), edges)),
        step("scalars_bad_interval", 2, &write_rsi, &values(json!(61_000), edges)),
        step("scalars_twice", 2, &write_rsi, &values(Value::Null, [(5, 1), (5, 1)])),
        step("scalars_read", 0, &format!("read-scalar-range {RSI} {ALL}"), ""),
        step("scalars_read_none", 0, &format!("read-scalar-range {RSI} --start-ts 2 --end-ts 3"), ""),
        step("scalars_in_tail", 0, &format!("query-scalar-predicate {RSI} {ALL} --predicate lt --value 0"), ""),
        step("scalars_inventory", 0, &format!("scalar-inventory {RSI}"), ""),
        step(
            "scalars_interval_of_klines",
            0,
            "write-scalar-range --symbol BTCUSDT --timeframe tick --category risk --name var",
            &values(Value::Null, [(0, 1)]),
        ),
        step(
            "scalars_no_interval",
            0,
            "write-scalar-range --symbol OTHER --timeframe event --category risk --name var",
            &values(Value::Null, [(0, 1)]),
        ),
        step(
            "scalars_decimal",
            0,
            &format!("read-scalar-range --symbol X --timeframe 1m --category feature --name two {ALL}"),
            "",
        ),
        step("indicator_missing", 0, &format!("read-indicator-range {ma} {ALL}"), ""),
        step("indicator_inventory_missing", 0, &format!("indicator-inventory {ma}"), ""),
        step(
            "indicator_written",
            0,
            &format!("write-indicator-range {ma}"),
            &json!({"records": [{"ts": -1, "value": -10_150_000}, {"ts": 1_706_745_600_000_i64, "value": 3}]})
                .to_string(),
        ),
        step("indicator_read", 0, &format!("read-indicator-range {ma} --start-ts -1 --end-ts 1706745600000"), ""),
        step("indicator_inventory", 0, &format!("indicator-inventory {ma}"), ""),
        step(
            "indicator_without_klines",
            0,
            &format!("read-indicator-range --symbol NONE --timeframe 1m --indicator-name ma20 {ALL}"),
            "",
        ),
        step("many_written", 0, "write-scalar-range --symbol M --timeframe 1m --category f --name v", &many_values()),
        step("flag_missing", 2, "read-kline-range --timeframe 1m --start-ts 1 --end-ts 2", ""),
        step("flag_no_number", 2, &format!("read-kline-range {BTC} --start-ts now --end-ts 2"), ""),
        step("command_unknown", 2, "read-everything", ""),
    ]
}

fn after_compaction() -> Vec<Step> {
    let many = "--symbol M --timeframe 1m --category f --name v";
    let query = |name, flags: &str| step(name, 0, &format!("query-scalar-predicate {many} {ALL} {flags}"), "");
    let early = |name, flags: &str| {
        let range = "--start-ts 1706745600000 --end-ts 1706748000000";
        step(name, 0, &format!("query-scalar-predicate {many} {range} {flags}"), "")
    };
    let refused = |name, flags: &str| step(name, 2, &format!("query-scalar-predicate {many} {ALL} {flags}"), "");
    vec![
        query("query_eq", "--predicate eq --value 77 --return-values"),
        early("query_ne", "--predicate ne --value 1 --return-values"),
        query("query_gt", "--predicate gt --value 510 --return-values"),
        query("query_gte", "--predicate gte --value 511"),
        query("query_lt", "--predicate lt --value 1"),
        query("query_lte", "--predicate lte --value 0 --return-values"),
        query("query_between", "--predicate between --min 100 --max 101 --return-values"),
        query("query_between_exclusive", "--predicate between-exclusive --min 100 --max 102 --return-values"),
        query("query_between_nothing", "--predicate between --min 5 --max 4"),
        query("query_in_set", "--predicate in-set --values 7,511,-1,7 --return-values"),
        query("query_in_empty_set", "--predicate in-set --values="),
        early("query_not_in_set", "--predicate not-in-set --values 0,1,2"),
        step(
            "query_not_in_empty_set",
            0,
            &format!("query-scalar-predicate {RSI} {ALL} --predicate not-in-set --values= --return-values"),
            "",
        ),
        step(
            "query_range",
            0,
            &format!(
                "query-scalar-predicate {many} --start-ts 1706745600000 --end-ts 1706745660000 --predicate eq --value 0"
            ),
            "",
        ),
        step(
            "query_edges",
            0,
            &format!(
                "query-scalar-predicate {RSI} {ALL} --predicate in-set --values -9223372036854775808,9223372036854775807 --return-values"
            ),
            "",
        ),
        refused("query_no_value", "--predicate gt"),
        refused("query_other_flag", "--predicate gt --value 1 --min 2"),
        refused("query_unknown", "--predicate above --value 1"),
        refused("query_bad_set", "--predicate in-set --values 1,x"),
        step("sealed_inventory", 0, &format!("scalar-inventory {many}"), ""),
        step("sealed_klines_inventory", 0, &format!("kline-inventory {BTC}"), ""),
    ]
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn schema(name: &str) -> jsonschema::Validator {
    let path = folder("openapi/bridge").join(format!("{name}.schema.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let schema: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    jsonschema::validator_for(&schema).unwrap()
}

#[track_caller]
fn conforms(name: &str, value: &Value) {
    let found: Vec<String> = schema(name).iter_errors(value).map(|error| error.to_string()).collect();
    assert!(found.is_empty(), "{name}: {found:?} in {value}");
}

/// Runs the steps and returns their output.
fn play(steps: &[Step], root: &str) -> Vec<String> {
    let mut printed = Vec::new();
    for step in steps {
        let words: Vec<&str> = step.words.iter().map(String::as_str).collect();
        let done = run_with(&[&["bridge"], words.as_slice(), &["--root", root]].concat(), &step.input);
        assert_eq!(done.status, step.status, "{}: {done:?}", step.name);
        assert_eq!(done.out.lines().count(), 1, "{}: {done:?}", step.name);
        let command = words[0];
        let reply: Value = serde_json::from_str(&done.out).unwrap();
        if step.status == 0 {
            conforms(&format!("{command}.output"), &reply);
            if command.starts_with("write-") {
                conforms(&format!("{command}.input"), &serde_json::from_str(&step.input).unwrap());
            }
        } else {
            conforms("failure", &reply);
            let code = reply["error"]["code"].as_str().unwrap();
            assert_eq!(fastk::ErrorCode::from_name(code).unwrap().exit(), u8::try_from(step.status).unwrap());
            assert!(done.err.contains("error"), "the error is printed to standard error too: {done:?}");
        }
        printed.push(done.out);
    }
    printed
}

/// Series that the bridge cannot create.
fn others(root: &str) {
    run(&["register", "kline/MICRO/1m", "--unit", "us", "--price-digits", "2", "--root", root]).ok();
    run(&["register", "kline/FLOAT/1m", "--root", root]).ok();
    run(&["register", "scalar/feature/X/1m/two", "--value-digits", "2", "--root", root]).ok();
    run_with(&["write", "scalar/feature/X/1m/two", "--root", root], r#"[{"ts":0,"value":"1.25"}]"#).ok();
}

fn conversation(root: &str) -> Vec<(&'static str, String)> {
    others(root);
    let (first, second) = (before_compaction(), after_compaction());
    let mut printed = play(&first, root);
    run(&["admin", "compact", "--root", root]).ok();
    printed.extend(play(&second, root));
    first.iter().chain(&second).map(|step| step.name).zip(printed).collect()
}

#[test]
fn the_bridge_prints_the_same_bytes_with_and_without_a_server() {
    let temporary = tempfile::tempdir().unwrap();
    let [alone, served] = ["alone", "served"].map(|name| temporary.path().join(name));
    let golden = folder("tests/golden/bridge");
    let by_itself = conversation(&alone.to_string_lossy());
    let server = Server::start(&served);
    let through_server = conversation(&served.to_string_lossy());
    server.stop();
    let is_blessed = std::env::var_os("FASTK_BLESS").is_some();
    for ((name, text), (_, other)) in by_itself.iter().zip(&through_server) {
        assert_eq!(text, other, "{name}");
        let path = golden.join(format!("{name}.json"));
        if is_blessed {
            std::fs::write(&path, text).unwrap();
        }
        assert_eq!(text, &std::fs::read_to_string(&path).unwrap_or_default(), "{}", path.display());
    }
    // Every golden file belongs to a step.
    let mut names: Vec<String> = by_itself.iter().map(|(name, _)| format!("{name}.json")).collect();
    let mut files: Vec<String> = std::fs::read_dir(&golden)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    files.sort();
    assert_eq!(names, files);
}

#[test]
fn predicates_find_exactly_the_matching_rows() {
    let temporary = tempfile::tempdir().unwrap();
    let root = temporary.path().to_string_lossy().into_owned();
    let series = ["--symbol", "M", "--timeframe", "1m", "--category", "f", "--name", "v", "--root", &root];
    let rows: Vec<(i64, i64)> = (0..3_000).map(|row| (row * 60_000, (row * 7_919) % 211 - 100)).collect();
    let write = [&["bridge", "write-scalar-range"], series.as_slice()].concat();
    run_with(&write, &values(Value::Null, rows.iter().copied())).ok();
    type Rule = fn(i64) -> bool;
    let rules: [(&str, Rule); 10] = [
        ("--predicate eq --value -5", |v| v == -5),
        ("--predicate ne --value 0", |v| v != 0),
        ("--predicate gt --value 50", |v| v > 50),
        ("--predicate gte --value 50", |v| v >= 50),
        ("--predicate lt --value -50", |v| v < -50),
        ("--predicate lte --value -50", |v| v <= -50),
        ("--predicate between --min -3 --max 3", |v| (-3..=3).contains(&v)),
        ("--predicate between-exclusive --min -3 --max 3", |v| v > -3 && v < 3),
        ("--predicate in-set --values -100,1,110", |v| [-100, 1, 110].contains(&v)),
        ("--predicate not-in-set --values -100,1,110", |v| ![-100, 1, 110].contains(&v)),
    ];
    for is_sealed in [false, true] {
        if is_sealed {
            run(&["admin", "compact", "--root", &root]).ok();
        }
        for (flags, rule) in rules {
            let range = ["--start-ts", "60000", "--end-ts", "120000000", "--return-values"];
            let flags_of: Vec<&str> = flags.split(' ').collect();
            let words =
                [&["bridge", "query-scalar-predicate"], series.as_slice(), &range, flags_of.as_slice()].concat();
            let reply: Value = serde_json::from_str(&run(&words).ok()).unwrap();
            let expected: Vec<Value> = rows
                .iter()
                .filter(|(ts, value)| (60_000..=120_000_000).contains(ts) && rule(*value))
                .map(|(ts, value)| json!({"ts": ts, "value": value}))
                .collect();
            assert!(!expected.is_empty());
            assert_eq!(reply["matches"], Value::Array(expected.clone()), "{flags}");
            assert_eq!(reply["stats"]["rows_matched"], expected.len());
        }
    }
}

#[test]
fn long_predicates_and_small_pages_of_a_server_change_no_result() {
    let temporary = tempfile::tempdir().unwrap();
    let root = temporary.path().to_string_lossy().into_owned();
    let series = ["--symbol", "M", "--timeframe", "1m", "--category", "f", "--name", "v", "--root", &root];
    let write = [&["bridge", "write-scalar-range"], series.as_slice()].concat();
    run_with(&write, &values(Value::Null, (0..3_000).map(|row| (row * 60_000, row)))).ok();
    let set = (0..5_000).step_by(2).map(|value| value.to_string()).collect::<Vec<_>>().join(",");
    assert!(set.len() > 8_192, "too long for a request target");
    let within = format!("value:in:{set}");
    let query = ["query", "scalar/f/M/1m/v", "--root", &root];
    let results = || {
        let range = ["--start-ts", "0", "--end-ts", "180000000", "--return-values"];
        let flags = ["--predicate", "in-set", "--values", set.as_str()];
        let words = [&["bridge", "query-scalar-predicate"], series.as_slice(), &range, &flags].concat();
        let mut reply: Value = serde_json::from_str(&run(&words).ok()).unwrap();
        let matches = reply["matches"].take();
        assert_eq!(matches.as_array().unwrap().len(), 1_500);
        let texts = ["csv", "ndjson"]
            .map(|format| run(&[query.as_slice(), &["--where", &within, "--format", format]].concat()).ok());
        let rows =
            [["--where", &within, "--limit", "700"], ["--where", "value:lt:900", "--order", "desc"]].map(|more| {
                let text = run(&[query.as_slice(), &["--format", "json"], &more].concat()).ok();
                serde_json::from_str::<Value>(&text).unwrap()["rows"].take()
            });
        assert_eq!(rows.each_ref().map(|rows| rows.as_array().unwrap().len()), [700, 900]);
        (matches, texts, rows)
    };
    let alone = results();
    let mut command = fastk();
    command.args(["serve", "--http", "127.0.0.1:0", "--flight", "127.0.0.1:0", "--root", &root]);
    command.env("FASTK__HTTP__JSON_ROWS_MAX", "1000").env("FASTK__HTTP__JSON_ROWS_DEFAULT", "1000");
    let server = Server::of(command);
    assert_eq!(results(), alone);
    let done = run(&[query.as_slice(), &["--format", "json"]].concat());
    done.fails(fastk::ErrorCode::TooLarge.exit().into(), "too_large");
    let done = run(&[query.as_slice(), &["--format", "json", "--where", "value:gt:x"]].concat());
    done.fails(fastk::ErrorCode::InvalidArgument.exit().into(), "invalid_argument");
    server.stop();
}

#[test]
fn concurrent_commands_wait_for_each_other() {
    let temporary = tempfile::tempdir().unwrap();
    let root = temporary.path().to_string_lossy().into_owned();
    let series = ["--symbol", "M", "--timeframe", "1m", "--category", "f", "--name", "v", "--root", &root];
    let write = [&["bridge", "write-scalar-range"], series.as_slice()].concat();
    std::thread::scope(|scope| {
        for row in 0..6 {
            let write = &write;
            scope.spawn(move || run_with(write, &values(Value::Null, [(row * 60_000, row)])).ok());
        }
    });
    let read = [&["bridge", "scalar-inventory"], series.as_slice()].concat();
    let reply: Value = serde_json::from_str(&run(&read).ok()).unwrap();
    assert_eq!(reply["record_count"], 6);
}

#[test]
fn schemas_refuse_the_inputs_that_commands_refuse() {
    let validator = schema("write-kline-range.input");
    let good: Value = serde_json::from_str(&some_bars()).unwrap();
    assert!(validator.is_valid(&good));
    for (pointer, bad) in [
        ("/timeframe_ms", json!(0)),
        ("/price_scale", json!("100")),
        ("/records", json!({})),
        ("/records/0/close", json!(7.5)),
        ("/records/0/close", Value::Null),
    ] {
        let mut input = good.clone();
        *input.pointer_mut(pointer).unwrap() = bad;
        assert!(!validator.is_valid(&input), "{pointer}");
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path().to_string_lossy().into_owned();
        let words = ["bridge", "write-kline-range", "--symbol", "X", "--timeframe", "1m", "--root", &root];
        run_with(&words, &input.to_string()).fails(2, "invalid_argument");
    }
}

#[test]
fn a_missing_directory_is_not_an_empty_store() {
    let temporary = tempfile::tempdir().unwrap();
    let root = temporary.path().join("none");
    let words = ["bridge", "read-scalar-range", "--symbol", "X", "--timeframe", "1m", "--category", "f", "--name", "v"];
    let range = ["--start-ts", "0", "--end-ts", "1", "--root", &root.to_string_lossy()];
    let done = run(&[&words[..], &range].concat()).fails(3, "not_found");
    conforms("failure", &serde_json::from_str(&done.out).unwrap());
    assert!(!root.exists());
    let help = run(&["bridge", "--help"]).ok();
    assert!(help.contains("query-scalar-predicate") && !help.contains("\"ok\""), "{help}");
}
