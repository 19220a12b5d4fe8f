//! One method per verb, neutral to protocol: what REST, Flight and the command line all call.
//!
//! Every method blocks (it may sync a file or touch mapped memory), so async faces call it on a blocking thread.

mod admin;
pub mod backup;
mod caller;
pub mod coverage;
mod files;
pub mod jobs;
mod limits;
mod months;
pub mod operations;
mod page;
mod read;
mod registry;
pub mod replies;
mod snapshots;
mod write;

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use xxhash_rust::xxh3::xxh3_64;

use crate::disk::DiskPath;
use crate::disk::machine::Machine;
use crate::error::{Error, ErrorCode, Result};
use crate::format::FORMAT_VERSION;
use crate::ingest::Known;
use crate::store::{ExpectedVersion, IfVersion, SeriesState, Store, StoreState};
use crate::types::schema::{Retention, check_description, check_timeframe, series_not_found};
use crate::types::{Calendar, SeriesDef, SeriesKey, SeriesSpec, similar};

pub use crate::store::{
    Durability, Finding, FindingKind, OpenProgress, OrphanReport, OverlapReport, RestoreOptions, StoreOptions,
    TaskControl, VerifyOptions, VerifyReport,
};
pub use admin::{CompactRequest, SCRUB_BYTES_PER_SECOND, ScrubRequest, VerifyRequest, scrub_watch};
pub use backup::{BackupReply, BackupRequest, DamagedFile, RestoreReply, restore_backup};
pub use caller::{Caller, Scope};
pub use coverage::{CoverageReply, CoverageRequest};
pub use files::{FilesReply, FilesRequest};
pub use jobs::{Job, JobError, JobList, JobStatus, Jobs, Progress};
pub use limits::{ANSWER_BYTES, Permit, PermitKind, ServiceLimits};
pub use read::{QueryInfo, QueryResult, range_of};
pub use registry::*;
pub use replies::*;
pub use write::{Acknowledged, IdempotencyKey, MergeOp, PendingWrite, WriteMethod, WriteOptions};

/// The verbs over one open store, as one caller may use them.
#[derive(Clone, Debug)]
pub struct Service {
    shared: Arc<ServiceShared>,
    caller: Caller,
}

/// What the verbs of all callers share.
#[derive(Debug)]
pub struct ServiceShared {
    /// Closed before the store gives its directory free.
    catalog: registry::Catalog,
    store: Store,
    begun: Instant,
    ratios: coverage::Ratios,
    backup_dir: backup::BackupDir,
    load: OnceLock<Arc<limits::Admission>>,
    jobs: Jobs,
    checked: admin::LastVerify,
    troubles: admin::HealthHistory,
}

impl Deref for Service {
    type Target = ServiceShared;

    fn deref(&self) -> &ServiceShared {
        &self.shared
    }
}

/// What a store knows of itself.
#[derive(Clone, Debug)]
pub struct StoreGauges {
    pub commit: u64,
    pub series: u64,
    pub snapshots: u64,
    pub open_maps: u64,
    pub wal_bytes: u64,
    pub writer_stopped: bool,
    pub degraded: bool,
    pub uptime: Duration,
    pub recovery: Duration,
    pub recovered_commits: u64,
    pub damaged_reads: u64,
    pub upkeep: MaintenanceStatus,
    pub machine: Machine,
}

/// Condition of a write or delete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Precondition {
    /// Entity tag of `If-Match`, as it came (quotes optional; its format part does not count).
    pub if_match: Option<String>,
    /// Version number, the short form of the same in Flight and on the command line.
    pub if_version: Option<u64>,
}

impl Service {
    /// Opens the store in `root`, creating it when `create` is set. See [`Store::open`] for the errors.
    pub fn open(root: &Path, create: bool, options: StoreOptions) -> Result<Arc<Self>> {
        Self::open_on(&DiskPath::os(root), create, options)
    }

    /// Opens the store in `root` on any disk; the registry lies on that of the operating system. See
    /// [`Store::open_on`] for the errors.
    pub fn open_on(root: &DiskPath, create: bool, options: StoreOptions) -> Result<Arc<Self>> {
        let store = Store::open_on(root, create, StoreOptions { prefetch: true, ..options })?;
        let shared = ServiceShared {
            catalog: registry::Catalog::open(&store, wall_ms()),
            store,
            begun: Instant::now(),
            ratios: coverage::Ratios::default(),
            backup_dir: backup::BackupDir::default(),
            load: OnceLock::new(),
            jobs: Jobs::default(),
            checked: admin::LastVerify::default(),
            troubles: admin::HealthHistory::default(),
        };
        Ok(Arc::new(Self { shared: Arc::new(shared), caller: Caller::trusted() }))
    }

