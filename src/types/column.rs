//! Columns of cells in memory, of any width, with or without nulls.
//!
//! A cell has the little-endian bytes of its type; those of a null are zeros. A flag, which is a cell of `bool` or says
//! whether a cell is present, has one byte (0 or 1) in memory that grows, and one bit, least significant first, in chunk
//! files and in Arrow.

use std::fmt;

use arrow::buffer::{BooleanBuffer, Buffer, MutableBuffer};
use arrow::datatypes::ArrowNativeType;
use arrow::util::bit_chunk_iterator::UnalignedBitChunk;

use super::cells;
use super::width::to_usize;

/// The position of no row, for [`ColumnCells::extend_or_null`].
pub const NO_ROW: u32 = u32::MAX;

/// How the cells of a column lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CellLayout {
    /// So many bytes each, at least 1.
    Bytes(u16),
    /// A flag each.
    Flag,
}

impl CellLayout {
    /// Cells of 8 bytes, such as timestamps.
    pub const WORD: Self = Self::Bytes(8);

    /// Bytes of a cell in memory that grows.
    pub fn width(self) -> usize {
        match self {
            Self::Bytes(width) => width.into(),
            Self::Flag => 1,
        }
    }
}

/// A type whose values are cells.
pub trait Cell: ArrowNativeType + bytemuck::Pod {}

impl<T: ArrowNativeType + bytemuck::Pod> Cell for T {}

/// A column that rows are appended to.
pub struct ColumnCells {
    layout: CellLayout,
    cells: MutableBuffer,
    /// A flag per row; absent while no cell is null.
    valid: Option<MutableBuffer>,
}

impl ColumnCells {
    pub fn new(layout: CellLayout) -> Self {
        Self::with_capacity(layout, 0)
    }

    /// An empty column with memory for `rows` cells.
    pub fn with_capacity(layout: CellLayout, rows: usize) -> Self {
        Self { layout, cells: MutableBuffer::new(rows * layout.width()), valid: None }
    }

    /// A column of flags.
    pub fn flags(flags: impl IntoIterator<Item = bool>) -> Self {
        let bytes: Vec<u8> = flags.into_iter().map(u8::from).collect();
        Self { layout: CellLayout::Flag, ..Self::from(bytes) }
    }

    pub fn layout(&self) -> CellLayout {
        self.layout
    }

    /// Number of cells.
    pub fn len(&self) -> usize {
        self.cells.len() / self.layout.width()
    }

    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// Size of cells and validity in bytes.
    pub fn bytes(&self) -> usize {
        self.cells.len() + self.valid.as_ref().map_or(0, MutableBuffer::len)
    }

