//! The manifest on disk: numbered edits created exclusively, and checkpoints that repeat the whole state.
//!
//! Opening reads the newest intact checkpoint and the edits after it. Two checkpoints are retained, with the edits
//! since the older one, so that one damaged checkpoint costs nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::disk::{self, DiskPath};
use crate::error::{Error, ErrorCode, Result};
use crate::format::manifest::{
    ChunkRecord, Edit, KindRecord, ReceiptsRecord, RunRecord, SeriesRecord, SnapshotRecord, TextsRecord,
    TombstoneRecord, decode_checkpoint, decode_edit, encode_checkpoint, encode_edit,
};

/// Edits between two checkpoints.
pub const CHECKPOINT_EDITS: u64 = 64;

/// The contents of the manifest, with all edits applied.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    pub number: u64,
    pub epoch: String,
    pub series: BTreeMap<u64, SeriesRecord>,
    pub chunks: BTreeMap<u64, ChunkRecord>,
    pub tombstones: BTreeSet<(u64, u64, i64, i64)>,
    pub runs: BTreeMap<u64, RunRecord>,
    pub snapshots: BTreeMap<String, SnapshotRecord>,
    pub kinds: BTreeMap<String, KindRecord>,
    pub receipts: BTreeMap<u64, ReceiptsRecord>,
    /// Texts of the dictionaries, by series.
    pub texts: BTreeMap<u64, TextsRecord>,
    /// Chunks no longer in use whose files may still exist.
    pub waiting: BTreeMap<u64, ChunkRecord>,
    pub base_commit: u64,
    pub wal_first_segment: u64,
    pub wal_first_lsn: u64,
    pub next_series_id: u64,
    pub next_file_id: u64,
}

fn tombstone_key(record: &TombstoneRecord) -> (u64, u64, i64, i64) {
    (record.series_id, record.commit, record.start, record.end)
}

impl Contents {
    /// The deletes of a series.
    pub fn tombstones_of(&self, series_id: u64) -> impl Iterator<Item = &(u64, u64, i64, i64)> {
        self.tombstones.range((series_id, 0, i64::MIN, i64::MIN)..=(series_id, u64::MAX, i64::MAX, i64::MAX))
    }

    /// The manifest of an empty store.
    pub fn empty() -> Self {
        Self { wal_first_segment: 1, wal_first_lsn: 1, next_series_id: 1, next_file_id: 1, ..Self::default() }
    }

    pub fn apply(&mut self, edit: Edit) {
        let newer = |old: &mut u64, new: u64| {
            if new != 0 {
                *old = new;
            }
        };
        self.number = edit.number;
        if !edit.epoch.is_empty() {
            self.epoch = edit.epoch;
        }
        for series in edit.series {
            self.series.insert(series.id, series);
        }
        for record in edit.texts {
            let known = self.texts.entry(record.series_id).or_default();
            known.series_id = record.series_id;
            known.texts.extend_from_slice(&record.texts);
            known.total = record.total;
        }
        for record in &edit.tombstones {
            self.tombstones.insert(tombstone_key(record));
        }
        for record in &edit.tombstones_removed {
            self.tombstones.remove(&tombstone_key(record));
        }
        for id in edit.chunks_removed {
            self.waiting.extend(self.chunks.remove(&id).map(|chunk| (id, chunk)));
        }
        self.waiting.extend(edit.chunks_waiting.into_iter().map(|chunk| (chunk.id, chunk)));
        for id in edit.chunks_unlinked {
            self.waiting.remove(&id);
        }
        for chunk in edit.chunks {
            self.chunks.insert(chunk.id, chunk);
        }
        for id in edit.series_dropped {
            self.series.remove(&id);
            self.texts.remove(&id);
            self.chunks.retain(|_, chunk| chunk.series_id != id);
            self.tombstones.retain(|(series_id, ..)| *series_id != id);
        }
        for id in edit.runs_removed {
            self.runs.remove(&id);
        }
        self.runs.extend(edit.runs.into_iter().map(|run| (run.id, run)));
        for name in edit.snapshots_removed {
            self.snapshots.remove(&name);
        }
        self.snapshots.extend(edit.snapshots.into_iter().map(|snapshot| (snapshot.name.clone(), snapshot)));
        for name in edit.kinds_removed {
            self.kinds.remove(&name);
        }
        self.kinds.extend(edit.kinds.into_iter().map(|kind| (kind.name.clone(), kind)));
        for id in edit.receipts_removed {
            self.receipts.remove(&id);
        }
        self.receipts.extend(edit.receipts.into_iter().map(|file| (file.id, file)));
        newer(&mut self.base_commit, edit.base_commit);
        newer(&mut self.wal_first_segment, edit.wal_first_segment);
        newer(&mut self.wal_first_lsn, edit.wal_first_lsn);
        newer(&mut self.next_series_id, edit.next_series_id);
        newer(&mut self.next_file_id, edit.next_file_id);
    }

