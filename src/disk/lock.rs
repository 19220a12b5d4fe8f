//! The lock on a store: held as long as the value lives, released by the system when the process dies.
//!
//! It is two locks: one on the file `LOCK`, in which other processes read who has the store, and one on the directory
//! itself, which holds when somebody removes the file. [`Lock::is_lost`] tells when the path leads to another directory
//! or file than the locked one.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use super::{DiskFile, DiskPath, File, persist, read_exact_at, write_all_at};
use crate::error::{Error, ErrorCode, Result};
use crate::planted::{Bug, planted};

/// How long a lock is waited for: a program that starts another one holds what it just closed until that one runs.
const LOCK_WAIT: Duration = Duration::from_millis(40);

/// The lock. See the head of this module.
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
    /// Takes the lock on a file and on its directory within [`LOCK_WAIT`], or fails with `store_locked`, naming the
    /// holder.
    pub fn acquire(path: &DiskPath) -> Result<Self> {
        let parent = path.parent();
        let dir = match &parent {
            Some(parent) => take(path, || parent.disk().lock_dir(parent), || Ok(None))?,
            None => None,
        };
        let file = take(path, || path.disk().lock(path), || super::open(path))?;
        let identity = persist(|| file.identity()).map_err(|e| Error::io("look at", path, &e))?;
        Ok(Self { file, path: path.clone(), identity, _dir: dir })
    }

    /// Writes who holds the lock.
    pub fn describe(&self, text: &str) -> Result<()> {
        let fail = |e: std::io::Error| Error::io("write", &self.path, &e);
        write_all_at(self.file.as_ref(), text.as_bytes(), 0).map_err(fail)?;
        persist(|| self.file.set_bytes(text.len() as u64)).map_err(fail)
    }

    /// Why this is not the lock of the store that has the path now, as far as it is known without reading: the file or
    /// its directory was removed, moved away or replaced.
    pub fn is_lost(&self) -> Option<String> {
        let path = self.path.display();
        match persist(|| self.path.disk().identity(&self.path)) {
            Ok(found) if found == self.identity => None,
            Ok(_) => Some(format!("{path} was replaced and is of another store now")),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                let dir = self.path.parent().filter(DiskPath::is_dir);
                Some(dir.map_or_else(
                    || format!("the directory of the store is not there: {path}"),
                    |_| format!("{path} was removed, and another process may own the directory"),
                ))
            }
            // Whether it is ours is not known; what is written next says more.
            Err(_) => None,
        }
    }

    /// What speaks against this being the lock of the store that has the path now: the directory was deleted, moved
    /// away, replaced, or cannot be read.
    pub fn problem(&self) -> Option<String> {
        if let Some(lost) = self.is_lost() {
            return Some(lost);
        }
        let path = self.path.display();
        let held = match whole(self.file.as_ref()) {
            Ok(held) => held,
            Err(error) => return Some(format!("{path} cannot be read: {error}")),
        };
        match super::read(&self.path) {
            Ok(found) if found == held => None,
            Ok(_) => Some(format!("{path} is of another store now")),
            Err(error) => Some(format!("the directory of the store is not there: {error}")),
        }
    }
}

/// A lock that several readers of a directory have at one time, and no owner beside them. Nothing is written for it.
#[derive(Debug)]
pub struct SharedLock(#[allow(dead_code, reason = "held, never used")] Vec<File>);

impl SharedLock {
    /// Takes the locks that [`Lock::acquire`] takes, as a reader, or fails with `store_locked`, naming the holder.
    pub fn acquire(path: &DiskPath) -> Result<Self> {
        let parent = path.parent();
        let mut taken = Vec::new();
        for of in parent.iter().chain([path]) {
            let lock = || match of.disk().lock_shared(of) {
                // A store that was copied need not have the file, and who may not read it cannot lock it.
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) => Ok(None),
                other => other,
            };
            taken.extend(take(path, lock, || Ok(None))?);
        }
        Ok(Self(taken))
    }
}

/// Takes a lock, again and again within [`LOCK_WAIT`]; `unlocked` stands in for it where a planted fault leaves it out.
fn take<T>(path: &DiskPath, lock: impl Fn() -> std::io::Result<T>, unlocked: impl Fn() -> Result<T>) -> Result<T> {
    let begun = Instant::now();
    loop {
        match persist(&lock) {
            Ok(taken) => return Ok(taken),
            Err(e) if e.kind() == ErrorKind::WouldBlock && planted(Bug::LockNotTaken) => return unlocked(),
            Err(e) if e.kind() == ErrorKind::WouldBlock && begun.elapsed() < LOCK_WAIT => {
                std::thread::sleep(LOCK_WAIT / 10);
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                let holder = super::read(path).unwrap_or_default();
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

fn whole(file: &dyn DiskFile) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(file.bytes()?).map_err(|_| ErrorKind::InvalidData)?];
    read_exact_at(file, &mut bytes, 0)?;
    Ok(bytes)
}

/// Whether a process of this number runs on this machine. Another one may have taken the number.
pub fn process_lives(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    // Not being allowed to ask means that there is one.
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}
