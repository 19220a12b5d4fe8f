//! Published chunk files in use: opened on demand, mapped, and checked block by block before the first row of a
//! block is served. A bit a block remembers that it was checked since the file was opened.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, OnceLock, PoisonError, Weak};

use arrow::buffer::Buffer;

use crate::disk::mmap::Map;
use crate::disk::{self, DiskPath};
use crate::error::{Error, ErrorCode, Result};
use crate::format::body::places;
use crate::format::bytes::range_of;
use crate::format::chunk::{self, BlockMeta, ChunkMeta};
use crate::format::coverage::Coverage;
use crate::format::manifest::ChunkRecord;
use crate::store::read::block::{Block, StoredMessage};
use crate::store::read::chunk_paths::{chunk_name, series_dir};
use crate::store::read::convert::converted;
use crate::store::read::map_column::map_column;
use crate::store::read::presence::PresenceCache;
use crate::store::read::sidecar::{self, IndexFile, Zones};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{ArcSwapOption, Mutex};
use crate::types::cells;
use crate::types::width::to_usize;
use crate::types::{SeriesDef, SharedCells};

/// A chunk file the manifest names.
#[derive(Debug)]
pub struct ChunkFile {
    pub record: ChunkRecord,
    path: DiskPath,
    /// Path below the store, for messages: they reach clients, which need not know the location of the store.
    name: String,
    open: ArcSwapOption<OpenChunk>,
    used: AtomicBool,
    obsolete: AtomicBool,
    /// Why its rows cannot be read: they are lost, and there is no file.
    lost: Option<String>,
}

/// A mapped chunk whose footer was checked.
#[derive(Debug)]
pub struct OpenChunk {
    pub meta: ChunkMeta,
    map: Map,
    checked: Vec<AtomicU64>,
    /// Columns of each block that was read.
    columns: Vec<OnceLock<Arc<[SharedCells]>>>,
    path: DiskPath,
    /// Path below the store.
    name: String,
    footer_crc: u32,
    /// First row of each block.
    block_rows: Vec<usize>,
    zones: OnceLock<Option<Zones>>,
    index: OnceLock<Option<IndexFile>>,
    /// A page of the index was damaged.
    index_bad: AtomicBool,
    /// Where readers' damage is counted; maintenance counts none.
    damage: Option<ReadReporter>,
    /// Coverage on the grid of the last request.
    pub(in crate::store) coverage: ArcSwapOption<Coverage>,
}

impl ChunkFile {
    /// The file of a manifest record; it is not touched yet.
    pub fn new(root: &DiskPath, record: ChunkRecord) -> Self {
        let path = series_dir(root, record.series_id).join(chunk_name(&record.partition, record.id));
        let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        Self {
            record,
            path,
            name,
            open: ArcSwapOption::empty(),
            used: AtomicBool::new(false),
            obsolete: AtomicBool::new(false),
            lost: None,
        }
    }

    /// Represents rows that are lost: reading them fails with `corrupt_data` and the reason.
    pub fn unreadable(root: &DiskPath, record: ChunkRecord, reason: &str) -> Self {
        let mut chunk = Self::new(root, record);
        chunk.lost = Some(reason.to_owned());
        chunk
    }

    /// Why its rows are lost, if they are.
    pub fn lost_reason(&self) -> Option<&str> {
        self.lost.as_deref()
    }

    pub fn path(&self) -> &DiskPath {
        &self.path
    }

    /// Path below the store.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether a file of another name is this one, by its length and its footer.
    pub fn is_file(&self, path: &DiskPath) -> bool {
        let footer_of = || -> Result<(ChunkMeta, u32)> {
            let file = disk::open(path)?;
            let found = disk::file_bytes(&file, path)?;
            let trailer_at = found.saturating_sub(chunk::TRAILER_BYTES as u64);
            let trailer = disk::read_at(&file, path, trailer_at, chunk::TRAILER_BYTES)?;
            let footer_bytes = chunk::footer_bytes(&trailer)?;
            let footer_at = trailer_at.saturating_sub(footer_bytes as u64);
            chunk::decode_footer(&disk::read_at(&file, path, footer_at, footer_bytes)?, self.record.file_bytes)
        };
        path.exists()
            && footer_of().is_ok_and(|(meta, crc)| crc == self.record.footer_crc && meta.chunk_id == self.record.id)
    }

    /// Unlinks the file when its last reader is dropped. Called after the manifest no longer names it.
    pub fn retire(&self) {
        self.obsolete.store(true, Ordering::Release);
    }

