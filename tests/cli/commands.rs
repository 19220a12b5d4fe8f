//! The commands on a directory and through a server: the same arguments give the same output.

use std::path::Path;

use super::program::{Done, Server, run, run_with};

const KEY: &str = "kline/BTCUSDT/1m";
const WINDOWS: &str = r#"{"zone":"UTC","windows":[{"from":"Thu 00:00","to":"Fri 24:00"}]}"#;
const BODY: &str = "ts,open,high,low,close,volume\n\
                    1706745600000,42000.10,42001.00,41999.99,42000.50,1.00000001\n\
                    1706745660000,42000.50,42010.00,42000.00,42009.00,0.5\n\
                    1709251200000,61000,61000.01,60999.99,61000,2\n";

/// A row off the grid, and one with a timestamp in seconds.
fn odd_times() -> String {
    BODY.replace("1706745660000", "1706745660500").replace("1709251200000", "1709251200")
}

/// A store, used directly or through a server.
struct Place<'a> {
    flag: &'static str,
    at: &'a str,
}

impl Place<'_> {
    fn run(&self, words: &[&str], input: &str) -> Done {
        run_with(&[words, &[self.flag, self.at]].concat(), input)
    }

    fn ok(&self, words: &[&str]) -> String {
        self.run(words, "").ok()
    }
}

