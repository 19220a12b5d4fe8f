//! Retention: an ordinary delete of what is too old or too much.

use crate::error::{ErrorCode, Result};
use crate::store::maintain::maintenance::Maintenance;

use crate::store::read::series_state::{SeriesId, SeriesState};
use crate::store::write::delete::DeleteOutcome;
use crate::types::SeriesDef;

impl Maintenance {
    /// Deletes what retention no longer covers. `exact` cuts to the row; else only when there is 5 % more than that, so
    /// that background maintenance does not delete every minute.
    pub fn retain(&self, exact: bool, ids: &[SeriesId]) -> Result<Vec<(SeriesId, DeleteOutcome)>> {
        let mut cuts = Vec::new();
        let mut failed = None;
        let chosen: Vec<SeriesId> = if ids.is_empty() {
            self.wal.queue.published().registered().map(|series| series.id).collect()
        } else {
            ids.to_vec()
        };
        for id in chosen {
            // As it is now: what keeps it may have changed while the series before it were cut.
            let state = self.wal.queue.published();
            let Some(series) = state.series.get(&id).filter(|series| series.dropped_commit.is_none()) else { continue };
            match self.retain_series(series, exact) {
                Ok(None) => {}
                Ok(Some(deleted)) => {
                    self.publisher.counters.add_retention(deleted.rows_deleted);
                    cuts.push((id, deleted));
                }
                // Dropped or changed meanwhile: the next run decides.
                Err(error) if matches!(error.code(), ErrorCode::SeriesNotFound | ErrorCode::CommitConflict) => {}
                Err(error) => {
                    tracing::error!(series = %series.def.key, %error, "retention could not be applied");
                    failed.get_or_insert(error);
                }
            }
        }
        match failed {
            None => Ok(cuts),
            Some(error) => Err(error),
        }
    }

    pub fn retain_series(&self, series: &SeriesState, exact: bool) -> Result<Option<DeleteOutcome>> {
        let Some(end) = self.retention_end(series, exact)? else { return Ok(None) };
        let unchanged = |now: &SeriesState| now.id == series.id && now.def.retention == series.def.retention;
        self.writes.delete_range_if(&series.def.key, (i64::MIN, end), None, unchanged).map(Some)
    }

    /// Last timestamp that retention does not keep.
    fn retention_end(&self, series: &SeriesState, exact: bool) -> Result<Option<i64>> {
        let (Some(retention), Some((first, last))) = (&series.def.retention, series.bounds) else { return Ok(None) };
        let mut end: Option<i64> = None;
        if let Some(age) = retention.max_age_ms()? {
            let age = in_unit(&series.def, age);
            // A wrong clock or a row from the future must not delete what is young by the other measure.
            let newest = last.min(in_unit(&series.def, self.options.clock.wall_ms()));
            let cut = newest.saturating_sub(age).saturating_sub(1);
            let slack = if exact { 0 } else { age / 20 };
            if first <= cut.saturating_sub(slack) {
                end = Some(cut);
            }
        }
        if let Some(max_rows) = retention.max_rows {
            let slack = if exact { 0 } else { max_rows / 20 };
            if series.rows > max_rows.saturating_add(slack) {
                end = end.max(series.nth_timestamp(&self.reads.cache, series.rows - max_rows)?);
            }
        }
        Ok(end)
    }
}

fn in_unit(def: &SeriesDef, ms: i64) -> i64 {
    ms.saturating_mul(def.unit.per_second() / 1_000)
}
