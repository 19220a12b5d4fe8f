//! Named snapshots: views of the store that stay readable, whatever is written, sealed or dropped later.
//!
//! A snapshot is one commit. Its number is a boundary: rows from both sides of it are never merged into one run or
//! chunk, a delete after it hides rows instead of removing them, and the state of a series at it is recorded when the
//! series changes. So creating one costs the same in a store of any size, and what it shows survives a restart.

use crate::error::{Error, ErrorCode, Result};
use crate::format::manifest::{Edit, SnapshotRecord};
use crate::format::wal::{Commit, LoggedChange, encode_commit};
use crate::store::read::snapshot_views::snapshot_not_found;
use crate::store::read::store_state::Snapshot;
use crate::store::write::writes::{Writes, frame};

/// Most snapshots at once.
pub const SNAPSHOTS_MAX: usize = 1_024;

/// Refuses names that are not 1 to 64 of ASCII letters, digits and `. _ - : @ + = ^ $ &`, not beginning with `.`.
pub fn check_snapshot_name(name: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:@+=^$&".contains(&byte);
    if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.bytes().all(allowed) {
        return Err(Error::invalid(format!(
            "snapshot name {name:?} is not 1 to 64 letters, digits or . _ - : @ + = ^ $ & , not starting with a dot"
        )));
    }
    Ok(())
}

impl Writes {
    /// Names the store as it is now. Durable on return as a write is.
    ///
    /// # Errors
    /// `invalid_argument` for a bad name, `snapshot_exists`, `too_large` beyond [`SNAPSHOTS_MAX`], and those of a
    /// write.
    pub fn create_snapshot(&self, name: &str) -> Result<Snapshot> {
        check_snapshot_name(name)?;
        let queue = &self.wal.queue;
        let mut pending = queue.lock();
        pending.check_writable()?;
        if pending.state.snapshots.contains_key(name) {
            return Err(Error::new(ErrorCode::SnapshotExists, format!("snapshot {name:?} already exists"))
                .with_hint("drop it first, or use another name"));
        }
        if pending.state.snapshots.len() >= SNAPSHOTS_MAX {
            return Err(Error::new(ErrorCode::TooLarge, format!("there are already {SNAPSHOTS_MAX} snapshots"))
                .with_hint("drop some"));
        }
        let mut state = pending.state.as_ref().clone();
        state.commit += 1;
        let snapshot = Snapshot { commit: state.commit, created_ms: queue.wall_ms() };
        state.create_snapshot(name.to_owned(), snapshot);
        let operation = LoggedChange::CreateSnapshot { name: name.to_owned() };
        let logged = Commit { receipt: None, wall_ms: snapshot.created_ms, operations: vec![operation] };
        let batch = queue.enqueue(&mut pending, state, encode_commit(&logged))?;
        drop(pending);
        queue.wait(&batch)?;
        self.record_snapshots();
        Ok(snapshot)
    }

    /// Drops a named view; what only it showed is removed later. Returns the commit of the drop.
    ///
    /// # Errors
    /// `snapshot_not_found`, and those of a write.
    pub fn drop_snapshot(&self, name: &str) -> Result<u64> {
        let queue = &self.wal.queue;
        let mut pending = queue.lock();
        pending.check_writable()?;
        let dropped = *pending.state.snapshots.get(name).ok_or_else(|| snapshot_not_found(name))?;
        let mut state = pending.state.as_ref().clone();
        state.commit += 1;
        let commit = state.commit;
        let dropped_series = state.drop_snapshot(name, commit);
        let operation = LoggedChange::DropSnapshot { name: name.to_owned() };
        let batch = queue.enqueue(&mut pending, state, frame(queue.wall_ms(), vec![operation]))?;
        self.publisher.keep_files_of(&dropped_series);
        drop(pending);
        queue.wait(&batch).inspect_err(|_| self.publisher.forget_files_of(&dropped_series))?;
        self.reads.views.forget(dropped.commit);
        Ok(commit)
    }

    /// Puts snapshots that only the log knows into the manifest, unless maintenance holds it just now: a log that loses
    /// their commits leaves their names then. Nothing depends on it.
    pub fn record_snapshots(&self) {
        let Ok(mut files) = self.publisher.try_lock() else { return };
        let state = self.wal.queue.published();
        let known = &files.manifest.contents.snapshots;
        let is_new = |(name, snapshot): &(&String, &Snapshot)| {
            known.get(*name).is_none_or(|known| known.commit != snapshot.commit)
        };
        let record = |(name, snapshot): (&String, &Snapshot)| {
            let (commit, created_ms) = (snapshot.commit, snapshot.created_ms);
            SnapshotRecord { name: name.clone(), commit, created_ms }
        };
        let snapshots: Vec<SnapshotRecord> = state.snapshots.iter().filter(is_new).map(record).collect();
        let outcome = match snapshots.is_empty() {
            true => Ok(()),
            // The manifest is never ahead of what is durable in the log.
            false => self.wal.queue.stop_on_panic(|| {
                self.wal.queue.sync()?;
                self.publisher.publish(&mut files, Edit { snapshots, ..Edit::default() }).map(drop)
            }),
        };
        if let Err(error) = outcome {
            tracing::warn!(%error, "the name of a snapshot is only in the log for now");
        }
    }
}
