//! One method per operation, independent of the protocol: what REST, Flight and the command line call.
//!
//! Every method blocks (it may sync a file or touch mapped memory), so async interfaces call it on a blocking thread.

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
pub use admin::{CompactRequest, SCRUB_BYTES_PER_SECOND, ScrubRequest, VerifyRequest, scrub_control};
pub use backup::{BackupReply, BackupRequest, DamagedFile, RestoreReply, restore_backup};
pub use caller::{Caller, Scope};
pub use coverage::{CoverageReply, CoverageRequest};
pub use files::{FilesReply, FilesRequest};
pub use jobs::{Job, JobError, JobList, JobStatus, Jobs, Progress};
pub use limits::{Permit, PermitKind, RESPONSE_BYTES, ServiceLimits};
pub use read::{QueryInfo, QueryResult, range_of};
pub use registry::*;
pub use replies::*;
pub use write::{Acknowledged, IdempotencyKey, MergeOp, PendingWrite, WriteMethod, WriteOptions};

/// The operations on one open store, with the permissions of one caller.
#[derive(Clone, Debug)]
pub struct Service {
    shared: Arc<ServiceShared>,
    caller: Caller,
}

/// State shared by the services of all callers.
#[derive(Debug)]
pub struct ServiceShared {
    /// Declared before `store`: closed before the store releases its directory.
    catalog: registry::Catalog,
    store: Store,
    opened_at: Instant,
    ratios: coverage::Ratios,
    backup_dir: backup::BackupDir,
    admission: OnceLock<Arc<limits::Admission>>,
    jobs: Jobs,
    last_verify: admin::LastVerify,
    health_history: admin::HealthHistory,
}

impl Deref for Service {
    type Target = ServiceShared;

    fn deref(&self) -> &ServiceShared {
        &self.shared
    }
}

/// State of the store, for metrics.
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
    pub maintenance: MaintenanceStatus,
    pub machine: Machine,
}

/// Condition of a write or delete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Precondition {
    /// Entity tag of `If-Match` as received (quotes optional; its format part is ignored).
    pub if_match: Option<String>,
    /// Version number: the short form of `if_match` in Flight and on the command line.
    pub if_version: Option<u64>,
}

impl Service {
    /// Opens the store in `root`, creating it when `create` is set. See [`Store::open`] for the errors.
    pub fn open(root: &Path, create: bool, options: StoreOptions) -> Result<Arc<Self>> {
        Self::open_on(&DiskPath::os(root), create, options)
    }

    /// Opens the store in `root` on any disk; the registry is always on that of the operating system. See
    /// [`Store::open_on`] for the errors.
    pub fn open_on(root: &DiskPath, create: bool, options: StoreOptions) -> Result<Arc<Self>> {
        let store = Store::open_on(root, create, StoreOptions { prefetch: true, ..options })?;
        let shared = ServiceShared {
            catalog: registry::Catalog::open(&store, wall_ms()),
            store,
            opened_at: Instant::now(),
            ratios: coverage::Ratios::default(),
            backup_dir: backup::BackupDir::default(),
            admission: OnceLock::new(),
            jobs: Jobs::default(),
            last_verify: admin::LastVerify::default(),
            health_history: admin::HealthHistory::default(),
        };
        Ok(Arc::new(Self { shared: Arc::new(shared), caller: Caller::trusted() }))
    }

    /// The same store with the permissions of another caller.
    pub fn as_caller(&self, caller: Caller) -> Arc<Self> {
        Arc::new(Self { shared: Arc::clone(&self.shared), caller })
    }

    /// The caller whose permissions apply.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Moves the rows in the WAL to chunks and a run file, if possible; on failure the WAL is replayed at the next
    /// open.
    pub fn try_checkpoint(&self) {
        if self.store.writer_stopped().is_none()
            && let Err(error) = self.store.checkpoint()
        {
            tracing::warn!(%error, "checkpoint failed, the WAL is replayed at the next open");
        }
    }

    /// Closes the store unless it is still in use, in which case it is left as after a crash. Returns whether it was
    /// closed.
    pub fn close(self: Arc<Self>) -> bool {
        let shared = Arc::clone(&self.shared);
        drop(self);
        Arc::try_unwrap(shared).map(drop).is_ok()
    }

