//! Restoring: a backup becomes a store of its own, with a new random epoch, so that no reader mistakes it
//! for the old one.
//!
//! Every file of the backup is checked before anything is created. Until all is done and checked again,
//! [`RESTORE_BEGUN`] exists in the directory: after a crash no store is opened or created in it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufWriter;
use std::path::Path;

use std::time::Instant;

use crate::clock::elapsed_ms;
use crate::disk::{self, DiskPath, Lock, StagedFile};
use crate::error::{Error, ErrorCode, Result};
use crate::format::FORMAT_VERSION;
use crate::format::backup::{Backup, BackupDamage, BackupFile, REGISTRY_FILE, is_registry_copy};
use crate::format::manifest::{ReceiptsRecord, RunRecord};
use crate::format::receipt::encode_receipts;
use crate::format::run::{RunOrigin, RunWriter};
use crate::format::tombstone::decode_tombstone;
use crate::store::backup::as_of::as_of;
use crate::store::backup::listing::{check_not_inside, check_not_nested, contents_of, empty_log, read_listing};
use crate::store::backup::target::is_leftover;
use crate::store::directory::{DIRECTORIES, FORMAT_FILE, LOCK_FILE, RESTORE_BEGUN, format_text, is_token_file};
use crate::store::manifest::edits::{Contents, checkpoint_path};
use crate::store::open::engine::Engine;
use crate::store::options::StoreOptions;
use crate::store::publish::series_files::tombstone_name;
use crate::store::read::chunk::ChunkFile;
use crate::store::read::chunk_paths::{chunk_id_of, series_dir_name};
use crate::store::read::run::Run;
use crate::store::read::run_files::{load_receipts, load_run, receipts_path, run_path};
use crate::store::read::series_state::SeriesId;
use crate::store::task_control::TaskControl;
use crate::types::Dictionary;

/// How a backup is restored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoreOptions {
    /// Applies the restore; else the backup is only checked and the result reported.
    pub apply: bool,
    /// Restores the state of this named snapshot; later commits are left out.
    pub as_of: Option<String>,
    /// Hard links files of the backup instead of copying them, where possible. A linked file takes no more space, and
    /// damage on the disk affects store and backup alike.
    pub link: bool,
    /// Restores damaged chunks as they are, and leaves damaged sidecars out.
    pub allow_damaged: bool,
}

/// What a restore did or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoreReport {
    pub applied: bool,
    /// Commit of the backed-up store whose state the restored store has.
    pub commit: u64,
    /// Epoch of the store that was backed up.
    pub epoch_before: String,
    /// Epoch of the restored store; `None` unless applied.
    pub epoch: Option<String>,
    /// Registered series, and their rows.
    pub series: u64,
    pub rows: u64,
    pub chunks: u64,
    /// Names of the snapshots of the restored store.
    pub snapshots: Vec<String>,
    /// Files taken from the backup.
    pub files: u64,
    pub bytes: u64,
    /// Series, chunks and snapshots that a restore as of a snapshot leaves out.
    pub series_left_out: u64,
    pub chunks_left_out: u64,
    pub snapshots_left_out: Vec<String>,
    pub damaged: Vec<BackupDamage>,
    pub duration_ms: u64,
}

/// Restores a backup into a new or empty directory.
///
/// # Errors
/// `not_found` without a finished backup, `corrupt_data` naming a damaged file of it, `invalid_argument` for a
/// directory that is not empty, `snapshot_not_found`, `storage_full`. An unfinished restore is removed again.
pub fn restore(backup: &Path, root: &Path, options: &RestoreOptions, control: &TaskControl) -> Result<RestoreReport> {
    restore_on(&DiskPath::os(backup), &DiskPath::os(root), options, control)
}

