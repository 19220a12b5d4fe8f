//! Manifest files: edits and checkpoints.
//!
//! An edit records changes, a checkpoint the complete state as one edit. Both are a protobuf message in an
//! envelope: unknown fields are skipped, so a field can be added without a new version. Edit `n` follows edit
//! `n - 1`; a number is used once, since its file is created exclusively.
//!
//! An edit file contains its envelope twice, so that it survives damage in one place: the content of an edit is not
//! stored elsewhere. The second copy starts on a multiple of [`COPY_ALIGNMENT`], with zeros between, so that a lost
//! sector does not affect both. Of checkpoints two files are retained, with all edits since the older one.

use prost::Message;

use super::envelope;
use crate::error::{Error, ErrorCode, Result};
use crate::types::cells;

/// First bytes of an edit.
pub const EDIT_MAGIC: &[u8; 8] = b"FASTKEDT";
/// First bytes of a checkpoint.
pub const CHECKPOINT_MAGIC: &[u8; 8] = b"FASTKCHK";
/// Version of both.
pub const MANIFEST_VERSION: u32 = 1;
/// The second copy of an edit starts on a multiple of this many bytes.
pub const COPY_ALIGNMENT: usize = 4_096;

/// Changes of one publication.
#[derive(Clone, PartialEq, Message)]
pub struct Edit {
    /// Number of this edit; in a checkpoint, of the last edit it contains.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// New or changed series.
    #[prost(message, repeated, tag = "2")]
    pub series: Vec<SeriesRecord>,
    /// Ids of removed series.
    #[prost(uint64, repeated, tag = "3")]
    pub series_dropped: Vec<u64>,
    #[prost(message, repeated, tag = "4")]
    pub chunks: Vec<ChunkRecord>,
    #[prost(uint64, repeated, tag = "5")]
    pub chunks_removed: Vec<u64>,
    #[prost(message, repeated, tag = "6")]
    pub tombstones: Vec<TombstoneRecord>,
    #[prost(message, repeated, tag = "7")]
    pub tombstones_removed: Vec<TombstoneRecord>,
    /// Published run files; together with earlier ones they have all tail rows of commits up to `base_commit`.
    #[prost(message, repeated, tag = "8")]
    pub runs: Vec<RunRecord>,
    /// All changes up to this commit are in chunks, runs and this manifest; 0 for unchanged.
    #[prost(uint64, tag = "9")]
    pub base_commit: u64,
    /// First log segment that recovery needs; 0 for unchanged.
    #[prost(uint64, tag = "10")]
    pub wal_first_segment: u64,
    /// First LSN after the changes that `base_commit` covers; 0 for unchanged.
    #[prost(uint64, tag = "11")]
    pub wal_first_lsn: u64,
    #[prost(uint64, tag = "12")]
    pub next_series_id: u64,
    /// Number of the next chunk, run or receipt file.
    #[prost(uint64, tag = "13")]
    pub next_file_id: u64,
    /// Random name of this history of the store; empty for unchanged.
    #[prost(string, tag = "14")]
    pub epoch: String,
    /// Ids of removed run files.
    #[prost(uint64, repeated, tag = "15")]
    pub runs_removed: Vec<u64>,
    /// New named snapshots.
    #[prost(message, repeated, tag = "16")]
    pub snapshots: Vec<SnapshotRecord>,
    /// Names of dropped snapshots.
    #[prost(string, repeated, tag = "17")]
    pub snapshots_removed: Vec<String>,
    /// Published receipt files.
    #[prost(message, repeated, tag = "18")]
    pub receipts: Vec<ReceiptsRecord>,
    /// Ids of removed receipt files.
    #[prost(uint64, repeated, tag = "19")]
    pub receipts_removed: Vec<u64>,
    /// Ids of removed chunks whose files are unlinked; a checkpoint lists removed chunks whose files may still exist in
    /// `chunks_waiting`.
    #[prost(uint64, repeated, tag = "20")]
    pub chunks_unlinked: Vec<u64>,
    /// In a checkpoint: removed chunks whose files may still exist.
    #[prost(message, repeated, tag = "21")]
    pub chunks_waiting: Vec<ChunkRecord>,
    /// New kinds of series.
    #[prost(message, repeated, tag = "22")]
    pub kinds: Vec<KindRecord>,
    /// Names of dropped kinds.
    #[prost(string, repeated, tag = "23")]
    pub kinds_removed: Vec<String>,
    /// Texts added to the dictionaries of series.
    #[prost(message, repeated, tag = "24")]
    pub texts: Vec<TextsRecord>,
}

