//! Checks an Arrow IPC message before a decoder sees it.
//!
//! Decoders trust offsets and lengths in the message header: forged ones cause a panic, or an allocation that kills the
//! process. A message that passes has one node and two buffers for each flat, fixed-width column, all within the body
//! and long enough for the rows, no compression and no dictionary.

use arrow::datatypes::{DataType, Schema};
use arrow::ipc;

use super::guarded::guarded;
use crate::error::{Error, Result};

fn broken(detail: impl AsRef<str>) -> Error {
    Error::invalid(format!("arrow body is malformed: {}", detail.as_ref()))
}

/// Verifies a message header (a flatbuffer, without the stream's length prefix).
///
/// # Errors
/// `invalid_argument`.
pub fn message(header: &[u8]) -> Result<ipc::Message<'_>> {
    // The verifier bounds depth and number of tables.
    ipc::root_as_message(header).map_err(|error| broken(format!("message header: {error}")))
}

/// Decodes a schema message.
///
/// # Errors
/// `invalid_argument` for other messages, and for columns that are nested or a dictionary.
pub fn schema_of(header: &[u8]) -> Result<Schema> {
    read_schema(header, None).map(|(schema, _)| schema)
}

/// Decodes a schema message whose column `labels` may be a dictionary; returns the schema and the dictionary's id.
///
/// # Errors
/// As [`schema_of`].
pub fn schema_of_labelled(header: &[u8], labels: &str) -> Result<(Schema, Option<i64>)> {
    read_schema(header, Some(labels))
}

fn read_schema(header: &[u8], labels: Option<&str>) -> Result<(Schema, Option<i64>)> {
    let mut id = None;
    let message = message(header)?;
    let schema = message.header_as_schema().ok_or_else(|| broken("the stream does not start with its schema"))?;
    if schema.endianness() != ipc::Endianness::Little {
        return Err(broken("numbers are big-endian"));
    }
    if message.bodyLength() != 0 {
        return Err(broken("the schema message has a body"));
    }
    let fields = schema.fields().ok_or_else(|| broken("a schema without columns"))?;
    for field in fields {
        let name = field.name().unwrap_or_default();
        if let (Some(dictionary), true) = (field.dictionary(), labels == Some(name)) {
            id = Some(dictionary.id());
        } else if field.dictionary().is_some() {
            return Err(Error::invalid(format!("arrow column {name:?} is a dictionary")));
        }
        if field.children().is_some_and(|children| !children.is_empty()) {
            return Err(Error::invalid(format!("arrow column {name:?} is nested")));
        }
        let is_index = |dictionary: ipc::DictionaryEncoding<'_>| dictionary.indexType().is_some_and(is_integer);
        if !has_known_type(field) || !field.dictionary().is_none_or(is_index) {
            return Err(broken(format!("column {name:?} has an unknown type")));
        }
    }
    guarded("arrow", || Ok((ipc::convert::fb_to_schema(schema), id)))
}

fn is_integer(int: ipc::Int<'_>) -> bool {
    matches!(int.bitWidth(), 8 | 16 | 32 | 64)
}

/// Whether the decoder knows the flat type of a field; it panics on unknown types.
fn has_known_type(field: ipc::Field<'_>) -> bool {
    let is_unit = |unit: ipc::TimeUnit| unit.variant_name().is_some();
    let known = match field.type_type() {
        ipc::Type::Null | ipc::Type::Bool => Some(true),
        ipc::Type::Binary | ipc::Type::BinaryView | ipc::Type::LargeBinary => Some(true),
        ipc::Type::Utf8 | ipc::Type::Utf8View | ipc::Type::LargeUtf8 => Some(true),
        ipc::Type::Int => field.type_as_int().map(is_integer),
        ipc::Type::FixedSizeBinary => field.type_as_fixed_size_binary().map(|_| true),
        ipc::Type::FloatingPoint => field.type_as_floating_point().map(|t| t.precision().variant_name().is_some()),
        ipc::Type::Date => field.type_as_date().map(|t| t.unit().variant_name().is_some()),
        ipc::Type::Time => field.type_as_time().map(|time| match time.unit() {
            ipc::TimeUnit::SECOND | ipc::TimeUnit::MILLISECOND => time.bitWidth() == 32,
            unit => is_unit(unit) && time.bitWidth() == 64,
        }),
        ipc::Type::Timestamp => field.type_as_timestamp().map(|t| is_unit(t.unit())),
        ipc::Type::Duration => field.type_as_duration().map(|t| is_unit(t.unit())),
        ipc::Type::Interval => field.type_as_interval().map(|t| t.unit().variant_name().is_some()),
        ipc::Type::Decimal => field.type_as_decimal().map(|decimal| {
            let digits_max = match decimal.bitWidth() {
                32 => 9,
                64 => 18,
                128 => 38,
                256 => 76,
                _ => 0,
            };
            let (precision, scale) = (decimal.precision(), decimal.scale());
            (1..=digits_max).contains(&precision) && (-digits_max..=precision).contains(&scale)
        }),
        _ => None,
    };
    known.unwrap_or(false)
}

