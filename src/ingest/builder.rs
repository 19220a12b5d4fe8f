//! Columns that rows are decoded into, one for each column of the registration.

use arrow::array::Array;
use arrow::buffer::Buffer;

use super::cell::{CellError, ColumnReading, Stored, TextForm};
use super::options::DecodeOptions;
use crate::types::cells;
use crate::types::width::to_usize;
use crate::types::{CellLayout, Column, ColumnCells, ColumnType, Dictionary, SharedCells};

/// The cells of a column.
#[derive(Debug)]
enum BuilderCells {
    /// Cells of 8 bytes that are never null.
    Words(Vec<i64>),
    Cells(ColumnCells),
}

/// A column that cells are appended to.
#[derive(Debug)]
pub(super) struct ColumnBuilder<'a> {
    reading: ColumnReading<'a>,
    cells: BuilderCells,
    /// The texts of a column of texts.
    texts: Dictionary,
    /// The last text and its position; most texts repeat the one before.
    last: Option<u32>,
}

impl<'a> ColumnBuilder<'a> {
    pub(super) fn new(column: &'a Column, capacity: usize) -> Self {
        let layout = column.kind.layout();
        // Bytes are appended as bytes, also eight of them.
        let is_word = layout == CellLayout::WORD && !matches!(column.kind, ColumnType::Bytes { .. });
        let cells = if is_word && !column.nullable {
            BuilderCells::Words(Vec::with_capacity(capacity))
        } else {
            BuilderCells::Cells(ColumnCells::with_capacity(layout, capacity))
        };
        Self { reading: ColumnReading::new(column), cells, texts: Dictionary::default(), last: None }
    }

