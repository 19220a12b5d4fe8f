//! Runs: rows of a series in its order that are durable in the log or in a run file, and not yet in a chunk.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::error::Result;
use crate::format::texts::ColumnTexts;
use crate::store::read::append_buffer::AppendBuffer;
use crate::store::read::block::Block;
use crate::store::read::convert::converted;
use crate::types::{CellSlice, ColumnCells, KeyColumns, OrderRule, Rows, SeriesDef, SharedCells, cells};

/// Maximum rows of a run that results from merging it with adjacent runs.
pub const RUN_ROWS_MAX: usize = 262_144;

/// A run of up to this many rows is merged with every newer one, so that rows written one at a time form few runs.
/// Bounds the rows copied by a write of one row that is not later than the last one.
pub const RUN_ROWS_SMALL: usize = 256;

/// Capacity in rows of the buffer of a run of one row.
const BUFFER_ROWS: usize = 8;

/// Rows of a series in its order that are durable and not yet in a chunk.
#[derive(Debug)]
pub struct Run {
    /// The registration under which the rows were written.
    pub def: Arc<SeriesDef>,
    pub commit_lo: u64,
    pub commit_hi: u64,
    /// Run file it is mapped from; `None` while only the log has it.
    pub file: Option<u64>,
    /// `ts`, then the columns; never empty.
    pub(in crate::store) columns: Arc<[SharedCells]>,
    /// The buffer of the columns, when more rows can be appended to it.
    buffer: Option<AppendBuffer>,
    /// Texts that its file has for the dictionaries of the series.
    pub texts: Vec<ColumnTexts>,
}

impl Run {
    /// A run of rows in the order of their series; `None` when there are none.
    pub fn new(def: &Arc<SeriesDef>, rows: Rows, commit_lo: u64, commit_hi: u64) -> Option<Self> {
        if rows.is_empty() {
            return None;
        }
        let ts = ColumnCells::from(rows.ts);
        let columns = std::iter::once(ts).chain(rows.columns).map(SharedCells::from).collect();
        Some(Self { def: Arc::clone(def), commit_lo, commit_hi, file: None, columns, buffer: None, texts: Vec::new() })
    }

