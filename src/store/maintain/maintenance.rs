//! The component that keeps a store small and its log short.

use std::sync::{Arc, PoisonError};

use crate::disk::DiskPath;
use crate::error::{ErrorCode, Result};
use crate::store::maintain::compaction_group::LiveRowCounts;
use crate::store::options::StoreOptions;
use crate::store::publish::counters::SealReport;
use crate::store::publish::publisher::Publisher;
use crate::store::read::reads::Reads;
use crate::store::read::series_state::SeriesId;
use crate::store::wal::component::Wal;
use crate::store::write::writes::Writes;
use crate::sync::Mutex;

/// Work that keeps a store small and its log short. Each step can be taken by hand or by a background thread.
#[derive(Debug)]
pub struct Maintenance {
    pub(super) root: DiskPath,
    pub(super) options: Arc<StoreOptions>,
    pub wal: Arc<Wal>,
    pub(super) reads: Arc<Reads>,
    pub publisher: Arc<Publisher>,
    pub(super) writes: Arc<Writes>,
    /// Counts of the last compaction; only one runs at a time.
    pub(super) live_counts: Mutex<LiveRowCounts>,
    /// Why the last step failed, if it did. Not under the lock of the files: looking at it never waits for them.
    failed: Mutex<Option<String>>,
}

impl Maintenance {
    pub fn new(
        root: &DiskPath,
        options: &Arc<StoreOptions>,
        wal: &Arc<Wal>,
        reads: &Arc<Reads>,
        publisher: &Arc<Publisher>,
        writes: &Arc<Writes>,
    ) -> Self {
        Self {
            root: root.clone(),
            options: Arc::clone(options),
            wal: Arc::clone(wal),
            reads: Arc::clone(reads),
            publisher: Arc::clone(publisher),
            writes: Arc::clone(writes),
            live_counts: Mutex::default(),
            failed: Mutex::default(),
        }
    }

    /// Moves the tails of these series into chunks, with one manifest edit for all of them.
    pub fn seal(&self, ids: &[SeriesId]) -> Result<SealReport> {
        let mut files = self.publisher.lock();
        let outcome = self.wal.queue.stop_on_panic(|| self.publisher.seal_with(&mut files, ids));
        self.note(&outcome);
        outcome
    }

    /// Records how a step ended.
    pub fn note<T>(&self, outcome: &Result<T>) {
        if outcome.as_ref().is_err_and(|error| error.code() == ErrorCode::StorageFull) {
            self.reads.retained.release_history();
        }
        let failed = outcome.as_ref().err().map(ToString::to_string);
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = failed;
    }

    /// Why the last step failed, if it did.
    pub fn failed(&self) -> Option<String> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
