//! Checks from the files alone, and what acts on their findings.

pub(in crate::store) mod overlaps;
pub(in crate::store) mod repair;
pub(in crate::store) mod scrub;
pub(in crate::store) mod verify;