    /// The same verbs as another caller may use them.
    pub fn as_caller(&self, caller: Caller) -> Arc<Self> {
        Arc::new(Self { shared: Arc::clone(&self.shared), caller })
    }

    /// Who asks.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Moves what the log holds into chunks and a run file, if it can: nothing is lost without.
    pub fn settle(&self) {
        if self.store.writer_stopped().is_none()
            && let Err(error) = self.store.checkpoint()
        {
            tracing::warn!(%error, "the log is left for the next opening");
        }
    }

    /// Closes the store, unless somebody still works with it: then it is left as after a crash. Whether it was closed.
    pub fn close(self: Arc<Self>) -> bool {
        let shared = Arc::clone(&self.shared);
        drop(self);
        Arc::try_unwrap(shared).map(drop).is_ok()
    }

    /// The engine below.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Writes the addresses of the server into `LOCK`, for other processes to find, and the SHA-256 of its certificate
    /// where it speaks TLS.
    pub fn announce(&self, http: &str, flight: &str, certificate: Option<&str>) -> Result<()> {
        let mut holder = serde_json::json!({
            "pid": std::process::id(), "http": http, "flight": flight, "format": FORMAT_VERSION,
        });
        if let (Some(sha256), Some(fields)) = (certificate, holder.as_object_mut()) {
            fields.insert("tls".into(), serde_json::json!({ "certificate_sha256": sha256 }));
        }
        self.store.describe_holder(&format!("{holder}\n"))
    }

    /// Registers a series; the same definition again is no error, another one is `series_exists`.
    pub fn register(&self, spec: SeriesSpec) -> Result<Registered> {
        let def = spec.clone().resolve()?;
        self.caller.may_touch(Scope::Write, &def.key)?;
        if self.store.snapshot().get(&def.key).is_none() {
            check_timeframe(def.key.timeframe())?;
        }
        let (series, created, commit) = self.store.register(def.clone())?;
        if !created {
            check_same(&spec, &def, &series.def)?;
        }
        Ok(Registered { created, commit, info: self.info_of(&series) })
    }

    /// The definition of a series and the timestamps of its first and last stored row; of one that is not registered
    /// what registering it would make, without doing so.
    ///
    /// # Errors
    /// Those of [`Service::register`].
    pub fn known_or_new(&self, spec: &SeriesSpec) -> Result<Known> {
        let def = spec.clone().resolve()?;
        self.caller.may_touch(Scope::Write, &def.key)?;
        self.caller.may_touch(Scope::Read, &def.key)?;
        match self.store.snapshot().get(&def.key) {
            None => {
                check_timeframe(def.key.timeframe())?;
                Ok((Arc::new(def), None))
            }
            Some(series) => {
                series.def.check_same_rows_as(&def)?;
                check_same(spec, &def, &series.def)?;
                Ok((Arc::clone(&series.def), series.bounds))
            }
        }
    }

    fn info_of(&self, series: &SeriesState) -> SeriesInfo {
        let etag = self.etag(series.id, series.version);
        SeriesInfo::new(&series.def, series.version, series.rows, series.bounds, etag)
    }

    /// Quoted entity tag with format `any`.
    fn etag(&self, series_id: u64, version: u64) -> String {
        format!("\"{}any\"", self.stem(series_id, version))
    }

    /// Entity tag up to its format part, without quotes.
    fn stem(&self, series_id: u64, version: u64) -> String {
        format!("{}-{series_id}-{version}-", self.store.epoch())
    }

    fn series_state(&self, state: &StoreState, key: &SeriesKey) -> Result<Arc<SeriesState>> {
        state.get(key).cloned().ok_or_else(|| self.with_similar(series_not_found(key), key, state))
    }

    /// `series_not_found` with the registered series whose keys are most like the one that was asked for, of those that
    /// the caller sees.
    fn with_similar(&self, error: Error, key: &SeriesKey, state: &StoreState) -> Error {
        if error.code() != ErrorCode::SeriesNotFound {
            return error;
        }
        // Near in the order of keys, so that the time does not grow with the store.
        let before = state.keys.range(..key.clone()).rev().take(SIMILAR_LOOKED_AT);
        let after = state.keys.range(key.clone()..).take(SIMILAR_LOOKED_AT);
        let seen = before.chain(after).map(|(known, _)| known).filter(|known| self.caller.sees(known));
        let similar = similar::nearest(key.as_str(), seen.map(SeriesKey::as_str), SIMILAR_GIVEN);
        if similar.is_empty() {
            return error;
        }
        let rest = error.hint().map_or_else(String::new, |hint| format!(" Otherwise {hint}"));
        error.with_hint(format!("did you mean {}?{rest}", similar.join(", ")))
    }

