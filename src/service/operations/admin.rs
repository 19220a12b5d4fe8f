//! Administration: long operations as jobs, the jobs, and the files and overlaps of the data directory.

use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use super::operation::{Context, JobOperation, Operation, RequestSchemas};
use super::spec::{BodyKind, FlightBinding, Method, Route, Spec};
use super::store::NoRequest;
use crate::error::ErrorCode::{
    CorruptData, DatasetNotFound, JobNotFound, SeriesNotFound, SnapshotNotFound, TooLarge, UnsupportedFormat,
};
use crate::error::Result;
use crate::service::{
    BackupReply, BackupRequest, CompactReply, CompactRequest, FilesReply, FilesRequest, JobList, OrphanReport,
    OverlapReport, Scope, ScrubRequest, Service, VerifyReport, VerifyRequest, scrub_control,
};
use crate::store::TaskControl;

const REPORT: Route = Route::new(Method::Get, "server");

/// The request for a job.
const JOB_ROUTE: Route = Route {
    query: &["wait"],
    success: &[(202, "Job created"), (200, "Finished, under `wait=true`")],
    location: "Path of the job",
    ..Route::new(Method::Post, "server")
};

/// Verifies every file.
#[derive(Debug)]
pub struct Verify;

impl JobOperation for Verify {
    const SPEC: Spec = Spec::new("verify", Scope::Admin).whole_store().rest(&[Route { body: BodyKind::Optional("Without a body the rate is unlimited"), ..JOB_ROUTE }
            .at("/v1/admin/verify", "verify", "Verify")
            .about(
                "Checks every file of the store: checksums, the order of rows, and references between files. Changes \
                 no file. The result of the job is the report.",
            )]).flight(&[FlightBinding::Action(
            "verify",
            "verifies every file of the store and returns the report when done; body: empty, or {\"bytes_per_second\": n}",
        )]).cli(&["admin verify"]);
    const VERB: &'static str = "verify";
    const UNIT: &'static str = "bytes";
    type Request = VerifyRequest;
    type Reply = VerifyReport;

    fn control(request: &VerifyRequest) -> TaskControl {
        TaskControl::with_rate(request.bytes_per_second.unwrap_or(0))
    }

    fn check(service: &Service, _: &VerifyRequest) -> Result<()> {
        service.caller().require_store(Scope::Admin)
    }

    fn run(service: &Service, _: &VerifyRequest, control: &TaskControl) -> Result<VerifyReport> {
        service.verify(control)
    }
}

/// Verifies every file and rebuilds sidecars.
#[derive(Debug)]
pub struct Scrub;

impl JobOperation for Scrub {
    const SPEC: Spec = Spec::new("scrub", Scope::Admin)
        .whole_store()
        .rest(&[Route { body: BodyKind::Optional("Without a body the rate is 64 MiB per second"), ..JOB_ROUTE }
            .at("/v1/admin/scrub", "scrub", "Scrub")
            .about("Verifies at a limited rate, and rewrites damaged or missing sidecars. Changes no data.")])
        .not_in_flight("background work; REST has it")
        .cli(&["admin scrub"]);
    const VERB: &'static str = "scrub";
    const UNIT: &'static str = "bytes";
    type Request = ScrubRequest;
    type Reply = VerifyReport;

    fn control(request: &ScrubRequest) -> TaskControl {
        scrub_control(*request)
    }

    fn check(service: &Service, _: &ScrubRequest) -> Result<()> {
        service.caller().require_store(Scope::Admin)
    }

    fn run(service: &Service, request: &ScrubRequest, control: &TaskControl) -> Result<VerifyReport> {
        service.scrub(request.dry_run, control)
    }
}

/// Seals and merges chunks.
#[derive(Debug)]
pub struct Compact;

