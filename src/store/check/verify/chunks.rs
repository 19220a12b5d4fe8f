//! Chunk files and their sidecars: read from front to back in one pass, a block in memory at a time.

use std::collections::BTreeMap;

use crate::disk::{self, DiskPath, File};
use crate::error::{Error, ErrorCode, Result};
use crate::format::body::block_columns;
use crate::format::chunk::{self, ChunkMeta, ZONE_ROWS};
use crate::format::chunk_salvage::{ChunkSalvage, salvage_chunk};
use crate::format::coverage::Coverage;
use crate::format::envelope::ENVELOPE_BYTES;
use crate::format::ipc;
use crate::format::manifest::ChunkRecord;
use crate::format::order_key::NativeType;
use crate::format::value_index::ValueIndex;
use crate::format::zone_map::ZoneMap;
use crate::store::check::verify::finding::{Finding, FindingKind, Severity};
use crate::store::check::verify::read_file::{FileReadOutcome, READ_ATTEMPTS};
use crate::store::check::verify::run::VerifyRun;
use crate::store::check::verify::tails::map_of;
use crate::store::read::chunk_paths::chunk_name;
use crate::store::read::sidecar::{coverage_path, value_index_path, wanted_columns, zone_map_path};
use crate::types::cells;
use crate::types::width::to_usize;
use crate::types::{CellSlice, Grid};

/// Bytes read at a time where nothing says where a piece ends.
const PIECE_BYTES: u64 = 1 << 20;

/// A chunk file that is being read.
struct ChunkUnderTest<'r> {
    record: &'r ChunkRecord,
    path: DiskPath,
    name: String,
    file: File,
}

/// What its rows say, for comparison with its sidecars.
struct RowFacts {
    zones: ZoneMap,
    coverage: Option<Coverage>,
    /// Every row was read and is right.
    whole: bool,
}

impl ChunkUnderTest<'_> {
    fn finding(&self, kind: FindingKind, message: impl Into<String>) -> Finding {
        let mut finding = Finding::new(kind, self.name.clone(), message).file_id(self.record.id);
        finding.partition = Some(self.record.partition.clone());
        finding
    }

    fn all_rows(&self, finding: Finding) -> Finding {
        finding.rows(self.record.rows, self.record.ts_min, self.record.ts_max)
    }

    fn read(&self, offset: u64, bytes: u64) -> Result<Vec<u8>> {
        disk::read_at(&self.file, &self.path, offset, to_usize(bytes))
    }
}

