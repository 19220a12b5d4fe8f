//! Conversion of Arrow arrays of strings, bytes and dictionaries to columns of texts, enums and bytes.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, UInt64Type};

use crate::error::{Error, ErrorCode, Result};
use crate::types::ColumnType;
use crate::types::width::to_usize;

use super::arrow_rows::{Words, string_at};
use super::cell::{CellError, Stored, TextForm};
use super::column_set::ColumnSet;
use super::row_errors::quote;

/// Whether an Arrow type has texts.
pub(super) fn is_text(kind: &DataType) -> bool {
    matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// A word that no row had yet.
const UNSEEN: i64 = -1;

/// Appends an array of strings, bytes, or positions of `words`, to a column of texts, an enum or a column of bytes.
pub(super) fn add_strings(
    set: &mut ColumnSet<'_>,
    column: usize,
    array: &ArrayRef,
    words: Option<&Words>,
) -> Result<()> {
    let Some(kind) = set.def.columns.get(column).map(|column| column.kind) else { return Ok(()) };
    match (words, kind) {
        (Some(_), ColumnType::Bytes { .. }) => Err(mismatch(array)),
        (Some(words), _) => add_words_of(set, column, array, words),
        (None, ColumnType::Bytes { length }) => add_bytes(set, column, array, length),
        (None, _) if is_text(array.data_type()) => {
            for row in 0..array.len() {
                let text = string_at(array.as_ref(), row);
                let word = text.ok_or(CellError::Missing).and_then(|text| word_of(set, column, text));
                let shown = || quote(text.unwrap_or_default());
                set.cell(row, column, word.map(|word| (Stored::Word(word), false)), shown);
            }
            Ok(())
        }
        (None, _) => Err(mismatch(array)),
    }
}

fn mismatch(array: &ArrayRef) -> Error {
    Error::new(ErrorCode::SchemaMismatch, format!("{} is not a type that this column accepts", array.data_type()))
}

fn word_of(set: &mut ColumnSet<'_>, column: usize, text: &[u8]) -> Result<i64, CellError> {
    set.columns.get_mut(column).map_or(Err(CellError::NotAText), |column| column.word_of(text))
}

/// Appends the words at the positions that an array has. A word is looked up once if most words can be in use.
fn add_words_of(set: &mut ColumnSet<'_>, column: usize, array: &ArrayRef, words: &Words) -> Result<()> {
    let beyond = || Error::invalid("arrow body is malformed: an index beyond its dictionary");
    // A negative position becomes null, and so does one beyond 64 bits; neither is a null of the array.
    let positions = cast(array, &DataType::UInt64).map_err(|_| mismatch(array))?;
    let positions = positions.as_primitive::<UInt64Type>();
    if positions.null_count() != array.null_count() {
        return Err(beyond());
    }
    let mut seen = if words.len() <= 4 * array.len() { vec![UNSEEN; words.len()] } else { Vec::new() };
    for (row, position) in positions.iter().enumerate() {
        let Some(position) = position.map(to_usize) else {
            set.cell(row, column, Err(CellError::Missing), String::new);
            continue;
        };
        if let Some(word) = seen.get(position).filter(|word| **word != UNSEEN) {
            set.cell(row, column, Ok((Stored::Word(*word), false)), String::new);
            continue;
        }
        let text = words.get(position).ok_or_else(beyond)?;
        let word = text.ok_or(CellError::Missing).and_then(|text| word_of(set, column, text));
        if let (Ok(word), Some(seen)) = (word, seen.get_mut(position)) {
            *seen = word;
        }
        let shown = || quote(text.unwrap_or_default());
        set.cell(row, column, word.map(|word| (Stored::Word(word), false)), shown);
    }
    Ok(())
}

/// Appends an array to a column of bytes: binary cells as they are, strings as hexadecimal digits.
fn add_bytes(set: &mut ColumnSet<'_>, column: usize, array: &ArrayRef, length: u16) -> Result<()> {
    if let (DataType::FixedSizeBinary(width), 0) = (array.data_type(), array.null_count())
        && *width == i32::from(length)
    {
        set.append_memory(column, array);
        return Ok(());
    }
    let is_hex = is_text(array.data_type());
    for row in 0..array.len() {
        let Some(cell) = string_at(array.as_ref(), row) else {
            set.cell(row, column, Err(CellError::Missing), String::new);
            continue;
        };
        if is_hex {
            set.text(row, column + 1, cell, TextForm::String);
        } else {
            let shown = || format!("of {} bytes", cell.len());
            set.cell(row, column, Ok((Stored::Bytes(cell), false)), shown);
        }
    }
    Ok(())
}
