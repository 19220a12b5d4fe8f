//! Chunk files: self-describing Arrow IPC files.
//!
//! Blocks are uncompressed record batches of complete zones, each starting on a multiple of 64 bytes, with validity
//! bitmaps only for columns that have nulls in the block. Dictionaries of enums and texts follow the last block. The footer's custom metadata has one JSON document ([`ChunkMeta`]) and the checksum of the footer itself,
//! so a chunk can be verified and decoded without its manifest. Any Arrow reader can open the file; only FastK verifies
//! the checksums.
//!
//! The schema, which is stored in the head and again in the footer, has a second document ([`ChunkIdentity`]) with all
//! that is needed to rebuild the footer. Head and footer can therefore each be rebuilt from the other: see
//! [`salvage_chunk`](super::chunk_salvage::salvage_chunk).

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit as ArrowUnit};
use arrow::ipc::convert::IpcSchemaEncoder;
use arrow::ipc::writer::DictionaryTracker;
use arrow::ipc::{
    Block as BlockEntry, FooterBuilder, KeyValue, KeyValueArgs, MetadataVersion, root_as_footer, root_as_message,
};
use flatbuffers::FlatBufferBuilder;
use serde::{Deserialize, Serialize};

use super::body::{self, Body};
use super::bytes::{ByteReader, range_of};
use super::{ipc, message};
use crate::error::{Error, ErrorCode, Result};
use crate::types::schema::COLUMNS_MAX;
use crate::types::width::{narrow, to_usize};
use crate::types::{CellLayout, CellSlice, Column, ColumnType, Dictionary, OrderRule, SeriesDef, TimeUnit, cells};

/// Version of the chunk format.
pub const CHUNK_VERSION: u32 = 2;
/// Rows of a zone.
pub const ZONE_ROWS: usize = 1_024;
/// Maximum number of rows of a block.
pub const BLOCK_ROWS_MAX: usize = 16_384;
/// Maximum number of bytes of a block's columns.
pub const BLOCK_BYTES_MAX: usize = 1 << 20;
/// First and last bytes of an Arrow file.
pub const ARROW_MAGIC: &[u8; 6] = b"ARROW1";
/// Bytes after the footer: its length as `i32`, and the magic.
pub const TRAILER_BYTES: usize = 10;
/// Footer key of the [`ChunkMeta`] document.
pub const META_KEY: &str = "fastk.chunk";
/// Footer key of the footer's checksum: CRC-32C in eight hex digits over the footer with these digits as zeros.
pub const FOOTER_CRC_KEY: &str = "fastk.footer_crc32c";
/// Schema key of the [`ChunkIdentity`] document.
pub const IDENTITY_KEY: &str = "fastk.head";
/// Bytes before the schema message.
pub(super) const HEAD_BYTES: usize = 8;
const CRC_PLACEHOLDER: &str = "00000000";

/// Rows of a full block of columns of these layouts, `ts` first: complete zones within the byte limit.
pub fn block_rows(layouts: impl Iterator<Item = CellLayout>) -> usize {
    let zone_bytes = body::body_bytes(layouts, ZONE_ROWS, 0);
    let zones = BLOCK_BYTES_MAX / zone_bytes.max(1);
    (zones.max(1) * ZONE_ROWS).min(BLOCK_ROWS_MAX)
}

/// Rows of columns of these layouts, `ts` first, whose cells take at most this many bytes; at least one.
pub fn rows_of_bytes(layouts: impl Iterator<Item = CellLayout>, bytes: u64) -> u64 {
    let zone_bytes = body::body_bytes(layouts, ZONE_ROWS, 0).max(1);
    let rows = u128::from(bytes) * ZONE_ROWS as u128 / zone_bytes as u128;
    u64::try_from(rows).unwrap_or(u64::MAX).max(1)
}

/// Metadata of a chunk, as JSON in its footer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkMeta {
    pub format: u32,
    pub series_id: u64,
    pub chunk_id: u64,
    /// Start of the partition: `2024-02-01`, `2024-02`, `2024` or `all`.
    pub partition: String,
    /// The registration under which the rows were written.
    pub series: SeriesDef,
    pub rows: u64,
    pub ts_min: i64,
    pub ts_max: i64,
    /// Lowest and highest commit of the rows.
    pub commit_lo: u64,
    pub commit_hi: u64,
    /// Chunks this one replaces.
    pub replaces: Vec<u64>,
    /// Number of this chunk among those that took over the rows of `replaces` together, from 1 in the order of time.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub slice: u32,
    /// How many they are.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub slices: u32,
    /// CRC-32C of all bytes before the first block.
    pub head_crc: u32,
    pub blocks: Vec<BlockMeta>,
    /// The dictionaries after the blocks: one per column of type `enum` or `text`, in the order of the columns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dictionaries: Vec<DictionaryMeta>,
}

/// The metadata of a chunk that is known before its first row, as JSON in its schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkIdentity {
    pub format: u32,
    pub series_id: u64,
    pub chunk_id: u64,
    pub partition: String,
    pub series: SeriesDef,
    pub commit_lo: u64,
    pub commit_hi: u64,
    pub replaces: Vec<u64>,
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub slice: u32,
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub slices: u32,
}

