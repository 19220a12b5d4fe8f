//! Sidecars: derived files beside a chunk, named as it is but for the extension.
//!
//! - A sidecar never decides what an answer says, only how much is read for it.
//! - It is bound to its chunk by chunk id and footer checksum; one that is missing, damaged or of another file is
//!   left out of the query that notices, which orders a new one.
//! - It is replaced by removing the old file and linking a finished new one: a crash in between costs time only.
//! - It goes with the chunk.

use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::sync::Arc;

use crate::disk::{self, DiskPath, StagedFile};
use crate::error::{Error, Result};
use crate::format::chunk::{ChunkMeta, ZONE_ROWS};
use crate::format::envelope::ENVELOPE_BYTES;
use crate::format::value_index::{IndexColumn, PAGE_ENTRIES, ValueIndex, write_pages};
use crate::format::zone_map::{ZoneMap, order_key};
use crate::store::facade::{Store, StoreInner};
use crate::store::read::chunk::{ChunkFile, OpenChunk};
use crate::store::read::coverage;
use crate::store::read::state::SeriesState;
use crate::types::{ColumnType, SeriesDef};

/// Extensions of all kinds of sidecar.
pub const EXTENSIONS: [&str; 3] = [ZONE_MAP, VALUE_INDEX, COVERAGE];
/// Extension of zone maps.
const ZONE_MAP: &str = "zmap";
/// Extension of value indexes.
const VALUE_INDEX: &str = "vix";
/// Extension of coverage.
const COVERAGE: &str = "cov";

/// Rows whose check takes about as long as reading one row by itself.
const ROW_COST: usize = 16;

/// Path of the zone map of a chunk file.
pub fn zone_map_path(chunk: &DiskPath) -> DiskPath {
    chunk.with_extension(ZONE_MAP)
}

/// Path of the value index of a chunk file.
pub fn value_index_path(chunk: &DiskPath) -> DiskPath {
    chunk.with_extension(VALUE_INDEX)
}

/// Path of the coverage of a chunk file.
pub fn coverage_path(chunk: &DiskPath) -> DiskPath {
    chunk.with_extension(COVERAGE)
}

/// Removes whatever sidecars a chunk file has.
pub fn remove_all(chunk: &DiskPath) -> Result<()> {
    EXTENSIONS.iter().try_for_each(|extension| disk::remove(&chunk.with_extension(extension)))
}

/// What putting sidecars in order did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SidecarReport {
    pub chunks_checked: u64,
    /// Files written: they were missing, damaged, of another chunk, or without a column that is wanted now.
    pub rebuilt: u64,
    /// Value indexes nobody wants any more.
    pub removed: u64,
}

/// The open value index of a chunk. Pages are read when they are needed, so an index in use costs the memory of its
/// directory: 16 bytes for 1,024 rows of a column.
#[derive(Debug)]
pub struct IndexFile {
    index: ValueIndex,
    path: DiskPath,
}

impl IndexFile {
    /// Reads the directory; `None` when there is no such file.
    pub fn open(chunk: &DiskPath, meta: &ChunkMeta, footer_crc: u32) -> Result<Option<Self>> {
        let path = value_index_path(chunk);
        if !path.found()? {
            return Ok(None);
        }
        let file = disk::open(&path)?;
        let file_bytes = disk::file_bytes(&file, &path)?;
        let length = ValueIndex::directory_length(&disk::read_at(&file, &path, 0, ENVELOPE_BYTES)?)
            .map_err(|error| named(&path, &error))?;
        if length as u64 > file_bytes {
            return Err(Error::corrupt(format!("{}: its directory is longer than the file", path.display())));
        }
        let directory = disk::read_at(&file, &path, 0, length)?;
        let index = ValueIndex::decode(&directory, file_bytes).map_err(|error| named(&path, &error))?;
        if !belongs(&index, meta, footer_crc) {
            return Err(Error::corrupt(format!("{} belongs to another chunk", path.display())));
        }
        Ok(Some(Self { index, path }))
    }

    /// Whether a column is indexed; `ts` is 0.
    pub fn has(&self, column: usize) -> bool {
        self.index.column(column).is_some()
    }

    /// Whether these and no other columns are indexed.
    fn covers(&self, positions: &[usize]) -> bool {
        self.index.columns.iter().map(|column| column.position).eq(positions.iter().copied())
    }

    fn check_pages(&self) -> Result<()> {
        let file = disk::open(&self.path)?;
        for page in self.index.columns.iter().flat_map(|column| &column.pages) {
            page.check(&disk::read_at(&file, &self.path, page.offset, page.bytes())?)?;
        }
        Ok(())
    }

