//! Decodes messages of a put into Arrow batches without trusting their contents.
//!
//! Lengths and offsets are checked before Arrow reads a message, and a panic inside Arrow becomes `invalid_argument`.
//! Compressed bodies are rejected. Cells are copied to aligned memory; columns of 64-bit cells are
//! copied to buffers of their own, which the rows to be written take over.

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::array::{ArrayData, make_array};
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::ipc;
use arrow::ipc::root_as_message;
use arrow::record_batch::RecordBatch;
use arrow_flight::FlightData;

use crate::error::{Error, ErrorCode, Result};
use crate::ingest::{ArrowDecoder, ArrowRows, arrow_guard};

/// Maximum size of a schema message: far more than any series needs, also with pandas metadata.
const SCHEMA_BYTES_MAX: usize = 1024 * 1024;
/// Maximum number of columns of a stream.
const COLUMNS_MAX: usize = 1024;

fn malformed(detail: impl Into<String>) -> Error {
    Error::invalid(detail)
}

/// Runs Arrow code on untrusted bytes.
fn guarded<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(malformed(format!("the {what} is malformed"))))
}

/// Decodes the first message of a put.
pub(super) fn schema(message: &FlightData) -> Result<ArrowDecoder> {
    if message.data_header.len() > SCHEMA_BYTES_MAX {
        return Err(Error::new(ErrorCode::TooLarge, format!("the schema is larger than {SCHEMA_BYTES_MAX} bytes")));
    }
    let decoder = ArrowDecoder::new(&message.data_header)?;
    let columns = decoder.schema().fields().len();
    if columns == 0 || columns > COLUMNS_MAX {
        return Err(malformed(format!("the schema has {columns} columns, not 1 to {COLUMNS_MAX}")));
    }
    Ok(decoder)
}

/// Takes the words of a dictionary; whether the message is one.
pub(super) fn dictionary(message: &FlightData, decoder: &mut ArrowDecoder) -> Result<bool> {
    let is_dictionary = ArrowDecoder::is_dictionary(&message.data_header)?;
    if is_dictionary {
        decoder.take_dictionary(&message.data_header, &message.data_body)?;
    }
    Ok(is_dictionary)
}

/// Whether a message has metadata only.
pub(super) fn is_metadata_only(message: &FlightData) -> bool {
    message.data_header.is_empty() && message.data_body.is_empty()
}

/// Row count in the header of a record batch; [`batch`] checks it against the buffers.
pub(super) fn rows(message: &FlightData) -> Result<u64> {
    let batch = arrow_guard::message(&message.data_header)?;
    let rows = batch.header_as_record_batch().map_or(0, |batch| batch.length());
    u64::try_from(rows).map_err(|_| malformed("the record batch has a negative row count"))
}

/// Decodes a record batch of a put.
pub(super) fn batch(message: &FlightData, decoder: &ArrowDecoder) -> Result<ArrowRows> {
    let header = message.data_header.as_ref();
    if decoder.has_dictionaries() {
        return decoder.decode_batch(header, &message.data_body);
    }
    arrow_guard::check_message(header, &message.data_body, decoder.schema(), None)?;
    let columns = guarded("record batch", || {
        let root =
            root_as_message(header).map_err(|error| malformed(format!("a message cannot be decoded: {error}")))?;
        let batch = root.header_as_record_batch().ok_or_else(|| malformed("a message is not a record batch"))?;
        Ok(word_columns(batch, &message.data_body, decoder.schema()))
    })?;
    match columns {
        Some(batch) => decoder.rows(batch, None),
        None => decoder.decode_batch(header, &message.data_body),
    }
}

/// A checked batch whose cells are all present and have 64 bits.
fn word_columns(batch: ipc::RecordBatch<'_>, body: &[u8], schema: &SchemaRef) -> Option<RecordBatch> {
    let rows = usize::try_from(batch.length()).ok()?;
    let (nodes, buffers) = (batch.nodes()?, batch.buffers()?);
    let mut columns = Vec::with_capacity(nodes.len());
    for (at, (field, node)) in schema.fields().iter().zip(nodes).enumerate() {
        let kind = field.data_type();
        if kind.primitive_width() != Some(size_of::<i64>()) || node.null_count() != 0 || buffers.len() <= 2 * at + 1 {
            return None;
        }
        let from = usize::try_from(buffers.get(2 * at + 1).offset()).ok()?;
        let bytes = body.get(from..from.checked_add(rows.checked_mul(size_of::<i64>())?)?)?;
        let words: Vec<i64> = bytes.as_chunks().0.iter().map(|word| i64::from_le_bytes(*word)).collect();
        let data = ArrayData::builder(kind.clone()).len(rows).add_buffer(Buffer::from_vec(words)).build().ok()?;
        columns.push(make_array(data));
    }
    RecordBatch::try_new(schema.clone(), columns).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use arrow::array::{Float64Array, Int64Array};
    use arrow::datatypes::{DataType, Field, Schema};
    use arrow_flight::utils::batches_to_flight_data;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    fn messages() -> Vec<FlightData> {
        let schema =
            Schema::new(vec![Field::new("ts", DataType::Int64, false), Field::new("value", DataType::Float64, true)]);
        let ts = Int64Array::from_iter_values(0..100);
        let value: Float64Array = (0..100).map(|n| (n % 7 > 0).then_some(f64::from(n))).collect();
        let batch = RecordBatch::try_new(Arc::new(schema.clone()), vec![Arc::new(ts), Arc::new(value)]).unwrap();
        batches_to_flight_data(&schema, vec![batch]).unwrap()
    }

    #[test]
    fn a_valid_stream_is_decoded() {
        let messages = messages();
        let schema = schema(&messages[0]).unwrap();
        assert_eq!(batch(&messages[1], &schema).unwrap().rows(), 100);
        assert!(super::schema(&messages[1]).is_err());
        assert!(batch(&messages[0], &schema).is_err());
    }

    #[test]
    fn damaged_messages_are_rejected_or_decoded_but_never_panic() {
        let good = messages();
        let schema = schema(&good[0]).unwrap();
        let seed = rand::random::<u64>();
        let mut random = StdRng::seed_from_u64(seed);
        let mut rejected = 0;
        let rounds = 20_000;
        for round in 0..rounds {
            let at = round % 2;
            let mut message = good[at].clone();
            let mut header = message.data_header.to_vec();
            for _ in 0..random.random_range(1..4) {
                if random.random_bool(0.5) {
                    let byte = random.random_range(0..header.len());
                    header[byte] = random.random();
                } else {
                    let word = random.random_range(0..header.len() / 8) * 8;
                    header[word..word + 8].copy_from_slice(&random.random_range(-1..=i64::MAX).to_le_bytes());
                }
            }
            message.data_header = header.into();
            let read = if at == 0 { super::schema(&message).map(|_| ()) } else { batch(&message, &schema).map(|_| ()) };
            rejected += usize::from(read.is_err());
        }
        assert!(rejected > rounds / 4, "seed {seed}: only {rejected} rejected");
    }
}
