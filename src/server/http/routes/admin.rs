//! Administration: long operations as jobs, and the files and overlaps of the data directory.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};

use super::{AppState, Outcome};
use crate::error::Error;
use crate::query::CancelFlag;
use crate::server::blocking::run;
use crate::server::http::extract::JobPath;
use crate::server::http::openapi::{AdminFailure, AnyFailure, BackupFailure, FilesFailure, JobFailure, StartFailure};
use crate::server::http::params::{FilesParams, NoParams, Params, WaitParams};
use crate::server::http::{body, idempotency, reply};
use crate::service::{
    BackupRequest, CompactRequest, FilesReply, FilesRequest, Job, JobList, OrphanReport, OverlapReport, ScrubRequest,
    VerifyRequest,
};
use crate::types::SeriesKey;

/// Interval between two polls of a job.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Verify
///
/// Checks every file of the store: checksums, the order of rows, and references between files. Changes no file. The
/// result of the job is the report.
#[utoipa::path(
    post, path = "/v1/admin/verify", operation_id = "verify", tag = "server",
    params(WaitParams),
    request_body(content = Option<VerifyRequest>, description = "Without a body the rate is unlimited"),
    responses(
        (status = 202, description = "Job created", body = JobList,
            headers(("Location" = String, description = "Path of the job"))),
        (status = 200, description = "Finished, under `wait=true`", body = JobList),
        StartFailure,
    ),
)]
pub async fn verify(app: AppState, headers: HeaderMap, uri: Uri, body: Body) -> Outcome {
    let wait = wait(&headers, &uri)?;
    let request: VerifyRequest = body::json_or_default(&app, &headers, body).await?;
    let job = app.blocking(move |service| service.start_verify(request)).await?;
    job_response(&app, job, wait).await
}

/// Scrub
///
/// Verifies at a limited rate, and rewrites damaged or missing sidecars. Changes no data.
#[utoipa::path(
    post, path = "/v1/admin/scrub", operation_id = "scrub", tag = "server",
    params(WaitParams),
    request_body(content = Option<ScrubRequest>, description = "Without a body the rate is 64 MiB per second"),
    responses(
        (status = 202, description = "Job created", body = JobList,
            headers(("Location" = String, description = "Path of the job"))),
        (status = 200, description = "Finished, under `wait=true`", body = JobList),
        StartFailure,
    ),
)]
pub async fn scrub(app: AppState, headers: HeaderMap, uri: Uri, body: Body) -> Outcome {
    let wait = wait(&headers, &uri)?;
    let request: ScrubRequest = body::json_or_default(&app, &headers, body).await?;
    let job = app.blocking(move |service| service.start_scrub(request)).await?;
    job_response(&app, job, wait).await
}

/// Back up
///
/// Copies the whole store at one commit into a directory below `store.backup_dir` while the server continues to run.
/// Identical files of an earlier backup in that directory are kept.
#[utoipa::path(
    post, path = "/v1/admin/backup", operation_id = "backup", tag = "server",
    params(WaitParams),
    request_body(content = BackupRequest),
    responses(
        (status = 202, description = "Job created", body = JobList,
            headers(("Location" = String, description = "Path of the job"))),
        (status = 200, description = "Finished, under `wait=true`", body = JobList),
        BackupFailure,
    ),
)]
pub async fn backup(app: AppState, headers: HeaderMap, uri: Uri, body: Body) -> Outcome {
    let wait = wait(&headers, &uri)?;
    let request: BackupRequest = body::json(&app, &headers, body).await?;
    let job = app.blocking(move |service| service.start_backup(request)).await?;
    job_response(&app, job, wait).await
}

/// Compact
///
/// Seals rows of the WAL into chunk files, deletes rows beyond retention, merges the chunks of each partition into one
/// and unlinks files that no reader needs.
#[utoipa::path(
    post, path = "/v1/admin/compact", operation_id = "compact", tag = "server",
    params(WaitParams),
    request_body(content = Option<CompactRequest>, description = "Without a body every series is compacted"),
    responses(
        (status = 202, description = "Job created", body = JobList,
            headers(("Location" = String, description = "Path of the job"))),
        (status = 200, description = "Finished, under `wait=true`", body = JobList),
        AdminFailure,
    ),
)]
pub async fn compact(app: AppState, headers: HeaderMap, uri: Uri, body: Body) -> Outcome {
    let wait = wait(&headers, &uri)?;
    let request: CompactRequest = body::json_or_default(&app, &headers, body).await?;
    let job = app.blocking(move |service| service.start_compact(request)).await?;
    job_response(&app, job, wait).await
}

/// List jobs
///
/// Newest first, without results; the newest finished jobs are retained until the server stops. A token limited to some
/// series sees only the jobs it started, here and by id.
#[utoipa::path(
    get, path = "/v1/admin/jobs", operation_id = "listJobs", tag = "server",
    responses((status = 200, description = "The jobs", body = JobList), AnyFailure),
)]
pub async fn list_jobs(app: AppState, headers: HeaderMap, uri: Uri) -> Outcome {
    Params::of::<NoParams>(&uri)?;
    let list = app.blocking(|service| service.list_jobs()).await?;
    Ok(reply::json_coded(&headers, &list, None)?)
}

