//! Checks the footer and page headers of a Parquet file before a decoder sees them.
//!
//! The decoder allocates what these headers declare: numbers of children and of dictionary values, the decompressed
//! size of a page; and it descends into nested schemas by recursion. This module parses only the headers and bounds
//! these values, so that a small hostile file is rejected instead of causing an allocation that kills the process.

use parquet::file::metadata::ParquetMetaData;

use crate::error::{Error, ErrorCode, Result};
use crate::types::schema::COLUMNS_MAX;

use super::memory::DECODED_BYTES_MAX;
use crate::types::width::to_usize;

/// Maximum number of schema elements: the root, `ts` and the columns, with a margin so that a surplus column can be
/// named.
const ELEMENTS_MAX: u64 = 4 * COLUMNS_MAX as u64;
/// Maximum nesting depth of a header.
const DEPTH_MAX: u8 = 24;

fn broken(what: &str) -> Error {
    Error::invalid(format!("parquet body is malformed: {what}"))
}

fn too_large() -> Error {
    Error::new(ErrorCode::TooLarge, format!("the pages of the body unpack into more than {DECODED_BYTES_MAX} bytes"))
}

/// Wire types of the Thrift compact protocol that matter here.
mod wire {
    pub(super) const TRUE: u8 = 1;
    pub(super) const FALSE: u8 = 2;
    pub(super) const BYTE: u8 = 3;
    pub(super) const I16: u8 = 4;
    pub(super) const I64: u8 = 6;
    pub(super) const DOUBLE: u8 = 7;
    pub(super) const BINARY: u8 = 8;
    pub(super) const LIST: u8 = 9;
    pub(super) const SET: u8 = 10;
    pub(super) const MAP: u8 = 11;
    pub(super) const STRUCT: u8 = 12;
    pub(super) const UUID: u8 = 13;
}

/// A parser of the Thrift compact protocol that skips values.
struct Thrift<'b>(&'b [u8]);

impl Thrift<'_> {
    fn byte(&mut self) -> Result<u8> {
        let (first, rest) = self.0.split_first().ok_or_else(|| broken("a header is truncated"))?;
        self.0 = rest;
        Ok(*first)
    }

    fn skip_bytes(&mut self, count: u64) -> Result<()> {
        let count = to_usize(count);
        self.0 = self.0.get(count..).ok_or_else(|| broken("a header is truncated"))?;
        Ok(())
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(broken("an endless number in a header"))
    }

    fn integer(&mut self) -> Result<i64> {
        let value = self.varint()?;
        Ok((value >> 1).cast_signed() ^ -((value & 1).cast_signed()))
    }

    /// Walks a struct; `visit` gets id and type of each field and returns whether it read the value.
    fn fields(&mut self, depth: u8, visit: &mut dyn FnMut(&mut Self, i64, u8) -> Result<bool>) -> Result<()> {
        let mut id = 0_i64;
        loop {
            let header = self.byte()?;
            let kind = header & 0x0f;
            if kind == 0 {
                return Ok(());
            }
            id = match header >> 4 {
                0 => self.integer()?,
                delta => id.saturating_add(delta.into()),
            };
            if !visit(self, id, kind)? {
                self.skip(kind, depth)?;
            }
        }
    }

    /// Element type and count of a list.
    fn list(&mut self) -> Result<(u8, u64)> {
        let header = self.byte()?;
        let count = match header >> 4 {
            15 => self.varint()?,
            count => count.into(),
        };
        Ok((header & 0x0f, count))
    }

    fn skip(&mut self, kind: u8, depth: u8) -> Result<()> {
        let deeper = depth.checked_add(1).filter(|depth| *depth < DEPTH_MAX).ok_or_else(|| broken("nested headers"))?;
        match kind {
            wire::TRUE | wire::FALSE => Ok(()),
            wire::BYTE => self.skip_bytes(1),
            wire::I16..=wire::I64 => self.varint().map(drop),
            wire::DOUBLE => self.skip_bytes(8),
            wire::BINARY => {
                let count = self.varint()?;
                self.skip_bytes(count)
            }
            wire::LIST | wire::SET => {
                let (kind, count) = self.list()?;
                for _ in 0..count {
                    match kind {
                        wire::TRUE | wire::FALSE => self.skip_bytes(1)?,
                        kind => self.skip(kind, deeper)?,
                    }
                }
                Ok(())
            }
            wire::MAP => {
                let count = self.varint()?;
                if count == 0 {
                    return Ok(());
                }
                let kinds = self.byte()?;
                for _ in 0..count {
                    for kind in [kinds >> 4, kinds & 0x0f] {
                        match kind {
                            wire::TRUE | wire::FALSE => self.skip_bytes(1)?,
                            kind => self.skip(kind, deeper)?,
                        }
                    }
                }
                Ok(())
            }
            wire::STRUCT => self.fields(deeper, &mut |_, _, _| Ok(false)),
            wire::UUID => self.skip_bytes(16),
            _ => Err(broken("an unknown type in a header")),
        }
    }
}

