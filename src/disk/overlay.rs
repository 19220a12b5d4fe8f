//! An overlay over a directory: all or some of its files, which are never changed, below writes that stay in memory. A
//! store that must not be modified can be opened through it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::dirs::list;
use super::interface::{Disk, DiskFile, File};
use super::mmap::Map;
use super::path::DiskPath;
use super::retry::read_exact_at;
use crate::error::Result;
use crate::types::width::to_usize;

/// The overlay, see the module documentation.
#[derive(Debug)]
pub struct OverlayDisk {
    below: DiskPath,
    top: Mutex<OverlayLayer>,
    /// Handling of files below that are opened for writing.
    writing: OverlayWrite,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OverlayWrite {
    Refused,
    /// The file is copied to memory and changed there.
    Copies,
}

#[derive(Debug, Default)]
struct OverlayLayer {
    dirs: BTreeSet<PathBuf>,
    files: BTreeMap<PathBuf, OverlayEntry>,
}

#[derive(Clone, Debug)]
enum OverlayEntry {
    Below,
    Memory(OverlayBytes),
}

/// Content of a file that exists only in memory.
#[derive(Clone, Debug, Default)]
struct OverlayBytes(Arc<Mutex<Vec<u8>>>);

impl OverlayDisk {
    /// `root` with only these files, given relative to it.
    pub fn of(root: &DiskPath, names: impl IntoIterator<Item = impl AsRef<Path>>) -> DiskPath {
        Self::with(root, OverlayWrite::Refused, names, std::iter::empty::<&Path>())
    }

    /// `root` with all files and directories it has now.
    ///
    /// # Errors
    /// Those of listing a directory.
    pub fn over(root: &DiskPath) -> Result<DiskPath> {
        let (mut files, mut dirs, mut queue) = (Vec::new(), Vec::new(), vec![root.clone()]);
        while let Some(dir) = queue.pop() {
            for name in list(&dir)? {
                let path = dir.join(name);
                if path.is_dir() {
                    dirs.push(path.to_path_buf());
                    queue.push(path);
                } else {
                    files.push(path.to_path_buf());
                }
            }
        }
        Ok(Self::with(root, OverlayWrite::Copies, files, dirs))
    }

    fn with(
        root: &DiskPath,
        writing: OverlayWrite,
        names: impl IntoIterator<Item = impl AsRef<Path>>,
        dirs: impl IntoIterator<Item = impl Into<PathBuf>>,
    ) -> DiskPath {
        let mut top = OverlayLayer::default();
        top.dirs.extend(root.ancestors().map(Path::to_path_buf));
        top.dirs.extend(dirs.into_iter().map(Into::into));
        for name in names {
            let path = root.join(name);
            top.dirs.extend(path.ancestors().skip(1).map(Path::to_path_buf));
            top.files.insert(path.to_path_buf(), OverlayEntry::Below);
        }
        DiskPath::new(Arc::new(Self { below: root.clone(), top: Mutex::new(top), writing }), root.to_path_buf())
    }

    fn top(&self) -> MutexGuard<'_, OverlayLayer> {
        self.top.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OverlayLayer {
    fn find(&self, path: &Path) -> io::Result<&OverlayEntry> {
        self.files.get(path).ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn put(&mut self, path: &Path, entry: OverlayEntry) -> io::Result<()> {
        if self.files.contains_key(path) || self.dirs.contains(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        if path.parent().is_some_and(|parent| !self.dirs.contains(parent)) {
            return Err(ErrorKind::NotFound.into());
        }
        self.files.insert(path.to_path_buf(), entry);
        Ok(())
    }

    fn names<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = String> + 'a {
        let inside = self.files.keys().chain(&self.dirs).filter(move |inner| inner.parent() == Some(path));
        inside.filter_map(|inner| Some(inner.file_name()?.to_string_lossy().into_owned()))
    }
}

impl Disk for OverlayDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut top = self.top();
        if top.files.contains_key(path) || !top.dirs.insert(path.to_path_buf()) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        Ok(())
    }

    fn sync_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let top = self.top();
        if top.dirs.contains(path) { Ok(top.names(path).collect()) } else { Err(ErrorKind::NotFound.into()) }
    }

    fn is_dir(&self, path: &Path) -> io::Result<bool> {
        let top = self.top();
        if top.dirs.contains(path) {
            return Ok(true);
        }
        match top.find(path)? {
            // The file may have been removed since it was listed.
            OverlayEntry::Below => self.below.disk().is_dir(path),
            OverlayEntry::Memory(_) => Ok(false),
        }
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        let file = OverlayBytes::default();
        self.top().put(path, OverlayEntry::Memory(file.clone()))?;
        Ok(Box::new(file))
    }

