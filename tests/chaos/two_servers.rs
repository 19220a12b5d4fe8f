//! Two processes and one directory: one owns it, the other is refused and changes no file.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use super::program::{Server, finish, knows, post, run, serve, tree};
use super::proof_amount::Proof;
use super::workload::{check_all, clients, under_load};

const KEY: &str = "kline/C0-A/1m";

/// A server over rows of every kind, with no maintenance pending.
fn idle_server(root: &Path, log: &Path) -> Server {
    let server = Server::start(root, log);
    let mut clients = clients(1);
    let rest = server.rest();
    clients.iter().for_each(|client| client.register(&rest).unwrap());
    under_load(&mut clients, server, |server, _| {
        std::thread::sleep(Duration::from_millis(300));
        server.kill();
    });
    let server = Server::start(root, log);
    check_all(&mut clients, &server.rest(), "settled");
    wait_until_idle(root);
    server
}

/// Waits until maintenance has finished and the log has its marker.
fn wait_until_idle(root: &Path) {
    let mut before = tree(root);
    loop {
        std::thread::sleep(Duration::from_millis(2_000));
        let after = tree(root);
        if after == before {
            return;
        }
        before = after;
    }
}

#[test]
fn second_server_fails_with_store_locked_and_changes_no_byte() {
    let proof = Proof::new("second_server", 100);
    let folder = tempfile::tempdir().unwrap();
    let (root, log) = (folder.path().join("store"), folder.path().join("log"));
    let mut server = idle_server(&root, &log);
    let before = tree(&root);
    let (mut rounds, mut worst, mut sum) = (0, Duration::ZERO, Duration::ZERO);
    while proof.continues(rounds) {
        let started_at = Instant::now();
        let done = finish(serve(&root, &[]), "");
        let took = started_at.elapsed();
        assert_eq!(done.code(), Some("store_locked"), "{done:?}; {}", proof.replay(rounds));
        assert_eq!(done.status.code(), Some(4), "{done:?}; {}", proof.replay(rounds));
        (worst, sum) = (worst.max(took), sum + took);
        rounds += 1;
    }
    assert!(tree(&root) == before, "a byte, a name or a time of change is another one");
    assert!(server.lives());
    server.kill();
    // The lock is released with its process.
    let next = Server::start(&root, &log);
    post(&next.rest(), "/v1/admin/compact?wait=true", "{}".into()).unwrap();
    next.stop();
    let mean = sum.as_millis() / u128::from(rounds);
    proof.close(format_args!(
        "{rounds} second servers failed with store_locked, {mean} ms from their start on average, {} ms at most",
        worst.as_millis()
    ));
}

/// One row, by its minute.
fn row(minute: i64) -> String {
    json!([{"ts": minute * 60_000, "open": 1, "high": 1, "low": 1, "close": 1, "volume": minute}]).to_string()
}

/// A server with one series and one row.
fn with_one_row(root: &Path, log: &Path) -> Server {
    let server = Server::start(root, log);
    let body = json!({"kind": "kline", "symbol": "X", "timeframe": "1m", "price_digits": 0, "volume_digits": 0});
    post(&server.rest(), "/v1/series", body.to_string()).unwrap();
    post(&server.rest(), "/v1/klines/X/1m", row(0)).unwrap();
    server
}

#[test]
fn a_removed_lock_file_allows_no_second_server() {
    let folder = tempfile::tempdir().unwrap();
    let (root, log) = (folder.path().join("store"), folder.path().join("log"));
    let mut server = with_one_row(&root, &log);
    std::fs::remove_file(root.join("LOCK")).unwrap();
    for _ in 0..2 {
        let done = finish(serve(&root, &[]), "");
        assert_eq!((done.code(), done.status.code()), (Some("store_locked"), Some(4)), "{done:?}");
        // Nor can a command open the store itself.
        let done = run(&["admin", "compact", "--root", &root.to_string_lossy()], "");
        assert_eq!(done.code(), Some("store_locked"), "{done:?}");
        assert!(!root.join("LOCK").exists(), "a refused process created the lock file");
    }
    assert!(server.lives());
    server.kill();
    Server::start(&root, &log).stop();
}

