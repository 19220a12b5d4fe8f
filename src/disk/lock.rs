//! The lock on a store: held until the value is dropped, released by the system when the process dies.
//!
//! There are two locks: one on the file `LOCK`, which names the owner for other processes, and one on the directory
//! itself, which stays effective when the file is removed. [`Lock::is_lost`] reports that the path leads to another
//! directory or file than the locked one.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use super::files::read;
use super::interface::{DiskFile, File};
use super::path::DiskPath;
use super::retry::{persist, read_exact_at, write_all_at};
use crate::error::{Error, ErrorCode, Result};

/// How long to wait for a lock: while a program spawns a child, files it just closed stay open, and locked, until the
/// child runs.
const LOCK_WAIT: Duration = Duration::from_millis(40);

/// The lock, see the module documentation.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: DiskPath,
    /// Device and inode of the locked file.
    identity: (u64, u64),
    /// Lock on the directory, where the file system has such locks.
    _dir: Option<File>,
}

impl Lock {
    /// Acquires the lock on a file and on its directory within [`LOCK_WAIT`], or fails with `store_locked`, naming the
    /// holder.
    pub fn acquire(path: &DiskPath) -> Result<Self> {
        let parent = path.parent();
        let dir = match &parent {
            Some(parent) => acquire_flock(path, || parent.disk().lock_dir(parent))?,
            None => None,
        };
        let file = acquire_flock(path, || path.disk().lock(path))?;
        let identity = persist(|| file.identity()).map_err(|e| Error::io("stat", path, &e))?;
        Ok(Self { file, path: path.clone(), identity, _dir: dir })
    }

    /// Writes a description of the holder.
    pub fn describe(&self, text: &str) -> Result<()> {
        let fail = |e: std::io::Error| Error::io("write", &self.path, &e);
        write_all_at(self.file.as_ref(), text.as_bytes(), 0).map_err(fail)?;
        persist(|| self.file.set_bytes(text.len() as u64)).map_err(fail)
    }

    /// Why this is no longer the lock of the store at the path, checked without reading the file: the file or its
    /// directory was removed, moved or replaced.
    pub fn is_lost(&self) -> Option<String> {
        let path = self.path.display();
        match persist(|| self.path.disk().identity(&self.path)) {
            Ok(found) if found == self.identity => None,
            Ok(_) => Some(format!("{path} was replaced and belongs to another store")),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                let dir = self.path.parent().filter(DiskPath::is_dir);
                Some(dir.map_or_else(
                    || format!("the directory of the store does not exist: {path}"),
                    |_| format!("{path} was removed, and another process may own the directory"),
                ))
            }
            // Ownership is unknown; the next write checks it again.
            Err(_) => None,
        }
    }

    /// Why this is not known to be the lock of the store at the path: the directory was deleted, moved, replaced, or
    /// cannot be read.
    pub fn problem(&self) -> Option<String> {
        if let Some(lost) = self.is_lost() {
            return Some(lost);
        }
        let path = self.path.display();
        let locked = match read_all(self.file.as_ref()) {
            Ok(bytes) => bytes,
            Err(error) => return Some(format!("{path} cannot be read: {error}")),
        };
        match read(&self.path) {
            Ok(found) if found == locked => None,
            Ok(_) => Some(format!("{path} belongs to another store")),
            Err(error) => Some(format!("the directory of the store does not exist: {error}")),
        }
    }
}

/// A lock that several readers of a directory can hold at the same time, and that excludes an owner. It writes no file.
#[derive(Debug)]
pub struct SharedLock(#[allow(dead_code, reason = "held, never used")] Vec<File>);

impl SharedLock {
    /// Acquires the locks of [`Lock::acquire`] in shared mode, or fails with `store_locked`, naming the holder.
    pub fn acquire(path: &DiskPath) -> Result<Self> {
        let parent = path.parent();
        let mut taken = Vec::new();
        for target in parent.iter().chain([path]) {
            let lock = || match target.disk().lock_shared(target) {
                // A copied store may lack the file, and an unreadable file cannot be locked.
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => Ok(None),
                other => other,
            };
            taken.extend(acquire_flock(path, lock)?);
        }
        Ok(Self(taken))
    }
}

/// Acquires a lock, retrying within [`LOCK_WAIT`].
fn acquire_flock<T>(path: &DiskPath, lock: impl Fn() -> std::io::Result<T>) -> Result<T> {
    let started = Instant::now();
    loop {
        match persist(&lock) {
            Ok(taken) => return Ok(taken),
            Err(e) if e.kind() == ErrorKind::WouldBlock && started.elapsed() < LOCK_WAIT => {
                std::thread::sleep(LOCK_WAIT / 10);
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                let holder = read(path).unwrap_or_default();
                let holder = String::from_utf8_lossy(&holder);
                let detail = match holder.trim() {
                    "" => format!("{} is held by another process", path.display()),
                    holder => format!("{} is held by another process: {holder}", path.display()),
                };
                return Err(Error::new(ErrorCode::StoreLocked, detail)
                    .with_hint("stop the other process, or reach it through its addresses"));
            }
            Err(e) => return Err(Error::io("lock", path, &e)),
        }
    }
}

fn read_all(file: &dyn DiskFile) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(file.bytes()?).map_err(|_| ErrorKind::InvalidData)?];
    read_exact_at(file, &mut bytes, 0)?;
    Ok(bytes)
}

/// Whether a process with this id runs on this machine. The id may have been reused.
pub fn process_lives(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    // A permission error means that the process exists.
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}
