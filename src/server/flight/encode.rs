//! Encodes results as Flight messages: one for the schema, one per dictionary, one per block.
//!
//! A whole block of a chunk is sent as it is stored in the file, header and columns, without being inspected. The
//! encoder of arrow-flight is not used: it measures a batch by the capacity of its buffers, which for a slice of a
//! mapped file is the whole file, and splits it into tiny pieces.

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use prost::encoding::{encode_varint, encoded_len_varint};

use crate::egress::{OutputBuffer, batch_message, dictionary_messages};
use crate::error::{Error, Result};
use crate::format::ipc;
use crate::query::{Block, ResultSchema};

/// Maximum number of rows in a message with converted cells: conversion allocates memory, which a client that does not
/// read would hold.
const CONVERTED_ROWS_MAX: usize = 4096;
/// The same limit for cells converted to text, which needs several copies of more bytes.
const TEXT_ROWS_MAX: usize = 1024;

/// One `FlightData` to be sent, as the pieces it consists of: the body is not copied.
#[derive(Debug, Default)]
pub(super) struct FlightMessage {
    header: Bytes,
    metadata: Bytes,
    body: Vec<Bytes>,
}

/// Tag of `FlightData.data_header`: field 2, bytes.
const HEADER_TAG: u64 = 2 << 3 | 2;
/// Tag of `FlightData.app_metadata`: field 3, bytes.
const METADATA_TAG: u64 = 3 << 3 | 2;
/// Tag of `FlightData.data_body`: field 1000, bytes.
const BODY_TAG: u64 = 1000 << 3 | 2;

impl FlightMessage {
    /// A message of a header and a body.
    pub(super) fn new(header: Vec<u8>, body: Vec<Bytes>) -> Self {
        Self { header: header.into(), body, ..Self::default() }
    }

    /// A message with metadata only.
    pub(super) fn of_metadata(metadata: Vec<u8>) -> Self {
        Self { metadata: metadata.into(), ..Self::default() }
    }

    /// Writes the message in gRPC framing: a byte for "not compressed", the length in four bytes, then header, metadata
    /// and body as fields of the protobuf message `FlightData`.
    pub(super) fn write(self, out: &mut OutputBuffer) -> Result<()> {
        let body_bytes: usize = self.body.iter().map(Bytes::len).sum();
        let field = |tag, bytes: usize| {
            if bytes == 0 { 0 } else { encoded_len_varint(tag) + encoded_len_varint(bytes as u64) + bytes }
        };
        let bytes = field(HEADER_TAG, self.header.len())
            + field(METADATA_TAG, self.metadata.len())
            + field(BODY_TAG, body_bytes);
        let length = u32::try_from(bytes).map_err(|_| Error::internal("a message exceeds 4 GiB"))?;
        let open = out.open();
        open.push(0);
        open.extend_from_slice(&length.to_be_bytes());
        if !self.header.is_empty() {
            encode_varint(HEADER_TAG, open);
            encode_varint(self.header.len() as u64, open);
            open.extend_from_slice(&self.header);
        }
        if !self.metadata.is_empty() {
            encode_varint(METADATA_TAG, open);
            encode_varint(self.metadata.len() as u64, open);
            open.extend_from_slice(&self.metadata);
        }
        if body_bytes > 0 {
            encode_varint(BODY_TAG, open);
            encode_varint(body_bytes as u64, open);
        }
        for piece in self.body {
            out.push(piece);
        }
        Ok(())
    }
}

/// Encodes the blocks of one result.
#[derive(Debug)]
pub(super) struct FlightEncoder {
    shape: ResultSchema,
    schema: SchemaRef,
    /// Blocks are sent as stored.
    is_stored: bool,
    /// Some numbers are converted to text.
    has_text: bool,
}

impl FlightEncoder {
    pub(super) fn new(shape: &ResultSchema) -> Self {
        let (is_stored, has_text) = (shape.is_plain(), shape.has_numbers_as_text());
        Self { schema: shape.arrow_schema(), shape: shape.clone(), is_stored, has_text }
    }

    /// The messages before the rows.
    pub(super) fn head_messages(&self) -> Vec<FlightMessage> {
        let schema = FlightMessage { header: ipc::schema_header(&self.schema).into(), ..FlightMessage::default() };
        std::iter::once(schema).chain(dictionary_messages(&self.shape).map(message)).collect()
    }

    /// Maximum number of rows of a block for [`FlightEncoder::block_message`].
    pub(super) fn rows_max(&self) -> usize {
        match (self.is_stored, self.has_text) {
            (true, _) => usize::MAX,
            (false, false) => CONVERTED_ROWS_MAX,
            (false, true) => TEXT_ROWS_MAX,
        }
    }

    /// Fails unless the block has the columns of its result.
    pub(super) fn check(&self, block: &Block) -> Result<()> {
        if block.column_count() == self.shape.columns.len() + 1 {
            return Ok(());
        }
        Err(Error::internal(format!("a block of {} does not have the columns of its result", self.shape.title())))
    }

    /// The message of a block that passed the check. Reads mapped memory, so it must run on a blocking thread.
    pub(super) fn block_message(&self, block: &Block) -> FlightMessage {
        match block.message() {
            Some(stored) if self.is_stored => {
                FlightMessage { header: stored.header(), body: vec![stored.body()], ..FlightMessage::default() }
            }
            _ => message(batch_message(block.rows(), self.shape.column_buffers(block))),
        }
    }
}

