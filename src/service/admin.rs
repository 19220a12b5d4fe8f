//! Maintenance of the store: long operations as jobs.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::disk::DiskPath;
use crate::error::{Error, Result};
use crate::service::caller::Scope;
use crate::service::health_state::LastFindings;
use crate::service::jobs::{Job, JobList};
use crate::service::replies::CompactReply;
use crate::service::shared::Service;
use crate::store::{OrphanReport, OverlapReport, Severity, TaskControl, VerifyReport, orphans};
use crate::types::SeriesKey;

/// Bytes per second that a scrub reads by default.
pub const SCRUB_BYTES_PER_SECOND: u64 = 64 << 20;
/// Series compacted in one batch.
const COMPACT_SERIES: usize = 64;
/// Maximum number of findings named in health.
const FINDINGS_NAMED_MAX: usize = 3;

/// Options of a check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct VerifyRequest {
    /// Maximum bytes read per second; unlimited when absent.
    #[serde(default)]
    pub bytes_per_second: Option<u64>,
}

/// Options of a scrub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct ScrubRequest {
    /// Maximum bytes read per second; 0 for unlimited, 64 MiB when absent.
    #[serde(default)]
    pub bytes_per_second: Option<u64>,
    /// Only report what would be rewritten.
    #[serde(default)]
    pub dry_run: bool,
}

/// Series to compact; every series when absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct CompactRequest {
    #[serde(default)]
    #[cfg_attr(feature = "server", schema(value_type = Vec<String>))]
    pub series: Vec<SeriesKey>,
}

impl Service {
    /// The jobs of this store; for a caller limited to some series, only the jobs it started.
    ///
    /// # Errors
    /// `permission_denied`.
    pub fn list_jobs(&self) -> Result<JobList> {
        self.caller.require_scope(Scope::Admin)?;
        Ok(if self.caller.is_limited() { self.jobs.list_owned_by(&self.caller.id) } else { self.jobs.list() })
    }

    /// The current state of a job.
    ///
    /// # Errors
    /// `permission_denied`, `job_not_found`; the latter also for a job of another caller when this caller is limited to
    /// some series.
    pub fn job(&self, id: &str) -> Result<Job> {
        self.check_job(id)?;
        self.jobs.get(id)
    }

    /// Requests the cancellation of a job.
    ///
    /// # Errors
    /// Those of [`job`](Self::job).
    pub fn cancel_job(&self, id: &str) -> Result<Job> {
        self.check_job(id)?;
        self.jobs.cancel(id)
    }

    fn check_job(&self, id: &str) -> Result<()> {
        self.caller.require_scope(Scope::Admin)?;
        if self.caller.is_limited() { self.jobs.check_owner(id, &self.caller.id) } else { Ok(()) }
    }

    /// The current state of a job that this caller started.
    ///
    /// # Errors
    /// Those of [`Jobs::get`](crate::service::Jobs::get).
    pub fn poll_job(&self, job: &Job) -> Result<Job> {
        self.jobs.get(&job.id)
    }

    /// Waits until a job is finished, and returns it.
    ///
    /// # Errors
    /// Those of [`Jobs::wait`](crate::service::Jobs::wait).
    pub fn wait_for_job(&self, job: &Job) -> Result<Job> {
        self.jobs.wait(&job.id)
    }

    /// Requests the cancellation of every job and accepts no more.
    pub fn cancel_jobs(&self) {
        self.jobs.cancel_all();
    }

    /// Cancels every job, waits until all have ended and accepts no more.
    pub fn close_jobs(&self) {
        self.jobs.close();
    }

    /// Starts a job of the operation `verb`. `work` gets this service and the control that counts progress in `unit`;
    /// its reply becomes the result of the job.
    ///
    /// # Errors
    /// Those of [`Jobs::start_for`](crate::service::Jobs::start_for).
    pub fn start_job<R: Serialize>(
        &self,
        verb: &'static str,
        unit: &str,
        control: TaskControl,
        work: impl FnOnce(&Service, &TaskControl) -> Result<R> + Send + 'static,
    ) -> Result<Job> {
        self.caller.require_scope(Scope::Admin)?;
        let service = self.clone();
        self.jobs.start_for(&self.caller.id, verb, unit, control, move |control| {
            let reply = work(&service, control).map_err(|error| {
                let redacted = service.caller.redact(error.clone());
                if redacted.detail() != error.detail() {
                    tracing::error!(verb, %error, "the error was redacted for a limited token");
                }
                redacted
            })?;
            serde_json::to_value(reply).map_err(|error| Error::internal(format!("reply as JSON: {error}")))
        })
    }