    fn open(&self, path: &Path, writing: bool) -> io::Result<File> {
        let mut top = self.top();
        match top.find(path)? {
            OverlayEntry::Memory(file) => Ok(Box::new(file.clone())),
            OverlayEntry::Below if !writing => self.below.disk().open(path, false),
            OverlayEntry::Below if self.writing == OverlayWrite::Refused => Err(ErrorKind::ReadOnlyFilesystem.into()),
            OverlayEntry::Below => {
                let below = self.below.disk().open(path, false)?;
                let mut bytes = vec![0; usize::try_from(below.bytes()?).map_err(io::Error::other)?];
                read_exact_at(below.as_ref(), &mut bytes, 0)?;
                let copy = OverlayBytes(Arc::new(Mutex::new(bytes)));
                top.files.insert(path.to_path_buf(), OverlayEntry::Memory(copy.clone()));
                Ok(Box::new(copy))
            }
        }
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut top = self.top();
        match top.find(from)?.clone() {
            OverlayEntry::Below => Err(ErrorKind::ReadOnlyFilesystem.into()),
            entry => top.put(to, entry),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut top = self.top();
        match top.find(from)?.clone() {
            OverlayEntry::Below => Err(ErrorKind::ReadOnlyFilesystem.into()),
            entry => {
                top.files.remove(from);
                top.files.insert(to.to_path_buf(), entry);
                Ok(())
            }
        }
    }

    /// Hides a file below; removes one in memory.
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.top().files.remove(path).map(|_| ()).ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut top = self.top();
        if top.names(path).next().is_some() {
            return Err(ErrorKind::DirectoryNotEmpty.into());
        }
        if top.dirs.remove(path) { Ok(()) } else { Err(ErrorKind::NotFound.into()) }
    }

    /// The overlay is private to this process, so the lock always succeeds.
    fn lock(&self, path: &Path) -> io::Result<File> {
        let file = OverlayBytes::default();
        self.top().files.insert(path.to_path_buf(), OverlayEntry::Memory(file.clone()));
        Ok(Box::new(file))
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        self.below.disk().random(bytes)
    }

    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        self.below.disk().resolve(path)
    }
}

impl OverlayBytes {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DiskFile for OverlayBytes {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.bytes();
        let found = bytes.get(to_usize(offset)..).unwrap_or_default();
        let count = found.len().min(into.len());
        if let (Some(into), Some(found)) = (into.get_mut(..count), found.get(..count)) {
            into.copy_from_slice(found);
        }
        Ok(count)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        let mut bytes = self.bytes();
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let end = from.saturating_add(data.len());
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        if let Some(slot) = bytes.get_mut(from..end) {
            slot.copy_from_slice(data);
        }
        Ok(data.len())
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
        let mut content = self.bytes();
        let longer = content.len().max(bytes);
        content.resize(longer, 0);
        Ok(())
    }

    fn set_bytes(&self, bytes: u64) -> io::Result<()> {
        self.bytes().resize(usize::try_from(bytes).map_err(io::Error::other)?, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(OverlayBytes::bytes(self).len() as u64)
    }

    fn map(&self) -> io::Result<Map> {
        Ok(Map::copied(&OverlayBytes::bytes(self)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{self as disk, StagedFile};
    use super::*;

    #[test]
    fn changes_to_a_directory_stay_in_memory() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("in/empty")).unwrap();
        std::fs::write(root.path().join("in/a"), "below").unwrap();
        let view = OverlayDisk::over(&DiskPath::os(root.path())).unwrap();
        assert!(view.join("in/empty").is_dir());
        let path = view.join("in/a");
        let file = view.disk().open(&path, true).unwrap();
        assert_eq!(disk::read(&path).unwrap(), b"below");
        file.write_at(b"above", 0).unwrap();
        assert_eq!(disk::read(&path).unwrap(), b"above");
        disk::remove(&path).unwrap();
        assert_eq!(std::fs::read(root.path().join("in/a")).unwrap(), b"below");
    }

    #[test]
    fn writes_stay_in_memory_and_unlisted_files_are_hidden() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("in")).unwrap();
        for name in ["in/a", "in/b", "c"] {
            std::fs::write(root.path().join(name), name).unwrap();
        }
        let view = OverlayDisk::of(&DiskPath::os(root.path()), ["in/a", "c", "missing"]);
        assert_eq!(disk::list(&view).unwrap(), ["c", "in", "missing"]);
        assert_eq!(disk::list(&view.join("in")).unwrap(), ["a"]);
        assert_eq!(disk::read(&view.join("in/a")).unwrap(), b"in/a");
        assert!(!view.join("in/b").exists() && !view.join("missing").exists() && view.join("c").exists());
        assert!(disk::read(&view.join("in/b")).is_err());
        disk::create_dir(&view.join("tmp/deep")).unwrap();
        let mut staged = StagedFile::create(&view.join("tmp")).unwrap();
        staged.put(b"new").unwrap();
        assert!(staged.publish(&view.join("in/new")).unwrap());
        assert_eq!(disk::read(&view.join("in/new")).unwrap(), b"new");
        assert!(!disk::publish(&view.join("tmp"), &view.join("c"), b"other").unwrap());
        disk::remove(&view.join("c")).unwrap();
        assert!(!view.join("c").exists());
        assert_eq!(disk::list(&view.join("tmp")).unwrap(), ["deep"]);
        let mut left: Vec<_> = std::fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["c", "in"]);
        assert_eq!(std::fs::read_dir(root.path().join("in")).unwrap().count(), 2);
    }
}
