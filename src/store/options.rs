//! How a store behaves.

use std::sync::Arc;

use crate::clock::Clock;
use crate::store::open_progress::OpenProgress;

/// How a store behaves. The defaults are those of `config/fastk.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// When a write is acknowledged.
    pub durability: Durability,
    /// Longest time written rows stay unsynced under `interval`.
    pub sync_interval_ms: u64,
    /// Bytes of a log segment.
    pub wal_segment_bytes: u64,
    /// Bytes of log frames after which the tail is moved out and the log trimmed.
    pub wal_bytes_max: u64,
    /// Tail rows of one series after which it is sealed.
    pub tail_rows_max: u64,
    /// Bytes of rows that all tails may hold in run files; beyond it the longest are sealed.
    pub tail_bytes_max: u64,
    /// How long the commits of replies, cursors and tickets stay readable.
    pub commit_retention_ms: u64,
    /// Approximate bytes of memory for earlier commits that only a response can have named: 8 KiB each and the rows
    /// written since. 0 keeps those of cursors and tickets alone, and their files no longer than they are needed.
    pub commit_retention_bytes_max: u64,
    /// Most chunk files mapped at once.
    pub maps_max: usize,
    /// Whether maintenance (sealing, trimming, compaction) runs in the background.
    pub background_maintenance: bool,
    /// Whether blocks are brought into memory when they are read, so that no consumer waits for the disk. A
    /// server needs this; a program whose own thread reads the cells does not.
    pub prefetch: bool,
    /// Where the opening reports its progress.
    pub opening: Option<Arc<OpenProgress>>,
    /// What becomes of the attempt to open a directory that this process may not write to.
    pub read_only: ReadOnly,
    /// By which retained commits, receipts and rows expire.
    #[doc(hidden)]
    pub clock: Clock,
}

/// What becomes of the attempt to open a directory that this process may not write to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadOnly {
    /// It fails with `io`.
    #[default]
    Refused,
    /// The store is opened for reading, and nothing on disk changes. Every write is refused.
    Opened,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            durability: Durability::Sync,
            sync_interval_ms: 200,
            wal_segment_bytes: 16 << 20,
            wal_bytes_max: 64 << 20,
            tail_rows_max: 262_144,
            tail_bytes_max: 1 << 30,
            commit_retention_ms: 600_000,
            commit_retention_bytes_max: 0,
            maps_max: 8_192,
            background_maintenance: true,
            prefetch: false,
            opening: None,
            read_only: ReadOnly::Refused,
            clock: Clock::default(),
        }
    }
}

/// When a commit is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// After its sync.
    #[default]
    Sync,
    /// After its write; synced every interval.
    Interval,
    /// After its write; the operating system decides when it is durable.
    None,
}

impl Durability {
    pub fn name(self) -> &'static str {
        match self {
            Durability::Sync => "sync",
            Durability::Interval => "interval",
            Durability::None => "none",
        }
    }
}
