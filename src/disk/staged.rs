//! Staged files: written under `tmp/`, then published under an unused name.

use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use super::dirs::sync_dir;
use super::files::{file_bytes, read, remove};
use super::interface::{DiskFile, File};
use super::path::DiskPath;
use super::retry::{persist, write_all_at};
use crate::error::{Error, Result};
use crate::types::width::to_usize;

/// A file being written under `tmp/`, whose temporary name is removed on drop.
#[derive(Debug)]
pub struct StagedFile {
    path: DiskPath,
    file: File,
    position: u64,
    synced: bool,
}

static STAGED: AtomicU64 = AtomicU64::new(0);

impl StagedFile {
    /// A new file in `tmp`.
    pub fn create(tmp: &DiskPath) -> Result<Self> {
        loop {
            let number = STAGED.fetch_add(1, Ordering::Relaxed);
            let path = tmp.join(format!("{}-{number}.tmp", std::process::id()));
            match persist(|| path.disk().create(&path)) {
                Ok(file) => return Ok(Self { path, file, position: 0, synced: false }),
                // Left by an earlier process with the same id.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Error::io("create", &path, &e)),
            }
        }
    }

    pub fn path(&self) -> &DiskPath {
        &self.path
    }

    /// Appends bytes.
    pub fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let path = self.path.clone();
        self.write_all(bytes).map_err(|e| Error::io("write", &path, &e))
    }

    /// Overwrites bytes at an offset; the next write continues after them.
    pub fn put_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.position = offset;
        self.put(bytes)
    }

    /// Appends zeros until the file has `bytes` bytes.
    pub fn put_zeros(&mut self, bytes: u64) -> Result<()> {
        let zeros = vec![0_u8; to_usize(bytes.min(1 << 20))];
        while self.position < bytes {
            let part = to_usize(bytes - self.position).min(zeros.len());
            self.put(zeros.get(..part).unwrap_or(&zeros))?;
        }
        Ok(())
    }

    /// Allocates space for `bytes` bytes, and makes the file that long.
    pub fn reserve(&self, bytes: u64) -> Result<()> {
        persist(|| self.file.reserve(bytes)).map_err(|e| Error::io("reserve space for", &self.path, &e))
    }

    /// Starts a background sync of the bytes written so far.
    pub fn begin_sync(&self) {
        if !self.synced {
            self.file.begin_sync();
        }
    }

    /// Syncs the bytes written so far; publishing syncs the rest.
    pub fn sync(&mut self) -> Result<()> {
        if self.synced {
            return Ok(());
        }
        self.file.sync().map_err(|e| Error::io("sync", &self.path, &e))?;
        self.synced = true;
        Ok(())
    }

    /// Syncs several files, concurrently on the disk of the operating system.
    pub fn sync_all(files: &mut [&mut StagedFile]) -> Result<()> {
        let mut waiting: Vec<&mut &mut StagedFile> = files.iter_mut().filter(|staged| !staged.synced).collect();
        let Some(first) = waiting.first() else { return Ok(()) };
        let plain: Vec<&dyn DiskFile> = waiting.iter().map(|staged| staged.file.as_ref()).collect();
        let synced = first.path.disk().sync_files(&plain);
        for (staged, synced) in waiting.iter_mut().zip(synced) {
            synced.map_err(|e| Error::io("sync", &staged.path, &e))?;
            staged.synced = true;
        }
        Ok(())
    }

    /// Syncs the bytes, links the file to `target` and syncs the directory. `false`, without a change, when `target`
    /// exists.
    pub fn publish(self, target: &DiskPath) -> Result<bool> {
        let parent = target.parent();
        // Opened before the file is linked: without a file descriptor nothing is changed.
        let dir = match &parent {
            Some(parent) => persist(|| parent.disk().open_dir(parent)).map_err(|e| Error::io("open", parent, &e))?,
            None => None,
        };
        let placed = self.place(target)?;
        match (parent.filter(|_| placed), dir) {
            (None, _) => Ok(placed),
            (Some(parent), None) => sync_dir(&parent).map(|()| true),
            (Some(parent), Some(dir)) => {
                persist(|| dir.sync()).map_err(|e| Error::io("sync directory", &parent, &e)).map(|()| true)
            }
        }
    }

    /// Like [`StagedFile::publish`], without the sync of the directory, which the caller does once for many files.
    pub fn place(mut self, target: &DiskPath) -> Result<bool> {
        self.sync()?;
        match persist(|| target.disk().link(&self.path, target)) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(Error::io("publish", target, &e)),
        }
    }

    /// Syncs the bytes and renames the file to `target`, replacing an existing file. The directory is not synced.
    pub fn replace(mut self, target: &DiskPath) -> Result<()> {
        self.sync()?;
        persist(|| target.disk().rename(&self.path, target)).map_err(|e| Error::io("replace", target, &e))
    }
}

