//! The registry of an open store, with the snapshots that its datasets own.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::disk::DiskPath;
use crate::error::Result;
use crate::format::backup::is_registry_copy;
use crate::registry::{PendingSnapshot, RecordKind, RecordRef, Registry};
use crate::store::{self, DATASET_SNAPSHOT as DATASET, Store};

/// The registry of an open store.
#[derive(Debug)]
pub struct Catalog {
    pub(super) records: Registry,
    /// Held while a snapshot is dropped and while a dataset that uses one is committed.
    pub(super) snapshots: Mutex<()>,
}

impl Catalog {
    /// Opens the registry of a store, and undoes datasets whose creation was interrupted.
    pub fn open(store: &Store, wall_ms: i64) -> Self {
        let root = store.root();
        if root.join(store::BACKUP_LISTING).exists() {
            return Self::of(Registry::open_read_only(copy_in_backup(root).as_deref()));
        }
        if store.is_read_only() {
            return Self::of(Registry::open_unwritable(root));
        }
        let expected = store.snapshots().iter().any(|(name, _)| name.starts_with(DATASET));
        let catalog = Self::of(Registry::open(root, expected, wall_ms));
        match catalog.records.pending() {
            Ok(pending) => pending.iter().for_each(|pending| catalog.undo(store, pending)),
            Err(error) => tracing::warn!(%error, "cannot read interrupted dataset creations"),
        }
        catalog
    }

    fn of(records: Registry) -> Self {
        Self { records, snapshots: Mutex::default() }
    }

    /// Drops the snapshot of a dataset that was not created, or is archived. A failure is retried at the next open.
    pub(super) fn undo(&self, store: &Store, pending: &PendingSnapshot) {
        let _guard = self.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = self.release(store, pending) {
            tracing::warn!(%error, snapshot = %pending.snapshot, "cannot drop the snapshot of a dataset; retried at the next open");
        }
    }

    /// Drops the snapshot; the caller holds the lock on snapshots.
    pub(super) fn release(&self, store: &Store, pending: &PendingSnapshot) -> Result<()> {
        let owner = RecordRef::new(RecordKind::Dataset, &pending.name, pending.version);
        let exists = store.snapshot().snapshots.contains_key(&pending.snapshot);
        // Another dataset may use it.
        if pending.drops && exists && self.records.needed_by(&pending.snapshot)?.iter().all(|user| *user == owner) {
            store.drop_snapshot(&pending.snapshot)?;
        }
        self.records.remove_pending(pending)
    }

    /// A problem with the registry, if there is one.
    pub fn problem(&self) -> Option<String> {
        self.records.problem()
    }

    /// A copy for a backup, in the directory for temporary files; `None` when there is nothing to copy.
    pub fn copy(&self, root: &Path, wall_ms: i64) -> Result<Option<RegistryCopy>> {
        let name = format!("{}-registry.{wall_ms}.tmp", std::process::id());
        let copy = RegistryCopy(root.join("tmp").join(name));
        Ok(self.records.copy_to(&copy.0)?.then_some(copy))
    }
}

/// A temporary copy, removed when it is dropped.
#[derive(Debug)]
pub struct RegistryCopy(pub PathBuf);

impl Drop for RegistryCopy {
    fn drop(&mut self) {
        if let Err(error) = crate::disk::remove(&DiskPath::os(&self.0)) {
            tracing::warn!(%error, "cannot remove a copy of the registry; retried at the next open");
        }
    }
}

/// The copy of the registry in a backup, if it has one.
fn copy_in_backup(root: &Path) -> Option<PathBuf> {
    let listing = store::read_listing(&DiskPath::os(root)).ok()?;
    listing.files.into_iter().find(|file| is_registry_copy(&file.path)).map(|file| root.join(file.path))
}
