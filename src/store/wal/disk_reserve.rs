//! Disk space reserved for a full disk: maintenance that frees space needs some itself.

use std::sync::{Mutex, PoisonError};

use crate::disk::{DiskPath, StagedFile};
use crate::error::{ErrorCode, Result};

/// Bytes reserved: an edit, a run file of what the log holds of deletes, and the directory blocks for them.
const RESERVE_BYTES: u64 = 4 << 20;

/// An unused file, removed when the disk is full.
#[derive(Debug)]
pub struct DiskReserve {
    tmp: DiskPath,
    bytes: u64,
    file: Mutex<Option<StagedFile>>,
}

impl DiskReserve {
    /// A reserve that holds nothing yet, of at most one log segment.
    pub fn new(root: &DiskPath, segment_bytes: u64) -> Self {
        Self { tmp: root.join("tmp"), bytes: RESERVE_BYTES.min(segment_bytes), file: Mutex::default() }
    }

    /// Reserves the space, unless it is reserved already or there is none.
    pub fn take(&self) {
        let mut reserve = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if reserve.is_none() {
            let taken = StagedFile::create(&self.tmp).and_then(|staged| staged.reserve(self.bytes).map(|()| staged));
            match taken {
                Ok(staged) => *reserve = Some(staged),
                Err(error) => tracing::debug!(%error, "no disk space is reserved"),
            }
        }
    }

    /// Runs `work`; on a full disk releases the reserve and retries once.
    pub fn with_reserve<T>(&self, mut work: impl FnMut() -> Result<T>) -> Result<T> {
        match work() {
            Err(error) if error.code() == ErrorCode::StorageFull => {
                let reserve = self.file.lock().unwrap_or_else(PoisonError::into_inner).take();
                if reserve.is_none() {
                    return Err(error);
                }
                tracing::warn!(%error, "the disk is full: the reserve is released");
                drop(reserve);
                work()
            }
            other => other,
        }
    }
}
