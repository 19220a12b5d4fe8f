//! Reserves the memory of a body before any of it is decoded.

use super::format::BodyFormat;
use super::memory::Reservation;
use super::{arrow_stream, parquet_file};
use crate::error::Result;

/// Reserves the memory for decoding and writing a body, before any of it is decoded.
///
/// # Errors
/// Those of [`Reservation::grow`], and `invalid_argument` for an Arrow or Parquet body whose structure is damaged.
pub fn reserve(format: BodyFormat, body: &[u8], reservation: &mut Reservation) -> Result<()> {
    match format {
        BodyFormat::Json | BodyFormat::Ndjson | BodyFormat::Csv => reservation.grow_cells(text_cells(body), 1),
        BodyFormat::Arrow => arrow_stream::reserve(body, reservation),
        BodyFormat::Parquet => parquet_file::reserve(body, reservation),
    }
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