impl VerifyRun<'_> {
    pub fn chunks(&mut self) -> Result<()> {
        let records: Vec<ChunkRecord> = self.contents().chunks.values().cloned().collect();
        for record in &records {
            self.control.check()?;
            self.chunk(record)?;
        }
        self.clashes(&records);
        Ok(())
    }

    fn chunk(&mut self, record: &ChunkRecord) -> Result<()> {
        let path = self.dir(record.series_id).join(chunk_name(&record.partition, record.id));
        let name = self.name(&path);
        let file = match crate::store::check::verify::read_file::open(&path) {
            FileReadOutcome::Is(file) => file,
            FileReadOutcome::Missing => {
                self.control.advance(record.file_bytes)?;
                if self.reading.whole && self.still(|contents| contents.chunks.contains_key(&record.id))? {
                    let finding = Finding::new(FindingKind::MissingChunk, name, "the manifest names it");
                    let mut finding = finding.file_id(record.id).rows(record.rows, record.ts_min, record.ts_max);
                    finding.partition = Some(record.partition.clone());
                    self.add_of(record.series_id, finding);
                }
                return Ok(());
            }
            FileReadOutcome::Unreadable(error) => {
                self.add_of(
                    record.series_id,
                    crate::store::check::verify::read_file::unreadable(&name, &error).file_id(record.id),
                );
                return self.control.advance(record.file_bytes);
            }
        };
        self.report.chunks += 1;
        self.report.rows += record.rows;
        let chunk = ChunkUnderTest { record, path, name, file };
        match self.chunk_file(&chunk) {
            Ok(()) => {}
            Err(error) if error.code() == ErrorCode::Io => {
                self.add_of(
                    record.series_id,
                    crate::store::check::verify::read_file::unreadable(&chunk.name, &error).file_id(record.id),
                );
            }
            Err(error) => return Err(error),
        }
        self.report.files_checked += 1;
        self.report.bytes_checked += record.file_bytes;
        self.control.check()
    }

    fn chunk_file(&mut self, chunk: &ChunkUnderTest<'_>) -> Result<()> {
        let record = chunk.record;
        let found = disk::file_bytes(&chunk.file, &chunk.path)?;
        if found < record.file_bytes {
            let message = format!("{} bytes are missing at its end", record.file_bytes - found);
            let finding = chunk.all_rows(chunk.finding(FindingKind::TruncatedChunk, message));
            let mut finding = finding.at(found, record.file_bytes - found).compared(record.file_bytes, found);
            if let Some(salvage) = salvage(chunk, found) {
                let lost = lost(&salvage, record);
                (finding.rows, finding.ts_min, finding.ts_max) = (Some(lost.0), lost.1, lost.2);
                finding.message = format!("{}; {} rows are lost", finding.message, lost.0);
            }
            self.add_of(record.series_id, finding);
            self.control.advance(record.file_bytes)?;
            return self.sidecars_alone(chunk);
        }
        if found > record.file_bytes {
            let message = "bytes were added after its end";
            let finding = chunk.finding(FindingKind::GrownChunk, message);
            let finding = finding.at(record.file_bytes, found - record.file_bytes);
            self.add_of(record.series_id, finding.compared(record.file_bytes, found));
        }
        let (meta, footer_at) = match footer(chunk) {
            Ok(found) => found,
            Err(error) if error.code() == ErrorCode::UnsupportedFormat => {
                self.add_of(record.series_id, chunk.finding(FindingKind::NewerFormat, error.detail()));
                return self.control.advance(record.file_bytes);
            }
            Err(error) if error.code() == ErrorCode::CorruptData => {
                self.without_footer(chunk, error.detail());
                self.control.advance(record.file_bytes)?;
                return self.sidecars_alone(chunk);
            }
            Err(error) => return Err(error),
        };
        if let Some((expected, found)) = differs(&meta, record) {
            let finding = chunk.all_rows(chunk.finding(FindingKind::WrongChunk, "its footer is that of another file"));
            self.add_of(record.series_id, finding.compared(expected, found));
            return self.control.advance(record.file_bytes);
        }
        let before = self.report.count();
        let coverage = self.coverage_sidecar(chunk, &meta)?;
        let mut facts = RowFacts {
            zones: ZoneMap::new(record.id, meta.series.columns.len() + 1),
            coverage: coverage.as_ref().map(|found| Coverage::new(record.id, found.grid)),
            whole: true,
        };
        let crc = self.blocks(chunk, &meta, footer_at, &mut facts)?;
        if crc != record.file_crc && facts.whole && self.report.count() == before {
            let message = "its checksum is not the manifest's, although each of its parts is intact";
            let finding = chunk.all_rows(chunk.finding(FindingKind::WrongChunk, message));
            let (expected, found) = (format!("{:08x}", record.file_crc), format!("{crc:08x}"));
            self.add_of(record.series_id, finding.compared(expected, found));
        }
        if let (Some(found), Some(coverage_of_rows), true) = (&coverage, &facts.coverage, facts.whole)
            && (found.aligned != coverage_of_rows.aligned || found.off_grid != coverage_of_rows.off_grid)
        {
            self.sidecar_finding(chunk, &coverage_path(&chunk.path), "it does not match the intervals of the rows");
        }
        self.zone_map(chunk, &meta, &facts)?;
        self.value_index(chunk, Some(&meta))
    }

    /// A damaged footer, and the other blocks that are damaged.
    fn without_footer(&mut self, chunk: &ChunkUnderTest<'_>, reason: &str) {
        let record = chunk.record;
        let mut finding = chunk.all_rows(chunk.finding(FindingKind::DamagedFooter, reason));
        let salvage = salvage(chunk, record.file_bytes);
        match &salvage {
            None => {
                finding.message = format!("{reason}; the head is damaged too, so none of its rows can be recovered");
                finding.remedy = FindingKind::WrongChunk.remedy().into();
            }
            Some(salvage) if salvage.is_complete() => {
                finding.message = format!("{reason}; every block is intact, so nothing is lost");
            }
            Some(_) => {}
        }
        self.add_of(record.series_id, finding);
        for place in salvage.iter().flat_map(|salvage| &salvage.damaged) {
            let mut finding = chunk.finding(FindingKind::DamagedBlock, place.reason.clone());
            finding = finding.at(place.offset, place.bytes);
            finding.block = Some(place.position as u64);
            finding.rows = place.rows;
            (finding.ts_min, finding.ts_max) = place.ts.unzip();
            self.add_of(record.series_id, finding);
        }
    }

    /// Head, blocks and what follows them. Returns the checksum of the file.
    fn blocks(
        &mut self,
        chunk: &ChunkUnderTest<'_>,
        meta: &ChunkMeta,
        footer_at: u64,
        facts: &mut RowFacts,
    ) -> Result<u32> {
        let record = chunk.record;
        let head_bytes = chunk::head_bytes(meta)? as u64;
        let head = chunk.read(0, head_bytes)?;
        let found = crc32c::crc32c(&head);
        if found != meta.head_crc {
            let finding = chunk.finding(FindingKind::DamagedHead, "its checksum does not match").at(0, head_bytes);
            let (expected, found) = (format!("{:08x}", meta.head_crc), format!("{found:08x}"));
            self.add_of(record.series_id, finding.compared(expected, found));
        }
        let mut crc = found;
        self.control.advance(head_bytes)?;
        let mut last = None;
        for (position, block) in meta.blocks.iter().enumerate() {
            let bytes = chunk.read(block.offset, block.bytes())?;
            crc = crc32c::crc32c_append(crc, &bytes);
            self.control.advance(block.bytes())?;
            let found = crc32c::crc32c(&bytes);
            let named = |kind, message: &str| {
                let finding = chunk.finding(kind, message).at(block.offset, block.bytes());
                let mut finding = finding.rows(u64::from(block.rows), block.ts_min, block.ts_max);
                finding.block = Some(position as u64);
                finding
            };
            if found != block.crc {
                let finding = named(FindingKind::DamagedBlock, "its checksum does not match");
                let (expected, found) = (format!("{:08x}", block.crc), format!("{found:08x}"));
                self.add_of(record.series_id, finding.compared(expected, found));
                facts.whole = false;
            } else if let Err(wrong) = rows(meta, block, &bytes, last, facts) {
                self.add_of(record.series_id, named(FindingKind::WrongRows, &wrong));
                facts.whole = false;
            }
            last = Some(block.ts_max);
        }
        for entry in &meta.dictionaries {
            let bytes = chunk.read(entry.offset, entry.bytes())?;
            crc = crc32c::crc32c_append(crc, &bytes);
            if let Err(error) = chunk::read_dictionary(&meta.series, entry, &bytes) {
                let finding = chunk.finding(FindingKind::DamagedBlock, error.detail());
                self.add_of(record.series_id, finding.at(entry.offset, entry.bytes()));
                facts.whole = false;
            }
        }
        let end = meta.messages_end().unwrap_or(head_bytes);
        let tail = chunk.read(end, footer_at.saturating_sub(end))?;
        if tail != ipc::END_OF_STREAM {
            let message = "the bytes between the last block and the footer are damaged; no row is among them";
            let finding = chunk.finding(FindingKind::DamagedFooter, message).at(end, tail.len() as u64);
            self.add_of(record.series_id, finding.severity(Severity::Warning));
        }
        crc = crc32c::crc32c_append(crc, &tail);
        let mut at = footer_at;
        while at < record.file_bytes {
            let bytes = chunk.read(at, PIECE_BYTES.min(record.file_bytes - at))?;
            crc = crc32c::crc32c_append(crc, &bytes);
            at += bytes.len() as u64;
        }
        self.control.advance(record.file_bytes.saturating_sub(end))?;
        let ends = (meta.blocks.first().map(|b| b.ts_min), meta.blocks.last().map(|b| b.ts_max));
        if ends != (Some(meta.ts_min), Some(meta.ts_max)) {
            let message = "its blocks have other first or last timestamps than its footer";
            self.add_of(record.series_id, chunk.all_rows(chunk.finding(FindingKind::WrongRows, message)));
        }
        let span = meta.series.partition.span_of(meta.ts_min, meta.series.unit);
        if span.name != record.partition || meta.ts_max > span.end {
            let message = format!("rows of partition {} are in a chunk of partition {}", span.name, record.partition);
            self.add_of(record.series_id, chunk.all_rows(chunk.finding(FindingKind::WrongRows, message)));
        }
        Ok(crc)
    }

    fn sidecar_finding(&mut self, chunk: &ChunkUnderTest<'_>, path: &DiskPath, message: &str) {
        let mut finding = Finding::new(FindingKind::DamagedSidecar, self.name(path), message);
        finding.file_id = Some(chunk.record.id);
        finding.partition = Some(chunk.record.partition.clone());
        self.add_of(chunk.record.series_id, finding);
    }

    /// A missing sidecar; the writer may be about to replace it, or to remove its chunk.
    fn missing_sidecar(&mut self, chunk: &ChunkUnderTest<'_>, path: &DiskPath) -> Result<()> {
        for _ in 0..if self.live { READ_ATTEMPTS } else { 0 } {
            crate::store::check::verify::read_file::pause();
            if path.exists() {
                return Ok(());
            }
        }
        let id = chunk.record.id;
        if self.still(|contents| contents.chunks.contains_key(&id))? {
            let mut finding =
                Finding::new(FindingKind::MissingSidecar, self.name(path), "the chunk is read without it");
            finding.file_id = Some(id);
            finding.partition = Some(chunk.record.partition.clone());
            self.add_of(chunk.record.series_id, finding);
        }
        Ok(())
    }

    /// Bytes of a small sidecar; nothing when it is missing, which is a finding where it is required.
    fn sidecar(&mut self, chunk: &ChunkUnderTest<'_>, path: &DiskPath, is_expected: bool) -> Result<Option<Vec<u8>>> {
        match crate::store::check::verify::read_file::read(path) {
            FileReadOutcome::Is(bytes) => {
                self.count(bytes.len() as u64)?;
                Ok(Some(bytes))
            }
            FileReadOutcome::Missing => {
                if is_expected {
                    self.missing_sidecar(chunk, path)?;
                }
                Ok(None)
            }
            FileReadOutcome::Unreadable(error) => {
                let finding = crate::store::check::verify::read_file::unreadable(&self.name(path), &error)
                    .file_id(chunk.record.id);
                self.add_of(chunk.record.series_id, finding);
                Ok(None)
            }
        }
    }

    /// The sidecars of a chunk whose footer cannot be read: whether they are intact and belong to it.
    fn sidecars_alone(&mut self, chunk: &ChunkUnderTest<'_>) -> Result<()> {
        let record = chunk.record;
        let path = zone_map_path(&chunk.path);
        if let Some(bytes) = self.sidecar(chunk, &path, true)? {
            let belongs = ZoneMap::decode(&bytes).map(|map| (map.chunk_id, map.footer_crc));
            self.check_sidecar(chunk, &path, belongs);
        }
        let path = coverage_path(&chunk.path);
        let def = self.defs.get(&record.series_id).cloned();
        let grid = def.as_ref().is_some_and(|def| Grid::of(def, Some(record.ts_min)).is_ok());
        if let Some(bytes) = self.sidecar(chunk, &path, grid)? {
            let unit = def.as_ref().map_or_else(Default::default, |def| def.unit);
            let belongs = Coverage::decode(&bytes, unit).map(|found| (found.chunk_id, found.footer_crc));
            self.check_sidecar(chunk, &path, belongs);
        }
        self.value_index(chunk, None)
    }

    fn check_sidecar(&mut self, chunk: &ChunkUnderTest<'_>, path: &DiskPath, belongs: Result<(u64, u32)>) {
        match belongs {
            Ok(of) if of == (chunk.record.id, chunk.record.footer_crc) => {}
            Ok(_) => self.sidecar_finding(chunk, path, "it belongs to another chunk"),
            Err(error) => self.sidecar_finding(chunk, path, error.detail()),
        }
    }

    /// The coverage of a chunk when it is intact and belongs to it.
    fn coverage_sidecar(&mut self, chunk: &ChunkUnderTest<'_>, meta: &ChunkMeta) -> Result<Option<Coverage>> {
        let path = coverage_path(&chunk.path);
        let is_expected = Grid::of(&meta.series, Some(meta.ts_min)).is_ok();
        let Some(bytes) = self.sidecar(chunk, &path, is_expected)? else { return Ok(None) };
        match Coverage::decode(&bytes, meta.series.unit) {
            Ok(found) if (found.chunk_id, found.footer_crc) == (chunk.record.id, chunk.record.footer_crc) => {
                return Ok(Some(found));
            }
            Ok(_) => self.sidecar_finding(chunk, &path, "it belongs to another chunk"),
            Err(error) => self.sidecar_finding(chunk, &path, error.detail()),
        }
        Ok(None)
    }

    fn zone_map(&mut self, chunk: &ChunkUnderTest<'_>, meta: &ChunkMeta, facts: &RowFacts) -> Result<()> {
        let path = zone_map_path(&chunk.path);
        let Some(bytes) = self.sidecar(chunk, &path, true)? else { return Ok(()) };
        let found = match ZoneMap::decode(&bytes) {
            Ok(found) => found,
            Err(error) => {
                self.sidecar_finding(chunk, &path, error.detail());
                return Ok(());
            }
        };
        let rows = to_usize(meta.rows);
        let fits = found.columns.len() == meta.series.columns.len() + 1 && found.zones() == rows.div_ceil(ZONE_ROWS);
        if (found.chunk_id, found.footer_crc) != (chunk.record.id, chunk.record.footer_crc) || !fits {
            self.sidecar_finding(chunk, &path, "it belongs to another chunk");
        } else if facts.whole && found.columns != facts.zones.columns {
            self.sidecar_finding(chunk, &path, "it does not match the rows");
        }
        Ok(())
    }

    /// A value index: its directory, its pages and how many rows it is about.
    fn value_index(&mut self, chunk: &ChunkUnderTest<'_>, meta: Option<&ChunkMeta>) -> Result<()> {
        let path = value_index_path(&chunk.path);
        // It must exist if the registration required it when the chunk was written, and still does.
        let now = self.defs.get(&chunk.record.series_id).cloned();
        let columns_now = meta.zip(now.as_ref()).map_or_else(Vec::new, |(meta, def)| wanted_columns(meta, def));
        let columns_then = meta.map_or_else(Vec::new, |meta| wanted_columns(meta, &meta.series));
        let was_expected = columns_now.iter().any(|column| columns_then.contains(column));
        let file = match crate::store::check::verify::read_file::open(&path) {
            FileReadOutcome::Is(file) => file,
            FileReadOutcome::Missing if was_expected => return self.missing_sidecar(chunk, &path),
            FileReadOutcome::Missing => {
                if !columns_now.is_empty() && !self.live {
                    self.stale(chunk, &path, "the registration now requires one");
                }
                return Ok(());
            }
            FileReadOutcome::Unreadable(error) => {
                let finding = crate::store::check::verify::read_file::unreadable(&self.name(&path), &error)
                    .file_id(chunk.record.id);
                self.add_of(chunk.record.series_id, finding);
                return Ok(());
            }
        };
        self.report.files_checked += 1;
        match self.index_pages(chunk, &file, &path) {
            Ok(index) => {
                let has: Vec<usize> = index.columns.iter().map(|column| column.position).collect();
                if meta.is_some() && now.is_some() && !columns_now.is_empty() && has != columns_now && !self.live {
                    self.stale(chunk, &path, "the registration now requires other columns");
                }
            }
            Err(error) if error.code() == ErrorCode::NotReady => return Err(error),
            Err(error) => self.sidecar_finding(chunk, &path, error.detail()),
        }
        Ok(())
    }

    fn stale(&mut self, chunk: &ChunkUnderTest<'_>, path: &DiskPath, message: &str) {
        let finding = Finding::new(FindingKind::StaleSidecar, self.name(path), message).file_id(chunk.record.id);
        self.add_of(chunk.record.series_id, finding);
    }

    fn index_pages(&mut self, chunk: &ChunkUnderTest<'_>, file: &File, path: &DiskPath) -> Result<ValueIndex> {
        let file_bytes = disk::file_bytes(file, path)?;
        if file_bytes < ENVELOPE_BYTES as u64 {
            return Err(Error::corrupt("value index is truncated"));
        }
        let length = ValueIndex::directory_length(&disk::read_at(file, path, 0, ENVELOPE_BYTES)?)?;
        if length as u64 > file_bytes {
            return Err(Error::corrupt("its directory is longer than the file"));
        }
        let index = ValueIndex::decode(&disk::read_at(file, path, 0, length)?, file_bytes)?;
        let record = chunk.record;
        if (index.chunk_id, index.footer_crc, u64::from(index.rows)) != (record.id, record.footer_crc, record.rows) {
            return Err(Error::corrupt("it belongs to another chunk"));
        }
        self.report.bytes_checked += file_bytes;
        self.control.advance_unplanned(length as u64)?;
        for page in index.columns.iter().flat_map(|column| &column.pages) {
            page.check(&disk::read_at(file, path, page.offset, page.bytes())?)?;
            self.control.advance_unplanned(page.bytes() as u64)?;
        }
        Ok(index)
    }

    /// Chunks of one partition whose times and commits both overlap.
    fn clashes(&mut self, records: &[ChunkRecord]) {
        let mut partitions: BTreeMap<(u64, &str), Vec<&ChunkRecord>> = BTreeMap::new();
        for record in records {
            partitions.entry((record.series_id, record.partition.as_str())).or_default().push(record);
        }
        for ((series_id, partition), mut chunks) in partitions {
            chunks.sort_by_key(|chunk| (chunk.ts_min, chunk.commit_hi));
            // Chunks before it that have not ended where a chunk begins.
            let mut open: Vec<&ChunkRecord> = Vec::new();
            for chunk in chunks {
                open.retain(|other| other.ts_max >= chunk.ts_min);
                for other in &open {
                    let commits = |chunk: &ChunkRecord| (chunk.commit_lo, chunk.commit_hi);
                    let (older, newer) =
                        if commits(other) <= commits(chunk) { (*other, chunk) } else { (chunk, *other) };
                    if older.commit_hi < newer.commit_lo {
                        continue;
                    }
                    let path = self.dir(series_id).join(chunk_name(partition, newer.id));
                    let message = format!(
                        "chunk {} has commits {} to {}, chunk {} has {} to {}",
                        newer.id, newer.commit_lo, newer.commit_hi, older.id, older.commit_lo, older.commit_hi
                    );
                    let finding = Finding::new(FindingKind::ClashingChunks, self.name(&path), message);
                    let span = (older.ts_min.max(newer.ts_min), older.ts_max.min(newer.ts_max));
                    let mut finding = finding.file_id(newer.id).rows(older.rows.min(newer.rows), span.0, span.1);
                    finding.partition = Some(partition.into());
                    self.add_of(series_id, finding);
                }
                open.push(chunk);
            }
        }
    }
}

