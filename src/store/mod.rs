//! The engine: one directory, one owning process, many readers.
//!
//! A write is decided under the commit queue's lock, framed into the log, synced and published; readers take the
//! published [`StoreState`] and never wait. Sealing moves the tail into chunk files, and long sorted writes go there at once;
//! a manifest edit makes them count.
//! All methods block and may be called from any thread.

mod backup;
mod check;
mod facade;
mod maintain;
mod manifest;
mod open;
mod open_progress;
mod publish;
mod read;
mod task_control;
mod wal;
mod write;

pub use backup::create::{BackupOptions, BackupReport, FileCount, read_listing};
pub use backup::restore::{RestoreOptions, RestoreReport, restore, restore_on};
pub use backup::target::LISTING as BACKUP_LISTING;
pub use check::overlaps::{Overlap, OverlapChunk, OverlapPair, OverlapReport, overlaps};
pub use check::repair::{LostRows, LostSeries, LostSnapshot, RepairAction, RepairOptions, RepairReport, repair};
pub use check::verify::{
    DATASET_SNAPSHOT, Finding, FindingKind, Orphan, OrphanKind, OrphanReport, Severity, VerifyOptions, VerifyReport,
    orphans, verify,
};
pub use facade::{DeleteOutcome, ExpectedVersion, IfVersion, ReadOnly, Store, StoreOptions};
pub use maintain::compact::{CompactReport, VacuumReport};
pub use maintain::counters::UpkeepCounts;
pub use open::recover::{LOCK_FILE, RecoveryReport};
pub use open_progress::OpenProgress;
pub use publish::seal::SealReport;
pub use read::chunk::{BlockColumns, BlockMessage, ChunkFile, DamageLog, MapCache};
pub use read::coverage::{BucketRanges, Buckets, Presence};
pub use read::files::{ROW_RANGES_MAX, RowRange, SeriesFile, SeriesFiles};
pub use read::merge::{Merge, MergeStats, MergedRows, RUN_ROWS, SourceBlock, WantedKeys};
pub use read::retained_commits::RetainedCommits;
pub use read::sidecar::SidecarReport;
pub use read::state::{SeriesId, SeriesState, Snapshot, StoreState};
pub use task_control::TaskControl;
pub use wal::commit_queue::Durability;
pub use write::rows::{DecidedWrite, RECEIPT_KEEP_MS, RECEIPTS_MAX, SeriesWrite, WriteMode, WriteOutcome};
pub use write::snapshots::{SNAPSHOTS_MAX, check_snapshot_name};

pub use crate::format::receipt::SeriesReceipt;
