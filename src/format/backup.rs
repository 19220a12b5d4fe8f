//! `backup.json`: the list of files of a backup. It is written last, so a directory without it is not a backup.
//!
//! One line of JSON, `{"crc32c":"<8 hex digits>","backup":{…}}`, and a newline. The checksum covers the bytes of the
//! inner object, so the text must not be reformatted.

use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode, Result};

/// Version of the file.
pub const BACKUP_VERSION: u32 = 1;

const HEAD: &str = "{\"crc32c\":\"";
const MIDDLE: &str = "\",\"backup\":";
const END: &str = "}\n";

/// Name of the registry in a data directory.
pub const REGISTRY_FILE: &str = "registry.sqlite";
const REGISTRY_COPY_HEAD: &str = "registry.";
const REGISTRY_COPY_END: &str = ".sqlite";

/// Name of a copy of the registry in a backup. The name contains the checksum of the file, so that a later backup into
/// the same directory never stores other bytes under a name that an earlier one lists.
pub fn registry_copy(crc32c: u32) -> String {
    format!("{REGISTRY_COPY_HEAD}{crc32c:08x}{REGISTRY_COPY_END}")
}

/// Whether this is the name of a copy of the registry in a backup.
pub fn is_registry_copy(name: &str) -> bool {
    let crc = name.strip_prefix(REGISTRY_COPY_HEAD).and_then(|rest| rest.strip_suffix(REGISTRY_COPY_END));
    crc.is_some_and(|crc| crc.len() == 8 && crc.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
}

/// Content of `backup.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// Version of this file.
    pub version: u32,
    /// Format version of the store.
    pub format: u32,
    /// Wall clock in milliseconds; informational.
    pub created_ms: i64,
    /// Random name of the history of the store that was backed up.
    pub epoch: String,
    /// The backup contains the store at this commit.
    pub commit: u64,
    /// Number of the manifest checkpoint.
    pub manifest: u64,
    /// Number of registered series, and of their rows.
    pub series: u64,
    pub rows: u64,
    pub chunks: u64,
    /// Names of the snapshots, in order.
    pub snapshots: Vec<String>,
    /// Files that were already damaged or missing in the store.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damaged: Vec<BackupDamage>,
    /// All files, by path.
    pub files: Vec<BackupFile>,
}

/// A file that could not be backed up completely.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupDamage {
    pub path: String,
    pub reason: String,
}

/// How a file got into a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CopyMethod {
    /// The file existed already.
    Kept,
    /// A hard link to a file of the store, or of an earlier backup.
    Linked,
    Copied,
    /// Written for the backup.
    Written,
}

/// A file of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupFile {
    /// Path relative to the backup directory.
    pub path: String,
    pub bytes: u64,
    /// Checksum of the entire file, as 8 hex digits.
    #[serde(with = "hex")]
    pub crc32c: u32,
    pub how: CopyMethod,
    /// Whether the file is shared with the store (same inode).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
}

mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &u32, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format!("{value:08x}"))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
        let text = String::deserialize(from)?;
        u32::from_str_radix(&text, 16).map_err(D::Error::custom)
    }
}

/// Encodes the file.
pub fn encode_backup(backup: &Backup) -> Result<Vec<u8>> {
    let body = serde_json::to_string(backup).map_err(|error| Error::internal(format!("backup as JSON: {error}")))?;
    Ok(format!("{HEAD}{:08x}{MIDDLE}{body}{END}", crc32c::crc32c(body.as_bytes())).into_bytes())
}

/// Decodes the file.
///
/// # Errors
/// `corrupt_data` for a damaged file, and for a path outside of the backup directory; `unsupported_format` for a newer
/// version.
pub fn decode_backup(file: &[u8]) -> Result<Backup> {
    let damaged = |what: &str| Error::corrupt(format!("backup.json is damaged: {what}"));
    let text = std::str::from_utf8(file).map_err(|_| damaged("not UTF-8"))?;
    let rest = text.strip_prefix(HEAD).ok_or_else(|| damaged("does not start with its checksum"))?;
    let (crc, body) = rest.split_once(MIDDLE).ok_or_else(|| damaged("does not start with its checksum"))?;
    let body = body.strip_suffix(END).ok_or_else(|| damaged("truncated"))?;
    let found = format!("{:08x}", crc32c::crc32c(body.as_bytes()));
    if found != crc {
        return Err(damaged(&format!("checksum {found}, expected {crc}")));
    }
    #[derive(Deserialize)]
    struct BackupVersion {
        version: u32,
    }
    let BackupVersion { version } = serde_json::from_str(body).map_err(|error| damaged(&error.to_string()))?;
    if version > BACKUP_VERSION {
        let detail = format!("backup.json has version {version}, this program supports up to {BACKUP_VERSION}");
        return Err(Error::new(ErrorCode::UnsupportedFormat, detail));
    }
    let backup: Backup = serde_json::from_str(body).map_err(|error| damaged(&error.to_string()))?;
    match backup.files.iter().find(|file| !is_inside(&file.path)) {
        None => Ok(backup),
        Some(file) => Err(damaged(&format!("path {:?} leaves the directory", file.path))),
    }
}

/// Whether a relative path stays inside its directory.
fn is_inside(path: &str) -> bool {
    !path.is_empty() && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_round_trips_and_detects_every_flipped_bit_and_truncation() {
        let file = |path: &str, crc32c, shared| BackupFile {
            path: path.into(),
            bytes: 7,
            crc32c,
            how: if shared { CopyMethod::Linked } else { CopyMethod::Kept },
            shared,
        };
        let backup = Backup {
            version: BACKUP_VERSION,
            epoch: "0f".into(),
            commit: 9,
            snapshots: vec!["then".into()],
            damaged: vec![BackupDamage { path: "runs/2".into(), reason: "gone".into() }],
            files: vec![file("FORMAT", 7, false), file("chunks/1/all.arrow", u32::MAX, true)],
            ..Backup::default()
        };
        let bytes = encode_backup(&backup).unwrap();
        assert_eq!(decode_backup(&bytes).unwrap(), backup);
        serde_json::from_slice::<serde_json::Value>(&bytes).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_backup(&damaged).unwrap_err().code(), ErrorCode::CorruptData, "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(decode_backup(&bytes[..length]).is_err(), "cut at {length}");
        }
        let newer = Backup { version: BACKUP_VERSION + 1, ..backup.clone() };
        let error = decode_backup(&encode_backup(&newer).unwrap()).unwrap_err();
        assert_eq!(error.code(), ErrorCode::UnsupportedFormat);
        for outside in ["../x", "/etc/passwd", "a/../../x", "", "./a"] {
            let escaping = Backup { files: vec![file(outside, 0, false)], ..backup.clone() };
            assert!(decode_backup(&encode_backup(&escaping).unwrap()).is_err(), "{outside:?}");
        }
    }
}
