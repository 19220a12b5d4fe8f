//! Encoding and decoding of files and wire messages. Pure: no module here does I/O.

pub mod backup;
pub mod body;
pub mod bytes;
pub mod chunk;
pub mod chunk_salvage;
pub mod coverage;
pub mod current;
pub mod envelope;
pub mod inspect;
pub mod ipc;
pub mod manifest;
pub mod message;
pub mod order_key;
pub mod receipt;
pub mod run;
pub mod texts;
pub mod tombstone;
pub mod value_index;
mod version;
pub mod wal;
pub mod zone_map;

pub use version::FORMAT_VERSION;
