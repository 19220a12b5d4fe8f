//! The commit queue: a total order of commits, and group commit: one sync for many of them.
//!
//! A writer computes the next pending state under the lock, queues its frame and waits. One of the waiters becomes
//! the leader: it takes everything queued, writes and syncs it without the lock, then publishes the resulting
//! state. Readers only ever see published states, so they never see rows that are not durable under the
//! configured mode, and never wait.
//!
//! A failed write or sync stops the queue permanently (`writer_stopped`); readers continue. When space for a frame cannot
//! be reserved, or the file for it cannot be created, nothing was written: the waiting commits fail with
//! `storage_full`, `overloaded` or `io`, and the queue continues.
//! A panic in a step that writes is a defect, such as a failed check of what is about to be published: it stops the
//! queue as well, and the waiting commits get the error.
//! When the directory of the store or its `LOCK` is removed or replaced, the queue stops before it acknowledges another
//! commit.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock, PoisonError};

use crate::clock::Clock;
use crate::disk::Lock;
use crate::error::{Error, ErrorCode, Result, panic_message};
use crate::format::wal::FrameKind;
use crate::store::options::Durability;
use crate::store::read::retained_commits::RetainedCommits;
use crate::store::read::series_state::SeriesId;
use crate::store::read::store_state::StoreState;
use crate::store::read::structural::Structural;
use crate::store::wal::segments::{AppendError, Log, LogBytes, QueuedFrame, make_spare};
use crate::sync::{ArcSwap, Condvar, Mutex, MutexGuard};
use crate::types::SeriesKey;

/// Outcome of the commits that share a sync.
#[derive(Debug, Default)]
pub struct CommitBatch(OnceLock<Result<()>>);

impl CommitBatch {
    /// The outcome of a commit that is already durable and visible.
    pub fn done() -> Self {
        Self(OnceLock::from(Ok(())))
    }
}

/// Why writing stopped, once it did: the first cause.
type Stopped = Arc<OnceLock<String>>;

/// Commits that are decided and not yet durable. Protected by the queue's lock.
#[derive(Debug)]
pub struct QueuedCommits {
    /// State after every queued commit.
    pub state: Arc<StoreState>,
    frames: Vec<QueuedFrame>,
    /// The state of each queued commit, and the bytes of its frame.
    states: Vec<(Arc<StoreState>, u64)>,
    /// Maintenance applied since the leader took its state.
    structural: Vec<Structural>,
    batch: Arc<CommitBatch>,
    leading: bool,
    /// A series whose newest chunks are in `state` while their files are not published yet.
    loading: Option<SeriesId>,
    next_lsn: u64,
    /// Highest LSN known to be synced.
    durable_lsn: u64,
    /// Highest LSN written.
    written_lsn: u64,
    /// Highest `durable_lsn` recorded in a frame on disk.
    marked_lsn: u64,
    stopped: Stopped,
    /// The error with which every change fails in a read-only store.
    refusal: Option<Error>,
}

/// What a leader writes in one turn.
struct LeaderTurn {
    frames: Vec<QueuedFrame>,
    states: Vec<(Arc<StoreState>, u64)>,
    batch: Arc<CommitBatch>,
    /// The state after the last frame.
    state: Arc<StoreState>,
    /// The last LSN written before, and the commit that readers see.
    written_lsn: u64,
    published_commit: u64,
}

impl LeaderTurn {
    /// Checks frames before they are written: their LSNs follow the last one without a gap, each has the number of its
    /// commit, and commits rise.
    fn assert_publishable_frames(&self) {
        let (mut lsn, mut commit) = (self.written_lsn, self.published_commit);
        assert_eq!(self.frames.len(), self.states.len(), "frames and states of a turn after lsn {lsn}");
        for (frame, (state, _)) in self.frames.iter().zip(&self.states) {
            assert_eq!(frame.lsn, lsn + 1, "lsn of the frame of commit {}", frame.commit);
            assert_eq!(frame.commit, state.commit, "commit of the frame with lsn {}", frame.lsn);
            assert!(frame.commit > commit, "commit {} in lsn {} follows commit {commit}", frame.commit, frame.lsn);
            (lsn, commit) = (frame.lsn, frame.commit);
        }
        assert_eq!(self.state.commit, commit, "commit of the state after lsn {lsn}");
    }
}

