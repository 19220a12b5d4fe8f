//! Repair: damaged files are moved to quarantine with the reason, intact parts are written to new files, and one new
//! manifest checkpoint puts these into effect. Nothing is edited in place, and without `apply` nothing is changed.
//!
//! Order: damaged files get a second name under `quarantine/`; a new log segment, new chunks, run and receipt files are
//! published; the checkpoint is published, which makes the repair take effect; files that it no longer names are
//! unlinked; sidecars are rebuilt. A crash before the checkpoint leaves the store as damaged as it was, a crash after
//! it leaves files that the next open removes.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::clock::wall_ms;
use crate::disk::{self, DiskPath, StagedFile};
use crate::error::{Error, ErrorCode, Result};
use crate::format::backup::REGISTRY_FILE;
use crate::format::body::block_columns;
use crate::format::chunk::{ChunkHead, ChunkWriter, SliceNumber, decode_chunk};
use crate::format::chunk_salvage::{ChunkSalvage, salvage_chunk};
use crate::format::manifest::{ChunkRecord, ReceiptsRecord, RunRecord, SeriesRecord, SnapshotRecord};
use crate::format::receipt::encode_receipts;
use crate::format::run::{RunOrigin, RunWriter};
use crate::format::tombstone::{
    DropFile, RegistrationFile, TombstoneFile, decode_tombstone, encode_drop, encode_registration, encode_tombstone,
};
use crate::store::check::verify::finding::{Finding, FindingKind, Severity};
use crate::store::check::verify::manifest::number_of;
use crate::store::check::verify::registry::DATASET_SNAPSHOT;
use crate::store::check::verify::run::verify_small_files;
use crate::store::directory::{DIRECTORIES, FORMAT_FILE, LOCK_FILE, check_no_backup, format_text};
use crate::store::manifest::edits::{Contents, Manifest, manifest_dir};
use crate::store::open::engine::{Engine, fresh_epoch};
use crate::store::open::recover::{ManifestTrust, RecoveredStore, highest_commit, read_store};
use crate::store::open::salvage;
use crate::store::options::StoreOptions;
use crate::store::publish::records::{kind_record, new_texts, series_record};
use crate::store::publish::series_files::{self, DROP_MARKER, REGISTRATION, tombstone_name};
use crate::store::read::chunk::ChunkFile;
use crate::store::read::chunk_paths::{chunk_name, series_dir};
use crate::store::read::run_files::{receipts_path, run_path};
use crate::store::read::series_state::{SeriesId, SeriesState};
use crate::store::read::sidecar;
use crate::store::read::store_state::StoreState;
use crate::store::registration::{def_json, parse_def};
use crate::store::wal::segments::{restart, segment_path};
use crate::types::width::to_usize;
use crate::types::{CellSlice, SeriesKey};

/// How a store is repaired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RepairOptions {
    /// Change the store; else only report what would be done.
    pub apply: bool,
    /// Rebuild the manifest from the other files alone, even if it is intact.
    pub rebuild_manifest: bool,
}

/// Minimum bytes of a log segment that was not truncated.
const SEGMENT_BYTES_MIN: u64 = 4 << 10;

/// Something a repair does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RepairAction {
    /// `rewrite`, `quarantine`, `remove` or `accept`.
    pub action: &'static str,
    /// File below the store; empty for the store itself.
    pub file: String,
    pub reason: String,
}

/// Rows that are lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LostRows {
    pub series: String,
    pub file: String,
    /// They are between these timestamps, in the unit of the series; `null` when unknown.
    pub ts_min: Option<i64>,
    pub ts_max: Option<i64>,
    /// How many at most; newer rows over them are not lost. `null` when unknown.
    pub rows: Option<u64>,
    pub reason: String,
}

/// A snapshot that is lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LostSnapshot {
    pub name: String,
    pub commit: u64,
}

/// A series that is lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LostSeries {
    pub series: String,
    pub series_id: u64,
    pub reason: String,
}

/// What a repair did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RepairReport {
    /// Whether there was nothing to do.
    pub clean: bool,
    pub applied: bool,
    pub actions: Vec<RepairAction>,
    pub lost: Vec<LostRows>,
    /// Closed ranges of log sequence numbers whose commits are lost.
    pub lost_lsns: Vec<(u64, u64)>,
    /// Log sequence number from which on commits may be lost without a trace: the end of the log is missing.
    pub lost_from: Option<u64>,
    /// Closed ranges of the commits in the lost parts of the log; `null` for an unknown end. The ranges can include
    /// commits of bulk loads, which are not in the log and not lost.
    pub lost_commits: Vec<(u64, Option<u64>)>,
    /// Snapshots that are lost, as far as their names can be read.
    pub lost_snapshots: Vec<LostSnapshot>,
    /// Series that are lost, as far as they can be read.
    pub lost_series: Vec<LostSeries>,
    /// Other information that only the manifest had, and that is lost.
    pub forgotten: Vec<String>,
    /// Commit of the repair.
    pub commit: u64,
    /// Series and rows the store has afterwards.
    pub series: u64,
    pub rows: u64,
}

