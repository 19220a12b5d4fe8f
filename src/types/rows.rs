//! Rows in memory. All columns have the same length. Their types are in the registration, not here.

use super::cells;
use super::column::{CellLayout, CellSlice, ColumnCells};
use super::dictionary::Dictionary;
use super::row_key::KeyColumns;
use super::schema::{Column, OrderRule, SeriesDef};
use super::width::narrow;

use crate::error::{Error, Result};

/// Rows of one series, in any order; `columns` follow the registration, without `ts`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Timestamps in the unit of the series.
    pub ts: Vec<i64>,
    /// One cell per row for each column of the registration. A cell of `text` is a position in the dictionary of its
    /// column here, until the store replaces it by that in the dictionary of the series.
    pub columns: Vec<ColumnCells>,
    /// Texts by column, where there are columns of `text`; shorter than `columns` or empty otherwise.
    pub texts: Vec<Dictionary>,
}

impl Rows {
    /// Rows of columns without texts.
    pub fn new(ts: Vec<i64>, columns: Vec<ColumnCells>) -> Self {
        Self { ts, columns, texts: Vec::new() }
    }

    /// Empty rows with capacity for `capacity` rows.
    pub fn with_capacity(columns: &[Column], capacity: usize) -> Self {
        let column = |column: &Column| ColumnCells::with_capacity(column.kind.layout(), capacity);
        Self::new(Vec::with_capacity(capacity), columns.iter().map(column).collect())
    }

    /// Rows of columns of 8 bytes: a double is its bits.
    pub fn of_words(ts: Vec<i64>, columns: Vec<Vec<i64>>) -> Self {
        Self::new(ts, columns.into_iter().map(ColumnCells::from).collect())
    }

    /// Empty rows of so many columns of 8 bytes, with capacity for `capacity` rows.
    pub fn empty_words(column_count: usize, capacity: usize) -> Self {
        let column = |_| ColumnCells::with_capacity(CellLayout::WORD, capacity);
        Self::new(Vec::with_capacity(capacity), (0..column_count).map(column).collect())
    }

    /// Empty rows with memory for `capacity` rows of the same columns.
    pub fn like(other: &Rows, capacity: usize) -> Self {
        let column = |column: &ColumnCells| ColumnCells::with_capacity(column.layout(), capacity);
        let columns = other.columns.iter().map(column).collect();
        Self { ts: Vec::with_capacity(capacity), columns, texts: other.texts.clone() }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.ts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ts.is_empty()
    }

    /// Size of all cells in bytes.
    pub fn bytes(&self) -> usize {
        self.len() * 8 + self.columns.iter().map(ColumnCells::bytes).sum::<usize>()
    }

    /// Checks that these are rows of the columns of a registration: of their types, with as many cells as `ts`, and nulls
    /// only where they may be.
    ///
    /// # Errors
    /// `schema_mismatch`.
    pub fn check_columns(&self, columns: &[Column]) -> Result<()> {
        let mismatch = |what: String| Err(Error::new(crate::error::ErrorCode::SchemaMismatch, what));
        if self.columns.len() != columns.len() {
            return mismatch(format!("rows have {} columns, the series has {}", self.columns.len(), columns.len()));
        }
        for (cells, column) in self.columns.iter().zip(columns) {
            let (name, rows) = (&column.name, self.ts.len());
            if cells.len() != rows {
                return mismatch(format!("column {name} has {} cells, ts has {rows}", cells.len()));
            }
            if cells.layout() != column.kind.layout() {
                return mismatch(format!("the cells of column {name} are not of type {}", column.kind.text()));
            }
            if !column.nullable && cells.as_slice().null_count() > 0 {
                return mismatch(format!("column {name} has nulls and is not nullable"));
            }
        }
        Ok(())
    }

    /// Appends one row of cells of 8 bytes.
    pub fn push(&mut self, ts: i64, cells: &[i64]) {
        self.ts.push(ts);
        for (column, cell) in self.columns.iter_mut().zip(cells) {
            column.push(*cell);
        }
    }