    /// The mapped chunk, if it is open already.
    pub(in crate::store) fn opened(&self) -> Option<Arc<OpenChunk>> {
        self.open.load_full()
    }

    /// The mapped chunk, opened and checked when it is not yet.
    pub fn open(self: &Arc<Self>, cache: &MapCache) -> Result<Arc<OpenChunk>> {
        self.used.store(true, Ordering::Relaxed);
        if let Some(open) = self.open.load_full() {
            metrics::counter!("fastk_chunk_hits_total").increment(1);
            return Ok(open);
        }
        let mut open = self.open_uncached().inspect_err(|error| self.reporter(cache).note(error))?;
        open.damage = Some(self.reporter(cache));
        metrics::counter!("fastk_chunks_opened_total").increment(1);
        let open = Arc::new(open);
        self.open.store(Some(Arc::clone(&open)));
        cache.opened(self);
        Ok(open)
    }

    fn reporter(self: &Arc<Self>, cache: &MapCache) -> ReadReporter {
        ReadReporter { log: Arc::clone(&cache.damage), chunk: Arc::downgrade(self) }
    }

    /// The mapped chunk for one use by maintenance.
    pub fn open_uncached(&self) -> Result<OpenChunk> {
        if let Some(reason) = &self.lost {
            return Err(
                Error::corrupt(format!("rows are lost: {reason}")).with_hint("`fastk admin repair` records the loss")
            );
        }
        OpenChunk::open(&self.path, &self.name, &self.record)
    }

    /// Lets the next reader open the file again, with the sidecars it has now.
    pub fn close(&self) {
        self.open.store(None);
    }
}

impl Drop for ChunkFile {
    fn drop(&mut self) {
        if self.obsolete.load(Ordering::Acquire) {
            self.open.store(None);
            if let Err(error) = disk::remove(&self.path).and_then(|()| sidecar::remove_all(&self.path)) {
                tracing::warn!(%error, "a replaced chunk could not be removed");
            }
        }
    }
}

impl OpenChunk {
    fn open(path: &DiskPath, shown: &str, record: &ChunkRecord) -> Result<Self> {
        let name = |error: Error| Error::new(error.code(), format!("chunk {shown}: {}", error.detail()));
        // An I/O error is not a missing file.
        let file = disk::open(path).map_err(|error| match error.code() {
            crate::ErrorCode::CorruptData => Error::corrupt(format!("chunk {shown} is missing")),
            _ => error,
        })?;
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
        let columns = meta.blocks.iter().map(|_| OnceLock::new()).collect();
        let other = footer_crc != record.footer_crc;
        if other || meta.chunk_id != record.id || meta.series_id != record.series_id {
            return Err(Error::corrupt(format!(
                "chunk {}: footer checksum {footer_crc:08x}, expected {:08x}",
                shown, record.footer_crc
            )));
        }
        let map = disk::map(&file, path)?;
        let words = meta.blocks.len().div_ceil(64);
        let mut row = 0;
        let block_rows = meta.blocks.iter().map(|block| {
            let first = row;
            row += to_usize(block.rows);
            first
        });
        Ok(Self {
            block_rows: block_rows.collect(),
            meta,
            map,
            checked: (0..words).map(|_| AtomicU64::new(0)).collect(),
            columns,
            path: path.to_owned(),
            name: shown.to_owned(),
            footer_crc,
            zones: OnceLock::new(),
            index: OnceLock::new(),
            index_bad: AtomicBool::new(false),
            damage: None,
            coverage: ArcSwapOption::empty(),
        })
    }

    /// Block table.
    pub fn blocks(&self) -> &[BlockMeta] {
        &self.meta.blocks
    }

    fn message_at(&self, block: &BlockMeta) -> (usize, usize) {
        (to_usize(block.offset), to_usize(block.bytes()))
    }

    /// Whether a block's checksum was checked since the file was opened.
    pub fn is_verified(&self, position: usize) -> bool {
        let bit = 1_u64 << (position % 64);
        self.checked.get(position / 64).is_some_and(|word| word.load(Ordering::Acquire) & bit != 0)
    }