impl RepairReport {
    /// Whether anything that was acknowledged is lost, or may be.
    pub fn has_lost(&self) -> bool {
        !self.lost.is_empty()
            || !self.lost_lsns.is_empty()
            || self.lost_from.is_some()
            || !self.lost_commits.is_empty()
            || !self.lost_snapshots.is_empty()
            || !self.lost_series.is_empty()
    }
}

/// Repairs a store that no process has open.
///
/// # Errors
/// `store_locked`, `unsupported_format`, and those of reading and writing files. Damage is no error.
pub fn repair(root: &DiskPath, options: RepairOptions) -> Result<RepairReport> {
    if !root.is_dir() {
        return Err(Error::new(ErrorCode::NotFound, format!("{} is not a store", root.display())));
    }
    check_no_backup(root)?;
    let lock = disk::Lock::acquire(&root.join(LOCK_FILE))?;
    let trust = if options.rebuild_manifest { ManifestTrust::FilesOnly } else { ManifestTrust::Manifest };
    let mut plan = RepairPlan::new(root, read_store(root, trust)?, options)?;
    plan.find_chunks()?;
    plan.find_tombstones()?;
    plan.find_lost_runs();
    plan.find_rest()?;
    let clean = plan.is_clean();
    if options.apply && !clean {
        plan.apply()?;
    }
    let mut report = plan.report();
    report.applied = options.apply && !clean;
    drop(lock);
    // Sidecars are derived from the chunks, so rebuilding them is not a repair of data.
    if options.apply {
        let store =
            Engine::open(root, false, StoreOptions { background_maintenance: false, ..StoreOptions::default() })?;
        let sidecars = store.maintenance.rebuild_sidecars()?;
        if sidecars.rebuilt > 0 {
            report.actions.push(RepairAction {
                action: "rewrite",
                file: "chunks".to_owned(),
                reason: format!("{} sidecars were damaged or missing", sidecars.rebuilt),
            });
        }
    }
    Ok(report)
}

/// A chunk that is rewritten from its intact blocks.
struct DamagedChunk {
    chunk: Arc<ChunkFile>,
    /// Its intact parts; `None` when there are none.
    left: Option<(Vec<u8>, ChunkSalvage)>,
}

struct RepairPlan<'a> {
    root: &'a DiskPath,
    read: RecoveredStore,
    options: RepairOptions,
    actions: Vec<RepairAction>,
    lost: Vec<LostRows>,
    lost_snapshots: Vec<LostSnapshot>,
    lost_series: Vec<LostSeries>,
    forgotten: Vec<String>,
    /// Damaged chunks by series.
    damaged: BTreeMap<SeriesId, Vec<DamagedChunk>>,
    /// Tombstone, registration and drop files to rewrite.
    small_files: Vec<(DiskPath, Vec<u8>)>,
    /// Files that are removed once the new manifest is in effect.
    removals: Vec<DiskPath>,
    /// Damaged files with the reason; each gets a second name under `quarantine/`.
    quarantine: Vec<(DiskPath, String)>,
    /// Checksums of all bytes of the chunks whose record has none.
    checksums: BTreeMap<u64, u32>,
    /// The state after the repair.
    state: StoreState,
}

impl<'a> RepairPlan<'a> {
    fn new(root: &'a DiskPath, read: RecoveredStore, options: RepairOptions) -> Result<Self> {
        let state = read.state.clone();
        let mut plan = Self {
            root,
            read,
            options,
            actions: Vec::new(),
            lost: Vec::new(),
            lost_snapshots: Vec::new(),
            lost_series: Vec::new(),
            forgotten: Vec::new(),
            damaged: BTreeMap::new(),
            small_files: Vec::new(),
            removals: Vec::new(),
            quarantine: Vec::new(),
            checksums: BTreeMap::new(),
            state,
        };
        plan.find_files()?;
        Ok(plan)
    }

    fn name(&self, path: &DiskPath) -> String {
        path.strip_prefix(self.root).unwrap_or(path).display().to_string()
    }

    fn plan_action(&mut self, action: &'static str, path: &DiskPath, reason: impl Into<String>) {
        let file = self.name(path);
        self.actions.push(RepairAction { action, file, reason: reason.into() });
    }

    fn plan_quarantine(&mut self, path: &DiskPath, reason: &str) {
        if path.exists() && self.quarantine.iter().all(|(known, _)| **known != **path) {
            self.plan_action("quarantine", path, reason);
            self.quarantine.push((path.clone(), reason.to_owned()));
        }
    }