    /// One series; `series_not_found`.
    pub fn series(&self, key: &SeriesKey) -> Result<SeriesInfo> {
        self.caller.may_touch(Scope::Read, key)?;
        Ok(self.info_of(self.series_state(&self.store.snapshot(), key)?.as_ref()))
    }

    /// Its definition, for parsing bodies.
    pub fn def(&self, key: &SeriesKey) -> Result<Arc<SeriesDef>> {
        self.caller.may_touch(Scope::Read, key)?;
        Ok(Arc::clone(&self.series_state(&self.store.snapshot(), key)?.def))
    }

    /// Its definition and the timestamps of its first and last stored row, for parsing bodies.
    pub fn known(&self, key: &SeriesKey) -> Result<Known> {
        self.caller.may_touch(Scope::Read, key)?;
        let series = self.series_state(&self.store.snapshot(), key)?;
        Ok((Arc::clone(&series.def), series.bounds))
    }

    /// Registered series by key.
    pub fn list(&self, filter: &SeriesFilter) -> Result<SeriesPage> {
        self.caller.may(Scope::Read)?;
        let state = self.store.snapshot();
        let (found, next_cursor) = page::select(&state, filter, &self.caller)?;
        let series = found.iter().map(|series| self.info_of(series)).collect();
        Ok(SeriesPage { commit: state.commit, series, next_cursor })
    }

    /// Changes retention, calendar, value index or description.
    pub fn change(&self, key: &SeriesKey, patch: SeriesPatch, condition: &Precondition) -> Result<SeriesInfo> {
        self.caller.may_touch(Scope::Write, key)?;
        let if_version = self.expected(key, condition)?;
        let series = self.store.change_series(key, if_version, |def| {
            if let Some(retention) = patch.retention {
                retention.as_ref().map_or(Ok(()), Retention::check)?;
                def.retention = retention;
            }
            if let Some(calendar) = patch.calendar {
                def.calendar = calendar;
                Calendar::of(def.calendar.as_ref())?;
            }
            if let Some(description) = patch.description {
                description.as_deref().map_or(Ok(()), check_description)?;
                def.description = description;
            }
            if let Some(wanted) = patch.value_index {
                def.value_index = wanted.map_or(Ok(Vec::new()), |wanted| wanted.resolve(&def.columns))?;
            }
            Ok(())
        })?;
        Ok(self.info_of(&series))
    }

    /// Drops a series with all its rows.
    pub fn drop_series(&self, key: &SeriesKey, condition: &Precondition) -> Result<DropReply> {
        self.caller.may_touch(Scope::Admin, key)?;
        let dropped = self.store.drop_series(key, self.expected(key, condition)?)?;
        Ok(DropReply { series: key.clone(), rows_deleted: dropped.rows_deleted, commit: dropped.commit })
    }

    /// Deletes the closed range `start..=end`, or everything when `range` is `None`.
    pub fn delete_range(
        &self,
        key: &SeriesKey,
        range: Option<(i64, i64)>,
        condition: &Precondition,
        dry_run: bool,
    ) -> Result<DeleteReply> {
        self.caller.may_touch(Scope::Write, key)?;
        let if_version = self.expected(key, condition)?;
        let range = range.unwrap_or((i64::MIN, i64::MAX));
        if range.0 > range.1 {
            return Err(Error::invalid(format!("start {} lies after end {}", range.0, range.1)));
        }
        if dry_run {
            let state = self.store.snapshot();
            let series = self.series_state(&state, key)?;
            let rows_deleted = self.store.count_range(key, range)?;
            return Ok(DeleteReply {
                series: key.clone(),
                rows_deleted,
                version: series.version,
                commit: state.commit,
                etag: self.etag(series.id, series.version),
                dry_run,
            });
        }
        let deleted = self.store.delete_range(key, range, if_version)?;
        Ok(DeleteReply {
            series: key.clone(),
            rows_deleted: deleted.rows_deleted,
            version: deleted.version,
            commit: deleted.commit,
            etag: self.etag(deleted.series_id, deleted.version),
            dry_run,
        })
    }