    pub(super) fn column(&self) -> &'a Column {
        self.reading.column
    }

    /// The cells, where they have 8 bytes and are never null.
    pub(super) fn words(&mut self) -> Option<&mut Vec<i64>> {
        match &mut self.cells {
            BuilderCells::Words(words) => Some(words),
            BuilderCells::Cells(_) => None,
        }
    }

    /// Appends a cell in text form and returns whether digits were lost. Appends nothing on an error.
    #[inline]
    pub(super) fn text(&mut self, text: &[u8], form: TextForm, options: &DecodeOptions) -> Result<bool, CellError> {
        let (stored, rounded) = self.reading.text(text, form, options)?;
        self.push(stored)?;
        Ok(rounded)
    }

    /// Appends a cell. Appends nothing on an error.
    #[inline]
    pub(super) fn push(&mut self, stored: Stored<'_>) -> Result<(), CellError> {
        match (&mut self.cells, stored) {
            (BuilderCells::Words(words), Stored::Word(word)) => words.push(word),
            (_, stored) => self.push_other(stored)?,
        }
        Ok(())
    }

    fn push_other(&mut self, stored: Stored<'_>) -> Result<(), CellError> {
        let word = match stored {
            Stored::Text(text) => i64::from(self.position(text)?),
            Stored::Word(word) => word,
            _ => 0,
        };
        let BuilderCells::Cells(column) = &mut self.cells else { return Err(CellError::NotAText) };
        match stored {
            Stored::Word(_) | Stored::Text(_) => {
                let bytes = word.to_le_bytes();
                match column.layout().width() {
                    1 => column.push(u8::from_le_bytes(cells::array(&bytes, 0))),
                    2 => column.push(u16::from_le_bytes(cells::array(&bytes, 0))),
                    4 => column.push(u32::from_le_bytes(cells::array(&bytes, 0))),
                    _ => column.push(word),
                }
            }
            Stored::Wide(wide) => column.push(wide),
            Stored::Bytes(bytes) if bytes.len() == column.layout().width() => column.push_bytes(bytes),
            Stored::Hex(digits) if digits.len() == 2 * column.layout().width() => {
                let digit = |byte: u8| (byte & 0x0f) + if byte.is_ascii_digit() { 0 } else { 9 };
                let pairs = digits.as_chunks::<2>().0;
                let bytes: Vec<u8> = pairs.iter().map(|[high, low]| digit(*high) << 4 | digit(*low)).collect();
                column.push_bytes(&bytes);
            }
            Stored::Bytes(_) | Stored::Hex(_) => return Err(CellError::BadBytes),
        }
        Ok(())
    }

    /// Position of a text among those of this column, which it is added to.
    fn position(&mut self, text: &str) -> Result<u32, CellError> {
        let is_last = |last: &u32| self.texts.get(*last).is_some_and(|known| known.as_ref() == text);
        if let Some(last) = self.last.filter(is_last) {
            return Ok(last);
        }
        let position = self.texts.insert(text).ok_or(CellError::DictionaryFull)?;
        self.last = Some(position);
        Ok(position)
    }

    /// Stored form of a string of an Arrow array, which many rows can have.
    pub(super) fn word_of(&mut self, text: &[u8]) -> Result<i64, CellError> {
        if self.column().kind == ColumnType::Enum {
            return Ok(self.reading.value(text)?.into());
        }
        Ok(self.position(super::cell::open_text(text)?)?.into())
    }

    /// Appends a null.
    pub(super) fn push_null(&mut self) {
        match &mut self.cells {
            BuilderCells::Words(words) => words.push(0),
            BuilderCells::Cells(column) => column.push_null(),
        }
    }

    /// Appends a cell in place of one that cannot be stored, so that positions stay aligned; the rows are refused.
    pub(super) fn push_filler(&mut self) {
        match &mut self.cells {
            BuilderCells::Words(words) => words.push(0),
            BuilderCells::Cells(column) => column.push_bytes(&vec![0; column.layout().width()]),
        }
    }

    /// Appends all cells of an array whose memory has their stored form and of which none is null.
    pub(super) fn append_memory(&mut self, array: &dyn Array) {
        let data = array.to_data();
        let Some(buffer) = data.buffers().first() else { return };
        match &mut self.cells {
            BuilderCells::Words(words) => words
                .extend_from_slice(cells::range(buffer.typed_data::<i64>(), data.offset()..data.offset() + data.len())),
            BuilderCells::Cells(column) => match column.layout() {
                CellLayout::Flag => extend_packed(column, buffer.bit_slice(data.offset(), data.len()), data.len()),
                CellLayout::Bytes(width) => {
                    let width = to_usize(width);
                    let memory = buffer.slice_with_length(data.offset() * width, data.len() * width);
                    extend_packed(column, memory, data.len());
                }
            },
        }
    }

    /// Removes the cells at these positions, which ascend.
    pub(super) fn drop_rows(&mut self, dropped: &[usize]) {
        match &mut self.cells {
            BuilderCells::Words(words) => drop_rows(words, dropped),
            BuilderCells::Cells(column) => {
                let mut rows: Vec<usize> = (0..column.len()).collect();
                drop_rows(&mut rows, dropped);
                let mut kept = ColumnCells::with_capacity(column.layout(), rows.len());
                kept.extend_picked(column.as_slice(), rows.iter().copied());
                *column = kept;
            }
        }
    }

    /// The cells, and the texts that they are positions of.
    pub(super) fn into_parts(self) -> (ColumnCells, Dictionary) {
        let cells = match self.cells {
            BuilderCells::Words(words) => words.into(),
            BuilderCells::Cells(column) => column,
        };
        (cells, self.texts)
    }
}

/// Appends cells in the form that Arrow has them, none of them null.
fn extend_packed(column: &mut ColumnCells, memory: Buffer, rows: usize) {
    let shared = SharedCells::packed(column.layout(), memory, None);
    column.extend(shared.slice(0, rows));
}

/// Removes the cells at these positions, which ascend.
pub(super) fn drop_rows<T>(cells: &mut Vec<T>, dropped: &[usize]) {
    let mut dropped = dropped.iter().copied().peekable();
    let mut at = 0;
    cells.retain(|_| {
        let is_dropped = dropped.next_if_eq(&at).is_some();
        at += 1;
        !is_dropped
    });
}
