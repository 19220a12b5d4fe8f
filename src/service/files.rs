//! The verb `files`: the chunk files of a series, for programs that read them without FastK.

use serde::{Deserialize, Serialize};

use super::{Scope, Service};
use crate::error::Result;
use crate::query::CancelFlag;
use crate::store::SeriesFile;
use crate::types::SeriesKey;

/// Which files to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilesRequest {
    pub series: SeriesKey,
    /// As the snapshot of this name shows the series, or a dataset: `dataset:NAME@VERSION`.
    pub as_of: Option<String>,
}

/// The chunk files of a series, and whether they are all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct FilesReply {
    #[cfg_attr(feature = "server", schema(value_type = String, example = "kline/BTCUSDT/1m"))]
    pub series: SeriesKey,
    pub version: u64,
    /// Commit of the store that the list is of. Files never change, but later ones can take their place.
    pub commit: u64,
    /// Data directory, as the process that answers names it.
    pub root: String,
    /// Whether the files together hold every row of the series once, and no others.
    pub exact: bool,
    /// Rows of the series.
    pub rows: u64,
    /// Rows of the files that belong to the series.
    pub rows_in_files: u64,
    /// Rows of the files that do not: they were overwritten or deleted later.
    pub rows_left_out: u64,
    /// Rows of the series that are in no chunk file yet, but in the log or a run file.
    pub rows_outside: u64,
    /// Snapshots that keep older and newer rows in files apart, so that compaction cannot make the files exact.
    pub snapshots: Vec<String>,
    /// Ordered by first timestamp, then commit; without files of which no row is left.
    pub files: Vec<SeriesFile>,
}

impl Service {
    /// The chunk files of a series at this moment, with the ranges of their rows that belong to it. `stop` ends it.
    ///
    /// Only for callers that may administer the whole store: paths name other things than the series.
    ///
    /// # Errors
    /// `permission_denied`; `series_not_found`, `snapshot_not_found`, `dataset_not_found`; `corrupt_data` for a damaged
    /// file; `too_large` for more row ranges than one reply has; `deadline_exceeded`.
    pub fn files(&self, request: &FilesRequest, stop: &CancelFlag) -> Result<FilesReply> {
        self.caller.may_all(Scope::Admin)?;
        let state = self.state_as_of(request.as_of.as_deref(), &request.series)?;
        let series = self.series_state(&state, &request.series)?;
        let found = self.store.files(&series, &|| stop.check())?;
        let rows_in_files: u64 = found.files.iter().map(|file| file.rows_current).sum();
        let rows_left_out = found.files.iter().map(|file| file.rows - file.rows_current).sum();
        // Only a snapshot behind the oldest row in a file and before the last change stands in the way of a compaction.
        let oldest = series.chunks.iter().map(|chunk| chunk.record.commit_lo).min().unwrap_or(u64::MAX);
        let parts = |commit: u64| oldest <= commit && commit < series.last_commit;
        let snapshots = self.store.snapshots().into_iter().filter(|(_, snapshot)| parts(snapshot.commit));
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