impl ChunkIdentity {
    /// Metadata of a chunk without rows.
    pub fn into_meta(self) -> ChunkMeta {
        ChunkMeta {
            format: self.format,
            series_id: self.series_id,
            chunk_id: self.chunk_id,
            partition: self.partition,
            series: self.series,
            rows: 0,
            ts_min: 0,
            ts_max: 0,
            commit_lo: self.commit_lo,
            commit_hi: self.commit_hi,
            replaces: self.replaces,
            slice: self.slice,
            slices: self.slices,
            head_crc: 0,
            blocks: Vec::new(),
            dictionaries: Vec::new(),
        }
    }
}

impl ChunkMeta {
    fn identity(&self) -> ChunkIdentity {
        ChunkIdentity {
            format: self.format,
            series_id: self.series_id,
            chunk_id: self.chunk_id,
            partition: self.partition.clone(),
            series: self.series.clone(),
            commit_lo: self.commit_lo,
            commit_hi: self.commit_hi,
            replaces: self.replaces.clone(),
            slice: self.slice,
            slices: self.slices,
        }
    }

    /// Number of texts of all columns of type `text`. It only grows from one chunk of a series to the next.
    pub fn texts(&self) -> u64 {
        let is_text = |entry: &&DictionaryMeta| {
            let column = self.series.columns.get(to_usize(entry.column));
            column.is_some_and(|column| column.kind == ColumnType::Text)
        };
        self.dictionaries.iter().filter(is_text).map(|entry| u64::from(entry.texts)).sum()
    }

    /// End of the last block or dictionary.
    pub fn messages_end(&self) -> Option<u64> {
        let last = self.dictionaries.last().map(|last| last.offset + last.bytes());
        last.or_else(|| self.blocks.last().map(|last| last.offset + last.bytes()))
    }

    /// Adds a block and updates row count and bounds.
    pub(super) fn push(&mut self, block: BlockMeta) {
        if self.rows == 0 {
            self.ts_min = block.ts_min;
        }
        self.ts_max = block.ts_max;
        self.rows += u64::from(block.rows);
        self.blocks.push(block);
    }
}

/// Position, size and bounds of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockMeta {
    /// Offset of the message in the file.
    pub offset: u64,
    /// Bytes of prefix, header and padding.
    pub header_bytes: u32,
    /// Bytes of the columns.
    pub body_bytes: u32,
    pub rows: u32,
    pub ts_min: i64,
    pub ts_max: i64,
    /// A bit per column after `ts`, the lowest for the first: whether it has nulls, and so a bitmap.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub nulls: u64,
    /// CRC-32C of header and body.
    pub crc: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn one() -> u32 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_one(number: &u32) -> bool {
    *number == 1
}

/// Position and size of a dictionary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DictionaryMeta {
    /// Position of the column in the registration.
    pub column: u32,
    /// Number of texts.
    pub texts: u32,
    /// Offset of the message in the file.
    pub offset: u64,
    /// Bytes of prefix, header and padding.
    pub header_bytes: u32,
    /// Bytes of offsets and texts.
    pub body_bytes: u32,
    /// CRC-32C of header and body.
    pub crc: u32,
}

impl DictionaryMeta {
    /// Size of the message in bytes.
    pub fn bytes(&self) -> u64 {
        u64::from(self.header_bytes) + u64::from(self.body_bytes)
    }
}

impl BlockMeta {
    /// Size of the message in bytes.
    pub fn bytes(&self) -> u64 {
        u64::from(self.header_bytes) + u64::from(self.body_bytes)
    }
}

/// The place of a chunk among those that take over the rows of others together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SliceNumber {
    /// From 1, in the order of time.
    pub number: u32,
    pub count: u32,
}

impl SliceNumber {
    /// A chunk that takes over the rows of others by itself, or of no other.
    pub const ONLY: Self = Self { number: 1, count: 1 };
}

/// Input of the writer before the first row.
#[derive(Clone, Debug)]
pub struct ChunkHead<'a> {
    pub series_id: u64,
    pub chunk_id: u64,
    pub partition: String,
    pub series: &'a SeriesDef,
    pub commit_lo: u64,
    pub commit_hi: u64,
    pub replaces: Vec<u64>,
    /// Its place among the chunks that take over the rows of `replaces`.
    pub slice: SliceNumber,
    /// The dictionaries of the series, by column.
    pub dictionaries: &'a [Dictionary],
}

/// Result of the writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkSummary {
    pub meta: ChunkMeta,
    pub file_bytes: u64,
    /// CRC-32C of the entire file.
    pub file_crc: u32,
    pub footer_crc: u32,
}

/// Precision of a decimal column of 8 bytes in Arrow.
pub const DECIMAL_PRECISION: u8 = 18;
/// Precision of a decimal column of 16 bytes in Arrow.
pub const WIDE_DECIMAL_PRECISION: u8 = 38;

/// Arrow type of `ts`.
pub fn timestamp_type(unit: TimeUnit) -> DataType {
    let unit = match unit {
        TimeUnit::S => ArrowUnit::Second,
        TimeUnit::Ms => ArrowUnit::Millisecond,
        TimeUnit::Us => ArrowUnit::Microsecond,
        TimeUnit::Ns => ArrowUnit::Nanosecond,
    };
    DataType::Timestamp(unit, Some("UTC".into()))
}