/// Restores on any disk.
///
/// # Errors
/// Those of [`restore`].
pub fn restore_on(
    backup: &DiskPath,
    root: &DiskPath,
    options: &RestoreOptions,
    control: &TaskControl,
) -> Result<RestoreReport> {
    let started = Instant::now();
    check_not_nested(backup, root)?;
    check_not_inside(root)?;
    let listing = read_listing(backup)?;
    if listing.format > FORMAT_VERSION {
        let detail = format!("the backup has format {}, this program supports {FORMAT_VERSION}", listing.format);
        return Err(
            Error::new(ErrorCode::UnsupportedFormat, detail).with_hint("restore it with the program that created it")
        );
    }
    check_unused(root)?;
    control.plan(listing.files.iter().map(|file| file.bytes).sum());
    let damage = check_files(backup, &listing, options, control)?;
    let whole = contents_of(backup, &listing)?;
    check_contents(backup, &listing, &whole, &damage)?;
    let contents = match &options.as_of {
        Some(name) => as_of(&whole, name)?,
        None => whole.clone(),
    };
    let taken: Vec<&BackupFile> =
        listing.files.iter().filter(|file| !is_sidecar_of(&damage, file) && is_named(&contents, &file.path)).collect();
    let registered = contents.series.values().filter(|series| series.dropped_commit == 0);
    let left_out = |before: usize, after: usize| before.saturating_sub(after) as u64;
    let mut report = RestoreReport {
        commit: contents.base_commit,
        epoch_before: listing.epoch.clone(),
        series: registered.clone().count() as u64,
        rows: registered.map(|series| series.rows).sum(),
        chunks: contents.chunks.len() as u64,
        snapshots: contents.snapshots.keys().cloned().collect(),
        files: taken.len() as u64,
        bytes: taken.iter().map(|file| file.bytes).sum(),
        series_left_out: left_out(whole.series.len(), contents.series.len()),
        chunks_left_out: left_out(whole.chunks.len(), contents.chunks.len()),
        snapshots_left_out: whole
            .snapshots
            .keys()
            .filter(|name| !contents.snapshots.contains_key(*name))
            .cloned()
            .collect(),
        damaged: damage.into_values().collect(),
        ..RestoreReport::default()
    };
    if options.apply {
        if !options.link {
            control.plan(report.bytes);
        }
        let root_created = !root.exists();
        let work = RestoreWork { backup, root, options, control };
        report.epoch = Some(work.run(contents, &taken, &report.damaged, root_created)?);
        report.applied = true;
    }
    report.duration_ms = elapsed_ms(started);
    Ok(report)
}

/// Refuses a directory that holds anything but what an unfinished restore left.
fn check_unused(root: &DiskPath) -> Result<()> {
    if root.exists() && !root.is_dir() {
        return Err(Error::invalid(format!("{} is not a directory", root.display())));
    }
    let names = disk::list(root)?;
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    if has(RESTORE_BEGUN) {
        return Ok(());
    }
    match names.iter().find(|name| *name != LOCK_FILE && !is_token_file(name) && !is_leftover(root, name)) {
        None => Ok(()),
        Some(name) => Err(Error::invalid(format!("{} is not empty (it has {name:?})", root.display()))
            .with_hint("restore into an empty or new directory")),
    }
}

/// Reads every file that the listing names. Returns the damaged files by path; one that `allow_damaged` does not cover
/// is an error.
fn check_files(
    backup: &DiskPath,
    listing: &Backup,
    options: &RestoreOptions,
    control: &TaskControl,
) -> Result<BTreeMap<String, BackupDamage>> {
    let mut damage = BTreeMap::new();
    let mut note = |path: &str, reason: String, is_allowable: bool| {
        if !(options.allow_damaged && is_allowable) {
            let error = Error::corrupt(format!("the backup is damaged: {reason}"));
            return Err(match is_allowable {
                true => error.with_hint("restore another backup, or continue with --allow-damaged"),
                false => error.with_hint("restore another backup"),
            });
        }
        damage.insert(path.to_owned(), BackupDamage { path: path.to_owned(), reason });
        Ok(())
    };
    for known in &listing.damaged {
        note(&known.path, format!("{} (damaged already when the backup was created)", known.reason), true)?;
    }
    for file in &listing.files {
        let (path, name) = (backup.join(&file.path), &file.path);
        let is_allowable = name.starts_with("chunks/") && !name.ends_with(TOMBSTONE);
        if !path.exists() {
            note(name, format!("{name} is missing"), is_allowable)?;
            continue;
        }
        let (bytes, crc) = read_through(&path, &mut |part| control.advance(part.len() as u64))?;
        if bytes != file.bytes {
            note(name, format!("{name}: {bytes} bytes, expected {}", file.bytes), is_allowable)?;
        } else if crc != file.crc32c {
            note(name, format!("{name}: checksum {crc:08x}, expected {:08x}", file.crc32c), is_allowable)?;
        }
    }
    Ok(damage)
}

