//! Views of named snapshots, worked out for the present files.

use std::sync::{Arc, PoisonError};

use crate::error::{Error, ErrorCode};
use crate::store::read::store_state::StoreState;
use crate::sync::Mutex;

/// Most views cached at once: each is as large as the list of series.
const VIEWS_MAX: usize = 16;

/// Cached views of snapshots on the present files; dropped when those change.
#[derive(Debug, Default)]
pub struct SnapshotViews(Mutex<CachedView>);

#[derive(Debug, Default)]
struct CachedView {
    /// The manifest edit whose files the views are of.
    edit: u64,
    /// The most recently used one is last.
    views: Vec<Arc<StoreState>>,
}

impl CachedView {
    fn expire(&mut self, edit: u64) {
        if edit > self.edit {
            self.edit = edit;
            self.views.clear();
        }
    }
}

impl SnapshotViews {
    pub fn get(&self, now: &StoreState, commit: u64) -> Arc<StoreState> {
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cache.expire(now.edit);
        if cache.edit > now.edit {
            // Cached, it would keep files that were replaced since.
            drop(cache);
            return Arc::new(now.as_of(commit));
        }
        let known = cache.views.iter().position(|view| view.commit == commit);
        let view = known.map_or_else(|| Arc::new(now.as_of(commit)), |at| cache.views.remove(at));
        if cache.views.len() >= VIEWS_MAX {
            cache.views.remove(0);
        }
        cache.views.push(Arc::clone(&view));
        view
    }

    /// Drops views of other files than the present ones, which could be unlinked otherwise.
    pub fn expire(&self, edit: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).expire(edit);
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).views.len()
    }

    pub fn forget(&self, commit: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).views.retain(|view| view.commit != commit);
    }
}

/// `snapshot_not_found`.
pub fn snapshot_not_found(name: &str) -> Error {
    Error::new(ErrorCode::SnapshotNotFound, format!("snapshot {name:?} does not exist"))
        .with_hint("list them with GET /v1/snapshots or `fastk snapshot list`")
}
