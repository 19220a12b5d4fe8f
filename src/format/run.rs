//! Run files: tail rows of many series in one immutable file, so that the log can be trimmed without a chunk a
//! series.
//!
//! | bytes | field |
//! |---|---|
//! | 8 | magic `FASTKRUN` |
//! | 4 | version |
//! | 4 | CRC-32C of the 16 bytes that follow |
//! | 8 | base commit: the rows are those of commits up to it |
//! | 8 | number of entries |
//! | … | entries: `u64` length, CRC-32C of the body as `u32`, body |
//!
//! An entry's body is the series id, the lowest and highest commit inside as `u64`, then rows as in the log.

use super::bytes::Reader;
use super::wal::{put_rows, read_rows};
use crate::error::{Error, ErrorCode, Result};
use crate::types::Rows;

/// First bytes of a run file.
pub const RUN_MAGIC: &[u8; 8] = b"FASTKRUN";
/// Version of run files.
pub const RUN_VERSION: u32 = 1;

/// One sorted run of one series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunEntry {
    pub series_id: u64,
    pub commit_lo: u64,
    pub commit_hi: u64,
    /// Sorted and distinct.
    pub rows: Rows,
}

/// Bytes of a run file.
pub fn encode_run<'a>(base_commit: u64, entries: impl Iterator<Item = (u64, u64, u64, &'a Rows)>) -> Vec<u8> {
    let mut body = Vec::new();
    let mut count = 0_u64;
    for (series_id, commit_lo, commit_hi, rows) in entries {
        let mut entry = Vec::with_capacity(rows.bytes() + 32);
        for value in [series_id, commit_lo, commit_hi] {
            entry.extend_from_slice(&value.to_le_bytes());
        }
        put_rows(&mut entry, rows);
        body.extend_from_slice(&u64::try_from(entry.len()).unwrap_or(u64::MAX).to_le_bytes());
        body.extend_from_slice(&crc32c::crc32c(&entry).to_le_bytes());
        body.extend_from_slice(&entry);
        count += 1;
    }
    let mut tail = Vec::with_capacity(16 + body.len());
    tail.extend_from_slice(&base_commit.to_le_bytes());
    tail.extend_from_slice(&count.to_le_bytes());
    let crc = crc32c::crc32c(&tail);
    tail.extend_from_slice(&body);
    let mut out = Vec::with_capacity(16 + tail.len());
    out.extend_from_slice(RUN_MAGIC);
    out.extend_from_slice(&RUN_VERSION.to_le_bytes());
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&tail);
    out
}

/// Reads a run file: its base commit and its entries.
pub fn decode_run(file: &[u8]) -> Result<(u64, Vec<RunEntry>)> {
    let mut reader = Reader::new(file, "run file");
    if reader.take(8)? != RUN_MAGIC {
        return Err(Error::corrupt("run file does not begin with its magic"));
    }
    let version = reader.u32()?;
    if version > RUN_VERSION {
        return Err(Error::new(ErrorCode::UnsupportedFormat, format!("run file has version {version}")));
    }
    let crc = reader.u32()?;
    let head = reader.take(16)?;
    if version != RUN_VERSION || crc32c::crc32c(head) != crc {
        return Err(Error::corrupt("run file: the checksum of its header does not match"));
    }
    let mut head = Reader::new(head, "run file");
    let (base_commit, count) = (head.u64()?, head.u64()?);
    let mut entries = Vec::new();
    for position in 0..count {
        let length = usize::try_from(reader.u64()?).unwrap_or(usize::MAX);
        let crc = reader.u32()?;
        let body = reader.take(length)?;
        if crc32c::crc32c(body) != crc {
            return Err(Error::corrupt(format!("run file: the checksum of entry {position} does not match")));
        }
        let mut body = Reader::new(body, "run entry");
        let (series_id, commit_lo, commit_hi) = (body.u64()?, body.u64()?, body.u64()?);
        let rows = read_rows(&mut body)?;
        body.finish()?;
        entries.push(RunEntry { series_id, commit_lo, commit_hi, rows });
    }
    reader.finish()?;
    Ok((base_commit, entries))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_survive_their_bytes_and_notice_every_flipped_bit() {
        let rows = Rows { ts: vec![1, 2], columns: vec![vec![3, 4]] };
        let file = encode_run(9, [(5_u64, 6_u64, 9_u64, &rows)].into_iter());
        let (base, entries) = decode_run(&file).unwrap();
        assert_eq!((base, entries.len()), (9, 1));
        assert_eq!(entries[0], RunEntry { series_id: 5, commit_lo: 6, commit_hi: 9, rows });
        for bit in 0..file.len() * 8 {
            let mut damaged = file.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_run(&damaged).is_err(), "bit {bit}");
        }
    }
}
