//! The write-ahead log: segments of frames, one frame per commit.
//!
//! A segment starts with [`SegmentHeader`] and is preallocated with zeros. Frames start on multiples of
//! [`FRAME_ALIGNMENT`] and have the random epoch of their segment, so that stale bytes from an earlier use of the same
//! disk blocks never parse. `durable_lsn` is the highest LSN known to be synced when the frame was written: a damaged
//! frame below a later `durable_lsn` is corruption of synced data, otherwise it is the torn end of an unfinished write.

use super::bytes::{ByteReader, put_blob, put_length, put_words};
use super::receipt::Receipt;
use super::texts::{ColumnTexts, put_texts, read_texts};
use crate::error::{Error, ErrorCode, Result};
use crate::types::schema::COLUMNS_MAX;
use crate::types::{CellLayout, ColumnCells, Rows, cells};

/// First bytes of a segment.
pub const SEGMENT_MAGIC: &[u8; 8] = b"FASTKWAL";
/// Version of segments and frames.
pub const WAL_VERSION: u32 = 2;
/// Bytes of a segment header.
pub const SEGMENT_HEADER_BYTES: usize = 64;
/// Bytes of a segment header under its checksum.
const HEADER_COVERED: usize = 48;
/// First bytes of a frame.
pub const FRAME_MAGIC: [u8; 4] = *b"FKWF";
/// Bytes of a frame before its payload.
pub const FRAME_HEADER_BYTES: usize = 56;
/// Frames start on multiples of this many bytes.
pub const FRAME_ALIGNMENT: usize = 64;
/// Maximum size of a frame's payload in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 31;

/// Identifies a segment and its position in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Number in the file name.
    pub number: u64,
    /// Random; every frame repeats it.
    pub epoch: u64,
    /// LSN of the first frame.
    pub first_lsn: u64,
    /// Size of the file in bytes. The file is published at full size, so a shorter one was truncated.
    pub segment_bytes: u64,
}

/// Kind of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// A commit: its payload is a list of operations.
    Commit = 1,
    /// Only a newer `durable_lsn`, no payload.
    Marker = 2,
}

/// A frame without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    pub kind: FrameKind,
    /// Log sequence number, incremented with every frame.
    pub lsn: u64,
    pub epoch: u64,
    pub durable_lsn: u64,
    /// Commit number; 0 in a marker.
    pub commit: u64,
    pub payload_bytes: usize,
}

/// One change inside a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoggedChange {
    /// Rows in the order of their series; `replaced` of them existed. The texts are new in the dictionaries of the
    /// series.
    Write {
        series_id: u64,
        replaced: u64,
        rows: Rows,
        texts: Vec<ColumnTexts>,
    },
    /// A delete of a closed range; `deleted` rows were removed, and `left` are the bounds of the remaining rows.
    Delete {
        series_id: u64,
        start: i64,
        end: i64,
        deleted: u64,
        left: Option<(i64, i64)>,
    },
    /// A new series, or a changed registration of an existing one; the registration as JSON.
    Register {
        series_id: u64,
        def: String,
    },
    Drop {
        series_id: u64,
    },
    /// A named view of the store at this commit.
    CreateSnapshot {
        name: String,
    },
    DropSnapshot {
        name: String,
    },
    /// A kind of series; the definition as JSON.
    RegisterKind {
        def: String,
    },
    DropKind {
        name: String,
    },
}

/// The payload of a commit frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// The outcome for retries, when the caller sent an idempotency key.
    pub receipt: Option<Receipt>,
    /// Wall clock in milliseconds; informational.
    pub wall_ms: i64,
    pub operations: Vec<LoggedChange>,
}

