//! Where the columns of a block lie: the body of a record batch message, in chunk files and in run files.
//!
//! Each column has, where one of its cells is null, a bitmap of the cells that are present, and then its cells; both are
//! padded with zeros to [`ALIGNMENT`](super::ipc::ALIGNMENT). Flags are bits.

use std::ops::Range;

use arrow::buffer::Buffer;

use super::bytes::range_of;
use super::ipc::padded;
use super::message::BufferSizes;
use crate::error::Result;
use crate::types::{CellLayout, CellSlice, SeriesDef, SharedCells};

/// Where the cells of one column lie in the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnPlace {
    pub layout: CellLayout,
    /// Bytes of the bitmap of present cells; `None` where no cell is null.
    pub valid: Option<Range<usize>>,
    /// Bytes of the cells.
    pub cells: Range<usize>,
}

/// Bytes of the cells of a column.
pub fn cell_bytes(layout: CellLayout, rows: usize) -> usize {
    match layout {
        CellLayout::Bytes(width) => rows * usize::from(width),
        CellLayout::Flag => rows.div_ceil(8),
    }
}

/// Places of all columns, `ts` first. `nulls` has a bit per column after `ts`, the lowest for the first: whether it has
/// nulls.
pub fn places(layouts: impl Iterator<Item = CellLayout>, rows: usize, nulls: u64) -> impl Iterator<Item = ColumnPlace> {
    let mut at = 0;
    layouts.enumerate().map(move |(position, layout)| {
        let mut take = |bytes: usize| {
            let range = at..at + bytes;
            at += padded(bytes);
            range
        };
        let has_nulls = position.checked_sub(1).is_some_and(|column| nulls >> column & 1 == 1);
        let valid = has_nulls.then(|| take(rows.div_ceil(8)));
        ColumnPlace { layout, valid, cells: take(cell_bytes(layout, rows)) }
    })
}

/// Bytes of a body.
pub fn body_bytes(layouts: impl Iterator<Item = CellLayout>, rows: usize, nulls: u64) -> usize {
    places(layouts, rows, nulls).last().map_or(0, |last| padded(last.cells.end))
}

/// Copies of the columns of a body that starts at `at` in a file.
///
/// # Errors
/// `corrupt_data` when the file ends before.
pub fn block_columns(file: &[u8], at: usize, def: &SeriesDef, rows: usize, nulls: u64) -> Result<Vec<SharedCells>> {
    let column = |place: ColumnPlace| {
        let part = |range: Range<usize>| range_of(file, at + range.start..at + range.end, "block").map(Buffer::from);
        Ok(SharedCells::packed(place.layout, part(place.cells)?, place.valid.map(part).transpose()?))
    };
    places(def.all_layouts(), rows, nulls).map(column).collect()
}

/// Bitmap and cells of a column.
type ColumnBytes<'a> = (Option<Vec<u8>>, std::borrow::Cow<'a, [u8]>);

/// The bytes of the columns of a body, without padding.
#[derive(Debug)]
pub struct Body<'a> {
    /// A bit per column after `ts`: whether it has nulls.
    pub nulls: u64,
    /// Bitmap and cells of each column.
    pub columns: Vec<ColumnBytes<'a>>,
    /// Sizes of each column.
    pub sizes: Vec<BufferSizes>,
}

impl<'a> Body<'a> {
    /// The bytes of these columns, `ts` first.
    pub fn of(columns: &[CellSlice<'a>]) -> Self {
        let mut body =
            Self { nulls: 0, columns: Vec::with_capacity(columns.len()), sizes: Vec::with_capacity(columns.len()) };
        for (position, column) in columns.iter().enumerate() {
            let nulls = column.null_count();
            let valid = (nulls > 0).then(|| column.packed_validity());
            let cells = column.packed_cells();
            if let (true, Some(column)) = (nulls > 0, position.checked_sub(1)) {
                body.nulls |= 1 << column;
            }
            let validity_bytes = valid.as_ref().map_or(0, Vec::len);
            body.sizes.push(BufferSizes { nulls, validity_bytes, cells_bytes: cells.len() });
            body.columns.push((valid, cells));
        }
        body
    }

    /// The buffers in order, each to be padded.
    pub fn buffers(&self) -> impl Iterator<Item = &[u8]> + '_ {
        self.columns.iter().flat_map(|(valid, cells)| valid.as_deref().into_iter().chain([cells.as_ref()]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ColumnCells;

    #[test]
    fn places_follow_each_other_and_have_the_bytes_of_their_columns() {
        let mut narrow = ColumnCells::new(CellLayout::Bytes(1));
        narrow.push(1_u8);
        narrow.push_null();
        narrow.push(3_u8);
        let columns = [ColumnCells::from([1_i64, 2, 3]), narrow, ColumnCells::flags([true, false, true])];
        let slices: Vec<CellSlice<'_>> = columns.iter().map(ColumnCells::as_slice).collect();
        let body = Body::of(&slices);
        assert_eq!(body.nulls, 1);
        let mut bytes = Vec::new();
        for buffer in body.buffers() {
            bytes.extend_from_slice(buffer);
            bytes.resize(padded(bytes.len()), 0);
        }
        let layouts = || columns.iter().map(ColumnCells::layout);
        assert_eq!(body_bytes(layouts(), 3, body.nulls), bytes.len());
        let places: Vec<ColumnPlace> = places(layouts(), 3, body.nulls).collect();
        assert_eq!((places[1].valid.clone(), places[1].cells.clone()), (Some(64..65), 128..131));
        assert_eq!(
            (&bytes[64..65], &bytes[128..131], &bytes[places[2].cells.clone()]),
            (&[5][..], &[1, 0, 3][..], &[5][..])
        );
    }
}