fn read_through(path: &DiskPath, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<(u64, u32)> {
    let (mut bytes, mut crc) = (0, 0);
    disk::read_parts(&disk::open(path)?, path, &mut |part| {
        bytes += part.len() as u64;
        crc = crc32c::crc32c_append(crc, part);
        each(part)
    })?;
    Ok((bytes, crc))
}

const TOMBSTONE: &str = ".tombstone";

/// Refuses a listing that does not match its manifest, and files whose contents do not match their names.
fn check_contents(
    backup: &DiskPath,
    listing: &Backup,
    contents: &Contents,
    damage: &BTreeMap<String, BackupDamage>,
) -> Result<()> {
    if contents.epoch != listing.epoch || contents.base_commit != listing.commit {
        return Err(Error::corrupt("the manifest of the backup is not the one that backup.json describes"));
    }
    let listed: BTreeMap<&str, &BackupFile> = listing.files.iter().map(|file| (file.path.as_str(), file)).collect();
    for record in contents.chunks.values() {
        let chunk = ChunkFile::new(backup, record.clone());
        if damage.contains_key(chunk.name()) {
            continue;
        }
        let fits = |file: &&BackupFile| (file.bytes, file.crc32c) == (record.file_bytes, record.file_crc);
        if !listed.get(chunk.name()).is_some_and(fits) {
            let detail = format!("the backup is damaged: {} is not the chunk its manifest names", chunk.name());
            return Err(Error::corrupt(detail).with_hint("restore another backup"));
        }
    }
    for record in contents.runs.values() {
        load_run(backup, record)?;
    }
    for record in contents.receipts.values() {
        load_receipts(backup, record)?;
    }
    for (series_id, commit, start, end) in &contents.tombstones {
        let name = format!("chunks/{}/{}", series_dir_name(*series_id), tombstone_name(*commit));
        let found = decode_tombstone(&disk::read(&backup.join(&name))?)
            .map_err(|error| Error::new(error.code(), format!("{name}: {}", error.detail())))?;
        if (found.series_id, found.commit, found.start, found.end) != (*series_id, *commit, *start, *end) {
            return Err(Error::corrupt(format!("the backup is damaged: {name} belongs to another delete")));
        }
    }
    Ok(())
}

/// Whether a file is a sidecar that is left out because it is damaged.
fn is_sidecar_of(damage: &BTreeMap<String, BackupDamage>, file: &BackupFile) -> bool {
    damage.contains_key(&file.path) && !file.path.ends_with(".arrow")
}

/// Whether a file is a chunk, sidecar, delete, run or receipt file that the manifest names, or the registry.
fn is_named(contents: &Contents, path: &str) -> bool {
    if is_registry_copy(path) {
        return true;
    }
    let mut parts = path.split('/');
    let (dir, second) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    match (dir, parts.next()) {
        ("chunks", Some(name)) => {
            let Ok(series_id) = second.parse::<u64>() else { return false };
            match name.strip_suffix(TOMBSTONE) {
                Some(commit) => {
                    let commit = commit.parse::<u64>().ok();
                    contents.tombstones_of(series_id).any(|(_, at, ..)| Some(*at) == commit)
                }
                None => chunk_id_of(name).is_some_and(|id| contents.chunks.contains_key(&id)),
            }
        }
        ("runs", None) => match second.split_once('.') {
            Some((id, "run")) => id.parse().is_ok_and(|id| contents.runs.contains_key(&id)),
            Some((id, "receipts")) => id.parse().is_ok_and(|id| contents.receipts.contains_key(&id)),
            _ => false,
        },
        _ => false,
    }
}

/// Removes what was created. What cannot be removed is logged.
fn abandon(root: &DiskPath, root_created: bool) {
    let undo = || -> Result<()> {
        // No other process may have used the directory meanwhile.
        let _lock = Lock::acquire(&root.join(LOCK_FILE))?;
        disk::remove(&root.join(FORMAT_FILE))?;
        disk::remove(&root.join(REGISTRY_FILE))?;
        clear(root)?;
        disk::remove(&root.join(LOCK_FILE))?;
        disk::remove(&root.join(RESTORE_BEGUN))?;
        if root_created {
            disk::remove_dir_if_empty(root);
        }
        Ok(())
    };
    if let Err(error) = undo() {
        tracing::warn!(%error, "a part of an unfinished restore could not be removed");
    }
}

fn clear(root: &DiskPath) -> Result<()> {
    DIRECTORIES.iter().try_for_each(|name| disk::remove_tree(&root.join(name)))
}

/// Creates the store from a checked backup.
struct RestoreWork<'a> {
    backup: &'a DiskPath,
    root: &'a DiskPath,
    options: &'a RestoreOptions,
    control: &'a TaskControl,
}

