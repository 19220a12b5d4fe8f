//! What datasets, features and factors have in common: lookup, pages, lineage, status and the snapshots they own.

use std::sync::PoisonError;

use crate::error::{Error, ErrorCode, Result};
use crate::registry::{
    LineageMember, Record, RecordKind, RecordRef, RecordSelection, RecordStatus, Registry, check_name, parse_version,
};
use crate::service::caller::Scope;
use crate::service::registry::replies::{LineageEdge, LineageNode, LineageReply, RecordFilter};
use crate::service::replies::SnapshotDropped;
use crate::service::shared::Service;
use crate::store::{DATASET_SNAPSHOT as DATASET, StoreState};
use crate::types::SeriesKey;
use crate::types::width::to_usize;

/// Maximum number of series of a record, and of its parents.
pub const PARTS_MAX: usize = 10_000;
/// Maximum length of a description and of other text fields, in characters.
pub const TEXT_CHARS_MAX: usize = 4_096;
pub const WORD_CHARS_MAX: usize = 256;
/// Default and maximum number of records in a page.
const PAGE_DEFAULT: u64 = 100;
const PAGE_MAX: u64 = 1_000;

impl Service {
    pub(super) fn records(&self) -> &Registry {
        &self.catalog.records
    }

    /// A record that the caller may see; the latest version when none is given.
    pub(super) fn record(&self, kind: RecordKind, name: &str, version: Option<u32>) -> Result<Record> {
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

    pub(super) fn page(&self, kind: RecordKind, filter: &RecordFilter) -> Result<(Vec<Record>, Option<String>)> {
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
            limit: to_usize(limit),
            visible_prefixes: &self.caller.prefixes,
        })?;
        let last = page.records.last().filter(|_| !page.is_last);
        let cursor = last.map(|record| record.reference.short());
        Ok((page.records, cursor))
    }

    /// Every version of a record, ordered by number; an error when there is none.
    pub(super) fn versions(
        &self,
        kind: RecordKind,
        name: &str,
        filter: &RecordFilter,
    ) -> Result<(Vec<Record>, Option<String>)> {
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
        let nodes = |nodes: Vec<LineageMember>| {
            let node =
                |node: LineageMember| LineageNode { record: node.reference, status: node.status, depth: node.depth };
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
    pub(super) fn change_status(
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
    pub(super) fn parents(&self, named: impl Iterator<Item = RecordRef>) -> Result<Vec<RecordRef>> {
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
    pub(in crate::service) fn drop_unused_snapshot(&self, name: &str) -> Result<SnapshotDropped> {
        let _guard = self.catalog.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        if self.store.snapshot().snapshots.contains_key(name) {
            self.check_unused(name)?;
        }
        Ok(SnapshotDropped { name: name.into(), commit: self.store.drop_snapshot(name)? })
    }

    pub(super) fn check_unused(&self, name: &str) -> Result<()> {
        let users = self.records().needed_by(name)?;
        let Some(first) = users.first() else { return Ok(()) };
        let names: Vec<String> = users.iter().map(ToString::to_string).collect();
        Err(Error::invalid(format!("snapshot {name:?} is used by {}", names.join(", ")))
            .with_hint(format!("archive the dataset first: `fastk dataset status {} archived`", first.short())))
    }

    /// Whether the caller may see a snapshot: snapshots of datasets are visible only with the dataset. If that cannot
    /// be determined the snapshot is hidden.
    pub(in crate::service) fn can_see_snapshot(&self, name: &str) -> bool {
        if !self.caller.is_limited() || !name.starts_with(DATASET) {
            return true;
        }
        let Ok(reference) = name.parse::<RecordRef>() else { return false };
        self.records().is_visible(&reference, &self.caller.prefixes).unwrap_or(false)
    }

    /// The number of named snapshots of a state that the caller may see.
    pub(in crate::service) fn visible_snapshots(&self, state: &StoreState) -> u64 {
        if !self.caller.is_limited() {
            return state.snapshots.len() as u64;
        }
        state.snapshots.keys().filter(|name| self.can_see_snapshot(name)).count() as u64
    }

    /// Rejects a snapshot name that is reserved for datasets.
    pub(in crate::service) fn check_free_name(name: &str) -> Result<()> {
        if !name.starts_with(DATASET) {
            return Ok(());
        }
        Err(Error::invalid(format!("snapshot name {name:?} begins with {DATASET:?}, which is reserved for datasets"))
            .with_hint("use another name, or create a dataset"))
    }
}

pub fn check_count(what: &str, count: usize) -> Result<()> {
    if count <= PARTS_MAX {
        return Ok(());
    }
    Err(Error::new(ErrorCode::TooLarge, format!("{count} {what}, more than {PARTS_MAX}")))
}

pub fn check_text(what: &str, text: Option<&str>, chars_max: usize) -> Result<()> {
    match text {
        Some(text) if text.chars().count() > chars_max => {
            Err(Error::invalid(format!("{what} is longer than {chars_max} characters")))
        }
        _ => Ok(()),
    }
}

/// Rejects a status that a new record cannot have.
pub fn check_first_status(status: RecordStatus) -> Result<()> {
    match status {
        RecordStatus::Draft | RecordStatus::Active => Ok(()),
        RecordStatus::Deprecated | RecordStatus::Archived => {
            Err(Error::invalid(format!("a new record must be draft or active, not {}", status.name())))
        }
    }
}