    /// Rising positions of the rows whose key lies in one of the ranges (rising and apart). `None` when reading them
    /// one by one would cost more than looking at `rows_left` rows side by side.
    pub fn rows(&self, column: usize, ranges: &[(i64, i64)], rows_left: usize) -> Result<Option<Vec<u32>>> {
        let Some(column) = self.index.column(column) else { return Ok(None) };
        let (mut pages, mut sure) = (0_usize, 0_usize);
        for (low, high) in ranges {
            let touched = column.pages_of(*low, *high);
            pages += touched.len();
            // All pages between the first and the last one a range touches lie inside it.
            sure += touched.len().saturating_sub(2) * PAGE_ENTRIES;
            if pages.saturating_mul(PAGE_ENTRIES) > rows_left || sure.saturating_mul(ROW_COST) > rows_left {
                return Ok(None);
            }
        }
        let rows = self.read(column, ranges)?;
        Ok((rows.len().saturating_mul(ROW_COST) <= rows_left).then_some(rows))
    }

    fn read(&self, column: &IndexColumn, ranges: &[(i64, i64)]) -> Result<Vec<u32>> {
        let file = disk::open(&self.path)?;
        let mut rows = Vec::new();
        let mut last: Option<(usize, Vec<u8>)> = None;
        for (low, high) in ranges {
            for position in column.pages_of(*low, *high) {
                let Some(page) = column.pages.get(position) else { continue };
                let bytes = match last.take() {
                    Some((read, bytes)) if read == position => bytes,
                    _ => disk::read_at(&file, &self.path, page.offset, page.bytes())?,
                };
                page.rows_of(&bytes, *low, *high, &mut rows).map_err(|error| named(&self.path, &error))?;
                last = Some((position, bytes));
            }
        }
        rows.sort_unstable();
        if rows.last().is_some_and(|row| *row >= self.index.rows) {
            return Err(Error::corrupt(format!("{} names a row the chunk does not have", self.path.display())));
        }
        Ok(rows)
    }
}

fn named(path: &DiskPath, error: &Error) -> Error {
    Error::new(error.code(), format!("{}: {}", path.display(), error.detail()))
}

fn belongs(index: &ValueIndex, meta: &ChunkMeta, footer_crc: u32) -> bool {
    let positions = index.columns.iter().all(|column| (1..=meta.series.columns.len()).contains(&column.position));
    index.chunk_id == meta.chunk_id && index.footer_crc == footer_crc && u64::from(index.rows) == meta.rows && positions
}

/// The zone map of an open chunk.
#[derive(Debug)]
pub struct Zones {
    pub map: ZoneMap,
    /// Lowest and highest key of each column in the whole chunk.
    pub whole: Vec<(i64, i64)>,
}

/// Reads the zone map beside a chunk.
pub fn read_zones(chunk: &DiskPath, meta: &ChunkMeta, footer_crc: u32) -> Result<ZoneMap> {
    let path = zone_map_path(chunk);
    let zones = ZoneMap::decode(&disk::read(&path)?).map_err(|error| named(&path, &error))?;
    let rows = usize::try_from(meta.rows).unwrap_or(usize::MAX);
    let fits = zones.columns.len() == meta.series.columns.len() + 1 && zones.zones() == rows.div_ceil(ZONE_ROWS);
    if zones.chunk_id != meta.chunk_id || zones.footer_crc != footer_crc || !fits {
        return Err(Error::corrupt(format!("{} belongs to another chunk", path.display())));
    }
    Ok(zones)
}

/// Positions of the columns a registration wants indexed, as they are in a chunk; `ts` would be 0. None when the chunk
/// has more rows than an index can name.
pub fn wanted_columns(meta: &ChunkMeta, def: &SeriesDef) -> Vec<usize> {
    if u32::try_from(meta.rows).is_err() {
        return Vec::new();
    }
    let mut positions: Vec<usize> =
        def.value_index.iter().filter_map(|name| meta.series.column(name).map(|position| position + 1)).collect();
    positions.sort_unstable();
    positions.dedup();
    positions
}

/// Whether a chunk has a value index of other columns than a registration asks for, or none where it asks for one.
pub fn is_stale(open: &OpenChunk, path: &DiskPath, def: &SeriesDef) -> bool {
    let wanted = wanted_columns(&open.meta, def);
    match IndexFile::open(path, &open.meta, open.footer_crc()) {
        Ok(Some(file)) => !wanted.is_empty() && !file.covers(&wanted),
        Ok(None) => !wanted.is_empty(),
        Err(_) => false,
    }
}

fn is_float(meta: &ChunkMeta, position: usize) -> bool {
    let column = position.checked_sub(1).and_then(|position| meta.series.columns.get(position));
    column.is_some_and(|column| column.kind == ColumnType::Float64)
}

/// The zone map of a chunk, from its rows.
fn zone_map_of(open: &OpenChunk) -> Result<ZoneMap> {
    let meta = &open.meta;
    let mut zones = ZoneMap::new(meta.chunk_id, meta.series.columns.len() + 1);
    zones.footer_crc = open.footer_crc();
    for position in 0..open.blocks().len() {
        let block = open.block(position, &meta.series)?;
        let columns: Vec<&[i64]> = block.columns.iter().map(|column| column.typed_data::<i64>()).collect();
        zones.add_block(&columns, |column| is_float(meta, column));
    }
    Ok(zones)
}

