//! Headers of Arrow messages whose columns have any buffers, and of messages with the texts of a dictionary.
//!
//! The body of a message is made of the same buffers in order, each padded with zeros to
//! [`ALIGNMENT`](super::ipc::ALIGNMENT).

use std::sync::Arc;

use arrow::ipc::{
    Buffer as BufferEntry, DictionaryBatchBuilder, FieldNode, MessageBuilder, MessageHeader, MetadataVersion,
    RecordBatch, RecordBatchBuilder,
};
use flatbuffers::{FlatBufferBuilder, UnionWIPOffset, WIPOffset};

use super::ipc::padded;
use crate::types::Dictionary;
use crate::types::width::{narrow, to_usize};

/// Bytes of the buffers of one column.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BufferSizes {
    /// Number of nulls.
    pub nulls: usize,
    /// Bytes of the bitmap of present cells; 0 without one.
    pub validity_bytes: usize,
    pub cells_bytes: usize,
}

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

/// The header of a record batch of `rows` rows of columns with buffers of these sizes.
pub fn batch_header_of(rows: usize, sizes: &[BufferSizes]) -> Vec<u8> {
    let buffers = sizes.iter().flat_map(|column| [column.validity_bytes, column.cells_bytes]);
    batch_header(rows, sizes.iter().map(|column| column.nulls), buffers)
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

/// Header and body of the message with the texts of a dictionary.
pub fn dictionary_message<'t>(id: i64, texts: impl Iterator<Item = &'t str>) -> (Vec<u8>, Vec<u8>) {
    let mut body: Vec<u8> = 0_i32.to_le_bytes().to_vec();
    let mut data: Vec<u8> = Vec::new();
    let mut count = 0_usize;
    for text in texts {
        data.extend_from_slice(text.as_bytes());
        body.extend_from_slice(&narrow::<i32, _>(data.len()).to_le_bytes());
        count += 1;
    }
    let header = dictionary_header(id, count, body.len(), data.len());
    body.resize(padded(body.len()), 0);
    body.extend_from_slice(&data);
    body.resize(padded(body.len()), 0);
    (header, body)
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

/// Lengths and row counts inside one message never reach 2^63.
fn wide(value: usize) -> i64 {
    narrow(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::ipc::{END_OF_STREAM, framed, schema_header};
    use arrow::array::{Array, Float64Array, Int64Array};
    use arrow::datatypes::{DataType, Field, Schema};
    use arrow::ipc::reader::StreamReader;

    #[test]
    fn arrow_reads_a_stream_of_these_messages() {
        let schema =
            Schema::new(vec![Field::new("a", DataType::Int64, false), Field::new("b", DataType::Float64, false)]);
        let mut out = framed(&schema_header(&schema));
        out.extend(framed(&batch_header(3, [0; 2].into_iter(), [0, 24, 0, 24].into_iter())));
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

    #[test]
    fn the_texts_of_a_dictionary_message_are_read_back() {
        let texts = ["a", "", "bc"];
        let (header, body) = dictionary_message(0, texts.into_iter());
        assert_eq!((dictionary_header(0, 3, 16, 3), body.len()), (header, 128));
        let read = dictionary_texts(&body, 3).unwrap();
        assert!(read.texts().map(|text| &**text).eq(texts));
        assert_eq!(dictionary_texts(&body[..64], 3), None);
    }
}
