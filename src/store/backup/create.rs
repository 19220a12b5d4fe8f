//! Backups: a consistent copy of the store in a directory of its own, taken while reads and writes continue.
//!
//! - Maintenance waits only until all commits of the log are in files; the manifest of that moment is the backup. The
//!   backup retains its chunks like a reader and keeps its run and receipt files open, so files that are replaced
//!   meanwhile stay readable until they are copied.
//! - The result is a store directory with an empty log and a listing, `backup.json`, which is written last.
//! - A later backup into the same directory keeps existing files: a name is never reused for other contents.
//! - A directory with a listing is only ever opened for reading ([`open_backup`]), and read without being changed.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crate::clock::{elapsed_ms, wall_ms};
use crate::disk::{self, DiskPath, File};
use crate::error::{Error, Result};
use crate::format::FORMAT_VERSION;
use crate::format::backup::{BACKUP_VERSION, Backup, BackupDamage, BackupFile};
use crate::format::tombstone::{TombstoneFile, decode_tombstone, encode_tombstone};
use crate::store::backup::listing::{
    BackupOptions, FileCount, check_not_inside, check_not_nested, empty_log, read_listing,
};
use crate::store::backup::target::{self, BackupTarget, ExpectedFile};
use crate::store::directory::{FORMAT_FILE, LISTING, format_text};
use crate::store::maintain::maintenance::Maintenance;
use crate::store::manifest::edits::{Contents, checkpoint_path};
use crate::store::publish::series_files::tombstone_name;
use crate::store::read::chunk::ChunkFile;
use crate::store::read::chunk_paths::series_dir_name;
use crate::store::read::run_files::{load_receipts, load_run, receipts_path, run_path};
use crate::store::read::sidecar;
use crate::store::task_control::TaskControl;
use crate::types::SeriesDef;
use crate::types::width::to_usize;

/// Bytes at each end of a file by which two files of one name are compared.
const ENDS_BYTES: u64 = 64;

/// What a backup did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackupReport {
    /// The backup is the store at this commit; under `dry_run`, the current commit.
    pub commit: u64,
    pub epoch: String,
    /// Registered series, and their rows.
    pub series: u64,
    pub rows: u64,
    pub chunks: u64,
    pub snapshots: u64,
    /// Files that existed already.
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

/// What a backup is made from.
struct BackupSource {
    contents: Contents,
    chunks: HashMap<u64, Arc<ChunkFile>>,
    /// Run and receipt files by their path from the root.
    tails: BTreeMap<String, (DiskPath, File, u64)>,
}

/// A backup of an open store.
#[derive(Clone, Copy, Debug)]
pub struct BackupRun<'a> {
    pub root: &'a DiskPath,
    pub epoch: &'a str,
    pub maintenance: &'a Maintenance,
}

