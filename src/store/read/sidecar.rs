//! Sidecars: derived files next to a chunk, with its name but for the extension.
//!
//! - A sidecar never decides the result of a query, only how much is read for it.
//! - It is bound to its chunk by chunk id and footer checksum; one that is missing, damaged or of another file is
//!   ignored by the query that notices, which requests a new one.
//! - It is replaced by removing the old file and linking a finished new one: a crash in between costs time only.
//! - It goes with the chunk.

use crate::disk::{self, DiskPath};
use crate::error::{Error, Result};
use crate::format::chunk::{ChunkMeta, ZONE_ROWS};
use crate::format::envelope::ENVELOPE_BYTES;
use crate::format::value_index::{IndexColumn, PAGE_ENTRIES, ValueIndex};
use crate::format::zone_map::{ZoneMap, ZoneSummary};
use crate::types::SeriesDef;
use crate::types::width::to_usize;

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

/// Removes all sidecars of a chunk file.
pub fn remove_all(chunk: &DiskPath) -> Result<()> {
    EXTENSIONS.iter().try_for_each(|extension| disk::remove(&chunk.with_extension(extension)))
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
    pub fn covers(&self, positions: &[usize]) -> bool {
        self.index.columns.iter().map(|column| column.position).eq(positions.iter().copied())
    }

    pub fn check_pages(&self) -> Result<()> {
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
        let (mut pages, mut rows_at_least) = (0_usize, 0_usize);
        for (low, high) in ranges {
            let touched = column.pages_of(*low, *high);
            pages += touched.len();
            // All pages between the first and the last one a range touches lie inside it.
            rows_at_least += touched.len().saturating_sub(2) * PAGE_ENTRIES;
            if pages.saturating_mul(PAGE_ENTRIES) > rows_left || rows_at_least.saturating_mul(ROW_COST) > rows_left {
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
            return Err(Error::corrupt(format!(
                "{} refers to a row that the chunk does not have",
                self.path.display()
            )));
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
    /// What is known about each column in the entire chunk.
    pub whole: Vec<ZoneSummary>,
}

/// Reads the zone map of a chunk.
pub fn read_zones(chunk: &DiskPath, meta: &ChunkMeta, footer_crc: u32) -> Result<ZoneMap> {
    let path = zone_map_path(chunk);
    let zones = ZoneMap::decode(&disk::read(&path)?).map_err(|error| named(&path, &error))?;
    let rows = to_usize(meta.rows);
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