    /// Damage that reading the store reported: FORMAT, manifest, log, run and receipt files.
    fn find_files(&mut self) -> Result<()> {
        if let Some(reason) = self.read.format_damage.clone() {
            self.plan_action("rewrite", &self.root.join("FORMAT"), reason);
        }
        for (path, reason) in self.read.manifest.damaged.clone() {
            self.plan_quarantine(&path, &reason);
        }
        if self.read.salvaged {
            let reason = if self.options.rebuild_manifest {
                "the manifest is rebuilt from the other files".to_owned()
            } else {
                format!("the manifest is rebuilt from the other files: {}", self.read.manifest.missing.join("; "))
            };
            self.plan_action("rewrite", &manifest_dir(self.root), reason);
            self.list_forgotten();
        }
        for (path, reason) in self.read.damaged_files.clone() {
            self.plan_quarantine(&path, &reason);
            self.plan_action("rewrite", &path, "its intact parts are written to a new file");
        }
        for place in self.read.log.damaged_places.clone() {
            self.actions.push(RepairAction { action: "accept", file: "wal".to_owned(), reason: place });
        }
        if !self.read.log.damaged_places.is_empty() {
            let dir = self.root.join("wal");
            for (number, _) in self.read.log.segments.clone() {
                let path = segment_path(&dir, number);
                let text = path.display().to_string();
                if let Some(reason) = self.read.log.damaged_places.iter().find(|place| place.contains(&text)).cloned() {
                    self.plan_quarantine(&path, &reason);
                }
            }
        }
        Ok(())
    }

    fn is_clean(&self) -> bool {
        self.actions.is_empty() && self.lost.is_empty() && !self.read.log.has_lost()
    }

    /// Lists the information that only the manifest had, item by item where the old manifest can be read.
    fn list_forgotten(&mut self) {
        let (old, new, state) = (&self.read.known, &self.read.manifest.contents, &self.read.state);
        if old.epoch.is_empty() || self.options.rebuild_manifest {
            self.forgotten.push(
                "snapshots that are no longer in the log, the state of the series at them, and kinds without series"
                    .to_owned(),
            );
        }
        for (name, record) in &old.snapshots {
            let commit = record.commit;
            if state.snapshots.get(name).is_none_or(|snapshot| snapshot.commit != commit) {
                self.lost_snapshots.push(LostSnapshot { name: name.clone(), commit });
            }
        }
        for name in old.kinds.keys().filter(|name| !state.kinds.contains_key(*name)) {
            self.forgotten.push(format!("kind {name}, of which no series exists"));
        }
        for name in &self.read.report.recovered_kinds {
            self.forgotten.push(format!("the definition of kind {name}, but for what its series have of it"));
        }
        for (id, record) in &old.series {
            let series = parse_def(&record.def).map_or_else(|_| format!("series {id}"), |def| def.key.to_string());
            match (state.series.get(id), new.series.get(id)) {
                (None, record_now) if record_now.is_none() || record.dropped_commit > 0 => {
                    let reason = match record.dropped_commit {
                        0 => "only the manifest had its registration".to_owned(),
                        commit => format!("it was dropped at commit {commit}; only snapshots still showed it"),
                    };
                    self.lost_series.push(LostSeries { series, series_id: *id, reason });
                }
                (Some(now), Some(record_now))
                    if record_now.def != record.def && def_json(&now.def).ok().as_ref() != Some(&record.def) =>
                {
                    let settings = changed_settings(&record.def, &record_now.def);
                    self.forgotten.push(format!("settings of {series}: {settings}"));
                }
                _ => {}
            }
        }
    }

    /// Series and snapshots that the log lost, and snapshots that lack lost commits.
    fn find_lost_names(&mut self) {
        for id in &self.read.report.lost_series {
            let reason =
                "its registration was in a part of the log that is lost; rows written to it later cannot be read";
            let (series, reason) = (format!("series {id}"), reason.to_owned());
            self.lost_series.push(LostSeries { series, series_id: *id, reason });
        }
        for (name, commit) in &self.read.report.lost_snapshots {
            if self.lost_snapshots.iter().all(|lost| lost.name != *name) {
                self.lost_snapshots.push(LostSnapshot { name: name.clone(), commit: *commit });
            }
        }
        let first = self.read.report.lost_commits.first().map(|(first, _)| *first);
        for (name, snapshot) in &self.read.state.snapshots {
            if first.is_some_and(|first| first <= snapshot.commit) {
                let commit = snapshot.commit;
                self.forgotten
                    .push(format!("snapshot {name} at commit {commit} is retained without the commits lost before it"));
            }
        }
    }

