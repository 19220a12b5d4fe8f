//! Buckets with their combined cells, before they become a block of the result.

use crate::types::{CellLayout, ColumnCells};

/// Consecutive buckets.
#[derive(Clone, Debug, Default)]
pub struct BucketTable {
    /// First moments.
    pub starts: Vec<i64>,
    /// First moments after the buckets.
    pub ends: Vec<i64>,
    /// Rows that are in the buckets.
    pub rows: Vec<u64>,
    /// The aggregates that are computed.
    pub columns: Vec<ColumnCells>,
}

impl BucketTable {
    /// No bucket, with columns of these layouts.
    pub fn new(layouts: impl Iterator<Item = CellLayout>) -> Self {
        Self { columns: layouts.map(ColumnCells::new).collect(), ..Self::default() }
    }

    pub fn len(&self) -> usize {
        self.starts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// The buckets in the opposite order.
    pub fn reversed(&self) -> Self {
        let mut reversed = Self::new(self.columns.iter().map(ColumnCells::layout));
        reversed.starts = self.starts.iter().rev().copied().collect();
        reversed.ends = self.ends.iter().rev().copied().collect();
        reversed.rows = self.rows.iter().rev().copied().collect();
        for (to, from) in reversed.columns.iter_mut().zip(&self.columns) {
            to.extend_picked(from.as_slice(), (0..from.len()).rev());
        }
        reversed
    }

    /// The buckets for which a flag is set.
    pub fn selected(&self, flags: &[bool]) -> Self {
        let mut selected = Self::new(self.columns.iter().map(ColumnCells::layout));
        for (row, _) in flags.iter().enumerate().filter(|(_, is_kept)| **is_kept) {
            selected.push(self, row);
        }
        selected
    }

    /// Appends one bucket of another table.
    pub fn push(&mut self, from: &Self, row: usize) {
        let one = |values: &[i64]| values.get(row).copied();
        if let (Some(start), Some(end), Some(rows)) = (one(&from.starts), one(&from.ends), from.rows.get(row)) {
            self.starts.push(start);
            self.ends.push(end);
            self.rows.push(*rows);
            for (to, from) in self.columns.iter_mut().zip(&from.columns) {
                to.extend(from.as_slice().slice(row, 1));
            }
        }
    }
}
