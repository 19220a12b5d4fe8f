//! Chunk files: plain Arrow IPC files that describe themselves.
//!
//! Blocks are uncompressed record batches of whole zones, each starting on a multiple of 64 bytes, without
//! validity buffers. The footer's custom metadata holds one JSON document ([`ChunkMeta`]) and the checksum of the
//! footer itself, so a chunk can be checked and understood without its manifest. Any Arrow reader opens the file;
//! only FastK checks the checksums.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit as ArrowUnit};
use arrow::ipc::convert::IpcSchemaEncoder;
use arrow::ipc::{Block as BlockEntry, FooterBuilder, KeyValue, KeyValueArgs, MetadataVersion, root_as_footer};
use flatbuffers::FlatBufferBuilder;
use serde::{Deserialize, Serialize};

use super::ipc;
use crate::error::{Error, ErrorCode, Result};
use crate::planted::{Bug, planted};
use crate::types::{ColumnType, SeriesDef, TimeUnit};

/// Version of the chunk format.
pub const CHUNK_VERSION: u32 = 1;
/// Rows of a zone.
pub const ZONE_ROWS: usize = 1_024;
/// Most rows of a block.
pub const BLOCK_ROWS_MAX: usize = 16_384;
/// Most bytes of a block's columns.
pub const BLOCK_BYTES_MAX: usize = 1 << 20;
/// First and last bytes of an Arrow file.
pub const ARROW_MAGIC: &[u8; 6] = b"ARROW1";
/// Bytes after the footer: its length as `i32`, and the magic.
pub const TRAILER_BYTES: usize = 10;
/// Footer key of the [`ChunkMeta`] document.
pub const META_KEY: &str = "fastk.chunk";
/// Footer key of the footer's checksum: CRC-32C in eight hex digits over the footer with these digits as zeros.
pub const FOOTER_CRC_KEY: &str = "fastk.footer_crc32c";
/// Bytes before the schema message.
const HEAD_BYTES: usize = 8;
const CRC_PLACEHOLDER: &str = "00000000";

/// Rows of a full block of a series with this many number columns: whole zones within the byte limit.
pub fn block_rows(column_count: usize) -> usize {
    let row_bytes = 8 * (column_count + 1);
    let zones = BLOCK_BYTES_MAX / (ZONE_ROWS * row_bytes);
    (zones.max(1) * ZONE_ROWS).min(BLOCK_ROWS_MAX)
}

/// What a chunk says about itself, as JSON in its footer.
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
    /// Lowest and highest commit whose rows are inside.
    pub commit_lo: u64,
    pub commit_hi: u64,
    /// Chunks whose rows this one took over.
    pub replaces: Vec<u64>,
    /// CRC-32C of all bytes before the first block.
    pub head_crc: u32,
    pub blocks: Vec<BlockMeta>,
}

/// Where a block stands and what it spans.
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
    /// CRC-32C of header and body.
    pub crc: u32,
}

impl BlockMeta {
    /// Bytes of the whole message.
    pub fn bytes(&self) -> u64 {
        u64::from(self.header_bytes) + u64::from(self.body_bytes)
    }
}

/// What the writer knows before the first row.
#[derive(Clone, Debug)]
pub struct ChunkHead<'a> {
    pub series_id: u64,
    pub chunk_id: u64,
    pub partition: String,
    pub series: &'a SeriesDef,
    pub commit_lo: u64,
    pub commit_hi: u64,
    pub replaces: Vec<u64>,
}

/// What the writer knows after the last byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkSummary {
    pub meta: ChunkMeta,
    pub file_bytes: u64,
    /// CRC-32C of the whole file.
    pub file_crc: u32,
    pub footer_crc: u32,
}

/// Precision of every decimal column in Arrow.
pub const DECIMAL_PRECISION: u8 = 18;