    /// A run of few rows in the order of their series that more will follow.
    pub(in crate::store) fn growing(def: &Arc<SeriesDef>, rows: &Rows, commit: u64) -> Self {
        let buffer = AppendBuffer::with((2 * rows.len()).max(BUFFER_ROWS), &rows.slices(), &[]);
        Self {
            def: Arc::clone(def),
            commit_lo: commit,
            commit_hi: commit,
            file: None,
            columns: buffer.columns(rows.len()),
            buffer: Some(buffer),
            texts: Vec::new(),
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
        let def = Arc::clone(&self.def);
        Run {
            def,
            commit_lo,
            commit_hi,
            file: None,
            columns: buffer.columns(all),
            buffer: Some(buffer),
            texts: Vec::new(),
        }
    }

    /// Whether `rows` of a registration can be appended after the last row at little cost: to the buffer, or to a new,
    /// larger one. Not when the buffer already has rows after it, of a refused commit: on a full disk every attempt would
    /// copy the run.
    pub(in crate::store) fn takes(&self, def: &SeriesDef, rows: &Rows) -> bool {
        let (last, first) = (self.timestamps().last(), rows.ts.first());
        let after = if def.order == OrderRule::Arrival { last <= first } else { last < first };
        let free = self.buffer.as_ref().is_some_and(|buffer| buffer.ends_at(self.rows()));
        let grows = free || self.rows() <= RUN_ROWS_SMALL;
        let fits = rows.len() <= RUN_ROWS_SMALL && self.rows() + rows.len() <= RUN_ROWS_MAX;
        after && self.def.schema_version == def.schema_version && grows && fits
    }

    /// A run in a mapped file, whose bytes were verified.
    pub fn mapped(
        file: u64,
        def: &Arc<SeriesDef>,
        (commit_lo, commit_hi): (u64, u64),
        columns: Arc<[SharedCells]>,
        texts: Vec<ColumnTexts>,
    ) -> Self {
        Self { def: Arc::clone(def), commit_lo, commit_hi, file: Some(file), columns, buffer: None, texts }
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

    fn timestamps_within(&self, (start, end): (i64, i64)) -> &[i64] {
        let ts = self.timestamps();
        let first = ts.partition_point(|ts| *ts < start);
        let until = ts.partition_point(|ts| *ts <= end);
        cells::range(ts, first..until.max(first))
    }

    /// Rows of a closed range.
    pub fn rows_within(&self, range: (i64, i64)) -> usize {
        self.timestamps_within(range).len()
    }

    /// First and last timestamp of a closed range.
    pub fn bounds_within(&self, range: (i64, i64)) -> Option<(i64, i64)> {
        let ts = self.timestamps_within(range);
        ts.first().copied().zip(ts.last().copied())
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

    /// The rows as one block under a registration.
    pub fn block(&self, def: &SeriesDef) -> Result<Block> {
        if self.def.schema_version == def.schema_version {
            return Block::new(self.rows(), Arc::clone(&self.columns));
        }
        Block::new(self.rows(), converted(&self.columns, self.rows(), &self.def, def)?)
    }

    /// A copy of these rows; `None` without any.
    pub fn picked(&self, ranges: &[std::ops::Range<usize>]) -> Option<Run> {
        let mut columns: Vec<ColumnCells> =
            self.columns.iter().map(|column| ColumnCells::new(column.layout())).collect();
        for (to, from) in columns.iter_mut().zip(self.columns.iter()) {
            for range in ranges {
                to.extend(from.slice(range.start, range.len()));
            }
        }
        columns.first().is_some_and(|ts| !ts.is_empty()).then(|| Run {
            def: Arc::clone(&self.def),
            commit_lo: self.commit_lo,
            commit_hi: self.commit_hi,
            file: self.file,
            columns: columns.into_iter().map(SharedCells::from).collect(),
            buffer: None,
            texts: self.texts.clone(),
        })
    }

    /// Whether rows of both runs have the same columns.
    pub fn has_columns_of(&self, other: &Run) -> bool {
        self.def.schema_version == other.def.schema_version
    }

    /// Merges runs of the same columns. Of rows with the same key that of `newer` remains; in the order of arrival all do.
    pub fn merged_with(&self, newer: &Run) -> Run {
        assert!(self.has_columns_of(newer), "{}: runs of other columns", self.def.key);
        let (old, new) = (self.timestamps(), newer.timestamps());
        let all = old.len() + new.len();
        let mut columns: Vec<ColumnCells> =
            self.columns.iter().map(|column| ColumnCells::with_capacity(column.layout(), all)).collect();
        let mut copy = |from: &Run, range: std::ops::Range<usize>| {
            for (column, from) in columns.iter_mut().zip(from.columns.iter()) {
                column.extend(from.slice(range.start, range.len()));
            }
        };
        let key = KeyColumns::of(&self.def);
        let slices = (!key.is_empty()).then(|| (self.slices(), newer.slices()));
        let in_order_of_arrival = self.def.order == OrderRule::Arrival;
        let (mut i, mut j) = (0, 0);
        while let (Some(a), Some(b)) = (old.get(i), new.get(j)) {
            if a < b || in_order_of_arrival && a == b {
                let is_before = |ts: &i64| if in_order_of_arrival { ts <= b } else { ts < b };
                let until = i + cells::from(old, i).partition_point(is_before);
                copy(self, i..until);
                i = until;
            } else if b < a {
                let until = j + cells::from(new, j).partition_point(|ts| ts < a);
                copy(newer, j..until);
                j = until;
            } else {
                let order = match &slices {
                    Some((own, theirs)) => key.compare(own, i, theirs, j),
                    None => Ordering::Equal,
                };
                if order.is_lt() {
                    copy(self, i..i + 1);
                } else {
                    copy(newer, j..j + 1);
                }
                i += usize::from(order.is_le());
                j += usize::from(order.is_ge());
            }
        }
        copy(self, i..old.len());
        copy(newer, j..new.len());
        Run {
            def: Arc::clone(&newer.def),
            commit_lo: self.commit_lo.min(newer.commit_lo),
            commit_hi: self.commit_hi.max(newer.commit_hi),
            file: None,
            columns: columns.into_iter().map(SharedCells::from).collect(),
            buffer: None,
            texts: Vec::new(),
        }
    }
}
