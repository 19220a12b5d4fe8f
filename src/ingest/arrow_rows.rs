//! Record batches whose dictionary columns have the positions of their words, apart from the words.
//!
//! A dictionary can be large and the batches after it small: its words are checked once, when they arrive, and kept in
//! pieces, so that a batch costs no more than its own rows.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;

use crate::error::{Error, ErrorCode, Result};
use crate::types::dictionary::TEXTS_MAX;

/// The words of a dictionary, in pieces in the order of their arrival.
#[derive(Clone, Debug, Default)]
pub struct Words {
    /// Arrays of strings, and the position of the first word of each.
    pieces: Vec<(usize, ArrayRef)>,
    len: usize,
    bytes: usize,
}

impl Words {
    /// Appends an array of strings.
    ///
    /// # Errors
    /// `too_large` for more words than a column can have.
    pub(super) fn push(&mut self, piece: ArrayRef) -> Result<()> {
        if self.len + piece.len() > TEXTS_MAX {
            let detail = format!("a dictionary of {} words, more than {TEXTS_MAX}", self.len + piece.len());
            return Err(Error::new(ErrorCode::TooLarge, detail)
                .with_hint("a column of texts has a limited number of different texts; send ids as numbers or bytes"));
        }
        let first = self.len;
        self.len += piece.len();
        self.bytes += piece.get_buffer_memory_size();
        if !piece.is_empty() {
            self.pieces.push((first, piece));
        }
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Size in memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The word at a position, `None` in it for a null; `None` beyond the words.
    pub(super) fn get(&self, position: usize) -> Option<Option<&[u8]>> {
        let piece = self.pieces.partition_point(|(first, _)| *first <= position).checked_sub(1)?;
        let (first, array) = self.pieces.get(piece)?;
        let row = position - first;
        (row < array.len()).then(|| string_at(array.as_ref(), row))
    }
}

/// The string of a row of an array of strings or bytes, which has that row; `None` for a null.
pub(super) fn string_at(array: &dyn Array, row: usize) -> Option<&[u8]> {
    if array.is_null(row) {
        return None;
    }
    match array.data_type() {
        DataType::Utf8 => Some(array.as_string::<i32>().value(row).as_bytes()),
        DataType::LargeUtf8 => Some(array.as_string::<i64>().value(row).as_bytes()),
        DataType::Utf8View => Some(array.as_string_view().value(row).as_bytes()),
        DataType::Binary => Some(array.as_binary::<i32>().value(row)),
        DataType::LargeBinary => Some(array.as_binary::<i64>().value(row)),
        DataType::BinaryView => Some(array.as_binary_view().value(row)),
        DataType::FixedSizeBinary(_) => Some(array.as_fixed_size_binary().value(row)),
        _ => None,
    }
}

/// A record batch.
#[derive(Clone, Debug)]
pub struct ArrowRows {
    /// The schema that the sender declared, with its dictionaries.
    pub(super) sent: SchemaRef,
    /// The columns, where those of dictionaries have the positions of the words.
    pub(super) batch: RecordBatch,
    /// The words of each column that is a dictionary.
    pub(super) words: Vec<Option<Arc<Words>>>,
}

impl ArrowRows {
    /// The rows of a batch of Arrow arrays.
    ///
    /// # Errors
    /// As [`Words::push`].
    pub fn of(batch: RecordBatch) -> Result<Self> {
        let is_dictionary = |field: &Arc<Field>| matches!(field.data_type(), DataType::Dictionary(..));
        let sent = batch.schema();
        if !sent.fields().iter().any(is_dictionary) {
            let words = vec![None; batch.num_columns()];
            return Ok(Self { sent, batch, words });
        }
        let (_, mut arrays, _) = batch.into_parts();
        let mut words = Vec::with_capacity(arrays.len());
        for array in &mut arrays {
            let Some(dictionary) = array.as_any_dictionary_opt() else {
                words.push(None);
                continue;
            };
            let mut own = Words::default();
            own.push(Arc::clone(dictionary.values()))?;
            words.push(Some(Arc::new(own)));
            // The keys are an array of integers.
            let keys = dictionary.keys().to_data();
            *array = arrow::array::make_array(keys);
        }
        let plain = Arc::new(plain_schema(&sent));
        let batch = RecordBatch::try_new(plain, arrays)
            .map_err(|error| Error::invalid(format!("the batch has inconsistent columns: {error}")))?;
        Ok(Self { sent, batch, words })
    }

    /// The same columns with other rows of them.
    pub(super) fn with_batch(&self, batch: RecordBatch) -> Self {
        Self { sent: Arc::clone(&self.sent), batch, words: self.words.clone() }
    }

    /// The batch itself, unless a column of it is a dictionary.
    pub fn into_plain(self) -> Option<RecordBatch> {
        self.words.iter().all(Option::is_none).then_some(self.batch)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.batch.num_rows()
    }
}

/// A schema with the type of the positions in place of each dictionary. All columns can be null: what the registration
/// says decides.
pub(super) fn plain_schema(schema: &Schema) -> Schema {
    let plain = schema.fields().iter().map(|field| {
        let kind = match field.data_type() {
            DataType::Dictionary(index, _) => index.as_ref(),
            kind => kind,
        };
        Field::new(field.name(), kind.clone(), true)
    });
    Schema::new(plain.collect::<Vec<_>>())
}
