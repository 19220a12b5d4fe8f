//! `admin repair` and `admin rebuild-manifest`: output and exit status when data is lost.

use std::path::{Path, PathBuf};

use fastk::store::{Store, StoreOptions};

use super::program::{Server, run, run_with};

const KEY: &str = "kline/BTCUSDT/1m";

fn write(root: &str, minute: i64) {
    let body = format!("ts,open,high,low,close,volume\n{},1,1,1,1,1\n", 1_706_745_600_000 + minute * 60_000);
    run_with(&["write", KEY, "--format", "csv", "--root", root], &body).ok();
}

fn filled(root: &str) {
    run(&["register", KEY, "--price-digits", "2", "--root", root]).ok();
    for minute in 0..8 {
        write(root, minute);
    }
    run(&["snapshot", "create", "month-end", "--root", root]).ok();
}

fn segment(root: &str) -> PathBuf {
    let dir = Path::new(root).join("wal");
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).max().unwrap()
}

#[test]
fn a_repair_of_a_cut_log_names_what_is_lost_and_fails() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store").to_string_lossy().into_owned();
    filled(&root);
    let epoch = |root: &str| {
        Store::open(Path::new(root), false, StoreOptions { background_maintenance: false, ..Default::default() })
            .unwrap()
            .epoch()
            .to_owned()
    };
    let before = epoch(&root);
    let file = std::fs::OpenOptions::new().write(true).open(segment(&root)).unwrap();
    file.set_len(900).unwrap();
    drop(file);
    let found = run(&["admin", "verify", "--root", &root]);
    assert_eq!(found.status, 1, "{found:?}");
    assert!(found.out.contains("damaged_segment") && found.out.contains("on are lost, if any"), "{found:?}");
    for apply in [&[][..], &["--apply"]] {
        let done = run(&[&["admin", "repair", "--root", &root], apply].concat());
        assert_eq!(done.status, 1, "{done:?}");
        for line in ["log sequence numbers from ", "commits from ", "snapshot month-end at commit "] {
            assert!(done.out.contains(&format!("lost       {line}")), "{line}: {done:?}");
        }
    }
    let again = run(&["admin", "repair", "--apply", "--root", &root]);
    assert_eq!((again.status, again.out.contains("nothing to repair")), (0, true), "{again:?}");
    assert_ne!(epoch(&root), before);
    run(&["admin", "verify", "--root", &root]).ok();
}

#[test]
fn an_empty_registry_with_snapshots_of_datasets_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    for way in ["repair", "opening"] {
        let root = dir.path().join(way).to_string_lossy().into_owned();
        filled(&root);
        run(&["dataset", "create", "bars", KEY, "--root", &root]).ok();
        run(&["admin", "verify", "--root", &root]).ok();
        let registry = Path::new(&root).join("registry.sqlite");
        std::fs::write(&registry, b"").unwrap();
        let found = run(&["admin", "verify", "--root", &root]);
        assert_eq!(found.status, 1, "{found:?}");
        assert!(found.out.contains("error  damaged_registry  registry.sqlite: it is empty"), "{found:?}");
        assert!(found.out.contains("`admin repair --apply`"), "{found:?}");
        if way == "repair" {
            let done = run(&["admin", "repair", "--apply", "--root", &root]);
            assert!(
                done.out.contains("registry.sqlite") && done.out.contains("the description of dataset:bars@1"),
                "{done:?}"
            );
        } else {
            let server = Server::start(Path::new(&root));
            let health = run(&["admin", "stats", "--json", "--server", &server.http]).ok();
            assert!(!health.is_empty());
            server.stop();
        }
        let kept = std::fs::read_dir(Path::new(&root).join("quarantine"))
            .unwrap()
            .flat_map(|time| std::fs::read_dir(time.unwrap().path()).unwrap().map(|entry| entry.unwrap().file_name()));
        assert!(kept.into_iter().any(|name| name.to_string_lossy().contains("registry.sqlite")), "{way}");
        assert!(std::fs::metadata(&registry).unwrap().len() > 0, "{way}: a fresh one");
        run(&["admin", "verify", "--root", &root]).ok();
        // The snapshot of the dataset still exists.
        assert!(run(&["snapshot", "list", "--root", &root]).ok().contains("dataset:bars@1"), "{way}");
    }
}
