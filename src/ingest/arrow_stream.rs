//! Arrow IPC bodies: messages are walked, checked and decoded one by one. A file has the messages of a stream between its
//! magic and its footer.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::ipc;

use crate::error::{Error, ErrorCode, Result};
use crate::types::{SeriesDef, SeriesKey};

use super::arrow_guard;
use super::arrow_messages::ArrowDecoder;
use super::arrow_rows::{ArrowRows, plain_schema};
use super::batch_splitter::BatchSplitter;
use super::body_keys::{BodyKeys, SERIES, no_series_column};
use super::columns::{ColumnReader, check_schema};
use super::guarded::guarded;
use super::memory::{Reservation, grow_rows};
use super::options::DecodeOptions;
use super::parsed::Part;

const CONTINUATION: [u8; 4] = [0xff; 4];

/// Maximum number of words in the dictionary of a series column.
const WORDS_MAX: usize = 1_000_000;

fn cut() -> Error {
    Error::invalid("arrow body is truncated").with_hint("an Arrow IPC stream ends with its end-of-stream marker")
}

/// The item at a position of the stream.
enum StreamStep<'b> {
    /// Header flatbuffer and body of a message.
    Message(&'b [u8], &'b [u8]),
    End,
}

/// First and last bytes of a file.
const FILE_MAGIC: &[u8] = b"ARROW1";
/// Most zeros after the first magic: writers align the first message to 8 or to 64 bytes.
const PADDING_MAX: usize = 64 - FILE_MAGIC.len();

/// Walks the messages of a stream, or of a file.
struct StreamWalker<'b> {
    rest: &'b [u8],
    is_file: bool,
    /// Record batches so far.
    batches: usize,
}

impl<'b> StreamWalker<'b> {
    fn new(body: &'b [u8]) -> Self {
        let Some(padded) = body.strip_prefix(FILE_MAGIC) else {
            return Self { rest: body, is_file: false, batches: 0 };
        };
        let zeros = padded.iter().take(PADDING_MAX).take_while(|byte| **byte == 0).count();
        Self { rest: padded.get(zeros..).unwrap_or_default(), is_file: true, batches: 0 }
    }

    fn take(&mut self, bytes: usize) -> Result<&'b [u8]> {
        let (head, rest) = self.rest.split_at_checked(bytes).ok_or_else(cut)?;
        self.rest = rest;
        Ok(head)
    }

    fn take_length(&mut self) -> Result<[u8; 4]> {
        self.take(4)?.try_into().map_err(|_| cut())
    }

    fn next(&mut self) -> Result<StreamStep<'b>> {
        let mut length = self.take_length()?;
        if length == CONTINUATION {
            length = self.take_length()?;
        }
        let length = i32::from_le_bytes(length);
        if length == 0 {
            return Ok(StreamStep::End);
        }
        let length =
            usize::try_from(length).map_err(|_| Error::invalid("arrow body is malformed: a negative length"))?;
        let header = self.take(length)?;
        let message = arrow_guard::message(header)?;
        self.batches += usize::from(message.header_type() == ipc::MessageHeader::RecordBatch);
        let body = usize::try_from(message.bodyLength())
            .map_err(|_| Error::invalid("arrow body is malformed: a negative body length"))?;
        Ok(StreamStep::Message(header, self.take(body)?))
    }
}

/// The header of the schema message, and a walker over the messages that follow.
fn open(body: &[u8]) -> Result<(&[u8], StreamWalker<'_>)> {
    let mut walker = StreamWalker::new(body);
    let StreamStep::Message(header, _) = walker.next()? else {
        return Err(Error::invalid("arrow body has no schema"));
    };
    Ok((header, walker))
}

fn check_end(walker: &StreamWalker<'_>) -> Result<()> {
    if walker.is_file {
        return check_footer(walker);
    }
    if !walker.rest.is_empty() {
        return Err(Error::invalid(format!("arrow body has {} bytes after its end", walker.rest.len())));
    }
    Ok(())
}

