//! Handlers shared by the routes of datasets, features and factors.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::Response;

use super::{AppState, Outcome};
use crate::error::Result;
use crate::registry::{RecordKind, RecordRef};
use crate::server::http::extract::{RecordPath, RecordVersionPath};
use crate::server::http::params::{DefinitionParams, NoParams, Params, RouteParams, VersionParams};
use crate::server::http::{body, idempotency, reply};
use crate::service::{DefinitionSpec, RecordFilter, RecordPatch, Scope};
use crate::types::SeriesKey;

/// Parses the filter of a list.
pub fn filter<P: RouteParams>(uri: &Uri) -> Result<RecordFilter> {
    let params = Params::of::<P>(uri)?;
    let text = |name: &str| params.text(name).map(String::from);
    Ok(RecordFilter {
        name: text("name"),
        status: params.text("status").map(str::parse).transpose()?,
        source: text("source"),
        market: text("market"),
        series: params.text("series").map(SeriesKey::parse).transpose()?,
        derived_from: params.text("derived_from").map(str::parse).transpose()?,
        limit: params.count("limit")?,
        cursor: text("cursor"),
    })
}

/// Adds the `Location` of a record.
pub fn with_location(mut response: Response, record: &RecordRef) -> Response {
    let path = format!("/v1/{}s/{}/versions/{}", record.kind.name(), record.name, record.version);
    if let Ok(location) = HeaderValue::from_str(&path) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// Parses the body of a status change.
pub async fn patch(app: &AppState, headers: &HeaderMap, uri: &Uri, body: Body) -> Result<RecordPatch> {
    Params::of::<NoParams>(uri)?;
    idempotency::reject(headers)?;
    body::json(app, headers, body).await
}

pub async fn define(app: AppState, kind: RecordKind, headers: HeaderMap, uri: Uri, body: Body) -> Outcome {
    Params::of::<NoParams>(&uri)?;
    idempotency::reject(&headers)?;
    app.service().caller().require_scope(Scope::Write)?;
    let spec: DefinitionSpec = body::record(&app, &headers, body).await?;
    let defined = app.blocking(move |service| service.define(kind, &spec)).await?;
    let status = if defined.created { StatusCode::CREATED } else { StatusCode::OK };
    Ok(with_location(reply::json(status, &defined)?, &defined.definition.reference))
}

pub async fn list(app: AppState, kind: RecordKind, headers: HeaderMap, uri: Uri) -> Outcome {
    let filter = filter::<DefinitionParams>(&uri)?;
    let page = app.blocking(move |service| service.definitions(kind, &filter)).await?;
    Ok(reply::json_coded(&headers, &page, None)?)
}

pub async fn get(app: AppState, kind: RecordKind, path: RecordVersionPath, headers: HeaderMap, uri: Uri) -> Outcome {
    Params::of::<NoParams>(&uri)?;
    let found = app.blocking(move |service| service.definition(kind, &path.name, path.version)).await?;
    Ok(reply::json_coded(&headers, &found, None)?)
}

pub async fn versions(app: AppState, kind: RecordKind, path: RecordPath, headers: HeaderMap, uri: Uri) -> Outcome {
    let filter = filter::<VersionParams>(&uri)?;
    let page = app.blocking(move |service| service.definition_versions(kind, &path.0, &filter)).await?;
    Ok(reply::json_coded(&headers, &page, None)?)
}

pub async fn change(
    app: AppState,
    kind: RecordKind,
    path: RecordVersionPath,
    headers: HeaderMap,
    uri: Uri,
    body: Body,
) -> Outcome {
    let status = patch(&app, &headers, &uri, body).await?.status;
    let change =
        move |service: &crate::service::Service| service.set_definition_status(kind, &path.name, path.version, status);
    Ok(reply::json(StatusCode::OK, &app.blocking(change).await?)?)
}

pub async fn lineage(
    app: AppState,
    kind: RecordKind,
    path: RecordVersionPath,
    headers: HeaderMap,
    uri: Uri,
) -> Outcome {
    Params::of::<NoParams>(&uri)?;
    let found = app.blocking(move |service| service.lineage(kind, &path.name, path.version)).await?;
    Ok(reply::json_coded(&headers, &found, None)?)
}
