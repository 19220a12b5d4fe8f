//! Repair: what is damaged is set aside with the reason beside it, what is whole is put into new files, and one new
//! manifest checkpoint makes them count. Nothing is edited in place, and without `apply` nothing is changed at all.
//!
//! Order: damaged files get a second name under `quarantine/`; a new log segment, new chunks, run and receipt files are
//! published; the checkpoint is published, which is the moment at which the repair happened; what it gave up is unlinked;
//! sidecars are put in order. A crash before the checkpoint leaves the store as damaged as it was, one behind it leaves
//! files that the next opening removes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use super::checkpoint::{receipts_path, run_path};
use super::chunk::{ChunkFile, MapCache, chunk_name, series_dir};
use super::log::{self, segment_path};
use super::manifest::{self, Contents, manifest_dir};
use super::recover::{Read, Trust, format_text, read_store};
use super::seal::{series_record, tombstone_name};
use super::sidecar;
use super::state::{SeriesId, SeriesState, State};
use super::{Store, StoreOptions, salvage, wall_ms};
use crate::disk::{self, DiskPath, Staged};
use crate::error::{Error, ErrorCode, Result};
use crate::format::chunk::{ChunkHead, ChunkWriter};
use crate::format::chunk_salvage::{ChunkSalvage, salvage_chunk};
use crate::format::manifest::{ChunkRecord, ReceiptsRecord, RunRecord, SnapshotRecord};
use crate::format::receipt::encode_receipts;
use crate::format::run::{RunOrigin, RunWriter};
use crate::format::tombstone::{TombstoneFile, decode_tombstone, encode_tombstone};
use crate::types::SeriesKey;

/// How a store is repaired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RepairOptions {
    /// Change the store; else only say what would be done.
    pub apply: bool,
    /// Make the manifest anew from the other files alone, whatever it says.
    pub rebuild_manifest: bool,
}

/// Something a repair does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RepairAction {
    /// `rewrite`, `quarantine`, `remove` or `accept`.
    pub action: &'static str,
    /// File below the store; empty for the store as a whole.
    pub file: String,
    pub reason: String,
}

/// Rows that are lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LostRows {
    pub series: String,
    pub file: String,
    /// They lie between these timestamps, in the unit of the series; `null` when nobody knows.
    pub ts_min: Option<i64>,
    pub ts_max: Option<i64>,
    /// How many at most; newer rows over them are not lost. `null` when nobody knows.
    pub rows: Option<u64>,
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
    /// What only the manifest knew, and is not known any more.
    pub forgotten: Vec<String>,
    /// Commit of the repair.
    pub commit: u64,
    /// Series and rows the store has afterwards.
    pub series: u64,
    pub rows: u64,
}

