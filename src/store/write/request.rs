//! The request of a write, and its outcome.

use std::sync::Arc;

use crate::format::receipt::SeriesReceipt;

use crate::store::read::precondition::IfVersion;
use crate::store::read::series_state::SeriesId;
use crate::store::wal::commit_queue::CommitBatch;
use crate::types::schema::{MergeRule, SeriesDef};
use crate::types::{Rows, SeriesKey};

/// How rows that exist already are treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriteMode {
    /// The new row replaces the old one.
    #[default]
    Upsert,
    /// The write is refused if any of its timestamps is stored.
    Insert,
    /// The write is refused if any of its timestamps is at or before the last stored one.
    Append,
    /// Stored and new row become one, column by column, by the rules of the registration. Rows of the same timestamp
    /// in one write are taken one after the other.
    Merge {
        /// Rule of the first column instead of its own.
        first: Option<MergeRule>,
    },
}

/// Rows for one series.
#[derive(Clone, Debug)]
pub struct SeriesWrite {
    pub key: SeriesKey,
    /// In any order, except under `append`.
    pub rows: Rows,
    pub mode: WriteMode,
    pub if_version: IfVersion,
    /// Rows the caller left out beforehand; only carried into the reply.
    pub skipped: u64,
    /// Positions and timestamps of rows that have to be on the grid that the first stored row starts: only
    /// the decision of the write shows which row that is. Empty where there is nothing to check.
    pub phase_pending: Vec<(u64, i64)>,
    /// Registers the series in the same commit when it does not exist; an existing one has to have the same rows.
    pub create: Option<Arc<SeriesDef>>,
}

impl SeriesWrite {
    pub fn new(key: SeriesKey, rows: Rows, mode: WriteMode) -> Self {
        Self { key, rows, mode, if_version: None, skipped: 0, phase_pending: Vec::new(), create: None }
    }
}

/// What a write of several series did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteOutcome {
    /// One entry per series, in the order of the write.
    pub written: Vec<SeriesReceipt>,
    /// The commit, or that of the store when there was nothing to write.
    pub commit: u64,
    /// The idempotency key was used before: this is what its first write did, and nothing was changed now.
    pub repeated: bool,
}

/// A write that is decided but not durable yet. Others may be decided after it before it is waited for, so that they
/// share a sync.
#[derive(Debug)]
#[must_use = "it is not durable before it is finished"]
pub struct DecidedWrite {
    pub(in crate::store) outcome: WriteOutcome,
    pub(in crate::store) decided: Arc<CommitBatch>,
    /// Series whose tail is long enough for a chunk.
    pub(in crate::store) due: Vec<SeriesId>,
}

impl DecidedWrite {
    /// What the write will have done once it is durable.
    pub fn outcome(&self) -> &WriteOutcome {
        &self.outcome
    }
}