    /// The storage engine.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Writes the addresses of the server, and the SHA-256 of its certificate under TLS, into `LOCK` for other
    /// processes.
    pub fn announce(&self, http: &str, flight: &str, certificate: Option<&str>) -> Result<()> {
        let mut holder = serde_json::json!({
            "pid": std::process::id(), "http": http, "flight": flight, "format": FORMAT_VERSION,
        });
        if let (Some(sha256), Some(fields)) = (certificate, holder.as_object_mut()) {
            fields.insert("tls".into(), serde_json::json!({ "certificate_sha256": sha256 }));
        }
        self.store.describe_holder(&format!("{holder}\n"))
    }

    /// Registers a series; the same definition again is no error, a different one is `series_exists`.
    pub fn register(&self, spec: SeriesSpec) -> Result<Registered> {
        let def = spec.clone().resolve()?;
        self.caller.require_series(Scope::Write, &def.key)?;
        if self.store.snapshot().get(&def.key).is_none() {
            check_timeframe(def.key.timeframe())?;
        }
        let (series, created, commit) = self.store.register(def.clone())?;
        if !created {
            check_same(&spec, &def, &series.def)?;
        }
        Ok(Registered { created, commit, info: self.series_info(&series) })
    }

    /// The definition of a series and the timestamps of its first and last stored row; for an unregistered series the
    /// definition that registering it would create.
    ///
    /// # Errors
    /// Those of [`Service::register`].
    pub fn resolve_or_new(&self, spec: &SeriesSpec) -> Result<Known> {
        let def = spec.clone().resolve()?;
        self.caller.require_series(Scope::Write, &def.key)?;
        self.caller.require_series(Scope::Read, &def.key)?;
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

    fn series_info(&self, series: &SeriesState) -> SeriesInfo {
        let etag = self.etag(series.id, series.version);
        SeriesInfo::new(&series.def, series.version, series.rows, series.bounds, etag)
    }

    /// Entity tag with format `any`, in quotes.
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

    /// Adds to `series_not_found` the registered series with the most similar keys that the caller can see.
    fn with_similar(&self, error: Error, key: &SeriesKey, state: &StoreState) -> Error {
        if error.code() != ErrorCode::SeriesNotFound {
            return error;
        }
        // Only neighbours in key order are compared, so that the time does not grow with the store.
        let before = state.keys.range(..key.clone()).rev().take(SIMILAR_CANDIDATES_MAX);
        let after = state.keys.range(key.clone()..).take(SIMILAR_CANDIDATES_MAX);
        let seen = before.chain(after).map(|(known, _)| known).filter(|known| self.caller.can_see(known));
        let similar = similar::nearest(key.as_str(), seen.map(SeriesKey::as_str), SIMILAR_NAMED_MAX);
        if similar.is_empty() {
            return error;
        }
        let rest = error.hint().map_or_else(String::new, |hint| format!(" Otherwise {hint}"));
        error.with_hint(format!("did you mean {}?{rest}", similar.join(", ")))
    }

    /// One series, or `series_not_found`.
    pub fn series(&self, key: &SeriesKey) -> Result<SeriesInfo> {
        self.caller.require_series(Scope::Read, key)?;
        Ok(self.series_info(self.series_state(&self.store.snapshot(), key)?.as_ref()))
    }

    /// The definition of a series, for parsing bodies.
    pub fn def(&self, key: &SeriesKey) -> Result<Arc<SeriesDef>> {
        self.caller.require_series(Scope::Read, key)?;
        Ok(Arc::clone(&self.series_state(&self.store.snapshot(), key)?.def))
    }

    /// The definition of a series and the timestamps of its first and last stored row, for parsing bodies.
    pub fn known(&self, key: &SeriesKey) -> Result<Known> {
        self.caller.require_series(Scope::Read, key)?;
        let series = self.series_state(&self.store.snapshot(), key)?;
        Ok((Arc::clone(&series.def), series.bounds))
    }

    /// Registered series ordered by key.
    pub fn list(&self, filter: &SeriesFilter) -> Result<SeriesPage> {
        self.caller.require_scope(Scope::Read)?;
        let state = self.store.snapshot();
        let (found, next_cursor) = page::select(&state, filter, &self.caller)?;
        let series = found.iter().map(|series| self.series_info(series)).collect();
        Ok(SeriesPage { commit: state.commit, series, next_cursor })
    }

    /// Changes retention, calendar, value index or description.
    pub fn change(&self, key: &SeriesKey, patch: SeriesPatch, condition: &Precondition) -> Result<SeriesInfo> {
        self.caller.require_series(Scope::Write, key)?;
        let if_version = self.expected_version(key, condition)?;
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
            if let Some(requested) = patch.value_index {
                def.value_index = requested.map_or(Ok(Vec::new()), |requested| requested.resolve(&def.columns))?;
            }
            Ok(())
        })?;
        Ok(self.series_info(&series))
    }

    /// Drops a series with all its rows.
    pub fn drop_series(&self, key: &SeriesKey, condition: &Precondition) -> Result<DropReply> {
        self.caller.require_series(Scope::Admin, key)?;
        let dropped = self.store.drop_series(key, self.expected_version(key, condition)?)?;
        Ok(DropReply { series: key.clone(), rows_deleted: dropped.rows_deleted, commit: dropped.commit })
    }

    /// Deletes the closed range `start..=end`, or every row when `range` is `None`.
    pub fn delete_range(
        &self,
        key: &SeriesKey,
        range: Option<(i64, i64)>,
        condition: &Precondition,
        dry_run: bool,
    ) -> Result<DeleteReply> {
        self.caller.require_series(Scope::Write, key)?;
        let if_version = self.expected_version(key, condition)?;
        let range = range.unwrap_or((i64::MIN, i64::MAX));
        if range.0 > range.1 {
            return Err(Error::invalid(format!("start {} is after end {}", range.0, range.1)));
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

    /// The version that a precondition requires.
    fn expected_version(&self, key: &SeriesKey, condition: &Precondition) -> Result<IfVersion> {
        let by_version = condition.if_version.map(|version| ExpectedVersion { series_id: None, version });
        let Some(text) = condition.if_match.as_deref().map(str::trim) else { return Ok(by_version) };
        if text == "*" {
            self.def(key)?;
            return Ok(by_version);
        }
        // A list matches when one of its tags does; the format part of a tag is ignored.
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
            format!("series {key} is at version {}; the given entity tag does not match", series.version),
        )
        .with_hint("read the series again and repeat the change"))
    }

    /// The stored series with totals of those the caller can see; totals that cannot be split by series are 0 for a
    /// caller limited to some.
    pub fn inventory(&self, filter: &SeriesFilter) -> Result<Inventory> {
        self.caller.require_scope(Scope::Read)?;
        let state = self.store.snapshot();
        let mut totals = InventoryTotals { snapshots: self.visible_snapshots(&state), ..InventoryTotals::default() };
        if !self.caller.is_limited() {
            totals.wal_bytes = self.store.log_bytes().0;
            totals.garbage_bytes = self.store.garbage_bytes_total();
            totals.run_bytes = self.store.run_files().0;
        }
        for series in state.series.values().filter(|series| self.caller.can_see(&series.def.key)) {
            // A dropped series that a snapshot contains has files, but does not count as a series.
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
        self.caller.require_scope(Scope::Read)?;
        let state = self.store.snapshot();
        // Callers limited to other series see another inventory. A snapshot becomes visible to them when its dataset is
        // created, which is not a commit.
        let limits = if self.caller.is_limited() {
            let prefixes = xxh3_64(self.caller.prefixes.join("\n").as_bytes());
            format!("-{prefixes:016x}.{}", self.visible_snapshots(&state))
        } else {
            String::new()
        };
        Ok(format!("{}-{}-{}{limits}", self.store.epoch(), state.commit, state.edit))
    }

    /// Health of the store: `degraded` when it needs attention while reads continue, `failing` when its directory is
    /// lost.
    pub fn health(&self) -> Result<Health> {
        self.caller.require_scope(Scope::Read)?;
        let mut checks = Vec::new();
        let shows_details = !self.caller.is_limited();
        let mut status = HealthStatus::Ok;
        let mut add = |name: &'static str, problem: Option<String>, severity: HealthStatus| {
            let found = if problem.is_some() { severity } else { HealthStatus::Ok };
            status = status.max(found);
            let since = self.health_history.since(name, problem.is_some(), wall_ms());
            // A detail can name series that the caller cannot see.
            checks.push(HealthCheck {
                name: name.into(),
                status: found,
                since,
                detail: problem.filter(|_| shows_details),
            });
        };
        let lost = self.store.root_lost();
        let is_root_present = lost.is_none();
        add("directory", lost, HealthStatus::Failing);
        let mut check = |name, problem| add(name, problem, HealthStatus::Degraded);
        check("writer", self.store.writer_stopped());
        check("upkeep", self.store.upkeep_failed());
        let recovery = self.store.recovery();
        check("recovery", (!recovery.damage.is_empty()).then(|| recovery.damage.join("; ")));
        check("redundancy", (!recovery.spare.is_empty()).then(|| recovery.spare.join("; ")));
        check("integrity", if is_root_present { self.last_verify.current() } else { self.last_verify.findings() });
        check("registry", self.catalog.problem());
        let damaged = self.store.cache().damage.standing();
        check(
            "reads",
            damaged.map(|(reads, last)| format!("{reads} reads encountered damaged data, the last one {last}")),
        );
        let since = checks.iter().filter_map(|check| check.since.clone()).min();
        Ok(Health {
            status,
            since,
            version: env!("CARGO_PKG_VERSION").into(),
            format: FORMAT_VERSION,
            commit: self.store.snapshot().commit,
            uptime_seconds: self.opened_at.elapsed().as_secs(),
            durability: self.store.options().durability.name().into(),
            upkeep: if shows_details { self.maintenance() } else { MaintenanceStatus::default() },
            checks,
        })
    }

    /// Health without details, which any caller may see.
    pub fn readiness(&self) -> Result<StatusReply> {
        Ok(StatusReply { status: self.health()?.status, writer_stopped: self.store.writer_stopped().is_some() })
    }

    /// State of the store, for metrics.
    ///
    /// # Errors
    /// `permission_denied`.
    pub fn gauges(&self) -> Result<StoreGauges> {
        self.caller.require_store(Scope::Read)?;
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
            uptime: self.opened_at.elapsed(),
            recovery: Duration::from_millis(recovery.duration_ms),
            recovered_commits: recovery.commits_replayed,
            damaged_reads: self.store.cache().damage.reads(),
            maintenance: self.maintenance(),
            machine: Machine::look(self.store.root()),
        })
    }

    fn maintenance(&self) -> MaintenanceStatus {
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

    /// Directory for staging bodies; emptied at every open.
    pub fn staging_dir(&self) -> PathBuf {
        self.store.root().join("tmp")
    }
}

/// Fails when the request gives changeable fields that differ from those registered; absent fields are not compared.
fn check_same(spec: &SeriesSpec, requested: &SeriesDef, known: &SeriesDef) -> Result<()> {
    let differs = |is_given: bool, is_same: bool| is_given && !is_same;
    if differs(spec.retention.is_some(), requested.retention == known.retention)
        || differs(spec.calendar.is_some(), requested.calendar == known.calendar)
        || differs(spec.value_index.is_some(), requested.value_index == known.value_index)
        || differs(spec.description.is_some(), requested.description == known.description)
    {
        return Err(Error::new(
            ErrorCode::SeriesExists,
            format!("series {} is registered with another retention, calendar, value index or description", known.key),
        )
        .with_hint("change these fields with PATCH"));
    }
    Ok(())
}

/// Maximum number of keys before and after an unregistered key that are compared with it.
const SIMILAR_CANDIDATES_MAX: usize = 5_000;
/// Maximum number of similar keys in an error.
const SIMILAR_NAMED_MAX: usize = 3;

/// Wall-clock milliseconds since the epoch, for display only: no order depends on it.
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
