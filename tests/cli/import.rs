//! `fastk import` as a process: standard input, and errors of standard output.

use std::fs::File;
use std::io::Write;
use std::process::{Command, Stdio};

use super::program::{Done, Server, fastk, run};

const BARS: &str = "ts,open,high,low,close,volume\n\
                    1706745600000,42000.10,42001.00,41999.99,42000.50,1.00000001\n\
                    1706745660000,42000.50,42010.00,42000.00,42009.00,0.5\n";
const KEY: &str = "kline/BTCUSDT/1m";

/// Runs a command with these bytes on standard input.
fn run_bytes(arguments: &[&str], input: Vec<u8>) -> Done {
    let mut command = fastk();
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Done { status: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

/// Runs a command with its standard output in this file.
fn run_into(command: &mut Command, out: File) -> Done {
    let output = command.stdout(out).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
    Done {
        status: output.status.code().unwrap_or(-1),
        out: String::new(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn import_reads_standard_input_in_every_format_into_a_directory_and_through_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store").to_string_lossy().into_owned();
    let objects = BARS.lines().skip(1).map(|line| {
        let cells: Vec<&str> = line.split(',').collect();
        let [ts, open, high, low, close, volume] = cells[..] else { panic!("six cells") };
        format!(r#"{{"ts":{ts},"open":{open},"high":{high},"low":{low},"close":{close},"volume":{volume}}}"#)
    });
    let ndjson = objects.collect::<Vec<_>>().join("\n");
    let bodies = [
        BARS.as_bytes().to_vec(),
        gzip(BARS),
        zstd::encode_all(BARS.as_bytes(), 1).unwrap(),
        ndjson.clone().into_bytes(),
        gzip(&format!("[{}]", ndjson.replace('\n', ","))),
    ];
    let server = Server::start(&folder.path().join("served"));
    for (flag, at) in [("--root", root.as_str()), ("--server", &server.http)] {
        let mut seen = Vec::new();
        for (number, body) in bodies.iter().enumerate() {
            let key = format!("kline/BTC{number}/1m");
            let printed = run_bytes(&["import", "-", "--series", &key, flag, at, "--json"], body.clone()).ok();
            let printed: serde_json::Value = serde_json::from_str(&printed).unwrap();
            assert_eq!((&printed["rows_written"], &printed["files"][0]["path"]), (&2.into(), &"standard input".into()));
            seen.push(run(&["query", &key, flag, at, "--format", "csv"]).ok());
        }
        assert!(seen[0].lines().count() == 3 && seen.iter().all(|rows| *rows == seen[0]), "{seen:?}");
    }
    let empty = run_bytes(&["import", "-", "--series", KEY, "--root", &root], Vec::new());
    assert!(empty.fails(2, "invalid_argument").err.contains("standard input is empty"));
    let list = run(&["admin", "list-series", "--root", &root]).ok();
    assert!(!list.contains(KEY), "an import without rows registers nothing: {list}");
}

#[test]
fn an_import_whose_summary_cannot_be_printed_reports_that_its_rows_are_stored() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store").to_string_lossy().into_owned();
    let file = folder.path().join("bars.csv");
    std::fs::write(&file, BARS).unwrap();
    let file = file.to_string_lossy().into_owned();
    for json in [&[][..], &["--json"]] {
        let words = [&["import", &file, "--series", KEY, "--root", &root][..], json].concat();
        let full = || File::options().write(true).open("/dev/full").unwrap();
        let done = run_into(fastk().args(&words), full());
        assert!(done.status > 0 && done.status != 101, "{done:?}");
        assert!(!done.err.contains("panicked") && done.err.contains("standard output"), "{done:?}");
        assert!(done.err.contains("all 2 rows are stored"), "{done:?}");
        assert_eq!(run(&["query", KEY, "--root", &root, "--format", "csv"]).ok().lines().count(), 3);
        // Standard error is closed too.
        let quiet = fastk().args(&words).stdout(Stdio::null()).stderr(full()).status().unwrap();
        assert!(quiet.success(), "{quiet}");
    }
}

#[test]
fn a_full_disk_at_standard_output_is_an_error_and_a_closed_pipe_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store").to_string_lossy().into_owned();
    let file = folder.path().join("bars.csv");
    std::fs::write(&file, BARS).unwrap();
    run(&["import", &file.to_string_lossy(), "--series", KEY, "--root", &root]).ok();
    let current = folder.path().join("store/manifest/CURRENT").to_string_lossy().into_owned();
    let at: [&[&str]; 16] = [
        &["--help"],
        &["--version"],
        &["import", "--help"],
        &["import", &file.to_string_lossy(), "--series", KEY, "--root", &root],
        &["query", KEY, "--root", &root],
        &["query", KEY, "--root", &root, "--format", "csv"],
        &["query", KEY, "--root", &root, "--format", "arrow"],
        &["coverage", KEY, "--root", &root],
        &["inspect", &current],
        &["register", KEY, "--price-digits", "4", "--volume-digits", "10", "--root", &root],
        &["write", KEY, &file.to_string_lossy(), "--root", &root],
        &["snapshot", "list", "--root", &root],
        &["dataset", "list", "--root", &root],
        &["admin", "list-series", "--root", &root],
        &["admin", "stats", "--root", &root],
        &["admin", "verify", "--root", &root],
    ];
    for words in at {
        let done = run_into(fastk().args(words), File::options().write(true).open("/dev/full").unwrap());
        assert!(done.status > 0 && done.status != 101, "{words:?}: {done:?}");
        assert!(done.err.contains("standard output") && !done.err.contains("panicked"), "{words:?}: {done:?}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output =
            fastk().args(words).stdout(writer).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{words:?}: {err}");
        assert!(!err.contains("panicked") && !err.contains("error["), "{words:?}: {err}");
    }
}
