//! Arrow IPC framing of fixed-width, non-null columns.
//!
//! A message is `FF FF FF FF`, the length of the header as `i32`, the header (a flatbuffer padded so that the body
//! starts on a multiple of [`ALIGNMENT`] when the message does) and the body: each column's cells, padded with zeros to
//! [`ALIGNMENT`]. There are no validity buffers. The same bytes are used in chunk files, in Arrow streams and, with
//! header and body separate, in Flight. A dictionary column has 4-byte positions; its words are sent before in a
//! message of their own. Chunk files have no dictionaries.

use std::sync::Arc;

use arrow::datatypes::Schema;
use arrow::ipc::convert::IpcSchemaEncoder;
use arrow::ipc::writer::DictionaryTracker;
use arrow::ipc::{
    Buffer as BufferEntry, DictionaryBatchBuilder, FieldNode, MessageBuilder, MessageHeader, MetadataVersion,
    RecordBatchBuilder,
};
use flatbuffers::FlatBufferBuilder;

use crate::types::Dictionary;
use crate::types::width::{narrow, to_usize};

/// Columns and messages start on multiples of this many bytes.
pub const ALIGNMENT: usize = 64;
/// First bytes of every message.
pub const CONTINUATION: [u8; 4] = [0xFF; 4];
/// Bytes before the header: continuation marker and header length.
pub const PREFIX_BYTES: usize = 8;
/// Ends an Arrow stream, and the messages of an Arrow file.
pub const END_OF_STREAM: [u8; 8] = [0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0];

/// `bytes` rounded up to a multiple of [`ALIGNMENT`].
pub const fn padded(bytes: usize) -> usize {
    bytes.div_ceil(ALIGNMENT) * ALIGNMENT
}

/// The header of a schema message: a flatbuffer without prefix or padding.
pub fn schema_header(schema: &Schema) -> Vec<u8> {
    let mut fbb = FlatBufferBuilder::new();
    // Dictionary ids start at zero.
    let mut dictionaries = DictionaryTracker::new(true);
    let root = IpcSchemaEncoder::new().with_dictionary_tracker(&mut dictionaries).schema_to_fb_offset(&mut fbb, schema);
    let mut message = MessageBuilder::new(&mut fbb);
    message.add_version(MetadataVersion::V5);
    message.add_header_type(MessageHeader::Schema);
    message.add_header(root.as_union_value());
    message.add_bodyLength(0);
    let message = message.finish();
    fbb.finish(message, None);
    fbb.finished_data().to_vec()
}

/// Bytes of the buffers of one column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BufferSizes {
    /// Number of nulls.
    pub nulls: usize,
    /// Bytes of the bitmap of present cells; 0 without one.
    pub validity_bytes: usize,
    pub cells_bytes: usize,
}

/// The header of a record batch of `rows` rows with columns of `column_bytes` bytes each, none of them with nulls: a
/// flatbuffer without prefix or padding.
pub fn batch_header(rows: usize, column_bytes: &[usize]) -> Vec<u8> {
    let sizes: Vec<BufferSizes> =
        column_bytes.iter().map(|bytes| BufferSizes { cells_bytes: *bytes, ..BufferSizes::default() }).collect();
    batch_header_of(rows, &sizes)
}

/// The header of a record batch of `rows` rows with buffers of these sizes: a flatbuffer without prefix or padding.
pub fn batch_header_of(rows: usize, sizes: &[BufferSizes]) -> Vec<u8> {
    let mut nodes = Vec::with_capacity(sizes.len());
    let mut buffers = Vec::with_capacity(2 * sizes.len());
    let mut offset = 0_usize;
    for column in sizes {
        nodes.push(FieldNode::new(wide(rows), wide(column.nulls)));
        for bytes in [column.validity_bytes, column.cells_bytes] {
            buffers.push(BufferEntry::new(wide(offset), wide(bytes)));
            offset += padded(bytes);
        }
    }
    let mut fbb = FlatBufferBuilder::new();
    let nodes = fbb.create_vector(&nodes);
    let buffers = fbb.create_vector(&buffers);
    let mut batch = RecordBatchBuilder::new(&mut fbb);
    batch.add_length(wide(rows));
    batch.add_nodes(nodes);
    batch.add_buffers(buffers);
    let batch = batch.finish();
    let mut message = MessageBuilder::new(&mut fbb);
    message.add_version(MetadataVersion::V5);
    message.add_header_type(MessageHeader::RecordBatch);
    message.add_header(batch.as_union_value());
    message.add_bodyLength(wide(offset));
    let message = message.finish();
    fbb.finish(message, None);
    fbb.finished_data().to_vec()
}

/// Header and body of the message with the words of the only dictionary of a schema.
pub fn dictionary_message<'w>(words: impl Iterator<Item = &'w str>) -> (Vec<u8>, Vec<u8>) {
    dictionary_message_of(0, words)
}

