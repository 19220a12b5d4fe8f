//! Bytes on disk and on the wire, to and from values. Pure: nothing here opens a file.

pub mod backup;
pub mod bytes;
pub mod chunk;
pub mod chunk_salvage;
pub mod coverage;
pub mod current;
pub mod envelope;
pub mod inspect;
pub mod ipc;
pub mod manifest;
pub mod receipt;
pub mod run;
pub mod tombstone;
pub mod value_index;
pub mod wal;
pub mod zone_map;

/// Version of the data directory as a whole, written in `FORMAT`.
pub const FORMAT_VERSION: u32 = 1;
