//! The only door to files and maps. Knows no formats; every error names the path.
//!
//! Files are made durable in one way: written under `tmp/`, synced, linked to their final name (which fails when
//! the name is taken, and never replaces), and the directory synced.

pub mod mmap;

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorCode, Result};

/// Creates a directory and its parents; existing ones are fine. The parent is synced.
pub fn create_dir(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(path).map_err(|e| Error::io("create directory", path, &e))?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
        _ => Ok(()),
    }
}

/// Makes the names inside a directory durable.
pub fn sync_dir(path: &Path) -> Result<()> {
    let dir = File::open(path).map_err(|e| Error::io("open directory", path, &e))?;
    dir.sync_all().map_err(|e| Error::io("sync directory", path, &e))
}

/// Names in a directory, sorted; empty when the directory does not exist.
pub fn list(path: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("list", path, &e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("list", path, &e))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// The whole file.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => Error::new(ErrorCode::CorruptData, format!("{} is missing", path.display())),
        _ => Error::io("read", path, &e),
    })
}

/// `length` bytes at `offset`.
pub fn read_at(file: &File, path: &Path, offset: u64, length: usize) -> Result<Vec<u8>> {
    let mut out = vec![0; length];
    file.read_exact_at(&mut out, offset).map_err(|e| match e.kind() {
        ErrorKind::UnexpectedEof => Error::corrupt(format!("{} ends before byte {}", path.display(), offset)),
        _ => Error::io("read", path, &e),
    })?;
    Ok(out)
}

/// Opens a file for reading.
pub fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => Error::new(ErrorCode::CorruptData, format!("{} is missing", path.display())),
        _ => Error::io("open", path, &e),
    })
}

/// Bytes of a file.
pub fn file_bytes(file: &File, path: &Path) -> Result<u64> {
    Ok(file.metadata().map_err(|e| Error::io("look at", path, &e))?.len())
}

/// Removes a file; a missing one is fine. The directory is not synced: a removal that comes back is harmless.
pub fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io("remove", path, &e)),
    }
}

/// Removes an empty directory; a missing or filled one is left.
pub fn remove_dir_if_empty(path: &Path) {
    let _ = std::fs::remove_dir(path);
}

/// A file being written under `tmp/`, removed unless it is published.
#[derive(Debug)]
pub struct Staged {
    path: PathBuf,
    file: Option<File>,
}

static STAGED: AtomicU64 = AtomicU64::new(0);

impl Staged {
    /// A new file in `tmp`.
    pub fn create(tmp: &Path) -> Result<Self> {
        let number = STAGED.fetch_add(1, Ordering::Relaxed);
        let path = tmp.join(format!("{}-{number}.tmp", std::process::id()));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(|e| Error::io("create", &path, &e))?;
        Ok(Self { path, file: Some(file) })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file.
    pub fn file(&mut self) -> Result<&mut File> {
        self.file.as_mut().ok_or_else(|| Error::internal("staged file used after publishing"))
    }

    /// Appends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let path = self.path.clone();
        self.file()?.write_all(bytes).map_err(|e| Error::io("write", &path, &e))
    }

    /// Syncs the bytes, links the file to `target` and syncs the directory. `false`, and nothing changed, when
    /// `target` exists.
    pub fn publish(mut self, target: &Path) -> Result<bool> {
        let file = self.file.take().ok_or_else(|| Error::internal("staged file published twice"))?;
        file.sync_all().map_err(|e| Error::io("sync", &self.path, &e))?;
        match std::fs::hard_link(&self.path, target) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::AlreadyExists => return Ok(false),
            Err(e) => return Err(Error::io("publish", target, &e)),
        }
        if let Some(parent) = target.parent() {
            sync_dir(parent)?;
        }
        Ok(true)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            tracing::warn!(%error, "a temporary file stays behind");
        }
    }
}

/// Writes a small file and publishes it; `false` when the name is taken.
pub fn publish(tmp: &Path, target: &Path, bytes: &[u8]) -> Result<bool> {
    let mut staged = Staged::create(tmp)?;
    staged.write(bytes)?;
    staged.publish(target)
}

/// A file written at offsets and synced, such as a log segment.
#[derive(Debug)]
pub struct WriteFile {
    file: File,
    path: PathBuf,
}

impl WriteFile {
    /// Publishes a new file of `bytes` bytes that begins with `head`; `zeroed` fills the rest with written zeros
    /// (a later sync then has no block to allocate), else the space is only reserved.
    pub fn create(tmp: &Path, target: &Path, head: &[u8], bytes: u64, zeroed: bool) -> Result<Self> {
        let mut staged = Staged::create(tmp)?;
        let staged_path = staged.path().to_owned();
        let file = staged.file()?;
        let grow = |e: &std::io::Error| Error::io("reserve space for", &staged_path, e);
        rustix::fs::fallocate(&*file, rustix::fs::FallocateFlags::empty(), 0, bytes)
            .or_else(|e| if e == rustix::io::Errno::OPNOTSUPP { Ok(()) } else { Err(e) })
            .map_err(|e| grow(&e.into()))?;
        file.write_all_at(head, 0).map_err(|e| grow(&e))?;
        if zeroed {
            let zeros = vec![0_u8; 1 << 20];
            let mut offset = u64::try_from(head.len()).unwrap_or(u64::MAX);
            while offset < bytes {
                let part = usize::try_from(bytes - offset).unwrap_or(usize::MAX).min(zeros.len());
                file.write_all_at(zeros.get(..part).unwrap_or(&zeros), offset).map_err(|e| grow(&e))?;
                offset += u64::try_from(part).unwrap_or(u64::MAX);
            }
        }
        if !staged.publish(target)? {
            return Err(Error::internal(format!("{} exists already", target.display())));
        }
        Self::open(target)
    }

    /// Opens an existing file for reading and writing.
    pub fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(|e| Error::io("open", path, &e))?;
        Ok(Self { file, path: path.to_owned() })
    }

    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.file.write_all_at(bytes, offset).map_err(|e| Error::io("write", &self.path, &e))
    }

    /// Makes the written bytes durable.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io("sync", &self.path, &e))
    }

    pub fn bytes(&self) -> Result<u64> {
        file_bytes(&self.file, &self.path)
    }
}

/// How long a lock is waited for: a program that starts another one holds what it just closed until that one runs.
const LOCK_WAIT: Duration = Duration::from_millis(40);

/// The lock on a store, held as long as the value lives and released by the system when the process dies.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes the lock within [`LOCK_WAIT`] or fails with `store_locked`, naming the holder.
    pub fn acquire(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|e| Error::io("open", path, &e))?;
        let begun = Instant::now();
        loop {
            match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { file, path: path.to_owned() }),
                Err(rustix::io::Errno::WOULDBLOCK) if begun.elapsed() < LOCK_WAIT => {
                    std::thread::sleep(LOCK_WAIT / 10);
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    let holder = std::fs::read_to_string(path).unwrap_or_default();
                    let detail = format!("{} is held by another process: {}", path.display(), holder.trim());
                    return Err(Error::new(ErrorCode::StoreLocked, detail)
                        .with_hint("stop the other process, or reach it through its addresses"));
                }
                Err(e) => return Err(Error::io("lock", path, &e.into())),
            }
        }
    }

    /// Writes who holds the lock.
    pub fn describe(&self, text: &str) -> Result<()> {
        let fail = |e: std::io::Error| Error::io("write", &self.path, &e);
        self.file.write_all_at(text.as_bytes(), 0).map_err(fail)?;
        self.file.set_len(u64::try_from(text.len()).unwrap_or(0)).map_err(fail)
    }
}
