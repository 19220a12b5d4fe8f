//! Messages of a put become Arrow batches, carefully: nothing in them is believed.
//!
//! Lengths and offsets are checked before Arrow sees a message, the body is copied to aligned memory, and what
//! still panics inside Arrow is caught and becomes `schema_mismatch`. Compressed bodies and dictionaries are refused.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::ipc::convert::fb_to_schema;
use arrow::ipc::reader::read_record_batch;
use arrow::ipc::{MessageHeader, root_as_message};
use arrow::record_batch::RecordBatch;
use arrow_flight::FlightData;

use super::MESSAGE_BYTES_MAX;
use super::status::too_large;
use crate::error::{Error, ErrorCode, Result};
use crate::ingest::arrow_guard;

/// Most bytes of a schema message: far more than any series needs, also with pandas metadata.
const SCHEMA_BYTES_MAX: usize = 1024 * 1024;
/// Most columns a stream may announce.
const FIELDS_MAX: usize = 1024;

fn malformed(detail: impl Into<String>) -> Error {
    Error::new(ErrorCode::SchemaMismatch, detail)
}

/// Runs code of Arrow on outside bytes.
fn guarded<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(malformed(format!("the {what} is malformed"))))
}

/// Reads the first message of a put.
pub(super) fn schema(message: &FlightData) -> Result<SchemaRef> {
    if message.data_header.len() > SCHEMA_BYTES_MAX {
        return Err(Error::new(ErrorCode::TooLarge, format!("the schema is larger than {SCHEMA_BYTES_MAX} bytes")));
    }
    guarded("schema message", || {
        let root = root_as_message(&message.data_header)
            .map_err(|error| malformed(format!("the schema message cannot be read: {error}")))?;
        let schema = root.header_as_schema().ok_or_else(|| malformed("the first message is not a schema"))?;
        let fields = schema.fields().map_or(0, |fields| fields.len());
        if fields == 0 || fields > FIELDS_MAX {
            return Err(malformed(format!("the schema has {fields} columns, not 1 to {FIELDS_MAX}")));
        }
        Ok(Arc::new(fb_to_schema(schema)))
    })
}

/// Whether a message only carries metadata and no rows.
pub(super) fn is_bare(message: &FlightData) -> bool {
    message.data_header.is_empty() && message.data_body.is_empty()
}

/// Reads a record batch of a put.
pub(super) fn batch(message: &FlightData, schema: &SchemaRef) -> Result<RecordBatch> {
    if message.data_body.len() > MESSAGE_BYTES_MAX {
        return Err(too_large());
    }
    guarded("record batch", || {
        let header = message.data_header.as_ref();
        let root = root_as_message(header).map_err(|error| malformed(format!("a message cannot be read: {error}")))?;
        let batch = match root.header_type() {
            MessageHeader::RecordBatch => root.header_as_record_batch(),
            MessageHeader::DictionaryBatch => {
                return Err(malformed("dictionary columns are not accepted").with_hint("cast them to plain columns"));
            }
            _ => None,
        };
        let batch = batch.ok_or_else(|| malformed("a message is not a record batch"))?;
        arrow_guard::check_message(header, &message.data_body, schema)?;
        let body = Buffer::from_slice_ref(&message.data_body);
        read_record_batch(&body, batch, schema.clone(), &HashMap::new(), None, &root.version())
            .map_err(|error| malformed(format!("a record batch cannot be read: {error}")))
    })
}
