//! One method per verb, neutral to protocol: what REST, Flight and the command line all call.
//!
//! Every method blocks (it may sync a file or touch mapped memory), so async faces call it on a blocking thread.

pub mod replies;
pub mod verbs;

use crate::error::{Error, Result};
use crate::ingest::Parsed;
use crate::query::{Block, Query, Shape};
use crate::types::{SeriesDef, SeriesKey, SeriesSpec};
pub use replies::*;

/// The verbs over one open store. Shared by all faces behind an `Arc`.
#[derive(Debug)]
pub struct Service {}

/// Condition of a write or delete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// Entity tag of `If-Match`, as it came (quotes optional; its format part does not count).
    pub if_match: Option<String>,
    /// Version number, the short form of the same in Flight and on the command line.
    pub if_version: Option<u64>,
}

/// The rows of one answer, block by block, in the order of the query.
///
/// Under `desc` the rows inside a block fall, else they rise.
pub struct Answer {
    pub shape: Shape,
    /// `"<store epoch>-<series id>-<version>-"`: the entity tag up to its format part, without quotes.
    pub etag_stem: String,
}

impl Iterator for Answer {
    type Item = Result<Block>;
    fn next(&mut self) -> Option<Self::Item> {
        None
    }
}

impl Answer {
    /// Continues after the last row given, once the iterator has ended; `None` when nothing is left.
    pub fn next_cursor(&self) -> Option<String> {
        None
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("shape", &self.shape).finish_non_exhaustive()
    }
}

/// What GetFlightInfo tells of an answer without reading its columns.
#[derive(Clone, Debug)]
pub struct Plan {
    pub shape: Shape,
    /// Exact.
    pub total_records: u64,
    /// Bytes of the columns as they are sent.
    pub total_bytes: u64,
    /// One query per endpoint, pinned to the commit, in time order.
    pub endpoints: Vec<Query>,
}

fn not_yet<T>() -> Result<T> {
    Err(Error::internal("the engine is not connected yet"))
}

impl Service {
    /// Registers a series; the same definition again is no error, another one is `series_exists`.
    pub fn register(&self, _spec: SeriesSpec) -> Result<Registered> {
        not_yet()
    }

    /// One series; `series_not_found`.
    pub fn series(&self, _key: &SeriesKey) -> Result<SeriesInfo> {
        not_yet()
    }

    /// Its definition, for parsing bodies.
    pub fn def(&self, _key: &SeriesKey) -> Result<std::sync::Arc<SeriesDef>> {
        not_yet()
    }

    pub fn list(&self, _filter: &SeriesFilter) -> Result<SeriesPage> {
        not_yet()
    }

    pub fn change(&self, _key: &SeriesKey, _patch: SeriesPatch, _condition: &Condition) -> Result<SeriesInfo> {
        not_yet()
    }

    pub fn drop_series(&self, _key: &SeriesKey, _condition: &Condition) -> Result<DropReply> {
        not_yet()
    }

    /// Writes parsed rows (see [`crate::ingest::parse`]) as one atomic commit; returns when it is durable.
    pub fn write(&self, _key: &SeriesKey, _parsed: Parsed, _mode: Mode, _condition: &Condition) -> Result<WriteReply> {
        not_yet()
    }

    /// Deletes the closed range `start..=end`, or everything when `range` is `None`.
    pub fn delete_range(
        &self,
        _key: &SeriesKey,
        _range: Option<(i64, i64)>,
        _condition: &Condition,
        _dry_run: bool,
    ) -> Result<DeleteReply> {
        not_yet()
    }

    /// Starts a read; rows come out of the iterator.
    pub fn read(&self, _query: &Query) -> Result<Answer> {
        not_yet()
    }

    /// Entity-tag stem of what `read` would answer now, without reading: for 304.
    pub fn etag_stem(&self, _query: &Query) -> Result<String> {
        not_yet()
    }

    /// Schema, exact size and endpoints of an answer.
    pub fn plan(&self, _query: &Query) -> Result<Plan> {
        not_yet()
    }

    pub fn inventory(&self, _filter: &SeriesFilter) -> Result<Inventory> {
        not_yet()
    }

    /// Entity tag of the inventory, without quotes.
    pub fn inventory_etag(&self) -> Result<String> {
        not_yet()
    }

    pub fn health(&self) -> Result<Health> {
        not_yet()
    }

    /// Moves the tail of these series (all when empty) into chunk files.
    pub fn seal(&self, _series: &[SeriesKey]) -> Result<SealReply> {
        not_yet()
    }

    /// A new file under the store's `tmp/` for staging a body; the caller removes it.
    pub fn staging_dir(&self) -> std::path::PathBuf {
        std::path::PathBuf::new()
    }
}