/// Bytes of a segment header.
pub fn encode_segment_header(header: &SegmentHeader) -> [u8; SEGMENT_HEADER_BYTES] {
    let mut out = Vec::with_capacity(SEGMENT_HEADER_BYTES);
    out.extend_from_slice(SEGMENT_MAGIC);
    out.extend_from_slice(&WAL_VERSION.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    for value in [header.number, header.epoch, header.first_lsn, header.segment_bytes] {
        out.extend_from_slice(&value.to_le_bytes());
    }
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out.resize(SEGMENT_HEADER_BYTES, 0);
    cells::array(&out, 0)
}

/// Decodes a segment header. The caller checks the size of the file.
///
/// # Errors
/// `corrupt_data` for a damaged header, `unsupported_format` for a newer version.
pub fn decode_segment_header(bytes: &[u8]) -> Result<SegmentHeader> {
    let mut reader = ByteReader::new(bytes, "log segment header");
    if reader.take(8)? != SEGMENT_MAGIC {
        return Err(Error::corrupt("log segment does not start with its magic"));
    }
    let version = reader.u32()?;
    reader.take(4)?;
    let header = SegmentHeader {
        number: reader.u64()?,
        epoch: reader.u64()?,
        first_lsn: reader.u64()?,
        segment_bytes: reader.u64()?,
    };
    let crc = reader.u32()?;
    if version > WAL_VERSION && bytes.get(..HEADER_COVERED).map(crc32c::crc32c) == Some(crc) {
        return Err(Error::new(ErrorCode::UnsupportedFormat, format!("log segment has version {version}")));
    }
    if bytes.get(..SEGMENT_HEADER_BYTES) != Some(encode_segment_header(&header).as_slice()) {
        return Err(Error::corrupt(format!("log segment header {}: checksum {crc:08x} does not match", header.number)));
    }
    Ok(header)
}

/// Appends a frame, padded to [`FRAME_ALIGNMENT`], to `out`.
pub fn put_frame(out: &mut Vec<u8>, header: &FrameHeader, payload: &[u8]) {
    put_frame_head(out, header, payload);
    out.extend_from_slice(payload);
    put_frame_padding(out, payload.len());
}

/// Appends the header of a frame.
pub fn put_frame_head(out: &mut Vec<u8>, header: &FrameHeader, payload: &[u8]) {
    let begin = out.len();
    out.extend_from_slice(&FRAME_MAGIC);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(header.kind as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    for value in [header.lsn, header.epoch, header.durable_lsn, header.commit] {
        out.extend_from_slice(&value.to_le_bytes());
    }
    out.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(cells::range(out, begin + 8..out.len())), payload);
    cells::put(out, begin + 4, &crc.to_le_bytes());
}

/// Appends the zero padding after the payload of a frame.
pub fn put_frame_padding(out: &mut Vec<u8>, payload_bytes: usize) {
    let padding = frame_bytes(payload_bytes) - FRAME_HEADER_BYTES - payload_bytes;
    out.resize(out.len() + padding, 0);
}

/// Bytes a frame with this payload takes in a segment.
pub fn frame_bytes(payload_bytes: usize) -> usize {
    (FRAME_HEADER_BYTES + payload_bytes).div_ceil(FRAME_ALIGNMENT) * FRAME_ALIGNMENT
}

/// Content of a segment at one offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameRead<'a> {
    Frame(FrameHeader, &'a [u8]),
    /// Zeros: no frame was written here.
    Empty,
    /// Bytes that are not an intact frame of this epoch.
    Damaged,
}

/// Reads the frame at `offset` of a segment of this epoch.
pub fn frame_at(segment: &[u8], offset: usize, epoch: u64) -> FrameRead<'_> {
    let Some(rest) = segment.get(offset..) else { return FrameRead::Empty };
    if rest.iter().take(FRAME_HEADER_BYTES).all(|byte| *byte == 0) {
        return FrameRead::Empty;
    }
    match read_frame(rest) {
        Some((header, payload)) if header.epoch == epoch => FrameRead::Frame(header, payload),
        _ => FrameRead::Damaged,
    }
}

/// The first intact frame of any epoch, and its offset; recovers the epoch of a segment with a damaged header, since
/// the checksum of a frame covers the epoch. `None` without an intact frame.
pub fn first_frame(segment: &[u8]) -> Option<(usize, FrameHeader)> {
    (SEGMENT_HEADER_BYTES..segment.len())
        .step_by(FRAME_ALIGNMENT)
        .find_map(|offset| Some((offset, read_frame(segment.get(offset..)?)?.0)))
}

