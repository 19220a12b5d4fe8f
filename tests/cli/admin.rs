//! `fastk admin stats`, `capabilities` and `compact --dry-run`, on a directory and through its server.

use std::path::Path;

use serde_json::Value;

use super::program::{Server, fastk, finish, run, run_with};

const BODY: &str = "ts,open,high,low,close,volume\n1706745600000,1,1,1,1,1\n1709251200000,2,2,2,2,2\n";

fn create_store(root: &str) {
    run(&["register", "kline/BTCUSDT/1m", "--price-digits", "2", "--root", root]).ok();
    run_with(&["write", "kline/BTCUSDT/1m", "--format", "csv", "--root", root], BODY).ok();
    let scalar = r#"{"timeframe_ms":null,"records":[{"ts":0,"value":5}]}"#;
    let words = ["bridge", "write-scalar-range", "--symbol", "X", "--timeframe", "event"];
    run_with(&[&words[..], &["--category", "risk", "--name", "var", "--root", root]].concat(), scalar).ok();
}

/// The JSON of each report, without the fields that depend on time.
fn reports(flag: &str, at: &str) -> Vec<Value> {
    let look = |words: &[&str]| -> Value {
        let text = run(&[&["admin"], words, &["--json", flag, at]].concat()).ok();
        let mut value: Value = serde_json::from_str(&text).unwrap();
        for own in ["uptime_seconds", "maintenance"] {
            value.as_object_mut().unwrap().remove(own);
        }
        value
    };
    let mut seen = vec![
        look(&["stats"]),
        look(&["capabilities"]),
        look(&["capabilities", "--kind", "scalar"]),
        look(&["compact", "--dry-run"]),
        look(&["compact", "--dry-run", "kline/BTCUSDT/1m"]),
    ];
    run(&["admin", "compact", flag, at]).ok();
    seen.extend([look(&["stats"]), look(&["compact", "--dry-run"])]);
    run(&["admin", "compact", "--dry-run", "kline/NONE/1m", flag, at]).fails(3, "series_not_found");
    seen
}

#[test]
fn reports_are_the_same_on_a_directory_and_through_its_server() {
    let folder = tempfile::tempdir().unwrap();
    let [alone, served] = ["alone", "served"].map(|name| folder.path().join(name).to_string_lossy().into_owned());
    create_store(&alone);
    create_store(&served);
    let by_itself = reports("--root", &alone);
    let server = Server::start(Path::new(&served));
    let through_server = reports("--server", &server.http);
    server.stop();
    for (left, right) in by_itself.iter().zip(&through_server) {
        // How many bytes of log there are depends on how often the store was opened.
        let plain = |value: &Value| {
            let mut value = value.clone();
            if let Some(totals) = value.get_mut("totals").and_then(Value::as_object_mut) {
                totals.remove("wal_bytes");
                totals.remove("run_bytes");
            }
            value
        };
        assert_eq!(plain(left), plain(right));
    }
    let [stats, all, scalars, to_do, of_one, after, nothing] = by_itself.as_slice() else { panic!("{by_itself:?}") };
    assert_eq!((&stats["totals"]["rows"], &stats["totals"]["tail_rows"]), (&3.into(), &3.into()));
    assert_eq!((&after["totals"]["tail_rows"], &after["totals"]["chunks"]), (&0.into(), &3.into()));
    assert_eq!(stats["status"], "ok");
    assert_eq!(all["operators"].as_array().unwrap().len(), 13);
    assert_eq!(all["series"].as_array().unwrap().len(), 2);
    let row = &scalars["series"][0];
    assert_eq!((&row["has_vix"], &row["has_coverage"]), (&true.into(), &false.into()));
    assert_eq!(all["series"][0]["has_vix"], false);
    assert_eq!((&to_do["series_to_seal"], &to_do["rows_to_seal"]), (&2.into(), &3.into()));
    assert_eq!((&of_one["series_to_seal"], &of_one["rows_to_seal"]), (&1.into(), &2.into()));
    assert_eq!((&nothing["rows_to_seal"], &nothing["dry_run"]), (&0.into(), &true.into()));
    // As text, one line per series.
    let shown = run(&["admin", "capabilities", "--root", &alone]).ok();
    assert!(shown.contains("scalar/risk/X/event/var") && shown.contains("between_exclusive"), "{shown}");
    assert!(run(&["admin", "stats", "--root", &alone]).ok().contains("tail_rows: 0"));
}

#[test]
fn a_mistyped_command_suggests_the_nearest_one() {
    for (typed, meant) in [("inventroy", "inventory"), ("list-serie", "list-series"), ("repiar", "repair")] {
        let done = run(&["admin", typed]);
        assert_eq!(done.status, 2, "{done:?}");
        assert!(done.err.contains(&format!("'{typed}'")) && done.err.contains(&format!("'{meant}'")), "{done:?}");
    }
}

#[test]
fn a_repair_finds_the_directory_like_the_other_commands() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    create_store(&root.to_string_lossy());
    for verb in ["repair", "rebuild-manifest"] {
        let run_repair = |root: &Path| {
            let mut command = fastk();
            // Not the current directory of the test.
            command.args(["admin", verb, "--json"]).current_dir(folder.path()).env("FASTK__STORE__ROOT", root);
            finish(command, "")
        };
        let named = run(&["admin", verb, "--json", "--root", &root.to_string_lossy()]);
        assert_eq!((run_repair(&root).out, run_repair(&root).status), (named.out, named.status), "{verb}");
        assert_ne!(run_repair(&folder.path().join("none")).status, 0, "{verb}");
    }
}
