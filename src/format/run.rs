//! Run files: tail rows of many series in one immutable file, so that the log can be trimmed without a chunk a
//! series. The file is mapped and read in place: columns begin on multiples of 64 bytes.
//!
//! | bytes | field |
//! |---|---|
//! | 8 | magic `FASTKRUN` |
//! | 4 | version |
//! | … | zeros up to byte 64 |
//! | … | runs: `ts`, then each column, 8 bytes a cell, each padded with zeros to 64 bytes |
//! | … | index: one entry of 72 bytes a run |
//! | 32 | trailer |
//!
//! An index entry: series id, lowest and highest commit, rows, offset of the run, first and last timestamp (8 bytes
//! each), number of columns with `ts` and CRC-32C of the run's bytes (4 bytes each), 8 zeros. The trailer: offset of
//! the index, number of entries (8 bytes each), CRC-32C of the first 64 bytes of the file, the index and the 16 bytes
//! of the trailer before it (4 bytes), 4 zeros, magic `FASTKRUN`.

use std::io::{self, Write};

use super::bytes::{Reader, put_words};
use crate::error::{Error, ErrorCode, Result};
use crate::planted::{Bug, planted};
use crate::types::schema::COLUMNS_MAX;

/// First and last bytes of a run file.
pub const RUN_MAGIC: &[u8; 8] = b"FASTKRUN";
/// Version of run files.
pub const RUN_VERSION: u32 = 2;
/// Bytes before the first run.
pub const RUN_HEAD_BYTES: usize = 64;
/// Bytes of an index entry.
pub const RUN_ENTRY_BYTES: usize = 72;
/// Bytes of the trailer.
pub const RUN_TRAILER_BYTES: usize = 32;

/// One sorted run of one series inside a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunEntry {
    pub series_id: u64,
    pub commit_lo: u64,
    pub commit_hi: u64,
    pub rows: u64,
    /// Where its columns begin.
    pub offset: u64,
    pub ts_min: i64,
    pub ts_max: i64,
    /// Columns, `ts` among them.
    pub columns: u32,
    pub crc: u32,
}

impl RunEntry {
    /// Bytes of one column with its padding.
    pub fn stride(&self) -> u64 {
        stride(self.rows)
    }

    /// Bytes of the run in the file.
    pub fn bytes(&self) -> u64 {
        self.stride().saturating_mul(u64::from(self.columns))
    }
}

fn stride(rows: u64) -> u64 {
    rows.saturating_mul(8).div_ceil(64).saturating_mul(64)
}

fn head() -> Vec<u8> {
    let mut head = RUN_MAGIC.to_vec();
    head.extend_from_slice(&RUN_VERSION.to_le_bytes());
    head.resize(RUN_HEAD_BYTES, 0);
    head
}

/// Writes a run file from front to back.
#[derive(Debug)]
pub struct RunWriter<W> {
    out: W,
    offset: u64,
    entries: Vec<RunEntry>,
}

impl<W: Write> RunWriter<W> {
    pub fn new(mut out: W) -> io::Result<Self> {
        out.write_all(&head())?;
        Ok(Self { out, offset: RUN_HEAD_BYTES as u64, entries: Vec::new() })
    }

    /// Adds a run: `ts` first, all columns of the same length, rising in time.
    pub fn add(&mut self, series_id: u64, commits: (u64, u64), columns: &[&[i64]]) -> io::Result<()> {
        let ts = columns.first().copied().unwrap_or_default();
        let mut bytes = Vec::new();
        for column in columns {
            put_words(&mut bytes, column);
            bytes.resize(bytes.len().div_ceil(64) * 64, 0);
        }
        self.out.write_all(&bytes)?;
        self.entries.push(RunEntry {
            series_id,
            commit_lo: commits.0,
            commit_hi: commits.1,
            rows: ts.len() as u64,
            offset: self.offset,
            ts_min: ts.first().copied().unwrap_or_default(),
            ts_max: ts.last().copied().unwrap_or_default(),
            columns: u32::try_from(columns.len()).unwrap_or(u32::MAX),
            crc: crc32c::crc32c(&bytes),
        });
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// How many runs were added.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Writes index and trailer. Gives the output, the bytes of the file and its checksum, which covers everything.
    pub fn finish(mut self) -> io::Result<(W, u64, u32)> {
        let mut end = Vec::with_capacity(self.entries.len() * RUN_ENTRY_BYTES + RUN_TRAILER_BYTES);
        for entry in &self.entries {
            for value in [entry.series_id, entry.commit_lo, entry.commit_hi, entry.rows, entry.offset] {
                end.extend_from_slice(&value.to_le_bytes());
            }
            put_words(&mut end, &[entry.ts_min, entry.ts_max]);
            end.extend_from_slice(&entry.columns.to_le_bytes());
            end.extend_from_slice(&entry.crc.to_le_bytes());
            end.extend_from_slice(&[0; 8]);
        }
        end.extend_from_slice(&self.offset.to_le_bytes());
        end.extend_from_slice(&(self.entries.len() as u64).to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&head()), &end);
        end.extend_from_slice(&crc.to_le_bytes());
        end.extend_from_slice(&[0; 4]);
        end.extend_from_slice(RUN_MAGIC);
        self.out.write_all(&end)?;
        Ok((self.out, self.offset + end.len() as u64, crc))
    }
}