fn read_frame(bytes: &[u8]) -> Option<(FrameHeader, &[u8])> {
    let mut reader = ByteReader::new(bytes, "frame");
    if reader.take(4).ok()? != FRAME_MAGIC {
        return None;
    }
    let crc = reader.u32().ok()?;
    let kind = match reader.u32().ok()? {
        1 => FrameKind::Commit,
        2 => FrameKind::Marker,
        _ => return None,
    };
    reader.take(4).ok()?;
    let (lsn, epoch) = (reader.u64().ok()?, reader.u64().ok()?);
    let (durable_lsn, commit) = (reader.u64().ok()?, reader.u64().ok()?);
    let payload_bytes = usize::try_from(reader.u64().ok()?).ok()?;
    if payload_bytes > PAYLOAD_BYTES_MAX {
        return None;
    }
    let payload = reader.take(payload_bytes).ok()?;
    let covered = bytes.get(8..FRAME_HEADER_BYTES.checked_add(payload_bytes)?)?;
    (crc32c::crc32c(covered) == crc)
        .then_some((FrameHeader { kind, lsn, epoch, durable_lsn, commit, payload_bytes }, payload))
}

const OP_WRITE: u8 = 1;
const OP_DELETE: u8 = 2;
const OP_REGISTER: u8 = 3;
const OP_DROP: u8 = 4;
const OP_CREATE_SNAPSHOT: u8 = 5;
const OP_DROP_SNAPSHOT: u8 = 6;
const OP_REGISTER_KIND: u8 = 7;
const OP_DROP_KIND: u8 = 8;

/// Appends rows: column count, row count, `ts`, then each column: bytes per cell (0 for flags), 1 where cells can be null,
/// the cells, and a byte per row that says which are present.
pub fn put_rows(out: &mut Vec<u8>, rows: &Rows) {
    put_length(out, rows.columns.len());
    put_length(out, rows.len());
    put_words(out, &rows.ts);
    for column in &rows.columns {
        let cells = column.as_slice();
        let width: u16 = match column.layout() {
            CellLayout::Bytes(width) => width,
            CellLayout::Flag => 0,
        };
        out.extend_from_slice(&width.to_le_bytes());
        let valid = cells.validity_bytes().filter(|_| cells.null_count() > 0);
        out.extend_from_slice(&u16::from(valid.is_some()).to_le_bytes());
        out.extend_from_slice(&cells.cell_bytes());
        out.extend_from_slice(valid.as_deref().unwrap_or_default());
    }
}

/// Reads rows written by [`put_rows`].
pub fn read_rows(reader: &mut ByteReader<'_>) -> Result<Rows> {
    let column_count = reader.length()?;
    if column_count > COLUMNS_MAX {
        return Err(Error::corrupt(format!("rows with {column_count} columns")));
    }
    let row_count = reader.length()?;
    let ts = reader.words(row_count)?;
    let mut columns = Vec::new();
    for column in 0..column_count {
        let (width, has_nulls) = (reader.u16()?, reader.u16()?);
        let layout = if width == 0 { CellLayout::Flag } else { CellLayout::Bytes(width) };
        let damaged = || Error::corrupt(format!("rows: the cells of column {column} do not fit their type"));
        let cells = reader.take(row_count.checked_mul(layout.width()).ok_or_else(damaged)?)?;
        let valid = match has_nulls {
            0 => None,
            1 => Some(reader.take(row_count)?),
            _ => return Err(damaged()),
        };
        columns.push(ColumnCells::from_bytes(layout, cells, valid).ok_or_else(damaged)?);
    }
    Ok(Rows::new(ts, columns))
}

