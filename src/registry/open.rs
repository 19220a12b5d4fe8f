//! Opening the file: a missing one is not an error, a damaged one is moved to `quarantine/`, a newer one is not
//! touched.

use std::path::Path;

use rusqlite::{Connection, ErrorCode as SqliteCode, OpenFlags};

use super::schema;
use crate::disk::{self, DiskPath, local};
use crate::error::{Error, ErrorCode, Result};

/// Name of the file in a data directory.
pub const FILE: &str = crate::format::backup::REGISTRY_FILE;
/// How long a statement waits for another program that has the file open.
const BUSY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// Why a file cannot be used.
#[derive(Debug)]
pub enum OpenFailureReason {
    /// The file is not a valid registry.
    Damaged(String),
    /// The file may be intact.
    Other(Error),
}

/// Converts an error of SQLite.
pub fn failed(action: &str, path: &Path, error: &rusqlite::Error) -> Error {
    let code = match error.sqlite_error_code() {
        Some(SqliteCode::DiskFull) => ErrorCode::StorageFull,
        Some(SqliteCode::DatabaseCorrupt | SqliteCode::NotADatabase) => ErrorCode::CorruptData,
        Some(SqliteCode::DatabaseBusy | SqliteCode::DatabaseLocked) => ErrorCode::Overloaded,
        Some(
            SqliteCode::CannotOpen | SqliteCode::PermissionDenied | SqliteCode::ReadOnly | SqliteCode::SystemIoFailure,
        ) => ErrorCode::Io,
        _ => ErrorCode::Internal,
    };
    let error = Error::new(code, format!("cannot {action} {}: {error}", path.display()));
    match code {
        ErrorCode::CorruptData => {
            error.with_hint("the next start of the store moves the file to quarantine and creates an empty registry")
        }
        _ => error,
    }
}

fn unusable(path: &Path, error: &rusqlite::Error) -> OpenFailureReason {
    let error = failed("open", path, error);
    match error.code() {
        ErrorCode::CorruptData => OpenFailureReason::Damaged(error.detail().to_owned()),
        _ => OpenFailureReason::Other(error),
    }
}

/// Opens an existing file, checks it and migrates it to the version of this program.
pub fn open(path: &Path) -> Result<Connection, OpenFailureReason> {
    let fail = |error: rusqlite::Error| unusable(path, &error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(fail)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(fail)?;
    check(&connection, path)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(fail)?;
    configure(&connection).map_err(fail)?;
    schema::migrate(&mut connection).map_err(fail)?;
    Ok(connection)
}

/// Opens a file that is never changed, without changing it or creating files next to it.
pub fn open_read_only(path: &Path) -> Result<Connection> {
    let fail = |error: rusqlite::Error| failed("open", path, &error);
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_encoded_bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-".contains(byte) {
            uri.push(char::from(*byte));
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
    uri.push_str("?immutable=1");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(uri, flags).map_err(fail)?;
    match check(&connection, path) {
        Ok(()) => {}
        Err(OpenFailureReason::Damaged(reason)) => return Err(Error::corrupt(reason)),
        Err(OpenFailureReason::Other(error)) => return Err(error),
    }
    let found = schema::version_of(&connection).map_err(fail)?;
    if found == schema::version() {
        return Ok(connection);
    }
    // An older version is read through a migrated copy in memory.
    in_memory_copy(&connection).map_err(fail)
}

/// Opens a copy in memory of a file that cannot be written to, including its write-ahead log. Both are first copied to
/// the temporary directory: SQLite cannot read a log without writing its index.
pub fn open_copy(path: &Path, wal: &Path) -> Result<Connection> {
    let fail = |error: rusqlite::Error| failed("open", path, &error);
    let base = std::env::temp_dir();
    let dir = local::temporary_dir(&base, "fastk-registry-");
    let dir = dir.map_err(|error| Error::io("create a directory in", &base, &error))?;
    let copy = dir.path().join(FILE);
    local::copy(path, &copy)?;
    local::copy(wal, &dir.path().join(format!("{FILE}-wal")))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&copy, flags).map_err(fail)?;
    match check(&connection, path) {
        Ok(()) => {}
        Err(OpenFailureReason::Damaged(reason)) => return Err(Error::corrupt(reason)),
        Err(OpenFailureReason::Other(error)) => return Err(error),
    }
    in_memory_copy(&connection).map_err(fail)
}

