//! Looking after the store: the long verbs as jobs, and what a check found last.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::jobs::{Job, JobList};
use super::snapshots::rfc3339;
use super::{BackupRequest, CompactReply, Scope, Service};
use crate::disk::DiskPath;
use crate::error::{Error, Result};
use crate::store::{OrphanReport, OverlapReport, Severity, TaskControl, VerifyReport, orphans};
use crate::types::SeriesKey;

/// Bytes a second that a scrub reads when nothing else is said.
pub const SCRUB_BYTES_PER_SECOND: u64 = 64 << 20;
/// Series compacted at a time.
const COMPACT_SERIES: usize = 64;
/// Findings that health names.
const NAMED_MAX: usize = 3;

/// How a store is to be checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct VerifyRequest {
    /// Bytes read a second at most; as many as it can when left out.
    #[serde(default)]
    pub bytes_per_second: Option<u64>,
}

/// How a store is to be scrubbed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct ScrubRequest {
    /// Bytes read a second at most; 0 for as many as it can, 64 MiB when left out.
    #[serde(default)]
    pub bytes_per_second: Option<u64>,
    /// Only tell what would be written anew.
    #[serde(default)]
    pub dry_run: bool,
}

/// Which series to compact; all when it is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct CompactRequest {
    #[serde(default)]
    #[cfg_attr(feature = "server", schema(value_type = Vec<String>))]
    pub series: Vec<SeriesKey>,
}

/// What the last check found, until one finds nothing or every file it found damaged is gone.
#[derive(Debug, Default)]
pub(super) struct LastVerify(Mutex<Option<LastFindings>>);

#[derive(Clone, Debug)]
struct LastFindings {
    text: String,
    /// The damaged files; empty where a missing one is among the findings.
    files: Vec<PathBuf>,
}

impl LastVerify {
    fn lock(&self) -> MutexGuard<'_, Option<LastFindings>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, found: Option<LastFindings>) {
        *self.lock() = found;
    }

    /// What it found, without looking at the disk.
    pub fn found(&self) -> Option<String> {
        self.lock().as_ref().map(|found| found.text.clone())
    }

    /// What it found of files that are still there.
    pub fn standing(&self) -> Option<String> {
        let files = self.lock().as_ref().map(|found| found.files.clone())?;
        if !files.is_empty() && files.iter().all(|file| matches!(file.try_exists(), Ok(false))) {
            let mut found = self.lock();
            // Unless another check found something meanwhile.
            if found.as_ref().is_some_and(|found| found.files == files) {
                *found = None;
            }
        }
        self.found()
    }
}

/// Since when each check of health is not `ok`.
#[derive(Debug, Default)]
pub(super) struct HealthHistory(Mutex<BTreeMap<&'static str, i64>>);

impl HealthHistory {
    /// Notes whether a check has a problem now, and gives since when.
    pub fn since(&self, name: &'static str, has_problem: bool, now_ms: i64) -> Option<String> {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !has_problem {
            since.remove(name);
            return None;
        }
        Some(rfc3339(*since.entry(name).or_insert(now_ms)))
    }
}

impl Service {
    /// The jobs of this store; of a caller limited to some series, those that it started.
    ///
    /// # Errors
    /// `permission_denied`.
    pub fn list_jobs(&self) -> Result<JobList> {
        self.caller.may(Scope::Admin)?;
        Ok(if self.caller.is_limited() { self.jobs.list_of(&self.caller.id) } else { self.jobs.list() })
    }

    /// A job as it is now.
    ///
    /// # Errors
    /// `permission_denied`, `job_not_found`; the latter also for a job that somebody else started, where the caller is
    /// limited to some series.
    pub fn job(&self, id: &str) -> Result<Job> {
        self.check_job(id)?;
        self.jobs.get(id)
    }

    /// Asks a job to stop.
    ///
    /// # Errors
    /// Those of [`job`](Self::job).
    pub fn cancel_job(&self, id: &str) -> Result<Job> {
        self.check_job(id)?;
        self.jobs.cancel(id)
    }

    fn check_job(&self, id: &str) -> Result<()> {
        self.caller.may(Scope::Admin)?;
        if self.caller.is_limited() { self.jobs.check_owner(id, &self.caller.id) } else { Ok(()) }
    }