/// Header and body of the message with the texts of a dictionary. Fields with a dictionary have ids from 0 on, in the
/// order of the schema.
pub fn dictionary_message_of<'w>(id: i64, words: impl Iterator<Item = &'w str>) -> (Vec<u8>, Vec<u8>) {
    let mut offsets: Vec<u8> = 0_i32.to_le_bytes().to_vec();
    let mut text: Vec<u8> = Vec::new();
    let mut count = 0_usize;
    for word in words {
        text.extend_from_slice(word.as_bytes());
        offsets.extend_from_slice(&narrow::<i32, _>(text.len()).to_le_bytes());
        count += 1;
    }
    let text_at = padded(offsets.len());
    let buffers = [
        BufferEntry::new(0, 0),
        BufferEntry::new(0, wide(offsets.len())),
        BufferEntry::new(wide(text_at), wide(text.len())),
    ];
    let mut body = offsets;
    body.resize(text_at, 0);
    body.extend_from_slice(&text);
    body.resize(padded(body.len()), 0);
    let mut fbb = FlatBufferBuilder::new();
    let nodes = fbb.create_vector(&[FieldNode::new(wide(count), 0)]);
    let buffers = fbb.create_vector(&buffers);
    let mut batch = RecordBatchBuilder::new(&mut fbb);
    batch.add_length(wide(count));
    batch.add_nodes(nodes);
    batch.add_buffers(buffers);
    let batch = batch.finish();
    let mut dictionary = DictionaryBatchBuilder::new(&mut fbb);
    dictionary.add_id(id);
    dictionary.add_data(batch);
    let dictionary = dictionary.finish();
    let mut message = MessageBuilder::new(&mut fbb);
    message.add_version(MetadataVersion::V5);
    message.add_header_type(MessageHeader::DictionaryBatch);
    message.add_header(dictionary.as_union_value());
    message.add_bodyLength(wide(body.len()));
    let message = message.finish();
    fbb.finish(message, None);
    (fbb.finished_data().to_vec(), body)
}

/// The texts in the body of a dictionary message; `None` when they do not fit it.
pub fn dictionary_texts(body: &[u8], texts: usize) -> Option<Dictionary> {
    let offset_bytes = texts.checked_add(1)?.checked_mul(4)?;
    let offsets = body.get(..offset_bytes)?.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
    let data = body.get(padded(offset_bytes)..)?;
    let mut found = Vec::with_capacity(texts);
    let ends = offsets.clone().skip(1);
    for (from, to) in offsets.zip(ends) {
        let text = std::str::from_utf8(data.get(to_usize(from)..to_usize(to))?).ok()?;
        found.push(Arc::<str>::from(text));
    }
    Some(found.into_iter().collect())
}

/// Prefix, header and padding of a message, so that its body starts on a multiple of [`ALIGNMENT`].
pub fn framed(header: &[u8]) -> Vec<u8> {
    let total = padded(PREFIX_BYTES + header.len());
    let mut out = Vec::with_capacity(total);
    out.extend_from_slice(&CONTINUATION);
    let length = narrow::<i32, _>(total - PREFIX_BYTES);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(header);
    out.resize(total, 0);
    out
}

/// Size in bytes of the body of a record batch with columns of these sizes.
pub fn body_bytes(column_bytes: &[usize]) -> usize {
    column_bytes.iter().map(|bytes| padded(*bytes)).sum()
}

/// Lengths and row counts inside one message never reach 2^63.
fn wide(value: usize) -> i64 {
    narrow(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Array, Float64Array, Int64Array};
    use arrow::datatypes::{DataType, Field};
    use arrow::ipc::reader::StreamReader;

    #[test]
    fn arrow_reads_a_stream_of_these_messages() {
        let schema =
            Schema::new(vec![Field::new("a", DataType::Int64, false), Field::new("b", DataType::Float64, false)]);
        let mut out = framed(&schema_header(&schema));
        out.extend(framed(&batch_header(3, &[24, 24])));
        for cells in [[1_i64, 2, 3].map(i64::to_le_bytes), [0.5_f64, 1.5, 2.5].map(f64::to_le_bytes)] {
            out.extend(cells.concat());
            out.resize(padded(out.len()), 0);
        }
        out.extend(END_OF_STREAM);
        let batch = StreamReader::try_new(out.as_slice(), None).unwrap().next().unwrap().unwrap();
        assert_eq!(batch.column(0).as_any().downcast_ref::<Int64Array>().unwrap().values(), &[1, 2, 3]);
        assert_eq!(batch.column(1).as_any().downcast_ref::<Float64Array>().unwrap().values(), &[0.5, 1.5, 2.5]);
        assert!(batch.columns().iter().all(|column| column.null_count() == 0));
    }
}
