//! The statements that wait or run: listed, and cancelled.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::memory::QueryMemory;
use crate::cancel::CancelFlag;
use crate::clock::wall_ms;

/// Time between two looks at the statements that run.
const WATCH_INTERVAL: Duration = Duration::from_millis(50);
/// The same while none runs.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum bytes of a statement in the list.
const TEXT_BYTES_MAX: usize = 4_096;

/// Who started a statement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueryOwner {
    /// Id of the token; empty without one.
    pub token: Arc<str>,
}

/// Progress of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryStatus {
    Waiting,
    Planning,
    Running,
}

impl QueryStatus {
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Planning => "planning",
            Self::Running => "running",
        }
    }

    fn of(byte: u8) -> Self {
        match byte {
            0 => Self::Waiting,
            1 => Self::Planning,
            _ => Self::Running,
        }
    }
}

/// A statement that has not ended.
#[derive(Clone, Debug)]
pub struct RunningQuery {
    pub id: u64,
    pub owner: QueryOwner,
    /// The beginning of its text.
    pub sql: String,
    pub status: QueryStatus,
    /// Wall clock of its start in milliseconds; for display only.
    pub started_ms: i64,
    pub elapsed_ms: u64,
    /// Rows returned so far.
    pub rows: u64,
    /// Most bytes of memory in use at a time.
    pub memory_bytes_peak: u64,
}

/// The entry of one statement.
#[derive(Debug)]
pub struct QueryEntry {
    pub id: u64,
    owner: QueryOwner,
    /// Number that the client got before the statement ran.
    tag: Option<u64>,
    sql: String,
    started_ms: i64,
    started: Instant,
    status: AtomicU8,
    rows: AtomicU64,
    /// Milliseconds after its start at which its time is over; the maximum while its time is not counted.
    ends_ms: AtomicU64,
    is_expired: AtomicBool,
    pub memory: Arc<QueryMemory>,
    /// Ends its scans.
    pub stop: CancelFlag,
    /// Wakes its task once it is cancelled.
    pub cancelled: Notify,
}

impl QueryEntry {
    pub fn set_status(&self, status: QueryStatus) {
        let byte = match status {
            QueryStatus::Waiting => 0,
            QueryStatus::Planning => 1,
            QueryStatus::Running => 2,
        };
        self.status.store(byte, Ordering::Relaxed);
    }

    /// Sets the time after which the statement is stopped; `None` while its time is not counted.
    pub fn set_end(&self, left: Option<Duration>) {
        let ends = left.and_then(|left| u64::try_from((self.started.elapsed() + left).as_millis()).ok());
        self.ends_ms.store(ends.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Whether it was stopped because its time is over.
    pub fn is_expired(&self) -> bool {
        self.is_expired.load(Ordering::Acquire)
    }

    fn stop_if_expired(&self) {
        if self.started.elapsed().as_millis() > u128::from(self.ends_ms.load(Ordering::Relaxed)) {
            self.is_expired.store(true, Ordering::Release);
            self.stop.cancel();
        }
    }

    pub fn add_rows(&self, rows: usize) {
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
    }

    /// Ends the statement.
    pub fn cancel(&self) {
        self.stop.cancel();
        self.cancelled.notify_one();
    }

    fn shown(&self) -> RunningQuery {
        RunningQuery {
            id: self.id,
            owner: self.owner.clone(),
            sql: self.sql.clone(),
            status: QueryStatus::of(self.status.load(Ordering::Relaxed)),
            started_ms: self.started_ms,
            elapsed_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            rows: self.rows.load(Ordering::Relaxed),
            memory_bytes_peak: self.memory.peak() as u64,
        }
    }
}

/// All statements that have not ended.
#[derive(Debug, Default)]
pub struct RunningQueries {
    entries: Mutex<BTreeMap<u64, Arc<QueryEntry>>>,
    added: Condvar,
    last_id: AtomicU64,
}

impl RunningQueries {
    /// Adds a statement.
    pub fn add(&self, owner: QueryOwner, tag: Option<u64>, sql: &str, memory: Arc<QueryMemory>) -> Arc<QueryEntry> {
        let end = (0..=TEXT_BYTES_MAX.min(sql.len())).rev().find(|end| sql.is_char_boundary(*end)).unwrap_or(0);
        let entry = Arc::new(QueryEntry {
            id: self.last_id.fetch_add(1, Ordering::Relaxed) + 1,
            owner,
            tag,
            sql: sql.get(..end).unwrap_or_default().to_owned(),
            started_ms: wall_ms(),
            started: Instant::now(),
            status: AtomicU8::new(0),
            rows: AtomicU64::new(0),
            ends_ms: AtomicU64::new(u64::MAX),
            is_expired: AtomicBool::new(false),
            memory,
            stop: CancelFlag::default(),
            cancelled: Notify::new(),
        });
        self.lock().insert(entry.id, Arc::clone(&entry));
        self.added.notify_all();
        entry
    }

    /// Waits a moment and stops the statements whose time is over.
    pub fn stop_expired(&self) {
        let entries = self.lock();
        let interval = if entries.is_empty() { IDLE_INTERVAL } else { WATCH_INTERVAL };
        let entries =
            self.added.wait_timeout(entries, interval).map_or_else(|error| error.into_inner().0, |both| both.0);
        for entry in entries.values() {
            entry.stop_if_expired();
        }
    }

    /// Removes a statement that has ended.
    pub fn remove(&self, id: u64) {
        self.lock().remove(&id);
    }

    /// The statements, oldest first.
    pub fn list(&self) -> Vec<RunningQuery> {
        self.lock().values().map(|entry| entry.shown()).collect()
    }

    /// Cancels a statement; false when there is none of this id for which `may` is true.
    pub fn cancel(&self, id: u64, may: impl Fn(&QueryOwner) -> bool) -> bool {
        let found = self.lock().get(&id).filter(|entry| may(&entry.owner)).cloned();
        found.inspect(|entry| entry.cancel()).is_some()
    }

    /// Cancels the statements with this tag for which `may` is true; false when there is none.
    pub fn cancel_tagged(&self, tag: u64, may: impl Fn(&QueryOwner) -> bool) -> bool {
        let has_tag = |entry: &&Arc<QueryEntry>| entry.tag == Some(tag) && may(&entry.owner);
        let found: Vec<Arc<QueryEntry>> = self.lock().values().filter(has_tag).cloned().collect();
        found.iter().for_each(|entry| entry.cancel());
        !found.is_empty()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Arc<QueryEntry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
