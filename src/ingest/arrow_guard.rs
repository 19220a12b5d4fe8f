//! Checks an Arrow IPC message before a decoder sees it.
//!
//! Decoders trust offsets and lengths in the message header: forged ones cause a panic, or an allocation that kills the
//! process. A message that passes has one node and the buffers of its type for each flat column, all within the body
//! and long enough for the rows; offsets ascend and stay within their data; nothing is compressed. Positions in a
//! dictionary are integers here: their reader checks each against the words it has.

use arrow::datatypes::{DataType, Field, Schema};
use arrow::ipc;

use super::guarded::guarded;
use crate::error::{Error, Result};
use crate::types::schema::BYTES_LENGTH_MAX;

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

/// Decodes a schema message. Returns the schema, and for each column the id of its dictionary.
///
/// # Errors
/// `invalid_argument` for other messages, and for columns that are nested or a dictionary of anything but strings.
pub fn schema_of(header: &[u8]) -> Result<(Schema, Vec<Option<i64>>)> {
    let message = message(header)?;
    let schema = message.header_as_schema().ok_or_else(|| broken("the stream does not start with its schema"))?;
    if schema.endianness() != ipc::Endianness::Little {
        return Err(broken("numbers are big-endian"));
    }
    if message.bodyLength() != 0 {
        return Err(broken("the schema message has a body"));
    }
    let fields = schema.fields().ok_or_else(|| broken("a schema without columns"))?;
    let mut ids = Vec::with_capacity(fields.len());
    for field in fields {
        let name = field.name().unwrap_or_default();
        if field.children().is_some_and(|children| !children.is_empty()) {
            return Err(Error::invalid(format!("arrow column {name:?} is nested")));
        }
        let is_index = |dictionary: ipc::DictionaryEncoding<'_>| dictionary.indexType().is_some_and(is_integer);
        if !has_known_type(field) || !field.dictionary().is_none_or(is_index) {
            return Err(broken(format!("column {name:?} has an unknown type")));
        }
        let is_text = matches!(field.type_type(), ipc::Type::Utf8 | ipc::Type::LargeUtf8 | ipc::Type::Utf8View);
        if field.dictionary().is_some() && !is_text {
            return Err(Error::invalid(format!("arrow column {name:?} is a dictionary of a type other than utf8"))
                .with_hint("decode the column before it is written"));
        }
        ids.push(field.dictionary().map(|dictionary| dictionary.id()));
    }
    guarded("arrow", || Ok((ipc::convert::fb_to_schema(schema), ids)))
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
        ipc::Type::FixedSizeBinary => {
            let is_width = |width: i32| (1..=i32::from(BYTES_LENGTH_MAX)).contains(&width);
            field.type_as_fixed_size_binary().map(|binary| is_width(binary.byteWidth()))
        }
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
        DataType::FixedSizeBinary(width) => u64::try_from(*width).ok(),
        _ => kind.primitive_width().and_then(|width| u64::try_from(width).ok()),
    }
}

/// Checks a record batch message against the schema of its stream, where dictionaries are positions: `header` is its
/// flatbuffer, `body` its buffers. The content of the column of strings at position `labels` is not checked.
///
/// # Errors
/// `invalid_argument` naming what is wrong.
pub fn check_message(header: &[u8], body: &[u8], schema: &Schema, labels: Option<usize>) -> Result<()> {
    let message = message(header)?;
    let batch = match message.header_type() {
        ipc::MessageHeader::RecordBatch => message.header_as_record_batch(),
        ipc::MessageHeader::DictionaryBatch => return Err(broken("a dictionary in place of a record batch")),
        ipc::MessageHeader::Schema => return Err(broken("a second schema")),
        _ => return Err(broken("a message that is not a record batch")),
    };
    let fields: Vec<&Field> = schema.fields().iter().map(AsRef::as_ref).collect();
    check_batch(&message, batch, body, &fields, labels)
}

/// Checks a dictionary message whose words are of this field.
///
/// # Errors
/// As [`check_message`].
pub fn check_dictionary(header: &[u8], body: &[u8], words: &Field) -> Result<()> {
    let message = message(header)?;
    let batch = message.header_as_dictionary_batch().and_then(|dictionary| dictionary.data());
    check_batch(&message, batch, body, &[words], None)
}

/// The buffers of a batch, in the order of the columns.
struct BatchBuffers<'b, I> {
    next: I,
    body: &'b [u8],
}

impl<'b, 'f: 'b, I: Iterator<Item = &'f ipc::Buffer>> BatchBuffers<'b, I> {
    /// The next buffer, of at least `needed` bytes.
    fn take(&mut self, column: &str, what: &str, needed: Option<u64>) -> Result<&'b [u8]> {
        let wrong = |detail: String| broken(format!("column {column:?}: {detail}"));
        let buffer = self.next.next().ok_or_else(|| wrong("a buffer is missing".into()))?;
        let offset = unsigned("buffer offset", buffer.offset())?;
        let length = unsigned("buffer length", buffer.length())?;
        let end = offset.checked_add(length).and_then(|end| usize::try_from(end).ok());
        let range = usize::try_from(offset).ok().zip(end).map(|(offset, end)| offset..end);
        let bytes = range.and_then(|range| self.body.get(range));
        let bytes = bytes.ok_or_else(|| wrong(format!("its {what} buffer leaves the body")))?;
        if needed.is_none_or(|needed| length < needed) {
            return Err(wrong(format!("its {what} buffer is too short for its rows")));
        }
        Ok(bytes)
    }
}

