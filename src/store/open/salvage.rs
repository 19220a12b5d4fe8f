//! What a store consists of according to its files alone: for a manifest or a run file that is damaged or missing.
//! Nothing is changed on disk.
//!
//! - Chunks say what they hold, and which of them count (`current_chunks`). Tombstone files say what was deleted, drop markers what was dropped, run files hold
//!   their registrations. What is left of the manifest is believed where nothing newer contradicts it.
//! - The log is replayed from its start over all of it: rows that are in files already are the same rows.
//! - Rows that cannot be read are in the state as a chunk that fails with `corrupt_data`, so that no reader takes them
//!   for absent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::disk::mmap::Map;
use crate::disk::{self, DiskPath};
use crate::error::{Error, ErrorCode, Result};
use crate::format::chunk::{self, ChunkMeta};
use crate::format::chunk_salvage::salvage_chunk;
use crate::format::manifest::{ChunkRecord, ReceiptsRecord, RunRecord, SeriesRecord, TextsRecord, ViewRecord};
use crate::format::receipt::{Receipt, salvage_receipts};
use crate::format::run::{RunEntry, salvage_run};
use crate::format::texts::{ColumnTexts, put_texts};
use crate::format::tombstone::{decode_drop, decode_registration, decode_tombstone};
use crate::format::wal::{SEGMENT_HEADER_BYTES, decode_segment_header, first_frame};
use crate::store::manifest::edits::Contents;
use crate::store::open::current_chunks::{
    CurrentChunks, FoundChunk, KnownOfSeries, MissingSlice, clash, current_chunks,
};
use crate::store::publish::series_files::{DROP_MARKER, REGISTRATION};
use crate::store::read::chunk::{ChunkFile, MapCache};
use crate::store::read::chunk_paths::{chunk_id_of, chunk_name, series_dir};
use crate::store::read::merge_source::coalesce;
use crate::store::read::run::Run;
use crate::store::read::run_files::{map_run, receipts_path, run_path};
use crate::store::read::series_state::{SeriesId, SeriesState};
use crate::store::read::store_state::StoreState;
use crate::store::read::tombstone::Tombstone;
use crate::store::registration::{def_json, parse_def};
use crate::store::wal::segments::{segment_number, segment_path};
use crate::types::width::to_usize;
use crate::types::{Column, ColumnType, Dictionary, SeriesDef};

/// Whether there are files that only a store with a manifest has.
pub fn holds_data(root: &DiskPath) -> Result<bool> {
    if !disk::list(&root.join("chunks"))?.is_empty() || !disk::list(&root.join("runs"))?.is_empty() {
        return Ok(true);
    }
    let dir = root.join("wal");
    let segments: Vec<u64> = disk::list(&dir)?.iter().filter_map(|name| segment_number(name)).collect();
    match segments.as_slice() {
        [] => Ok(false),
        // The first one exists before the first edit, without a frame.
        [1] => Ok(first_frame(&disk::read(&segment_path(&dir, 1))?).is_some()),
        _ => Ok(true),
    }
}

/// Partition of the chunk that stands for lost rows of a run file.
pub const LOST_RUN: &str = "lost";

/// A series whose directory has the marker of a drop, and the commit of the drop; `None` when the marker is damaged.
pub type MarkedFiles = (SeriesId, Option<u64>);

/// What a store consists of according to its files.
#[derive(Debug, Default)]
pub struct SalvagedFiles {
    pub contents: Contents,
    /// The series that were dropped: they are among the contents, since a snapshot may still show them, until
    /// [`drop_marked`] removes them.
    pub marked: Vec<MarkedFiles>,
    /// Rows that are lost with the files of chunks.
    pub missing: Vec<MissingSlice>,
    /// Chunks that others name as replaced.
    replaced: BTreeSet<u64>,
}

