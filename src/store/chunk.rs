//! Published chunk files in use: opened on demand, mapped, and checked block by block before the first row of a
//! block is served. A bit a block remembers that it was checked since the file was opened.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use arc_swap::ArcSwapOption;
use arrow::buffer::Buffer;
use bytes::Bytes;

use super::coverage::{PresenceCache, coverage_path};
use crate::disk;
use crate::disk::mmap::Map;
use crate::error::{Error, Result};
use crate::format::chunk::{self, BlockMeta, ChunkMeta};
use crate::format::coverage::Coverage;
use crate::format::ipc::PREFIX_BYTES;
use crate::format::manifest::ChunkRecord;
use crate::format::zone_map::ZoneMap;
use crate::types::{ColumnType, SeriesDef, number};

/// A chunk file the manifest names.
#[derive(Debug)]
pub struct ChunkFile {
    pub record: ChunkRecord,
    path: PathBuf,
    /// Path below the store, for messages: they reach clients, who need not know where the store lies.
    name: String,
    open: ArcSwapOption<OpenChunk>,
    used: AtomicBool,
    obsolete: AtomicBool,
}

/// A mapped chunk whose footer was checked.
#[derive(Debug)]
pub struct OpenChunk {
    pub meta: ChunkMeta,
    map: Map,
    checked: Vec<AtomicU64>,
    path: PathBuf,
    /// Path below the store.
    name: String,
    footer_crc: u32,
    zones: OnceLock<Option<ZoneMap>>,
    /// Coverage on the grid it was last asked for.
    pub(super) coverage: ArcSwapOption<Coverage>,
}

/// One block's columns, each its own slice of the map.
#[derive(Clone, Debug)]
pub struct BlockColumns {
    pub rows: usize,
    /// `ts`, then the columns of the series' registration.
    pub columns: Vec<Buffer>,
    /// The whole message, when the file's columns are those of the series.
    pub message: Option<BlockMessage>,
}

/// A block's message in the file.
#[derive(Clone, Debug)]
pub struct BlockMessage {
    pub message: Bytes,
    pub header: Bytes,
    pub body: Bytes,
}

/// Directory of a series under `chunks/`.
pub fn series_dir(root: &Path, series_id: u64) -> PathBuf {
    root.join("chunks").join(format!("{series_id:010}"))
}

/// File name of a chunk.
pub fn chunk_name(partition: &str, chunk_id: u64) -> String {
    format!("{partition}-{chunk_id:016}.arrow")
}

