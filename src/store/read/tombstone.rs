//! Deleted ranges, and the boundaries of snapshots over which nothing is merged.

/// A deleted closed range: hides rows of commits before its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tombstone {
    pub commit: u64,
    pub start: i64,
    pub end: i64,
}

/// Whether a snapshot lies between two commits: at or after `older`, before `newer`.
pub fn has_snapshot_between(snapshot_commits: &[u64], older: u64, newer: u64) -> bool {
    let next = snapshot_commits.partition_point(|snapshot| *snapshot < older);
    snapshot_commits.get(next).is_some_and(|snapshot| *snapshot < newer)
}

/// Whether a delete or a snapshot lies between two commits.
pub fn is_apart(tombstones: &[Tombstone], older: u64, newer: u64, snapshot_commits: &[u64]) -> bool {
    has_snapshot_between(snapshot_commits, older, newer)
        || tombstones.iter().any(|t| older < t.commit && t.commit < newer)
}