/// A state whose runs were frozen, and the position in the log after it.
#[derive(Debug)]
pub struct FrozenRuns {
    pub ids: Arc<Vec<SeriesId>>,
    /// Not durable before `decided` and a sync after it.
    pub state: Arc<StoreState>,
    /// To be waited on before the state is used: a commit in it can still be refused.
    pub decided: Arc<CommitBatch>,
    /// Segment that is open, and the LSN of the next frame.
    pub segment: u64,
    pub first_lsn: u64,
}

/// The queue. See the module documentation.
#[derive(Debug)]
pub struct CommitQueue {
    pending: Mutex<QueuedCommits>,
    wake: Condvar,
    /// Only the leader, or a holder of the `pending` lock while there is no leader, uses the log.
    log: Mutex<Log>,
    /// Byte counts of the log, readable without either lock.
    log_bytes: Arc<LogBytes>,
    stopped: Stopped,
    published: ArcSwap<StoreState>,
    /// Receives states that are no longer the current one.
    past: Arc<RetainedCommits>,
    /// The time of commits, and by which their receipts expire.
    clock: Clock,
    durability: Durability,
    /// The lock file that protects the log; `None` where nothing is written.
    lock: Option<Arc<Lock>>,
}

impl CommitQueue {
    pub fn new(state: StoreState, log: Log, next_lsn: u64, durability: Durability, stopped: Option<String>) -> Self {
        let state = Arc::new(state);
        let stopped: Stopped = Arc::new(stopped.map_or_else(OnceLock::new, OnceLock::from));
        let pending = QueuedCommits {
            state: Arc::clone(&state),
            frames: Vec::new(),
            states: Vec::new(),
            structural: Vec::new(),
            batch: Arc::default(),
            leading: false,
            loading: None,
            next_lsn,
            durable_lsn: next_lsn - 1,
            written_lsn: next_lsn - 1,
            marked_lsn: 0,
            stopped: Arc::clone(&stopped),
            refusal: None,
        };
        Self {
            pending: Mutex::new(pending),
            wake: Condvar::new(),
            log_bytes: log.byte_counts(),
            stopped,
            log: Mutex::new(log),
            published: ArcSwap::from(state),
            past: Arc::new(RetainedCommits::new(0, Clock::default())),
            clock: Clock::default(),
            durability,
            lock: None,
        }
    }

    /// Takes the time of commits from this clock.
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// The time of day of a commit that is decided now.
    pub fn wall_ms(&self) -> i64 {
        self.clock.wall_ms()
    }

    /// Acknowledges commits only while this process still owns the lock file.
    pub fn owned_by(mut self, lock: Arc<Lock>) -> Self {
        self.lock = Some(lock);
        self
    }

    /// Stops the queue, with `writer_stopped`, once the directory of the store or its `LOCK` was removed or replaced.
    pub fn check_owned(&self) -> Result<()> {
        let Some(lost) = self.lock.as_ref().and_then(|lock| lock.is_lost()) else { return Ok(()) };
        let _ = self.stopped.set(lost.clone());
        Err(stopped_error(&lost))
    }

    /// Appends frames; checks before and after that this process still owns the store.
    fn append(&self, frames: &[QueuedFrame], sync: bool) -> std::result::Result<(), AppendError> {
        let owned = || self.check_owned().map_err(|error| AppendError { error, untouched: false });
        owned()?;
        self.log().append(frames, sync)?;
        owned()
    }

    /// Passes states that are no longer the current one to `past`.
    pub fn with_past(self, past: Arc<RetainedCommits>) -> Self {
        Self { past, ..self }
    }

    /// The last published state.
    pub fn published(&self) -> Arc<StoreState> {
        self.published.load_full()
    }

