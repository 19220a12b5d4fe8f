//! All access to files and maps. Independent of file formats; every error names the path.
//!
//! All operations go through [`Disk`] and [`DiskFile`], with two implementations: [`os`], and for tests a simulated
//! disk (`sim`, feature `proof`) with power loss and planned failures. Files are made durable in one way: written under
//! `tmp/`, synced, linked to their final name (which fails when the name exists, and never replaces), and the directory
//! synced.

mod limits;
#[cfg(feature = "server")]
pub mod local;
mod lock;
pub mod machine;
pub mod mmap;
pub mod os;
pub mod overlay;
mod path;
#[cfg(feature = "proof")]
pub mod sim;
mod staged;

use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};

pub use limits::raise_open_files_limit;
pub use lock::{Lock, SharedLock, process_lives};
pub use mmap::is_resident;
pub use path::DiskPath;
pub use staged::{StagedFile, WriteFile, publish, replace};

use crate::error::{Error, ErrorCode, Result};
use mmap::Map;

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
pub struct DirHandle(std::fs::File);

impl DirHandle {
    /// Makes the names inside the directory durable.
    fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}

/// An open file of any disk.
pub type File = Box<dyn DiskFile>;

/// Writes all bytes, over as many calls as needed.
fn write_all_at(file: &dyn DiskFile, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write_at(bytes, offset) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => {
                bytes = bytes.get(count..).unwrap_or_default();
                offset += count as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn read_exact_at(file: &dyn DiskFile, mut into: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !into.is_empty() {
        match file.read_at(into, offset) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                into = into.get_mut(count..).unwrap_or_default();
                offset += count as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Repeats an operation while it is interrupted.
fn persist<T>(mut work: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match work() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Creates a directory and its parents; existing ones are fine. The parent of each new one is synced.
pub fn create_dir(path: &DiskPath) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent();
    if let Some(parent) = &parent {
        create_dir(parent)?;
    }
    match persist(|| path.disk().create_dir(path)) {
        Ok(()) => {}
        Err(e) if e.kind() == ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(e) => return Err(Error::io("create directory", path, &e)),
    }
    let synced = parent.map_or(Ok(()), |parent| sync_dir(&parent));
    if synced.is_err() {
        // Left in place, a later call would assume that it is durable.
        remove_dir_if_empty(path);
    }
    synced
}

/// Creates these directories, whose parents exist, and syncs each of the parents once. Existing ones are fine.
pub fn create_dirs(paths: &[DiskPath]) -> Result<()> {
    let mut created: Vec<&DiskPath> = Vec::new();
    let mut parents: Vec<DiskPath> = Vec::new();
    let mut outcome = Ok(());
    for path in paths.iter().filter(|path| !path.is_dir()) {
        match persist(|| path.disk().create_dir(path)) {
            Ok(()) => {
                created.push(path);
                parents.extend(path.parent());
            }
            Err(e) if e.kind() == ErrorKind::AlreadyExists && path.is_dir() => {}
            Err(e) => {
                outcome = Err(Error::io("create directory", path, &e));
                break;
            }
        }
    }
    if outcome.is_ok() {
        outcome = sync_dirs(parents);
    }
    if outcome.is_err() {
        // Left in place, a later call would assume that they are durable.
        created.into_iter().for_each(remove_dir_if_empty);
    }
    outcome
}

/// Makes the names inside these directories durable; each is synced once, even if listed repeatedly.
pub fn sync_dirs(mut paths: Vec<DiskPath>) -> Result<()> {
    paths.sort_by(|a, b| (a as &Path).cmp(b));
    paths.dedup_by(|a, b| (a as &Path) == (b as &Path));
    let Some(first) = paths.first() else { return Ok(()) };
    let plain: Vec<&Path> = paths.iter().map(|path| path as &Path).collect();
    let synced = first.disk().sync_dirs(&plain);
    for (path, synced) in paths.iter().zip(synced) {
        match synced {
            Err(e) if e.kind() == ErrorKind::Interrupted => sync_dir(path)?,
            other => other.map_err(|e| Error::io("sync directory", path, &e))?,
        }
    }
    Ok(())
}

/// Makes the names inside a directory durable.
pub fn sync_dir(path: &DiskPath) -> Result<()> {
    persist(|| path.disk().sync_dir(path)).map_err(|e| Error::io("sync directory", path, &e))
}

/// Names in a directory, sorted; empty when the directory does not exist.
pub fn list(path: &DiskPath) -> Result<Vec<String>> {
    let mut names = match persist(|| path.disk().list(path)) {
        Ok(names) => names,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("list", path, &e)),
    };
    names.sort();
    Ok(names)
}

/// Reads an entire file.
pub fn read(path: &DiskPath) -> Result<Vec<u8>> {
    let file = open(path)?;
    let mut out = vec![0; usize::try_from(file_bytes(&file, path)?).unwrap_or(usize::MAX)];
    read_exact_at(file.as_ref(), &mut out, 0).map_err(|e| Error::io("read", path, &e))?;
    Ok(out)
}

/// Reads `length` bytes at `offset`.
pub fn read_at(file: &File, path: &DiskPath, offset: u64, length: usize) -> Result<Vec<u8>> {
    let mut out = vec![0; length];
    read_exact_at(file.as_ref(), &mut out, offset).map_err(|e| match e.kind() {
        ErrorKind::UnexpectedEof => Error::corrupt(format!("{} ends before byte {}", path.display(), offset)),
        _ => Error::io("read", path, &e),
    })?;
    Ok(out)
}

/// Bytes read and written at a time for entire files.
const PART_BYTES: u64 = 1 << 20;

/// Reads an entire file, part by part, in order.
pub fn read_parts(file: &File, path: &DiskPath, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let bytes = file_bytes(file, path)?;
    let mut offset = 0;
    while offset < bytes {
        let part = (bytes - offset).min(PART_BYTES);
        each(&read_at(file, path, offset, usize::try_from(part).unwrap_or(usize::MAX))?)?;
        offset += part;
    }
    Ok(())
}

/// Creates a hard link, whose directory is not synced. `false`, without a change, where that is impossible: the file
/// was removed, is on another file system or on one without hard links, or has too many links.
pub fn link(from: &DiskPath, to: &DiskPath) -> Result<bool> {
    match persist(|| to.disk().link(from, to)) {
        Ok(()) => Ok(true),
        Err(e) => match e.kind() {
            ErrorKind::NotFound
            | ErrorKind::CrossesDevices
            | ErrorKind::PermissionDenied
            | ErrorKind::Unsupported
            | ErrorKind::TooManyLinks => Ok(false),
            _ => Err(Error::io("link", to, &e)),
        },
    }
}

/// The canonical path of a file or directory that exists or could be created: symbolic links are followed.
pub fn resolve(path: &DiskPath) -> Result<PathBuf> {
    let absolute = std::path::absolute(path.as_ref() as &Path).map_err(|e| Error::io("resolve", path, &e))?;
    for parent in absolute.ancestors() {
        if let Ok(found) = persist(|| path.disk().resolve(parent)) {
            let rest = absolute.strip_prefix(parent).unwrap_or(Path::new(""));
            if !rest.components().any(|part| part == Component::ParentDir) {
                return Ok(found.join(rest));
            }
            // A missing component is not a link, so its parent is the directory before it.
            let mut steps = found;
            for part in rest.components() {
                match part {
                    Component::ParentDir => drop(steps.pop()),
                    part => steps.push(part),
                }
            }
            return resolve(&path.elsewhere(steps));
        }
    }
    Ok(absolute)
}

/// Removes a directory with its content; a missing one is fine.
pub fn remove_tree(path: &DiskPath) -> Result<()> {
    for name in list(path)? {
        let inner = path.join(name);
        if inner.is_dir() { remove_tree(&inner)? } else { remove(&inner)? }
    }
    remove_dir_if_empty(path);
    Ok(())
}

/// Opens a file for reading.
pub fn open(path: &DiskPath) -> Result<File> {
    persist(|| path.disk().open(path, false)).map_err(|e| match e.kind() {
        ErrorKind::NotFound => Error::corrupt(format!("{} is missing", path.display())),
        _ => Error::io("open", path, &e),
    })
}

/// Size of a file in bytes.
pub fn file_bytes(file: &File, path: &DiskPath) -> Result<u64> {
    persist(|| file.bytes()).map_err(|e| Error::io("stat", path, &e))
}

/// Maps a published file.
pub fn map(file: &File, path: &DiskPath) -> Result<Map> {
    persist(|| file.map()).map_err(|e| Error::io("map", path, &e))
}

/// Removes a file; a missing one is fine. The directory is not synced: a removal undone by a crash is harmless.
pub fn remove(path: &DiskPath) -> Result<()> {
    match persist(|| path.disk().remove(path)) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io("remove", path, &e)),
    }
}

/// Removes a directory if it is empty; a missing one is fine.
pub fn remove_dir_if_empty(path: &DiskPath) {
    let _ = path.disk().remove_dir(path);
}

/// A random number.
pub fn random(path: &DiskPath) -> Result<u64> {
    let mut bytes = [0; 8];
    path.disk()
        .random(&mut bytes)
        .map_err(|error| Error::new(ErrorCode::Io, format!("the system provides no random numbers: {error}")))?;
    Ok(u64::from_le_bytes(bytes))
}
