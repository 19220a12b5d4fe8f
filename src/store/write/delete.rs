//! Deleting ranges of a series.

use crate::error::{Error, ErrorCode, Result};
use crate::format::wal::LoggedChange;
use crate::store::read::precondition::{IfVersion, current};
use crate::store::read::series_state::{SeriesId, SeriesState};
use crate::store::write::writes::{Writes, frame};
use crate::types::SeriesKey;

/// What a delete did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeleteOutcome {
    pub series_id: SeriesId,
    pub rows_deleted: u64,
    pub version: u64,
    pub commit: u64,
}

impl Writes {
    pub fn delete_range(&self, key: &SeriesKey, range: (i64, i64), if_version: IfVersion) -> Result<DeleteOutcome> {
        self.delete_range_if(key, range, if_version, |_| true)
    }

    /// Deletes a range of the series that has the key once the commit lock is held, if it meets `condition`.
    ///
    /// # Errors
    /// `commit_conflict` when it does not.
    pub fn delete_range_if(
        &self,
        key: &SeriesKey,
        range: (i64, i64),
        if_version: IfVersion,
        condition: impl Fn(&SeriesState) -> bool,
    ) -> Result<DeleteOutcome> {
        let queue = &self.wal.queue;
        // The range is read before the lock, and again under it only when the series changed in between.
        let before = queue.published();
        let read = match before.get(key) {
            Some(series) => Some((series.id, series.version, self.read_for_delete(series, range)?)),
            None => None,
        };
        let mut pending = queue.lock_to_read(std::iter::once(key));
        pending.check_writable()?;
        let series = current(&pending.state, key, if_version)?;
        if !condition(&series) {
            return Err(Error::new(ErrorCode::CommitConflict, format!("series {key} was changed in the meantime")));
        }
        let (deleted, left) = match read {
            Some((id, version, read)) if (id, version) == (series.id, series.version) => read,
            _ => self.read_for_delete(&series, range)?,
        };
        if deleted == 0 {
            let commit = pending.state.commit;
            let decided = pending.decided()?;
            drop(pending);
            queue.wait(&decided)?;
            return Ok(DeleteOutcome { series_id: series.id, rows_deleted: 0, version: series.version, commit });
        }
        let mut state = pending.state.as_ref().clone();
        state.commit += 1;
        let commit = state.commit;
        let wall_ms = queue.wall_ms();
        let mut next = series.without_range(range, deleted, commit, wall_ms, &state.snapshot_commits);
        next.bounds = left;
        let version = next.version;
        let operation =
            LoggedChange::Delete { series_id: series.id, start: range.0, end: range.1, deleted, left: next.bounds };
        state.put(next);
        let batch = queue.enqueue(&mut pending, state, frame(wall_ms, vec![operation]))?;
        drop(pending);
        queue.wait(&batch)?;
        Ok(DeleteOutcome { series_id: series.id, rows_deleted: deleted, version, commit })
    }

    /// The number of rows that a delete removes, and the bounds of the remaining rows.
    pub fn read_for_delete(&self, series: &SeriesState, range: (i64, i64)) -> Result<(u64, Option<(i64, i64)>)> {
        let deleted = series.count_rows(&self.reads.cache, range)?;
        if deleted == 0 {
            return Ok((0, series.bounds));
        }
        let next = series.without_range(range, deleted, series.last_commit + 1, 0, &[]);
        Ok((deleted, next.bounds_after(&self.reads.cache, range)?))
    }
}
