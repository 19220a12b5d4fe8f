//! Checks from the files alone, and what acts on their findings.

pub mod overlaps;
pub mod repair;
pub mod scrub;
pub mod verify;
