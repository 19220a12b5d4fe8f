//! Blocks: consecutive rows in memory, one type from the chunk file to the response.

use std::ops::Range;
use std::sync::Arc;

use arrow::buffer::ScalarBuffer;
use bytes::Bytes;

use crate::error::{Error, Result};
use crate::format::ipc::PREFIX_BYTES;
use crate::types::width::narrow;
use crate::types::{CellSlice, ColumnCells, SharedCells, cells};

/// Consecutive rows under one schema: `ts`, then the columns of the registration.
///
/// The columns are memory of a mapped chunk or of a run, or cells that were gathered. Cloning and slicing a block copies
/// no cells and allocates nothing. All columns have all rows of the block.
#[derive(Clone, Debug)]
pub struct Block {
    /// Columns of which the block has the rows `from..from + rows`.
    columns: Arc<[SharedCells]>,
    from: usize,
    rows: usize,
    series: SeriesIndexes,
    message: Option<StoredMessage>,
}

/// Series of the rows of a block: positions in the keys of the result.
#[derive(Clone, Debug, Default)]
pub enum SeriesIndexes {
    /// The only series of the result.
    #[default]
    Only,
    /// All rows belong to this series.
    All(i32),
    /// One position per row.
    Each(ScalarBuffer<i32>),
}

/// The IPC message of exactly the rows and columns of a block, as a chunk file stores it.
#[derive(Clone, Debug)]
pub struct StoredMessage {
    bytes: Bytes,
    body_at: usize,
}

impl StoredMessage {
    /// A message of prefix and header, together `body_at` bytes, and the columns.
    pub fn new(bytes: Bytes, body_at: usize) -> Self {
        let body_at = body_at.clamp(PREFIX_BYTES.min(bytes.len()), bytes.len());
        Self { bytes, body_at }
    }

    /// Prefix, header and body in one: the message as an Arrow stream carries it.
    pub fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// The flatbuffer with its padding.
    pub fn header(&self) -> Bytes {
        self.bytes.slice(PREFIX_BYTES.min(self.body_at)..self.body_at)
    }

    /// The columns, each padded.
    pub fn body(&self) -> Bytes {
        self.bytes.slice(self.body_at..)
    }
}

impl Block {
    /// A block of these columns, `ts` first.
    ///
    /// # Errors
    /// `internal` unless there is `ts` and all columns have the given number of rows.
    pub fn new(rows: usize, columns: impl Into<Arc<[SharedCells]>>) -> Result<Self> {
        let columns = columns.into();
        if columns.is_empty() || columns.iter().any(|column| !column.has_rows(rows)) {
            let lengths: Vec<u64> = columns.iter().map(SharedCells::bytes).collect();
            return Err(Error::internal(format!("a block of {rows} rows has columns of {lengths:?} bytes")));
        }
        Ok(Self { columns, from: 0, rows, series: SeriesIndexes::Only, message: None })
    }

    /// The block together with its stored message.
    pub fn stored_as(self, message: StoredMessage) -> Self {
        Self { message: Some(message), ..self }
    }

    /// The block as part of a result of several series. Its message has no column for them.
    pub fn of_series(self, series: SeriesIndexes) -> Self {
        Self { series, message: None, ..self }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns, `ts` among them.
    pub fn column_count(&self) -> usize {
        self.columns.len()
    }

    /// The stored message, when the block is complete as a chunk file has it.
    pub fn message(&self) -> Option<&StoredMessage> {
        self.message.as_ref()
    }

    /// Size of the columns in bytes.
    pub fn bytes(&self) -> u64 {
        (0..self.columns.len()).map(|column| self.column(column).bytes()).sum()
    }

    /// Timestamps, ascending or, in a descending result, descending.
    pub fn timestamps(&self) -> &[i64] {
        self.words(0)
    }

    /// The cells of a column of 8 bytes; `ts` is column 0.
    #[inline]
    pub fn words(&self, column: usize) -> &[i64] {
        cells::range(cells::column(&self.columns, column).words(), self.from..self.from + self.rows)
    }

    /// The cells of one column; `ts` is column 0.
    pub fn column(&self, column: usize) -> CellSlice<'_> {
        cells::column(&self.columns, column).slice(self.from, self.rows)
    }