    /// All cells.
    pub fn as_slice(&self) -> CellSlice<'_> {
        let valid = self.valid.as_deref();
        CellSlice { layout: self.layout, packed: false, cells: &self.cells, valid, from: 0, rows: self.len() }
    }

    /// The cells of a column of 8 bytes.
    pub fn words(&self) -> &[i64] {
        self.as_slice().words()
    }

    /// The cells of a column of 8 bytes, to be changed.
    ///
    /// # Panics
    /// When the cells are not of 8 bytes.
    pub fn words_mut(&mut self) -> &mut [i64] {
        assert_eq!(self.layout, CellLayout::WORD, "layout of the cells");
        self.cells.typed_data_mut()
    }

    /// The cells, to be changed. Those of nulls stay zero.
    ///
    /// # Panics
    /// When the cells have another width.
    pub fn cells_mut<T: Cell>(&mut self) -> &mut [T] {
        assert_eq!(size_of::<T>(), self.layout.width(), "width of the cells");
        self.cells.typed_data_mut()
    }

    /// Replaces a cell by one of another column of the same layout.
    ///
    /// # Panics
    /// When it has another layout, or at a row outside of the column.
    pub fn set(&mut self, row: usize, from: CellSlice<'_>, from_row: usize) {
        assert_eq!(self.layout, from.layout(), "layout of the cells");
        let (rows, width) = (self.len(), self.layout.width());
        cells::put(&mut self.cells, row * width, &from.slice(from_row, 1).cell_bytes());
        let is_valid = from.is_valid(from_row);
        if !is_valid || self.valid.is_some() {
            let valid = self.valid.get_or_insert_with(|| ones(rows));
            cells::put(valid, row, &[u8::from(is_valid)]);
        }
    }

    /// Appends a cell that is not null.
    ///
    /// # Panics
    /// When the cells have another width.
    pub fn push<T: Cell>(&mut self, cell: T) {
        assert_eq!(size_of::<T>(), self.layout.width(), "width of the cells");
        self.cells.push(cell);
        if let Some(valid) = &mut self.valid {
            valid.push(1_u8);
        }
    }

    /// A column of these bytes, with flags as bytes; `None` when they are no complete cells, or no flags.
    pub fn from_bytes(layout: CellLayout, cells: &[u8], valid: Option<&[u8]>) -> Option<Self> {
        let is_flags = |bytes: &[u8]| bytes.iter().all(|byte| *byte <= 1);
        let rows = cells.len() / layout.width();
        let fits = rows * layout.width() == cells.len()
            && valid.is_none_or(|valid| valid.len() == rows && is_flags(valid))
            && (layout != CellLayout::Flag || is_flags(cells));
        let buffer = |bytes: &[u8]| {
            let mut buffer = MutableBuffer::new(bytes.len());
            buffer.extend_from_slice(bytes);
            buffer
        };
        fits.then(|| Self { layout, cells: buffer(cells), valid: valid.map(buffer) })
    }

    /// Appends a cell by its bytes; it is not null.
    ///
    /// # Panics
    /// When it has another width.
    pub fn push_bytes(&mut self, cell: &[u8]) {
        assert_eq!(cell.len(), self.layout.width(), "width of the cells");
        self.cells.extend_from_slice(cell);
        if let Some(valid) = &mut self.valid {
            valid.push(1_u8);
        }
    }

    /// Removes all cells and keeps their memory.
    pub fn clear(&mut self) {
        self.cells.clear();
        self.valid = None;
    }

    /// Appends a null.
    pub fn push_null(&mut self) {
        let rows = self.len();
        self.valid.get_or_insert_with(|| ones(rows)).push(0_u8);
        self.cells.extend_zeros(self.layout.width());
    }

    /// Appends the cells of `from`.
    ///
    /// # Panics
    /// When they are of another layout.
    pub fn extend(&mut self, from: CellSlice<'_>) {
        self.extend_valid(from, 0..from.rows);
        match from.plain() {
            Some(bytes) => self.cells.extend_from_slice(bytes),
            None => (0..from.rows).for_each(|row| self.cells.push(u8::from(from.flag(row)))),
        }
    }

    /// Appends the cells of `from` at these positions, in their order.
    ///
    /// # Panics
    /// When they are of another layout, or at a position outside of `from`.
    pub fn extend_picked(&mut self, from: CellSlice<'_>, rows: impl ExactSizeIterator<Item = usize> + Clone) {
        self.extend_valid(from, rows.clone());
        let Some(bytes) = from.plain() else {
            return rows.for_each(|row| self.cells.push(u8::from(from.flag(row))));
        };
        match self.layout.width() {
            1 => gather::<u8>(&mut self.cells, bytes, rows),
            2 => gather::<u16>(&mut self.cells, bytes, rows),
            4 => gather::<u32>(&mut self.cells, bytes, rows),
            8 => gather::<u64>(&mut self.cells, bytes, rows),
            16 => gather::<u128>(&mut self.cells, bytes, rows),
            width => rows.for_each(|row| {
                let at = row * width;
                self.cells.extend_from_slice(cells::range(bytes, at..at + width));
            }),
        }
    }

    /// Appends the cells of `from` at these positions, in their order, and a null for each [`NO_ROW`].
    ///
    /// # Panics
    /// When they are of another layout, or at a position outside of `from`.
    pub fn extend_or_null(&mut self, from: CellSlice<'_>, rows: &[u32]) {
        assert_eq!(self.layout, from.layout, "layout of the cells");
        assert!(rows.iter().all(|row| *row == NO_ROW || to_usize(*row) < from.rows), "a row outside of the cells");
        let own = self.len();
        let has_gaps = rows.contains(&NO_ROW);
        if has_gaps || from.has_validity() || self.valid.is_some() {
            let valid = self.valid.get_or_insert_with(|| ones(own));
            valid.resize(own + rows.len(), 1);
            let new = cells::range_mut(valid.typed_data_mut::<u8>(), own..own + rows.len());
            if from.has_validity() {
                for (valid, row) in new.iter_mut().zip(rows) {
                    *valid = u8::from(*row != NO_ROW && from.is_valid(to_usize(*row)));
                }
            } else if has_gaps {
                for (valid, row) in new.iter_mut().zip(rows) {
                    *valid = u8::from(*row != NO_ROW);
                }
            }
        }
        let Some(bytes) = from.plain() else {
            let flag = |row: &u32| u8::from(*row != NO_ROW && from.flag(to_usize(*row)));
            return rows.iter().for_each(|row| self.cells.push(flag(row)));
        };
        match self.layout.width() {
            1 => gather_or_zero::<u8>(&mut self.cells, bytes, rows),
            2 => gather_or_zero::<u16>(&mut self.cells, bytes, rows),
            4 => gather_or_zero::<u32>(&mut self.cells, bytes, rows),
            8 => gather_or_zero::<u64>(&mut self.cells, bytes, rows),
            16 => gather_or_zero::<u128>(&mut self.cells, bytes, rows),
            width => rows.iter().for_each(|row| match *row {
                NO_ROW => self.cells.extend_zeros(width),
                row => {
                    let at = to_usize(row) * width;
                    self.cells.extend_from_slice(cells::range(bytes, at..at + width));
                }
            }),
        }
    }

    /// Appends nulls.
    pub fn extend_nulls(&mut self, rows: usize) {
        let own = self.len();
        if rows > 0 {
            self.valid.get_or_insert_with(|| ones(own)).extend_zeros(rows);
            self.cells.extend_zeros(rows * self.layout.width());
        }
    }

    fn extend_valid(&mut self, from: CellSlice<'_>, rows: impl ExactSizeIterator<Item = usize>) {
        assert_eq!(self.layout, from.layout, "layout of the cells");
        let own = self.len();
        if let Some(valid) = self.valid.as_mut().filter(|_| from.valid.is_none()) {
            valid.extend(std::iter::repeat_n(1_u8, rows.len()));
        } else if from.valid.is_some() {
            let valid = self.valid.get_or_insert_with(|| ones(own));
            rows.for_each(|row| valid.push(u8::from(from.is_valid(row))));
        }
    }
}