/// Arrow type of a number column as it is stored.
pub fn stored_type(kind: ColumnType) -> DataType {
    match kind {
        ColumnType::Decimal { digits } => DataType::Decimal64(DECIMAL_PRECISION, decimal_scale(digits)),
        ColumnType::WideDecimal { digits } => DataType::Decimal128(WIDE_DECIMAL_PRECISION, decimal_scale(digits)),
        ColumnType::Float64 => DataType::Float64,
        ColumnType::Float32 => DataType::Float32,
        ColumnType::Int64 => DataType::Int64,
        ColumnType::Int32 => DataType::Int32,
        ColumnType::Int16 => DataType::Int16,
        ColumnType::Int8 => DataType::Int8,
        ColumnType::UInt64 => DataType::UInt64,
        ColumnType::UInt32 => DataType::UInt32,
        ColumnType::UInt16 => DataType::UInt16,
        ColumnType::UInt8 => DataType::UInt8,
        ColumnType::Bool => DataType::Boolean,
        ColumnType::Timestamp { unit } => timestamp_type(unit),
        ColumnType::Enum => DataType::Dictionary(Box::new(DataType::UInt8), Box::new(DataType::Utf8)),
        ColumnType::Text => DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
        ColumnType::Bytes { length } => DataType::FixedSizeBinary(length.into()),
    }
}

/// Scale of a decimal type. Digits are at most 38, so they fit `i8`.
pub fn decimal_scale(digits: u8) -> i8 {
    narrow(digits)
}

/// The Arrow schema of the rows of a series as chunks store them.
pub fn chunk_schema(def: &SeriesDef) -> Schema {
    let mut fields = vec![Field::new("ts", timestamp_type(def.unit), false)];
    let field = |column: &Column| Field::new(&column.name, stored_type(column.kind), column.nullable);
    fields.extend(def.columns.iter().map(field));
    let metadata = HashMap::from([("fastk.series".to_string(), def.key.to_string())]);
    Schema::new_with_metadata(fields, metadata)
}

/// The schema of a chunk file: that of its rows, and the identity of the file.
fn file_schema(meta: &ChunkMeta) -> Result<Schema> {
    let identity = serde_json::to_string(&meta.identity())
        .map_err(|error| Error::internal(format!("chunk identity as JSON: {error}")))?;
    let mut schema = chunk_schema(&meta.series);
    schema.metadata.insert(IDENTITY_KEY.to_owned(), identity);
    Ok(schema)
}

/// All bytes before the first block, derived from the metadata in the footer.
pub fn rebuild_head(meta: &ChunkMeta) -> Result<Vec<u8>> {
    Ok(encode_head(&file_schema(meta)?))
}

fn encode_head(schema: &Schema) -> Vec<u8> {
    let mut head = ARROW_MAGIC.to_vec();
    head.resize(HEAD_BYTES, 0);
    // The schema message is padded so that the first block starts on a multiple of the alignment.
    let header = ipc::schema_header(schema);
    let end = ipc::padded(HEAD_BYTES + ipc::PREFIX_BYTES + header.len());
    head.extend_from_slice(&ipc::CONTINUATION);
    let length: i32 = narrow(end - HEAD_BYTES - ipc::PREFIX_BYTES);
    head.extend_from_slice(&length.to_le_bytes());
    head.extend_from_slice(&header);
    head.resize(end, 0);
    head
}

/// Writes a chunk to any sink, block by block, and computes the checksums.
#[derive(Debug)]
pub struct ChunkWriter<W> {
    out: W,
    position: u64,
    file_crc: u32,
    meta: ChunkMeta,
    schema: Arc<Schema>,
    column_count: usize,
    /// Texts of the columns that have a dictionary, by column.
    texts: Vec<(usize, Vec<Arc<str>>)>,
}

impl<W: Write> ChunkWriter<W> {
    /// Writes the head.
    pub fn new(out: W, head: ChunkHead<'_>) -> std::io::Result<Self> {
        let meta = ChunkIdentity {
            format: CHUNK_VERSION,
            series_id: head.series_id,
            chunk_id: head.chunk_id,
            partition: head.partition,
            series: head.series.clone(),
            commit_lo: head.commit_lo,
            commit_hi: head.commit_hi,
            replaces: head.replaces,
            slice: head.slice.number,
            slices: head.slice.count,
        }
        .into_meta();
        let column_count = head.series.columns.len();
        let schema = file_schema(&meta).map_err(std::io::Error::other)?;
        let texts = texts_of(head.series, head.dictionaries);
        let mut writer = Self { out, position: 0, file_crc: 0, meta, schema: Arc::new(schema), column_count, texts };
        let first = encode_head(&writer.schema);
        writer.meta.head_crc = crc32c::crc32c(&first);
        writer.put(&first)?;
        Ok(writer)
    }

    /// The file checksum is computed over the bytes: for typical blocks that is a quarter of the work of combining the
    /// checksums of blocks.
    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.out.write_all(bytes)?;
        self.file_crc = crc32c::crc32c_append(self.file_crc, bytes);
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn put_in_message(&mut self, crc: &mut u32, bytes: &[u8]) -> std::io::Result<()> {
        *crc = crc32c::crc32c_append(*crc, bytes);
        self.put(bytes)
    }

    /// Writes the dictionaries after the last block.
    fn put_dictionaries(&mut self) -> std::io::Result<()> {
        for (id, (column, texts)) in (0..).zip(std::mem::take(&mut self.texts)) {
            let (header, body) = message::dictionary_message(id, texts.iter().map(|text| &**text));
            let header = ipc::framed(&header);
            let mut entry = DictionaryMeta {
                column: narrow(column),
                texts: narrow(texts.len()),
                offset: self.position,
                header_bytes: narrow(header.len()),
                body_bytes: narrow(body.len()),
                crc: 0,
            };
            self.put_in_message(&mut entry.crc, &header)?;
            self.put_in_message(&mut entry.crc, &body)?;
            self.meta.dictionaries.push(entry);
        }
        Ok(())
    }