/// Checks every byte of a run file. Gives its checksum and its runs.
pub fn decode_run(file: &[u8]) -> Result<(u32, Vec<RunEntry>)> {
    let damaged = |what: &str| Error::corrupt(format!("run file: {what}"));
    let mut reader = Reader::new(file, "run file");
    if reader.take(8)? != RUN_MAGIC {
        return Err(damaged("it does not begin with its magic"));
    }
    let version = reader.u32()?;
    if version > RUN_VERSION {
        return Err(Error::new(ErrorCode::UnsupportedFormat, format!("run file has version {version}")));
    }
    let trailer_at = file.len().checked_sub(RUN_TRAILER_BYTES).ok_or_else(|| damaged("it is cut"))?;
    let (before, trailer) = file.split_at_checked(trailer_at).ok_or_else(|| damaged("it is cut"))?;
    let mut reader = Reader::new(trailer, "run file trailer");
    let (index_at, count, crc) = (reader.u64()?, reader.u64()?, reader.u32()?);
    if reader.take(4)? != [0; 4] || reader.take(8)? != RUN_MAGIC {
        return Err(damaged("it does not end with its magic"));
    }
    let wide = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let index = before.get(wide(index_at)..).unwrap_or_default();
    let head = before.get(..RUN_HEAD_BYTES).unwrap_or_default();
    let found = crc32c::crc32c_append(
        crc32c::crc32c_append(crc32c::crc32c(head), index),
        trailer.get(..16).unwrap_or_default(),
    );
    let other = found != crc && !planted(Bug::RunUnchecked);
    if other || Some(index.len()) != wide(count).checked_mul(RUN_ENTRY_BYTES) {
        return Err(damaged(&format!("the checksum of its index is {found:08x}, expected {crc:08x}")));
    }
    let mut entries = Vec::with_capacity(wide(count));
    let mut reader = Reader::new(index, "run file index");
    let mut end = RUN_HEAD_BYTES as u64;
    for position in 0..count {
        let entry = RunEntry {
            series_id: reader.u64()?,
            commit_lo: reader.u64()?,
            commit_hi: reader.u64()?,
            rows: reader.u64()?,
            offset: reader.u64()?,
            ts_min: reader.i64()?,
            ts_max: reader.i64()?,
            columns: reader.u32()?,
            crc: reader.u32()?,
        };
        reader.take(8)?;
        let stop = entry.offset.saturating_add(entry.bytes());
        let bytes = file.get(wide(entry.offset)..wide(stop)).filter(|_| entry.offset == end && stop <= index_at);
        let columns = wide(u64::from(entry.columns));
        if columns == 0 || columns > COLUMNS_MAX + 1 || entry.rows == 0 {
            return Err(damaged(&format!("run {position} has an impossible shape")));
        }
        match bytes.map(crc32c::crc32c) {
            Some(crc) if crc == entry.crc || planted(Bug::RunUnchecked) => {}
            _ => {
                return Err(damaged(&format!(
                    "the checksum of run {position} (series {}, timestamps {} to {}) does not match",
                    entry.series_id, entry.ts_min, entry.ts_max
                )));
            }
        }
        end = stop;
        entries.push(entry);
    }
    reader.finish()?;
    if end != index_at {
        return Err(damaged("its index does not follow its runs"));
    }
    Ok((crc, entries))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_survive_their_bytes_and_notice_every_flipped_bit() {
        let mut writer = RunWriter::new(Vec::new()).unwrap();
        writer.add(5, (6, 9), &[&[1, 2, 3], &[30, 40, 50]]).unwrap();
        let long: Vec<i64> = (0..9).collect();
        writer.add(6, (7, 7), &[&long, &long, &long]).unwrap();
        let (file, bytes, crc) = writer.finish().unwrap();
        assert_eq!(file.len() as u64, bytes);
        let (found, entries) = decode_run(&file).unwrap();
        assert_eq!((found, entries.len()), (crc, 2));
        let wanted = RunEntry {
            series_id: 5,
            commit_lo: 6,
            commit_hi: 9,
            rows: 3,
            offset: 64,
            ts_min: 1,
            ts_max: 3,
            columns: 2,
            crc: entries[0].crc,
        };
        assert_eq!(entries[0], wanted);
        assert_eq!((entries[1].offset, entries[1].bytes()), (192, 384));
        assert_eq!(&file[128..152], [30_i64, 40, 50].map(i64::to_le_bytes).concat());
        for bit in 0..file.len() * 8 {
            let mut damaged = file.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_run(&damaged).is_err(), "bit {bit}");
        }
        for length in 0..file.len() {
            assert!(decode_run(&file[..length]).is_err(), "cut at {length}");
        }
    }
}
