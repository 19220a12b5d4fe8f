//! Paths on a disk.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::interface::Disk;
use super::os::OsDisk;
use super::retry::persist;
use crate::error::{Error, Result};

/// A path on a disk. Dereferences to [`Path`].
#[derive(Clone, Debug)]
pub struct DiskPath {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl DiskPath {
    /// A path on this disk.
    pub fn new(disk: Arc<dyn Disk>, path: impl Into<PathBuf>) -> Self {
        Self { disk, path: path.into() }
    }

    /// A path on the disk of the operating system.
    pub fn os(path: impl Into<PathBuf>) -> Self {
        Self::new(Arc::new(OsDisk), path)
    }

    /// The disk.
    pub fn disk(&self) -> &dyn Disk {
        self.disk.as_ref()
    }

    /// Another path on the same disk.
    pub fn elsewhere(&self, path: impl Into<PathBuf>) -> Self {
        self.with(path.into())
    }

    fn with(&self, path: PathBuf) -> Self {
        Self { disk: Arc::clone(&self.disk), path }
    }

    /// The path of an entry of this directory.
    pub fn join(&self, name: impl AsRef<Path>) -> Self {
        self.with(self.path.join(name))
    }

    /// The path with another extension.
    pub fn with_extension(&self, extension: &str) -> Self {
        self.with(self.path.with_extension(extension))
    }

    /// The parent directory; `None` for a root and for a bare name.
    pub fn parent(&self) -> Option<Self> {
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty())?;
        Some(self.with(parent.to_owned()))
    }

    /// Whether the path exists; `false` also where the system returns an error. For optimizations only.
    pub fn exists(&self) -> bool {
        self.found().unwrap_or(false)
    }

    /// Whether the path exists.
    ///
    /// # Errors
    /// `io` when the system returns any error except that the path does not exist.
    pub fn found(&self) -> Result<bool> {
        match persist(|| self.disk.is_dir(&self.path)) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io("stat", self, &error)),
        }
    }

    /// Whether the path is a directory.
    pub fn is_dir(&self) -> bool {
        persist(|| self.disk.is_dir(&self.path)).unwrap_or(false)
    }
}

impl std::ops::Deref for DiskPath {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

impl AsRef<Path> for DiskPath {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}
