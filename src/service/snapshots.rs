//! Named snapshots: creating, listing and dropping them. Reads of a snapshot are in `read`.

use std::sync::Arc;

use crate::error::Result;
use crate::service::caller::Scope;
use crate::service::replies::{SnapshotDropped, SnapshotInfo, SnapshotList};
use crate::service::shared::Service;
use crate::service::wall_clock::rfc3339;
use crate::store::{Snapshot, StoreState};
use crate::types::SeriesKey;

impl Service {
    /// Creates a named snapshot of the current commit; `snapshot_exists`.
    pub fn create_snapshot(&self, name: &str) -> Result<SnapshotInfo> {
        self.caller.require_store(Scope::Write)?;
        Self::check_free_name(name)?;
        Ok(info(name.into(), self.store.create_snapshot(name)?))
    }

    /// Drops a named snapshot; `snapshot_not_found`, `invalid_argument` naming the datasets that need it.
    pub fn drop_snapshot(&self, name: &str) -> Result<SnapshotDropped> {
        self.caller.require_store(Scope::Admin)?;
        self.drop_unused_snapshot(name)
    }

    /// The state of the store for one of its series in a snapshot or dataset, or the current state;
    /// `snapshot_not_found`, `dataset_not_found`, `series_not_found` for a series that is not a member of the dataset.
    pub(super) fn state_as_of(&self, name: Option<&str>, series: &SeriesKey) -> Result<Arc<StoreState>> {
        let Some(name) = name else { return Ok(self.store.snapshot()) };
        let view = self.view_as_of(name)?;
        view.check(series)?;
        Ok(view.state)
    }

    /// Every named snapshot the caller can see, ordered by name.
    pub fn snapshots(&self) -> Result<SnapshotList> {
        self.caller.require_scope(Scope::Read)?;
        let mut snapshots = Vec::new();
        for (name, snapshot) in self.store.snapshots() {
            if self.can_see_snapshot(&name) {
                snapshots.push(info(name, snapshot));
            }
        }
        Ok(SnapshotList { snapshots })
    }
}

fn info(name: String, snapshot: Snapshot) -> SnapshotInfo {
    SnapshotInfo { name, commit: snapshot.commit, created_at: rfc3339(snapshot.created_ms) }
}
