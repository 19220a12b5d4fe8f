//! Backups: a consistent copy of the whole store in a directory of its own, taken while everything goes on.
//!
//! - Maintenance waits only until everything is out of the log; what the manifest says then is the backup. Its chunks
//!   are held as a reader holds them, its run and receipt files are held open, so whatever is replaced meanwhile stays
//!   readable until it is copied.
//! - The result is a store directory with an empty log and a listing, `backup.json`, which is written last.
//! - A later backup into the same directory keeps what is there already: names are never used twice for other bytes.
//! - A directory with a listing is only ever opened for reading ([`open_backup`]), and read without being changed.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::store::backup::restore;
use crate::store::backup::target::{self, BEGUN, LISTING};

use crate::disk::overlay::OverlayDisk;
use crate::disk::{self, DiskPath, File};
use crate::error::{Error, ErrorCode, Result};
use crate::format::FORMAT_VERSION;
use crate::format::backup::{BACKUP_VERSION, Backup, BackupDamage, BackupFile, CopyMethod, decode_backup};
use crate::format::tombstone::{TombstoneFile, decode_tombstone, encode_tombstone};
use crate::store::backup::target::{BackupTarget, ExpectedFile};
use crate::store::facade::{Store, StoreInner, StoreOptions, wall_ms};
use crate::store::maintain::checkpoint::{load_receipts, load_run, receipts_path, run_path};
use crate::store::manifest::edits::{Contents, checkpoint_path};
use crate::store::open::recover::{FORMAT_FILE, format_text};
use crate::store::publish::seal::tombstone_name;
use crate::store::read::chunk::{ChunkFile, series_dir_name};
use crate::store::read::sidecar;
use crate::store::task_control::TaskControl;
use crate::store::wal::segments::{Log, RecoveredLog, ReplayStart};
use crate::types::SeriesDef;

/// Bytes at each end of a file by which two files of one name are told apart.
pub(in crate::store) const ENDS_BYTES: u64 = 64;
/// Bytes of the empty log of a backup.
pub(in crate::store) const EMPTY_LOG_BYTES: u64 = 64 << 10;

/// How a backup is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupOptions {
    /// An earlier backup of the store, whose files are linked where they are the same.
    pub base: Option<PathBuf>,
    /// Gives the backup files of its own. Else they are the store's own under a second name where that can be, with
    /// one place on the disk for both: that costs no room, and damage of a disk hits both.
    pub copy: bool,
    /// Whether linked files are read through; copied ones always are.
    pub verify: bool,
    /// Takes files that are damaged in the store as they are, and lists them, instead of failing.
    pub allow_damaged: bool,
    /// Changes nothing, and tells what would be done with the files there are now.
    pub dry_run: bool,
    /// A copy of the registry, which goes into the backup.
    pub registry: Option<PathBuf>,
}

impl Default for BackupOptions {
    fn default() -> Self {
        Self { base: None, copy: false, verify: true, allow_damaged: false, dry_run: false, registry: None }
    }
}

/// Files of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileCount {
    pub files: u64,
    pub bytes: u64,
}

impl FileCount {
    pub(in crate::store) fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }
}

/// What a backup did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackupReport {
    /// The backup is the store at this commit; under `dry_run`, the commit of now.
    pub commit: u64,
    pub epoch: String,
    /// Registered series, and their rows.
    pub series: u64,
    pub rows: u64,
    pub chunks: u64,
    pub snapshots: u64,
    /// Files that were there already.
    pub kept: FileCount,
    pub linked: FileCount,
    /// Copied, or written for the backup.
    pub copied: FileCount,
    /// Files of the earlier backup that are in this one no longer.
    pub files_removed: u64,
    pub damaged: Vec<BackupDamage>,
    pub dry_run: bool,
    pub duration_ms: u64,
}

/// Counts what is done.
#[derive(Debug, Default)]
pub(in crate::store) struct FileCounts {
    pub(in crate::store) kept: FileCount,
    pub(in crate::store) linked: FileCount,
    pub(in crate::store) copied: FileCount,
}