    /// A job as it is now, for the caller who was given it.
    ///
    /// # Errors
    /// Those of [`Jobs::get`](super::Jobs::get).
    pub fn look(&self, job: &Job) -> Result<Job> {
        self.jobs.get(&job.id)
    }

    /// The same once it is finished.
    ///
    /// # Errors
    /// Those of [`Jobs::wait`](super::Jobs::wait).
    pub fn wait_for(&self, job: &Job) -> Result<Job> {
        self.jobs.wait(&job.id)
    }

    /// Asks all jobs to stop and, when `for_good`, waits until they have and takes no more.
    pub fn end_jobs(&self, for_good: bool) {
        if for_good {
            self.jobs.close();
        } else {
            self.jobs.cancel_all();
        }
    }

    /// Takes on long work under a verb: `work` gets this service, and the watch whose `unit` it counts. Its reply
    /// becomes the result of the job.
    ///
    /// # Errors
    /// Those of [`Jobs::start_for`](super::Jobs::start_for).
    pub fn start_job<R: Serialize>(
        &self,
        verb: &'static str,
        unit: &str,
        watch: TaskControl,
        work: impl FnOnce(&Service, &TaskControl) -> Result<R> + Send + 'static,
    ) -> Result<Job> {
        self.caller.may(Scope::Admin)?;
        let service = self.clone();
        self.jobs.start_for(&self.caller.id, verb, unit, watch, move |watch| {
            let reply = work(&service, watch).map_err(|error| {
                let shown = service.caller.shown(error.clone());
                if shown.detail() != error.detail() {
                    tracing::error!(verb, %error, "a token limited to some series is told less of its job");
                }
                shown
            })?;
            serde_json::to_value(reply).map_err(|error| Error::internal(format!("reply as JSON: {error}")))
        })
    }

    /// Checks every file of the store, as a job whose result is a [`VerifyReport`].
    pub fn start_verify(&self, request: VerifyRequest) -> Result<Job> {
        self.caller.may_all(Scope::Admin)?;
        let watch = TaskControl::with_rate(request.bytes_per_second.unwrap_or(0));
        self.start_job("verify", "bytes", watch, |service, watch| service.verify(watch))
    }

    /// Checks every file and writes damaged sidecars anew, as a job whose result is a [`VerifyReport`].
    pub fn start_scrub(&self, request: ScrubRequest) -> Result<Job> {
        self.caller.may_all(Scope::Admin)?;
        let watch = scrub_watch(request);
        self.start_job("scrub", "bytes", watch, move |service, watch| service.scrub(request.dry_run, watch))
    }

    /// Backs the store up for a client, as a job whose result is a [`BackupReply`](super::BackupReply).
    ///
    /// # Errors
    /// `permission_denied` and `invalid_argument` for the directory, and those of [`Jobs::start_for`](super::Jobs::start_for).
    pub fn start_backup(&self, request: BackupRequest) -> Result<Job> {
        self.caller.may_all(Scope::Admin)?;
        self.check_backup(&request)?;
        let watch = request.watch();
        self.start_job("backup", "bytes", watch, move |service, watch| service.backup_for_client(&request, watch))
    }

    /// Compacts, as a job whose result is a [`CompactReply`].
    ///
    /// # Errors
    /// `series_not_found`, and those of [`Jobs::start_for`](super::Jobs::start_for).
    pub fn start_compact(&self, request: CompactRequest) -> Result<Job> {
        self.caller.may(Scope::Admin)?;
        if request.series.is_empty() {
            self.caller.may_all(Scope::Admin)?;
        }
        request.series.iter().try_for_each(|key| self.def(key).map(|_| ()))?;
        self.start_job("compact", "series", TaskControl::new(), move |service, watch| {
            service.compact_watched(&request.series, watch)
        })
    }

    /// Checks every file of the store. Health tells of what was found until a check finds nothing.
    pub fn verify(&self, watch: &TaskControl) -> Result<VerifyReport> {
        self.caller.may_all(Scope::Admin)?;
        let report = self.store.verify(watch)?;
        self.note_check("verify", &report);
        Ok(report)
    }

