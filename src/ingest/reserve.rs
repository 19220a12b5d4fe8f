//! Reserves the memory of a body before any of it is decoded.

use super::format::BodyFormat;
use super::memory::Reservation;
use super::{arrow_stream, parquet_file};
use crate::error::Result;
use crate::types::{ColumnType, SeriesDef};

/// Reserves the memory for decoding and writing a body, before any of it is decoded: that of all cells, of the longest
/// texts and of bytes. `def` is the series of its rows, where it has a single one.
///
/// # Errors
/// Those of [`Reservation::grow`], and `invalid_argument` for an Arrow or Parquet body whose structure is damaged.
pub fn reserve(format: BodyFormat, body: &[u8], def: Option<&SeriesDef>, reservation: &mut Reservation) -> Result<()> {
    match format {
        BodyFormat::Json | BodyFormat::Ndjson | BodyFormat::Csv => {
            reservation.grow_cells(text_cells(body))?;
            // Texts and bytes are copied from the body; an unknown series can have them.
            if def.is_none_or(has_long_cells) {
                reservation.grow((body.len() as u64).saturating_mul(2))
            } else {
                Ok(())
            }
        }
        BodyFormat::Arrow => arrow_stream::reserve(body, def, reservation),
        BodyFormat::Parquet => parquet_file::reserve(body, def, reservation),
    }
}

/// Whether a column has texts or bytes.
fn has_long_cells(def: &SeriesDef) -> bool {
    def.columns.iter().any(|column| matches!(column.kind, ColumnType::Text | ColumnType::Bytes { .. }))
}

/// Maximum number of cells a text can have: each is followed by a comma or a line end, or is the last one of a list or
/// an object.
fn text_cells(body: &[u8]) -> u64 {
    let ends = body.iter().filter(|byte| matches!(byte, b',' | b'\n' | b'\r' | b'[' | b'{')).count();
    ends as u64 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cell_count_of_text_is_an_upper_bound() {
        let texts = [
            ("ts,v\n1,2\n3,4", 4),
            ("[{\"ts\":1,\"v\":2},{\"ts\":3,\"v\":4}]", 4),
            ("{\"columns\":{\"ts\":[1,2,3],\"v\":[1,2,3]}}", 6),
            ("[[1,2],[3,4]]", 4),
            ("{\"ts\":1,\"v\":2}\n{\"ts\":3,\"v\":4}", 4),
            ("1", 1),
        ];
        for (text, cells) in texts {
            assert!(text_cells(text.as_bytes()) >= cells, "{text}");
        }
    }
}