    /// The lock under which commits are decided.
    pub fn lock(&self) -> MutexGuard<'_, QueuedCommits> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Like [`lock`](Self::lock), for a caller that reads rows of these series: waits until their chunks can be read.
    pub fn lock_to_read<'k>(&self, keys: impl Iterator<Item = &'k SeriesKey> + Clone) -> MutexGuard<'_, QueuedCommits> {
        let mut pending = self.lock();
        while pending.loading.is_some_and(|id| keys.clone().any(|key| pending.state.keys.get(key) == Some(&id))) {
            pending = self.wake.wait(pending).unwrap_or_else(PoisonError::into_inner);
        }
        pending
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why writing stopped, if it did.
    pub fn stopped(&self) -> Option<String> {
        self.stopped.get().cloned()
    }

    /// Stops acknowledging writes until the store is opened again.
    pub fn stop(&self, cause: &Error) {
        let _ = self.lock().stopped.set(cause.to_string());
    }

    /// Runs a step that writes files or the log. After a panic in it, which is a defect, nothing is known of what is on
    /// disk: writing stops, as it does after a failed write.
    ///
    /// # Errors
    /// Those of the step; `writer_stopped` after a panic.
    pub fn stop_on_panic<T>(&self, step: impl FnOnce() -> Result<T>) -> Result<T> {
        catch_unwind(AssertUnwindSafe(step)).unwrap_or_else(|panic| Err(self.stop_after(panic.as_ref())))
    }

    /// Stops writing because a step panicked.
    fn stop_after(&self, panic: &(dyn Any + Send)) -> Error {
        let cause = format!("a check of the program failed: {}", panic_message(panic));
        tracing::error!(%cause, "the store is read-only from now on");
        stopped_error(self.stopped.get_or_init(|| cause))
    }

    /// Whether the store accepts changes.
    pub fn takes_writes(&self) -> bool {
        self.check_owned().and_then(|()| self.lock().check_writable()).is_ok()
    }

    /// Fails every change with this error from now on.
    pub fn refuse(&self, refusal: Error) {
        self.lock().refusal = Some(refusal);
    }

    pub fn durability(&self) -> Durability {
        self.durability
    }

    /// Queues a commit that leads to `state` and returns what to wait on. `state.commit` is its number.
    pub fn enqueue(
        &self,
        pending: &mut QueuedCommits,
        state: StoreState,
        payload: Vec<u8>,
    ) -> Result<Arc<CommitBatch>> {
        pending.check_writable()?;
        let lsn = pending.next_lsn;
        pending.next_lsn += 1;
        let bytes = payload.len() as u64;
        pending.frames.push(QueuedFrame {
            kind: FrameKind::Commit,
            lsn,
            commit: state.commit,
            durable_lsn: pending.durable_lsn,
            payload,
        });
        pending.state = Arc::new(state);
        pending.states.push((Arc::clone(&pending.state), bytes));
        Ok(Arc::clone(&pending.batch))
    }

    /// Applies maintenance to the pending and the published state at once.
    pub fn apply(&self, pending: &mut QueuedCommits, change: Structural) {
        let mut state = pending.state.as_ref().clone();
        change.apply(&mut state);
        pending.state = Arc::new(state);
        let mut published = self.published.load().as_ref().clone();
        change.apply(&mut published);
        self.published.store(Arc::new(published));
        if pending.leading {
            pending.structural.push(change);
        }
    }

    /// Waits until the batch is durable under the configured mode and visible, leading when there is no leader.
    pub fn wait(&self, batch: &CommitBatch) -> Result<()> {
        let mut pending = self.lock();
        loop {
            if let Some(outcome) = batch.0.get() {
                return outcome.clone();
            }
            if pending.leading {
                pending = self.wake.wait(pending).unwrap_or_else(PoisonError::into_inner);
            } else {
                pending = self.lead(pending);
            }
        }
    }

    /// Waits until a batch is decided and every written frame is durable: required before rows move out of the log.
    pub fn wait_durable(&self, batch: &CommitBatch) -> Result<()> {
        self.wait(batch)?;
        self.sync()
    }

    /// Makes everything queued so far durable and visible.
    pub fn flush(&self) -> Result<()> {
        let batch = self.lock().decided()?;
        self.wait(&batch)
    }

    fn lead<'a>(&'a self, mut pending: MutexGuard<'a, QueuedCommits>) -> MutexGuard<'a, QueuedCommits> {
        let turn = pending.take_turn(self.published.load().commit);
        drop(pending);

        let sync = self.durability == Durability::Sync;
        let outcome = self.write_turn(&turn, sync);

        let mut pending = self.lock();
        pending.leading = false;
        // The waiters get the outcome from the batch; the leader itself reads it there too.
        let _ = self.finish_turn(&mut pending, turn, outcome, sync);
        pending.structural.clear();
        self.wake();
        pending
    }

    /// Writes the frames of a turn. A panic is an error like any other here: the queue has a leader, whom others wait for.
    fn write_turn(&self, turn: &LeaderTurn, sync: bool) -> std::result::Result<(), AppendError> {
        let write = || {
            turn.assert_publishable_frames();
            if turn.frames.is_empty() { Ok(()) } else { self.append(&turn.frames, sync) }
        };
        catch_unwind(AssertUnwindSafe(write))
            .unwrap_or_else(|panic| Err(AppendError { error: self.stop_after(panic.as_ref()), untouched: false }))
    }

    /// Ends the turn of a leader: its state is published, or its commits and all queued after them are refused.
    fn finish_turn(
        &self,
        pending: &mut QueuedCommits,
        turn: LeaderTurn,
        outcome: std::result::Result<(), AppendError>,
        sync: bool,
    ) -> Result<()> {
        let outcome = match outcome {
            Ok(()) => {
                if let Some(last) = turn.frames.last() {
                    pending.written_lsn = last.lsn;
                    pending.marked_lsn = pending.marked_lsn.max(last.durable_lsn);
                    if sync {
                        pending.durable_lsn = last.lsn;
                    }
                }
                self.publish(pending, &turn.state, &turn.states);
                Ok(())
            }
            Err(failure) => {
                tracing::error!(error = %failure.error, "the log could not be written");
                if failure.error.code() == ErrorCode::StorageFull {
                    self.past.release_history();
                }
                // Every commit queued after it depends on it.
                let error = if failure.untouched {
                    pending.rewind();
                    failure.error
                } else {
                    let _ = pending.stopped.set(failure.error.to_string());
                    let cause = pending.stopped.get().cloned().unwrap_or_else(|| failure.error.to_string());
                    stopped_error(&cause)
                };
                self.refuse_queued(pending, &error);
                Err(error)
            }
        };
        let _ = turn.batch.0.set(outcome.clone());
        outcome
    }

    /// Publishes a state to readers, with the maintenance applied since the leader took it. `states` are the states of
    /// the commits that led to it, including itself: clients know their numbers and can read them.
    fn publish(&self, pending: &QueuedCommits, state: &Arc<StoreState>, states: &[(Arc<StoreState>, u64)]) {
        let before = self.published.load_full();
        if before.commit < state.commit {
            self.past.supersede(&before, states.first().map_or(0, |(_, bytes)| *bytes));
            for pair in states.windows(2) {
                if let [(earlier, _), (_, bytes)] = pair {
                    self.past.supersede(earlier, *bytes);
                }
            }
        }
        if pending.structural.is_empty() {
            self.published.store(Arc::clone(state));
            return;
        }
        let mut state = state.as_ref().clone();
        pending.structural.iter().for_each(|change| change.apply(&mut state));
        self.published.store(Arc::new(state));
    }

    /// Refuses all queued commits: the pending state returns to the published one.
    fn refuse_queued(&self, pending: &mut QueuedCommits, error: &Error) {
        pending.state = self.published.load_full();
        pending.frames.clear();
        pending.states.clear();
        pending.structural.clear();
        let refused = std::mem::take(&mut pending.batch);
        let _ = refused.0.set(Err(error.clone()));
    }

    fn wake(&self) {
        self.wake.notify_all();
    }

    /// Commits without a frame in the log: all earlier commits become durable and visible, then `write` makes this one
    /// durable by a manifest edit, then readers see it. Commits decided meanwhile wait for it; they are refused if it
    /// fails.
    ///
    /// `decide` gets the state before the commit and returns the state after it, or `None` when there is nothing to
    /// commit; then nothing was changed. `write` returns the number of the manifest edit; until it has returned, the
    /// files of new chunks of the series `id` need not exist.
    pub fn commit_outside_log<T>(
        &self,
        id: SeriesId,
        decide: impl FnOnce(&StoreState) -> Result<Option<(StoreState, T)>>,
        write: impl FnOnce(T) -> Result<u64>,
    ) -> Result<Option<()>> {
        let mut pending = self.lock();
        while pending.leading {
            pending = self.wake.wait(pending).unwrap_or_else(PoisonError::into_inner);
        }
        pending.check_writable()?;
        let Some((state, work)) = decide(&pending.state)? else { return Ok(None) };
        assert_eq!(state.commit, pending.state.commit + 1, "commit of series {id} without a frame");
        let after = Arc::new(state);
        let turn = pending.take_turn(self.published.load().commit);
        pending.state = Arc::clone(&after);
        pending.loading = Some(id);
        let unsynced = pending.durable_lsn < pending.written_lsn;
        drop(pending);

        // If this commit survives a crash, all earlier ones must survive too.
        let mut logged = self.write_turn(&turn, true);
        if logged.is_ok() && turn.frames.is_empty() && unsynced {
            logged = self.log().sync().map_err(|error| AppendError { error, untouched: false });
        }
        let mut pending = self.lock();
        if let Err(error) = self.finish_turn(&mut pending, turn, logged, true) {
            pending.leading = false;
            pending.loading = None;
            self.wake();
            return Err(error);
        }
        pending.durable_lsn = pending.written_lsn;
        self.wake();
        drop(pending);

        let written = self.stop_on_panic(|| write(work));

        let mut pending = self.lock();
        pending.leading = false;
        pending.loading = None;
        let outcome = match written {
            Ok(edit) => {
                self.publish(&pending, &after, &[]);
                pending.structural.clear();
                self.apply(&mut pending, Structural::Chunks { parts: Arc::default(), edit });
                Ok(Some(()))
            }
            Err(error) => {
                // Where it is unknown whether the edit is on disk, the publisher has stopped the writer.
                let error = pending.stopped.get().map_or(error, |cause| stopped_error(cause));
                pending.rewind();
                self.refuse_queued(&mut pending, &error);
                Err(error)
            }
        };
        self.wake();
        outcome
    }

    /// Takes the log for maintenance: waits until there is no leader and prevents a new one.
    fn with_log<T>(&self, work: impl FnOnce(&mut QueuedCommits, &mut Log) -> Result<T>) -> Result<T> {
        let mut pending = self.lock();
        while pending.leading {
            pending = self.wake.wait(pending).unwrap_or_else(PoisonError::into_inner);
        }
        let mut log = self.log();
        work(&mut pending, &mut log)
    }

    /// Writes a marker frame when the log ends with acknowledged frames, so that a later recovery knows they were
    /// synced.
    pub fn mark(&self) -> Result<()> {
        self.with_log(|pending, log| {
            let due = pending.frames.is_empty() && pending.durable_lsn > pending.marked_lsn;
            if !due || pending.stopped.get().is_some() || !log.has_space_for_marker() {
                return Ok(());
            }
            let marker = QueuedFrame {
                kind: FrameKind::Marker,
                lsn: pending.next_lsn,
                commit: 0,
                durable_lsn: pending.durable_lsn,
                payload: Vec::new(),
            };
            match log.append(&[marker], false) {
                Ok(()) => {
                    pending.marked_lsn = pending.durable_lsn;
                    pending.written_lsn = pending.next_lsn;
                    pending.next_lsn += 1;
                    Ok(())
                }
                Err(failure) => {
                    let _ = pending.stopped.set(failure.error.to_string());
                    Err(failure.error)
                }
            }
        })
    }

    /// Syncs what was written without a sync (`interval`, `none`, markers).
    pub fn sync(&self) -> Result<()> {
        self.with_log(QueuedCommits::sync)
    }

    /// Freezes the runs of these series (all with runs when `None`) at one commit, and returns the position in the log
    /// after it: what the state holds comes from frames before `first_lsn`, everything later from frames after it.
    pub fn freeze(&self, ids: Option<&[SeriesId]>) -> Result<FrozenRuns> {
        self.with_log(|pending, log| {
            pending.check_writable()?;
            let has_runs = |id: &SeriesId| pending.state.series.get(id).is_some_and(|series| !series.runs.is_empty());
            let ids: Vec<SeriesId> = match ids {
                Some(ids) => ids.iter().copied().filter(has_runs).collect(),
                None => pending.state.series.keys().copied().filter(has_runs).collect(),
            };
            let ids = Arc::new(ids);
            self.apply(pending, Structural::Freeze(Arc::clone(&ids)));
            Ok(FrozenRuns {
                ids,
                state: Arc::clone(&pending.state),
                decided: Arc::clone(&pending.batch),
                segment: log.segment(),
                first_lsn: pending.next_lsn,
            })
        })
    }

    /// Removes log segments the manifest no longer needs.
    pub fn trim(&self, first_segment: u64) -> Result<()> {
        self.with_log(|_, log| log.trim(first_segment))
    }

    /// Number of the newest log segment.
    pub fn segment(&self) -> u64 {
        self.log().segment()
    }

    /// Makes a spare segment when one is needed; only handing it over needs the log.
    pub fn make_spare(&self) -> Result<()> {
        let wanted = {
            let log = self.log();
            log.needs_spare().then(|| log.spare_of())
        };
        if let Some((tmp, bytes)) = wanted {
            let spare = make_spare(&tmp, bytes)?;
            self.log().set_spare(spare);
        }
        Ok(())
    }

    /// Makes the next append fail as on a full disk.
    #[cfg(test)]
    pub fn fill_disk_once(&self) {
        self.fail_segment_once(Error::new(ErrorCode::StorageFull, "no space"));
    }

    /// Makes the creation of the next segment fail with this error.
    #[cfg(test)]
    pub fn fail_segment_once(&self, error: Error) {
        self.log().fail_once = Some(error);
    }

    /// Bytes of the log on disk, and bytes of frames in it. Waits for no sync.
    pub fn log_bytes(&self) -> (u64, u64) {
        self.log_bytes.now()
    }
}

