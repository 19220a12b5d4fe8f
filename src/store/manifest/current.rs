//! The hint `manifest/CURRENT`: how far the store had come, at least. Opening notices by it that the newest edits or log
//! segments were taken away, which leaves no other trace.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::disk::{self, DiskPath};
use crate::format::current::{Current, decode_current, encode_current};
use crate::store::facade::StoreInner;
use crate::store::manifest::edits::manifest_dir;

/// Name of the file.
pub const CURRENT_FILE: &str = "CURRENT";

/// What the file says; zeros when there is none, or it is damaged: it only says less then.
pub fn read(root: &DiskPath) -> Current {
    let path = manifest_dir(root).join(CURRENT_FILE);
    if !path.exists() {
        return Current::default();
    }
    disk::read(&path).and_then(|bytes| decode_current(&bytes)).unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "a hint is not used");
        Current::default()
    })
}

/// What was written last, and what could be written.
#[derive(Debug, Default)]
pub struct CurrentHint {
    written: Mutex<Current>,
    edit: AtomicU64,
}

impl StoreInner {
    /// Takes note of an edit that is durable.
    pub fn note_edit(&self, number: u64) {
        self.hint.edit.store(number, Ordering::Release);
        self.note_current();
    }

    /// Writes down how far the store is, if that changed. Only what is durable counts; it costs nothing but the notice
    /// when it cannot be written.
    pub fn note_current(&self) {
        let mut written = self.hint.written.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Current { edit: self.hint.edit.load(Ordering::Acquire), wal_segment: self.queue.segment() };
        if *written == now {
            return;
        }
        let target = manifest_dir(&self.root).join(CURRENT_FILE);
        match disk::replace(&self.root.join("tmp"), &target, &encode_current(&now)) {
            Ok(()) => *written = now,
            Err(error) => tracing::debug!(%error, "a hint was not written"),
        }
    }
}
