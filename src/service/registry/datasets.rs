//! Datasets: creating one reads every row of its members at its snapshot.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use crate::clock::wall_ms;
use crate::error::{Error, ErrorCode, Result};
use crate::query::select::{Selection, select};
use crate::query::{Scan, ScanSpec};
use crate::registry::hash::{self, RowsHash};
use crate::registry::{
    DatasetFields, DatasetMemberRow, PendingSnapshot, Record, RecordKind, RecordRef, RecordSeries, RecordStatus,
    SeriesRole, check_name,
};
use crate::service::caller::Scope;
use crate::service::registry::records::{
    PARTS_MAX, TEXT_CHARS_MAX, WORD_CHARS_MAX, check_count, check_first_status, check_text,
};
use crate::service::registry::replies::{Dataset, DatasetMember, DatasetPage, DatasetSpec, RecordFilter};
use crate::service::shared::Service;
use crate::service::wall_clock::rfc3339;
use crate::store::{DATASET_SNAPSHOT as DATASET, SeriesState, StoreState};
use crate::types::{SeriesDef, SeriesKey, TimeUnit, time};

impl Service {
    /// Creates the next version of a dataset: creates a snapshot, and reads every row of every member at it for the
    /// checksum.
    ///
    /// # Errors
    /// `invalid_argument`; `series_not_found` for an unknown member or a glob that selects no series;
    /// `snapshot_not_found`; `dataset_not_found` and `not_found` for unknown parents; `too_large` above 10,000 members
    /// or 1,024 snapshots; `corrupt_data` when a row fails its checksum; those of a write. On failure the snapshot is
    /// dropped again.
    pub fn create_dataset(&self, spec: &DatasetSpec) -> Result<Dataset> {
        self.caller.require_store(Scope::Write)?;
        check_name(RecordKind::Dataset, &spec.name)?;
        check_first_status(spec.status)?;
        check_text("source", spec.source.as_deref(), WORD_CHARS_MAX)?;
        check_text("market", spec.market.as_deref(), WORD_CHARS_MAX)?;
        check_text("description", spec.description.as_deref(), TEXT_CHARS_MAX)?;
        let parents = self.parents(spec.derived_from.iter().cloned())?;
        // The members are checked before the snapshot is created.
        let now = spec.snapshot.as_deref().map_or_else(|| Ok(self.store.snapshot()), |name| self.store.as_of(name))?;
        members_of(&now, &spec.members)?;
        drop(now);
        // Snapshots left by a lost registry reserve their version numbers.
        let own_prefix = format!("{DATASET}{}@", spec.name);
        let snapshots = self.store.snapshots();
        let version_max =
            snapshots.iter().filter_map(|(name, _)| name.strip_prefix(&own_prefix)?.parse().ok()).max().unwrap_or(0);
        let pending = self.records().begin_dataset(&spec.name, spec.snapshot.as_deref(), version_max)?;
        let mut dataset = PendingDataset { service: self, pending, is_committed: false };
        self.build_dataset(spec, &dataset.pending, parents)?;
        dataset.is_committed = true;
        self.dataset(&spec.name, Some(dataset.pending.version))
    }

    fn build_dataset(&self, spec: &DatasetSpec, pending: &PendingSnapshot, parents: Vec<RecordRef>) -> Result<()> {
        if pending.drops {
            self.store.create_snapshot(&pending.snapshot)?;
        }
        let state = self.store.as_of(&pending.snapshot)?;
        let mut total = MemberTotals::default();
        for series in members_of(&state, &spec.members)? {
            total.add(self.read_member(&series)?, &series);
        }
        let record = Record {
            reference: RecordRef::new(RecordKind::Dataset, &pending.name, pending.version),
            status: spec.status,
            description: spec.description.clone(),
            created_at: rfc3339(wall_ms()),
            dataset: Some(DatasetFields {
                source: spec.source.clone(),
                market: spec.market.clone(),
                snapshot: pending.snapshot.clone(),
                snapshot_commit: state.commit,
                owns_snapshot: pending.drops,
                start: total.start.map(stamp),
                end: total.end.map(stamp),
                rows: total.rows,
                checksum: hash::dataset(total.lines.iter().map(|(series, layout, rows, checksum)| {
                    (series.as_str(), layout.as_str(), *rows, checksum.as_str())
                })),
            }),
            definition: None,
            parents,
            parts: total.parts,
            parts_total: 0,
        };
        let _guard = self.catalog.snapshots.lock().unwrap_or_else(PoisonError::into_inner);
        // The snapshot may have been dropped meanwhile, and its name reused.
        let is_same =
            self.store.snapshot().snapshots.get(&pending.snapshot).is_some_and(|one| one.commit == state.commit);
        if !is_same {
            let detail = format!("snapshot {:?} was dropped while the dataset was created", pending.snapshot);
            return Err(Error::new(ErrorCode::SnapshotNotFound, detail));
        }
        self.records().insert_dataset(&record)
    }