fn ones(rows: usize) -> MutableBuffer {
    std::iter::repeat_n(1_u8, rows).collect()
}

fn gather<T: Cell>(to: &mut MutableBuffer, from: &[u8], rows: impl ExactSizeIterator<Item = usize>) {
    let from: &[T] = bytemuck::cast_slice(from);
    let before = to.len() / size_of::<T>();
    to.resize((before + rows.len()) * size_of::<T>(), 0);
    let new = cells::range_mut(to.typed_data_mut::<T>(), before..before + rows.len());
    for (cell, row) in new.iter_mut().zip(rows) {
        *cell = cells::at(from, row);
    }
}

/// Like [`gather`], and zeros for positions without a row.
fn gather_or_zero<T: Cell>(to: &mut MutableBuffer, from: &[u8], rows: &[u32]) {
    let from: &[T] = bytemuck::cast_slice(from);
    let before = to.len() / size_of::<T>();
    to.resize((before + rows.len()) * size_of::<T>(), 0);
    let new = cells::range_mut(to.typed_data_mut::<T>(), before..before + rows.len());
    for (cell, row) in new.iter_mut().zip(rows) {
        *cell = from.get(to_usize(*row)).copied().unwrap_or_default();
    }
}

impl<T: Cell> From<Vec<T>> for ColumnCells {
    /// Cells that are not null.
    fn from(cells: Vec<T>) -> Self {
        let layout = CellLayout::Bytes(super::width::narrow(size_of::<T>()));
        Self { layout, cells: MutableBuffer::from(cells), valid: None }
    }
}

impl<T: Cell, const N: usize> From<[T; N]> for ColumnCells {
    fn from(cells: [T; N]) -> Self {
        Self::from(cells.to_vec())
    }
}

impl Clone for ColumnCells {
    fn clone(&self) -> Self {
        let mut copy = Self::with_capacity(self.layout, self.len());
        copy.extend(self.as_slice());
        copy
    }
}

impl PartialEq for ColumnCells {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for ColumnCells {}

impl<const N: usize> PartialEq<[i64; N]> for ColumnCells {
    fn eq(&self, words: &[i64; N]) -> bool {
        self.as_slice() == CellSlice::of_words(words)
    }
}

impl PartialEq<Vec<i64>> for ColumnCells {
    fn eq(&self, words: &Vec<i64>) -> bool {
        self.as_slice() == CellSlice::of_words(words)
    }
}

impl fmt::Debug for ColumnCells {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_slice().fmt(f)
    }
}