    /// What a condition asks of the series.
    fn expected(&self, key: &SeriesKey, condition: &Precondition) -> Result<IfVersion> {
        let by_version = condition.if_version.map(|version| ExpectedVersion { series_id: None, version });
        let Some(text) = condition.if_match.as_deref().map(str::trim) else { return Ok(by_version) };
        if text == "*" {
            self.def(key)?;
            return Ok(by_version);
        }
        // A list matches when one of its tags does; the format part of a tag does not count.
        let state = self.store.snapshot();
        let series = self.series_state(&state, key)?;
        let stem = self.stem(series.id, series.version);
        let matches =
            text.split(',').any(|tag| tag.trim().trim_start_matches("W/").trim_matches('"').starts_with(&stem));
        if matches {
            return Ok(Some(ExpectedVersion { series_id: Some(series.id), version: series.version }));
        }
        Err(Error::new(
            ErrorCode::CommitConflict,
            format!("series {key} is at version {}; the entity tag given is another", series.version),
        )
        .with_hint("read it again and repeat the change"))
    }

    /// What is stored, by series. The totals are of what the caller may see; what cannot be told by series is 0 for one
    /// limited to some.
    pub fn inventory(&self, filter: &SeriesFilter) -> Result<Inventory> {
        self.caller.may(Scope::Read)?;
        let state = self.store.snapshot();
        let mut totals = InventoryTotals { snapshots: self.snapshots_seen(&state), ..InventoryTotals::default() };
        if !self.caller.is_limited() {
            totals.wal_bytes = self.store.log_bytes().0;
            totals.garbage_bytes = self.store.garbage_bytes_total();
            totals.run_bytes = self.store.run_files().0;
        }
        for series in state.series.values().filter(|series| self.caller.sees(&series.def.key)) {
            // A dropped series that a snapshot shows has files, but is no series any more.
            totals.bytes += series.file_bytes();
            totals.chunks += series.chunks.len() as u64;
            if series.dropped_commit.is_none() {
                totals.series += 1;
                totals.rows += series.rows;
                totals.tail_rows += series.tail_rows();
            }
        }
        let (found, next_cursor) = page::select(&state, filter, &self.caller)?;
        let mut rows = Vec::with_capacity(found.len());
        for series in &found {
            let ratio = self.coverage_ratio(&state, series);
            let mut row = inventory_row(series, ratio, self.store.garbage_bytes(series.id));
            if filter.months {
                row.months = Some(months::of(series, self.store.cache())?);
            }
            rows.push(row);
        }
        Ok(Inventory { commit: state.commit, totals, series: rows, next_cursor })
    }

    /// Entity tag of the inventory, without quotes.
    pub fn inventory_etag(&self) -> Result<String> {
        self.caller.may(Scope::Read)?;
        let state = self.store.snapshot();
        // Callers limited to other series see another inventory. A snapshot is theirs to see once its dataset is made,
        // which no commit tells.
        let limits = if self.caller.is_limited() {
            let prefixes = xxh3_64(self.caller.prefixes.join("\n").as_bytes());
            format!("-{prefixes:016x}.{}", self.snapshots_seen(&state))
        } else {
            String::new()
        };
        Ok(format!("{}-{}-{}{limits}", self.store.epoch(), state.commit, state.edit))
    }