#[test]
fn a_server_whose_lock_or_directory_was_replaced_acknowledges_no_more_writes() {
    type Take = fn(&Path, &Path);
    let taken: [(&str, Take); 4] = [
        ("LOCK removed", |root, _| std::fs::remove_file(root.join("LOCK")).unwrap()),
        ("LOCK replaced by an equal file", |root, _| {
            let held = std::fs::read(root.join("LOCK")).unwrap();
            std::fs::write(root.join("LOCK.new"), held).unwrap();
            std::fs::rename(root.join("LOCK.new"), root.join("LOCK")).unwrap();
        }),
        ("directory moved away", |root, away| std::fs::rename(root, away).unwrap()),
        ("directory replaced by a copy", |root, away| {
            std::fs::rename(root, away).unwrap();
            super::program::copy(away, root);
        }),
    ];
    for (how, take) in taken {
        let folder = tempfile::tempdir().unwrap();
        let (root, log, away) = (folder.path().join("store"), folder.path().join("log"), folder.path().join("away"));
        let mut server = with_one_row(&root, &log);
        let rest = server.rest();
        take(&root, &away);
        // Once replaced, the path belongs to another owner.
        let before = (away.exists() && root.exists()).then(|| tree(&root));
        let refused = post(&rest, "/v1/klines/X/1m", row(1)).unwrap_err();
        assert_eq!(refused.code().name(), "writer_stopped", "{how}: {refused}");
        let record = json!({"name": "f", "definition": {}, "code_version": "1", "inputs": ["kline/X/1m"]});
        let refused = post(&rest, "/v1/features", record.to_string()).unwrap_err();
        assert_eq!(refused.code().name(), "writer_stopped", "{how}: {refused}");
        let health = super::program::health(&rest);
        assert_eq!(health["status"], "failing", "{how}: {health}");
        // Reads continue, with exactly the acknowledged rows.
        let csv = || fastk::cli::remote::Call::new(hyper::Method::GET, "/v1/klines/X/1m").param("format", "csv");
        let rows = super::program::get(&rest, csv()).unwrap();
        assert_eq!(rows.iter().filter(|byte| **byte == b'\n').count(), 2, "{how}");
        assert!(server.lives(), "{how}");
        server.stop();
        if let Some(before) = before {
            let after = tree(&root);
            let changed: Vec<_> =
                before.iter().filter(|(path, was)| after.get(*path) != Some(*was)).map(|(path, _)| path).collect();
            let added: Vec<_> = after.keys().filter(|path| !before.contains_key(*path)).collect();
            assert!(changed.is_empty() && added.is_empty(), "{how}: {changed:?} changed, {added:?} added");
        }
        // The acknowledged rows are in the moved store.
        let store = if away.exists() { &away } else { &root };
        let next = Server::start(store, &log);
        let rows = super::program::get(&next.rest(), csv()).unwrap();
        let text = String::from_utf8(rows).unwrap();
        assert!(text.contains("\n0,"), "{how}: {text}");
        next.stop();
    }
}

