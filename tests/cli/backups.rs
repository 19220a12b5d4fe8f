//! `admin backup` and `admin restore`: on a directory, through its server, and reads of a backup in place.

use std::path::Path;

use serde_json::Value;

use super::program::{Server, fastk, run, run_with};

const KEY: &str = "kline/BTCUSDT/1m";
const BODY: &str = "ts,open,high,low,close,volume\n\
                    1706745600000,42000.10,42001.00,41999.99,42000.50,1.00000001\n\
                    1706745660000,42000.50,42010.00,42000.00,42009.00,0.5\n";
const LATER: &str = "ts,open,high,low,close,volume\n1706745660000,1,1,1,1,1\n1706745720000,2,2,2,2,2\n";

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A store with a snapshot before its last write.
fn filled(root: &str) {
    run(&["register", KEY, "--price-digits", "2", "--volume-digits", "8", "--root", root]).ok();
    run_with(&["write", KEY, "--format", "csv", "--root", root], BODY).ok();
    run(&["snapshot", "create", "before", "--root", root]).ok();
    run_with(&["write", KEY, "--format", "csv", "--root", root], LATER).ok();
}

fn rows(root: &str, more: &[&str]) -> String {
    run(&[&["query", KEY, "--format", "csv", "--root", root], more].concat()).ok()
}

#[test]
fn a_backup_is_readable_in_place_and_restored_only_with_apply() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let (root, to, again, then) = (path("store"), path("backup"), path("again"), path("then"));
    filled(&root);
    let (now, before) = (rows(&root, &[]), rows(&root, &["--as-of", "before"]));
    assert_ne!(now, before);

    let plan = run(&["admin", "backup", &to, "--dry-run", "--json", "--root", &root]).ok();
    let plan: Value = serde_json::from_str(&plan).unwrap();
    assert_eq!((&plan["dry_run"], &plan["rows"]), (&true.into(), &3.into()));
    assert!(!Path::new(&to).exists());
    let output = run(&["admin", "backup", &to, "--root", &root]).ok();
    assert!(output.contains("rows: 3\n") && output.contains("snapshots: 1\n"), "{output}");
    let kept: Value = serde_json::from_str(&run(&["admin", "backup", &to, "--json", "--root", &root]).ok()).unwrap();
    // Opening the store wrote to its log, so the manifest differs, and no other file.
    assert_eq!((&kept["files_linked"], &kept["files_copied"]), (&0.into(), &1.into()), "{kept}");

    assert_eq!(rows(&to, &[]), now);
    assert_eq!(rows(&to, &["--as-of", "before"]), before);
    let refused = run_with(&["write", KEY, "--format", "csv", "--root", &to], LATER).fails(7, "writer_stopped");
    assert!(refused.err.contains("hint: create a store from it"), "{refused:?}");
    run(&["admin", "backup", &root, "--root", &root]).fails(2, "invalid_argument");
    run(&["admin", "repair", "--root", &to]).fails(7, "writer_stopped");

    let shown = run(&["admin", "restore", &to, "--root", &again]);
    assert!(shown.err.contains("--apply") && shown.out.contains("applied: false\n"), "{shown:?}");
    assert!(!Path::new(&again).exists());
    run(&["admin", "restore", &to, "--root", &again, "--apply"]).ok();
    assert_eq!((rows(&again, &[]), rows(&again, &["--as-of", "before"])), (now, before.clone()));
    run(&["admin", "restore", &to, "--root", &again, "--apply"]).fails(2, "invalid_argument");
    let report =
        run(&["admin", "restore", &to, "--root", &then, "--as-of", "before", "--link", "--apply", "--json"]).ok();
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!((&report["applied"], &report["rows"], &report["as_of"]), (&true.into(), &2.into(), &"before".into()));
    assert_eq!(rows(&then, &[]), before);
    run(&["admin", "restore", &to, "--root", &path("x"), "--as-of", "never", "--apply"]).fails(3, "snapshot_not_found");
    run(&["admin", "restore", &root, "--root", &path("x"), "--apply"]).fails(3, "not_found");

    let listing = Path::new(&to).join("backup.json");
    let mut bytes = std::fs::read(&listing).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&listing, bytes).unwrap();
    let refused = run(&["admin", "restore", &to, "--root", &path("x"), "--apply"]).fails(8, "corrupt_data");
    assert!(refused.err.contains("backup.json"), "{refused:?}");
    assert!(!Path::new(&path("x")).exists());
}

#[test]
fn a_backup_through_a_server_is_written_below_its_configured_directory() {
    let dir = tempfile::tempdir().unwrap();
    let (root, top) = (dir.path().join("store"), dir.path().join("backups"));
    filled(text(&root));
    let serve = |backups: Option<&Path>| {
        let mut command = fastk();
        command.args(["serve", "--http", "127.0.0.1:0", "--flight", "127.0.0.1:0", "--root"]).arg(&root);
        if let Some(backups) = backups {
            command.env("FASTK__STORE__BACKUP_DIR", backups);
        }
        Server::of(command)
    };
    let server = serve(None);
    let refused = run(&["admin", "backup", "monday", "--server", &server.http]).fails(5, "permission_denied");
    assert!(refused.err.contains("backup_dir"), "{refused:?}");
    server.stop();
    let server = serve(Some(&top));
    run(&["admin", "backup", "../monday", "--server", &server.http]).fails(2, "invalid_argument");
    let reply = run(&["admin", "backup", "monday", "--json", "--server", &server.http]).ok();
    let reply: Value = serde_json::from_str(&reply).unwrap();
    assert_eq!((&reply["dir"], &reply["rows"]), (&"monday".into(), &3.into()));
    // With --root the command goes through the server that owns the store, and accepts a full path.
    let tuesday = top.join("tuesday");
    let based = ["admin", "backup", text(&tuesday), "--base", "monday", "--json", "--root", text(&root)];
    let reply: Value = serde_json::from_str(&run(&based).ok()).unwrap();
    assert!(reply["files_linked"].as_u64().unwrap() > 0, "{reply}");
    let now = rows(text(&root), &[]);
    server.stop();
    assert_eq!(rows(text(&tuesday), &[]), now);
}
