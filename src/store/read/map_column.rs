//! Columns of a mapped file.

use crate::disk::mmap::Map;
use crate::format::body::ColumnPlace;
use crate::types::SharedCells;

/// A column of a body that starts at `at` in a mapped file.
pub fn map_column(map: &Map, at: usize, place: ColumnPlace) -> SharedCells {
    let valid = place.valid.map(|valid| map.column(at + valid.start, valid.len()));
    SharedCells::packed(place.layout, map.column(at + place.cells.start, place.cells.len()), valid)
}
