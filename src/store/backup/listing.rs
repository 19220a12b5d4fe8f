//! The listing of a backup, and where a backup may lie.

use std::path::PathBuf;

use crate::disk::{self, DiskPath};
use crate::error::{Error, ErrorCode, Result};
use crate::format::backup::{Backup, BackupFile, CopyMethod, decode_backup};
use crate::store::directory::{BACKUP_BEGUN, FORMAT_FILE, LISTING, RESTORE_BEGUN};

use crate::store::manifest::edits::{Contents, checkpoint_path};
use crate::store::wal::segments::{Log, RecoveredLog, ReplayStart};

/// Bytes of the empty log of a backup.
pub const EMPTY_LOG_BYTES: u64 = 64 << 10;

/// Files of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileCount {
    pub files: u64,
    pub bytes: u64,
}

impl FileCount {
    pub fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }
}

/// Counts what is done.
#[derive(Debug, Default)]
pub struct FileCounts {
    pub kept: FileCount,
    pub linked: FileCount,
    pub copied: FileCount,
}

impl FileCounts {
    pub fn count(&mut self, file: &BackupFile) {
        match file.how {
            CopyMethod::Kept => self.kept.add(file.bytes),
            CopyMethod::Linked => self.linked.add(file.bytes),
            CopyMethod::Copied | CopyMethod::Written => self.copied.add(file.bytes),
        }
    }
}

/// How a backup is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupOptions {
    /// An earlier backup of the store, whose files are linked where they are the same.
    pub base: Option<PathBuf>,
    /// Gives the backup files of its own. Else they are hard links to the store's own where that is possible, with
    /// one copy on the disk for both: that costs no space, and damage of a disk hits both.
    pub copy: bool,
    /// Whether linked files are read through; copied ones always are.
    pub verify: bool,
    /// Takes files that are damaged in the store as they are, and lists them, instead of failing.
    pub allow_damaged: bool,
    /// Changes nothing, and reports what would be done with the present files.
    pub dry_run: bool,
    /// A copy of the registry, which goes into the backup.
    pub registry: Option<PathBuf>,
}

impl Default for BackupOptions {
    fn default() -> Self {
        Self { base: None, copy: false, verify: true, allow_damaged: false, dry_run: false, registry: None }
    }
}

/// Reads the listing of a backup.
///
/// # Errors
/// `not_found` when there is none or it was never finished, `corrupt_data` when it is damaged.
pub fn read_listing(root: &DiskPath) -> Result<Backup> {
    let path = root.join(LISTING);
    if !path.exists() {
        let detail = match root.join(BACKUP_BEGUN).exists() {
            true => format!("the backup in {} is incomplete", root.display()),
            false => format!("{} is not a backup", root.display()),
        };
        return Err(Error::new(ErrorCode::NotFound, detail).with_hint("`fastk admin backup DIR` creates one"));
    }
    decode_backup(&disk::read(&path)?)
        .map_err(|error| Error::new(error.code(), format!("{}: {}", path.display(), error.detail())))
}

/// What the manifest of a backup says.
pub fn contents_of(root: &DiskPath, listing: &Backup) -> Result<Contents> {
    Contents::read(&checkpoint_path(&root.join("manifest"), listing.manifest))
}

/// Writes a log without frames. It grows by segments as long as they are configured.
pub fn empty_log(root: &DiskPath) -> Result<()> {
    let start = ReplayStart { segment: 1, lsn: 1, last_segment: 0, new: true };
    Log::open(root, start, &RecoveredLog::default(), EMPTY_LOG_BYTES).map(|_| ())
}

/// Refuses two directories one of which is inside the other.
pub fn check_not_nested(store: &DiskPath, other: &DiskPath) -> Result<()> {
    let (inner, outer) = (disk::resolve(other)?, disk::resolve(store)?);
    let nested = match () {
        () if inner.starts_with(&outer) => "is inside",
        () if outer.starts_with(&inner) => "contains",
        () => return Ok(()),
    };
    Err(Error::invalid(format!("{} {nested} {}", other.display(), store.display()))
        .with_hint("choose a directory elsewhere, preferably on another disk"))
}

/// Refuses a directory below that of a backup or a store: renewing or removing the outer one would destroy it.
pub fn check_not_inside(target: &DiskPath) -> Result<()> {
    let path = disk::resolve(target)?;
    for parent in path.ancestors().skip(1) {
        let dir = target.elsewhere(parent);
        let outer = match () {
            () if dir.join(LISTING).found()? => "the backup",
            () if dir.join(BACKUP_BEGUN).found()? => "the incomplete backup",
            () if dir.join(RESTORE_BEGUN).found()? => "the incomplete restore",
            () if dir.join(FORMAT_FILE).found()? && dir.join("manifest").is_dir() => "the store",
            () => continue,
        };
        let detail = format!("{} is inside {outer} {}", target.display(), dir.display());
        return Err(Error::invalid(detail).with_hint("choose a directory elsewhere, preferably on another disk"));
    }
    Ok(())
}