/// Checks that the footer of a file lists as many record batches as were read: readers of files follow the footer.
fn check_footer(walker: &StreamWalker<'_>) -> Result<()> {
    let broken = || Error::invalid("the footer of the arrow file is damaged").with_hint("send it as an Arrow stream");
    let (footer, _) = walker
        .rest
        .strip_suffix(FILE_MAGIC)
        .and_then(|rest| rest.split_last_chunk())
        .filter(|(footer, length)| usize::try_from(i32::from_le_bytes(**length)) == Ok(footer.len()))
        .ok_or_else(broken)?;
    let footer = guarded("arrow", || ipc::root_as_footer(footer).map_err(|_| broken()))?;
    let listed = footer.recordBatches().map_or(0, |blocks| blocks.len());
    if listed != walker.batches {
        let detail =
            format!("the footer of the arrow file lists {listed} record batches, {} were read", walker.batches);
        return Err(Error::invalid(detail).with_hint("send it as an Arrow stream"));
    }
    Ok(())
}

/// Reserves memory for all rows of a stream, by the row counts in its message headers, which are checked against the
/// buffers before decoding. Columns can share buffers, so the number of cells does not follow from the size of the
/// body.
pub(super) fn reserve(body: &[u8], def: Option<&SeriesDef>, reservation: &mut Reservation) -> Result<()> {
    let unsigned =
        |value: i64| u64::try_from(value).map_err(|_| Error::invalid("arrow body is malformed: a negative row count"));
    let (header, mut walker) = open(body)?;
    let schema = arrow_guard::message(header)?;
    let columns = schema.header_as_schema().and_then(|schema| schema.fields()).map_or(0, |fields| fields.len());
    let mut longest_bytes = 0;
    while let StreamStep::Message(header, buffers) = walker.next()? {
        let message = arrow_guard::message(header)?;
        if let Some(batch) = message.header_as_record_batch() {
            grow_rows(reservation, def, unsigned(batch.length())?, columns as u64)?;
        } else if let Some(words) = message.header_as_dictionary_batch().and_then(|found| found.data()) {
            reservation.grow_cells(unsigned(words.length())?)?;
            reservation.grow(buffers.len() as u64)?;
        }
        // Each message is copied before it is decoded.
        let copy = (buffers.len() as u64).saturating_sub(longest_bytes);
        reservation.grow(copy)?;
        longest_bytes += copy;
    }
    Ok(())
}

/// Decodes an Arrow stream.
pub(super) fn parse(def: &SeriesDef, body: &[u8], options: &DecodeOptions) -> Result<Part> {
    let (header, mut walker) = open(body)?;
    let mut decoder = ArrowDecoder::new(header)?;
    check_schema(def, decoder.schema())?;
    let mut columns = ColumnReader::new(def, options);
    while let StreamStep::Message(header, buffers) = walker.next()? {
        if ArrowDecoder::is_dictionary(header)? {
            decoder.take_dictionary(header, buffers)?;
            continue;
        }
        let batch = decoder.decode(header, buffers, None, None)?;
        guarded("arrow", || columns.add(batch))?;
    }
    check_end(&walker)?;
    Ok(columns.into_parts())
}

/// The column with the series of each row: schema, position and dictionary id.
struct KeyColumn {
    schema: SchemaRef,
    /// The schema with the type of the positions in place of each dictionary.
    plain: Schema,
    at: usize,
    ids: Vec<Option<i64>>,
}

impl KeyColumn {
    fn of(header: &[u8]) -> Result<Self> {
        let (schema, ids) = arrow_guard::schema_of(header)?;
        let is_series = |field: &&usize| schema.field(**field).name() == SERIES;
        let positions: Vec<usize> = (0..schema.fields().len()).collect();
        let found: Vec<usize> = positions.iter().filter(is_series).copied().collect();
        let at = match found.as_slice() {
            [] => return Err(no_series_column()),
            [only] => *only,
            _ => return Err(Error::new(ErrorCode::SchemaMismatch, "column \"series\" is listed twice")),
        };
        let is_text = |kind: &DataType| matches!(kind, DataType::Utf8 | DataType::LargeUtf8);
        let kind = schema.field(at).data_type();
        let fits = match kind {
            DataType::Dictionary(index, words) => index.is_dictionary_key_type() && is_text(words),
            kind => is_text(kind),
        };
        if !fits {
            let detail = format!("column series is {kind}, not utf8, large_utf8 or a dictionary of those");
            return Err(Error::new(ErrorCode::SchemaMismatch, detail)
                .with_hint("Polars: write_ipc_stream(…, compat_level=pl.CompatLevel.oldest())"));
        }
        Ok(Self { plain: plain_schema(&schema), schema: Arc::new(schema), at, ids })
    }