impl Write for StagedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.synced = false;
        let count = self.file.write_at(bytes, self.position)?;
        self.position += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for StagedFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match to {
            SeekFrom::Start(offset) => self.position = offset,
            SeekFrom::Current(0) => {}
            _ => return Err(ErrorKind::Unsupported.into()),
        }
        Ok(self.position)
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        // In a replaced directory the name can belong to a file of another process.
        let is_own = match (self.path.disk().identity(&self.path), self.file.identity()) {
            (Ok(found), Ok(staged)) => found == staged,
            (Err(error), _) => error.kind() != ErrorKind::NotFound,
            (Ok(_), Err(_)) => true,
        };
        if !is_own {
            return;
        }
        if let Err(error) = remove(&self.path) {
            tracing::warn!(%error, "a temporary file was not removed");
        }
    }
}

/// Writes a small file and publishes it; `false` when the name exists.
pub fn publish(tmp: &DiskPath, target: &DiskPath, bytes: &[u8]) -> Result<bool> {
    let mut staged = StagedFile::create(tmp)?;
    staged.put(bytes)?;
    staged.publish(target)
}

/// Writes a small file and replaces an existing one. A crash leaves the new file or an old one: for files that are only
/// hints.
pub fn replace(tmp: &DiskPath, target: &DiskPath, bytes: &[u8]) -> Result<()> {
    let mut staged = StagedFile::create(tmp)?;
    staged.put(bytes)?;
    staged.replace(target)
}

/// A file written at offsets and synced, such as a log segment.
#[derive(Debug)]
pub struct WriteFile {
    file: File,
    path: DiskPath,
}

impl WriteFile {
    /// Publishes a new file of `bytes` bytes that starts with `head`; `zeroed` fills the rest with written zeros (a
    /// later sync then has no block to allocate), else the space is only reserved.
    pub fn create(tmp: &DiskPath, target: &DiskPath, head: &[u8], bytes: u64, zeroed: bool) -> Result<Self> {
        let mut staged = StagedFile::create(tmp)?;
        staged.reserve(bytes)?;
        staged.put(head)?;
        if zeroed {
            staged.put_zeros(bytes)?;
        }
        Self::publish(staged, target)
    }

    /// Publishes a file that was prepared earlier, with these first bytes.
    pub fn begin(mut staged: StagedFile, target: &DiskPath, head: &[u8]) -> Result<Self> {
        staged.position = 0;
        staged.put(head)?;
        Self::publish(staged, target)
    }

    fn publish(staged: StagedFile, target: &DiskPath) -> Result<Self> {
        if !staged.publish(target)? {
            return Err(Error::internal(format!("{} already exists", target.display())));
        }
        Self::open(target)
    }

    /// Opens an existing file for reading and writing.
    pub fn open(path: &DiskPath) -> Result<Self> {
        let file = persist(|| path.disk().open(path, true)).map_err(|e| Error::io("open", path, &e))?;
        Ok(Self { file, path: path.clone() })
    }

    /// Reads the entire file.
    pub fn read(&self) -> Result<Vec<u8>> {
        read(&self.path)
    }

    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        write_all_at(self.file.as_ref(), bytes, offset).map_err(|e| Error::io("write", &self.path, &e))
    }

    /// Makes the written bytes durable. A failed sync is never repeated: the system may have dropped the data it could
    /// not write, and a second sync would not report that.
    pub fn sync(&self) -> Result<()> {
        self.file.sync().map_err(|e| Error::io("sync", &self.path, &e))
    }

    pub fn bytes(&self) -> Result<u64> {
        file_bytes(&self.file, &self.path)
    }
}