/// Bytes of a cell, for the accepted types.
fn cell_bytes(kind: &DataType) -> Option<u64> {
    match kind {
        DataType::Decimal32(..) => Some(4),
        DataType::Decimal64(..) => Some(8),
        DataType::Decimal128(..) => Some(16),
        DataType::Decimal256(..) => Some(32),
        _ => kind.primitive_width().and_then(|width| u64::try_from(width).ok()),
    }
}

/// Checks a record batch message against the schema of its stream: `header` is its flatbuffer, `body` its buffers.
///
/// # Errors
/// `invalid_argument` naming what is wrong.
pub fn check_message(header: &[u8], body: &[u8], schema: &Schema) -> Result<()> {
    check_batch(header, body, schema, None)
}

/// Like [`check_message`] for a stream with a column of strings, or of positions in a dictionary, at position `labels`.
/// Its buffers must lie within the body; their content is not checked.
///
/// # Errors
/// As [`check_message`].
pub fn check_labelled(header: &[u8], body: &[u8], schema: &Schema, labels: usize) -> Result<()> {
    check_batch(header, body, schema, Some(labels))
}

fn check_batch(header: &[u8], body: &[u8], schema: &Schema, labels: Option<usize>) -> Result<()> {
    let message = message(header)?;
    let batch = match message.header_type() {
        ipc::MessageHeader::RecordBatch => message.header_as_record_batch(),
        ipc::MessageHeader::DictionaryBatch => return Err(Error::invalid("arrow dictionaries are not supported")),
        ipc::MessageHeader::Schema => return Err(broken("a second schema")),
        _ => return Err(broken("a message that is not a record batch")),
    };
    let batch = batch.ok_or_else(|| broken("an empty message"))?;
    if batch.compression().is_some() {
        return Err(Error::invalid("arrow bodies with compressed buffers are not supported")
            .with_hint("write the stream without compression, or compress the whole body by gzip or zstd"));
    }
    if batch.variadicBufferCounts().is_some_and(|counts| !counts.is_empty()) {
        return Err(broken("variadic buffers"));
    }
    let unsigned = |what: &str, value: i64| u64::try_from(value).map_err(|_| broken(format!("a negative {what}")));
    let body_bytes = body.len() as u64;
    if unsigned("body length", message.bodyLength())? > body_bytes {
        return Err(broken("the body is shorter than its header says"));
    }
    let rows = unsigned("row count", batch.length())?;
    let (Some(nodes), Some(buffers)) = (batch.nodes(), batch.buffers()) else {
        return Err(broken("a record batch without nodes or buffers"));
    };
    let columns = schema.fields();
    let is_string =
        |at: usize| labels == Some(at) && matches!(schema.field(at).data_type(), DataType::Utf8 | DataType::LargeUtf8);
    let expected = 2 * columns.len() + usize::from(labels.is_some_and(is_string));
    if nodes.len() != columns.len() || buffers.len() != expected {
        return Err(broken(format!(
            "{} columns, but {} nodes and {} buffers",
            columns.len(),
            nodes.len(),
            buffers.len()
        )));
    }
    let mut buffers = buffers.iter();
    for (at, (column, node)) in columns.iter().zip(nodes).enumerate() {
        let name = column.name();
        let wrong = |what: &str| broken(format!("column {name:?}: {what}"));
        let nulls = unsigned("null count", node.null_count())?;
        if unsigned("node length", node.length())? != rows || nulls > rows {
            return Err(wrong("its node contradicts the row count"));
        }
        let validity = if nulls == 0 { 0 } else { rows.div_ceil(8) };
        let offsets = |width: u64| if rows == 0 { Some(0) } else { rows.checked_add(1)?.checked_mul(width) };
        let values = match column.data_type() {
            DataType::Utf8 if is_string(at) => offsets(4),
            DataType::LargeUtf8 if is_string(at) => offsets(8),
            DataType::Dictionary(index, _) if labels == Some(at) => {
                cell_bytes(index).and_then(|width| rows.checked_mul(width))
            }
            kind => rows.checked_mul(cell_bytes(kind).ok_or_else(|| wrong("not a fixed-width number"))?),
        };
        let text = is_string(at).then_some(("text", Some(0)));
        for (what, needed) in [("validity", Some(validity)), ("values", values)].into_iter().chain(text) {
            let buffer = buffers.next().ok_or_else(|| wrong("a buffer is missing"))?;
            let offset = unsigned("buffer offset", buffer.offset())?;
            let length = unsigned("buffer length", buffer.length())?;
            if offset.checked_add(length).is_none_or(|end| end > body_bytes) {
                return Err(wrong(&format!("its {what} buffer leaves the body")));
            }
            if needed.is_none_or(|needed| length < needed) {
                return Err(wrong(&format!("its {what} buffer is too short for {rows} rows")));
            }
        }
    }
    Ok(())
}
