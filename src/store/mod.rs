//! The engine: one directory, one owning process, many readers.
//!
//! A write is decided under the commit queue's lock, framed into the log, synced and published; readers take the
//! published [`StoreState`] and never wait. Sealing moves the tail into chunk files, and long sorted writes go directly
//! to chunk files; a manifest edit publishes them.
//! All methods block and may be called from any thread.

mod backup;
mod check;
mod directory;
mod facade;
mod maintain;
mod manifest;
mod open;
mod open_progress;
mod options;
mod publish;
mod read;
mod registration;
mod task_control;
mod wal;
mod write;

pub use backup::create::BackupReport;
pub use backup::listing::{BackupOptions, FileCount, read_listing};
pub use backup::restore::{RestoreOptions, RestoreReport, restore, restore_on};
pub use check::overlaps::{Overlap, OverlapChunk, OverlapPair, OverlapReport, overlaps};
pub use check::repair::{LostRows, LostSeries, LostSnapshot, RepairAction, RepairOptions, RepairReport, repair};
pub use check::verify::{
    DATASET_SNAPSHOT, Finding, FindingKind, Orphan, OrphanKind, OrphanReport, Severity, VerifyOptions, VerifyReport,
    orphans, verify,
};
pub use directory::{LISTING as BACKUP_LISTING, LOCK_FILE};
pub use facade::Store;
pub use open::recover::RecoveryReport;
pub use open_progress::OpenProgress;
pub use options::{Durability, ReadOnly, StoreOptions};
pub use publish::counters::{CompactReport, MaintenanceCounts, SealReport, VacuumReport};
pub use publish::sidecars::SidecarReport;
pub use read::block::{Block, BlockRows, SeriesIndexes, StoredMessage};
pub use read::chunk::{ChunkFile, DamageLog, MapCache};
pub use read::files::{ROW_RANGES_MAX, RowRange, SeriesFile, SeriesFiles};
pub use read::merge::{Merge, RUN_ROWS};
pub use read::precondition::{ExpectedVersion, IfVersion};
pub use read::presence::{BucketRanges, Buckets, Presence};
pub use read::pruning::{MergeStats, WantedKeys};
pub use read::retained_commits::RetainedCommits;
pub use read::series_state::{SeriesId, SeriesState};
pub use read::store_state::{RegisteredKind, Snapshot, StoreState};
pub use task_control::TaskControl;
pub use write::delete::DeleteOutcome;
pub use write::idempotency::{RECEIPT_RETENTION_MS, RECEIPTS_MAX};
pub use write::request::{DecidedWrite, SeriesWrite, WriteMode, WriteOutcome};
pub use write::snapshots::{SNAPSHOTS_MAX, check_snapshot_name};

pub use crate::format::receipt::SeriesReceipt;
