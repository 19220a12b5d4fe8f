//! The rows that a body decodes into, and what decoding needs to know of their series.

use std::sync::Arc;

use super::row_errors::RowErrors;
use crate::types::{Rows, SeriesDef};

/// First and last timestamp of rows; `None` of none.
pub type TimeBounds = Option<(i64, i64)>;

/// The properties of a series that decoding needs: its definition, and its first and last stored timestamp.
pub type Known = (Arc<SeriesDef>, TimeBounds);

/// Rows read from a body, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParsedRows {
    pub rows: Rows,
    /// Number of rows left out because a value was missing.
    pub skipped: u64,
    /// Number of rounded cells, by column.
    pub rounded: Vec<u64>,
    /// Positions in the body of the rows left out, ascending.
    pub skipped_rows: Vec<u64>,
    /// Positions in the body and timestamps of rows whose grid starts with the first stored row, for
    /// [`crate::types::grid::check_phase`] once that row is known; empty where no check is pending.
    pub phase_pending: Vec<(u64, i64)>,
}

impl ParsedRows {
    /// Positions in the body of the decoded rows, ascending.
    pub fn positions(&self) -> impl Iterator<Item = u64> {
        let mut skipped = self.skipped_rows.iter().copied().peekable();
        let all = (0..).filter(move |row| skipped.next_if_eq(row).is_none());
        all.take(self.rows.len())
    }
}

/// Decoded rows of one series and their errors.
pub(super) type Part = (ParsedRows, RowErrors);