/// The intact parts of a file without footer; nothing when neither head nor footer can be read.
fn salvage(chunk: &ChunkUnderTest<'_>, bytes: u64) -> Option<ChunkSalvage> {
    let map = map_of(&chunk.file, &chunk.path, bytes).ok()??;
    salvage_chunk(map.as_slice().get(..to_usize(bytes))?, Some(chunk.record)).ok()
}

/// How many rows are lost, and between which timestamps.
fn lost(salvage: &ChunkSalvage, record: &ChunkRecord) -> (u64, Option<i64>, Option<i64>) {
    let kept = salvage.intact.iter().filter_map(|position| salvage.meta.blocks.get(*position));
    let kept: u64 = kept.map(|block| u64::from(block.rows)).sum();
    let spans = || salvage.damaged.iter().filter_map(|place| place.ts);
    let (first, last) = (spans().map(|(first, _)| first).min(), spans().map(|(_, last)| last).max());
    (record.rows.saturating_sub(kept), first, last)
}

/// The footer, where a file of the right length has it.
fn footer(chunk: &ChunkUnderTest<'_>) -> Result<(ChunkMeta, u64)> {
    let end = chunk.record.file_bytes;
    let trailer_at = end.saturating_sub(chunk::TRAILER_BYTES as u64);
    let trailer = chunk.read(trailer_at, end - trailer_at)?;
    let footer_bytes = chunk::footer_bytes(&trailer)? as u64;
    let footer_at =
        trailer_at.checked_sub(footer_bytes).ok_or_else(|| Error::corrupt("chunk footer is longer than the file"))?;
    let (meta, _) = chunk::decode_footer(&chunk.read(footer_at, footer_bytes)?, end)?;
    Ok((meta, footer_at))
}

