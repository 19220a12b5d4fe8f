//! `admin verify`, `scrub`, `list-orphans` and `explain-overlap`: on a directory, while a server owns it, through a
//! server.

use std::path::{Path, PathBuf};

use super::program::{Done, Server, run, run_with};

const KEY: &str = "kline/BTCUSDT/1m";

/// A directory with 20,000 sealed minutes and a row in the log.
fn store(folder: &Path) -> String {
    let root = folder.join("store").to_string_lossy().into_owned();
    let body = |first: i64, count: i64| {
        let row = |row: i64| format!("{},1,2,1,1.5,{row}\n", 1_706_745_600_000 + row * 60_000);
        let rows: String = (first..first + count).map(row).collect();
        format!("ts,open,high,low,close,volume\n{rows}")
    };
    run(&["register", KEY, "--price-digits", "2", "--volume-digits", "0", "--root", &root]).ok();
    run_with(&["write", KEY, "--format", "csv", "--root", &root], &body(0, 20_000)).ok();
    run(&["admin", "compact", "--root", &root]).ok();
    run_with(&["write", KEY, "--format", "csv", "--root", &root], &body(20_000, 1)).ok();
    root
}

fn file(root: &str, ending: &str) -> PathBuf {
    let mut waiting = vec![PathBuf::from(root).join("chunks")];
    while let Some(path) = waiting.pop() {
        for entry in std::fs::read_dir(path).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                return path;
            }
        }
    }
    panic!("no file {ending}");
}

fn flip(path: &Path, byte: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[byte] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn json(done: &Done) -> serde_json::Value {
    serde_json::from_str(&done.out).unwrap_or_else(|error| panic!("{error}: {done:?}"))
}

#[test]
fn damage_is_found_on_the_directory_while_it_is_owned_and_through_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let root = store(folder.path());
    let clean = run(&["admin", "verify", "--root", &root]).ok();
    assert!(clean.starts_with("clean: 0 errors, 0 warnings, 0 notes"), "{clean}");
    let chunk = file(&root, ".arrow");
    flip(&chunk, 70_000);
    let server = Server::start(Path::new(&root));
    let mut reports = Vec::new();
    for place in [["--root", root.as_str()], ["--server", &server.http]] {
        let text = run(&[&["admin", "verify"][..], &place].concat());
        assert_eq!(text.status, 1, "{text:?}");
        let lines: Vec<&str> = text.out.lines().collect();
        assert!(lines[0].starts_with("error  damaged_block  chunks/") && lines[0].contains(KEY), "{text:?}");
        assert!(text.out.contains("what to do:\n  damaged_block: ") && text.out.contains("not clean: 1 error,"));
        let report = run(&[&["admin", "verify", "--json", "--rate", "1G"][..], &place].concat());
        assert_eq!(report.status, 1);
        reports.push(json(&report)["findings"].clone());
    }
    assert_eq!(reports[0], reports[1]);
    assert_eq!(run(&["admin", "health", "--server", &server.http]).status, 1);
    flip(&chunk, 70_000);
    run(&["admin", "verify", "--server", &server.http]).ok();
    run(&["admin", "health", "--server", &server.http]).ok();
    server.stop();
}

#[test]
fn a_scrub_goes_through_the_owner_or_takes_the_lock_and_rebuilds_sidecars() {
    let folder = tempfile::tempdir().unwrap();
    let root = store(folder.path());
    let zones = file(&root, ".zmap");
    let intact = std::fs::read(&zones).unwrap();
    let damaged = || std::fs::write(&zones, b"FASTKZMP").unwrap();
    damaged();
    let dry = run(&["admin", "scrub", "--dry-run", "--root", &root]);
    assert_eq!((dry.status, std::fs::read(&zones).unwrap().len()), (1, 8), "{dry:?}");
    let done = run(&["admin", "scrub", "--rate", "0", "--root", &root]).ok();
    assert!(done.contains("rebuilt  chunks/") && std::fs::read(&zones).unwrap() == intact, "{done}");
    damaged();
    let server = Server::start(Path::new(&root));
    // The lock is the server's: the scrub goes through it.
    let done = run(&["admin", "scrub", "--json", "--root", &root]);
    assert!(done.err.contains("going through"), "{done:?}");
    assert_eq!((done.status, json(&done)["rebuilt"].as_array().unwrap().len()), (0, 1));
    assert!(std::fs::read(&zones).unwrap() == intact);
    server.stop();
}

#[test]
fn orphans_and_overlaps_are_the_same_on_a_directory_and_through_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let root = store(folder.path());
    assert_eq!(
        run(&["admin", "list-orphans", "--root", &root]).ok(),
        "0 files that the manifest does not name, 0 bytes\n"
    );
    std::fs::write(Path::new(&root).join("notes.txt"), "mine").unwrap();
    assert!(run(&["admin", "explain-overlap", "--root", &root]).ok().starts_with("0 partitions with"));
    let server = Server::start(Path::new(&root));
    for place in [["--root", root.as_str()], ["--server", &server.http]] {
        let orphans = run(&[&["admin", "list-orphans"][..], &place].concat());
        assert_eq!((orphans.status, orphans.out.lines().count()), (1, 2), "{orphans:?}");
        assert!(orphans.out.starts_with("notes.txt  4 bytes  FastK did not create it"), "{orphans:?}");
        assert_eq!(json(&run(&[&["admin", "list-orphans", "--json"][..], &place].concat()))["files"], 1);
        run(&[&["admin", "explain-overlap", "--json"][..], &place].concat()).ok();
    }
    server.stop();
    assert_eq!(run(&["admin", "verify", "--rate", "fast", "--root", &root]).status, 2);
    run(&["admin", "verify", "--root", &folder.path().join("nothing").to_string_lossy()]).fails(3, "not_found");
    run(&["admin", "list-orphans", "--root", &folder.path().join("nothing").to_string_lossy()]).fails(3, "not_found");
}
