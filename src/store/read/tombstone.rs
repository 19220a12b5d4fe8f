//! Deleted ranges, and the boundaries of snapshots over which nothing is merged.

/// A deleted closed range: hides rows of commits before its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tombstone {
    pub commit: u64,
    pub start: i64,
    pub end: i64,
}

/// Whether a fence lies between two commits: at or after `older`, before `newer`.
pub fn fenced(fences: &[u64], older: u64, newer: u64) -> bool {
    let next = fences.partition_point(|fence| *fence < older);
    fences.get(next).is_some_and(|fence| *fence < newer)
}

/// Whether a delete or a fence lies between two commits.
pub fn is_apart(tombstones: &[Tombstone], older: u64, newer: u64, fences: &[u64]) -> bool {
    fenced(fences, older, newer) || tombstones.iter().any(|t| older < t.commit && t.commit < newer)
}