impl BackupRun<'_> {
    /// Backs the store up into `target`.
    pub fn run(&self, target: &DiskPath, options: &BackupOptions, control: &TaskControl) -> Result<BackupReport> {
        let started = Instant::now();
        check_not_nested(self.root, target)?;
        check_not_inside(target)?;
        if options.dry_run {
            return self.plan(target, options);
        }
        let mut target = BackupTarget::open(target, self.epoch, options, control)?;
        let outcome =
            self.open_source().and_then(|source| self.copy_to(&mut target, &source).map(|n| (source.contents, n)));
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
            duration_ms: elapsed_ms(started),
            ..self.report(&contents)
        })
    }

    fn report(&self, contents: &Contents) -> BackupReport {
        let registered = contents.series.values().filter(|series| series.dropped_commit == 0);
        BackupReport {
            commit: contents.base_commit,
            epoch: self.epoch.to_owned(),
            series: registered.clone().count() as u64,
            rows: registered.map(|series| series.rows).sum(),
            chunks: contents.chunks.len() as u64,
            snapshots: contents.snapshots.len() as u64,
            ..BackupReport::default()
        }
    }

    /// What a backup would do with the present chunks; run and receipt files are not counted.
    fn plan(&self, target: &DiskPath, options: &BackupOptions) -> Result<BackupReport> {
        let contents = self.maintenance.publisher.lock().manifest.contents.clone();
        target::look(target, self.epoch)?;
        let listed = |root: &DiskPath| -> Result<HashMap<String, BackupFile>> {
            Ok(read_listing(root)?.files.into_iter().map(|file| (file.path.clone(), file)).collect())
        };
        let old = if target.join(LISTING).exists() { listed(target)? } else { HashMap::new() };
        let base = options.base.as_ref().map(|base| listed(&target.elsewhere(base))).transpose()?.unwrap_or_default();
        let state = self.maintenance.wal.queue.published();
        let mut report = BackupReport { dry_run: true, ..self.report(&contents) };
        report.commit = state.commit;
        (report.series, report.rows) =
            state.registered().fold((0, 0), |(count, rows), series| (count + 1, rows + series.rows));
        report.snapshots = state.snapshots.len() as u64;
        for record in contents.chunks.values() {
            let name = ChunkFile::new(self.root, record.clone()).name().to_owned();
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
    fn name_of(&self, path: &DiskPath) -> String {
        path.strip_prefix(self.root).unwrap_or(path).display().to_string()
    }

    /// Moves everything out of the log and opens all files that the manifest names then.
    fn open_source(&self) -> Result<BackupSource> {
        let mut files = self.maintenance.publisher.lock();
        let outcome = self.maintenance.checkpoint_with(&mut files);
        self.maintenance.note(&outcome);
        outcome?;
        let mut contents = files.manifest.contents.clone();
        // A series dropped since is no longer in the state; its chunks were recorded as dropped before that.
        let state = self.maintenance.wal.queue.published();
        let dropped: Vec<_> = self.maintenance.publisher.dropped().values().cloned().collect();
        let all = state.series.values().chain(&dropped).flat_map(|series| series.chunks.iter());
        let chunks: HashMap<u64, Arc<ChunkFile>> = all.map(|chunk| (chunk.record.id, Arc::clone(chunk))).collect();
        let mut tails = BTreeMap::new();
        let runs = contents.runs.values().map(|run| (run_path(self.root, run.id), run.bytes));
        let receipts = contents.receipts.values().map(|file| (receipts_path(self.root, file.id), file.bytes));
        for (path, bytes) in runs.chain(receipts) {
            let file = disk::open(&path)?;
            tails.insert(self.name_of(&path), (path, file, bytes));
        }
        drop(files);
        contents.waiting.clear();
        (contents.wal_first_segment, contents.wal_first_lsn) = (1, 1);
        Ok(BackupSource { contents, chunks, tails })
    }

    /// Copies everything into the target. Returns how many files it removed there.
    fn copy_to(&self, target: &mut BackupTarget<'_>, backup: &BackupSource) -> Result<u64> {
        let contents = &backup.contents;
        target.control.plan(contents.chunks.values().map(|chunk| chunk.file_bytes).sum());
        target.control.plan(backup.tails.values().map(|(.., bytes)| bytes).sum());
        for (name, (source, file, bytes)) in &backup.tails {
            let same = |path: &DiskPath| has_same_ends(file, source, path);
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
        // The manifest has no checksum of all their bytes, so they are read as when a store is opened.
        for record in contents.runs.values() {
            let read = load_run(&target.root, record).map(|_| ());
            target.note_unreadable(&self.name_of(&run_path(self.root, record.id)), read)?;
        }
        for record in contents.receipts.values() {
            let read = load_receipts(&target.root, record).map(|_| ());
            target.note_unreadable(&self.name_of(&receipts_path(self.root, record.id)), read)?;
        }
        for record in contents.chunks.values() {
            let chunk = backup.chunks.get(&record.id);
            let chunk = chunk.ok_or_else(|| Error::internal(format!("chunk {} is not open", record.id)))?;
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
                // Maintenance may replace it at any time: the open file stays what it is.
                let Some(file) = source.exists().then(|| disk::open(&source).ok()).flatten() else { continue };
                let same = |path: &DiskPath| has_same_ends(&file, &source, path);
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
            epoch: self.epoch.to_owned(),
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

    /// The tombstone files next to the chunks; one that is missing or damaged is rewritten.
    fn put_tombstones(&self, target: &mut BackupTarget<'_>, contents: &Contents) -> Result<()> {
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

/// Whether a file of another name has as many bytes as an open one, and the same first and last bytes. Good for
/// files with a checksum of all bytes at one of their ends.
fn has_same_ends(file: &File, path: &DiskPath, other_path: &DiskPath) -> bool {
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
        let part_bytes = to_usize(part);
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
