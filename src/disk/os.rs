//! The disk of the operating system.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::fs::FlockOperation;

use super::interface::{DirHandle, Disk, DiskFile, File};
use super::mmap::Map;

/// Files of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsDisk;

impl Disk for OsDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::File::open(path)?.sync_all()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        std::fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn is_dir(&self, path: &Path) -> io::Result<bool> {
        Ok(std::fs::metadata(path)?.is_dir())
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(OsFile::boxed(file))
    }

    fn open(&self, path: &Path, writing: bool) -> io::Result<File> {
        Ok(OsFile::boxed(OpenOptions::new().read(true).write(writing).open(path)?))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::hard_link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_dir(path)
    }

    fn lock(&self, path: &Path) -> io::Result<File> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(OsFile::boxed(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(ErrorKind::WouldBlock.into()),
            Err(e) => Err(e.into()),
        }
    }

    fn sync_files(&self, files: &[&dyn DiskFile]) -> Vec<io::Result<()>> {
        sync_concurrently(files.len(), |at| files.get(at).map_or(Ok(()), |file| file.sync()))
    }

    fn sync_dirs(&self, paths: &[&Path]) -> Vec<io::Result<()>> {
        sync_concurrently(paths.len(), |at| paths.get(at).map_or(Ok(()), |path| self.sync_dir(path)))
    }

    fn lock_dir(&self, path: &Path) -> io::Result<Option<File>> {
        // Network file systems require a file open for writing, which a directory cannot be.
        try_flock(path, FlockOperation::NonBlockingLockExclusive)
    }

    fn lock_shared(&self, path: &Path) -> io::Result<Option<File>> {
        try_flock(path, FlockOperation::NonBlockingLockShared)
    }

    fn may_write(&self, path: &Path) -> bool {
        let found = rustix::fs::access(path, rustix::fs::Access::WRITE_OK);
        !matches!(found, Err(rustix::io::Errno::ACCESS | rustix::io::Errno::ROFS | rustix::io::Errno::PERM))
    }

    fn open_dir(&self, path: &Path) -> io::Result<Option<DirHandle>> {
        std::fs::File::open(path).map(|dir| Some(DirHandle(dir)))
    }

    fn identity(&self, path: &Path) -> io::Result<(u64, u64)> {
        std::fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        getrandom::fill(bytes).map_err(io::Error::other)
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        std::fs::canonicalize(path)
    }
}

/// Takes a lock on a file or directory opened for reading; `None` where the file system has no such locks.
fn try_flock(path: &Path, operation: FlockOperation) -> io::Result<Option<File>> {
    let file = std::fs::File::open(path)?;
    match rustix::fs::flock(&file, operation) {
        Ok(()) => Ok(Some(OsFile::boxed(file))),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(ErrorKind::WouldBlock.into()),
        Err(_) => Ok(None),
    }
}

/// Maximum number of concurrent syncs: a file system combines the flushes of those that wait together.
const CONCURRENT_SYNCS_MAX: usize = 16;

/// Runs a sync for each index below `count`, several concurrently; fewer where the system starts no more threads.
fn sync_concurrently(count: usize, sync: impl Fn(usize) -> io::Result<()> + Sync) -> Vec<io::Result<()>> {
    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<io::Result<()>>> = (0..count).map(|_| Mutex::new(Ok(()))).collect();
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(slot) = results.get(at) else { return };
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = sync(at);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..count.min(CONCURRENT_SYNCS_MAX) {
            if std::thread::Builder::new().name("fastk-sync".into()).spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
    results.into_iter().map(|slot| slot.into_inner().unwrap_or_else(PoisonError::into_inner)).collect()
}

#[derive(Debug)]
struct OsFile {
    file: std::fs::File,
    /// A sync in progress.
    syncing: Mutex<Option<JoinHandle<io::Result<()>>>>,
}

impl OsFile {
    fn boxed(file: std::fs::File) -> File {
        Box::new(Self { file, syncing: Mutex::default() })
    }
}

impl DiskFile for OsFile {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(into, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(bytes, offset)
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
            // A file system without preallocation can still be written to.
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::OPNOTSUPP) => self.file.set_len(bytes),
            Err(e) => Err(e.into()),
        }
    }

    fn set_bytes(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        let background = self.syncing.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(background) = background {
            background.join().map_err(|_| io::Error::other("the sync thread panicked"))??;
        }
        self.file.sync_data()
    }

    fn begin_sync(&self) {
        let mut syncing = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        // Without a duplicated handle or a thread, `sync` does all the work.
        if syncing.is_none()
            && let Ok(file) = self.file.try_clone()
        {
            *syncing = std::thread::Builder::new().name("fastk-sync".into()).spawn(move || file.sync_data()).ok();
        }
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn identity(&self) -> io::Result<(u64, u64)> {
        self.file.metadata().map(|found| (found.dev(), found.ino()))
    }

    fn map(&self) -> io::Result<Map> {
        Map::of(&self.file)
    }
}
