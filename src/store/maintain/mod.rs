//! Work that keeps a store small and its log short.

pub mod background;
pub mod checkpoint;
pub mod compact;
pub mod compaction_group;
pub mod maintenance;
pub mod retention;
pub mod root_check;
pub mod sidecars;
pub mod vacuum;