    /// Damage in files that reading a store does not open: redundant copies, and small files that only a rebuilt
    /// manifest would need.
    fn find_rest(&mut self) -> Result<()> {
        self.find_lost_names();
        for finding in verify_small_files(self.root)? {
            let path = self.root.join(&finding.file);
            match finding.kind {
                FindingKind::DamagedEdit
                | FindingKind::DamagedEditCopy
                | FindingKind::MissingEdit
                | FindingKind::DamagedCheckpoint
                | FindingKind::MissingCheckpoint
                    if finding.severity > Severity::Note =>
                {
                    self.plan_quarantine(&path, &finding.message);
                    let dir = manifest_dir(self.root);
                    let file = self.name(&dir);
                    if self.actions.iter().all(|action| action.action != "rewrite" || action.file != file) {
                        self.plan_action("rewrite", &dir, "a new checkpoint replaces it");
                    }
                }
                FindingKind::DamagedCurrent => {
                    self.plan_quarantine(&path, &finding.message);
                    self.plan_action("rewrite", &path, "it is recreated");
                }
                FindingKind::DamagedSegment
                | FindingKind::MissingSegment
                | FindingKind::DamagedFrame
                | FindingKind::StrayBytes
                    if self.read.log.damaged_places.is_empty() =>
                {
                    self.plan_quarantine(&path, &finding.message);
                    self.plan_action(
                        "rewrite",
                        &path,
                        "its frames are written to a new file, and a new log is started",
                    );
                }
                FindingKind::DamagedRegistry => self.quarantine_registry(&finding)?,
                FindingKind::DamagedTombstone => self.remove_tombstone(&path, &finding),
                FindingKind::DamagedRegistration => self.rewrite_registration(&path, &finding)?,
                FindingKind::DamagedDropMarker | FindingKind::StrayDropMarker => {
                    self.rewrite_drop_marker(&path, &finding)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Moves the registry to quarantine; the control plane creates a new one.
    fn quarantine_registry(&mut self, finding: &Finding) -> Result<()> {
        let path = self.root.join(REGISTRY_FILE);
        self.plan_quarantine(&path, &finding.message);
        self.plan_action("rewrite", &path, "an empty one is created");
        for end in ["", "-wal", "-shm", "-journal"] {
            let part = self.root.join(format!("{REGISTRY_FILE}{end}"));
            if part.found()? {
                if !end.is_empty() && end != "-shm" {
                    self.plan_quarantine(&part, &finding.message);
                }
                self.removals.push(part);
            }
        }
        let datasets = self.read.state.snapshots.keys().filter(|name| name.starts_with(DATASET_SNAPSHOT));
        let records = datasets.map(|name| format!("the description of {name}; its snapshot is retained"));
        let records: Vec<String> = records.collect();
        self.forgotten.push("descriptions of datasets, features and factors".to_owned());
        self.forgotten.extend(records);
        Ok(())
    }

    /// Removes the damaged tombstone file of a delete that is no longer needed.
    fn remove_tombstone(&mut self, path: &DiskPath, finding: &Finding) {
        if self.small_files.iter().any(|(known, _)| **known == **path) {
            return;
        }
        self.plan_quarantine(path, &finding.message);
        self.plan_action("remove", path, "no row depends on this delete any more");
        self.removals.push(path.clone());
    }

    fn rewrite_registration(&mut self, path: &DiskPath, finding: &Finding) -> Result<()> {
        self.plan_quarantine(path, &finding.message);
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let series = finding.series_id.and_then(|id| self.state.series.get(&id));
        let Some((series, commit)) = series.zip(number_of(&name, REGISTRATION)) else {
            self.plan_action("remove", path, "its series was dropped");
            self.removals.push(path.clone());
            return Ok(());
        };
        let file = RegistrationFile { series_id: series.id, commit, series: series.def.as_ref().clone() };
        self.small_files.push((path.clone(), encode_registration(&file)?));
        self.plan_action("rewrite", path, "the registration is rewritten from the manifest");
        Ok(())
    }

    fn rewrite_drop_marker(&mut self, path: &DiskPath, finding: &Finding) -> Result<()> {
        let series = finding.series_id.and_then(|id| self.state.series.get(&id)).cloned();
        self.plan_quarantine(path, &finding.message);
        match series.as_ref().map(|series| (series, series.dropped_commit)) {
            Some((series, Some(commit))) => {
                let (series_id, key) = (series.id, series.def.key.clone());
                self.small_files.push((path.clone(), encode_drop(&DropFile { series_id, key, commit })?));
                self.plan_action("rewrite", path, "the marker is rewritten from the manifest");
            }
            Some((_, None)) => {
                self.plan_action("remove", path, "its series was not dropped");
                self.removals.push(path.clone());
            }
            // The new manifest names no file of the series, so the series cannot reappear.
            None => {
                self.plan_action("remove", path, "no data of its series is left");
                self.removals.push(path.clone());
            }
        }
        Ok(())
    }

    /// Writes missing drop markers of series that a snapshot still needs.
    fn mark_dropped(&self) -> Result<()> {
        for series in self.state.series.values() {
            let Some(commit) = series.dropped_commit else { continue };
            let dir = series_dir(self.root, series.id);
            let path = dir.join(DROP_MARKER);
            if path.found()? {
                continue;
            }
            disk::create_dir(&dir)?;
            let marker = DropFile { series_id: series.id, key: series.def.key.clone(), commit };
            disk::publish(&self.root.join("tmp"), &path, &encode_drop(&marker)?)?;
        }
        Ok(())
    }

    /// Reads every chunk to the last byte.
    fn find_chunks(&mut self) -> Result<()> {
        for series in self.read.state.series.values().cloned().collect::<Vec<_>>() {
            for chunk in series.chunks.iter() {
                if chunk.lost_reason().is_some() {
                    continue;
                }
                let path = chunk.path().clone();
                if !path.found()? {
                    self.add_lost(&series.def.key, &path, Some(&chunk.record), "the file is missing");
                    self.plan_action("accept", &path, "the file is missing");
                    self.damaged
                        .entry(series.id)
                        .or_default()
                        .push(DamagedChunk { chunk: Arc::clone(chunk), left: None });
                    continue;
                }
                let bytes = disk::read(&path)?;
                let crc = crc32c::crc32c(&bytes);
                if chunk.record.file_crc == crc {
                    continue;
                }
                if chunk.record.file_crc == 0 && decode_chunk(&bytes).is_ok() {
                    self.checksums.insert(chunk.record.id, crc);
                    continue;
                }
                let left = match salvage_chunk(&bytes, Some(&chunk.record)) {
                    Ok(left) => left,
                    Err(error) if error.code() == ErrorCode::CorruptData => {
                        // Neither head nor footer is intact.
                        self.add_lost(&series.def.key, &path, Some(&chunk.record), error.detail());
                        self.plan_quarantine(&path, error.detail());
                        self.damaged
                            .entry(series.id)
                            .or_default()
                            .push(DamagedChunk { chunk: Arc::clone(chunk), left: None });
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                for place in &left.damaged {
                    self.lost.push(LostRows {
                        series: series.def.key.to_string(),
                        file: self.name(&path),
                        ts_min: place.ts.map(|(first, _)| first),
                        ts_max: place.ts.map(|(_, last)| last),
                        rows: place.rows,
                        reason: format!("block {} at byte {}: {}", place.position, place.offset, place.reason),
                    });
                }
                for position in &left.unproven {
                    let block = left.meta.blocks.get(*position);
                    self.lost.push(LostRows {
                        series: series.def.key.to_string(),
                        file: self.name(&path),
                        ts_min: block.map(|block| block.ts_min),
                        ts_max: block.map(|block| block.ts_max),
                        rows: block.map(|block| u64::from(block.rows)),
                        reason: format!("block {position}: no checksum proves that it is intact"),
                    });
                }
                let reason = if left.is_complete() && !left.damaged_dictionaries.is_empty() {
                    "a dictionary is damaged; every row is intact, and the series has the texts".to_owned()
                } else if left.is_complete() {
                    "bytes outside its rows are damaged; every row is intact".to_owned()
                } else {
                    match left.damaged.len() + left.unproven.len() {
                        1 => "1 of its blocks is damaged".to_owned(),
                        count => format!("{count} of its blocks are damaged"),
                    }
                };
                self.plan_quarantine(&path, &reason);
                self.plan_action("rewrite", &path, "its intact blocks are written to a new chunk");
                let left = (!left.intact.is_empty()).then_some((bytes, left));
                self.damaged.entry(series.id).or_default().push(DamagedChunk { chunk: Arc::clone(chunk), left });
            }
        }
        Ok(())
    }

    fn add_lost(&mut self, key: &SeriesKey, path: &DiskPath, record: Option<&ChunkRecord>, reason: &str) {
        self.lost.push(LostRows {
            series: key.to_string(),
            file: self.name(path),
            ts_min: record.map(|record| record.ts_min).filter(|ts| *ts != i64::MIN),
            ts_max: record.map(|record| record.ts_max).filter(|ts| *ts != i64::MAX),
            rows: record.filter(|record| record.ts_min != i64::MIN).map(|record| record.rows),
            reason: reason.to_owned(),
        });
    }

    /// Rows of damaged run files, and of chunks that no manifest knows and no file has.
    fn find_lost_runs(&mut self) {
        for series in self.read.state.series.values().cloned().collect::<Vec<_>>() {
            for chunk in series.chunks.iter() {
                if let Some(reason) = chunk.lost_reason() {
                    let is_of_run = chunk.record.partition == salvage::LOST_RUN;
                    let dir = if is_of_run { self.root.join("runs") } else { series_dir(self.root, series.id) };
                    let reason = reason.to_owned();
                    self.add_lost(&series.def.key, &dir, Some(&chunk.record), &reason);
                    self.damaged
                        .entry(series.id)
                        .or_default()
                        .push(DamagedChunk { chunk: Arc::clone(chunk), left: None });
                }
            }
        }
    }

    /// Missing or damaged tombstone files; each is rewritten from the state.
    fn find_tombstones(&mut self) -> Result<()> {
        for series in self.read.state.series.values().cloned().collect::<Vec<_>>() {
            for t in series.needed_tombstones() {
                let path = series_dir(self.root, series.id).join(tombstone_name(t.commit));
                let is_intact = path.found()?
                    && disk::read(&path).and_then(|bytes| decode_tombstone(&bytes)).is_ok_and(|file| {
                        (file.series_id, file.commit, file.start, file.end) == (series.id, t.commit, t.start, t.end)
                    });
                if is_intact {
                    continue;
                }
                // A delete that only the log has so far has no file yet.
                let known = (series.id, t.commit, t.start, t.end);
                if self.read.manifest.contents.tombstones.contains(&known) {
                    self.plan_quarantine(&path, "the tombstone is damaged");
                    self.plan_action("rewrite", &path, "the tombstone is rewritten from the manifest");
                }
                let key = series.def.key.clone();
                let file = TombstoneFile { series_id: series.id, key, commit: t.commit, start: t.start, end: t.end };
                self.small_files.push((path, encode_tombstone(&file)?));
            }
        }
        Ok(())
    }

    fn report(&self) -> RepairReport {
        RepairReport {
            clean: self.is_clean(),
            applied: false,
            actions: self.actions.clone(),
            lost: self.lost.clone(),
            lost_lsns: self.read.log.lost.clone(),
            lost_from: self.read.log.lost_from,
            lost_commits: self.read.report.lost_commits.clone(),
            lost_snapshots: self.lost_snapshots.clone(),
            lost_series: self.lost_series.clone(),
            forgotten: self.forgotten.clone(),
            commit: self.state.commit,
            series: self.state.registered().count() as u64,
            rows: self.state.registered().map(|series| series.rows).sum(),
        }
    }

    /// Carries out the plan, which takes effect with the checkpoint near the end.
    fn apply(&mut self) -> Result<()> {
        let root = self.root;
        let tmp = root.join("tmp");
        for name in DIRECTORIES {
            disk::create_dir(&root.join(name))?;
        }
        self.keep_damaged()?;
        if self.read.format_damage.is_some() {
            disk::replace(&tmp, &root.join(FORMAT_FILE), format_text().as_bytes())?;
            disk::sync_dir(root)?;
        }
        for (path, bytes) in &self.small_files {
            if let Some(dir) = path.parent() {
                disk::create_dir(&dir)?;
                disk::replace(&tmp, path, bytes)?;
                disk::sync_dir(&dir)?;
            }
        }
        self.mark_dropped()?;
        let lost_lsns: u64 = self.read.log.lost.iter().map(|(first, last)| last - first + 1).sum();
        // Commits that are lost may have had numbers after the last one that exists.
        if self.read.log.has_lost() {
            self.state.commit = self.state.commit.max(highest_commit(&self.read.known));
        }
        let lost_frames = lost_lsns.saturating_add(self.read.log.lost_frames_max);
        self.state.commit += lost_frames + u64::from(!self.damaged.is_empty());
        let mut next_file_id = self.read.manifest.contents.next_file_id.max(self.read.known.next_file_id);
        let removed_chunks = self.replace_chunks(&mut next_file_id)?;
        let contents = self.new_contents(next_file_id)?;
        Manifest::publish_whole(root, &contents)?;
        self.unlink_removed(&contents, &removed_chunks)
    }

    /// Hard-links every damaged file into `quarantine/`, with the reason next to it.
    fn keep_damaged(&self) -> Result<()> {
        if self.quarantine.is_empty() {
            return Ok(());
        }
        let base = self.root.join("quarantine");
        let mut number = wall_ms();
        while base.join(number.to_string()).found()? {
            number += 1;
        }
        let dir = base.join(number.to_string());
        disk::create_dir(&dir)?;
        for (path, reason) in &self.quarantine {
            let name = self.name(path);
            let flat = name.replace('/', "_");
            let kept = dir.join(&flat);
            kept.disk().link(path, &kept).map_err(|error| Error::io("keep", path, &error))?;
            let note = serde_json::json!({"file": name, "reason": reason, "set_aside_ms": wall_ms()});
            disk::publish(
                &self.root.join("tmp"),
                &dir.join(format!("{flat}.reason.json")),
                note.to_string().as_bytes(),
            )?;
        }
        disk::sync_dir(&dir)
    }

    /// Writes the intact blocks of damaged chunks into new ones and puts those into the state. Returns the records of
    /// the old ones.
    fn replace_chunks(&mut self, next_file_id: &mut u64) -> Result<Vec<ChunkRecord>> {
        let mut removed_chunks = Vec::new();
        let ids: Vec<SeriesId> = self.damaged.keys().copied().collect();
        for (id, damaged) in std::mem::take(&mut self.damaged) {
            let Some(series) = self.state.series.get(&id) else { continue };
            let mut next = series.touched(self.state.commit, &self.state.snapshot_commits);
            let mut chunks = next.chunks.to_vec();
            for DamagedChunk { chunk, left } in damaged {
                chunks.retain(|other| other.record.id != chunk.record.id);
                if let Some((bytes, left)) = left {
                    let record = self.write_left(&next, &chunk.record, &bytes, &left, next_file_id)?;
                    chunks.push(Arc::new(ChunkFile::new(self.root, record)));
                }
                if chunk.lost_reason().is_none() {
                    removed_chunks.push(chunk.record.clone());
                }
            }
            next.chunks = Arc::new(chunks.into_iter().collect());
            self.state.put(next);
        }
        salvage::recount(&mut self.state, Some(&ids));
        Ok(removed_chunks)
    }

    fn write_left(
        &self,
        series: &SeriesState,
        old: &ChunkRecord,
        bytes: &[u8],
        left: &ChunkSalvage,
        next_file_id: &mut u64,
    ) -> Result<ChunkRecord> {
        let dir = series_dir(self.root, series.id);
        while dir.join(chunk_name(&old.partition, *next_file_id)).found()? {
            *next_file_id += 1;
        }
        let id = *next_file_id;
        *next_file_id += 1;
        let path = dir.join(chunk_name(&old.partition, id));
        let head = ChunkHead {
            series_id: series.id,
            chunk_id: id,
            partition: old.partition.clone(),
            series: &left.meta.series,
            commit_lo: old.commit_lo,
            commit_hi: old.commit_hi,
            replaces: vec![old.id],
            slice: SliceNumber::ONLY,
            dictionaries: &series.dictionaries,
        };
        let mut staged = StagedFile::create(&self.root.join("tmp"))?;
        let fail = |error: std::io::Error| Error::io("write", &path, &error);
        let mut writer = ChunkWriter::new(&mut staged, head).map_err(fail)?;
        for block in left.intact.iter().filter_map(|position| left.meta.blocks.get(*position)) {
            let rows = to_usize(block.rows);
            let body = to_usize(block.offset + u64::from(block.header_bytes));
            let columns = block_columns(bytes, body, &left.meta.series, rows, block.nulls)?;
            let columns: Vec<CellSlice<'_>> = columns.iter().map(|column| column.slice(0, rows)).collect();
            writer.write_block(&columns).map_err(fail)?;
        }
        let (_, summary) = writer.finish().map_err(fail)?;
        if !staged.publish(&path)? {
            return Err(Error::internal(format!("{} was created by another process or thread", path.display())));
        }
        Ok(ChunkRecord {
            id,
            series_id: series.id,
            partition: old.partition.clone(),
            rows: summary.meta.rows,
            ts_min: summary.meta.ts_min,
            ts_max: summary.meta.ts_max,
            commit_lo: old.commit_lo,
            commit_hi: old.commit_hi,
            file_bytes: summary.file_bytes,
            file_crc: summary.file_crc,
            footer_crc: summary.footer_crc,
            texts: summary.meta.texts(),
            block_crcs: summary.meta.blocks.iter().map(|block| block.crc).collect(),
        })
    }

    /// Publishes the files that the new manifest needs, and returns its contents.
    fn new_contents(&self, mut next_file_id: u64) -> Result<Contents> {
        let (root, read, state) = (self.root, &self.read, &self.state);
        let segments = read.log.segments.iter().map(|(number, _)| *number);
        let segment = segments.chain([read.start.segment, read.start.last_segment]).max().unwrap_or(0) + 1;
        let first_lsn = read.log.next_lsn.max(read.log.durable_lsn + 1).saturating_add(read.log.lost_frames_max);
        let bytes = read.log.segments.iter().map(|(_, bytes)| *bytes).find(|bytes| *bytes >= SEGMENT_BYTES_MIN);
        let bytes = bytes.unwrap_or(StoreOptions::default().wal_segment_bytes);
        restart(root, segment, first_lsn, bytes)?;
        let lost = self.report().has_lost();
        let needs_new_epoch = read.salvaged || lost || read.known.epoch.is_empty();
        let mut contents = Contents {
            number: read.manifest.highest.max(read.known.number) + 1,
            epoch: if needs_new_epoch { fresh_epoch(root)? } else { read.known.epoch.clone() },
            base_commit: state.commit,
            wal_first_segment: segment,
            wal_first_lsn: first_lsn,
            next_series_id: read.next_series_id.max(read.manifest.contents.next_series_id),
            waiting: if read.salvaged { BTreeMap::new() } else { read.known.waiting.clone() },
            ..Contents::default()
        };
        for series in state.series.values() {
            // No other file may have it as it is now, and rows that come later need it.
            series_files::write_registration(root, series, Some(&SeriesRecord::default()))?;
            contents.series.insert(series.id, series_record(series, series.sealed_commit)?);
            contents.texts.extend(new_texts(series, &Contents::default())?.map(|texts| (series.id, texts)));
            for t in series.needed_tombstones() {
                contents.tombstones.insert((series.id, t.commit, t.start, t.end));
            }
            for chunk in series.chunks.iter() {
                let mut record = chunk.record.clone();
                if let Some(crc) = self.checksums.get(&record.id) {
                    record.file_crc = *crc;
                }
                contents.chunks.insert(record.id, record);
            }
        }
        for (name, snapshot) in &state.snapshots {
            let (commit, created_ms) = (snapshot.commit, snapshot.created_ms);
            contents.snapshots.insert(name.clone(), SnapshotRecord { name: name.clone(), commit, created_ms });
        }
        for (name, kind) in &state.kinds {
            contents.kinds.insert(name.clone(), kind_record(kind)?);
        }
        if let Some(run) = self.write_tail(&mut next_file_id)? {
            contents.runs.insert(run.id, run);
        }
        let newest_ms = state.receipts.values().map(|receipt| receipt.wall_ms).max();
        if let Some(newest_ms) = newest_ms {
            let bytes = encode_receipts(state.receipts.values().map(Arc::as_ref));
            let id = free_id(root, &mut next_file_id, receipts_path);
            disk::publish(&root.join("tmp"), &receipts_path(root, id), &bytes)?;
            contents.receipts.insert(id, ReceiptsRecord { id, bytes: bytes.len() as u64, newest_ms });
        }
        contents.next_file_id = next_file_id;
        Ok(contents)
    }

    /// Writes every row that is in no chunk into one run file.
    fn write_tail(&self, next_file_id: &mut u64) -> Result<Option<RunRecord>> {
        let base_commit = self.state.commit;
        let mut staged = StagedFile::create(&self.root.join("tmp"))?;
        let path = staged.path().clone();
        let fail = |error: std::io::Error| Error::io("write", &path, &error);
        let mut writer = RunWriter::new(&mut staged, RunOrigin { level: 0, base_commit }).map_err(fail)?;
        for series in self.state.series.values() {
            for run in series.tail() {
                let columns = run.slices();
                let commits = (run.commit_lo, run.commit_hi);
                writer.add(series.id, &run.def, &series.dictionaries, commits, &columns).map_err(fail)?;
            }
        }
        if writer.is_empty() {
            return Ok(None);
        }
        let (_, bytes, crc) = writer.finish().map_err(fail)?;
        let id = free_id(self.root, next_file_id, run_path);
        staged.publish(&run_path(self.root, id))?;
        Ok(Some(RunRecord { id, bytes, crc, level: 0, base_commit }))
    }

    /// Unlinks files that the manifest no longer names. After a crash the next open removes the rest.
    fn unlink_removed(&self, contents: &Contents, removed_chunks: &[ChunkRecord]) -> Result<()> {
        let root = self.root;
        for record in removed_chunks {
            let path = series_dir(root, record.series_id).join(chunk_name(&record.partition, record.id));
            disk::remove(&path)?;
            sidecar::remove_all(&path)?;
        }
        for name in disk::list(&manifest_dir(root))? {
            let number = name.split_once('.').and_then(|(number, _)| number.parse::<u64>().ok());
            if number.is_some_and(|number| number < contents.number) {
                disk::remove(&manifest_dir(root).join(name))?;
            }
        }
        for (number, _) in &self.read.log.segments {
            disk::remove(&segment_path(&root.join("wal"), *number))?;
        }
        for path in self.read.damaged_files.iter().map(|(path, _)| path).chain(&self.removals) {
            disk::remove(path)?;
        }
        Ok(())
    }
}

/// The settings that differ between two registrations, as they were in the first.
fn changed_settings(old: &str, new: &str) -> String {
    let read =
        |text: &str| serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text).unwrap_or_default();
    let (old, new) = (read(old), read(new));
    let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let changed = names.into_iter().filter(|name| old.get(*name) != new.get(*name));
    let changed = changed.map(|name| match old.get(name) {
        Some(value) => format!("{name} was {value}"),
        None => format!("{name} was not set"),
    });
    changed.collect::<Vec<_>>().join(", ")
}

fn free_id(root: &DiskPath, next: &mut u64, path: fn(&DiskPath, u64) -> DiskPath) -> u64 {
    while path(root, *next).exists() {
        *next += 1;
    }
    let id = *next;
    *next += 1;
    id
}
