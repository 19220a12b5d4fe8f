//! Datasets: create, list, look at, change the status of, lineage.

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, Uri};

use super::records::{self, filter, located};
use super::{AppState, Outcome};
use crate::registry::RecordKind;
use crate::server::http::extract::{RecordPath, RecordVersionPath};
use crate::server::http::openapi::{CreateDatasetFailure, DatasetFailure, DatasetStatusFailure, RecordsFailure};
use crate::server::http::params::{DatasetParams, NoParams, Params, VersionParams};
use crate::server::http::{body, idempotency, reply};
use crate::service::{Dataset, DatasetPage, DatasetSpec, LineageReply, RecordPatch, Scope};

/// Create a dataset
///
/// The next version of the name: its members as a snapshot shows them, with a checksum over every row. Answers when all
/// rows were read. Nothing of it changes later but its status.
#[utoipa::path(
    post, path = "/v1/datasets", operation_id = "createDataset", tag = "registry",
    request_body = DatasetSpec,
    responses(
        (status = 201, description = "Created", body = Dataset,
            headers(("Location" = String, description = "Path of the version"))),
        CreateDatasetFailure,
    ),
)]
pub async fn create_dataset(app: AppState, headers: HeaderMap, uri: Uri, body: Body) -> Outcome {
    Params::of::<NoParams>(&uri)?;
    idempotency::refuse_new(&headers)?;
    app.service().caller().may(Scope::Write)?;
    let spec: DatasetSpec = body::record(&app, &headers, body).await?;
    let created = app.to_the_end(move |service| service.create_dataset(&spec)).await?;
    Ok(located(reply::json(StatusCode::CREATED, &created)?, &created.dataset))
}

/// List datasets
///
/// By name and version, in pages, without their members.
#[utoipa::path(
    get, path = "/v1/datasets", operation_id = "listDatasets", tag = "registry",
    params(DatasetParams),
    responses((status = 200, description = "A page of datasets", body = DatasetPage), RecordsFailure),
)]
pub async fn list_datasets(app: AppState, headers: HeaderMap, uri: Uri) -> Outcome {
    let filter = filter::<DatasetParams>(&uri)?;
    let page = app.blocking(move |service| service.datasets(&filter)).await?;
    Ok(reply::json_coded(&headers, &page, None)?)
}

/// Look at the latest version of a dataset
///
/// The highest that is not archived; the highest where all are.
#[utoipa::path(
    get, path = "/v1/datasets/{name}", operation_id = "getDataset", tag = "registry",
    params(("name" = String, Path, description = "Name", example = "btc-minutes")),
    responses((status = 200, description = "The dataset", body = Dataset), DatasetFailure),
)]
pub async fn get_dataset(app: AppState, RecordPath(name): RecordPath, headers: HeaderMap, uri: Uri) -> Outcome {
    get_dataset_version(app, RecordVersionPath { name, version: None }, headers, uri).await
}

/// List the versions of a dataset
///
/// By number, in pages, without their members.
#[utoipa::path(
    get, path = "/v1/datasets/{name}/versions", operation_id = "listDatasetVersions", tag = "registry",
    params(("name" = String, Path, description = "Name", example = "btc-minutes"), VersionParams),
    responses((status = 200, description = "A page of versions", body = DatasetPage), DatasetFailure),
)]
pub async fn list_dataset_versions(
    app: AppState,
    RecordPath(name): RecordPath,
    headers: HeaderMap,
    uri: Uri,
) -> Outcome {
    let filter = filter::<VersionParams>(&uri)?;
    let page = app.blocking(move |service| service.dataset_versions(&name, &filter)).await?;
    Ok(reply::json_coded(&headers, &page, None)?)
}

/// Look at a version of a dataset
///
/// With its members.
#[utoipa::path(
    get, path = "/v1/datasets/{name}/versions/{version}", operation_id = "getDatasetVersion", tag = "registry",
    params(
        ("name" = String, Path, description = "Name", example = "btc-minutes"),
        ("version" = String, Path, description = "Version, or `latest`: the highest that is not archived", example = "1"),
    ),
    responses((status = 200, description = "The dataset", body = Dataset), DatasetFailure),
)]
pub async fn get_dataset_version(app: AppState, of: RecordVersionPath, headers: HeaderMap, uri: Uri) -> Outcome {
    Params::of::<NoParams>(&uri)?;
    let found = app.blocking(move |service| service.dataset(&of.name, of.version)).await?;
    Ok(reply::json_coded(&headers, &found, None)?)
}

/// Change the status of a dataset
///
/// An archived dataset gives its own snapshot back, which needs the scope of dropping one, and can no longer be read.
#[utoipa::path(
    patch, path = "/v1/datasets/{name}/versions/{version}", operation_id = "changeDataset", tag = "registry",
    params(
        ("name" = String, Path, description = "Name", example = "btc-minutes"),
        ("version" = String, Path, description = "Version, or `latest`: the highest that is not archived", example = "1"),
    ),
    request_body = RecordPatch,
    responses((status = 200, description = "Changed", body = Dataset), DatasetStatusFailure),
)]
pub async fn change_dataset(app: AppState, of: RecordVersionPath, headers: HeaderMap, uri: Uri, body: Body) -> Outcome {
    let status = records::patch(&app, &headers, &uri, body).await?.status;
    let changed = app.blocking(move |service| service.set_dataset_status(&of.name, of.version, status)).await?;
    Ok(reply::json(StatusCode::OK, &changed)?)
}

/// Lineage of a dataset
///
/// What it was made from and what was made from it, over any number of steps, 1,000 records each way at most.
#[utoipa::path(
    get, path = "/v1/datasets/{name}/versions/{version}/lineage", operation_id = "getDatasetLineage", tag = "registry",
    params(
        ("name" = String, Path, description = "Name", example = "btc-minutes"),
        ("version" = String, Path, description = "Version, or `latest`: the highest that is not archived", example = "1"),
    ),
    responses((status = 200, description = "The lineage", body = LineageReply), DatasetFailure),
)]
pub async fn dataset_lineage(app: AppState, of: RecordVersionPath, headers: HeaderMap, uri: Uri) -> Outcome {
    records::lineage(app, RecordKind::Dataset, of, headers, uri).await
}
