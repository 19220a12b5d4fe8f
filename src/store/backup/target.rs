//! The directory a backup is made in.
//!
//! - Nothing an earlier backup in it names is changed or removed before the new listing is in its place and durable,
//!   so a crash leaves the one or the other.
//! - A file gets its name when its bytes are on the disk; directories are synced before the listing.
//! - While there is no listing yet, [`BACKUP_BEGUN`] exists in the directory, where no store is opened or created.

use std::collections::{BTreeMap, BTreeSet};

use crate::disk::{self, DiskPath, File, Lock, StagedFile};
use crate::error::{Error, ErrorCode, Result};
use crate::format::backup::{
    Backup, BackupDamage, BackupFile, CopyMethod, encode_backup, is_registry_copy, registry_copy,
};
use crate::store::backup::listing::{BackupOptions, FileCounts, read_listing};
use crate::store::directory::{BACKUP_BEGUN, LISTING};
use crate::store::task_control::TaskControl;

const LOCK: &str = "LOCK";

/// A backup being made.
pub struct BackupTarget<'a> {
    pub root: DiskPath,
    tmp: DiskPath,
    pub options: &'a BackupOptions,
    pub control: &'a TaskControl,
    pub tally: FileCounts,
    /// What the existing backup has, and what of it was damaged.
    old: BTreeMap<String, BackupFile>,
    old_damaged: BTreeSet<String>,
    base: Option<(DiskPath, BTreeMap<String, BackupFile>)>,
    pub files: Vec<BackupFile>,
    pub damaged: Vec<BackupDamage>,
    /// Names added by this backup.
    added: Vec<DiskPath>,
    /// Directories created or used, and whether something in them is not synced.
    dirs: BTreeMap<std::path::PathBuf, (DiskPath, bool)>,
    /// Whether there was nothing, not even a directory.
    made: bool,
    lock: Lock,
}

/// What is known of a file before it is read.
pub struct ExpectedFile<'a> {
    /// Path from the directory of the store, and of the backup.
    pub name: String,
    pub source: &'a DiskPath,
    /// The open file, where its name may be removed by now.
    pub held: Option<&'a File>,
    pub bytes: Option<u64>,
    pub crc: Option<u32>,
    /// Whether a file elsewhere is the same one, by comparing a part of it.
    pub same: &'a dyn Fn(&DiskPath) -> bool,
    /// A file that others can be made from: it is left out where it cannot be had, and where the earlier backup has
    /// another one of the name.
    pub derived: bool,
}

fn by_path(backup: Backup) -> BTreeMap<String, BackupFile> {
    backup.files.into_iter().map(|file| (file.path.clone(), file)).collect()
}

/// What is in a directory that a backup of this history of a store may be made in.
pub fn look(root: &DiskPath, epoch: &str) -> Result<Option<Backup>> {
    let refuse = |what: &str| {
        Err(Error::invalid(format!("{} {what}", root.display())).with_hint("choose an empty or new directory"))
    };
    if root.exists() && !root.is_dir() {
        return refuse("is not a directory");
    }
    let names = disk::list(root)?;
    let has = |expected: &str| names.iter().any(|name| name == expected);
    if has(LISTING) {
        let backup = read_listing(root)?;
        if backup.epoch != epoch {
            return refuse("has a backup of another store, or of this one before it was restored or repaired");
        }
        return Ok(Some(backup));
    }
    if has(BACKUP_BEGUN) {
        return match disk::read(&root.join(BACKUP_BEGUN))? == epoch.as_bytes() {
            true => Ok(None),
            false => refuse("has an incomplete backup of another store"),
        };
    }
    match names.iter().find(|name| *name != LOCK && !is_leftover(root, name)) {
        None => Ok(None),
        Some(name) => refuse(&format!("is not empty (it has {name:?}) and is not a backup")),
    }
}

/// Whether this is a directory of unfinished files, which a crash can leave before anything else.
pub fn is_leftover(root: &DiskPath, name: &str) -> bool {
    let dir = root.join(name);
    name == "tmp" && dir.is_dir() && disk::list(&dir).is_ok_and(|names| names.iter().all(|name| name.ends_with(".tmp")))
}