    /// How the store is: `degraded` when something needs a look while reads go on, `failing` when its directory is gone.
    pub fn health(&self) -> Result<Health> {
        self.caller.may(Scope::Read)?;
        let mut checks = Vec::new();
        let tells = !self.caller.is_limited();
        let mut status = HealthStatus::Ok;
        let mut add = |name: &'static str, problem: Option<String>, grave: HealthStatus| {
            let found = if problem.is_some() { grave } else { HealthStatus::Ok };
            status = status.max(found);
            let since = self.troubles.since(name, problem.is_some(), wall_ms());
            // A detail can name series that are none of the caller's business.
            checks.push(HealthCheck { name: name.into(), status: found, since, detail: problem.filter(|_| tells) });
        };
        let lost = self.store.root_lost();
        let is_there = lost.is_none();
        add("directory", lost, HealthStatus::Failing);
        let mut check = |name, problem| add(name, problem, HealthStatus::Degraded);
        check("writer", self.store.writer_stopped());
        check("upkeep", self.store.upkeep_failed());
        let recovery = self.store.recovery();
        check("recovery", (!recovery.damage.is_empty()).then(|| recovery.damage.join("; ")));
        check("redundancy", (!recovery.spare.is_empty()).then(|| recovery.spare.join("; ")));
        check("integrity", if is_there { self.checked.standing() } else { self.checked.found() });
        check("registry", self.catalog.problem());
        let met = self.store.cache().damage.standing();
        check("reads", met.map(|(reads, last)| format!("{reads} reads met damaged data, the last one {last}")));
        let since = checks.iter().filter_map(|check| check.since.clone()).min();
        Ok(Health {
            status,
            since,
            version: env!("CARGO_PKG_VERSION").into(),
            format: FORMAT_VERSION,
            commit: self.store.snapshot().commit,
            uptime_seconds: self.begun.elapsed().as_secs(),
            durability: self.store.options().durability.name().into(),
            upkeep: if tells { self.upkeep() } else { MaintenanceStatus::default() },
            checks,
        })
    }

    /// How the store is, in words that everybody may know.
    pub fn readiness(&self) -> Result<StatusReply> {
        Ok(StatusReply { status: self.health()?.status, writer_stopped: self.store.writer_stopped().is_some() })
    }

    /// What the store knows of itself, for metrics.
    ///
    /// # Errors
    /// `permission_denied`.
    pub fn gauges(&self) -> Result<StoreGauges> {
        self.caller.may_all(Scope::Read)?;
        let state = self.store.snapshot();
        let recovery = self.store.recovery();
        Ok(StoreGauges {
            commit: state.commit,
            series: state.keys.len() as u64,
            snapshots: state.snapshots.len() as u64,
            open_maps: self.store.cache().len() as u64,
            wal_bytes: self.store.log_bytes().0,
            writer_stopped: self.store.writer_stopped().is_some(),
            degraded: self.health()?.status != HealthStatus::Ok,
            uptime: self.begun.elapsed(),
            recovery: Duration::from_millis(recovery.duration_ms),
            recovered_commits: recovery.commits_replayed,
            damaged_reads: self.store.cache().damage.reads(),
            upkeep: self.upkeep(),
            machine: Machine::look(self.store.root()),
        })
    }

    fn upkeep(&self) -> MaintenanceStatus {
        let counts = self.store.upkeep_counts();
        let (run_bytes, run_files) = self.store.run_files();
        MaintenanceStatus {
            seals: counts.seals,
            chunks_sealed: counts.chunks_sealed,
            checkpoints: counts.checkpoints,
            compactions: counts.compactions,
            chunks_compacted: counts.chunks_compacted,
            compact_bytes_read: counts.compact_bytes_read,
            compact_bytes_written: counts.compact_bytes_written,
            retention_rows: counts.retention_rows,
            files_removed: counts.files_removed,
            files_waiting: counts.files_waiting,
            bytes_waiting: counts.bytes_waiting,
            garbage_bytes: self.store.garbage_bytes_total(),
            run_files,
            run_bytes,
        }
    }

    /// Directory for staging bodies; emptied at every opening.
    pub fn staging_dir(&self) -> PathBuf {
        self.store.root().join("tmp")
    }
}

/// Registering again with other changeable fields is another definition; fields left out are not.
fn check_same(spec: &SeriesSpec, wanted: &SeriesDef, known: &SeriesDef) -> Result<()> {
    let differs = |given: bool, same: bool| given && !same;
    if differs(spec.retention.is_some(), wanted.retention == known.retention)
        || differs(spec.calendar.is_some(), wanted.calendar == known.calendar)
        || differs(spec.value_index.is_some(), wanted.value_index == known.value_index)
        || differs(spec.description.is_some(), wanted.description == known.description)
    {
        return Err(Error::new(
            ErrorCode::SeriesExists,
            format!("series {} is registered with another retention, calendar, value index or description", known.key),
        )
        .with_hint("change those with PATCH"));
    }
    Ok(())
}

/// Keys before and after one that is not registered that are compared with it.
const SIMILAR_LOOKED_AT: usize = 5_000;
/// Most of them that an error names.
const SIMILAR_GIVEN: usize = 3;

/// Milliseconds since the epoch, for people only: nothing is ordered by it.
fn wall_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

fn inventory_row(series: &SeriesState, coverage_ratio: Option<f64>, garbage_bytes: u64) -> InventoryRow {
    let last_write_at = (series.last_write_ms > 0).then(|| snapshots::rfc3339(series.last_write_ms));
    InventoryRow {
        series: series.def.key.clone(),
        rows: series.rows,
        bytes: series.file_bytes(),
        garbage_bytes,
        chunks: series.chunks.len() as u64,
        tail_rows: series.tail_rows(),
        first_ts: series.bounds.map(|(first, _)| first),
        last_ts: series.bounds.map(|(_, last)| last),
        coverage_ratio,
        version: series.version,
        last_write_at,
        months: None,
    }
}