/// Cells of a column in memory that others read too, such as a mapped chunk.
#[derive(Clone, Debug)]
pub struct SharedCells {
    layout: CellLayout,
    /// Whether flags are bits.
    packed: bool,
    cells: Buffer,
    valid: Option<Buffer>,
}

impl SharedCells {
    /// Cells of 8 bytes, none of them null.
    pub fn of_words(cells: Buffer) -> Self {
        Self { layout: CellLayout::WORD, packed: false, cells, valid: None }
    }

    /// Cells as memory that grows has them: flags are bytes.
    pub fn unpacked(layout: CellLayout, cells: Buffer, valid: Option<Buffer>) -> Self {
        Self { layout, packed: false, cells, valid }
    }

    /// Cells as chunk files have them: flags are bits.
    pub fn packed(layout: CellLayout, cells: Buffer, valid: Option<Buffer>) -> Self {
        Self { layout, packed: true, cells, valid }
    }

    /// A column of nulls.
    pub fn nulls(layout: CellLayout, rows: usize) -> Self {
        let zeros = |bytes: usize| Buffer::from(MutableBuffer::from_len_zeroed(bytes));
        Self::unpacked(layout, zeros(rows * layout.width()), Some(zeros(rows)))
    }

    pub fn layout(&self) -> CellLayout {
        self.layout
    }

    /// Whether the memory has exactly this number of cells, up to bits of the last byte.
    pub fn has_rows(&self, rows: usize) -> bool {
        let flags = if self.packed { rows.div_ceil(8) } else { rows };
        let cells = match self.layout {
            CellLayout::Bytes(width) => rows * to_usize(width),
            CellLayout::Flag => flags,
        };
        self.cells.len() == cells && self.valid.as_ref().is_none_or(|valid| valid.len() == flags)
    }

    /// Some of the cells.
    pub fn slice(&self, from: usize, rows: usize) -> CellSlice<'_> {
        let valid = self.valid.as_deref();
        CellSlice { layout: self.layout, packed: self.packed, cells: &self.cells, valid, from, rows }
    }

    /// Some of the cells by reference, flags as bits: as Arrow has them. Flags that do not start in the first bit of a
    /// byte, or that are bytes, are copied.
    pub fn packed_slice(&self, from: usize, rows: usize) -> Self {
        let flags = |flags: &Buffer| match self.packed {
            true => flags.bit_slice(from, rows),
            false => BooleanBuffer::collect_bool(rows, |row| cells::at(flags, from + row) == 1).into_inner(),
        };
        let cells = match self.layout {
            CellLayout::Bytes(width) => self.cells.slice_with_length(from * to_usize(width), rows * to_usize(width)),
            CellLayout::Flag => flags(&self.cells),
        };
        Self { layout: self.layout, packed: true, cells, valid: self.valid.as_ref().map(flags) }
    }

    /// The cells of a column of 8 bytes.
    #[inline]
    pub fn words(&self) -> &[i64] {
        debug_assert_eq!(self.layout, CellLayout::WORD, "layout of the cells");
        self.cells.typed_data()
    }

    /// The memory of the cells.
    pub fn buffer(&self) -> &Buffer {
        &self.cells
    }

    /// The memory of the flags that say which cells are present.
    pub fn validity(&self) -> Option<&Buffer> {
        self.valid.as_ref()
    }

    /// Whether flags are bits.
    pub fn is_packed(&self) -> bool {
        self.packed
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        (self.cells.len() + self.valid.as_ref().map_or(0, Buffer::len)) as u64
    }
}

impl From<ColumnCells> for SharedCells {
    fn from(column: ColumnCells) -> Self {
        Self::unpacked(column.layout, column.cells.into(), column.valid.map(Buffer::from))
    }
}

/// Consecutive cells of a column.
#[derive(Clone, Copy)]
pub struct CellSlice<'a> {
    layout: CellLayout,
    /// Whether flags are bits.
    packed: bool,
    /// Memory of all cells of the column, of which the slice has `from..from + rows`.
    cells: &'a [u8],
    valid: Option<&'a [u8]>,
    from: usize,
    rows: usize,
}

impl<'a> CellSlice<'a> {
    pub fn len(&self) -> usize {
        self.rows
    }

    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    pub fn layout(&self) -> CellLayout {
        self.layout
    }

