//! Arrow IPC stream bodies: messages walked and checked one by one, then decoded one by one.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::buffer::Buffer;
use arrow::ipc;

use crate::error::{Error, Result};
use crate::types::SeriesDef;

use super::batch::{ColumnReader, check_schema};
use super::{Options, Parsed, arrow_guard, guarded};

const CONTINUATION: [u8; 4] = [0xff; 4];

fn cut() -> Error {
    Error::invalid("arrow body is cut short").with_hint("an Arrow IPC stream ends with its end-of-stream marker")
}

/// What the walker finds at a position.
enum Step<'b> {
    /// Header flatbuffer and body of a message.
    Message(&'b [u8], &'b [u8]),
    End,
}

/// Walks the messages of a stream.
struct Walker<'b>(&'b [u8]);

impl<'b> Walker<'b> {
    fn take(&mut self, bytes: usize) -> Result<&'b [u8]> {
        let (head, rest) = self.0.split_at_checked(bytes).ok_or_else(cut)?;
        self.0 = rest;
        Ok(head)
    }

    fn take_length(&mut self) -> Result<[u8; 4]> {
        self.take(4)?.try_into().map_err(|_| cut())
    }

    fn next(&mut self) -> Result<Step<'b>> {
        let mut length = self.take_length()?;
        if length == CONTINUATION {
            length = self.take_length()?;
        }
        let length = i32::from_le_bytes(length);
        if length == 0 {
            return Ok(Step::End);
        }
        let length =
            usize::try_from(length).map_err(|_| Error::invalid("arrow body is malformed: a negative length"))?;
        let header = self.take(length)?;
        let body = usize::try_from(arrow_guard::message(header)?.bodyLength())
            .map_err(|_| Error::invalid("arrow body is malformed: a negative body length"))?;
        Ok(Step::Message(header, self.take(body)?))
    }
}

/// Reads an Arrow stream.
pub(super) fn parse(def: &SeriesDef, body: &[u8], options: &Options) -> Result<Parsed> {
    if body.starts_with(b"ARROW1") {
        return Err(Error::invalid("the body is an Arrow file, not an Arrow stream")
            .with_hint("write it as IPC stream (pyarrow.ipc.new_stream), or use `fastk import`"));
    }
    let mut walker = Walker(body);
    let Step::Message(header, _) = walker.next()? else {
        return Err(Error::invalid("arrow body has no schema"));
    };
    let schema = Arc::new(arrow_guard::schema_of(header)?);
    check_schema(def, &schema)?;
    let mut columns = ColumnReader::new(def, options);
    while let Step::Message(header, buffers) = walker.next()? {
        arrow_guard::check_message(header, buffers, &schema)?;
        let batch = guarded("arrow", || {
            let message = arrow_guard::message(header)?;
            let batch = message.header_as_record_batch().ok_or_else(cut)?;
            // A copy, aligned as the decoder wants it.
            let buffers = Buffer::from(buffers);
            let none = HashMap::new();
            let decoded =
                ipc::reader::read_record_batch(&buffers, batch, schema.clone(), &none, None, &message.version());
            decoded.map_err(|error| Error::invalid(format!("arrow body is malformed: {error}")))
        })?;
        columns.add(&batch)?;
    }
    if !walker.0.is_empty() {
        return Err(Error::invalid(format!("arrow body goes on for {} bytes after its end", walker.0.len())));
    }
    columns.finish()
}