    /// Position of its validity among the buffers of a batch.
    fn first_buffer(&self, batch: &ipc::RecordBatch<'_>) -> Result<usize> {
        let mut data_counts = batch.variadicBufferCounts().into_iter().flatten();
        let mut first = 0;
        for field in self.plain.fields().iter().take(self.at) {
            first += match field.data_type() {
                DataType::Utf8 | DataType::Binary | DataType::LargeUtf8 | DataType::LargeBinary => 3,
                DataType::Utf8View | DataType::BinaryView => {
                    let count = data_counts.next().and_then(|count| usize::try_from(count).ok());
                    2 + count.ok_or_else(|| broken("a buffer count is missing"))?
                }
                _ => 2,
            };
        }
        Ok(first)
    }

    /// Whether a dictionary message has words of this column; those of others are not read here.
    fn owns(&self, header: &[u8]) -> Result<bool> {
        let message = arrow_guard::message(header)?;
        let found = message.header_as_dictionary_batch().map(|found| found.id());
        if !self.ids.contains(&found) {
            return Err(Error::invalid("the arrow body has a dictionary that does not belong to a column"));
        }
        Ok(self.ids.get(self.at).is_some_and(|id| *id == found))
    }

    fn kind(&self) -> &DataType {
        self.schema.field(self.at).data_type()
    }
}

fn broken(what: &str) -> Error {
    Error::invalid(format!("arrow body is malformed: column series: {what}"))
}

/// A buffer of a batch, within the body.
fn buffer<'b>(batch: &ipc::RecordBatch<'_>, position: usize, body: &'b [u8]) -> Result<&'b [u8]> {
    let found = batch.buffers().filter(|buffers| position < buffers.len()).map(|buffers| *buffers.get(position));
    let found = found.ok_or_else(|| broken("a buffer is missing"))?;
    let (offset, length) = (usize::try_from(found.offset()), usize::try_from(found.length()));
    let (Ok(offset), Ok(length)) = (offset, length) else { return Err(broken("a negative buffer")) };
    body.get(offset..).and_then(|rest| rest.get(..length)).ok_or_else(|| broken("a buffer leaves the body"))
}

/// Little-endian integers of `width` bytes. Unsigned integers of 8 bytes are returned as their bits.
fn integers(bytes: &[u8], width: usize, is_signed: bool) -> impl Iterator<Item = i64> {
    bytes.chunks_exact(width.max(1)).map(move |cell| {
        let fill = if is_signed && cell.last().is_some_and(|last| last & 0x80 != 0) { 0xff } else { 0 };
        let mut wide = [fill; 8];
        for (to, from) in wide.iter_mut().zip(cell) {
            *to = *from;
        }
        i64::from_le_bytes(wide)
    })
}

/// Strings of a column, as slices of the body.
fn words<'b>(
    batch: &ipc::RecordBatch<'_>,
    first: usize,
    rows: usize,
    kind: &DataType,
    body: &'b [u8],
) -> Result<Vec<&'b [u8]>> {
    if rows == 0 {
        return Ok(Vec::new());
    }
    let width = if kind == &DataType::LargeUtf8 { 8 } else { 4 };
    let (offsets, text) = (buffer(batch, first + 1, body)?, buffer(batch, first + 2, body)?);
    let mut ends = integers(offsets, width, true).map(usize::try_from);
    let mut next = || ends.next().and_then(Result::ok).ok_or_else(|| broken("bad offsets"));
    let mut from = next()?;
    let mut all = Vec::with_capacity(rows.min(offsets.len()));
    for _ in 0..rows {
        let to = next()?;
        all.push(text.get(from..to).ok_or_else(|| broken("offsets leave the text"))?);
        from = to;
    }
    Ok(all)
}

/// Number of rows of a column of a batch; none may be null.
fn rows_of(batch: &ipc::RecordBatch<'_>, position: usize) -> Result<usize> {
    let node = batch.nodes().filter(|nodes| position < nodes.len()).map(|nodes| *nodes.get(position));
    let node = node.ok_or_else(|| broken("it is missing"))?;
    if node.null_count() != 0 {
        return Err(Error::new(ErrorCode::InvalidRows, format!("{} rows have no series", node.null_count())));
    }
    usize::try_from(node.length()).map_err(|_| broken("a negative length"))
}

