//! Blocks in memory: columns that share the memory of a mapped file or of a run.

use arrow::buffer::Buffer;
use bytes::Bytes;

/// One block's columns, each its own slice of the map.
#[derive(Clone, Debug)]
pub struct BlockColumns {
    pub rows: usize,
    /// `ts`, then the columns of the series' registration.
    pub columns: Vec<Buffer>,
    /// The whole message, when the file's columns are those of the series.
    pub message: Option<BlockMessage>,
}

/// A block's message in the file.
#[derive(Clone, Debug)]
pub struct BlockMessage {
    pub message: Bytes,
    pub header: Bytes,
    pub body: Bytes,
}