/// Texts of the dictionaries of a series, after those of earlier edits.
#[derive(Clone, PartialEq, Message)]
pub struct TextsRecord {
    #[prost(uint64, tag = "1")]
    pub series_id: u64,
    /// The texts as in a log frame; in a checkpoint several of these one after the other.
    #[prost(bytes = "vec", tag = "2")]
    pub texts: Vec<u8>,
    /// Number of texts of the series with these.
    #[prost(uint64, tag = "3")]
    pub total: u64,
}

/// A registered kind of series.
#[derive(Clone, PartialEq, Message)]
pub struct KindRecord {
    #[prost(string, tag = "1")]
    pub name: String,
    /// Commit of the registration.
    #[prost(uint64, tag = "2")]
    pub commit: u64,
    /// The definition as JSON.
    #[prost(string, tag = "3")]
    pub def: String,
}

/// A series as of the commit up to which it is sealed.
#[derive(Clone, PartialEq, Message)]
pub struct SeriesRecord {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// The registration as JSON.
    #[prost(string, tag = "2")]
    pub def: String,
    #[prost(uint64, tag = "3")]
    pub version: u64,
    #[prost(uint64, tag = "4")]
    pub rows: u64,
    #[prost(sint64, optional, tag = "5")]
    pub first_ts: Option<i64>,
    #[prost(sint64, optional, tag = "6")]
    pub last_ts: Option<i64>,
    /// Rows of commits up to this one are in chunks.
    #[prost(uint64, tag = "7")]
    pub sealed_commit: u64,
    /// Wall clock of the last write in milliseconds; informational.
    #[prost(sint64, tag = "8")]
    pub last_write_ms: i64,
    /// Commit of the registration.
    #[prost(uint64, tag = "9")]
    pub created_commit: u64,
    /// Commit of the last change.
    #[prost(uint64, tag = "10")]
    pub last_commit: u64,
    /// Commit of the drop, for a series visible only in snapshots; else 0.
    #[prost(uint64, tag = "11")]
    pub dropped_commit: u64,
    /// States of the series in snapshots, where they differ.
    #[prost(message, repeated, tag = "12")]
    pub views: Vec<ViewRecord>,
}

/// A series as of a snapshot.
#[derive(Clone, PartialEq, Message)]
pub struct ViewRecord {
    /// Last commit at which the series had this state.
    #[prost(uint64, tag = "1")]
    pub commit: u64,
    /// Commit of the last change up to then.
    #[prost(uint64, tag = "2")]
    pub last_commit: u64,
    /// The registration as JSON; empty when it is that of the series.
    #[prost(string, tag = "3")]
    pub def: String,
    #[prost(uint64, tag = "4")]
    pub version: u64,
    #[prost(uint64, tag = "5")]
    pub rows: u64,
    #[prost(sint64, optional, tag = "6")]
    pub first_ts: Option<i64>,
    #[prost(sint64, optional, tag = "7")]
    pub last_ts: Option<i64>,
}

/// A named snapshot.
#[derive(Clone, PartialEq, Message)]
pub struct SnapshotRecord {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(uint64, tag = "2")]
    pub commit: u64,
    /// Wall clock in milliseconds; informational.
    #[prost(sint64, tag = "3")]
    pub created_ms: i64,
}

/// A receipt file.
#[derive(Clone, PartialEq, Message)]
pub struct ReceiptsRecord {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(uint64, tag = "2")]
    pub bytes: u64,
    /// Wall clock of its newest receipt in milliseconds: the file is removed when that one expires.
    #[prost(sint64, tag = "3")]
    pub newest_ms: i64,
}