impl JobOperation for Compact {
    const SPEC: Spec = Spec::new("compact", Scope::Admin)
        .rest(&[Route {
            body: BodyKind::Optional("Without a body every series is compacted"),
            errors: &[SeriesNotFound],
            ..JOB_ROUTE
        }
        .at("/v1/admin/compact", "compact", "Compact")
        .about(
            "Seals rows of the WAL into chunk files, deletes rows beyond retention, merges the chunks of each \
             partition into one and unlinks files that no reader needs.",
        )])
        .flight(&[FlightBinding::Action(
            "compact",
            "seals rows of the WAL into chunk files and merges chunks; body: empty, or {\"series\": [key, …]}",
        )])
        .cli(&["admin compact"]);
    const VERB: &'static str = "compact";
    const UNIT: &'static str = "series";
    type Request = CompactRequest;
    type Reply = CompactReply;

    fn control(_: &CompactRequest) -> TaskControl {
        TaskControl::new()
    }

    fn check(service: &Service, request: &CompactRequest) -> Result<()> {
        if request.series.is_empty() {
            service.caller().require_store(Scope::Admin)?;
        }
        request.series.iter().try_for_each(|key| service.def(key).map(|_| ()))
    }

    fn run(service: &Service, request: &CompactRequest, control: &TaskControl) -> Result<CompactReply> {
        service.compact(&request.series, control)
    }
}

/// Copies the store.
#[derive(Debug)]
pub struct StartBackup;

impl JobOperation for StartBackup {
    const SPEC: Spec = Spec::new("backup", Scope::Admin)
        .whole_store()
        .rest(&[Route { body: BodyKind::Whole, ..JOB_ROUTE }.at("/v1/admin/backup", "backup", "Back up").about(
            "Copies the whole store at one commit into a directory below `store.backup_dir` while the server \
                 continues to run. Identical files of an earlier backup in that directory remain.",
        )])
        .not_in_flight("administration; REST has it as a job")
        .cli(&["admin backup"]);
    const VERB: &'static str = "backup";
    const UNIT: &'static str = "bytes";
    type Request = BackupRequest;
    type Reply = BackupReply;

    fn control(request: &BackupRequest) -> TaskControl {
        request.control()
    }

    fn check(service: &Service, request: &BackupRequest) -> Result<()> {
        service.caller().require_store(Scope::Admin)?;
        service.check_backup(request)
    }

    fn run(service: &Service, request: &BackupRequest, control: &TaskControl) -> Result<BackupReply> {
        service.backup(request, control)
    }

    fn run_for_client(service: &Service, request: &BackupRequest, control: &TaskControl) -> Result<BackupReply> {
        service.backup_for_client(request, control)
    }
}

/// A job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobRequest {
    pub id: String,
}

/// Why commands have no jobs.
const COMMANDS_WAIT: &str = "commands wait for their jobs and show progress";
/// Why actions have no jobs.
const ACTIONS_WAIT: &str = "actions return when they are done";

/// Lists the jobs.
#[derive(Debug)]
pub struct ListJobs;

impl Operation for ListJobs {
    const SPEC: Spec = Spec::new("list jobs", Scope::Admin)
        .rest(&[Route { success: &[(200, "The jobs")], ..REPORT }.at("/v1/admin/jobs", "listJobs", "List jobs").about(
            "Newest first, without results; the newest finished jobs are retained until the server stops. A token \
                 limited to some series sees only the jobs it started, here and by id.",
        )])
        .not_in_flight(ACTIONS_WAIT)
        .not_in_cli(COMMANDS_WAIT);
    type Request = NoRequest;
    type Reply = JobList;

    fn run(service: &Service, _: NoRequest, _: &Context) -> Result<JobList> {
        service.list_jobs()
    }
}

/// Describes a job.
#[derive(Debug)]
pub struct GetJob;

impl Operation for GetJob {
    const SPEC: Spec = Spec::new("describe a job", Scope::Admin)
        .rest(&[Route { success: &[(200, "The job")], errors: &[JobNotFound], ..REPORT }
            .at("/v1/admin/jobs/{id}", "getJob", "Get a job")
            .about("Its progress, and its result once it is done.")])
        .not_in_flight(ACTIONS_WAIT)
        .not_in_cli(COMMANDS_WAIT);
    type Request = JobRequest;
    type Reply = JobList;