/// Everything in the files, with what is `known` from the manifest. `begins` is the segment and LSN of the start of the
/// log, when an intact manifest has it.
pub fn contents(root: &DiskPath, known: &Contents, begins: Option<(u64, u64)>) -> Result<SalvagedFiles> {
    let mut salvaged = SalvagedFiles::default();
    let mut found = Contents {
        number: known.number,
        epoch: known.epoch.clone(),
        snapshots: known.snapshots.clone(),
        texts: known.texts.clone(),
        kinds: known.kinds.clone(),
        next_series_id: known.next_series_id,
        next_file_id: known.next_file_id,
        ..Contents::default()
    };
    found.tombstones.extend(&known.tombstones);
    let mut newest = NewestRegistrations::default();
    for name in disk::list(&root.join("chunks"))? {
        let Ok(series_id) = name.parse::<u64>() else { continue };
        found.next_series_id = found.next_series_id.max(series_id + 1);
        let (current, marked) = read_series_dir(root, series_id, known, &mut found, &mut newest)?;
        salvaged.marked.extend(marked.map(|commit| (series_id, commit)));
        salvaged.missing.extend(current.missing);
        salvaged.replaced.extend(current.replaced);
        found.chunks.extend(current.chunks.into_iter().map(|record| (record.id, record)));
    }
    add_missing_chunks(root, known, &salvaged.replaced, &mut found);
    read_runs_dir(root, known, &mut found, &mut newest)?;
    let snapshot_commits: Vec<u64> = known.snapshots.values().map(|snapshot| snapshot.commit).collect();
    let mut ids: BTreeSet<SeriesId> = known.series.keys().copied().collect();
    ids.extend(newest.0.keys());
    for id in &ids {
        if let Some(record) = newest.record(*id, known.series.get(id), &snapshot_commits)? {
            found.series.insert(*id, record);
        }
        found.next_series_id = found.next_series_id.max(id + 1);
    }
    found.chunks.retain(|_, chunk| found.series.contains_key(&chunk.series_id));
    found.tombstones.retain(|(series_id, ..)| found.series.contains_key(series_id));
    found.texts.retain(|series_id, _| found.series.contains_key(series_id));
    (found.wal_first_segment, found.wal_first_lsn) = log_start(root, known, begins)?;
    salvaged.contents = found;
    Ok(salvaged)
}

/// Drops the series that have the marker of a drop, once the log was replayed: they stay out of sight while a snapshot
/// shows them, and go else. So do those whose drop the manifest knows and that no snapshot shows any more.
pub fn drop_marked(state: &mut StoreState, marked: &[MarkedFiles]) {
    for (id, commit) in marked {
        let Some(series) = state.series.get(id).filter(|series| series.dropped_commit.is_none()) else { continue };
        let commit = commit.unwrap_or(series.last_commit + 1);
        state.drop_series(*id, commit);
    }
    let snapshot_commits = Arc::clone(&state.snapshot_commits);
    let gone = state.series.values().filter(|series| !series.is_reachable(&snapshot_commits));
    let gone: Vec<SeriesId> = gone.map(|series| series.id).collect();
    for id in gone {
        state.remove(id);
    }
}

/// The newest registration of each series that files have, and the commits they span.
#[derive(Default)]
struct NewestRegistrations(BTreeMap<SeriesId, FoundRegistration>);

struct FoundRegistration {
    def: SeriesDef,
    commit_lo: u64,
    commit_hi: u64,
}

impl NewestRegistrations {
    fn add(&mut self, id: SeriesId, def: &SeriesDef, (commit_lo, commit_hi): (u64, u64)) {
        let known = self.0.entry(id).or_insert_with(|| FoundRegistration { def: def.clone(), commit_lo, commit_hi });
        known.commit_lo = known.commit_lo.min(commit_lo);
        if commit_hi > known.commit_hi {
            known.commit_hi = commit_hi;
            known.def = def.clone();
        }
    }