/// Checks the footer of a file: its length, and that its schema is small and flat. Returns its length in bytes.
///
/// # Errors
/// `invalid_argument`.
pub(super) fn check_footer(body: &[u8]) -> Result<u64> {
    let footer = body.strip_suffix(b"PAR1").and_then(|body| body.split_last_chunk::<4>());
    let (before, length) = footer.ok_or_else(|| broken("no footer"))?;
    let length = to_usize(u32::from_le_bytes(*length));
    let start = before.len().checked_sub(length).ok_or_else(|| broken("its footer is longer than the file"))?;
    let mut thrift = Thrift(before.get(start..).unwrap_or_default());
    thrift.fields(0, &mut |thrift, id, kind| {
        if (id, kind) != (2, wire::LIST) {
            return Ok(false);
        }
        let (kind, count) = thrift.list()?;
        if kind != wire::STRUCT || count > ELEMENTS_MAX {
            return Err(broken(&format!("a schema of {count} elements")));
        }
        for element in 0..count {
            thrift.fields(1, &mut |thrift, id, kind| {
                if id != 5 || !(wire::I16..=wire::I64).contains(&kind) {
                    return Ok(false);
                }
                let children = u64::try_from(thrift.integer()?).map_err(|_| broken("a negative count"))?;
                if children >= count || (element > 0 && children > 0) {
                    return Err(broken("nested columns"));
                }
                Ok(true)
            })?;
        }
        Ok(true)
    })?;
    Ok(length as u64)
}

/// The encoding whose values share a prefix with the previous value: short pages can have long values.
const DELTA_BYTE_ARRAY: i64 = 7;
/// Memory of a value of a string dictionary, in addition to its bytes.
const DICTIONARY_VALUE_BYTES: u64 = 48;

/// The checked fields of a page header.
#[derive(Default)]
struct PageHeader {
    /// Encoding of the values.
    encoding: i64,
    unpacked: Option<i64>,
    packed: Option<i64>,
    /// Number of values of a dictionary.
    dictionary: i64,
}

/// Checks all page headers of a file against the bytes they describe. Returns the memory in bytes for the pages and
/// dictionaries in use at one time while all columns are read. The cells of a column of `views` are slices of its pages,
/// all of which a batch can hold.
///
/// # Errors
/// `invalid_argument`, or `too_large`.
pub(super) fn check_pages(body: &[u8], metadata: &ParquetMetaData, views: &[bool]) -> Result<u64> {
    let mut unpacked_total = 0_u64;
    let mut memory_by_column =
        vec![0_u64; metadata.row_groups().iter().map(|group| group.columns().len()).max().unwrap_or(0)];
    for (at, column) in metadata.row_groups().iter().flat_map(|group| group.columns().iter().enumerate()) {
        let (mut dictionary, mut longest) = (0_u64, 0_u64);
        let is_view = views.get(at).copied().unwrap_or(false);
        let start = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
        let range = || {
            let start = usize::try_from(start).ok()?;
            let length = usize::try_from(column.compressed_size()).ok()?;
            body.get(start..start.checked_add(length)?)
        };
        let mut thrift = Thrift(range().ok_or_else(|| broken("a column leaves the file"))?);
        while !thrift.0.is_empty() {
            let mut page = PageHeader::default();
            thrift.fields(0, &mut |thrift, id, kind| {
                match (id, kind) {
                    (2, wire::I16..=wire::I64) => page.unpacked = Some(thrift.integer()?),
                    (3, wire::I16..=wire::I64) => page.packed = Some(thrift.integer()?),
                    (5, wire::STRUCT) => page.encoding = encoding(thrift, 2)?,
                    (8, wire::STRUCT) => page.encoding = encoding(thrift, 4)?,
                    (7, wire::STRUCT) => thrift.fields(1, &mut |thrift, id, kind| {
                        if (id, kind) != (1, 5) {
                            return Ok(false);
                        }
                        page.dictionary = thrift.integer()?;
                        Ok(true)
                    })?,
                    _ => return Ok(false),
                }
                Ok(true)
            })?;
            let size = |size: Option<i64>| size.and_then(|size| u64::try_from(size).ok());
            let (Some(unpacked), Some(packed)) = (size(page.unpacked), size(page.packed)) else {
                return Err(broken("a page without sizes"));
            };
            // Every value of a dictionary takes at least one byte.
            if u64::try_from(page.dictionary).is_ok_and(|values| values > unpacked) {
                return Err(broken("a dictionary of more values than bytes"));
            }
            unpacked_total = unpacked_total.saturating_add(unpacked);
            if unpacked_total > DECODED_BYTES_MAX {
                return Err(too_large());
            }
            if page.encoding == DELTA_BYTE_ARRAY {
                return Err(Error::invalid(format!(
                    "parquet column {} is encoded as DELTA_BYTE_ARRAY, which is not supported",
                    column.column_path()
                ))
                .with_hint("write the column with PLAIN or dictionary encoding"));
            }
            match u64::try_from(page.dictionary) {
                // The decompressed page and its values.
                Ok(values) if values > 0 => {
                    let more = unpacked.saturating_mul(2).saturating_add(values.saturating_mul(DICTIONARY_VALUE_BYTES));
                    dictionary = dictionary.saturating_add(more);
                }
                _ if is_view => longest = longest.saturating_add(unpacked),
                _ => longest = longest.max(unpacked),
            }
            thrift.skip_bytes(packed)?;
        }
        if let Some(memory) = memory_by_column.get_mut(at) {
            *memory = (*memory).max(dictionary.saturating_add(longest));
        }
    }
    Ok(memory_by_column.into_iter().fold(0, u64::saturating_add))
}

/// The encoding of a data page, from the field of its header with this id.
fn encoding(thrift: &mut Thrift<'_>, id_of_encoding: i64) -> Result<i64> {
    let mut found = 0;
    thrift.fields(1, &mut |thrift, id, kind| {
        if id != id_of_encoding || !(wire::I16..=wire::I64).contains(&kind) {
            return Ok(false);
        }
        found = thrift.integer()?;
        Ok(true)
    })?;
    Ok(found)
}