    /// `ts`, then the columns.
    pub fn slices(&self) -> Vec<CellSlice<'_>> {
        let columns = self.columns.iter().map(ColumnCells::as_slice);
        std::iter::once(CellSlice::of_words(&self.ts)).chain(columns).collect()
    }

    /// Appends the rows of `other`, which must have the same columns.
    pub fn append(&mut self, mut other: Rows) {
        self.ts.append(&mut other.ts);
        for (column, cells) in self.columns.iter_mut().zip(&other.columns) {
            column.extend(cells.as_slice());
        }
    }

    /// Whether timestamps are strictly ascending.
    pub fn is_ascending(&self) -> bool {
        self.ts.windows(2).all(|pair| matches!(pair, [a, b] if a < b))
    }

    /// Lowest and highest timestamp of rows in any order; `None` without rows.
    pub fn bounds(&self) -> Option<(i64, i64)> {
        let (first, last) = (*self.ts.first()?, *self.ts.last()?);
        if self.is_ascending() {
            return Some((first, last));
        }
        Some(self.ts.iter().fold((first, first), |(low, high), ts| (low.min(*ts), high.max(*ts))))
    }

    /// Brings rows into the order of their series. Of rows with the same key the last one remains; rows in the order of
    /// arrival all do. Returns the number of dropped rows.
    pub fn sort(&mut self, def: &SeriesDef) -> usize {
        if self.is_ascending() {
            return 0;
        }
        match &def.order {
            OrderRule::Unique(columns) if columns.is_empty() => self.sort_last_wins(),
            OrderRule::Unique(_) => self.sort_by_key(&KeyColumns::of(def)),
            OrderRule::Arrival => {
                if !self.ts.is_sorted() {
                    let mut order: Vec<usize> = (0..self.len()).collect();
                    order.sort_by_key(|row| cells::at(&self.ts, *row));
                    *self = self.picked(&order);
                }
                0
            }
        }
    }

    /// Sorts by timestamp and further columns; of equal rows the last one remains.
    fn sort_by_key(&mut self, key: &KeyColumns) -> usize {
        let slices = self.slices();
        let compare = |a: usize, b: usize| {
            cells::at(&self.ts, a).cmp(&cells::at(&self.ts, b)).then_with(|| key.compare(&slices, a, &slices, b))
        };
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.sort_by(|a, b| compare(*a, *b));
        let mut kept: Vec<usize> = Vec::with_capacity(order.len());
        for row in order {
            match kept.last_mut() {
                Some(last) if compare(*last, row).is_eq() => *last = row,
                _ => kept.push(row),
            }
        }
        let dropped = self.len() - kept.len();
        *self = self.picked(&kept);
        dropped
    }

    /// The rows at these positions.
    fn picked(&self, rows: &[usize]) -> Self {
        let mut picked = Rows::like(self, rows.len());
        picked.ts.extend(rows.iter().map(|row| cells::at(&self.ts, *row)));
        for (to, from) in picked.columns.iter_mut().zip(&self.columns) {
            to.extend_picked(from.as_slice(), rows.iter().copied());
        }
        picked
    }

    /// Sorts by timestamp; of equal timestamps the last row remains. Returns the number of dropped rows.
    pub fn sort_last_wins(&mut self) -> usize {
        if self.is_ascending() {
            return 0;
        }
        let mut order: Vec<u32> = (0..narrow(self.len())).collect();
        let ts = &self.ts;
        let at = |row: u32| cells::at(ts, row as usize);
        order.sort_by_key(|row| at(*row));
        let mut kept: Vec<u32> = Vec::with_capacity(order.len());
        for row in order {
            match kept.last_mut() {
                Some(last) if at(*last) == at(row) => *last = row,
                _ => kept.push(row),
            }
        }
        let dropped = self.len() - kept.len();
        let kept: Vec<usize> = kept.into_iter().map(|row| row as usize).collect();
        *self = self.picked(&kept);
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorting_keeps_the_last_of_equal_timestamps() {
        let mut rows = Rows::of_words(vec![30, 10, 20, 10, 30], vec![vec![1, 2, 3, 4, 5]]);
        assert_eq!(rows.sort_last_wins(), 2);
        assert_eq!(rows, Rows::of_words(vec![10, 20, 30], vec![vec![4, 3, 5]]));
        assert_eq!(rows.sort_last_wins(), 0);
    }

    #[test]
    fn bounds_are_those_of_rows_in_any_order() {
        let of = |ts: &[i64]| Rows::new(ts.to_vec(), Vec::new()).bounds();
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[7]), Some((7, 7)));
        assert_eq!(of(&[-1, 0, 9]), Some((-1, 9)));
        assert_eq!(of(&[3, 9, -4, 9, 0]), Some((-4, 9)));
    }
}
