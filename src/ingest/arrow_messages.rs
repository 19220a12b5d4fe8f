//! Decodes the messages of an Arrow stream one by one: its schema, dictionaries and record batches.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::ipc;
use arrow::ipc::reader::read_record_batch;

use super::arrow_guard;
use super::arrow_rows::{ArrowRows, Words, plain_schema};
use super::guarded::guarded;
use crate::error::{Error, ErrorCode, Result};
use crate::types::dictionary::TEXTS_BYTES_MAX;

/// Maximum bytes of all dictionaries of a stream in memory.
const DICTIONARIES_BYTES_MAX: usize = 4 * TEXTS_BYTES_MAX;

/// Decodes the messages of a stream after its schema. Nothing in a message is trusted.
#[derive(Debug)]
pub struct ArrowDecoder {
    sent: SchemaRef,
    /// The schema with the type of the positions in place of each dictionary.
    plain: SchemaRef,
    /// The dictionary of each column.
    ids: Vec<Option<i64>>,
    words: HashMap<i64, Arc<Words>>,
}

fn malformed(detail: impl std::fmt::Display) -> Error {
    Error::invalid(format!("arrow body is malformed: {detail}"))
}

impl ArrowDecoder {
    /// Decodes the schema message of a stream.
    ///
    /// # Errors
    /// `invalid_argument`.
    pub fn new(header: &[u8]) -> Result<Self> {
        let (schema, ids) = arrow_guard::schema_of(header)?;
        Ok(Self::of(Arc::new(schema), ids))
    }

    pub(super) fn of(sent: SchemaRef, ids: Vec<Option<i64>>) -> Self {
        let has_dictionaries = ids.iter().any(Option::is_some);
        let plain = if has_dictionaries { Arc::new(plain_schema(&sent)) } else { Arc::clone(&sent) };
        Self { sent, plain, ids, words: HashMap::new() }
    }

    /// The schema of the stream.
    pub fn schema(&self) -> &SchemaRef {
        &self.sent
    }

    /// Whether a column of the stream is a dictionary.
    pub fn has_dictionaries(&self) -> bool {
        self.ids.iter().any(Option::is_some)
    }

    /// Memory of the dictionaries in bytes.
    pub fn bytes(&self) -> usize {
        self.words.values().map(|words| words.bytes()).sum()
    }

    /// Whether a message is a dictionary.
    ///
    /// # Errors
    /// `invalid_argument` for a damaged header.
    pub fn is_dictionary(header: &[u8]) -> Result<bool> {
        Ok(arrow_guard::message(header)?.header_type() == ipc::MessageHeader::DictionaryBatch)
    }

    /// Takes the words of a dictionary message, which replace or extend those before.
    ///
    /// # Errors
    /// `invalid_argument`, or `too_large` for more words than a column can have.
    pub fn take_dictionary(&mut self, header: &[u8], body: &[u8]) -> Result<()> {
        let message = arrow_guard::message(header)?;
        let found = message.header_as_dictionary_batch().ok_or_else(|| malformed("an empty dictionary"))?;
        let of_column = |field: &Arc<Field>| match field.data_type() {
            DataType::Dictionary(_, words) => words.as_ref().clone(),
            kind => kind.clone(),
        };
        let mut kinds = self.ids.iter().zip(self.sent.fields()).filter(|(id, _)| **id == Some(found.id()));
        let kind = kinds.next().map(|(_, field)| of_column(field));
        let kind = kind.ok_or_else(|| malformed("a dictionary of no column"))?;
        if kinds.any(|(_, field)| of_column(field) != kind) {
            return Err(malformed("a dictionary of columns of different types"));
        }
        let field = Field::new("dictionary", kind, true);
        arrow_guard::check_dictionary(header, body, &field)?;
        let schema = Arc::new(Schema::new(vec![field]));
        let batch = guarded("arrow", || {
            let batch = found.data().ok_or_else(|| malformed("an empty dictionary"))?;
            let none = HashMap::new();
            read_record_batch(&Buffer::from(body), batch, schema, &none, None, &message.version()).map_err(malformed)
        })?;
        let words = self.words.entry(found.id()).or_default();
        if !found.isDelta() {
            *words = Arc::default();
        }
        Arc::make_mut(words).push(Arc::clone(batch.column(0)))?;
        if self.bytes() > DICTIONARIES_BYTES_MAX {
            let detail = format!("the dictionaries of the stream have more than {DICTIONARIES_BYTES_MAX} bytes");
            return Err(Error::new(ErrorCode::TooLarge, detail));
        }
        Ok(())
    }

    /// Decodes a record batch, of it the columns at these positions; all when `None`. `labels` is the position of a
    /// column that is not decoded.
    ///
    /// # Errors
    /// `invalid_argument`.
    pub(super) fn decode(
        &self,
        header: &[u8],
        body: &[u8],
        columns: Option<&[usize]>,
        labels: Option<usize>,
    ) -> Result<ArrowRows> {
        arrow_guard::check_message(header, body, &self.plain, labels)?;
        let batch = guarded("arrow", || {
            let message = arrow_guard::message(header)?;
            let batch = message.header_as_record_batch().ok_or_else(|| malformed("an empty message"))?;
            // A copy with the alignment the decoder needs.
            let body = Buffer::from(body);
            let none = HashMap::new();
            let plain = Arc::clone(&self.plain);
            read_record_batch(&body, batch, plain, &none, columns, &message.version()).map_err(malformed)
        })?;
        self.rows(batch, columns)
    }

    /// Decodes a record batch of a put.
    ///
    /// # Errors
    /// `invalid_argument`.
    pub fn decode_batch(&self, header: &[u8], body: &[u8]) -> Result<ArrowRows> {
        self.decode(header, body, None, None)
    }

    /// The rows of a checked batch of the plain schema.
    ///
    /// # Errors
    /// As [`decode_batch`](Self::decode_batch).
    pub fn rows(&self, batch: arrow::record_batch::RecordBatch, columns: Option<&[usize]>) -> Result<ArrowRows> {
        let words = |id: &Option<i64>| id.map(|id| self.words.get(&id).cloned().unwrap_or_default());
        let all: Vec<Option<Arc<Words>>> = self.ids.iter().map(words).collect();
        let (sent, words) = match columns {
            None => (Arc::clone(&self.sent), all),
            Some(columns) => (
                Arc::new(self.sent.project(columns).map_err(malformed)?),
                columns.iter().map(|at| all.get(*at).cloned().flatten()).collect(),
            ),
        };
        Ok(ArrowRows { sent, batch, words })
    }
}