    fn run(service: &Service, request: JobRequest, _: &Context) -> Result<JobList> {
        Ok(JobList::from(service.job(&request.id)?))
    }
}

/// Cancels a job.
#[derive(Debug)]
pub struct CancelJob;

impl Operation for CancelJob {
    const SPEC: Spec = Spec::new("cancel a job", Scope::Admin)
        .rest(&[Route {
            success: &[(200, "Cancellation requested")],
            errors: &[JobNotFound],
            ..Route::new(Method::Delete, "server")
        }
        .at("/v1/admin/jobs/{id}", "cancelJob", "Cancel a job")
        .about("A queued job fails at once, a running one at its next step. Completed work is not undone.")])
        .not_in_flight(ACTIONS_WAIT)
        .not_in_cli(COMMANDS_WAIT);
    type Request = JobRequest;
    type Reply = JobList;

    fn run(service: &Service, request: JobRequest, _: &Context) -> Result<JobList> {
        Ok(JobList::from(service.cancel_job(&request.id)?))
    }
}

/// Lists files that the manifest does not name.
#[derive(Debug)]
pub struct ListOrphans;

impl Operation for ListOrphans {
    const SPEC: Spec = Spec::new("list orphans", Scope::Admin)
        .whole_store()
        .rest(&[Route { success: &[(200, "The files")], ..REPORT }
            .at("/v1/admin/orphans", "listOrphans", "List orphans")
            .about("Files of the data directory that the manifest does not name, each with its probable origin.")])
        .not_in_flight("rare administration; REST has it")
        .cli(&["admin list-orphans"]);
    type Request = NoRequest;
    type Reply = OrphanReport;

    fn run(service: &Service, _: NoRequest, _: &Context) -> Result<OrphanReport> {
        service.orphans()
    }
}

/// Explains which chunks overlap.
#[derive(Debug)]
pub struct ExplainOverlaps;

impl Operation for ExplainOverlaps {
    const SPEC: Spec = Spec::new("explain overlaps", Scope::Admin)
        .whole_store()
        .rest(&[Route { success: &[(200, "The partitions")], ..REPORT }
            .at("/v1/admin/overlaps", "explainOverlaps", "Explain overlaps")
            .about(
                "Partitions with more than one chunk: which chunks cover the same time range, which one takes \
                 precedence, and what compaction would do.",
            )])
        .not_in_flight("rare administration; REST has it")
        .cli(&["admin explain-overlap"]);
    type Request = NoRequest;
    type Reply = OverlapReport;

    fn run(service: &Service, _: NoRequest, _: &Context) -> Result<OverlapReport> {
        service.overlaps()
    }
}

/// Lists the chunk files of a series.
#[derive(Debug)]
pub struct ListFiles;

impl Operation for ListFiles {
    const SPEC: Spec = Spec::new("list the files of a series", Scope::Admin)
        .rest(&[Route {
            query: &["series", "as_of"],
            success: &[(200, "The files")],
            errors: &[SeriesNotFound, SnapshotNotFound, DatasetNotFound, TooLarge, CorruptData, UnsupportedFormat],
            ..REPORT
        }
        .at("/v1/admin/files", "listFiles", "List the files of a series")
        .about(
            "The current chunk files of a series, for programs that read them without a server. `exact` is true if \
             they hold exactly the rows of the series; `row_ranges` lists the rows that belong to it even if `exact` \
             is false, and `rows_outside` is the number of rows that are not in a file yet. A later compaction writes \
             other files and removes these.",
        )])
        .not_in_flight("files are read without a server; REST lists them")
        .cli(&["files"]);
    type Request = FilesRequest;
    type Reply = FilesReply;

    fn schemas() -> RequestSchemas {
        RequestSchemas::query::<FilesRequest>()
    }

    fn run(service: &Service, request: FilesRequest, context: &Context) -> Result<FilesReply> {
        service.files(&request, &context.stop)
    }
}

/// Parameters of a request for a job, which are not part of it.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "documents a parameter")]
pub struct WaitParams {
    /// Respond when the job is finished instead of when it is created.
    wait: Option<bool>,
}
