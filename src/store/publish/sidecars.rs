//! Writing the sidecars of a chunk: a finished file replaces the one of its name.

use std::io::{BufWriter, Seek, SeekFrom, Write};

use crate::disk::{self, DiskPath, StagedFile};
use crate::error::{Error, Result};
use crate::format::order_key::{NativeType, append_keys};
use crate::format::value_index::{ValueIndex, write_pages};
use crate::format::zone_map::ZoneMap;
use crate::store::read::chunk::{ChunkFile, OpenChunk};
use crate::store::read::sidecar::{IndexFile, read_zones, value_index_path, wanted_columns, zone_map_path};
use crate::types::width::{narrow, to_usize};
use crate::types::{CellSlice, SeriesDef, cells};

/// What a rebuild of sidecars did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SidecarReport {
    pub chunks_checked: u64,
    /// Files written: they were missing, damaged, of another chunk, or without a column that is indexed now.
    pub rebuilt: u64,
    /// Value indexes that no registration requires.
    pub removed: u64,
}

/// Whether a chunk has a value index of other columns than a registration requires, or none where it requires one.
pub fn is_stale(open: &OpenChunk, path: &DiskPath, def: &SeriesDef) -> bool {
    let columns_needed = wanted_columns(&open.meta, def);
    match IndexFile::open(path, &open.meta, open.footer_crc()) {
        Ok(Some(file)) => !columns_needed.is_empty() && !file.covers(&columns_needed),
        Ok(None) => !columns_needed.is_empty(),
        Err(_) => false,
    }
}

/// The zone map of a chunk, from its rows.
fn zone_map_of(open: &OpenChunk) -> Result<ZoneMap> {
    let meta = &open.meta;
    let types = NativeType::of_series(&meta.series);
    let mut zones = ZoneMap::new(meta.chunk_id, types.len());
    zones.footer_crc = open.footer_crc();
    for position in 0..open.blocks().len() {
        let block = open.block(position, &meta.series)?;
        let columns: Vec<CellSlice<'_>> = block.columns().collect();
        zones.add_block(&columns, &types);
    }
    Ok(zones)
}

/// Number of cells of a column that are not null.
fn entry_count(open: &OpenChunk, position: usize) -> Result<u32> {
    let meta = &open.meta;
    let column = position.checked_sub(1).and_then(|position| meta.series.columns.get(position));
    let mut nulls = 0;
    if column.is_some_and(|column| column.nullable) {
        for block in 0..open.blocks().len() {
            nulls += open.block(block, &meta.series)?.column(position).null_count();
        }
    }
    Ok(narrow(to_usize(meta.rows) - nulls))
}

/// Writes a value index of these columns; one column's entries (16 bytes a row) are in memory at a time.
fn stage_value_index(open: &OpenChunk, tmp: &DiskPath, positions: &[usize]) -> Result<StagedFile> {
    let meta = &open.meta;
    let rows = u32::try_from(meta.rows).map_err(|_| Error::internal("a chunk with too many rows for an index"))?;
    let mut index = ValueIndex { chunk_id: meta.chunk_id, footer_crc: open.footer_crc(), rows, columns: Vec::new() };
    let counts = positions.iter().map(|position| entry_count(open, *position)).collect::<Result<Vec<u32>>>()?;
    let types = NativeType::of_series(&meta.series);
    let mut offset = ValueIndex::directory_bytes(counts.iter().copied()) as u64;
    let mut staged = StagedFile::create(tmp)?;
    let path = staged.path().clone();
    let fail = |error: std::io::Error| Error::io("write", &path, &error);
    let mut out = BufWriter::with_capacity(1 << 18, &mut staged);
    // The directory comes first in the file and is known last.
    out.seek(SeekFrom::Start(offset)).map_err(fail)?;
    for (position, count) in positions.iter().zip(counts) {
        let native = cells::at(&types, *position);
        let mut entries: Vec<(i64, u32)> = Vec::with_capacity(count as usize);
        for block in 0..open.blocks().len() {
            let first_row = narrow(open.first_row(block));
            append_keys(open.block(block, &meta.series)?.column(*position), native, first_row, &mut entries);
        }
        assert_eq!(entries.len(), count as usize, "entries of the value index of chunk {}", meta.chunk_id);
        entries.sort_unstable();
        let (column, end) = write_pages(&entries, *position, offset, |page| out.write_all(page)).map_err(fail)?;
        offset = end;
        index.columns.push(column);
    }
    out.seek(SeekFrom::Start(0)).map_err(fail)?;
    out.write_all(&index.encode()).and_then(|()| out.flush()).map_err(fail)?;
    drop(out);
    Ok(staged)
}

/// Publishes a finished file under a name, replacing any file of that name.
pub fn replace(staged: StagedFile, target: &DiskPath) -> Result<()> {
    disk::remove(target)?;
    if staged.publish(target)? {
        return Ok(());
    }
    Err(Error::internal(format!("{} was created by another process or thread", target.display())))
}

/// Rebuilds the missing and damaged sidecars of an open chunk, and removes a value index that is not needed.
pub fn rebuild_unusable(
    open: &OpenChunk,
    path: &DiskPath,
    tmp: &DiskPath,
    def: &SeriesDef,
    report: &mut SidecarReport,
) -> Result<()> {
    let (meta, footer_crc) = (&open.meta, open.footer_crc());
    if read_zones(path, meta, footer_crc).is_err() {
        let mut staged = StagedFile::create(tmp)?;
        staged.put(&zone_map_of(open)?.encode())?;
        replace(staged, &zone_map_path(path))?;
        report.rebuilt += 1;
    }
    let columns_needed = wanted_columns(meta, def);
    let target = value_index_path(path);
    if columns_needed.is_empty() {
        if target.exists() {
            disk::remove(&target)?;
            report.removed += 1;
        }
        return Ok(());
    }
    let whole = IndexFile::open(path, meta, footer_crc)
        .is_ok_and(|file| file.is_some_and(|file| file.covers(&columns_needed) && file.check_pages().is_ok()));
    if !whole {
        replace(stage_value_index(open, tmp, &columns_needed)?, &target)?;
        report.rebuilt += 1;
    }
    Ok(())
}

/// Writes the value index of a chunk that was just published.
pub fn index_new_chunk(chunk: &ChunkFile, tmp: &DiskPath, def: &SeriesDef) -> Result<()> {
    if def.value_index.is_empty() {
        return Ok(());
    }
    let open = chunk.open_uncached()?;
    let columns_needed = wanted_columns(&open.meta, def);
    if columns_needed.is_empty() {
        return Ok(());
    }
    replace(stage_value_index(&open, tmp, &columns_needed)?, &value_index_path(chunk.path()))
}
