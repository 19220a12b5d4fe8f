//! The operation `files`: the chunk files of a series, for programs that read them without FastK.

use serde::{Deserialize, Serialize};

use crate::cancel::CancelFlag;
use crate::error::Result;
use crate::service::caller::Scope;
use crate::service::shared::Service;
use crate::store::SeriesFile;
use crate::types::SeriesKey;

/// A request for the files of a series.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct FilesRequest {
    /// Key of the series.
    #[param(value_type = String)]
    pub series: SeriesKey,
    /// State of the series at the snapshot of this name; or `dataset:NAME@VERSION`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<String>,
}

/// The chunk files of a series, and whether they hold exactly its rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct FilesReply {
    #[cfg_attr(feature = "server", schema(value_type = String, example = "kline/BTCUSDT/1m"))]
    pub series: SeriesKey,
    pub version: u64,
    /// Commit of the store that the list describes. Files never change, but later ones can replace them.
    pub commit: u64,
    /// Data directory, as the serving process names it.
    pub root: String,
    /// Whether the files together hold every row of the series once, and no other rows.
    pub exact: bool,
    /// Rows of the series.
    pub rows: u64,
    /// Rows in the files that belong to the series.
    pub rows_in_files: u64,
    /// Rows in the files that do not: they were overwritten or deleted later.
    pub rows_left_out: u64,
    /// Rows of the series that are not in a chunk file but in the WAL or in a run file.
    pub rows_outside: u64,
    /// Snapshots that separate older and newer rows into different files, so that compaction cannot make the files
    /// exact.
    pub snapshots: Vec<String>,
    /// Ordered by first timestamp, then commit; files without current rows are omitted.
    pub files: Vec<SeriesFile>,
}

impl Service {
    /// The current chunk files of a series, with the ranges of their rows that belong to it. `stop` cancels the
    /// operation.
    ///
    /// Only for callers that may administer the whole store: paths reveal more than the series.
    ///
    /// # Errors
    /// `permission_denied`; `series_not_found`, `snapshot_not_found`, `dataset_not_found`; `corrupt_data` for a damaged
    /// file; `too_large` for more row ranges than fit into one reply; `deadline_exceeded`.
    pub fn files(&self, request: &FilesRequest, stop: &CancelFlag) -> Result<FilesReply> {
        self.caller.require_store(Scope::Admin)?;
        let state = self.state_as_of(request.as_of.as_deref(), &request.series)?;
        let series = self.series_state(&state, &request.series)?;
        let found = self.store.files(&series, &|| stop.check())?;
        let rows_in_files: u64 = found.files.iter().map(|file| file.rows_current).sum();
        let rows_left_out = found.files.iter().map(|file| file.rows - file.rows_current).sum();
        // Only a snapshot at or after the oldest row in a file and before the last change prevents compaction.
        let oldest = series.chunks.iter().map(|chunk| chunk.record.commit_lo).min().unwrap_or(u64::MAX);
        let separates = |commit: u64| oldest <= commit && commit < series.last_commit;
        let snapshots = self.store.snapshots().into_iter().filter(|(_, snapshot)| separates(snapshot.commit));
        Ok(FilesReply {
            series: request.series.clone(),
            version: series.version,
            commit: state.commit,
            root: self.store.root().display().to_string(),
            exact: rows_left_out == 0 && found.rows_outside == 0,
            rows: series.rows,
            rows_in_files,
            rows_left_out,
            rows_outside: found.rows_outside,
            snapshots: snapshots.map(|(name, _)| name).collect(),
            files: found.files,
        })
    }
}