    /// Writes one block: `ts`, in the order of the series and after the previous block, then the columns of the
    /// registration.
    pub fn write_block(&mut self, columns: &[CellSlice<'_>]) -> std::io::Result<()> {
        if cells::column(columns, 0).is_empty() {
            return Ok(());
        }
        let ts = self.assert_publishable_block(columns);
        let (ts_min, ts_max) = cells::ends(ts);
        let body = Body::of(columns);
        let header = ipc::framed(&message::batch_header_of(ts.len(), &body.sizes));
        let body_bytes: usize = body.buffers().map(|buffer| ipc::padded(buffer.len())).sum();
        let mut block = BlockMeta {
            offset: self.position,
            header_bytes: narrow(header.len()),
            body_bytes: narrow(body_bytes),
            rows: narrow(ts.len()),
            ts_min,
            ts_max,
            nulls: body.nulls,
            crc: 0,
        };
        self.put_in_message(&mut block.crc, &header)?;
        let zeros = [0; ipc::ALIGNMENT];
        for buffer in body.buffers() {
            self.put_in_message(&mut block.crc, buffer)?;
            self.put_in_message(&mut block.crc, cells::range(&zeros, 0..ipc::padded(buffer.len()) - buffer.len()))?;
        }
        self.meta.push(block);
        Ok(())
    }

    /// Checks a block before it is written: it has every column, at most the rows of a block, and timestamps that follow
    /// those of the block before it. Returns its timestamps.
    fn assert_publishable_block<'a>(&self, columns: &[CellSlice<'a>]) -> &'a [i64] {
        let series = &self.meta.series.key;
        assert_eq!(columns.len(), self.column_count + 1, "{series}: columns of a block");
        let ts = assert_publishable_rows(&self.meta.series.order, columns);
        assert!(ts.len() <= BLOCK_ROWS_MAX, "{series}: a block of {} rows", ts.len());
        let (first, last) = (cells::at(ts, 0), self.meta.ts_max);
        let is_after = if self.meta.series.order.is_by_timestamp() { first > last } else { first >= last };
        assert!(self.meta.rows == 0 || is_after, "{series}: a block from {first} on follows one until {last}");
        ts
    }

    /// Writes dictionaries and footer. The caller syncs the sink.
    pub fn finish(mut self) -> std::io::Result<(W, ChunkSummary)> {
        self.put_dictionaries()?;
        let (tail, footer_crc) = encode_tail(&self.meta, &self.schema).map_err(std::io::Error::other)?;
        self.put(&tail)?;
        assert_publishable_footer(&self.meta, &tail, self.position);
        let summary = ChunkSummary { meta: self.meta, file_bytes: self.position, file_crc: self.file_crc, footer_crc };
        Ok((self.out, summary))
    }
}

/// Checks rows before they are written: there are some, each has a cell in every column, and their timestamps ascend,
/// strictly where the series has one row per timestamp. Returns the timestamps, which are the first column.
pub fn assert_publishable_rows<'a>(order: &OrderRule, columns: &[CellSlice<'a>]) -> &'a [i64] {
    let ts = cells::column(columns, 0).words();
    assert!(!ts.is_empty(), "rows to write: there are none");
    for (position, column) in columns.iter().enumerate() {
        assert_eq!(column.len(), ts.len(), "rows to write: cells of column {position}");
    }
    let unordered = if order.is_by_timestamp() {
        ts.array_windows().position(|[earlier, later]| earlier >= later)
    } else {
        ts.array_windows().position(|[earlier, later]| earlier > later)
    };
    if let Some(row) = unordered {
        panic_unordered(ts, row);
    }
    ts
}

#[cold]
#[inline(never)]
#[allow(clippy::panic, reason = "rows out of order would be found by no search")]
fn panic_unordered(ts: &[i64], row: usize) -> ! {
    panic!("rows to write: timestamp {:?} of row {row} is followed by {:?}", ts.get(row), ts.get(row + 1))
}

/// Checks the end of a file before the file gets a name: its footer is read as it was meant, its row count is that of
/// its blocks, and these are contiguous inside the file.
fn assert_publishable_footer(meta: &ChunkMeta, tail: &[u8], file_bytes: u64) {
    let footer = cells::range(tail, ipc::END_OF_STREAM.len()..tail.len() - TRAILER_BYTES);
    let read = decode_footer(footer, file_bytes).map(|(read, _)| read);
    let is_same = read.as_ref().is_ok_and(|read| read == meta);
    assert!(is_same, "the footer of {meta:?} is read as {read:?}");
}

/// A chunk with another commit number: the bytes before and after its blocks.
#[derive(Debug)]
pub struct Renumbered {
    pub head: Vec<u8>,
    /// Offset of the tail.
    pub tail_at: u64,
    pub tail: Vec<u8>,
    pub summary: ChunkSummary,
}