impl FileCounts {
    pub(in crate::store) fn count(&mut self, file: &BackupFile) {
        match file.how {
            CopyMethod::Kept => self.kept.add(file.bytes),
            CopyMethod::Linked => self.linked.add(file.bytes),
            CopyMethod::Copied | CopyMethod::Written => self.copied.add(file.bytes),
        }
    }
}

/// What a backup is made from.
pub(in crate::store) struct BackupSource {
    pub(in crate::store) contents: Contents,
    pub(in crate::store) chunks: HashMap<u64, Arc<ChunkFile>>,
    /// Run and receipt files by their path from the root.
    pub(in crate::store) tails: BTreeMap<String, (DiskPath, File, u64)>,
}

/// Reads the listing of a backup.
///
/// # Errors
/// `not_found` when there is none or it was never finished, `corrupt_data` when it is damaged.
pub fn read_listing(root: &DiskPath) -> Result<Backup> {
    let path = root.join(LISTING);
    if !path.exists() {
        let detail = match root.join(BEGUN).exists() {
            true => format!("the backup in {} was never finished", root.display()),
            false => format!("{} holds no backup", root.display()),
        };
        return Err(Error::new(ErrorCode::NotFound, detail).with_hint("`fastk admin backup DIR` makes one"));
    }
    decode_backup(&disk::read(&path)?)
        .map_err(|error| Error::new(error.code(), format!("{}: {}", path.display(), error.detail())))
}

/// What the manifest of a backup says.
pub(in crate::store) fn contents_of(root: &DiskPath, listing: &Backup) -> Result<Contents> {
    Contents::read(&checkpoint_path(&root.join("manifest"), listing.manifest))
}

impl Store {
    /// Backs the whole store up into `target`, a new or empty directory or one with an earlier backup of this store,
    /// as it is at one commit. Readers, writers and upkeep go on meanwhile.
    ///
    /// # Errors
    /// `invalid_argument` when the directory lies in a store or in another backup, or the store in it, or when it holds
    /// something else;
    /// `corrupt_data` naming a damaged file of the store; `storage_full`; `writer_stopped` when what is in the log
    /// cannot be moved out of it; `not_ready` when it was cancelled. Whatever was begun is taken away again.
    pub fn backup(&self, target: &Path, options: &BackupOptions, watch: &TaskControl) -> Result<BackupReport> {
        self.inner.backup(&self.inner.root.elsewhere(target), options, watch)
    }
}

impl StoreInner {
    pub(in crate::store) fn backup(
        &self,
        target: &DiskPath,
        options: &BackupOptions,
        watch: &TaskControl,
    ) -> Result<BackupReport> {
        let begun = Instant::now();
        check_apart(&self.root, target)?;
        check_not_inside(target)?;
        if options.dry_run {
            return self.plan(target, options);
        }
        let mut target = BackupTarget::open(target, &self.epoch, options, watch)?;
        let outcome =
            self.hold().and_then(|held| self.fill(&mut target, &held).map(|removed| (held.contents, removed)));
        let (contents, files_removed) = match outcome {
            Ok(done) => done,
            Err(error) => {
                target.abandon();
                return Err(error);
            }
        };
        Ok(BackupReport {
            kept: target.tally.kept,
            linked: target.tally.linked,
            copied: target.tally.copied,
            files_removed,
            damaged: std::mem::take(&mut target.damaged),
            duration_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            ..self.report(&contents)
        })
    }

    pub(in crate::store) fn report(&self, contents: &Contents) -> BackupReport {
        let registered = contents.series.values().filter(|series| series.dropped_commit == 0);
        BackupReport {
            commit: contents.base_commit,
            epoch: self.epoch.clone(),
            series: registered.clone().count() as u64,
            rows: registered.map(|series| series.rows).sum(),
            chunks: contents.chunks.len() as u64,
            snapshots: contents.snapshots.len() as u64,
            ..BackupReport::default()
        }
    }