/// Arrow type of `ts`.
pub fn timestamp_type(unit: TimeUnit) -> DataType {
    let unit = match unit {
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
        ColumnType::Float64 => DataType::Float64,
        ColumnType::Int64 => DataType::Int64,
    }
}

/// Digits are at most 18, so they fit Arrow's `i8` scale.
pub fn decimal_scale(digits: u8) -> i8 {
    i8::try_from(digits).unwrap_or(i8::MAX)
}

/// The Arrow schema of a chunk of this series.
pub fn chunk_schema(def: &SeriesDef) -> Schema {
    let mut fields = vec![Field::new("ts", timestamp_type(def.unit), false)];
    fields.extend(def.columns.iter().map(|column| Field::new(&column.name, stored_type(column.kind), false)));
    let metadata = HashMap::from([("fastk.series".to_string(), def.key.to_string())]);
    Schema::new_with_metadata(fields, metadata)
}

/// Writes a chunk to any sink, block by block, keeping the checksums.
#[derive(Debug)]
pub struct ChunkWriter<W> {
    out: W,
    position: u64,
    file_crc: u32,
    meta: ChunkMeta,
    schema: Arc<Schema>,
    column_count: usize,
}

impl<W: Write> ChunkWriter<W> {
    /// Writes the head. `path` only names the file in errors.
    pub fn new(out: W, head: ChunkHead<'_>) -> std::io::Result<Self> {
        let schema = Arc::new(chunk_schema(head.series));
        let meta = ChunkMeta {
            format: CHUNK_VERSION,
            series_id: head.series_id,
            chunk_id: head.chunk_id,
            partition: head.partition,
            series: head.series.clone(),
            rows: 0,
            ts_min: 0,
            ts_max: 0,
            commit_lo: head.commit_lo,
            commit_hi: head.commit_hi,
            replaces: head.replaces,
            head_crc: 0,
            blocks: Vec::new(),
        };
        let column_count = head.series.columns.len();
        let mut writer = Self { out, position: 0, file_crc: 0, meta, schema, column_count };
        let mut first = Vec::with_capacity(1024);
        first.extend_from_slice(ARROW_MAGIC);
        first.resize(HEAD_BYTES, 0);
        // The schema message is padded so that the first block starts on a multiple of the alignment.
        let header = ipc::schema_header(&writer.schema);
        let end = ipc::padded(HEAD_BYTES + ipc::PREFIX_BYTES + header.len());
        first.extend_from_slice(&ipc::CONTINUATION);
        let length = i32::try_from(end - HEAD_BYTES - ipc::PREFIX_BYTES).unwrap_or(i32::MAX);
        first.extend_from_slice(&length.to_le_bytes());
        first.extend_from_slice(&header);
        first.resize(end, 0);
        writer.meta.head_crc = crc32c::crc32c(&first);
        writer.put(&first)?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.out.write_all(bytes)?;
        self.file_crc = crc32c::crc32c_append(self.file_crc, bytes);
        self.position += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    /// Writes one block: `ts` rising strictly and after the block before, then the columns of the registration.
    pub fn write_block(&mut self, columns: &[&[i64]]) -> std::io::Result<()> {
        let ts = columns.first().copied().unwrap_or_default();
        let (Some(ts_min), Some(ts_max)) = (ts.first(), ts.last()) else { return Ok(()) };
        debug_assert_eq!(columns.len(), self.column_count + 1, "a block has every column");
        debug_assert!(ts.windows(2).all(|pair| pair.first() < pair.last()), "a block rises strictly");
        debug_assert!(self.meta.rows == 0 || *ts_min > self.meta.ts_max, "blocks rise strictly");
        let sizes: Vec<usize> = columns.iter().map(|column| column.len() * 8).collect();
        let mut message = ipc::framed(&ipc::batch_header(ts.len(), &sizes));
        let header_bytes = message.len();
        message.reserve(ipc::body_bytes(&sizes));
        for column in columns {
            super::bytes::put_words(&mut message, column);
            message.resize(ipc::padded(message.len()), 0);
        }
        let small = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        self.meta.blocks.push(BlockMeta {
            offset: self.position,
            header_bytes: small(header_bytes),
            body_bytes: small(message.len() - header_bytes),
            rows: small(ts.len()),
            ts_min: *ts_min,
            ts_max: *ts_max,
            crc: crc32c::crc32c(&message),
        });
        if self.meta.rows == 0 {
            self.meta.ts_min = *ts_min;
        }
        self.meta.ts_max = *ts_max;
        self.meta.rows += u64::try_from(ts.len()).unwrap_or(u64::MAX);
        self.put(&message)
    }

    /// Writes the footer. The caller syncs the sink.
    pub fn finish(mut self) -> std::io::Result<(W, ChunkSummary)> {
        self.put(&ipc::END_OF_STREAM)?;
        let (mut footer, crc_at) = self.footer().map_err(std::io::Error::other)?;
        let footer_crc = crc32c::crc32c(&footer);
        if let Some(slot) = footer.get_mut(crc_at..crc_at + CRC_PLACEHOLDER.len()) {
            slot.copy_from_slice(format!("{footer_crc:08x}").as_bytes());
        }
        let length = i32::try_from(footer.len()).map_err(std::io::Error::other)?;
        footer.extend_from_slice(&length.to_le_bytes());
        footer.extend_from_slice(ARROW_MAGIC);
        self.put(&footer)?;
        let summary = ChunkSummary { meta: self.meta, file_bytes: self.position, file_crc: self.file_crc, footer_crc };
        Ok((self.out, summary))
    }

    fn footer(&self) -> Result<(Vec<u8>, usize)> {
        let json = serde_json::to_string(&self.meta)
            .map_err(|error| Error::internal(format!("chunk metadata as JSON: {error}")))?;
        let mut fbb = FlatBufferBuilder::new();
        let schema = IpcSchemaEncoder::new().schema_to_fb_offset(&mut fbb, &self.schema);
        let dictionaries = fbb.create_vector::<BlockEntry>(&[]);
        let blocks: Vec<BlockEntry> = self
            .meta
            .blocks
            .iter()
            .map(|block| {
                BlockEntry::new(
                    i64::try_from(block.offset).unwrap_or(i64::MAX),
                    i32::try_from(block.header_bytes).unwrap_or(i32::MAX),
                    i64::from(block.body_bytes),
                )
            })
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
        let bytes = fbb.finished_data().to_vec();
        let (_, crc_at) = read_footer(&bytes)?;
        Ok((bytes, crc_at))
    }
}

/// The metadata document of a footer, and where its checksum digits stand.
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
        trailer.split_at_checked(4).ok_or_else(|| Error::corrupt("chunk file is shorter than its trailer"))?;
    if magic != ARROW_MAGIC {
        return Err(Error::corrupt("chunk file does not end with the Arrow magic"));
    }
    let length = i32::from_le_bytes(length.try_into().unwrap_or_default());
    usize::try_from(length).map_err(|_| Error::corrupt("chunk footer has a negative length"))
}