    /// Checks an edit before it is published: numbers rise, files that it adds are new and of known series, and files
    /// that it removes exist.
    fn assert_publishable_edit(&self, edit: &Edit) {
        let number = edit.number;
        for (name, before, after) in [
            ("base_commit", self.base_commit, edit.base_commit),
            ("wal_first_segment", self.wal_first_segment, edit.wal_first_segment),
            ("wal_first_lsn", self.wal_first_lsn, edit.wal_first_lsn),
            ("next_series_id", self.next_series_id, edit.next_series_id),
            ("next_file_id", self.next_file_id, edit.next_file_id),
        ] {
            assert!(after == 0 || after >= before, "edit {number}: {name} {after} follows {before}");
        }
        let next_file_id = self.next_file_id.max(edit.next_file_id);
        let added = edit.chunks.iter().map(|chunk| chunk.id).chain(edit.runs.iter().map(|run| run.id));
        for id in added.chain(edit.receipts.iter().map(|file| file.id)) {
            assert!(self.next_file_id <= id && id < next_file_id, "edit {number}: file {id} is not a new one");
        }
        for chunk in &edit.chunks {
            let is_known = self.series.contains_key(&chunk.series_id)
                || edit.series.iter().any(|series| series.id == chunk.series_id);
            assert!(is_known, "edit {number}: chunk {} of the unknown series {}", chunk.id, chunk.series_id);
            let ChunkRecord { id, rows, ts_min, ts_max, commit_lo, commit_hi, .. } = chunk;
            assert!(*rows > 0 && ts_min <= ts_max, "edit {number}: chunk {id}: {rows} rows, {ts_min} to {ts_max}");
            assert!(commit_lo <= commit_hi, "edit {number}: chunk {id}: commits {commit_lo} to {commit_hi}");
        }
        let chunks = edit.chunks_removed.iter().find(|id| !self.chunks.contains_key(id));
        let waiting = edit.chunks_unlinked.iter().find(|id| !self.waiting.contains_key(id));
        let runs = edit.runs_removed.iter().find(|id| !self.runs.contains_key(id));
        let receipts = edit.receipts_removed.iter().find(|id| !self.receipts.contains_key(id));
        let unknown = chunks.or(waiting).or(runs).or(receipts);
        assert_eq!(unknown, None, "edit {number} removes a file that does not exist");
    }

    /// Reads a checkpoint alone.
    pub fn read(path: &DiskPath) -> Result<Self> {
        let edit = decode_checkpoint(&disk::read(path)?)
            .map_err(|error| Error::new(error.code(), format!("{}: {}", path.display(), error.detail())))?;
        let mut contents = Self::default();
        contents.apply(edit);
        Ok(contents)
    }

    /// Bytes of a checkpoint of all this.
    pub fn to_checkpoint(&self) -> Vec<u8> {
        encode_checkpoint(&self.as_edit())
    }

    /// Everything as one edit, as checkpoints have it.
    pub fn as_edit(&self) -> Edit {
        Edit {
            number: self.number,
            series: self.series.values().cloned().collect(),
            chunks: self.chunks.values().cloned().collect(),
            tombstones: self
                .tombstones
                .iter()
                .map(|(series_id, commit, start, end)| TombstoneRecord {
                    series_id: *series_id,
                    commit: *commit,
                    start: *start,
                    end: *end,
                })
                .collect(),
            runs: self.runs.values().cloned().collect(),
            snapshots: self.snapshots.values().cloned().collect(),
            kinds: self.kinds.values().cloned().collect(),
            receipts: self.receipts.values().cloned().collect(),
            texts: self.texts.values().cloned().collect(),
            chunks_waiting: self.waiting.values().cloned().collect(),
            base_commit: self.base_commit,
            wal_first_segment: self.wal_first_segment,
            wal_first_lsn: self.wal_first_lsn,
            next_series_id: self.next_series_id,
            next_file_id: self.next_file_id,
            epoch: self.epoch.clone(),
            ..Edit::default()
        }
    }
}