/// Encodes a commit's payload.
pub fn encode_commit(commit: &Commit) -> Vec<u8> {
    let bytes = |operation: &LoggedChange| match operation {
        LoggedChange::Write { rows, .. } => 64 + rows.columns.len() * 4 + rows.bytes(),
        _ => 64,
    };
    // Reserve the space at once, so that large payloads are not moved while they grow.
    let mut out = Vec::with_capacity(64 + commit.operations.iter().map(bytes).sum::<usize>());
    let mut receipt = Vec::new();
    if let Some(source) = &commit.receipt {
        source.put(&mut receipt);
    }
    put_blob(&mut out, &receipt);
    out.extend_from_slice(&commit.wall_ms.to_le_bytes());
    put_length(&mut out, commit.operations.len());
    for operation in &commit.operations {
        match operation {
            LoggedChange::Write { series_id, replaced, rows, texts } => {
                out.push(OP_WRITE);
                out.extend_from_slice(&series_id.to_le_bytes());
                out.extend_from_slice(&replaced.to_le_bytes());
                put_rows(&mut out, rows);
                put_texts(&mut out, texts);
            }
            LoggedChange::Delete { series_id, start, end, deleted, left } => {
                out.push(OP_DELETE);
                out.extend_from_slice(&series_id.to_le_bytes());
                out.extend_from_slice(&start.to_le_bytes());
                out.extend_from_slice(&end.to_le_bytes());
                out.extend_from_slice(&deleted.to_le_bytes());
                let (first, last) = left.unwrap_or((i64::MAX, i64::MIN));
                put_words(&mut out, &[first, last]);
            }
            LoggedChange::Register { series_id, def } => {
                out.push(OP_REGISTER);
                out.extend_from_slice(&series_id.to_le_bytes());
                put_blob(&mut out, def.as_bytes());
            }
            LoggedChange::Drop { series_id } => {
                out.push(OP_DROP);
                out.extend_from_slice(&series_id.to_le_bytes());
            }
            LoggedChange::CreateSnapshot { name } => {
                out.push(OP_CREATE_SNAPSHOT);
                put_blob(&mut out, name.as_bytes());
            }
            LoggedChange::DropSnapshot { name } => {
                out.push(OP_DROP_SNAPSHOT);
                put_blob(&mut out, name.as_bytes());
            }
            LoggedChange::RegisterKind { def } => {
                out.push(OP_REGISTER_KIND);
                put_blob(&mut out, def.as_bytes());
            }
            LoggedChange::DropKind { name } => {
                out.push(OP_DROP_KIND);
                put_blob(&mut out, name.as_bytes());
            }
        }
    }
    out
}