    /// Checks every file and writes damaged or missing sidecars anew, unless it is a dry run.
    pub fn scrub(&self, dry_run: bool, watch: &TaskControl) -> Result<VerifyReport> {
        self.caller.may_all(Scope::Admin)?;
        let report = self.store.scrub(dry_run, watch)?;
        self.note_check("scrub", &report);
        Ok(report)
    }

    fn note_check(&self, verb: &str, report: &VerifyReport) {
        if report.clean {
            self.checked.set(None);
            self.store.cache().damage.forget();
            return;
        }
        let weighty = report.findings.iter().filter(|finding| finding.severity > Severity::Note);
        let named: Vec<String> = weighty
            .take(NAMED_MAX)
            .map(|finding| {
                let series = finding.series.as_ref().map(|key| format!(" ({key})")).unwrap_or_default();
                format!("{} in {}{series}", finding.kind.name(), finding.file)
            })
            .collect();
        let text = format!(
            "the last {verb} found {} errors and {} warnings: {}{}; `fastk admin verify` lists them",
            report.errors,
            report.warnings,
            named.join(", "),
            if report.errors + report.warnings > NAMED_MAX as u64 { " and others" } else { "" },
        );
        let root = self.store.root();
        let weighty = report.findings.iter().filter(|finding| finding.severity > Severity::Note);
        let files: Vec<PathBuf> = weighty.map(|finding| root.join(&finding.file)).collect();
        let all_there = files.iter().all(|file| matches!(file.try_exists(), Ok(true)));
        self.checked.set(Some(LastFindings { text, files: if all_there { files } else { Vec::new() } }));
    }

    /// Moves the tail of these series (all when empty) into chunk files, deletes what retention no longer keeps, merges
    /// what is more than one chunk a partition and unlinks what nobody reads any more.
    pub fn compact(&self, series: &[SeriesKey]) -> Result<CompactReply> {
        self.compact_watched(series, &TaskControl::new())
    }

    /// The same; what was done before it was cancelled stays done.
    pub fn compact_watched(&self, series: &[SeriesKey], watch: &TaskControl) -> Result<CompactReply> {
        if series.is_empty() {
            self.caller.may_all(Scope::Admin)?;
        }
        series.iter().try_for_each(|key| self.caller.may_touch(Scope::Admin, key))?;
        let retained = self.store.apply_retention(series)?;
        watch.check()?;
        let sealed = self.store.seal(series)?;
        if series.is_empty() {
            // Nothing is left in the log then: let its segments go.
            self.store.checkpoint()?;
        }
        let mut reply = CompactReply {
            series_sealed: sealed.series_sealed,
            chunks_written: sealed.chunks_written,
            rows_sealed: sealed.rows_sealed,
            retention_rows: retained.iter().map(|(_, deleted)| deleted.rows_deleted).sum(),
            ..CompactReply::default()
        };
        let ids = if series.is_empty() {
            self.store.snapshot().series.keys().copied().collect()
        } else {
            self.store.series_ids(series)?
        };
        watch.plan(ids.len() as u64);
        for some in ids.chunks(COMPACT_SERIES) {
            let compacted = self.store.compact_ids(some, true)?;
            reply.partitions_compacted += compacted.partitions_compacted;
            reply.chunks_replaced += compacted.chunks_removed;
            reply.bytes_before += compacted.bytes_before;
            reply.bytes_after += compacted.bytes_after;
            watch.advance(some.len() as u64)?;
        }
        let vacuumed = self.store.vacuum()?;
        reply.files_removed = vacuumed.files_removed;
        reply.files_waiting = vacuumed.files_waiting;
        Ok(reply)
    }

    /// Files that the manifest does not name.
    pub fn orphans(&self) -> Result<OrphanReport> {
        self.caller.may_all(Scope::Admin)?;
        orphans(&DiskPath::os(self.store.root()))
    }

    /// Which chunks overlap, which wins, and what compaction would do.
    pub fn overlaps(&self) -> Result<OverlapReport> {
        self.caller.may_all(Scope::Admin)?;
        Ok(self.store.overlaps())
    }
}

/// The watch of a scrub.
pub fn scrub_watch(request: ScrubRequest) -> TaskControl {
    TaskControl::with_rate(request.bytes_per_second.unwrap_or(SCRUB_BYTES_PER_SECOND))
}
