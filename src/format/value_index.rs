//! Value index sidecars of chunks: the rows of each value, for the columns selected in the registration.
//!
//! Derived data, like zone maps. The entries of a column (order key and row of each cell that is not null) are sorted by
//! key, then row, and split into pages. A directory in an envelope comes first, then the pages: a search reads the directory once and then only
//! the pages it needs, each with its own checksum.
//!
//! The payload of the envelope: chunk id (`u64`), footer checksum of the chunk (`u32`), rows of the chunk (`u32`),
//! number of columns (`u32`), then for each column its position in the registration (`u32`, `ts` is 0), the number of its
//! entries (`u32`) and for each of its pages the lowest key (`i64`), the bytes of a key (`u32`: 0, 1, 2, 4 or 8) and the
//! checksum of the page (`u32`).
//! Every page but the last of a column has [`PAGE_ENTRIES`] entries. A page: the rows (`u32` each), then the keys,
//! relative to the lowest one of the page. Pages follow the directory contiguously, in its order.

use std::ops::Range;

use super::bytes::{ByteReader, put_length, range_of};
use super::envelope::{self, ENVELOPE_BYTES};
use crate::error::{Error, Result};
use crate::types::cells;
use crate::types::schema::COLUMNS_MAX;
use crate::types::width::{narrow, to_usize};

/// First bytes of a value index.
pub const VALUE_INDEX_MAGIC: &[u8; 8] = b"FASTKVIX";
/// Version of value indexes.
pub const VALUE_INDEX_VERSION: u32 = 2;
/// Entries of a page.
pub const PAGE_ENTRIES: usize = 1_024;

/// Bytes of the payload before the first column.
const HEAD_BYTES: usize = 20;
/// Bytes of a column in the directory, without its pages.
const COLUMN_RECORD_BYTES: usize = 8;
/// Bytes of a page in the directory.
const PAGE_RECORD_BYTES: usize = 16;

/// The directory of a value index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ValueIndex {
    pub chunk_id: u64,
    /// Footer checksum of the chunk, to detect an index of another file with the same id.
    pub footer_crc: u32,
    /// Rows of the chunk.
    pub rows: u32,
    pub columns: Vec<IndexColumn>,
}

/// One indexed column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexColumn {
    /// Position in the registration; `ts` is 0.
    pub position: usize,
    /// Number of cells that are not null.
    pub entries: u32,
    pub pages: Vec<IndexPage>,
}

/// One page of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexPage {
    /// Lowest key of the page.
    pub low: i64,
    key_bytes: u32,
    crc: u32,
    /// Offset in the file.
    pub offset: u64,
    pub entries: usize,
}

impl ValueIndex {
    /// Size in bytes of the directory with its envelope, for columns of so many entries.
    pub fn directory_bytes(entries: impl IntoIterator<Item = u32>) -> usize {
        let column = |entries: u32| COLUMN_RECORD_BYTES + page_count(entries) * PAGE_RECORD_BYTES;
        ENVELOPE_BYTES + HEAD_BYTES + entries.into_iter().map(column).sum::<usize>()
    }

    /// Size in bytes of the directory of a file that starts with `head`.
    ///
    /// # Errors
    /// `corrupt_data` when these are not the first bytes of a value index.
    pub fn directory_length(head: &[u8]) -> Result<usize> {
        let mut reader = ByteReader::new(head, "value index");
        if reader.take(8)? != VALUE_INDEX_MAGIC {
            return Err(Error::corrupt("value index does not start with its magic"));
        }
        reader.take(8)?;
        let payload = to_usize(reader.u64()?);
        payload.checked_add(ENVELOPE_BYTES).ok_or_else(|| Error::corrupt("value index of impossible length"))
    }

