//! Files being made: written under `tmp/`, then published under a name that was free.

use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{DiskFile, DiskPath, File, file_bytes, persist, read, remove, sync_dir, write_all_at};
use crate::error::{Error, Result};
use crate::planted::{Bug, planted};

/// A file being written under `tmp/`, removed unless it is published.
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
                // Left behind by a process of the same number.
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

    /// Writes bytes over those that stand at an offset; what is put next goes behind them.
    pub fn put_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.position = offset;
        self.put(bytes)
    }

    /// Appends zeros up to this length of the file.
    pub fn put_zeros(&mut self, bytes: u64) -> Result<()> {
        let zeros = vec![0_u8; usize::try_from(bytes.min(1 << 20)).unwrap_or(0)];
        while self.position < bytes {
            let part = usize::try_from(bytes - self.position).unwrap_or(usize::MAX).min(zeros.len());
            self.put(zeros.get(..part).unwrap_or(&zeros))?;
        }
        Ok(())
    }

    /// Takes room for so many bytes, and makes the file that long.
    pub fn reserve(&self, bytes: u64) -> Result<()> {
        persist(|| self.file.reserve(bytes)).map_err(|e| Error::io("reserve space for", &self.path, &e))
    }

    /// Lets the sync of the bytes written so far begin.
    pub fn begin_sync(&self) {
        if !self.synced && !planted(Bug::FileNotSynced) {
            self.file.begin_sync();
        }
    }

    /// Syncs the bytes written so far; publishing does it for what is not synced yet.
    pub fn sync(&mut self) -> Result<()> {
        if self.synced || planted(Bug::FileNotSynced) {
            return Ok(());
        }
        self.file.sync().map_err(|e| Error::io("sync", &self.path, &e))?;
        self.synced = true;
        Ok(())
    }

    /// Syncs several files, those of a disk of the system at the same time.
    pub fn sync_all(files: &mut [&mut StagedFile]) -> Result<()> {
        if planted(Bug::FileNotSynced) {
            return Ok(());
        }
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

    /// Syncs the bytes, links the file to `target` and syncs the directory. `false`, and nothing changed, when
    /// `target` exists.
    pub fn publish(self, target: &DiskPath) -> Result<bool> {
        let parent = target.parent().filter(|_| !planted(Bug::DirectoryNotSynced));
        // Opened before the file has its name: without a file descriptor nothing is changed.
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

    /// Does the same but for the directory, which the caller syncs once for many files.
    pub fn place(mut self, target: &DiskPath) -> Result<bool> {
        self.sync()?;
        if planted(Bug::PublishReplaces) {
            remove(target)?;
        }
        match persist(|| target.disk().link(&self.path, target)) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(Error::io("publish", target, &e)),
        }
    }

    /// Syncs the bytes and puts the file in the place of whatever has the name of `target`, whose directory is not
    /// synced.
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
        // In a directory that was replaced the name can be that of a file of somebody else.
        let is_own = match (self.path.disk().identity(&self.path), self.file.identity()) {
            (Ok(found), Ok(own)) => found == own,
            (Err(error), _) => error.kind() != ErrorKind::NotFound,
            (Ok(_), Err(_)) => true,
        };
        if !is_own {
            return;
        }
        if let Err(error) = remove(&self.path) {
            tracing::warn!(%error, "a temporary file stays behind");
        }
    }
}

/// Writes a small file and publishes it; `false` when the name is taken.
pub fn publish(tmp: &DiskPath, target: &DiskPath, bytes: &[u8]) -> Result<bool> {
    let mut staged = StagedFile::create(tmp)?;
    staged.put(bytes)?;
    staged.publish(target)
}

/// Puts a small file in the place of whatever has the name. A crash leaves the old one, the new one, or an old one
/// again: for files that are only hints.
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
    /// Publishes a new file of `bytes` bytes that begins with `head`; `zeroed` fills the rest with written zeros
    /// (a later sync then has no block to allocate), else the space is only reserved.
    pub fn create(tmp: &DiskPath, target: &DiskPath, head: &[u8], bytes: u64, zeroed: bool) -> Result<Self> {
        let mut staged = StagedFile::create(tmp)?;
        if !planted(Bug::SpaceNotReserved) {
            staged.reserve(bytes)?;
        }
        staged.put(head)?;
        if zeroed {
            staged.put_zeros(bytes)?;
        }
        Self::publish(staged, target)
    }

    /// Publishes a file that was made beforehand, with these first bytes.
    pub fn begin(mut staged: StagedFile, target: &DiskPath, head: &[u8]) -> Result<Self> {
        staged.position = 0;
        staged.put(head)?;
        Self::publish(staged, target)
    }

    fn publish(staged: StagedFile, target: &DiskPath) -> Result<Self> {
        if !staged.publish(target)? {
            return Err(Error::internal(format!("{} exists already", target.display())));
        }
        Self::open(target)
    }

    /// Opens an existing file for reading and writing.
    pub fn open(path: &DiskPath) -> Result<Self> {
        let file = persist(|| path.disk().open(path, true)).map_err(|e| Error::io("open", path, &e))?;
        Ok(Self { file, path: path.clone() })
    }

    /// The whole file.
    pub fn read(&self) -> Result<Vec<u8>> {
        read(&self.path)
    }

    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        write_all_at(self.file.as_ref(), bytes, offset).map_err(|e| Error::io("write", &self.path, &e))
    }

    /// Makes the written bytes durable. A failed sync is never repeated: the system may have dropped what it could
    /// not write, and a second sync would not tell.
    pub fn sync(&self) -> Result<()> {
        let synced = match self.file.sync() {
            Err(_) if planted(Bug::FailedSyncRetried) => self.file.sync(),
            Err(_) if planted(Bug::FailedSyncIgnored) => Ok(()),
            other => other,
        };
        synced.map_err(|e| Error::io("sync", &self.path, &e))
    }

    pub fn bytes(&self) -> Result<u64> {
        file_bytes(&self.file, &self.path)
    }
}
