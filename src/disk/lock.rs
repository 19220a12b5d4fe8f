//! The lock on a store: held as long as the value lives, released by the system when the process dies.

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
}

impl Lock {
    /// Takes the lock within [`LOCK_WAIT`] or fails with `store_locked`, naming the holder.
    pub fn acquire(path: &DiskPath) -> Result<Self> {
        let begun = Instant::now();
        loop {
            match persist(|| path.disk().lock(path)) {
                Ok(file) => return Ok(Self { file, path: path.clone() }),
                Err(e) if e.kind() == ErrorKind::WouldBlock && planted(Bug::LockNotTaken) => {
                    return Ok(Self { file: super::open(path)?, path: path.clone() });
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock && begun.elapsed() < LOCK_WAIT => {
                    std::thread::sleep(LOCK_WAIT / 10);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    let holder = super::read(path).unwrap_or_default();
                    let holder = String::from_utf8_lossy(&holder);
                    let detail = format!("{} is held by another process: {}", path.display(), holder.trim());
                    return Err(Error::new(ErrorCode::StoreLocked, detail)
                        .with_hint("stop the other process, or reach it through its addresses"));
                }
                Err(e) => return Err(Error::io("lock", path, &e)),
            }
        }
    }

    /// Writes who holds the lock.
    pub fn describe(&self, text: &str) -> Result<()> {
        let fail = |e: std::io::Error| Error::io("write", &self.path, &e);
        write_all_at(self.file.as_ref(), text.as_bytes(), 0).map_err(fail)?;
        persist(|| self.file.set_bytes(text.len() as u64)).map_err(fail)
    }

    /// What speaks against this being the lock of the store that has the path now: the directory was deleted, moved
    /// away, replaced, or cannot be read.
    pub fn problem(&self) -> Option<String> {
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
