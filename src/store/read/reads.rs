//! The component of reads: the mapped chunks, earlier commits and views of snapshots that all readers share.

use std::sync::Arc;

use crate::error::{Error, ErrorCode, Result};
use crate::store::read::chunk::MapCache;
use crate::store::read::precondition::check_past;
use crate::store::read::retained_commits::RetainedCommits;
use crate::store::read::series_state::SeriesState;
use crate::store::read::snapshot_views::{SnapshotViews, snapshot_not_found};
use crate::store::read::store_state::StoreState;
use crate::types::SeriesKey;

/// The state that all readers of an open store share.
#[derive(Debug)]
pub struct Reads {
    /// Open chunk files, needed to read from a state.
    pub cache: Arc<MapCache>,
    /// Earlier commits that stay readable.
    pub retained: Arc<RetainedCommits>,
    pub views: SnapshotViews,
}

impl Reads {
    /// The state of an earlier commit.
    ///
    /// # Errors
    /// `commit_gone` when it is no longer retained.
    pub fn at_commit(&self, now: Arc<StoreState>, commit: u64) -> Result<Arc<StoreState>> {
        if now.commit == commit {
            return Ok(now);
        }
        check_past(&now, commit)?;
        if let Some(retained) = self.retained.get(commit) {
            let replayed = self.retained.replayed();
            if commit > replayed.until {
                return Ok(retained);
            }
            // Read back from the log: the files can be ahead of it.
            let existed = |series: &&Arc<SeriesState>| series.created_commit <= commit;
            if replayed.dropped <= commit
                && retained.series.values().filter(existed).all(|series| replayed.holds(series, commit))
            {
                let mut state = StoreState { commit, edit: retained.edit, is_partial: true, ..StoreState::default() };
                retained.registered().filter(existed).for_each(|series| state.put(series.as_ref().clone()));
                return Ok(Arc::new(state));
            }
        }
        self.of_snapshot(&now, commit)
    }

    /// The series of these keys at an earlier commit, and perhaps others.
    ///
    /// Finds more than [`Reads::at_commit`]: a series that did not change since needs no retained commit.
    ///
    /// # Errors
    /// `commit_gone` when the commit is no longer retained for one of them.
    pub fn at_commit_of(&self, now: Arc<StoreState>, commit: u64, keys: &[SeriesKey]) -> Result<Arc<StoreState>> {
        if now.commit == commit {
            return Ok(now);
        }
        check_past(&now, commit)?;
        let (retained, replayed) = (self.retained.get(commit), self.retained.replayed());
        if let Some(retained) = retained.as_ref().filter(|_| commit > replayed.until) {
            return Ok(Arc::clone(retained));
        }
        let mut state = StoreState { commit, edit: now.edit, is_partial: true, ..StoreState::default() };
        let existed = |series: &&Arc<SeriesState>| series.created_commit <= commit;
        for key in keys {
            let unchanged = now.get(key).filter(existed);
            let logged = retained.as_ref().and_then(|retained| retained.get(key)).filter(existed);
            let holds = [unchanged.filter(|s| s.last_commit <= commit), logged.filter(|s| replayed.holds(s, commit))];
            match holds.into_iter().flatten().next() {
                Some(series) => state.put(series.as_ref().clone()),
                // The series did not exist at the commit: a drop since then is excluded.
                None if logged.is_none() && retained.is_some() && replayed.dropped <= commit => {}
                None => return self.of_snapshot(&now, commit),
            }
        }
        Ok(Arc::new(state))
    }

    /// The state of a commit that a named snapshot is of.
    fn of_snapshot(&self, now: &StoreState, commit: u64) -> Result<Arc<StoreState>> {
        if let Some((name, _)) = now.snapshots.iter().find(|(_, snapshot)| snapshot.commit == commit) {
            return self.as_of(now, name);
        }
        let detail = format!("commit {commit} is no longer retained; the store is at {}", now.commit);
        Err(Error::new(ErrorCode::CommitGone, detail).with_hint("read again without commit, cursor or ticket"))
    }

    /// The store as a named snapshot shows it.
    ///
    /// # Errors
    /// `snapshot_not_found`.
    pub fn as_of(&self, now: &StoreState, name: &str) -> Result<Arc<StoreState>> {
        let snapshot = now.snapshots.get(name).ok_or_else(|| snapshot_not_found(name))?;
        Ok(self.views.get(now, snapshot.commit))
    }
}