/// Writes a value index of these columns; one column's entries (16 bytes a row) are in memory at a time.
fn stage_value_index(open: &OpenChunk, tmp: &DiskPath, positions: &[usize]) -> Result<StagedFile> {
    let meta = &open.meta;
    let rows = u32::try_from(meta.rows).map_err(|_| Error::internal("a chunk with too many rows for an index"))?;
    let mut index = ValueIndex { chunk_id: meta.chunk_id, footer_crc: open.footer_crc(), rows, columns: Vec::new() };
    let mut offset = ValueIndex::directory_bytes(rows, positions.len()) as u64;
    let mut staged = StagedFile::create(tmp)?;
    let path = staged.path().clone();
    let fail = |error: std::io::Error| Error::io("write", &path, &error);
    let mut out = BufWriter::with_capacity(1 << 18, &mut staged);
    // The directory comes first in the file and is known last.
    out.seek(SeekFrom::Start(offset)).map_err(fail)?;
    for position in positions {
        let float = is_float(meta, *position);
        let mut entries: Vec<(i64, u32)> = Vec::with_capacity(rows as usize);
        for block in 0..open.blocks().len() {
            let block = open.block(block, &meta.series)?;
            let words = block.columns.get(*position).map_or(&[][..], |column| column.typed_data::<i64>());
            entries.extend(words.iter().zip(entries.len() as u32..).map(|(word, row)| (order_key(*word, float), row)));
        }
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

/// Puts a finished file in the place of whatever has its name.
fn replace(staged: StagedFile, target: &DiskPath) -> Result<()> {
    disk::remove(target)?;
    if staged.publish(target)? {
        return Ok(());
    }
    Err(Error::internal(format!("{} appeared while it was written", target.display())))
}

/// Puts the sidecars of an open chunk in order: whole ones that are wanted stay.
fn put_in_order(
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
    let wanted = wanted_columns(meta, def);
    let target = value_index_path(path);
    if wanted.is_empty() {
        if target.exists() {
            disk::remove(&target)?;
            report.removed += 1;
        }
        return Ok(());
    }
    let whole = IndexFile::open(path, meta, footer_crc)
        .is_ok_and(|file| file.is_some_and(|file| file.covers(&wanted) && file.check_pages().is_ok()));
    if !whole {
        replace(stage_value_index(open, tmp, &wanted)?, &target)?;
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
    let wanted = wanted_columns(&open.meta, def);
    if wanted.is_empty() {
        return Ok(());
    }
    replace(stage_value_index(&open, tmp, &wanted)?, &value_index_path(chunk.path()))
}

impl StoreInner {
    /// Checks every sidecar of every chunk and writes those that are missing, damaged or no longer what the
    /// registration asks for.
    pub fn rebuild_sidecars(&self) -> Result<SidecarReport> {
        let state = self.queue.published();
        let mut report = SidecarReport::default();
        self.cache.orders.take();
        for series in state.series.values() {
            for chunk in series.chunks.iter() {
                self.rebuild_chunk(series, chunk, &mut report)?;
            }
        }
        Ok(report)
    }

    /// Does the same for the chunks that readers found without a usable sidecar since the last time.
    pub fn rebuild_ordered(&self) -> Result<SidecarReport> {
        let mut report = SidecarReport::default();
        let orders = self.cache.orders.take();
        if orders.is_empty() {
            return Ok(report);
        }
        let state = self.queue.published();
        for (series_id, chunk_id) in orders {
            let Some(series) = state.series.get(&series_id) else { continue };
            if let Some(chunk) = series.chunks.iter().find(|chunk| chunk.record.id == chunk_id) {
                self.rebuild_chunk(series, chunk, &mut report)?;
            }
        }
        Ok(report)
    }

    /// Between two other steps of maintenance; readers go on with what they have open.
    pub fn rebuild_chunk(
        &self,
        series: &SeriesState,
        chunk: &Arc<ChunkFile>,
        report: &mut SidecarReport,
    ) -> Result<()> {
        let _one_at_a_time = self.maintenance();
        report.chunks_checked += 1;
        let open = chunk.open_uncached()?;
        let before = *report;
        put_in_order(&open, chunk.path(), &self.root.join("tmp"), &series.def, report)?;
        if !coverage::is_whole(series, chunk) {
            let mut staged = StagedFile::create(&self.root.join("tmp"))?;
            if let Some(coverage) = coverage::from_rows(series, &open)? {
                staged.put(&coverage.encode())?;
                replace(staged, &coverage_path(chunk.path()))?;
                report.rebuilt += 1;
            }
        }
        if *report != before {
            tracing::info!(chunk = chunk.name(), "sidecars are in order again");
            chunk.forget();
        }
        Ok(())
    }
}

impl Store {
    /// Checks the sidecars of all chunks and writes those that are missing, damaged or no longer what the registration
    /// asks for. Upkeep does this by itself for chunks that a query found so.
    ///
    /// # Errors
    /// `corrupt_data` when a chunk itself is damaged; those before it are done.
    pub fn rebuild_sidecars(&self) -> Result<SidecarReport> {
        self.inner.rebuild_sidecars()
    }
}