impl QueuedCommits {
    /// Takes everything queued; there is no other leader until `leading` is false again.
    fn take_turn(&mut self, published_commit: u64) -> LeaderTurn {
        self.structural.clear();
        self.leading = true;
        LeaderTurn {
            frames: std::mem::take(&mut self.frames),
            states: std::mem::take(&mut self.states),
            batch: std::mem::take(&mut self.batch),
            state: Arc::clone(&self.state),
            written_lsn: self.written_lsn,
            published_commit,
        }
    }

    /// Releases the LSNs of frames that will not be written.
    fn rewind(&mut self) {
        self.next_lsn = self.written_lsn + 1;
    }

    /// Makes every written frame durable.
    fn sync(&mut self, log: &mut Log) -> Result<()> {
        self.check_writable()?;
        if self.durable_lsn >= self.written_lsn {
            return Ok(());
        }
        match log.sync() {
            Ok(()) => {
                self.durable_lsn = self.written_lsn;
                Ok(())
            }
            Err(error) => {
                let _ = self.stopped.set(error.to_string());
                Err(error)
            }
        }
    }

    /// What to wait on for everything this state holds. Taken under the lock under which the state is read: a
    /// batch taken later can succeed although what was read was refused in between.
    pub fn decided(&self) -> Result<Arc<CommitBatch>> {
        self.check_writable()?;
        Ok(Arc::clone(&self.batch))
    }

