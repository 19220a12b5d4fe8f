//! Named snapshots: views of the whole store that stay readable, whatever is written, sealed or dropped later.
//!
//! A snapshot is one commit. Its number is a fence: rows from both sides of it are never merged into one run or
//! chunk, a delete behind it hides rows instead of dropping them, and what a series was at it is kept when the series
//! changes. So creating one costs the same in a store of any size, and what it shows survives a restart.

use std::sync::{Arc, PoisonError};

use crate::error::{Error, ErrorCode, Result};
use crate::format::wal::{Commit, LoggedChange, encode_commit};
use crate::planted::{Bug, planted};
use crate::store::facade::{Store, frame, wall_ms};
use crate::store::read::state::{Snapshot, StoreState};
use crate::sync::Mutex;

/// Most snapshots at once.
pub const SNAPSHOTS_MAX: usize = 1_024;

/// Most views held at once: each is as large as the list of series.
const VIEWS_MAX: usize = 16;

/// Views of snapshots worked out for the present files; let go when those change.
#[derive(Debug, Default)]
pub struct SnapshotViews(Mutex<CachedView>);

#[derive(Debug, Default)]
struct CachedView {
    /// The manifest edit whose files the views are of.
    edit: u64,
    /// The one asked for last stands last.
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
    fn get(&self, now: &StoreState, commit: u64) -> Arc<StoreState> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.expire(now.edit);
        if held.edit > now.edit {
            // Held, it would keep files that were given up since.
            drop(held);
            return Arc::new(now.as_of(commit));
        }
        let known = held.views.iter().position(|view| view.commit == commit);
        let view = known.map_or_else(|| Arc::new(now.as_of(commit)), |at| held.views.remove(at));
        if held.views.len() >= VIEWS_MAX {
            held.views.remove(0);
        }
        held.views.push(Arc::clone(&view));
        view
    }

    /// Lets go of views of other files than the present ones, which could be unlinked otherwise.
    pub fn expire(&self, edit: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).expire(edit);
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).views.len()
    }

    fn forget(&self, commit: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).views.retain(|view| view.commit != commit);
    }
}

/// Refuses names that are not 1 to 64 of ASCII letters, digits and `. _ - : @ + = ^ $ &`, not beginning with `.`.
pub fn check_snapshot_name(name: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:@+=^$&".contains(&byte);
    if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.bytes().all(allowed) {
        return Err(Error::invalid(format!(
            "snapshot name {name:?} is not 1 to 64 letters, digits or . _ - : @ + = ^ $ & (and no dot first)"
        )));
    }
    Ok(())
}

fn not_found(name: &str) -> Error {
    Error::new(ErrorCode::SnapshotNotFound, format!("there is no snapshot {name:?}"))
        .with_hint("list them with GET /v1/snapshots or `fastk snapshot list`")
}

impl Store {
    /// Names the store as it is now. Durable on return as a write is.
    ///
    /// # Errors
    /// `invalid_argument` for a bad name, `snapshot_exists`, `too_large` beyond [`SNAPSHOTS_MAX`], and those of a
    /// write.
    pub fn create_snapshot(&self, name: &str) -> Result<Snapshot> {
        check_snapshot_name(name)?;
        let queue = &self.inner.queue;
        let mut pending = queue.lock();
        pending.check_writable()?;
        if pending.state.snapshots.contains_key(name) {
            return Err(Error::new(ErrorCode::SnapshotExists, format!("a snapshot {name:?} exists"))
                .with_hint("drop it first, or take another name"));
        }
        if pending.state.snapshots.len() >= SNAPSHOTS_MAX && !planted(Bug::SnapshotsUnlimited) {
            return Err(Error::new(ErrorCode::TooLarge, format!("there are {SNAPSHOTS_MAX} snapshots already"))
                .with_hint("drop some"));
        }
        let mut state = pending.state.as_ref().clone();
        state.commit += 1;
        let snapshot = Snapshot { commit: state.commit, created_ms: wall_ms() };
        state.create_snapshot(name.to_owned(), snapshot);
        let operation = LoggedChange::CreateSnapshot { name: name.to_owned() };
        let logged = Commit { receipt: None, wall_ms: snapshot.created_ms, operations: vec![operation] };
        let batch = queue.enqueue(&mut pending, state, encode_commit(&logged))?;
        drop(pending);
        queue.wait(&batch)?;
        self.inner.record_snapshots();
        Ok(snapshot)
    }

    /// Takes a named view away; what only it showed is removed in time. Gives the commit of the drop.
    ///
    /// # Errors
    /// `snapshot_not_found`, and those of a write.
    pub fn drop_snapshot(&self, name: &str) -> Result<u64> {
        let queue = &self.inner.queue;
        let mut pending = queue.lock();
        pending.check_writable()?;
        let dropped = *pending.state.snapshots.get(name).ok_or_else(|| not_found(name))?;
        let mut state = pending.state.as_ref().clone();
        state.commit += 1;
        let commit = state.commit;
        let gone = state.drop_snapshot(name, commit);
        let operation = LoggedChange::DropSnapshot { name: name.to_owned() };
        let batch = queue.enqueue(&mut pending, state, frame(vec![operation]))?;
        self.inner.keep_files_of(&gone);
        drop(pending);
        queue.wait(&batch).inspect_err(|_| self.inner.forget_files_of(&gone))?;
        self.inner.views.forget(dropped.commit);
        if let Some(upkeep) = &self.upkeep {
            upkeep.compact_all_soon();
        }
        Ok(commit)
    }

    /// Every named snapshot, by name.
    pub fn snapshots(&self) -> Vec<(String, Snapshot)> {
        self.snapshot().snapshots.iter().map(|(name, snapshot)| (name.clone(), *snapshot)).collect()
    }

    /// The store as a named snapshot shows it.
    ///
    /// # Errors
    /// `snapshot_not_found`.
    pub fn as_of(&self, name: &str) -> Result<Arc<StoreState>> {
        let now = self.snapshot();
        let snapshot = now.snapshots.get(name).ok_or_else(|| not_found(name))?;
        Ok(self.inner.views.get(&now, snapshot.commit))
    }
}