impl ChunkFile {
    /// The file of a manifest record; it is not touched yet.
    pub fn new(root: &Path, record: ChunkRecord) -> Self {
        let path = series_dir(root, record.series_id).join(chunk_name(&record.partition, record.id));
        let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        Self {
            record,
            path,
            name,
            open: ArcSwapOption::empty(),
            used: AtomicBool::new(false),
            obsolete: AtomicBool::new(false),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Unlinks the file when the last reader lets go of it. Called after the manifest no longer names it.
    pub fn retire(&self) {
        self.obsolete.store(true, Ordering::Release);
    }

    /// The mapped chunk, if it is open already.
    pub(super) fn opened(&self) -> Option<Arc<OpenChunk>> {
        self.open.load_full()
    }

    /// The mapped chunk, opened and checked when it is not yet.
    pub fn open(self: &Arc<Self>, cache: &MapCache) -> Result<Arc<OpenChunk>> {
        self.used.store(true, Ordering::Relaxed);
        if let Some(open) = self.open.load_full() {
            return Ok(open);
        }
        let open = Arc::new(OpenChunk::open(&self.path, &self.name, &self.record)?);
        self.open.store(Some(Arc::clone(&open)));
        cache.opened(self);
        Ok(open)
    }
}

impl Drop for ChunkFile {
    fn drop(&mut self) {
        if self.obsolete.load(Ordering::Acquire) {
            self.open.store(None);
            let sidecars = [zone_map_path(&self.path), coverage_path(&self.path)];
            let removed =
                disk::remove(&self.path).and_then(|()| sidecars.iter().try_for_each(|path| disk::remove(path)));
            if let Err(error) = removed {
                tracing::warn!(%error, "a replaced chunk stays behind");
            }
        }
    }
}

impl OpenChunk {
    fn open(path: &Path, shown: &str, record: &ChunkRecord) -> Result<Self> {
        let name = |error: Error| Error::new(error.code(), format!("chunk {shown}: {}", error.detail()));
        if !path.exists() {
            return Err(Error::corrupt(format!("chunk {shown} is missing")));
        }
        let file = disk::open(path)?;
        let found = disk::file_bytes(&file, path)?;
        if found != record.file_bytes {
            return Err(Error::corrupt(format!("chunk {}: {found} bytes, expected {}", shown, record.file_bytes)));
        }
        let trailer_at = found.saturating_sub(chunk::TRAILER_BYTES as u64);
        let trailer = disk::read_at(&file, path, trailer_at, chunk::TRAILER_BYTES)?;
        let footer_bytes = chunk::footer_bytes(&trailer).map_err(name)?;
        let footer_at = trailer_at
            .checked_sub(footer_bytes as u64)
            .ok_or_else(|| Error::corrupt(format!("chunk {shown}: the footer is longer than the file")))?;
        let footer = disk::read_at(&file, path, footer_at, footer_bytes)?;
        let (meta, footer_crc) = chunk::decode_footer(&footer, found).map_err(name)?;
        if footer_crc != record.footer_crc || meta.chunk_id != record.id || meta.series_id != record.series_id {
            return Err(Error::corrupt(format!(
                "chunk {}: footer checksum {footer_crc:08x}, expected {:08x}",
                shown, record.footer_crc
            )));
        }
        let map = Map::new(&file, path)?;
        let words = meta.blocks.len().div_ceil(64);
        Ok(Self {
            meta,
            map,
            checked: (0..words).map(|_| AtomicU64::new(0)).collect(),
            path: path.to_owned(),
            name: shown.to_owned(),
            footer_crc,
            zones: OnceLock::new(),
            coverage: ArcSwapOption::empty(),
        })
    }

    /// Block table.
    pub fn blocks(&self) -> &[BlockMeta] {
        &self.meta.blocks
    }

    fn message_at(&self, block: &BlockMeta) -> (usize, usize) {
        let wide = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
        (wide(block.offset), wide(block.bytes()))
    }

    /// Checks a block's checksum unless that was done since the file was opened.
    pub fn verify(&self, position: usize) -> Result<&BlockMeta> {
        let block = self
            .meta
            .blocks
            .get(position)
            .ok_or_else(|| Error::internal(format!("{} has no block {position}", self.name)))?;
        let bit = 1_u64 << (position % 64);
        let word = self.checked.get(position / 64);
        if word.is_some_and(|word| word.load(Ordering::Acquire) & bit != 0) {
            return Ok(block);
        }
        let (offset, length) = self.message_at(block);
        let bytes = self.map.as_slice().get(offset..offset.saturating_add(length)).unwrap_or_default();
        let crc = crc32c::crc32c(bytes);
        if crc != block.crc {
            return Err(Error::corrupt(format!(
                "chunk {}: block {position} at byte {offset} (timestamps {} to {}): checksum {crc:08x}, expected {:08x}",
                self.name, block.ts_min, block.ts_max, block.crc
            )));
        }
        if let Some(word) = word {
            word.fetch_or(bit, Ordering::AcqRel);
        }
        Ok(block)
    }

    /// A checked block under the registration `def`, whose columns may have gained digits since the file was
    /// written.
    pub fn block(&self, position: usize, def: &SeriesDef) -> Result<BlockColumns> {
        let block = self.verify(position)?;
        let rows = usize::try_from(block.rows).unwrap_or(0);
        let (offset, length) = self.message_at(block);
        let header_bytes = usize::try_from(block.header_bytes).unwrap_or(0);
        let body_at = offset + header_bytes;
        let column =
            |position: usize| Buffer::from(self.map.slice(body_at + chunk::column_offset(rows, position), rows * 8));
        let same = self.meta.series.columns == def.columns;
        let mut columns = vec![column(0)];
        for (position, wanted) in def.columns.iter().enumerate() {
            if same {
                columns.push(column(position + 1));
                continue;
            }
            let stored = self
                .meta
                .series
                .column(&wanted.name)
                .ok_or_else(|| Error::internal(format!("{} has no column {}", self.name, wanted.name)))?;
            let kind = self.meta.series.columns.get(stored).map(|column| column.kind);
            columns.push(rescaled(column(stored + 1), kind, wanted.kind)?);
        }
        let message = same.then(|| BlockMessage {
            message: self.map.slice(offset, length),
            header: self.map.slice(offset + PREFIX_BYTES, header_bytes.saturating_sub(PREFIX_BYTES)),
            body: self.map.slice(body_at, length - header_bytes),
        });
        Ok(BlockColumns { rows, columns, message })
    }

    /// Timestamps of a checked block.
    pub fn timestamps(&self, position: usize) -> Result<Buffer> {
        let block = self.verify(position)?;
        let rows = usize::try_from(block.rows).unwrap_or(0);
        let (offset, _) = self.message_at(block);
        Ok(Buffer::from(self.map.slice(offset + usize::try_from(block.header_bytes).unwrap_or(0), rows * 8)))
    }

    /// The zone map beside the file. `None` when it is missing or damaged: that only costs time.
    pub fn zones(&self) -> Option<&ZoneMap> {
        self.zones
            .get_or_init(|| match read_zones(&self.path, &self.meta, self.footer_crc) {
                Ok(zones) => Some(zones),
                Err(error) => {
                    tracing::warn!(%error, "a zone map is not used");
                    None
                }
            })
            .as_ref()
    }

    /// Brings a block into memory.
    pub fn populate(&self, position: usize) {
        if let Some(block) = self.meta.blocks.get(position) {
            let (offset, length) = self.message_at(block);
            self.map.populate(offset, length);
        }
    }
}

/// Name of the zone map of a chunk file.
pub fn zone_map_path(chunk: &Path) -> PathBuf {
    chunk.with_extension("zmap")
}

fn read_zones(chunk: &Path, meta: &ChunkMeta, footer_crc: u32) -> Result<ZoneMap> {
    let path = zone_map_path(chunk);
    let zones = ZoneMap::decode(&disk::read(&path)?)
        .map_err(|error| Error::new(error.code(), format!("{}: {}", path.display(), error.detail())))?;
    let rows = usize::try_from(meta.rows).unwrap_or(usize::MAX);
    let fits = zones.columns.len() == meta.series.columns.len() + 1 && zones.zones() == rows.div_ceil(chunk::ZONE_ROWS);
    if zones.chunk_id != meta.chunk_id || zones.footer_crc != footer_crc || !fits {
        return Err(Error::corrupt(format!("{} belongs to another chunk", path.display())));
    }
    Ok(zones)
}

/// A column under the type the series has now.
fn rescaled(buffer: Buffer, stored: Option<ColumnType>, wanted: ColumnType) -> Result<Buffer> {
    match (stored, wanted) {
        (Some(stored), wanted) if stored == wanted => Ok(buffer),
        (Some(ColumnType::Decimal { digits: from }), ColumnType::Decimal { digits: to }) => {
            let cells: Option<Vec<i64>> =
                buffer.typed_data::<i64>().iter().map(|raw| number::rescale(*raw, from, to)).collect();
            cells.map(Buffer::from_vec).ok_or_else(|| Error::internal("a stored decimal does not fit the new digits"))
        }
        (stored, wanted) => Err(Error::internal(format!("a column stored as {stored:?} is read as {wanted:?}"))),
    }
}

/// Bounds how many chunk files stay mapped: the least recently used one is let go (second-chance order).
#[derive(Debug)]
pub struct MapCache {
    open: Mutex<VecDeque<Weak<ChunkFile>>>,
    maps_max: usize,
    /// Whether a block is brought into memory when it is read.
    pub prefetch: bool,
    pub(super) presence: PresenceCache,
}

impl MapCache {
    pub fn new(maps_max: usize, prefetch: bool) -> Self {
        Self { open: Mutex::new(VecDeque::new()), maps_max, prefetch, presence: PresenceCache::default() }
    }

    fn opened(&self, chunk: &Arc<ChunkFile>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.push_back(Arc::downgrade(chunk));
        let mut second_chances = open.len();
        while open.len() > self.maps_max {
            let Some(front) = open.pop_front() else { break };
            let Some(candidate) = front.upgrade() else { continue };
            if second_chances > 0 && candidate.used.swap(false, Ordering::Relaxed) {
                second_chances -= 1;
                open.push_back(front);
            } else {
                candidate.open.store(None);
            }
        }
    }

    /// How many files are mapped at most right now.
    pub fn len(&self) -> usize {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