/// A copy in memory, migrated to the version of this program.
fn in_memory_copy(connection: &Connection) -> rusqlite::Result<Connection> {
    let mut copy = Connection::open_in_memory()?;
    rusqlite::backup::Backup::new(connection, &mut copy)
        .and_then(|backup| backup.run_to_completion(1_024, std::time::Duration::ZERO, None))?;
    schema::migrate(&mut copy)?;
    Ok(copy)
}

/// An empty registry in memory.
pub fn in_memory() -> Result<Connection> {
    let fail = |error: rusqlite::Error| failed("make", Path::new("an empty registry"), &error);
    let mut connection = Connection::open_in_memory().map_err(fail)?;
    configure(&connection).map_err(fail)?;
    schema::migrate(&mut connection).map_err(fail)?;
    Ok(connection)
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    // A commit is durable when it is acknowledged, like a write of rows.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "temp_store", "MEMORY")
}

/// Checks that a file is a registry, is intact and is not newer than this program.
fn check(connection: &Connection, path: &Path) -> Result<(), OpenFailureReason> {
    let fail = |error: rusqlite::Error| unusable(path, &error);
    let damaged = |what: String| Err(OpenFailureReason::Damaged(format!("{} {what}", path.display())));
    let version = schema::version_of(connection).map_err(fail)?;
    let application: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(fail)?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(fail)?;
    // An empty file is a registry that was never written.
    if application != schema::APPLICATION_ID && !(application == 0 && version == 0 && tables == 0) {
        return damaged("is an SQLite file of another program".into());
    }
    if version > schema::version() {
        return Err(OpenFailureReason::Other(
            Error::new(
                ErrorCode::UnsupportedFormat,
                format!("{} has version {version}, this program supports up to {}", path.display(), schema::version()),
            )
            .with_hint("use the program that wrote it, or a newer one"),
        ));
    }
    let found: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(fail)?;
    if found != "ok" {
        return damaged(format!("fails its integrity check: {}", found.replace('\n', " ")));
    }
    Ok(())
}

/// Creates an empty file with the same permissions as the other files of the store.
pub fn create(root: &DiskPath) -> Result<Connection> {
    let path = root.join(FILE);
    disk::publish(&root.join("tmp"), &path, b"")?;
    open(&path).map_err(|unusable| match unusable {
        OpenFailureReason::Damaged(reason) => Error::corrupt(reason),
        OpenFailureReason::Other(error) => error,
    })
}

/// Whether the file and its write-ahead log are both empty.
pub fn is_empty(root: &DiskPath) -> Result<bool> {
    let [wal, _, _] = side_files(root);
    for path in [root.join(FILE), wal] {
        if path.found()? && disk::file_bytes(&disk::open(&path)?, &path)? > 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Files that SQLite creates next to the registry.
pub fn side_files(root: &DiskPath) -> [DiskPath; 3] {
    ["-wal", "-shm", "-journal"].map(|end| root.join(format!("{FILE}{end}")))
}

/// Moves the file and its side files to a new directory under `quarantine/`, with the reason. Returns the directory,
/// relative to the root.
pub fn quarantine(root: &DiskPath, reason: &str, wall_ms: i64) -> Result<String> {
    let base = root.join("quarantine");
    let mut number = wall_ms;
    while base.join(number.to_string()).found()? {
        number += 1;
    }
    let dir = base.join(number.to_string());
    disk::create_dir(&dir)?;
    let [wal, shm, journal] = side_files(root);
    for path in [&root.join(FILE), &wal, &journal] {
        if !path.found()? {
            continue;
        }
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let target = dir.join(&name);
        target.disk().link(path, &target).map_err(|error| Error::io("link", path, &error))?;
        let note = serde_json::json!({"file": name, "reason": reason, "set_aside_ms": wall_ms}).to_string();
        disk::publish(&root.join("tmp"), &dir.join(format!("{name}.reason.json")), note.as_bytes())?;
    }
    disk::sync_dir(&dir)?;
    for path in [&root.join(FILE), &wal, &shm, &journal] {
        disk::remove(path)?;
    }
    disk::sync_dir(root)?;
    Ok(format!("quarantine/{number}"))
}
