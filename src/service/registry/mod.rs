//! The verbs of the registry: datasets, features and factors.
//!
//! - A dataset names the whole store as it is, so that creating one asks for what creating a snapshot asks for; archiving
//!   one gives its snapshot back, and asks for what dropping a snapshot asks for.
//! - Somebody limited to some series neither sees nor changes a record that needs others, and is answered as if it were
//!   not there.

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

/// How names of snapshots begin that are made for datasets, and only for them.
const DATASET: &str = DATASET_SNAPSHOT;
/// Most series of a record, and most of what it was made from.
const PARTS_MAX: usize = 10_000;
/// Longest description, and longest other words, in characters.
const TEXT_CHARS_MAX: usize = 4_096;
const WORD_CHARS_MAX: usize = 256;
/// Records in a page when none is asked for, and at most.
const PAGE_DEFAULT: u64 = 100;
const PAGE_MAX: u64 = 1_000;

/// The registry of an open store.
#[derive(Debug)]
pub(super) struct Catalog {
    records: Registry,
    /// Held while a snapshot is dropped and while a dataset that needs one is made.
    snapshots: Mutex<()>,
}

impl Catalog {
    /// Opens the registry beside a store, and undoes what was begun for datasets that were never made.
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
            Err(error) => tracing::warn!(%error, "what was begun for datasets is not known"),
        }
        catalog
    }

    fn of(records: Registry) -> Self {
        Self { records, snapshots: Mutex::default() }
    }

    /// Drops the snapshot of a dataset that is not made, or is archived. What cannot be done now is left for the next
    /// opening.
    fn undo(&self, store: &Store, pending: &PendingSnapshot) {
        let _held = self.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = self.release(store, pending) {
            tracing::warn!(%error, snapshot = %pending.snapshot, "the snapshot of a dataset stays until the next opening");
        }
    }

    /// The same; nobody else may drop or need snapshots meanwhile.
    fn release(&self, store: &Store, pending: &PendingSnapshot) -> Result<()> {
        let own = RecordRef::new(RecordKind::Dataset, &pending.name, pending.version);
        let is_there = store.snapshot().snapshots.contains_key(&pending.snapshot);
        // Another dataset may have named it.
        if pending.drops && is_there && self.records.needed_by(&pending.snapshot)?.iter().all(|needs| *needs == own) {
            store.drop_snapshot(&pending.snapshot)?;
        }
        self.records.settle(pending)
    }

    /// What is wrong with it, if anything is.
    pub fn problem(&self) -> Option<String> {
        self.records.problem()
    }

    /// A copy for a backup, in a directory for unfinished files; `None` when there is nothing to copy.
    pub fn copy(&self, root: &Path, wall_ms: i64) -> Result<Option<RegistryCopy>> {
        let name = format!("{}-registry.{wall_ms}.tmp", std::process::id());
        let copied = RegistryCopy(root.join("tmp").join(name));
        Ok(self.records.copy_to(&copied.0)?.then_some(copied))
    }
}

/// A copy that goes when it is no longer needed.
#[derive(Debug)]
pub(super) struct RegistryCopy(pub PathBuf);