/// The manifest as it was read. Reading changed nothing on disk.
#[derive(Debug)]
pub struct RecoveredManifest {
    /// Everything that could be read, in order; complete unless something is `missing`.
    pub contents: Contents,
    /// Checkpoint it starts from.
    pub checkpoint: u64,
    /// Damage without consequence, because another file holds the same information.
    pub redundant_damage: Vec<String>,
    /// Every damaged file, with what is wrong.
    pub damaged: Vec<(DiskPath, String)>,
    /// What is missing or unreadable, and in no other file.
    pub missing: Vec<String>,
    /// Highest number of any file of the manifest that is known to have existed.
    pub highest: u64,
}

/// The manifest open for publishing.
#[derive(Debug)]
pub struct Manifest {
    dir: DiskPath,
    tmp: DiskPath,
    pub contents: Contents,
    checkpoint: u64,
}

/// Directory of the manifest.
pub fn manifest_dir(root: &DiskPath) -> DiskPath {
    root.join("manifest")
}

fn edit_path(dir: &DiskPath, number: u64) -> DiskPath {
    dir.join(format!("{number:020}.edit"))
}

/// Path of a checkpoint in the directory of the manifest.
pub fn checkpoint_path(dir: &DiskPath, number: u64) -> DiskPath {
    dir.join(format!("{number:020}.checkpoint"))
}

fn named(path: &DiskPath, error: &Error) -> Error {
    Error::new(error.code(), format!("{}: {}", path.display(), error.detail()))
}

/// Reads the manifest; an empty directory gives the manifest of an empty store.
///
/// # Errors
/// `unsupported_format` for a newer one, and those of reading. Damage is no error.
pub fn read_manifest(root: &DiskPath) -> Result<RecoveredManifest> {
    let dir = manifest_dir(root);
    let names = disk::list(&dir)?;
    let numbers = |suffix: &str| -> Vec<u64> {
        names.iter().filter_map(|name| name.strip_suffix(suffix)?.parse().ok()).collect()
    };
    let (edits, checkpoints) = (numbers(".edit"), numbers(".checkpoint"));
    let contents =
        Contents { wal_first_segment: 1, wal_first_lsn: 1, next_series_id: 1, next_file_id: 1, ..Contents::default() };
    let highest = edits.iter().chain(&checkpoints).copied().max().unwrap_or(0);
    let mut found = RecoveredManifest {
        contents,
        checkpoint: 0,
        redundant_damage: Vec::new(),
        damaged: Vec::new(),
        missing: Vec::new(),
        highest,
    };
    let mut bad_checkpoints = Vec::new();
    for number in checkpoints.iter().rev() {
        let path = checkpoint_path(&dir, *number);
        let reason = match decode_checkpoint(&disk::read(&path)?) {
            Ok(edit) if edit.number == *number => {
                found.contents.apply(edit);
                found.checkpoint = *number;
                break;
            }
            Ok(edit) => format!("{} holds checkpoint {}", path.display(), edit.number),
            Err(error) if error.code() == ErrorCode::UnsupportedFormat => return Err(named(&path, &error)),
            Err(error) => format!("{}: {}", path.display(), error.detail()),
        };
        bad_checkpoints.push(reason.clone());
        found.damaged.push((path, reason));
    }
    for number in edits.into_iter().filter(|number| *number > found.checkpoint) {
        let path = edit_path(&dir, number);
        if number != found.contents.number + 1 {
            let first = edit_path(&dir, found.contents.number + 1);
            found.missing.push(format!("{} is missing", first.display()));
        }
        let (reason, is_lost) = match decode_edit(&disk::read(&path)?) {
            Ok((edit, damage)) if edit.number == number => {
                found.contents.apply(edit);
                (damage.map(|damage| format!("{}: {}", path.display(), damage.reason)), false)
            }
            Ok((edit, _)) => (Some(format!("{} holds edit {}", path.display(), edit.number)), true),
            Err(error) if error.code() == ErrorCode::UnsupportedFormat => return Err(named(&path, &error)),
            Err(error) => (Some(format!("{}: {}", path.display(), error.detail())), true),
        };
        if let Some(reason) = reason {
            if is_lost {
                found.missing.push(reason.clone())
            } else {
                found.redundant_damage.push(reason.clone())
            }
            found.damaged.push((path, reason));
        }
        // Damage after the missing edit is reported separately from what is missing.
        found.contents.number = number;
    }
    // An older checkpoint and every edit after it have the same contents as a newer checkpoint.
    let newest_bad = checkpoints.iter().rev().take(bad_checkpoints.len()).max().copied().unwrap_or(0);
    if newest_bad > found.contents.number {
        found.missing.append(&mut bad_checkpoints);
    }
    found.redundant_damage.append(&mut bad_checkpoints);
    Ok(found)
}