    /// What a backup would do with the chunks there are now; the tails are left out of account.
    pub(in crate::store) fn plan(&self, target: &DiskPath, options: &BackupOptions) -> Result<BackupReport> {
        let contents = self.maintenance().manifest.contents.clone();
        target::look(target, &self.epoch)?;
        let listed = |root: &DiskPath| -> Result<HashMap<String, BackupFile>> {
            Ok(read_listing(root)?.files.into_iter().map(|file| (file.path.clone(), file)).collect())
        };
        let old = if target.join(LISTING).exists() { listed(target)? } else { HashMap::new() };
        let base = options.base.as_ref().map(|base| listed(&target.elsewhere(base))).transpose()?.unwrap_or_default();
        let state = self.queue.published();
        let mut report = BackupReport { dry_run: true, ..self.report(&contents) };
        report.commit = state.commit;
        (report.series, report.rows) =
            state.registered().fold((0, 0), |(count, rows), series| (count + 1, rows + series.rows));
        report.snapshots = state.snapshots.len() as u64;
        for record in contents.chunks.values() {
            let name = ChunkFile::new(&self.root, record.clone()).name().to_owned();
            let has = |files: &HashMap<String, BackupFile>| {
                files.get(&name).is_some_and(|file| {
                    file.crc32c == record.file_crc && file.bytes == record.file_bytes && !(options.copy && file.shared)
                })
            };
            let count = match () {
                () if has(&old) => &mut report.kept,
                () if has(&base) || !options.copy => &mut report.linked,
                () => &mut report.copied,
            };
            count.add(record.file_bytes);
        }
        Ok(report)
    }

