//! Run files and receipt files: what left the log and is in no chunk.

use std::collections::HashMap;
use std::sync::Arc;

use crate::disk::mmap::Map;
use crate::disk::{self, DiskPath};
use crate::error::{Error, Result};
use crate::format::body::{body_bytes, places};
use crate::format::manifest::{ReceiptsRecord, RunRecord};
use crate::format::receipt::{Receipt, decode_receipts};
use crate::format::run::{RunEntry, decode_run, series_of};
use crate::format::texts::ColumnTexts;
use crate::store::read::map_column::map_column;
use crate::store::read::run::Run;
use crate::store::read::series_state::SeriesId;
use crate::types::SeriesDef;
use crate::types::width::to_usize;

/// Path of a run file.
pub fn run_path(root: &DiskPath, id: u64) -> DiskPath {
    root.join("runs").join(format!("{id:020}.run"))
}

/// Path of a receipt file.
pub fn receipts_path(root: &DiskPath, id: u64) -> DiskPath {
    root.join("runs").join(format!("{id:020}.receipts"))
}

/// Maps a run file and checks every byte of it. Returns its runs by series, each series' in the order of their commits.
pub fn load_run(root: &DiskPath, record: &RunRecord) -> Result<Vec<(SeriesId, Run)>> {
    let path = run_path(root, record.id);
    let file = disk::open(&path)?;
    let found = disk::file_bytes(&file, &path)?;
    if found != record.bytes {
        return Err(Error::corrupt(format!("{}: {found} bytes, expected {}", path.display(), record.bytes)));
    }
    let map = disk::map(&file, &path)?;
    let decoded =
        decode_run(map.as_slice()).map_err(|e| Error::new(e.code(), format!("{}: {}", path.display(), e.detail())))?;
    let crc = decoded.crc;
    if crc != record.crc {
        return Err(Error::corrupt(format!("{}: checksum {crc:08x}, expected {:08x}", path.display(), record.crc)));
    }
    let mut defs: HashMap<(u64, u32), Arc<SeriesDef>> = HashMap::new();
    let mut runs = Vec::with_capacity(decoded.runs.len());
    for entry in decoded.runs {
        let header = series_of(map.as_slice(), &entry)?;
        let schema = (entry.series_id, entry.schema_version);
        if let Some(def) = header.def {
            defs.insert(schema, Arc::new(def));
        }
        let def = defs.get(&schema).ok_or_else(|| {
            Error::corrupt(format!("{}: a run of series {} has no registration", path.display(), entry.series_id))
        })?;
        runs.push((entry.series_id, map_run(&map, record.id, &entry, def, header.texts)?));
    }
    Ok(runs)
}

/// A run in a mapped file, whose bytes were verified.
pub fn map_run(map: &Map, file: u64, entry: &RunEntry, def: &Arc<SeriesDef>, texts: Vec<ColumnTexts>) -> Result<Run> {
    let rows = to_usize(entry.rows);
    let at = to_usize(entry.offset);
    if body_bytes(def.all_layouts(), rows, entry.nulls) as u64 != entry.body_bytes {
        return Err(Error::corrupt(format!("a run of series {} has cells of another size", entry.series_id)));
    }
    let columns = places(def.all_layouts(), rows, entry.nulls);
    let columns = columns.map(|place| map_column(map, at, place)).collect();
    Ok(Run::mapped(file, def, (entry.commit_lo, entry.commit_hi), columns, texts))
}

/// Reads a receipt file.
pub fn load_receipts(root: &DiskPath, record: &ReceiptsRecord) -> Result<Vec<Receipt>> {
    let path = receipts_path(root, record.id);
    let bytes = disk::read(&path)?;
    let receipts = decode_receipts(&bytes)
        .map_err(|error| Error::new(error.code(), format!("{}: {}", path.display(), error.detail())))?;
    // 0 in a file without receipts.
    let newest_ms = receipts.iter().map(|receipt| receipt.wall_ms).max().unwrap_or(0);
    if (bytes.len() as u64, newest_ms) != (record.bytes, record.newest_ms) {
        return Err(Error::corrupt(format!("{} is not the file that the manifest names", path.display())));
    }
    Ok(receipts)
}