    /// Reads every row of a series.
    fn read_member(&self, series: &Arc<SeriesState>) -> Result<DatasetMemberRow> {
        let mut rows = RowsHash::default();
        let mut bounds: Option<(i64, i64)> = None;
        for block in Scan::new(series, self.store.cache(), &ScanSpec::range((i64::MIN, i64::MAX))) {
            let block = block?;
            let columns: Vec<&[i64]> = (0..block.column_count()).map(|column| block.words(column)).collect();
            let ts = block.timestamps();
            if let (Some(first), Some(last)) = (ts.first(), ts.last()) {
                bounds = Some((bounds.map_or(*first, |(first, _)| first), *last));
            }
            rows.update(&columns, block.rows());
        }
        Ok(DatasetMemberRow {
            version: series.version,
            rows: rows.rows(),
            first_ts: bounds.map(|(first, _)| first),
            last_ts: bounds.map(|(_, last)| last),
            checksum: rows.finish(),
        })
    }

    /// One version of a dataset, or the latest version that is not archived.
    ///
    /// # Errors
    /// `dataset_not_found`.
    pub fn dataset(&self, name: &str, version: Option<u32>) -> Result<Dataset> {
        dataset(self.record(RecordKind::Dataset, name, version)?, true)
    }

    /// Datasets ordered by name and version.
    pub fn datasets(&self, filter: &RecordFilter) -> Result<DatasetPage> {
        page(self.page(RecordKind::Dataset, filter)?)
    }

    /// Versions of a dataset, ordered by number.
    ///
    /// # Errors
    /// `dataset_not_found`.
    pub fn dataset_versions(&self, name: &str, filter: &RecordFilter) -> Result<DatasetPage> {
        page(self.versions(RecordKind::Dataset, name, filter)?)
    }

    /// Changes the status of a dataset. Archiving drops the snapshot that the dataset owns.
    ///
    /// # Errors
    /// `dataset_not_found`, `invalid_argument` for an invalid transition, those of dropping a snapshot.
    pub fn set_dataset_status(&self, name: &str, version: Option<u32>, status: RecordStatus) -> Result<Dataset> {
        dataset(self.change_status(RecordKind::Dataset, name, version, status)?, true)
    }
}

/// A dataset that is being created; dropping it undoes the creation unless it is committed, also on a panic.
struct PendingDataset<'a> {
    service: &'a Service,
    pending: PendingSnapshot,
    is_committed: bool,
}

impl Drop for PendingDataset<'_> {
    fn drop(&mut self) {
        if !self.is_committed {
            self.service.catalog.undo(&self.service.store, &self.pending);
        }
    }
}

/// Totals over the members of a dataset.
#[derive(Default)]
struct MemberTotals {
    rows: u64,
    /// Earliest and latest timestamps, with their units.
    start: Option<(i64, TimeUnit)>,
    end: Option<(i64, TimeUnit)>,
    /// Key, layout, rows and checksum of each member.
    lines: Vec<(String, String, u64, String)>,
    parts: Vec<RecordSeries>,
}

impl MemberTotals {
    fn add(&mut self, member: DatasetMemberRow, series: &SeriesState) {
        let (key, unit) = (series.def.key.to_string(), series.def.unit);
        let ends = |ts: Option<i64>| ts.map(|ts| (ts, unit));
        self.start = self.start.into_iter().chain(ends(member.first_ts)).min_by_key(|end| nanos(*end));
        self.end = self.end.into_iter().chain(ends(member.last_ts)).max_by_key(|end| nanos(*end));
        self.rows += member.rows;
        self.lines.push((key.clone(), layout(&series.def), member.rows, member.checksum.clone()));
        self.parts.push(RecordSeries { series: key, role: SeriesRole::Member, member: Some(member) });
    }
}