    /// Cells of 8 bytes, none of them null.
    pub fn of_words(words: &'a [i64]) -> Self {
        let cells = bytemuck::cast_slice(words);
        Self { layout: CellLayout::WORD, packed: false, cells, valid: None, from: 0, rows: words.len() }
    }

    /// Some of the cells.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn slice(&self, from: usize, rows: usize) -> Self {
        assert!(from + rows <= self.rows, "cells {from}..{} of {}", from + rows, self.rows);
        Self { from: self.from + from, rows, ..*self }
    }

    /// The memory of the cells; of bits all of the column.
    pub fn memory(&self) -> &'a [u8] {
        self.plain().unwrap_or(self.cells)
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        let flags = if self.packed { self.rows.div_ceil(8) } else { self.rows };
        let cells = match self.layout {
            CellLayout::Bytes(width) => self.rows * to_usize(width),
            CellLayout::Flag => flags,
        };
        (cells + if self.valid.is_some() { flags } else { 0 }) as u64
    }

    /// The bytes of the cells; `None` for flags that are bits.
    pub fn plain(&self) -> Option<&'a [u8]> {
        if self.packed && self.layout == CellLayout::Flag {
            return None;
        }
        let width = self.layout.width();
        Some(cells::range(self.cells, self.from * width..(self.from + self.rows) * width))
    }

    /// The cells as values of a type of their width. Those of nulls are zero.
    ///
    /// # Panics
    /// When they are flags or have another width.
    #[inline]
    pub fn typed<T: Cell>(&self) -> &'a [T] {
        assert_eq!(self.layout, CellLayout::Bytes(super::width::narrow(size_of::<T>())), "layout of the cells");
        cells::range(bytemuck::cast_slice(self.cells), self.from..self.from + self.rows)
    }

    /// The cells of a column of 8 bytes.
    #[inline]
    pub fn words(&self) -> &'a [i64] {
        self.typed()
    }

    /// The flag of a row, of a column of flags.
    pub fn flag(&self, row: usize) -> bool {
        assert_eq!(self.layout, CellLayout::Flag, "layout of the cells");
        self.flag_in(self.cells, row)
    }

    /// Whether the cell of a row is not null.
    pub fn is_valid(&self, row: usize) -> bool {
        self.valid.is_none_or(|valid| self.flag_in(valid, row))
    }

    /// Whether some cells can be null.
    pub fn has_validity(&self) -> bool {
        self.valid.is_some()
    }

    /// Number of nulls.
    pub fn null_count(&self) -> usize {
        self.valid.map_or(0, |valid| self.rows - self.flags_set(valid))
    }

    /// Number of flags that are set, of a column of flags. Those of nulls are not set.
    pub fn set_count(&self) -> usize {
        assert_eq!(self.layout, CellLayout::Flag, "layout of the cells");
        self.flags_set(self.cells)
    }

    /// Clears the marks of rows whose cell is null, or with `is_null` of all other rows.
    pub fn keep_marks_by_null(&self, is_null: bool, marks: &mut [bool]) {
        match self.valid {
            Some(valid) => self.keep_marks(valid, !is_null, marks),
            None if is_null => marks.fill(false),
            None => {}
        }
    }

    /// Clears the marks of rows whose flag is another one, of a column of flags.
    pub fn keep_marks_by_flag(&self, flag: bool, marks: &mut [bool]) {
        assert_eq!(self.layout, CellLayout::Flag, "layout of the cells");
        self.keep_marks(self.cells, flag, marks);
    }

    fn flags_set(&self, flags: &[u8]) -> usize {
        if self.packed {
            UnalignedBitChunk::new(flags, self.from, self.rows).count_ones()
        } else {
            cells::range(flags, self.from..self.from + self.rows).iter().map(|flag| usize::from(*flag)).sum()
        }
    }

    fn keep_marks(&self, flags: &[u8], wanted: bool, marks: &mut [bool]) {
        assert_eq!(marks.len(), self.rows, "marks of the cells");
        if !self.packed {
            let flags = cells::range(flags, self.from..self.from + self.rows);
            for (mark, flag) in marks.iter_mut().zip(flags) {
                *mark &= (*flag == 1) == wanted;
            }
            return;
        }
        let flip = if wanted { 0 } else { u8::MAX };
        for (byte, marks) in marks.chunks_mut(8).enumerate() {
            // Eight flags, which can lie in two bytes.
            let at = self.from + byte * 8;
            let next = flags.get(at / 8 + 1).copied().unwrap_or(0);
            let bits = (u16::from_le_bytes([cells::at(flags, at / 8), next]) >> (at % 8)).to_le_bytes();
            let bits = cells::at(&bits, 0) ^ flip;
            for (bit, mark) in marks.iter_mut().enumerate() {
                *mark &= bits >> bit & 1 == 1;
            }
        }
    }

    fn flag_in(&self, flags: &[u8], row: usize) -> bool {
        assert!(row < self.rows, "cell {row} of {}", self.rows);
        let at = self.from + row;
        if self.packed { cells::at(flags, at / 8) >> (at % 8) & 1 == 1 } else { cells::at(flags, at) == 1 }
    }

    /// The flags that say which cells are present, a byte each; `None` when none can be null.
    pub fn validity_bytes(&self) -> Option<Vec<u8>> {
        self.valid.map(|_| (0..self.rows).map(|row| u8::from(self.is_valid(row))).collect())
    }

    /// The bytes of the cells in files and in Arrow: flags are bits, those after the last row 0.
    pub fn packed_cells(&self) -> std::borrow::Cow<'a, [u8]> {
        match (self.layout, self.plain()) {
            (CellLayout::Bytes(_), Some(bytes)) => bytes.into(),
            _ => self.pack(|row| self.flag(row)).into(),
        }
    }

    /// The flags that say which cells are present, as bits.
    pub fn packed_validity(&self) -> Vec<u8> {
        self.pack(|row| self.is_valid(row))
    }

    fn pack(&self, flag: impl Fn(usize) -> bool) -> Vec<u8> {
        let bits = |byte: usize| {
            let rows = 8 * byte..self.rows.min(8 * byte + 8);
            rows.enumerate().fold(0, |bits, (at, row)| bits | u8::from(flag(row)) << at)
        };
        (0..self.rows.div_ceil(8)).map(bits).collect()
    }

    /// The bytes of the cells in memory that grows: flags are bytes.
    pub fn cell_bytes(&self) -> std::borrow::Cow<'a, [u8]> {
        match self.plain() {
            Some(bytes) => bytes.into(),
            None => (0..self.rows).map(|row| u8::from(self.flag(row))).collect::<Vec<u8>>().into(),
        }
    }
}

