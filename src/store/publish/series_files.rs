//! Small files next to the chunks of a series: deletes, registrations, the marker of a drop. A manifest can be rebuilt
//! from them and the chunks.

use std::sync::Arc;

use crate::disk::{self, DiskPath};
use crate::error::{Error, Result};
use crate::format::manifest::{Edit, SeriesRecord, TombstoneRecord};
use crate::format::tombstone::{
    DropFile, RegistrationFile, TombstoneFile, encode_drop, encode_registration, encode_tombstone,
};
use crate::store::read::chunk::ChunkFile;
use crate::store::read::chunk_paths::series_dir;
use crate::store::read::merge_source::MergeSource;
use crate::store::read::run::Run;
use crate::store::read::series_state::SeriesState;
use crate::store::read::tombstone::Tombstone;
use crate::store::registration::def_json;
use crate::types::SeriesDef;

/// What becomes of the marker of a drop when the other files of the series are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropMarker {
    /// Run files still have rows of the series, which a rebuilt manifest would show again.
    Kept,
    Removed,
}

/// File next to the chunks of a series that was dropped.
pub const DROP_MARKER: &str = "dropped";

/// Ending of registration files.
pub const REGISTRATION: &str = ".registration";

/// File name of a tombstone.
pub fn tombstone_name(commit: u64) -> String {
    format!("{commit:020}.tombstone")
}

/// Writes the deletes that hid rows of chunks which are removed now, and of runs which are sealed now. They are needed
/// only when a manifest is rebuilt while the files still exist.
pub fn keep_deletes(
    root: &DiskPath,
    series: &SeriesState,
    removed: &[Arc<ChunkFile>],
    filed: &[Arc<Run>],
) -> Result<()> {
    let chunks = removed.iter().cloned().map(MergeSource::Chunk);
    let sources: Vec<MergeSource> = chunks.chain(filed.iter().cloned().map(MergeSource::Run)).collect();
    let took = |t: &Tombstone| {
        sources.iter().any(|s| s.commit_hi() < t.commit && s.ts_min() <= t.end && t.start <= s.ts_max())
    };
    for t in series.tombstones.iter().filter(|t| took(t)) {
        tombstone_file(root, series, t)?;
    }
    Ok(())
}

fn tombstone_file(root: &DiskPath, series: &SeriesState, t: &Tombstone) -> Result<()> {
    let dir = series_dir(root, series.id);
    let path = dir.join(tombstone_name(t.commit));
    if path.found()? {
        // The same delete: written for an earlier step, or before a crash.
        return Ok(());
    }
    disk::create_dir(&dir)?;
    let key = series.def.key.clone();
    let file = TombstoneFile { series_id: series.id, key, commit: t.commit, start: t.start, end: t.end };
    disk::publish(&root.join("tmp"), &path, &encode_tombstone(&file)?).map(|_| ())
}

/// Writes the registration of a series next to its chunks when no other file but the manifest would have it: it
/// changed, or the series has no row in a chunk or run file.
pub fn write_registration(root: &DiskPath, series: &SeriesState, recorded: Option<&SeriesRecord>) -> Result<()> {
    let changed = match recorded {
        Some(record) => record.def != def_json(&series.def)?,
        None => false,
    };
    let is_recorded = !series.chunks.is_empty() || !series.filed.is_empty() || !series.frozen.is_empty();
    let dir = series_dir(root, series.id);
    let has_registration = || disk::list(&dir).map(|names| names.iter().any(|name| name.ends_with(REGISTRATION)));
    if !changed && (is_recorded || has_registration()?) {
        return Ok(());
    }
    disk::create_dir(&dir)?;
    let commit = series.last_commit;
    let file = RegistrationFile { series_id: series.id, commit, series: series.def.as_ref().clone() };
    let path = dir.join(format!("{commit:020}{REGISTRATION}"));
    disk::publish(&root.join("tmp"), &path, &encode_registration(&file)?).map(|_| ())
}

/// Writes tombstone files the manifest does not know yet, and lists those it may forget. The files stay: what
/// they say remains true for any chunk that turns up again.
pub fn tombstone_files(
    root: &DiskPath,
    manifest: &crate::store::manifest::edits::Contents,
    series: &SeriesState,
    needed: &[Tombstone],
    edit: &mut Edit,
) -> Result<()> {
    let series_id = series.id;
    for t in needed {
        if manifest.tombstones.contains(&(series_id, t.commit, t.start, t.end)) {
            continue;
        }
        tombstone_file(root, series, t)?;
        edit.tombstones.push(TombstoneRecord { series_id, commit: t.commit, start: t.start, end: t.end });
    }
    for (id, commit, start, end) in manifest.tombstones_of(series_id) {
        if !needed.contains(&Tombstone { commit: *commit, start: *start, end: *end }) {
            let (series_id, commit, start, end) = (*id, *commit, *start, *end);
            edit.tombstones_removed.push(TombstoneRecord { series_id, commit, start, end });
        }
    }
    Ok(())
}

/// Puts the marker of its drop next to the files of a series that the manifest knows. Series without a file of their
/// own get a directory for it: their rows can be in run files of many series.
pub fn mark_dropped(
    root: &DiskPath,
    manifest: &crate::store::manifest::edits::Contents,
    series_id: u64,
    commit: u64,
) -> Result<()> {
    let Some(record) = manifest.series.get(&series_id) else { return Ok(()) };
    let dir = series_dir(root, series_id);
    if !dir.found()? && manifest.runs.is_empty() {
        return Ok(());
    }
    let def: SeriesDef = serde_json::from_str(&record.def)
        .map_err(|error| Error::internal(format!("registration of series {series_id}: {error}")))?;
    let commit = if record.dropped_commit > 0 { record.dropped_commit } else { commit };
    put_drop_marker(root, series_id, def.key, commit)
}

/// The same for a series that a snapshot still shows, so that a rebuilt manifest does not show it to everybody.
pub fn put_drop_marker(root: &DiskPath, series_id: u64, key: crate::types::SeriesKey, commit: u64) -> Result<()> {
    let dir = series_dir(root, series_id);
    let path = dir.join(DROP_MARKER);
    if path.found()? {
        return Ok(());
    }
    disk::create_dir(&dir)?;
    disk::publish(&root.join("tmp"), &path, &encode_drop(&DropFile { series_id, key, commit })?)?;
    Ok(())
}

/// Unlinks the files of a dropped series; readers that still map them are not disturbed. Best effort: what stays
/// is removed at the next open.
pub fn remove_series_files(root: &DiskPath, series_id: u64, marker: DropMarker) {
    let dir = series_dir(root, series_id);
    let names = disk::list(&dir).unwrap_or_default();
    // The marker is removed last: while it exists, the other files do not count as lost ones.
    let last = names.iter().filter(|name| *name == DROP_MARKER && marker == DropMarker::Removed);
    for name in names.iter().filter(|name| *name != DROP_MARKER).chain(last) {
        if let Err(error) = disk::remove(&dir.join(name)) {
            tracing::warn!(%error, "a file of a dropped series could not be removed");
            return;
        }
    }
    disk::remove_dir_if_empty(&dir);
}