    /// The directory with its envelope.
    pub fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        payload.extend_from_slice(&self.chunk_id.to_le_bytes());
        payload.extend_from_slice(&self.footer_crc.to_le_bytes());
        payload.extend_from_slice(&self.rows.to_le_bytes());
        put_length(&mut payload, self.columns.len());
        for column in &self.columns {
            put_length(&mut payload, column.position);
            payload.extend_from_slice(&column.entries.to_le_bytes());
            for page in &column.pages {
                payload.extend_from_slice(&page.low.to_le_bytes());
                payload.extend_from_slice(&page.key_bytes.to_le_bytes());
                payload.extend_from_slice(&page.crc.to_le_bytes());
            }
        }
        envelope::seal(VALUE_INDEX_MAGIC, VALUE_INDEX_VERSION, &payload)
    }

    /// Decodes the directory of a file of `file_bytes` bytes.
    pub fn decode(directory: &[u8], file_bytes: u64) -> Result<Self> {
        let payload = envelope::open("value index", VALUE_INDEX_MAGIC, VALUE_INDEX_VERSION, directory)?;
        let mut reader = ByteReader::new(payload, "value index");
        let (chunk_id, footer_crc, rows) = (reader.u64()?, reader.u32()?, reader.u32()?);
        let column_count = reader.length()?;
        if column_count > COLUMNS_MAX {
            return Err(Error::corrupt(format!("value index with {column_count} columns")));
        }
        let mut offset = directory.len() as u64;
        let mut columns = Vec::with_capacity(column_count);
        for _ in 0..column_count {
            let (position, entries) = (reader.length()?, reader.u32()?);
            if entries > rows {
                return Err(Error::corrupt(format!("value index with {entries} entries for {rows} rows")));
            }
            let mut column = IndexColumn { position, entries, pages: Vec::new() };
            let mut left = to_usize(entries);
            while left > 0 {
                let (low, key_bytes, crc) = (reader.i64()?, reader.u32()?, reader.u32()?);
                if !matches!(key_bytes, 0 | 1 | 2 | 4 | 8) {
                    return Err(Error::corrupt(format!("value index with keys of {key_bytes} bytes")));
                }
                let page = IndexPage { low, key_bytes, crc, offset, entries: left.min(PAGE_ENTRIES) };
                left -= page.entries;
                // Fewer than 2^32 rows of at most 12 bytes, in at most as many columns as a directory in memory has.
                offset += page.bytes() as u64;
                column.pages.push(page);
            }
            columns.push(column);
        }
        reader.finish()?;
        if offset != file_bytes {
            return Err(Error::corrupt(format!("value index of {file_bytes} bytes, expected {offset}")));
        }
        Ok(Self { chunk_id, footer_crc, rows, columns })
    }

    /// Decodes and verifies a complete file including all pages.
    pub fn check(file: &[u8]) -> Result<Self> {
        let directory = Self::directory_length(file)?;
        let directory = file.get(..directory).ok_or_else(|| Error::corrupt("value index is truncated"))?;
        let index = Self::decode(directory, file.len() as u64)?;
        for page in index.columns.iter().flat_map(|column| &column.pages) {
            let begin = to_usize(page.offset);
            page.check(range_of(file, begin..begin + page.bytes(), "value index page")?)?;
        }
        Ok(index)
    }

    /// The index of a column by its position in the registration.
    pub fn column(&self, position: usize) -> Option<&IndexColumn> {
        self.columns.iter().find(|column| column.position == position)
    }
}

fn page_count(entries: u32) -> usize {
    to_usize(entries).div_ceil(PAGE_ENTRIES)
}

impl IndexColumn {
    /// Pages that can have a key of the closed range.
    pub fn pages_of(&self, low: i64, high: i64) -> Range<usize> {
        // A page can contain keys up to the lowest key of the next page, so the page before the first one with a lowest
        // key at or above `low` is included.
        let first = self.pages.partition_point(|page| page.low < low).saturating_sub(1);
        let end = self.pages.partition_point(|page| page.low <= high);
        first..end.max(first)
    }

    /// Whether every key of a page lies in the closed range, decided by the directory alone.
    pub fn is_inside(&self, page: usize, low: i64, high: i64) -> bool {
        let begins = self.pages.get(page).is_some_and(|page| low <= page.low);
        begins && self.pages.get(page + 1).is_some_and(|next| next.low <= high)
    }
}