impl<'a> BackupTarget<'a> {
    /// Starts or continues a backup in a directory.
    pub fn open(root: &DiskPath, epoch: &str, options: &'a BackupOptions, control: &'a TaskControl) -> Result<Self> {
        look(root, epoch)?;
        let base = match &options.base {
            None => None,
            Some(base) => {
                let base = root.elsewhere(base);
                if disk::resolve(&base)? == disk::resolve(root)? {
                    return Err(Error::invalid("the base is the directory of the backup itself")
                        .with_hint("without a base, files that are already in the backup are reused"));
                }
                let backup = read_listing(&base)?;
                if backup.epoch != epoch {
                    let detail = format!("{} is a backup of another store", base.display());
                    return Err(Error::invalid(detail).with_hint("choose a backup of this store, or none"));
                }
                Some((base, by_path(backup)))
            }
        };
        let made = !root.exists();
        disk::create_dir(root)?;
        let lock = Lock::acquire(&root.join(LOCK))?;
        let old = look(root, epoch)?;
        let tmp = root.join("tmp");
        let mut target = Self {
            root: root.clone(),
            tmp: tmp.clone(),
            options,
            control,
            tally: FileCounts::default(),
            old: BTreeMap::new(),
            old_damaged: BTreeSet::new(),
            base,
            files: Vec::new(),
            damaged: Vec::new(),
            added: Vec::new(),
            dirs: BTreeMap::new(),
            made,
            lock,
        };
        let first = old.is_none();
        if let Some(old) = old {
            target.old_damaged = old.damaged.iter().map(|damage| damage.path.clone()).collect();
            target.old = by_path(old);
        }
        let prepare = || {
            disk::create_dir(&tmp)?;
            for name in disk::list(&tmp)? {
                disk::remove(&tmp.join(name))?;
            }
            if first && !root.join(BACKUP_BEGUN).exists() {
                disk::publish(&tmp, &root.join(BACKUP_BEGUN), epoch.as_bytes())?;
            }
            Ok(())
        };
        match prepare() {
            Ok(()) => Ok(target),
            Err(error) => {
                target.abandon();
                Err(error)
            }
        }
    }

    /// Removes what was created. What cannot be removed is logged.
    pub fn abandon(self) {
        let undo = || -> Result<()> {
            for path in self.added.iter().rev() {
                disk::remove(path)?;
            }
            if !self.root.join(LISTING).exists() {
                for name in crate::store::directory::DIRECTORIES {
                    disk::remove_tree(&self.root.join(name))?;
                }
                disk::remove(&self.root.join(crate::store::directory::FORMAT_FILE))?;
                disk::remove(&self.root.join(BACKUP_BEGUN))?;
                disk::remove(&self.root.join(LOCK))?;
            }
            for (dir, _) in self.dirs.values().rev() {
                disk::remove_dir_if_empty(dir);
            }
            if self.made {
                disk::remove_dir_if_empty(&self.root);
            }
            Ok(())
        };
        if let Err(error) = undo() {
            tracing::warn!(%error, "a part of an unfinished backup could not be removed");
        }
        drop(self.lock);
    }

    /// The path of a file, whose directory is created if it is missing.
    fn create_path(&mut self, name: &str) -> Result<DiskPath> {
        let path = self.root.join(name);
        if let Some(dir) = path.parent()
            && !self.dirs.contains_key(dir.as_ref() as &std::path::Path)
        {
            disk::create_dir(&dir)?;
            self.dirs.insert(dir.to_path_buf(), (dir, false));
        }
        Ok(path)
    }

    fn add(&mut self, path: &DiskPath) {
        self.added.push(path.clone());
        self.changed(path);
    }

    fn changed(&mut self, path: &DiskPath) {
        if let Some((_, unsynced)) = path.parent().and_then(|dir| self.dirs.get_mut(dir.as_ref() as &std::path::Path)) {
            *unsynced = true;
        }
    }

    /// Counts bytes that were read, or need not be. Those of sidecars are not planned for.
    fn pass(&self, bytes: u64, planned: bool) -> Result<()> {
        if planned { self.control.advance(bytes) } else { self.control.advance_unplanned(bytes) }
    }

