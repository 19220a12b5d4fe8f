//! Operations of the registry: datasets, features and factors.
//!
//! - A dataset snapshots the whole store, so creating one requires the permission to create a snapshot, and archiving
//!   one, which drops its snapshot, requires the permission to drop a snapshot.
//! - A caller limited to some series neither sees nor changes a record that includes other series; such records are
//!   reported as not found.

mod as_of;
mod datasets;
mod definitions;
mod replies;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::disk::DiskPath;
use crate::error::{Error, Result};
use crate::format::backup::is_registry_copy;
use crate::registry::{
    PendingSnapshot, Record, RecordKind, RecordRef, RecordSelection, RecordStatus, Registry, check_name, parse_version,
};
use crate::store::{self, DATASET_SNAPSHOT, Store, StoreState};
use crate::types::SeriesKey;

pub(super) use as_of::AsOfView;
pub use replies::*;

use super::{Scope, Service, SnapshotDropped};

/// Prefix of the names of snapshots owned by datasets, reserved for them.
const DATASET: &str = DATASET_SNAPSHOT;
/// Maximum number of series of a record, and of its parents.
const PARTS_MAX: usize = 10_000;
/// Maximum length of a description and of other text fields, in characters.
const TEXT_CHARS_MAX: usize = 4_096;
const WORD_CHARS_MAX: usize = 256;
/// Default and maximum number of records in a page.
const PAGE_DEFAULT: u64 = 100;
const PAGE_MAX: u64 = 1_000;

/// The registry of an open store.
#[derive(Debug)]
pub(super) struct Catalog {
    records: Registry,
    /// Held while a snapshot is dropped and while a dataset that uses one is committed.
    snapshots: Mutex<()>,
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
    fn undo(&self, store: &Store, pending: &PendingSnapshot) {
        let _guard = self.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = self.release(store, pending) {
            tracing::warn!(%error, snapshot = %pending.snapshot, "cannot drop the snapshot of a dataset; retried at the next open");
        }
    }

