//! Run files and receipt files: what left the log and is in no chunk.

use crate::disk::{self, DiskPath};
use crate::error::{Error, Result};
use crate::format::manifest::{ReceiptsRecord, RunRecord};
use crate::format::receipt::{Receipt, decode_receipts};
use crate::format::run::decode_run;
use crate::store::read::run::Run;
use crate::store::read::series_state::SeriesId;
use crate::types::SharedCells;
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
    Ok(decoded
        .runs
        .into_iter()
        .map(|entry| {
            let column = |position: u32| {
                let at = entry.offset + entry.stride() * u64::from(position);
                SharedCells::of_words(map.column(to_usize(at), to_usize(entry.rows * 8)))
            };
            let columns = (0..entry.columns).map(column).collect();
            (entry.series_id, Run::mapped(record.id, (entry.commit_lo, entry.commit_hi), columns))
        })
        .collect())
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