/// A published chunk file.
#[derive(Clone, PartialEq, Message)]
pub struct ChunkRecord {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(uint64, tag = "2")]
    pub series_id: u64,
    /// Start of the partition: `2024-02-01`, `2024-02`, `2024` or `all`.
    #[prost(string, tag = "3")]
    pub partition: String,
    #[prost(uint64, tag = "4")]
    pub rows: u64,
    #[prost(sint64, tag = "5")]
    pub ts_min: i64,
    #[prost(sint64, tag = "6")]
    pub ts_max: i64,
    #[prost(uint64, tag = "7")]
    pub commit_lo: u64,
    #[prost(uint64, tag = "8")]
    pub commit_hi: u64,
    #[prost(uint64, tag = "9")]
    pub file_bytes: u64,
    /// CRC-32C of the entire file.
    #[prost(fixed32, tag = "10")]
    pub file_crc: u32,
    /// CRC-32C of the footer, as stored in the footer.
    #[prost(fixed32, tag = "11")]
    pub footer_crc: u32,
    /// CRC-32C of each block, as stored in the footer; they verify the blocks of a chunk that lost its footer.
    #[prost(fixed32, repeated, tag = "12")]
    pub block_crcs: Vec<u32>,
    /// Number of texts of its dictionaries, for columns of type `text`.
    #[prost(uint64, tag = "13")]
    pub texts: u64,
}

/// A delete that still hides rows of older chunks.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct TombstoneRecord {
    #[prost(uint64, tag = "1")]
    pub series_id: u64,
    #[prost(uint64, tag = "2")]
    pub commit: u64,
    #[prost(sint64, tag = "3")]
    pub start: i64,
    #[prost(sint64, tag = "4")]
    pub end: i64,
}

/// A run file.
#[derive(Clone, PartialEq, Message)]
pub struct RunRecord {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(uint64, tag = "2")]
    pub bytes: u64,
    /// Checksum in its trailer, which covers the entire file.
    #[prost(fixed32, tag = "3")]
    pub crc: u32,
    /// 0 when written by a checkpoint; incremented by each merge.
    #[prost(uint32, tag = "4")]
    pub level: u32,
    /// The rows belong to commits up to this one; files are ordered by it.
    #[prost(uint64, tag = "5")]
    pub base_commit: u64,
}

fn encode(magic: &[u8; 8], edit: &Edit) -> Vec<u8> {
    envelope::seal(magic, MANIFEST_VERSION, &edit.encode_to_vec())
}

fn decode(what: &'static str, payload: &[u8]) -> Result<Edit> {
    Edit::decode(payload).map_err(|error| Error::corrupt(format!("{what}: {error}")))
}

/// Encodes an edit file.
pub fn encode_edit(edit: &Edit) -> Vec<u8> {
    with_second_copy(&encode(EDIT_MAGIC, edit))
}

fn with_second_copy(copy: &[u8]) -> Vec<u8> {
    let mut file = copy.to_vec();
    file.resize(copy.len().next_multiple_of(COPY_ALIGNMENT), 0);
    file.extend_from_slice(copy);
    file
}

/// Encodes a checkpoint file.
pub fn encode_checkpoint(edit: &Edit) -> Vec<u8> {
    encode(CHECKPOINT_MAGIC, edit)
}

/// Damage in an edit file with one intact copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EditDamage {
    /// First damaged byte, as far as known.
    pub offset: u64,
    pub reason: String,
}