/// Checks a footer and reads it: the metadata and the footer's checksum.
///
/// # Errors
/// `corrupt_data` when the checksum or the block table is wrong; `unsupported_format` for a newer chunk.
pub fn decode_footer(footer: &[u8], file_bytes: u64) -> Result<(ChunkMeta, u32)> {
    let (json, crc_at) = read_footer(footer)?;
    let digits_end = crc_at + CRC_PLACEHOLDER.len();
    let (Some(before), Some(digits), Some(after)) =
        (footer.get(..crc_at), footer.get(crc_at..digits_end), footer.get(digits_end..))
    else {
        return Err(Error::corrupt("chunk footer: the checksum lies outside"));
    };
    let mut crc = crc32c::crc32c(before);
    crc = crc32c::crc32c_append(crc, CRC_PLACEHOLDER.as_bytes());
    crc = crc32c::crc32c_append(crc, after);
    if format!("{crc:08x}").as_bytes() != digits && !planted(Bug::FooterUnchecked) {
        return Err(Error::corrupt(format!(
            "chunk footer: checksum {crc:08x}, expected {}",
            String::from_utf8_lossy(digits)
        )));
    }
    let meta: ChunkMeta =
        serde_json::from_str(&json).map_err(|error| Error::corrupt(format!("chunk metadata: {error}")))?;
    if meta.format > CHUNK_VERSION {
        return Err(Error::new(ErrorCode::UnsupportedFormat, format!("chunk has format {}", meta.format)));
    }
    check_blocks(&meta, file_bytes)?;
    Ok((meta, crc))
}