    /// `writer_stopped` once a write or sync failed, and in a read-only store.
    pub fn check_writable(&self) -> Result<()> {
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        match self.stopped.get() {
            None => Ok(()),
            Some(cause) => Err(stopped_error(cause)),
        }
    }
}

fn stopped_error(cause: &str) -> Error {
    Error::new(ErrorCode::WriterStopped, format!("the store is read-only: {cause}"))
        .with_hint("reads continue; restart the server when the disk is healthy again")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;
    use crate::disk::DiskPath;
    use crate::store::facade::Store;
    use crate::store::open::recover::{ManifestTrust, read_store};
    use crate::store::options::StoreOptions;

    #[test]
    fn the_state_for_health_and_metrics_waits_for_no_sync() {
        let dir = tempfile::tempdir().unwrap();
        let root = DiskPath::os(dir.path());
        drop(
            Store::open_on(&root, true, StoreOptions { background_maintenance: false, ..StoreOptions::default() })
                .unwrap(),
        );
        let read = read_store(&root, ManifestTrust::Manifest).unwrap();
        let log = Log::open(&root, read.start, &read.log, 64 << 10).unwrap();
        let bytes = (log.bytes(), log.used_bytes());
        assert!(bytes.0 > 0 && bytes.1 > 0);
        let queue = Arc::new(CommitQueue::new(read.state, log, 1, Durability::Sync, None));
        // As while a disk stalls: both locks are held.
        let (_pending, _log) = (queue.lock(), queue.log());
        let (sender, receiver) = channel();
        let looking = Arc::clone(&queue);
        std::thread::spawn(move || sender.send((looking.log_bytes(), looking.stopped())));
        assert_eq!(receiver.recv_timeout(Duration::from_secs(60)).unwrap(), (bytes, None));
    }
}
