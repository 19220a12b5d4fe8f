//! Named snapshots: create, list, drop.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use serde::Deserialize;
use utoipa::ToSchema;

use super::series::encoded;
use super::{AppState, Outcome};
use crate::server::http::extract::SnapshotPath;
use crate::server::http::openapi::{AnyFailure, CreateSnapshotFailure, DropSnapshotFailure};
use crate::server::http::params::{NoParams, Params};
use crate::server::http::{body, idempotency, reply};
use crate::service::{SnapshotDropped, SnapshotInfo, SnapshotList};

/// A snapshot to create.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotSpec {
    /// 1 to 64 characters: ASCII letters, digits and `. _ - : @ + = ^ $ &`, not starting with a dot.
    #[schema(example = "before-repair")]
    name: String,
}

/// Create a snapshot
///
/// Creates a named snapshot of the current commit, for `as_of`. It stays readable until it is dropped, regardless of
/// writes, deletes and compactions.
#[utoipa::path(
    post, path = "/v1/snapshots", operation_id = "createSnapshot", tag = "snapshots",
    request_body = SnapshotSpec,
    responses(
        (status = 201, description = "Created", body = SnapshotInfo,
            headers(("Location" = String, description = "Path of the snapshot"))),
        CreateSnapshotFailure,
    ),
)]
pub async fn create_snapshot(app: AppState, headers: HeaderMap, uri: Uri, body: Body) -> Outcome {
    Params::of::<NoParams>(&uri)?;
    idempotency::reject(&headers)?;
    let spec: SnapshotSpec = body::json(&app, &headers, body).await?;
    let created = app.blocking(move |service| service.create_snapshot(&spec.name)).await?;
    let mut response = reply::json(StatusCode::CREATED, &created)?;
    if let Ok(location) = HeaderValue::from_str(&format!("/v1/snapshots/{}", encoded(&created.name))) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// List snapshots
///
/// All snapshots, ordered by name.
#[utoipa::path(
    get, path = "/v1/snapshots", operation_id = "listSnapshots", tag = "snapshots",
    responses((status = 200, description = "The snapshots", body = SnapshotList), AnyFailure),
)]
pub async fn list_snapshots(app: AppState, headers: HeaderMap, uri: Uri) -> Outcome {
    Params::of::<NoParams>(&uri)?;
    let list = app.blocking(|service| service.snapshots()).await?;
    Ok(reply::json_coded(&headers, &list, None)?)
}

/// Drop a snapshot
///
/// Data visible only in this snapshot is removed by maintenance.
#[utoipa::path(
    delete, path = "/v1/snapshots/{name}", operation_id = "dropSnapshot", tag = "snapshots",
    params(("name" = String, Path, description = "Name")),
    responses((status = 200, description = "Dropped", body = SnapshotDropped), DropSnapshotFailure),
)]
pub async fn drop_snapshot(app: AppState, SnapshotPath(name): SnapshotPath, headers: HeaderMap, uri: Uri) -> Outcome {
    Params::of::<NoParams>(&uri)?;
    idempotency::reject(&headers)?;
    let dropped = app.blocking(move |service| service.drop_snapshot(&name)).await?;
    Ok(reply::json(StatusCode::OK, &dropped)?)
}
