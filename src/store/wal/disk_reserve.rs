//! Room that is held back for the bad day: when the disk is full, maintenance that frees space still needs some.

use std::sync::{Mutex, PoisonError};

use crate::disk::StagedFile;
use crate::error::{ErrorCode, Result};
use crate::store::facade::StoreInner;

/// Bytes held back: an edit, a run file of what the log holds of deletes, and the directory blocks for them.
const BALLAST_BYTES: u64 = 4 << 20;

/// A file without a use, given up when the disk is full.
#[derive(Debug, Default)]
pub struct DiskReserve(Mutex<Option<StagedFile>>);

impl StoreInner {
    /// Takes the room, unless it is held already or there is none.
    pub fn take_ballast(&self) {
        let mut held = self.ballast.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_none() {
            let taken = StagedFile::create(&self.root.join("tmp"))
                .and_then(|staged| staged.reserve(BALLAST_BYTES.min(self.options.wal_segment_bytes)).map(|()| staged));
            match taken {
                Ok(staged) => *held = Some(staged),
                Err(error) => tracing::debug!(%error, "no room is held back"),
            }
        }
    }

    /// Does it, and when the disk is full once more in the room that was held back.
    pub fn with_ballast<T>(&self, mut work: impl FnMut() -> Result<T>) -> Result<T> {
        match work() {
            Err(error) if error.code() == ErrorCode::StorageFull => {
                let held = self.ballast.0.lock().unwrap_or_else(PoisonError::into_inner).take();
                if held.is_none() {
                    return Err(error);
                }
                tracing::warn!(%error, "the disk is full: the room held back for this is used");
                drop(held);
                work()
            }
            other => other,
        }
    }
}
