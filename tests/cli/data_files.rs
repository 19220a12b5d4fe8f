//! Intact and damaged files of a data directory with `inspect` and `export`.

use std::path::{Path, PathBuf};

use super::program::{Server, fastk, finish, run, run_with};

const KEY: &str = "kline/BTCUSDT/1m";
const MINUTE: i64 = 60_000;

/// A store with 40,000 sealed minutes of one month, and one row in the log.
fn store(folder: &Path) -> String {
    let root = folder.join("store").to_string_lossy().into_owned();
    let mut body = String::from("ts,open,high,low,close,volume\n");
    for row in 0..40_000_i64 {
        let ts = 1_706_745_600_000 + row * MINUTE;
        body.push_str(&format!("{ts},1.{row:05},2,1,1.5,{row}\n"));
    }
    run(&["register", KEY, "--price-digits", "5", "--volume-digits", "0", "--root", &root]).ok();
    run_with(&["write", KEY, "--format", "csv", "--root", &root], &body).ok();
    run(&["admin", "compact", "--root", &root]).ok();
    run_with(&["write", KEY, "--root", &root], r#"[{"ts":0,"open":1,"high":1,"low":1,"close":1,"volume":1}]"#).ok();
    root
}

/// Files below a directory with this extension.
fn files(root: &str, ending: &str) -> Vec<PathBuf> {
    let (mut out, mut folders) = (Vec::new(), vec![PathBuf::from(root)]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                out.push(path);
            }
        }
    }
    out.sort();
    out
}

#[test]
fn every_kind_of_file_is_described() {
    let folder = tempfile::tempdir().unwrap();
    let root = store(folder.path());
    for (ending, words) in [
        (".arrow", vec!["\"kind\": \"chunk\"", KEY, "40000"]),
        (".wal", vec!["segment"]),
        (".edit", vec!["manifest edit"]),
    ] {
        let found = files(&root, ending);
        let file = found.last().unwrap_or_else(|| panic!("no {ending} in {root}")).to_string_lossy().into_owned();
        let text = run(&["inspect", &file]).ok();
        assert!(text.starts_with(|c: char| c.is_alphabetic()) && !text.contains('{'), "{text}");
        let json = run(&["inspect", "--json", &file]).ok();
        assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok(), "{json}");
        for word in words {
            assert!(json.contains(word), "{word} in {json}");
        }
    }
    let foreign = folder.path().join("foreign");
    std::fs::write(&foreign, "not ours").unwrap();
    let done = run(&["inspect", &foreign.to_string_lossy()]).fails(2, "invalid_argument");
    assert!(done.err.contains("foreign"), "{}", done.err);
    assert_eq!(run(&["inspect", "/nonexistent/file"]).fails(8, "io").out, "");
}

#[test]
fn reading_commands_change_no_byte_under_a_running_server() {
    let folder = tempfile::tempdir().unwrap();
    let root = store(folder.path());
    let server = Server::start(Path::new(&root));
    let one = r#"[{"ts":60000,"open":1,"high":1,"low":1,"close":1,"volume":1}]"#;
    run_with(&["write", KEY, "--server", &server.http], one).ok();
    let seen = || -> Vec<_> {
        let changed = |path: &PathBuf| std::fs::metadata(path).unwrap().modified().unwrap();
        files(&root, "").into_iter().map(|path| (changed(&path), std::fs::read(&path).unwrap(), path)).collect()
    };
    // The log gets its marker shortly after the last write.
    let mut before = seen();
    loop {
        std::thread::sleep(std::time::Duration::from_millis(1_500));
        let after = seen();
        if after == before {
            break;
        }
        before = after;
    }
    let described = before.iter().filter(|(.., path)| run(&["inspect", &path.to_string_lossy()]).status == 0).count();
    assert!(described >= 4, "{described} files were described");
    let mut second = fastk();
    second.args(["serve", "--http", "127.0.0.1:0", "--flight", "127.0.0.1:0", "--root", &root]);
    finish(second, "").fails(4, "store_locked");
    // A read with --root goes through the server.
    run(&["admin", "list-series", "--root", &root]).ok();
    let rows = run(&["query", KEY, "--root", &root, "--format", "csv"]).ok();
    assert_eq!(rows.lines().count(), 40_003);
    assert!(seen() == before, "a byte, a name or a modification time differs");
    server.stop();
}

#[test]
fn damage_fails_the_export_and_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let root = store(folder.path());
    let chunk = files(&root, ".arrow").pop().unwrap();
    let mut bytes = std::fs::read(&chunk).unwrap();
    // In the columns of the last block: the footer starts some kilobytes before the end.
    let at = bytes.len() - bytes.len() / 8;
    bytes[at] ^= 0x10;
    let healthy = run(&["inspect", &chunk.to_string_lossy()]).ok();
    assert!(healthy.contains("damaged_blocks: -\n"), "{healthy}");
    std::fs::write(&chunk, &bytes).unwrap();
    let inspected = run(&["inspect", &chunk.to_string_lossy()]);
    assert_eq!(inspected.status, 1, "{inspected:?}");
    assert!(inspected.out.contains("damaged_blocks: 2\n"), "{inspected:?}");
    let target = folder.path().join("all.csv");
    let export = |flag: &str, at: &str| {
        let done = run(&["export", KEY, "--output", &target.to_string_lossy(), flag, at]);
        assert_eq!(done.status, 8, "{done:?}");
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["store"], "only the store");
    };
    export("--root", &root);
    let server = Server::start(Path::new(&root));
    export("--server", &server.http);
    let healthy = run(&["query", KEY, "--limit", "100", "--format", "csv", "--server", &server.http]).ok();
    assert_eq!(healthy.lines().count(), 101, "the first block is served as before");
}

#[test]
fn an_existing_file_is_replaced_only_with_force() {
    let folder = tempfile::tempdir().unwrap();
    let root = store(folder.path());
    let file = folder.path().join("rows.csv");
    std::fs::write(&file, "mine").unwrap();
    let words = ["export", KEY, "--latest", "2", "--root", &root, "--output", &file.to_string_lossy()];
    run(&words).fails(2, "invalid_argument");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
    run(&[&words[..], &["--force"]].concat()).ok();
    assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 3);
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    let root = store(folder.path());
    let mut child = super::program::fastk()
        .args(["query", KEY, "--format", "csv", "--root", &root])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