    /// The series as far as it is known; rows and bounds are counted once everything is read.
    fn record(
        &self,
        id: SeriesId,
        known: Option<&SeriesRecord>,
        snapshot_commits: &[u64],
    ) -> Result<Option<SeriesRecord>> {
        let seen = self.0.get(&id);
        let mut record = match (known, seen) {
            (Some(known), _) => known.clone(),
            (None, Some(seen)) => SeriesRecord {
                id,
                version: 1,
                created_commit: seen.commit_lo,
                last_commit: seen.commit_hi,
                ..SeriesRecord::default()
            },
            (None, None) => return Ok(None),
        };
        if let Some(seen) = seen
            && (known.is_none() || seen.commit_hi > record.last_commit)
        {
            // What the snapshots in between see stays what it was.
            let snapshot_commits = snapshot_commits
                .iter()
                .filter(|snapshot| record.last_commit <= **snapshot && **snapshot < seen.commit_hi);
            if let (Some(snapshot), Some(known)) = (snapshot_commits.max(), known) {
                record.views.push(ViewRecord {
                    commit: *snapshot,
                    last_commit: known.last_commit,
                    def: known.def.clone(),
                    version: known.version,
                    rows: known.rows,
                    first_ts: known.first_ts,
                    last_ts: known.last_ts,
                });
            }
            record.def = def_json(&seen.def)?;
            record.last_commit = seen.commit_hi;
        }
        record.sealed_commit = 0;
        Ok(Some(record))
    }
}

/// Reads the chunks of a series, and adds its tombstones. Also returns `None` for a series without a drop marker, else the
/// commit of the drop, `Some(None)` when the marker is damaged.
fn read_series_dir(
    root: &DiskPath,
    series_id: SeriesId,
    known: &Contents,
    found: &mut Contents,
    newest: &mut NewestRegistrations,
) -> Result<(CurrentChunks, Option<Option<u64>>)> {
    let dir = series_dir(root, series_id);
    let names = disk::list(&dir)?;
    let mut marked = None;
    if names.iter().any(|name| name == DROP_MARKER) {
        let marker = decode_drop(&disk::read(&dir.join(DROP_MARKER))?).ok();
        marked = Some(marker.filter(|marker| marker.series_id == series_id).map(|marker| marker.commit));
    }
    let mut chunks: Vec<FoundChunk> = Vec::new();
    let mut files = BTreeSet::new();
    for name in &names {
        let path = dir.join(name);
        if name.ends_with(".tombstone") {
            // The manifest may have the data of a damaged one.
            if let Ok(file) = decode_tombstone(&disk::read(&path)?) {
                found.tombstones.insert((file.series_id, file.commit, file.start, file.end));
            }
        } else if name.ends_with(REGISTRATION) {
            if let Ok(file) = decode_registration(&disk::read(&path)?) {
                newest.add(file.series_id, &file.series, (file.commit, file.commit));
            }
        } else if let Some(id) = chunk_id_of(name).filter(|_| name.ends_with(".arrow")) {
            found.next_file_id = found.next_file_id.max(id + 1);
            files.insert(id);
            if let Some((meta, record)) = read_chunk(&path, known.chunks.get(&id))? {
                newest.add(series_id, &meta.series, (meta.commit_lo, meta.commit_hi));
                if meta.series_id == series_id && chunk_name(&meta.partition, meta.chunk_id) == *name {
                    add_texts(&path, &meta, found)?;
                    let span = meta.series.partition.span_of(meta.ts_min, meta.series.unit);
                    let (slice, slices, span) = (meta.slice, meta.slices, (span.start, span.end));
                    chunks.push(FoundChunk { record, replaces: meta.replaces, slice, slices, span });
                }
            }
        }
    }
    // The manifest knows that these were replaced, and what they replaced went before.
    let replaced: BTreeSet<u64> = chunks.iter().flat_map(|chunk| &chunk.replaces).copied().collect();
    let (waiting, mut chunks): (Vec<_>, Vec<_>) =
        chunks.into_iter().partition(|chunk| known.waiting.contains_key(&chunk.record.id));
    let gone: BTreeSet<u64> = waiting.into_iter().flat_map(|chunk| chunk.replaces).collect();
    chunks.retain(|chunk| !gone.contains(&chunk.record.id));
    let tombstones: Vec<Tombstone> = found
        .tombstones_of(series_id)
        .map(|(_, commit, start, end)| Tombstone { commit: *commit, start: *start, end: *end })
        .collect();
    let published = |id: u64| known.chunks.contains_key(&id) || known.waiting.contains_key(&id);
    let known = KnownOfSeries { files: &files, tombstones: &tombstones, published: &published };
    let mut current = current_chunks(chunks, known);
    current.replaced.extend(replaced);
    Ok((current, marked))
}

