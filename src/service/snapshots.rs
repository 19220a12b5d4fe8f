//! Named snapshots: creating, listing and dropping them. What reads under one is in `read`.

use std::sync::Arc;

use super::{Scope, Service, SnapshotDropped, SnapshotInfo, SnapshotList};
use crate::error::Result;
use crate::store::{Snapshot, State};
use crate::types::{TimeUnit, time};

impl Service {
    /// Names the store as it is now; `snapshot_exists`.
    pub fn create_snapshot(&self, name: &str) -> Result<SnapshotInfo> {
        self.caller.may_all(Scope::Write)?;
        Ok(info(name.into(), self.store.create_snapshot(name)?))
    }

    /// Takes a named view away; `snapshot_not_found`.
    pub fn drop_snapshot(&self, name: &str) -> Result<SnapshotDropped> {
        self.caller.may_all(Scope::Admin)?;
        Ok(SnapshotDropped { name: name.into(), commit: self.store.drop_snapshot(name)? })
    }

    /// The store as a snapshot shows it, or as it is now; `snapshot_not_found`.
    pub(super) fn state_as_of(&self, name: Option<&str>) -> Result<Arc<State>> {
        name.map_or_else(|| Ok(self.store.snapshot()), |name| self.store.as_of(name))
    }

    /// Every named snapshot, by name.
    pub fn snapshots(&self) -> Result<SnapshotList> {
        self.caller.may(Scope::Read)?;
        let snapshots = self.store.snapshots().into_iter();
        Ok(SnapshotList { snapshots: snapshots.map(|(name, snapshot)| info(name, snapshot)).collect() })
    }
}

fn info(name: String, snapshot: Snapshot) -> SnapshotInfo {
    SnapshotInfo { name, commit: snapshot.commit, created_at: rfc3339(snapshot.created_ms) }
}

/// A wall-clock time as people read it.
pub(super) fn rfc3339(wall_ms: i64) -> String {
    let mut text = Vec::new();
    time::write_rfc3339(&mut text, wall_ms, TimeUnit::Ms);
    String::from_utf8_lossy(&text).into_owned()
}
