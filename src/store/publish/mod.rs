//! Chunk files: written, given their names, and published by an edit of the manifest.

pub mod chunk_builder;
pub mod counters;
pub mod publisher;
pub mod records;
pub mod seal;
pub mod series_files;
pub mod sidecars;
pub mod slices;
pub mod stager;