/// Repairs a store that no process has open.
///
/// # Errors
/// `store_locked`, `unsupported_format`, and those of reading and writing files. Damage is no error.
pub fn repair(root: &DiskPath, options: RepairOptions) -> Result<RepairReport> {
    if !root.is_dir() {
        return Err(Error::new(ErrorCode::NotFound, format!("{} holds no store", root.display())));
    }
    let lock = disk::Lock::acquire(&root.join(super::recover::LOCK_FILE))?;
    let trust = if options.rebuild_manifest { Trust::FilesOnly } else { Trust::Manifest };
    let mut plan = Plan::new(root, read_store(root, trust)?, options)?;
    plan.find_chunks()?;
    plan.find_tombstones()?;
    plan.find_lost_runs();
    plan.recount();
    let mut report = plan.report();
    if options.apply && !report.clean {
        plan.apply()?;
        report.applied = true;
    }
    drop(lock);
    // Sidecars are derived: any that are damaged are written anew, which is no loss and no repair of data.
    if options.apply {
        let store = Store::open_on(root, false, StoreOptions { upkeep: false, ..StoreOptions::default() })?;
        let sidecars = store.rebuild_sidecars()?;
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

/// A chunk that is written anew from its whole blocks.
struct Damaged {
    chunk: Arc<ChunkFile>,
    /// What is left of it; `None` for nothing.
    left: Option<(Vec<u8>, ChunkSalvage)>,
}

struct Plan<'a> {
    root: &'a DiskPath,
    read: Read,
    options: RepairOptions,
    actions: Vec<RepairAction>,
    lost: Vec<LostRows>,
    forgotten: Vec<String>,
    /// Damaged chunks by series.
    damaged: BTreeMap<SeriesId, Vec<Damaged>>,
    /// Tombstone files to write anew.
    tombstones: Vec<(DiskPath, Vec<u8>)>,
    /// Damaged files, to be kept under `quarantine/`.
    quarantine: Vec<(DiskPath, String)>,
    /// The state after the repair.
    state: State,
}

impl<'a> Plan<'a> {
    fn new(root: &'a DiskPath, read: Read, options: RepairOptions) -> Result<Self> {
        let state = read.state.clone();
        let mut plan = Self {
            root,
            read,
            options,
            actions: Vec::new(),
            lost: Vec::new(),
            forgotten: Vec::new(),
            damaged: BTreeMap::new(),
            tombstones: Vec::new(),
            quarantine: Vec::new(),
            state,
        };
        plan.find_files()?;
        Ok(plan)
    }

    fn name(&self, path: &DiskPath) -> String {
        path.strip_prefix(self.root).unwrap_or(path).display().to_string()
    }

    fn act(&mut self, action: &'static str, path: &DiskPath, reason: impl Into<String>) {
        let file = self.name(path);
        self.actions.push(RepairAction { action, file, reason: reason.into() });
    }

    fn set_aside(&mut self, path: &DiskPath, reason: &str) {
        if path.exists() && self.quarantine.iter().all(|(known, _)| **known != **path) {
            self.act("quarantine", path, reason);
            self.quarantine.push((path.clone(), reason.to_owned()));
        }
    }

    /// Damage that reading the store told of: FORMAT, manifest, log, run and receipt files.
    fn find_files(&mut self) -> Result<()> {
        if let Some(reason) = self.read.format_damage.clone() {
            self.act("rewrite", &self.root.join("FORMAT"), reason);
        }
        for (path, reason) in self.read.manifest.damaged.clone() {
            self.set_aside(&path, &reason);
        }
        if self.read.salvaged {
            let reason = if self.options.rebuild_manifest {
                "the manifest is made anew from the other files".to_owned()
            } else {
                format!("the manifest is made anew from the other files: {}", self.read.manifest.missing.join("; "))
            };
            self.act("rewrite", &manifest_dir(self.root), reason);
            self.forget();
        }
        for (path, reason) in self.read.damaged_files.clone() {
            self.set_aside(&path, &reason);
            self.act("rewrite", &path, "what is whole of it goes into a new file");
        }
        for place in self.read.log.rot.clone() {
            self.actions.push(RepairAction { action: "accept", file: "wal".to_owned(), reason: place });
        }
        if !self.read.log.rot.is_empty() {
            let dir = self.root.join("wal");
            for (number, _) in self.read.log.segments.clone() {
                let path = segment_path(&dir, number);
                let text = path.display().to_string();
                if let Some(reason) = self.read.log.rot.iter().find(|place| place.contains(&text)).cloned() {
                    self.set_aside(&path, &reason);
                }
            }
        }
        Ok(())
    }

    /// What only the manifest knew.
    fn forget(&mut self) {
        let (old, new) = (&self.read.known, &self.read.manifest.contents);
        if old.epoch.is_empty() || self.options.rebuild_manifest {
            self.forgotten.push(
                "snapshots that are not in the log any more, and changes of registrations (retention, calendar, value \
                 indexes, description) behind the last sealed row of a series"
                    .to_owned(),
            );
        }
        let lost: Vec<String> = old
            .series
            .iter()
            .filter(|(id, record)| record.dropped_commit == 0 && !new.series.contains_key(id))
            .map(|(id, _)| format!("series {id}"))
            .collect();
        self.forgotten.extend(lost);
    }

    /// Reads every chunk to the last byte.
    fn find_chunks(&mut self) -> Result<()> {
        for series in self.read.state.series.values().cloned().collect::<Vec<_>>() {
            for chunk in series.chunks.iter() {
                if chunk.lost_reason().is_some() {
                    continue;
                }
                let path = chunk.path().clone();
                if !path.exists() {
                    self.lose(&series.def.key, &path, Some(&chunk.record), "the file is missing");
                    self.act("accept", &path, "the file is missing");
                    self.damaged.entry(series.id).or_default().push(Damaged { chunk: Arc::clone(chunk), left: None });
                    continue;
                }
                let bytes = disk::read(&path)?;
                let crc = crc32c::crc32c(&bytes);
                if chunk.record.file_crc == crc || (chunk.record.file_crc == 0 && whole(&bytes, &chunk.record)) {
                    continue;
                }
                let left = salvage_chunk(&bytes, Some(&chunk.record))?;
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
                        reason: format!("block {position}: nothing proves that it is whole"),
                    });
                }
                let reason = if left.is_complete() {
                    "bytes outside its rows are damaged; every row is whole".to_owned()
                } else {
                    format!("{} of its blocks are damaged", left.damaged.len() + left.unproven.len())
                };
                self.set_aside(&path, &reason);
                self.act("rewrite", &path, "its whole blocks go into a new chunk");
                let left = (!left.intact.is_empty()).then_some((bytes, left));
                self.damaged.entry(series.id).or_default().push(Damaged { chunk: Arc::clone(chunk), left });
            }
        }
        Ok(())
    }

    fn lose(&mut self, key: &SeriesKey, path: &DiskPath, record: Option<&ChunkRecord>, reason: &str) {
        self.lost.push(LostRows {
            series: key.to_string(),
            file: self.name(path),
            ts_min: record.map(|record| record.ts_min).filter(|ts| *ts != i64::MIN),
            ts_max: record.map(|record| record.ts_max).filter(|ts| *ts != i64::MAX),
            rows: record.filter(|record| record.ts_min != i64::MIN).map(|record| record.rows),
            reason: reason.to_owned(),
        });
    }

    /// Rows of damaged run files.
    fn find_lost_runs(&mut self) {
        for series in self.read.state.series.values().cloned().collect::<Vec<_>>() {
            for chunk in series.chunks.iter() {
                if let Some(reason) = chunk.lost_reason() {
                    let (reason, runs) = (reason.to_owned(), self.root.join("runs"));
                    self.lose(&series.def.key, &runs, Some(&chunk.record), &reason);
                    self.damaged.entry(series.id).or_default().push(Damaged { chunk: Arc::clone(chunk), left: None });
                }
            }
        }
    }

    /// Tombstone files that the manifest makes superfluous to lose.
    fn find_tombstones(&mut self) -> Result<()> {
        for series in self.read.state.series.values().cloned().collect::<Vec<_>>() {
            for t in series.needed_tombstones() {
                let path = series_dir(self.root, series.id).join(tombstone_name(t.commit));
                let whole = path.exists()
                    && disk::read(&path).and_then(|bytes| decode_tombstone(&bytes)).is_ok_and(|file| {
                        (file.series_id, file.commit, file.start, file.end) == (series.id, t.commit, t.start, t.end)
                    });
                if whole {
                    continue;
                }
                // One that only the log has so far has no file yet.
                let known = (series.id, t.commit, t.start, t.end);
                if self.read.manifest.contents.tombstones.contains(&known) {
                    self.set_aside(&path, "the tombstone is damaged");
                    self.act("rewrite", &path, "the tombstone is written anew from the manifest");
                }
                let key = series.def.key.clone();
                let file = TombstoneFile { series_id: series.id, key, commit: t.commit, start: t.start, end: t.end };
                self.tombstones.push((path, encode_tombstone(&file)?));
            }
        }
        Ok(())
    }

    /// The state with what is left, counted anew where rows were lost.
    fn recount(&mut self) {
        if self.damaged.is_empty() {
            return;
        }
        self.state.commit += 1;
    }

    fn report(&self) -> RepairReport {
        RepairReport {
            clean: self.actions.is_empty() && self.lost.is_empty(),
            applied: false,
            actions: self.actions.clone(),
            lost: self.lost.clone(),
            lost_lsns: self.read.log.lost.clone(),
            forgotten: self.forgotten.clone(),
            commit: self.state.commit,
            series: self.state.registered().count() as u64,
            rows: self.state.registered().map(|series| series.rows).sum(),
        }
    }
}