    /// Path of a file below the store.
    pub(in crate::store) fn name_of(&self, path: &DiskPath) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).display().to_string()
    }

    /// Moves everything out of the log and takes hold of all files the manifest names then.
    pub(in crate::store) fn hold(&self) -> Result<BackupSource> {
        let mut maintenance = self.maintenance();
        let outcome = self.checkpoint_with(&mut maintenance);
        self.note_upkeep(&outcome);
        outcome?;
        let mut contents = maintenance.manifest.contents.clone();
        // A series dropped since is no longer in the state; it was put aside before it left it.
        let state = self.queue.published();
        let dropped: Vec<_> = self.dropped().values().cloned().collect();
        let all = state.series.values().chain(&dropped).flat_map(|series| series.chunks.iter());
        let chunks: HashMap<u64, Arc<ChunkFile>> = all.map(|chunk| (chunk.record.id, Arc::clone(chunk))).collect();
        let mut tails = BTreeMap::new();
        let runs = contents.runs.values().map(|run| (run_path(&self.root, run.id), run.bytes));
        let receipts = contents.receipts.values().map(|file| (receipts_path(&self.root, file.id), file.bytes));
        for (path, bytes) in runs.chain(receipts) {
            let file = disk::open(&path)?;
            tails.insert(self.name_of(&path), (path, file, bytes));
        }
        drop(maintenance);
        contents.waiting.clear();
        (contents.wal_first_segment, contents.wal_first_lsn) = (1, 1);
        Ok(BackupSource { contents, chunks, tails })
    }

    /// Brings everything into the target. Gives how many files it removed there.
    pub(in crate::store) fn fill(&self, target: &mut BackupTarget<'_>, held: &BackupSource) -> Result<u64> {
        let contents = &held.contents;
        target.watch.plan(contents.chunks.values().map(|chunk| chunk.file_bytes).sum());
        target.watch.plan(held.tails.values().map(|(.., bytes)| bytes).sum());
        for (name, (source, file, bytes)) in &held.tails {
            let same = |path: &DiskPath| same_ends(file, source, path);
            let (name, bytes) = (name.clone(), Some(*bytes));
            target.put(&ExpectedFile {
                name,
                source,
                held: Some(file),
                bytes,
                crc: None,
                same: &same,
                derived: false,
            })?;
        }
        // The manifest has no checksum of all their bytes, so they are read as an opening reads them.
        for record in contents.runs.values() {
            let read = load_run(&target.root, record).map(|_| ());
            target.note_unreadable(&self.name_of(&run_path(&self.root, record.id)), read)?;
        }
        for record in contents.receipts.values() {
            let read = load_receipts(&target.root, record).map(|_| ());
            target.note_unreadable(&self.name_of(&receipts_path(&self.root, record.id)), read)?;
        }
        for record in contents.chunks.values() {
            let chunk = held.chunks.get(&record.id);
            let chunk = chunk.ok_or_else(|| Error::internal(format!("nobody has chunk {} open", record.id)))?;
            let same = |path: &DiskPath| chunk.is_file(path);
            target.put(&ExpectedFile {
                name: chunk.name().to_owned(),
                source: chunk.path(),
                held: None,
                bytes: Some(record.file_bytes),
                crc: Some(record.file_crc),
                same: &same,
                derived: false,
            })?;
            for extension in sidecar::EXTENSIONS {
                let source = chunk.path().with_extension(extension);
                // Upkeep may put another one in its place at any time: what is open stays what it is.
                let Some(file) = source.exists().then(|| disk::open(&source).ok()).flatten() else { continue };
                let same = |path: &DiskPath| same_ends(&file, &source, path);
                let name = PathBuf::from(chunk.name()).with_extension(extension).display().to_string();
                target.put(&ExpectedFile {
                    name,
                    source: &source,
                    held: Some(&file),
                    bytes: None,
                    crc: None,
                    same: &same,
                    derived: true,
                })?;
            }
        }
        self.put_tombstones(target, contents)?;
        if let Some(registry) = &target.options.registry {
            target.put_registry(&self.root.elsewhere(registry))?;
        }
        let manifest = checkpoint_path(&DiskPath::os("manifest"), contents.number);
        target.write(&manifest.display().to_string(), &contents.to_checkpoint())?;
        target.make(&format!("wal/{:020}.wal", 1), empty_log)?;
        target.write(FORMAT_FILE, format_text().as_bytes())?;
        let report = self.report(contents);
        let listing = Backup {
            version: BACKUP_VERSION,
            format: FORMAT_VERSION,
            created_ms: wall_ms(),
            epoch: self.epoch.clone(),
            commit: contents.base_commit,
            manifest: contents.number,
            series: report.series,
            rows: report.rows,
            chunks: report.chunks,
            snapshots: contents.snapshots.keys().cloned().collect(),
            damaged: target.damaged.clone(),
            files: std::mem::take(&mut target.files),
        };
        target.finish(&listing)
    }

    /// The files that deletes left beside the chunks; one that is missing or damaged is written anew.
    pub(in crate::store) fn put_tombstones(&self, target: &mut BackupTarget<'_>, contents: &Contents) -> Result<()> {
        for (series_id, commit, start, end) in &contents.tombstones {
            let Some(series) = contents.series.get(series_id) else { continue };
            let name = format!("chunks/{}/{}", series_dir_name(*series_id), tombstone_name(*commit));
            let source = self.root.join(&name);
            let def: SeriesDef = serde_json::from_str(&series.def)
                .map_err(|error| Error::internal(format!("registration of series {series_id}: {error}")))?;
            let (series_id, commit, start, end) = (*series_id, *commit, *start, *end);
            let file = TombstoneFile { series_id, key: def.key, commit, start, end };
            let found = if source.exists() { disk::read(&source) } else { Ok(Vec::new()) };
            match found {
                Ok(bytes) if decode_tombstone(&bytes).is_ok_and(|found| found == file) => {
                    let (bytes, crc) = (Some(bytes.len() as u64), Some(crc32c::crc32c(&bytes)));
                    let same = |path: &DiskPath| path.exists();
                    let source = &source;
                    target.put(&ExpectedFile { name, source, held: None, bytes, crc, same: &same, derived: false })?;
                }
                _ => target.write(&name, &encode_tombstone(&file)?)?,
            }
        }
        Ok(())
    }
}

/// Whether a file of another name has as many bytes as one that is open, and begins and ends as it does. Good for
/// files with a checksum of the whole at one of their ends.
pub(in crate::store) fn same_ends(file: &File, path: &DiskPath, other_path: &DiskPath) -> bool {
    if !other_path.exists() {
        return false;
    }
    let compare = || -> Result<bool> {
        let other = disk::open(other_path)?;
        let bytes = disk::file_bytes(file, path)?;
        if bytes != disk::file_bytes(&other, other_path)? {
            return Ok(false);
        }
        let part = bytes.min(ENDS_BYTES);
        let part_bytes = usize::try_from(part).unwrap_or(0);
        for offset in [0, bytes - part] {
            if disk::read_at(file, path, offset, part_bytes)? != disk::read_at(&other, other_path, offset, part_bytes)?
            {
                return Ok(false);
            }
        }
        Ok(true)
    };
    compare().unwrap_or(false)
}

