//! Looking after the store: long verbs as jobs, and what lies and overlaps in the data directory.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};

use super::{AppState, Outcome};
use crate::error::Error;
use crate::query::CancelFlag;
use crate::server::blocking::begin;
use crate::server::http::extract::JobPath;
use crate::server::http::openapi::{AdminFailure, AnyFailure, BackupFailure, FilesFailure, JobFailure, StartFailure};
use crate::server::http::params::{FilesParams, NoParams, Params, WaitParams};
use crate::server::http::{body, idempotency, reply};
use crate::service::{
    BackupRequest, CompactRequest, FilesReply, FilesRequest, Job, JobList, OrphanReport, OverlapReport, ScrubRequest,
    VerifyRequest,
};
use crate::types::SeriesKey;

/// Time between two looks at a job that is waited for.
const LOOK: Duration = Duration::from_millis(50);

/// Verify
///
/// Checks every file of the store: every checksum, every row's place, and what files say of each other. Changes
/// nothing. The result of the job is the report.
#[utoipa::path(
    post, path = "/v1/admin/verify", operation_id = "verify", tag = "server",
    params(WaitParams),
    request_body(content = Option<VerifyRequest>, description = "No body means as fast as it can"),
    responses(
        (status = 202, description = "Taken on", body = JobList,
            headers(("Location" = String, description = "Path of the job"))),
        (status = 200, description = "Finished, under `wait=true`", body = JobList),
        StartFailure,
    ),
)]
pub async fn verify(app: AppState, headers: HeaderMap, uri: Uri, body: Body) -> Outcome {
    let wait = wait(&headers, &uri)?;
    let request: VerifyRequest = body::json_or_default(&app, &headers, body).await?;
    let job = app.blocking(move |service| service.start_verify(request)).await?;
    started(&app, job, wait).await
}

/// Scrub
///
/// Verifies at a limited rate, and writes damaged or missing sidecars anew. Changes no data.
#[utoipa::path(
    post, path = "/v1/admin/scrub", operation_id = "scrub", tag = "server",
    params(WaitParams),
    request_body(content = Option<ScrubRequest>, description = "No body means 64 MiB a second"),
    responses(
        (status = 202, description = "Taken on", body = JobList,
            headers(("Location" = String, description = "Path of the job"))),
        (status = 200, description = "Finished, under `wait=true`", body = JobList),
        StartFailure,
    ),
)]
pub async fn scrub(app: AppState, headers: HeaderMap, uri: Uri, body: Body) -> Outcome {
    let wait = wait(&headers, &uri)?;
    let request: ScrubRequest = body::json_or_default(&app, &headers, body).await?;
    let job = app.blocking(move |service| service.start_scrub(request)).await?;
    started(&app, job, wait).await
}

/// Back up
///
/// Copies the whole store, as it is at one commit, into a directory below the one the configuration names for backups
/// (`store.backup_dir`), while everything goes on. A directory with an earlier backup of the store keeps what is the same.
#[utoipa::path(
    post, path = "/v1/admin/backup", operation_id = "backup", tag = "server",
    params(WaitParams),
    request_body(content = BackupRequest),
    responses(
        (status = 202, description = "Taken on", body = JobList,
            headers(("Location" = String, description = "Path of the job"))),
        (status = 200, description = "Finished, under `wait=true`", body = JobList),
        BackupFailure,
    ),
)]
pub async fn backup(app: AppState, headers: HeaderMap, uri: Uri, body: Body) -> Outcome {
    let wait = wait(&headers, &uri)?;
    let request: BackupRequest = body::json(&app, &headers, body).await?;
    let job = app.blocking(move |service| service.start_backup(request)).await?;
    started(&app, job, wait).await
}

/// Compact
///
/// Moves rows from the log into chunk files, deletes what retention no longer keeps, merges the chunks of each partition
/// into one and unlinks what nobody reads any more.
#[utoipa::path(
    post, path = "/v1/admin/compact", operation_id = "compact", tag = "server",
    params(WaitParams),
    request_body(content = Option<CompactRequest>, description = "No body means every series"),
    responses(
        (status = 202, description = "Taken on", body = JobList,
            headers(("Location" = String, description = "Path of the job"))),
        (status = 200, description = "Finished, under `wait=true`", body = JobList),
        AdminFailure,
    ),
)]
pub async fn compact(app: AppState, headers: HeaderMap, uri: Uri, body: Body) -> Outcome {
    let wait = wait(&headers, &uri)?;
    let request: CompactRequest = body::json_or_default(&app, &headers, body).await?;
    let job = app.blocking(move |service| service.start_compact(request)).await?;
    started(&app, job, wait).await
}