    fn list(&mut self, file: BackupFile) {
        self.tally.count(&file);
        self.files.push(file);
    }

    /// Reads a file and returns its bytes and checksum.
    fn checksum(&self, file: &File, path: &DiskPath, counts: bool) -> Result<(u64, u32)> {
        let (mut bytes, mut crc) = (0, 0);
        disk::read_parts(file, path, &mut |part| {
            bytes += part.len() as u64;
            crc = crc32c::crc32c_append(crc, part);
            self.pass(part.len() as u64, counts)
        })?;
        Ok((bytes, crc))
    }

    /// Adds a file of the store, or of the base.
    ///
    /// # Errors
    /// `corrupt_data` naming a file that is not what the manifest says, unless damage is allowed.
    pub fn put(&mut self, expected: &ExpectedFile<'_>) -> Result<()> {
        let path = self.create_path(&expected.name)?;
        let fits = |known: &BackupFile| {
            expected.bytes.is_none_or(|bytes| bytes == known.bytes)
                && expected.crc.is_none_or(|crc| crc == known.crc32c)
                && !(self.options.copy && known.shared)
        };
        let Some(known) = self.old.get(&expected.name).cloned() else {
            // Left over from an unfinished backup.
            disk::remove(&path)?;
            return if self.link(expected, &path)? { Ok(()) } else { self.copy(expected, &path, None) };
        };
        if fits(&known) && (expected.same)(&path) {
            self.pass(known.bytes, !expected.derived)?;
            self.list(BackupFile { how: CopyMethod::Kept, ..known });
            return Ok(());
        }
        if expected.derived {
            // Replacing the other one would damage the earlier backup. The next backup takes it.
            return Ok(());
        }
        if expected.crc.is_some_and(|crc| crc != known.crc32c) && !self.old_damaged.contains(&expected.name) {
            return Err(self.diverged(&expected.name));
        }
        self.copy(expected, &path, Some(&known))
    }

    fn diverged(&self, name: &str) -> Error {
        let root = self.root.display();
        Error::invalid(format!(
            "{name} in {root} differs from that of the store: the backup was made from another copy of the store"
        ))
        .with_hint("choose an empty or new directory")
    }

    /// Hard links an existing file into the backup.
    fn link(&mut self, expected: &ExpectedFile<'_>, path: &DiskPath) -> Result<bool> {
        let known =
            self.base.as_ref().and_then(|(root, files)| Some((root.join(&expected.name), files.get(&expected.name)?)));
        let known = known.filter(|(_, file)| {
            expected.bytes.is_none_or(|bytes| bytes == file.bytes)
                && expected.crc.is_none_or(|crc| crc == file.crc32c)
                && !(self.options.copy && file.shared)
        });
        let known = known.map(|(from, file)| (from, file.clone())).filter(|(from, _)| (expected.same)(from));
        if let Some((from, file)) = known
            && disk::link(&from, path)?
        {
            self.add(path);
            match self.linked(expected, path, Some(file.crc32c))? {
                (bytes, crc32c) if (bytes, crc32c) == (file.bytes, file.crc32c) => {
                    self.list(BackupFile { how: CopyMethod::Linked, ..file });
                    return Ok(true);
                }
                // The store may still have it intact.
                _ => disk::remove(path)?,
            }
        }
        if self.options.copy || !disk::link(expected.source, path)? {
            return Ok(false);
        }
        self.add(path);
        let (bytes, crc32c) = self.linked(expected, path, expected.crc)?;
        self.check_copy(expected, bytes, crc32c)?;
        let (path, how) = (expected.name.clone(), CopyMethod::Linked);
        self.list(BackupFile { path, bytes, crc32c, how, shared: true });
        Ok(true)
    }

    /// Bytes and checksum of a file that was linked; reads it unless that is not requested.
    fn linked(&self, expected: &ExpectedFile<'_>, path: &DiskPath, crc: Option<u32>) -> Result<(u64, u32)> {
        let file = disk::open(path)?;
        match crc.filter(|_| !self.options.verify) {
            None => self.checksum(&file, path, !expected.derived),
            Some(crc) => {
                let bytes = disk::file_bytes(&file, path)?;
                self.pass(bytes, !expected.derived)?;
                Ok((bytes, crc))
            }
        }
    }

