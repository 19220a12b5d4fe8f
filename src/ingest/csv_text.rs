//! CSV bodies: a header that names every column in any order, then rows.

use crate::error::{Error, Result};
use crate::types::SeriesDef;

use super::cell::{RowReader, fields_of_header};
use super::{Options, Parsed};

/// Reads a CSV body.
pub(super) fn parse(def: &SeriesDef, body: &[u8], options: &Options) -> Result<Parsed> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    // The reader takes the end of the body for the end of a quoted cell.
    if body.iter().filter(|byte| **byte == b'"').count() % 2 != 0 {
        return Err(Error::invalid("csv body is malformed: a quote is not closed"));
    }
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(body);
    let broken = |error: csv::Error| Error::invalid(format!("csv body is malformed: {error}"));
    let mut record = csv::ByteRecord::new();
    if !reader.read_byte_record(&mut record).map_err(broken)? {
        return Err(Error::invalid("csv body is empty").with_hint("its first line names the columns"));
    }
    let names: Vec<String> = record.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    let fields = fields_of_header(def, names.iter().map(String::as_str))?;
    // Eight bytes a cell: no more than the body again.
    let mut rows = RowReader::new(def, options, body.len() / (fields.len() * 8));
    while !rows.errors.is_full() && reader.read_byte_record(&mut record).map_err(broken)? {
        if record.len() != fields.len() {
            return Err(Error::invalid(format!(
                "row {} has {} cells, the header has {}",
                rows.row(),
                record.len(),
                fields.len()
            )));
        }
        for (field, text) in fields.iter().zip(&record) {
            rows.name(*field);
            rows.text(*field, text);
        }
        rows.end_row();
    }
    rows.finish()
}
