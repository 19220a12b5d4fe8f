//! Chunk files: written, given their names, and published by an edit of the manifest.

pub(in crate::store) mod seal;
