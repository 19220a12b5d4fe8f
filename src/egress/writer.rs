//! What the encoder of each format implements, and the pieces of a body that it writes to.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::error::Result;
use crate::query::{Block, ScanStats};

/// Approximate length of the pieces of a body. Blocks of an Arrow stream can have up to 1 MiB.
pub const PIECE_BYTES: usize = 256 * 1024;

/// The fields after the rows of a JSON response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trailer {
    /// The cursor of the next page, when there are more rows.
    pub next_cursor: Option<String>,
    /// Scan statistics, when requested.
    pub stats: Option<ScanStats>,
}

/// Encoder of one format. Methods that return `false` must be called again.
pub(super) trait BodyWriter: Send {
    /// Writes the bytes before the first row.
    fn begin(&mut self, out: &mut OutputBuffer) -> Result<()>;
    /// Accepts the next block. It must have at least one row, and all columns as many words as rows.
    fn accept(&mut self, block: Block) -> Result<()>;
    /// Writes part of the accepted block; true when the block is complete.
    fn print(&mut self, out: &mut OutputBuffer) -> Result<bool>;
    /// Writes part of the bytes after the last row; true when the body is complete.
    fn finish(&mut self, closing: &Trailer, out: &mut OutputBuffer) -> Result<bool>;
}

/// Output of an encoder: finished pieces, and the one being written.
#[derive(Debug, Default)]
pub(crate) struct OutputBuffer {
    ready: VecDeque<Bytes>,
    open: Vec<u8>,
}

impl OutputBuffer {
    /// Pushed bytes up to this length are copied; longer ones become pieces of their own.
    const COPY_BYTES_MAX: usize = 16 * 1024;

    /// Approximate maximum that one step of a text writer appends.
    pub(super) const STEP_BYTES: usize = 64 * 1024;

    pub(super) fn is_full(&self) -> bool {
        self.open.len() >= PIECE_BYTES
    }

    /// Ends the piece being written. After a full piece the next one is allocated at full size, so that pieces neither
    /// move while they grow nor keep unused capacity.
    pub(super) fn cut(&mut self) {
        if !self.open.is_empty() {
            let next = if self.is_full() { Vec::with_capacity(PIECE_BYTES + Self::STEP_BYTES) } else { Vec::new() };
            self.ready.push_back(Bytes::from(std::mem::replace(&mut self.open, next)));
        }
    }

    /// The oldest finished piece.
    pub(super) fn take_ready(&mut self) -> Option<Bytes> {
        self.ready.pop_front()
    }

    /// The piece being written.
    pub(crate) fn open(&mut self) -> &mut Vec<u8> {
        &mut self.open
    }

    /// Ends the piece being written and returns all pieces.
    pub(crate) fn pieces(&mut self) -> Vec<Bytes> {
        self.cut();
        std::mem::take(&mut self.ready).into()
    }

    /// Number of bytes not yet taken.
    pub(crate) fn bytes(&self) -> usize {
        self.ready.iter().map(Bytes::len).sum::<usize>() + self.open.len()
    }

    /// Appends existing bytes; long ones are not copied.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        if bytes.len() <= Self::COPY_BYTES_MAX {
            self.open.extend_from_slice(&bytes);
        } else {
            self.cut();
            self.ready.push_back(bytes);
        }
    }
}
