//! Headers of Arrow messages whose columns have any buffers, and of messages with the texts of a dictionary.
//!
//! The body of a message is made of the same buffers in order, each padded with zeros to
//! [`ALIGNMENT`](super::ipc::ALIGNMENT).

use arrow::ipc::{
    Buffer as BufferEntry, DictionaryBatchBuilder, FieldNode, MessageBuilder, MessageHeader, MetadataVersion,
    RecordBatch, RecordBatchBuilder,
};
use flatbuffers::{FlatBufferBuilder, UnionWIPOffset, WIPOffset};

use super::ipc::padded;
use crate::types::width::narrow;

/// Writes the table of columns and buffers; returns it with the size of the body.
fn record_batch<'f>(
    fbb: &mut FlatBufferBuilder<'f>,
    rows: usize,
    null_counts: impl Iterator<Item = usize>,
    buffer_bytes: impl Iterator<Item = usize>,
) -> (WIPOffset<RecordBatch<'f>>, usize) {
    let nodes: Vec<FieldNode> = null_counts.map(|nulls| FieldNode::new(wide(rows), wide(nulls))).collect();
    let mut offset = 0_usize;
    let entry = |bytes: usize| {
        let entry = BufferEntry::new(wide(offset), wide(bytes));
        offset += padded(bytes);
        entry
    };
    let buffers: Vec<BufferEntry> = buffer_bytes.map(entry).collect();
    let nodes = fbb.create_vector(&nodes);
    let buffers = fbb.create_vector(&buffers);
    let mut batch = RecordBatchBuilder::new(fbb);
    batch.add_length(wide(rows));
    batch.add_nodes(nodes);
    batch.add_buffers(buffers);
    (batch.finish(), offset)
}

fn message(
    mut fbb: FlatBufferBuilder<'_>,
    kind: MessageHeader,
    header: WIPOffset<UnionWIPOffset>,
    body_bytes: usize,
) -> Vec<u8> {
    let mut message = MessageBuilder::new(&mut fbb);
    message.add_version(MetadataVersion::V5);
    message.add_header_type(kind);
    message.add_header(header);
    message.add_bodyLength(wide(body_bytes));
    let message = message.finish();
    fbb.finish(message, None);
    fbb.finished_data().to_vec()
}

/// The header of a record batch of `rows` rows: a flatbuffer without prefix or padding. `buffer_bytes` are the sizes of
/// the buffers of all columns in order; an absent bitmap has 0.
pub fn batch_header(
    rows: usize,
    null_counts: impl Iterator<Item = usize>,
    buffer_bytes: impl Iterator<Item = usize>,
) -> Vec<u8> {
    let mut fbb = FlatBufferBuilder::new();
    let (batch, bytes) = record_batch(&mut fbb, rows, null_counts, buffer_bytes);
    message(fbb, MessageHeader::RecordBatch, batch.as_union_value(), bytes)
}

/// The header of the message with the texts of a dictionary. Its body has their offsets and their bytes. Fields with a
/// dictionary have ids from 0 on, in the order of the schema.
pub fn dictionary_header(id: i64, texts: usize, offset_bytes: usize, text_bytes: usize) -> Vec<u8> {
    let mut fbb = FlatBufferBuilder::new();
    let buffers = [0, offset_bytes, text_bytes];
    let (batch, bytes) = record_batch(&mut fbb, texts, std::iter::once(0), buffers.into_iter());
    let mut dictionary = DictionaryBatchBuilder::new(&mut fbb);
    dictionary.add_id(id);
    dictionary.add_data(batch);
    let dictionary = dictionary.finish();
    message(fbb, MessageHeader::DictionaryBatch, dictionary.as_union_value(), bytes)
}

/// Lengths and row counts inside one message never reach 2^63.
fn wide(value: usize) -> i64 {
    narrow(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::ipc;

    #[test]
    fn headers_of_columns_without_nulls_are_those_of_chunk_files() {
        let sizes = [24_usize, 24, 3];
        let buffers = sizes.into_iter().flat_map(|bytes| [0, bytes]);
        assert_eq!(batch_header(3, [0; 3].into_iter(), buffers), ipc::batch_header(3, &sizes));
        let (header, body) = ipc::dictionary_message(["a", "", "bc"].into_iter());
        assert_eq!((dictionary_header(0, 3, 16, 3), body.len()), (header, 128));
    }
}
