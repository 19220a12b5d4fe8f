//! How a store behaves: the keys of the section `[store]` that the engine uses, and what its program sets.

use std::sync::Arc;

use crate::clock::Clock;
use crate::settings::settings;
use crate::store::open_progress::OpenProgress;

settings! {
    /// How a store behaves. The keys of the section `[store]` have its defaults, except that a server retains commits
    /// (`commit_retention_bytes_max`).
    pub struct StoreOptions {
        /// When a write is acknowledged: "sync" after its bytes are flushed to disk, "interval" after they are written
        /// (flushed every sync_interval_ms), "none" after they are written (flushed when the operating system decides).
        durability: Durability = Durability::Sync;
        /// Maximum time between two flushes under durability = "interval".
        sync_interval_ms: u64 = 200, 1..=60_000;
        /// Size of one write-ahead log segment.
        wal_segment_bytes: u64 = 16 << 20, 64 << 10..=1 << 30;
        /// Size of the write-ahead log above which rows are moved out of it so that segments can be deleted.
        wal_bytes_max: u64 = 64 << 20, |store: &Self| store.wal_segment_bytes.saturating_mul(4)..=1 << 40;
        /// Rows in the tail of one series that trigger a seal; a sorted write of at least this many rows is written
        /// directly to chunks.
        tail_rows_max: u64 = 262_144, 1..=1 << 32;
        /// Maximum bytes of rows in one chunk file: a partition with more becomes several chunks, each for a part of its
        /// time, so that late rows rewrite only the parts that they lie in. Rows of one timestamp stay together.
        chunk_bytes_max: u64 = 256 << 20, 1 << 20..=1 << 40;
        /// Maximum bytes of rows in the run files of all tails; above it the longest tails are sealed into chunks.
        tail_bytes_max: u64 = 1 << 30, 1 << 20..=1 << 40;
        /// How long the commits named by replies, cursors and tickets stay readable.
        commit_retention_ms: u64 = 600_000, 0..=7 * 86_400_000;
        /// Approximate maximum memory for retained commits: 8 KiB each plus the rows written since; above it the oldest
        /// expire early. Up to 256 commits named by a cursor or ticket are retained in addition. 0 retains only these.
        commit_retention_bytes_max: u64 = 0, 0..=1 << 40;
    } and {
        /// Most chunk files mapped at once.
        maps_max: usize = 8_192;
        /// Whether maintenance (sealing, trimming, compaction) runs in the background.
        background_maintenance: bool = true;
        /// Whether blocks are brought into memory when they are read, so that no consumer waits for the disk. A
        /// server needs this; a program whose own thread reads the cells does not.
        prefetch: bool = false;
        /// Where the opening reports its progress.
        opening: Option<Arc<OpenProgress>> = None;
        /// What becomes of the attempt to open a directory that this process may not write to.
        read_only: ReadOnly = ReadOnly::Refused;
        /// By which retained commits, receipts and rows expire.
        #[doc(hidden)]
        clock: Clock = Clock::default();
    }
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
