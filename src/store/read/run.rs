//! Runs: sorted, distinct rows of a series that are durable in the log or in a run file, and not yet in a chunk.

use std::sync::Arc;

use crate::error::Result;
use crate::store::read::append_buffer::AppendBuffer;
use crate::store::read::block::Block;
use crate::types::{CellSlice, ColumnCells, Rows, SharedCells, cells};

/// Maximum rows of a run that results from merging it with adjacent runs.
pub const RUN_ROWS_MAX: usize = 262_144;

/// A run of up to this many rows is merged with every newer one, so that rows written one at a time form few runs.
/// Bounds the rows copied by a write of one row that is not later than the last one.
pub const RUN_ROWS_SMALL: usize = 256;

/// Capacity in rows of the buffer of a run of one row.
const BUFFER_ROWS: usize = 8;

/// Sorted, distinct rows of a series that are durable and not yet in a chunk.
#[derive(Debug)]
pub struct Run {
    pub commit_lo: u64,
    pub commit_hi: u64,
    /// Run file it is mapped from; `None` while only the log has it.
    pub file: Option<u64>,
    /// `ts`, then the columns; never empty.
    pub(in crate::store) columns: Arc<[SharedCells]>,
    /// The buffer of the columns, when more rows can be appended to it.
    buffer: Option<AppendBuffer>,
}

impl Run {
    /// A run of sorted, distinct rows; `None` when there are none.
    pub fn new(rows: Rows, commit_lo: u64, commit_hi: u64) -> Option<Self> {
        if rows.is_empty() {
            return None;
        }
        let ts = ColumnCells::from(rows.ts);
        let columns = std::iter::once(ts).chain(rows.columns).map(SharedCells::from).collect();
        Some(Self { commit_lo, commit_hi, file: None, columns, buffer: None })
    }

    /// A run of few sorted, distinct rows that more will follow.
    pub(in crate::store) fn growing(rows: &Rows, commit: u64) -> Self {
        let buffer = AppendBuffer::with((2 * rows.len()).max(BUFFER_ROWS), &rows.slices(), &[]);
        Self {
            commit_lo: commit,
            commit_hi: commit,
            file: None,
            columns: buffer.columns(rows.len()),
            buffer: Some(buffer),
        }
    }

    /// This run with `rows` appended after its last row. The run is not copied while its buffer has space; a full
    /// buffer is copied into one twice as large.
    pub(in crate::store) fn grown(&self, rows: &Rows, commit: u64) -> Run {
        let before = self.rows();
        let all = before + rows.len();
        let buffer = match &self.buffer {
            Some(buffer) if buffer.append(before, rows) => buffer.clone(),
            _ => {
                let buffer = AppendBuffer::with((2 * all).min(RUN_ROWS_MAX.max(all)), &self.slices(), &rows.slices());
                let appended = buffer.append(before, rows);
                assert!(appended, "a new buffer has space for {} rows after {before}", rows.len());
                buffer
            }
        };
        let (commit_lo, commit_hi) = (self.commit_lo.min(commit), self.commit_hi.max(commit));
        Run { commit_lo, commit_hi, file: None, columns: buffer.columns(all), buffer: Some(buffer) }
    }

    /// Whether `rows` can be appended after the last row at little cost: to the buffer, or to a new, larger one. Not
    /// when the buffer already has rows after it, of a refused commit: on a full disk every attempt would copy the run.
    pub(in crate::store) fn takes(&self, rows: &Rows) -> bool {
        let after = self.timestamps().last() < rows.ts.first() && self.columns.len() == rows.columns.len() + 1;
        let free = self.buffer.as_ref().is_some_and(|buffer| buffer.ends_at(self.rows()));
        let grows = free || self.rows() <= RUN_ROWS_SMALL;
        after && grows && rows.len() <= RUN_ROWS_SMALL && self.rows() + rows.len() <= RUN_ROWS_MAX
    }

    /// A run in a mapped file, whose bytes were verified.
    pub fn mapped(file: u64, (commit_lo, commit_hi): (u64, u64), columns: Arc<[SharedCells]>) -> Self {
        Self { commit_lo, commit_hi, file: Some(file), columns, buffer: None }
    }

    pub fn timestamps(&self) -> &[i64] {
        cells::column(&self.columns, 0).words()
    }

    /// Cells of a column; `ts` is column 0.
    pub fn column(&self, column: usize) -> CellSlice<'_> {
        cells::column(&self.columns, column).slice(0, self.rows())
    }

    /// The columns, `ts` first.
    pub fn slices(&self) -> Vec<CellSlice<'_>> {
        let rows = self.rows();
        self.columns.iter().map(|column| column.slice(0, rows)).collect()
    }

    pub fn rows(&self) -> usize {
        self.timestamps().len()
    }

    /// How many columns, `ts` among them.
    pub fn column_count(&self) -> usize {
        self.columns.len()
    }

    /// Bytes of all cells.
    pub fn bytes(&self) -> u64 {
        self.columns.iter().map(SharedCells::bytes).sum()
    }

    pub fn ts_min(&self) -> i64 {
        cells::ends(self.timestamps()).0
    }

    pub fn ts_max(&self) -> i64 {
        cells::ends(self.timestamps()).1
    }

    /// The rows as one block.
    pub fn block(&self) -> Result<Block> {
        Block::new(self.rows(), Arc::clone(&self.columns))
    }

    /// Merges both runs; of equal timestamps the row of `newer` remains.
    pub fn merged_with(&self, newer: &Run) -> Run {
        let (old, new) = (self.timestamps(), newer.timestamps());
        let all = old.len() + new.len();
        let mut columns: Vec<ColumnCells> =
            self.columns.iter().map(|column| ColumnCells::with_capacity(column.layout(), all)).collect();
        let mut copy = |from: &Run, range: std::ops::Range<usize>| {
            for (column, from) in columns.iter_mut().zip(from.columns.iter()) {
                column.extend(from.slice(range.start, range.len()));
            }
        };
        let (mut i, mut j) = (0, 0);
        while let (Some(a), Some(b)) = (old.get(i), new.get(j)) {
            if a < b {
                let until = i + cells::from(old, i).partition_point(|ts| ts < b);
                copy(self, i..until);
                i = until;
            } else {
                let until = j + cells::from(new, j).partition_point(|ts| ts < a);
                copy(newer, j..until);
                j = until;
                if new.get(j) == Some(a) {
                    i += 1;
                    copy(newer, j..j + 1);
                    j += 1;
                }
            }
        }
        copy(self, i..old.len());
        copy(newer, j..new.len());
        Run {
            commit_lo: self.commit_lo.min(newer.commit_lo),
            commit_hi: self.commit_hi.max(newer.commit_hi),
            file: None,
            columns: columns.into_iter().map(SharedCells::from).collect(),
            buffer: None,
        }
    }
}
