//! Framing of Arrow IPC messages, and the message of a schema. Headers of other messages are in
//! [`message`](super::message).
//!
//! A message is `FF FF FF FF`, the length of the header as `i32`, the header (a flatbuffer padded so that the body
//! starts on a multiple of [`ALIGNMENT`] when the message does) and the body: the bitmap of present cells of each column
//! that has nulls, and its cells, each padded with zeros to [`ALIGNMENT`]. The same bytes are used in chunk files, in Arrow
//! streams and, with header and body separate, in Flight.

use arrow::datatypes::Schema;
use arrow::ipc::convert::IpcSchemaEncoder;
use arrow::ipc::writer::DictionaryTracker;
use arrow::ipc::{MessageBuilder, MessageHeader, MetadataVersion};
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
