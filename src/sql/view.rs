//! What a statement reads: one state of the store, and the series of it that its caller can see.

use std::fmt;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;

use crate::error::Result;
use crate::store::{MapCache, SeriesState, StoreState};
use crate::types::SeriesKey;

/// Whether a statement may read a series.
pub type SeesSeries = Arc<dyn Fn(&SeriesKey) -> bool + Send + Sync>;

/// One state of the store, and the visible series of it.
#[derive(Clone)]
pub struct SqlView {
    pub state: Arc<StoreState>,
    pub cache: Arc<MapCache>,
    pub sees: SeesSeries,
}

impl SqlView {
    /// A view of all series of a state.
    pub fn of_all(state: Arc<StoreState>, cache: Arc<MapCache>) -> Self {
        Self { state, cache, sees: Arc::new(|_| true) }
    }

    /// A visible series.
    pub(super) fn series(&self, key: &SeriesKey) -> Option<&Arc<SeriesState>> {
        self.state.get(key).filter(|_| (self.sees)(key))
    }
}

impl fmt::Debug for SqlView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlView").field("commit", &self.state.commit).finish_non_exhaustive()
    }
}

/// A table of the schema `system` whose rows do not come from the state.
pub struct SystemTable {
    pub name: &'static str,
    /// Its rows, computed when a statement names the table.
    pub rows: Box<dyn Fn() -> Result<RecordBatch> + Send + Sync>,
}

impl fmt::Debug for SystemTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SystemTable").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Where the views of a statement come from: the store, with the permissions of the caller.
pub trait ViewSource: fmt::Debug + Send + Sync {
    /// The view of now.
    ///
    /// # Errors
    /// `permission_denied`.
    fn now(&self) -> Result<SqlView>;

    /// The view of a snapshot or dataset.
    ///
    /// # Errors
    /// `snapshot_not_found`, `dataset_not_found`, `permission_denied`.
    fn as_of(&self, name: &str) -> Result<SqlView>;

    /// Tables of the schema `system` in addition to `series`, `chunks` and `snapshots`.
    fn system_tables(&self) -> Vec<SystemTable>;

    /// Whether the caller can see a snapshot.
    fn sees_snapshot(&self, name: &str) -> bool;
}