    /// The columns in order, without the rows around the block.
    pub fn columns(&self) -> impl ExactSizeIterator<Item = CellSlice<'_>> + '_ {
        self.columns.iter().map(|column| column.slice(self.from, self.rows))
    }

    /// The columns by reference, flags as bits, without the rows around the block.
    pub fn packed_columns(&self) -> impl ExactSizeIterator<Item = SharedCells> + '_ {
        self.columns.iter().map(|column| column.packed_slice(self.from, self.rows))
    }

    /// Position of the series of a row.
    pub fn series_of(&self, row: usize) -> usize {
        let position = match &self.series {
            SeriesIndexes::Only => 0,
            SeriesIndexes::All(position) => *position,
            SeriesIndexes::Each(positions) => cells::at(positions, row),
        };
        narrow(position)
    }

    /// Position of the series of each row.
    pub fn series_indexes(&self) -> ScalarBuffer<i32> {
        match &self.series {
            SeriesIndexes::Only => vec![0; self.rows].into(),
            SeriesIndexes::All(position) => vec![*position; self.rows].into(),
            SeriesIndexes::Each(positions) => positions.clone(),
        }
    }

    /// Rows `from..from + rows`.
    ///
    /// # Panics
    /// When the block has fewer.
    pub fn slice(&self, from: usize, rows: usize) -> Self {
        if from == 0 && rows == self.rows {
            return self.clone();
        }
        assert!(from + rows <= self.rows, "rows {from}..{} of a block of {}", from + rows, self.rows);
        let series = match &self.series {
            SeriesIndexes::Each(positions) => SeriesIndexes::Each(positions.slice(from, rows)),
            same => same.clone(),
        };
        Self { columns: Arc::clone(&self.columns), from: self.from + from, rows, series, message: None }
    }

    /// The block with these columns only, in this order.
    pub fn select(&self, columns: &[usize]) -> Self {
        let columns = columns.iter().map(|position| cells::column(&self.columns, *position).clone()).collect();
        Self { columns, from: self.from, rows: self.rows, series: self.series.clone(), message: None }
    }

    /// The memory of the block, which all its slices share.
    pub fn memory(&self) -> &Arc<[SharedCells]> {
        &self.columns
    }
}

/// Some rows of a block, in time order: what a merge yields, and what predicates leave of it.
///
/// Not a [`Block`], since the rows may lie apart: such rows are never sent where they are, but gathered into a block.
#[derive(Clone, Debug)]
pub struct BlockRows {
    block: Block,
    /// The rows, where they lie apart: these of the positions in the block.
    picked: Option<(Arc<Vec<u32>>, Range<usize>)>,
    /// Id of the chunk the rows are of, and the position in it of the first row of the block; `None` for rows of a run.
    place: Option<(u64, usize)>,
}

impl BlockRows {
    /// All rows of a block.
    pub fn all(block: Block, place: Option<(u64, usize)>) -> Self {
        Self { block, picked: None, place }
    }

    /// Those of the rows of the block that are at these ascending positions.
    pub fn pick(self, positions: Vec<u32>) -> Self {
        let range = 0..positions.len();
        Self { picked: Some((Arc::new(positions), range)), ..self }
    }

    /// The block of which these are rows.
    pub fn block(&self) -> &Block {
        &self.block
    }

    /// The block, whose rows are all of these unless they lie apart.
    pub fn into_block(self) -> Block {
        self.block
    }

    /// Id of the chunk, and the position in it of the first row of the block.
    pub fn place(&self) -> Option<(u64, usize)> {
        self.place
    }

    /// Positions in the block, where the rows lie apart.
    pub fn picked(&self) -> Option<&[u32]> {
        self.picked.as_ref().map(|(positions, range)| cells::range(positions, range.clone()))
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.picked.as_ref().map_or(self.block.rows, |(_, range)| range.len())
    }

    /// Timestamp of the n-th row, counted from 0.
    pub fn ts(&self, n: usize) -> Option<i64> {
        let row = match self.picked() {
            Some(picked) => *picked.get(n)? as usize,
            None => n,
        };
        self.block.timestamps().get(row).copied()
    }