/// Changes the commit number of a chunk of one commit to a later one. `None` when blocks would move or the file would
/// become shorter, which is possible because checksums are decimal digits in the tail.
pub fn renumber(summary: &ChunkSummary, commit: u64) -> Result<Option<Renumbered>> {
    let mut meta = ChunkMeta { commit_lo: commit, commit_hi: commit, ..summary.meta.clone() };
    let head = rebuild_head(&meta)?;
    let Some(first) = meta.blocks.first().filter(|first| first.offset == head.len() as u64) else { return Ok(None) };
    let tail_at = meta.messages_end().unwrap_or(first.offset);
    meta.head_crc = crc32c::crc32c(&head);
    let (tail, footer_crc) = rebuild_tail(&meta)?;
    let blocks = meta.blocks.iter().map(|block| (block.crc, to_usize(block.bytes())));
    let blocks = blocks.chain(meta.dictionaries.iter().map(|entry| (entry.crc, to_usize(entry.bytes()))));
    let file_crc = blocks
        .chain([(crc32c::crc32c(&tail), tail.len())])
        .fold(meta.head_crc, |all, (crc, bytes)| crc32c::crc32c_combine(all, crc, bytes));
    let file_bytes = tail_at + tail.len() as u64;
    assert_publishable_footer(&meta, &tail, file_bytes);
    if file_bytes < summary.file_bytes {
        return Ok(None);
    }
    Ok(Some(Renumbered { head, tail_at, tail, summary: ChunkSummary { meta, file_bytes, file_crc, footer_crc } }))
}

/// All bytes after the last block, derived from the metadata, and the checksum of the footer.
pub fn rebuild_tail(meta: &ChunkMeta) -> Result<(Vec<u8>, u32)> {
    encode_tail(meta, &file_schema(meta)?)
}

fn encode_tail(meta: &ChunkMeta, schema: &Schema) -> Result<(Vec<u8>, u32)> {
    let mut footer = encode_footer(meta, schema)?;
    let (_, crc_at) = read_footer(&footer)?;
    let footer_crc = crc32c::crc32c(&footer);
    cells::put(&mut footer, crc_at, format!("{footer_crc:08x}").as_bytes());
    let length = i32::try_from(footer.len()).map_err(|_| Error::internal("a chunk footer of 2 GiB"))?;
    let mut tail = ipc::END_OF_STREAM.to_vec();
    tail.append(&mut footer);
    tail.extend_from_slice(&length.to_le_bytes());
    tail.extend_from_slice(ARROW_MAGIC);
    Ok((tail, footer_crc))
}

/// A footer with zeros in place of its checksum.
fn encode_footer(meta: &ChunkMeta, schema: &Schema) -> Result<Vec<u8>> {
    let json =
        serde_json::to_string(meta).map_err(|error| Error::internal(format!("chunk metadata as JSON: {error}")))?;
    let mut fbb = FlatBufferBuilder::new();
    // Dictionary ids start at zero.
    let mut ids = DictionaryTracker::new(true);
    let schema = IpcSchemaEncoder::new().with_dictionary_tracker(&mut ids).schema_to_fb_offset(&mut fbb, schema);
    let dictionaries: Vec<BlockEntry> = meta
        .dictionaries
        .iter()
        .map(|entry| BlockEntry::new(narrow(entry.offset), narrow(entry.header_bytes), i64::from(entry.body_bytes)))
        .collect();
    let dictionaries = fbb.create_vector(&dictionaries);
    let blocks: Vec<BlockEntry> = meta
        .blocks
        .iter()
        .map(|block| BlockEntry::new(narrow(block.offset), narrow(block.header_bytes), i64::from(block.body_bytes)))
        .collect();
    let blocks = fbb.create_vector(&blocks);
    let mut entries = Vec::new();
    for (key, value) in [(META_KEY, json.as_str()), (FOOTER_CRC_KEY, CRC_PLACEHOLDER)] {
        let (key, value) = (Some(fbb.create_string(key)), Some(fbb.create_string(value)));
        entries.push(KeyValue::create(&mut fbb, &KeyValueArgs { key, value }));
    }
    let entries = fbb.create_vector(&entries);
    let mut footer = FooterBuilder::new(&mut fbb);
    footer.add_version(MetadataVersion::V5);
    footer.add_schema(schema);
    footer.add_dictionaries(dictionaries);
    footer.add_recordBatches(blocks);
    footer.add_custom_metadata(entries);
    let footer = footer.finish();
    fbb.finish(footer, None);
    Ok(fbb.finished_data().to_vec())
}

/// The metadata document of a footer, and the offset of its checksum digits.
fn read_footer(bytes: &[u8]) -> Result<(String, usize)> {
    let footer = root_as_footer(bytes).map_err(|error| Error::corrupt(format!("chunk footer: {error}")))?;
    let mut meta = None;
    let mut crc_at = None;
    for entry in footer.custom_metadata().into_iter().flatten() {
        match (entry.key(), entry.value()) {
            (Some(META_KEY), Some(value)) => meta = Some(value.to_owned()),
            (Some(FOOTER_CRC_KEY), Some(value)) if value.len() == CRC_PLACEHOLDER.len() => {
                crc_at = (value.as_ptr() as usize).checked_sub(bytes.as_ptr() as usize);
            }
            _ => {}
        }
    }
    match (meta, crc_at) {
        (Some(meta), Some(crc_at)) => Ok((meta, crc_at)),
        _ => Err(Error::corrupt("chunk footer: the FastK metadata is missing")),
    }
}

/// Length of the footer, from the last [`TRAILER_BYTES`] of the file.
pub fn footer_bytes(trailer: &[u8]) -> Result<usize> {
    let (length, magic) =
        trailer.split_first_chunk().ok_or_else(|| Error::corrupt("chunk file is shorter than its trailer"))?;
    if magic != ARROW_MAGIC {
        return Err(Error::corrupt("chunk file does not end with the Arrow magic"));
    }
    let length = i32::from_le_bytes(*length);
    usize::try_from(length).map_err(|_| Error::corrupt("chunk footer has a negative length"))
}

