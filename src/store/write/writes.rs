//! The component that carries out the changes requested by callers.

use std::sync::Arc;

use crate::disk::DiskPath;
use crate::format::wal::{Commit, LoggedChange, encode_commit};
use crate::store::publish::publisher::Publisher;
use crate::store::read::reads::Reads;
use crate::store::wal::component::Wal;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Carries out the changes requested by callers.
#[derive(Debug)]
pub struct Writes {
    pub(super) root: DiskPath,
    pub(super) wal: Arc<Wal>,
    pub(super) reads: Arc<Reads>,
    pub(super) publisher: Arc<Publisher>,
    /// Tail rows of one series after which it is sealed.
    pub(super) tail_rows_max: u64,
    /// Never used twice; rises under the queue's lock.
    next_series_id: AtomicU64,
}

impl Writes {
    pub fn new(
        root: &DiskPath,
        publisher: &Arc<Publisher>,
        wal: &Arc<Wal>,
        reads: &Arc<Reads>,
        tail_rows_max: u64,
        next_series_id: u64,
    ) -> Self {
        Self {
            root: root.clone(),
            wal: Arc::clone(wal),
            reads: Arc::clone(reads),
            publisher: Arc::clone(publisher),
            tail_rows_max,
            next_series_id: AtomicU64::new(next_series_id),
        }
    }

    /// The number that the next series gets.
    pub fn next_series_id(&self) -> u64 {
        self.next_series_id.load(Ordering::Relaxed)
    }

    /// A number for a new series.
    pub(super) fn take_series_id(&self) -> u64 {
        self.next_series_id.fetch_add(1, Ordering::Relaxed)
    }
}

/// A frame of changes at this time, without a receipt.
pub fn frame(wall_ms: i64, operations: Vec<LoggedChange>) -> Vec<u8> {
    encode_commit(&Commit { receipt: None, wall_ms, operations })
}