    /// Some of the rows.
    pub fn slice(&self, from: usize, rows: usize) -> Self {
        match &self.picked {
            Some((positions, range)) => {
                assert!(from + rows <= range.len(), "rows {from}..{} of {}", from + rows, range.len());
                let range = range.start + from..range.start + from + rows;
                Self { block: self.block.clone(), picked: Some((Arc::clone(positions), range)), place: self.place }
            }
            None => Self {
                block: self.block.slice(from, rows),
                picked: None,
                place: self.place.map(|(chunk, first)| (chunk, first + from)),
            },
        }
    }

    /// Removes the first `rows` rows and returns them; the last ones, where `desc`.
    pub fn split_off(&mut self, rows: usize, desc: bool) -> Self {
        let rest = self.rows().saturating_sub(rows);
        let (taken, left) = if desc { ((rest, rows), (0, rest)) } else { ((0, rows), (rows, rest)) };
        let taken = self.slice(taken.0, taken.1);
        *self = self.slice(left.0, left.1);
        taken
    }

    /// Appends the cells of one column, backwards where `desc`.
    pub fn append_to(&self, column: usize, desc: bool, to: &mut ColumnCells) {
        let from = self.block.column(column);
        let row = |row: &u32| *row as usize;
        match (self.picked(), desc) {
            (None, false) => to.extend(from),
            (None, true) => to.extend_picked(from, (0..from.len()).rev()),
            (Some(picked), false) => to.extend_picked(from, picked.iter().map(row)),
            (Some(picked), true) => to.extend_picked(from, picked.iter().rev().map(row)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block() -> Block {
        let columns = [[1_i64, 2, 3, 4], [10, 20, 30, 40]].map(|words| ColumnCells::from(words).into());
        let bytes = Bytes::from_static(&[0; 32]);
        Block::new(4, columns).unwrap().stored_as(StoredMessage::new(bytes, 16))
    }

    #[test]
    fn only_the_complete_block_has_the_stored_message() {
        let whole = block().slice(0, 4);
        let message = whole.message().unwrap();
        assert_eq!((message.bytes().len(), message.header().len(), message.body().len()), (32, 8, 16));
        assert!(block().slice(0, 3).message().is_none() && block().select(&[0, 1]).message().is_none());
        assert!(block().of_series(SeriesIndexes::All(1)).message().is_none());
    }

    #[test]
    fn a_slice_has_its_rows_of_every_column_and_of_nothing_else() {
        let rows = block().slice(1, 3).slice(1, 1);
        assert_eq!((rows.rows(), rows.words(0), rows.words(1), rows.bytes()), (1, &[3][..], &[30][..], 16));
        assert_eq!(rows.packed_columns().map(|column| column.bytes()).collect::<Vec<_>>(), [8, 8]);
        assert_eq!(block().select(&[1]).slice(3, 1).words(0), [40]);
        assert!(std::panic::catch_unwind(|| block().slice(1, 2).slice(1, 2)).is_err());
        let labelled = block().of_series(SeriesIndexes::Each(vec![5, 6, 7, 8].into())).slice(2, 2);
        assert_eq!((labelled.series_of(0), labelled.series_indexes().to_vec()), (7, vec![7, 8]));
    }

    #[test]
    fn columns_of_other_lengths_form_no_block() {
        let columns = || vec![ColumnCells::from([1_i64, 2]).into(), ColumnCells::from([1_i64]).into()];
        assert!(Block::new(2, columns()).is_err() && Block::new(1, columns()).is_err());
        assert!(Block::new(0, Vec::new()).is_err());
    }

    #[test]
    fn rows_that_lie_apart_are_split_and_copied_in_both_directions() {
        let mut rows = BlockRows::all(block(), Some((9, 100))).pick(vec![0, 2, 3]);
        let mut copied = ColumnCells::new(crate::types::CellLayout::WORD);
        rows.append_to(1, true, &mut copied);
        assert_eq!((copied.words(), rows.ts(1)), (&[40, 30, 10][..], Some(3)));
        let last = rows.split_off(1, true);
        assert_eq!((last.picked(), rows.picked()), (Some(&[3][..]), Some(&[0, 2][..])));
        let mut rows = BlockRows::all(block(), Some((9, 100)));
        let first = rows.split_off(3, false);
        assert_eq!((first.rows(), first.place(), rows.rows(), rows.place()), (3, Some((9, 100)), 1, Some((9, 103))));
    }
}
