//! The log, the queue that orders and syncs commits, and the disk space reserved for a full disk.

pub mod commit_queue;
pub mod component;
pub mod disk_reserve;
pub mod segments;
