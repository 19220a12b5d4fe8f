//! The component of commits: the queue that orders and syncs them, and the disk space reserved for a full disk.

use crate::store::wal::commit_queue::CommitQueue;
use crate::store::wal::disk_reserve::DiskReserve;

/// The commits of an open store.
#[derive(Debug)]
pub struct Wal {
    pub queue: CommitQueue,
    pub reserve: DiskReserve,
}
