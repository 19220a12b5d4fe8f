//! Disks that call a function before each operation, or block in it.
#![allow(dead_code, reason = "each test binary uses some of it")]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

use fastk::disk::os::OsDisk;
use fastk::disk::{Disk, File};

/// A function that is called with the name of an operation and its path.
pub type Before = Box<dyn Fn(&'static str, &Path) + Send + Sync>;

/// Calls `before` with the name of each operation and its path, then runs it on `disk`. Operations on open files are
/// not intercepted.
pub struct Hooked<D> {
    pub disk: D,
    pub before: Before,
}

impl<D: std::fmt::Debug> std::fmt::Debug for Hooked<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hooked").field("disk", &self.disk).finish_non_exhaustive()
    }
}

impl<D: Disk> Hooked<D> {
    fn at(&self, operation: &'static str, path: &Path) -> &D {
        (self.before)(operation, path);
        &self.disk
    }
}

impl<D: Disk> Disk for Hooked<D> {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.at("create_dir", path).create_dir(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.at("sync_dir", path).sync_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.at("list", path).list(path)
    }
    fn is_dir(&self, path: &Path) -> io::Result<bool> {
        self.at("is_dir", path).is_dir(path)
    }
    fn create(&self, path: &Path) -> io::Result<File> {
        self.at("create", path).create(path)
    }
    fn open(&self, path: &Path, writing: bool) -> io::Result<File> {
        self.at("open", path).open(path, writing)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.at("link", to).link(from, to)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.at("rename", to).rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.at("remove", path).remove(path)
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.at("remove_dir", path).remove_dir(path)
    }
    fn lock(&self, path: &Path) -> io::Result<File> {
        self.at("lock", path).lock(path)
    }
    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        self.at("random", Path::new("")).random(bytes)
    }
    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        self.at("resolve", path).resolve(path)
    }
}

/// Blocks opening of chunk files while set.
#[derive(Clone, Default)]
pub struct Stalling(Arc<(Mutex<bool>, Condvar)>);

impl Stalling {
    /// Blocks opening of chunk files, or unblocks it.
    pub fn stall(&self, stalls: bool) {
        *self.0.0.lock().unwrap() = stalls;
        self.0.1.notify_all();
    }

    /// The disk of the operating system with this block.
    pub fn disk(&self) -> Arc<dyn Disk> {
        let stalled = Arc::clone(&self.0);
        let before = move |operation: &str, path: &Path| {
            if operation == "open" && path.components().any(|part| part.as_os_str() == "chunks") {
                drop(stalled.1.wait_while(stalled.0.lock().unwrap(), |stalled| *stalled).unwrap());
            }
        };
        Arc::new(Hooked { disk: OsDisk, before: Box::new(before) })
    }
}