    /// Checks a block's checksum unless that was done since the file was opened.
    pub fn verify(&self, position: usize) -> Result<&BlockMeta> {
        let block = self
            .meta
            .blocks
            .get(position)
            .ok_or_else(|| Error::internal(format!("{} has no block {position}", self.name)))?;
        if self.is_verified(position) {
            return Ok(block);
        }
        let (offset, length) = self.message_at(block);
        let crc = crc32c::crc32c(range_of(self.map.as_slice(), offset..offset + length, &self.name)?);
        if crc != block.crc {
            let error = Error::corrupt(format!(
                "chunk {}: block {position} at byte {offset} (timestamps {} to {}): checksum {crc:08x}, expected {:08x}",
                self.name, block.ts_min, block.ts_max, block.crc
            ));
            if let Some(damage) = &self.damage {
                damage.note(&error);
            }
            return Err(error);
        }
        if let Some(word) = self.checked.get(position / 64) {
            word.fetch_or(1 << (position % 64), Ordering::AcqRel);
        }
        Ok(block)
    }

    /// A checked block under the registration `def`, whose columns may be others than when the file was written.
    pub fn block(&self, position: usize, def: &SeriesDef) -> Result<Block> {
        let block = self.verify(position)?;
        let rows = to_usize(block.rows);
        let (offset, length) = self.message_at(block);
        let header_bytes = to_usize(block.header_bytes);
        let stored = &self.meta.series;
        let places = places(stored.all_layouts(), rows, block.nulls);
        let map_all = || places.map(|place| map_column(&self.map, offset + header_bytes, place)).collect();
        let columns: Arc<[SharedCells]> = match self.columns.get(position) {
            Some(columns) => Arc::clone(columns.get_or_init(map_all)),
            None => map_all(),
        };
        if stored.schema_version == def.schema_version {
            return Ok(
                Block::new(rows, columns)?.stored_as(StoredMessage::new(self.map.slice(offset, length), header_bytes))
            );
        }
        Block::new(rows, converted(&columns, rows, stored, def)?)
    }

    /// Timestamps of a checked block.
    pub fn timestamps(&self, position: usize) -> Result<Buffer> {
        let block = self.verify(position)?;
        let rows = to_usize(block.rows);
        let (offset, _) = self.message_at(block);
        Ok(self.map.column(offset + to_usize(block.header_bytes), rows * 8))
    }

    /// First row of a block, counted from the first row of the chunk.
    pub fn first_row(&self, block: usize) -> usize {
        cells::at(&self.block_rows, block)
    }

    /// The block that holds a row of the chunk.
    pub fn block_of(&self, row: usize) -> usize {
        self.block_rows.partition_point(|first| *first <= row).saturating_sub(1)
    }

    /// Checksum of the footer.
    pub fn footer_crc(&self) -> u32 {
        self.footer_crc
    }

    /// The zone map of the chunk. `None`, and a rebuild is requested, when it is missing or damaged: that only costs
    /// time.
    pub fn zones(&self, cache: &MapCache) -> Option<&Zones> {
        let zones = self.zones.get_or_init(|| match sidecar::read_zones(&self.path, &self.meta, self.footer_crc) {
            Ok(map) => Some(Zones { whole: map.chunk_summaries(), map }),
            Err(error) => {
                tracing::warn!(%error, "a zone map is not used");
                cache.sidecar_requests.add(&self.meta);
                None
            }
        });
        zones.as_ref()
    }

    /// Ascending positions of the rows with a key in one of the ranges, by the value index; `None` when the index is
    /// missing, unusable or does not exclude any of `rows_left` rows. Called for indexed columns only: a rebuild is
    /// requested for one that is not in the index yet.
    pub fn indexed_rows(
        &self,
        cache: &MapCache,
        column: usize,
        ranges: &[(i64, i64)],
        rows_left: usize,
    ) -> Option<Vec<u32>> {
        let discard = |error: Error| {
            if !self.index_bad.swap(true, Ordering::AcqRel) {
                tracing::warn!(%error, "a value index is not used");
                cache.sidecar_requests.add(&self.meta);
            }
        };
        let index = self.index.get_or_init(|| {
            let found = IndexFile::open(&self.path, &self.meta, self.footer_crc);
            found.unwrap_or_else(|error| {
                discard(error);
                None
            })
        });
        if self.index_bad.load(Ordering::Acquire) {
            return None;
        }
        let Some(index) = index.as_ref().filter(|index| index.has(column)) else {
            cache.sidecar_requests.add(&self.meta);
            return None;
        };
        index.rows(column, ranges, rows_left).unwrap_or_else(|error| {
            discard(error);
            None
        })
    }