impl IndexPage {
    /// Size in the file.
    pub fn bytes(&self) -> usize {
        self.entries * (4 + self.key_bytes as usize)
    }

    /// Checks the bytes of the page against its checksum.
    pub fn check(&self, bytes: &[u8]) -> Result<()> {
        let crc = crc32c::crc32c(bytes);
        if bytes.len() != self.bytes() || crc != self.crc {
            return Err(Error::corrupt(format!(
                "value index: page at byte {}: checksum {crc:08x}, expected {:08x}",
                self.offset, self.crc
            )));
        }
        Ok(())
    }

    /// Appends the rows whose key lies in the closed range; `bytes` are those of the page.
    ///
    /// # Errors
    /// `corrupt_data` when the bytes do not have the checksum of the directory.
    pub fn rows_of(&self, bytes: &[u8], low: i64, high: i64, rows: &mut Vec<u32>) -> Result<()> {
        self.check(bytes)?;
        let row_end = self.entries * 4;
        let (row_bytes, _) = cells::range(bytes, 0..row_end).as_chunks::<4>();
        let key_bytes = cells::range(bytes, row_end..bytes.len());
        let row = |entry: &[u8; 4]| u32::from_le_bytes(*entry);
        if self.key_bytes == 0 {
            if low <= self.low && self.low <= high {
                rows.extend(row_bytes.iter().map(row));
            }
            return Ok(());
        }
        let key = |bytes: &[u8]| {
            let mut wide = [0; 8];
            wide.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            self.low.wrapping_add(u64::from_le_bytes(wide).cast_signed())
        };
        for (entry, bytes) in row_bytes.iter().zip(key_bytes.chunks_exact(self.key_bytes as usize)) {
            let key = key(bytes);
            if key > high {
                break;
            }
            if key >= low {
                rows.push(row(entry));
            }
        }
        Ok(())
    }
}