/// Runs every command once; returns their output without random (the epoch in entity tags) and time-dependent parts.
fn conversation(place: &Place, folder: &Path) -> Vec<String> {
    let csv = folder.join("rows.csv");
    std::fs::write(&csv, BODY).unwrap();
    let csv = csv.to_string_lossy();
    let out = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let mut printed = vec![
        place.ok(&["register", KEY, "--price-digits", "2", "--volume-digits", "8"]),
        place.ok(&["register", KEY, "--price-digits", "2", "--volume-digits", "8", "--json"]),
        place.ok(&["write", KEY, &csv]),
        place.run(&["write", KEY, "--format", "csv", "--mode", "append"], &BODY.replace("17", "20")).ok(),
        place.ok(&["query", KEY]),
        place.ok(&["query", KEY, "--latest", "2", "--columns", "close,volume", "--format", "csv"]),
        place.ok(&[
            "query",
            KEY,
            "--start",
            "2024-02-01",
            "--end",
            "2024-02-01",
            "--format",
            "json",
            "--order",
            "desc",
        ]),
        place.ok(&["query", KEY, "--format", "ndjson", "--numbers", "raw", "--times", "rfc3339"]),
        place.ok(&["query", KEY, "--where", "close:gt:42000.5", "--where", "volume:in:0.5,7", "--format", "csv"]),
        place.ok(&["admin", "compact", KEY]),
        place.ok(&["query", KEY, "--where", "close:between:42000.50,42009", "--columns", "close", "--format", "csv"]),
    ];
    for format in ["csv", "json", "ndjson", "arrow", "parquet"] {
        let file = out(&format!("all.{format}"));
        place.ok(&["export", KEY, "--output", &file]);
        let bytes = std::fs::read(&file).unwrap();
        printed.push(format!("{format} {} {:08x}", bytes.len(), crc32c::crc32c(&bytes)));
    }
    // Writing the export again changes no row.
    for format in ["csv", "ndjson", "arrow", "parquet"] {
        printed.push(place.ok(&["write", KEY, &out(&format!("all.{format}"))]));
    }
    // A keyed merge of an open bar is applied once.
    let merge = ["write", KEY, "--format", "csv", "--mode", "merge", "--idempotency-key", "bar-1"];
    printed.push(place.ok(&["snapshot", "create", "before"]));
    let bar = "ts,open,high,low,close,volume\n1706745660000,42009,42050,41000,42020,0.25\n";
    let first = place.run(&merge, bar);
    assert!(!first.err.contains("first result"), "{first:?}");
    let again = place.run(&merge, bar);
    assert!(again.err.contains("first result"), "{again:?}");
    assert_eq!(first.out, again.out);
    printed.push(first.ok());
    printed.push(place.ok(&["query", KEY, "--start", "1706745660000", "--end", "1706745660000", "--format", "csv"]));
    printed.push(place.ok(&["query", KEY, "--as-of", "before"]));
    let file = out("before.csv");
    place.ok(&["export", KEY, "--as-of", "before", "--output", &file]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), std::fs::read_to_string(out("all.csv")).unwrap());
    // A retry succeeds although the first write changed the version of its condition.
    let version =
        printed.iter().rev().find_map(|text| text.lines().find_map(|line| line.strip_prefix("version: "))).unwrap();
    let guarded =
        ["write", KEY, "--format", "csv", "--if-version", version, "--idempotency-key", "guarded"].map(str::to_string);
    let guarded: Vec<&str> = guarded.iter().map(String::as_str).collect();
    let first = place.run(&guarded, BODY);
    assert_eq!(first.out, place.run(&guarded, BODY).ok());
    printed.push(first.ok());
    place.run(&guarded, &BODY.replace("42000.50,1", "42000.50,2")).fails(4, "idempotency_mismatch");
    printed.extend([
        place.ok(&["coverage", KEY, "--as-of", "before"]),
        place.ok(&["snapshot", "list", "--json"]),
        place.ok(&["snapshot", "drop", "before"]),
        place.ok(&[
            "dataset",
            "create",
            "bars",
            KEY,
            "--source",
            "here",
            "--market",
            "spot",
            "--description",
            "all of it",
        ]),
        place.ok(&["dataset", "create", "bars", "kline/*/1m", "--derived-from", "bars@1", "--json"]),
        place.ok(&["dataset", "list"]),
        place.ok(&["dataset", "show", "bars@1"]),
        place.ok(&["dataset", "versions", "bars", "--limit", "1"]),
        place.ok(&["dataset", "versions", "bars", "--limit", "1", "--cursor", "bars@1"]),
        place.ok(&["dataset", "lineage", "bars@1"]),
        place.ok(&["dataset", "lineage", "bars@2", "--json"]),
        place.ok(&["query", KEY, "--as-of", "dataset:bars@1", "--format", "csv"]),
        place.ok(&["query", "kline/*/1m", "--as-of", "dataset:bars", "--format", "csv"]),
        place.ok(&["coverage", KEY, "--as-of", "dataset:bars@2"]),
        place.ok(&["dataset", "status", "bars@1", "deprecated"]),
        place.ok(&["dataset", "status", "bars@1", "archived", "--json"]),
        place.ok(&["snapshot", "list", "--json"]),
    ]);
    let definition = out("definition.json");
    std::fs::write(&definition, r#"{"period": 14}"#).unwrap();
    let definition = format!("@{definition}");
    let make = |kind: &str, definition: &str| {
        let output = "scalar/feature/BTCUSDT/1m/rsi";
        let words = ["create", "rsi", "--definition", definition, "--code-version", "c1", "--output", output];
        place.ok(&[&[kind], &words[..], &["--input", KEY, "--input", "bars@2"]].concat())
    };
    printed.extend([
        make("feature", &definition),
        make("feature", r#"{"period":14}"#),
        make("feature", r#"{"period":15}"#),
        place.ok(&["feature", "list", "--derived-from", "bars@2", "--series", KEY, "--limit", "1", "--json"]),
        place.ok(&["feature", "show", "rsi"]),
        place.ok(&["feature", "versions", "rsi"]),
        place.ok(&["feature", "lineage", "rsi"]),
        place.ok(&["feature", "status", "rsi@2", "deprecated"]),
        make("factor", &definition),
        place.ok(&["factor", "list"]),
        place.ok(&["factor", "show", "rsi@1", "--json"]),
    ]);
    printed.extend([
        place.ok(&["dataset", "lineage", "bars@2"]),
        place.ok(&["dataset", "status", "bars@2", "archived"]),
        place.ok(&["snapshot", "list"]),
        place.ok(&["coverage", KEY]),
        place.ok(&["coverage", KEY, "--start", "2024-02-01", "--end", "2024-02-01", "--json", "--min-missing", "2"]),
        place.ok(&["coverage", KEY, "--calendar", "weekdays", "--limit", "1", "--times", "epoch"]),
        place.ok(&["coverage", KEY, "--json", "--calendar", WINDOWS]),
        place.ok(&["query", KEY, "--latest-complete", "2", "--columns", "close", "--format", "csv"]),
        place.ok(&["delete", KEY, "--start", "1706745600000", "--end", "1706745600000", "--dry-run"]),
        place.ok(&["delete", KEY, "--start", "1706745600000", "--end", "1706745600000"]),
        place.ok(&["query", KEY, "--limit", "1", "--format", "csv"]),
        place.ok(&["delete", KEY, "--all"]),
        place.ok(&["query", KEY, "--format", "csv"]),
        place
            .run(&["write", KEY, "--format", "csv", "--grid", "allow", "--implausible-ts", "allow"], &odd_times())
            .ok(),
        place.ok(&["query", KEY, "--format", "csv"]),
        place.ok(&["admin", "list-series"]),
        place.ok(&["drop", KEY]),
        place.ok(&["admin", "list-series", "--json"]),
    ]);
    let hide = |text: &str| {
        let same = |line: &&str| {
            let name = line.trim_start().trim_start_matches('"');
            !name.starts_with("etag") && !name.starts_with("created_at")
        };
        text.lines().filter(same).collect::<Vec<_>>().join("\n")
    };
    printed.iter().map(|text| hide(text)).collect()
}

#[test]
fn a_directory_and_its_server_print_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let [alone, served] = ["alone", "served"].map(|name| folder.path().join(name));
    std::fs::create_dir_all(folder.path().join("a")).unwrap();
    std::fs::create_dir_all(folder.path().join("b")).unwrap();
    let by_hand = conversation(&Place { flag: "--root", at: &alone.to_string_lossy() }, &folder.path().join("a"));
    let server = Server::start(&served);
    let by_url = conversation(&Place { flag: "--server", at: &server.http }, &folder.path().join("b"));
    assert_eq!(by_hand.len(), by_url.len());
    for (left, right) in by_hand.iter().zip(&by_url) {
        assert_eq!(left, right);
    }
    let row = "42000.50,42010.00,42000.00,42009.00,0.50000000";
    let matching = format!("ts,open,high,low,close,volume\n1706745660000,{row}\n2006745660000,{row}");
    assert!(by_hand.contains(&matching), "{by_hand:?}");
    let closes =
        "ts,close\n1706745600000,42000.50\n1706745660000,42009.00\n2006745600000,42000.50\n2006745660000,42009.00";
    assert!(by_hand.iter().any(|text| text == closes), "{by_hand:?}");
    let merged = "ts,open,high,low,close,volume\n1706745660000,42000.50,42050.00,41000.00,42020.00,0.75000000";
    assert!(by_hand.iter().any(|text| text == merged), "{by_hand:?}");
    let text = by_hand.join("\n");
    for part in [
        "dataset: dataset:bars@1",
        "derived_from: dataset:bars@1",
        "\"status\": \"archived\"",
        "reference: feature:rsi@2",
        "created: false",
        "inputs: dataset:bars@2, kline/BTCUSDT/1m",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    for part in ["rows_written: 3", "created: true", "42000.10", "61000.00", "rows_deleted: 1", "1.00000001"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn commands_on_a_directory_owned_by_a_server_go_through_it() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_string_lossy().into_owned();
    let server = Server::start(folder.path());
    let done = run(&["register", KEY, "--root", &root]);
    assert!(done.err.contains(&format!("going through http://{}", server.http)), "{done:?}");
    assert!(done.err.contains(&server.pid().to_string()), "{done:?}");
    done.ok();
    run_with(&["write", KEY, "--format", "csv", "--root", &root], BODY).ok();
    let there = run(&["query", KEY, "--format", "csv", "--server", &server.http]).ok();
    assert_eq!(there.lines().count(), 4);
    server.stop();
    let here = run(&["query", KEY, "--format", "csv", "--root", &root]);
    assert_eq!(here.err, "", "no message when it opens the store itself");
    assert_eq!(here.ok(), there);
}

/// Failures have the same status and code on a directory and through a server.
#[test]
fn failures_exit_with_their_status_and_write_no_row() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    let root = root.to_string_lossy();
    run(&["query", KEY, "--root", &root]).fails(3, "not_found");
    assert!(!Path::new(&*root).exists(), "only commands that create a store create one");
    let check = |place: &Place| {
        place.run(&["query", "kline/NONE/1m"], "").fails(3, "series_not_found");
        place.run(&["write", KEY, "--format", "csv"], &BODY.replace("0.5", "0.5e-9")).fails(2, "invalid_rows");
        place.run(&["write", KEY, "--format", "csv"], &BODY.replace("volume", "volumes")).fails(2, "schema_mismatch");
        let done = place.run(&["write", KEY, "--format", "csv"], &odd_times()).fails(2, "invalid_rows");
        assert!(done.err.contains("off_grid") && done.err.contains("implausible_ts"), "{done:?}");
        assert!(done.err.contains("nearest grid point is 1706745660000"), "{done:?}");
        place.run(&["write", KEY, "--format", "csv", "--grid", "perhaps"], BODY).fails(2, "invalid_argument");
        place.run(&["write", KEY], "{").fails(2, "invalid_argument");
        place.run(&["write", KEY, "--mode", "insert", "--format", "csv"], BODY).fails(4, "rows_exist");
        place.run(&["write", KEY, "--mode", "append", "--format", "csv"], BODY).fails(4, "out_of_order");
        place.run(&["write", KEY, "--if-version", "99", "--format", "csv"], BODY).fails(4, "commit_conflict");
        place.run(&["delete", KEY, "--all", "--if-version", "99"], "").fails(4, "commit_conflict");
        place.run(&["drop", KEY, "--if-version", "99"], "").fails(4, "commit_conflict");
        place.run(&["register", KEY, "--price-digits", "3"], "").fails(4, "series_exists");
        place.run(&["query", KEY, "--latest", "0"], "").fails(2, "invalid_argument");
        place.run(&["query", KEY, "--start", "2024-02-02", "--end", "2024-02-01"], "").fails(2, "invalid_argument");
        place.run(&["query", KEY, "--columns", "ask"], "").fails(2, "schema_mismatch");
        place.run(&["query", KEY, "--where", "close:above:1"], "").fails(2, "invalid_argument");
        place.run(&["query", KEY, "--where", "ask:gt:1"], "").fails(2, "schema_mismatch");
        place.run(&["query", "kline/../1m"], "").fails(2, "invalid_argument");
        place.run(&["query", KEY, "--as-of", "none"], "").fails(3, "snapshot_not_found");
        place.run(&["snapshot", "drop", "none"], "").fails(3, "snapshot_not_found");
        place.run(&["dataset", "show", "none"], "").fails(3, "dataset_not_found");
        place.run(&["dataset", "create", "none", "kline/NONE/1m"], "").fails(3, "series_not_found");
        place.run(&["dataset", "create", "None", KEY], "").fails(2, "invalid_argument");
        place.run(&["dataset", "status", "none", "archived"], "").fails(2, "invalid_argument");
        place.run(&["feature", "lineage", "none@1"], "").fails(3, "not_found");
        place.run(&["query", KEY, "--as-of", "dataset:none"], "").fails(3, "dataset_not_found");
        place.run(&["snapshot", "create", ".hidden"], "").fails(2, "invalid_argument");
        place.ok(&["snapshot", "create", "twice"]);
        place.run(&["snapshot", "create", "twice"], "").fails(4, "snapshot_exists");
        place.ok(&["snapshot", "drop", "twice"]);
        let merge = ["write", KEY, "--format", "csv", "--mode", "merge"];
        let done = place.run(&merge, BODY).fails(2, "invalid_argument");
        assert!(done.err.contains("--idempotency-key"), "{done:?}");
        let merge = [&merge[..], &["--idempotency-key", "k"]].concat();
        place.run(&[&merge[..], &["--op", "add"]].concat(), BODY).fails(2, "invalid_argument");
        place.run(&["write", KEY, "--format", "csv", "--op", "add"], BODY).fails(2, "invalid_argument");
        place.run(&["write", KEY, "--format", "csv", "--idempotency-key", "a b"], BODY).fails(2, "invalid_argument");
        place.run(&["query", KEY, "--format", "xlsx"], "").fails(2, "invalid_argument");
        let stored = place.ok(&["query", KEY, "--format", "csv"]);
        assert_eq!(stored.lines().count(), 4, "{stored}");
    };
    run(&["register", KEY, "--price-digits", "2", "--volume-digits", "8", "--root", &root]).ok();
    run_with(&["write", KEY, "--format", "csv", "--root", &root], BODY).ok();
    check(&Place { flag: "--root", at: &root });
    let server = Server::start(Path::new(&*root));
    check(&Place { flag: "--server", at: &server.http });
    let address = server.http.clone();
    server.stop();
    run(&["admin", "health", "--server", &address]).fails(7, "not_ready");
    for words in [&["no-such-verb"][..], &["admin", "no-such-verb"]] {
        assert_eq!(run(words).status, 2);
    }
}

#[test]
fn the_error_of_an_invalid_row_names_the_row() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_string_lossy().into_owned();
    run(&["register", KEY, "--price-digits", "2", "--root", &root]).ok();
    let done =
        run_with(&["write", KEY, "--format", "csv", "--root", &root], &BODY.replace("42000.50,0.5", "42000.501,0.5"));
    let done = match done.status {
        0 => run_with(&["write", KEY, "--format", "csv", "--root", &root], &BODY.replace("42009.00", "42009.001")),
        _ => done,
    };
    let done = done.fails(2, "invalid_rows");
    assert!(done.err.contains("\n  row 1: close "), "{}", done.err);
    assert!(done.err.contains("precision_loss"), "{}", done.err);
}

#[test]
fn coverage_prints_gaps_as_text_and_as_json() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_string_lossy().into_owned();
    run(&["register", KEY, "--price-digits", "2", "--volume-digits", "8", "--root", &root]).ok();
    run_with(&["write", KEY, "--format", "csv", "--root", &root], BODY).ok();
    let shown = run(&["coverage", KEY, "--root", &root]).ok();
    assert!(shown.starts_with("kline/BTCUSDT/1m: 3 of 41761 intervals present (0.0072 %), 2024-02-01"), "{shown}");
    assert!(
        shown.contains("41758") && shown.contains("2024-02-01T00:02:00Z") && shown.contains("2024-02-29T23:59:00Z")
    );
    let found = run(&["coverage", KEY, "--end", "1706745720000", "--json", "--root", &root]).ok();
    let found: serde_json::Value = serde_json::from_str(&found).unwrap();
    assert_eq!((&found["expected"], &found["gaps"][0]["start"]), (&3.into(), &1_706_745_720_000_u64.into()));
    let rows =
        run(&["query", KEY, "--latest-complete", "2", "--columns", "close", "--format", "csv", "--root", &root]).ok();
    assert_eq!(rows, "ts,close\n1706745600000,42000.50\n1706745660000,42009.00\n");
    run(&["coverage", KEY, "--calendar", "nyse", "--root", &root]).fails(2, "invalid_argument");
    run(&["coverage", "kline/NOPE/1m", "--root", &root]).fails(3, "series_not_found");
}

#[test]
fn invalid_arguments_are_printed_like_any_other_error() {
    for (words, printed) in [
        (&["qery"][..], "error[invalid_argument]: unrecognized subcommand 'qery'"),
        (&["query", KEY, "--lmit", "5"], "error[invalid_argument]: unexpected argument '--lmit' found"),
        (&["query", KEY, "--limit", "x"], "error[invalid_argument]: invalid value 'x' for '--limit <N>'"),
        (&["query"], "error[invalid_argument]: the following required arguments were not provided"),
        (&["admin"], "error[invalid_argument]: a command is missing"),
        (&[], "error[invalid_argument]: a command is missing"),
    ] {
        let done = run(words);
        assert_eq!(done.status, 2, "{words:?}");
        assert!(done.err.starts_with(printed) && done.out.is_empty(), "{words:?}: {}", done.err);
    }
    let nearly = run(&["query", KEY, "--lmit", "5"]).err;
    assert!(nearly.contains("\nhint: a similar argument exists: '--limit'\n"), "{nearly}");
    for help in [&["--help"][..], &["query", "--help"], &["--version"]] {
        let done = run(help);
        assert!(done.status == 0 && done.err.is_empty(), "{help:?}: {}", done.err);
    }
}
