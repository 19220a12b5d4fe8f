//! Arrow streams. Complete chunk blocks are sent as stored in the file; other blocks are framed again.

use arrow::array::{Array, StringArray};
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;

use crate::egress::writer::{BodyWriter, OutputBuffer, Trailer};
use crate::error::Result;
use crate::format::{ipc, message};
use crate::query::result::ColumnBuffers;
use crate::query::{Block, ResultSchema};
use crate::types::width::narrow;

/// The writer of an Arrow stream.
pub(super) struct ArrowWriter {
    shape: ResultSchema,
    schema: SchemaRef,
    is_plain: bool,
    block: Option<Block>,
}

impl ArrowWriter {
    pub(super) fn new(shape: &ResultSchema) -> Self {
        let schema = shape.arrow_schema();
        Self { is_plain: shape.is_plain(), shape: shape.clone(), schema, block: None }
    }
}

/// A buffer as the owner of output bytes, so that nothing is copied.
struct SharedBuffer(Buffer);

impl AsRef<[u8]> for SharedBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Zeros after a buffer.
const PADDING: &[u8] = &[0; ipc::ALIGNMENT];

/// Appends a buffer and its padding to a body; returns its size.
fn push_padded(body: &mut Vec<Bytes>, buffer: Buffer) -> usize {
    let bytes = buffer.len();
    if bytes > 0 {
        body.push(Bytes::from_owner(SharedBuffer(buffer)));
        body.extend(PADDING.get(..ipc::padded(bytes) - bytes).map(Bytes::from_static));
    }
    bytes
}

/// The message of these columns: its header and its body, in pieces that share the memory of the columns.
pub(crate) fn batch_message(rows: usize, columns: impl Iterator<Item = ColumnBuffers>) -> (Vec<u8>, Vec<Bytes>) {
    let (mut nulls, mut sizes, mut body) = (Vec::new(), Vec::new(), Vec::new());
    for column in columns {
        nulls.push(column.nulls);
        sizes.extend(column.into_buffers().map(|buffer| push_padded(&mut body, buffer)));
    }
    (message::batch_header(rows, nulls.into_iter(), sizes.into_iter()), body)
}

/// The message with the texts of the dictionary with an id: its header and its body, which shares their memory.
fn dictionary_message(id: usize, texts: &StringArray) -> (Vec<u8>, Vec<Bytes>) {
    let mut body = Vec::new();
    let offsets = push_padded(&mut body, texts.offsets().inner().inner().clone());
    let bytes = push_padded(&mut body, texts.values().clone());
    (message::dictionary_header(narrow(id), texts.len(), offsets, bytes), body)
}

/// The messages with the dictionaries of a result, which come after the schema.
pub(crate) fn dictionary_messages(shape: &ResultSchema) -> impl Iterator<Item = (Vec<u8>, Vec<Bytes>)> + '_ {
    shape.dictionaries().enumerate().map(|(id, texts)| dictionary_message(id, texts))
}

fn push_message(out: &mut OutputBuffer, (header, body): (Vec<u8>, Vec<Bytes>)) {
    out.open().extend(ipc::framed(&header));
    body.into_iter().for_each(|piece| out.push(piece));
}

impl BodyWriter for ArrowWriter {
    fn begin(&mut self, out: &mut OutputBuffer) -> Result<()> {
        out.open().extend(ipc::framed(&ipc::schema_header(&self.schema)));
        dictionary_messages(&self.shape).for_each(|message| push_message(out, message));
        Ok(())
    }

    fn accept(&mut self, block: Block) -> Result<()> {
        self.block = Some(block);
        Ok(())
    }

    fn print(&mut self, out: &mut OutputBuffer) -> Result<bool> {
        let Some(block) = self.block.take() else { return Ok(true) };
        match block.message() {
            Some(stored) if self.is_plain => out.push(stored.bytes()),
            _ => push_message(out, batch_message(block.rows(), self.shape.column_buffers(&block))),
        }
        Ok(true)
    }

    fn finish(&mut self, _closing: &Trailer, out: &mut OutputBuffer) -> Result<bool> {
        out.open().extend_from_slice(&ipc::END_OF_STREAM);
        Ok(true)
    }
}