/// Words of a dictionary message, and whether they extend the dictionary.
fn dictionary<'b>(header: &[u8], body: &'b [u8], column: &KeyColumn) -> Result<(Vec<&'b [u8]>, bool)> {
    let message = arrow_guard::message(header)?;
    let found = message.header_as_dictionary_batch().ok_or_else(|| broken("no dictionary"))?;
    let DataType::Dictionary(_, kind) = column.kind() else { return Err(broken("it is no dictionary")) };
    let batch = found.data().ok_or_else(|| broken("an empty dictionary"))?;
    if batch.compression().is_some() {
        return Err(Error::invalid("arrow bodies with compressed buffers are not supported"));
    }
    let count = rows_of(&batch, 0)?;
    if count > WORDS_MAX {
        return Err(Error::new(ErrorCode::TooLarge, format!("a dictionary of {count} words, more than {WORDS_MAX}")));
    }
    Ok((words(&batch, 0, count, kind, body)?, found.isDelta()))
}

/// The keys of a stream, and for each row the position of its key. The column is decoded here: no library decoder sees
/// it.
pub(super) fn series_of_rows(body: &[u8]) -> Result<(Vec<SeriesKey>, Vec<u32>)> {
    let (header, mut walker) = open(body)?;
    let column = KeyColumn::of(header)?;
    let mut labels = BodyKeys::default();
    let mut known: Vec<&[u8]> = Vec::new();
    while let StreamStep::Message(header, buffers) = walker.next()? {
        if ArrowDecoder::is_dictionary(header)? {
            if !column.owns(header)? {
                continue;
            }
            let (words, is_delta) = dictionary(header, buffers, &column)?;
            if !is_delta {
                known.clear();
            }
            known.extend(words);
            if known.len() > WORDS_MAX {
                return Err(Error::new(ErrorCode::TooLarge, format!("a dictionary of more than {WORDS_MAX} words")));
            }
            continue;
        }
        arrow_guard::check_message(header, buffers, &column.plain, Some(column.at))?;
        let message = arrow_guard::message(header)?;
        let batch = message.header_as_record_batch().ok_or_else(cut)?;
        let rows = rows_of(&batch, column.at)?;
        let first = column.first_buffer(&batch)?;
        match column.kind() {
            DataType::Dictionary(index, _) => {
                let width = index.primitive_width().unwrap_or(8);
                let positions = buffer(&batch, first + 1, buffers)?;
                let positions = integers(positions, width, index.is_signed_integer()).take(rows);
                for position in positions {
                    let word = usize::try_from(position).ok().and_then(|position| known.get(position));
                    labels.push(word.ok_or_else(|| broken("an index beyond its dictionary"))?)?;
                }
            }
            kind => {
                for word in words(&batch, first, rows, kind, buffers)? {
                    labels.push(word)?;
                }
            }
        }
    }
    check_end(&walker)?;
    Ok(labels.into_parts())
}

/// Passes the batches of a stream, without the column `series`, to `sink` until it returns false.
fn each_batch(body: &[u8], sink: &mut dyn FnMut(&ArrowRows) -> Result<bool>) -> Result<()> {
    let (header, mut walker) = open(body)?;
    let column = KeyColumn::of(header)?;
    let others: Vec<usize> = (0..column.schema.fields().len()).filter(|at| *at != column.at).collect();
    let mut decoder = ArrowDecoder::of(Arc::clone(&column.schema), column.ids.clone());
    while let StreamStep::Message(header, buffers) = walker.next()? {
        if ArrowDecoder::is_dictionary(header)? {
            if !column.owns(header)? {
                decoder.take_dictionary(header, buffers)?;
            }
            continue;
        }
        if !sink(&decoder.decode(header, buffers, Some(&others), Some(column.at))?)? {
            return Ok(());
        }
    }
    check_end(&walker)
}

/// Decodes a body with a series column; `of_row` has the series of each row.
pub(super) fn parse_labelled(
    defs: &[Arc<SeriesDef>],
    of_row: &[u32],
    body: &[u8],
    options: &DecodeOptions,
) -> Result<Vec<Part>> {
    let mut columns = BatchSplitter::new(defs, of_row, options);
    each_batch(body, &mut |batch| guarded("arrow", || columns.add(batch)))?;
    Ok(columns.into_parts())
}