impl Drop for RegistryCopy {
    fn drop(&mut self) {
        if let Err(error) = crate::disk::remove(&DiskPath::os(&self.0)) {
            tracing::warn!(%error, "a copy of the registry stays behind until the next opening");
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

    /// A record that the caller may see, the latest version when none is given.
    fn record(&self, kind: RecordKind, name: &str, version: Option<u32>) -> Result<Record> {
        self.caller.may(Scope::Read)?;
        let what = || version.map_or_else(|| format!("{name:?}"), |version| format!("{name:?} with version {version}"));
        // A name that cannot be is not there either.
        if check_name(kind, name).is_err() {
            return Err(kind.not_found(&what()));
        }
        let found = self.records().get(kind, name, version, &self.caller.prefixes)?;
        found.ok_or_else(|| kind.not_found(&what()))
    }

    fn page(&self, kind: RecordKind, filter: &RecordFilter) -> Result<(Vec<Record>, Option<String>)> {
        self.caller.may(Scope::Read)?;
        let limit = filter.limit.unwrap_or(PAGE_DEFAULT);
        if limit == 0 || limit > PAGE_MAX {
            return Err(Error::invalid(format!("limit {limit} is not between 1 and {PAGE_MAX}")));
        }
        // A cursor is the last record given.
        let after = filter.cursor.as_deref().map(|text| {
            let foreign = || Error::invalid(format!("cursor {text:?} was not made by this server"));
            let (name, version) = text.rsplit_once('@').ok_or_else(foreign)?;
            check_name(kind, name).map_err(|_| foreign())?;
            Ok((name.to_owned(), parse_version(kind, version).map_err(|_| foreign())?))
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
            sees: &self.caller.prefixes,
        })?;
        let last = page.records.last().filter(|_| !page.is_last);
        let cursor = last.map(|record| record.reference.short());
        Ok((page.records, cursor))
    }

    /// Every version of a record, by number; not found when there is none.
    fn versions(&self, kind: RecordKind, name: &str, filter: &RecordFilter) -> Result<(Vec<Record>, Option<String>)> {
        // Tells a name that is not there from a last page.
        self.record(kind, name, None)?;
        self.page(kind, &RecordFilter { name: Some(name.to_owned()), ..filter.clone() })
    }

    /// What a record was made from and what was made from it, over any number of steps.
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

    /// Changes the status of a record the caller may see. Gives the record as it is then.
    fn change_status(
        &self,
        kind: RecordKind,
        name: &str,
        version: Option<u32>,
        status: RecordStatus,
    ) -> Result<Record> {
        self.caller.may(Scope::Write)?;
        let reference = self.record(kind, name, version)?.reference;
        if kind == RecordKind::Dataset && status == RecordStatus::Archived {
            self.caller.may_all(Scope::Admin)?;
        }
        self.store.check_owned()?;
        let released = {
            let _held = self.catalog.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
            let released = self.records().set_status(&reference, status)?;
            released.map_or(Ok(()), |pending| self.catalog.release(&self.store, &pending))
        };
        released.map_err(|error| {
            let detail = format!("{reference} is archived, its snapshot is dropped later: {}", error.detail());
            Error::new(error.code(), detail).with_hint("archive it again to try once more; the next opening does too")
        })?;
        self.record(kind, name, Some(reference.version))
    }

    /// The records a new one was made from, each once.
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

    /// Drops a named snapshot that no dataset needs.
    pub(super) fn drop_unneeded(&self, name: &str) -> Result<SnapshotDropped> {
        let _held = self.catalog.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        if self.store.snapshot().snapshots.contains_key(name) {
            self.check_unneeded(name)?;
        }
        Ok(SnapshotDropped { name: name.into(), commit: self.store.drop_snapshot(name)? })
    }

    fn check_unneeded(&self, name: &str) -> Result<()> {
        let needed = self.records().needed_by(name)?;
        let Some(first) = needed.first() else { return Ok(()) };
        let all: Vec<String> = needed.iter().map(ToString::to_string).collect();
        Err(Error::invalid(format!("snapshot {name:?} is needed by {}", all.join(", ")))
            .with_hint(format!("archive it first: `fastk dataset status {} archived`", first.short())))
    }

    /// Whether a snapshot may be told of: names of datasets that the caller does not see are no names to them, and
    /// neither are those of which that cannot be told.
    pub(super) fn sees_snapshot(&self, name: &str) -> bool {
        if !self.caller.is_limited() || !name.starts_with(DATASET) {
            return true;
        }
        let Ok(reference) = name.parse::<RecordRef>() else { return false };
        self.records().is_seen(&reference, &self.caller.prefixes).unwrap_or(false)
    }

    /// How many named snapshots of a state may be told of.
    pub(super) fn snapshots_seen(&self, state: &StoreState) -> u64 {
        if !self.caller.is_limited() {
            return state.snapshots.len() as u64;
        }
        state.snapshots.keys().filter(|name| self.sees_snapshot(name)).count() as u64
    }

    /// Refuses a name for a snapshot that only datasets give theirs.
    pub(super) fn check_free_name(name: &str) -> Result<()> {
        if !name.starts_with(DATASET) {
            return Ok(());
        }
        Err(Error::invalid(format!("snapshot name {name:?} begins with {DATASET:?}, as those of datasets do"))
            .with_hint("take another name, or create a dataset"))
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

/// Refuses a status that a record cannot begin with.
fn check_first_status(status: RecordStatus) -> Result<()> {
    match status {
        RecordStatus::Draft | RecordStatus::Active => Ok(()),
        RecordStatus::Deprecated | RecordStatus::Archived => {
            Err(Error::invalid(format!("a new record is draft or active, not {}", status.name())))
        }
    }
}
