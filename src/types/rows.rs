//! Rows in memory: columns of 8-byte words.
//!
//! A `decimal` or `int64` cell is its `i64`; a `float64` cell is the bit pattern of its double as an `i64`.
//! All columns have the same length. Their types are in the registration, not here.

use super::cells;
use super::width::narrow;

use crate::error::{Error, Result};

/// Rows of one series, in any order; `columns` follow the registration, without `ts`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Timestamps in the unit of the series.
    pub ts: Vec<i64>,
    /// One word per row for each column of the registration.
    pub columns: Vec<Vec<i64>>,
}

impl Rows {
    /// Empty rows with capacity for `capacity` rows.
    pub fn with_capacity(column_count: usize, capacity: usize) -> Self {
        Self { ts: Vec::with_capacity(capacity), columns: vec![Vec::with_capacity(capacity); column_count] }
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
        self.len() * 8 * (self.columns.len() + 1)
    }

    /// Checks that every column has as many cells as `ts`.
    pub fn check_columns(&self, column_count: usize) -> Result<()> {
        if self.columns.len() != column_count || self.columns.iter().any(|c| c.len() != self.ts.len()) {
            return Err(Error::new(
                crate::error::ErrorCode::SchemaMismatch,
                format!(
                    "rows have {} columns, the series has {column_count}, or their lengths differ",
                    self.columns.len()
                ),
            ));
        }
        Ok(())
    }

    /// Appends one row.
    pub fn push(&mut self, ts: i64, cells: &[i64]) {
        self.ts.push(ts);
        for (column, cell) in self.columns.iter_mut().zip(cells) {
            column.push(*cell);
        }
    }

    /// Appends the rows of `other`, which must have the same columns.
    pub fn append(&mut self, mut other: Rows) {
        self.ts.append(&mut other.ts);
        for (column, cells) in self.columns.iter_mut().zip(&mut other.columns) {
            column.append(cells);
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
        let pick = |column: &[i64]| -> Vec<i64> { kept.iter().map(|row| cells::at(column, *row as usize)).collect() };
        let ts = pick(&self.ts);
        let columns = self.columns.iter().map(|column| pick(column)).collect();
        *self = Rows { ts, columns };
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorting_keeps_the_last_of_equal_timestamps() {
        let mut rows = Rows { ts: vec![30, 10, 20, 10, 30], columns: vec![vec![1, 2, 3, 4, 5]] };
        assert_eq!(rows.sort_last_wins(), 2);
        assert_eq!(rows, Rows { ts: vec![10, 20, 30], columns: vec![vec![4, 3, 5]] });
        assert_eq!(rows.sort_last_wins(), 0);
    }

    #[test]
    fn bounds_are_those_of_rows_in_any_order() {
        let of = |ts: &[i64]| Rows { ts: ts.to_vec(), columns: Vec::new() }.bounds();
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[7]), Some((7, 7)));
        assert_eq!(of(&[-1, 0, 9]), Some((-1, 9)));
        assert_eq!(of(&[3, 9, -4, 9, 0]), Some((-4, 9)));
    }
}
