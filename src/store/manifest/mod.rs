//! The manifest: numbered edits that say which files count, and the hint at the newest of them.

pub(in crate::store) mod current;
pub(in crate::store) mod edits;