impl Manifest {
    /// The manifest that was read, for publishing.
    pub fn new(root: &DiskPath, found: RecoveredManifest) -> Self {
        Self { dir: manifest_dir(root), tmp: root.join("tmp"), contents: found.contents, checkpoint: found.checkpoint }
    }

    /// Publishes an edit as the next number; durable on return.
    ///
    /// # Errors
    /// `commit_conflict` when another process took the number.
    pub fn publish(&mut self, mut edit: Edit) -> Result<u64> {
        edit.number = self.contents.number + 1;
        self.contents.assert_publishable_edit(&edit);
        let path = edit_path(&self.dir, edit.number);
        let published = disk::publish(&self.tmp, &path, &encode_edit(&edit)).map_err(|error| {
            // Once the edit has its name it may be effective: the error is then `io`, since `storage_full` says
            // that nothing was written.
            if path.found().unwrap_or(true) { Error::new(ErrorCode::Io, error.detail()) } else { error }
        });
        if !published? {
            return Err(Error::new(ErrorCode::CommitConflict, format!("{} exists already", path.display())));
        }
        self.contents.apply(edit);
        if self.contents.number >= self.checkpoint + CHECKPOINT_EDITS
            && let Err(error) = self.write_checkpoint()
        {
            // Nothing is lost without it: opening reads more edits.
            tracing::warn!(%error, "a manifest checkpoint could not be written");
        }
        Ok(self.contents.number)
    }

    /// Publishes a checkpoint with a number that was never used. Its contents replace everything that the manifest
    /// recorded before.
    pub fn publish_whole(root: &DiskPath, contents: &Contents) -> Result<()> {
        let path = checkpoint_path(&manifest_dir(root), contents.number);
        if disk::publish(&root.join("tmp"), &path, &contents.to_checkpoint())? {
            return Ok(());
        }
        Err(Error::new(ErrorCode::CommitConflict, format!("{} exists already", path.display())))
    }

    /// Writes a checkpoint, and removes the files that the previous checkpoint made superfluous.
    pub fn write_checkpoint(&mut self) -> Result<()> {
        let number = self.contents.number;
        disk::publish(&self.tmp, &checkpoint_path(&self.dir, number), &self.contents.to_checkpoint())?;
        let previous = std::mem::replace(&mut self.checkpoint, number);
        self.remove_before(previous)
    }

    /// Removes the checkpoints before this number, and the edits that the checkpoint of this number repeats.
    fn remove_before(&self, checkpoint_number: u64) -> Result<()> {
        for name in disk::list(&self.dir)? {
            let old = match (name.strip_suffix(".edit"), name.strip_suffix(".checkpoint")) {
                (Some(edit), _) => edit.parse().is_ok_and(|number: u64| number <= checkpoint_number),
                (_, Some(checkpoint)) => checkpoint.parse().is_ok_and(|number: u64| number < checkpoint_number),
                _ => false,
            };
            if old {
                disk::remove(&self.dir.join(name))?;
            }
        }
        Ok(())
    }
}
