//! Manifest files: edits and checkpoints.
//!
//! An edit says what changed, a checkpoint repeats the whole state as one edit. Both are a protobuf message in an
//! envelope: unknown fields are skipped, so a field can be added without a new version. Edit `n` follows edit
//! `n - 1`; a number is used once, because its file is created exclusively.

use prost::Message;

use super::envelope;
use crate::error::{Error, Result};

/// First bytes of an edit.
pub const EDIT_MAGIC: &[u8; 8] = b"FASTKEDT";
/// First bytes of a checkpoint.
pub const CHECKPOINT_MAGIC: &[u8; 8] = b"FASTKCHK";
/// Version of both.
pub const MANIFEST_VERSION: u32 = 1;

/// What one publication changes.
#[derive(Clone, PartialEq, Message)]
pub struct Edit {
    /// Number of this edit; in a checkpoint, of the last edit it contains.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// Series new or changed.
    #[prost(message, repeated, tag = "2")]
    pub series: Vec<SeriesRecord>,
    /// Series gone.
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
    /// Run files published: with those before them they hold every tail row of commits up to `base_commit`.
    #[prost(message, repeated, tag = "8")]
    pub runs: Vec<RunRecord>,
    /// Everything up to this commit is in chunks, runs and this manifest; 0 leaves it as it was.
    #[prost(uint64, tag = "9")]
    pub base_commit: u64,
    /// First log segment that recovery needs; 0 leaves it as it was.
    #[prost(uint64, tag = "10")]
    pub wal_first_segment: u64,
    /// LSN that follows everything `base_commit` covers; 0 leaves it as it was.
    #[prost(uint64, tag = "11")]
    pub wal_first_lsn: u64,
    #[prost(uint64, tag = "12")]
    pub next_series_id: u64,
    /// Number of the next chunk, run or receipt file.
    #[prost(uint64, tag = "13")]
    pub next_file_id: u64,
    /// Random name of this history of the store; empty leaves it as it was.
    #[prost(string, tag = "14")]
    pub epoch: String,
    /// Ids of run files gone.
    #[prost(uint64, repeated, tag = "15")]
    pub runs_removed: Vec<u64>,
    /// Named snapshots new.
    #[prost(message, repeated, tag = "16")]
    pub snapshots: Vec<SnapshotRecord>,
    /// Names of snapshots gone.
    #[prost(string, repeated, tag = "17")]
    pub snapshots_removed: Vec<String>,
    /// Receipt files published.
    #[prost(message, repeated, tag = "18")]
    pub receipts: Vec<ReceiptsRecord>,
    /// Ids of receipt files gone.
    #[prost(uint64, repeated, tag = "19")]
    pub receipts_removed: Vec<u64>,
    /// Ids of removed chunks whose files are unlinked; a checkpoint lists those whose files may still be there in
    /// `chunks_waiting`.
    #[prost(uint64, repeated, tag = "20")]
    pub chunks_unlinked: Vec<u64>,
    /// In a checkpoint: chunks removed whose files may still be there.
    #[prost(message, repeated, tag = "21")]
    pub chunks_waiting: Vec<ChunkRecord>,
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
    /// Wall clock of the last write in milliseconds; for people only.
    #[prost(sint64, tag = "8")]
    pub last_write_ms: i64,
    /// Commit of the registration.
    #[prost(uint64, tag = "9")]
    pub created_commit: u64,
    /// Commit of the last change.
    #[prost(uint64, tag = "10")]
    pub last_commit: u64,
    /// Commit of the drop, for a series that only snapshots show any more; else 0.
    #[prost(uint64, tag = "11")]
    pub dropped_commit: u64,
    /// What snapshots see of it where that differs.
    #[prost(message, repeated, tag = "12")]
    pub views: Vec<ViewRecord>,
}

/// A series as a snapshot sees it.
#[derive(Clone, PartialEq, Message)]
pub struct ViewRecord {
    /// Highest commit it was so at.
    #[prost(uint64, tag = "1")]
    pub commit: u64,
    /// Commit of the last change before.
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
    /// Wall clock in milliseconds; for people only.
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
    /// Wall clock of its newest receipt in milliseconds: the file goes when that one is too old.
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
    /// CRC-32C of the whole file.
    #[prost(fixed32, tag = "10")]
    pub file_crc: u32,
    /// CRC-32C of the footer, as it stands in the footer.
    #[prost(fixed32, tag = "11")]
    pub footer_crc: u32,
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
    /// Checksum in its trailer, which covers the whole file.
    #[prost(fixed32, tag = "3")]
    pub crc: u32,
    /// 0 as a checkpoint wrote it; one more for every time it was merged.
    #[prost(uint32, tag = "4")]
    pub level: u32,
    /// Its rows are those of commits up to this one; files are ordered by it.
    #[prost(uint64, tag = "5")]
    pub base_commit: u64,
}

fn encode(magic: &[u8; 8], edit: &Edit) -> Vec<u8> {
    envelope::seal(magic, MANIFEST_VERSION, &edit.encode_to_vec())
}

fn decode(what: &'static str, magic: &[u8; 8], file: &[u8]) -> Result<Edit> {
    let payload = envelope::open(what, magic, MANIFEST_VERSION, file)?;
    Edit::decode(payload).map_err(|error| Error::corrupt(format!("{what}: {error}")))
}

/// Bytes of an edit file.
pub fn encode_edit(edit: &Edit) -> Vec<u8> {
    encode(EDIT_MAGIC, edit)
}

/// Bytes of a checkpoint file.
pub fn encode_checkpoint(edit: &Edit) -> Vec<u8> {
    encode(CHECKPOINT_MAGIC, edit)
}

/// Reads an edit file.
pub fn decode_edit(file: &[u8]) -> Result<Edit> {
    decode("manifest edit", EDIT_MAGIC, file)
}

/// Reads a checkpoint file.
pub fn decode_checkpoint(file: &[u8]) -> Result<Edit> {
    decode("manifest checkpoint", CHECKPOINT_MAGIC, file)
}