/// List jobs
///
/// The newest first, without their results; the last ones that finished are remembered until the server stops. A token
/// that is limited to some series sees the jobs it started, here and by their id.
#[utoipa::path(
    get, path = "/v1/admin/jobs", operation_id = "listJobs", tag = "server",
    responses((status = 200, description = "The jobs", body = JobList), AnyFailure),
)]
pub async fn list_jobs(app: AppState, headers: HeaderMap, uri: Uri) -> Outcome {
    Params::of::<NoParams>(&uri)?;
    let list = app.blocking(|service| service.list_jobs()).await?;
    Ok(reply::json_coded(&headers, &list, None)?)
}

/// Look at a job
///
/// How far it is, and its result once it is done.
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
/// One that waits fails at once, one that runs at its next step. What it did stays done.
#[utoipa::path(
    delete, path = "/v1/admin/jobs/{id}", operation_id = "cancelJob", tag = "server",
    params(("id" = String, Path, description = "Id of the job")),
    responses((status = 200, description = "Asked to stop", body = JobList), JobFailure),
)]
pub async fn cancel_job(app: AppState, JobPath(id): JobPath, headers: HeaderMap, uri: Uri) -> Outcome {
    Params::of::<NoParams>(&uri)?;
    idempotency::refuse(&headers)?;
    let job = app.blocking(move |service| service.cancel_job(&id)).await?;
    Ok(reply::json(StatusCode::OK, &JobList::from(job))?)
}

/// List orphans
///
/// Files of the data directory that the manifest does not name, each with why it may be there.
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
/// Partitions with more than one chunk: which chunks span the same times, which one wins there, and what compaction
/// would do.
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
/// The chunk files that hold a series now, for programs that read them without a server. `exact` says whether they are
/// the series and nothing else; `row_ranges` which of their rows belong to it in any case, and `rows_outside` how many rows
/// are in none of them yet. A later compaction writes other files and removes these.
#[utoipa::path(
    get, path = "/v1/admin/files", operation_id = "listFiles", tag = "server",
    params(FilesParams),
    responses((status = 200, description = "The files", body = FilesReply), FilesFailure),
)]
pub async fn files(app: AppState, headers: HeaderMap, uri: Uri) -> Outcome {
    let params = Params::of::<FilesParams>(&uri)?;
    let key = params.text("series").ok_or_else(|| {
        Error::invalid("parameter series is missing")
            .with_hint("series=kline/BTCUSDT/1m, a key as GET /v1/series lists it")
    })?;
    let request = FilesRequest { series: SeriesKey::parse(key)?, as_of: params.text("as_of").map(str::to_owned) };
    let (service, stop) = (Arc::clone(app.service()), CancelFlag::default());
    let (patience, stopping) = (service.limits().request_timeout, stop.clone());
    let reply = begin(false, patience, stopping, move || service.files(&request, &stop)).await?;
    Ok(reply::json_coded(&headers, &reply, None)?)
}

/// Whether the answer is to wait for the end of the job.
fn wait(headers: &HeaderMap, uri: &Uri) -> Outcome<bool> {
    idempotency::refuse(headers)?;
    Ok(Params::of::<WaitParams>(uri)?.flag("wait")?)
}

/// The answer to a job that was taken on: 202 at once, or 200 when it is finished. Whoever goes away meanwhile does not
/// end it.
pub async fn started(app: &AppState, mut job: Job, wait: bool) -> Outcome {
    while wait && !job.status.is_finished() {
        tokio::time::sleep(LOOK).await;
        job = app.service().look(&job)?;
    }
    let location = HeaderValue::from_str(&format!("/v1/admin/jobs/{}", job.id));
    let mut response = reply::json(if wait { StatusCode::OK } else { StatusCode::ACCEPTED }, &JobList::from(job))?;
    if let Ok(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}