impl<'a> From<&'a [i64]> for CellSlice<'a> {
    fn from(words: &'a [i64]) -> Self {
        Self::of_words(words)
    }
}

impl PartialEq for CellSlice<'_> {
    fn eq(&self, other: &Self) -> bool {
        let same_nulls = || (0..self.rows).all(|row| self.is_valid(row) == other.is_valid(row));
        self.layout == other.layout
            && self.rows == other.rows
            && self.cell_bytes() == other.cell_bytes()
            && (self.valid.is_none() && other.valid.is_none() || same_nulls())
    }
}

impl fmt::Debug for CellSlice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.cell_bytes();
        let width = self.layout.width();
        let mut list = f.debug_list();
        for (row, cell) in bytes.chunks_exact(width).enumerate() {
            match (self.is_valid(row), width) {
                (false, _) => list.entry(&"null"),
                (true, 8) => list.entry(&i64::from_le_bytes(cells::array(cell, 0))),
                (true, 1) => list.entry(&cells::at(cell, 0)),
                (true, _) => list.entry(&cell),
            };
        }
        list.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_nulls() -> ColumnCells {
        let mut column = ColumnCells::new(CellLayout::Bytes(4));
        column.push(7_u32);
        column.push_null();
        column.push(9_u32);
        column
    }

    #[test]
    fn cells_of_every_width_are_appended_sliced_and_picked() {
        let columns: [ColumnCells; 6] = [
            [1_u8, 2, 3].into(),
            [1_u16, 2, 3].into(),
            [1_u32, 2, 3].into(),
            [1_i64, 2, 3].into(),
            [1_i128, 2, 3].into(),
            ColumnCells::flags([true, false, true]),
        ];
        for column in columns {
            let mut picked = ColumnCells::new(column.layout());
            picked.extend_picked(column.as_slice(), [2, 0].into_iter());
            picked.extend(column.as_slice().slice(1, 1));
            let mut other = ColumnCells::new(column.layout());
            for row in [2, 0, 1] {
                other.extend(column.as_slice().slice(row, 1));
            }
            assert_eq!(picked, other);
            assert_eq!((picked.len(), picked.bytes()), (3, 3 * column.layout().width()));
        }
    }

    #[test]
    fn nulls_are_kept_and_are_no_zeros() {
        let column = with_nulls();
        assert_eq!(column.as_slice().null_count(), 1);
        assert_ne!(column, ColumnCells::from([7_u32, 0, 9]));
        let mut copy = ColumnCells::from([1_u32]);
        copy.extend_picked(column.as_slice(), [1, 2].into_iter());
        copy.push(4_u32);
        copy.extend(ColumnCells::from([5_u32]).as_slice());
        let valid: Vec<bool> = (0..copy.len()).map(|row| copy.as_slice().is_valid(row)).collect();
        assert_eq!(valid, [true, false, true, true, true]);
        assert_eq!(copy.as_slice().typed::<u32>(), [1, 0, 9, 4, 5]);
        assert_eq!(copy.clone(), copy);
    }

    #[test]
    fn flags_are_the_same_as_bits_and_as_bytes() {
        let bits =
            SharedCells::packed(CellLayout::Flag, vec![0b0000_0101_u8].into(), Some(vec![0b0000_0110_u8].into()));
        let bytes = SharedCells::unpacked(CellLayout::Flag, vec![1_u8, 0, 1].into(), Some(vec![0_u8, 1, 1].into()));
        assert!(bits.has_rows(3) && bits.has_rows(8) && !bits.has_rows(9) && bytes.has_rows(3) && !bytes.has_rows(8));
        assert_eq!(bits.slice(0, 3), bytes.slice(0, 3));
        assert_eq!(bits.slice(1, 2), bytes.slice(1, 2));
        assert_ne!(bits.slice(1, 2), bytes.slice(0, 2));
        let mut copy = ColumnCells::new(CellLayout::Flag);
        copy.extend_picked(bits.slice(0, 3), [2, 1, 0].into_iter());
        copy.extend(bits.slice(0, 3));
        assert_eq!(copy.as_slice().validity_bytes().unwrap(), [1, 1, 0, 0, 1, 1]);
        assert_eq!(copy.as_slice().cell_bytes()[..], [1, 0, 1, 1, 0, 1]);
    }

    #[test]
    fn flags_in_any_place_of_the_memory_are_counted_and_clear_marks() {
        let flags: Vec<bool> = (0..203).map(|row| row % 3 == 0 || row % 7 == 1).collect();
        let present: Vec<bool> = (0..203).map(|row| row % 5 != 2).collect();
        let bits = |flags: &[bool]| BooleanBuffer::from(flags.to_vec()).into_inner();
        let bytes = |flags: &[bool]| flags.iter().map(|flag| u8::from(*flag)).collect::<Vec<u8>>().into();
        let packed = SharedCells::packed(CellLayout::Flag, bits(&flags), Some(bits(&present)));
        let unpacked = SharedCells::unpacked(CellLayout::Flag, bytes(&flags), Some(bytes(&present)));
        for (from, rows) in [(0, 203), (0, 8), (1, 7), (5, 190), (8, 64), (63, 140), (202, 1), (9, 0)] {
            for cells in [packed.slice(from, rows), unpacked.slice(from, rows)] {
                let (flags, present) = (&flags[from..from + rows], &present[from..from + rows]);
                assert_eq!(cells.set_count(), flags.iter().filter(|flag| **flag).count());
                assert_eq!(cells.null_count(), present.iter().filter(|flag| !**flag).count());
                for wanted in [true, false] {
                    let mut marks: Vec<bool> = (0..rows).map(|row| row % 4 != 0).collect();
                    let before = marks.clone();
                    cells.keep_marks_by_flag(wanted, &mut marks);
                    assert!((0..rows).all(|row| marks[row] == (before[row] && flags[row] == wanted)));
                    let mut marks = before.clone();
                    cells.keep_marks_by_null(wanted, &mut marks);
                    assert!((0..rows).all(|row| marks[row] == (before[row] && present[row] != wanted)));
                }
            }
        }
    }

    #[test]
    fn cells_of_another_width_are_refused() {
        let wide = ColumnCells::from([1_i64]);
        assert!(std::panic::catch_unwind(|| wide.as_slice().typed::<u32>().len()).is_err());
        assert!(std::panic::catch_unwind(|| with_nulls().push(1_i64)).is_err());
        assert!(std::panic::catch_unwind(|| with_nulls().extend(wide.as_slice())).is_err());
    }
}