/// Takes the dictionaries of a series from a chunk that has more texts than were found so far. Each chunk has all texts of
/// its time, so that the longest dictionaries contain the others; damaged ones are left out.
fn add_texts(path: &DiskPath, meta: &ChunkMeta, found: &mut Contents) -> Result<()> {
    let total = meta.texts();
    if total <= found.texts.get(&meta.series_id).map_or(0, |known| known.total) {
        return Ok(());
    }
    let file = disk::open(path)?;
    let mut dictionaries = vec![Dictionary::default(); meta.series.columns.len()];
    for entry in &meta.dictionaries {
        let is_text = |column: &&Column| column.kind == ColumnType::Text;
        let column = to_usize(entry.column);
        let Some(slot) =
            dictionaries.get_mut(column).filter(|_| meta.series.columns.get(column).as_ref().is_some_and(is_text))
        else {
            continue;
        };
        let message = disk::read_at(&file, path, entry.offset, to_usize(entry.bytes()))?;
        match chunk::read_dictionary(&meta.series, entry, &message) {
            Ok(dictionary) => *slot = dictionary,
            Err(error) => {
                tracing::warn!(%error, "the dictionaries of a chunk are not used");
                return Ok(());
            }
        }
    }
    let mut texts = Vec::new();
    put_texts(&mut texts, &ColumnTexts::added(&dictionaries, &[]));
    found.texts.insert(meta.series_id, TextsRecord { series_id: meta.series_id, texts, total });
    Ok(())
}