/// Decodes an edit file, and reports a damaged copy.
///
/// # Errors
/// `corrupt_data` when no copy is intact, `unsupported_format` for a newer file.
pub fn decode_edit(file: &[u8]) -> Result<(Edit, Option<EditDamage>)> {
    const WHAT: &str = "manifest edit";
    let open = |bytes| envelope::open_first(WHAT, EDIT_MAGIC, MANIFEST_VERSION, bytes);
    match open(file) {
        Ok((payload, rest)) => {
            let expected = with_second_copy(cells::range(file, 0..file.len() - rest.len()));
            let damage = (expected != file).then(|| {
                let same = expected.iter().zip(file).take_while(|(expected, found)| expected == found).count();
                let reason = match file.len() == expected.len() {
                    true => "the second copy is damaged".to_owned(),
                    false => format!("{} bytes, expected {}", file.len(), expected.len()),
                };
                EditDamage { offset: same as u64, reason }
            });
            Ok((decode(WHAT, payload)?, damage))
        }
        Err(error) if error.code() == ErrorCode::UnsupportedFormat => Err(error),
        Err(error) => {
            let second = (COPY_ALIGNMENT..file.len())
                .step_by(COPY_ALIGNMENT)
                .filter_map(|at| file.get(at..).map(open))
                .find(|opened| !opened.as_ref().is_err_and(|error| error.code() == ErrorCode::CorruptData));
            let reason = format!("the first copy is damaged: {}", error.detail());
            match second {
                Some(opened) => Ok((decode(WHAT, opened?.0)?, Some(EditDamage { offset: 0, reason }))),
                None => Err(error),
            }
        }
    }
}

/// Decodes a checkpoint file.
///
/// # Errors
/// `corrupt_data` for a damaged file, `unsupported_format` for a newer version.
pub fn decode_checkpoint(file: &[u8]) -> Result<Edit> {
    const WHAT: &str = "manifest checkpoint";
    decode(WHAT, envelope::open(WHAT, CHECKPOINT_MAGIC, MANIFEST_VERSION, file)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Edit {
        Edit { number: 7, series_dropped: vec![3], epoch: "x".repeat(40), ..Edit::default() }
    }

    #[test]
    fn an_edit_survives_damage_in_one_place_and_reports_it() {
        let file = encode_edit(&sample());
        let copy_bytes = file.len() - COPY_ALIGNMENT;
        assert_eq!(decode_edit(&file).unwrap(), (sample(), None));
        // One bit of every byte, at varying positions.
        for bit in (0..file.len()).map(|byte| byte * 8 + byte % 8) {
            let mut damaged = file.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let (edit, damage) = decode_edit(&damaged).unwrap();
            assert_eq!(edit, sample(), "bit {bit}");
            let offset = if bit / 8 < copy_bytes { 0 } else { bit as u64 / 8 };
            assert_eq!(damage.unwrap().offset, offset, "bit {bit}");
        }
        for sector in [0, COPY_ALIGNMENT] {
            let mut damaged = file.clone();
            let end = (sector + COPY_ALIGNMENT).min(file.len());
            damaged[sector..end].fill(0);
            assert!(decode_edit(&damaged).is_ok_and(|(edit, damage)| edit == sample() && damage.is_some()));
        }
        let mut both = file.clone();
        both[9] ^= 1;
        both[COPY_ALIGNMENT + 9] ^= 1;
        assert_eq!(decode_edit(&both).unwrap_err().code(), ErrorCode::CorruptData);
    }

    #[test]
    fn a_truncated_edit_is_readable_while_its_first_copy_is_intact() {
        let file = encode_edit(&sample());
        let copy_bytes = file.len() - COPY_ALIGNMENT;
        for length in (0..copy_bytes + 2).chain(COPY_ALIGNMENT - 2..file.len()) {
            let found = decode_edit(&file[..length]);
            assert_eq!(found.is_ok(), length >= copy_bytes, "cut at {length}");
            assert!(found.is_err() || found.is_ok_and(|(edit, damage)| edit == sample() && damage.is_some()));
        }
    }

    #[test]
    fn a_checkpoint_detects_every_flipped_bit_and_truncation() {
        let file = encode_checkpoint(&sample());
        assert_eq!(decode_checkpoint(&file).unwrap(), sample());
        for bit in 0..file.len() * 8 {
            let mut damaged = file.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_checkpoint(&damaged).unwrap_err().code(), ErrorCode::CorruptData, "bit {bit}");
        }
        for length in 0..file.len() {
            assert!(decode_checkpoint(&file[..length]).is_err(), "cut at {length}");
        }
    }
}