fn unsigned(what: &str, value: i64) -> Result<u64> {
    u64::try_from(value).map_err(|_| broken(format!("a negative {what}")))
}

fn check_batch(
    message: &ipc::Message<'_>,
    batch: Option<ipc::RecordBatch<'_>>,
    body: &[u8],
    columns: &[&Field],
    labels: Option<usize>,
) -> Result<()> {
    let batch = batch.ok_or_else(|| broken("an empty message"))?;
    if batch.compression().is_some() {
        return Err(Error::invalid("arrow bodies with compressed buffers are not supported")
            .with_hint("write the stream without compression, or compress the whole body by gzip or zstd"));
    }
    if unsigned("body length", message.bodyLength())? > body.len() as u64 {
        return Err(broken("the body is shorter than its header says"));
    }
    let rows = unsigned("row count", batch.length())?;
    let (Some(nodes), Some(buffers)) = (batch.nodes(), batch.buffers()) else {
        return Err(broken("a record batch without nodes or buffers"));
    };
    // Columns of views have any number of buffers, which are counted apart.
    let is_view = |column: &&&Field| matches!(column.data_type(), DataType::Utf8View | DataType::BinaryView);
    let mut data_counts = Vec::new();
    for count in batch.variadicBufferCounts().iter().flatten() {
        let count = unsigned("buffer count", count)?;
        if count > buffers.len() as u64 {
            return Err(broken("more variadic buffers than buffers"));
        }
        data_counts.push(count);
    }
    let offset_columns = columns.iter().filter(|column| offset_bytes(column.data_type()).is_some()).count() as u64;
    let data_buffers = data_counts.iter().fold(0, |sum: u64, count| sum.saturating_add(*count));
    // A column of nulls alone has no buffer.
    let null_columns = columns.iter().filter(|column| column.data_type() == &DataType::Null).count() as u64;
    let expected = (2 * (columns.len() as u64 - null_columns) + offset_columns).saturating_add(data_buffers);
    let has_counts = data_counts.len() == columns.iter().filter(is_view).count();
    if nodes.len() != columns.len() || buffers.len() as u64 != expected || !has_counts {
        return Err(broken(format!(
            "{} columns, but {} nodes and {} buffers",
            columns.len(),
            nodes.len(),
            buffers.len()
        )));
    }
    let mut buffers = BatchBuffers { next: buffers.iter(), body };
    let mut data_counts = data_counts.into_iter();
    for (at, (column, node)) in columns.iter().zip(nodes).enumerate() {
        let name = column.name();
        let wrong = |what: &str| broken(format!("column {name:?}: {what}"));
        let nulls = unsigned("null count", node.null_count())?;
        if unsigned("node length", node.length())? != rows || nulls > rows {
            return Err(wrong("its node contradicts the row count"));
        }
        if column.data_type() == &DataType::Null {
            continue;
        }
        let validity = if nulls == 0 { 0 } else { rows.div_ceil(8) };
        buffers.take(name, "validity", Some(validity))?;
        let kind = column.data_type();
        if let Some(width) = offset_bytes(kind) {
            let needed = if rows == 0 { Some(0) } else { rows.checked_add(1).and_then(|ends| ends.checked_mul(width)) };
            let offsets = buffers.take(name, "offsets", needed)?;
            let data = buffers.take(name, "data", Some(0))?;
            if labels != Some(at) && rows > 0 && !are_offsets(offsets, width, rows, data.len()) {
                return Err(wrong("its offsets leave its data"));
            }
            continue;
        }
        let needed = match kind {
            DataType::Boolean => Some(rows.div_ceil(8)),
            DataType::Utf8View | DataType::BinaryView => rows.checked_mul(16),
            kind => rows.checked_mul(cell_bytes(kind).ok_or_else(|| wrong("a type that no column takes"))?),
        };
        buffers.take(name, "values", needed)?;
        if is_view(&column) {
            for _ in 0..data_counts.next().unwrap_or(0) {
                buffers.take(name, "data", Some(0))?;
            }
        }
    }
    Ok(())
}

/// Bytes of an offset, for types whose cells lie between two of them.
fn offset_bytes(kind: &DataType) -> Option<u64> {
    match kind {
        DataType::Utf8 | DataType::Binary => Some(4),
        DataType::LargeUtf8 | DataType::LargeBinary => Some(8),
        _ => None,
    }
}

/// Whether the offsets of so many rows ascend and end within their data.
fn are_offsets(offsets: &[u8], width: u64, rows: u64, data: usize) -> bool {
    fn ascend(ends: impl Iterator<Item = i64>, rows: u64, data: usize) -> bool {
        let (mut last, mut count) = (0, 0_u64);
        for end in ends {
            if end < last {
                return false;
            }
            (last, count) = (end, count + 1);
        }
        count == rows + 1 && usize::try_from(last).is_ok_and(|last| last <= data)
    }
    let count = usize::try_from(rows).unwrap_or(usize::MAX).saturating_add(1);
    if width == 4 {
        let ends = offsets.as_chunks().0.iter().take(count);
        ascend(ends.map(|end| i32::from_le_bytes(*end).into()), rows, data)
    } else {
        let ends = offsets.as_chunks().0.iter().take(count);
        ascend(ends.map(|end| i64::from_le_bytes(*end)), rows, data)
    }
}