/// Decodes a commit's payload.
pub fn decode_commit(payload: &[u8]) -> Result<Commit> {
    let mut reader = ByteReader::new(payload, "commit");
    let receipt = match reader.blob()? {
        [] => None,
        bytes => Some(Receipt::read(bytes)?),
    };
    let wall_ms = reader.i64()?;
    let count = reader.u32()?;
    let text = |reader: &mut ByteReader<'_>, what: &str| -> Result<String> {
        let bytes = reader.blob()?;
        std::str::from_utf8(bytes)
            .map(str::to_owned)
            .map_err(|_| Error::corrupt(format!("commit: a {what} is not UTF-8")))
    };
    let mut operations = Vec::new();
    for _ in 0..count {
        operations.push(match reader.u8()? {
            OP_WRITE => LoggedChange::Write {
                series_id: reader.u64()?,
                replaced: reader.u64()?,
                rows: read_rows(&mut reader)?,
                texts: read_texts(&mut reader)?,
            },
            OP_DELETE => LoggedChange::Delete {
                series_id: reader.u64()?,
                start: reader.i64()?,
                end: reader.i64()?,
                deleted: reader.u64()?,
                left: Some((reader.i64()?, reader.i64()?)).filter(|(first, last)| first <= last),
            },
            OP_REGISTER => LoggedChange::Register { series_id: reader.u64()?, def: text(&mut reader, "registration")? },
            OP_DROP => LoggedChange::Drop { series_id: reader.u64()? },
            OP_CREATE_SNAPSHOT => LoggedChange::CreateSnapshot { name: text(&mut reader, "snapshot name")? },
            OP_DROP_SNAPSHOT => LoggedChange::DropSnapshot { name: text(&mut reader, "snapshot name")? },
            OP_REGISTER_KIND => LoggedChange::RegisterKind { def: text(&mut reader, "kind")? },
            OP_DROP_KIND => LoggedChange::DropKind { name: text(&mut reader, "kind name")? },
            other => return Err(Error::corrupt(format!("commit has an unknown operation {other}"))),
        });
    }
    reader.finish()?;
    Ok(Commit { receipt, wall_ms, operations })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Commit {
        Commit {
            receipt: Some(Receipt { key: 1, fingerprint: 2, wall_ms: 3, written: Vec::new() }),
            wall_ms: 7,
            operations: vec![
                LoggedChange::Register { series_id: 1, def: "{}".into() },
                LoggedChange::Write {
                    series_id: 1,
                    replaced: 1,
                    rows: Rows::of_words(vec![-1, 5], vec![vec![10, -20], vec![3, 4]]),
                    texts: Vec::new(),
                },
                LoggedChange::Delete { series_id: 1, start: i64::MIN, end: 5, deleted: 2, left: None },
                LoggedChange::Delete { series_id: 1, start: 1, end: 5, deleted: 2, left: Some((-7, 9)) },
                LoggedChange::Drop { series_id: 1 },
                LoggedChange::CreateSnapshot { name: "monday".into() },
                LoggedChange::DropSnapshot { name: "monday".into() },
                LoggedChange::RegisterKind { def: "{}".into() },
                LoggedChange::DropKind { name: "greeks".into() },
            ],
        }
    }

    #[test]
    fn commits_round_trip() {
        let payload = encode_commit(&sample());
        assert_eq!(decode_commit(&payload).unwrap(), sample());
        for length in 0..payload.len() {
            assert!(decode_commit(&payload[..length]).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn a_frame_with_any_flipped_bit_or_of_another_epoch_is_damaged() {
        let payload = encode_commit(&sample());
        let header = FrameHeader {
            kind: FrameKind::Commit,
            lsn: 9,
            epoch: 77,
            durable_lsn: 8,
            commit: 3,
            payload_bytes: payload.len(),
        };
        let mut segment = Vec::new();
        put_frame(&mut segment, &header, &payload);
        assert_eq!(segment.len(), frame_bytes(payload.len()));
        assert_eq!(frame_at(&segment, 0, 77), FrameRead::Frame(header, &payload));
        assert_eq!(frame_at(&segment, 0, 78), FrameRead::Damaged);
        assert_eq!(frame_at(&[0; 128], 64, 77), FrameRead::Empty);
        for bit in 0..(FRAME_HEADER_BYTES + payload.len()) * 8 {
            let mut damaged = segment.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(frame_at(&damaged, 0, 77), FrameRead::Damaged, "bit {bit}");
        }
    }

    #[test]
    fn a_damaged_segment_header_is_rejected_and_loses_no_frame() {
        let header = SegmentHeader { number: 1, epoch: 77, first_lsn: 9, segment_bytes: 4_096 };
        let mut segment = encode_segment_header(&header).to_vec();
        assert_eq!(first_frame(&segment), None);
        let marker =
            |lsn| FrameHeader { kind: FrameKind::Marker, lsn, epoch: 77, durable_lsn: 8, commit: 0, payload_bytes: 0 };
        put_frame(&mut segment, &marker(9), &[]);
        put_frame(&mut segment, &marker(10), &[]);
        segment.resize(4_096, 0);
        assert_eq!(decode_segment_header(&segment).unwrap(), header);
        for bit in 0..SEGMENT_HEADER_BYTES * 8 {
            let mut damaged = segment.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_segment_header(&damaged).unwrap_err().code(), ErrorCode::CorruptData, "bit {bit}");
            assert_eq!(first_frame(&damaged), Some((64, marker(9))), "bit {bit}");
        }
        for length in 0..SEGMENT_HEADER_BYTES {
            assert!(decode_segment_header(&segment[..length]).is_err(), "cut at {length}");
        }
        segment[70] ^= 1;
        assert_eq!(first_frame(&segment), Some((128, marker(10))), "the next frame has the epoch too");
    }
}
