//! The hint `manifest/CURRENT`: a lower bound of the newest edit and log segment. By it the opening detects that the
//! newest files were removed, which nothing else shows.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::disk::{self, DiskPath};
use crate::format::current::{Current, decode_current, encode_current};
use crate::store::manifest::edits::manifest_dir;

/// Name of the file.
pub const CURRENT_FILE: &str = "CURRENT";

/// Contents of the file; zeros when it is missing or damaged, which only weakens the check.
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
#[derive(Debug)]
pub struct CurrentHint {
    root: DiskPath,
    written: Mutex<Current>,
    edit: AtomicU64,
}

impl CurrentHint {
    /// The hint of a store, of which nothing was written yet.
    pub fn new(root: &DiskPath) -> Self {
        Self { root: root.clone(), written: Mutex::default(), edit: AtomicU64::default() }
    }

    /// Records an edit that is durable.
    pub fn set_edit(&self, number: u64) {
        self.edit.store(number, Ordering::Release);
    }

    /// Writes the file if anything changed. Only what is durable counts; a failed write only
    /// weakens the check at the next open.
    pub fn note(&self, wal_segment: impl FnOnce() -> u64) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Current { edit: self.edit.load(Ordering::Acquire), wal_segment: wal_segment() };
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
