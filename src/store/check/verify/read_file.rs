//! Reading a file that may vanish, be damaged or be unreadable: none of these is an error of the check.

use std::time::Duration;

use crate::disk::{self, DiskPath, File};
use crate::error::{Error, ErrorCode, Result};
use crate::store::check::verify::finding::{Finding, FindingKind};
use crate::types::width::to_usize;

/// How often something is checked again before it counts, while a writer may be active.
pub const READ_ATTEMPTS: usize = 4;

/// Time between two checks.
pub const PAUSE: Duration = Duration::from_millis(25);

/// The process named in `LOCK`, if it lives.
pub fn owner(root: &DiskPath) -> Option<u32> {
    #[derive(serde::Deserialize)]
    struct StoreFiles {
        pid: u32,
    }
    let owner = match read(&root.join("LOCK")) {
        FileReadOutcome::Is(bytes) => serde_json::from_slice::<StoreFiles>(&bytes).ok(),
        _ => None,
    };
    owner.map(|owner| owner.pid).filter(|pid| disk::process_lives(*pid))
}

/// What became of the attempt to read a file.
pub enum FileReadOutcome<T> {
    Is(T),
    Missing,
    Unreadable(Error),
}

pub fn open(path: &DiskPath) -> FileReadOutcome<File> {
    match disk::open(path) {
        Ok(file) => FileReadOutcome::Is(file),
        // The disk reports a missing file as missing data.
        Err(error) if error.code() == ErrorCode::CorruptData => FileReadOutcome::Missing,
        Err(error) => FileReadOutcome::Unreadable(error),
    }
}

pub fn read(path: &DiskPath) -> FileReadOutcome<Vec<u8>> {
    let file = match open(path) {
        FileReadOutcome::Is(file) => file,
        FileReadOutcome::Missing => return FileReadOutcome::Missing,
        FileReadOutcome::Unreadable(error) => return FileReadOutcome::Unreadable(error),
    };
    let read = disk::file_bytes(&file, path).and_then(|bytes| disk::read_at(&file, path, 0, to_usize(bytes)));
    match read {
        Ok(bytes) => FileReadOutcome::Is(bytes),
        Err(error) => FileReadOutcome::Unreadable(error),
    }
}

pub fn pause() {
    std::thread::sleep(PAUSE);
}

pub fn unreadable(file: &str, error: &Error) -> Finding {
    Finding::new(FindingKind::UnreadableFile, file, error.detail())
}

/// `not_found` unless there is a store.
pub fn check_is_store(root: &DiskPath) -> Result<()> {
    if root.join("FORMAT").exists() || !disk::list(&root.join("manifest"))?.is_empty() {
        return Ok(());
    }
    Err(Error::new(ErrorCode::NotFound, format!("{} is not a store", root.display())))
}
