//! Registering, changing and dropping series.

use std::sync::Arc;

use crate::error::{Error, ErrorCode, Result};
use crate::format::wal::LoggedChange;
use crate::store::read::headroom::{check_digits, has_more_digits};
use crate::store::read::precondition::{IfVersion, current};
use crate::store::read::series_state::SeriesState;
use crate::store::registration::def_json;
use crate::store::wal::commit_queue::QueuedCommits;
use crate::store::write::delete::DeleteOutcome;
use crate::store::write::writes::{Writes, frame};

use crate::sync::MutexGuard;
use crate::types::{SeriesDef, SeriesKey};

/// How often the values of a series are checked before a change of its columns gives up; each time only because it was
/// written meanwhile.
const CHECKS_MAX: usize = 16;

impl Writes {
    /// Registers a series. `created` is false when the same definition exists already.
    ///
    /// # Errors
    /// `series_exists` when it is registered otherwise.
    pub fn register(&self, def: SeriesDef) -> Result<(Arc<SeriesState>, bool, u64)> {
        let queue = &self.wal.queue;
        let mut pending = queue.lock();
        if let Some(existing) = pending.state.get(&def.key).cloned() {
            let commit = pending.state.commit;
            let decided = pending.decided();
            drop(pending);
            existing.def.check_same_rows_as(&def)?;
            // It may not be durable yet.
            let decided = decided?;
            queue.wait(&decided)?;
            return Ok((existing, false, commit));
        }
        pending.check_writable()?;
        pending.state.check_kind(&def)?;
        let id = self.take_series_id();
        let mut state = pending.state.as_ref().clone();
        state.commit += 1;
        let commit = state.commit;
        let series = SeriesState::new(id, Arc::new(def), commit);
        let operation = LoggedChange::Register { series_id: id, def: def_json(&series.def)? };
        state.put(series.clone());
        let batch = queue.enqueue(&mut pending, state, frame(queue.wall_ms(), vec![operation]))?;
        drop(pending);
        queue.wait(&batch)?;
        Ok((Arc::new(series), true, commit))
    }

    /// Changes what may be changed of a registration; `change` gets the definition as it is. A definition that stays as
    /// it was makes no commit.
    ///
    /// # Errors
    /// `invalid_argument` when a stored value does not fit a column with more digits, `commit_conflict` when other
    /// changes kept coming while that was found out.
    pub fn change_series(
        &self,
        key: &SeriesKey,
        if_version: IfVersion,
        change: impl FnOnce(&mut SeriesDef) -> Result<()>,
    ) -> Result<Arc<SeriesState>> {
        let queue = &self.wal.queue;
        let pending = queue.lock();
        let series = current(&pending.state, key, if_version)?;
        let mut def = series.def.as_ref().clone();
        change(&mut def)?;
        if def == *series.def {
            // What it is may not be durable yet.
            let decided = pending.decided()?;
            drop(pending);
            queue.wait(&decided)?;
            return Ok(series);
        }
        let (mut pending, series) = match has_more_digits(&series.def, &def) {
            false => (pending, series),
            true => {
                drop(pending);
                self.series_that_fits(&series.def, if_version, &def)?
            }
        };
        let mut state = pending.state.as_ref().clone();
        state.commit += 1;
        let mut next = series.touched(state.commit, &state.snapshot_commits);
        next.set_def(Arc::new(def));
        let operation = LoggedChange::Register { series_id: next.id, def: def_json(&next.def)? };
        state.put(next.clone());
        let batch = queue.enqueue(&mut pending, state, frame(queue.wall_ms(), vec![operation]))?;
        drop(pending);
        queue.wait(&batch)?;
        if next.def.value_index != series.def.value_index {
            // Maintenance writes the new indexes and removes those that are no longer registered.
            next.chunks.iter().for_each(|chunk| self.reads.cache.sidecar_requests.add_chunk(next.id, chunk.record.id));
        }
        Ok(Arc::new(next))
    }

    /// Checks that the stored values of a series fit a definition with more digits, without the lock of the queue, and
    /// again with those of writes that came meanwhile. The lock, and the series as it is under it.
    fn series_that_fits(
        &self,
        registered: &SeriesDef,
        if_version: IfVersion,
        def: &SeriesDef,
    ) -> Result<(MutexGuard<'_, QueuedCommits>, Arc<SeriesState>)> {
        let queue = &self.wal.queue;
        let key = &registered.key;
        let mut checked = None;
        for _ in 0..CHECKS_MAX {
            let pending = queue.lock_to_read(std::iter::once(key));
            let series = current(&pending.state, key, if_version)?;
            if *series.def != *registered {
                break;
            }
            if checked == Some((series.id, series.version)) {
                return Ok((pending, series));
            }
            let decided = pending.decided()?;
            drop(pending);
            queue.wait(&decided)?;
            check_digits(&series, &self.reads.cache, def)?;
            checked = Some((series.id, series.version));
        }
        Err(Error::new(ErrorCode::CommitConflict, format!("series {key} changed meanwhile"))
            .with_hint("repeat the change"))
    }

    /// Drops a series with all its rows.
    pub fn drop_series(&self, key: &SeriesKey, if_version: IfVersion) -> Result<DeleteOutcome> {
        let queue = &self.wal.queue;
        let mut pending = queue.lock();
        let series = current(&pending.state, key, if_version)?;
        let mut state = pending.state.as_ref().clone();
        state.commit += 1;
        let commit = state.commit;
        let dropped_series: Vec<Arc<SeriesState>> = state.drop_series(series.id, commit).into_iter().collect();
        let batch = queue.enqueue(
            &mut pending,
            state,
            frame(queue.wall_ms(), vec![LoggedChange::Drop { series_id: series.id }]),
        )?;
        // Before it is durable: a checkpoint right after it must know that readers may hold the files.
        self.publisher.keep_files_of(&dropped_series);
        drop(pending);
        queue.wait(&batch).inspect_err(|_| self.publisher.forget_files_of(&dropped_series))?;
        Ok(DeleteOutcome { series_id: series.id, rows_deleted: series.rows, version: series.version + 1, commit })
    }
}