/// Get a job
///
/// Its progress, and its result once it is done.
#[utoipa::path(
    get, path = "/v1/admin/jobs/{id}", operation_id = "getJob", tag = "server",
    params(("id" = String, Path, description = "Id of the job")),
    responses((status = 200, description = "The job", body = JobList), JobFailure),
)]
pub async fn get_job(app: AppState, JobPath(id): JobPath, headers: HeaderMap, uri: Uri) -> Outcome {
    Params::of::<NoParams>(&uri)?;
    let job = app.blocking(move |service| service.job(&id)).await?;
    Ok(reply::json_coded(&headers, &JobList::from(job), None)?)
}

/// Cancel a job
///
/// A queued job fails at once, a running one at its next step. Completed work is kept.
#[utoipa::path(
    delete, path = "/v1/admin/jobs/{id}", operation_id = "cancelJob", tag = "server",
    params(("id" = String, Path, description = "Id of the job")),
    responses((status = 200, description = "Cancellation requested", body = JobList), JobFailure),
)]
pub async fn cancel_job(app: AppState, JobPath(id): JobPath, headers: HeaderMap, uri: Uri) -> Outcome {
    Params::of::<NoParams>(&uri)?;
    idempotency::reject(&headers)?;
    let job = app.blocking(move |service| service.cancel_job(&id)).await?;
    Ok(reply::json(StatusCode::OK, &JobList::from(job))?)
}

/// List orphans
///
/// Files of the data directory that the manifest does not name, each with its probable origin.
#[utoipa::path(
    get, path = "/v1/admin/orphans", operation_id = "listOrphans", tag = "server",
    responses((status = 200, description = "The files", body = OrphanReport), AnyFailure),
)]
pub async fn orphans(app: AppState, headers: HeaderMap, uri: Uri) -> Outcome {
    Params::of::<NoParams>(&uri)?;
    let report = app.blocking(|service| service.orphans()).await?;
    Ok(reply::json_coded(&headers, &report, None)?)
}

/// Explain overlaps
///
/// Partitions with more than one chunk: which chunks cover the same time range, which one wins there, and what
/// compaction would do.
#[utoipa::path(
    get, path = "/v1/admin/overlaps", operation_id = "explainOverlaps", tag = "server",
    responses((status = 200, description = "The partitions", body = OverlapReport), AnyFailure),
)]
pub async fn overlaps(app: AppState, headers: HeaderMap, uri: Uri) -> Outcome {
    Params::of::<NoParams>(&uri)?;
    let report = app.blocking(|service| service.overlaps()).await?;
    Ok(reply::json_coded(&headers, &report, None)?)
}

/// List the files of a series
///
/// The current chunk files of a series, for programs that read them without a server. `exact` tells whether they hold
/// exactly the rows of the series; `row_ranges` which of their rows belong to it in any case, and `rows_outside` how
/// many rows are not in a file yet. A later compaction writes other files and removes these.
#[utoipa::path(
    get, path = "/v1/admin/files", operation_id = "listFiles", tag = "server",
    params(FilesParams),
    responses((status = 200, description = "The files", body = FilesReply), FilesFailure),
)]
pub async fn files(app: AppState, headers: HeaderMap, uri: Uri) -> Outcome {
    let params = Params::of::<FilesParams>(&uri)?;
    let key = params.text("series").ok_or_else(|| {
        Error::invalid("parameter series is missing")
            .with_hint("add series=KEY, such as kline/BTCUSDT/1m; GET /v1/series lists the keys")
    })?;
    let request = FilesRequest { series: SeriesKey::parse(key)?, as_of: params.text("as_of").map(str::to_owned) };
    let (service, stop) = (Arc::clone(app.service()), CancelFlag::default());
    let (timeout, cancel) = (service.limits().request_timeout, stop.clone());
    let reply = run(false, timeout, cancel, move || service.files(&request, &stop)).await?;
    Ok(reply::json_coded(&headers, &reply, None)?)
}

/// Whether the response waits for the end of the job.
fn wait(headers: &HeaderMap, uri: &Uri) -> Outcome<bool> {
    idempotency::reject(headers)?;
    Ok(Params::of::<WaitParams>(uri)?.flag("wait")?)
}

/// The response for a created job: 202 at once, or 200 when it is finished. A client that disconnects meanwhile does
/// not cancel it.
pub async fn job_response(app: &AppState, mut job: Job, wait: bool) -> Outcome {
    while wait && !job.status.is_finished() {
        tokio::time::sleep(POLL_INTERVAL).await;
        job = app.service().poll_job(&job)?;
    }
    let location = HeaderValue::from_str(&format!("/v1/admin/jobs/{}", job.id));
    let mut response = reply::json(if wait { StatusCode::OK } else { StatusCode::ACCEPTED }, &JobList::from(job))?;
    if let Ok(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}