/// The metadata and the record of a chunk file, from its footer, or from its blocks when the footer is damaged.
fn read_chunk(path: &DiskPath, known: Option<&ChunkRecord>) -> Result<Option<(ChunkMeta, ChunkRecord)>> {
    let (meta, footer_crc, bytes) = match read_footer(path) {
        Ok(found) => found,
        Err(error) if error.code() == ErrorCode::CorruptData => {
            let file = disk::read(path)?;
            match salvage_chunk(&file, known) {
                Ok(found) => (found.meta, found.footer_crc, file.len() as u64),
                Err(error) if error.code() == ErrorCode::CorruptData => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Err(error) => return Err(error),
    };
    let record = known.cloned().unwrap_or_else(|| ChunkRecord {
        id: meta.chunk_id,
        series_id: meta.series_id,
        partition: meta.partition.clone(),
        rows: meta.rows,
        ts_min: meta.ts_min,
        ts_max: meta.ts_max,
        commit_lo: meta.commit_lo,
        commit_hi: meta.commit_hi,
        file_bytes: bytes,
        // No reader has it; a rebuilt manifest reads the file for it.
        file_crc: 0,
        footer_crc,
        block_crcs: meta.blocks.iter().map(|block| block.crc).collect(),
        texts: meta.texts(),
    });
    Ok(Some((meta, record)))
}

fn read_footer(path: &DiskPath) -> Result<(ChunkMeta, u32, u64)> {
    let file = disk::open(path)?;
    let bytes = disk::file_bytes(&file, path)?;
    let trailer_at = bytes.saturating_sub(chunk::TRAILER_BYTES as u64);
    let cut = || Error::corrupt(format!("{} is cut", path.display()));
    let trailer = disk::read_at(&file, path, trailer_at, chunk::TRAILER_BYTES)?;
    let length = chunk::footer_bytes(&trailer)?;
    let footer_at = trailer_at.checked_sub(length as u64).ok_or_else(cut)?;
    let (meta, crc) = chunk::decode_footer(&disk::read_at(&file, path, footer_at, length)?, bytes)?;
    Ok((meta, crc, bytes))
}

/// Chunks the manifest knew that have no file: unless others replaced their rows or deletes removed all of them, their
/// rows are lost, and reading them must say so.
fn add_missing_chunks(root: &DiskPath, known: &Contents, replaced: &BTreeSet<u64>, found: &mut Contents) {
    for record in known.chunks.values() {
        let path = series_dir(root, record.series_id).join(chunk_name(&record.partition, record.id));
        let covered = replaced.contains(&record.id)
            || found.chunks.values().any(|chunk| chunk.series_id == record.series_id && clash(chunk, record));
        let hidden = found.tombstones_of(record.series_id).filter(|(_, commit, ..)| *commit > record.commit_hi);
        let hidden = coalesce(hidden.map(|(.., start, end)| (*start, *end)).collect());
        let deleted = hidden.iter().any(|(start, end)| *start <= record.ts_min && record.ts_max <= *end);
        if !covered && !deleted && !path.exists() {
            found.chunks.insert(record.id, record.clone());
        }
    }
}

/// Adds every run and receipt file.
fn read_runs_dir(
    root: &DiskPath,
    known: &Contents,
    found: &mut Contents,
    newest: &mut NewestRegistrations,
) -> Result<()> {
    for name in disk::list(&root.join("runs"))? {
        let Some((Ok(id), kind)) = name.split_once('.').map(|(id, kind)| (id.parse::<u64>(), kind)) else { continue };
        found.next_file_id = found.next_file_id.max(id + 1);
        if kind == "receipts" {
            let bytes = disk::read(&receipts_path(root, id))?;
            let newest_ms = salvage_receipts(&bytes)?.receipts.iter().map(|receipt| receipt.wall_ms).max();
            let record = ReceiptsRecord { id, bytes: bytes.len() as u64, newest_ms: newest_ms.unwrap_or(0) };
            found.receipts.insert(id, known.receipts.get(&id).cloned().unwrap_or(record));
        }
        if kind != "run" {
            continue;
        }
        let bytes = disk::read(&run_path(root, id))?;
        let salvaged = salvage_run(&bytes)?;
        for run in &salvaged.runs {
            if let Some(def) = salvaged.defs.get(&run.series_id) {
                newest.add(run.series_id, def, (run.commit_lo, run.commit_hi));
            }
        }
        let derived = RunRecord {
            id,
            bytes: bytes.len() as u64,
            crc: salvaged.crc.unwrap_or(0),
            level: salvaged.origin.map_or(0, |origin| origin.level),
            base_commit: salvaged.origin.map_or(0, |origin| origin.base_commit),
        };
        found.runs.insert(id, known.runs.get(&id).cloned().unwrap_or(derived));
    }
    // A file of a higher level replaced the rows of those before it.
    let superseded = |record: &RunRecord, found: &Contents| {
        found.runs.values().any(|other| other.level > record.level && other.base_commit >= record.base_commit)
    };
    let superseded_runs: Vec<RunRecord> =
        known.runs.values().filter(|record| !found.runs.contains_key(&record.id)).cloned().collect();
    for record in superseded_runs {
        if !superseded(&record, found) {
            found.runs.insert(record.id, record);
        }
    }
    Ok(())
}

/// The oldest segment on disk and its first LSN; where it `begins` when segments from there on are missing.
fn log_start(root: &DiskPath, known: &Contents, begins: Option<(u64, u64)>) -> Result<(u64, u64)> {
    let dir = root.join("wal");
    let Some(first) = disk::list(&dir)?.iter().filter_map(|name| segment_number(name)).min() else {
        return Ok((known.wal_first_segment.max(1), known.wal_first_lsn.max(1)));
    };
    if let Some((segment, lsn)) = begins.filter(|(segment, _)| first > *segment) {
        return Ok((segment, lsn));
    }
    let path = segment_path(&dir, first);
    let bytes = disk::read(&path)?;
    let header = decode_segment_header(bytes.get(..SEGMENT_HEADER_BYTES).unwrap_or(&bytes));
    // After a crash before its first frame that can have a lower one than the header records.
    let first_lsn = header.ok().map(|header| header.first_lsn);
    let lsn = first_lsn.into_iter().chain(first_frame(&bytes).map(|(_, frame)| frame.lsn)).min();
    Ok((first, lsn.unwrap_or(known.wal_first_lsn).max(1)))
}

/// Rows of a run file that cannot be read.
#[derive(Clone, Debug)]
pub struct LostRun {
    /// The lost rows; `None` for rows of any series that had some in the file.
    pub run: Option<RunEntry>,
    /// Commits the rows could be of.
    pub commits: (u64, u64),
    pub reason: String,
}

/// Runs that can be read, by series, and what is lost.
type Readable = (Vec<(SeriesId, Run)>, Vec<LostRun>);

/// The intact runs of a damaged run file, and what is lost of it.
pub fn intact_runs(root: &DiskPath, record: &RunRecord, contents: &Contents) -> Result<Readable> {
    let path = run_path(root, record.id);
    let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
    let earlier = contents.runs.values().filter(|run| run.base_commit < record.base_commit);
    let commits = (earlier.map(|run| run.base_commit).max().unwrap_or(0) + 1, record.base_commit);
    let unknown = |reason: String| LostRun { run: None, commits, reason };
    if !path.found()? {
        return Ok((Vec::new(), vec![unknown(format!("{name} is missing"))]));
    }
    let map = Map::copied(&disk::read(&path)?);
    let salvaged = salvage_run(map.as_slice())?;
    // Intact parts of another file are not what was here.
    let foreign = match (salvaged.crc, salvaged.origin) {
        (Some(crc), _) => crc != record.crc && record.crc != 0,
        (None, Some(origin)) => (origin.level, origin.base_commit) != (record.level, record.base_commit),
        (None, None) => false,
    };
    if foreign {
        return Ok((Vec::new(), vec![unknown(format!("{name} is not the file that the manifest names"))]));
    }
    let mut lost: Vec<LostRun> = salvaged
        .damaged
        .iter()
        .map(|damaged| LostRun {
            run: damaged.run,
            commits,
            reason: format!("{name}: byte {}: {}", damaged.offset, damaged.reason),
        })
        .collect();
    if !salvaged.complete && lost.iter().all(|lost| lost.run.is_some()) {
        lost.push(unknown(format!("{name} is truncated")));
    }
    let mut runs = Vec::with_capacity(salvaged.runs.len());
    for entry in &salvaged.runs {
        let schema = (entry.series_id, entry.schema_version);
        let def = match salvaged.schemas.get(&schema) {
            Some(def) => Some(Arc::new(def.clone())),
            None => registered_as(contents, schema)?,
        };
        let texts = salvaged.texts.iter().filter(|(id, _)| *id == entry.series_id).flat_map(|(_, texts)| texts.clone());
        match def {
            Some(def) => runs.push((entry.series_id, map_run(&map, record.id, entry, &def, texts.collect())?)),
            None => lost.push(LostRun {
                run: Some(*entry),
                commits,
                reason: format!("{name}: byte {}: no registration of its columns is left", entry.offset),
            }),
        }
    }
    Ok((runs, lost))
}

/// The registration of a series in the manifest, where its columns have this version.
fn registered_as(contents: &Contents, (series_id, schema_version): (u64, u32)) -> Result<Option<Arc<SeriesDef>>> {
    let Some(record) = contents.series.get(&series_id) else { return Ok(None) };
    Ok(Some(parse_def(&record.def)?).filter(|def| def.schema_version == schema_version))
}

/// The receipts of a damaged file that can be read.
pub fn intact_receipts(root: &DiskPath, record: &ReceiptsRecord) -> Vec<Receipt> {
    let bytes = disk::read(&receipts_path(root, record.id)).unwrap_or_default();
    salvage_receipts(&bytes).map(|salvaged| salvaged.receipts).unwrap_or_default()
}

/// Makes reads of lost rows fail with `corrupt_data`.
pub fn mark_lost(root: &DiskPath, state: &mut StoreState, lost: Vec<LostRun>) {
    for lost in lost {
        let hit: Vec<SeriesId> = match lost.run {
            Some(run) => vec![run.series_id],
            // Any series with rows that no chunk has could have had some there.
            None => {
                state.series.values().filter(|s| s.last_commit > s.sealed_commit && s.rows > 0).map(|s| s.id).collect()
            }
        };
        for id in hit {
            let Some(series) = state.series.get(&id) else { continue };
            let mut next = series.as_ref().clone();
            let record = ChunkRecord {
                id: u64::MAX - next.chunks.len() as u64,
                series_id: id,
                partition: LOST_RUN.to_owned(),
                rows: lost.run.map_or(1, |run| run.rows.max(1)),
                ts_min: lost.run.map_or(i64::MIN, |run| run.ts_min),
                ts_max: lost.run.map_or(i64::MAX, |run| run.ts_max),
                commit_lo: lost.run.map_or(lost.commits.0, |run| run.commit_lo),
                commit_hi: lost.run.map_or(lost.commits.1, |run| run.commit_hi),
                ..ChunkRecord::default()
            };
            let unreadable = Arc::new(ChunkFile::unreadable(root, record, &lost.reason));
            next.chunks = Arc::new(next.chunks.iter().cloned().chain([unreadable]).collect());
            state.put(next);
        }
    }
}

/// Makes reads of the rows of chunks without a file fail with `corrupt_data`.
pub fn mark_missing(root: &DiskPath, state: &mut StoreState, missing: Vec<MissingSlice>) {
    for slice in missing {
        let Some(series) = state.series.get(&slice.series_id) else { continue };
        let mut next = series.as_ref().clone();
        let record = ChunkRecord {
            id: u64::MAX - next.chunks.len() as u64,
            series_id: slice.series_id,
            partition: slice.partition,
            rows: 1,
            ts_min: slice.times.0,
            ts_max: slice.times.1,
            commit_lo: slice.commits.0,
            commit_hi: slice.commits.1,
            ..ChunkRecord::default()
        };
        let unreadable = Arc::new(ChunkFile::unreadable(root, record, &slice.reason));
        next.chunks = Arc::new(next.chunks.iter().cloned().chain([unreadable]).collect());
        state.put(next);
    }
}

/// Counts rows and bounds of these series (all when `None`) again. Where that needs rows that cannot be read, what was
/// known stays.
pub fn recount(state: &mut StoreState, only: Option<&[SeriesId]>) {
    let cache = Arc::new(MapCache::new(64, false));
    let all: Vec<SeriesId> = state.series.keys().copied().collect();
    for id in only.unwrap_or(&all) {
        let Some(series) = state.series.get(id) else { continue };
        let mut next = series.as_ref().clone();
        match count(&next, &cache) {
            Ok((rows, bounds)) => (next.rows, next.bounds) = (rows, bounds),
            Err(error) => {
                tracing::error!(series = %next.def.key, %error, "rows were not counted");
                let low = next.sources().iter().map(|source| source.ts_min()).min();
                let high = next.sources().iter().map(|source| source.ts_max()).max();
                next.bounds = low.zip(high).or(next.bounds);
                next.rows = next.rows.max(1);
            }
        }
        let mut views = next.views.as_ref().clone();
        for view in &mut views {
            if let Some(then) = next.as_of(view.commit)
                && let Ok((rows, bounds)) = count(&then, &cache)
            {
                (view.rows, view.bounds) = (rows, bounds);
            }
        }
        next.views = Arc::new(views);
        state.put(next);
    }
}

type LostRunRows = (u64, Option<(i64, i64)>);

fn count(series: &SeriesState, cache: &Arc<MapCache>) -> Result<LostRunRows> {
    let all = (i64::MIN, i64::MAX);
    let rows = series.merge(cache, all, false).count_rows()?;
    let first = series.merge(cache, all, false).next_piece()?.and_then(|piece| piece.ts(0));
    let last = series.merge(cache, all, true).next_piece()?.and_then(|piece| piece.ts(piece.rows().checked_sub(1)?));
    Ok((rows, first.zip(last)))
}
