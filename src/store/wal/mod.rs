//! The log, the queue that orders and syncs commits, and the disk space reserved for a full disk.

pub(in crate::store) mod commit_queue;
pub(in crate::store) mod disk_reserve;
pub(in crate::store) mod segments;