impl RestoreWork<'_> {
    /// Creates the store. Returns its epoch.
    fn run(
        &self,
        contents: Contents,
        taken: &[&BackupFile],
        damaged: &[BackupDamage],
        root_created: bool,
    ) -> Result<String> {
        disk::create_dir(self.root)?;
        let lock = Lock::acquire(&self.root.join(LOCK_FILE))?;
        check_unused(self.root)?;
        self.fill(lock, contents, taken, damaged).inspect_err(|_| abandon(self.root, root_created))
    }

    fn fill(
        &self,
        lock: Lock,
        mut contents: Contents,
        taken: &[&BackupFile],
        damaged: &[BackupDamage],
    ) -> Result<String> {
        let root = self.root;
        disk::remove(&root.join(FORMAT_FILE))?;
        if root.join(REGISTRY_FILE).found()? {
            disk::remove(&root.join(REGISTRY_FILE))?;
        }
        clear(root)?;
        let tmp = root.join("tmp");
        disk::create_dir(&tmp)?;
        if !root.join(RESTORE_BEGUN).exists() {
            disk::publish(&tmp, &root.join(RESTORE_BEGUN), b"")?;
        }
        for name in DIRECTORIES {
            disk::create_dir(&root.join(name))?;
        }
        let mut dirs = BTreeMap::new();
        let later = if self.options.as_of.is_some() { self.cut(&mut contents)? } else { BTreeSet::new() };
        for file in taken.iter().filter(|file| !later.contains(&file.path)) {
            let path = root.join(if is_registry_copy(&file.path) { REGISTRY_FILE } else { &file.path });
            if let Some(dir) = path.parent()
                && !dirs.contains_key(dir.as_ref() as &Path)
            {
                disk::create_dir(&dir)?;
                dirs.insert(dir.to_path_buf(), dir);
            }
            self.take(file, &path, damaged)?;
        }
        for dir in dirs.values() {
            disk::sync_dir(dir)?;
        }
        let epoch = format!("{:016x}", disk::random(root)?);
        contents.epoch.clone_from(&epoch);
        contents.number = 1;
        (contents.wal_first_segment, contents.wal_first_lsn) = (1, 1);
        disk::publish(&tmp, &checkpoint_path(&root.join("manifest"), 1), &contents.to_checkpoint())?;
        empty_log(root)?;
        disk::publish(&tmp, &root.join(FORMAT_FILE), format_text().as_bytes())?;
        drop(lock);
        let options = StoreOptions { background_maintenance: false, ..StoreOptions::default() };
        let store = Engine::open(root, false, options)?;
        compare(&store, &contents, damaged)?;
        drop(store);
        disk::remove(&root.join(RESTORE_BEGUN))?;
        disk::sync_dir(root)?;
        Ok(epoch)
    }

    /// Links or copies one file of the backup into the store.
    fn take(&self, file: &BackupFile, path: &DiskPath, damaged: &[BackupDamage]) -> Result<()> {
        let from = self.backup.join(&file.path);
        if !from.exists() && damaged.iter().any(|damage| damage.path == file.path) {
            return Ok(());
        }
        // The registry is changed in place, so it is never linked.
        if self.options.link && !is_registry_copy(&file.path) && disk::link(&from, path)? {
            return Ok(());
        }
        let mut staged = StagedFile::create(&self.root.join("tmp"))?;
        let (bytes, crc) = read_through(&from, &mut |part| {
            staged.put(part)?;
            self.control.advance(part.len() as u64)
        })?;
        let known = damaged.iter().any(|damage| damage.path == file.path);
        if (bytes, crc) != (file.bytes, file.crc32c) && !known {
            return Err(Error::corrupt(format!("{} changed while it was copied", from.display())));
        }
        if !staged.place(path)? {
            return Err(Error::new(
                ErrorCode::Io,
                format!("{} was created by another process or thread", path.display()),
            ));
        }
        Ok(())
    }

    /// Writes new run and receipt files without the commits after the snapshot. Returns the paths of the files that
    /// they replace, which are not copied.
    fn cut(&self, contents: &mut Contents) -> Result<BTreeSet<String>> {
        let commit = contents.base_commit;
        let mut replaced = BTreeSet::new();
        let name = |path: DiskPath| path.strip_prefix(self.backup).unwrap_or(&path).display().to_string();
        let mut retained: Vec<(SeriesId, Run)> = Vec::new();
        for record in contents.runs.clone().into_values() {
            let runs = load_run(self.backup, &record)?;
            let shown = |id: &SeriesId, run: &Run| run.commit_hi <= commit && contents.series.contains_key(id);
            if runs.iter().all(|(id, run)| shown(id, run)) {
                continue;
            }
            replaced.insert(name(run_path(self.backup, record.id)));
            contents.runs.remove(&record.id);
            retained.extend(runs.into_iter().filter(|(id, run)| shown(id, run)));
        }
        if !retained.is_empty() {
            // Runs of one series follow each other.
            retained.sort_by_key(|(id, run)| (*id, run.commit_lo));
            let id = contents.next_file_id;
            contents.next_file_id += 1;
            let record = self.write_runs(id, &retained, contents)?;
            contents.runs.insert(id, record);
        }
        for record in contents.receipts.clone().into_values() {
            let mut receipts = load_receipts(self.backup, &record)?;
            let before = receipts.len();
            receipts.retain(|receipt| receipt.written.iter().all(|written| written.commit <= commit));
            if receipts.len() == before {
                continue;
            }
            replaced.insert(name(receipts_path(self.backup, record.id)));
            contents.receipts.remove(&record.id);
            let Some(newest_ms) = receipts.iter().map(|receipt| receipt.wall_ms).max() else { continue };
            let bytes = encode_receipts(receipts.iter());
            let id = contents.next_file_id;
            contents.next_file_id += 1;
            disk::publish(&self.root.join("tmp"), &receipts_path(self.root, id), &bytes)?;
            contents.receipts.insert(id, ReceiptsRecord { id, bytes: bytes.len() as u64, newest_ms });
        }
        Ok(replaced)
    }

    fn write_runs(&self, id: u64, runs: &[(SeriesId, Run)], contents: &Contents) -> Result<RunRecord> {
        let mut staged = StagedFile::create(&self.root.join("tmp"))?;
        let path = staged.path().clone();
        let fail = |error: &std::io::Error| Error::io("write", &path, error);
        let origin = RunOrigin { level: 0, base_commit: contents.base_commit };
        let mut writer =
            RunWriter::new(BufWriter::with_capacity(1 << 20, &mut staged), origin).map_err(|error| fail(&error))?;
        for (series_id, run) in runs {
            let columns = run.slices();
            let mut dictionaries = vec![Dictionary::default(); run.def.columns.len()];
            run.texts.iter().try_for_each(|texts| texts.add_to(&mut dictionaries))?;
            let commits = (run.commit_lo, run.commit_hi);
            writer.add(*series_id, &run.def, &dictionaries, commits, &columns).map_err(|error| fail(&error))?;
        }
        let (out, bytes, crc) = writer.finish().map_err(|error| fail(&error))?;
        out.into_inner().map_err(|error| fail(error.error()))?;
        staged.publish(&run_path(self.root, id))?;
        Ok(RunRecord { id, bytes, crc, level: 0, base_commit: contents.base_commit })
    }
}

