//! The server itself: inventory, health, metrics and documentation.

use std::sync::OnceLock;

use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::IntoResponse;

use super::series::filter;
use super::{AppState, Outcome};
use crate::server::http::content_encoding::ResponseCoding;
use crate::server::http::etag::{is_known, not_modified};
use crate::server::http::openapi::{AnyFailure, HealthFailure, PublicFailure};
use crate::server::http::params::{InventoryParams, NoParams, Params};
use crate::server::http::{openapi_json, reply};
use crate::service::{Health, HealthStatus, Inventory, StatusReply};

/// Inventory
///
/// Totals, and one row per series.
#[utoipa::path(
    get, path = "/inventory", operation_id = "getInventory", tag = "server",
    params(
        InventoryParams,
        ("If-None-Match" = Option<String>, Header, description = "Entity tags of cached responses"),
    ),
    responses(
        (status = 200, description = "The inventory", body = Inventory, headers(("ETag" = String))),
        (status = 304, description = "Not modified"),
        AnyFailure,
    ),
)]
pub async fn inventory(app: AppState, headers: HeaderMap, uri: Uri) -> Outcome {
    let filter = filter::<InventoryParams>(&uri)?;
    let coding = ResponseCoding::of(&headers);
    // The tag is computed first: if the store changes in between it is outdated, which only costs a request.
    let stem = app.blocking(|service| service.inventory_etag()).await?;
    let tag = format!("\"{stem}{}\"", coding.suffix());
    if is_known(&headers, &tag) {
        return Ok(not_modified(&tag));
    }
    let inventory = app.blocking(move |service| service.inventory(&filter)).await?;
    Ok(reply::json_coded(&headers, &inventory, Some(&tag))?)
}

/// Health
///
/// The health checks; 503 when the server is failing.
#[utoipa::path(
    get, path = "/health", operation_id = "getHealth", tag = "server",
    responses(
        (status = 200, description = "Healthy, or degraded with the reason", body = Health),
        (status = 503, description = "Failing, with the reason", body = Health),
        HealthFailure,
    ),
)]
pub async fn health(app: AppState, uri: Uri) -> Outcome {
    Params::of::<NoParams>(&uri)?;
    let health = app.blocking(|service| service.health()).await?;
    Ok(reply::json(status_of(health.status), &health)?)
}

fn status_of(status: HealthStatus) -> StatusCode {
    match status {
        HealthStatus::Ok | HealthStatus::Degraded => StatusCode::OK,
        HealthStatus::Failing => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// Liveness
///
/// Responds as long as the process runs.
#[utoipa::path(
    get, path = "/health/live", operation_id = "getLiveness", tag = "server", security(()),
    responses((status = 200, description = "Alive", body = StatusReply), PublicFailure),
)]
pub async fn live(uri: Uri) -> Outcome {
    Params::of::<NoParams>(&uri)?;
    Ok(reply::json(StatusCode::OK, &StatusReply::OK)?)
}

/// Readiness
///
/// 503 when requests would fail: while the store is being opened (the detail has the progress), while the server shuts
/// down, and when it is failing. `writer_stopped` is true when writes are rejected until the store is opened again.
#[utoipa::path(
    get, path = "/health/ready", operation_id = "getReadiness", tag = "server", security(()),
    responses(
        (status = 200, description = "Ready", body = StatusReply),
        (status = 503, description = "Not ready", body = StatusReply),
        PublicFailure,
    ),
)]
pub async fn ready(app: AppState, uri: Uri) -> Outcome {
    Params::of::<NoParams>(&uri)?;
    app.service().check_ready()?;
    let ready = app.blocking(|service| service.readiness()).await?;
    Ok(reply::json(status_of(ready.status), &ready)?)
}

/// Metrics
///
/// Metrics in the text format of Prometheus; symbols are never labels.
#[utoipa::path(
    get, path = "/metrics", operation_id = "getMetrics", tag = "server",
    responses((status = 200, description = "Metrics", body = String, content_type = "text/plain"), AnyFailure),
)]
pub async fn metrics(app: AppState, uri: Uri) -> Outcome {
    Params::of::<NoParams>(&uri)?;
    let text = app.blocking(crate::server::metrics::render).await?;
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static(crate::server::metrics::TEXT))], text).into_response())
}

/// This document
#[utoipa::path(
    get, path = "/openapi.json", operation_id = "getOpenapi", tag = "server", security(()),
    responses((status = 200, description = "The OpenAPI document", body = serde_json::Value), PublicFailure),
)]
pub async fn openapi(uri: Uri) -> Outcome {
    static TEXT: OnceLock<String> = OnceLock::new();
    Params::of::<NoParams>(&uri)?;
    let text: &'static str = TEXT.get_or_init(openapi_json);
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], text).into_response())
}