/// Verifies and decodes a footer: the metadata and the footer's checksum.
///
/// # Errors
/// `corrupt_data` when the checksum or the block table is wrong; `unsupported_format` for a newer chunk.
pub fn decode_footer(footer: &[u8], file_bytes: u64) -> Result<(ChunkMeta, u32)> {
    let (json, crc_at) = read_footer(footer)?;
    let digits_end = crc_at + CRC_PLACEHOLDER.len();
    let (Some(before), Some(digits), Some(after)) =
        (footer.get(..crc_at), footer.get(crc_at..digits_end), footer.get(digits_end..))
    else {
        return Err(Error::corrupt("chunk footer: the checksum is outside the footer"));
    };
    let mut crc = crc32c::crc32c(before);
    crc = crc32c::crc32c_append(crc, CRC_PLACEHOLDER.as_bytes());
    crc = crc32c::crc32c_append(crc, after);
    if format!("{crc:08x}").as_bytes() != digits {
        return Err(Error::corrupt(format!(
            "chunk footer: checksum {crc:08x}, expected {}",
            String::from_utf8_lossy(digits)
        )));
    }
    let meta: ChunkMeta =
        serde_json::from_str(&json).map_err(|error| Error::corrupt(format!("chunk metadata: {error}")))?;
    check_version(meta.format)?;
    check_columns(&meta.series)?;
    check_blocks(&meta, file_bytes)?;
    Ok((meta, crc))
}

/// Decodes the head of a file: the identity of the chunk, and the number of bytes before the first block.
///
/// # Errors
/// `corrupt_data` for a malformed head; `unsupported_format` for a newer chunk. The checksum is not verified, since it
/// is stored in the footer.
pub fn decode_head(file: &[u8]) -> Result<(ChunkIdentity, usize)> {
    let damaged = |what: &str| Error::corrupt(format!("chunk head: {what}"));
    let mut reader = ByteReader::new(file, "chunk head");
    if reader.take(HEAD_BYTES)? != b"ARROW1\0\0" || reader.take(4)? != ipc::CONTINUATION {
        return Err(damaged("not the start of an Arrow file"));
    }
    let length = reader.length()?;
    let message = root_as_message(reader.take(length)?).map_err(|error| damaged(&error.to_string()))?;
    let schema = message.header_as_schema().ok_or_else(|| damaged("the first message is not a schema"))?;
    let json = schema
        .custom_metadata()
        .into_iter()
        .flatten()
        .find_map(|entry| entry.value().filter(|_| entry.key() == Some(IDENTITY_KEY)))
        .ok_or_else(|| damaged("the FastK metadata is missing"))?;
    let identity: ChunkIdentity = serde_json::from_str(json).map_err(|error| damaged(&error.to_string()))?;
    check_version(identity.format)?;
    check_columns(&identity.series)?;
    Ok((identity, HEAD_BYTES + ipc::PREFIX_BYTES + length))
}

/// Checks the number of columns.
fn check_columns(def: &SeriesDef) -> Result<()> {
    if def.columns.len() > COLUMNS_MAX {
        return Err(Error::corrupt(format!("chunk metadata: {} columns", def.columns.len())));
    }
    Ok(())
}

fn check_version(format: u32) -> Result<()> {
    if format > CHUNK_VERSION {
        return Err(Error::new(ErrorCode::UnsupportedFormat, format!("chunk has format {format}")));
    }
    Ok(())
}

/// Footer of a complete file: its offset, metadata and checksum.
pub fn find_footer(file: &[u8]) -> Result<(usize, ChunkMeta, u32)> {
    let cut = || Error::corrupt("chunk is truncated");
    let trailer_at = file.len().checked_sub(TRAILER_BYTES).ok_or_else(cut)?;
    let length = footer_bytes(cells::range(file, trailer_at..file.len()))?;
    let footer_at = trailer_at.checked_sub(length).ok_or_else(cut)?;
    let footer = cells::range(file, footer_at..trailer_at);
    let (meta, crc) = decode_footer(footer, file.len() as u64)?;
    Ok((footer_at, meta, crc))
}

/// Checks the bytes before the first block against the footer.
pub fn check_head(meta: &ChunkMeta, head: &[u8]) -> Result<()> {
    let crc = crc32c::crc32c(head);
    if crc != meta.head_crc {
        return Err(Error::corrupt(format!("chunk head: checksum {crc:08x}, expected {:08x}", meta.head_crc)));
    }
    Ok(())
}

/// Bytes before the first block.
pub fn head_bytes(meta: &ChunkMeta) -> Result<usize> {
    match meta.blocks.first() {
        Some(block) => Ok(to_usize(block.offset)),
        None => Ok(rebuild_head(meta)?.len()),
    }
}

/// Verifies every byte of a file. Returns its metadata and the checksum of its footer.
///
/// # Errors
/// `corrupt_data` naming what is damaged; `unsupported_format` for a newer chunk.
pub fn decode_chunk(file: &[u8]) -> Result<(ChunkMeta, u32)> {
    let (footer_at, meta, crc) = find_footer(file)?;
    let mut end = head_bytes(&meta)?;
    check_head(&meta, range_of(file, 0..end, "chunk head")?)?;
    for (position, block) in meta.blocks.iter().enumerate() {
        let begin = end;
        end = begin.saturating_add(to_usize(block.bytes()));
        if file.get(begin..end).map(crc32c::crc32c) != Some(block.crc) {
            return Err(Error::corrupt(format!("chunk: the checksum of block {position} does not match")));
        }
    }
    for entry in &meta.dictionaries {
        let begin = end;
        end = begin.saturating_add(to_usize(entry.bytes()));
        read_dictionary(&meta.series, entry, file.get(begin..end).unwrap_or(&[]))?;
    }
    if file.get(end..footer_at) != Some(ipc::END_OF_STREAM.as_slice()) {
        return Err(Error::corrupt("chunk: the end of its blocks is damaged"));
    }
    Ok((meta, crc))
}

