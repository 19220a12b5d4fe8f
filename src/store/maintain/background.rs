//! Maintenance in the background: marker frames, interval syncs, sealing of long tails, trimming of the log,
//! compaction, retention. Each step can also be run by hand.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::{Error, Result, panic_message};
use crate::store::maintain::maintenance::Maintenance;
use crate::store::options::Durability;
use crate::store::read::series_state::SeriesId;
use crate::store::write::idempotency::RECEIPTS_MAX;

/// Longest time acknowledged frames stay last in the log without a marker after them.
const MARK_INTERVAL: Duration = Duration::from_millis(40);

/// Interval of retention checks.
const RETENTION_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
struct MaintenanceRequests {
    seal: BTreeSet<SeriesId>,
    compact: BTreeSet<SeriesId>,
    compact_all: bool,
    stop: bool,
}

#[derive(Debug, Default)]
struct MaintenanceQueue {
    requests: Mutex<MaintenanceRequests>,
    wake: Condvar,
}

/// The two maintenance threads: one for the log, one for files.
#[derive(Debug)]
pub struct MaintenanceThreads {
    queue: Arc<MaintenanceQueue>,
    threads: Vec<JoinHandle<()>>,
}

/// What one thread does until the store closes.
type MaintenanceLoop = fn(&Weak<Maintenance>, &MaintenanceQueue);

impl MaintenanceThreads {
    pub fn start(maintenance: &Arc<Maintenance>) -> Result<Self> {
        let queue = Arc::new(MaintenanceQueue::default());
        let mut running = Self { queue: Arc::clone(&queue), threads: Vec::new() };
        let works: [(&str, MaintenanceLoop); 2] = [("fastk-log", maintain_log), ("fastk-seal", maintain_files)];
        for (name, work) in works {
            let (maintenance, queue) = (Arc::downgrade(maintenance), Arc::clone(&queue));
            let thread = std::thread::Builder::new()
                .name(name.into())
                .spawn(move || run_loop(work, &maintenance, &queue))
                .map_err(|error| Error::internal(format!("cannot start thread {name}: {error}")))?;
            running.threads.push(thread);
        }
        Ok(running)
    }

    /// Requests a seal of a series.
    pub fn request_seal(&self, id: SeriesId) {
        self.queue.requests.lock().unwrap_or_else(PoisonError::into_inner).seal.insert(id);
        self.queue.wake.notify_all();
    }

    /// Requests a check of a series' chunks for compaction.
    pub fn request_compaction(&self, id: SeriesId) {
        self.queue.requests.lock().unwrap_or_else(PoisonError::into_inner).compact.insert(id);
    }

    /// Requests a check of all chunks for compaction.
    pub fn request_compaction_of_all(&self) {
        self.queue.requests.lock().unwrap_or_else(PoisonError::into_inner).compact_all = true;
    }

    /// Ends the threads after the step they are in.
    pub fn stop(self) {
        self.queue.requests.lock().unwrap_or_else(PoisonError::into_inner).stop = true;
        self.queue.wake.notify_all();
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a maintenance thread panicked");
            }
        }
    }
}

impl MaintenanceQueue {
    /// Waits for a series to seal or for the time; `None` after a request to stop.
    fn next(&self, wait: Duration) -> Option<MaintenanceRequests> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut requests, _) = self
            .wake
            .wait_timeout_while(requests, wait, |requests| !requests.stop && requests.seal.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        if requests.stop { None } else { Some(std::mem::take(&mut requests)) }
    }

    /// Waits for the time only; `false` after a request to stop.
    fn sleep(&self, wait: Duration) -> bool {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let (requests, _) = self
            .wake
            .wait_timeout_while(requests, wait, |requests| !requests.stop)
            .unwrap_or_else(PoisonError::into_inner);
        !requests.stop
    }
}

/// Runs a loop until it ends. The steps of a loop handle their own panics; one outside of them would leave the store
/// without maintenance, so that it takes no more writes either.
fn run_loop(work: MaintenanceLoop, maintenance: &Weak<Maintenance>, queue: &MaintenanceQueue) {
    let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(maintenance, queue))) else { return };
    if let Some(maintenance) = maintenance.upgrade() {
        let cause = format!("a maintenance thread panicked: {}", panic_message(panic.as_ref()));
        tracing::error!(%cause, "the store is read-only from now on");
        maintenance.wal.queue.stop(&Error::internal(cause));
    }
}

fn maintain_log(maintenance: &Weak<Maintenance>, queue: &MaintenanceQueue) {
    let mut synced = Instant::now();
    while queue.sleep(MARK_INTERVAL) {
        let Some(maintenance) = maintenance.upgrade() else { return };
        if maintenance.wal.queue.stopped().is_some() {
            continue;
        }
        let due = synced.elapsed() >= Duration::from_millis(maintenance.options.sync_interval_ms);
        if maintenance.wal.queue.durability() == Durability::Interval && due {
            synced = Instant::now();
            report("sync", maintenance.wal.queue.sync());
        }
        report("mark", maintenance.wal.queue.mark());
        maintenance.publisher.note_current();
        if let Err(error) = maintenance.wal.queue.make_spare() {
            // The next segment is made when it is needed, or cannot be had then either.
            tracing::debug!(%error, "no spare log segment");
        }
    }
}

fn maintain_files(maintenance: &Weak<Maintenance>, queue: &MaintenanceQueue) {
    let mut retained = Instant::now();
    while let Some(requests) = queue.next(Duration::from_millis(500)) {
        let Some(maintenance) = maintenance.upgrade() else { return };
        maintenance.reads.retained.expire();
        if maintenance.wal.queue.stopped().is_some() {
            continue;
        }
        if !requests.seal.is_empty() {
            let due: Vec<SeriesId> = requests.seal.into_iter().collect();
            report("seal", maintenance.seal(&due).map(|_| ()));
        }
        report("rebuild sidecars", maintenance.rebuild_requested().map(|_| ()));
        if maintenance.wal.queue.log_bytes().1 > maintenance.options.wal_bytes_max {
            report("checkpoint", maintenance.checkpoint());
        }
        if retained.elapsed() >= RETENTION_INTERVAL {
            retained = Instant::now();
            report("retention", maintenance.retain(false, &[]).map(|_| ()));
            if maintenance.wal.queue.published().receipts.len() >= RECEIPTS_MAX / 2 {
                // A checkpoint does it as well, but may be far off, and at the limit writes under a key are refused.
                maintenance.drop_old_receipts();
            }
        }
        let ordered: Vec<SeriesId> = requests.compact.into_iter().collect();
        let compacted =
            if requests.compact_all { maintenance.compact(&[], false) } else { maintenance.compact_changed(&ordered) };
        report("compact", compacted.map(|_| ()));
        report("vacuum", maintenance.vacuum().map(|_| ()));
        maintenance.wal.reserve.take();
    }
}

fn report(step: &str, outcome: Result<()>) {
    if let Err(error) = outcome {
        tracing::error!(step, %error, "maintenance failed");
    }
}