/// Refuses two directories one of which lies in the other.
pub(in crate::store) fn check_apart(store: &DiskPath, other: &DiskPath) -> Result<()> {
    let (inner, outer) = (disk::resolve(other)?, disk::resolve(store)?);
    let nested = match () {
        () if inner.starts_with(&outer) => "lies in",
        () if outer.starts_with(&inner) => "holds",
        () => return Ok(()),
    };
    Err(Error::invalid(format!("{} {nested} {}", other.display(), store.display()))
        .with_hint("name a directory elsewhere, best on another disk"))
}

/// Refuses a directory below that of a backup or a store: renewing or removing the outer one would destroy it.
pub(in crate::store) fn check_not_inside(target: &DiskPath) -> Result<()> {
    let path = disk::resolve(target)?;
    for parent in path.ancestors().skip(1) {
        let dir = target.elsewhere(parent);
        let outer = match () {
            () if dir.join(LISTING).found()? => "the backup",
            () if dir.join(BEGUN).found()? => "the unfinished backup",
            () if dir.join(restore::BEGUN).found()? => "the unfinished restore",
            () if dir.join(FORMAT_FILE).found()? && dir.join("manifest").is_dir() => "the store",
            () => continue,
        };
        let detail = format!("{} lies in {outer} {}", target.display(), dir.display());
        return Err(Error::invalid(detail).with_hint("name a directory elsewhere, best on another disk"));
    }
    Ok(())
}

/// Writes a log without frames. It grows by segments as long as they are configured.
pub(in crate::store) fn empty_log(root: &DiskPath) -> Result<()> {
    let start = ReplayStart { segment: 1, lsn: 1, last_segment: 0, new: true };
    Log::open(root, start, &RecoveredLog::default(), EMPTY_LOG_BYTES).map(|_| ())
}

/// Refuses a directory in which a backup or a restore was begun and never finished.
pub(in crate::store) fn check_finished(root: &DiskPath) -> Result<()> {
    let begun = |what: &str, hint: &str| {
        Err(Error::new(ErrorCode::NotFound, format!("{} holds an unfinished {what}", root.display())).with_hint(hint))
    };
    if root.join(BEGUN).exists() && !root.join(LISTING).exists() {
        return begun("backup", "run `fastk admin backup` again, or remove it");
    }
    if root.join(restore::BEGUN).exists() {
        return begun("restore", "run `fastk admin restore` again, or remove it");
    }
    Ok(())
}

/// Refuses to change a backup.
pub(in crate::store) fn check_no_backup(root: &DiskPath) -> Result<()> {
    check_finished(root)?;
    if root.join(LISTING).exists() { Err(read_only(root)) } else { Ok(()) }
}

pub(in crate::store) fn read_only(root: &DiskPath) -> Error {
    Error::new(ErrorCode::WriterStopped, format!("{} is a backup: it is only read", root.display()))
        .with_hint("make a store of it with `fastk admin restore BACKUP --root DIR --apply`")
}

/// Opens a finished backup for reading. What opening writes stays in memory.
pub(in crate::store) fn open(root: &DiskPath, options: StoreOptions) -> Result<Store> {
    let listing = read_listing(root)?;
    let names = listing.files.iter().map(|file| file.path.as_str()).filter(|name| !name.starts_with("wal/"));
    let view = OverlayDisk::of(root, names);
    for name in ["wal", "tmp"] {
        disk::create_dir(&view.join(name))?;
    }
    empty_log(&view)?;
    let options = StoreOptions { upkeep: false, wal_segment_bytes: EMPTY_LOG_BYTES, ..options };
    let inner = StoreInner::open(&view, false, options)?;
    inner.queue.refuse(read_only(root));
    Ok(Store { inner: Arc::new(inner), upkeep: None, shared: None })
}