/// What the footer and the manifest say differently.
fn differs(meta: &ChunkMeta, record: &ChunkRecord) -> Option<(String, String)> {
    let describe = |id: u64, series: u64, partition: &str, rows: u64, ts: (i64, i64), commits: (u64, u64)| {
        format!(
            "chunk {id} of series {series}, partition {partition}, {rows} rows from {} to {}, commits {} to {}",
            ts.0, ts.1, commits.0, commits.1
        )
    };
    let found = describe(
        meta.chunk_id,
        meta.series_id,
        &meta.partition,
        meta.rows,
        (meta.ts_min, meta.ts_max),
        (meta.commit_lo, meta.commit_hi),
    );
    let expected = describe(
        record.id,
        record.series_id,
        &record.partition,
        record.rows,
        (record.ts_min, record.ts_max),
        (record.commit_lo, record.commit_hi),
    );
    (found != expected).then_some((expected, found))
}

/// Checks the rows of a block whose bytes are right, and adds them to the expected contents of the sidecars.
fn rows(
    meta: &ChunkMeta,
    block: &chunk::BlockMeta,
    bytes: &[u8],
    last: Option<i64>,
    facts: &mut RowFacts,
) -> std::result::Result<(), String> {
    let count = to_usize(block.rows);
    let columns = block_columns(bytes, to_usize(block.header_bytes), &meta.series, count, block.nulls);
    let columns = columns.map_err(|_| "it has fewer cells than rows")?;
    let strict = meta.series.order.is_by_timestamp();
    let columns: Vec<CellSlice<'_>> = columns.iter().map(|column| column.slice(0, count)).collect();
    let ts = cells::column(&columns, 0).words();
    if !ts.is_sorted_by(|a, b| if strict { a < b } else { a <= b }) {
        return Err("its timestamps are not ascending".into());
    }
    if (ts.first(), ts.last()) != (Some(&block.ts_min), Some(&block.ts_max)) {
        return Err("its first or last timestamp is not that of the footer".into());
    }
    if last.is_some_and(|last| last > block.ts_min || strict && last == block.ts_min) {
        return Err("it begins before the previous block ends".into());
    }
    facts.zones.add_block(&columns, &NativeType::of_series(&meta.series));
    if let Some(coverage) = &mut facts.coverage {
        coverage.add(ts);
    }
    Ok(())
}
