//! The manifest: numbered edits that say which files count, and the hint at the newest of them.

pub mod current;
pub mod edits;
