//! `manifest/CURRENT`: a lower bound of the newest edit and log segment. A directory with older files only has lost its
//! newest files, which nothing else would show.
//!
//! Both numbers are hints: the file is written after the files it refers to, may be older than them, and is not
//! needed to open the store. The payload of the envelope: number of an edit, then of a log segment (`u64` each).

use super::bytes::ByteReader;
use super::envelope;
use crate::error::Result;

/// First bytes of the file.
pub const CURRENT_MAGIC: &[u8; 8] = b"FASTKCUR";
/// Version of the file.
pub const CURRENT_VERSION: u32 = 1;

/// State of the directory when the file was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Current {
    /// Number of a published edit; 0 for none.
    pub edit: u64,
    /// Number of a published log segment; 0 for none.
    pub wal_segment: u64,
}

/// Encodes the file.
pub fn encode_current(current: &Current) -> Vec<u8> {
    let payload = [current.edit.to_le_bytes(), current.wal_segment.to_le_bytes()].concat();
    envelope::seal(CURRENT_MAGIC, CURRENT_VERSION, &payload)
}

/// Decodes the file.
///
/// # Errors
/// `corrupt_data` for a damaged file, `unsupported_format` for a newer version.
pub fn decode_current(file: &[u8]) -> Result<Current> {
    let payload = envelope::open("CURRENT", CURRENT_MAGIC, CURRENT_VERSION, file)?;
    let mut reader = ByteReader::new(payload, "CURRENT");
    let current = Current { edit: reader.u64()?, wal_segment: reader.u64()? };
    reader.finish()?;
    Ok(current)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;

    #[test]
    fn the_file_round_trips_and_detects_every_flipped_bit_and_truncation() {
        let current = Current { edit: 7, wal_segment: 9 };
        let file = encode_current(&current);
        assert_eq!(decode_current(&file).unwrap(), current);
        for bit in 0..file.len() * 8 {
            let mut damaged = file.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_current(&damaged).unwrap_err().code(), ErrorCode::CorruptData, "bit {bit}");
        }
        for length in 0..file.len() {
            assert!(decode_current(&file[..length]).is_err(), "cut at {length}");
        }
    }
}
