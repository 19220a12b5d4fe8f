//! Record batches whose rows name their series in columns of the words of its key.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, Schema};

use super::arrow_rows::{ArrowRows, Words, string_at};
use super::body_keys::{SERIES_MAX, too_many};
use crate::error::{Error, ErrorCode, Result, RowError};
use crate::types::SeriesKey;
use crate::types::width::narrow;

/// The rows of a batch by series.
pub(super) struct KeyedRows {
    /// In the order of their first rows.
    pub keys: Vec<SeriesKey>,
    /// For each row the position of its key.
    pub of_row: Vec<u32>,
    /// The other columns.
    pub rows: ArrowRows,
}

/// Makes the key of a series from the cells of the key columns.
pub type KeyOfCells<'k> = &'k dyn Fn(&[&str]) -> Result<SeriesKey>;

/// Splits off the key columns.
pub(super) fn split(rows: ArrowRows, names: &[&str], key_of: KeyOfCells<'_>) -> Result<KeyedRows> {
    let columns: Vec<usize> = names.iter().map(|name| position(&rows, name)).collect::<Result<_>>()?;
    let texts: Vec<TextColumn<'_>> = columns.iter().map(|at| TextColumn::of(&rows, *at)).collect::<Result<_>>()?;
    let mut keys: Vec<SeriesKey> = Vec::new();
    let mut known: HashMap<Vec<&[u8]>, u32> = HashMap::new();
    let mut of_row: Vec<u32> = Vec::with_capacity(rows.rows());
    let mut last: Option<(Vec<&[u8]>, u32)> = None;
    for row in 0..rows.rows() {
        let cells = texts.iter().zip(names).map(|(text, name)| text.get(row).ok_or_else(|| missing(row, name)));
        let cells: Vec<&[u8]> = cells.collect::<Result<_>>()?;
        if let Some((same, position)) = &last
            && *same == cells
        {
            of_row.push(*position);
            continue;
        }
        let position = match known.get(&cells) {
            Some(position) => *position,
            None => {
                if keys.len() >= SERIES_MAX {
                    return Err(too_many());
                }
                let text = |cell: &&[u8]| {
                    std::str::from_utf8(cell)
                        .map(str::to_owned)
                        .map_err(|_| Error::invalid(format!("row {row}: a key is not UTF-8")))
                };
                let words: Vec<String> = cells.iter().map(text).collect::<Result<_>>()?;
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                let key = key_of(&words).map_err(|error| Error::invalid(format!("row {row}: {}", error.detail())))?;
                let position = narrow(keys.len());
                keys.push(key);
                known.insert(cells.clone(), position);
                position
            }
        };
        of_row.push(position);
        last = Some((cells, position));
    }
    let others: Vec<usize> = (0..rows.words.len()).filter(|at| !columns.contains(at)).collect();
    let rows = rows.project(&others)?;
    Ok(KeyedRows { keys, of_row, rows })
}

fn position(rows: &ArrowRows, name: &str) -> Result<usize> {
    let positions = (0..rows.sent.fields().len()).filter(|at| rows.sent.field(*at).name() == name);
    match positions.collect::<Vec<_>>().as_slice() {
        [only] => Ok(*only),
        [] => Err(Error::new(ErrorCode::SchemaMismatch, format!("the rows have no column {name:?}"))
            .with_hint("it says to which series a row belongs")),
        _ => Err(Error::new(ErrorCode::SchemaMismatch, format!("column {name:?} is listed twice"))),
    }
}

fn missing(row: usize, field: &str) -> Error {
    let row = row as u64;
    let message = format!("{field} is missing");
    let error = RowError { series: None, row, field: field.into(), reason: "missing".into(), message: message.clone() };
    Error::new(ErrorCode::InvalidRows, format!("row {row}: {message}")).with_rows(vec![error])
}

/// A column of texts, or of positions in a dictionary of texts.
enum TextColumn<'r> {
    Plain(&'r ArrayRef),
    Positions(ArrayRef, &'r Words),
}

impl<'r> TextColumn<'r> {
    fn of(rows: &'r ArrowRows, at: usize) -> Result<Self> {
        let (array, words) = (rows.batch.column(at), rows.words.get(at).and_then(Option::as_ref));
        match (array.data_type(), words) {
            (DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View, None) => Ok(Self::Plain(array)),
            (_, Some(words)) => {
                let positions = cast(array, &DataType::Int64)
                    .map_err(|error| Error::invalid(format!("the positions of a dictionary: {error}")))?;
                Ok(Self::Positions(positions, words.as_ref()))
            }
            (other, None) => {
                let name = rows.sent.field(at).name().clone();
                Err(Error::new(ErrorCode::SchemaMismatch, format!("column {name:?} is {other}, not text")))
            }
        }
    }

    /// The text of a row; `None` for a null.
    fn get(&self, row: usize) -> Option<&[u8]> {
        match self {
            Self::Plain(array) => string_at(array.as_ref(), row),
            Self::Positions(positions, words) => {
                let positions = positions.as_primitive::<Int64Type>();
                let position = (!positions.is_null(row)).then(|| positions.value(row))?;
                words.get(usize::try_from(position).ok()?).flatten()
            }
        }
    }
}

impl ArrowRows {
    /// The columns at these positions.
    fn project(self, columns: &[usize]) -> Result<Self> {
        let failed = |error| Error::internal(format!("columns of a batch: {error}"));
        let sent: Schema = self.sent.project(columns).map_err(failed)?;
        let batch = self.batch.project(columns).map_err(failed)?;
        let words = columns.iter().map(|at| self.words.get(*at).cloned().flatten()).collect();
        Ok(Self { sent: Arc::new(sent), batch, words })
    }
}