    /// Drops the snapshot; the caller holds the lock on snapshots.
    fn release(&self, store: &Store, pending: &PendingSnapshot) -> Result<()> {
        let owner = RecordRef::new(RecordKind::Dataset, &pending.name, pending.version);
        let exists = store.snapshot().snapshots.contains_key(&pending.snapshot);
        // Another dataset may use it.
        if pending.drops && exists && self.records.needed_by(&pending.snapshot)?.iter().all(|user| *user == owner) {
            store.drop_snapshot(&pending.snapshot)?;
        }
        self.records.settle(pending)
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
pub(super) struct RegistryCopy(pub PathBuf);

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

impl Service {
    fn records(&self) -> &Registry {
        &self.catalog.records
    }

    /// A record that the caller may see; the latest version when none is given.
    fn record(&self, kind: RecordKind, name: &str, version: Option<u32>) -> Result<Record> {
        self.caller.require_scope(Scope::Read)?;
        let description =
            || version.map_or_else(|| format!("{name:?}"), |version| format!("{name:?} with version {version}"));
        // An invalid name cannot exist.
        if check_name(kind, name).is_err() {
            return Err(kind.not_found(&description()));
        }
        let found = self.records().get(kind, name, version, &self.caller.prefixes)?;
        found.ok_or_else(|| kind.not_found(&description()))
    }

    fn page(&self, kind: RecordKind, filter: &RecordFilter) -> Result<(Vec<Record>, Option<String>)> {
        self.caller.require_scope(Scope::Read)?;
        let limit = filter.limit.unwrap_or(PAGE_DEFAULT);
        if limit == 0 || limit > PAGE_MAX {
            return Err(Error::invalid(format!("limit {limit} is outside 1 to {PAGE_MAX}")));
        }
        // A cursor is the last record of the page.
        let after = filter.cursor.as_deref().map(|text| {
            let invalid_cursor = || Error::invalid(format!("cursor {text:?} is not a cursor of this server"));
            let (name, version) = text.rsplit_once('@').ok_or_else(invalid_cursor)?;
            check_name(kind, name).map_err(|_| invalid_cursor())?;
            Ok((name.to_owned(), parse_version(kind, version).map_err(|_| invalid_cursor())?))
        });
        let page = self.records().page(&RecordSelection {
            kind,
            name: filter.name.as_deref(),
            status: filter.status,
            source: filter.source.as_deref(),
            market: filter.market.as_deref(),
            series: filter.series.as_ref().map(SeriesKey::as_str),
            parent: filter.derived_from.as_ref(),
            after: after.transpose()?,
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            visible_prefixes: &self.caller.prefixes,
        })?;
        let last = page.records.last().filter(|_| !page.is_last);
        let cursor = last.map(|record| record.reference.short());
        Ok((page.records, cursor))
    }

    /// Every version of a record, ordered by number; an error when there is none.
    fn versions(&self, kind: RecordKind, name: &str, filter: &RecordFilter) -> Result<(Vec<Record>, Option<String>)> {
        // Distinguishes an unknown name from an empty page.
        self.record(kind, name, None)?;
        self.page(kind, &RecordFilter { name: Some(name.to_owned()), ..filter.clone() })
    }

    /// The ancestors and descendants of a record, over any number of steps.
    ///
    /// # Errors
    /// `dataset_not_found` or `not_found`.
    pub fn lineage(&self, kind: RecordKind, name: &str, version: Option<u32>) -> Result<LineageReply> {
        let record = self.record(kind, name, version)?.reference;
        let found = self.records().lineage(&record, &self.caller.prefixes)?;
        let found = found.ok_or_else(|| kind.not_found(&record.short()))?;
        let nodes = |nodes: Vec<crate::registry::LineageMember>| {
            let node = |node: crate::registry::LineageMember| LineageNode {
                record: node.reference,
                status: node.status,
                depth: node.depth,
            };
            nodes.into_iter().map(node).collect()
        };
        let edges = found.edges.into_iter();
        Ok(LineageReply {
            record,
            upstream: nodes(found.upstream),
            downstream: nodes(found.downstream),
            edges: edges.map(|edge| LineageEdge { parent: edge.parent, child: edge.child }).collect(),
            truncated: found.truncated,
        })
    }

    /// Changes the status of a record the caller may see. Returns the changed record.
    fn change_status(
        &self,
        kind: RecordKind,
        name: &str,
        version: Option<u32>,
        status: RecordStatus,
    ) -> Result<Record> {
        self.caller.require_scope(Scope::Write)?;
        let reference = self.record(kind, name, version)?.reference;
        if kind == RecordKind::Dataset && status == RecordStatus::Archived {
            self.caller.require_store(Scope::Admin)?;
        }
        self.store.check_owned()?;
        let released = {
            let _guard = self.catalog.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
            let released = self.records().set_status(&reference, status)?;
            released.map_or(Ok(()), |pending| self.catalog.release(&self.store, &pending))
        };
        released.map_err(|error| {
            let detail = format!("{reference} is archived, its snapshot is dropped later: {}", error.detail());
            Error::new(error.code(), detail).with_hint("archive it again to retry; the next open retries as well")
        })?;
        self.record(kind, name, Some(reference.version))
    }

    /// The parents of a new record, without duplicates.
    fn parents(&self, named: impl Iterator<Item = RecordRef>) -> Result<Vec<RecordRef>> {
        let mut parents: Vec<RecordRef> = named.collect();
        parents.sort();
        parents.dedup();
        check_count("references", parents.len())?;
        for parent in &parents {
            self.record(parent.kind, &parent.name, Some(parent.version))?;
        }
        Ok(parents)
    }

    /// Drops a named snapshot that no dataset uses.
    pub(super) fn drop_unused_snapshot(&self, name: &str) -> Result<SnapshotDropped> {
        let _guard = self.catalog.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        if self.store.snapshot().snapshots.contains_key(name) {
            self.check_unused(name)?;
        }
        Ok(SnapshotDropped { name: name.into(), commit: self.store.drop_snapshot(name)? })
    }

    fn check_unused(&self, name: &str) -> Result<()> {
        let users = self.records().needed_by(name)?;
        let Some(first) = users.first() else { return Ok(()) };
        let names: Vec<String> = users.iter().map(ToString::to_string).collect();
        Err(Error::invalid(format!("snapshot {name:?} is used by {}", names.join(", ")))
            .with_hint(format!("archive the dataset first: `fastk dataset status {} archived`", first.short())))
    }

    /// Whether the caller may see a snapshot: snapshots of datasets are visible only with the dataset. If that cannot
    /// be determined the snapshot is hidden.
    pub(super) fn can_see_snapshot(&self, name: &str) -> bool {
        if !self.caller.is_limited() || !name.starts_with(DATASET) {
            return true;
        }
        let Ok(reference) = name.parse::<RecordRef>() else { return false };
        self.records().is_visible(&reference, &self.caller.prefixes).unwrap_or(false)
    }

    /// The number of named snapshots of a state that the caller may see.
    pub(super) fn visible_snapshots(&self, state: &StoreState) -> u64 {
        if !self.caller.is_limited() {
            return state.snapshots.len() as u64;
        }
        state.snapshots.keys().filter(|name| self.can_see_snapshot(name)).count() as u64
    }

    /// Rejects a snapshot name that is reserved for datasets.
    pub(super) fn check_free_name(name: &str) -> Result<()> {
        if !name.starts_with(DATASET) {
            return Ok(());
        }
        Err(Error::invalid(format!("snapshot name {name:?} begins with {DATASET:?}, which is reserved for datasets"))
            .with_hint("use another name, or create a dataset"))
    }
}

fn check_count(what: &str, count: usize) -> Result<()> {
    if count <= PARTS_MAX {
        return Ok(());
    }
    Err(Error::new(crate::error::ErrorCode::TooLarge, format!("{count} {what}, more than {PARTS_MAX}")))
}

fn check_text(what: &str, text: Option<&str>, chars_max: usize) -> Result<()> {
    match text {
        Some(text) if text.chars().count() > chars_max => {
            Err(Error::invalid(format!("{what} is longer than {chars_max} characters")))
        }
        _ => Ok(()),
    }
}

/// Rejects a status that a new record cannot have.
fn check_first_status(status: RecordStatus) -> Result<()> {
    match status {
        RecordStatus::Draft | RecordStatus::Active => Ok(()),
        RecordStatus::Deprecated | RecordStatus::Archived => {
            Err(Error::invalid(format!("a new record must be draft or active, not {}", status.name())))
        }
    }
}