    /// Checks every file of the store. Health reports the findings until a check is clean.
    pub fn verify(&self, control: &TaskControl) -> Result<VerifyReport> {
        self.caller.require_store(Scope::Admin)?;
        let report = self.store.verify(control)?;
        self.record_check("verify", &report);
        Ok(report)
    }

    /// Checks every file and, unless it is a dry run, rewrites damaged or missing sidecars.
    pub fn scrub(&self, dry_run: bool, control: &TaskControl) -> Result<VerifyReport> {
        self.caller.require_store(Scope::Admin)?;
        let report = self.store.scrub(dry_run, control)?;
        self.record_check("scrub", &report);
        Ok(report)
    }

    fn record_check(&self, verb: &str, report: &VerifyReport) {
        if report.clean {
            self.last_verify.set(None);
            self.store.cache().damage.reset();
            return;
        }
        let significant = report.findings.iter().filter(|finding| finding.severity > Severity::Note);
        let named: Vec<String> = significant
            .take(FINDINGS_NAMED_MAX)
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
            if report.errors + report.warnings > FINDINGS_NAMED_MAX as u64 { " and others" } else { "" },
        );
        let root = self.store.root();
        let significant = report.findings.iter().filter(|finding| finding.severity > Severity::Note);
        let files: Vec<PathBuf> = significant.map(|finding| root.join(&finding.file)).collect();
        let all_exist = files.iter().all(|file| matches!(file.try_exists(), Ok(true)));
        self.last_verify.set(Some(LastFindings { text, files: if all_exist { files } else { Vec::new() } }));
    }

    /// Seals the tails of these series (every series when empty), deletes rows beyond retention, merges partitions of
    /// more than one chunk and unlinks files that no reader needs. Work done before a cancellation is not undone.
    pub fn compact(&self, series: &[SeriesKey], control: &TaskControl) -> Result<CompactReply> {
        if series.is_empty() {
            self.caller.require_store(Scope::Admin)?;
        }
        series.iter().try_for_each(|key| self.caller.require_series(Scope::Admin, key))?;
        let retained = self.store.apply_retention(series)?;
        control.check()?;
        let sealed = self.store.seal(series)?;
        if series.is_empty() {
            // No row is left in the WAL now: its segments can be deleted.
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
        control.plan(ids.len() as u64);
        for batch in ids.chunks(COMPACT_SERIES) {
            let compacted = self.store.compact_ids(batch, true)?;
            reply.partitions_compacted += compacted.partitions_compacted;
            reply.chunks_replaced += compacted.chunks_removed;
            reply.bytes_before += compacted.bytes_before;
            reply.bytes_after += compacted.bytes_after;
            control.advance(batch.len() as u64)?;
        }
        let vacuumed = self.store.vacuum()?;
        reply.files_removed = vacuumed.files_removed;
        reply.files_waiting = vacuumed.files_waiting;
        Ok(reply)
    }

    /// Files that the manifest does not name.
    pub fn orphans(&self) -> Result<OrphanReport> {
        self.caller.require_store(Scope::Admin)?;
        orphans(&DiskPath::os(self.store.root()))
    }

    /// Chunks that overlap, which of them takes precedence, and what compaction would do.
    pub fn overlaps(&self) -> Result<OverlapReport> {
        self.caller.require_store(Scope::Admin)?;
        Ok(self.store.overlaps())
    }
}

/// The control of a scrub.
pub fn scrub_control(request: ScrubRequest) -> TaskControl {
    TaskControl::with_rate(request.bytes_per_second.unwrap_or(SCRUB_BYTES_PER_SECOND))
}
