//! Encoding of results: JSON, NDJSON, CSV, Arrow stream, Parquet.

pub mod accept;
mod batch_file;
mod batches;
mod columnar;
mod encoder;
mod ipc;
mod options;
mod text;
mod writer;

pub use batches::{BatchEncoder, ColumnLabel};
pub use encoder::BodyEncoder;
pub(crate) use ipc::{batch_message, dictionary_messages};
pub use options::{EncodeOptions, JsonShape, OutFormat, TimeFormat};
pub(crate) use writer::OutputBuffer;
pub use writer::{PIECE_BYTES, Trailer};

#[cfg(test)]
pub(crate) mod tests;