    /// Refuses a file that is not the one the manifest names, or records it as damaged.
    fn check_copy(&mut self, expected: &ExpectedFile<'_>, bytes: u64, crc: u32) -> Result<()> {
        let name = &expected.name;
        let reason = match (expected.bytes, expected.crc) {
            (Some(expected), _) if expected != bytes => format!("{name}: {bytes} bytes, expected {expected}"),
            (_, Some(expected)) if expected != crc => format!("{name}: checksum {crc:08x}, expected {expected:08x}"),
            _ => return Ok(()),
        };
        self.note_damage(name, reason)
    }

    /// Records a damaged or missing file of the store, where that is allowed.
    pub fn note_damage(&mut self, name: &str, reason: String) -> Result<()> {
        if !self.options.allow_damaged {
            let hint = "repair the store first, or back up with --allow-damaged";
            return Err(Error::corrupt(format!("the store is damaged: {reason}")).with_hint(hint));
        }
        self.damaged.push(BackupDamage { path: name.to_owned(), reason });
        Ok(())
    }

    /// Records a copied file that cannot be decoded.
    pub fn note_unreadable(&mut self, name: &str, read: Result<()>) -> Result<()> {
        match read {
            Err(error) if error.code() == ErrorCode::CorruptData => {
                // The message names the file in the backup, which is as it is in the store.
                let reason = error.detail().replace(&format!("{}/", self.root.display()), "");
                self.note_damage(name, reason)
            }
            other => other,
        }
    }

    /// Copies a file, replacing a `known` one that is damaged or should be a file of its own.
    fn copy(&mut self, expected: &ExpectedFile<'_>, path: &DiskPath, known: Option<&BackupFile>) -> Result<()> {
        let opened;
        let file = match expected.held {
            Some(file) => file,
            None if !expected.source.exists() && expected.derived => return Ok(()),
            None if !expected.source.exists() => {
                return self.note_damage(&expected.name, format!("{} is missing", expected.name));
            }
            None => {
                opened = disk::open(expected.source)?;
                &opened
            }
        };
        let mut staged = StagedFile::create(&self.tmp)?;
        let (mut bytes, mut crc32c) = (0, 0);
        disk::read_parts(file, expected.source, &mut |part| {
            bytes += part.len() as u64;
            crc32c = crc32c::crc32c_append(crc32c, part);
            staged.put(part)?;
            self.pass(part.len() as u64, !expected.derived)
        })?;
        self.check_copy(expected, bytes, crc32c)?;
        if known.is_some_and(|known| (known.bytes, known.crc32c) != (bytes, crc32c)) {
            return Err(self.diverged(&expected.name));
        }
        self.publish(staged, path, known.is_some())?;
        self.list(BackupFile { path: expected.name.clone(), bytes, crc32c, how: CopyMethod::Copied, shared: false });
        Ok(())
    }

    /// Copies the copy of the registry that was made for this backup.
    pub fn put_registry(&mut self, source: &DiskPath) -> Result<()> {
        let file = disk::open(source)?;
        let (bytes, crc) = self.checksum(&file, source, false)?;
        let name = registry_copy(crc);
        let path = self.create_path(&name)?;
        let known = self.old.get(&name).filter(|known| (known.bytes, known.crc32c) == (bytes, crc)).cloned();
        if let Some(known) = known
            && path.exists()
        {
            self.list(BackupFile { how: CopyMethod::Kept, ..known });
            return Ok(());
        }
        disk::remove(&path)?;
        let (held, bytes, crc) = (Some(&file), Some(bytes), Some(crc));
        self.copy(&ExpectedFile { name, source, held, bytes, crc, same: &|_| false, derived: true }, &path, None)
    }

    fn publish(&mut self, staged: StagedFile, path: &DiskPath, replaces: bool) -> Result<()> {
        if replaces {
            staged.replace(path)?;
            self.changed(path);
            return Ok(());
        }
        if !staged.place(path)? {
            return Err(Error::new(
                ErrorCode::Io,
                format!("{} was created by another process or thread", path.display()),
            ));
        }
        self.add(path);
        Ok(())
    }