#[test]
fn two_starters_race_and_exactly_one_wins() {
    let proof = Proof::new("two_starters", 100);
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut races = 0;
    let mut root = folder.path().join("store");
    while proof.continues(races) {
        let replay = proof.replay(races);
        // Every second race is for a directory that does not exist yet.
        if races % 2 == 0 {
            root = folder.path().join(format!("store-{races}"));
        }
        let logs = [log.with_extension("a"), log.with_extension("b")];
        let starters = std::thread::scope(|scope| {
            let other = scope.spawn(|| Server::of(serve(&root, &[]), &logs[1]));
            let one = Server::of(serve(&root, &[]), &logs[0]);
            [one, other.join().unwrap()]
        });
        let (won, lost): (Vec<_>, Vec<_>) = starters.into_iter().partition(Result::is_ok);
        assert!(won.len() == 1 && lost.len() == 1, "{} of two started: {lost:?}; {replay}", won.len());
        let output = lost.into_iter().next().unwrap().unwrap_err();
        assert!(output.contains("error[store_locked]"), "{output}; {replay}");
        let winner = won.into_iter().next().unwrap().unwrap();
        let body = json!({"kind": "scalar", "category": "c", "symbol": "S", "timeframe": "1m", "name": format!("n{races}"),
            "value": {"type": "int64"}});
        post(&winner.rest(), "/v1/series", body.to_string()).unwrap_or_else(|error| panic!("{error}; {replay}"));
        winner.kill();
        races += 1;
    }
    proof.close(format_args!("{races} races, one winner each, the other failed with store_locked"));
}

#[test]
fn beside_a_live_server_inspecting_commands_read_files_and_all_others_go_through_it() {
    let proof = Proof::new("beside_a_live_server", 1);
    let folder = tempfile::tempdir().unwrap();
    let (root, log) = (folder.path().join("store"), folder.path().join("log"));
    let server = idle_server(&root, &log);
    let at = root.to_string_lossy().into_owned();
    let before = tree(&root);
    let mut described = 0;
    for path in before.keys() {
        let path = root.join(path).to_string_lossy().into_owned();
        described += u64::from(run(&["inspect", &path], "").status.success());
    }
    assert!(described >= 4, "{described} files were described");
    let verifies = knows(&["admin", "verify"]);
    if verifies {
        run(&["admin", "verify", "--root", &at], "").ok();
    }
    // Reading commands go through the server.
    for words in [
        &["query", KEY, "--format", "csv"][..],
        &["coverage", KEY],
        &["snapshot", "list"],
        &["admin", "list-series"],
        &["admin", "inventory"],
        &["admin", "health"],
    ] {
        let done = run(&[words, &["--root", &at]].concat(), "");
        assert!(done.status.success() && done.err.contains("going through"), "{words:?}: {done:?}");
    }
    assert!(tree(&root) == before, "a byte, a name or a time of change is another one");
    // Writing commands go through the server too.
    let rows = "ts,open,high,low,close,volume\n60000,1,1,1,1,1\n";
    for (words, input) in [
        (&["register", "kline/NEW/1m", "--price-digits", "0", "--volume-digits", "0"][..], ""),
        (&["write", "kline/NEW/1m", "--format", "csv"], rows),
        (&["write", "kline/NEW/1m", "--format", "csv", "--mode", "merge", "--idempotency-key", "k"], rows),
        (&["snapshot", "create", "named"], ""),
        (&["delete", "kline/NEW/1m", "--all"], ""),
        (&["snapshot", "drop", "named"], ""),
        (&["admin", "compact"], ""),
        (&["drop", "kline/NEW/1m"], ""),
    ] {
        let done = run(&[words, &["--root", &at]].concat(), input);
        assert!(done.status.success() && done.err.contains("going through"), "{words:?}: {done:?}");
    }
    // Commands that need exclusive access report that the store is locked.
    wait_until_idle(&root);
    let before = tree(&root);
    let mut refused = 0;
    for words in [&["admin", "repair"][..], &["admin", "repair", "--apply"], &["admin", "rebuild-manifest"]] {
        if !knows(words) {
            continue;
        }
        let done = run(&[words, &["--root", &at]].concat(), "");
        assert!(done.code() == Some("store_locked") || done.err.contains("going through"), "{words:?}: {done:?}");
        refused += 1;
    }
    assert!(tree(&root) == before, "a refused command changed a file");
    server.stop();
    let verify = if verifies { "verified" } else { "no verify in this program" };
    proof.close(format_args!(
        "{described} files inspected, {verify}, 14 commands went through the server, {refused} refused"
    ));
}
