//! Bounds-checked reading of little-endian values from untrusted bytes.

use std::ops::Range;

use arrow::datatypes::ToByteSlice;

use crate::error::{Error, Result};
use crate::types::cells;
use crate::types::width::{narrow, to_usize};

/// Reads values in sequence; a read past the end is an error that names the structure.
#[derive(Debug)]
pub struct ByteReader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> ByteReader<'a> {
    /// Reads `bytes`; `what` names the structure in errors.
    pub fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (head, tail) = self
            .rest
            .split_at_checked(count)
            .ok_or_else(|| Error::corrupt(format!("{} ends {} bytes early", self.what, count - self.rest.len())))?;
        self.rest = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(cells::array(self.take(N)?, 0))
    }

    pub fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub fn u128(&mut self) -> Result<u128> {
        Ok(u128::from_le_bytes(self.array()?))
    }

    pub fn i64(&mut self) -> Result<i64> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    /// A `u32` length, then that many bytes.
    pub fn blob(&mut self) -> Result<&'a [u8]> {
        let length = self.length()?;
        self.take(length)
    }

    /// A `u32` as `usize`.
    pub fn length(&mut self) -> Result<usize> {
        self.u32().map(to_usize)
    }

    /// `count` words of 8 bytes.
    pub fn words(&mut self, count: usize) -> Result<Vec<i64>> {
        let bytes = count.checked_mul(8).ok_or_else(|| Error::corrupt(format!("{} is impossibly long", self.what)))?;
        Ok(words_of(self.take(bytes)?).collect())
    }

    /// The unread bytes.
    pub fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Whether all bytes were read.
    pub fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// Checks that all bytes were read.
    pub fn finish(self) -> Result<()> {
        if self.is_at_end() {
            Ok(())
        } else {
            Err(Error::corrupt(format!("{} has {} surplus bytes", self.what, self.rest.len())))
        }
    }
}

/// Appends words of 8 bytes.
pub fn put_words(out: &mut Vec<u8>, words: &[i64]) {
    out.extend_from_slice(words_as_bytes(words));
}

/// The words of 8 bytes in `bytes`. Bytes after the last complete word are not read.
pub fn words_of(bytes: &[u8]) -> impl Iterator<Item = i64> {
    bytes.as_chunks::<8>().0.iter().map(|word| i64::from_le_bytes(*word))
}

/// The bytes of a file in a range that other bytes of it, or another file, state.
///
/// # Errors
/// `corrupt_data` when the file ends before.
pub fn range_of<'a>(file: &'a [u8], range: Range<usize>, what: &str) -> Result<&'a [u8]> {
    file.get(range.clone())
        .ok_or_else(|| Error::corrupt(format!("{what} at bytes {} to {} of {}", range.start, range.end, file.len())))
}

#[cfg(target_endian = "big")]
compile_error!("files are little-endian and are mapped without conversion");

/// Words as stored in files.
pub fn words_as_bytes(words: &[i64]) -> &[u8] {
    words.to_byte_slice()
}

/// Appends a length as `u32`. Callers keep lengths under 2^32.
pub fn put_length(out: &mut Vec<u8>, length: usize) {
    out.extend_from_slice(&narrow::<u32, _>(length).to_le_bytes());
}

/// Appends a `u32` length and the bytes. Callers keep blobs under 4 GiB.
pub fn put_blob(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, bytes.len());
    out.extend_from_slice(bytes);
}
