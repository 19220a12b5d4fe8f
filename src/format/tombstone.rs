//! Small files next to the chunks: tombstones and drop markers, so that a rebuilt manifest does not resurrect deleted
//! rows and dropped series, and registrations that are not in any chunk or run file. The payload in the envelope is
//! self-contained JSON.

use serde::{Deserialize, Serialize};

use super::envelope;
use crate::error::{Error, Result};
use crate::types::{SeriesDef, SeriesKey};

/// First bytes of a tombstone file.
pub const TOMBSTONE_MAGIC: &[u8; 8] = b"FASTKDEL";
/// First bytes of a drop marker.
pub const DROP_MAGIC: &[u8; 8] = b"FASTKDRP";
/// First bytes of a registration file.
pub const REGISTRATION_MAGIC: &[u8; 8] = b"FASTKREG";
/// Version of all three.
pub const TOMBSTONE_VERSION: u32 = 1;

/// A deleted closed range: it hides rows of earlier commits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TombstoneFile {
    pub series_id: u64,
    pub key: SeriesKey,
    /// Commit of the delete.
    pub commit: u64,
    pub start: i64,
    pub end: i64,
}

/// A dropped series: its files must not be read again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropFile {
    pub series_id: u64,
    pub key: SeriesKey,
    /// Commit of the drop.
    pub commit: u64,
}

/// The registration of a series that is newer than those in its chunks and run files, or of a series without such
/// files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationFile {
    pub series_id: u64,
    /// Commit of the registration.
    pub commit: u64,
    pub series: SeriesDef,
}

fn to_json<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| Error::internal(format!("tombstone as JSON: {error}")))
}

/// Encodes a tombstone file.
pub fn encode_tombstone(value: &TombstoneFile) -> Result<Vec<u8>> {
    Ok(envelope::seal(TOMBSTONE_MAGIC, TOMBSTONE_VERSION, &to_json(value)?))
}

/// Encodes a drop marker.
pub fn encode_drop(value: &DropFile) -> Result<Vec<u8>> {
    Ok(envelope::seal(DROP_MAGIC, TOMBSTONE_VERSION, &to_json(value)?))
}

/// Encodes a registration file.
pub fn encode_registration(value: &RegistrationFile) -> Result<Vec<u8>> {
    Ok(envelope::seal(REGISTRATION_MAGIC, TOMBSTONE_VERSION, &to_json(value)?))
}

/// Decodes a registration file.
pub fn decode_registration(file: &[u8]) -> Result<RegistrationFile> {
    let payload = envelope::open("registration", REGISTRATION_MAGIC, TOMBSTONE_VERSION, file)?;
    serde_json::from_slice(payload).map_err(|error| Error::corrupt(format!("registration: {error}")))
}

/// Decodes a tombstone file.
pub fn decode_tombstone(file: &[u8]) -> Result<TombstoneFile> {
    let payload = envelope::open("tombstone", TOMBSTONE_MAGIC, TOMBSTONE_VERSION, file)?;
    serde_json::from_slice(payload).map_err(|error| Error::corrupt(format!("tombstone: {error}")))
}

/// Decodes a drop marker.
pub fn decode_drop(file: &[u8]) -> Result<DropFile> {
    let payload = envelope::open("drop marker", DROP_MAGIC, TOMBSTONE_VERSION, file)?;
    serde_json::from_slice(payload).map_err(|error| Error::corrupt(format!("drop marker: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;

    fn check_all_damage<T: std::fmt::Debug + PartialEq>(file: &[u8], value: &T, read: impl Fn(&[u8]) -> Result<T>) {
        assert_eq!(&read(file).unwrap(), value);
        for bit in 0..file.len() * 8 {
            let mut damaged = file.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&damaged).unwrap_err().code(), ErrorCode::CorruptData, "bit {bit}");
        }
        for length in 0..file.len() {
            assert!(read(&file[..length]).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn tombstones_and_drop_markers_detect_every_flipped_bit_and_truncation() {
        let key = SeriesKey::kline("X", "1m").unwrap();
        let tombstone = TombstoneFile { series_id: 1, key: key.clone(), commit: 2, start: -3, end: 4 };
        check_all_damage(&encode_tombstone(&tombstone).unwrap(), &tombstone, decode_tombstone);
        let drop = DropFile { series_id: 1, key, commit: 2 };
        check_all_damage(&encode_drop(&drop).unwrap(), &drop, decode_drop);
    }
}
