//! Upkeep in the background: marker frames, interval syncs, sealing of long tails, trimming of the log, compaction,
//! retention. Each is a step that can be taken by hand as well.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::store::facade::{StoreInner, StoreOptions};
use crate::store::read::state::SeriesId;
use crate::store::wal::commit_queue::Durability;
use crate::store::write::rows::RECEIPTS_MAX;

/// Longest time acknowledged frames stay last in the log without a marker behind them.
const MARK_INTERVAL: Duration = Duration::from_millis(40);

/// How often retention is looked at.
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
    orders: Mutex<MaintenanceRequests>,
    wake: Condvar,
}

/// The two upkeep threads: one for the log, one for files.
#[derive(Debug)]
pub struct MaintenanceThreads {
    desk: Arc<MaintenanceQueue>,
    threads: Vec<JoinHandle<()>>,
}

/// What one thread does until the store closes.
type MaintenanceLoop = fn(&Weak<StoreInner>, &MaintenanceQueue);

impl MaintenanceThreads {
    pub fn start(inner: &Arc<StoreInner>) -> Result<Self> {
        let desk = Arc::new(MaintenanceQueue::default());
        let mut upkeep = Self { desk: Arc::clone(&desk), threads: Vec::new() };
        let works: [(&str, MaintenanceLoop); 2] = [("fastk-log", keep_log), ("fastk-seal", keep_files)];
        for (name, work) in works {
            let (inner, desk) = (Arc::downgrade(inner), Arc::clone(&desk));
            let thread = std::thread::Builder::new()
                .name(name.into())
                .spawn(move || work(&inner, &desk))
                .map_err(|error| Error::internal(format!("cannot start thread {name}: {error}")))?;
            upkeep.threads.push(thread);
        }
        Ok(upkeep)
    }

    /// Asks for a series to be sealed.
    pub fn seal_soon(&self, id: SeriesId) {
        self.desk.orders.lock().unwrap_or_else(PoisonError::into_inner).seal.insert(id);
        self.desk.wake.notify_all();
    }

    /// Asks for a series' chunks to be looked at.
    pub fn compact_soon(&self, id: SeriesId) {
        self.desk.orders.lock().unwrap_or_else(PoisonError::into_inner).compact.insert(id);
    }

    /// Asks for all chunks to be looked at.
    pub fn compact_all_soon(&self) {
        self.desk.orders.lock().unwrap_or_else(PoisonError::into_inner).compact_all = true;
    }

    /// Ends the threads after the step they are in.
    pub fn stop(self) {
        self.desk.orders.lock().unwrap_or_else(PoisonError::into_inner).stop = true;
        self.desk.wake.notify_all();
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("an upkeep thread panicked");
            }
        }
    }
}

impl MaintenanceQueue {
    /// Waits for series to seal or time; `None` when asked to stop.
    fn next(&self, wait: Duration) -> Option<MaintenanceRequests> {
        let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut orders, _) = self
            .wake
            .wait_timeout_while(orders, wait, |orders| !orders.stop && orders.seal.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        if orders.stop { None } else { Some(std::mem::take(&mut orders)) }
    }

    /// Waits for time only; `false` when asked to stop.
    fn sleep(&self, wait: Duration) -> bool {
        let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let (orders, _) =
            self.wake.wait_timeout_while(orders, wait, |orders| !orders.stop).unwrap_or_else(PoisonError::into_inner);
        !orders.stop
    }
}

fn keep_log(inner: &Weak<StoreInner>, desk: &MaintenanceQueue) {
    let mut synced = Instant::now();
    while desk.sleep(MARK_INTERVAL) {
        let Some(inner) = inner.upgrade() else { return };
        if inner.queue.stopped().is_some() {
            continue;
        }
        let due = synced.elapsed() >= Duration::from_millis(inner.options.sync_interval_ms);
        if inner.queue.durability() == Durability::Interval && due {
            synced = Instant::now();
            report("sync", inner.queue.sync());
        }
        report("mark", inner.queue.mark());
        inner.note_current();
        if let Err(error) = inner.queue.make_spare() {
            // The next segment is made when it is needed, or cannot be had then either.
            tracing::debug!(%error, "no spare log segment");
        }
    }
}

fn keep_files(inner: &Weak<StoreInner>, desk: &MaintenanceQueue) {
    let mut retained = Instant::now();
    while let Some(orders) = desk.next(Duration::from_millis(500)) {
        let Some(inner) = inner.upgrade() else { return };
        inner.pins.expire();
        if inner.queue.stopped().is_some() {
            continue;
        }
        if !orders.seal.is_empty() {
            let due: Vec<SeriesId> = orders.seal.into_iter().collect();
            report("seal", inner.seal(&due).map(|_| ()));
        }
        report("rebuild sidecars", inner.rebuild_ordered().map(|_| ()));
        let StoreOptions { wal_bytes_max, .. } = inner.options;
        if inner.queue.log_bytes().1 > wal_bytes_max {
            report("checkpoint", inner.checkpoint());
        }
        if retained.elapsed() >= RETENTION_INTERVAL {
            retained = Instant::now();
            report("retention", inner.retain(false, &[]).map(|_| ()));
            if inner.queue.published().receipts.len() >= RECEIPTS_MAX / 2 {
                // A checkpoint does it as well, but may be far off, and at the limit writes under a key are refused.
                inner.forget_receipts();
            }
        }
        let ordered: Vec<SeriesId> = orders.compact.into_iter().collect();
        let compacted = if orders.compact_all { inner.compact(&[], false) } else { inner.compact_changed(&ordered) };
        report("compact", compacted.map(|_| ()));
        report("vacuum", inner.vacuum().map(|_| ()));
        inner.take_ballast();
    }
}

fn report(step: &str, outcome: Result<()>) {
    if let Err(error) = outcome {
        tracing::error!(step, %error, "upkeep failed");
    }
}
