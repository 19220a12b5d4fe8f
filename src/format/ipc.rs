//! Arrow IPC framing of fixed-width, non-null columns.
//!
//! A message is `FF FF FF FF`, the length of the header as `i32`, the header (a flatbuffer padded so that the body
//! starts on a multiple of [`ALIGNMENT`] when the message does) and the body: each column's cells, padded with zeros to
//! [`ALIGNMENT`]. There are no validity buffers. The same bytes are used in chunk files, in Arrow streams and, with
//! header and body separate, in Flight. A dictionary column has 4-byte positions; its words are sent before in a
//! message of their own. Chunk files have no dictionaries.

use arrow::datatypes::Schema;
use arrow::ipc::convert::IpcSchemaEncoder;
use arrow::ipc::writer::DictionaryTracker;
use arrow::ipc::{
    Buffer as BufferEntry, DictionaryBatchBuilder, FieldNode, MessageBuilder, MessageHeader, MetadataVersion,
    RecordBatchBuilder,
};
use flatbuffers::FlatBufferBuilder;

use crate::types::width::narrow;

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

/// The header of a record batch of `rows` rows with columns of `column_bytes` bytes each: a flatbuffer without
/// prefix or padding.
pub fn batch_header(rows: usize, column_bytes: &[usize]) -> Vec<u8> {
    let mut nodes = Vec::with_capacity(column_bytes.len());
    let mut buffers = Vec::with_capacity(2 * column_bytes.len());
    let mut offset = 0_usize;
    for bytes in column_bytes {
        nodes.push(FieldNode::new(wide(rows), 0));
        buffers.push(BufferEntry::new(wide(offset), 0));
        buffers.push(BufferEntry::new(wide(offset), wide(*bytes)));
        offset += padded(*bytes);
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
    dictionary.add_id(0);
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