    /// Whether the blocks with rows of a closed range can be read without waiting for the disk. Subtracts them from
    /// `left`; false when there are more.
    pub fn is_in_memory(&self, (start, end): (i64, i64), left: &mut usize) -> bool {
        let first = self.meta.blocks.partition_point(|block| block.ts_max < start);
        let near = self.meta.blocks.iter().enumerate().skip(first).take_while(|(_, block)| block.ts_min <= end);
        for (position, block) in near {
            let (offset, length) = self.message_at(block);
            let bytes = cells::range(self.map.as_slice(), offset..offset + length);
            if *left == 0 || !self.is_verified(position) || !disk::is_resident(bytes) {
                return false;
            }
            *left -= 1;
        }
        true
    }

    /// Brings a block into memory.
    pub fn populate(&self, position: usize) {
        if let Some(block) = self.meta.blocks.get(position) {
            let (offset, length) = self.message_at(block);
            self.map.populate(offset, length);
        }
    }
}

/// Chunks, by series and number, that a reader found without a usable sidecar. At most one entry per chunk.
#[derive(Debug, Default)]
pub struct SidecarRequests(std::sync::Mutex<BTreeSet<(u64, u64)>>);

impl SidecarRequests {
    fn add(&self, meta: &ChunkMeta) {
        self.add_chunk(meta.series_id, meta.chunk_id);
    }

    pub fn add_chunk(&self, series_id: u64, chunk_id: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert((series_id, chunk_id));
    }

    pub fn take(&self) -> BTreeSet<(u64, u64)> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Damaged blocks and files that readers found.
#[derive(Debug, Default)]
pub struct DamageLog(std::sync::Mutex<DamageEntry>);

#[derive(Debug, Default)]
struct DamageEntry {
    /// Failed reads since the count was reset, and the last error.
    reads: u64,
    last: String,
    /// The damaged chunks: a chunk that is dropped takes its damage with it.
    chunks: Vec<Weak<ChunkFile>>,
}

/// Most damaged chunks that are tracked separately; with more of them all count until the next reset.
const DAMAGED_CHUNKS_MAX: usize = 1_000;

/// Where the damage that readers find in a chunk is recorded.
#[derive(Clone, Debug)]
struct ReadReporter {
    log: Arc<DamageLog>,
    chunk: Weak<ChunkFile>,
}

impl ReadReporter {
    fn note(&self, error: &Error) {
        self.log.note(error, &self.chunk);
    }
}

impl DamageLog {
    fn entry(&self) -> std::sync::MutexGuard<'_, DamageEntry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, error: &Error, chunk: &Weak<ChunkFile>) {
        if error.code() == ErrorCode::CorruptData {
            let mut entry = self.entry();
            entry.reads += 1;
            error.detail().clone_into(&mut entry.last);
            let is_known = entry.chunks.iter().any(|known| known.ptr_eq(chunk));
            if !is_known && entry.chunks.len() <= DAMAGED_CHUNKS_MAX {
                entry.chunks.push(chunk.clone());
            }
        }
    }

    /// Number of reads that found damage, whether or not it still exists.
    pub fn reads(&self) -> u64 {
        self.entry().reads
    }

    /// Number of reads that found damage and the last error; `None` once every damaged chunk is dropped.
    pub fn unresolved(&self) -> Option<(u64, String)> {
        let mut entry = self.entry();
        if entry.chunks.len() <= DAMAGED_CHUNKS_MAX {
            entry.chunks.retain(|chunk| chunk.strong_count() > 0);
        }
        (!entry.chunks.is_empty()).then(|| (entry.reads, entry.last.clone()))
    }

    /// Resets the count.
    pub fn reset(&self) {
        *self.entry() = DamageEntry::default();
    }
}

/// Bounds how many chunk files stay mapped: the least recently used one is unmapped (second-chance order).
#[derive(Debug)]
pub struct MapCache {
    open: Mutex<VecDeque<Weak<ChunkFile>>>,
    maps_max: usize,
    /// Chunks whose sidecars have to be rebuilt.
    pub(in crate::store) sidecar_requests: SidecarRequests,
    /// Whether a block is brought into memory when it is read.
    pub prefetch: bool,
    pub(in crate::store) presence: PresenceCache,
    /// Damaged blocks and files that readers found.
    pub damage: Arc<DamageLog>,
}

impl MapCache {
    pub fn new(maps_max: usize, prefetch: bool) -> Self {
        Self {
            open: Mutex::new(VecDeque::new()),
            maps_max,
            sidecar_requests: SidecarRequests::default(),
            prefetch,
            presence: PresenceCache::default(),
            damage: Arc::default(),
        }
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
                metrics::counter!("fastk_chunks_evicted_total").increment(1);
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