/// Splits the entries of one column, sorted by key and then row, into pages; `put` writes the bytes of a page.
pub fn write_pages<E>(
    entries: &[(i64, u32)],
    position: usize,
    mut offset: u64,
    mut put: impl FnMut(&[u8]) -> std::result::Result<(), E>,
) -> std::result::Result<(IndexColumn, u64), E> {
    let pages = Vec::with_capacity(entries.len().div_ceil(PAGE_ENTRIES));
    let mut column = IndexColumn { position, entries: narrow(entries.len()), pages };
    let mut bytes = Vec::new();
    for part in entries.chunks(PAGE_ENTRIES) {
        let ((low, _), (high, _)) = cells::ends(part);
        let span = high.wrapping_sub(low).cast_unsigned();
        let key_bytes: u32 = match span {
            0 => 0,
            1..=0xFF => 1,
            0x100..=0xFFFF => 2,
            0x1_0000..=0xFFFF_FFFF => 4,
            _ => 8,
        };
        bytes.clear();
        part.iter().for_each(|(_, row)| bytes.extend_from_slice(&row.to_le_bytes()));
        for (key, _) in part {
            let wide = key.wrapping_sub(low).to_le_bytes();
            bytes.extend_from_slice(cells::range(&wide, 0..key_bytes as usize));
        }
        put(&bytes)?;
        let page = IndexPage { low, key_bytes, crc: crc32c::crc32c(&bytes), offset, entries: part.len() };
        offset += page.bytes() as u64;
        column.pages.push(page);
    }
    Ok((column, offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An index of columns by key, or nothing for a null.
    fn file(columns: &[Vec<Option<i64>>]) -> Vec<u8> {
        let rows = u32::try_from(columns[0].len()).unwrap();
        let entries = || columns.iter().map(|keys| keys.iter().flatten().count() as u32);
        let mut offset = ValueIndex::directory_bytes(entries()) as u64;
        let mut index = ValueIndex { chunk_id: 7, footer_crc: 8, rows, columns: Vec::new() };
        let mut pages = Vec::new();
        for (position, keys) in columns.iter().enumerate() {
            let mut entries: Vec<(i64, u32)> =
                keys.iter().zip(0..).filter_map(|(key, row)| Some(((*key)?, row))).collect();
            entries.sort_unstable();
            let put = |bytes: &[u8]| -> Result<()> {
                pages.extend_from_slice(bytes);
                Ok(())
            };
            let (column, end) = write_pages(&entries, position + 1, offset, put).unwrap();
            offset = end;
            index.columns.push(column);
        }
        let mut file = index.encode();
        assert_eq!(file.len(), ValueIndex::directory_bytes(entries()));
        file.extend_from_slice(&pages);
        assert_eq!(ValueIndex::check(&file).unwrap(), index);
        file
    }

    fn find(file: &[u8], position: usize, low: i64, high: i64) -> Vec<u32> {
        let index = ValueIndex::check(file).unwrap();
        let column = index.column(position).unwrap();
        let mut rows = Vec::new();
        for (at, page) in column.pages.iter().enumerate().take(column.pages_of(low, high).end) {
            let begin = page.offset as usize;
            let mut found = Vec::new();
            page.rows_of(&file[begin..begin + page.bytes()], low, high, &mut found).unwrap();
            assert!(found.is_empty() || column.pages_of(low, high).contains(&at), "page {at} is left out");
            assert!(!column.is_inside(at, low, high) || found.len() == page.entries, "page {at} is not all inside");
            rows.extend(found);
        }
        rows.sort_unstable();
        rows
    }

    #[test]
    fn every_key_finds_exactly_its_rows() {
        let count = 5_000_i64;
        let columns = [
            (0..count).map(|row| row % 3).collect::<Vec<i64>>(),
            (0..count).map(|row| (row * 7_919) % count).collect(),
            (0..count).map(|row| (row - 2_500) * 3_000_000_000_000_000).collect(),
            (0..count).map(|row| if row == 17 { i64::MIN } else { i64::MAX - row % 2 }).collect(),
            vec![-5; count as usize],
        ];
        let mut columns = columns.map(|keys| keys.into_iter().map(Some).collect::<Vec<Option<i64>>>()).to_vec();
        columns.push((0..count).map(|row| (row % 4 > 0).then_some(row % 90)).collect());
        columns.push(vec![None; count as usize]);
        let file = file(&columns);
        for (position, keys) in columns.iter().enumerate() {
            let mut ranges = vec![(i64::MIN, i64::MAX), (i64::MIN, i64::MIN), (i64::MAX, i64::MAX), (-5, -5), (3, 2)];
            let some = keys.iter().flatten().step_by(97);
            ranges.extend(some.flat_map(|key| [(*key, *key), (key.saturating_sub(9), *key)]));
            for (low, high) in ranges {
                let is_inside = |key: &Option<i64>| key.is_some_and(|key| (low..=high).contains(&key));
                let expected: Vec<u32> =
                    (0..).zip(keys).filter(|(_, key)| is_inside(key)).map(|(row, _)| row).collect();
                assert!(find(&file, position + 1, low, high) == expected, "column {position}, {low} to {high}");
            }
        }
        assert!(file.len() < columns.len() * columns[0].len() * 10, "{} bytes", file.len());
    }

    #[test]
    fn every_flipped_bit_and_truncation_is_detected() {
        let file = file(&[(0..1_200).map(|row| (row % 12 > 0).then_some(row / 3)).collect()]);
        for bit in 0..file.len() * 8 {
            let mut damaged = file.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(ValueIndex::check(&damaged).is_err(), "bit {bit}");
        }
        for length in 0..file.len() {
            assert!(ValueIndex::check(&file[..length]).is_err(), "cut at {length}");
        }
        // A column has no more entries than the chunk has rows.
        let column = IndexColumn { position: 1, entries: 3, pages: Vec::new() };
        let index = ValueIndex { chunk_id: 7, footer_crc: 8, rows: 2, columns: vec![column] };
        let file = index.encode();
        assert!(ValueIndex::decode(&file, file.len() as u64).unwrap_err().detail().contains("3 entries"));
    }
}