fn message((header, body): (Vec<u8>, Vec<Bytes>)) -> FlightMessage {
    FlightMessage { header: header.into(), body, ..FlightMessage::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::tests as egress;
    use crate::query::{NumberFormat, StoredMessage};
    use crate::types::{ColumnCells, SeriesSpec, SharedCells};
    use arrow_flight::FlightData;
    use arrow_flight::utils::flight_data_to_batches;
    use prost::Message as _;

    fn shape(numbers: NumberFormat) -> ResultSchema {
        let spec: SeriesSpec = serde_json::from_str(
            r#"{"kind":"scalar","category":"c","symbol":"X","timeframe":"1m","name":"n","value":{"digits":2},
                "extra_columns":[{"name":"half","type":"float64"},{"name":"count","type":"int64"}]}"#,
        )
        .unwrap();
        ResultSchema::of(&spec.resolve().unwrap(), &[], None, numbers, 7, 9)
    }

    fn words(words: &[i64]) -> SharedCells {
        ColumnCells::from(words.to_vec()).into()
    }

    /// A message as decoded by a client.
    fn received(message: FlightMessage) -> FlightData {
        let mut out = OutputBuffer::default();
        message.write(&mut out).unwrap();
        let bytes = out.pieces().concat();
        let (prefix, message) = bytes.split_at(5);
        assert_eq!(prefix[0], 0, "not compressed");
        assert_eq!(u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize, message.len());
        FlightData::decode(message).unwrap()
    }

    fn block() -> Block {
        let half = [0.5_f64, -1.25, 3.0].map(|x| i64::from_ne_bytes(x.to_ne_bytes()));
        let columns = vec![words(&[1, 2, 3]), words(&[100, 250, -75]), words(&half), words(&[1, 2, 3])];
        Block::new(3, columns).unwrap()
    }

    #[test]
    fn every_number_format_is_decoded_by_arrow_as_encoded() {
        for numbers in [
            NumberFormat::Stored,
            NumberFormat::Float64,
            NumberFormat::Decimal128,
            NumberFormat::Raw,
            NumberFormat::String,
        ] {
            let shape = shape(numbers);
            let encoder = FlightEncoder::new(&shape);
            let messages = [encoder.head_messages().remove(0), encoder.block_message(&block())].map(received);
            let read = flight_data_to_batches(&messages).unwrap();
            let expected = shape.record_batch(&shape.arrow_schema(), &block()).unwrap();
            assert_eq!(read, vec![expected], "{numbers:?}");
            assert_eq!(read[0].schema().metadata()["fastk.commit"], "9");
        }
    }

    #[test]
    fn slices_of_a_large_buffer_are_sent_without_the_rest() {
        let large = words(&(0..100_000).collect::<Vec<_>>());
        let slice = |at: usize| large.packed_slice(at, 3);
        let block = Block::new(3, [5, 50, 500, 5_000].map(slice)).unwrap();
        let shape = shape(NumberFormat::Raw);
        let message = received(FlightEncoder::new(&shape).block_message(&block));
        assert_eq!(message.data_body.len(), 4 * ipc::ALIGNMENT);
    }

    #[test]
    fn a_whole_block_is_sent_as_stored_unless_numbers_are_converted() {
        let plain = received(FlightEncoder::new(&shape(NumberFormat::Stored)).block_message(&block()));
        // Longer than what is copied instead of sent as its own piece.
        let body = Bytes::from([plain.data_body.as_ref(), &[0; 32 * 1024]].concat());
        let framed = ipc::framed(&plain.data_header);
        let stored = Bytes::from([framed.as_slice(), &body].concat());
        let body = stored.slice(framed.len()..);
        let whole = block().stored_as(StoredMessage::new(stored, framed.len()));
        let mut out = OutputBuffer::default();
        FlightEncoder::new(&shape(NumberFormat::Stored)).block_message(&whole).write(&mut out).unwrap();
        assert_eq!(out.pieces()[1].as_ptr(), body.as_ptr(), "the body was copied");
        let sent = received(FlightEncoder::new(&shape(NumberFormat::Float64)).block_message(&whole));
        assert_ne!(sent.data_body, body);
    }

    #[test]
    fn dictionaries_come_before_the_rows_and_every_type_is_decoded() {
        for numbers in [NumberFormat::Stored, NumberFormat::String] {
            let shape = egress::typed_shape(numbers);
            let encoder = FlightEncoder::new(&shape);
            let mut messages = encoder.head_messages();
            assert_eq!(messages.len(), 3, "the schema, the values of the enum, the texts");
            messages.push(encoder.block_message(&egress::typed_block(5, 20)));
            let mut stream = Vec::new();
            for message in messages.into_iter().map(received) {
                stream.extend(ipc::framed(&message.data_header));
                stream.extend_from_slice(&message.data_body);
            }
            stream.extend(ipc::END_OF_STREAM);
            let mut reader = arrow::ipc::reader::StreamReader::try_new(stream.as_slice(), None).unwrap();
            egress::assert_typed(&reader.next().unwrap().unwrap(), 5);
        }
    }
}