/// Checks that blocks and dictionaries are contiguous, inside the file, and blocks of the size of their rows.
fn check_blocks(meta: &ChunkMeta, file_bytes: u64) -> Result<()> {
    let column_count = meta.series.columns.len();
    let mut rows = 0_u64;
    let mut end = None;
    for (position, block) in meta.blocks.iter().enumerate() {
        let body = body::body_bytes(meta.series.all_layouts(), to_usize(block.rows), block.nulls);
        let next = block.offset.saturating_add(block.bytes());
        let in_place = end.is_none_or(|end| end == block.offset) && next <= file_bytes;
        let no_other_nulls = block.nulls.checked_shr(narrow(column_count)).unwrap_or(0) == 0;
        if u64::from(block.body_bytes) != body as u64 || !in_place || block.rows == 0 || !no_other_nulls {
            return Err(Error::corrupt(format!("chunk metadata: block {position} does not fit the file")));
        }
        rows += u64::from(block.rows);
        end = Some(next);
    }
    if rows != meta.rows {
        return Err(Error::corrupt(format!("chunk metadata: {} rows, but its blocks have {rows}", meta.rows)));
    }
    let columns = (0_u32..).zip(&meta.series.columns).filter(|(_, column)| column.kind.has_dictionary());
    let columns: Vec<u32> = columns.map(|(position, _)| position).collect();
    if !columns.iter().eq(meta.dictionaries.iter().map(|entry| &entry.column)) {
        return Err(Error::corrupt("chunk metadata: its dictionaries are not those of its columns"));
    }
    for entry in &meta.dictionaries {
        let next = entry.offset.saturating_add(entry.bytes());
        if end.is_some_and(|end| end != entry.offset) || next > file_bytes {
            return Err(Error::corrupt(format!(
                "chunk metadata: the dictionary of column {} does not fit the file",
                entry.column
            )));
        }
        end = Some(next);
    }
    Ok(())
}

/// The texts of the columns that have a dictionary: the values of an enum, or the texts of the series.
fn texts_of(def: &SeriesDef, dictionaries: &[Dictionary]) -> Vec<(usize, Vec<Arc<str>>)> {
    let columns = def.columns.iter().enumerate().filter(|(_, column)| column.kind.has_dictionary());
    let texts = |(position, column): (usize, &Column)| {
        let texts = match column.kind {
            ColumnType::Enum => column.values.iter().map(|value| value.as_str().into()).collect(),
            _ => dictionaries.get(position).map(|texts| texts.texts().cloned().collect()).unwrap_or_default(),
        };
        (position, texts)
    };
    columns.map(texts).collect()
}

