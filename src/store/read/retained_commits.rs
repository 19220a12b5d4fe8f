//! Earlier commits that stay readable for a limited time: those that a cursor or ticket names, and the latest ones that
//! a reply can have named, within a limit on their memory.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::store::read::series_state::{SeriesId, SeriesState};
use crate::store::read::store_state::StoreState;
use crate::sync::Mutex;

/// Most commits retained at once for cursors and tickets; beyond it the least recently used one is dropped early. A
/// retained commit costs the tail rows that were merged or sealed since, so their number is bounded.
const COMMITS_MAX: usize = 256;

/// Bytes that a commit counts in addition to its rows: the nodes of maps and the short runs that no later state shares.
pub const COMMIT_BYTES: u64 = 8 << 10;

/// The retained commits of an open store.
#[derive(Debug)]
pub struct RetainedCommits {
    keep: Duration,
    clock: Clock,
    commits: Mutex<BTreeMap<u64, RetainedCommit>>,
    /// Most bytes that `history` holds.
    commit_retention_bytes_max: u64,
    history: Mutex<CommitHistory>,
    /// What replaying the log at the opening found; empty in a new store.
    replayed: ReplayedCommits,
}

#[derive(Debug)]
struct RetainedCommit {
    state: Arc<StoreState>,
    last_used: Instant,
}

/// Commits that were the current one, the latest last.
#[derive(Debug, Default)]
struct CommitHistory {
    bytes: u64,
    past: VecDeque<PastCommit>,
}

/// A commit that was the current one until `until`.
#[derive(Debug)]
struct PastCommit {
    state: Arc<StoreState>,
    until: Instant,
    bytes: u64,
}

impl CommitHistory {
    /// Removes the oldest commits that exceed the time or the memory.
    fn expire(&mut self, keep: Duration, bytes_max: u64, now: Instant) -> Vec<PastCommit> {
        let mut expired = Vec::new();
        while let Some(first) = self.past.front()
            && (self.bytes > bytes_max || now.duration_since(first.until) >= keep)
        {
            self.bytes = self.bytes.saturating_sub(first.bytes);
            expired.extend(self.past.pop_front());
        }
        expired
    }
}

/// Commits that were read back from the log when the store was opened.
///
/// The chunk files of the manifest can be ahead of them, so a series in such a state can differ from the
/// series at the commit.
#[derive(Debug, Default)]
pub struct ReplayedCommits {
    /// The last commit when the store was opened.
    pub until: u64,
    /// States at commits of the log, in order.
    pub states: Vec<Arc<StoreState>>,
    /// The last commit that changed a series otherwise than by writing rows.
    pub rewritten: HashMap<SeriesId, u64>,
    /// The last commit that dropped a series.
    pub dropped: u64,
}

impl ReplayedCommits {
    /// Whether a series in a state read back from the log equals the series at that commit.
    pub fn holds(&self, series: &SeriesState, commit: u64) -> bool {
        series.last_commit <= commit
            && series.chunks.iter().all(|chunk| chunk.record.commit_hi <= commit)
            && series.tail().all(|run| run.commit_hi <= commit)
            && series.tombstones.iter().all(|tombstone| tombstone.commit <= commit)
            && self.rewritten.get(&series.id).is_none_or(|last| *last <= commit)
    }
}

impl RetainedCommits {
    pub fn new(keep_ms: u64, clock: Clock) -> Self {
        Self {
            keep: Duration::from_millis(keep_ms),
            clock,
            commits: Mutex::default(),
            commit_retention_bytes_max: 0,
            history: Mutex::default(),
            replayed: ReplayedCommits::default(),
        }
    }

    /// Retains also commits that were the current one, within about `bytes_max` bytes of
    /// memory, starting with what was read back from the log.
    pub fn with_history(mut self, bytes_max: u64, mut replayed: ReplayedCommits) -> Self {
        let states = std::mem::take(&mut replayed.states);
        let until = self.clock.now();
        let past: VecDeque<PastCommit> =
            states.into_iter().map(|state| PastCommit { state, until, bytes: COMMIT_BYTES }).collect();
        let bytes = past.len() as u64 * COMMIT_BYTES;
        let mut history = CommitHistory { bytes, past };
        history.expire(self.keep, bytes_max, until);
        self.commit_retention_bytes_max = bytes_max;
        self.history = Mutex::new(history);
        self.replayed = replayed;
        self
    }

    /// What replaying the log found.
    pub fn replayed(&self) -> &ReplayedCommits {
        &self.replayed
    }

    /// Retains a commit that is no longer the current one; `bytes` is what was written to get from it to the next.
    pub fn supersede(&self, state: &Arc<StoreState>, bytes: u64) {
        if self.commit_retention_bytes_max == 0 {
            return;
        }
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        if history.past.back().is_some_and(|last| last.state.commit >= state.commit) {
            return;
        }
        let now = self.clock.now();
        let bytes = bytes.saturating_add(COMMIT_BYTES);
        history.bytes = history.bytes.saturating_add(bytes);
        history.past.push_back(PastCommit { state: Arc::clone(state), until: now, bytes });
        let expired = history.expire(self.keep, self.commit_retention_bytes_max, now);
        drop(history);
        drop(expired);
    }

    /// Retains a state, readable under its commit.
    pub fn keep(&self, state: &Arc<StoreState>) {
        if state.is_partial {
            return;
        }
        let mut commits = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        commits.retain(|_, retained| now.duration_since(retained.last_used) < self.keep);
        commits.insert(state.commit, RetainedCommit { state: Arc::clone(state), last_used: now });
        while commits.len() > COMMITS_MAX {
            let oldest = commits.iter().min_by_key(|(_, retained)| retained.last_used).map(|(commit, _)| *commit);
            match oldest {
                Some(commit) => commits.remove(&commit),
                None => break,
            };
        }
    }

    /// The retained state of a commit; requesting it retains it longer.
    pub fn get(&self, commit: u64) -> Option<Arc<StoreState>> {
        let mut commits = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        if let Some(retained) =
            commits.get_mut(&commit).filter(|retained| now.duration_since(retained.last_used) < self.keep)
        {
            retained.last_used = now;
            return Some(Arc::clone(&retained.state));
        }
        drop(commits);
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let at = history.past.binary_search_by_key(&commit, |past| past.state.commit).ok()?;
        let past = history.past.get(at).filter(|past| now.duration_since(past.until) < self.keep)?;
        let state = Arc::clone(&past.state);
        drop(history);
        self.keep(&state);
        Some(state)
    }

    /// Releases all commits that only a response can have named: the space of their files is needed.
    pub fn release_history(&self) {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let expired = std::mem::take(&mut history.past);
        history.bytes = 0;
        drop(history);
        drop(expired);
    }

    /// Releases the commits whose time has expired.
    pub fn expire(&self) {
        let now = self.clock.now();
        let mut commits = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        commits.retain(|_, retained| now.duration_since(retained.last_used) < self.keep);
        drop(commits);
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let expired = history.expire(self.keep, self.commit_retention_bytes_max, now);
        drop(history);
        drop(expired);
    }
}
