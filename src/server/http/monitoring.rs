//! Liveness and metrics, which are not JSON operations of the service.

use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::IntoResponse;

use super::params::{NoParams, Params};
use super::problem::HandlerResult;
use super::reply;
use super::state::AppState;
use crate::server::metrics;
use crate::service::StatusReply;

/// Responds as long as the process runs.
pub async fn live(uri: Uri) -> HandlerResult {
    Params::of::<NoParams>(&uri)?;
    Ok(reply::json(StatusCode::OK, &StatusReply::OK)?)
}

/// Metrics in the text format of Prometheus.
pub async fn scrape(app: AppState, uri: Uri) -> HandlerResult {
    Params::of::<NoParams>(&uri)?;
    let text = app.blocking(metrics::render).await?;
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static(metrics::TEXT))], text).into_response())
}