    /// Writes a file made for the backup, unless it exists already.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.create_path(name)?;
        let crc32c = crc32c::crc32c(bytes);
        let file = BackupFile {
            path: name.to_owned(),
            bytes: bytes.len() as u64,
            crc32c,
            how: CopyMethod::Written,
            shared: false,
        };
        let mut replaces = false;
        if let Some(known) = self.old.get(name) {
            if (known.bytes, known.crc32c) != (file.bytes, crc32c) {
                let detail = format!("{} was made by another version of the program ({name})", self.root.display());
                return Err(Error::invalid(detail).with_hint("choose an empty or new directory"));
            }
            if disk::read(&path).is_ok_and(|found| found == bytes) {
                self.list(BackupFile { how: CopyMethod::Kept, ..file });
                return Ok(());
            }
            replaces = true;
        } else {
            disk::remove(&path)?;
        }
        let mut staged = StagedFile::create(&self.tmp)?;
        staged.put(bytes)?;
        self.publish(staged, &path, replaces)?;
        self.list(file);
        Ok(())
    }

    /// Adds a file that `make` creates at its path, unless it exists already.
    pub fn make(&mut self, name: &str, make: impl FnOnce(&DiskPath) -> Result<()>) -> Result<()> {
        let path = self.create_path(name)?;
        if let Some(known) = self.old.get(name)
            && path.exists()
        {
            let kept = BackupFile { how: CopyMethod::Kept, ..known.clone() };
            self.list(kept);
            return Ok(());
        }
        disk::remove(&path)?;
        make(&self.root)?;
        self.add(&path);
        let bytes = disk::read(&path)?;
        let (bytes, crc32c) = (bytes.len() as u64, crc32c::crc32c(&bytes));
        self.list(BackupFile { path: name.to_owned(), bytes, crc32c, how: CopyMethod::Written, shared: false });
        Ok(())
    }

    /// Makes everything durable, then the listing, then removes what it does not name. Returns how many files were
    /// removed.
    pub fn finish(&mut self, listing: &Backup) -> Result<u64> {
        for (dir, _) in self.dirs.values().filter(|(_, unsynced)| *unsynced) {
            disk::sync_dir(dir)?;
        }
        disk::sync_dir(&self.root)?;
        let (path, bytes) = (self.root.join(LISTING), encode_backup(listing)?);
        let added = std::mem::take(&mut self.added);
        if let Err(error) = disk::replace(&self.tmp, &path, &bytes) {
            // Full or not: once the listing has its name it may count.
            if disk::read(&path).is_ok_and(|found| found != bytes) || !path.exists() {
                self.added = added;
            }
            return Err(error);
        }
        disk::sync_dir(&self.root)?;
        // It counts. What is left over now goes the next time otherwise.
        let named: BTreeSet<&str> = listing.files.iter().map(|file| file.path.as_str()).collect();
        let mut removed = 0;
        let removal = disk::remove(&self.root.join(BACKUP_BEGUN)).and_then(|()| {
            for name in disk::list(&self.root)? {
                if is_registry_copy(&name) && !named.contains(name.as_str()) {
                    disk::remove(&self.root.join(&name))?;
                    removed += 1;
                }
            }
            crate::store::directory::DIRECTORIES
                .iter()
                .try_for_each(|dir| remove_unlisted(&self.root.join(dir), dir, &named, &mut removed))
        });
        if let Err(error) = removal {
            tracing::warn!(%error, "files of an earlier backup could not be removed");
        }
        Ok(removed)
    }
}

/// Removes files below a directory that no list names, and directories that are empty then.
fn remove_unlisted(dir: &DiskPath, name: &str, named: &BTreeSet<&str>, removed: &mut u64) -> Result<()> {
    for inner in disk::list(dir)? {
        let (path, name) = (dir.join(&inner), format!("{name}/{inner}"));
        if path.is_dir() {
            remove_unlisted(&path, &name, named, removed)?;
            disk::remove_dir_if_empty(&path);
        } else if !named.contains(name.as_str()) {
            disk::remove(&path)?;
            *removed += 1;
        }
    }
    Ok(())
}
