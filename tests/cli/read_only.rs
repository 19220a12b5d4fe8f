//! Commands that only read work on a directory without write permission, and change no file.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use crate::program::{Done, Server, fastk, finish, run, run_with};

/// User and group without rights.
const NOBODY: &str = "65534";

/// Bytes and modification time of each file below a directory.
fn tree(dir: &Path, found: &mut BTreeMap<PathBuf, (Vec<u8>, SystemTime)>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tree(&path, found);
        } else {
            let changed = path.metadata().unwrap().modified().unwrap();
            found.insert(path.clone(), (std::fs::read(&path).unwrap(), changed));
        }
    }
}

fn listed(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let mut found = BTreeMap::new();
    tree(dir, &mut found);
    found
}

/// Removes the write permission of all users, or restores that of the owner.
fn set_writable(path: &Path, is_writable: bool) {
    let mode = match (path.is_dir(), is_writable) {
        (true, false) => 0o555,
        (false, false) => 0o444,
        (true, true) => 0o755,
        (false, true) => 0o644,
    };
    let set = || std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    if path.is_dir() {
        // A directory without read permission cannot be walked.
        set();
        std::fs::read_dir(path).unwrap().for_each(|entry| set_writable(&entry.unwrap().path(), is_writable));
    }
    set();
}

/// Restores the write permission on drop, so that the directory can be removed.
struct Restored(PathBuf);

impl Drop for Restored {
    fn drop(&mut self) {
        set_writable(&self.0, true);
    }
}

/// The program as a user who is bound by file permissions: `nobody` if this process is root.
struct Reader {
    is_root: bool,
    program: PathBuf,
}

impl Reader {
    fn command(&self, words: &[&str]) -> Command {
        let environment = fastk();
        let mut command = if self.is_root {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--"]).arg(&self.program);
            command
        } else {
            Command::new(&self.program)
        };
        for (name, value) in environment.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.args(words);
        command
    }

    fn run(&self, words: &[&str]) -> Done {
        finish(self.command(words), "")
    }
}

#[test]
fn reading_commands_work_on_a_read_only_directory_and_change_no_file() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("fastk");
    let built = env!("CARGO_BIN_EXE_fastk");
    std::fs::hard_link(built, &program).or_else(|_| std::fs::copy(built, &program).map(|_| ())).unwrap();
    let is_root = rustix::process::geteuid().is_root();
    let reader = Reader { is_root, program };
    if let Err(error) = reader.command(&["--version"]).output().map(|output| assert!(output.status.success())) {
        eprintln!("SKIPPED: the program cannot be started as another user: {error}");
        return;
    }
    let store = folder.path().join("store");
    let root = store.to_str().unwrap();
    // Killed, so that rows are in the log and the dataset is in the write-ahead log of the registry.
    let server = Server::start(&store);
    let key = "kline/X/1m";
    run(&["register", key, "--price-digits", "0", "--volume-digits", "0", "--root", root]).ok();
    let rows = "ts,open,high,low,close,volume\n0,1,1,1,1,1\n60000,2,2,2,2,2\n";
    run_with(&["write", key, "--format", "csv", "--root", root], rows).ok();
    run(&["snapshot", "create", "before", "--root", root]).ok();
    run(&["dataset", "create", "bars", key, "--root", root]).ok();
    run_with(&["write", key, "--format", "csv", "--root", root], "ts,open,high,low,close,volume\n120000,3,3,3,3,3\n")
        .ok();
    drop(server);
    set_writable(&store, false);
    let restored = Restored(store.clone());
    let before = listed(&store);
    let exported = folder.path().join("exported");
    std::fs::create_dir(&exported).unwrap();
    std::fs::set_permissions(&exported, std::fs::Permissions::from_mode(0o777)).unwrap();
    let file = exported.join("rows.csv");
    let readings: &[(&[&str], &str)] = &[
        (&["query", key, "--format", "csv"], "120000,3,3,3,3,3"),
        (&["query", key, "--format", "csv", "--as-of", "before"], "60000,2,2,2,2,2"),
        (&["export", key, "--output", file.to_str().unwrap()], ""),
        (&["coverage", key], "3"),
        (&["snapshot", "list"], "before"),
        (&["dataset", "list"], "bars"),
        (&["admin", "list-series"], key),
        (&["admin", "inventory"], key),
        (&["admin", "stats"], ""),
        (&["admin", "health"], ""),
        (&["admin", "verify"], ""),
        (&["admin", "list-orphans"], ""),
    ];
    for (words, expected) in readings {
        let out = reader.run(&[*words, &["--root", root]].concat()).ok();
        assert!(out.contains(expected), "{words:?}: {out}");
        assert!(listed(&store) == before, "{words:?} changed something");
    }
    assert!(std::fs::read_to_string(&file).unwrap().lines().count() >= 4);
    let segment = before.keys().find(|path| path.extension().is_some_and(|ending| ending == "wal")).unwrap();
    assert!(reader.run(&["inspect", segment.to_str().unwrap()]).ok().contains("segment"));
    // Commands that write are refused with the directory named, and a server does not start.
    reader.run(&["delete", key, "--all", "--root", root]).fails(7, "writer_stopped");
    reader.run(&["register", "kline/NEW/1m", "--root", root]).fails(7, "writer_stopped");
    let served = reader.run(&["serve", "--http", "127.0.0.1:0", "--flight", "127.0.0.1:0", "--root", root]);
    assert_ne!(served.status, 0, "{served:?}");
    assert!(listed(&store) == before, "something changed");
    if is_root {
        // While a server owns the store, commands go through it instead of reading changing files.
        let server = Server::start(&store);
        let through_owner = reader.run(&["query", key, "--format", "csv", "--root", root]);
        assert!(through_owner.err.contains("going through"), "{through_owner:?}");
        assert!(through_owner.ok().contains("120000,3,3,3,3,3"));
        drop(server);
    }
    drop(restored);
    assert!(run(&["query", key, "--format", "csv", "--root", root]).ok().contains("120000,3,3,3,3,3"));
}