/// Compares the opened store with the contents that it should have: series, snapshots and numbers of rows.
fn compare(store: &Engine, contents: &Contents, damaged: &[BackupDamage]) -> Result<()> {
    let state = store.wal.queue.published();
    let wrong = |what: String| Err(Error::internal(format!("the restored store has {what}; it was removed")));
    if store.epoch != contents.epoch || state.commit != contents.base_commit {
        return wrong(format!("commit {} instead of {}", state.commit, contents.base_commit));
    }
    if !state.snapshots.keys().eq(contents.snapshots.keys()) || !state.series.keys().eq(contents.series.keys()) {
        return wrong("other series or snapshots".into());
    }
    for (series, record) in state.series.values().zip(contents.series.values()) {
        let bounds = record.first_ts.zip(record.last_ts);
        if (series.version, series.rows, series.bounds) != (record.version, record.rows, bounds) {
            return wrong(format!("{} rows of {} instead of {}", series.rows, series.def.key, record.rows));
        }
        let is_damaged = |chunk: &ChunkFile| damaged.iter().any(|damage| damage.path == chunk.name());
        // The chunks of a dropped series hold rows for snapshots, which its number of rows does not include.
        if series.dropped_commit.is_some() || series.chunks.iter().any(|chunk| is_damaged(chunk)) {
            continue;
        }
        let rows = series.merge(&store.reads.cache, (i64::MIN, i64::MAX), false).count_rows()?;
        if rows != record.rows {
            return wrong(format!("{rows} rows of {} instead of {}", series.def.key, record.rows));
        }
    }
    Ok(())
}
