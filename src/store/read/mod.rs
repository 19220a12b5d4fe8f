//! What readers see: states, the files under them, and the merge that reads both.

pub(in crate::store) mod append_buffer;
pub(in crate::store) mod chunk;
pub(in crate::store) mod coverage;
pub(in crate::store) mod files;
pub(in crate::store) mod merge;
pub(in crate::store) mod retained_commits;
pub(in crate::store) mod search;
pub(in crate::store) mod sidecar;
pub(in crate::store) mod state;
