//! Names of chunk files and of the directories of series.

use crate::disk::DiskPath;

/// Directory of a series under `chunks/`.
pub fn series_dir(root: &DiskPath, series_id: u64) -> DiskPath {
    root.join("chunks").join(series_dir_name(series_id))
}

/// Name of that directory.
pub fn series_dir_name(series_id: u64) -> String {
    format!("{series_id:010}")
}

/// File name of a chunk.
pub fn chunk_name(partition: &str, chunk_id: u64) -> String {
    format!("{partition}-{chunk_id:016}.arrow")
}

/// The id in the name of a chunk or one of its sidecars.
pub fn chunk_id_of(name: &str) -> Option<u64> {
    let (stem, _) = name.split_once('.')?;
    stem.rsplit_once('-')?.1.parse().ok()
}
