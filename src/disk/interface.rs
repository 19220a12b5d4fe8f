//! The operations that a disk and an open file offer. Other implementations replace the operating system: the
//! overlay of a read-only store, and in tests a disk that loses power.

use std::io;
use std::path::{Path, PathBuf};

use super::mmap::Map;

/// The file system operations the engine needs. All methods block.
pub trait Disk: Send + Sync + std::fmt::Debug {
    /// Creates one directory; its parent must exist.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes the names inside a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Names in a directory, in any order.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Whether a path is a directory; `NotFound` when it does not exist.
    fn is_dir(&self, path: &Path) -> io::Result<bool>;
    /// Creates a file for reading and writing; `AlreadyExists` when the name exists.
    fn create(&self, path: &Path) -> io::Result<File>;
    /// Opens an existing file.
    fn open(&self, path: &Path, writing: bool) -> io::Result<File>;
    /// Creates a hard link; `AlreadyExists` when the name exists.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Renames a file, replacing an existing file of that name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Takes the exclusive lock on a file, which is created if missing; `WouldBlock` when it is held elsewhere. The
    /// lock is held as long as the file is open.
    fn lock(&self, path: &Path) -> io::Result<File>;
    /// Makes contents and lengths of these files durable, in any order. One result per file, in their order.
    fn sync_files(&self, files: &[&dyn DiskFile]) -> Vec<io::Result<()>> {
        files.iter().map(|file| file.sync()).collect()
    }
    /// Makes the names inside these directories durable, in any order. One result per directory, in their order.
    fn sync_dirs(&self, paths: &[&Path]) -> Vec<io::Result<()>> {
        paths.iter().map(|path| self.sync_dir(path)).collect()
    }
    /// Takes the exclusive lock on an existing directory, like [`Disk::lock`]; it does not depend on a lock file
    /// staying in place. `None` where the file system has no locks on directories.
    fn lock_dir(&self, _path: &Path) -> io::Result<Option<File>> {
        Ok(None)
    }
    /// Takes a shared lock on a file or directory, which excludes [`Disk::lock`] and [`Disk::lock_dir`]. Creates and
    /// writes no file. `None` where there are no such locks.
    fn lock_shared(&self, _path: &Path) -> io::Result<Option<File>> {
        Ok(None)
    }
    /// Whether this process may change the names in a directory.
    fn may_write(&self, _path: &Path) -> bool {
        true
    }
    /// Opens a directory, so that a later [`DirHandle::sync`] needs no further file descriptor. `None` where
    /// [`Disk::sync_dir`] needs none either.
    fn open_dir(&self, _path: &Path) -> io::Result<Option<DirHandle>> {
        Ok(None)
    }
    /// Device and inode of the file or directory at this path; see [`DiskFile::identity`].
    fn identity(&self, _path: &Path) -> io::Result<(u64, u64)> {
        Ok((0, 0))
    }
    /// Fills with random bytes.
    fn random(&self, bytes: &mut [u8]) -> io::Result<()>;
    /// The canonical path of an existing file or directory.
    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        std::path::absolute(path)
    }
}

/// An open file. Reads and writes may be short or interrupted.
pub trait DiskFile: Send + Sync + std::fmt::Debug {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize>;
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Allocates space for the file's first `bytes` bytes, and makes it at least that long.
    fn reserve(&self, bytes: u64) -> io::Result<()>;
    fn set_bytes(&self, bytes: u64) -> io::Result<()>;
    /// Makes contents and length durable.
    fn sync(&self) -> io::Result<()>;
    /// Starts a sync of the bytes written so far in the background; [`DiskFile::sync`] waits for it and returns its
    /// error.
    fn begin_sync(&self) {}
    fn bytes(&self) -> io::Result<u64>;
    /// Device and inode of the open file, independent of its path. Constant on a disk without such numbers.
    fn identity(&self) -> io::Result<(u64, u64)> {
        Ok((0, 0))
    }
    /// Maps the entire file, which is never changed again.
    fn map(&self) -> io::Result<Map>;
}

/// An open directory whose names can be made durable.
#[derive(Debug)]
pub struct DirHandle(pub(super) std::fs::File);

impl DirHandle {
    /// Makes the names inside the directory durable.
    pub fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}

/// An open file of any disk.
pub type File = Box<dyn DiskFile>;
