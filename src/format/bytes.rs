//! Bounds-checked reading of little-endian values from untrusted bytes.

use arrow::datatypes::ToByteSlice;

use crate::error::{Error, Result};

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
        let head = self.take(N)?;
        <[u8; N]>::try_from(head).map_err(|_| Error::corrupt(format!("{} is truncated", self.what)))
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
        usize::try_from(self.u32()?).map_err(|_| Error::corrupt(format!("{} has an impossible length", self.what)))
    }

    /// `count` words of 8 bytes.
    pub fn words(&mut self, count: usize) -> Result<Vec<i64>> {
        let bytes = count.checked_mul(8).ok_or_else(|| Error::corrupt(format!("{} is impossibly long", self.what)))?;
        let cells = self.take(bytes)?.chunks_exact(8);
        Ok(cells.map(|cell| i64::from_le_bytes(cell.try_into().unwrap_or_default())).collect())
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

#[cfg(target_endian = "big")]
compile_error!("files are little-endian and are mapped without conversion");

/// Words as stored in files.
pub fn words_as_bytes(words: &[i64]) -> &[u8] {
    words.to_byte_slice()
}

/// Appends a `u32` length and the bytes. Callers keep blobs under 4 GiB.
pub fn put_blob(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(bytes);
}