/// Blocks must stand one after the other inside the file and be as large as their rows.
fn check_blocks(meta: &ChunkMeta, file_bytes: u64) -> Result<()> {
    let column_count = meta.series.columns.len() + 1;
    let mut rows = 0_u64;
    let mut end = None;
    for (position, block) in meta.blocks.iter().enumerate() {
        let column_bytes = usize::try_from(block.rows).unwrap_or(usize::MAX).saturating_mul(8);
        let body = ipc::padded(column_bytes).saturating_mul(column_count);
        let next = block.offset.saturating_add(block.bytes());
        let in_place = end.is_none_or(|end| end == block.offset) && next <= file_bytes;
        if u64::from(block.body_bytes) != u64::try_from(body).unwrap_or(u64::MAX) || !in_place || block.rows == 0 {
            return Err(Error::corrupt(format!("chunk metadata: block {position} does not fit the file")));
        }
        rows += u64::from(block.rows);
        end = Some(next);
    }
    if rows != meta.rows {
        return Err(Error::corrupt(format!("chunk metadata: {} rows, its blocks hold {rows}", meta.rows)));
    }
    Ok(())
}

/// Offset of a column inside the body of a block of `rows` rows.
pub fn column_offset(rows: usize, column: usize) -> usize {
    column * ipc::padded(rows * 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{SeriesKey, SeriesSpec};
    use arrow::array::{Array, Decimal64Array, TimestampMillisecondArray};
    use arrow::ipc::reader::FileReader;

    fn sample() -> (Vec<u8>, ChunkSummary) {
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
        };
        let mut writer = ChunkWriter::new(Vec::new(), head).unwrap();
        for block in 0..2_i64 {
            let ts: Vec<i64> = (0..100).map(|row| (block * 100 + row) * 60_000).collect();
            let cells: Vec<i64> = (0..100).map(|row| block * 1000 + row).collect();
            writer.write_block(&[&ts, &cells, &cells, &cells, &cells, &cells]).unwrap();
        }
        writer.finish().unwrap()
    }

    fn open(file: &[u8]) -> Result<(ChunkMeta, u32)> {
        let trailer_at = file.len() - TRAILER_BYTES;
        let length = footer_bytes(&file[trailer_at..])?;
        let begin = trailer_at.checked_sub(length).ok_or_else(|| Error::corrupt("short"))?;
        decode_footer(&file[begin..trailer_at], file.len() as u64)
    }

    #[test]
    fn a_chunk_is_a_plain_arrow_file_that_describes_itself() {
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
    fn a_footer_with_any_flipped_bit_is_refused() {
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
    fn blocks_are_whole_zones_within_a_mebibyte() {
        assert_eq!(block_rows(5), 16_384);
        assert_eq!(block_rows(9), 12_288);
        for columns in 1..=64 {
            let rows = block_rows(columns);
            assert!(
                rows.is_multiple_of(ZONE_ROWS) && rows <= BLOCK_ROWS_MAX && rows * 8 * (columns + 1) <= BLOCK_BYTES_MAX
            );
        }
    }
}