fn nanos((ts, unit): (i64, TimeUnit)) -> i128 {
    i128::from(ts) * i128::from(TimeUnit::Ns.per_second() / unit.per_second())
}

fn stamp((ts, unit): (i64, TimeUnit)) -> String {
    let mut text = Vec::new();
    time::write_rfc3339(&mut text, ts, unit);
    String::from_utf8_lossy(&text).into_owned()
}

/// Unit and columns of a series, as included in its checksum: `ts:ms,close:decimal(2),volume:float64`.
fn layout(def: &SeriesDef) -> String {
    let mut text = format!("ts:{}", def.unit.name());
    for column in &def.columns {
        let kind = column.kind.text();
        text.push_str(&format!(",{}:{kind}", column.name));
    }
    text
}

/// The series that keys and globs name, by key.
fn members_of(state: &StoreState, named: &[String]) -> Result<Vec<Arc<SeriesState>>> {
    if named.is_empty() {
        return Err(Error::invalid("members names no series"));
    }
    check_count("members", named.len())?;
    // One entry at a time: klines and scalars may be in one dataset.
    let mut found: BTreeMap<SeriesKey, Arc<SeriesState>> = BTreeMap::new();
    for text in named {
        let series = match select(state, std::slice::from_ref(text), &|_| true)? {
            Selection::One(series) => vec![series],
            Selection::Many(series) => series,
        };
        found.extend(series.into_iter().map(|series| (series.def.key.clone(), series)));
        if found.len() > PARTS_MAX {
            check_count("members", found.len())?;
        }
    }
    Ok(found.into_values().collect())
}

fn page((records, next_cursor): (Vec<Record>, Option<String>)) -> Result<DatasetPage> {
    let datasets = records.into_iter().map(|record| dataset(record, false)).collect::<Result<_>>()?;
    Ok(DatasetPage { datasets, next_cursor })
}

fn dataset(record: Record, with_members: bool) -> Result<Dataset> {
    let Record { reference, status, description, created_at, parents, parts, parts_total, dataset, .. } = record;
    let part = dataset.ok_or_else(|| Error::internal(format!("{reference} is not a dataset")))?;
    let member = |part: RecordSeries| {
        let member = part.member.ok_or_else(|| Error::internal(format!("{} is not a member", part.series)))?;
        Ok(DatasetMember {
            series: SeriesKey::parse(&part.series)?,
            version: member.version,
            rows: member.rows,
            first_ts: member.first_ts,
            last_ts: member.last_ts,
            checksum: member.checksum,
        })
    };
    let members = if with_members { Some(parts.into_iter().map(member).collect::<Result<_>>()?) } else { None };
    Ok(Dataset {
        name: reference.name.clone(),
        version: reference.version,
        dataset: reference,
        status,
        description,
        source: part.source,
        market: part.market,
        snapshot: part.snapshot,
        owns_snapshot: part.owns_snapshot,
        commit: part.snapshot_commit,
        start: part.start,
        end: part.end,
        rows: part.rows,
        series_count: parts_total,
        checksum: part.checksum,
        derived_from: parents,
        created_at,
        members,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::StoreOptions;

    #[test]
    fn a_panic_while_creating_a_dataset_undoes_it() {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions { background_maintenance: false, ..StoreOptions::default() };
        let service = Service::open(dir.path(), true, options).unwrap();
        let begin = |is_committed: bool| {
            let pending = service.records().begin_dataset("a", None, 0).unwrap();
            let dataset = PendingDataset { service: &service, pending, is_committed };
            service.store.create_snapshot(&dataset.pending.snapshot).unwrap();
            dataset
        };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let dataset = begin(false);
            assert_eq!(service.records().pending().unwrap(), std::slice::from_ref(&dataset.pending));
            assert!(dataset.is_committed, "a panic while the dataset is created");
        }));
        assert!(result.is_err());
        assert!(service.store.snapshots().is_empty() && service.records().pending().unwrap().is_empty());
        drop(begin(true));
        assert_eq!(service.store.snapshots().len(), 1, "a committed dataset keeps its snapshot");
    }
}
