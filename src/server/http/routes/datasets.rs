//! Datasets: create, list, describe, change the status, lineage.

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, Uri};

use super::records::{self, filter, with_location};
use super::{AppState, Outcome};
use crate::registry::RecordKind;
use crate::server::http::extract::{RecordPath, RecordVersionPath};
use crate::server::http::openapi::{CreateDatasetFailure, DatasetFailure, DatasetStatusFailure, RecordsFailure};
use crate::server::http::params::{DatasetParams, NoParams, Params, VersionParams};
use crate::server::http::{body, idempotency, reply};
use crate::service::{Dataset, DatasetPage, DatasetSpec, LineageReply, RecordPatch, Scope};

/// Create a dataset
///
/// Creates the next version of the name: its members at a snapshot, with a checksum over every row. Responds when all
/// rows are read. Later only the status can change.
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
    idempotency::reject_for_new_version(&headers)?;
    app.service().caller().require_scope(Scope::Write)?;
    let spec: DatasetSpec = body::record(&app, &headers, body).await?;
    let created = app.blocking_without_timeout(move |service| service.create_dataset(&spec)).await?;
    Ok(with_location(reply::json(StatusCode::CREATED, &created)?, &created.dataset))
}

/// List datasets
///
/// Ordered by name and version, in pages, without members.
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

/// Get the latest version of a dataset
///
/// The highest version that is not archived; the highest if all are.
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
/// Ordered by number, in pages, without members.
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

/// Get a version of a dataset
///
/// Includes the members.
#[utoipa::path(
    get, path = "/v1/datasets/{name}/versions/{version}", operation_id = "getDatasetVersion", tag = "registry",
    params(
        ("name" = String, Path, description = "Name", example = "btc-minutes"),
        ("version" = String, Path, description = "Version, or `latest`: the highest that is not archived", example = "1"),
    ),
    responses((status = 200, description = "The dataset", body = Dataset), DatasetFailure),
)]
pub async fn get_dataset_version(app: AppState, path: RecordVersionPath, headers: HeaderMap, uri: Uri) -> Outcome {
    Params::of::<NoParams>(&uri)?;
    let found = app.blocking(move |service| service.dataset(&path.name, path.version)).await?;
    Ok(reply::json_coded(&headers, &found, None)?)
}

/// Change the status of a dataset
///
/// Archiving drops the snapshot that the dataset owns, which requires the scope to drop one; the dataset can then no
/// longer be read.
#[utoipa::path(
    patch, path = "/v1/datasets/{name}/versions/{version}", operation_id = "changeDataset", tag = "registry",
    params(
        ("name" = String, Path, description = "Name", example = "btc-minutes"),
        ("version" = String, Path, description = "Version, or `latest`: the highest that is not archived", example = "1"),
    ),
    request_body = RecordPatch,
    responses((status = 200, description = "Changed", body = Dataset), DatasetStatusFailure),
)]
pub async fn change_dataset(
    app: AppState,
    path: RecordVersionPath,
    headers: HeaderMap,
    uri: Uri,
    body: Body,
) -> Outcome {
    let status = records::patch(&app, &headers, &uri, body).await?.status;
    let changed = app.blocking(move |service| service.set_dataset_status(&path.name, path.version, status)).await?;
    Ok(reply::json(StatusCode::OK, &changed)?)
}

/// Lineage of a dataset
///
/// Its ancestors and descendants over any number of steps, at most 1,000 records in each direction.
#[utoipa::path(
    get, path = "/v1/datasets/{name}/versions/{version}/lineage", operation_id = "getDatasetLineage", tag = "registry",
    params(
        ("name" = String, Path, description = "Name", example = "btc-minutes"),
        ("version" = String, Path, description = "Version, or `latest`: the highest that is not archived", example = "1"),
    ),
    responses((status = 200, description = "The lineage", body = LineageReply), DatasetFailure),
)]
pub async fn dataset_lineage(app: AppState, path: RecordVersionPath, headers: HeaderMap, uri: Uri) -> Outcome {
    records::lineage(app, RecordKind::Dataset, path, headers, uri).await
}
