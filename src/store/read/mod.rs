//! What readers see: states, the files under them, and the merge that reads both.

pub mod append_buffer;
pub mod block;
pub mod chunk;
pub mod chunk_list;
pub mod chunk_paths;
pub mod convert;
pub mod coverage;
pub mod files;
pub mod headroom;
pub mod map_column;
pub mod merge;
pub mod merge_source;
pub mod precondition;
pub mod presence;
pub mod pruning;
pub mod reads;
pub mod retained_commits;
pub mod run;
pub mod run_files;
pub mod search;
pub mod series_state;
pub mod sidecar;
pub mod snapshot_views;
pub mod store_state;
pub mod structural;
pub mod tombstone;
