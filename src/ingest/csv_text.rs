//! CSV bodies: a header with every column in any order, then rows.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::types::{SeriesDef, SeriesKey};

use super::body_keys::{BodyKeys, SERIES, SeriesReaders, fields_by_series, no_series_column};
use super::header::fields_of_header;
use super::options::DecodeOptions;
use super::parsed::Part;
use super::row_reader::RowReader;

type Records<'b> = csv::Reader<&'b [u8]>;

fn broken(error: csv::Error) -> Error {
    Error::invalid(format!("csv body is malformed: {error}"))
}

/// The names of the header, and a reader of the records that follow.
fn open(body: &[u8]) -> Result<(Vec<String>, Records<'_>)> {
    let body = without_mark(body);
    // The reader accepts the end of the body as the end of a quoted cell.
    if body.iter().filter(|byte| **byte == b'"').count() % 2 != 0 {
        return Err(Error::invalid("csv body is malformed: a quote is not closed"));
    }
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(body);
    let mut record = csv::ByteRecord::new();
    if !reader.read_byte_record(&mut record).map_err(broken)? {
        return Err(Error::invalid("csv body is empty").with_hint("the first line must name the columns"));
    }
    let names = record.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    Ok((names, reader))
}

/// A body without a byte order mark.
fn without_mark(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)
}

/// Whether a cell of a record, by its position, is written in quotes in the body without its byte order mark.
fn is_quoted(body: &[u8], record: &csv::ByteRecord, position: usize) -> bool {
    let start = record.position().and_then(|start| usize::try_from(start.byte()).ok());
    let text = start.and_then(|start| without_mark(body).get(start..)).unwrap_or_default();
    // The end of the line before can belong to this record.
    let text = text.iter().copied().skip_while(|byte| matches!(byte, b'\r' | b'\n'));
    cell_is_quoted(text, position)
}

/// Whether a cell of a row of CSV text is written in quotes.
fn cell_is_quoted(text: impl Iterator<Item = u8>, position: usize) -> bool {
    let (mut cell, mut is_start, mut is_quoted, mut is_open) = (0, true, false, false);
    for byte in text {
        if is_start && cell == position {
            return byte == b'"';
        }
        if byte == b'"' && (is_start || is_quoted) {
            (is_quoted, is_open, is_start) = (true, !is_open, false);
        } else if !is_open && byte == b',' {
            (cell, is_start, is_quoted) = (cell + 1, true, false);
        } else if !is_open && matches!(byte, b'\n' | b'\r') {
            return false;
        } else {
            is_start = false;
        }
    }
    false
}

fn check_length(record: &csv::ByteRecord, names: usize, row: impl std::fmt::Display) -> Result<()> {
    if record.len() != names {
        return Err(Error::invalid(format!("row {row} has {} cells, the header has {names}", record.len())));
    }
    Ok(())
}

/// Decodes a CSV body.
pub(super) fn parse(def: &SeriesDef, body: &[u8], options: &DecodeOptions) -> Result<Part> {
    let (names, mut reader) = open(body)?;
    let fields = fields_of_header(def, names.iter().map(String::as_str))?;
    // With eight bytes a cell the capacity stays below the size of the body.
    let mut rows = RowReader::new(def, options, body.len() / (fields.len() * 8));
    let mut record = csv::ByteRecord::new();
    while !rows.errors().is_full() && reader.read_byte_record(&mut record).map_err(broken)? {
        check_length(&record, fields.len(), rows.row())?;
        for (at, (field, text)) in fields.iter().zip(&record).enumerate() {
            rows.mark(*field);
            rows.csv_cell(*field, text, || is_quoted(body, &record, at));
        }
        rows.end_row();
    }
    Ok(rows.into_parts())
}

fn series_position(names: &[String]) -> Result<usize> {
    names.iter().position(|name| name == SERIES).ok_or_else(no_series_column)
}

/// The keys of a body, and for each row the position of its key.
pub(super) fn series_of_rows(body: &[u8]) -> Result<(Vec<SeriesKey>, Vec<u32>)> {
    let (names, mut reader) = open(body)?;
    let at = series_position(&names)?;
    let mut labels = BodyKeys::default();
    let mut record = csv::ByteRecord::new();
    let mut row = 0_u64;
    while reader.read_byte_record(&mut record).map_err(broken)? {
        check_length(&record, names.len(), row)?;
        labels.push(record.get(at).unwrap_or_default())?;
        row += 1;
    }
    Ok(labels.into_parts())
}

/// Decodes a body with a series column; `of_row` has the series of each row.
pub(super) fn parse_labelled(
    defs: &[Arc<SeriesDef>],
    of_row: &[u32],
    body: &[u8],
    options: &DecodeOptions,
) -> Result<Vec<Part>> {
    let (names, mut reader) = open(body)?;
    let at = series_position(&names)?;
    let fields = fields_by_series(defs, &names.iter().map(String::as_str).collect::<Vec<_>>())?;
    let mut readers = SeriesReaders::new(defs, options);
    let mut record = csv::ByteRecord::new();
    for label in of_row {
        if !reader.read_byte_record(&mut record).map_err(broken)? {
            break;
        }
        let Some(fields) = fields.get(*label as usize) else { continue };
        let has_capacity = readers.row(*label, |rows| {
            let cells = record.iter().enumerate().filter(|(position, _)| *position != at);
            for (field, (position, text)) in fields.iter().zip(cells) {
                rows.mark(*field);
                rows.csv_cell(*field, text, || is_quoted(body, &record, position));
            }
            rows.end_row();
        });
        if !has_capacity {
            break;
        }
    }
    Ok(readers.into_parts())
}