/// Decodes the message of a dictionary and verifies its checksum.
///
/// # Errors
/// `corrupt_data` naming the column.
pub fn read_dictionary(def: &SeriesDef, entry: &DictionaryMeta, message: &[u8]) -> Result<Dictionary> {
    let name = def.columns.get(to_usize(entry.column)).map_or("", |column| column.name.as_str());
    let damaged = |what: &str| Error::corrupt(format!("chunk: the dictionary of column {name}: {what}"));
    let crc = crc32c::crc32c(message);
    if message.len() as u64 != entry.bytes() || crc != entry.crc {
        return Err(damaged(&format!("checksum {crc:08x}, expected {:08x}", entry.crc)));
    }
    let body = message.get(to_usize(entry.header_bytes)..).unwrap_or_default();
    message::dictionary_texts(body, to_usize(entry.texts)).ok_or_else(|| damaged("its texts do not fit it"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::types::{SeriesKey, SeriesSpec};
    use arrow::array::{Array, Decimal64Array, TimestampMillisecondArray};
    use arrow::ipc::reader::FileReader;

    pub(crate) fn sample() -> (Vec<u8>, ChunkSummary) {
        let mut spec = SeriesSpec::of_key(&SeriesKey::kline("BTCUSDT", "1m").unwrap());
        spec.price_digits = Some(2);
        spec.volume_digits = Some(8);
        let def = spec.resolve().unwrap();
        let head = ChunkHead {
            series_id: 1,
            chunk_id: 2,
            partition: "2024-02".into(),
            series: &def,
            commit_lo: 3,
            commit_hi: 9,
            replaces: vec![1],
            slice: SliceNumber::ONLY,
            dictionaries: &[],
        };
        let mut writer = ChunkWriter::new(Vec::new(), head).unwrap();
        for block in 0..2_i64 {
            let ts: Vec<i64> = (0..100).map(|row| (block * 100 + row) * 60_000).collect();
            let cells: Vec<i64> = (0..100).map(|row| block * 1000 + row).collect();
            writer
                .write_block(&[&ts, &cells, &cells, &cells, &cells, &cells].map(|words| CellSlice::of_words(words)))
                .unwrap();
        }
        writer.finish().unwrap()
    }

    fn open(file: &[u8]) -> Result<(ChunkMeta, u32)> {
        find_footer(file).map(|(_, meta, crc)| (meta, crc))
    }

    #[test]
    fn a_chunk_is_a_self_describing_arrow_file() {
        let (file, summary) = sample();
        assert_eq!(open(&file).unwrap(), (summary.meta.clone(), summary.footer_crc));
        assert_eq!(crc32c::crc32c(&file), summary.file_crc);
        assert!(summary.meta.blocks.iter().all(|block| block.offset % 64 == 0 && block.header_bytes % 64 == 0));
        let reader = FileReader::try_new(std::io::Cursor::new(&file), None).unwrap();
        let batches: Vec<_> = reader.map(|batch| batch.unwrap()).collect();
        assert_eq!(batches.iter().map(|batch| batch.num_rows()).collect::<Vec<_>>(), [100, 100]);
        let ts = batches[1].column(0).as_any().downcast_ref::<TimestampMillisecondArray>().unwrap();
        assert_eq!(ts.value(0), 6_000_000);
        let open = batches[1].column(1).as_any().downcast_ref::<Decimal64Array>().unwrap();
        assert_eq!((open.value(7), open.scale(), open.null_count()), (1007, 2, 0));
        assert!(open.nulls().is_none());
    }

    #[test]
    fn a_renumbered_chunk_equals_one_written_with_that_number() {
        let write = |name: &str, commit| {
            let spec = SeriesSpec::of_key(&SeriesKey::scalar("metric", "A", "1m", name).unwrap());
            let def = spec.resolve().unwrap();
            let (series_id, chunk_id, partition) = (1, 2, "2024-02".into());
            let (commit_lo, commit_hi, replaces) = (commit, commit, Vec::new());
            let head = ChunkHead {
                series_id,
                chunk_id,
                partition,
                series: &def,
                commit_lo,
                commit_hi,
                replaces,
                slice: SliceNumber::ONLY,
                dictionaries: &[],
            };
            let mut writer = ChunkWriter::new(Vec::new(), head).unwrap();
            let ts: Vec<i64> = (0..200).map(|row| row * 60_000).collect();
            writer.write_block(&[CellSlice::of_words(&ts[..150]); 2]).unwrap();
            writer.write_block(&[CellSlice::of_words(&ts[150..]); 2]).unwrap();
            writer.finish().unwrap()
        };
        let (mut renumbered_count, mut shorter) = (0, 0);
        // Names of all lengths: one digit less matters only beyond the padding.
        let names = (1..=8).map(|length| "x".repeat(length));
        for (name, staged) in names.flat_map(|name| [3, 95, 4_711, 4_712, 4_713].map(|staged| (name.clone(), staged))) {
            let (file, summary) = write(&name, staged);
            for commit in staged + 1..staged + 60 {
                let (expected, expected_summary) = write(&name, commit);
                let Some(renumbered) = renumber(&summary, commit).unwrap() else {
                    shorter += usize::from(expected.len() < file.len());
                    continue;
                };
                let mut now = file.clone();
                now[..renumbered.head.len()].copy_from_slice(&renumbered.head);
                now.truncate(usize::try_from(renumbered.tail_at).unwrap());
                now.extend_from_slice(&renumbered.tail);
                assert!(now == expected && now.len() >= file.len(), "{staged} to {commit}");
                assert_eq!(renumbered.summary, expected_summary);
                renumbered_count += 1;
            }
        }
        assert!(renumbered_count > 1_000 && shorter > 0, "{renumbered_count} renumbered, {shorter} would be shorter");
    }

    #[test]
    fn head_and_footer_can_be_rebuilt_from_each_other() {
        let (file, summary) = sample();
        let (identity, head_bytes) = decode_head(&file).unwrap();
        assert_eq!(identity, summary.meta.identity());
        assert_eq!(head_bytes as u64, summary.meta.blocks[0].offset);
        assert_eq!(rebuild_head(&summary.meta).unwrap(), &file[..head_bytes]);
        let (tail, crc) = rebuild_tail(&summary.meta).unwrap();
        assert!(file.ends_with(&tail) && crc == summary.footer_crc);
    }

    #[test]
    fn every_flipped_bit_and_truncation_is_detected() {
        let (file, summary) = sample();
        assert_eq!(decode_chunk(&file).unwrap(), (summary.meta, summary.footer_crc));
        for bit in 0..file.len() * 8 {
            let mut damaged = file.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_chunk(&damaged).unwrap_err().code(), ErrorCode::CorruptData, "bit {bit}");
        }
        for length in 0..file.len() {
            assert!(decode_chunk(&file[..length]).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn a_footer_with_any_flipped_bit_is_rejected() {
        let (file, summary) = sample();
        let end = summary.meta.blocks[1];
        let begin = (end.offset + end.bytes()) as usize + ipc::END_OF_STREAM.len();
        for bit in begin * 8..file.len() * 8 {
            let mut damaged = file.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn blocks_are_complete_zones_within_a_mebibyte() {
        let block_rows = |columns: usize| block_rows(std::iter::repeat_n(CellLayout::WORD, columns + 1));
        assert_eq!((block_rows(5), block_rows(9)), (16_384, 12_288));
        for columns in 1..=64 {
            let rows = block_rows(columns);
            assert!(
                rows.is_multiple_of(ZONE_ROWS) && rows <= BLOCK_ROWS_MAX && rows * 8 * (columns + 1) <= BLOCK_BYTES_MAX
            );
        }
    }
}
