//! Files outside of the data files of a store: what the command line reads and writes, settings, tokens, certificates,
//! request bodies. Together with [`super::os`] the only code that uses `std::fs`.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use tempfile::Builder;

pub use std::fs::File;
pub use tempfile::TempDir;

use crate::error::{Error, Result};

/// Access for the owner alone.
const PRIVATE_MODE: u32 = 0o600;

/// Reads a file to its end.
///
/// # Errors
/// `io`, also for a file that does not exist.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| Error::io("read", path, &error))
}

/// Reads a UTF-8 file to its end.
///
/// # Errors
/// `io`, also for a file that does not exist or is not UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|error| Error::io("read", path, &error))
}

/// Reads a file to its end; `None` when there is no such file.
///
/// # Errors
/// `io`.
pub fn read_existing(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", path, &error)),
    }
}

/// Opens a file for reading.
///
/// # Errors
/// That of the operating system, so that a caller can name a missing file in its own words.
pub fn open(path: &Path) -> std::io::Result<File> {
    File::open(path)
}

/// Creates a file, or empties an existing one.
///
/// # Errors
/// `io`.
pub fn create(path: &Path) -> Result<File> {
    File::create(path).map_err(|error| Error::io("create", path, &error))
}

/// Creates a directory and its missing parents.
///
/// # Errors
/// `io`.
pub fn create_dir_all(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|error| Error::io("create directory", path, &error))
}

/// Gives a file another name; a file that has it is replaced.
///
/// # Errors
/// `io`.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|error| Error::io("rename", from, &error))
}

/// Removes a file.
///
/// # Errors
/// `io`, also for a file that does not exist.
pub fn remove(path: &Path) -> Result<()> {
    fs::remove_file(path).map_err(|error| Error::io("remove", path, &error))
}

/// Copies the contents of a file.
///
/// # Errors
/// `io`.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(drop).map_err(|error| Error::io("copy", from, &error))
}

/// Length of a file in bytes; `None` when there is no such file, or it cannot be read.
pub fn length(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|meta| meta.len())
}

/// Creates a directory in `base` that only its owner can enter; it is removed with its contents on drop.
///
/// # Errors
/// That of the operating system, so that a caller can try another base.
pub fn temporary_dir(base: &Path, prefix: &str) -> std::io::Result<TempDir> {
    Builder::new().prefix(prefix).permissions(Permissions::from_mode(0o700)).tempdir_in(base)
}

/// Creates a file without a name in `dir`: the system frees it when it is closed, however the process ends.
///
/// # Errors
/// `io`, `storage_full`.
pub fn unnamed(dir: &Path) -> Result<File> {
    tempfile::tempfile_in(dir).map_err(|error| Error::io("create a file in", dir, &error))
}

/// A file without a name that is written once, and then read at any place by any number of readers.
#[derive(Debug)]
pub struct Spool {
    file: File,
    dir: PathBuf,
    bytes: u64,
}

impl Spool {
    /// An empty file in `dir`.
    ///
    /// # Errors
    /// `io`, `storage_full`.
    pub fn create(dir: &Path) -> Result<Self> {
        Ok(Self { file: unnamed(dir)?, dir: dir.to_path_buf(), bytes: 0 })
    }

    /// Number of bytes written.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// # Errors
    /// `io`, `storage_full`.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_all_at(bytes, self.bytes);
        written.map_err(|error| Error::io("write to a file in", &self.dir, &error))?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// # Errors
    /// `io`, also when fewer bytes follow.
    pub fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let read = self.file.read_exact_at(&mut bytes, offset);
        read.map_err(|error| Error::io("read from a file in", &self.dir, &error))?;
        Ok(bytes)
    }
}

/// Opens a file that is created when it does not exist, waits for its lock and holds it as long as the value lives. No
/// symbolic link is followed.
///
/// # Errors
/// `io`.
pub fn lock(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(PRIVATE_MODE);
    options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    let lock = options.open(path).map_err(|error| Error::io("open", path, &error))?;
    lock.lock().map_err(|error| Error::io("lock", path, &error))?;
    Ok(lock)
}

/// Replaces the contents of a file that only its owner can read, durably and all at once. The file belongs to the owner
/// of the file it replaces, or else of the directory. No symbolic link is followed.
///
/// # Errors
/// `io`, `storage_full`.
pub fn replace_private(dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let (path, fresh) = (dir.join(name), dir.join(format!("{name}.new")));
    let replace = || -> std::io::Result<()> {
        let owner = fs::metadata(&path).or_else(|_| fs::metadata(dir))?;
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().create_new(true).write(true).mode(PRIVATE_MODE).open(&fresh)?;
        if file.metadata()?.uid() != owner.uid() {
            fchown(&file, Some(owner.uid()), Some(owner.gid()))?;
        }
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, &path)?;
        File::open(dir)?.sync_all()
    };
    replace().map_err(|error| Error::io("write", &path, &error))
}

/// Distinguishes one state of a file from another: inode, length, and times of contents and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileState {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileState {
    /// The state now; `None` when there is no such file, or it cannot be examined.
    pub fn of(path: &Path) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        Some(Self {
            inode: meta.ino(),
            bytes: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_file_is_replaced_for_its_owner_alone_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let other = dir.path().join("other");
        fs::write(&other, "untouched").unwrap();
        std::os::unix::fs::symlink(&other, dir.path().join("secret.new")).unwrap();
        replace_private(dir.path(), "secret", b"first").unwrap();
        replace_private(dir.path(), "secret", b"second").unwrap();
        let path = dir.path().join("secret");
        assert_eq!(read(&path).unwrap(), b"second");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read_text(&other).unwrap(), "untouched");
        std::os::unix::fs::symlink(&other, dir.path().join("link.lock")).unwrap();
        assert!(lock(&dir.path().join("link.lock")).is_err());
    }

    #[test]
    fn a_temporary_directory_is_private_and_removed_with_its_contents() {
        let base = tempfile::tempdir().unwrap();
        let dir = temporary_dir(base.path(), "fastk-").unwrap();
        fs::write(dir.path().join("x"), "1").unwrap();
        assert_eq!(fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777, 0o700);
        drop(dir);
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
        let mut file = unnamed(base.path()).unwrap();
        file.write_all(b"body").unwrap();
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0, "the file has no name");
    }

    #[test]
    fn a_file_state_distinguishes_a_changed_file_from_an_unchanged_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        assert_eq!((FileState::of(&path), length(&path), read_existing(&path).unwrap()), (None, None, None));
        fs::write(&path, "1").unwrap();
        let first = FileState::of(&path);
        assert!(first.is_some() && first == FileState::of(&path));
        fs::write(&path, "22").unwrap();
        assert_ne!(first, FileState::of(&path));
        assert_eq!(length(&path), Some(2));
    }
}
