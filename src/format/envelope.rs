//! The envelope of small files: manifest edits and checkpoints, tombstones, drop markers and similar.
//!
//! | bytes | field |
//! |---|---|
//! | 8 | magic, one per kind of file |
//! | 4 | version of the kind |
//! | 4 | CRC-32C of the 12 bytes before, the length and the payload |
//! | 8 | length of the payload |
//! | … | payload |
//!
//! The envelope is the same in every version, so that a newer file is distinguished from a damaged one.

use super::bytes::ByteReader;
use crate::error::{Error, ErrorCode, Result};
use crate::types::width::to_usize;

/// Bytes before the payload.
pub const ENVELOPE_BYTES: usize = 24;

fn checksum(magic: &[u8; 8], version: u32, length: [u8; 8], payload: &[u8]) -> u32 {
    let head = crc32c::crc32c_append(crc32c::crc32c(magic), &version.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(head, &length), payload)
}

/// Wraps a payload.
pub fn seal(magic: &[u8; 8], version: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u64).to_le_bytes();
    let mut out = Vec::with_capacity(ENVELOPE_BYTES + payload.len());
    out.extend_from_slice(magic);
    out.extend_from_slice(&version.to_le_bytes());
    out.extend_from_slice(&checksum(magic, version, length, payload).to_le_bytes());
    out.extend_from_slice(&length);
    out.extend_from_slice(payload);
    out
}

/// Verifies the envelope of a file and returns the payload.
///
/// # Errors
/// `corrupt_data` for another magic, a wrong length or checksum; `unsupported_format` for a newer version.
pub fn open<'a>(what: &'static str, magic: &[u8; 8], version: u32, file: &'a [u8]) -> Result<&'a [u8]> {
    let (payload, rest) = open_first(what, magic, version, file)?;
    if rest.is_empty() { Ok(payload) } else { Err(Error::corrupt(format!("{what} has {} surplus bytes", rest.len()))) }
}

/// Verifies the envelope at the start of `bytes`. Returns the payload and the bytes after the envelope.
///
/// # Errors
/// As [`open`].
pub fn open_first<'a>(
    what: &'static str,
    magic: &[u8; 8],
    version: u32,
    bytes: &'a [u8],
) -> Result<(&'a [u8], &'a [u8])> {
    let mut reader = ByteReader::new(bytes, what);
    if reader.take(8)? != magic {
        return Err(Error::corrupt(format!("{what} does not start with its magic")));
    }
    let (found, expected) = (reader.u32()?, reader.u32()?);
    let length = reader.u64()?;
    let payload = reader.take(to_usize(length))?;
    let crc = checksum(magic, found, length.to_le_bytes(), payload);
    if crc != expected {
        return Err(Error::corrupt(format!("{what}: checksum {crc:08x}, expected {expected:08x}")));
    }
    if found != version {
        let code = if found > version { ErrorCode::UnsupportedFormat } else { ErrorCode::CorruptData };
        return Err(Error::new(code, format!("{what} has version {found}, this program supports {version}")));
    }
    Ok((payload, reader.rest()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_truncation_is_detected() {
        let file = seal(b"TESTTEST", 1, b"payload");
        assert_eq!(open("test", b"TESTTEST", 1, &file).unwrap(), b"payload");
        for bit in 0..file.len() * 8 {
            let mut damaged = file.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let error = open("test", b"TESTTEST", 1, &damaged).unwrap_err();
            assert_eq!(error.code(), ErrorCode::CorruptData, "bit {bit}");
        }
        for length in 0..file.len() {
            assert!(open("test", b"TESTTEST", 1, &file[..length]).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn a_newer_version_is_distinguished_from_damage() {
        let file = seal(b"TESTTEST", 2, b"payload");
        assert_eq!(open("test", b"TESTTEST", 1, &file).unwrap_err().code(), ErrorCode::UnsupportedFormat);
        assert_eq!(open("test", b"TESTTEST", 3, &file).unwrap_err().code(), ErrorCode::CorruptData);
    }
}
